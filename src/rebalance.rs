//! Tunnels spread again over a pool's servers, after some were added or came back.
//!
//! New sessions find a new server by themselves, tunnels that are open do not: they would stay where they are for days.
//! So surplus ones are closed, paced, and their clients come back to where there is room. What is surplus is told by
//! what all servers had together when it began: while closed clients are on their way the pool has fewer than it will
//! have, and a server's share of that would be too small.
//!
//! An episode begins when there is reason to, and ends when no server has more than it may keep and those that were
//! closed had time to come back. Between episodes nothing is closed, so that the ebb and flow of a busy day is not
//! chased. Pure decisions; what is closed and when is the loop's part.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::moment::Moment;
use crate::pace::Pace;
use crate::plan::{Rebalance, Share};

/// How long an episode waits, after the last tunnel that it closed, for clients to come back: it is they who show
/// whether it is done.
pub const RETURN_TIMEOUT: Duration = Duration::from_secs(30);

/// How a server stands among those of its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its weight.
    pub weight: u32,
    /// Its sessions.
    pub active: u32,
    /// How many it may have.
    pub room: u32,
    /// Whether it is one of those to spread over: in, not draining, no backup.
    pub takes: bool,
}

/// What each server may keep when all of them together have `expected`: as much above its share by weight as is
/// allowed, and never less than the share itself. One that takes nothing new keeps what it has. What a server has no
/// room for belongs to the others' shares: a client that was closed for it would come back to where it was.
pub fn kept(standings: &[Standing], expected: u64, within: Share) -> Vec<u32> {
    let Some((rest, weights)) = beside_full(standings, expected) else {
        return vec![u32::MAX; standings.len()];
    };
    let keeps = |standing: &Standing| {
        if !standing.takes {
            return u32::MAX;
        }
        let share = rest as f64 * f64::from(standing.weight) / weights as f64;
        let share = share.min(f64::from(standing.room));
        let most = share.ceil().max((share * (1.0 + f64::from(within.0))).floor());
        most as u32 // what is too much for it is its maximum
    };
    standings.iter().map(keeps).collect()
}

/// What is left of `expected` for those that have room for their share of it, and their weights together: whom the
/// others have no room for comes to these. `None` where nobody has room.
fn beside_full(standings: &[Standing], expected: u64) -> Option<(u64, u64)> {
    let mut takers: Vec<&Standing> = standings.iter().filter(|standing| standing.takes).collect();
    // Who is full first comes first.
    takers.sort_by(|a, b| {
        let full = |a: &Standing, b: &Standing| u64::from(a.room) * u64::from(b.weight);
        full(a, b).cmp(&full(b, a))
    });
    let mut rest = expected;
    let mut weights = takers.iter().map(|taker| u64::from(taker.weight)).sum();
    for taker in takers {
        let (room, weight) = (u64::from(taker.room), u64::from(taker.weight));
        if rest * weight <= room * weights {
            return Some((rest, weights));
        }
        rest -= room;
        weights -= weight;
    }
    None
}

fn together(standings: &[Standing]) -> u64 {
    standings.iter().filter(|standing| standing.takes).map(|standing| u64::from(standing.active)).sum()
}

fn surplus(standings: &[Standing], kept: &[u32]) -> u64 {
    standings.iter().zip(kept).map(|(standing, &kept)| u64::from(standing.active.saturating_sub(kept))).sum()
}

/// One spreading of a pool's tunnels, shared by all workers and kept from one configuration to the next.
#[derive(Debug, Default)]
pub struct Episode {
    /// What the servers had together when it began; 0: there is none.
    expected: AtomicU64,
    /// How many may still be closed. Where clients do not come to the servers that lack them, closing more is no help.
    allowance: AtomicU64,
    /// When it began, or last closed a tunnel.
    moved_at: AtomicU64,
    /// A server has come back, so that one should begin.
    is_wanted: AtomicBool,
    /// When tunnels are closed.
    pub pace: Pace,
}

impl Episode {
    /// Whether there is one.
    pub fn is_on(&self) -> bool {
        self.expected.load(Relaxed) > 0
    }

    /// There is reason to begin one: a server has come back.
    pub fn want(&self) {
        self.is_wanted.store(true, Relaxed);
    }

    /// Whether there was reason to since this was last asked.
    pub fn take_wanted(&self) -> bool {
        self.is_wanted.load(Relaxed) && self.is_wanted.swap(false, Relaxed)
    }

