//! Logs and metrics of a process.

use std::io;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use super::config::{LogConfig, LogFormat};

/// Buckets of histograms in seconds, from a local message to a slow answer.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// Counters that are there from the start.
const COUNTERS: &[(&str, &str)] = &[
    ("shoal_transport_bad_frames_total", "Malformed frames of peers that were dropped."),
    ("shoal_transport_unknown_frames_total", "Frames of a later version that were skipped."),
    ("shoal_transport_handshakes_failed_total", "Connections of others that were refused in TLS or hello."),
    ("shoal_transport_handshakes_refused_total", "Connections refused because too many were under way."),
    ("shoal_transport_swim_dropped_total", "Gossip packets dropped because the node was behind."),
    (
        "shoal_transport_swim_on_stream_total",
        "Gossip packets sent on a stream: the path carries no datagram.",
    ),
    ("shoal_transport_bulk_opened_total", "Connections opened beside a link for large control frames."),
    (
        "shoal_transport_bulk_fallbacks_total",
        "Large control frames, or batches of them, sent over a link itself.",
    ),
    ("shoal_transport_hints_total", "Times that a live link's peer was not reached, by the network's word."),
    ("shoal_transport_outcomes_lost_total", "Answers that could not be sent back."),
    (
        "shoal_identity_refused_total",
        "Changed certificates, keys or bundles that were refused; the former stay in use.",
    ),
    (
        "shoal_crls_refused_total",
        "Revocation lists that were not taken in: malformed, badly signed, or older.",
    ),
    ("shoal_history_dropped_total", "Entries of the history that the disk did not take, or not in time."),
    ("shoal_log_lines_lost_total", "Lines of the log that stderr did not take."),
    ("shoal_alerts_posted_total", "Alerts that a webhook has taken."),
    (
        "shoal_alerts_dropped_total",
        "Alerts that no webhook took: refused, in no attempt, or the queue was full.",
    ),
    ("shoal_loop_late_total", "Times that the node was held up for over a second."),
];

/// Why logs or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter text.
    #[error("the log level {level:?} is not understood: {reason}")]
    Level {
        /// As configured.
        level: String,
        /// What is wrong.
        reason: String,
    },
    /// Something else in the process has set them up before.
    #[error("logs or metrics are set up already: {0}")]
    Twice(String),
}

/// Writes this process's logs to stderr.
///
/// # Errors
/// [`TelemetryError`].
pub fn write_logs(config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&config.level)
        .map_err(|e| TelemetryError::Level { level: config.level.clone(), reason: e.to_string() })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lossy(std::io::stderr()))
        .with_span_events(FmtSpan::NONE)
        // With stderr gone there is nowhere to say so, and saying it there would panic.
        .log_internal_errors(false);
    let set = match config.format {
        LogFormat::Human => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            logs.with_ansi(colours).with_target(false).try_init()
        }
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    set.map_err(|e| TelemetryError::Twice(e.to_string()))
}

/// A way out that takes everything: what is behind it may be full or gone, and nothing waits for it. What it does not
/// take is lost and counted.
struct Lossy<W>(W);

impl<W: io::Write> io::Write for Lossy<W> {
    /// A whole line of the log.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.write_all(line).is_err() {
            metrics::counter!("shoal_log_lines_lost_total").increment(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects this process's metrics from now on.
///
/// # Errors
/// [`TelemetryError`].
pub fn collect_metrics() -> Result<PrometheusHandle, TelemetryError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .map_err(|e| TelemetryError::Twice(e.to_string()))?;
    let handle = builder.install_recorder().map_err(|e| TelemetryError::Twice(e.to_string()))?;
    for (name, meaning) in COUNTERS {
        metrics::describe_counter!(*name, *meaning);
        // An alert needs the zero before the first event.
        metrics::counter!(*name).increment(0);
    }
    Ok(handle)
}
