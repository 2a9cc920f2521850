//! What operators let drain: it goes on over reloads, whatever the file says, until an operator says otherwise.

use super::ask::Target;
use crate::identity::{self, ListenerKey};
use crate::plan::{Mode, Plan};
use crate::setup::Setup;

/// What operators let drain.
#[derive(Clone, Debug, Default)]
pub struct Drains(Vec<Drained>);

#[derive(Clone, Debug)]
struct Drained {
    spot: Spot,
    /// Whether the file says the same.
    by_file: bool,
}

/// What drains, by what it is known by from one configuration to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    /// A server: its upstream's name and its own.
    Server(String, String),
    /// A listener.
    Listener(ListenerKey),
    /// A route, by its listener and its name.
    Route(ListenerKey, String),
}

impl Spot {
    /// What a target means in a configuration, by the names that it has there.
    pub fn find(target: &Target, setup: &Setup) -> Option<Spot> {
        let key = |name: &String| {
            let place = setup.listener_names.iter().position(|listener| listener == name)?;
            Some(setup.keys[place].clone())
        };
        let spot = match target {
            Target::Server { upstream, server } => Spot::Server(upstream.clone(), server.clone()),
            Target::Listener(listener) => Spot::Listener(key(listener)?),
            Target::Route { listener, route } => Spot::Route(key(listener)?, route.clone()),
            Target::All => return None,
        };
        let mut plan = setup.configured();
        (spot.each_flag(&mut plan, |_| ()) > 0).then_some(spot)
    }

    /// Calls back with each flag `drain` of a plan, as it is configured, that this is about. Says how many there are.
    pub fn each_flag(&self, plan: &mut Plan, mut with: impl FnMut(&mut bool)) -> usize {
        let mut count = 0;
        let mut with = |flag: &mut bool| {
            count += 1;
            with(flag);
        };
        match self {
            Spot::Server(upstream, server) => {
                for pool in plan.pools.iter_mut().filter(|pool| pool.name == *upstream) {
                    let backends = pool.backends.iter_mut().filter(|backend| backend.name == *server);
                    backends.for_each(|backend| with(&mut backend.drain));
                }
            }
            Spot::Listener(key) => {
                let place = identity::listeners(plan).iter().position(|other| other == key);
                if let Some(place) = place {
                    with(&mut plan.listeners[place].drain);
                }
            }
            Spot::Route(key, name) => {
                let place = identity::listeners(plan).iter().position(|other| other == key);
                let Some(listener) = place.map(|place| &mut plan.listeners[place]) else { return 0 };
                let keys = identity::routes(listener, key);
                if let Mode::Http { routes } = &mut listener.mode {
                    let named = routes.iter_mut().zip(keys).filter(|(_, key)| key.name() == *name);
                    named.for_each(|(route, _)| with(&mut route.drain));
                }
            }
        }
        count
    }
}

impl Drains {
    /// Whether an operator lets this drain.
    pub fn has(&self, spot: &Spot) -> bool {
        self.0.iter().any(|drained| drained.spot == *spot)
    }

    /// Whether the file lets this drain, of what operators do.
    pub fn is_by_file(&self, spot: &Spot) -> bool {
        self.0.iter().any(|drained| drained.spot == *spot && drained.by_file)
    }

    /// An operator lets this drain from now on.
    pub fn add(&mut self, spot: Spot) {
        if !self.has(&spot) {
            self.0.push(Drained { spot, by_file: false });
        }
    }

    /// No operator lets this drain any more.
    pub fn remove(&mut self, spot: &Spot) {
        self.0.retain(|drained| drained.spot != *spot);
    }

    /// Lets it drain in a plan, as a file says it.
    pub fn apply(&mut self, plan: &mut Plan) {
        for Drained { spot, by_file } in &mut self.0 {
            *by_file = false;
            spot.each_flag(plan, |drain| *by_file |= std::mem::replace(drain, true));
        }
    }

    /// The plan as the file says it, out of one that this was applied to.
    pub fn take_off(&self, plan: &mut Plan) {
        for Drained { spot, by_file } in &self.0 {
            spot.each_flag(plan, |drain| *drain = *by_file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const TEXT: &str = "
        [[listener]]
        listen = \"127.0.0.1:1\"
        upstream = \"u\"
        [[listener.route]]
        host = \"*.a.test\"
        path = \"=/x\"
        upstream = \"u\"
        [[listener]]
        listen = \"127.0.0.1:2\"
        protocol = \"tcp\"
        upstream = \"u\"
        drain = true
        [upstream.u]
        servers = [\"127.0.0.1:3\", { address = \"127.0.0.1:4\", drain = true }]";

    fn plan() -> Plan {
        Config::from_toml(TEXT).unwrap().check().unwrap()
    }

    #[test]
    fn a_target_is_found_by_the_names_of_a_configuration() {
        let setup = Setup::of(plan());
        let listener = |name: &str| Target::Listener(name.into());
        let route = |route: &str| Target::Route { listener: "127.0.0.1:1".into(), route: route.into() };
        let server = |server: &str| Target::Server { upstream: "u".into(), server: server.into() };
        for target in [
            listener("127.0.0.1:1"),
            listener("127.0.0.1:2"),
            route("*"),
            route("*.a.test=/x"),
            server("127.0.0.1:3"),
            server("127.0.0.1:4"),
        ] {
            assert!(Spot::find(&target, &setup).is_some(), "{target}");
        }
        for target in [
            listener("127.0.0.1:3"),
            route("*.a.test"),
            server("127.0.0.1:5"),
            Target::Server { upstream: "v".into(), server: "127.0.0.1:3".into() },
            Target::Route { listener: "127.0.0.1:2".into(), route: "*".into() },
            Target::All,
        ] {
            assert!(Spot::find(&target, &setup).is_none(), "{target}");
        }
    }

    #[test]
    fn what_is_let_drain_is_so_over_files_and_taken_back_leaves_what_they_say() {
        let setup = Setup::of(plan());
        let spot = |server: &str| {
            let target = Target::Server { upstream: "u".into(), server: server.into() };
            Spot::find(&target, &setup).unwrap()
        };
        let mut drains = Drains::default();
        drains.add(spot("127.0.0.1:3"));
        drains.add(spot("127.0.0.1:4"));
        drains.add(Spot::Route(setup.keys[0].clone(), "*".into()));
        drains.add(Spot::Server("u".into(), "gone".into()));
        let mut applied = plan();
        drains.apply(&mut applied);
        assert!(applied.pools[0].backends.iter().all(|backend| backend.drain));
        let Mode::Http { routes } = &applied.listeners[0].mode else { panic!("http") };
        assert_eq!(routes.iter().map(|route| route.drain).collect::<Vec<_>>(), [false, true]);
        assert!(!drains.is_by_file(&spot("127.0.0.1:3")) && drains.is_by_file(&spot("127.0.0.1:4")));
        drains.take_off(&mut applied);
        assert_eq!(applied, plan());
        drains.remove(&spot("127.0.0.1:3"));
        assert!(!drains.has(&spot("127.0.0.1:3")) && drains.has(&spot("127.0.0.1:4")));
    }
}
