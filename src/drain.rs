//! Tunnels that have to go, and when each of them does.
//!
//! At stop, when a server, a route or a listener drains or is removed, and at the end of their lifetime, tunnels have
//! to go: paced, so that their clients do not all come back in the same second, in the order that is configured, and
//! each at its deadline at the latest. This is the list of a worker's; it knows no sockets, and is told how a tunnel
//! stands.
//!
//! A tunnel that speaks while it waits falls back in the order of the quietest. It is not moved when it speaks, which
//! would cost a message something, but looked at when it comes to the front.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use crate::moment::Moment;
use crate::pace::{self, Pace};
use crate::plan::Order;

/// How many tunnels are looked at for one that is quiet. Where that many have spoken since they were looked at last,
/// the quietest of them goes.
const LOOKS_MAX: usize = 64;

/// A tunnel, as far as it matters when it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When it opened.
    pub opened: Moment,
    /// When a byte last moved in it.
    pub moved_at: Moment,
}

impl Standing {
    /// The less the earlier it goes.
    fn rank(&self, order: Order) -> Moment {
        match order {
            Order::Oldest => self.opened,
            Order::Quietest => self.moved_at,
        }
    }
}

/// Tunnels in the order in which they go, the first first. Keys are a slab's; what is on the list must be taken off it
/// when its slot is given up.
#[derive(Debug)]
pub struct Queue {
    order: Order,
    /// A key may stand here more than once, and when it is no longer on the list. The number says which entry it means.
    heap: BinaryHeap<Reverse<(Moment, u64, usize)>>,
    numbers: HashMap<usize, u64>,
    next_number: u64,
}

impl Queue {
    /// Nobody yet.
    pub fn new(order: Order) -> Queue {
        Queue { order, heap: BinaryHeap::new(), numbers: HashMap::new(), next_number: 0 }
    }

    /// Whether nobody has to go.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Puts a tunnel on the list.
    pub fn add(&mut self, key: usize, standing: Standing) {
        let number = self.next_number;
        self.next_number += 1;
        self.numbers.insert(key, number);
        self.heap.push(Reverse((standing.rank(self.order), number, key)));
    }

    /// Takes a tunnel off the list.
    pub fn forget(&mut self, key: usize) {
        self.numbers.remove(&key);
    }

    /// Takes the first one off the list. `look` tells how a tunnel stands now.
    pub fn pop(&mut self, look: impl Fn(usize) -> Option<Standing>) -> Option<usize> {
        let mut looks = 0;
        while let Some(Reverse((rank, number, key))) = self.heap.pop() {
            if self.numbers.get(&key) != Some(&number) {
                continue;
            }
            let Some(standing) = look(key) else {
                self.forget(key);
                continue;
            };
            looks += 1;
            let now = standing.rank(self.order);
            if now > rank && looks < LOOKS_MAX {
                self.heap.push(Reverse((now, number, key)));
                continue;
            }
            self.forget(key);
            return Some(key);
        }
        None
    }
}

/// Why a tunnel has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The process, or its server, route or listener, drains.
    Drains,
    /// Its server or route was removed.
    Removed,
    /// It has reached its lifetime.
    Lifetime,
    /// An operator said so.
    Dismissed,
}

/// The tunnels of one worker that have to go.
#[derive(Debug)]
pub struct Departures {
    queue: Queue,
    entries: HashMap<usize, Entry>,
    /// As with the queue's heap, only what an entry agrees with holds.
    deadlines: BinaryHeap<Reverse<(Moment, usize)>>,
    /// The slot of the pace in which the next one goes.
    slot: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    why: Why,
    /// When it goes at the latest; `None`: when its turn comes.
    deadline: Option<Moment>,
}

impl Departures {
    /// Nobody has to go.
    pub fn new(order: Order) -> Departures {
        let queue = Queue::new(order);
        Departures { queue, entries: HashMap::new(), deadlines: BinaryHeap::new(), slot: None }
    }

    /// Nobody has to go, and who will goes on in the slot that was claimed.
    pub fn follow(&self, order: Order) -> Departures {
        Departures { slot: self.slot, ..Departures::new(order) }
    }

    /// Whether nobody has to go.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A tunnel has to go. One that already has keeps its deadline, unless an operator brings it forward; what is told
    /// only once, that its lifetime is over and what an operator said, is never forgotten.
    pub fn add(&mut self, key: usize, standing: Standing, why: Why, deadline: Option<Moment>) {
        if let Some(entry) = self.entries.get_mut(&key) {
            match why {
                Why::Drains | Why::Removed => {}
                Why::Lifetime if entry.why == Why::Dismissed => {}
                Why::Lifetime => entry.why = why,
                Why::Dismissed => {
                    let sooner = entry.deadline.into_iter().chain(deadline).min();
                    *entry = Entry { why, deadline: sooner };
                    self.deadlines.extend(sooner.map(|deadline| Reverse((deadline, key))));
                }
            }
            return;
        }
        self.entries.insert(key, Entry { why, deadline });
        self.queue.add(key, standing);
        if let Some(deadline) = deadline {
            self.deadlines.push(Reverse((deadline, key)));
        }
    }

