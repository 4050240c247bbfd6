//! What clients want of desired state, on any node that is among a majority.

use std::collections::BTreeMap;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::super::shared::By;
use super::super::{Mesh, Requester};
use super::Applying;
use crate::core::error::Refusal;
use crate::core::ids::{AgentName, NodeId};
use crate::core::limits;
use crate::core::model::{
    AgentRecord, AgentState, BLUEPRINTS_PREFIX, Blueprint, BlueprintRecord, DRAINED_PREFIX, Dependencies,
    Instances, MemberStatus, Mode, Plan, Post, SlotSide, UpdateStrategy, Writes, cycle_through, path_text,
};
use crate::core::placement;
use crate::core::wire::{
    BlueprintChange, BlueprintDetail, BlueprintStatus, Changes, DesiredAnswer, DesiredRequest, Planned,
    RequestBody, ResponseBody, SlotStatus, encode_value,
};

pub(super) type Answer = Result<DesiredAnswer, Refusal>;

/// Blueprints that are to be written, by name.
type Rewritten = BTreeMap<AgentName, BlueprintRecord>;

impl Mesh {
    pub(in crate::core::mesh) fn on_desired_request(
        &mut self,
        requester: Requester,
        request: DesiredRequest,
    ) {
        if self.passes_on(requester, &request) {
            return;
        }
        if request.changes_something() && self.is_changing() {
            if self.desired.changes.len() >= limits::REQUESTS_IN_FLIGHT_MAX {
                let what = format!("the list of changes of {}", self.own);
                return self.answer(requester, Err(Refusal::Overloaded { what }));
            }
            return self.desired.changes.push_back((requester, request));
        }
        self.execute_desired(requester, request);
    }

    /// Whether a change is on its way to the disk.
    fn is_changing(&self) -> bool {
        !self.desired.applying.is_empty()
            || self.desired.leading.as_ref().is_some_and(|leading| !leading.is_at_rest())
    }

    /// Makes the changes that have waited for one that is stored now.
    pub(super) fn change_on(&mut self) {
        while !self.is_changing()
            && let Some((requester, request)) = self.desired.changes.pop_front()
        {
            self.execute_desired(requester, request);
        }
    }

    fn execute_desired(&mut self, requester: Requester, request: DesiredRequest) {
        let made = match request {
            DesiredRequest::Blueprints => Ok(self.blueprint_list()),
            DesiredRequest::Blueprint { name } => self.blueprint_detail(&name),
            DesiredRequest::Rollout { name } => self.rollout(&name),
            DesiredRequest::Plan(changes) => {
                self.plan_of(&changes).map(|(planned, _)| planned_answer(planned))
            }
            DesiredRequest::Apply { changes, plan_id } => {
                return self.apply(requester, &changes, plan_id.as_deref());
            }
            DesiredRequest::Scale { name, instances } => return self.scale(requester, &name, instances),
            DesiredRequest::RollBack { name, version } => return self.roll_back(requester, &name, version),
            DesiredRequest::Pause { name, paused } => return self.pause(requester, &name, paused),
            DesiredRequest::Drain { node, drained } => return self.drain(requester, &node, drained),
            DesiredRequest::Rebalance { moves_max, dry_run } => self.rebalance(moves_max, dry_run),
        };
        self.answer(requester, made.map(ResponseBody::Desired));
    }

    /// Only the holder of the lease gives orders, and only it knows for how long what runs has run.
    fn passes_on(&mut self, requester: Requester, request: &DesiredRequest) -> bool {
        let is_its_own = matches!(
            request,
            DesiredRequest::Rebalance { .. }
                | DesiredRequest::Plan(_)
                | DesiredRequest::Rollout { .. }
                | DesiredRequest::Apply { plan_id: Some(_), .. }
        );
        let is_of_client = matches!(requester, Requester::Local(_) | Requester::Own);
        let holder = self.leader().filter(|holder| **holder != self.own).cloned();
        match holder {
            Some(holder) if is_its_own && is_of_client && self.desired.leading.is_none() => {
                self.request(requester, holder, RequestBody::Desired(request.clone()));
                true
            }
            Some(_) | None => false,
        }
    }

