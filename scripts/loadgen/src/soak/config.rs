//! What adit is told in the course of a run: which routes, listeners and servers there are, which of them drain, and
//! what is to become of tunnels whose place is taken away. And what that permits: who must be let in, who must not, and
//! whose tunnel may be closed. Pure: dice in, a configuration out; text for the file.
//!
//! Some places are always there with a server that never dies, and nothing that happens to them may cost a tunnel;
//! others come and go. Where the order of two things that happen at once could matter, a tunnel may be closed.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use fastrand::Rng;

/// The servers: the first few never die.
pub const SERVERS: usize = 6;
pub const IMMORTALS: usize = 3;

/// How long tunnels that have to go may take, and how many a second go. At stop as well.
pub const DRAIN_SECONDS: u64 = 3;
pub const DRAIN_RATE: u32 = 200;

/// Where a client may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A route that is always there.
    Steady,
    /// The same to a tcp listener.
    Raw,
    /// A route that is taken away now and then, and its tunnels stay.
    Kept,
    /// A route that is always there, to servers some of which die, drain and go.
    Broad,
    /// A route all of whose servers die.
    Mortal,
    /// A route that comes and goes, and its upstream with it.
    Passing,
    /// A listener that does.
    Side,
}

pub const PLACES: [Place; 7] =
    [Place::Steady, Place::Raw, Place::Kept, Place::Broad, Place::Mortal, Place::Passing, Place::Side];

/// Those whose tunnels nothing may end but their clients.
pub const KEPT_PLACES: [Place; 3] = [Place::Steady, Place::Raw, Place::Kept];

impl Place {
    /// The host that its route is for; listeners look at none.
    pub fn host(self) -> &'static str {
        match self {
            Place::Steady => "steady.test",
            Place::Raw => "raw.test",
            Place::Kept => "kept.test",
            Place::Broad => "broad.test",
            Place::Mortal => "mortal.test",
            Place::Passing => "passing.test",
            Place::Side => "side.test",
        }
    }

    /// The address of its listener. All have port 0, which is known only when they listen, so each has an address of
    /// its own to be known by.
    pub fn ip(self) -> Ipv4Addr {
        match self {
            Place::Raw => Ipv4Addr::new(127, 0, 0, 2),
            Place::Side => Ipv4Addr::new(127, 0, 0, 3),
            Place::Steady | Place::Kept | Place::Broad | Place::Mortal | Place::Passing => {
                Ipv4Addr::LOCALHOST
            }
        }
    }

    /// The upstream that it leads to.
    pub fn pool(self) -> Pool {
        match self {
            Place::Steady | Place::Raw | Place::Kept => Pool::Steady,
            Place::Broad | Place::Side => Pool::Broad,
            Place::Mortal => Pool::Mortal,
            Place::Passing => Pool::Passing,
        }
    }

    /// Whether this server may ever be behind it.
    pub fn may_reach(self, server: usize) -> bool {
        self.pool().candidates().contains(&server)
    }
}

/// An upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    Steady,
    Broad,
    Mortal,
    Passing,
}

pub const POOLS: [Pool; 4] = [Pool::Steady, Pool::Broad, Pool::Mortal, Pool::Passing];

impl Pool {
    pub fn name(self) -> &'static str {
        match self {
            Pool::Steady => "steady",
            Pool::Broad => "broad",
            Pool::Mortal => "mortal",
            Pool::Passing => "passing",
        }
    }

    /// The servers that it may have. The first one stays and never drains.
    fn candidates(self) -> &'static [usize] {
        match self {
            Pool::Steady => &[0, 1],
            Pool::Broad => &[2, 3, 4],
            Pool::Mortal => &[4, 5],
            Pool::Passing => &[2, 5],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnRemoved {
    Keep,
    Drain,
    Close,
}

impl OnRemoved {
    fn any(rng: &mut Rng) -> OnRemoved {
        [OnRemoved::Keep, OnRemoved::Drain, OnRemoved::Close][rng.usize(..3)]
    }

    fn word(self) -> &'static str {
        match self {
            OnRemoved::Keep => "keep",
            OnRemoved::Drain => "drain",
            OnRemoved::Close => "close",
        }
    }
}

