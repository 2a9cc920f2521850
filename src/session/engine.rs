//! How a flow holds and moves bytes: by copy, and in bulk through a pipe.
//!
//! Copied bytes are read into the loop's one scratch buffer and written from there at once. Only what the sink did not
//! take is held, in a buffer from a pool that it goes back to when it is empty. Bulk is spliced: into a pipe from a
//! pool and at once out of it; again only what the sink did not take is held, in that pipe. So a tunnel in which
//! nothing waits owns neither, and whichever it is, while bytes are held none are taken. That leaves little to be
//! wrong about: the way is chosen anew whenever there is nothing on it, a pipe that is filled is empty, and a splice
//! that would block says that the source has nothing, as the pipe cannot be what is full.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::transport::{Received, Socket, Transport};
use crate::proto::adapt::{self, Pace, Thresholds};
use crate::sys::splice::{self, Pipe};

/// The most that is read at once, and so the most that a buffer holds: what one turn may copy in one direction. 64 KiB
/// moves bulk at full speed and keeps the wait of the sessions beside it a third of what 256 KiB would make it.
pub const FILL_BYTES_MAX: usize = 64 * 1024;

/// The most that one turn may splice in one direction, and so the most that a pipe holds.
pub const PUMP_BYTES_MAX: usize = 256 * 1024;

/// Empty buffers that are kept for reuse; further ones are freed.
const SPARE_BUFFERS_MAX: usize = 32;

/// Empty pipes that are kept for reuse. One does for any number of directions that are not held up; these are for some
/// that are.
const SPARE_PIPES_MAX: usize = 8;

/// Pipes there may be: each is two descriptors and some pages of the kernel's, and a direction keeps one for as long as
/// its sink is behind. Further directions are copied. It is half of what Linux lets all processes of a user have unless
/// they are privileged (`pipe-user-pages-soft`, pipe(7)).
const PIPES_MAX: usize = 128;

/// Descriptors that a proxy may have for pipes at most, beside two for each client.
pub const PIPE_DESCRIPTORS_MAX: u64 = if splice::IS_BUILT_IN { 2 * PIPES_MAX as u64 } else { 0 };

/// Having found no pipe to be had, so many directions in bulk make do without before there is another try. Each of them
/// copies a buffer meanwhile, 4 MiB in all, beside which a failed try is cheap.
const TRIES_SKIPPED: u32 = 64;

/// What waits for a flow that needs it: buffers, and pipes.
#[derive(Debug, Default)]
pub struct Buffers {
    #[allow(clippy::vec_box, reason = "a buffer keeps its box from flow to flow")]
    spare: Vec<Box<Waiting>>,
    /// Those that there are.
    count: Arc<AtomicUsize>,
    pipes: Pipes,
}

impl Buffers {
    /// The buffers of one of so many workers, which share the pipes that there may be.
    pub fn one_of(workers: usize) -> Buffers {
        let pipes = Pipes { open_max: PIPES_MAX / workers.max(1), ..Pipes::default() };
        Buffers { pipes, ..Buffers::default() }
    }

    /// Counts those that there are, and pipes, in these.
    pub fn count_in(&mut self, buffers: &Arc<AtomicUsize>, pipes: &Arc<AtomicUsize>) {
        (self.count, self.pipes.open) = (Arc::clone(buffers), Arc::clone(pipes));
    }

    /// A buffer with these bytes in it.
    fn with(&mut self, bytes: &[u8]) -> Box<Waiting> {
        let fresh = || {
            self.count.fetch_add(1, Relaxed);
            let count = Some(Arc::clone(&self.count));
            Box::new(Waiting { bytes: Vec::with_capacity(FILL_BYTES_MAX), start: 0, count })
        };
        let mut buffer = self.spare.pop().unwrap_or_else(fresh);
        buffer.bytes.extend_from_slice(bytes);
        buffer
    }

    fn give_back(&mut self, mut buffer: Box<Waiting>) {
        if buffer.bytes.capacity() == FILL_BYTES_MAX && self.spare.len() < SPARE_BUFFERS_MAX {
            buffer.bytes.clear();
            buffer.start = 0;
            self.spare.push(buffer);
        }
    }

    /// Descriptors are wanted by those who cannot do without: none is kept for a pipe that nobody uses, and none taken
    /// for another. Says whether some have become free.
    pub fn spare_descriptors(&mut self) -> bool {
        self.pipes.are_denied = true;
        let any = !self.pipes.spare.is_empty();
        self.pipes.spare.clear();
        any
    }

