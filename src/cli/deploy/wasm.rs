//! `shoal deploy --kind wasm`: uploads a component to the asked node and tells what the agent may do.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;

use crate::api::types::{Grants, InstanceLife, Module, Source, WasmSource};
use crate::cli::Failure;
use crate::cli::client::{ANSWER_DEADLINE, Client};
use crate::cli::message::read_bytes;
use crate::core::ids::ModuleId;
use crate::core::limits;
use crate::core::model::Target;

/// How long taking in a module may take: its way, and its compilation.
const UPLOAD_DEADLINE: Duration = limits::MODULE_UPLOAD_DEADLINE.saturating_add(ANSWER_DEADLINE);

/// What only a WASM agent takes.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "WASM agents")]
pub(super) struct WasmArgs {
    /// One instance for all messages, or a fresh one for each [default: long-lived]
    #[arg(long, value_enum)]
    instance: Option<InstanceLife>,
    /// Bytes of memory that an instance may have [default: 67108864]
    #[arg(long, value_name = "BYTES")]
    memory_bytes: Option<u64>,
    /// Fuel that it may use for one message, about one for each instruction [default: 10000000000]
    #[arg(long, value_name = "UNITS")]
    fuel: Option<u64>,
    /// Keys of the state that it may read and write: those that begin so. May be repeated
    #[arg(long, value_name = "PREFIX")]
    grant_state: Vec<String>,
    /// Whom it may send to, as NAME, NAME@NODE, cap:NAME, topic:NAME or all:NAME. May be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = target)]
    grant_address: Vec<Target>,
}

fn target(text: &str) -> Result<Target, String> {
    Target::parse(text).map_err(|error| error.to_string())
}

impl WasmArgs {
    /// Whether any of them is given.
    pub(super) fn is_given(&self) -> bool {
        let Self { instance, memory_bytes, fuel, grant_state, grant_address } = self;
        let has_grants = !grant_state.is_empty() || !grant_address.is_empty();
        instance.is_some() || memory_bytes.is_some() || fuel.is_some() || has_grants
    }
}

/// Uploads the component of a file.
pub(super) async fn upload(client: &Client, file: &Path) -> Result<ModuleId, Failure> {
    let bytes = read_bytes(&format!("@{}", file.display()), limits::MODULE_BYTES_MAX, "a module may have")?;
    let Module { module, .. } = client.upload("/v1/modules", Bytes::from(bytes), UPLOAD_DEADLINE).await?;
    Ok(module)
}

/// Uploads the component at `path`, which is to run as the flags say.
pub(super) async fn source(client: &Client, path: &str, args: &WasmArgs) -> Result<Source, Failure> {
    Ok(Source::Wasm(WasmSource {
        module: upload(client, Path::new(path)).await?,
        instance: args.instance.unwrap_or_default(),
        grants: Grants { state: args.grant_state.clone(), addresses: args.grant_address.clone() },
        memory_bytes: args.memory_bytes.unwrap_or(limits::WASM_MEMORY_BYTES_DEFAULT),
        fuel: args.fuel.unwrap_or(limits::WASM_FUEL_DEFAULT),
    }))
}
