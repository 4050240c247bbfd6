//! The writer thread: takes everything that waits, commits it in one transaction, and reports each
//! batch in order. While one group is being synchronised to the disk the next one gathers; when many were in it, the
//! writer waits for their next ones for a small share of a commit (`queue`).
//!
//! # States of its connection
//!
//! `Sound` -> a commit fails and leaves the disk in doubt -> `InDoubt` -> the log is emptied -> the
//! connection is replaced -> `Sound`. While the log cannot be emptied, or the database cannot be opened again
//! (`Closed`), every group fails with that reason, and each new group tries once more. A full disk or a busy
//! database is no doubt: the transaction is rolled back and the next one may work.
//!
//! It never repeats a failed commit by itself: whoever asked hears of it and decides.
//!
//! Between the groups it looks now and then whether the database and its log are still in their place. When they are
//! not for [`limits::STORE_GONE_AFTER`], it says so once: what is in a file without a name ends with the process.
//!
//! # What is built on what
//!
//! Batches that touch the core's own tables are ordered: one may be built on any before it, whose outcome its maker did
//! not know yet. So after one has failed, in whichever way (the disk, a refusal, a full queue), those that follow
//! fail as well without being tried, until one begins with [`Change::Afresh`]. Other batches stand for themselves.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use rusqlite::Transaction;

use super::Outcome;
use super::database::{Database, IfAbsent};
use super::error::StoreError;
use super::history::{self, Row};
use super::queue::{Company, Entry, Queue, Taken};
use super::records::{self, Refused};
use super::rows::Rows;
use crate::core::contract::Change;
use crate::core::ids::PersistNo;
use crate::core::limits;
use crate::node::crash_point::CrashPoint;

/// Owns the only connection that writes.
pub(super) struct Writer<F> {
    file: PathBuf,
    state: State,
    looked: Instant,
    /// Since when the files are not in their place.
    missing_since: Option<Instant>,
    /// A batch that touches the core's tables has failed, and none has begun afresh since.
    has_failed: bool,
    on_outcomes: F,
}

/// What is known of the connection.
enum State {
    /// It may be written.
    Sound(Database),
    /// A commit failed in a way that leaves open what of it is in the log.
    InDoubt(Database),
    /// There is none.
    Closed,
}

impl<F: Fn(Vec<Outcome>)> Writer<F> {
    pub(super) fn new(file: PathBuf, database: Database, on_outcomes: F) -> Self {
        let state = State::Sound(database);
        Self { file, state, looked: Instant::now(), missing_since: None, has_failed: false, on_outcomes }
    }

    /// Works until the queue is closed and empty, then closes the database.
    pub(super) fn run(mut self, queue: &Queue) {
        let mut company = Company::none();
        while let Some(Taken { entries, history }) = queue.take(company, limits::STORE_LOOK_INTERVAL) {
            if self.looked.elapsed() >= limits::STORE_LOOK_INTERVAL {
                self.look(queue);
            }
            company = Company::none();
            // Commits first: nobody waits for history.
            if !entries.is_empty() {
                let commits = entries.len();
                let began = Instant::now();
                let results = self.write_group(&entries);
                let commit_time = began.elapsed();
                // Who waits now, and who is about to be answered, may all come together next time.
                let expected = commits + queue.waiting_entries();
                self.report(entries, results);
                company = Company::as_before(expected, commit_time);
            }
            if !history.is_empty() {
                let lost = !self.keep_history(&history);
                queue.history_done(history.len(), lost);
            }
        }
        match self.state {
            State::Sound(database) | State::InDoubt(database) => database.close(),
            State::Closed => {}
        }
    }

    /// Looks whether the files are where they were, and says when they are gone.
    fn look(&mut self, queue: &Queue) {
        self.looked = Instant::now();
        let in_place = match &self.state {
            State::Sound(database) | State::InDoubt(database) => database.check_in_place(),
            // It is looked for by its name when it is opened again.
            State::Closed => Ok(()),
        };
        let Err(error) = in_place else {
            self.missing_since = None;
            return;
        };
        let since = *self.missing_since.get_or_insert(self.looked);
        if self.looked - since >= limits::STORE_GONE_AFTER {
            queue.tell_gone(&error.to_string());
        }
    }

