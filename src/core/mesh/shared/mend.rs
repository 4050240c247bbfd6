//! Bringing together keys that have come apart on nodes with equal clocks, on an operator's word; see
//! `core::state::Inspection` for what that means and which keys are judged.
//!
//! One peer after the other sends everything that it holds, and this node compares. Then it writes the keys that have
//! come apart anew, a batch at a time: ordinary writes, which spread as such. Nothing is written unless this node
//! is among a majority.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Mesh, Pending, Requester};
use super::repair::Purpose;
use super::writes::{By, Durable};
use crate::core::error::Refusal;
use crate::core::ids::{NodeId, NodeKey};
use crate::core::limits;
use crate::core::model::{KeyState, Writer, Writes};
use crate::core::state::{Inspection, Key, Part, WriteError};
use crate::core::time::Instant;
use crate::core::wire::{Ack, Inspected, ResponseBody, StateAnswer};

/// How long one peer may take to send everything.
const INSPECTION_PATIENCE: Duration = Duration::from_secs(120);
/// How long this node may take to come as far as the peer was.
const CATCHING_UP_PATIENCE: Duration = Duration::from_secs(10);
/// Keys that are written anew at once, four times a second.
const KEYS_AT_ONCE: usize = 256;

/// The work for one operator.
#[derive(Debug)]
pub(super) struct Mending {
    requester: Requester,
    step: Step,
    /// Since when it has been at its step.
    since: Instant,
    /// Who is still to be inspected.
    left: Vec<NodeKey>,
    peers: BTreeMap<NodeId, Option<Inspected>>,
    /// What has come apart, as each of the peers holds it.
    apart: BTreeMap<Key, Vec<KeyState>>,
    /// The first of those keys.
    listed: Vec<String>,
    /// How many have been written anew.
    written: u64,
}

#[derive(Debug)]
enum Step {
    /// A peer sends everything.
    Inspecting { key: NodeKey, inspection: Inspection },
    /// It has; what it had seen is still on its way to this node.
    CatchingUp { key: NodeKey, inspection: Inspection },
    /// Keys are written anew; so many writes are on their way to the disk.
    Writing { under_way: usize },
}

impl Mesh {
    /// Inspects every member that there is a link to, and writes anew what has come apart.
    pub(super) fn mend(&mut self, requester: Requester) {
        if self.shared.mending.is_some() {
            let what = "the inspection of all nodes, which is under way,".to_owned();
            return self.answer(requester, Err(Refusal::Overloaded { what }));
        }
        if let Err(refusal) = self.may_mend() {
            return self.answer(requester, Err(refusal));
        }
        let mut left = self.linked();
        // Of a node that is no member, nobody knows what it lacks.
        left.retain(|key| self.is_member(key));
        let peers = left.iter().filter_map(|key| Some((self.node_of(key)?, None))).collect();
        self.shared.mending = Some(Mending {
            requester,
            step: Step::Writing { under_way: 0 },
            since: self.now,
            left,
            peers,
            apart: BTreeMap::new(),
            listed: vec![],
            written: 0,
        });
        self.inspect_next();
    }

    fn may_mend(&self) -> Result<(), Refusal> {
        if self.is_leaving() {
            return Err(self.leaving());
        }
        if self.shared.partition.permissions().writes == Writes::Apply && self.takes_rows() {
            return Ok(());
        }
        let why = "this node cannot write now, and what has come apart is brought together by writing it anew: \
            try again when it is among a majority and its disk works";
        Err(Refusal::Barred { node: self.own.clone(), why: why.to_owned() })
    }

    fn inspect_next(&mut self) {
        let now = self.now;
        let Some(mending) = &mut self.shared.mending else {
            return;
        };
        mending.since = now;
        let Some(key) = mending.left.pop() else {
            mending.listed =
                mending.apart.keys().take(limits::APART_KEYS_LISTED_MAX).map(ToString::to_string).collect();
            mending.step = Step::Writing { under_way: 0 };
            return self.write_anew();
        };
        mending.step = Step::Inspecting { key, inspection: Inspection::default() };
        self.shared.asked.remove(&key);
        self.ask(key, Purpose::Inspect);
    }

    /// A part of what a peer that is being inspected holds.
    pub(super) fn on_inspected(&mut self, from: NodeKey, part: &Part) {
        let Some(mending) = &mut self.shared.mending else {
            return;
        };
        let Step::Inspecting { key, inspection } = &mut mending.step else {
            return;
        };
        if *key != from {
            return;
        }
        inspection.take(&self.shared.state, part);
        if part.is_last {
            let inspection = std::mem::take(inspection);
            mending.step = Step::CatchingUp { key: from, inspection };
            mending.since = self.now;
            self.catch_up();
        }
    }

