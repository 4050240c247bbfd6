//! Nodes of other versions: what is not said over a link whose other end would not understand it, and whom
//! there is no version in common with.

use super::Mesh;
use crate::core::contract::{Effect, Output};
use crate::core::error::{Refusal, Refused};
use crate::core::ids::LinkId;
use crate::core::wire::{Control, OwnedBatch};

impl Mesh {
    /// Sends a control frame, unless the link's other end is too old for it: then whoever asked is told,
    /// and news that nobody asked for is kept back.
    pub(super) fn output_control(&mut self, link: LinkId, frame: Control) {
        let version = self.links.get(link).map(|link| link.version);
        let frame = match version {
            Some(version) if frame.since_version() > version => match self.said_otherwise(link, frame) {
                Some(frame) => frame,
                None => return,
            },
            // A link that is being replaced is not in the table any more: what it is told is older than that.
            Some(_) | None => frame,
        };
        self.outputs.push_back(Effect { after: None, output: Output::Control { link, frame } });
    }

    /// What an older node is told instead of a frame that it does not know, if anything.
    fn said_otherwise(&mut self, link: LinkId, frame: Control) -> Option<Control> {
        match frame {
            Control::Request { id, .. } => {
                self.refuse_outdated(link, id);
                None
            }
            Control::Response { id, result } => {
                let why = match result {
                    Err(refusal) => refusal.to_string(),
                    Ok(_) => "the answer cannot be said in this node's version of the protocol".to_owned(),
                };
                Some(Control::Response { id, result: Err(Refusal::BadRequest { why }) })
            }
            Control::Owned { batches } if self.links.get(link).is_some_and(|link| link.version > 0) => {
                let batches = batches.into_iter().map(OwnedBatch::without_slots).collect();
                Some(Control::Owned { batches })
            }
            Control::Members { .. }
            | Control::Summary { .. }
            | Control::OwnedDigest { .. }
            | Control::Owned { .. }
            | Control::HeldForFailed { .. }
            | Control::Leaving { .. }
            | Control::DuplicateSeen { .. }
            | Control::Past(_)
            | Control::Check { .. }
            | Control::CheckAnswer { .. }
            | Control::CrlDigest { .. }
            | Control::Crl { .. }
            | Control::Redial
            | Control::State(_)
            | Control::StateAsk { .. }
            | Control::StatePart(_)
            | Control::StateBusy { .. }
            | Control::StateAck { .. }
            | Control::StateFloor { .. }
            | Control::StateBaseAsk { .. }
            | Control::StateBase { .. }
            | Control::Beats(_)
            | Control::Register { .. }
            | Control::Permit { .. }
            | Control::KeepAlive => {
                tracing::trace!(?link, "a frame that the peer's version does not know is not sent");
                None
            }
        }
    }

    fn refuse_outdated(&mut self, link: LinkId, id: u64) {
        let Some(node) = self.links.get(link).map(|link| link.node.clone()) else {
            return;
        };
        let version = self.links.card(&node.key()).map_or_else(String::new, |card| card.version.clone());
        self.fail_request(id, Refusal::Outdated { node, version });
    }

    /// The transport has refused a peer whose versions are not ours, or was refused by one.
    pub(super) fn on_unspoken(&mut self, peer: String, reason: String) {
        self.tell_refusal(peer, Refused::Version.code(), reason);
    }
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one kind among many")]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::contract::{Boot, Input, Remembered, StartMode};
    use crate::core::ids::{Incarnation, MeshId, ProcessId, RequestId};
    use crate::core::model::{Event, Hello, NodeCard, Overrides, Profile};
    use crate::core::time::Instant;
    use crate::core::wire::{OwnedRecord, RequestBody};

    const LINK: LinkId = LinkId(1);

    fn card(name: &str) -> NodeCard {
        NodeCard {
            node_id: name.parse().expect("valid"),
            addresses: vec![format!("{name}:7946")],
            region: String::new(),
            zone: String::new(),
            labels: Default::default(),
            roles: vec![],
            version: "0.1.0".to_owned(),
        }
    }

    fn mesh() -> Mesh {
        let boot = Boot {
            card: card("node-1"),
            mesh_name: "test".parse().expect("valid"),
            process_id: ProcessId(Uuid::from_bytes([1; 16])),
            remembered: Remembered { start: 1, mesh_id: Some(MeshId(Uuid::nil())), ..Remembered::default() },
            start: StartMode::Resume,
            profile: Profile::Auto,
            overrides: Overrides::default(),
            cross_region: Default::default(),
            partition: Default::default(),
            recovery: Default::default(),
            unix_ms: 0,
            seed: [1; 32],
        };
        Mesh::new(boot, Instant::ZERO)
    }

