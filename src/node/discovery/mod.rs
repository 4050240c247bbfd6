//! Finding nodes of the mesh that nobody named: host names that stand for many nodes ([`Way::Dns`]), and
//! multicast DNS on the local network ([`Way::Mdns`]).
//!
//! Each way says what it finds at present, for as long as the node runs; together they are the core's seeds
//! ([`Input::Seeds`]), which it calls where it does not know them already. What is found is not trusted:
//! anybody can answer such questions. Who is called must have a certificate of the mesh, as any peer.
//!
//! It does not know whether the node has a mesh, and does not look at the network beyond these two ways.

mod dns;
mod mdns;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::mdns::Mdns;
use crate::core::contract::Input;
use crate::core::ids::{MeshName, NodeId};
use crate::core::limits;

/// A way of finding nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Resolve this `host:port` for ever.
    Dns(String),
    /// Ask and tell the local network.
    Mdns,
}

/// What the others on the local network are told of this node, and what it can use of theirs.
#[derive(Debug, Clone)]
pub struct Itself {
    /// Its name.
    pub node: NodeId,
    /// Its mesh's name, from its certificate.
    pub mesh: MeshName,
    /// Where it is dialled, `host:port` texts.
    pub addresses: Vec<String>,
    /// Whether its socket reaches IPv6 addresses, or else IPv4.
    pub is_ipv6: bool,
}

impl Itself {
    fn reaches(&self, address: &SocketAddr) -> bool {
        address.is_ipv6() == self.is_ipv6
    }
}

/// Why discovery could not begin.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The local network cannot be asked.
    #[error(
        "mDNS cannot be used for discovery: {0}; stop what holds UDP port 5353, or leave --discover mdns out"
    )]
    Mdns(#[from] mdns_sd::Error),
}

/// What a way has found: its number, and `host:port` texts.
type Found = (usize, Vec<String>);

/// All ways of one node. They go on until it is stopped or dropped.
#[derive(Debug)]
pub struct Discovery {
    tasks: Vec<JoinHandle<()>>,
    mdns: Option<Mdns>,
}

impl Discovery {
    /// Begins to look. `is_alone` says whether the node reaches no other at present: then it looks more often.
    ///
    /// # Errors
    /// [`DiscoveryError`]; nothing goes on.
    pub fn start(
        ways: &[Way],
        itself: &Itself,
        core: mpsc::Sender<Input>,
        is_alone: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<Self, DiscoveryError> {
        let is_alone: Arc<dyn Fn() -> bool + Send + Sync> = Arc::new(is_alone);
        let (tell, found) = mpsc::channel(limits::DISCOVERIES_MAX);
        let mut discovery = Self { tasks: Vec::new(), mdns: None };
        for (number, way) in ways.iter().enumerate() {
            match way {
                Way::Dns(name) => {
                    let follow = dns::follow(
                        number,
                        name.clone(),
                        itself.clone(),
                        tell.clone(),
                        Arc::clone(&is_alone),
                    );
                    discovery.tasks.push(tokio::spawn(follow));
                }
                Way::Mdns => {
                    let (mdns, answers) = Mdns::start(itself)?;
                    let listen = mdns::listen(number, answers, itself.clone(), tell.clone());
                    discovery.tasks.push(tokio::spawn(listen));
                    discovery.mdns = Some(mdns);
                }
            }
        }
        if !ways.is_empty() {
            discovery.tasks.push(tokio::spawn(gather(found, core)));
        }
        Ok(discovery)
    }

    /// Ends it, and tells the local network that this node is gone.
    pub async fn stop(mut self) {
        if let Some(mdns) = self.mdns.take() {
            mdns.stop().await;
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Tells the core what all ways find together, whenever that has changed.
async fn gather(mut found: mpsc::Receiver<Found>, core: mpsc::Sender<Input>) {
    let mut by_way = BTreeMap::new();
    let mut told = BTreeSet::new();
    while let Some((way, addresses)) = found.recv().await {
        by_way.insert(way, addresses);
        let all: BTreeSet<String> = by_way.values().flatten().cloned().collect();
        if all == told {
            continue;
        }
        tracing::debug!(addresses = ?all, "discovered");
        let seeds = Input::Seeds { addresses: all.iter().cloned().collect() };
        if core.send(seeds).await.is_err() {
            return;
        }
        told = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_core_is_told_what_all_ways_find_together_and_only_when_that_changes() {
        let (tell, found) = mpsc::channel(8);
        let (core, mut inputs) = mpsc::channel(8);
        let gathers = tokio::spawn(gather(found, core));
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (way, addresses) in [
            (0, texts(&["b:1", "a:1"])),
            (0, texts(&["a:1", "b:1"])),
            (1, texts(&["b:1"])),
            (1, texts(&["c:1"])),
            (0, texts(&[])),
        ] {
            tell.send((way, addresses)).await.expect("it listens");
        }
        drop(tell);
        gathers.await.expect("it ends with its ways");
        let mut told = Vec::new();
        while let Some(Input::Seeds { addresses }) = inputs.recv().await {
            told.push(addresses.join(" "));
        }
        assert_eq!(told, ["a:1 b:1", "a:1 b:1 c:1", "c:1"]);
    }
}
