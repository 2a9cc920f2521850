//! What an operator sees who looks all the time, and whether it can be so. Pure.

use std::collections::{HashMap, HashSet};

use fastrand::Rng;
use serde_json::Value;

use super::config::{PLACES, POOLS};
use super::ledger::Ledger;
use crate::metrics;

/// Pages of a walk through all tunnels; behind them another is begun.
const WALK_PAGES_MAX: u32 = 30;

/// What was seen before, which what is seen now has to follow.
#[derive(Default)]
pub struct Looks {
    /// Numbers that only grow, by where they stand.
    grown: HashMap<String, f64>,
    walk: Option<Walk>,
}

/// Pages of the same order, each behind the one before.
struct Walk {
    query: String,
    filter: Filter,
    limit: usize,
    /// Whether what it is sorted by stays as it is, so that nobody is met twice.
    is_steady: bool,
    next: Option<String>,
    pages: u32,
    ids: HashSet<String>,
}

/// What the rows have to be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Filter {
    Any,
    Field(&'static str, &'static str),
    Age(f64),
}

/// Numbers of a status that only grow.
const GROWING: [&str; 7] = [
    "/uptime",
    "/sessions/accepted",
    "/sessions/refused",
    "/tunnels/opened",
    "/bytes/up",
    "/bytes/down",
    "/configuration/reloads",
];

impl Looks {
    /// A status of a proxy with so many workers that serves.
    pub fn status(&mut self, status: &Value, workers: usize) -> Result<(), String> {
        if status["phase"] != "serving" {
            return Err(format!("it serves, and says {}", status["phase"]));
        }
        for place in GROWING {
            let value = status.pointer(place).and_then(Value::as_f64);
            self.grow(place, value.ok_or_else(|| format!("there is no {place}"))?)?;
        }
        let count = list(&status["workers"])?.len();
        if count != workers {
            return Err(format!("{count} workers of {workers}"));
        }
        for listener in list(&status["listeners"])? {
            list(&listener["routes"])?;
        }
        for server in list(&status["upstreams"])?.iter().map(|upstream| list(&upstream["servers"])) {
            for server in server? {
                let state = ["in", "out", "drains"].iter().any(|state| server["state"] == *state);
                let share = server["share"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share));
                let drains = server["drains"].is_null() || server["state"] == "drains";
                if !(state && share && drains) {
                    return Err(format!("a server cannot be so: {server}"));
                }
            }
        }
        Ok(())
    }

    /// What Prometheus is told.
    pub fn metrics(&mut self, text: &str) -> Result<(), String> {
        let mut known = HashSet::new();
        let mut bucket = ("", "", 0.0);
        for series in metrics::parse(text)? {
            let metrics::Series { name, labels, value } = series;
            if !known.insert((name, labels)) {
                return Err(format!("{name}{{{labels}}} is there twice"));
            }
            if name.ends_with("_bucket") {
                let of = labels.split_once("le=\"").map_or(labels, |(of, _)| of);
                if (name, of) == (bucket.0, bucket.1) && value < bucket.2 {
                    return Err(format!("{name}{{{labels}}} has less than the bucket before"));
                }
                bucket = (name, of, value);
            }
            // What has labels may go and come again, and counts from 0 then.
            if name.ends_with("_total") && labels.is_empty() {
                self.grow(name, value)?;
            }
        }
        let is_told = |name| known.contains(&(name, ""));
        if is_told("adit_tunnels_open") && is_told("process_start_time_seconds") {
            Ok(())
        } else {
            Err("not all is told".into())
        }
    }

    fn grow(&mut self, place: &str, value: f64) -> Result<(), String> {
        match self.grown.insert(place.to_owned(), value) {
            Some(before) if before > value => Err(format!("{place} was {before} and is {value}")),
            Some(_) | None => Ok(()),
        }
    }

    /// The next page to be asked for: of the walk that is under way, or of another, by dice.
    pub fn next_page(&mut self, rng: &mut Rng) -> String {
        let walk = self.walk.get_or_insert_with(|| Walk::any(rng));
        match &walk.next {
            Some(next) => format!("/tunnels?{}&after={next}", walk.query),
            None => format!("/tunnels?{}", walk.query),
        }
    }

    /// There is no answer to the page that was asked for: the walk cannot go on.
    pub fn lose_page(&mut self) {
        self.walk = None;
    }

    /// The page that was asked for.
    pub fn page(&mut self, page: &Value) -> Result<(), String> {
        let Some(mut walk) = self.walk.take() else { return Ok(()) };
        let rows = list(&page["tunnels"])?;
        let matched = page["matched"].as_u64().ok_or("it is not said how many there are")?;
        if rows.len() > walk.limit || matched < rows.len() as u64 {
            return Err(format!("{} rows, of {matched} tunnels, {} a page", rows.len(), walk.limit));
        }
        let mut ids = HashSet::new();
        for row in rows {
            let id = row["id"].as_str().ok_or_else(|| format!("a row without an id: {row}"))?;
            if !ids.insert(id.to_owned()) {
                return Err(format!("{id} is there twice"));
            }
            if walk.is_steady && walk.ids.contains(id) {
                return Err(format!("{id} is there again on page {}", walk.pages + 1));
            }
            walk.filter.check(row)?;
        }
        if walk.is_steady {
            check_order(rows, walk.query.contains("order=asc"))?;
        }
        walk.ids.extend(ids);
        walk.pages += 1;
        walk.next = page["next"].as_str().map(str::to_owned);
        if walk.next.is_some() && walk.pages < WALK_PAGES_MAX {
            self.walk = Some(walk);
        }
        Ok(())
    }
}

