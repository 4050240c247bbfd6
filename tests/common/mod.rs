//! What the integration tests share.

#![allow(
    clippy::print_stderr,
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "each test program uses a part of it"
)]

pub mod cgroup;
pub mod ends;
pub mod mesh;
pub mod netns;
pub mod proxy;
pub mod raw;
