//! What is asked of the replicated state, of the roster and of the mode, and what is answered.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::ids::{AgentName, NodeId, ProcessId};
use crate::core::limits;
use crate::core::model::{
    Clock, Dot, DotRange, Epoch, KeyUpdate, Mode, Outcome, PartitionView, Roster, Ticket, TicketView, Writer,
    check_key,
};

/// What one may ask of a node about the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateRequest {
    /// What it knows of a key.
    Get {
        /// The key.
        key: String,
    },
    /// Write a key, or delete it. Answered by [`StateAnswer::Written`] or [`StateAnswer::Queued`].
    Put {
        /// The key; none of `_mesh/` or `_owned/`.
        key: String,
        /// The value; `None` deletes.
        value: Option<Bytes>,
        /// What it replaces, as [`StateAnswer::Value`] has told; `None`: what the node has seen of the key.
        context: Option<Clock>,
        /// When it is answered.
        ack: Ack,
    },
    /// The same by an agent of the asked node, which replaces what its node has seen of the key. It is refused when
    /// another instance has taken the agent's place.
    PutBy {
        /// The agent.
        agent: AgentName,
        /// As above.
        key: String,
        /// As above.
        value: Option<Bytes>,
    },
    /// The keys with a prefix, in order.
    List {
        /// The prefix; may be empty.
        prefix: String,
        /// Only those after this one.
        after: Option<String>,
        /// At most so many, and at most [`STATE_PAGE_MAX`](limits::STATE_PAGE_MAX).
        limit: u32,
    },
    /// What became of a queued write.
    Ticket {
        /// Its ticket; of the asked node.
        ticket: Ticket,
    },
    /// Choose how concurrent values below a prefix are resolved, in the whole mesh; `None` takes a choice back.
    SetPolicy {
        /// The prefix.
        prefix: String,
        /// `lww`, `max`, `min`, `manual` or `custom`.
        policy: Option<String>,
    },
    /// The choices that were made.
    Policies,
    /// How the node stands: mode, queue, sizes.
    Status,
    /// Compare with every reachable node now, and take over what differs.
    Reconcile,
    /// Look at every key of every reachable node, and write those anew that nodes hold differently although they have
    /// taken in the same writes. Answered by [`StateAnswer::Mended`].
    Mend,
    /// The roster.
    Roster,
    /// Change a setting of the roster: `quorum_size`, `tie_breaker`, `max_offline_seconds`.
    SetRoster {
        /// Which.
        key: String,
        /// Its new value as text; `auto` or `none` for none.
        value: String,
        /// Allow a quorum so small that two sides could write at once.
        split_writes: bool,
    },
    /// Take a node out of the roster.
    Evict {
        /// Which.
        node: NodeId,
    },
    /// Overrule a lost quorum: a new chain of rosters, whose members are those that this node reaches.
    ForceRoster {
        /// Who does it and why, for the record.
        audit: String,
    },
    /// Finish a change of the roster that is under way, with those that can be reached.
    FinishRoster,
}

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// It is on the disk of the node that took it in.
    #[default]
    Local,
    /// It is on the disks of a quorum of the voters.
    Quorum,
}

/// What a node answers about the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateAnswer {
    /// A key.
    Value(StateValue),
    /// The write is made.
    Written {
        /// Names it.
        dot: Dot,
        /// It stands beside values that it has not replaced.
        is_sibling: bool,
        /// It was made without a majority (strategy `availability`).
        marked: bool,
        /// Voters that have it on their disk, this node among them if it votes. With [`Ack::Quorum`] a quorum.
        voters: u32,
    },
    /// There was nothing to delete.
    Absent,
    /// The node is not among a majority: the write is kept, and made when it is.
    Queued {
        /// Asks what became of it.
        ticket: Ticket,
    },
    /// Keys, in order.
    Page {
        /// The keys.
        entries: Vec<StateValue>,
        /// Whether there are more.
        more: bool,
    },
    /// A queued write.
    Ticket(TicketView),
    /// Prefixes with their policies.
    Policies(BTreeMap<String, String>),
    /// How the node stands.
    Status(Box<StateStatus>),
    /// What was compared.
    Reconciled {
        /// What each node that was reached had that this one had not, and the other way round, in dots. Absent: it
        /// did not answer in time.
        peers: BTreeMap<NodeId, Option<Difference>>,
    },
    /// What had come apart, and is written anew.
    Mended {
        /// What was found at each node that was reached. Absent: it did not answer in time.
        peers: BTreeMap<NodeId, Option<Inspected>>,
        /// The first of the keys, at most [`APART_KEYS_LISTED_MAX`](limits::APART_KEYS_LISTED_MAX).
        keys: Vec<String>,
        /// How many were written anew.
        written: u64,
    },
    /// The roster; `None`: this node does not know one yet.
    Roster(Option<Roster>),
}

