//! The UDP socket under QUIC, which also hears what the network says of datagrams that did not arrive.
//!
//! A machine whose port is closed answers with an ICMP error. Linux tells an unconnected socket of such
//! errors only when asked (`IP_RECVERR`), and then in two ways: it queues each with the destination that it
//! is about, and it fails the *next* call on the socket, whomever that one was for. The first is what
//! [`Socket`] reads and passes on; the second it takes off and tries again, so that no error about one peer
//! costs another peer a datagram.
//!
//! Everything else is as in quinn's own socket for tokio: segmentation offload, ECN, readiness. It does not
//! judge: an ICMP error can be forged by whoever guesses two ports, so it is a hint and never a verdict.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::{Interest, Ready};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::LogPace;
use crate::core::contract::Sign;

/// Errors about earlier datagrams that one sending or receiving takes off before it gives up or gives way.
const ERRORS_PER_CALL_MAX: u32 = 8;
/// Errors read from the queue before other tasks get their turn.
const ERRORS_PER_TURN_MAX: usize = 64;
/// Bytes for what the kernel says about one error: the error, its sender, and what it says about packets.
const ERROR_BYTES: usize = 512;
/// Wait before a full send buffer is tried again where readiness can no longer be waited for.
const SEND_RETRY_AFTER: Duration = Duration::from_millis(1);

fn sign_of(error: &libc::sock_extended_err) -> Option<Sign> {
    if ![libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(&error.ee_origin) {
        return None;
    }
    match i32::try_from(error.ee_errno).ok()? {
        libc::ECONNREFUSED => Some(Sign::PortUnreachable),
        libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::EACCES => Some(Sign::HostUnreachable),
        libc::ENETUNREACH | libc::ENONET => Some(Sign::NetworkUnreachable),
        // A packet that was too large, a protocol that is not spoken: nothing about who is there.
        _ => None,
    }
}

/// A destination that a datagram did not reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreached {
    /// Where it was sent; an IPv4 address is one, also on a socket for both.
    pub(super) address: SocketAddr,
    pub(super) sign: Sign,
}

/// quinn's socket. Closes when quinn drops it.
#[derive(Debug)]
pub(super) struct Socket {
    shared: Arc<Shared>,
    errors: tokio::task::AbortHandle,
}

#[derive(Debug)]
struct Shared {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    /// The send buffer was full when it was last tried.
    is_blocked: AtomicBool,
    complaints: Mutex<LogPace>,
}

