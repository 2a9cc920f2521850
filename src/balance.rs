//! The choice among a pool's backends, and what failures teach about them.
//!
//! A choice has two steps. First, whom to choose from: of the backends this session has not tried and that
//! have room, those of the best rank there is (primaries that are in, else backups that are in, else
//! primaries that are out, else backups that are out). Then, which: by the pool's [`Balance`]; among those
//! that are out the one left alone for longest.
//!
//! Health is passive: nothing is sent to find out. `max_fails` failed tries within `fail_timeout` take a
//! backend out. After another `fail_timeout` one session tries it, and while that try says nothing the others
//! stay away for as long again. A session that was under way when the backend went out proves nothing by
//! succeeding; one that chose it since does, and brings it in.
//!
//! The clock and the dice are arguments. The plan is one too; it must be the one the balancer was made for.

use std::collections::{HashMap, VecDeque};
use std::f64::consts::{LN_2, SQRT_2};
use std::hash::Hasher;
use std::net::IpAddr;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::moment::Moment;
use crate::plan::{Backend, BackendId, Balance, Plan, Pool, PoolId};

/// What is known of each backend of a [`Plan`].
#[derive(Debug)]
pub struct Balancer {
    /// By pool, then by backend, as in the plan.
    pools: Vec<Vec<State>>,
    /// The places in its pool of those to choose from. Kept for its memory only.
    candidates: Vec<usize>,
}

#[derive(Debug)]
struct State {
    /// Sessions at present.
    active: u32,
    /// The smooth round robin's account. The accounts of a pool add up to 0, and none goes further from it
    /// than the pool's whole weight times the square root of the number of choices: far from `i64`'s end.
    credit: i64,
    /// Stands for the backend in rendezvous hashing, wherever it is in the file.
    identity: u64,
    health: Health,
}

#[derive(Debug)]
enum Health {
    /// In. The failures of the last `fail_timeout`, the oldest first; fewer than `max_fails`.
    In { failures: VecDeque<Moment> },
    /// Out. `since`: when it last failed or was chosen. `retried`: it was chosen since it went out.
    Out { since: Moment, retried: bool },
}

/// The backends that one session has tried already. Allocates nothing for the first 64 of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// A bit for each of the first 64 backends of the session's pool.
    first: u64,
    /// And for each of the others.
    others: Vec<u64>,
}

impl Tried {
    /// Takes note of a try. A session has one pool, so only the place in it counts.
    pub fn add(&mut self, id: BackendId) {
        let (word, bit) = Tried::place(id.index.into());
        match word.checked_sub(1) {
            None => self.first |= bit,
            Some(word) => {
                if word >= self.others.len() {
                    self.others.resize(word + 1, 0);
                }
                self.others[word] |= bit;
            }
        }
    }

    fn contains(&self, index: usize) -> bool {
        let (word, bit) = Tried::place(index);
        let bits = match word.checked_sub(1) {
            None => self.first,
            Some(word) => self.others.get(word).copied().unwrap_or_default(),
        };
        bits & bit != 0
    }

    fn place(index: usize) -> (usize, u64) {
        (index / 64, 1 << (index % 64))
    }
}

/// Why there is no backend to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// The session has tried them all.
    AllTried,
    /// Those it has not tried have `max_conns` sessions each.
    AllFull,
}

/// How good it is to choose a backend; the best come first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    In,
    InBackup,
    Out,
    OutBackup,
}

impl Balancer {
    /// Every backend in, without sessions.
    pub fn new(plan: &Plan) -> Balancer {
        Balancer { pools: plan.pools.iter().map(states).collect(), candidates: Vec::new() }
    }