/// How sessions end that the access log and adit's own counts call by the same word.
const OUTCOMES: [&str; 7] = ["closed", "drain", "finished", "gone", "rebalance", "removed", "reset"];

/// A status when nobody is there and nothing drains, beside the access log of all that was.
pub fn at_rest(status: &Value, ledger: &Ledger) -> Result<(), String> {
    for place in ["/sessions/open", "/tunnels/open", "/gone"] {
        let open = status.pointer(place).and_then(Value::as_u64);
        if open != Some(0) {
            return Err(format!("nobody is there, and {place} is {open:?}"));
        }
    }
    for listener in list(&status["listeners"])? {
        check_idle(listener, "routes")?;
    }
    for upstream in list(&status["upstreams"])? {
        check_idle(upstream, "servers")?;
    }
    if ledger.lost > 0 {
        return Ok(()); // then the log says less
    }
    let opened = status["tunnels"]["opened"].as_u64();
    if opened != Some(ledger.opened) {
        return Err(format!("{opened:?} tunnels were opened, and {} by the access log", ledger.opened));
    }
    let ends = list(&status["ends"])?;
    let count = |outcome: Option<&str>| -> u64 {
        let meant = ends.iter().filter(|end| outcome.is_none_or(|outcome| end["outcome"] == outcome));
        meant.filter_map(|end| end["count"].as_u64()).sum()
    };
    for outcome in OUTCOMES {
        let (told, by_log) =
            (count(Some(outcome)), ledger.outcomes.get(outcome).copied().unwrap_or_default());
        if told != by_log {
            return Err(format!("{told} sessions ended as {outcome}, and {by_log} by the access log"));
        }
    }
    match count(None) {
        all if all == ledger.sessions => Ok(()),
        all => Err(format!("{all} sessions ended, and {} by the access log", ledger.sessions)),
    }
}

/// Something and its parts: whether no tunnel is there and nothing drains.
fn check_idle(whole: &Value, parts: &str) -> Result<(), String> {
    for part in list(&whole[parts])?.iter().chain([whole]) {
        if part["tunnels"] != 0 || !part["drains"].is_null() {
            return Err(format!("nobody is there and nothing drains, but {part}"));
        }
    }
    Ok(())
}

/// Rows by age. Each worker tells the ages of its own at one moment.
fn check_order(rows: &[Value], is_ascending: bool) -> Result<(), String> {
    let mut last: HashMap<u64, f64> = HashMap::new();
    for row in rows {
        let (worker, age) = row["worker"].as_u64().zip(row["age"].as_f64()).ok_or("a row without an age")?;
        let before = last.insert(worker, age).unwrap_or(age);
        if if is_ascending { before > age } else { before < age } {
            return Err(format!("{age} s behind {before} s, where the order is by age"));
        }
    }
    Ok(())
}

fn list(value: &Value) -> Result<&[Value], String> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("no list: {value}"))
}

impl Walk {
    fn any(rng: &mut Rng) -> Walk {
        let sort = ["age", "age", "age", "idle", "bytes", "bytes_up", "bytes_down", "rate"][rng.usize(..8)];
        let order = if rng.bool() { "asc" } else { "desc" };
        let limit = [1, 7, 50, 100, 333, 1000][rng.usize(..6)];
        let filter = match rng.u8(..6) {
            0 => Filter::Field("upstream", POOLS[rng.usize(..POOLS.len())].name()),
            // Where there is no route every tunnel has the same one.
            1 => Filter::Field("route", PLACES[rng.usize(..PLACES.len())].host()),
            2 => Filter::Age(1.5),
            _ => Filter::Any,
        };
        let mut query = format!("sort={sort}&order={order}&limit={limit}");
        match filter {
            Filter::Any => {}
            Filter::Field(name, value) => query += &format!("&{name}={value}"),
            Filter::Age(age) => query += &format!("&min_age={age}&client=127.0.0.1"),
        }
        let is_steady = sort == "age";
        Walk { query, filter, limit, is_steady, next: None, pages: 0, ids: HashSet::new() }
    }
}

