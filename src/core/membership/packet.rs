//! SWIM packets: our envelope around foca's bytes, the codec inside them, and the checks before foca
//! sees anything.
//!
//! A packet is `version: u8 | note length: u8 | note | foca's bytes` and at most
//! [`limits::SWIM_PACKET_BYTES_MAX`] long. The note is ours: news that foca has no place for (who left
//! of its own will). foca's bytes are a header, a count and members, in `postcard`, each member with a
//! length of its own, because `postcard` is positional and a later version may append fields.

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::core::ids::{Incarnation, NodeKey};
use crate::core::limits;

const VERSION: u8 = 1;
const ENVELOPE_BYTES: usize = 2;
/// What foca may use of a packet.
pub(super) const FOCA_BYTES_MAX: usize =
    limits::SWIM_PACKET_BYTES_MAX - ENVELOPE_BYTES - limits::SWIM_TRAILER_BYTES_MAX;
/// Departures told in one packet; a departure has at most 26 bytes.
pub(super) const DEPARTURES_PER_PACKET_MAX: usize = 2;

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

/// Our part of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Note {
    /// Nodes that left of their own will, with the last incarnation that did.
    pub(super) left: Vec<(NodeKey, Incarnation)>,
}

/// Puts foca's bytes and our note into one packet.
pub(super) fn seal(note: &Note, foca_bytes: &[u8]) -> Vec<u8> {
    let note = if note.left.is_empty() { Vec::new() } else { encode_note(note) };
    let mut packet = Vec::with_capacity(ENVELOPE_BYTES + note.len() + foca_bytes.len());
    packet.push(VERSION);
    packet.push(note.len() as u8);
    packet.extend_from_slice(&note);
    packet.extend_from_slice(foca_bytes);
    packet
}

fn encode_note(note: &Note) -> Vec<u8> {
    let bytes = postcard::to_allocvec(note).expect("a vector of plain numbers always encodes");
    assert!(bytes.len() <= limits::SWIM_TRAILER_BYTES_MAX, "a note is bounded where it is filled");
    bytes
}

/// A member and the bytes it takes in its packet.
type OpenedMember<'a> = (Member<Identity>, &'a [u8]);

/// A packet taken apart, before foca has seen it.
#[derive(Debug)]
pub(super) struct Opened<'a> {
    pub(super) note: Note,
    pub(super) header: Header<Identity>,
    /// The members with the bytes each of them takes, so that a packet can be rebuilt without some.
    pub(super) members: Vec<OpenedMember<'a>>,
    pub(super) foca_bytes: &'a [u8],
    header_bytes: &'a [u8],
}

impl Opened<'_> {
    /// foca's bytes with only those members that are kept, told in the order of [`Opened::members`].
    pub(super) fn rebuilt(&self, keep: &[bool]) -> Vec<u8> {
        let kept: Vec<_> = self.members.iter().zip(keep).filter(|(_, keep)| **keep).map(|(m, _)| m).collect();
        let mut bytes = self.header_bytes.to_vec();
        if self.header_bytes.len() < self.foca_bytes.len() {
            bytes.put_u16(kept.len() as u16);
        }
        for (_, member) in kept {
            bytes.extend_from_slice(member);
        }
        bytes
    }
}

/// Takes a packet apart.
///
/// # Errors
/// [`PacketError`]; nothing has changed.
pub(super) fn open(packet: &[u8]) -> Result<Opened<'_>, PacketError> {
    if packet.len() > limits::SWIM_PACKET_BYTES_MAX {
        return Err(PacketError::Length(packet.len()));
    }
    let [version, note_length, rest @ ..] = packet else {
        return Err(PacketError::Length(packet.len()));
    };
    if *version != VERSION {
        return Err(PacketError::Version(*version));
    }
    let Some((note, foca_bytes)) = rest.split_at_checked(*note_length as usize) else {
        return Err(PacketError::Malformed("the note is longer than the packet"));
    };
    let note = open_note(note)?;
    let malformed = |_| PacketError::Malformed("its header does not decode");
    let (header, after) = postcard::take_from_bytes::<Header<Identity>>(foca_bytes).map_err(malformed)?;
    let header_bytes = &foca_bytes[..foca_bytes.len() - after.len()];
    let members = open_members(&header, after)?;
    Ok(Opened { note, header, members, foca_bytes, header_bytes })
}

fn open_note(bytes: &[u8]) -> Result<Note, PacketError> {
    if bytes.is_empty() {
        return Ok(Note::default());
    }
    let (note, _later) = postcard::take_from_bytes::<Note>(bytes)
        .map_err(|_| PacketError::Malformed("its note does not decode"))?;
    if note.left.len() > DEPARTURES_PER_PACKET_MAX {
        return Err(PacketError::Malformed("its note is too long"));
    }
    Ok(note)
}

fn open_members<'a>(
    header: &Header<Identity>,
    mut bytes: &'a [u8],
) -> Result<Vec<OpenedMember<'a>>, PacketError> {
    let mut members = Vec::new();
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
        let mut rest = bytes;
        let member = SwimCodec.take_member(&mut rest).map_err(PacketError::Malformed)?;
        members.push((member, &bytes[..bytes.len() - rest.len()]));
        bytes = rest;
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
        let note = Note { left: vec![(NodeKey([9; 16]), Incarnation::first_of(1))] };
        let packet = seal(&note, &gossip(&members));
        let opened = open(&packet).expect("opens");
        assert_eq!(opened.note, note);
        assert_eq!(opened.members.len(), 2);
        let without = opened.rebuilt(&[true, false]);
        assert_eq!(without, gossip(&members[..1]));
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
        let left = vec![(NodeKey([255; 16]), Incarnation(u64::MAX)); DEPARTURES_PER_PACKET_MAX];
        assert!(encode_note(&Note { left }).len() <= limits::SWIM_TRAILER_BYTES_MAX);
    }

    #[test]
    fn cut_long_and_lying_packets_are_refused() {
        let good = seal(&Note::default(), &gossip(&[Member::alive(identity(3))]));
        for length in 0..good.len() {
            // Cut exactly behind the header it is a whole packet that carries no news.
            assert!(
                open(&good[..length]).is_ok_and(|o| o.members.is_empty()) || open(&good[..length]).is_err()
            );
        }
        assert_eq!(open(&vec![1; 1151]).expect_err("long"), PacketError::Length(1151));
        let mut other = good.clone();
        other[0] = 7;
        assert_eq!(open(&other).expect_err("version"), PacketError::Version(7));
        let trailing = [good, vec![0]].concat();
        assert!(open(&trailing).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_opening_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = open(&bytes);
            let _ = open(&[&[1, 0], &bytes[..]].concat());
        }
    }
}
