//! Operators: their connections, what they ask, and how tunnels are gone through for them.
//!
//! The first worker has the admin listener. All of this is done at the end of a turn and a little at a time: one
//! answer, and some hundreds of tunnels looked at, so that no message waits for it.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use mio::{Interest, Token};
use serde::Serialize;
use slab::Slab;

use super::{ADMIN, EventLoop, Phase, READS};
use crate::access_log::rfc3339;
use crate::admin::ask::{Ask, Guard, Target};
use crate::admin::connection::{Connection, Wish};
use crate::admin::drains::{Drains, Spot};
use crate::admin::history::History;
use crate::admin::host::ReloadRequest;
use crate::admin::http::{Request, Response};
use crate::admin::search::{
    Best, Facts, Filter, Findings, Listing, Page, Place, Purpose, Row, Seconds, Survey,
};
use crate::admin::status::{self, View};
use crate::admin::{metrics, page};
use crate::crew::{Command, Crew, Exchange, Reload, Reply};
use crate::drain::Why;
use crate::error::StartError;
use crate::identity::ListenerKey;
use crate::inherited::Inherited;
use crate::listener::Listener;
use crate::moment::Moment;
use crate::plan::{Address, Plan, Source};
use crate::session::story::Client;
use crate::session::transport::{Edges, Stream, Transport, Watch};
use crate::sys::usage;
use crate::sys::{self, Sharing};

/// Operators' connections. A further one takes the place of one that asks nothing, or takes long to.
const CONNECTIONS_MAX: usize = 32;

/// Operators that wait to be let in.
const BACKLOG: u32 = 64;

/// Slots that are looked at in a turn: a tenth of a millisecond for most of them at rest.
const SLOTS_PER_TURN: usize = 512;

/// What the first worker has for operators.
pub(super) struct Steering {
    door: Option<Door>,
    connections: Slab<Visit>,
    /// Keys of connections that may go on.
    ready: VecDeque<usize>,
    next_number: u64,
    /// Answers that need all workers.
    gatherings: Vec<Gathering>,
    history: History,
    drains: Drains,
    /// Done by a file.
    reloads: u64,
    configured_at: Moment,
    /// The text that was read last: the present configuration may be from one that says the same.
    source: Source,
    /// Given back when there is no other, so that one operator gets in who can see why.
    spare: Option<OwnedFd>,
}

/// Where operators come in.
pub(super) struct Door {
    listener: Listener,
    guard: Guard,
}

/// An operator's connection.
struct Visit {
    connection: Connection<Stream>,
    /// Tells it from all others that there were.
    number: u64,
    is_ready: bool,
    /// Whether nothing of it has been read yet.
    is_new: bool,
}

/// An answer in the making.
struct Gathering {
    survey: Arc<Survey>,
    connection: u64,
    /// Workers that have yet to say what they found.
    left: usize,
    matched: u64,
    beyond: u64,
    rows: Vec<(Place, Row)>,
    /// Whether it is only said how many would be closed.
    dry_run: bool,
}

/// A survey of this worker's tunnels.
pub(super) struct Surveying {
    survey: Arc<Survey>,
    /// The slot to look at next.
    next: usize,
    matched: u64,
    best: Best,
}

impl Steering {
    fn new(now: Moment, source: Source) -> Steering {
        Steering {
            door: None,
            connections: Slab::new(),
            ready: VecDeque::new(),
            next_number: 0,
            gatherings: Vec::new(),
            history: History::default(),
            drains: Drains::default(),
            reloads: 0,
            configured_at: now,
            source,
            spare: None,
        }
    }

    /// Whether there is a door, and tunnels are open or an answer about them is in the making.
    pub fn has_more_to_show(&self, crew: &Crew) -> bool {
        self.door.is_some() && !(crew.is_empty() && self.gatherings.is_empty())
    }