    /// The backend that a session of this pool should try next. `key` is for the hashing ways of balancing
    /// ([`key_of_network`], [`key_of_value`]); without one they go round robin.
    ///
    /// # Errors
    ///
    /// Where none is left to try.
    pub fn choose(
        &mut self,
        plan: &Plan,
        pool: PoolId,
        key: Option<u64>,
        tried: &Tried,
        now: Moment,
        dice: &mut fastrand::Rng,
    ) -> Result<BackendId, NoChoice> {
        let rules = &plan.pools[usize::from(pool.0)];
        let states = &mut self.pools[usize::from(pool.0)];
        let candidates = &mut self.candidates;
        let index = match gather(rules, states, tried, now, candidates)? {
            Rank::In | Rank::InBackup => match (&rules.balance, key) {
                (Balance::RoundRobin, _) | (Balance::IpHash | Balance::Hash(_), None) => {
                    in_turn(rules, states, candidates)
                }
                (Balance::LeastConn, _) => least_loaded(rules, states, candidates),
                (Balance::RandomTwo, _) => better_of_two(rules, states, candidates, dice),
                (Balance::IpHash | Balance::Hash(_), Some(key)) => rendezvous(rules, states, candidates, key),
            },
            Rank::Out | Rank::OutBackup => left_alone_longest(states, candidates),
        };
        if let Health::Out { since, retried } = &mut states[index].health {
            (*since, *retried) = (now, true);
        }
        // A place in a pool comes from a `BackendId`'s range: the plan has no more backends than it can name.
        Ok(BackendId { pool, index: index as u16 })
    }

    /// A session begins to use this backend: it counts towards `max_conns` and as load.
    pub fn opened(&mut self, id: BackendId) {
        self.state(id).active += 1;
    }

    /// A session that was `opened` ends.
    pub fn closed(&mut self, id: BackendId) {
        let state = self.state(id);
        debug_assert!(state.active > 0, "only what was opened is closed, and only once");
        state.active = state.active.saturating_sub(1);
    }

    /// A try failed. `true` where this failure took the backend out.
    pub fn failed(&mut self, plan: &Plan, id: BackendId, now: Moment) -> bool {
        let rules = &plan.pools[usize::from(id.pool.0)];
        if rules.max_fails == 0 {
            return false;
        }
        let health = &mut self.state(id).health;
        match health {
            Health::In { failures } => {
                failures.push_back(now);
                while failures.front().is_some_and(|&failure| elapsed(failure, now) > rules.fail_timeout) {
                    failures.pop_front();
                }
                let goes_out = failures.len() >= rules.max_fails as usize;
                if goes_out {
                    *health = Health::Out { since: now, retried: false };
                }
                goes_out
            }
            Health::Out { since, .. } => {
                *since = now;
                false
            }
        }
    }

    /// A try succeeded. `true` where this brought the backend in again.
    pub fn succeeded(&mut self, id: BackendId) -> bool {
        let health = &mut self.state(id).health;
        match health {
            // Its failures stay counted: a server that fails every other time is not well.
            Health::In { .. } | Health::Out { retried: false, .. } => false,
            Health::Out { retried: true, .. } => {
                *health = Health::In { failures: VecDeque::new() };
                true
            }
        }
    }

    /// The backend's sessions at present.
    #[cfg(test)]
    pub fn active(&self, id: BackendId) -> u32 {
        self.pools[usize::from(id.pool.0)][usize::from(id.index)].active
    }

    /// Whether failures have taken the backend out.
    #[cfg(test)]
    pub fn is_out(&self, id: BackendId) -> bool {
        match self.pools[usize::from(id.pool.0)][usize::from(id.index)].health {
            Health::In { .. } => false,
            Health::Out { .. } => true,
        }
    }

    fn state(&mut self, id: BackendId) -> &mut State {
        &mut self.pools[usize::from(id.pool.0)][usize::from(id.index)]
    }
}

/// The state of a pool whose backends nobody has tried yet.
fn states(pool: &Pool) -> Vec<State> {
    // A backend that the file names twice has two identities; with one, the second would never be chosen.
    let mut namesakes: HashMap<&str, u32> = HashMap::new();
    let mut states = Vec::with_capacity(pool.backends.len());
    for backend in &pool.backends {
        let nth = namesakes.entry(&backend.name).or_insert(0);
        *nth += 1;
        let identity = hash(&[backend.name.as_bytes(), &nth.to_le_bytes()]);
        states.push(State {
            active: 0,
            credit: 0,
            identity,
            health: Health::In { failures: VecDeque::new() },
        });
    }
    states
}

