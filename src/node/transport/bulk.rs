//! Bulk apart: a second connection beside a link, for control frames so large that gossip and messages would
//! wait behind them.
//!
//! All that a QUIC connection sends shares one congestion window, datagrams included, so a member list on the
//! link delays probes. The side that has bulk to send opens a connection of its own, to where its link leads
//! and with all the checks of a link; the hello says beside which link it stands. Bulk goes one way on it:
//! the other side opens its own. It closes when nothing was sent for [`limits::BULK_IDLE_MAX`], and goes
//! down with its link.
//!
//! The core does not know of it: frames come in as the link's. They may overtake, and be overtaken by, those
//! on the link's control stream. Only frames that allow it go this way: lists, records and parts of modules, which
//! carry versions or answer a question, are idempotent, and are asked for again where one is missing. For the same reason frames that
//! are under way when the connection breaks are not sent again; what cannot be sent here goes over the
//! link, and is counted.
//!
//! ```text
//! Closed --a frame--> Opening --greeted--> Open --idle, broken--> Closed
//!                        \--refused--> Paused --a frame, later--> Opening       any --link down--> Ended
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use quinn::{Connection, VarInt};
use tokio::time::{sleep, timeout};

use super::Inbox;
use super::framing::{FrameReader, FrameWriter, SendFailure};
use super::peer::Peer;
use super::reading::{Lane, read_frames};
use crate::core::limits;
use crate::core::wire::{self, Control, ResponseBody};

/// What both sides may say when a bulk connection is no longer needed.
const DONE: VarInt = VarInt::from_u32(0);

/// A link's bulk connections: the one that this side opens, and the one that the peer does.
#[derive(Debug)]
pub(super) struct Bulk {
    /// What both ends speak.
    version: u8,
    outgoing: Mutex<Outgoing>,
    incoming: Mutex<Option<Connection>>,
}

#[derive(Debug)]
enum Outgoing {
    Closed,
    /// These encoded frames wait for it.
    Opening(Vec<u8>),
    Open(Connection, Arc<FrameWriter>),
    /// It could not be opened at that time.
    Paused(Instant),
    /// The link is gone.
    Ended,
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It goes, or waits to go, over the bulk connection.
    Taken,
    /// It waits, and the caller opens the connection.
    Opens,
    /// It belongs on the link itself.
    Link,
}

impl Bulk {
    /// For a link whose ends both speak `version`.
    pub(super) fn new(version: u8) -> Self {
        Self { version, outgoing: Mutex::new(Outgoing::Closed), incoming: Mutex::new(None) }
    }

    /// Whether a frame may leave the order of the control stream. Those that may are versioned lists, and parts of
    /// modules, which their asker puts in order; all others are small.
    pub(super) fn may_carry(&self, frame: &Control) -> bool {
        let is_list =
            matches!(frame, Control::Members { .. } | Control::OwnedDigest { .. } | Control::Owned { .. });
        let is_part = matches!(frame, Control::Response { result: Ok(ResponseBody::ModulePart(_)), .. });
        self.version >= wire::BULK_SINCE && (is_list || is_part)
    }

    /// The protocol version of its frames.
    pub(super) fn version(&self) -> u8 {
        self.version
    }

    /// Takes an encoded frame.
    pub(super) fn take(&self, frame: &[u8]) -> Way {
        if self.version < wire::BULK_SINCE || frame.len() < limits::BULK_FRAME_BYTES_MIN {
            return Way::Link;
        }
        let mut outgoing = self.outgoing();
        match &mut *outgoing {
            Outgoing::Ended => return Way::Link,
            Outgoing::Paused(since) if since.elapsed() < limits::BULK_RETRY_AFTER => {}
            Outgoing::Closed | Outgoing::Paused(_) => {
                *outgoing = Outgoing::Opening(frame.to_vec());
                return Way::Opens;
            }
            Outgoing::Opening(waiting) if waiting.len() < limits::BULK_WAITING_BYTES_MAX => {
                waiting.extend_from_slice(frame);
                return Way::Taken;
            }
            Outgoing::Opening(_) => {}
            Outgoing::Open(_, writer) => match writer.send_encoded(frame) {
                Ok(()) => return Way::Taken,
                Err(SendFailure::Full | SendFailure::Wire(_)) => {}
                Err(SendFailure::Gone) => *outgoing = Outgoing::Closed,
            },
        }
        note_fallback();
        Way::Link
    }

