//! Names in certificates: SPIFFE URIs, `spiffe://<mesh>` for a CA and `spiffe://<mesh>/node/<id>` for a node.
//!
//! A name is compared byte for byte. There is no percent-decoding, no case folding, no query and no trailing
//! slash, so two texts never name one node.

use std::fmt;

use crate::core::ids::{MeshName, NameError, NodeId};

const SCHEME: &str = "spiffe://";
const NODE_PATH: &str = "node/";

/// What a URI in a certificate of a mesh names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpiffeName {
    /// The mesh itself: its CA.
    Mesh(MeshName),
    /// One node of a mesh.
    Node(MeshName, NodeId),
}

/// Why the name in a certificate is not that of a node or a mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// The certificate has no URI in its subject alternative names.
    #[error("the certificate has no URI name, so it names neither a node nor a mesh")]
    NoUri,
    /// The certificate has several, and none of them is more right than the other.
    #[error("the certificate has {count} URI names instead of exactly one")]
    SeveralUris {
        /// How many.
        count: usize,
    },
    /// The URI has another form.
    #[error("the URI name {uri:?} is neither spiffe://<mesh> nor spiffe://<mesh>/node/<id>")]
    Form {
        /// The URI, cut after 200 characters.
        uri: String,
    },
    /// A part of the URI is not a valid name.
    #[error("the URI name {uri:?} is not valid: {source}")]
    Part {
        /// The URI, cut after 200 characters.
        uri: String,
        /// The rule that the part breaks.
        source: NameError,
    },
    /// A node's name was expected.
    #[error("the certificate names the mesh {mesh} as a whole and no node of it")]
    NotANode {
        /// The mesh it names.
        mesh: MeshName,
    },
    /// A mesh's name was expected.
    #[error("the certificate names the node {node} and not a mesh")]
    NotAMesh {
        /// The node it names.
        node: NodeId,
    },
    /// It names a node of another mesh.
    #[error("the certificate belongs to mesh {theirs}, this is mesh {ours}")]
    OtherMesh {
        /// The mesh in the certificate.
        theirs: MeshName,
        /// The mesh that was expected.
        ours: MeshName,
    },
}

impl SpiffeName {
    /// The name in the URIs of a certificate, of which there must be exactly one.
    ///
    /// # Errors
    /// [`NameFault`] says what is wrong.
    pub fn from_uris(uris: &[String]) -> Result<Self, NameFault> {
        match uris {
            [] => Err(NameFault::NoUri),
            [uri] => Self::parse(uri),
            several => Err(NameFault::SeveralUris { count: several.len() }),
        }
    }

    /// The mesh and the node that are named.
    ///
    /// # Errors
    /// [`NameFault::NotANode`] for the name of a mesh.
    pub fn into_node(self) -> Result<(MeshName, NodeId), NameFault> {
        match self {
            Self::Node(mesh, node) => Ok((mesh, node)),
            Self::Mesh(mesh) => Err(NameFault::NotANode { mesh }),
        }
    }

    /// The mesh that is named.
    ///
    /// # Errors
    /// [`NameFault::NotAMesh`] for the name of a node.
    pub fn into_mesh(self) -> Result<MeshName, NameFault> {
        match self {
            Self::Mesh(mesh) => Ok(mesh),
            Self::Node(_, node) => Err(NameFault::NotAMesh { node }),
        }
    }

    fn parse(uri: &str) -> Result<Self, NameFault> {
        let shown = || uri.chars().take(200).collect::<String>();
        let form = || NameFault::Form { uri: shown() };
        let part = |source| NameFault::Part { uri: shown(), source };
        let rest = uri.strip_prefix(SCHEME).ok_or_else(form)?;
        let Some((mesh, path)) = rest.split_once('/') else {
            return Ok(Self::Mesh(MeshName::new(rest).map_err(part)?));
        };
        let mesh = MeshName::new(mesh).map_err(part)?;
        let id = path.strip_prefix(NODE_PATH).ok_or_else(form)?;
        Ok(Self::Node(mesh, NodeId::new(id).map_err(part)?))
    }
}

impl fmt::Display for SpiffeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh(mesh) => write!(f, "{SCHEME}{mesh}"),
            Self::Node(mesh, node) => write!(f, "{SCHEME}{mesh}/{NODE_PATH}{node}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Result<SpiffeName, NameFault> {
        SpiffeName::from_uris(&[uri.to_owned()])
    }

    #[test]
    fn a_name_is_read_back_as_it_was_written() {
        let mesh = MeshName::new("prod").expect("valid");
        for name in [
            SpiffeName::Mesh(mesh.clone()),
            SpiffeName::Node(mesh, NodeId::new("node-1.example").expect("valid")),
        ] {
            assert_eq!(parse(&name.to_string()), Ok(name));
        }
    }

    #[test]
    fn a_uri_of_any_other_form_is_refused() {
        for uri in [
            "",
            "spiffe:",
            "spiffe://",
            "spiffe:///node/a",
            "SPIFFE://prod/node/a",
            "https://prod/node/a",
            "spiffe://prod/",
            "spiffe://prod/node",
            "spiffe://prod/node/",
            "spiffe://prod/node/a/",
            "spiffe://prod/node/a/b",
            "spiffe://prod//node/a",
            "spiffe://prod/Node/a",
            "spiffe://prod/agent/a",
            "spiffe://prod/node/a?b",
            "spiffe://prod/node/a#b",
            "spiffe://prod/node/%61",
            "spiffe://prod/node/../a",
            "spiffe://prod/node/a b",
            "spiffe://prod/node/a\0",
            "spiffe://prod:1/node/a",
            "spiffe://me@prod/node/a",
            " spiffe://prod/node/a",
        ] {
            assert!(parse(uri).is_err(), "{uri:?} was read as {:?}", parse(uri));
        }
    }

    #[test]
    fn no_uri_and_two_uris_are_both_refused() {
        assert_eq!(SpiffeName::from_uris(&[]), Err(NameFault::NoUri));
        let uri = "spiffe://prod/node/a".to_owned();
        assert_eq!(SpiffeName::from_uris(&[uri.clone(), uri]), Err(NameFault::SeveralUris { count: 2 }));
    }

    #[test]
    fn the_name_of_a_mesh_is_not_the_name_of_a_node() {
        assert!(matches!(
            parse("spiffe://prod").and_then(SpiffeName::into_node),
            Err(NameFault::NotANode { .. })
        ));
        assert!(matches!(
            parse("spiffe://prod/node/a").and_then(SpiffeName::into_mesh),
            Err(NameFault::NotAMesh { .. })
        ));
    }
}
