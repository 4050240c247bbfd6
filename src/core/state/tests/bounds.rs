//! What is refused, and that a refusal changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::core::contract::{Change, Table};
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{
    Actor, Clock, Dot, DotRange, Hlc, KeyState, KeyUpdate, OrderEpoch, Sibling, Slot, Span, Writer,
};
use crate::core::state::{Refuse, State, WriteError};

fn actor(n: u64) -> Actor {
    Actor(uuid::Uuid::from_u128(u128::from(n) + 1))
}

fn epoch(order: u64) -> OrderEpoch {
    OrderEpoch { order, ..OrderEpoch::default() }
}

fn writer(slot: Option<(&str, u64)>) -> Arc<Writer> {
    let slot = slot.map(|(name, order)| Slot { name: name.to_owned(), epoch: epoch(order) });
    Arc::new(Writer { node: NodeId::new("n").expect("valid"), slot })
}

/// A write of another node.
fn update(key: &str, dot: Dot, value: &'static str) -> KeyUpdate {
    let value = Some(Bytes::from_static(value.as_bytes()));
    let sibling = Sibling { dot, hlc: Hlc::at(1), writer: writer(None), value };
    let state = KeyState { siblings: vec![sibling], context: Clock::default() };
    KeyUpdate { key: key.to_owned(), state, more: vec![] }
}

fn put(state: &mut State, key: &str, value: &str, context: Option<&Clock>) -> Result<Dot, WriteError> {
    state.use_actor(|| actor(0));
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    let hlc = state.next_hlc(1);
    let written = state.write(key, value, context, hlc, &writer(None))?;
    state.on_stored(written.dot);
    Ok(written.dot)
}

/// Everything that could have changed.
fn all_of(state: &State) -> (Clock, u128, usize, Vec<(String, KeyState)>) {
    let keys = state.keys().map(|(key, state)| (key.to_string(), state.clone())).collect();
    (state.clock().clone(), state.hash(), state.bytes(), keys)
}

#[test]
fn what_a_peer_must_not_send_is_refused_whole() {
    let theirs = Dot { actor: actor(1), n: 1 };
    let mut state = State::default();
    let own = put(&mut state, "mine", "1", None).expect("taken");
    state.apply(&[update("a", theirs, "one")], &[]).expect("taken in");
    let before = all_of(&state);

    let good = update("b", Dot { actor: actor(2), n: 1 }, "b");
    let range = |actor, from, upto| DotRange { actor, from, upto };
    let jump = limits::DOT_JUMP_MAX + 2;
    let unmade = Dot { actor: own.actor, n: own.n + 1 };
    let cases: [(&str, KeyUpdate, Vec<DotRange>, Refuse); 6] = [
        ("another value", update("a", theirs, "two"), vec![], Refuse::TwoContents { dot: theirs }),
        ("another key", update("b", theirs, "one"), vec![], Refuse::TwoContents { dot: theirs }),
        (
            "a number far ahead",
            update("a", Dot { n: jump, ..theirs }, "one"),
            vec![],
            Refuse::Jump { dot: Dot { n: jump, ..theirs } },
        ),
        (
            "a range far ahead",
            good.clone(),
            vec![range(theirs.actor, 1, 1 << 47)],
            Refuse::Jump { dot: Dot { n: 1 << 47, ..theirs } },
        ),
        ("a write of this process", update("a", unmade, "three"), vec![], Refuse::Ours { dot: unmade }),
        (
            "a range of this process",
            good.clone(),
            vec![range(own.actor, 1, 9)],
            Refuse::Ours { dot: Dot { n: 9, ..own } },
        ),
    ];
    for (what, bad, closes, refuse) in cases {
        assert_eq!(state.apply(&[good.clone(), bad], &closes), Err(refuse), "{what}");
        assert_eq!(all_of(&state), before, "{what} changed something");
    }
    state.apply(&[good], &[]).expect("taken in alone");
}

#[test]
fn a_clock_has_so_many_actors_and_no_more() {
    let mut state = State::default();
    let some = |from: u64, count: u64| -> Vec<_> {
        (from..from + count).map(|n| update(&format!("k{n}"), Dot { actor: actor(n), n: 1 }, "v")).collect()
    };
    let most = limits::CLOCK_ACTORS_MAX as u64;
    state.apply(&some(1, most), &[]).expect("as many as may be");
    let before = all_of(&state);
    assert_eq!(state.apply(&some(most + 1, 1), &[]), Err(Refuse::TooManyActors));
    assert_eq!(all_of(&state), before);
    let known = update("again", Dot { actor: actor(1), n: 2 }, "v");
    state.apply(&[known], &[]).expect("of one that is known");
}

