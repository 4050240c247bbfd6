//! Stores that were lost or are old.

use super::*;

fn lose(world: &mut World, name: &str) {
    world.stop(name);
    world.disks.insert(node(name), Disk::new());
    world.start(name, StoreState::Doubtful);
}

fn tell(world: &mut World, name: &str, from: &str) {
    let (epoch, now) = (world.at(name).epoch(), world.now);
    world.at(from).note_peer_epoch(&node(name), epoch, now);
}

#[test]
fn a_voter_that_lost_its_store_takes_over_promise_accepted_value_and_term_before_it_votes() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    let (base, now) = (world.at("a").epoch().expect("it is"), world.now);
    let ballot = Ballot { round: 7, node: node("a"), life: 1 };
    let change = RosterChange::put(node("x"), Seat::default());
    let successor = successor(world.at("a").roster().expect("it is"), &change).expect("fine").expect("new");
    let accept = RegisterMessage::Accept { base, ballot: ballot.clone(), successor };
    world.at("b").handle_message(&node("a"), accept, now);
    let (_, term) = world.holder();
    lose(&mut world, "c");
    tell(&mut world, "c", "a");
    world.run(quiet() - ms(20));
    assert!(!world.at("c").may_vote());
    world.run(ms(400));
    assert!(world.at("c").may_vote());
    let c = world.at("c").durable.clone();
    assert_eq!(c.instance.promised, Some(ballot.clone()));
    assert_eq!(c.instance.accepted.map(|accepted| accepted.ballot), Some(ballot));
    assert_eq!(c.vote, durable::Vote { term, holder: Some(node("a")) });
}

/// Whom a lost vote was given to has left the roster with its lease, and the voter that is asked was in no quorum with them.
#[test]
fn a_term_that_was_granted_before_a_change_of_the_roster_is_not_granted_again_after_a_loss() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.stop("b");
    world.run(ms(6000));
    let (holder, term) = world.holder();
    world.change(RosterChange::evict(holder.clone())).expect("decided");
    world.start("b", StoreState::Whole);
    assert!(world.at("b").durable.vote.term < term, "b has granted nothing of it");
    let other = if holder == node("a") { "c" } else { "a" };
    tell(&mut world, "b", other);
    world.run(ms(100));
    world.stop(holder.as_str());
    lose(&mut world, other);
    tell(&mut world, other, "b");
    world.run(ms(20_000));
    let (next, later) = world.holder();
    assert!(next != holder && later > term, "{next:?} holds term {later}, which {holder:?} had: {term}");
}

#[test]
fn a_minority_of_witnesses_is_not_enough_and_one_that_has_forgotten_itself_is_none() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    lose(&mut world, "b");
    lose(&mut world, "c");
    tell(&mut world, "b", "a");
    tell(&mut world, "c", "a");
    world.run(ms(10_000));
    assert!(!world.at("b").may_vote() && !world.at("c").may_vote());
    assert_eq!(world.holders(), [], "a alone is no quorum");
}

#[test]
fn nobody_is_asked_before_the_silence_is_over() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    world.stop("c");
    world.start("c", StoreState::Doubtful);
    let begun = world.now;
    let asks = |said: &[(NodeId, RegisterMessage)]| {
        said.iter().any(|(_, message)| matches!(message, RegisterMessage::RecoverAsk { .. }))
    };
    said(world.at("c"), begun);
    world.at("c").handle_timeout(begun + (quiet() - ms(1)));
    assert!(!asks(&said(world.at("c"), begun)));
    world.at("c").handle_timeout(begun + quiet());
    assert!(asks(&said(world.at("c"), begun)));
}

#[test]
fn a_store_that_turns_out_to_be_old_is_doubted_at_once_and_also_after_a_restart() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    world.run(ms(2000));
    world.cut = nodes(&["c"]);
    let now = world.now;
    world.at("c").handle_old_store(now);
    assert!(!world.at("c").may_vote());
    world.run(ms(100));
    world.stop("c");
    world.start("c", StoreState::Whole);
    assert!(!world.at("c").may_vote(), "it is on disk that the store was doubted");
    world.cut.clear();
    world.run(ms(2000));
    assert!(world.at("c").may_vote());
}

#[test]
fn a_promise_that_waits_for_the_disk_when_the_store_is_doubted_is_not_given() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    let (base, now) = (world.at("c").epoch().expect("it is"), world.now);
    let ballot = Ballot { round: 7, node: node("a"), life: 1 };
    world.at("c").handle_message(&node("a"), RegisterMessage::Prepare { base, ballot }, now);
    world.at("c").handle_old_store(now);
    let said = said(world.at("c"), now);
    assert!(!said.iter().any(|(_, message)| matches!(message, RegisterMessage::Promise { .. })), "{said:?}");
    assert!(!world.at("c").durable.sound);
}

#[test]
fn a_disk_that_does_not_take_the_doubt_is_tried_again_after_a_while() {
    let mut world = World::new(&roster(&["a", "b", "c"], &[]));
    let stores = |register: &mut Register| {
        let effects = std::iter::from_fn(|| register.poll());
        let token = |effect| match effect {
            RegisterEffect::Store { token, .. } => Some(token),
            RegisterEffect::Send { .. }
            | RegisterEffect::RosterChanged(_)
            | RegisterEffect::LeaseChanged(_)
            | RegisterEffect::Decided { .. } => None,
        };
        effects.filter_map(token).collect::<Vec<_>>()
    };
    let now = world.now;
    let register = world.at("c");
    register.handle_old_store(now);
    let given = stores(register);
    assert_eq!(given.len(), 1);
    register.handle_commit_failed(given[0], now);
    assert!(stores(register).is_empty(), "it would ask as fast as the disk refuses");
    let again = register.poll_timeout().expect("it waits for something");
    assert!(again > now && again <= now + limits::RECOVERY_RETRY);
    register.handle_timeout(now + limits::RECOVERY_RETRY);
    assert_eq!(stores(register).len(), 1);
}

#[test]
fn rows_that_cannot_be_read_are_taken_for_lost() {
    let mut disk = disk(&roster(&["a", "b", "c"], &[]));
    disk.insert(Bytes::from_static(b"vote"), Bytes::from_static(b"\xff\xff"));
    let register = open("a", &disk, StoreState::Whole, 1, Instant::ZERO);
    assert!(!register.may_vote());
}

#[test]
fn a_member_that_does_not_vote_is_ready_before_it_becomes_a_voter() {
    let mut world = World::new(&roster(&["a", "b"], &["m"]));
    world.run(ms(2000));
    lose(&mut world, "m");
    tell(&mut world, "m", "a");
    world.run(ms(2000));
    assert!(world.at("m").durable.sound);
    world.change(RosterChange::put(node("m"), voter())).expect("decided");
    assert!(world.at("m").may_vote());
}