    /// Takes note of an event at the door, or at an operator's connection.
    pub fn mark(&mut self, index: usize, edges: Edges) {
        match index.checked_sub(1) {
            None => {
                if let Some(door) = &mut self.door {
                    door.listener.mark();
                }
            }
            Some(key) => {
                if let Some(visit) = self.connections.get_mut(key) {
                    visit.connection.mark(edges);
                    self.wake(key);
                }
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// A connection may go on.
    fn wake(&mut self, key: usize) {
        if let Some(visit) = self.connections.get_mut(key) {
            if !std::mem::replace(&mut visit.is_ready, true) {
                self.ready.push_back(key);
            }
        }
    }

    fn close_all(&mut self) {
        self.connections.clear();
        self.ready.clear();
        self.gatherings.clear();
    }

    fn close(&mut self, key: usize) {
        let Some(visit) = self.connections.try_remove(key) else { return };
        self.ready.retain(|&ready| ready != key);
        self.gatherings.retain(|gathering| gathering.connection != visit.number);
    }

    /// When there is something to do though nothing happens.
    fn next_at(&self) -> Option<Moment> {
        if !self.ready.is_empty() || self.has_callers() {
            return Some(Moment::START);
        }
        let door = self.door.as_ref()?;
        let deadlines = self.connections.iter().map(|(_, visit)| visit.connection.deadline());
        let sample = self.history.next_at().unwrap_or(Moment::START);
        deadlines.chain([sample]).chain(door.listener.retry_at).min()
    }

    /// Whether operators wait who may be let in.
    fn has_callers(&self) -> bool {
        let is_called = self.door.as_ref().is_some_and(|door| door.listener.ready);
        is_called && (self.connections.len() < CONNECTIONS_MAX || self.first_to_go().is_some())
    }

    /// The connection that makes room for another. One that may have asked already, as its turn has yet to come, does
    /// so behind all others, and behind these one that nobody has listened to at all.
    fn first_to_go(&self) -> Option<usize> {
        let place = |(key, visit): (usize, &Visit)| {
            Some((visit.is_new, visit.is_ready, visit.connection.place_to_go()?, key))
        };
        self.connections.iter().filter_map(place).min().map(|(.., key)| key)
    }
}

/// The admin listener that a plan wants: the one that there is goes on where the address is the same.
pub(super) enum Wanted {
    /// None.
    Nothing,
    /// The one that there is.
    Same(Guard),
    /// Another one.
    Another(Door),
}

/// Opens what a plan wants.
pub(super) fn open(
    plan: &Plan,
    steering: Option<&Steering>,
    inherited: &Inherited,
) -> Result<Wanted, StartError> {
    let Some(admin) = &plan.admin else { return Ok(Wanted::Nothing) };
    let failed = |error| StartError::Listen { address: admin.address.to_string(), error };
    let token = admin.token_file.as_deref().map(read_token).transpose()?;
    let key = ListenerKey { address: admin.address.clone(), nth: 0 };
    let door = steering.and_then(|steering| steering.door.as_ref());
    // What the check of a configuration cannot know of a socket that is handed over; it may say otherwise than before.
    let judge = |address: &Address| {
        if address.is_local() || admin.allow_remote {
            return Ok(());
        }
        let why = format!("{address} is reached from other machines (allow_remote = true with a token_file)");
        Err(failed(io::Error::new(io::ErrorKind::InvalidInput, why)))
    };
    if let Some(door) = door.filter(|door| door.listener.key == key) {
        judge(&door.listener.address)?;
        return Ok(Wanted::Same(Guard { token, is_tcp: door.guard.is_tcp }));
    }
    let tcp = crate::plan::Tcp { backlog: BACKLOG, ..plan.tcp.clone() };
    let listener = match &admin.address {
        Address::Unix(path) => Listener::open_private(&key, path, &tcp),
        Address::Tcp(_) | Address::Inherited(_) => Listener::open(&key, 0, &tcp, Sharing::Alone, inherited),
    };
    let listener = listener.map_err(failed)?;
    judge(&listener.address)?;
    let is_tcp = matches!(listener.address, Address::Tcp(_));
    Ok(Wanted::Another(Door { listener, guard: Guard { token, is_tcp } }))
}

/// One without a token in it would let anybody in, or nobody.
fn read_token(file: &Path) -> Result<Vec<u8>, StartError> {
    let failed = |error| StartError::Token { file: file.display().to_string(), error };
    let token = fs::read(file).map_err(failed)?.trim_ascii().to_vec();
    match token.iter().all(u8::is_ascii_graphic) && !token.is_empty() {
        true => Ok(token),
        false => {
            let why = "there is no token in it, or more than one line";
            Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)))
        }
    }
}

