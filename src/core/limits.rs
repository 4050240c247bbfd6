//! Every bound of the mesh, by name, with what happens when it is reached. Nothing grows without one.

use std::time::Duration;

mod care;
mod confinement;
mod desired;
mod launch;
mod offers;
mod outbox;
mod performance;
mod permits;
mod wasm;

pub use care::*;
pub use confinement::*;
pub use desired::*;
pub use launch::*;
pub use offers::*;
pub use outbox::*;
pub use performance::*;
pub use permits::*;
pub use wasm::*;

/// Bytes of a node id. Longer: refused where it is parsed.
pub const NODE_ID_BYTES_MAX: usize = 128;
/// Bytes of an agent's name. Longer: refused where it is parsed.
pub const AGENT_NAME_BYTES_MAX: usize = 64;
/// Bytes of a mesh's name. Longer: refused where it is parsed.
pub const MESH_NAME_BYTES_MAX: usize = 64;

/// Nodes that one node knows, itself excluded. One more: its record is dropped and counted.
pub const PEERS_MAX: usize = 1024;
/// Up to this many nodes, deltas go to every live peer directly; above, to [`RELAY_FANOUT`] that pass them on.
pub const FULL_MESH_NODES_MAX: usize = 32;
/// Peers that one node passes a new record on to in a mesh too large for direct delivery.
pub const RELAY_FANOUT: usize = 8;
/// Bytes of writes that one node tells others in a second, all of them together. What is beyond it is not told: whoever lacks
/// it notices by comparing, which has a pace of its own.
pub const DELTA_BYTES_PER_SECOND: u32 = 64 << 20;
/// Bytes of writes that are told at once after a pause. More: at the pace of the second.
pub const DELTA_BYTES_AT_ONCE: u32 = 16 << 20;
/// Members that a node of such a mesh chooses to keep links with.
pub const NEIGHBOURS: usize = 12;
/// Members next to a node in the ring, on each side, that it has links with in such a mesh.
pub const RING_NEIGHBOURS: usize = 4;
/// Links that others have dialled and that such a node uses when any peer will do. One more is at rest: it ends when
/// its dialler has nothing to say.
pub const NEIGHBOURS_INBOUND_MAX: usize = 24;
/// Bytes of member lists, digests and the records that these lack, which a node sends in a second. More: the peer is
/// compared with later.
pub const LIST_BYTES_PER_SECOND: u32 = 1 << 20;
/// Bytes of them that are sent at once after a pause. More: at the pace of the second.
pub const LIST_BYTES_AT_ONCE: u32 = 4 << 20;
/// Exchanges of whole lists that a node of a large mesh begins in a second. More: later.
pub const COMPARISONS_PER_SECOND: u32 = 1;
/// Exchanges that it begins at once after a pause. More: at the pace of the second.
pub const COMPARISONS_AT_ONCE: u32 = 4;
/// Links whose peers wait for that. One more is compared with when chance takes it.
pub const LISTS_OWED_MAX: usize = PEERS_MAX;
/// Advertised addresses of one node. More: the record is refused.
pub const ADDRESSES_MAX: usize = 8;
/// Bytes of one `host:port` text. More: refused where it is parsed.
pub const ADDRESS_BYTES_MAX: usize = 263;
/// The longest round trip that is believed. Longer, or a coordinate farther off: refused and counted.
pub const ROUND_TRIP_MAX: Duration = Duration::from_secs(10);
/// Round trips that are kept of one node: their median counts. The oldest is dropped.
pub const ROUND_TRIP_SAMPLES: usize = 5;
/// A measured round trip goes before an estimate for so long.
pub const ROUND_TRIP_FRESH: Duration = Duration::from_secs(60);
/// Bytes of a node's coordinate. Any other length: refused and counted.
pub const COORDINATE_BYTES_MAX: usize = 21;
/// Regions that round trips are told for, the largest first, and that a configuration may list. More are
/// left out of the metrics, and refused in a configuration.
pub const REGIONS_MAX: usize = 16;
/// Pairs of regions that one process ever tells round trips for. One more is left out of the metrics.
pub const REGION_PAIRS_MAX: usize = 256;
/// Nodes of one region that a configuration may list. More: refused at start.
pub const REGION_NODES_MAX: usize = PEERS_MAX + 1;
/// The least and the most that `max_cross_region_latency` may be.
pub const CROSS_REGION_LATENCY_MIN: Duration = Duration::from_millis(1);
/// See [`CROSS_REGION_LATENCY_MIN`].
pub const CROSS_REGION_LATENCY_MAX: Duration = ROUND_TRIP_MAX;
/// Labels of one node; a key and a value are at most [`LABEL_BYTES_MAX`] long. More: refused at start.
pub const LABELS_MAX: usize = 32;
/// Bytes of one label key or value.
pub const LABEL_BYTES_MAX: usize = 128;

