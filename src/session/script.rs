//! Both ends of a session in a test's hands: sockets that keep the kernel's rules, and a loop without a poll.
//!
//! A [`Peer`] is the far end of a [`Scripted`] socket. What a test does there is in the socket at once, and makes an
//! edge where epoll would make one, strictly: when something arrives, and when there is room again after a send came up
//! short. Nothing is announced twice. So a session that parks with work left to do stays parked, and the test sees it.
//!
//! [`Play`] stands in for the event loop: it lends a session its tools, settles what it asks for, and has a clock that
//! moves when it is told to.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::journal::Journal;
use super::opening::Opening;
use super::relay::Relay;
use super::story::Story;
use super::transport::{Edges, Socket, Transport, Watch};
use super::{Holds, Next, Session, Tools, Turn};
use crate::Config;
use crate::error::{Outcome, Side};
use crate::moment::{Date, Moment};
use crate::plan::BackendId;
use crate::proto::adapt::Thresholds;
use crate::setup::Setup;
use crate::sys::Keepalive;
use crate::sys::splice::{self, Pipe};

/// Room without end, as far as a test is concerned.
pub const PLENTY: usize = usize::MAX / 2;

/// More turns in a row than anything here takes.
const TURNS_MAX: usize = 1_000_000;

/// What the kernel knows of a socket.
#[derive(Debug)]
pub struct Wire {
    /// Arrived, and not read.
    pub arrived: VecDeque<u8>,
    /// Behind `arrived` there will be no more.
    pub ended: bool,
    /// More than this a read does not get at once: a peer that sends as slowly as it is read.
    pub arrival_bytes_max: usize,
    /// So many bytes arrived before urgent data of which nobody has been told by a read.
    urgent: Option<usize>,
    /// How many bytes a send takes.
    pub room: usize,
    /// A send came up short: room is announced.
    is_short: bool,
    /// Whether it can be spliced, and the most that one splice moves, whatever there is: the slots of a pipe, a signal.
    pub splices: bool,
    pub splice_bytes_max: usize,
    /// `SO_ERROR`: told once, by whatever asks first.
    error: Option<ErrorKind>,
    /// The connection is gone: a send says so.
    is_dead: bool,
    pub is_connected: bool,
    /// So many calls are interrupted by a signal.
    pub interrupts: usize,
    /// What the peer has got.
    pub got: Vec<u8>,
    /// How often the peer was told that no more comes: by a half-close, or by a close that is none of the others.
    pub finished: usize,
    /// How often it was told by a half-close.
    pub shutdowns: usize,
    /// How often keepalive was set.
    pub kept_alive: usize,
    /// The socket was closed with a reset.
    pub was_reset: bool,
    /// The socket was closed.
    pub closed: bool,
    /// Calls of read(2) and of write(2), and of splice(2) from and to.
    pub calls: [usize; 2],
    /// Bytes that were spliced from it and to it.
    pub spliced: [usize; 2],
    /// Edges that nobody has been told of.
    pub edges: Edges,
    /// What edges are told of.
    watch: Watch,
}

/// The near end: what a transport is given.
#[derive(Debug)]
pub struct Scripted(Rc<RefCell<Wire>>);

/// The far end: what a test plays.
#[derive(Clone, Debug)]
pub struct Peer(Rc<RefCell<Wire>>);

/// A connected socket and its peer, who takes whatever comes.
pub fn pair() -> (Scripted, Peer) {
    let wire = Rc::new(RefCell::new(Wire {
        arrived: VecDeque::new(),
        ended: false,
        urgent: None,
        arrival_bytes_max: PLENTY,
        room: PLENTY,
        is_short: false,
        splices: false,
        splice_bytes_max: PLENTY,
        error: None,
        is_dead: false,
        is_connected: true,
        interrupts: 0,
        got: Vec::new(),
        finished: 0,
        shutdowns: 0,
        kept_alive: 0,
        was_reset: false,
        closed: false,
        calls: [0; 2],
        spliced: [0; 2],
        edges: Edges::default(),
        watch: Watch::Off,
    }));
    (Scripted(Rc::clone(&wire)), Peer(wire))
}

impl Wire {
    fn interrupted(&mut self) -> io::Result<()> {
        match self.interrupts.checked_sub(1) {
            Some(left) => {
                self.interrupts = left;
                Err(ErrorKind::Interrupted.into())
            }
            None => Ok(()),
        }
    }

