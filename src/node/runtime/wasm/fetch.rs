//! Fetches a module from the nodes of the mesh, in parts: the next node goes on where one failed.
//!
//! The parts are only as good as their whole: its SHA-256 is its name. When parts of several nodes do not make the
//! module, one of them has lied or is damaged, and the last one is asked for all of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::core::error::Refusal;
use crate::core::ids::{ModuleId, NodeId};
use crate::core::limits;
use crate::node::runtime::Commons;

/// Between two questions to those that could not answer the first.
const PAUSE: Duration = Duration::from_millis(250);
/// How often one node is asked again for one module because it is busy.
const PAUSES_MAX: u32 = 40;

/// The bytes of a module, which are what its name says. `first` is asked first.
///
/// A node that has just started reaches nobody for a moment: where nobody answered, all are asked again for
/// [`limits::MODULE_PEERS_PATIENCE`].
///
/// # Errors
/// What the last node said, in one sentence.
pub(super) async fn fetch(
    commons: &Arc<dyn Commons>,
    module: &ModuleId,
    first: Option<&NodeId>,
) -> Result<Vec<u8>, String> {
    let begun = Instant::now();
    let fetching = async {
        loop {
            let failure = match round(commons, module, first).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failure,
            };
            if failure.is_final || begun.elapsed() >= limits::MODULE_PEERS_PATIENCE {
                return Err(failure.why);
            }
            sleep(PAUSE).await;
        }
    };
    let within = limits::MODULE_FETCH_DEADLINE;
    timeout(within, fetching)
        .await
        .unwrap_or_else(|_| Err(format!("no node gave all of it within {} s", within.as_secs())))
}

/// Why nobody gave the module.
struct Failure {
    why: String,
    /// Somebody was asked, and none may answer otherwise in a moment.
    is_final: bool,
}

/// Asks all nodes that can be reached now.
async fn round(
    commons: &Arc<dyn Commons>,
    module: &ModuleId,
    first: Option<&NodeId>,
) -> Result<Vec<u8>, Failure> {
    let mut nodes = commons.peers();
    if let Some(place) = nodes.iter().position(|node| Some(node) == first) {
        nodes[..=place].rotate_right(1);
    }
    let mut failure = Failure { why: "no other node can be reached".to_owned(), is_final: !nodes.is_empty() };
    let mut bytes = Vec::new();
    for node in &nodes {
        let begun_elsewhere = !bytes.is_empty();
        let mut given = go_on(commons, module, node, &mut bytes).await;
        if given.is_ok() && ModuleId::of(&bytes) != *module && begun_elsewhere {
            // The fault may be another's: once more, with parts of this node alone.
            bytes.clear();
            given = go_on(commons, module, node, &mut bytes).await;
        }
        let refusal = match given {
            Ok(()) if ModuleId::of(&bytes) == *module => return Ok(bytes),
            Ok(()) => {
                bytes.clear();
                Refusal::NoAnswer { node: node.clone(), reason: "what it gave is something else".to_owned() }
            }
            Err(refusal) => refusal,
        };
        tracing::debug!(%node, %module, %refusal, "no module from this node");
        failure.is_final &= matches!(refusal, Refusal::NoAnswer { .. } | Refusal::Outdated { .. });
        failure.why = refusal.to_string();
    }
    Err(failure)
}

