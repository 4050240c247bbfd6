//! What clients are told of the state, the roster and the mode.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::{Mesh, Pending, Requester};
use super::writes::{By, Durable, Put};
use crate::core::error::Refusal;
use crate::core::ids::NodeId;
use crate::core::limits;
use crate::core::model::{Epoch, Mode, Reads, Sibling, Writer, Writes, check_key};
use crate::core::register::{RegisterError, RosterChange, RosterSettings};
use crate::core::state::{Key, Policy, policy};
use crate::core::wire::{
    Ack, RequestBody, ResponseBody, SiblingValue, StateAnswer, StateRequest, StateStatus, StateValue,
};

impl Mesh {
    pub(in crate::core::mesh) fn on_state_request(&mut self, requester: Requester, request: StateRequest) {
        let full = self.pending.len() >= limits::STATE_WRITES_WAITING_MAX;
        match request {
            StateRequest::Put { .. } | StateRequest::PutBy { .. } | StateRequest::SetPolicy { .. }
                if full =>
            {
                let what = format!("the store's queue of {}", self.own);
                self.answer(requester, Err(Refusal::Overloaded { what }));
            }
            StateRequest::Put { key, value, context, ack } => {
                self.put(requester, Put { key, value, context, ack, agent: None });
            }
            StateRequest::PutBy { .. } if !matches!(requester, Requester::Local(_)) => {
                let why = "a node writes for its own agents only".to_owned();
                self.answer(requester, Err(Refusal::BadRequest { why }));
            }
            StateRequest::PutBy { agent, key, value } => {
                let put = Put { key, value, context: None, ack: Ack::Local, agent: Some(agent) };
                self.put(requester, put);
            }
            StateRequest::SetPolicy { prefix, policy } => {
                self.set_policy(requester, &prefix, policy.as_deref())
            }
            StateRequest::Reconcile => self.reconcile(requester),
            StateRequest::Mend => self.mend(requester),
            StateRequest::SetRoster { .. } | StateRequest::Evict { .. } if self.forwards(requester) => {
                self.forward(requester, request);
            }
            StateRequest::SetRoster { key, value, split_writes } => {
                self.set_roster(requester, &key, &value, split_writes);
            }
            StateRequest::Evict { node } => self.evict(requester, node),
            StateRequest::FinishRoster => self.propose(RosterChange::FinishPending, Some(requester)),
            StateRequest::ForceRoster { audit } => self.force_roster(requester, audit),
            StateRequest::Get { .. }
            | StateRequest::List { .. }
            | StateRequest::Ticket { .. }
            | StateRequest::Policies
            | StateRequest::Status
            | StateRequest::Roster => {
                let result = self.look_up(request).map(ResponseBody::State);
                self.answer(requester, result);
            }
        }
    }

    /// Whether another node holds the lease, which alone may change the roster, and can be asked on behalf of a
    /// client of this node.
    fn forwards(&self, requester: Requester) -> bool {
        matches!(requester, Requester::Local(_) | Requester::Own)
            && !self.leads()
            && self.leader().is_some_and(|leader| *leader != self.own)
    }

    fn forward(&mut self, requester: Requester, request: StateRequest) {
        if let Some(leader) = self.leader().cloned() {
            self.request(requester, leader, RequestBody::State(request));
        }
    }

    fn look_up(&self, request: StateRequest) -> Result<StateAnswer, Refusal> {
        match request {
            StateRequest::Get { key } => {
                self.may_read()?;
                check_key(&key).map_err(|why| Refusal::BadRequest { why: why.to_owned() })?;
                Ok(StateAnswer::Value(self.value_of(&key)))
            }
            StateRequest::List { prefix, after, limit } => {
                self.may_read()?;
                Ok(self.page(&prefix, after.as_deref(), limit as usize))
            }
            StateRequest::Ticket { ticket } => {
                self.shared.queue.ticket(&ticket).map(StateAnswer::Ticket).ok_or_else(|| {
                    Refusal::UnknownTicket { node: self.own.clone(), ticket: ticket.to_string() }
                })
            }
            StateRequest::Policies => {
                let policies = self.shared.state.policies();
                Ok(StateAnswer::Policies(
                    policies.map(|(p, policy)| (p.to_owned(), policy.to_string())).collect(),
                ))
            }
            StateRequest::Status => Ok(StateAnswer::Status(Box::new(self.state_status()))),
            StateRequest::Roster => Ok(StateAnswer::Roster(self.shared.register.roster().cloned())),
            StateRequest::Put { .. }
            | StateRequest::PutBy { .. }
            | StateRequest::SetPolicy { .. }
            | StateRequest::Reconcile
            | StateRequest::Mend
            | StateRequest::SetRoster { .. }
            | StateRequest::Evict { .. }
            | StateRequest::ForceRoster { .. }
            | StateRequest::FinishRoster => unreachable!("these change something"),
        }
    }

