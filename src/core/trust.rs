//! Certificates as far as the core knows of them: revocation lists as opaque bytes with a number, who was expelled,
//! and which links were made with a certificate that this node has no more.
//!
//! A list comes in here when the shell has verified it. It is told to each peer once a link: streams lose
//! nothing, and a peer that does not trust the list's CA would otherwise be sent it for ever. What peers have is
//! compared with the summaries that they exchange anyway.
//!
//! It verifies nothing and knows no clock of the wall: what is valid is the shell's to say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::error::Refused;
use super::ids::{CaKeyId, LinkId, NodeKey};
use super::limits;
use super::time::Instant;
use super::wire::CrlVersion;

#[derive(Debug)]
struct List {
    number: u64,
    der: Bytes,
}

/// What is known of the peer of one link.
#[derive(Debug, Default)]
struct PeerLists {
    told: BTreeMap<CaKeyId, u64>,
    /// Since when lists of it are counted, and how many came.
    since: Option<Instant>,
    came: u32,
}

/// The table of lists, and of those who are out.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    lists: BTreeMap<CaKeyId, List>,
    /// Peers that have shown that they know of revocation lists.
    peers: BTreeMap<LinkId, PeerLists>,
    expelled: BTreeMap<NodeKey, Refused>,
    /// Links that are to be replaced, because they were made with this node's former certificate.
    outdated: BTreeSet<LinkId>,
}

impl Trust {
    /// Takes in a verified list. Returns whether it is news.
    pub(crate) fn accept(&mut self, issuer: CaKeyId, number: u64, der: Bytes) -> bool {
        let is_old = self.lists.get(&issuer).is_some_and(|list| list.number >= number);
        let is_full = !self.lists.contains_key(&issuer) && self.lists.len() >= limits::CRLS_MAX;
        if is_old || is_full || der.len() > limits::CRL_BYTES_MAX {
            return false;
        }
        self.lists.insert(issuer, List { number, der });
        true
    }

    /// Forgets the lists of CAs that are trusted no more.
    pub(crate) fn keep_only(&mut self, trusted: &[CaKeyId]) {
        self.lists.retain(|issuer, _| trusted.contains(issuer));
    }

    /// Equal on two nodes with the same lists (FNV-1a over issuers and numbers).
    pub(crate) fn hash(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        for (issuer, list) in &self.lists {
            issuer.0.into_iter().for_each(&mut mix);
            list.number.to_le_bytes().into_iter().for_each(&mut mix);
        }
        hash
    }

    pub(crate) fn digest(&self) -> Vec<CrlVersion> {
        self.lists.iter().map(|(issuer, list)| CrlVersion { issuer: *issuer, number: list.number }).collect()
    }

    /// The peer of this link knows of revocation lists.
    pub(crate) fn note_speaker(&mut self, link: LinkId) {
        self.peers.entry(link).or_default();
    }

    pub(crate) fn speaks(&self, link: LinkId) -> bool {
        self.peers.contains_key(&link)
    }

    pub(crate) fn link_gone(&mut self, link: LinkId) {
        self.peers.remove(&link);
        self.outdated.remove(&link);
    }

    /// What was told over this link counts no more.
    pub(crate) fn tell_afresh(&mut self, link: LinkId) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.told.clear();
        }
    }

    /// The lists that a peer with this digest lacks and was not told over this link yet; told from here on.
    pub(crate) fn newer_for(&mut self, link: LinkId, have: &[CrlVersion]) -> Vec<Bytes> {
        let Some(peer) = self.peers.get_mut(&link) else {
            return Vec::new();
        };
        let mut lacking = Vec::new();
        for (issuer, list) in &self.lists {
            let has = have.iter().any(|v| v.issuer == *issuer && v.number >= list.number);
            let was_told = peer.told.get(issuer).is_some_and(|number| *number >= list.number);
            if !has && !was_told {
                peer.told.insert(*issuer, list.number);
                lacking.push(list.der.clone());
            }
        }
        lacking
    }

    /// A peer has sent a list. Returns whether it is worth verifying: not known, and not one too many.
    pub(crate) fn admits(&mut self, link: LinkId, der: &Bytes, now: Instant) -> Result<bool, TooMany> {
        if self.lists.values().any(|list| list.der == *der) {
            return Ok(false);
        }
        let peer = self.peers.entry(link).or_default();
        if peer.since.is_none_or(|since| now.since(since) >= Duration::from_secs(1)) {
            (peer.since, peer.came) = (Some(now), 0);
        }
        peer.came += 1;
        if peer.came > limits::CRLS_PER_SECOND_MAX { Err(TooMany) } else { Ok(true) }
    }

    /// Remembers that a node is out, and why. Beyond the bound nothing is remembered: it is refused by its
    /// certificate all the same.
    pub(crate) fn expel(&mut self, key: NodeKey, reason: Refused) {
        if self.expelled.contains_key(&key) || self.expelled.len() < limits::PEERS_MAX {
            self.expelled.insert(key, reason);
        }
    }

    pub(crate) fn expelled(&self, key: &NodeKey) -> Option<Refused> {
        self.expelled.get(key).copied()
    }

    /// The node has come with a good certificate. Returns whether it was out.
    pub(crate) fn readmit(&mut self, key: &NodeKey) -> bool {
        self.expelled.remove(key).is_some()
    }

    /// These links were made with a certificate that this node has no more.
    pub(crate) fn outdate(&mut self, links: impl Iterator<Item = LinkId>) {
        self.outdated.extend(links);
    }

    /// Some of the links that are still to be replaced, another part with each call.
    pub(crate) fn next_outdated(&self, after: Option<LinkId>) -> Vec<LinkId> {
        let from = after.map_or(LinkId(0), |after| LinkId(after.0 + 1));
        let (late, early) = (self.outdated.range(from..), self.outdated.range(..from));
        late.chain(early).take(limits::RENEWED_LINKS_AT_ONCE).copied().collect()
    }

    /// The link was replaced, or is none of this node's proven ones.
    pub(crate) fn is_replaced(&mut self, link: LinkId) {
        self.outdated.remove(&link);
    }

    pub(crate) fn has_outdated(&self) -> bool {
        !self.outdated.is_empty()
    }
}

