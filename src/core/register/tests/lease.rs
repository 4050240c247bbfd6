//! The lease and its term.

use super::*;

fn three() -> World {
    World::new(&roster(&["a", "b", "c"], &[]))
}

/// A voter that has nothing to remember, its silence over, and the moment.
fn single_voter() -> (Register, Instant) {
    let now = Instant::ZERO + ms(10);
    let register = open("b", &disk(&roster(&["a", "b", "c"], &[])), StoreState::Whole, 5, now);
    (register, now + quiet())
}

fn ask(voter: &mut Register, from: &str, term: u64, now: Instant) -> RegisterMessage {
    let base = voter.epoch().expect("a roster");
    voter.handle_message(&node(from), RegisterMessage::LeaseAsk { base, term, ask: term }, now);
    let mut said = said(voter, now);
    said.retain(|(to, message)| *to == node(from) && !matches!(message, RegisterMessage::LeaseAsk { .. }));
    said.pop().expect("an answer").1
}

fn is_grant(message: &RegisterMessage) -> bool {
    matches!(message, RegisterMessage::LeaseGrant { .. })
}

#[test]
fn the_first_in_line_gets_the_lease_when_the_silence_after_the_start_is_over_and_keeps_it() {
    let mut world = three();
    world.run(quiet() - ms(20));
    assert_eq!(world.holders(), []);
    world.run(ms(50));
    assert_eq!(world.holder(), (node("a"), 1));
    world.run(ms(20_000));
    assert_eq!(world.holder(), (node("a"), 1), "renewals keep the term");
}

#[test]
fn the_next_in_line_takes_over_under_a_higher_term_soon_after_the_lease_has_lapsed() {
    let mut world = three();
    world.run(ms(2000));
    world.stop("a");
    world.run(ms(1250));
    let (holder, term) = world.holder();
    assert_eq!(holder, node("b"), "rank 1 goes before rank 2");
    assert!(term > 1);
}

#[test]
fn a_failed_voter_is_passed_over_where_candidates_stand_in_line() {
    let mut world = three();
    for name in ["b", "c"] {
        let now = world.now;
        world.at(name).set_failed(nodes(&["a", "b"]), now);
    }
    let base = world.at("c").epoch();
    assert!(base.is_some());
    assert_eq!(world.at("c").poll_timeout(), Some(world.now + quiet()), "c is first among a, b, c");
    assert_eq!(
        world.at("b").poll_timeout(),
        Some(world.now + quiet()),
        "one does not hold oneself for failed"
    );
    let now = world.now;
    world.at("c").set_failed(BTreeSet::new(), now);
    assert_eq!(world.at("c").poll_timeout(), Some(now + quiet() + 2 * limits::LEASE_RANK_STEP));
}

#[test]
fn a_minority_has_no_lease_and_a_holder_that_is_cut_off_loses_it_before_another_gets_it() {
    let mut world = three();
    world.run(ms(2000));
    world.cut = nodes(&["a"]);
    world.run(ms(985));
    assert_eq!(world.holders(), []);
    world.run(ms(400));
    assert_eq!(world.holder().0, node("b"));
    world.cut = nodes(&["b", "c", "a"]);
    world.run(ms(5000));
    assert_eq!(world.holders(), []);
    world.cut.clear();
    world.run(ms(2500));
    world.holder();
}