    /// How much a read or a splice gets at: neither gets beyond urgent data.
    fn arrives(&self) -> usize {
        self.urgent.unwrap_or(PLENTY).min(self.arrived.len()).min(self.arrival_bytes_max)
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.urgent = self.urgent.map(|before| before - count);
        self.arrived.drain(..count).collect()
    }

    /// What a read or a splice is told where it gets at nothing.
    fn nothing_arrives(&mut self) -> io::Result<usize> {
        match (self.error.take(), self.ended) {
            (Some(kind), _) => Err(kind.into()),
            (None, true) => Ok(0),
            (None, false) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// How many bytes of so many a send takes.
    fn takes(&mut self, bytes: usize) -> io::Result<usize> {
        assert_eq!(self.finished, 0, "nothing is written behind a half-close");
        self.interrupted()?;
        if let Some(kind) = self.error.take() {
            return Err(kind.into());
        }
        if self.is_dead {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if !self.is_connected {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = bytes.min(self.room);
        self.room -= count;
        self.is_short |= count < bytes;
        if count > 0 { Ok(count) } else { Err(ErrorKind::WouldBlock.into()) }
    }
}

impl Socket for Scripted {
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let wire = &mut *self.0.borrow_mut();
        wire.calls[0] += 1;
        wire.interrupted()?;
        if wire.urgent == Some(0) {
            wire.urgent = None; // the urgent byte itself is left out
        }
        let count = into.len().min(wire.arrives());
        if count > 0 {
            let arrived = wire.take(count);
            into[..count].copy_from_slice(&arrived);
            return Ok(count);
        }
        wire.nothing_arrives()
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wire = &mut *self.0.borrow_mut();
        wire.calls[1] += 1;
        assert!(!bytes.is_empty(), "there is something to write");
        let count = wire.takes(bytes.len())?;
        wire.got.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn splices(&self) -> bool {
        self.0.borrow().splices && splice::IS_BUILT_IN
    }

    fn splice_in(&mut self, pipe: &mut Pipe, max: usize) -> io::Result<usize> {
        let wire = &mut *self.0.borrow_mut();
        wire.calls[0] += 1;
        wire.interrupted()?;
        let count = max.min(wire.arrives()).min(wire.splice_bytes_max);
        if count > 0 {
            let arrived = wire.take(count);
            assert_eq!(pipe.put(&arrived)?, count, "nothing that a test sends at once fills a pipe");
            wire.spliced[0] += count;
            return Ok(count);
        }
        wire.nothing_arrives()
    }

    fn splice_out(&mut self, pipe: &mut Pipe) -> io::Result<usize> {
        let wire = &mut *self.0.borrow_mut();
        wire.calls[1] += 1;
        let count = wire.takes(pipe.held().min(wire.splice_bytes_max))?;
        wire.got.extend(pipe.take(count));
        wire.spliced[1] += count;
        Ok(count)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        let wire = &mut *self.0.borrow_mut();
        (wire.finished, wire.shutdowns) = (wire.finished + 1, wire.shutdowns + 1);
        Ok(())
    }

    fn keep_alive(&mut self, _: &Keepalive) {
        self.0.borrow_mut().kept_alive += 1;
    }

    fn make_close_a_reset(&mut self) {
        self.0.borrow_mut().was_reset = true;
    }

    fn take_error(&mut self) -> Option<io::Error> {
        self.0.borrow_mut().error.take().map(io::Error::from)
    }

    fn is_connected(&mut self) -> bool {
        self.0.borrow().is_connected
    }

    fn local_address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::from(([192, 0, 2, 80], 8020)))
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        let wire = &mut *self.0.borrow_mut();
        wire.closed = true;
        if !wire.was_reset && wire.finished == 0 {
            wire.finished = 1;
        }
    }
}

impl Peer {
    /// What the kernel knows of the socket.
    pub fn wire(&self) -> RefMut<'_, Wire> {
        self.0.borrow_mut()
    }

    /// Sends.
    pub fn sends(&self, bytes: impl AsRef<[u8]>) {
        let wire = &mut *self.wire();
        wire.arrived.extend(bytes.as_ref());
        wire.edges.readable = true;
    }

    /// Whether urgent data is still ahead of what can be read.
    pub fn has_urgent(&self) -> bool {
        self.wire().urgent.is_some()
    }

    /// Sends urgent data: a byte that is none of the stream's.
    pub fn sends_urgent(&self) {
        let wire = &mut *self.wire();
        wire.urgent = Some(wire.arrived.len());
        wire.edges.readable = true;
        wire.edges.read_closed = true;
    }

    /// Half-closes.
    pub fn ends(&self) {
        let wire = &mut *self.wire();
        wire.ended = true;
        wire.edges.readable = true;
        wire.edges.read_closed = true;
    }

    /// Resets the connection. What it sent before stays readable, as it does on Linux.
    pub fn resets(&self) {
        let wire = &mut *self.wire();
        (wire.ended, wire.is_dead, wire.error) = (true, true, Some(ErrorKind::ConnectionReset));
        wire.edges = Edges { readable: true, writable: true, read_closed: true, failed: true };
    }

    /// The connection is gone, and nothing says so but the next send.
    pub fn vanishes(&self) {
        self.wire().is_dead = true;
    }

    /// Takes so many bytes more.
    pub fn takes(&self, bytes: usize) {
        let wire = &mut *self.wire();
        wire.room = wire.room.saturating_add(bytes).min(PLENTY);
        if wire.room > 0 {
            wire.edges.writable |= std::mem::take(&mut wire.is_short);
        }
    }

    /// Takes nothing more.
    pub fn is_full(&self) {
        self.wire().room = 0;
    }

    /// Edges that mean nothing, as every program on epoll meets them.
    pub fn nudges(&self) {
        let wire = &mut *self.wire();
        (wire.edges.readable, wire.edges.writable) = (true, true);
    }

    /// The connection, asked for before, is there.
    pub fn connects(&self) {
        let wire = &mut *self.wire();
        wire.is_connected = true;
        wire.edges.writable = true;
    }

    /// The connection, asked for before, cannot be had.
    pub fn refuses(&self) {
        let wire = &mut *self.wire();
        wire.error = Some(ErrorKind::ConnectionRefused);
        wire.edges = Edges { readable: true, writable: true, read_closed: true, failed: true };
    }

    /// Watches, which makes an edge of what is there already.
    fn watch(&self, watch: Watch) {
        let wire = &mut *self.wire();
        wire.watch = watch;
        // Whoever looks for room and finds none is told when there is some, as by tcp_poll.
        wire.is_short |= watch == Watch::Both && wire.room == 0;
        let failed = wire.error.is_some();
        let read_closed = wire.ended || failed || wire.urgent.is_some();
        let readable = !wire.arrived.is_empty() || read_closed || wire.is_dead;
        wire.edges = Edges { readable, writable: wire.is_connected && wire.room > 0, read_closed, failed };
    }

    /// The edges that were not told yet and are to be told now. Of room it is told only where that is watched for.
    fn told(&self) -> Edges {
        let wire = &mut *self.wire();
        match wire.watch {
            Watch::Off => Edges::default(),
            Watch::Reads => Edges { writable: false, ..std::mem::take(&mut wire.edges) },
            Watch::Both => std::mem::take(&mut wire.edges),
        }
    }

    /// Whether everything that it caused has been told.
    pub fn is_quiet(&self) -> bool {
        self.wire().edges == Edges::default()
    }

    /// What it has got so far.
    pub fn got_bytes(&self) -> Vec<u8> {
        self.wire().got.clone()
    }

    /// What it has got since this was last asked.
    pub fn got(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.wire().got)).expect("text")
    }
}