    /// Reports every number of a group, in order.
    fn report(&self, group: VecDeque<Entry>, results: Result<Vec<Result<(), Refused>>, StoreError>) {
        let mut results = match results {
            Ok(results) => results.into_iter(),
            Err(error) => {
                tracing::warn!(%error, "the store did not take a group of changes");
                let failed =
                    |entry: &Entry| matches!(entry, Entry::Commit(..)).then(|| Err(error.to_string()));
                group.iter().filter_map(failed).collect::<Vec<_>>().into_iter()
            }
        };
        // Together, so that whoever waits for them is woken once.
        let mut outcomes = Vec::with_capacity(group.len());
        for entry in group {
            match entry {
                Entry::Commit(no, _) => {
                    outcomes.push((no, results.next().expect("write_group gives one result per commit")));
                }
                Entry::Refused { numbers, .. } => {
                    for no in numbers {
                        outcomes.push((PersistNo(no), Err(queue_full())));
                        if outcomes.len() >= limits::STORE_QUEUE_CHANGES_MAX {
                            (self.on_outcomes)(std::mem::take(&mut outcomes));
                        }
                    }
                }
            }
        }
        if !outcomes.is_empty() {
            (self.on_outcomes)(outcomes);
        }
    }

    /// Commits a group in one transaction: one result per commit in it, or the error that all of them share.
    fn write_group(&mut self, group: &VecDeque<Entry>) -> Result<Vec<Result<(), Refused>>, StoreError> {
        let result = self.try_group(group);
        metrics::gauge!("shoal_store_failing").set(f64::from(u8::from(result.is_err())));
        match &result {
            Ok((_, has_failed)) => self.has_failed = *has_failed,
            // Also one that began afresh has failed.
            Err(_) => self.has_failed |= group.iter().any(Entry::touches_table),
        }
        result.map(|(results, _)| results)
    }

    /// The results, and whether what follows is built on something that failed.
    fn try_group(&mut self, group: &VecDeque<Entry>) -> Result<(Vec<Result<(), Refused>>, bool), StoreError> {
        let has_failed = self.has_failed;
        if group.iter().all(|entry| matches!(entry, Entry::Refused { .. })) {
            return Ok((Vec::new(), has_failed || group.iter().any(Entry::touches_table)));
        }
        let database = self.sound_database()?;
        let began = Instant::now();
        CrashPoint::PreBegin.reached();
        let written = database.write(|transaction| {
            let written = write_entries(transaction, group, has_failed);
            CrashPoint::InTransaction.reached();
            written
        });
        match written {
            Ok(written) => {
                CrashPoint::PostCommit.reached();
                settle_mesh(database, group);
                metrics::histogram!("shoal_store_commit_seconds").record(began.elapsed().as_secs_f64());
                metrics::histogram!("shoal_store_commit_batches").record(group.len() as f64);
                Ok(written)
            }
            Err(error) => {
                if error.leaves_the_disk_in_doubt() {
                    self.doubt();
                }
                Err(error)
            }
        }
    }

    /// Whether the entries were written. Those that were not are gone: they are not worth a second try.
    fn keep_history(&mut self, rows: &[Row]) -> bool {
        let written = self.sound_database().and_then(|database| {
            database.write_unsynchronised(|transaction| history::write(transaction, rows))
        });
        let Err(error) = written else {
            return true;
        };
        if error.leaves_the_disk_in_doubt() {
            self.doubt();
        }
        metrics::counter!("shoal_history_dropped_total").increment(rows.len() as u64);
        tracing::warn!(%error, entries = rows.len(), "entries of the history are lost");
        false
    }

    fn sound_database(&mut self) -> Result<&mut Database, StoreError> {
        if let State::InDoubt(database) = &self.state {
            database.empty_log()?;
            self.state = State::Closed;
        }
        if let State::Closed = self.state {
            self.state = State::Sound(Database::open(&self.file, IfAbsent::Refuse)?);
            tracing::info!("the store works again");
        }
        match &mut self.state {
            State::Sound(database) => Ok(database),
            State::InDoubt(_) | State::Closed => unreachable!("both were resolved above"),
        }
    }