/// Bytes of a SWIM packet, our envelope included: a QUIC datagram carries 1162 right after the
/// handshake, before the path's MTU is known.
pub const SWIM_PACKET_BYTES_MAX: usize = 1150;
/// Bytes of our trailer in a SWIM packet, set aside from the packet's budget.
pub const SWIM_TRAILER_BYTES_MAX: usize = 200;
/// Probes under way at once, and pleas of others to reach somebody. One more: not begun, not answered.
pub const PROBES_OPEN_MAX: usize = 64;
/// Accusations and verdicts that wait to be told; the oldest is dropped.
pub const RUMOURS_MAX: usize = 256;
/// Members in one packet or list. More: the packet is malformed.
pub const MEMBERS_PER_FRAME_MAX: usize = 2 * PEERS_MAX;
/// SWIM packets kept for a peer while its link is being dialled; the oldest is dropped.
pub const SWIM_STASH_PACKETS_MAX: usize = 4;
/// How long such a packet is worth sending.
pub const SWIM_STASH_AGE_MAX: Duration = Duration::from_millis(500);
/// A claimed process start further above the known one than this is absurd and refused: it would
/// lock the real node out of its own name.
pub const INCARNATION_START_JUMP_MAX: u64 = 1 << 24;
/// The highest number of a process start: an incarnation keeps 44 bits for it. Beyond: the node does not start.
pub const INCARNATION_START_MAX: u64 = (1 << 44) - 1;
/// Processes of its own that a node's store knows. More: the oldest is forgotten, and no peer is asked about it.
pub const LINEAGE_PROCESSES_MAX: usize = 256;

/// Bytes of a message's content. More: refused at the sender.
pub const CONTENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of one frame: a message's content and its envelope. More: the stream is closed.
pub const FRAME_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Bytes of the frames that pass before a peer's identity has been checked against its hello.
pub const HELLO_BYTES_MAX: usize = 64 << 10;
/// Nesting of a MessagePack value. Deeper: the frame is refused before it is decoded.
pub const MSGPACK_DEPTH_MAX: usize = 32;
/// Hops of one message between agents. More: refused, it is going round in circles.
pub const HOPS_MAX: u8 = 16;
/// Messages waiting in one agent's mailbox. Full: `overloaded` to the sender.
pub const MAILBOX_MESSAGES_MAX: usize = 1024;
/// Bytes of content waiting in one agent's mailbox. Full: `overloaded` to the sender.
pub const MAILBOX_BYTES_MAX: usize = 16 << 20;
/// Asks of this node that wait for their answer. More: `overloaded` to the asker.
pub const ASKS_IN_FLIGHT_MAX: usize = 65_536;
/// Bytes queued for one data stream while the peer does not read. Full: `overloaded` to the sender.
pub const STREAM_QUEUE_BYTES_MAX: usize = 4 << 20;
/// Data streams that one node opens to one peer; a conversation, or what one sender publishes to a topic, always
/// takes the same one.
pub const DATA_STREAMS: usize = 4;
/// The longest deadline a message may have.
pub const DEADLINE_MAX: Duration = Duration::from_secs(3600);

/// Agents of one node. One more: the deploy is refused.
pub const AGENTS_PER_NODE_MAX: usize = 10_000;
/// Arguments of a process agent; their bytes together are at most [`AGENT_ARGS_BYTES_MAX`].
pub const AGENT_ARGS_MAX: usize = 256;
/// Bytes of a process agent's command and arguments together. More: the deploy is refused.
pub const AGENT_ARGS_BYTES_MAX: usize = 32 << 10;
/// Bytes of one line that an agent writes on stdout: the largest content with every byte escaped (`\u00e9`),
/// and its envelope. Longer: the agent is stopped with that reason.
pub const AGENT_LINE_BYTES_MAX: usize = 6 * CONTENT_BYTES_MAX + (64 << 10);
/// Lines of an agent's log kept in memory; the oldest is dropped.
pub const AGENT_LOG_LINES_MAX: usize = 1000;
/// Bytes of one line of an agent's log; the rest of the line is cut.
pub const AGENT_LOG_LINE_BYTES_MAX: usize = 8 << 10;
/// Bytes of an agent's log kept in memory; the oldest line is dropped.
pub const AGENT_LOG_BYTES_MAX: usize = 1 << 20;
/// Characters of what an agent says went wrong; the rest is cut.
pub const AGENT_REASON_CHARS_MAX: usize = 500;
/// Messages that a stdio agent has been given and not answered yet. One more waits in the mailbox.
pub const AGENT_WINDOW_MAX: usize = 64;
/// Requests under way to an HTTP agent. One more waits in the mailbox.
pub const AGENT_HTTP_REQUESTS_MAX: usize = 16;
/// Sends and asks of one agent that wait for their result. One more: `overloaded` to the agent.
pub const AGENT_SENDS_IN_FLIGHT_MAX: usize = 64;
/// Refusals that wait until the agent reads its stdin. One more is dropped and counted.
pub const AGENT_NOTICES_MAX: usize = 64;
/// Bytes of the id that an agent chooses for a question of its own. Longer: the line is refused.
pub const AGENT_ASK_ID_BYTES_MAX: usize = 128;
/// Lines in a row that are not understood. One more: the agent is stopped with that reason.
pub const AGENT_BAD_LINES_MAX: u32 = 100;
/// Processes that are being started at one moment; the next waits. Starting is quick, waiting to be ready is not counted.
pub const AGENT_STARTS_MAX: usize = 8;
/// Open files of a process agent: its own limit, which it meets as `EMFILE`.
pub const AGENT_FILES_MAX: u64 = 1024;
/// A stdio agent that has lived so long counts as running although it has said nothing.
pub const AGENT_START_SETTLE: Duration = Duration::from_millis(300);
/// A process that has not started, or an HTTP agent that does not listen, by then has failed to start.
pub const AGENT_START_DEADLINE: Duration = Duration::from_secs(10);
/// How long a stopping stdio agent may go on after its stdin was closed before it gets SIGTERM.
pub const AGENT_STOP_EOF_GRACE: Duration = Duration::from_secs(1);
/// How long an agent that is stopped or started anew may take to finish what it has.
pub const AGENT_DRAIN: Duration = Duration::from_secs(10);
/// How long a stopping agent may take, from the closing of its stdin or SIGTERM, until SIGKILL.
pub const AGENT_STOP_DEADLINE: Duration = Duration::from_secs(5);
/// What an agent wrote before it ended is read for so long.
pub const AGENT_READ_OUT: Duration = Duration::from_millis(500);
/// How often a node tells its keepers that it lives.
pub const KEEPER_HEARTBEAT: Duration = Duration::from_secs(2);
/// A keeper that has heard nothing for so long kills its agent.
pub const KEEPER_SILENCE_MAX: Duration = Duration::from_secs(10);

