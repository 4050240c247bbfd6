//! Who can be reached where: the connections to peers, the dials under way, the seeds, and what waits
//! for a connection. A table and its rules; it sends nothing itself.
//!
//! A link is proven once this node talks over it, doubted while a process that already has the same node
//! id is asked whether it still lives, and otherwise spare: a second one that the peer has dialled, of
//! which the peer decides. There is one proven link a node.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::contract::DialTarget;
use super::ids::{LinkId, MeshId, NodeId, NodeKey, ProcessId};
use super::limits;
use super::model::NodeCard;
use super::time::Instant;
use super::wire::Control;

/// Wait before a seed is tried again: doubles from the first to the last.
const SEED_RETRY_FIRST: Duration = Duration::from_millis(500);
const SEED_RETRY_LAST: Duration = Duration::from_secs(15);
/// Wait before a seed is tried again that belongs to no mesh yet: doubles from the first to the last.
const SEED_RETRY_WAITING_FIRST: Duration = Duration::from_millis(100);
const SEED_RETRY_WAITING_LAST: Duration = Duration::from_secs(1);
/// A node that could not be dialled is not dialled again for this long, whoever asks.
const REDIAL_PAUSE: Duration = Duration::from_millis(500);
/// Control frames kept for a node while its link is being dialled; the oldest is dropped.
const STASH_FRAMES_MAX: usize = 16;
/// How long such a frame is worth sending.
const STASH_FRAME_AGE_MAX: Duration = Duration::from_secs(5);

/// One connection.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) key: NodeKey,
    pub(crate) process: ProcessId,
    /// The peer's process start when the link was made.
    pub(crate) start: u64,
    pub(crate) dialled: bool,
    pub(crate) address: String,
    /// The mesh that the peer said it belongs to.
    pub(crate) mesh_id: Option<MeshId>,
    /// The protocol version that both ends speak.
    pub(crate) version: u8,
    pub(crate) doubted: bool,
    /// Nobody here needs it: see [`Links::all_proven`].
    pub(crate) at_rest: bool,
    pub(crate) told: Told,
}

/// What whole lists were sent over a link: the hash of each, and when.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    pub(crate) members: Option<(u64, Instant)>,
    pub(crate) digest: Option<(u64, Instant)>,
    /// The peer's first summary has come.
    pub(crate) is_opened: bool,
    /// The peer has said what its store keeps, and was told again what this node's does.
    pub(crate) is_answered: bool,
}

/// A seed and how it fares.
#[derive(Debug, Clone)]
struct Seed {
    failures: u32,
    /// How often it was reached and belonged to no mesh.
    waited: u32,
    next: Instant,
    reached: Option<NodeKey>,
    /// Whether discovery found it, and may lose it again.
    found: bool,
}

impl Seed {
    fn new(found: bool) -> Self {
        Self { failures: 0, waited: 0, next: Instant::ZERO, reached: None, found }
    }

    fn fail(&mut self, now: Instant) {
        let wait = SEED_RETRY_FIRST * 2_u32.saturating_pow(self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        self.next = now + wait.min(SEED_RETRY_LAST);
    }
}

#[derive(Debug, Default)]
struct Stash {
    packets: VecDeque<(Instant, Bytes)>,
    frames: VecDeque<(Instant, Control)>,
}

/// The table of links.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: BTreeMap<LinkId, Link>,
    proven: BTreeMap<NodeKey, LinkId>,
    dials: BTreeMap<DialTarget, Instant>,
    paused: BTreeMap<NodeKey, Instant>,
    seeds: BTreeMap<String, Seed>,
    cards: BTreeMap<NodeKey, NodeCard>,
    stash: BTreeMap<NodeKey, Stash>,
    /// Counts the changes of what [`Links::all_proven`] gives.
    changes: u64,
}

/// Which of two links between the same two processes stays.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Old,
    New,
    /// The peer dialled both and closes the one that it does not want.
    Theirs,
}

impl Links {
    pub(crate) fn get(&self, link: LinkId) -> Option<&Link> {
        self.links.get(&link)
    }

    /// What was told over a link.
    pub(crate) fn told_mut(&mut self, link: LinkId) -> Option<&mut Told> {
        self.links.get_mut(&link).map(|link| &mut link.told)
    }

    pub(crate) fn insert(&mut self, id: LinkId, link: Link) {
        if !link.doubted {
            self.changes += 1;
            self.proven.insert(link.key, id);
        }
        self.links.insert(id, link);
    }

    /// Adds a link over which this node does not talk yet.
    pub(crate) fn insert_spare(&mut self, id: LinkId, link: Link) {
        self.links.insert(id, link);
    }

