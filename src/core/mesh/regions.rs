//! Regions: how far the others are, and which of them this node talks to when it may choose.
//!
//! # The law of peer choice
//!
//! Where any peer will do (comparing summaries, passing records on), a node with a region mostly takes one
//! of its own. It takes one of another region in the share that [`cross_share`] gives:
//!
//! - a quarter, [`CROSS_SHARE`]: of the eight peers that a record is passed on to, two are elsewhere;
//! - more in a small region: so much that all its nodes together cross at least once a round for each
//!   other region, so that no region hangs on one link;
//! - never more than chance would give, so that the only node of a region is not called by everybody;
//! - all of it where the node is the only one of its region.
//!
//! Among the peers elsewhere every one is equally likely, so a pair of regions has links in proportion to
//! its nodes, other ones each time. With `max_cross_region_latency` three of four crossings
//! keep to peers within it, where there are any: the fourth may go anywhere, because a region beyond it
//! must hear the news too. A node without a region, or with `prefer_local_region` off, chooses by chance.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{Rng, RngExt};
use sha2::{Digest, Sha256};

use super::Mesh;
use crate::core::contract::{Output, RegionRtt};
use crate::core::ids::{LinkId, NodeId, NodeKey};
use crate::core::limits;
use crate::core::model::NodeCard;
use crate::core::time::Instant;
use crate::core::wire::Control;

/// The share of choices that cross to another region, where chance would give more.
const CROSS_SHARE: f64 = 0.25;
/// The share of crossings that keep to peers within `max_cross_region_latency`, where there are any.
const NEAR_SHARE: f64 = 0.75;
/// A peer that nothing has measured for so long is measured when this node compares summaries with it.
const MEASURE_AFTER: Duration = Duration::from_secs(60);
/// How often the round trips between regions are computed anew.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// What the mesh keeps of regions beside the coordinates.
#[derive(Debug, Default)]
pub(super) struct Regions {
    /// Checks that measure a round trip: one a node, with when it left.
    measuring: BTreeMap<NodeKey, (u64, Instant)>,
    /// The round trips between regions, as last computed.
    pub(super) rtts: Vec<RegionRtt>,
    refreshed: Option<Instant>,
}

impl Mesh {
    /// A probe of `key` was answered directly after `rtt`.
    pub(super) fn on_round_trip(&mut self, key: NodeKey, rtt: Duration) {
        if key == self.key || self.links.card(&key).is_none() {
            return;
        }
        if self.coordinates.handle_round_trip(key, rtt.as_secs_f64(), self.now) {
            self.view_changed = true;
        }
        self.membership.set_coordinate(self.coordinates.told());
    }

    /// Tells membership where a node is: the nodes of a region are neighbours in its ring.
    pub(super) fn place(&mut self, card: &NodeCard) {
        self.membership.place(card.node_id.key(), place_of(&card.region));
    }

    /// Gossip to other regions follows the law of peer choice.
    fn refresh_crossings(&mut self) {
        let (own, counts) = (self.card.region.clone(), self.region_counts());
        let others = counts.keys().filter(|region| self.cross_region.prefer_local_region && **region != own);
        let shares = others.map(|region| (place_of(region), region_keep(&own, region, &counts)));
        self.membership.set_crossings(shares.filter(|(_, share)| *share < 1.0));
    }

    /// The round trip to be expected of a node: measured by this node if that is not long ago, else
    /// estimated from coordinates. `None` while nothing is known.
    #[must_use]
    pub fn expected_rtt(&self, key: &NodeKey) -> Option<Duration> {
        self.coordinates.expected(key, self.now)
    }

    /// A node told its coordinate.
    pub(super) fn on_coordinate(&mut self, key: NodeKey, told: &[u8]) {
        self.coordinates.handle_coordinate(key, told);
        if let Some(rtt) = self.expected_rtt(&key) {
            self.membership.expect_round_trip(key, rtt);
        }
    }

    /// Compares summaries with a peer, and measures the way to it if nothing else has lately.
    pub(super) fn compare_with_a_peer(&mut self) {
        let Some((key, link)) = self.random_link() else {
            return;
        };
        if !self.coordinates.is_measured(&key, MEASURE_AFTER, self.now) {
            let nonce = self.next_number();
            self.regions.measuring.insert(key, (nonce, self.now));
            self.output(Output::Control { link, frame: Control::Check { nonce } });
        }
        self.send_summary(link);
        self.refresh_regions();
    }

