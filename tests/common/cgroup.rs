//! Groups of processes with a bound that the kernel keeps: memory, or the number of tasks. Needs root and cgroups, of
//! either version; without them a test fails and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static GROUPS: AtomicU32 = AtomicU32::new(0);

/// A group; it goes with the value, once its processes have.
pub struct Group {
    path: PathBuf,
    /// Whether it is one of version 1, with a tree for each kind of bound.
    is_first: bool,
}

impl Group {
    /// A group without any bound yet, for bounds of that kind: `memory` or `pids`.
    pub fn new(controller: &str) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let tree = root.join(controller);
        let is_first = tree.join("cgroup.procs").exists();
        let name = format!("shoal-test-{}-{}", std::process::id(), GROUPS.fetch_add(1, Ordering::Relaxed));
        if !is_first {
            write(&root.join("cgroup.subtree_control"), &format!("+{controller}"));
        }
        let path = if is_first { tree } else { root.to_owned() }.join(name);
        fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("{path:?}: {error}; this test needs root and cgroups"));
        Self { path, is_first }
    }

    /// Takes a process with all its threads in, and what it starts from now on.
    pub fn take(&self, pid: u32) {
        write(&self.path.join("cgroup.procs"), &pid.to_string());
    }

    /// Bounds the bytes of memory of all of them together.
    pub fn bound_memory(&self, bytes: u64) {
        let file = if self.is_first { "memory.limit_in_bytes" } else { "memory.max" };
        write(&self.path.join(file), &bytes.to_string());
    }

    /// Bounds their tasks, which are processes and threads, to as many as there are and some more.
    pub fn bound_tasks(&self, more: u64) {
        let there: u64 = self.read("pids.current").trim().parse().expect("a number");
        write(&self.path.join("pids.max"), &(there + more).to_string());
    }

    /// Any number of tasks again.
    pub fn free_tasks(&self) {
        write(&self.path.join("pids.max"), "max");
    }

    /// How often a task was refused.
    pub fn tasks_refused(&self) -> u64 {
        count(&self.read("pids.events"), "max")
    }

    /// How many processes were killed for their memory.
    pub fn killed_for_memory(&self) -> u64 {
        count(&self.read(if self.is_first { "memory.oom_control" } else { "memory.events" }), "oom_kill")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// The number that follows a word of its own line.
fn count(text: &str, word: &str) -> u64 {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    let number = pairs.find(|(name, _)| *name == word).map(|(_, number)| number.trim());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {word} in {text}"))
}

fn write(file: &Path, text: &str) {
    let done = fs::write(file, text);
    done.unwrap_or_else(|error| panic!("{file:?}: {error}; this test needs root and cgroups"));
}
