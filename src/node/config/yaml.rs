//! The text of a configuration file as a tree that knows its lines.
//!
//! It takes the parser's events one by one instead of a ready-made tree, for three reasons: depth is
//! bounded by our own stack of frames and not by the thread's, every duplicate key is reported and not
//! only the first, and a second document is an error instead of being passed over.
//!
//! A configuration needs no anchors, aliases, tags or keys that are not plain text, so they are errors;
//! with them go the attacks that expand a small file into a large tree.

use std::collections::BTreeMap;

use yaml_rust2::Event;
use yaml_rust2::parser::Parser;
use yaml_rust2::scanner::{Marker, ScanError, TScalarStyle};

use super::error::quoted;
use crate::core::limits;

/// A value and the line where it begins, counted from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing, `~` or `null`, not quoted.
    Null,
    /// A text; `plain` when it was not quoted.
    Text { text: String, plain: bool },
    /// A list.
    List(Vec<Node>),
    /// Keys and values. The line of a value is that of its key.
    Map(BTreeMap<String, Node>),
    /// Something that was reported already.
    Bad,
}

/// Reads one document whose top is a mapping; `report` is told each error's line, key (in dots, or
/// empty) and message. `None` when the text could not be read to its end, so that what was not read is
/// not mistaken for something missing. An empty text is an empty mapping.
pub(super) fn parse(text: &str, report: &mut Report<'_>) -> Option<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some((line, message)) = find_control_character(text) {
        report(line, "", message);
        return None;
    }
    let mut builder = Builder { stack: Vec::new(), top: None, documents: 0, report };
    let mut parser = Parser::new_from_str(text);
    loop {
        match parser.next_token() {
            Ok((Event::StreamEnd, _)) => break,
            Ok((event, mark)) => {
                if builder.take(event, mark) == Flow::Stop {
                    return None;
                }
            }
            Err(error) => {
                let (line, message) = scan_error(text, &error);
                report(line, "", message);
                return None;
            }
        }
    }
    Some(builder.top.unwrap_or(Node { line: 1, value: Value::Map(BTreeMap::new()) }))
}

/// Takes the line, key and message of an error.
pub(super) type Report<'a> = dyn FnMut(usize, &str, String) + 'a;

/// The parser takes a NUL for the end of the text and would pass over what follows; no other control
/// character has any business in a configuration either.
fn find_control_character(text: &str) -> Option<(usize, String)> {
    let (at, found) =
        text.char_indices().find(|(_, c)| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{85}'))?;
    let line = 1 + text[..at].matches('\n').count();
    Some((line, format!("the file contains the control character U+{:04X}: remove it", u32::from(found))))
}

fn scan_error(text: &str, error: &ScanError) -> (usize, String) {
    let lines = text.lines().count().max(1);
    let line = error.marker().line().clamp(1, lines);
    let mut message = format!("this is not valid YAML: {}", error.info());
    if text.lines().nth(line - 1).is_some_and(|l| l.contains("${")) {
        message.push_str("; inside [ ] and { } a ${VAR} needs quotes around it");
    }
    (line, message)
}

#[derive(PartialEq, Eq)]
enum Flow {
    Go,
    Stop,
}

/// A collection that has begun and not ended.
enum Frame {
    List { line: usize, items: Vec<Node> },
    Map { line: usize, entries: BTreeMap<String, Node>, key: Key },
}

/// Where a mapping stands.
enum Key {
    /// The next value is a key.
    Awaited,
    /// The next value belongs to this key.
    Known { text: String, line: usize },
    /// The next value belongs to a key that was reported.
    Bad,
}

struct Builder<'r, 'f> {
    stack: Vec<Frame>,
    top: Option<Node>,
    documents: usize,
    report: &'r mut Report<'f>,
}

impl Builder<'_, '_> {
    fn take(&mut self, event: Event, mark: Marker) -> Flow {
        let line = mark.line().max(1);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart => return self.on_document(line),
            Event::Alias(_) => {
                self.error(line, "aliases (`*name`) are not understood here: write the value out");
                self.attach(Node { line, value: Value::Bad });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_extras(line, anchor, tag.is_some());
                let plain = style == TScalarStyle::Plain;
                let is_null = plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL");
                self.on_scalar(line, text, plain, is_null);
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_extras(line, anchor, tag.is_some());
                return self.push(line, Frame::List { line, items: Vec::new() });
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_extras(line, anchor, tag.is_some());
                return self.push(line, Frame::Map { line, entries: BTreeMap::new(), key: Key::Awaited });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List { line, items }) => self.attach(Node { line, value: Value::List(items) }),
                Some(Frame::Map { line, entries, .. }) => {
                    self.attach(Node { line, value: Value::Map(entries) });
                }
                None => {}
            },
        }
        Flow::Go
    }

    fn on_document(&mut self, line: usize) -> Flow {
        self.documents += 1;
        if self.documents == 1 {
            return Flow::Go;
        }
        self.error(line, "a second document begins here: a configuration file has only one");
        Flow::Stop
    }

    fn on_scalar(&mut self, line: usize, text: String, plain: bool, is_null: bool) {
        if let Some(Frame::Map { entries, key: key @ Key::Awaited, .. }) = self.stack.last_mut() {
            if let Some(first) = entries.get(&text) {
                let message = format!("this key is given twice: first on line {}", first.line);
                *key = Key::Bad;
                let key = self.path_of(&text);
                (self.report)(line, &key, message);
            } else {
                *key = Key::Known { text, line };
            }
            return;
        }
        let value = if is_null { Value::Null } else { Value::Text { text, plain } };
        self.attach(Node { line, value });
    }

    fn push(&mut self, line: usize, frame: Frame) -> Flow {
        if self.stack.len() == limits::CONFIG_DEPTH_MAX {
            let message = format!("values are nested more than {} deep", limits::CONFIG_DEPTH_MAX);
            self.error(line, &message);
            return Flow::Stop;
        }
        self.stack.push(frame);
        Flow::Go
    }

    /// Puts a finished value where it belongs.
    fn attach(&mut self, mut node: Node) {
        match self.stack.last_mut() {
            None => self.top = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { entries, key, .. }) => match std::mem::replace(key, Key::Awaited) {
                Key::Known { text, line } => {
                    node.line = line;
                    entries.insert(text, node);
                }
                Key::Bad => {}
                Key::Awaited => {
                    *key = Key::Bad;
                    if !matches!(node.value, Value::Bad) {
                        self.error(node.line, "a key must be one plain word");
                    }
                }
            },
        }
    }

    fn refuse_extras(&mut self, line: usize, anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.error(line, "anchors (`&name`) are not understood here: write the value out");
        }
        if tagged {
            self.error(line, "tags (`!name`) are not understood here: remove it");
        }
    }

    /// The key `last` of the innermost mapping, in dots from the top.
    fn path_of(&self, last: &str) -> String {
        let mut path = String::new();
        for frame in &self.stack {
            match frame {
                Frame::List { items, .. } => path.push_str(&format!("[{}]", items.len())),
                Frame::Map { key: Key::Known { text, .. }, .. } => path = joined(&path, text),
                Frame::Map { .. } => {}
            }
        }
        joined(&path, last)
    }

    fn error(&mut self, line: usize, message: &str) {
        (self.report)(line, "", message.to_owned());
    }
}

/// `path.key`; a key that is not a plain word is quoted, so that it cannot forge a line of output.
pub(super) fn joined(path: &str, key: &str) -> String {
    let is_word = !key.is_empty()
        && key.len() <= limits::LABEL_BYTES_MAX
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'));
    let key = if is_word { key.to_owned() } else { quoted(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
