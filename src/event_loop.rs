//! The loop: one thread, one poll, one slab of sessions.
//!
//! A turn polls, marks what became ready, lets those sessions advance and settles what each of them asks for, accepts,
//! expires timers, and at last frees the slots of sessions that ended. This is the only place that knows `Poll`, the
//! slab and the clock; sessions talk to it by returning [`Next`].
//!
//! A socket is registered when its session is first to wait for it, edge-triggered, and closed without deregistering
//! (epoll(7): closing the only descriptor takes it out). A slot is freed at the end of the turn in which its session
//! ended, so an event of this turn cannot meet a stranger in it, and a closed socket has no events in the next.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use mio::event::Event;
use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use crate::error::{Outcome, Side, StartError};
use crate::listener::Listener;
use crate::moment::{Date, Moment};
use crate::plan::{Address, BackendId, Plan};
use crate::session::engine::{FILL_BYTES_MAX, PUMP_BYTES_MAX};
use crate::session::journal::Sink;
use crate::session::opening::Opening;
use crate::session::story::Story;
use crate::session::transport::{Edges, Stream, Transport, Watch};
use crate::session::{Holds, Next, Session, Tools, Turn};
use crate::stats::Stats;
use crate::sys;
use crate::timer::Timers;

/// Events taken from the kernel at once: beyond this a larger batch saves nothing, below it calls add up.
const EVENTS_MAX: usize = 256;

/// How much bulk stands between a message and its turn.
#[derive(Clone, Copy)]
struct Allowance {
    /// What a direction may move in a turn.
    pump_bytes_max: usize,
    /// With so much moved no further session goes on, so that the poll can be asked who came meanwhile.
    turn_bytes_max: usize,
}

/// While somebody speaks beside the bulk: an echo waits 0.2 to 0.4 ms for its answer then. With pumps of 256 KiB it is
/// 0.75 ms, with ones of 1 MiB some milliseconds, and the bulk is no faster.
const SHORT: Allowance = Allowance { pump_bytes_max: FILL_BYTES_MAX, turn_bytes_max: 2 * FILL_BYTES_MAX };

/// While nobody does: a tenth to a quarter less processor time than with short ones, and the same as with longer ones.
const LONG: Allowance = Allowance { pump_bytes_max: PUMP_BYTES_MAX, turn_bytes_max: 4 * PUMP_BYTES_MAX };

/// What is less than this is a message. A stream that is not in bulk for a moment brings more at once.
const SPOKEN_BYTES_MAX: usize = 16 * 1024;

/// How long somebody counts as speaking. Who sends less often than that does not mind to wait a little longer once.
const SPEAKING: Duration = Duration::from_millis(10);

/// Clients that one listener may bring in a turn, so that a crowd at the door does not stop those inside.
const ACCEPT_BUDGET: usize = 64;

/// How long accepting pauses when the process or the machine has run out of descriptors or memory, unless a session
/// ends before that. Long enough not to spin, short enough not to be noticed.
const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);

/// How long a listener that fails by itself is left alone. Each try writes a line, and the others go on meanwhile.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What a connection is watched for at first. Urgent data among it, as a read ends short of that (see
/// [`Edges::read_closed`]).
#[cfg(any(target_os = "linux", target_os = "android"))]
const READS: Interest = Interest::READABLE.add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const READS: Interest = Interest::READABLE;

/// How long the date is worked out from the time before it is read again, since somebody may set the machine's clock.
const DATE_LASTS: Duration = Duration::from_secs(1);

const WAKER: Token = Token(usize::MAX);

/// What a handle may ask of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Take in nobody, and let sessions end.
    Drain,
    /// End them.
    Stop,
}

/// The loop and all that it owns.
pub struct EventLoop {
    poll: Poll,
    events: Events,
    /// Whether the last poll brought all the events that fit, so that more may wait. A host that watches our descriptor
    /// edge-triggered has been told of them already, and will not be told again.
    more_events: bool,
    commands: Receiver<Command>,
    plan: Arc<Plan>,
    listeners: Vec<Listener>,
    /// The first token of sessions: those below are the listeners'.
    first_session_token: usize,
    slots: Slab<Slot>,
    timers: Timers,
    /// Sessions to advance in this turn.
    ready: Vec<usize>,
    /// Sessions that had more to do than their last turn allowed, and those in bulk: they come behind what became ready
    /// meanwhile.
    yielded: VecDeque<usize>,
    /// When a session last said something small.
    spoken_at: Moment,
    /// Slots to free at the end of the turn.
    ended: Vec<usize>,
    /// Accepting pauses until then.
    paused_until: Option<Moment>,
    /// Sessions that wait for a descriptor to reach a server with, the first to wait first. While there are any nobody
    /// is accepted: each descriptor that becomes free is for them.
    undialed: VecDeque<Undialed>,
    /// Whether the pause has been logged: once for each time we run out.
    exhaustion_is_logged: bool,
    phase: Phase,
    clock: Clock,
    tools: Tools,
}

