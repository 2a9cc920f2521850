//! Where machines meet sockets: a session from accept to close.
//!
//! A session is one entry of the loop's slab. It is told of edges and deadlines, moves what it can, and answers with a
//! [`Next`]: all that it may ask of the loop. It knows neither the loop nor its poll, so every part of it runs in tests
//! on a scripted [`Socket`](transport::Socket).

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::balance::{Balancer, NoChoice, Tried};
use crate::drain::Standing;
use crate::error::{Outcome, Refusal, Side};
use crate::limit::PerAddress;
use crate::moment::{Date, Moment};
use crate::plan::{BackendId, PoolId, Tcp, Timeouts};
use crate::proto::adapt::{self, Thresholds};
use crate::setup::Setup;
use crate::stats::Stats;
use crate::sys::Keepalive;

pub mod closing;
pub mod engine;
pub mod exchange;
pub mod flow;
pub mod journal;
pub mod opening;
pub mod relay;
#[cfg(test)]
pub mod script;
#[cfg(test)]
mod simulation;
pub mod story;
pub mod transport;

use closing::Closing;
use engine::{Buffers, FILL_BYTES_MAX, PUMP_BYTES_MAX};
use exchange::Exchange;
use journal::Journal;
use opening::{Opened, Opening};
use relay::Relay;
use story::Story;
use transport::{Edges, Socket, Stream, Transport, Watch};

/// A session, in the state that it is in.
#[derive(Debug)]
pub enum Session<S> {
    /// From accept until bytes may flow.
    Opening(Box<Opening<S>>),
    /// A tunnel.
    Relaying(Relay<S>),
    /// A plain request and its response.
    Exchanging(Box<Exchange<S>>),
    /// The last words.
    Closing(Box<Closing<S>>),
    /// Between two states, and after a panic between them.
    Gone,
}

/// Thousands of tunnels rest in a slab of these: what only an opening needs is in a box. (In a debug build mio keeps a
/// number of its own in each socket.)
const _: () = assert!(cfg!(debug_assertions) || size_of::<Session<Stream>>() <= 192);

/// What a session asks of the loop.
#[derive(Debug)]
pub enum Next {
    /// Nothing until an edge, or until this deadline.
    Park {
        /// `None`: an edge alone.
        deadline: Option<Moment>,
    },
    /// As `Park`, and its lifetime is over: it is to be closed at the pace of such ends.
    Retire {
        /// As there.
        deadline: Option<Moment>,
    },
    /// Another turn: there is more to do than one turn may take.
    Yield,
    /// A socket to this backend.
    Dial(BackendId),
    /// The response has been passed on: the session's last line, then the client is lingered over.
    Linger(Outcome),
    /// Nothing until an edge. The deadline that it has may stay: it can only be too early.
    Rest,
    /// The end, with a last line.
    Close(Outcome),
    /// The end of a session whose last line is written.
    End,
}

/// What a session holds of things that are counted, given back by the loop when it ends.
#[derive(Debug, Default)]
pub struct Holds {
    /// Counted among the sessions of this address, where that is limited; boxed because mostly it is not.
    pub address: Option<Box<IpAddr>>,
    /// Counted among the sessions of this backend.
    pub backend: Option<BackendId>,
    /// Counted among the open tunnels.
    pub tunnel: Option<Via>,
}

/// The route through which a tunnel was opened, in two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via(NonZeroU16);

impl Via {
    /// The route with this place on its listener.
    pub fn new(route: u16) -> Via {
        Via(NonZeroU16::MIN.saturating_add(route)) // a listener has fewer
    }

    /// Its place on its listener.
    pub fn route(self) -> u16 {
        self.0.get() - 1
    }
}

