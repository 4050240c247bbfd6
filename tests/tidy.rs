//! The walls of the house: which room may import which. Imports go downwards only; this table is the map.
//!
//! Also: no file and no line longer than they should be without being known, no room without a sentence
//! about itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The ground floor of the core: plain values that every room may use.
const GROUND: &[&str] = &[
    "core::contract",
    "core::error",
    "core::ids",
    "core::limits",
    "core::model",
    "core::time",
    "core::wire",
];

/// A room (its files, and those of its children that have no row of their own) and what it may import
/// besides itself. `GROUND` stands for the ground floor.
const ROOMS: &[(&str, &[&str])] = &[
    ("core::contract", &["GROUND"]),
    ("core::error", &["GROUND"]),
    ("core::ids", &["core::limits"]),
    ("core::limits", &[]),
    ("core::model", &["GROUND"]),
    ("core::time", &[]),
    ("core::wire", &["GROUND"]),
    // Rooms of the core know the ground floor and themselves, never each other.
    ("core::coordinates", &["GROUND"]),
    ("core::layout", &["GROUND"]),
    ("core::links", &["GROUND"]),
    ("core::membership", &["GROUND"]),
    ("core::partition", &["GROUND"]),
    ("core::permits", &["GROUND"]),
    ("core::placement", &["GROUND"]),
    ("core::queue", &["GROUND"]),
    ("core::register", &["GROUND"]),
    ("core::registry", &["GROUND"]),
    ("core::supervision", &["GROUND"]),
    ("core::trust", &["GROUND"]),
    // The one place that wires them.
    ("core::mesh", &["core"]),
    ("core", &["core"]),
    ("sim", &["core"]),
    // The shell: each folder has one IO library and does not know the others.
    ("node::alerts", &["GROUND", "node::config", "node::events"]),
    ("node::certs", &["GROUND"]),
    ("node::clock", &["GROUND"]),
    ("node::config", &["GROUND"]),
    ("node::discovery", &["GROUND", "node::clock"]),
    ("node::events", &["GROUND", "node::clock"]),
    ("node::runtime", &["GROUND", "node::clock"]),
    ("node::crash_point", &[]),
    ("node::store", &["GROUND", "node::clock", "node::crash_point"]),
    ("node::telemetry", &["node::config"]),
    ("node::transport", &["GROUND", "node::certs", "node::clock"]),
    ("node::dispatch", &["GROUND", "node::clock", "node::runtime", "node::transport"]),
    ("node::load", &["GROUND", "node::transport"]),
    // What wires the shell.
    ("node", &["core", "node"]),
    // The API knows the node's handle, the command line knows the API's client side.
    ("api", &["GROUND", "core::layout", "core::partition", "node"]),
    (
        "cli::cert",
        &[
            "GROUND",
            "cli",
            "node::certs",
            "node::clock",
            "node::config",
            "node::transport::join",
            "node::transport::tls",
        ],
    ),
    ("client", &["GROUND", "api::types"]),
    ("cli::keeper", &["GROUND", "node::clock", "node::runtime"]),
    ("cli::sample", &[]),
    ("cli::server", &["GROUND", "api", "cli", "node"]),
    ("cli::dev", &["GROUND", "api::types", "cli", "node::certs", "node::clock"]),
    ("cli::sim", &["GROUND", "cli", "sim"]),
    (
        "cli",
        &[
            "GROUND",
            "core::layout",
            "api::token",
            "api::types",
            "cli",
            "client",
            "node::clock",
            "node::config",
        ],
    ),
];

/// The page on faults names every test of one, and none that is not there.
#[test]
fn the_page_on_faults_names_the_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/faults.md")).expect("there is a page");
    let mut files = sources();
    collect(&root.join("tests"), &mut files);
    let code: Vec<_> = files.iter().map(|file| fs::read_to_string(file).expect("readable")).collect();
    for name in page
        .split('`')
        .filter(|part| part.len() > 20 && part.chars().all(|c| c.is_alphanumeric() || c == '_'))
    {
        assert!(code.iter().any(|code| code.contains(&format!("fn {name}("))), "{name} is no test");
    }
    for code in code.iter().filter(|code| !code.contains("fn the_page_on_faults")) {
        for (at, _) in code.match_indices("fn fault_") {
            let name: String =
                code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(page.contains(&format!("`{name}`")), "{name} is not on the page");
        }
    }
}

/// Files that are longer than a thought should be, each known and none growing.
const LINES_MAX: usize = 620;

