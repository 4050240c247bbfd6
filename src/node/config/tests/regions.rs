//! Regions: where a node takes its own from, and what that allows.

use super::*;

const LISTED: &str = "
coordination:
  cluster:
    regions:
      - {name: eu, nodes: [node-1, node-2]}
      - {name: us, nodes: 'node-3, node-4'}
    cross_region: {prefer_local_region: true, max_cross_region_latency: 80ms}
";

fn region_of(arguments: &[&str], text: &str) -> Result<String, ConfigErrors> {
    load_all(&flags(arguments), &[], text).map(|config| config.node.region)
}

#[test]
fn one_list_gives_every_node_its_region_unless_the_node_says_it_itself() {
    for (node, region) in [("node-1", "eu"), ("node-2", "eu"), ("node-3", "us"), ("node-4", "us")] {
        assert_eq!(region_of(&["--node-id", node], LISTED).expect("valid"), region);
        assert_eq!(region_of(&["--node-id", node, "--region", region], LISTED).expect("they agree"), region);
    }
    assert_eq!(region_of(&["--node-id", "node-9", "--region", "ap"], LISTED).expect("its own"), "ap");
}

#[test]
fn a_node_that_says_otherwise_than_the_list_is_refused() {
    let lines = lines(load_all(&flags(&["--node-id", "node-3", "--region", "eu"]), &[], LISTED));
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("node-3, into region \"us\"") && lines[0].contains("says \"eu\""), "{lines:?}");
}

#[test]
fn the_rules_for_other_regions_arrive_and_have_defaults() {
    let config = load_all(&flags(&["--node-id", "node-1"]), &[], LISTED).expect("valid");
    let expected =
        CrossRegion { max_cross_region_latency: Some(Duration::from_millis(80)), ..CrossRegion::default() };
    assert_eq!(config.cluster.cross_region, expected);
    assert!(expected.latency_aware_routing && expected.prefer_local_region);
    let text = "node: {id: n}\ncoordination: {cluster: {regions: [], cross_region: {latency_aware_routing: false, \
                prefer_local_region: false, max_cross_region_latency: null}}}";
    let config = load(text).expect("nothing here needs a region");
    assert_eq!(config.node.region, "");
    let off = CrossRegion {
        latency_aware_routing: false,
        prefer_local_region: false,
        max_cross_region_latency: None,
    };
    assert_eq!(config.cluster.cross_region, off);
}