/// Records that one node publishes about itself. One more: refused at the source, dropped on receipt.
pub const OWNED_RECORDS_MAX: usize = AGENTS_PER_NODE_MAX + 16;
/// Bytes of the value of one such record. More: refused at the source, the frame dropped on receipt.
pub const OWNED_VALUE_BYTES_MAX: usize = 64 << 10;
/// Doubts that a node tells of about itself. More: left out at the source, the frame dropped on receipt.
pub const DOUBTS_MAX: usize = 8;
/// Bytes of the words of one of them. More: cut at the source, the frame dropped on receipt.
pub const DOUBT_BYTES_MAX: usize = 256;
/// Removed records that a node remembers so that it can tell by delta; above, peers get a snapshot.
pub const OWNED_TOMBSTONES_MAX: usize = 256;
/// Bytes of records in one control frame; more are split over several.
pub const OWNED_FRAME_BYTES_MAX: usize = 256 << 10;

/// Requests from other nodes and clients that wait in one node. One more: refused as `overloaded`.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 1024;
/// How long a request to another node may take before it fails as timed out.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(15);
/// How long a mesh may take to let a node go, from when it is told to leave, beyond what its agents may take.
pub const LEAVE_DEADLINE: Duration = Duration::from_secs(30);
/// Inputs waiting for the driver. Full: the producer waits, except for SWIM packets, which are dropped.
pub const DRIVER_QUEUE_MAX: usize = 8192;
/// So far ahead of what it knows a node believes a term of the lease; one further ahead is not listened to.
pub const TERM_JUMP_MAX: u64 = 1 << 32;
/// Writes of clients that have seen what the node has not seen yet. One more: refused as `context_ahead` at once.
pub const CONTEXTS_AWAITED_MAX: usize = 1024;
/// How long such a write waits before it is refused as `context_ahead`.
pub const CONTEXT_PATIENCE: Duration = Duration::from_secs(2);
/// Floors of others that a node remembers to have got as far as. One more: the oldest is forgotten, and who writes
/// beyond it is asked again.
pub const FLOORS_COVERED_MAX: usize = 16;
/// Changes that wait for the disk. So many are there: the next commit, whatever its size, fails with that reason.
pub const STORE_QUEUE_CHANGES_MAX: usize = 4096;
/// The writer waits for those who were in the last commit, or came meanwhile, for this part of what it took...
pub const STORE_GATHER_DIVISOR: u32 = 4;
/// ...and no longer than this, however slow the disk is. Over: it commits what is there.
pub const STORE_GATHER_MAX: Duration = Duration::from_millis(2);
/// How long the store waits for another program that reads or writes its database. Longer: the commit or the start fails.
pub const STORE_BUSY_MAX: Duration = Duration::from_secs(5);
/// Entries of a node's history that are kept, over all its processes. One more: the oldest is removed.
pub const HISTORY_ROWS_MAX: usize = 20_000;
/// Entries of the history that wait for the disk. One more is dropped and counted.
pub const HISTORY_QUEUE_MAX: usize = 4096;
/// Characters of a text from elsewhere in an entry of the history; the rest is cut.
pub const HISTORY_TEXT_CHARS_MAX: usize = 500;
/// How long an entry of the history may wait for others to be written with.
pub const HISTORY_DELAY_MAX: Duration = Duration::from_secs(1);
/// Entries of the history in one answer; more are cut off.
pub const HISTORY_PAGE_MAX: usize = 1000;
/// Bytes of stored entries in one answer; more are cut off.
pub const HISTORY_PAGE_BYTES_MAX: usize = 512 << 10;
/// Questions about the node itself (facts, history) that are being answered at once. One more: `overloaded`.
pub const NODE_QUESTIONS_MAX: usize = 16;
/// Links that one node's facts tell of; more are left out.
pub const FACTS_LINKS_MAX: usize = PEERS_MAX;
/// Bytes of a text in a node's facts. More: the facts are refused.
pub const FACT_TEXT_BYTES_MAX: usize = 263;
/// Addresses whose failed connections are remembered for [`ARRIVALS_KEPT_FOR`]; the oldest gives way.
pub const ARRIVALS_KEPT_MAX: usize = 64;
/// How long they are remembered.
pub const ARRIVALS_KEPT_FOR: Duration = Duration::from_secs(60);
/// How long a node may take to tell its facts before it counts as one that does not answer.
pub const FACTS_DEADLINE: Duration = Duration::from_secs(5);
/// Nodes that are asked for their facts at once on behalf of one client; the others wait their turn.
pub const FACTS_ASKED_AT_ONCE: usize = 64;
/// Events kept for clients that resume; the oldest is dropped and a resuming client is told.
pub const EVENTS_MAX: usize = 1024;