/// Collects those to choose from, all of one rank and the best there is, in the plan's order. There is at
/// least one where it says `Ok`: all that follows relies on it.
fn gather(
    rules: &Pool,
    states: &[State],
    tried: &Tried,
    now: Moment,
    candidates: &mut Vec<usize>,
) -> Result<Rank, NoChoice> {
    candidates.clear();
    let mut best = None;
    let mut all_tried = true;
    for (index, (backend, state)) in rules.backends.iter().zip(states).enumerate() {
        if tried.contains(index) {
            continue;
        }
        all_tried = false;
        if backend.max_conns != 0 && state.active >= backend.max_conns {
            continue;
        }
        let rank = rank(backend, state, rules.fail_timeout, now);
        if best.is_none_or(|best| rank < best) {
            best = Some(rank);
            candidates.clear();
        }
        if best == Some(rank) {
            candidates.push(index);
        }
    }
    best.ok_or(if all_tried { NoChoice::AllTried } else { NoChoice::AllFull })
}

fn rank(backend: &Backend, state: &State, fail_timeout: Duration, now: Moment) -> Rank {
    let is_out = match state.health {
        Health::In { .. } => false,
        // Left alone for long enough, it is one of the others until somebody has chosen it.
        Health::Out { since, .. } => elapsed(since, now) < fail_timeout,
    };
    match (is_out, backend.backup) {
        (false, false) => Rank::In,
        (false, true) => Rank::InBackup,
        (true, false) => Rank::Out,
        (true, true) => Rank::OutBackup,
    }
}

/// Smooth weighted round robin: each candidate is paid its weight, and the richest one pays the whole round.
/// Over a round of choices each is chosen as often as its weight says, and not in one go.
fn in_turn(rules: &Pool, states: &mut [State], candidates: &[usize]) -> usize {
    let mut round = 0;
    let mut richest = candidates[0];
    for &index in candidates {
        let weight = i64::from(rules.backends[index].weight);
        states[index].credit += weight;
        round += weight;
        if states[index].credit > states[richest].credit {
            richest = index;
        }
    }
    states[richest].credit -= round;
    richest
}

/// The fewest sessions for the weight; among equals in turn.
fn least_loaded(rules: &Pool, states: &mut [State], candidates: &mut Vec<usize>) -> usize {
    let mut least = candidates[0];
    for &index in &candidates[1..] {
        if is_less_loaded(rules, states, index, least) {
            least = index;
        }
    }
    candidates.retain(|&index| !is_less_loaded(rules, states, least, index));
    in_turn(rules, states, candidates)
}

/// `a.active / a.weight < b.active / b.weight`, without the division.
fn is_less_loaded(rules: &Pool, states: &[State], a: usize, b: usize) -> bool {
    let cross = |active: usize, weight: usize| {
        u64::from(states[active].active) * u64::from(rules.backends[weight].weight)
    };
    cross(a, b) < cross(b, a)
}

/// The less loaded of two different ones, drawn by weight; the first drawn where they are equal.
fn better_of_two(
    rules: &Pool,
    states: &[State],
    candidates: &mut Vec<usize>,
    dice: &mut fastrand::Rng,
) -> usize {
    let first = draw(rules, candidates, dice);
    if candidates.is_empty() {
        return first;
    }
    let second = draw(rules, candidates, dice);
    if is_less_loaded(rules, states, second, first) { second } else { first }
}

/// Draws one by weight, out of the candidates.
fn draw(rules: &Pool, candidates: &mut Vec<usize>, dice: &mut fastrand::Rng) -> usize {
    let weight = |index: usize| u64::from(rules.backends[index].weight);
    let total: u64 = candidates.iter().map(|&index| weight(index)).sum();
    let mut drawn = dice.u64(..total);
    let mut place = 0;
    // Stops in the list: what is drawn is less than all the weights together.
    while drawn >= weight(candidates[place]) {
        drawn -= weight(candidates[place]);
        place += 1;
    }
    candidates.swap_remove(place)
}

