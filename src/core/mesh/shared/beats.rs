//! Who tells whom that the voters are there.
//!
//! In a small mesh each voter tells everybody by itself, other voters with each beat and the rest with every other one (with
//! each, while it hears no more than a quorum), and nobody speaks for another one. In a large one a voter tells the other
//! voters by itself; all others hear of it in *waves*. A wave begins with a voter and goes from each node that it reaches, once, to [`WAVE_FANOUT`] of those that it has links with. It carries the newest beat of every
//! voter that its sender has heard, each with its age: one wave does for all of them. A voter that has seen
//! [`WAVES_ENOUGH`] waves of others that tell of it since its last beat begins none, so that their number does not grow with that of
//! the voters, and another one takes over where a voter is gone. (The rule by which a node stays silent when it has
//! heard enough is that of Trickle, RFC 6206.)
//!
//! A wave reaches most nodes, not all: with three random links each, 94 % of them. Two in each quarter of the
//! detection time leave one node in 10^9 without news for the whole of it.
//!
//! An age is counted by those who hold the beat, and not while it travels: it is too low by the transit.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::Mesh;
use crate::core::ids::{NodeId, NodeKey};
use crate::core::limits;
use crate::core::wire::{Beat, Beats, Control};

/// To how many each node passes a wave on.
const WAVE_FANOUT: usize = 3;
/// How often a wave is passed on. A wave crosses a thousand nodes in seven steps.
const WAVE_HOPS: u8 = 12;
/// A voter that has seen so many waves since its last beat begins none.
const WAVES_ENOUGH: usize = 2;

/// What is known of the beats of others.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The newest beat of each voter, as it was when it was heard.
    newest: BTreeMap<NodeId, Beat>,
    /// The newest wave of each voter that was passed on: the beat that it began with.
    waves: BTreeMap<NodeId, (u64, u64)>,
    /// Waves seen since this node's last beat that tell of it.
    waves_seen: usize,
    /// The number of this node's last beat.
    own_number: u64,
}

impl Heard {
    pub(super) fn forget_all_but(&mut self, is_voter: impl Fn(&NodeId) -> bool) {
        self.newest.retain(|node, _| is_voter(node));
        self.waves.retain(|node, _| is_voter(node));
    }

    /// Whether the wave that begins with this beat is a new one.
    fn is_new(&mut self, first: &Beat, tells_of_this_node: bool) -> bool {
        let count = (first.start, first.number);
        let last = self.waves.entry(first.voter.clone()).or_insert((0, 0));
        let is_new = count > *last;
        *last = count.max(*last);
        self.waves_seen += usize::from(is_new && tells_of_this_node);
        is_new
    }
}

impl Mesh {
    /// This voter's beat is due.
    pub(super) fn beat(&mut self, number: u64) {
        let beat = Beat {
            voter: self.own.clone(),
            start: self.shared.start,
            number,
            leads: self.leads(),
            unix_ms: Some(self.shared.unix_ms(self.now)),
            age_ms: 0,
        };
        let waves_seen = std::mem::take(&mut self.shared.heard.waves_seen);
        self.shared.heard.own_number = number;
        let linked = self.linked();
        let is_full_mesh = self.is_full_mesh();
        let reachable = self.shared.partition.reachable().len();
        let has_slack = self.shared.register.roster().is_some_and(|roster| reachable > roster.quorum());
        for key in &linked {
            // Two in the detection time do for those who only need to know that there is a majority, while there is more than one.
            if self.votes_here(key) || (is_full_mesh && (number.is_multiple_of(2) || !has_slack)) {
                self.send_control(key, Control::Beats(Beats { hops: 0, beats: vec![beat.clone()] }));
            }
        }
        if !is_full_mesh && waves_seen < WAVES_ENOUGH {
            self.send_wave(beat, WAVE_HOPS, linked);
        }
    }

    fn votes_here(&self, key: &NodeKey) -> bool {
        let roster = self.shared.register.roster();
        roster.is_some_and(|roster| roster.voters().any(|voter| voter.key() == *key))
    }

