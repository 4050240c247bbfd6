//! The shared state under simulation: writes at every node, cuts, crashes, disks that fail.

#![allow(clippy::print_stdout, reason = "a storm tells its speed, and a failed one its seed")]

#[path = "state_simulation/absences.rs"]
mod absences;
#[path = "state_simulation/blue_green.rs"]
mod blue_green;
#[path = "state_simulation/canary.rs"]
mod canary;
#[path = "state_simulation/clocks.rs"]
mod clocks;
#[path = "state_simulation/crashes.rs"]
mod crashes;
#[path = "state_simulation/desired.rs"]
mod desired;
#[path = "state_simulation/disks.rs"]
mod disks;
#[path = "state_simulation/exclusive.rs"]
mod exclusive;
#[path = "state_simulation/fencing.rs"]
mod fencing;
#[path = "state_simulation/large.rs"]
mod large;
#[path = "state_simulation/leaving.rs"]
mod leaving;
#[path = "state_simulation/letters.rs"]
mod letters;
#[path = "state_simulation/loads.rs"]
mod loads;
#[path = "state_simulation/storms.rs"]
mod storms;

use std::time::Duration;

use bytes::Bytes;
use shoal::core::ids::{NodeId, RequestId};
use shoal::core::model::{MemberStatus, Mode, Outcome, PartitionConfig, Strategy, Ticket, TicketState};
use shoal::core::wire::{Ack, RequestBody, ResponseBody, StateAnswer, StateRequest, StateStatus};
use shoal::sim::{Config, Fault, World};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ask(world: &mut World, machine: usize, request: StateRequest) -> RequestId {
    let node = world.node(machine).clone();
    world.request(machine, &node, RequestBody::State(request))
}

fn answer(world: &mut World, machine: usize, request: StateRequest) -> Result<StateAnswer, String> {
    let id = ask(world, machine, request);
    let end = world.now() + seconds(20);
    world.run_until(end, |world| world.report().replies.contains_key(&(machine, id)));
    match &world.report().replies.get(&(machine, id)).expect("it is answered").1 {
        Ok(ResponseBody::State(answer)) => Ok(answer.clone()),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.to_string()),
    }
}

fn status(world: &mut World, machine: usize) -> StateStatus {
    match answer(world, machine, StateRequest::Status) {
        Ok(StateAnswer::Status(status)) => *status,
        other => panic!("{other:?}"),
    }
}

fn put(world: &mut World, machine: usize, key: &str, value: &str) -> Result<StateAnswer, String> {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    answer(world, machine, StateRequest::Put { key: key.to_owned(), value, context: None, ack: Ack::Local })
}

fn get(world: &mut World, machine: usize, key: &str) -> Option<String> {
    match answer(world, machine, StateRequest::Get { key: key.to_owned() }) {
        Ok(StateAnswer::Value(value)) => value.value.map(|v| String::from_utf8_lossy(&v.value).into_owned()),
        other => panic!("{other:?}"),
    }
}

fn all_healthy(world: &World) -> bool {
    (0..world.len()).all(|m| {
        world.shared_view(m).is_some_and(|view| {
            let voters = view.roster.map_or(0, |roster| roster.voter_count());
            view.mode == Mode::Healthy && voters == world.len().min(7)
        })
    })
}

fn healthy_mesh(nodes: usize, seed: u64) -> World {
    healthy(Config::lan(nodes, seed))
}

/// A mesh whose nodes have these settings.
fn healthy_mesh_with(nodes: usize, partition: PartitionConfig) -> World {
    healthy(Config { partition, ..Config::lan(nodes, 5) })
}

fn healthy(config: Config) -> World {
    let nodes = config.nodes;
    let mut world = World::new(config);
    world.start_all();
    let end = world.now() + seconds(60);
    let healthy = world.run_until(end, all_healthy);
    assert!(healthy.is_some(), "{nodes} nodes: not all healthy: {:?}", modes(&mut world));
    world
}

