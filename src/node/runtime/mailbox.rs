//! The messages of one run of a process agent: those that wait, those that the agent has and has not
//! answered, and when each of them is over.
//!
//! ```text
//! insert -> waiting -> take -> in hand -> written -> outstanding -> settle
//!              \________________________________________/
//!                     expire, close: over without an answer
//! ```
//!
//! Every [`Finish`] that is put in comes out exactly once: from `insert` (refused, or no answer
//! wanted), `settle`, `expire` or `close`. The mailbox calls none of them itself, because they run code of
//! others, and it holds its lock only for a few map operations.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::permit::Permit;
use super::{Delivery, Finish};
use crate::core::limits;
use crate::core::model::Message;

/// What a pipe holds at most, unless somebody has made it larger.
const PIPE_BYTES: u64 = 64 << 10;

/// Where a run is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// It does not take messages yet.
    Starting,
    /// It takes messages.
    Running,
    /// It finishes what it has.
    Draining,
    /// It is over.
    Ended,
}

impl Phase {
    /// The word that users see.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Ended => "not running",
        }
    }
}

/// Why a message was not put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The run is not in a phase that takes messages.
    Phase(Phase),
    /// As many messages, or bytes, wait as may.
    Full,
    /// A message with this id is here already.
    Duplicate,
}

/// A message on its way from the mailbox into the agent.
#[derive(Debug)]
pub(super) struct Taken {
    /// The message.
    pub(super) message: Message,
    /// Whether its sender waits for an answer.
    pub(super) wants_answer: bool,
    /// Time left until it is over.
    pub(super) left: Duration,
}

/// What a message may tell of its agent to the agent's breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Account {
    /// Nothing: it is a health check.
    None,
    /// Whether it works.
    Usual,
    /// It decides whether the breaker closes.
    Trial,
}

/// A message that is over.
pub(super) struct Over {
    /// Its sender's, unless the sender wanted no answer.
    pub(super) finish: Option<Finish>,
    /// The deadline that it came with.
    pub(super) deadline_ms: u32,
    /// For how long the agent had it, if it was given it.
    pub(super) had_for: Option<Duration>,
    /// What it tells.
    pub(super) account: Account,
}

/// A message that has its answer.
pub(super) struct Settled {
    /// Its sender's, unless the sender wanted no answer.
    pub(super) finish: Option<Finish>,
    /// Since it was put in.
    pub(super) took: Duration,
    /// For how long the agent had it.
    pub(super) had_for: Duration,
    /// What it tells.
    pub(super) account: Account,
}

/// What is known of a message that an agent names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Its sender wanted no answer.
    WantsNone,
    /// It is over, or never was here.
    No,
}

/// What becomes of the messages that their agent was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracking {
    /// Those that want an answer are outstanding until they have it.
    Answers,
    /// All are outstanding until they are settled.
    All,
}

/// The messages of one run.
pub(super) struct Mailbox {
    inner: Mutex<Inner>,
    tracking: Tracking,
    window: usize,
    /// Under which the agent runs, if it is exclusive.
    permit: Option<Arc<Permit>>,
    /// There may be something to take.
    pub(super) arrived: Notify,
    /// The next deadline is earlier than it was.
    pub(super) sooner: Notify,
    /// Nothing waits and nothing is outstanding.
    pub(super) emptied: Notify,
}

struct Inner {
    phase: Phase,
    /// By order of arrival.
    waiting: BTreeMap<u64, Waiting>,
    waiting_bytes: usize,
    /// Taken and not yet written, and not outstanding.
    in_hand: usize,
    /// Bytes written to the agent so far.
    written: u64,
    outstanding: HashMap<Uuid, Outstanding>,
    /// The ids of everything that waits or is outstanding.
    ids: HashSet<Uuid>,
    deadlines: BTreeSet<(Instant, u64, Uuid)>,
    arrivals: u64,
    /// The last messages that the agent was given, for what it says about them afterwards.
    recent: VecDeque<Recent>,
}