    fn doubt(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Sound(database) | State::InDoubt(database) => State::InDoubt(database),
            State::Closed => State::Closed,
        };
    }
}

/// Which mesh a node belongs to does not stay in the log alone: one whose log was removed by mistake would take itself
/// for new, and begin another mesh where it is told to begin one.
fn settle_mesh(database: &Database, group: &VecDeque<Entry>) {
    let is_told = |entry: &Entry| match entry {
        Entry::Commit(_, changes) => changes.iter().any(|change| matches!(change, Change::MeshId(_))),
        Entry::Refused { .. } => false,
    };
    if group.iter().any(is_told)
        && let Err(error) = database.empty_log()
    {
        tracing::debug!(%error, "the mesh's id is in the log alone until that is emptied");
    }
}

/// Writes a group inside the transaction. One result per commit, and whether what follows is built on something
/// that failed.
fn write_entries(
    transaction: &mut Transaction<'_>,
    group: &VecDeque<Entry>,
    mut has_failed: bool,
) -> rusqlite::Result<(Vec<Result<(), Refused>>, bool)> {
    let mut rows = Rows::new(transaction)?;
    let mut results = Vec::with_capacity(group.len());
    let mut has_rows = false;
    for entry in group {
        let Entry::Commit(_, changes) = entry else {
            has_failed |= entry.touches_table();
            continue;
        };
        let is_ordered = entry.touches_table();
        if changes.first() == Some(&Change::Afresh) {
            has_failed = false;
        }
        if is_ordered && has_failed {
            results.push(Err(built_on_failed()));
            continue;
        }
        let result = records::write_batch(transaction, &mut rows, changes)?;
        has_failed |= is_ordered && result.is_err();
        has_rows |= is_ordered && result.is_ok();
        results.push(result);
    }
    rows.write(transaction)?;
    if has_rows {
        records::forget_rebuilt(transaction)?;
    }
    Ok((results, has_failed))
}

fn built_on_failed() -> Refused {
    "an earlier change of the same tables failed, and this one may be built on it: begin afresh".to_owned()
}

