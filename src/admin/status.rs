//! How it stands: what is configured, and what is counted about it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::drains::{Drains, Spot};
use super::search::Seconds;
use crate::access_log::rfc3339;
use crate::balance::Record;
use crate::moment::Moment;
use crate::plan::{Backend, BackendId, Balance, Listener, Mode, Pool, PoolId, Source};
use crate::setup::Setup;
use crate::stats::{Snapshot, Stats};

/// What there is to be told, at one moment.
pub struct View<'a> {
    /// Since the start.
    pub now: Moment,
    /// The same as a date.
    pub wall: SystemTime,
    /// Whether it serves.
    pub phase: Phase,
    /// The present configuration.
    pub setup: &'a Setup,
    /// When it became that.
    pub configured_at: Moment,
    /// The text that it was read from.
    pub source: Source,
    /// Reloads that were done, and that were refused.
    pub reloads: [u64; 2],
    /// Configurations that sessions have.
    pub in_use: usize,
    /// What operators let drain.
    pub drains: &'a Drains,
    /// By worker.
    pub stats: &'a [Arc<Stats>],
    /// Descriptors in use, where the kernel says, and how many there may be.
    pub descriptors: (Option<u64>, u64),
    /// Log lines that were lost.
    pub lost_lines: u64,
}

/// Whether clients are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// They are.
    Serving,
    /// Still, but they should not come any more.
    Unready,
    /// Nobody is let in; what is left is closed at this time.
    Draining(Option<Moment>),
}

impl View<'_> {
    /// All counters together.
    pub fn sum(&self) -> Snapshot {
        self.stats.iter().map(|stats| stats.snapshot()).fold(Snapshot::default(), Snapshot::plus)
    }

    /// Who lets something drain.
    fn drains(&self, spot: impl FnOnce() -> Spot, drains: bool) -> Option<&'static str> {
        match drains {
            false => None,
            true if self.drains.has(&spot()) => Some("operator"),
            true => Some("file"),
        }
    }

    /// The routes of a listener, each with whether it drains, its upstream, and its tunnels.
    pub fn routes(&self, place: usize) -> impl Iterator<Item = (&str, bool, &str, u32)> {
        let routes: Vec<(bool, PoolId)> = match &self.setup.plan.listeners[place].mode {
            Mode::Http { routes } => routes.iter().map(|route| (route.drain, route.pool)).collect(),
            Mode::Tcp { pool } => vec![(false, *pool)],
        };
        let marks = self.setup.marks(place);
        // Of two for anything the second, the listener's own `upstream`, is never taken.
        let is_first = |index: usize| index == 0 || !Arc::ptr_eq(&marks[index], &marks[index - 1]);
        routes.into_iter().enumerate().filter(move |(index, _)| is_first(*index)).map(
            |(index, (drain, pool))| {
                let (mark, pool) = (&marks[index], &self.setup.plan.pools[usize::from(pool.0)]);
                (&*mark.name, drain, pool.name.as_str(), mark.open())
            },
        )
    }

    /// The servers of an upstream, with what is known of each.
    pub fn servers(&self, pool: usize) -> impl Iterator<Item = (BackendId, &Backend, &Record)> {
        let backends = self.setup.plan.pools[pool].backends.iter().zip(self.setup.members[pool].records());
        backends.enumerate().map(move |(index, (backend, record))| {
            let id = BackendId { pool: PoolId(pool as u16), index: index as u16 }; // a plan has no more
            (id, backend, &**record)
        })
    }
}

/// Where a server stands.
pub fn state(setup: &Setup, id: BackendId) -> &'static str {
    let (pool, _) = setup.pool(id.pool);
    match pool.backends[usize::from(id.index)].drain {
        true => "drains",
        false if setup.record(id).is_out(pool) => "out",
        false => "in",
    }
}

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    time: String,
    uptime: Seconds,
    phase: &'static str,
    drain_ends: Option<Seconds>,
    configuration: Configuration,
    workers: Vec<Worker>,
    sessions: Sessions,
    tunnels: Tunnels,
    bytes: Bytes,
    descriptors: Descriptors,
    buffers: Buffers,
    log_lines_lost: u64,
    listeners: Vec<ListenerStatus<'a>>,
    upstreams: Vec<UpstreamStatus<'a>>,
    gone: u64,
    refusals: BTreeMap<&'static str, u64>,
    ends: Vec<End>,
}

