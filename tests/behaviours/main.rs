//! `docs/swim-behaviours.md` is made from [`table`] and from the tests that there are: every row once, every
//! test that it names in the sources, and every test that is named by a row's number in the table.
//!
//! `SHOAL_BLESS=1 cargo test --test behaviours` writes the page anew.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use table::{GAPS, ROWS, SECTIONS, Shown};

const PAGE: &str = "docs/swim-behaviours.md";

#[test]
fn every_row_is_there_once_and_in_order() {
    assert!(ROWS.iter().map(|row| row.0).eq(1..=126));
    assert!(GAPS.iter().map(|gap| gap.0).eq(1..=13));
    assert!(SECTIONS.windows(2).all(|two| two[0].1 < two[1].1) && SECTIONS[0].1 == 1);
}

#[test]
fn every_test_that_the_table_names_is_in_the_sources() {
    let tests = tests();
    for (number, _, shown) in ROWS.iter().chain(&GAPS) {
        let (Shown::By(named) | Shown::Otherwise(_, named)) = shown else {
            continue;
        };
        for name in *named {
            assert!(tests.contains_key(*name), "{number} names {name}, which is no test");
        }
        let each: BTreeSet<_> = named.iter().collect();
        assert_eq!(each.len(), named.len(), "{number} names a test twice");
    }
}

#[test]
fn every_row_is_shown_by_a_test_or_says_why_not() {
    let tests = tests();
    for (prefix, rows) in [("row", &ROWS[..]), ("gap", &GAPS[..])] {
        for (number, _, shown) in rows {
            let own = own_tests(prefix, *number, &tests).len();
            match shown {
                Shown::By(named) | Shown::Otherwise(_, named) => {
                    assert!(own + named.len() > 0, "{prefix} {number} is shown by nothing");
                }
                Shown::Not(_) => assert_eq!(own, 0, "{prefix} {number} has a test and says that it has none"),
            }
        }
    }
}

#[test]
fn every_test_that_is_named_by_a_number_is_one_of_a_row() {
    for name in tests().keys() {
        for (prefix, last) in [("row", 126), ("gap", 13)] {
            let numbers = numbers(prefix, name);
            assert!(numbers.iter().all(|number| (1..=last).contains(number)), "{name}");
            let is_numbered = name.starts_with(&format!("{prefix}_"));
            assert_eq!(is_numbered, !numbers.is_empty(), "{name} names no row");
        }
    }
}

#[test]
fn the_page_is_what_the_table_says() {
    let made = page();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("SHOAL_BLESS").is_some() {
        fs::write(&path, &made).expect("it can be written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let differs = kept.lines().zip(made.lines()).find(|(kept, made)| kept != made);
    assert!(kept == made, "{PAGE} is outdated: run with SHOAL_BLESS=1; first of all {differs:?}");
}

fn page() -> String {
    let tests = tests();
    let mut out = String::from(HEAD);
    for (number, what, shown) in &ROWS {
        if let Some((title, _)) = SECTIONS.iter().find(|(_, first)| first == number) {
            write!(out, "\n## {title}\n\n{TABLE}").expect("a string takes everything");
        }
        line(&mut out, ("row", *number), what, shown, &tests);
    }
    write!(out, "\n## J. What other suites leave out\n\n{TABLE}").expect("a string takes everything");
    for (number, what, shown) in &GAPS {
        line(&mut out, ("gap", *number), what, shown, &tests);
    }
    out
}

const HEAD: &str = "\
# What a SWIM membership must do, and what shows it here

The behaviours that the test suites of other implementations ask for, 126 of them, and 13 that those leave
out, each with the tests that show it here. Where this mesh does otherwise on purpose, the row says how, and
its tests show that.

This page is made by `SHOAL_BLESS=1 cargo test --test behaviours` from `tests/behaviours/table.rs` and from the
names of the tests: those that begin with `row_035` belong to row 35, those with `gap_05` to the fifth of the last
section.
";

const TABLE: &str = "| # | behaviour | shown by |\n| --- | --- | --- |\n";

fn line(out: &mut String, (prefix, number): (&str, u32), what: &str, shown: &Shown, tests: &Tests) {
    let mut cell = Vec::new();
    let named = match shown {
        Shown::By(named) => *named,
        Shown::Otherwise(how, named) => {
            cell.push(format!("otherwise: {how}"));
            named
        }
        Shown::Not(why) => {
            cell.push(format!("not here: {why}"));
            &[]
        }
    };
    let own = own_tests(prefix, number, tests);
    for name in own.iter().map(String::as_str).chain(named.iter().copied()) {
        cell.push(format!("`{name}` ({})", tests[name]));
    }
    writeln!(out, "| {number} | {what} | {} |", cell.join("<br>")).expect("a string takes everything");
}

/// Names of tests, with the file that each is in.
type Tests = BTreeMap<String, String>;

fn own_tests(prefix: &str, number: u32, tests: &Tests) -> Vec<String> {
    tests.keys().filter(|name| numbers(prefix, name).contains(&number)).cloned().collect()
}

/// The numbers that a name begins with: `row_039_and_042_...` has two.
fn numbers(prefix: &str, name: &str) -> Vec<u32> {
    let Some(rest) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')) else {
        return Vec::new();
    };
    let words = rest.split('_').take_while(|word| *word == "and" || word.parse::<u32>().is_ok());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Every function in the sources that is marked as a test.
fn tests() -> Tests {
    let base = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&base.join("src"), &mut files);
    collect(&base.join("tests"), &mut files);
    let mut found = Tests::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let place = file.strip_prefix(base).expect("below the base").display().to_string();
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("#[") {
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                continue;
            }
            let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
            // Tests of `proptest!` are marked in the same way.
            if let Some((name, _)) = name.and_then(|name| name.split_once('(')).filter(|_| is_test) {
                found.entry(name.to_owned()).or_insert_with(|| place.clone());
            }
            is_test &= line.is_empty() || line.starts_with("//");
        }
    }
    assert!(found.len() > 400, "the tests are where this one looks: {}", found.len());
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