    /// There are descriptors again.
    pub fn use_descriptors(&mut self) {
        self.pipes.are_denied = false;
    }
}

/// Bytes that a sink did not take.
#[derive(Debug)]
pub struct Waiting {
    bytes: Vec<u8>,
    /// How many of them have been flushed since; 0 <= start < bytes.len() while an engine holds it.
    start: usize,
    /// Those of a pool, of which it is one.
    count: Option<Arc<AtomicUsize>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(count) = &self.count {
            count.fetch_sub(1, Relaxed);
        }
    }
}

/// The pipes of a pool, counted for as long as they are open, whoever has them.
#[derive(Debug)]
struct Pipes {
    #[allow(clippy::vec_box, reason = "a pipe keeps its box from flow to flow")]
    spare: Vec<Box<Pooled>>,
    open: Arc<AtomicUsize>,
    open_max: usize,
    /// Directions that have yet to make do without, since there was none to be had.
    skips: u32,
    are_denied: bool,
}

impl Default for Pipes {
    fn default() -> Pipes {
        Pipes { spare: Vec::new(), open: Arc::default(), open_max: PIPES_MAX, skips: 0, are_denied: false }
    }
}

impl Pipes {
    /// An empty pipe, if one is to be had.
    fn lend(&mut self) -> Option<Box<Pooled>> {
        if let Some(pipe) = self.spare.pop() {
            return Some(pipe);
        }
        if self.are_denied || self.open.load(Relaxed) >= self.open_max {
            return None;
        }
        if let Some(skips) = self.skips.checked_sub(1) {
            self.skips = skips;
            return None;
        }
        match Pipe::open() {
            Ok(pipe) => {
                self.open.fetch_add(1, Relaxed);
                Some(Box::new(Pooled { pipe, open: Arc::clone(&self.open) }))
            }
            Err(_) => {
                self.skips = TRIES_SKIPPED;
                None
            }
        }
    }

    fn give_back(&mut self, pipe: Box<Pooled>) {
        debug_assert_eq!(pipe.pipe.held(), 0, "another tunnel's bytes must not be met in a pipe");
        if !self.are_denied && self.spare.len() < SPARE_PIPES_MAX {
            self.spare.push(pipe);
        }
    }

    /// The kernel knows no splice, or somebody forbids it.
    fn give_up(&mut self) {
        self.open_max = 0;
        self.spare.clear();
    }
}

/// A pipe of a pool's. One that still has bytes in it is dropped, wherever that is, and never given back.
#[derive(Debug)]
pub struct Pooled {
    pipe: Pipe,
    open: Arc<AtomicUsize>,
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
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
    /// Nothing was taken by splicing: a copy is to look what there is.
    Unclear,
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

/// Bytes on their way from a source to a sink. It is 16 bytes, as a tunnel has two.
#[derive(Debug)]
pub enum Engine {
    /// None are, and the next come at this pace.
    Empty(Pace),
    /// These were read and not taken by the sink.
    Bytes(Pace, Box<Waiting>),
    /// Likewise those in this pipe.
    Pipe(Pace, Box<Pooled>),
}

const _: () = assert!(size_of::<Engine>() <= 16);

impl Default for Engine {
    fn default() -> Engine {
        Engine::Empty(Pace::Light)
    }
}

impl Engine {
    /// An engine that holds these bytes.
    pub fn holding(bytes: Vec<u8>) -> Engine {
        if bytes.is_empty() {
            return Engine::default();
        }
        Engine::Bytes(Pace::Light, Box::new(Waiting { bytes, start: 0, count: None }))
    }

    /// Whether bytes wait for the sink.
    pub fn held(&self) -> bool {
        match self {
            Engine::Empty(_) => false,
            Engine::Bytes(..) | Engine::Pipe(..) => true,
        }
    }

    /// Whether bytes can be taken from the source.
    pub fn room(&self) -> bool {
        !self.held()
    }

    /// The pace at which they come.
    pub fn pace(&self) -> Pace {
        let (Engine::Empty(pace) | Engine::Bytes(pace, _) | Engine::Pipe(pace, _)) = self;
        *pace
    }

