//! The choice among a pool's backends, and what failures teach about them.
//!
//! A choice has two steps. First, whom to choose from: of the backends that take new sessions, that this session has
//! not tried and that have room, those of the best rank there is (primaries that are in, else backups that are in, else
//! primaries that are out, else backups that are out). Then, which: by the pool's [`Balance`]; among those that are out
//! the one left alone for longest.
//!
//! Health is passive: nothing is sent to find out. `max_fails` failed tries within `fail_timeout` take a
//! backend out. After another `fail_timeout` one session tries it, and while that try says nothing the others
//! stay away for as long again. A session that was under way when the backend went out proves nothing by
//! succeeding; one that chose it since does, and brings it in.
//!
//! What is known of a backend is in a [`Record`], which all workers share and which goes on from one configuration to
//! the next. It is looked at when a session opens or ends, never for a message. The clock and the dice are arguments.

use std::collections::{HashMap, VecDeque};
use std::f64::consts::{LN_2, SQRT_2};
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use siphasher::sip::SipHasher13;

use crate::moment::Moment;
use crate::plan::{Backend, Balance, Pool};
use crate::rebalance::{Episode, Standing};

/// The choice, with memory of its own.
#[derive(Debug, Default)]
pub struct Balancer {
    /// The places in its pool of those to choose from. Kept for its memory only.
    candidates: Vec<usize>,
}

/// The backends of a pool, in the plan's order.
#[derive(Debug)]
pub struct Members {
    records: Vec<Arc<Record>>,
    /// Stands for a backend in rendezvous hashing, wherever it is in the file.
    identities: Vec<u64>,
    /// Whether tunnels are being spread anew.
    pub episode: Arc<Episode>,
}

/// What is known of a backend.
#[derive(Debug)]
pub struct Record {
    /// What tells it from all others that there were.
    pub id: u32,
    /// Sessions at present.
    active: AtomicU32,
    /// Tunnels at present.
    tunnels: AtomicU32,
    /// Tunnels since it is known.
    tunnels_opened: AtomicU64,
    /// Failed tries since it is known.
    failed: AtomicU64,
    /// The smooth round robin's account. What the accounts of a pool add up to stays the same while its backends do,
    /// and none goes further from the others than the pool's whole weight times the square root of the number of
    /// choices: far from `i64`'s end.
    credit: AtomicI64,
    out: Out,
    /// The failures of the last `fail_timeout` while it is in, the oldest first; fewer than `max_fails`.
    failures: Mutex<VecDeque<Moment>>,
}

/// Whether a backend is out. 0: it is in. Otherwise the moment when it last failed or was chosen, shifted up by one
/// bit, and in the lowest whether it was chosen since it went out. (One word, so that workers see both at once. What is
/// left of the moment lasts 292 years.)
#[derive(Debug, Default)]
struct Out(AtomicU64);

/// A backend that is out.
#[derive(Clone, Copy)]
struct OutSince {
    since: Moment,
    retried: bool,
}

impl OutSince {
    fn to_word(self) -> u64 {
        self.since.nanos() << 1 | u64::from(self.retried)
    }

    fn from_word(word: u64) -> Option<OutSince> {
        let since = Moment::from_nanos(word >> 1)?;
        Some(OutSince { since, retried: word & 1 != 0 })
    }
}

impl Out {
    fn get(&self) -> Option<OutSince> {
        OutSince::from_word(self.0.load(Relaxed))
    }

