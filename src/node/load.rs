//! Measures the machine and this process, and tells the core and the metrics.

use std::time::Duration;

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::transport::Transport;
use crate::core::contract::{Input, View};
use crate::core::model::Load;

/// The first measurement is soon, so that a new node shows figures; CPU use needs two readings.
const FIRST_AFTER: Duration = Duration::from_millis(500);
const INTERVAL: Duration = Duration::from_secs(5);

/// Measures until the driver is gone.
pub(super) async fn sample(
    core: mpsc::Sender<Input>,
    transport: Transport,
    view: impl Fn() -> std::sync::Arc<View>,
) {
    let mut system = match System::new() {
        Ok(system) => system,
        Err(error) => {
            tracing::warn!(%error, "this machine's load cannot be measured: it is shown as `-`");
            return;
        }
    };
    let pid = Pid::from_u32(std::process::id());
    system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
    sleep(FIRST_AFTER).await;
    loop {
        system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
        let cpu = (system.global_cpu_usage() * 10.0).round().clamp(0.0, 1000.0);
        let load = Load { cpu_permille: cpu as u16, memory_bytes: system.used_memory() };
        if core.send(Input::Load(load)).await.is_err() {
            return;
        }
        if let Some(process) = system.process(pid) {
            metrics::gauge!("process_resident_memory_bytes").set(process.memory() as f64);
            metrics::gauge!("process_cpu_seconds_total").set(process.accumulated_cpu_time() as f64 / 1000.0);
        }
        for peer in view().members.iter().filter_map(|(_, link)| transport.peer((*link)?)) {
            metrics::histogram!("shoal_gossip_rtt_seconds").record(peer.rtt().as_secs_f64());
            // Looked at regularly, so that the facts know for how long it has been silent.
            let _ = peer.silence();
        }
        sleep(INTERVAL).await;
    }
}