    /// Now and then: goes on with what waits, and gives up what has waited for too long.
    pub(super) fn retry_mending(&mut self) {
        let Some(mending) = &mut self.shared.mending else {
            return;
        };
        let waited = self.now.since(mending.since);
        match &mut mending.step {
            Step::Inspecting { key, inspection } => {
                let key = *key;
                if waited >= INSPECTION_PATIENCE || self.links.proven(&key).is_none() {
                    return self.inspect_next();
                }
                if !self.shared.asked.contains_key(&key) {
                    // It fell silent, or had too much to do: from the beginning.
                    *inspection = Inspection::default();
                    self.ask(key, Purpose::Inspect);
                }
            }
            Step::CatchingUp { .. } if waited >= CATCHING_UP_PATIENCE => self.inspect_next(),
            Step::CatchingUp { .. } => self.catch_up(),
            Step::Writing { .. } => self.write_anew(),
        }
    }

    /// Judges what was found at a peer as soon as this node has everything that the peer had seen.
    fn catch_up(&mut self) {
        let Some(mending) = &mut self.shared.mending else {
            return;
        };
        let Step::CatchingUp { key, inspection } = &mut mending.step else {
            return;
        };
        let key = *key;
        if !self.shared.state.clock().covers(inspection.known()) {
            return self.ask_state(key);
        }
        let found = std::mem::take(inspection).finish(&self.shared.state);
        let told = Inspected { apart: found.keys.len() as u64, undecided: found.undecided };
        for (key, theirs) in found.keys {
            let is_full = mending.apart.len() >= limits::APART_KEYS_MAX && !mending.apart.contains_key(&key);
            if !is_full {
                mending.apart.entry(key).or_default().push(theirs);
            }
        }
        if let Some(node) = self.node_of(&key)
            && let Some(mending) = &mut self.shared.mending
        {
            mending.peers.insert(node, Some(told));
        }
        self.inspect_next();
    }

    /// Writes the next keys anew; when all are on the disk, the operator is answered.
    fn write_anew(&mut self) {
        let Some(Mending { step: Step::Writing { under_way: 0 }, .. }) = &self.shared.mending else {
            return;
        };
        let is_busy = self.pending.len() + KEYS_AT_ONCE >= limits::STATE_WRITES_WAITING_MAX;
        let apart = self.shared.mending.as_mut().map(|mending| std::mem::take(&mut mending.apart));
        let mut apart = apart.unwrap_or_default();
        if apart.is_empty() {
            return self.end_mending(Ok(()));
        }
        if let Err(refusal) = self.may_mend() {
            return self.end_mending(Err(refusal));
        }
        let mut under_way = 0;
        for _ in 0..KEYS_AT_ONCE {
            let Some((key, theirs)) = (if is_busy { None } else { apart.pop_first() }) else {
                break;
            };
            match self.write_one_anew(&key, &theirs) {
                Ok(writes) => under_way += writes,
                Err(error @ (WriteError::Disk | WriteError::Full(_))) => {
                    return self.end_mending(Err(self.refusal(error)));
                }
                Err(error) => {
                    tracing::error!(%key, %error, "a key that has come apart cannot be written anew");
                    if let Some(mending) = &mut self.shared.mending {
                        mending.listed.retain(|listed| **listed != *key);
                    }
                }
            }
        }
        if let Some(mending) = &mut self.shared.mending {
            mending.apart = apart;
            mending.step = Step::Writing { under_way };
        }
    }

    fn write_one_anew(&mut self, key: &str, theirs: &[KeyState]) -> Result<usize, WriteError> {
        let mended = self.shared.state.mended(key, theirs.iter());
        tracing::warn!(key, values = mended.values.len(), "a key that had come apart is written anew");
        let deletes = mended.values.is_empty();
        let values = mended.values.into_iter().map(Some).chain(deletes.then_some(None));
        let mut writes = 0;
        for value in values {
            let (hlc, writer) = (self.next_hlc(), Arc::new(Writer { node: self.own.clone(), slot: None }));
            let (dot, flush, changes) =
                self.write(key, value, Some(&mended.context), hlc, &writer, vec![])?;
            let durable = Durable::Write { dot, flush, ack: Ack::Local, marked: false, by: By::Mending };
            self.persist(changes, Pending::Shared(durable));
            writes += 1;
        }
        if let Some(mending) = &mut self.shared.mending {
            mending.written += 1;
        }
        Ok(writes)
    }

    /// One of the writes is on the disk, or could not be brought there.
    pub(super) fn on_written_anew(&mut self, result: Result<(), Refusal>) {
        if result.is_err() {
            return self.end_mending(result);
        }
        if let Some(Mending { step: Step::Writing { under_way }, .. }) = &mut self.shared.mending {
            *under_way = under_way.saturating_sub(1);
            if *under_way == 0 && self.shared.mending.as_ref().is_some_and(|m| m.apart.is_empty()) {
                self.end_mending(Ok(()));
            }
        }
    }

    fn end_mending(&mut self, result: Result<(), Refusal>) {
        let Some(Mending { requester, peers, listed, written, .. }) = self.shared.mending.take() else {
            return;
        };
        let answer = StateAnswer::Mended { peers, keys: listed, written };
        self.answer(requester, result.map(|()| ResponseBody::State(answer)));
    }
}
