//! What a plan orders, case by case.
