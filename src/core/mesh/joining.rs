//! Links: how a node finds its mesh, whom it accepts, what it does when a link comes or goes.

use ::core::net::SocketAddr;
use std::time::Duration;

use super::{Mesh, Pending, Phase, Timer};
use crate::core::contract::{Change, DialTarget, LinkEnd, Output, Sign};
use crate::core::error::Refusal;
use crate::core::error::Refused;
use crate::core::ids::{LinkId, MeshId, NodeId, NodeKey};
use crate::core::limits;
use crate::core::links::{Keep, Link, Links, Told};
use crate::core::model::{Event, Found, Hello, NodeCard};
use crate::core::wire::{Control, MemberEntry, MemberEntryState, VersionRange, no_common_version};

/// How often seeds are looked at; each has its own, growing pause.
const SEEDS_INTERVAL: Duration = Duration::from_millis(250);
/// How long a process that already has a node's id may take to show that it lives.
const PROBATION: Duration = Duration::from_millis(2_500);
/// Refusals that are remembered as told; above, all are told anew.
const TOLD_REFUSED_MAX: usize = 256;
/// A process that is refused as a duplicate this soon after its start is the second one, and ends.
const NEWCOMER_FOR: Duration = Duration::from_secs(60);
/// Two nodes without a mesh are no news so soon after the start.
const NO_MESH_GRACE: Duration = Duration::from_secs(3);
/// The protocol version since which SWIM packets may leave out what the link says.
const COMPACT_SINCE: u8 = 2;
/// How long a peer may take to come back after its link was closed, before it is suspected.
const HINT_GRACE: Duration = Duration::from_millis(400);

impl Mesh {
    pub(super) fn dial_seeds(&mut self) {
        if matches!(self.phase, Phase::Running) {
            let membership = &self.membership;
            let reachable = |key: &NodeKey| membership.known(key).is_some_and(|k| k.status.is_reachable());
            for address in self.links.due_seeds(self.now, reachable) {
                let target = DialTarget::Seed(address.clone());
                self.output(Output::Dial { target, addresses: vec![address] });
            }
            let pause = self.jittered(SEEDS_INTERVAL);
            self.set_timer(pause, Timer::Seeds);
        }
    }

    /// Discovery has found other addresses than before; they are called when seeds are looked at next.
    pub(super) fn on_seeds(&mut self, mut addresses: Vec<String>) {
        addresses.retain(|address| !self.card.addresses.contains(address));
        self.links.set_found_seeds(addresses);
    }

    /// Opens a link to a known node, unless one is there or on its way.
    pub(super) fn dial(&mut self, key: &NodeKey) {
        if self.links.proven(key).is_some() || !matches!(self.phase, Phase::Running) {
            return;
        }
        if let Some((target, addresses)) = self.links.dial(key, self.now) {
            self.output(Output::Dial { target, addresses });
        }
    }

    pub(super) fn want_link(&mut self, node: &NodeId) {
        self.dial(&node.key());
    }

    pub(super) fn on_dial_failed(&mut self, target: &DialTarget, reason: &str, refused: Option<Refused>) {
        self.links.dial_ended(target, self.now);
        if let Some(refused) = refused {
            let peer = match target {
                DialTarget::Node(node) => node.to_string(),
                DialTarget::Seed(address) => address.clone(),
            };
            if refused == Refused::Version {
                // The transport knows both sides' versions and has them in its sentence.
                self.on_unspoken(peer, reason.to_owned());
            } else if refused.is_about_certificate() {
                if let DialTarget::Node(node) = target {
                    self.links.pause(node.key(), self.now + limits::CERTIFICATE_REDIAL_PAUSE);
                }
                // Which of the two was refused is in the reason.
                self.tell_refusal(peer, refused.code(), reason.to_owned());
            } else {
                self.on_refused(peer, refused);
            }
        }
        match target {
            DialTarget::Node(node) => tracing::debug!(%node, reason, "dial failed"),
            DialTarget::Seed(address) if refused.is_none() => {
                let reason = format!("the seed does not answer and is tried again for ever: {reason}");
                self.tell_refusal(address.clone(), 0, reason);
            }
            DialTarget::Seed(_) => {}
        }
    }

