//! Bulk goes beside the link: a second connection, opened for large control frames and closed when there are
//! none, of which whoever reads sees nothing.

mod common;

use std::time::Duration;

use shoal::core::contract::Input;
use shoal::core::error::Refused;
use shoal::core::ids::{Incarnation, LinkId, NodeKey, ProcessId};
use shoal::core::limits;
use shoal::core::model::Hello;
use shoal::core::wire::{
    self, Control, MemberEntry, MemberEntryState, ModulePart, RequestBody, ResponseBody,
};
use shoal::node::certs::Ca;
use shoal::node::clock;

use common::ends::{End, EndOptions, hello, link};
use common::mesh::{new_ca, until};
use common::raw::{Raw, frame, read_frame};

/// A member list far above the size from which frames count as bulk.
fn large_list() -> Control {
    let member = |n: u16| MemberEntry {
        key: NodeKey([n.to_le_bytes()[0]; 16]),
        incarnation: Incarnation(u64::from(n)),
        refutations: 0,
        state: MemberEntryState::Alive,
    };
    let list = Control::Members { members: (0..2_000).map(member).collect(), reply: false };
    assert!(frame(&list).len() > limits::BULK_FRAME_BYTES_MIN);
    list
}

/// An end that speaks the version from which there is bulk.
fn modern(ca: &Ca, name: &str) -> End {
    let end = End::open_with(ca, name, EndOptions::default());
    end.transport.set_hello(Hello { version_max: wire::BULK_SINCE, ..end.hello.clone() });
    end
}

async fn next_control(end: &mut End) -> (LinkId, Control) {
    let told = |input: &Input| {
        if let Input::Control { link, frame } = input { Some((*link, frame.clone())) } else { None }
    };
    end.until(told).await
}