    /// Copies: takes bytes from the source, passes them through `strain` (which moves those to be passed on to the
    /// front and says how many they are), and gives them to the sink as far as it takes them. There must be room.
    pub fn fill<S: Socket>(
        &mut self,
        source: &mut Transport<S>,
        sink: &mut Transport<S>,
        scratch: &mut [u8],
        buffers: &mut Buffers,
        thresholds: Thresholds,
        strain: impl FnOnce(&mut [u8]) -> Result<usize, &'static str>,
    ) -> Result<Filled, Trouble> {
        debug_assert!(self.room(), "a flow fills only where there is room");
        let taken = match source.read(scratch).map_err(Trouble::Source)? {
            Received::Bytes(count) => count,
            Received::Blocked => return Ok(Filled::Blocked),
            Received::End => return Ok(Filled::End),
        };
        let pace = adapt::next(self.pace(), scratch.len(), taken, thresholds);
        let kept = strain(&mut scratch[..taken]).map_err(Trouble::Bytes)?;
        // No bytes, no write: of a body's framing nothing may be left.
        let flushed = if kept > 0 { sink.write(&scratch[..kept]).map_err(Trouble::Sink)? } else { 0 };
        if flushed < kept {
            *self = Engine::Bytes(pace, buffers.with(&scratch[flushed..kept]));
        } else if let Engine::Empty(paced) = self {
            *paced = pace; // there was room, so it is empty: nothing is dropped here
        }
        Ok(Filled::Bytes { taken, flushed })
    }

    /// Splices: takes at most `most` bytes from the source and gives them to the sink as far as it takes them. There
    /// must be room, and both must be sockets that can be spliced.
    ///
    /// Only bytes are taken for what they are. At urgent data a splice gets no further: where the end stands behind
    /// that, it says that there is the end, and only a read gets to the bytes in between. (Where nothing stands behind
    /// it a splice would block, and the event that tells of urgent data is on its way.) So an end is for a read to
    /// find.
    pub fn pump<S: Socket>(
        &mut self,
        source: &mut Transport<S>,
        sink: &mut Transport<S>,
        most: usize,
        buffers: &mut Buffers,
        thresholds: Thresholds,
    ) -> Result<Filled, Trouble> {
        debug_assert!(self.room(), "a flow fills only where there is room");
        let Some(mut lent) = buffers.pipes.lend() else { return Ok(self.slow_down()) };
        let taken = match source.splice_in(&mut lent.pipe, most) {
            Ok(Received::Bytes(count)) => count,
            Ok(Received::Blocked) => {
                buffers.pipes.give_back(lent);
                return Ok(Filled::Blocked);
            }
            Ok(Received::End) => {
                buffers.pipes.give_back(lent);
                return Ok(self.slow_down());
            }
            Err(error) if splice::is_refused(&error) => {
                buffers.pipes.give_up();
                return Ok(self.slow_down());
            }
            // Short of memory, which passes.
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                buffers.pipes.give_back(lent);
                return Ok(self.slow_down());
            }
            Err(error) => return Err(Trouble::Source(error)),
        };
        let flushed = sink.splice_out(&mut lent.pipe).map_err(Trouble::Sink)?;
        let pace = adapt::next(Pace::Bulk, most, taken, thresholds);
        *self = Engine::rest_of(pace, lent, buffers);
        Ok(Filled::Bytes { taken, flushed })
    }

    /// The next bytes are to be copied.
    fn slow_down(&mut self) -> Filled {
        *self = Engine::Empty(Pace::Light);
        Filled::Unclear
    }

    /// What becomes of a pipe that has been flushed as far as the sink took it.
    fn rest_of(pace: Pace, lent: Box<Pooled>, buffers: &mut Buffers) -> Engine {
        if lent.pipe.held() > 0 {
            return Engine::Pipe(pace, lent);
        }
        buffers.pipes.give_back(lent);
        Engine::Empty(pace)
    }