/// Handshakes of unproven peers under way at once. One more: refused.
pub const HANDSHAKES_MAX: usize = 64;
/// With so many under way, every further address must first prove itself (QUIC Retry).
pub const HANDSHAKES_UNPROVEN_MAX: usize = 16;
/// Connections that one node may have with this one at once: more than one while they replace each other.
/// One more: refused.
pub const LINKS_PER_NODE_MAX: usize = 4;
/// Characters of an error about a peer's bytes that are kept for the log.
pub const PEER_ERROR_CHARS_MAX: usize = 200;
/// Handshakes per second and address; above, the address must prove itself (QUIC Retry).
pub const HANDSHAKES_PER_SECOND_MAX: u32 = 20;
/// Connections waiting to be accepted. One more: refused.
pub const INCOMING_MAX: usize = 256;
/// Bidirectional streams that a peer may hold open: one is used, for control frames.
pub const BIDI_STREAMS_MAX: u32 = 4;
/// The most that the configuration may raise [`UNI_STREAMS_MAX`] to. More: refused at start.
pub const UNI_STREAMS_CONFIGURED_MAX: u32 = 1024;
/// Unidirectional streams, which carry messages, that a peer may hold open where the configuration does not
/// say. More: the peer waits.
pub const UNI_STREAMS_MAX: u32 = 32;
/// Flow-control window of one stream, in bytes.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Flow-control window of one connection, in bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes sent and not yet acknowledged on one connection.
pub const SEND_WINDOW_BYTES: u64 = 4 << 20;
/// Buffer for datagrams, each way; the oldest is dropped.
pub const DATAGRAM_BUFFER_BYTES: usize = 16 << 10;
/// A connection without a packet for this long is closed. In a small mesh every pair has exchanged a probe
/// or a summary by then; in a large one a node keeps the links to its neighbours and to whom it talked of late.
pub const LINK_IDLE_MAX: Duration = Duration::from_secs(60);
/// Where messages flow, a link is kept alive this often.
pub const LINK_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long TLS and the hello may take together.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Control and state bytes accepted from one peer per second; above, its streams are read more slowly.
pub const CONTROL_BYTES_PER_SECOND_MAX: u64 = 8 << 20;

/// A control frame of so many bytes goes over a connection of its own, if its kind allows. Below: over the link.
pub const BULK_FRAME_BYTES_MIN: usize = 32 << 10;
/// Bytes of frames that wait while that connection is being opened. More: over the link.
pub const BULK_WAITING_BYTES_MAX: usize = 4 << 20;
/// Such a connection is closed when nothing was sent for this long, within twice as long.
pub const BULK_IDLE_MAX: Duration = Duration::from_secs(5);
/// When it could not be opened, it is not tried again for so long, and bulk goes over the link.
pub const BULK_RETRY_AFTER: Duration = Duration::from_secs(10);
/// Signs that destinations were not reached, on their way to dials and core. One more is dropped.
pub const SIGNS_QUEUE_MAX: usize = 256;
/// The core hears that a link's peer was not reached this often at most.
pub const HINT_INTERVAL: Duration = Duration::from_millis(50);
/// Addresses that are hinted at within one such interval. One more: no hint.
pub const HINTED_ADDRESSES_MAX: usize = 4 * PEERS_MAX;

