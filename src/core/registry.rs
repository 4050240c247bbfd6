//! What each node says about itself: the records `_owned/<node>/...`.
//!
//! One writer a node: only it writes them, numbered from 1 within its process start. They are ordered
//! by (start, number), exchanged by digest when a link forms and when summaries differ, sent as deltas
//! at once, never stored, and gone from routing when their node is. A higher start replaces everything
//! of a lower one. Relayed records are the relay's word: nothing but the owner's certificate could prove
//! them, and they do not carry it.
//!
//! This room orders and keeps the records; it does not know which nodes are alive.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::ids::{AgentName, NodeId};
use super::limits;
use super::model::{AgentRecord, Load, NodeCard, Tallies};
use super::wire::{OwnedBatch, OwnedRecord, OwnedVersion, WireError, decode_value, encode_value};

/// The path of a node's card.
const NODE_PATH: &str = "node";
/// The path of a node's load.
const LOAD_PATH: &str = "load";
/// The path of what a node doubts about itself; there while it does.
const DOUBTS_PATH: &str = "doubts";
/// The path of what became of the messages of its instances on trial; there while it has some.
const TALLIES_PATH: &str = "tallies";
/// The path of that a node leaves for good; there while it does.
const LEAVING_PATH: &str = "leaving";
/// What the paths of a node's agents begin with.
const AGENTS_PREFIX: &str = "agents/";

/// What one node has published, decoded once.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    start: u64,
    n: u64,
    /// Every record's newest number and value; `None` is a removal that peers may still have to hear of.
    records: BTreeMap<String, (u64, Option<Bytes>)>,
    /// A delta cannot tell what happened up to here any more; such peers get a snapshot.
    floor: u64,
    pub(crate) card: Option<NodeCard>,
    pub(crate) load: Option<Load>,
    /// In words, for people.
    pub(crate) doubts: Vec<String>,
    pub(crate) tallies: Tallies,
    /// It leaves for good: what it runs by order is to go elsewhere.
    pub(crate) leaves: bool,
    pub(crate) agents: BTreeMap<AgentName, AgentRecord>,
}

/// What a batch changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// Everything in it was known.
    Old,
    /// It continues at a point that this node has not reached: ask for what is between.
    Gap,
    /// These things of the owner changed.
    Changed {
        /// Its card.
        card: bool,
        /// What it doubts about itself.
        doubts: bool,
        /// Whether it leaves for good.
        leaves: bool,
        /// Its agents, as (name, what it was before).
        agents: Vec<(AgentName, Option<AgentRecord>)>,
    },
}

/// The records of all nodes.
#[derive(Debug)]
pub(crate) struct Registry {
    own: NodeId,
    owners: BTreeMap<NodeId, Owner>,
    /// The hash of the digest as it was last asked for; `None` since a change.
    hash: Cell<Option<u64>>,
}

impl Registry {
    pub(crate) fn new(own: NodeId, start: u64) -> Self {
        let owners = BTreeMap::from([(own.clone(), Owner { start, ..Owner::default() })]);
        Self { own, owners, hash: Cell::new(None) }
    }

    pub(crate) fn owner(&self, node: &NodeId) -> Option<&Owner> {
        self.owners.get(node)
    }

    pub(crate) fn owners(&self) -> impl ExactSizeIterator<Item = (&NodeId, &Owner)> {
        self.owners.iter()
    }

    /// Publishes this node's card. Returns the delta to send.
    pub(crate) fn publish_card(&mut self, card: &NodeCard) -> Option<OwnedBatch> {
        self.write(NODE_PATH.to_owned(), Some(encode_value(card)))
    }

    /// Publishes this node's load.
    pub(crate) fn publish_load(&mut self, load: &Load) -> Option<OwnedBatch> {
        self.write(LOAD_PATH.to_owned(), Some(encode_value(load)))
    }

    /// Publishes what this node doubts about itself; of each doubt the first [`limits::DOUBT_BYTES_MAX`] bytes.
    pub(crate) fn publish_doubts(&mut self, mut doubts: Vec<String>) -> Option<OwnedBatch> {
        doubts.truncate(limits::DOUBTS_MAX);
        for doubt in &mut doubts {
            doubt.truncate(doubt.floor_char_boundary(limits::DOUBT_BYTES_MAX));
        }
        if self.owner(&self.own).is_some_and(|own| own.doubts == doubts) {
            return None;
        }
        let value = (!doubts.is_empty()).then(|| encode_value(&doubts));
        self.write(DOUBTS_PATH.to_owned(), value)
    }

