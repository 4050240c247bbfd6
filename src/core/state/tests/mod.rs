//! The state against a reference that knows only sets: [`reference`] remembers of every write which ones it has
//! seen, and says from a node's clock alone what must be read there. [`world`] drives a few nodes with disks.

mod apart;
mod bounds;
mod laws;
mod mutations;
mod reference;
mod world;
