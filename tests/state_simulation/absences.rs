//! Nodes that stood still, or that start where nobody else is: what they do with the state until they have compared.

use super::*;

#[test]
fn fault_36_a_machine_that_slept_a_minute_makes_no_write_before_it_has_compared_with_the_others() {
    let mut world = healthy_mesh(3, 36);
    written(&mut world, 2, "a", "before");
    // Its own time stands still meanwhile: only the wall clock tells.
    world.suspend(2, seconds(60));
    written(&mut world, 0, "a", "while it slept");
    world.run_for(seconds(60));
    let ticket = queued(&mut world, 2, "b", "the first thing after it woke");
    rests(&mut world);
    assert_eq!(outcome(&mut world, 2, &ticket), Outcome::Applied);
    assert_eq!(siblings(&mut world, 2, "a"), ["while it slept"]);
    for machine in 0..3 {
        assert_eq!(get(&mut world, machine, "b").as_deref(), Some("the first thing after it woke"));
    }
}

#[test]
fn fault_55_a_node_that_starts_alone_reads_what_it_has_and_queues_what_is_written() {
    let mut world = healthy_mesh(3, 55);
    written(&mut world, 0, "a", "one");
    world.run_for(seconds(2));
    (0..3).for_each(|machine| world.crash(machine));
    world.start(2);
    world.run_for(seconds(60));
    assert_eq!(mode(&world, 2), Mode::Joining);
    assert_eq!(get(&mut world, 2, "a").as_deref(), Some("one"));
    let ticket = queued(&mut world, 2, "a", "two");
    assert_eq!(get(&mut world, 2, "a").as_deref(), Some("one"), "it is not made yet");
    world.start(0);
    world.start(1);
    rests(&mut world);
    assert_eq!(outcome(&mut world, 2, &ticket), Outcome::Applied);
    assert_eq!(siblings(&mut world, 0, "a"), ["two"]);
}
