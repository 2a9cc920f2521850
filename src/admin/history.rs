//! How it has stood for the last quarter of an hour, so that a page that is opened now can show it.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::moment::Moment;
use crate::stats::Snapshot;

/// How often a sample is taken.
pub const PERIOD: Duration = Duration::from_secs(5);

/// Samples that are kept: a quarter of an hour.
const SAMPLES_MAX: usize = 180;

/// Samples, the oldest first.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<(SystemTime, Snapshot)>,
    next_at: Option<Moment>,
}

impl History {
    /// When to take the next sample; `None`: now.
    pub fn next_at(&self) -> Option<Moment> {
        self.next_at
    }

    /// Takes a sample.
    pub fn add(&mut self, now: Moment, wall: SystemTime, snapshot: Snapshot) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((wall, snapshot));
        self.next_at = Some(now + PERIOD);
    }

    /// As it is answered: a column for each number. All but the tunnels are counted since the start.
    pub fn columns(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Columns {
            period: f64,
            time: Vec<f64>,
            tunnels: Vec<u64>,
            opened: Vec<u64>,
            refused: Vec<u64>,
            bytes_up: Vec<u64>,
            bytes_down: Vec<u64>,
        }
        let seconds = |wall: &SystemTime| {
            let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            (since.as_secs_f64() * 1000.0).round() / 1000.0
        };
        let column = |number: fn(&Snapshot) -> u64| {
            self.samples.iter().map(|(_, snapshot)| number(snapshot)).collect::<Vec<_>>()
        };
        Columns {
            period: PERIOD.as_secs_f64(),
            time: self.samples.iter().map(|(wall, _)| seconds(wall)).collect(),
            tunnels: column(|snapshot| snapshot.tunnels_open),
            opened: column(|snapshot| snapshot.tunnels_opened),
            refused: column(|snapshot| snapshot.refused),
            bytes_up: column(|snapshot| snapshot.bytes_up),
            bytes_down: column(|snapshot| snapshot.bytes_down),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_a_quarter_of_an_hour() {
        let mut history = History::default();
        assert_eq!(history.next_at(), None);
        for second in 0..2000 {
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            let snapshot = Snapshot { tunnels_open: second, ..Snapshot::default() };
            history.add(Moment::START, wall, snapshot);
        }
        assert_eq!(history.next_at(), Some(Moment::START + PERIOD));
        let columns = serde_json::to_value(history.columns()).unwrap();
        for column in ["time", "tunnels", "opened", "refused", "bytes_up", "bytes_down"] {
            assert_eq!(columns[column].as_array().map(Vec::len), Some(180), "{column}");
        }
        assert_eq!((&columns["time"][179], &columns["tunnels"][0]), (&1999.0.into(), &1820.into()));
    }
}