impl Socket {
    /// Makes the socket ready for quinn and begins to pass on what the network says; what the receiver has
    /// no room for is dropped. Must be called on the node's executor.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(socket: std::net::UdpSocket, unreached: mpsc::Sender<Unreached>) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        if socket.local_addr()?.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
        let io = tokio::net::UdpSocket::from_std(socket)?;
        let shared =
            Arc::new(Shared { io, state, is_blocked: AtomicBool::new(false), complaints: Mutex::default() });
        let errors = tokio::spawn(read_errors(Arc::clone(&shared), unreached)).abort_handle();
        Ok(Self { shared, errors })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.errors.abort();
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(SendTurn { shared: Arc::clone(&self.shared), waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.shared.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Shared { io, state, .. } = &*self.shared;
        for _ in 0..ERRORS_PER_CALL_MAX {
            ready!(io.poll_recv_ready(context))?;
            // An error is one about an earlier datagram, which is taken off with it, or none was waiting.
            if let Ok(count) = io.try_io(Interest::READABLE, || state.recv(io.into(), buffers, meta)) {
                return Poll::Ready(Ok(count));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.shared.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.shared.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.shared.state.gro_segments()
    }
}

impl Shared {
    /// Sends, or says that the send buffer is full. A datagram that the system refuses for good is lost, as
    /// the network may lose any.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Self { io, state, .. } = self;
        let mut errors = 0;
        let sent = io.try_io(Interest::WRITABLE, || {
            loop {
                match state.try_send(io.into(), transmit) {
                    Err(error) if errors < ERRORS_PER_CALL_MAX && may_be_about_another(&error) => errors += 1,
                    result => return result,
                }
            }
        });
        match sent {
            Ok(()) => self.note_blocked(false),
            // The address that the peer knows this side by is gone: another one may reach it.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && transmit.src_ip.is_some() => {
                return self.try_send(&Transmit { src_ip: None, ..transmit.clone() });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.note_blocked(true);
                return Err(error);
            }
            // Larger than the interface takes: so quinn finds out how large packets may be.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
            Err(error) => self.complain(&error, transmit.destination),
        }
        Ok(())
    }

    fn note_blocked(&self, is_blocked: bool) {
        if self.is_blocked.load(Ordering::Relaxed) != is_blocked {
            self.is_blocked.store(is_blocked, Ordering::Relaxed);
        }
    }

    fn complain(&self, error: &io::Error, destination: SocketAddr) {
        if let Some(untold) = self.complaints.lock().unwrap_or_else(PoisonError::into_inner).tell() {
            tracing::debug!(%destination, %error, untold, "a datagram could not be sent");
        }
    }

    /// Waits until a full send buffer is worth another try.
    async fn writable(&self) -> io::Result<()> {
        let ready = self.io.ready(Interest::WRITABLE).await?;
        // epoll reports a queued error with "writable", which tokio takes for the closed end of a pipe and
        // holds for final: from the first ICMP error on `ready` returns at once, whatever the buffer.
        if (ready & Ready::WRITABLE).is_empty() {
            sleep(SEND_RETRY_AFTER).await;
        }
        Ok(())
    }

    /// Reads queued errors up to a turn's worth; `WouldBlock` when there are no more.
    fn read_queue(&self, space: &mut [u8], unreached: &mpsc::Sender<Unreached>) -> io::Result<()> {
        for _ in 0..ERRORS_PER_TURN_MAX {
            if let Some(found) = read_error(&self.io, space)? {
                // The receiver has no room: there is more news than it can use.
                let _ = unreached.try_send(found);
            }
        }
        Ok(())
    }
}

/// Errors that the system keeps from an earlier datagram and hands to whatever call comes next. Those that
/// are about this very datagram come again and are believed then.
fn may_be_about_another(error: &io::Error) -> bool {
    let codes = [
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::EHOSTDOWN,
        libc::ENETUNREACH,
        libc::ENONET,
        libc::EACCES,
        libc::EMSGSIZE,
        libc::ENOPROTOOPT,
        libc::EOPNOTSUPP,
        libc::EPROTO,
    ];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

async fn read_errors(shared: Arc<Shared>, unreached: mpsc::Sender<Unreached>) {
    // On the heap, where it is aligned for the kernel's headers.
    let mut space = vec![0; ERROR_BYTES];
    // It fails only with the executor.
    while shared.io.ready(Interest::ERROR).await.is_ok() {
        if shared.io.try_io(Interest::ERROR, || shared.read_queue(&mut space, &unreached)).is_ok() {
            tokio::task::yield_now().await;
        }
    }
}

/// Takes one error off the queue; `None` when it says nothing about who can be reached.
fn read_error(socket: &tokio::net::UdpSocket, space: &mut [u8]) -> io::Result<Option<Unreached>> {
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut [], Some(space), flags)?;
    let sign = message.cmsgs()?.find_map(|said| {
        let (ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _)) = said
        else {
            return None;
        };
        sign_of(&error)
    });
    // The name of the message is where the datagram went.
    let v4 = |a: &SockaddrStorage| a.as_sockaddr_in().map(|a| SocketAddr::V4(SocketAddrV4::from(*a)));
    let v6 = |a: &SockaddrStorage| a.as_sockaddr_in6().map(|a| SocketAddr::V6(SocketAddrV6::from(*a)));
    let address = message.address.and_then(|address| v4(&address).or_else(|| v6(&address)));
    Ok(sign.zip(address).map(|(sign, address)| Unreached { address: canonical(address), sign }))
}

/// An address in the form in which it is compared: IPv4 as such, and nothing beside address and port.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

type Wait = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// One connection's turn to send. Nothing is waited for, and nothing allocated, while the buffer has room.
struct SendTurn {
    shared: Arc<Shared>,
    waiting: Option<Wait>,
}

impl std::fmt::Debug for SendTurn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendTurn").field("is_waiting", &self.waiting.is_some()).finish_non_exhaustive()
    }
}

