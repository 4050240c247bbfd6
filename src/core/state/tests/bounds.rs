//! What is refused, and that a refusal changes nothing.