/// What comes of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// A connection, in a moment.
    Connects,
    /// Nothing for now.
    Hangs,
    /// An error, in a moment.
    Refuses,
    /// An error at once.
    Fails,
    /// An error at once: no address or port of ours is left for this server.
    LacksPort,
    /// An error at once: no descriptor is left.
    Exhausts,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It is new, or has been told of an edge: the loop owes it a turn.
    Ready,
    /// It waits for an edge or its deadline.
    Parked,
    /// It wants another turn.
    Yielded,
    /// It has ended.
    Over,
}

thread_local! {
    static IN_BULK: Cell<bool> = const { Cell::new(false) };
}

/// Runs tests again with tunnels in which everything is spliced.
#[cfg(feature = "splice")]
pub fn again_in_bulk(tests: &[fn()]) {
    IN_BULK.set(true);
    tests.iter().for_each(|test| test());
    IN_BULK.set(false);
}

/// One session, and what the loop is to it.
pub struct Play {
    pub setup: Setup,
    pub holds: Holds,
    pub tools: Tools,
    lines: Arc<Mutex<Vec<String>>>,
    pub now: Moment,
    pub session: Session<Scripted>,
    pub client: Peer,
    /// The sockets that were dialed, in order, and to which of a pool's servers. One that failed at once has none.
    pub servers: Vec<Peer>,
    pub dialed: Vec<u16>,
    /// What comes of the next dials; then each connects.
    pub dials: VecDeque<Dial>,
    /// Whether a write to a dialed socket is worth a try at once, as on the same host, and the room that it finds.
    pub dials_at_once: bool,
    pub dialed_room: usize,
    pub rest: Rest,
    pub deadline: Option<Moment>,
    pub yields: usize,
}