#[test]
fn frames_with_impossible_clocks_and_ranges_are_no_frames() {
    let range = |from, upto| DotRange { actor: actor(1), from, upto };
    for bad in [range(0, 1), range(2, 1), range(1, 1 << 63), range(u64::MAX, u64::MAX)] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
    let mut clock = Clock::default();
    (0..100_000).for_each(|n| clock.set(actor(n), Span::prefix(1)));
    assert!(clock.check().is_err(), "a hundred thousand actors");
    let mut update = update("a", Dot { actor: actor(1), n: 1 }, "v");
    assert!(update.check().is_ok());
    update.state.context = clock;
    assert!(update.check().is_err());
}

#[test]
fn what_a_client_must_not_write_is_refused_with_its_reason() {
    let mut state = State::default();
    put(&mut state, "a", "1", None).expect("taken");
    let before = all_of(&state);
    let ahead: Clock = [Dot { actor: actor(7), n: 1 }].into_iter().collect();
    let large = "x".repeat(limits::STATE_VALUE_BYTES_MAX + 1);
    let long = "k".repeat(limits::STATE_KEY_BYTES_MAX + 1);
    assert_eq!(
        put(&mut state, "a", &large, None),
        Err(WriteError::TooLarge { bytes: limits::STATE_VALUE_BYTES_MAX + 1 })
    );
    for key in ["", "/a", "a/", "a//b", "a\n", &long] {
        assert!(matches!(put(&mut state, key, "v", None), Err(WriteError::Key(_))), "{key:?}");
    }
    assert_eq!(put(&mut state, "a", "2", Some(&ahead)), Err(WriteError::ContextAhead));
    assert_eq!(all_of(&state), before);
    put(&mut state, "a", &large[1..], None).expect("as large as may be");
}

#[test]
fn a_key_has_so_many_concurrent_values_and_no_more_until_they_are_resolved() {
    let mut state = State::default();
    let nothing = Clock::default();
    for _ in 0..limits::SIBLINGS_MAX {
        put(&mut state, "hot", "v", Some(&nothing)).expect("room for it");
    }
    let before = all_of(&state);
    assert_eq!(put(&mut state, "hot", "v", Some(&nothing)), Err(WriteError::TooManySiblings));
    assert_eq!(all_of(&state), before);
    let context = state.read("hot").context;
    put(&mut state, "hot", "one", Some(&context)).expect("it resolves them");
    assert_eq!(state.read("hot").values.len(), 1);
}

#[test]
fn an_earlier_life_of_an_agent_does_not_replace_what_a_later_one_wrote() {
    let mut state = State::default();
    let mut write = |epoch, value: Option<&'static str>| {
        state.use_actor(|| actor(0));
        let hlc = state.next_hlc(1);
        let value = value.map(|value| Bytes::from_static(value.as_bytes()));
        let written = state.write("job", value, None, hlc, &writer(Some(("agent#1", epoch))))?;
        state.on_stored(written.dot);
        Ok::<_, WriteError>(())
    };
    write(2, Some("new")).expect("taken");
    let superseded = WriteError::Superseded { slot: "agent#1".to_owned(), theirs: epoch(2), ours: epoch(1) };
    assert_eq!(write(1, Some("old")), Err(superseded.clone()));
    assert_eq!(write(1, None), Err(superseded.clone()), "nor does it delete it");
    write(2, None).expect("the later one may");
    assert_eq!(write(1, Some("old")), Err(superseded), "and what it has deleted stays away");
}

#[test]
fn half_a_snapshot_is_still_half_of_one_after_a_restart() {
    let mut sender = State::default();
    let keys: Vec<_> = (0..limits::STATE_KEYS_PER_FRAME_MAX + 1).map(|n| format!("k{n:05}")).collect();
    for key in &keys {
        put(&mut sender, key, "v", None).expect("taken");
    }
    let floor = sender.clock().clone();
    sender.raise_floor(&floor);
    let mut receiver = State::default();
    let mut offer = sender.offer(receiver.clock(), false).expect("it lacks everything");
    let first = offer.next_part().expect("a part");
    assert!(first.known.is_some() && !first.is_last, "a snapshot in several parts");
    receiver.apply_part(&first).expect("taken in");
    assert!(receiver.is_behind());

    let mut disk = BTreeMap::new();
    for change in receiver.flush(1).expect("something to store").changes {
        let Change::Put { table, key, row } = change else {
            panic!("{change:?}");
        };
        disk.insert((table, key), row);
    }
    let mut tables: BTreeMap<Table, Vec<_>> = BTreeMap::new();
    disk.into_iter().for_each(|((table, key), row)| tables.entry(table).or_default().push((key, row)));
    let mut receiver = State::load(&mut tables);
    assert!(receiver.is_behind(), "it has forgotten that it must have all of it");
    let applied = receiver.apply(&[update("x", Dot { actor: actor(3), n: 1 }, "v")], &[]);
    assert_eq!(applied.expect("nothing bad").keys.len(), 0, "nothing else is taken in meanwhile");
    let mut offer = sender.offer(receiver.clock(), true).expect("all of it");
    while let Some(part) = offer.next_part() {
        receiver.apply_part(&part).expect("taken in");
    }
    assert!(!receiver.is_behind());
    assert_eq!(receiver.hash(), sender.hash());
}
