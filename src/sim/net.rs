//! The network: paths that lose, delay, duplicate and cut, and the connections over them.
//!
//! A connection behaves as QUIC's do. Its handshake takes two round trips, each flight lost and sent
//! again like any packet. Datagrams may be lost, doubled and overtaken; frames arrive in order, late
//! when packets were lost. Whoever hears nothing for [`limits::LINK_IDLE_MAX`] closes silently; a
//! process that knows nothing of a connection answers its packets with a reset.
//!
//! Bytes are those of packets and frames, without the headers of IP, UDP and QUIC.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use super::paths::transit;
use super::world::{Event, World};
use crate::core::contract::{DialTarget, Input, LinkEnd};
use crate::core::error::Refused;
use crate::core::ids::LinkId;
use crate::core::limits;
use crate::core::model::Hello;
use crate::core::time::Instant;
use crate::core::wire::{self, Control, FrameKind};

/// How packets fare.
#[derive(Debug, Clone)]
pub struct Network {
    /// One way, at least; between regions, [`Config::regions`](super::Config::regions) has its own.
    pub latency: Duration,
    /// Up to so much more, evenly spread.
    pub jitter: Duration,
    /// The share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// The share of datagrams that arrive twice.
    pub duplicate: f64,
    /// The share of datagrams that take up to ten times as long, and are overtaken.
    pub reorder: f64,
    /// Whether dialling a dead process on a live host fails at once; otherwise as from a host that vanished.
    pub dead_port_refuses: bool,
}

impl Default for Network {
    /// One local network.
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(400),
            jitter: Duration::from_micros(200),
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            dead_port_refuses: false,
        }
    }
}

/// First wait before a handshake's flight is sent again; doubles (RFC 9002, 6.2.2: twice an assumed
/// round trip of 333 ms, and some).
const HANDSHAKE_PTO: Duration = Duration::from_secs(1);
/// Bytes of one packet, for the odds of losing a part of a long frame.
const PACKET_BYTES: usize = 1200;

/// What travels in order on a connection.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Frame(Bytes),
    /// The sender's process has ended in good order; the last thing it says.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndState {
    /// The dialler has not heard the other side's hello yet.
    Opening,
    Open,
    Closed(Option<Refused>),
}

/// One side of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub(super) machine: usize,
    pub(super) run: u64,
    address: String,
    link: LinkId,
    state: EndState,
    heard: Instant,
    sent: u64,
    expected: u64,
    waiting: BTreeMap<u64, Item>,
}

/// A connection; side 0 dialled.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ends: [End; 2],
}

/// A handshake under way.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) machine: usize,
    pub(super) run: u64,
    target: DialTarget,
    address: String,
    left: VecDeque<String>,
    server: Option<(usize, u64)>,
    connection: Option<u64>,
    hello: Option<Hello>,
}

impl World {
    pub(super) fn dial(&mut self, machine: usize, target: DialTarget, addresses: Vec<String>) {
        let mut left = VecDeque::from(addresses);
        let Some(address) = left.pop_front() else {
            let reason = "it has no address".to_owned();
            return self.input_soon(machine, Input::DialFailed { target, reason, refused: None });
        };
        let Some(run) = self.run_of(machine) else {
            return;
        };
        let dial = self.next_number();
        let under_way =
            Dial { machine, run, target, address, left, server: None, connection: None, hello: None };
        self.dials.insert(dial, under_way);
        self.after(limits::HANDSHAKE_DEADLINE, Event::DialDeadline { dial });
        self.send_flight(dial, 0, 0);
    }

    /// Sends one of the four flights: even ones from the dialler, odd ones to it.
    pub(super) fn send_flight(&mut self, id: u64, flight: u8, attempt: u32) {
        let Some(dial) = self.dials.get(&id) else {
            return;
        };
        let peer = dial.server.map(|(machine, _)| machine).or_else(|| self.listener(&dial.address));
        let Some(peer) = peer else {
            return;
        };
        let path = if flight.is_multiple_of(2) { (dial.machine, peer) } else { (peer, dial.machine) };
        self.count(path.0, PACKET_BYTES);
        match transit(&self.config.network, &self.paths, &mut self.rng, path, 1) {
            Some(after) => self.after(after, Event::Flight { dial: id, flight }),
            None if attempt < 4 => {
                let event = Event::FlightAgain { dial: id, flight, attempt: attempt + 1 };
                self.after(HANDSHAKE_PTO * 2_u32.pow(attempt), event);
            }
            None => {}
        }
    }

