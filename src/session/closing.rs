//! The end of an HTTP session: the last of our bytes, a half-close, and a moment of listening.
//!
//! A socket that is closed while bytes from its peer are unread is reset by the kernel, and the reset can overtake the
//! answer on its way to the peer. So after the answer comes a half-close, and what still arrives is read and dropped.

use std::time::{Duration, Instant};

use super::story::Story;
use super::transport::{Edges, Received, Socket, Transport};
use super::{Next, Turn};
use crate::error::{Outcome, Refusal, Side};
use crate::proto::reply;

/// How long a client may take to read an answer of ours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client that was told everything is listened to.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// A client that is being told goodbye.
#[derive(Debug)]
pub struct Closing<S> {
    client: Transport<S>,
    state: State,
    deadline: Instant,
}

/// How far the goodbye has come.
#[derive(Debug)]
enum State {
    /// An answer is on its way: these bytes, of which so many are written.
    Answering { answer: Vec<u8>, written: usize, story: Box<Story>, refusal: Refusal },
    /// All is said.
    Lingering,
}

impl<S: Socket> Closing<S> {
    /// Refuses: writes what was begun before, then our own answer, then closes.
    pub fn refuse(
        client: Transport<S>,
        mut story: Box<Story>,
        refusal: Refusal,
        begun: Vec<u8>,
        turn: &Turn<'_>,
    ) -> Closing<S> {
        story.status = Some(refusal.status().0);
        let mut answer = begun;
        answer.extend(reply::write(&refusal, turn.wall, story.is_head_only()));
        let state = State::Answering { answer, written: 0, story, refusal };
        Closing { client, state, deadline: turn.now + ANSWER_TIMEOUT }
    }

    /// Listens for a moment to a client that has been told everything and half-closed.
    pub fn linger(client: Transport<S>, now: Instant) -> Closing<S> {
        Closing { client, state: State::Lingering, deadline: now + LINGER_TIMEOUT }
    }

    /// Takes note of an event.
    pub fn mark(&mut self, side: Side, edges: Edges) {
        match side {
            Side::Client => self.client.mark(edges),
            Side::Server => {} // of a server that this session has already left
        }
    }

    /// Writes what is left of the answer, then reads and drops.
    pub fn advance(&mut self, turn: &mut Turn<'_>) -> Next {
        if let State::Answering { answer, written, .. } = &mut self.state {
            while *written < answer.len() && self.client.is_writable() {
                match self.client.write(&answer[*written..]) {
                    Ok(count) => *written += count,
                    Err(error) => {
                        return Next::Close(Outcome::Failed { side: Side::Client, error: error.kind() });
                    }
                }
            }
            if *written < answer.len() {
                return Next::Park { deadline: Some(self.deadline) };
            }
            self.client.finish();
            self.deadline = turn.now + LINGER_TIMEOUT;
            if let State::Answering { story, refusal, .. } =
                std::mem::replace(&mut self.state, State::Lingering)
            {
                turn.log_close(&story, &Outcome::Refused(refusal));
            }
        }
        let mut budget = turn.flow_budget;
        while self.client.is_readable() {
            if budget == 0 {
                // One that never falls silent never parks, so that no timer would end this.
                return if turn.now < self.deadline { Next::Yield } else { Next::End };
            }
            let reach = budget.min(turn.scratch.len());
            match self.client.read(&mut turn.scratch[..reach]) {
                Ok(Received::Bytes(count)) => budget -= count,
                Ok(Received::Blocked) => {}
                Ok(Received::End) | Err(_) => return Next::End, // nobody is left to be told, and all has been logged
            }
        }
        Next::Park { deadline: Some(self.deadline) }
    }

    /// The deadline has come.
    pub fn expire(&mut self, turn: &Turn<'_>) -> Next {
        match &self.state {
            _ if turn.now < self.deadline => Next::Park { deadline: Some(self.deadline) },
            State::Answering { .. } => Next::Close(Outcome::Stalled(Side::Client)),
            State::Lingering => Next::End,
        }
    }

    /// Closes; gives back the story where it has not been told yet.
    pub fn close(self) -> Option<Box<Story>> {
        match self.state {
            State::Answering { story, .. } => Some(story),
            State::Lingering => None,
        }
    }
}