impl EventLoop {
    /// What the first worker has for operators, and the door that is wanted.
    pub(super) fn begin_to_steer(&mut self, wanted: Wanted) -> io::Result<()> {
        self.steering = Some(Box::new(Steering::new(self.clock.now, self.setup().plan.source)));
        self.set_door(wanted)
    }

    /// Where operators come in.
    pub fn admin_addr(&self) -> Option<Address> {
        let door = self.steering.as_ref()?.door.as_ref()?;
        Some(door.listener.address.clone())
    }

    /// Opens the door, or another, or closes it. Connections through one that goes are closed.
    pub(super) fn set_door(&mut self, wanted: Wanted) -> io::Result<()> {
        let Some(steering) = &mut self.steering else { return Ok(()) };
        let before = steering.door.take();
        match wanted {
            Wanted::Same(guard) => {
                steering.door = before.map(|door| Door { guard, ..door });
                return Ok(());
            }
            Wanted::Nothing => {}
            Wanted::Another(mut door) => {
                self.poll.registry().register(door.listener.source(), Token(ADMIN), Interest::READABLE)?;
                log::info!("operators are listened for on {}", door.listener.address);
                steering.door = Some(door);
                steering.spare = steering.spare.take().or_else(|| usage::spare_descriptor().ok());
            }
        }
        if let Some(mut before) = before {
            // A socket that was handed over goes on elsewhere.
            let _ = self.poll.registry().deregister(before.listener.source()); // it is there
            steering.close_all();
        }
        if steering.door.is_none() {
            (steering.history, steering.spare) = (History::default(), None);
        }
        self.steer_at = steering.next_at();
        Ok(())
    }

    /// The plan that an exchange is to go on with, and what operators let drain then, which it has applied.
    pub(super) fn exchanged_for(&self, exchange: Exchange) -> (Plan, Drains) {
        let mut drains =
            self.steering.as_ref().map_or_else(Drains::default, |steering| steering.drains.clone());
        let mut plan = match exchange {
            Exchange::Plan(plan) => *plan,
            Exchange::Drain(spot, is_to_drain) => {
                let mut plan = self.setup().configured();
                drains.take_off(&mut plan);
                if is_to_drain {
                    drains.add(spot);
                } else {
                    drains.remove(&spot);
                }
                plan
            }
        };
        drains.apply(&mut plan);
        (plan, drains)
    }

    /// A configuration has been exchanged: by an operator, or by a text that was read.
    pub(super) fn note_exchange(&mut self, drains: Drains, wanted: Wanted, read: Option<Source>) {
        if let Some(steering) = &mut self.steering {
            steering.drains = drains;
            if let Some(source) = read {
                steering.reloads += 1;
                (steering.configured_at, steering.source) = (self.clock.now, source);
            }
        }
        if let Err(error) = self.set_door(wanted) {
            log::error!("cannot watch the admin listener, which is closed: {error}");
        }
    }

    /// Does a little of what operators have asked for.
    pub(super) fn steer(&mut self) {
        if self.steer_at.is_none_or(|at| at > self.clock.now) {
            return; // as in nearly every turn
        }
        let mut steering = self.steering.take();
        let steered = catch_unwind(AssertUnwindSafe(|| {
            self.survey();
            if let Some(steering) = &mut steering {
                self.let_in(steering);
                self.serve_operators(steering);
                self.sample(steering);
            }
        }));
        if steered.is_err() {
            // As a session's: it ends who may have caused it, and nobody else.
            self.tools.stats.panicked();
            log::error!("operators' connections have been closed by a bug of adit's; all else goes on");
            self.surveys.clear();
            if let Some(steering) = &mut steering {
                steering.close_all();
            }
        }
        let next_at = steering.as_ref().and_then(|steering| steering.next_at());
        self.steer_at = if self.surveys.is_empty() { next_at } else { Some(Moment::START) };
        self.steering = steering;
    }

    /// Takes a sample of how it stands, if one is due.
    fn sample(&self, steering: &mut Steering) {
        if steering.door.is_some() && steering.history.next_at().is_none_or(|at| at <= self.clock.now) {
            steering.history.add(self.clock.now, self.tools.date.at(self.clock.now), self.crew.snapshot());
        }
    }

