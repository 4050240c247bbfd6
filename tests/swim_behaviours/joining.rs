//! Joining: who gets in, who does not, and that trying again does no harm.

use shoal::core::ids::MeshId;
use shoal::core::model::MemberStatus;
use shoal::core::time::Instant;
use shoal::sim::{Config, Disk, World};

use super::worlds::{all, joined, ms, must, names, node, secs, settles, sound, told};

#[test]
fn row_001_two_nodes_that_join_list_two_members_each_told_once() {
    for seed in 0..5 {
        let mut world = joined(Config::lan(2, seed));
        settles(&mut world, secs(5));
        for (observer, other) in [(0, 1), (1, 0)] {
            assert_eq!(names(&world, observer), ["n1", "n2"]);
            assert_eq!(told(&world, observer, other, Instant::ZERO), [MemberStatus::Alive]);
        }
    }
}

#[test]
fn row_002_a_seed_that_accepts_and_never_answers_is_given_up_after_the_deadline_and_tried_again() {
    let mut world = World::new(Config::lan(2, 1));
    world.start(0);
    world.run_for(secs(1));
    world.pause(0, secs(20));
    world.start(1);
    world.run_for(secs(4));
    assert!(world.report().refused.is_empty(), "it waits for an answer");
    world.run_for(secs(2));
    let told = &world.report().refused;
    assert!(told.len() == 1 && told[0].2.contains("the seed does not answer"), "{told:?}");
    assert!(!world.view(1).expect("it runs").joined);
    assert_eq!(names(&world, 1), ["n2"]);
    must(&mut world, secs(40), "it joins when the seed wakes", World::all_see_all);
}

/// Two meshes of three with one name. The second begins when the first is whole, and these of its nodes
/// are told of the first one's seeds as well.
fn two_meshes(seed: u64, dials: &[usize]) -> World {
    let mut world = joined(Config::lan(3, seed));
    second_mesh(&mut world);
    for machine in dials {
        world.set_seeds(*machine, vec!["n5:7946".to_owned(), "n1:7946".to_owned(), "n2:7946".to_owned()]);
    }
    (3..6).for_each(|machine| world.start(machine));
    world.run_for(secs(60));
    sound(&world);
    world
}

/// Machines 3 to 5 of another mesh of the same name.
fn second_mesh(world: &mut World) {
    for n in 4..=6 {
        let mut seeds = vec!["n4:7946".to_owned()];
        seeds.retain(|s| *s != format!("n{n}:7946"));
        let machine = world.add_machine(node(n), format!("n{n}:7946"), seeds, None);
        let disk = Disk { mesh_id: Some(MeshId(uuid::Uuid::from_u128(77))), ..Disk::default() };
        world.set_disk(machine, disk);
    }
}

fn are_apart(world: &World) {
    for machine in 0..6 {
        let own = if machine < 3 { ["n1", "n2", "n3"] } else { ["n4", "n5", "n6"] };
        assert_eq!(names(world, machine), own, "the list of n{}", machine + 1);
    }
}

fn was_told(world: &World, machine: usize) -> bool {
    world.report().refused.iter().any(|(_, m, why)| *m == machine && why.contains("different meshes"))
}

#[test]
fn row_003_a_node_does_not_join_a_mesh_that_is_not_its_own() {
    let world = two_meshes(1, &[5]);
    assert!(was_told(&world, 5), "{:?}", world.report().refused);
    are_apart(&world);
}

#[test]
fn row_004_a_mesh_does_not_take_in_a_node_of_another() {
    let world = two_meshes(2, &[5]);
    assert!(was_told(&world, 0), "{:?}", world.report().refused);
    are_apart(&world);
}

#[test]
fn row_016_two_meshes_never_merge_whoever_calls_whom() {
    for seed in 0..3 {
        let mut world = two_meshes(seed, &[3, 4, 5]);
        are_apart(&world);
        // The first one's members learn of the second one's addresses, too, and start again.
        (0..3).for_each(|m| world.set_seeds(m, vec!["n4:7946".to_owned(), "n6:7946".to_owned()]));
        (0..3).for_each(|m| world.crash(m));
        (0..3).for_each(|m| world.start(m));
        world.run_for(secs(60));
        sound(&world);
        are_apart(&world);
    }
}

