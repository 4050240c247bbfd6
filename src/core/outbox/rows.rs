//! The rows of the outbox in the store: MessagePack maps with named fields, so that a later version may add some.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::core::contract::{Change, Table};
use crate::core::model::{DeadLetter, Message};
use crate::core::wire;

const LETTER: u8 = b'm';
const DEAD: u8 = b'd';
/// What a message costs besides its texts and content: its row's frame, and the bookkeeping in memory.
const OVERHEAD_BYTES: usize = 512;

/// A message that is to be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LetterRow {
    pub(super) message: Message,
    pub(super) accepted_at_ms: u64,
    pub(super) deadline_at_ms: u64,
}

/// One that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DeadRow {
    pub(super) letter: LetterRow,
    pub(super) died_at_ms: u64,
    pub(super) tries: u32,
    pub(super) reason: String,
}

/// One row, read.
#[derive(Debug)]
pub(super) enum Row {
    Letter(u64, LetterRow),
    Dead(u64, DeadRow),
}

impl LetterRow {
    pub(super) fn bytes(&self) -> usize {
        let message = &self.message;
        let texts = message.from.len()
            + message.content_type.len()
            + message.conversation_id.as_ref().map_or(0, String::len)
            + message.traceparent.as_ref().map_or(0, String::len);
        let extensions = message.extensions.values().map(Bytes::len).sum::<usize>();
        OVERHEAD_BYTES + message.content.len() + texts + extensions
    }
}

impl DeadRow {
    pub(super) fn view(&self) -> DeadLetter {
        let message = &self.letter.message;
        DeadLetter {
            id: message.id,
            from: message.from.clone(),
            to: message.to.clone(),
            conversation_id: message.conversation_id.clone(),
            content_type: message.content_type.clone(),
            bytes: message.content.len() as u64,
            accepted_at_ms: self.letter.accepted_at_ms,
            died_at_ms: self.died_at_ms,
            tries: self.tries,
            reason: self.reason.clone(),
        }
    }
}

pub(super) fn put_letter(number: u64, row: &LetterRow) -> Change {
    Change::Put { table: Table::Outbox, key: key(LETTER, number), row: wire::encode_value(row) }
}

pub(super) fn delete_letter(number: u64) -> Change {
    Change::Delete { table: Table::Outbox, key: key(LETTER, number) }
}

pub(super) fn put_dead(number: u64, row: &DeadRow) -> Change {
    Change::Put { table: Table::Outbox, key: key(DEAD, number), row: wire::encode_value(row) }
}

pub(super) fn delete_dead(number: u64) -> Change {
    Change::Delete { table: Table::Outbox, key: key(DEAD, number) }
}

/// A row of the store, or `None` when this version does not understand it.
pub(super) fn read(key: &Bytes, row: &Bytes) -> Option<Row> {
    let number = number(key)?;
    match *key.first()? {
        LETTER => Some(Row::Letter(number, wire::decode_value(row).ok()?)),
        DEAD => Some(Row::Dead(number, wire::decode_value(row).ok()?)),
        _ => None,
    }
}

/// The number in the key of a row, whatever the row says.
pub(super) fn number(key: &[u8]) -> Option<u64> {
    let (_, number) = key.split_first()?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

/// Big-endian, so that the rows' order is that in which the messages came.
fn key(kind: u8, number: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(9);
    key.put_u8(kind);
    key.put_u64(number);
    key.freeze()
}