    fn let_in(&mut self, steering: &mut Steering) {
        if let Some(door) = &mut steering.door {
            if door.listener.retry_at.is_some_and(|retry_at| retry_at <= self.clock.now) {
                (door.listener.ready, door.listener.retry_at) = (true, None);
            }
        }
        for _ in 0..CONNECTIONS_MAX {
            if !steering.has_callers() {
                return;
            }
            let Some(door) = &mut steering.door else { return };
            match door.listener.accept() {
                Ok((stream, _)) => {
                    if steering.connections.len() >= CONNECTIONS_MAX {
                        if let Some(key) = steering.first_to_go() {
                            steering.close(key);
                        }
                    }
                    let number = steering.number();
                    let connection = Connection::new(Transport::connected(stream), self.clock.now);
                    let key = steering.connections.insert(Visit {
                        connection,
                        number,
                        is_ready: false,
                        is_new: true,
                    });
                    steering.wake(key);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => door.listener.ready = false,
                Err(error) if sys::is_exhaustion(&error) && steering.spare.take().is_some() => {}
                // About that client alone, or about this socket: some pause does no harm to either.
                Err(error) => {
                    if !sys::is_exhaustion(&error) {
                        log::warn!("cannot accept on {}: {error}", door.listener.address);
                    }
                    door.listener.ready = false;
                    door.listener.retry_at = Some(self.clock.now + super::EXHAUSTION_PAUSE);
                }
            }
        }
    }

    /// Lets connections go on that may, until one has been answered.
    fn serve_operators(&mut self, steering: &mut Steering) {
        let now = self.clock.now;
        let overdue = |(key, visit): (usize, &Visit)| (visit.connection.deadline() <= now).then_some(key);
        let overdue: Vec<usize> = steering.connections.iter().filter_map(overdue).collect();
        overdue.into_iter().for_each(|key| steering.wake(key));
        for _ in 0..steering.ready.len() {
            let Some(key) = steering.ready.pop_front() else { return };
            let Some(visit) = steering.connections.get_mut(key) else { continue };
            (visit.is_ready, visit.is_new) = (false, false);
            match visit.connection.advance(now, self.tools.date) {
                Wish::Wait => self.watch_operator(steering, key),
                Wish::More => {
                    self.watch_operator(steering, key);
                    steering.wake(key);
                }
                Wish::Close => {
                    steering.close(key);
                    if steering.spare.is_none() {
                        steering.spare = usage::spare_descriptor().ok();
                    }
                }
                Wish::Answer(request) => {
                    let number = visit.number;
                    if let Some(response) = self.reply(steering, number, &request) {
                        self.answer(steering, number, &response);
                    }
                    return;
                }
            }
        }
    }

    /// Sees to it that a connection is told of what it waits for.
    fn watch_operator(&mut self, steering: &mut Steering, key: usize) {
        let Some(visit) = steering.connections.get_mut(key) else { return };
        let transport = visit.connection.transport();
        while let Some(watch) = transport.unwatched() {
            let token = Token(ADMIN + 1 + key);
            let interest = if watch == Watch::Both { READS | Interest::WRITABLE } else { READS };
            let registry = self.poll.registry();
            let watched = if transport.is_watched() {
                registry.reregister(transport.source(), token, interest)
            } else {
                registry.register(transport.source(), token, interest)
            };
            if watched.is_err() {
                return steering.close(key);
            }
            transport.watched(watch);
        }
    }

    /// An answer is there: it is written in the next turn.
    fn answer(&mut self, steering: &mut Steering, number: u64, response: &Response) {
        let found = steering.connections.iter().find(|(_, visit)| visit.number == number).map(|(key, _)| key);
        let Some(key) = found else { return };
        steering.connections[key].connection.answer(response, self.clock.now, self.tools.date);
        steering.wake(key);
    }

    /// As [`answer`](EventLoop::answer), for one that was made elsewhere.
    pub(super) fn answered(&mut self, number: u64, response: &Response) {
        if let Some(mut steering) = self.steering.take() {
            self.answer(&mut steering, number, response);
            self.steering = Some(steering);
            self.steer_at = Some(Moment::START);
        }
    }

    /// The answer to a request; `None`: it comes later.
    fn reply(&mut self, steering: &mut Steering, number: u64, request: &Request) -> Option<Response> {
        let guard = &steering.door.as_ref()?.guard;
        let ask = match guard.judge(request) {
            Ok(ask) => ask,
            Err(response) => return Some(response),
        };
        Some(match ask {
            Ask::Page => page::response(),
            Ask::Health => Response::text(200, "ok"),
            Ask::Ready if self.phase == Phase::Serving => Response::text(200, "ready"),
            Ask::Ready => Response::text(503, "draining"),
            Ask::Metrics => {
                let body = self.view(steering, |view| metrics::text(view, &usage::usage()));
                Response { status: 200, content_type: metrics::CONTENT_TYPE, fields: "", body }
            }
            Ask::Status => self.view(steering, |view| Response::json(status::status(view))),
            Ask::History => Response::json(steering.history.columns()),
            Ask::Tunnels(filter, page) => {
                self.gather(steering, number, filter, Purpose::Show(page), false);
                return None;
            }
            Ask::Close { filter, dry_run } => {
                if !dry_run {
                    log::info!("an operator closes tunnels");
                }
                let purpose = if dry_run { Purpose::Count } else { Purpose::Close };
                self.gather(steering, number, filter, purpose, dry_run);
                return None;
            }
            Ask::Reload { dry_run } => match self.crew.host.get().and_then(|host| host.reload.as_ref()) {
                Some(reload) => {
                    reload(ReloadRequest {
                        dry_run,
                        setup: Arc::clone(self.setup()),
                        drains: steering.drains.clone(),
                        crew: Arc::clone(&self.crew),
                        connection: number,
                    });
                    return None;
                }
                None => Response::error(501, "this program has no configuration to read again"),
            },
            Ask::Drain { target, drains, dry_run } => {
                return self.let_drain(steering, number, &target, drains, dry_run);
            }
            Ask::Rebalance { upstream, dry_run } => self.rebalance(&upstream, dry_run),
        })
    }

    fn view<T>(&self, steering: &Steering, told: impl FnOnce(&View<'_>) -> T) -> T {
        let now = self.clock.now;
        let stats: Vec<_> = (0..self.crew.size()).map(|worker| Arc::clone(self.crew.stats(worker))).collect();
        let lost = self.crew.host.get().and_then(|host| host.lost_lines.as_ref());
        told(&View {
            now,
            wall: self.tools.date.at(now),
            phase: match self.phase {
                Phase::Serving => status::Phase::Serving,
                Phase::Unready(_) => status::Phase::Unready,
                Phase::Draining(deadline) => status::Phase::Draining(deadline),
                Phase::Stopped => status::Phase::Draining(Some(now)),
            },
            setup: self.setup(),
            configured_at: steering.configured_at,
            source: steering.source,
            reloads: [steering.reloads, self.crew.refused_reloads.load(Relaxed)],
            in_use: self.crew.registry().in_use(),
            drains: &steering.drains,
            stats: &stats,
            descriptors: (usage::descriptors_in_use(), usage::descriptor_limit()),
            lost_lines: lost.map_or(0, |lost| lost()),
        })
    }

    /// Asks all workers to go through their tunnels.
    fn gather(
        &mut self,
        steering: &mut Steering,
        connection: u64,
        filter: Filter,
        purpose: Purpose,
        dry_run: bool,
    ) {
        let survey = Arc::new(Survey { filter, purpose });
        let mut left = 0;
        for worker in 0..self.crew.size() {
            if worker == self.worker {
                self.begin_survey(Arc::clone(&survey));
                left += 1;
            } else if self.crew.tell(worker, Command::Survey(Arc::clone(&survey))).is_ok() {
                left += 1; // one that is no more has no tunnels
            }
        }
        let (matched, beyond, rows) = (0, 0, Vec::new());
        steering.gatherings.push(Gathering { survey, connection, left, matched, beyond, rows, dry_run });
    }

    /// A worker has gone through its tunnels.
    pub(super) fn surveyed(&mut self, findings: Findings) {
        let Some(mut steering) = self.steering.take() else { return };
        self.take_findings(&mut steering, findings);
        self.steering = Some(steering);
        self.steer_at = Some(Moment::START);
    }

    fn take_findings(&mut self, steering: &mut Steering, findings: Findings) {
        let Findings { survey, matched, beyond, rows } = findings;
        let is_it = |gathering: &Gathering| Arc::ptr_eq(&gathering.survey, &survey);
        let Some(place) = steering.gatherings.iter().position(is_it) else { return }; // whoever asked has gone
        let gathering = &mut steering.gatherings[place];
        gathering.matched += matched;
        gathering.beyond += beyond;
        gathering.rows.extend(rows);
        gathering.left -= 1;
        if gathering.left == 0 {
            let gathering = steering.gatherings.swap_remove(place);
            self.tell_findings(steering, gathering);
        }
    }

    /// A worker has ended, perhaps with something left to look for: it had no tunnels any more.
    pub(super) fn worker_ended(&mut self) {
        let Some(mut steering) = self.steering.take() else { return };
        let gatherings = std::mem::take(&mut steering.gatherings);
        let is_lost = |gathering: &Gathering| Arc::strong_count(&gathering.survey) == 1;
        let (lost, going): (Vec<_>, Vec<_>) = gatherings.into_iter().partition(is_lost);
        steering.gatherings = going;
        for gathering in lost {
            self.tell_findings(&mut steering, gathering);
        }
        self.steering = Some(steering);
        self.steer_at = Some(Moment::START);
    }

    fn tell_findings(&mut self, steering: &mut Steering, gathering: Gathering) {
        let Gathering { survey, connection, matched, beyond, rows, dry_run, .. } = gathering;
        let response = match &survey.purpose {
            Purpose::Show(page) => Response::json(Listing::new(matched, beyond, rows, page.limit)),
            Purpose::Count | Purpose::Close => {
                #[derive(Serialize)]
                struct Closed {
                    matched: u64,
                    dry_run: bool,
                    rate: u32,
                }
                Response::json(Closed { matched, dry_run, rate: self.setup().plan.drain.rate })
            }
        };
        self.answer(steering, connection, &response);
    }

    /// Begins to go through this worker's tunnels.
    pub(super) fn begin_survey(&mut self, survey: Arc<Survey>) {
        let page = match &survey.purpose {
            Purpose::Show(page) => page.clone(),
            Purpose::Count | Purpose::Close => Page { limit: 0, ..Page::default() },
        };
        let best = Best::new(page);
        self.surveys.push_back(Surveying { survey, next: 0, matched: 0, best });
        self.steer_at = Some(Moment::START);
    }

    /// Goes on with the first survey.
    fn survey(&mut self) {
        let Some(mut surveying) = self.surveys.pop_front() else { return };
        let end = surveying.next + SLOTS_PER_TURN;
        for key in surveying.next..end.min(self.slots.capacity()) {
            self.look(key, &mut surveying);
        }
        surveying.next = end;
        if end < self.slots.capacity() {
            return self.surveys.push_front(surveying);
        }
        let Surveying { survey, matched, best, .. } = surveying;
        let (places, beyond) = best.into_places();
        let row = |place: Place| Some((place, self.row(place)?));
        let rows = places.into_iter().filter_map(row).collect();
        let findings = Findings { survey, matched, beyond, rows };
        // Also to itself: what has been found is put together in another turn.
        let _ = self.crew.tell(0, Command::Surveyed(Box::new(findings))); // without the first there is nobody to ask
    }

    /// Looks at one slot.
    fn look(&mut self, key: usize, surveying: &mut Surveying) {
        let mut room = [0; 32];
        let Some(facts) = self.facts(key, &mut room) else { return };
        if !surveying.survey.filter.takes(&facts) {
            return;
        }
        surveying.matched += 1;
        match surveying.survey.purpose {
            Purpose::Show(_) => surveying.best.add(&facts, self.worker as u16, key as u32), // 1024, and of them 10^7
            Purpose::Count => {}
            Purpose::Close => self.dismiss(key),
        }
    }

    /// What a search looks at, of the tunnel in a slot.
    fn facts<'a>(&'a self, key: usize, room: &'a mut [u8; 32]) -> Option<Facts<'a>> {
        let slot = self.slots.get(key).filter(|slot| !slot.over)?;
        let (relay, via) = (slot.session.tunnel()?, slot.holds.tunnel?);
        let setup = self.setup_of(key);
        let (upstream, server) = match slot.holds.backend {
            Some(id) => {
                let (pool, _) = setup.pool(id.pool);
                (pool.name.as_str(), pool.backends[usize::from(id.index)].name.as_str())
            }
            None => ("", ""),
        };
        let standing = relay.standing();
        let [bytes_up, bytes_down] = relay.carried();
        Some(Facts {
            id: relay.note().id(room),
            client: match relay.note().client() {
                Client::Unix => None,
                Client::Told(address) | Client::Peer(address, _) => Some(address),
            },
            listener: &setup.listener_names[usize::from(slot.listener)],
            route: &setup.mark(slot.listener, via.route()).name,
            upstream,
            server,
            opened: standing.opened.nanos(),
            age: self.clock.now.since(standing.opened),
            idle: self.clock.now.since(standing.moved_at),
            bytes_up,
            bytes_down,
        })
    }

    /// A tunnel as it is shown, if it is still the one that was found there.
    fn row(&self, place: Place) -> Option<Row> {
        let (key, opened) = place.slot();
        let mut room = [0; 32];
        let facts = self.facts(key, &mut room).filter(|facts| facts.opened == opened)?;
        let relay = self.slots.get(key)?.session.tunnel()?;
        let (host, path) = relay.note().asked();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let is_leaving = self.departures.get(key).is_some();
        Some(Row {
            id: text(facts.id),
            client: relay.note().client().to_string(),
            listener: facts.listener.to_owned(),
            route: facts.route.to_owned(),
            host: host.map(text),
            path: path.map(text),
            upstream: facts.upstream.to_owned(),
            server: facts.server.to_owned(),
            opened: rfc3339(self.tools.date.at(self.clock.now) - facts.age).to_string(),
            age: Seconds(facts.age),
            idle: Seconds(facts.idle),
            bytes_up: facts.bytes_up,
            bytes_down: facts.bytes_down,
            state: if is_leaving { "leaving" } else { relay.state() },
            worker: self.worker as u16, // there are 1024 at most
        })
    }

    /// Closes a tunnel because an operator said so: at the pace of such ends, where there is one.
    fn dismiss(&mut self, key: usize) {
        let is_paced = self.setup().plan.drain.rate > 0;
        if is_paced && self.departures.is_empty() {
            self.crew.pace.begin(self.clock.now);
        }
        let deadline = if is_paced { self.deadline() } else { Some(self.clock.now) };
        self.send_off(key, Why::Dismissed, deadline);
    }

    /// Lets something drain, or no more.
    fn let_drain(
        &mut self,
        steering: &mut Steering,
        number: u64,
        target: &Target,
        drains: bool,
        dry_run: bool,
    ) -> Option<Response> {
        if !matches!(self.phase, Phase::Serving) {
            return Some(Response::error(409, "adit is about to stop"));
        }
        if *target == Target::All {
            if !drains {
                return Some(Response::error(409, "nothing drains as a whole"));
            }
            let tunnels = self.crew.snapshot().tunnels_open;
            if !dry_run {
                log::info!("an operator lets all drain");
                self.crew.tell_all(None, || Command::Drain);
            }
            return Some(Response::json(LetDrain { what: "all".into(), changed: true, tunnels, dry_run }));
        }
        let Some(spot) = Spot::find(target, self.setup()) else {
            return Some(Response::error(404, &format!("there is no {target}")));
        };
        let is_so = self.is_draining(&spot);
        let by_operator = steering.drains.has(&spot);
        if !drains && is_so && (!by_operator || steering.drains.is_by_file(&spot)) {
            let why = format!("{target} drains by the configuration file (drain = true): change it there");
            return Some(Response::error(409, &why));
        }
        let answer = LetDrain {
            what: target.to_string(),
            changed: is_so != drains,
            tunnels: self.tunnels_of(&spot),
            dry_run,
        };
        if dry_run || (is_so == drains && by_operator == drains) {
            return Some(Response::json(answer));
        }
        log::info!("an operator lets {target} {}", if drains { "drain" } else { "drain no more" });
        let crew = Arc::clone(&self.crew);
        let reply: Reply = Box::new(move |reloaded| {
            let response = match reloaded {
                Ok(_) => Response::json(&answer),
                Err(error) => Response::error(409, &error.to_string()),
            };
            let _ = crew.tell(0, Command::Answer(number, Box::new(response))); // gone with its connection
        });
        // In the next turn, as any other exchange.
        let reload = Reload { exchange: Exchange::Drain(spot, drains), sink: None, reply };
        let _ = self.crew.tell(self.worker, Command::Reload(Box::new(reload))); // to itself
        None
    }

    /// Whether it drains at present, by whomever.
    fn is_draining(&self, spot: &Spot) -> bool {
        let mut drains = false;
        spot.each_flag(&mut self.setup().configured(), |drain| drains |= *drain);
        drains
    }

    /// Open tunnels of what may drain.
    fn tunnels_of(&self, spot: &Spot) -> u64 {
        let setup = self.setup();
        let place = |key: &ListenerKey| setup.keys.iter().position(|other| other == key);
        let marks = |key| place(key).map_or(&[][..], |place| setup.marks(place));
        match spot {
            Spot::Server(upstream, server) => {
                let pools = setup.plan.pools.iter().zip(&setup.members);
                let records = pools.filter(|(pool, _)| pool.name == *upstream).flat_map(|(pool, members)| {
                    pool.backends.iter().zip(members.records()).filter(|(backend, _)| backend.name == *server)
                });
                records.map(|(_, record)| u64::from(record.tunnels().0)).next().unwrap_or_default()
            }
            Spot::Listener(key) => marks(key).iter().map(|mark| u64::from(mark.open())).sum(),
            Spot::Route(key, name) => {
                let mark = marks(key).iter().find(|mark| *mark.name == **name);
                mark.map_or(0, |mark| mark.open().into())
            }
        }
    }

    /// Spreads an upstream's tunnels anew.
    fn rebalance(&mut self, upstream: &str, dry_run: bool) -> Response {
        if !matches!(self.phase, Phase::Serving) {
            return Response::error(409, "adit is about to stop");
        }
        let setup = Arc::clone(self.setup());
        let pools = setup.plan.pools.iter().zip(&setup.members);
        let Some((pool, members)) = pools.into_iter().find(|(pool, _)| pool.name == upstream) else {
            return Response::error(404, &format!("there is no upstream {upstream}"));
        };
        let Some(rules) = &pool.rebalance else {
            let why = format!("upstream {upstream} has no `rebalance` in the configuration file");
            return Response::error(409, &why);
        };
        let standings = members.standings(pool);
        let surplus = members.episode.surplus(&standings, rules);
        if !dry_run && members.episode.begin(&standings, rules, self.clock.now) {
            log::info!("an operator spreads the tunnels of upstream {upstream} anew");
            self.crew.tell_all(Some(self.worker), || Command::Spread);
            self.begin_to_spread();
        }
        #[derive(Serialize)]
        struct Rebalanced<'a> {
            upstream: &'a str,
            surplus: u64,
            dry_run: bool,
        }
        Response::json(Rebalanced { upstream, surplus, dry_run })
    }
}

#[derive(Serialize)]
struct LetDrain {
    what: String,
    changed: bool,
    tunnels: u64,
    dry_run: bool,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    const TEXT: &str = "
        [admin]
        listen = \"127.0.0.1:0\"
        [[listener]]
        listen = \"127.0.0.1:0\"
        upstream = \"u\"
        [upstream.u]
        servers = [\"127.0.0.1:1\"]";

    /// While it drains, the first worker waits for such an answer.
    #[test]
    fn what_a_worker_leaves_undone_is_not_waited_for() {
        let plan = Config::from_toml(TEXT).unwrap().check().unwrap();
        let (mut loops, crew) = EventLoop::crew(plan, 2, Inherited::new()).unwrap();
        let (second, mut first) = (loops.pop().unwrap(), loops.pop().unwrap());
        let mut steering = first.steering.take().unwrap();
        first.gather(&mut steering, 1, Filter::default(), Purpose::Count, false);
        first.steering = Some(steering);
        let is_waiting = |first: &EventLoop| first.steering.as_ref().unwrap().has_more_to_show(&crew);
        for _ in 0..3 {
            first.turn(Some(Duration::ZERO)).unwrap();
            assert!(is_waiting(&first), "the other has not looked yet");
        }
        drop(second);
        crew.tell(0, Command::Ended).ok().unwrap();
        first.turn(Some(Duration::from_secs(10))).unwrap();
        assert!(!is_waiting(&first));
    }
}