/// A client as the tests have it, where nothing else is said.
pub const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);

impl Play {
    /// A session that has just been accepted.
    pub fn accepted(config: &str) -> Play {
        let (socket, client) = pair();
        let opening =
            |story, _| Session::Opening(Box::new(Opening::new(Transport::connected(socket), story)));
        Play::new(config, client, opening)
    }

    /// An open tunnel, with bytes on their way up and down.
    pub fn tunnel(config: &str, up: &[u8], down: &[u8]) -> Play {
        let (near, client) = pair();
        let (far, server) = pair();
        let mut play = Play::new(config, client, |story, now| {
            let mut ends = [Transport::connected(near), Transport::connected(far)];
            ends.iter_mut().for_each(|end| end.watched(Watch::Reads));
            Session::Relaying(Relay::new(ends, up.to_vec(), down.to_vec(), *story, now, 0))
        });
        play.servers.push(server);
        play.ends().into_iter().for_each(|end| end.watch(Watch::Reads));
        if IN_BULK.get() {
            play.be_in_bulk();
        }
        play
    }

    /// Everything is spliced from now on, where that is built in and nothing stands against it.
    fn be_in_bulk(&mut self) {
        self.tools.thresholds = Thresholds { bulk_from_bytes: 1, light_below_bytes: 0 };
        self.ends().iter().for_each(|end| end.wire().splices = true);
        let Session::Relaying(relay) = &mut self.session else { panic!("a tunnel") };
        relay.be_in_bulk();
    }

    fn new(
        config: &str,
        client: Peer,
        session: impl FnOnce(Box<Story>, Moment) -> Session<Scripted>,
    ) -> Play {
        let plan = Config::from_toml(config).and_then(|config| config.check());
        let plan = plan.unwrap_or_else(|error| panic!("{error}"));
        let setup = Setup::of(plan);
        let now = Moment::START;
        let story = Box::new(Story::new([7; 16], Some(SocketAddr::from(CLIENT)), 0, now));
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let mut journal = Journal::default();
        let written = Arc::clone(&lines);
        journal.set_sink(Some(Arc::new(Mutex::new(move |line: &[u8]| {
            written.lock().unwrap().push(String::from_utf8(line.to_vec()).expect("a line is text"));
        }))));
        let date = Date { read_at: now, read: SystemTime::UNIX_EPOCH };
        let dice = fastrand::Rng::with_seed(1);
        let tools = Tools { journal, dice, ..Tools::new(date, Arc::default(), 1) };
        Play {
            holds: Holds::default(),
            tools,
            lines,
            now,
            session: session(story, now),
            client,
            servers: Vec::new(),
            dialed: Vec::new(),
            dials: VecDeque::new(),
            dials_at_once: false,
            dialed_room: PLENTY,
            rest: Rest::Ready,
            deadline: None,
            yields: 0,
            setup,
        }
    }

    /// The server dialed last.
    pub fn server(&self) -> &Peer {
        self.servers.last().expect("a server was dialed")
    }

    /// Both ends of a tunnel, or of whatever is between the client and the server dialed last.
    pub fn ends(&self) -> [&Peer; 2] {
        [&self.client, self.server()]
    }

