//! The transport's bounds, and what is configured of it, on real sockets.

mod common;
#[allow(unreachable_pub, missing_debug_implementations, reason = "shared with other programs")]
mod running;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, TransportConfig};
use shoal::core::contract::Input;
use shoal::core::error::Refused;
use shoal::core::limits;
use shoal::core::wire::{self, Control, Data, FrameKind, Want};
use shoal::node::certs::Ca;
use shoal::node::transport::{Congestion, SendFailure};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};

use common::ends::{End, EndOptions, hello, identity, link};
use common::mesh::{PATIENCE, message_from, new_ca, until};
use common::proxy::{Proxy, Toward};
use common::raw::{Raw, client, frame, read_frame};
use running::Place;

/// Time in which what should not happen would have happened.
const A_MOMENT: Duration = Duration::from_millis(300);

fn control(input: &Input) -> Option<Control> {
    if let Input::Control { frame, .. } = input { Some(frame.clone()) } else { None }
}

/// What a raw member says to have a link to this end; the link is accepted.
async fn member(end: &mut End, raw: &Raw) -> (quinn::SendStream, quinn::RecvStream) {
    let streams = raw.say(&frame(&hello("node-9", end.hello.mesh_id))).await;
    let link = end.link_up().await;
    end.transport.send_control(link, &Control::Check { nonce: 0 });
    streams
}

/// The first datagrams of handshakes, each for a connection of its own, as a real client makes them.
async fn first_datagrams(ca: &Ca, count: usize) -> Vec<Vec<u8>> {
    let catcher = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let to = catcher.local_addr().expect("bound");
    let config = client(&identity(ca, "node-9"));
    let mut caught = Vec::new();
    let mut buffer = vec![0; 2_048];
    while caught.len() < count {
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
        for _ in 0..16 {
            let connecting = endpoint.connect_with(config.clone(), to, "shoal").expect("valid");
            let read = timeout(PATIENCE, catcher.recv(&mut buffer)).await.expect("in time").expect("read");
            drop(connecting);
            caught.push(buffer[..read].to_vec());
        }
        endpoint.close(quinn::VarInt::from_u32(0), b"");
        // What its end says to the catcher is of no use.
        endpoint.wait_idle().now_or_drained(&catcher).await;
    }
    caught.retain(|datagram| datagram.len() >= 1_200 && datagram[0] & 0xf0 == 0xc0);
    caught
}

/// Reads away what else an endpoint says.
trait Drained {
    async fn now_or_drained(self, catcher: &UdpSocket);
}

impl<F: Future<Output = ()>> Drained for F {
    async fn now_or_drained(self, catcher: &UdpSocket) {
        let _ = timeout(Duration::from_millis(20), self).await;
        let mut rest = [0; 2_048];
        while catcher.try_recv(&mut rest).is_ok() {}
    }
}