/// Bytes of an HTTP request body: the largest content with every byte escaped, and its envelope. More: 413.
pub const API_BODY_BYTES_MAX: usize = 6 * CONTENT_BYTES_MAX + (64 << 10);
/// Clients that follow the event stream at once. One more: 503.
pub const API_WATCHERS_MAX: usize = 64;
/// How long an HTTP client may take for its headers, and for its body.
pub const API_READ_DEADLINE: Duration = Duration::from_secs(10);
/// Connections of HTTP clients. One more waits to be accepted.
pub const API_CONNECTIONS_MAX: usize = 256;
/// Bytes of the head of an HTTP request. More: 431.
pub const API_HEAD_BYTES_MAX: usize = 32 << 10;
/// A client that reads nothing of an answer for this long loses its connection when the system looks next,
/// within about twice as long.
pub const API_WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long answers under way may take when the API stops.
pub const API_STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Characters of the API's token, at least: fewer can be guessed. Fewer: refused at start.
pub const API_TOKEN_CHARS_MIN: usize = 32;
/// Characters of the API's token, at most. More: refused at start.
pub const API_TOKEN_CHARS_MAX: usize = 1024;
/// Bytes of an answer that the command line takes in. More: it gives up.
pub const API_ANSWER_BYTES_MAX: usize = 64 << 20;
/// Round trips of one ping. More: refused.
pub const API_PINGS_MAX: u32 = 1000;
/// Bytes of a message's conversation id and of its content type. More: refused by the API.
pub const API_NAME_BYTES_MAX: usize = 256;

/// Bytes of a configuration file. More: refused before it is parsed.
pub const CONFIG_FILE_BYTES_MAX: usize = 1 << 20;
/// Nesting of a configuration file. Deeper: refused, and the rest of the file is not read.
pub const CONFIG_DEPTH_MAX: usize = 16;
/// Bytes of one value of a configuration, variables expanded. More: refused.
pub const CONFIG_VALUE_BYTES_MAX: usize = 32 << 10;
/// Errors of a configuration that are listed; the rest is counted.
pub const CONFIG_ERRORS_MAX: usize = 100;
/// Seeds of one node. More: refused at start. As many again may be found by discovery at one time; the rest
/// of those is not called.
pub const SEEDS_MAX: usize = 64;
/// Ways of discovery of one node. More: refused at start.
pub const DISCOVERIES_MAX: usize = 4;
/// The shortest and the longest time between two rounds of gossip that may be configured.
pub const GOSSIP_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// See [`GOSSIP_INTERVAL_MIN`].
pub const GOSSIP_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// The most peers that one round of gossip may be configured to reach.
pub const GOSSIP_FANOUT_MAX: u8 = 16;
/// The shortest and the longest time between two probes that may be configured.
pub const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// See [`PROBE_INTERVAL_MIN`].
pub const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// The shortest time for the answer to a probe that may be configured; the longest is below the interval.
pub const PROBE_TIMEOUT_MIN: Duration = Duration::from_millis(10);
/// The shortest and the longest time that may be configured for suspects to answer for themselves.
pub const SUSPICION_MIN: Duration = Duration::from_millis(100);
/// See [`SUSPICION_MIN`].
pub const SUSPICION_MAX: Duration = Duration::from_secs(600);
/// Days that a certificate may be valid for. More: refused where it is asked for.
pub const CERT_DAYS_MAX: u32 = 36_500;
/// A certificate's validity begins this long before it is made, for machines whose clock is behind.
pub const CERT_BACKDATE: Duration = Duration::from_secs(300);
/// DNS names and IP addresses of one certificate, together. More: refused where they are asked for.
pub const CERT_HOSTS_MAX: usize = 32;
/// Certificates in one file: two CAs are trusted during a rotation. More: the file is refused.
pub const CERTS_PER_FILE_MAX: usize = 8;
/// Bytes of a file with certificates, a key or a signing request. More: refused before it is read.
pub const CERT_FILE_BYTES_MAX: u64 = 256 << 10;

