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

#[cfg(test)]
impl Engine {
    /// Bytes of memory that it owns.
    pub fn owned_bytes(&self) -> usize {
        self.held.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::{Peer, Scripted, pair};
    use super::super::transport::Edges;
    use super::*;

    /// A source with these bytes and a sink with this much room.
    fn ends(bytes: &str, room: usize) -> ([Transport<Scripted>; 2], [Peer; 2]) {
        let ((near, source), (far, sink)) = (pair(), pair());
        source.sends(bytes);
        sink.wire().room = room;
        let mut ends = [Transport::connected(near), Transport::connected(far)];
        ends[0].mark(Edges { readable: true, ..Edges::default() });
        (ends, [source, sink])
    }

    fn fill(
        engine: &mut Engine,
        ends: &mut [Transport<Scripted>; 2],
        buffers: &mut Buffers,
        strain: impl FnOnce(&mut [u8]) -> Result<usize, &'static str>,
    ) -> Result<Filled, Trouble> {
        let [source, sink] = ends;
        engine.fill(source, sink, &mut [0; 8], buffers, strain)
    }

    fn all(bytes: &mut [u8]) -> Result<usize, &'static str> {
        Ok(bytes.len())
    }

    #[test]
    fn bytes_that_the_sink_takes_at_once_need_no_buffer() {
        let (mut engine, mut buffers) = (Engine::default(), Buffers::default());
        let (mut ends, [_source, sink]) = ends("hello", 100);
        let filled = fill(&mut engine, &mut ends, &mut buffers, all).unwrap();
        assert_eq!(filled, Filled::Bytes { taken: 5, flushed: 5 });
        assert_eq!(sink.got(), "hello");
        assert!(engine.room() && !engine.held() && engine.owned_bytes() == 0);
        assert_eq!(buffers.spare.len(), 0);
    }

    #[test]
    fn only_what_the_sink_did_not_take_is_held_and_the_buffer_goes_back_when_it_is_empty() {
        let (mut engine, mut buffers) = (Engine::default(), Buffers::default());
        let (mut ends, [_source, sink]) = ends("hello", 2);
        let filled = fill(&mut engine, &mut ends, &mut buffers, all).unwrap();
        assert_eq!(filled, Filled::Bytes { taken: 5, flushed: 2 });
        assert!(engine.held() && !engine.room());
        assert_eq!(engine.owned_bytes(), FILL_BYTES_MAX);
        sink.takes(1);
        assert_eq!(engine.flush(&mut ends[1], &mut buffers).unwrap(), 1);
        assert!(engine.held() && !engine.room());
        assert_eq!(engine.flush(&mut ends[1], &mut buffers).unwrap(), 0);
        sink.takes(10);
        assert_eq!(engine.flush(&mut ends[1], &mut buffers).unwrap(), 2);
        assert_eq!(sink.got(), "hello");
        assert!(engine.room() && !engine.held() && engine.owned_bytes() == 0);
        assert_eq!(buffers.spare.len(), 1, "it waits for the next flow that needs one");
        assert!(buffers.spare[0].is_empty());
        let again = buffers.with(b"x");
        assert_eq!((again.as_slice(), buffers.spare.len()), (&b"x"[..], 0));
    }

    #[test]
    fn the_pool_keeps_a_few_buffers_of_its_own_kind_and_frees_the_rest() {
        let mut buffers = Buffers::default();
        buffers.give_back(b"from an opening".to_vec());
        assert_eq!(buffers.spare.len(), 0);
        let lent: Vec<_> = (0..2 * SPARE_BUFFERS_MAX).map(|_| buffers.with(b"x")).collect();
        lent.into_iter().for_each(|buffer| buffers.give_back(buffer));
        assert_eq!(buffers.spare.len(), SPARE_BUFFERS_MAX);
    }

    #[test]
    fn a_strain_decides_what_is_passed_on() {
        let (mut engine, mut buffers) = (Engine::default(), Buffers::default());
        let (mut ends, [_source, sink]) = ends("..hello", 3);
        let filled = fill(&mut engine, &mut ends, &mut buffers, |bytes| {
            bytes.copy_within(2.., 0);
            Ok(bytes.len() - 2)
        });
        assert_eq!(filled.unwrap(), Filled::Bytes { taken: 7, flushed: 3 });
        sink.takes(10);
        engine.flush(&mut ends[1], &mut buffers).unwrap();
        assert_eq!(sink.got(), "hello");
    }

    #[test]
    fn where_nothing_is_kept_nothing_is_written() {
        let (mut engine, mut buffers) = (Engine::default(), Buffers::default());
        let (mut ends, [_source, sink]) = ends("5;x\r\n", 100);
        let filled = fill(&mut engine, &mut ends, &mut buffers, |_| Ok(0)).unwrap();
        assert_eq!(filled, Filled::Bytes { taken: 5, flushed: 0 });
        assert_eq!(sink.wire().calls[1], 0);
        assert!(engine.room() && engine.owned_bytes() == 0);
    }

    #[test]
    fn trouble_names_its_side() {
        let (mut engine, mut buffers) = (Engine::default(), Buffers::default());
        let (mut broken, _peers) = ends("hello", 100);
        let filled = fill(&mut engine, &mut broken, &mut buffers, |_| Err("broken"));
        assert!(matches!(filled, Err(Trouble::Bytes("broken"))));

        let (mut no_sink, [_source, sink]) = ends("hello", 100);
        sink.vanishes();
        let filled = fill(&mut engine, &mut no_sink, &mut buffers, all);
        assert!(matches!(filled, Err(Trouble::Sink(error)) if error.kind() == io::ErrorKind::BrokenPipe));

        let (mut no_source, [source, _sink]) = ends("", 100);
        source.resets();
        let filled = fill(&mut engine, &mut no_source, &mut buffers, all);
        assert!(
            matches!(filled, Err(Trouble::Source(error)) if error.kind() == io::ErrorKind::ConnectionReset)
        );

        let (mut ended, [source, _sink]) = ends("", 100);
        assert_eq!(fill(&mut engine, &mut ended, &mut buffers, all).unwrap(), Filled::Blocked);
        source.ends();
        assert_eq!(fill(&mut engine, &mut ended, &mut buffers, all).unwrap(), Filled::End);
    }
}
