//! Which tunnels are meant, in which order, and which page of them: decided about one tunnel at a time, as whoever goes
//! through them has to stop now and then.

use std::collections::BinaryHeap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

/// Tunnels of a page, where nobody says how many, and at most.
pub const LIMIT: usize = 100;
/// As above.
pub const LIMIT_MAX: usize = 1000;

/// What a tunnel has to be. What is left out is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Its id.
    pub id: Option<String>,
    /// Its client's network.
    pub client: Option<Network>,
    /// The listener that it came to.
    pub listener: Option<String>,
    /// The route that it took.
    pub route: Option<String>,
    /// The upstream that it went to.
    pub upstream: Option<String>,
    /// The server of that.
    pub server: Option<String>,
    /// Open for as long.
    pub min_age: Option<Wait>,
    /// Silent for as long.
    pub min_idle: Option<Wait>,
    /// Has carried as many bytes, both ways together.
    pub min_bytes: Option<u64>,
}

/// A network, or an address that stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Network).map_err(|_| format!("{text:?} is no address and no network such as 10.0.0.0/8"))
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Network, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A duration as it may be asked for: `"10m"`, or seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub Duration);

impl Wait {
    fn of_seconds(seconds: f64) -> Result<Wait, String> {
        Duration::try_from_secs_f64(seconds)
            .map(Wait)
            .map_err(|_| format!("{seconds} is no number of seconds"))
    }
}

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Wait, String> {
        match text.parse::<f64>() {
            Ok(seconds) => Wait::of_seconds(seconds),
            Err(_) => humantime::parse_duration(text)
                .map(Wait)
                .map_err(|_| format!("{text:?} is no duration such as \"10m\", and no number of seconds")),
        }
    }
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wait, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Seconds(f64),
            Text(String),
        }
        let read = match Written::deserialize(deserializer)? {
            Written::Seconds(seconds) => Wait::of_seconds(seconds),
            Written::Text(text) => text.parse(),
        };
        read.map_err(serde::de::Error::custom)
    }
}

/// A tunnel, as far as a search looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its id, as it is written.
    pub id: &'a [u8],
    /// Its client; `None` on a unix socket.
    pub client: Option<IpAddr>,
    /// Names, as they are in the configuration that it was opened with.
    pub listener: &'a str,
    /// As above.
    pub route: &'a str,
    /// As above.
    pub upstream: &'a str,
    /// As above.
    pub server: &'a str,
    /// When it opened, in nanoseconds of the loop's clock.
    pub opened: u64,
    /// Since then.
    pub age: Duration,
    /// Since a byte last moved.
    pub idle: Duration,
    /// Bytes that were carried.
    pub bytes_up: u64,
    /// As above.
    pub bytes_down: u64,
}

impl Filter {
    /// Whether it asks for anything.
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// Whether a tunnel is what is asked for.
    pub fn takes(&self, facts: &Facts<'_>) -> bool {
        let Filter { id, client, listener, route, upstream, server, min_age, min_idle, min_bytes } = self;
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        min_age.is_none_or(|Wait(age)| facts.age >= age)
            && min_idle.is_none_or(|Wait(idle)| facts.idle >= idle)
            && min_bytes.is_none_or(|bytes| facts.bytes_up.saturating_add(facts.bytes_down) >= bytes)
            && is(server, facts.server)
            && is(upstream, facts.upstream)
            && is(route, facts.route)
            && is(listener, facts.listener)
            && client.is_none_or(|Network(net)| facts.client.is_some_and(|client| net.contains(&client)))
            && id.as_ref().is_none_or(|id| id.as_bytes() == facts.id)
    }
}

/// What tunnels are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// For how long they are open.
    #[default]
    Age,
    /// For how long they are silent.
    Idle,
    /// What they have carried.
    Bytes,
    /// To the server.
    BytesUp,
    /// To the client.
    BytesDown,
    /// What they have carried a second.
    Rate,
}

impl FromStr for Sort {
    type Err = String;

    fn from_str(text: &str) -> Result<Sort, String> {
        Ok(match text {
            "age" => Sort::Age,
            "idle" => Sort::Idle,
            "bytes" => Sort::Bytes,
            "bytes_up" => Sort::BytesUp,
            "bytes_down" => Sort::BytesDown,
            "rate" => Sort::Rate,
            _ => return Err(format!("{text:?} is none of age, idle, bytes, bytes_up, bytes_down and rate")),
        })
    }
}

