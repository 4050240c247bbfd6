//! The shell: the only code that awaits, sleeps, reads or writes.

pub mod config;
pub mod certs;
pub mod runtime;
pub mod transport;
pub mod store;
