//! The register and its lease, the steward, and the mode that follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::{Mesh, Pending};
use crate::core::contract::{Change, Output, Table};
use crate::core::ids::{LinkId, NodeId, NodeKey};
use crate::core::model::{Event, MemberStatus, Mode, NodeCard, PartitionConfig, Roster, Seat, Strategy};
use crate::core::partition::PartitionEffect;
use crate::core::register::{
    LeaseView, RegisterEffect, RegisterError, RegisterMessage, RosterChange, RosterSettings, steward,
    successor,
};
use crate::core::wire::{Control, decode_value, encode_value};

/// How often the steward looks for something to change while nothing is under way.
const STEWARD_PAUSE: Duration = Duration::from_millis(200);
/// A proposal of the steward that was not decided for so long is made anew.
const PROPOSAL_PATIENCE: Duration = Duration::from_secs(10);
/// A write begins with so many hops in a mesh too large for direct delivery, and each relay takes one off; with the last one
/// it is not passed on. None is what is told directly, in a small mesh.
pub(super) const HOPS_MAX: u8 = 5;
/// To how many each relay passes a write on.
pub(super) const RELAY_FANOUT: usize = 8;

impl Mesh {
    /// The first roster of a mesh that this node begins.
    pub(super) fn founding(&self) -> (Seat, RosterSettings) {
        let config = &self.shared.config;
        let settings = RosterSettings {
            // A single voter is its own quorum; the setting is checked again when there are more.
            quorum_size: config.quorum_size.filter(|size| *size == 1),
            tie_breaker: config.tie_breaker.clone().filter(|node| *node == self.own),
            split_writes: false,
            max_offline: config.max_offline,
        };
        (Seat { voter: true, ..seat_of(&self.card) }, settings)
    }

    pub(super) fn on_register_message(&mut self, link: LinkId, from: &NodeId, message: &[u8]) {
        let decoded = decode_value::<RegisterMessage>(message).map_err(|error| error.to_string());
        let checked = decoded.and_then(|message| message.check().map(|()| message).map_err(str::to_owned));
        match checked {
            // What this node has met of the voter, it accounts for within a round trip; then it is asked again.
            Ok(message) if message.is_binding() && !self.is_vouched_for(link) => {
                tracing::debug!(%from, "a vote of a store that has not accounted for its past does not count");
            }
            Ok(message) => self.shared.register.handle_message(from, message, self.now),
            Err(error) => {
                self.shared.refused += 1;
                tracing::warn!(%from, error, "a message of the register is dropped");
            }
        }
    }

    pub(super) fn on_register_effect(&mut self, effect: RegisterEffect) {
        match effect {
            RegisterEffect::Send { to, message } => {
                let frame = Control::Register { message: encode_value(&message) };
                self.tell_member_soon(&to.key(), frame);
            }
            // It has left, and its tables are empty: it promises nothing any more.
            RegisterEffect::Store { token, .. } if self.shared.has_left => self.shared.forgone = Some(token),
            RegisterEffect::Store { token, changes } => {
                let table = Table::Register;
                let change = |(key, row)| match row {
                    Some(row) => Change::Put { table, key, row },
                    None => Change::Delete { table, key },
                };
                let counted = self.count_promise();
                let changes = changes.into_iter().map(change).chain([counted]);
                self.persist(changes.collect(), Pending::Register(token));
            }
            RegisterEffect::RosterChanged(roster) => self.on_roster(&roster),
            RegisterEffect::LeaseChanged(lease) => self.on_lease(lease),
            RegisterEffect::Decided { proposal, result } => self.on_decided(proposal, result),
        }
    }

    /// Nobody is dialled for the sake of a message of this kind that gossip holds for gone, or that refuses this
    /// node: what is lost is asked again, several times a second.
    pub(in crate::core::mesh) fn tell_member_soon(&mut self, key: &NodeKey, frame: Control) {
        let is_there = self.membership.known(key).is_some_and(|known| known.status.is_reachable());
        if self.links.proven(key).is_some() || is_there {
            self.send_control(key, frame);
        }
    }

