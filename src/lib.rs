//! Shoal: a peer-to-peer mesh for agents. One binary on each machine; nodes find each other and notice
//! failures by SWIM gossip over QUIC with mutual TLS, and carry messages to agents wherever they run. No
//! broker, no database server, no control plane.
//!
//! # The map of the house
//!
//! Decide in [`core`], act in [`node`].
//!
//! - [`core`]: the whole protocol state of one node as a synchronous, deterministic state machine,
//!   [`core::mesh::Mesh`]. It is told the time and given inputs, and leaves what it wants done in a queue.
//!   It builds without the rest (`--no-default-features`).
//! - [`sim`]: drives the very same core under virtual time over a simulated network, from one seed.
//! - `node`: the shell around the core, and the only code that awaits, sleeps, reads or writes: the loop
//!   (`driver`), connections (`transport`), disk (`store`), agents (`runtime`: built in, processes, WebAssembly
//!   components with the feature `wasm`), and the path of messages (`dispatch`), which takes no core step at all.
//! - `api`: HTTP on top of `node::Handle`, with types of its own.
//! - `client`: the other end of that, for programs that use a mesh: `shoal::Client`.
//! - `cli`: the command line; a client of the API, except for the command that runs a node.
//!
//! Imports go downwards only; `tests/tidy.rs` holds the table.
//!
//! # Two planes
//!
//! Membership, agents and requests between nodes go through the core, one step each. Messages between
//! agents do not: a sender reads a published routing snapshot and writes a frame on a long-lived stream;
//! the node at the other end hands it to the agent on the task that read it.
//!
//! # What always holds
//!
//! 1. The same seed and inputs give the same outputs, byte for byte.
//! 2. The core's memory never runs ahead of the disk: what must be durable is applied when it is.
//! 3. SWIM never waits for the disk: a whole block of incarnations is durable before the first packet.
//! 4. A node's name is the one in its certificate: a link, a SWIM packet and a record of its own that say
//!    another are refused, and nothing of a peer is read before its hello was checked and accepted.
//! 5. Every queue, map, frame and retry has a bound, by name, in [`core::limits`].
//! 6. A message is delivered at most once unless its sender wants it at least once, and one that cannot be delivered is an
//!    error with its reason, or a dead letter with it.

#[cfg(feature = "node")]
pub mod api;
#[cfg(feature = "node")]
pub mod cli;
#[cfg(feature = "node")]
pub mod client;
pub mod core;
#[cfg(feature = "node")]
pub mod node;
pub mod sim;

#[cfg(feature = "node")]
pub use client::{Client, ClientError};
