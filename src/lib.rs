//! Shoal: a peer-to-peer mesh for agents.

#[cfg(feature = "node")]
pub mod cli;
pub mod core;
#[cfg(feature = "node")]
pub mod node;
pub mod sim;
