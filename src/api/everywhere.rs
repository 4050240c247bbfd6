//! Asks every node that can be asked the same thing, a bounded number at once, and waits no longer than a request may
//! take in all.

use futures_util::stream::{self, Stream, StreamExt};

use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::MemberStatus;
use crate::core::wire::{RequestBody, ResponseBody};
use crate::node::Handle;

/// What each node has answered, in order of names, as it comes; why it has not is one sentence. Nodes that have left
/// are not asked and not told of.
pub(super) fn ask_all(
    node: &Handle,
    body: RequestBody,
) -> impl Stream<Item = (NodeId, Result<ResponseBody, String>)> {
    let deadline = tokio::time::Instant::now() + limits::REQUEST_DEADLINE;
    let view = node.view();
    let members: Vec<_> = view
        .members
        .iter()
        .filter(|(member, _)| member.status != MemberStatus::Left)
        .map(|(member, _)| (member.card.node_id.clone(), member.status))
        .collect();
    let node = node.clone();
    stream::iter(members)
        .map(move |(asked, status)| {
            let (node, body) = (node.clone(), body.clone());
            async move {
                let answer = if status.is_reachable() {
                    ask(&node, asked.clone(), body, deadline).await
                } else {
                    Err(format!("{asked} is {status}: it cannot be asked"))
                };
                (asked, answer)
            }
        })
        .buffered(limits::STATE_ASKED_AT_ONCE)
}

async fn ask(
    node: &Handle,
    asked: NodeId,
    body: RequestBody,
    deadline: tokio::time::Instant,
) -> Result<ResponseBody, String> {
    let deadline = deadline.min(tokio::time::Instant::now() + limits::STATE_ASK_DEADLINE);
    let asking = node.request(asked.clone(), body);
    match tokio::time::timeout_at(deadline, asking).await {
        Ok(answer) => answer.map_err(|refusal| refusal.to_string()),
        Err(_) => Err(format!("{asked} did not answer in time")),
    }
}

/// What to say of a node whose answer is of another kind than what was asked.
pub(super) fn not_understood(node: &NodeId) -> String {
    format!("{node} gave an answer that this version does not understand")
}
