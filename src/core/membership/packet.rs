//! SWIM packets: our envelope around foca's bytes, the codec inside them, and the checks before foca
//! sees anything.
//!
//! A packet is `form: u8 | note length: u8 | note | foca's bytes` and at most
//! [`limits::SWIM_PACKET_BYTES_MAX`] long. The note is ours: news that foca has no place for. foca's bytes
//! are a header, a count and members, in `postcard`, each member with a length of its own, because
//! `postcard` is positional and a later version may append fields.
//!
//! A header begins with the sender and the receiver. In the compact form (of protocol version 2) their
//! keys are left out, 32 bytes of some 60: the link's certificate says who they are.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};
use serde::{Deserialize, Serialize};

use super::Known;
use super::identity::Identity;
use crate::core::ids::{Incarnation, NodeKey};
use crate::core::limits;

/// What follows the first byte of a packet, which is its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// With the keys of sender and receiver: protocol version 1, and whoever is not known to read the other.
    Full = 1,
    /// Without them.
    Compact = 2,
}

/// Bytes of a node's key at the head of an identity.
const KEY_BYTES: usize = 16;
const ENVELOPE_BYTES: usize = 2;
/// What foca may use of a packet.
pub(super) const FOCA_BYTES_MAX: usize =
    limits::SWIM_PACKET_BYTES_MAX - ENVELOPE_BYTES - limits::SWIM_TRAILER_BYTES_MAX;
/// Departures told in one packet; a departure has at most 26 bytes.
pub(super) const DEPARTURES_PER_PACKET_MAX: usize = 2;
/// Accusations and verdicts told in one packet; one has at most 46 bytes.
pub(super) const RUMOURS_PER_PACKET_MAX: usize = 2;
/// Failed pleas told in one packet.
const NACKS_PER_PACKET_MAX: usize = 4;

/// Why a packet was dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PacketError {
    /// Longer than a packet may be, or cut short.
    #[error("a SWIM packet of {0} bytes is too short or too long")]
    Length(usize),
    /// Another version.
    #[error("SWIM packet version {0} is not spoken here")]
    Version(u8),
    /// Not decodable.
    #[error("malformed SWIM packet: {0}")]
    Malformed(&'static str),
    /// It claims to come from somebody else than the link's peer.
    #[error("a SWIM packet claims to come from {claimed:?}, the link's certificate says {peer:?}")]
    WrongSender {
        /// Whom it names as its sender.
        claimed: NodeKey,
        /// Whose link it came over.
        peer: NodeKey,
    },
}

/// Our part of a packet. Protocol version 1 has only `left`, and skips what follows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Note {
    /// Nodes that left of their own will, with the last incarnation that did.
    pub(super) left: Vec<(NodeKey, Incarnation)>,
    /// Who could not reach whom, and who gave a verdict, each with its origin.
    pub(super) rumours: Vec<Accusation>,
    /// Numbers of the receiver's probes that the sender was asked to help with, in vain.
    pub(super) nacks: Vec<u8>,
    /// The sender's own health, 0 while all is well; `None` from a node of version 1.
    pub(super) health: Option<u8>,
    /// The sender's network coordinate, unread here; empty in most packets.
    pub(super) coordinate: Vec<u8>,
}

/// What version 2 has added to the note.
#[derive(Serialize, Deserialize)]
struct NoteTail {
    health: u8,
    nacks: Vec<u8>,
    rumours: Vec<Accusation>,
    coordinate: Vec<u8>,
}

/// Somebody could not reach a member, from its own experience, or gave the verdict that it has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Accusation {
    pub(super) key: NodeKey,
    pub(super) incarnation: Incarnation,
    pub(super) refutations: u16,
    /// The origin, whoever passes it on.
    pub(super) by: NodeKey,
    pub(super) is_verdict: bool,
}

impl Accusation {
    pub(super) fn of(key: NodeKey, known: &Known, by: NodeKey, is_verdict: bool) -> Self {
        let Known { incarnation, refutations, .. } = *known;
        Self { key, incarnation, refutations, by, is_verdict }
    }
}

/// Puts foca's bytes and our note into one packet.
pub(super) fn seal(form: Form, note: &Note, foca_bytes: &[u8]) -> Vec<u8> {
    let note = encode_note(note);
    let mut packet = Vec::with_capacity(ENVELOPE_BYTES + note.len() + foca_bytes.len());
    packet.push(form as u8);
    packet.push(note.len() as u8);
    packet.extend_from_slice(&note);
    match form {
        Form::Full => packet.extend_from_slice(foca_bytes),
        Form::Compact => {
            let receiver = receiver_at(&foca_bytes[KEY_BYTES..]).expect("foca's bytes begin with a header");
            let (sender, rest) = foca_bytes[KEY_BYTES..].split_at(receiver);
            packet.extend_from_slice(sender);
            packet.extend_from_slice(&rest[KEY_BYTES..]);
        }
    }
    packet
}