/// Weighted rendezvous hashing: each candidate draws a number that depends on the key and on itself alone,
/// and the highest wins. So a backend that leaves moves only its own keys, and to all the others by their
/// weights. The draw is `-weight / ln(u)`, for which the chances to win are exactly as the weights.
fn rendezvous(rules: &Pool, states: &[State], candidates: &[usize], key: u64) -> usize {
    let score = |index: usize| {
        let bits = hash(&[&key.to_le_bytes(), &states[index].identity.to_le_bytes()]);
        // 52 bits and a half, so that neither 0 nor 1 can come out.
        let unit = ((bits >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
        -f64::from(rules.backends[index].weight) / ln(unit)
    };
    let mut best = (candidates[0], score(candidates[0]));
    for &index in &candidates[1..] {
        let score = score(index);
        if score > best.1 {
            best = (index, score);
        }
    }
    best.0
}

/// The natural logarithm of a number above 0 that is not denormal, by the four operations that are the same to the last
/// bit everywhere: a C library's own may not be, and then two machines would disagree about a key. It would also be
/// all that libm is loaded for.
fn ln(number: f64) -> f64 {
    const FRACTION_BITS: u32 = f64::MANTISSA_DIGITS - 1;
    let fraction = number.to_bits() & ((1 << FRACTION_BITS) - 1);
    let mut mantissa = f64::from_bits(1f64.to_bits() | fraction);
    let mut exponent = (number.to_bits() >> FRACTION_BITS) as f64 - 1023.0;
    if mantissa > SQRT_2 {
        (mantissa, exponent) = (mantissa / 2.0, exponent + 1.0);
    }
    // ln m = 2 artanh t = 2 (t + t^3/3 + t^5/5 ...), and t^2 < 0.03: ten terms are as exact as an f64.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let series = (0..10).rev().fold(0.0, |sum, term| sum * t * t + 1.0 / f64::from(2 * term + 1));
    exponent * LN_2 + 2.0 * t * series
}

/// Of candidates that are all out, the one that neither failed nor was chosen for longest. That choices count
/// spreads a crowd that finds all servers out over all of them, and not over the one that is found well
/// first.
fn left_alone_longest(states: &[State], candidates: &[usize]) -> usize {
    let since = |index: usize| match states[index].health {
        Health::In { .. } => None,
        Health::Out { since, .. } => Some(since),
    };
    let mut longest = candidates[0];
    for &index in &candidates[1..] {
        if since(index) < since(longest) {
            longest = index;
        }
    }
    longest
}

fn elapsed(since: Moment, now: Moment) -> Duration {
    now.since(since)
}

/// The key of a value of the request, the same in every process; `None` for an empty value.
pub fn key_of_value(value: &[u8]) -> Option<u64> {
    (!value.is_empty()).then(|| hash(&[value]))
}

/// The key of a client's network, the same in every process: the first three octets of an IPv4 address, as
/// nginx has it, and a whole IPv6 address. An IPv4-mapped one is the IPv4 address.
pub fn key_of_network(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => hash(&[&v4.octets()[..3]]),
        IpAddr::V6(v6) => hash(&[&v6.octets()]),
    }
}

/// A hash with fixed keys, so that proxies side by side and before and after a restart agree. SipHash for its
/// good mixing; that a client can work out which backend its key falls on, it cannot hide with fixed keys.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    for part in parts {
        hasher.write(part);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{
        AccessTarget, Address, Drain, HashKey, Limits, Log, LogFormat, OnRemoved, Order, Tcp, Workers,
    };

    const POOL: PoolId = PoolId(0);
    const SECOND: Duration = Duration::from_secs(1);

    /// A plan of one pool, `max_fails` 1 and `fail_timeout` 10 seconds. A backend is its name and, in any
    /// order, `*weight`, `<max_conns` and `b` for a backup: "a*5<2b".
    fn plan(balance: Balance, backends: &str) -> Plan {
        let number = |text: &str, mark: char, default: u32| {
            let Some((_, rest)) = text.split_once(mark) else { return default };
            rest.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        let backend = |text: &str| Backend {
            name: text[..1].to_owned(),
            address: Address::Unix(text[..1].into()),
            weight: number(text, '*', 1),
            max_conns: number(text, '<', 0),
            backup: text[1..].contains('b'),
            drain: text.contains('-'),
        };
        Plan {
            listeners: vec![],
            pools: vec![Pool {
                name: "pool".into(),
                backends: backends.split_whitespace().map(backend).collect(),
                balance,
                max_fails: 1,
                fail_timeout: 10 * SECOND,
                proxy_header: None,
                on_removed: OnRemoved::Keep,
                rebalance: None,
            }],
            limits: Limits {
                max_connections: 1,
                max_connections_per_ip: 0,
                max_header_bytes: 1,
                max_headers: 1,
            },
            tcp: Tcp { keepalive: None, user_timeout: None, backlog: 1 },
            log: Log {
                level: log::LevelFilter::Off,
                access: AccessTarget::Off,
                format: LogFormat::Text,
                query: false,
            },
            drain: Drain { rate: 0, order: Order::Oldest, timeout: None },
            workers: Workers::Count(1),
        }
    }

    fn hashed() -> Balance {
        Balance::Hash(HashKey::ClientIp)
    }

    /// A balancer with a made-up clock, seeded dice and backends called by their letter.
    struct Bench {
        plan: Plan,
        balancer: Balancer,
        now: Moment,
        dice: fastrand::Rng,
    }

    impl Bench {
        fn new(plan: Plan) -> Bench {
            let balancer = Balancer::new(&plan);
            Bench { plan, balancer, now: Moment::START, dice: fastrand::Rng::with_seed(7) }
        }

        fn id(&self, letter: char) -> BackendId {
            let index =
                self.plan.pools[0].backends.iter().position(|backend| backend.name.starts_with(letter));
            BackendId { pool: POOL, index: index.unwrap() as u16 }
        }

        fn choose(&mut self, key: Option<u64>, tried: &Tried) -> Result<char, NoChoice> {
            let Bench { plan, balancer, now, dice } = self;
            let id = balancer.choose(plan, POOL, key, tried, *now, dice)?;
            Ok(plan.pools[0].backends[usize::from(id.index)].name.chars().next().unwrap())
        }

        /// One session's next choice: its letter, "tried" or "full".
        fn next(&mut self, key: Option<u64>, tried: &Tried) -> String {
            match self.choose(key, tried) {
                Ok(letter) => letter.to_string(),
                Err(NoChoice::AllTried) => "tried".into(),
                Err(NoChoice::AllFull) => "full".into(),
            }
        }

        fn share(&mut self, letter: char, choices: u32) -> f64 {
            let none = Tried::default();
            let hits = (0..choices).filter(|&key| {
                let key = key_of_value(&key.to_le_bytes());
                self.choose(key, &none) == Ok(letter)
            });
            f64::from(hits.count() as u32) / f64::from(choices)
        }
    }

    /// Runs a script: `.` chooses for a new session, `>` chooses for the same session again (both write down
    /// what came), `ao` opens a session at a, `ac` closes one, `af` fails, `aF` fails and must take it out,
    /// `as` succeeds, `aS` succeeds and must bring it in, `+3` passes seconds.
    #[track_caller]
    fn check(plan: Plan, script: &str, expected: &str) {
        let mut bench = Bench::new(plan);
        let mut tried = Tried::default();
        let mut found = Vec::new();
        for step in script.split_whitespace() {
            let (head, rest) = step.split_at(1);
            match (head, rest) {
                ("." | ">", _) => {
                    if head == "." {
                        tried = Tried::default();
                    }
                    let next = bench.next(None, &tried);
                    if next.len() == 1 {
                        tried.add(bench.id(next.chars().next().unwrap()));
                    }
                    found.push(next);
                }
                ("+", seconds) => bench.now += seconds.parse::<u32>().unwrap() * SECOND,
                (letter, verb) => {
                    let id = bench.id(letter.chars().next().unwrap());
                    let was_out = bench.balancer.is_out(id);
                    match verb {
                        "o" => bench.balancer.opened(id),
                        "c" => bench.balancer.closed(id),
                        "f" => {
                            assert!(!bench.balancer.failed(&bench.plan, id, bench.now), "{script}: {step}")
                        }
                        "F" => assert!(bench.balancer.failed(&bench.plan, id, bench.now), "{script}: {step}"),
                        "s" => assert!(!bench.balancer.succeeded(id), "{script}: {step}"),
                        "S" => assert!(bench.balancer.succeeded(id), "{script}: {step}"),
                        verb => panic!("{verb}"),
                    }
                    let changed = bench.balancer.is_out(id) != was_out;
                    assert_eq!(changed, verb == "F" || verb == "S", "{script}: {step}");
                }
            }
        }
        assert_eq!(found.join(" "), expected, "{script}");
    }

    #[test]
    fn round_robin_is_smooth_and_exact() {
        let round_robin = |backends| plan(Balance::RoundRobin, backends);
        check(round_robin("a b c"), ". . . . . .", "a b c a b c");
        check(round_robin("a*5 b c"), ". . . . . . . . .", "a a b a c a a a a");
        check(round_robin("a*2 b*3"), ". . . . .", "b a b a b");
        check(round_robin("a"), ". . .", "a a a");
    }

    #[test]
    fn round_robin_gives_exact_shares_for_any_weights() {
        for seed in 0..100 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let mut rules = plan(Balance::RoundRobin, "a b c d e");
            for backend in &mut rules.pools[0].backends {
                backend.weight = dice.u32(1..50);
            }
            let weights: Vec<u32> = rules.pools[0].backends.iter().map(|backend| backend.weight).collect();
            let mut bench = Bench::new(rules);
            let mut chosen = [0; 5];
            for _ in 0..weights.iter().sum() {
                let letter = bench.choose(None, &Tried::default()).unwrap();
                chosen[usize::from(bench.id(letter).index)] += 1;
            }
            assert_eq!(chosen[..], weights, "seed {seed}");
        }
    }

    #[test]
    fn a_session_tries_each_backend_once() {
        let everywhere =
            [Balance::RoundRobin, Balance::LeastConn, Balance::RandomTwo, Balance::IpHash, hashed()];
        for balance in everywhere {
            check(plan(balance.clone(), "a"), ". > > .", "a tried tried a");
            check(plan(balance.clone(), "a bb"), ". > >", "a b tried");
            check(plan(balance, "a<1 b<1b"), "ao bo .", "full");
        }
        check(plan(Balance::RoundRobin, "a b c"), ". > > >", "a b c tried");
    }

    #[test]
    fn max_conns_is_never_exceeded() {
        let round_robin = |backends| plan(Balance::RoundRobin, backends);
        check(round_robin("a<1 b"), ". ao . . .", "a b b b");
        check(round_robin("a<2 b<1"), ". ao . bo . ao . ac .", "a b a full a");
        check(round_robin("a<1 b"), "ao . >", "b full");
        check(round_robin("a<1 bb"), ". ao . bo . ac .", "a b b a");
        check(round_robin("a<1 b"), "ao bF . >", "b full");
    }

    #[test]
    fn backups_serve_when_no_other_is_in() {
        let round_robin = |backends| plan(Balance::RoundRobin, backends);
        check(round_robin("a bb"), ". . .", "a a a");
        check(round_robin("a bb"), "aF . .", "b b");
        check(round_robin("a bb cb"), ". > > >", "a b c tried");
        check(round_robin("a bb"), "aF bF . > >", "a b tried");
        check(round_robin("a bb"), "bF +1 aF . >", "a b");
        check(round_robin("bb a"), "aF +10 .", "a");
    }

    #[test]
    fn least_conn_goes_by_sessions_for_the_weight() {
        let least = |backends| plan(Balance::LeastConn, backends);
        check(least("a b c"), ". . . .", "a b c a");
        check(least("a b c"), "ao bo . co . bc .", "c a b");
        check(least("a*3 b"), "ao bo . ao ao .", "a a");
        check(least("a*3 b"), "ao ao ao . bo .", "b a");
        check(least("a*2 b*2 c"), "ao bo . .", "c c");
        check(least("a*5 b c"), ". . . . . . .", "a a b a c a a");
    }

    #[test]
    fn failures_within_the_time_take_out_and_only_those() {
        let fails = |max_fails| {
            let mut plan = plan(Balance::RoundRobin, "a b");
            plan.pools[0].max_fails = max_fails;
            plan
        };
        check(fails(1), "aF . .", "b b");
        check(fails(0), "af af af . .", "a b");
        check(fails(3), "af af aF . .", "b b");
        check(fails(3), "af af +11 af . .", "a b");
        check(fails(3), "af +9 af +1 aF .", "b");
        check(fails(3), "af +9 af +2 af .", "a");
        check(fails(3), "af +9 af +2 af +1 aF .", "b");
        check(fails(3), "af as af as aF .", "b");
        check(fails(2), "af aF +10 . aS af . aF .", "a b b");
    }

    #[test]
    fn one_session_probes_and_its_success_brings_in() {
        let round_robin = |backends| plan(Balance::RoundRobin, backends);
        check(round_robin("a b"), "aF +9 . . +1 . . . .", "b b a b b b");
        check(round_robin("a b"), "aF +10 . aS . .", "a b a");
        check(round_robin("a b"), "aF +10 . af +9 . +1 . .", "a b b a");
        // A probe that never says anything: the next one comes as late as after a failure.
        check(round_robin("a b"), "aF +10 . +9 . +1 . .", "a b b a");
        // Old sessions: their success proves nothing, their failure keeps it out, the probe's success still
        // counts.
        check(round_robin("a b"), "aF as . +10 .", "b a");
        check(round_robin("a b"), "aF +5 af +9 . +1 .", "b a");
        check(round_robin("a b"), "aF +10 . af aS . .", "a b a");
    }

    #[test]
    fn when_all_are_out_they_are_tried_all_the_same() {
        let round_robin = |backends| plan(Balance::RoundRobin, backends);
        check(round_robin("a"), "aF . af . aS .", "a a a");
        check(round_robin("a b c"), "bF +1 cF +1 aF . > > >", "b c a tried");
        // A crowd is spread over them, and the first that does well is in.
        check(round_robin("a b"), "aF bF +1 . +1 . +1 . bS . .", "a b a b b");
        check(round_robin("a<1 b"), "aF ao +1 bF . >", "b full");
        let mut no_time = round_robin("a b");
        no_time.pools[0].fail_timeout = Duration::ZERO;
        check(no_time, "aF . .", "a b");
    }

    #[test]
    fn the_logarithm_is_as_exact_as_the_c_librarys() {
        let mut dice = fastrand::Rng::with_seed(1);
        let near_the_ends = [f64::MIN_POSITIVE, f64::EPSILON, 0.5, SQRT_2 / 2.0, 1.0 - f64::EPSILON, 1.0];
        for number in near_the_ends.into_iter().chain((0..10_000).map(|_| dice.f64() + f64::EPSILON)) {
            let (ours, theirs) = (ln(number), number.ln());
            assert!((ours - theirs).abs() <= 4.0 * f64::EPSILON * theirs.abs(), "{number}: {ours} {theirs}");
        }
    }

    #[test]
    fn drawn_and_hashed_shares_are_as_the_weights() {
        for balance in [Balance::RandomTwo, hashed(), Balance::IpHash] {
            let mut bench = Bench::new(plan(balance.clone(), "a*5 b*3 c*2"));
            for (letter, weight) in [('a', 0.5), ('b', 0.3), ('c', 0.2)] {
                let share = bench.share(letter, 20_000);
                assert!((share - weight).abs() < 0.015, "{balance:?}: {letter} has {share}");
            }
        }
    }

    #[test]
    fn of_two_drawn_the_less_loaded_is_taken() {
        let mut bench = Bench::new(plan(Balance::RandomTwo, "a b"));
        bench.balancer.opened(bench.id('a'));
        assert_eq!(bench.share('b', 100), 1.0);
        let mut bench = Bench::new(plan(Balance::RandomTwo, "a b c"));
        bench.balancer.opened(bench.id('a'));
        assert_eq!(bench.share('a', 1000), 0.0);
        let mut bench = Bench::new(plan(Balance::RandomTwo, "a*3 b"));
        for letter in ['a', 'a', 'b'] {
            bench.balancer.opened(bench.id(letter));
        }
        assert_eq!(bench.share('a', 100), 1.0);
    }

    /// What each of 2000 keys falls on.
    fn places(backends: &str, leave: Option<char>) -> Vec<char> {
        let mut bench = Bench::new(plan(hashed(), backends));
        let mut tried = Tried::default();
        if let Some(letter) = leave {
            tried.add(bench.id(letter));
        }
        (0..2000u32).map(|key| bench.choose(key_of_value(&key.to_le_bytes()), &tried).unwrap()).collect()
    }

    #[test]
    fn a_backend_that_leaves_moves_only_its_own_keys() {
        let before = places("a*2 b c*3 d", None);
        for after in [places("a*2 b d", None), places("a*2 b c*3 d", Some('c'))] {
            for (before, after) in before.iter().zip(&after) {
                assert!(*after != 'c' && (before == after || *before == 'c'));
            }
            for letter in ['a', 'b', 'd'] {
                let moved = before.iter().zip(&after).any(|moved| moved == (&'c', &letter));
                assert!(moved, "{letter} takes over its share");
            }
        }
    }

    #[test]
    fn the_order_in_the_file_does_not_matter_to_keys() {
        assert_eq!(places("a*2 b c*3 d", None), places("d c*3 a*2 b", None));
    }

    #[test]
    fn backends_of_one_name_share_its_keys() {
        let rules = plan(hashed(), "a a");
        let mut balancer = Balancer::new(&rules);
        let mut dice = fastrand::Rng::with_seed(0);
        let (none, now) = (Tried::default(), Moment::START);
        let mut chosen = [0; 2];
        for key in 0..1000 {
            let id = balancer.choose(&rules, POOL, Some(key), &none, now, &mut dice).unwrap();
            chosen[usize::from(id.index)] += 1;
        }
        assert!(chosen.iter().all(|&share| share > 400), "{chosen:?}");
    }

    #[test]
    fn a_request_without_a_key_goes_round_robin() {
        check(plan(hashed(), "a b c"), ". . . .", "a b c a");
        check(plan(Balance::IpHash, "a b c"), ". . . .", "a b c a");
    }

    /// The numbers are to stay as they are: with others, each key would move at an update of the program.
    #[test]
    fn keys_are_the_same_in_every_process() {
        let network = |ip: &str| key_of_network(ip.parse().unwrap());
        assert_eq!(key_of_value(b""), None);
        assert_eq!(key_of_value(b"a"), Some(0x4074_48d2_b89b_1813));
        assert_eq!(network("192.168.1.1"), network("192.168.1.254"));
        assert_eq!(network("192.168.1.1"), network("::ffff:192.168.1.9"));
        assert_ne!(network("192.168.1.1"), network("192.168.2.1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8::2"));
        assert_eq!(places("a*2 b c*3 d", None)[..8], ['b', 'c', 'd', 'c', 'a', 'b', 'd', 'd']);
    }

    /// Whatever happens to a pool: never one that was tried or is full, and "none" only where it is true.
    #[test]
    fn choices_keep_the_rules_whatever_happens() {
        for seed in 0..600 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let ways =
                [Balance::RoundRobin, Balance::LeastConn, Balance::RandomTwo, Balance::IpHash, hashed()];
            let mut rules = plan(ways[dice.usize(..5)].clone(), &"a ".repeat(dice.usize(1..80)));
            for backend in &mut rules.pools[0].backends {
                backend.weight = dice.u32(1..9);
                backend.max_conns = dice.u32(..3);
                backend.backup = dice.u8(..4) == 0;
            }
            rules.pools[0].max_fails = dice.u32(..3);
            let backends = &rules.pools[0].backends;
            let mut balancer = Balancer::new(&rules);
            let mut now = Moment::START;
            let mut open = Vec::new();
            for _ in 0..40 {
                now += SECOND * dice.u32(..8);
                let mut tried = Tried::default();
                let mut tried_model = vec![false; backends.len()];
                let key = dice.bool().then(|| dice.u64(..));
                loop {
                    let full = |balancer: &Balancer, index: usize| {
                        let id = BackendId { pool: POOL, index: index as u16 };
                        let max = backends[index].max_conns;
                        max != 0 && balancer.active(id) >= max
                    };
                    let Ok(id) =
                        balancer.choose(&rules, POOL, key, &tried, now, &mut dice).inspect_err(|none| {
                            let untried: Vec<usize> =
                                (0..backends.len()).filter(|&index| !tried_model[index]).collect();
                            assert_eq!(*none == NoChoice::AllTried, untried.is_empty(), "seed {seed}");
                            assert!(untried.iter().all(|&index| full(&balancer, index)), "seed {seed}");
                        })
                    else {
                        break;
                    };
                    let index = usize::from(id.index);
                    assert!(!tried_model[index] && !full(&balancer, index), "seed {seed}");
                    tried_model[index] = true;
                    tried.add(id);
                    if dice.bool() {
                        balancer.failed(&rules, id, now);
                        continue;
                    }
                    balancer.succeeded(id);
                    balancer.opened(id);
                    open.push(id);
                    break;
                }
                if dice.bool() && !open.is_empty() {
                    balancer.closed(open.swap_remove(dice.usize(..open.len())));
                }
            }
        }
    }
}