    /// Gives held bytes to the sink, as many as it takes.
    pub fn flush<S: Socket>(
        &mut self,
        sink: &mut Transport<S>,
        buffers: &mut Buffers,
    ) -> Result<usize, Trouble> {
        let flushed = match self {
            Engine::Empty(_) => 0,
            Engine::Bytes(_, waiting) => {
                let flushed = sink.write(&waiting.bytes[waiting.start..]).map_err(Trouble::Sink)?;
                waiting.start += flushed;
                flushed
            }
            Engine::Pipe(_, lent) => sink.splice_out(&mut lent.pipe).map_err(Trouble::Sink)?,
        };
        *self = match std::mem::take(self) {
            Engine::Bytes(pace, waiting) if waiting.start == waiting.bytes.len() => {
                buffers.give_back(waiting);
                Engine::Empty(pace)
            }
            Engine::Pipe(pace, lent) => Engine::rest_of(pace, lent, buffers),
            other @ (Engine::Empty(_) | Engine::Bytes(..)) => other,
        };
        Ok(flushed)
    }
}

#[cfg(test)]
impl Engine {
    /// As if much had come.
    pub fn be_in_bulk(&mut self) {
        let (Engine::Empty(pace) | Engine::Bytes(pace, _) | Engine::Pipe(pace, _)) = self;
        *pace = Pace::Bulk;
    }

