//! One direction of a session at work: performs what `proto::flow` decides, within a budget.

use super::engine::{Engine, Filled, Trouble};
use super::transport::{Socket, Transport};
use super::{Tools, Turn};
use crate::moment::Moment;
use crate::proto::adapt::Pace;
use crate::proto::body::Body;
use crate::proto::flow::{self, Op, Phase, View};

/// What a flow carries: everything until the source ends, or one body.
pub trait Cargo {
    /// Whether the bytes have to be looked at, so that they cannot pass by us in the kernel.
    const IS_READ: bool;
    /// Moves the bytes that are passed on to the front, and says how many they are.
    fn strain(&mut self, bytes: &mut [u8]) -> Result<usize, &'static str>;
    /// Whether the last byte has been seen.
    fn is_complete(&self) -> bool;
    /// The source has ended: whether it may end here.
    fn source_ended(&mut self) -> Result<(), Trouble>;
}

/// The bytes of a tunnel: all of them, unread.
#[derive(Debug)]
pub struct Everything;

impl Cargo for Everything {
    const IS_READ: bool = false;

    fn strain(&mut self, bytes: &mut [u8]) -> Result<usize, &'static str> {
        Ok(bytes.len())
    }

    fn is_complete(&self) -> bool {
        false
    }

    fn source_ended(&mut self) -> Result<(), Trouble> {
        Ok(())
    }
}

impl Cargo for Body {
    const IS_READ: bool = true;

    fn strain(&mut self, bytes: &mut [u8]) -> Result<usize, &'static str> {
        Body::strain(self, bytes).map(|strained| strained.kept).map_err(|error| error.0)
    }

    fn is_complete(&self) -> bool {
        Body::is_complete(self)
    }

    fn source_ended(&mut self) -> Result<(), Trouble> {
        Body::source_ended(self).map_err(|_| Trouble::Truncated)
    }
}

/// What is done at the end of a flow, behind its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// The sink is half-closed.
    HalfClose,
    /// Nothing: the sink is to hear more from somebody else, or is to be reset.
    LeaveOpen,
}

/// What a flow is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A tunnel's, to the server.
    Up,
    /// A tunnel's, to the client.
    Down,
    /// Not a tunnel's.
    Plain,
}

/// Where a flow stands when it can do no more for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for an edge.
    Parked,
    /// It could go on, but its budget is spent.
    Spent,
    /// It has finished.
    Done,
}

/// Reads that one direction may make in a turn, however little each brings: a source that is known to be closed, or to
/// have sent urgent data, is read on behind a short read, and a peer may send a byte at a time as fast as it is read.
const READS_MAX: usize = 16;

/// One direction: bytes from a source to a sink.
#[derive(Debug)]
pub struct Flow {
    phase: Phase,
    way: Way,
    engine: Engine,
    /// Bytes that the sink has taken, less those that `discount` leaves out: below zero before it has taken those.
    flushed: i64,
    /// When bytes, or the end, last came or went. While bytes are held none come, so then it is when the sink last took
    /// some, or when they began to wait for it.
    moved_at: Moment,
}

impl Flow {
    /// A flow that begins with these bytes held.
    pub fn new(held: Vec<u8>, now: Moment) -> Flow {
        let engine = Engine::holding(held);
        Flow { phase: Phase::Open, way: Way::Plain, engine, flushed: 0, moved_at: now }
    }

    /// It is a tunnel's, and goes this way.
    pub fn going(self, way: Way) -> Flow {
        Flow { way, ..self }
    }

    /// Counts none of the first bytes that it carries: they are a head.
    pub fn discount(mut self, head_bytes: u32) -> Flow {
        self.flushed -= i64::from(head_bytes);
        self
    }

    /// The flow of a body of which the first bytes have arrived already.
    pub fn of_body(held: Vec<u8>, body: &Body, now: Moment) -> Flow {
        let phase = if body.is_complete() { Phase::Ending } else { Phase::Open };
        Flow { phase, ..Flow::new(held, now) }
    }