    fn may_change(&self) -> Result<(), Refusal> {
        if self.is_leaving() {
            return Err(self.leaving());
        }
        if self.shared.mode() != Mode::Healthy || self.shared.writes() != Writes::Apply {
            let why =
                "this node is not among a majority, and what should run is not queued: try again when it is";
            return Err(Refusal::Barred { node: self.own.clone(), why: why.to_owned() });
        }
        Ok(())
    }

    /// What would be done, and the records that would be written for it.
    fn plan_of(&mut self, changes: &Changes) -> Result<(Planned, Rewritten), Refusal> {
        let rewritten = self.rewritten(changes)?;
        let change = |(name, record): (&AgentName, &BlueprintRecord)| BlueprintChange {
            name: name.clone(),
            from: self.desired.blueprints.get(name).filter(|r| !r.removed).map(|r| r.current.number),
            to: (!record.removed).then_some(record.current.number),
        };
        let blueprints: Vec<_> = rewritten.iter().map(change).collect();
        let mut after = self.desired.blueprints.clone();
        for (name, record) in &rewritten {
            let mut record = record.clone();
            // All that it will come to, and not only the first instances. One that comes beside another comes as a whole.
            let update = &mut record.current.blueprint.update;
            (update.max_parallel, update.strategy) = (limits::UPDATE_PARALLEL_MAX, UpdateStrategy::Rolling);
            after.insert(name.clone(), record);
        }
        let scene = self.scene();
        let landscape = scene.landscape(&self.desired, &after);
        let mut plan = placement::plan(landscape);
        plan.steps.retain(|step| rewritten.contains_key(&step.slot.base()) || changes.is_empty());
        plan.unplaced.retain(|slot, _| rewritten.contains_key(&slot.base()) || changes.is_empty());
        Ok((planned(blueprints, plan), rewritten))
    }

    /// The records that change; those of blueprints that stay as they are, are not among them.
    fn rewritten(&self, changes: &Changes) -> Result<Rewritten, Refusal> {
        let bad = |why: String| Err(Refusal::BadRequest { why });
        let Changes { blueprints, remove } = changes;
        if blueprints.len() + remove.len() > limits::BLUEPRINTS_PER_APPLY_MAX {
            return bad(format!("at most {} blueprints at once", limits::BLUEPRINTS_PER_APPLY_MAX));
        }
        let mut rewritten = Rewritten::new();
        for blueprint in blueprints {
            let name = blueprint.name();
            if let Err(why) = blueprint.check().and_then(|()| self.check_name(blueprint)) {
                return bad(why);
            }
            if rewritten.contains_key(name) || remove.contains(name) {
                return bad(format!("blueprint {name} is named twice"));
            }
            if let Some(why) = self.changes_exclusiveness(blueprint) {
                return bad(why);
            }
            let next = match self.desired.blueprints.get(name) {
                Some(record) if record.wanted().is_some_and(|wanted| wanted.says_the_same_as(blueprint)) => {
                    continue;
                }
                Some(record) => record.followed_by(blueprint.clone(), "applied".to_owned(), false),
                None => BlueprintRecord::new(blueprint.clone(), "applied".to_owned()),
            };
            next.check_beside().map_err(|why| Refusal::BadRequest { why })?;
            rewritten.insert(name.clone(), next);
        }
        for name in remove {
            let record = self.known_blueprint(name)?;
            rewritten.insert(name.clone(), record.ended());
        }
        self.check_room(&rewritten)?;
        self.check_dependencies_of(&rewritten).map_err(|why| Refusal::BadRequest { why })?;
        Ok(rewritten)
    }

    /// What blueprints depend on is known, and does not depend on them in turn.
    fn check_dependencies_of(&self, rewritten: &Rewritten) -> Result<(), String> {
        let mut all = self.all_dependencies();
        for (name, record) in rewritten {
            let depends_on = record.wanted().map(|blueprint| blueprint.spec.launch.depends_on.clone());
            all.insert(name.clone(), depends_on.unwrap_or_default());
        }
        for (name, record) in rewritten.iter().filter(|(_, record)| !record.removed) {
            let depends_on = &record.current.blueprint.spec.launch.depends_on;
            if let Some(unknown) = depends_on.iter().find(|other| !all.contains_key(*other)) {
                return Err(format!(
                    "blueprint {name}: it depends on {unknown}, and neither a blueprint nor an agent of that name is known"
                ));
            }
            if let Some(path) = cycle_through(&all, name) {
                let path = path_text(&path);
                return Err(format!("blueprint {name}: those that depend on each other never start: {path}"));
            }
        }
        Ok(())
    }

