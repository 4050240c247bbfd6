//! What the steward proposes.

use super::*;
use crate::core::register::steward::{Attendance, next_change};

fn here() -> Attendance {
    Attendance { roles: Vec::new(), zone: String::new(), away: None }
}

fn away(secs: u64) -> Attendance {
    Attendance { away: Some(Duration::from_secs(secs)), ..here() }
}

fn with_role(role: &str) -> Attendance {
    Attendance { roles: vec![role.into()], ..here() }
}

fn all(seen: &[(&str, Attendance)]) -> BTreeMap<NodeId, Attendance> {
    seen.iter().map(|(name, attendance)| (node(name), attendance.clone())).collect()
}

/// Makes every change that the steward proposes.
fn steer(mut roster: Roster, seen: &[(&str, Attendance)]) -> Roster {
    for _ in 0..20 {
        let Some(change) = next_change(&roster, &all(seen)) else {
            return roster;
        };
        roster = successor(&roster, &change).expect("it proposes what is allowed").expect("and new");
    }
    panic!("it never rests");
}

#[test]
fn live_members_are_added_and_become_voters_up_to_seven() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let seen: Vec<_> = names.iter().map(|name| (*name, here())).collect();
    let grown = steer(roster(&["a"], &[]), &seen);
    assert_eq!((grown.members.len(), grown.voter_count()), (9, 7));
}

#[test]
fn a_node_with_other_roles_is_a_member_and_no_voter() {
    let seen = [("a", here()), ("b", with_role("gpu")), ("c", with_role("voter"))];
    let grown = steer(roster(&["a"], &[]), &seen);
    assert_eq!(grown.voters().cloned().collect::<BTreeSet<_>>(), nodes(&["a", "c"]));
    assert_eq!(grown.members.len(), 3);
}

#[test]
fn voters_are_spread_over_the_zones() {
    let mut old = roster(&["a", "b", "c", "d", "e", "f"], &["p", "q"]);
    for (name, zone) in [("a", "z1"), ("b", "z1"), ("p", "z1"), ("q", "z2")] {
        old.members.get_mut(&node(name)).expect("it is").zone = zone.into();
    }
    let change = next_change(&old, &BTreeMap::new()).expect("one more voter");
    let new = successor(&old, &change).expect("allowed").expect("new");
    assert!(new.is_voter(&node("q")) && !new.is_voter(&node("p")));
}

#[test]
fn a_voter_that_failed_a_minute_ago_is_replaced_if_there_is_a_candidate() {
    let seven = ["a", "b", "c", "d", "e", "f", "g"];
    let failed = |secs| [("g", away(secs)), ("h", here())];
    let old = roster(&seven, &["h"]);
    assert_eq!(next_change(&old, &all(&failed(59))), None);
    let new = steer(old, &failed(60));
    assert!(new.is_voter(&node("h")) && !new.is_voter(&node("g")));
    assert!(new.members.contains_key(&node("g")), "it is a member still");
    assert_eq!(
        next_change(&roster(&seven, &[]), &all(&[("g", away(60))])),
        None,
        "nobody can take its place"
    );
}

#[test]
fn who_was_away_for_too_long_is_evicted() {
    let limit = 72 * 3600;
    let old = roster(&["a", "b", "c"], &["m"]);
    assert_eq!(next_change(&old, &all(&[("m", away(limit))])), None);
    for gone in ["m", "c"] {
        let new = steer(old.clone(), &[(gone, away(limit + 1))]);
        assert!(!new.members.contains_key(&node(gone)), "{gone}");
    }
}

#[test]
fn what_the_rules_refuse_is_not_proposed() {
    let mut old = roster(&["a", "b", "c"], &[]);
    old.tie_breaker = Some(node("c"));
    assert_eq!(next_change(&old, &all(&[("c", away(80 * 3600))])), None, "the tie-breaker stays");
}

#[test]
fn a_failed_voter_gives_way_where_fewer_voters_bear_more() {
    let seen = [("c", away(60)), ("d", here())];
    let new = steer(roster(&["a", "b", "c"], &["d"]), &seen);
    assert_eq!(new.voters().cloned().collect::<BTreeSet<_>>(), nodes(&["a", "b", "d"]));
    assert_eq!(
        next_change(&roster(&["a", "b", "c"], &[]), &all(&seen[..1])),
        None,
        "two of three is as good"
    );
}
