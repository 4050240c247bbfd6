//! The records of three nodes that tell each other.

use super::*;
use crate::core::ids::Tag;
use crate::core::model::{AgentState, Balance, Offer, OrderEpoch, Tally};

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn agent(name: &str) -> AgentName {
    AgentName::new(name).expect("valid")
}

fn record(state: AgentState) -> AgentRecord {
    AgentRecord {
        kind: "native".to_owned(),
        state,
        restarts: 0,
        offer: Default::default(),
        health: Default::default(),
        order: None,
        breaker: Default::default(),
        depends_on: Default::default(),
        waits: None,
    }
}

fn sync(from: &Registry, to: &mut Registry) {
    for batch in from.newer_than(&to.digest()) {
        to.apply(&batch).expect("decodes");
    }
}

#[test]
fn a_digest_brings_exactly_what_is_missing_also_through_a_third_node() {
    let (mut a, mut b, mut c) =
        (Registry::new(node("a"), 1), Registry::new(node("b"), 1), Registry::new(node("c"), 1));
    a.publish_agent(&agent("x"), Some(&record(AgentState::Running)));
    a.publish_agent(&agent("y"), Some(&record(AgentState::Running)));
    sync(&a, &mut b);
    sync(&b, &mut c);
    assert_eq!(c.owner(&node("a")).expect("known").agents.len(), 2);
    assert!(a.newer_than(&c.digest()).iter().all(|batch| batch.node != node("a")));
    a.publish_agent(&agent("x"), None);
    let batches = a.newer_than(&c.digest());
    assert_eq!(batches.iter().map(|b| b.records.len()).sum::<usize>(), 1, "only the removal");
    sync(&a, &mut c);
    assert!(!c.owner(&node("a")).expect("known").agents.contains_key(&agent("x")));
}

#[test]
fn the_hash_that_is_kept_follows_every_change() {
    let (mut a, mut b) = (Registry::new(node("a"), 1), Registry::new(node("b"), 1));
    let mut seen = BTreeSet::from([b.digest_hash()]);
    let mut is_new = |b: &Registry| {
        assert_eq!(b.digest_hash(), b.hash_digest());
        seen.insert(b.digest_hash())
    };
    b.publish_agent(&agent("own"), Some(&record(AgentState::Running)));
    assert!(is_new(&b), "its own record");
    a.publish_agent(&agent("x"), Some(&record(AgentState::Running)));
    sync(&a, &mut b);
    assert!(is_new(&b), "another's record");
    b.restart(2);
    assert!(is_new(&b), "a new start");
    b.forget(&node("a"));
    assert!(is_new(&b), "somebody is forgotten");
    assert!(!is_new(&b), "nothing has changed");
}

#[test]
fn what_an_agent_offers_has_its_bounds_and_words_of_later_versions_are_read() {
    let (mut a, mut b) = (Registry::new(node("a"), 1), Registry::new(node("b"), 1));
    let tags = |count: usize| (0..count).map(|n| Tag::new(&format!("t{n}")).expect("valid")).collect();
    let offering = |count| AgentRecord {
        offer: Offer { topics: tags(count), ..Offer::default() },
        ..record(AgentState::Running)
    };
    a.publish_agent(&agent("x"), Some(&offering(limits::OFFER_TAGS_MAX)));
    sync(&a, &mut b);
    assert_eq!(b.owner(&node("a")).expect("known").agents[&agent("x")], offering(limits::OFFER_TAGS_MAX));
    let batch_of = |from: &str, value| {
        let record = OwnedRecord { path: "agents/x".to_owned(), n: 1, value: Some(value) };
        OwnedBatch { node: node(from), start: 1, after: 0, upto: 1, floor: 0, records: vec![record] }
    };
    assert!(b.apply(&batch_of("d", encode_value(&offering(limits::OFFER_TAGS_MAX + 1)))).is_err());

    #[derive(serde::Serialize)]
    struct LaterOffer {
        balance: &'static str,
    }
    #[derive(serde::Serialize)]
    struct LaterRecord {
        kind: &'static str,
        state: AgentState,
        restarts: u32,
        offer: LaterOffer,
    }
    let offer = LaterOffer { balance: "by-moonlight" };
    let later = LaterRecord { kind: "stdio", state: AgentState::Running, restarts: 0, offer };
    b.apply(&batch_of("c", encode_value(&later))).expect("decodes");
    assert_eq!(b.owner(&node("c")).expect("known").agents[&agent("x")].offer.balance, Balance::RoundRobin);
}

