//! What is printed: one line of JSON for an event, on stdout.

use std::io::{self, Write};
use std::net::SocketAddr;

use hdrhistogram::Histogram;
use serde::Serialize;

/// What somebody who drives us waits for.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Listening { address: SocketAddr },
    Ready,
    Open { tunnels: usize },
    Carried,
    Result(Box<Outcome>),
}

/// What a run came to.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    pub mode: &'static str,
    /// The measured time.
    pub seconds: f64,
    pub tunnels: usize,
    /// Echoes that came back within the measured time.
    pub messages: u64,
    /// Echoes that were on their way at its end.
    pub uncounted: u64,
    /// Payload at its destination: an echo's once, a stream's in each of its directions.
    pub bytes: u64,
    /// Of these, what streams carried to the backend and from it.
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Tunnels opened, used and closed.
    pub lives: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Latency>,
    /// Pairs of percentile and microseconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub histogram: Vec<(f64, f64)>,
    pub mismatches: u64,
    pub errors: u64,
}

/// Microseconds.
#[derive(Debug, PartialEq, Serialize)]
pub struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
    mean: f64,
}

/// Prints an event. Nobody reading any more is no reason to fail: there is somebody else to end us.
pub fn tell(event: &Event) {
    let mut line = serde_json::to_vec(event).expect("events are plain values");
    line.push(b'\n');
    let mut out = io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}

/// Counts latencies in nanoseconds, to three digits.
pub struct Latencies(Histogram<u64>);

/// Longer than anything is waited for.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

impl Latencies {
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("the bounds are constants"))
    }

    pub fn record(&mut self, ns: u128) {
        self.0.saturating_record(u64::try_from(ns).unwrap_or(u64::MAX).max(1));
    }

    /// The usual figures, if there is anything to tell of.
    pub fn summary(&self) -> Option<Latency> {
        (!self.0.is_empty()).then(|| Latency {
            p50: self.at(50.0),
            p90: self.at(90.0),
            p99: self.at(99.0),
            p999: self.at(99.9),
            max: micros(self.0.max() as f64),
            mean: micros(self.0.mean()),
        })
    }

    /// About forty points, closer together where it gets interesting.
    pub fn points(&self) -> Vec<(f64, f64)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        percentiles().map(|percentile| (percentile, self.at(percentile))).collect()
    }

    fn at(&self, percentile: f64) -> f64 {
        micros(self.0.value_at_percentile(percentile) as f64)
    }
}

fn percentiles() -> impl Iterator<Item = f64> {
    let tens = (0..9).map(|ten| f64::from(ten) * 10.0);
    let ones = (0..10).map(|one| 90.0 + f64::from(one));
    let tenths = (1..10).map(|tenth| (990.0 + f64::from(tenth)) / 10.0);
    let hundredths = (1..10).map(|hundredth| (9990.0 + f64::from(hundredth)) / 100.0);
    tens.chain(ones).chain(tenths).chain(hundredths)
}

/// Of nanoseconds, to the tenth: more digits than anybody believes are noise in the file.
fn micros(ns: f64) -> f64 {
    (ns / 100.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_microseconds_within_a_thousandth() {
        let mut latencies = Latencies::new();
        assert_eq!((latencies.summary(), latencies.points()), (None, vec![]));
        (1..=1000).for_each(|micros| latencies.record(micros * 1000));
        let Latency { p50, p90, p99, p999, max, mean } = latencies.summary().unwrap();
        for (found, expected) in
            [(p50, 500.0), (p90, 900.0), (p99, 990.0), (p999, 999.0), (max, 1000.0), (mean, 500.5)]
        {
            assert!((found - expected).abs() <= expected / 500.0, "{found} for {expected}");
        }
    }

    #[test]
    fn points_rise_and_end_at_the_last_hundredth() {
        let mut latencies = Latencies::new();
        (1..=100_000).for_each(|ns| latencies.record(ns));
        let points = latencies.points();
        assert!((35..=45).contains(&points.len()), "{} points", points.len());
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{points:?}");
        assert_eq!((points[0].0, points.last().unwrap().0), (0.0, 99.99));
    }

    #[test]
    fn what_took_too_long_is_counted_as_the_longest() {
        let mut latencies = Latencies::new();
        latencies.record(u128::MAX);
        assert!(latencies.summary().unwrap().max >= 600_000_000.0 - 1_000_000.0);
    }

    #[test]
    fn a_line_says_which_event_it_is() {
        let line = |event: &Event| serde_json::to_string(event).unwrap();
        assert_eq!(line(&Event::Ready), r#"{"event":"ready"}"#);
        assert_eq!(line(&Event::Open { tunnels: 3 }), r#"{"event":"open","tunnels":3}"#);
        let address = "127.0.0.1:80".parse().unwrap();
        assert_eq!(line(&Event::Listening { address }), r#"{"event":"listening","address":"127.0.0.1:80"}"#);
        let outcome = Outcome { mode: "bulk", bytes: 7, ..Outcome::default() };
        let text = line(&Event::Result(Box::new(outcome)));
        assert!(text.starts_with(r#"{"event":"result","mode":"bulk","seconds":0.0,"#), "{text}");
        assert!(!text.contains("latency_us") && !text.contains("histogram"), "{text}");
    }
}