/// What the loop lends to every session, one after the other.
pub struct Tools {
    /// The date, from a moment ago.
    pub date: Date,
    /// The choice among servers.
    pub balancer: Balancer,
    /// Sessions per client address, in all workers.
    pub addresses: Arc<PerAddress>,
    /// Buffers for bytes that have to wait.
    pub buffers: Buffers,
    /// Where bytes are read to.
    pub scratch: Vec<u8>,
    /// Bytes that one direction may copy in a turn.
    pub flow_budget: usize,
    /// Bytes that one direction may splice in a turn, what it has copied among them.
    pub pump_budget: usize,
    /// When a direction is in bulk.
    pub thresholds: Thresholds,
    /// Random numbers: ids, choices.
    pub dice: fastrand::Rng,
    /// The access log.
    pub journal: Journal,
    /// The counters.
    pub stats: Arc<Stats>,
    /// A tunnel has opened; the loop sets it back.
    pub has_opened: bool,
    /// A server came back whose pool is to be spread anew; the loop sets it back.
    pub has_come_back: bool,
    /// Bytes that were taken from sources, given to sinks after they were held, or dropped; the loop sets it back.
    pub moved: usize,
    /// Payload bytes that sinks took since the start, by [`Way`](flow::Way).
    pub carried: [u64; 3],
}

impl Tools {
    /// What sessions need, one of so many workers'.
    pub fn new(date: Date, addresses: Arc<PerAddress>, workers: usize) -> Tools {
        Tools {
            date,
            balancer: Balancer::default(),
            addresses,
            buffers: Buffers::one_of(workers),
            scratch: vec![0; FILL_BYTES_MAX],
            flow_budget: FILL_BYTES_MAX,
            pump_budget: PUMP_BYTES_MAX,
            thresholds: adapt::THRESHOLDS,
            dice: fastrand::Rng::new(),
            journal: Journal::default(),
            stats: Arc::default(),
            has_opened: false,
            has_come_back: false,
            moved: 0,
            carried: [0; 3],
        }
    }
}

/// What a session has to work with in its turn.
pub struct Turn<'a> {
    /// The time, read once a turn.
    pub now: Moment,
    /// The configuration that this session was opened with.
    pub setup: &'a Setup,
    /// The waits of this session.
    pub timeouts: &'a Timeouts,
    /// What this session holds.
    pub holds: &'a mut Holds,
    /// What is lent.
    pub tools: &'a mut Tools,
}

impl Turn<'_> {
    /// The time as a date.
    pub fn wall(&self) -> SystemTime {
        self.tools.date.at(self.now)
    }

    /// Counts this session among those of a client's address, or says that they are too many.
    pub fn admit(&mut self, address: IpAddr) -> Result<(), Refusal> {
        debug_assert!(self.holds.address.is_none(), "a session is admitted once");
        match self.setup.plan.limits.max_connections_per_ip {
            0 => Ok(()),
            max if self.tools.addresses.admit(address, max) => {
                self.holds.address = Some(Box::new(address));
                Ok(())
            }
            _ => Err(Refusal::TooManyConnections),
        }
    }

    /// Chooses a backend for this session, and counts it among those of that one and no longer of the one before.
    pub fn choose(&mut self, pool: PoolId, key: Option<u64>, tried: &Tried) -> Result<BackendId, NoChoice> {
        self.let_go();
        let (rules, members) = self.setup.pool(pool);
        loop {
            let Tools { balancer, dice, .. } = &mut *self.tools;
            let index = balancer.choose(rules, members, key, tried, self.now, dice)?;
            // Another worker may have taken its last place meanwhile.
            if members.record(index).open(rules.backends[usize::from(index)].max_conns) {
                let backend = BackendId { pool, index };
                self.holds.backend = Some(backend);
                return Ok(backend);
            }
        }
    }

    /// The session is no longer a backend's.
    pub fn let_go(&mut self) {
        if let Some(backend) = self.holds.backend.take() {
            self.setup.record(backend).close();
        }
    }

    /// The backend that this session is counted for has failed it.
    pub fn blame(&mut self, reason: &str) {
        let Some(id) = self.holds.backend else { return };
        let went_out = self.setup.record(id).failed(self.setup.pool(id.pool).0, self.now);
        let (server, upstream) = self.names(id);
        let what = if went_out { "failed and is out for now" } else { "failed" };
        log::warn!("server {server} of upstream {upstream} {what}: {reason}");
    }

    /// The backend that this session is counted for has answered.
    pub fn praise(&mut self) {
        let Some(id) = self.holds.backend else { return };
        if self.setup.record(id).succeeded() {
            let (server, upstream) = self.names(id);
            log::info!("server {server} of upstream {upstream} is in again");
            let (pool, members) = self.setup.pool(id.pool);
            if pool.rebalance.is_some() {
                members.episode.want();
                self.tools.has_come_back = true;
            }
        }
    }

    /// A backend's name and its pool's, for the log.
    fn names(&self, id: BackendId) -> (&str, &str) {
        let (pool, _) = self.setup.pool(id.pool);
        (&pool.backends[usize::from(id.index)].name, &pool.name)
    }

    /// A tunnel has opened: counts it and writes its line.
    pub fn opened(&mut self, story: &Story) {
        self.holds.tunnel = Some(Via::new(story.route));
        self.tools.has_opened = true;
        self.tools.stats.tunnel_opened(story.handshake.unwrap_or_default());
        self.setup.mark(story.listener, story.route).opened();
        if let Some(id) = self.holds.backend {
            self.setup.record(id).tunnel_opened();
        }
        let wall = self.wall();
        self.tools.journal.open(story, self.setup, self.now, wall);
    }

    /// Writes the last line of a session.
    pub fn log_close(&mut self, story: &Story, outcome: &Outcome) {
        let wall = self.wall();
        self.tools.stats.ended(outcome.word(), outcome.ended_by().as_str(), outcome.rule());
        self.tools.journal.close(story, outcome, self.setup, self.now, wall);
    }
}

