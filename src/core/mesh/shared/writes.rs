//! Local writes: made, stored, told; queued while there is no majority, and made when there is one again.
//!
//! Every write goes to the disk in one transaction with whatever of other nodes' writes is not there yet, and a
//! replayed one with the outcome of its ticket as well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use super::super::{Mesh, Pending, Requester};
use crate::core::contract::Change;
use crate::core::error::Refusal;
use crate::core::ids::{AgentName, NodeId, NodeKey};
use crate::core::limits;
use crate::core::model::{
    Actor, Clock, Dot, DotRange, Event, Hlc, Mode, Outcome, Slot, Ticket, TicketState, Writer, Writes,
    check_key,
};
use crate::core::queue::{QueuedWrite, Replay};
use crate::core::state::WriteError;
use crate::core::time::Instant;
use crate::core::wire::{Ack, ResponseBody, StateAnswer, StateDelta, decode_value, encode_value};

/// How long other nodes' writes may wait in memory for company on their way to the disk.
const FLUSH_DELAY: Duration = Duration::from_millis(20);
/// How long a write may wait for a quorum to confirm it.
const QUORUM_PATIENCE: Duration = Duration::from_secs(5);

/// A persist of what is shared, and what is done once it is durable.
#[derive(Debug)]
pub(in crate::core::mesh) enum Durable {
    /// A local write, with others' writes that went with it.
    Write {
        dot: Dot,
        flush: Option<u64>,
        ack: Ack,
        marked: bool,
        /// A client that waits, or a ticket that is resolved.
        by: By,
    },
    /// Others' writes.
    Flush {
        token: u64,
        is_repair: bool,
    },
    /// A write that waits for a majority.
    Enqueue {
        ticket: Ticket,
        requester: Requester,
    },
    /// Tickets that have their outcome without a write.
    Resolve {
        tickets: Vec<Ticket>,
    },
    /// Nothing that anybody waits for.
    Leftovers,
    /// Which processes of these nodes were met last.
    Starts {
        keys: BTreeSet<NodeKey>,
    },
    Process,
}

#[derive(Debug)]
pub(in crate::core::mesh) enum By {
    Client(Requester),
    Ticket(Ticket),
    /// An operator who has keys written anew.
    Mending,
    /// The holder of the lease, who gives this slot to somebody.
    Order(AgentName),
    /// The same, of the record of a blueprint.
    Record(AgentName),
    /// The same, who takes back that this node is drained.
    Undrained(NodeId),
    /// A client that changes what should run, by its number.
    Applying(u64),
}

/// A write that somebody wants.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) key: String,
    /// `None` deletes.
    pub(super) value: Option<Bytes>,
    /// What it replaces; `None`: what this node has seen of the key.
    pub(super) context: Option<Clock>,
    pub(super) ack: Ack,
    /// The agent of this node who wants it.
    pub(super) agent: Option<AgentName>,
}

/// A write whose writer has seen what this node has not seen yet.
#[derive(Debug)]
pub(super) struct Awaiting {
    requester: Requester,
    put: Put,
    since: Instant,
}

/// A write that waits until a quorum has it on its disks.
#[derive(Debug)]
pub(super) struct Confirming {
    dot: Dot,
    requester: Requester,
    is_sibling: bool,
    since: Instant,
}

