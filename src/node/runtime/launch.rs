//! Turns the specification of a process agent into a started keeper: finds its command, makes its
//! environment, gives it a port.

use std::collections::HashSet;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use super::agent::Agent;
use super::keeper::{self, Kept, Plan};
use super::{Ground, command};
use crate::core::limits;
use crate::core::model::{Confinement, ProcessProtocol};

/// What a process agent is, from its specification.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) protocol: ProcessProtocol,
    pub(super) command: String,
    pub(super) args: Vec<String>,
    pub(super) limits: Confinement,
}

/// A keeper at work, and the port of its agent, if that is spoken to over HTTP.
pub(super) struct Launched {
    pub(super) kept: Kept,
    pub(super) port: Option<Port>,
}

/// Starts the keeper on a thread that may block.
///
/// # Errors
/// One sentence: what is wrong with the command, or what the system refused.
pub(super) async fn launch(
    ground: &Arc<Ground>,
    agent: &Arc<Agent>,
    process: Process,
) -> Result<Launched, String> {
    let (ground, agent) = (Arc::clone(ground), Arc::clone(agent));
    let tokio = ground.tokio.clone();
    let launched = tokio.spawn_blocking(move || {
        let port = match process.protocol {
            ProcessProtocol::Stdio => None,
            ProcessProtocol::Http => Some(Port::free(&ground.ports)?),
        };
        let plan = plan(&ground, &agent, process, port.as_ref())?;
        let cannot = |error| format!("its keeper {:?} could not be started: {error}", plan.keeper);
        Ok(Launched { kept: keeper::start(&plan).map_err(cannot)?, port })
    });
    launched.await.unwrap_or_else(|_| Err("the node is stopping".to_owned()))
}

fn plan(ground: &Ground, agent: &Agent, process: Process, port: Option<&Port>) -> Result<Plan, String> {
    let Process { protocol, command, args, limits: confinement } = process;
    let command = command::resolve(&command, &ground.path)?;
    let directory = ground.config.directory.clone();
    if !directory.is_dir() {
        return Err(format!("the directory {directory:?}, in which agents run, does not exist: create it"));
    }
    let mut environment = ground.environment.clone();
    environment.push(("SHOAL_AGENT".into(), agent.name.as_str().into()));
    environment.push(("SHOAL_NODE".into(), agent.node.as_str().into()));
    if let Some(port) = port {
        environment.push(("PORT".into(), OsString::from(port.number.to_string())));
    }
    let keeper = ground.config.keeper.clone();
    let has_stdin = protocol == ProcessProtocol::Stdio;
    let silence_max = limits::KEEPER_SILENCE_MAX;
    let permit_until = agent.run.load().permit.as_ref().map(|permit| permit.until());
    Ok(Plan {
        keeper,
        command,
        args,
        confinement,
        environment,
        directory,
        has_stdin,
        silence_max,
        permit_until,
    })
}

/// A port on loopback that no other agent of this node has been given.
pub(super) struct Port {
    pub(super) number: u16,
    given: Arc<Mutex<HashSet<u16>>>,
}

impl Port {
    fn free(given: &Arc<Mutex<HashSet<u16>>>) -> Result<Self, String> {
        let draw = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
        let mut numbers = given.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let drawn = draw().map_err(|error| format!("there is no free port on loopback: {error}"))?;
            let number = drawn.port();
            // Given to an agent that does not listen yet: draw again. There are fewer agents than ports.
            if numbers.insert(number) {
                return Ok(Self { number, given: Arc::clone(given) });
            }
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
