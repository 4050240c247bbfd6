//! Meshes too large for links between all nodes: voters are heard through others.

use super::*;

const NODES: usize = 60;

fn voters(world: &World) -> Vec<usize> {
    let roster = world.shared_view(0).and_then(|view| view.roster).expect("node 1 knows the roster");
    (0..world.len()).filter(|m| roster.is_voter(world.node(*m))).collect()
}

fn healthy_ones(world: &World) -> usize {
    (0..world.len()).filter(|m| world.is_running(*m) && mode(world, *m) == Mode::Healthy).count()
}

fn stay_healthy(world: &mut World, span: Duration, of: usize) {
    let end = world.now() + span;
    let fell = world.run_until(end, |world| healthy_ones(world) < of);
    assert_eq!(fell, None, "{} of {of}", healthy_ones(world));
}

#[test]
fn a_large_mesh_hears_its_voters_with_few_packets() {
    let mut world = healthy_mesh(NODES, 1);
    world.run_for(seconds(30));
    let (before, _) = world.traffic();
    stay_healthy(&mut world, seconds(60), NODES);
    let (packets, _) = world.traffic();
    let each = (packets - before) as f64 / 60.0 / NODES as f64;
    assert!(each < 24.0, "{each} packets a second and node");
    assert!(each > 10.0, "{each}: too few for two waves in half a second");
}

#[test]
fn nobody_in_a_large_mesh_misses_a_majority_when_three_voters_of_seven_die_at_once() {
    for seed in 1..4 {
        let mut world = healthy_mesh(NODES, seed);
        world.run_for(seconds(10));
        let voters = voters(&world);
        assert_eq!(voters.len(), 7);
        voters[..3].iter().for_each(|machine| world.crash(*machine));
        stay_healthy(&mut world, seconds(30), NODES - 3);
    }
}

#[test]
fn nobody_in_a_large_mesh_misses_a_majority_because_a_tenth_of_all_packets_is_lost() {
    let mut world = healthy_mesh(NODES, 4);
    world.run_for(seconds(10));
    world.apply(&Fault::Loss(0.1));
    stay_healthy(&mut world, seconds(120), NODES);
}

#[test]
fn the_minority_of_a_large_mesh_knows_that_it_is_one_within_the_detection_time() {
    let mut world = healthy_mesh(NODES, 5);
    world.run_for(seconds(10));
    let voters = voters(&world);
    // Three voters and half of all others.
    let others = (0..NODES).filter(|m| !voters.contains(m));
    let minority: Vec<_> = voters[..3].iter().copied().chain(others.step_by(2)).collect();
    let majority: Vec<_> = (0..NODES).filter(|m| !minority.contains(m)).collect();
    world.cut(&minority, &majority);
    let detection = PartitionConfig::default().detection_timeout;
    // What was on its way when the cut came is as old as it says.
    world.run_for(detection + Duration::from_millis(100));
    let still: Vec<_> = minority.iter().filter(|m| mode(&world, **m) == Mode::Healthy).collect();
    assert_eq!(still, [] as [&usize; 0]);
    assert!(majority.iter().all(|m| mode(&world, *m) == Mode::Healthy));
    world.apply(&Fault::Heal);
    rests(&mut world);
}
