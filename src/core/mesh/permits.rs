//! Permits for exclusive agents: what this node asks for as a host, and what it grants as a voter.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Mesh, Pending, Timer};
use crate::core::contract::{Boot, Change, Output, Table};
use crate::core::ids::{AgentName, LinkId, NodeId};
use crate::core::model::OrderEpoch;
use crate::core::permits::{Holder, Known, PermitMessage, Voter, VoterEffect, row_of_doubt};
use crate::core::time::Instant;
use crate::core::wire::{Control, decode_value, encode_value};

/// Both sides of it.
#[derive(Debug)]
pub(super) struct Permits {
    pub(super) holder: Holder,
    pub(super) voter: Voter,
    /// There is a timer for then.
    armed: Option<Instant>,
    /// What is claimed, or what runs of it, may have changed.
    pub(super) look_due: bool,
    /// When the next permit is over of something that runs.
    end_at: Option<Instant>,
    /// The row that says that the store is not whole is to be written.
    doubts: bool,
}

impl Permits {
    pub(super) fn new(boot: &Boot, is_whole: bool, life: u64, now: Instant) -> Self {
        let rows = boot.remembered.tables.get(&Table::Register).map(Vec::as_slice).unwrap_or_default();
        let voter = Voter::new(boot.card.node_id.clone(), rows, is_whole, life, now);
        Self {
            holder: Holder::new(life),
            voter,
            armed: None,
            look_due: false,
            end_at: None,
            doubts: !is_whole,
        }
    }
}

/// The change that makes the next process of this node ask others what it may have granted.
pub(super) fn change_of_doubt() -> Change {
    let (key, row) = row_of_doubt();
    Change::Put { table: Table::Register, key, row }
}

impl Mesh {
    pub(super) fn on_permit_message(&mut self, link: LinkId, from: &NodeId, message: &[u8]) {
        let decoded = decode_value::<PermitMessage>(message).map_err(|error| error.to_string());
        let checked = decoded.and_then(|message| message.check().map(|()| message).map_err(str::to_owned));
        match checked {
            Ok(message) if message.is_binding() && !self.is_vouched_for(link) => {
                tracing::debug!(%from, "a permit of a store that has not accounted for its past does not count");
            }
            Ok(message) => self.take_permit_message(from, message),
            Err(error) => {
                self.shared.refuse_request();
                tracing::warn!(%from, error, "a message about permits is dropped");
            }
        }
    }

    fn take_permit_message(&mut self, from: &NodeId, message: PermitMessage) {
        let Some(roster) = self.shared.roster() else {
            return;
        };
        if let answer @ PermitMessage::Answer { .. } = &message {
            let changed = self.permits.holder.handle_answer(from, answer, roster, self.now);
            self.permits.look_due |= !changed.is_empty();
            changed.iter().for_each(|slot| self.tell_permit(slot));
            return;
        }
        self.with_voter(|voter, known, now| voter.handle_message(from, message, known, now));
        self.do_what_the_voter_wants();
    }