#[test]
fn every_import_goes_where_the_table_allows() {
    let mut broken = Vec::new();
    for file in sources() {
        let module = module_of(&file);
        if module.is_empty() {
            continue;
        }
        let (room, allowed) = room_of(&module);
        for import in imports(&file, &module) {
            let within = import == room || import.starts_with(&format!("{room}::"));
            let is_allowed = within || allowed.iter().any(|a| permits(a, &import));
            if !is_allowed {
                broken.push(format!("{} (room {room}) imports {import}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "imports that the table does not allow:\n{}", broken.join("\n"));
}

#[test]
fn the_table_names_only_rooms_that_exist() {
    let modules: BTreeSet<_> = sources().iter().map(|file| module_of(file)).collect();
    for (room, allowed) in ROOMS {
        assert!(modules.contains(*room), "{room} is in the table and not in the house");
        let rooms = allowed.iter().filter(|a| **a != "GROUND");
        for target in rooms {
            assert!(modules.contains(*target), "{room} may import {target}, which does not exist");
        }
    }
}

#[test]
fn every_file_says_what_it_is_and_none_is_too_long() {
    for file in sources() {
        let text = fs::read_to_string(&file).expect("readable");
        let head = text.trim_start();
        assert!(head.starts_with("//!"), "{} does not say what it is", file.display());
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines: split it", file.display());
    }
}

#[test]
fn the_core_asks_for_neither_time_nor_chance() {
    let forbidden = [
        "Instant::now",
        "SystemTime",
        "thread_rng",
        "rand::rng()",
        "getrandom",
        "std::fs",
        "std::net",
        "tokio",
    ];
    for file in sources().iter().filter(|f| module_of(f).starts_with("core")) {
        let text = fs::read_to_string(file).expect("readable");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let found = forbidden.iter().find(|word| line.contains(**word));
            assert!(found.is_none(), "{}: {line}", file.display());
        }
    }
}

fn permits(allowed: &str, import: &str) -> bool {
    let under = |prefix: &str| import == prefix || import.starts_with(&format!("{prefix}::"));
    if allowed == "GROUND" { GROUND.iter().any(|g| under(g)) } else { under(allowed) }
}

fn room_of(module: &str) -> (&'static str, &'static [&'static str]) {
    let holds = |(room, _): &&(&str, &[&str])| module == *room || module.starts_with(&format!("{room}::"));
    let found = ROOMS.iter().filter(holds).max_by_key(|(room, _)| room.len());
    *found.unwrap_or_else(|| panic!("{module} is in no room of the table"))
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 20, "the sources are where this test looks");
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// `src/core/mesh/mod.rs` is `core::mesh`; `src/lib.rs` and `src/main.rs` are the root, which may use all.
fn module_of(file: &Path) -> String {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let path = file.strip_prefix(base).expect("below src").with_extension("");
    let mut parts: Vec<_> = path.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts.join("::")
}

/// Every module path of this crate that a file names, in `use` lines and in code.
fn imports(file: &Path, module: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(file).expect("readable");
    let code: String = text
        .lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n");
    let mut found = BTreeSet::new();
    for statement in code.split(';') {
        let Some(at) = statement.rfind("use ") else {
            continue;
        };
        let is_use =
            statement[..at].lines().last().is_none_or(|l| l.trim().is_empty() || l.trim().starts_with("pub"));
        if is_use {
            let tree: String = statement[at + 4..].split_whitespace().collect();
            // `super::*` is how a module of tests takes in its own file.
            expand("", &tree, &mut |path| found.extend(resolve(path, module).filter(|_| path != "super::*")));
        }
    }
    for (at, _) in code.match_indices("crate::") {
        let path: String =
            code[at..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
        found.extend(resolve(&path, module));
    }
    found
}

/// Calls `each` with every path of a use tree such as `a::{b, c::{d, e}}`.
fn expand(prefix: &str, tree: &str, each: &mut impl FnMut(&str)) {
    let Some(open) = tree.find('{') else {
        return each(&format!("{prefix}{tree}"));
    };
    let inner = tree[open + 1..].strip_suffix('}').unwrap_or(&tree[open + 1..]);
    let prefix = format!("{prefix}{}", &tree[..open]);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &inner[start..at], each);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < inner.len() {
        expand(&prefix, &inner[start..], each);
    }
}

/// The module that a path leads into, from the crate's root: only lower-case segments are modules.
fn resolve(path: &str, module: &str) -> Option<String> {
    let mut here: Vec<&str> = module.split("::").collect();
    let mut segments = path.split("::").peekable();
    match *segments.peek()? {
        "crate" => {
            here.clear();
            segments.next();
        }
        "self" => {
            segments.next();
        }
        "super" => {
            while segments.next_if(|s| *s == "super").is_some() {
                here.pop();
            }
        }
        _ => return None,
    }
    let modules = segments.take_while(|s| s.chars().all(|c| c.is_lowercase() || c.is_numeric() || c == '_'));
    here.extend(modules.filter(|s| !s.is_empty()));
    Some(here.join("::")).filter(|path| !path.is_empty())
}