    /// The dependencies of all blueprints that are wanted.
    pub(in crate::core::mesh) fn blueprint_dependencies(&self) -> Dependencies {
        let wanted =
            self.desired.blueprints.iter().filter_map(|(name, record)| Some((name, record.wanted()?)));
        wanted.map(|(name, blueprint)| (name.clone(), blueprint.spec.launch.depends_on.clone())).collect()
    }

    fn check_name(&self, blueprint: &Blueprint) -> Result<(), String> {
        let name = blueprint.name();
        let by_hand = self.registry.owners().find(|(_, owner)| owner.agents.contains_key(name));
        match by_hand {
            Some((node, _)) => Err(format!(
                "an agent {name} that is of no blueprint is on {node}: stop it first, or choose another name"
            )),
            None => Ok(()),
        }
    }

    /// An instance that needs no permit may run for long where it is not seen: beside it nothing is exclusive.
    fn changes_exclusiveness(&self, blueprint: &Blueprint) -> Option<String> {
        let name = blueprint.name();
        let former = self.desired.blueprints.get(name)?;
        let was = former.current.blueprint.spec.exclusive;
        if was == blueprint.spec.exclusive {
            return None;
        }
        let runs =
            |agents: &BTreeMap<AgentName, AgentRecord>| agents.keys().any(|agent| agent.base() == *name);
        let on = self.registry.owners().find(|(_, owner)| runs(&owner.agents)).map(|(node, _)| node);
        let (was, is) = if was { ("", "not ") } else { ("not ", "") };
        let is_there = |node: &&NodeId| self.status_of(&node.key()).is_some_and(MemberStatus::is_reachable);
        let members = self.shared.roster().into_iter().flat_map(|roster| roster.members.keys());
        let away = members.into_iter().find(|node| !is_there(node));
        match (former.removed, on) {
            (true, None) => away.map(|node| {
                format!("blueprint {name} was {was}exclusive, and {node}, which may run an instance, cannot be asked")
            }),
            (true, Some(on)) => Some(format!(
                "blueprint {name} was {was}exclusive, and {on} has told of an instance: it can be {is}exclusive once all have ended"
            )),
            (false, _) => Some(format!(
                "blueprint {name} is {was}exclusive: remove it before it is applied as {is}exclusive"
            )),
        }
    }

    /// Whether there is room for what is to be written.
    fn check_room(&self, rewritten: &Rewritten) -> Result<(), Refusal> {
        let unchanged = self.desired.blueprints.iter().filter(|(name, _)| !rewritten.contains_key(*name));
        let all = unchanged.chain(rewritten);
        let nodes = self.shared.roster().map_or(1, |roster| roster.members.len());
        let (mut count, mut slots) = (0, 0);
        for (_, record) in all {
            count += usize::from(!record.removed);
            let sides = if record.current.beside.is_some() { 2 } else { 1 };
            slots += match record.wanted().map(|blueprint| blueprint.instances) {
                Some(Instances::Count(count)) => usize::from(count) * sides,
                Some(Instances::PerNode) => nodes,
                None => 0,
            };
        }
        if count > limits::BLUEPRINTS_MAX {
            return Err(Refusal::Overloaded {
                what: format!("the list of {} blueprints", limits::BLUEPRINTS_MAX),
            });
        }
        if slots > limits::SLOTS_MAX {
            let what = format!(
                "the mesh's table of {} instances, of which {slots} would be wanted,",
                limits::SLOTS_MAX
            );
            return Err(Refusal::Overloaded { what });
        }
        Ok(())
    }

    pub(super) fn known_blueprint(&self, name: &AgentName) -> Result<&BlueprintRecord, Refusal> {
        let known = self.desired.blueprints.get(name).filter(|record| !record.removed);
        known.ok_or_else(|| Refusal::BadRequest {
            why: format!("there is no blueprint {name}: see `shoal blueprint list`"),
        })
    }

