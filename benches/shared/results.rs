//! `benches/RESULTS.md`: each benchmark replaces its own part and leaves the others alone. Also what the
//! tables share: the machine they were measured on, and percentiles.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const HEAD: &str = "# Results\n\nFigures of one machine at one time: what counts are the ratios of a table. Each part is written by the\nbenchmark that it names.\n";

/// A file of `benches/`.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches").join(name)
}

/// Puts a part into `benches/RESULTS.md`, in place of what that benchmark wrote before.
pub(crate) fn write_part(benchmark: &str, text: &str) -> Result<(), String> {
    let file = path("RESULTS.md");
    let old = fs::read_to_string(&file).unwrap_or_else(|_| HEAD.to_owned());
    let (begin, end) = (format!("<!-- begin {benchmark} -->\n"), format!("<!-- end {benchmark} -->\n"));
    let part = format!("{begin}{}\n{end}", text.trim_end());
    let new = match (old.find(&begin), old.find(&end)) {
        (Some(from), Some(to)) if from < to => format!("{}{part}{}", &old[..from], &old[to + end.len()..]),
        _ => format!("{}\n\n{part}", old.trim_end()),
    };
    fs::write(&file, new).map_err(|e| format!("cannot write {}: {e}", file.display()))
}

/// When and on what.
pub(crate) fn machine() -> String {
    let date = output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]);
    let kernel = output("uname", &["-sr"]);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("-").to_owned();
    format!("{date}; {cores} cores, {model}; {kernel}; load {load} when it ended")
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

/// The least value that at least this share of the values does not exceed (nearest rank); `None` when there
/// are none.
pub(crate) fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// A figure with as many digits as it deserves; `-` for none.
pub(crate) fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(v) if v.abs() >= 100.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 10.0 => format!("{v:.1}"),
        Some(v) if v.abs() >= 1.0 => format!("{v:.2}"),
        Some(v) if v.abs() >= 0.01 => format!("{v:.3}"),
        Some(v) => format!("{v:.1e}"),
    }
}

/// One figure as a multiple of another.
pub(crate) fn ratio(ours: Option<f64>, theirs: Option<f64>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}x", ours / theirs),
        _ => "-".to_owned(),
    }
}