/// Bytes of one line of the ledger of a CA. Longer: it is not written, and a file that has one is refused.
pub const LEDGER_LINE_BYTES_MAX: usize = 4 << 10;
/// Bytes of the ledger of a CA. More: nothing is issued before the file has been put aside.
pub const LEDGER_BYTES_MAX: u64 = 64 << 20;
/// How long a command or a node waits for another one that writes the ledger. Longer: it fails with that reason.
pub const LEDGER_LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
/// Certificates of one node that are neither expired nor revoked, where the node itself asks for one more.
/// One more: refused.
pub const CERTS_PER_NODE_MAX: usize = 64;
/// Characters of a join token. More: refused before it is decoded.
pub const JOIN_TOKEN_CHARS_MAX: usize = 4 << 10;
/// How long a join token may be good for. Longer: refused where it is asked for.
pub const JOIN_TOKEN_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes of the one request of a machine that wants a certificate. More: the connection is closed.
pub const JOIN_REQUEST_BYTES_MAX: usize = 64 << 10;
/// Bytes of the answer to it. More: the asker gives up.
pub const JOIN_ANSWER_BYTES_MAX: usize = 2 << 20;
/// Connections at once of machines that want a certificate. One more: closed, and told to try again.
pub const JOINS_MAX: usize = 8;
/// The same from one address.
pub const JOINS_PER_ADDRESS_MAX: usize = 2;
/// Requests for a certificate that a node looks at in a second. More: told to try again.
pub const JOINS_PER_SECOND_MAX: u32 = 10;
/// How long the request may take to arrive once the connection is there.
pub const JOIN_REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long the answer may take to be written, and then to be taken in by the asker.
pub const JOIN_ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How often all seeds are asked for a certificate before the asker gives up.
pub const JOIN_ROUNDS_MAX: u32 = 3;
/// How often it begins again because a node had too many askers at once, beside those rounds.
pub const JOIN_BUSY_ROUNDS_MAX: u32 = 30;
/// The shortest wait between two rounds; the longest is twice that, by chance, so that askers part.
pub const JOIN_ROUND_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of the first message of a TLS handshake that are looked at for the protocol that it asks for. More: it is
/// taken for a node's.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 << 10;
/// Bytes of a revocation list in DER format: about 3,500 certificates. More: it is neither made nor taken in.
pub const CRL_BYTES_MAX: usize = 128 << 10;
/// Revocation lists that a node keeps, one for each CA it trusts. More: the file or the frame is refused.
pub const CRLS_MAX: usize = CERTS_PER_FILE_MAX;
/// Revocation lists that a peer may send in one second. One more: dropped and counted.
pub const CRLS_PER_SECOND_MAX: u32 = 2 * CRLS_MAX as u32;
/// Revocation lists of peers that wait to be verified. One more: dropped and counted.
pub const CRL_CHECKS_MAX: usize = 64;
/// Bytes of a file with revocation lists in PEM format. More: refused before it is read.
pub const CRL_FILE_BYTES_MAX: u64 = 3 * (CRLS_MAX as u64) * (CRL_BYTES_MAX as u64) / 2;
/// How often the files of certificates are looked at. A change counts once they have stayed the same for as long.
pub const IDENTITY_POLL: Duration = Duration::from_millis(500);
/// A node whose certificate was refused, by either side, is not dialled again for this long.
pub const CERTIFICATE_REDIAL_PAUSE: Duration = Duration::from_secs(15);
/// Links that are replaced at once after the node's certificate was renewed; the others wait their turn.
pub const RENEWED_LINKS_AT_ONCE: usize = 8;
/// How long a link that another one replaces may stay for the sake of answers that are still awaited over it. It is
/// the longest deadline of a message, so that none is lost to it.
pub const LINK_LINGER_MAX: Duration = DEADLINE_MAX;
/// Certificates, CAs and revocation lists that end within this time are warned of.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 86_400);

// The register.

/// Voters of a mesh. One more: the change of the roster is refused.
pub const VOTERS_MAX: usize = 7;
/// Nodes in a roster. One more: the change is refused, the message that carries such a roster too.
pub const ROSTER_MEMBERS_MAX: usize = PEERS_MAX + 1;
/// Bytes of all roles and zones of a roster together, so that it fits into a frame. More: refused.
pub const ROSTER_TEXT_BYTES_MAX: usize = 256 << 10;
/// Bytes of the reason that an operator gives for overruling a lost quorum. More: refused.
pub const AUDIT_BYTES_MAX: usize = 1024;
/// Messages of the register that wait until the disk has taken what came before. One more is dropped; its
/// sender asks again.
pub const REGISTER_WAITING_MAX: usize = 64;
/// Changes of the roster that wait for their turn at the holder of the lease. One more: refused.
pub const PROPOSALS_MAX: usize = 16;
/// How long a lease is granted for.
pub const LEASE: Duration = Duration::from_secs(1);
/// How often its holder renews it.
pub const LEASE_RENEWAL: Duration = Duration::from_millis(300);
/// The candidate of rank k waits k times this after a lease has lapsed.
pub const LEASE_RANK_STEP: Duration = Duration::from_millis(100);
/// How far two clocks may part: a holder counts so many thousandths less, a voter so many more.
pub const CLOCK_DRIFT_MILLI: u32 = 10;
/// A node whose wall clock is further ahead of those of most voters than this doubts itself.
pub const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(60);
/// It does so until its clock is no further ahead than this.
pub const CLOCK_AHEAD_OVER: Duration = Duration::from_secs(55);
/// A disk that has not confirmed a change for so long counts as one that fails, until it has.
pub const DISK_SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a change of the roster is tried before it is given up.
pub const PROPOSAL_DEADLINE: Duration = Duration::from_secs(10);
/// How often a voter that has lost its store asks the others for what it may have promised.
pub const RECOVERY_RETRY: Duration = Duration::from_millis(300);
/// A voter that has failed for so long is replaced.
pub const VOTER_REPLACED_AFTER: Duration = Duration::from_secs(60);

