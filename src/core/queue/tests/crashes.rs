//! Any order of events, with a crash or a failing disk at any point: each ticket that was given ends in exactly one
//! outcome, no write is made twice, and the writes to a key are made in their order, each knowing its predecessor.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Write {
        key: u8,
        lasts_ms: u64,
    },
    /// Make the next writes; every `conflict`th becomes a sibling.
    Replay {
        conflict: usize,
    },
    Expire,
    /// The next transaction that is under way is durable.
    Commit,
    /// It fails, and with it all that were made after it.
    Fail,
    Crash,
    /// The next transaction is durable, and the process ends before it hears of that.
    CrashAfterCommit,
    Time {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..3, 1u64..5_000).prop_map(|(key, lasts_ms)| Step::Write { key, lasts_ms }),
        4 => (1usize..4).prop_map(|conflict| Step::Replay { conflict }),
        1 => Just(Step::Expire),
        8 => Just(Step::Commit),
        1 => Just(Step::Fail),
        1 => Just(Step::Crash),
        1 => Just(Step::CrashAfterCommit),
        2 => (1u64..1_000).prop_map(|ms| Step::Time { ms }),
    ]
}

/// What a transaction is about.
#[derive(Debug, Clone)]
enum About {
    Enqueue(Ticket),
    /// The write that is made in the same transaction, if it is made: its key, and what it was told of its predecessor.
    Resolve {
        ticket: Ticket,
        made: Option<(String, Option<Bytes>)>,
    },
}

#[derive(Debug)]
struct World {
    queue: Queue,
    start: u64,
    now_ms: u64,
    under_way: VecDeque<(About, Vec<Change>)>,
    // What survives a crash.
    store: Store,
    /// The writes that were made, by key, in order; with what each was told.
    made: BTreeMap<String, Vec<(Ticket, Option<Bytes>)>>,
    // What the outside knows.
    given: BTreeMap<Ticket, String>,
    outcomes: BTreeMap<Ticket, Outcome>,
}

fn dot(ticket: &Ticket) -> Bytes {
    Bytes::from(ticket.to_string())
}

impl World {
    fn new() -> Self {
        Self {
            queue: fresh(QueueBounds::default()),
            start: 1,
            now_ms: 1_000,
            under_way: VecDeque::new(),
            store: Store::default(),
            made: BTreeMap::new(),
            given: BTreeMap::new(),
            outcomes: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Write { key, lasts_ms } => self.write(&format!("k{key}"), *lasts_ms),
            Step::Replay { conflict } => self.replay(*conflict),
            Step::Expire => self.expire(),
            Step::Commit => self.commit(),
            Step::Fail => self.fail(),
            Step::Crash => self.crash(),
            Step::CrashAfterCommit => self.crash_after_commit(),
            Step::Time { ms } => self.now_ms += ms,
        }
    }

    fn write(&mut self, key: &str, lasts_ms: u64) {
        let deadline_ms = Some(self.now_ms + lasts_ms);
        let write = QueuedWrite { queued_at_ms: self.now_ms, deadline_ms, ..write(key, "v") };
        let (ticket, changes) = self.queue.enqueue(write).expect("room");
        assert!(!self.given.contains_key(&ticket), "{ticket} is given twice");
        self.under_way.push_back((About::Enqueue(ticket), changes));
    }

    fn replay(&mut self, conflict: usize) {
        let now = Instant::ZERO + Duration::from_millis(self.now_ms);
        for (at, Replay { ticket, write, became }) in
            self.queue.next_batch(now, self.now_ms).into_iter().enumerate()
        {
            let outcome = if at % conflict == 0 { Outcome::Conflicted } else { Outcome::Applied };
            let changes = self.queue.resolve(&ticket, outcome, Some(dot(&ticket))).expect("it was offered");
            let made = Some((write.key, became));
            self.under_way.push_back((About::Resolve { ticket, made }, changes));
        }
    }

    fn expire(&mut self) {
        for ticket in self.queue.expired(self.now_ms) {
            let changes = self.queue.resolve(&ticket, Outcome::Expired, None).expect("it waits");
            self.under_way.push_back((About::Resolve { ticket, made: None }, changes));
        }
    }

