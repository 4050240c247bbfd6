//! foca's runtime: an outbox. Whatever foca wants sent, scheduled or told is kept in order and handed
//! to the mesh, and every delay is ours to set; of its timers only those of its own probing are dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use foca::{Header, Message, Notification, Timer};

use super::identity::Identity;
use super::packet::{self, Form, Note};
use super::timings::Timings;
use crate::core::ids::NodeKey;

/// How much of the gossip to one place is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crossing {
    pub(super) share: f64,
    /// What has gathered since the last packet.
    pub(super) due: f64,
}

/// What foca asked for, in order.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) packets: Vec<(NodeKey, Vec<u8>)>,
    pub(super) timers: Vec<(Duration, Timer<Identity>)>,
    /// Members whose state may have changed.
    pub(super) touched: BTreeSet<NodeKey>,
    /// foca took a new identity.
    pub(super) renewed: bool,
    /// foca gave up on its identity: nothing more will come of it until it gets another.
    pub(super) defunct: bool,
    pub(super) note: Note,
    pub(super) timings: Timings,
    /// Members that are known to read packets of the compact form.
    pub(super) modern: BTreeSet<NodeKey>,
    /// How often this node has refuted within its incarnation: foca tells it in its packets only.
    pub(super) refutations: u16,
    /// This node's coordinate, for every second packet to those who read it.
    pub(super) coordinate: Vec<u8>,
    sealed: u32,
    /// Where members are; 0 where nothing is known.
    pub(super) places: BTreeMap<NodeKey, u64>,
    /// Of the gossip that chance sends to other places, which share is kept.
    pub(super) crossings: BTreeMap<u64, Crossing>,
    /// The live members to whom gossip of a large mesh goes, because there are links to them; empty in a small one.
    pub(super) near: BTreeMap<NodeKey, Identity>,
    /// Whose turn among them was last.
    near_last: NodeKey,
}

impl Outbox {
    pub(super) fn new(timings: Timings) -> Self {
        Self {
            packets: Vec::new(),
            timers: Vec::new(),
            touched: BTreeSet::new(),
            renewed: false,
            defunct: false,
            note: Note::default(),
            timings,
            modern: BTreeSet::new(),
            refutations: 0,
            coordinate: Vec::new(),
            sealed: 0,
            places: BTreeMap::new(),
            crossings: BTreeMap::new(),
            near: BTreeMap::new(),
            near_last: NodeKey([0; 16]),
        }
    }

    /// Whom foca's gossip for a member goes to: in a large mesh to the next one that there is a link to, and not to
    /// one that would have to be dialled for it.
    fn turn_to_near(&mut self, to: Identity) -> Identity {
        if self.near.contains_key(&to.key) || self.near.len() < usize::from(self.timings.gossip_fanout) {
            return to;
        }
        let after = (Bound::Excluded(self.near_last), Bound::Unbounded);
        let next = self.near.range(after).next().or_else(|| self.near.first_key_value());
        let Some((key, identity)) = next else {
            return to;
        };
        self.near_last = *key;
        *identity
    }

    /// Whether gossip for a member goes out: all does, but for a share of that to other places.
    fn crosses(&mut self, to: &NodeKey) -> bool {
        let place = self.places.get(to).copied().unwrap_or(0);
        let Some(crossing) = self.crossings.get_mut(&place) else {
            return true;
        };
        // The share is kept evenly, without a draw.
        crossing.due += crossing.share;
        let goes = crossing.due >= 1.0;
        crossing.due -= if goes { 1.0 } else { 0.0 };
        goes
    }

    /// Puts a packet together in the form that its receiver reads.
    pub(super) fn seal(&mut self, to: &NodeKey, note: &Note, foca_bytes: &[u8]) -> Vec<u8> {
        if !self.modern.contains(to) {
            return packet::seal(Form::Full, note, foca_bytes);
        }
        self.sealed = self.sealed.wrapping_add(1);
        if self.sealed.is_multiple_of(2) || self.coordinate.is_empty() {
            return packet::seal(Form::Compact, note, foca_bytes);
        }
        let note = Note { coordinate: self.coordinate.clone(), ..note.clone() };
        packet::seal(Form::Compact, &note, foca_bytes)
    }
}

impl foca::Runtime<Identity> for Outbox {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::MemberUp(member) | Notification::MemberDown(member) => {
                self.touched.insert(member.key);
            }
            Notification::Rename(_, member) => {
                self.touched.insert(member.key);
            }
            Notification::Rejoin(_) => self.renewed = true,
            Notification::Defunct => self.defunct = true,
            Notification::Active | Notification::Idle => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        let header = postcard::take_from_bytes::<Header<Identity>>(data);
        let (header, rest) = header.expect("foca's packets begin with a header of this codec");
        self.refutations = header.src_incarnation;
        let is_gossip = header.message == Message::Gossip;
        let near = if is_gossip { self.turn_to_near(to) } else { to };
        if is_gossip && !self.crosses(&near.key) {
            return;
        }
        let note = self.note.clone();
        let packet = if near == to {
            self.seal(&to.key, &note, data)
        } else {
            let header = Header { dst: near, ..header };
            let mut bytes = postcard::to_allocvec(&header).expect("plain numbers always encode");
            bytes.extend_from_slice(rest);
            self.seal(&near.key, &note, &bytes)
        };
        self.packets.push((near.key, packet));
    }

    /// Replaces foca's delays by ours, which follow the size of the mesh; foca's own are fixed for life.
    fn submit_after(&mut self, timer: Timer<Identity>, asked: Duration) {
        let after = match &timer {
            // The room probes by itself, and times suspicions itself.
            Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } => return,
            Timer::ChangeSuspectToDown { member_id, .. } => {
                self.touched.insert(member_id.key);
                return;
            }
            Timer::PeriodicGossip(_) => self.timings.gossip_interval,
            Timer::PeriodicAnnounce(_) | Timer::PeriodicAnnounceDown(_) | Timer::RemoveDown(_) => asked,
        };
        self.timers.push((after, timer));
    }
}