    /// Moves bytes until it parks, has finished, or has spent the budget of this turn, of which it has `moved` so many
    /// already.
    pub fn advance<S: Socket, C: Cargo>(
        &mut self,
        source: &mut Transport<S>,
        sink: &mut Transport<S>,
        cargo: &mut C,
        at_end: AtEnd,
        mut moved: usize,
        turn: &mut Turn<'_>,
    ) -> Result<Standing, Trouble> {
        // One that gets into bulk in this turn has spent what others are let move by then: it goes on behind them.
        let was_bulk = moved == 0 && self.is_bulk();
        let read_cost = turn.tools.flow_budget / READS_MAX;
        let may_splice = was_bulk && !C::IS_READ && source.can_fill_a_pipe() && sink.can_empty_a_pipe();
        loop {
            let view = View {
                held: self.engine.held(),
                room: self.engine.room(),
                source_ready: source.is_readable(),
                sink_ready: sink.is_writable(),
            };
            match flow::next(self.phase, view) {
                Op::Flush => {
                    let flushed = self.engine.flush(sink, &mut turn.tools.buffers)?;
                    self.note_flushed(flushed, turn);
                }
                Op::Fill => {
                    let splices = may_splice && self.is_bulk();
                    let budget = if splices { turn.tools.pump_budget } else { turn.tools.flow_budget };
                    moved += match budget.saturating_sub(moved) {
                        0 => return Ok(Standing::Spent),
                        reach if splices => self.pump(source, sink, reach, turn)?,
                        reach => self.copy(source, sink, cargo, reach, turn)?.max(read_cost),
                    };
                }
                Op::Finish => {
                    match at_end {
                        AtEnd::HalfClose => sink.finish(),
                        AtEnd::LeaveOpen => {}
                    }
                    self.phase = Phase::Finished;
                }
                Op::Rest { on_source, on_sink } => {
                    debug_assert!(on_source || on_sink, "a parked flow waits for something");
                    return Ok(Standing::Parked);
                }
                Op::Done => return Ok(Standing::Done),
            }
        }
    }

    /// Copies what one read brings, `reach` bytes at most, and says how many it took. It must be open and hold nothing.
    #[inline]
    pub fn copy<S: Socket, C: Cargo>(
        &mut self,
        source: &mut Transport<S>,
        sink: &mut Transport<S>,
        cargo: &mut C,
        reach: usize,
        turn: &mut Turn<'_>,
    ) -> Result<usize, Trouble> {
        let Tools { scratch, buffers, thresholds, .. } = &mut *turn.tools;
        let reach = reach.min(scratch.len());
        let strain = |bytes: &mut [u8]| cargo.strain(bytes);
        let filled = self.engine.fill(source, sink, &mut scratch[..reach], buffers, *thresholds, strain)?;
        let taken = self.note_filled(filled, turn);
        match filled {
            Filled::Bytes { .. } if cargo.is_complete() => self.phase = Phase::Ending,
            Filled::Bytes { .. } | Filled::Blocked | Filled::Unclear => {}
            Filled::End => {
                cargo.source_ended()?;
                self.moved_at = turn.now;
                self.phase = Phase::Ending;
            }
        }
        Ok(taken)
    }

    /// Splices what one pump brings, `reach` bytes at most, and says how many it took.
    fn pump<S: Socket>(
        &mut self,
        source: &mut Transport<S>,
        sink: &mut Transport<S>,
        reach: usize,
        turn: &mut Turn<'_>,
    ) -> Result<usize, Trouble> {
        let Tools { buffers, thresholds, .. } = &mut *turn.tools;
        let filled = self.engine.pump(source, sink, reach, buffers, *thresholds)?;
        debug_assert!(filled != Filled::End, "an end is for a read to find");
        let taken = self.note_filled(filled, turn);
        turn.tools.stats.spliced(taken);
        Ok(taken)
    }

    /// Counts what a fill has brought, and says how much was taken.
    #[inline]
    fn note_filled(&mut self, filled: Filled, turn: &mut Turn<'_>) -> usize {
        let Filled::Bytes { taken, flushed } = filled else { return 0 };
        turn.tools.moved += taken;
        self.moved_at = turn.now;
        self.count(flushed, turn);
        taken
    }

    /// Counts what the sink has taken.
    #[inline]
    fn count(&mut self, flushed: usize, turn: &mut Turn<'_>) {
        let before = self.flushed();
        self.flushed += flushed as i64;
        turn.tools.carried[self.way as usize] += self.flushed() - before;
    }

    fn note_flushed(&mut self, flushed: usize, turn: &mut Turn<'_>) {
        if flushed > 0 {
            turn.tools.moved += flushed;
            self.count(flushed, turn);
            self.moved_at = turn.now;
        }
    }

    /// Whether it has nothing to do before its source has.
    #[inline]
    pub fn is_waiting<S: Socket>(&self, source: &Transport<S>) -> bool {
        self.is_open() && !self.is_held() && !source.is_readable()
    }

    /// Whether the source may still have something for this flow.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether all of it has been passed on, and its end.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// Whether bytes come as fast as they are taken.
    pub fn is_bulk(&self) -> bool {
        self.engine.pace() == Pace::Bulk
    }