    pub(super) fn flight_receiver(&self, id: u64, flight: u8) -> Option<usize> {
        let dial = self.dials.get(&id)?;
        if !flight.is_multiple_of(2) {
            return Some(dial.machine);
        }
        dial.server.map(|(machine, _)| machine).or_else(|| self.listener(&dial.address))
    }

    pub(super) fn on_flight(&mut self, id: u64, flight: u8) {
        let Some(dial) = self.dials.get(&id) else {
            return;
        };
        let server_lives = dial.server.is_none_or(|(machine, run)| self.machines[machine].is_running(run));
        match flight {
            0 => self.on_first_flight(id),
            1 => {
                let (server, _) = dial.server.expect("the server sent this flight");
                if matches!(&dial.target, DialTarget::Node(node) if *node != self.machines[server].node) {
                    return self.dial_failed(id, "its certificate names another node", None);
                }
                self.send_flight(id, 2, 0);
            }
            2 if server_lives => self.on_client_hello(id),
            2 => {}
            _ => self.on_server_hello(id),
        }
    }

    fn on_first_flight(&mut self, id: u64) {
        let Some(dial) = self.dials.get_mut(&id) else {
            return;
        };
        let Some(server) = self.addresses.get(&dial.address).copied() else {
            return;
        };
        match self.machines[server].process.as_ref().map(|p| p.run) {
            Some(run) => {
                dial.server = Some((server, run));
                self.send_flight(id, 1, 0);
            }
            None if self.config.network.dead_port_refuses => {
                let path = (server, dial.machine);
                let back = transit(&self.config.network, &self.paths, &mut self.rng, path, 1);
                if let Some(after) = back {
                    self.after(after, Event::PortClosed { dial: id });
                }
            }
            None => {}
        }
    }

    /// The server has the dialler's hello: on its side the link is up.
    fn on_client_hello(&mut self, id: u64) {
        let Some(dial) = self.dials.get(&id) else {
            return;
        };
        let (client, client_run) = (dial.machine, dial.run);
        let (server, server_run) = dial.server.expect("the second flight set it");
        let client_address = self.machines[client].address.clone();
        let server_address = dial.address.clone();
        let hello_of = |m: usize| self.machines[m].process.as_ref().and_then(|p| p.hello.clone());
        let (Some(client_hello), Some(server_hello)) = (hello_of(client), hello_of(server)) else {
            return;
        };
        let number = self.next_number();
        let now = self.now;
        let link = self.new_link(server, number, 1);
        let end = |machine, run, address: &str, link, state| End {
            machine,
            run,
            address: address.to_owned(),
            link,
            state,
            heard: now,
            sent: 0,
            expected: 0,
            waiting: BTreeMap::new(),
        };
        let ends = [
            end(client, client_run, &client_address, LinkId(0), EndState::Opening),
            end(server, server_run, &server_address, link, EndState::Open),
        ];
        self.connections.insert(number, Connection { ends });
        self.after(limits::LINK_IDLE_MAX, Event::Idle { connection: number, side: 1 });
        let dial = self.dials.get_mut(&id).expect("it was there above");
        dial.connection = Some(number);
        dial.hello = Some(server_hello);
        self.send_flight(id, 3, 0);
        let address = client_address;
        self.feed(server, Input::LinkUp { link, hello: client_hello, address, dialled: None });
    }

    /// The dialler has the server's hello: on its side the link is up, too.
    fn on_server_hello(&mut self, id: u64) {
        let Some(Dial { machine, run, target, address, connection, hello, .. }) = self.dials.remove(&id)
        else {
            return;
        };
        let (Some(number), Some(hello)) = (connection, hello) else {
            return;
        };
        if !self.machines[machine].is_running(run) || !self.connections.contains_key(&number) {
            return;
        }
        let link = self.new_link(machine, number, 0);
        let now = self.now;
        let end = &mut self.connections.get_mut(&number).expect("checked above").ends[0];
        (end.link, end.state, end.heard) = (link, EndState::Open, now);
        self.after(limits::LINK_IDLE_MAX, Event::Idle { connection: number, side: 0 });
        self.feed(machine, Input::LinkUp { link, hello, address, dialled: Some(target) });
        self.deliver_waiting(number, 0);
    }

