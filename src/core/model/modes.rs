//! What a node may do while it is, or is not, among a majority: its mode, the strategy that its configuration
//! gives it for a minority, and what follows from the two.
//!
//! Plain records and the words that users see for them. Which mode a node is in is decided elsewhere.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::decisions::{Action, Decision};
use crate::core::ids::NodeId;

/// Whether a node is among a majority of the voters, and as far as the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It has just started, and may have missed anything.
    Joining,
    /// It is among a majority and as far as that.
    Healthy,
    /// It hears fewer voters than a quorum, or doubts itself.
    Degraded,
    /// It hears a quorum again and takes in what it missed.
    Recovering,
}

impl Mode {
    /// The word that users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Recovering => "recovering",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a minority does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// It answers reads with their age and queues writes until it is back among a majority.
    Consistency,
    /// It goes on writing; its writes are marked, and what two sides wrote to one key are siblings afterwards.
    Availability,
    /// The action of the first decision whose condition holds; read-only when none does.
    Decisions(Vec<Decision>),
    /// What a command answers that is told the situation; read-only until it has, and when it fails or takes
    /// longer than [`DECISION_DEADLINE`](crate::core::limits::DECISION_DEADLINE).
    Handler {
        /// The command.
        command: String,
    },
}

impl Strategy {
    /// The word that users see.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Consistency => "consistency",
            Self::Availability => "availability",
            Self::Decisions(_) | Self::Handler { .. } => "custom",
        }
    }
}

/// How a node finds out that it is in a minority, and what it does then: `coordination.partition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionConfig {
    /// What a minority does. Default [`Strategy::Consistency`].
    pub strategy: Strategy,
    /// A voter that no beat came from for so long is not reachable. Default 2 s. Until it has passed, both
    /// sides of a new partition accept writes; a quarter of it is the time between two beats of a voter.
    pub detection_timeout: Duration,
    /// How many voters make a quorum, for the roster with which a mesh is founded. Default `None`: more than
    /// half.
    pub quorum_size: Option<u16>,
    /// The voter with which exactly half is a quorum, for the roster with which a mesh is founded. Default none.
    /// Of no use beside [`quorum_size`](Self::quorum_size), and refused there.
    pub tie_breaker: Option<NodeId>,
    /// A member that was away for longer is evicted, for the roster with which a mesh is founded. Default 72 h.
    pub max_offline: Duration,
    /// Whether a node that is not among a majority answers reads, with their age. Default yes.
    pub degraded_mode: bool,
    /// Whether it keeps writes for later, instead of refusing them. Default yes.
    pub queue_writes: bool,
}

impl Default for PartitionConfig {
    fn default() -> Self {
        Self {
            strategy: Strategy::Consistency,
            detection_timeout: Duration::from_secs(2),
            quorum_size: None,
            tie_breaker: None,
            max_offline: Duration::from_secs(72 * 3600),
            degraded_mode: true,
            queue_writes: true,
        }
    }
}

/// What a node does with what its clients ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Reads of what is shared.
    pub reads: Reads,
    /// Writes of what is shared.
    pub writes: Writes,
    /// Writes that are applied were made without a majority, and say so.
    pub marked: bool,
    /// Only messages between this node's own agents are passed on.
    pub local_messages_only: bool,
}

/// What is done with a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reads {
    /// It is answered.
    Answer,
    /// It is answered, and with how old that may be.
    AnswerWithAge,
    /// It is refused.
    Refuse(Barred),
}

/// What is done with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writes {
    /// It is made.
    Apply,
    /// It waits for a majority.
    Queue,
    /// It is refused.
    Refuse(Barred),
}

/// Why something is refused while a node is not among a majority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Barred {
    /// `degraded_mode: false`.
    #[error("this node is not among a majority and does not answer reads meanwhile (degraded_mode: false)")]
    Reads,
    /// `queue_writes: false`.
    #[error("this node is not among a majority and does not keep writes for later (queue_writes: false)")]
    Writes,
    /// [`Action::LocalOnly`].
    #[error("this node is not among a majority and does only what needs no other node (local-only)")]
    LocalOnly,
}

impl Permissions {
    /// What a mode and a strategy allow; `action` is what a custom strategy decided, and is not looked at with
    /// any other or while the node is healthy.
    ///
    /// A node that is joining queues writes under every strategy: it may yet turn out to be among a majority,
    /// and knows less than it did before it stopped.
    #[must_use]
    pub fn of(mode: Mode, config: &PartitionConfig, action: Action) -> Self {
        let alone = match mode {
            Mode::Healthy => return Self::ALL,
            Mode::Joining => false,
            Mode::Degraded | Mode::Recovering => true,
        };
        let held_back = Self {
            reads: if config.degraded_mode { Reads::AnswerWithAge } else { Reads::Refuse(Barred::Reads) },
            writes: if config.queue_writes { Writes::Queue } else { Writes::Refuse(Barred::Writes) },
            marked: false,
            local_messages_only: false,
        };
        match (&config.strategy, action) {
            (Strategy::Availability, _) if alone => Self { writes: Writes::Apply, marked: true, ..held_back },
            (Strategy::Decisions(_) | Strategy::Handler { .. }, Action::LocalOnly) if alone => {
                Self::LOCAL_ONLY
            }
            (Strategy::Consistency | Strategy::Availability, _)
            | (Strategy::Decisions(_) | Strategy::Handler { .. }, _) => held_back,
        }
    }

