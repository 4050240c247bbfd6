//! What the integration tests share.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod mesh;
