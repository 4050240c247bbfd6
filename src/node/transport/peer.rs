//! One connection to a peer after the hellos: what is sent over it, and how long it lasts.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, SendDatagramError, VarInt};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::bulk::{Bulk, Way};
use super::framing::{FrameReader, FrameWriter, SendFailure};
use super::reading::{Lane, Pace, read_frames};
use super::{Congestion, Inbox, LogPace, tls};
use crate::core::contract::LinkEnd;
use crate::core::error::Refused;
use crate::core::ids::{LinkId, NodeId, ProcessId};
use crate::core::limits;
use crate::core::wire::{self, Control, Data, WireError};

/// A link is kept alive for this long after the last message.
const KEPT_ALIVE_AFTER_MESSAGE: Duration = Duration::from_secs(60);
/// Bytes of control frames that may wait for a peer that does not read. More: the link is closed.
const CONTROL_WAITING_BYTES_MAX: usize = 4 << 20;
/// How long the frames that arrived before a connection's end may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A live connection to a peer.
pub struct Peer {
    link: LinkId,
    identity: tls::Peer,
    connection: Connection,
    since: Instant,
    /// Datagrams received when it was last looked, and when their number had last grown.
    heard: Mutex<(u64, Instant)>,
    control: Arc<FrameWriter>,
    data: Vec<Arc<FrameWriter>>,
    /// Whether the core has said anything over this link: it does so only once it has accepted the peer,
    /// and no message of the peer is read before that.
    accepted: AtomicBool,
    gone: AtomicBool,
    pace: Pace,
    process: ProcessId,
    bulk: Bulk,
    complaints: Mutex<LogPace>,
    acceptance: Notify,
    /// Whether a message went either way since the link was last kept alive.
    had_message: AtomicBool,
    /// Messages of either side whose outcome is still to come over this connection.
    awaited: AtomicUsize,
}

/// An outcome is still to come over the peer's connection, for as long as this lives.
#[derive(Debug)]
pub struct Awaited(Arc<Peer>);

impl Awaited {
    /// Counts from now on.
    #[must_use]
    pub fn over(peer: &Arc<Peer>) -> Self {
        peer.awaited.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(peer))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.awaited.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("link", &self.link).field("node", self.node()).finish_non_exhaustive()
    }
}

impl Peer {
    /// Opens the data streams of a connection whose hellos are exchanged; both ends speak `version`.
    pub(super) async fn new(
        link: LinkId,
        identity: tls::Peer,
        connection: Connection,
        control: Arc<FrameWriter>,
        version: u8,
        process: ProcessId,
    ) -> Result<Self, ConnectionError> {
        control.speak(version);
        let mut data = Vec::with_capacity(limits::DATA_STREAMS);
        for _ in 0..limits::DATA_STREAMS {
            let stream = connection.open_uni().await?;
            data.push(Arc::new(FrameWriter::new(stream, limits::STREAM_QUEUE_BYTES_MAX, version)));
        }
        Ok(Self {
            link,
            identity,
            connection,
            since: Instant::now(),
            heard: Mutex::new((0, Instant::now())),
            control,
            data,
            accepted: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            pace: Pace::new(),
            process,
            bulk: Bulk::new(version),
            complaints: Mutex::default(),
            acceptance: Notify::new(),
            had_message: AtomicBool::new(false),
            awaited: AtomicUsize::new(0),
        })
    }

    /// For the control stream, whose first frame is the hello: that carries the lowest version.
    pub(super) fn control_writer(stream: quinn::SendStream) -> Arc<FrameWriter> {
        Arc::new(FrameWriter::new(stream, CONTROL_WAITING_BYTES_MAX, wire::PROTOCOL_VERSION_MIN))
    }

    /// The connection's number.
    #[must_use]
    pub fn link(&self) -> LinkId {
        self.link
    }

    /// The version that both ends speak.
    #[must_use]
    pub fn version(&self) -> u8 {
        self.bulk.version()
    }

