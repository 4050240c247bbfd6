//! Bounds of what a process agent may be given by its manifest.

/// The fewest open files that a manifest may say: the standard three, and what a runtime needs to begin.
pub const CONFINED_FILES_MIN: u64 = 16;
/// The most that it may say. More: the deploy is refused.
pub const CONFINED_FILES_MAX: u64 = 65_536;
/// The least address space, in bytes, that a manifest may say: less starts no program that has a runtime.
pub const CONFINED_MEMORY_BYTES_MIN: u64 = 16 << 20;
/// The most that it may say. More: the deploy is refused.
pub const CONFINED_MEMORY_BYTES_MAX: u64 = 1 << 40;
/// The most processes and threads that a manifest may say. More: the deploy is refused.
pub const CONFINED_PROCESSES_MAX: u64 = 32_768;
