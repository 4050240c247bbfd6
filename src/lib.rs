//! Shoal: a peer-to-peer mesh for agents.

pub mod core;
#[cfg(feature = "node")]
pub mod cli;
#[cfg(feature = "node")]
pub mod node;
pub mod sim;
