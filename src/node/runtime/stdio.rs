//! The conversation with a stdio agent: one task writes its stdin, one reads its stdout.
//!
//! Neither waits for the other. What the agent is told about its own sends and asks is bounded: a result
//! holds its slot until it is written, and refusals beyond a few are dropped and counted, so an agent that
//! floods and does not listen costs nobody but itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::agent::Agent;
use super::breaker::Fate;
use super::lines::{Line, Lines};
use super::mailbox::{Known, Mailbox};
use super::protocol::{self, BadLine, FromAgent, Outgoing};
use super::{Draft, Ground};
use crate::core::error::SendError;
use crate::core::limits;
use crate::core::model::{Answer, Guarantee, Performative};

/// What waits is written together, up to about so many bytes.
const WRITE_BYTES: usize = 64 << 10;
/// Characters of a line that is not understood, as the log shows it.
const BAD_LINE_CHARS: usize = 200;

/// What came of something that the agent sent or asked.
struct Outcome {
    /// The id that the agent chose.
    id: Option<String>,
    /// Its answer, or that it is stored, where that is promised.
    result: Result<Option<Answer>, SendError>,
    /// Given back when the agent has been told.
    _slot: OwnedSemaphorePermit,
}

/// Something that the agent sent and that was refused at once.
struct Notice {
    id: Option<String>,
    code: &'static str,
    reason: String,
}

/// What the reading task tells the writing one.
pub(super) struct ToWriter {
    outcomes: mpsc::Sender<Outcome>,
    notices: mpsc::Sender<Notice>,
}

/// What the writing task hears.
pub(super) struct FromReader {
    outcomes: mpsc::Receiver<Outcome>,
    notices: mpsc::Receiver<Notice>,
}

/// The way from the reading task to the writing one.
pub(super) fn back_channel() -> (ToWriter, FromReader) {
    let (outcomes_in, outcomes) = mpsc::channel(limits::AGENT_SENDS_IN_FLIGHT_MAX);
    let (notices_in, notices) = mpsc::channel(limits::AGENT_NOTICES_MAX);
    (ToWriter { outcomes: outcomes_in, notices: notices_in }, FromReader { outcomes, notices })
}

/// Writes messages to the agent until it closes its stdin.
pub(super) async fn write(agent: &Agent, mailbox: &Mailbox, mut stdin: pipe::Sender, mut back: FromReader) {
    let mut bytes = Vec::new();
    protocol::write_hello(&mut bytes, agent.name.as_str(), agent.node.as_str());
    loop {
        // Slots of what is in `bytes`: given back when it has been written.
        let mut told = Vec::new();
        while bytes.len() < WRITE_BYTES
            && let Ok(outcome) = back.outcomes.try_recv()
        {
            told.push(write_outcome(&mut bytes, outcome));
        }
        while bytes.len() < WRITE_BYTES
            && let Ok(Notice { id, code, reason }) = back.notices.try_recv()
        {
            protocol::write_error(&mut bytes, id.as_deref(), code, &reason);
        }
        let mut untracked = 0;
        while bytes.len() < WRITE_BYTES
            && let Some(taken) = mailbox.take(Instant::now())
        {
            protocol::write_message(&mut bytes, &taken.message, taken.wants_answer, milliseconds(taken.left));
            untracked += usize::from(!taken.wants_answer);
        }
        if bytes.is_empty() {
            tokio::select! {
                () = mailbox.arrived.notified() => {}
                Some(outcome) = back.outcomes.recv() => told.push(write_outcome(&mut bytes, outcome)),
                Some(notice) = back.notices.recv() => {
                    protocol::write_error(&mut bytes, notice.id.as_deref(), notice.code, &notice.reason);
                }
            }
        }
        if !bytes.is_empty() {
            if stdin.write_all(&bytes).await.is_err() {
                return;
            }
            mailbox.written(untracked, bytes.len());
            bytes.clear();
            bytes.shrink_to(WRITE_BYTES);
        }
        drop(told);
    }
}

fn write_outcome(bytes: &mut Vec<u8>, outcome: Outcome) -> OwnedSemaphorePermit {
    let Outcome { id, result, _slot: slot } = outcome;
    match (result, id) {
        (Ok(Some(answer)), id) => protocol::write_answer(bytes, id.as_deref().unwrap_or_default(), &answer),
        (Ok(None), id) => protocol::write_accepted(bytes, id.as_deref().unwrap_or_default()),
        (Err(error), id) => protocol::write_error(bytes, id.as_deref(), error.code(), &error.to_string()),
    }
    slot
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Reads what the agent says until it closes its stdout, or says what nobody should listen to: `Some` is what.
pub(super) async fn read(
    ground: Arc<Ground>,
    agent: Arc<Agent>,
    mailbox: &Mailbox,
    stdout: impl AsyncRead + Unpin,
    back: ToWriter,
    ready: &Notify,
) -> Option<String> {
    let slots = Arc::new(Semaphore::new(limits::AGENT_SENDS_IN_FLIGHT_MAX));
    let mut reader = Reader { ground, agent, mailbox, back, slots, sends: JoinSet::new(), dropped: 0 };
    let mut lines = Lines::new(stdout, limits::AGENT_LINE_BYTES_MAX);
    let (mut bad_lines, mut is_ready) = (0, false);
    loop {
        match lines.next().await {
            Ok(Some(Line::Whole(line))) => match protocol::parse(line) {
                Ok(said) => {
                    bad_lines = 0;
                    if !is_ready {
                        is_ready = true;
                        ready.notify_one();
                    }
                    reader.on_said(said);
                }
                Err(bad) => {
                    bad_lines += 1;
                    reader.on_bad_line(line, bad);
                    if bad_lines >= limits::AGENT_BAD_LINES_MAX {
                        return Some(format!(
                            "it wrote {bad_lines} lines in a row that are not of the protocol"
                        ));
                    }
                }
            },
            Ok(Some(Line::TooLong(_))) => {
                return Some(format!("it wrote a line of more than {} bytes", limits::AGENT_LINE_BYTES_MAX));
            }
            Ok(None) | Err(_) => return None,
        }
    }
}

struct Reader<'a> {
    ground: Arc<Ground>,
    agent: Arc<Agent>,
    mailbox: &'a Mailbox,
    back: ToWriter,
    slots: Arc<Semaphore>,
    /// Sends and asks under way; they end with the reader.
    sends: JoinSet<()>,
    /// Refusals that the agent was not told.
    dropped: u64,
}