impl Filter {
    fn check(self, row: &Value) -> Result<(), String> {
        let is_so = match self {
            Filter::Any => true,
            Filter::Field(name, value) => row[name] == value,
            Filter::Age(least) => row["age"].as_f64().is_some_and(|age| age >= least),
        };
        if is_so { Ok(()) } else { Err(format!("{self:?} is asked for, and this is told: {row}")) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn wrong(found: Result<(), String>, words: &str) {
        let error = found.unwrap_err();
        assert!(error.contains(words), "{words:?}: {error}");
    }

    fn status() -> Value {
        json!({
            "phase": "serving", "uptime": 1.5, "sessions": { "accepted": 7, "refused": 1 },
            "tunnels": { "opened": 5 }, "bytes": { "up": 3, "down": 4 }, "configuration": { "reloads": 2 },
            "workers": [{}, {}], "listeners": [{ "routes": [] }],
            "upstreams": [{ "servers": [
                { "state": "in", "share": 0.25, "drains": null },
                { "state": "drains", "share": 0.0, "drains": "operator" },
            ] }],
        })
    }

    #[test]
    fn a_status_may_only_grow_and_has_to_be_whole() {
        let mut looks = Looks::default();
        for _ in 0..2 {
            assert_eq!(looks.status(&status(), 2), Ok(()));
        }
        wrong(looks.status(&status(), 3), "2 workers of 3");
        for (place, value, words) in [
            ("/phase", json!("draining"), "draining"),
            ("/uptime", json!(1.4), "/uptime was 1.5 and is 1.4"),
            ("/tunnels/opened", json!(4), "/tunnels/opened was 5 and is 4"),
            ("/bytes/up", Value::Null, "there is no /bytes/up"),
            ("/listeners/0/routes", json!(1), "no list"),
            ("/upstreams/0/servers/0/share", json!(1.5), "cannot be so"),
            ("/upstreams/0/servers/0/state", json!("up"), "cannot be so"),
            ("/upstreams/0/servers/0/drains", json!("file"), "cannot be so"),
        ] {
            let (mut looks, mut status) = (Looks::default(), status());
            assert_eq!(looks.status(&status, 2), Ok(()));
            *status.pointer_mut(place).unwrap() = value;
            wrong(looks.status(&status, 2), words);
        }
    }

    #[test]
    fn metrics_are_there_once_and_their_counters_only_grow() {
        let text = |more: &str| format!("adit_tunnels_open 3\nprocess_start_time_seconds 1.5\n{more}");
        let mut looks = Looks::default();
        let good = "a_total 3\nb_total{c=\"d\"} 3\nh_bucket{w=\"0\",le=\"1\"} 1\nh_bucket{w=\"0\",le=\"+Inf\"} 2\n\
                    h_bucket{w=\"1\",le=\"1\"} 0\n";
        assert_eq!(looks.metrics(&text(good)), Ok(()));
        assert_eq!(looks.metrics(&text("a_total 3\nb_total{c=\"d\"} 1\n")), Ok(()));
        wrong(looks.metrics(&text("a_total 2\n")), "a_total was 3 and is 2");
        wrong(looks.metrics(&text("b{c=\"d\"} 1\nb{c=\"d\"} 2\n")), "b{c=\"d\"} is there twice");
        wrong(looks.metrics(&text("h_bucket{le=\"1\"} 2\nh_bucket{le=\"2\"} 1\n")), "than the bucket before");
        wrong(looks.metrics(&text("what is this\n")), "no metric");
        wrong(looks.metrics("adit_tunnels_open 3\n"), "not all is told");
    }

    #[test]
    fn at_rest_both_books_are_the_same() {
        let mut ledger = Ledger::default();
        ledger.note("id=a event=open");
        ledger.note("id=a event=close status=101 outcome=closed");
        ledger.note("id=b event=close status=404 outcome=\"no route\"");
        let good = json!({
            "sessions": { "open": 0 }, "tunnels": { "open": 0, "opened": 1 }, "gone": 0,
            "listeners": [{ "drains": null, "tunnels": 0, "routes": [{ "drains": null, "tunnels": 0 }] }],
            "upstreams": [{ "tunnels": 0, "servers": [{ "drains": null, "tunnels": 0 }] }],
            "ends": [
                { "outcome": "closed", "by": "adit", "count": 1 },
                { "outcome": "refused", "by": "adit", "count": 1 },
            ],
        });
        assert_eq!(at_rest(&good, &ledger), Ok(()));
        for (place, value, words) in [
            ("/sessions/open", json!(1), "/sessions/open is Some(1)"),
            ("/gone", json!(1), "/gone is Some(1)"),
            ("/listeners/0/routes/0/drains", json!("operator"), "nothing drains, but"),
            ("/upstreams/0/servers/0/tunnels", json!(1), "nobody is there"),
            ("/tunnels/opened", json!(2), "Some(2) tunnels were opened, and 1 by"),
            ("/ends/0/count", json!(2), "2 sessions ended as closed, and 1 by"),
            ("/ends/1/count", json!(2), "3 sessions ended, and 2 by"),
        ] {
            let mut status = good.clone();
            *status.pointer_mut(place).unwrap() = value;
            wrong(at_rest(&status, &ledger), words);
        }
        let mut status = good;
        *status.pointer_mut("/ends/0/count").unwrap() = json!(2);
        ledger.lost = 1;
        assert_eq!(at_rest(&status, &ledger), Ok(()));
    }

    /// Looks in whose walk this is the next page.
    fn walking(query: &str, filter: Filter, limit: usize) -> Looks {
        let (is_steady, ids) = (query.contains("sort=age"), HashSet::new());
        let walk = Walk { query: query.into(), filter, limit, is_steady, next: None, pages: 0, ids };
        Looks { walk: Some(walk), ..Looks::default() }
    }

    fn page(matched: u64, next: Option<&str>, rows: &[(&str, f64)]) -> Value {
        let row = |(id, age): &(&str, f64)| json!({ "id": id, "age": age, "worker": 0, "route": "r" });
        json!({ "matched": matched, "next": next, "tunnels": rows.iter().map(row).collect::<Vec<_>>() })
    }

    #[test]
    fn a_walk_goes_from_page_to_page_and_meets_nobody_twice() {
        let mut rng = Rng::with_seed(1);
        let mut looks = walking("sort=age", Filter::Any, 2);
        assert_eq!(looks.next_page(&mut rng), "/tunnels?sort=age");
        assert_eq!(looks.page(&page(3, Some("1-2"), &[("a", 3.0), ("b", 2.0)])), Ok(()));
        assert_eq!(looks.next_page(&mut rng), "/tunnels?sort=age&after=1-2");
        assert_eq!(looks.page(&page(3, None, &[("c", 1.0)])), Ok(()));
        assert!(looks.walk.is_none(), "it is at its end");

        let mut looks = walking("sort=age", Filter::Any, 2);
        assert_eq!(looks.page(&page(9, Some("1-2"), &[("a", 3.0)])), Ok(()));
        wrong(looks.page(&page(9, None, &[("a", 3.0)])), "a is there again on page 2");
        // What is sorted by something that changes may come again.
        let mut looks = walking("sort=idle", Filter::Any, 2);
        for _ in 0..2 {
            assert_eq!(looks.page(&page(9, Some("1-2"), &[("a", 3.0)])), Ok(()));
        }
        looks.lose_page();
        assert!(looks.walk.is_none(), "without an answer there is no going on");
    }

    #[test]
    fn pages_that_cannot_be_are_found() {
        let check = |query, filter, page: Value, words| {
            wrong(walking(query, filter, 2).page(&page), words);
        };
        check("", Filter::Any, page(1, None, &[("a", 1.0), ("b", 1.0)]), "2 rows, of 1 tunnels");
        check("", Filter::Any, page(3, None, &[("a", 1.0), ("b", 1.0), ("c", 1.0)]), "2 a page");
        check("", Filter::Any, page(2, None, &[("a", 1.0), ("a", 1.0)]), "a is there twice");
        check("sort=age", Filter::Any, page(2, None, &[("a", 1.0), ("b", 2.0)]), "2 s behind 1 s");
        check("sort=age&order=asc", Filter::Any, page(2, None, &[("a", 2.0), ("b", 1.0)]), "1 s behind 2 s");
        check("", Filter::Age(1.5), page(1, None, &[("a", 1.0)]), "Age(1.5) is asked for");
        check("", Filter::Field("route", "s"), page(1, None, &[("a", 1.0)]), "\"s\"");
        check("", Filter::Any, json!({}), "no list");
    }

    #[test]
    fn every_walk_is_one_that_adit_knows() {
        let mut rng = Rng::with_seed(2);
        for _ in 0..200 {
            let walk = Walk::any(&mut rng);
            let keys = ["sort", "order", "limit", "upstream", "route", "min_age", "client"];
            let parts = walk.query.split('&').map(|part| part.split_once('=').unwrap().0);
            assert!(parts.into_iter().all(|key| keys.contains(&key)), "{}", walk.query);
        }
    }
}
