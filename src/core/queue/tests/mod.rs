//! The queue: what it promises, and that no crash breaks it.

use super::*;
use crate::core::contract::Table;
use crate::core::model::{OrderEpoch, Slot, TicketState};

mod crashes;

/// The rows as the store would have them.
#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    pub(super) rows: BTreeMap<Bytes, Bytes>,
}

impl Store {
    pub(super) fn commit(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::Put { table: Table::Queue, key, row } = change {
                self.rows.insert(key.clone(), row.clone());
            } else if let Change::Delete { table: Table::Queue, key } = change {
                self.rows.remove(key);
            } else {
                panic!("the queue has one table: {change:?}");
            }
        }
    }

    pub(super) fn restore(&self, start: u64, bounds: QueueBounds) -> Restored {
        let rows: Vec<_> = self.rows.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
        Queue::restore(node(), start, bounds, &rows)
    }

    fn kinds(&self) -> String {
        self.rows.keys().map(|key| char::from(key[0])).collect()
    }
}

fn node() -> NodeId {
    NodeId::new("node-1").expect("valid")
}

fn fresh(bounds: QueueBounds) -> Queue {
    Store::default().restore(1, bounds).queue
}

pub(super) fn write(key: &str, value: &str) -> QueuedWrite {
    QueuedWrite {
        key: key.to_owned(),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        context: Some(Bytes::from_static(b"ctx")),
        hlc: 7,
        writer: "node-1".to_owned(),
        slot: Some(Slot {
            name: "worker#1".to_owned(),
            epoch: OrderEpoch { term: 3, ..OrderEpoch::default() },
        }),
        queued_at_ms: 1_000,
        deadline_ms: None,
    }
}

/// A queue with its store, everything committed at once.
struct Bench {
    queue: Queue,
    store: Store,
}

impl Bench {
    fn new(bounds: QueueBounds) -> Self {
        Self { queue: fresh(bounds), store: Store::default() }
    }

    fn add(&mut self, write: QueuedWrite) -> Ticket {
        let (ticket, changes) = self.queue.enqueue(write).expect("there is room");
        self.store.commit(&changes);
        self.queue.handle_stored(&ticket);
        ticket
    }

    fn finish(&mut self, ticket: &Ticket, outcome: Outcome, became: Option<&'static str>) -> TicketView {
        let changes =
            self.queue.resolve(ticket, outcome, became.map(Bytes::from_static_str)).expect("it waits");
        self.store.commit(&changes);
        self.queue.handle_resolved(ticket).expect("it is done")
    }

    fn batch(&mut self) -> Vec<Replay> {
        self.queue.next_batch(Instant::ZERO, 2_000)
    }

    fn restart(&mut self, start: u64) {
        let restored = self.store.restore(start, self.queue.bounds);
        assert_eq!((restored.unreadable, restored.changes), (0, vec![]));
        self.queue = restored.queue;
    }
}