    fn hello(min: u8, max: u8) -> Hello {
        Hello {
            version_min: min,
            version_max: max,
            mesh_id: None,
            mesh_name: "test".parse().expect("valid"),
            process_id: ProcessId(Uuid::from_bytes([3; 16])),
            incarnation: Incarnation::first_of(1),
            card: card("node-3"),
            bulk_beside: None,
        }
    }

    fn outputs(mesh: &mut Mesh) -> Vec<Output> {
        std::iter::from_fn(|| mesh.poll_output()).map(|effect| effect.output).collect()
    }

    fn link_up(mesh: &mut Mesh, hello: Hello) -> Vec<Output> {
        let address = "node-3:7946".to_owned();
        mesh.handle(Input::LinkUp { link: LINK, hello, address, dialled: None }, Instant::ZERO);
        outputs(mesh)
    }

    /// A mesh with a link to a node that knows nothing at all of what is said today.
    fn mesh_beside_an_older_node() -> Mesh {
        let mut mesh = mesh();
        link_up(&mut mesh, hello(1, 1));
        let (mut link, _) = mesh.links.remove(LINK).expect("it is up");
        assert_eq!(link.version, 1);
        link.version = 0;
        mesh.links.insert(LINK, link);
        mesh
    }

    #[test]
    fn a_request_that_the_other_version_does_not_know_is_refused_here_and_not_sent() {
        let mut mesh = mesh_beside_an_older_node();
        let (request, node) = (RequestId(7), card("node-3").node_id);
        mesh.handle(Input::Request { request, node, body: RequestBody::Ping }, Instant::ZERO);
        let outputs = outputs(&mut mesh);
        assert!(!outputs.iter().any(|o| matches!(o, Output::Control { .. })), "{outputs:?}");
        let refusal = outputs.iter().find_map(|output| match output {
            Output::Reply { request: RequestId(7), result: Err(refusal) } => Some(refusal.to_string()),
            _ => None,
        });
        let text = "node-3 runs version 0.1.0 of Shoal and does not know this request: upgrade it";
        assert_eq!(refusal.as_deref(), Some(text));
        assert!(mesh.requests.is_empty());
    }

    #[test]
    fn news_that_the_other_version_does_not_know_is_kept_back_and_a_refusal_goes_as_text() {
        let mut mesh = mesh_beside_an_older_node();
        mesh.output(Output::Control { link: LINK, frame: Control::Check { nonce: 1 } });
        assert_eq!(outputs(&mut mesh), []);
        mesh.links.remove(LINK);
        link_up(&mut mesh, hello(1, 1));
        let refusal = Refusal::Outdated { node: card("node-2").node_id, version: "0.1.0".to_owned() };
        let text = refusal.to_string();
        mesh.output(Output::Control { link: LINK, frame: Control::Response { id: 5, result: Err(refusal) } });
        let told = Control::Response { id: 5, result: Err(Refusal::BadRequest { why: text }) };
        assert_eq!(outputs(&mut mesh).pop(), Some(Output::Control { link: LINK, frame: told }));
    }

    #[test]
    fn an_older_node_is_not_told_of_agents_whose_names_it_would_refuse() {
        let mut mesh = mesh();
        link_up(&mut mesh, hello(1, 1));
        let record = |path: &str, n| OwnedRecord { path: path.to_owned(), n, value: None };
        let batch = |records| OwnedBatch {
            node: card("node-2").node_id,
            start: 1,
            after: 0,
            upto: 3,
            floor: 0,
            records,
        };
        let frame =
            |records| Output::Control { link: LINK, frame: Control::Owned { batches: vec![batch(records)] } };
        mesh.output(frame(vec![record("load", 1), record("agents/web#1", 2), record("agents/web", 3)]));
        let told = frame(vec![record("load", 1), record("agents/web", 3)]);
        assert_eq!(outputs(&mut mesh).pop(), Some(told));
    }

    #[test]
    fn a_link_to_a_node_of_this_version_speaks_it_and_one_without_a_version_in_common_is_refused() {
        let mut current = mesh();
        link_up(&mut current, hello(1, 2));
        assert_eq!(current.links.get(LINK).map(|link| link.version), Some(2));
        for (min, max, theirs) in [(3, 4, "versions 3 to 4"), (0, 0, "version 0")] {
            let mut mesh = mesh();
            let outputs = link_up(&mut mesh, hello(min, max));
            assert!(outputs.contains(&Output::Close { link: LINK, reason: Refused::Version }));
            let words = format!("node-3 speaks {theirs} of the protocol, node-1 versions 1 to 2");
            let says = |o: &Output| matches!(o, Output::Event(Event::Refused { reason, .. }) if reason.contains(&words));
            assert!(outputs.iter().any(says), "{outputs:?}");
        }
    }
}
