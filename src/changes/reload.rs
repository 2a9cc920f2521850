//! What becomes of each thing, and of its tunnels, when a plan gives way to another.
//!
//! [`identity`] says what is the same thing in both. A listener's routes come and go one by one, as each says what
//! becomes of its tunnels; an upstream that comes or goes stands for its servers. The route for anything is told with
//! its listener where it is no more than the `upstream` that stands there.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::keys::{self, Key};
use super::{Change, DRAIN, Difference, Kind, ON_REMOVED, Thing, Tunnels, Turned, UPSTREAM, shown, turned};
use crate::identity::{self, ListenerKey, RouteKey, ServerKey};
use crate::plan::{
    Backend, Drain, HostRule, Listener, Mode, OnRemoved, Order, PathRule, Plan, Pool, PoolId, Rebalance,
    Route,
};

/// What a reload changes: listeners with their routes, upstreams with their servers, and what is the whole process's.
pub(super) fn changes(old: &Plan, new: &Plan) -> Vec<Change> {
    let upstreams = new.pools.iter().map(|pool| pool.name.as_str()).collect();
    let reload = Reload { old, new, upstreams };
    let mut changes = Vec::new();
    reload.listeners(&mut changes);
    reload.upstreams(&mut changes);
    reload.tables(&mut changes);
    changes
}

/// Both plans, and what is asked of them more than once.
struct Reload<'a> {
    old: &'a Plan,
    new: &'a Plan,
    /// The names of the new plan's.
    upstreams: HashSet<&'a str>,
}

