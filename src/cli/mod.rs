//! The command line.

pub mod keeper;
pub mod sample;
