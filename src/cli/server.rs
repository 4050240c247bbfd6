//! `shoal server start`: runs a node with its API until it is told to stop.
//!
//! In this order, and the first that fails ends it with one error: configuration, first certificate, token, addresses of
//! the API and the metrics, node, API. SIGTERM and SIGINT let it stop; a second one ends it at once.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Failure, print};
use crate::api::token::Token;
use crate::api::{self, Options};
use crate::node::config::{Config, Flags, process_env};
use crate::node::{self, Node, enrol, telemetry};

/// Threads that do the node's work, where the machine has so many cores.
const WORKERS_MAX: usize = 4;
/// How long the end waits for what still blocks.
const SHUTDOWN_MAX: Duration = Duration::from_secs(1);

/// The subcommands of `shoal server`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// Run a node until SIGTERM or SIGINT
    #[command(after_help = "Examples:
  shoal server start --node-id node-1 --bootstrap
  shoal server start --node-id node-2 --join node-1.example.com
  shoal server start --node-id node-3 --discover dns:nodes.example.com,mdns
  shoal server start --node-id node-2 --join node-1.example.com --join-token @/run/join-token
  shoal server start --config /etc/shoal/node.yaml --check-config")]
    Start(Box<StartArgs>),
}

/// Arguments of `shoal server start`.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    flags: Flags,
    /// Check the configuration and stop
    #[arg(long)]
    check_config: bool,
    /// Stop when stdin ends: for a parent that must not leave the node behind
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

/// Runs the node; ends with it.
///
/// # Errors
/// [`Failure`]: it did not start, or did not end of its operator's will.
pub(super) fn run(command: ServerCommand) -> Result<ExitCode, Failure> {
    let ServerCommand::Start(args) = command;
    let config =
        Config::load(&args.flags, &process_env).map_err(|errors| Failure::Usage(errors.to_string()))?;
    if args.check_config {
        let text = format!("the configuration of node {} is valid\n", config.node.id);
        return print::write_out(text.as_bytes()).map(|()| ExitCode::SUCCESS);
    }
    telemetry::write_logs(&config.log).map_err(refused)?;
    let metrics = telemetry::collect_metrics().map_err(refused)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(WORKERS_MAX))
        .enable_all()
        .build()
        .map_err(refused)?;
    let stdin = args.until_stdin_closes.then(stdin_end);
    let end = runtime.block_on(serve(&config, metrics, stdin));
    // What hangs in a look at a directory that does not answer is not waited for.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    end
}

fn refused(error: impl std::fmt::Display) -> Failure {
    Failure::Refused(error.to_string())
}

async fn serve(
    config: &Config,
    metrics: PrometheusHandle,
    stdin: Option<oneshot::Receiver<()>>,
) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new(stdin).map_err(refused)?;
    tokio::select! {
        enrolled = enrol::first_certificate(config) => enrolled.map_err(refused)?,
        name = signals.next_stop() => {
            return Err(Failure::Refused(format!("ended by {name} before the node had its first certificate")));
        }
    }
    let given = config.api.token_file.as_deref().map(Token::read).transpose().map_err(refused)?;
    let api = api::bind(config.api.bind_addr).await.map_err(refused)?;
    let exposition = match config.api.metrics_addr {
        Some(address) => Some(api::bind_metrics(address).await.map_err(refused)?),
        None => None,
    };
    let node = node::start(config, keeper()?).await.map_err(refused)?;
    let token = match token(config, given) {
        Ok(token) => token,
        Err(failure) => {
            node.handle().stop().await;
            node.stopped().await.map_err(refused)?;
            return Err(failure);
        }
    };
    let stop = CancellationToken::new();
    let mut services = JoinSet::new();
    log_address("api", &api);
    let options = Options { token, metrics: metrics.clone() };
    services.spawn(api::serve(api, node.handle().clone(), options, stop.clone().cancelled_owned()));
    if let Some(listener) = exposition {
        log_address("metrics", &listener);
        services.spawn(api::serve_metrics(listener, metrics, stop.clone().cancelled_owned()));
    }
    let ended = wait(node, &mut signals).await;
    stop.cancel();
    while let Some(served) = services.join_next().await {
        if let Err(error) = served.unwrap_or_else(|error| Err(error.into())) {
            tracing::error!(%error, "the API ended");
        }
    }
    ended.map(|()| ExitCode::SUCCESS)
}

/// The token that was given, or where the API is open to the network the one that the data directory
/// keeps, which is there once the node has started.
fn token(config: &Config, given: Option<Token>) -> Result<Option<Token>, Failure> {
    if given.is_some() || config.api.bind_addr.ip().is_loopback() {
        return Ok(given);
    }
    Token::kept_in(&config.node.data_dir).map(Some).map_err(refused)
}

/// The port may be the system's choice.
fn log_address(what: &'static str, listener: &TcpListener) {
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, "{what}"),
        Err(error) => tracing::warn!(%error, "the address of the {what} is not known"),
    }
}

/// Waits for the end of the node, which a signal asks for and a second one does not wait for.
async fn wait(node: Node, signals: &mut Signals) -> Result<(), Failure> {
    let handle = node.handle().clone();
    let mut stopped = std::pin::pin!(node.stopped());
    loop {
        tokio::select! {
            ended = &mut stopped => return ended.map_err(refused),
            asked = signals.next() => match asked {
                // What comes of it is in the log.
                Asked::ToReload => drop(handle.reload_certificates().await),
                Asked::ToStop(signal) => {
                    tracing::info!(signal, "stopping; a second signal ends the node at once");
                    handle.stop().await;
                    break;
                }
            }
        }
    }
    tokio::select! {
        ended = stopped => ended.map_err(refused),
        name = signals.next_stop() => {
            Err(Failure::Refused(format!("ended at once by a second signal ({name}): the node had not stopped yet")))
        }
    }
}

/// What a signal asks for.
enum Asked {
    ToStop(&'static str),
    ToReload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    stdin: Option<oneshot::Receiver<()>>,
}

impl Signals {
    fn new(stdin: Option<oneshot::Receiver<()>>) -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: signal(SignalKind::hangup())?, stdin })
    }

    async fn next_stop(&mut self) -> &'static str {
        loop {
            if let Asked::ToStop(name) = self.next().await {
                return name;
            }
        }
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::ToStop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::ToStop("SIGINT"),
            () = ended(&mut self.stdin) => Asked::ToStop("the end of stdin"),
            _ = self.hangup.recv() => Asked::ToReload,
        }
    }
}

/// Waits for the end of stdin, once; for ever where it is not watched or has ended.
async fn ended(stdin: &mut Option<oneshot::Receiver<()>>) {
    let Some(watched) = stdin else {
        return std::future::pending().await;
    };
    // Sent or dropped, stdin is at its end.
    let _ = watched.await;
    *stdin = None;
}

/// Reads stdin away on a thread of its own, which the end of the process does not wait for.
fn stdin_end() -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = end.send(());
    });
    ended
}

/// This program, which keeps process agents too.
fn keeper() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::Refused(format!("the path of this program is not known: {error}")))
}
