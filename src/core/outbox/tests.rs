//! The outbox against a disk and agents that do as they are told.

use super::*;
use crate::core::contract::Table;
use crate::core::ids::AgentName;
use crate::core::model::Performative;

/// An outbox, its rows as the disk has them, and the time.
struct World {
    outbox: Outbox,
    disk: BTreeMap<Bytes, Bytes>,
    now: Instant,
    unix_ms: u64,
}

const LIFE: Duration = Duration::from_secs(60);
const NONE: [Uuid; 0] = [];

fn id(n: u64) -> Uuid {
    Uuid::from_u128(u128::from(n))
}

fn message(n: u64, to: &str, conversation: Option<&str>) -> Message {
    Message {
        id: id(n),
        from: "client@n1".to_owned(),
        to: Address::parse(to).expect("valid"),
        performative: Performative::Inform,
        conversation_id: conversation.map(str::to_owned),
        in_reply_to: None,
        content_type: "text/plain".to_owned(),
        content: Bytes::from_static(b"hello"),
        deadline_ms: 5_000,
        traceparent: None,
        hops: 0,
        extensions: BTreeMap::new(),
    }
}

fn failed() -> SendError {
    SendError::UnknownAgent { agent: AgentName::new("worker").expect("valid") }
}

impl World {
    fn new(bounds: OutboxBounds) -> Self {
        let now = Instant::ZERO;
        let Restored { outbox, unreadable } = Outbox::restore(bounds, &[], now);
        assert_eq!(unreadable, 0);
        Self { outbox, disk: BTreeMap::new(), now, unix_ms: 1_000_000 }
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
        self.unix_ms += span.as_millis() as u64;
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "an outbox changes nothing else")]
    fn commit(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put { table: Table::Outbox, key, row } => drop(self.disk.insert(key, row)),
                Change::Delete { table: Table::Outbox, key } => {
                    assert!(self.disk.remove(&key).is_some(), "a row is deleted that is not there");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn accept(&mut self, message: Message) -> u64 {
        self.accept_all(vec![message])[0]
    }

    fn accept_all(&mut self, messages: Vec<Message>) -> Vec<u64> {
        let (numbers, changes) = self.outbox.accept(messages, self.unix_ms, LIFE).expect("there is room");
        self.commit(changes);
        numbers.iter().for_each(|number| self.outbox.accepted(*number, true, self.now));
        numbers
    }

    /// What is tried now, by message.
    fn tries(&mut self) -> Vec<Uuid> {
        std::iter::from_fn(|| self.outbox.next_try(self.now, self.unix_ms))
            .map(|next| next.message.id)
            .collect()
    }

    fn end(&mut self, number: u64, result: Result<(), SendError>) {
        let pause = backoff(self.outbox.tries(number));
        if let Some(changes) = self.outbox.ended(number, result, self.now, self.unix_ms, pause) {
            self.commit(changes);
            self.outbox.settled(number, true, self.now);
        }
    }

    fn expire(&mut self) {
        while let Some((number, changes)) = self.outbox.expire(self.now, self.unix_ms) {
            self.commit(changes);
            self.outbox.settled(number, true, self.now);
        }
    }

    /// Another process finds what is on the disk.
    fn restart(&mut self) {
        let rows: Vec<_> = self.disk.clone().into_iter().collect();
        let Restored { outbox, unreadable } = Outbox::restore(OutboxBounds::default(), &rows, self.now);
        assert_eq!(unreadable, 0);
        self.outbox = outbox;
    }

    fn state(&self, n: u64) -> Option<LetterState> {
        self.outbox.trace(id(n)).map(|trace| trace.state)
    }
}

#[test]
fn a_message_is_tried_once_it_is_durable_and_again_until_it_is_answered() {
    let mut world = World::new(OutboxBounds::default());
    let (numbers, changes) =
        world.outbox.accept(vec![message(1, "worker", None)], world.unix_ms, LIFE).expect("room");
    assert_eq!(world.tries(), NONE, "its row is not durable");
    world.commit(changes);
    let [number] = numbers[..] else { panic!("{numbers:?}") };
    world.outbox.accepted(number, true, world.now);
    assert_eq!(world.tries(), [id(1)]);
    assert_eq!(world.tries(), NONE, "it is being tried");
    world.end(number, Err(failed()));
    assert_eq!(world.outbox.next_try_at(), Some(world.now + PAUSE));
    for pause in [200, 400, 800] {
        world.wait(Duration::from_millis(pause - 1));
        assert_eq!(world.tries(), NONE);
        world.wait(Duration::from_millis(1));
        assert_eq!(world.tries(), [id(1)]);
        world.end(number, Err(failed()));
    }
    world.wait(Duration::from_millis(1600));
    assert_eq!(world.tries(), [id(1)]);
    world.end(number, Ok(()));
    assert!(world.disk.is_empty() && world.outbox.is_empty());
    let trace = world.outbox.trace(id(1)).expect("it is remembered for a while");
    assert_eq!(trace.state, LetterState::Delivered { at_ms: world.unix_ms });
    assert_eq!((trace.tries, trace.failed.len()), (5, 4));
}

#[test]
fn pauses_double_up_to_their_bound() {
    let pauses: Vec<_> = [1, 2, 3, 8, 9, 30, u32::MAX].map(|tries| backoff(tries).as_millis()).into();
    assert_eq!(pauses, [200, 400, 800, 25_600, 30_000, 30_000, 30_000]);
}

#[test]
fn a_message_that_could_not_be_stored_is_forgotten() {
    let mut world = World::new(OutboxBounds::default());
    let (numbers, _) =
        world.outbox.accept(vec![message(1, "worker", Some("c"))], world.unix_ms, LIFE).expect("room");
    world.outbox.accepted(numbers[0], false, world.now);
    assert!(world.outbox.is_empty() && world.tries().is_empty() && world.state(1).is_none());
    let next = world.accept(message(2, "worker", Some("c")));
    assert_eq!(world.tries(), [id(2)]);
    world.end(next, Ok(()));
}

#[test]
fn messages_that_are_taken_in_together_are_all_there_or_none_and_each_ends_by_itself() {
    let mut world = World::new(OutboxBounds { letters: 3, ..OutboxBounds::default() });
    let copies =
        |first: u64| (first..first + 2).map(|n| message(n, &format!("w{n}"), Some("c"))).collect::<Vec<_>>();
    let numbers = world.accept_all(copies(1));
    let refused = world.outbox.accept(copies(3), world.unix_ms, LIFE);
    assert_eq!(refused, Err(OutboxFull::Letters(3)));
    assert!(world.state(3).is_none() && world.state(4).is_none() && world.outbox.len() == 2);
    assert_eq!(world.tries(), [id(1), id(2)], "neither waits for the other");
    world.end(numbers[0], Ok(()));
    world.end(numbers[1], Err(failed()));
    assert_eq!(world.outbox.len(), 1);
    assert_eq!(world.state(2), Some(LetterState::Waiting));
}

#[test]
fn what_was_on_its_way_when_the_process_ended_is_tried_again_and_nothing_else_is() {
    let mut world = World::new(OutboxBounds::default());
    let numbers: Vec<_> = (1..=4).map(|n| world.accept(message(n, "worker", None))).collect();
    assert_eq!(world.tries().len(), 4);
    world.end(numbers[0], Ok(()));
    world.end(numbers[1], Err(failed()));
    world.restart();
    assert_eq!(world.tries(), [id(2), id(3), id(4)]);
    assert_eq!(world.state(1), None);
}

#[test]
fn messages_of_a_conversation_are_tried_one_after_the_other_and_others_beside_them() {
    let mut world = World::new(OutboxBounds::default());
    let numbers: Vec<_> = (1..=3).map(|n| world.accept(message(n, "worker", Some("c")))).collect();
    let other = world.accept(message(4, "worker", Some("d")));
    assert_eq!(world.tries(), [id(1), id(4)]);
    world.end(other, Ok(()));
    world.end(numbers[0], Err(failed()));
    assert_eq!(world.tries(), NONE, "the first is tried again before the second is");
    world.wait(PAUSE);
    assert_eq!(world.tries(), [id(1)]);
    world.end(numbers[0], Ok(()));
    assert_eq!(world.tries(), [id(2)]);
    world.restart();
    assert_eq!(world.tries(), [id(2)], "the order outlives the process");
    world.end(numbers[1], Ok(()));
    assert_eq!(world.tries(), [id(3)]);
}

#[test]
fn one_in_the_middle_of_a_conversation_that_is_over_does_not_hurry_the_first() {
    let mut world = World::new(OutboxBounds::default());
    let first = world.accept(message(1, "worker", Some("c")));
    world.accept(message(2, "worker", Some("c")));
    assert_eq!(world.tries(), [id(1)]);
    world.end(first, Err(failed()));
    // The clock says that the second is over, not the first.
    let (_, number) = *world.outbox.deadlines.last().expect("two wait");
    let changes = world.outbox.die(number, "over".to_owned(), world.now, world.unix_ms);
    world.commit(changes);
    world.outbox.settled(number, true, world.now);
    assert_eq!(world.tries(), NONE);
    world.wait(PAUSE);
    assert_eq!(world.tries(), [id(1)]);
}

#[test]
fn a_slow_address_takes_no_turns_from_the_others() {
    let bounds = OutboxBounds { tries: 8, tries_each: 2, ..OutboxBounds::default() };
    let mut world = World::new(bounds);
    let slow: Vec<_> = (1..=5).map(|n| world.accept(message(n, "slow", None))).collect();
    world.accept(message(6, "quick", None));
    assert_eq!(world.tries(), [id(1), id(2), id(6)]);
    world.end(slow[0], Ok(()));
    assert_eq!(world.tries(), [id(3)]);
    world.end(slow[1], Err(failed()));
    assert_eq!(world.tries(), [id(4)]);
}

#[test]
fn no_more_are_tried_at_once_than_may_be() {
    let bounds = OutboxBounds { tries: 3, ..OutboxBounds::default() };
    let mut world = World::new(bounds);
    let numbers: Vec<_> = (1..=5).map(|n| world.accept(message(n, &format!("w{n}"), None))).collect();
    assert_eq!(world.tries().len(), 3);
    assert_eq!(world.outbox.next_try_at(), None, "something has to end first");
    world.end(numbers[0], Ok(()));
    assert_eq!(world.tries(), [id(4)]);
}

#[test]
fn what_is_over_becomes_a_dead_letter_with_its_reason_and_can_be_taken_up_again() {
    let mut world = World::new(OutboxBounds::default());
    let number = world.accept(message(1, "worker", None));
    assert_eq!(world.tries(), [id(1)]);
    world.end(number, Err(failed()));
    world.wait(LIFE);
    world.expire();
    assert_eq!((world.outbox.len(), world.outbox.dead(), world.outbox.died()), (0, 1, 1));
    world.restart();
    let [letter] = &world.outbox.dead_letters().collect::<Vec<_>>()[..] else {
        panic!("it is kept");
    };
    assert!(letter.reason.contains("no agent named worker"), "{}", letter.reason);
    assert_eq!((letter.id, letter.tries, letter.bytes), (id(1), 1, 5));

    let none = BTreeSet::from([id(9)]);
    let unknown = world.outbox.retry_dead(Some(&none), world.unix_ms).expect("nothing to do");
    assert_eq!(unknown, (vec![], vec![]));
    let (pairs, changes) = world.outbox.retry_dead(None, world.unix_ms).expect("there is room");
    assert!(world.outbox.drop_dead(None).0.is_empty(), "it is being taken up");
    world.commit(changes);
    let [(old, new)] = pairs[..] else {
        panic!("one is taken up");
    };
    world.outbox.dropped(&[old], true);
    world.outbox.accepted(new, true, world.now);
    assert_eq!(world.outbox.dead(), 0);
    assert_eq!(world.tries(), [id(1)]);
    let left = world.outbox.trace(id(1)).expect("it is known").deadline_at_ms - world.unix_ms;
    assert_eq!(Duration::from_millis(left), LIFE, "it has as much time as it had");
    world.end(new, Ok(()));
    assert!(world.disk.is_empty());
}

#[test]
fn a_try_gets_the_time_that_is_left_and_its_message_is_over_when_that_is() {
    let mut world = World::new(OutboxBounds::default());
    let number = world.accept(message(1, "worker", None));
    let first = world.outbox.next_try(world.now, world.unix_ms).expect("its turn");
    assert_eq!(first.message.deadline_ms, 30_000, "no try takes longer");
    world.wait(Duration::from_secs(30));
    world.end(number, Err(failed()));
    world.wait(Duration::from_secs(20));
    let last = world.outbox.next_try(world.now, world.unix_ms).expect("its turn");
    assert_eq!(last.message.deadline_ms, 10_000);
    world.wait(Duration::from_secs(10));
    world.expire();
    assert_eq!(world.outbox.len(), 1, "an agent may answer it yet");
    world.end(number, Err(failed()));
    assert_eq!(world.tries(), NONE);
    world.expire();
    assert_eq!((world.outbox.len(), world.outbox.dead()), (0, 1));
}

#[test]
fn what_no_try_can_deliver_is_given_up_at_once() {
    let mut world = World::new(OutboxBounds::default());
    let number = world.accept(message(1, "worker", None));
    assert_eq!(world.tries(), [id(1)]);
    world.end(number, Err(SendError::TooManyHops { hops: 17 }));
    assert_eq!(world.outbox.dead(), 1);
}

#[test]
fn an_end_that_the_disk_did_not_take_is_given_to_it_again() {
    let mut world = World::new(OutboxBounds::default());
    let (one, two) = (world.accept(message(1, "worker", None)), world.accept(message(2, "worker", None)));
    assert_eq!(world.tries().len(), 2);
    for (number, result) in [(one, Ok(())), (two, Err(SendError::TooManyHops { hops: 17 }))] {
        let ended = world.outbox.ended(number, result, world.now, world.unix_ms, PAUSE);
        assert!(ended.is_some());
        world.outbox.settled(number, false, world.now);
    }
    assert_eq!((world.outbox.len(), world.disk.len()), (2, 2));
    assert_eq!(world.tries(), NONE, "it was answered: it is not tried again");
    while let Some((number, changes)) = world.outbox.next_owed(world.now) {
        world.commit(changes);
        world.outbox.settled(number, true, world.now);
    }
    assert_eq!((world.outbox.len(), world.outbox.dead(), world.disk.len()), (0, 1, 1));
    assert_eq!((world.outbox.storing, world.outbox.storing_bytes), (0, 0));
}

#[test]
fn what_would_exceed_a_bound_is_refused_and_changes_nothing() {
    let bounds = OutboxBounds { letters: 2, ..OutboxBounds::default() };
    let mut world = World::new(bounds);
    let first = world.accept(message(1, "worker", None));
    world.accept(message(2, "worker", None));
    let refused = world.outbox.accept(vec![message(3, "worker", None)], world.unix_ms, LIFE);
    assert_eq!(refused, Err(OutboxFull::Letters(2)));
    assert!(world.state(3).is_none());
    assert_eq!(world.tries().len(), 2);
    world.end(first, Ok(()));
    world.accept(message(3, "worker", None));

    let mut world = World::new(OutboxBounds { bytes: 1000, ..OutboxBounds::default() });
    world.accept(message(1, "worker", None));
    let refused = world.outbox.accept(vec![message(2, "worker", None)], world.unix_ms, LIFE);
    assert_eq!(refused, Err(OutboxFull::Bytes(1000)));

    let mut world = World::new(OutboxBounds::default());
    for n in 0..limits::OUTBOX_STORING_MAX as u64 {
        world.outbox.accept(vec![message(n, "worker", None)], world.unix_ms, LIFE).expect("there is room");
    }
    let refused = world.outbox.accept(vec![message(u64::MAX, "worker", None)], world.unix_ms, LIFE);
    assert_eq!(refused, Err(OutboxFull::Disk(limits::OUTBOX_STORING_MAX)));
}

#[test]
fn the_oldest_dead_letters_go_for_new_ones_by_number_and_by_bytes() {
    for bounds in [
        OutboxBounds { dead: 2, ..OutboxBounds::default() },
        OutboxBounds { dead_bytes: 1200, ..OutboxBounds::default() },
    ] {
        let mut world = World::new(bounds);
        for n in 1..=4 {
            let number = world.accept(message(n, "worker", None));
            assert_eq!(world.tries(), [id(n)]);
            world.end(number, Err(SendError::TooManyHops { hops: 17 }));
        }
        let kept: Vec<_> = world.outbox.dead_letters().map(|letter| letter.id).collect();
        assert_eq!(kept, [id(3), id(4)]);
        assert_eq!(world.disk.len(), 2);
    }
}

#[test]
fn rows_of_a_later_version_stay_where_they_are() {
    let key = Bytes::from_static(b"m\0\0\0\0\0\0\0\x05");
    let rows = [(key.clone(), Bytes::from_static(b"?"))];
    let Restored { mut outbox, unreadable } = Outbox::restore(OutboxBounds::default(), &rows, Instant::ZERO);
    assert_eq!((outbox.len(), unreadable), (0, 1));
    let (numbers, _) =
        outbox.accept(vec![message(1, "worker", None)], 1_000_000, LIFE).expect("there is room");
    assert_eq!(numbers, [6], "it takes the place of none");
}

#[test]
fn of_many_that_are_given_up_at_once_no_more_are_kept_than_may_be() {
    let mut world = World::new(OutboxBounds { dead: 4, ..OutboxBounds::default() });
    for n in 1..=2 {
        world.accept(message(n, "worker", None));
    }
    world.wait(LIFE);
    world.expire();
    for n in 3..=5 {
        world.accept(message(n, "worker", None));
    }
    world.wait(LIFE);
    let ends: Vec<_> = std::iter::from_fn(|| world.outbox.expire(world.now, world.unix_ms)).collect();
    assert_eq!(ends.len(), 3);
    for (number, changes) in ends {
        world.commit(changes);
        world.outbox.settled(number, true, world.now);
    }
    assert_eq!((world.outbox.dead(), world.disk.len()), (4, 4));
    let Outbox { dying, dying_bytes, moving_bytes, storing, .. } = world.outbox;
    assert_eq!((dying, dying_bytes, moving_bytes, storing), (0, 0, 0, 0));
}

#[test]
fn one_that_is_over_before_its_turn_comes_gives_its_turn_to_the_next() {
    let bounds = OutboxBounds { tries: 2, tries_each: 1, ..OutboxBounds::default() };
    let mut world = World::new(bounds);
    let first = world.accept(message(1, "worker", None));
    world.accept(message(2, "worker", None));
    world.wait(LIFE / 2);
    world.accept(message(3, "worker", None));
    assert_eq!(world.tries(), [id(1)]);
    // Another address takes the rest of the turns, so that the second has its turn and is not tried.
    let (other, third) = (world.accept(message(4, "other", None)), world.accept(message(5, "third", None)));
    assert_eq!(world.tries(), [id(4)]);
    world.wait(Duration::from_millis(1));
    world.end(first, Ok(()));
    assert_eq!(world.tries(), [id(5)]);
    world.wait(LIFE / 2);
    world.expire();
    world.end(other, Ok(()));
    assert_eq!(world.tries(), [id(3)]);
    world.end(third, Ok(()));
    assert_eq!((world.outbox.len(), world.outbox.dead()), (1, 1));
}

#[test]
fn a_try_has_twice_the_time_after_each_that_had_no_answer_and_five_minutes_at_most() {
    let mut world = World::new(OutboxBounds::default());
    let (numbers, changes) =
        world.outbox.accept(vec![message(1, "slow", None)], world.unix_ms, LIFE * 60).expect("there is room");
    world.commit(changes);
    let [number] = numbers[..] else { panic!("{numbers:?}") };
    world.outbox.accepted(number, true, world.now);
    let late = || SendError::DeadlineExceeded { deadline_ms: 1 };
    let mut given = Vec::new();
    for error in [failed(), late(), failed(), late(), late(), late(), late()] {
        let next = world.outbox.next_try(world.now, world.unix_ms).expect("its turn");
        given.push(next.message.deadline_ms / 1000);
        world.end(number, Err(error));
        world.wait(PAUSE_MAX);
    }
    assert_eq!(given, [30, 30, 60, 60, 120, 240, 300]);
}