/// How the kernel is to find out that a peer is gone, by this configuration.
pub fn keepalive(tcp: &Tcp) -> Keepalive {
    Keepalive { time: tcp.keepalive, user_timeout: tcp.user_timeout }
}

/// A limit on a wait, where it is running, and how the session ends when it is reached.
type Limit = (Option<Moment>, Outcome);

/// A deadline: `timeout` after `since`, where both are.
fn after(since: Option<Moment>, timeout: Option<Duration>) -> Option<Moment> {
    Some(since? + timeout?)
}

/// When a session has to be looked at again though nothing happens.
fn soonest(limits: impl IntoIterator<Item = Limit>) -> Option<Moment> {
    limits.into_iter().filter_map(|(deadline, _)| deadline).min()
}

/// The first of the limits that is reached, if any is: a deadline can come that has moved meanwhile.
fn reached(limits: impl IntoIterator<Item = Limit>, now: Moment) -> Option<Outcome> {
    let is_reached = |deadline: Option<Moment>| deadline.is_some_and(|deadline| deadline <= now);
    limits.into_iter().find(|&(deadline, _)| is_reached(deadline)).map(|(_, outcome)| outcome)
}

impl<S: Socket> Session<S> {
    /// Takes note of an event at one of its sockets.
    pub fn mark(&mut self, side: Side, edges: Edges) {
        match self {
            Session::Opening(opening) => opening.mark(side, edges),
            Session::Relaying(relay) => relay.mark(side, edges),
            Session::Exchanging(exchange) => exchange.mark(side, edges),
            Session::Closing(closing) => closing.mark(side, edges),
            Session::Gone => {}
        }
    }

    /// Whether it moves bytes as fast as they are taken, so that it can wait for those that do not.
    pub fn is_bulk(&self) -> bool {
        match self {
            Session::Relaying(relay) => relay.is_bulk(),
            Session::Exchanging(exchange) => exchange.is_bulk(),
            Session::Opening(_) | Session::Closing(_) | Session::Gone => false,
        }
    }

    /// Does what can be done now.
    #[inline]
    pub fn advance(&mut self, turn: &mut Turn<'_>) -> Next {
        match self {
            Session::Relaying(relay) => relay.advance(turn),
            Session::Opening(_) | Session::Exchanging(_) | Session::Closing(_) | Session::Gone => {
                self.advance_in_turn(turn)
            }
        }
    }

    /// As [`advance`](Session::advance), for sessions that may become another kind by it.
    fn advance_in_turn(&mut self, turn: &mut Turn<'_>) -> Next {
        loop {
            match self {
                Session::Relaying(relay) => return relay.advance(turn),
                Session::Closing(closing) => return closing.advance(turn),
                Session::Exchanging(exchange) => match exchange.advance(turn) {
                    Next::Linger(outcome) => self.linger(&outcome, turn),
                    next => return next,
                },
                Session::Opening(_) => {
                    if let Some(next) = self.open(|opening| opening.advance(turn)) {
                        return next;
                    }
                }
                Session::Gone => return Next::End,
            }
        }
    }

