//! Whether a write-ahead log that was left behind is damaged in its middle.
//!
//! SQLite reads a log up to the first frame whose checksum is wrong and takes that for its end, because a loss of
//! power ends logs so. A frame that went bad later looks the same to it, and all that was acknowledged behind
//! that frame would be gone without a word. The frames tell the two apart: each one's checksum continues that of
//! the frame before, which stands in that frame, so the chain can be taken up again behind a bad one. A commit that
//! waited for the disk, with anything behind it, was on the disk before that was written. If such a commit lies behind
//! a bad frame, that frame had been on the disk too, and has been damaged since.
//!
//! # What it cannot tell
//!
//! A bad frame in the last commit that waited for the disk, or behind it, is taken for a loss of power, as SQLite
//! takes it: that commit is not there then.
//!
//! The format is described in <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Bytes of the log's head and of a frame's.
const HEAD: usize = 32;
const FRAME_HEAD: usize = 24;
/// Begins a log; the last bit says in which order the words of its checksums are.
const MAGIC: u32 = 0x377f_0682;

/// What is wrong with a log, if it can be told. `marker` is a page that every commit that waits for the disk may write,
/// and no other commit does.
///
/// # Errors
/// The log cannot be read.
pub(super) fn damage(log: &Path, marker: u32) -> io::Result<Option<&'static str>> {
    let file = match File::open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // The head is on the disk before the first frame is written.
    if file.metadata()?.len() <= HEAD as u64 {
        return Ok(None);
    }
    let mut log = BufReader::with_capacity(1 << 20, file);
    let mut bytes = [0; HEAD];
    log.read_exact(&mut bytes)?;
    let Some(head) = Head::parse(&bytes) else {
        return Ok(Some("the head of its log is wrong"));
    };
    let mut chain = Chain { checksum: head.checksum, ..Chain::default() };
    let mut frame = vec![0; FRAME_HEAD + head.page_bytes];
    while read_frame(&mut log, &mut frame)? {
        if chain.take(&head, &frame, marker) {
            return Ok(Some("a frame in the middle of its log is wrong"));
        }
    }
    Ok(None)
}

/// Whether there was another whole frame.
fn read_frame(log: &mut impl Read, frame: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(frame) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The head of a log.
struct Head {
    is_big_endian: bool,
    page_bytes: usize,
    salts: [u8; 8],
    checksum: [u32; 2],
}

impl Head {
    /// `None` if it is not what SQLite writes.
    fn parse(bytes: &[u8; HEAD]) -> Option<Self> {
        let magic = word(bytes, 0);
        let page_bytes = word(bytes, 8);
        let salts = bytes[16..24].try_into().expect("eight bytes");
        let is_known = magic & !1 == MAGIC && page_bytes.is_power_of_two();
        if !is_known || !(512..=65536).contains(&page_bytes) {
            return None;
        }
        let is_big_endian = magic & 1 == 1;
        let checksum = checksum(is_big_endian, [0; 2], &bytes[..24]);
        let stored = [word(bytes, 24), word(bytes, 28)];
        let head = Self { is_big_endian, page_bytes: page_bytes as usize, salts, checksum };
        (checksum == stored).then_some(head)
    }
}

/// How far the frames hold together.
#[derive(Default)]
struct Chain {
    /// As the last frame says.
    checksum: [u32; 2],
    is_broken: bool,
    /// Whether the transaction at hand has written the marker.
    has_marker: bool,
    /// Behind the bad frame is a commit that waited for the disk.
    has_commit: bool,
}

impl Chain {
    /// Whether this frame proves that one before it was damaged.
    fn take(&mut self, head: &Head, frame: &[u8], marker: u32) -> bool {
        let own = checksum(head.is_big_endian, self.checksum, &frame[..8]);
        let own = checksum(head.is_big_endian, own, &frame[FRAME_HEAD..]);
        self.checksum = [word(frame, 16), word(frame, 20)];
        if own != self.checksum || frame[8..16] != head.salts {
            self.is_broken = true;
            return false;
        }
        if !self.is_broken {
            return false;
        }
        if self.has_commit {
            return true;
        }
        self.has_marker |= word(frame, 0) == marker;
        let is_commit = word(frame, 4) != 0;
        if is_commit {
            self.has_commit = self.has_marker;
            self.has_marker = false;
        }
        false
    }
}

fn checksum(is_big_endian: bool, [mut first, mut second]: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    for pair in bytes.chunks_exact(8) {
        let read = |at: usize| {
            let word = word(pair, at);
            if is_big_endian { word } else { word.swap_bytes() }
        };
        first = first.wrapping_add(read(0)).wrapping_add(second);
        second = second.wrapping_add(read(4)).wrapping_add(first);
    }
    [first, second]
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
