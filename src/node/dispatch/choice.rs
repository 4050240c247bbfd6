//! Which instances of an agent a message may go to when its sender names only the agent.
//!
//! Worked out once for each published view, not for each message: of the instances that can take a message,
//!
//! 1. those in another region, beyond `max_cross_region_latency`, are left out;
//! 2. with `prefer_local_region`, if one of the rest is in the own region, only such stay;
//! 3. with `latency_aware_routing`, only those stay whose expected round trip is next to the lowest.
//!
//! An instance that is not on call (its blueprint's messages go to another version) is chosen only by its own name, where none that is
//! on call has its number. Instances whose breaker is open are passed over as long as another one stays. What stays shares the messages. An instance on the node itself goes before all of this, and a sender
//! that names the node gets that node. What is not known is not held against an instance in step 1: a node
//! that has just come is not refused, it is only not preferred.

use std::sync::Arc;
use std::time::Duration;

use super::{Instance, Way};
use crate::core::model::{AgentState, CrossRegion};

/// Round trips that differ by no more than this, or by a quarter, are next to each other.
const NEXT_TO: Duration = Duration::from_millis(5);

/// The instances of an agent, or of those that offer a capability, that share the messages, by index.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) chosen: Vec<usize>,
    /// The nearest that was left out for its distance; only where nothing else is left.
    pub(super) too_far: Option<usize>,
}

pub(super) fn is_usable(instance: &Instance) -> bool {
    instance.status.is_reachable() && matches!(instance.state, AgentState::Running)
}

pub(super) fn choose(own_region: &str, instances: &[Arc<Instance>], rule: &CrossRegion) -> Choice {
    let any_on_call = instances.iter().any(|instance| instance.on_call);
    let may_be = |instance: &Instance| instance.on_call || !any_on_call;
    let closed = choose_of(own_region, instances, rule, |instance| !instance.is_open && may_be(instance));
    if closed.chosen.is_empty() && instances.iter().any(|i| i.is_open && may_be(i) && is_usable(i)) {
        return choose_of(own_region, instances, rule, may_be);
    }
    closed
}

