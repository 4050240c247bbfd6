//! The tour of the documentation: every command of `docs/tour.md`, one after the other in one shell, in a network of its own.

use std::path::Path;
use std::process::{Command, Stdio};

/// The commands of a page, in order: what its `sh` blocks hold.
fn commands(page: &str) -> String {
    let mut commands = String::new();
    let mut is_command = false;
    for line in page.lines() {
        match line {
            "```sh" => is_command = true,
            "```" => is_command = false,
            line if is_command => commands.extend([line, "\n"]),
            _ => {}
        }
    }
    commands
}

/// Ends the nodes, whatever came before, and ends as what it was given has ended.
const AROUND: &str = r#"
ip link set lo up
trap 'kill -9 $(cat node-*/pid) 2>/dev/null' EXIT
timeout 240 bash "$TOUR"
"#;

#[test]
fn every_command_of_the_tour_works_as_it_stands() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tour.md"));
    let commands = commands(&page.expect("the page is there"));
    assert!(commands.contains("kill -9 $(cat node-2/pid)"), "the page has its commands in sh blocks");
    let place = tempfile::tempdir().expect("a directory");
    let script = place.path().join("tour");
    std::fs::write(&script, format!("set -eu -o pipefail\n{commands}")).expect("written");
    let program = Path::new(env!("CARGO_BIN_EXE_shoal"));
    let path = format!(
        "{}:{}",
        program.parent().expect("it has one").display(),
        std::env::var("PATH").expect("set")
    );
    let told = Command::new("unshare")
        .args(["--net", "bash", "-c", AROUND])
        .current_dir(place.path())
        .env("PATH", path)
        .env("TOUR", &script)
        .stdin(Stdio::null())
        .output()
        .expect("unshare and bash are there");
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success(), "{}\n--- it said\n{out}\n--- and\n{err}", told.status);
    for said in [
        "create  hello#4",
        "hello from hello#4 on node-",
        "node-2 is failed",
        "good-day from hello#",
        "5 of 5 instances run version 3: steady",
        "node-3 has left the mesh",
    ] {
        assert!(out.contains(said), "{said:?} is missing in\n{out}\n--- and\n{err}");
    }
}
