//! Pairs of files and what is said of going from one to the other, and back; and what holds for any two.

use std::io;

use super::{Changes, Kind, Thing};
use crate::Config;
use crate::plan::Plan;

#[track_caller]
fn plan(text: &str) -> Plan {
    // Without a resolver's help: one name, and what it stands for.
    let mut resolve = |name: &str| match name {
        "one.test:80" => Ok(vec!["192.0.2.1:80".parse().unwrap()]),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
    };
    let plan = Config::from_toml(text).and_then(|config| config.check_with(&mut resolve));
    plan.unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Checks what is said of two files, the first to the second and back; the indented text without its last line, that of
/// the counts.
#[track_caller]
fn check(old: &str, new: &str, forth: &str, back: &str) {
    let (old, new) = (plan(old), plan(new));
    for (changes, expected) in [(Changes::between(&old, &new), forth), (Changes::between(&new, &old), back)] {
        let text = changes.to_string();
        let (said, counts) = text.trim_end().rsplit_once('\n').expect("two lines at least");
        let mut lines = expected.trim().lines().map(|line| line.strip_prefix("        ").unwrap_or(line));
        for line in said.lines() {
            assert_eq!(Some(line), lines.next(), "in\n{said}");
        }
        assert_eq!(lines.next(), None, "behind\n{said}");
        let [added, removed, changed] =
            [Kind::Added, Kind::Removed, Kind::Changed].map(|kind| changes.count(kind));
        assert_eq!(counts, format!("plan: {added} added, {removed} removed, {changed} changed"));
    }
}

/// The shortest file, with this on top.
fn file(top: &str) -> String {
    format!("{top}\n{LISTENER}{UPSTREAM}")
}

const LISTENER: &str = "[[listener]]\nlisten = \"127.0.0.1:80\"\nupstream = \"u\"\n";
const UPSTREAM: &str = "[upstream.u]\nservers = [\"10.0.0.1:1\"]\n";

/// A listener with these keys, and upstreams that they may name.
fn listener(keys: &str) -> String {
    format!(
        "[[listener]]\nlisten = \"127.0.0.1:80\"\n{keys}\n{UPSTREAM}[upstream.v]\nservers = [\"10.0.0.2:1\"]\n"
    )
}

/// A listener with a route of these keys besides.
fn route(keys: &str) -> String {
    listener(&format!("upstream = \"u\"\n[[listener.route]]\nhost = \"a.test\"\npath = \"/x/\"\n{keys}"))
}

/// An upstream with these keys; `more` is for the top of the file.
fn upstream(keys: &str, more: &str) -> String {
    format!("{more}\n{LISTENER}[upstream.u]\n{keys}\n")
}

#[cfg(feature = "admin")]
#[test]
fn an_admin_listener() {
    check(
        &file(""),
        &file("[admin]\nlisten = \"192.0.2.1:8021\"\nallow_remote = true\ntoken_file = \"/etc/adit/token\""),
        "admin: changed
          admin.listen: off -> 192.0.2.1:8021
          admin.allow_remote: false -> true
          admin.token_file: none -> /etc/adit/token
          at once; admin connections to an address that goes are closed",
        "admin: changed
          admin.listen: 192.0.2.1:8021 -> off
          admin.allow_remote: true -> false
          admin.token_file: /etc/adit/token -> none
          at once; admin connections to an address that goes are closed",
    );
}

#[test]
fn nothing() {
    check(&file(""), &file(""), "no changes", "no changes");
    // The order is nobody's business, nor is what stands for the default.
    check(
        &upstream("servers = [\"10.0.0.1:1\", \"10.0.0.2:1\"]", ""),
        &upstream("servers = [\"10.0.0.2:1\", { address = \"10.0.0.1:1\", weight = 1 }]", "workers = 1"),
        "no changes",
        "no changes",
    );
    let none = Changes::between(&plan(&file("")), &plan(&file("")));
    assert!(none.is_empty());
    assert_eq!(none.to_string(), "no changes\nplan: 0 added, 0 removed, 0 changed\n");
    assert_eq!(none.to_json(), r#"{"changes":[],"added":0,"removed":0,"changed":0}"#);
}

#[test]
fn tables() {
    check(
        &file(""),
        &file("workers = \"auto\""),
        "workers: 1 -> auto
          takes effect at the next start",
        "workers: auto -> 1
          takes effect at the next start",
    );
    check(
        &file(""),
        &file("user = \"adit\"\ngroup = \"www\""),
        "user: changed
          user: none -> adit
          group: none -> www
          takes effect at the next start",
        "user: changed
          user: adit -> none
          group: www -> none
          takes effect at the next start",
    );
    check(
        &file(""),
        &file(
            "[log]\nlevel = \"debug\"\naccess = \"/var/log/a, b.log\"\nformat = \"json\"\nquery = true\n\
             every = \"1h\"",
        ),
        "log: changed
          log.level: info -> debug
          log.access: stderr -> \"/var/log/a, b.log\"
          log.format: text -> json
          log.query: false -> true
          log.every: off -> 1h
          at once, for all lines",
        "log: changed
          log.level: debug -> info
          log.access: \"/var/log/a, b.log\" -> stderr
          log.format: json -> text
          log.query: true -> false
          log.every: 1h -> off
          at once, for all lines",
    );
    check(
        &file(""),
        &file("[drain]\nrate = 400\norder = \"quietest\"\ndelay = \"5s\"\n[timeouts]\ndrain = \"off\""),
        "drain: changed
          drain.rate: 0 -> 400
          drain.order: oldest -> quietest
          drain.delay: off -> 5s
          timeouts.drain: 30s -> off
          at once, for what is to be closed from then on",
        "drain: changed
          drain.rate: 400 -> 0
          drain.order: quietest -> oldest
          drain.delay: 5s -> off
          timeouts.drain: off -> 30s
          at once, for what is to be closed from then on",
    );
    check(
        &file(""),
        &file(
            "[limits]\nmax_connections = 5\nmax_connections_per_ip = 6\nmax_header_bytes = 700\nmax_headers = 8",
        ),
        "limits: changed
          limits.max_connections: 10000 -> 5
          limits.max_connections_per_ip: 0 -> 6
          limits.max_header_bytes: 16384 -> 700
          limits.max_headers: 100 -> 8
          counts for what is new; sessions that are open go on",
        "limits: changed
          limits.max_connections: 5 -> 10000
          limits.max_connections_per_ip: 6 -> 0
          limits.max_header_bytes: 700 -> 16384
          limits.max_headers: 8 -> 100
          counts for what is new; sessions that are open go on",
    );
    check(
        &file(""),
        &file("[tcp]\nkeepalive = \"off\"\nuser_timeout = \"90s\"\nbacklog = 9"),
        "tcp: changed
          tcp.keepalive: 1m -> off
          tcp.user_timeout: 1m -> 1m 30s
          tcp.backlog: 4096 -> 9
          listening sockets that stay have it at once; connections that are open keep what they have",
        "tcp: changed
          tcp.keepalive: off -> 1m
          tcp.user_timeout: 1m 30s -> 1m
          tcp.backlog: 9 -> 4096
          listening sockets that stay have it at once; connections that are open keep what they have",
    );
}

#[test]
fn a_listeners_keys() {
    check(
        &file(""),
        &file(
            "[timeouts]\nhandshake = \"1s\"\nconnect = \"2s\"\nresponse = \"3s\"\nidle = \"1h\"\nhalf_closed = \"4s\"\n\
               stalled = \"off\"\nlifetime = \"5h\"\nlifetime_jitter = \"12.5%\"",
        ),
        "listener 127.0.0.1:80: changed
          timeouts.handshake: 10s -> 1s
          timeouts.connect: 5s -> 2s
          timeouts.response: 1m -> 3s
          timeouts.idle: off -> 1h
          timeouts.half_closed: 1m -> 4s
          timeouts.stalled: 1m -> off
          timeouts.lifetime: off -> 5h
          timeouts.lifetime_jitter: 0% -> 12.5%
          new tunnels have it; those that are open keep what they were opened with",
        "listener 127.0.0.1:80: changed
          timeouts.handshake: 1s -> 10s
          timeouts.connect: 2s -> 5s
          timeouts.response: 3s -> 1m
          timeouts.idle: 1h -> off
          timeouts.half_closed: 4s -> 1m
          timeouts.stalled: off -> 1m
          timeouts.lifetime: 5h -> off
          timeouts.lifetime_jitter: 12.5% -> 0%
          new tunnels have it; those that are open keep what they were opened with",
    );
    check(
        &listener("upstream = \"u\""),
        &listener(
            "upstream = \"u\"\nproxy_protocol = \"any\"\ntrusted_proxies = [\"10.0.0.0/8\", \"unix:\"]",
        ),
        "listener 127.0.0.1:80: changed
          proxy_protocol: off -> any
          trusted_proxies: [] -> [10.0.0.0/8, unix:]
          new tunnels have it; those that are open keep what they were opened with",
        "listener 127.0.0.1:80: changed
          proxy_protocol: any -> off
          trusted_proxies: [10.0.0.0/8, unix:] -> []
          new tunnels have it; those that are open keep what they were opened with",
    );
    check(
        &listener("upstream = \"u\""),
        &listener("upstream = \"v\"\non_removed = \"close\""),
        "listener 127.0.0.1:80: changed
          upstream: u -> v
          on_removed: keep -> close
          on_removed is for a later reload to heed; this one goes by the old
          new tunnels go to the new upstream; those that are open go on where they are",
        "listener 127.0.0.1:80: changed
          upstream: v -> u
          on_removed: close -> keep
          on_removed is for a later reload to heed; this one goes by the old
          new tunnels go to the new upstream; those that are open go on where they are",
    );
}

#[test]
fn listeners_come_and_go() {
    let two = |second: &str| format!("{LISTENER}[[listener]]\nlisten = \"[::1]:81\"\n{second}\n{UPSTREAM}");
    check(
        &file(""),
        &two("upstream = \"u\""),
        "listener [::1]:81: added",
        "listener [::1]:81: removed
          clients that wait in its backlog are accepted before it closes
          tunnels of its own upstream go on (on_removed = \"keep\")",
    );
    check(
        &file(""),
        &two("upstream = \"u\"\nprotocol = \"tcp\"\non_removed = \"close\""),
        "listener [::1]:81: added",
        "listener [::1]:81: removed
          clients that wait in its backlog are accepted before it closes
          tunnels of its own upstream are closed at once (on_removed = \"close\")",
    );
    // Each route's tunnels by its own word, and one that drains listens to nobody.
    check(
        &file(""),
        &two("drain = true\n[[listener.route]]\npath = \"=/x\"\nupstream = \"u\"\n\
              [[listener.route]]\nhost = \"*.a.test\"\nupstream = \"u\"\non_removed = \"drain\"\ndrain = true"),
        "listener [::1]:81: added
          it is not listened on (drain = true)
        route *.a.test on [::1]:81: added
          what is new is answered 503 (drain = true)
        route =/x on [::1]:81: added",
        "listener [::1]:81: removed
        route *.a.test on [::1]:81: removed
          its tunnels go on for 30s, then they are closed (on_removed = \"drain\")
        route =/x on [::1]:81: removed
          its tunnels go on for 30s, then they are closed (it was draining)",
    );
    // Another address is another listener.
    check(
        &file(""),
        &file("").replace(":80", ":81"),
        "listener 127.0.0.1:81: added
        listener 127.0.0.1:80: removed
          clients that wait in its backlog are accepted before it closes
          tunnels of its own upstream go on (on_removed = \"keep\")",
        "listener 127.0.0.1:80: added
        listener 127.0.0.1:81: removed
          clients that wait in its backlog are accepted before it closes
          tunnels of its own upstream go on (on_removed = \"keep\")",
    );
    // Of those with port 0 the last are the ones that come and go.
    let any_port = "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n";
    check(
        &format!("{any_port}{UPSTREAM}"),
        &format!("{any_port}{any_port}{UPSTREAM}"),
        "listener 127.0.0.1:0 (2): added",
        "listener 127.0.0.1:0 (2): removed
          clients that wait in its backlog are accepted before it closes
          tunnels of its own upstream go on (on_removed = \"keep\")",
    );
    check(
        &format!(
            "[[listener]]\nlisten = \"unix:/run/a b\\u001b.sock\"\nupstream = \"u\"\n{UPSTREAM}{LISTENER}"
        ),
        &format!("{LISTENER}{UPSTREAM}"),
        "listener \"unix:/run/a b\\u{1b}.sock\": removed
          clients that wait in its backlog are accepted before it closes
          tunnels of its own upstream go on (on_removed = \"keep\")",
        "listener \"unix:/run/a b\\u{1b}.sock\": added",
    );
}

#[test]
fn a_listener_drains() {
    check(
        &listener("upstream = \"u\""),
        &listener("upstream = \"u\"\ndrain = true"),
        "listener 127.0.0.1:80: drains
          it is not listened on any more; its tunnels go on for 30s, then they are closed",
        "listener 127.0.0.1:80: drains no more
          it is listened on again; tunnels that are not closed yet are left in peace",
    );
    // What else is changed is for nobody meanwhile.
    check(
        &listener("upstream = \"u\"\ndrain = true"),
        &listener("upstream = \"v\"\ndrain = true\n[listener.timeouts]\nidle = \"1h\""),
        "listener 127.0.0.1:80: changed
          upstream: u -> v
          timeouts.idle: off -> 1h
          still takes nothing new; its tunnels are drained",
        "listener 127.0.0.1:80: changed
          upstream: v -> u
          timeouts.idle: 1h -> off
          still takes nothing new; its tunnels are drained",
    );
    // A route that is removed from one is drained with the rest.
    check(
        &route("upstream = \"u\""),
        &listener("upstream = \"u\"\ndrain = true"),
        "listener 127.0.0.1:80: drains
          it is not listened on any more; its tunnels go on for 30s, then they are closed
        route a.test/x/ on 127.0.0.1:80: removed
          its tunnels go on for 30s, then they are closed (drain = true of its listener)",
        "listener 127.0.0.1:80: drains no more
          it is listened on again; tunnels that are not closed yet are left in peace
        route a.test/x/ on 127.0.0.1:80: added",
    );
}

#[test]
fn a_listeners_own_upstream_comes_and_goes() {
    let other = "[[listener.route]]\npath = \"/x/\"\nupstream = \"v\"\n";
    check(
        &listener(&format!("upstream = \"u\"\non_removed = \"close\"\n{other}")),
        &listener(&format!("on_removed = \"close\"\n{other}")),
        "listener 127.0.0.1:80: changed
          upstream: u -> none
          tunnels of its own upstream are closed at once (on_removed = \"close\")",
        "listener 127.0.0.1:80: changed
          upstream: none -> u",
    );
    // To another protocol the tunnels of its own go on, those of its routes do not.
    check(
        &listener(&format!("upstream = \"u\"\n{other}on_removed = \"close\"")),
        &listener("upstream = \"u\"\nprotocol = \"tcp\""),
        "listener 127.0.0.1:80: changed
          protocol: http -> tcp
          new tunnels have it; those that are open keep what they were opened with
        route /x/ on 127.0.0.1:80: removed
          its tunnels are closed at once (on_removed = \"close\")",
        "listener 127.0.0.1:80: changed
          protocol: tcp -> http
          new tunnels have it; those that are open keep what they were opened with
        route /x/ on 127.0.0.1:80: added",
    );
    // A route for anything that has more to say than an upstream is told by itself, and is the same route.
    check(
        &listener("upstream = \"u\""),
        &listener("[[listener.route]]\nupstream = \"v\"\norigins = [\"https://a.test\"]\n"),
        "route for anything on 127.0.0.1:80: changed
          upstream: u -> v
          origins: [] -> [https://a.test]
          new tunnels have it; those that are open keep what they were opened with
          new tunnels go to the new upstream; those that are open go on where they are",
        "route for anything on 127.0.0.1:80: changed
          upstream: v -> u
          origins: [https://a.test] -> []
          new tunnels have it; those that are open keep what they were opened with
          new tunnels go to the new upstream; those that are open go on where they are",
    );
    // Behind such a route the listener's own is never reached.
    let shadowed = |upstream| {
        listener(&format!(
            "upstream = \"{upstream}\"\n[[listener.route]]\nupstream = \"u\"\ndeny = [\"10.0.0.7\"]\n"
        ))
    };
    check(&shadowed("u"), &shadowed("v"), "no changes", "no changes");
}

#[test]
fn routes() {
    check(
        &listener("upstream = \"u\""),
        &route("upstream = \"v\"\non_removed = \"drain\""),
        "route a.test/x/ on 127.0.0.1:80: added",
        "route a.test/x/ on 127.0.0.1:80: removed
          its tunnels go on for 30s, then they are closed (on_removed = \"drain\")",
    );
    check(
        &route("upstream = \"u\""),
        &route("upstream = \"v\""),
        "route a.test/x/ on 127.0.0.1:80: changed
          upstream: u -> v
          new tunnels go to the new upstream; those that are open go on where they are",
        "route a.test/x/ on 127.0.0.1:80: changed
          upstream: v -> u
          new tunnels go to the new upstream; those that are open go on where they are",
    );
    check(
        &route("upstream = \"u\""),
        &route(
            r#"upstream = "u"
            upgrade = ["websocket", "x"]
            origins = ["https://a.test"]
            allow = ["10.0.0.0/8"]
            deny = ["10.0.0.7"]
            handshake = "lenient"
            set_headers = { X-A = "$client_ip at $$5", X-B = "a, b" }
            remove_headers = ["X-C"]
            on_removed = "close""#,
        ),
        "route a.test/x/ on 127.0.0.1:80: changed
          upgrade: [websocket] -> [websocket, x]
          origins: [] -> [https://a.test]
          allow: [] -> [10.0.0.0/8]
          deny: [] -> [10.0.0.7/32]
          handshake: strict -> lenient
          set_headers: [] -> [X-A: $client_ip at $$5, \"X-B: a, b\"]
          remove_headers: [] -> [x-c]
          on_removed: keep -> close
          new tunnels have it; those that are open keep what they were opened with
          on_removed is for a later reload to heed; this one goes by the old",
        "route a.test/x/ on 127.0.0.1:80: changed
          upgrade: [websocket, x] -> [websocket]
          origins: [https://a.test] -> []
          allow: [10.0.0.0/8] -> []
          deny: [10.0.0.7/32] -> []
          handshake: lenient -> strict
          set_headers: [X-A: $client_ip at $$5, \"X-B: a, b\"] -> []
          remove_headers: [x-c] -> []
          on_removed: close -> keep
          new tunnels have it; those that are open keep what they were opened with
          on_removed is for a later reload to heed; this one goes by the old",
    );
    check(
        &route("upstream = \"u\""),
        &route("upstream = \"u\"\ndrain = true"),
        "route a.test/x/ on 127.0.0.1:80: drains
          what is new is answered 503; its tunnels go on for 30s, then they are closed",
        "route a.test/x/ on 127.0.0.1:80: drains no more
          takes new ones again; tunnels that are not closed yet are left in peace",
    );
}

#[test]
fn an_upstreams_keys() {
    let servers = "servers = [\"10.0.0.1:1\"]";
    check(
        &upstream(servers, ""),
        &upstream(
            &format!(
                "{servers}\nbalance = \"hash\"\nhash_key = \"cookie:s\"\nmax_fails = 2\nfail_timeout = \"3s\"\n\
                      proxy_protocol = \"v2\""
            ),
            "",
        ),
        "upstream u: changed
          balance: round_robin -> hash
          hash_key: none -> cookie:s
          max_fails: 1 -> 2
          fail_timeout: 10s -> 3s
          proxy_protocol: off -> v2
          new tunnels go by it; those that are open go on",
        "upstream u: changed
          balance: hash -> round_robin
          hash_key: cookie:s -> none
          max_fails: 2 -> 1
          fail_timeout: 3s -> 10s
          proxy_protocol: v2 -> off
          new tunnels go by it; those that are open go on",
    );
    check(
        &upstream(servers, ""),
        &upstream(
            &format!("{servers}\non_removed = \"drain\"\nrebalance = {{ within = \"33.3%\", rate = 7 }}"),
            "",
        ),
        "upstream u: changed
          on_removed: keep -> drain
          rebalance.within: none -> 33.3%
          rebalance.rate: none -> 7
          on_removed is heeded at once, for servers that this reload removes
          rebalance is heeded at once, where servers are added, come back or change their weight",
        "upstream u: changed
          on_removed: drain -> keep
          rebalance.within: 33.3% -> none
          rebalance.rate: 7 -> none
          on_removed is heeded at once, for servers that this reload removes
          rebalance is heeded at once, where servers are added, come back or change their weight",
    );
}

#[test]
fn upstreams_come_and_go() {
    let other = |on_removed| {
        format!(
            "{LISTENER}{UPSTREAM}[upstream.v]\nservers = [\"10.0.0.2:1\"]\non_removed = \"{on_removed}\"\n"
        )
    };
    for (on_removed, end) in
        [("keep", "go on"), ("drain", "go on for 30s, then they are closed"), ("close", "are closed at once")]
    {
        check(
            &file(""),
            &other(on_removed),
            "upstream v: added",
            &format!("upstream v: removed\n          its tunnels {end} (on_removed = \"{on_removed}\")"),
        );
    }
    // Who drains goes on to, whatever the upstream says.
    check(
        &file(""),
        &other("keep").replace("[\"10.0.0.2:1\"]", "[{ address = \"10.0.0.2:1\", drain = true }]"),
        "upstream v: added",
        "upstream v: removed
          its tunnels go on (on_removed = \"keep\")
          those of servers that were draining still are",
    );
    check(
        &file(""),
        &file("").replace("upstream.u", "upstream.\"a b\\n\"").replace("\"u\"", "\"a b\\n\""),
        "listener 127.0.0.1:80: changed
          upstream: u -> \"a b\\n\"
          tunnels to the old upstream go on (on_removed = \"keep\" of upstream u)
        upstream \"a b\\n\": added
        upstream u: removed
          its tunnels go on (on_removed = \"keep\")",
        "listener 127.0.0.1:80: changed
          upstream: \"a b\\n\" -> u
          tunnels to the old upstream go on (on_removed = \"keep\" of upstream \"a b\\n\")
        upstream u: added
        upstream \"a b\\n\": removed
          its tunnels go on (on_removed = \"keep\")",
    );
}

#[test]
fn servers() {
    let one = upstream("servers = [\"10.0.0.1:1\"]", "");
    for (on_removed, end) in
        [("keep", "go on"), ("drain", "go on for 30s, then they are closed"), ("close", "are closed at once")]
    {
        // The new file's word, for one that is removed from an upstream that stays.
        let old = upstream("servers = [\"10.0.0.1:1\", \"10.0.0.2:1\"]\non_removed = \"close\"", "");
        let new = upstream(&format!("servers = [\"10.0.0.1:1\"]\non_removed = \"{on_removed}\""), "");
        let said = Changes::between(&plan(&old), &plan(&new)).to_string();
        let expected = format!(
            "server 10.0.0.2:1 of upstream u: removed\n  its tunnels {end} (on_removed = \"{on_removed}\")\n"
        );
        assert!(said.contains(&expected), "{said}");
    }
    check(
        &one,
        &upstream(
            "servers = [\"10.0.0.3:1\", \"10.0.0.1:1\", { address = \"10.0.0.2:1\", drain = true }]",
            "",
        ),
        "server 10.0.0.3:1 of upstream u: added
        server 10.0.0.2:1 of upstream u: added
          takes nothing (drain = true)",
        "server 10.0.0.3:1 of upstream u: removed
          its tunnels go on (on_removed = \"keep\")
        server 10.0.0.2:1 of upstream u: removed
          its tunnels go on for 30s, then they are closed (it was draining)",
    );
    check(
        &upstream("servers = [\"10.0.0.9:1\", \"10.0.0.1:1\"]", ""),
        &upstream(
            "servers = [\"10.0.0.9:1\", { address = \"10.0.0.1:1\", weight = 2, max_conns = 3, backup = true }]",
            "",
        ),
        "server 10.0.0.1:1 of upstream u: changed
          weight: 1 -> 2
          max_conns: 0 -> 3
          backup: false -> true
          new tunnels go by it; those that are open go on",
        "server 10.0.0.1:1 of upstream u: changed
          weight: 2 -> 1
          max_conns: 3 -> 0
          backup: true -> false
          new tunnels go by it; those that are open go on",
    );
    // The address is what it is; the name is what it is called.
    check(
        &upstream("servers = [\"192.0.2.1:80\"]", ""),
        &upstream("servers = [\"one.test:80\"]", ""),
        "server one.test:80 (192.0.2.1:80) of upstream u: changed
          address: 192.0.2.1:80 -> one.test:80
          new tunnels go by it; those that are open go on",
        "server 192.0.2.1:80 of upstream u: changed
          address: one.test:80 -> 192.0.2.1:80
          new tunnels go by it; those that are open go on",
    );
}

/// How drained tunnels end is the new file's to say.
#[test]
fn a_server_drains() {
    let at_pace = |servers: &str, top: &str| upstream(&format!("servers = {servers}"), top);
    let (open, drained) = ("[\"10.0.0.1:1\"]", "[{ address = \"10.0.0.1:1\", drain = true }]");
    for (top, end) in [
        ("", "go on for 30s, then they are closed"),
        ("[timeouts]\ndrain = \"5m\"", "go on for 5m, then they are closed"),
        ("[timeouts]\ndrain = \"off\"", "go on for as long as they like"),
        ("[drain]\nrate = 400", "are closed at 400 a second, the oldest first, and what is left after 30s"),
        (
            "[drain]\nrate = 1\norder = \"quietest\"\n[timeouts]\ndrain = \"1h\"",
            "are closed at 1 a second, the quietest first, and what is left after 1h",
        ),
        ("[drain]\nrate = 2\n[timeouts]\ndrain = \"off\"", "are closed at 2 a second, the oldest first"),
    ] {
        check(
            &at_pace(open, top),
            &at_pace(drained, top),
            &format!(
                "server 10.0.0.1:1 of upstream u: drains\n          takes nothing new; its tunnels {end}"
            ),
            "server 10.0.0.1:1 of upstream u: drains no more
          takes new ones again; tunnels that are not closed yet are left in peace",
        );
        let said = Changes::between(&plan(&at_pace(open, "")), &plan(&at_pace(drained, top))).to_string();
        assert!(said.contains(end), "{said}");
    }
    check(
        &at_pace("[{ address = \"10.0.0.1:1\", weight = 2 }]", ""),
        &at_pace(drained, ""),
        "server 10.0.0.1:1 of upstream u: drains
          weight: 2 -> 1
          takes nothing new; its tunnels go on for 30s, then they are closed",
        "server 10.0.0.1:1 of upstream u: drains no more
          weight: 1 -> 2
          takes new ones again; tunnels that are not closed yet are left in peace
          new tunnels go by it; those that are open go on",
    );
}

#[test]
fn servers_share_again() {
    let with = |servers: &str| upstream(&format!("servers = {servers}\nrebalance = {{ rate = 20 }}"), "");
    let one = with("[\"10.0.0.1:1\"]");
    check(
        &one,
        &with("[\"10.0.0.1:1\", \"10.0.0.2:1\"]"),
        "server 10.0.0.2:1 of upstream u: added
          surplus tunnels are closed at 20 a second, the quietest first, until each server is within 10% of its share",
        "server 10.0.0.2:1 of upstream u: removed
          its tunnels go on (on_removed = \"keep\")",
    );
    check(
        &one,
        &with("[{ address = \"10.0.0.1:1\", weight = 2 }]"),
        "server 10.0.0.1:1 of upstream u: changed
          weight: 1 -> 2
          new tunnels go by it
          surplus tunnels are closed at 20 a second, the quietest first, until each server is within 10% of its share",
        "server 10.0.0.1:1 of upstream u: changed
          weight: 2 -> 1
          new tunnels go by it
          surplus tunnels are closed at 20 a second, the quietest first, until each server is within 10% of its share",
    );
    check(
        &one,
        &with("[{ address = \"10.0.0.1:1\", drain = true }, { address = \"10.0.0.2:1\", drain = true }]"),
        "server 10.0.0.1:1 of upstream u: drains
          takes nothing new; its tunnels go on for 30s, then they are closed
        server 10.0.0.2:1 of upstream u: added
          takes nothing (drain = true)",
        "server 10.0.0.1:1 of upstream u: drains no more
          takes new ones again; tunnels that are not closed yet are left in peace
          surplus tunnels are closed at 20 a second, the quietest first, until each server is within 10% of its share
        server 10.0.0.2:1 of upstream u: removed
          its tunnels go on for 30s, then they are closed (it was draining)",
    );
    check(
        &one,
        &with("[{ address = \"10.0.0.1:1\", max_conns = 5 }]"),
        "server 10.0.0.1:1 of upstream u: changed
          max_conns: 0 -> 5
          new tunnels go by it; those that are open go on",
        "server 10.0.0.1:1 of upstream u: changed
          max_conns: 5 -> 0
          new tunnels go by it; those that are open go on",
    );
}

/// A tunnel has a route and an upstream, and may be under the rules of both.
#[test]
fn the_stricter_holds() {
    let rules = |route: &str, upstream: &str| {
        let old = format!(
            "{LISTENER}[[listener.route]]\nhost = \"a.test\"\nupstream = \"v\"\non_removed = \"{route}\"\n\
             {UPSTREAM}[upstream.v]\nservers = [\"10.0.0.2:1\"]\non_removed = \"{upstream}\"\n"
        );
        Changes::between(&plan(&old), &plan(&file(""))).to_string()
    };
    let (on, off) = ("go on", "are closed at once");
    let drained = "go on for 30s, then they are closed";
    for (route, upstream, end, because) in [
        ("keep", "keep", on, "on_removed = \"keep\""),
        ("keep", "drain", drained, "on_removed = \"drain\" of upstream v"),
        ("keep", "close", off, "on_removed = \"close\" of upstream v"),
        ("drain", "keep", drained, "on_removed = \"drain\""),
        ("drain", "drain", drained, "on_removed = \"drain\""),
        ("drain", "close", off, "on_removed = \"close\" of upstream v"),
        ("close", "keep", off, "on_removed = \"close\""),
        ("close", "drain", off, "on_removed = \"close\""),
        ("close", "close", off, "on_removed = \"close\""),
    ] {
        let said = rules(route, upstream);
        let expected = format!("route a.test on 127.0.0.1:80: removed\n  its tunnels {end} ({because})\n");
        assert!(said.starts_with(&expected), "{route}, {upstream}: {said}");
        // And where the upstream's own line says less than the route's there is a word about it.
        let hint = "where two of these are about one tunnel, the stricter holds";
        let differ = matches!((route, upstream), ("drain", "keep") | ("close", "keep" | "drain"));
        assert_eq!(said.contains(hint), differ, "{route}, {upstream}: {said}");
    }
    // What is about no common tunnel needs no word.
    let of_servers =
        |servers: &str, v: &str| format!("{LISTENER}{UPSTREAM}{v}").replace("[\"10.0.0.1:1\"]", servers);
    check(
        &route("upstream = \"v\""),
        &of_servers(
            "[{ address = \"10.0.0.1:1\", drain = true }]",
            "[upstream.v]\nservers = [\"10.0.0.2:1\"]\n",
        ),
        "route a.test/x/ on 127.0.0.1:80: removed
          its tunnels go on (on_removed = \"keep\")
        server 10.0.0.1:1 of upstream u: drains
          takes nothing new; its tunnels go on for 30s, then they are closed",
        "route a.test/x/ on 127.0.0.1:80: added
        server 10.0.0.1:1 of upstream u: drains no more
          takes new ones again; tunnels that are not closed yet are left in peace",
    );
    // Nor does what leaves tunnels to others.
    check(
        &route("upstream = \"v\""),
        &route("upstream = \"v\"\nhandshake = \"lenient\"")
            .replace("\"10.0.0.2:1\"", "{ address = \"10.0.0.2:1\", drain = true }"),
        "route a.test/x/ on 127.0.0.1:80: changed
          handshake: strict -> lenient
          new tunnels have it; those that are open keep what they were opened with
        server 10.0.0.2:1 of upstream v: drains
          takes nothing new; its tunnels go on for 30s, then they are closed",
        "route a.test/x/ on 127.0.0.1:80: changed
          handshake: lenient -> strict
          new tunnels have it; those that are open keep what they were opened with
        server 10.0.0.2:1 of upstream v: drains no more
          takes new ones again; tunnels that are not closed yet are left in peace",
    );
    // All tunnels of a listener that drains do, wherever they go.
    check(
        &route("upstream = \"v\""),
        &route("upstream = \"v\"")
            .replace("\n[[listener.route]]", "\ndrain = true\n[[listener.route]]")
            .replace("10.0.0.2:1", "10.0.0.3:1"),
        "listener 127.0.0.1:80: drains
          it is not listened on any more; its tunnels go on for 30s, then they are closed
        server 10.0.0.3:1 of upstream v: added
        server 10.0.0.2:1 of upstream v: removed
          its tunnels go on (on_removed = \"keep\")
        where two of these are about one tunnel, the stricter holds",
        "listener 127.0.0.1:80: drains no more
          it is listened on again; tunnels that are not closed yet are left in peace
        server 10.0.0.2:1 of upstream v: added
        server 10.0.0.3:1 of upstream v: removed
          its tunnels go on (on_removed = \"keep\")",
    );
    // A route that goes elsewhere, from an upstream that is no more.
    check(
        &format!(
            "{}[upstream.w]\nservers = [\"10.0.0.3:1\"]\non_removed = \"close\"",
            route("upstream = \"w\"")
        ),
        &route("upstream = \"v\"\ndrain = true"),
        "route a.test/x/ on 127.0.0.1:80: drains
          upstream: w -> v
          what is new is answered 503; its tunnels go on for 30s, then they are closed
          tunnels to the old upstream are closed at once (on_removed = \"close\" of upstream w)
        upstream w: removed
          its tunnels are closed at once (on_removed = \"close\")",
        "route a.test/x/ on 127.0.0.1:80: drains no more
          upstream: v -> w
          takes new ones again; tunnels that are not closed yet are left in peace
          new tunnels go to the new upstream; those that are open go on where they are
        upstream w: added",
    );
}

#[test]
fn json_says_the_same() {
    let old = route("upstream = \"u\"\non_removed = \"close\"");
    let new = format!(
        "workers = 2\n{}",
        listener("upstream = \"u\"\nprotocol = \"tcp\"\n[listener.timeouts]\nidle = \"1h\"")
    )
    .replace("[\"10.0.0.1:1\"]", "[\"10.0.0.1:1\", \"10.0.0.5:1\"]\nrebalance = {}");
    let json = Changes::between(&plan(&old), &plan(&new)).to_json();
    let found: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let surplus = "surplus tunnels are closed at 50 a second, the quietest first, until each \
                   server is within 10% of its share";
    let expected = serde_json::json!({
        "changes": [
            {
                "what": "listener", "listener": "127.0.0.1:80", "change": "changed", "tunnels": "keep",
                "keys": [
                    { "key": "protocol", "old": "http", "new": "tcp" },
                    { "key": "timeouts.idle", "old": "off", "new": "1h" },
                ],
                "effects": ["new tunnels have it; those that are open keep what they were opened with"],
            },
            {
                "what": "route", "listener": "127.0.0.1:80", "host": "a.test", "path": "/x/", "change": "removed",
                "keys": [], "tunnels": "close", "effects": ["its tunnels are closed at once (on_removed = \"close\")"],
            },
            {
                "what": "upstream", "upstream": "u", "change": "changed", "tunnels": "keep",
                "keys": [
                    { "key": "rebalance.within", "old": null, "new": "10%" },
                    { "key": "rebalance.rate", "old": null, "new": 50 },
                ],
                "effects": ["rebalance is heeded at once, where servers are added, come back or change their weight"],
            },
            {
                "what": "server", "upstream": "u", "server": "10.0.0.5:1", "change": "added", "keys": [],
                "tunnels": "rebalance", "effects": [surplus],
            },
            {
                "what": "workers", "change": "changed", "keys": [{ "key": "workers", "old": 1, "new": 2 }],
                "effects": ["takes effect at the next start"],
            },
        ],
        "added": 1, "removed": 1, "changed": 3,
    });
    assert_eq!(found, expected);
    assert!(!json.contains('\n'));
}

/// Random files, by choices of small numbers in an order that is always the same, so that a few other choices make a
/// file that differs in a few places.
struct Choices<'a> {
    choices: &'a [u8],
    next: usize,
}

/// As many as a file takes.
const CHOICES: usize = 200;

impl Choices<'_> {
    /// One of so many.
    fn among(&mut self, count: u8) -> u8 {
        let choice = self.choices[self.next] % count;
        self.next += 1;
        choice
    }

    fn one<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[usize::from(self.among(texts.len() as u8))]
    }

    fn file(&mut self) -> String {
        let mut text = String::new();
        text += self.one(&["", "workers = 2\n", "workers = \"auto\"\n"]);
        text += self.one(&["", "user = \"a\"\n", "group = \"a\"\n"]);
        text += self.one(&[
            "",
            "[log]\nlevel = \"warn\"\n",
            "[log]\nformat = \"json\"\n",
            "[log]\nquery = true\n",
            "[log]\nevery = \"1h\"\n",
        ]);
        text += self.one(&[
            "",
            "[drain]\nrate = 5\n",
            "[drain]\norder = \"quietest\"\n",
            "[drain]\ndelay = \"5s\"\n",
        ]);
        text += self.one(&["", "[limits]\nmax_headers = 5\n", "[limits]\nmax_connections_per_ip = 5\n"]);
        text += self.one(&["", "[tcp]\nbacklog = 5\n", "[tcp]\nkeepalive = \"5s\"\n"]);
        text += self.one(&["", "[timeouts]\nidle = \"5s\"\n", "[timeouts]\ndrain = \"5s\"\n"]);
        let mut listeners = String::new();
        for listen in ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:80", "[::1]:80", "unix:/a"] {
            let listener = self.listener(listen);
            listeners += if self.among(3) > 0 { &listener } else { "" };
        }
        if listeners.is_empty() {
            listeners = LISTENER.to_owned();
        }
        text += &listeners;
        for name in ["u", "v", "w"] {
            let upstream = self.upstream(name);
            // "w" is nobody's, so it may be missing.
            text += if name != "w" || self.among(2) > 0 { &upstream } else { "" };
        }
        text
    }

    fn listener(&mut self, listen: &str) -> String {
        let mut text = format!("[[listener]]\nlisten = \"{listen}\"\n");
        let is_tcp = self.among(4) == 0;
        let upstream = self.one(&["u", "v", ""]);
        text += self.one(&["", "drain = true\n"]);
        text += self.one(&["", "on_removed = \"drain\"\n", "on_removed = \"close\"\n"]);
        text += self.one(&["", "proxy_protocol = \"v1\"\n"]);
        let timeouts = self.one(&[
            "",
            "[listener.timeouts]\nidle = \"7s\"\n",
            "[listener.timeouts]\nlifetime_jitter = \"7.7%\"\n",
        ]);
        let mut routes = String::new();
        for rule in ["host = \"a.test\"", "host = \"*.a.test\"\npath = \"/x\"", "path = \"=/x\"", ""] {
            let keys = [
                self.one(&["upstream = \"u\"\n", "upstream = \"v\"\n"]),
                self.one(&["", "drain = true\n"]),
                self.one(&["", "on_removed = \"drain\"\n", "on_removed = \"close\"\n"]),
                self.one(&[
                    "",
                    "allow = [\"10.0.0.0/8\"]\n",
                    "set_headers = { a = \"$host\" }\n",
                    "handshake = \"lenient\"\n",
                ]),
            ];
            let is_there = self.among(2) > 0;
            // With both it would be two routes for anything, of which the second does not count.
            if is_there && (!rule.is_empty() || upstream.is_empty()) {
                routes += &format!("[[listener.route]]\n{rule}\n{}", keys.concat());
            }
        }
        if is_tcp {
            routes.clear();
            text += "protocol = \"tcp\"\n";
        }
        match (upstream, is_tcp || routes.is_empty()) {
            ("", false) => {}
            ("", true) => text += "upstream = \"u\"\n",
            (name, _) => text += &format!("upstream = \"{name}\"\n"),
        }
        text + timeouts + &routes
    }

    fn upstream(&mut self, name: &str) -> String {
        let mut servers = vec!["\"10.0.0.1:1\"".to_owned()];
        for address in ["10.0.0.2:1", "unix:/b", self.one(&["192.0.2.1:80", "one.test:80"])] {
            let more =
                self.one(&["", ", weight = 2", ", max_conns = 2", ", backup = true", ", drain = true"]);
            if self.among(2) > 0 {
                servers.push(format!("{{ address = \"{address}\"{more} }}"));
            }
        }
        let keys = [
            self.one(&["", "balance = \"least_conn\"\n", "balance = \"random_two\"\n"]),
            self.one(&["", "on_removed = \"drain\"\n", "on_removed = \"close\"\n"]),
            self.one(&["", "max_fails = 0\n", "fail_timeout = \"1s\"\n", "proxy_protocol = \"v1\"\n"]),
            self.one(&["", "rebalance = {}\n", "rebalance = { within = \"5%\" }\n"]),
        ];
        format!("[upstream.{name}]\nservers = [{}]\n{}", servers.join(", "), keys.concat())
    }
}

#[test]
fn what_comes_one_way_goes_the_other() {
    let (mut same, mut different) = (0, 0);
    for seed in 0..600 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut choices: Vec<u8> = (0..CHOICES).map(|_| dice.u8(..)).collect();
        let file = |choices: &[u8]| plan(&Choices { choices, next: 0 }.file());
        let old = file(&choices);
        for _ in 0..dice.usize(0..8) {
            choices[dice.usize(..CHOICES)] = dice.u8(..);
        }
        let new = file(&choices);

        assert!(Changes::between(&old, &old).is_empty(), "seed {seed}");
        let (forth, back) = (Changes::between(&old, &new), Changes::between(&new, &old));
        assert_eq!(forth.is_empty(), old == new, "seed {seed}: nothing is left out\n{forth}");
        let things = |changes: &Changes, kind| {
            let of_kind = changes.changes.iter().filter(|change| change.change == kind);
            let mut things: Vec<Thing> = of_kind.map(|change| change.thing.clone()).collect();
            things.sort();
            things
        };
        assert_eq!(things(&forth, Kind::Added), things(&back, Kind::Removed), "seed {seed}");
        assert_eq!(things(&forth, Kind::Removed), things(&back, Kind::Added), "seed {seed}");
        assert_eq!(forth.count(Kind::Changed), back.count(Kind::Changed), "seed {seed}");
        let json: serde_json::Value = serde_json::from_str(&forth.to_json()).expect("JSON");
        assert_eq!(json["changes"].as_array().map(Vec::len), Some(forth.changes.len()), "seed {seed}");
        if old == new { same += 1 } else { different += 1 }
    }
    assert!(same > 20 && different > 200, "both are tried: {same}, {different}");
}