    /// Bytes of memory that it owns, the kernel's among them.
    pub fn owned_bytes(&self) -> usize {
        match self {
            Engine::Empty(_) => 0,
            Engine::Bytes(_, waiting) => waiting.bytes.capacity(),
            Engine::Pipe(_, lent) => lent.pipe.held(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::{Peer, Scripted, pair};
    use super::super::transport::Edges;
    use super::*;
    use crate::proto::adapt::THRESHOLDS;

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
        engine.fill(source, sink, &mut [0; 8], buffers, THRESHOLDS, strain)
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
        let again = buffers.with(b"x");
        assert_eq!((again.bytes.as_slice(), again.start, buffers.spare.len()), (&b"x"[..], 0, 0));
    }

    #[test]
    fn the_pool_keeps_a_few_buffers_of_its_own_kind_and_frees_the_rest() {
        let mut buffers = Buffers::default();
        buffers.give_back(Box::new(Waiting { bytes: b"from an opening".to_vec(), start: 0, count: None }));
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

    /// As the others, by splice.
    #[cfg(feature = "splice")]
    mod in_bulk {
        use super::*;

        const THRESHOLDS: Thresholds = Thresholds { bulk_from_bytes: 4, light_below_bytes: 2 };

        fn spliced(bytes: &str, room: usize) -> ([Transport<Scripted>; 2], [Peer; 2]) {
            let (ends, peers) = ends(bytes, room);
            peers.iter().for_each(|peer| peer.wire().splices = true);
            (ends, peers)
        }

        fn bulk() -> (Engine, Buffers) {
            (Engine::Empty(Pace::Bulk), Buffers::default())
        }

        fn pump(
            engine: &mut Engine,
            ends: &mut [Transport<Scripted>; 2],
            buffers: &mut Buffers,
        ) -> Result<Filled, Trouble> {
            let [source, sink] = ends;
            engine.pump(source, sink, 8, buffers, THRESHOLDS)
        }

        fn open(buffers: &Buffers) -> usize {
            buffers.pipes.open.load(Relaxed)
        }

        #[test]
        fn a_full_read_is_the_begin_of_bulk_and_a_small_pump_its_end() {
            let (mut engine, mut buffers) = (Engine::default(), Buffers::default());
            let (mut ends, [source, sink]) = spliced("abc", 100);
            let [from, to] = &mut ends;
            engine.fill(from, to, &mut [0; 8], &mut buffers, THRESHOLDS, all).unwrap();
            assert_eq!(engine.pace(), Pace::Light);
            source.sends("abcd");
            engine.fill(from, to, &mut [0; 8], &mut buffers, THRESHOLDS, all).unwrap();
            assert_eq!(engine.pace(), Pace::Bulk);
            source.sends("ab");
            engine.pump(from, to, 8, &mut buffers, THRESHOLDS).unwrap();
            assert_eq!(engine.pace(), Pace::Bulk);
            source.sends("a");
            engine.pump(from, to, 8, &mut buffers, THRESHOLDS).unwrap();
            assert_eq!(engine.pace(), Pace::Light);
            assert_eq!(sink.got(), "abcabcdaba");
        }

        #[test]
        fn a_pace_is_kept_while_bytes_are_held() {
            let (mut engine, mut buffers) = (Engine::default(), Buffers::default());
            let (mut ends, [_source, sink]) = spliced("abcd", 0);
            let [from, to] = &mut ends;
            engine.fill(from, to, &mut [0; 8], &mut buffers, THRESHOLDS, all).unwrap();
            assert_eq!((engine.held(), engine.pace()), (true, Pace::Bulk));
            sink.takes(4);
            engine.flush(to, &mut buffers).unwrap();
            assert_eq!((engine.held(), engine.pace()), (false, Pace::Bulk));
        }

        #[test]
        fn bytes_that_the_sink_takes_at_once_need_a_pipe_for_no_longer_than_that() {
            let (mut engine, mut buffers) = bulk();
            let (mut ends, [source, sink]) = spliced("hello", 100);
            let filled = pump(&mut engine, &mut ends, &mut buffers).unwrap();
            assert_eq!(filled, Filled::Bytes { taken: 5, flushed: 5 });
            assert_eq!(
                (sink.got(), source.wire().spliced, sink.wire().spliced),
                ("hello".into(), [5, 0], [0, 5])
            );
            assert!(engine.room() && !engine.held() && engine.owned_bytes() == 0);
            assert_eq!((buffers.pipes.spare.len(), open(&buffers)), (1, 1));
            source.sends("again");
            pump(&mut engine, &mut ends, &mut buffers).unwrap();
            assert_eq!((sink.got(), open(&buffers)), ("again".into(), 1), "the same pipe does");
        }

        #[test]
        fn only_what_the_sink_did_not_take_stays_in_the_pipe_which_goes_back_when_it_is_empty() {
            let (mut engine, mut buffers) = bulk();
            let (mut ends, [_source, sink]) = spliced("hello", 2);
            let filled = pump(&mut engine, &mut ends, &mut buffers).unwrap();
            assert_eq!(filled, Filled::Bytes { taken: 5, flushed: 2 });
            assert!(engine.held() && !engine.room());
            assert_eq!((engine.owned_bytes(), buffers.pipes.spare.len()), (3, 0));
            sink.takes(1);
            assert_eq!(engine.flush(&mut ends[1], &mut buffers).unwrap(), 1);
            assert_eq!(engine.flush(&mut ends[1], &mut buffers).unwrap(), 0);
            assert!(!ends[1].is_writable() && buffers.pipes.spare.is_empty());
            sink.takes(10);
            assert_eq!(engine.flush(&mut ends[1], &mut buffers).unwrap(), 2);
            assert_eq!(sink.got(), "hello");
            assert!(engine.room() && engine.owned_bytes() == 0);
            assert_eq!(buffers.pipes.spare.len(), 1);
        }

        #[test]
        fn a_splice_cut_short_says_nothing_about_a_socket_and_one_that_blocks_does() {
            let (mut engine, mut buffers) = bulk();
            let (mut ends, [source, sink]) = spliced("hello", 100);
            source.wire().splice_bytes_max = 4;
            sink.wire().splice_bytes_max = 3;
            let filled = pump(&mut engine, &mut ends, &mut buffers).unwrap();
            assert_eq!(filled, Filled::Bytes { taken: 4, flushed: 3 });
            assert!(ends[0].is_readable() && ends[1].is_writable());
            assert_eq!(engine.flush(&mut ends[1], &mut buffers).unwrap(), 1);
            pump(&mut engine, &mut ends, &mut buffers).unwrap();
            assert_eq!(pump(&mut engine, &mut ends, &mut buffers).unwrap(), Filled::Blocked);
            assert!(!ends[0].is_readable() && ends[1].is_writable());
            assert_eq!((sink.got(), buffers.pipes.spare.len()), ("hello".into(), 1));
        }

        #[test]
        fn an_end_is_for_a_read_to_find() {
            let (mut engine, mut buffers) = bulk();
            let (mut ends, [source, sink]) = spliced("", 100);
            source.sends_urgent();
            source.sends("behind");
            source.ends();
            assert_eq!(pump(&mut engine, &mut ends, &mut buffers).unwrap(), Filled::Unclear);
            assert_eq!((engine.pace(), buffers.pipes.spare.len()), (Pace::Light, 1));
            ends[0].mark(std::mem::take(&mut source.wire().edges));
            assert!(!ends[0].can_fill_a_pipe(), "an event has told of it");
            let filled = fill(&mut engine, &mut ends, &mut buffers, all).unwrap();
            assert_eq!((filled, sink.got()), (Filled::Bytes { taken: 6, flushed: 6 }, "behind".into()));
            assert_eq!(fill(&mut engine, &mut ends, &mut buffers, all).unwrap(), Filled::End);
        }

        #[test]
        fn a_pipe_with_bytes_in_it_is_never_met_again() {
            let (mut engine, mut buffers) = bulk();
            let (mut ends, [_source, _sink]) = spliced("hello", 2);
            pump(&mut engine, &mut ends, &mut buffers).unwrap();
            assert!(engine.held());
            drop(engine);
            assert_eq!((buffers.pipes.spare.len(), open(&buffers)), (0, 0));

            let (mut no_sink, [_source, sink]) = spliced("hello", 100);
            sink.vanishes();
            let mut engine = Engine::Empty(Pace::Bulk);
            let pumped = pump(&mut engine, &mut no_sink, &mut buffers);
            assert!(matches!(pumped, Err(Trouble::Sink(error)) if error.kind() == io::ErrorKind::BrokenPipe));
            assert_eq!((buffers.pipes.spare.len(), open(&buffers)), (0, 0));
        }

        #[test]
        fn a_source_that_fails_is_named() {
            let (mut engine, mut buffers) = bulk();
            let (mut ends, [source, _sink]) = spliced("", 100);
            source.resets();
            let pumped = pump(&mut engine, &mut ends, &mut buffers);
            assert!(
                matches!(pumped, Err(Trouble::Source(error)) if error.kind() == io::ErrorKind::ConnectionReset)
            );
        }

        /// Engines that hold a pipe each.
        fn stalled(count: usize, buffers: &mut Buffers) -> Vec<Engine> {
            let stall = |_| {
                let mut engine = Engine::Empty(Pace::Bulk);
                pump(&mut engine, &mut spliced("hello", 2).0, buffers).unwrap();
                engine
            };
            (0..count).map(stall).collect()
        }

        #[test]
        fn beyond_the_limit_of_pipes_bytes_are_copied() {
            let mut buffers =
                Buffers { pipes: Pipes { open_max: 2, ..Pipes::default() }, ..Buffers::default() };
            let mut engines = stalled(3, &mut buffers);
            let held = |engine: &Engine| matches!(engine, Engine::Pipe(..));
            assert_eq!(engines.iter().map(held).collect::<Vec<_>>(), [true, true, false]);
            assert_eq!((engines[2].pace(), engines[2].held()), (Pace::Light, false), "it reads next");
            engines.remove(0);
            assert!(stalled(1, &mut buffers).iter().all(held), "one is free again");
        }

        #[test]
        fn the_pool_keeps_a_few_pipes_and_closes_the_rest() {
            let mut buffers = Buffers::default();
            for engine in stalled(SPARE_PIPES_MAX + 2, &mut buffers) {
                let mut engine = engine;
                let (mut ends, _peers) = spliced("", 100);
                engine.flush(&mut ends[1], &mut buffers).unwrap();
            }
            assert_eq!((buffers.pipes.spare.len(), open(&buffers)), (SPARE_PIPES_MAX, SPARE_PIPES_MAX));
        }

        #[test]
        fn where_descriptors_are_wanted_elsewhere_no_pipe_is_kept_or_opened() {
            let mut buffers = Buffers::default();
            let mut engines = stalled(1, &mut buffers);
            assert!(!buffers.spare_descriptors(), "none was spare");
            let (mut ends, _peers) = spliced("", 100);
            engines[0].flush(&mut ends[1], &mut buffers).unwrap();
            assert_eq!((open(&buffers), engines[0].held()), (0, false));
            assert!(!stalled(1, &mut buffers)[0].held());
            buffers.use_descriptors();
            assert!(stalled(1, &mut buffers)[0].held());
            pump(&mut Engine::Empty(Pace::Bulk), &mut spliced("hello", 100).0, &mut buffers).unwrap();
            assert_eq!(open(&buffers), 1);
            assert!(buffers.spare_descriptors(), "one was spare");
            assert_eq!(open(&buffers), 0);
        }

        #[test]
        fn a_try_that_failed_is_not_repeated_at_once() {
            let mut buffers = Buffers { pipes: Pipes { skips: 2, ..Pipes::default() }, ..Buffers::default() };
            let held = |engines: Vec<Engine>| engines.iter().filter(|engine| engine.held()).count();
            assert_eq!(held(stalled(2, &mut buffers)), 0);
            assert_eq!(held(stalled(1, &mut buffers)), 1);
        }
    }
}