/// The highest number of a write of one actor: at a million writes a second that is nine years. A higher one in a
/// frame is refused; an actor that reached it would be followed by another.
pub const DOT_MAX: u64 = 1 << 48;
/// Actors in one clock of a frame, and actors of which a node knows writes that the floor has not reached. More: the
/// frame is refused; a node that knows as many doubts itself, and takes no writes until the floor has risen.
pub const CLOCK_ACTORS_MAX: usize = 4096;
/// Actors that a node knows at all: one for each process that has ever written, about 200 bytes each. More: refused.
pub const ACTORS_MAX: usize = 1 << 20;
/// Ranges above gaps in one clock of a frame. More: the frame is refused; the sender leaves out the highest.
pub const CLOCK_RANGES_MAX: usize = 16_384;
/// Bytes of a key of the state. Longer: refused.
pub const STATE_KEY_BYTES_MAX: usize = 512;
/// Bytes of a value of the state. More: refused.
pub const STATE_VALUE_BYTES_MAX: usize = 64 << 10;
/// Concurrent values of one key, deletions counted. A write that would leave more is refused; what other nodes
/// wrote at the same time is kept whatever its number.
pub const SIBLINGS_MAX: usize = 32;
/// Concurrent values of one key in a frame, which is more than can ever come together. More: the frame is refused.
pub const SIBLINGS_PER_FRAME_MAX: usize = 4096;
/// Keys in one frame. More: the frame is refused.
pub const STATE_KEYS_PER_FRAME_MAX: usize = 4096;
/// Ranges of dots that one frame closes. More: the frame is refused.
pub const STATE_RANGES_PER_FRAME_MAX: usize = 8192;
/// Bytes of keys and values in one frame of state; a key state that has more travels in parts.
pub const STATE_FRAME_BYTES_MAX: usize = 256 << 10;
/// Keys of the state on one node. A write of one more is refused.
pub const STATE_KEYS_MAX: usize = 4 << 20;
/// Bytes of keys and values of the state on one node. A write beyond is refused.
pub const STATE_BYTES_MAX: usize = 4 << 30;
/// Bytes of the name of an agent's slot in a writer. More: the frame is refused.
pub const SLOT_BYTES_MAX: usize = 96;
/// Writes of this node that wait for the disk. One more: refused as overloaded.
pub const STATE_WRITES_WAITING_MAX: usize = 2048;
/// Keys that have come apart and are brought together again at once, on an operator's word. More: they are counted, and
/// taken when it is asked for again.
pub const APART_KEYS_MAX: usize = 10_000;
/// Bytes of their keys and values. More: the same.
pub const APART_BYTES_MAX: usize = 64 << 20;
/// Of those keys so many are named to the operator. More: they are counted.
pub const APART_KEYS_LISTED_MAX: usize = 100;
/// How far the number of a floor may be ahead of the last one that a node has reached: one a second for a century.
/// Further: refused.
pub const FLOOR_JUMP_MAX: u64 = 1 << 32;
/// How far the number of a write may be ahead of the last one known of its actor. Further: refused.
pub const DOT_JUMP_MAX: u64 = 1 << 32;
/// The shortest and the longest time without a beat, after which a voter counts as not reachable, that may be
/// configured.
pub const DETECTION_TIMEOUT_MIN: Duration = Duration::from_millis(200);
/// See [`DETECTION_TIMEOUT_MIN`].
pub const DETECTION_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// The shortest and the longest time that a member may be away, before it is evicted, that may be configured.
pub const OFFLINE_MIN: Duration = Duration::from_secs(60);
/// See [`OFFLINE_MIN`].
pub const OFFLINE_MAX: Duration = Duration::from_secs(366 * 86_400);
/// The largest quorum that may be configured.
pub const QUORUM_SIZE_MAX: u16 = PEERS_MAX as u16 + 1;
/// A node whose timers come later than this after their time was paused: what it heard before counts no more.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest time for which a node that falls again and again must see a quorum before it believes it, unless
/// the detection time alone asks for more.
pub const HOLD_DOWN_MAX: Duration = Duration::from_secs(60);
/// Falls that are further apart than this are no flapping.
pub const FLAP_WINDOW: Duration = Duration::from_secs(300);
/// How long a node that synchronises waits for members that do not vote: no beats tell whether it can reach them.
pub const SYNCHRONISATION_PATIENCE: Duration = Duration::from_secs(30);
/// How long the handler of partitions may take. Longer: read-only.
pub const DECISION_DEADLINE: Duration = Duration::from_secs(5);
/// How long the command of the policy `custom` may take for one key. Longer: the values stay beside each other.
pub const POLICY_DEADLINE: Duration = Duration::from_secs(1);
/// How many such commands a node runs at once; further readers wait.
pub const POLICIES_AT_ONCE_MAX: usize = 4;
/// For how many keys of one page the command is asked; of the others all values are shown.
pub const POLICIES_PER_PAGE_MAX: usize = 32;
/// Decisions of one configuration. More: refused at start.
pub const DECISIONS_MAX: usize = 32;
/// Roles of one node; each is at most [`LABEL_BYTES_MAX`] long. More: refused at start, and in a card or a roster of another node.
pub const ROLES_MAX: usize = 8;
/// Changes of a node's mode that wait to be told. One more: told together with the one before.
pub const MODE_CHANGES_MAX: usize = 16;
/// Cuts between single nodes that one description of a partition lists; the rest is counted.
pub const CUTS_LISTED_MAX: usize = 256;