    /// Begins one where there is something to do, anew where one is on already. Says whether there is.
    pub fn begin(&self, standings: &[Standing], rules: &Rebalance, now: Moment) -> bool {
        let expected = together(standings).max(self.expected.load(Relaxed));
        let surplus = surplus(standings, &kept(standings, expected, rules.within));
        if surplus > 0 {
            self.allowance.store(2 * surplus, Relaxed);
            self.moved_at.store(now.nanos(), Relaxed);
            self.pace.begin(now);
            self.expected.store(expected, Relaxed);
        }
        self.is_on()
    }

    /// How many tunnels [`begin`](Episode::begin) would have closed, as things stand.
    #[cfg(feature = "admin")]
    pub fn surplus(&self, standings: &[Standing], rules: &Rebalance) -> u64 {
        let expected = together(standings).max(self.expected.load(Relaxed));
        surplus(standings, &kept(standings, expected, rules.within))
    }

    /// It is no longer wanted that tunnels are spread.
    pub fn end(&self) {
        self.expected.store(0, Relaxed);
        self.is_wanted.store(false, Relaxed);
    }

    /// What each server may keep; `None` where the episode is over, or has just ended.
    pub fn look(&self, standings: &[Standing], rules: &Rebalance, now: Moment) -> Option<Vec<u32>> {
        let expected = self.expected.load(Relaxed);
        if expected == 0 {
            return None;
        }
        let here = together(standings);
        let kept = kept(standings, expected.max(here), rules.within);
        let is_even = surplus(standings, &kept) == 0;
        let moved_at = Moment::from_nanos(self.moved_at.load(Relaxed)).unwrap_or(now);
        let gives_up = self.allowance.load(Relaxed) == 0 || now.since(moved_at) >= RETURN_TIMEOUT;
        if gives_up || (is_even && here >= expected) {
            self.expected.store(0, Relaxed);
            return None;
        }
        Some(kept)
    }