    /// Lends the loop's tools.
    pub fn lend<T>(&mut self, work: impl FnOnce(&mut Session<Scripted>, &mut Turn<'_>) -> T) -> T {
        self.tools.pump_budget = self.tools.flow_budget;
        let mut turn = Turn {
            now: self.now,
            timeouts: &self.setup.plan.listeners[0].timeouts,
            setup: &self.setup,
            holds: &mut self.holds,
            tools: &mut self.tools,
        };
        work(&mut self.session, &mut turn)
    }

    /// Tells the session of the edges at one end. Says whether there were any.
    pub fn tell(&mut self, side: Side) -> bool {
        let peer = match side {
            Side::Client => Some(&self.client),
            Side::Server => self.servers.last(),
        };
        let edges = peer.map(Peer::told).unwrap_or_default();
        let any = edges != Edges::default();
        if any && self.rest != Rest::Over {
            self.session.mark(side, edges);
            self.rest = Rest::Ready;
        }
        any
    }

    /// One turn.
    pub fn turn(&mut self) -> Rest {
        let next = self.lend(Session::advance);
        self.settle(next)
    }

    /// Turns until nothing is left to do.
    pub fn run(&mut self) -> Rest {
        for _ in 0..TURNS_MAX {
            self.tell(Side::Client);
            self.tell(Side::Server);
            match self.rest {
                Rest::Ready | Rest::Yielded => drop(self.turn()),
                Rest::Parked | Rest::Over => return self.rest,
            }
        }
        panic!("the session never comes to rest");
    }

    /// Lets time pass, and what it brings.
    pub fn wait(&mut self, time: Duration) -> Rest {
        self.now += time;
        if self.rest == Rest::Parked && self.deadline.is_some_and(|deadline| deadline <= self.now) {
            let next = self.lend(Session::expire);
            self.settle(next);
        }
        self.run()
    }

    /// As [`wait`](Play::wait).
    pub fn wait_ms(&mut self, millis: u64) -> Rest {
        self.wait(Duration::from_millis(millis))
    }

    /// What the loop does with what a session asks for.
    fn settle(&mut self, mut next: Next) -> Rest {
        self.rest = loop {
            match next {
                Next::Park { deadline } => {
                    self.deadline = deadline;
                    self.watch();
                    break Rest::Parked;
                }
                Next::Rest => {
                    assert!(self.session.unwatched().is_none(), "a session that rests is watched");
                    break Rest::Parked;
                }
                Next::Yield => {
                    self.yields += 1;
                    self.watch();
                    break Rest::Yielded;
                }
                Next::Dial(backend) => {
                    let socket = self.dial(backend);
                    self.session.dialed(socket);
                    next = self.lend(Session::advance);
                }
                // As where no pace is configured.
                Next::Retire { .. } => break self.close(Some(&Outcome::Lifetime)),
                Next::Close(outcome) | Next::Linger(outcome) => break self.close(Some(&outcome)),
                Next::End => break self.close(None),
            }
        };
        self.rest
    }

    fn watch(&mut self) {
        while let Some((side, socket, watch)) = self.session.unwatched() {
            socket.watched(watch);
            let server = self.servers.last();
            let peer = if side == Side::Client { Some(&self.client) } else { server };
            peer.expect("whoever is watched is there").watch(watch);
        }
    }

    fn dial(&mut self, backend: BackendId) -> io::Result<Transport<Scripted>> {
        self.dialed.push(backend.index);
        let dial = self.dials.pop_front().unwrap_or(Dial::Connects);
        let (socket, peer) = pair();
        peer.wire().is_connected = false;
        peer.wire().room = self.dialed_room;
        match dial {
            Dial::Connects => peer.connects(),
            Dial::Hangs => {}
            Dial::Refuses => peer.refuses(),
            Dial::Fails => return Err(ErrorKind::HostUnreachable.into()),
            Dial::LacksPort => return Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)),
            Dial::Exhausts => return Err(io::Error::from_raw_os_error(libc::EMFILE)),
        }
        self.servers.push(peer);
        Ok(if self.dials_at_once { Transport::connected(socket) } else { Transport::new(socket) })
    }

    fn close(&mut self, outcome: Option<&Outcome>) -> Rest {
        let story = std::mem::replace(&mut self.session, Session::Gone).close(self.holds.backend);
        assert_eq!(story.is_some(), outcome.is_some(), "a session has one last line: {outcome:?}");
        if let (Some(story), Some(outcome)) = (story, outcome) {
            self.tools.journal.close(&story, outcome, &self.setup, self.now, SystemTime::UNIX_EPOCH);
        }
        if let Some(backend) = self.holds.backend.take() {
            self.setup.record(backend).close();
        }
        if let Some(address) = self.holds.address.take() {
            self.tools.addresses.leave(*address);
        }
        self.deadline = None;
        Rest::Over
    }

    /// The lines of the access log.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The values of these fields in the last line of the access log, which is that of the end.
    #[track_caller]
    pub fn told(&self, names: &[&str]) -> String {
        let lines = self.lines();
        let line = lines.last().expect("a line");
        assert!(line.contains(" event=close "), "{line}");
        let field = |name: &&str| {
            let (_, value) = line.split_once(&format!(" {name}="))?;
            let end = if let Some(quoted) = value.strip_prefix('"') {
                quoted.find('"')? + 2
            } else {
                value.find([' ', '\n'])?
            };
            Some(value[..end].trim_matches('"').to_owned())
        };
        names.iter().map(|name| field(name).unwrap_or("-".into())).collect::<Vec<_>>().join(" ")
    }

    /// Who ended the session and why.
    #[track_caller]
    pub fn outcome(&self) -> String {
        self.told(&["ended_by", "outcome"])
    }
}
