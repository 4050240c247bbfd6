//! What a process takes of its machine.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// CPU time in milliseconds and resident bytes of a process, without those of processes that it has started.
pub(super) fn of(pid: u32) -> Option<(u64, u64)> {
    let mut system = System::new().ok()?;
    let pid = Pid::from_u32(pid);
    let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
    let process = system.process(pid)?;
    Some((process.accumulated_cpu_time(), process.memory()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something_and_one_that_is_not_there_nothing() {
        let (_, bytes) = of(std::process::id()).expect("it runs");
        assert!(bytes > 1 << 20, "{bytes}");
        assert_eq!(of(u32::MAX >> 1), None);
    }
}
