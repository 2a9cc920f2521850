//! Whole configuration files: what right ones mean, and what is said about wrong ones, and where.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use adit::plan::{
    AccessTarget, Address, Admin, Balance, Drain, HashKey, HostRule, LogFormat, Mode, OnRemoved, Order,
    PathRule, Piece, Plan, PoolId, ProxyHeaderIn, ProxyVersion, Rebalance, Route, RunAs, Share, Strictness,
    WorkerCount,
};
use adit::{Config, ConfigError};
use jsonschema::Validator;

/// The annotated file at the repository's root.
const ANNOTATED: &str = include_str!("../config.toml");

/// The shortest useful file.
const MINIMAL: &str = r#"[[listener]]
listen = "0.0.0.0:8020"
upstream = "websocket"

[upstream.websocket]
servers = ["127.0.0.1:8010"]
"#;

/// A resolver that knows a few names and needs no network.
fn resolve(name: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: &[&str] = match name {
        "one.test:80" => &["192.0.2.1:80"],
        "two.test:80" => &["192.0.2.1:80", "[2001:db8::1]:80", "192.0.2.1:80"],
        "none.test:80" => &[],
        "self.test:8020" => &["127.0.0.1:8020"],
        _ => return Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
    };
    Ok(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

/// Whatever is right is right by the schema too.
fn read(text: &str) -> Result<Plan, ConfigError> {
    let plan = Config::from_toml(text)?.check_with(&mut resolve)?;
    if let Err(error) = SCHEMA.validate(&json(text).expect("TOML")) {
        panic!("{error} at {}\n{text}", error.instance_path());
    }
    Ok(plan)
}

static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(include_str!("../docs/config.schema.json")).expect("JSON");
    jsonschema::draft7::new(&schema).expect("a schema")
});

/// TOML as an editor's checker sees it; `None` for what is none.
fn json(text: &str) -> Option<serde_json::Value> {
    toml::from_str(text).ok()
}

