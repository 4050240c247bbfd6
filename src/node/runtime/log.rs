//! An agent's log: its last lines, bounded in number and bytes, kept until the agent is forgotten.
//!
//! Whatever an agent writes is untrusted text. It is made harmless when it comes in: what could end a
//! line, move a terminal's cursor or reorder what is shown is escaped, so no reader has to remember to.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::core::limits;

/// The last lines of one agent.
#[derive(Debug, Default)]
pub(super) struct Log {
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<Box<str>>,
    bytes: usize,
    /// Lines ever added.
    added: u64,
}

impl Log {
    /// Adds a line, cut to its bound; the oldest lines give way.
    pub(super) fn push(&self, text: &str) {
        let line = shown(text, limits::AGENT_LOG_LINE_BYTES_MAX).into_boxed_str();
        let mut log = self.lock();
        log.bytes += line.len();
        log.added += 1;
        log.lines.push_back(line);
        while log.lines.len() > limits::AGENT_LOG_LINES_MAX || log.bytes > limits::AGENT_LOG_BYTES_MAX {
            let Some(oldest) = log.lines.pop_front() else { break };
            log.bytes -= oldest.len();
        }
    }

    /// The last lines, oldest first.
    pub(super) fn last(&self, lines: usize) -> Vec<String> {
        let log = self.lock();
        let skip = log.lines.len().saturating_sub(lines);
        log.lines.iter().skip(skip).map(|line| line.to_string()).collect()
    }

    /// Lines added so far: a mark for [`Self::last_since`].
    pub(super) fn added(&self) -> u64 {
        self.lock().added
    }

    /// The last lines, oldest first, of those that were added after the mark.
    pub(super) fn last_since(&self, mark: u64, lines: usize) -> Vec<String> {
        let new = usize::try_from(self.added().saturating_sub(mark)).unwrap_or(usize::MAX);
        self.last(lines.min(new))
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text as it may be shown: what controls a terminal, or changes the order in which text is read,
/// is escaped as `\u{1b}`; at most about `bytes_max` bytes of it.
pub(super) fn shown(text: &str, bytes_max: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        if shown.len() >= bytes_max {
            shown.push('…');
            break;
        }
        if is_harmless(c) {
            shown.push(c);
        } else {
            let _ = write!(shown, "{}", c.escape_default());
        }
    }
    shown
}

fn is_harmless(c: char) -> bool {
    let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c == '\t' || !(c.is_control() || reorders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_forge_another_or_drive_a_terminal() {
        let log = Log::default();
        log.push("done\n12:00 ERROR forged \u{1b}[2J \u{9b}1m \u{202e}txt\ttab é");
        assert_eq!(log.last(9), ["done\\n12:00 ERROR forged \\u{1b}[2J \\u{9b}1m \\u{202e}txt\ttab é"]);
    }

    #[test]
    fn the_oldest_lines_give_way_to_new_ones_by_number_and_by_bytes() {
        let log = Log::default();
        for n in 0..limits::AGENT_LOG_LINES_MAX + 5 {
            log.push(&n.to_string());
        }
        let lines = log.last(usize::MAX);
        assert_eq!((lines.len(), lines[0].as_str()), (limits::AGENT_LOG_LINES_MAX, "5"));
        assert_eq!(
            log.last(2),
            [(limits::AGENT_LOG_LINES_MAX + 3).to_string(), (limits::AGENT_LOG_LINES_MAX + 4).to_string()]
        );

        for _ in 0..limits::AGENT_LOG_LINES_MAX {
            log.push(&"\u{1b}".repeat(limits::AGENT_LOG_LINE_BYTES_MAX));
        }
        let bytes: usize = log.last(usize::MAX).iter().map(String::len).sum();
        assert!(bytes <= limits::AGENT_LOG_BYTES_MAX, "{bytes}");
        assert!(log.last(1)[0].len() <= limits::AGENT_LOG_LINE_BYTES_MAX + 16);
    }
}
