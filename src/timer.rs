//! Deadlines by key, made for deadlines that move later all the time.
//!
//! A busy tunnel's idle deadline moves with each message and almost never fires. So a key has two instants:
//! the deadline `wanted`, and the one `scheduled` in an ordered set. Moving later writes only `wanted`; when
//! the scheduled instant comes, the key is scheduled anew, silently. A message costs a compare and a store,
//! and the ordered set is touched once per timeout. A timer wheel would be as cheap, for more code and
//! coarser time.
//!
//! The price: [`Timers::next`] may name an instant at which nothing is due yet.

use std::collections::BTreeSet;

use crate::moment::Moment;

/// At most one deadline for each key. Keys are those of a slab: small and dense, since they index a `Vec`
/// that is as long as the largest one.
#[derive(Debug, Default)]
pub struct Timers {
    entries: Vec<Entry>,
    /// Exactly the entries' `scheduled` instants: never more elements than entries.
    schedule: BTreeSet<(Moment, usize)>,
}

/// Where a deadline is wanted, something is scheduled and `scheduled <= wanted`.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    wanted: Option<Moment>,
    scheduled: Option<Moment>,
}

impl Timers {
    /// No deadlines.
    pub fn new() -> Timers {
        Timers::default()
    }

    /// Sets, moves or (with `None`) takes back a key's deadline. Costs a look into the ordered set only where
    /// the deadline comes to lie before all that the key was ever scheduled for; moving later and taking back
    /// do not.
    pub fn set(&mut self, key: usize, deadline: Option<Moment>) {
        if key >= self.entries.len() {
            self.entries.resize(key + 1, Entry::default());
        }
        let entry = &mut self.entries[key];
        if entry.wanted == deadline {
            return;
        }
        entry.wanted = deadline;
        let Some(wanted) = deadline else { return };
        match entry.scheduled {
            Some(scheduled) if scheduled <= wanted => return,
            Some(scheduled) => {
                self.schedule.remove(&(scheduled, key));
            }
            None => {}
        }
        entry.scheduled = Some(wanted);
        self.schedule.insert((wanted, key));
    }

