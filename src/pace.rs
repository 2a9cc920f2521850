//! So many closings a second, over all workers together.
//!
//! Each closing has a slot of its own on a ladder that goes up by one interval each time: a worker claims the next one
//! and closes a tunnel when it has come. So no worker needs to know how many tunnels the others have, and whatever they
//! do at once, the ladder is climbed at its pace.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::moment::Moment;

/// How far behind a slot may be claimed: a worker that wakes late takes what it has missed, up to this, so that a pace
/// is kept though each wake-up is late. It is also all that comes at once after a pause: half of what a tenth of a
/// second brings.
const LATE_MAX: Duration = Duration::from_millis(50);

/// The ladder.
#[derive(Debug, Default)]
pub struct Pace {
    /// The first slot that nobody has claimed; 0 before there was one.
    next: AtomicU64,
}

impl Pace {
    /// Claims the next slot at this many a second, which is at least 1: when it is, not long before `now`.
    pub fn claim(&self, rate: u32, now: Moment) -> Moment {
        let interval = interval(rate);
        let earliest = now.before(LATE_MAX);
        let slot = |next: u64| {
            // The first ladder of all begins now.
            Moment::from_nanos(next).map_or(now, |next| if next < earliest { earliest } else { next })
        };
        let mut next = self.next.load(Relaxed);
        loop {
            let claimed = slot(next);
            match self.next.compare_exchange_weak(next, (claimed + interval).nanos(), Relaxed, Relaxed) {
                Ok(_) => return claimed,
                Err(other) => next = other,
            }
        }
    }

    /// Begins a new ladder, now.
    pub fn begin(&self, now: Moment) {
        self.next.fetch_max(now.nanos(), Relaxed);
    }
}

/// Between two closings.
pub fn interval(rate: u32) -> Duration {
    Duration::from_secs(1) / rate.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn start() -> Moment {
        Moment::START + Duration::from_secs(100)
    }

    #[test]
    fn slots_are_an_interval_apart_whoever_claims_them() {
        let pace = Pace::default();
        let slots: Vec<_> = (0..5).map(|_| pace.claim(100, start()).since(start())).collect();
        assert_eq!(slots, [0, 10, 20, 30, 40].map(|ms| ms * MS));
    }

    #[test]
    fn who_wakes_late_catches_up_but_not_without_end() {
        let pace = Pace::default();
        assert_eq!(pace.claim(100, start()), start());
        // Thirty milliseconds late: the three that were missed come at once.
        let now = start() + 40 * MS;
        let slots: Vec<_> = (0..4).map(|_| pace.claim(100, now).since(start())).collect();
        assert_eq!(slots, [10, 20, 30, 40].map(|ms| ms * MS));
        // A second late: no more than five of a hundred.
        let now = start() + 1040 * MS;
        let at_once = (0..20).map(|_| pace.claim(100, now)).filter(|&slot| slot <= now).count();
        assert_eq!(at_once, 6);
    }

    #[test]
    fn a_new_ladder_has_nothing_to_catch_up_with() {
        let pace = Pace::default();
        pace.claim(100, start());
        let now = start() + 1000 * MS;
        pace.begin(now);
        assert_eq!(pace.claim(100, now), now);
    }
}
