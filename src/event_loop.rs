//! The loop: one thread, one poll, one slab of sessions.
//!
//! A turn polls, marks what became ready, lets those sessions advance and settles what each of them asks for, accepts,
//! expires timers, and at last frees the slots of sessions that ended. This is the only place that knows `Poll`, the
//! slab and the clock; sessions talk to it by returning [`Next`]. With several workers each is such a loop, on a thread
//! of its own.
//!
//! `accepting` is how clients come in, `change` how one configuration follows another, `leaving` how tunnels are closed
//! that have to go.
//!
//! A socket is registered when its session is first to wait for it, edge-triggered, and closed without deregistering
//! (epoll(7): closing the only descriptor takes it out). A slot is freed at the end of the turn in which its session
//! ended, so an event of this turn cannot meet a stranger in it, and a closed socket has no events in the next.

mod accepting;
mod change;
mod leaving;
mod rounds;
#[cfg(feature = "admin")]
mod steering;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use mio::event::Event;
use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use crate::crew::{Command, Crew, Done, Reload};
use crate::drain::Departures;
use crate::error::{Outcome, Side, StartError};
use crate::inherited::Inherited;
use crate::listener::Listener;
use crate::moment::{Date, Moment};
use crate::plan::{Address, BackendId, Limits, Plan};
use crate::session::engine::{FILL_BYTES_MAX, PUMP_BYTES_MAX};
use crate::session::journal::Sink;
use crate::session::transport::{Edges, Stream, Transport, Watch};
use crate::session::{Holds, Next, Session, Tools, Turn};
use crate::setup::Setup;
use crate::sys;
use crate::timer::Timers;

use leaving::Spreading;

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

/// The tokens from here are listeners', those below sessions'.
const LISTENERS: usize = 1 << (usize::BITS - 1);

/// And from here those of the admin listener and its connections.
#[cfg(feature = "admin")]
const ADMIN: usize = LISTENERS | 1 << (usize::BITS - 2);

/// Configurations that may be in use at once, so that a session can say in two bytes which is its own.
const GENERATIONS_MAX: usize = 1 << 16;

/// The loop and all that it owns.
pub struct EventLoop {
    poll: Poll,
    events: Events,
    /// Whether the last poll brought all the events that fit, so that more may wait. A host that watches our descriptor
    /// edge-triggered has been told of them already, and will not be told again.
    more_events: bool,
    commands: Receiver<Command>,
    crew: Arc<Crew>,
    /// Which of the crew this is.
    worker: usize,
    /// The present configuration, and those that sessions were opened with.
    generations: Slab<Generation>,
    /// Which of them is the present one.
    present: u16,
    /// By token. One that was closed leaves a gap.
    listeners: Vec<Option<Listener>>,
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
    /// The last exchange of the configuration, and those that wait until all workers are done with it. (The first
    /// worker's.)
    exchanging: Option<Arc<Done>>,
    reloads: VecDeque<Reload>,
    /// Tunnels that have to go.
    departures: Departures,
    /// Pools whose tunnels are being spread anew.
    spreadings: Vec<Spreading>,
    phase: Phase,
    clock: Clock,
    /// Whether somebody may want to know how long turns take. It costs a look at the clock.
    is_measured: bool,
    /// Lines about open tunnels, where some are wanted.
    rounds: rounds::Rounds,
    /// What the first worker has for operators, until it is lent to what they ask for.
    #[cfg(feature = "admin")]
    steering: Option<Box<steering::Steering>>,
    /// Operators' looks at this worker's tunnels.
    #[cfg(feature = "admin")]
    surveys: VecDeque<steering::Surveying>,
    /// When there is something to do for operators.
    #[cfg(feature = "admin")]
    steer_at: Option<Moment>,
    tools: Tools,
}

/// A session and what the loop keeps beside it.
struct Slot {
    session: Session<Stream>,
    holds: Holds,
    /// The configuration that it was opened with.
    generation: u16,
    listener: u16,
    /// Whether it stands in a queue, so that it stands there once.
    queued: bool,
    /// Whether it is in bulk, so that it stands behind the others.
    bulk: bool,
    /// Whether it has ended; the slot is freed at the end of the turn.
    over: bool,
}