#[derive(Serialize)]
struct Configuration {
    hash: Option<String>,
    age: Seconds,
    reloads: u64,
    in_use: usize,
}

#[derive(Serialize)]
struct Worker {
    sessions: u64,
    tunnels: u64,
    accepted: u64,
}

#[derive(Serialize)]
struct Sessions {
    open: u64,
    limit: usize,
    accepted: u64,
    refused: u64,
}

#[derive(Serialize)]
struct Tunnels {
    open: u64,
    opened: u64,
}

#[derive(Serialize)]
struct Bytes {
    up: u64,
    down: u64,
}

#[derive(Serialize)]
struct Descriptors {
    used: Option<u64>,
    limit: u64,
}

#[derive(Serialize)]
struct Buffers {
    bytes: usize,
    pipes: usize,
}

#[derive(Serialize)]
struct End {
    outcome: &'static str,
    by: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct ListenerStatus<'a> {
    listener: &'a str,
    protocol: &'static str,
    drains: Option<&'static str>,
    tunnels: u64,
    routes: Vec<RouteStatus<'a>>,
}

#[derive(Serialize)]
struct RouteStatus<'a> {
    route: &'a str,
    upstream: &'a str,
    drains: Option<&'static str>,
    tunnels: u32,
}

#[derive(Serialize)]
struct UpstreamStatus<'a> {
    upstream: &'a str,
    balance: &'static str,
    rebalance: bool,
    rebalancing: bool,
    sessions: u64,
    tunnels: u64,
    servers: Vec<ServerStatus<'a>>,
}

#[derive(Serialize)]
struct ServerStatus<'a> {
    server: &'a str,
    state: &'static str,
    drains: Option<&'static str>,
    backup: bool,
    weight: u32,
    max_conns: u32,
    sessions: u32,
    tunnels: u32,
    share: f64,
    opened: u64,
    failures: u64,
}

