//! Reads lines from an agent without ever holding more than the longest line allowed.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Its first bytes; the rest, up to its end, is thrown away by the next read.
    TooLong(&'a [u8]),
}

/// The lines of a stream.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    bytes_max: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// `line` is what the caller was given; the next read begins a new one.
    Given,
    /// `line` was cut; what comes before the next line end is thrown away.
    Skipping,
}

/// The buffer of one stream; small, because a node has thousands of them.
const BUFFER_BYTES: usize = 8 << 10;
/// A line buffer that has grown above this is given back.
const LINE_BYTES_KEPT: usize = 64 << 10;

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most `bytes_max` bytes.
    pub(super) fn new(reader: R, bytes_max: usize) -> Self {
        let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        Self { reader, line: Vec::new(), bytes_max, state: State::Given }
    }

    /// The next line, or `None` at the end of the stream. An unfinished last line counts.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        self.line.shrink_to(LINE_BYTES_KEPT);
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                let rest = self.state == State::Given && !self.line.is_empty();
                return Ok(rest.then(|| Line::Whole(trimmed(&self.line))));
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let (piece, consumed) = match end {
                Some(end) => (&available[..end], end + 1),
                None => (available, available.len()),
            };
            if self.state == State::Skipping {
                self.reader.consume(consumed);
                if end.is_some() {
                    self.state = State::Given;
                }
                continue;
            }
            let room = self.bytes_max - self.line.len();
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() > room {
                self.state = if end.is_some() { State::Given } else { State::Skipping };
                self.reader.consume(consumed);
                return Ok(Some(Line::TooLong(&self.line)));
            }
            self.reader.consume(consumed);
            if end.is_some() {
                return Ok(Some(Line::Whole(trimmed(&self.line))));
            }
        }
    }
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(text: &'static str, bytes_max: usize) -> Vec<(String, bool)> {
        let mut lines = Lines::new(text.as_bytes(), bytes_max);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.expect("memory does not fail") {
            let (bytes, whole) = match line {
                Line::Whole(bytes) => (bytes, true),
                Line::TooLong(bytes) => (bytes, false),
            };
            all.push((String::from_utf8_lossy(bytes).into_owned(), whole));
        }
        all
    }

    #[tokio::test]
    async fn lines_end_at_newlines_and_at_the_end_of_the_stream() {
        let lines = lines_of("a\r\n\nlast", 10).await;
        assert_eq!(lines, [("a".into(), true), (String::new(), true), ("last".into(), true)]);
        assert_eq!(lines_of("", 10).await, []);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_given_cut_once_and_the_next_is_whole() {
        let lines = lines_of("12345\n123456789\nok\n1234567890", 5).await;
        assert_eq!(
            lines,
            [("12345".into(), true), ("12345".into(), false), ("ok".into(), true), ("12345".into(), false)]
        );
    }

    #[tokio::test]
    async fn a_line_without_end_is_reported_before_it_ends() {
        let mut lines = Lines::new(tokio::io::repeat(b'x'), 100_000);
        assert!(matches!(lines.next().await, Ok(Some(Line::TooLong(bytes))) if bytes.len() == 100_000));
    }
}
