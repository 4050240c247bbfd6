//! The engine: how components are compiled, the pool that their instances live in, and the clock that stops those that
//! compute for too long.
//!
//! It is made when the first module comes in: a node without WASM agents does not pay for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::core::limits;

/// Bytes of an instance's memory that stay with its slot in the pool, zeroed and not given back to the system: what
/// most instances use at all, so that the next one takes no page faults.
const KEEP_RESIDENT_BYTES: usize = 64 << 10;

/// An engine with this house's bounds.
///
/// # Errors
/// What the system refused.
pub(super) fn engine() -> Result<Engine, String> {
    let instances = u32::try_from(limits::WASM_INSTANCES_MAX).expect("a small number");
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances * limits::WASM_CORE_INSTANCES_MAX)
        .total_memories(instances)
        .total_tables(instances * 2)
        .total_stacks(instances)
        .max_core_instances_per_component(limits::WASM_CORE_INSTANCES_MAX)
        .max_memories_per_component(1)
        .max_tables_per_component(limits::WASM_TABLES_MAX)
        .max_tables_per_module(limits::WASM_TABLES_MAX)
        .table_elements(limits::WASM_TABLE_ELEMENTS_MAX)
        .max_memory_size(usize::try_from(limits::WASM_MEMORY_BYTES_MAX).unwrap_or(usize::MAX))
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(limits::WASM_STACK_BYTES_MAX)
        .wasm_component_model(true)
        .wasm_memory64(false)
        .wasm_multi_memory(false);
    Engine::new(&config).map_err(|error| format!("WASM agents cannot run on this machine: {error:#}"))
}

/// Moves the engine's epoch on while something runs. Ends with the last handle to it.
#[derive(Debug)]
pub(super) struct Ticker {
    running: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// Something runs, for as long as this lives.
#[derive(Debug)]
pub(super) struct Ticking(Arc<AtomicUsize>);

/// Set in `running` when the ticker is to end.
const END: usize = 1 << (usize::BITS - 1);

impl Ticker {
    /// A ticker for that engine. It sleeps until something runs.
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let running = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&running);
        // A thread of its own: when all the executor's threads compute, none of them would move the epoch on.
        let tick = move || {
            loop {
                match seen.load(Ordering::Acquire) {
                    0 => thread::park(),
                    END.. => return,
                    _ => {
                        thread::sleep(limits::WASM_EPOCH);
                        engine.increment_epoch();
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("wasm-epochs".to_owned()).spawn(tick)?;
        Ok(Self { running, thread: Some(thread) })
    }

    /// Ticks until what is returned is dropped.
    pub(super) fn tick(&self) -> Ticking {
        if self.running.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
        Ticking(Arc::clone(&self.running))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.running.fetch_or(END, Ordering::AcqRel);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
        }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
