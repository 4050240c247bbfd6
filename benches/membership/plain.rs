//! Plain foca under virtual time: `foca::Foca` with `foca::Config::new_lan` of the true size and its own
//! postcard codec, each machine one UDP socket. What foca's example program does, and no more; but a node
//! that knows nobody, or nobody any more, asks its seeds every second, because the example's single packet
//! may be lost.
//!
//! Latency, loss and pauses are the simulator's: a paused machine handles what came and what was due when
//! its pause ends, in one order or the other. Bytes are those of packets, without headers of IP and UDP.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, OwnedNotification, PostcardCodec, Timer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use shoal::core::time::Instant;
use shoal::sim::{Config, Network};

use crate::lab::{Lab, Told};

/// As in the simulator: who was started, paused or killed this recently may be called failed.
const DISTURBED_FOR: Duration = Duration::from_secs(20);
/// Between announcements of a node that knows nobody.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);

/// As in foca's example: an address, and a number that grows with each rejoin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Id {
    address: SocketAddr,
    bump: u64,
}

impl foca::Identity for Id {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        Some(Self { address: self.address, bump: self.bump + 1 })
    }

    fn addr(&self) -> SocketAddr {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.bump > adversary.bump
    }
}

#[derive(Debug)]
enum Event {
    Timer { machine: usize, life: u64, timer: Timer<Id> },
    Datagram { to: usize, bytes: Bytes },
    Announce { machine: usize, life: u64 },
    Pause { machine: usize, span: Duration },
    Resume { machine: usize },
}

struct Machine {
    life: u64,
    foca: Option<Foca<Id, PostcardCodec, ChaCha8Rng, NoCustomBroadcast>>,
    is_paused: bool,
    disturbed: Instant,
    /// What came, or was due, during a pause.
    inbox: Vec<Event>,
    /// The number of its last identity.
    bump: u64,
}

/// A mesh of plain foca.
pub(crate) struct Plain {
    now: Instant,
    rng: ChaCha8Rng,
    network: Network,
    config: foca::Config,
    seeds: usize,
    machines: Vec<Machine>,
    /// By time and number of its event.
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: BTreeMap<u64, Event>,
    numbers: u64,
    runtime: AccumulatingRuntime<Id>,
    told: Vec<Told>,
    packets: u64,
    bytes: u64,
}