#[test]
fn doubts_are_told_cut_to_their_bounds_taken_back_and_refused_beyond_them() {
    let (mut a, mut b) = (Registry::new(node("a"), 1), Registry::new(node("b"), 1));
    let long = format!("{}ü", "x".repeat(limits::DOUBT_BYTES_MAX - 1));
    a.publish_doubts(vec![long; limits::DOUBTS_MAX + 1]);
    sync(&a, &mut b);
    let doubts = &b.owner(&node("a")).expect("known").doubts;
    assert_eq!(*doubts, vec!["x".repeat(limits::DOUBT_BYTES_MAX - 1); limits::DOUBTS_MAX]);
    let over = a.publish_doubts(vec![]).expect("a change");
    assert!(matches!(b.apply(&over).expect("decodes"), Applied::Changed { doubts: true, .. }));
    assert!(b.owner(&node("a")).expect("known").doubts.is_empty());
    assert_eq!(a.publish_doubts(vec![]), None, "nothing to tell");
    let endless = encode_value(&vec!["x".repeat(limits::DOUBT_BYTES_MAX + 1)]);
    let record = OwnedRecord { path: "doubts".to_owned(), n: 9, value: Some(endless) };
    let batch = OwnedBatch { after: over.upto, upto: 9, records: vec![record], ..over };
    assert!(b.apply(&batch).is_err());
    assert!(b.owner(&node("a")).expect("known").doubts.is_empty());
}

#[test]
fn what_instances_on_trial_did_is_told_taken_back_and_refused_beyond_its_bound() {
    let (mut a, mut b) = (Registry::new(node("a"), 1), Registry::new(node("b"), 1));
    let tally = (OrderEpoch::default(), Tally { worked: 3, failed: 1 });
    let tallies = Tallies::from([(agent("web#0"), tally)]);
    let first = a.publish_tallies(&tallies).expect("it is new");
    assert_eq!(a.publish_tallies(&tallies), None, "nothing to tell");
    sync(&a, &mut b);
    assert_eq!(b.owner(&node("a")).expect("known").tallies, tallies);
    a.publish_tallies(&Tallies::new());
    sync(&a, &mut b);
    assert!(b.owner(&node("a")).expect("known").tallies.is_empty());
    let many: Tallies = (0..=limits::TALLIES_MAX).map(|n| (agent(&format!("a{n}")), tally)).collect();
    let record = OwnedRecord { path: "tallies".to_owned(), n: 9, value: Some(encode_value(&many)) };
    assert!(b.apply(&OwnedBatch { after: 2, upto: 9, records: vec![record], ..first }).is_err());
}

#[test]
fn that_a_node_leaves_is_told_once_and_taken_back() {
    let (mut a, mut b) = (Registry::new(node("a"), 1), Registry::new(node("b"), 1));
    let told = a.publish_leaving(true).expect("it is new");
    assert!(matches!(b.apply(&told).expect("decodes"), Applied::Changed { leaves: true, .. }));
    assert!(b.owner(&node("a")).expect("known").leaves);
    assert_eq!(a.publish_leaving(true), None);
    b.apply(&a.publish_leaving(false).expect("a change")).expect("decodes");
    assert!(!b.owner(&node("a")).expect("known").leaves);
}

#[test]
fn a_delta_that_skips_something_is_a_gap_and_changes_nothing() {
    let (mut a, mut b) = (Registry::new(node("a"), 1), Registry::new(node("b"), 1));
    let first = a.publish_agent(&agent("x"), Some(&record(AgentState::Running))).expect("new");
    let second = a.publish_agent(&agent("y"), Some(&record(AgentState::Running))).expect("new");
    assert_eq!(b.apply(&second).expect("decodes"), Applied::Gap);
    assert!(matches!(b.apply(&first).expect("decodes"), Applied::Changed { .. }));
    assert!(matches!(b.apply(&second).expect("decodes"), Applied::Changed { .. }));
    assert_eq!(b.apply(&second).expect("decodes"), Applied::Old);
}

#[test]
fn a_later_start_replaces_all_records_of_an_earlier_one() {
    let mut a = Registry::new(node("a"), 1);
    let mut b = Registry::new(node("b"), 1);
    a.publish_agent(&agent("old"), Some(&record(AgentState::Running)));
    sync(&a, &mut b);
    let mut again = Registry::new(node("a"), 2);
    again.publish_agent(&agent("new"), Some(&record(AgentState::Running)));
    sync(&again, &mut b);
    let agents: Vec<_> = b.owner(&node("a")).expect("known").agents.keys().cloned().collect();
    assert_eq!(agents, [agent("new")]);
    sync(&a, &mut b);
    assert!(b.owner(&node("a")).expect("known").agents.contains_key(&agent("new")), "nothing comes back");
}