    /// Once a process: a file that says other than the roster has no effect, and the operator should know.
    pub(super) fn compare_with_file(&mut self, roster: &Roster) {
        if std::mem::replace(&mut self.shared.compared_with_file, true) {
            return;
        }
        let PartitionConfig { quorum_size, tie_breaker, max_offline, .. } = &self.shared.config;
        let size = quorum_size.filter(|size| roster.quorum_size != Some(*size)).map(|size| size.to_string());
        let node = tie_breaker.as_ref().filter(|node| roster.tie_breaker.as_ref() != Some(node));
        let is_set = *max_offline != PartitionConfig::default().max_offline;
        let seconds =
            (is_set && *max_offline != roster.max_offline).then(|| max_offline.as_secs().to_string());
        let differing = [
            ("quorum_size", size),
            ("tie_breaker", node.map(ToString::to_string)),
            ("max_offline_seconds", seconds),
        ];
        for (key, value) in differing.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            tracing::warn!(
                setting = key,
                "the file's {key} is not the roster's and has no effect: `shoal cluster set {key}={value}` changes it \
                in the whole mesh"
            );
        }
    }

    fn on_roster(&mut self, roster: &Roster) {
        self.compare_with_file(roster);
        self.shared.partition.set_roster(roster, self.now);
        self.shared.floors.forget_all_but(roster);
        self.shared.away_since.retain(|node, _| roster.members.contains_key(node));
        self.shared.clocks.forget_all_but(roster);
        self.shared.heard.forget_all_but(|node| roster.is_voter(node));
        self.note_permit_roster();
        self.view_changed = true;
        self.note_landscape();
        if let Some(audit) = &roster.audit {
            tracing::warn!(epoch = ?roster.epoch, audit, "an operator has overruled a lost quorum");
        }
        self.event(Event::Roster {
            epoch: format!("{}.{}", roster.epoch.chain, roster.epoch.order),
            voters: roster.voters().cloned().collect(),
            members: roster.members.len() as u32,
        });
        self.note_confirmations();
        if let Some(requester) = self.shared.begun_for.take() {
            self.answer_roster_change(requester, Ok(roster.epoch));
        }
    }

    fn on_lease(&mut self, lease: LeaseView) {
        let holds = |lease: &LeaseView| matches!(lease, LeaseView::Mine { .. });
        if holds(&lease) != holds(&self.shared.lease) {
            tracing::info!(?lease, "lease");
            self.shared.floors.begin();
        }
        match &lease {
            LeaseView::Mine { .. } => self.shared.leader = Some((self.own.clone(), self.now)),
            LeaseView::Theirs { node, .. } => self.shared.leader = Some((node.clone(), self.now)),
            LeaseView::Nobody => {}
        }
        self.shared.lease = lease;
        self.note_landscape();
    }

    /// Whether this node may give orders now.
    pub(super) fn leads(&self) -> bool {
        matches!(self.shared.register.lease(self.now), LeaseView::Mine { .. })
    }

    /// Whether whoever gives orders has told so with its last beat: nobody else can have taken over since.
    pub(super) fn hears_the_leader(&self) -> bool {
        // Less than a lease lasts, by the default; who does not vote and hears every other beat is often not sure.
        let between_beats = self.shared.config.detection_timeout / 4;
        self.shared.leader.as_ref().is_some_and(|(_, heard)| self.now.since(*heard) <= between_beats * 3 / 2)
    }

    /// Who gives orders, as far as was heard of late.
    pub(in crate::core::mesh) fn leader(&self) -> Option<&NodeId> {
        let (node, heard) = self.shared.leader.as_ref()?;
        (self.now.since(*heard) <= self.shared.config.detection_timeout).then_some(node)
    }

    fn on_decided(&mut self, proposal: u64, result: Result<crate::core::model::Epoch, RegisterError>) {
        let Some(requester) = self.shared.proposals.remove(&proposal) else {
            return;
        };
        match requester {
            Some(requester) => self.answer_roster_change(requester, result),
            None => {
                self.shared.proposed = None;
                if let Err(error) = result {
                    tracing::debug!(%error, "the steward's change of the roster");
                }
            }
        }
    }

    /// Proposes a change on behalf of a client, or of the steward.
    pub(super) fn propose(&mut self, change: RosterChange, requester: Option<super::super::Requester>) {
        let proposal = self.shared.register.propose(change, self.now);
        self.shared.proposals.insert(proposal, requester);
    }

    /// The holder of the lease keeps the roster in line with who is there.
    pub(super) fn steward(&mut self) {
        let due = self.shared.proposed.is_none_or(|at| self.now.since(at) > PROPOSAL_PATIENCE);
        if !due || !self.leads() || self.shared.mode() != Mode::Healthy {
            return;
        }
        if let Some(node) = self.departed() {
            self.shared.proposed = Some(self.now);
            return self.propose(RosterChange::evict(node), None);
        }
        let attendance = self.attendance();
        let Some(change) = self.shared.register.roster().and_then(|r| steward::next_change(r, &attendance))
        else {
            return;
        };
        self.shared.proposed = Some(self.now);
        self.propose(change, None);
        self.shared.next_tick = self.shared.next_tick.min(self.now + STEWARD_PAUSE);
    }

    /// A member that has left its mesh for good, has not come back, and can be spared.
    fn departed(&mut self) -> Option<NodeId> {
        let (roster, membership) = (self.shared.register.roster()?, &self.membership);
        let is_here = |node: &NodeId| membership.known(&node.key()).is_some_and(|m| m.status.is_reachable());
        self.shared.departed.retain(|node| roster.members.contains_key(node) && !is_here(node));
        let can_be_spared = |node: &&NodeId| {
            **node != self.own && successor(roster, &RosterChange::evict((*node).clone())).is_ok()
        };
        self.shared.departed.iter().find(can_be_spared).cloned()
    }

    /// A node has left its mesh for good: whoever holds the lease takes it out of the roster.
    pub(in crate::core::mesh) fn note_departure(&mut self, node: &NodeId) {
        self.shared.going.remove(&node.key());
        // One that is being taken in just now is not in the roster yet.
        let may_be = self.leads();
        if may_be || self.shared.register.roster().is_some_and(|r| r.members.contains_key(node)) {
            self.shared.departed.insert(node.clone());
        }
    }

    /// Who is here, and since when the others are not.
    fn attendance(&mut self) -> BTreeMap<NodeId, steward::Attendance> {
        let mut attendance = BTreeMap::new();
        let cards: Vec<_> = self.links.cards().map(|(key, card)| (*key, card.clone())).collect();
        let own = (self.key, self.card.clone());
        for (key, card) in cards.into_iter().chain([own]) {
            let status = self.status_of(&key);
            let here = status.is_some_and(MemberStatus::is_reachable);
            let node = card.node_id.clone();
            let is_member = self.shared.register.roster().is_some_and(|r| r.members.contains_key(&node));
            // Who is not a member is one when it is here, and of this mesh: a link of it was proven.
            if !is_member && (!here || (key != self.key && self.links.proven(&key).is_none())) {
                continue;
            }
            if self.is_going(&key) {
                continue;
            }
            let since = match here {
                true => {
                    self.shared.away_since.remove(&node);
                    None
                }
                false => Some(*self.shared.away_since.entry(node.clone()).or_insert(self.now)),
            };
            let away = since.map(|since| self.now.since(since));
            let Seat { roles, zone, .. } = seat_of(&card);
            attendance.insert(node, steward::Attendance { roles, zone, away });
        }
        attendance
    }

    /// Gossip believes something else of somebody.
    pub(in crate::core::mesh) fn tell_liveness(&mut self) {
        let mut liveness = BTreeMap::new();
        let mut failed = BTreeSet::new();
        for (key, card) in self.links.cards() {
            let Some(known) = self.membership.known(key) else {
                continue;
            };
            if !known.status.is_reachable() {
                failed.insert(card.node_id.clone());
            }
            liveness.insert(card.node_id.clone(), known.status);
        }
        self.shared.partition.set_liveness(liveness, self.now);
        self.shared.register.set_failed(failed, self.now);
    }

    pub(super) fn on_partition_effect(&mut self, effect: PartitionEffect) {
        match effect {
            PartitionEffect::ModeChanged { from, to, reason } => {
                self.shared.reason = if to == Mode::Healthy { String::new() } else { reason.to_string() };
                self.shared.register.set_joining(to == Mode::Joining, self.now);
                self.view_changed = true;
                self.event(Event::Mode { from, to, reason: reason.to_string() });
                self.note_landscape();
            }
            PartitionEffect::Synchronise { round } => self.begin_round(round),
            PartitionEffect::AskHandler { question, view } => match &self.shared.config.strategy {
                Strategy::Handler { command } => {
                    let command = command.clone();
                    self.output(Output::AskHandler { question, command, view });
                }
                Strategy::Consistency | Strategy::Availability | Strategy::Decisions(_) => {}
            },
            PartitionEffect::Beat { number } => self.beat(number),
        }
    }
}

/// The seat of a node that does not vote yet.
fn seat_of(card: &NodeCard) -> Seat {
    Seat { voter: false, roles: card.roles.clone(), zone: card.zone.clone() }
}
