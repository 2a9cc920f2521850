//! Lines about tunnels while they are open, where some are wanted: rounds through all of them, a few at a time, which
//! cost a tunnel neither memory nor a deadline, and begin at once when a reload says so.

use std::time::Duration;

use super::EventLoop;
use crate::moment::Moment;

/// Slots that are looked at in a turn. A line takes some microseconds.
const SLOTS_PER_TURN: usize = 256;

/// How often a round is made: a line is late by no more than this, and by no more than a sixtieth of `every`.
const PERIOD_MAX: Duration = Duration::from_secs(60);
const PERIOD_MIN: Duration = Duration::from_millis(100);

/// Where the rounds stand.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// When to go on; `None`: no lines are wanted.
    pub next_at: Option<Moment>,
    /// When the last round was made, or lines began to be wanted.
    before: Option<Moment>,
    /// When the one that is under way was begun, and the slot to look at next.
    under_way: Option<(Moment, usize)>,
}

/// Whether a tunnel's age has passed a multiple of `every` between two moments.
fn is_due(opened: Moment, every: Duration, before: Moment, now: Moment) -> bool {
    let multiples = |at: Moment| at.since(opened).as_nanos() / every.as_nanos().max(1);
    multiples(now) > multiples(before)
}

impl EventLoop {
    /// Lines may be wanted, or no more, or more often.
    pub(super) fn set_rounds(&mut self) {
        match self.setup().plan.log.every {
            Some(_) => self.rounds.next_at = Some(Moment::START),
            None => self.rounds = Rounds::default(),
        }
    }

    /// Goes on with a round, or begins one that is due.
    pub(super) fn make_rounds(&mut self) {
        if self.rounds.next_at.is_none_or(|at| at > self.clock.now) {
            return; // as in nearly every turn
        }
        let Some(every) = self.setup().plan.log.every else { return };
        // The first is none: those that have been open for long would all write a line now.
        let before = *self.rounds.before.get_or_insert(self.clock.now);
        let (now, next) = self.rounds.under_way.unwrap_or((self.clock.now, 0));
        let end = next + SLOTS_PER_TURN;
        for key in next..end.min(self.slots.capacity()) {
            self.tell_of(key, every, before, now);
        }
        if end < self.slots.capacity() {
            (self.rounds.under_way, self.rounds.next_at) = (Some((now, end)), Some(Moment::START));
        } else {
            let next_at = Some(now + (every / 60).clamp(PERIOD_MIN, PERIOD_MAX));
            self.rounds = Rounds { next_at, before: Some(now), under_way: None };
        }
    }

    /// Writes a line about the tunnel in a slot, if one is due.
    fn tell_of(&mut self, key: usize, every: Duration, before: Moment, now: Moment) {
        let Some(slot) = self.slots.get(key).filter(|slot| !slot.over) else { return };
        let Some(relay) = slot.session.tunnel() else { return };
        if !is_due(relay.standing().opened, every, before, now) {
            return;
        }
        let story = relay.story(slot.holds.backend);
        let setup = &self.generations[usize::from(slot.generation)].setup;
        let (now, wall) = (self.clock.now, self.tools.date.at(self.clock.now));
        self.tools.journal.still(&story, setup, now, wall);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_once_for_each_multiple_whenever_rounds_are_made() {
        let (opened, every) = (Moment::START + Duration::from_millis(30), Duration::from_millis(100));
        let mut dice = fastrand::Rng::with_seed(11);
        let (mut before, mut lines) = (Moment::START, 0);
        while before < opened + every * 20 {
            let now = before + Duration::from_millis(dice.u64(1..90));
            lines += u32::from(is_due(opened, every, before, now));
            assert_eq!(u128::from(lines), now.since(opened).as_millis() / 100, "at {now:?}");
            before = now;
        }
        // After a pause there is one line, not one for each that was missed.
        assert!(is_due(opened, every, before, before + every * 5));
        assert!(!is_due(opened, every, opened, opened + every / 2));
        assert!(!is_due(opened, every, Moment::START, opened), "before it opened");
    }
}
