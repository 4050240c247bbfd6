//! A membership on a bench: its packets are opened, its timers fire in virtual time, and everybody else is
//! made up, each answering as the test says.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one kind among many")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::BufMut;
use foca::{Header, Member, Message, State};

use super::super::packet::{self, Accusation, Form, Note, SwimCodec};
use super::*;

/// How long a packet takes each way.
const LATENCY: Duration = Duration::from_millis(1);

/// What helpers do when they are asked to reach somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Help {
    /// They reach it.
    Reaches,
    /// They do not, and say so after a while.
    Fails,
    /// They say nothing.
    Silent,
}

/// A packet that the membership sent, opened.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) to: NodeKey,
    pub(super) bytes: usize,
    pub(super) message: Message<Identity>,
    /// The sender's number of refutations, as the header says.
    pub(super) refutations: u16,
    pub(super) news: Vec<Member<Identity>>,
    pub(super) note: Note,
}

#[derive(Debug)]
enum Event {
    Timer(MemberTimer),
    Packet { from: u8, bytes: Vec<u8> },
}

/// The membership of node 1, and what is made up around it.
pub(super) struct Bench {
    pub(super) it: Membership,
    pub(super) now: Instant,
    events: BTreeMap<(Instant, u8, u64), Event>,
    numbers: u64,
    pub(super) sent: Vec<Sent>,
    /// All effects that are neither packets nor timers.
    pub(super) told: Vec<(Instant, MemberEffect)>,
    pub(super) silent: BTreeSet<u8>,
    pub(super) help: BTreeMap<u8, Help>,
    /// How often each of the others has refuted.
    pub(super) refuted: BTreeMap<u8, u16>,
}

pub(super) fn start_of(n: u64) -> Incarnation {
    Incarnation::first_of(n)
}

pub(super) fn identity(byte: u8) -> Identity {
    Identity::of(key(byte), start_of(1))
}

pub(super) fn news(byte: u8, refutations: u16, state: State) -> Member<Identity> {
    Member::new(identity(byte), refutations, state)
}

/// Somebody's accusation of a member at its first incarnation.
pub(super) fn accusation(of: u8, by: u8) -> Note {
    let rumour =
        Accusation { key: key(of), incarnation: start_of(1), refutations: 0, by: key(by), is_verdict: false };
    Note { rumours: vec![rumour], ..Note::default() }
}

/// A packet as another node makes it.
pub(super) fn packet_of(
    (from, refutations): (Identity, u16),
    to: Identity,
    message: Message<Identity>,
    news: &[Member<Identity>],
    note: &Note,
) -> Vec<u8> {
    let header = Header { src: from, src_incarnation: refutations, dst: to, message };
    let mut bytes = Vec::new();
    foca::Codec::encode_header(&mut SwimCodec, &header, &mut bytes).expect("fits");
    if !news.is_empty() {
        bytes.put_u16(news.len() as u16);
        for member in news {
            foca::Codec::encode_member(&mut SwimCodec, member, &mut bytes).expect("fits");
        }
    }
    packet::seal(Form::Full, note, &bytes)
}

impl Bench {
    /// Node 1 in a mesh of `size`, all of which answer.
    pub(super) fn of(size: u8) -> Self {
        Self::with(size, Overrides::default())
    }

    pub(super) fn with(size: u8, overrides: Overrides) -> Self {
        Self::seeded(size, overrides, 7)
    }

    pub(super) fn seeded(size: u8, overrides: Overrides, seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let mut bench = Self {
            it: Membership::new(key(1), start_of(1), Profile::Auto, overrides, rng),
            now: Instant::ZERO,
            events: BTreeMap::new(),
            numbers: 0,
            sent: Vec::new(),
            told: Vec::new(),
            silent: BTreeSet::new(),
            help: BTreeMap::new(),
            refuted: BTreeMap::new(),
        };
        let others: Vec<_> = (2..=size).map(|byte| alive(byte, start_of(1))).collect();
        bench.it.apply_entries(key(9), &others);
        (2..=size).for_each(|byte| bench.it.set_modern(key(byte), true));
        bench.drain();
        bench.told.clear();
        bench.sent.clear();
        bench
    }

