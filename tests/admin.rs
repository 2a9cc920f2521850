//! What an operator sees and does over the admin listener, on real sockets.

#![cfg(feature = "admin")]

mod common;

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use adit::{Host, Inherited, Proxy, ReloadRequest};
use common::admin::Operator;
use common::{
    Backend, Client, Running, WAIT, dead_address, echoes, open_tunnel, plan, start, start_workers, tunnels,
};
use serde_json::{Value, json};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";

/// A tcp listener in front of these servers, an admin listener, keys for the upstream and text ahead of it all.
fn tcp(servers: &[&str], upstream: &str, more: &str) -> String {
    format!(
        "{more}\n{ADMIN}[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = {servers:?}\n{upstream}\n"
    )
}

/// The value of a field in a log line.
fn field(line: &str, name: &str) -> String {
    let (_, rest) = line.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("{name} in {line}"));
    rest.split(' ').next().expect("a value").trim().to_owned()
}

/// The only server of the only upstream, or the one with that place.
fn server(operator: &mut Operator, place: usize) -> Value {
    operator.get("/status").ok()["upstreams"][0]["servers"][place].clone()
}

// Seeing.

#[test]
fn status_has_the_numbers_of_what_happened() {
    let (first, second) = (Backend::new(), Backend::new());
    let config = format!(
        "{ADMIN}[[listener]]\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\npath = \"/a/\"\nupstream = \"u\"\n\
         [[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"v\"\n\
         [upstream.u]\nservers = [\"{}\"]\n[upstream.v]\nservers = [\"{}\"]\n",
        first.address(),
        second.address()
    );
    let proxy = start(&config);
    let mut operator = proxy.operator();

    let mut web = proxy.client();
    web.ask("/a/x");
    let mut web_server = first.accept();
    web_server.agree();
    assert!(web.head().starts_with("HTTP/1.1 101 "));
    let (mut raw, mut raw_server) = (Client::connect(proxy.address_of(1)), second.accept());
    raw.send("twelve bytes");
    raw_server.expect("twelve bytes");
    raw_server.send("and seven");
    raw.expect("and seven");
    let mut lost = proxy.client();
    lost.ask("/elsewhere");
    assert!(lost.head().starts_with("HTTP/1.1 404 "));
    drop(lost);
    proxy.await_stats(|stats| stats.open == 2);

    let status = operator.get("/status").ok();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["phase"], &status["drain_ends"]), (&json!("serving"), &Value::Null));
    let limit = json!({ "open": 2, "limit": 10000, "accepted": 3, "refused": 1 });
    assert_eq!(status["sessions"], limit);
    assert_eq!(status["tunnels"], json!({ "open": 2, "opened": 2 }));
    assert_eq!(status["bytes"], json!({ "up": 12, "down": 9 }));
    assert_eq!(status["workers"], json!([{ "sessions": 2, "tunnels": 2, "accepted": 3 }]));
    assert_eq!(status["refusals"], json!({ "no route for this host and path": 1 }));
    assert_eq!(status["ends"], json!([{ "outcome": "refused", "by": "adit", "count": 1 }]));
    let [http, tcp] = [0, 1].map(|place| &status["listeners"][place]);
    assert_eq!(http["listener"], proxy.address_of(0).to_string());
    let route = json!({ "route": "*/a/", "upstream": "u", "drains": null, "tunnels": 1 });
    assert_eq!(
        (&http["protocol"], &http["tunnels"], &http["routes"]),
        (&json!("http"), &json!(1), &json!([route]))
    );
    assert_eq!((&tcp["protocol"], &tcp["tunnels"]), (&json!("tcp"), &json!(1)));
    let server = json!({
        "server": second.address(), "state": "in", "drains": null, "backup": false, "weight": 1, "max_conns": 0,
        "sessions": 1, "tunnels": 1, "share": 1.0, "opened": 1, "failures": 0
    });
    assert_eq!(status["upstreams"][1]["servers"], json!([server]));
    assert_eq!(status["configuration"]["hash"].as_str().map(str::len), Some(40));
    assert!(status["descriptors"]["limit"].as_u64() > Some(0));

    drop((web, web_server, raw, raw_server));
    proxy.await_empty();
    let status = operator.get("/status").ok();
    assert_eq!(status["tunnels"], json!({ "open": 0, "opened": 2 }));
    assert_eq!(status["upstreams"][1]["servers"][0]["tunnels"], 0);
    let ends = status["ends"].as_array().unwrap();
    assert_eq!(ends.iter().map(|end| end["count"].as_u64().unwrap()).sum::<u64>(), 3, "{ends:?}");
}

