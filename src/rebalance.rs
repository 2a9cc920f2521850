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
    /// Whether it is one of those to spread over: in, not draining, no backup.
    pub takes: bool,
}

/// What each server may keep when all of them together have `expected`: as much above its share by weight as is
/// allowed, and never less than the share itself. One that takes nothing new keeps what it has.
pub fn kept(standings: &[Standing], expected: u64, within: Share) -> Vec<u32> {
    let weights: u64 = standings.iter().filter(|s| s.takes).map(|s| u64::from(s.weight)).sum();
    let keeps = |standing: &Standing| {
        if !standing.takes {
            return u32::MAX;
        }
        let share = expected as f64 * f64::from(standing.weight) / weights as f64;
        let most = share.ceil().max((share * (1.0 + f64::from(within.0))).floor());
        most as u32 // what is too much for it is its maximum
    };
    standings.iter().map(keeps).collect()
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
