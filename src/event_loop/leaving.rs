//! How tunnels are closed that have to go: paced, in order, and until their deadline.
//!
//! At stop that is all of them; otherwise those of servers, routes and listeners that drain or were removed, those that
//! have reached their lifetime, and those that a pool has too many of on some of its servers.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{EventLoop, Phase};
use crate::balance::Members;
use crate::crew::Command;
use crate::drain::{Queue, Standing, Why, jitter};
use crate::error::Outcome;
use crate::moment::Moment;
use crate::plan::{Drain, Order, PoolId};
use crate::rebalance::Episode;
use crate::setup::Fate;

/// Tunnels closed in one turn at most, so that many that are due together do not hold up the others.
const DEPARTURES_MAX: usize = 256;

/// How often a pool that is being spread anew is looked at while there is nothing to close.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// A pool whose tunnels are being spread anew.
pub(super) struct Spreading {
    /// What it is known by from one configuration to the next.
    episode: Arc<Episode>,
    pool: PoolId,
    /// This worker's tunnels to each server that had too many, the quietest first.
    queues: HashMap<u32, Queue>,
    /// The slot of the pace in which the next one is closed.
    slot: Option<Moment>,
    /// When to look again.
    pub wake_at: Moment,
}

impl Spreading {
    /// A tunnel has ended.
    pub fn forget(&mut self, key: usize) {
        self.queues.values_mut().for_each(|queue| queue.forget(key));
    }

    /// Whether it knows of no tunnel to any of these servers.
    fn is_without(&self, members: &Members, servers: &[usize]) -> bool {
        let queue = |&server: &usize| self.queues.get(&members.records()[server].id);
        servers.iter().filter_map(queue).all(Queue::is_empty)
    }

    /// The quietest tunnel to the first of these servers that it knows of any to.
    fn pop(
        &mut self,
        members: &Members,
        servers: &[usize],
        look: impl Fn(usize) -> Option<Standing>,
    ) -> Option<(usize, usize)> {
        servers.iter().find_map(|&server| {
            let queue = self.queues.get_mut(&members.records()[server].id)?;
            Some((server, queue.pop(&look)?))
        })
    }
}

/// The servers that have more than they may keep, those with most of it first.
fn over(members: &Members, kept: &[u32]) -> Vec<usize> {
    let excess = |server: usize| members.records()[server].active().saturating_sub(kept[server]);
    let mut over: Vec<usize> = (0..kept.len()).filter(|&server| excess(server) > 0).collect();
    over.sort_by_key(|&server| Reverse(excess(server)));
    over
}

impl EventLoop {
    /// Asked to stop: after a while, where one is configured, in which whoever sends clients is told to send no more.
    pub(super) fn be_drained(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        self.crew.is_stopping.store(true, Relaxed);
        match self.setup().plan.drain.delay {
            Duration::ZERO => self.drain(),
            delay => {
                self.phase = Phase::Unready(self.clock.now + delay);
                if self.worker == 0 {
                    log::info!("draining in {delay:?}; until then clients are taken in");
                }
            }
        }
    }

    /// Nobody is let in any more, sessions end by themselves, and tunnels are closed at their pace.
    pub(super) fn drain(&mut self) {
        if !self.is_serving() {
            return;
        }
        let deadline = self.setup().plan.drain.timeout.map(|timeout| self.clock.now + timeout);
        self.phase = Phase::Draining(deadline);
        self.close_listeners();
        self.spreadings.clear();
        log::info!("draining {} sessions", self.slots.len());
        self.review();
    }