/// A page of tunnels.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// What they are sorted by.
    pub sort: Sort,
    /// Whether the least comes first.
    pub ascending: bool,
    /// How many there may be.
    pub limit: usize,
    /// The last of the page before.
    pub after: Option<Place>,
}

impl Default for Page {
    fn default() -> Page {
        Page { sort: Sort::Age, ascending: false, limit: LIMIT, after: None }
    }
}

/// Where a tunnel stands among all of them. No two stand in the same place, and what is sorted by age stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What it is sorted by; the first has the least.
    rank: u64,
    opened: u64,
    worker: u16,
    key: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}-{:x}", self.rank, self.opened, self.worker, self.key)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let number = |part: Option<&str>| u64::from_str_radix(part?, 16).ok();
        let mut parts = text.split('-');
        let place = (|| {
            let (rank, opened) = (number(parts.next())?, number(parts.next())?);
            let worker = number(parts.next())?.try_into().ok()?;
            let key = number(parts.next())?.try_into().ok()?;
            parts.next().is_none().then_some(Place { rank, opened, worker, key })
        })();
        place.ok_or_else(|| format!("{text:?} is not what `next` of a page was"))
    }
}

impl Page {
    fn place(&self, facts: &Facts<'_>, worker: u16, key: u32) -> Place {
        let bytes = facts.bytes_up.saturating_add(facts.bytes_down);
        let value = match self.sort {
            // By when it was rather than for how long it is, as that stays the same from page to page.
            Sort::Age => u64::MAX - facts.opened,
            Sort::Idle => {
                let silent_since = facts.opened.saturating_add(nanos(facts.age.saturating_sub(facts.idle)));
                u64::MAX - silent_since
            }
            Sort::Bytes => bytes,
            Sort::BytesUp => facts.bytes_up,
            Sort::BytesDown => facts.bytes_down,
            Sort::Rate => per_second(bytes, facts.age),
        };
        let rank = if self.ascending { value } else { u64::MAX - value };
        Place { rank, opened: facts.opened, worker, key }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes a second over a tunnel's life.
fn per_second(bytes: u64, age: Duration) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / age.as_nanos().max(1_000_000);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// The first tunnels of a page, out of those that have been looked at.
#[derive(Debug)]
pub struct Best {
    page: Page,
    /// The greatest, which is the first to go, on top.
    places: BinaryHeap<Place>,
    /// How many there are behind the page before, on this page or further ones.
    beyond: u64,
}

impl Best {
    /// Of none so far.
    pub fn new(page: Page) -> Best {
        Best { page, places: BinaryHeap::new(), beyond: 0 }
    }

    /// One that is asked for.
    pub fn add(&mut self, facts: &Facts<'_>, worker: u16, key: u32) {
        let place = self.page.place(facts, worker, key);
        if self.page.after.is_some_and(|after| place <= after) {
            return;
        }
        self.beyond += 1;
        if self.places.len() < self.page.limit {
            self.places.push(place);
        } else if let Some(mut last) = self.places.peek_mut() {
            if place < *last {
                *last = place;
            }
        }
    }

    /// The places of those that are on the page, and how many there are from there on.
    pub fn into_places(self) -> (Vec<Place>, u64) {
        (self.places.into_sorted_vec(), self.beyond)
    }
}

impl Place {
    /// The tunnel's key in its worker's slab, and when the tunnel opened that was found there.
    pub fn slot(self) -> (usize, u64) {
        (self.key as usize, self.opened)
    }
}

/// A tunnel as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its id.
    pub id: String,
    /// Its client.
    pub client: String,
    /// Names, as they are in the configuration that it was opened with.
    pub listener: String,
    /// As above.
    pub route: String,
    /// The request's host.
    pub host: Option<String>,
    /// The request's path.
    pub path: Option<String>,
    /// The upstream's name.
    pub upstream: String,
    /// The server's.
    pub server: String,
    /// When it opened.
    pub opened: String,
    /// For how long it is open, in seconds.
    pub age: Seconds,
    /// For how long it is silent.
    pub idle: Seconds,
    /// Payload bytes that the server took.
    pub bytes_up: u64,
    /// Payload bytes that the client took.
    pub bytes_down: u64,
    /// `open`, `half_closed`, `stalled` or `leaving`.
    pub state: &'static str,
    /// The worker that it is with.
    pub worker: u16,
}

/// A duration as it is shown: in seconds, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds(pub Duration);

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64((self.0.as_secs_f64() * 1000.0).round() / 1000.0)
    }
}