/// As it is answered.
pub fn status<'a>(view: &'a View<'_>) -> impl Serialize + use<'a> {
    let sum = view.sum();
    let plan = &view.setup.plan;
    let listeners: Vec<ListenerStatus<'_>> = plan
        .listeners
        .iter()
        .enumerate()
        .map(|(place, listener)| listener_status(view, place, listener))
        .collect();
    let here: u64 = listeners.iter().map(|listener| listener.tunnels).sum();
    let (phase, drain_ends) = match view.phase {
        Phase::Serving => ("serving", None),
        Phase::Unready => ("unready", None),
        Phase::Draining(deadline) => ("draining", deadline),
    };
    let (mut refusals, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for stats in view.stats {
        stats.refusals.add_to(&mut refusals);
        stats.ends.add_to(&mut ends);
    }
    let worker = |Snapshot { open: sessions, tunnels_open: tunnels, accepted, .. }| Worker {
        sessions,
        tunnels,
        accepted,
    };
    Status {
        version: env!("CARGO_PKG_VERSION"),
        time: rfc3339(view.wall).to_string(),
        uptime: Seconds(view.now.since(Moment::START)),
        phase,
        drain_ends: drain_ends.map(|deadline| Seconds(deadline.since(view.now))),
        configuration: Configuration {
            hash: view.source.hex(),
            age: Seconds(view.now.since(view.configured_at)),
            reloads: view.reloads[0],
            in_use: view.in_use,
        },
        workers: view.stats.iter().map(|stats| worker(stats.snapshot())).collect(),
        sessions: Sessions {
            open: sum.open,
            limit: plan.limits.max_connections,
            accepted: sum.accepted,
            refused: sum.refused,
        },
        tunnels: Tunnels { open: sum.tunnels_open, opened: sum.tunnels_opened },
        bytes: Bytes { up: sum.bytes_up, down: sum.bytes_down },
        descriptors: Descriptors { used: view.descriptors.0, limit: view.descriptors.1 },
        buffers: Buffers { bytes: held_bytes(view), pipes: pipes(view) },
        log_lines_lost: view.lost_lines,
        gone: sum.tunnels_open.saturating_sub(here),
        listeners,
        upstreams: plan
            .pools
            .iter()
            .enumerate()
            .map(|(index, pool)| upstream_status(view, index, pool))
            .collect(),
        refusals,
        ends: ends.into_iter().map(|((outcome, by), count)| End { outcome, by, count }).collect(),
    }
}

/// Bytes of the buffers that there are.
pub fn held_bytes(view: &View<'_>) -> usize {
    use std::sync::atomic::Ordering::Relaxed;
    let buffers: usize = view.stats.iter().map(|stats| stats.buffers.load(Relaxed)).sum();
    buffers * crate::session::engine::FILL_BYTES_MAX
}

/// Pipes that there are.
pub fn pipes(view: &View<'_>) -> usize {
    view.stats.iter().map(|stats| stats.pipes.load(std::sync::atomic::Ordering::Relaxed)).sum()
}

fn listener_status<'a>(view: &'a View<'_>, place: usize, listener: &'a Listener) -> ListenerStatus<'a> {
    let (name, key) = (view.setup.listener_names[place].as_str(), &view.setup.keys[place]);
    let route = |(route, drain, upstream, tunnels): (&'a str, bool, &'a str, u32)| {
        let spot = || Spot::Route(key.clone(), route.to_owned());
        RouteStatus { route, upstream, drains: view.drains(spot, drain), tunnels }
    };
    let routes: Vec<RouteStatus<'_>> = view.routes(place).map(route).collect();
    ListenerStatus {
        listener: name,
        protocol: match listener.mode {
            Mode::Http { .. } => "http",
            Mode::Tcp { .. } => "tcp",
        },
        drains: view.drains(|| Spot::Listener(key.clone()), listener.drain),
        tunnels: routes.iter().map(|route| u64::from(route.tunnels)).sum(),
        routes,
    }
}

fn upstream_status<'a>(view: &'a View<'_>, index: usize, pool: &'a Pool) -> UpstreamStatus<'a> {
    let sum = |number: fn(&Record) -> u32| {
        view.servers(index).map(|(_, _, record)| u64::from(number(record))).sum()
    };
    let tunnels: u64 = sum(|record| record.tunnels().0);
    let server = |(id, backend, record): (BackendId, &'a Backend, &'a Record)| {
        let (open, opened) = record.tunnels();
        let spot = || Spot::Server(pool.name.clone(), backend.name.clone());
        let share = f64::from(open) / (tunnels.max(1) as f64);
        ServerStatus {
            server: &backend.name,
            state: state(view.setup, id),
            drains: view.drains(spot, backend.drain),
            backup: backend.backup,
            weight: backend.weight,
            max_conns: backend.max_conns,
            sessions: record.active(),
            tunnels: open,
            share: (share * 10_000.0).round() / 10_000.0,
            opened,
            failures: record.failures(),
        }
    };
    UpstreamStatus {
        upstream: &pool.name,
        balance: balance(&pool.balance),
        rebalance: pool.rebalance.is_some(),
        rebalancing: view.setup.members[index].episode.is_on(),
        sessions: sum(Record::active),
        tunnels,
        servers: view.servers(index).map(server).collect(),
    }
}

fn balance(balance: &Balance) -> &'static str {
    match balance {
        Balance::RoundRobin => "round_robin",
        Balance::LeastConn => "least_conn",
        Balance::IpHash => "ip_hash",
        Balance::RandomTwo => "random_two",
        Balance::Hash(_) => "hash",
    }
}

/// When the process began, by its own clock.
pub fn started_at(view: &View<'_>) -> SystemTime {
    view.wall.checked_sub(view.now.since(Moment::START)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A date in seconds, as metrics have it.
pub fn unix_seconds(date: SystemTime) -> f64 {
    date.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}