    fn new_link(&mut self, machine: usize, connection: u64, side: usize) -> LinkId {
        let process = self.machines[machine].process.as_mut().expect("the caller saw it run");
        process.links_made += 1;
        let link = LinkId(process.links_made);
        process.links.insert(link, (connection, side));
        link
    }

    pub(super) fn dial_failed(&mut self, id: u64, why: &str, refused: Option<Refused>) {
        let Some(mut dial) = self.dials.remove(&id) else {
            return;
        };
        if let Some(number) = dial.connection {
            self.close_end(number, 0, None);
        }
        if !self.machines[dial.machine].is_running(dial.run) {
            return;
        }
        if refused.is_none()
            && let Some(next) = dial.left.pop_front()
        {
            let again = self.next_number();
            let next = Dial { address: next, server: None, connection: None, hello: None, ..dial };
            self.dials.insert(again, next);
            self.after(limits::HANDSHAKE_DEADLINE, Event::DialDeadline { dial: again });
            return self.send_flight(again, 0, 0);
        }
        let reason = format!("{}: {why}", dial.address);
        self.feed(dial.machine, Input::DialFailed { target: dial.target, reason, refused });
    }

    /// Sends a SWIM packet as a datagram.
    pub(super) fn send_swim(&mut self, machine: usize, link: LinkId, packet: &Bytes) {
        let Some((number, side)) = self.open_link(machine, link) else {
            return;
        };
        let mut bytes = Vec::with_capacity(packet.len() + wire::HEADER_BYTES);
        wire::encode_swim(wire::PROTOCOL_VERSION, packet, &mut bytes);
        let bytes = Bytes::from(bytes);
        let to = 1 - side;
        let path = (machine, self.connections[&number].ends[to].machine);
        self.count(machine, packet.len());
        let copies = if self.chance(self.config.network.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let late =
                if self.chance(self.config.network.reorder) { 10.0 * self.rng.random::<f64>() } else { 0.0 };
            let passes = transit(&self.config.network, &self.paths, &mut self.rng, path, 1);
            if let Some(after) = passes {
                let (latency, _) = self.paths.latency(&self.config.network, path);
                let after = after + latency.mul_f64(late);
                self.after(after, Event::Datagram { connection: number, to, bytes: bytes.clone() });
            }
        }
    }

    pub(super) fn on_datagram(&mut self, number: u64, to: usize, bytes: &Bytes) {
        let Some((machine, link)) = self.arrive(number, to) else {
            return;
        };
        let prefix = bytes[..4].try_into().expect("a frame has four bytes of length");
        let length = wire::frame_length(prefix, limits::FRAME_BYTES_MAX).expect("it was encoded here");
        let Ok(Some((FrameKind::Swim, _))) = wire::split(&bytes[4..4 + length]) else {
            return self.checkers.fail("a SWIM packet does not survive its frame".to_owned());
        };
        self.feed(machine, Input::Swim { link, packet: bytes.slice(wire::HEADER_BYTES..) });
    }

    /// Sends a control frame, in order.
    pub(super) fn send_control(&mut self, machine: usize, link: LinkId, frame: &Control) {
        let mut bytes = Vec::new();
        if let Err(error) = wire::encode(frame, &mut bytes) {
            return self.checkers.fail(format!("a control frame does not encode: {error}"));
        }
        self.count(machine, bytes.len());
        if let Some((number, side)) = self.open_link(machine, link) {
            self.send_item(number, side, Item::Frame(bytes.into()));
        }
    }

    fn send_item(&mut self, number: u64, from: usize, item: Item) {
        let end = &mut self.connections.get_mut(&number).expect("the caller looked it up").ends[from];
        let seq = end.sent;
        end.sent += 1;
        self.transmit(number, from, seq, item, 0);
    }

