//! Operators with threads of their own: one who looks all the time, one who says what he is told to say, and strangers
//! who hold, dribble, flood, stall, send what is no request, and vanish. The first two are well-behaved and have to be
//! answered, but in hardship: where there are no descriptors, or adit is about to end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use super::looks::Looks;
use super::payload::dice;
use crate::operator::{Answer, Operator};

/// Whoever has waited for so long for an answer waits for nothing. A busy machine takes a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks, and pages of each.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
const LOOK_PAGES: usize = 3;
/// What a stranger waits for at most.
const STRANGER_TIMEOUT: Duration = Duration::from_millis(100);
/// Between two strangers at most, and how long one holds what he has.
const STRANGER_PAUSE_MS_MAX: u64 = 300;
const HOLD_MS_MAX: u64 = 3000;
/// Many times what the kernel holds, and adit.
const FLOOD_BYTES_MAX: usize = 32 << 20;
/// How many come at once: more than adit lets in. And how long they stay where they mean to keep others out.
const CROWD_MAX: usize = 40;
const SIEGE: Duration = Duration::from_secs(8);

/// Whether well-behaved operators may go without an answer.
#[derive(Clone, Default)]
pub struct Hardship(Arc<AtomicU64>);

impl Hardship {
    /// They may, until it ends.
    pub fn begin(&self) {
        self.0.fetch_or(1, SeqCst);
    }

    /// They must not any more. What began in it is told from what begins behind it.
    pub fn end(&self) {
        let _ = self.0.fetch_update(SeqCst, SeqCst, |count| (count % 2 == 1).then_some(count + 1));
    }

    fn now(&self) -> u64 {
        self.0.load(SeqCst)
    }

    /// Whether there has been none since it was as it was then.
    fn was_none_since(&self, then: u64) -> bool {
        then % 2 == 0 && self.now() == then
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub target: String,
    /// Of a `POST`.
    pub body: Option<Value>,
}

/// What operators tell.
#[derive(Debug)]
pub enum Told {
    /// An answer took so long.
    Answered(Duration),
    /// There was none, or not one that can be.
    Wronged(String),
    /// There was none in hardship.
    Unlucky,
    /// What was said by order is answered, or will not be.
    Replied(Option<Answer>),
    /// There was a stranger.
    Stranger,
}

/// What all of them are told.
#[derive(Clone)]
pub struct Brief {
    pub socket: PathBuf,
    pub servers: Vec<SocketAddr>,
    pub seed: u64,
    pub workers: usize,
    pub hardship: Hardship,
}

pub struct Operators {
    pub told: Receiver<Told>,
    orders: Sender<Question>,
    /// Their end is the sign to stop.
    stops: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Operators {
    pub fn start(brief: &Brief) -> io::Result<Operators> {
        let (teller, told) = channel();
        let (orders, ordered) = channel::<Question>();
        let mut operators = Operators { told, orders, stops: Vec::new(), threads: Vec::new() };
        let mut line = Line::new(brief, &teller);
        operators.spawn("operator", move |_| {
            for question in ordered {
                let answer = line.ask(&question);
                let _ = line.teller.send(Told::Replied(answer)); // there may be nobody any more
            }
        })?;
        let (line, watched) = (Line::new(brief, &teller), brief.clone());
        operators.spawn("watcher", move |stop| watch(line, &watched, &stop))?;
        let brief = brief.clone();
        operators.spawn("strangers", move |stop| {
            Strangers { brief, teller, stop, held: Vec::new() }.run();
        })?;
        Ok(operators)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce(Stop) + Send + 'static) -> io::Result<()> {
        let (stop, stopped) = channel();
        self.threads.push(thread::Builder::new().name(name.into()).spawn(move || run(Stop(stopped)))?);
        self.stops.push(stop);
        Ok(())
    }

    /// Has something said, and what is answered told.
    pub fn say(&self, question: Question) {
        // Where the thread has ended its owner is about to find out.
        let _ = self.orders.send(question);
    }

    /// All go, when they have heard what they wait for. What they told last can be heard still.
    pub fn finish(self) -> Result<Receiver<Told>, String> {
        let Operators { told, orders, stops, threads } = self;
        drop((orders, stops));
        let ended: Vec<_> = threads.into_iter().map(JoinHandle::join).collect();
        if ended.iter().all(Result::is_ok) { Ok(told) } else { Err("an operator has panicked".into()) }
    }
}

/// A sign to stop.
struct Stop(Receiver<()>);

impl Stop {
    /// Waits for so long; whether to go on then.
    fn pause(&self, wait: Duration) -> bool {
        matches!(self.0.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
    }
}

/// Who is well-behaved: asks, waits, and asks again on the same connection.
struct Line {
    socket: PathBuf,
    /// A connection that was used.
    operator: Option<Operator>,
    hardship: Hardship,
    teller: Sender<Told>,
}

impl Line {
    fn new(brief: &Brief, teller: &Sender<Told>) -> Line {
        let (socket, hardship) = (brief.socket.clone(), brief.hardship.clone());
        Line { socket, operator: None, hardship, teller: teller.clone() }
    }