    /// Drops what is held: the sink is no more.
    pub fn give_up(&mut self) {
        self.phase = Phase::Finished;
        self.engine = Engine::default();
    }

    /// Whether it holds nothing and is not in bulk.
    pub fn is_light(&self) -> bool {
        matches!(self.engine, Engine::Empty(Pace::Light))
    }

    /// Whether bytes wait for the sink.
    pub fn is_held(&self) -> bool {
        self.engine.held()
    }

    /// Since when bytes have waited for a sink that takes none.
    pub fn stalled_since(&self) -> Option<Moment> {
        self.engine.held().then_some(self.moved_at)
    }

    /// When bytes last moved at either end.
    pub fn moved_at(&self) -> Moment {
        self.moved_at
    }

    /// Bytes that the sink has taken, less those that are discounted.
    pub fn flushed(&self) -> u64 {
        self.flushed.max(0) as u64
    }
}

#[cfg(test)]
impl Flow {
    /// As if much had come.
    pub fn be_in_bulk(&mut self) {
        self.engine.be_in_bulk();
    }

    /// Bytes of memory that it owns.
    pub fn owned_bytes(&self) -> usize {
        self.engine.owned_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::script::{PLENTY, Play, pair};
    use super::*;

    const CONFIG: &str = "
        [[listener]]
        listen = \"127.0.0.1:8020\"
        protocol = \"tcp\"
        upstream = \"u\"
        [upstream.u]
        servers = [\"127.0.0.1:8010\"]";

    #[test]
    fn a_body_that_is_whole_already_is_only_flushed_and_its_sink_left_open() {
        let mut play = Play::tunnel(CONFIG, b"", b"");
        let ((near, source), (far, sink)) = (pair(), pair());
        let [mut near, mut far] = [near, far].map(Transport::connected);
        source.sends("the next request");
        near.mark(std::mem::take(&mut source.wire().edges));
        let mut flow = Flow::of_body(b"body".to_vec(), &Body::none(), play.now);
        assert!(!flow.is_open());
        let standing = play.lend(|_, turn| {
            flow.advance(&mut near, &mut far, &mut Body::none(), AtEnd::LeaveOpen, 0, turn).unwrap()
        });
        assert_eq!(standing, Standing::Done);
        assert_eq!((sink.got(), sink.wire().finished), ("body".into(), 0));
        assert_eq!((source.wire().calls[0], flow.flushed()), (0, 4));
    }

    #[test]
    fn a_stall_is_counted_from_when_the_sink_last_took_something() {
        let mut play = Play::tunnel(CONFIG, b"", b"");
        let begun = play.now;
        let ((near, source), (far, sink)) = (pair(), pair());
        let [mut near, mut far] = [near, far].map(Transport::connected);
        let mut flow = Flow::new(Vec::new(), begun);
        let mut advance = |flow: &mut Flow, at: u64| {
            play.now = begun + Duration::from_secs(at);
            near.mark(std::mem::take(&mut source.wire().edges));
            far.mark(std::mem::take(&mut sink.wire().edges));
            play.lend(|_, turn| {
                flow.advance(&mut near, &mut far, &mut Everything, AtEnd::HalfClose, 0, turn).unwrap()
            })
        };
        let since = |flow: &Flow| flow.stalled_since().map(|since| since.since(begun).as_secs());
        sink.is_full();
        assert_eq!((advance(&mut flow, 1), since(&flow)), (Standing::Parked, None));
        source.sends("abc");
        assert_eq!((advance(&mut flow, 2), since(&flow)), (Standing::Parked, Some(2)));
        source.sends("def");
        assert_eq!((advance(&mut flow, 3), since(&flow)), (Standing::Parked, Some(2)));
        sink.takes(1);
        assert_eq!((advance(&mut flow, 4), since(&flow)), (Standing::Parked, Some(4)));
        sink.takes(PLENTY);
        assert_eq!((advance(&mut flow, 5), since(&flow)), (Standing::Parked, None));
        assert_eq!((sink.got(), flow.flushed(), flow.owned_bytes()), ("abcdef".into(), 6, 0));
        assert_eq!(flow.moved_at().since(begun).as_secs(), 5);
    }

    #[test]
    fn a_flow_given_up_holds_nothing_and_has_finished() {
        let mut flow = Flow::new(b"held".to_vec(), Moment::START);
        flow.give_up();
        assert!(!flow.is_open() && flow.stalled_since().is_none() && flow.owned_bytes() == 0);
    }
}
