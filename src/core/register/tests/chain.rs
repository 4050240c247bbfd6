//! The chain of rosters.

use super::*;

fn add(name: &str) -> RosterChange {
    RosterChange::put(node(name), Seat::default())
}

fn ballot(round: u64, name: &str) -> Ballot {
    Ballot { round, node: node(name), life: 1 }
}

fn single_voter() -> (Register, Instant, Epoch) {
    let now = Instant::ZERO + ms(10);
    let register = open("b", &disk(&roster(&["a", "b", "c"], &[])), StoreState::Whole, 5, now);
    let base = register.epoch().expect("a roster");
    (register, now, base)
}

fn with(register: &Register, name: &str) -> Roster {
    successor(register.roster().expect("it is"), &add(name)).expect("allowed").expect("a difference")
}

#[test]
fn a_mesh_grows_from_one_node_to_three_voters() {
    let first = rules::first(node("a"), voter(), settings(), 1);
    let mut world = World::new(&first);
    for name in ["b", "c"] {
        world.start(name, StoreState::Doubtful);
    }
    world.disks.insert(node("a"), Disk::new());
    world.start("a", StoreState::Doubtful);
    let now = world.now;
    world.at("a").bootstrap(Seat::default(), settings(), now).expect("there is none yet");
    world.run(ms(2000));
    for name in ["b", "c"] {
        world.change(add(name)).expect("a member");
        world.run(ms(2000));
        world.change(RosterChange::put(node(name), voter())).expect("a voter");
        world.run(ms(2000));
    }
    for name in ["a", "b", "c"] {
        let roster = world.at(name).roster().expect("all have it").clone();
        assert_eq!((roster.epoch.order, roster.voter_count()), (5, 3));
        assert!(world.at(name).may_vote(), "{name}");
    }
    world.stop("b");
    world.run(ms(3000));
    world.change(add("d")).expect("two of three decide");
}

#[test]
fn there_is_one_first_roster_a_node() {
    let mut world = World::new(&roster(&["a"], &[]));
    let now = world.now;
    let again = world.at("a").bootstrap(voter(), settings(), now);
    assert!(matches!(again, Err(RegisterError::NotNow(_))));
}

#[test]
fn changes_that_are_proposed_together_come_about_one_after_the_other() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    let now = world.now;
    for name in ["x", "y", "z"] {
        world.at("a").propose(add(name), now);
    }
    world.run(ms(3000));
    assert!(world.decided.values().all(Result::is_ok), "{:?}", world.decided);
    let last = world.at("c").roster().expect("it is").clone();
    assert_eq!((last.epoch.order, last.members.len()), (4, 6));
}

#[test]
fn only_the_holder_of_the_lease_changes_the_roster_and_others_name_it() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    let refused = world.change_at("b", add("x"));
    assert_eq!(refused, Err(RegisterError::NotHolder { holder: Some(node("a")) }));
}

#[test]
fn the_next_change_waits_until_the_lease_was_renewed_under_the_new_roster() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    let now = world.now;
    let next = with(world.at("a"), "x");
    let epoch = next.epoch;
    world.at("a").handle_message(&node("b"), learn(next), now);
    said(world.at("a"), now);
    assert!(matches!(world.at("a").lease(now), LeaseView::Mine { .. }), "it holds the lease still");
    world.at("a").propose(add("y"), now);
    let asked = said(world.at("a"), now);
    assert!(!asked.iter().any(|(_, message)| matches!(message, RegisterMessage::Prepare { .. })));
    world.run(ms(1000));
    let roster = world.at("b").roster().expect("it is");
    assert!(roster.epoch > epoch && roster.members.contains_key(&node("y")));
}

#[test]
fn a_promise_is_on_disk_before_it_is_given_and_a_lower_attempt_is_refused_afterwards() {
    let (mut voter, now, base) = single_voter();
    voter.handle_message(&node("a"), RegisterMessage::Prepare { base, ballot: ballot(2, "a") }, now);
    let Some(RegisterEffect::Store { token, .. }) = voter.poll() else {
        panic!("it stores first");
    };
    assert_eq!(voter.poll(), None);
    voter.handle_committed(token, now);
    let promise = RegisterMessage::Promise { ballot: ballot(2, "a"), accepted: None };
    assert_eq!(said(&mut voter, now), [(node("a"), promise)]);
    let successor = with(&voter, "x");
    for low in [
        RegisterMessage::Prepare { base, ballot: ballot(1, "c") },
        RegisterMessage::Accept { base, ballot: ballot(1, "c"), successor },
    ] {
        voter.handle_message(&node("c"), low, now);
        let outbid = RegisterMessage::Outbid { ballot: ballot(1, "c"), promised: ballot(2, "a") };
        assert_eq!(said(&mut voter, now), [(node("c"), outbid)]);
    }
}