fn modes(world: &mut World) -> Vec<(NodeId, Mode, String, Vec<NodeId>)> {
    (0..world.len())
        .map(|m| {
            let node = world.node(m).clone();
            let status = status(world, m);
            (node, status.partition.mode, status.reason, status.partition.reachable.into_iter().collect())
        })
        .collect()
}

#[test]
fn what_is_written_on_one_node_is_read_on_all() {
    for nodes in [1, 2, 3, 5] {
        let mut world = healthy_mesh(nodes, 7);
        println!("{nodes} nodes healthy at {:?}", world.now());
        assert!(matches!(put(&mut world, 0, "a", "one"), Ok(StateAnswer::Written { is_sibling: false, .. })));
        world.run_for(Duration::from_millis(100));
        for machine in 0..nodes {
            assert_eq!(get(&mut world, machine, "a").as_deref(), Some("one"), "{machine}");
        }
        assert_eq!(world.broken(), [] as [String; 0]);
    }
}

fn mode(world: &World, machine: usize) -> Mode {
    world.shared_view(machine).expect("it runs").mode
}

/// What a write without a majority is answered with.
fn queued(world: &mut World, machine: usize, key: &str, value: &str) -> Ticket {
    match put(world, machine, key, value) {
        Ok(StateAnswer::Queued { ticket }) => ticket,
        other => panic!("{other:?}"),
    }
}

fn written(world: &mut World, machine: usize, key: &str, value: &str) {
    let answer = put(world, machine, key, value);
    assert!(matches!(answer, Ok(StateAnswer::Written { .. })), "{answer:?}");
}

fn delete(world: &mut World, machine: usize, key: &str) {
    let key = key.to_owned();
    let request = StateRequest::Put { key, value: None, context: None, ack: Ack::Local };
    assert!(matches!(answer(world, machine, request), Ok(StateAnswer::Written { .. })));
}

fn outcome(world: &mut World, machine: usize, ticket: &Ticket) -> Outcome {
    outcome_if_any(world, machine, ticket).unwrap_or_else(|| panic!("{ticket} still waits"))
}

fn outcome_if_any(world: &mut World, machine: usize, ticket: &Ticket) -> Option<Outcome> {
    match answer(world, machine, StateRequest::Ticket { ticket: ticket.clone() }) {
        Ok(StateAnswer::Ticket(view)) => match view.state {
            TicketState::Done(outcome) => Some(outcome),
            TicketState::Queued => None,
        },
        other => panic!("{other:?}"),
    }
}

/// Everybody is healthy and equal, and nothing acknowledged is lost; within a minute.
fn rests(world: &mut World) -> Duration {
    let since = world.now();
    let rested = world.run_until(since + seconds(60), |world| world.shared_unrest().is_empty());
    assert_eq!(world.broken(), [] as [String; 0]);
    let rested = rested.unwrap_or_else(|| panic!("no rest: {:#?}", world.shared_unrest()));
    rested.since(since)
}

fn heal(world: &mut World) {
    world.apply(&Fault::Heal);
}

/// The machine whose node holds the lease.
fn holder(world: &mut World) -> usize {
    let holder = status(world, 0).lease_holder.expect("somebody holds the lease");
    (0..world.len()).find(|m| *world.node(*m) == holder).expect("it is one of them")
}

fn cut_all(world: &mut World, sides: &[&[usize]]) {
    for (at, one) in sides.iter().enumerate() {
        sides[at + 1..].iter().for_each(|other| world.cut(one, other));
    }
}

mod splits {
    use super::*;

