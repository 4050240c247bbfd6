//! Overriding a lost quorum, and finishing what was begun.

use super::*;

fn forced(world: &mut World, name: &str, keep: &[&str]) -> Result<Epoch, RegisterError> {
    let now = world.now;
    world.at(name).force(&nodes(keep), "the other site burnt down".into(), now)
}

#[test]
fn an_override_begins_a_new_chain_with_its_reason_and_the_survivors_go_on() {
    let mut world = World::new(&roster(&["a", "b", "c"], &["m"]));
    world.run(ms(2000));
    world.stop("b");
    world.stop("c");
    world.run(ms(3000));
    assert_eq!(world.holders(), []);
    let epoch = forced(&mut world, "a", &["a", "m"]).expect("done");
    assert_eq!((epoch.chain, epoch.order), (2, 1));
    world.run(ms(3000));
    assert_eq!(world.holder().0, node("a"));
    world.change(RosterChange::put(node("m"), voter())).expect("decided");
    let roster = world.at("m").roster().expect("it is");
    assert_eq!(roster.audit.as_deref(), Some("the other site burnt down"), "the chain keeps its reason");
}

#[test]
fn members_of_the_lower_chain_go_over_when_they_meet_the_higher_one() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    world.cut = nodes(&["a"]);
    world.run(ms(2000));
    for name in ["x", "y"] {
        world.change(RosterChange::put(node(name), Seat::default())).expect("b and c go on");
    }
    let epoch = forced(&mut world, "a", &["a"]).expect("done");
    assert!(epoch > world.at("b").epoch().expect("it is"), "however far the lower chain has come");
    world.run(ms(100));
    world.cut.clear();
    let now = world.now;
    for name in ["b", "c"] {
        world.at("a").note_peer_epoch(&node(name), None, now);
    }
    world.run(ms(3000));
    assert_eq!(world.at("c").epoch(), Some(epoch));
    assert_eq!(world.holder().0, node("a"), "b and c are no members any more");
}

#[test]
fn of_two_overrides_at_once_one_stands_on_both_sides() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    world.cut = nodes(&["a", "b", "c"]);
    let one = forced(&mut world, "a", &["a", "b"]).expect("done");
    let other = forced(&mut world, "b", &["a", "b"]).expect("done");
    assert_ne!(one, other);
    world.run(ms(100));
    world.cut.clear();
    let now = world.now;
    world.at("a").note_peer_epoch(&node("b"), Some(other), now);
    world.run(ms(100));
    assert_eq!(world.at("a").epoch(), Some(one.max(other)));
    assert_eq!(world.at("b").epoch(), Some(one.max(other)));
}

#[test]
fn an_override_needs_a_reason_a_voter_and_the_node_itself() {
    let mut world = World::new(&roster(&["a", "b"], &["m"]));
    let now = world.now;
    let reasonless = world.at("a").force(&nodes(&["a"]), " ".into(), now);
    assert!(matches!(reasonless, Err(RegisterError::Forbidden { .. })));
    assert!(matches!(forced(&mut world, "m", &["m"]), Err(RegisterError::Forbidden { .. })));
    assert!(matches!(forced(&mut world, "a", &["b"]), Err(RegisterError::Forbidden { .. })));
}

#[test]
fn an_override_is_followed_by_silence_for_the_sake_of_the_former_lease() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    world.cut = nodes(&["a"]);
    forced(&mut world, "b", &["b", "c"]).expect("done");
    world.run(quiet() - ms(20));
    assert_eq!(world.holders(), []);
    world.run(ms(200));
    assert_eq!(world.holder().0, node("b"));
}

#[test]
fn a_quorum_size_and_a_tie_breaker_that_make_no_sense_afterwards_are_dropped() {
    let mut old = roster(&["a", "b", "c", "d"], &[]);
    old.quorum_size = Some(3);
    old.tie_breaker = Some(node("d"));
    let new = rules::forced(&old, &nodes(&["a", "b"]), 1, "why".into());
    assert_eq!((new.quorum_size, new.tie_breaker.clone()), (None, None));
    assert_eq!(check_alone(&new), Ok(()));
}

#[test]
fn a_pending_change_is_finished_without_a_change_of_ones_own() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    let (base, now) = (world.at("c").epoch().expect("it is"), world.now);
    assert_eq!(world.change(RosterChange::FinishPending), Ok(base), "there is none");
    let change = RosterChange::put(node("x"), Seat::default());
    let successor = successor(world.at("c").roster().expect("it is"), &change).expect("fine").expect("new");
    let ballot = Ballot { round: 9, node: node("c"), life: 1 };
    world.at("b").handle_message(&node("c"), RegisterMessage::Accept { base, ballot, successor }, now);
    world.stop("c");
    assert_eq!(world.change(RosterChange::FinishPending), Ok(base.next()));
    assert!(world.at("a").roster().expect("it is").members.contains_key(&node("x")));
}

#[test]
fn without_a_quorum_finishing_says_who_is_missing() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.stop("b");
    world.stop("c");
    world.run(ms(2000));
    let finished = world.change_at("a", RosterChange::FinishPending);
    assert_eq!(finished, Err(RegisterError::NoQuorum { missing: vec![node("b"), node("c")] }));
}