    fn may_read(&self) -> Result<(), Refusal> {
        match self.shared.partition.permissions().reads {
            Reads::Answer | Reads::AnswerWithAge => Ok(()),
            Reads::Refuse(barred) => Err(Refusal::Barred { node: self.own.clone(), why: barred.to_string() }),
        }
    }

    fn value_of(&self, key: &str) -> StateValue {
        let state = &self.shared.state;
        let reading = state.read(key);
        let policy = state.policy(key);
        let several = reading.values.len() > 1;
        let chosen = policy.resolve(&reading.values).and_then(sibling_value);
        let siblings =
            if several { reading.values.iter().filter_map(sibling_value).collect() } else { vec![] };
        StateValue {
            key: key.to_owned(),
            value: chosen,
            policy: policy.to_string(),
            siblings,
            context: reading.context,
            mode: self.shared.mode(),
            age_ms: self.age_ms(),
        }
    }

    fn age_ms(&self) -> Option<u64> {
        if self.shared.mode() == Mode::Healthy {
            return None;
        }
        // A node that never heard a majority is as old as its process.
        let age = self.shared.partition.age(self.now).unwrap_or_else(|| self.now.since(self.born));
        Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    }

    fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> StateAnswer {
        let limit = limit.clamp(1, limits::STATE_PAGE_MAX);
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut keys = self.shared.state.list(prefix, after).map(|(key, _)| Key::clone(key));
        for key in keys.by_ref() {
            let value = self.value_of(&key);
            let siblings: usize = value.siblings.iter().map(|s| s.value.len() + 128).sum();
            bytes += key.len() + value.value.as_ref().map_or(0, |v| v.value.len()) + siblings + 256;
            if !entries.is_empty() && (bytes > limits::STATE_PAGE_BYTES_MAX || entries.len() >= limit) {
                return StateAnswer::Page { entries, more: true };
            }
            entries.push(value);
        }
        StateAnswer::Page { entries, more: false }
    }

    fn state_status(&self) -> StateStatus {
        let state = &self.shared.state;
        StateStatus {
            partition: self.shared.partition.view(self.now),
            reason: self.reason(),
            lease_holder: self.leader().cloned(),
            keys: state.key_count() as u64,
            bytes: state.bytes() as u64,
            queued: self.shared.queued() as u64,
            actors: state.clock().len() as u64,
            gaps: state.clock().gaps() as u64,
            hash: format!("{:032x}", state.hash()),
            unsettled: state.unsettled() as u64,
            writes: self.shared.writes_made,
            refused: self.shared.refused,
        }
    }

    /// Why the node is in its mode: what it doubts, or what has led there.
    fn reason(&self) -> String {
        let doubts: Vec<_> = self.shared.partition.doubts().map(ToString::to_string).collect();
        if doubts.is_empty() { self.shared.reason.clone() } else { doubts.join("; ") }
    }

    fn set_policy(&mut self, requester: Requester, prefix: &str, policy: Option<&str>) {
        let key = format!("{}{prefix}", policy::POLICY_PREFIX);
        let known = policy.is_none_or(|policy| Policy::parse(policy).is_some());
        let own = prefix.starts_with("_mesh") || prefix.starts_with("_owned");
        if !known || own || check_key(&key).is_err() {
            let words = Policy::ALL.map(Policy::as_str).join(", ");
            let why =
                format!("a policy is one of {words}, for a prefix of users' keys that does not end with '/'");
            return self.answer(requester, Err(Refusal::BadRequest { why }));
        }
        if self.is_leaving() {
            return self.answer(requester, Err(self.leaving()));
        }
        if self.shared.partition.permissions().writes != Writes::Apply {
            let why = "this node is not among a majority, and policies are not queued: try again when it is"
                .to_owned();
            return self.answer(requester, Err(Refusal::Barred { node: self.own.clone(), why }));
        }
        if policy.is_none() && !self.shared.state.would_delete(&key) {
            return self.answer(requester, Ok(ResponseBody::State(StateAnswer::Absent)));
        }
        let value = policy.map(|policy| Bytes::copy_from_slice(policy.as_bytes()));
        let (hlc, writer) = (self.next_hlc(), Arc::new(Writer { node: self.own.clone(), slot: None }));
        match self.write(&key, value, None, hlc, &writer, vec![]) {
            Ok((dot, flush, changes)) => {
                let by = By::Client(requester);
                let durable = Durable::Write { dot, flush, ack: Ack::Local, marked: false, by };
                self.persist(changes, Pending::Shared(durable));
            }
            Err(error) => self.answer(requester, Err(self.refusal(error))),
        }
    }

