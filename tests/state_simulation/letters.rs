//! Messages that are delivered at least once, under whatever can happen to a mesh.

use shoal::core::ids::AgentName;
use shoal::core::model::{Address, AgentSource, AgentSpec, LetterState};
use shoal::core::wire::{DeadOnes, OutboxAnswer, OutboxRequest};
use shoal::sim::Schedule;

use super::storms::{seeds, span_or};
use super::*;

const LIFE: Duration = Duration::from_secs(3600);

fn to(agent: &str) -> Address {
    Address::parse(agent).expect("a valid address")
}

/// Starts an agent that answers, on a machine.
fn deploy(world: &mut World, machine: usize, agent: &str) {
    let name = AgentName::new(agent).expect("a valid name");
    let spec = AgentSpec::new(name, AgentSource::Native { builtin: "echo".to_owned() });
    let node = world.node(machine).clone();
    let id = world.request(machine, &node, RequestBody::Deploy { spec });
    let end = world.now() + seconds(10);
    world.run_until(end, |world| world.report().replies.contains_key(&(machine, id)));
    let result = &world.report().replies[&(machine, id)].1;
    assert!(result.is_ok(), "{result:?}");
}

fn outbox(world: &mut World, machine: usize, request: OutboxRequest) -> Result<OutboxAnswer, String> {
    let node = world.node(machine).clone();
    let id = world.request(machine, &node, RequestBody::Outbox(request));
    replied(world, machine, id)
}

fn replied(world: &mut World, machine: usize, id: RequestId) -> Result<OutboxAnswer, String> {
    let end = world.now() + seconds(20);
    world.run_until(end, |world| world.report().replies.contains_key(&(machine, id)));
    match &world.report().replies.get(&(machine, id)).expect("it is answered").1 {
        Ok(ResponseBody::Outbox(answer)) => Ok(answer.clone()),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.to_string()),
    }
}

fn promised(world: &mut World, machine: usize, agent: &str, life: Duration) -> uuid::Uuid {
    let id = world.post(machine, &to(agent), None, life);
    match replied(world, machine, id) {
        Ok(OutboxAnswer::Accepted { id }) => id,
        other => panic!("{other:?}"),
    }
}

fn trace(world: &mut World, machine: usize, id: uuid::Uuid) -> (LetterState, u32) {
    match outbox(world, machine, OutboxRequest::Trace { id }) {
        Ok(OutboxAnswer::Trace(Some(trace))) => (trace.state, trace.tries),
        other => panic!("{other:?}"),
    }
}

/// Nothing waits any more, and all that was promised was handled or is among the dead letters.
fn delivered(world: &mut World, within: Duration) {
    let end = world.now() + within;
    let done = world.run_until(end, |world| world.undelivered().is_empty());
    assert_eq!(world.broken(), [] as [String; 0]);
    assert!(done.is_some(), "{:#?}", world.undelivered());
}

#[test]
fn a_message_waits_for_its_agent_and_for_its_node() {
    let mut world = healthy_mesh(3, 31);
    let id = promised(&mut world, 0, "worker", LIFE);
    world.run_for(seconds(5));
    let (state, tries) = trace(&mut world, 0, id);
    assert!(matches!(state, LetterState::Waiting) && tries > 3, "{state:?} after {tries} tries");
    deploy(&mut world, 2, "worker");
    delivered(&mut world, seconds(40));
    assert!(matches!(trace(&mut world, 0, id).0, LetterState::Delivered { .. }));

    world.crash(2);
    let second = promised(&mut world, 0, "worker", LIFE);
    world.run_for(seconds(60));
    assert!(matches!(trace(&mut world, 0, second).0, LetterState::Waiting | LetterState::Trying));
    world.start(2);
    delivered(&mut world, seconds(60));
}

#[test]
fn a_message_outlives_the_process_that_has_promised_it() {
    let mut world = healthy_mesh(3, 32);
    for _ in 0..10 {
        promised(&mut world, 1, "worker", LIFE);
    }
    world.crash(1);
    world.run_for(seconds(5));
    world.start(1);
    deploy(&mut world, 0, "worker");
    delivered(&mut world, seconds(60));
    assert_eq!(world.letters().0, 10);
}

