//! WASM agents: WebAssembly components of the world in `wit/agent.wit`, run by wasmtime.
//!
//! A module is stored by its SHA-256 ([`modules`]), fetched from peers where it is missing ([`fetch`]), compiled once
//! ([`code`]) and linked once; its instances ([`instance`]) come out of a pool ([`engine`]) and may ask their node
//! only what [`host`] offers. [`run`] takes an agent's messages from its mailbox to an instance.
//!
//! What an instance does wrong ends that instance: it runs on memory, fuel and time that were set aside for it, and
//! the node goes on. There is no WASI.

mod bindings;
mod code;
mod engine;
mod fetch;
mod host;
mod instance;
mod measured;
mod modules;
mod run;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore};
use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, Linker};

use self::bindings::AgentPre;
use self::code::Code;
use self::engine::Ticker;
use self::host::Host;
use self::instance::{Prepared, Shelf};
pub(super) use self::measured::measure_starts;
pub use self::modules::Kept;
use self::modules::{Lack, Modules};
pub(super) use self::run::{supervise, window_of};
use super::Ground;
use crate::core::ids::ModuleId;
use crate::core::limits;
use crate::core::model::WasmSource;
use crate::core::wire::ModulePart;

/// The package whose interfaces an agent may import.
const OFFERED: &str = "shoal:agent/";

/// All that the WASM agents of a node share.
pub(super) struct Wasm(Arc<Inner>);

struct Inner {
    modules: Modules,
    code: Code,
    machine: OnceCell<Machine>,
    /// Held while one module is fetched and compiled, and holding what came of it as long as it is in use.
    prepared: Mutex<HashMap<ModuleId, Arc<tokio::sync::Mutex<Weak<Prepared>>>>>,
    /// One at a time: compiling takes a whole CPU.
    compiling: Semaphore,
    shelf: Shelf,
}

/// What is made when the first module comes in.
struct Machine {
    engine: Engine,
    linker: Linker<Host>,
    ticker: Arc<Ticker>,
}

