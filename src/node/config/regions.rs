//! Regions: where this node is, from its own setting or from the list of all regions, and how regions
//! weigh on whom it talks to.

use std::collections::{BTreeMap, BTreeSet};

use super::error::quoted;
use super::flags::{self, Flags};
use super::keys::{FileRegion, Item};
use super::sources::{Setting, Sources};
use super::values;
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::CrossRegion;

const REGIONS: &str = "coordination.cluster.regions";
const PREFER_LOCAL: &str = "coordination.cluster.cross_region.prefer_local_region";
const LATENCY_AWARE: &str = "coordination.cluster.cross_region.latency_aware_routing";
const LATENCY_MAX: &str = "coordination.cluster.cross_region.max_cross_region_latency";

/// The region of node `id`: what it was given, or else what the list of regions says. `Absent` when
/// neither says anything.
pub(super) fn own_region(sources: &mut Sources<'_>, flags: &Flags, id: &Setting<NodeId>) -> Setting<String> {
    let given = sources.one(&flags::REGION, flags.region.as_deref(), values::label_text);
    let given =
        if matches!(&given, Setting::Value(text, _) if text.is_empty()) { Setting::Absent } else { given };
    let listed = match sources.take_regions(REGIONS) {
        Setting::Value(regions, place) => Setting::Value(checked(sources, regions), place),
        Setting::Bad => Setting::Bad,
        Setting::Absent => return given,
    };
    let (Setting::Value(id, _), Setting::Value(Some(regions), place)) = (id, listed) else {
        return given.or(Setting::Bad);
    };
    match (given, regions.get(id)) {
        (Setting::Value(given, _), Some((listed, place))) if given != *listed => {
            let message = format!(
                "it puts this node, {id}, into region {}, but its own setting says {}: make them agree, or \
                 remove one",
                quoted(listed),
                quoted(&given)
            );
            sources.problem(place, message);
            Setting::Bad
        }
        (given @ (Setting::Value(..) | Setting::Bad), _) => given,
        (Setting::Absent, Some((listed, place))) => Setting::Value(listed.clone(), place.clone()),
        (Setting::Absent, None) => {
            let message =
                format!("no region names this node, {id}: add it to one, or set node.region of this node");
            sources.problem(&place, message);
            Setting::Bad
        }
    }
}

/// The region of each node that is listed, and where it is; `None` when something in the list is wrong.
fn checked(
    sources: &mut Sources<'_>,
    regions: Vec<FileRegion>,
) -> Option<BTreeMap<NodeId, (String, super::sources::Place)>> {
    let mut places = BTreeMap::new();
    let mut names = BTreeSet::new();
    let mut sound = true;
    for FileRegion { name, nodes } in regions {
        let name = match sources.item(name, region_name) {
            Setting::Value(name, place) => {
                if !names.insert(name.clone()) {
                    sources.problem(&place, format!("the region {} is listed twice", quoted(&name)));
                    sound = false;
                }
                name
            }
            Setting::Absent | Setting::Bad => {
                sound = false;
                continue;
            }
        };
        for node in nodes {
            sound &= put(sources, &mut places, &name, node);
        }
    }
    sound.then_some(places)
}

/// Puts a node into a region; whether that was right.
fn put(
    sources: &mut Sources<'_>,
    places: &mut BTreeMap<NodeId, (String, super::sources::Place)>,
    region: &str,
    node: Item,
) -> bool {
    let Setting::Value(node, place) = sources.item(node, values::node_id) else {
        return false;
    };
    if let Some((other, _)) = places.get(&node) {
        let message = format!("the node {node} is listed already, in region {}", quoted(other));
        sources.problem(&place, message);
        return false;
    }
    places.insert(node, (region.to_owned(), place));
    true
}

fn region_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the region has no name".into());
    }
    values::label_text(text)
}

/// How regions weigh on whom the node talks to; `unplaced` when it has no region.
pub(super) fn cross_region(sources: &mut Sources<'_>, unplaced: bool) -> CrossRegion {
    let default = CrossRegion::default();
    let latency_aware = sources.in_file(LATENCY_AWARE, values::boolean);
    let prefer_local = sources.in_file(PREFER_LOCAL, values::boolean);
    let max = sources.in_file(LATENCY_MAX, |text| {
        values::duration(text, limits::CROSS_REGION_LATENCY_MIN, limits::CROSS_REGION_LATENCY_MAX)
    });
    if unplaced {
        let message =
            "it does nothing on a node without a region: set node.region, or list the node in regions";
        let prefers = prefer_local.place().filter(|_| matches!(prefer_local, Setting::Value(true, _)));
        for place in prefers.into_iter().chain(max.place()) {
            sources.problem(&place, message);
        }
    }
    CrossRegion {
        latency_aware_routing: latency_aware.or_default_to(default.latency_aware_routing),
        prefer_local_region: prefer_local.or_default_to(default.prefer_local_region),
        max_cross_region_latency: max.into_value(),
    }
}