/// Where the receiver's identity begins, in a header without the sender's key: behind two numbers of
/// variable length, the sender's incarnation and its number of refutations.
fn receiver_at(header: &[u8]) -> Option<usize> {
    let end_of_number = |from: usize| {
        let length = header.get(from..)?.iter().take(10).position(|byte| byte & 0x80 == 0)?;
        Some(from + length + 1)
    };
    end_of_number(end_of_number(0)?)
}

/// foca's bytes with the keys that the compact form leaves out.
fn expand(compact: &[u8], sender: NodeKey, receiver: NodeKey) -> Result<Vec<u8>, PacketError> {
    let at = receiver_at(compact).ok_or(PacketError::Malformed("cut short"))?;
    let (head, rest) = compact.split_at(at);
    Ok([&sender.0, head, &receiver.0, rest].concat())
}

fn encode_note(note: &Note) -> Vec<u8> {
    let tail = NoteTail {
        health: note.health.unwrap_or_default(),
        nacks: note.nacks.clone(),
        rumours: note.rumours.clone(),
        coordinate: note.coordinate.clone(),
    };
    let bytes = postcard::to_allocvec(&(&note.left, tail)).expect("vectors of plain numbers always encode");
    assert!(bytes.len() <= limits::SWIM_TRAILER_BYTES_MAX, "a note is bounded where it is filled");
    bytes
}

/// A member and where it is in foca's bytes.
type OpenedMember = (Member<Identity>, Range<usize>);

/// A packet taken apart, before foca has seen it.
#[derive(Debug)]
pub(super) struct Opened<'a> {
    pub(super) note: Note,
    pub(super) header: Header<Identity>,
    /// The members with where in the bytes each of them is, so that a packet can be rebuilt without some.
    pub(super) members: Vec<OpenedMember>,
    pub(super) foca_bytes: Cow<'a, [u8]>,
    header_length: usize,
}

impl Opened<'_> {
    /// foca's bytes with only those members that are kept, told in the order of [`Opened::members`].
    pub(super) fn rebuilt(&self, keep: &[bool]) -> Vec<u8> {
        let kept: Vec<_> = self.members.iter().zip(keep).filter(|(_, keep)| **keep).map(|(m, _)| m).collect();
        let mut bytes = self.foca_bytes[..self.header_length].to_vec();
        if self.header_length < self.foca_bytes.len() {
            bytes.put_u16(kept.len() as u16);
        }
        for (_, place) in kept {
            bytes.extend_from_slice(&self.foca_bytes[place.clone()]);
        }
        bytes
    }
}

/// Takes a packet apart that came over the link of `peer` to this node, `own`.
///
/// # Errors
/// [`PacketError`]; nothing has changed.
pub(super) fn open(packet: &[u8], peer: NodeKey, own: NodeKey) -> Result<Opened<'_>, PacketError> {
    if packet.len() > limits::SWIM_PACKET_BYTES_MAX {
        return Err(PacketError::Length(packet.len()));
    }
    let [form, note_length, rest @ ..] = packet else {
        return Err(PacketError::Length(packet.len()));
    };
    let Some((note, rest)) = rest.split_at_checked(*note_length as usize) else {
        return Err(PacketError::Malformed("the note is longer than the packet"));
    };
    let foca_bytes = match *form {
        form if form == Form::Full as u8 => Cow::Borrowed(rest),
        form if form == Form::Compact as u8 => Cow::Owned(expand(rest, peer, own)?),
        other => return Err(PacketError::Version(other)),
    };
    let note = open_note(note)?;
    let malformed = |_| PacketError::Malformed("its header does not decode");
    let (header, after) = postcard::take_from_bytes::<Header<Identity>>(&foca_bytes).map_err(malformed)?;
    let header_length = foca_bytes.len() - after.len();
    let members = open_members(&header, &foca_bytes, header_length)?;
    Ok(Opened { note, header, members, header_length, foca_bytes })
}

