//! One plain request and its response: the same two flows as a tunnel's, each with a body that ends it.
//!
//! The request's body goes up by its framing and not a byte beyond it; the response comes down by its own. When the
//! response has been passed on the session is over, whatever is left of the request.

use std::time::Instant;

use super::engine::Trouble;
use super::flow::{AtEnd, Flow, Standing};
use super::story::Story;
use super::transport::{Edges, Socket, Transport};
use super::{Next, Turn, after};
use crate::error::{Outcome, Side};
use crate::plan::Timeouts;
use crate::proto::body::Body;

/// A request's body on its way up, which may begin before the response does.
#[derive(Debug)]
pub struct Upload {
    /// The direction.
    pub flow: Flow,
    /// How far it reaches.
    pub body: Body,
}

impl Upload {
    /// Moves what there is. A server that takes no more is no reason to stop: its response may be on its way.
    pub fn advance<S: Socket>(
        &mut self,
        client: &mut Transport<S>,
        server: &mut Transport<S>,
        turn: &mut Turn<'_>,
    ) -> Result<Standing, Outcome> {
        match self.flow.advance(client, server, &mut self.body, AtEnd::LeaveOpen, turn) {
            Ok(standing) => Ok(standing),
            Err(Trouble::Sink(_)) => {
                self.flow.give_up();
                Ok(Standing::Done)
            }
            Err(Trouble::Source(error)) => Err(Outcome::Failed { side: Side::Client, error: error.kind() }),
            Err(Trouble::Truncated) => Err(Outcome::Truncated(Side::Client)),
            Err(Trouble::Bytes(rule)) => Err(Outcome::BodyMalformed(Side::Client, rule)),
        }
    }
}

/// A plain request whose response has begun.
#[derive(Debug)]
pub struct Exchange<S> {
    client: Transport<S>,
    server: Transport<S>,
    up: Upload,
    down: Flow,
    body: Body,
    broken: bool,
    /// What its log line says.
    pub story: Box<Story>,
}

impl<S: Socket> Exchange<S> {
    /// An exchange that goes on with the upload it has and a response of which the first bytes, head included, are
    /// `begun`.
    pub fn new(
        client: Transport<S>,
        server: Transport<S>,
        up: Upload,
        begun: Vec<u8>,
        body: Body,
        story: Box<Story>,
        now: Instant,
    ) -> Exchange<S> {
        let down = Flow::of_body(begun, &body, now);
        Exchange { client, server, up, down, body, broken: false, story }
    }

    /// Takes note of an event.
    pub fn mark(&mut self, side: Side, edges: Edges) {
        match side {
            Side::Client => self.client.mark(edges),
            Side::Server => self.server.mark(edges),
        }
    }

    /// Moves bytes both ways.
    pub fn advance(&mut self, turn: &mut Turn<'_>) -> Next {
        // With the request passed on nobody reads the client, who may go away without our noticing.
        if let Some(error) = self.client.take_failure() {
            return self.fail(Outcome::Failed { side: Side::Client, error: error.kind() });
        }
        let up = match self.up.advance(&mut self.client, &mut self.server, turn) {
            Ok(standing) => standing,
            Err(outcome) => return self.fail(outcome),
        };
        let down =
            self.down.advance(&mut self.server, &mut self.client, &mut self.body, AtEnd::HalfClose, turn);
        match down {
            Ok(Standing::Done) => Next::Linger(Outcome::Finished(Side::Server)),
            Ok(Standing::Spent) => Next::Yield,
            Ok(Standing::Parked) if up == Standing::Spent => Next::Yield,
            Ok(Standing::Parked) => Next::Park { deadline: self.deadline(turn) },
            Err(Trouble::Source(error)) => {
                self.fail(Outcome::Failed { side: Side::Server, error: error.kind() })
            }
            Err(Trouble::Sink(error)) => {
                self.fail(Outcome::Failed { side: Side::Client, error: error.kind() })
            }
            Err(Trouble::Bytes(rule)) => self.fail(Outcome::BodyMalformed(Side::Server, rule)),
            // Where the close alone says where the body ends, a clean one would say that this is the whole.
            Err(Trouble::Truncated) if self.body.is_passed_until_close() => {
                self.fail(Outcome::Truncated(Side::Server))
            }
            Err(Trouble::Truncated) => Next::Close(Outcome::Truncated(Side::Server)),
        }
    }

    /// Ends with resets, so that what was passed on is not taken for the whole.
    fn fail(&mut self, outcome: Outcome) -> Next {
        self.broken = true;
        Next::Close(outcome)
    }

    fn limits(&self, timeouts: &Timeouts) -> [(Option<Instant>, Outcome); 3] {
        let filled_at = self.up.flow.filled_at.max(self.down.filled_at);
        let silent = if self.up.flow.is_open() { Side::Client } else { Side::Server };
        // Silence counts while we wait for a peer to speak, not while a peer is slow to listen.
        let waiting = self.down.stalled_since().is_none() && self.up.flow.stalled_since().is_none();
        let silence = waiting.then(|| filled_at.max(self.down.moved_at()));
        [
            (after(self.up.flow.stalled_since(), timeouts.stalled), Outcome::Stalled(Side::Server)),
            (after(self.down.stalled_since(), timeouts.stalled), Outcome::Stalled(Side::Client)),
            (after(silence, Some(timeouts.response)), Outcome::Silent(silent)),
        ]
    }

    fn deadline(&self, turn: &Turn<'_>) -> Option<Instant> {
        self.limits(turn.timeouts).into_iter().filter_map(|(deadline, _)| deadline).min()
    }

    /// The deadline has come, or an earlier one that no longer holds.
    pub fn expire(&mut self, turn: &Turn<'_>) -> Next {
        let reached = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= turn.now);
        let over = self.limits(turn.timeouts).into_iter().find(|&(deadline, _)| reached(deadline));
        match over {
            Some((_, outcome)) => self.fail(outcome),
            None => Next::Park { deadline: self.deadline(turn) },
        }
    }

    fn told(&mut self) {
        self.story.count(self.up.flow.flushed(), self.down.flushed());
    }

    /// Leaves the server, and keeps the client for a moment.
    pub fn part(mut self) -> (Transport<S>, Box<Story>) {
        self.told();
        (self.client, self.story)
    }

    /// Closes both sides.
    pub fn close(mut self) -> Box<Story> {
        self.told();
        if self.broken {
            self.server.abort();
            self.client.abort();
        }
        self.story
    }
}