    pub(super) fn on_link_up(
        &mut self,
        link: LinkId,
        hello: Hello,
        address: String,
        dialled: Option<DialTarget>,
    ) {
        let key = hello.card.node_id.key();
        if let Some(target) = &dialled {
            self.links.dial_answered(target);
        }
        if let Some(DialTarget::Seed(seed)) = &dialled {
            self.links.seed_reached(seed, key);
        }
        if !matches!(self.phase, Phase::Running) {
            return self.close(link, Refused::Stopping);
        }
        if let Some(reason) = self.hello().refusal(&hello) {
            return self.refuse(link, &hello, address, reason);
        }
        if hello.mesh_id.is_some_and(|theirs| self.belongs_to().is_some_and(|own| own != theirs)) {
            return self.refuse(link, &hello, address, Refused::Mesh);
        }
        let Some(version) = VersionRange::OWN.common(hello.versions()) else {
            return self.refuse(link, &hello, address, Refused::Version);
        };
        if self.links.card(&key).is_none() && self.links.cards().count() >= limits::PEERS_MAX {
            return self.refuse(link, &hello, address, Refused::Full);
        }
        let new = Link {
            node: hello.card.node_id.clone(),
            key,
            process: hello.process_id,
            start: hello.incarnation.start(),
            dialled: dialled.is_some(),
            address,
            mesh_id: hello.mesh_id,
            version,
            doubted: false,
            at_rest: false,
            told: Told::default(),
        };
        let by_seed = matches!(dialled, Some(DialTarget::Seed(_)));
        self.readmit(key);
        self.admit(link, new, &hello, by_seed);
    }

    /// Decides whether a link takes its node's place at once, gives way to another, or waits until the
    /// process that has the place was asked.
    fn admit(&mut self, id: LinkId, new: Link, hello: &Hello, by_seed: bool) {
        let old = self.links.proven(&new.key).and_then(|old| Some((old, self.links.get(old)?.clone())));
        let is_new = self.processes.get(&new.key) != Some(&new.process);
        match old {
            Some((old_id, old)) if old.process == new.process => {
                match Links::which_stays(&self.own, &old, new.dialled, by_seed) {
                    Keep::Old => self.close(id, Refused::Superseded),
                    Keep::Theirs => self.keep_spare(id, new),
                    Keep::New => {
                        self.links.remove(old_id);
                        self.close(old_id, Refused::Superseded);
                        self.establish(id, new, hello);
                    }
                }
            }
            // One socket has one process behind it: the old one is gone.
            Some((old_id, old)) if old.address == new.address => {
                self.drop_link(old_id, Refused::Failed);
                self.establish(id, new, hello);
            }
            Some((old_id, _)) => {
                let nonce = self.doubt(id, new, hello);
                self.output(Output::Control { link: old_id, frame: Control::Check { nonce } });
            }
            None if is_new && self.is_reachable(&new.key) => self.admit_beside_rival(id, new, hello),
            None => {
                self.refuse_doubted(&new);
                self.establish(id, new, hello);
            }
        }
    }

    /// A peer has at most one spare link.
    fn keep_spare(&mut self, id: LinkId, new: Link) {
        if let Some(other) = self.links.spare(&new.key, new.process) {
            self.links.remove(other);
            self.close(other, Refused::Superseded);
        }
        self.links.insert_spare(id, new);
    }

    /// The node is held for alive, and this process of it was not seen before. Where it says that it is
    /// somewhere else than it was, call it there first: whoever answers is the node.
    fn admit_beside_rival(&mut self, id: LinkId, new: Link, hello: &Hello) {
        let key = new.key;
        let addresses = self.links.card(&key).map(|card| card.addresses.clone()).unwrap_or_default();
        let moved = !addresses.is_empty()
            && !addresses.contains(&new.address)
            && !hello.card.addresses.iter().any(|address| addresses.contains(address));
        if !moved {
            return self.establish(id, new, hello);
        }
        self.doubt(id, new, hello);
        self.dial(&key);
    }