    #[test]
    fn fault_38_a_majority_goes_on_writing_and_every_queued_write_of_the_minority_has_its_outcome() {
        let mut world = healthy_mesh(5, 3);
        written(&mut world, 0, "both", "before");
        world.run_for(seconds(1));
        world.cut(&[0, 1, 2], &[3, 4]);
        world.run_for(seconds(4));
        assert_eq!((0..5).map(|m| mode(&world, m)).filter(|m| *m == Mode::Healthy).count(), 3);
        written(&mut world, 1, "both", "of the majority");
        let lone = queued(&mut world, 3, "alone", "of the minority");
        let first = queued(&mut world, 4, "both", "of the minority");
        let second = queued(&mut world, 4, "both", "of the minority, later");
        assert_eq!(get(&mut world, 3, "both").as_deref(), Some("before"));
        heal(&mut world);
        rests(&mut world);
        assert_eq!(outcome(&mut world, 3, &lone), Outcome::Applied);
        assert_eq!(outcome(&mut world, 4, &first), Outcome::Conflicted);
        assert_eq!(outcome(&mut world, 4, &second), Outcome::Conflicted);
        for machine in 0..5 {
            assert_eq!(get(&mut world, machine, "alone").as_deref(), Some("of the minority"));
            assert_eq!(siblings(&mut world, machine, "both"), ["of the majority", "of the minority, later"]);
        }
    }

    #[test]
    fn fault_39_of_two_nodes_that_are_cut_apart_neither_writes_and_both_answer_reads() {
        let mut world = healthy_mesh(2, 1);
        written(&mut world, 0, "a", "one");
        world.run_for(seconds(1));
        world.cut(&[0], &[1]);
        world.run_for(seconds(4));
        for machine in 0..2 {
            assert_eq!(mode(&world, machine), Mode::Degraded);
            assert_eq!(get(&mut world, machine, "a").as_deref(), Some("one"));
            queued(&mut world, machine, "b", &format!("of {machine}"));
        }
        heal(&mut world);
        rests(&mut world);
        assert_eq!(siblings(&mut world, 0, "b").len(), 2);
    }

    #[test]
    fn fault_39_of_four_nodes_two_and_two_none_writes_unless_a_tie_breaker_is_among_them() {
        let mut world = healthy_mesh(4, 2);
        world.cut(&[0, 1], &[2, 3]);
        world.run_for(seconds(4));
        assert!((0..4).all(|m| mode(&world, m) == Mode::Degraded));
        heal(&mut world);
        rests(&mut world);
        let (key, value) = ("tie_breaker".to_owned(), "n3".to_owned());
        let request = StateRequest::SetRoster { key, value, split_writes: false };
        let holder = holder(&mut world);
        let set = answer(&mut world, holder, request);
        assert!(set.is_ok(), "{set:?}");
        rests(&mut world);
        world.cut(&[0, 1], &[2, 3]);
        world.run_for(seconds(4));
        let modes: Vec<_> = (0..4).map(|m| mode(&world, m)).collect();
        assert_eq!(modes, [Mode::Degraded, Mode::Degraded, Mode::Healthy, Mode::Healthy]);
        written(&mut world, 3, "a", "of the tie breaker's side");
        heal(&mut world);
        rests(&mut world);
    }

    #[test]
    fn fault_40_of_three_parts_only_one_that_is_a_majority_writes() {
        for (nodes, sides, healthy) in
            [(5, [&[0, 1][..], &[2, 3], &[4]], 0), (7, [&[0, 1, 2, 3][..], &[4, 5], &[6]], 4)]
        {
            let mut world = healthy_mesh(nodes, 4);
            cut_all(&mut world, &sides);
            world.run_for(seconds(4));
            assert_eq!((0..nodes).filter(|m| mode(&world, *m) == Mode::Healthy).count(), healthy);
            for machine in 0..nodes {
                let result = put(&mut world, machine, &format!("k{machine}"), "v").expect("it is taken in");
                assert_eq!(matches!(result, StateAnswer::Written { .. }), machine < healthy, "{result:?}");
            }
            heal(&mut world);
            rests(&mut world);
            for machine in 0..nodes {
                assert_eq!(get(&mut world, 0, &format!("k{machine}")).as_deref(), Some("v"));
            }
        }
    }

