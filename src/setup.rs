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

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
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
    /// Counts it among those in use.
    _in_use: Arc<()>,
}

/// What is known of a route.
#[derive(Debug)]
pub struct Mark {
    /// What tells it from all others that there were.
    id: u32,
    /// As operators are told: the host, or `*` for any, with the path rule behind it.
    #[cfg(feature = "admin")]
    pub name: Box<str>,
    /// Its tunnels.
    open: AtomicU32,
}

impl Mark {
    #[cfg(feature = "admin")]
    fn new(id: u32, key: &RouteKey) -> Mark {
        Mark { id, name: key.name().into(), open: AtomicU32::new(0) }
    }

    #[cfg(not(feature = "admin"))]
    fn new(id: u32, _: &RouteKey) -> Mark {
        Mark { id, open: AtomicU32::new(0) }
    }

    /// A tunnel of its has opened.
    pub fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// A tunnel of its has ended.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// Its open tunnels.
    #[cfg(feature = "admin")]
    pub fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }
}

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

    /// What is known of a listener's route.
    pub fn mark(&self, listener: u16, route: u16) -> &Mark {
        &self.routes[usize::from(listener)][usize::from(route)]
    }

    /// What is known of a listener's routes.
    #[cfg(feature = "admin")]
    pub fn marks(&self, listener: usize) -> &[Arc<Mark>] {
        &self.routes[listener]
    }

    /// Whether the tunnels of any route or server have to go.
    pub fn is_choosy(&self) -> bool {
        !self.unwanted.routes.is_empty() || !self.unwanted.servers.is_empty()
    }

    /// What this setup, the present one, does to a tunnel that was opened with another (or with this one), through that
    /// listener's route and to that backend.
    pub fn fate(&self, of: &Setup, listener: u16, route: u16, backend: Option<BackendId>) -> Option<Fate> {
        let mark = of.routes.get(usize::from(listener)).and_then(|routes| routes.get(usize::from(route)));
        let by_route = mark.and_then(|mark| self.unwanted.routes.get(&mark.id));
        let by_server = backend.and_then(|id| self.unwanted.servers.get(&of.record(id).id));
        by_route.max(by_server).copied()
    }

    /// Whether all that is configured is as in a plan, whose listeners have the addresses that they are bound to.
    pub fn is_as(&self, plan: &Plan, keys: &[ListenerKey]) -> bool {
        self.keys == keys && self.plan == *plan
    }

    /// The plan with the addresses that were configured.
    #[cfg(feature = "admin")]
    pub fn configured(&self) -> Plan {
        let mut plan = self.plan.clone();
        for (listener, key) in plan.listeners.iter_mut().zip(&self.keys) {
            listener.address.clone_from(&key.address);
        }
        plan
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
    in_use: Arc<()>,
}

/// Whether the present plan has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    /// The plan before had it.
    Doubtful,
    Gone,
}

impl Presence {
    /// Another plan follows.
    fn doubt(&mut self) {
        if *self == Presence::Here {
            *self = Presence::Doubtful;
        }
    }

    /// Whether it has gone just now: this is when it is decided what becomes of its tunnels.
    fn has_gone(&mut self) -> bool {
        let has_gone = *self == Presence::Doubtful;
        if has_gone {
            *self = Presence::Gone;
        }
        has_gone
    }
}

#[derive(Debug)]
struct Route {
    mark: Weak<Mark>,
    /// What becomes of its tunnels.
    fate: Option<Fate>,
    /// What would, if it were removed.
    on_removed: OnRemoved,
    presence: Presence,
}

#[derive(Debug)]
struct Server {
    record: Weak<Record>,
    fate: Option<Fate>,
    on_removed: OnRemoved,
    /// Its weight, where the present plan has it as one to which sessions go.
    weight: Option<u32>,
    presence: Presence,
}

impl Registry {
    /// The setup of a plan that follows all those before it. Its listeners have the addresses that they are bound to,
    /// and `keys` are theirs by those that are configured.
    pub fn set_up(&mut self, plan: Plan, keys: Vec<ListenerKey>, now: Moment) -> Setup {
        // Those that nobody uses any more go first, so that tables have no need to grow for their followers.
        self.routes.retain(|_, route| route.mark.strong_count() > 0);
        self.servers.retain(|_, server| server.record.strong_count() > 0);
        self.routes.values_mut().for_each(|route| route.presence.doubt());
        self.servers.values_mut().for_each(|server| server.presence.doubt());
        let routes =
            plan.listeners.iter().zip(&keys).map(|(listener, key)| self.routes_of(listener, key)).collect();
        let members: Vec<Members> = plan.pools.iter().map(|pool| self.members_of(pool, now)).collect();
        let unwanted = self.judge(&plan, &keys);
        let listener_names = plan.listeners.iter().map(|listener| listener.address.to_string()).collect();
        let _in_use = Arc::clone(&self.in_use);
        Setup { plan, keys, listener_names, members, routes, unwanted, _in_use }
    }