#[test]
fn the_configurations_hash_is_that_of_the_text_that_was_read_last() {
    let backend = Backend::new();
    let text = tcp(&[&backend.address()], "", "");
    let mut proxy = start(&text);
    let hash = || proxy.operator().get("/status").ok()["configuration"]["hash"].clone();
    let first = hash();
    assert_eq!(first.as_str().map(str::len), Some(40));
    // A comment more is the same configuration, and another text.
    let commented = format!("# why\n{text}");
    assert!(!proxy.try_reload(&commented).unwrap().is_changed);
    let second = hash();
    assert_ne!(second, first);
    proxy.operator().post("/drain", &json!({ "upstream": "u", "server": backend.address() })).ok();
    assert_eq!(hash(), second, "what an operator says is in no text");
    proxy.reload(&text);
    let back = proxy.operator().get("/status").ok()["configuration"]["hash"].clone();
    assert_eq!(back, first);
}

#[test]
fn a_server_that_fails_is_seen_to_be_out() {
    let backend = Backend::new();
    let dead = dead_address();
    let proxy = start(&tcp(&[&dead, &backend.address()], "max_fails = 1\nfail_timeout = \"1h\"", ""));
    let mut operator = proxy.operator();
    assert_eq!(server(&mut operator, 0)["state"], "in");
    let _tunnels = tunnels(&proxy, &backend, 2);
    let failed = server(&mut operator, 0);
    assert_eq!((&failed["state"], &failed["failures"]), (&json!("out"), &json!(1)));
    assert_eq!(server(&mut operator, 1)["tunnels"], 2);
}

#[test]
fn tunnels_are_found_by_what_is_asked_for() {
    let (first, second) = (Backend::new(), Backend::new());
    let config = format!(
        "{ADMIN}[[listener]]\nlisten = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\nupstream = \"u\"\n\
         [[listener.route]]\npath = \"/a/\"\nupstream = \"v\"\n\
         [upstream.u]\nservers = [\"{}\"]\n[upstream.v]\nservers = [\"{}\"]\n",
        first.address(),
        second.address()
    );
    let proxy = start(&config);
    let open = |path: &str, backend: &Backend, fields: &str| {
        let mut client = proxy.client();
        client.send(common::upgrade_request(path).replace("\r\n\r\n", &format!("\r\n{fields}\r\n")));
        let mut server = backend.accept();
        let head = server.agree();
        client.head();
        (client, server, head)
    };
    let (mut a, mut a_server, head) = open("/a/1", &second, "X-Forwarded-For: 192.0.2.7\r\n");
    let (_b, _b_server, kept) = open("/b", &first, "X-Request-ID: from-elsewhere\r\n");
    let (_c, _c_server, _) = open("/c", &first, "");
    a.send("0123456789");
    a_server.expect("0123456789");
    let lines: Vec<String> = (0..3).map(|_| proxy.log_line()).collect();
    let ids: Vec<String> = lines.iter().map(|line| field(line, "id")).collect();

    let mut operator = proxy.operator();
    let mut found = |query: &str| -> Vec<usize> {
        let place =
            |tunnel: &Value| ids.iter().position(|id| tunnel["id"] == id.as_str()).expect("one of these");
        operator.tunnels(query).iter().map(place).collect()
    };
    assert_eq!(found("sort=age"), [0, 1, 2]);
    assert_eq!(found("sort=age&order=asc"), [2, 1, 0]);
    assert_eq!(found("limit=1"), [0, 1, 2], "page by page");
    assert_eq!(found("sort=bytes&limit=2")[0], 0);
    assert_eq!(found("client=192.0.2.0/24"), [0]);
    assert_eq!(found("client=127.0.0.1"), [1, 2]);
    assert_eq!(found("route=*/a/"), [0]);
    assert_eq!(found("upstream=u"), [1, 2]);
    assert_eq!(found(&format!("server={}", second.address())), [0]);
    assert_eq!(found(&format!("listener={}&route=*", proxy.address())), [1, 2]);
    assert_eq!(found("id=from-elsewhere"), [1]);
    assert_eq!(found("min_bytes=10"), [0]);
    assert_eq!(found("min_age=1h"), [0; 0]);
    assert_eq!(found("min_idle=0&min_age=0"), [0, 1, 2]);

    // One id: what the server was told, both lines of the log, and here.
    assert!(head.contains(&format!("\r\nX-Request-ID: {}\r\n", ids[0])), "{head}");
    assert!(kept.contains("\r\nX-Request-ID: from-elsewhere\r\n"), "{kept}");
    let tunnel = operator.tunnels("route=*/a/").remove(0);
    let expected = json!({
        "id": ids[0], "client": "192.0.2.7", "listener": proxy.address().to_string(), "route": "*/a/",
        "host": "example.com", "path": "/a/1", "upstream": "v", "server": second.address(), "bytes_up": 10,
        "bytes_down": 0, "state": "open", "worker": 0
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&tunnel[key], value, "{key}");
    }
    assert!(tunnel["age"].as_f64() >= tunnel["idle"].as_f64());
    a.finish();
    a_server.expect_end();
    assert_eq!(operator.tunnels("route=*/a/")[0]["state"], "half_closed");
}

