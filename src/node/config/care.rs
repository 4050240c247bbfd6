//! The keys `health`, `restart` and `breaker` of a manifest.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::quoted;
use super::keys::nearest;
use super::manifest::{items, text};
use super::values;
use super::yaml::{Node, Value};
use crate::core::limits;
use crate::core::model::{Breaker, HealthCheck, Probe, Restart};

const HEALTH_KEYS: [&str; 6] = ["check", "path", "content", "interval", "timeout", "failures"];
const RESTART_KEYS: [&str; 2] = ["waits", "steady"];
const BREAKER_KEYS: [&str; 2] = ["failures", "open"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Answer,
}

const KINDS: [(&str, Kind); 2] = [("http", Kind::Http), ("answer", Kind::Answer)];

/// How health is checked.
pub(super) fn health(node: &Node) -> Result<HealthCheck, String> {
    let entries = entries(node, &HEALTH_KEYS)?;
    let kind = entries.get("check").ok_or("check is missing: http or answer")?;
    let kind = within("check", values::choice(text(kind)?, &KINDS))?;
    let owned =
        |key: &str| entries.get(key).map(|node| within(key, text(node).map(str::to_owned))).transpose();
    let probe = match (kind, owned("path")?, owned("content")?) {
        (Kind::Http, path, None) => Probe::Http { path },
        (Kind::Answer, None, content) => {
            Probe::Answer { content: content.unwrap_or_else(|| Probe::CONTENT.to_owned()) }
        }
        (Kind::Http, _, Some(_)) => return Err("content: a check by http has none".to_owned()),
        (Kind::Answer, Some(_), _) => return Err("path: a check by answer has none".to_owned()),
    };
    let usual = HealthCheck::new(probe);
    let span =
        |key: &str, usual: u32| entries.get(key).map_or(Ok(usual), |node| within(key, millis(node, 1)));
    let failures = entries.get("failures").map(|node| {
        within("failures", text(node).and_then(|text| values::integer(text, 1, limits::CHECK_FAILURES_MAX)))
    });
    Ok(HealthCheck {
        interval_ms: span("interval", usual.interval_ms)?,
        timeout_ms: span("timeout", usual.timeout_ms)?,
        failures: failures.transpose()?.unwrap_or(usual.failures),
        ..usual
    })
}

/// When the agent is started again.
pub(super) fn restart(node: &Node) -> Result<Restart, String> {
    let entries = entries(node, &RESTART_KEYS)?;
    let waits = entries.get("waits").map(|node| {
        within("waits", items(node).and_then(|items| items.iter().map(|item| millis(item, 0)).collect()))
    });
    let steady = entries.get("steady").map(|node| within("steady", millis(node, 1)));
    let usual = Restart::default();
    Ok(Restart {
        waits_ms: waits.transpose()?.unwrap_or(usual.waits_ms),
        steady_ms: steady.transpose()?.unwrap_or(usual.steady_ms),
    })
}

/// When those who ask the agent are spared their wait.
pub(super) fn breaker(node: &Node) -> Result<Breaker, String> {
    let entries = entries(node, &BREAKER_KEYS)?;
    let failures = entries.get("failures").map(|node| {
        within("failures", text(node).and_then(|text| values::integer(text, 1, limits::BREAKER_FAILURES_MAX)))
    });
    let open =
        entries.get("open").map(|node| within("open", millis(node, limits::BREAKER_OPEN_MS_MIN.into())));
    let usual = Breaker::default();
    Ok(Breaker {
        failures: failures.transpose()?.unwrap_or(usual.failures),
        open_ms: open.transpose()?.unwrap_or(usual.open_ms),
    })
}

pub(super) fn within<T>(key: &str, read: Result<T, String>) -> Result<T, String> {
    read.map_err(|why| format!("{key}: {why}"))
}