struct Waiting {
    message: Message,
    finish: Option<Finish>,
    deadline: Instant,
    bytes: usize,
    account: Account,
}

struct Outstanding {
    finish: Option<Finish>,
    deadline: (Instant, u64),
    deadline_ms: u32,
    hops: u8,
    taken: Instant,
    account: Account,
}

struct Recent {
    id: Uuid,
    hops: u8,
    wants_answer: bool,
}

impl Mailbox {
    /// An empty mailbox in [`Phase::Starting`], of which at most `window` messages are outstanding at once.
    pub(super) fn new(tracking: Tracking, window: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                phase: Phase::Starting,
                waiting: BTreeMap::new(),
                waiting_bytes: 0,
                in_hand: 0,
                written: 0,
                outstanding: HashMap::new(),
                ids: HashSet::new(),
                deadlines: BTreeSet::new(),
                arrivals: 0,
                recent: VecDeque::new(),
            }),
            tracking,
            window,
            permit: None,
            arrived: Notify::new(),
            sooner: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// The same for an agent that runs under a permit: it is given nothing that it may not finish.
    pub(super) fn under(mut self, permit: Option<Arc<Permit>>) -> Self {
        self.permit = permit;
        self
    }

    /// The phase.
    pub(super) fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Goes to a later phase; never back.
    pub(super) fn become_phase(&self, phase: Phase) {
        let mut inner = self.lock();
        if (phase as u8) > (inner.phase as u8) {
            inner.phase = phase;
        }
    }

    /// Puts a message in. Returns the `finish` of a sender that wanted to hear no more than this.
    ///
    /// # Errors
    /// The sender's `finish`, and why the message was not put in.
    pub(super) fn insert(
        &self,
        delivery: Delivery,
        account: Account,
        now: Instant,
    ) -> Result<Option<Finish>, (Finish, Refused)> {
        let Delivery { message, wants_answer, finish } = delivery;
        let bytes = bytes_of(&message);
        let mut inner = self.lock();
        if inner.phase != Phase::Running {
            return Err((finish, Refused::Phase(inner.phase)));
        }
        if inner.waiting.len() >= limits::MAILBOX_MESSAGES_MAX
            || inner.waiting_bytes + bytes > limits::MAILBOX_BYTES_MAX
        {
            return Err((finish, Refused::Full));
        }
        if !inner.ids.insert(message.id) {
            return Err((finish, Refused::Duplicate));
        }
        let deadline = now + Duration::from_millis(message.deadline_ms.into()).min(limits::DEADLINE_MAX);
        let number = inner.arrivals;
        inner.arrivals += 1;
        inner.waiting_bytes += bytes;
        let sooner = inner.deadlines.first().is_none_or(|(first, ..)| deadline < *first);
        inner.deadlines.insert((deadline, number, message.id));
        let (kept, told) = if wants_answer { (Some(finish), None) } else { (None, Some(finish)) };
        inner.waiting.insert(number, Waiting { message, finish: kept, deadline, bytes, account });
        drop(inner);
        self.arrived.notify_one();
        if sooner {
            self.sooner.notify_one();
        }
        Ok(told)
    }

    /// The next message for the agent, in order of arrival, unless the window is full, or its permit may end first.
    pub(super) fn take(&self, now: Instant) -> Option<Taken> {
        if self.permit.as_ref().is_some_and(|permit| !permit.takes_messages()) {
            return None;
        }
        let mut inner = self.lock();
        let (_, first) = inner.waiting.first_key_value()?;
        let wants_answer = first.finish.is_some();
        let tracked = wants_answer || self.tracking == Tracking::All;
        if tracked && inner.outstanding.len() >= self.window {
            return None;
        }
        let (number, Waiting { message, finish, deadline, bytes, account }) = inner.waiting.pop_first()?;
        inner.waiting_bytes -= bytes;
        if inner.recent.len() == limits::AGENT_WINDOW_MAX {
            inner.recent.pop_front();
        }
        inner.recent.push_back(Recent { id: message.id, hops: message.hops, wants_answer });
        if tracked {
            let (deadline_ms, hops) = (message.deadline_ms, message.hops);
            let deadline = (deadline, number);
            let outstanding = Outstanding { finish, deadline, deadline_ms, hops, taken: now, account };
            inner.outstanding.insert(message.id, outstanding);
        } else {
            inner.in_hand += 1;
            inner.ids.remove(&message.id);
            inner.deadlines.remove(&(deadline, number, message.id));
        }
        Some(Taken { message, wants_answer, left: deadline.saturating_duration_since(now) })
    }

    /// So many bytes were written to the agent, among them so many taken messages that are not outstanding.
    pub(super) fn written(&self, messages: usize, bytes: usize) {
        let mut inner = self.lock();
        inner.in_hand -= messages;
        inner.written += bytes as u64;
        self.tell_if_empty(&inner);
    }

    /// How many pipes full were written to the agent: it has read all but the last.
    pub(super) fn pipes_written(&self) -> u64 {
        self.lock().written / PIPE_BYTES
    }

    /// Takes out an outstanding message, because there is an answer to it.
    ///
    /// # Errors
    /// What is known of the message, when it is not outstanding.
    pub(super) fn settle(&self, id: Uuid) -> Result<Settled, Known> {
        let mut inner = self.lock();
        let Some(Outstanding { finish, deadline: (deadline, number), deadline_ms, taken, account, .. }) =
            inner.outstanding.remove(&id)
        else {
            let wants_none = inner.recent.iter().any(|recent| recent.id == id && !recent.wants_answer);
            return Err(if wants_none { Known::WantsNone } else { Known::No });
        };
        inner.ids.remove(&id);
        inner.deadlines.remove(&(deadline, number, id));
        self.tell_if_empty(&inner);
        drop(inner);
        self.arrived.notify_one();
        let left = deadline.saturating_duration_since(Instant::now());
        let took = Duration::from_millis(deadline_ms.into()).saturating_sub(left);
        Ok(Settled { finish, took, had_for: taken.elapsed(), account })
    }

    /// When the next message is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.lock().deadlines.first().map(|(deadline, ..)| *deadline)
    }

    /// Takes out what is over by `now`.
    pub(super) fn expire(&self, now: Instant) -> Vec<Over> {
        let mut inner = self.lock();
        let mut over = Vec::new();
        while let Some(first @ (deadline, number, id)) = inner.deadlines.first().copied()
            && deadline <= now
        {
            inner.deadlines.remove(&first);
            inner.ids.remove(&id);
            if let Some(Waiting { message, finish, bytes, account, .. }) = inner.waiting.remove(&number) {
                inner.waiting_bytes -= bytes;
                over.push(Over { finish, deadline_ms: message.deadline_ms, had_for: None, account });
            } else if let Some(Outstanding { finish, deadline_ms, taken, account, .. }) =
                inner.outstanding.remove(&id)
            {
                let had_for = Some(now.saturating_duration_since(taken));
                over.push(Over { finish, deadline_ms, had_for, account });
            }
        }
        self.tell_if_empty(&inner);
        drop(inner);
        if !over.is_empty() {
            self.arrived.notify_one();
        }
        over
    }

    /// Ends the phase in which messages are taken and takes out everything.
    pub(super) fn close(&self) -> Vec<Over> {
        let mut inner = self.lock();
        inner.phase = Phase::Ended;
        inner.ids.clear();
        inner.deadlines.clear();
        inner.waiting_bytes = 0;
        let waiting = std::mem::take(&mut inner.waiting).into_values().map(|waiting| Over {
            finish: waiting.finish,
            deadline_ms: waiting.message.deadline_ms,
            had_for: None,
            account: waiting.account,
        });
        let outstanding = std::mem::take(&mut inner.outstanding).into_values().map(|outstanding| Over {
            finish: outstanding.finish,
            deadline_ms: outstanding.deadline_ms,
            had_for: Some(outstanding.taken.elapsed()),
            account: outstanding.account,
        });
        let over = waiting.chain(outstanding).collect();
        self.tell_if_empty(&inner);
        over
    }

    /// Whether the agent has to say what became of a message.
    pub(super) fn tracks(&self, wants_answer: bool) -> bool {
        wants_answer || self.tracking == Tracking::All
    }

    /// Whether nothing waits, is in hand or is outstanding.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Messages that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// The hops of a message that the agent sends: one more than those of the message that made it
    /// send. That is the one that it names; otherwise the last one that it was given, which is exact
    /// for an agent that handles one message at a time and still counts up in a circle of the others.
    pub(super) fn hops_of_next(&self, cause: Option<Uuid>) -> u8 {
        let inner = self.lock();
        let named = cause.and_then(|id| {
            let recent =
                || inner.recent.iter().rev().find(|recent| recent.id == id).map(|recent| recent.hops);
            inner.outstanding.get(&id).map(|outstanding| outstanding.hops).or_else(recent)
        });
        let hops = named.or_else(|| inner.recent.back().map(|recent| recent.hops));
        hops.map_or(0, |hops| hops.saturating_add(1))
    }

    fn tell_if_empty(&self, inner: &Inner) {
        if inner.is_empty() {
            self.emptied.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.outstanding.is_empty() && self.in_hand == 0
    }
}