#[test]
fn pages_follow_each_other_over_all_workers() {
    let backend = Backend::new();
    let proxy = start_workers(&tcp(&[&backend.address()], "", "workers = 3"));
    let tunnels = tunnels(&proxy, &backend, 50);
    let in_order: Vec<String> = tunnels.iter().map(|(client, _)| client.local_addr().to_string()).collect();
    let mut operator = proxy.operator();
    for sort in ["age", "idle", "bytes", "rate"] {
        let tunnels = operator.tunnels(&format!("limit=7&sort={sort}"));
        let ids: HashSet<&str> = tunnels.iter().map(|tunnel| tunnel["id"].as_str().unwrap()).collect();
        assert_eq!((tunnels.len(), ids.len()), (50, 50), "by {sort}");
        let clients: Vec<&str> = tunnels.iter().map(|tunnel| tunnel["client"].as_str().unwrap()).collect();
        assert!(sort != "age" || clients == in_order, "{clients:?}");
    }
    let workers: HashSet<u64> =
        operator.tunnels("").iter().map(|tunnel| tunnel["worker"].as_u64().unwrap()).collect();
    assert_eq!(workers.len(), 3);
    let by_worker = operator.get("/status").ok()["workers"].clone();
    let sum: u64 =
        by_worker.as_array().unwrap().iter().map(|worker| worker["tunnels"].as_u64().unwrap()).sum();
    assert_eq!(sum, 50);
}

#[test]
fn metrics_are_what_prometheus_wants() {
    let backend = Backend::new();
    let proxy = start_workers(&tcp(&[&backend.address(), &dead_address()], "", "workers = 2"));
    let (mut client, mut server) = tunnels(&proxy, &backend, 3).remove(0);
    echoes(&mut client, &mut server);
    drop((client, server));
    proxy.await_empty();
    let metrics = proxy.operator().get("/metrics");
    assert!(
        metrics.head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{metrics:?}"
    );
    for line in [
        "adit_sessions_accepted_total 3",
        "adit_tunnels_opened_total 3",
        "adit_tunnels_open 0",
        "adit_tunnel_bytes_total{direction=\"up\"} 2",
        "adit_tunnel_bytes_total{direction=\"down\"} 4",
        "adit_tunnel_lifetime_seconds_count 3",
        "adit_handshake_duration_seconds_bucket{le=\"+Inf\"} 3",
        "adit_reloads_total{result=\"done\"} 0",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line} in {}", metrics.body);
    }
    let server = format!("{{upstream=\"u\",server=\"{}\"}}", backend.address());
    assert!(
        metrics.body.contains(&format!("adit_server_tunnels_opened_total{server} 3")),
        "{}",
        metrics.body
    );

    // From Debian's package prometheus, which scripts/test installs.
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    promtool.stdin.take().unwrap().write_all(metrics.body.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let words = [said.stdout.as_slice(), &said.stderr].concat();
    assert!(said.status.success() && words.is_empty(), "{}", String::from_utf8_lossy(&words));
}

/// A listener's own `upstream` beside a route for anything is never taken.
#[test]
fn a_route_that_stands_twice_is_told_once() {
    let backend = Backend::new();
    let config = format!(
        "{ADMIN}[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n[[listener.route]]\nupstream = \"u\"\n\
         [upstream.u]\nservers = [\"{}\"]\n",
        backend.address()
    );
    let proxy = start(&config);
    let _tunnel = open_tunnel(&proxy, &backend);
    let mut operator = proxy.operator();
    let listener = operator.get("/status").ok()["listeners"][0].clone();
    assert_eq!((listener["routes"].as_array().map(Vec::len), &listener["tunnels"]), (Some(1), &json!(1)));
    let metrics = operator.get("/metrics").body;
    let lines: Vec<&str> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
    let series: HashSet<&str> = lines.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(series.len(), lines.len(), "no series stands twice");
}