/// A route or a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    drain: bool,
    on_removed: OnRemoved,
}

const PLAIN: Rule = Rule { drain: false, on_removed: OnRemoved::Keep };

/// A server within an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Server {
    index: usize,
    weight: u8,
    drain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Upstream {
    servers: Vec<Server>,
    balance: &'static str,
    on_removed: OnRemoved,
    rebalance: bool,
}

/// One configuration of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// As [`PLACES`].
    rules: [Option<Rule>; PLACES.len()],
    /// As [`POOLS`].
    upstreams: [Upstream; POOLS.len()],
}

/// Who is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Must,
    /// Where all servers may be dead.
    May,
    Never,
}

impl Config {
    /// Everything is there and nothing drains.
    pub fn first() -> Config {
        let upstream = |pool: Pool| Upstream {
            servers: pool
                .candidates()
                .iter()
                .map(|&index| Server { index, weight: 1, drain: false })
                .collect(),
            balance: "round_robin",
            on_removed: OnRemoved::Keep,
            rebalance: false,
        };
        Config { rules: [Some(PLAIN); PLACES.len()], upstreams: POOLS.map(upstream) }
    }

    /// Another one, by dice: much of it is as it was.
    pub fn next(&self, rng: &mut Rng) -> Config {
        let mut next = self.clone();
        for (place, rule) in PLACES.into_iter().zip(&mut next.rules) {
            *rule = match place {
                Place::Steady | Place::Raw | Place::Broad => Some(PLAIN),
                Place::Kept => flip(*rule, 3, rng).map(|_| PLAIN),
                Place::Mortal => flip(*rule, 6, rng).map(|_| any_rule(rng)),
                Place::Passing => flip(*rule, 2, rng).map(|_| any_rule(rng)),
                Place::Side => flip(*rule, 3, rng).map(|_| any_rule(rng)),
            };
        }
        for (pool, upstream) in POOLS.into_iter().zip(&mut next.upstreams) {
            let old = upstream.servers.clone();
            upstream.servers.clear();
            for &index in pool.candidates() {
                let was_there = old.iter().any(|server| server.index == index);
                let is_first = index == pool.candidates()[0];
                if is_first || was_there != (rng.u8(..3) == 0) {
                    let drain = pool != Pool::Steady && !is_first && rng.u8(..4) == 0;
                    upstream.servers.push(Server { index, weight: rng.u8(1..=3), drain });
                }
            }
            if pool != Pool::Steady {
                upstream.balance = ["round_robin", "least_conn", "random_two"][rng.usize(..3)];
                upstream.on_removed = OnRemoved::any(rng);
                upstream.rebalance = rng.u8(..4) == 0;
            }
        }
        next
    }

    fn rule(&self, place: Place) -> Option<Rule> {
        self.rules[place as usize]
    }

    /// An upstream goes with the only route to it.
    fn upstream(&self, pool: Pool) -> Option<&Upstream> {
        let is_there = pool != Pool::Passing || self.rule(Place::Passing).is_some();
        is_there.then_some(&self.upstreams[pool as usize])
    }

    pub fn admits(&self, place: Place) -> Admission {
        match self.rule(place) {
            None | Some(Rule { drain: true, .. }) => Admission::Never,
            Some(Rule { drain: false, .. }) if place == Place::Mortal => Admission::May,
            Some(Rule { drain: false, .. }) => Admission::Must,
        }
    }

    /// Whether something new may go to this server.
    pub fn serves(&self, place: Place, server: usize) -> bool {
        let upstream = self.upstream(place.pool());
        upstream.is_some_and(|all| all.servers.iter().any(|found| found.index == server && !found.drain))
    }

    /// Whether a server drains, where it is one of an upstream's.
    pub fn drains(&self, pool: Pool, server: usize) -> Option<bool> {
        let found = self.upstream(pool)?.servers.iter().find(|found| found.index == server)?;
        Some(found.drain)
    }

