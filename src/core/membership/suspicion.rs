//! Suspicions: from a failed probe to a refutation or a verdict.
//!
//! Whoever's probe failed is an accuser: it tells the suspect itself, eight times over the suspicion
//! time, by a ping that carries the suspicion, so that the answer is a refutation; then it gives its
//! verdict. Everyone else who hears of the suspicion is a bystander, and becomes an accuser when it still
//! stands after three times that long: an accuser may have died, renewed itself, or been cut off.
//!
//! An accuser doubts itself first. One that ran late gives the suspect the time that it slept through.
//! Steps in which it heard of nobody at all do not count, up to twice the suspicion time, because it is
//! probably the accuser that is cut off (Dadgar, Phillips, Currey: "Lifeguard", DSN-W 2018, in the small).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BufMut;
use foca::{Header, Member, Message, State};

use super::identity::Identity;
use super::packet::{self, SwimCodec};
use super::{Known, MemberEffect, MemberTimer, Membership};
use crate::core::ids::NodeKey;
use crate::core::model::MemberStatus;

/// Steps of an accusation; at each but the last the suspect is told.
const STEPS: u8 = 8;
/// How many suspicion times a bystander waits before it accuses on its own.
const BYSTANDER_WAITS: u32 = 3;
/// After so many steps in a row without a packet from anybody the accuser doubts itself.
const QUIET_STEPS: u8 = STEPS / 2;
/// Steps that do not count because the accuser doubts itself, at most.
const SILENT_STEPS_MAX: u8 = 2 * STEPS;

#[derive(Debug)]
struct Suspicion {
    number: u64,
    known: Known,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Bystander,
    Accuser(Progress),
}

/// How far an accusation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    step: u8,
    /// Steps in a row in which nobody was heard.
    quiet: u8,
    /// Steps that did not count.
    silent: u8,
    /// Packets heard up to the last step.
    heard: u64,
}

/// The suspicions that stand, one a member.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    standing: BTreeMap<NodeKey, Suspicion>,
    numbers: u64,
    /// Packets from anybody.
    heard: u64,
}

impl Suspicions {
    /// A packet came in: this node is not alone.
    pub(super) fn hear(&mut self) {
        self.heard += 1;
    }

    fn set(&mut self, key: NodeKey, known: Known, role: Role) -> MemberTimer {
        self.numbers += 1;
        self.standing.insert(key, Suspicion { number: self.numbers, known, role });
        MemberTimer::Suspicion(self.numbers)
    }
}

impl Membership {
    /// A member's state was compared: a new suspicion begins, or one has ended.
    pub(super) fn follow_suspicion(&mut self, key: NodeKey, now: Known) {
        if now.status != MemberStatus::Suspect {
            self.suspicions.standing.remove(&key);
            return;
        }
        if self.suspicions.standing.get(&key).is_some_and(|standing| standing.known == now) {
            return;
        }
        let timer = self.suspicions.set(key, now, Role::Bystander);
        let after = self.outbox.timings.suspicion * BYSTANDER_WAITS;
        self.effects.push_back(MemberEffect::Timer { after, timer });
    }

    /// The member failed this node's own probe, or its link ended and it did not come back.
    pub(super) fn accuse(&mut self, key: NodeKey) {
        let Some(Suspicion { known, role: Role::Bystander, .. }) = self.suspicions.standing.get(&key) else {
            return;
        };
        let (known, heard) = (*known, self.suspicions.heard);
        self.step(key, known, Progress { step: 0, quiet: 0, silent: 0, heard });
    }

    pub(super) fn on_suspicion_step(&mut self, number: u64, late: Duration) {
        let standing = self.suspicions.standing.iter().find(|(_, suspicion)| suspicion.number == number);
        let Some((&key, &Suspicion { known, role, .. })) = standing else {
            return;
        };
        let Role::Accuser(Progress { step, quiet, silent, heard: before }) = role else {
            return self.accuse(key);
        };
        let heard = self.suspicions.heard;
        let quiet = if heard == before { quiet.saturating_add(1) } else { 0 };
        let is_alone = self.live_count() > 1 && quiet >= QUIET_STEPS;
        if is_alone && silent < SILENT_STEPS_MAX {
            self.step(key, known, Progress { step, quiet, silent: silent + 1, heard });
        } else if late > self.outbox.timings.probe_timeout {
            self.step(key, known, Progress { step: step.min(STEPS / 2), quiet, silent, heard });
        } else if step + 1 < STEPS {
            self.step(key, known, Progress { step: step + 1, quiet, silent, heard });
        } else {
            self.give_verdict(key, known);
        }
    }

    /// Tells the suspect, and sets the timer of the next step.
    fn step(&mut self, key: NodeKey, known: Known, progress: Progress) {
        let timer = self.suspicions.set(key, known, Role::Accuser(progress));
        let after = self.outbox.timings.suspicion / u32::from(STEPS);
        self.effects.push_back(MemberEffect::Timer { after, timer });
        let packet = self.ping_with_suspicion(key, known);
        self.effects.push_back(MemberEffect::Send { to: key, packet });
    }

    fn give_verdict(&mut self, key: NodeKey, known: Known) {
        let down = Member::new(Identity::of(key, known.incarnation), known.refutations, State::Down);
        self.outbox.touched.insert(key);
        // Reliable, in case it hears: only a new incarnation brings it back.
        self.effects.push_back(MemberEffect::TellHeldForFailed { key, incarnation: known.incarnation });
        let result = self.foca.apply_many([down].into_iter(), true, &mut self.outbox);
        self.settle("verdict", result);
    }

    /// A ping as foca sends it, but to a member of our choice and with the news that concerns it: foca
    /// takes the news first, refutes, and answers under its new number.
    fn ping_with_suspicion(&self, key: NodeKey, known: Known) -> Vec<u8> {
        let suspect = Identity::of(key, known.incarnation);
        let header = Header {
            src: *self.foca.identity(),
            // Our own number of refutations is foca's secret; a lower one is no news to anybody.
            src_incarnation: 0,
            dst: suspect,
            message: Message::Ping(0),
        };
        let news = Member::new(suspect, known.refutations, State::Suspect);
        let mut bytes = Vec::new();
        let encoded = foca::Codec::encode_header(&mut SwimCodec, &header, &mut bytes).and_then(|()| {
            bytes.put_u16(1);
            foca::Codec::encode_member(&mut SwimCodec, &news, &mut bytes)
        });
        encoded.expect("plain numbers always encode, and a vector takes them");
        packet::seal(&self.outbox.note, &bytes)
    }
}