#[test]
fn row_016_a_mesh_that_is_just_being_founded_takes_in_nobody_of_another() {
    for seed in 0..20 {
        let mut world = World::new(Config { commit_max: secs(1), ..Config::lan(3, seed) });
        second_mesh(&mut world);
        world.set_seeds(5, vec!["n5:7946".to_owned(), "n1:7946".to_owned()]);
        (3..6).for_each(|machine| world.start(machine));
        world.run_for(secs(5));
        world.start(0);
        world.run_for(secs(20));
        (1..3).for_each(|machine| world.start(machine));
        world.run_for(secs(60));
        sound(&world);
        are_apart(&world);
    }
}

#[test]
fn row_016_a_newcomer_that_finds_two_meshes_at_once_joins_one_and_is_no_bridge() {
    let mut joined = [0, 0];
    for seed in 0..20 {
        let mut world = two_meshes(seed, &[]);
        let seeds = vec!["n1:7946".to_owned(), "n4:7946".to_owned()];
        let late = world.add_machine(node(9), "n9:7946".to_owned(), seeds, None);
        world.start(late);
        world.run_for(secs(30));
        sound(&world);
        let first = names(&world, late) == ["n1", "n2", "n3", "n9"];
        let (with, without) = if first { (0..3, 3..6) } else { (3..6, 0..3) };
        joined[usize::from(first)] += 1;
        let own = names(&world, with.start);
        assert_eq!(names(&world, late), own, "seed {seed}");
        assert_eq!(own.len(), 4, "seed {seed}: {own:?}");
        for machine in without {
            assert_eq!(names(&world, machine).len(), 3, "seed {seed}: {:?}", names(&world, machine));
        }
    }
    assert!(joined.iter().all(|count| *count > 0), "chance decides: {joined:?}");
}

#[test]
fn row_017_calling_a_seed_again_changes_nothing() {
    for seed in 0..3 {
        let mut world = joined(Config::lan(5, seed));
        must(&mut world, secs(1), "one link a pair", World::all_linked);
        let (since, made) = (world.now(), world.links_made());
        world.run_for(secs(120));
        assert_eq!(world.links_made(), made);
        let changes = world.report().changes.iter().filter(|c| c.at >= since).count();
        assert_eq!(changes, 0);
        // A restart calls all its seeds, and all of them know it.
        world.crash(4);
        world.run_for(ms(200));
        world.start(4);
        must(&mut world, secs(2), "it is back", World::all_see_all);
        settles(&mut world, secs(10));
        must(&mut world, secs(2), "one link a pair", World::all_linked);
        assert_eq!(names(&world, 0), ["n1", "n2", "n3", "n4", "n5"]);
    }
}

#[test]
fn row_018_five_nodes_that_are_started_slowly_one_after_another_become_one_mesh() {
    for (seed, pause) in [(0, 1), (1, 7), (2, 30)] {
        let mut world = World::new(Config::lan(5, seed));
        for machine in 0..5 {
            world.start(machine);
            world.run_for(secs(pause));
            assert!(world.all_see_all(), "seed {seed}: after n{}", machine + 1);
        }
        settles(&mut world, secs(5));
    }
}

#[test]
fn row_066_another_node_at_the_address_of_a_dead_one_is_another_node() {
    for seed in 0..3 {
        let mut config = Config::lan(4, seed);
        config.network.dead_port_refuses = true;
        let mut world = joined(config);
        world.run_for(secs(3));
        world.crash(3);
        must(&mut world, secs(10), "it is failed", |w| all(w, 3, Some(MemberStatus::Failed)));
        let new = world.add_machine(node(9), "n4:7946".to_owned(), vec!["n1:7946".to_owned()], None);
        world.start(new);
        must(&mut world, secs(5), "the new one is there", |w| all(w, new, Some(MemberStatus::Alive)));
        world.run_for(secs(60));
        sound(&world);
        assert!(all(&world, new, Some(MemberStatus::Alive)));
        assert!((0..3).all(|m| world.status(m, 3) == Some(MemberStatus::Failed)), "it is not the dead one");
        assert_eq!(names(&world, 0), ["n1", "n2", "n3", "n4", "n9"]);
    }
}