    #[test]
    fn fault_43_nodes_that_each_see_another_majority_converge_when_it_is_over() {
        let mut world = healthy_mesh(5, 6);
        (0..5).for_each(|m| world.cut(&[m], &[(m + 2) % 5]));
        let begun = world.now();
        let mut asked = Vec::new();
        for round in 0..40 {
            for machine in 0..5 {
                let key = format!("k{}", round % 4);
                let value = Some(Bytes::from(format!("{round} of {machine}")));
                let request = StateRequest::Put { key, value, context: None, ack: Ack::Local };
                asked.push((machine, ask(&mut world, machine, request)));
            }
            world.run_for(Duration::from_millis(500));
        }
        // Each hears three of five all the time, and whatever one writes comes to all of them by way of another.
        let replies = asked.iter().filter_map(|asked| world.report().replies.get(asked));
        let was_written = |answer: &&(Duration, Result<ResponseBody, _>)| {
            matches!(answer.1, Ok(ResponseBody::State(StateAnswer::Written { .. })))
        };
        assert_eq!(replies.filter(was_written).count(), asked.len());
        let changes: Vec<_> = world.report().modes.iter().filter(|(at, ..)| *at >= begun).collect();
        assert!(changes.is_empty(), "{changes:#?}");
        heal(&mut world);
        rests(&mut world);
    }

    #[test]
    fn fault_44_a_link_that_comes_and_goes_changes_modes_seldom_and_keeps_the_order_of_the_queue() {
        let mut world = healthy_mesh(3, 8);
        // Ten minutes.
        for round in 0..120 {
            world.cut(&[0, 1], &[2]);
            world.run_for(seconds(3));
            let value = Some(Bytes::from(format!("{round:03}")));
            let (key, context, ack) = ("a".to_owned(), None, Ack::Local);
            ask(&mut world, 2, StateRequest::Put { key, value, context, ack });
            heal(&mut world);
            world.run_for(seconds(2));
        }
        rests(&mut world);
        let changes = world.report().modes.iter().filter(|(_, machine, ..)| *machine == 2).count();
        // It falls, comes back and falls again twice; then it has to be heard for longer than the link lasts. At the end
        // it comes back for good.
        assert!(changes <= 9, "{changes} changes of mode in 120 breaks");
        assert_eq!(siblings(&mut world, 0, "a"), ["119"]);
    }
}

mod settings {
    use super::*;

    /// Three nodes of which the last is cut off.
    fn cut_off(partition: PartitionConfig) -> World {
        let mut world = healthy_mesh_with(3, partition);
        written(&mut world, 0, "a", "one");
        world.run_for(seconds(1));
        world.cut(&[0, 1], &[2]);
        world.run_for(seconds(4));
        world
    }

    #[test]
    fn without_a_degraded_mode_a_minority_answers_no_reads() {
        let mut world = cut_off(PartitionConfig { degraded_mode: false, ..PartitionConfig::default() });
        let refused = answer(&mut world, 2, StateRequest::Get { key: "a".to_owned() });
        assert!(refused.as_ref().is_err_and(|why| why.contains("degraded_mode")), "{refused:?}");
        assert_eq!(get(&mut world, 0, "a").as_deref(), Some("one"));
        heal(&mut world);
        rests(&mut world);
        assert_eq!(get(&mut world, 2, "a").as_deref(), Some("one"));
    }

    #[test]
    fn without_a_queue_a_minority_refuses_writes() {
        let mut world = cut_off(PartitionConfig { queue_writes: false, ..PartitionConfig::default() });
        let refused = put(&mut world, 2, "a", "two");
        assert!(refused.as_ref().is_err_and(|why| why.contains("queue_writes")), "{refused:?}");
        heal(&mut world);
        rests(&mut world);
        assert_eq!(get(&mut world, 2, "a").as_deref(), Some("one"));
    }

    #[test]
    fn with_availability_both_sides_write_and_what_they_wrote_stands_side_by_side() {
        let strategy = Strategy::Availability;
        let mut world = cut_off(PartitionConfig { strategy, ..PartitionConfig::default() });
        written(&mut world, 0, "a", "of the majority");
        let marked = put(&mut world, 2, "a", "of the minority");
        assert!(matches!(marked, Ok(StateAnswer::Written { marked: true, .. })), "{marked:?}");
        heal(&mut world);
        rests(&mut world);
        assert_eq!(siblings(&mut world, 1, "a"), ["of the majority", "of the minority"]);
    }
}