    /// The spare link to a node's process, if there is one.
    pub(crate) fn spare(&self, key: &NodeKey, process: ProcessId) -> Option<LinkId> {
        let proven = self.proven(key);
        let is_spare = |(id, link): &(LinkId, &Link)| {
            link.key == *key && link.process == process && !link.doubted && Some(*id) != proven
        };
        self.all().find(is_spare).map(|(id, _)| id)
    }

    /// The peer talks over this link: so does this node from now on.
    pub(crate) fn prove(&mut self, id: LinkId) {
        if let Some(link) = self.links.get(&id) {
            self.changes += 1;
            self.proven.insert(link.key, id);
        }
    }

    /// Takes a link out of the table; the second value tells whether it was the node's proven one.
    pub(crate) fn remove(&mut self, id: LinkId) -> Option<(Link, bool)> {
        let link = self.links.remove(&id)?;
        let proven = self.proven.get(&link.key) == Some(&id);
        if proven {
            self.changes += 1;
            self.proven.remove(&link.key);
        }
        Some((link, proven))
    }

    pub(crate) fn proven(&self, key: &NodeKey) -> Option<LinkId> {
        self.proven.get(key).copied()
    }

    /// The proven links among which this node chooses when any peer will do: all but those at rest. Over one at rest
    /// goes only what is meant for its peer, and when that is nothing on both sides, it ends by itself after
    /// [`limits::LINK_IDLE_MAX`].
    pub(crate) fn all_proven(&self) -> impl Iterator<Item = (NodeKey, LinkId)> + '_ {
        self.every_proven().filter(|(_, id)| self.links.get(id).is_some_and(|link| !link.at_rest))
    }

    /// The proven links, those at rest too.
    pub(crate) fn every_proven(&self) -> impl Iterator<Item = (NodeKey, LinkId)> + '_ {
        self.proven.iter().map(|(key, link)| (*key, *link))
    }

    /// Puts those links to rest of which `rests` says so, and takes the others into use again.
    pub(crate) fn rest(&mut self, rests: impl Fn(LinkId) -> bool) {
        for (id, link) in &mut self.links {
            let at_rest = rests(*id);
            self.changes += u64::from(at_rest != link.at_rest);
            link.at_rest = at_rest;
        }
    }

    /// A number that is another one after each change of what [`Links::all_proven`] gives.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().map(|(id, link)| (*id, link))
    }

    /// When both sides dial at once, both must keep the same link: the one that the lower id dialled. Of
    /// two that one side dialled, that side decides: the two may have come up in another order on the
    /// other side. It keeps the newer one, because it has lost the older, unless it called a seed and found
    /// a node that it knows.
    pub(crate) fn which_stays(own: &NodeId, old: &Link, new_dialled: bool, by_seed: bool) -> Keep {
        match (old.dialled, new_dialled) {
            (false, false) => Keep::Theirs,
            (true, true) if by_seed => Keep::Old,
            (true, true) => Keep::New,
            (true, false) | (false, true) => {
                let own_is_lower = own < &old.node;
                if new_dialled == own_is_lower { Keep::New } else { Keep::Old }
            }
        }
    }

    pub(crate) fn card(&self, key: &NodeKey) -> Option<&NodeCard> {
        self.cards.get(key)
    }

    pub(crate) fn cards(&self) -> impl Iterator<Item = (&NodeKey, &NodeCard)> {
        self.cards.iter()
    }

    /// How many links, stashes and cards there are.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        (self.links.len(), self.stash.len(), self.cards.len())
    }

    /// Remembers a node's card. Returns whether it differs from the one known; a card beyond
    /// [`limits::PEERS_MAX`] is not taken.
    pub(crate) fn learn(&mut self, card: &NodeCard) -> bool {
        let key = card.node_id.key();
        if self.cards.get(&key) == Some(card) {
            return false;
        }
        if !self.cards.contains_key(&key) && self.cards.len() >= limits::PEERS_MAX {
            return false;
        }
        self.cards.insert(key, card.clone());
        self.paused.remove(&key);
        true
    }

    pub(crate) fn forget(&mut self, key: &NodeKey) {
        self.cards.remove(key);
        self.stash.remove(key);
        self.paused.remove(key);
    }

    /// Starts a dial to a known node, unless one is under way, failed a moment ago, or nothing is known
    /// of where it is.
    pub(crate) fn dial(&mut self, key: &NodeKey, now: Instant) -> Option<(DialTarget, Vec<String>)> {
        let card = self.cards.get(key)?;
        let target = DialTarget::Node(card.node_id.clone());
        if card.addresses.is_empty() || self.dials.contains_key(&target) {
            return None;
        }
        if self.paused.get(key).is_some_and(|until| now < *until) {
            return None;
        }
        self.dials.insert(target.clone(), now);
        Some((target, card.addresses.clone()))
    }

    /// A dial has become a link, whatever becomes of that.
    pub(crate) fn dial_answered(&mut self, target: &DialTarget) {
        self.dials.remove(target);
    }

    pub(crate) fn dial_ended(&mut self, target: &DialTarget, now: Instant) {
        self.dials.remove(target);
        match target {
            DialTarget::Node(node) => {
                self.paused.insert(node.key(), now + REDIAL_PAUSE);
            }
            DialTarget::Seed(address) => {
                if let Some(seed) = self.seeds.get_mut(address) {
                    seed.fail(now);
                }
            }
        }
    }

    /// The node refused this one, or was refused: the seeds that lead to it are not tried again at once.
    /// One that only waits for a mesh itself is asked again soon.
    pub(crate) fn seed_refused(&mut self, key: &NodeKey, waits: bool, now: Instant) {
        for seed in self.seeds.values_mut().filter(|seed| seed.reached.as_ref() == Some(key)) {
            if waits {
                let wait = SEED_RETRY_WAITING_FIRST * 2_u32.saturating_pow(seed.waited.min(10));
                seed.waited = seed.waited.saturating_add(1);
                seed.next = now + wait.min(SEED_RETRY_WAITING_LAST);
            } else {
                seed.fail(now);
            }
        }
    }

    /// The node accepted this one: its next failure is its first.
    pub(crate) fn seed_accepted(&mut self, key: &NodeKey) {
        for seed in self.seeds.values_mut().filter(|seed| seed.reached.as_ref() == Some(key)) {
            seed.failures = 0;
        }
    }

    /// The node is not dialled before then.
    pub(crate) fn pause(&mut self, key: NodeKey, until: Instant) {
        if self.paused.contains_key(&key) || self.paused.len() < limits::PEERS_MAX {
            self.paused.insert(key, until);
        }
    }

    /// No pause counts any more, of nodes or of seeds.
    pub(crate) fn try_all_again(&mut self, now: Instant) {
        self.paused.clear();
        for seed in self.seeds.values_mut() {
            (seed.failures, seed.next) = (0, now);
        }
    }

    pub(crate) fn add_seed(&mut self, address: String) {
        self.seeds.insert(address, Seed::new(false));
    }

    /// What discovery finds now, instead of what it found before: at most [`limits::SEEDS_MAX`] addresses. A
    /// seed that stays keeps its pauses; one that was given for good stays whatever is found.
    pub(crate) fn set_found_seeds(&mut self, mut addresses: Vec<String>) {
        addresses.truncate(limits::SEEDS_MAX);
        self.seeds.retain(|address, seed| !seed.found || addresses.contains(address));
        for address in addresses {
            self.seeds.entry(address).or_insert_with(|| Seed::new(true));
        }
    }

    /// Notes that a seed answered, and who it is.
    pub(crate) fn seed_reached(&mut self, address: &str, key: NodeKey) {
        if let Some(seed) = self.seeds.get_mut(address) {
            seed.reached = Some(key);
        }
    }

    /// Seeds that should be dialled now: those whose node was never reached, or is not `reachable` any more.
    pub(crate) fn due_seeds(&mut self, now: Instant, reachable: impl Fn(&NodeKey) -> bool) -> Vec<String> {
        let mut due = Vec::new();
        for (address, seed) in &mut self.seeds {
            if seed.next > now || self.dials.contains_key(&DialTarget::Seed(address.clone())) {
                continue;
            }
            if seed.reached.is_none() {
                // The mesh may have told of it meanwhile.
                let is_there =
                    |(key, card): &(&NodeKey, &NodeCard)| card.addresses.contains(address) && reachable(key);
                seed.reached = self.cards.iter().find(is_there).map(|(key, _)| *key);
            }
            if seed.reached.as_ref().is_none_or(|key| !reachable(key)) {
                due.push(address.clone());
            }
        }
        for address in &due {
            self.dials.insert(DialTarget::Seed(address.clone()), now);
        }
        due
    }

    /// Keeps a SWIM packet until the node's link is there, for a moment.
    pub(crate) fn stash_packet(&mut self, key: NodeKey, packet: Bytes, now: Instant) {
        let packets = &mut self.stash.entry(key).or_default().packets;
        if packets.len() >= limits::SWIM_STASH_PACKETS_MAX {
            packets.pop_front();
        }
        packets.push_back((now, packet));
    }

    /// Keeps a control frame until the node's link is there, for a moment.
    pub(crate) fn stash_frame(&mut self, key: NodeKey, frame: Control, now: Instant) {
        let frames = &mut self.stash.entry(key).or_default().frames;
        if frames.len() >= STASH_FRAMES_MAX {
            frames.pop_front();
        }
        frames.push_back((now, frame));
    }

    /// What waited for the node's link and is still worth sending.
    pub(crate) fn unstash(&mut self, key: &NodeKey, now: Instant) -> (Vec<Bytes>, Vec<Control>) {
        let stash = self.stash.remove(key).unwrap_or_default();
        let fresh = |at: Instant, age_max: Duration| now.since(at) <= age_max;
        let packets = stash.packets.into_iter().filter(|(at, _)| fresh(*at, limits::SWIM_STASH_AGE_MAX));
        let frames = stash.frames.into_iter().filter(|(at, _)| fresh(*at, STASH_FRAME_AGE_MAX));
        (packets.map(|(_, p)| p).collect(), frames.map(|(_, f)| f).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(node: &str, dialled: bool) -> Link {
        let node = NodeId::new(node).expect("valid");
        let key = node.key();
        let process = ProcessId(uuid::Uuid::nil());
        let address = String::new();
        let told = Told::default();
        let (mesh_id, version, doubted, at_rest) = (None, 1, false, false);
        Link { node, key, process, start: 1, dialled, address, mesh_id, version, doubted, at_rest, told }
    }

    #[test]
    fn when_both_dial_at_once_both_keep_the_dial_of_the_lower_id() {
        let a = NodeId::new("a").expect("valid");
        let b = NodeId::new("b").expect("valid");
        for a_saw_its_own_first in [true, false] {
            for b_saw_its_own_first in [true, false] {
                let kept_by_a =
                    Links::which_stays(&a, &link("b", a_saw_its_own_first), !a_saw_its_own_first, false);
                let kept_by_b =
                    Links::which_stays(&b, &link("a", b_saw_its_own_first), !b_saw_its_own_first, false);
                let a_keeps_own_dial = (kept_by_a == Keep::Old) == a_saw_its_own_first;
                let b_keeps_own_dial = (kept_by_b == Keep::Old) == b_saw_its_own_first;
                assert!(a_keeps_own_dial && !b_keeps_own_dial);
            }
        }
    }

    #[test]
    fn of_two_links_that_one_side_dialled_that_side_decides() {
        let a = NodeId::new("a").expect("valid");
        assert_eq!(Links::which_stays(&a, &link("b", false), false, false), Keep::Theirs);
        assert_eq!(Links::which_stays(&a, &link("b", true), true, false), Keep::New);
        assert_eq!(Links::which_stays(&a, &link("b", true), true, true), Keep::Old);
    }

    #[test]
    fn a_seed_that_never_answers_is_tried_for_ever_with_growing_pauses() {
        let mut links = Links::default();
        links.add_seed("s:1".to_owned());
        let target = DialTarget::Seed("s:1".to_owned());
        let mut now = Instant::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let since = now;
            while links.due_seeds(now, |_| false).is_empty() {
                now = now + Duration::from_millis(100);
            }
            pauses.push(now.since(since));
            links.dial_ended(&target, now);
        }
        assert_eq!(pauses[1], SEED_RETRY_FIRST);
        assert!(pauses.windows(2).skip(1).all(|p| p[0] <= p[1]), "{pauses:?}");
        assert_eq!(pauses[11], SEED_RETRY_LAST);
    }

    #[test]
    fn what_discovery_does_not_find_any_more_is_no_seed_and_a_given_seed_stays() {
        let mut links = Links::default();
        links.add_seed("given:1".to_owned());
        let found = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        links.set_found_seeds(found(&["given:1", "a:1", "b:1"]));
        assert_eq!(links.due_seeds(Instant::ZERO, |_| false), ["a:1", "b:1", "given:1"]);
        for address in ["a:1", "b:1", "given:1"] {
            links.dial_ended(&DialTarget::Seed(address.to_owned()), Instant::ZERO);
        }
        links.set_found_seeds(found(&["b:1", "c:1"]));
        assert_eq!(links.due_seeds(Instant::ZERO, |_| false), ["c:1"], "the others keep their pauses");
        let later = Instant::ZERO + SEED_RETRY_FIRST;
        assert_eq!(links.due_seeds(later, |_| false), ["b:1", "given:1"]);
        links.set_found_seeds((0..500).map(|n| format!("{n}:1")).collect());
        assert_eq!(links.seeds.len(), limits::SEEDS_MAX + 1);
    }

    #[test]
    fn the_stash_is_bounded_and_forgets_what_is_stale() {
        let mut links = Links::default();
        let key = NodeKey([1; 16]);
        for n in 0..10_u8 {
            links.stash_packet(key, Bytes::from(vec![n]), Instant::ZERO);
        }
        let (packets, _) = links.unstash(&key, Instant::ZERO);
        assert_eq!(packets.iter().map(|p| p[0]).collect::<Vec<_>>(), [6, 7, 8, 9]);
        links.stash_packet(key, Bytes::from_static(b"old"), Instant::ZERO);
        let (packets, _) = links.unstash(&key, Instant::ZERO + Duration::from_secs(1));
        assert!(packets.is_empty());
    }
}
