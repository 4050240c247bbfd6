//! `shoal dev`: a whole mesh on this machine, of real node processes on loopback, to try things out.
//!
//! It makes a CA and certificates, starts the nodes, waits until each sees all, deploys two agents that
//! need nothing else on the machine, and says what to try. Each node is told to end when its stdin does,
//! so none outlives this command, however that ends. It is no way to run a mesh that matters: one machine
//! is one failure.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use super::client::{ANSWER_DEADLINE, Client};
use super::{Failure, print};
use crate::api::types::{AgentRef, Deploy, Member, Protocol, Source};
use crate::core::ids::{MeshName, NodeId};
use crate::node::certs::{self, Ca, Existing, NodeFiles, Validity};
use crate::node::clock;

/// More nodes than this are too much for most machines.
const NODES_MAX: u8 = 20;
/// How long the mesh may take to come up.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long a node may take to stop before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// How often it is looked whether the mesh is up.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Lines of a node's log that are shown when it did not start.
const LOG_LINES_SHOWN: usize = 12;
/// The first ports that are tried.
const GOSSIP_PORT: u16 = 7946;
const API_PORT: u16 = 8080;

/// Arguments of `shoal dev`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  shoal dev
  shoal dev --nodes 5 --dir ./mesh     keeps certificates and data, and goes on with them next time")]
pub(super) struct DevArgs {
    /// Nodes to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MAX)))]
    nodes: u8,
    /// Directory for certificates, data and logs; without it a temporary one, gone at the end
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Runs the mesh until Ctrl-C.
///
/// # Errors
/// [`Failure`]; every node has ended.
pub(super) async fn run(args: DevArgs) -> Result<(), Failure> {
    let place = Place::open(args.dir)?;
    let progress = progress();
    let mut mesh = DevMesh { nodes: Vec::new() };
    let outcome = tokio::select! {
        outcome = bring_up(&mut mesh, &place, args.nodes, &progress) => outcome,
        interrupted = interrupt() => interrupted.and(Err(Failure::Refused("interrupted before the mesh was up".into()))),
    };
    progress.finish_and_clear();
    let outcome = match outcome {
        Ok(()) => hold(&mut mesh, &place).await,
        Err(failure) => Err(failure),
    };
    mesh.stop().await;
    outcome
}

async fn interrupt() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.map_err(refused),
        _ = terminate.recv() => Ok(()),
    }
}

fn refused(error: impl std::fmt::Display) -> Failure {
    Failure::Refused(error.to_string())
}

/// Where the mesh keeps its files.
struct Place {
    path: PathBuf,
    /// Removes it at the end.
    temporary: Option<TempDir>,
}

impl Place {
    fn open(given: Option<PathBuf>) -> Result<Self, Failure> {
        let fail = |path: &Path, error: std::io::Error| {
            Failure::Refused(format!("the directory {} cannot be used: {error}", path.display()))
        };
        if let Some(path) = given {
            std::fs::create_dir_all(&path).map_err(|e| fail(&path, e))?;
            let path = path.canonicalize().map_err(|e| fail(&path, e))?;
            return Ok(Self { path, temporary: None });
        }
        let made = tempfile::Builder::new().prefix("shoal-dev-").tempdir();
        let temporary = made.map_err(|e| fail(&std::env::temp_dir(), e))?;
        Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) })
    }

    fn node(&self, id: &NodeId) -> PathBuf {
        self.path.join(id.as_str())
    }

    /// The CA, made at the first use.
    fn ca(&self) -> Result<Ca, Failure> {
        let dir = self.path.join("ca");
        if !dir.join(certs::CA_KEY).exists() {
            let mesh: MeshName = "dev".parse().map_err(refused)?;
            let pair = certs::make_ca(&mesh, validity(3651)?).map_err(refused)?;
            certs::write_ca(&dir, &pair, Existing::Keep).map_err(refused)?;
        }
        Ca::load(&dir).map_err(refused)
    }

    /// A node's certificate, made at the first use.
    fn certify(&self, ca: &Ca, id: &NodeId) -> Result<(), Failure> {
        let dir = self.node(id).join("certs");
        if dir.join(certs::NODE_KEY).exists() {
            return Ok(());
        }
        let pair = certs::issue(ca, id, &[], &[], validity(3650)?).map_err(refused)?;
        let files =
            NodeFiles { ca_pem: ca.bundle_pem(), cert_pem: &pair.cert_pem, key_pem: Some(&pair.key_pem) };
        certs::write_node(&dir, &files, Existing::Keep).map(|_| ()).map_err(refused)
    }
}

fn validity(days: u32) -> Result<Validity, Failure> {
    Validity::starting(clock::wall_clock(), days).map_err(refused)
}

/// One node's process.
struct DevNode {
    id: NodeId,
    api: String,
    gossip: String,
    log: PathBuf,
    child: Child,
    /// Its end ends the node; waiting for the child would close it, were it the child's.
    _stdin: Option<ChildStdin>,
}

struct DevMesh {
    nodes: Vec<DevNode>,
}