mod rosters {
    use super::*;

    fn add(world: &mut World, n: usize) -> usize {
        let node = NodeId::new(&format!("n{n}")).expect("valid");
        let machine = world.add_machine(node, format!("n{n}:7946"), vec!["n1:7946".to_owned()], None);
        world.start(machine);
        machine
    }

    fn members(world: &World, machine: usize) -> usize {
        world.shared_view(machine).and_then(|v| v.roster).map_or(0, |roster| roster.members.len())
    }

    #[test]
    fn a_mesh_grows_from_three_to_seven_and_shrinks_again_with_cuts_in_between() {
        let mut world = healthy_mesh(3, 9);
        world.work(shoal::sim::Workload::default(), seconds(60));
        add(&mut world, 4);
        world.run_for(seconds(3));
        world.cut(&[0], &[1, 2, 3]);
        for n in 5..=7 {
            add(&mut world, n);
        }
        world.run_for(seconds(6));
        heal(&mut world);
        world.run_for(seconds(10));
        rests(&mut world);
        assert_eq!(members(&world, 6), 7);
        world.cut(&[5, 6], &[0, 1, 2, 3, 4]);
        world.run_for(seconds(4));
        (4..7).for_each(|gone| world.crash(gone));
        // Who is evicted while it counts as alive is taken in again.
        world.run_for(seconds(10));
        for gone in [6, 5, 4] {
            let node = world.node(gone).clone();
            let holder = holder(&mut world);
            let evicted = answer(&mut world, holder, StateRequest::Evict { node });
            assert!(evicted.is_ok(), "{evicted:?}");
        }
        heal(&mut world);
        world.run_for(seconds(40));
        rests(&mut world);
        assert_eq!(members(&world, 0), 4);
        written(&mut world, 3, "after", "all");
    }

    #[test]
    fn an_operator_overrules_a_lost_majority_and_its_members_come_back_with_what_they_wrote() {
        let mut world = healthy_mesh(5, 10);
        written(&mut world, 0, "a", "before");
        world.run_for(seconds(1));
        world.cut(&[0, 1, 2], &[3, 4]);
        world.run_for(seconds(4));
        written(&mut world, 0, "b", "of the majority");
        let ticket = queued(&mut world, 3, "a", "of the minority");
        (0..3).for_each(|m| world.crash(m));
        let audit = "a test: the machines n1 to n3 are lost".to_owned();
        let forced = answer(&mut world, 3, StateRequest::ForceRoster { audit });
        let Ok(StateAnswer::Roster(Some(roster))) = forced else {
            panic!("{forced:?}");
        };
        assert!(roster.epoch.chain > 1 && roster.audit.is_some(), "it tells of the new one: {roster:?}");
        world.run_for(seconds(15));
        assert!((3..5).all(|m| mode(&world, m) == Mode::Healthy), "{:?}", mode(&world, 3));
        assert_eq!(outcome(&mut world, 3, &ticket), Outcome::Applied);
        heal(&mut world);
        (0..3).for_each(|m| world.start(m));
        world.run_for(seconds(10));
        rests(&mut world);
        for machine in 0..5 {
            assert_eq!(get(&mut world, machine, "a").as_deref(), Some("of the minority"));
            assert_eq!(get(&mut world, machine, "b").as_deref(), Some("of the majority"));
            assert_eq!(members(&world, machine), 5);
        }
    }
}

/// The values of a key, in order.
fn siblings(world: &mut World, machine: usize, key: &str) -> Vec<String> {
    let Ok(StateAnswer::Value(value)) = answer(world, machine, StateRequest::Get { key: key.to_owned() })
    else {
        panic!("it is read");
    };
    let one = value.value.filter(|_| value.siblings.is_empty());
    let all = value.siblings.into_iter().chain(one);
    let mut texts: Vec<_> = all.map(|s| String::from_utf8_lossy(&s.value).into_owned()).collect();
    texts.sort_unstable();
    texts
}