/// Two ends with a link, over which both cores have spoken.
async fn linked(ca: &Ca) -> (End, LinkId, End, LinkId) {
    let (mut one, mut two) = (modern(ca, "node-1"), modern(ca, "node-2"));
    let (here, there) = link(&mut one, &mut two).await;
    two.transport.send_control(there, &Control::Check { nonce: 0 });
    next_control(&mut one).await;
    (one, here, two, there)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_list_goes_beside_the_link_in_either_direction_and_arrives_as_the_links() {
    let ca = new_ca("test");
    let (mut one, here, mut two, there) = linked(&ca).await;
    let list = large_list();
    for _ in 0..3 {
        one.transport.send_control(here, &list);
        assert_eq!(next_control(&mut two).await, (there, list.clone()));
    }
    assert_eq!(one.peer(here).has_bulk(), (true, false));
    assert_eq!(two.peer(there).has_bulk(), (false, true));
    // The side that was dialled opens its own.
    two.transport.send_control(there, &list);
    assert_eq!(next_control(&mut one).await, (here, list));
    assert_eq!(one.peer(here).has_bulk(), (true, true));

    let bytes = one.peer(here).stats().udp_tx.bytes;
    assert!(bytes < 40_000, "the link itself carried {bytes} bytes beside 3 lists of over 100 KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_module_goes_beside_the_link() {
    let ca = new_ca("test");
    let (one, here, mut two, there) = linked(&ca).await;
    let bytes = vec![7; limits::MODULE_PART_BYTES];
    let part = ModulePart { total_bytes: bytes.len() as u64, bytes: bytes.into() };
    let part = Control::Response { id: 1, result: Ok(ResponseBody::ModulePart(part)) };
    one.transport.send_control(here, &part);
    assert_eq!(next_control(&mut two).await, (there, part));
    assert_eq!(one.peer(here).has_bulk(), (true, false));
    let sent = one.peer(here).stats().udp_tx.bytes;
    assert!(sent < 40_000, "the link itself carried {sent} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_small_or_must_stay_in_order_stays_on_the_link() {
    let ca = new_ca("test");
    let (mut one, here, two, there) = linked(&ca).await;
    let lines = vec!["x".repeat(limits::BULK_FRAME_BYTES_MIN * 2)];
    let long_answer = Control::Response { id: 1, result: Ok(wire::ResponseBody::Lines { lines }) };
    let small = [
        Control::Members { members: Vec::new(), reply: true },
        Control::Request { id: 1, body: RequestBody::Ping },
        long_answer,
    ];
    for frame in small {
        two.transport.send_control(there, &frame);
        assert_eq!(next_control(&mut one).await, (here, frame));
    }
    assert_eq!(two.peer(there).has_bulk(), (false, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_connection_closes_when_idle_is_opened_anew_and_goes_down_with_its_link() {
    let ca = new_ca("test");
    let (one, here, mut two, there) = linked(&ca).await;
    one.transport.send_control(here, &large_list());
    next_control(&mut two).await;
    let (mine, theirs) = (one.peer(here), two.peer(there));
    let begun = tokio::time::Instant::now();
    until(|| mine.has_bulk() == (false, false) && theirs.has_bulk() == (false, false)).await;
    assert!(begun.elapsed() < 2 * limits::BULK_IDLE_MAX + Duration::from_secs(2), "{:?}", begun.elapsed());

    one.transport.send_control(here, &large_list());
    next_control(&mut two).await;
    assert!(mine.has_bulk().0);
    one.transport.close(here, Refused::Failed);
    let down = |input: &Input| matches!(input, Input::LinkDown { .. }).then_some(());
    two.until(down).await;
    until(|| mine.has_bulk() == (false, false) && theirs.has_bulk() == (false, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_the_version_before_gets_its_bulk_over_the_link() {
    let ca = new_ca("test");
    let (mut one, mut two) = (modern(&ca, "node-1"), End::open(&ca, "node-2"));
    let (here, there) = link(&mut one, &mut two).await;
    let list = large_list();
    one.transport.send_control(here, &list);
    assert_eq!(next_control(&mut two).await, (there, list));
    assert_eq!(one.peer(here).has_bulk(), (false, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_for_a_peer_that_takes_no_second_connection_goes_over_the_link() {
    let ca = new_ca("test");
    let mut end = modern(&ca, "node-1");
    // A plain QUIC client: nobody can dial it.
    let raw = Raw::connect(&ca, "node-2", end.address()).await.expect("connects");
    let modern = Hello { version_max: wire::BULK_SINCE, ..hello("node-2", end.hello.mesh_id) };
    let (_send, mut recv) = raw.say(&frame(&modern)).await;
    let there = end.link_up().await;
    let list = large_list();
    end.transport.send_control(there, &list);
    end.transport.send_control(there, &list);
    let mut lists = 0;
    while lists < 2 {
        let (kind, body) = read_frame(&mut recv).await;
        if kind == wire::FrameKind::Control {
            assert_eq!(wire::decode::<Control>(&body).expect("decodes"), list);
            lists += 1;
        }
    }
    assert_eq!(end.peer(there).has_bulk(), (false, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_connection_without_its_link_is_refused() {
    let ca = new_ca("test");
    let mut end = modern(&ca, "node-1");
    let good = Hello { bulk_beside: Some(end.hello.process_id), ..hello("node-2", end.hello.mesh_id) };
    let linked = Raw::connect(&ca, "node-2", end.address()).await.expect("connects");
    let _streams = linked.say(&frame(&hello("node-2", end.hello.mesh_id))).await;
    let there = end.link_up().await;
    end.transport.send_control(there, &Control::KeepAlive);
    let other_process = Hello { bulk_beside: Some(ProcessId(clock::random_id())), ..good.clone() };
    for (what, hello) in [("of another process of the node", good), ("to another process", other_process)] {
        println!("{what}");
        let bulk = Raw::connect(&ca, "node-2", end.address()).await.expect("connects");
        let _streams = bulk.say(&frame(&hello)).await;
        bulk.is_refused_with(Refused::Superseded).await;
    }
    assert_eq!(end.peer(there).has_bulk(), (false, false));
}
