//! Bounds of WASM agents and of their modules.

use std::time::Duration;

/// Grants of one kind that an agent may have. More: the deploy is refused.
pub const GRANTS_MAX: usize = 64;
/// Bytes of a WASM module. More: refused before it is compiled, and not fetched from a peer.
pub const MODULE_BYTES_MAX: usize = 64 << 20;
/// Modules that a node keeps. One more: the upload is refused, and the agent that needs it does not start.
pub const MODULES_MAX: usize = 1024;
/// Bytes of all modules that a node keeps. More: as one module too many.
pub const MODULES_BYTES_MAX: u64 = 4 << 30;
/// Bytes of the compiled code of one module that is read back. More: it is compiled anew at each start.
pub const MODULE_CODE_BYTES_MAX: u64 = 1 << 30;
/// A module that no agent of the node uses is removed after this, and after as long since the node's start.
pub const MODULE_UNUSED_MAX: Duration = Duration::from_secs(3600);
/// How often a node looks for such modules.
pub const MODULE_SWEEP_INTERVAL: Duration = Duration::from_secs(600);
/// Modules that are uploaded at one moment. One more: refused as overloaded.
pub const MODULE_UPLOADS_MAX: usize = 2;
/// How long the upload of a module may take to arrive. Longer: refused.
pub const MODULE_UPLOAD_DEADLINE: Duration = Duration::from_secs(120);
/// Bytes of a module that one answer of a peer carries.
pub const MODULE_PART_BYTES: usize = 256 << 10;
/// How long a peer may take for such a part. Longer: the next peer is asked for it.
pub const MODULE_PART_DEADLINE: Duration = Duration::from_secs(5);
/// For how long nodes are asked again for a module while none of them can be reached.
pub const MODULE_PEERS_PATIENCE: Duration = Duration::from_secs(5);
/// How long a module may take to be fetched, from all peers together. Longer: the agent does not start.
pub const MODULE_FETCH_DEADLINE: Duration = Duration::from_secs(120);
/// Linear memory of one instance of a WASM agent, when its deploy does not say. More: the instance is stopped.
pub const WASM_MEMORY_BYTES_DEFAULT: u64 = 64 << 20;
/// The most that a deploy may say. More: the deploy is refused.
pub const WASM_MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Fuel that a WASM agent may use for one message, when its deploy does not say. More: the instance is stopped.
pub const WASM_FUEL_DEFAULT: u64 = 10_000_000_000;
/// The most that a deploy may say. More: the deploy is refused.
pub const WASM_FUEL_MAX: u64 = 1 << 50;
/// Fuel after which an instance that computes lets other work of the node go first: well below a millisecond.
pub const WASM_FUEL_SLICE: u64 = 500_000;
/// How often the deadline of an instance that computes is looked at.
pub const WASM_EPOCH: Duration = Duration::from_millis(10);
/// Instances of WASM agents in memory at once. One more: the one that was idle for longest gives way; if none is
/// idle, the message waits until one is, or its deadline.
pub const WASM_INSTANCES_MAX: usize = 1000;
/// Core modules that one component may be made of when it runs. More: the deploy is refused.
pub const WASM_CORE_INSTANCES_MAX: u32 = 32;
/// Tables of one instance. More: the deploy is refused.
pub const WASM_TABLES_MAX: u32 = 8;
/// Elements of each of them. More: the instance is stopped.
pub const WASM_TABLE_ELEMENTS_MAX: usize = 20_000;
/// Bytes of the stack of one instance. More: it traps.
pub const WASM_STACK_BYTES_MAX: usize = 512 << 10;
/// Messages that an agent with an instance for each handles at once. One more waits in the mailbox.
pub const WASM_PER_MESSAGE_AT_ONCE_MAX: usize = 16;
/// Calls of the host that an instance makes for one message. One more: it is stopped.
pub const WASM_HOST_CALLS_MAX: u32 = 100_000;
/// Random bytes that one call of the host gives. More: the instance is stopped.
pub const WASM_RANDOM_BYTES_MAX: u32 = 64 << 10;