impl Wasm {
    /// Modules are kept in `directory`, which need not exist.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self(Arc::new(Inner {
            code: Code::new(directory.join("code")),
            modules: Modules::new(directory),
            machine: OnceCell::new(),
            prepared: Mutex::default(),
            compiling: Semaphore::new(1),
            shelf: Shelf::new(limits::WASM_INSTANCES_MAX),
        }))
    }

    /// Takes a module in, if it is a component that can be an agent.
    pub(super) async fn put(&self, bytes: Bytes) -> Result<ModuleId, String> {
        if bytes.len() > limits::MODULE_BYTES_MAX {
            return Err(modules::too_large(bytes.len() as u64));
        }
        let module = ModuleId::of(&bytes);
        self.compile(module, bytes.to_vec()).await?;
        let inner = Arc::clone(&self.0);
        blocking(move || inner.modules.put(&bytes)).await
    }

    /// The instances of all agents.
    fn shelf(&self) -> &Shelf {
        &self.0.shelf
    }

    /// See [`Modules::part`]. May block.
    pub(super) fn part(&self, module: &ModuleId, offset: u64) -> Result<ModulePart, String> {
        self.0.modules.part(module, offset)
    }

    /// The modules that the node keeps.
    pub(super) async fn list(&self) -> Result<Vec<Kept>, String> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            inner.modules.list().map_err(|error| format!("the modules cannot be listed: {error}"))
        })
        .await
    }

    /// Removes what is not `in_use` and has not been for long.
    pub(super) async fn collect(&self, in_use: HashSet<ModuleId>, unused_max: Duration) {
        let inner = Arc::clone(&self.0);
        let collecting = blocking(move || {
            let failed = |error: std::io::Error| error.to_string();
            inner.modules.collect(&in_use, unused_max).map_err(failed)?;
            if let Some(machine) = inner.machine.get() {
                let kept: Vec<_> =
                    inner.modules.list().map_err(failed)?.iter().map(|kept| kept.module).collect();
                inner.code.collect(&machine.engine, &kept, unused_max);
            }
            Ok(())
        });
        if let Err(error) = collecting.await {
            tracing::warn!(error, "unused modules could not be removed");
        }
        metrics::gauge!("shoal_wasm_instances").set(self.0.shelf.live() as f64);
    }

    /// An agent's component, ready to make instances: from memory, from the disk, or from a peer.
    async fn prepare(&self, ground: &Ground, source: &WasmSource) -> Result<Arc<Prepared>, String> {
        let module = source.module;
        let slot = {
            let mut prepared = self.0.prepared.lock().unwrap_or_else(PoisonError::into_inner);
            prepared.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|held| held.strong_count() > 0)
            });
            Arc::clone(prepared.entry(module).or_default())
        };
        let mut held = slot.lock().await;
        if let Some(prepared) = held.upgrade() {
            return Ok(prepared);
        }
        let bytes = self.bytes_of(ground, source).await?;
        let prepared =
            self.compile(module, bytes).await.map_err(|why| format!("its module {module}: {why}"))?;
        *held = Arc::downgrade(&prepared);
        Ok(prepared)
    }

    async fn bytes_of(&self, ground: &Ground, source: &WasmSource) -> Result<Vec<u8>, String> {
        let module = source.module;
        let inner = Arc::clone(&self.0);
        let lack = match blocking(move || Ok(inner.modules.get(&module))).await? {
            Ok(bytes) => return Ok(bytes),
            Err(lack @ (Lack::Absent | Lack::Damaged)) => lack,
            Err(Lack::Disk(error)) => return Err(format!("its module {module} cannot be read: {error}")),
        };
        let cannot = |why: String| {
            format!("its module {module} is not to be had: {lack}, and no peer gave it ({why})")
        };
        let commons =
            ground.commons.get().ok_or_else(|| cannot("the node is not part of a mesh yet".to_owned()))?;
        let bytes = fetch::fetch(commons, &module, source.origin.as_ref()).await.map_err(cannot)?;
        tracing::info!(%module, bytes = bytes.len(), "module fetched");
        metrics::counter!("shoal_wasm_modules_fetched_total").increment(1);
        let inner = Arc::clone(&self.0);
        blocking(move || inner.modules.put(&bytes).map(|_| bytes)).await
    }

    async fn compile(&self, module: ModuleId, bytes: Vec<u8>) -> Result<Arc<Prepared>, String> {
        let making = || async { blocking(Machine::new).await };
        self.0.machine.get_or_try_init(making).await?;
        let _turn = self.0.compiling.acquire().await.expect("nobody closes it");
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let machine = inner.machine.get().expect("it was made above");
            let component = inner.code.component(&machine.engine, &module, &bytes)?;
            machine.prepare(&component).map(Arc::new)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err("the node is stopping".to_owned()))
}

impl Machine {
    fn new() -> Result<Self, String> {
        let engine = engine::engine()?;
        let mut linker = Linker::new(&engine);
        bindings::Agent::add_to_linker::<_, HasSelf<_>>(&mut linker, |host: &mut Host| host)
            .expect("each import is added once");
        let ticker = Ticker::start(engine.clone())
            .map_err(|error| format!("no thread for the clock of WASM agents: {error}"))?;
        Ok(Self { engine, linker, ticker: Arc::new(ticker) })
    }

    /// Checks that a component is an agent, and links it.
    fn prepare(&self, component: &Component) -> Result<Prepared, String> {
        for (name, _) in component.component_type().imports(&self.engine) {
            if name.starts_with("wasi:") {
                return Err(format!(
                    "it imports {name}, and WASI is not offered to agents: build it without"
                ));
            }
            if !name.starts_with(OFFERED) {
                return Err(format!("it imports {name}, which is not offered: see wit/agent.wit"));
            }
        }
        let linked = self.linker.instantiate_pre(component);
        let linked =
            linked.map_err(|error| format!("its imports are not those of wit/agent.wit: {error:#}"))?;
        let pre = AgentPre::new(linked)
            .map_err(|error| format!("it does not export `handle` as in wit/agent.wit: {error:#}"))?;
        Ok(Prepared { engine: self.engine.clone(), ticker: Arc::clone(&self.ticker), pre })
    }
}
