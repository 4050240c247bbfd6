//! Partitions and roles: what is given arrives.

use super::*;
use crate::core::model::{Action, Decision, Strategy};

#[test]
fn what_a_minority_does_arrives_wherever_the_section_stands() {
    let section = "{strategy: availability, detection_timeout: 500ms, quorum_size: 3, max_offline: 2h, \
                   queue_writes: false}";
    let expected = PartitionConfig {
        strategy: Strategy::Availability,
        detection_timeout: Duration::from_millis(500),
        quorum_size: Some(3),
        tie_breaker: None,
        max_offline: Duration::from_secs(7_200),
        degraded_mode: true,
        queue_writes: false,
    };
    for text in [format!("partition: {section}"), format!("coordination: {{partition: {section}}}")] {
        let config = load(&format!("node: {{id: n}}\n{text}")).expect("valid");
        assert_eq!(config.partition, expected, "{text}");
    }
    let config = load("node: {id: n}\npartition: {tie_breaker: n, degraded_mode: false}").expect("valid");
    assert_eq!(config.partition.tie_breaker, Some(NodeId::new("n").expect("valid")));
    assert!(!config.partition.degraded_mode);
}

#[test]
fn a_custom_strategy_has_decisions_in_their_order_or_a_command() {
    let text = "
node: {id: n}
partition:
  strategy: custom
  decisions:
    - {condition: nodes == 1, action: local-only}
    - {condition: nodes < quorum, action: read-only}";
    let decision =
        |condition: &str, action| Decision { condition: condition.parse().expect("valid"), action };
    let decisions =
        vec![decision("nodes == 1", Action::LocalOnly), decision("nodes < quorum", Action::ReadOnly)];
    assert_eq!(load(text).expect("valid").partition.strategy, Strategy::Decisions(decisions));
    let text = "node: {id: n}\npartition: {strategy: custom, custom_handler: /opt/decide}";
    let handler = Strategy::Handler { command: "/opt/decide".into() };
    assert_eq!(load(text).expect("valid").partition.strategy, handler);
}

#[test]
fn the_command_of_the_custom_policy_is_a_path() {
    let load = |text: &str| load(text).expect("valid").custom_policy;
    let file = "node: {id: n}\ncoordination: {state: {custom_policy: /opt/choose}}";
    assert_eq!(load(file).as_deref(), Some("/opt/choose"));
    assert_eq!(load("node: {id: n}\ncoordination: {state: {custom_policy: null}}"), None);
    assert_eq!(load("node: {id: n}"), None);
}

#[test]
fn roles_are_a_list_or_one_text_with_commas() {
    for roles in ["[worker, edge]", "'worker, edge'"] {
        let config = load(&format!("node: {{id: n, roles: {roles}}}")).expect("valid");
        assert_eq!(config.node.roles, ["worker", "edge"]);
    }
    assert_eq!(load("node: {id: n}").expect("valid").node.roles, Vec::<String>::new());
}