    /// The answer; where there is none it is told why.
    fn ask(&mut self, question: &Question) -> Option<Answer> {
        let (then, begin) = (self.hardship.now(), Instant::now());
        let was_used = self.operator.is_some();
        let mut asked = self.try_ask(question);
        // One that was used and on which nothing is asked may be closed at any time (RFC 9112, 9.3.1).
        if was_used && asked.as_ref().is_err_and(has_gone) {
            asked = self.try_ask(question);
        }
        let took = begin.elapsed();
        let is_late = took > ANSWER_TIMEOUT && self.hardship.was_none_since(then);
        let (told, answer) = match asked {
            Ok(_) if is_late => (Told::Wronged(format!("{}: took {took:?}", question.told())), None),
            Ok(answer) => (Told::Answered(took), Some(answer)),
            Err(error) if self.hardship.was_none_since(then) => {
                let kind = error.kind();
                (Told::Wronged(format!("{}: {kind:?} after {took:?}: {error}", question.told())), None)
            }
            Err(_) => (Told::Unlucky, None),
        };
        let _ = self.teller.send(told);
        answer
    }

    fn try_ask(&mut self, question: &Question) -> io::Result<Answer> {
        let mut operator = match self.operator.take() {
            Some(operator) => operator,
            None => Operator::connect(&self.socket, ANSWER_TIMEOUT)?,
        };
        let answer = match &question.body {
            Some(body) => operator.post(&question.target, body),
            None => operator.get(&question.target),
        }?;
        self.operator = Some(operator);
        Ok(answer)
    }
}

/// Whether a connection was closed before there was anything of an answer.
fn has_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}

impl Question {
    fn get(target: impl Into<String>) -> Question {
        Question { target: target.into(), body: None }
    }

    pub fn told(&self) -> String {
        match &self.body {
            Some(body) => format!("POST {} {body}", self.target),
            None => format!("GET {}", self.target),
        }
    }
}

/// Looks, a few times a second.
fn watch(mut line: Line, brief: &Brief, stop: &Stop) {
    let mut looks = Looks::default();
    for number in 0.. {
        let mut rng = dice(brief.seed, 6, number);
        for kind in [Look::Status, Look::Metrics, Look::Other].into_iter().chain([Look::Page; LOOK_PAGES]) {
            if !stop.pause(Duration::ZERO) {
                return;
            }
            let then = brief.hardship.now();
            let question = Question::get(match kind {
                Look::Status => "/status".into(),
                Look::Metrics => "/metrics".into(),
                Look::Page => looks.next_page(&mut rng),
                Look::Other => ["/history", "/", "/healthz", "/readyz"][rng.usize(..4)].to_owned(),
            });
            let answer = line.ask(&question);
            if let Err(what) = look(&mut looks, kind, answer.as_ref(), brief.workers) {
                // As when it is asked whether it serves, and is about to end.
                if brief.hardship.was_none_since(then) {
                    let _ = line.teller.send(Told::Wronged(format!("{}: {what}", question.told())));
                }
            }
        }
        if !stop.pause(LOOK_PERIOD) {
            return;
        }
    }
}

#[derive(Clone, Copy)]
enum Look {
    Status,
    Metrics,
    Page,
    Other,
}

/// Whether what is seen can be so.
fn look(looks: &mut Looks, kind: Look, answer: Option<&Answer>, workers: usize) -> Result<(), String> {
    let Some(answer) = answer else {
        if let Look::Page = kind {
            looks.lose_page();
        }
        return Ok(());
    };
    match kind {
        Look::Status => looks.status(&answer.json()?, workers),
        Look::Metrics => looks.metrics(answer.text()?),
        Look::Page => looks.page(&answer.json()?),
        Look::Other => answer.text().map(drop),
    }
}

/// Those who are not well-behaved, one after the other; what one holds open he holds beside the next.
struct Strangers {
    brief: Brief,
    teller: Sender<Told>,
    stop: Stop,
    held: Vec<(Instant, UnixStream)>,
}

/// What has a long answer. A longer one, kept waiting on every connection, would be as much as all else that adit has,
/// and nobody could say any more whether that grows.
const REQUEST: &[u8] = b"GET /tunnels?limit=100 HTTP/1.1\r\nHost: adit\r\n\r\n";
const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: adit\r\n\r\n";
const HALF: &[u8] =
    b"POST /close HTTP/1.1\r\nHost: adit\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{";

impl Strangers {
    fn run(mut self) {
        for number in 0.. {
            let mut rng = dice(self.brief.seed, 7, number);
            // It is no news that one is not let in, or told no in the middle.
            let _ = self.one(&mut rng);
            let _ = self.teller.send(Told::Stranger);
            let now = Instant::now();
            self.held.retain(|(until, _)| *until > now);
            if !self.stop.pause(Duration::from_millis(rng.u64(..STRANGER_PAUSE_MS_MAX))) {
                return;
            }
        }
    }