    /// Hands what a voter must know besides to one of its methods.
    fn with_voter(&mut self, act: impl FnOnce(&mut Voter, Known<'_>, Instant)) {
        let Some(roster) = self.shared.roster() else {
            return;
        };
        let orders = &self.desired;
        let order =
            |slot: &AgentName, node: &NodeId| -> Option<(OrderEpoch, bool)> { orders.order_for(slot, node) };
        let witnesses = |nodes: &BTreeSet<NodeId>| self.shared.are_witnesses(nodes);
        let may_vote = self.shared.may_vote();
        let known = Known { roster, may_vote, order: &order, witnesses: &witnesses };
        act(&mut self.permits.voter, known, self.now);
    }

    fn do_what_the_voter_wants(&mut self) {
        while let Some(effect) = self.permits.voter.poll() {
            match effect {
                VoterEffect::Send { to, message } if to == self.own => self.take_permit_message(&to, message),
                VoterEffect::Send { to, message } => self.send_permit_message(&to, &message),
                // It has left, and its tables are empty: it grants nothing any more.
                VoterEffect::Store { .. } if self.shared.has_left => {}
                VoterEffect::Store { token, changes } => {
                    let table = Table::Register;
                    let change = |(key, row): (Bytes, Option<Bytes>)| match row {
                        Some(row) => Change::Put { table, key, row },
                        None => Change::Delete { table, key },
                    };
                    let counted = self.count_promise();
                    let changes = changes.into_iter().map(change).chain([counted]);
                    self.persist(changes.collect(), Pending::Permits(token));
                }
            }
        }
    }

    fn send_permit_message(&mut self, to: &NodeId, message: &PermitMessage) {
        self.tell_member_soon(&to.key(), Control::Permit { message: encode_value(message) });
    }

    pub(super) fn on_permits_stored(&mut self, token: u64) {
        self.on_promise_stored();
        self.permits.voter.handle_committed(token, self.now);
        self.do_what_the_voter_wants();
    }

    pub(super) fn on_permits_not_stored(&mut self, token: u64, reason: &str) {
        self.permits.voter.handle_commit_failed(token);
        self.on_disk_failed(reason);
    }

    /// Other voters may decide now, or an order has changed.
    pub(super) fn note_permit_roster(&mut self) {
        if let Some(roster) = self.shared.roster() {
            self.permits.voter.set_roster(roster, self.now);
        }
    }

    /// What the row that tells of this process is written with: that the store is not whole, if so.
    pub(super) fn doubts_to_store(&mut self) -> Option<Change> {
        std::mem::take(&mut self.permits.doubts).then(change_of_doubt)
    }

    /// The store is not what this node wrote last.
    pub(super) fn doubt_permits(&mut self) {
        self.permits.voter.doubt(self.now);
        self.permits.doubts = true;
    }

    /// After each change: asks, if it is time, lets end what is over, and says when it is to be looked at again.
    pub(super) fn tend_permits(&mut self) {
        if std::mem::take(&mut self.permits.doubts) && !self.shared.has_left {
            self.persist(vec![change_of_doubt()], Pending::Nothing);
        }
        if self.permits.voter.poll_timeout().is_some_and(|at| at <= self.now) {
            self.with_voter(|voter, known, now| voter.tend(known, now));
            self.do_what_the_voter_wants();
        }
        let is_over = self.permits.end_at.is_some_and(|at| at <= self.now);
        if std::mem::take(&mut self.permits.look_due) || is_over {
            self.end_what_is_over();
            self.permits.end_at = self.next_permit_end();
            self.tell_waiting();
        }
        self.ask_for_permits();
        let permits = &self.permits;
        // A voter that may not vote yet is told when it may: nothing is due before.
        let voter = permits.voter.poll_timeout().filter(|at| *at > self.now);
        let next = [voter, permits.holder.poll_timeout(self.now), permits.end_at];
        let Some(next) = next.into_iter().flatten().min() else {
            return;
        };
        if permits.armed.is_none_or(|armed| next < armed || armed <= self.now) {
            self.permits.armed = Some(next);
            self.timers.set(next.max(self.now), Timer::Permits);
        }
    }

    pub(super) fn on_permits_timer(&mut self) {
        let now = self.now;
        self.permits.armed.take_if(|at| *at <= now);
        self.tell_waiting();
        // `settle` comes next and does what is due.
    }

    fn ask_for_permits(&mut self) {
        let Some(roster) = self.shared.roster() else {
            return;
        };
        let Some(message) = self.permits.holder.poll_ask(roster, self.now) else {
            return;
        };
        let voters: Vec<_> = roster.voters().cloned().collect();
        for voter in voters {
            if voter == self.own {
                self.take_permit_message(&voter, message.clone());
            } else {
                self.send_permit_message(&voter, &message);
            }
        }
    }

    /// Until when the agent may run is handed on to those who can keep it.
    fn tell_permit(&mut self, slot: &AgentName) {
        let Some(until) = self.permits.holder.until(slot, self.now) else {
            return;
        };
        self.output(Output::Permit { agent: slot.clone(), until });
        self.note_permit(slot);
    }
}