    /// Changes it while it is as it was seen. Says whether it was.
    fn change(&self, seen: OutSince, to: Option<OutSince>) -> bool {
        let to = to.map_or(0, OutSince::to_word);
        self.0.compare_exchange(seen.to_word(), to, Relaxed, Relaxed).is_ok()
    }
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
    /// Takes note of a try, by the backend's place in the session's pool.
    pub fn add(&mut self, index: u16) {
        let (word, bit) = Tried::place(index.into());
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

impl Record {
    /// A backend that nobody has tried yet.
    pub fn new(id: u32) -> Record {
        Record {
            id,
            active: AtomicU32::default(),
            tunnels: AtomicU32::default(),
            tunnels_opened: AtomicU64::default(),
            failed: AtomicU64::default(),
            credit: AtomicI64::default(),
            out: Out::default(),
            failures: Mutex::default(),
        }
    }

    /// Its sessions at present.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// A session that was opened has become a tunnel.
    pub fn tunnel_opened(&self) {
        self.tunnels.fetch_add(1, Relaxed);
        self.tunnels_opened.fetch_add(1, Relaxed);
    }

    /// A tunnel has ended.
    pub fn tunnel_closed(&self) {
        self.tunnels.fetch_sub(1, Relaxed);
    }

    /// Its tunnels at present, and since it is known.
    #[cfg(feature = "admin")]
    pub fn tunnels(&self) -> (u32, u64) {
        (self.tunnels.load(Relaxed), self.tunnels_opened.load(Relaxed))
    }

    /// Failed tries since it is known.
    #[cfg(feature = "admin")]
    pub fn failures(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Whether failures have taken it out, by these rules.
    #[cfg(any(feature = "admin", test))]
    pub fn is_out(&self, rules: &Pool) -> bool {
        self.out_by(rules).is_some()
    }

    /// Since when failures have taken it out. Where they do not count they did so by rules of yesterday.
    fn out_by(&self, rules: &Pool) -> Option<OutSince> {
        self.out.get().filter(|_| rules.max_fails > 0)
    }

    /// What its weight was before it has another, or its pool's others have, is owed no longer.
    pub fn settle_account(&self) {
        self.credit.store(0, Relaxed);
    }

    /// A session begins to use it, unless it has `max_conns` already (0: no limit): it counts as load.
    #[must_use]
    pub fn open(&self, max_conns: u32) -> bool {
        let more = |active: u32| (max_conns == 0 || active < max_conns).then(|| active + 1);
        self.active.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// A session that was opened ends.
    pub fn close(&self) {
        let before = self.active.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "only what was opened is closed, and only once");
    }

    /// Lets one of its sessions go where it has more than this: the caller ends one and does not `close` it. However
    /// many workers do so at once, no fewer are left.
    pub fn shed(&self, above: u32) -> bool {
        self.active.fetch_update(Relaxed, Relaxed, |active| (active > above).then(|| active - 1)).is_ok()
    }

    /// A try failed. `true` where this failure took it out.
    pub fn failed(&self, rules: &Pool, now: Moment) -> bool {
        self.failed.fetch_add(1, Relaxed);
        if rules.max_fails == 0 {
            return false;
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(out) = self.out.get() {
            if self.out.change(out, Some(OutSince { since: now, ..out })) {
                return false;
            }
        }
        failures.push_back(now);
        while failures.front().is_some_and(|&failure| now.since(failure) > rules.fail_timeout) {
            failures.pop_front();
        }
        let goes_out = failures.len() >= rules.max_fails as usize;
        if goes_out {
            failures.clear();
            self.out.0.store(OutSince { since: now, retried: false }.to_word(), Relaxed);
        }
        goes_out
    }

    /// A try succeeded. `true` where this brought it in again.
    pub fn succeeded(&self) -> bool {
        match self.out.get() {
            // While it is in its failures stay counted: a server that fails every other time is not well.
            None | Some(OutSince { retried: false, .. }) => false,
            Some(out) => self.out.change(out, None),
        }
    }

    /// It was chosen. `false`: another worker has just sent a session to find out whether it is well, and one is
    /// enough.
    fn chosen(&self, rank: Rank, rules: &Pool, now: Moment) -> bool {
        let Some(out) = self.out_by(rules) else { return true };
        let is_taken = now.since(out.since) < rules.fail_timeout && matches!(rank, Rank::In | Rank::InBackup);
        !is_taken && self.out.change(out, Some(OutSince { since: now, retried: true }))
    }
}

impl Members {
    /// The backends of a pool with what is known of each, in its order.
    pub fn new(pool: &Pool, records: Vec<Arc<Record>>, episode: Arc<Episode>) -> Members {
        debug_assert_eq!(records.len(), pool.backends.len(), "each backend has a record");
        // A backend that the file names twice has two identities; with one, the second would never be chosen.
        let mut namesakes: HashMap<&str, u32> = HashMap::new();
        let mut identities = Vec::with_capacity(pool.backends.len());
        for backend in &pool.backends {
            let nth = namesakes.entry(&backend.name).or_insert(0);
            *nth += 1;
            identities.push(hash(&[backend.name.as_bytes(), &nth.to_le_bytes()]));
        }
        Members { records, identities, episode }
    }

    /// What is known of one.
    pub fn record(&self, index: u16) -> &Record {
        &self.records[usize::from(index)]
    }

    /// What is known of all of them.
    pub fn records(&self) -> &[Arc<Record>] {
        &self.records
    }

    /// How they stand to each other.
    pub fn standings(&self, rules: &Pool) -> Vec<Standing> {
        let standing = |(backend, record): (&Backend, &Arc<Record>)| Standing {
            weight: backend.weight,
            active: record.active(),
            room: if backend.max_conns == 0 { u32::MAX } else { backend.max_conns },
            takes: !backend.drain && !backend.backup && record.out_by(rules).is_none(),
        };
        rules.backends.iter().zip(&self.records).map(standing).collect()
    }
}

impl Balancer {
    /// The place in its pool of the backend that a session should try next. `key` is for the hashing ways of balancing
    /// ([`key_of_network`], [`key_of_value`]); without one they go round robin.
    ///
    /// # Errors
    ///
    /// Where none is left to try.
    pub fn choose(
        &mut self,
        rules: &Pool,
        members: &Members,
        key: Option<u64>,
        tried: &Tried,
        now: Moment,
        dice: &mut fastrand::Rng,
    ) -> Result<u16, NoChoice> {
        let candidates = &mut self.candidates;
        let records = members.records.as_slice();
        loop {
            let rank = gather(rules, records, tried, now, candidates)?;
            let index = match rank {
                Rank::In | Rank::InBackup => match (&rules.balance, key) {
                    // While tunnels are spread anew those that are closed are to come back where there are too few.
                    (Balance::RoundRobin | Balance::RandomTwo, _) if members.episode.is_on() => {
                        least_loaded(rules, records, candidates)
                    }
                    (Balance::RoundRobin, _) | (Balance::IpHash | Balance::Hash(_), None) => {
                        in_turn(rules, records, candidates)
                    }
                    (Balance::LeastConn, _) => least_loaded(rules, records, candidates),
                    (Balance::RandomTwo, _) => better_of_two(rules, records, candidates, dice),
                    (Balance::IpHash | Balance::Hash(_), Some(key)) => {
                        rendezvous(rules, &members.identities, candidates, key)
                    }
                },
                Rank::Out | Rank::OutBackup => left_alone_longest(records, candidates),
            };
            if records[index].chosen(rank, rules, now) {
                // It comes from a `BackendId`'s range: the plan has no more backends than it can name.
                return Ok(index as u16);
            }
        }
    }
}

/// Collects those to choose from, all of one rank and the best there is, in the plan's order. There is at
/// least one where it says `Ok`: all that follows relies on it.
fn gather(
    rules: &Pool,
    records: &[Arc<Record>],
    tried: &Tried,
    now: Moment,
    candidates: &mut Vec<usize>,
) -> Result<Rank, NoChoice> {
    candidates.clear();
    let mut best = None;
    let mut all_tried = true;
    for (index, (backend, record)) in rules.backends.iter().zip(records).enumerate() {
        if backend.drain || tried.contains(index) {
            continue;
        }
        all_tried = false;
        if backend.max_conns != 0 && record.active() >= backend.max_conns {
            continue;
        }
        let rank = rank(backend, record, rules, now);
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

fn rank(backend: &Backend, record: &Record, rules: &Pool, now: Moment) -> Rank {
    // Left alone for long enough, it is one of the others until somebody has chosen it.
    let is_out = record.out_by(rules).is_some_and(|out| now.since(out.since) < rules.fail_timeout);
    match (is_out, backend.backup) {
        (false, false) => Rank::In,
        (false, true) => Rank::InBackup,
        (true, false) => Rank::Out,
        (true, true) => Rank::OutBackup,
    }
}

/// Smooth weighted round robin: each candidate is paid its weight, and the richest one pays the whole round.
/// Over a round of choices each is chosen as often as its weight says, and not in one go.
fn in_turn(rules: &Pool, records: &[Arc<Record>], candidates: &[usize]) -> usize {
    let mut round = 0;
    let mut richest: Option<(usize, i64)> = None;
    for &index in candidates {
        let weight = i64::from(rules.backends[index].weight);
        let credit = records[index].credit.fetch_add(weight, Relaxed) + weight;
        round += weight;
        if richest.is_none_or(|(_, most)| credit > most) {
            richest = Some((index, credit));
        }
    }
    let (richest, _) = richest.unwrap_or((candidates[0], 0)); // there is at least one
    records[richest].credit.fetch_sub(round, Relaxed);
    richest
}

/// The fewest sessions for the weight; among equals in turn.
fn least_loaded(rules: &Pool, records: &[Arc<Record>], candidates: &mut Vec<usize>) -> usize {
    let mut least = candidates[0];
    for &index in &candidates[1..] {
        if is_less_loaded(rules, records, index, least) {
            least = index;
        }
    }
    // Other workers may change loads between two looks at them; it must stay whatever it is compared with itself.
    candidates.retain(|&index| index == least || !is_less_loaded(rules, records, least, index));
    in_turn(rules, records, candidates)
}

/// `a.active / a.weight < b.active / b.weight`, without the division.
fn is_less_loaded(rules: &Pool, records: &[Arc<Record>], a: usize, b: usize) -> bool {
    let cross = |active: usize, weight: usize| {
        u64::from(records[active].active()) * u64::from(rules.backends[weight].weight)
    };
    cross(a, b) < cross(b, a)
}

/// The less loaded of two different ones, drawn by weight; the first drawn where they are equal.
fn better_of_two(
    rules: &Pool,
    records: &[Arc<Record>],
    candidates: &mut Vec<usize>,
    dice: &mut fastrand::Rng,
) -> usize {
    let first = draw(rules, candidates, dice);
    if candidates.is_empty() {
        return first;
    }
    let second = draw(rules, candidates, dice);
    if is_less_loaded(rules, records, second, first) { second } else { first }
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
fn rendezvous(rules: &Pool, identities: &[u64], candidates: &[usize], key: u64) -> usize {
    let score = |index: usize| {
        let bits = hash(&[&key.to_le_bytes(), &identities[index].to_le_bytes()]);
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
fn left_alone_longest(records: &[Arc<Record>], candidates: &[usize]) -> usize {
    let since = |index: usize| records[index].out.get().map(|out| out.since);
    let mut longest = candidates[0];
    for &index in &candidates[1..] {
        if since(index) < since(longest) {
            longest = index;
        }
    }
    longest
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
    use crate::plan::{Address, HashKey, OnRemoved, Rebalance, Share};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    /// A pool with `max_fails` 1 and `fail_timeout` 10 seconds. A backend is its name and, in any order, `*weight`,
    /// `<max_conns`, `b` for a backup and `-` for one that drains: "a*5<2b".
    fn pool(balance: Balance, backends: &str) -> Pool {
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
        Pool {
            name: "pool".into(),
            backends: backends.split_whitespace().map(backend).collect(),
            balance,
            max_fails: 1,
            fail_timeout: 10 * SECOND,
            proxy_header: None,
            on_removed: OnRemoved::Keep,
            rebalance: None,
        }
    }

    /// A pool's backends, of whom nothing is known yet.
    fn strangers(pool: &Pool) -> Members {
        let records = (0..pool.backends.len()).map(|id| Arc::new(Record::new(id as u32)));
        Members::new(pool, records.collect(), Arc::default())
    }

    fn hashed() -> Balance {
        Balance::Hash(HashKey::ClientIp)
    }

    /// A balancer with a made-up clock, seeded dice and backends called by their letter.
    struct Bench {
        pool: Pool,
        members: Members,
        balancer: Balancer,
        now: Moment,
        dice: fastrand::Rng,
    }

    impl Bench {
        fn new(pool: Pool) -> Bench {
            let (members, dice) = (strangers(&pool), fastrand::Rng::with_seed(7));
            Bench { pool, members, balancer: Balancer::default(), now: Moment::START, dice }
        }

        fn index(&self, letter: char) -> u16 {
            let index = self.pool.backends.iter().position(|backend| backend.name.starts_with(letter));
            index.unwrap() as u16
        }

        fn record(&self, letter: char) -> &Record {
            self.members.record(self.index(letter))
        }

        fn opened(&self, letter: char) {
            assert!(self.record(letter).open(0));
        }

        fn choose(&mut self, key: Option<u64>, tried: &Tried) -> Result<char, NoChoice> {
            let Bench { pool, members, balancer, now, dice } = self;
            let index = balancer.choose(pool, members, key, tried, *now, dice)?;
            Ok(pool.backends[usize::from(index)].name.chars().next().unwrap())
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
    fn check(pool: Pool, script: &str, expected: &str) {
        let mut bench = Bench::new(pool);
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
                        tried.add(bench.index(next.chars().next().unwrap()));
                    }
                    found.push(next);
                }
                ("+", seconds) => bench.now += seconds.parse::<u32>().unwrap() * SECOND,
                (letter, verb) => {
                    let record = bench.record(letter.chars().next().unwrap());
                    let was_out = record.is_out(&bench.pool);
                    let failed = || record.failed(&bench.pool, bench.now);
                    match verb {
                        "o" => assert!(record.open(0)),
                        "c" => record.close(),
                        "f" => assert!(!failed(), "{script}: {step}"),
                        "F" => assert!(failed(), "{script}: {step}"),
                        "s" => assert!(!record.succeeded(), "{script}: {step}"),
                        "S" => assert!(record.succeeded(), "{script}: {step}"),
                        verb => panic!("{verb}"),
                    }
                    let changed = record.is_out(&bench.pool) != was_out;
                    assert_eq!(changed, verb == "F" || verb == "S", "{script}: {step}");
                }
            }
        }
        assert_eq!(found.join(" "), expected, "{script}");
    }

    #[test]
    fn round_robin_is_smooth_and_exact() {
        let round_robin = |backends| pool(Balance::RoundRobin, backends);
        check(round_robin("a b c"), ". . . . . .", "a b c a b c");
        check(round_robin("a*5 b c"), ". . . . . . . . .", "a a b a c a a a a");
        check(round_robin("a*2 b*3"), ". . . . .", "b a b a b");
        check(round_robin("a"), ". . .", "a a a");
    }

    #[test]
    fn round_robin_gives_exact_shares_for_any_weights() {
        for seed in 0..100 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let mut rules = pool(Balance::RoundRobin, "a b c d e");
            for backend in &mut rules.backends {
                backend.weight = dice.u32(1..50);
            }
            let weights: Vec<u32> = rules.backends.iter().map(|backend| backend.weight).collect();
            let mut bench = Bench::new(rules);
            let mut chosen = [0; 5];
            for _ in 0..weights.iter().sum() {
                let letter = bench.choose(None, &Tried::default()).unwrap();
                chosen[usize::from(bench.index(letter))] += 1;
            }
            assert_eq!(chosen[..], weights, "seed {seed}");
        }
    }

    #[test]
    fn a_session_tries_each_backend_once() {
        let everywhere =
            [Balance::RoundRobin, Balance::LeastConn, Balance::RandomTwo, Balance::IpHash, hashed()];
        for balance in everywhere {
            check(pool(balance.clone(), "a"), ". > > .", "a tried tried a");
            check(pool(balance.clone(), "a bb"), ". > >", "a b tried");
            check(pool(balance, "a<1 b<1b"), "ao bo .", "full");
        }
        check(pool(Balance::RoundRobin, "a b c"), ". > > >", "a b c tried");
    }

    #[test]
    fn max_conns_is_never_exceeded() {
        let round_robin = |backends| pool(Balance::RoundRobin, backends);
        check(round_robin("a<1 b"), ". ao . . .", "a b b b");
        check(round_robin("a<2 b<1"), ". ao . bo . ao . ac .", "a b a full a");
        check(round_robin("a<1 b"), "ao . >", "b full");
        check(round_robin("a<1 bb"), ". ao . bo . ac .", "a b b a");
        check(round_robin("a<1 b"), "ao bF . >", "b full");
    }

    #[test]
    fn backups_serve_when_no_other_is_in() {
        let round_robin = |backends| pool(Balance::RoundRobin, backends);
        check(round_robin("a bb"), ". . .", "a a a");
        check(round_robin("a bb"), "aF . .", "b b");
        check(round_robin("a bb cb"), ". > > >", "a b c tried");
        check(round_robin("a bb"), "aF bF . > >", "a b tried");
        check(round_robin("a bb"), "bF +1 aF . >", "a b");
        check(round_robin("bb a"), "aF +10 .", "a");
    }

    #[test]
    fn a_backend_that_drains_is_never_chosen() {
        let round_robin = |backends| pool(Balance::RoundRobin, backends);
        check(round_robin("a- b c"), ". . . > >", "b c b c tried");
        check(round_robin("a- bb"), ". .", "b b");
        check(round_robin("a-"), ".", "tried");
        check(round_robin("a- b"), "bF . >", "b tried");
    }

    #[test]
    fn one_probe_is_enough_however_many_workers_send_one() {
        let rules = pool(Balance::RoundRobin, "a b");
        for _ in 0..2000 {
            let record = Record::new(0);
            assert!(record.failed(&rules, Moment::START));
            let now = Moment::START + rules.fail_timeout;
            let barrier = std::sync::Barrier::new(3);
            let probing = || {
                barrier.wait();
                usize::from(record.chosen(Rank::In, &rules, now))
            };
            let probes: usize = std::thread::scope(|scope| {
                let others = [scope.spawn(probing), scope.spawn(probing)];
                probing() + others.into_iter().map(|other| other.join().unwrap()).sum::<usize>()
            });
            assert_eq!(probes, 1);
        }
    }

    #[test]
    fn tunnels_are_spread_over_those_that_take_them() {
        let bench = Bench::new(pool(Balance::RoundRobin, "a b- cb d<7"));
        let standings = bench.members.standings(&bench.pool);
        assert_eq!(standings.iter().map(|s| s.takes).collect::<Vec<_>>(), [true, false, false, true]);
        assert_eq!(standings.iter().map(|s| s.room).collect::<Vec<_>>(), [u32::MAX, u32::MAX, u32::MAX, 7]);
        assert!(bench.record('a').failed(&bench.pool, bench.now));
        assert!(!bench.members.standings(&bench.pool)[0].takes);
    }

    #[test]
    fn while_tunnels_are_spread_anew_sessions_go_where_there_are_few() {
        for balance in [Balance::RoundRobin, Balance::RandomTwo] {
            let mut bench = Bench::new(pool(balance, "a b"));
            (0..4).for_each(|_| bench.opened('a'));
            let rules = Rebalance { within: Share(0.1), rate: 1 };
            let standings = bench.members.standings(&bench.pool);
            assert!(bench.members.episode.begin(&standings, &rules, bench.now));
            for _ in 0..4 {
                assert_eq!(bench.choose(None, &Tried::default()), Ok('b'));
                bench.opened('b');
            }
        }
    }

    #[test]
    fn a_place_is_taken_once_however_many_workers_want_it() {
        let record = Record::new(0);
        let wanting = || (0..10_000).filter(|_| record.open(1000)).count();
        let taken: usize = std::thread::scope(|scope| {
            let others: Vec<_> = (0..3).map(|_| scope.spawn(wanting)).collect();
            others.into_iter().map(|other| other.join().unwrap()).sum::<usize>() + wanting()
        });
        assert_eq!((taken, record.active()), (1000, 1000));
        let shedding = || (0..10_000).filter(|_| record.shed(600)).count();
        let shed: usize = std::thread::scope(|scope| {
            let others: Vec<_> = (0..3).map(|_| scope.spawn(shedding)).collect();
            others.into_iter().map(|other| other.join().unwrap()).sum::<usize>() + shedding()
        });
        assert_eq!((shed, record.active()), (400, 600));
    }

    #[test]
    fn least_conn_goes_by_sessions_for_the_weight() {
        let least = |backends| pool(Balance::LeastConn, backends);
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
            let mut pool = pool(Balance::RoundRobin, "a b");
            pool.max_fails = max_fails;
            pool
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
        let round_robin = |backends| pool(Balance::RoundRobin, backends);
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
        let round_robin = |backends| pool(Balance::RoundRobin, backends);
        check(round_robin("a"), "aF . af . aS .", "a a a");
        check(round_robin("a b c"), "bF +1 cF +1 aF . > > >", "b c a tried");
        // A crowd is spread over them, and the first that does well is in.
        check(round_robin("a b"), "aF bF +1 . +1 . +1 . bS . .", "a b a b b");
        check(round_robin("a<1 b"), "aF ao +1 bF . >", "b full");
        let mut no_time = round_robin("a b");
        no_time.fail_timeout = Duration::ZERO;
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
            let mut bench = Bench::new(pool(balance.clone(), "a*5 b*3 c*2"));
            for (letter, weight) in [('a', 0.5), ('b', 0.3), ('c', 0.2)] {
                let share = bench.share(letter, 20_000);
                assert!((share - weight).abs() < 0.015, "{balance:?}: {letter} has {share}");
            }
        }
    }

    #[test]
    fn of_two_drawn_the_less_loaded_is_taken() {
        let mut bench = Bench::new(pool(Balance::RandomTwo, "a b"));
        bench.opened('a');
        assert_eq!(bench.share('b', 100), 1.0);
        let mut bench = Bench::new(pool(Balance::RandomTwo, "a b c"));
        bench.opened('a');
        assert_eq!(bench.share('a', 1000), 0.0);
        let mut bench = Bench::new(pool(Balance::RandomTwo, "a*3 b"));
        for letter in ['a', 'a', 'b'] {
            bench.opened(letter);
        }
        assert_eq!(bench.share('a', 100), 1.0);
    }

    /// What each of 2000 keys falls on.
    fn places(backends: &str, leave: Option<char>) -> Vec<char> {
        let mut bench = Bench::new(pool(hashed(), backends));
        let mut tried = Tried::default();
        if let Some(letter) = leave {
            tried.add(bench.index(letter));
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
        let rules = pool(hashed(), "a a");
        let (members, mut balancer) = (strangers(&rules), Balancer::default());
        let mut dice = fastrand::Rng::with_seed(0);
        let (none, now) = (Tried::default(), Moment::START);
        let mut chosen = [0; 2];
        for key in 0..1000 {
            let index = balancer.choose(&rules, &members, Some(key), &none, now, &mut dice).unwrap();
            chosen[usize::from(index)] += 1;
        }
        assert!(chosen.iter().all(|&share| share > 400), "{chosen:?}");
    }

    #[test]
    fn a_request_without_a_key_goes_round_robin() {
        check(pool(hashed(), "a b c"), ". . . .", "a b c a");
        check(pool(Balance::IpHash, "a b c"), ". . . .", "a b c a");
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
            let mut rules = pool(ways[dice.usize(..5)].clone(), &"a ".repeat(dice.usize(1..80)));
            for backend in &mut rules.backends {
                backend.weight = dice.u32(1..9);
                backend.max_conns = dice.u32(..3);
                backend.backup = dice.u8(..4) == 0;
            }
            rules.max_fails = dice.u32(..3);
            let backends = &rules.backends;
            let (members, mut balancer) = (strangers(&rules), Balancer::default());
            let mut now = Moment::START;
            let mut open = Vec::new();
            for _ in 0..40 {
                now += SECOND * dice.u32(..8);
                let mut tried = Tried::default();
                let mut tried_model = vec![false; backends.len()];
                let key = dice.bool().then(|| dice.u64(..));
                loop {
                    let full = |index: usize| {
                        let max = backends[index].max_conns;
                        max != 0 && members.records[index].active() >= max
                    };
                    let choice = balancer.choose(&rules, &members, key, &tried, now, &mut dice);
                    let Ok(place) = choice.inspect_err(|none| {
                        let untried: Vec<usize> =
                            (0..backends.len()).filter(|&index| !tried_model[index]).collect();
                        assert_eq!(*none == NoChoice::AllTried, untried.is_empty(), "seed {seed}");
                        assert!(untried.iter().all(|&index| full(index)), "seed {seed}");
                    }) else {
                        break;
                    };
                    let index = usize::from(place);
                    let record = members.record(place);
                    assert!(!tried_model[index] && !full(index), "seed {seed}");
                    tried_model[index] = true;
                    tried.add(place);
                    if dice.bool() {
                        record.failed(&rules, now);
                        continue;
                    }
                    record.succeeded();
                    assert!(record.open(backends[index].max_conns), "seed {seed}");
                    open.push(place);
                    break;
                }
                if dice.bool() && !open.is_empty() {
                    members.record(open.swap_remove(dice.usize(..open.len()))).close();
                }
            }
        }
    }

    /// Loads change between two looks at them: a server may then have fewer sessions than itself.
    #[test]
    fn other_workers_may_open_and_close_while_one_chooses() {
        let mut bench = Bench::new(pool(Balance::LeastConn, "a b c"));
        let records = bench.members.records().to_vec();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    records.iter().for_each(|record| assert!(record.open(0)));
                    records.iter().for_each(|record| record.close());
                }
            });
            let mut choose = || (0..200_000).all(|_| bench.choose(None, &Tried::default()).is_ok());
            // The other thread is to end whatever happens.
            let found = catch_unwind(AssertUnwindSafe(&mut choose));
            is_over.store(true, Relaxed);
            assert!(found.expect("no panic"));
        });
    }
}
