//! What clients ask of this node and nodes ask of each other: forwarded to the node that should act,
//! executed there, answered once, or failed with the reason.

use std::time::Duration;

use super::{Mesh, Phase, Timer};
use crate::core::contract::{NodeAnswer, NodeQuery, Output, RuntimeAnswer, RuntimeQuery};
use crate::core::error::Refusal;
use crate::core::ids::{AgentName, NodeId, NodeKey, RequestId};
use crate::core::limits;
use crate::core::wire::{Control, RequestBody, ResponseBody};

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requester {
    /// A client of this node.
    Local(RequestId),
    /// Another node, under a number of its own.
    Remote(NodeKey, u64),
    /// This node itself, which wants to leave.
    Own,
}

/// A request that another node should answer.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) requester: Requester,
    node: NodeId,
    deadline: Duration,
}

impl Mesh {
    /// A client asks: act here, or pass it on.
    pub(super) fn on_request(&mut self, request: RequestId, node: NodeId, body: RequestBody) {
        self.request(Requester::Local(request), node, body);
    }

    pub(super) fn request(&mut self, requester: Requester, node: NodeId, body: RequestBody) {
        if node == self.own {
            return self.execute(requester, body);
        }
        let key = node.key();
        let status = self.status_of(&key);
        let Some(status) = status else {
            return self.answer(requester, Err(Refusal::UnknownNode { node }));
        };
        if !status.is_reachable() {
            let status = status.to_string();
            return self.answer(requester, Err(Refusal::NodeDown { node, status }));
        }
        if self.requests.len() >= limits::REQUESTS_IN_FLIGHT_MAX {
            let what = format!("the list of open requests of {}", self.own);
            return self.answer(requester, Err(Refusal::Overloaded { what }));
        }
        let deadline = match &body {
            RequestBody::Leave { drain_ms, .. } => {
                limits::LEAVE_DEADLINE + limits::REQUEST_DEADLINE + Duration::from_millis(*drain_ms)
            }
            RequestBody::RestartAgent { .. } => limits::RESTART_DEADLINE,
            RequestBody::Deploy { spec } => {
                limits::REQUEST_DEADLINE.max(spec.launch.timeout() + limits::AGENT_STOP_DEADLINE)
            }
            RequestBody::Ping
            | RequestBody::StopAgent { .. }
            | RequestBody::AgentInfo { .. }
            | RequestBody::AgentLogs { .. }
            | RequestBody::Facts
            | RequestBody::History { .. }
            | RequestBody::State(_)
            | RequestBody::Outbox(_)
            | RequestBody::Desired(_)
            | RequestBody::ModulePart { .. } => limits::REQUEST_DEADLINE,
        };
        let id = self.next_number();
        self.requests.insert(id, Open { requester, node, deadline });
        self.set_timer(deadline, Timer::Request(id));
        self.send_control(&key, Control::Request { id, body });
    }

    pub(super) fn on_remote_request(&mut self, key: NodeKey, node: &NodeId, id: u64, body: RequestBody) {
        tracing::debug!(%node, id, ?body, "request");
        self.execute(Requester::Remote(key, id), body);
    }

    fn execute(&mut self, requester: Requester, body: RequestBody) {
        let stopping = !matches!(self.phase, Phase::Running);
        match body {
            RequestBody::Ping => self.answer_done(requester),
            RequestBody::Deploy { .. } | RequestBody::RestartAgent { .. } | RequestBody::Leave { .. }
                if stopping =>
            {
                let status = "stopping".to_owned();
                self.answer(requester, Err(Refusal::NodeDown { node: self.own.clone(), status }));
            }
            RequestBody::Deploy { .. } | RequestBody::StopAgent { .. } | RequestBody::Leave { .. }
                if self.pending.len() >= limits::REQUESTS_IN_FLIGHT_MAX =>
            {
                let what = format!("the store's queue of {}", self.own);
                self.answer(requester, Err(Refusal::Overloaded { what }));
            }
            RequestBody::Deploy { spec } => self.deploy(spec, requester),
            RequestBody::StopAgent { agent } => self.undeploy(agent, requester),
            RequestBody::RestartAgent { agent, release } => self.restart_agent(&agent, release, requester),
            RequestBody::AgentInfo { agent } => self.ask_runtime(requester, agent, RuntimeQuery::Stats),
            RequestBody::AgentLogs { agent, lines } => {
                let lines = lines.min(limits::AGENT_LOG_LINES_MAX as u32);
                self.ask_runtime(requester, agent, RuntimeQuery::Logs { lines });
            }
            RequestBody::State(request) => self.on_state_request(requester, request),
            RequestBody::Outbox(request) => self.on_outbox_request(requester, request),
            RequestBody::Desired(request) => self.on_desired_request(requester, request),
            RequestBody::Facts => self.ask_node(requester, NodeQuery::Facts),
            RequestBody::History { query } => self.ask_node(requester, NodeQuery::History(query)),
            RequestBody::ModulePart { module, offset } => {
                self.ask_node(requester, NodeQuery::ModulePart { module, offset });
            }
            RequestBody::Leave { drain_ms, force } => {
                let drain = Duration::from_millis(drain_ms).min(limits::DEADLINE_MAX);
                self.leave_mesh(requester, drain, force);
            }
        }
    }