    /// A tunnel has ended, or may stay after all.
    pub fn forget(&mut self, key: usize) {
        if self.entries.remove(&key).is_some() {
            self.queue.forget(key);
        }
        if self.entries.is_empty() {
            *self = self.follow(self.queue.order);
        }
    }

    /// Why a tunnel has to go and its deadline, where it has to.
    pub fn get(&self, key: usize) -> Option<(Why, Option<Moment>)> {
        self.entries.get(&key).map(|entry| (entry.why, entry.deadline))
    }

    /// When to ask for the next one that is due. Never too late, sometimes too early.
    pub fn next(&self) -> Option<Moment> {
        if self.is_empty() {
            return None;
        }
        let deadline = self.deadlines.peek().map(|Reverse((deadline, _))| *deadline);
        self.slot.into_iter().chain(deadline).min()
    }

    /// Takes one whose time has come off the list: by its deadline, or by the pace, so many a second; 0: by deadlines
    /// only.
    pub fn due(
        &mut self,
        now: Moment,
        (pace, rate): (&Pace, u32),
        dice: &mut fastrand::Rng,
        look: impl Fn(usize) -> Option<Standing>,
    ) -> Option<(usize, Why)> {
        while let Some(&Reverse((deadline, key))) = self.deadlines.peek().filter(|due| due.0.0 <= now) {
            self.deadlines.pop();
            if let Some(entry) = self.entries.get(&key).filter(|entry| entry.deadline == Some(deadline)) {
                let why = entry.why;
                self.forget(key);
                return Some((key, why));
            }
        }
        if self.is_empty() || rate == 0 {
            self.slot = None;
            return None;
        }
        let slot = *self.slot.get_or_insert_with(|| pace.claim(rate, now) + jitter(rate, dice));
        if slot > now {
            return None;
        }
        let key = self.queue.pop(look)?;
        let why = self.entries.get(&key)?.why;
        self.forget(key);
        self.slot = None;
        Some((key, why))
    }
}

