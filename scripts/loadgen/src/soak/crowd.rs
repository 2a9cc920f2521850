//! All clients of a run, on one poll: those that stay, those that come and go, those that vanish, the prober, and those
//! that say nothing and take descriptors. It judges what happens to each by what configuration and operators permit.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use fastrand::Rng;
use mio::net::TcpStream;
use mio::{Events, Poll};
use slab::Slab;
use socket2::SockRef;

use super::config::{Admission, Config, KEPT_PLACES, PLACES, Place, SERVERS};
use super::payload::{Pattern, dice};
use super::steering::{Order, Reach, Steering};
use super::tunnel::{Happened, Trouble, Tunnel};
use super::verdict::{Promise, Verdict};
use crate::handshake::Request;
use crate::net::{EVENTS, Wire};

/// When a client has waited for so long for one thing, it waits for nothing. A busy machine takes a second.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// A configuration that was confirmed so long ago is in force for everybody who comes.
pub const GRACE: Duration = Duration::from_millis(300);
/// Between two clients of the prober, and how many it may have at once.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);
pub const PROBES_MAX: usize = 32;
/// Those that come at once and those that are opening, the prober's apart.
const DIALS_A_TURN: usize = 4;
const OPENING_MAX: usize = 64;
/// Those who only take descriptors come in groups.
const IDLERS_A_TURN: usize = 100;
/// Between an echo and the next message at most.
const PAUSE_MS_MAX: u64 = 1500;
/// How long tunnels last at most, those apart that stay.
const LIFE_MS_MAX: u64 = 8000;

/// What is known of adit and of the servers.
pub struct World {
    pub running: Config,
    pub confirmed_at: Instant,
    /// How often adit was told to take another, and how often it has answered: odd while it has not.
    pub changes: u64,
    /// What adit has been told to take, until it says that it has.
    pub pending: Option<Config>,
    /// What operators have said.
    pub steering: Steering,
    /// Descriptors run out, or have just been given back.
    pub is_exhausted: bool,
    /// From when a server is told to die until it says that it is back.
    pub is_down: [bool; SERVERS],
    /// Where each listener is, or was last.
    pub listeners: HashMap<Ipv4Addr, SocketAddr>,
}

impl World {
    fn must_admit(&self, place: Place) -> bool {
        let admits = |config: &Config| config.admits(place) == Admission::Must;
        !self.is_exhausted && admits(&self.running) && self.pending.as_ref().is_none_or(admits)
    }

    /// Whether what adit is about to take, or to do for an operator, may end a tunnel.
    fn may_end(&self, place: Place, server: Option<usize>) -> bool {
        self.pending.as_ref().is_some_and(|next| next.may_end(&self.running, place, server))
            || self.steering.may_close(place, server)
    }
}

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Echoes as long as the run lasts.
    Kept,
    /// Echoes until then.
    Passing { until: Instant, leave: Leave },
    /// One echo, and away.
    Probe,
    /// Sends half of its request and goes.
    Broken { until: Instant, reset: bool },
    /// One of those that make the process warm: some echoes, and away.
    Warming { echoes: u32 },
    /// One of those that are there when adit is asked to end: echoes until it is closed.
    Last,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Kept => "kept",
            Role::Passing { .. } => "passing",
            Role::Probe => "prober's",
            Role::Broken { .. } => "broken",
            Role::Warming { .. } => "warming or leaving",
            Role::Last => "last",
        }
    }
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// With a Close each way.
    Politely,
    /// With the end of the connection and no word before.
    Silently,
    /// In the middle of a frame.
    Vanishing { reset: bool },
}

struct Client {
    tunnel: Tunnel,
    role: Role,
    place: Place,
    server: Option<usize>,
    opened_at: Option<Instant>,
    /// It has to be let in, since all that held while it has been asking says so.
    must_open: bool,
    /// It asked when the configuration in force had been so for a while, and is so still.
    is_settled: bool,
    /// Servers that operators had let drain by then, and still do: it must not get to those.
    shut: [bool; SERVERS],
    /// Something has happened by which it may be closed.
    is_excused: bool,
    /// When it has something to do, or has lost its patience.
    due: Instant,
    rng: Rng,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub opened: u64,
    pub probes: u64,
    pub echoes: u64,
    pub bytes: u64,
    /// Not let in where that may be.
    pub refused: u64,
    /// Closed by adit, or with their server, where that may be.
    pub closed: u64,
    pub vanished: u64,
    pub left: u64,
}

