//! Compiled code, kept beside the modules so that a node that starts again does not compile.
//!
//! A file is named by its module and by the engine that made it (its version, its settings, the machine's), and begins
//! with the SHA-256 of the rest. One that does not hold is made anew.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::modules::{entries, is_older, read_bounded, write_whole};
use crate::core::ids::ModuleId;
use crate::core::limits;

/// Bytes of the SHA-256 before the code.
const DIGEST_BYTES: usize = 32;
/// What the name of a file ends with.
const SUFFIX: &str = ".code";

/// The files.
#[derive(Debug)]
pub(super) struct Code {
    directory: PathBuf,
}

impl Code {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// A module's component: read, or compiled from `bytes` and kept. Takes a while.
    ///
    /// # Errors
    /// Why the module is no component, in one sentence.
    pub(super) fn component(
        &self,
        engine: &Engine,
        module: &ModuleId,
        bytes: &[u8],
    ) -> Result<Component, String> {
        let path = self.directory.join(format!("{module}-{:016x}{SUFFIX}", key_of(engine)));
        if let Ok(code) = read_bounded(&path, limits::MODULE_CODE_BYTES_MAX)
            && let Some(component) = load(engine, &code)
        {
            return Ok(component);
        }
        if !is_binary(bytes) {
            return Err("it is not a WebAssembly module: it does not begin as one".to_owned());
        }
        if is_core_module(bytes) {
            return Err(
                "it is a core module and not a component: make one of it, as docs/wasm-agents.md shows"
                    .to_owned(),
            );
        }
        metrics::counter!("shoal_wasm_compilations_total").increment(1);
        let component = Component::from_binary(engine, bytes)
            .map_err(|error| format!("it is not a component that can be compiled: {error:#}"))?;
        match component.serialize() {
            Ok(code) if (code.len() as u64) < limits::MODULE_CODE_BYTES_MAX - DIGEST_BYTES as u64 => {
                let digest = Sha256::digest(&code);
                // Without the file the module is compiled again at the next start.
                if let Err(error) = write_whole(&self.directory, &path, &[&digest, &code]) {
                    tracing::warn!(%error, ?path, "compiled code could not be kept");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "compiled code could not be kept"),
        }
        Ok(component)
    }

    /// Removes the code of modules that are gone, and of other engines once it is old.
    pub(super) fn collect(&self, engine: &Engine, kept: &[ModuleId], unused_max: Duration) {
        let own = format!("-{:016x}{SUFFIX}", key_of(engine));
        for (name, entry) in entries(&self.directory).unwrap_or_default() {
            let module: Option<ModuleId> = name.strip_suffix(&own).and_then(|name| name.parse().ok());
            let is_kept = module.is_some_and(|module| kept.contains(&module));
            if !is_kept && is_older(&entry.path(), unused_max) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

fn key_of(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// Every WebAssembly binary begins so.
fn is_binary(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm")
}

/// A core module has version 1 there; a component has another number and its layer.
fn is_core_module(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(&[1, 0, 0, 0])
}

/// Code that was kept, if it is what was written.
fn load(engine: &Engine, file: &[u8]) -> Option<Component> {
    let (digest, code) = file.split_at_checked(DIGEST_BYTES)?;
    if Sha256::digest(code)[..] != *digest {
        tracing::warn!("compiled code on the disk is damaged; it is made anew");
        return None;
    }
    #[expect(unsafe_code, reason = "the one place where compiled code is taken back from the disk")]
    // SAFETY: the code must be what `Component::serialize` gave, unchanged. `component` writes nothing else, the
    // digest finds what a disk does to it, and the name and the engine's own check of its header rule out another
    // version or setting. The directory and the file belong to the node's user alone: whoever could forge both could
    // replace the node's keys and its binary's data as well.
    let component = unsafe { Component::deserialize(engine, code) };
    component.inspect_err(|error| tracing::warn!(%error, "compiled code is of another engine")).ok()
}

#[cfg(test)]
mod tests {
    use super::super::engine::engine;
    use super::*;

    #[test]
    fn code_is_read_back_and_made_anew_when_it_is_damaged_or_cut_short() {
        let directory = tempfile::tempdir().expect("a directory");
        let code = Code::new(directory.path().join("code"));
        let engine = engine().expect("an engine");
        let bytes = wat::parse_str("(component (core module (func (export \"f\"))))").expect("text");
        let module = ModuleId::of(&bytes);
        code.component(&engine, &module, &bytes).expect("compiles");
        // What is no module compiles to nothing: this came from the file.
        code.component(&engine, &module, b"").expect("is read");
        let file = entries(&code.directory).expect("read").remove(0).1.path();
        let whole = std::fs::read(&file).expect("there");
        let last = whole.len() - 1;
        let flipped: Vec<u8> =
            whole.iter().enumerate().map(|(n, byte)| if n == last { byte ^ 1 } else { *byte }).collect();
        for damaged in [flipped, whole[..last].to_vec(), whole[..7].to_vec(), vec![]] {
            std::fs::write(&file, &damaged).expect("written");
            code.component(&engine, &module, b"").expect_err("the damage is seen");
            code.component(&engine, &module, &bytes).expect("compiles again");
            assert_eq!(std::fs::read(&file).expect("there"), whole);
        }
    }

    #[test]
    fn what_is_no_component_is_refused_with_what_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let code = Code::new(directory.path().join("code"));
        let engine = engine().expect("an engine");
        let core = wat::parse_str("(module)").expect("text");
        let broken = [&wat::parse_str("(component)").expect("text")[..], &[0xff; 9]].concat();
        for (bytes, why) in [
            (&b"#!/bin/sh"[..], "does not begin as one"),
            (b"", "does not begin as one"),
            (&core, "core module"),
            (&broken, "not a component that can be compiled"),
        ] {
            let error = code.component(&engine, &ModuleId::of(bytes), bytes).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }
}