    /// An answered check was one that measures: its round trip.
    pub(super) fn on_measured(&mut self, key: NodeKey, nonce: u64) {
        if let Some((_, sent)) = self.regions.measuring.remove(&key).filter(|(n, _)| *n == nonce) {
            self.on_round_trip(key, self.now.since(sent));
        }
    }

    /// A link that any peer may be at the other end of, by the law of peer choice.
    pub(super) fn random_link(&mut self) -> Option<(NodeKey, LinkId)> {
        let linked: Vec<_> = self.links.all_proven().map(|(key, _)| key).collect();
        let key = self.choose_peers(linked, 1).pop()?;
        Some((key, self.links.proven(&key)?))
    }

    /// Takes `count` of the candidates by the law of peer choice, or all when there are no more.
    pub(super) fn choose_peers(&mut self, candidates: Vec<NodeKey>, count: usize) -> Vec<NodeKey> {
        let own = self.card.region.clone();
        let by_chance = own.is_empty() || !self.cross_region.prefer_local_region;
        let is_own = |key: &NodeKey| self.links.card(key).is_some_and(|card| card.region == own);
        let (mut locals, mut remotes): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|key| by_chance || is_own(key));
        let crossings = match (locals.len(), remotes.len()) {
            (_, 0) => 0,
            (0, _) => count,
            (_, _) => {
                let share = cross_share(&own, &self.region_counts());
                rounded(count as f64 * share, &mut self.rng)
            }
        };
        let crossings = crossings.min(remotes.len()).max(count.saturating_sub(locals.len()));
        let mut chosen = Vec::with_capacity(count);
        for _ in 0..crossings.min(count) {
            chosen.extend(self.take_remote(&mut remotes));
        }
        while chosen.len() < count && !locals.is_empty() {
            chosen.push(locals.swap_remove(self.rng.random_range(0..locals.len())));
        }
        chosen
    }

    /// Takes one of another region, mostly one that is not beyond the configured latency.
    fn take_remote(&mut self, remotes: &mut Vec<NodeKey>) -> Option<NodeKey> {
        if remotes.is_empty() {
            return None;
        }
        let max = self.cross_region.max_cross_region_latency;
        if let Some(max) = max.filter(|_| self.rng.random::<f64>() < NEAR_SHARE) {
            let is_near = |key: &NodeKey| self.expected_rtt(key).is_none_or(|rtt| rtt <= max);
            let near: Vec<_> = (0..remotes.len()).filter(|n| is_near(&remotes[*n])).collect();
            if !near.is_empty() {
                return Some(remotes.swap_remove(near[self.rng.random_range(0..near.len())]));
            }
        }
        Some(remotes.swap_remove(self.rng.random_range(0..remotes.len())))
    }

    /// Live members by region, this node included.
    pub(super) fn region_counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::from([(self.card.region.clone(), 1)]);
        for (_, card) in self.links.cards().filter(|(key, _)| self.is_reachable(key)) {
            match counts.get_mut(&card.region) {
                Some(count) => *count += 1,
                None => drop(counts.insert(card.region.clone(), 1)),
            }
        }
        counts
    }

    /// Computes the round trips between regions anew, now and then.
    fn refresh_regions(&mut self) {
        if self.regions.refreshed.is_some_and(|at| self.now.since(at) < REFRESH_INTERVAL) {
            return;
        }
        self.regions.refreshed = Some(self.now);
        self.regions.rtts = self.region_rtts();
        self.refresh_crossings();
        // What readers see of round trips is as old as the view.
        self.view_changed = true;
    }

    /// The median round trip of each pair of the largest regions, as far as known. Of a pair's nodes each
    /// is looked at once, so that the cost grows with the nodes and not with their pairs.
    fn region_rtts(&self) -> Vec<RegionRtt> {
        let mut members: BTreeMap<&str, Vec<NodeKey>> = BTreeMap::new();
        if !self.card.region.is_empty() {
            members.entry(&self.card.region).or_default().push(self.key);
        }
        for (key, card) in self.links.cards().filter(|(key, _)| self.is_reachable(key)) {
            if !card.region.is_empty() {
                members.entry(&card.region).or_default().push(*key);
            }
        }
        let mut largest: Vec<_> = members.into_iter().collect();
        largest.sort_by(|(a, x), (b, y)| y.len().cmp(&x.len()).then(a.cmp(b)));
        largest.truncate(limits::REGIONS_MAX);
        largest.sort();
        let mut rtts = Vec::new();
        for (n, (one, ones)) in largest.iter().enumerate() {
            for (other, others) in &largest[n..] {
                let rtt = self.median_rtt(ones, others);
                rtts.extend(
                    rtt.map(|rtt| RegionRtt { between: ((*one).to_owned(), (*other).to_owned()), rtt }),
                );
            }
        }
        rtts
    }

    fn median_rtt(&self, ones: &[NodeKey], others: &[NodeKey]) -> Option<Duration> {
        // Shifted by one, so that within one region nobody meets itself.
        let shift = usize::from(ones == others);
        let pairs = (0..ones.len().max(others.len()))
            .map(|n| (&ones[n % ones.len()], &others[(n + shift) % others.len()]));
        let own = [ones, others].into_iter().find(|side| side.contains(&self.key));
        let direct = own.map(|own| if own == ones { others } else { ones }).unwrap_or_default();
        // What this node has measured itself counts beside the estimates.
        let mut rtts: Vec<_> = direct.iter().filter_map(|key| self.rtt_between(&self.key, key)).collect();
        rtts.extend(pairs.filter_map(|(one, other)| self.rtt_between(one, other)));
        rtts.sort_unstable();
        (!rtts.is_empty()).then(|| rtts[(rtts.len() - 1) / 2])
    }

    fn rtt_between(&self, one: &NodeKey, other: &NodeKey) -> Option<Duration> {
        match (*one == self.key, *other == self.key) {
            (true, true) => None,
            (true, false) => self.expected_rtt(other),
            (false, true) => self.expected_rtt(one),
            (false, false) if one == other => None,
            (false, false) => self.coordinates.between(one, other),
        }
    }

    /// Nothing is kept of a node that is forgotten.
    pub(super) fn forget_distance(&mut self, node: &NodeId) {
        let key = node.key();
        self.regions.measuring.remove(&key);
        self.coordinates.forget(&key);
    }
}