#[test]
fn what_is_over_is_a_dead_letter_until_it_is_taken_up_again() {
    let mut world = healthy_mesh(3, 33);
    let id = promised(&mut world, 0, "worker", seconds(10));
    world.run_for(seconds(11));
    let (state, _) = trace(&mut world, 0, id);
    assert!(
        matches!(&state, LetterState::Dead { reason, .. } if reason.contains("no agent named worker")),
        "{state:?}"
    );
    world.crash(0);
    world.start(0);
    world.run_for(seconds(5));
    let listed = outbox(&mut world, 0, OutboxRequest::DeadLetters { limit: 10, after: None });
    let Ok(OutboxAnswer::DeadLetters { letters, total: 1 }) = listed else {
        panic!("{listed:?}");
    };
    assert_eq!(letters[0].id, id);
    deploy(&mut world, 1, "worker");
    let request = OutboxRequest::Retry { letters: DeadOnes::These(vec![id]) };
    // Of another node as well.
    let node = world.node(0).clone();
    let asked = world.request(1, &node, RequestBody::Outbox(request));
    assert_eq!(replied(&mut world, 1, asked), Ok(OutboxAnswer::Changed { count: 1, left: 0 }));
    world.run_for(seconds(20));
    assert!(matches!(trace(&mut world, 0, id).0, LetterState::Delivered { .. }));
}

#[test]
fn no_node_promises_for_another_ones_clients() {
    let mut world = healthy_mesh(2, 34);
    let message = shoal::core::model::Message {
        id: uuid::Uuid::from_u128(1),
        from: "client@n1".to_owned(),
        to: to("worker"),
        performative: shoal::core::model::Performative::Inform,
        conversation_id: None,
        in_reply_to: None,
        content_type: "text/plain".to_owned(),
        content: Bytes::new(),
        deadline_ms: 5_000,
        traceparent: None,
        hops: 0,
        extensions: std::collections::BTreeMap::new(),
    };
    let node = world.node(1).clone();
    let request = OutboxRequest::Accept { messages: vec![message], life_ms: 1000 };
    let asked = world.request(0, &node, RequestBody::Outbox(request));
    let refused = replied(&mut world, 0, asked);
    assert!(refused.as_ref().is_err_and(|why| why.contains("its own agents and clients")), "{refused:?}");
}

#[test]
fn a_full_disk_promises_nothing_and_forgets_nothing() {
    let mut world = healthy_mesh(3, 35);
    deploy(&mut world, 1, "worker");
    for _ in 0..20 {
        world.post(0, &to("worker"), None, LIFE);
    }
    // Some of them are delivered, and none of that can be stored.
    world.run_for(Duration::from_millis(15));
    world.apply(&Fault::DiskFull { machine: 0, full: true });
    world.run_for(seconds(5));
    let id = world.post(0, &to("worker"), None, LIFE);
    let refused = replied(&mut world, 0, id);
    assert!(refused.as_ref().is_err_and(|why| why.contains("full")), "{refused:?}");
    world.apply(&Fault::DiskFull { machine: 0, full: false });
    delivered(&mut world, seconds(60));
    rests(&mut world);
    let (promised, handled, _) = world.letters();
    assert!(promised <= handled && handled <= 20, "{promised} were promised, {handled} handled");
}

#[test]
fn a_node_with_messages_to_be_delivered_does_not_leave_its_mesh() {
    let mut world = healthy_mesh(3, 36);
    let id = promised(&mut world, 2, "worker", LIFE);
    let node = world.node(2).clone();
    let leave = RequestBody::Leave { drain_ms: 1000, force: false };
    let asked = world.request(2, &node, leave.clone());
    world.run_for(seconds(15));
    let refused = world.report().replies[&(2, asked)].1.clone();
    assert!(
        refused.as_ref().is_err_and(|why| why.to_string().contains("1 messages to be delivered")),
        "{refused:?}"
    );
    deploy(&mut world, 0, "worker");
    delivered(&mut world, seconds(60));
    assert!(matches!(trace(&mut world, 2, id).0, LetterState::Delivered { .. }));
    let asked = world.request(2, &node, leave);
    world.run_for(seconds(15));
    assert!(world.report().replies[&(2, asked)].1.is_ok());
}

