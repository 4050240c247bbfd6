//! Multicast DNS (RFC 6762) and service discovery (RFC 6763): a node registers itself as
//! `NODE._shoal._udp.local.` with the name of its mesh, and listens for the others of that mesh.
//!
//! It is spoken on the interfaces of the addresses that the node advertises. Nodes that are found are told
//! apart by the names that they say, which proves nothing: the handshake does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mdns_sd::{IfKind, Receiver, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{DiscoveryError, Found, Itself};
use crate::core::ids::NodeId;
use crate::core::limits;

const SERVICE: &str = "_shoal._udp.local.";
/// The longest part of a DNS name; a node with a longer one is registered by its key.
const LABEL_BYTES_MAX: usize = 63;
/// How long the good-bye may take.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// This node on the local network.
pub(super) struct Mdns {
    daemon: ServiceDaemon,
    registered: Option<String>,
}

impl std::fmt::Debug for Mdns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mdns").field("registered", &self.registered).finish_non_exhaustive()
    }
}

impl Mdns {
    /// Registers this node and begins to ask for others.
    pub(super) fn start(itself: &Itself) -> Result<(Self, Receiver<ServiceEvent>), DiscoveryError> {
        let daemon = ServiceDaemon::new()?;
        let own = own_addresses(itself);
        let local: Vec<IpAddr> =
            if_addrs::get_if_addrs().unwrap_or_default().iter().map(if_addrs::Interface::ip).collect();
        let interfaces: Vec<_> = own.iter().map(SocketAddr::ip).filter(|ip| local.contains(ip)).collect();
        if !interfaces.is_empty() {
            daemon.disable_interface(IfKind::All)?;
            daemon.enable_interface(interfaces)?;
        }
        let mut mdns = Self { daemon, registered: None };
        mdns.register(itself, &own)?;
        let answers = mdns.daemon.browse(SERVICE)?;
        Ok((mdns, answers))
    }

    fn register(&mut self, itself: &Itself, own: &[SocketAddr]) -> Result<(), DiscoveryError> {
        let Some(port) = own.first().map(SocketAddr::port) else {
            tracing::warn!("this node advertises no IP address, so others do not find it by mDNS");
            return Ok(());
        };
        let addresses: Vec<_> = own.iter().filter(|a| a.port() == port).map(SocketAddr::ip).collect();
        let (instance, host) = names(&itself.node);
        let properties = [("mesh", itself.mesh.as_str()), ("node", itself.node.as_str())];
        let info = ServiceInfo::new(SERVICE, &instance, &host, &addresses[..], port, &properties[..])?;
        let name = info.get_fullname().to_owned();
        self.daemon.register(info)?;
        tracing::info!(service = name, "registered with mDNS");
        self.registered = Some(name);
        Ok(())
    }

    /// Says good-bye.
    pub(super) async fn stop(self) {
        if let Some(name) = &self.registered
            && let Ok(said) = self.daemon.unregister(name)
        {
            // Without it the others forget this node a little later.
            let _ = timeout(GOOD_BYE, said.recv_async()).await;
        }
        if let Ok(ended) = self.daemon.shutdown() {
            let _ = timeout(GOOD_BYE, ended.recv_async()).await;
        }
    }
}

/// The IP addresses that this node advertises; names are not told here.
fn own_addresses(itself: &Itself) -> Vec<SocketAddr> {
    itself.addresses.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The names of the service and of its host: the former is the node's where it fits.
fn names(node: &NodeId) -> (String, String) {
    let key: String = node.key().0.iter().map(|byte| format!("{byte:02x}")).collect();
    let instance = if node.as_str().len() <= LABEL_BYTES_MAX { node.to_string() } else { key.clone() };
    (instance, format!("shoal-{key}.local."))
}

/// Keeps up with the answers until nobody wants to know.
pub(super) async fn listen(
    way: usize,
    answers: Receiver<ServiceEvent>,
    itself: Itself,
    tell: mpsc::Sender<Found>,
) {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while let Ok(event) = answers.recv_async().await {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enumeration is not closed")]
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let name = service.get_fullname().to_owned();
                let addresses = addresses_of(&service, &itself);
                if addresses.is_empty() {
                    found.remove(&name);
                } else if found.len() < limits::SEEDS_MAX || found.contains_key(&name) {
                    found.insert(name, addresses);
                }
            }
            ServiceEvent::ServiceRemoved(_, name) => {
                found.remove(&name);
            }
            // The crate may add kinds at any time; none of them changes who is there.
            _ => continue,
        }
        if tell.send((way, found.values().flatten().cloned().collect())).await.is_err() {
            return;
        }
    }
}

/// Where a node that has answered can be dialled; nowhere, if it says that it is of another mesh.
fn addresses_of(service: &ResolvedService, itself: &Itself) -> Vec<String> {
    let says = |key| service.get_property_val_str(key);
    if says("mesh") != Some(itself.mesh.as_str()) || says("node") == Some(itself.node.as_str()) {
        return Vec::new();
    }
    let addresses = service.get_addresses().iter().map(mdns_sd::ScopedIp::to_ip_addr);
    let mut addresses: Vec<_> = addresses
        .filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
        .map(|ip| SocketAddr::new(ip, service.get_port()))
        .filter(|address| itself.reaches(address))
        .map(|address| address.to_string())
        .collect();
    addresses.sort_unstable();
    addresses.truncate(limits::ADDRESSES_MAX);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn itself() -> Itself {
        Itself {
            node: "node-1".parse().expect("valid"),
            mesh: "test".parse().expect("valid"),
            addresses: vec!["10.0.0.1:7946".to_owned(), "node-1.example.com:7946".to_owned()],
            is_ipv6: false,
        }
    }

    fn service(node: &str, mesh: &str, addresses: &str) -> ResolvedService {
        let properties = [("mesh", mesh), ("node", node)];
        let info = ServiceInfo::new(SERVICE, node, "host.local.", addresses, 7946, &properties[..]);
        info.expect("valid").as_resolved_service()
    }

    #[test]
    fn only_other_nodes_of_the_same_mesh_are_found_at_addresses_that_are_reached() {
        let addresses = "10.0.0.3,10.0.0.2,fd00::2,fe80::2";
        let found = addresses_of(&service("node-2", "test", addresses), &itself());
        assert_eq!(found, ["10.0.0.2:7946", "10.0.0.3:7946"]);
        assert!(addresses_of(&service("node-2", "other", addresses), &itself()).is_empty());
        assert!(addresses_of(&service("node-1", "test", addresses), &itself()).is_empty());
        let ipv6 = Itself { is_ipv6: true, ..itself() };
        assert_eq!(addresses_of(&service("node-2", "test", addresses), &ipv6), ["[fd00::2]:7946"]);
        let many: Vec<_> = (0..100).map(|n| format!("10.0.1.{n}")).collect();
        let found = addresses_of(&service("node-2", "test", &many.join(",")), &itself());
        assert_eq!(found.len(), limits::ADDRESSES_MAX);
    }

    #[test]
    fn a_name_that_dns_cannot_hold_is_replaced_by_the_nodes_key() {
        let (instance, host) = names(&"node-1".parse().expect("valid"));
        assert_eq!(instance, "node-1");
        let (long, other) = names(&"n".repeat(128).parse().expect("valid"));
        assert!(long.len() <= LABEL_BYTES_MAX && host != other);
    }

    #[test]
    fn of_the_advertised_addresses_those_are_told_that_are_no_names() {
        assert_eq!(own_addresses(&itself()), ["10.0.0.1:7946".parse().expect("valid")]);
    }
}
