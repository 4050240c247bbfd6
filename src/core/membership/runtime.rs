//! foca's runtime: an outbox. Whatever foca wants sent, scheduled or told is kept in order and handed
//! to the mesh, and every delay is ours to set; of its timers only those of its own probing are dropped.

use std::collections::BTreeSet;
use std::time::Duration;

use foca::{Notification, Timer};

use super::identity::Identity;
use super::packet::{self, Form, Note};
use super::timings::Timings;
use crate::core::ids::NodeKey;

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
        }
    }

    /// The form of packets that a member reads.
    pub(super) fn form_for(&self, to: &NodeKey) -> Form {
        if self.modern.contains(to) { Form::Compact } else { Form::Full }
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
        let packet = packet::seal(self.form_for(&to.key), &self.note, data);
        self.packets.push((to.key, packet));
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