impl Mesh {
    /// A client or an agent writes.
    pub(super) fn put(&mut self, requester: Requester, put: Put) {
        let slot = put.agent.as_ref().map_or(Ok(None), |agent| self.slot_of_writer(agent));
        let slot = match self.check_put(&put.key, put.value.as_ref()).and(slot) {
            Ok(slot) => slot,
            Err(refusal) => return self.answer(requester, Err(refusal)),
        };
        let permissions = self.shared.partition.permissions();
        match permissions.writes {
            Writes::Refuse(barred) => {
                let refusal = Refusal::Barred { node: self.own.clone(), why: barred.to_string() };
                self.answer(requester, Err(refusal));
            }
            Writes::Queue | Writes::Apply if self.is_ahead(&put) => {
                self.await_context(Awaiting { requester, put, since: self.now });
            }
            Writes::Queue => self.enqueue(requester, put, slot),
            Writes::Apply if self.shared.queue.has_queued(&put.key) => self.enqueue(requester, put, slot),
            Writes::Apply if put.value.is_none() && !self.shared.state.would_delete(&put.key) => {
                self.answer(requester, Ok(ResponseBody::State(StateAnswer::Absent)));
            }
            Writes::Apply => {
                let Put { key, value, context, ack, agent: _ } = put;
                let hlc = self.next_hlc();
                let writer = Arc::new(Writer { node: self.own.clone(), slot });
                let made = self.write(&key, value, context.as_ref(), hlc, &writer, vec![]);
                match made {
                    Ok((dot, flush, changes)) => {
                        let by = By::Client(requester);
                        let durable = Durable::Write { dot, flush, ack, marked: permissions.marked, by };
                        self.persist(changes, Pending::Shared(durable));
                    }
                    Err(error) => self.answer(requester, Err(self.refusal(error))),
                }
            }
        }
    }

    fn is_ahead(&self, put: &Put) -> bool {
        put.context.as_ref().is_some_and(|seen| !self.shared.state.clock().covers(seen))
    }

    /// What the writer has seen elsewhere is usually on its way.
    fn await_context(&mut self, write: Awaiting) {
        if self.shared.awaiting.len() >= limits::CONTEXTS_AWAITED_MAX {
            let refusal = self.refusal(WriteError::ContextAhead);
            return self.answer(write.requester, Err(refusal));
        }
        self.shared.awaiting.push_back(write);
    }

    /// Makes the writes whose contexts have come, and refuses those that have waited for too long.
    pub(super) fn put_awaited(&mut self) {
        if self.shared.awaiting.is_empty() {
            return;
        }
        for write in std::mem::take(&mut self.shared.awaiting) {
            if !self.is_ahead(&write.put) {
                self.put(write.requester, write.put);
            } else if self.now.since(write.since) >= limits::CONTEXT_PATIENCE {
                let refusal = self.refusal(WriteError::ContextAhead);
                self.answer(write.requester, Err(refusal));
            } else {
                self.shared.awaiting.push_back(write);
            }
        }
    }

    fn check_put(&self, key: &str, value: Option<&Bytes>) -> Result<(), Refusal> {
        if self.is_leaving() {
            return Err(self.leaving());
        }
        let bad = |code: &str, why: String| Err(Refusal::BadWrite { code: code.to_owned(), why });
        if let Err(why) = check_key(key) {
            return bad("bad_key", why.to_owned());
        }
        if key.starts_with("_mesh/") || key.starts_with("_owned/") {
            return bad(
                "reserved",
                format!(
                    "the key {key:?} is Shoal's own: keys of users do not begin with `_mesh/` or `_owned/`"
                ),
            );
        }
        if let Some(bytes) = value.map(Bytes::len).filter(|bytes| *bytes > limits::STATE_VALUE_BYTES_MAX) {
            return bad("too_large", WriteError::TooLarge { bytes }.to_string());
        }
        Ok(())
    }

    pub(in crate::core::mesh) fn next_hlc(&self) -> Hlc {
        self.shared.state.next_hlc(self.shared.unix_ms(self.now))
    }