#[track_caller]
fn plan(text: &str) -> Plan {
    read(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[track_caller]
fn routes(plan: &Plan) -> &[Route] {
    match &plan.listeners[0].mode {
        Mode::Http { routes } => routes,
        Mode::Tcp { .. } => panic!("a tcp listener"),
    }
}

/// A file with these keys in its listener.
fn listener(keys: &str) -> String {
    format!(
        "[[listener]]\nlisten = \"0.0.0.0:8020\"\nupstream = \"w\"\n{keys}\n[upstream.w]\nservers = [\"127.0.0.1:8010\"]\n"
    )
}

/// A file with these keys in a route.
fn route(keys: &str) -> String {
    listener(&format!("[[listener.route]]\nupstream = \"w\"\n{keys}\n"))
}

/// A file with these keys in its upstream.
fn upstream(keys: &str) -> String {
    format!("[[listener]]\nlisten = \"0.0.0.0:8020\"\nupstream = \"w\"\n[upstream.w]\n{keys}\n")
}

/// A file with this server, and another.
fn server(server: &str) -> String {
    upstream(&format!("servers = [\"127.0.0.1:8010\", {server}]"))
}

// Right files.

#[test]
fn six_lines_are_enough() {
    let plan = plan(MINIMAL);
    assert_eq!(plan.listeners.len(), 1);
    assert_eq!(plan.listeners[0].address, Address::Tcp("0.0.0.0:8020".parse().unwrap()));
    assert_eq!(plan.listeners[0].proxy_header, None);
    let timeouts = &plan.listeners[0].timeouts;
    assert_eq!(timeouts.handshake, Duration::from_secs(10));
    assert_eq!(timeouts.connect, Duration::from_secs(5));
    assert_eq!(timeouts.response, Duration::from_secs(60));
    assert_eq!(timeouts.idle, None);
    assert_eq!(timeouts.half_closed, Some(Duration::from_secs(60)));
    assert_eq!(timeouts.stalled, Some(Duration::from_secs(60)));
    assert_eq!((timeouts.lifetime, timeouts.lifetime_jitter), (None, Share(0.0)));
    let timeout = Some(Duration::from_secs(30));
    assert_eq!(plan.drain, Drain { rate: 0, order: Order::Oldest, timeout, delay: Duration::ZERO });
    assert_eq!((&plan.admin, &plan.run_as), (&None, &RunAs::default()));
    assert_eq!(plan.workers, WorkerCount::Count(1));
    assert_eq!((plan.listeners[0].drain, plan.listeners[0].on_removed), (false, OnRemoved::Keep));
    assert_eq!(plan.limits.max_connections, 10_000);
    assert_eq!(plan.limits.max_connections_per_ip, 0);
    assert_eq!(plan.limits.max_header_bytes, 16_384);
    assert_eq!(plan.limits.max_headers, 100);
    assert_eq!(plan.tcp.keepalive, Some(Duration::from_secs(60)));
    assert_eq!(plan.tcp.user_timeout, Some(Duration::from_secs(60)));
    assert_eq!(plan.tcp.backlog, 4096);
    assert_eq!(plan.log.level, log::LevelFilter::Info);
    assert_eq!(plan.log.access, AccessTarget::Stderr);
    assert_eq!(plan.log.format, LogFormat::Text);
    assert_eq!((plan.log.query, plan.log.every), (false, None));
    let [catch_all] = routes(&plan) else { panic!("one route") };
    assert_eq!((&catch_all.host, &catch_all.path), (&HostRule::Any, &PathRule::Any));
    assert_eq!((catch_all.pool, catch_all.strictness), (PoolId(0), Strictness::Strict));
    assert_eq!(catch_all.upgrade, ["websocket"]);
    assert_eq!((catch_all.drain, catch_all.on_removed), (false, OnRemoved::Keep));
    let [pool] = plan.pools.as_slice() else { panic!("one pool") };
    assert_eq!((pool.name.as_str(), &pool.balance), ("websocket", &Balance::RoundRobin));
    assert_eq!((pool.max_fails, pool.fail_timeout), (1, Duration::from_secs(10)));
    assert_eq!((pool.proxy_header, pool.on_removed, pool.rebalance), (None, OnRemoved::Keep, None));
    let [backend] = pool.backends.as_slice() else { panic!("one backend") };
    assert_eq!(backend.name, "127.0.0.1:8010");
    assert_eq!((backend.weight, backend.max_conns, backend.backup, backend.drain), (1, 0, false, false));
}

#[test]
fn the_annotated_file_shows_the_defaults() {
    assert_eq!(plan(ANNOTATED), plan(MINIMAL));
    assert_eq!(Config::from_toml(ANNOTATED).unwrap().summary(), "1 listeners, 0 routes, 1 upstreams");
}

/// Its examples are lines that begin with "#" and no space.
fn annotated_with_examples() -> String {
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with(' ') => format!("{example}\n"),
        // An example's second line of more is indented.
        Some(example) if example.starts_with("  ") => format!("{example}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    ANNOTATED.lines().map(uncommented).collect()
}

#[test]
fn the_annotated_files_examples_are_right_and_show_the_defaults_too() {
    let text = annotated_with_examples();
    let plan = plan(&text);
    assert_eq!(Config::from_toml(&text).unwrap().summary(), "1 listeners, 1 routes, 2 upstreams");
    let [example, catch_all] = routes(&plan) else { panic!("two routes") };
    assert_eq!(example.host, HostRule::Exact("chat.example.com".to_owned()));
    assert_eq!(example.path, PathRule::Prefix("/wsapp/".to_owned()));
    let default = Route { host: example.host.clone(), path: example.path.clone(), ..catch_all.clone() };
    assert_eq!(*example, default);
    assert_eq!(plan.listeners[0].timeouts.handshake, Duration::from_secs(3));
    assert_eq!(plan.listeners[0].timeouts.idle, Some(Duration::from_secs(3600)));
    assert_eq!(plan.pools[1].balance, Balance::Hash(HashKey::Cookie("session".to_owned())));
    assert_eq!(plan.pools[1].backends.len(), 3);
}

/// Every key of the file's shape stands in the annotated file: an unknown key's error lists them.
#[test]
fn the_annotated_file_has_every_key() {
    let tables = [
        "",
        "[log]",
        "[admin]",
        "[timeouts]",
        "[drain]",
        "[limits]",
        "[tcp]",
        "[[listener]]",
        "[[listener]]\n[[listener.route]]",
        "[upstream.w]",
    ];
    let text = annotated_with_examples();
    for table in tables {
        let help = read(&format!("{table}\nzzzzzzzzzzzzzzzzzz = 1")).unwrap_err().help.unwrap();
        let keys = help.strip_prefix("the keys here are ").unwrap().split(", ");
        for key in keys {
            let shown = text.lines().any(|line| {
                line.starts_with(&format!("{key} = "))
                    || line.starts_with(&format!("[{key}"))
                    || line.starts_with(&format!("[[{key}"))
                    || line.starts_with(&format!("[listener.{key}"))
                    || line.starts_with(&format!("[[listener.{key}"))
            });
            assert!(shown, "{key} of {table:?}");
        }
    }
}

#[test]
fn everything_can_be_written() {
    let plan = plan(
        r#"
        workers = "auto"
        user = "adit"
        group = "www-data"
        [admin]
        listen = "[::]:8021"
        allow_remote = true
        token_file = "/etc/adit/token"
        [log]
        every = "90m"
        level = "debug"
        access = "/var/log/adit.log"
        format = "json"
        query = true
        [timeouts]
        idle = "1h"
        half_closed = "off"
        stalled = "off"
        lifetime = "7d"
        lifetime_jitter = "12.5%"
        drain = "off"
        [drain]
        rate = 400
        order = "quietest"
        delay = "5s"
        [limits]
        max_connections = 5
        max_connections_per_ip = 3
        max_header_bytes = 512
        max_headers = 1000
        [tcp]
        keepalive = "off"
        user_timeout = "1ms"
        backlog = 65535
        [[listener]]
        listen = "unix:/run/adit.sock"
        protocol = "tcp"
        upstream = "b"
        proxy_protocol = "any"
        drain = true
        on_removed = "close"
        [listener.timeouts]
        connect = "1s"
        [[listener]]
        listen = "[::1]:0"
        trusted_proxies = ["10.0.0.0/8", "unix:", "::1"]
        [[listener.route]]
        upstream = "a"
        handshake = "lenient"
        upgrade = []
        origins = ["https://Example.com"]
        allow = ["192.0.2.0/24"]
        deny = ["192.0.2.7"]
        set_headers = { Z = "$host", A = "x", M = "" }
        remove_headers = ["X-Debug"]
        drain = true
        on_removed = "drain"
        [upstream.b]
        servers = [
            "one.test:80",
            { address = "unix:/run/b.sock", weight = 9, max_conns = 7, backup = true, drain = true },
        ]
        on_removed = "drain"
        rebalance = { within = "5%" }
        balance = "least_conn"
        max_fails = 0
        fail_timeout = "1m"
        proxy_protocol = "v2"
        [upstream.a]
        servers = [{ address = "two.test:80", weight = 2 }]
        balance = "hash"
        hash_key = "header:X-User"
        "#,
    );
    assert_eq!(plan.log.access, AccessTarget::File("/var/log/adit.log".into()));
    assert_eq!(
        (plan.log.level, plan.log.format, plan.log.query),
        (log::LevelFilter::Debug, LogFormat::Json, true)
    );
    assert_eq!((plan.tcp.keepalive, plan.tcp.user_timeout), (None, Some(Duration::from_millis(1))));
    let delay = Duration::from_secs(5);
    assert_eq!(plan.drain, Drain { rate: 400, order: Order::Quietest, timeout: None, delay });
    assert_eq!(plan.log.every, Some(Duration::from_secs(5400)));
    let (user, group) = (Some("adit".to_owned()), Some("www-data".to_owned()));
    assert_eq!(plan.run_as, RunAs { user, group });
    let address = Address::Tcp("[::]:8021".parse().unwrap());
    let token_file = Some("/etc/adit/token".into());
    assert_eq!(plan.admin, Some(Admin { address, allow_remote: true, token_file }));
    assert_eq!((plan.workers, plan.limits.max_connections), (WorkerCount::Auto, 5));

    let [tcp, http] = plan.listeners.as_slice() else { panic!("two listeners") };
    assert_eq!((tcp.drain, tcp.on_removed), (true, OnRemoved::Close));
    assert_eq!(http.timeouts.lifetime_jitter, Share(0.125));
    assert_eq!(tcp.mode, Mode::Tcp { pool: PoolId(0) });
    assert_eq!(tcp.proxy_header, Some(ProxyHeaderIn::Any));
    assert_eq!(
        (tcp.timeouts.connect, tcp.timeouts.idle),
        (Duration::from_secs(1), Some(Duration::from_secs(3600)))
    );
    assert_eq!(http.timeouts.connect, Duration::from_secs(5));
    assert!(http.trusted_proxies.unix);
    assert_eq!(http.trusted_proxies.networks, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    let Mode::Http { routes } = &http.mode else { panic!("an http listener") };
    let [route] = routes.as_slice() else { panic!("one route: there is no upstream to catch the rest") };
    assert_eq!((route.pool, route.strictness), (PoolId(1), Strictness::Lenient));
    assert_eq!((route.drain, route.on_removed), (true, OnRemoved::Drain));
    let [pool, other] = plan.pools.as_slice() else { panic!("two pools") };
    assert_eq!((pool.on_removed, other.on_removed), (OnRemoved::Drain, OnRemoved::Keep));
    assert_eq!(pool.rebalance, Some(Rebalance { within: Share(0.05), rate: 50 }));
    assert!(pool.backends[1].drain && !pool.backends[0].drain);
    assert!(route.upgrade.is_empty());
    assert_eq!(route.origins, ["https://example.com"]);
    assert_eq!((route.allow.len(), route.deny.len()), (1, 1));
    let names: Vec<&str> = route.set_headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Z", "A", "M"], "in the order written");
    assert_eq!(route.set_headers[0].1.0, [Piece::Host]);
    assert_eq!(route.remove_headers, ["x-debug"]);

    let [b, a] = plan.pools.as_slice() else { panic!("two pools, in the order written") };
    assert_eq!(
        (b.name.as_str(), &b.balance, b.proxy_header),
        ("b", &Balance::LeastConn, Some(ProxyVersion::V2))
    );
    assert_eq!((b.max_fails, b.fail_timeout), (0, Duration::from_secs(60)));
    assert_eq!(b.backends[0].name, "one.test:80");
    assert_eq!(b.backends[1].name, "unix:/run/b.sock");
    assert_eq!((b.backends[1].weight, b.backends[1].max_conns, b.backends[1].backup), (9, 7, true));
    assert_eq!(a.balance, Balance::Hash(HashKey::Header("x-user".to_owned())));
    let names: Vec<(&str, u32)> = a.backends.iter().map(|b| (b.name.as_str(), b.weight)).collect();
    assert_eq!(names, [("two.test:80 (192.0.2.1:80)", 2), ("two.test:80 ([2001:db8::1]:80)", 2)]);
}

#[test]
fn the_most_specific_route_is_tried_first() {
    let rules = [
        ("", "=/x"),
        ("*.com", ""),
        ("", "/"),
        ("*.example.com", "/a"),
        ("a.example.com", ""),
        ("a.example.com", "/long/prefix"),
        ("*.example.com", "=/a"),
        ("a.example.com", "/short"),
        ("b.example.com", "/other"),
        ("a.example.com", "=/"),
        ("", "/api/v1"),
    ];
    let mut keys = String::new();
    for (host, path) in rules {
        keys.push_str("[[listener.route]]\nupstream = \"w\"\n");
        for (key, rule) in [("host", host), ("path", path)] {
            if !rule.is_empty() {
                keys.push_str(&format!("{key} = \"{rule}\"\n"));
            }
        }
    }
    let plan = plan(&listener(&keys));
    let order: Vec<(String, String)> = routes(&plan)
        .iter()
        .map(|route| {
            let host = match &route.host {
                HostRule::Any => String::new(),
                HostRule::Exact(host) => host.clone(),
                HostRule::Suffix(suffix) => format!("*{suffix}"),
            };
            let path = match &route.path {
                PathRule::Any => String::new(),
                PathRule::Prefix(prefix) => prefix.clone(),
                PathRule::Exact(path) => format!("={path}"),
            };
            (host, path)
        })
        .collect();
    let order: Vec<(&str, &str)> = order.iter().map(|(host, path)| (host.as_str(), path.as_str())).collect();
    let expected = [
        ("a.example.com", "=/"),
        ("a.example.com", "/long/prefix"),
        ("a.example.com", "/short"),
        ("b.example.com", "/other"),
        ("a.example.com", ""),
        ("*.example.com", "=/a"),
        ("*.example.com", "/a"),
        ("*.com", ""),
        ("", "=/x"),
        ("", "/api/v1"),
        ("", "/"),
        ("", ""),
    ];
    assert_eq!(order, expected);
}

#[test]
fn what_looks_wrong_and_is_not() {
    // A new port each time.
    plan(
        "listener = [{ listen = \"127.0.0.1:0\", upstream = \"w\" }, { listen = \"127.0.0.1:0\", upstream = \"w\" }]\nupstream.w.servers = [\"127.0.0.1:1\"]",
    );
    plan(&upstream(
        "servers = [\"127.0.0.1:1\", { address = \"127.0.0.1:2\", backup = true }]\nbalance = \"ip_hash\"",
    ));
    plan(&upstream("servers = [\"127.0.0.1:1\"]\nhash_key = \"\""));
    // The same server in two upstreams, one of which nothing uses.
    plan(&format!("{MINIMAL}[upstream.spare]\nservers = [\"127.0.0.1:8010\"]"));
    // The same port on another host.
    plan(&server("\"192.0.2.1:8020\""));
    plan(&server("\"[::1]:8020\""));
    plan(&route("").replace("upstream = \"w\"\n[[", "[["));
    plan(&MINIMAL.replace('\n', "\r\n"));
    plan(&format!("\u{feff}{MINIMAL}"));
}

#[test]
fn names_are_asked_for_once_and_addresses_never() {
    let mut asked = Vec::new();
    let config = Config::from_toml(&server("\"one.test:80\", \"unix:/x\", \"[::1]:1\"")).unwrap();
    config
        .check_with(&mut |name| {
            asked.push(name.to_owned());
            resolve(name)
        })
        .unwrap();
    assert_eq!(asked, ["one.test:80"]);
}

// Wrong files.

/// Stands before the key or value that is at fault.
const MARK: char = '\u{25b6}';

/// Wrong files, each with what is said about it. `@` names what stands around the text: nothing (`file`) or one of
/// the functions above; `!` begins the error as it is shown, without file and place.
const WRONG_FILES: &str = r#"
@file
[log▶
! not TOML: unclosed table, expected `]`
@file
[log]
level = ▶info
! not TOML: "info" is no value (text stands in quotes)
@file
[log]
level = "info"
▶level = "warn"
! not TOML: duplicate key at "level"
@file
[timeouts]
idle = ▶10s
! not TOML: "10s" is no value (text stands in quotes)
@upstream
servers = [▶localhost:80]
! not TOML: "localhost:80" is no value (text stands in quotes)
@file
[tcp]
backlog▶
! not TOML: key with no value, expected `=`
@file
▶threads = 1
! threads: there is no key "threads" (the keys here are workers, user, group, admin, log, timeouts, drain, limits, tcp, listener, upstream)
@file
workers = ▶"many"
! workers: "many" is no number of workers (1 to 1024, or "auto")
@file
workers = ▶0
! workers: 0 is out of range (1 to 1024, or "auto")
@file
workers = ▶1.5
! workers: found the number 1.5, expected a number or "auto"
@file
[drain]
rate = ▶-1
! drain.rate: -1 is out of range (0 to 1000000)
@file
[drain]
order = ▶"newest"
! drain.order: "newest" is none of the choices (the choices are "oldest", "quietest")
@file
[timeouts]
lifetime_jitter = ▶0.1
! timeouts.lifetime_jitter: found the number 0.1, expected a percentage in quotes such as "10%"
@file
[timeouts]
lifetime_jitter = ▶"0.1"
! timeouts.lifetime_jitter: "0.1" is no percentage (such as "10%")
@file
[timeouts]
lifetime_jitter = ▶"inf%"
! timeouts.lifetime_jitter: "inf%" is no percentage (such as "10%")
@file
[timeouts]
lifetime_jitter = ▶"101%"
! timeouts.lifetime_jitter: "101%" is out of range ("0%" to "100%")
@listener
on_removed = ▶"cut"
! listener[0].on_removed: "cut" is none of the choices (the choices are "keep", "drain", "close")
@route
on_removed = ▶"cut"
! listener[0].route[0].on_removed: "cut" is none of the choices (the choices are "keep", "drain", "close")
@upstream
servers = ["one.test:80"]
on_removed = ▶"kep"
! upstream.w.on_removed: "kep" is none of the choices (did you mean "keep"? The choices are "keep", "drain", "close")
@upstream
servers = ["one.test:80"]
rebalance = ▶true
! upstream.w.rebalance: found the boolean true, expected a table
@upstream
servers = ["one.test:80"]
rebalance = { ▶share = "10%" }
! upstream.w.rebalance.share: there is no key "share" (the keys here are within, rate)
@upstream
servers = ["one.test:80"]
rebalance = { rate = ▶0 }
! upstream.w.rebalance.rate: 0 is out of range (1 to 1000000)
@upstream
servers = ["one.test:80"]
balance = "ip_hash"
rebalance = ▶{ within = "10%" }
! upstream.w.rebalance: a hash says where each client goes: one that is closed comes back to the same server (balance = "round_robin", "least_conn" or "random_two")
@file
[▶logs]
! logs: there is no key "logs" (did you mean "log"?)
@file
[log]
▶levle = "info"
! log.levle: there is no key "levle" (did you mean "level"?)
@file
[timeouts]
▶"half closed" = "1s"
! timeouts."half closed": there is no key "half closed" (did you mean "half_closed"?)
@listener
▶trusted_proxy = []
! listener[0].trusted_proxy: there is no key "trusted_proxy" (did you mean "trusted_proxies"?)
@listener
[listener.timeouts]
▶keepalive = "1s"
! listener[0].timeouts.keepalive: there is no key "keepalive" (the keys here are handshake, connect, response, idle, half_closed, stalled, lifetime, lifetime_jitter, drain)
@route
▶Host = "a"
! listener[0].route[0].Host: there is no key "Host" (did you mean "host"?)
@upstream
▶server = []
! upstream.w.server: there is no key "server" (did you mean "servers"?)
@server
{ address = "one.test:80", ▶wieght = 2 }
! upstream.w.servers[1].wieght: there is no key "wieght" (did you mean "weight"?)
@file
[log]
level = ▶3
! log.level: found the integer 3, expected a string
@file
[log]
query = ▶"yes"
! log.query: found the string "yes", expected a boolean
@file
[log]
every = ▶"999ms"
! log.every: "999ms" is out of range (at least "1s", or "off")
@file
user = ▶"a:b"
! user: "a:b" is no name of a user or a group
@admin
listen = ▶"192.0.2.1:8021"
! admin.listen: "192.0.2.1:8021" is reached from other machines (a loopback address, or allow_remote = true with a token_file)
@admin
listen = ▶"[::]:8021"
token_file = "/etc/adit/token"
! admin.listen: "[::]:8021" is reached from other machines (a loopback address, or allow_remote = true with a token_file)
@admin
listen = "[::1]:8021"
allow_remote = ▶true
! admin.allow_remote: whoever reaches it could close every tunnel (token_file names a file with a token that only operators have)
@admin
token_file = ▶"/etc/adit/token"
! admin.token_file: there is no admin listener that this could be about (such as listen = "unix:/run/adit/admin.sock" in [admin])
@admin
listen = "off"
allow_remote = ▶true
! admin.allow_remote: there is no admin listener that this could be about (such as listen = "unix:/run/adit/admin.sock" in [admin])
@admin
listen = ▶"0.0.0.0:8020"
! admin.listen: "0.0.0.0:8020" is a [[listener]]'s already (an address of its own)
@admin
listen = ▶"localhost:8021"
! admin.listen: "localhost:8021" is no address to listen on (write "127.0.0.1:8021")
@admin
listen = ▶"fd:admin\n"
! admin.listen: "admin\n" is no name of a socket: it is ASCII without ":" (FileDescriptorName= of the socket unit, such as "fd:web")
@admin
listen = "127.0.0.1:8021"
token_file = ▶"a\u0000"
! admin.token_file: "a\0" has a zero byte in it
@file
log = ▶["info"]
! log: found an array, expected a table
@file
[timeouts]
idle = ▶60
! timeouts.idle: found the integer 60, expected a duration in quotes such as "10s"
@file
[timeouts]
idle = ▶1979-05-27
! timeouts.idle: found the date 1979-05-27, expected a duration in quotes such as "10s"
@file
[limits]
max_headers = ▶"7"
! limits.max_headers: found the string "7", expected an integer
@file
[limits]
max_headers = ▶1.5
! limits.max_headers: found the number 1.5, expected an integer
@file
[limits]
max_headers = ▶9223372036854775808
! limits.max_headers: the integer 9223372036854775808 is too large
@file
[limits]
max_headers = ▶1000000000000000000000000000000000000000000
! limits.max_headers: the integer 1000000000000000000000000000000000000000000 is too large
@file
▶[listener]
listen = "a"
! listener: found a table, expected an array (double brackets: [[listener]])
@listener
route = ▶"a"
! listener[0].route: found the string "a", expected an array
@listener
trusted_proxies = ▶true
! listener[0].trusted_proxies: found the boolean true, expected an array
@listener
▶[listener.route]
path = "/"
! listener[0].route: found a table, expected an array (double brackets: [[listener.route]])
@route
upgrade = ["a", ▶7]
! listener[0].route[0].upgrade[1]: found the integer 7, expected a string
@route
set_headers = { X = ▶8 }
! listener[0].route[0].set_headers.X: found the integer 8, expected a string
@server
▶8011
! upstream.w.servers[1]: found the integer 8011, expected a string or a table such as { address = "10.0.0.1:80", weight = 2 }
@file
[upstream]
servers = ▶"a"
! upstream.servers: found the string "a", expected a table
@file
[log]
level = ▶"warning"
! log.level: "warning" is none of the choices (the choices are "off", "error", "warn", "info", "debug", "trace")
@file
[log]
format = ▶"jsno"
! log.format: "jsno" is none of the choices (did you mean "json"? The choices are "text", "json")
@file
[log]
access = ▶""
! log.access: an empty path ("off", "stderr", "stdout" or the path of a file)
@file
[timeouts]
handshake = ▶"10"
! timeouts.handshake: "10" is no duration (a number and a unit, such as "250ms", "10s", "5m" or "2h")
@file
[timeouts]
response = ▶"0s"
! timeouts.response: a wait of no time at all (at least "1ms")
@file
[timeouts]
lifetime = ▶"0d"
! timeouts.lifetime: a duration of no time at all (write "off" to do without)
@file
[timeouts]
drain = ▶"11y"
! timeouts.drain: "11y" is too long (at most ten years, "3650d")
@listener
[listener.timeouts]
connect = ▶"off"
! listener[0].timeouts.connect: "off" is not for this wait, which any peer can cause: it must end (a duration such as "10s" or "5m")
@listener
[listener.timeouts]
drain = ▶"1s"
! listener[0].timeouts.drain: a listener has no drain of its own: the whole process stops (drain stands in [timeouts])
@file
[tcp]
keepalive = ▶"500ms"
! tcp.keepalive: "500ms" is out of range ("1s" to "32767s", or "off")
@file
[tcp]
keepalive = ▶"10h"
! tcp.keepalive: "10h" is out of range ("1s" to "32767s", or "off")
@file
[tcp]
user_timeout = ▶"1us"
! tcp.user_timeout: "1us" is out of range ("1ms" to "24d", or "off")
@file
[tcp]
user_timeout = ▶"25d"
! tcp.user_timeout: "25d" is out of range ("1ms" to "24d", or "off")
@file
[limits]
max_connections = ▶0
! limits.max_connections: 0 is out of range (1 to 10000000)
@file
[limits]
max_connections = ▶10000001
! limits.max_connections: 10000001 is out of range (1 to 10000000)
@file
[limits]
max_connections_per_ip = ▶-1
! limits.max_connections_per_ip: -1 is out of range (0 to 4294967295)
@file
[limits]
max_header_bytes = ▶511
! limits.max_header_bytes: 511 is out of range (512 to 1048576)
@file
[limits]
max_headers = ▶1001
! limits.max_headers: 1001 is out of range (1 to 1000)
@file
[tcp]
backlog = ▶65536
! tcp.backlog: 65536 is out of range (1 to 65535)
@server
{ address = "one.test:80", weight = ▶-5 }
! upstream.w.servers[1].weight: -5 is out of range (1 to 65535)
@server
{ address = "one.test:80", max_conns = ▶4294967296 }
! upstream.w.servers[1].max_conns: 4294967296 is out of range (0 to 4294967295)
@upstream
servers = ["one.test:80"]
max_fails = ▶-2
! upstream.w.max_fails: -2 is out of range (0 to 4294967295)
@file
▶
! listener: there is nothing to listen on ([[listener]] with listen = "0.0.0.0:8020" and upstream = "NAME")
@file
▶[[listener]]
upstream = "w"
! listener[0].listen: this [[listener]] does not say where to listen (such as listen = "0.0.0.0:8020")
@file
▶[[listener]]
listen = "127.0.0.1:1"
! listener[0].upstream: this [[listener]] has neither an upstream nor a route: it could only answer 404 (upstream = "NAME")
@file
▶[[listener]]
listen = "127.0.0.1:1"
protocol = "tcp"
! listener[0].upstream: this tcp [[listener]] does not say where its tunnels go (upstream = "NAME")
@file
[[listener]]
listen = ▶"localhost:1"
! listener[0].listen: "localhost:1" is no address to listen on (write "127.0.0.1:1")
@file
[[listener]]
listen = ▶"unix:"
! listener[0].listen: "unix:" without a path (such as "unix:/run/adit.sock")
@file
[[listener]]
listen = ▶"fd:"
! listener[0].listen: "fd:" without a name (FileDescriptorName= of the socket unit, such as "fd:web")
@file
[[listener]]
listen = ▶"fd:a:b"
! listener[0].listen: "a:b" is no name of a socket: it is ASCII without ":" (FileDescriptorName= of the socket unit, such as "fd:web")
@file
[[listener]]
listen = "fd:web"
upstream = "w"

[[listener]]
listen = ▶"fd:web"
upstream = "w"
[upstream.w]
servers = ["127.0.0.1:8010"]
! listener[1].listen: "fd:web" is already listened on, at line 2 (one [[listener]] for each address)
@file
[admin]
listen = ▶"fd:web"
[[listener]]
listen = "fd:web"
upstream = "w"
[upstream.w]
servers = ["127.0.0.1:8010"]
! admin.listen: "fd:web" is a [[listener]]'s already (an address of its own)
@server
▶"fd:web"
! upstream.w.servers[1]: "web" is no port (1 to 65535)
@listener
protocol = ▶"https"
! listener[0].protocol: "https" is none of the choices (did you mean "http"? The choices are "http", "tcp")
@listener
proxy_protocol = ▶"on"
! listener[0].proxy_protocol: "on" is none of the choices (the choices are "off", "v1", "v2", "any")
@file
[[listener]]
listen = "127.0.0.1:1"
upstream = ▶"a\nb"
[upstream."a b"]
servers = ["127.0.0.1:2"]
! listener[0].upstream: there is no upstream "a\nb" (did you mean "a b"?)
@listener
[upstream."a b"]
servers = [▶"localhost"]
! upstream."a b".servers[0]: "localhost" has no port (such as "10.0.0.1:8010", "[::1]:8010", "app.internal:8010" or "unix:/run/app.sock")
@listener
trusted_proxies = ["unix:", ▶"proxy"]
! listener[0].trusted_proxies[1]: "proxy" is neither an address nor a network (such as "10.0.0.0/8", "192.0.2.7" or "2001:db8::/32")
@listener
protocol = "tcp"
trusted_proxies = ▶["::1"]
! listener[0].trusted_proxies: a tcp listener has no X-Forwarded-* fields to trust anybody's (proxy_protocol names a client's address to it)
@listener
protocol = "tcp"
▶[[listener.route]]
upstream = "w"
! listener[0].route[0]: a tcp listener has no routes: there is no host and no path in its bytes (protocol = "http", or upstream in the listener itself)
@file
[[listener]]
listen = "127.0.0.1:9"
upstream = "w"

[[listener]]
listen = ▶"127.0.0.1:9"
upstream = "w"
[upstream.w]
servers = ["127.0.0.1:8010"]
! listener[1].listen: "127.0.0.1:9" is already listened on, at line 2 (one [[listener]] for each address)
@file
[[listener]]
listen = "unix:/a"
upstream = "w"

[[listener]]
listen = ▶"unix:/a"
upstream = "w"
[upstream.w]
servers = ["127.0.0.1:8010"]
! listener[1].listen: "unix:/a" is already listened on, at line 2 (one [[listener]] for each address)
@file
[[listener]]
listen = "0.0.0.0:8020"
upstream = ▶"v"

[upstream.w]
servers = ["127.0.0.1:8010"]
! listener[0].upstream: there is no upstream "v" (define it: [upstream.v])
@file
[[listener]]
listen = "127.0.0.1:1"
upstream = ▶"chat"
! listener[0].upstream: there is no upstream "chat" (define it: [upstream.chat])
@listener
▶[[listener.route]]
path = "/"
! listener[0].route[0].upstream: this [[listener.route]] does not say where its requests go (upstream = "NAME")
@route
[[listener.route]]
upstream = ▶"websocket"
! listener[0].route[1].upstream: there is no upstream "websocket" (define it: [upstream.websocket])
@route
host = ▶"*"
! listener[0].route[0].host: "*" is no host (leave the key out for any host)
@route
host = ▶"a.example:80"
! listener[0].route[0].host: "a.example:80" is no host: it has a port (write "a.example": hosts are compared without their port)
@route
path = ▶"chat"
! listener[0].route[0].path: "chat" does not begin with "/" ("/prefix/", or "=/exact" for exactly that path)
@route
path = ▶"/a/../b"
! listener[0].route[0].path: "/a/../b" is not in the form in which requests' paths are compared (write "/b")
@route
path = ▶"/%61"
! listener[0].route[0].path: "/%61" is not in the form in which requests' paths are compared (write "/a")
@route
path = ▶"/x?y"
! listener[0].route[0].path: "/x?y" has a query or a fragment (routes look at the path alone)
@route
host = "A.b"
path = "/x"
[[listener.route]]
upstream = "w"
host = "a.B."
path = ▶"/x"
! listener[0].route[1].path: the route at line 4 is for the same host and path (only one of them could ever match)
@route
[[listener.route]]
upstream = "w"
path = "/"
▶[[listener.route]]
upstream = "w"
! listener[0].route[2]: the route at line 4 is for the same host and path (only one of them could ever match)
@route
upgrade = ["a", ▶"A"]
! listener[0].route[0].upgrade[1]: "a" stands here twice
@route
upgrade = [▶"H2C"]
! listener[0].route[0].upgrade[0]: "H2C" is never passed on: behind it come requests that pass the routes by (leave it out; the request goes on as a plain one)
@route
upgrade = [▶"tls"]
! listener[0].route[0].upgrade[0]: "tls" is never passed on: behind it come requests that pass the routes by (leave it out; the request goes on as a plain one)
@route
origins = [▶"https://a/b"]
! listener[0].route[0].origins[0]: "https://a/b" is no origin: it has a path (write "https://a")
@route
allow = ["::1", ▶"10.0.0.1/8"]
! listener[0].route[0].allow[1]: "10.0.0.1/8" has bits set beyond its prefix (the network is "10.0.0.0/8", the address alone "10.0.0.1")
@route
deny = [▶"unix:"]
! listener[0].route[0].deny[0]: "unix:" is neither an address nor a network (such as "10.0.0.0/8", "192.0.2.7" or "2001:db8::/32")
@route
handshake = ▶"Strict"
! listener[0].route[0].handshake: "Strict" is none of the choices (did you mean "strict"? The choices are "strict", "lenient")
@route
set_headers = { ▶Connection = "x" }
! listener[0].route[0].set_headers.Connection: "Connection" is adit's own: it frames the message or the connection
@route
set_headers = { ▶"X A" = "x" }
! listener[0].route[0].set_headers."X A": "X A" is no field name (letters, digits and "-", without the colon)
@route
set_headers = { X-A = "x", ▶x-a = "y" }
! listener[0].route[0].set_headers.x-a: "x-a" is set twice, in different case (fields are the same in any case)
@route
set_headers = { X = ▶"$peer" }
! listener[0].route[0].set_headers.X: there is no variable "$peer" (the variables are $client_ip, $host, $scheme, $request_id; "$$" is a dollar sign)
@route
set_headers = { X = ▶"a\nb" }
! listener[0].route[0].set_headers.X: the value has the control character '\n' in it
@route
remove_headers = [▶"Host"]
! listener[0].route[0].remove_headers[0]: "Host" is demanded of every request; set_headers can replace it
@route
remove_headers = ["a", ▶"TE"]
! listener[0].route[0].remove_headers[1]: "TE" is adit's own: it frames the message or the connection
@file
[[listener]]
listen = "0.0.0.0:8020"
upstream = "w"
▶[upstream.w]
! upstream.w.servers: [upstream.w] has no servers (such as servers = ["127.0.0.1:8010"])
@upstream
servers = ▶[]
! upstream.w.servers: an upstream needs at least one server (such as servers = ["127.0.0.1:8010"])
@upstream
servers = ▶[{ address = "one.test:80", backup = true }]
! upstream.w.servers: every server is a backup, and none is there to back up (leave backup out for at least one)
@server
▶{ weight = 2 }
! upstream.w.servers[1].address: this server has no address (such as address = "127.0.0.1:8010")
@server
{ address = ▶"one.test" }
! upstream.w.servers[1].address: "one.test" has no port (such as "10.0.0.1:8010", "[::1]:8010", "app.internal:8010" or "unix:/run/app.sock")
@server
▶"http://one.test:80"
! upstream.w.servers[1]: "http://one.test:80" is a URL or a path, not a server (such as "10.0.0.1:8010", "[::1]:8010", "app.internal:8010" or "unix:/run/app.sock")
@server
▶"127.0.0.1:0"
! upstream.w.servers[1]: port 0 in "127.0.0.1:0" cannot be dialed (1 to 65535)
@server
▶"unknown.test:80"
! upstream.w.servers[1]: "unknown.test:80" cannot be resolved: no such name
@server
▶"none.test:80"
! upstream.w.servers[1]: "none.test:80" has no addresses
@server

▶"127.0.0.1:8010"
! upstream.w.servers[1]: "127.0.0.1:8010" is already a server here, at line 5 (weight gives a server more than one share)
@server
"one.test:80",
▶"two.test:80"
! upstream.w.servers[2]: "192.0.2.1:80" is already a server here, at line 5 (weight gives a server more than one share)
@server
▶"127.0.0.1:8020"
! upstream.w.servers[1]: "127.0.0.1:8020" is listened on here: adit would proxy to itself
@server
{ address = ▶"0.0.0.0:8020" }
! upstream.w.servers[1].address: "0.0.0.0:8020" is listened on here: adit would proxy to itself
@file
[[listener]]
listen = "unix:/own"
upstream = "w"
[upstream.w]
servers = ["127.0.0.1:8010", ▶"unix:/own"]
! upstream.w.servers[1]: "unix:/own" is listened on here: adit would proxy to itself
@upstream
servers = ["one.test:80"]
balance = ▶"round-robin"
! upstream.w.balance: "round-robin" is none of the choices (did you mean "round_robin"? The choices are "round_robin", "least_conn", "ip_hash", "random_two", "hash")
@file
[[listener]]
listen = "0.0.0.0:8020"
upstream = "w"
▶[upstream.w]
servers = ["one.test:80"]
balance = "hash"
! upstream.w.hash_key: "hash" needs a key to hash (such as hash_key = "client_ip")
@upstream
servers = ["one.test:80"]
hash_key = ▶"path"
! upstream.w.hash_key: hash_key is for balance = "hash" alone (set balance too)
@file
[[listener]]
listen = "0.0.0.0:8020"
protocol = "tcp"
upstream = "w"
[upstream.w]
servers = ["one.test:80"]
balance = "hash"
hash_key = ▶"path"
! upstream.w.hash_key: "path" is a value of a request, and the tcp listener "0.0.0.0:8020" has none ("client_ip", or an upstream of its own)
@upstream
servers = ["one.test:80"]
balance = "hash"
hash_key = ▶"header:"
! upstream.w.hash_key: "header:" names nothing ("header:NAME")
@upstream
servers = ["one.test:80"]
fail_timeout = ▶"soon"
! upstream.w.fail_timeout: "soon" is no duration (a number and a unit, such as "250ms", "10s", "5m" or "2h")
@upstream
servers = ["one.test:80"]
proxy_protocol = ▶"any"
! upstream.w.proxy_protocol: "any" is none of the choices (the choices are "off", "v1", "v2")
@file
upstream.w.balance = "hash"
upstream.w.servers = [▶true]
! upstream.w.servers[0]: found the boolean true, expected a string or a table such as { address = "10.0.0.1:80", weight = 2 }
@file
listener = [{ ▶port = 1 }]
! listener[0].port: there is no key "port" (the keys here are listen, protocol, upstream, proxy_protocol, trusted_proxies, drain, on_removed, timeouts, route)
@file
# café 😀
#é
▶"a\"bü" = 1
! "a\"bü": there is no key "a\"bü" (the keys here are workers, user, group, admin, log, timeouts, drain, limits, tcp, listener, upstream)
@file
tcp = { keepalive = "off", user_timeout = "off", ▶"" = 1 }
! tcp."": there is no key "" (the keys here are keepalive, user_timeout, backlog)
@file
log = { access = "/é😀.log", level = ▶"loud" }
! log.level: "loud" is none of the choices (the choices are "off", "error", "warn", "info", "debug", "trace")
"#;

/// The marked text of every wrong file, and what is to be said.
fn wrong_files() -> Vec<(String, &'static str)> {
    let case = |case: &'static str| {
        let (text, said) = case.trim_end().split_once("\n! ").expect("an error to expect");
        let (around, text) = text.split_once('\n').expect("a text");
        let marked = match around {
            "file" => format!("{text}\n"),
            "listener" => listener(text),
            "route" => route(text),
            "upstream" => upstream(text),
            "server" => server(text),
            "admin" => format!("{MINIMAL}[admin]\n{text}\n"),
            other => panic!("{other} around {text}"),
        };
        (marked, said)
    };
    WRONG_FILES.trim_start().split("\n@").map(|text| case(text.trim_start_matches('@'))).collect()
}

#[test]
fn errors_say_where_and_what_and_what_would_do() {
    let files = wrong_files();
    let mut different = HashSet::new();
    for (marked, said) in &files {
        let at = marked.find(MARK).unwrap_or_else(|| panic!("no mark in {marked}"));
        let before: Vec<&str> = marked[..at].split('\n').collect();
        let (line, column) = (before.len(), before[before.len() - 1].chars().count() + 1);
        let error = read(&marked.replace(MARK, "")).expect_err(marked);
        assert_eq!(error.to_string(), format!("configuration:{line}:{column}: {said}"), "\n{marked}");
        assert_eq!(error.file, None);
        assert!(error.key.is_empty() || said.starts_with(&format!("{}: ", error.key)), "{error}");
        different.insert(*said);
    }
    assert!(files.len() > 100, "the table was cut short: {}", files.len());
    // Two that cannot be told apart by what is said test one rule twice, or show that a rule has no words.
    assert_eq!(different.len(), files.len());
}

/// Parts of what is said about mistakes that a schema has no words for: what two values have to do with each other, what
/// a name stands for, how long a duration is, and what follows from a rule of HTTP.
const BEYOND_A_SCHEMA: [&str; 23] = [
    "there is no upstream ",
    " is reached from other machines",
    " is a [[listener]]'s already",
    " is already listened on",
    " is for the same host and path",
    " stands here twice",
    " is set twice, in different case",
    " is already a server here",
    " is listened on here",
    " is a value of a request, and the tcp listener ",
    " cannot be resolved",
    " has no addresses",
    " is too long",
    " is out of range (at least \"1s\", or \"off\")",
    " is out of range (\"1s\" to ",
    " is out of range (\"1ms\" to ",
    " has a zero byte in it",
    " has bits set beyond its prefix",
    " is not in the form in which requests' paths are compared",
    " is adit's own",
    " is demanded of every request",
    "there is no variable ",
    " has the control character ",
];

#[test]
fn the_schema_refuses_all_that_a_schema_can() {
    let (mut refused, mut beyond) = (0, HashSet::new());
    for (marked, said) in wrong_files() {
        // An editor says so without a schema.
        let Some(mut file) = json(&marked.replace(MARK, "")) else { continue };
        // Lest it is refused for what it does not show.
        if !said.starts_with("listener: there is nothing to listen on") {
            let minimal = json(MINIMAL).expect("TOML");
            let keys = file.as_object_mut().expect("a table");
            keys.entry("listener").or_insert(minimal["listener"].clone());
        }
        match BEYOND_A_SCHEMA.iter().find(|part| said.contains(**part)) {
            Some(part) => {
                assert!(SCHEMA.is_valid(&file), "it has words for this after all: {said}\n{marked}");
                beyond.insert(part);
            }
            None => {
                assert!(!SCHEMA.is_valid(&file), "it lets this in, and can it not say so? {said}\n{marked}");
                refused += 1;
            }
        }
    }
    assert!(refused > 60, "{refused}");
    assert_eq!(beyond.len(), BEYOND_A_SCHEMA.len(), "one is about nothing: {beyond:?}");
}

#[test]
fn different_mistakes_with_one_key_are_told_apart() {
    let values =
        ["\"\"", "\"localhost:1\"", "\"127.0.0.1\"", "\"unix:\"", "\"unix:\\u0000\"", "1", "[]", "{}", "x"];
    let said = values.map(|value| read(&format!("[[listener]]\nlisten = {value}")).unwrap_err().message);
    assert_eq!(said.iter().collect::<HashSet<_>>().len(), values.len(), "{said:?}");
}

#[test]
fn every_wait_knows_whether_it_may_be_off() {
    for (table, key, may) in [
        ("timeouts", "handshake", false),
        ("timeouts", "connect", false),
        ("timeouts", "response", false),
        ("upstream.websocket", "fail_timeout", false),
        ("timeouts", "idle", true),
        ("timeouts", "half_closed", true),
        ("timeouts", "stalled", true),
        ("timeouts", "lifetime", true),
        ("timeouts", "drain", true),
        ("tcp", "keepalive", true),
        ("tcp", "user_timeout", true),
    ] {
        let text = |value: &str| match table {
            "upstream.websocket" => format!("{MINIMAL}{key} = \"{value}\""),
            table => format!("{MINIMAL}[{table}]\n{key} = \"{value}\""),
        };
        let path = format!("{table}.{key}");
        match read(&text("off")) {
            Ok(_) => assert!(may, "{path}"),
            Err(error) => assert!(!may && error.key == path && error.message.contains("must end"), "{error}"),
        }
        let error = read(&text("0s")).unwrap_err();
        assert_eq!((&error.key, error.help.unwrap().contains("\"off\"")), (&path, may));
    }
}

#[test]
fn places_count_characters_from_one() {
    let error = read("# \u{e9}\r\nlog = { access = \"\u{e9}\u{1f600}\", level = \"loud\" }").unwrap_err();
    assert_eq!((error.line, error.column), (2, 32));
    let error = ConfigError { file: Some("adit.toml".to_owned()), ..error };
    assert_eq!(
        error.to_string(),
        "adit.toml:2:32: log.level: \"loud\" is none of the choices \
         (the choices are \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\")"
    );
}

#[test]
fn long_values_do_not_make_long_errors() {
    let text = format!("[log]\nlevel = \"{}\"", "\u{e9}".repeat(100_000));
    assert!(read(&text).unwrap_err().to_string().len() < 1000);
    let text = format!("{} = 1", "x".repeat(100_000));
    assert!(read(&text).unwrap_err().to_string().len() < 1000);
    for text in [
        route(&format!("host = \"{}:80\"", "x".repeat(100_000))),
        route(&format!("path = \"/%61{}\"", "x".repeat(100_000))),
        route(&format!("origins = [\"{}\\n\"]", "x".repeat(100_000))),
        route(&format!("set_headers.X = \"${}\"", "x".repeat(100_000))),
        listener("").replace("\"w\"", &format!("\"{}\\n\"", "x".repeat(100_000))),
    ] {
        let error = read(&text).unwrap_err().to_string();
        assert!(error.len() < 1000 && !error.contains('\n'), "{error}");
    }
}

// Any text.

#[test]
fn nesting_is_bounded() {
    for text in [
        format!("log = {}", "[".repeat(100_000)),
        format!("log = {}", "{ a = ".repeat(100_000)),
        format!("{}b = 1", "a.".repeat(100_000)),
        format!("[{}b]", "a.".repeat(100_000)),
        format!("[{}b]\n{}b = {}1{}", "a.".repeat(79), "a.".repeat(79), "[".repeat(79), "]".repeat(79)),
    ] {
        read(&text).unwrap_err();
    }
}

/// Whatever the text: a plan or an error, and an error with a key has a place.
#[test]
fn no_text_makes_it_panic() {
    let seed = 0x0ad1_7c0f;
    let mut random = fastrand::Rng::with_seed(seed);
    let base = annotated_with_examples();
    let fragments: Vec<String> = wrong_files().into_iter().map(|(text, _)| text.replace(MARK, "")).collect();
    let odd = [
        "\"",
        "'",
        "[",
        "]",
        "{",
        "}",
        "=",
        ".",
        "\n",
        "\r",
        "#",
        "\0",
        "\u{feff}",
        "\u{e9}",
        "\u{1f600}",
        "$",
        "%",
        "unix:",
        "off",
        "0",
        "-1",
        "9223372036854775808",
        "1e400",
        "nan",
        "*.",
        "::1",
        "\"\"\"",
        "\\u0000",
    ];
    let (mut plans, mut errors) = (0, 0);
    for round in 0..3000 {
        let source = if round % 3 == 0 { random.choice(&fragments).unwrap() } else { &base };
        let mut text: Vec<char> = source.chars().collect();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..=text.len());
            let end = random.usize(at..=text.len().min(at + 12));
            match random.u8(0..4) {
                0 => drop(text.drain(at..end)),
                1 => drop(text.splice(at..end, random.choice(odd).unwrap().chars())),
                2 => text.splice(at..at, random.choice(odd).unwrap().chars()).for_each(drop),
                _ => {
                    let copied = text[at..end].to_vec();
                    let to = random.usize(0..=text.len());
                    drop(text.splice(to..to, copied));
                }
            }
        }
        let text: String = text.into_iter().collect();
        match read(&text) {
            Ok(_) => plans += 1,
            Err(error) => {
                assert!(error.line >= 1 || error.key.is_empty(), "seed {seed}: {error}\n{text}");
                assert!(error.line == 0 || error.column >= 1, "seed {seed}: {error}\n{text}");
                assert!(!error.to_string().contains('\n'), "an error is one line, seed {seed}: {text}");
                assert!(!error.message.is_empty(), "seed {seed}: {text}");
                errors += 1;
            }
        }
    }
    assert!(plans > 100 && errors > 1000, "the mutations are too tame or too wild: {plans}, {errors}");
}