    fn one(&mut self, rng: &mut Rng) -> io::Result<()> {
        match rng.u8(..8) {
            0 => self.crowd(rng),
            1 => self.dribble(rng),
            2 => self.flood(rng),
            3 => self.stall(rng),
            4 | 5 => self.garbage(rng),
            6 => self.half_close(rng),
            _ => self.vanish(rng),
        }
    }

    /// Where the backlog is full there is no waiting.
    fn connect(&self) -> io::Result<UnixStream> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(&self.brief.socket)?)?;
        let stream = UnixStream::from(OwnedFd::from(socket));
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(STRANGER_TIMEOUT))?;
        stream.set_write_timeout(Some(STRANGER_TIMEOUT))?;
        Ok(stream)
    }

    fn hold(&mut self, stream: UnixStream, rng: &mut Rng) {
        self.held.push((Instant::now() + Duration::from_millis(rng.u64(..HOLD_MS_MAX)), stream));
    }

    /// Many come at once, and say nothing, or not all.
    fn crowd(&mut self, rng: &mut Rng) -> io::Result<()> {
        let begun = [b"", &b"G"[..], HALF, &REQUEST[..REQUEST.len() - 1]][rng.usize(..4)];
        let is_siege = rng.bool();
        let count = if is_siege { CROWD_MAX } else { rng.usize(1..CROWD_MAX) };
        for _ in 0..count {
            let mut stream = self.connect()?;
            stream.write_all(begun)?;
            if is_siege {
                self.held.push((Instant::now() + SIEGE, stream));
            } else {
                self.hold(stream, rng);
            }
        }
        Ok(())
    }

    /// A request, a little at a time.
    fn dribble(&mut self, rng: &mut Rng) -> io::Result<()> {
        let mut stream = self.connect()?;
        for piece in REQUEST.chunks(rng.usize(1..20)) {
            stream.write_all(piece)?;
            if !self.stop.pause(Duration::from_millis(rng.u64(..30))) {
                return Ok(());
            }
        }
        self.heard(&mut stream)
    }

    /// Requests without end, and no answer is read.
    fn flood(&mut self, rng: &mut Rng) -> io::Result<()> {
        let mut stream = self.connect()?;
        stream.set_nonblocking(true)?;
        let requests = [PAGE, REQUEST][rng.usize(..2)].repeat(100);
        let (mut sent, mut blocked) = (0, 0);
        while blocked < 20 {
            if sent > FLOOD_BYTES_MAX {
                let what = format!("{sent} bytes are taken of one who reads no answer");
                let _ = self.teller.send(Told::Wronged(what));
                return Ok(());
            }
            match stream.write(&requests) {
                Ok(count) => (sent, blocked) = (sent + count, 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    blocked += 1;
                    if !self.stop.pause(Duration::from_millis(1)) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.hold(stream, rng);
        Ok(())
    }

    /// Asks for what is long, and does not take it.
    fn stall(&mut self, rng: &mut Rng) -> io::Result<()> {
        for _ in 0..rng.usize(1..5) {
            let mut stream = self.connect()?;
            stream.write_all(&[REQUEST, PAGE].concat().repeat(10))?;
            self.hold(stream, rng);
        }
        Ok(())
    }

    /// What is no request, at times behind the beginning of one.
    fn garbage(&mut self, rng: &mut Rng) -> io::Result<()> {
        let mut garbage = vec![0; rng.usize(1..20_000)];
        rng.fill(&mut garbage);
        if rng.bool() {
            let begin = [HALF, b"GET / HTTP/1.1\r\n", b"\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
            garbage.splice(..0, begin[rng.usize(..4)].iter().copied());
        }
        let mut stream = self.connect()?;
        let written = stream.write_all(&garbage);
        // Behind what is too long there may be no more room, and the answer is there nevertheless.
        let _ = stream.shutdown(Shutdown::Write);
        self.heard(&mut stream)?;
        written
    }

    /// Ends what he has to say, and listens.
    fn half_close(&mut self, rng: &mut Rng) -> io::Result<()> {
        let mut stream = self.connect()?;
        stream.write_all(&[REQUEST, PAGE][rng.usize(..2)].repeat(rng.usize(1..4)))?;
        stream.shutdown(Shutdown::Write)?;
        self.heard(&mut stream)
    }

    /// Goes away somewhere in a request, or in its answer.
    fn vanish(&mut self, rng: &mut Rng) -> io::Result<()> {
        let mut stream = self.connect()?;
        stream.write_all(&REQUEST[..rng.usize(..=REQUEST.len())])?;
        if rng.bool() {
            let _ = stream.read(&mut [0; 10])?;
        }
        Ok(())
    }

    /// Reads what there is to be heard, for a while: nothing, or an answer.
    fn heard(&self, stream: &mut UnixStream) -> io::Result<()> {
        let mut start = [0; 9];
        stream.read_exact(&mut start)?;
        if start != *b"HTTP/1.1 " {
            let what = format!("a stranger is told {}", start.escape_ascii());
            let _ = self.teller.send(Told::Wronged(what));
        }
        let mut left = 1 << 20;
        let mut buffer = [0; 16 << 10];
        while left > 0 {
            match stream.read(&mut buffer)? {
                0 => break,
                count => left -= count.min(left),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use super::*;
    use crate::operator::tests::{Scripted, yes};

    fn brief(socket: &Path) -> Brief {
        let (socket, servers) = (socket.to_owned(), Vec::new());
        Brief { socket, servers, seed: 1, workers: 1, hardship: Hardship::default() }
    }

    #[test]
    fn hardship_is_known_by_whoever_was_there_before_during_or_behind_it() {
        let hardship = Hardship::default();
        let before = hardship.now();
        assert!(hardship.was_none_since(before));
        hardship.end();
        assert!(hardship.was_none_since(before), "there was none to end");
        hardship.begin();
        hardship.begin();
        let during = hardship.now();
        assert!(!hardship.was_none_since(before) && !hardship.was_none_since(during));
        hardship.end();
        assert!(!hardship.was_none_since(before) && !hardship.was_none_since(during));
        assert!(hardship.was_none_since(hardship.now()));
    }

    /// Asks some questions of a proxy that closes the connection instead of each answer that is numbered here, and says
    /// what was told of each.
    fn told_of(questions: usize, unanswered: &'static [u32], is_hard: bool) -> Vec<String> {
        let mut number = 0;
        let scripted = Scripted::new(move |_| {
            number += 1;
            (!unanswered.contains(&number)).then(|| yes("").unwrap())
        });
        let (brief, (teller, told)) = (brief(&scripted.socket), channel());
        let mut line = Line::new(&brief, &teller);
        if is_hard {
            brief.hardship.begin();
        }
        (0..questions).for_each(|_| drop(line.ask(&Question::get("/x"))));
        let word = |told| match told {
            Told::Answered(_) => "answered".into(),
            Told::Unlucky => "unlucky".into(),
            Told::Wronged(what) => what,
            other => panic!("{other:?}"),
        };
        told.try_iter().map(word).collect()
    }

    #[test]
    fn a_connection_that_was_used_may_be_closed_and_a_new_one_must_not() {
        let is_gone = |told: &str| told.starts_with("GET /x: ConnectionAborted after ");
        assert_eq!(told_of(3, &[], false), ["answered"; 3]);
        assert_eq!(told_of(3, &[2], false), ["answered"; 3]);
        let told = told_of(2, &[1], false);
        assert!(is_gone(&told[0]) && told[1] == "answered", "{told:?}");
        assert_eq!(told_of(2, &[1], true), ["unlucky", "answered"]);
        let told = told_of(2, &[2, 3], false);
        assert!(told[0] == "answered" && is_gone(&told[1]), "{told:?}");
    }

    #[test]
    fn what_is_no_answer_is_told_by_whoever_is_given_it_and_all_go_when_they_are_to() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let _ = stream.write_all(b"nonsense\r\n\r\n");
            }
        });
        let operators = Operators::start(&brief(&socket)).unwrap();
        operators.say(Question { target: "/close".into(), body: Some(serde_json::json!({})) });
        // Who says what is nothing to be relied on; each of them says it sooner or later.
        let mut wanted = vec!["POST /close {}: ", "GET /status: ", "a stranger is told nonsense"];
        let mut replied = false;
        while !(wanted.is_empty() && replied) {
            match operators.told.recv_timeout(ANSWER_TIMEOUT).expect("they go on") {
                Told::Wronged(what) => wanted.retain(|words| !what.starts_with(words)),
                Told::Replied(answer) => {
                    assert_eq!(answer, None);
                    replied = true;
                }
                Told::Answered(_) => panic!("nobody is answered"),
                Told::Unlucky => panic!("there is no hardship"),
                Told::Stranger => {}
            }
        }
        operators.finish().unwrap();
    }
}
