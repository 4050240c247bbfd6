//! What the rows mean: the schema, how a [`Change`] is written, and how a start reads what is [`Remembered`].
//!
//! Cards and specifications are MessagePack maps with named fields. A row that this version does not
//! understand is skipped at the start with a warning, and kept: a later version may have written it.
//! The start number and the mesh id are not skipped: without them the node would be somebody else.
//! Nothing here begins or commits a transaction. The rows of the core's own tables are in `tables`.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::NodeKeys;
use super::rows::Rows;
use super::tables::{self, Tallies};
use crate::core::contract::{self, Change, Remembered};
use crate::core::ids::MeshId;
use crate::core::limits;
use crate::core::model::{AgentSpec, NodeCard};
use crate::core::wire;

/// The steps that make the schema; `user_version` counts those a file has taken. A step that was ever
/// released is never edited.
pub(super) const SCHEMA: &[&str] = &[
    "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE peers (node_id TEXT PRIMARY KEY, card BLOB NOT NULL) STRICT;
    CREATE TABLE agents (name TEXT PRIMARY KEY, spec BLOB NOT NULL) STRICT;
",
    super::history::TABLE,
    tables::TABLES,
    tables::OUTBOX,
];

/// The number of the last process start, or one less than the least number for the next.
const START: &str = "start";
const MESH_ID: &str = "mesh_id";
const RESET_KEY: &str = "quic_reset_key";
const CONNECTION_ID_KEY: &str = "quic_connection_id_key";
/// There while this database stands in for a damaged one and the core has not heard of its mesh's roster since.
const REBUILT: &str = "rebuilt";

/// Why a batch of changes was refused although the disk is well.
pub(super) type Refused = String;

/// What could be read of a damaged database.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    /// The last process start; 0 if it could not be read.
    pub(super) start: u64,
    pub(super) mesh_id: Option<MeshId>,
    pub(super) keys: Option<NodeKeys>,
    pub(super) peers: Vec<NodeCard>,
    pub(super) agents: Vec<AgentSpec>,
}

/// Counts this start and reads what the node knows. `None` if there is no number left.
pub(super) fn begin_start(
    transaction: &Transaction<'_>,
    fresh_keys: impl FnOnce() -> NodeKeys,
) -> rusqlite::Result<Option<(Remembered, NodeKeys)>> {
    let start = last_start(transaction)? + 1;
    if start > limits::INCARNATION_START_MAX {
        return Ok(None);
    }
    put_start(transaction, start)?;
    let mut remembered = Remembered {
        start,
        mesh_id: mesh_id(transaction)?,
        rebuilt: get_meta::<i64>(transaction, REBUILT)?.is_some(),
        ..Remembered::default()
    };
    read_peers(transaction, &mut remembered.peers)?;
    read_agents(transaction, &mut remembered.agents)?;
    let tallies = Tallies::read(transaction)?;
    for table in contract::Table::ALL {
        let rows = tables::read(transaction, &tallies, table)?;
        if !rows.is_empty() {
            remembered.tables.insert(table, rows);
        }
    }
    let keys = match read_keys(transaction)? {
        Some(keys) => keys,
        None => {
            let keys = fresh_keys();
            put_keys(transaction, &keys)?;
            keys
        }
    };
    Ok(Some((remembered, keys)))
}

/// What can be read of a damaged database: each part that cannot is left out, and a list ends where it cannot
/// be read any further. Rows of the core's own tables are not looked at: one that is old is worse than none.
pub(super) fn read_salvage(connection: &Connection) -> Salvage {
    let told = |part: &str, error: rusqlite::Error| {
        tracing::warn!(part, %error, "a part of the damaged database cannot be read");
    };
    let mut salvage = Salvage {
        start: last_start(connection).map_err(|e| told("start number", e)).unwrap_or_default(),
        mesh_id: mesh_id(connection).map_err(|e| told("mesh id", e)).unwrap_or_default(),
        keys: read_keys(connection).map_err(|e| told("keys", e)).unwrap_or_default(),
        ..Salvage::default()
    };
    if let Err(error) = read_peers(connection, &mut salvage.peers) {
        told("peers", error);
    }
    if let Err(error) = read_agents(connection, &mut salvage.agents) {
        told("agents", error);
    }
    salvage
}

