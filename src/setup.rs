//! A plan at work, and how one follows another.
//!
//! A [`Setup`] is a plan with what is known of its servers. Sessions keep the one they were opened with, all workers
//! share it, and it is freed with the last who has it. A [`Registry`] makes each from a plan: what stays, by the keys
//! of [`identity`], goes on with the record that it has, so that a server is as well or as busy after a reload as it
//! was before; what has gone is remembered for as long as somebody uses it, and finds its record again if it comes
//! back.
//!
//! What becomes of the tunnels of what drains or has gone is worked out here as well, once: a tunnel has two numbers,
//! its route's and its server's, and a table says which numbers are [`unwanted`](Setup::fate).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::balance::{Members, Record};
use crate::identity::{self, ListenerKey, RouteKey, ServerKey};
use crate::moment::Moment;
use crate::plan::{BackendId, Listener, Mode, OnRemoved, Plan, Pool, PoolId};
use crate::rebalance::Episode;

/// A plan at work.
#[derive(Debug)]
pub struct Setup {
    /// What is configured, each listener with the address that it is bound to.
    pub plan: Plan,
    /// The listeners' keys, by the addresses that are configured.
    pub keys: Vec<ListenerKey>,
    /// The listeners' addresses as log lines have them.
    pub listener_names: Vec<String>,
    /// By pool.
    pub members: Vec<Members>,
    /// By listener, then by route.
    routes: Vec<Vec<Arc<Mark>>>,
    unwanted: Unwanted,
}

/// What tells a route from all others that there were.
#[derive(Debug)]
struct Mark(u32);

/// What becomes of the tunnels of a route or a server. The greater is the harsher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// They are drained because it drains.
    Drained,
    /// They are drained because it is gone.
    Removed,
    /// They are closed because it is gone.
    Closed,
}

impl From<OnRemoved> for Option<Fate> {
    fn from(on_removed: OnRemoved) -> Option<Fate> {
        match on_removed {
            OnRemoved::Keep => None,
            OnRemoved::Drain => Some(Fate::Removed),
            OnRemoved::Close => Some(Fate::Closed),
        }
    }
}

#[derive(Debug, Default)]
struct Unwanted {
    routes: HashMap<u32, Fate>,
    servers: HashMap<u32, Fate>,
}

impl Setup {
    /// A pool's rules and its backends.
    pub fn pool(&self, id: PoolId) -> (&Pool, &Members) {
        (&self.plan.pools[usize::from(id.0)], &self.members[usize::from(id.0)])
    }

    /// What is known of a backend.
    pub fn record(&self, id: BackendId) -> &Record {
        self.members[usize::from(id.pool.0)].record(id.index)
    }

    /// Whether the tunnels of any route or server have to go.
    pub fn is_choosy(&self) -> bool {
        !self.unwanted.routes.is_empty() || !self.unwanted.servers.is_empty()
    }

    /// What this setup, the present one, does to a tunnel that was opened with another (or with this one), through that
    /// listener's route and to that backend.
    pub fn fate(&self, of: &Setup, listener: u16, route: u16, backend: Option<BackendId>) -> Option<Fate> {
        let mark = of.routes.get(usize::from(listener)).and_then(|routes| routes.get(usize::from(route)));
        let by_route = mark.and_then(|mark| self.unwanted.routes.get(&mark.0));
        let by_server = backend.and_then(|id| self.unwanted.servers.get(&of.record(id).id));
        by_route.max(by_server).copied()
    }

    /// Whether all that is configured is as in a plan, whose listeners have the addresses that they are bound to.
    pub fn is_as(&self, plan: &Plan, keys: &[ListenerKey]) -> bool {
        self.keys == keys && self.plan == *plan
    }

    /// The setup of a plan that is the first one.
    #[cfg(test)]
    pub fn of(plan: Plan) -> Setup {
        let keys = identity::listeners(&plan);
        Registry::default().set_up(plan, keys, Moment::START)
    }
}

/// What is known of routes and servers, of the present plan and of those that somebody still uses.
#[derive(Debug, Default)]
pub struct Registry {
    routes: HashMap<RouteKey, Route>,
    servers: HashMap<ServerKey, Server>,
    episodes: HashMap<String, Weak<Episode>>,
    next_id: u32,
}

#[derive(Debug)]
struct Route {
    mark: Weak<Mark>,
    /// What becomes of its tunnels.
    fate: Option<Fate>,
    /// What would, if it were removed.
    on_removed: OnRemoved,
    is_present: bool,
}

