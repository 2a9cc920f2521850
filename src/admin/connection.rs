//! An operator's connection: reads a request, waits for its answer, writes that, and so on. Nothing about it is
//! trusted: each of the three has an end, and it never holds more than a request and an answer.

use std::time::Duration;

use super::http::{BODY_BYTES_MAX, HEAD_BYTES_MAX, Reader, Request, Response};
use crate::moment::{Date, Moment};
use crate::session::transport::{Edges, Received, Socket, Transport};

/// How long a request may take to arrive, from its first byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be silent between requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long an answer may be in the making: a reload resolves names.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an answer may wait for a peer that takes nothing.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer that was told everything is listened to.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes read at once. One who floods is read no faster than answered.
const READ_BYTES_MAX: usize = 4 * 1024;

/// Bytes that may be held of what a peer sends: a request, and as much as one read brings of the next.
const HELD_BYTES_MAX: usize = HEAD_BYTES_MAX + BODY_BYTES_MAX;

/// A connection.
#[derive(Debug)]
pub struct Connection<S> {
    transport: Transport<S>,
    reader: Reader,
    state: State,
    deadline: Moment,
}

#[derive(Debug)]
enum State {
    /// A request is read, or waited for.
    Reading,
    /// It is being answered.
    Asked { head_only: bool, keeps_alive: bool },
    /// So much of the answer is written.
    Answering { answer: Vec<u8>, written: usize, keeps_alive: bool },
    /// All is said. A socket that is closed while bytes of its peer's are unread is reset, which can overtake the
    /// answer: so it is listened to for a moment.
    Lingering,
}

/// What a connection wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Wish {
    /// An edge, or its deadline.
    Wait,
    /// Another turn.
    More,
    /// An answer.
    Answer(Box<Request>),
    /// Nothing any more.
    Close,
}

impl<S: Socket> Connection<S> {
    /// One that was just accepted.
    pub fn new(transport: Transport<S>, now: Moment) -> Connection<S> {
        let reader = Reader::default();
        Connection { transport, reader, state: State::Reading, deadline: now + IDLE_TIMEOUT }
    }

    /// Takes note of an event.
    pub fn mark(&mut self, edges: Edges) {
        self.transport.mark(edges);
    }

    /// Its socket.
    pub fn transport(&mut self) -> &mut Transport<S> {
        &mut self.transport
    }

    /// When it has waited for too long.
    pub fn deadline(&self) -> Moment {
        self.deadline
    }

    /// Whether it waits for a request of which nothing has come yet.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Reading) && self.reader.is_empty()
    }

    /// Goes on, by one request at most.
    pub fn advance(&mut self, now: Moment, date: Date) -> Wish {
        if now >= self.deadline {
            return self.expire(now, date);
        }
        match &self.state {
            State::Reading => self.read(now, date),
            State::Asked { .. } => self.watch(),
            State::Answering { .. } => self.write(now),
            State::Lingering => self.linger(),
        }
    }

    /// It has waited for too long. Who has begun a request is told, if there is room for that.
    fn expire(&mut self, now: Moment, date: Date) -> Wish {
        match self.state {
            State::Reading if !self.reader.is_empty() => {
                self.refuse(&Response::error(408, "the request did not arrive in time"), now, date);
                self.write(now)
            }
            State::Asked { .. } => {
                self.answer(&Response::error(503, "there is no answer in time"), now, date);
                self.write(now)
            }
            State::Reading | State::Answering { .. } | State::Lingering => Wish::Close,
        }
    }

    fn read(&mut self, now: Moment, date: Date) -> Wish {
        loop {
            match self.reader.next() {
                Ok(Some(request)) => {
                    let (head_only, keeps_alive) = (request.method == "HEAD", request.keeps_alive);
                    self.state = State::Asked { head_only, keeps_alive };
                    self.deadline = now + ANSWER_TIMEOUT;
                    return Wish::Answer(Box::new(request));
                }
                Ok(None) => {}
                Err(response) => {
                    self.refuse(&response, now, date);
                    return self.write(now);
                }
            }
            if !self.transport.is_readable() {
                return Wish::Wait;
            }
            let was_empty = self.reader.is_empty();
            let mut bytes = [0; READ_BYTES_MAX];
            match self.transport.read(&mut bytes) {
                Ok(Received::Bytes(count)) => {
                    self.reader.add(&bytes[..count]);
                    if was_empty {
                        self.deadline = now + REQUEST_TIMEOUT;
                    }
                }
                Ok(Received::Blocked) => return Wish::Wait,
                Ok(Received::End) | Err(_) => return Wish::Close,
            }
        }
    }

    /// While an answer is in the making the peer may go away. What it sends meanwhile waits.
    fn watch(&mut self) -> Wish {
        match self.transport.take_failure() {
            Some(_) => Wish::Close,
            None => Wish::Wait,
        }
    }

    /// The answer to what was asked for.
    pub fn answer(&mut self, response: &Response, now: Moment, date: Date) {
        if let State::Asked { head_only, keeps_alive } = self.state {
            let answer = response.write(head_only, keeps_alive, date.at(now));
            self.state = State::Answering { answer, written: 0, keeps_alive };
            self.deadline = now + STALL_TIMEOUT;
        }
    }

    /// The answer to what is no request, and the last.
    fn refuse(&mut self, response: &Response, now: Moment, date: Date) {
        let answer = response.write(false, false, date.at(now));
        self.state = State::Answering { answer, written: 0, keeps_alive: false };
        self.deadline = now + STALL_TIMEOUT;
    }

    fn write(&mut self, now: Moment) -> Wish {
        let State::Answering { answer, written, keeps_alive } = &mut self.state else { return Wish::Wait };
        while *written < answer.len() {
            if !self.transport.is_writable() {
                return Wish::Wait;
            }
            match self.transport.write(&answer[*written..]) {
                Ok(0) => return Wish::Wait,
                Ok(count) => {
                    *written += count;
                    self.deadline = now + STALL_TIMEOUT;
                }
                Err(_) => return Wish::Close,
            }
        }
        if !*keeps_alive {
            self.transport.finish();
            (self.state, self.deadline) = (State::Lingering, now + LINGER_TIMEOUT);
            return self.linger();
        }
        self.state = State::Reading;
        // Another request may be there already. It has its turn, but not this one.
        if self.reader.is_empty() {
            self.deadline = now + IDLE_TIMEOUT;
            if self.transport.is_readable() { Wish::More } else { Wish::Wait }
        } else {
            self.deadline = now + REQUEST_TIMEOUT;
            Wish::More
        }
    }

    /// Reads and drops a little.
    fn linger(&mut self) -> Wish {
        if !self.transport.is_readable() {
            return Wish::Wait;
        }
        match self.transport.read(&mut [0; READ_BYTES_MAX]) {
            Ok(Received::Bytes(_)) => Wish::More,
            Ok(Received::Blocked) => Wish::Wait,
            Ok(Received::End) | Err(_) => Wish::Close,
        }
    }
}

const _: () = assert!(READ_BYTES_MAX <= HELD_BYTES_MAX);