    fn set_roster(&mut self, requester: Requester, key: &str, value: &str, split_writes: bool) {
        let Some(roster) = self.shared.register.roster() else {
            return self.answer(requester, Err(Refusal::Joining { node: self.own.clone() }));
        };
        let mut settings = RosterSettings::of(roster);
        let none = matches!(value, "auto" | "none" | "null");
        let bad = |why: String| Err(Refusal::BadRequest { why });
        let parsed = match key {
            "quorum_size" => match value.parse() {
                Ok(size) if size > 0 => {
                    settings.quorum_size = Some(size);
                    settings.tie_breaker = None;
                    Ok(())
                }
                Ok(_) | Err(_) if none => {
                    settings.quorum_size = None;
                    Ok(())
                }
                Ok(_) | Err(_) => bad(format!("quorum_size is a number of voters, or `auto`, not {value:?}")),
            },
            "tie_breaker" => match NodeId::new(value) {
                Ok(_) if none => {
                    settings.tie_breaker = None;
                    Ok(())
                }
                Ok(node) if roster.is_voter(&node) => {
                    settings.tie_breaker = Some(node);
                    settings.quorum_size = None;
                    Ok(())
                }
                Ok(_) | Err(_) => bad(format!(
                    "tie_breaker is the name of a voter, or `none`, not {value:?}: see `shoal cluster roster`"
                )),
            },
            "max_offline_seconds" => match value.parse() {
                Ok(seconds) if seconds > 0 => {
                    settings.max_offline = Duration::from_secs(seconds);
                    Ok(())
                }
                Ok(_) | Err(_) => bad(format!("max_offline_seconds is a number of seconds, not {value:?}")),
            },
            _ => bad(format!(
                "{key:?} is no setting of the roster: quorum_size, tie_breaker or max_offline_seconds"
            )),
        };
        // What was allowed for a quorum was allowed for that quorum.
        if key != "max_offline_seconds" {
            settings.split_writes = split_writes;
        }
        match parsed {
            Ok(()) => self.propose(RosterChange::Settings(settings), Some(requester)),
            Err(refusal) => self.answer(requester, Err(refusal)),
        }
    }

    fn evict(&mut self, requester: Requester, node: NodeId) {
        let known = self.shared.register.roster().is_some_and(|roster| roster.members.contains_key(&node));
        if !known {
            return self.answer(requester, Err(Refusal::UnknownNode { node }));
        }
        self.note_going(requester, &node);
        self.propose(RosterChange::evict(node), Some(requester));
    }

    /// Overrules a lost quorum: those that this node reaches go on alone.
    fn force_roster(&mut self, requester: Requester, audit: String) {
        // A voter that has forgotten what it promised, and finds nobody to ask, is healthy and grants nothing.
        if self.shared.mode() == Mode::Healthy && self.shared.register.is_sound() {
            let why = "this node is among a majority: there is nothing to overrule".to_owned();
            return self.answer(requester, Err(Refusal::BadRequest { why }));
        }
        if self.shared.register.roster().is_none() && self.joined {
            return self.begin_roster_anew(requester, &audit);
        }
        let reached = self.linked().iter().filter_map(|key| self.node_of(key)).collect::<BTreeSet<_>>();
        let mut keep = reached;
        keep.insert(self.own.clone());
        match self.shared.register.force(&keep, audit, self.now) {
            Ok(_) => self.shared.begun_for = Some(requester),
            Err(error) => self.answer_roster_change(requester, Err(error)),
        }
    }

    /// Nobody has the roster any more: this node was alone in its mesh, and its database had to be made anew.
    fn begin_roster_anew(&mut self, requester: Requester, audit: &str) {
        if self.links.cards().next().is_some() {
            let why =
                "this node knows of no roster, and of other nodes that may: start one of them".to_owned();
            return self.answer(requester, Err(Refusal::BadRequest { why }));
        }
        tracing::warn!(audit, "an operator has this node begin a roster anew");
        let (seat, settings) = self.founding();
        match self.shared.register.bootstrap(seat, settings, self.now) {
            Ok(()) => self.shared.begun_for = Some(requester),
            Err(error) => self.answer_roster_change(requester, Err(error)),
        }
    }

    /// The disk did not take what the register had to store.
    pub(in crate::core::mesh) fn refuse_new_chain(&mut self, reason: &str) {
        if let Some(requester) = self.shared.begun_for.take() {
            self.refuse_for_store(requester, reason);
        }
    }

    pub(super) fn answer_roster_change(
        &mut self,
        requester: Requester,
        result: Result<Epoch, RegisterError>,
    ) {
        let result = match result {
            Ok(_) => Ok(ResponseBody::State(StateAnswer::Roster(self.shared.register.roster().cloned()))),
            Err(RegisterError::StoreFailed) => Err(Refusal::StoreFailed {
                node: self.own.clone(),
                reason: RegisterError::StoreFailed.to_string(),
            }),
            Err(error) => Err(Refusal::BadRequest { why: error.to_string() }),
        };
        self.answer(requester, result);
    }
}

fn sibling_value(sibling: &Sibling) -> Option<SiblingValue> {
    Some(SiblingValue {
        value: sibling.value.clone()?,
        writer: (*sibling.writer).clone(),
        written_ms: sibling.hlc.unix_ms(),
        dot: sibling.dot,
    })
}