async fn bring_up(
    mesh: &mut DevMesh,
    place: &Place,
    count: u8,
    progress: &ProgressBar,
) -> Result<(), Failure> {
    progress.set_message("making certificates");
    let ca = place.ca()?;
    let mut ports = Ports { gossip: GOSSIP_PORT, api: API_PORT };
    for n in 1..=count {
        let id: NodeId = format!("node-{n}").parse().map_err(refused)?;
        place.certify(&ca, &id)?;
        progress.set_message(format!("starting {id}"));
        let seed = mesh.nodes.first().map(|first| first.gossip.clone());
        mesh.nodes.push(start(place, id, &mut ports, seed)?);
    }
    progress.set_message("waiting until every node sees every other");
    mesh.see_each_other().await?;
    progress.set_message("deploying two agents");
    mesh.deploy_samples().await
}

/// Ports that nobody has at this moment. Somebody may take one before the node does; the node says so then.
struct Ports {
    gossip: u16,
    api: u16,
}

impl Ports {
    fn next_gossip(&mut self) -> Result<u16, Failure> {
        take(&mut self.gossip, |port| UdpSocket::bind(("127.0.0.1", port)).is_ok())
    }

    fn next_api(&mut self) -> Result<u16, Failure> {
        take(&mut self.api, |port| TcpListener::bind(("127.0.0.1", port)).is_ok())
    }
}

fn take(next: &mut u16, is_free: impl Fn(u16) -> bool) -> Result<u16, Failure> {
    let found = (*next..next.saturating_add(1000)).find(|port| is_free(*port));
    let port = found.ok_or_else(|| Failure::Refused(format!("no port from {next} upwards is free")))?;
    *next = port + 1;
    Ok(port)
}

fn start(place: &Place, id: NodeId, ports: &mut Ports, seed: Option<String>) -> Result<DevNode, Failure> {
    let gossip = format!("127.0.0.1:{}", ports.next_gossip()?);
    let api = format!("127.0.0.1:{}", ports.next_api()?);
    let data_dir = place.node(&id);
    let log = data_dir.join("log");
    let program = std::env::current_exe().map_err(refused)?;
    let mut command = Command::new(program);
    command.args(["server", "start", "--until-stdin-closes", "--node-id", id.as_str()]);
    command.args(["--bind-addr", &gossip, "--api-addr", &api]).arg("--data-dir").arg(&data_dir);
    match seed {
        Some(seed) => command.args(["--join", &seed]),
        None => command.arg("--bootstrap"),
    };
    // What the caller's environment configures is meant for a node of its own, not for these.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOAL_")) {
        command.env_remove(name);
    }
    let logs = open_log(&log)?;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(logs);
    // Ctrl-C in the terminal is for this command, which then stops the nodes one way for all.
    command.process_group(0).kill_on_drop(true);
    let mut child =
        command.spawn().map_err(|e| Failure::Refused(format!("{id} could not be started: {e}")))?;
    let stdin = child.stdin.take();
    Ok(DevNode { id, api: format!("http://{api}"), gossip, log, child, _stdin: stdin })
}

fn open_log(path: &Path) -> Result<File, Failure> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.map_err(|e| Failure::Refused(format!("the log {} cannot be written: {e}", path.display())))
}