/// Of those that may be taken.
fn choose_of(
    own_region: &str,
    instances: &[Arc<Instance>],
    rule: &CrossRegion,
    may_be: impl Fn(&Instance) -> bool,
) -> Choice {
    let usable = || instances.iter().enumerate().filter(|(_, i)| is_usable(i) && may_be(i));
    let here: Vec<_> = usable().filter(|(_, i)| matches!(i.way, Way::Here)).map(|(index, _)| index).collect();
    if !here.is_empty() {
        return Choice { chosen: here, too_far: None };
    }
    let crosses = |i: &Instance| !own_region.is_empty() && i.region != own_region;
    let is_beyond = |i: &Instance| {
        crosses(i) && i.rtt.zip(rule.max_cross_region_latency).is_some_and(|(rtt, max)| rtt > max)
    };
    let mut chosen: Vec<_> = usable().filter(|(_, i)| !is_beyond(i)).collect();
    if chosen.is_empty() {
        let too_far = usable().min_by_key(|(_, i)| i.rtt).map(|(index, _)| index);
        return Choice { chosen: Vec::new(), too_far };
    }
    if rule.prefer_local_region && chosen.iter().any(|(_, i)| !crosses(i)) {
        chosen.retain(|(_, i)| !crosses(i));
    }
    if let Some(least) = chosen.iter().filter_map(|(_, i)| i.rtt).min()
        && rule.latency_aware_routing
    {
        let most = least + NEXT_TO.max(least / 4);
        chosen.retain(|(_, i)| i.rtt.is_some_and(|rtt| rtt <= most));
    }
    Choice { chosen: chosen.into_iter().map(|(index, _)| index).collect(), too_far: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::{MemberStatus, Offer};
    use crate::node::dispatch::routes;

    fn instance(node: &str, region: &str, rtt_ms: Option<u64>) -> Instance {
        Instance {
            region: region.to_owned(),
            rtt: rtt_ms.map(Duration::from_millis),
            ..routes::tests::instance("worker", node, Offer::default())
        }
    }

    fn rule(latency_aware_routing: bool, prefer_local_region: bool, max_ms: Option<u64>) -> CrossRegion {
        let max_cross_region_latency = max_ms.map(Duration::from_millis);
        CrossRegion { latency_aware_routing, prefer_local_region, max_cross_region_latency }
    }

    fn chosen(own: &str, instances: &[Instance], rule: &CrossRegion) -> Vec<usize> {
        let instances: Vec<_> = instances.iter().cloned().map(Arc::new).collect();
        choose(own, &instances, rule).chosen
    }

    #[test]
    fn an_instance_on_the_node_itself_goes_before_all_others() {
        let here = Instance { way: Way::Here, ..instance("own", "eu", None) };
        let all = [instance("a", "eu", Some(1)), here];
        assert_eq!(chosen("eu", &all, &CrossRegion::default()), [1]);
        let broken = Instance { state: AgentState::Draining, ..all[1].clone() };
        assert_eq!(chosen("eu", &[all[0].clone(), broken], &CrossRegion::default()), [0]);
    }

    #[test]
    fn the_own_region_goes_before_others_only_if_that_is_wanted() {
        let all = [instance("a", "us", Some(2)), instance("b", "eu", Some(20)), instance("c", "", Some(1))];
        assert_eq!(chosen("eu", &all, &rule(true, true, None)), [1]);
        assert_eq!(chosen("eu", &all, &rule(true, false, None)), [0, 2]);
        assert_eq!(chosen("eu", &all, &rule(false, false, None)), [0, 1, 2]);
        assert_eq!(chosen("", &all, &rule(false, true, None)), [0, 1, 2], "it is in none");
        assert_eq!(chosen("ap", &all, &rule(false, true, None)), [0, 1, 2], "it has none there");
    }

    #[test]
    fn the_nearest_share_and_who_is_next_to_them_and_the_unknown_waits() {
        let all = [
            instance("a", "", Some(100)),
            instance("b", "", Some(124)),
            instance("c", "", Some(126)),
            instance("d", "", None),
        ];
        assert_eq!(chosen("", &all, &rule(true, true, None)), [0, 1]);
        assert_eq!(chosen("", &all, &rule(false, true, None)), [0, 1, 2, 3]);
        let unknown = [instance("a", "", None), instance("b", "", None)];
        assert_eq!(chosen("", &unknown, &rule(true, true, None)), [0, 1]);
        let lan = [instance("a", "", Some(0)), instance("b", "", Some(4))];
        assert_eq!(chosen("", &lan, &rule(true, true, None)), [0, 1], "a local network is one place");
    }

    #[test]
    fn other_regions_beyond_the_configured_latency_are_never_chosen_and_the_nearest_is_named() {
        let near = rule(true, true, Some(100));
        let all =
            [instance("a", "us", Some(250)), instance("b", "ap", Some(120)), instance("c", "eu", Some(300))];
        assert_eq!(chosen("eu", &all, &near), [2], "the bound is for other regions only");
        assert_eq!(
            choose("eu", &all[..2].iter().cloned().map(Arc::new).collect::<Vec<_>>(), &near),
            Choice { chosen: vec![], too_far: Some(1) }
        );
        let unknown = [instance("a", "us", None)];
        assert_eq!(chosen("eu", &unknown, &near), [0], "not known is not too far");
        assert_eq!(chosen("", &all[..2], &near), [1], "without a region nothing crosses, and near is near");
    }

    #[test]
    fn one_whose_breaker_is_open_is_taken_only_where_no_other_is_left() {
        let near = rule(true, true, Some(100));
        let open = |instance: Instance| Instance { is_open: true, ..instance };
        let here = Instance { way: Way::Here, ..instance("own", "eu", None) };
        let all = [open(here.clone()), instance("a", "eu", Some(40)), open(instance("b", "eu", Some(1)))];
        assert_eq!(chosen("eu", &all, &near), [1], "also before the one on the node itself");
        assert_eq!(chosen("eu", &[open(here), all[2].clone()], &near), [0]);
        assert_eq!(chosen("eu", &[all[2].clone(), instance("c", "us", Some(200))], &near), [0]);
    }

    #[test]
    fn what_cannot_take_a_message_is_neither_chosen_nor_too_far() {
        let failed = Instance { status: MemberStatus::Failed, ..instance("a", "us", Some(500)) };
        assert_eq!(choose("eu", &[Arc::new(failed)], &rule(true, true, Some(100))), Choice::default());
    }
}