    /// Lets time pass; timers fire and answers come in their order.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.it.set_now(self.now);
            match event {
                Event::Timer(timer) => self.it.handle_timer(timer, self.now.since(at)),
                Event::Packet { from, bytes } => {
                    self.it.handle_packet(key(from), &bytes).expect("a packet that was made here opens");
                }
            }
            self.drain();
        }
        self.now = end;
        self.it.set_now(end);
    }

    /// Lets time pass in which this node does nothing: its timers fire late, with the next run.
    pub(super) fn skip(&mut self, span: Duration) {
        self.now = self.now + span;
        self.it.set_now(self.now);
    }

    /// Lets time pass until `done`; how long that took.
    pub(super) fn until(&mut self, most: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let since = self.now;
        while !done(self) {
            assert!(self.now.since(since) < most, "not within {most:?}");
            self.run(Duration::from_millis(1));
        }
        self.now.since(since)
    }

    /// A packet comes from another node.
    pub(super) fn hear(&mut self, from: u8, message: Message<Identity>, news: &[Member<Identity>]) {
        self.hear_noted(from, message, news, &Note::default());
    }

    pub(super) fn hear_noted(
        &mut self,
        from: u8,
        message: Message<Identity>,
        news: &[Member<Identity>],
        note: &Note,
    ) {
        let refutations = self.refuted.get(&from).copied().unwrap_or(0);
        let own = *self.it.foca.identity();
        let bytes = packet_of((identity(from), refutations), own, message, news, note);
        self.it.handle_packet(key(from), &bytes).expect("it opens");
        self.drain();
    }

    pub(super) fn hear_gossip(&mut self, from: u8, news: &[Member<Identity>]) {
        self.hear(from, Message::Gossip, news);
    }

    /// Takes whatever the membership wants done, and lets the others answer its packets.
    pub(super) fn drain(&mut self) {
        while let Some(effect) = self.it.poll() {
            match effect {
                MemberEffect::Timer { after, timer } => {
                    let rank = timer.rank();
                    self.at(self.now + after, rank, Event::Timer(timer));
                }
                MemberEffect::Send { to, packet } => self.take(to, &packet),
                other => self.told.push((self.now, other)),
            }
        }
    }

    fn at(&mut self, at: Instant, rank: u8, event: Event) {
        self.numbers += 1;
        self.events.insert((at, rank, self.numbers), event);
    }

    fn take(&mut self, to: NodeKey, bytes: &[u8]) {
        let opened = packet::open(bytes, key(1), to).expect("what it sends opens");
        let sent = Sent {
            at: self.now,
            to,
            bytes: bytes.len(),
            message: opened.header.message.clone(),
            refutations: opened.header.src_incarnation,
            news: opened.members.iter().map(|(member, _)| member.clone()).collect(),
            note: opened.note.clone(),
        };
        self.answer(&sent, opened.header.src);
        self.sent.push(sent);
    }

    fn answer(&mut self, sent: &Sent, own: Identity) {
        let from = sent.to.0[0];
        if self.silent.contains(&from) {
            return;
        }
        let refuted = self.refuted.entry(from).or_default();
        if sent
            .news
            .iter()
            .any(|m| *m.id() == identity(from) && m.state() == State::Suspect && m.incarnation() >= *refuted)
        {
            *refuted += 1;
        }
        let who = (identity(from), *refuted);
        let (after, bytes) = match &sent.message {
            Message::Ping(number) if *number > 0 => {
                (LATENCY * 2, packet_of(who, own, Message::Ack(*number), &[], &Note::default()))
            }
            Message::Ping(_) if *refuted > 0 => {
                (LATENCY * 2, packet_of(who, own, Message::Ack(0), &[], &Note::default()))
            }
            Message::PingReq { target, probe_number } => {
                match self.help.get(&from).copied().unwrap_or(Help::Silent) {
                    Help::Reaches => {
                        let message = Message::ForwardedAck { origin: *target, probe_number: *probe_number };
                        (LATENCY * 4, packet_of(who, own, message, &[], &Note::default()))
                    }
                    Help::Fails => {
                        let note = Note { nacks: vec![*probe_number], ..Note::default() };
                        (LATENCY * 50, packet_of(who, own, Message::Gossip, &[], &note))
                    }
                    Help::Silent => return,
                }
            }
            Message::Ping(_)
            | Message::Ack(_)
            | Message::IndirectPing { .. }
            | Message::IndirectAck { .. }
            | Message::ForwardedAck { .. }
            | Message::Announce
            | Message::Feed
            | Message::Gossip
            | Message::Broadcast
            | Message::TurnUndead => return,
        };
        self.at(self.now + after, 0, Event::Packet { from, bytes });
    }

    pub(super) fn status(&self, byte: u8) -> Option<MemberStatus> {
        self.it.known(&key(byte)).map(|known| known.status)
    }

    /// Everybody that was sent a ping, in order; each ping with a number is one probe's.
    pub(super) fn pinged(&self) -> Vec<(Instant, u8)> {
        let pings = self.sent.iter().filter(|s| matches!(s.message, Message::Ping(number) if number > 0));
        pings.map(|sent| (sent.at, sent.to.0[0])).collect()
    }

    pub(super) fn found(&self, of: u8) -> Vec<&Evidence> {
        let found = self.told.iter().filter_map(|(_, effect)| {
            let MemberEffect::Found { key: found, evidence } = effect else {
                return None;
            };
            (*found == key(of)).then_some(evidence)
        });
        found.collect()
    }

    /// The statuses of a member that were told, in order.
    pub(super) fn changes(&self, of: u8) -> Vec<MemberStatus> {
        let changes = self.told.iter().filter_map(|(_, effect)| {
            let MemberEffect::Changed { key: changed, now, .. } = effect else {
                return None;
            };
            (*changed == key(of)).then_some(now.status)
        });
        changes.collect()
    }

    pub(super) fn health(&self) -> u8 {
        self.it.health()
    }

    /// How often something was told that is so.
    pub(super) fn count(&self, is: impl Fn(&MemberEffect) -> bool) -> usize {
        self.told.iter().filter(|(_, effect)| is(effect)).count()
    }
}
