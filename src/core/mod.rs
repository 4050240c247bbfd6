//! The deterministic core: every decision of the mesh, and nothing that waits.
//!
//! `core` reads no clock, asks for no randomness, opens no file or socket and starts no thread. It is
//! told the time and seeded once, and it uses ordered collections only, so the same seed and the same
//! inputs give the same outputs, byte for byte. The simulator (`crate::sim`) and the real driver
//! (`crate::node::driver`) run the very same code.
//!
//! The ground floor is `ids`, `time`, `limits`, `model`, `wire`, `error` and `contract`: plain values.
//! A room above it uses the ground floor and its own children, never a sibling; `mesh` wires the rooms.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod contract;
mod coordinates;
pub mod error;
pub mod ids;
pub mod layout;
pub mod limits;
mod links;
mod membership;
pub mod mesh;
pub mod model;
pub mod outbox;
pub mod partition;
pub mod permits;
pub mod placement;
pub mod queue;
pub mod register;
mod registry;
pub mod state;
mod supervision;
pub mod time;
mod trust;
pub mod wire;