    fn apply(&mut self, requester: Requester, changes: &Changes, plan_id: Option<&str>) {
        let made = self.may_change().and_then(|()| self.plan_of(changes));
        let (planned, rewritten) = match made {
            Ok(made) => made,
            Err(refusal) => return self.answer(requester, Err(refusal)),
        };
        if let Some(expected) = plan_id.filter(|expected| *expected != planned.id) {
            let why = format!(
                "the mesh has moved on since plan {expected} was made: applied now, it would be plan {}; look at it again",
                planned.id
            );
            return self.answer(requester, Err(Refusal::BadRequest { why }));
        }
        let write = |(name, record)| (format!("{BLUEPRINTS_PREFIX}{name}"), encode_value(&record));
        self.write_all(requester, planned, rewritten.into_iter().map(write).collect());
    }

    fn scale(&mut self, requester: Requester, name: &AgentName, instances: Instances) {
        self.change_one(requester, name, |record| {
            let blueprint = Blueprint { instances, ..record.current.blueprint.clone() };
            let why = match instances {
                Instances::Count(count) => format!("scaled to {count}"),
                Instances::PerNode => "scaled to one on each node".to_owned(),
            };
            if blueprint == record.current.blueprint {
                return Ok(None);
            }
            let next = record.followed_by(blueprint, why, record.current.goes_back);
            Ok(Some(BlueprintRecord { paused: record.paused, ..next }))
        });
    }

    fn roll_back(&mut self, requester: Requester, name: &AgentName, version: Option<u64>) {
        self.change_one(requester, name, |record| {
            let former = match version {
                Some(number) => record.former.iter().find(|former| former.number == number),
                None => record.previous(),
            };
            let Some(former) = former else {
                let known: Vec<_> = record.former.iter().map(|former| former.number.to_string()).collect();
                return Err(match (version, known.is_empty()) {
                    (_, true) => format!("blueprint {name} has no former version"),
                    (Some(number), false) => {
                        format!("version {number} of {name} is not kept: there are {}", known.join(", "))
                    }
                    (None, false) => unreachable!("the first of them is there"),
                });
            };
            let why = format!("rolled back to version {}", former.number);
            Ok(Some(record.followed_by(former.blueprint.clone(), why, true)))
        });
    }

    fn pause(&mut self, requester: Requester, name: &AgentName, paused: bool) {
        self.change_one(requester, name, |record| {
            Ok((record.paused != paused).then(|| BlueprintRecord { paused, ..record.clone() }))
        });
    }

    /// Writes a blueprint anew; `None`: it is already so.
    fn change_one(
        &mut self,
        requester: Requester,
        name: &AgentName,
        next: impl FnOnce(&BlueprintRecord) -> Result<Option<BlueprintRecord>, String>,
    ) {
        let made = self.may_change().and_then(|()| {
            let record = self.known_blueprint(name)?;
            let next = next(record).map_err(|why| Refusal::BadRequest { why })?;
            if let Some(next) = &next {
                let checked = next.current.blueprint.check().and_then(|()| next.check_beside());
                checked.map_err(|why| Refusal::BadRequest { why })?;
                self.check_room(&BTreeMap::from([(name.clone(), next.clone())]))?;
            }
            let to = next.as_ref().unwrap_or(record).current.number;
            let change =
                BlueprintChange { name: name.clone(), from: Some(record.current.number), to: Some(to) };
            Ok((change, next))
        });
        match made {
            Ok((change, next)) => {
                let key = format!("{BLUEPRINTS_PREFIX}{name}");
                let writes = next.map(|next| (key, encode_value(&next))).into_iter().collect();
                self.write_all(requester, planned(vec![change], Plan::default()), writes);
            }
            Err(refusal) => self.answer(requester, Err(refusal)),
        }
    }

    fn drain(&mut self, requester: Requester, node: &NodeId, drained: bool) {
        if let Err(refusal) = self.may_change() {
            return self.answer(requester, Err(refusal));
        }
        if drained && self.status_of(&node.key()).is_none() {
            return self.answer(requester, Err(Refusal::UnknownNode { node: node.clone() }));
        }
        let key = format!("{DRAINED_PREFIX}{node}");
        let is_so = self.desired.drained.contains(node) == drained;
        let value = drained.then(|| Bytes::from_static(b"drained"));
        let writes = if is_so { vec![] } else { vec![(key, value)] };
        self.write_some(requester, planned(vec![], Plan::default()), writes);
    }

