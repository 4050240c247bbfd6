//! The rows of the queue in the store: MessagePack maps with named fields, so that a later version may add some.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{No, QueuedWrite};
use crate::core::contract::{Change, Table};
use crate::core::limits;
use crate::core::model::{Outcome, Slot, Ticket, TicketState, TicketView};
use crate::core::wire;

const WRITE: u8 = b'w';
const OUTCOME: u8 = b'o';
const BECAME: u8 = b'b';
/// What a write costs besides its texts and bytes: its row's frame, and the bookkeeping in memory.
const OVERHEAD_BYTES: usize = 512;

/// A write that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WriteRow {
    pub(super) key: String,
    value: Option<Bytes>,
    context: Option<Bytes>,
    hlc: u64,
    writer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slot: Option<Slot>,
    queued_at_ms: u64,
    pub(super) deadline_ms: u64,
}

/// What became of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DoneRow {
    key: String,
    queued_at_ms: u64,
    deadline_ms: u64,
    outcome: Outcome,
    /// The oldest is forgotten first.
    pub(super) order: u64,
}

/// One row, read.
#[derive(Debug)]
pub(super) enum Row {
    Write(No, WriteRow),
    Done(No, DoneRow),
    Became(String, Bytes),
}

impl WriteRow {
    pub(super) fn new(write: QueuedWrite, age_ms: u64) -> Self {
        let QueuedWrite { key, value, context, hlc, writer, slot, queued_at_ms, deadline_ms } = write;
        let last_ms = queued_at_ms.saturating_add(age_ms);
        let deadline_ms = deadline_ms.map_or(last_ms, |at| at.min(last_ms));
        Self { key, value, context, hlc, writer, slot, queued_at_ms, deadline_ms }
    }

    pub(super) fn write(&self) -> QueuedWrite {
        let Self { key, value, context, hlc, writer, slot, queued_at_ms, deadline_ms } = self.clone();
        QueuedWrite { key, value, context, hlc, writer, slot, queued_at_ms, deadline_ms: Some(deadline_ms) }
    }

    pub(super) fn bytes(&self) -> usize {
        let of = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        // The key stands in the row and in the index of keys.
        OVERHEAD_BYTES + 2 * self.key.len() + of(&self.value) + of(&self.context) + self.writer.len()
    }

    pub(super) fn view(&self, ticket: Ticket) -> TicketView {
        TicketView {
            ticket,
            key: self.key.clone(),
            queued_at_ms: self.queued_at_ms,
            deadline_ms: self.deadline_ms,
            state: TicketState::Queued,
        }
    }

    pub(super) fn done(&self, outcome: Outcome, order: u64) -> DoneRow {
        let outcome = match outcome {
            Outcome::Rejected { reason } => {
                Outcome::Rejected { reason: reason.chars().take(limits::TICKET_REASON_CHARS_MAX).collect() }
            }
            Outcome::Applied | Outcome::Conflicted | Outcome::Expired => outcome,
        };
        let (queued_at_ms, deadline_ms) = (self.queued_at_ms, self.deadline_ms);
        DoneRow { key: self.key.clone(), queued_at_ms, deadline_ms, outcome, order }
    }
}

impl DoneRow {
    pub(super) fn view(&self, ticket: Ticket) -> TicketView {
        TicketView {
            ticket,
            key: self.key.clone(),
            queued_at_ms: self.queued_at_ms,
            deadline_ms: self.deadline_ms,
            state: TicketState::Done(self.outcome.clone()),
        }
    }
}

pub(super) fn put_write(no: No, row: &WriteRow) -> Change {
    put(numbered(WRITE, no), wire::encode_value(row))
}

pub(super) fn delete_write(no: No) -> Change {
    delete(numbered(WRITE, no))
}

pub(super) fn put_outcome(no: No, row: &DoneRow) -> Change {
    put(numbered(OUTCOME, no), wire::encode_value(row))
}

pub(super) fn delete_outcome(no: No) -> Change {
    delete(numbered(OUTCOME, no))
}

pub(super) fn put_became(key: &str, became: &Bytes) -> Change {
    put(named(BECAME, key), became.clone())
}

pub(super) fn delete_became(key: &str) -> Change {
    delete(named(BECAME, key))
}

/// A row of the store, or `None` when this version does not understand it.
pub(super) fn read(key: &Bytes, row: &Bytes) -> Option<Row> {
    let (kind, name) = key.split_first()?;
    match *kind {
        WRITE => Some(Row::Write(read_number(name)?, wire::decode_value(row).ok()?)),
        OUTCOME => Some(Row::Done(read_number(name)?, wire::decode_value(row).ok()?)),
        BECAME => Some(Row::Became(String::from_utf8(name.to_vec()).ok()?, row.clone())),
        _ => None,
    }
}

fn put(key: Bytes, row: Bytes) -> Change {
    Change::Put { table: Table::Queue, key, row }
}

fn delete(key: Bytes) -> Change {
    Change::Delete { table: Table::Queue, key }
}

/// Big-endian, so that the rows' order is that of the tickets.
fn numbered(kind: u8, (start, number): No) -> Bytes {
    let mut key = BytesMut::with_capacity(17);
    key.put_u8(kind);
    key.put_u64(start);
    key.put_u64(number);
    key.freeze()
}

fn named(kind: u8, name: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + name.len());
    key.put_u8(kind);
    key.put_slice(name.as_bytes());
    key.freeze()
}

fn read_number(name: &[u8]) -> Option<No> {
    let (start, number) = name.split_at_checked(8)?;
    Some((u64::from_be_bytes(start.try_into().ok()?), u64::from_be_bytes(number.try_into().ok()?)))
}