#[test]
fn history_is_kept_from_the_start() {
    let backend = Backend::new();
    let proxy = start(&tcp(&[&backend.address()], "", ""));
    let history = proxy.operator().get("/history").ok();
    assert_eq!(history["period"], 5.0);
    for column in ["time", "tunnels", "opened", "refused", "bytes_up", "bytes_down"] {
        assert!(!history[column].as_array().unwrap().is_empty(), "{column}");
    }
}

#[test]
fn the_page_and_whether_all_is_well() {
    let backend = Backend::new();
    let proxy = start(&tcp(&[&backend.address()], "", ""));
    let mut operator = proxy.operator();
    let page = operator.get("/");
    assert!(
        page.status == 200 && page.head.contains("Content-Type: text/html; charset=utf-8\r\n"),
        "{page:?}"
    );
    assert!(page.head.contains("\r\nContent-Security-Policy: default-src 'none'; "), "{page:?}");
    assert_eq!(
        (operator.get("/healthz").body, operator.get("/readyz").body),
        ("ok\n".into(), "ready\n".into())
    );
    operator.send(
        "HEAD /status HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head += &operator.line();
    }
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("Content-Length: 0\r\n"), "{head}");
    assert_eq!(operator.answer().body, "ok\n", "a head has no body behind it");
    operator.get("/nothing").refused(404, "no such path");
    operator.post("/status", &json!({})).refused(405, "another method");
    operator.get("/close").refused(405, "another method");
    operator.post("/close", &json!({ "ids": "x" })).refused(400, "unknown field");
}

