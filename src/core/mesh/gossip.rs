//! What membership wants done, what control frames mean, and calling the lost again.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use super::{Mesh, Pending, Phase, Timer};
use crate::core::contract::{Change, Output};
use crate::core::error::Refusal;
use crate::core::error::Refused;
use crate::core::ids::{Incarnation, LinkId, NodeId, NodeKey};
use crate::core::limits;
use crate::core::membership::{Evidence, Known, MemberEffect};
use crate::core::model::{Event, Found, Load, MemberStatus};
use crate::core::wire::Control;

/// How often some of the lost are called again, and how many at once: the cost of waiting is bounded
/// whatever the number of the lost.
const CALL_LOST_INTERVAL: Duration = Duration::from_secs(2);
const CALL_LOST_AT_ONCE: std::ops::RangeInclusive<usize> = 3..=16;
/// All of the lost are called within so many rounds, unless there are more than sixteen for each.
const CALL_LOST_ROUNDS: usize = 15;
/// How often a random peer's summary is compared with ours.
const SYNC_INTERVAL: Duration = Duration::from_secs(2);
/// So many quick restarts of a member are told in so long.
const RESTARTS_TOLD_MAX: u32 = 3;
const RESTARTS_TOLD_PER: Duration = Duration::from_secs(60);
/// A changed load is told at most so often, for each other member: together they tell five a second.
const LOAD_PAUSE_PER_MEMBER: Duration = Duration::from_millis(200);
/// A wait before asking who a member is: its card is often on its way.
const ASK_CARDS_AFTER: Duration = Duration::from_millis(100);

impl Mesh {
    pub(super) fn run_member_effects(&mut self) {
        while let Some(effect) = self.membership.poll() {
            match effect {
                MemberEffect::Send { to, packet } => self.send_swim(to, packet.into()),
                MemberEffect::Timer { after, timer } => self.set_timer(after, Timer::Member(timer)),
                MemberEffect::Changed { key, before, now } => self.on_member_changed(key, before, now),
                MemberEffect::Renewed => self.on_renewed(),
                MemberEffect::OutdatedSelf(later) => self.on_outdated_self(later),
                MemberEffect::TellHeldForFailed { key, incarnation } => {
                    self.send_control(&key, Control::HeldForFailed { incarnation });
                }
                MemberEffect::Forgotten { key } => self.forget_node(&key),
                MemberEffect::Coordinate { key, told } => self.on_coordinate(key, &told),
                MemberEffect::RoundTrip { key, took } => self.on_round_trip(key, took),
                MemberEffect::Found { key, evidence } => self.on_evidence(key, evidence),
            }
        }
    }

    fn on_evidence(&mut self, key: NodeKey, evidence: Evidence) {
        let found = match evidence {
            Evidence::Hint { sign } => Found::Hint { sign },
            Evidence::ProbeMissed { waited_ms, helpers, nacks } => {
                Found::ProbeMissed { waited_ms, helpers, nacks }
            }
            Evidence::Accused { by } => match self.name_of(&by) {
                Some(by) => Found::Accused { by },
                None => return,
            },
            Evidence::Confirmed { by, so_far, wanted } => match self.name_of(&by) {
                Some(by) => Found::Confirmed { by, so_far, wanted },
                None => return,
            },
            Evidence::Refuted => Found::Refuted,
            Evidence::Failed { by, suspected_ms, confirmations } => {
                let by = by.and_then(|by| self.name_of(&by));
                Found::Failed { by, suspected_ms, confirmations }
            }
        };
        self.found(&key, found);
    }

    fn name_of(&self, key: &NodeKey) -> Option<NodeId> {
        if *key == self.key {
            return Some(self.own.clone());
        }
        self.links.card(key).map(|card| card.node_id.clone())
    }

    fn send_swim(&mut self, to: NodeKey, packet: Bytes) {
        match self.links.proven(&to) {
            Some(link) => self.output(Output::Swim { link, packet }),
            // Packets name whom they like; only who can be dialled is worth keeping one for.
            None if self.links.card(&to).is_none() => {}
            None => {
                self.links.stash_packet(to, packet, self.now);
                self.dial(&to);
            }
        }
    }

    /// Sends a control frame over the node's link, or dials it and sends the frame then.
    pub(super) fn send_control(&mut self, to: &NodeKey, frame: Control) {
        match self.links.proven(to) {
            Some(link) => self.output(Output::Control { link, frame }),
            None if self.links.card(to).is_none() => {}
            None => {
                self.links.stash_frame(*to, frame, self.now);
                self.dial(to);
            }
        }
    }

