//! Which roster may follow which.

use super::*;

fn forbidden(old: &Roster, change: &RosterChange) -> String {
    match successor(old, change) {
        Err(RegisterError::Forbidden { why }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_voter_or_the_settings_or_any_others_are_altered_at_once_and_never_two_of_these() {
    let old = roster(&["a", "b", "c"], &["x", "y"]);
    let one = RosterChange::put(node("d"), voter());
    let next = successor(&old, &one).expect("one voter").expect("a difference");
    assert_eq!(next.epoch, old.epoch.next());
    let others =
        RosterChange::Members { put: [(node("z"), Seat::default())].into(), remove: nodes(&["x", "y"]) };
    assert!(successor(&old, &others).is_ok());
    let two = [(node("d"), voter()), (node("e"), voter())].into();
    let two = RosterChange::Members { put: two, remove: BTreeSet::new() };
    assert!(forbidden(&old, &two).contains("more than one voter"));
    let both = RosterChange::Members { put: [(node("d"), voter())].into(), remove: nodes(&["x"]) };
    assert!(forbidden(&old, &both).contains("at once"));
}

#[test]
fn what_is_so_already_is_no_change() {
    let old = roster(&["a", "b", "c"], &[]);
    assert_eq!(successor(&old, &RosterChange::put(node("a"), voter())), Ok(None));
    assert_eq!(successor(&old, &RosterChange::Settings(settings())), Ok(None));
}

#[test]
fn a_change_is_refused_if_a_quorum_of_before_and_one_of_after_could_miss_each_other() {
    let mut old = roster(&["a", "b", "c", "d"], &[]);
    old.tie_breaker = Some(node("a"));
    let other = RosterSettings { tie_breaker: Some(node("b")), ..settings() };
    assert!(forbidden(&old, &RosterChange::Settings(other)).contains("apart from each other"));
    assert!(successor(&old, &RosterChange::Settings(settings())).is_ok(), "no tie-breaker at all: fine");
    let mut five = roster(&["a", "b", "c", "d", "e"], &[]);
    five.quorum_size = Some(4);
    let three = RosterSettings { quorum_size: Some(3), ..settings() };
    assert!(successor(&five, &RosterChange::Settings(three)).is_ok());
    // Two of three before and two of four, with a new tie-breaker, after.
    let mut three = roster(&["a", "b", "c"], &[]);
    three.tie_breaker = Some(node("a"));
    assert!(forbidden(&three, &RosterChange::put(node("d"), voter())).contains("apart"));
}

#[test]
fn half_of_the_voters_are_a_quorum_only_where_split_writes_are_allowed_and_never_for_the_lease() {
    let old = roster(&["a", "b", "c", "d"], &[]);
    let half = RosterSettings { quorum_size: Some(2), ..settings() };
    assert!(forbidden(&old, &RosterChange::Settings(half.clone())).contains("allow split writes"));
    let allowed = RosterChange::Settings(RosterSettings { split_writes: true, ..half });
    let split = successor(&old, &allowed).expect("allowed").expect("a difference");
    assert!(split.is_quorum(&nodes(&["a", "b"])));
    assert!(!agrees(&split, &nodes(&["a", "b"])));
    assert!(agrees(&split, &nodes(&["a", "b", "c"])));
}

#[test]
fn a_quorum_that_cannot_be_met_and_a_tie_breaker_that_does_not_vote_are_refused() {
    let old = roster(&["a", "b", "c"], &["x"]);
    let four = RosterSettings { quorum_size: Some(4), ..settings() };
    assert!(forbidden(&old, &RosterChange::Settings(four)).contains("no more than there are"));
    let none = RosterSettings { quorum_size: Some(0), ..settings() };
    assert!(forbidden(&old, &RosterChange::Settings(none)).contains("no more than there are"));
    let mute = RosterSettings { tie_breaker: Some(node("x")), ..settings() };
    assert!(forbidden(&old, &RosterChange::Settings(mute)).contains("no voter"));
}

#[test]
fn there_is_no_roster_without_voters_and_none_with_more_than_the_bound() {
    let one = roster(&["a"], &["x"]);
    let none = RosterChange::put(node("a"), Seat::default());
    assert!(forbidden(&one, &none).contains("no voter"));
    let seven = roster(&["a", "b", "c", "d", "e", "f", "g"], &[]);
    assert!(forbidden(&seven, &RosterChange::put(node("h"), voter())).contains("too many voters"));
}

#[test]
fn a_message_with_a_roster_beyond_its_bounds_is_refused() {
    let mut fat = roster(&["a"], &[]);
    fat.audit = Some("x".repeat(limits::AUDIT_BYTES_MAX + 1));
    assert!(learn(fat).check().is_err());
    let mut crowd = roster(&["a"], &[]);
    crowd.members.extend((0..limits::ROSTER_MEMBERS_MAX).map(|n| (node(&format!("n{n}")), Seat::default())));
    assert!(learn(crowd).check().is_err());
    let mut roles = roster(&["a"], &[]);
    roles
        .members
        .insert(node("b"), Seat { roles: vec!["r".into(); limits::ROLES_MAX + 1], ..Seat::default() });
    assert!(learn(roles).check().is_err());
}

#[test]
fn so_many_must_answer_that_every_quorum_has_one_of_them() {
    let five = roster(&["a", "b", "c", "d", "e"], &[]);
    let enough = |names: &[&str]| rules::meets_every_quorum(&five, &nodes(names), &node("a"));
    assert!(enough(&["b", "c", "d"]));
    assert!(!enough(&["b", "c"]));
    assert!(!enough(&["a", "b", "c"]), "the one that asks is no witness");
    let mut four = roster(&["a", "b", "c", "d"], &[]);
    four.tie_breaker = Some(node("d"));
    let enough = |names: &[&str]| rules::meets_every_quorum(&four, &nodes(names), &node("a"));
    assert!(!enough(&["b", "c"]), "a and d are a quorum");
    assert!(enough(&["b", "d"]));
}
