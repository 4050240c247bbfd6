//! Recovery rules and alerts: what is done for agents of this node that are not well, and who hears of it.

use std::collections::{BTreeMap, BTreeSet};

use super::care::{breaker, entries, restart, within};
use super::error::quoted;
use super::manifest::{items, parsed, text};
use super::sources::Sources;
use super::values;
use super::yaml::{Node, Value};
use crate::core::limits;
use crate::core::model::{Recovery, RecoveryRule};

pub(super) const RULES: &str = "recovery.rules";
pub(super) const WEBHOOKS: &str = "alerts.webhooks";

const RULE_KEYS: [&str; 5] = ["agents", "optional", "restart", "breaker", "overrules"];
const WEBHOOK_KEYS: [&str; 2] = ["url", "events"];

/// Where alerts are posted, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Host and port.
    pub authority: String,
    /// Path and query. It may be a secret: no log has it.
    pub path: String,
    /// Which alerts. Never empty.
    pub alerts: BTreeSet<AlertKind>,
}

/// What somebody can be alerted of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertKind {
    /// An agent of this node has ended by itself or was found unhealthy, and is started again.
    Restarting,
    /// An agent of this node has used up its attempts.
    Quarantined,
    /// One that was in quarantine is started again, or is gone.
    Released,
    /// The breaker of an agent of this node has opened.
    BreakerOpened,
    /// It has closed.
    BreakerClosed,
    /// Agents of this node wait for a phase in which one has failed.
    LaunchHeld,
    /// This node holds another one to be failed.
    NodeFailed,
}

impl AlertKind {
    /// Every kind with its name.
    pub const ALL: [(&'static str, Self); 7] = [
        ("restarting", Self::Restarting),
        ("quarantined", Self::Quarantined),
        ("released", Self::Released),
        ("breaker_opened", Self::BreakerOpened),
        ("breaker_closed", Self::BreakerClosed),
        ("launch_held", Self::LaunchHeld),
        ("node_failed", Self::NodeFailed),
    ];

    /// The name that users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// `recovery`.
pub(super) fn rules(sources: &mut Sources<'_>) -> Recovery {
    Recovery { rules: sources.entries_in_file(RULES, rule) }
}

/// `alerts`.
pub(super) fn webhooks(sources: &mut Sources<'_>) -> Vec<Webhook> {
    sources.entries_in_file(WEBHOOKS, webhook)
}

fn rule(node: &Node) -> Result<RecoveryRule, String> {
    let entries = entries(node, &RULE_KEYS)?;
    let agents =
        entries.get("agents").ok_or("agents is missing: names, in which * stands for any characters")?;
    let boolean = |key: &str| {
        let read = |node: &Node| within(key, text(node).and_then(values::boolean));
        entries.get(key).map(read).transpose()
    };
    let rule = RecoveryRule {
        agents: within("agents", parsed(agents))?,
        optional: boolean("optional")?,
        restart: entries.get("restart").map(|node| within("restart", restart(node))).transpose()?,
        breaker: entries.get("breaker").map(|node| within("breaker", breaker(node))).transpose()?,
        overrules: boolean("overrules")?.unwrap_or_default(),
    };
    if rule.restart.is_none() && rule.breaker.is_none() {
        return Err("it changes nothing: give restart or breaker".to_owned());
    }
    rule.restart.as_ref().map_or(Ok(()), |restart| within("restart", restart.check()))?;
    rule.breaker.as_ref().map_or(Ok(()), |breaker| within("breaker", breaker.check()))?;
    Ok(rule)
}

fn webhook(node: &Node) -> Result<Webhook, String> {
    let entries = entries(node, &WEBHOOK_KEYS)?;
    let url = entries.get("url").ok_or("url is missing: as in http://127.0.0.1:9000/alerts")?;
    let (authority, path) = within("url", text(url).and_then(parted))?;
    Ok(Webhook { authority, path, alerts: within("events", kinds(entries))? })
}

fn kinds(entries: &BTreeMap<String, Node>) -> Result<BTreeSet<AlertKind>, String> {
    let Some(node) = entries.get("events") else {
        return Ok(AlertKind::ALL.iter().map(|(_, kind)| *kind).collect());
    };
    let kinds: BTreeSet<_> = items(node)?
        .iter()
        .map(|item| values::choice(text(item)?, &AlertKind::ALL))
        .collect::<Result<_, _>>()?;
    if kinds.is_empty() {
        return Err("it is empty: leave it out for all of them, or remove the webhook".to_owned());
    }
    Ok(kinds)
}

/// Host and port, and path with query, of a URL.
fn parted(url: &str) -> Result<(String, String), String> {
    // What stands before an @ may be a password, and all of it a secret: no message repeats it.
    let example = "it is no URL such as http://127.0.0.1:9000/alerts";
    if url.len() > limits::ALERT_URL_BYTES_MAX {
        return Err(format!("it has {} bytes, allowed are {}", url.len(), limits::ALERT_URL_BYTES_MAX));
    }
    let uri: hyper::Uri = url.parse().map_err(|_| example.to_owned())?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            let why = "only plain HTTP is spoken, to a receiver on this machine or one that is reached through what \
                       secures the way, such as a local proxy: give an http:// URL";
            return Err(why.to_owned());
        }
        Some(scheme) => return Err(format!("{} is not http", quoted(scheme))),
        None => return Err(example.to_owned()),
    }
    let authority = uri.authority().ok_or(example)?.as_str();
    if authority.contains('@') {
        return Err("it must not hold a user or a password".to_owned());
    }
    // A port that is none would silently be that of HTTP.
    let host = uri.host().unwrap_or_default();
    let has_port = authority.len() > host.len();
    if host.is_empty() || (has_port && uri.port_u16().is_none_or(|port| port == 0)) {
        return Err("it has no host, or a port that is none".to_owned());
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok((authority.to_owned(), path.to_owned()))
}

/// A value with its variables expanded; what is wrong with them is told to `report` with its line.
pub(super) fn expanded(
    node: &Node,
    expand: &dyn Fn(&str) -> Result<String, String>,
    report: &mut dyn FnMut(usize, String),
) -> Node {
    let value = match &node.value {
        Value::Null => Value::Null,
        Value::Bad => Value::Bad,
        Value::Text { text, plain } => match expand(text) {
            Ok(text) if *plain && text.is_empty() => Value::Null,
            Ok(text) => Value::Text { text, plain: *plain },
            Err(why) => {
                report(node.line, why);
                Value::Bad
            }
        },
        Value::List(items) => Value::List(items.iter().map(|item| expanded(item, expand, report)).collect()),
        Value::Map(entries) => Value::Map(
            entries.iter().map(|(key, child)| (key.clone(), expanded(child, expand, report))).collect(),
        ),
    };
    Node { line: node.line, value }
}

/// Whether something in it was reported already.
pub(super) fn is_bad(node: &Node) -> bool {
    match &node.value {
        Value::Bad => true,
        Value::Null | Value::Text { .. } => false,
        Value::List(items) => items.iter().any(is_bad),
        Value::Map(entries) => entries.values().any(is_bad),
    }
}
