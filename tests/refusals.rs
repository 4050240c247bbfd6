//! What the network says of a destination reaches whom it concerns: a dial to a port where nothing listens
//! is over at once, a link's peer that is gone is hinted at, and nobody else loses anything by it.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal::core::contract::{Input, LinkEnd, Sign};
use shoal::core::limits;
use shoal::core::wire::Control;
use tokio::runtime::Runtime;

use common::ends::{End, EndOptions, link};
use common::mesh::new_ca;

/// A transport on an executor of its own: a process, as far as its socket is concerned.
struct Process {
    end: End,
    executor: Runtime,
}

impl Process {
    fn start(ca: &shoal::node::certs::Ca, name: &str, options: EndOptions) -> Self {
        let executor = Runtime::new().expect("an executor");
        let end = {
            let _entered = executor.enter();
            End::open_with(ca, name, options)
        };
        Self { end, executor }
    }

    /// Ends it as kill -9 would: the socket is closed, and no peer is told.
    async fn kill(self) {
        let Self { end, executor } = self;
        let dropped = tokio::task::spawn_blocking(move || {
            executor.shutdown_timeout(Duration::from_secs(5));
            drop(end);
        });
        dropped.await.expect("it ends");
    }
}

fn closed_port() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound")
}

fn hint(input: &Input) -> Option<(shoal::core::ids::LinkId, Sign)> {
    if let Input::Hint { link, sign, .. } = input { Some((*link, *sign)) } else { None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_to_a_port_where_nothing_listens_fails_at_once_and_says_so() {
    let ca = new_ca("test");
    let mut end = End::open(&ca, "node-1");
    let begun = Instant::now();
    end.dial(closed_port());
    let failed = |input: &Input| {
        if let Input::DialFailed { reason, refused, .. } = input {
            Some((reason.clone(), *refused))
        } else {
            None
        }
    };
    let (reason, refused) = end.until(failed).await;
    println!("refused after {:?}", begun.elapsed());
    assert!(reason.contains("connection refused"), "{reason}");
    assert_eq!(refused, None, "nobody of the mesh was reached");
    assert!(begun.elapsed() < limits::HANDSHAKE_DEADLINE / 5, "{:?}", begun.elapsed());
}

async fn a_gone_process_is_hinted_at(options: EndOptions) {
    let ca = new_ca("test");
    let mut end = End::open_with(&ca, "node-1", options);
    let mut process = Process::start(&ca, "node-2", EndOptions::default());
    let (here, _) = link(&mut end, &mut process.end).await;
    process.kill().await;
    let begun = Instant::now();
    end.transport.send_swim(here, Bytes::from_static(b"are you there"));
    let (hinted, sign) = end.until(hint).await;
    assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
    assert_eq!((hinted, sign), (here, Sign::PortUnreachable));
    assert!(end.transport.peer(here).is_some(), "a hint is no verdict: the link is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_gone_is_hinted_at_with_the_first_datagram_that_its_port_refuses() {
    a_gone_process_is_hinted_at(EndOptions::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_for_both_families_hears_of_an_ipv4_peer_too() {
    let both = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
    a_gone_process_is_hinted_at(EndOptions { bind: both, ..EndOptions::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_refusals_disturb_no_other_link_and_hint_at_their_pace() {
    let ca = new_ca("test");
    let mut end = End::open(&ca, "node-1");
    let mut living = End::open(&ca, "node-2");
    let mut process = Process::start(&ca, "node-3", EndOptions::default());
    let (to_living, _) = link(&mut end, &mut living).await;
    let (to_dead, _) = link(&mut end, &mut process.end).await;
    process.kill().await;

    let begun = Instant::now();
    let closed = closed_port();
    let (mut sent, mut hints, mut dials_refused) = (0_u64, 0_u32, 0_u32);
    while dials_refused < 1_000 {
        for _ in 0..16 {
            end.transport.send_swim(to_dead, Bytes::from_static(b"are you there"));
            end.dial(closed);
        }
        end.transport.send_control(to_living, &Control::Check { nonce: sent });
        let arrived = |input: &Input| {
            matches!(input, Input::Control { frame: Control::Check { nonce }, .. } if *nonce == sent)
                .then_some(())
        };
        living.until(arrived).await;
        sent += 1;
        while let Some(input) = end.told() {
            assert!(!matches!(input, Input::LinkDown { .. }), "{input:?}");
            hints += u32::from(hint(&input).is_some());
            dials_refused += u32::from(matches!(input, Input::DialFailed { .. }));
        }
    }
    let intervals = begun.elapsed().as_millis() / limits::HINT_INTERVAL.as_millis();
    println!("{sent} frames arrived beside {hints} hints in {intervals} intervals");
    assert!(hints >= 1 && u128::from(hints) <= intervals + 1, "{hints} hints in {intervals} intervals");

    // The endpoint still dials and accepts.
    let mut late = End::open(&ca, "node-4");
    link(&mut end, &mut late).await;
    let mut early = End::open(&ca, "node-5");
    link(&mut early, &mut end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_comes_back_on_its_port_with_its_keys_ends_the_old_link_at_once() {
    let ca = new_ca("test");
    let mut end = End::open(&ca, "node-1");
    let kept = EndOptions::default();
    let mut process = Process::start(&ca, "node-2", kept.clone());
    let (here, _) = link(&mut end, &mut process.end).await;
    let bind = process.end.address();
    process.kill().await;
    let again = Process::start(&ca, "node-2", EndOptions { bind, ..kept });
    let begun = Instant::now();
    end.transport.send_swim(here, Bytes::from_static(b"are you there"));
    let down = |input: &Input| {
        if let Input::LinkDown { reason, .. } = input { Some(reason.clone()) } else { None }
    };
    let reason = end.until(down).await;
    println!("reset after {:?}", begun.elapsed());
    assert!(matches!(reason, LinkEnd::Closed { .. }), "{reason:?}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    again.kill().await;
}
