//! An operator's connection: reads a request, waits for its answer, writes that, and so on. Nothing about it is
//! trusted: each of the three has an end, and it never holds more than a request and an answer.

use std::time::Duration;

use super::http::{Reader, Request, Response};
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

/// Bytes read at once. One who floods is read no faster than answered: what is held is a request, and as much of the
/// next as one read brings.
const READ_BYTES_MAX: usize = 4 * 1024;

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

    /// Where it stands among those that can make room for another: who asks nothing first, then who takes long to, then
    /// who takes long to be answered; and of these who has done so for longest. `None`: its answer is in the making.
    pub fn place_to_go(&self) -> Option<(u8, Moment)> {
        let class = match self.state {
            State::Reading if self.reader.is_empty() => 0,
            State::Lingering => 1,
            State::Reading => 2,
            State::Answering { .. } => 3,
            State::Asked { .. } => return None,
        };
        Some((class, self.deadline))
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::http::{BODY_BYTES_MAX, HEAD_BYTES_MAX};
    use super::*;
    use crate::session::script::{Peer, Scripted, pair};

    const START: Date = Date { read_at: Moment::START, read: SystemTime::UNIX_EPOCH };
    const REQUEST: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";

    struct Bench {
        connection: Connection<Scripted>,
        peer: Peer,
        now: Moment,
    }

    impl Bench {
        fn new() -> Bench {
            let (socket, peer) = pair();
            let connection = Connection::new(Transport::connected(socket), Moment::START);
            Bench { connection, peer, now: Moment::START }
        }

        /// Tells of edges, and lets it go on.
        fn advance(&mut self) -> Wish {
            let edges = std::mem::take(&mut self.peer.wire().edges);
            self.connection.mark(edges);
            self.connection.advance(self.now, START)
        }

        fn sends(&mut self, text: impl AsRef<[u8]>) -> Wish {
            self.peer.sends(text);
            self.advance()
        }

        fn after(&mut self, wait: Duration) -> Wish {
            self.now += wait;
            self.advance()
        }

        fn answer(&mut self, text: &str) -> Wish {
            self.connection.answer(&Response::text(200, text), self.now, START);
            self.advance()
        }

        fn got(&self) -> String {
            String::from_utf8(std::mem::take(&mut self.peer.wire().got)).unwrap()
        }
    }

    fn asked(wish: Wish) -> String {
        match wish {
            Wish::Answer(request) => request.path,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_are_answered_one_after_the_other_however_they_arrive() {
        let mut bench = Bench::new();
        for byte in REQUEST[..REQUEST.len() - 1].bytes() {
            assert_eq!(bench.sends([byte]), Wish::Wait);
        }
        assert_eq!(asked(bench.sends("\nGET /y HTTP/1.1\r\nHost: a\r\n\r\nGET /z HT")), "/x");
        assert_eq!(bench.advance(), Wish::Wait, "one at a time");
        assert_eq!(bench.answer("first"), Wish::More);
        assert!(bench.got().ends_with("\r\n\r\nfirst\n"));
        assert_eq!(asked(bench.advance()), "/y");
        assert_eq!(bench.answer("second"), Wish::More);
        assert_eq!(bench.advance(), Wish::Wait);
        assert_eq!(asked(bench.sends("TP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")), "/z");
        assert_eq!(bench.answer("last"), Wish::Wait);
        assert!(bench.got().contains("\r\nConnection: close\r\n"));
        assert_eq!(bench.peer.wire().finished, 1);
        bench.peer.ends();
        assert_eq!(bench.advance(), Wish::Close);
    }

    #[test]
    fn who_dribbles_is_told_that_it_takes_too_long() {
        let mut bench = Bench::new();
        assert_eq!(bench.sends("G"), Wish::Wait);
        for _ in 0..9 {
            bench.peer.sends("E");
            assert_eq!(bench.after(Duration::from_secs(1)), Wish::Wait, "more bytes do not extend it");
        }
        assert_eq!(bench.after(Duration::from_secs(1)), Wish::Wait);
        assert!(bench.got().starts_with("HTTP/1.1 408 "));
        assert_eq!(bench.after(LINGER_TIMEOUT), Wish::Close);
    }

    #[test]
    fn who_asks_nothing_is_left_alone_for_a_while() {
        let mut bench = Bench::new();
        assert_eq!(bench.after(IDLE_TIMEOUT - Duration::from_secs(1)), Wish::Wait);
        assert_eq!(asked(bench.sends(REQUEST)), "/x");
        assert_eq!(bench.answer(""), Wish::Wait);
        assert_eq!(bench.after(IDLE_TIMEOUT - Duration::from_secs(1)), Wish::Wait);
        assert_eq!(bench.after(Duration::from_secs(1)), Wish::Close);
        assert!(bench.got().starts_with("HTTP/1.1 200 "), "and nothing behind it");
    }

    #[test]
    fn who_takes_nothing_is_waited_for_as_long_as_he_takes_a_little() {
        let mut bench = Bench::new();
        bench.peer.wire().room = 10;
        assert_eq!(asked(bench.sends(REQUEST)), "/x");
        assert_eq!(bench.answer(&"x".repeat(1000)), Wish::Wait);
        for _ in 0..3 {
            bench.peer.takes(10);
            assert_eq!(bench.after(STALL_TIMEOUT - Duration::from_secs(1)), Wish::Wait);
        }
        assert_eq!(bench.after(STALL_TIMEOUT), Wish::Close);
    }

    #[test]
    fn an_answer_that_does_not_come_is_an_answer() {
        let mut bench = Bench::new();
        assert_eq!(asked(bench.sends(REQUEST)), "/x");
        assert_eq!(bench.after(ANSWER_TIMEOUT), Wish::Wait);
        assert!(bench.got().starts_with("HTTP/1.1 503 "));
        // The true one may still come, and is nobody's any more.
        bench.connection.answer(&Response::text(200, "late"), bench.now, START);
        assert_eq!((bench.advance(), bench.got().as_str()), (Wish::Wait, ""));
    }

    #[test]
    fn what_is_no_request_is_the_last() {
        let mut bench = Bench::new();
        assert_eq!(bench.sends("\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"), Wish::Wait);
        assert!(bench.got().starts_with("HTTP/1.1 400 "));
        assert_eq!(bench.sends("and more"), Wish::More, "which is dropped");
        assert_eq!(bench.after(LINGER_TIMEOUT), Wish::Close);
    }

    #[test]
    fn an_end_and_a_reset_end_it() {
        let mut bench = Bench::new();
        bench.peer.sends("GET");
        bench.peer.ends();
        assert_eq!(bench.advance(), Wish::Close);
        // Behind a whole request an end is none yet: there is an answer to be had.
        let mut bench = Bench::new();
        bench.peer.sends(REQUEST);
        bench.peer.ends();
        assert_eq!(asked(bench.advance()), "/x");
        assert_eq!(bench.answer("still"), Wish::More);
        assert!(bench.got().ends_with("still\n"));
        assert_eq!(bench.advance(), Wish::Close);
        for before in ["", "GET", REQUEST] {
            let mut bench = Bench::new();
            bench.sends(before);
            bench.peer.resets();
            let edges = Edges { failed: true, ..Edges::default() };
            bench.connection.mark(edges);
            assert_eq!(bench.advance(), Wish::Close, "{before:?}");
        }
    }

    #[test]
    fn who_floods_is_read_no_faster_than_answered() {
        let mut bench = Bench::new();
        assert_eq!(asked(bench.sends(REQUEST.repeat(10_000))), "/x");
        let left = bench.peer.wire().arrived.len();
        for _ in 0..100 {
            assert_eq!(bench.advance(), Wish::Wait);
        }
        assert_eq!(bench.peer.wire().arrived.len(), left);
        assert!(bench.connection.reader.held() <= READ_BYTES_MAX);
        let body = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY_BYTES_MAX}\r\n\r\n");
        let mut bench = Bench::new();
        bench.sends(body + &"x".repeat(BODY_BYTES_MAX - 1));
        assert!(bench.connection.reader.held() <= HEAD_BYTES_MAX + BODY_BYTES_MAX);
    }

    #[test]
    fn room_is_made_by_who_asks_nothing_then_by_who_takes_long() {
        let second = Moment::START + Duration::from_secs(1);
        let (mut idle, mut dribbles, mut asks, mut stalls) =
            (Bench::new(), Bench::new(), Bench::new(), Bench::new());
        idle.now = second;
        dribbles.sends("G");
        asks.sends(REQUEST);
        stalls.peer.wire().room = 0;
        stalls.sends(REQUEST);
        stalls.answer("x");
        let mut lingers = Bench::new();
        lingers.sends("no request\r\n\r\n");
        let place = |bench: &Bench| bench.connection.place_to_go();
        assert!(place(&idle) < place(&lingers) && place(&lingers) < place(&dribbles));
        assert!(place(&dribbles) < place(&stalls));
        assert_eq!(place(&asks), None);
    }
}
