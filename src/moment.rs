//! The time in eight bytes.
//!
//! An `Instant` takes sixteen, and a tunnel at rest keeps five of them. This is the nanoseconds since the loop began,
//! in a number that is never zero, so that an `Option` of it takes no more. It lasts 584 years.

use std::num::NonZeroU64;
use std::ops::{Add, AddAssign};
use std::time::{Duration, SystemTime};

/// An instant on the loop's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// When the clock begins.
    pub const START: Moment = Moment(NonZeroU64::MIN);

    /// As a number, to be kept where workers share it; never 0.
    pub fn nanos(self) -> u64 {
        self.0.get()
    }

    /// The moment of this number; `None` for 0.
    pub fn from_nanos(nanos: u64) -> Option<Moment> {
        NonZeroU64::new(nanos).map(Moment)
    }

    /// So much earlier, or the beginning.
    pub fn before(self, wait: Duration) -> Moment {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        Moment::from_nanos(self.0.get().saturating_sub(nanos)).unwrap_or(Moment::START)
    }

    /// How long ago `earlier` was; zero if it is yet to come.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// What lies beyond the end of the clock is its end.
    fn add(self, wait: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, wait: Duration) {
        *self = *self + wait;
    }
}

/// The date that belongs to a moment.
#[derive(Clone, Copy, Debug)]
pub struct Date {
    /// When it was read.
    pub read_at: Moment,
    /// What was read.
    pub read: SystemTime,
}

impl Date {
    /// The date at a moment that is not before this one.
    pub fn at(&self, moment: Moment) -> SystemTime {
        self.read + moment.since(self.read_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_ordered_and_apart_by_what_was_added() {
        let later = Moment::START + Duration::from_millis(5);
        assert!(Moment::START < later);
        assert_eq!(later.since(Moment::START), Duration::from_millis(5));
        assert_eq!(Moment::START.since(later), Duration::ZERO);
    }

    #[test]
    fn the_clock_has_an_end() {
        let end = Moment::START + Duration::MAX;
        assert_eq!(end + Duration::from_nanos(1), end);
    }

    #[test]
    fn none_takes_no_more_than_some() {
        assert_eq!(size_of::<Option<Moment>>(), 8);
    }
}
