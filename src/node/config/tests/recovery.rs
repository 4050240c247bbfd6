//! Recovery rules and webhooks: what is given arrives, and what makes no sense is refused at its place.

use super::*;
use crate::core::model::{Breaker, RecoveryRule, Restart};

#[test]
fn rules_arrive_in_their_order() {
    let text = "
node: {id: n}
recovery:
  rules:
    - agents: web-*
      optional: false
      restart: {waits: [1s, 2s], steady: 1m}
      overrules: true
    - {agents: '*', breaker: {failures: 9}}";
    let waits = Restart { waits_ms: vec![1000, 2000], steady_ms: 60_000 };
    let rules = vec![
        RecoveryRule {
            agents: "web-*".parse().expect("a pattern"),
            optional: Some(false),
            restart: Some(waits),
            breaker: None,
            overrules: true,
        },
        RecoveryRule {
            agents: "*".parse().expect("a pattern"),
            optional: None,
            restart: None,
            breaker: Some(Breaker { failures: 9, ..Breaker::default() }),
            overrules: false,
        },
    ];
    assert_eq!(load(text).expect("valid").recovery, Recovery { rules });
    assert_eq!(load("node: {id: n}\nrecovery: {rules: null}").expect("valid").recovery, Recovery::default());
}

#[test]
fn webhooks_arrive_with_their_variables_and_want_all_alerts_where_none_are_named() {
    let text = "
node: {id: n}
alerts:
  webhooks:
    - url: http://127.0.0.1:9000/alerts?key=${KEY}
    - {url: 'http://[::1]:9000', events: [quarantined, node_failed]}";
    let config = load_all(&Flags::default(), &[("KEY", "k-7")], text).expect("valid");
    let shown: Vec<_> = config
        .webhooks
        .iter()
        .map(|hook| (hook.authority.as_str(), hook.path.as_str(), hook.alerts.len()))
        .collect();
    assert_eq!(shown, [("127.0.0.1:9000", "/alerts?key=k-7", 7), ("[::1]:9000", "/", 2)]);
    let kinds: Vec<_> = config.webhooks[1].alerts.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(kinds, ["quarantined", "node_failed"]);
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_no_secret() {
    let rule = |text: &str| (format!("recovery: {{rules: [{text}]}}"), "recovery.rules[0]: ");
    let hook = |text: &str| (format!("alerts: {{webhooks: [{text}]}}"), "alerts.webhooks[0]: ");
    for ((text, place), why) in [
        (rule("{restart: {waits: []}}"), "agents is missing"),
        (rule("{agents: '*'}"), "it changes nothing"),
        (rule("{agents: 'a b', restart: {}}"), "agents: no name of an agent matches it"),
        (
            rule("{agents: '*', restart: {wait: [1s]}}"),
            "restart: \"wait\": there is no such key: did you mean waits?",
        ),
        (rule("{agents: '*', breaker: {failures: 0}}"), "breaker: failures: "),
        (rule("{agents: '*', breaker: {open: 1ms}}"), "breaker: open: "),
        (rule("{agents: '*', optional: maybe, breaker: {}}"), "optional: "),
        (rule("{agent: '*', breaker: {}}"), "did you mean agents?"),
        (rule("x"), "it has the keys agents, optional"),
        (hook("{events: [quarantined]}"), "url is missing"),
        (hook("{url: 'https://example.com/secret'}"), "only plain HTTP is spoken"),
        (hook("{url: 'http://me:secret@example.com'}"), "a user or a password"),
        (hook("{url: 'ftp://secret'}"), "\"ftp\" is not http"),
        (hook("{url: secret}"), "it is no URL"),
        (hook("{url: 'http://a', events: []}"), "events: it is empty"),
        (hook("{url: 'http://a', events: [quarantine]}"), "did you mean quarantined?"),
        (hook("{url: 'http://a/${NONE}'}"), "NONE is not set"),
        (
            (format!("alerts: {{webhooks: [{}]}}", "{url: 'http://a'}, ".repeat(9)), "alerts.webhooks: "),
            "9 items, at most 8",
        ),
        (("recovery: {rules: all}".to_owned(), "recovery.rules: "), "a list is expected"),
    ] {
        let errors = lines(load(&format!("node: {{id: n}}\n{text}")));
        let [line] = &errors[..] else { panic!("{text}: {errors:?}") };
        let wanted = format!("2: {place}");
        assert!(line.contains(&wanted) && line.contains(why) && !line.contains("secret"), "{text}: {line}");
    }
}