impl Reload<'_> {
    fn listeners(&self, changes: &mut Vec<Change>) {
        fn keyed(plan: &Plan) -> Vec<(ListenerKey, &Listener)> {
            identity::listeners(plan).into_iter().zip(&plan.listeners).collect()
        }
        for (key, pair) in pairs(keyed(self.old), keyed(self.new)) {
            self.listener_and_routes(&key, pair, changes);
        }
    }

    fn listener_and_routes(&self, key: &ListenerKey, pair: Pair<&Listener>, changes: &mut Vec<Change>) {
        let keyed = |listener: Option<&Listener>| {
            let of = |listener| identity::routes(listener, key).into_iter().zip(routes(listener)).collect();
            listener.map_or_else(Vec::new, of)
        };
        let routes = pairs(keyed(pair.before()), keyed(pair.after()));
        let is_own = |listener: Option<&Listener>, route: Option<&Route>| match (listener, route) {
            (Some(listener), Some(route)) => *route == own_route(listener, route.pool),
            (Some(_) | None, None) | (None, Some(_)) => true,
        };
        let anything = routes.iter().find(|(key, _)| is_for_anything(key)).map(|(_, pair)| pair.as_ref());
        let own = anything
            .filter(|route| is_own(pair.before(), route.before()) && is_own(pair.after(), route.after()));
        let name = match key.nth {
            0 => key.address.to_string(),
            nth => format!("{} ({})", key.address, nth + 1),
        };
        let drains = pair.after().is_some_and(|listener| listener.drain);
        let is_told_here = |key: &RouteKey| own.is_some() && is_for_anything(key);
        let upstream = |route: &Route| pool(self.old, route.pool).name.clone();
        if let Some(mut change) = self.listener(&name, pair, own) {
            let of_it = routes.iter().filter(|(key, _)| drains || is_told_here(key));
            change.to = of_it.filter_map(|(_, route)| route.as_ref().before().map(upstream)).collect();
            changes.push(change);
        }
        for (key, route) in routes.iter().filter(|(key, _)| !is_told_here(key)) {
            if let Some(mut change) = self.route(&name, key, route.as_ref(), pair) {
                change.to.extend(route.as_ref().before().map(upstream));
                changes.push(change);
            }
        }
    }

    /// A listener, with the route for anything where that is its own `upstream`.
    fn listener(&self, name: &str, pair: Pair<&Listener>, own: Option<Pair<&Route>>) -> Option<Change> {
        let thing = Thing::Listener { listener: name.to_owned() };
        let (own_old, own_new) = (own.and_then(Pair::before), own.and_then(Pair::after));
        match pair {
            Pair::Added(new) => {
                let mut change = Change::new(thing, Kind::Added);
                if new.drain {
                    change.say("it is not listened on (drain = true)");
                }
                Some(change)
            }
            Pair::Removed(old) => {
                let mut change = Change::new(thing, Kind::Removed);
                if !old.drain {
                    change.say("clients that wait in its backlog are accepted before it closes");
                }
                if let Some(route) = own_old {
                    self.doom(&mut change, "tunnels of its own upstream", &self.when_removed(route, pair));
                }
                Some(change)
            }
            Pair::Stays { old, new } => {
                let upstream = |plan, route: &Route| pool(plan, route.pool).name.clone();
                let keys = differences(
                    keys::listener(old, own_old.map(|route| upstream(self.old, route))),
                    keys::listener(new, own_new.map(|route| upstream(self.new, route))),
                );
                let mut change = self.changed(thing, keys, new.drain, &LISTENER)?;
                match (own_old, own_new) {
                    (Some(old), None) => {
                        let fate = self.when_removed(old, pair);
                        self.doom(&mut change, "tunnels of its own upstream", &fate);
                    }
                    (Some(old), Some(_)) => self.redirected(&mut change, old, new.drain),
                    (None, Some(_) | None) => {}
                }
                Some(change)
            }
        }
    }

    fn route(
        &self,
        listener: &str,
        key: &RouteKey,
        pair: Pair<&Route>,
        on: Pair<&Listener>,
    ) -> Option<Change> {
        let host = match &key.host {
            HostRule::Any => None,
            HostRule::Exact(name) => Some(name.clone()),
            HostRule::Suffix(suffix) => Some(format!("*{suffix}")),
        };
        let path = match &key.path {
            PathRule::Any => None,
            PathRule::Prefix(prefix) => Some(prefix.clone()),
            PathRule::Exact(path) => Some(format!("={path}")),
        };
        let thing = Thing::Route { listener: listener.to_owned(), host, path };
        match pair {
            Pair::Added(new) => {
                let mut change = Change::new(thing, Kind::Added);
                if new.drain {
                    change.say("what is new is answered 503 (drain = true)");
                }
                Some(change)
            }
            Pair::Removed(old) => {
                let mut change = Change::new(thing, Kind::Removed);
                self.doom(&mut change, "its tunnels", &self.when_removed(old, on));
                Some(change)
            }
            Pair::Stays { old, new } => {
                let keys = differences(keys::route(old, self.old), keys::route(new, self.new));
                let mut change = self.changed(thing, keys, new.drain, &ROUTE)?;
                self.redirected(&mut change, old, new.drain);
                Some(change)
            }
        }
    }

    fn upstreams(&self, changes: &mut Vec<Change>) {
        fn keyed(plan: &Plan) -> Vec<(&str, &Pool)> {
            plan.pools.iter().map(|pool| (pool.name.as_str(), pool)).collect()
        }
        for (name, pair) in pairs(keyed(self.old), keyed(self.new)) {
            let thing = Thing::Upstream { upstream: name.to_owned() };
            match pair {
                Pair::Added(_) => changes.push(Change::new(thing, Kind::Added)),
                Pair::Removed(old) => {
                    let mut change = Change::new(thing, Kind::Removed);
                    self.doom(&mut change, "its tunnels", &Fate::of(old.on_removed));
                    if old.on_removed == OnRemoved::Keep && old.backends.iter().any(|backend| backend.drain) {
                        change.rule(Tunnels::Drain, "those of servers that were draining still are");
                    }
                    changes.push(change);
                }
                Pair::Stays { old, new } => {
                    let keys = differences(keys::upstream(old), keys::upstream(new));
                    changes.extend(upstream(thing, keys));
                    self.servers(old, new, changes);
                }
            }
        }
    }

    /// The servers of an upstream that stays.
    fn servers(&self, old: &Pool, new: &Pool, changes: &mut Vec<Change>) {
        fn keyed(pool: &Pool) -> Vec<(ServerKey, &Backend)> {
            identity::servers(pool).into_iter().zip(&pool.backends).collect()
        }
        for (key, pair) in pairs(keyed(old), keyed(new)) {
            changes.extend(self.server(&key, pair, new));
        }
    }

    fn server(&self, key: &ServerKey, pair: Pair<&Backend>, upstream: &Pool) -> Option<Change> {
        // Under the name that the log has it by, and the address that makes it this one.
        let address = key.address.to_string();
        let name = |backend: &Backend| match backend.name.contains(&address) {
            true => backend.name.clone(),
            false => format!("{} ({address})", backend.name),
        };
        let thing = |backend| Thing::Server { upstream: key.upstream.clone(), server: name(backend) };
        match pair {
            Pair::Added(new) => {
                let mut change = Change::new(thing(new), Kind::Added);
                if new.drain {
                    change.say("takes nothing (drain = true)");
                } else if let Some(rebalance) = &upstream.rebalance {
                    change.rule(Tunnels::Rebalance, surplus(rebalance));
                }
                Some(change)
            }
            Pair::Removed(old) => {
                let mut change = Change::new(thing(old), Kind::Removed);
                let fate = Fate::of(upstream.on_removed).or(old.drain.then(|| Fate::drain(DRAINED)));
                self.doom(&mut change, "its tunnels", &fate);
                Some(change)
            }
            Pair::Stays { old, new } => {
                let keys = differences(keys::server(old), keys::server(new));
                let shares_change = !new.drain && (old.drain || old.weight != new.weight);
                let Some(rebalance) = upstream.rebalance.as_ref().filter(|_| shares_change) else {
                    return self.changed(thing(new), keys, new.drain, &SERVER);
                };
                let words = Words { changed: "new tunnels go by it", ..SERVER };
                let mut change = self.changed(thing(new), keys, new.drain, &words)?;
                change.rule(Tunnels::Rebalance, surplus(rebalance));
                Some(change)
            }
        }
    }

    fn tables(&self, changes: &mut Vec<Change>) {
        let Plan { listeners: _, pools: _, limits, tcp, log, drain, workers, admin, run_as, source: _ } =
            self.old;
        let new = self.new;
        let mut table = |thing, old, new, effect: &str| {
            let keys = differences(old, new);
            if !keys.is_empty() {
                let mut change = Change { keys, ..Change::new(thing, Kind::Changed) };
                change.say(effect);
                changes.push(change);
            }
        };
        let (old_workers, new_workers) = (keys::workers(*workers), keys::workers(new.workers));
        table(Thing::Workers, old_workers, new_workers, "takes effect at the next start");
        let (old_run_as, new_run_as) = (keys::run_as(run_as), keys::run_as(&new.run_as));
        table(Thing::RunAs, old_run_as, new_run_as, "takes effect at the next start");
        let (old_admin, new_admin) = (keys::admin(admin.as_ref()), keys::admin(new.admin.as_ref()));
        table(
            Thing::Admin,
            old_admin,
            new_admin,
            "at once; admin connections to an address that goes are closed",
        );
        table(Thing::Log, keys::log(log), keys::log(&new.log), "at once, for all lines");
        let closed = "at once, for what is to be closed from then on";
        table(Thing::Drain, keys::drain(drain), keys::drain(&new.drain), closed);
        let limited = "counts for what is new; sessions that are open go on";
        table(Thing::Limits, keys::limits(limits), keys::limits(&new.limits), limited);
        let sockets =
            "listening sockets that stay have it at once; connections that are open keep what they have";
        table(Thing::Tcp, keys::tcp(tcp), keys::tcp(&new.tcp), sockets);
    }

    /// What is changed about a thing that may drain, if anything is.
    fn changed(&self, thing: Thing, keys: Vec<Difference>, drains: bool, words: &Words) -> Option<Change> {
        if keys.is_empty() {
            return None;
        }
        let mut change = Change { keys, ..Change::new(thing, Kind::Changed) };
        match turned(&change.keys) {
            Some(Turned::On) => change.rule(Tunnels::Drain, format!("{} {}", words.drains, self.paced())),
            Some(Turned::Off) => change.rule(Tunnels::Keep, words.returns),
            None if drains => change.rule(Tunnels::Drain, "still takes nothing new; its tunnels are drained"),
            None => change.tunnels = Some(Tunnels::Keep),
        }
        let is_of_sessions = |key: &Difference| !matches!(key.key, DRAIN | ON_REMOVED | UPSTREAM);
        if !drains && change.keys.iter().any(is_of_sessions) {
            change.say(words.changed);
        }
        if change.has(ON_REMOVED) {
            change.say("on_removed is for a later reload to heed; this one goes by the old");
        }
        Some(change)
    }

    /// What becomes of a route's tunnels where new ones go to another upstream.
    fn redirected(&self, change: &mut Change, old: &Route, drains: bool) {
        match self.when_gone(pool(self.old, old.pool)) {
            _ if !change.has(UPSTREAM) => {}
            Some(fate) => self.doom(change, "tunnels to the old upstream", &fate),
            None if drains => {}
            None => {
                change.say("new tunnels go to the new upstream; those that are open go on where they are")
            }
        }
    }

    /// What becomes of the tunnels of a route that is removed, perhaps from a listener that stays.
    fn when_removed(&self, route: &Route, listener: Pair<&Listener>) -> Fate {
        let drains = |listener: Option<&Listener>| listener.is_some_and(|listener| listener.drain);
        let drained = route.drain || drains(listener.before());
        Fate::of(route.on_removed)
            .or(drains(listener.after()).then(|| Fate::drain("drain = true of its listener")))
            .or(drained.then(|| Fate::drain(DRAINED)))
            .or(self.when_gone(pool(self.old, route.pool)))
    }

    /// What becomes of the tunnels of an upstream, if it is removed.
    fn when_gone(&self, upstream: &Pool) -> Option<Fate> {
        let Fate { rule, because } = Fate::of(upstream.on_removed);
        let because = format!("{because} of upstream {}", shown(&upstream.name));
        (!self.upstreams.contains(upstream.name.as_str())).then_some(Fate { rule, because })
    }

    fn doom(&self, change: &mut Change, whose: &str, fate: &Fate) {
        let end = match fate.rule {
            OnRemoved::Keep => "go on".to_owned(),
            OnRemoved::Drain => self.paced(),
            OnRemoved::Close => "are closed at once".to_owned(),
        };
        change.rule(fate.rule.into(), format!("{whose} {end} ({})", fate.because));
    }

    /// How tunnels end that are drained.
    fn paced(&self) -> String {
        let Drain { rate, order, timeout, delay: _ } = &self.new.drain;
        let first = match order {
            Order::Oldest => "the oldest first",
            Order::Quietest => "the quietest first",
        };
        let timeout = timeout.map(humantime::format_duration);
        match (rate, timeout) {
            (0, None) => "go on for as long as they like".to_owned(),
            (0, Some(timeout)) => format!("go on for {timeout}, then they are closed"),
            (rate, None) => format!("are closed at {rate} a second, {first}"),
            (rate, Some(timeout)) => {
                format!("are closed at {rate} a second, {first}, and what is left after {timeout}")
            }
        }
    }
}