    pub(super) fn on_swim(&mut self, link: LinkId, packet: &[u8]) {
        let Some(peer) = self.links.get(link).filter(|l| !l.doubted).map(|l| l.key) else {
            return;
        };
        if self.links.proven(&peer) != Some(link) {
            self.links.prove(link);
            // The peer reads messages only from those who have said something over the link.
            self.greet(link);
            self.view_changed = true;
        }
        if let Err(error) = self.membership.handle_packet(peer, packet) {
            self.counters.swim_packets_dropped += 1;
            tracing::debug!(?peer, %error, "SWIM packet dropped");
        }
        self.counters.claims_dropped = self.membership.dropped_claims();
    }

    fn on_member_changed(&mut self, key: NodeKey, before: Option<Known>, now: Known) {
        self.view_changed = true;
        self.liveness_changed = true;
        if now.status == MemberStatus::Failed {
            self.become_unreachable(&key);
        }
        let link = self.links.proven(&key).and_then(|id| Some((id, self.links.get(id)?.start)));
        if let Some((link, start)) = link
            && start < now.incarnation.start()
            && before.is_some_and(|b| b.incarnation.start() < now.incarnation.start())
        {
            // It was started again: nobody is at the other end of this link.
            self.drop_link(link, Refused::Failed);
        }
        if now.status.is_reachable() && self.is_full_mesh() {
            self.dial_if_lower(&key);
        }
        if self.links.card(&key).is_none() {
            if self.nameless.is_empty() {
                self.set_timer(ASK_CARDS_AFTER, Timer::AskCards);
            }
            self.nameless.insert(key);
            self.membership.set_nameless(key, true);
            return;
        }
        self.tell_member(key, before, now);
    }

    /// Whoever waits for a failed node waits in vain.
    fn become_unreachable(&mut self, key: &NodeKey) {
        if let Some(link) = self.links.proven(key) {
            self.drop_link(link, Refused::Failed);
        }
        if let Some(node) = self.links.card(key).map(|card| card.node_id.clone()) {
            self.fail_requests_to(&node, &Refusal::LinkLost { node: node.clone() });
        }
    }

    /// In a small mesh every pair has a link before it is needed; the lower id dials it.
    pub(super) fn dial_if_lower(&mut self, key: &NodeKey) {
        if self.links.card(key).is_some_and(|card| self.own < card.node_id) {
            self.dial(key);
        }
    }

    pub(super) fn is_full_mesh(&self) -> bool {
        self.membership.live_count() < limits::FULL_MESH_NODES_MAX
    }

    fn tell_member(&mut self, key: NodeKey, before: Option<Known>, now: Known) {
        let was = before.map(|b| b.status);
        let restarted = before.is_some_and(|b| b.incarnation.start() < now.incarnation.start());
        let was_reachable = was.is_some_and(MemberStatus::is_reachable);
        if restarted && was_reachable && now.status.is_reachable() && !self.restarts_too_often(key) {
            self.found(&key, Found::Restarted);
            self.member_event(key, MemberStatus::Failed, "its process ended");
            self.member_event(key, MemberStatus::Alive, "it was started again");
            if now.status == MemberStatus::Suspect {
                self.member_event(key, MemberStatus::Suspect, "it missed a probe");
            }
            return;
        }
        // Whoever was never seen here has not gone from here.
        if was == Some(now.status) || (was.is_none() && !now.status.is_reachable()) {
            return;
        }
        let reason = match (now.status, was) {
            (MemberStatus::Alive, None) => "it joined",
            (MemberStatus::Alive, Some(MemberStatus::Suspect)) => "it answered for itself",
            (MemberStatus::Alive, Some(_)) => "it came back",
            (MemberStatus::Suspect, _) => "it missed a probe",
            (MemberStatus::Failed, Some(MemberStatus::Suspect)) => "it did not refute in time",
            (MemberStatus::Failed, _) => "others say that it failed",
            (MemberStatus::Left, _) => "it said good-bye",
        };
        let reason = self.expulsion_of(&key, now).unwrap_or(reason);
        match (now.status, was) {
            (MemberStatus::Alive, Some(MemberStatus::Suspect)) | (MemberStatus::Suspect, _) => {}
            (MemberStatus::Alive, _) if restarted => self.found(&key, Found::Restarted),
            (MemberStatus::Alive, _) => self.found(&key, Found::Alive),
            (MemberStatus::Left, _) => self.found(&key, Found::Left),
            // Membership tells of verdicts itself, with their origin.
            (MemberStatus::Failed, _) => {}
        }
        self.member_event(key, now.status, reason);
    }