/// The share of choices that a node of region `own` makes elsewhere, 0 to 1, from the live members of each
/// region, the node itself included: see the law at the head of this file.
#[must_use]
pub fn cross_share(own: &str, counts: &BTreeMap<String, usize>) -> f64 {
    let locals = counts.get(own).copied().unwrap_or(0);
    let remotes: usize = counts.values().sum::<usize>() - locals;
    let regions = counts.iter().filter(|(name, count)| name.as_str() != own && **count > 0).count();
    if remotes == 0 {
        return 0.0;
    }
    let by_chance = remotes as f64 / (locals.saturating_sub(1) + remotes) as f64;
    let each_region_once = regions as f64 / locals.max(1) as f64;
    CROSS_SHARE.max(each_region_once).min(by_chance)
}

/// The probability with which a gossip packet that was meant for a node of region `theirs`, chosen by
/// chance among all, is sent: 1 within the own region, and for others so much that of all choices the
/// share of [`cross_share`] crosses. `counts` are the live members by region, this node included.
///
/// Chance crosses with a share `u` of its choices; keeping `k` of those leaves `u * k`, which is to be the
/// law's share `p`: `k = p / u`. What stays within the region is untouched, so news spreads inside as fast
/// as before; between regions it spreads with a fanout of `p` times the configured one from every node,
/// which from all nodes of a region together is at least one crossing a round for each other region, as
/// far as chance gives that many. Probes and answers to them must not be thinned: they are how failures
/// are found, in other regions too.
#[must_use]
pub fn region_keep(own: &str, theirs: &str, counts: &BTreeMap<String, usize>) -> f64 {
    if own.is_empty() || own == theirs {
        return 1.0;
    }
    let locals = counts.get(own).copied().unwrap_or(0).saturating_sub(1);
    let remotes = counts.iter().filter(|(name, _)| name.as_str() != own).map(|(_, n)| n).sum::<usize>();
    if remotes == 0 {
        return 1.0;
    }
    let by_chance = remotes as f64 / (locals + remotes) as f64;
    (cross_share(own, counts) / by_chance).min(1.0)
}

