//! Version 1 of the protocol: its recorded bytes, what they say, and how it read them.

#![allow(dead_code, unreachable_pub, missing_debug_implementations, reason = "each test uses a part of it")]

pub mod mirror;
pub mod samples;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wire-v1")
}

/// The bytes of that name.
pub fn recorded(name: &str) -> Vec<u8> {
    let path = folder().join(format!("{name}.hex"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: String = text.split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The names of all that is recorded.
pub fn names() -> BTreeSet<String> {
    let files = fs::read_dir(folder()).expect("readable").map(|entry| entry.expect("readable").path());
    let hex = files.filter(|path| path.extension().is_some_and(|e| e == "hex"));
    hex.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect()
}