    /// Setups that somebody has.
    pub fn in_use(&self) -> usize {
        Arc::strong_count(&self.in_use) - 1
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
            let known = self.routes.get(&key);
            let is_second = known.is_some_and(|route| route.presence == Presence::Here);
            let mark = known.and_then(|route| route.mark.upgrade());
            // Of two for anything, one written and the listener's own `upstream`, requests find the first.
            if let (true, Some(mark)) = (is_second, &mark) {
                marks.push(Arc::clone(mark));
                continue;
            }
            let mark = mark.unwrap_or_else(|| Arc::new(Mark::new(self.id(), &key)));
            let fate = (drain || listener.drain).then_some(Fate::Drained);
            let route = Route { mark: Arc::downgrade(&mark), fate, on_removed, presence: Presence::Here };
            self.routes.insert(key, route);
            marks.push(mark);
        }
        marks
    }

    fn members_of(&mut self, pool: &Pool, now: Moment) -> Members {
        let mut records = Vec::with_capacity(pool.backends.len());
        let (mut is_changed, mut is_reweighed) = (false, false);
        for (backend, key) in pool.backends.iter().zip(identity::servers(pool)) {
            let known = self.servers.get(&key);
            let weight = (!backend.drain && !backend.backup).then_some(backend.weight);
            is_changed |= weight.is_some() && known.is_none_or(|known| known.weight != weight);
            let before = known.and_then(|known| known.weight);
            is_reweighed |= before.is_some() && weight.is_some() && before != weight;
            let record = known.and_then(|server| server.record.upgrade());
            let record = record.unwrap_or_else(|| Arc::new(Record::new(self.id())));
            let server = Server {
                record: Arc::downgrade(&record),
                fate: backend.drain.then_some(Fate::Drained),
                on_removed: pool.on_removed,
                weight,
                presence: Presence::Here,
            };
            self.servers.insert(key, server);
            records.push(record);
        }
        if is_reweighed {
            records.iter().for_each(|record| record.settle_account());
        }
        let episode = self.episodes.get(&pool.name).and_then(Weak::upgrade).unwrap_or_default();
        self.episodes.insert(pool.name.clone(), Arc::downgrade(&episode));
        let members = Members::new(pool, records, episode);
        match &pool.rebalance {
            Some(rules) if is_changed => {
                members.episode.begin(&members.standings(pool), rules, now);
            }
            Some(_) => {}
            None => members.episode.end(),
        }
        members
    }

    /// What becomes of tunnels; forgets what nobody uses any more.
    fn judge(&mut self, plan: &Plan, keys: &[ListenerKey]) -> Unwanted {
        let pools: HashMap<&str, &Pool> = plan.pools.iter().map(|pool| (pool.name.as_str(), pool)).collect();
        let draining: HashSet<&ListenerKey> = keys
            .iter()
            .zip(&plan.listeners)
            .filter(|(_, listener)| listener.drain)
            .map(|(key, _)| key)
            .collect();
        let mut unwanted = Unwanted::default();
        self.routes.retain(|key, route| {
            if route.presence.has_gone() {
                // Who drains goes on to: the usual next step is to delete its line.
                route.fate = route.fate.max(route.on_removed.into());
            }
            let mark = route.mark.upgrade();
            let fate = route.fate.max(draining.contains(&key.listener).then_some(Fate::Drained));
            unwanted.routes.extend(mark.as_ref().and_then(|mark| Some((mark.id, fate?))));
            mark.is_some()
        });
        self.servers.retain(|key, server| {
            if server.presence.has_gone() {
                // The upstream is still there to be asked, if only the server has gone.
                if let Some(pool) = pools.get(key.upstream.as_str()) {
                    server.on_removed = pool.on_removed;
                }
                (server.fate, server.weight) = (server.fate.max(server.on_removed.into()), None);
            }
            let record = server.record.upgrade();
            unwanted.servers.extend(record.as_ref().and_then(|record| Some((record.id, server.fate?))));
            record.is_some()
        });
        self.episodes.retain(|_, episode| episode.strong_count() > 0);
        // What has come and gone leaves gaps, for which they grow.
        self.routes.shrink_to_fit();
        self.servers.shrink_to_fit();
        unwanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// The setups of texts that follow each other, which begin with a listener and an upstream `u`.
    struct Series {
        registry: Registry,
        setups: Vec<Setup>,
    }

    impl Series {
        fn new() -> Series {
            Series { registry: Registry::default(), setups: Vec::new() }
        }

        fn next(&mut self, text: &str) -> &mut Series {
            let plan =
                Config::from_toml(text).unwrap().check().unwrap_or_else(|error| panic!("{error}\n{text}"));
            let keys = identity::listeners(&plan);
            self.setups.push(self.registry.set_up(plan, keys, Moment::START));
            self
        }

        /// What the last setup does to a tunnel of the first one's route and backend with these numbers.
        fn fate(&self, route: u16, backend: u16) -> Option<Fate> {
            let id = BackendId { pool: PoolId(0), index: backend };
            self.setups.last().unwrap().fate(&self.setups[0], 0, route, Some(id))
        }
    }

    fn text(routes: &[&str], servers: &str, upstream: &str) -> String {
        let route = |path: &&str| {
            let (path, keys) = path.split_once(' ').unwrap_or((path, ""));
            format!("[[listener.route]]\npath = \"{path}\"\nupstream = \"u\"\n{keys}\n")
        };
        format!(
            "[[listener]]\nlisten = \"127.0.0.1:1\"\n{}\n[upstream.u]\nservers = [{servers}]\n{upstream}\n",
            routes.iter().map(route).collect::<String>()
        )
    }

    const A: &str = "\"127.0.0.1:2\"";
    const B: &str = "\"127.0.0.1:3\"";

    fn both() -> String {
        format!("{A}, {B}")
    }

    #[test]
    fn a_server_that_stays_has_the_record_it_had() {
        let mut series = Series::new();
        series.next(&text(&["/"], &both(), "")).next(&text(&["/x"], &format!("{B}, {A}"), ""));
        let record = |setup: &Setup, index| Arc::clone(&setup.members[0].records()[index]);
        assert!(Arc::ptr_eq(&record(&series.setups[0], 0), &record(&series.setups[1], 1)));
        assert!(Arc::ptr_eq(&record(&series.setups[0], 1), &record(&series.setups[1], 0)));
    }

    #[test]
    fn one_that_comes_back_finds_its_record_for_as_long_as_somebody_has_it() {
        let mut series = Series::new();
        series.next(&text(&["/"], &both(), "")).next(&text(&["/"], A, ""));
        let id = series.setups[0].members[0].record(1).id;
        series.next(&text(&["/"], &both(), ""));
        assert_eq!(series.setups[2].members[0].record(1).id, id);
        series.setups.clear();
        series.next(&text(&["/"], A, "")).next(&text(&["/"], &both(), ""));
        assert_ne!(series.setups[1].members[0].record(1).id, id);
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let mut series = Series::new();
        for round in 0..100 {
            let port = 1000 + round;
            series.setups.clear();
            series.next(&text(&[&format!("/{round}")], &format!("\"127.0.0.1:{port}\""), ""));
        }
        let Registry { routes, servers, episodes, .. } = &series.registry;
        // Those of the last plan, and none of those before it.
        assert_eq!(series.registry.in_use(), 1);
        assert_eq!((routes.len(), servers.len(), episodes.len()), (1, 1, 1));
    }

    #[test]
    fn tables_do_not_grow_with_the_number_of_reloads() {
        let mut series = Series::new();
        for round in 0..60 {
            let routes: Vec<String> = (0..100).map(|route| format!("/{round}/{route}")).collect();
            let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
            series.next(&text(&routes, A, ""));
            // Somebody goes on with the first, and all with the last.
            if series.setups.len() > 2 {
                series.setups.remove(1);
            }
            let (count, room) = (series.registry.routes.len(), series.registry.routes.capacity());
            assert!(count <= 300 && room <= 600, "{count} in {room} after {round}");
        }
    }

    #[test]
    fn fates_are_decided_when_something_goes_by_the_last_that_was_said() {
        for (on_removed, fate) in
            [("keep", None), ("drain", Some(Fate::Removed)), ("close", Some(Fate::Closed))]
        {
            let keys = format!("on_removed = \"{on_removed}\"");
            let (a, b) = (format!("/a {keys}"), "/b");
            let mut series = Series::new();
            series.next(&text(&["/a", b], A, "")).next(&text(&[&a, b], A, ""));
            assert_eq!(series.fate(0, 0), None, "it is still there");
            series.next(&text(&[b], A, ""));
            assert_eq!((series.fate(0, 0), series.fate(1, 0)), (fate, None));
            series.next(&text(&["/c", b], A, ""));
            assert_eq!(series.fate(0, 0), fate, "and so it stays");
            series.next(&text(&["/a", b], A, ""));
            assert_eq!(series.fate(0, 0), None, "it is there again");

            let mut series = Series::new();
            series.next(&text(&["/"], &both(), "")).next(&text(&["/"], A, &keys));
            assert_eq!((series.fate(0, 0), series.fate(0, 1)), (None, fate));
            series.next(&text(&["/"], A, ""));
            assert_eq!(series.fate(0, 1), fate);
        }
    }

    #[test]
    fn an_upstream_that_goes_is_asked_itself_what_becomes_of_its_tunnels() {
        let mut series = Series::new();
        series.next(&text(&["/"], A, "on_removed = \"close\""));
        series.next(&text(&["/"], A, "").replace("upstream.u]", "upstream.v]").replace("\"u\"", "\"v\""));
        assert_eq!(series.fate(0, 0), Some(Fate::Closed));
    }

    #[test]
    fn the_harsher_of_two_fates_holds() {
        let drains = format!("{{ address = {A}, drain = true }}, {B}");
        let mut series = Series::new();
        series.next(&text(&["/a on_removed = \"drain\"", "/b"], &both(), ""));
        series.next(&text(&["/a on_removed = \"drain\"", "/b"], &drains, ""));
        assert_eq!((series.fate(0, 0), series.fate(0, 1)), (Some(Fate::Drained), None));
        series.next(&text(&["/b"], &drains, ""));
        assert_eq!((series.fate(0, 0), series.fate(1, 0)), (Some(Fate::Removed), Some(Fate::Drained)));
        series.next(&text(&["/b"], B, "on_removed = \"close\""));
        assert_eq!((series.fate(0, 0), series.fate(0, 1)), (Some(Fate::Closed), Some(Fate::Removed)));
    }

    #[test]
    fn a_listener_that_drains_or_goes_is_that_of_all_its_routes() {
        let mut series = Series::new();
        let of =
            |keys: &str| text(&["/a"], A, "").replace("127.0.0.1:1\"\n", &format!("127.0.0.1:1\"\n{keys}\n"));
        series.next(&of("")).next(&of("drain = true"));
        assert_eq!(series.fate(0, 0), Some(Fate::Drained));
        series.next(&of(""));
        assert_eq!(series.fate(0, 0), None);
        series.next(&text(&["/a on_removed = \"close\""], A, ""));
        series.next(&text(&["/a"], A, "").replace("127.0.0.1:1\"", "127.0.0.1:9\""));
        assert_eq!(series.fate(0, 0), Some(Fate::Closed));
    }

    #[test]
    fn who_drains_goes_on_to_when_it_is_removed() {
        let drains = format!("{A}, {{ address = {B}, drain = true }}");
        let mut series = Series::new();
        series.next(&text(&["/a drain = true", "/b"], &drains, "")).next(&text(&["/b"], A, ""));
        assert_eq!((series.fate(0, 0), series.fate(1, 1)), (Some(Fate::Drained), Some(Fate::Drained)));
        assert_eq!(series.fate(1, 0), None);
    }

    #[test]
    fn a_route_that_goes_from_a_listener_that_drains_drains_with_the_others() {
        let of = |routes: &[&str], keys: &str| {
            text(routes, A, "").replace("127.0.0.1:1\"\n", &format!("127.0.0.1:1\"\n{keys}\n"))
        };
        let mut series = Series::new();
        series.next(&of(&["/a", "/b"], "")).next(&of(&["/b"], "drain = true"));
        assert_eq!(series.fate(0, 0), Some(Fate::Drained));
        series.next(&of(&["/b"], ""));
        assert_eq!(series.fate(0, 0), None);
    }

    /// Requests find the one that is written; what the other says is nobody's.
    #[test]
    fn of_two_routes_for_anything_the_first_speaks() {
        let of = |keys: &str, own: &str| {
            format!(
                "[[listener]]\nlisten = \"127.0.0.1:1\"\nupstream = \"u\"\n{own}\n\
                 [[listener.route]]\nupstream = \"u\"\n{keys}\n[upstream.u]\nservers = [{A}]\n"
            )
        };
        let mut series = Series::new();
        series.next(&of("", "")).next(&of("drain = true", ""));
        assert_eq!(series.fate(0, 0), Some(Fate::Drained));
        series.next(&of("on_removed = \"close\"", "on_removed = \"keep\""));
        series.next(&text(&["/"], A, ""));
        assert_eq!(series.fate(0, 0), Some(Fate::Closed));
    }

    #[test]
    fn tunnels_are_spread_anew_when_servers_are_added_or_weigh_more() {
        let keys = "rebalance = { within = \"0%\" }";
        let mut series = Series::new();
        let is_on = |series: &Series| series.setups.last().unwrap().members[0].episode.is_on();
        series.next(&text(&["/"], A, keys));
        (0..10).for_each(|_| assert!(series.setups[0].members[0].record(0).open(0)));
        series.next(&text(&["/x"], A, keys));
        assert!(!is_on(&series));
        series.next(&text(&["/x"], &both(), ""));
        assert!(!is_on(&series), "it was not asked for");
        series.next(&text(&["/x"], &both(), keys));
        assert!(!is_on(&series), "there was no reason when it was");
        series.next(&text(&["/x"], &format!("{A}, {{ address = {B}, weight = 3 }}"), keys));
        assert!(is_on(&series));
    }

    #[test]
    fn a_server_that_goes_or_drains_is_no_reason_and_one_that_comes_back_is() {
        let keys = "rebalance = { within = \"0%\" }";
        let c = "\"127.0.0.1:4\"";
        let drains = format!("{A}, {B}, {{ address = {c}, drain = true }}");
        let all = format!("{A}, {B}, {c}");
        for (gone, are_back) in [(drains, &all), (both(), &all)] {
            let mut series = Series::new();
            series.next(&text(&["/"], &all, keys));
            // One has too many all the time, which is nobody's fault.
            (0..10).for_each(|_| assert!(series.setups[0].members[0].record(0).open(0)));
            series.next(&text(&["/"], &gone, keys));
            assert!(!series.setups[1].members[0].episode.is_on());
            series.next(&text(&["/"], are_back, keys));
            assert!(series.setups[2].members[0].episode.is_on());
        }
    }

    /// Which of the last setup's servers are chosen, so many times.
    fn choices(series: &Series, count: usize) -> Vec<u16> {
        let setup = series.setups.last().unwrap();
        let (rules, members) = setup.pool(PoolId(0));
        let (mut balancer, mut dice) = (crate::balance::Balancer::default(), fastrand::Rng::with_seed(0));
        let tried = crate::balance::Tried::default();
        let mut choose = || balancer.choose(rules, members, None, &tried, Moment::START, &mut dice).unwrap();
        (0..count).map(|_| choose()).collect()
    }

    /// The one that waited longest for its turn would be owed all of it, in one go.
    #[test]
    fn no_server_gets_a_burst_when_weights_change() {
        let mut series = Series::new();
        series.next(&text(&["/"], &format!("{{ address = {A}, weight = 200 }}, {B}"), ""));
        assert_eq!(choices(&series, 99), [0; 99]);
        series.next(&text(&["/"], &both(), ""));
        let of_b = choices(&series, 20).into_iter().filter(|&index| index == 1).count();
        assert!((9..=11).contains(&of_b), "{of_b} of 20");
    }

    #[test]
    fn tunnels_are_spread_no_more_where_a_file_no_longer_says_so() {
        let keys = "rebalance = { within = \"0%\" }";
        let mut series = Series::new();
        series.next(&text(&["/"], A, keys));
        (0..10).for_each(|_| assert!(series.setups[0].members[0].record(0).open(0)));
        series.next(&text(&["/"], &both(), keys));
        assert!(series.setups[1].members[0].episode.is_on());
        series.next(&text(&["/"], &both(), ""));
        assert_eq!(choices(&series, 4), [0, 1, 0, 1], "round robin again");
    }

    #[test]
    fn a_server_that_is_out_is_in_where_failures_count_no_longer() {
        let mut series = Series::new();
        series.next(&text(&["/"], &both(), "fail_timeout = \"1h\""));
        let (rules, members) = series.setups[0].pool(PoolId(0));
        assert!(members.record(0).failed(rules, Moment::START));
        series.next(&text(&["/"], &both(), "fail_timeout = \"1h\"\nmax_fails = 0"));
        assert_eq!(choices(&series, 4), [0, 1, 0, 1]);
    }
}