impl DevMesh {
    async fn see_each_other(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START_DEADLINE;
        let clients = self.clients()?;
        for client in &clients {
            while !sees_alive(client, clients.len()).await {
                self.fail_if_one_ended()?;
                if Instant::now() > deadline {
                    return Err(Failure::TimedOut(format!(
                        "the nodes did not find each other within {} s",
                        START_DEADLINE.as_secs()
                    )));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    fn clients(&self) -> Result<Vec<Client>, Failure> {
        self.nodes.iter().map(|node| Client::new(&node.api, None)).collect()
    }

    fn fail_if_one_ended(&mut self) -> Result<(), Failure> {
        for node in &mut self.nodes {
            if let Some(status) = node.child.try_wait().map_err(refused)? {
                return Err(Failure::Refused(format!(
                    "{} ended ({status}); the end of its log:\n{}",
                    node.id,
                    end_of(&node.log)
                )));
            }
        }
        Ok(())
    }

    /// `echo` on the second node and `wordcount`, a process, on the last.
    async fn deploy_samples(&self) -> Result<(), Failure> {
        let clients = self.clients()?;
        let (Some(client), Some(last)) = (clients.first(), self.nodes.last()) else {
            return Ok(());
        };
        let second = self.nodes.get(1).unwrap_or(last);
        let program = std::env::current_exe().map_err(refused)?;
        let wordcount = Source::Process {
            protocol: Protocol::Stdio,
            command: program.to_string_lossy().into_owned(),
            args: vec!["sample-agent".to_owned(), "wordcount".to_owned()],
        };
        deploy(client, "echo", &second.id, Source::Native { builtin: "echo".to_owned() }).await?;
        deploy(client, "wordcount", &last.id, wordcount).await
    }

    /// Waits until a node ends, and tells which.
    async fn next_end(&mut self) -> (NodeId, std::io::Result<ExitStatus>) {
        let ends = self.nodes.iter_mut().map(|node| {
            Box::pin(async move {
                let status = node.child.wait().await;
                (node.id.clone(), status)
            })
        });
        let (ended, _, _) = futures_util::future::select_all(ends).await;
        self.nodes.retain(|node| node.id != ended.0);
        ended
    }

    async fn stop(mut self) {
        for node in &self.nodes {
            let pid = node.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid {
                // One that has just ended needs no signal.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let all = futures_util::future::join_all(self.nodes.iter_mut().map(|node| node.child.wait()));
        if timeout(STOP_DEADLINE, all).await.is_err() {
            // Dropping a child that still runs kills it; its agents' keepers see that.
            let _ = writeln!(std::io::stderr(), "shoal: some nodes did not stop in time and are killed");
        }
    }
}

async fn sees_alive(client: &Client, count: usize) -> bool {
    let members: Result<Vec<Member>, _> = client.get("/v1/cluster/members").await;
    members.is_ok_and(|members| members.iter().filter(|m| m.status == "alive").count() >= count)
}

/// Deploys an agent, unless a kept directory has it already.
async fn deploy(client: &Client, name: &str, node: &NodeId, source: Source) -> Result<(), Failure> {
    let name = name.parse().map_err(refused)?;
    let deploy = Deploy::new(name, Some(node.clone()), source);
    match client.post::<AgentRef>("/v1/agents", &deploy, ANSWER_DEADLINE).await {
        Err(Failure::Refused(why)) if !why.contains("already has an agent") => Err(Failure::Refused(why)),
        Err(
            failure @ (Failure::Usage(_)
            | Failure::Unreachable(_)
            | Failure::TimedOut(_)
            | Failure::Queued(_)
            | Failure::Changes),
        ) => Err(failure),
        Ok(_) | Err(Failure::Refused(_) | Failure::ReaderGone) => Ok(()),
    }
}

/// Says what there is, and waits for Ctrl-C.
async fn hold(mesh: &mut DevMesh, place: &Place) -> Result<(), Failure> {
    print::write_out(welcome(mesh, place).as_bytes())?;
    loop {
        if mesh.nodes.is_empty() {
            return Err(Failure::Refused("no node is left".to_owned()));
        }
        tokio::select! {
            interrupted = interrupt() => {
                interrupted?;
                return print::write_out(b"stopping\n");
            }
            (node, status) = mesh.next_end() => {
                let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                print::write_out(format!("{node} has ended ({status}); the others go on\n").as_bytes())?;
            }
        }
    }
}

fn welcome(mesh: &DevMesh, place: &Place) -> String {
    let mut table = print::Table::new(&["NODE-ID", "GOSSIP (UDP)", "API", "PID"]);
    for node in &mesh.nodes {
        let pid = print::or_nothing(node.child.id(), |pid| pid.to_string());
        table.row([node.id.to_string(), node.gossip.clone(), node.api.clone(), pid]);
    }
    let shoal = program_name();
    let first = mesh.nodes.first().map_or(String::new(), |node| api_flag(&node.api));
    let last = mesh.nodes.last();
    let (from_last, pid) = last.map_or((String::new(), String::new()), |node| {
        (api_flag(&node.api), node.child.id().map_or(String::new(), |pid| pid.to_string()))
    });
    let kept = match &place.temporary {
        Some(_) => "removed at the end; --dir keeps it",
        None => "kept",
    };
    format!(
        "A mesh of {count} nodes is up, with the agents `echo` and `wordcount`.\n\n{table}\n\
         Data and logs: {dir} ({kept})\n\n\
         Try, in another terminal:\n\
         \x20 {shoal} cluster members{first}\n\
         \x20 {shoal} message ask --to wordcount --content 'the quick brown fox'{first}\n\
         \x20 {shoal} message ask --to echo --content hello{from_last}\n\
         \x20 {shoal} agent list{first}\n\
         \x20 kill -9 {pid} && {shoal} cluster watch --after 0{first}\n\n\
         Ctrl-C stops all of it.\n",
        count = mesh.nodes.len(),
        table = table.text(),
        dir = place.path.display(),
    )
}

/// Nothing when it is where commands look by themselves.
fn api_flag(api: &str) -> String {
    if api == format!("http://127.0.0.1:{API_PORT}") { String::new() } else { format!(" --api {api}") }
}

/// How a user calls this program from here.
fn program_name() -> String {
    let Ok(program) = std::env::current_exe() else {
        return "shoal".to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join("shoal")).find(|file| file.exists());
    if in_path.and_then(|file| file.canonicalize().ok()) == program.canonicalize().ok() {
        return "shoal".to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    match program.strip_prefix(&here) {
        Ok(relative) => format!("./{}", relative.display()),
        Err(_) => program.display().to_string(),
    }
}

fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// A spinner for a person, nothing for a pipe.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let progress = ProgressBar::new_spinner().with_style(style);
    progress.enable_steady_tick(Duration::from_millis(80));
    progress
}