fn open_note(bytes: &[u8]) -> Result<Note, PacketError> {
    if bytes.is_empty() {
        return Ok(Note::default());
    }
    let undecodable = |_| PacketError::Malformed("its note does not decode");
    let (left, rest) = postcard::take_from_bytes(bytes).map_err(undecodable)?;
    let mut note = Note { left, ..Note::default() };
    if !rest.is_empty() {
        let (tail, _later) = postcard::take_from_bytes::<NoteTail>(rest).map_err(undecodable)?;
        let NoteTail { health, nacks, rumours, coordinate } = tail;
        note = Note { rumours, nacks, health: Some(health), coordinate, ..note };
    }
    let is_too_long = note.left.len() > DEPARTURES_PER_PACKET_MAX
        || note.rumours.len() > RUMOURS_PER_PACKET_MAX
        || note.nacks.len() > NACKS_PER_PACKET_MAX
        || note.coordinate.len() > limits::COORDINATE_BYTES_MAX;
    if is_too_long {
        return Err(PacketError::Malformed("its note is too long"));
    }
    Ok(note)
}

fn open_members(
    header: &Header<Identity>,
    foca_bytes: &[u8],
    header_length: usize,
) -> Result<Vec<OpenedMember>, PacketError> {
    let mut members = Vec::new();
    let mut bytes = &foca_bytes[header_length..];
    if bytes.is_empty() {
        return Ok(members);
    }
    if matches!(header.message, Message::Announce | Message::TurnUndead | Message::Broadcast) {
        return Err(PacketError::Malformed("it carries members where it must not"));
    }
    if bytes.len() < 2 {
        return Err(PacketError::Malformed("cut short"));
    }
    let count = bytes.get_u16();
    for _ in 0..count {
        let from = foca_bytes.len() - bytes.len();
        let member = SwimCodec.take_member(&mut bytes).map_err(PacketError::Malformed)?;
        members.push((member, from..foca_bytes.len() - bytes.len()));
    }
    if !bytes.is_empty() {
        return Err(PacketError::Malformed("trailing bytes"));
    }
    Ok(members)
}

/// foca's codec: `postcard`, each member behind its length.
#[derive(Debug, Clone, Copy)]
pub(super) struct SwimCodec;

/// A member as it travels; fields may be appended by later versions.
#[derive(Serialize, Deserialize)]
struct WireMember {
    id: Identity,
    refutations: u16,
    state: u8,
}

impl SwimCodec {
    fn take_member(self, bytes: &mut &[u8]) -> Result<Member<Identity>, &'static str> {
        let (&length, rest) = bytes.split_first().ok_or("a member is cut short")?;
        let (member, rest) = rest.split_at_checked(length as usize).ok_or("a member is cut short")?;
        let (member, _later) =
            postcard::take_from_bytes::<WireMember>(member).map_err(|_| "a member does not decode")?;
        let state = match member.state {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err("a member has an unknown state"),
        };
        *bytes = rest;
        Ok(Member::new(member.id, member.refutations, state))
    }
}

/// Why foca's codec failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct CodecError(&'static str);