/// How far behind the beginning of its slot a closing is: anywhere in it.
pub fn jitter(rate: u32, dice: &mut fastrand::Rng) -> Duration {
    pace::interval(rate).mul_f64(dice.f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> Moment {
        Moment::START + Duration::from_secs_f64(1000.0 + seconds)
    }

    fn standing(opened: f64, moved_at: f64) -> Standing {
        Standing { opened: at(opened), moved_at: at(moved_at) }
    }

    #[test]
    fn the_oldest_or_the_quietest_go_first() {
        let tunnels = [standing(3.0, 4.0), standing(1.0, 6.0), standing(2.0, 5.0)];
        for (order, expected) in [(Order::Oldest, [1, 2, 0]), (Order::Quietest, [0, 2, 1])] {
            let mut queue = Queue::new(order);
            (0..3).for_each(|key| queue.add(key, tunnels[key]));
            let popped: Vec<_> = std::iter::from_fn(|| queue.pop(|key| Some(tunnels[key]))).collect();
            assert_eq!(popped, expected);
        }
    }

    #[test]
    fn who_speaks_meanwhile_falls_back() {
        let mut queue = Queue::new(Order::Quietest);
        (0..3).for_each(|key| queue.add(key, standing(0.0, key as f64)));
        let now = [standing(0.0, 9.0), standing(0.0, 1.0), standing(0.0, 8.0)];
        let popped: Vec<_> = std::iter::from_fn(|| queue.pop(|key| Some(now[key]))).collect();
        assert_eq!(popped, [1, 2, 0]);
    }

    #[test]
    fn where_all_of_them_speak_one_goes_all_the_same_and_soon() {
        let mut queue = Queue::new(Order::Quietest);
        (0..10_000).for_each(|key| queue.add(key, standing(0.0, 0.0)));
        let looks = std::cell::Cell::new(0);
        let look = |_| {
            looks.set(looks.get() + 1);
            Some(standing(0.0, f64::from(looks.get())))
        };
        assert!(queue.pop(look).is_some());
        assert_eq!(looks.get() as usize, LOOKS_MAX);
    }

    #[test]
    fn who_has_ended_is_not_on_the_list_and_its_slot_may_be_there_again() {
        let mut queue = Queue::new(Order::Oldest);
        queue.add(1, standing(1.0, 1.0));
        queue.add(2, standing(2.0, 2.0));
        queue.forget(1);
        queue.add(1, standing(3.0, 3.0));
        let popped: Vec<_> = std::iter::from_fn(|| queue.pop(|_| Some(standing(3.0, 3.0)))).collect();
        assert_eq!(popped, [2, 1]);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_an_operator_says_brings_it_forward_and_is_not_forgotten() {
        let (mut list, pace) = (Departures::new(Order::Oldest), Pace::default());
        let mut dice = fastrand::Rng::with_seed(5);
        let tunnel = standing(0.0, 0.0);
        list.add(1, tunnel, Why::Drains, Some(at(100.0)));
        list.add(2, tunnel, Why::Drains, None);
        list.add(1, tunnel, Why::Dismissed, Some(at(1.0)));
        list.add(2, tunnel, Why::Dismissed, Some(at(2.0)));
        list.add(2, tunnel, Why::Dismissed, Some(at(50.0)));
        list.add(2, tunnel, Why::Lifetime, Some(at(60.0)));
        let mut due = |seconds| list.due(at(seconds), (&pace, 0), &mut dice, |_| Some(tunnel));
        assert_eq!(due(0.9), None);
        assert_eq!(due(1.0), Some((1, Why::Dismissed)));
        assert_eq!(due(1.9), None);
        assert_eq!(due(2.0), Some((2, Why::Dismissed)));
        assert_eq!(due(1000.0), None);
    }

    /// When each of so many tunnels goes, asked every millisecond.
    fn departures(count: usize, rate: u32, deadline: Option<f64>) -> Vec<f64> {
        let (mut list, pace) = (Departures::new(Order::Oldest), Pace::default());
        let mut dice = fastrand::Rng::with_seed(3);
        (0..count).for_each(|key| {
            list.add(key, standing(0.0, 0.0), Why::Drains, deadline.map(at));
        });
        let mut gone = Vec::new();
        for ms in 0..20_000 {
            let now = at(f64::from(ms) / 1000.0);
            let look = |_| Some(standing(0.0, 0.0));
            while list.due(now, (&pace, rate), &mut dice, look).is_some() {
                gone.push(f64::from(ms) / 1000.0);
            }
            assert!(list.next().is_none_or(|next| next > now), "asked for again at once");
        }
        gone
    }

    #[test]
    fn they_go_at_the_pace_and_never_in_a_crowd() {
        let gone = departures(2000, 400, Some(5.0));
        assert_eq!(gone.len(), 2000);
        assert!(gone[1999] <= 5.0 && gone[1990] > 4.9, "{} {}", gone[1990], gone[1999]);
        for window in 0..5000 {
            let from = f64::from(window) / 1000.0;
            let within = gone.iter().filter(|&&time| (from..from + 0.1).contains(&time)).count();
            assert!(within <= 80, "{within} within 0.1 s from {from}");
        }
        // Not one by one like a clock.
        let gaps: Vec<f64> = gone.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().any(|&gap| gap < 0.001) && gaps.iter().any(|&gap| gap > 0.003));
    }

    #[test]
    fn what_is_left_goes_at_the_deadline() {
        let gone = departures(100, 10, Some(2.0));
        let paced = gone.iter().filter(|&&time| time < 2.0).count();
        assert_eq!((gone.len(), paced), (100, 20));
        assert!(gone[20..].iter().all(|&time| time == 2.0));
        assert!(departures(100, 0, Some(2.0)).iter().all(|&time| time == 2.0));
        assert!(departures(100, 0, None).is_empty());
    }

    #[test]
    fn a_tunnel_keeps_its_first_deadline_and_may_be_forgotten() {
        let (mut list, pace, mut dice) =
            (Departures::new(Order::Oldest), Pace::default(), fastrand::Rng::with_seed(0));
        list.add(1, standing(0.0, 0.0), Why::Drains, Some(at(1.0)));
        list.add(1, standing(0.0, 0.0), Why::Removed, Some(at(9.0)));
        list.add(2, standing(0.0, 0.0), Why::Lifetime, Some(at(1.0)));
        assert_eq!(list.get(1), Some((Why::Drains, Some(at(1.0)))));
        list.forget(1);
        let look = |_| Some(standing(0.0, 0.0));
        assert_eq!(list.due(at(1.0), (&pace, 0), &mut dice, look), Some((2, Why::Lifetime)));
        assert_eq!(list.due(at(1.0) + SECOND, (&pace, 0), &mut dice, look), None);
        assert!(list.is_empty() && list.next().is_none());
    }
}