    /// Publishes what became of the messages of its instances on trial; at most [`limits::TALLIES_MAX`] of them.
    pub(crate) fn publish_tallies(&mut self, tallies: &Tallies) -> Option<OwnedBatch> {
        debug_assert!(tallies.len() <= limits::TALLIES_MAX, "no more are asked for");
        let value = (!tallies.is_empty()).then(|| encode_value(tallies));
        self.write(TALLIES_PATH.to_owned(), value)
    }

    /// Publishes that this node leaves for good, or that it does not after all.
    pub(crate) fn publish_leaving(&mut self, leaves: bool) -> Option<OwnedBatch> {
        self.write(LEAVING_PATH.to_owned(), leaves.then(|| encode_value(&true)))
    }

    /// Publishes one of this node's agents, or that it is gone.
    pub(crate) fn publish_agent(
        &mut self,
        agent: &AgentName,
        record: Option<&AgentRecord>,
    ) -> Option<OwnedBatch> {
        self.write(format!("{AGENTS_PREFIX}{agent}"), record.map(encode_value))
    }

    /// Begins a new process start: everything published is numbered anew under it.
    pub(crate) fn restart(&mut self, start: u64) {
        let own = self.own_mut();
        let records = std::mem::take(&mut own.records);
        (own.start, own.n, own.floor) = (start, 0, 0);
        for (path, (_, value)) in records {
            if value.is_some() {
                own.n += 1;
                own.records.insert(path, (own.n, value));
            }
        }
    }

    fn own_mut(&mut self) -> &mut Owner {
        self.hash.set(None);
        self.owners.get_mut(&self.own).expect("the own entry is made with the registry and never removed")
    }

    fn write(&mut self, path: String, value: Option<Bytes>) -> Option<OwnedBatch> {
        let node = self.own.clone();
        let own = self.own_mut();
        let known = own.records.get(&path).map(|(_, v)| v);
        if known == Some(&value) || (known.is_none() && value.is_none()) {
            return None;
        }
        own.n += 1;
        let record = OwnedRecord { path: path.clone(), n: own.n, value: value.clone() };
        own.records.insert(path.clone(), (own.n, value.clone()));
        own.index(&path, value.as_ref()).expect("what this node encodes it decodes");
        if value.is_none() {
            own.collect();
        }
        let (after, upto) = (own.n - 1, own.n);
        Some(OwnedBatch { node, start: own.start, after, upto, floor: own.floor, records: vec![record] })
    }

    /// How much of each node's records this node has.
    pub(crate) fn digest(&self) -> Vec<OwnedVersion> {
        let version = |(node, owner): (&NodeId, &Owner)| OwnedVersion {
            node: node.clone(),
            start: owner.start,
            n: owner.n,
        };
        self.owners.iter().map(version).collect()
    }

    /// Up to which start and number this node has another's records.
    pub(crate) fn version_of(&self, node: &NodeId) -> Option<(u64, u64)> {
        self.owners.get(node).map(|owner| (owner.start, owner.n))
    }

    /// A hash that is equal on two nodes with equal digests (FNV-1a).
    ///
    /// It is asked for with every summary and every new link, and kept until something changes.
    pub(crate) fn digest_hash(&self) -> u64 {
        if let Some(hash) = self.hash.get() {
            return hash;
        }
        let hash = self.hash_digest();
        self.hash.set(Some(hash));
        hash
    }

    fn hash_digest(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        for (node, owner) in &self.owners {
            node.as_str().bytes().for_each(&mut mix);
            mix(0);
            owner.start.to_le_bytes().into_iter().for_each(&mut mix);
            owner.n.to_le_bytes().into_iter().for_each(&mut mix);
        }
        hash
    }

    /// What somebody with this digest lacks, in batches that fit into frames.
    pub(crate) fn newer_than(&self, have: &[OwnedVersion]) -> Vec<OwnedBatch> {
        let have: BTreeMap<_, _> = have.iter().map(|v| (&v.node, (v.start, v.n))).collect();
        let mut batches = Vec::new();
        for (node, owner) in &self.owners {
            let (start, n) = have.get(node).copied().unwrap_or((0, 0));
            if (start, n) >= (owner.start, owner.n) {
                continue;
            }
            let after = if start == owner.start && n >= owner.floor { n } else { 0 };
            owner.batches(node, after, &mut batches);
        }
        batches
    }

