//! The rows of the core's own tables that a group of batches changes: worked out in memory, written once.
//!
//! The batches of a group change some rows again and again, such as that of the actor whose writes they are, and each batch is
//! all or nothing. So the bounds are held, the tallies kept and a refused batch taken back here, without a
//! word to SQLite beyond what it has under each key; in the end every row is written once, in order of the keys. The
//! transaction makes all of it visible at one moment, so nobody can tell the difference.
//!
//! It begins and commits no transaction, and knows no other change than that of a row.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::records::Refused;
use super::tables::{self, Found, Tallies};
use crate::core::contract::Table;
use crate::core::limits;

/// What a group makes of the rows, so far.
///
/// Order of calls: for each batch [`begin_batch`](Self::begin_batch), its changes, and [`take_back`](Self::take_back) if one of
/// them is refused; then [`write`](Self::write), once.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    /// As they are on the disk.
    stored: Tallies,
    /// With everything that is planned.
    tallies: Tallies,
    planned: BTreeMap<Place<'a>, Planned<'a>>,
    /// The tallies before the batch under way, and what was planned then where it has changed something.
    before_batch: (Tallies, Vec<(Place<'a>, Option<Planned<'a>>)>),
}

/// Where a row is.
type Place<'a> = (Table, &'a [u8]);

/// What is known of a row, and what is to be done to it.
#[derive(Debug, Clone, Copy)]
struct Planned<'a> {
    /// Whether there is one on the disk.
    is_stored: bool,
    /// The row as it is with what is planned.
    found: Option<Found>,
    plan: Plan<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Plan<'a> {
    Leave,
    Put(&'a [u8]),
    Delete,
}

impl<'a> Rows<'a> {
    /// Nothing is planned yet.
    pub(super) fn new(connection: &Connection) -> rusqlite::Result<Self> {
        let stored = Tallies::read(connection)?;
        let before_batch = (stored, Vec::new());
        Ok(Self { stored, tallies: stored, planned: BTreeMap::new(), before_batch })
    }

    /// What follows belongs together, until the next call.
    pub(super) fn begin_batch(&mut self) {
        self.before_batch.0 = self.tallies;
        self.before_batch.1.clear();
    }

    /// The batch under way is refused: all is as it was before it. A [`clear`](Self::clear) of it has to be rolled back
    /// in the database as well.
    pub(super) fn take_back(&mut self) {
        self.tallies = self.before_batch.0;
        for (place, planned) in self.before_batch.1.drain(..).rev() {
            match planned {
                Some(planned) => self.planned.insert(place, planned),
                None => self.planned.remove(&place),
            };
        }
    }

    /// Adds or replaces a row, unless it or the table would be too large.
    pub(super) fn put(
        &mut self,
        connection: &Connection,
        table: Table,
        key: &'a [u8],
        row: &'a [u8],
    ) -> rusqlite::Result<Result<(), Refused>> {
        if key.len() > limits::STORE_KEY_BYTES_MAX || row.len() > limits::STORE_ROW_BYTES_MAX {
            return Ok(Err(tables::too_large(table, key, row)));
        }
        let known = self.look_up(connection, (table, key))?;
        let found = Found::of(table, key, row);
        if !self.tallies.exchange(table, known.found, Some(found)) {
            return Ok(Err(tables::full(table)));
        }
        self.plan((table, key), Planned { found: Some(found), plan: Plan::Put(row), ..known });
        Ok(Ok(()))
    }

    /// Removes a row, if it is there.
    pub(super) fn delete(
        &mut self,
        connection: &Connection,
        table: Table,
        key: &'a [u8],
    ) -> rusqlite::Result<()> {
        let known = self.look_up(connection, (table, key))?;
        self.tallies.exchange(table, known.found, None);
        let plan = if known.is_stored { Plan::Delete } else { Plan::Leave };
        self.plan((table, key), Planned { found: None, plan, ..known });
        Ok(())
    }

    /// Removes all rows of a table, those on the disk at once.
    pub(super) fn clear(&mut self, connection: &Connection, table: Table) -> rusqlite::Result<()> {
        tables::clear(connection, table)?;
        self.tallies.clear(table);
        let (gone, left) = std::mem::take(&mut self.planned).into_iter().partition(|((t, _), _)| *t == table);
        self.planned = left;
        let gone: BTreeMap<_, _> = gone;
        self.before_batch.1.extend(gone.into_iter().map(|(place, planned)| (place, Some(planned))));
        Ok(())
    }

    /// Writes what is planned, with the tallies.
    pub(super) fn write(self, connection: &Connection) -> rusqlite::Result<()> {
        for ((table, key), planned) in &self.planned {
            match (planned.plan, planned.found) {
                (Plan::Put(row), Some(found)) => tables::put(connection, *table, key, row, found)?,
                (Plan::Delete, _) => tables::delete(connection, *table, key)?,
                (Plan::Leave, _) | (Plan::Put(_), None) => {}
            }
        }
        self.tallies.write(&self.stored, connection)
    }

    fn look_up(&self, connection: &Connection, place: Place<'a>) -> rusqlite::Result<Planned<'a>> {
        if let Some(planned) = self.planned.get(&place) {
            return Ok(*planned);
        }
        let found = tables::find(connection, place.0, place.1)?;
        Ok(Planned { is_stored: found.is_some(), found, plan: Plan::Leave })
    }

    fn plan(&mut self, place: Place<'a>, planned: Planned<'a>) {
        let before = self.planned.insert(place, planned);
        self.before_batch.1.push((place, before));
    }
}
