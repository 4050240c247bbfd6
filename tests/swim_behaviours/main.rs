//! What a SWIM membership must do, in whole meshes under virtual time: one test for each row of
//! `docs/swim-behaviours.md` that needs more than one node to show itself, named by the row's number.
//!
//! What one node shows is tested in `src/core/membership/tests`.

mod frames;
mod gaps;
mod joining;
mod leaving;
mod living;
mod storms;
mod worlds;
