//! Seeded storms: whatever can happen to a mesh that is written to, until all of it is over and the mesh at rest.
//!
//! `SHOAL_STATE_SEEDS=1000..2000 cargo test --release --test state_simulation storms -- --nocapture` tries other seeds, and
//! more of them; `SHOAL_STATE_SPAN=180` makes each storm three minutes long.

use shoal::sim::{Fault, Schedule, Workload};

use super::*;

/// How much time was simulated, and whether an operator has to end it.
fn storm(nodes: usize, seed: u64, span: Duration, restores: bool) -> Rested {
    let mut world = healthy_mesh(nodes, seed);
    let begun = world.now();
    world.work(Workload::default(), span);
    world.take_up(Schedule::storm(nodes, seed, span, restores));
    world.run_for(span + seconds(18));
    let end = world.now() + seconds(120);
    let rested = world.run_until(end, |world| world.shared_unrest().is_empty());
    let wrong: Vec<_> = world.broken().to_vec();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let ended: Vec<_> = (0..nodes).filter(|machine| !world.is_running(*machine)).collect();
    if !(ended.is_empty() && world.report().fatal.is_empty()) {
        return Err(vec![format!("machines {ended:?} do not run: {:?}", world.report().fatal)]);
    }
    match rested {
        Some(_) => Ok((world.now().since(begun), false)),
        None if restores && world.waits_for_an_operator() => Ok((world.now().since(begun), true)),
        None => Err(world.shared_unrest()),
    }
}

/// A storm in which members come and go: how much time was simulated.
fn storm_of_members(nodes: usize, more: usize, seed: u64, span: Duration) -> Result<Duration, Vec<String>> {
    let mut world = healthy_mesh(nodes, seed);
    let all = nodes + more;
    for n in nodes + 1..=all {
        let seeds = (1..=3).map(|n| format!("n{n}:7946")).collect();
        let node = NodeId::new(&format!("n{n}")).expect("a valid name");
        world.add_machine(node, format!("n{n}:7946"), seeds, None);
    }
    let begun = world.now();
    world.work(Workload::default(), span);
    world.take_up(Schedule::storm_of_members(all, seed, span));
    world.run_for(span + seconds(18));
    // Who was leaving may have left only now.
    for _ in 0..24 {
        let end = world.now() + seconds(5);
        if world.run_until(end, |world| world.shared_unrest().is_empty()).is_some() {
            break;
        }
        (0..all).for_each(|machine| world.apply(&Fault::Start { machine }));
    }
    let (wrong, unrest) = (world.broken().to_vec(), world.shared_unrest());
    let ended: Vec<_> = (0..all).filter(|machine| !world.is_running(*machine)).collect();
    match (wrong.is_empty(), unrest.is_empty(), ended.is_empty()) {
        (true, true, true) => Ok(world.now().since(begun)),
        (true, true, false) => Err(vec![format!("{ended:?} do not run: {:?}", world.report().fatal)]),
        (true, false, _) => Err(unrest.into_iter().chain((0..all).map(|m| standing(&world, m))).collect()),
        (false, ..) => Err(wrong),
    }
}

/// Whom a node counts as members, and whether it leads them.
fn standing(world: &World, machine: usize) -> String {
    let roster = world.shared_view(machine).and_then(|view| view.roster);
    let members: Vec<_> = roster.iter().flat_map(|roster| roster.members.keys()).collect();
    let (epoch, size) = (roster.map(|roster| roster.epoch), roster.and_then(|roster| roster.quorum_size));
    let (node, lease) = (world.node(machine), world.lease_of(machine));
    let view = world.view(machine);
    let sees: Vec<_> = view
        .iter()
        .flat_map(|view| view.members.iter().map(|(member, _)| (&member.card.node_id, member.status)))
        .collect();
    format!("{node}: {epoch:?} {members:?}, quorum {size:?}, lease {lease:?}, sees {sees:?}")
}

fn storms(nodes: usize, seeds: std::ops::Range<u64>, restores: bool) {
    storms_of(span_or(42), nodes, seeds, restores);
}

fn storms_of(span: Duration, nodes: usize, seeds: std::ops::Range<u64>, restores: bool) {
    try_all(nodes, seeds, |seed| storm(nodes, seed, span, restores));
}

