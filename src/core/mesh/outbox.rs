//! The outbox's place among the rooms: what it wants made durable and tried, and what is asked of it.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::{Mesh, Pending, Phase, Requester, Timer};
use crate::core::contract::{Change, Output};
use crate::core::error::{Refusal, SendError};
use crate::core::ids::AgentName;
use crate::core::limits;
use crate::core::model::{DeadLetter, Message};
use crate::core::outbox::{OutboxFull, Renumbered, backoff};
use crate::core::wire::{DeadOnes, OutboxAnswer, OutboxRequest, ResponseBody};

/// The outbox is looked after no sooner than this after the last time, so that it never holds up what it waits for.
const SOONEST: Duration = Duration::from_millis(1);

/// A persist of the outbox, and what is done once it is durable.
#[derive(Debug)]
pub(super) enum Letters {
    /// Messages that their sender waits to hear of.
    Accepted { numbers: Vec<u64>, requester: Requester },
    /// The end of a message.
    Settled { number: u64 },
    /// Dead letters that are taken up again, each with its new number.
    Retried { pairs: Vec<Renumbered>, requester: Requester },
    /// Dead letters that are dropped.
    Dropped { numbers: Vec<u64>, requester: Requester },
}

impl Mesh {
    pub(super) fn on_outbox_request(&mut self, requester: Requester, request: OutboxRequest) {
        if let Err(why) = request.check() {
            return self.answer(requester, Err(Refusal::BadRequest { why: why.to_owned() }));
        }
        match request {
            OutboxRequest::Accept { messages, life_ms } => {
                self.accept_letters(requester, messages, life_ms);
            }
            OutboxRequest::Trace { id } => {
                let trace = self.outbox.trace(id).map(Box::new);
                self.answer_outbox(requester, OutboxAnswer::Trace(trace));
            }
            OutboxRequest::DeadLetters { limit, after } => {
                let limit = (limit as usize).min(limits::DEAD_LETTERS_LISTED_MAX);
                let mut all = self.outbox.dead_letters();
                if let Some(after) = after {
                    // One that has gone meanwhile has nothing after it.
                    all.by_ref().find(|letter| letter.id == after);
                }
                let mut bytes = 0;
                let letters = all.take(limit).take_while(|letter| {
                    bytes += weight(letter);
                    bytes <= limits::DEAD_LETTERS_BYTES_LISTED
                });
                let letters = letters.collect();
                let total = self.outbox.dead() as u64;
                self.answer_outbox(requester, OutboxAnswer::DeadLetters { letters, total });
            }
            OutboxRequest::Retry { .. } | OutboxRequest::Drop { .. } if self.is_leaving() => {
                self.answer(requester, Err(self.leaving()));
            }
            OutboxRequest::Retry { .. } | OutboxRequest::Drop { .. } if !self.takes_rows() => {
                let reason = self.why_no_rows();
                self.refuse_for_store(requester, &reason);
            }
            OutboxRequest::Retry { letters } => {
                let unix_ms = self.outbox_ms();
                match self.outbox.retry_dead(ids(letters).as_ref(), unix_ms) {
                    Ok((pairs, _)) if pairs.is_empty() => self.answer_changed(requester, 0),
                    Ok((pairs, changes)) => {
                        self.persist(changes, Pending::Outbox(Letters::Retried { pairs, requester }));
                    }
                    Err(full) => self.refuse_full(requester, &full),
                }
            }
            OutboxRequest::Drop { .. } if self.outbox.moves_many() => {
                let what = format!("the store's queue of {}", self.own);
                self.answer(requester, Err(Refusal::Overloaded { what }));
            }
            OutboxRequest::Drop { letters } => {
                let (numbers, changes) = self.outbox.drop_dead(ids(letters).as_ref());
                if numbers.is_empty() {
                    return self.answer_changed(requester, 0);
                }
                self.persist(changes, Pending::Outbox(Letters::Dropped { numbers, requester }));
            }
        }
    }

    fn accept_letters(&mut self, requester: Requester, messages: Vec<Message>, life_ms: u64) {
        if !matches!(requester, Requester::Local(_)) {
            let why = "a node promises delivery to its own agents and clients only".to_owned();
            return self.answer(requester, Err(Refusal::BadRequest { why }));
        }
        let long = |text: &String| text.len() > limits::API_NAME_BYTES_MAX;
        let is_long = |message: &Message| {
            message.content.len() > limits::CONTENT_BYTES_MAX
                || long(&message.content_type)
                || message.conversation_id.as_ref().is_some_and(long)
        };
        if messages.iter().any(is_long) {
            let why = format!(
                "the content, its type or the conversation is too long: {}, {} and {} bytes are the most",
                limits::CONTENT_BYTES_MAX,
                limits::API_NAME_BYTES_MAX,
                limits::API_NAME_BYTES_MAX
            );
            return self.answer(requester, Err(Refusal::BadRequest { why }));
        }
        if self.is_leaving() {
            return self.answer(requester, Err(self.leaving()));
        }
        // One that has been replaced promises nothing more.
        let senders =
            messages.iter().filter_map(|message| AgentName::new(message.from.split_once('@')?.0).ok());
        if let Some(refusal) = senders.filter_map(|sender| self.run_of(&sender).err()).next() {
            return self.answer(requester, Err(refusal));
        }
        if !self.takes_rows() {
            let reason = self.why_no_rows();
            return self.refuse_for_store(requester, &reason);
        }
        let (unix_ms, life) = (self.outbox_ms(), Duration::from_millis(life_ms).min(limits::OUTBOX_LIFE_MAX));
        match self.outbox.accept(messages, unix_ms, life) {
            Ok((numbers, changes)) => {
                self.persist(changes, Pending::Outbox(Letters::Accepted { numbers, requester }));
            }
            Err(full) => self.refuse_full(requester, &full),
        }
    }