/// What two nodes had and the other had not, in writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Difference {
    /// Writes that this node lacked.
    pub received: u64,
    /// Writes that the other lacked.
    pub sent: u64,
}

/// What was found when a node's keys were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inspected {
    /// Keys that had come apart.
    pub apart: u64,
    /// Keys that differed and were not judged: they were being written, or were beyond the bound.
    pub undecided: u64,
}

/// A key as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateValue {
    /// The key.
    pub key: String,
    /// The value that its policy chooses; `None` when there is none, or the policy chooses none.
    pub value: Option<SiblingValue>,
    /// The policy.
    pub policy: String,
    /// All values, when there are several.
    pub siblings: Vec<SiblingValue>,
    /// Names what was read; a write that is given it replaces exactly that.
    pub context: Clock,
    /// The mode of the node that was asked.
    pub mode: Mode,
    /// How old that may be which the node knows, in milliseconds; `None` while it is among a majority.
    pub age_ms: Option<u64>,
}

/// One of the values of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiblingValue {
    /// The value.
    pub value: Bytes,
    /// Who wrote it.
    pub writer: Writer,
    /// When, on that node's wall clock, in milliseconds since 1970.
    pub written_ms: u64,
    /// Names the write.
    pub dot: Dot,
}

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateStatus {
    /// Its situation.
    pub partition: PartitionView,
    /// Why it is in its mode, in words; empty while it is healthy.
    pub reason: String,
    /// Who gives orders at present, as far as known.
    pub lease_holder: Option<NodeId>,
    /// Keys with a value.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Writes that wait for a majority.
    pub queued: u64,
    /// Actors in its clock.
    pub actors: u64,
    /// Gaps in its clock: writes that are on their way.
    pub gaps: u64,
    /// Over the values of all keys, in hexadecimal digits: equal on nodes that know the same writes.
    pub hash: String,
    /// Keys that are kept in full until every member has acknowledged them.
    pub unsettled: u64,
    /// Local writes and replayed ones that this process has made.
    pub writes: u64,
    /// What peers sent that was refused.
    pub refused: u64,
}

/// A key has changed on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// The key.
    pub key: String,
    /// The value that its policy chooses now; `None`: it has none, or several.
    pub value: Option<Bytes>,
    /// How many values stand beside each other.
    pub siblings: u32,
}

/// A queued write has its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketDone {
    /// Its ticket.
    pub ticket: Ticket,
    /// Its key.
    pub key: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Key states on their way, and the ranges of dots that they make complete.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StateDelta {
    /// The keys.
    pub updates: Vec<KeyUpdate>,
    /// The ranges.
    pub closes: Vec<DotRange>,
    /// The hash of the floor within which the sender has forgotten what was replaced, 0 for none: of no use to a node
    /// that has not got as far.
    pub base: u64,
    /// How many more times it may be passed on.
    pub hops: u8,
    /// Whether a client waits for a quorum: the receiver tells what it has on its disk as soon as this is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ack: bool,
}

/// What a node and a peer tell each other of the past of the node's store: how an old copy of it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Past {
    /// This is on the sender's disk, and may be remembered of it.
    Kept {
        /// The start of its process.
        start: u64,
        /// How often its register has stored something.
        promises: u64,
        /// The process that the receiver has told it of last, with its promises, if its store accounts for them.
        accounts: Option<(ProcessId, u64)>,
    },
    /// The last process of the receiver's node that the sender has met is another one.
    Met {
        /// Its start.
        start: u64,
        /// Which one.
        process: ProcessId,
        /// The promises that it had stored, as far as told.
        promises: u64,
    },
}

/// What a voter says of itself, or a node of a large mesh of all voters that it has heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beats {
    /// How many more times this may be passed on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hops: u8,
    /// Of each voter one, at most [`limits::VOTERS_MAX`]; first the one that has begun to tell this.
    pub beats: Vec<Beat>,
}