    /// Makes a write: its dot, the flush that goes with it, and all that is to be stored in one transaction.
    pub(in crate::core::mesh) fn write(
        &mut self,
        key: &str,
        value: Option<Bytes>,
        context: Option<&Clock>,
        hlc: Hlc,
        writer: &Arc<Writer>,
        more: Vec<Change>,
    ) -> Result<(Dot, Option<u64>, Vec<Change>), WriteError> {
        let (rng, key_of_node) = (&mut self.rng, &self.key);
        self.shared.state.use_actor(|| Actor::fresh(key_of_node, rng.random()));
        if !self.takes_rows() {
            return Err(WriteError::Disk);
        }
        let token = self.shared.token();
        let flushed = self.shared.state.flush(token);
        let mut changes = more;
        let flush = flushed.map(|flushed| {
            changes.extend(flushed.changes);
            flushed.token
        });
        match self.shared.state.write(key, value, context, hlc, writer) {
            Ok(written) => {
                changes.extend(written.changes);
                self.shared.flush_due = None;
                self.shared.writes_made += 1;
                Ok((written.dot, flush, changes))
            }
            Err(error) => {
                if let Some(token) = flush {
                    self.persist(changes, Pending::Shared(Durable::Flush { token, is_repair: false }));
                }
                Err(error)
            }
        }
    }

    /// Keeps a write until this node is among a majority, with what its writer has seen.
    fn enqueue(&mut self, requester: Requester, put: Put, slot: Option<Slot>) {
        let Put { key, value, context, ack: _, agent: _ } = put;
        if !self.takes_rows() {
            return self.answer(requester, Err(self.refusal(WriteError::Disk)));
        }
        let seen = context.unwrap_or_else(|| self.shared.state.seen(&key));
        let unix_ms = self.shared.unix_ms(self.now);
        self.shared.queued_hlc = self.next_hlc().max(self.shared.queued_hlc.next_by(unix_ms));
        let write = QueuedWrite {
            key,
            value,
            context: Some(encode_value(&seen)),
            hlc: self.shared.queued_hlc.0,
            writer: self.own.to_string(),
            slot,
            queued_at_ms: self.shared.queue_ms(self.now),
            deadline_ms: None,
        };
        match self.shared.queue.enqueue(write) {
            Ok((ticket, changes)) => {
                let durable = Durable::Enqueue { ticket, requester };
                self.persist(changes, Pending::Shared(durable));
            }
            Err(full) => {
                let why = full.to_string();
                self.answer(requester, Err(Refusal::BadWrite { code: "full".to_owned(), why }));
            }
        }
    }

    /// Makes the writes that waited, in order and at their pace.
    pub(super) fn replay(&mut self) {
        if self.shared.mode() != Mode::Healthy || !self.takes_rows() {
            return;
        }
        let unix_ms = self.shared.queue_ms(self.now);
        for replay in self.shared.queue.next_batch(self.now, unix_ms) {
            self.replay_one(replay);
        }
    }

    fn replay_one(&mut self, replay: Replay) {
        let Replay { ticket, write, became } = replay;
        let decode = |bytes: &Bytes| decode_value::<Clock>(bytes).ok();
        let mut context = write.context.as_ref().and_then(decode).unwrap_or_default();
        if let Some(became) = became.as_ref().and_then(decode) {
            context.join(&became);
        }
        let writer = self.writer_of(&write);
        let hlc = Hlc(write.hlc);
        if let Some(dot) = self.shared.state.find_write(&write.key, hlc, &writer, write.value.as_ref()) {
            return self.resolve_made(ticket, &write.key, dot);
        }
        if let Some(reason) = write.slot.as_ref().and_then(|slot| self.why_superseded(slot)) {
            return self.resolve_tickets(vec![ticket], &Outcome::Rejected { reason });
        }
        match self.write(&write.key, write.value, Some(&context), hlc, &writer, vec![]) {
            Ok((dot, flush, mut changes)) => {
                let outcome = self.outcome_of_made(&write.key);
                let became = encode_value(&Clock::from_iter([dot]));
                let Some(resolved) = self.shared.queue.resolve(&ticket, outcome, Some(became)) else {
                    tracing::error!(%ticket, "a queued write was made that had its outcome");
                    return;
                };
                changes.extend(resolved);
                let by = By::Ticket(ticket);
                let durable = Durable::Write { dot, flush, ack: Ack::Local, marked: false, by };
                self.persist(changes, Pending::Shared(durable));
            }
            Err(WriteError::ContextAhead | WriteError::Disk | WriteError::Full(_)) => {
                self.shared.queue.put_back(&ticket, self.now);
            }
            Err(error) => {
                let outcome = Outcome::Rejected { reason: error.to_string() };
                self.resolve_tickets(vec![ticket], &outcome);
            }
        }
    }