    fn refuse_full(&mut self, requester: Requester, full: &OutboxFull) {
        let what = format!("the outbox of {} ({full})", self.own);
        self.answer(requester, Err(Refusal::Overloaded { what }));
    }

    fn answer_outbox(&mut self, requester: Requester, answer: OutboxAnswer) {
        self.answer(requester, Ok(ResponseBody::Outbox(answer)));
    }

    fn answer_changed(&mut self, requester: Requester, count: usize) {
        let (count, left) = (count as u64, self.outbox.dead() as u64);
        self.answer_outbox(requester, OutboxAnswer::Changed { count, left });
    }

    /// What was given to the disk is there.
    pub(super) fn on_letters_stored(&mut self, letters: Letters) {
        match letters {
            Letters::Accepted { numbers, requester } => {
                let id = numbers.first().and_then(|number| self.outbox.id(*number));
                numbers.iter().for_each(|number| self.outbox.accepted(*number, true, self.now));
                if let Some(id) = id {
                    self.answer_outbox(requester, OutboxAnswer::Accepted { id });
                }
            }
            Letters::Settled { number } => self.outbox.settled(number, true, self.now),
            Letters::Retried { pairs, requester } => {
                let (old, new): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
                self.outbox.dropped(&old, true);
                new.iter().for_each(|number| self.outbox.accepted(*number, true, self.now));
                self.answer_changed(requester, old.len());
            }
            Letters::Dropped { numbers, requester } => {
                self.outbox.dropped(&numbers, true);
                self.answer_changed(requester, numbers.len());
            }
        }
        self.view_changed = true;
    }

    /// It is not.
    pub(super) fn on_letters_not_stored(&mut self, letters: Letters, reason: &str) {
        self.on_disk_failed(reason);
        match letters {
            Letters::Accepted { numbers, requester } => {
                numbers.iter().for_each(|number| self.outbox.accepted(*number, false, self.now));
                self.refuse_for_store(requester, reason);
            }
            Letters::Settled { number } => self.outbox.settled(number, false, self.now),
            Letters::Retried { pairs, requester } => {
                let (old, new): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
                self.outbox.dropped(&old, false);
                new.iter().for_each(|number| self.outbox.accepted(*number, false, self.now));
                self.refuse_for_store(requester, reason);
            }
            Letters::Dropped { numbers, requester } => {
                self.outbox.dropped(&numbers, false);
                self.refuse_for_store(requester, reason);
            }
        }
    }

    /// A try is over.
    pub(super) fn on_try_ended(&mut self, number: u64, result: Result<(), SendError>) {
        let pause = self.jittered(backoff(self.outbox.tries(number)));
        let unix_ms = self.outbox_ms();
        if let Some(changes) = self.outbox.ended(number, result, self.now, unix_ms, pause) {
            self.settle_letter(number, changes);
        }
    }

    fn settle_letter(&mut self, number: u64, changes: Vec<Change>) {
        if self.takes_rows() {
            self.persist(changes, Pending::Outbox(Letters::Settled { number }));
        } else {
            self.outbox.settled(number, false, self.now);
        }
    }

    /// Tries what is due, gives up what is over, and says when to look again.
    pub(super) fn tend_outbox(&mut self) {
        let unix_ms = self.outbox_ms();
        if self.takes_rows() {
            while let Some((number, changes)) = self.outbox.next_owed(self.now) {
                self.settle_letter(number, changes);
            }
            while let Some((number, changes)) = self.outbox.expire(self.now, unix_ms) {
                self.settle_letter(number, changes);
            }
        }
        while self.may_settle()
            && matches!(self.phase, Phase::Running)
            && let Some(next) = self.outbox.next_try(self.now, unix_ms)
        {
            self.output(Output::Try { number: next.number, message: next.message });
        }
        // Whatever the disk holds up goes on with what the disk says next.
        if !self.may_settle() {
            return;
        }
        let over = self.outbox.next_deadline_ms();
        let over = over.map(|at| self.now + Duration::from_millis(at.saturating_sub(unix_ms)));
        let due = self.outbox.next_try_at().filter(|_| matches!(self.phase, Phase::Running));
        let next = [due, over].into_iter().flatten().min();
        if let Some(next) = next.map(|at| at.max(self.now + SOONEST))
            && self.outbox_armed.is_none_or(|armed| next < armed)
        {
            self.outbox_armed = Some(next);
            self.timers.set(next, Timer::Outbox);
        }
    }

    /// Whether the end of one more message can be given to the disk.
    fn may_settle(&self) -> bool {
        self.takes_rows() && !self.outbox.is_disk_busy()
    }

    pub(super) fn on_outbox_timer(&mut self) {
        // Unless another timer has taken the place of this one.
        if self.outbox_armed.is_none_or(|at| at <= self.now) {
            self.outbox_armed = None;
        }
    }

    /// Milliseconds since 1970 by which the deadlines of messages go.
    fn outbox_ms(&self) -> u64 {
        self.shared.queue_ms(self.now)
    }
}

/// About as many bytes as it takes in a frame.
fn weight(letter: &DeadLetter) -> usize {
    let conversation = letter.conversation_id.as_ref().map_or(0, String::len);
    256 + letter.from.len() + letter.content_type.len() + conversation + letter.reason.len()
}

fn ids(letters: DeadOnes) -> Option<BTreeSet<Uuid>> {
    match letters {
        DeadOnes::All => None,
        DeadOnes::These(ids) => Some(ids.into_iter().collect()),
    }
}