trait FromStaticStr {
    fn from_static_str(text: &'static str) -> Self;
}

impl FromStaticStr for Bytes {
    fn from_static_str(text: &'static str) -> Self {
        Self::from_static(text.as_bytes())
    }
}

fn values(batch: &[Replay]) -> Vec<&str> {
    batch
        .iter()
        .map(|replay| std::str::from_utf8(replay.write.value.as_ref().expect("a value")).expect("text"))
        .collect()
}

#[test]
fn writes_come_out_as_they_went_in_one_at_a_time_for_each_key() {
    let mut bench = Bench::new(QueueBounds::default());
    let first = bench.add(write("k", "1"));
    bench.add(write("k", "2"));
    bench.add(write("l", "3"));
    let batch = bench.batch();
    assert_eq!(values(&batch), ["1", "3"]);
    let given = QueuedWrite { deadline_ms: Some(1_000 + 24 * 3600 * 1000), ..write("k", "1") };
    assert_eq!(batch[0], Replay { ticket: first.clone(), write: given, became: None });
    assert_eq!(bench.batch(), [], "they are under way");
    bench.finish(&first, Outcome::Applied, Some("dot 1"));
    let batch = bench.batch();
    assert_eq!(values(&batch), ["2"]);
    assert_eq!(batch[0].became, Some(Bytes::from_static(b"dot 1")));
}

#[test]
fn what_predecessors_became_survives_a_restart_and_goes_with_the_last_write_of_the_key() {
    let mut bench = Bench::new(QueueBounds::default());
    let tickets = ["1", "2", "3"].map(|value| bench.add(write("k", value)));
    bench.batch();
    bench.finish(&tickets[0], Outcome::Conflicted, Some("dot 1"));
    bench.restart(2);
    bench.finish(&tickets[1], Outcome::Rejected { reason: "superseded".to_owned() }, None);
    bench.restart(3);
    let batch = bench.batch();
    assert_eq!((values(&batch), &batch[0].became), (vec!["3"], &Some(Bytes::from_static(b"dot 1"))));
    bench.finish(&tickets[2], Outcome::Applied, Some("dot 3"));
    assert_eq!(bench.store.kinds(), "ooo");
    assert!(!bench.queue.has_queued("k"));
    bench.add(write("k", "4"));
    assert_eq!(bench.batch()[0].became, None, "it has no predecessor in the queue");
}

#[test]
fn a_write_that_comes_while_its_predecessor_is_being_resolved_learns_what_that_became_also_after_a_crash() {
    let mut bench = Bench::new(QueueBounds::default());
    let first = bench.add(write("k", "1"));
    bench.batch();
    let done =
        bench.queue.resolve(&first, Outcome::Applied, Some(Bytes::from_static(b"dot 1"))).expect("offered");
    assert!(bench.queue.has_queued("k"), "its outcome is not durable yet");
    let (_, changes) = bench.queue.enqueue(write("k", "2")).expect("room");
    bench.store.commit(&done);
    bench.store.commit(&changes);
    bench.restart(2);
    assert_eq!(bench.batch()[0].became, Some(Bytes::from_static(b"dot 1")));
}

#[test]
fn a_ticket_is_told_once_it_is_durable_and_keeps_its_one_outcome() {
    let mut bench = Bench::new(QueueBounds::default());
    let (ticket, changes) = bench.queue.enqueue(write("k", "1")).expect("room");
    assert_eq!(ticket.to_string(), "node-1/1-1");
    assert_eq!(bench.queue.ticket(&ticket), None);
    assert_eq!(bench.batch(), [], "nothing is made of what is not durable");
    bench.store.commit(&changes);
    bench.queue.handle_stored(&ticket);
    assert_eq!(bench.queue.ticket(&ticket).map(|view| view.state), Some(TicketState::Queued));
    bench.batch();
    let done = bench.queue.resolve(&ticket, Outcome::Applied, None).expect("offered");
    assert_eq!(bench.queue.resolve(&ticket, Outcome::Expired, None), None, "a second outcome");
    assert_eq!(bench.queue.ticket(&ticket).map(|view| view.state), Some(TicketState::Queued));
    bench.store.commit(&done);
    let view = bench.queue.handle_resolved(&ticket).expect("done");
    assert_eq!(view.state, TicketState::Done(Outcome::Applied));
    assert_eq!(bench.queue.handle_resolved(&ticket), None);
    assert_eq!(bench.queue.resolve(&ticket, Outcome::Expired, None), None, "a second outcome");
    bench.restart(2);
    assert_eq!(bench.queue.ticket(&ticket), Some(view));
    let elsewhere = Ticket { node: NodeId::new("node-2").expect("valid"), ..ticket };
    assert_eq!(bench.queue.ticket(&elsewhere), None);
}

#[test]
fn no_ticket_is_given_twice() {
    let mut bench = Bench::new(QueueBounds::default());
    let (gone, _) = bench.queue.enqueue(write("k", "1")).expect("room");
    bench.queue.handle_not_stored(&gone);
    assert!(!bench.queue.has_queued("k"));
    let next = bench.add(write("k", "1"));
    assert_ne!(next, gone);
    bench.restart(1);
    assert_eq!(bench.add(write("k", "2")).to_string(), "node-1/1-3", "even were the start the same");
    bench.restart(2);
    assert_eq!(bench.add(write("k", "2")).to_string(), "node-1/2-1");
}

#[test]
fn a_full_queue_refuses_and_says_so_and_what_could_not_be_stored_leaves_its_room() {
    let mut bench = Bench::new(QueueBounds { writes: 2, ..QueueBounds::default() });
    bench.add(write("k", "1"));
    let (second, _) = bench.queue.enqueue(write("k", "2")).expect("room");
    assert_eq!(bench.queue.enqueue(write("k", "3")), Err(QueueFull::Writes(2)));
    bench.queue.handle_not_stored(&second);
    bench.add(write("k", "3"));

    let one = WriteRow::new(write("k", "1"), 0).bytes();
    let mut bench = Bench::new(QueueBounds { bytes: one, ..QueueBounds::default() });
    let ticket = bench.add(write("k", "1"));
    assert_eq!(bench.queue.enqueue(write("l", "2")), Err(QueueFull::Bytes(one)));
    bench.batch();
    bench.finish(&ticket, Outcome::Applied, None);
    assert_eq!((bench.queue.bytes(), bench.queue.len()), (0, 0));
    bench.add(write("l", "2"));
}

#[test]
fn a_write_expires_at_its_deadline_or_after_the_longest_time_and_is_not_made_any_more() {
    let age = Duration::from_secs(10);
    let mut bench = Bench::new(QueueBounds { age, ..QueueBounds::default() });
    let soon = bench.add(QueuedWrite { deadline_ms: Some(3_000), ..write("k", "1") });
    let late = bench.add(QueuedWrite { deadline_ms: Some(99_000), ..write("l", "2") });
    assert_eq!(bench.queue.next_expiry_ms(), Some(3_000));
    assert_eq!(bench.queue.expired(2_999), []);
    assert_eq!(bench.queue.expired(3_000), std::slice::from_ref(&soon));
    assert_eq!(values(&bench.queue.next_batch(Instant::ZERO, 3_000)), ["2"]);
    bench.finish(&soon, Outcome::Expired, None);
    assert_eq!(bench.queue.expired(99_000), [], "what is being made is not taken away");
    bench.queue.put_back(&late, Instant::ZERO);
    assert_eq!(bench.queue.expired(10_999), []);
    assert_eq!(bench.queue.expired(11_000), [late]);
}

#[test]
fn what_could_not_be_made_waits_on_at_its_place() {
    let mut bench = Bench::new(QueueBounds::default());
    let first = bench.add(write("k", "1"));
    bench.add(write("k", "2"));
    bench.batch();
    bench.queue.put_back(&first, Instant::ZERO);
    let later = Instant::ZERO + limits::REPLAY_RETRY;
    assert_eq!(bench.batch(), [], "at once it could not be made either");
    assert_eq!(bench.queue.next_batch_at(Instant::ZERO), Some(later));
    assert_eq!(values(&bench.queue.next_batch(later, 2_000)), ["1"]);
    let _ =
        bench.queue.resolve(&first, Outcome::Applied, Some(Bytes::from_static(b"dot 1"))).expect("offered");
    bench.queue.handle_not_resolved(&first);
    let again = bench.queue.next_batch(later, 2_000);
    assert_eq!((values(&again), &again[0].became), (vec!["1"], &None), "no dot of a write that was not made");
}

#[test]
fn a_write_that_was_not_offered_is_not_made() {
    let mut bench = Bench::new(QueueBounds::default());
    bench.add(write("k", "1"));
    let second = bench.add(write("k", "2"));
    assert_eq!(bench.queue.resolve(&second, Outcome::Applied, None), None);
    assert_eq!(bench.queue.resolve(&second, Outcome::Conflicted, None), None);
    assert!(bench.queue.resolve(&second, Outcome::Rejected { reason: String::new() }, None).is_some());
}

#[test]
fn no_more_writes_are_under_way_than_may_be_until_some_are_durable() {
    let mut bench = Bench::new(QueueBounds::default());
    for key in 0..2 * limits::REPLAYS_UNDER_WAY_MAX {
        bench.add(write(&format!("k{key}"), "1"));
    }
    let mut offered = Vec::new();
    while bench.queue.next_batch_at(Instant::ZERO).is_some() {
        let batch = bench.batch();
        assert!((1..=limits::REPLAY_BATCH_MAX).contains(&batch.len()), "{}", batch.len());
        offered.extend(batch);
    }
    assert_eq!(offered.len(), limits::REPLAYS_UNDER_WAY_MAX);
    assert_eq!(bench.batch(), []);
    let ticket = &offered[0].ticket;
    let _ = bench.queue.resolve(ticket, Outcome::Applied, None).expect("offered");
    assert_eq!(bench.batch(), [], "it is not durable yet");
    bench.queue.handle_resolved(ticket).expect("it is done");
    assert_eq!(bench.batch().len(), 1);
    bench.queue.put_back(&offered[1].ticket, Instant::ZERO);
    assert_eq!(bench.queue.next_batch(Instant::ZERO + limits::REPLAY_RETRY, 2_000).len(), 1);
}

#[test]
fn replay_keeps_its_pace_in_bytes() {
    let mut bench = Bench::new(QueueBounds::default());
    let value = "v".repeat(32 << 10);
    for key in 0..1_500 {
        bench.add(write(&format!("k{key}"), &value));
    }
    let (mut now, mut made) = (Instant::ZERO, 0);
    while now < Instant::ZERO + Duration::from_secs(2) {
        let before = bench.queue.bytes();
        let batch = bench.queue.next_batch(now, 2_000);
        for replay in &batch {
            bench.finish(&replay.ticket, Outcome::Applied, None);
        }
        made += before - bench.queue.bytes();
        let next = bench.queue.next_batch_at(now).expect("there is more");
        assert!(next > now || !batch.is_empty(), "it does not spin");
        now = next;
    }
    let expected = 2 * limits::REPLAYED_BYTES_PER_SECOND as usize + limits::REPLAYED_BYTES_AT_ONCE as usize;
    let one = 2 * value.len();
    assert!((expected - one..=expected + expected / 50 + one).contains(&made), "{made} of {expected}");
}

#[test]
fn fault_66_of_a_million_writes_the_queue_takes_as_many_as_it_may_and_replays_them_at_its_pace() {
    let mut bench = Bench::new(QueueBounds::default());
    let mut tickets = Vec::new();
    let mut refused = 0;
    for n in 0..1_000_000 {
        match bench.queue.enqueue(write(&format!("k{n}"), "v")) {
            Ok((ticket, changes)) => {
                bench.store.commit(&changes);
                bench.queue.handle_stored(&ticket);
                tickets.push(ticket);
            }
            Err(full) => {
                assert_eq!(full, QueueFull::Writes(limits::QUEUED_WRITES_MAX));
                refused += 1;
            }
        }
    }
    assert_eq!((tickets.len(), refused), (limits::QUEUED_WRITES_MAX, 1_000_000 - limits::QUEUED_WRITES_MAX));
    assert!(bench.queue.bytes() <= limits::QUEUED_BYTES_MAX);
    // Large ones meet the bound of bytes long before.
    let mut large = Bench::new(QueueBounds::default());
    let value = "v".repeat(limits::STATE_VALUE_BYTES_MAX);
    let full = (0..).find_map(|n| large.queue.enqueue(write(&format!("k{n}"), &value)).err());
    assert_eq!(full, Some(QueueFull::Bytes(limits::QUEUED_BYTES_MAX)));
    assert!(large.queue.len() < limits::QUEUED_WRITES_MAX && large.queue.bytes() <= limits::QUEUED_BYTES_MAX);

    bench.restart(2);
    let (mut now, mut made) = (Instant::ZERO, Vec::new());
    while !bench.queue.is_empty() {
        now = bench.queue.next_batch_at(now).expect("they wait").max(now);
        // Nothing is finished meanwhile: no more are made than may be under way.
        let batches =
            std::iter::from_fn(|| Some(bench.queue.next_batch(now, 2_000)).filter(|b| !b.is_empty()));
        let under_way: Vec<_> = batches.flatten().map(|replay| replay.ticket).collect();
        assert!((1..=limits::REPLAYS_UNDER_WAY_MAX).contains(&under_way.len()), "{}", under_way.len());
        for ticket in under_way {
            bench.finish(&ticket, Outcome::Applied, None);
            made.push(ticket);
        }
    }
    assert!(made == tickets, "each once, in order");
}

#[test]
fn only_the_last_outcomes_are_kept_and_a_failed_persist_forgets_none() {
    let mut bench = Bench::new(QueueBounds { outcomes: 3, ..QueueBounds::default() });
    let tickets: Vec<_> = (0..6).map(|n| bench.add(write(&format!("k{n}"), "1"))).collect();
    bench.batch();
    for ticket in &tickets[..3] {
        bench.finish(ticket, Outcome::Applied, None);
    }
    let _ = bench.queue.resolve(&tickets[3], Outcome::Applied, None).expect("offered");
    let _ = bench.queue.resolve(&tickets[4], Outcome::Applied, None).expect("offered");
    bench.queue.handle_not_resolved(&tickets[3]);
    bench.queue.handle_not_resolved(&tickets[4]);
    assert!(tickets[..3].iter().all(|ticket| bench.queue.ticket(ticket).is_some()));
    bench.finish(&tickets[5], Outcome::Applied, None);
    assert_eq!(bench.queue.ticket(&tickets[0]), None);
    assert!(tickets[1..].iter().all(|ticket| bench.queue.ticket(ticket).is_some()));
    assert_eq!(bench.store.kinds(), "ooowww".chars().take(5).collect::<String>());
    bench.restart(2);
    bench.batch();
    bench.finish(&tickets[3], Outcome::Applied, None);
    assert_eq!(bench.queue.ticket(&tickets[1]), None, "the order outlives the process");
}

#[test]
fn a_long_reason_is_cut() {
    let mut bench = Bench::new(QueueBounds::default());
    let ticket = bench.add(write("k", "1"));
    let view = bench.finish(&ticket, Outcome::Rejected { reason: "é".repeat(9_999) }, None);
    let TicketState::Done(Outcome::Rejected { reason }) = view.state else { panic!("{view:?}") };
    assert_eq!(reason.chars().count(), limits::TICKET_REASON_CHARS_MAX);
}

#[test]
fn rows_that_are_not_understood_are_left_alone_and_leftovers_go() {
    let mut bench = Bench::new(QueueBounds::default());
    let ticket = bench.add(write("k", "1"));
    for (key, row) in [("z", "?"), ("w1234567", "?"), ("", "?"), ("bgone", "dot")] {
        bench.store.rows.insert(Bytes::from_static_str(key), Bytes::from_static_str(row));
    }
    let restored = bench.store.restore(2, QueueBounds::default());
    assert_eq!(restored.unreadable, 3);
    assert_eq!(restored.changes, [Change::Delete { table: Table::Queue, key: Bytes::from_static(b"bgone") }]);
    assert_eq!(restored.queue.tickets().map(|view| view.ticket).collect::<Vec<_>>(), [ticket]);
}
