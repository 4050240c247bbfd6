//! Many at once: thirty nodes that come back together, and one key that everybody writes.

use shoal::core::limits;

use super::*;

#[test]
fn fault_57_thirty_nodes_that_come_back_at_once_are_answered_a_few_at_a_time() {
    let mut world = healthy_mesh(30, 41);
    let last: Vec<_> = (15..30).collect();
    let first: Vec<_> = (0..15).collect();
    world.cut(&first, &last);
    world.run_for(seconds(10));
    for n in 0..600 {
        let (key, value) = (format!("k{n:04}"), Some(Bytes::from(vec![b'v'; 4 << 10])));
        ask(&mut world, n % 30, StateRequest::Put { key, value, context: None, ack: Ack::Local });
        if n % 60 == 59 {
            world.run_for(Duration::from_millis(200));
        }
    }
    heal(&mut world);
    let most = std::cell::Cell::new(0);
    let since = world.now();
    let all = world.run_until(since + seconds(60), |world| {
        let serving = (0..30).filter_map(|m| Some(world.shared_view(m)?.serving)).max();
        most.set(most.get().max(serving.unwrap_or(0)));
        world.shared_unrest().is_empty()
    });
    let all = all.unwrap_or_else(|| panic!("no rest: {:#?}", world.shared_unrest()));
    println!(
        "thirty nodes were one again after {:?}; at most {} answered at once",
        all.since(since),
        most.get()
    );
    assert_eq!(world.broken(), [] as [String; 0]);
    assert!((2..=8).contains(&most.get()), "{}", most.get());
}

#[test]
fn fault_65_a_key_that_all_nodes_write_has_a_bounded_number_of_values_and_can_be_resolved() {
    let mut world = healthy_mesh(5, 42);
    // Every writer says that it has read nothing: none replaces what another wrote.
    let nothing = Some(shoal::core::model::Clock::default());
    let (mut made, mut refused) = (0, 0);
    for round in 0..60 {
        let asked: Vec<_> = (0..5)
            .map(|machine| {
                let value = Some(Bytes::from(format!("{round} of {machine}")));
                let (key, context, ack) = ("hot".to_owned(), nothing.clone(), Ack::Local);
                (machine, ask(&mut world, machine, StateRequest::Put { key, value, context, ack }))
            })
            .collect();
        world.run_for(Duration::from_millis(100));
        for at in asked {
            match &world.report().replies[&at].1 {
                Ok(ResponseBody::State(StateAnswer::Written { .. })) => made += 1,
                Err(refusal) if refusal.to_string().contains("concurrent values") => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    rests(&mut world);
    let values = siblings(&mut world, 0, "hot");
    println!("{made} writes were made and {refused} refused; {} values stand", values.len());
    // Nobody adds to a full key; those that were made at the same time are all kept.
    assert_eq!((values.len(), made + refused), (made, 300));
    assert!((limits::SIBLINGS_MAX..limits::SIBLINGS_MAX + 5).contains(&made), "{made}");
    // Who has read them all replaces them all.
    let Ok(StateAnswer::Value(read)) = answer(&mut world, 3, StateRequest::Get { key: "hot".to_owned() })
    else {
        panic!("it is read");
    };
    let (key, value) = ("hot".to_owned(), Some(Bytes::from_static(b"resolved")));
    let resolve = StateRequest::Put { key, value, context: Some(read.context), ack: Ack::Local };
    assert!(matches!(answer(&mut world, 3, resolve), Ok(StateAnswer::Written { is_sibling: false, .. })));
    rests(&mut world);
    assert!((0..5).all(|m| siblings(&mut world, m, "hot") == ["resolved"]));
}

#[test]
fn fault_65_a_key_that_all_nodes_write_as_they_see_it_never_has_more_values_than_writers() {
    let mut world = healthy_mesh(5, 43);
    let mut most = 0;
    for round in 0..200 {
        for machine in 0..5 {
            let value = Some(Bytes::from(format!("{round} of {machine}")));
            let (key, context, ack) = ("hot".to_owned(), None, Ack::Local);
            ask(&mut world, machine, StateRequest::Put { key, value, context, ack });
        }
        world.run_for(Duration::from_millis(7));
        most = most.max(siblings(&mut world, round % 5, "hot").len());
    }
    rests(&mut world);
    println!("at most {most} values at once");
    assert!((2..=10).contains(&most), "{most}");
}

#[test]
fn a_write_reaches_all_of_sixty_nodes_over_relays_and_no_relay_is_taken_for_a_liar() {
    let mut world = healthy_mesh(60, 45);
    world.run_for(seconds(10));
    for n in 0..30 {
        written(&mut world, n * 2, &format!("k{n}"), "v");
    }
    rests(&mut world);
    for machine in 0..60 {
        let view = world.shared_view(machine).expect("it runs");
        assert_eq!(view.refused, 0, "{} refused what it was told", world.node(machine));
    }
}

#[test]
fn what_is_written_faster_than_it_may_be_told_reaches_all_by_comparing() {
    let mut world = healthy_mesh(3, 43);
    rests(&mut world);
    for n in 0..400 {
        let (key, value) = (format!("k{n:04}"), Some(Bytes::from(vec![b'v'; 60_000])));
        ask(&mut world, 0, StateRequest::Put { key, value, context: None, ack: Ack::Local });
        if n % 50 == 49 {
            world.run_for(Duration::from_millis(20));
        }
    }
    let took = rests(&mut world);
    let held_back = world.shared_view(0).expect("it runs").held_back;
    println!("{held_back} times a write was held back; all had everything after {took:?}");
    assert!(held_back > 100, "{held_back}");
    assert_eq!(
        world.shared_view(2).map(|view| view.clock.upto(view.clock.iter().next().expect("one").0)),
        Some(400)
    );
}