/// In release builds the session and three words: thousands of tunnels rest in a slab of these.
const _: () = assert!(cfg!(debug_assertions) || size_of::<Slot>() <= 192 + 24);

/// A configuration that is in use.
struct Generation {
    setup: Arc<Setup>,
    /// Sessions that were opened with it. The present one may have none.
    sessions: usize,
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
    /// Asked to stop: still, until then.
    Unready(Moment),
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
    /// A clock that has begun, as other workers' have, at the same time.
    fn started(start: Instant) -> Clock {
        let mut clock = Clock { start, now: Moment::START };
        clock.tick();
        clock
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
    /// The loops of so many workers, with every listener of the plan open. Nothing half-starts: where one cannot be
    /// opened none stays open.
    pub fn crew(
        plan: Plan,
        workers: usize,
        inherited: Inherited,
    ) -> Result<(Vec<EventLoop>, Arc<Crew>), StartError> {
        let mut polls = Vec::with_capacity(workers);
        let mut wakers = Vec::with_capacity(workers);
        for _ in 0..workers {
            let poll = Poll::new().map_err(StartError::EventLoop)?;
            wakers.push(Waker::new(poll.registry(), WAKER).map_err(StartError::EventLoop)?);
            polls.push(poll);
        }
        let (crew, receivers) = Crew::new(wakers, inherited, Instant::now());
        #[cfg(feature = "admin")]
        let wanted = steering::open(&plan, None, &crew.inherited)?;
        let opened = change::open(plan, &[], workers, &crew.inherited)?;
        let setup = Arc::new(crew.registry().set_up(opened.plan, opened.keys, Moment::START));
        let mut loops = Vec::with_capacity(workers);
        let parts = polls.into_iter().zip(receivers).zip(opened.fresh).enumerate();
        for (worker, ((poll, commands), listeners)) in parts {
            let mut event_loop =
                EventLoop::new(poll, commands, Arc::clone(&crew), worker, Arc::clone(&setup));
            event_loop.listen(listeners).map_err(StartError::EventLoop)?;
            event_loop.set_rounds();
            loops.push(event_loop);
        }
        #[cfg(feature = "admin")]
        loops[0].begin_to_steer(wanted).map_err(StartError::EventLoop)?;
        for name in loops[0].local_addrs() {
            log::info!("listening on {name}");
        }
        Ok((loops, crew))
    }

    fn new(
        poll: Poll,
        commands: Receiver<Command>,
        crew: Arc<Crew>,
        worker: usize,
        setup: Arc<Setup>,
    ) -> EventLoop {
        let clock = Clock::started(crew.start);
        let mut tools = Tools::new(clock.date(), Arc::clone(&crew.addresses), crew.size());
        tools.stats = Arc::clone(crew.stats(worker));
        tools.buffers.count_in(&tools.stats.buffers, &tools.stats.pipes);
        tools.journal.set_format(setup.plan.log.format);
        let departures = Departures::new(setup.plan.drain.order);
        let mut generations = Slab::new();
        let is_measured = setup.plan.admin.is_some();
        let present = generations.insert(Generation { setup, sessions: 0 }) as u16; // the first is 0
        EventLoop {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            more_events: false,
            commands,
            crew,
            worker,
            generations,
            present,
            listeners: Vec::new(),
            slots: Slab::new(),
            timers: Timers::new(),
            ready: Vec::with_capacity(EVENTS_MAX),
            yielded: VecDeque::new(),
            spoken_at: Moment::START,
            ended: Vec::new(),
            paused_until: None,
            undialed: VecDeque::new(),
            exhaustion_is_logged: false,
            exchanging: None,
            reloads: VecDeque::new(),
            departures,
            spreadings: Vec::new(),
            phase: Phase::Serving,
            clock,
            is_measured,
            rounds: rounds::Rounds::default(),
            #[cfg(feature = "admin")]
            steering: None,
            #[cfg(feature = "admin")]
            surveys: VecDeque::new(),
            #[cfg(feature = "admin")]
            steer_at: None,
            tools,
        }
    }

    /// Session lines go to `sink` from now on.
    pub fn set_access_log(&mut self, sink: Sink) {
        self.tools.journal.set_sink(Some(sink));
    }

    /// The present configuration.
    fn setup(&self) -> &Arc<Setup> {
        &self.generations[usize::from(self.present)].setup
    }

    /// The present configuration's limits.
    pub fn limits(&self) -> &Limits {
        &self.setup().plan.limits
    }

    /// Where it listens, in the order of the configuration.
    pub fn local_addrs(&self) -> Vec<Address> {
        let mut listeners: Vec<&Listener> = self.listeners.iter().flatten().collect();
        listeners.sort_by_key(|listener| listener.place);
        listeners.into_iter().map(|listener| listener.address.clone()).collect()
    }

    /// Whether it was asked to stop and has nothing left to do.
    pub fn is_over(&self) -> bool {
        match self.phase {
            Phase::Serving | Phase::Unready(_) => false,
            Phase::Draining(_) => self.slots.is_empty() && !self.is_watched(),
            Phase::Stopped => self.slots.is_empty(),
        }
    }

    /// Whether operators may want to see tunnels yet, whichever worker has them.
    fn is_watched(&self) -> bool {
        #[cfg(feature = "admin")]
        return self.steering.as_ref().is_some_and(|steering| steering.has_more_to_show(&self.crew));
        #[cfg(not(feature = "admin"))]
        false
    }

    /// Whether clients are let in.
    fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Unready(_))
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
        self.depart();
        self.spread();
        self.reap();
        self.make_rounds();
        #[cfg(feature = "admin")]
        self.steer();
        let [up, down, _] = self.tools.carried;
        self.tools.stats.carried([up, down]);
        if self.is_measured {
            let took = self.clock.start.elapsed().saturating_sub(self.clock.now.since(Moment::START));
            self.tools.stats.turns.durations.add_wait(took);
        }
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
        let may_accept_more = self.has_clients() && self.may_accept();
        let may_dial = self.paused_until.is_none() && !self.undialed.is_empty();
        if self.more_events || !self.yielded.is_empty() || may_accept_more || may_dial {
            return Some(Duration::ZERO);
        }
        let drain = match self.phase {
            Phase::Draining(deadline) => deadline,
            Phase::Unready(until) => Some(until),
            Phase::Serving | Phase::Stopped => None,
        };
        #[cfg(feature = "admin")]
        let drain = drain.into_iter().chain(self.steer_at).min();
        let retry = self.listeners.iter().flatten().filter_map(|listener| listener.retry_at).min();
        let spread = self.spreadings.iter().map(|spreading| spreading.wake_at).min();
        let next = [
            self.timers.next(),
            self.paused_until,
            retry,
            drain,
            self.departures.next(),
            spread,
            self.rounds.next_at,
        ];
        let next = next.into_iter().flatten().min();
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
            let token = event.token().0;
            if let Some(index) = token.checked_sub(LISTENERS) {
                #[cfg(feature = "admin")]
                if let Some(index) = token.checked_sub(ADMIN) {
                    self.steer_at = Some(Moment::START);
                    if let Some(steering) = &mut self.steering {
                        steering.mark(index, edges(event));
                    }
                    continue;
                }
                if let Some(Some(listener)) = self.listeners.get_mut(index) {
                    listener.mark();
                }
                continue;
            }
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
        if self.is_measured {
            self.tools.stats.turns.events.add(count as u64);
        }
        called
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
        let setup = Arc::as_ref(&self.generations[usize::from(slot.generation)].setup);
        let mut turn = Turn {
            now: self.clock.now,
            setup,
            timeouts: &setup.plan.listeners[usize::from(slot.listener)].timeouts,
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
                Next::Retire { deadline } => {
                    if !self.retire(key) {
                        next = Next::Close(Outcome::Lifetime);
                        continue;
                    }
                    break self.timers.set(key, deadline);
                }
                Next::Yield => {
                    self.tools.stats.turns.yielded();
                    let slot = &mut self.slots[key];
                    if !slot.queued {
                        slot.queued = true;
                        self.yielded.push_back(key);
                    }
                    break;
                }
                Next::Dial(backend) => match self.dial(key, backend) {
                    Err(error) if sys::is_exhaustion(&error) => return self.put_off(key, backend, &error),
                    socket => next = self.connect(key, socket),
                },
                Next::Close(outcome) | Next::Linger(outcome) => return self.close(key, Some(&outcome)),
                Next::End => return self.close(key, None),
            }
        }
        if std::mem::take(&mut self.tools.has_opened) {
            self.welcome(key);
        }
        // It waits, if only for its turn.
        let slot = &mut self.slots[key];
        slot.bulk = slot.session.is_bulk();
        self.watch(key);
    }

    /// Sees to it that a session is told of what it waits for. A socket that is ready already is told of at once.
    fn watch(&mut self, key: usize) {
        while let Some((side, socket, watch)) = self.slots[key].session.unwatched() {
            let token = Token(2 * key + usize::from(side == Side::Server));
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
        let listener = &self.setup_of(key).plan.listeners[usize::from(self.slots[key].listener)];
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
            let socket = self.dial(key, backend);
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
    fn dial(&self, key: usize, id: BackendId) -> io::Result<Transport<Stream>> {
        let (pool, _) = self.setup_of(key).pool(id.pool);
        match &pool.backends[usize::from(id.index)].address {
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
            // A configuration has none; a plan that a program made might.
            Address::Inherited(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    /// The configuration that a session was opened with.
    fn setup_of(&self, key: usize) -> &Setup {
        &self.generations[usize::from(self.slots[key].generation)].setup
    }

    /// Ends a session: closes its sockets, writes its last line unless it is written, gives back what it held.
    fn close(&mut self, key: usize, outcome: Option<&Outcome>) {
        let backend = self.slots.get(key).filter(|slot| !slot.over).and_then(|slot| slot.holds.backend);
        self.close_shed(key, outcome);
        if let Some(backend) = backend {
            self.setup_of(key).record(backend).close();
        }
    }

    /// As [`close`](EventLoop::close) for one that is not counted among its backend's sessions any more.
    fn close_shed(&mut self, key: usize, outcome: Option<&Outcome>) {
        let Some(slot) = self.slots.get_mut(key).filter(|slot| !slot.over) else { return };
        slot.over = true;
        let session = std::mem::replace(&mut slot.session, Session::Gone);
        self.tools.stats.session_closed(slot.holds.tunnel.is_some());
        if let Some(via) = slot.holds.tunnel {
            let setup = &self.generations[usize::from(slot.generation)].setup;
            setup.mark(slot.listener, via.route()).closed();
            if let Some(backend) = slot.holds.backend {
                setup.record(backend).tunnel_closed();
            }
            if let Some(standing) = session.standing() {
                self.tools.stats.lifetimes.add_wait(self.clock.now.since(standing.opened));
            }
        }
        // A session that has panicked may do so again.
        let story = catch_unwind(AssertUnwindSafe(|| session.close(slot.holds.backend))).unwrap_or_default();
        if let (Some(story), Some(outcome)) = (story, outcome) {
            let setup = &self.generations[usize::from(slot.generation)].setup;
            let (now, wall) = (self.clock.now, self.tools.date.at(self.clock.now));
            self.tools.stats.ended(outcome.word(), outcome.ended_by().as_str(), outcome.rule());
            self.tools.journal.close(&story, outcome, setup, now, wall);
        }
        if let Some(address) = slot.holds.address.take() {
            self.tools.addresses.leave(*address);
        }
        self.timers.clear(key);
        self.departures.forget(key);
        self.spreadings.iter_mut().for_each(|spreading| spreading.forget(key));
        self.undialed.retain(|undialed| undialed.key != key);
        // Or the next session in this slot would stand there twice.
        if slot.queued {
            self.yielded.retain(|&queued| queued != key);
        }
        self.ended.push(key);
    }

    /// Lets sessions whose deadline has come decide what that means.
    fn expire(&mut self) {
        match self.phase {
            Phase::Draining(Some(deadline)) if deadline <= self.clock.now => self.stop(),
            Phase::Unready(until) if until <= self.clock.now => self.drain(),
            Phase::Draining(_) | Phase::Unready(_) | Phase::Serving | Phase::Stopped => {}
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
        self.crew.release(self.worker, self.ended.len());
        for key in self.ended.drain(..) {
            let slot = self.slots.remove(key);
            self.generations[usize::from(slot.generation)].sessions -= 1;
            forget_unused(&mut self.generations, slot.generation, self.present);
        }
        self.paused_until = None;
    }

    /// Does what was asked by a handle, or another worker.
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Drain => self.be_drained(),
                Command::Stop => self.stop(),
                Command::Reload(reload) => self.reload(*reload),
                Command::Adopt(adoption) => self.adopt(*adoption),
                Command::Exchanged => self.exchanged(),
                Command::Serve(accepted) => self.serve(*accepted),
                Command::Spread => self.begin_to_spread(),
                #[cfg(feature = "admin")]
                Command::Survey(survey) => self.begin_survey(survey),
                #[cfg(feature = "admin")]
                Command::Surveyed(findings) => self.surveyed(*findings),
                #[cfg(feature = "admin")]
                Command::Answer(number, response) => self.answered(number, &response),
                Command::Ended => {
                    #[cfg(feature = "admin")]
                    self.worker_ended();
                }
                Command::Ping(answer) => drop(answer),
            }
        }
    }

    /// Takes in nobody from now on. A socket that was handed over goes on elsewhere, and would go on being watched too
    /// (epoll(7): what takes it out is the close of its last descriptor).
    fn close_listeners(&mut self) {
        for mut listener in self.listeners.drain(..).flatten() {
            let _ = self.poll.registry().deregister(listener.source()); // it is there
        }
    }

    /// Closes everything.
    fn stop(&mut self) {
        self.phase = Phase::Stopped;
        self.crew.is_stopping.store(true, Relaxed);
        self.close_listeners();
        let keys: Vec<usize> = self.slots.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.close(key, Some(&Outcome::Drained));
        }
    }
}

/// A configuration that nobody uses is freed.
fn forget_unused(generations: &mut Slab<Generation>, generation: u16, present: u16) {
    let index = usize::from(generation);
    if generation != present && generations.get(index).is_some_and(|generation| generation.sessions == 0) {
        generations.remove(index);
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

    fn event_loop(text: &str) -> EventLoop {
        let plan = Config::from_toml(text).unwrap().check().unwrap();
        let (mut loops, _crew) = EventLoop::crew(plan, 1, Inherited::new()).unwrap();
        loops.remove(0)
    }

    /// A session that ends while it stands in the queue, as one in bulk does that has reached its lifetime.
    #[test]
    fn the_next_session_of_a_slot_does_not_inherit_a_place_in_the_queue() {
        let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!(
            "[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
             [upstream.u]\nservers = [\"{}\"]\n",
            backend.local_addr().unwrap()
        );
        let mut event_loop = event_loop(&text);
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

    /// Two workers, which have not had a turn yet.
    fn two_workers(text: &str) -> (EventLoop, EventLoop, Arc<Crew>) {
        let plan = Config::from_toml(text).unwrap().check().unwrap();
        let (mut loops, crew) = EventLoop::crew(plan, 2, Inherited::new()).unwrap();
        let second = loops.remove(1);
        (loops.remove(0), second, crew)
    }

    /// A client that somebody has accepted and counted.
    fn accepted(setup: &Arc<Setup>, crew: &Crew, worker: usize) -> crate::crew::Accepted {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        assert!(crew.reserve(usize::MAX));
        crew.stats(worker).session_opened();
        let stream = Stream::Tcp(TcpStream::from_std(stream));
        crate::crew::Accepted { stream, peer: None, setup: Arc::clone(setup), listener: 0 }
    }

    const TEXT: &str = "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
                        [upstream.u]\nservers = [\"127.0.0.1:1\"]\n";

    /// Asks the first of the workers to go on with this text.
    fn reload(event_loop: &mut EventLoop, text: &str) {
        let plan = Config::from_toml(text).unwrap().check().unwrap();
        let (reply, reloading) = std::sync::mpsc::sync_channel(1);
        let exchange = crate::crew::Exchange::Plan(Box::new(plan));
        let reply = Box::new(move |told| drop(reply.try_send(told)));
        event_loop.reload(crate::crew::Reload { exchange, sink: None, reply });
        // Another worker may have its part still to do.
        assert!(!matches!(reloading.try_recv(), Ok(Err(_))));
    }

    #[test]
    fn a_configuration_lives_as_long_as_a_session_has_it() {
        let mut event_loop = event_loop(TEXT);
        for round in 10..13 {
            let (setup, crew) = (Arc::clone(event_loop.setup()), Arc::clone(&event_loop.crew));
            event_loop.serve(accepted(&setup, &crew, 0));
            event_loop.serve(accepted(&setup, &crew, 0));
            reload(&mut event_loop, &format!("[limits]\nmax_headers = {round}\n{TEXT}"));
        }
        assert_eq!(event_loop.generations.len(), 4);
        // One of the first one's two, and both of the second one's.
        for (key, left) in [(0, 4), (2, 4), (3, 3), (1, 2)] {
            event_loop.close(key, None);
            event_loop.reap();
            assert_eq!(event_loop.generations.len(), left, "{key} has ended");
        }
        // One that no session was opened with is gone at once.
        reload(&mut event_loop, &format!("[limits]\nmax_headers = 50\n{TEXT}"));
        assert_eq!(event_loop.generations.len(), 2);
    }

    /// Who was accepted by a worker that is a configuration ahead, or behind, is served by the one it was accepted
    /// with.
    #[test]
    fn a_client_that_is_handed_on_keeps_its_configuration() {
        let (mut first, mut second, crew) = two_workers(TEXT);
        let before = Arc::clone(first.setup());
        reload(&mut first, &format!("[limits]\nmax_headers = 9\n{TEXT}"));
        let after = Arc::clone(first.setup());
        for setup in [&after, &before] {
            second.serve(accepted(setup, &crew, 1));
        }
        assert!(std::ptr::eq(second.setup_of(0), &*after) && std::ptr::eq(second.setup_of(1), &*before));
        second.turn(Some(Duration::ZERO)).unwrap();
        assert_eq!(second.setup().plan.limits.max_headers, 9);
        second.stop();
        second.reap();
        assert_eq!(second.generations.len(), 1);
    }

    /// A worker that hands a client on may hear of a stop later than the one that gets it, which has nobody to close
    /// it.
    #[test]
    fn who_is_handed_on_to_a_worker_that_has_stopped_is_dropped_and_not_counted() {
        let (first, mut second, crew) = two_workers(TEXT);
        let accepted = accepted(first.setup(), &crew, 1);
        assert!(crew.tell(1, Command::Stop).is_ok());
        assert!(crew.tell(1, Command::Serve(Box::new(accepted))).is_ok());
        second.turn(Some(Duration::from_secs(10))).unwrap();
        assert!(second.is_over());
        assert_eq!(crew.snapshot().open, 0);
        assert!(crew.reserve(1), "its place is free again");
    }

    /// A listening socket that was shut down behind our back answers accept(2) with EINVAL for ever.
    #[test]
    fn a_listener_that_fails_stops_no_other_and_does_not_spin() {
        let listener = "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n";
        let text = format!("{listener}{listener}[upstream.u]\nservers = [\"127.0.0.1:1\"]\n");
        let mut event_loop = event_loop(&text);
        let Address::Tcp(sound) = event_loop.local_addrs()[1] else { panic!("a TCP address") };
        event_loop.turn(Some(Duration::ZERO)).unwrap();
        event_loop.listeners[0].as_ref().unwrap().shut_down();
        for accepted in 1..=3 {
            let _client = std::net::TcpStream::connect(sound).unwrap();
            let mut turns = 0;
            while event_loop.tools.stats.snapshot().accepted < accepted {
                turns += 1;
                assert!(turns < 50, "nobody is accepted by the other");
                event_loop.turn(Some(Duration::from_secs(10))).unwrap();
            }
        }
        event_loop.turn(Some(Duration::ZERO)).unwrap();
        assert!(event_loop.listeners[0].as_ref().unwrap().retry_at.is_some(), "it has failed");
        assert!(event_loop.wait(None).unwrap() > Duration::ZERO, "and waits to be tried again");
    }
}