#[derive(Debug)]
struct Server {
    record: Weak<Record>,
    fate: Option<Fate>,
    on_removed: OnRemoved,
    /// Its weight, where the present plan has it as one to which sessions go.
    weight: Option<u32>,
    is_present: bool,
}

impl Registry {
    /// The setup of a plan that follows all those before it. Its listeners have the addresses that they are bound to,
    /// and `keys` are theirs by those that are configured.
    pub fn set_up(&mut self, plan: Plan, keys: Vec<ListenerKey>, now: Moment) -> Setup {
        self.routes.values_mut().for_each(|route| route.is_present = false);
        self.servers.values_mut().for_each(|server| server.is_present = false);
        let routes =
            plan.listeners.iter().zip(&keys).map(|(listener, key)| self.routes_of(listener, key)).collect();
        let members: Vec<Members> = plan.pools.iter().map(|pool| self.members_of(pool, now)).collect();
        let unwanted = self.judge(&plan);
        let listener_names = plan.listeners.iter().map(|listener| listener.address.to_string()).collect();
        Setup { plan, keys, listener_names, members, routes, unwanted }
    }

    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    fn routes_of(&mut self, listener: &Listener, key: &ListenerKey) -> Vec<Arc<Mark>> {
        let terms = |index: usize| match &listener.mode {
            Mode::Http { routes } => (routes[index].drain, routes[index].on_removed),
            Mode::Tcp { .. } => (false, listener.on_removed),
        };
        let mut marks = Vec::new();
        for (index, key) in identity::routes(listener, key).into_iter().enumerate() {
            let (drain, on_removed) = terms(index);
            let known = self.routes.get(&key).and_then(|route| route.mark.upgrade());
            let mark = known.unwrap_or_else(|| Arc::new(Mark(self.id())));
            let fate = (drain || listener.drain).then_some(Fate::Drained);
            let route = Route { mark: Arc::downgrade(&mark), fate, on_removed, is_present: true };
            self.routes.insert(key, route);
            marks.push(mark);
        }
        marks
    }

    fn members_of(&mut self, pool: &Pool, now: Moment) -> Members {
        let mut records = Vec::with_capacity(pool.backends.len());
        let mut is_changed = false;
        for (backend, key) in pool.backends.iter().zip(identity::servers(pool)) {
            let known = self.servers.get(&key);
            let weight = (!backend.drain && !backend.backup).then_some(backend.weight);
            is_changed |= weight.is_some() && known.is_none_or(|known| known.weight != weight);
            let record = known.and_then(|server| server.record.upgrade());
            let record = record.unwrap_or_else(|| Arc::new(Record::new(self.id())));
            let server = Server {
                record: Arc::downgrade(&record),
                fate: backend.drain.then_some(Fate::Drained),
                on_removed: pool.on_removed,
                weight,
                is_present: true,
            };
            self.servers.insert(key, server);
            records.push(record);
        }
        let episode = self.episodes.get(&pool.name).and_then(Weak::upgrade).unwrap_or_default();
        self.episodes.insert(pool.name.clone(), Arc::downgrade(&episode));
        let members = Members::new(pool, records, episode);
        if let Some(rules) = pool.rebalance.as_ref().filter(|_| is_changed) {
            members.episode.begin(&members.standings(pool), rules, now);
        }
        members
    }

    /// What becomes of tunnels; forgets what nobody uses any more.
    fn judge(&mut self, plan: &Plan) -> Unwanted {
        let pools: HashMap<&str, &Pool> = plan.pools.iter().map(|pool| (pool.name.as_str(), pool)).collect();
        let mut unwanted = Unwanted::default();
        self.routes.retain(|_, route| {
            if !route.is_present {
                route.fate = route.on_removed.into();
            }
            let mark = route.mark.upgrade();
            unwanted.routes.extend(mark.as_ref().and_then(|mark| Some((mark.0, route.fate?))));
            mark.is_some()
        });
        self.servers.retain(|key, server| {
            if !server.is_present {
                // The upstream is still there to be asked, if only the server has gone.
                if let Some(pool) = pools.get(key.upstream.as_str()) {
                    server.on_removed = pool.on_removed;
                }
                (server.fate, server.weight) = (server.on_removed.into(), None);
            }
            let record = server.record.upgrade();
            unwanted.servers.extend(record.as_ref().and_then(|record| Some((record.id, server.fate?))));
            record.is_some()
        });
        self.episodes.retain(|_, episode| episode.strong_count() > 0);
        unwanted
    }
}
