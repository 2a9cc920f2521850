//! Answers as people read them. Pure: text out, of which nothing does anything to a terminal.

use std::fmt::Write as _;

use super::answers::{Closed, Drained, Page, Rebalanced, Reloaded, Server, Status, Tunnel};
use super::table::Align::{Left, Right};
use super::table::Table;
use super::units::{age, bytes, count, counted, percent, printable};
use crate::cli::ctl::Step;

/// What it is and does, then listeners with their routes, then upstreams with their servers.
pub fn status(status: &Status) -> String {
    let mut text =
        format!("adit {}: {}, up {}\n", printable(&status.version), phase(status), age(status.uptime));
    for (name, line) in facts(status) {
        // To a string it cannot fail, here and below.
        let _ = writeln!(text, "  {name:<14}{line}");
    }
    text.push('\n');
    text += &listeners(status);
    text.push('\n');
    text += &upstreams(status);
    text
}

/// "serving", and when a drain ends.
pub fn phase(status: &Status) -> String {
    match status.drain_ends {
        Some(left) => format!("{}, for {} more", printable(&status.phase), age(left)),
        None => printable(&status.phase),
    }
}

fn facts(status: &Status) -> Vec<(&'static str, String)> {
    let Status { sessions, tunnels, configuration, descriptors, buffers, .. } = status;
    let mut facts = vec![
        (
            "tunnels",
            format!("{} open, {} opened since the start", count(tunnels.open), count(tunnels.opened)),
        ),
        (
            "sessions",
            format!(
                "{} of {} open, {} accepted, {} refused",
                count(sessions.open),
                count(sessions.limit),
                count(sessions.accepted),
                count(sessions.refused)
            ),
        ),
        ("bytes", format!("{} up, {} down", bytes(status.bytes.up), bytes(status.bytes.down))),
    ];
    if status.workers.len() > 1 {
        let shares: Vec<String> = status.workers.iter().map(|worker| count(worker.sessions)).collect();
        facts.push(("workers", format!("{}, with {} sessions", status.workers.len(), shares.join(" + "))));
    }
    let used = descriptors.used.map_or("?".into(), count);
    facts.push(("descriptors", format!("{used} of {}", count(descriptors.limit))));
    facts.push(("held", format!("{} in buffers, {}", bytes(buffers.bytes), counted(buffers.pipes, "pipe"))));
    let hash: String = configuration.hash.iter().flat_map(|hash| hash.chars()).take(7).collect();
    let hash = if hash.is_empty() { String::new() } else { format!("{} ", printable(&hash)) };
    let older = match configuration.in_use {
        0 | 1 => String::new(),
        in_use => format!(", {} older in use", count(in_use - 1)),
    };
    let since = age(configuration.age);
    facts.push((
        "configuration",
        format!("{hash}for {since}, {}{older}", counted(configuration.reloads, "reload")),
    ));
    if status.gone > 0 {
        facts.push((
            "gone",
            format!("{} of routes that are no longer configured", counted(status.gone, "tunnel")),
        ));
    }
    for upstream in status.upstreams.iter().filter(|upstream| upstream.rebalancing) {
        facts.push(("rebalancing", format!("upstream {}", printable(&upstream.upstream))));
    }
    if status.log_lines_lost > 0 {
        facts.push(("log", format!("{} lost", counted(status.log_lines_lost, "line"))));
    }
    for (rule, number) in &status.refusals.0 {
        facts.push(("refused", format!("{}: {}", count(*number), printable(rule))));
    }
    for end in &status.ends {
        let by = end.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        facts
            .push(("ended", format!("{}: {}", count(end.count), printable(&format!("{}{by}", end.outcome)))));
    }
    facts
}

fn listeners(status: &Status) -> String {
    let mut rows = Vec::new();
    for listener in &status.listeners {
        rows.push(vec![
            printable(&listener.listener),
            printable(&listener.protocol),
            String::new(),
            String::new(),
            drains(listener.drains.as_deref()),
            count(listener.tunnels),
        ]);
        for route in &listener.routes {
            rows.push(vec![
                String::new(),
                String::new(),
                printable(&route.route),
                printable(&route.upstream),
                drains(route.drains.as_deref()),
                count(route.tunnels),
            ]);
        }
    }
    Table::new(&[
        ("LISTENER", Left),
        ("PROTOCOL", Left),
        ("ROUTE", Left),
        ("UPSTREAM", Left),
        ("STATE", Left),
        ("TUNNELS", Right),
    ])
    .lines(&rows)
}