    fn doubt(&mut self, id: LinkId, new: Link, hello: &Hello) -> u64 {
        let nonce = self.next_number();
        tracing::debug!(node = %new.node, address = %new.address, "a second process claims a live node's id");
        self.links.insert(id, Link { doubted: true, ..new });
        self.probations.insert(id, (nonce, hello.clone()));
        self.set_timer(PROBATION, Timer::Probation(id));
        nonce
    }

    /// The process that has the node's id has answered: whoever else claims it is refused.
    fn refuse_doubted(&mut self, living: &Link) {
        let doubted = |(_, link): &(LinkId, &Link)| {
            link.doubted && link.key == living.key && link.process != living.process
        };
        let found: Vec<_> = self.links.all().filter(doubted).map(|(id, _)| id).collect();
        found.into_iter().for_each(|id| self.refuse_duplicate(id));
    }

    fn refuse_duplicate(&mut self, id: LinkId) {
        self.probations.remove(&id);
        let Some((link, _)) = self.links.remove(id) else {
            return;
        };
        self.close(id, Refused::Duplicate);
        self.event(Event::DuplicateNode { node: link.node, address: link.address.clone() });
        self.send_control(&link.key, Control::DuplicateSeen { address: link.address });
    }

    /// `key` has answered a check: whoever else claims its id is refused. An answer of anybody else is none.
    pub(super) fn on_check_answer(&mut self, key: NodeKey, nonce: u64) {
        let decided = self.probations.iter().find(|(_, (n, _))| *n == nonce).map(|(id, _)| *id);
        if let Some(id) = decided.filter(|id| self.links.get(*id).is_some_and(|link| link.key == key)) {
            self.refuse_duplicate(id);
        }
    }

    pub(super) fn on_probation_over(&mut self, id: LinkId) {
        if self.probations.contains_key(&id) {
            self.accept_doubted(id);
        }
    }

    fn accept_doubted(&mut self, id: LinkId) {
        let (Some((link, _)), Some((_, hello))) = (self.links.remove(id), self.probations.remove(&id)) else {
            return;
        };
        if let Some(old) = self.links.proven(&link.key) {
            self.drop_link(old, Refused::Failed);
        }
        self.establish(id, Link { doubted: false, ..link }, &hello);
    }

    /// From here on this node talks over the link.
    fn establish(&mut self, id: LinkId, link: Link, hello: &Hello) {
        let key = link.key;
        let known = self.membership.known(&key);
        self.links.seed_accepted(&key);
        self.processes.insert(key, link.process);
        let address = link.address.clone();
        self.membership.set_modern(key, link.version >= COMPACT_SINCE);
        self.links.insert(id, link);
        self.learn_card(&hello.card);
        self.view_changed = true;
        // The peer takes this as its acceptance; both compare what they know.
        self.greet(id);
        if known.is_some_and(|k| !k.status.is_reachable() && k.incarnation == hello.incarnation) {
            let frame = Control::HeldForFailed { incarnation: hello.incarnation };
            self.output(Output::Control { link: id, frame });
        }
        let entry = MemberEntry {
            key,
            incarnation: hello.incarnation,
            refutations: 0,
            state: MemberEntryState::Alive,
        };
        self.membership.apply_entries(key, &[entry]);
        self.found(&key, Found::Linked { address });
        let (packets, frames) = self.links.unstash(&key, self.now);
        for packet in packets {
            self.output(Output::Swim { link: id, packet });
        }
        for frame in frames {
            self.output(Output::Control { link: id, frame });
        }
    }

    /// The mesh that this node belongs to, or will when that is durable: it decides once.
    fn belongs_to(&self) -> Option<MeshId> {
        let decided = |pending: &Pending| match pending {
            Pending::BelongTo(mesh_id) => Some(*mesh_id),
            Pending::Nothing
            | Pending::Register(_)
            | Pending::Shared(_)
            | Pending::Outbox(_)
            | Pending::Permits(_)
            | Pending::Deploy { .. }
            | Pending::Undeploy { .. }
            | Pending::LeaveMesh { .. }
            | Pending::RestartAs(_) => None,
        };
        self.mesh_id.or_else(|| self.pending.values().map(|(_, then)| then).find_map(decided))
    }