/// Writes what was salvaged into a new database, and that it is one.
pub(super) fn write_salvage(connection: &Connection, salvage: &Salvage) -> rusqlite::Result<()> {
    put_meta(connection, REBUILT, 1)?;
    if salvage.start > 0 {
        // The file may have been an old one, and no two processes of a node may take the same number.
        let start = salvage.start.saturating_add(limits::STORE_SALVAGED_START_MARGIN);
        put_start(connection, start.min(limits::INCARNATION_START_MAX))?;
    }
    if let Some(mesh_id) = &salvage.mesh_id {
        put_meta(connection, MESH_ID, mesh_id.0.as_bytes())?;
    }
    if let Some(keys) = &salvage.keys {
        put_keys(connection, keys)?;
    }
    for card in &salvage.peers {
        put_peer(connection, card)?;
    }
    for spec in &salvage.agents {
        // No more than one node's can come from one node's database.
        let _ = put_agent(connection, spec)?;
    }
    Ok(())
}

/// The core has written to its own tables. Once they have the roster, it knows by itself what it has to make up for; until
/// then the mark stays, because a node that has lost its mesh, or its roster, must not begin another one.
pub(super) fn forget_rebuilt(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "DELETE FROM meta WHERE key = ?1 AND EXISTS (SELECT 1 FROM meta WHERE key = ?2) \
        AND EXISTS (SELECT 1 FROM register WHERE key = ?3)";
    connection.prepare_cached(sql)?.execute(params![REBUILT, MESH_ID, contract::ROW_OF_ROSTER]).map(drop)
}

/// Writes one batch, all of it or nothing of it, inside the transaction; rows of the core's own tables when the group
/// is complete.
pub(super) fn write_batch<'a>(
    transaction: &mut Transaction<'_>,
    rows: &mut Rows<'a>,
    changes: &'a [Change],
) -> rusqlite::Result<Result<(), Refused>> {
    rows.begin_batch();
    // Rows are taken back in memory, and one change alone either writes or is refused.
    if let [_] = changes {
        return write_changes(transaction, rows, changes);
    }
    if changes.iter().all(is_of_rows) {
        let written = write_changes(transaction, rows, changes)?;
        if written.is_err() {
            rows.take_back();
        }
        return Ok(written);
    }
    let mut savepoint = transaction.savepoint()?;
    let written = write_changes(&savepoint, rows, changes)?;
    if written.is_err() {
        savepoint.rollback()?;
        rows.take_back();
    }
    savepoint.commit()?;
    Ok(written)
}

/// Whether it changes nothing but single rows of the core's own tables.
fn is_of_rows(change: &Change) -> bool {
    match change {
        Change::Put { .. } | Change::Delete { .. } | Change::Afresh => true,
        Change::Clear(_)
        | Change::MeshId(_)
        | Change::Peer(_)
        | Change::ForgetPeer(_)
        | Change::Agent(_)
        | Change::RemoveAgent(_)
        | Change::LeaveMesh
        | Change::StartAtLeast(_) => false,
    }
}

/// Until one is refused.
fn write_changes<'a>(
    connection: &Connection,
    rows: &mut Rows<'a>,
    changes: &'a [Change],
) -> rusqlite::Result<Result<(), Refused>> {
    for change in changes {
        if let Err(refused) = write_change(connection, rows, change)? {
            return Ok(Err(refused));
        }
    }
    Ok(Ok(()))
}