    /// Takes in records of another node.
    ///
    /// # Errors
    /// [`WireError`] when a record does not decode; what came before it in the batch is kept, and the
    /// owner's number is not moved, so that the next digest asks again.
    pub(crate) fn apply(&mut self, batch: &OwnedBatch) -> Result<Applied, WireError> {
        if batch.node == self.own {
            return Ok(Applied::Old);
        }
        if !self.owners.contains_key(&batch.node) && self.owners.len() > limits::PEERS_MAX {
            return Err(WireError::Bound("too many nodes"));
        }
        let (start, n) = self.owners.get(&batch.node).map_or((0, 0), |owner| (owner.start, owner.n));
        if (batch.start, batch.upto) <= (start, n) {
            return Ok(Applied::Old);
        }
        if batch.start > start.saturating_add(limits::INCARNATION_START_JUMP_MAX) {
            return Err(WireError::Bound("its process start is absurd"));
        }
        let snapshot = batch.after == 0;
        if !snapshot && (batch.start != start || batch.after > n) {
            return Ok(Applied::Gap);
        }
        // A snapshot is made beside what is known: one with a bad record changes nothing.
        let mut made = Owner { start: batch.start, ..Owner::default() };
        if snapshot {
            batch.records.iter().try_for_each(|record| made.take(record, &batch.node))?;
        }
        self.hash.set(None);
        let owner = self.owners.entry(batch.node.clone()).or_default();
        let (card_before, doubts_before) = (owner.card.clone(), owner.doubts.clone());
        let left_before = owner.leaves;
        let mut agents_before = BTreeMap::new();
        if snapshot {
            agents_before = std::mem::replace(owner, made).agents;
        } else {
            let names = batch.records.iter().filter_map(|r| agent_of(&r.path));
            agents_before.extend(names.filter_map(|name| owner.agents.get_key_value(&name)).map(clone_pair));
            batch.records.iter().try_for_each(|record| owner.take(record, &batch.node))?;
        }
        owner.n = batch.upto;
        owner.floor = owner.floor.max(batch.floor);
        owner.collect();
        Ok(Applied::Changed {
            card: owner.card != card_before,
            doubts: owner.doubts != doubts_before,
            leaves: owner.leaves != left_before,
            agents: changed_agents(&agents_before, owner, batch),
        })
    }

    pub(crate) fn forget(&mut self, node: &NodeId) {
        if node != &self.own {
            self.hash.set(None);
            self.owners.remove(node);
        }
    }
}

fn clone_pair((name, record): (&AgentName, &AgentRecord)) -> (AgentName, AgentRecord) {
    (name.clone(), record.clone())
}

fn agent_of(path: &str) -> Option<AgentName> {
    AgentName::new(path.strip_prefix(AGENTS_PREFIX)?).ok()
}

fn changed_agents(
    before: &BTreeMap<AgentName, AgentRecord>,
    owner: &Owner,
    batch: &OwnedBatch,
) -> Vec<(AgentName, Option<AgentRecord>)> {
    let told = batch.records.iter().filter_map(|r| agent_of(&r.path));
    let names: BTreeSet<_> = before.keys().cloned().chain(told).collect();
    let changed = names.into_iter().filter(|name| before.get(name) != owner.agents.get(name));
    changed.map(|name| (name.clone(), before.get(&name).cloned())).collect()
}

impl Owner {
    /// The owner's start, its number, and a hash of what there is then (FNV-1a over paths and values).
    pub(crate) fn version(&self) -> (u64, u64, u64) {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |byte: &u8| hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        for (path, (_, value)) in &self.records {
            if let Some(value) = value {
                path.as_bytes().iter().chain(&[0]).for_each(&mut mix);
                value.iter().for_each(&mut mix);
            }
        }
        (self.start, self.n, hash)
    }

