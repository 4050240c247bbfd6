//! Manifests: what somebody may put into a node's folder of agents.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use shoal::node::config::Manifest;

fuzz_target!(|text: &str| {
    let shown: Arc<str> = Arc::from("agent.yaml");
    if let Err(errors) = Manifest::parse(text, &shown, Path::new("/agents")) {
        assert!(!errors.to_string().is_empty());
    }
});