impl UdpPoller for SendTurn {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_none() && !self.shared.is_blocked.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let shared = Arc::clone(&self.shared);
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { shared.writable().await }));
        let result = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use quinn::udp::EcnCodepoint;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn plain() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        (socket, address)
    }

    fn socket() -> (Socket, mpsc::Receiver<Unreached>) {
        let (unreached, found) = mpsc::channel(4);
        (Socket::open(plain().0, unreached).expect("opens"), found)
    }

    fn datagram(destination: SocketAddr, contents: &[u8]) -> Transmit<'_> {
        Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None }
    }

    async fn send(socket: &Socket, transmit: &Transmit<'_>) {
        while let Err(error) = socket.try_send(transmit) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            timeout(PATIENCE, socket.shared.writable()).await.expect("in time").expect("no error");
        }
    }

    async fn receive(socket: &Socket) -> (Vec<u8>, RecvMeta) {
        let mut buffer = vec![0; 64 << 10];
        let mut meta = [RecvMeta::default()];
        let received = std::future::poll_fn(|context| {
            socket.poll_recv(context, &mut [IoSliceMut::new(&mut buffer)], &mut meta)
        });
        let count = timeout(PATIENCE, received).await.expect("in time").expect("no error ends a socket");
        assert_eq!(count, 1);
        (buffer[..meta[0].len].to_vec(), meta[0])
    }

    #[tokio::test]
    async fn a_refused_datagram_is_told_with_its_destination() {
        let (socket, mut found) = socket();
        let (_, closed) = plain();
        send(&socket, &datagram(closed, b"nobody there")).await;
        let found = timeout(PATIENCE, found.recv()).await.expect("in time");
        assert_eq!(found, Some(Unreached { address: closed, sign: Sign::PortUnreachable }));
    }

    #[tokio::test]
    async fn refused_datagrams_cost_nobody_else_one_in_either_direction() {
        let (socket, _found) = socket();
        let own = socket.local_addr().expect("bound");
        let (_, closed) = plain();
        let (living, there) = plain();
        living.set_read_timeout(Some(PATIENCE)).expect("set");
        for n in 0..3_000_u32 {
            send(&socket, &datagram(closed, b"nobody there")).await;
            send(&socket, &datagram(there, &n.to_le_bytes())).await;
            let mut bytes = [0; 8];
            let (length, _) = living.recv_from(&mut bytes).expect("it arrives");
            assert_eq!(bytes[..length], n.to_le_bytes());
            send(&socket, &datagram(closed, b"nobody there")).await;
            living.send_to(&n.to_le_bytes(), own).expect("sent");
            assert_eq!(receive(&socket).await.0, n.to_le_bytes());
        }
    }

    #[tokio::test]
    async fn segments_and_congestion_marks_pass_as_through_any_socket() {
        let (one, _found) = socket();
        let (other, _found) = socket();
        let destination = other.local_addr().expect("bound");
        let contents = vec![7; 3_000];
        let marked = Transmit {
            ecn: Some(EcnCodepoint::Ce),
            segment_size: Some(1_200),
            ..datagram(destination, &contents)
        };
        assert!(one.max_transmit_segments() > 1 && other.max_receive_segments() > 1, "this kernel has both");
        send(&one, &marked).await;
        let (received, meta) = receive(&other).await;
        assert_eq!((received.len(), meta.stride, meta.ecn), (3_000, 1_200, Some(EcnCodepoint::Ce)));
    }

    #[tokio::test]
    async fn a_full_send_buffer_is_waited_for_even_after_an_error() {
        let (socket, mut found) = socket();
        let (_, closed) = plain();
        send(&socket, &datagram(closed, b"nobody there")).await;
        found.recv().await.expect("refused");
        // As a send does that finds the buffer full.
        let full = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        socket.shared.io.try_io(Interest::WRITABLE, full).expect_err("full");
        socket.shared.note_blocked(true);
        let socket = Arc::new(socket);
        let mut turn = Arc::clone(&socket).create_io_poller();
        let mut polls = 0;
        let waited = std::future::poll_fn(|context| {
            polls += 1;
            turn.as_mut().poll_writable(context)
        });
        timeout(PATIENCE, waited).await.expect("in time").expect("no error");
        assert!(polls > 1, "it is asked again later, not at once and for ever");
        send(&socket, &datagram(closed, b"nobody there")).await;
        assert!(!socket.shared.is_blocked.load(Ordering::Relaxed), "a datagram that was sent says so");
    }
}
