//! Worlds that have joined, and waiting for what must come true in them.

use std::time::Duration;

use shoal::core::ids::NodeId;
use shoal::core::model::MemberStatus;
use shoal::core::time::Instant;
use shoal::sim::{Config, World};

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).expect("valid")
}

/// A mesh in which everyone knows everyone.
pub(crate) fn joined(config: Config) -> World {
    let mut world = World::new(config);
    world.start_all();
    let started = 50 * world.len() as u64;
    world.run_for(ms(started));
    must(&mut world, secs(30), "everyone joins", World::all_know_all);
    world
}

/// Waits for a condition; how long it took.
pub(crate) fn must(
    world: &mut World,
    within: Duration,
    what: &str,
    condition: impl Fn(&World) -> bool,
) -> Duration {
    let since = world.now();
    let found = world.run_until(since + within, condition);
    sound(world);
    let seed = world.report().seed;
    let story = |world: &World| {
        let changes = world.report().changes.iter().rev().take(20).rev();
        world.unrest().into_iter().take(10).chain(changes.map(ToString::to_string)).collect::<Vec<_>>()
    };
    found
        .unwrap_or_else(|| panic!("seed {seed}: not within {within:?}: {what}; {:#?}", story(world)))
        .since(since)
}

/// No invariant was broken.
pub(crate) fn sound(world: &World) {
    let seed = world.report().seed;
    assert!(world.broken().is_empty(), "seed {seed}: {:#?}", world.broken());
}

/// Everyone agrees on everything, soon.
pub(crate) fn settles(world: &mut World, within: Duration) -> Duration {
    must(world, within, "the mesh comes to rest", |w| w.unrest().is_empty())
}

/// Whether all other running nodes hold a node for that.
pub(crate) fn all(world: &World, of: usize, status: Option<MemberStatus>) -> bool {
    (0..world.len()).filter(|m| *m != of && world.is_running(*m)).all(|m| world.status(m, of) == status)
}

/// What one node told of another since then, in order.
pub(crate) fn told(world: &World, observer: usize, of: usize, since: Instant) -> Vec<MemberStatus> {
    let (observer, of) = (world.node(observer), world.node(of));
    let changes = world.report().changes.iter();
    changes.filter(|c| c.at >= since && c.observer == *observer && c.node == *of).map(|c| c.status).collect()
}

/// How often anybody called a node failed since then.
pub(crate) fn verdicts(world: &World, of: usize, since: Instant) -> usize {
    let of = world.node(of);
    let changes = world.report().changes.iter().filter(|c| c.at >= since && c.node == *of);
    changes.filter(|c| c.status == MemberStatus::Failed).count()
}

/// The names that a node's list has.
pub(crate) fn names(world: &World, observer: usize) -> Vec<String> {
    let view = world.view(observer).expect("it runs");
    view.members.iter().map(|(member, _)| member.card.node_id.to_string()).collect()
}