/// An upstream that stays, if anything is changed about it.
fn upstream(thing: Thing, keys: Vec<Difference>) -> Option<Change> {
    if keys.is_empty() {
        return None;
    }
    let mut change = Change { keys, ..Change::new(thing, Kind::Changed) };
    change.tunnels = Some(Tunnels::Keep);
    let is_of_rebalance = |key: &Difference| key.key.starts_with("rebalance.");
    if change.keys.iter().any(|key| key.key != ON_REMOVED && !is_of_rebalance(key)) {
        change.say(SERVER.changed);
    }
    if change.has(ON_REMOVED) {
        change.say("on_removed is heeded at once, for servers that this reload removes");
    }
    if change.keys.iter().any(is_of_rebalance) {
        change.say("rebalance is heeded at once, where servers are added, come back or change their weight");
    }
    Some(change)
}

/// How servers that have more tunnels than their share get rid of them.
fn surplus(Rebalance { within, rate }: &Rebalance) -> String {
    let within = keys::percent(*within);
    format!(
        "surplus tunnels are closed at {rate} a second, the quietest first, until each server is \
         within {within} of its share"
    )
}

/// A thing of two plans.
#[derive(Clone, Copy)]
enum Pair<T> {
    Added(T),
    Removed(T),
    Stays { old: T, new: T },
}

