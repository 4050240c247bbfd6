//! foca's runtime: an outbox. Whatever foca wants sent, scheduled or told is kept in order and handed
//! to the mesh; nothing is dropped, and every delay is ours to set.

use std::collections::BTreeSet;
use std::time::Duration;

use foca::{Notification, Timer};

use super::identity::Identity;
use super::packet::{self, Note};
use super::timings::Timings;
use crate::core::ids::NodeKey;

/// What foca asked for, in order.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) packets: Vec<(NodeKey, Vec<u8>)>,
    pub(super) timers: Vec<(Duration, Timer<Identity>)>,
    /// Members whose state may have changed.
    pub(super) touched: BTreeSet<NodeKey>,
    /// Members that failed this node's own probe.
    pub(super) accused: BTreeSet<NodeKey>,
    /// foca took a new identity.
    pub(super) renewed: bool,
    /// foca gave up on its identity: nothing more will come of it until it gets another.
    pub(super) defunct: bool,
    /// The member that is being probed.
    pub(super) probed: Option<NodeKey>,
    pub(super) note: Note,
    pub(super) timings: Timings,
}

impl Outbox {
    pub(super) fn new(timings: Timings) -> Self {
        Self {
            packets: Vec::new(),
            timers: Vec::new(),
            touched: BTreeSet::new(),
            accused: BTreeSet::new(),
            renewed: false,
            defunct: false,
            probed: None,
            note: Note::default(),
            timings,
        }
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
        self.packets.push((to.key, packet::seal(&self.note, data)));
    }

    /// Replaces foca's delay by ours, which follow the size of the mesh; foca's own are fixed for life.
    fn submit_after(&mut self, timer: Timer<Identity>, asked: Duration) {
        let after = match &timer {
            Timer::ProbeRandomMember(_) => self.timings.probe_period,
            Timer::SendIndirectProbe { probed_id, .. } => {
                self.probed = Some(probed_id.key);
                self.timings.probe_timeout
            }
            Timer::ChangeSuspectToDown { member_id, .. } => {
                // The room times suspicions itself.
                self.touched.insert(member_id.key);
                self.accused.insert(member_id.key);
                return;
            }
            Timer::PeriodicGossip(_) => self.timings.gossip_interval,
            Timer::PeriodicAnnounce(_) | Timer::PeriodicAnnounceDown(_) | Timer::RemoveDown(_) => asked,
        };
        self.timers.push((after, timer));
    }
}
