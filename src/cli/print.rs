//! What commands write: tables for people, JSON for programs, and units that people read.
//!
//! Text that came from elsewhere passes [`visible`] on its way into a table, so that no node or agent can
//! make a terminal do anything. JSON needs no such care: it escapes control characters itself.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{Failure, Output};

/// Stands for what was not measured or does not exist.
pub(super) const NOTHING: &str = "-";

/// Writes to stdout at once. A reader that has gone ends the program without a word.
///
/// # Errors
/// [`Failure`] when stdout takes no more.
pub(super) fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::ReaderGone),
        Err(error) => Err(Failure::Refused(format!("the result could not be written: {error}"))),
    }
}

/// Writes `value` as JSON, or what `table` makes of it.
pub(super) fn show<T: Serialize>(
    output: Output,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let text = match output {
        Output::Table => table(value),
        Output::Json => json(value) + "\n",
    };
    write_out(text.as_bytes())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("texts, numbers and lists are JSON")
}

/// Columns as wide as their widest cell, two spaces between them.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| visible(&cell)).collect());
    }

    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names and values, one pair a line.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 1;
    pairs.iter().map(|(name, value)| format!("{:<width$} {}\n", format!("{name}:"), visible(value))).collect()
}

/// The text without what a terminal would obey: control characters and those that turn the direction of
/// writing become the replacement character.
pub(super) fn visible(text: &str) -> String {
    let is_obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
    };
    text.replace(is_obeyed, "\u{fffd}")
}

/// `-` where there is nothing.
pub(super) fn or_nothing<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NOTHING.to_owned(), show)
}

/// `-` for an empty text.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { NOTHING.to_owned() } else { text.to_owned() }
}

/// `512B`, `1.5GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{value:.1}{}", UNITS[unit]) }
}

/// `250µs`, `1.25ms`, `3.2s`.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0}µs", s * 1e6),
        s if s < 1.0 => format!("{:.2}ms", s * 1e3),
        s => format!("{s:.2}s"),
    }
}

/// `3m 4s`: whole seconds, the two largest units.
pub(super) fn span(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A time as RFC 3339 in UTC, to the millisecond; `-` for one that no calendar has.
pub(super) fn time(unix_ms: u64) -> String {
    // The last moment of the year 9999.
    const LAST_MS: u64 = 253_402_300_799_999;
    if unix_ms > LAST_MS {
        return NOTHING.to_owned();
    }
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_space() {
        let mut table = Table::new(&["NODE-ID", "STATUS", "CPU"]);
        table.row(["n".to_owned(), "suspect".to_owned(), "-".to_owned()]);
        table.row(["a-long-name".to_owned(), "alive".to_owned(), "12%".to_owned()]);
        assert_eq!(
            table.text(),
            "NODE-ID      STATUS   CPU\nn            suspect  -\na-long-name  alive    12%\n"
        );
    }

    #[test]
    fn text_from_elsewhere_cannot_command_a_terminal() {
        let mut table = Table::new(&["REASON"]);
        table.row(["\u{1b}[2J\r\nok\u{9b}1m\u{202e}gnp".to_owned()]);
        let text = table.text();
        let is_obeyed = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!text.lines().any(|line| line.contains(is_obeyed)), "{text:?}");
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn figures_are_in_units_that_people_read() {
        assert_eq!([0, 1023, 1536, 3 << 30].map(bytes), ["0B", "1023B", "1.5KiB", "3.0GiB"]);
        assert_eq!([0.000_25, 0.001_25, 3.2].map(seconds), ["250µs", "1.25ms", "3.20s"]);
        assert_eq!([0, 59, 3661, 90_061].map(span), ["0s", "59s", "1h 1m", "1day 1h"]);
        assert_eq!(time(1_800_000_000_120), "2027-01-15T08:00:00.120Z");
        assert_eq!(time(u64::MAX), "-");
    }
}