    /// Who is at the other end, by its certificate.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.identity.node_id
    }

    /// Who is at the other end, with the certificate that says so.
    #[must_use]
    pub fn identity(&self) -> &tls::Peer {
        &self.identity
    }

    /// Whether the outcome of a message is still to come over this connection, in either direction.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed) > 0
    }

    /// Where the other end is now; it may move.
    #[must_use]
    pub fn remote_address(&self) -> std::net::SocketAddr {
        self.connection.remote_address()
    }

    /// The smoothed round trip time that QUIC measures.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// The congestion control that is at work.
    #[must_use]
    pub fn congestion(&self) -> Congestion {
        let state = self.connection.congestion_state().into_any();
        if state.is::<quinn::congestion::Bbr>() { Congestion::Bbr } else { Congestion::Cubic }
    }

    /// This side's address, where the system tells.
    #[must_use]
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.connection.local_ip().map(|ip| ip.to_canonical())
    }

    /// How long the connection has been there.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// For how long nothing at all has come from the peer, not even an acknowledgement. It is only as exact as
    /// the calls of this are frequent.
    pub fn silence(&self) -> Duration {
        let received = self.connection.stats().udp_rx.datagrams;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.0 != received {
            *heard = (received, Instant::now());
        }
        heard.1.elapsed()
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What QUIC counts of this connection.
    #[must_use]
    pub fn stats(&self) -> quinn::ConnectionStats {
        self.connection.stats()
    }

    /// Sends a data frame. `order` picks the stream: frames of one order stay in order.
    ///
    /// # Errors
    /// [`SendFailure`]; nothing was sent.
    pub fn send_data(&self, order: u64, frame: &Data) -> Result<(), SendFailure> {
        self.note_message();
        let sent = self.data[(order % self.data.len() as u64) as usize].send(frame);
        if sent == Err(SendFailure::Gone) && !self.is_gone() {
            // A connection with a part of its streams would fail a part of its conversations for ever.
            self.close(Refused::Malformed);
        }
        sent
    }

    fn accept(&self) {
        if !self.accepted.swap(true, Ordering::AcqRel) {
            self.acceptance.notify_waiters();
        }
    }

    pub(super) fn is_accepted(&self) -> bool {
        self.accepted.load(Ordering::Acquire)
    }

    pub(super) async fn until_accepted(&self) {
        let acceptance = self.acceptance.notified();
        if !self.accepted.load(Ordering::Acquire) {
            acceptance.await;
        }
    }

    /// The process at the other end.
    pub(super) fn process(&self) -> ProcessId {
        self.process
    }

    pub(super) fn bulk(&self) -> &Bulk {
        &self.bulk
    }

    /// Whether bulk connections stand beside this link: this side's, and the peer's.
    #[must_use]
    pub fn has_bulk(&self) -> (bool, bool) {
        self.bulk.is_open()
    }

    /// Sends a control frame, a large one over the bulk connection. `true`: it waits for that connection,
    /// which the caller is to open.
    pub(super) fn send_control(&self, frame: &Control) -> bool {
        self.accept();
        if !self.bulk.may_carry(frame) {
            self.note_sent(self.control.send(frame));
            return false;
        }
        let mut bytes = Vec::new();
        if let Err(error) = wire::encode_at(self.bulk.version(), frame, &mut bytes) {
            self.note_sent(Err(error.into()));
            return false;
        }
        match self.bulk.take(&bytes) {
            Way::Taken => false,
            Way::Opens => true,
            Way::Link => {
                self.send_encoded(&bytes);
                false
            }
        }
    }

    /// Sends control frames that are encoded already over the link.
    pub(super) fn send_encoded(&self, frames: &[u8]) {
        self.note_sent(self.control.send_encoded(frames));
    }

    fn note_sent(&self, sent: Result<(), SendFailure>) {
        match sent {
            Ok(()) | Err(SendFailure::Gone) => {}
            Err(SendFailure::Full) => {
                tracing::warn!(node = %self.node(), "the peer does not read its control stream: link closed");
                self.close(Refused::Full);
            }
            Err(SendFailure::Wire(error)) => {
                tracing::error!(node = %self.node(), %error, "a control frame does not fit and was not sent");
            }
        }
    }

    /// Sends a SWIM packet as a datagram, or on the control stream where the path carries none.
    pub(super) fn send_swim(&self, packet: Bytes) {
        self.accept();
        match self.connection.send_datagram(packet.clone()) {
            Ok(()) | Err(SendDatagramError::ConnectionLost(_)) => {}
            Err(
                SendDatagramError::TooLarge
                | SendDatagramError::Disabled
                | SendDatagramError::UnsupportedByPeer,
            ) => {
                metrics::counter!("shoal_transport_swim_on_stream_total").increment(1);
                // A full stream loses this packet, as a datagram would be lost.
                let _ = self.control.send_swim(&packet);
            }
        }
    }

    /// Ends this side's streams and waits until the peer has all of them. What is said from here on is not sent:
    /// on a stream that has ended it would only look as if the connection were damaged.
    pub(super) async fn flush(&self) {
        self.gone.store(true, Ordering::Release);
        let streams = std::iter::once(&self.control).chain(&self.data);
        let streams = futures_util::future::join_all(streams.map(|stream| stream.finish()));
        tokio::join!(streams, self.bulk.flush());
    }

    /// Whether the connection has ended: nothing that is sent now arrives.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Closes the connection and tells the peer why.
    pub(super) fn close(&self, reason: Refused) {
        self.connection.close(VarInt::from_u32(reason.code()), reason.as_str().as_bytes());
    }

    /// A mark only: a reading of the clock for each message would be among its larger costs.
    pub(super) fn note_message(&self) {
        if !self.had_message.load(Ordering::Relaxed) {
            self.had_message.store(true, Ordering::Relaxed);
        }
    }

    /// Reads everything that the peer sends until the connection ends; returns how it ended.
    pub(super) async fn run(self: &Arc<Self>, control: FrameReader, inbox: Inbox) -> LinkEnd {
        let mut readers = JoinSet::new();
        readers.spawn(read_frames(Arc::clone(self), control, Lane::Control, inbox.clone()));
        readers.spawn(read_datagrams(Arc::clone(self), inbox.clone()));
        readers.spawn(accept_data(Arc::clone(self), inbox.clone()));
        let keeper = tokio::spawn(keep_alive(Arc::clone(self)));
        let end = link_end(&self.connection.closed().await);
        keeper.abort();
        self.bulk.end();
        // What had arrived before the end is still to be read: a good-bye, an answer.
        let all_read = async { while readers.join_next().await.is_some() {} };
        let _ = timeout(LAST_WORDS, all_read).await;
        self.gone.store(true, Ordering::Release);
        inbox.data.peer_gone(self);
        end
    }
}

