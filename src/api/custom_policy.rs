//! The policy `custom`: a command of the node whose API is asked chooses among the values of a key, or makes one of them.
//!
//! It is told `{"key": ..., "siblings": [...]}` as `GET /v1/state/{key}` shows them, and answers with one of
//! `{"dot": ...}`, which names a sibling, `{"value": ...}` and `{"value_base64": ...}`. That it answers the same for the
//! same values, on every node, is the operator's promise. When it fails, the values stay beside each other, and the
//! reader is told why.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::types::{Encoding, KeyState, Sibling, encoded};
use crate::core::limits;
use crate::node::Handle;

#[derive(Debug, Serialize)]
struct Question<'a> {
    key: &'a str,
    siblings: &'a [Sibling],
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    dot: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}

/// What was chosen.
#[derive(Debug, PartialEq, Eq)]
enum Chosen {
    Sibling(Sibling),
    Made(String, Encoding),
}

/// Fills in the value of a key whose policy is `custom` and that has several.
pub(super) async fn choose(node: &Handle, state: &mut KeyState) {
    if !is_open(state) {
        return;
    }
    match ask(node, state).await {
        Ok(Chosen::Sibling(Sibling { value, encoding, writer, written_unix_ms, dot })) => {
            (state.value, state.encoding) = (Some(value), Some(encoding));
            (state.writer, state.dot) = (Some(writer), Some(dot));
            state.written_unix_ms = Some(written_unix_ms);
        }
        Ok(Chosen::Made(value, encoding)) => {
            (state.value, state.encoding) = (Some(value), Some(encoding));
        }
        Err(reason) => {
            tracing::warn!(key = state.key, reason, "the policy's command has chosen no value");
            state.policy_error = Some(reason);
        }
    }
}

/// The same for the first such keys of a page.
pub(super) async fn choose_some(node: &Handle, states: &mut [KeyState]) {
    for (n, state) in states.iter_mut().filter(|state| is_open(state)).enumerate() {
        if n < limits::POLICIES_PER_PAGE_MAX {
            choose(node, state).await;
        } else {
            state.policy_error = Some("the page has too many such keys: get this one alone".to_owned());
        }
    }
}

fn is_open(state: &KeyState) -> bool {
    state.policy == "custom" && state.value.is_none() && !state.siblings.is_empty()
}

async fn ask(node: &Handle, state: &KeyState) -> Result<Chosen, String> {
    let question = Question { key: &state.key, siblings: &state.siblings };
    let question = serde_json::to_vec(&question).map_err(|error| error.to_string())?;
    understood(&node.ask_policy(&question).await?, &state.siblings)
}

fn understood(answer: &str, siblings: &[Sibling]) -> Result<Chosen, String> {
    let Answer { dot, value, value_base64 } = serde_json::from_str(answer)
        .map_err(|error| format!("the policy's command has answered what is none: {error}"))?;
    let bytes = match (dot, value, value_base64) {
        (Some(dot), None, None) => {
            let named = siblings.iter().find(|sibling| sibling.dot == dot).cloned();
            return named.map(Chosen::Sibling).ok_or_else(|| {
                format!("the policy's command has chosen {dot:?}, which is none of the values")
            });
        }
        (None, Some(text), None) => text.into_bytes(),
        (None, None, Some(base64)) => BASE64_STANDARD
            .decode(base64)
            .map_err(|error| format!("the policy's command has answered with bad base64: {error}"))?,
        _ => {
            return Err("the policy's command must answer dot, value or value_base64, one of them".to_owned());
        }
    };
    if bytes.len() > limits::STATE_VALUE_BYTES_MAX {
        return Err(format!("the policy's command has made a value of {} bytes", bytes.len()));
    }
    let (value, encoding) = encoded(&bytes.into());
    Ok(Chosen::Made(value, encoding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::ValueWriter;
    use crate::core::ids::NodeId;

    fn sibling(dot: &str) -> Sibling {
        let writer = ValueWriter { node: NodeId::new("n").expect("valid"), slot: None, epoch: None };
        let (value, dot) = (format!("of {dot}"), dot.to_owned());
        Sibling { value, encoding: Encoding::Text, writer, written_unix_ms: 1, dot }
    }

    #[test]
    fn an_answer_names_a_value_or_makes_one_and_anything_else_is_an_error_that_says_so() {
        let siblings = [sibling("a-1"), sibling("b-1")];
        let chosen = |answer: &str| understood(answer, &siblings);
        assert_eq!(chosen(r#"{"dot": "b-1"}"#), Ok(Chosen::Sibling(sibling("b-1"))));
        assert_eq!(chosen(r#" {"value": "made"} "#), Ok(Chosen::Made("made".to_owned(), Encoding::Text)));
        let bytes = Chosen::Made("/w==".to_owned(), Encoding::Base64);
        assert_eq!(chosen(r#"{"value_base64": "/w=="}"#), Ok(bytes));
        let large = format!(r#"{{"value": "{}"}}"#, "x".repeat(limits::STATE_VALUE_BYTES_MAX + 1));
        for (answer, part) in [
            ("", "what is none"),
            ("b-1", "what is none"),
            (r#"{"dot": "c-1"}"#, "none of the values"),
            (r#"{"dot": "a-1", "value": "x"}"#, "one of them"),
            ("{}", "one of them"),
            (r#"{"value_base64": "*"}"#, "bad base64"),
            (r#"{"value": "x", "more": 1}"#, "what is none"),
            (&large, "65537 bytes"),
        ] {
            let error = chosen(answer).expect_err(answer);
            assert!(error.contains(part), "{answer}: {error}");
        }
    }
}