/// The state of what is in, unless it drains.
fn drains(by: Option<&str>) -> String {
    by.map_or("in".into(), |by| format!("drains ({})", printable(by)))
}

/// A server's state, and by whom it drains.
pub fn state(server: &Server) -> String {
    let mut state = printable(&server.state);
    if let Some(by) = &server.drains {
        state = format!("drains ({})", printable(by));
    }
    if server.backup {
        state += ", backup";
    }
    state
}

fn upstreams(status: &Status) -> String {
    let mut rows = Vec::new();
    for upstream in &status.upstreams {
        for server in &upstream.servers {
            let sessions = match server.max_conns {
                0 => count(server.sessions),
                most => format!("{} of {}", count(server.sessions), count(most)),
            };
            rows.push(vec![
                format!("{}/{}", printable(&upstream.upstream), printable(&server.server)),
                state(server),
                count(server.weight),
                sessions,
                count(server.tunnels),
                percent(server.share),
                count(server.opened),
                count(server.failures),
            ]);
        }
    }
    Table::new(&[
        ("UPSTREAM/SERVER", Left),
        ("STATE", Left),
        ("WEIGHT", Right),
        ("SESSIONS", Right),
        ("TUNNELS", Right),
        ("SHARE", Right),
        ("OPENED", Right),
        ("FAILURES", Right),
    ])
    .lines(&rows)
}

/// The columns of tunnels. What a client chose, and may be long, is the last.
pub fn tunnels_table() -> Table {
    Table::new(&[
        ("ID", Left),
        ("CLIENT", Left),
        ("LISTENER", Left),
        ("ROUTE", Left),
        ("UPSTREAM/SERVER", Left),
        ("AGE", Right),
        ("IDLE", Right),
        ("UP", Right),
        ("DOWN", Right),
        ("STATE", Left),
        ("ASKED FOR", Left),
    ])
}

pub fn tunnels(table: &mut Table, page: &Page) -> String {
    let rows = page.tunnels.iter().map(|tunnel| {
        vec![
            printable(&tunnel.id),
            printable(&tunnel.client),
            printable(&tunnel.listener),
            printable(&tunnel.route),
            printable(&format!("{}/{}", tunnel.upstream, tunnel.server)),
            age(tunnel.age),
            age(tunnel.idle),
            bytes(tunnel.bytes_up),
            bytes(tunnel.bytes_down),
            printable(&tunnel.state),
            asked_for(tunnel),
        ]
    });
    table.lines(&rows.collect::<Vec<_>>())
}

/// Host and path of a request; of a tunnel without one nothing.
pub fn asked_for(tunnel: &Tunnel) -> String {
    [&tunnel.host, &tunnel.path].into_iter().flatten().map(|part| printable(part)).collect()
}

/// What stands below so many tunnels.
pub fn total(shown: u64, matched: u64) -> String {
    match matched > shown {
        false => format!("{}\n", counted(shown, "tunnel")),
        true => format!("{} of {}; --all or --limit shows more\n", count(shown), counted(matched, "tunnel")),
    }
}

pub fn drained(answer: &Drained, step: Step) -> String {
    let (what, tunnels) = (printable(&answer.what), counted(answer.tunnels, "tunnel"));
    match (answer.changed, step) {
        (true, Step::Done) => format!("{what}: drains, with {tunnels}\n"),
        (true, Step::DryRun) => format!("{what}: would drain, with {tunnels}\n"),
        (false, _) => format!("{what}: drains already, with {tunnels}\n"),
    }
}

pub fn undrained(answer: &Drained, step: Step) -> String {
    let (what, tunnels) = (printable(&answer.what), counted(answer.tunnels, "tunnel"));
    match (answer.changed, step) {
        (true, Step::Done) => format!("{what}: is in again, with {tunnels}\n"),
        (true, Step::DryRun) => format!("{what}: would be in again, with {tunnels}\n"),
        (false, _) => format!("{what}: does not drain; it has {tunnels}\n"),
    }
}

pub fn rebalanced(answer: &Rebalanced, step: Step) -> String {
    let (upstream, surplus) = (printable(&answer.upstream), counted(answer.surplus, "tunnel"));
    match (answer.surplus, step) {
        (0, _) => format!("upstream {upstream}: no server has more than its share\n"),
        (_, Step::Done) => format!("upstream {upstream}: a surplus of {surplus} is closed\n"),
        (_, Step::DryRun) => format!("upstream {upstream}: a surplus of {surplus} would be closed\n"),
    }
}

