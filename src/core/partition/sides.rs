//! Who is on which side of a partition, put together from what several nodes see.
//!
//! Two nodes reach each other when each sees the other; a side is a group of nodes that do, directly or through one
//! another. Links that work one way only, and pairs that are blind to each other within one side, are cuts. What a
//! member that told nothing sees is not guessed.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Cut, Roster, Side, Sides, SilentNode};

/// What each node in `views` sees, itself or not, makes sides; nodes that the roster does not know are left out.
#[must_use]
pub fn sides(views: &BTreeMap<NodeId, BTreeSet<NodeId>>, roster: &Roster) -> Sides {
    let told: Views<'_> = views.iter().filter(|(node, _)| roster.members.contains_key(*node)).collect();
    let mut found: Vec<_> = groups(&told).into_iter().map(|members| side(members, &told, roster)).collect();
    found.sort_by(|a, b| {
        let weight = |side: &Side| (side.quorum, side.voters, side.members.len());
        weight(b).cmp(&weight(a)).then_with(|| a.members.cmp(&b.members))
    });
    let is_silent = |node: &&NodeId| !told.contains_key(*node);
    let silent = roster.members.keys().filter(is_silent).map(|node| SilentNode {
        node: node.clone(),
        seen_by: told.iter().filter(|(_, seen)| seen.contains(node)).map(|(by, _)| (*by).clone()).collect(),
    });
    let mut result = Sides { silent: silent.collect(), sides: found, ..Sides::default() };
    list_cuts(&mut result, &told);
    result
}

type Views<'a> = BTreeMap<&'a NodeId, &'a BTreeSet<NodeId>>;

/// The nodes, each with all that it reaches directly or through others.
fn groups(told: &Views<'_>) -> Vec<BTreeSet<NodeId>> {
    let mut left: BTreeSet<&NodeId> = told.keys().copied().collect();
    let mut found = Vec::new();
    while let Some(first) = left.pop_first() {
        let mut group = BTreeSet::from([first.clone()]);
        let mut to_visit = vec![first];
        while let Some(node) = to_visit.pop() {
            let near: Vec<_> = left
                .iter()
                .copied()
                .filter(|other| sees(told, node, other) && sees(told, other, node))
                .collect();
            for other in near {
                left.remove(other);
                group.insert(other.clone());
                to_visit.push(other);
            }
        }
        found.push(group);
    }
    found
}

fn sees(told: &Views<'_>, node: &NodeId, other: &NodeId) -> bool {
    told.get(node).is_some_and(|seen| seen.contains(other))
}

fn side(members: BTreeSet<NodeId>, told: &Views<'_>, roster: &Roster) -> Side {
    let sees_quorum = |node: &&NodeId| {
        let mut heard: BTreeSet<NodeId> = told[node].clone();
        heard.insert((*node).clone());
        roster.is_quorum(&heard)
    };
    Side {
        voters: members.iter().filter(|node| roster.is_voter(node)).count(),
        quorum: roster.is_quorum(&members),
        see_quorum: members.iter().filter(sees_quorum).cloned().collect(),
        members,
    }
}

fn list_cuts(result: &mut Sides, told: &Views<'_>) {
    let side_of: BTreeMap<&NodeId, usize> = result
        .sides
        .iter()
        .enumerate()
        .flat_map(|(no, side)| side.members.iter().map(move |m| (m, no)))
        .collect();
    let mut cuts = Vec::new();
    let mut unlisted = 0;
    let nodes: Vec<&NodeId> = told.keys().copied().collect();
    for (at, &a) in nodes.iter().enumerate() {
        for &b in &nodes[at + 1..] {
            let cut = match (sees(told, a, b), sees(told, b, a)) {
                (true, true) => continue,
                (true, false) => Cut::OneWay { sees: a.clone(), unseeing: b.clone() },
                (false, true) => Cut::OneWay { sees: b.clone(), unseeing: a.clone() },
                // Between two sides that is what parts them.
                (false, false) if side_of[a] != side_of[b] => continue,
                (false, false) => Cut::Partial { between: (a.clone(), b.clone()) },
            };
            if cuts.len() < limits::CUTS_LISTED_MAX {
                cuts.push(cut);
            } else {
                unlisted += 1;
            }
        }
    }
    (result.cuts, result.cuts_unlisted) = (cuts, unlisted);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::partition::tests::{node, nodes, roster};

    /// `a: bc` is node a, which sees b and c.
    fn views(texts: &[&str]) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
        let view = |text: &&str| {
            let (own, seen) = text.split_once(": ").expect("a node and whom it sees");
            (node(own), seen.chars().map(|c| node(&c.to_string())).collect())
        };
        texts.iter().map(view).collect()
    }

    #[test]
    fn a_clean_cut_gives_two_sides_and_says_which_is_the_majority() {
        let views = views(&["a: bc", "b: ac", "c: ab", "d: e", "e: d"]);
        let found = sides(&views, &roster(&["a", "b", "c", "d", "e"], &[]));
        let told: Vec<_> = found.sides.iter().map(|s| (s.members.clone(), s.voters, s.quorum)).collect();
        assert_eq!(told, [(nodes(&["a", "b", "c"]), 3, true), (nodes(&["d", "e"]), 2, false)]);
        assert_eq!(found.sides[0].see_quorum, nodes(&["a", "b", "c"]));
        assert_eq!((found.cuts, found.silent), (vec![], vec![]));
    }

    #[test]
    fn a_link_that_works_one_way_is_no_link_and_is_named() {
        let found = sides(&views(&["a: bc", "b: a", "c: "]), &roster(&["a", "b", "c"], &[]));
        assert_eq!(found.sides.len(), 2);
        assert_eq!(found.cuts, [Cut::OneWay { sees: node("a"), unseeing: node("c") }]);
    }

    #[test]
    fn a_partial_cut_leaves_one_side_and_tells_who_does_not_see_a_quorum() {
        let views = views(&["a: b", "b: ac", "c: bd", "d: ce", "e: d"]);
        let found = sides(&views, &roster(&["a", "b", "c", "d", "e"], &[]));
        assert_eq!(found.sides.len(), 1);
        assert!(found.sides[0].quorum);
        assert_eq!(found.sides[0].see_quorum, nodes(&["b", "c", "d"]));
        assert!(found.cuts.contains(&Cut::Partial { between: (node("a"), node("c")) }));
        assert_eq!(found.cuts.len(), 6);
    }

    #[test]
    fn who_told_nothing_is_put_on_no_side() {
        let found = sides(&views(&["a: b", "x: a"]), &roster(&["a", "b", "c"], &[]));
        assert_eq!(found.sides.len(), 1, "x is no member");
        assert!(!found.sides[0].quorum);
        let silent = |name: &str, by: &[&str]| SilentNode { node: node(name), seen_by: nodes(by) };
        assert_eq!(found.silent, [silent("b", &["a"]), silent("c", &[])]);
    }

    #[test]
    fn the_list_of_cuts_is_bounded_and_the_rest_is_counted() {
        let names: Vec<String> = (0..40).map(|n| format!("n{n:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let hub = nodes(&names);
        let views = names
            .iter()
            .map(|n| (node(n), if *n == "n00" { hub.clone() } else { nodes(&["n00"]) }))
            .collect();
        let found = sides(&views, &roster(&names, &[]));
        assert_eq!(found.sides.len(), 1);
        assert_eq!(found.cuts.len(), limits::CUTS_LISTED_MAX);
        assert_eq!(found.cuts_unlisted, 39 * 38 / 2 - limits::CUTS_LISTED_MAX);
    }
}