    /// Whether its listener is to be there.
    pub fn listens(&self, place: Place) -> bool {
        match place {
            Place::Side => self.admits(place) == Admission::Must,
            Place::Steady | Place::Raw | Place::Kept | Place::Broad | Place::Mortal | Place::Passing => true,
        }
    }

    /// Whether a tunnel may be closed while this is in force. Without a server: one of which that is not known yet.
    pub fn may_close(&self, place: Place, server: Option<usize>) -> bool {
        let of_server = |upstream: &Upstream, index: usize| match upstream
            .servers
            .iter()
            .find(|found| found.index == index)
        {
            Some(found) => found.drain,
            None => upstream.on_removed != OnRemoved::Keep,
        };
        self.rule(place).is_some_and(|rule| rule.drain)
            || self.upstream(place.pool()).is_some_and(|upstream| {
                let mut servers = place.pool().candidates().iter();
                upstream.rebalance
                    || match server {
                        Some(index) => of_server(upstream, index),
                        None => servers.any(|&index| of_server(upstream, index)),
                    }
            })
    }

    /// Whether a tunnel may be closed when this follows `old`. What was said of a place before it is taken away counts,
    /// and so does what is said from now on.
    pub fn may_end(&self, old: &Config, place: Place, server: Option<usize>) -> bool {
        let is_taken = self.rule(place).is_none()
            && old.rule(place).is_some_and(|rule| rule.on_removed != OnRemoved::Keep);
        let (before, now) = (old.upstream(place.pool()), self.upstream(place.pool()));
        let has = |upstream: Option<&Upstream>, index: usize| {
            upstream.is_some_and(|all| all.servers.iter().any(|server| server.index == index))
        };
        let loses = |index: usize| has(before, index) && !has(now, index);
        let loses_it = match server {
            Some(index) => loses(index),
            None => place.pool().candidates().iter().any(|&index| loses(index)),
        };
        let server_is_taken = loses_it && before.is_some_and(|before| before.on_removed != OnRemoved::Keep);
        is_taken || server_is_taken || self.may_close(place, server)
    }

    /// What it says about a place.
    pub fn about(&self, place: Place) -> String {
        format!("{:?}, {:?}", self.rule(place), self.upstream(place.pool()))
    }

    pub fn text(&self, about: &About<'_>) -> String {
        let mut text = format!(
            "workers = {}\n[admin]\nlisten = \"unix:{}\"\n[log]\naccess = \"{}\"\n[timeouts]\n\
             drain = \"{DRAIN_SECONDS}s\"\n[drain]\nrate = {DRAIN_RATE}\n[limits]\nmax_connections = {}\n",
            about.workers,
            about.admin.display(),
            about.access_log.display(),
            about.connections_max,
        );
        // Nothing that is written to a string can fail.
        let _ = writeln!(text, "\n[[listener]]\nlisten = \"{}:0\"", Place::Steady.ip());
        for place in PLACES.into_iter().filter(|place| place.ip() == Place::Steady.ip()) {
            if let Some(rule) = self.rule(place) {
                let (host, pool) = (place.host(), place.pool().name());
                let _ = writeln!(
                    text,
                    "[[listener.route]]\nhost = \"{host}\"\nupstream = \"{pool}\"\n{}",
                    rule.text()
                );
            }
        }
        for (place, protocol) in [(Place::Raw, "tcp"), (Place::Side, "http")] {
            if let Some(rule) = self.rule(place) {
                let (ip, pool) = (place.ip(), place.pool().name());
                let _ = writeln!(
                    text,
                    "[[listener]]\nlisten = \"{ip}:0\"\nprotocol = \"{protocol}\"\nupstream = \"{pool}\"\n{}",
                    rule.text()
                );
            }
        }
        for pool in POOLS {
            if let Some(upstream) = self.upstream(pool) {
                let _ = writeln!(text, "[upstream.{}]\n{}", pool.name(), upstream.text(about.servers));
            }
        }
        text
    }
}