impl foca::Codec<Identity> for SwimCodec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Identity>, buf: impl BufMut) -> Result<(), CodecError> {
        put(&postcard::to_allocvec(header).map_err(|_| CodecError("a header does not encode"))?, buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, CodecError> {
        // foca hands over one contiguous slice.
        let (header, after) = postcard::take_from_bytes::<Header<Identity>>(buf.chunk())
            .map_err(|_| CodecError("a header does not decode"))?;
        let used = buf.chunk().len() - after.len();
        buf.advance(used);
        Ok(header)
    }

    fn encode_member(&mut self, member: &Member<Identity>, buf: impl BufMut) -> Result<(), CodecError> {
        let state = match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        };
        let wire = WireMember { id: *member.id(), refutations: member.incarnation(), state };
        let body = postcard::to_allocvec(&wire).map_err(|_| CodecError("a member does not encode"))?;
        let mut bytes = Vec::with_capacity(body.len() + 1);
        bytes.push(u8::try_from(body.len()).map_err(|_| CodecError("a member is too long"))?);
        bytes.extend_from_slice(&body);
        put(&bytes, buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, CodecError> {
        let mut rest = buf.chunk();
        let before = rest.len();
        let member = self.take_member(&mut rest).map_err(CodecError)?;
        let used = before - rest.len();
        buf.advance(used);
        Ok(member)
    }
}

fn put(bytes: &[u8], mut buf: impl BufMut) -> Result<(), CodecError> {
    if buf.remaining_mut() < bytes.len() {
        return Err(CodecError("the packet is full"));
    }
    buf.put_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(byte: u8) -> Identity {
        Identity::of(NodeKey([byte; 16]), Incarnation::first_of(u64::from(byte)))
    }

    fn gossip(members: &[Member<Identity>]) -> Vec<u8> {
        let header =
            Header { src: identity(1), src_incarnation: 0, dst: identity(2), message: Message::Gossip };
        let mut bytes = Vec::new();
        foca::Codec::encode_header(&mut SwimCodec, &header, &mut bytes).expect("fits");
        bytes.put_u16(members.len() as u16);
        for member in members {
            foca::Codec::encode_member(&mut SwimCodec, member, &mut bytes).expect("fits");
        }
        bytes
    }

    #[test]
    fn a_packet_survives_the_round_trip_and_can_be_rebuilt_without_a_member() {
        let members = [Member::alive(identity(3)), Member::down(identity(4))];
        let note = full_note();
        let packet = seal(Form::Full, &note, &gossip(&members));
        let opened = opened(&packet).expect("opens");
        assert_eq!(opened.note, note);
        assert_eq!(opened.members.len(), 2);
        let without = opened.rebuilt(&[true, false]);
        assert_eq!(without, gossip(&members[..1]));
    }

    fn opened(packet: &[u8]) -> Result<Opened<'_>, PacketError> {
        open(packet, identity(1).key, identity(2).key)
    }

    #[test]
    fn the_compact_form_says_the_same_in_32_bytes_less() {
        let bytes = gossip(&[Member::alive(identity(3)), Member::down(identity(4))]);
        let [full, compact] = [Form::Full, Form::Compact].map(|form| seal(form, &full_note(), &bytes));
        assert_eq!(full.len() - compact.len(), 32);
        let opened = opened(&compact).expect("opens");
        assert_eq!(&opened.foca_bytes[..], &bytes[..]);
        assert_eq!((opened.header.src, opened.header.dst), (identity(1), identity(2)));
        assert_eq!(opened.rebuilt(&[true, true]), bytes);
    }

    #[test]
    fn a_member_takes_no_more_than_31_bytes() {
        let id = Identity::of(NodeKey([255; 16]), Incarnation(u64::MAX));
        let mut bytes = Vec::new();
        foca::Codec::encode_member(&mut SwimCodec, &Member::new(id, u16::MAX, State::Down), &mut bytes)
            .expect("fits");
        assert!(bytes.len() <= 31, "{}", bytes.len());
    }

    #[test]
    fn a_full_note_fits_the_space_set_aside_for_it() {
        assert!(encode_note(&full_note()).len() <= limits::SWIM_TRAILER_BYTES_MAX);
    }

    #[test]
    fn a_note_of_version_1_has_departures_only_and_its_nodes_skip_the_rest_of_ours() {
        let left = vec![(NodeKey([9; 16]), Incarnation::first_of(1))];
        let theirs = postcard::to_allocvec(&left).expect("encodes");
        assert_eq!(open_note(&theirs).expect("opens"), Note { left, ..Note::default() });
        let (read, _rest) =
            postcard::take_from_bytes::<Vec<(NodeKey, Incarnation)>>(&encode_note(&full_note()))
                .map(|(left, rest)| (left, rest.len()))
                .expect("as version 1 reads it");
        assert_eq!(read, full_note().left);
    }

    fn full_note() -> Note {
        let rumour = Accusation {
            key: NodeKey([255; 16]),
            incarnation: Incarnation(u64::MAX),
            refutations: u16::MAX,
            by: NodeKey([254; 16]),
            is_verdict: true,
        };
        Note {
            left: vec![(NodeKey([255; 16]), Incarnation(u64::MAX)); DEPARTURES_PER_PACKET_MAX],
            rumours: vec![rumour; RUMOURS_PER_PACKET_MAX],
            nacks: vec![u8::MAX; NACKS_PER_PACKET_MAX],
            health: Some(7),
            coordinate: vec![255; limits::COORDINATE_BYTES_MAX],
        }
    }

    #[test]
    fn cut_long_and_lying_packets_are_refused() {
        let good = seal(Form::Full, &Note::default(), &gossip(&[Member::alive(identity(3))]));
        let compact = seal(Form::Compact, &Note::default(), &gossip(&[Member::alive(identity(3))]));
        for length in 0..compact.len() {
            assert!(
                opened(&compact[..length]).is_ok_and(|o| o.members.is_empty())
                    || opened(&compact[..length]).is_err()
            );
        }
        for length in 0..good.len() {
            // Cut exactly behind the header it is a whole packet that carries no news.
            assert!(
                opened(&good[..length]).is_ok_and(|o| o.members.is_empty())
                    || opened(&good[..length]).is_err()
            );
        }
        assert_eq!(opened(&vec![1; 1151]).expect_err("long"), PacketError::Length(1151));
        let mut other = good.clone();
        other[0] = 7;
        assert_eq!(opened(&other).expect_err("version"), PacketError::Version(7));
        let trailing = [good, vec![0]].concat();
        assert!(opened(&trailing).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_opening_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = opened(&bytes);
            for form in 1..3 {
                let _ = opened(&[&[form, 0], &bytes[..]].concat());
            }
        }
    }
}
