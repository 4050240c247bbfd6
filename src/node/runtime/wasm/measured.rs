//! How long a WASM agent takes to start: a fresh instance of a small component that is part of this binary is made, in
//! the node's own pool, and answers one message. Nothing of it stays but its compiled code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::host::Host;
use super::instance::{Ended, Instance, Prepared};
use crate::core::ids::ModuleId;
use crate::core::limits;
use crate::core::model::{Address, Message, Samples, WasmSource, measuring_message};
use crate::node::clock;
use crate::node::runtime::Ground;
use crate::node::runtime::mailbox::Taken;

/// The component, as text.
const COMPONENT: &str = include_str!("measured.wat");

/// What starts take, one after another; the first that fails ends that. Only free places are taken: nobody's instance
/// gives way.
pub(in crate::node::runtime) async fn measure_starts(ground: &Arc<Ground>) -> Samples {
    let mut samples = Samples::default();
    // Compiling is no part of a start: it happens once for a module, not once for an instance.
    let component = wat::parse_str(COMPONENT).expect("a test has read it");
    let module = ModuleId::of(&component);
    let prepared = match ground.wasm.compile(module, component).await {
        Ok(prepared) => prepared,
        Err(reason) => return Samples::nothing(reason),
    };
    let source = Arc::new(WasmSource::new(module));
    let begun = Instant::now();
    while samples.took.len() < limits::MEASURED_STARTS && begun.elapsed() < limits::MEASURED_FOR_MAX {
        let Some(place) = ground.wasm.shelf().free_place() else {
            samples.reason =
                Some(format!("all {} places for instances are taken by agents", limits::WASM_INSTANCES_MAX));
            break;
        };
        match start(ground, &prepared, &source, place).await {
            Ok(took) => samples.took.push(took),
            Err(reason) => {
                samples.fail(reason);
                break;
            }
        }
        tokio::task::yield_now().await;
    }
    samples
}

async fn start(
    ground: &Arc<Ground>,
    prepared: &Prepared,
    source: &Arc<WasmSource>,
    place: OwnedSemaphorePermit,
) -> Result<Duration, String> {
    let message = message(ground);
    let begun = Instant::now();
    let within = Duration::from_millis(limits::MEASURED_ASK_DEADLINE_MS.into());
    let told = |ended: Ended| match ended {
        Ended::Deadline => format!("an instance took longer than {} ms", limits::MEASURED_ASK_DEADLINE_MS),
        Ended::Failed(reason) => reason,
    };
    let host = Host::new(Arc::clone(ground), Arc::clone(&ground.measured), Arc::clone(source));
    let mut instance = Instance::new(prepared, host, place, within).await.map_err(told)?;
    let taken = Taken { message, wants_answer: true, left: within };
    let answer = instance.handle(taken).await.map_err(told)?;
    let took = begun.elapsed();
    match answer? {
        Some(_) => Ok(took),
        None => Err("an instance gave no answer".to_owned()),
    }
}

fn message(ground: &Ground) -> Message {
    let to = Address { agent: ground.measured.name.clone(), node: None };
    measuring_message(clock::message_id(), ground.measured.address.clone(), to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::NodeId;
    use crate::node::runtime::{Runtime, RuntimeConfig};

    #[tokio::test]
    async fn starts_are_measured_one_by_one_and_leave_no_instance_no_module_and_no_agent() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = RuntimeConfig {
            node: NodeId::new("node-1").expect("valid"),
            keeper: "/none".into(),
            directory: directory.path().to_owned(),
            modules: directory.path().join("modules"),
        };
        let runtime = Runtime::new(config, |_, _, _| {});
        let Samples { took, failed, reason } = runtime.measure_wasm_starts().await;
        assert_eq!((took.len(), failed, reason), (limits::MEASURED_STARTS, 0, None));
        assert!(took.iter().all(|took| !took.is_zero()));
        assert_eq!(runtime.0.wasm.shelf().live(), 0);
        assert_eq!(runtime.modules().await.expect("listed"), []);
        assert_eq!(runtime.count(), 0);
    }

    #[tokio::test]
    async fn where_all_places_are_taken_nobody_gives_way_to_a_measurement() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = RuntimeConfig {
            node: NodeId::new("node-1").expect("valid"),
            keeper: "/none".into(),
            directory: directory.path().to_owned(),
            modules: directory.path().join("modules"),
        };
        let runtime = Runtime::new(config, |_, _, _| {});
        let taken: Vec<_> = std::iter::from_fn(|| runtime.0.wasm.shelf().free_place()).collect();
        assert_eq!(taken.len(), limits::WASM_INSTANCES_MAX);
        let samples = runtime.measure_wasm_starts().await;
        assert_eq!((&samples.took[..], samples.failed), (&[][..], 0));
        assert!(samples.reason.expect("one").contains("are taken"));
    }
}