/// A session and what the loop keeps beside it.
struct Slot {
    session: Session<Stream>,
    holds: Holds,
    listener: u16,
    /// Whether it stands in a queue, so that it stands there once.
    queued: bool,
    /// Whether it is in bulk, so that it stands behind the others.
    bulk: bool,
    /// Whether it has ended; the slot is freed at the end of the turn.
    over: bool,
}

/// A session that asked for a socket when there was none to be had.
struct Undialed {
    key: usize,
    backend: BackendId,
    /// It waits as long as it would for the server itself.
    deadline: Moment,
}

/// Whether the loop takes in clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Asked to stop: nobody is let in, sessions may end by themselves until then (`None`: as long as they like).
    Draining(Option<Moment>),
    /// Asked to stop at once.
    Stopped,
}

/// The time, read once a turn.
struct Clock {
    /// When it began.
    start: Instant,
    now: Moment,
}

impl Clock {
    fn start() -> Clock {
        Clock { start: Instant::now(), now: Moment::START }
    }

    fn tick(&mut self) {
        self.now = Moment::START + self.start.elapsed();
    }

    fn date(&self) -> Date {
        Date { read_at: self.now, read: SystemTime::now() }
    }
}

/// What a session is asked to do.
#[derive(Clone, Copy)]
enum Work {
    Advance,
    Expire,
}

impl EventLoop {
    /// Opens every listener of the plan. Nothing half-starts: where one cannot be opened none stays open.
    pub fn new(mut plan: Plan, commands: Receiver<Command>) -> Result<(EventLoop, Waker), StartError> {
        let poll = Poll::new().map_err(StartError::EventLoop)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(StartError::EventLoop)?;
        let clock = Clock::start();
        let tools = Tools::new(&plan, clock.date());
        let mut listeners = Vec::with_capacity(plan.listeners.len());
        for (index, listener) in plan.listeners.iter_mut().enumerate() {
            let failed = |error| StartError::Listen { address: listener.address.to_string(), error };
            let mut bound =
                Listener::open(&listener.address, plan.tcp.backlog, &tools.keepalive).map_err(failed)?;
            poll.registry()
                .register(bound.source(), Token(index), Interest::READABLE)
                .map_err(StartError::EventLoop)?;
            // Who reads the log wants to know the port, also where the kernel chose it.
            listener.address.clone_from(&bound.address);
            log::info!("listening on {}", bound.address);
            listeners.push(bound);
        }
        let event_loop = EventLoop {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            more_events: false,
            commands,
            first_session_token: listeners.len(),
            listeners,
            plan: Arc::new(plan),
            slots: Slab::new(),
            timers: Timers::new(),
            ready: Vec::with_capacity(EVENTS_MAX),
            yielded: VecDeque::new(),
            spoken_at: Moment::START,
            ended: Vec::new(),
            paused_until: None,
            undialed: VecDeque::new(),
            exhaustion_is_logged: false,
            phase: Phase::Serving,
            clock,
            tools,
        };
        Ok((event_loop, waker))
    }

    /// Session lines go to `sink` from now on.
    pub fn set_access_log(&mut self, sink: Sink) {
        self.tools.journal.set_sink(sink);
    }