fn write_change<'a>(
    connection: &Connection,
    rows: &mut Rows<'a>,
    change: &'a Change,
) -> rusqlite::Result<Result<(), Refused>> {
    match change {
        Change::MeshId(mesh_id) => put_meta(connection, MESH_ID, mesh_id.0.as_bytes())?,
        Change::Peer(card) => put_peer(connection, card)?,
        Change::ForgetPeer(node) => {
            delete(connection, "DELETE FROM peers WHERE node_id = ?1", node.as_str())?
        }
        Change::Agent(spec) => return put_agent(connection, spec),
        Change::RemoveAgent(name) => delete(connection, "DELETE FROM agents WHERE name = ?1", name.as_str())?,
        Change::LeaveMesh => {
            delete(connection, "DELETE FROM meta WHERE key = ?1", MESH_ID)?;
            // What was lost was of the mesh that this node has now left.
            delete(connection, "DELETE FROM meta WHERE key = ?1", REBUILT)?;
            connection.prepare_cached("DELETE FROM peers")?.execute([])?;
        }
        Change::StartAtLeast(least) => return raise_start(connection, *least),
        Change::Put { table, key, row } => return rows.put(connection, *table, key, row),
        Change::Delete { table, key } => rows.delete(connection, *table, key)?,
        Change::Clear(table) => rows.clear(connection, *table)?,
        // It orders batches, which is the writer's business.
        Change::Afresh => {}
    }
    Ok(Ok(()))
}

fn put_peer(connection: &Connection, card: &NodeCard) -> rusqlite::Result<()> {
    let table = Table { update: UPDATE_PEER, insert: INSERT_PEER, rows_max: limits::PEERS_MAX };
    if !table.put(connection, card.node_id.as_str(), card)? {
        metrics::counter!("shoal_store_peers_dropped_total").increment(1);
        tracing::warn!(node = %card.node_id, peers_max = limits::PEERS_MAX,
            "the store remembers as many peers as it can: after a restart this one must be met again");
    }
    Ok(())
}

fn put_agent(connection: &Connection, spec: &AgentSpec) -> rusqlite::Result<Result<(), Refused>> {
    let table = Table { update: UPDATE_AGENT, insert: INSERT_AGENT, rows_max: limits::AGENTS_PER_NODE_MAX };
    if table.put(connection, spec.name.as_str(), spec)? {
        return Ok(Ok(()));
    }
    Ok(Err(format!(
        "the store already holds {} agents, the most a node can have: stop one first",
        limits::AGENTS_PER_NODE_MAX
    )))
}

const UPDATE_PEER: &str = "UPDATE peers SET card = ?2 WHERE node_id = ?1";
const INSERT_PEER: &str =
    "INSERT INTO peers (node_id, card) SELECT ?1, ?2 WHERE (SELECT count(*) FROM peers) < ?3";
const UPDATE_AGENT: &str = "UPDATE agents SET spec = ?2 WHERE name = ?1";
const INSERT_AGENT: &str =
    "INSERT INTO agents (name, spec) SELECT ?1, ?2 WHERE (SELECT count(*) FROM agents) < ?3";

/// How a bounded table of encoded values is written.
struct Table {
    update: &'static str,
    insert: &'static str,
    rows_max: usize,
}

impl Table {
    /// Replaces or adds a row; `false` if it would be one too many.
    fn put(&self, connection: &Connection, key: &str, value: &impl Serialize) -> rusqlite::Result<bool> {
        let value = wire::encode_value(value);
        if connection.prepare_cached(self.update)?.execute(params![key, &value[..]])? > 0 {
            return Ok(true);
        }
        let insert = params![key, &value[..], self.rows_max as i64];
        Ok(connection.prepare_cached(self.insert)?.execute(insert)? > 0)
    }
}

fn delete(connection: &Connection, sql: &str, key: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([key]).map(drop)
}

fn raise_start(connection: &Connection, least: u64) -> rusqlite::Result<Result<(), Refused>> {
    if least > limits::INCARNATION_START_MAX {
        return Ok(Err(format!(
            "process start {least} is beyond the last possible one, {}",
            limits::INCARNATION_START_MAX
        )));
    }
    let used_up = least.saturating_sub(1);
    if used_up > last_start(connection)? {
        put_start(connection, used_up)?;
    }
    Ok(Ok(()))
}

