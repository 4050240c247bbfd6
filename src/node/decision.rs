//! The command that decides what this node does while it is not among a majority (`custom_handler`).
//!
//! It is told the situation as one JSON object on its standard input, and answers with one word on its standard
//! output: `read-only` or `local-only`. Whatever else it does counts as no decision.

use super::command;
use crate::core::limits;
use crate::core::model::{Action, PartitionView};

/// The most that is read of its answer.
const ANSWER_BYTES_MAX: u64 = 256;

/// Runs the command, for at most [`limits::DECISION_DEADLINE`].
///
/// # Errors
/// Why there is no decision, in one sentence.
pub(super) async fn ask(command: &str, view: &PartitionView) -> Result<Action, String> {
    let question = serde_json::to_vec(view).map_err(|error| error.to_string())?;
    let answer = command::ask(command, &question, ANSWER_BYTES_MAX, limits::DECISION_DEADLINE).await?;
    answer.trim().parse().map_err(|error| format!("{command} decided nothing: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::core::ids::NodeId;
    use crate::core::model::Mode;

    fn view() -> PartitionView {
        PartitionView {
            node: NodeId::new("n").expect("valid"),
            mode: Mode::Degraded,
            voter: true,
            reachable: [].into(),
            unreachable: [].into(),
            quorum: 2,
            age_ms: Some(7),
        }
    }

    fn script(text: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("decide");
        std::fs::write(&file, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).expect("executable");
        let path = file.to_str().expect("text").to_owned();
        (directory, path)
    }

    #[tokio::test]
    async fn a_command_decides_with_one_word_and_anything_else_is_no_decision() {
        let cases = [
            ("cat >/dev/null; echo local-only", Ok(Action::LocalOnly)),
            ("grep -q '\"quorum\":2' && echo read-only", Ok(Action::ReadOnly)),
            ("exec <&-; echo read-only", Ok(Action::ReadOnly)),
            ("echo perhaps", Err("decided nothing")),
            ("echo read-only; exit 3", Err("failed")),
            ("yes read-only", Err("")),
        ];
        for (text, expected) in cases {
            let (_directory, command) = script(text);
            match (ask(&command, &view()).await, expected) {
                (Ok(action), Ok(expected)) => assert_eq!(action, expected, "{text}"),
                (Err(reason), Err(part)) => assert!(reason.contains(part), "{text}: {reason}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(ask("/nowhere/at/all", &view()).await.expect_err("absent").contains("could not be started"));
    }
}
