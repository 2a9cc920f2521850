//! Counters of a worker: written by its loop when sessions begin and end, where bulk passes, and once a turn for what
//! messages carry; read by anybody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The counters, mostly written by one thread; a reader sees each of them as it was a moment ago.
#[derive(Debug)]
pub struct Stats {
    accepted: AtomicU64,
    open: AtomicU64,
    tunnels_opened: AtomicU64,
    tunnels_open: AtomicU64,
    bytes: [AtomicU64; 2],
    bytes_spliced: AtomicU64,
    refused: AtomicU64,
    panics: AtomicU64,
    /// How sessions ended and whose doing it was.
    pub ends: Tally<(&'static str, &'static str)>,
    /// Refusals, by rule.
    pub refusals: Tally<&'static str>,
    /// From accept to the tunnel.
    pub handshakes: Histogram,
    /// To a server.
    pub connects: Histogram,
    /// Of tunnels that have ended.
    pub lifetimes: Histogram,
    /// The loop itself.
    pub turns: Turns,
    /// Buffers that there are, in use or kept for it.
    pub buffers: Arc<AtomicUsize>,
    /// Likewise pipes.
    pub pipes: Arc<AtomicUsize>,
}

/// What a loop does in its turns.
#[derive(Debug)]
pub struct Turns {
    /// Events that a turn had.
    pub events: Histogram,
    /// How long it took, but for the wait; only where somebody may want to know.
    pub durations: Histogram,
    yields: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Sessions since the start.
    pub accepted: u64,
    /// Sessions that are open now.
    pub open: u64,
    /// Tunnels since the start.
    pub tunnels_opened: u64,
    /// Tunnels that are open now.
    pub tunnels_open: u64,
    /// Payload bytes of tunnels that servers took.
    pub bytes_up: u64,
    /// Payload bytes of tunnels that clients took.
    pub bytes_down: u64,
    /// Bytes that were in bulk and passed through the kernel alone, by splice(2).
    pub bytes_spliced: u64,
    /// Sessions that were refused by a rule.
    pub refused: u64,
    /// Sessions ended by a bug of ours.
    pub panics: u64,
}

impl Snapshot {
    /// Both together.
    pub(crate) fn plus(self, other: Snapshot) -> Snapshot {
        Snapshot {
            accepted: self.accepted + other.accepted,
            open: self.open + other.open,
            tunnels_opened: self.tunnels_opened + other.tunnels_opened,
            tunnels_open: self.tunnels_open + other.tunnels_open,
            bytes_up: self.bytes_up + other.bytes_up,
            bytes_down: self.bytes_down + other.bytes_down,
            bytes_spliced: self.bytes_spliced + other.bytes_spliced,
            refused: self.refused + other.refused,
            panics: self.panics + other.panics,
        }
    }
}

/// Waits for a peer, in microseconds.
const WAITS: &[u64] = &[
    1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// A tunnel's age: a second, ten, a minute, five, fifteen, an hour, six, a day, a week.
const LIFETIMES: &[u64] = &[
    1_000_000,
    10_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
    21_600_000_000,
    86_400_000_000,
    604_800_000_000,
];

/// A turn, in microseconds.
const DURATIONS: &[u64] =
    &[10, 25, 50, 100, 250, 500, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000];

/// Events of a turn.
const EVENTS: &[u64] = &[0, 1, 2, 4, 8, 16, 32, 64, 128, 256];

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            tunnels_opened: AtomicU64::new(0),
            tunnels_open: AtomicU64::new(0),
            bytes: Default::default(),
            bytes_spliced: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            ends: Tally::default(),
            refusals: Tally::default(),
            handshakes: Histogram::new(WAITS),
            connects: Histogram::new(WAITS),
            lifetimes: Histogram::new(LIFETIMES),
            turns: Turns {
                events: Histogram::new(EVENTS),
                durations: Histogram::new(DURATIONS),
                yields: AtomicU64::new(0),
            },
            buffers: Arc::default(),
            pipes: Arc::default(),
        }
    }
}

impl Stats {
    pub(crate) fn session_opened(&self) {
        self.accepted.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    pub(crate) fn tunnel_opened(&self, handshake: Duration) {
        self.tunnels_opened.fetch_add(1, Relaxed);
        self.tunnels_open.fetch_add(1, Relaxed);
        self.handshakes.add_wait(handshake);
    }

    /// Sessions that are open now.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    pub(crate) fn session_closed(&self, was_tunnel: bool) {
        self.open.fetch_sub(1, Relaxed);
        self.tunnels_open.fetch_sub(was_tunnel.into(), Relaxed);
    }

