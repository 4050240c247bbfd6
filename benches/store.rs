//! What a durable change costs: the store's path (queue, thread, encoding, savepoints, one transaction,
//! callbacks) against bare SQLite with the same settings writing the same rows in one transaction.
//!
//! Every iteration runs both, one after the other on the same disk, and counts one of them, so that a
//! disk that is slow for a while is slow for both. The store may split a batch in two, because it starts
//! with the first change that arrives.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rusqlite::{Connection, TransactionBehavior, params};
use shoal::core::contract::{Change, Table};
use shoal::core::ids::{NodeId, PersistNo};
use shoal::core::model::NodeCard;
use shoal::core::wire;
use shoal::node::store::{NodeKeys, Outcome, Store};

/// Commits that are given at once.
const BATCHES: [usize; 3] = [1, 16, 256];

fn durable_changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("durable_changes");
    group.sample_size(20).measurement_time(Duration::from_secs(5));
    for batch in BATCHES {
        let directory = tempfile::tempdir().expect("a directory");
        let mut bare = Bare::open(directory.path());
        let mut shoal = Shoal::open(&directory.path().join("node"));
        let mut batches = Batches { batch, round: 0 };
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("sqlite/{batch}"), |b| {
            b.iter_custom(|n| batches.alternate(n, |cards| bare.write(cards), |cards| shoal.write(cards)));
        });
        group.bench_function(format!("shoal/{batch}"), |b| {
            b.iter_custom(|n| batches.alternate(n, |cards| shoal.write(cards), |cards| bare.write(cards)));
        });
    }
    group.finish();
}

/// What both sides write. SQLite does not write a row that is already so, so each round has rows of its own.
struct Batches {
    batch: usize,
    round: u64,
}

impl Batches {
    /// The time that `counted` takes when it takes turns with `other`.
    fn alternate(
        &mut self,
        iterations: u64,
        mut counted: impl FnMut(&[NodeCard]),
        mut other: impl FnMut(&[NodeCard]),
    ) -> Duration {
        let mut total = Duration::ZERO;
        for _ in 0..iterations {
            self.round += 1;
            let cards: Vec<_> = (0..self.batch).map(|number| card(number, self.round)).collect();
            other(&cards);
            let began = Instant::now();
            counted(&cards);
            total += began.elapsed();
        }
        total
    }
}

/// SQLite without the store.
struct Bare(Connection);

impl Bare {
    fn open(directory: &Path) -> Self {
        let connection = Connection::open(directory.join("bare.db")).expect("a database");
        connection
            .execute_batch(
                "PRAGMA journal_mode = wal; PRAGMA synchronous = FULL;
                 CREATE TABLE peers (node_id TEXT PRIMARY KEY, card BLOB NOT NULL) STRICT;",
            )
            .expect("a schema");
        Self(connection)
    }

    fn write(&mut self, cards: &[NodeCard]) {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate).expect("begins");
        for card in cards {
            let value = wire::encode_value(card);
            let mut upsert = transaction
                .prepare_cached(
                    "INSERT INTO peers VALUES (?1, ?2) ON CONFLICT DO UPDATE SET card = excluded.card",
                )
                .expect("valid SQL");
            upsert.execute(params![card.node_id.as_str(), &value[..]]).expect("a row");
        }
        transaction.commit().expect("the disk takes it");
    }
}

/// The store, with one commit per change.
struct Shoal {
    store: Store,
    outcomes: Receiver<Vec<Outcome>>,
    next: u64,
}

impl Shoal {
    fn open(directory: &Path) -> Self {
        let (reports, outcomes) = channel();
        let keys = || NodeKeys { reset_key: [1; 64], connection_id_key: [1; 8] };
        // After the last batch nobody listens.
        let opened = Store::open(directory, keys, move |outcomes| drop(reports.send(outcomes)));
        Self { store: opened.expect("a store").store, outcomes, next: 1 }
    }

    fn write(&mut self, cards: &[NodeCard]) {
        for card in cards {
            self.store.commit(PersistNo(self.next), vec![Change::Peer(card.clone())]);
            self.next += 1;
        }
        let mut left = cards.len();
        while left > 0 {
            for (_, outcome) in self.outcomes.recv().expect("the writer lives") {
                outcome.expect("the disk takes it");
                left -= 1;
            }
        }
    }
}

fn card(number: usize, round: u64) -> NodeCard {
    NodeCard {
        node_id: NodeId::new(&format!("node-{number}")).expect("a valid name"),
        addresses: vec![format!("node-{round}.example.net:7946")],
        region: "us-east".to_owned(),
        zone: "a".to_owned(),
        labels: BTreeMap::from([("gpu".to_owned(), "no".to_owned())]),
        roles: vec![],
        version: "0.1.0".to_owned(),
    }
}

/// Bytes of a row.
const ROW_BYTES: usize = 128;

/// How long a start takes with many rows, and what memory it needs beside them.
fn start_with_rows(criterion: &mut Criterion) {
    const ROWS: usize = 1_000_000;
    let directory = tempfile::tempdir().expect("a directory");
    let keys = || NodeKeys { reset_key: [1; 64], connection_id_key: [1; 8] };
    let (reports, outcomes) = channel();
    let opened = Store::open(directory.path(), keys, move |outcomes| drop(reports.send(outcomes)));
    let store = opened.expect("a store").store;
    for (no, first) in (0..ROWS).step_by(1000).enumerate() {
        let rows = first..first + 1000;
        let put = |n: usize| Change::Put {
            table: Table::State,
            key: format!("orders/{n:07}").into(),
            row: vec![n as u8; ROW_BYTES].into(),
        };
        store.commit(PersistNo(no as u64), rows.map(put).collect());
        for (_, outcome) in outcomes.recv().expect("the writer lives") {
            outcome.expect("the disk takes it");
        }
    }
    drop(store);
    let before = resident_mib();
    let opened = Store::open(directory.path(), keys, |_| {}).expect("a store");
    let rows = &opened.remembered.tables[&Table::State];
    let useful: usize = rows.iter().map(|(key, row)| key.len() + row.len()).sum();
    assert_eq!(rows.len(), ROWS);
    println!(
        "{ROWS} rows: {} MiB of keys and rows; resident {} MiB before the start, {} MiB after, {} MiB at most",
        useful >> 20,
        before.0,
        resident_mib().0,
        resident_mib().1
    );
    drop(opened);
    let mut group = criterion.benchmark_group("start_with_rows");
    group.sample_size(10).throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("open/1000000", |b| {
        b.iter(|| Store::open(directory.path(), keys, |_| {}).expect("a store"));
    });
    group.finish();
}

/// Memory of this process, now and at most.
fn resident_mib() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() >> 10
    };
    (of("VmRSS:"), of("VmHWM:"))
}

criterion_group!(benches, durable_changes, start_with_rows);
criterion_main!(benches);
