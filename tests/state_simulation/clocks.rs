//! Wall clocks that are set, run apart, and make a leap.

use super::*;

const HOUR_MS: i64 = 3_600_000;

fn step(world: &mut World, machine: usize, by_ms: i64) {
    world.apply(&Fault::ClockStep { machine, by_ms });
}

#[test]
fn fault_33_a_clock_that_is_set_back_an_hour_changes_no_order() {
    let mut world = healthy_mesh(3, 18);
    written(&mut world, 0, "a", "one");
    world.run_for(seconds(1));
    step(&mut world, 1, -HOUR_MS);
    world.run_for(seconds(10));
    written(&mut world, 1, "a", "two");
    rests(&mut world);
    assert_eq!(siblings(&mut world, 0, "a"), ["two"]);
}

#[test]
fn fault_34_a_clock_that_is_set_forward_a_day_expires_no_queued_write() {
    let mut world = healthy_mesh(3, 19);
    world.cut(&[0, 1], &[2]);
    world.run_for(seconds(4));
    let ticket = queued(&mut world, 2, "a", "one");
    step(&mut world, 2, 25 * HOUR_MS);
    world.run_for(seconds(3));
    heal(&mut world);
    world.run_for(seconds(10));
    assert_eq!(mode(&world, 2), Mode::Degraded, "it does not write with such a clock");
    step(&mut world, 2, -25 * HOUR_MS);
    rests(&mut world);
    assert_eq!(outcome(&mut world, 2, &ticket), Outcome::Applied);
    assert_eq!(get(&mut world, 0, "a").as_deref(), Some("one"));
}

#[test]
fn fault_35_clocks_that_are_thirty_seconds_apart_change_no_order_and_no_mode() {
    let mut world = healthy_mesh(3, 20);
    step(&mut world, 0, 15_000);
    step(&mut world, 1, -15_000);
    world.run_for(seconds(10));
    rests(&mut world);
    let before = world.report().modes.len();
    written(&mut world, 0, "a", "by the one that is ahead");
    world.run_for(seconds(1));
    written(&mut world, 1, "a", "later, by the one that is behind");
    world.run_for(seconds(30));
    for machine in 0..3 {
        assert_eq!(siblings(&mut world, machine, "a"), ["later, by the one that is behind"]);
    }
    assert_eq!(world.report().modes.len(), before, "{:?}", world.report().modes);
}

#[test]
fn fault_35_a_node_whose_clock_is_a_minute_ahead_of_most_degrades_itself_until_it_is_not() {
    let mut world = healthy_mesh(3, 21);
    // In steps that each mean nothing.
    for _ in 0..7 {
        step(&mut world, 2, 9_000);
        world.run_for(seconds(2));
    }
    world.run_for(seconds(4));
    let modes: Vec<_> = (0..3).map(|m| mode(&world, m)).collect();
    assert_eq!(modes, [Mode::Healthy, Mode::Healthy, Mode::Degraded]);
    let told = status(&mut world, 2).reason;
    assert!(told.contains("wall clock is ahead"), "{told}");
    let ticket = queued(&mut world, 2, "a", "of the one that is ahead");
    world.run_for(seconds(20));
    assert_eq!(mode(&world, 2), Mode::Degraded, "it is still ahead");
    step(&mut world, 2, -9_000);
    rests(&mut world);
    assert_eq!(outcome(&mut world, 2, &ticket), Outcome::Applied);
}

#[test]
fn fault_35_a_clock_that_is_behind_degrades_nobody_where_most_agree() {
    let mut world = healthy_mesh(3, 22);
    let before = world.report().modes.len();
    step(&mut world, 2, -HOUR_MS);
    world.run_for(seconds(15));
    rests(&mut world);
    let changes = &world.report().modes[before..];
    assert!(changes.iter().all(|(_, machine, ..)| *machine == 2), "the step itself, there: {changes:?}");
}

#[test]
fn fault_37_a_leap_second_and_a_clock_that_is_slewed_change_neither_mode_nor_lease() {
    let mut world = healthy_mesh(3, 23);
    world.run_for(seconds(2));
    let holder = holder(&mut world);
    let term = |world: &World| world.lease_of(holder).expect("it holds the lease");
    let (before, changes) = (term(&world), world.report().modes.len());
    for by_ms in [1_000, -1_000, 1_001, -1_001] {
        (0..3).for_each(|machine| step(&mut world, machine, by_ms));
        world.run_for(seconds(3));
    }
    // 500 ppm, as a clock is slewed, for five minutes.
    for _ in 0..150 {
        world.run_for(seconds(2));
        step(&mut world, holder, 1);
    }
    assert_eq!((term(&world), world.report().modes.len()), (before, changes));
    written(&mut world, holder, "a", "one");
    rests(&mut world);
}