impl<T> Pair<T> {
    fn as_ref(&self) -> Pair<&T> {
        match self {
            Pair::Added(new) => Pair::Added(new),
            Pair::Removed(old) => Pair::Removed(old),
            Pair::Stays { old, new } => Pair::Stays { old, new },
        }
    }

    fn before(self) -> Option<T> {
        match self {
            Pair::Added(_) => None,
            Pair::Removed(old) | Pair::Stays { old, .. } => Some(old),
        }
    }

    fn after(self) -> Option<T> {
        match self {
            Pair::Removed(_) => None,
            Pair::Added(new) | Pair::Stays { new, .. } => Some(new),
        }
    }
}

/// The things of both plans: those of the new one in its order, then those that are gone in the old one's. Of two with
/// one key, which only routes for anything can have, the first is the one that requests find.
fn pairs<K: Clone + Eq + Hash, T>(old: Vec<(K, T)>, new: Vec<(K, T)>) -> Vec<(K, Pair<T>)> {
    let order: Vec<K> = old.iter().map(|(key, _)| key.clone()).collect();
    let mut left = HashMap::new();
    for (key, thing) in old {
        left.entry(key).or_insert(thing);
    }
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    for (key, new) in new {
        if seen.insert(key.clone()) {
            let pair = match left.remove(&key) {
                Some(old) => Pair::Stays { old, new },
                None => Pair::Added(new),
            };
            pairs.push((key, pair));
        }
    }
    let gone = |key| left.remove(&key).map(|thing| (key, Pair::Removed(thing)));
    pairs.extend(order.into_iter().filter_map(gone));
    pairs
}