type Rested = Result<(Duration, bool), Vec<String>>;

fn try_all(nodes: usize, seeds: std::ops::Range<u64>, storm: impl Fn(u64) -> Rested) {
    let begun = std::time::Instant::now();
    let mut simulated = Duration::ZERO;
    let (mut failed, mut waiting) = (Vec::new(), 0);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        match storm(seed) {
            Ok((span, waits)) => {
                simulated += span;
                waiting += u64::from(waits);
            }
            Err(wrong) => {
                println!("seed {seed}: {wrong:#?}");
                failed.push(seed);
            }
        }
    }
    let speed = simulated.as_secs_f64() / begun.elapsed().as_secs_f64();
    println!(
        "{count} seeds of {nodes} nodes, {speed:.0} simulated seconds a second, {waiting} wait for an operator"
    );
    assert!(waiting * 20 <= count.max(20), "a quorum alone that has forgotten is rare");
    assert!(failed.is_empty(), "seeds {failed:?} of {nodes} nodes");
}

/// How long each storm is: `SHOAL_STATE_SPAN=180`, or so many seconds.
pub(super) fn span_or(default: u64) -> Duration {
    seconds(std::env::var("SHOAL_STATE_SPAN").map_or(default, |text| text.parse().expect("seconds")))
}

/// How many seeds are tried and from which on: `SHOAL_STATE_SEEDS=1000..2000`, or a few.
pub(super) fn seeds(count: u64) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SHOAL_STATE_SEEDS") else {
        return 0..count;
    };
    let (from, to) = text.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn three_nodes_come_to_rest_after_a_storm_and_nothing_is_lost() {
    storms(3, seeds(80), false);
}

#[test]
fn four_nodes_come_to_rest_after_a_storm_and_nothing_is_lost() {
    storms(4, seeds(40), false);
}

#[test]
fn five_nodes_come_to_rest_after_a_storm_and_nothing_is_lost() {
    storms(5, seeds(40), false);
}

#[test]
fn old_disks_in_a_storm_lose_nothing_that_others_have() {
    storms(3, seeds(40), true);
}

#[test]
fn members_come_and_go_in_a_storm_and_nothing_is_lost() {
    let span = span_or(60);
    try_all(6, seeds(40), |seed| Ok((storm_of_members(4, 2, seed, span)?, false)));
}

#[test]
fn a_node_that_hears_of_its_roster_after_it_has_compared_with_everybody_is_not_joining_for_ever() {
    storms(3, 1051..1052, true);
}

/// A node had seen what replaced writes that nobody else had told of yet, and the holder of the lease took them for
/// lost with a disk: it closed their numbers, and they were never taken in.
#[test]
fn a_write_that_is_on_its_way_is_not_taken_for_one_that_nobody_has() {
    for seed in [364, 549] {
        let rested = storm(4, seed, seconds(180), false);
        assert!(rested.is_ok(), "seed {seed}: {rested:#?}");
    }
}

/// The disk took things again before the node knew all that had failed: what came next was built upon a write of another
/// node that was not there, and the clock on the disk said that it was.
#[test]
fn nothing_is_built_upon_what_may_have_failed() {
    storms_of(seconds(180), 3, 50_114..50_115, true);
}

/// A living node was taken out of the roster while it was cut off, and came back to find the number of its write closed.
#[test]
fn what_only_a_member_has_that_was_taken_out_is_not_closed_as_lost() {
    storms_of(seconds(180), 3, 71_441..71_442, false);
    storms_of(seconds(180), 3, 81_203..81_204, true);
}

/// A voter had forgotten a vote, and the one that it asked was in no quorum with whom it had voted for: that one had left the
/// roster since.
#[test]
fn no_term_of_the_lease_is_granted_again_after_a_change_of_the_roster() {
    storms_of(seconds(180), 3, 92_868..92_869, true);
}

/// A node that had been started again spread writes which named nothing of what they replaced to one that was behind.
#[test]
fn what_a_write_replaces_goes_with_it_to_a_node_that_is_behind() {
    storms_of(seconds(180), 3, 72_269..72_270, true);
}
