//! The tunnel at work, and the hot path: two flows between two ends, until both have finished.
//!
//! Nothing here asks which end is the client: flow 0 goes from end 0 to end 1, flow 1 comes back. Where a log line
//! needs a name, [`side`] gives it.

use std::io;
use std::time::Instant;

use super::engine::Trouble;
use super::flow::{AtEnd, Everything, Flow, Standing};
use super::story::Story;
use super::transport::{Edges, Socket, Transport};
use super::{Next, Turn, after};
use crate::error::{Outcome, Side};
use crate::plan::Timeouts;

/// Two ends, and the bytes between them.
#[derive(Debug)]
pub struct Relay<S> {
    ends: [Transport<S>; 2],
    flows: [Flow; 2],
    state: State,
    opened: Instant,
    /// What its log lines say.
    pub story: Box<Story>,
}

/// How a tunnel is getting on.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Both directions are there.
    Whole,
    /// The end with this index ended first; the other direction goes on.
    HalfClosed(usize),
    /// The end with this index has failed; what it sent before that is still offered to the other.
    Broken(usize, io::ErrorKind),
}

/// The name of an end.
fn side(end: usize) -> Side {
    if end == 0 { Side::Client } else { Side::Server }
}

impl<S: Socket> Relay<S> {
    /// A tunnel between a client and a server, with the bytes that are already on their way: `up` to the server, `down`
    /// to the client.
    pub fn new(
        ends: [Transport<S>; 2],
        up: Vec<u8>,
        down: Vec<u8>,
        story: Box<Story>,
        now: Instant,
    ) -> Relay<S> {
        let flows = [Flow::new(up, now), Flow::new(down, now)];
        Relay { ends, flows, state: State::Whole, opened: now, story }
    }

    /// Takes note of an event at one end.
    pub fn mark(&mut self, end: Side, edges: Edges) {
        match end {
            Side::Client => self.ends[0].mark(edges),
            Side::Server => self.ends[1].mark(edges),
        }
    }

    /// Moves bytes both ways until there is nothing to do for now.
    pub fn advance(&mut self, turn: &mut Turn<'_>) -> Next {
        let mut standings = [Standing::Done; 2];
        for index in [0, 1] {
            let at_end = match self.state {
                // Into an end that has failed goes nothing, and what it still sends ends in a reset.
                State::Broken(end, _) if end != index => continue,
                State::Broken(..) => AtEnd::LeaveOpen,
                State::Whole | State::HalfClosed(_) => AtEnd::HalfClose,
            };
            let was_open = self.flows[index].is_open();
            match self.step(index, at_end, turn) {
                Ok(standing) => standings[index] = standing,
                Err(Trouble::Source(error)) => return self.fail(index, error.kind()),
                Err(Trouble::Sink(error)) if matches!(self.state, State::Broken(..)) => {
                    return self.fail(1 - index, error.kind());
                }
                Err(Trouble::Sink(error)) => return self.break_off(1 - index, error.kind(), turn),
                Err(Trouble::Bytes(_) | Trouble::Truncated) => {
                    unreachable!("a tunnel's bytes are not judged")
                }
            }
            if was_open && !self.flows[index].is_open() && matches!(self.state, State::Whole) {
                self.state = State::HalfClosed(index);
            }
        }
        if !matches!(self.state, State::Broken(..)) {
            // An end whose bytes nobody reads at the moment can fail without a read or a write to say so.
            for end in [0, 1] {
                if let Some(error) = self.ends[end].take_failure() {
                    return self.break_off(end, error.kind(), turn);
                }
            }
        }
        match (self.state, standings) {
            (State::Broken(end, error), standings) => match standings[end] {
                Standing::Spent => Next::Yield,
                Standing::Parked | Standing::Done => self.fail(end, error),
            },
            (State::HalfClosed(first), [Standing::Done, Standing::Done]) => {
                Next::Close(Outcome::Finished(side(first)))
            }
            (_, [Standing::Spent, _] | [_, Standing::Spent]) => Next::Yield,
            _ => Next::Park { deadline: self.deadline(turn) }, // one parked and the other parked or done
        }
    }

    fn step(&mut self, index: usize, at_end: AtEnd, turn: &mut Turn<'_>) -> Result<Standing, Trouble> {
        let [a, b] = &mut self.ends;
        let (source, sink) = if index == 0 { (a, b) } else { (b, a) };
        self.flows[index].advance(source, sink, &mut Everything, at_end, turn)
    }

    /// A write has failed: the end is gone, but it may have sent something before that.
    fn break_off(&mut self, end: usize, error: io::ErrorKind, turn: &mut Turn<'_>) -> Next {
        self.state = State::Broken(end, error);
        self.ends[end].mark(Edges { failed: true, ..Edges::default() });
        self.advance(turn)
    }

    /// Ends the session because of a failed end; the other is told by a reset.
    fn fail(&mut self, end: usize, error: io::ErrorKind) -> Next {
        self.state = State::Broken(end, error);
        Next::Close(Outcome::Failed { side: side(end), error })
    }

    /// When this tunnel has to be looked at again though nothing happens.
    fn deadline(&self, turn: &Turn<'_>) -> Option<Instant> {
        self.limits(turn.timeouts).into_iter().filter_map(|(deadline, _)| deadline).min()
    }

    /// Each limit that is running, and how the tunnel ends when it is reached.
    fn limits(&self, timeouts: &Timeouts) -> [(Option<Instant>, Outcome); 5] {
        let moved_at = self.flows[0].moved_at().max(self.flows[1].moved_at());
        let stalled = |index: usize| after(self.flows[index].stalled_since(), timeouts.stalled);
        let half_closed_since = match self.state {
            State::HalfClosed(_) => Some(moved_at),
            State::Whole | State::Broken(..) => None,
        };
        [
            (stalled(0), Outcome::Stalled(side(1))),
            (stalled(1), Outcome::Stalled(side(0))),
            (after(half_closed_since, timeouts.half_closed), Outcome::HalfClosed),
            (after(Some(moved_at), timeouts.idle), Outcome::Idle),
            (after(Some(self.opened), timeouts.lifetime), Outcome::Lifetime),
        ]
    }

    /// The deadline has come, or an earlier one that no longer holds.
    pub fn expire(&mut self, turn: &Turn<'_>) -> Next {
        let reached = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= turn.now);
        let over = self.limits(turn.timeouts).into_iter().find(|&(deadline, _)| reached(deadline));
        match over {
            Some((_, outcome)) => Next::Close(outcome),
            None => Next::Park { deadline: self.deadline(turn) },
        }
    }

    /// Closes both ends: by a reset where one of them has failed.
    pub fn close(self) -> Box<Story> {
        let mut story = self.story;
        story.count(self.flows[0].flushed(), self.flows[1].flushed());
        match self.state {
            State::Broken(..) => self.ends.into_iter().for_each(Transport::abort),
            State::Whole | State::HalfClosed(_) => {}
        }
        story
    }
}