/// A voter is there. Of all frames the one that is sent most often: hence the short names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The voter.
    #[serde(rename = "v")]
    pub voter: NodeId,
    /// Its process start.
    #[serde(rename = "s")]
    pub start: u64,
    /// Counts its beats.
    #[serde(rename = "n")]
    pub number: u64,
    /// Whether it holds the lease.
    #[serde(rename = "l", default, skip_serializing_if = "std::ops::Not::not")]
    pub leads: bool,
    /// What its wall clock showed, in milliseconds since 1970; absent: it does not say.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub unix_ms: Option<u64>,
    /// How long ago the sender heard it, in milliseconds.
    #[serde(rename = "a", default, skip_serializing_if = "is_zero")]
    pub age_ms: u32,
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

impl Beats {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.beats.len() > limits::VOTERS_MAX { Err("too many beats") } else { Ok(()) }
    }
}

/// A clock as it travels: what it has beyond a floor that the receiver most likely knows too. What every member has
/// is most of it: one actor for each process that ever wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Over the floor; 0: none, `beyond` is all of it.
    pub base: u64,
    /// What it has beyond that.
    pub beyond: Clock,
}

/// What two nodes compare to find out that one of them lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSummary {
    /// Over the writes that the node has seen.
    pub clock: u64,
    /// Over the values of its keys, of 128 bits the lower 64: with equal clocks it is equal.
    pub values: u64,
    /// The roster that it knows.
    pub epoch: Option<Epoch>,
}

impl StateDelta {
    /// Checks the bounds of a delta that came from elsewhere.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        check_updates(&self.updates, &self.closes)
    }
}

/// One part of what one node has and the other lacks; see `state::Part`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatePart {
    /// The number of the question that it answers.
    pub question: u64,
    /// Its number, from 0.
    pub number: u64,
    /// The keys.
    pub updates: Vec<KeyUpdate>,
    /// In the first part of a snapshot: what the sender had seen, beyond its floor.
    pub known: Option<Seen>,
    /// Of a snapshot: the part is about the keys after this one...
    pub after: Option<String>,
    /// ...up to this one.
    pub upto: Option<String>,
    /// The ranges that are complete now.
    pub closes: Vec<DotRange>,
    /// Whether it is the last.
    pub is_last: bool,
    /// In the last part: the number of the sender's floor, and how many writes it lacks that the asker has.
    #[serde(default)]
    pub floor: u64,
    /// See `floor`.
    #[serde(default)]
    pub lacks: u64,
    /// In the last part: the hashes of floors that the sender has got as far as, and with it the asker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub covers: Vec<u64>,
}

impl StatePart {
    /// Checks the bounds of a part that came from elsewhere.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        check_updates(&self.updates, &self.closes)?;
        if self.covers.len() > limits::FLOORS_COVERED_MAX {
            return Err("too many floors");
        }
        if let Some(known) = &self.known {
            known.beyond.check()?;
        }
        [&self.after, &self.upto].into_iter().flatten().try_for_each(|key| check_key(key))
    }
}

fn check_updates(updates: &[KeyUpdate], closes: &[DotRange]) -> Result<(), &'static str> {
    if updates.len() > limits::STATE_KEYS_PER_FRAME_MAX {
        return Err("too many keys");
    }
    if closes.len() > limits::STATE_RANGES_PER_FRAME_MAX {
        return Err("too many ranges of dots");
    }
    updates.iter().try_for_each(KeyUpdate::check)?;
    closes.iter().try_for_each(DotRange::check)
}

impl StateAnswer {
    /// Checks the bounds of an answer that came from elsewhere.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Value(value) => value.context.check(),
            Self::Page { entries, .. } if entries.len() > limits::STATE_PAGE_MAX => Err("too many keys"),
            Self::Page { entries, .. } => entries.iter().try_for_each(|value| value.context.check()),
            Self::Reconciled { peers } if peers.len() > limits::PEERS_MAX => Err("too many nodes"),
            Self::Mended { peers, .. } if peers.len() > limits::PEERS_MAX => Err("too many nodes"),
            Self::Mended { keys, .. } if keys.len() > limits::APART_KEYS_LISTED_MAX => Err("too many keys"),
            Self::Status(status) if has_too_many(&status.partition) => Err("too many nodes"),
            Self::Written { .. }
            | Self::Absent
            | Self::Queued { .. }
            | Self::Ticket(_)
            | Self::Policies(_)
            | Self::Status(_)
            | Self::Reconciled { .. }
            | Self::Mended { .. }
            | Self::Roster(_) => Ok(()),
        }
    }
}

fn has_too_many(view: &PartitionView) -> bool {
    let many = |nodes: &BTreeSet<NodeId>| nodes.len() > limits::PEERS_MAX;
    many(&view.reachable) || many(&view.unreachable)
}