/// More of them than are looked at in a turn.
#[test]
fn many_tunnels_are_gone_through_to_the_last() {
    const COUNT: usize = 1200;
    let backend = Backend::new();
    let proxy = start(&tcp(&[&backend.address()], "", "[log]\nevery = \"1s\""));
    let _tunnels = tunnels(&proxy, &backend, COUNT);
    let mut operator = proxy.operator();
    let found = operator.tunnels("limit=500");
    let ids: HashSet<&str> = found.iter().map(|tunnel| tunnel["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), COUNT);
    let mut told = HashSet::new();
    while told.len() < COUNT {
        let line = proxy.log_line();
        if field(&line, "event") == "still" {
            told.insert(field(&line, "id"));
        }
    }
    assert_eq!(operator.post("/close", &json!({ "all": true })).ok()["matched"], COUNT);
    proxy.await_empty();
}

#[test]
fn tunnels_of_a_route_that_is_gone_are_counted_too() {
    let backend = Backend::new();
    let config = |path: &str| {
        format!(
            "{ADMIN}[[listener]]\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\npath = \"{path}\"\n\
             upstream = \"u\"\n[upstream.u]\nservers = [\"{}\"]\n",
            backend.address()
        )
    };
    let mut proxy = start(&config("/"));
    let _tunnel = open_tunnel(&proxy, &backend);
    let mut operator = proxy.operator();
    assert_eq!(operator.get("/status").ok()["gone"], 0);
    proxy.reload(&config("/other/"));
    let status = operator.get("/status").ok();
    assert_eq!((&status["gone"], &status["listeners"][0]["tunnels"]), (&json!(1), &json!(0)));
    assert_eq!(operator.tunnels("route=*/").len(), 1, "by the name that it was opened with");
}

// Steering.

#[test]
fn one_tunnel_is_closed_by_its_id_and_no_other() {
    let backend = Backend::new();
    let proxy = start_workers(&tcp(&[&backend.address()], "", "workers = 2"));
    let mut all = tunnels(&proxy, &backend, 6);
    let mut operator = proxy.operator();
    let id = operator.tunnels("sort=age")[3]["id"].clone();
    let dry = operator.post("/close", &json!({ "id": id, "dry_run": true })).ok();
    assert_eq!(dry, json!({ "matched": 1, "dry_run": true, "rate": 0 }));
    all.iter_mut().for_each(|(client, server)| echoes(client, server));
    let closed = operator.post("/close", &json!({ "id": id })).ok();
    assert_eq!(closed, json!({ "matched": 1, "dry_run": false, "rate": 0 }));
    let line = proxy.closed_line();
    assert!(
        line.ends_with(" outcome=closed ended_by=adit") && field(&line, "id") == id.as_str().unwrap(),
        "{line}"
    );
    let (mut client, mut server) = all.remove(3);
    client.expect_end();
    server.expect_end();
    all.iter_mut().for_each(|(client, server)| echoes(client, server));
    assert_eq!(operator.post("/close", &json!({ "id": id })).ok()["matched"], 0);
    assert_eq!(operator.get("/status").ok()["tunnels"]["open"], 5);
}

#[test]
fn some_or_all_tunnels_are_closed() {
    let (first, second) = (Backend::new(), Backend::new());
    let proxy = start(&tcp(&[&first.address(), &second.address()], "", ""));
    let mut stays = Vec::new();
    for _ in 0..4 {
        let goes = (proxy.client(), first.accept());
        stays.push((proxy.client(), second.accept()));
        stays.push(goes);
    }
    let mut operator = proxy.operator();
    let closed = operator.post("/close", &json!({ "server": first.address(), "min_age": 0 })).ok();
    assert_eq!(closed["matched"], 4);
    (0..4).for_each(|_| assert!(proxy.closed_line().contains(" outcome=closed ")));
    for (place, (client, server)) in stays.iter_mut().enumerate() {
        match place % 2 {
            0 => echoes(client, server),
            _ => client.expect_end(),
        }
    }
    assert_eq!(operator.post("/close", &json!({ "all": true })).ok()["matched"], 4);
    proxy.await_empty();
}

#[test]
fn what_is_closed_is_so_at_a_pace_where_there_is_one() {
    let backend = Backend::new();
    let proxy = start(&tcp(&[&backend.address()], "", "[drain]\nrate = 50"));
    let _tunnels = tunnels(&proxy, &backend, 8);
    let mut operator = proxy.operator();
    let begun = std::time::Instant::now();
    let closed = operator.post("/close", &json!({ "all": true })).ok();
    assert_eq!(closed, json!({ "matched": 8, "dry_run": false, "rate": 50 }));
    assert!(operator.tunnels("").iter().any(|tunnel| tunnel["state"] == "leaving"));
    proxy.await_empty();
    // Seven slots of 20 ms lie between the first and the last.
    assert!(begun.elapsed() >= Duration::from_millis(120), "{:?}", begun.elapsed());
}

#[test]
fn a_server_that_an_operator_lets_drain_does_so_over_reloads_until_he_says_otherwise() {
    let (first, second) = (Backend::new(), Backend::new());
    let config = |more: &str| tcp(&[&first.address(), &second.address()], "balance = \"least_conn\"", more);
    let mut proxy = start_workers(&config("workers = 2\n[timeouts]\ndrain = \"off\""));
    let mut operator = proxy.operator();
    let (mut client, mut end) = (proxy.client(), first.accept());
    let target = json!({ "upstream": "u", "server": first.address() });
    let dry = |target: &Value| {
        let mut target = target.clone();
        target["dry_run"] = true.into();
        target
    };
    let what = format!("server {} of upstream u", first.address());
    let drained = json!({ "what": what, "changed": true, "tunnels": 1, "dry_run": false });
    assert_eq!(operator.post("/drain", &dry(&target)).ok()["changed"], true);
    assert_eq!(server(&mut operator, 0)["state"], "in");
    assert_eq!(operator.post("/drain", &target).ok(), drained);
    assert_eq!(operator.post("/drain", &target).ok()["changed"], false);
    let state = |operator: &mut Operator| {
        let server = server(operator, 0);
        (server["state"].clone(), server["drains"].clone())
    };
    assert_eq!(state(&mut operator), (json!("drains"), json!("operator")));
    // What is new goes to the other; what is open goes on, as there is neither pace nor deadline.
    let _others: Vec<_> = (0..3).map(|_| (proxy.client(), second.accept())).collect();
    echoes(&mut client, &mut end);
    assert_eq!(operator.tunnels(&format!("server={}", first.address()))[0]["state"], "leaving");

    assert!(proxy.reload(&config("workers = 2\n[timeouts]\ndrain = \"off\"\nidle = \"1h\"")).is_changed);
    assert_eq!(state(&mut operator), (json!("drains"), json!("operator")));
    let _others: Vec<_> = (0..2).map(|_| (proxy.client(), second.accept())).collect();
    assert_eq!(operator.post("/undrain", &target).ok()["changed"], true);
    assert_eq!(operator.post("/undrain", &target).ok()["changed"], false);
    assert_eq!(state(&mut operator), (json!("in"), Value::Null));
    let _balanced = [(proxy.client(), first.accept())];
    assert_eq!(operator.tunnels(&format!("server={}", first.address()))[0]["state"], "open");
    operator.post("/drain", &json!({ "upstream": "u", "server": "nobody" })).refused(404, "no server nobody");
}

#[test]
fn what_the_file_lets_drain_is_not_an_operators_to_undrain() {
    let (first, second) = (Backend::new(), Backend::new());
    let drains = format!("{{ address = \"{}\", drain = true }}", first.address());
    let config = tcp(&[&second.address()], "", "").replace("servers = [", &format!("servers = [{drains}, "));
    let mut proxy = start(&config);
    let mut operator = proxy.operator();
    let target = json!({ "upstream": "u", "server": first.address() });
    assert_eq!(server(&mut operator, 0)["drains"], "file");
    operator.post("/undrain", &target).refused(409, "by the configuration file");
    // Both say so: when the file no longer does, the operator still does.
    assert_eq!(operator.post("/drain", &target).ok()["changed"], false);
    operator.post("/undrain", &target).refused(409, "by the configuration file");
    proxy.reload(&tcp(&[&first.address(), &second.address()], "", ""));
    assert_eq!(server(&mut operator, 0)["drains"], "operator");
    assert_eq!(operator.post("/undrain", &target).ok()["changed"], true);
    assert_eq!(server(&mut operator, 0)["state"], "in");
}

#[test]
fn listeners_and_routes_drain_too() {
    let backend = Backend::new();
    let config = format!(
        "{ADMIN}[timeouts]\ndrain = \"off\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
         [[listener.route]]\npath = \"/a/\"\nupstream = \"u\"\n[upstream.u]\nservers = [\"{}\"]\n",
        backend.address()
    );
    let proxy = start(&config);
    let mut operator = proxy.operator();
    let address = proxy.address().to_string();
    let route = json!({ "listener": address, "route": "*/a/" });
    let status = |operator: &mut Operator| operator.get("/status").ok()["listeners"][0].clone();
    assert_eq!(operator.post("/drain", &route).ok()["changed"], true);
    assert_eq!(status(&mut operator)["routes"][0]["drains"], "operator");
    let mut client = proxy.client();
    client.ask("/a/x");
    assert!(client.head().starts_with("HTTP/1.1 503 "));
    assert_eq!(operator.post("/undrain", &route).ok()["changed"], true);
    let _tunnel = open_tunnel(&proxy, &backend);

    let listener = json!({ "listener": address });
    assert_eq!(operator.post("/drain", &listener).ok()["tunnels"], 1);
    assert_eq!(status(&mut operator)["drains"], "operator");
    assert!(std::net::TcpStream::connect(proxy.address()).is_err(), "it is not listened on");
    // As configured: a port that the kernel chose is no more.
    let configured = json!({ "listener": "127.0.0.1:0" });
    assert_eq!(operator.post("/undrain", &configured).ok()["changed"], true);
    let back = status(&mut operator)["listener"].as_str().unwrap().parse().unwrap();
    let mut client = Client::connect(back);
    client.ask("/a/x");
    backend.accept().agree();
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    operator.post("/drain", &json!({ "listener": "127.0.0.1:1" })).refused(404, "no listener");
    operator.post("/drain", &json!({ "listener": back.to_string(), "route": "x" })).refused(404, "no route");
}

#[test]
fn ready_is_no_more_before_listeners_close() {
    let backend = Backend::new();
    let proxy = start_workers(&tcp(
        &[&backend.address()],
        "",
        "workers = 2\n[drain]\ndelay = \"300ms\"\n[timeouts]\ndrain = \"off\"",
    ));
    let (_client, _server) = (proxy.client(), backend.accept());
    let mut operator = proxy.operator();
    assert_eq!(operator.post("/drain", &json!({ "all": true })).ok()["tunnels"], 1);
    let readiness = operator.get("/readyz");
    assert_eq!((readiness.status, readiness.body.as_str()), (503, "draining\n"));
    assert_eq!(operator.get("/status").ok()["phase"], "unready");
    let (mut late, mut late_server) = (proxy.client(), backend.accept());
    echoes(&mut late, &mut late_server);
    operator.post("/drain", &json!({ "listener": "x" })).refused(409, "about to stop");
    operator.post("/rebalance", &json!({ "upstream": "u" })).refused(409, "about to stop");
    let until = std::time::Instant::now() + WAIT;
    while operator.get("/status").ok()["phase"] == "unready" {
        assert!(std::time::Instant::now() < until, "it never drains");
    }
    let status = operator.get("/status").ok();
    assert_eq!((&status["phase"], &status["drain_ends"]), (&json!("draining"), &Value::Null));
    // Nobody is let in any more, once the other worker has come as far.
    while let Ok(early) = std::net::TcpStream::connect(proxy.address()) {
        assert!(std::time::Instant::now() < until, "somebody is let in");
        Client::of(early).reset();
    }
    proxy.await_stats(|stats| stats.open == 2);
    echoes(&mut late, &mut late_server);
    assert_eq!((operator.get("/readyz").status, operator.get("/healthz").status), (503, 200));
    // Seen to the end: the last tunnels are an operator's to close.
    assert_eq!(operator.post("/close", &json!({ "all": true })).ok()["matched"], 2);
    proxy.join();
}

#[test]
fn tunnels_are_spread_anew_when_an_operator_says_so() {
    let (first, second) = (Backend::new(), Backend::new());
    let rebalance = "rebalance = { within = \"0%\", rate = 1000 }";
    let both = [first.address(), second.address()];
    let proxy = start(&tcp(&[&both[0], &both[1]], rebalance, "[timeouts]\ndrain = \"off\""));
    let mut operator = proxy.operator();
    let target = json!({ "upstream": "u", "server": both[1] });
    operator.post("/drain", &target).ok();
    let _tunnels = tunnels(&proxy, &first, 10);
    let dry = json!({ "upstream": "u", "dry_run": true });
    assert_eq!(operator.post("/rebalance", &dry).ok()["surplus"], 0);
    // That it is back is reason enough; what an operator asks for is the same episode.
    operator.post("/undrain", &target).ok();
    let spread = operator.post("/rebalance", &json!({ "upstream": "u" })).ok();
    assert_eq!((&spread["upstream"], &spread["dry_run"]), (&json!("u"), &json!(false)));
    (0..5).for_each(|_| assert!(proxy.closed_line().contains(" outcome=rebalance ")));
    operator.post("/rebalance", &json!({ "upstream": "v" })).refused(404, "no upstream v");
    let plain = start(&tcp(&[&both[0]], "", ""));
    plain.operator().post("/rebalance", &json!({ "upstream": "u" })).refused(409, "has no `rebalance`");
}

#[test]
fn a_reload_is_the_hosts_and_answers_what_it_did() {
    let backend = Backend::new();
    let config = tcp(&[&backend.address()], "", "");
    let mut proxy = Proxy::bind(plan(&config)).unwrap();
    let (sender, requests) = channel::<ReloadRequest>();
    let sender = std::sync::Mutex::new(sender);
    let mut host = Host::default();
    host.reload = Some(Box::new(move |request| sender.lock().unwrap().send(request).unwrap()));
    host.lost_lines = Some(Box::new(|| 7));
    proxy.set_host(host);
    let (sink, _log) = common::lines();
    proxy.set_access_log(sink);
    let (handle, admin) = (proxy.handle(), proxy.admin_addr().unwrap());
    let running = std::thread::spawn(move || proxy.run());
    let asking = std::thread::spawn(move || {
        let mut operator = Operator::connect(&admin);
        assert_eq!(operator.get("/status").ok()["log_lines_lost"], 7);
        let would = operator.post("/reload", &json!({ "dry_run": true }));
        (
            would,
            operator.post("/reload", &json!({})),
            operator.post("/reload", &json!({})),
            operator.get("/metrics"),
        )
    });
    let next = plan(&config.replace("[upstream.u]", "[timeouts]\nidle = \"1h\"\n[upstream.u]"));
    let request = requests.recv_timeout(WAIT).unwrap();
    assert!(request.is_dry_run());
    request.would_be(&next);
    let request = requests.recv_timeout(WAIT).unwrap();
    assert!(!request.is_dry_run());
    let reloaded = handle.reload(next).recv_timeout(WAIT).unwrap().unwrap();
    request.done(&reloaded, "in a few words");
    requests.recv_timeout(WAIT).unwrap().refused("config.toml:1:1: no");
    let (would, done, refused, metrics) = asking.join().unwrap();
    let would = would.ok();
    assert_eq!((&would["dry_run"], &would["changed"]), (&json!(true), &json!(1)));
    assert!(would["text"].as_str().unwrap().contains("timeouts.idle: off -> 1h"), "{would}");
    let expected =
        json!({ "changed": true, "listeners_opened": 0, "listeners_closed": 0, "message": "in a few words" });
    assert_eq!(done.ok(), expected);
    refused.refused(409, "config.toml:1:1: no");
    assert!(metrics.body.contains("adit_reloads_total{result=\"done\"} 1\n"), "{}", metrics.body);
    handle.stop();
    running.join().unwrap().unwrap();
    let alone = start(&config);
    alone.operator().post("/reload", &json!({})).refused(501, "no configuration");
}

// Who may.

#[test]
fn a_unix_socket_is_its_owners_alone_and_goes_with_the_proxy() {
    let backend = Backend::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let config = tcp(&[&backend.address()], "", "")
        .replace("127.0.0.1:0\"\n[[", &format!("unix:{}\"\n[[", path.display()));
    let proxy = start(&config);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut operator = proxy.operator();
    operator.send("GET /status HTTP/1.1\r\nHost: adit\r\n\r\n");
    assert_eq!(operator.answer().status, 200, "any Host will do");
    drop(proxy);
    assert!(!path.exists());
}

#[test]
fn a_token_is_asked_for_and_read_again_at_a_reload() {
    let backend = Backend::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    fs::write(&path, "first\n").unwrap();
    let more = format!("listen = \"127.0.0.1:0\"\ntoken_file = \"{}\"\n[[", path.display());
    let config = tcp(&[&backend.address()], "", "").replace("listen = \"127.0.0.1:0\"\n[[", &more);
    let mut proxy = start(&config);
    let mut operator = proxy.operator();
    let refused = operator.get("/status");
    assert!(
        refused.status == 401 && refused.head.contains("\r\nWWW-Authenticate: Bearer\r\n"),
        "{refused:?}"
    );
    assert_eq!((operator.get("/").status, operator.get("/healthz").status), (200, 200));
    operator.fields = "Authorization: Bearer first\r\n".into();
    operator.get("/status").ok();
    fs::write(&path, "second").unwrap();
    assert!(!proxy.reload(&config).is_changed);
    operator.get("/status").refused(401, "token");
    operator.fields = "Authorization: Bearer second\r\n".into();
    operator.get("/status").ok();
    for text in ["", " \n", "two\nlines"] {
        fs::write(&path, text).unwrap();
        let error = proxy.try_reload(&config).unwrap_err().to_string();
        assert!(error.contains("no token in it"), "{error}");
    }
    fs::remove_file(&path).unwrap();
    assert!(
        proxy.try_reload(&config).unwrap_err().to_string().contains("cannot read the admin listener's token")
    );
    assert!(Proxy::bind(plan(&config)).is_err());
    operator.get("/status").ok();
}

/// A socket that is handed over shows only when it is opened where it is bound: what a reload says of it is judged again.
#[test]
fn an_address_that_other_machines_reach_keeps_its_token_over_reloads() {
    let backend = Backend::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    fs::write(&path, "secret").unwrap();
    let config = |more: &str| {
        let admin = format!("[admin]\nlisten = \"fd:admin\"\n{more}\n");
        tcp(&[&backend.address()], "", "").replace(ADMIN, &admin)
    };
    let with_token = config(&format!("allow_remote = true\ntoken_file = \"{}\"", path.display()));
    let everywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = everywhere.local_addr().unwrap().port();
    let mut inherited = Inherited::new();
    inherited.add("admin", everywhere.into());
    let proxy = Proxy::bind_with(plan(&with_token), inherited).unwrap();
    let handle = proxy.handle();
    let running = std::thread::spawn(move || proxy.run());
    let reload = |text: &str| handle.reload(plan(text)).recv_timeout(WAIT).unwrap();
    let error = reload(&config("")).unwrap_err().to_string();
    assert!(error.contains("is reached from other machines"), "{error}");
    let mut operator = Operator::connect(&adit::Address::Tcp(([127, 0, 0, 1], port).into()));
    operator.get("/status").refused(401, "token");
    operator.fields = "Authorization: Bearer secret\r\n".into();
    operator.get("/status").ok();
    handle.stop();
    running.join().unwrap().unwrap();
}

#[test]
fn the_admin_listener_comes_goes_and_moves_with_reloads() {
    let backend = Backend::new();
    let directory = tempfile::tempdir().unwrap();
    let config = |name: &str| {
        let path = directory.path().join(name);
        let admin = format!("[admin]\nlisten = \"unix:{}\"\n", path.display());
        tcp(&[&backend.address()], "", "").replace(ADMIN, if name.is_empty() { "" } else { &admin })
    };
    let at = |name: &str| adit::Address::Unix(directory.path().join(name));
    let mut proxy: Running = start_workers(&format!("workers = 2\n{}", config("")));
    let (mut client, mut server) = (proxy.client(), backend.accept());
    assert!(proxy.admin.is_none());
    let mut reload = |name: &str| proxy.reload(&format!("workers = 2\n{}", config(name)));
    reload("a");
    let mut operator = Operator::connect(&at("a"));
    assert_eq!(operator.get("/status").ok()["configuration"]["reloads"], 1);
    reload("b");
    assert!(operator.try_get("/status").is_err(), "connections go with their listener");
    assert!(!directory.path().join("a").exists());
    let mut operator = Operator::connect(&at("b"));
    operator.get("/status").ok();
    reload("b");
    operator.get("/status").ok();
    // One that cannot be opened changes nothing.
    let wrong = config("none/c");
    assert!(proxy.try_reload(&format!("workers = 2\n{wrong}")).is_err());
    operator.get("/status").ok();
    proxy.reload(&format!("workers = 2\n{}", config("")));
    assert!(!directory.path().join("b").exists());
    echoes(&mut client, &mut server);
}
