//! How keys and their values are shown.

use std::io::{IsTerminal, Write};

use crate::api::types::{Encoding, KeyEverywhere, KeyState, Sibling, ValueWriter};
use crate::cli::Failure;
use crate::cli::print::{self, Table};
use crate::core::ids::NodeId;

/// Characters of a value in a table; the rest is cut off.
const PREVIEW_CHARS: usize = 60;

/// The chosen value byte for byte; on a terminal with a line end after it where it has none.
pub(super) fn write_raw(state: &KeyState) -> Result<(), Failure> {
    let Some(mut bytes) = state.bytes() else {
        return Err(Failure::Refused("the node's answer has a value that is not base64".to_owned()));
    };
    if std::io::stdout().is_terminal() && !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    print::write_out(&bytes)
}

/// The concurrent values of a key, one a line.
pub(super) fn siblings(state: &KeyState) -> String {
    let mut table = Table::new(&["VALUE", "WRITER", "WRITTEN", "DOT"]);
    for Sibling { value, encoding, writer, written_unix_ms, dot } in &state.siblings {
        table.row([
            preview(value, Some(*encoding)),
            self::writer(writer),
            print::time(*written_unix_ms),
            dot.clone(),
        ]);
    }
    table.text()
}

/// What each node has for a key, one a line.
pub(super) fn everywhere(everywhere: &KeyEverywhere) -> String {
    let mut table = Table::new(&["NODE-ID", "VALUE", "SIBLINGS", "MODE", "AGE", "ERROR"]);
    for at in &everywhere.nodes {
        let state = at.state.as_ref();
        table.row([
            at.node.to_string(),
            print::or_nothing(state, chosen),
            print::or_nothing(state, |state| state.siblings.len().to_string()),
            print::or_nothing(state, |state| state.mode.clone()),
            print::or_nothing(state.and_then(|state| state.age_seconds), print::seconds),
            print::or_nothing(at.error.clone(), |error| error),
        ]);
    }
    table.text()
}

/// The start of the chosen value.
pub(super) fn chosen(state: &KeyState) -> String {
    print::or_nothing(state.value.as_deref(), |value| preview(value, state.encoding))
}

/// The start of a value, as one line.
pub(super) fn preview(value: &str, encoding: Option<Encoding>) -> String {
    let mut shown: String = value.chars().take(PREVIEW_CHARS).collect();
    if shown.len() < value.len() {
        shown.push('\u{2026}');
    }
    match encoding {
        Some(Encoding::Base64) => format!("base64:{shown}"),
        Some(Encoding::Text) | None => shown,
    }
}

/// Who wrote a value.
pub(super) fn writer(writer: &ValueWriter) -> String {
    match &writer.slot {
        Some(slot) => format!("{slot}@{}", writer.node),
        None => writer.node.to_string(),
    }
}

/// Says on stderr why the command of the policy `custom` has chosen none of several values.
pub(super) fn warn_of_policy(state: &KeyState) {
    if let Some(error) = &state.policy_error {
        // With stderr gone there is nowhere left to say it.
        let _ = writeln!(std::io::stderr(), "shoal: {}", print::visible(error));
    }
}

/// Says on stderr that what was read may be old.
pub(super) fn warn_of_age(node: &NodeId, mode: &str, age_seconds: Option<f64>) {
    if let Some(warning) = age_warning(node, mode, age_seconds) {
        // With stderr gone there is nowhere left to say it.
        let _ = writeln!(std::io::stderr(), "shoal: {}", print::visible(&warning));
    }
}

fn age_warning(node: &NodeId, mode: &str, age_seconds: Option<f64>) -> Option<String> {
    match (mode, age_seconds) {
        ("healthy", None) => None,
        (_, Some(age)) => Some(format!("{node} is {mode}: what it knows may be {} old", print::seconds(age))),
        (_, None) => Some(format!("{node} is {mode}: what it knows may be of any age")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_and_one_that_is_no_text_says_so() {
        assert_eq!(preview("short", Some(Encoding::Text)), "short");
        assert_eq!(preview("/wA=", Some(Encoding::Base64)), "base64:/wA=");
        let cut = preview(&"\u{fc}".repeat(100), Some(Encoding::Text));
        assert_eq!(cut.chars().count(), PREVIEW_CHARS + 1);
    }

    #[test]
    fn only_a_node_of_a_majority_is_believed_without_a_word() {
        let node = NodeId::new("n1").expect("valid");
        assert_eq!(age_warning(&node, "healthy", None), None);
        let degraded = age_warning(&node, "degraded", Some(12.0)).expect("a warning");
        assert_eq!(degraded, "n1 is degraded: what it knows may be 12.00s old");
        assert!(age_warning(&node, "joining", None).is_some_and(|text| text.ends_with("of any age")));
    }
}
