//! Bounds on what agents offer, on whom a message goes to, and on a node's folder of manifests.

use std::time::Duration;

/// Bytes of a capability's or a topic's name. Longer: refused where it is parsed.
pub const TAG_BYTES_MAX: usize = 64;
/// Capabilities of one agent, and topics that it listens to. More: its deploy is refused.
pub const OFFER_TAGS_MAX: usize = 32;
/// Tools of one agent. More: its deploy is refused.
pub const TOOLS_MAX: usize = 32;
/// Bytes of the description of a tool. More: likewise.
pub const TOOL_DESCRIPTION_BYTES_MAX: usize = 1024;
/// Bytes of the schema of a tool, as compact JSON. More: likewise.
pub const TOOL_SCHEMA_BYTES_MAX: usize = 8 << 10;
/// Objects and lists in each other in such a schema. More: likewise.
pub const TOOL_SCHEMA_DEPTH_MAX: usize = 10;
/// Bytes of descriptions and schemas of one agent together. More: likewise.
pub const TOOLS_BYTES_MAX: usize = 32 << 10;
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
/// Manifests in a node's folder that count. More: those that come last are passed over, and that is said.
pub const MANIFESTS_MAX: usize = 1_024;
/// How often the folder of manifests is looked at. A change counts once it has stayed the same for as long.
pub const FOLDER_POLL: Duration = Duration::from_secs(1);
/// How long an agent of the folder that could not be started is left alone: doubled each time from the first to the second.
pub const FOLDER_RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// How long a folder without any manifest is taken for one that is not mounted: nothing is stopped.
pub const FOLDER_EMPTY_PAUSE: Duration = Duration::from_secs(60);
/// Looks in which files of the folder change, one after the other, after which those that do not change are followed.
pub const FOLDER_RESTLESS_LOOKS: u32 = 30;
/// Agents of the folder that are started side by side.
pub const FOLDER_STARTS_AT_ONCE: usize = 8;
/// Agents of a folder that are started until its files are looked at again.
pub const FOLDER_STARTS_A_ROUND: usize = 64;
/// How long an agent may take to start or stop before the folder goes on to others.
pub const FOLDER_REQUEST_DEADLINE: Duration = Duration::from_secs(60);
