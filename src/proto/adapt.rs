//! When a direction is in bulk, as a pure table: from how it went to how it goes on.
//!
//! Small messages are copied: that is a read and a write, where a splice through a pipe is three calls and costs 20 to
//! 40 % more. From messages of 64 KiB on it is the other way round: splicing takes half the processor time a GB that
//! copying does, or less. At 16 KiB the two are equal. So a direction that fills a whole buffer with one read is in
//! bulk, and one that moves less than 16 KiB at once is not; other thresholds that were tried were no better.

/// How a direction is used at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Messages come one by one.
    Light,
    /// Bytes come as fast as they are taken.
    Bulk,
}

/// What changes a pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// A read that brings so much makes it bulk.
    pub bulk_from_bytes: usize,
    /// A pump that moves less makes it light, unless it was not let move more.
    pub light_below_bytes: usize,
}

/// Those that were measured.
pub const THRESHOLDS: Thresholds = Thresholds { bulk_from_bytes: 64 * 1024, light_below_bytes: 16 * 1024 };

/// The pace after `moved` bytes came at once where `asked` might have.
pub fn next(pace: Pace, asked: usize, moved: usize, thresholds: Thresholds) -> Pace {
    match pace {
        Pace::Light if moved >= thresholds.bulk_from_bytes => Pace::Bulk,
        Pace::Light => Pace::Light,
        Pace::Bulk if moved < asked.min(thresholds.light_below_bytes) => Pace::Light,
        Pace::Bulk => Pace::Bulk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[track_caller]
    fn check(pace: Pace, asked: usize, moved: usize, expected: Pace) {
        assert_eq!(next(pace, asked, moved, THRESHOLDS), expected);
    }

    #[test]
    fn one_full_read_makes_it_bulk() {
        check(Pace::Light, 64 * KIB, 1, Pace::Light);
        check(Pace::Light, 64 * KIB, 64 * KIB - 1, Pace::Light);
        check(Pace::Light, 64 * KIB, 64 * KIB, Pace::Bulk);
    }

    #[test]
    fn one_small_pump_makes_it_light() {
        check(Pace::Bulk, 256 * KIB, 256 * KIB, Pace::Bulk);
        check(Pace::Bulk, 256 * KIB, 16 * KIB, Pace::Bulk);
        check(Pace::Bulk, 256 * KIB, 16 * KIB - 1, Pace::Light);
        check(Pace::Bulk, 256 * KIB, 1, Pace::Light);
    }

    #[test]
    fn a_pump_that_was_let_move_no_more_was_not_small() {
        check(Pace::Bulk, 5 * KIB, 5 * KIB, Pace::Bulk);
        check(Pace::Bulk, 5 * KIB, 5 * KIB - 1, Pace::Light);
    }
}