/// The number of a region's place in the ring; 0 for none.
fn place_of(region: &str) -> u64 {
    match region {
        "" => 0,
        region => u64::from_le_bytes(Sha256::digest(region)[..8].try_into().expect("it has 32 bytes")),
    }
}

/// A whole number that is `share` on average, and next to it each time.
fn rounded(share: f64, rng: &mut impl Rng) -> usize {
    let whole = share.floor();
    whole as usize + usize::from(rng.random::<f64>() < share - whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::contract::{Boot, Input, Remembered, StartMode};
    use crate::core::ids::{Incarnation, MeshId, MeshName, ProcessId};
    use crate::core::model::{CrossRegion, Hello, NodeCard, Overrides, Profile};
    use crate::core::wire::PROTOCOL_VERSION;

    fn card(name: &str, region: &str) -> NodeCard {
        NodeCard {
            node_id: NodeId::new(name).expect("valid"),
            addresses: vec![format!("{name}:1")],
            region: region.to_owned(),
            zone: String::new(),
            labels: BTreeMap::new(),
            roles: vec![],
            version: String::new(),
        }
    }

    /// A node in the region `here`, linked with so many peers in each of these.
    fn linked(peers: &[(&str, usize)], cross_region: CrossRegion) -> Mesh {
        let mesh_id = MeshId(uuid::Uuid::nil());
        let mesh_name = MeshName::new("m").expect("valid");
        let boot = Boot {
            card: card("own", "here"),
            mesh_name: mesh_name.clone(),
            process_id: ProcessId(uuid::Uuid::nil()),
            remembered: Remembered { start: 1, mesh_id: Some(mesh_id), ..Remembered::default() },
            start: StartMode::Resume,
            profile: Profile::default(),
            overrides: Overrides::default(),
            cross_region,
            partition: Default::default(),
            recovery: Default::default(),
            unix_ms: 0,
            seed: [7; 32],
        };
        let mut mesh = Mesh::new(boot, Instant::ZERO);
        let all = peers.iter().flat_map(|(region, count)| (0..*count).map(move |n| (*region, n)));
        for (number, (region, n)) in all.enumerate() {
            let number = number as u64 + 1;
            let hello = Hello {
                version_min: PROTOCOL_VERSION,
                version_max: PROTOCOL_VERSION,
                mesh_id: Some(mesh_id),
                mesh_name: mesh_name.clone(),
                process_id: ProcessId(uuid::Uuid::from_u128(number.into())),
                incarnation: Incarnation::first_of(1),
                card: card(&format!("{region}-{n}"), region),
                bulk_beside: None,
            };
            let address = format!("{region}-{n}:1");
            mesh.handle(Input::LinkUp { link: LinkId(number), hello, address, dialled: None }, Instant::ZERO);
        }
        mesh
    }

    /// How often of so many choices of `count` peers each region was taken, as a share of all taken.
    fn shares(mesh: &mut Mesh, count: usize) -> BTreeMap<String, f64> {
        let mut taken: BTreeMap<String, f64> = BTreeMap::new();
        for _ in 0..4000 {
            let all: Vec<_> = mesh.links.all_proven().map(|(key, _)| key).collect();
            let chosen = mesh.choose_peers(all, count);
            assert_eq!(chosen.len(), count);
            for key in chosen {
                let region = mesh.links.card(&key).expect("linked").region.clone();
                *taken.entry(region).or_default() += 1.0 / (4000 * count) as f64;
            }
        }
        taken
    }

    #[test]
    fn three_of_four_choices_stay_in_the_region_and_the_rest_is_spread_over_the_others() {
        let mut mesh = linked(&[("here", 9), ("a", 10), ("b", 20)], CrossRegion::default());
        for count in [1, 8] {
            let shares = shares(&mut mesh, count);
            assert!((shares["here"] - 0.75).abs() < 0.03, "{count}: {shares:?}");
            assert!((shares["a"] - 0.25 / 3.0).abs() < 0.02, "{count}: {shares:?}");
            assert!((shares["b"] - 0.5 / 3.0).abs() < 0.03, "{count}: {shares:?}");
        }
    }

    #[test]
    fn a_lonely_node_crosses_always_and_without_the_preference_chance_decides() {
        let mut mesh = linked(&[("a", 5)], CrossRegion::default());
        assert!((shares(&mut mesh, 3)["a"] - 1.0).abs() < 1e-6);
        let off = CrossRegion { prefer_local_region: false, ..CrossRegion::default() };
        let mut mesh = linked(&[("here", 10), ("a", 30)], off);
        assert!((shares(&mut mesh, 1)["a"] - 0.75).abs() < 0.03);
    }

    #[test]
    fn peers_beyond_the_configured_latency_are_taken_less_often_and_still_taken() {
        let max = CrossRegion {
            max_cross_region_latency: Some(Duration::from_millis(100)),
            ..CrossRegion::default()
        };
        let mut mesh = linked(&[("here", 9), ("near", 10), ("far", 10)], max);
        for (region, rtt) in [("near", 50), ("far", 200)] {
            for n in 0..10 {
                let key = NodeId::new(&format!("{region}-{n}")).expect("valid").key();
                mesh.on_round_trip(key, Duration::from_millis(rtt));
            }
        }
        let shares = shares(&mut mesh, 1);
        assert!((shares["far"] - 0.25 / 8.0).abs() < 0.01, "{shares:?}");
        assert!((shares["here"] - 0.75).abs() < 0.03, "{shares:?}");
    }

    #[test]
    fn a_round_trip_of_a_stranger_is_not_kept() {
        let mut mesh = linked(&[("a", 1)], CrossRegion::default());
        let stranger = NodeId::new("stranger").expect("valid").key();
        mesh.on_round_trip(stranger, Duration::from_millis(5));
        assert_eq!(mesh.expected_rtt(&stranger), None);
        let known = NodeId::new("a-0").expect("valid").key();
        mesh.on_round_trip(known, Duration::from_millis(5));
        assert_eq!(mesh.expected_rtt(&known), Some(Duration::from_millis(5)));
    }

    fn counts(regions: &[usize]) -> BTreeMap<String, usize> {
        regions.iter().enumerate().map(|(n, count)| (format!("r{n}"), *count)).collect()
    }

    #[test]
    fn a_quarter_crosses_and_small_regions_cross_more_but_never_more_than_chance() {
        let of = |own: &str, regions: &[usize]| cross_share(own, &counts(regions));
        assert_eq!(of("r0", &[10, 10, 10]), 0.25);
        assert_eq!(
            of("r0", &[4, 10, 10]),
            0.5,
            "four nodes, two other regions: each crossed to once a round"
        );
        assert_eq!(of("r0", &[1, 30]), 1.0, "it has nobody else");
        assert!((of("r1", &[1, 30]) - 1.0 / 30.0).abs() < 1e-9, "not everybody calls the lonely one");
        assert_eq!(of("r0", &[5]), 0.0);
        assert_eq!(of("r0", &[0, 0]), 0.0);
    }

    #[test]
    fn each_pair_of_regions_is_crossed_at_least_about_once_a_round_from_both_sides_together() {
        for regions in [vec![1, 30], vec![2, 2], vec![10, 10, 10], vec![1, 1, 1], vec![40, 3, 20], vec![5; 6]]
        {
            let counts = counts(&regions);
            let total: usize = regions.iter().sum();
            let crossings = |a: usize, b: usize| {
                let share = cross_share(&format!("r{a}"), &counts);
                regions[a] as f64 * share * regions[b] as f64 / (total - regions[a]) as f64
            };
            for a in 0..regions.len() {
                for b in a + 1..regions.len() {
                    let both = crossings(a, b) + crossings(b, a);
                    assert!(both >= 0.99, "{regions:?} {a} {b}: {both}");
                }
            }
        }
    }

    #[test]
    fn thinned_gossip_crosses_in_the_share_of_the_law_and_is_whole_inside() {
        let counts = counts(&[10, 10, 10]);
        assert_eq!(region_keep("r0", "r0", &counts), 1.0);
        assert_eq!(region_keep("", "r0", &counts), 1.0);
        let by_chance = 20.0 / 29.0;
        let kept = region_keep("r0", "r1", &counts);
        assert!((by_chance * kept - 0.25).abs() < 1e-9, "{kept}");
        assert_eq!(region_keep("r0", "r1", &self::counts(&[1, 30])), 1.0);
        assert_eq!(region_keep("r1", "r0", &self::counts(&[1, 30])), 1.0);
    }
}
