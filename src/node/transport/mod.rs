//! Connections between nodes: one QUIC endpoint, mutual TLS, hellos, frames.
//!
//! It knows nothing of the mesh beyond whom a certificate names: the core is told of every link, packet
//! and control frame, and decides. Data frames go to a [`DataHandler`] directly, without a core step.
//!
//! A link's life: TLS (both certificates checked), one hello in each direction on the control stream
//! (the node id in it checked against the certificate), [`Input::LinkUp`], frames, [`Input::LinkDown`].
//! With TLS 1.3 a dialler's connection is complete before the other side has looked at its certificate,
//! so only the hello settles that it was accepted. While there is bulk, a second connection stands beside
//! the link and carries it; the core sees one link.

mod bulk;
mod endpoint;
mod facts;
mod framing;
mod hello;
pub mod join;
mod peer;
mod reading;
mod signs;
mod socket;
pub mod tls;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::core::contract::Input;
use crate::core::ids::LinkId;
use crate::core::wire::Data;

pub use self::endpoint::{Congestion, PeerCertificate, Transport, TransportConfig, TransportError, bind};
pub use self::facts::TransportFacts;
pub use self::framing::SendFailure;
pub use self::peer::{Awaited, Peer};

/// Takes data frames where they are read. Neither call may block.
pub trait DataHandler: Send + Sync + 'static {
    /// A frame came from a peer.
    fn handle(&self, peer: &Arc<Peer>, frame: Data);
    /// A peer's connection is gone: nothing more comes over it.
    fn peer_gone(&self, peer: &Peer);
}

/// Lets one line a second into the log, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct LogPace {
    last: Option<std::time::Instant>,
    untold: u64,
}

impl LogPace {
    /// Whether to write a line now: how many were not written since the last.
    pub(crate) fn tell(&mut self) -> Option<u64> {
        let now = std::time::Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last).as_secs() < 1) {
            self.untold += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// Where what is read goes.
#[derive(Clone)]
pub(crate) struct Inbox {
    pub(crate) core: mpsc::Sender<Input>,
    pub(crate) data: Arc<dyn DataHandler>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    /// Hands a SWIM packet to the core, or drops it when the core is behind: gossip must not queue.
    fn swim(&self, link: LinkId, packet: Bytes) {
        if self.core.try_send(Input::Swim { link, packet }).is_err() {
            metrics::counter!("shoal_transport_swim_dropped_total").increment(1);
        }
    }
}