    pub(super) fn transmit(&mut self, number: u64, from: usize, seq: u64, item: Item, attempt: u32) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        let [sender, receiver] = [&connection.ends[from], &connection.ends[1 - from]];
        // Nobody sends again what a process that is gone had to say.
        let is_gone = !self.machines[sender.machine].is_running(sender.run) && matches!(item, Item::Frame(_));
        if attempt > 0 && (is_gone || matches!(sender.state, EndState::Closed(Some(_)))) {
            return;
        }
        // Who is dead says nothing again.
        let lives = self.machines[sender.machine].is_running(sender.run);
        if attempt > 0 && !lives && matches!(item, Item::Frame(_)) {
            return;
        }
        let size = match &item {
            Item::Frame(bytes) => bytes.len(),
            Item::Close => 1,
        };
        let path = (sender.machine, receiver.machine);
        let packets = size.div_ceil(PACKET_BYTES);
        match transit(&self.config.network, &self.paths, &mut self.rng, path, packets) {
            Some(after) => {
                self.after(after, Event::Item { connection: number, to: 1 - from, seq, item });
            }
            None => {
                let (latency, jitter) = self.paths.latency(&self.config.network, path);
                let pto = Duration::from_millis(30) + (latency + jitter) * 3;
                let again = Event::ItemAgain { connection: number, from, seq, item, attempt: attempt + 1 };
                self.after(pto * 2_u32.pow(attempt.min(9)), again);
            }
        }
    }

    pub(super) fn on_item(&mut self, number: u64, to: usize, seq: u64, item: Item) {
        let opening = self.connections.get(&number).is_some_and(|c| c.ends[to].state == EndState::Opening);
        if !opening && self.arrive(number, to).is_none() {
            return;
        }
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let end = &mut connection.ends[to];
        if seq >= end.expected {
            end.waiting.insert(seq, item);
        }
        if !opening {
            self.deliver_waiting(number, to);
        }
    }

    fn deliver_waiting(&mut self, number: u64, to: usize) {
        loop {
            let Some(connection) = self.connections.get_mut(&number) else {
                return;
            };
            let end = &mut connection.ends[to];
            let (machine, run, link) = (end.machine, end.run, end.link);
            if end.state != EndState::Open || !self.machines[machine].is_running(run) {
                return;
            }
            let expected = end.expected;
            let Some(item) = end.waiting.remove(&expected) else {
                return;
            };
            end.expected += 1;
            match item {
                Item::Frame(bytes) => self.deliver_frame(machine, link, &bytes),
                Item::Close => {
                    let reason = "the peer's process has ended".to_owned();
                    self.on_close(number, to, LinkEnd::Closed { reason });
                }
            }
        }
    }

    fn deliver_frame(&mut self, machine: usize, link: LinkId, bytes: &Bytes) {
        let prefix = bytes[..4].try_into().expect("a frame has four bytes of length");
        let length = wire::frame_length(prefix, limits::FRAME_BYTES_MAX).expect("it was encoded here");
        match wire::split(&bytes[4..4 + length])
            .map(|parts| parts.map(|(_, body)| wire::decode::<Control>(body)))
        {
            Ok(Some(Ok(frame))) => self.feed(machine, Input::Control { link, frame }),
            other => self.checkers.fail(format!("a control frame does not decode: {other:?}")),
        }
    }

    /// A packet has reached an end: `None` when nobody is there for it any more.
    fn arrive(&mut self, number: u64, to: usize) -> Option<(usize, LinkId)> {
        let now = self.now;
        let connection = self.connections.get_mut(&number)?;
        let [from_machine, to_machine] = [connection.ends[1 - to].machine, connection.ends[to].machine];
        let lives = self.machines[to_machine].is_running(connection.ends[to].run);
        if !lives || connection.ends[to].state != EndState::Open {
            if connection.ends[to].state != EndState::Opening {
                self.reset(number, to);
            }
            return None;
        }
        connection.ends[to].heard = now;
        let back = (to_machine, from_machine);
        if let Some(after) = transit(&self.config.network, &self.paths, &mut self.rng, back, 1) {
            // The acknowledgement: QUIC's own, and news to nobody but the idle timer.
            connection.ends[1 - to].heard = now + after;
        }
        Some((to_machine, connection.ends[to].link))
    }

    /// Whoever listens at the address of a closed or forgotten end says so.
    fn reset(&mut self, number: u64, at: usize) {
        let end = &self.connections[&number].ends[at];
        let Some(listener) = self.listener(&end.address) else {
            return;
        };
        if self.machines[listener].process.is_none() {
            return;
        }
        let told = match end.state {
            EndState::Closed(Some(reason)) if self.machines[end.machine].is_running(end.run) => {
                LinkEnd::Refused(reason)
            }
            EndState::Opening | EndState::Open | EndState::Closed(_) => {
                LinkEnd::Closed { reason: "its process has lost the connection".to_owned() }
            }
        };
        let path = (listener, self.connections[&number].ends[1 - at].machine);
        self.count(listener, 40);
        if let Some(after) = transit(&self.config.network, &self.paths, &mut self.rng, path, 1) {
            self.after(after, Event::Closed { connection: number, to: 1 - at, end: told });
        }
    }

    /// The core closes a link.
    pub(super) fn close_link(&mut self, machine: usize, link: LinkId, reason: Refused) {
        if let Some((number, side)) = self.open_link(machine, link) {
            self.close_end(number, side, Some(reason));
            self.input_soon(machine, Input::LinkDown { link, reason: LinkEnd::Local });
        }
    }

    fn close_end(&mut self, number: u64, side: usize, reason: Option<Refused>) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        connection.ends[side].state = EndState::Closed(reason);
        let (machine, link) = (connection.ends[side].machine, connection.ends[side].link);
        let path = (machine, connection.ends[1 - side].machine);
        if let Some(process) = &mut self.machines[machine].process {
            process.links.remove(&link);
        }
        self.count(machine, 40);
        if let Some(after) = transit(&self.config.network, &self.paths, &mut self.rng, path, 1) {
            let reason = reason.map(LinkEnd::Refused);
            let end = reason.unwrap_or(LinkEnd::Closed { reason: "the dialler gave up".to_owned() });
            self.after(after, Event::Closed { connection: number, to: 1 - side, end });
        }
        self.collect(number);
    }

    /// An end hears that the other has closed.
    pub(super) fn on_close(&mut self, number: u64, to: usize, end: LinkEnd) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let side = &mut connection.ends[to];
        let (machine, run, link, state) = (side.machine, side.run, side.link, side.state);
        if matches!(state, EndState::Closed(_)) || !self.machines[machine].is_running(run) {
            return;
        }
        side.state = EndState::Closed(None);
        if state == EndState::Opening {
            let dial = self.dials.iter().find(|(_, d)| d.connection == Some(number)).map(|(id, _)| *id);
            let refused = match end {
                LinkEnd::Refused(reason) => Some(reason),
                LinkEnd::Idle | LinkEnd::Closed { .. } | LinkEnd::Local => None,
            };
            if let Some(dial) = dial {
                self.dial_failed(dial, "it closed the connection", refused);
            }
            return;
        }
        if let Some(process) = &mut self.machines[machine].process {
            process.links.remove(&link);
        }
        self.collect(number);
        self.feed(machine, Input::LinkDown { link, reason: end });
    }

    pub(super) fn on_idle(&mut self, number: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let end = &mut connection.ends[side];
        if end.state != EndState::Open || !self.machines[end.machine].is_running(end.run) {
            return;
        }
        let due = end.heard + limits::LINK_IDLE_MAX;
        if due > self.now {
            return self.at(due, Event::Idle { connection: number, side });
        }
        end.state = EndState::Closed(None);
        let (machine, link) = (end.machine, end.link);
        if let Some(process) = &mut self.machines[machine].process {
            process.links.remove(&link);
        }
        self.collect(number);
        self.feed(machine, Input::LinkDown { link, reason: LinkEnd::Idle });
    }

    /// A process ends in good order: what it said is still delivered, and then that it closed.
    pub(super) fn close_all_in_order(&mut self, machine: usize) {
        let process = self.machines[machine].process.as_mut().expect("the caller saw it run");
        let links: Vec<_> = std::mem::take(&mut process.links).into_values().collect();
        for (number, side) in links {
            self.send_item(number, side, Item::Close);
            if let Some(connection) = self.connections.get_mut(&number) {
                connection.ends[side].state = EndState::Closed(None);
            }
        }
    }

    /// Forgets a connection when neither end can ever hear of it again.
    pub(super) fn collect(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        let over = |end: &End| {
            matches!(end.state, EndState::Closed(_)) || !self.machines[end.machine].is_running(end.run)
        };
        if connection.ends.iter().all(over) {
            self.connections.remove(&number);
        }
    }

    /// An open link's connection and side; `None` when it is closed already.
    fn open_link(&self, machine: usize, link: LinkId) -> Option<(u64, usize)> {
        let found = self.machines[machine].process.as_ref()?.links.get(&link).copied()?;
        self.connections.contains_key(&found.0).then_some(found)
    }

    pub(super) fn listener(&self, address: &str) -> Option<usize> {
        self.addresses.get(address).copied()
    }
}