    fn outcome_of_made(&self, key: &str) -> Outcome {
        let stands_alone = self.shared.state.current_values(key) <= 1;
        if stands_alone { Outcome::Applied } else { Outcome::Conflicted }
    }

    /// A queued write stands already: the disk is an old copy, and what came after the copy has made it.
    fn resolve_made(&mut self, ticket: Ticket, key: &str, dot: Dot) {
        let became = encode_value(&Clock::from_iter([dot]));
        let outcome = self.outcome_of_made(key);
        if let Some(changes) = self.shared.queue.resolve(&ticket, outcome, Some(became)) {
            self.persist(changes, Pending::Shared(Durable::Resolve { tickets: vec![ticket] }));
        }
    }

    /// The disk is an old copy. Which of the queued writes on it were made since nobody can tell, unless they stand: none
    /// is made again.
    pub(super) fn refuse_old_tickets(&mut self) {
        if self.shared.has_left {
            return;
        }
        let first = self.shared.first_start;
        let old = self.shared.queue.tickets().map(|view| view.ticket).filter(|ticket| ticket.start < first);
        let old: Vec<_> = old.collect();
        let mut lost = Vec::new();
        for ticket in old {
            let Some(write) = self.shared.queue.offer(&ticket) else {
                continue;
            };
            let writer = self.writer_of(&write);
            match self.shared.state.find_write(&write.key, Hlc(write.hlc), &writer, write.value.as_ref()) {
                Some(dot) => self.resolve_made(ticket, &write.key, dot),
                None => lost.push(ticket),
            }
        }
        let reason =
            "it was found in an old copy of this node's store and may have been made already: read the key, \
            and write it again if it is missing"
                .to_owned();
        self.resolve_tickets(lost, &Outcome::Rejected { reason });
    }

    /// Who has queued a write.
    fn writer_of(&self, write: &QueuedWrite) -> Arc<Writer> {
        let node = NodeId::new(&write.writer).unwrap_or_else(|_| self.own.clone());
        Arc::new(Writer { node, slot: write.slot.clone() })
    }

    pub(super) fn expire_queued(&mut self) {
        if !self.takes_rows() {
            return;
        }
        let expired = self.shared.queue.expired(self.shared.queue_ms(self.now));
        self.resolve_tickets(expired, &Outcome::Expired);
    }

    fn resolve_tickets(&mut self, tickets: Vec<Ticket>, outcome: &Outcome) {
        for tickets in tickets.chunks(limits::REPLAY_BATCH_MAX) {
            let mut changes = Vec::new();
            let mut resolved = Vec::new();
            for ticket in tickets {
                if let Some(rows) = self.shared.queue.resolve(ticket, outcome.clone(), None) {
                    changes.extend(rows);
                    resolved.push(ticket.clone());
                }
            }
            if !resolved.is_empty() {
                self.persist(changes, Pending::Shared(Durable::Resolve { tickets: resolved }));
            }
        }
    }

    pub(in crate::core::mesh) fn on_durable(&mut self, durable: Durable) {
        match durable {
            Durable::Write { dot, flush, ack, marked, by } => {
                if let Some(token) = flush {
                    self.on_flushed(token, true);
                }
                self.on_write_stored(dot, ack, marked, by);
            }
            Durable::Flush { token, is_repair } => {
                self.shared.flushing &= is_repair;
                self.on_flushed(token, true);
                if is_repair {
                    self.on_disk_well();
                }
            }
            Durable::Enqueue { ticket, requester } => {
                self.shared.queue.handle_stored(&ticket);
                self.answer(requester, Ok(ResponseBody::State(StateAnswer::Queued { ticket })));
            }
            Durable::Resolve { tickets } => tickets.iter().for_each(|ticket| self.on_ticket_done(ticket)),
            Durable::Leftovers | Durable::Starts { .. } => {}
            Durable::Process => self.on_process_stored(),
        }
    }