    /// The peer has accepted this node: it said something over a link that this node holds for proven.
    pub(super) fn on_accepted(&mut self, mesh_id: MeshId) {
        if self.belongs_to().is_some() {
            return;
        }
        self.persist(vec![Change::MeshId(mesh_id)], Pending::BelongTo(mesh_id));
        // A newcomer that finds two meshes joins one of them, and must not become a bridge between both.
        let of_other = |(_, link): &(LinkId, &Link)| link.mesh_id.is_some_and(|theirs| theirs != mesh_id);
        let others: Vec<_> = self.links.all().filter(of_other).map(|(id, link)| (id, link.clone())).collect();
        for (id, link) in others {
            self.drop_link(id, Refused::Mesh);
            self.links.seed_refused(&link.key, false, self.now);
            self.forget_stranger(link.key);
            self.on_refused(format!("{} ({})", link.node, link.address), Refused::Mesh);
        }
    }

    /// A node was taken for a member and belongs to another mesh.
    fn forget_stranger(&mut self, key: NodeKey) {
        if let Some(known) = self.membership.known(&key) {
            self.membership.forget(key, known.incarnation);
        }
    }

    pub(super) fn learn_card(&mut self, card: &NodeCard) {
        if card.node_id == self.own || !self.links.learn(card) {
            return;
        }
        self.view_changed = true;
        self.place(card);
        self.persist(vec![Change::Peer(card.clone())], Pending::Nothing);
        self.on_named(card.node_id.key());
    }

    pub(super) fn on_link_down(&mut self, id: LinkId, reason: LinkEnd) {
        self.probations.remove(&id);
        self.trust.link_gone(id);
        let Some((link, was_proven)) = self.links.remove(id) else {
            return;
        };
        if let LinkEnd::Refused(refused) = &reason {
            self.links.seed_refused(&link.key, *refused == Refused::NoMesh, self.now);
            self.on_refused(format!("{} ({})", link.node, link.address), *refused);
            if *refused == Refused::Mesh && link.mesh_id.is_none() {
                self.forget_stranger(link.key);
            }
            if refused.is_about_certificate() {
                self.links.pause(link.key, self.now + limits::CERTIFICATE_REDIAL_PAUSE);
            }
        }
        if !was_proven {
            return;
        }
        self.view_changed = true;
        self.fail_requests_to(&link.node, &Refusal::LinkLost { node: link.node.clone() });
        if let Some(spare) = self.links.spare(&link.key, link.process) {
            self.links.prove(spare);
            return self.greet(spare);
        }
        let next = self.links.all().find(|(_, l)| l.key == link.key && l.doubted).map(|(id, _)| id);
        if let Some(next) = next {
            return self.accept_doubted(next);
        }
        self.found(&link.key, Found::LinkLost { reason: told_end(&reason) });
        match reason {
            LinkEnd::Closed { reason } if self.is_reachable(&link.key) => {
                // A hint, not a verdict: call it at once, and suspect it only if it does not come back.
                self.membership.hint(link.key, &reason);
                self.dial(&link.key);
                self.set_timer(HINT_GRACE, Timer::Hint(link.key));
            }
            // It holds this node for failed, which is news to this node: let it say so in full.
            LinkEnd::Refused(Refused::Failed) => self.dial(&link.key),
            LinkEnd::Closed { .. } | LinkEnd::Refused(_) | LinkEnd::Idle | LinkEnd::Local => {}
        }
    }

    /// The network says something of a peer. That nobody listens at its own port is as good as an accusation.
    /// Whatever else, be it a router's mood or a translator that forgot which port it had lent, leads to a
    /// check at once.
    pub(super) fn on_hint(&mut self, id: LinkId, address: SocketAddr, sign: Sign) {
        let key = self.links.get(id).map(|link| link.key);
        let Some(key) = key.filter(|key| self.links.proven(key) == Some(id)) else {
            return;
        };
        match sign {
            Sign::PortUnreachable
                if self.links.card(&key).is_some_and(|card| card.may_listen_at(address)) =>
            {
                self.membership.port_refuses(key, sign.as_str());
            }
            Sign::PortUnreachable | Sign::HostUnreachable | Sign::NetworkUnreachable => {
                self.membership.check(key, sign.as_str());
            }
        }
    }