    /// The connection is there: what has waited goes.
    fn become_open(&self, connection: &Connection, writer: &Arc<FrameWriter>) {
        let mut outgoing = self.outgoing();
        let Outgoing::Opening(waiting) = &*outgoing else {
            return connection.close(DONE, b"the link is gone");
        };
        // A fresh stream takes anything; if it is gone again already, syncs repeat what was lost.
        let _ = writer.send_encoded(waiting);
        *outgoing = Outgoing::Open(connection.clone(), Arc::clone(writer));
    }

    /// The connection could not be opened: what has waited is handed back.
    fn become_paused(&self) -> Vec<u8> {
        let mut outgoing = self.outgoing();
        match std::mem::replace(&mut *outgoing, Outgoing::Paused(Instant::now())) {
            Outgoing::Opening(waiting) => waiting,
            before @ (Outgoing::Closed | Outgoing::Open(..) | Outgoing::Paused(_) | Outgoing::Ended) => {
                *outgoing = before;
                Vec::new()
            }
        }
    }

    /// From here on frames open a new connection.
    fn become_closed(&self, connection: &Connection) {
        let mut outgoing = self.outgoing();
        if let Outgoing::Open(open, _) = &*outgoing
            && open.stable_id() == connection.stable_id()
        {
            *outgoing = Outgoing::Closed;
        }
    }

    /// The link is gone, and both connections with it.
    pub(super) fn end(&self) {
        if let Outgoing::Open(connection, _) = std::mem::replace(&mut *self.outgoing(), Outgoing::Ended) {
            connection.close(DONE, b"the link is gone");
        }
        if let Some(connection) = self.incoming().take() {
            connection.close(DONE, b"the link is gone");
        }
    }

    /// The peer's newest bulk connection; an older one gives way.
    fn attach(&self, connection: &Connection) {
        // Held, so that the link does not end in between.
        let outgoing = self.outgoing();
        if matches!(*outgoing, Outgoing::Ended) {
            return connection.close(DONE, b"the link is gone");
        }
        if let Some(before) = self.incoming().replace(connection.clone()) {
            before.close(DONE, b"another one has come");
        }
    }

    /// Waits until the peer has all that was written so far.
    pub(super) async fn flush(&self) {
        let writer = match &*self.outgoing() {
            Outgoing::Open(_, writer) => Some(Arc::clone(writer)),
            Outgoing::Closed | Outgoing::Opening(_) | Outgoing::Paused(_) | Outgoing::Ended => None,
        };
        if let Some(writer) = writer {
            writer.finish().await;
        }
    }

    /// Whether a bulk connection is open: this side's, and the peer's.
    pub(super) fn is_open(&self) -> (bool, bool) {
        let incoming = self.incoming().as_ref().is_some_and(|c| c.close_reason().is_none());
        (matches!(*self.outgoing(), Outgoing::Open(..)), incoming)
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incoming(&self) -> MutexGuard<'_, Option<Connection>> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note_fallback() {
    metrics::counter!("shoal_transport_bulk_fallbacks_total").increment(1);
}

/// Serves the bulk connection that this side has opened, or failed to, until it is closed.
pub(super) async fn send_over(peer: &Arc<Peer>, opened: Result<(Connection, Arc<FrameWriter>), String>) {
    let (connection, writer) = match opened {
        Ok(opened) => opened,
        Err(reason) => {
            tracing::debug!(node = %peer.node(), reason, "no bulk connection: large frames go over the link");
            note_fallback();
            return peer.send_encoded(&peer.bulk().become_paused());
        }
    };
    metrics::counter!("shoal_transport_bulk_opened_total").increment(1);
    peer.bulk().become_open(&connection, &writer);
    let mut sent = 0;
    loop {
        tokio::select! {
            () = sleep(limits::BULK_IDLE_MAX) => {}
            _ = connection.closed() => return peer.bulk().become_closed(&connection),
        }
        let now_sent = connection.stats().frame_tx.stream;
        if now_sent == sent {
            break;
        }
        sent = now_sent;
    }
    peer.bulk().become_closed(&connection);
    let _ = timeout(limits::BULK_IDLE_MAX, writer.finish()).await;
    connection.close(DONE, b"idle");
}

/// Reads the bulk connection that the peer has opened, until it is closed.
pub(super) async fn read_from(peer: Arc<Peer>, connection: Connection, reader: FrameReader, inbox: Inbox) {
    peer.bulk().attach(&connection);
    read_frames(peer, reader, Lane::Control, inbox).await;
    // The opener closes it once it knows that all has arrived.
    let _ = timeout(limits::BULK_IDLE_MAX, connection.closed()).await;
    connection.close(DONE, b"done");
}