/// A peer has sent more lists than it may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: LinkId = LinkId(1);

    fn ca(n: u8) -> CaKeyId {
        CaKeyId([n; 32])
    }

    fn der(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn the_higher_number_of_an_issuer_wins_and_an_older_one_is_no_news() {
        let mut trust = Trust::default();
        assert!(trust.accept(ca(1), 2, der("two")));
        let hash = trust.hash();
        assert!(!trust.accept(ca(1), 2, der("another two")) && !trust.accept(ca(1), 1, der("one")));
        assert_eq!(trust.hash(), hash);
        assert!(trust.accept(ca(1), 3, der("three")) && trust.accept(ca(2), 1, der("other")));
        assert_ne!(trust.hash(), hash);
        trust.keep_only(&[ca(2)]);
        assert_eq!(trust.digest(), [CrlVersion { issuer: ca(2), number: 1 }]);
    }

    #[test]
    fn a_list_is_told_once_over_a_link_unless_the_peer_begins_afresh() {
        let mut trust = Trust::default();
        trust.accept(ca(1), 1, der("one"));
        assert!(trust.newer_for(LINK, &[]).is_empty(), "a peer that knows nothing of lists");
        trust.note_speaker(LINK);
        assert!(trust.newer_for(LINK, &[CrlVersion { issuer: ca(1), number: 1 }]).is_empty());
        assert_eq!(trust.newer_for(LINK, &[]), [der("one")]);
        assert!(trust.newer_for(LINK, &[]).is_empty());
        trust.tell_afresh(LINK);
        assert_eq!(trust.newer_for(LINK, &[]), [der("one")]);
        trust.link_gone(LINK);
        trust.note_speaker(LINK);
        assert_eq!(trust.newer_for(LINK, &[]), [der("one")]);
    }

    #[test]
    fn a_flood_of_lists_is_cut_and_a_known_one_costs_nothing() {
        let mut trust = Trust::default();
        trust.accept(ca(1), 1, der("one"));
        for _ in 0..100 {
            assert_eq!(trust.admits(LINK, &der("one"), Instant::ZERO), Ok(false));
        }
        for _ in 0..limits::CRLS_PER_SECOND_MAX {
            assert_eq!(trust.admits(LINK, &der("new"), Instant::ZERO), Ok(true));
        }
        assert_eq!(trust.admits(LINK, &der("new"), Instant::ZERO), Err(TooMany));
        let later = Instant::ZERO + Duration::from_secs(1);
        assert_eq!(trust.admits(LINK, &der("new"), later), Ok(true));
    }

    #[test]
    fn lists_beyond_the_bound_are_not_kept() {
        let mut trust = Trust::default();
        for n in 0..limits::CRLS_MAX {
            assert!(trust.accept(ca(n as u8), 1, der("x")));
        }
        assert!(!trust.accept(ca(200), 1, der("x")));
        assert!(trust.accept(ca(0), 2, der("y")), "a newer one of a known issuer has its place");
        assert!(!trust.accept(ca(1), 2, Bytes::from(vec![0; limits::CRL_BYTES_MAX + 1])));
    }

    #[test]
    fn outdated_links_take_turns() {
        let mut trust = Trust::default();
        trust.outdate((1..=10).map(LinkId));
        let first = trust.next_outdated(None);
        assert_eq!(first.len(), limits::RENEWED_LINKS_AT_ONCE);
        let second = trust.next_outdated(first.last().copied());
        assert_eq!(&second[..3], [LinkId(9), LinkId(10), LinkId(1)]);
    }
}
