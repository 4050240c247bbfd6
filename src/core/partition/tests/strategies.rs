//! What a minority does.

use super::*;

fn custom(decisions: &[(&str, Action)]) -> PartitionConfig {
    let decision = |(condition, action): &(&str, Action)| Decision {
        condition: condition.parse().expect("valid"),
        action: *action,
    };
    let strategy = Strategy::Decisions(decisions.iter().map(decision).collect());
    PartitionConfig { strategy, ..PartitionConfig::default() }
}

fn handler() -> PartitionConfig {
    let strategy = Strategy::Handler { command: "decide".to_owned() };
    PartitionConfig { strategy, ..PartitionConfig::default() }
}

fn is_local_only(permissions: Permissions) -> bool {
    permissions.local_messages_only
}

#[test]
fn the_first_decision_whose_condition_holds_is_taken_and_read_only_without_any() {
    let five = roster(&["a", "b", "c", "d", "e"], &[]);
    let config = custom(&[("nodes == 1", Action::LocalOnly), ("nodes < quorum", Action::ReadOnly)]);
    let mut bench = Bench::new("a", config, &five);
    bench.hear(&["b", "c"]);
    bench.synchronise(&["b", "c"]);
    assert_eq!(bench.here.permissions().writes, Writes::Apply);
    bench.pass(2 * DETECTION, &["b"]);
    assert_eq!(bench.here.permissions().reads, Reads::AnswerWithAge, "two are left");
    bench.pass(2 * DETECTION, &[]);
    assert!(is_local_only(bench.here.permissions()), "one is left");
    let mut none = Bench::healthy(custom(&[("nodes > 3", Action::LocalOnly)]));
    none.pass(2 * DETECTION, &[]);
    assert_eq!(none.here.permissions().writes, Writes::Queue);
}

#[test]
fn the_handler_is_asked_once_for_each_situation_and_its_answer_holds() {
    let mut bench = Bench::healthy(handler());
    bench.pass(2 * DETECTION, &[]);
    let [(question, view)] = &bench.questions[..] else { panic!("one question: {:?}", bench.questions) };
    assert_eq!((view.mode, view.quorum, &view.reachable), (Mode::Degraded, 2, &nodes(&["a"])));
    assert_eq!(view.unreachable, nodes(&["b", "c"]));
    assert!(!is_local_only(bench.here.permissions()), "read-only until it answers");
    bench.here.handle_decision(*question, Ok(Action::LocalOnly), bench.now);
    assert!(is_local_only(bench.here.permissions()));
    bench.pass(DETECTION, &[]);
    assert_eq!(bench.questions.len(), 1, "nothing changed");
    bench.pass(DETECTION / 4, &["b"]);
    assert_eq!(bench.questions.len(), 2);
    assert!(is_local_only(bench.here.permissions()), "the last answer holds meanwhile");
}

#[test]
fn a_handler_that_fails_or_takes_too_long_leaves_the_node_read_only() {
    let mut bench = Bench::healthy(handler());
    bench.pass(DETECTION, &[]);
    bench.here.handle_decision(1, Ok(Action::LocalOnly), bench.now);
    bench.pass(100 * MS, &["b"]);
    bench.here.handle_decision(2, Err("exit status 1".to_owned()), bench.now);
    assert!(!is_local_only(bench.here.permissions()));

    let mut bench = Bench::healthy(handler());
    bench.pass(DETECTION, &[]);
    bench.pass(limits::DECISION_DEADLINE, &[]);
    bench.here.handle_decision(1, Ok(Action::LocalOnly), bench.now);
    assert!(!is_local_only(bench.here.permissions()), "too late");
}

#[test]
fn a_decision_is_forgotten_when_the_node_is_healthy_again() {
    let mut bench = Bench::healthy(handler());
    bench.pass(DETECTION, &[]);
    bench.here.handle_decision(1, Ok(Action::LocalOnly), bench.now);
    bench.pass(DETECTION, &["b"]);
    bench.synchronise(&["b"]);
    assert_eq!(bench.here.permissions().writes, Writes::Apply);
    bench.pass(DETECTION, &[]);
    assert!(!is_local_only(bench.here.permissions()), "it is asked anew");
    bench.here.handle_decision(1, Ok(Action::LocalOnly), bench.now);
    assert!(!is_local_only(bench.here.permissions()), "that was the former question");
}