    const ALL: Self =
        Self { reads: Reads::Answer, writes: Writes::Apply, marked: false, local_messages_only: false };
    const LOCAL_ONLY: Self = Self {
        reads: Reads::Refuse(Barred::LocalOnly),
        writes: Writes::Refuse(Barred::LocalOnly),
        marked: false,
        local_messages_only: true,
    };
}

/// Why a node does not trust itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Doubt {
    /// Its event loop came so much too late. Over as soon as it has been said.
    #[error("the process stood still for {0:?}")]
    LoopLate(Duration),
    /// Its wall clock was set by so much. Over as soon as it has been said.
    #[error("the wall clock was set by {0:?}")]
    ClockStep(Duration),
    /// Its disk does not take what must be durable.
    #[error("the disk fails: {0}")]
    DiskFailed(String),
    /// So many of its earlier processes are remembered that it may not add one.
    #[error("too many earlier processes of this node are remembered that some member has not caught up with")]
    TooManyActors,
    /// Its wall clock is ahead of those of most peers.
    #[error("the wall clock is ahead of most peers'")]
    ClockAhead,
}

/// The doubts that last until they are taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoubtKind {
    /// [`Doubt::DiskFailed`].
    DiskFailed,
    /// [`Doubt::TooManyActors`].
    TooManyActors,
    /// [`Doubt::ClockAhead`].
    ClockAhead,
}

impl Doubt {
    /// The kind of one that lasts; `None` for one that is over as soon as it has been said.
    #[must_use]
    pub fn kind(&self) -> Option<DoubtKind> {
        match self {
            Self::LoopLate(_) | Self::ClockStep(_) => None,
            Self::DiskFailed(_) => Some(DoubtKind::DiskFailed),
            Self::TooManyActors => Some(DoubtKind::TooManyActors),
            Self::ClockAhead => Some(DoubtKind::ClockAhead),
        }
    }
}

/// Why a node's mode changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum ModeReason {
    /// Too few voters are heard.
    #[error("{reachable} of {voters} voters are heard, {quorum} are needed")]
    QuorumLost {
        /// Voters that are heard, this node among them if it votes.
        reachable: usize,
        /// All voters.
        voters: usize,
        /// How many are needed.
        quorum: usize,
    },
    /// The node doubts itself.
    #[error("{0}")]
    Doubt(Doubt),
    /// A quorum was heard for long enough.
    #[error("a quorum is heard again")]
    QuorumHeard,
    /// It is as far as a quorum and every other member that it reaches.
    #[error("as far as the others")]
    Synchronised,
}

/// What a node of a minority knows of its situation, for the command that decides what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionView {
    /// The node.
    pub node: NodeId,
    /// Its mode.
    pub mode: Mode,
    /// Whether it votes.
    pub voter: bool,
    /// The voters that it hears, itself among them if it votes.
    pub reachable: BTreeSet<NodeId>,
    /// The voters that it does not hear.
    pub unreachable: BTreeSet<NodeId>,
    /// How many voters make a quorum.
    pub quorum: usize,
    /// How long ago a majority was last heard, in milliseconds; `None`: never since the process started.
    pub age_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_healthy_node_serves_without_reserve() {
        let config = PartitionConfig::default();
        for mode in [Mode::Joining, Mode::Degraded, Mode::Recovering] {
            let may = Permissions::of(mode, &config, Action::LocalOnly);
            assert_eq!((may.reads, may.writes), (Reads::AnswerWithAge, Writes::Queue), "{mode}");
            assert!(!may.local_messages_only, "no custom strategy, no action of it");
        }
        assert_eq!(Permissions::of(Mode::Healthy, &config, Action::LocalOnly), Permissions::ALL);
    }

    #[test]
    fn a_minority_refuses_what_its_configuration_denies_it() {
        let config =
            PartitionConfig { degraded_mode: false, queue_writes: false, ..PartitionConfig::default() };
        let may = Permissions::of(Mode::Degraded, &config, Action::ReadOnly);
        assert_eq!(may.reads, Reads::Refuse(Barred::Reads));
        assert_eq!(may.writes, Writes::Refuse(Barred::Writes));
        assert_eq!(Permissions::of(Mode::Healthy, &config, Action::ReadOnly), Permissions::ALL);
    }

    #[test]
    fn availability_goes_on_writing_with_a_mark_and_local_only_stops_everything_shared() {
        let available = PartitionConfig { strategy: Strategy::Availability, ..PartitionConfig::default() };
        let may = Permissions::of(Mode::Degraded, &available, Action::ReadOnly);
        assert_eq!((may.writes, may.marked), (Writes::Apply, true));
        assert_eq!(Permissions::of(Mode::Joining, &available, Action::ReadOnly).writes, Writes::Queue);
        assert!(!Permissions::of(Mode::Healthy, &available, Action::ReadOnly).marked);
        let custom = PartitionConfig { strategy: Strategy::Decisions(vec![]), ..PartitionConfig::default() };
        assert_eq!(Permissions::of(Mode::Degraded, &custom, Action::LocalOnly), Permissions::LOCAL_ONLY);
        assert_eq!(Permissions::of(Mode::Degraded, &custom, Action::ReadOnly).writes, Writes::Queue);
    }
}
