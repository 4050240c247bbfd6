//! Storms: half of a large mesh comes or goes at once. What everybody holds stays bounded.

use std::time::Duration;

use shoal::core::limits;
use shoal::core::model::MemberStatus;
use shoal::sim::{Config, World};

use super::worlds::{joined, node, secs, settles, sound};

/// The largest number of anything that a node held, and the most bytes that one sent in a second.
#[derive(Debug, Default)]
struct Peak {
    timers: usize,
    stashes: usize,
    links: usize,
    bytes: u64,
}

/// Lets time pass in steps of a second and watches all nodes; until the condition holds.
fn watched(world: &mut World, most: Duration, what: &str, done: impl Fn(&World) -> bool) -> (Duration, Peak) {
    let since = world.now();
    let mut peak = Peak::default();
    while !done(world) {
        assert!(world.now().since(since) < most, "not within {most:?}: {what}: {:?}", world.unrest().first());
        let before: Vec<_> = (0..world.len()).map(|m| world.bytes_sent(m)).collect();
        world.run_until(world.now() + secs(1), &done);
        for (m, before) in before.into_iter().enumerate() {
            if let Some(gauges) = world.gauges(m) {
                peak.timers = peak.timers.max(gauges.timers);
                peak.stashes = peak.stashes.max(gauges.stashes);
                peak.links = peak.links.max(gauges.links);
            }
            peak.bytes = peak.bytes.max(world.bytes_sent(m) - before);
        }
    }
    sound(world);
    (world.now().since(since), peak)
}

fn is_bounded(peak: &Peak, nodes: usize) {
    assert!(peak.timers <= 64 * nodes, "{peak:?}");
    assert!(peak.stashes <= nodes && peak.links <= limits::LINKS_PER_NODE_MAX * nodes, "{peak:?}");
    // Each who joins changes the list, of which a seed sends a copy to each who has another.
    assert!(peak.bytes <= 8 << 20, "{peak:?}");
}

#[test]
fn gap_08_fifty_nodes_that_leave_at_once_and_fifty_that_join_at_once_are_digested_within_bounds() {
    let mut world = joined(Config::lan(100, 1));
    settles(&mut world, secs(20));
    (50..100).for_each(|m| world.stop(m));
    let gone = |w: &World| {
        (50..100).all(|m| !w.is_running(m))
            && (0..50).all(|a| (50..100).all(|b| w.status(a, b) == Some(MemberStatus::Left)))
    };
    let (took, peak) = watched(&mut world, secs(30), "fifty are gone", gone);
    println!("fifty left: known by all after {took:?}; {peak:?}");
    is_bounded(&peak, 100);
    let since = world.now();
    (50..100).for_each(|m| world.start(m));
    let (took, peak) = watched(&mut world, secs(30), "fifty are back", World::all_see_all);
    println!("fifty joined: known by all after {took:?}; {peak:?}");
    is_bounded(&peak, 100);
    settles(&mut world, secs(30));
    let failed = world.report().changes.iter().filter(|c| c.at >= since && c.status == MemberStatus::Failed);
    assert_eq!(failed.count(), 0, "nobody was called failed in the rush");
}

#[test]
fn gap_08_fifty_nodes_that_die_at_once_are_known_by_all_and_come_back() {
    let mut world = joined(Config::lan(100, 2));
    settles(&mut world, secs(20));
    (50..100).for_each(|m| world.crash(m));
    let dead = |w: &World| (0..50).all(|a| (50..100).all(|b| w.status(a, b) == Some(MemberStatus::Failed)));
    let (took, peak) = watched(&mut world, secs(60), "fifty are failed", dead);
    println!("fifty died: known by all after {took:?}; {peak:?}");
    is_bounded(&peak, 100);
    (50..100).for_each(|m| world.start(m));
    let (took, peak) = watched(&mut world, secs(30), "fifty are back", World::all_see_all);
    println!("fifty came back: known by all after {took:?}; {peak:?}");
    is_bounded(&peak, 100);
    settles(&mut world, secs(30));
}

#[test]
fn gap_08_eighty_nodes_that_join_a_mesh_of_twenty_at_once_are_known_by_all_within_bounds() {
    let mut world = joined(Config::lan(20, 3));
    for n in 21..=100 {
        let seeds = vec!["n1:7946".to_owned(), "n2:7946".to_owned()];
        let machine = world.add_machine(node(n), format!("n{n}:7946"), seeds, None);
        world.start(machine);
    }
    let (took, peak) = watched(&mut world, secs(30), "all know all", World::all_see_all);
    println!("eighty joined twenty: known by all after {took:?}; {peak:?}");
    is_bounded(&peak, 100);
    settles(&mut world, secs(30));
}
