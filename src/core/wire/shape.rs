//! The shape of MessagePack: what must hold before a recursive decoder may see it.

use super::WireError;
use crate::core::limits;

/// Walks one MessagePack value without recursion or allocation and proves that it ends exactly where
/// the bytes end, nests at most [`limits::MSGPACK_DEPTH_MAX`] deep and claims no more elements than
/// bytes remain. Only what passes may be given to a recursive decoder.
///
/// # Errors
/// [`WireError::Shape`] names the rule.
pub fn check(bytes: &[u8]) -> Result<(), WireError> {
    let mut rest = bytes;
    let mut open = [0_u64; limits::MSGPACK_DEPTH_MAX];
    let mut depth = 0;
    loop {
        let (children, after) = value_head(rest)?;
        rest = after;
        if children > rest.len() as u64 {
            return Err(WireError::Shape("a count above the bytes that remain"));
        }
        if children > 0 {
            let Some(slot) = open.get_mut(depth) else {
                return Err(WireError::Shape("nested too deep"));
            };
            *slot = children;
            depth += 1;
            continue;
        }
        while depth > 0 {
            open[depth - 1] -= 1;
            if open[depth - 1] > 0 {
                break;
            }
            depth -= 1;
        }
        if depth == 0 {
            break;
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(WireError::Shape("trailing bytes")) }
}

/// Reads the head of one value: how many values follow inside it, and the bytes behind its own payload.
fn value_head(bytes: &[u8]) -> Result<(u64, &[u8]), WireError> {
    let cut = WireError::Shape("cut short");
    let (&marker, rest) = bytes.split_first().ok_or(cut.clone())?;
    let sized = |width: usize| -> Result<(u64, &[u8]), WireError> {
        if rest.len() < width {
            return Err(cut.clone());
        }
        let (length, rest) = rest.split_at(width);
        Ok((length.iter().fold(0, |n, b| n << 8 | u64::from(*b)), rest))
    };
    let skip = |length: u64, rest: &[u8], cut: WireError| -> Result<usize, WireError> {
        usize::try_from(length).ok().filter(|l| *l <= rest.len()).ok_or(cut)
    };
    let (children, rest, payload) = match marker {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, rest, 0),
        0x80..=0x8f => (2 * u64::from(marker & 0x0f), rest, 0),
        0x90..=0x9f => (u64::from(marker & 0x0f), rest, 0),
        0xa0..=0xbf => (0, rest, u64::from(marker & 0x1f)),
        0xc1 => return Err(WireError::Shape("a marker that does not exist")),
        0xc4 | 0xd9 => sized(1).map(|(n, r)| (0, r, n))?,
        0xc5 | 0xda => sized(2).map(|(n, r)| (0, r, n))?,
        0xc6 | 0xdb => sized(4).map(|(n, r)| (0, r, n))?,
        0xc7 => sized(1).map(|(n, r)| (0, r, n + 1))?,
        0xc8 => sized(2).map(|(n, r)| (0, r, n + 1))?,
        0xc9 => sized(4).map(|(n, r)| (0, r, n + 1))?,
        0xcc | 0xd0 => (0, rest, 1),
        0xcd | 0xd1 => (0, rest, 2),
        0xca | 0xce | 0xd2 => (0, rest, 4),
        0xcb | 0xcf | 0xd3 => (0, rest, 8),
        0xd4 => (0, rest, 2),
        0xd5 => (0, rest, 3),
        0xd6 => (0, rest, 5),
        0xd7 => (0, rest, 9),
        0xd8 => (0, rest, 17),
        0xdc => sized(2).map(|(n, r)| (n, r, 0))?,
        0xdd => sized(4).map(|(n, r)| (n, r, 0))?,
        0xde => sized(2).map(|(n, r)| (2 * n, r, 0))?,
        0xdf => sized(4).map(|(n, r)| (2 * n, r, 0))?,
    };
    let payload = skip(payload, rest, cut)?;
    Ok((children, &rest[payload..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_would_hurt_a_decoder_are_refused() {
        let deep = [vec![0x91; 1000], vec![0xc0]].concat();
        assert_eq!(check(&deep), Err(WireError::Shape("nested too deep")));
        assert!(check(&[0xdd, 0xff, 0xff, 0xff, 0xff, 0xc0]).is_err(), "2^32 elements in six bytes");
        assert!(check(&[0xdf, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(check(&[0xc6, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
        assert!(check(&[0xc0, 0xc0]).is_err(), "trailing");
        assert!(check(&[]).is_err());
        assert!(check(&[0xc1]).is_err());
        assert!(check(&[0x92, 0x01]).is_err(), "cut short");
        let fits = [vec![0x91; limits::MSGPACK_DEPTH_MAX], vec![0xc0]].concat();
        assert_eq!(check(&fits), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn what_the_decoder_accepts_passes_the_walk(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            // The walk must never be stricter about length than the decoder that follows it.
            if rmp_serde::from_slice::<u64>(&bytes[..]).is_ok() && check(&bytes).is_err() {
                // Only trailing bytes may make the difference.
                proptest::prop_assert!(check(&bytes) == Err(WireError::Shape("trailing bytes")));
            }
        }
    }
}