    /// Goes through all tunnels: which of them have to go, now that something has changed?
    pub(super) fn review(&mut self) {
        let Drain { order, rate, .. } = self.setup().plan.drain;
        let after = self.departures.follow(order);
        let before = std::mem::replace(&mut self.departures, after);
        if self.is_serving() && before.is_empty() && !self.setup().is_choosy() {
            return;
        }
        if before.is_empty() {
            self.crew.pace.begin(self.clock.now);
        }
        let tunnels = self.slots.iter().filter(|(_, slot)| !slot.over && slot.holds.tunnel.is_some());
        let keys: Vec<usize> = tunnels.map(|(key, _)| key).collect();
        for key in keys {
            match before.get(key) {
                // Where there is no pace, it is closed when its lifetime is over, or when an operator says so.
                Some((why @ (Why::Lifetime | Why::Dismissed), _)) if rate == 0 => {
                    self.send_off(key, why, Some(self.clock.now));
                }
                Some((why, deadline)) => {
                    // Reloads do not put it off, but may bring it forward.
                    let deadline = deadline.into_iter().chain(self.deadline()).min();
                    self.judge(key, deadline);
                    match why {
                        Why::Lifetime | Why::Dismissed => self.send_off(key, why, deadline), // that stays so
                        Why::Drains | Why::Removed => {}
                    }
                }
                None => self.judge(key, self.deadline()),
            }
        }
    }