pub fn closed(answer: &Closed, step: Step) -> String {
    let tunnels = counted(answer.matched, "tunnel");
    let pace = match answer.rate {
        0 => "at once".into(),
        rate => format!("at {} a second", count(rate)),
    };
    match (answer.matched, step) {
        (0, _) => "no tunnel matches\n".into(),
        (1, Step::Done) => format!("{tunnels} is closed\n"),
        (1, Step::DryRun) => format!("{tunnels} would be closed\n"),
        (_, Step::Done) => format!("{tunnels} are closed, {pace}\n"),
        (_, Step::DryRun) => format!("{tunnels} would be closed, {pace}\n"),
    }
}

pub fn reloaded(answer: &Reloaded) -> String {
    match answer.changed {
        false => "nothing has changed\n".into(),
        true => format!("reloaded: {}\n", printable(&answer.message)),
    }
}

/// A status and a page for tests, as an admin listener would answer.
#[cfg(test)]
pub mod samples {
    pub const STATUS: &str = r#"{
        "version": "0.1.0", "time": "2026-11-22T09:44:49.812Z", "uptime": 273605.25,
        "phase": "serving", "drain_ends": null,
        "configuration": {"hash": "5f3a9c1d77e0b1", "age": 3725.5, "reloads": 2, "in_use": 2},
        "workers": [{"sessions": 600, "tunnels": 590, "accepted": 20000},
                    {"sessions": 640, "tunnels": 644, "accepted": 26912}],
        "sessions": {"open": 1240, "limit": 10000, "accepted": 46912, "refused": 3},
        "tunnels": {"open": 1234, "opened": 45678},
        "bytes": {"up": 1288490188, "down": 3758096384},
        "descriptors": {"used": 2501, "limit": 20000},
        "buffers": {"bytes": 65536, "pipes": 2},
        "log_lines_lost": 12,
        "listeners": [
            {"listener": "0.0.0.0:8020", "protocol": "http", "drains": null, "tunnels": 1200, "routes": [
                {"route": "chat.example.com/wsapp/", "upstream": "websocket", "drains": null, "tunnels": 1100},
                {"route": "*", "upstream": "websocket", "drains": "operator", "tunnels": 100}]},
            {"listener": "unix:/run/adit.sock", "protocol": "tcp", "drains": "file", "tunnels": 33, "routes": [
                {"route": "*", "upstream": "broker", "drains": null, "tunnels": 33}]}],
        "upstreams": [
            {"upstream": "websocket", "balance": "round_robin", "rebalance": true, "rebalancing": true,
             "sessions": 1207, "tunnels": 1201, "servers": [
                {"server": "10.0.0.1:8010", "state": "in", "drains": null, "backup": false, "weight": 1,
                 "max_conns": 1000, "sessions": 605, "tunnels": 600, "share": 0.4996, "opened": 23000, "failures": 0},
                {"server": "10.0.0.2:8010", "state": "drains", "drains": "operator", "backup": false, "weight": 2,
                 "max_conns": 0, "sessions": 602, "tunnels": 601, "share": 0.5004, "opened": 22000, "failures": 4},
                {"server": "10.0.0.3:8010", "state": "out", "drains": null, "backup": true, "weight": 1,
                 "max_conns": 0, "sessions": 0, "tunnels": 0, "share": 0.0, "opened": 0, "failures": 17}]},
            {"upstream": "broker", "balance": "least_conn", "rebalance": false, "rebalancing": false,
             "sessions": 33, "tunnels": 33, "servers": [
                {"server": "unix:/run/broker.sock", "state": "in", "drains": null, "backup": false, "weight": 1,
                 "max_conns": 0, "sessions": 33, "tunnels": 33, "share": 1.0, "opened": 678, "failures": 0}]}],
        "gone": 1,
        "refusals": {"no route for this host and path": 2, "Sec-WebSocket-Key is missing": 1},
        "ends": [{"outcome": "finished", "by": "client", "count": 44000},
                 {"outcome": "idle", "by": "adit", "count": 444}]
    }"#;

    pub const PAGE: &str = r#"{"matched": 1234, "next": "c2", "tunnels": [
        {"id": "ba7d5af70d9b615026ee48d0875f2b07", "client": "192.0.2.1:50000", "listener": "0.0.0.0:8020",
         "route": "chat.example.com/wsapp/", "host": "chat.example.com", "path": "/wsapp/room\u001b[2J",
         "upstream": "websocket", "server": "10.0.0.1:8010", "opened": "2026-11-19T05:44:44.562Z", "age": 273600.25,
         "idle": 0.5, "bytes_up": 1258291, "bytes_down": 10, "state": "open", "worker": 0},
        {"id": "0d9b615026ee48d0875f2b07ba7d5af7", "client": "unix:", "listener": "unix:/run/adit.sock",
         "route": "*", "host": null, "path": null, "upstream": "broker", "server": "unix:/run/broker.sock",
         "opened": "2026-11-22T09:40:39.812Z", "age": 250.0, "idle": 250.0, "bytes_up": 0, "bytes_down": 5368709120,
         "state": "half_closed", "worker": 1}
    ]}"#;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: for<'a> serde::Deserialize<'a>>(text: &str) -> T {
        serde_json::from_str(text).expect("an answer")
    }

    #[test]
    fn a_status() {
        let text = status(&read(samples::STATUS));
        assert_eq!(
            text,
            "\
adit 0.1.0: serving, up 3d 4h
  tunnels       1,234 open, 45,678 opened since the start
  sessions      1,240 of 10,000 open, 46,912 accepted, 3 refused
  bytes         1.2 GiB up, 3.5 GiB down
  workers       2, with 600 + 640 sessions
  descriptors   2,501 of 20,000
  held          64.0 KiB in buffers, 2 pipes
  configuration 5f3a9c1 for 1h 2m, 2 reloads, 1 older in use
  gone          1 tunnel of routes that are no longer configured
  rebalancing   upstream websocket
  log           12 lines lost
  refused       2: no route for this host and path
  refused       1: Sec-WebSocket-Key is missing
  ended         44,000: finished by client
  ended         444: idle by adit

LISTENER             PROTOCOL  ROUTE                    UPSTREAM   STATE              TUNNELS
0.0.0.0:8020         http                                          in                   1,200
                               chat.example.com/wsapp/  websocket  in                   1,100
                               *                        websocket  drains (operator)      100
unix:/run/adit.sock  tcp                                           drains (file)           33
                               *                        broker     in                      33

UPSTREAM/SERVER               STATE              WEIGHT      SESSIONS  TUNNELS   SHARE  OPENED  FAILURES
websocket/10.0.0.1:8010       in                      1  605 of 1,000      600   50.0%  23,000         0
websocket/10.0.0.2:8010       drains (operator)       2           602      601   50.0%  22,000         4
websocket/10.0.0.3:8010       out, backup             1             0        0    0.0%       0        17
broker/unix:/run/broker.sock  in                      1            33       33  100.0%     678         0
"
        );
    }

    #[test]
    fn a_small_status_of_another_version() {
        let text = status(&read(
            r#"{"version": "9.0\u001b", "phase": "draining", "uptime": 5, "drain_ends": 25.5, "new": [{}],
                "sessions": {"open": 1}, "tunnels": {}}"#,
        ));
        assert_eq!(
            text,
            "\
adit 9.0\\u{1b}: draining, for 25s more, up 5s
  tunnels       0 open, 0 opened since the start
  sessions      1 of 0 open, 0 accepted, 0 refused
  bytes         0 B up, 0 B down
  descriptors   ? of 0
  held          0 B in buffers, 0 pipes
  configuration for 0s, 0 reloads

LISTENER  PROTOCOL  ROUTE  UPSTREAM  STATE  TUNNELS

UPSTREAM/SERVER  STATE  WEIGHT  SESSIONS  TUNNELS  SHARE  OPENED  FAILURES
"
        );
    }

    #[test]
    fn a_page_of_tunnels() {
        let page: Page = read(samples::PAGE);
        let mut table = tunnels_table();
        let text = tunnels(&mut table, &page) + &total(2, page.matched);
        assert_eq!(
            text,
            "\
ID                                CLIENT           LISTENER             ROUTE                    \
UPSTREAM/SERVER                  AGE    IDLE       UP     DOWN  STATE        ASKED FOR
ba7d5af70d9b615026ee48d0875f2b07  192.0.2.1:50000  0.0.0.0:8020         chat.example.com/wsapp/  \
websocket/10.0.0.1:8010        3d 4h    0.5s  1.2 MiB     10 B  open         chat.example.com/wsapp/room\\u{1b}[2J
0d9b615026ee48d0875f2b07ba7d5af7  unix:            unix:/run/adit.sock  *                        \
broker/unix:/run/broker.sock  4m 10s  4m 10s      0 B  5.0 GiB  half_closed
2 of 1,234 tunnels; --all or --limit shows more
"
        );
    }

    /// Names are whatever clients and the file say.
    #[test]
    fn nothing_does_anything_to_a_terminal() {
        let evil = "\u{1b}[2J\r\u{9b}m\u{202e}\u{7f}";
        let spoilt = |text: &str| -> serde_json::Value {
            let mut value = serde_json::from_str(text).expect("JSON");
            spoil(&mut value, evil);
            value
        };
        let the_status: Status = serde_json::from_value(spoilt(samples::STATUS)).expect("a status");
        let page: Page = serde_json::from_value(spoilt(samples::PAGE)).expect("a page");
        let done = Drained { what: evil.into(), changed: true, tunnels: 1 };
        for text in [
            status(&the_status),
            tunnels(&mut tunnels_table(), &page),
            drained(&done, Step::Done),
            undrained(&done, Step::Done),
            rebalanced(&Rebalanced { upstream: evil.into(), surplus: 1 }, Step::Done),
            reloaded(&Reloaded { changed: true, message: evil.into() }),
        ] {
            assert!(text.contains("\\u{1b}[2J"), "it is spelt out: {text:?}");
            assert!(text.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{text:?}");
        }
    }

    /// Puts this behind every text, names of refusals included.
    fn spoil(value: &mut serde_json::Value, evil: &str) {
        match value {
            serde_json::Value::String(text) => text.push_str(evil),
            serde_json::Value::Array(values) => values.iter_mut().for_each(|value| spoil(value, evil)),
            serde_json::Value::Object(map) => {
                map.values_mut().for_each(|value| spoil(value, evil));
                if let Some(refusals) = map.get_mut("refusals").and_then(serde_json::Value::as_object_mut) {
                    refusals.insert(evil.into(), 1.into());
                }
            }
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
        }
    }

    #[test]
    fn what_was_done() {
        let drained_text = |changed, step| {
            let answer = Drained { what: "server s of upstream u".into(), changed, tunnels: 12 };
            (drained(&answer, step), undrained(&answer, step))
        };
        let told = |drained: &str, undrained: &str| {
            let all = |text| format!("server s of upstream u: {text}12 tunnels\n");
            (all(drained), all(undrained))
        };
        assert_eq!(drained_text(true, Step::Done), told("drains, with ", "is in again, with "));
        assert_eq!(drained_text(true, Step::DryRun), told("would drain, with ", "would be in again, with "));
        for step in [Step::Done, Step::DryRun] {
            assert_eq!(drained_text(false, step), told("drains already, with ", "does not drain; it has "));
        }
        let closed_text = |matched, rate, step| closed(&Closed { matched, rate }, step);
        assert_eq!(closed_text(0, 400, Step::Done), "no tunnel matches\n");
        assert_eq!(closed_text(1, 400, Step::Done), "1 tunnel is closed\n");
        assert_eq!(closed_text(1, 0, Step::DryRun), "1 tunnel would be closed\n");
        assert_eq!(closed_text(1234, 0, Step::Done), "1,234 tunnels are closed, at once\n");
        assert_eq!(closed_text(1234, 400, Step::Done), "1,234 tunnels are closed, at 400 a second\n");
        assert_eq!(closed_text(2, 400, Step::DryRun), "2 tunnels would be closed, at 400 a second\n");
        let rebalanced_text = |surplus, step| rebalanced(&Rebalanced { upstream: "u".into(), surplus }, step);
        assert_eq!(rebalanced_text(0, Step::Done), "upstream u: no server has more than its share\n");
        assert_eq!(rebalanced_text(1, Step::Done), "upstream u: a surplus of 1 tunnel is closed\n");
        let dry = "upstream u: a surplus of 12 tunnels would be closed\n";
        assert_eq!(rebalanced_text(12, Step::DryRun), dry);
        let reloaded_text = |changed| reloaded(&Reloaded { changed, message: "2 listeners".into() });
        assert_eq!(reloaded_text(true), "reloaded: 2 listeners\n");
        assert_eq!(reloaded_text(false), "nothing has changed\n");
        assert_eq!(total(1, 1), "1 tunnel\n");
        assert_eq!(total(100, 1234), "100 of 1,234 tunnels; --all or --limit shows more\n");
    }
}
