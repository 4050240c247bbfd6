//! Frames on QUIC streams: reading with bounds, and writing without a task in between.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};

use crate::core::wire::{self, Body, WireError};

/// Bytes taken from a stream at once.
const READ_BYTES: usize = 64 << 10;

/// Why a stream cannot be read further.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The peer sent what is not a frame.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The stream or its connection is gone.
    #[error("the stream is gone: {0}")]
    Gone(#[from] quinn::ReadError),
    /// It ended in the middle of a frame.
    #[error("the stream ended in the middle of a frame")]
    CutShort,
}

/// Reads one frame after another. Holds at most one frame and one read's bytes.
#[derive(Debug)]
pub(super) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    length_max: usize,
}

impl FrameReader {
    pub(super) fn new(stream: RecvStream, length_max: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), length_max }
    }

    /// Allows longer frames from here on: the peer is known.
    pub(super) fn allow(&mut self, length_max: usize) {
        self.length_max = length_max;
    }

    /// The next frame without its length, or `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            if let Some(frame) = self.take_buffered()? {
                return Ok(Some(frame));
            }
            match self.stream.read_chunk(READ_BYTES, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ReadError::CutShort),
            }
        }
    }

    fn take_buffered(&mut self) -> Result<Option<Bytes>, WireError> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = wire::frame_length(*prefix, self.length_max)?;
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(4 + length).freeze();
        Ok(Some(frame.split_off(4)))
    }
}

/// Why a frame was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendFailure {
    /// The peer does not read, and what waits for it has reached its bound.
    #[error("the peer reads too slowly")]
    Full,
    /// The stream or its connection is gone.
    #[error("the connection is gone")]
    Gone,
    /// The frame is beyond its bound.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// A stream that many tasks write frames to, in the order of their calls.
///
/// Whoever finds it idle writes its own frame at once, on its own task, and whatever others add
/// meanwhile; the others return as soon as their frame is in the queue. Only when the peer's window is
/// full does a task take over and wait. So a frame costs no task switch, and frames that wait are
/// written together.
#[derive(Debug)]
pub(super) struct FrameWriter {
    state: Mutex<WriterState>,
    waiting_bytes_max: usize,
    /// The protocol version that frames carry.
    version: AtomicU8,
    /// The node's own: a caller's may end before what waits is written.
    executor: tokio::runtime::Handle,
}

#[derive(Debug)]
struct WriterState {
    waiting: Vec<u8>,
    stream: Stream,
}

/// Who has the stream.
#[derive(Debug)]
enum Stream {
    Idle(SendStream),
    /// Somebody is writing, and will come back for what waits.
    Taken,
    Gone,
}

impl FrameWriter {
    /// Its frames carry `version` until it is told another. Must be called on the node's executor.
    pub(super) fn new(stream: SendStream, waiting_bytes_max: usize, version: u8) -> Self {
        let state = WriterState { waiting: Vec::new(), stream: Stream::Idle(stream) };
        let executor = tokio::runtime::Handle::current();
        Self { state: Mutex::new(state), waiting_bytes_max, version: AtomicU8::new(version), executor }
    }

    /// The version that frames carry from here on.
    pub(super) fn speak(&self, version: u8) {
        self.version.store(version, Ordering::Relaxed);
    }

    /// Writes a frame, or queues it behind those that are being written.
    ///
    /// # Errors
    /// [`SendFailure`]; the frame was not taken.
    pub(super) fn send<B: Body>(self: &Arc<Self>, body: &B) -> Result<(), SendFailure> {
        self.push(|version, waiting| wire::encode_at(version, body, waiting))
    }

    /// Writes what [`wire::encode`] has made: one frame or more.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(super) fn send_encoded(self: &Arc<Self>, frames: &[u8]) -> Result<(), SendFailure> {
        self.push(|_, waiting| {
            waiting.extend_from_slice(frames);
            Ok(())
        })
    }

    pub(super) fn send_swim(self: &Arc<Self>, packet: &[u8]) -> Result<(), SendFailure> {
        self.push(|version, waiting| {
            wire::encode_swim(version, packet, waiting);
            Ok(())
        })
    }

    fn push(
        self: &Arc<Self>,
        encode: impl FnOnce(u8, &mut Vec<u8>) -> Result<(), WireError>,
    ) -> Result<(), SendFailure> {
        let mut state = self.lock();
        if matches!(state.stream, Stream::Gone) {
            return Err(SendFailure::Gone);
        }
        if state.waiting.len() >= self.waiting_bytes_max {
            return Err(SendFailure::Full);
        }
        encode(self.version.load(Ordering::Relaxed), &mut state.waiting)?;
        if !matches!(state.stream, Stream::Idle(_)) {
            return Ok(());
        }
        let Stream::Idle(stream) = std::mem::replace(&mut state.stream, Stream::Taken) else {
            return Ok(());
        };
        let bytes = std::mem::take(&mut state.waiting);
        drop(state);
        self.write_now(stream, bytes)
    }

    /// Writes without waiting; what the peer's window does not take is left to a task.
    fn write_now(self: &Arc<Self>, mut stream: SendStream, mut bytes: Vec<u8>) -> Result<(), SendFailure> {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            let mut written = 0;
            while written < bytes.len() {
                match Pin::new(&mut stream).poll_write(&mut context, &bytes[written..]) {
                    Poll::Ready(Ok(n)) => written += n,
                    Poll::Ready(Err(_)) => {
                        self.become_gone();
                        return Err(SendFailure::Gone);
                    }
                    Poll::Pending => {
                        let writer = Arc::clone(self);
                        self.executor
                            .spawn(async move { writer.write_waiting(stream, bytes, written).await });
                        return Ok(());
                    }
                }
            }
            match self.put_back(stream, bytes) {
                Some((again, more)) => (stream, bytes) = (again, more),
                None => return Ok(()),
            }
        }
    }

    async fn write_waiting(self: Arc<Self>, mut stream: SendStream, mut bytes: Vec<u8>, mut written: usize) {
        loop {
            if stream.write_all(&bytes[written..]).await.is_err() {
                return self.become_gone();
            }
            match self.put_back(stream, bytes) {
                Some((again, more)) => (stream, bytes, written) = (again, more, 0),
                None => return,
            }
        }
    }

    /// Leaves the stream for the next caller, unless frames have come in meanwhile: those are handed back.
    /// `spent` is kept for its capacity.
    fn put_back(&self, stream: SendStream, mut spent: Vec<u8>) -> Option<(SendStream, Vec<u8>)> {
        let mut state = self.lock();
        spent.clear();
        if state.waiting.is_empty() {
            if spent.capacity() <= READ_BYTES {
                state.waiting = spent;
            }
            state.stream = Stream::Idle(stream);
            return None;
        }
        let more = std::mem::replace(&mut state.waiting, spent);
        Some((stream, more))
    }

    /// Ends the stream and waits until the peer has acknowledged all of it. What another task is still
    /// writing is not waited for.
    pub(super) async fn finish(&self) {
        let stream = std::mem::replace(&mut self.lock().stream, Stream::Gone);
        if let Stream::Idle(mut stream) = stream
            && stream.finish().is_ok()
        {
            // An error is the end of the connection: there is nobody left to wait for.
            let _ = stream.stopped().await;
        }
    }

    fn become_gone(&self) {
        let mut state = self.lock();
        state.stream = Stream::Gone;
        state.waiting = Vec::new();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WriterState> {
        // Nothing under the lock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