#[test]
fn nobody_writes_another_nodes_records() {
    let mut a = Registry::new(node("a"), 1);
    let mut b = Registry::new(node("b"), 1);
    a.publish_agent(&agent("x"), Some(&record(AgentState::Running)));
    let forged = OwnedBatch { node: node("b"), start: 99, ..a.newer_than(&[]).remove(0) };
    assert_eq!(b.apply(&forged).expect("ignored"), Applied::Old);
    assert!(b.owner(&node("b")).expect("own").agents.is_empty());
}

#[test]
fn a_card_under_another_nodes_name_is_refused() {
    let card = NodeCard {
        node_id: node("c"),
        addresses: vec![],
        region: String::new(),
        zone: String::new(),
        labels: BTreeMap::new(),
        roles: vec![],
        version: String::new(),
    };
    let record = OwnedRecord { path: "node".to_owned(), n: 1, value: Some(encode_value(&card)) };
    let batch = OwnedBatch { node: node("a"), start: 1, after: 0, upto: 1, floor: 0, records: vec![record] };
    let mut b = Registry::new(node("b"), 1);
    assert!(b.apply(&batch).is_err());
    assert!(b.owner(&node("a")).is_none_or(|owner| owner.card.is_none()));
}

#[test]
fn many_removals_are_collected_and_those_behind_them_get_a_snapshot() {
    let (mut a, mut b) = (Registry::new(node("a"), 1), Registry::new(node("b"), 1));
    a.publish_agent(&agent("keep"), Some(&record(AgentState::Running)));
    a.publish_agent(&agent("gone"), Some(&record(AgentState::Running)));
    sync(&a, &mut b);
    a.publish_agent(&agent("gone"), None);
    for n in 0..limits::OWNED_TOMBSTONES_MAX + 10 {
        a.publish_agent(&agent(&format!("t{n}")), Some(&record(AgentState::Running)));
        a.publish_agent(&agent(&format!("t{n}")), None);
    }
    assert!(a.owner(&node("a")).expect("own").records.len() <= limits::OWNED_TOMBSTONES_MAX + 1);
    sync(&a, &mut b);
    let agents: Vec<_> = b.owner(&node("a")).expect("known").agents.keys().cloned().collect();
    assert_eq!(agents, [agent("keep")]);
}

#[test]
fn whoever_has_a_snapshot_does_not_tell_others_less_than_it_lacks() {
    let registry = |name: &str| Registry::new(node(name), 1);
    let (mut a, mut b, mut c) = (registry("a"), registry("b"), registry("c"));
    a.publish_agent(&agent("gone"), Some(&record(AgentState::Running)));
    sync(&a, &mut c);
    a.publish_agent(&agent("gone"), None);
    for n in 0..limits::OWNED_TOMBSTONES_MAX + 10 {
        a.publish_agent(&agent(&format!("t{n}")), Some(&record(AgentState::Running)));
        a.publish_agent(&agent(&format!("t{n}")), None);
    }
    sync(&a, &mut b);
    sync(&b, &mut c);
    assert!(c.owner(&node("a")).expect("known").agents.is_empty(), "no ghost");
}

#[test]
fn an_absurd_start_and_a_bad_snapshot_change_nothing() {
    let (mut a, mut b) = (Registry::new(node("a"), 1), Registry::new(node("b"), 1));
    a.publish_agent(&agent("x"), Some(&record(AgentState::Running)));
    sync(&a, &mut b);
    let good = a.newer_than(&[]).remove(0);
    let absurd = OwnedBatch { start: u64::MAX, ..good.clone() };
    assert!(b.apply(&absurd).is_err());
    let junk = OwnedRecord { path: "agents/y".to_owned(), n: 1, value: Some(Bytes::from_static(b"junk")) };
    let bad = OwnedBatch { start: 2, records: vec![junk], ..good };
    assert!(b.apply(&bad).is_err());
    assert!(b.owner(&node("a")).expect("known").agents.contains_key(&agent("x")));
}

#[test]
fn ten_thousand_agents_travel_in_frames_that_fit() {
    let (mut a, mut b) = (Registry::new(node("a"), 1), Registry::new(node("b"), 1));
    let reason = "r".repeat(200);
    for n in 0..limits::AGENTS_PER_NODE_MAX {
        let state = AgentState::Failed { reason: reason.clone(), quarantined: false };
        a.publish_agent(&agent(&format!("agent-{n}")), Some(&record(state)));
    }
    let batches = a.newer_than(&b.digest());
    assert!(batches.len() > 1);
    for batch in batches {
        let mut frame = Vec::new();
        let control = crate::core::wire::Control::Owned { batches: vec![batch.clone()] };
        crate::core::wire::encode(&control, &mut frame).expect("fits");
        assert!(matches!(b.apply(&batch).expect("decodes"), Applied::Changed { .. }));
    }
    assert_eq!(b.owner(&node("a")).expect("known").agents.len(), limits::AGENTS_PER_NODE_MAX);
}
