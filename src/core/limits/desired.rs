//! Bounds of desired state: blueprints, their slots, and the orders that fill them.

use std::time::Duration;

/// Blueprints of a mesh. One more: `apply` is refused.
pub const BLUEPRINTS_MAX: usize = 1_000;
/// Instances of one blueprint. More: `apply` is refused.
pub const INSTANCES_MAX: u16 = 10_000;
/// Slots of all blueprints together. More: the blueprint that is one too many is refused.
pub const SLOTS_MAX: usize = 50_000;
/// Bytes of a blueprint as it is stored. More: `apply` is refused.
pub const BLUEPRINT_BYTES_MAX: usize = 16 << 10;
/// Bytes of a blueprint with its former versions: the oldest of them are forgotten.
pub const BLUEPRINT_RECORD_BYTES_MAX: usize = 60 << 10;
/// Former versions of a blueprint. One more: the oldest is forgotten.
pub const BLUEPRINT_VERSIONS_MAX: usize = 10;
/// Blueprints of one `plan` or `apply`. More: refused.
pub const BLUEPRINTS_PER_APPLY_MAX: usize = 100;
/// Nodes, labels or agents that one rule of a placement names. More: the blueprint is refused.
pub const PLACEMENT_RULES_MAX: usize = 32;
/// Bytes of the reason that an order gives. More: cut off.
pub const ORDER_WHY_BYTES_MAX: usize = 160;
/// Nodes that an order names as tried in vain. One more: the oldest is tried again.
pub const ORDER_TRIED_MAX: usize = 16;
/// Orders that are on their way to the disk at once. More: they are given when these are there.
pub const ORDERS_IN_FLIGHT_MAX: usize = 512;
/// Instances of one blueprint that are updated at once. More: the blueprint is refused.
pub const UPDATE_PARALLEL_MAX: u16 = 1_000;
/// The longest time for one step of an update. Longer: the blueprint is refused.
pub const UPDATE_DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Steps of a plan, and reasons why a slot is empty, that are told to a client. More: counted only.
pub const PLAN_STEPS_TOLD_MAX: usize = 2_000;
/// Nodes of which it is told why an agent is not there. More: counted only.
pub const REASONS_TOLD_MAX: usize = 8;
/// How often a message is given to another instance when the one that was chosen is not there any more. More: an error.
pub const REROUTES_MAX: u32 = 5;
/// How long the news is waited for that an instance has been ordered anew, when a message of it was refused because another one
/// runs. Longer: the sender is told that it is replaced.
pub const ORDER_NEWS_PATIENCE: Duration = Duration::from_secs(1);
/// Steps of a canary. More: the blueprint is refused.
pub const CANARY_STEPS_MAX: usize = 20;
/// So long the instances of the version before stay after a blue-green update has let the messages go to the others: who has
/// not heard of it sends to them.
pub const SWITCH_PAUSE: Duration = Duration::from_secs(3);
/// How often a node counts, and tells the others, what became of the messages of instances on trial.
pub const TALLY_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest time for which a canary's step is held: what its nodes have counted is heard of twice. Shorter: the blueprint is
/// refused.
pub const CANARY_HOLD_MIN: Duration = Duration::from_secs(10);
/// Instances on trial of which a node tells what became of their messages. More: of the first ones by name.
pub const TALLIES_MAX: usize = 1_000;
/// Instances of one blueprint that move at once by themselves to nodes that have fewer. More: the blueprint is refused.
pub const REBALANCE_MOVES_MAX: u16 = 512;
/// Priorities go from minus this to this. Beyond: the blueprint is refused.
pub const PRIORITY_MAX: u16 = 1_000;
/// What an instance weighs at most. More: the blueprint is refused.
pub const WEIGHT_MAX: u16 = 10_000;
