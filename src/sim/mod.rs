//! The simulator: whole meshes under virtual time, driving the very core that the node runs.
//!
//! Everything that happens comes from one seed: latencies, losses, faults, the cores' own randomness.
//! The same seed gives the same run, byte for byte ([`report::Report::digest`] is its proof), so a seed
//! that breaks an invariant is a bug report.
//!
//! - `machine`: what outlives a process (its disk) and what does not
//! - `config`: what a world is made from
//! - `paths`: what lies between two machines
//! - `net`: links, handshakes, datagrams and ordered frames over paths that lose, delay and cut
//! - `regions`: which machine is in which region, and how far those are from each other
//! - `world`: the one event queue, and what a driver does with the core's outputs
//! - `runtime`: agents that start and end, and the keepers of exclusive ones
//! - `faults`: what can be done to a mesh, by hand or by a seeded schedule
//! - `checkers`: what must hold after every step, and what must hold at rest
//! - `shared`: what must hold of the state that the nodes share
//! - `ledger`: every write that was made, and what must stand where some of them are known
//! - `workload`: clients that read and write at every node
//! - `storms`: seeded schedules of faults for meshes that are written to
//! - `disks`: disks that fill up, are slow, fail at the worst moment or are older than they say
//! - `alarm`: an ERROR in the log fails the run
//! - `report`: what happened, in figures
//! - `mutations`: the tests of the checkers: meshes whose nodes all break one rule
//! - `scenario`: a run as a person asks for it, told as text
//!
//! It does not model bandwidth, congestion, processing time or disks that lie about durability.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod alarm;
mod answers;
mod checkers;
mod config;
mod disks;
mod faults;
mod ledger;
mod letters;
mod machine;
#[cfg(test)]
mod mutations;
mod net;
mod paths;
mod regions;
mod report;
mod runtime;
mod scenario;
mod shared;
mod storms;
mod workload;
mod world;

pub use self::config::Config;
pub use self::faults::{Fault, Schedule};
pub use self::machine::Disk;
pub use self::net::Network;
pub use self::regions::Regions;
pub use self::report::{Report, StatusChange, percentile};
pub use self::scenario::{Cut, Scenario, Verdict};
pub use self::workload::Workload;
pub use self::world::World;