/// A page as it is answered, of rows that several workers may have found.
#[derive(Debug, Default, Serialize)]
pub struct Listing {
    /// All that are asked for, on this page and others.
    pub matched: u64,
    /// What the next page is behind.
    pub next: Option<String>,
    /// Those of this page.
    pub tunnels: Vec<Row>,
}

impl Listing {
    /// Of rows with their places, and how many there are from the page before on.
    pub fn new(matched: u64, beyond: u64, mut rows: Vec<(Place, Row)>, limit: usize) -> Listing {
        rows.sort_by_key(|(place, _)| *place);
        rows.truncate(limit);
        let next = rows.last().filter(|_| beyond > limit as u64).map(|(place, _)| place.to_string());
        Listing { matched, next, tunnels: rows.into_iter().map(|(_, row)| row).collect() }
    }
}

/// What each worker is to do with its tunnels.
#[derive(Debug)]
pub struct Survey {
    /// Which tunnels it is about.
    pub filter: Filter,
    /// What for.
    pub purpose: Purpose,
}

/// What tunnels are looked for for.
#[derive(Clone, Debug, PartialEq)]
pub enum Purpose {
    /// To be shown.
    Show(Page),
    /// To be counted.
    Count,
    /// To be closed.
    Close,
}

/// What a worker has found.
#[derive(Debug)]
pub struct Findings {
    /// What was asked for: while anybody has this, an answer may be on its way.
    pub survey: Arc<Survey>,
    /// How many are what is asked for.
    pub matched: u64,
    /// How many of them are on this page or further ones.
    pub beyond: u64,
    /// Those that are to be shown.
    pub rows: Vec<(Place, Row)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(opened: u64) -> Facts<'static> {
        Facts {
            id: b"7f3a",
            client: Some(IpAddr::from([192, 0, 2, 1])),
            listener: "0.0.0.0:8020",
            route: "*/wsapp/",
            upstream: "u",
            server: "10.0.0.1:1",
            opened,
            age: Duration::from_secs(100),
            idle: Duration::from_secs(10),
            bytes_up: 5,
            bytes_down: 7,
        }
    }

    #[test]
    fn a_filter_takes_what_is_all_that_it_asks_for() {
        let takes = |json: &str| {
            serde_json::from_str::<Filter>(json)
                .map(|filter| filter.takes(&facts(1)))
                .map_err(|e| e.to_string())
        };
        for json in [
            "{}",
            r#"{"id":"7f3a"}"#,
            r#"{"client":"192.0.2.0/24"}"#,
            r#"{"client":"192.0.2.1"}"#,
            r#"{"listener":"0.0.0.0:8020","route":"*/wsapp/","upstream":"u","server":"10.0.0.1:1"}"#,
            r#"{"min_age":"1m40s","min_idle":10,"min_bytes":12}"#,
            r#"{"min_idle":"9.5"}"#,
        ] {
            assert_eq!(takes(json), Ok(true), "{json}");
        }
        for json in [
            r#"{"id":"7f3"}"#,
            r#"{"client":"192.0.3.0/24"}"#,
            r#"{"client":"::/0"}"#,
            r#"{"listener":"0.0.0.0:802"}"#,
            r#"{"route":"*"}"#,
            r#"{"upstream":"v"}"#,
            r#"{"server":"10.0.0.1:10"}"#,
            r#"{"server":"10.0.0.1:1","upstream":"v"}"#,
            r#"{"min_age":100.001}"#,
            r#"{"min_idle":"11s"}"#,
            r#"{"min_bytes":13}"#,
        ] {
            assert_eq!(takes(json), Ok(false), "{json}");
        }
        for (json, why) in [
            (r#"{"clients":"10.0.0.0/8"}"#, "unknown field `clients`"),
            (r#"{"client":"10.0.0.0/33"}"#, "is no address and no network"),
            (r#"{"client":"localhost"}"#, "is no address and no network"),
            (r#"{"min_age":"soon"}"#, "is no duration"),
            (r#"{"min_age":-1}"#, "is no number of seconds"),
            (r#"{"min_age":1e99}"#, "is no number of seconds"),
            (r#"{"min_bytes":-1}"#, "invalid value"),
        ] {
            let error = takes(json).expect_err(json);
            assert!(error.contains(why), "{json}: {error}");
        }
    }

    #[test]
    fn nobody_on_a_unix_socket_is_of_a_network() {
        let filter = Filter { client: Some("0.0.0.0/0".parse().unwrap()), ..Filter::default() };
        assert!(!filter.takes(&Facts { client: None, ..facts(1) }));
    }

    /// The keys on each page, for tunnels that opened and carried so much: pages follow each other by what the one
    /// before says, and two workers have every other tunnel.
    fn pages(sort: Sort, ascending: bool, limit: usize, tunnels: &[(u64, u64)]) -> Vec<Vec<usize>> {
        let mut pages = Vec::new();
        let mut after = None;
        loop {
            let page = Page { sort, ascending, limit, after };
            let mut bests = [Best::new(page.clone()), Best::new(page)];
            for (key, &(opened, bytes_up)) in tunnels.iter().enumerate() {
                let facts = Facts { bytes_up, bytes_down: 0, ..facts(opened) };
                bests[key % 2].add(&facts, (key % 2) as u16, key as u32);
            }
            let (mut rows, mut sum) = (Vec::new(), 0);
            for best in bests {
                let (places, beyond) = best.into_places();
                sum += beyond;
                rows.extend(places.into_iter().map(|place| (place, row(place))));
            }
            let listing = Listing::new(tunnels.len() as u64, sum, rows, limit);
            pages.push(listing.tunnels.iter().map(|row| row.id.parse().unwrap()).collect());
            match listing.next {
                Some(next) => after = Some(next.parse().unwrap()),
                None => return pages,
            }
        }
    }

    fn row(place: Place) -> Row {
        let nothing = String::new;
        Row {
            id: place.slot().0.to_string(),
            client: nothing(),
            listener: nothing(),
            route: nothing(),
            host: None,
            path: None,
            upstream: nothing(),
            server: nothing(),
            opened: nothing(),
            age: Seconds(Duration::ZERO),
            idle: Seconds(Duration::ZERO),
            bytes_up: 0,
            bytes_down: 0,
            state: "open",
            worker: 0,
        }
    }

    #[test]
    fn pages_are_in_order_and_have_every_tunnel_once() {
        let tunnels = [(5, 1), (1, 9), (3, 1), (2, 0), (4, 9)];
        assert_eq!(pages(Sort::Age, false, 2, &tunnels), [vec![1, 3], vec![2, 4], vec![0]]);
        assert_eq!(pages(Sort::Age, true, 3, &tunnels), [vec![0, 4, 2], vec![3, 1]]);
        assert_eq!(pages(Sort::Bytes, false, 5, &tunnels), [vec![1, 4, 2, 0, 3]]);
        assert_eq!(pages(Sort::BytesUp, true, 1, &tunnels), [vec![3], vec![2], vec![0], vec![1], vec![4]]);
        assert_eq!(pages(Sort::BytesDown, false, 5, &tunnels).concat(), [1, 3, 2, 4, 0]);
        assert_eq!(pages(Sort::Age, false, 3, &[]), [vec![0; 0]]);
        let mut dice = fastrand::Rng::with_seed(7);
        let many: Vec<(u64, u64)> = (0..500).map(|_| (dice.u64(0..50), dice.u64(0..5))).collect();
        for (sort, ascending) in
            [(Sort::Age, false), (Sort::Rate, true), (Sort::Idle, false), (Sort::Bytes, true)]
        {
            let mut keys = pages(sort, ascending, 7, &many).concat();
            keys.sort_unstable();
            assert_eq!(keys, (0..500).collect::<Vec<_>>(), "{sort:?}");
        }
    }

    #[test]
    fn what_is_sorted_by_rate_is_by_bytes_a_second() {
        assert_eq!(per_second(100, Duration::from_secs(10)), 10);
        assert_eq!(per_second(100, Duration::from_millis(500)), 200);
        assert_eq!(per_second(u64::MAX, Duration::ZERO), u64::MAX);
    }

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let place = Place { rank: u64::MAX, opened: 17, worker: 3, key: 9 };
        assert_eq!(place.to_string().parse(), Ok(place));
        for wrong in ["", "1", "1-2-3", "1-2-3-4-5", "g-1-1-1", "1-1-10000-1", "1-1-1-100000000"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