/// More messages are over at once than may be on their way to the disk.
#[test]
fn thousands_of_messages_that_are_over_at_once_hold_up_nobody() {
    let mut world = healthy_mesh(3, 37);
    for _ in 0..40 {
        for _ in 0..75 {
            world.post(0, &to("nobody"), None, seconds(10));
        }
        world.run_for(Duration::from_millis(50));
    }
    // Also when they were over before the process began.
    world.crash(0);
    world.run_for(seconds(20));
    world.start(0);
    delivered(&mut world, seconds(60));
    assert_eq!(world.letters().0, 3000);
    rests(&mut world);
    assert!(world.view(0).is_some_and(|view| view.outbox == 0 && view.dead_letters == 3000));
}

/// It waits for what it has promised, as one among others does, and ends its mesh when nothing is left.
#[test]
fn the_last_node_of_a_mesh_delivers_what_it_has_promised_before_it_leaves() {
    let mut world = healthy_mesh(1, 39);
    promised(&mut world, 0, "worker", LIFE);
    let node = world.node(0).clone();
    let asked = world.request(0, &node, RequestBody::Leave { drain_ms: 1000, force: false });
    world.run_for(seconds(2));
    deploy(&mut world, 0, "worker");
    world.run_for(seconds(8));
    let left = world.report().replies.get(&(0, asked)).map(|(_, result)| result.clone());
    assert!(matches!(left, Some(Ok(_))), "{left:?}");
}

#[test]
fn a_node_with_dead_letters_leaves_them_behind_only_when_it_is_told_to() {
    let mut world = healthy_mesh(3, 38);
    promised(&mut world, 2, "nobody", seconds(1));
    world.run_for(seconds(5));
    let node = world.node(2).clone();
    let mut leaves = |force| {
        let asked = world.request(2, &node, RequestBody::Leave { drain_ms: 1000, force });
        world.run_for(seconds(15));
        world.report().replies[&(2, asked)].1.clone()
    };
    let refused = leaves(false);
    assert!(refused.as_ref().is_err_and(|why| why.to_string().contains("1 dead letters")), "{refused:?}");
    assert!(leaves(true).is_ok());
}

/// Messages of each node in each of three conversations and in none, while everything happens to the mesh.
fn letters_in_a_storm(nodes: usize, seed: u64, span: Duration) -> Result<(usize, usize), Vec<String>> {
    let mut world = healthy_mesh(nodes, seed);
    deploy(&mut world, 0, "worker");
    deploy(&mut world, 1, "worker");
    deploy(&mut world, 2, "single");
    world.take_up(Schedule::storm(nodes, seed, span, false));
    let conversations = [None, Some("a"), Some("b"), Some("c")];
    let end = world.now() + span;
    let mut turn = 0;
    while world.now() < end {
        for machine in (0..nodes).filter(|machine| world.is_running(*machine)).collect::<Vec<_>>() {
            let agent = ["worker", "single", "worker@n2", "nobody"][turn / 5 % 4];
            let life = if agent == "nobody" { seconds(20) } else { LIFE };
            world.post(machine, &to(agent), conversations[turn % 4], life);
            turn += 1;
        }
        world.run_for(Duration::from_millis(400));
    }
    world.run_for(seconds(18));
    // A try whose answer was lost with its node takes all its time, and the next one twice as much.
    let end = world.now() + seconds(1200);
    let done = world.run_until(end, |world| world.undelivered().is_empty());
    let wrong = world.broken().to_vec();
    match (wrong.is_empty(), done) {
        (true, Some(_)) => {
            let (promised, _, again) = world.letters();
            Ok((promised, again))
        }
        (true, None) => Err(world.undelivered()),
        (false, _) => Err(wrong),
    }
}

#[test]
fn what_was_promised_in_a_storm_is_delivered_in_the_order_of_its_conversation_or_a_dead_letter() {
    let (mut promised, mut again, mut failed) = (0, 0, Vec::new());
    for seed in seeds(200) {
        match letters_in_a_storm(3, seed, span_or(20)) {
            Ok((of_this, twice)) => {
                promised += of_this;
                again += twice;
            }
            Err(wrong) => {
                println!("seed {seed}: {wrong:#?}");
                failed.push(seed);
            }
        }
    }
    println!("{promised} messages were promised, {again} of them handled more than once");
    assert!(failed.is_empty(), "seeds {failed:?}");
    assert!(promised > 1000 && again > 0, "the storms put nothing to the test");
}