#[test]
fn a_voter_stores_term_and_holder_before_it_grants() {
    let (mut voter, now) = single_voter();
    let base = voter.epoch().expect("a roster");
    voter.handle_message(&node("a"), RegisterMessage::LeaseAsk { base, term: 4, ask: 9 }, now);
    let effects: Vec<_> = std::iter::from_fn(|| voter.poll()).collect();
    let [RegisterEffect::Store { token, changes }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(changes.len(), 1);
    voter.handle_committed(*token, now);
    let grant = RegisterMessage::LeaseGrant { term: 4, ask: 9 };
    assert_eq!(voter.poll(), Some(RegisterEffect::Send { to: node("a"), message: grant }));
}

#[test]
fn a_vote_that_could_not_be_stored_is_not_given() {
    let (mut voter, now) = single_voter();
    let base = voter.epoch().expect("a roster");
    voter.handle_message(&node("a"), RegisterMessage::LeaseAsk { base, term: 4, ask: 9 }, now);
    let Some(RegisterEffect::Store { token, .. }) = voter.poll() else {
        panic!("it stores");
    };
    voter.handle_commit_failed(token, now);
    let granted = std::iter::from_fn(|| voter.poll())
        .any(|effect| matches!(effect, RegisterEffect::Send { message, .. } if is_grant(&message)));
    assert!(!granted);
}

#[test]
fn a_renewal_is_not_written_and_does_not_wait_for_another_write() {
    let (mut voter, now) = single_voter();
    assert!(is_grant(&ask(&mut voter, "a", 4, now)));
    let base = voter.epoch().expect("a roster");
    let ballot = Ballot { round: 1, node: node("a"), life: 1 };
    voter.handle_message(&node("a"), RegisterMessage::Prepare { base, ballot }, now);
    voter.handle_message(&node("a"), RegisterMessage::LeaseAsk { base, term: 4, ask: 10 }, now);
    let effects: Vec<_> = std::iter::from_fn(|| voter.poll()).collect();
    let stores = effects.iter().filter(|effect| matches!(effect, RegisterEffect::Store { .. })).count();
    assert_eq!(stores, 1, "that of the promise");
    let grant = RegisterMessage::LeaseGrant { term: 4, ask: 10 };
    assert!(effects.contains(&RegisterEffect::Send { to: node("a"), message: grant }));
}

#[test]
fn a_term_that_is_not_above_the_highest_is_granted_to_nobody_else() {
    let (mut voter, now) = single_voter();
    assert!(is_grant(&ask(&mut voter, "a", 4, now)));
    let later = now + ms(1010);
    for term in [3, 4] {
        let refused = ask(&mut voter, "c", term, later);
        assert!(matches!(refused, RegisterMessage::LeaseRefuse { term: 4, .. }), "{refused:?}");
    }
    assert!(is_grant(&ask(&mut voter, "c", 5, later)));
}

#[test]
fn nobody_else_is_granted_until_the_time_and_one_percent_is_over() {
    let (mut voter, now) = single_voter();
    assert!(is_grant(&ask(&mut voter, "a", 4, now)));
    let refused = ask(&mut voter, "c", 5, now + ms(1009));
    let remaining = RegisterMessage::LeaseRefuse { ask: 5, term: 4, wait: ms(1) };
    assert_eq!(refused, remaining);
    assert!(is_grant(&ask(&mut voter, "c", 5, now + ms(1010))));
}

#[test]
fn the_holder_counts_from_sending_less_one_percent() {
    let now = Instant::ZERO + ms(10);
    let mut holder = open("a", &disk(&roster(&["a", "b", "c"], &[])), StoreState::Whole, 5, now);
    let sent = now + quiet();
    holder.handle_timeout(sent);
    let asked = said(&mut holder, sent);
    let Some((_, RegisterMessage::LeaseAsk { term, ask, .. })) = asked.first() else {
        panic!("{asked:?}");
    };
    let grant = RegisterMessage::LeaseGrant { term: *term, ask: *ask };
    let mut late = holder.clone();
    holder.handle_message(&node("b"), grant.clone(), sent + ms(200));
    assert_eq!(holder.lease(sent + ms(200)), LeaseView::Mine { term: *term, until: sent + ms(990) });
    assert_eq!(holder.lease(sent + ms(990)), LeaseView::Nobody);
    late.handle_message(&node("b"), grant, sent + ms(990));
    assert_eq!(late.lease(sent + ms(990)), LeaseView::Nobody, "a grant that comes too late is none");
}

#[test]
fn a_voter_grants_nobody_after_its_start_and_answers_with_the_full_time() {
    let now = Instant::ZERO + ms(10);
    let mut voter = open("b", &disk(&roster(&["a", "b", "c"], &[])), StoreState::Whole, 5, now);
    let refused = ask(&mut voter, "a", 4, now + ms(900));
    assert_eq!(refused, RegisterMessage::LeaseRefuse { ask: 4, term: 0, wait: ms(1010) });
    assert!(is_grant(&ask(&mut voter, "a", 4, now + quiet())));
}

#[test]
fn a_step_of_the_clock_drops_the_lease_and_begins_the_silence_again() {
    let mut world = three();
    world.run(ms(2000));
    let now = world.now;
    world.at("a").drop_lease(now);
    assert_eq!(world.holders(), []);
    let refused = ask(world.at("a"), "b", 9, now + ms(500));
    assert!(matches!(refused, RegisterMessage::LeaseRefuse { .. }), "{refused:?}");
}

#[test]
fn nobody_votes_while_joining() {
    let mut world = three();
    for name in ["b", "c"] {
        let now = world.now;
        world.at(name).set_joining(true, now);
    }
    world.run(ms(3000));
    assert_eq!(world.holders(), []);
    let now = world.now;
    world.at("c").set_joining(false, now);
    world.run(ms(2500));
    world.holder();
}

#[test]
fn a_vote_under_an_older_roster_is_refused_and_the_newer_one_told() {
    let (mut voter, now) = single_voter();
    let base = voter.epoch().expect("a roster");
    let newer = successor(voter.roster().expect("it is"), &RosterChange::put(node("x"), Seat::default()));
    let newer = newer.expect("allowed").expect("a difference");
    voter.handle_message(&node("a"), learn(newer.clone()), now);
    said(&mut voter, now);
    voter.handle_message(&node("a"), RegisterMessage::LeaseAsk { base, term: 4, ask: 1 }, now);
    let answers = said(&mut voter, now);
    assert!(answers.contains(&(node("a"), learn(newer.clone()))));
    assert!(!answers.iter().any(|(_, message)| is_grant(message)));
    let ahead = newer.epoch.next();
    voter.handle_message(&node("a"), RegisterMessage::LeaseAsk { base: ahead, term: 4, ask: 2 }, now);
    let catch_up = RegisterMessage::RosterAsk { have: Some(newer.epoch) };
    assert!(said(&mut voter, now).contains(&(node("a"), catch_up)));
}

#[test]
fn members_that_do_not_vote_are_granted_nothing() {
    let (mut voter, now) = single_voter();
    let base = voter.epoch().expect("a roster");
    voter.handle_message(&node("z"), RegisterMessage::LeaseAsk { base, term: 4, ask: 1 }, now);
    assert!(!said(&mut voter, now).iter().any(|(to, _)| *to == node("z")));
}