/// What else is in the file.
pub struct About<'a> {
    pub workers: u16,
    /// The socket of the admin listener.
    pub admin: &'a Path,
    pub access_log: &'a Path,
    pub connections_max: usize,
    pub servers: &'a [SocketAddr],
}

impl Rule {
    fn text(self) -> String {
        format!("drain = {}\non_removed = \"{}\"\n", self.drain, self.on_removed.word())
    }
}

impl Upstream {
    fn text(&self, addresses: &[SocketAddr]) -> String {
        let server = |server: &Server| {
            let address = addresses[server.index];
            format!("{{ address = \"{address}\", weight = {}, drain = {} }}", server.weight, server.drain)
        };
        let servers: Vec<String> = self.servers.iter().map(server).collect();
        let rebalance = if self.rebalance { "rebalance = { within = \"20%\", rate = 20 }\n" } else { "" };
        format!(
            "servers = [{}]\nbalance = \"{}\"\non_removed = \"{}\"\nfail_timeout = \"1s\"\n{rebalance}",
            servers.join(", "),
            self.balance,
            self.on_removed.word()
        )
    }
}

/// There or not, the other way round once in so many times.
fn flip(rule: Option<Rule>, once_in: u8, rng: &mut Rng) -> Option<Rule> {
    (rule.is_some() != (rng.u8(..once_in) == 0)).then_some(PLAIN)
}

fn any_rule(rng: &mut Rng) -> Rule {
    Rule { drain: rng.u8(..4) == 0, on_removed: OnRemoved::any(rng) }
}