    pub(in crate::core::mesh) fn on_not_durable(&mut self, durable: Durable, reason: &str) {
        match durable {
            Durable::Write { flush, by, .. } => {
                if let Some(token) = flush {
                    self.shared.state.on_flushed(token, false);
                }
                self.shared.state.on_store_failed();
                match by {
                    By::Client(requester) => self.refuse_for_store(requester, reason),
                    By::Ticket(ticket) => self.shared.queue.handle_not_resolved(&ticket),
                    By::Order(slot) => self.on_order_stored(&slot, false),
                    By::Record(name) => self.on_record_stored(&name, false),
                    By::Undrained(node) => self.on_undrained_stored(&node, false),
                    By::Applying(number) => self.on_applying_stored(number, false),
                    By::Mending => {
                        let (node, reason) = (self.own.clone(), reason.to_owned());
                        self.on_written_anew(Err(Refusal::StoreFailed { node, reason }));
                    }
                }
            }
            Durable::Flush { token, is_repair } => {
                self.shared.flushing &= is_repair;
                self.shared.state.on_flushed(token, false);
            }
            Durable::Enqueue { ticket, requester } => {
                self.shared.queue.handle_not_stored(&ticket);
                self.refuse_for_store(requester, reason);
            }
            Durable::Resolve { tickets } => {
                tickets.iter().for_each(|ticket| self.shared.queue.handle_not_resolved(ticket));
            }
            Durable::Starts { keys } => self.on_starts_not_stored(keys),
            Durable::Leftovers | Durable::Process => {}
        }
        self.on_disk_failed(reason);
    }

    fn on_write_stored(&mut self, dot: Dot, ack: Ack, marked: bool, by: By) {
        let stored = self.shared.state.on_stored(dot);
        let is_sibling = stored.is_sibling;
        self.tell_change(&stored.update.key);
        let range = DotRange { actor: dot.actor, from: dot.n, upto: dot.n };
        let (base, _) = self.base();
        let delta = StateDelta {
            updates: vec![stored.update],
            closes: vec![range],
            base,
            hops: super::agreement::HOPS_MAX,
            ack: ack == Ack::Quorum,
        };
        self.spread_delta(delta, None);
        match by {
            By::Client(requester) => match ack {
                Ack::Local => {
                    let voters = u32::from(self.votes());
                    let answer = StateAnswer::Written { dot, is_sibling, marked, voters };
                    self.answer(requester, Ok(ResponseBody::State(answer)));
                }
                Ack::Quorum => {
                    let since = self.now;
                    self.shared.confirming.push_back(Confirming { dot, requester, is_sibling, since });
                    self.note_confirmations();
                }
            },
            By::Ticket(ticket) => self.on_ticket_done(&ticket),
            By::Mending => self.on_written_anew(Ok(())),
            By::Order(slot) => self.on_order_stored(&slot, true),
            By::Record(name) => self.on_record_stored(&name, true),
            By::Undrained(node) => self.on_undrained_stored(&node, true),
            By::Applying(number) => self.on_applying_stored(number, true),
        }
    }

    fn on_ticket_done(&mut self, ticket: &Ticket) {
        let Some(view) = self.shared.queue.handle_resolved(ticket) else {
            return;
        };
        let TicketState::Done(outcome) = view.state else {
            return;
        };
        let reason = match &outcome {
            Outcome::Rejected { reason } => Some(reason.clone()),
            Outcome::Applied | Outcome::Conflicted | Outcome::Expired => None,
        };
        let outcome = outcome.as_str().to_owned();
        self.event(Event::Ticket { ticket: view.ticket, key: view.key, outcome, reason });
        self.view_changed = true;
    }

    fn votes(&self) -> bool {
        self.shared.register.roster().is_some_and(|roster| roster.is_voter(&self.own))
    }