fn last_start(connection: &Connection) -> rusqlite::Result<u64> {
    let start: Option<i64> = get_meta(connection, START)?;
    let start = start.unwrap_or(0);
    u64::try_from(start).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, start))
}

fn put_start(connection: &Connection, start: u64) -> rusqlite::Result<()> {
    let start = i64::try_from(start).expect("bounded by INCARNATION_START_MAX, which has 44 bits");
    put_meta(connection, START, start)
}

fn mesh_id(connection: &Connection) -> rusqlite::Result<Option<MeshId>> {
    Ok(get_meta(connection, MESH_ID)?.map(uuid::Uuid::from_bytes).map(MeshId))
}

fn get_meta<T: rusqlite::types::FromSql>(connection: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |r| r.get(0))
        .optional()
}

fn put_meta(connection: &Connection, key: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<()> {
    let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(sql)?.execute(params![key, value]).map(drop)
}

fn put_keys(connection: &Connection, keys: &NodeKeys) -> rusqlite::Result<()> {
    put_meta(connection, RESET_KEY, &keys.reset_key[..])?;
    put_meta(connection, CONNECTION_ID_KEY, &keys.connection_id_key[..])
}

/// The stored keys. A lost key costs peers a time-out where a reset would have told them, so one that
/// is missing or of another length is made anew.
fn read_keys(connection: &Connection) -> rusqlite::Result<Option<NodeKeys>> {
    let reset_key: Option<Vec<u8>> = get_meta(connection, RESET_KEY)?;
    let connection_id_key: Option<Vec<u8>> = get_meta(connection, CONNECTION_ID_KEY)?;
    let (Some(reset_key), Some(connection_id_key)) = (reset_key, connection_id_key) else {
        return Ok(None);
    };
    let (Ok(reset_key), Ok(connection_id_key)) = (reset_key.try_into(), connection_id_key.try_into()) else {
        tracing::warn!("the stored QUIC keys have another length than this version's: new ones are made");
        return Ok(None);
    };
    Ok(Some(NodeKeys { reset_key, connection_id_key }))
}

fn read_peers(connection: &Connection, peers: &mut Vec<NodeCard>) -> rusqlite::Result<()> {
    let sql = "SELECT node_id, card FROM peers ORDER BY node_id LIMIT ?1";
    read_rows(connection, sql, limits::PEERS_MAX, peers, |key, card: &NodeCard| {
        if card.node_id.as_str() != key {
            return Err("the card names another node");
        }
        card.check()
    })
}

fn read_agents(connection: &Connection, agents: &mut Vec<AgentSpec>) -> rusqlite::Result<()> {
    let sql = "SELECT name, spec FROM agents ORDER BY name LIMIT ?1";
    read_rows(connection, sql, limits::AGENTS_PER_NODE_MAX, agents, |key, spec: &AgentSpec| {
        if spec.name.as_str() != key {
            return Err("the specification names another agent");
        }
        Ok(())
    })
}

/// Adds (key, encoded value) rows to `values` and skips those that this version does not understand. What was added
/// before an error stays.
fn read_rows<T: DeserializeOwned>(
    connection: &Connection,
    sql: &str,
    rows_max: usize,
    values: &mut Vec<T>,
    check: impl Fn(&str, &T) -> Result<(), &'static str>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([rows_max as i64])?;
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        let bytes: Vec<u8> = row.get(1)?;
        let value = wire::decode_value(&bytes).map_err(|e| e.to_string());
        match value.and_then(|v| check(&key, &v).map(|()| v).map_err(str::to_owned)) {
            Ok(value) => values.push(value),
            Err(reason) => tracing::warn!(key, reason, "a stored row is not understood and is skipped"),
        }
    }
    Ok(())
}
