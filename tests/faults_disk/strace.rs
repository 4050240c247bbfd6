//! A disk that fails on command: the system calls of a running process are answered otherwise, or later, by `strace`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// What is done to a process; it ends with the value.
pub(super) struct Trouble {
    strace: Child,
    log: PathBuf,
    _dir: TempDir,
}

impl Trouble {
    /// From now on the calls `calls` of the process, those about `file` alone if one is named, are tampered with:
    /// `how` as in `strace -e inject=CALLS:HOW`.
    pub(super) fn with(pid: u32, file: Option<&Path>, calls: &str, how: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("calls");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{how}")]);
        strace.arg("-o").arg(&log).args(["-p", &pid.to_string()]);
        if let Some(file) = file {
            strace.arg("-P").arg(file);
        }
        let strace = strace.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut strace = strace.expect("`strace` is installed (Debian: strace)");
        let mut told = BufReader::new(strace.stderr.take().expect("piped")).lines().map_while(Result::ok);
        // The first line says that it has all threads; later ones tell of new threads, and are read away.
        let said = told.next().unwrap_or_default();
        assert!(said.contains(" attached"), "it needs root, or the right to trace: {said}");
        std::thread::spawn(move || told.for_each(drop));
        Self { strace, log, _dir: dir }
    }

    /// How many calls it has tampered with so far.
    pub(super) fn times(&self) -> usize {
        let calls = std::fs::read_to_string(&self.log).unwrap_or_default();
        calls.matches("(INJECTED)").count() + calls.matches("(DELAYED)").count()
    }

    /// Leaves the process alone again; how many calls were tampered with.
    pub(super) fn end(mut self) -> usize {
        self.stop();
        self.times()
    }

    fn stop(&mut self) {
        if matches!(self.strace.try_wait(), Ok(None)) {
            let pid = self.strace.id().to_string();
            let _ = Command::new("kill").args(["-s", "TERM", &pid]).status();
            let _ = self.strace.wait();
        }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.stop();
    }
}
