//! How a flow holds and moves bytes: the copy engine.
//!
//! Bytes are read into the loop's one scratch buffer and written from there at once. Only what the sink did not take is
//! held, in a buffer from a pool that it goes back to when it is empty: a tunnel in which nothing waits owns none.
//! While bytes are held nothing is read, so one buffer of at most [`FILL_BYTES_MAX`] is all that a flow can own.

use std::io;

use super::transport::{Received, Socket, Transport};

/// The most that is read at once, and so the most that is held: what one turn may move in one direction. 64 KiB moves
/// bulk at full speed and keeps the wait of the sessions beside it a third of what 256 KiB would make it.
pub const FILL_BYTES_MAX: usize = 64 * 1024;

/// Empty buffers that are kept for reuse; further ones are freed.
const SPARE_BUFFERS_MAX: usize = 32;

/// Buffers that wait for a flow that needs one.
#[derive(Debug, Default)]
pub struct Buffers {
    spare: Vec<Vec<u8>>,
}

impl Buffers {
    /// A buffer with these bytes in it.
    fn with(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(FILL_BYTES_MAX));
        buffer.extend_from_slice(bytes);
        buffer
    }

    fn give_back(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() == FILL_BYTES_MAX && self.spare.len() < SPARE_BUFFERS_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// What a fill brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Bytes were taken from the source.
    Bytes {
        /// How many were taken.
        taken: usize,
        /// How many of them the sink has taken already.
        flushed: usize,
    },
    /// There were none.
    Blocked,
    /// The source has ended.
    End,
}

/// Which side of a flow failed, and how.
#[derive(Debug)]
pub enum Trouble {
    /// Reading.
    Source(io::Error),
    /// Writing.
    Sink(io::Error),
    /// The bytes themselves: the framing of a body is broken.
    Bytes(&'static str),
    /// The source ended in the middle of a body.
    Truncated,
}

/// Bytes on their way from a source to a sink.
#[derive(Debug, Default)]
pub struct Engine {
    held: Vec<u8>,
    /// How much of `held` has been flushed; 0 <= start <= held.len(), equal only when both are 0.
    start: usize,
}

impl Engine {
    /// An engine that holds these bytes.
    pub fn holding(held: Vec<u8>) -> Engine {
        Engine { held, start: 0 }
    }

    /// Whether bytes wait for the sink.
    pub fn held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether bytes can be taken from the source.
    pub fn room(&self) -> bool {
        !self.held()
    }

    /// Takes bytes from the source, passes them through `strain` (which moves those to be passed on to the front and
    /// says how many they are), and gives them to the sink as far as it takes them. There must be room.
    pub fn fill<S: Socket>(
        &mut self,
        source: &mut Transport<S>,
        sink: &mut Transport<S>,
        scratch: &mut [u8],
        buffers: &mut Buffers,
        strain: impl FnOnce(&mut [u8]) -> Result<usize, &'static str>,
    ) -> Result<Filled, Trouble> {
        debug_assert!(self.room(), "a flow fills only where there is room");
        let taken = match source.read(scratch).map_err(Trouble::Source)? {
            Received::Bytes(count) => count,
            Received::Blocked => return Ok(Filled::Blocked),
            Received::End => return Ok(Filled::End),
        };
        let kept = strain(&mut scratch[..taken]).map_err(Trouble::Bytes)?;
        // No bytes, no write: of a body's framing nothing may be left.
        let flushed = if kept > 0 { sink.write(&scratch[..kept]).map_err(Trouble::Sink)? } else { 0 };
        if flushed < kept {
            self.held = buffers.with(&scratch[flushed..kept]);
        }
        Ok(Filled::Bytes { taken, flushed })
    }

    /// Gives held bytes to the sink, as many as it takes.
    pub fn flush<S: Socket>(
        &mut self,
        sink: &mut Transport<S>,
        buffers: &mut Buffers,
    ) -> Result<usize, Trouble> {
        let flushed = sink.write(&self.held[self.start..]).map_err(Trouble::Sink)?;
        self.start += flushed;
        if self.start == self.held.len() {
            self.start = 0;
            buffers.give_back(std::mem::take(&mut self.held));
        }
        Ok(flushed)
    }
}
