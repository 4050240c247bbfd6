//! Keys that two nodes hold differently although both have taken in the writes: what is judged, and what is written.

use std::sync::Arc;

use bytes::Bytes;

use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Actor, Clock, Dot, Hlc, KeyState, KeyUpdate, Sibling, Writer};
use crate::core::state::{Apart, Inspection, State};

const MINE: u128 = 1;
const THEIRS: u128 = 2;

fn actor(n: u128) -> Actor {
    Actor(uuid::Uuid::from_u128(n))
}

fn writer() -> Arc<Writer> {
    Arc::new(Writer { node: NodeId::new("n").expect("valid"), slot: None })
}

fn write(state: &mut State, by: u128, key: &str, value: Option<&'static str>) -> KeyUpdate {
    state.use_actor(|| actor(by));
    let value = value.map(|value| Bytes::from_static(value.as_bytes()));
    let hlc = state.next_hlc(1);
    let written = state.write(key, value, None, hlc, &writer()).expect("taken");
    state.on_stored(written.dot).update
}

/// Two nodes that have taken in the same: `k/0` to `k/4`, each written by the first.
fn pair() -> (State, State) {
    let (mut mine, mut theirs) = (State::default(), State::default());
    for n in 0..5 {
        let update = write(&mut mine, MINE, &format!("k/{n}"), Some("one"));
        theirs.apply(&[update], &[]).expect("taken in");
    }
    assert_eq!((mine.clock(), mine.hash()), (theirs.clock(), theirs.hash()));
    (mine, theirs)
}

/// The disk has lost a row.
fn lose(state: &mut State, key: &str) {
    state.replace(&key.into(), KeyState::default());
}

/// What an inspection of `theirs` finds, with parts of so many keys.
fn inspected(mine: &State, theirs: &State, keys_max: usize) -> Apart {
    let mut inspection = Inspection::default();
    let mut offer = theirs.offer(mine.clock(), true).expect("everything");
    while let Some(part) = offer.next_part_of(keys_max) {
        inspection.take(mine, &part);
    }
    assert_eq!(inspection.known(), theirs.clock());
    inspection.finish(mine)
}

fn keys(found: &Apart) -> Vec<&str> {
    found.keys.keys().map(|key| &**key).collect()
}

/// Writes anew what was found, and lets the other take it in.
fn mend(mine: &mut State, theirs: &mut State, found: &Apart) {
    for (key, state) in &found.keys {
        let mended = mine.mended(key, [state].into_iter());
        let values = match mended.values.len() {
            0 => vec![None],
            _ => mended.values.into_iter().map(Some).collect(),
        };
        for value in values {
            let hlc = mine.next_hlc(1);
            let written = mine.write(key, value, Some(&mended.context), hlc, &writer()).expect("taken");
            let update = mine.on_stored(written.dot).update;
            theirs.apply(&[update], &[]).expect("taken in");
        }
    }
    assert_eq!(mine.clock(), theirs.clock());
    assert_eq!(mine.hash(), theirs.hash(), "equal clocks mean equal values again");
}

fn values(state: &State, key: &str) -> Vec<Bytes> {
    state.read(key).values.into_iter().filter_map(|sibling| sibling.value).collect()
}

#[test]
fn what_one_of_two_nodes_has_lost_is_found_whoever_looks_and_comes_back() {
    for keys_max in [1, 2, 100] {
        let (mut mine, mut theirs) = pair();
        lose(&mut mine, "k/4");
        lose(&mut theirs, "k/0");
        lose(&mut theirs, "k/2");
        for found in [inspected(&mine, &theirs, keys_max), inspected(&theirs, &mine, keys_max)] {
            assert_eq!((keys(&found), found.undecided), (vec!["k/0", "k/2", "k/4"], 0));
        }
        let found = inspected(&mine, &theirs, keys_max);
        mend(&mut mine, &mut theirs, &found);
        for key in ["k/0", "k/2", "k/4"] {
            assert_eq!(values(&theirs, key), ["one"]);
        }
        assert_eq!(inspected(&mine, &theirs, keys_max), Apart::default());
    }
}