    /// The counters.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.tools.stats)
    }

    /// The clients that it serves at once.
    pub fn max_connections(&self) -> usize {
        self.plan.limits.max_connections
    }

    /// Where it listens.
    pub fn local_addrs(&self) -> Vec<Address> {
        self.listeners.iter().map(|listener| listener.address.clone()).collect()
    }

    /// Whether it was asked to stop and has nothing left to do.
    pub fn is_over(&self) -> bool {
        self.phase != Phase::Serving && self.slots.is_empty()
    }

    /// One pass. Waits for something to do, at most `timeout`.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let wait = self.wait(timeout);
        match self.poll.poll(&mut self.events, wait) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            Err(error) => return Err(error),
        }
        self.clock.tick();
        if self.clock.now.since(self.tools.date.read_at) >= DATE_LASTS {
            self.tools.date = self.clock.date();
        }
        if self.mark() {
            self.obey();
        }
        let resumed = self.yielded.len();
        for index in 0..self.ready.len() {
            let before = self.tools.moved;
            self.advance(self.ready[index]);
            if (1..SPOKEN_BYTES_MAX).contains(&(self.tools.moved - before)) {
                self.spoken_at = self.clock.now;
            }
        }
        self.ready.clear();
        let is_spoken = self.clock.now.since(self.spoken_at) < SPEAKING;
        let allowance = if is_spoken { SHORT } else { LONG };
        self.tools.pump_budget = allowance.pump_bytes_max;
        self.go_on(resumed, allowance.turn_bytes_max);
        self.resume();
        self.accept();
        self.expire();
        self.reap();
        Ok(())
    }

    /// Lets sessions go on that had to wait, so many at most, and not beyond what may be moved.
    fn go_on(&mut self, resumed: usize, turn_bytes_max: usize) {
        self.tools.moved = 0;
        for _ in 0..resumed {
            match self.yielded.pop_front() {
                Some(key) => self.advance(key),
                None => return,
            }
            if self.tools.moved >= turn_bytes_max {
                return;
            }
        }
    }

    /// How long the poll may sleep.
    fn wait(&self, timeout: Option<Duration>) -> Option<Duration> {
        let may_accept_more = self.may_accept() && self.listeners.iter().any(|listener| listener.ready);
        let may_dial = self.paused_until.is_none() && !self.undialed.is_empty();
        if self.more_events || !self.yielded.is_empty() || may_accept_more || may_dial {
            return Some(Duration::ZERO);
        }
        let drain = match self.phase {
            Phase::Draining(deadline) => deadline,
            Phase::Serving | Phase::Stopped => None,
        };
        let retry = self.listeners.iter().filter_map(|listener| listener.retry_at).min();
        let next = [self.timers.next(), self.paused_until, retry, drain].into_iter().flatten().min();
        match next {
            None => timeout,
            Some(next) => {
                // The clock of the last turn is a little behind: the poll may wake late by that, never early. A wait
                // is rounded up to the millisecond by the kernel's side of mio.
                let until = next.since(self.clock.now);
                Some(timeout.map_or(until, |timeout| timeout.min(until)))
            }
        }
    }

    /// When the loop wants its next turn at the latest; `None`: when there are events.
    pub fn next_turn(&self) -> Option<Instant> {
        self.wait(None).map(|wait| self.clock.start + self.clock.now.since(Moment::START) + wait)
    }

    /// Marks what the poll brought, and queues the sessions it is about. Says whether there are commands.
    fn mark(&mut self) -> bool {
        let (mut called, mut count) = (false, 0);
        for event in &self.events {
            count += 1;
            if event.token() == WAKER {
                called = true;
                continue;
            }
            let Some(token) = event.token().0.checked_sub(self.first_session_token) else {
                if let Some(listener) = self.listeners.get_mut(event.token().0) {
                    listener.mark();
                }
                continue;
            };
            let (key, side) = (token / 2, if token % 2 == 0 { Side::Client } else { Side::Server });
            // A session that ended in an earlier turn has no events, one that ended in this turn keeps its slot.
            let Some(slot) = self.slots.get_mut(key) else { continue };
            slot.session.mark(side, edges(event));
            if !slot.queued {
                slot.queued = true;
                if slot.bulk {
                    self.yielded.push_back(key);
                } else {
                    self.ready.push(key);
                }
            }
        }
        self.more_events = count == EVENTS_MAX;
        called
    }

    fn token(&self, key: usize, side: Side) -> Token {
        Token(self.first_session_token + 2 * key + usize::from(side == Side::Server))
    }

    /// Lets a session that stood in a queue go on.
    fn advance(&mut self, key: usize) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.queued = false;
        }
        self.work(key, Work::Advance);
    }

    /// Lets a session work, and settles what it asks for.
    fn work(&mut self, key: usize, work: Work) {
        match self.lend(key, work) {
            Next::Rest => {} // what most messages come to
            next => self.settle(key, next),
        }
    }

    /// Lends a session the loop's tools. A panic in there is a bug of ours that ends this session and no other.
    fn lend(&mut self, key: usize, work: Work) -> Next {
        let Some(slot) = self.slots.get_mut(key).filter(|slot| !slot.over) else { return Next::End };
        let plan = Arc::as_ref(&self.plan);
        let mut turn = Turn {
            now: self.clock.now,
            plan,
            timeouts: &plan.listeners[usize::from(slot.listener)].timeouts,
            holds: &mut slot.holds,
            tools: &mut self.tools,
        };
        let session = &mut slot.session;
        let worked = catch_unwind(AssertUnwindSafe(|| match work {
            Work::Advance => session.advance(&mut turn),
            Work::Expire => session.expire(&mut turn),
        }));
        worked.unwrap_or_else(|_| {
            self.tools.stats.panicked();
            log::error!("a session has been ended by a bug of adit's; the others go on");
            Next::Close(Outcome::Panicked)
        })
    }

    /// Does what a session asked for: the one place where sockets are dialed, timers set, slots given up.
    fn settle(&mut self, key: usize, mut next: Next) {
        loop {
            match next {
                Next::Rest => return,
                Next::Park { deadline } => break self.timers.set(key, deadline),
                Next::Yield => {
                    let slot = &mut self.slots[key];
                    if !slot.queued {
                        slot.queued = true;
                        self.yielded.push_back(key);
                    }
                    break;
                }
                Next::Dial(backend) => match self.dial(backend) {
                    Err(error) if sys::is_exhaustion(&error) => return self.put_off(key, backend, &error),
                    socket => next = self.connect(key, socket),
                },
                Next::Close(outcome) | Next::Linger(outcome) => return self.close(key, Some(&outcome)),
                Next::End => return self.close(key, None),
            }
        }
        // It waits, if only for its turn.
        let slot = &mut self.slots[key];
        slot.bulk = slot.session.is_bulk();
        self.watch(key);
    }

    /// Sees to it that a session is told of what it waits for. A socket that is ready already is told of at once.
    fn watch(&mut self, key: usize) {
        let token = self.token(key, Side::Client).0;
        while let Some((side, socket, watch)) = self.slots[key].session.unwatched() {
            let token = Token(token + usize::from(side == Side::Server));
            let interest = if watch == Watch::Both { READS | Interest::WRITABLE } else { READS };
            let registry = self.poll.registry();
            let watched = if socket.is_watched() {
                registry.reregister(socket.source(), token, interest)
            } else {
                registry.register(socket.source(), token, interest)
            };
            if let Err(error) = watched {
                log::error!("cannot watch a socket, whose session is ended: {error}");
                let outcome = Outcome::Failed { side, error: error.kind() };
                return self.close(key, Some(&outcome));
            }
            socket.watched(watch);
        }
    }

    /// Gives a session the socket that it asked for, or the reason why there is none.
    fn connect(&mut self, key: usize, socket: io::Result<Transport<Stream>>) -> Next {
        self.slots[key].session.dialed(socket);
        self.lend(key, Work::Advance)
    }

    /// There is no descriptor for a socket to a server: the session waits for one, and clients do in the backlog.
    fn put_off(&mut self, key: usize, backend: BackendId, error: &io::Error) {
        let listener = &self.plan.listeners[usize::from(self.slots[key].listener)];
        let deadline = self.clock.now + listener.timeouts.connect;
        self.undialed.push_back(Undialed { key, backend, deadline });
        self.watch(key);
        self.pause(format_args!("cannot open a socket to a server"), error);
    }

    /// Ends a pause, and gives what has become free to those who wait for it.
    fn resume(&mut self) {
        if self.paused_until.is_some_and(|until| self.clock.now < until) {
            return;
        }
        self.paused_until = None;
        while let Some(&Undialed { key, backend, deadline }) = self.undialed.front() {
            let socket = self.dial(backend);
            match &socket {
                Err(error) if sys::is_exhaustion(error) && self.clock.now < deadline => {
                    return self.pause(format_args!("cannot open a socket to a server"), error);
                }
                Err(_) | Ok(_) => {}
            }
            self.undialed.pop_front();
            let next = self.connect(key, socket);
            self.settle(key, next);
        }
        self.tools.buffers.use_descriptors();
    }

    /// Begins to connect to a backend.
    fn dial(&self, id: BackendId) -> io::Result<Transport<Stream>> {
        match &self.plan.pools[usize::from(id.pool.0)].backends[usize::from(id.index)].address {
            Address::Tcp(address) => {
                let stream = sys::dial_tcp(*address)?;
                let stream = Stream::Tcp(TcpStream::from_std(stream));
                // On the same host a connection is there at once, mostly: a write is worth a try.
                let at_once = address.ip().is_loopback();
                Ok(if at_once { Transport::connected(stream) } else { Transport::new(stream) })
            }
            Address::Unix(path) => {
                Ok(Transport::connected(Stream::Unix(UnixStream::from_std(sys::dial_unix(path)?))))
            }
        }
    }

    /// Ends a session: closes its sockets, writes its last line unless it is written, gives back what it held.
    fn close(&mut self, key: usize, outcome: Option<&Outcome>) {
        let Some(slot) = self.slots.get_mut(key).filter(|slot| !slot.over) else { return };
        slot.over = true;
        let session = std::mem::replace(&mut slot.session, Session::Gone);
        self.tools.stats.session_closed(slot.holds.tunnel);
        // A session that has panicked may do so again.
        let story = catch_unwind(AssertUnwindSafe(|| session.close(slot.holds.backend))).unwrap_or_default();
        if let (Some(story), Some(outcome)) = (story, outcome) {
            let (now, wall) = (self.clock.now, self.tools.date.at(self.clock.now));
            self.tools.journal.close(&story, outcome, &self.plan, now, wall);
        }
        if let Some(backend) = slot.holds.backend {
            self.tools.balancer.closed(backend);
        }
        if let Some(address) = slot.holds.address.take() {
            self.tools.addresses.leave(*address);
        }
        self.timers.clear(key);
        self.undialed.retain(|undialed| undialed.key != key);
        // Or the next session in this slot would stand there twice.
        if slot.queued {
            self.yielded.retain(|&queued| queued != key);
        }
        self.ended.push(key);
    }

    fn may_accept(&self) -> bool {
        let paused = self.paused_until.is_some() || !self.undialed.is_empty();
        !paused && self.slots.len() < self.plan.limits.max_connections
    }

    /// Takes in the clients that wait, a budget of them for each listener.
    fn accept(&mut self) {
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.retry_at.is_some_and(|retry_at| retry_at <= self.clock.now) {
                (listener.ready, listener.retry_at) = (true, None);
            }
            for _ in 0..ACCEPT_BUDGET {
                if !self.listeners[index].ready || !self.may_accept() {
                    break;
                }
                match self.listeners[index].accept() {
                    Ok((stream, peer)) => self.admit(index, stream, peer),
                    Err(error) => self.judge_accept_error(index, &error),
                }
            }
        }
    }

    /// No error of accept(2) is a reason to stop for good: most are about the client that was just to be accepted.
    fn judge_accept_error(&mut self, index: usize, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => {
                self.listeners[index].ready = false;
                self.exhaustion_is_logged = false;
            }
            io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => {}
            // Trying again at once would only spin.
            _ if sys::is_exhaustion(error) => {
                let address = self.listeners[index].address.to_string();
                self.pause(format_args!("cannot accept on {address}"), error);
            }
            // Something unheard of, which is about this socket alone.
            _ => {
                let listener = &mut self.listeners[index];
                log::error!("cannot accept on {}, trying again: {error}", listener.address);
                (listener.ready, listener.retry_at) = (false, Some(self.clock.now + RETRY_PAUSE));
            }
        }
    }

    fn pause(&mut self, what: std::fmt::Arguments<'_>, error: &io::Error) {
        if self.tools.buffers.spare_descriptors() {
            self.paused_until = Some(self.clock.now); // that may have been enough
            return;
        }
        self.paused_until = Some(self.clock.now + EXHAUSTION_PAUSE);
        if !std::mem::replace(&mut self.exhaustion_is_logged, true) {
            log::error!(
                "{what}: {error}; no client is accepted for {EXHAUSTION_PAUSE:?} or until a session ends"
            );
        }
    }

    fn admit(&mut self, index: usize, stream: Stream, peer: Option<SocketAddr>) {
        let entry = self.slots.vacant_entry();
        let key = entry.key();
        let mut id = [0; 16];
        self.tools.dice.fill(&mut id);
        // An IPv4 client of an IPv6 socket is an IPv4 client.
        let peer = peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        let listener = index as u16; // a plan has no more
        let story = Box::new(Story::new(id, peer, listener, self.clock.now));
        let session = Session::Opening(Box::new(Opening::new(Transport::connected(stream), story)));
        entry.insert(Slot {
            session,
            holds: Holds::default(),
            listener,
            queued: false,
            bulk: false,
            over: false,
        });
        self.tools.stats.session_opened();
        self.work(key, Work::Advance);
    }

    /// Lets sessions whose deadline has come decide what that means.
    fn expire(&mut self) {
        match self.phase {
            Phase::Draining(Some(deadline)) if deadline <= self.clock.now => self.stop(),
            Phase::Draining(_) | Phase::Serving | Phase::Stopped => {}
        }
        let mut expired = Vec::new();
        while let Some(key) = self.timers.expired(self.clock.now) {
            expired.push(key);
        }
        for key in expired {
            self.work(key, Work::Expire);
        }
    }

    /// Frees the slots of sessions that have ended, and with them descriptors that others may wait for.
    fn reap(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        for key in self.ended.drain(..) {
            self.slots.remove(key);
        }
        self.paused_until = None;
    }

    /// Does what was asked through a handle.
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Drain if self.phase == Phase::Serving => {
                    let timeout = self.plan.drain.timeout;
                    self.phase = Phase::Draining(timeout.map(|timeout| self.clock.now + timeout));
                    self.listeners.clear();
                    log::info!("draining {} sessions", self.slots.len());
                }
                Command::Drain => {}
                Command::Stop => self.stop(),
            }
        }
    }

    /// Closes everything.
    fn stop(&mut self) {
        self.phase = Phase::Stopped;
        self.listeners.clear();
        let keys: Vec<usize> = self.slots.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.close(key, Some(&Outcome::Drained));
        }
    }
}

