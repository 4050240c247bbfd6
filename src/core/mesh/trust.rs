//! Certificates: revocation lists between peers, nodes that are expelled and come back, and links that are
//! replaced because this node's certificate was renewed.
//!
//! Nothing is verified here. A peer's list goes to the shell and comes back as accepted, or not at all.

use std::time::Duration;

use bytes::Bytes;

use super::{Mesh, Phase, Timer};
use crate::core::contract::Output;
use crate::core::error::Refused;
use crate::core::ids::{CaKeyId, Incarnation, LinkId, NodeId, NodeKey};
use crate::core::limits;
use crate::core::membership::Known;
use crate::core::model::{Finding, Found, MemberStatus};
use crate::core::wire::{Control, CrlVersion};

/// How often some of the links that were made with a former certificate are replaced.
const RENEW_INTERVAL: Duration = Duration::from_millis(250);

impl Mesh {
    /// The node's connections are closed; it is failed here at once, and gossip tells the others.
    pub(super) fn on_expelled(&mut self, node: &NodeId, reason: Refused) {
        let key = node.key();
        if key == self.key {
            return;
        }
        self.trust.expel(key, reason);
        self.links.pause(key, self.now + limits::CERTIFICATE_REDIAL_PAUSE);
        let links: Vec<_> = self.links.all().filter(|(_, l)| l.key == key).map(|(id, _)| id).collect();
        for link in links {
            self.probations.remove(&link);
            self.drop_link(link, reason);
            self.trust.link_gone(link);
        }
        let incarnation = self.membership.known(&key).map_or(Incarnation(0), |known| known.incarnation);
        let found = Found::Expelled { reason: reason.as_str().to_owned() };
        self.output(Output::Found(Finding { node: node.clone(), incarnation, found }));
        if !self.is_reachable(&key) {
            // Others were quicker to tell that it failed, and did not say why.
            self.tell_refusal(node.to_string(), reason.code(), reason.as_str().to_owned());
        }
        self.membership.expel(key);
    }

    /// A node's link has passed TLS: whatever it was expelled for, its certificate is good now.
    pub(super) fn readmit(&mut self, key: NodeKey) {
        self.trust.readmit(&key);
        self.membership.readmit(&key);
    }

    /// Why a member is failed, where it was expelled.
    pub(super) fn expulsion_of(&self, key: &NodeKey, now: Known) -> Option<&'static str> {
        if now.status != MemberStatus::Failed {
            return None;
        }
        self.trust.expelled(key).map(Refused::as_str)
    }

    pub(super) fn on_crl_accepted(&mut self, issuer: CaKeyId, number: u64, der: Bytes) {
        if !self.trust.accept(issuer, number, der) {
            return;
        }
        let mut links: Vec<_> = self.links.all_proven().map(|(_, link)| link).collect();
        if !self.is_full_mesh() {
            self.choose(&mut links, limits::RELAY_FANOUT);
        }
        let have = self.trust.digest();
        for link in links {
            // A peer's digest is not known: it has all lists but this one, or will ask.
            let others: Vec<_> = have.iter().filter(|v| v.issuer != issuer).copied().collect();
            self.send_newer_lists(link, &others);
        }
    }

    fn send_newer_lists(&mut self, link: LinkId, have: &[CrlVersion]) {
        for der in self.trust.newer_for(link, have) {
            self.output(Output::Control { link, frame: Control::Crl { der } });
        }
    }

    /// A peer's summary: a digest follows where its lists are others.
    pub(super) fn compare_lists(&mut self, link: LinkId, theirs: Option<u64>) {
        let Some(theirs) = theirs else {
            return;
        };
        self.trust.note_speaker(link);
        if theirs != self.trust.hash() {
            self.send_list_digest(link, true, false);
        }
    }

    fn send_list_digest(&mut self, link: LinkId, reply: bool, afresh: bool) {
        let have = self.trust.digest();
        self.output(Output::Control { link, frame: Control::CrlDigest { have, reply, afresh } });
    }

    pub(super) fn on_list_digest(&mut self, link: LinkId, have: &[CrlVersion], reply: bool, afresh: bool) {
        self.trust.note_speaker(link);
        if afresh {
            self.trust.tell_afresh(link);
        }
        self.send_newer_lists(link, have);
        if reply {
            self.send_list_digest(link, false, false);
        }
    }

    pub(super) fn on_list(&mut self, link: LinkId, from: NodeId, der: Bytes) {
        match self.trust.admits(link, &der, self.now) {
            Ok(true) => self.output(Output::CheckCrl { from, der }),
            Ok(false) => {}
            Err(_too_many) => {
                self.counters.crls_dropped += 1;
                self.view_changed = true;
            }
        }
    }

    pub(super) fn on_certificates_changed(&mut self, trusted: &[CaKeyId], renewed: bool) {
        self.trust.keep_only(trusted);
        // Whoever was refused may be let in now, on either side.
        self.links.try_all_again(self.now);
        self.told_refused.clear();
        let links: Vec<_> = self.links.every_proven().map(|(_, link)| link).collect();
        for link in links.into_iter().filter(|link| self.trust.speaks(*link)).collect::<Vec<_>>() {
            self.send_list_digest(link, true, true);
        }
        if renewed {
            self.replace_all();
            // A dial that was under way still showed the former certificate, and becomes a link later.
            self.set_timer(limits::HANDSHAKE_DEADLINE, Timer::RenewLate);
        }
    }

    /// Every link there is now is to be replaced, some at a time.
    pub(super) fn replace_all(&mut self) {
        let links: Vec<_> = self.links.every_proven().map(|(_, link)| link).collect();
        let was_empty = !self.trust.has_outdated();
        self.trust.outdate(links.into_iter());
        if was_empty {
            self.replace_outdated(None);
        }
    }

    /// Replaces some of the links that were made with this node's former certificate: whoever has dialled one dials
    /// it again, and the old one ends when the new one is in use.
    pub(super) fn replace_outdated(&mut self, after: Option<LinkId>) {
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        let due = self.trust.next_outdated(after);
        for link in due.iter().copied() {
            let proven = self.links.get(link).filter(|l| self.links.proven(&l.key) == Some(link));
            let Some((key, dialled)) = proven.map(|l| (l.key, l.dialled)) else {
                self.trust.is_replaced(link);
                continue;
            };
            if dialled {
                self.redial(&key);
            } else if self.trust.speaks(link) {
                self.output(Output::Control { link, frame: Control::Redial });
            } else {
                // It stays until one of the two certificates ends; then the peer calls again.
                self.trust.is_replaced(link);
            }
        }
        if self.trust.has_outdated() {
            let pause = self.jittered(RENEW_INTERVAL);
            self.set_timer(pause, Timer::Renew(due.last().copied()));
        }
    }

    /// The peer of a link that this node has dialled has another certificate now.
    pub(super) fn on_redial(&mut self, link: LinkId) {
        let dialled = self.links.get(link).filter(|l| l.dialled && self.links.proven(&l.key) == Some(link));
        if let Some(key) = dialled.map(|l| l.key) {
            self.redial(&key);
        }
    }

    /// Dials a node beside the link that there is; the newer one stays.
    fn redial(&mut self, key: &NodeKey) {
        if let Some((target, addresses)) = self.links.dial(key, self.now) {
            self.output(Output::Dial { target, addresses });
        }
    }
}
