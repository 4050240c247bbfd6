//! What is to be ordered, as data: to be shown, checked and compared before anybody acts on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Post;
use crate::core::ids::AgentName;
use crate::core::limits;

/// What is to be ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The orders, in the order in which they are to be given.
    pub steps: Vec<Step>,
    /// Slots that should be filled and cannot be, with the reasons.
    pub unplaced: BTreeMap<AgentName, String>,
    /// Blueprints whose current version has failed and that go back to the one before, with the reason.
    pub roll_back: BTreeMap<AgentName, String>,
}

/// One order that is to be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The slot.
    pub slot: AgentName,
    /// What is to be done.
    pub action: StepAction,
    /// What is to be ordered; `None`: nobody fills the slot.
    pub post: Option<Post>,
    /// Why.
    pub why: String,
}

/// What a step does, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepAction {
    /// An instance comes to be.
    Create,
    /// It goes to another node.
    Move,
    /// It is made of something else.
    Update,
    /// It ends.
    Stop,
}

impl StepAction {
    /// The word that users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Move => "move",
            Self::Update => "update",
            Self::Stop => "stop",
        }
    }
}

impl Plan {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.roll_back.is_empty()
    }

    /// Adds an order; of its reason the first [`limits::ORDER_WHY_BYTES_MAX`] bytes.
    pub fn order(&mut self, slot: AgentName, action: StepAction, post: Option<Post>, why: impl Into<String>) {
        let mut why = why.into();
        why.truncate(why.floor_char_boundary(limits::ORDER_WHY_BYTES_MAX));
        self.steps.push(Step { slot, action, post, why });
    }
}