    fn ask_runtime(&mut self, requester: Requester, agent: AgentName, query: RuntimeQuery) {
        if self.supervision.spec(&agent).is_none() {
            let node = self.own.clone();
            return self.answer(requester, Err(Refusal::UnknownAgent { agent, node }));
        }
        if self.questions.len() >= limits::REQUESTS_IN_FLIGHT_MAX {
            let what = format!("the list of open requests of {}", self.own);
            return self.answer(requester, Err(Refusal::Overloaded { what }));
        }
        let question = self.next_number();
        self.questions.insert(question, (requester, agent.clone()));
        self.output(Output::AskRuntime { question, agent, query });
    }

    pub(super) fn on_runtime_answer(&mut self, question: u64, answer: RuntimeAnswer) {
        let Some((requester, agent)) = self.questions.remove(&question) else {
            return;
        };
        let result = match (answer, self.supervision.spec(&agent)) {
            (RuntimeAnswer::Lines(lines), _) => Ok(ResponseBody::Lines { lines: newest_that_fit(lines) }),
            (RuntimeAnswer::Stats(stats), Some(spec)) => {
                let care = self.supervision.care(&agent).cloned().map(Box::new);
                Ok(ResponseBody::AgentInfo { spec: spec.clone(), stats, care })
            }
            (RuntimeAnswer::Stats(_), None) => Err(Refusal::UnknownAgent { agent, node: self.own.clone() }),
        };
        self.answer(requester, result);
    }

    fn ask_node(&mut self, requester: Requester, query: NodeQuery) {
        if self.node_questions.len() >= limits::NODE_QUESTIONS_MAX {
            let what = format!("the list of questions about {}", self.own);
            return self.answer(requester, Err(Refusal::Overloaded { what }));
        }
        let question = self.next_number();
        self.node_questions.insert(question, requester);
        self.output(Output::AskNode { question, query });
    }

    pub(super) fn on_node_answer(&mut self, question: u64, answer: Result<NodeAnswer, String>) {
        let Some(requester) = self.node_questions.remove(&question) else {
            return;
        };
        let result = match answer {
            Ok(NodeAnswer::Facts(facts)) => Ok(ResponseBody::Facts(facts)),
            Ok(NodeAnswer::History(page)) => Ok(ResponseBody::History(page)),
            Ok(NodeAnswer::ModulePart(part)) => Ok(ResponseBody::ModulePart(part)),
            Err(reason) => Err(Refusal::NoAnswer { node: self.own.clone(), reason }),
        };
        self.answer(requester, result);
    }

    pub(super) fn on_response(&mut self, from: &NodeId, id: u64, result: Result<ResponseBody, Refusal>) {
        if self.requests.get(&id).is_none_or(|open| &open.node != from) {
            return;
        }
        if let Some(open) = self.requests.remove(&id) {
            self.answer(open.requester, result);
        }
    }

    pub(super) fn on_request_timeout(&mut self, id: u64) {
        if let Some(open) = self.requests.remove(&id) {
            let deadline_ms = u64::try_from(open.deadline.as_millis()).unwrap_or(u64::MAX);
            let refusal = Refusal::TimedOut { node: open.node, deadline_ms };
            self.answer(open.requester, Err(refusal));
        }
    }

    /// The request could not be sent.
    pub(super) fn fail_request(&mut self, id: u64, refusal: Refusal) {
        if let Some(open) = self.requests.remove(&id) {
            self.answer(open.requester, Err(refusal));
        }
    }

    pub(super) fn fail_requests_to(&mut self, node: &NodeId, refusal: &Refusal) {
        let lost: Vec<_> = self.requests.iter().filter(|(_, o)| &o.node == node).map(|(id, _)| *id).collect();
        for id in lost {
            if let Some(open) = self.requests.remove(&id) {
                self.answer(open.requester, Err(refusal.clone()));
            }
        }
    }

    pub(super) fn answer(&mut self, requester: Requester, result: Result<ResponseBody, Refusal>) {
        if let (Requester::Remote(key, _), Err(refusal)) = (requester, &result)
            && refusal.is_of_bad_input()
        {
            self.shared.refuse_request();
            let from = self.links.card(&key).map(|card| &card.node_id);
            tracing::warn!(?from, %refusal, "a request that a peer sent is refused");
        }
        match requester {
            Requester::Local(request) => self.output(Output::Reply { request, result }),
            Requester::Remote(key, id) => self.send_control(&key, Control::Response { id, result }),
            Requester::Own => self.on_withdrawn(result),
        }
    }

    pub(super) fn refuse_for_store(&mut self, requester: Requester, reason: &str) {
        let refusal = Refusal::StoreFailed { node: self.own.clone(), reason: reason.to_owned() };
        self.answer(requester, Err(refusal));
    }
}

/// The newest lines that fit into one frame.
fn newest_that_fit(lines: Vec<String>) -> Vec<String> {
    let mut bytes = 0;
    let fits = |line: &&String| {
        bytes += line.len() + 8;
        bytes <= limits::FRAME_BYTES_MAX / 2
    };
    let kept = lines.iter().rev().take_while(fits).count();
    lines[lines.len() - kept..].to_vec()
}