    /// A process that is started again and again is told of a few times, and then once a minute.
    fn restarts_too_often(&mut self, key: NodeKey) -> bool {
        let now = self.now;
        let (count, since) = self.restarts_told.entry(key).or_insert((0, now));
        if now.since(*since) >= RESTARTS_TOLD_PER {
            (*count, *since) = (0, now);
        }
        *count += 1;
        if *count == RESTARTS_TOLD_MAX + 1 {
            tracing::warn!(node = ?self.links.card(&key).map(|card| &card.node_id), "it is started again and again: told once a minute from now on");
        }
        *count > RESTARTS_TOLD_MAX
    }

    fn member_event(&mut self, key: NodeKey, status: MemberStatus, reason: &str) {
        if let Some(card) = self.links.card(&key) {
            let node = card.node_id.clone();
            self.event(Event::Member { node, status, reason: reason.to_owned() });
        }
    }

    /// A member's card came: what was known of its key now has a name.
    pub(super) fn on_named(&mut self, key: NodeKey) {
        self.membership.set_nameless(key, false);
        if let (true, Some(known)) = (self.nameless.remove(&key), self.membership.known(&key)) {
            self.tell_member(key, None, known);
            if known.status.is_reachable() && self.is_full_mesh() {
                self.dial_if_lower(&key);
            }
        }
    }

    pub(super) fn ask_for_cards(&mut self) {
        self.nameless.retain(|key| self.membership.known(key).is_some());
        if self.nameless.is_empty() {
            return;
        }
        self.tend_neighbours();
        if let Some((_, link)) = self.random_link() {
            self.send_digest(link, false);
        }
        let pause = self.jittered(ASK_CARDS_AFTER * 5);
        self.set_timer(pause, Timer::AskCards);
    }

    fn on_renewed(&mut self) {
        self.counters.renewals += 1;
        self.view_changed = true;
        self.say_hello_anew();
        // Everyone linked hears of it directly; gossip tells the rest.
        let links: Vec<_> = self.links.every_proven().collect();
        for (key, _) in links {
            self.membership.announce(key);
        }
    }

    /// The mesh knows a later incarnation of this node than its own, or the present one has no numbers left.
    fn on_outdated_self(&mut self, later: Incarnation) {
        if later.start() > self.membership.incarnation().start() {
            self.on_later_start(later.start());
        } else {
            self.restart_above(later.start());
        }
    }

    /// Calls a few of those who are lost: failed members, and nodes that are remembered and were not heard.
    pub(super) fn call_the_lost(&mut self) {
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        let is_lost = |key: &NodeKey| match self.membership.known(key) {
            Some(known) => known.status == MemberStatus::Failed,
            None => true,
        };
        let mut lost: Vec<_> = self.links.cards().map(|(key, _)| *key).filter(is_lost).collect();
        let at_once = lost.len().div_ceil(CALL_LOST_ROUNDS);
        let at_once = at_once.clamp(*CALL_LOST_AT_ONCE.start(), *CALL_LOST_AT_ONCE.end());
        for _ in 0..at_once.min(lost.len()) {
            let key = lost.swap_remove(self.rng.random_range(0..lost.len()));
            self.dial(&key);
        }
        let pause = self.jittered(CALL_LOST_INTERVAL);
        self.set_timer(pause, Timer::CallLost);
    }

    pub(super) fn sync(&mut self) {
        self.tend_neighbours();
        self.compare_with_a_peer();
        let pause = self.jittered(SYNC_INTERVAL);
        self.set_timer(pause, Timer::Sync);
    }

    /// The first that a peer hears over a link.
    pub(super) fn greet(&mut self, link: LinkId) {
        self.send_summary(link);
        self.tell_what_is_kept(link);
    }