/// What differs between two lists of the same keys.
fn differences(old: Vec<Key>, new: Vec<Key>) -> Vec<Difference> {
    let both = old.into_iter().zip(new).filter(|((_, old), (_, new))| old != new);
    both.map(|((key, old), (_, new))| Difference { key, old, new }).collect()
}

fn pool(plan: &Plan, id: PoolId) -> &Pool {
    &plan.pools[usize::from(id.0)]
}

/// The routes of a listener; a tcp listener has its own `upstream`.
fn routes(listener: &Listener) -> Vec<Route> {
    match &listener.mode {
        Mode::Http { routes } => routes.clone(),
        Mode::Tcp { pool } => vec![own_route(listener, *pool)],
    }
}

/// What a listener's own `upstream` stands for.
fn own_route(listener: &Listener, pool: PoolId) -> Route {
    Route { on_removed: listener.on_removed, ..Route::catch_all(pool) }
}

fn is_for_anything(key: &RouteKey) -> bool {
    key.host == HostRule::Any && key.path == PathRule::Any
}

/// Who drains and is removed goes on to drain: to delete the line is the usual next step.
const DRAINED: &str = "it was draining";

/// What a rule makes of tunnels, and which rule it is.
struct Fate {
    rule: OnRemoved,
    because: String,
}

impl Fate {
    fn of(on_removed: OnRemoved) -> Fate {
        let word = keys::on_removed(on_removed);
        Fate { rule: on_removed, because: format!("on_removed = \"{word}\"") }
    }

    fn drain(because: &str) -> Fate {
        Fate { rule: OnRemoved::Drain, because: because.to_owned() }
    }

    /// The stricter of two.
    fn or(self, other: Option<Fate>) -> Fate {
        match other {
            Some(other) if Tunnels::from(other.rule) > Tunnels::from(self.rule) => other,
            Some(_) | None => self,
        }
    }
}

/// What is said of one kind of thing.
struct Words {
    /// It begins to drain; what becomes of its tunnels goes on from here.
    drains: &'static str,
    /// It ceases to.
    returns: &'static str,
    /// Its keys say something else.
    changed: &'static str,
}

const LISTENER: Words = Words {
    drains: "it is not listened on any more; its tunnels",
    returns: "it is listened on again; tunnels that are not closed yet are left in peace",
    changed: "new tunnels have it; those that are open keep what they were opened with",
};

const ROUTE: Words = Words {
    drains: "what is new is answered 503; its tunnels",
    returns: "takes new ones again; tunnels that are not closed yet are left in peace",
    changed: LISTENER.changed,
};

const SERVER: Words = Words {
    drains: "takes nothing new; its tunnels",
    returns: ROUTE.returns,
    changed: "new tunnels go by it; those that are open go on",
};