    /// Sends a wave that begins with this beat to some of these, with all that is known of the other voters.
    fn send_wave(&mut self, first: Beat, hops: u8, mut to: Vec<NodeKey>) {
        // Whoever begins a wave tells what the clock of one of the others showed, of another one each time.
        let others = self.shared.heard.newest.len().max(1) as u64;
        let with_clock = (first.voter == self.own).then_some(first.number % others);
        let mut beats = vec![first];
        for (rank, beat) in self.shared.heard.newest.values().enumerate() {
            let is_first = beat.voter == beats[0].voter;
            let heard = self.shared.partition.heard(&beat.voter).map(|heard| self.now.since(heard));
            let Some(age) = heard.filter(|age| !is_first && *age < self.shared.config.detection_timeout)
            else {
                continue;
            };
            let age_ms = u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
            let unix_ms = beat.unix_ms.filter(|_| with_clock.is_none_or(|only| only == rank as u64));
            beats.push(Beat { age_ms, unix_ms, ..beat.clone() });
        }
        to.truncate(WAVE_FANOUT);
        for key in to {
            self.send_control(&key, Control::Beats(Beats { hops, beats: beats.clone() }));
        }
    }

    pub(super) fn on_beats(&mut self, key: NodeKey, from: &NodeId, Beats { hops, mut beats }: Beats) {
        // Only a large mesh passes beats on; in a small one everybody speaks for itself.
        let is_small = self.is_full_mesh() && self.membership.live_count() < limits::FULL_MESH_NODES_MAX / 2;
        if is_small {
            let told = beats.len();
            beats.retain(|beat| beat.voter == *from);
            // A wave may come from a mesh that this node does not know to be large yet.
            if beats.len() < told && hops == 0 {
                self.shared.refused += 1;
                tracing::warn!(%from, "it speaks for another voter: that beat is refused");
            }
        }
        let first = beats.first().cloned();
        let (start, number) = (self.shared.start, self.shared.heard.own_number);
        let is_own = |beat: &Beat| {
            beat.voter == self.own && beat.start == start && beat.number.saturating_add(1) >= number
        };
        let tells_of_this_node = beats.iter().any(is_own);
        beats.into_iter().for_each(|beat| self.take_in_beat(beat));
        self.judge_clock();
        let Some((first, hops)) = first.zip(hops.min(WAVE_HOPS).checked_sub(1)) else {
            return;
        };
        let is_voter = self.shared.register.roster().is_some_and(|roster| roster.is_voter(&first.voter));
        if is_voter
            && first.voter != self.own
            && self.shared.heard.is_new(&first, tells_of_this_node)
            && !is_small
        {
            self.pass_on(first, hops, key);
        }
    }

    /// Passes on a wave that came from `from`. A node that does not know when it was heard, because it has just stood still, does not.
    fn pass_on(&mut self, first: Beat, hops: u8, from: NodeKey) {
        let Some(heard) = self.shared.partition.heard(&first.voter) else {
            return;
        };
        let age_ms = u32::try_from(self.now.since(heard).as_millis()).unwrap_or(u32::MAX).max(first.age_ms);
        let others = self.linked().into_iter().filter(|other| *other != from).collect();
        self.send_wave(Beat { age_ms, ..first }, hops, others);
    }

    fn take_in_beat(&mut self, beat: Beat) {
        let age = Duration::from_millis(beat.age_ms.into());
        let heard = self.now.checked_sub(age);
        if !self.shared.partition.handle_beat(&beat.voter, (beat.start, beat.number), heard, self.now) {
            return;
        }
        if let Some(unix_ms) = beat.unix_ms {
            self.shared.clocks.note(&beat.voter, unix_ms.saturating_add(beat.age_ms.into()), self.now);
        }
        // Of two that say so, the later one gives the orders.
        let last_led = self.shared.leader.as_ref().map(|(_, heard)| *heard);
        if let Some(heard) = heard.filter(|heard| beat.leads && last_led.is_none_or(|last| last <= *heard)) {
            self.shared.leader = Some((beat.voter.clone(), heard));
        }
        self.shared.heard.newest.insert(beat.voter.clone(), beat);
    }
}