/// Writes that wait for a majority. One more: refused.
pub const QUEUED_WRITES_MAX: usize = 10_000;
/// Bytes of all of them together, rows and bookkeeping. More: refused.
pub const QUEUED_BYTES_MAX: usize = 64 << 20;
/// How long a write may wait for a majority. Longer: it is expired.
pub const QUEUED_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Tickets whose outcome is remembered. One more: the oldest is forgotten.
pub const TICKET_OUTCOMES_MAX: usize = 10_000;
/// Characters of the reason why a queued write was rejected; the rest is cut off.
pub const TICKET_REASON_CHARS_MAX: usize = 200;
/// Queued writes that are being replayed and are not durable yet. One more waits until one of them is.
pub const REPLAYS_UNDER_WAY_MAX: usize = 128;
/// Bytes of queued writes that are replayed in a second. More: later.
pub const REPLAYED_BYTES_PER_SECOND: u32 = 8 << 20;
/// Bytes of them that are replayed at once after a pause. More: at the pace of the second.
pub const REPLAYED_BYTES_AT_ONCE: u32 = 1 << 20;
/// When a queued write cannot be made, it and those after it are tried again after this.
pub const REPLAY_RETRY: Duration = Duration::from_millis(100);
/// Queued writes that are replayed, or found expired, at once.
pub const REPLAY_BATCH_MAX: usize = 64;
/// Rows of one of the core's own tables in the store. One more: the commit that adds it is refused.
pub const STORE_TABLE_ROWS_MAX: u64 = 1 << 21;
/// Bytes of one of those tables, keys and rows together. More: the commit that adds them is refused.
pub const STORE_TABLE_BYTES_MAX: u64 = 1 << 30;
/// Bytes of the key of one of those rows. Longer: the commit is refused.
pub const STORE_KEY_BYTES_MAX: usize = 1 << 10;
/// Bytes of one of those rows. Longer: the commit is refused.
pub const STORE_ROW_BYTES_MAX: usize = 16 << 20;
/// Bytes of keys and rows that wait for the disk. So many are there: the next commit fails with that reason.
pub const STORE_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Damaged databases that are kept beside the one in use. One more: the node does not start before one is moved away.
pub const STORE_DAMAGED_MAX: usize = 8;
/// So much a start number that was read from a damaged database is raised, because it may be an old one.
pub const STORE_SALVAGED_START_MARGIN: u64 = 1000;
/// How often an idle store looks whether its files are still in their place.
pub const STORE_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Files of the store that are not in their place for so long are gone: the node ends.
pub const STORE_GONE_AFTER: Duration = Duration::from_secs(2);
/// Keys in one answer. More: the next page.
pub const STATE_PAGE_MAX: usize = 1000;
/// Bytes of keys and values in one answer. More: the next page.
pub const STATE_PAGE_BYTES_MAX: usize = 512 << 10;
/// Bytes of one message of the register. More: the frame is refused.
pub const REGISTER_MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Nodes that are asked about the state at once, on behalf of one client.
pub const STATE_ASKED_AT_ONCE: usize = 32;
/// How long each of them may take. Longer: it is named as one that did not answer.
pub const STATE_ASK_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of values in one answer about what all nodes hold. More: the nodes that are left are named without theirs.
pub const STATE_EVERYWHERE_BYTES_MAX: usize = 16 << 20;
/// Characters of the text of a context: a clock with as many actors and ranges as one may have. More: refused.
pub const API_CONTEXT_CHARS_MAX: usize = 384 << 10;
/// How long a question about health may wait for the node's main loop. Longer: the node is not ready.
pub const API_HEALTH_DEADLINE: Duration = Duration::from_secs(2);
/// Counters that one process of a node may add to. One more: refused as overloaded.
pub const COUNTERS_MAX: usize = 4096;
/// Keys that are summed for one counter: processes that have added to it. More: its value is refused.
pub const COUNTER_KEYS_MAX: usize = 64 << 10;
/// Keys that one command lists. More: it says that there are more.
pub const STATE_LISTED_MAX: usize = 100_000;
/// Bytes of the values that one command lists. More: it says that there are more.
pub const STATE_LISTED_BYTES_MAX: usize = 256 << 20;
/// Changes of keys that are kept for those who watch. One more: the oldest gives way.
pub const CHANGES_MAX: usize = 4096;
/// Bytes of their keys and values. More: the oldest give way.
pub const CHANGES_BYTES_MAX: usize = 8 << 20;
/// Changes that wait for one watcher. One more: it reads what it missed from those that are kept.
pub const CHANGES_WAITING_MAX: usize = 64;