    fn take(&mut self, record: &OwnedRecord, node: &NodeId) -> Result<(), WireError> {
        if self.records.get(&record.path).is_some_and(|(n, _)| *n >= record.n) {
            return Ok(());
        }
        if !self.records.contains_key(&record.path) && self.records.len() >= limits::OWNED_RECORDS_MAX {
            return Err(WireError::Bound("a node has too many records"));
        }
        self.index(&record.path, record.value.as_ref())?;
        if self.card.as_ref().is_some_and(|card| &card.node_id != node) {
            self.card = None;
            return Err(WireError::Bound("a node's card names another node"));
        }
        self.records.insert(record.path.clone(), (record.n, record.value.clone()));
        Ok(())
    }

    /// Decodes the records that this version knows. Others are kept and passed on unread.
    fn index(&mut self, path: &str, value: Option<&Bytes>) -> Result<(), WireError> {
        match path {
            NODE_PATH => {
                let card = value.map(|v| decode_value::<NodeCard>(v)).transpose()?;
                if let Some(card) = &card {
                    card.check().map_err(WireError::Bound)?;
                }
                self.card = card;
            }
            LOAD_PATH => self.load = value.map(|v| decode_value(v)).transpose()?,
            DOUBTS_PATH => {
                let doubts: Vec<String> = value.map(|v| decode_value(v)).transpose()?.unwrap_or_default();
                let is_long = doubts.iter().any(|doubt| doubt.len() > limits::DOUBT_BYTES_MAX);
                if is_long || doubts.len() > limits::DOUBTS_MAX {
                    return Err(WireError::Bound("a node doubts itself at too great length"));
                }
                self.doubts = doubts;
            }
            LEAVING_PATH => {
                self.leaves = value.map(|v| decode_value::<bool>(v)).transpose()?.unwrap_or(false);
            }
            TALLIES_PATH => {
                let tallies: Tallies = value.map(|v| decode_value(v)).transpose()?.unwrap_or_default();
                if tallies.len() > limits::TALLIES_MAX {
                    return Err(WireError::Bound("a node counts for too many instances"));
                }
                self.tallies = tallies;
            }
            other => {
                if !other.starts_with(AGENTS_PREFIX) {
                    return Ok(());
                }
                let name = agent_of(other).ok_or(WireError::Bound("an agent's name is not valid"))?;
                let record = value.map(|value| decode_value::<AgentRecord>(value)).transpose()?;
                record.as_ref().map_or(Ok(()), AgentRecord::check).map_err(WireError::Bound)?;
                match record {
                    Some(record) => self.agents.insert(name, record),
                    None => self.agents.remove(&name),
                };
            }
        }
        Ok(())
    }

    /// Drops the oldest removals above their bound and raises the floor over them.
    fn collect(&mut self) {
        let removed = |(path, (n, value)): (&String, &(u64, Option<Bytes>))| {
            value.is_none().then(|| (*n, path.clone()))
        };
        let mut gone: Vec<_> = self.records.iter().filter_map(removed).collect();
        if gone.len() <= limits::OWNED_TOMBSTONES_MAX {
            return;
        }
        gone.sort_unstable();
        for (n, path) in gone.drain(..gone.len() - limits::OWNED_TOMBSTONES_MAX / 2) {
            self.records.remove(&path);
            self.floor = self.floor.max(n);
        }
    }

    fn batches(&self, node: &NodeId, after: u64, out: &mut Vec<OwnedBatch>) {
        let record = |(path, (n, value)): (&String, &(u64, Option<Bytes>))| OwnedRecord {
            path: path.clone(),
            n: *n,
            value: value.clone(),
        };
        let mut records: Vec<_> = self.records.iter().map(record).filter(|r| r.n > after).collect();
        records.sort_unstable_by_key(|r| r.n);
        let (start, floor) = (self.start, self.floor);
        let mut batch = OwnedBatch { node: node.clone(), start, after, upto: after, floor, records: vec![] };
        let mut bytes = 0;
        for record in records {
            let size = record.path.len() + record.value.as_ref().map_or(0, Bytes::len) + 32;
            if bytes + size > limits::OWNED_FRAME_BYTES_MAX {
                let next = OwnedBatch { after: batch.upto, records: vec![], ..batch.clone() };
                out.push(std::mem::replace(&mut batch, next));
                bytes = 0;
            }
            bytes += size;
            batch.upto = record.n;
            batch.records.push(record);
        }
        batch.upto = self.n;
        out.push(batch);
    }
}

#[cfg(test)]
mod tests;