pub struct Crowd {
    poll: Poll,
    events: Events,
    clients: Slab<Client>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    idlers: Vec<TcpStream>,
    pattern: Pattern,
    buffer: Vec<u8>,
    seed: u64,
    rng: Rng,
    next_id: u64,
    probe_at: Instant,
    /// How many of those that come and go there are to be.
    passing_wanted: usize,
    passing: usize,
    probes: usize,
    opening: usize,
    pub counts: Counts,
}

impl Crowd {
    pub fn new(seed: u64) -> io::Result<Crowd> {
        Ok(Crowd {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            clients: Slab::new(),
            timers: BinaryHeap::new(),
            idlers: Vec::new(),
            pattern: Pattern::new(seed),
            buffer: vec![0; 256 << 10],
            seed,
            rng: dice(seed, 1, 0),
            next_id: 0,
            probe_at: Instant::now(),
            passing_wanted: 0,
            passing: 0,
            probes: 0,
            opening: 0,
            counts: Counts::default(),
        })
    }

    /// Clients with a request or a tunnel.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    pub fn idlers(&self) -> usize {
        self.idlers.len()
    }

    /// From now on so many come and go, and the prober probes if there are any.
    pub fn keep_passing(&mut self, count: usize) {
        self.passing_wanted = count;
    }

    /// Waits for what happens, not for long, and acts on it.
    pub fn turn(&mut self, world: &World, verdict: &mut Verdict) -> io::Result<()> {
        let now = Instant::now();
        let due =
            self.timers.peek().map_or(PROBE_INTERVAL, |Reverse((at, _))| at.saturating_duration_since(now));
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        match self.poll.poll(&mut events, Some(due.min(PROBE_INTERVAL))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            polled => polled?,
        }
        for event in &events {
            let key = event.token().0;
            if let Some(client) = self.clients.get_mut(key) {
                client.tunnel.wire.mark(event);
                self.advance(key, world, verdict);
            }
        }
        self.events = events;
        let now = Instant::now();
        while let Some(&Reverse((at, key))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            // One whose time was moved has another entry; another client's may be in its place.
            if self.clients.get(key).is_some_and(|client| client.due <= now) {
                self.act(key, now, world, verdict);
            }
        }
        self.dial_more(now, world, verdict);
        Ok(())
    }

    fn dial_more(&mut self, now: Instant, world: &World, verdict: &mut Verdict) {
        for _ in 0..DIALS_A_TURN {
            if self.passing >= self.passing_wanted || self.opening >= OPENING_MAX {
                break;
            }
            let place = PLACES[self.rng.usize(..PLACES.len())];
            let until = now + Duration::from_millis(self.rng.u64(10..LIFE_MS_MAX));
            let reset = self.rng.bool();
            let leave = match self.rng.u8(..8) {
                0..=3 => Leave::Politely,
                4 => Leave::Silently,
                _ => Leave::Vanishing { reset },
            };
            let role = match self.rng.u8(..20) {
                // Half of a request is for who reads requests.
                0 if place != Place::Raw => Role::Broken { until: now + Duration::from_millis(20), reset },
                _ => Role::Passing { until, leave },
            };
            self.dial(place, role, world, verdict);
        }
        if self.passing_wanted > 0 && now >= self.probe_at && self.probes < PROBES_MAX {
            self.probe_at = now + PROBE_INTERVAL;
            let place = if self.rng.u8(..4) == 0 { Place::Raw } else { Place::Steady };
            self.dial(place, Role::Probe, world, verdict);
        }
    }

    /// So many more that stay for the run.
    pub fn dial_kept(&mut self, count: usize, world: &World, verdict: &mut Verdict) {
        for number in 0..count {
            self.dial(KEPT_PLACES[number % KEPT_PLACES.len()], Role::Kept, world, verdict);
        }
    }

    pub fn dial(&mut self, place: Place, role: Role, world: &World, verdict: &mut Verdict) {
        // A listener that has never been there.
        let Some(&target) = world.listeners.get(&place.ip()) else { return };
        self.next_id += 1;
        let id = self.next_id;
        let mut rng = dice(self.seed, 2, id);
        let mut request = Request::new(place.host(), "/echo");
        let accept = request.renew(rng.u128(..));
        let key = self.clients.vacant_key();
        let dialed = TcpStream::connect(target).and_then(|socket| {
            SockRef::from(&socket).set_tcp_nodelay(true)?;
            Wire::register(socket, self.poll.registry(), key)
        });
        let wire = match dialed {
            Ok(wire) => wire,
            Err(error) => {
                let must_open = world.must_admit(place) && !matches!(role, Role::Broken { .. });
                self.refuse(place, must_open, &error.to_string(), verdict);
                return;
            }
        };
        let now = Instant::now();
        let mut tunnel = Tunnel::open(wire, id, request.bytes(), accept);
        let due = match role {
            Role::Broken { until, .. } => {
                tunnel.break_off();
                until
            }
            Role::Kept | Role::Passing { .. } | Role::Probe | Role::Warming { .. } | Role::Last => {
                now + PATIENCE
            }
        };
        let client = Client {
            tunnel,
            role,
            place,
            server: None,
            opened_at: None,
            must_open: world.must_admit(place),
            is_settled: world.pending.is_none() && now > world.confirmed_at + GRACE,
            shut: world.steering.shut(place, now),
            is_excused: world.may_end(place, None),
            due,
            rng,
        };
        self.opening += 1;
        self.passing += usize::from(matches!(role, Role::Passing { .. } | Role::Broken { .. }));
        self.probes += usize::from(role == Role::Probe);
        self.clients.insert(client);
        self.timers.push(Reverse((due, key)));
        self.advance(key, world, verdict);
    }

    fn advance(&mut self, key: usize, world: &World, verdict: &mut Verdict) {
        while let Some(client) = self.clients.get_mut(key) {
            match client.tunnel.advance(&self.pattern, &mut self.buffer) {
                Ok(None) => return,
                Ok(Some(Happened::Opened(server))) => self.opened(key, server, world, verdict),
                Ok(Some(Happened::Echoed(bytes))) => self.echoed(key, bytes),
                Ok(Some(Happened::Closed)) => {
                    self.counts.left += 1;
                    drop(self.remove(key));
                }
                Err(trouble) => self.fail(key, trouble, verdict),
            }
        }
    }

    fn opened(&mut self, key: usize, server: Option<usize>, world: &World, verdict: &mut Verdict) {
        self.opening -= 1;
        let now = Instant::now();
        let client = &mut self.clients[key];
        let place = client.place;
        let Some(server) = server.filter(|&server| place.may_reach(server)) else {
            verdict.breach(Promise::Bytes, format!("{}: the answer is of server {server:?}", place.host()));
            self.remove(key);
            return;
        };
        (client.server, client.opened_at) = (Some(server), Some(now));
        client.is_excused |= world.is_down[server]
            || world.running.may_close(place, Some(server))
            || world.steering.lets_drain(place, server)
            || world.may_end(place, Some(server));
        verdict.expect(Promise::Operators, !client.shut[server], || {
            format!("{}: opened to server {server}, which an operator lets drain", place.host())
        });
        if client.is_settled {
            let is_served = world.running.serves(place, server);
            let admits = world.running.admits(place) != Admission::Never;
            verdict.expect(Promise::Reloads, is_served && admits, || {
                let told = world.running.about(place);
                format!("{}: opened to server {server} where that must not be: {told}", place.host())
            });
        }
        match client.role {
            Role::Probe => self.counts.probes += 1,
            Role::Kept | Role::Passing { .. } | Role::Broken { .. } | Role::Warming { .. } | Role::Last => {
                self.counts.opened += 1;
            }
        }
        self.set_due(key, now);
    }

    fn echoed(&mut self, key: usize, bytes: usize) {
        self.counts.echoes += 1;
        self.counts.bytes += bytes as u64;
        let now = Instant::now();
        let client = &mut self.clients[key];
        let pause = Duration::from_millis(client.rng.u64(..PAUSE_MS_MAX));
        let due = match &mut client.role {
            Role::Passing { until, .. } => (now + pause).min((*until).max(now)),
            Role::Kept | Role::Last => now + pause,
            Role::Warming { echoes } => {
                *echoes = echoes.saturating_sub(1);
                now
            }
            Role::Probe => now,
            Role::Broken { .. } => unreachable!("it has no tunnel"),
        };
        self.set_due(key, due);
    }

    fn set_due(&mut self, key: usize, due: Instant) {
        self.clients[key].due = due;
        self.timers.push(Reverse((due, key)));
    }

    /// What a client does whose time has come.
    fn act(&mut self, key: usize, now: Instant, world: &World, verdict: &mut Verdict) {
        let client = &mut self.clients[key];
        if let Role::Broken { reset, .. } = client.role {
            self.counts.vanished += 1;
            self.remove(key).tunnel.vanish(&self.pattern, reset);
            return;
        }
        if client.tunnel.is_waiting() {
            let trouble = client.tunnel.give_up();
            return self.fail(key, trouble, verdict);
        }
        match client.role {
            Role::Passing { until, leave } if now >= until => match leave {
                Leave::Politely => client.tunnel.close(),
                Leave::Silently => {
                    self.counts.left += 1;
                    drop(self.remove(key));
                    return;
                }
                Leave::Vanishing { reset } => {
                    self.counts.vanished += 1;
                    self.remove(key).tunnel.vanish(&self.pattern, reset);
                    return;
                }
            },
            Role::Probe | Role::Warming { echoes: 0 } if client.tunnel.messages() > 0 => {
                client.tunnel.close()
            }
            Role::Passing { .. } | Role::Kept | Role::Probe | Role::Warming { .. } | Role::Last => {
                client.tunnel.say(&self.pattern);
            }
            Role::Broken { .. } => unreachable!("it has vanished"),
        }
        self.set_due(key, now + PATIENCE);
        self.advance(key, world, verdict);
    }

    fn fail(&mut self, key: usize, trouble: Trouble, verdict: &mut Verdict) {
        let client = self.remove(key);
        let server = client.server.map_or_else(|| "a server".into(), |server| format!("server {server}"));
        let (host, id, role) = (client.place.host(), client.tunnel.id, client.role.word());
        let told = |what: &str| format!("{host}, {role} tunnel {id} to {server}: {what}");
        match trouble {
            Trouble::Changed(what) => verdict.breach(Promise::Bytes, told(&what)),
            Trouble::Refused(what) => {
                let must_open = client.must_open && !matches!(client.role, Role::Broken { .. });
                self.refuse(client.place, must_open, &format!("{role} client {id}: {what}"), verdict);
            }
            Trouble::Silent(_) | Trouble::Ended(_) if client.is_excused => self.counts.closed += 1,
            Trouble::Silent(what) => verdict.breach(Promise::Bytes, told(&what)),
            Trouble::Ended(what) => verdict.breach(Promise::Tunnels, told(&what)),
        }
    }

    fn refuse(&mut self, place: Place, must_open: bool, what: &str, verdict: &mut Verdict) {
        self.counts.refused += 1;
        verdict.expect(Promise::Openings, !must_open, || format!("{}: {what}", place.host()));
    }

    fn remove(&mut self, key: usize) -> Client {
        let client = self.clients.remove(key);
        self.opening -= usize::from(client.tunnel.is_opening());
        self.passing -= usize::from(matches!(client.role, Role::Passing { .. } | Role::Broken { .. }));
        self.probes -= usize::from(client.role == Role::Probe);
        client
    }

    /// Adit is about to be told to take `next`. Whatever it does from now on, it may do by either.
    pub fn hear_of_config(&mut self, next: &Config, world: &World) {
        for (_, client) in &mut self.clients {
            client.is_excused |= world.running.may_close(client.place, client.server)
                || next.may_end(&world.running, client.place, client.server);
            client.is_settled = false;
            client.must_open &= next.admits(client.place) == Admission::Must;
        }
    }

    /// An operator is about to give an order. Says whose tunnels are among those that it is about.
    pub fn hear_of_order(&mut self, order: &Order) -> Vec<u64> {
        let mut meant = Vec::new();
        for (_, client) in &mut self.clients {
            if order.reach().is_some_and(|reach| reach.takes(client.place, client.server)) {
                client.is_excused = true;
                meant.extend(client.server.map(|_| client.tunnel.id));
            }
            if let Some((pool, server)) = order.lets_in() {
                client.shut[server] &= !Reach::Server(pool, server).takes(client.place, None);
            }
        }
        meant
    }

    /// An operator is about to close the tunnel of the client with this address, to that one. Says which it is, if it
    /// is there and need not stay. Behind a tcp listener it may be a tunnel before the client has heard of that.
    pub fn hear_of_closing(&mut self, from: SocketAddr, to: SocketAddr) -> Option<u64> {
        let is_it = |client: &Client| {
            let socket = &client.tunnel.wire.socket;
            socket.local_addr().is_ok_and(|at| at == from) && socket.peer_addr().is_ok_and(|at| at == to)
        };
        let (_, client) = self.clients.iter_mut().find(|(_, client)| is_it(client))?;
        if client.role == Role::Kept {
            return None;
        }
        (client.is_excused, client.must_open) = (true, false);
        Some(client.tunnel.id)
    }

    /// Which of these are still there.
    pub fn with_ids(&self, ids: &HashSet<u64>) -> Vec<u64> {
        let all = self.clients.iter().map(|(_, client)| client.tunnel.id);
        all.filter(|id| ids.contains(id)).collect()
    }

    /// For how long each of the tunnels that stay has been open.
    pub fn kept(&self) -> Vec<Duration> {
        let kept = self.clients.iter().filter(|(_, client)| client.role == Role::Kept);
        kept.filter_map(|(_, client)| Some(client.opened_at?.elapsed())).collect()
    }

    /// A server is about to die.
    pub fn hear_of_death(&mut self, server: usize) {
        for (_, client) in &mut self.clients {
            let is_its = client.server.map_or(client.place.may_reach(server), |known| known == server);
            client.is_excused |= is_its;
        }
    }

    /// Descriptors are about to run out. Who has no tunnel yet may wait or be refused.
    pub fn hear_of_exhaustion(&mut self) {
        for (_, client) in &mut self.clients {
            client.must_open = false;
        }
    }

    /// Adit is about to be asked to end.
    pub fn hear_of_stop(&mut self) {
        for (_, client) in &mut self.clients {
            client.is_excused = true;
        }
    }

    /// Connects some of so many clients that say nothing.
    pub fn idle(&mut self, count: usize, target: SocketAddr) -> io::Result<()> {
        let missing = count.saturating_sub(self.idlers.len()).min(IDLERS_A_TURN);
        for _ in 0..missing {
            self.idlers.push(TcpStream::connect(target)?);
        }
        Ok(())
    }

    /// Those leave again.
    pub fn stop_idling(&mut self) {
        self.idlers.clear();
    }

    /// Those who stay have a last word, and everybody says goodbye after it.
    pub fn say_goodbye(&mut self) {
        self.passing_wanted = 0;
        let now = Instant::now();
        for (key, client) in &mut self.clients {
            match client.role {
                Role::Kept => client.role = Role::Warming { echoes: 1 },
                Role::Passing { leave, .. } => client.role = Role::Passing { until: now, leave },
                Role::Probe | Role::Broken { .. } | Role::Warming { .. } | Role::Last => {}
            }
            if !client.tunnel.is_waiting() {
                client.due = now;
                self.timers.push(Reverse((now, key)));
            }
        }
    }

    /// Whether everybody has a tunnel and uses it.
    pub fn all_speak(&self) -> bool {
        self.clients.iter().all(|(_, client)| client.tunnel.messages() > 0)
    }
}