    /// Who has which of the writes that wait for a quorum.
    pub(super) fn note_confirmations(&mut self) {
        let confirming = std::mem::take(&mut self.shared.confirming);
        for write in confirming {
            let have = self.confirmed_by(write.dot);
            let Some(roster) = self.shared.register.roster() else {
                self.shared.confirming.push_back(write);
                continue;
            };
            if !roster.is_quorum(&have) {
                self.shared.confirming.push_back(write);
                continue;
            }
            let voters = have.len() as u32;
            let Confirming { dot, requester, is_sibling, .. } = write;
            let answer = StateAnswer::Written { dot, is_sibling, marked: false, voters };
            self.answer(requester, Ok(ResponseBody::State(answer)));
        }
        self.tend_farewell();
    }

    fn confirmed_by(&self, dot: Dot) -> BTreeSet<NodeId> {
        let voters = self.shared.register.roster().into_iter().flat_map(|roster| roster.voters());
        let has = |node: &&NodeId| match **node == self.own {
            true => self.shared.state.durable().contains(dot),
            false => self.shared.floors.has(node, dot),
        };
        voters.filter(has).cloned().collect()
    }

    pub(super) fn expire_confirming(&mut self) {
        let patience = QUORUM_PATIENCE;
        while self.shared.confirming.front().is_some_and(|w| self.now.since(w.since) >= patience) {
            let Some(write) = self.shared.confirming.pop_front() else {
                return;
            };
            let voters = self.confirmed_by(write.dot).len() as u32;
            let quorum = self.shared.register.roster().map_or(0, crate::core::model::Roster::quorum) as u32;
            let refusal = Refusal::Indeterminate { node: self.own.clone(), voters, quorum };
            self.answer(write.requester, Err(refusal));
        }
    }

    /// Something of another node was taken in: it goes to the disk soon.
    pub(super) fn flush_soon(&mut self, after: Duration) {
        if self.shared.state.needs_flush() {
            let at = self.now + after;
            self.shared.flush_due = Some(self.shared.flush_due.map_or(at, |due| due.min(at)));
        }
    }

    pub(super) fn flush_later(&mut self) {
        self.flush_soon(FLUSH_DELAY);
    }

    pub(super) fn flush_if_due(&mut self) {
        let is_due = self.shared.flush_due.is_some_and(|due| due <= self.now);
        if !is_due || self.shared.flushing || !self.takes_rows() {
            return;
        }
        self.shared.flush_due = None;
        let token = self.shared.token();
        if let Some(flushed) = self.shared.state.flush(token) {
            self.shared.flushing = true;
            let durable = Durable::Flush { token: flushed.token, is_repair: false };
            self.persist(flushed.changes, Pending::Shared(durable));
        }
    }

    /// Why a write is not made, as whoever asked for it is told.
    pub(super) fn refusal(&self, error: WriteError) -> Refusal {
        let why = error.to_string();
        let code = match error {
            WriteError::Key(_) => "bad_key",
            WriteError::TooLarge { .. } => "too_large",
            WriteError::ContextAhead => "context_ahead",
            WriteError::TooManySiblings => "too_many_siblings",
            WriteError::Superseded { .. } => "superseded",
            WriteError::Disk => {
                let reason = self.disk_failure().map_or(why, str::to_owned);
                return Refusal::StoreFailed { node: self.own.clone(), reason };
            }
            WriteError::Full(_) => "full",
        };
        Refusal::BadWrite { code: code.to_owned(), why }
    }

    fn on_flushed(&mut self, token: u64, stored: bool) {
        self.shared.state.on_flushed(token, stored);
        if self.shared.state.needs_flush() && !self.shared.acks_due.is_empty() {
            // What they wait for may not have been among it.
            return self.flush_soon(Duration::ZERO);
        }
        let due: Vec<NodeKey> = std::mem::take(&mut self.shared.acks_due).into_iter().collect();
        for key in due {
            self.send_ack(&key);
        }
        self.flush_later();
    }
}
