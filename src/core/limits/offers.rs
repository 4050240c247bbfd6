//! Bounds on what agents offer, and on whom a message goes to.

/// Bytes of a capability's or a topic's name. Longer: refused where it is parsed.
pub const TAG_BYTES_MAX: usize = 64;
/// Capabilities of one agent, and topics that it listens to. More: its deploy is refused.
pub const OFFER_TAGS_MAX: usize = 32;
/// Bytes of a message's key. Longer: refused where the message enters the mesh.
pub const MESSAGE_KEY_BYTES_MAX: usize = 256;
/// Agents that one message goes to: all of a name, or of a topic. More: refused.
pub const RECIPIENTS_MAX: usize = 10_000;
/// Bytes of content of all copies of such a message. More: refused.
pub const COPIES_BYTES_MAX: u64 = 64 << 20;
/// Bytes of such copies that are on the way to one node at once; the others follow when those have arrived.
pub const COPIES_AT_ONCE_BYTES: usize = 1 << 20;
/// What a copy counts for beside its content.
pub const COPY_BYTES: usize = 1 << 10;