/// What the end of a QUIC connection tells of the peer.
pub(super) fn link_end(error: &ConnectionError) -> LinkEnd {
    match error {
        ConnectionError::TimedOut => LinkEnd::Idle,
        ConnectionError::LocallyClosed => LinkEnd::Local,
        ConnectionError::ApplicationClosed(close) => match Refused::from_code(close.error_code.into()) {
            Some(refused) => LinkEnd::Refused(refused),
            None => LinkEnd::Closed { reason: error.to_string() },
        },
        ConnectionError::Reset => {
            LinkEnd::Closed { reason: "the process at the other end does not know the connection".to_owned() }
        }
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::CidsExhausted => LinkEnd::Closed { reason: error.to_string() },
    }
}

async fn keep_alive(peer: Arc<Peer>) {
    let mut quiet = KEPT_ALIVE_AFTER_MESSAGE;
    loop {
        sleep(limits::LINK_KEEP_ALIVE).await;
        let spoke = peer.had_message.swap(false, Ordering::Relaxed);
        quiet = if spoke { Duration::ZERO } else { quiet.saturating_add(limits::LINK_KEEP_ALIVE) };
        if quiet < KEPT_ALIVE_AFTER_MESSAGE {
            peer.send_control(&Control::KeepAlive);
        }
    }
}

async fn read_datagrams(peer: Arc<Peer>, inbox: Inbox) {
    while let Ok(packet) = peer.connection.read_datagram().await {
        inbox.swim(peer.link, packet);
    }
}

async fn accept_data(peer: Arc<Peer>, inbox: Inbox) {
    tokio::select! {
        () = peer.until_accepted() => {}
        _ = peer.connection.closed() => return,
    }
    let mut readers = JoinSet::new();
    while let Ok(stream) = peer.connection.accept_uni().await {
        let reader = FrameReader::new(stream, limits::FRAME_BYTES_MAX);
        readers.spawn(read_frames(Arc::clone(&peer), reader, Lane::Data, inbox.clone()));
    }
    while readers.join_next().await.is_some() {}
}

impl Peer {
    /// How fast its control frames are read.
    pub(super) fn pace(&self) -> &Pace {
        &self.pace
    }

    pub(super) fn note_bad_frame(&self, error: &WireError) {
        metrics::counter!("shoal_transport_bad_frames_total").increment(1);
        if let Some(untold) = self.complaints.lock().unwrap_or_else(PoisonError::into_inner).tell() {
            tracing::warn!(node = %self.node(), %error, untold, "malformed frame dropped");
        }
    }

    /// A later version may say more than is understood here: that is skipped, and no fault of the peer.
    pub(super) fn note_unknown_frame(&self, what: &str) {
        metrics::counter!("shoal_transport_unknown_frames_total").increment(1);
        tracing::debug!(node = %self.node(), what, "a frame that this version does not know is skipped");
    }

    /// The stream cannot be followed further: the whole link goes, and both sides start afresh.
    pub(super) fn give_up(&self, reason: &str) {
        metrics::counter!("shoal_transport_bad_frames_total").increment(1);
        tracing::warn!(node = %self.node(), reason, "link closed");
        self.close(Refused::Malformed);
    }
}