    /// Lets an opening take a step, which it does by value. `None`: it is another kind of session now.
    fn open(&mut self, step: impl FnOnce(Box<Opening<S>>) -> Opened<S>) -> Option<Next> {
        let Session::Opening(opening) = std::mem::replace(self, Session::Gone) else {
            unreachable!("both callers have just matched an opening")
        };
        match step(opening) {
            Opened::NotYet(opening, next) => {
                *self = Session::Opening(opening);
                Some(next)
            }
            Opened::Into(session) => {
                *self = session;
                None
            }
        }
    }

    /// A response has been passed on: the server is left, the client listened to for a moment.
    fn linger(&mut self, outcome: &Outcome, turn: &mut Turn<'_>) {
        if let Session::Exchanging(exchange) = std::mem::replace(self, Session::Gone) {
            let (client, story) = exchange.part();
            turn.log_close(&story, outcome);
            turn.let_go();
            *self = Session::Closing(Box::new(Closing::linger(client, turn.now)));
        }
    }

    /// The loop has dialed, or could not.
    pub fn dialed(&mut self, socket: io::Result<Transport<S>>) {
        match self {
            Session::Opening(opening) => opening.dialed(socket),
            Session::Relaying(_) | Session::Exchanging(_) | Session::Closing(_) | Session::Gone => {
                debug_assert!(false, "only an opening asks for a socket");
            }
        }
    }

    /// A deadline that it asked for has come.
    pub fn expire(&mut self, turn: &mut Turn<'_>) -> Next {
        match self {
            Session::Opening(_) => match self.open(|opening| opening.expire(turn)) {
                Some(next) => next,
                None => self.advance(turn),
            },
            Session::Relaying(relay) => relay.expire(turn),
            Session::Exchanging(exchange) => exchange.expire(turn),
            Session::Closing(closing) => closing.expire(turn),
            Session::Gone => Next::End,
        }
    }

    /// A socket that has to be watched for something that it is not watched for yet, if the session is to wait.
    pub fn unwatched(&mut self) -> Option<(Side, &mut Transport<S>, Watch)> {
        self.ends().into_iter().flatten().find_map(|(side, transport)| {
            let watch = transport.unwatched()?;
            Some((side, transport, watch))
        })
    }

    /// The sockets that it has.
    fn ends(&mut self) -> [Option<(Side, &mut Transport<S>)>; 2] {
        let [client, server] = match self {
            Session::Opening(opening) => opening.ends(),
            Session::Relaying(relay) => relay.ends().map(Some),
            Session::Exchanging(exchange) => exchange.ends().map(Some),
            Session::Closing(closing) => [Some(closing.client()), None],
            Session::Gone => [None, None],
        };
        [client.map(|client| (Side::Client, client)), server.map(|server| (Side::Server, server))]
    }

    /// How a tunnel stands; `None`: it is none.
    pub fn standing(&self) -> Option<Standing> {
        match self {
            Session::Relaying(relay) => Some(relay.standing()),
            Session::Opening(_) | Session::Exchanging(_) | Session::Closing(_) | Session::Gone => None,
        }
    }

    /// The tunnel that it is, if it is one.
    pub fn tunnel(&self) -> Option<&Relay<S>> {
        match self {
            Session::Relaying(relay) => Some(relay),
            Session::Opening(_) | Session::Exchanging(_) | Session::Closing(_) | Session::Gone => None,
        }
    }

    /// Whether it is a tunnel.
    #[cfg(test)]
    pub fn is_tunnel(&self) -> bool {
        matches!(self, Session::Relaying(_))
    }

    /// Closes its sockets, and gives back its story where the last line is not written yet. A tunnel is reminded of its
    /// backend, which it is counted for.
    pub fn close(self, backend: Option<BackendId>) -> Option<Box<Story>> {
        match self {
            Session::Opening(opening) => Some(opening.close()),
            Session::Relaying(relay) => Some(Box::new(relay.close(backend))),
            Session::Exchanging(exchange) => Some(exchange.close()),
            Session::Closing(closing) => closing.close(),
            Session::Gone => None,
        }
    }
}