/// Adds what is missing from one node.
async fn go_on(
    commons: &Arc<dyn Commons>,
    module: &ModuleId,
    node: &NodeId,
    bytes: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let bad = |reason: String| Refusal::NoAnswer { node: node.clone(), reason };
    let mut patience = PAUSES_MAX;
    loop {
        let offset = bytes.len() as u64;
        let asking = commons.module_part(node.clone(), *module, offset);
        let deadline = limits::MODULE_PART_DEADLINE;
        let part = match timeout(deadline, asking).await {
            Ok(Ok(part)) => part,
            Ok(Err(Refusal::Overloaded { .. })) if patience > 0 => {
                // Many nodes ask it at once; each takes its turn.
                patience -= 1;
                sleep(PAUSE).await;
                continue;
            }
            Ok(Err(refusal)) => return Err(refusal),
            Err(_) => {
                let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
                return Err(Refusal::TimedOut { node: node.clone(), deadline_ms });
            }
        };
        part.check().map_err(|why| bad(why.to_owned()))?;
        let upto = offset + part.bytes.len() as u64;
        if upto > part.total_bytes {
            return Err(bad("its module ends before what others gave".to_owned()));
        }
        bytes.extend_from_slice(&part.bytes);
        if upto == part.total_bytes {
            return Ok(());
        }
        if part.bytes.is_empty() {
            return Err(bad("it gave an empty part".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::pin::Pin;
    use std::sync::Mutex;

    use super::*;
    use crate::core::wire::{ModulePart, StateAnswer, StateRequest};

    /// What one node does when it is asked: its bytes, and from which byte on it fails.
    type Node = (&'static str, Vec<u8>, usize);

    struct Fake {
        nodes: Vec<Node>,
        asked: Mutex<Vec<(String, u64)>>,
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    impl Commons for Fake {
        fn state(
            &self,
            _: StateRequest,
        ) -> Pin<Box<dyn Future<Output = Result<StateAnswer, Refusal>> + Send>> {
            unreachable!("nobody asks for state here")
        }

        fn peers(&self) -> Vec<NodeId> {
            self.nodes.iter().map(|(name, ..)| node(name)).collect()
        }

        fn module_part(
            &self,
            from: NodeId,
            _: ModuleId,
            offset: u64,
        ) -> Pin<Box<dyn Future<Output = Result<ModulePart, Refusal>> + Send>> {
            self.asked.lock().expect("no panic").push((from.to_string(), offset));
            let (_, bytes, fails_at) =
                self.nodes.iter().find(|(name, ..)| *name == from.as_str()).expect("a peer");
            let (total, at) = (bytes.len(), offset as usize);
            if at >= *fails_at {
                return Box::pin(ready(Err(Refusal::NoAnswer {
                    node: from,
                    reason: "it has none".to_owned(),
                })));
            }
            let part = bytes[at.min(total)..(at + 4).min(total)].to_vec();
            Box::pin(ready(Ok(ModulePart { total_bytes: total as u64, bytes: part.into() })))
        }
    }

    async fn fetched(nodes: Vec<Node>, first: Option<&str>) -> (Result<Vec<u8>, String>, Vec<(String, u64)>) {
        let fake = Arc::new(Fake { nodes, asked: Mutex::default() });
        let commons: Arc<dyn Commons> = Arc::clone(&fake) as _;
        let module = ModuleId::of(b"0123456789");
        let result = fetch(&commons, &module, first.map(node).as_ref()).await;
        let asked = fake.asked.lock().expect("no panic").clone();
        (result, asked)
    }

    fn asked(of: &[(&str, u64)]) -> Vec<(String, u64)> {
        of.iter().map(|(node, offset)| ((*node).to_owned(), *offset)).collect()
    }

    const WHOLE: &[u8] = b"0123456789";

    #[tokio::test]
    async fn the_next_node_goes_on_where_one_failed() {
        let nodes =
            vec![("none", vec![], 0), ("half", WHOLE.to_vec(), 8), ("whole", WHOLE.to_vec(), usize::MAX)];
        let (result, questions) = fetched(nodes, None).await;
        assert_eq!(result.expect("fetched"), WHOLE);
        assert_eq!(questions, asked(&[("none", 0), ("half", 0), ("half", 4), ("half", 8), ("whole", 8)]));
    }

    #[tokio::test]
    async fn the_node_that_is_known_to_have_it_is_asked_first_and_the_others_keep_their_order() {
        let none = |name| (name, vec![], 0);
        let (result, questions) = fetched(vec![none("a"), none("b"), none("c")], Some("b")).await;
        assert!(result.expect_err("none has it").contains("c could not answer"));
        assert_eq!(questions, asked(&[("b", 0), ("a", 0), ("c", 0)]));
    }

    #[tokio::test]
    async fn a_node_that_gives_something_else_spoils_nothing_but_its_own_parts() {
        let liar = ("liar", b"01234567xx".to_vec(), usize::MAX);
        let half_liar = ("half-liar", b"xxxx456789".to_vec(), 4);
        let whole = ("whole", WHOLE.to_vec(), usize::MAX);
        for nodes in [
            vec![liar.clone(), whole.clone()],
            vec![half_liar.clone(), whole],
            vec![half_liar, ("other", WHOLE.to_vec(), usize::MAX)],
        ] {
            assert_eq!(fetched(nodes, None).await.0.expect("fetched"), WHOLE);
        }
        let why = fetched(vec![liar], None).await.0.expect_err("nobody has it");
        assert!(why.contains("liar could not answer: what it gave is something else"), "{why}");
    }

    #[tokio::test]
    async fn without_peers_and_beyond_the_size_there_is_an_error() {
        assert!(fetched(vec![], None).await.0.expect_err("nobody").contains("no other node"));
        let endless = ("endless", vec![0; limits::MODULE_BYTES_MAX + 1], usize::MAX);
        assert!(fetched(vec![endless], None).await.0.expect_err("too large").contains("too large"));
    }
}