#[test]
fn what_was_accepted_is_on_disk_before_it_is_said_and_told_to_the_next_proposer_after_a_restart() {
    let (mut voter, now, base) = single_voter();
    let successor = with(&voter, "x");
    let accept = RegisterMessage::Accept { base, ballot: ballot(2, "a"), successor: successor.clone() };
    voter.handle_message(&node("a"), accept, now);
    let Some(RegisterEffect::Store { token, changes }) = voter.poll() else {
        panic!("it stores first");
    };
    assert_eq!(voter.poll(), None);
    let mut disk = disk(voter.roster().expect("it is"));
    apply(&mut disk, changes);
    voter.handle_committed(token, now);
    let accepted = RegisterMessage::Accepted { ballot: ballot(2, "a") };
    assert_eq!(said(&mut voter, now), [(node("a"), accepted)]);
    let mut voter = open("b", &disk, StoreState::Whole, 6, now);
    voter.handle_message(&node("c"), RegisterMessage::Prepare { base, ballot: ballot(3, "c") }, now);
    let accepted = Some(Accepted { ballot: ballot(2, "a"), successor });
    let promise = RegisterMessage::Promise { ballot: ballot(3, "c"), accepted };
    assert_eq!(said(&mut voter, now), [(node("c"), promise)]);
}

#[test]
fn a_successor_that_the_rules_forbid_is_not_accepted() {
    let (mut voter, now, base) = single_voter();
    let mut successor = with(&voter, "x");
    successor.members.retain(|name, _| *name != node("a") && *name != node("c"));
    let accept = RegisterMessage::Accept { base, ballot: ballot(2, "a"), successor };
    voter.handle_message(&node("a"), accept, now);
    assert_eq!(said(&mut voter, now), []);
}

#[test]
fn a_proposer_finishes_what_another_began_and_makes_its_own_change_upon_it() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    let (base, now) = (world.at("c").epoch().expect("it is"), world.now);
    let successor = with(world.at("c"), "x");
    let accept = RegisterMessage::Accept { base, ballot: ballot(1, "b"), successor };
    world.at("c").handle_message(&node("b"), accept, now);
    world.stop("b");
    world.change(add("y")).expect("decided");
    let roster = world.at("a").roster().expect("it is");
    assert_eq!(roster.epoch.order, 3);
    assert!(roster.members.contains_key(&node("x")) && roster.members.contains_key(&node("y")));
}

#[test]
fn a_change_that_finds_no_quorum_ends_by_naming_who_is_missing() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    world.cut = nodes(&["b", "c"]);
    let Err(RegisterError::NoQuorum { missing }) = world.change_at("a", add("x")) else {
        panic!("it has no quorum");
    };
    assert_eq!(missing, [node("b"), node("c")]);
}

#[test]
fn a_member_that_was_away_is_told_the_newest_roster() {
    let mut world = World::new(&roster(&["a", "b", "c"], &["m"]));
    world.run(ms(2000));
    world.cut = nodes(&["m", "c"]);
    for name in ["x", "y"] {
        world.change(add(name)).expect("decided");
    }
    world.cut.clear();
    let (epoch, now) = (world.at("a").epoch(), world.now);
    let behind = world.at("m").epoch();
    assert!(behind < epoch);
    world.at("a").note_peer_epoch(&node("m"), behind, now);
    world.run(ms(500));
    assert_eq!(world.at("m").epoch(), epoch);
    assert_eq!(world.at("c").epoch(), epoch, "a voter hears of it with the next renewal");
}

#[test]
fn more_proposals_than_the_bound_are_refused() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    world.cut = nodes(&["a"]);
    let now = world.now;
    for n in 0..=limits::PROPOSALS_MAX {
        world.at("a").propose(add(&format!("x{n}")), now);
    }
    world.exchange();
    assert_eq!(world.decided.values().collect::<Vec<_>>(), [&Err(RegisterError::Overloaded)]);
}

#[test]
fn messages_that_wait_for_the_disk_are_bounded() {
    let (mut voter, now, base) = single_voter();
    for round in 0..2 * limits::REGISTER_WAITING_MAX as u64 {
        let ballot = ballot(round, "a");
        voter.handle_message(&node("a"), RegisterMessage::Prepare { base, ballot }, now);
    }
    assert_eq!(voter.waiting.len(), limits::REGISTER_WAITING_MAX);
}
