//! The store's tables with many writers that each give their next row when the last one is on the disk. One thread gives
//! them all, as a node's driver does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use shoal::core::contract::{Change, Table};
use shoal::core::ids::PersistNo;
use shoal::node::store::{NodeKeys, Outcome, Store};

use crate::clients::{Round, millis};
use crate::raw::{key, value};

pub(crate) struct Tables {
    store: Store,
    outcomes: Receiver<(Instant, Vec<Outcome>)>,
    /// Transactions of several writers, and rows in them.
    pub(crate) transactions: u64,
    pub(crate) rows: u64,
}

impl Tables {
    pub(crate) fn open(directory: &Path) -> Self {
        let (reports, outcomes) = channel();
        let keys = || NodeKeys { reset_key: [1; 64], connection_id_key: [1; 8] };
        let report = move |outcomes: Vec<Outcome>| drop(reports.send((Instant::now(), outcomes)));
        let store = Store::open(directory, keys, report).expect("a store").store;
        Self { store, outcomes, transactions: 0, rows: 0 }
    }

    /// `each` rows of as many writers, numbered from `first` on.
    pub(crate) fn round(&mut self, writers: u64, each: u64, first: u64) -> Round {
        let mut under_way = BTreeMap::new();
        let mut numbers = first..first + writers * each;
        let mut round = Round::default();
        let begun = Instant::now();
        for n in numbers.by_ref().take(writers as usize) {
            self.give(n, &mut under_way);
        }
        while !under_way.is_empty() {
            let (at, outcomes) = self.outcomes.recv().expect("the writer lives");
            if writers > 1 {
                self.transactions += 1;
                self.rows += outcomes.len() as u64;
            }
            for (no, outcome) in outcomes {
                outcome.expect("the disk takes it");
                let given = under_way.remove(&no).expect("it was given");
                round.waits.push(millis(at - given));
                if let Some(n) = numbers.next() {
                    self.give(n, &mut under_way);
                }
            }
        }
        round.took = begun.elapsed();
        round
    }

    fn give(&self, n: u64, under_way: &mut BTreeMap<PersistNo, Instant>) {
        let put = Change::Put { table: Table::State, key: key(n).into(), row: value(n).into() };
        under_way.insert(PersistNo(n), Instant::now());
        self.store.commit(PersistNo(n), vec![put]);
    }
}