    fn rebalance(&mut self, moves_max: u32, dry_run: bool) -> Answer {
        self.may_change()?;
        let busy = !self.gives_orders();
        if busy && !dry_run {
            let why = "orders are being given just now, or nobody holds the lease: try again in a moment";
            return Err(Refusal::NoAnswer { node: self.own.clone(), reason: why.to_owned() });
        }
        let scene = self.scene();
        let landscape = scene.landscape(&self.desired, &self.desired.blueprints);
        let moves_max = usize::try_from(moves_max).unwrap_or(usize::MAX).min(limits::ORDERS_IN_FLIGHT_MAX);
        let plan = placement::rebalance(landscape, moves_max);
        if let Err(wrong) = placement::check(landscape, &plan) {
            tracing::error!(wrong, "moves are not made, because they break a rule");
            return Err(Refusal::NoAnswer { node: self.own.clone(), reason: wrong });
        }
        if !dry_run {
            plan.steps.iter().cloned().all(|step| self.give_order(step));
        }
        Ok(planned_answer(planned(vec![], plan)))
    }

    fn write_all(&mut self, requester: Requester, answer: Planned, writes: Vec<(String, Bytes)>) {
        let writes = writes.into_iter().map(|(key, value)| (key, Some(value))).collect();
        self.write_some(requester, answer, writes);
    }

    /// Writes these and answers when all of them are stored.
    fn write_some(&mut self, requester: Requester, answer: Planned, writes: Vec<(String, Option<Bytes>)>) {
        if writes.is_empty() {
            return self.answer(requester, Ok(ResponseBody::Desired(planned_answer(answer))));
        }
        if self.desired.applying.len() >= limits::REQUESTS_IN_FLIGHT_MAX || !self.takes_rows() {
            let what = format!("the store's queue of {}", self.own);
            return self.answer(requester, Err(Refusal::Overloaded { what }));
        }
        let number = self.next_number();
        self.desired.applying.insert(number, Applying { requester, left: writes.len(), answer });
        for (key, value) in writes {
            if !self.write_desired(&key, value, By::Applying(number)) {
                return self.on_applying_stored(number, false);
            }
        }
    }

    /// One of the writes of a client is stored, or could not be.
    pub(in crate::core::mesh) fn on_applying_stored(&mut self, number: u64, is_stored: bool) {
        let Some(applying) = self.desired.applying.get_mut(&number) else {
            return;
        };
        applying.left -= 1;
        if is_stored && applying.left > 0 {
            return;
        }
        let Some(Applying { requester, answer, .. }) = self.desired.applying.remove(&number) else {
            return;
        };
        match is_stored {
            true => self.answer(requester, Ok(ResponseBody::Desired(planned_answer(answer)))),
            false => {
                let node = self.own.clone();
                let reason =
                    "the disk took nothing more; of several blueprints some may be stored: look with \
                              `shoal blueprint list`"
                        .to_owned();
                self.answer(requester, Err(Refusal::NoAnswer { node, reason }));
            }
        }
        self.change_on();
    }

    fn blueprint_list(&mut self) -> DesiredAnswer {
        let plan = self.plan_now();
        let wanted = self.desired.blueprints.values().filter(|record| !record.removed);
        DesiredAnswer::Blueprints(wanted.map(|record| self.status_of_blueprint(record, &plan)).collect())
    }

    fn blueprint_detail(&mut self, name: &AgentName) -> Answer {
        let plan = self.plan_now();
        let record = self.known_blueprint(name)?;
        let status = self.status_of_blueprint(record, &plan);
        let slots = self.posts_of(name).take(limits::PLAN_STEPS_TOLD_MAX);
        let slots = slots.map(|(slot, order, post)| {
            let told = self.told_of(slot, post).map(|(told, _)| told);
            let reason = told.and_then(AgentRecord::reason).map(|reason| format!("; {reason}"));
            SlotStatus {
                slot: slot.clone(),
                node: post.node.clone(),
                version: record.version_of(post.digest).map(|version| version.number),
                state: told.map(|told| told.state.as_str().to_owned()),
                epoch: order.epoch.to_string(),
                why: order.why.clone() + &reason.unwrap_or_default(),
            }
        });
        let detail = BlueprintDetail { status, slots: slots.collect(), record: record.clone() };
        Ok(DesiredAnswer::Blueprint(Box::new(detail)))
    }