    /// When a tunnel goes at the latest that has to go from now on.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.phase {
            Phase::Draining(deadline) => deadline,
            Phase::Serving | Phase::Unready(_) | Phase::Stopped => {
                self.setup().plan.drain.timeout.map(|timeout| self.clock.now + timeout)
            }
        }
    }

    /// Whether a tunnel has to go, and if so by that time.
    fn judge(&mut self, key: usize, deadline: Option<Moment>) {
        let slot = &self.slots[key];
        let Some(via) = slot.holds.tunnel else { return };
        let of = self.setup_of(key);
        match self.setup().fate(of, slot.listener, via.route(), slot.holds.backend) {
            Some(Fate::Closed) => self.send_off(key, Why::Removed, Some(self.clock.now)),
            Some(Fate::Removed) => self.send_off(key, Why::Removed, deadline),
            Some(Fate::Drained) => self.send_off(key, Why::Drains, deadline),
            None if !self.is_serving() => self.send_off(key, Why::Drains, deadline),
            None => {}
        }
    }

    pub(super) fn send_off(&mut self, key: usize, why: Why, deadline: Option<Moment>) {
        if let Some(standing) = self.slots[key].session.standing() {
            self.departures.add(key, standing, why, deadline);
        }
    }

    /// A session has become a tunnel. What it was opened with may be a configuration of yesterday.
    pub(super) fn welcome(&mut self, key: usize) {
        if !self.is_serving() || self.setup().is_choosy() {
            self.judge(key, self.deadline());
        }
    }

    /// A tunnel has reached its lifetime. Says whether it is closed at a pace.
    pub(super) fn retire(&mut self, key: usize) -> bool {
        let is_paced = self.setup().plan.drain.rate > 0;
        if is_paced {
            self.send_off(key, Why::Lifetime, self.deadline());
        }
        is_paced
    }

    /// Closes tunnels whose time has come.
    pub(super) fn depart(&mut self) {
        if std::mem::take(&mut self.tools.has_come_back) {
            self.come_back();
        }
        if self.departures.is_empty() {
            return; // as in nearly every turn
        }
        let rate = self.setup().plan.drain.rate;
        for _ in 0..DEPARTURES_MAX {
            let slots = &self.slots;
            let look = |key: usize| slots.get(key).and_then(|slot| slot.session.standing());
            let pace = (&self.crew.pace, rate);
            let due = self.departures.due(self.clock.now, pace, &mut self.tools.dice, look);
            let Some((key, why)) = due else { return };
            let outcome = match why {
                Why::Drains => Outcome::Drained,
                Why::Removed => Outcome::Removed,
                Why::Lifetime => Outcome::Lifetime,
                Why::Dismissed => Outcome::Dismissed,
            };
            self.close(key, Some(&outcome));
        }
    }

    /// A server has come back whose pool is to be spread anew.
    fn come_back(&mut self) {
        let setup = Arc::clone(self.setup());
        for (pool, members) in setup.plan.pools.iter().zip(&setup.members) {
            if let Some(rules) = pool.rebalance.as_ref().filter(|_| members.episode.take_wanted()) {
                members.episode.begin(&members.standings(pool), rules, self.clock.now);
            }
        }
        self.crew.tell_all(Some(self.worker), || Command::Spread);
        self.begin_to_spread();
    }

    /// Looks which pools have tunnels to spread anew.
    pub(super) fn begin_to_spread(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        let setup = Arc::clone(self.setup());
        let mut before = std::mem::take(&mut self.spreadings);
        for (index, (pool, members)) in setup.plan.pools.iter().zip(&setup.members).enumerate() {
            let episode = &members.episode;
            if pool.rebalance.is_none() || !episode.is_on() {
                continue;
            }
            let (pool, wake_at) = (PoolId(index as u16), self.clock.now); // a plan has no more
            let known = before.iter().position(|spreading| Arc::ptr_eq(&spreading.episode, episode));
            // One that is under way goes on in the slot that it has claimed.
            let (queues, slot) = known
                .map(|at| before.swap_remove(at))
                .map_or_else(Default::default, |spreading| (spreading.queues, spreading.slot));
            self.spreadings.push(Spreading { episode: Arc::clone(episode), pool, queues, slot, wake_at });
        }
    }

    /// Closes surplus tunnels whose time has come.
    pub(super) fn spread(&mut self) {
        if self.spreadings.is_empty() {
            return;
        }
        for mut spreading in std::mem::take(&mut self.spreadings) {
            if spreading.wake_at > self.clock.now || self.spread_pool(&mut spreading) {
                self.spreadings.push(spreading);
            }
        }
    }

    /// Says whether there is more to do.
    fn spread_pool(&mut self, spreading: &mut Spreading) -> bool {
        let now = self.clock.now;
        let setup = Arc::clone(self.setup());
        let (pool, members) = setup.pool(spreading.pool);
        let Some(rules) = &pool.rebalance else { return false };
        for _ in 0..DEPARTURES_MAX {
            let Some(kept) = members.episode.look(&members.standings(pool), rules, now) else { return false };
            let over = over(members, &kept);
            if spreading.is_without(members, &over) {
                spreading.queues = self.tunnels_to(members, &over);
            }
            if spreading.is_without(members, &over) {
                (spreading.slot, spreading.wake_at) = (None, now + LOOK_PERIOD);
                return true;
            }
            let claim =
                || members.episode.pace.claim(rules.rate, now) + jitter(rules.rate, &mut self.tools.dice);
            let slot = *spreading.slot.get_or_insert_with(claim);
            if slot > now {
                spreading.wake_at = slot;
                return true;
            }
            spreading.slot = None;
            let look = |key: usize| self.slots.get(key).and_then(|slot| slot.session.standing());
            let Some((index, key)) = spreading.pop(members, &over, look) else { continue };
            // Another worker may have closed the last that was too many.
            if members.records()[index].shed(kept[index]) {
                self.close_shed(key, Some(&Outcome::Rebalanced));
                members.episode.closed(now);
            }
        }
        spreading.wake_at = now;
        true
    }

    /// This worker's tunnels to some servers, of whatever configuration, but those that have to go anyway.
    fn tunnels_to(&self, members: &Members, servers: &[usize]) -> HashMap<u32, Queue> {
        let id = |&index: &usize| members.records()[index].id;
        let mut queues: HashMap<u32, Queue> =
            servers.iter().map(|index| (id(index), Queue::new(Order::Quietest))).collect();
        for (key, slot) in self.slots.iter().filter(|(key, _)| self.departures.get(*key).is_none()) {
            let (Some(backend), Some(standing)) = (slot.holds.backend, slot.session.standing()) else {
                continue;
            };
            if let Some(queue) = queues.get_mut(&self.setup_of(key).record(backend).id) {
                queue.add(key, standing);
            }
        }
        queues
    }
}