fn queue_full() -> String {
    format!(
        "the store's queue is full ({} changes or {} bytes wait for the disk): slow down and try again",
        limits::STORE_QUEUE_CHANGES_MAX,
        limits::STORE_QUEUE_BYTES_MAX
    )
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::Path;
    use std::rc::Rc;

    use super::*;
    use crate::core::contract::Table;
    use crate::core::ids::AgentName;
    use crate::core::model::{AgentSource, AgentSpec, ProcessProtocol};
    use crate::node::store::NodeKeys;

    type Outcomes = Rc<RefCell<Vec<(u64, Result<(), String>)>>>;

    pub(in crate::node::store) trait Report: Fn(Vec<Outcome>) {}
    impl<F: Fn(Vec<Outcome>)> Report for F {}

    fn open(directory: &Path) -> (Writer<impl Report + use<>>, Outcomes) {
        let file = directory.join("shoal.db");
        let database = Database::open(&file, IfAbsent::Create).expect("a new database");
        let outcomes = Outcomes::default();
        let theirs = Rc::clone(&outcomes);
        let report = move |outcomes: Vec<Outcome>| {
            theirs.borrow_mut().extend(outcomes.into_iter().map(|(no, result)| (no.0, result)));
        };
        (Writer::new(file, database, report), outcomes)
    }

    impl<F: Report> Writer<F> {
        fn commit_group(&mut self, group: VecDeque<Entry>) {
            let results = self.write_group(&group);
            self.report(group, results);
        }
    }

    fn agent(name: &str, argument_bytes: usize) -> Change {
        let source = AgentSource::Process {
            protocol: ProcessProtocol::Stdio,
            command: "cat".to_owned(),
            args: vec!["x".repeat(argument_bytes)],
        };
        Change::Agent(AgentSpec::new(AgentName::new(name).expect("valid"), source))
    }

    fn group(batches: Vec<(u64, Vec<Change>)>) -> VecDeque<Entry> {
        batches.into_iter().map(|(no, changes)| Entry::Commit(PersistNo(no), changes)).collect()
    }

    fn stored_agents(writer: &mut Writer<impl Report>) -> Vec<String> {
        let keys = || NodeKeys { reset_key: [0; 64], connection_id_key: [0; 8] };
        let started = writer.sound_database().expect("sound").write(|t| records::begin_start(t, keys));
        let (remembered, _) = started.expect("readable").expect("numbers are left");
        remembered.agents.iter().map(|a| a.name.to_string()).collect()
    }

    #[test]
    fn a_full_disk_fails_the_group_keeps_what_is_stored_and_is_over_when_space_returns() {
        let directory = tempfile::tempdir().expect("directory");
        let (mut writer, outcomes) = open(directory.path());
        let pages_max = |writer: &mut Writer<_>, pages: u32| {
            let connection = writer.sound_database().expect("sound").connection();
            let set =
                connection.pragma_update_and_check(None, "max_page_count", pages, |r| r.get::<_, u32>(0));
            set.expect("a limit");
        };
        writer.commit_group(group(vec![(1, vec![agent("before", 10)])]));
        pages_max(&mut writer, 12);
        writer.commit_group(group(vec![
            (2, vec![agent("small", 10)]),
            (3, vec![agent("large", 30_000), agent("larger", 30_000)]),
        ]));
        assert!(matches!(writer.state, State::Sound(_)), "nothing is in doubt after a full disk");
        assert_eq!(stored_agents(&mut writer), ["before"]);
        pages_max(&mut writer, 1000);
        writer.commit_group(group(vec![(4, vec![agent("after", 30_000)])]));

        assert_eq!(stored_agents(&mut writer), ["after", "before"]);
        let outcomes = outcomes.borrow();
        assert_eq!([outcomes[0].clone(), outcomes[3].clone()], [(1, Ok(())), (4, Ok(()))]);
        for (no, outcome) in &outcomes[1..3] {
            assert!(
                outcome.as_ref().is_err_and(|reason| reason.contains("is full: make room")),
                "{no} {outcome:?}"
            );
        }
    }

    #[test]
    fn a_batch_that_is_refused_changes_nothing_and_does_not_harm_its_neighbours() {
        let directory = tempfile::tempdir().expect("directory");
        let (mut writer, outcomes) = open(directory.path());
        let absurd = Change::StartAtLeast(u64::MAX);
        writer.commit_group(group(vec![
            (1, vec![agent("a", 1)]),
            (2, vec![agent("b", 1), absurd, agent("c", 1)]),
            (3, vec![agent("d", 1)]),
        ]));
        assert_eq!(stored_agents(&mut writer), ["a", "d"]);
        let outcomes = outcomes.borrow();
        let ok: Vec<_> = outcomes.iter().map(|(no, outcome)| (*no, outcome.is_ok())).collect();
        assert_eq!(ok, [(1, true), (2, false), (3, true)]);
    }

    #[test]
    fn one_agent_more_than_a_node_can_have_is_refused_and_a_known_one_is_still_replaced() {
        let directory = tempfile::tempdir().expect("directory");
        let (mut writer, outcomes) = open(directory.path());
        let many = (0..limits::AGENTS_PER_NODE_MAX).map(|n| agent(&format!("a{n:05}"), 1)).collect();
        writer.commit_group(group(vec![
            (1, many),
            (2, vec![agent("one-more", 1)]),
            (3, vec![agent("a00000", 2)]),
        ]));
        assert_eq!(stored_agents(&mut writer).len(), limits::AGENTS_PER_NODE_MAX);
        let ok: Vec<_> = outcomes.borrow().iter().map(|(_, outcome)| outcome.is_ok()).collect();
        assert_eq!(ok, [true, false, true]);
    }

    fn row(key: &str) -> Change {
        Change::Put { table: Table::State, key: key.to_owned().into(), row: "row".into() }
    }

    fn stored_rows(writer: &mut Writer<impl Report>) -> Vec<String> {
        let keys = || NodeKeys { reset_key: [0; 64], connection_id_key: [0; 8] };
        let started = writer.sound_database().expect("sound").write(|t| records::begin_start(t, keys));
        let (mut remembered, _) = started.expect("readable").expect("numbers are left");
        let rows = remembered.tables.remove(&Table::State).unwrap_or_default();
        rows.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
    }

    fn outcomes_of(outcomes: &Outcomes) -> Vec<(u64, bool)> {
        outcomes.borrow_mut().drain(..).map(|(no, outcome)| (no, outcome.is_ok())).collect()
    }

    #[test]
    fn what_is_built_on_a_refused_batch_fails_until_one_begins_afresh_and_other_batches_do_not() {
        let directory = tempfile::tempdir().expect("directory");
        let (mut writer, outcomes) = open(directory.path());
        let absurd = Change::StartAtLeast(u64::MAX);
        writer.commit_group(group(vec![
            (1, vec![row("a")]),
            (2, vec![row("b"), absurd.clone()]),
            (3, vec![row("c")]),
            (4, vec![agent("d", 1)]),
        ]));
        writer.commit_group(group(vec![(5, vec![row("e")]), (6, vec![row("f"), Change::Afresh])]));
        writer.commit_group(group(vec![
            (7, vec![Change::Delete { table: Table::State, key: "a".into() }]),
            (8, vec![Change::Afresh, row("g")]),
            (9, vec![row("h")]),
        ]));
        let expected = [true, false, false, true, false, false, false, true, true];
        assert_eq!(outcomes_of(&outcomes), (1..).zip(expected).collect::<Vec<_>>());
        assert_eq!(stored_rows(&mut writer), ["a", "g", "h"]);

        writer.commit_group(group(vec![(10, vec![agent("i", 1), absurd]), (11, vec![row("j")])]));
        assert_eq!(outcomes_of(&outcomes), [(10, false), (11, true)], "10 touched no table");
        writer.commit_group(group(vec![
            (12, vec![Change::Afresh, Change::StartAtLeast(u64::MAX)]),
            (13, vec![row("k")]),
        ]));
        assert_eq!(outcomes_of(&outcomes), [(12, false), (13, false)], "a failed fresh beginning is none");
    }

    #[test]
    fn a_refused_batch_of_rows_leaves_those_of_its_group_and_of_the_disk_as_they_were() {
        let directory = tempfile::tempdir().expect("directory");
        let (mut writer, outcomes) = open(directory.path());
        let put = |key: &str, row: &str| Change::Put {
            table: Table::State,
            key: key.to_owned().into(),
            row: row.to_owned().into(),
        };
        let delete = |key: &str| Change::Delete { table: Table::State, key: key.to_owned().into() };
        let too_large = put(&"k".repeat(limits::STORE_KEY_BYTES_MAX + 1), "row");
        writer.commit_group(group(vec![(1, vec![put("disk", "1"), put("gone", "1")])]));
        writer.commit_group(group(vec![
            (2, vec![put("group", "2"), delete("gone")]),
            (
                3,
                vec![
                    put("group", "3"),
                    put("disk", "3"),
                    put("gone", "3"),
                    put("new", "3"),
                    too_large.clone(),
                ],
            ),
            (4, vec![Change::Afresh, Change::Clear(Table::State), put("group", "4"), too_large]),
            (5, vec![Change::Afresh, put("last", "5")]),
        ]));
        let expected = [true, true, false, false, true];
        assert_eq!(outcomes_of(&outcomes), (1..).zip(expected).collect::<Vec<_>>());
        // Reading them compares the tallies.
        assert_eq!(stored_rows(&mut writer), ["disk", "group", "last"]);
        let rows = |row: &rusqlite::Row<'_>| row.get::<_, Vec<u8>>(0);
        let connection = writer.sound_database().expect("sound").connection();
        let mut statement = connection.prepare("SELECT row FROM state ORDER BY key").expect("valid");
        let stored: Vec<_> = statement.query_map([], rows).expect("reads").map(Result::unwrap).collect();
        assert_eq!(stored, [b"1", b"2", b"5"]);
    }

    #[test]
    fn what_follows_a_group_that_failed_or_a_row_that_found_the_queue_full_fails_until_one_begins_afresh() {
        let directory = tempfile::tempdir().expect("directory");
        let (mut writer, outcomes) = open(directory.path());
        let (file, aside) = (directory.path().join("shoal.db"), directory.path().join("aside"));
        std::fs::rename(&file, &aside).expect("moved away");
        writer.commit_group(group(vec![(1, vec![agent("a", 1)])]));
        writer.commit_group(group(vec![(2, vec![Change::Afresh, row("a")])]));
        std::fs::rename(&aside, &file).expect("moved back");
        writer.commit_group(group(vec![(3, vec![row("b")]), (4, vec![agent("c", 1)])]));
        writer.commit_group(group(vec![(5, vec![Change::Afresh]), (6, vec![row("d")])]));
        let expected = [false, false, false, true, true, true];
        assert_eq!(outcomes_of(&outcomes), (1..).zip(expected).collect::<Vec<_>>());

        let full = |no: u64, touches_table| Entry::Refused { numbers: no..=no, touches_table };
        writer.commit_group([full(7, false)].into());
        let mut entries = group(vec![(8, vec![row("e")])]);
        entries.push_back(full(9, true));
        entries.extend(group(vec![(10, vec![row("f")])]));
        writer.commit_group(entries);
        assert_eq!(outcomes_of(&outcomes), [(7, false), (8, true), (9, false), (10, false)]);
        writer.commit_group(group(vec![(11, vec![Change::Afresh, row("g")])]));
        writer.commit_group([full(12, true)].into());
        writer.commit_group(group(vec![(13, vec![row("h")])]));
        assert_eq!(outcomes_of(&outcomes), [(11, true), (12, false), (13, false)]);
        assert_eq!(stored_rows(&mut writer), ["d", "e", "g"]);
    }

    #[test]
    fn a_group_of_rows_that_a_full_disk_failed_leaves_the_tally_of_what_is_there() {
        let directory = tempfile::tempdir().expect("directory");
        let (mut writer, outcomes) = open(directory.path());
        let pages_max = |writer: &mut Writer<_>, pages: u32| {
            let connection = writer.sound_database().expect("sound").connection();
            let set =
                connection.pragma_update_and_check(None, "max_page_count", pages, |r| r.get::<_, u32>(0));
            set.expect("a limit");
        };
        let large = |key: &str| Change::Put {
            table: Table::State,
            key: key.to_owned().into(),
            row: vec![1; 100_000].into(),
        };
        writer.commit_group(group(vec![(1, vec![row("a")])]));
        pages_max(&mut writer, 20);
        writer.commit_group(group(vec![(2, vec![row("b")]), (3, vec![large("c")])]));
        pages_max(&mut writer, 1000);
        writer.commit_group(group(vec![(4, vec![row("d")]), (5, vec![Change::Afresh, large("e")])]));
        assert_eq!(outcomes_of(&outcomes), [(1, true), (2, false), (3, false), (4, false), (5, true)]);
        assert_eq!(stored_rows(&mut writer), ["a", "e"]);
    }

    #[test]
    fn fault_28_a_file_system_that_is_read_only_for_a_while_fails_what_comes_meanwhile_and_nothing_else() {
        let directory = tempfile::tempdir().expect("directory");
        let (mut writer, outcomes) = open(directory.path());
        writer.commit_group(group(vec![(1, vec![row("a")])]));
        let connection = writer.sound_database().expect("sound").connection();
        connection.pragma_update(None, "query_only", "ON").expect("set");
        writer.commit_group(group(vec![(2, vec![row("b")])]));
        assert!(matches!(writer.state, State::InDoubt(_)));
        // The connection is another one from here on, and may write again.
        writer.commit_group(group(vec![(3, vec![row("c")]), (4, vec![agent("d", 1)])]));
        writer.commit_group(group(vec![(5, vec![Change::Afresh, row("e")])]));
        let reason = outcomes.borrow()[1].1.clone().expect_err("read-only");
        assert!(reason.contains("cannot be read and written"), "{reason}");
        let expected = [true, false, false, true, true];
        assert_eq!(outcomes_of(&outcomes), (1..).zip(expected).collect::<Vec<_>>());
        assert_eq!(stored_rows(&mut writer), ["a", "e"]);
    }
}