    /// Forgets a key at once and altogether: for a slot that is freed, so that the next one in it inherits
    /// nothing. (`set` to `None` is cheaper and leaves what is scheduled to fire unheard.)
    pub fn clear(&mut self, key: usize) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Some(scheduled) = entry.scheduled {
            self.schedule.remove(&(scheduled, key));
        }
        *entry = Entry::default();
    }

    /// When to look at [`Timers::expired`] again; `None` where no deadline is set. Never after the first
    /// deadline, but sometimes before it: then the look finds nothing and there is a new answer here.
    pub fn next(&self) -> Option<Moment> {
        self.schedule.first().map(|&(scheduled, _)| scheduled)
    }

    /// Takes one key whose deadline is not after `now`, and with it the deadline. To be called until it says
    /// `None`. Keys that are due together come in no promised order.
    pub fn expired(&mut self, now: Moment) -> Option<usize> {
        while let Some(&(scheduled, key)) = self.schedule.first() {
            if scheduled > now {
                return None;
            }
            self.schedule.pop_first();
            let entry = &mut self.entries[key];
            entry.scheduled = None;
            match entry.wanted {
                Some(wanted) if wanted <= now => {
                    entry.wanted = None;
                    return Some(key);
                }
                Some(wanted) => {
                    entry.scheduled = Some(wanted);
                    self.schedule.insert((wanted, key));
                }
                None => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// Runs a script on a clock in milliseconds: `key=ms` sets, `key=-` takes back, `key!` clears, `@ms` lets
    /// that time come and writes down who expired then, `?ms` or `?-` says what `next` must be.
    fn check(script: &str, expired: &[(u64, usize)]) {
        let start = Moment::START;
        let at = |ms: &str| (ms != "-").then(|| start + Duration::from_millis(ms.parse().unwrap()));
        let mut timers = Timers::new();
        let mut found = Vec::new();
        for step in script.split_whitespace() {
            if let Some(ms) = step.strip_prefix('@') {
                while let Some(key) = timers.expired(at(ms).unwrap()) {
                    found.push((ms.parse().unwrap(), key));
                }
            } else if let Some(ms) = step.strip_prefix('?') {
                assert_eq!(timers.next(), at(ms), "{script}: {step}");
            } else if let Some(key) = step.strip_suffix('!') {
                timers.clear(key.parse().unwrap());
            } else {
                let (key, ms) = step.split_once('=').unwrap();
                timers.set(key.parse().unwrap(), at(ms));
            }
        }
        assert_eq!(found, expired, "{script}");
    }

    #[test]
    fn a_deadline_fires_once_when_it_has_come() {
        check("?- @5", &[]);
        check("0=10 ?10 @9 @10 @11 ?-", &[(10, 0)]);
        check("0=10 @99", &[(99, 0)]);
        check("3=10 1=20 ?10 @10 ?20 @20 ?-", &[(10, 3), (20, 1)]);
        check("0=10 1=10 @10", &[(10, 0), (10, 1)]);
        check("0=10 @10 0=15 @15", &[(10, 0), (15, 0)]);
    }

    #[test]
    fn moving_later_wakes_once_too_early_and_fires_on_time() {
        check("0=10 0=20 0=30 ?10 @10 ?30 @29 @30 ?-", &[(30, 0)]);
        check("0=10 0=30 @40", &[(40, 0)]);
        check("0=10 0=30 1=20 @10 ?20 @20 @30", &[(20, 1), (30, 0)]);
    }

    #[test]
    fn moving_earlier_fires_at_the_earlier_time_only() {
        check("0=30 0=10 ?10 @10 ?- @30", &[(10, 0)]);
        check("0=10 0=30 0=20 ?10 @10 ?20 @20 ?-", &[(20, 0)]);
        check("0=10 0=30 0=5 ?5 @5 ?- @30", &[(5, 0)]);
    }

    #[test]
    fn taking_back_is_silent() {
        check("0=10 0=- ?10 @10 ?- @99", &[]);
        check("0=10 0=- 0=20 @10 ?20 @20", &[(20, 0)]);
        check("5=- ?- @10", &[]);
    }

    #[test]
    fn clearing_forgets_at_once() {
        check("0=10 0! ?- @10", &[]);
        check("0=10 0=30 0! ?- @30", &[]);
        check("0=10 1=20 0! ?20 @20", &[(20, 1)]);
        check("0=10 0! 0=40 ?40 @10 @40", &[(40, 0)]);
        check("7! 0! ?-", &[]);
    }

    #[test]
    fn churn_leaves_nothing_behind() {
        let start = Moment::START;
        let mut timers = Timers::new();
        for round in 0..10_000 {
            let key = round % 4;
            timers.set(key, Some(start + Duration::from_secs(60)));
            timers.set(key, Some(start + Duration::from_secs(90)));
            timers.set(key, Some(start + Duration::from_secs(30)));
            timers.set(key, None);
            timers.set(key, Some(start + Duration::from_secs(45)));
            assert!(timers.schedule.len() <= 4);
            timers.clear(key);
        }
        assert_eq!((timers.schedule.len(), timers.entries.len()), (0, 4));
    }

    /// Against a map from key to deadline that is searched anew each time.
    #[test]
    fn it_agrees_with_a_naive_model() {
        for seed in 0..500 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let mut now = Moment::START;
            let mut timers = Timers::new();
            let mut model: BTreeMap<usize, Moment> = BTreeMap::new();
            for _ in 0..200 {
                let key = dice.usize(..8);
                match dice.u8(..8) {
                    0..4 => {
                        let deadline = now + Duration::from_millis(dice.u64(..50));
                        timers.set(key, Some(deadline));
                        model.insert(key, deadline);
                    }
                    4 => {
                        timers.set(key, None);
                        model.remove(&key);
                    }
                    5 => {
                        timers.clear(key);
                        model.remove(&key);
                    }
                    _ => {
                        now += Duration::from_millis(dice.u64(..20));
                        let mut found: Vec<usize> = std::iter::from_fn(|| timers.expired(now)).collect();
                        found.sort_unstable();
                        let is_due = |key: &usize| model[key] <= now;
                        let due: Vec<usize> = model.keys().copied().filter(is_due).collect();
                        model.retain(|_, deadline| *deadline > now);
                        assert_eq!(found, due, "seed {seed}");
                        assert!(timers.next().is_none_or(|next| next > now), "seed {seed}: busy loop");
                    }
                }
                let first = model.values().min();
                assert!(
                    first.is_none_or(|first| timers.next().is_some_and(|next| next <= *first)),
                    "seed {seed}"
                );
                let scheduled = timers.entries.iter().filter(|entry| entry.scheduled.is_some()).count();
                assert_eq!(timers.schedule.len(), scheduled, "seed {seed}");
            }
        }
    }
}
