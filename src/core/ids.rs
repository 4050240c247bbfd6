//! Names of things: nodes, agents, meshes, links, requests. Parsed once, at the edge, and trusted afterwards.
//!
//! Every textual id is validated when it is made, also when it arrives in a frame, so a value of one of
//! these types is always within its bounds and free of control characters (nothing here can forge a log line).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::limits;

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {why}")]
pub struct NameError {
    what: &'static str,
    text: String,
    why: &'static str,
}

fn check_name(what: &'static str, text: &str, bytes_max: usize) -> Result<(), NameError> {
    let fail = |why| {
        let text = text.chars().take(80).collect();
        Err(NameError { what, text, why })
    };
    if text.is_empty() {
        return fail("it is empty");
    }
    if text.len() > bytes_max {
        return fail("it is too long");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return fail("only letters, digits, '-', '_' and '.' are allowed");
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() {
        return fail("it must begin with a letter or a digit");
    }
    Ok(())
}

/// The name of a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Parses a node id: 1 to 128 ASCII letters, digits, `-`, `_`, `.`, beginning with a letter or digit.
    ///
    /// # Errors
    /// [`NameError`] says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_name("node id", text, limits::NODE_ID_BYTES_MAX)?;
        Ok(Self(text.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 16-byte key under which gossip names this node.
    #[must_use]
    pub fn key(&self) -> NodeKey {
        let digest = Sha256::digest(self.0.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        NodeKey(key)
    }
}

/// The first 16 bytes of the SHA-256 of a node id: fixed in size and cheap to compare, because
/// gossip compares addresses linearly and repeats them in every packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeKey(pub [u8; 16]);

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Names the key of a CA: SHA-256 over its public key (SubjectPublicKeyInfo). A CA that is issued again for its
/// old key has the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CaKeyId(pub [u8; 32]);

/// The first eight bytes: enough to tell the few CAs of a mesh apart.
impl fmt::Display for CaKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for CaKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaKeyId({self})")
    }
}

/// The name of an agent: 1 to 64 ASCII letters, digits, `-`, `_`, `.`. An agent that fills a slot of a blueprint has the
/// blueprint's name, `#` and the number of the slot: `web#3`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentName(Arc<str>);

impl AgentName {
    /// Parses an agent's name.
    ///
    /// # Errors
    /// [`NameError`] says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "agent name";
        let (base, slot) = text.split_once('#').map_or((text, None), |(base, slot)| (base, Some(slot)));
        check_name(WHAT, base, limits::AGENT_NAME_BYTES_MAX)?;
        if slot.is_some_and(|slot| !is_slot_number(slot)) {
            let text = text.chars().take(80).collect();
            let why = "after '#' stands the number of a slot, as in web#3";
            return Err(NameError { what: WHAT, text, why });
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without the number of a slot: what messages are usually addressed to.
    #[must_use]
    pub fn base(&self) -> Self {
        match self.0.split_once('#') {
            Some((base, _)) => Self(base.into()),
            None => self.clone(),
        }
    }

    /// The number of the slot that it fills; `None` for an agent that was deployed by hand.
    #[must_use]
    pub fn slot(&self) -> Option<u16> {
        self.0.split_once('#')?.1.parse().ok()
    }

    /// The name of whoever fills this slot of the blueprint with this name.
    #[must_use]
    pub fn of_slot(&self, number: u16) -> Self {
        Self(format!("{}#{number}", self.base()).into())
    }
}

fn is_slot_number(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|number| number.to_string() == text)
}

/// The name of a mesh as its certificates carry it (the trust domain of the SPIFFE id).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MeshName(Arc<str>);

impl MeshName {
    /// Parses a mesh name: 1 to 64 ASCII letters, digits, `-`, `_`, `.`.
    ///
    /// # Errors
    /// [`NameError`] says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_name("mesh name", text, limits::MESH_NAME_BYTES_MAX)?;
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A tag: what an agent can do, or a topic that it listens to. 1 to 64 ASCII letters, digits, `-`, `_`, `.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Arc<str>);

impl Tag {
    /// Parses a tag.
    ///
    /// # Errors
    /// [`NameError`] says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_name("tag", text, limits::TAG_BYTES_MAX)?;
        Ok(Self(text.into()))
    }

    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What every name can be made from and turned into.
macro_rules! text_traits {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }
        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text_traits!(NodeId, AgentName, MeshName, Tag);

/// The identity of one mesh, minted at its bootstrap and never changed: two meshes with the same name
/// and the same CA still refuse each other by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MeshId(pub uuid::Uuid);

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One run of one process: 16 random bytes made at each start. Two live processes that claim one node
/// id differ in it, which is how a duplicate is told from a restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub uuid::Uuid);

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0.as_fields().0)
    }
}

/// A node's incarnation: the number of its process start in the upper 44 bits, and how often that
/// process had to renew its identity in the lower 20.
///
/// A start is made durable before its first packet leaves, so a whole block of 2^20 incarnations is
/// reserved by one write, and gossip, which renews in the middle of a call, never waits for a disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl Incarnation {
    const RENEWAL_BITS: u32 = 20;

    /// The first incarnation of process start `start`.
    #[must_use]
    pub fn first_of(start: u64) -> Self {
        Self(start << Self::RENEWAL_BITS)
    }

    /// The process start that this incarnation belongs to.
    #[must_use]
    pub fn start(self) -> u64 {
        self.0 >> Self::RENEWAL_BITS
    }

    /// The next incarnation of the same process, or `None` when its block is used up.
    #[must_use]
    pub fn renewed(self) -> Option<Self> {
        let next = Self(self.0.checked_add(1)?);
        (next.start() == self.start()).then_some(next)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.start(), self.0 & ((1 << Self::RENEWAL_BITS) - 1))
    }
}

/// One connection between two nodes, numbered by the shell that opened or accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LinkId(pub u64);

/// A request that came in from a local client and waits for its reply, numbered by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// The number of a durable change; effects that depend on it carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PersistNo(pub u64);

/// Names a WASM module: the SHA-256 of its bytes. As text, 64 hexadecimal digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleId([u8; 32]);

impl ModuleId {
    /// The name of these bytes.
    #[must_use]
    pub fn of(module: &[u8]) -> Self {
        Self(Sha256::digest(module).into())
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ModuleId {
    type Err = NotAModuleId;
    fn from_str(text: &str) -> Result<Self, NotAModuleId> {
        let digits = text.as_bytes();
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 64 || !digits.iter().all(is_digit) {
            return Err(NotAModuleId);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let value = |digit: u8| (digit as char).to_digit(16).unwrap_or_default() as u8;
            *byte = value(pair[0]) << 4 | value(pair[1]);
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for ModuleId {
    type Error = NotAModuleId;
    fn try_from(text: String) -> Result<Self, NotAModuleId> {
        text.parse()
    }
}

impl From<ModuleId> for String {
    fn from(id: ModuleId) -> Self {
        id.to_string()
    }
}

/// A text does not name a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a module is named by its SHA-256: 64 hexadecimal digits in lower case")]
pub struct NotAModuleId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_outside_its_rules_is_refused_with_the_rule() {
        for (text, why) in [
            ("", "empty"),
            ("-a", "begin"),
            ("a b", "only letters"),
            ("a\nb", "only letters"),
            ("ä", "only letters"),
            (&"x".repeat(129), "too long"),
        ] {
            let error = NodeId::new(text).expect_err(text);
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn an_agent_is_named_after_its_slot_and_a_slot_has_one_name() {
        let web = AgentName::new("web").expect("valid");
        let third = AgentName::new("web#3").expect("valid");
        assert_eq!(web.of_slot(3), third);
        assert_eq!((third.base(), third.slot()), (web.clone(), Some(3)));
        assert_eq!((web.base(), web.slot()), (web.clone(), None));
        for text in ["web#", "web#03", "web#-1", "web#70000", "web#1#2", "#1", "web#+1"] {
            assert!(AgentName::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_from_a_frame_is_checked_like_one_from_a_person() {
        let bytes = rmp_serde::to_vec("node\u{1b}[2J").expect("a string encodes");
        assert!(rmp_serde::from_slice::<NodeId>(&bytes).is_err());
        let bytes = rmp_serde::to_vec("node-1").expect("a string encodes");
        assert_eq!(rmp_serde::from_slice::<NodeId>(&bytes).expect("valid").as_str(), "node-1");
    }

    #[test]
    fn an_incarnation_renews_within_its_block_and_never_into_the_next() {
        let first = Incarnation::first_of(7);
        assert_eq!(first.renewed().expect("room").start(), 7);
        assert_eq!(Incarnation(Incarnation::first_of(8).0 - 1).renewed(), None);
        assert!(Incarnation::first_of(8) > first.renewed().expect("room"));
    }
}