/// What an event says about a socket.
fn edges(event: &Event) -> Edges {
    Edges {
        readable: event.is_readable(),
        writable: event.is_writable(),
        read_closed: event.is_read_closed() || event.is_priority(),
        failed: event.is_error(),
    }
}

impl AsRawFd for EventLoop {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::sync::mpsc::channel;

    /// A session that ends while it stands in the queue, as one in bulk does that has reached its lifetime.
    #[test]
    fn the_next_session_of_a_slot_does_not_inherit_a_place_in_the_queue() {
        let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!(
            "[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
             [upstream.u]\nservers = [\"{}\"]\n",
            backend.local_addr().unwrap()
        );
        let (_sender, commands) = channel();
        let plan = Config::from_toml(&text).unwrap().check().unwrap();
        let (mut event_loop, _waker) = EventLoop::new(plan, commands).unwrap();
        let Address::Tcp(address) = event_loop.local_addrs()[0] else { panic!("a TCP address") };
        let _client = std::net::TcpStream::connect(address).unwrap();
        while event_loop.slots.is_empty() {
            event_loop.turn(Some(Duration::from_secs(10))).unwrap();
        }
        let (key, _) = event_loop.slots.iter().next().unwrap();
        event_loop.settle(key, Next::Yield);
        assert_eq!(event_loop.yielded, [key]);
        event_loop.settle(key, Next::Close(Outcome::Lifetime));
        event_loop.reap();
        assert!(event_loop.slots.is_empty() && event_loop.yielded.is_empty());
    }

    /// A listening socket that was shut down behind our back answers accept(2) with EINVAL for ever.
    #[test]
    fn a_listener_that_fails_stops_no_other_and_does_not_spin() {
        let listener = "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n";
        let text = format!("{listener}{listener}[upstream.u]\nservers = [\"127.0.0.1:1\"]\n");
        let (_sender, commands) = channel();
        let plan = Config::from_toml(&text).unwrap().check().unwrap();
        let (mut event_loop, _waker) = EventLoop::new(plan, commands).unwrap();
        let Address::Tcp(sound) = event_loop.local_addrs()[1] else { panic!("a TCP address") };
        event_loop.turn(Some(Duration::ZERO)).unwrap();
        event_loop.listeners[0].shut_down();
        for accepted in 1..=3 {
            let _client = std::net::TcpStream::connect(sound).unwrap();
            let mut turns = 0;
            while event_loop.stats().snapshot().accepted < accepted {
                turns += 1;
                assert!(turns < 50, "nobody is accepted by the other");
                event_loop.turn(Some(Duration::from_secs(10))).unwrap();
            }
        }
        event_loop.turn(Some(Duration::ZERO)).unwrap();
        assert!(event_loop.listeners[0].retry_at.is_some(), "it has failed");
        assert!(event_loop.wait(None).unwrap() > Duration::ZERO, "and waits to be tried again");
    }
}