#[test]
fn nodes_that_hold_the_same_and_nodes_that_only_lag_are_not_apart() {
    let (mut mine, mut theirs) = pair();
    assert_eq!(inspected(&mine, &theirs, 2), Apart::default());
    // The peer has not heard of these yet.
    write(&mut mine, MINE, "k/1", Some("two"));
    write(&mut mine, MINE, "k/3", None);
    write(&mut mine, MINE, "new", Some("one"));
    let found = inspected(&mine, &theirs, 2);
    assert_eq!((keys(&found), found.undecided), (vec![], 3));
    // And this node catches up with what the peer had written before it is judged.
    let mut inspection = Inspection::default();
    let update = write(&mut theirs, THEIRS, "k/0", None);
    let mut offer = theirs.offer(mine.clock(), true).expect("everything");
    while let Some(part) = offer.next_part_of(2) {
        inspection.take(&mine, &part);
    }
    mine.apply(&[update], &[]).expect("taken in");
    assert!(inspection.finish(&mine).keys.is_empty());
}

#[test]
fn a_key_that_is_missing_here_is_not_judged_while_writes_are_made() {
    let (mut mine, mut theirs) = pair();
    lose(&mut mine, "k/1");
    // It may as well have been deleted here, and the deletion forgotten.
    let update = write(&mut mine, MINE, "other", Some("one"));
    let found = inspected(&mine, &theirs, 100);
    assert_eq!((keys(&found), found.undecided), (vec![], 2), "the other is new, and it is not judged either");
    let found = inspected(&theirs, &mine, 100);
    assert_eq!((keys(&found), found.undecided), (vec![], 2), "that node has not caught up");
    theirs.apply(&[update], &[]).expect("taken in");
    write(&mut theirs, THEIRS, "another", Some("one"));
    let found = inspected(&theirs, &mine, 100);
    assert_eq!((keys(&found), found.undecided), (vec!["k/1"], 1), "where it stands, it is certain");
}

#[test]
fn a_value_that_the_other_side_names_as_replaced_does_not_come_back() {
    let (mut mine, mut theirs) = pair();
    let before = mine.key_of(Dot { actor: actor(MINE), n: 2 }).expect("stands").1.clone();
    let update = write(&mut mine, MINE, "k/1", None);
    theirs.apply(&[update], &[]).expect("taken in");
    // The row is an old one, although the clock is not.
    theirs.replace(&"k/1".into(), before);
    let found = inspected(&mine, &theirs, 100);
    assert_eq!(keys(&found), ["k/1"]);
    mend(&mut mine, &mut theirs, &found);
    assert_eq!(values(&theirs, "k/1"), Vec::<Bytes>::new());
}

#[test]
fn two_contents_of_one_write_stand_beside_each_other_the_later_one_last() {
    let (mut mine, mut theirs) = pair();
    let dot = Dot { actor: actor(MINE), n: 3 };
    let changed = |hlc| {
        let value = Some(Bytes::from_static(b"damaged"));
        KeyState {
            siblings: vec![Sibling { dot, hlc: Hlc::at(hlc), writer: writer(), value }],
            context: Clock::default(),
        }
    };
    theirs.replace(&"k/2".into(), changed(0));
    let found = inspected(&mine, &theirs, 100);
    assert_eq!(keys(&found), ["k/2"]);
    let mended = mine.mended("k/2", found.keys.values());
    assert_eq!(mended.values, ["damaged", "one"]);
    mend(&mut mine, &mut theirs, &found);
    let mut both = values(&theirs, "k/2");
    both.sort();
    assert_eq!(both, ["damaged", "one"]);
}

#[test]
fn a_key_that_travels_in_several_parts_is_compared_as_one() {
    let (mut mine, mut theirs) = (State::default(), State::default());
    mine.use_actor(|| actor(MINE));
    let none = Clock::default();
    for n in 0..limits::SIBLINGS_MAX {
        let value = Some(Bytes::from(vec![n as u8; limits::STATE_VALUE_BYTES_MAX]));
        let hlc = mine.next_hlc(1);
        let written = mine.write("wide", value, Some(&none), hlc, &writer()).expect("taken");
        let update = mine.on_stored(written.dot).update;
        theirs.apply(&[update], &[]).expect("taken in");
    }
    assert_eq!(inspected(&mine, &theirs, 100), Apart::default());
    assert_eq!(inspected(&theirs, &mine, 100), Apart::default());
}

#[test]
fn more_keys_than_one_inspection_holds_are_counted() {
    let (mut mine, mut theirs) = (State::default(), State::default());
    let most = limits::APART_KEYS_MAX;
    for n in 0..most + 3 {
        let update = write(&mut mine, MINE, &format!("k/{n:06}"), Some("one"));
        theirs.apply(&[update], &[]).expect("taken in");
    }
    for n in 0..most + 3 {
        lose(&mut theirs, &format!("k/{n:06}"));
    }
    let found = inspected(&mine, &theirs, 1000);
    assert_eq!((found.keys.len(), found.undecided), (most, 3));
}
