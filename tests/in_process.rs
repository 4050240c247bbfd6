//! Two and three whole nodes in one process, over real sockets on loopback: joining, messages, failure.

mod common;

use std::time::Duration;

use shoal::core::error::SendError;
use shoal::core::model::{AgentSource, AgentSpec, MemberStatus};
use shoal::core::wire::RequestBody;

use common::mesh::{TestMesh, message, message_from, until};

fn echo() -> AgentSpec {
    let name = "echo".parse().expect("valid");
    AgentSpec::new(name, AgentSource::Native { builtin: "echo".to_owned() })
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_find_each_other_and_an_agent_on_one_answers_all() {
    let mesh = TestMesh::start(3).await;
    mesh.all_alive().await;
    let third = mesh.node(3);
    third.handle().request(third.id(), RequestBody::Deploy { spec: echo() }).await.expect("deploys");
    for n in 1..=3 {
        let handle = mesh.node(n).handle();
        until(|| handle.view().agents.iter().any(|a| a.record.state.as_str() == "running")).await;
        let answer = handle.ask(message_from(n, "echo", b"hello")).await.expect("answers");
        assert_eq!(&answer.content[..], b"hello");
        assert_eq!(answer.from, "echo@node-3");
    }
    let unknown = mesh.node(1).handle().ask(message("nobody", b"")).await;
    assert!(matches!(unknown, Err(SendError::UnknownAgent { .. })), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_is_seen_as_left_and_its_agent_is_an_error_with_that_reason() {
    let mut mesh = TestMesh::start(3).await;
    mesh.all_alive().await;
    let third = mesh.node(3);
    third.handle().request(third.id(), RequestBody::Deploy { spec: echo() }).await.expect("deploys");
    let first = mesh.node(1).handle().clone();
    until(|| first.view().agents.len() == 1).await;
    mesh.stop(3).await;
    until(|| mesh.status(1, 3) == Some(MemberStatus::Left) && mesh.status(2, 3) == Some(MemberStatus::Left))
        .await;
    let refused = first.ask(message("echo", b"hello")).await;
    assert!(matches!(&refused, Err(SendError::NodeDown { status, .. }) if status == "left"), "{refused:?}");
    mesh.restart(3).await;
    mesh.all_alive().await;
    until(|| first.view().agents.iter().any(|a| a.record.state.as_str() == "running")).await;
    first.ask(message("echo", b"again")).await.expect("the agent came back with its node");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_beyond_its_bound_is_refused_at_the_sender_and_content_at_the_bound_passes() {
    let mesh = TestMesh::start(2).await;
    mesh.all_alive().await;
    let second = mesh.node(2);
    second.handle().request(second.id(), RequestBody::Deploy { spec: echo() }).await.expect("deploys");
    let first = mesh.node(1).handle();
    until(|| first.view().agents.iter().any(|a| a.record.state.as_str() == "running")).await;
    let large = vec![7; 1 << 20];
    let answer = tokio::time::timeout(Duration::from_secs(10), first.ask(message("echo", &large))).await;
    assert_eq!(answer.expect("in time").expect("answers").content.len(), large.len());
    let refused = first.ask(message("echo", &vec![7; (1 << 20) + 1])).await;
    assert!(matches!(refused, Err(SendError::ContentTooLarge { .. })), "{refused:?}");
}
