//! The command that decides what a minority does: asked once for each situation, one question at a time.
//!
//! Until the first answer, and after one that failed or came too late, the node is read-only. While a new question
//! is under way the last answer holds.

use std::collections::BTreeSet;

use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Action, Mode, PartitionView};
use crate::core::time::Instant;

/// What a situation is, as far as a command is asked again when it changes.
type Situation = (Mode, BTreeSet<NodeId>);

#[derive(Debug, Default)]
pub(super) struct Handler {
    questions: u64,
    /// What was last asked about.
    asked: Option<Situation>,
    open: Option<(u64, Instant)>,
    to_send: Option<(u64, PartitionView)>,
    decided: Option<Action>,
}

impl Handler {
    pub(super) fn action(&self) -> Action {
        self.decided.unwrap_or(Action::ReadOnly)
    }

    /// Asks, if this is another situation and no question is open.
    pub(super) fn consult(&mut self, view: PartitionView, now: Instant) {
        let situation = (view.mode, view.reachable.clone());
        if self.open.is_some() || self.asked.as_ref() == Some(&situation) {
            return;
        }
        self.questions += 1;
        self.asked = Some(situation);
        self.open = Some((self.questions, now + limits::DECISION_DEADLINE));
        self.to_send = Some((self.questions, view));
    }

    pub(super) fn on_answer(&mut self, question: u64, decision: Result<Action, String>, now: Instant) {
        let Some((open, deadline)) = self.open else {
            return;
        };
        if open != question || now >= deadline {
            return;
        }
        self.open = None;
        if let Err(reason) = &decision {
            tracing::warn!(%reason, "the handler of partitions failed: this node is read-only");
        }
        self.decided = decision.ok();
    }

    pub(super) fn on_time(&mut self, now: Instant) {
        if self.open.is_some_and(|(_, deadline)| now >= deadline) {
            tracing::warn!(deadline = ?limits::DECISION_DEADLINE,
                "the handler of partitions took too long: this node is read-only");
            (self.open, self.to_send, self.decided) = (None, None, None);
        }
    }

    /// The node needs no decision any more; an answer under way is outdated.
    pub(super) fn forget(&mut self) {
        *self = Self { questions: self.questions, ..Self::default() };
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.open.map(|(_, deadline)| deadline)
    }

    pub(super) fn take_question(&mut self) -> Option<(u64, PartitionView)> {
        self.to_send.take()
    }
}
