//! WASM components for tests, built from the text format and from C. What is missing for that is said, not skipped.

#![allow(dead_code, reason = "each test program uses a part")]

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use wit_bindgen_core::Files;
use wit_component::ComponentEncoder;
use wit_parser::Resolve;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The component in the text format of `examples/agents/wasm/tally.wat`.
pub(crate) fn tally() -> Vec<u8> {
    let path = root().join("examples/agents/wasm/tally.wat");
    wat::parse_file(&path).unwrap_or_else(|error| panic!("{error}"))
}

/// The component of `examples/agents/wasm/notes.c`.
pub(crate) fn notes() -> &'static [u8] {
    static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
    BUILT.get_or_init(|| from_c(&root().join("examples/agents/wasm/notes.c")))
}

/// The component of `tests/fixtures/wasm/hostile.c`: it breaks whatever bound its message names.
pub(crate) fn hostile() -> &'static [u8] {
    static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
    BUILT.get_or_init(|| from_c(&root().join("tests/fixtures/wasm/hostile.c")))
}

/// As the page on WASM agents describes it: bindings from `wit/`, clang, and a component of what comes out.
fn from_c(source: &Path) -> Vec<u8> {
    let build = tempfile::tempdir().expect("a directory");
    write_bindings(build.path());
    let core = build.path().join("core.wasm");
    let made = |name: &str| build.path().join(name);
    run(Command::new("clang")
        .args(["--target=wasm32-wasi", "-mexec-model=reactor", "-O2", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(build.path())
        .arg(source)
        .args([made("agent.c"), made("agent_component_type.o")])
        .arg("-o")
        .arg(&core));
    let core = std::fs::read(core).expect("clang wrote it");
    let encoder = ComponentEncoder::default().validate(true).module(&core);
    encoder.and_then(|mut encoder| encoder.encode()).unwrap_or_else(|error| panic!("{source:?}: {error:?}"))
}

fn write_bindings(to: &Path) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root().join("wit")).expect("wit/ is valid");
    let world = resolve.select_world(&[package], Some("agent")).expect("there is the world");
    let mut files = Files::default();
    wit_bindgen_c::Opts::default().build().generate(&mut resolve, world, &mut files).expect("bindings");
    for (name, content) in files.iter() {
        std::fs::write(to.join(name), content).expect("written");
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}: install clang, lld, wasi-libc and libclang-rt-dev-wasm32")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} failed; it needs the Debian packages clang, lld, wasi-libc and libclang-rt-dev-wasm32: {said}"
    );
}

/// A component in the text format that is given.
pub(crate) fn text(component: &str) -> Vec<u8> {
    wat::parse_str(component).unwrap_or_else(|error| panic!("{error}"))
}