    pub(super) fn on_control(&mut self, link: LinkId, frame: Control) {
        let Some(from) = self.links.get(link).filter(|l| !l.doubted) else {
            return;
        };
        let (key, node, mesh_id) = (from.key, from.node.clone(), from.mesh_id);
        if self.links.proven(&key) != Some(link) {
            self.links.prove(link);
            // The peer reads messages only from those who have said something over the link.
            self.greet(link);
            self.view_changed = true;
        }
        if let Some(mesh_id) = mesh_id {
            self.on_accepted(mesh_id);
        }
        match frame {
            Control::Summary { members, owned, shared, crls } => {
                if let Some(shared) = shared {
                    self.compare_shared(key, shared);
                }
                self.compare_lists(link, crls);
                self.compare(link, members, owned);
            }
            Control::Members { members, reply } => self.on_members(link, key, &members, reply),
            Control::OwnedDigest { have, reply } => self.on_digest(link, &have, reply),
            Control::Owned { batches } => self.on_owned(link, &node, batches),
            Control::HeldForFailed { incarnation } => self.membership.held_for_failed(incarnation),
            Control::Leaving { incarnation, forget } => self.on_leaving(key, incarnation, forget),
            Control::DuplicateSeen { address } => {
                self.event(Event::DuplicateNode { node: self.own.clone(), address });
            }
            Control::Past(past) => self.on_past(link, key, &node, past),
            Control::Check { nonce } => {
                self.output(Output::Control { link, frame: Control::CheckAnswer { nonce } });
            }
            Control::CheckAnswer { nonce } => {
                self.on_measured(key, nonce);
                self.on_check_answer(key, nonce);
            }
            Control::Request { id, body } => self.on_remote_request(key, &node, id, body),
            Control::Response { id, result } => self.on_response(&node, id, result),
            Control::CrlDigest { have, reply, afresh } => self.on_list_digest(link, &have, reply, afresh),
            Control::Crl { der } => self.on_list(link, node, der),
            Control::Redial => self.on_redial(link),
            frame @ (Control::State(_)
            | Control::StateAsk { .. }
            | Control::StatePart(_)
            | Control::StateBusy { .. }
            | Control::StateAck { .. }
            | Control::StateFloor { .. }
            | Control::StateBaseAsk { .. }
            | Control::StateBase { .. }
            | Control::Beats(_)
            | Control::Register { .. }) => self.on_shared(link, key, &node, frame),
            Control::Permit { message } => self.on_permit_message(link, &node, &message),
            Control::KeepAlive => {}
        }
    }

    pub(super) fn on_load(&mut self, load: &Load) {
        let told = self.registry.owner(&self.own).and_then(|own| own.load);
        // Everybody hears of everybody's load: the larger the mesh, the more rarely.
        let pause = LOAD_PAUSE_PER_MEMBER * self.membership.live_count() as u32;
        let is_due = self.load_told.is_none_or(|at| self.now.since(at) >= pause);
        if is_due && told.is_none_or(|told| differs_noticeably(&told, load)) {
            self.load_told = Some(self.now);
            let delta = self.registry.publish_load(load);
            self.spread(delta);
        }
    }

    fn on_leaving(&mut self, key: NodeKey, incarnation: Incarnation, forget: bool) {
        self.membership.peer_left(key, incarnation);
        self.run_member_effects();
        if forget {
            self.membership.forget(key, incarnation);
        }
    }

    fn forget_node(&mut self, key: &NodeKey) {
        self.view_changed = true;
        self.nameless.remove(key);
        self.restarts_told.remove(key);
        self.processes.remove(key);
        self.forget_start(key);
        if let Some(node) = self.links.card(key).map(|card| card.node_id.clone()) {
            self.note_departure(&node);
            self.links.forget(key);
            self.forget_distance(&node);
            self.registry.forget(&node);
            self.persist(vec![Change::ForgetPeer(node)], Pending::Nothing);
        }
    }

    /// Tells everybody linked, and with that, through the notes of their packets, everybody.
    pub(super) fn tell_departure(&mut self, forget: bool) {
        let incarnation = self.membership.incarnation();
        self.membership.leave();
        let links: Vec<_> = self.links.every_proven().map(|(_, link)| link).collect();
        for link in links {
            self.output(Output::Control { link, frame: Control::Leaving { incarnation, forget } });
        }
    }
}

/// Whether a load has changed enough to tell the mesh: five points of CPU, or a tenth of the memory.
fn differs_noticeably(told: &Load, now: &Load) -> bool {
    told.cpu_permille.abs_diff(now.cpu_permille) >= 50
        || told.memory_bytes.abs_diff(now.memory_bytes) >= told.memory_bytes / 10
}