fn is_retry(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xf0 == 0xf0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_above_the_bound_is_refused_and_one_above_a_quarter_of_it_must_prove_its_address() {
    let ca = new_ca("test");
    let end = End::open(&ca, "node-1");
    let config = client(&identity(&ca, "node-9"));
    let retries = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&retries);
    let proxy = Proxy::before(end.address(), move |toward, datagram| {
        if toward == Toward::Client && is_retry(datagram) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        true
    })
    .await;
    // All at once and without a hello, so that they are under way together.
    let silent = async |count: usize| {
        let connects = (0..count).map(|_| Raw::connect_with(config.clone(), end.address()));
        futures_util::future::join_all(connects).await
    };
    let first = silent(2 * limits::HANDSHAKES_UNPROVEN_MAX).await;
    assert!(first.iter().all(Result::is_ok), "there is room for them");
    let sent_away = Raw::connect_with(config.clone(), proxy.address).await.expect("it proves itself");
    assert!(retries.load(Ordering::Relaxed) > 0, "an unproven address is sent away to prove itself");

    let more = silent(2 * limits::HANDSHAKES_MAX).await;
    let refused = more.iter().filter(|raw| matches!(raw, Err(ConnectionError::ConnectionClosed(_)))).count();
    println!("{refused} of {} more were refused", more.len());
    assert!(refused > 0, "above the bound");
    drop((first, more, sent_away));
    let begun = Instant::now();
    while Raw::connect_with(config.clone(), end.address()).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "those that are gone make room");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshakes_from_many_ports_leaves_memory_flat_and_the_node_at_work() {
    let place = Place::new();
    let node = place.bootstrap("node-1", &[]);
    let members = node.get("/v1/cluster/members").json();
    let address: SocketAddr = members[0]["address"].as_str().expect("text").parse().expect("an address");
    let ca = Ca::load(&place.path().join("ca")).expect("there");
    let datagrams = first_datagrams(&ca, 2_000).await;
    let flood = async || {
        let mut sockets = Vec::new();
        for (n, datagram) in datagrams.iter().enumerate() {
            if n % 4 == 0 {
                sockets.push(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
            }
            sockets.last().expect("one").send_to(datagram, address).await.expect("sent");
        }
        sockets.len()
    };
    // What the first flood takes is what the bounds allow; the next ones take nothing more.
    flood().await;
    let before = node.resident_bytes();
    let mut ports = 0;
    for _ in 0..4 {
        ports += flood().await;
        sleep(Duration::from_millis(50)).await;
    }
    let after = node.resident_bytes();
    println!(
        "{ports} ports, {} datagrams: {} KiB before, {} KiB after",
        4 * datagrams.len(),
        before >> 10,
        after >> 10
    );
    assert!(after < before + (16 << 20), "{before} bytes before, {after} after");
    let mut late = End::open(&ca, "node-2");
    let begun = Instant::now();
    let linked = async {
        loop {
            late.dial(address);
            let told = |input: &Input| {
                let failed = matches!(input, Input::DialFailed { .. });
                (failed || matches!(input, Input::LinkUp { .. })).then_some(!failed)
            };
            if late.until(told).await {
                return;
            }
        }
    };
    timeout(PATIENCE, linked).await.expect("a good peer gets in");
    println!("a good peer got in after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_never_answers_is_sent_three_times_what_it_sent_and_less_than_a_datagram_more() {
    let ca = new_ca("test");
    let end = End::open(&ca, "node-1");
    let first = first_datagrams(&ca, 1).await.remove(0);
    let victim = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    victim.send_to(&first, end.address()).await.expect("sent");
    let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
    // Long enough for several retransmissions.
    while let Ok(Ok(length)) = timeout(Duration::from_secs(3), victim.recv(&mut buffer)).await {
        received += length;
    }
    println!("{received} bytes for {}", first.len());
    // quinn begins a datagram while any allowance is left, so the last one may go beyond it.
    let most = 3 * first.len() + 1_200;
    assert!(received > 0 && received < most, "{received} bytes for {}", first.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_has_so_many_links_and_no_more() {
    let ca = new_ca("test");
    let mut end = End::open(&ca, "node-1");
    let mut held = Vec::new();
    for _ in 0..limits::LINKS_PER_NODE_MAX {
        let raw = Raw::connect(&ca, "node-9", end.address()).await.expect("connects");
        let streams = member(&mut end, &raw).await;
        held.push((raw, streams));
    }
    let over = Raw::connect(&ca, "node-9", end.address()).await.expect("connects");
    let _streams = over.say(&frame(&hello("node-9", end.hello.mesh_id))).await;
    over.is_refused_with(Refused::Full).await;
    let other = Raw::connect(&ca, "node-8", end.address()).await.expect("connects");
    let _streams = other.say(&frame(&hello("node-8", end.hello.mesh_id))).await;
    end.link_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_bytes_are_read_at_their_pace() {
    let ca = new_ca("test");
    let mut end = End::open(&ca, "node-1");
    let raw = Raw::connect(&ca, "node-9", end.address()).await.expect("connects");
    let (mut send, _recv) = member(&mut end, &raw).await;
    // Of a kind that is not known: it costs nothing but its bytes.
    let body = vec![0; 1 << 20];
    let length = u32::try_from(body.len() + 2).expect("it fits");
    let large = [&length.to_le_bytes()[..], &[wire::PROTOCOL_VERSION_MIN, 99], &body].concat();
    let rate = usize::try_from(limits::CONTROL_BYTES_PER_SECOND_MAX).expect("it fits");
    // A second's worth may come at once; four more take four seconds.
    let count = 5 * rate / large.len();
    let begun = Instant::now();
    let writing = tokio::spawn(async move {
        for _ in 0..count {
            send.write_all(&large).await.expect("written");
        }
        send.write_all(&frame(&Control::Check { nonce: 1 })).await.expect("written");
        send
    });
    assert_eq!(end.until(control).await, Control::Check { nonce: 1 });
    println!("{count} MiB in {:?}", begun.elapsed());
    assert!(begun.elapsed() >= Duration::from_millis(3_500), "{:?}", begun.elapsed());
    writing.await.expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_reads_no_message_fills_its_queue_and_the_sender_is_told() {
    let ca = new_ca("test");
    let mut end = End::open(&ca, "node-1");
    let raw = Raw::connect(&ca, "node-9", end.address()).await.expect("connects");
    let _streams = raw.say(&frame(&hello("node-9", end.hello.mesh_id))).await;
    let there = end.link_up().await;
    let peer = end.peer(there);
    let message = message_from(1, "echo", &vec![7; 256 << 10]);
    let deliver = Data::Deliver { want: Want::Nothing, tag: 0, message };
    let mut sent = 0;
    let failure = loop {
        match peer.send_data(1, &deliver) {
            Ok(()) => sent += 1,
            Err(failure) => break failure,
        }
        assert!(sent < 1_000, "a queue has a bound");
    };
    assert_eq!(failure, SendFailure::Full);
    println!("{sent} messages of 256 KiB were taken");
    assert!(sent >= limits::STREAM_QUEUE_BYTES_MAX >> 18, "the queue takes what it says");
    assert_eq!(peer.send_data(2, &deliver), Ok(()), "another stream has room");
    assert!(!peer.is_gone(), "the link is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_kept_alive_once_a_message_has_gone_over_it_and_not_before() {
    let ca = new_ca("test");
    let mut end = End::open(&ca, "node-1");
    let quiet = Raw::connect(&ca, "node-8", end.address()).await.expect("connects");
    let (_quiet_send, mut quiet_recv) = quiet.say(&frame(&hello("node-8", end.hello.mesh_id))).await;
    end.link_up().await;
    let busy = Raw::connect(&ca, "node-9", end.address()).await.expect("connects");
    let (_send, mut recv) = busy.say(&frame(&hello("node-9", end.hello.mesh_id))).await;
    let there = end.link_up().await;
    let deliver = Data::Deliver { want: Want::Nothing, tag: 0, message: message_from(1, "echo", b"x") };
    end.peer(there).send_data(1, &deliver).expect("sent");
    for recv in [&mut recv, &mut quiet_recv] {
        assert_eq!(read_frame(recv).await.0, FrameKind::Hello);
    }
    let kept = timeout(2 * limits::LINK_KEEP_ALIVE, read_frame(&mut recv)).await.expect("in time");
    assert_eq!(wire::decode::<Control>(&kept.1).expect("decodes"), Control::KeepAlive);
    assert!(timeout(A_MOMENT, read_frame(&mut quiet_recv)).await.is_err(), "nothing keeps the quiet one");
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_goes_over_the_control_stream_where_the_path_carries_no_datagram() {
    let ca = new_ca("test");
    let mut end = End::open(&ca, "node-1");
    let mut config = client(&identity(&ca, "node-9"));
    let mut quic = TransportConfig::default();
    quic.datagram_receive_buffer_size(None);
    config.transport_config(Arc::new(quic));
    let raw = Raw::connect_with(config, end.address()).await.expect("connects");
    let (mut send, mut recv) = raw.say(&frame(&hello("node-9", end.hello.mesh_id))).await;
    let there = end.link_up().await;
    assert_eq!(read_frame(&mut recv).await.0, FrameKind::Hello);
    end.transport.send_swim(there, Bytes::from_static(b"a packet"));
    assert_eq!(read_frame(&mut recv).await, (FrameKind::Swim, b"a packet".to_vec()));
    let mut back = Vec::new();
    wire::encode_swim(wire::PROTOCOL_VERSION, b"its answer", &mut back);
    send.write_all(&back).await.expect("written");
    let swim =
        |input: &Input| if let Input::Swim { packet, .. } = input { Some(packet.clone()) } else { None };
    assert_eq!(end.until(swim).await, Bytes::from_static(b"its answer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_congestion_control_is_the_one_in_use_on_both_sides() {
    let ca = new_ca("test");
    for congestion in [Congestion::Cubic, Congestion::Bbr] {
        let options = EndOptions { congestion, ..EndOptions::default() };
        let mut one = End::open_with(&ca, "node-1", options.clone());
        let mut two = End::open_with(&ca, "node-2", options);
        let (here, there) = link(&mut one, &mut two).await;
        assert_eq!(one.peer(here).congestion(), congestion);
        assert_eq!(two.peer(there).congestion(), congestion);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_may_open_as_many_streams_as_are_configured_and_then_waits() {
    let ca = new_ca("test");
    for max_streams in [5, 12] {
        let options = EndOptions { max_streams, ..EndOptions::default() };
        let mut end = End::open_with(&ca, "node-1", options);
        let raw = Raw::connect(&ca, "node-9", end.address()).await.expect("connects");
        let _streams = member(&mut end, &raw).await;
        let mut open = Vec::new();
        while let Ok(stream) = timeout(A_MOMENT, raw.connection.open_uni()).await {
            let mut stream = stream.expect("the link lasts");
            stream.write_all(b"\x10\0\0\0").await.expect("written");
            open.push(stream);
        }
        assert_eq!(open.len(), max_streams as usize);
        // Those that end make room; that is announced once it is an eighth of them.
        for mut stream in open.split_off(max_streams as usize - 3) {
            stream.reset(quinn::VarInt::from_u32(0)).expect("reset");
        }
        timeout(PATIENCE, raw.connection.open_uni()).await.expect("there is room").expect("the link lasts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_49_corrupted_packets_are_dropped_and_nothing_of_them_gets_through() {
    let ca = new_ca("test");
    let (mut one, mut two) = (End::open(&ca, "node-1"), End::open(&ca, "node-2"));
    let corrupted = Arc::new(AtomicUsize::new(0));
    let (seen, mut n) = (Arc::clone(&corrupted), 0_usize);
    let proxy = Proxy::before(two.address(), move |_, datagram| {
        n += 1;
        if n % 5 == 0 {
            let at = (n * 131) % datagram.len();
            datagram[at] ^= 1 << (n % 8);
            seen.fetch_add(1, Ordering::Relaxed);
        }
        true
    })
    .await;
    one.dial(proxy.address);
    let (here, there) = (one.link_up().await, two.link_up().await);
    for nonce in 0..200 {
        one.transport.send_control(here, &Control::Check { nonce });
        assert_eq!(two.until(control).await, Control::Check { nonce });
        two.transport.send_control(there, &Control::CheckAnswer { nonce });
        assert_eq!(one.until(control).await, Control::CheckAnswer { nonce });
    }
    let lost = one.peer(here).stats().path.lost_packets + two.peer(there).stats().path.lost_packets;
    println!("{} datagrams corrupted, {lost} packets counted as lost", corrupted.load(Ordering::Relaxed));
    assert!(corrupted.load(Ordering::Relaxed) > 20 && lost > 0);
    until(|| !one.peer(here).is_gone() && !two.peer(there).is_gone()).await;
}