/// A file that adit must refuse, made of one that it would take.
pub fn spoil(text: &str, taken: SocketAddr, rng: &mut Rng) -> String {
    match rng.u8(..6) {
        0 => String::new(),
        1 => text[..text.len() / 2].to_owned() + "[",
        2 => format!("{text}\n[upstream.one-too-many]\nservers = []\n"),
        3 => text.replace("host = \"steady.test\"", "hots = \"steady.test\""),
        4 => text.replace("upstream = \"steady\"", "upstream = \"stedy\""),
        // One that can be read, and not be done: somebody else listens there.
        _ => format!("{text}\n[[listener]]\nlisten = \"{taken}\"\nupstream = \"steady\"\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: fn(bool, OnRemoved) -> Option<Rule> = |drain, on_removed| Some(Rule { drain, on_removed });

    /// The first configuration with one place's rule exchanged.
    fn with(place: Place, rule: Option<Rule>) -> Config {
        let mut config = Config::first();
        config.rules[place as usize] = rule;
        config
    }

    fn with_servers(pool: Pool, on_removed: OnRemoved, servers: &[(usize, bool)]) -> Config {
        let mut config = Config::first();
        let upstream = &mut config.upstreams[pool as usize];
        upstream.on_removed = on_removed;
        upstream.servers = servers.iter().map(|&(index, drain)| Server { index, weight: 1, drain }).collect();
        config
    }

    #[test]
    fn who_is_let_in() {
        let check =
            |rule, place, expected| assert_eq!(with(place, rule).admits(place), expected, "{place:?}");
        check(RULE(false, OnRemoved::Close), Place::Passing, Admission::Must);
        check(RULE(true, OnRemoved::Keep), Place::Passing, Admission::Never);
        check(None, Place::Passing, Admission::Never);
        check(RULE(false, OnRemoved::Keep), Place::Mortal, Admission::May);
        check(RULE(true, OnRemoved::Keep), Place::Side, Admission::Never);
        assert!(!with(Place::Side, RULE(true, OnRemoved::Keep)).listens(Place::Side));
        assert!(with(Place::Passing, None).listens(Place::Passing), "its listener has other routes");
        let config = with_servers(Pool::Broad, OnRemoved::Keep, &[(2, false), (3, true)]);
        assert_eq!([2, 3, 4].map(|server| config.serves(Place::Broad, server)), [true, false, false]);
        assert!(!with(Place::Passing, None).serves(Place::Passing, 2));
    }

    #[test]
    fn whose_tunnels_may_end_when_a_route_is_taken_away() {
        for place in [Place::Kept, Place::Mortal, Place::Passing, Place::Side] {
            for (on_removed, expected) in
                [(OnRemoved::Keep, false), (OnRemoved::Drain, true), (OnRemoved::Close, true)]
            {
                let (old, new) = (with(place, RULE(false, on_removed)), with(place, None));
                assert_eq!(new.may_end(&old, place, Some(2)), expected, "{place:?} {on_removed:?}");
                assert!(!new.may_end(&old, Place::Steady, Some(0)), "others are not concerned");
            }
            let new = with(place, RULE(true, OnRemoved::Keep));
            assert!(new.may_end(&Config::first(), place, Some(2)), "{place:?} drains");
        }
    }

    #[test]
    fn whose_tunnels_may_end_when_a_server_goes() {
        let both = &[(2, false), (3, false)];
        let check = |old, new: &[(usize, bool)], server, expected| {
            let new = with_servers(Pool::Broad, OnRemoved::Keep, new);
            let old = with_servers(Pool::Broad, old, both);
            assert_eq!(new.may_end(&old, Place::Broad, server), expected, "{new:?} {server:?}");
        };
        check(OnRemoved::Keep, &[(2, false)], Some(3), false);
        check(OnRemoved::Close, &[(2, false)], Some(3), true);
        check(OnRemoved::Drain, &[(2, false)], Some(2), false);
        check(OnRemoved::Drain, &[(2, false)], None, true);
        check(OnRemoved::Keep, &[(2, false), (3, true)], Some(3), true);
        check(OnRemoved::Keep, &[(2, false), (3, true)], Some(2), false);
        check(OnRemoved::Keep, &[(2, false), (3, true)], None, true);
        check(OnRemoved::Keep, both, None, false);
        let mut spread = Config::first();
        spread.upstreams[Pool::Broad as usize].rebalance = true;
        assert!(spread.may_close(Place::Side, Some(2)) && !spread.may_close(Place::Steady, Some(0)));
    }

    /// A thousand configurations one after the other, each with the one before.
    fn many(mut each: impl FnMut(&Config, &Config)) {
        let mut rng = Rng::with_seed(7);
        let mut old = Config::first();
        for _ in 0..1000 {
            let new = old.next(&mut rng);
            each(&old, &new);
            old = new;
        }
    }

    #[test]
    fn nothing_ever_ends_a_kept_tunnel_or_shuts_out_a_prober() {
        many(|old, new| {
            for place in KEPT_PLACES {
                for server in [None, Some(0), Some(1)] {
                    assert!(!new.may_end(old, place, server), "{old:?} {new:?}");
                }
            }
            for place in [Place::Steady, Place::Raw, Place::Broad] {
                assert_eq!(new.admits(place), Admission::Must);
                assert!((0..IMMORTALS).any(|server| new.serves(place, server)));
            }
        });
    }

    #[test]
    fn everything_else_happens_sooner_or_later() {
        let mut seen = [0; 8];
        many(|old, new| {
            let place = Place::Passing;
            let has = |config: &Config, index| {
                config.upstreams[Pool::Steady as usize].servers.iter().any(|server| server.index == index)
            };
            for (count, is_so) in seen.iter_mut().zip([
                new.rule(Place::Kept).is_none(),
                new.rule(place).is_none() && new.may_end(old, place, Some(2)),
                new.rule(place).is_none() && !new.may_end(old, place, Some(2)),
                new.rule(place).is_some_and(|rule| rule.drain),
                old.rule(Place::Side).is_none() && new.rule(Place::Side).is_some(),
                has(old, 1) && !has(new, 1),
                new.may_end(old, Place::Broad, Some(3)),
                new.upstreams[Pool::Broad as usize].rebalance,
            ]) {
                *count += u32::from(is_so);
            }
        });
        assert!(seen.iter().all(|&count| count > 20), "{seen:?}");
    }
}