impl Plain {
    /// Machines like the simulator's of that configuration; none of them runs.
    pub(crate) fn new(config: &Config) -> Self {
        let size = u32::try_from(config.nodes).ok().and_then(NonZeroU32::new).expect("some nodes");
        let machine = || Machine {
            life: 0,
            foca: None,
            is_paused: false,
            disturbed: Instant::ZERO,
            inbox: Vec::new(),
            bump: 0,
        };
        Self {
            now: Instant::ZERO,
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            network: config.network.clone(),
            config: foca::Config::new_lan(size),
            seeds: config.seeds,
            machines: std::iter::repeat_with(machine).take(config.nodes).collect(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            numbers: 0,
            runtime: AccumulatingRuntime::new(),
            told: Vec::new(),
            packets: 0,
            bytes: 0,
        }
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.numbers += 1;
        self.queue.push(Reverse((at, self.numbers)));
        self.events.insert(self.numbers, event);
    }

    fn happen(&mut self, event: Event) {
        let concerned = match &event {
            Event::Timer { machine, life, .. } | Event::Announce { machine, life } => {
                if self.machines[*machine].life != *life {
                    return;
                }
                Some(*machine)
            }
            Event::Datagram { to, .. } => Some(*to),
            Event::Pause { .. } | Event::Resume { .. } => None,
        };
        if let Some(machine) = concerned.filter(|m| self.machines[*m].is_paused) {
            self.machines[machine].inbox.push(event);
            return;
        }
        match event {
            // foca's errors are those of packets that it does not take and of timers that come late; it
            // goes on after both.
            Event::Timer { machine, timer, .. } => {
                self.with(machine, |foca, runtime| drop(foca.handle_timer(timer, runtime)));
            }
            Event::Datagram { to, bytes } => {
                self.with(to, |foca, runtime| drop(foca.handle_data(&bytes, runtime)));
            }
            Event::Announce { machine, life } => self.announce(machine, life),
            Event::Pause { machine, span } => {
                let host = &mut self.machines[machine];
                if !host.is_paused {
                    (host.is_paused, host.disturbed) = (true, self.now);
                    self.at(self.now + span, Event::Resume { machine });
                }
            }
            Event::Resume { machine } => self.resume(machine),
        }
    }

    fn resume(&mut self, machine: usize) {
        let host = &mut self.machines[machine];
        (host.is_paused, host.disturbed) = (false, self.now);
        let inbox = std::mem::take(&mut host.inbox);
        let (datagrams, timers): (Vec<_>, Vec<_>) =
            inbox.into_iter().partition(|event| matches!(event, Event::Datagram { .. }));
        let timers_first = self.rng.random::<bool>();
        let (first, second) = if timers_first { (timers, datagrams) } else { (datagrams, timers) };
        for event in first.into_iter().chain(second) {
            self.at(self.now, event);
        }
    }

    fn announce(&mut self, machine: usize, life: u64) {
        let seeds: Vec<_> = (0..self.seeds).filter(|seed| *seed != machine).collect();
        let Some(foca) = &self.machines[machine].foca else {
            return;
        };
        if foca.num_members() > 0 || seeds.is_empty() {
            return;
        }
        for seed in seeds {
            let seed = Id { address: address(seed), bump: 0 };
            self.with(machine, |foca, runtime| drop(foca.announce(seed, runtime)));
        }
        self.at(self.now + ANNOUNCE_AGAIN, Event::Announce { machine, life });
    }

    /// Lets a running machine's foca do something, and does what it wants done.
    fn with(
        &mut self,
        machine: usize,
        work: impl FnOnce(
            &mut Foca<Id, PostcardCodec, ChaCha8Rng, NoCustomBroadcast>,
            &mut AccumulatingRuntime<Id>,
        ),
    ) {
        let mut runtime = std::mem::take(&mut self.runtime);
        let host = &mut self.machines[machine];
        let life = host.life;
        if let Some(foca) = &mut host.foca {
            work(foca, &mut runtime);
            host.bump = foca.identity().bump;
        }
        while let Some((to, bytes)) = runtime.to_send() {
            self.send(&to, bytes);
        }
        while let Some((after, timer)) = runtime.to_schedule() {
            self.at(self.now + after, Event::Timer { machine, life, timer });
        }
        while let Some(notification) = runtime.to_notify() {
            match notification {
                OwnedNotification::MemberUp(id) => self.tell(machine, &id, true),
                OwnedNotification::MemberDown(id) => self.tell(machine, &id, false),
                // Nobody is left that could call it back.
                OwnedNotification::Idle => {
                    self.at(self.now + ANNOUNCE_AGAIN, Event::Announce { machine, life });
                }
                OwnedNotification::Rename(..)
                | OwnedNotification::Active
                | OwnedNotification::Defunct
                | OwnedNotification::Rejoin(_) => {}
            }
        }
        self.runtime = runtime;
    }

    fn send(&mut self, to: &Id, bytes: Bytes) {
        self.packets += 1;
        self.bytes += bytes.len() as u64;
        if let Some(after) = self.network.transit(&mut self.rng) {
            let to = index(&to.address);
            self.at(self.now + after, Event::Datagram { to, bytes });
        }
    }

    fn tell(&mut self, observer: usize, about: &Id, is_alive: bool) {
        let about = index(&about.address);
        let calm = |host: &Machine| {
            host.foca.is_some() && !host.is_paused && self.now.since(host.disturbed) > DISTURBED_FOR
        };
        let is_false = !is_alive && calm(&self.machines[observer]) && calm(&self.machines[about]);
        self.told.push(Told { at: self.now, observer, about, is_alive, is_false });
    }
}

impl Lab for Plain {
    fn now(&self) -> Instant {
        self.now
    }

    fn start(&mut self, machine: usize) {
        let rng = ChaCha8Rng::seed_from_u64(self.rng.random());
        let host = &mut self.machines[machine];
        let seconds = self.now.as_nanos() / 1_000_000_000;
        let id = Id { address: address(machine), bump: seconds.max(host.bump + 1) };
        host.life += 1;
        host.disturbed = self.now;
        host.foca = Some(Foca::new(id, self.config.clone(), rng, PostcardCodec));
        let life = host.life;
        self.at(self.now, Event::Announce { machine, life });
    }

    fn crash(&mut self, machine: usize) {
        let host = &mut self.machines[machine];
        host.foca = None;
        host.life += 1;
        host.disturbed = self.now;
        host.inbox.clear();
    }

    fn stutter(&mut self, machine: usize, on: Duration, off: Duration, times: u32) {
        for n in 0..times {
            self.at(self.now + (on + off) * n + on, Event::Pause { machine, span: off });
        }
    }

    fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(Reverse((at, number))) = self.queue.peek().copied().filter(|next| next.0.0 <= end) {
            self.queue.pop();
            self.now = at;
            let event = self.events.remove(&number).expect("each number in the queue has its event");
            self.happen(event);
        }
        self.now = end;
    }

    fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    fn publish(&mut self, _: usize) -> bool {
        unreachable!("plain foca has no records");
    }

    fn informed(&self, _: usize) -> usize {
        unreachable!("plain foca has no records");
    }

    fn traffic(&self) -> (u64, u64) {
        (self.packets, self.bytes)
    }

    fn broken(&self) -> Vec<String> {
        Vec::new()
    }
}

fn address(machine: usize) -> SocketAddr {
    let [_, _, high, low] = u32::try_from(machine).expect("fewer machines").to_be_bytes();
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, high, low), 7946))
}

fn index(address: &SocketAddr) -> usize {
    match address {
        SocketAddr::V4(v4) => {
            let [_, _, high, low] = v4.ip().octets();
            usize::from(high) * 256 + usize::from(low)
        }
        SocketAddr::V6(_) => unreachable!("machines have IPv4 addresses"),
    }
}