    pub(super) fn on_hint_over(&mut self, key: NodeKey) {
        if self.links.proven(&key).is_none() {
            self.membership.suspect(key);
        }
    }

    fn on_refused(&mut self, peer: String, refused: Refused) {
        match refused {
            Refused::Superseded | Refused::Stopping | Refused::Oneself | Refused::Failed => {}
            // Nodes that are started together: the first has its mesh in a moment.
            Refused::NoMesh if self.now.since(self.born) < NO_MESH_GRACE => {}
            Refused::Duplicate if self.is_newcomer() => {
                let why = refused.as_str();
                let reason = format!("{peer} refused this node, {}: {why}", self.own);
                self.output(Output::Fatal { reason });
            }
            Refused::Version
            | Refused::Mesh
            | Refused::NoMesh
            | Refused::Duplicate
            | Refused::Name
            | Refused::Malformed
            | Refused::Full
            | Refused::Revoked
            | Refused::Expired
            | Refused::Untrusted => self.tell_refusal(peer, refused.code(), refused.as_str().to_owned()),
        }
    }

    /// Tells of a refusal once, however often it is tried again.
    pub(super) fn tell_refusal(&mut self, peer: String, code: u32, reason: String) {
        if self.told_refused.len() >= TOLD_REFUSED_MAX {
            self.told_refused.clear();
        }
        if self.told_refused.insert((peer.clone(), code)) {
            self.event(Event::Refused { peer, reason });
        }
    }

    /// Of two processes with one node id, the one that came last gives way. One that has been there for
    /// long was refused because the second had reached that peer first; the second is on its way out.
    fn is_newcomer(&self) -> bool {
        let young = self.now.since(self.born) < NEWCOMER_FOR;
        young || !self.joined || self.membership.live_count() == 0
    }

    fn refuse(&mut self, link: LinkId, hello: &Hello, address: String, reason: Refused) {
        self.close(link, reason);
        self.links.seed_refused(&hello.card.node_id.key(), reason == Refused::NoMesh, self.now);
        if reason == Refused::Duplicate {
            let node = hello.card.node_id.clone();
            return self.event(Event::DuplicateNode { node, address });
        }
        if reason == Refused::Version {
            let node = &hello.card.node_id;
            let why = no_common_version(node, hello.versions(), &self.own);
            return self.on_unspoken(node.to_string(), why);
        }
        self.on_refused(format!("{} ({address})", hello.card.node_id), reason);
    }

    /// Closes a proven link of this side's own will.
    pub(super) fn drop_link(&mut self, id: LinkId, reason: Refused) {
        if let Some((link, _)) = self.links.remove(id) {
            self.view_changed = true;
            self.fail_requests_to(&link.node, &Refusal::LinkLost { node: link.node.clone() });
            self.close(id, reason);
            let reason = format!("closed by this node: {}", reason.as_str());
            self.found(&link.key, Found::LinkLost { reason });
        }
    }

    fn close(&mut self, link: LinkId, reason: Refused) {
        self.output(Output::Close { link, reason });
    }

    pub(super) fn is_reachable(&self, key: &NodeKey) -> bool {
        self.membership.known(key).is_some_and(|known| known.status.is_reachable())
    }
}

/// How a link ended, for people.
fn told_end(end: &LinkEnd) -> String {
    match end {
        LinkEnd::Idle => {
            format!("nothing came over it for {} s", limits::LINK_IDLE_MAX.as_secs())
        }
        LinkEnd::Closed { reason } => {
            reason.chars().take(limits::PEER_ERROR_CHARS_MAX).flat_map(char::escape_debug).collect()
        }
        LinkEnd::Refused(refused) => format!("the other side closed it: {}", refused.as_str()),
        LinkEnd::Local => "closed by this node".to_owned(),
    }
}