impl Reader<'_> {
    fn on_said(&mut self, said: FromAgent) {
        match said {
            FromAgent::Ready => {}
            FromAgent::Log { level, text } => self.agent.log.push(&format!("{level}: {text}")),
            FromAgent::Reply { to, content_type, content } => {
                let from = self.agent.address.clone();
                let fate = match protocol::check_content(&content) {
                    Ok(()) => Fate::Answered(Answer { from, content_type, content }),
                    Err(error) => Fate::Declined(error),
                };
                self.on_fate(to, fate);
            }
            FromAgent::Failure { to, reason } => {
                self.on_fate(to, Fate::Declined(self.agent.failed(&reason)));
            }
            FromAgent::Send(outgoing) => self.on_outgoing(outgoing, false),
            FromAgent::Ask(_, outgoing) => self.on_outgoing(outgoing, true),
        }
    }

    fn on_fate(&self, id: uuid::Uuid, fate: Fate) {
        match self.agent.settle(self.mailbox, id, fate) {
            Ok(()) | Err(Known::WantsNone) => {}
            Err(Known::No) => {
                self.agent.log.push(&format!("protocol: nobody waits for an answer to {id} (any more)"));
            }
        }
    }

    fn on_outgoing(&mut self, outgoing: Outgoing, is_ask: bool) {
        while self.sends.try_join_next().is_some() {}
        let Outgoing {
            id,
            to,
            performative,
            conversation_id,
            in_reply_to,
            content_type,
            content,
            deadline_ms,
            guarantee,
            key,
        } = outgoing;
        if let Err(error) = protocol::check_content(&content).and_then(|()| self.agent.check_permit()) {
            return self.refuse(id, error.code(), error.to_string());
        }
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            let what = format!("the list of messages that {} has under way", self.agent.address);
            let error = SendError::Overloaded { what };
            return self.refuse(id, error.code(), error.to_string());
        };
        let Some(outlet) = self.ground.outlet.get() else {
            return self.refuse(id, "not_running", "the node does not carry messages yet".to_owned());
        };
        let default = if is_ask { Performative::Request } else { Performative::Inform };
        let draft = Draft {
            from: self.agent.name.clone(),
            to,
            performative: performative.unwrap_or(default),
            conversation_id,
            in_reply_to,
            content_type,
            content,
            deadline_ms,
            guarantee,
            key,
            hops: self.mailbox.hops_of_next(in_reply_to),
        };
        // Who gives a promised message no id does not want to know.
        let wants_news = guarantee == Guarantee::AtLeastOnce && id.is_some();
        let outcomes = self.back.outcomes.clone();
        // A full channel is impossible: every outcome in it holds one of as many slots.
        let tell = move |result| {
            let _ = outcomes.try_send(Outcome { id, result, _slot: slot });
        };
        if is_ask {
            let answer = outlet.ask(draft);
            self.sends.spawn(async move { tell(answer.await.map(Some)) });
        } else {
            let receipt = outlet.send(draft);
            self.sends.spawn(async move {
                match receipt.await {
                    Ok(()) if wants_news => tell(Ok(None)),
                    Ok(()) => {}
                    Err(error) => tell(Err(error)),
                }
            });
        }
    }

    fn on_bad_line(&mut self, line: &[u8], bad: BadLine) {
        let start = &line[..line.len().min(4 * BAD_LINE_CHARS)];
        let start: String = String::from_utf8_lossy(start).chars().take(BAD_LINE_CHARS).collect();
        self.agent.log.push(&format!("protocol: {}: {start}", bad.why));
        if bad.id.is_some() {
            self.refuse(bad.id, "bad_line", format!("the line was not understood: {}", bad.why));
        }
    }

    fn refuse(&mut self, id: Option<String>, code: &'static str, reason: String) {
        if self.back.notices.try_send(Notice { id, code, reason }).is_ok() {
            return;
        }
        self.dropped += 1;
        if self.dropped.is_power_of_two() {
            let dropped = self.dropped;
            self.agent.log.push(&format!(
                "protocol: it does not read its stdin: {dropped} refusals of what it sends were dropped"
            ));
        }
    }
}