/// What a message weighs in a mailbox: every part of it whose length its sender chooses.
fn bytes_of(message: &Message) -> usize {
    let texts = message.from.len()
        + message.content_type.len()
        + message.conversation_id.as_ref().map_or(0, String::len)
        + message.traceparent.as_ref().map_or(0, String::len);
    message.content.len() + texts + message.extensions.values().map(bytes::Bytes::len).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::core::model::{Address, Performative};

    fn message(number: u128, content: usize, deadline_ms: u32) -> Message {
        Message {
            id: Uuid::from_u128(number),
            from: "client@node-1".to_owned(),
            to: Address::parse("worker").expect("valid"),
            performative: Performative::Request,
            conversation_id: None,
            in_reply_to: None,
            content_type: "text/plain".to_owned(),
            content: Bytes::from(vec![0; content]),
            deadline_ms,
            traceparent: None,
            hops: 0,
            extensions: std::collections::BTreeMap::new(),
        }
    }

    fn delivery(message: Message, wants_answer: bool) -> Delivery {
        Delivery { message, wants_answer, finish: Box::new(|_| ()) }
    }

    fn open(tracking: Tracking, window: usize) -> Mailbox {
        let mailbox = Mailbox::new(tracking, window);
        mailbox.become_phase(Phase::Running);
        mailbox
    }

    fn refusal(result: Result<Option<Finish>, (Finish, Refused)>) -> Option<Refused> {
        result.err().map(|(_, refused)| refused)
    }

    #[tokio::test]
    async fn a_full_mailbox_refuses_by_number_and_by_bytes() {
        let now = Instant::now();
        let mailbox = open(Tracking::Answers, 1);
        for n in 0..limits::MAILBOX_MESSAGES_MAX {
            assert_eq!(
                refusal(mailbox.insert(delivery(message(n as u128, 1, 1000), true), Account::Usual, now)),
                None
            );
        }
        let next = delivery(message(u128::MAX, 1, 1000), true);
        assert_eq!(refusal(mailbox.insert(next, Account::Usual, now)), Some(Refused::Full));

        let mailbox = open(Tracking::Answers, 1);
        let half = limits::MAILBOX_BYTES_MAX / 2;
        assert_eq!(
            refusal(mailbox.insert(delivery(message(1, half, 1000), true), Account::Usual, now)),
            None
        );
        assert_eq!(
            refusal(mailbox.insert(delivery(message(2, half, 1000), true), Account::Usual, now)),
            Some(Refused::Full)
        );
        assert!(mailbox.take(now).is_some());
        assert_eq!(
            refusal(mailbox.insert(delivery(message(2, half, 1000), true), Account::Usual, now)),
            None
        );
    }

    #[tokio::test]
    async fn a_message_is_taken_only_while_the_window_has_room() {
        let now = Instant::now();
        let mailbox = open(Tracking::Answers, 1);
        for n in 1..=3 {
            assert_eq!(
                refusal(mailbox.insert(delivery(message(n, 1, 1000), n < 3), Account::Usual, now)),
                None
            );
        }
        assert_eq!(mailbox.take(now).expect("room").message.id, Uuid::from_u128(1));
        assert!(mailbox.take(now).is_none());
        assert!(mailbox.settle(Uuid::from_u128(1)).is_ok());
        assert_eq!(mailbox.take(now).expect("room").message.id, Uuid::from_u128(2));
        assert_eq!(mailbox.take(now).expect("it wants no answer").message.id, Uuid::from_u128(3));
        assert_eq!(mailbox.settle(Uuid::from_u128(3)).err(), Some(Known::WantsNone));
        assert_eq!(mailbox.settle(Uuid::from_u128(1)).err(), Some(Known::No));

        assert!(mailbox.settle(Uuid::from_u128(2)).is_ok());
        assert!(!mailbox.is_empty(), "one message is in hand and not written");
        mailbox.written(1, PIPE_BYTES as usize - 1);
        assert_eq!(mailbox.pipes_written(), 0, "it may all lie in the pipe");
        mailbox.written(0, 1);
        assert_eq!(mailbox.pipes_written(), 1);
        assert!(mailbox.is_empty());
    }

    #[tokio::test]
    async fn what_is_over_leaves_the_mailbox_whether_it_waits_or_is_outstanding() {
        let now = Instant::now();
        let mailbox = open(Tracking::Answers, 1);
        for (n, ms) in [(1, 100), (2, 50), (3, 200)] {
            assert_eq!(refusal(mailbox.insert(delivery(message(n, 1, ms), true), Account::Usual, now)), None);
        }
        assert!(mailbox.take(now).is_some());
        assert_eq!(mailbox.next_deadline(), Some(now + Duration::from_millis(50)));
        let over: Vec<_> = mailbox
            .expire(now + Duration::from_millis(100))
            .iter()
            .map(|o| (o.deadline_ms, o.had_for.is_some()))
            .collect();
        assert_eq!(over, [(50, false), (100, true)]);
        assert_eq!(mailbox.take(now).expect("the window is free again").message.id, Uuid::from_u128(3));
        assert_eq!(mailbox.close().len(), 1);
        assert!(mailbox.is_empty());
        let late = delivery(message(4, 1, 1000), true);
        assert_eq!(refusal(mailbox.insert(late, Account::Usual, now)), Some(Refused::Phase(Phase::Ended)));
    }

    #[tokio::test]
    async fn one_id_is_here_once() {
        let now = Instant::now();
        let mailbox = open(Tracking::Answers, 8);
        assert_eq!(refusal(mailbox.insert(delivery(message(1, 1, 1000), true), Account::Usual, now)), None);
        assert_eq!(
            refusal(mailbox.insert(delivery(message(1, 1, 1000), true), Account::Usual, now)),
            Some(Refused::Duplicate)
        );
        assert!(mailbox.take(now).is_some());
        assert_eq!(
            refusal(mailbox.insert(delivery(message(1, 1, 1000), true), Account::Usual, now)),
            Some(Refused::Duplicate)
        );
    }

    #[tokio::test]
    async fn hops_count_up_from_the_message_that_is_named_or_else_the_last() {
        let now = Instant::now();
        let mailbox = open(Tracking::Answers, 8);
        assert_eq!(mailbox.hops_of_next(None), 0);
        for (n, hops) in [(1, 7), (2, 3)] {
            let message = Message { hops, ..message(n, 1, 1000) };
            assert_eq!(refusal(mailbox.insert(delivery(message, n == 1), Account::Usual, now)), None);
            assert!(mailbox.take(now).is_some());
        }
        assert_eq!(mailbox.hops_of_next(None), 4);
        assert_eq!(mailbox.hops_of_next(Some(Uuid::from_u128(1))), 8);
        assert_eq!(mailbox.hops_of_next(Some(Uuid::from_u128(9))), 4);
    }
}