pub(super) fn entries<'a>(
    node: &'a Node,
    keys: &[&'static str],
) -> Result<&'a BTreeMap<String, Node>, String> {
    let Value::Map(entries) = &node.value else {
        return Err(format!("it has the keys {}", keys.join(", ")));
    };
    if let Some(unknown) = entries.keys().find(|key| !keys.contains(&key.as_str())) {
        let near = nearest(unknown, keys.iter().copied()).map(|near| format!("did you mean {near}?"));
        let message = near.unwrap_or_else(|| format!("the keys are {}", keys.join(", ")));
        return Err(format!("{}: there is no such key: {message}", quoted(unknown)));
    }
    Ok(entries)
}

pub(super) fn millis(node: &Node, min_ms: u64) -> Result<u32, String> {
    let max = Duration::from_millis(limits::CARE_SPAN_MS_MAX.into());
    let span = values::duration(text(node)?, Duration::from_millis(min_ms), max)?;
    u32::try_from(span.as_millis()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use crate::core::model::{Breaker, Care, HealthCheck, Probe, Restart};
    use crate::node::config::Manifest;

    fn care(text: &str) -> Result<Care, String> {
        let text = format!("name: a\nkind: http\nsource: /bin/a\n{text}");
        let manifest = Manifest::parse(&text, &Arc::from("agent.yaml"), Path::new("/"));
        manifest.map(|manifest| manifest.care).map_err(|errors| errors.to_string())
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        assert_eq!(care(""), Ok(Care::default()));
        let http = HealthCheck::new(Probe::Http { path: None });
        assert_eq!(care("health: {check: http}").expect("good").health, Some(http.clone()));
        let all = "health:\n  check: http\n  path: /up\n  interval: 1s\n  timeout: 200ms\n  failures: 5\n";
        let probe = Probe::Http { path: Some("/up".to_owned()) };
        let wanted = HealthCheck { probe, interval_ms: 1000, timeout_ms: 200, failures: 5 };
        assert_eq!(care(all).expect("good").health, Some(wanted));
        let answer = HealthCheck::new(Probe::Answer { content: "well?".to_owned() });
        assert_eq!(care("health: {check: answer, content: well?}").expect("good").health, Some(answer));
        let restart = Restart { waits_ms: vec![0, 2000], ..Restart::default() };
        assert_eq!(care("restart: {waits: [0s, 2s]}").expect("good").restart, Some(restart));
        let breaker = Breaker { failures: 5, ..Breaker::default() };
        assert_eq!(care("breaker: {failures: 5}").expect("good").breaker, Some(breaker));
        let breaker = Breaker { open_ms: 2500, ..Breaker::default() };
        assert_eq!(care("breaker: {open: 2500ms}").expect("good").breaker, Some(breaker));
        assert_eq!(care("restart: {waits: []}").expect("good").restart().waits_ms, [0_u32; 0]);
        // It says so, whatever its node's rules say.
        assert_eq!(care("restart: {steady: 10m}").expect("good").restart, Some(Restart::default()));
    }

    #[test]
    fn every_error_names_its_line_and_key() {
        for (text, words) in [
            ("health: {path: /up}", "agent.yaml:4: health: check is missing: http or answer"),
            ("health: {check: htpp}", "health: check: "),
            ("health: {check: http, intervall: 1s}", "did you mean interval?"),
            ("health: {check: http, content: x}", "health: content: a check by http has none"),
            ("health: {check: answer, path: /x}", "health: path: a check by answer has none"),
            ("health: {check: http, interval: 5}", "health: interval: "),
            ("health: {check: http, interval: 1ms}", "the interval of health checks is 1 ms"),
            ("health: {check: http, failures: 0}", "health: failures: "),
            ("health: http", "health: it has the keys check, path"),
            ("restart: {waits: 1s}", "restart: waits: a list is wanted here"),
            ("restart: {steady: 2d}", "restart: steady: "),
            ("breaker: {failures: 0}", "agent.yaml:4: breaker: failures: "),
            ("breaker: {open: 100ms}", "breaker: open: "),
            ("breaker: {opens: 1s}", "did you mean open?"),
        ] {
            let why = care(text).expect_err(text);
            assert!(why.contains(words), "{text}: {why}");
        }
    }
}
