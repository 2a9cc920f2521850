//! Deadlines by key, made for deadlines that move later all the time.
//!
//! A busy tunnel's idle deadline moves with each message and almost never fires. So moving later does nothing:
//! when the old deadline comes the key is handed out, and its owner, who knows better, sets the one that holds
//! now. A message costs a compare, and the heap is touched once per timeout. A timer wheel would be as cheap,
//! for more code and coarser time; an ordered set takes twice the memory.
//!
//! The price: [`Timers::expired`] may hand out a key for which nothing is due yet.

use crate::moment::Moment;

/// At most one deadline for each key. Keys are those of a slab: small and dense, since they index a `Vec`
/// that is as long as the largest one.
#[derive(Debug, Default)]
pub struct Timers {
    entries: Vec<Entry>,
    /// The keys that are scheduled, as a binary heap: none before the one at half its place.
    heap: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Not after the deadline, where there is one.
    scheduled: Option<Moment>,
    /// Where in the heap the key is, if it is scheduled.
    place: u32,
}

impl Timers {
    /// No deadlines.
    pub fn new() -> Timers {
        Timers::default()
    }

    /// Sets, moves or (with `None`) takes back a key's deadline. Costs a look into the heap only where the
    /// deadline comes to lie before the one that the key is scheduled for; moving later and taking back do
    /// nothing.
    pub fn set(&mut self, key: usize, deadline: Option<Moment>) {
        let Some(deadline) = deadline else { return };
        if key >= self.entries.len() {
            self.entries.resize(key + 1, Entry::default());
        }
        let entry = &mut self.entries[key];
        let place = match entry.scheduled {
            Some(scheduled) if scheduled <= deadline => return,
            Some(_) => entry.place as usize,
            None => {
                self.heap.push(key as u32); // sessions have descriptors, which are numbered by less
                self.heap.len() - 1
            }
        };
        entry.scheduled = Some(deadline);
        self.rise(place);
    }

    /// Forgets a key at once and altogether: for a slot that is freed, so that the next one in it inherits
    /// nothing.
    pub fn clear(&mut self, key: usize) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Entry { scheduled, place } = std::mem::take(entry);
        if scheduled.is_some() {
            self.take_out(place as usize);
        }
    }

    /// When to look at [`Timers::expired`] again; `None` where no deadline is set. Never after the first
    /// deadline, but sometimes before it.
    pub fn next(&self) -> Option<Moment> {
        self.heap.first().and_then(|&key| self.entries[key as usize].scheduled)
    }

    /// Takes one key whose deadline may have come by `now`, and with it the deadline: one that has moved later
    /// must be set again. To be called until it says `None`. Keys that are due together come in no promised
    /// order.
    pub fn expired(&mut self, now: Moment) -> Option<usize> {
        self.next().filter(|&scheduled| scheduled <= now)?;
        let key = self.heap[0] as usize;
        self.clear(key);
        Some(key)
    }

    fn scheduled(&self, place: usize) -> Option<Moment> {
        self.entries[self.heap[place] as usize].scheduled
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for place in [a, b] {
            self.entries[self.heap[place] as usize].place = place as u32;
        }
    }

    /// Moves the key at this place towards the first, as far as it comes before those that it meets.
    fn rise(&mut self, mut place: usize) {
        let up = |place: usize| place.saturating_sub(1) / 2;
        self.entries[self.heap[place] as usize].place = place as u32;
        while self.scheduled(place) < self.scheduled(up(place)) {
            self.swap(place, up(place));
            place = up(place);
        }
    }

    /// Moves the key at this place away from the first, as far as those that it meets come before it.
    fn sink(&mut self, mut place: usize) {
        loop {
            let below = 2 * place + 1..self.heap.len().min(2 * place + 3);
            let Some(first) = below.min_by_key(|&place| self.scheduled(place)) else { return };
            if self.scheduled(place) <= self.scheduled(first) {
                return;
            }
            self.swap(place, first);
            place = first;
        }
    }

    /// Takes the key at this place out of the heap. The last one fills the gap, and goes where it belongs from there.
    fn take_out(&mut self, place: usize) {
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.rise(place);
            self.sink(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// The keys whose deadline has come. Plays the owner of the others that are handed out, who sets them again.
    fn due(timers: &mut Timers, wanted: &mut BTreeMap<usize, Moment>, now: Moment) -> Vec<usize> {
        let mut due = Vec::new();
        while let Some(key) = timers.expired(now) {
            match wanted.get(&key) {
                Some(&deadline) if deadline > now => timers.set(key, Some(deadline)),
                Some(_) => {
                    wanted.remove(&key);
                    due.push(key);
                }
                None => {}
            }
        }
        due
    }

    /// Runs a script on a clock in milliseconds: `key=ms` sets, `key=-` takes back, `key!` clears, `@ms` lets
    /// that time come and writes down who expired then, `?ms` or `?-` says what `next` must be.
    fn check(script: &str, expired: &[(u64, usize)]) {
        let start = Moment::START;
        let at = |ms: &str| (ms != "-").then(|| start + Duration::from_millis(ms.parse().unwrap()));
        let mut timers = Timers::new();
        let mut wanted = BTreeMap::new();
        let mut found = Vec::new();
        for step in script.split_whitespace() {
            if let Some(ms) = step.strip_prefix('@') {
                for key in due(&mut timers, &mut wanted, at(ms).unwrap()) {
                    found.push((ms.parse().unwrap(), key));
                }
            } else if let Some(ms) = step.strip_prefix('?') {
                assert_eq!(timers.next(), at(ms), "{script}: {step}");
            } else if let Some(key) = step.strip_suffix('!') {
                timers.clear(key.parse().unwrap());
                wanted.remove(&key.parse().unwrap());
            } else {
                let (key, ms) = step.split_once('=').unwrap();
                let key = key.parse().unwrap();
                timers.set(key, at(ms));
                wanted.remove(&key);
                wanted.extend(at(ms).map(|deadline| (key, deadline)));
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
            assert!(timers.heap.len() <= 4);
            timers.clear(key);
        }
        assert_eq!((timers.heap.len(), timers.entries.len()), (0, 4));
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
                let key = dice.usize(..20);
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
                        let is_due = |key: &usize| model[key] <= now;
                        let expected: Vec<usize> = model.keys().copied().filter(is_due).collect();
                        let mut found = due(&mut timers, &mut model, now);
                        found.sort_unstable();
                        assert_eq!(found, expected, "seed {seed}");
                        assert!(timers.next().is_none_or(|next| next > now), "seed {seed}: busy loop");
                    }
                }
                let first = model.values().min();
                assert!(
                    first.is_none_or(|first| timers.next().is_some_and(|next| next <= *first)),
                    "seed {seed}"
                );
                let scheduled = timers.entries.iter().filter(|entry| entry.scheduled.is_some()).count();
                assert_eq!(timers.heap.len(), scheduled, "seed {seed}");
            }
        }
    }
}
