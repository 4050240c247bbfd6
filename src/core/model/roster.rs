//! The roster: which nodes should exist, which of them vote, and what counts as a quorum of them.
//!
//! A plain record. How one roster follows another is agreed in the register; who can be reached at present is
//! the business of membership. A roster says only what *would* be enough.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::ids::NodeId;

/// Names one roster: a later one is greater. Chains begin with 1; each forced override begins a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// The chain: how often an operator has overruled a lost quorum, plus one.
    pub chain: u64,
    /// Which of two chains of that number holds, should two operators overrule at once: drawn by chance, the
    /// higher one wins.
    pub chain_id: u64,
    /// The place in the chain, counted from 1.
    pub order: u64,
}

impl Epoch {
    /// The epoch of the next roster in the same chain.
    #[must_use]
    pub fn next(self) -> Self {
        Self { order: self.order + 1, ..self }
    }

    /// Whether both are of one chain.
    #[must_use]
    pub fn same_chain(self, other: Self) -> bool {
        (self.chain, self.chain_id) == (other.chain, other.chain_id)
    }
}

/// What the roster says of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Seat {
    /// Whether it votes.
    pub voter: bool,
    /// The roles that its configuration gives it (`node.roles`), in order.
    pub roles: Vec<String>,
    /// Its zone, empty when none was given.
    pub zone: String,
}

/// Which nodes should exist and which of them vote.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Roster {
    /// Its place among all rosters.
    pub epoch: Epoch,
    /// The nodes, voters or not.
    pub members: BTreeMap<NodeId, Seat>,
    /// How many voters make a quorum; `None`: more than half.
    pub quorum_size: Option<u16>,
    /// Exactly half of the voters count as a quorum if this one is among them.
    pub tie_breaker: Option<NodeId>,
    /// Whether a quorum may be so small that two disjoint ones can write at once.
    pub split_writes: bool,
    /// A member that was away for longer is evicted.
    pub max_offline: Duration,
    /// Who overruled what and why, if an operator began this chain by force. All rosters of the chain repeat it.
    pub audit: Option<String>,
}

impl Roster {
    /// The voters, in order of their names.
    pub fn voters(&self) -> impl Iterator<Item = &NodeId> {
        self.members.iter().filter(|(_, seat)| seat.voter).map(|(node, _)| node)
    }

    /// How many voters there are.
    #[must_use]
    pub fn voter_count(&self) -> usize {
        self.voters().count()
    }

    /// Whether a node votes.
    #[must_use]
    pub fn is_voter(&self, node: &NodeId) -> bool {
        self.members.get(node).is_some_and(|seat| seat.voter)
    }

    /// How many voters make a quorum.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.quorum_size.map_or_else(|| self.voter_count() / 2 + 1, usize::from)
    }

    /// Its voters, and how many of them are a quorum.
    #[must_use]
    pub fn electorate(&self) -> Electorate {
        let voters: BTreeSet<_> = self.voters().cloned().collect();
        let is_even = self.quorum_size.is_none() && voters.len() % 2 == 0;
        let tie_breaker = self.tie_breaker.clone().filter(|node| is_even && voters.contains(node));
        Electorate { voters, quorum: self.quorum(), tie_breaker }
    }

    /// Whether these nodes are a quorum; those among them that do not vote do not count.
    #[must_use]
    pub fn is_quorum(&self, nodes: &BTreeSet<NodeId>) -> bool {
        self.electorate().is_quorum(nodes)
    }

    /// Whether two disjoint groups of voters could both be a quorum.
    #[must_use]
    pub fn can_split(&self) -> bool {
        2 * self.quorum() <= self.voter_count()
    }
}

/// What of a roster decides: small, whatever the size of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Electorate {
    voters: BTreeSet<NodeId>,
    quorum: usize,
    /// Half of the voters are enough with this one.
    tie_breaker: Option<NodeId>,
}

impl Electorate {
    /// Whether a node votes.
    #[must_use]
    pub fn has(&self, node: &NodeId) -> bool {
        self.voters.contains(node)
    }

    /// How many voters there are.
    #[must_use]
    pub fn voter_count(&self) -> usize {
        self.voters.len()
    }

    /// How many of them make a quorum.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.quorum
    }

    /// Whether these nodes are a quorum; those among them that do not vote do not count.
    #[must_use]
    pub fn is_quorum(&self, nodes: &BTreeSet<NodeId>) -> bool {
        let present = nodes.iter().filter(|node| self.has(node)).count();
        if present > 0 && present >= self.quorum {
            return true;
        }
        let ties = self.tie_breaker.as_ref().is_some_and(|node| nodes.contains(node));
        ties && 2 * present == self.voters.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(voters: &[&str], quorum_size: Option<u16>, tie_breaker: Option<&str>) -> Roster {
        let node = |name: &str| NodeId::new(name).expect("valid");
        let seat = || Seat { voter: true, ..Seat::default() };
        Roster {
            epoch: Epoch { chain: 1, chain_id: 0, order: 1 },
            members: voters.iter().map(|name| (node(name), seat())).collect(),
            quorum_size,
            tie_breaker: tie_breaker.map(node),
            split_writes: false,
            max_offline: Duration::from_secs(72 * 3600),
            audit: None,
        }
    }

    fn nodes(names: &[&str]) -> BTreeSet<NodeId> {
        names.iter().map(|name| NodeId::new(name).expect("valid")).collect()
    }

    #[test]
    fn more_than_half_is_a_quorum_and_half_is_one_only_with_the_tie_breaker() {
        let four = roster(&["a", "b", "c", "d"], None, Some("d"));
        assert!(four.is_quorum(&nodes(&["a", "b", "c"])));
        assert!(four.is_quorum(&nodes(&["a", "d"])));
        assert!(!four.is_quorum(&nodes(&["a", "b"])));
        assert!(!four.is_quorum(&nodes(&["d"])));
        let two = roster(&["a", "b"], None, None);
        assert!(!two.is_quorum(&nodes(&["a"])));
    }

    #[test]
    fn nobody_is_no_quorum() {
        assert!(!roster(&[], None, None).is_quorum(&nodes(&[])));
        assert!(!roster(&[], None, Some("a")).is_quorum(&nodes(&["a"])));
    }

    #[test]
    fn a_configured_quorum_takes_the_place_of_the_majority_and_of_the_tie_breaker() {
        let five = roster(&["a", "b", "c", "d", "e"], Some(4), Some("a"));
        assert!(!five.is_quorum(&nodes(&["a", "b", "c"])));
        assert!(five.is_quorum(&nodes(&["a", "b", "c", "d"])));
        assert!(!five.can_split());
        assert!(roster(&["a", "b", "c", "d"], Some(2), None).can_split());
    }
}
