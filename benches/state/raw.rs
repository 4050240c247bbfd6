//! SQLite alone, with the store's settings and a table like the store's: what a disk and a B-tree take.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior, params};

/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 128;
/// Keys that writes go to.
pub(crate) const KEYS: u64 = 10_000;

/// The key of the `n`-th write: far from that of the one before, as those of writers who do not know of each other.
pub(crate) fn key(n: u64) -> String {
    format!("orders/{:05}", n.wrapping_mul(2_654_435_761) % KEYS)
}

/// Its value, unlike any other one's: SQLite does not write a row that is already so.
pub(crate) fn value(n: u64) -> Vec<u8> {
    let mut value = format!("{n:016}").into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value
}

/// A database of its own.
pub(crate) struct Raw(Connection);

impl Raw {
    pub(crate) fn open(file: &Path) -> Self {
        let connection = Connection::open(file).expect("a database");
        connection
            .execute_batch(
                "PRAGMA journal_mode = wal; PRAGMA synchronous = FULL;
                 CREATE TABLE state (key BLOB PRIMARY KEY, row BLOB NOT NULL) STRICT, WITHOUT ROWID;",
            )
            .expect("a schema");
        Self(connection)
    }

    /// Writes the rows from `first` on in one transaction, and waits for the disk.
    pub(crate) fn commit(&mut self, first: u64, rows: u64) -> Duration {
        let begun = Instant::now();
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate).expect("begins");
        for n in first..first + rows {
            let sql = "REPLACE INTO state VALUES (?1, ?2)";
            let mut replace = transaction.prepare_cached(sql).expect("valid SQL");
            replace.execute(params![key(n).as_bytes(), value(n)]).expect("a row");
        }
        transaction.commit().expect("the disk takes it");
        begun.elapsed()
    }
}
