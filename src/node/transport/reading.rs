//! Reading a peer's streams: one loop for all of them, and what may come on which.
//!
//! A frame that does not decode costs that frame; a stream that cannot be followed, or too many bad frames in
//! a row, costs the link.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::sleep;

use super::Inbox;
use super::framing::{FrameReader, ReadError};
use super::peer::Peer;
use crate::core::contract::Input;
use crate::core::limits;
use crate::core::wire::{self, Control, Data, FrameKind, WireError};

/// Malformed frames in a row on one stream before its link is closed.
const BAD_FRAMES_MAX: u32 = 16;

/// What a stream carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// Control frames, and SWIM packets where the path carries no datagram: to the core, at the peer's pace.
    Control,
    /// Messages: to the data handler.
    Data,
}

/// What became of a frame.
enum Taken {
    /// It was handed on.
    Frame,
    /// There is nothing to hand on in it.
    Nothing,
    /// A later version may know what it is.
    Unknown,
    /// Nobody is left to hand it to.
    Unwanted,
}

/// Reads frames until the stream or the link ends.
pub(super) async fn read_frames(peer: Arc<Peer>, mut reader: FrameReader, lane: Lane, inbox: Inbox) {
    reader.allow(limits::FRAME_BYTES_MAX);
    let mut bad = 0;
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(ReadError::Gone(_)) => return,
            Err(error @ (ReadError::Wire(_) | ReadError::CutShort)) => {
                return peer.give_up(&error.to_string());
            }
        };
        let taken = match lane {
            Lane::Control => take_control(&peer, &frame, &inbox).await,
            Lane::Data => take_data(&peer, &frame, &inbox),
        };
        match taken {
            Ok(Taken::Frame) => bad = 0,
            Ok(Taken::Nothing) => {}
            Ok(Taken::Unknown) => peer.note_unknown_frame("its kind"),
            Err(WireError::Unknown(what)) => peer.note_unknown_frame(&what),
            Ok(Taken::Unwanted) => return,
            Err(error) => {
                bad += 1;
                peer.note_bad_frame(&error);
                if bad >= BAD_FRAMES_MAX {
                    return peer.give_up("too many malformed frames");
                }
            }
        }
    }
}

async fn take_control(peer: &Peer, frame: &Bytes, inbox: &Inbox) -> Result<Taken, WireError> {
    peer.pace().spend(frame.len()).await;
    let frame = match wire::split(frame)? {
        Some((FrameKind::Control, body)) => wire::decode::<Control>(body)?,
        Some((FrameKind::Swim, body)) => {
            inbox.swim(peer.link(), frame.slice_ref(body));
            return Ok(Taken::Nothing);
        }
        Some((FrameKind::Hello | FrameKind::Data, _)) => {
            return Err(WireError::Bound("a frame of this kind does not belong on the control stream"));
        }
        None => return Ok(Taken::Unknown),
    };
    if frame == Control::KeepAlive {
        return Ok(Taken::Nothing);
    }
    let told = inbox.core.send(Input::Control { link: peer.link(), frame }).await;
    Ok(if told.is_ok() { Taken::Frame } else { Taken::Unwanted })
}

fn take_data(peer: &Arc<Peer>, frame: &Bytes, inbox: &Inbox) -> Result<Taken, WireError> {
    match wire::split(frame)? {
        Some((FrameKind::Data, body)) => {
            let frame = wire::decode::<Data>(body)?;
            peer.note_message();
            inbox.data.handle(peer, frame);
            Ok(Taken::Frame)
        }
        Some((FrameKind::Hello | FrameKind::Control | FrameKind::Swim, _)) => {
            Err(WireError::Bound("a frame of this kind does not belong on a data stream"))
        }
        None => Ok(Taken::Unknown),
    }
}

/// Holds a peer to [`limits::CONTROL_BYTES_PER_SECOND_MAX`] over all its streams, by reading them more
/// slowly (a token bucket of one second).
#[derive(Debug)]
pub(super) struct Pace {
    bucket: Mutex<(f64, Instant)>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { bucket: Mutex::new((limits::CONTROL_BYTES_PER_SECOND_MAX as f64, Instant::now())) }
    }

    async fn spend(&self, bytes: usize) {
        let wait = self.wait_after(bytes, Instant::now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// Takes bytes from the bucket: how long to wait until it holds none too few.
    fn wait_after(&self, bytes: usize, now: Instant) -> Duration {
        let rate = limits::CONTROL_BYTES_PER_SECOND_MAX as f64;
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = *bucket;
        let gained = now.saturating_duration_since(at).as_secs_f64() * rate;
        let left = (left + gained).min(rate) - bytes as f64;
        *bucket = (left, now);
        if left < 0.0 { Duration::from_secs_f64(-left / rate) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_may_say_a_seconds_worth_at_once_and_then_waits_for_each_byte() {
        let pace = Pace::new();
        let now = Instant::now();
        let rate = usize::try_from(limits::CONTROL_BYTES_PER_SECOND_MAX).expect("it fits");
        assert_eq!(pace.wait_after(rate, now), Duration::ZERO);
        assert_eq!(pace.wait_after(rate / 2, now), Duration::from_millis(500));
        assert_eq!(pace.wait_after(rate / 2, now + Duration::from_millis(500)), Duration::from_millis(500));
        assert_eq!(pace.wait_after(0, now + Duration::from_secs(60)), Duration::ZERO);
        assert_eq!(pace.wait_after(2 * rate, now + Duration::from_secs(60)), Duration::from_secs(1));
    }
}