    /// A session has ended, in this way and by this side's doing; by which rule where it was refused.
    pub(crate) fn ended(&self, outcome: &'static str, by: &'static str, rule: Option<&'static str>) {
        self.ends.count((outcome, by));
        if let Some(rule) = rule {
            self.refused.fetch_add(1, Relaxed);
            self.refusals.count(rule);
        }
    }

    /// What tunnels have carried up and down since the start.
    pub(crate) fn carried(&self, bytes: [u64; 2]) {
        for (counter, bytes) in self.bytes.iter().zip(bytes) {
            counter.store(bytes, Relaxed);
        }
    }

    pub(crate) fn spliced(&self, bytes: usize) {
        self.bytes_spliced.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            accepted: self.accepted.load(Relaxed),
            open: self.open.load(Relaxed),
            tunnels_opened: self.tunnels_opened.load(Relaxed),
            tunnels_open: self.tunnels_open.load(Relaxed),
            bytes_up: self.bytes[0].load(Relaxed),
            bytes_down: self.bytes[1].load(Relaxed),
            bytes_spliced: self.bytes_spliced.load(Relaxed),
            refused: self.refused.load(Relaxed),
            panics: self.panics.load(Relaxed),
        }
    }
}

impl Turns {
    /// A session had more to do than its turn allowed.
    pub(crate) fn yielded(&self) {
        self.yields.store(self.yields() + 1, Relaxed);
    }

    /// How often sessions had more to do than a turn allowed.
    pub fn yields(&self) -> u64 {
        self.yields.load(Relaxed)
    }
}

/// How often each of a few things has happened: what they are is our own words, so that there is an end to them.
#[derive(Debug)]
pub struct Tally<K>(Mutex<BTreeMap<K, u64>>);

impl<K> Default for Tally<K> {
    fn default() -> Tally<K> {
        Tally(Mutex::default())
    }
}

impl<K: Ord + Copy> Tally<K> {
    fn count(&self, key: K) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(0) += 1;
    }

    /// Adds all of it to what others have.
    #[cfg(any(feature = "admin", test))]
    pub fn add_to(&self, sum: &mut BTreeMap<K, u64>) {
        for (key, count) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            *sum.entry(*key).or_insert(0) += count;
        }
    }
}

/// How many values were how great. Written by one thread.
#[derive(Debug)]
pub struct Histogram {
    /// The greatest value of each bucket but the last, which has none.
    bounds: &'static [u64],
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Histogram {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, buckets, sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    #[inline]
    pub fn add(&self, value: u64) {
        let index = self.bounds.iter().position(|&bound| value <= bound).unwrap_or(self.bounds.len());
        let bump = |counter: &AtomicU64, by| counter.store(counter.load(Relaxed) + by, Relaxed);
        bump(&self.buckets[index], 1);
        bump(&self.sum, value);
    }

    /// Counts a wait, in microseconds.
    #[inline]
    pub fn add_wait(&self, wait: Duration) {
        self.add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX / 2)); // that is 292,000 years
    }

    /// The greatest values of its buckets.
    #[cfg(feature = "admin")]
    pub fn bounds(&self) -> &'static [u64] {
        self.bounds
    }

    /// Adds what each bucket has, and the sum, to what others have.
    #[cfg(any(feature = "admin", test))]
    pub fn add_to(&self, buckets: &mut Vec<u64>, sum: &mut u64) {
        buckets.resize(self.buckets.len(), 0);
        for (sum, bucket) in buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Relaxed);
        }
        *sum += self.sum.load(Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_the_first_bucket_that_takes_it() {
        let histogram = Histogram::new(&[1, 5, 10]);
        [0, 1, 2, 5, 6, 10, 11, 1000].into_iter().for_each(|value| histogram.add(value));
        let (mut buckets, mut sum) = (vec![1], 5);
        histogram.add_to(&mut buckets, &mut sum);
        assert_eq!((buckets.as_slice(), sum), ([3, 2, 2, 2].as_slice(), 1040));
        histogram.add_wait(Duration::MAX);
        histogram.add_wait(Duration::from_micros(5));
        histogram.add_to(&mut buckets, &mut sum);
        assert_eq!(buckets, [5, 5, 4, 5]);
    }

    #[test]
    fn refusals_are_ends_with_a_rule() {
        let stats = Stats::default();
        stats.ended("finished", "client", None);
        stats.ended("refused", "adit", Some("a rule"));
        stats.ended("refused", "adit", Some("a rule"));
        let (mut ends, mut refusals) = (BTreeMap::new(), BTreeMap::new());
        stats.ends.add_to(&mut ends);
        stats.refusals.add_to(&mut refusals);
        assert_eq!(ends, BTreeMap::from([(("finished", "client"), 1), (("refused", "adit"), 2)]));
        assert_eq!((refusals, stats.snapshot().refused), (BTreeMap::from([("a rule", 2)]), 2));
    }
}