    /// A tunnel is closed.
    pub fn closed(&self, now: Moment) {
        let _ = self.allowance.fetch_update(Relaxed, Relaxed, |allowance| allowance.checked_sub(1));
        self.moved_at.store(now.nanos(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{Balancer, Members, Record, Tried};
    use crate::plan::{Address, Backend, Balance, OnRemoved, Pool};
    use fastrand::Rng;
    use std::sync::Arc;

    const MS: Duration = Duration::from_millis(1);

    /// Standings from `active/room*weight`; a `-` behind them takes nothing.
    fn standings(text: &str) -> Vec<Standing> {
        let standing = |word: &str| {
            let takes = !word.ends_with('-');
            let (active, weight) =
                word.trim_end_matches('-').split_once('*').unwrap_or((word.trim_end_matches('-'), "1"));
            let (active, room) = active.split_once('/').unwrap_or((active, "4294967295"));
            let [weight, active, room] = [weight, active, room].map(|number| number.parse().unwrap());
            Standing { weight, active, room, takes }
        };
        text.split_whitespace().map(standing).collect()
    }

    #[track_caller]
    fn check_kept(text: &str, within: f32, expected: &[u32]) {
        let standings = standings(text);
        assert_eq!(kept(&standings, together(&standings), Share(within)), expected, "{text}");
    }

    #[test]
    fn a_server_keeps_its_share_by_weight_and_a_little_more() {
        check_kept("1000 0", 0.1, &[550, 550]);
        check_kept("1000 0*3", 0.1, &[275, 825]);
        check_kept("1000 0", 0.0, &[500, 500]);
        check_kept("900 300- 0", 0.1, &[495, u32::MAX, 495]);
    }

    #[test]
    fn what_cannot_be_shared_evenly_stays_where_it_is() {
        check_kept("1 0", 0.1, &[1, 1]);
        check_kept("2 0", 0.1, &[1, 1]);
        check_kept("3 0", 0.1, &[2, 2]);
        check_kept("0 0", 0.1, &[0, 0]);
    }

    #[test]
    fn what_a_server_has_no_room_for_is_the_others() {
        check_kept("1000 0/20", 0.0, &[980, 20]);
        check_kept("1000 0/20 0*3", 0.0, &[245, 20, 735]);
        check_kept("90/90 0/15*3 0/9 0", 0.1, &[36, 16, 9, 36]);
        check_kept("100/50 0/50", 0.0, &[50, 50]);
        check_kept("101/50 0/50", 0.0, &[u32::MAX, u32::MAX]);
    }

    #[test]
    fn an_episode_begins_where_there_is_something_to_do() {
        let rules = Rebalance { within: Share(0.1), rate: 50 };
        let now = Moment::START;
        for (text, begins) in
            [("1000 0", true), ("540 460", false), ("560 440", true), ("9-", false), ("9 0-", false)]
        {
            assert_eq!(Episode::default().begin(&standings(text), &rules, now), begins, "{text}");
        }
    }

    #[test]
    fn an_episode_ends_when_clients_are_back_or_do_not_come() {
        let rules = Rebalance { within: Share(0.1), rate: 50 };
        let episode = Episode::default();
        let now = Moment::START;
        assert!(episode.begin(&standings("10 0"), &rules, now));
        assert!(episode.look(&standings("5 0"), &rules, now).is_some(), "five are on their way");
        assert!(episode.look(&standings("5 5"), &rules, now).is_none());
        assert!(!episode.is_on());
        assert!(episode.begin(&standings("10 0"), &rules, now));
        episode.closed(now + MS);
        let over = now + RETURN_TIMEOUT;
        assert!(episode.look(&standings("6 0"), &rules, over).is_some());
        assert!(episode.look(&standings("6 0"), &rules, over + MS).is_none());
    }

    #[test]
    fn an_episode_that_begins_anew_does_not_forget_who_is_on_the_way() {
        let rules = Rebalance { within: Share(0.0), rate: 50 };
        let (episode, now) = (Episode::default(), Moment::START);
        assert!(episode.begin(&standings("10 0"), &rules, now));
        assert!(episode.begin(&standings("6 0"), &rules, now));
        assert_eq!(episode.look(&standings("6 0"), &rules, now), Some(vec![5, 5]));
    }

    #[test]
    fn a_wish_is_granted_once() {
        let episode = Episode::default();
        assert!(!episode.take_wanted());
        episode.want();
        assert!(episode.take_wanted() && !episode.take_wanted());
    }

    /// A pool whose clients come, stay for a while and go, and come back after they were closed.
    struct World {
        pool: Pool,
        members: Members,
        balancer: Balancer,
        dice: Rng,
        now: Moment,
        /// The server of each tunnel.
        tunnels: Vec<u16>,
        /// When clients that were closed come back.
        returning: Vec<Moment>,
        closed: u64,
        /// A server that accepts nobody, and what happens then.
        dead: Option<u16>,
    }

    impl World {
        fn new(seed: u64) -> World {
            let mut dice = Rng::with_seed(seed);
            let backend = |index: usize, weight: u32| Backend {
                name: index.to_string(),
                address: Address::Unix(index.to_string().into()),
                weight,
                max_conns: 0,
                backup: false,
                drain: false,
            };
            let count = dice.usize(2..8);
            let backends: Vec<Backend> = (0..count).map(|index| backend(index, dice.u32(1..6))).collect();
            let balances = [Balance::RoundRobin, Balance::LeastConn, Balance::RandomTwo];
            let pool = Pool {
                name: "pool".into(),
                backends,
                balance: balances[dice.usize(..3)].clone(),
                max_fails: 0,
                fail_timeout: Duration::from_secs(10),
                proxy_header: None,
                on_removed: OnRemoved::Keep,
                rebalance: Some(Rebalance { within: Share(dice.f32() * 0.3), rate: dice.u32(50..500) }),
            };
            let records = (0..count as u32).map(|id| Arc::new(Record::new(id))).collect();
            let members = Members::new(&pool, records, Arc::default());
            World {
                pool,
                members,
                balancer: Balancer::default(),
                dice,
                now: Moment::START + Duration::from_secs(1),
                tunnels: Vec::new(),
                returning: Vec::new(),
                closed: 0,
                dead: None,
            }
        }

        fn rules(&self) -> Rebalance {
            self.pool.rebalance.expect("there are some")
        }

        fn standings(&self) -> Vec<Standing> {
            self.members.standings(&self.pool)
        }

        fn arrive(&mut self) {
            let mut tried = Tried::default();
            loop {
                let World { pool, members, balancer, dice, now, .. } = self;
                let Ok(index) = balancer.choose(pool, members, None, &tried, *now, dice) else { return };
                tried.add(index);
                if self.dead != Some(index) {
                    assert!(self.members.record(index).open(0));
                    self.tunnels.push(index);
                    return;
                }
            }
        }

        fn leave(&mut self) {
            if !self.tunnels.is_empty() {
                let index = self.tunnels.swap_remove(self.dice.usize(..self.tunnels.len()));
                self.members.record(index).close();
            }
        }

        /// What the loop does when a slot of the pace has come.
        fn close_one(&mut self) {
            let (standings, rules) = (self.standings(), self.rules());
            let Some(kept) = self.members.episode.look(&standings, &rules, self.now) else { return };
            let excess = |index: &usize| standings[*index].active.saturating_sub(kept[*index]);
            let Some(index) = (0..kept.len()).max_by_key(excess).filter(|index| excess(index) > 0) else {
                return;
            };
            let place = self.tunnels.iter().position(|&server| usize::from(server) == index);
            self.tunnels.swap_remove(place.expect("it has tunnels"));
            assert!(self.members.records()[index].shed(kept[index]));
            let share = together(&standings) as f64 * f64::from(standings[index].weight)
                / standings.iter().map(|s| f64::from(s.weight)).sum::<f64>();
            let left = self.members.records()[index].active();
            assert!(
                f64::from(left) + 1e-6 >= share.floor(),
                "{left} are left of a share of {share}: too few"
            );
            self.members.episode.closed(self.now);
            self.closed += 1;
            if self.dice.u8(..20) > 0 {
                let wait = MS * self.dice.u32(1..3000);
                self.returning.push(self.now + wait);
            }
        }

        /// Lets time pass, with so many arrivals and departures a second each, and closings at their pace.
        fn run(&mut self, time: Duration, churn: u32) {
            let step = 10 * MS;
            let mut debt = 0.0;
            for _ in 0..time.as_millis() / 10 {
                self.now += step;
                debt += f64::from(self.rules().rate) / 100.0;
                while debt >= 1.0 {
                    debt -= 1.0;
                    self.close_one();
                }
                let now = self.now;
                let back = self.returning.iter().filter(|&&at| at <= now).count();
                self.returning.retain(|&at| at > now);
                (0..back).for_each(|_| self.arrive());
                for _ in 0..churn / 100 {
                    self.arrive();
                    self.leave();
                }
            }
        }
    }

    #[test]
    fn it_converges_never_overshoots_and_never_flaps() {
        for seed in 0..60 {
            let mut world = World::new(seed);
            // All servers but the last, until that one is added, or comes back.
            let newcomer = world.pool.backends.len() - 1;
            world.pool.backends[newcomer].drain = true;
            (0..world.dice.u32(10..2000)).for_each(|_| world.arrive());
            let churn = world.dice.u32(..3) * 100;
            world.run(Duration::from_secs(2), churn);
            assert_eq!(world.closed, 0, "seed {seed}: there was no reason to");
            world.pool.backends[newcomer].drain = false;
            let (standings, rules) = (world.standings(), world.rules());
            let before = surplus(&standings, &kept(&standings, together(&standings), rules.within));
            let begins = world.members.episode.begin(&standings, &rules, world.now);
            assert_eq!(begins, before > 0, "seed {seed}");
            world.run(Duration::from_secs(120), churn);
            assert!(!world.members.episode.is_on(), "seed {seed}: it ends");
            // One that was closed and comes back is one that has moved: hardly any is closed in vain.
            assert!(world.closed <= before + before / 4 + 10, "seed {seed}: {} for {before}", world.closed);
            if churn == 0 {
                let standings = world.standings();
                let left =
                    surplus(&standings, &kept(&standings, together(&standings) + before, rules.within));
                assert_eq!(left, 0, "seed {seed}: {standings:?}");
            }
            // However busy the day is from then on, nothing is closed without a new reason.
            let closed = world.closed;
            world.run(Duration::from_secs(20), 300);
            assert_eq!(world.closed, closed, "seed {seed}");
        }
    }

    #[test]
    fn a_server_that_takes_nobody_does_not_keep_it_going() {
        for seed in 0..20 {
            let mut world = World::new(seed);
            let newcomer = world.pool.backends.len() - 1;
            world.dead = Some(newcomer as u16);
            (0..500).for_each(|_| world.arrive());
            let (standings, rules) = (world.standings(), world.rules());
            let before = surplus(&standings, &kept(&standings, together(&standings), rules.within));
            world.members.episode.begin(&standings, &rules, world.now);
            world.run(Duration::from_secs(120), 0);
            assert!(!world.members.episode.is_on(), "seed {seed}: it ends");
            assert!(world.closed <= 2 * before, "seed {seed}: {} for {before}", world.closed);
        }
    }

    /// Whom a server has no room for would come back to where it was closed.
    #[test]
    fn nobody_is_closed_for_a_server_that_has_no_room() {
        let mut world = World::new(1);
        world.pool.backends.truncate(2);
        world.pool.backends.iter_mut().for_each(|backend| backend.weight = 1);
        let records = (0..2).map(|id| Arc::new(Record::new(id))).collect();
        world.members = Members::new(&world.pool, records, Arc::default());
        world.pool.balance = Balance::RoundRobin;
        world.pool.rebalance = Some(Rebalance { within: Share(0.1), rate: 100 });
        world.pool.backends[1].drain = true;
        (0..1000).for_each(|_| world.arrive());
        world.pool.backends[1].drain = false;
        world.pool.backends[1].max_conns = 20;
        world.members.episode.begin(&world.standings(), &world.rules(), world.now);
        world.run(Duration::from_secs(120), 0);
        assert!(world.closed <= 25, "{} are closed for 20 places", world.closed);
        assert!(!world.members.episode.is_on());
    }
}