    /// What the holder of the lease would order now, as far as this node sees it.
    fn plan_now(&mut self) -> Plan {
        let scene = self.scene();
        placement::plan(scene.landscape(&self.desired, &self.desired.blueprints))
    }

    fn posts_of(
        &self,
        name: &AgentName,
    ) -> impl Iterator<Item = (&AgentName, &crate::core::model::Order, &Post)> {
        let base = name.clone();
        let orders = self.desired.orders.range(name.of_slot(0)..);
        let of_it = orders.take_while(move |(slot, _)| slot.base() == base);
        of_it.filter_map(|(slot, order)| Some((slot, order, order.post.as_ref()?)))
    }

    /// How many instances there should be.
    fn wanted_of(&self, blueprint: &Blueprint) -> u32 {
        match blueprint.instances {
            Instances::Count(count) => u32::from(count),
            Instances::PerNode => {
                let hosts = self.hosts();
                hosts.values().filter(|host| placement::takes_one(blueprint, host)).count() as u32
            }
        }
    }

    /// What the node of a slot tells of it, and whether that is by the order that holds.
    fn told_of(&self, slot: &AgentName, post: &Post) -> Option<(&AgentRecord, bool)> {
        if !self.status_of(&post.node.key())?.is_reachable() {
            return None;
        }
        let record = self.registry.owner(&post.node)?.agents.get(slot)?;
        let by_it =
            record.order.is_some() && record.order == self.desired.orders.get(slot).map(|order| order.epoch);
        Some((record, by_it))
    }

    pub(super) fn status_of_blueprint(&self, record: &BlueprintRecord, plan: &Plan) -> BlueprintStatus {
        let name = record.current.blueprint.name();
        let digest = record.current.blueprint.digest();
        let (mut placed, mut running, mut updated) = (0, 0, 0);
        for (slot, _, post) in self.posts_of(name) {
            placed += u32::from(SlotSide::of(slot) == record.current.side);
            if let Some((AgentRecord { state: AgentState::Running, .. }, by_it)) = self.told_of(slot, post) {
                let takes_messages = record.is_on_call(slot);
                running += u32::from(takes_messages);
                updated += u32::from(takes_messages && by_it && post.digest == digest);
            }
        }
        let unplaced = plan.unplaced.range(name.of_slot(0)..).take_while(|(slot, _)| slot.base() == *name);
        BlueprintStatus {
            name: name.clone(),
            version: record.current.number,
            why: record.current.why.clone(),
            instances: record.current.blueprint.instances,
            wanted: self.wanted_of(&record.current.blueprint),
            placed,
            running,
            updated,
            paused: record.paused,
            unplaced: unplaced
                .take(limits::REASONS_TOLD_MAX)
                .map(|(slot, why)| (slot.clone(), why.clone()))
                .collect(),
        }
    }
}

impl DesiredRequest {
    fn changes_something(&self) -> bool {
        match self {
            Self::Apply { .. }
            | Self::Scale { .. }
            | Self::RollBack { .. }
            | Self::Pause { .. }
            | Self::Drain { .. } => true,
            Self::Plan(_)
            | Self::Blueprints
            | Self::Blueprint { .. }
            | Self::Rollout { .. }
            | Self::Rebalance { .. } => false,
        }
    }
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.blueprints.is_empty() && self.remove.is_empty()
    }
}

fn planned(blueprints: Vec<BlueprintChange>, mut plan: Plan) -> Planned {
    let encoded = encode_value(&(&blueprints, &plan));
    let digest = Sha256::digest(&encoded);
    let id = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let steps = plan.steps.len() as u32;
    plan.steps.truncate(limits::PLAN_STEPS_TOLD_MAX);
    while plan.unplaced.len() > limits::PLAN_STEPS_TOLD_MAX {
        plan.unplaced.pop_last();
    }
    Planned { id, blueprints, plan, steps }
}

fn planned_answer(planned: Planned) -> DesiredAnswer {
    DesiredAnswer::Planned(Box::new(planned))
}
