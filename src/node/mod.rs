//! The shell: the only code that awaits, sleeps, reads or writes.

pub mod runtime;
pub mod store;