    fn commit(&mut self) {
        let Some((about, changes)) = self.under_way.pop_front() else {
            return;
        };
        self.store.commit(&changes);
        match about {
            About::Enqueue(ticket) => {
                self.queue.handle_stored(&ticket);
                let view = self.queue.ticket(&ticket).expect("it is durable");
                self.given.insert(ticket, view.key);
            }
            About::Resolve { ticket, made } => {
                if let Some((key, became)) = made {
                    self.made.entry(key).or_default().push((ticket.clone(), became));
                }
                let view = self.queue.handle_resolved(&ticket).expect("it was being resolved");
                let TicketState::Done(outcome) = view.state else { panic!("{view:?}") };
                self.outcomes.insert(ticket, outcome);
            }
        }
    }

    fn fail(&mut self) {
        for (about, _) in std::mem::take(&mut self.under_way) {
            match about {
                About::Enqueue(ticket) => self.queue.handle_not_stored(&ticket),
                About::Resolve { ticket, .. } => self.queue.handle_not_resolved(&ticket),
            }
        }
    }

    fn crash(&mut self) {
        self.under_way.clear();
        self.start += 1;
        let restored = self.store.restore(self.start, QueueBounds::default());
        assert_eq!((restored.unreadable, restored.changes), (0, vec![]), "no crash leaves anything behind");
        self.queue = restored.queue;
    }

    fn crash_after_commit(&mut self) {
        let Some((about, changes)) = self.under_way.pop_front() else {
            return;
        };
        self.store.commit(&changes);
        self.crash();
        let About::Resolve { ticket, made } = about else {
            return;
        };
        if let Some((key, became)) = made {
            self.made.entry(key).or_default().push((ticket.clone(), became));
        }
        match self.queue.ticket(&ticket).map(|view| view.state) {
            Some(TicketState::Done(outcome)) => self.outcomes.insert(ticket, outcome),
            other => panic!("{ticket} has no outcome: {other:?}"),
        };
    }

    /// Every given ticket waits or has its outcome, the one that was told.
    fn check(&self) {
        for (ticket, key) in &self.given {
            let view = self.queue.ticket(ticket).unwrap_or_else(|| panic!("{ticket} is lost"));
            assert_eq!(view.key, *key);
            match (&view.state, self.outcomes.get(ticket)) {
                (TicketState::Queued, None) => {}
                (TicketState::Done(outcome), Some(told)) => assert_eq!(outcome, told),
                (state, told) => panic!("{ticket}: {state:?}, and {told:?} was told"),
            }
        }
        for (key, made) in &self.made {
            assert!(made.windows(2).all(|pair| pair[0].0 < pair[1].0), "{key}: {made:?}");
        }
    }

    fn drain(&mut self) {
        for _ in 0..1_000 {
            self.now_ms += 1;
            self.replay(2);
            self.expire();
            while !self.under_way.is_empty() {
                self.commit();
            }
            self.check();
            if self.queue.is_empty() {
                return;
            }
        }
        panic!("the queue does not empty: {:?}", self.queue);
    }
}

/// Whether each write to a key was told the dot of the one made before it, where it waited behind that one.
fn check_predecessors(world: &World) {
    for (key, made) in &world.made {
        for pair in made.windows(2) {
            let (before, (_, told)) = (&pair[0].0, &pair[1]);
            let told = told.as_ref();
            assert!(told.is_none() || told == Some(&dot(before)), "{key}: {made:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn each_ticket_has_one_outcome_whatever_crashes(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.check();
        }
        world.fail();
        world.drain();
        check_predecessors(&world);
        for ticket in world.given.keys() {
            prop_assert!(world.outcomes.contains_key(ticket), "{} has no outcome", ticket);
        }
        prop_assert!(!world.store.rows.keys().any(|key| key[0] != b'o'), "only outcomes are left");
        world.crash();
        world.check();
    }

    /// All are queued before any is made, so each must be told of the one before it.
    #[test]
    fn every_write_is_told_what_its_predecessor_became_whenever_it_crashes(
        crashes in prop::collection::vec(0u8..6, 1..40),
    ) {
        let mut world = World::new();
        for _ in 0..8 {
            world.write("k", 1_000_000);
        }
        while !world.under_way.is_empty() {
            world.commit();
        }
        for at in crashes {
            world.now_ms += 10;
            world.replay(2);
            match at {
                0 => world.crash(),
                1 => world.fail(),
                _ => world.commit(),
            }
            world.check();
        }
        world.drain();
        let made = &world.made["k"];
        prop_assert_eq!(made.len(), 8);
        for pair in made.windows(2) {
            prop_assert_eq!(pair[1].1.clone(), Some(dot(&pair[0].0)));
        }
    }
}
