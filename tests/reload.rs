//! One configuration after another: what stays, what goes, what tunnels notice of it, and that nobody is turned away.

mod common;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use adit::ReloadError;
use common::process::Process;
use common::{Backend, Client, Running, WAIT, dead_address, echoes, open_tunnel, start};

/// A listener in front of an upstream `u` of these servers, with keys for the listener and text behind it all.
fn config(servers: &[&str], listener: &str, more: &str) -> String {
    format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n{listener}\n\
         [upstream.u]\nservers = {servers:?}\n{more}\n"
    )
}

fn plain(backend: &Backend) -> String {
    config(&[&backend.address()], "", "")
}

#[track_caller]
fn expect_closed(client: &mut Client, server: &mut Client, proxy: &Running, outcome: &str) {
    client.expect_end();
    server.expect_end();
    let line = proxy.closed_line();
    assert!(line.ends_with(&format!(" outcome={outcome} ended_by=adit")), "{line}");
}

/// Asks for a tunnel there and gives back the status.
fn status(address: SocketAddr, path: &str) -> String {
    let mut client = Client::connect(address);
    client.ask(path);
    client.head().split(' ').nth(1).expect("a status").to_owned()
}

#[test]
fn what_is_new_is_by_the_new_configuration_and_what_is_open_keeps_its_own() {
    let (old, new) = (Backend::new(), Backend::new());
    let mut proxy = start(&config(&[&old.address()], "", "[timeouts]\nidle = \"off\""));
    let (mut client, mut server) = open_tunnel(&proxy, &old);
    let reloaded = proxy.reload(&config(&[&new.address()], "", "[timeouts]\nidle = \"300ms\""));
    assert!(reloaded.is_changed);
    assert_eq!((reloaded.listeners_opened, reloaded.listeners_closed), (0, 0));
    let (mut late, mut late_server) = open_tunnel(&proxy, &new);
    expect_closed(&mut late, &mut late_server, &proxy, "idle");
    echoes(&mut client, &mut server);
    drop(client);
    server.expect_end();
    drop(server);
    let line = proxy.closed_line();
    assert!(line.contains(&format!(" upstream=u server={} ", old.address())), "{line}");
}

#[test]
fn a_session_that_is_opening_goes_on_with_what_it_began_with() {
    let (old, new) = (Backend::new(), Backend::new());
    let mut proxy = start(&plain(&old));
    let mut client = proxy.client();
    client.ask("/");
    let mut server = old.accept();
    proxy.reload(&plain(&new));
    server.agree();
    client.head();
    echoes(&mut client, &mut server);
    // Not yet begun to speak, but let in before.
    let mut early = proxy.client();
    proxy.await_stats(|stats| stats.open == 2);
    proxy.reload(&plain(&old));
    early.ask("/");
    new.accept().agree();
    early.head();
}

#[test]
fn listeners_are_opened_kept_and_closed_and_their_tunnels_go_on() {
    let backend = Backend::new();
    let second = "[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"";
    let mut proxy = start(&plain(&backend));
    let kept = proxy.address();
    let reloaded = proxy.reload(&config(&[&backend.address()], "", second));
    assert_eq!((reloaded.listeners_opened, reloaded.listeners_closed), (1, 0));
    assert_eq!(proxy.address(), kept);
    let opened = proxy.address_of(1);
    let mut client = Client::connect(opened);
    let mut server = backend.accept();
    echoes(&mut client, &mut server);
    let reloaded = proxy.reload(&plain(&backend));
    assert_eq!((reloaded.listeners_opened, reloaded.listeners_closed), (0, 1));
    assert!(TcpStream::connect(opened).is_err(), "nobody listens there any more");
    echoes(&mut client, &mut server);
    drop(client);
    server.expect_end();
    drop(server);
    let line = proxy.closed_line();
    assert!(line.contains(&format!(" listener={opened} ")), "its name is the one it had: {line}");
    open_tunnel(&proxy, &backend);
}

/// Clients in the backlog have been let in by the kernel: they are served, and not reset.
#[test]
fn who_waits_at_a_listener_that_is_closed_is_served() {
    let backend = Backend::new();
    let limits = "[limits]\nmax_connections = 1\n";
    let two =
        format!("[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n{limits}");
    let mut proxy = start(&config(&[&backend.address()], "", &two));
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    let mut waiting: Vec<Client> = (0..3).map(|_| Client::connect(proxy.address_of(1))).collect();
    proxy.reload(&config(&[&backend.address()], "", limits));
    for client in &mut waiting {
        echoes(client, &mut backend.accept());
    }
    echoes(&mut client, &mut server);
    // They were counted like all others, and the limit holds again when they have gone.
    drop((client, server, waiting));
    proxy.await_empty();
    let tunnel = open_tunnel(&proxy, &backend);
    let mut waits = proxy.client();
    waits.ask("/");
    assert!(!backend.has_client());
    drop(tunnel);
    backend.accept().agree();
    waits.head();
}

/// Whether the kernel has a keepalive timer for the connection of this client's, at the proxy's end (proc(5): the timer
/// is the sixth field of /proc/net/tcp, 02 for this one).
fn is_kept_alive(proxy: SocketAddr, client: SocketAddr) -> bool {
    let hex = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else { panic!("IPv4") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    };
    let (near, far) = (hex(proxy), hex(client));
    let until = std::time::Instant::now() + WAIT;
    loop {
        let table = fs::read_to_string("/proc/self/net/tcp").expect("Linux");
        let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|fields| fields[1] == near && fields[2] == far).expect("it is connected");
        // While bytes are not acknowledged the timer is another one.
        if !row[5].starts_with("01:") {
            return row[5].starts_with("02:");
        }
        assert!(std::time::Instant::now() < until, "bytes are never acknowledged");
    }
}

#[test]
fn socket_options_are_exchanged_for_clients_that_come_from_then_on() {
    let backend = Backend::new();
    let with = |keepalive: &str| {
        config(&[&backend.address()], "protocol = \"tcp\"", &format!("[tcp]\nkeepalive = \"{keepalive}\""))
    };
    let mut proxy = start(&with("off"));
    for (keepalive, is_on) in [("off", false), ("1h", true), ("off", false)] {
        proxy.reload(&with(keepalive));
        let mut client = proxy.client();
        echoes(&mut client, &mut backend.accept());
        assert_eq!(is_kept_alive(proxy.address(), client.local_addr()), is_on, "{keepalive}");
    }
}

/// The order of listeners in the file means nothing, before a reload and after.
#[test]
fn listeners_may_change_places() {
    let (a, b) = (Backend::new(), Backend::new());
    let listener = |ip: &str, upstream: &str| {
        format!("[[listener]]\nlisten = \"{ip}:0\"\nprotocol = \"tcp\"\nupstream = \"{upstream}\"\n")
    };
    let upstreams = format!(
        "[upstream.a]\nservers = [\"{}\"]\n[upstream.b]\nservers = [\"{}\"]\n",
        a.address(),
        b.address()
    );
    let of_a = listener("127.0.0.1", "a");
    let of_b = listener("127.0.0.2", "b");
    let mut proxy = start(&format!("{of_a}{of_b}{upstreams}"));
    let [at_a, at_b] = [0, 1].map(|index| proxy.address_of(index));
    proxy.reload(&format!("{of_b}{of_a}{upstreams}"));
    assert_eq!([proxy.address_of(1), proxy.address_of(0)], [at_a, at_b]);
    for (address, backend) in [(at_a, &a), (at_b, &b)] {
        echoes(&mut Client::connect(address), &mut backend.accept());
        assert!(proxy.log_line().contains(&format!(" listener={address} ")));
        proxy.closed_line();
    }
}

#[test]
fn a_reload_that_cannot_be_is_refused_and_changes_nothing() {
    let (backend, taken) = (Backend::new(), Backend::new());
    let proxy = start(&plain(&backend));
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    let more = format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
         [[listener]]\nlisten = \"{}\"\nupstream = \"u\"",
        taken.address()
    );
    let error = proxy.try_reload(&config(&[&dead_address()], "", &more)).expect_err("the address is taken");
    assert!(matches!(error, ReloadError::Start(_)), "{error}");
    assert!(error.to_string().starts_with(&format!("cannot listen on {}: ", taken.address())), "{error}");
    echoes(&mut client, &mut server);
    open_tunnel(&proxy, &backend);
}

/// Workers let each other listen on one port, and so would anybody who asks for it.
#[test]
fn an_address_of_another_proxys_is_not_taken() {
    let backend = Backend::new();
    let other = common::start_workers(&format!("workers = 2\n{}", plain(&backend)));
    let proxy = start(&plain(&backend));
    // The listener that goes is not in its way.
    let there = plain(&backend).replace("127.0.0.1:0", &other.address().to_string());
    let error = proxy.try_reload(&there).expect_err("the address is taken");
    assert!(error.to_string().starts_with(&format!("cannot listen on {}: ", other.address())), "{error}");
    open_tunnel(&proxy, &backend);
}

#[test]
fn the_same_again_is_no_change() {
    let backend = Backend::new();
    let mut proxy = start(&plain(&backend));
    let reloaded = proxy.reload(&plain(&backend));
    assert!(!reloaded.is_changed);
    assert_eq!(reloaded.local_addrs, proxy.addresses);
    open_tunnel(&proxy, &backend);
}

#[test]
fn a_proxy_that_stops_is_not_reloaded() {
    let backend = Backend::new();
    let proxy = start(&plain(&backend));
    let _tunnel = open_tunnel(&proxy, &backend);
    proxy.handle.drain();
    let error = proxy.try_reload(&config(&[&dead_address()], "", "")).expect_err("it stops");
    assert!(matches!(error, ReloadError::Stopping), "{error}");
    proxy.handle.stop();
    proxy.handle.reload(common::plan(&plain(&backend))).recv_timeout(WAIT).map(drop).unwrap_or_default();
}

/// `0.0.0.0` becomes `127.0.0.1` on the same port, though the one is in the other's way, and back.
#[test]
fn an_address_may_take_the_place_of_one_that_overlaps_it() {
    let backend = Backend::new();
    let port = dead_address().rsplit_once(':').expect("a port").1.to_owned();
    let at = |ip: &str| {
        let text = plain(&backend);
        text.replace("127.0.0.1:0", &format!("{ip}:{port}"))
    };
    let mut proxy = start(&at("0.0.0.0"));
    let address: SocketAddr = format!("127.0.0.1:{port}").parse().expect("an address");
    for ip in ["127.0.0.1", "0.0.0.0"] {
        let reloaded = proxy.reload(&at(ip));
        assert_eq!((reloaded.listeners_opened, reloaded.listeners_closed), (1, 1));
        let mut client = Client::connect(address);
        client.ask("/");
        let mut server = backend.accept();
        server.agree();
        client.head();
        echoes(&mut client, &mut server);
    }
}

#[test]
fn a_unix_socket_that_stays_keeps_its_file_and_one_that_goes_takes_it_along() {
    let backend = Backend::new();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("adit.sock");
    let unix =
        format!("[[listener]]\nlisten = \"unix:{}\"\nprotocol = \"tcp\"\nupstream = \"u\"", path.display());
    let mut proxy = start(&config(&[&backend.address()], "", &unix));
    proxy.reload(&config(&[&backend.address()], "", &format!("{unix}\n[limits]\nmax_headers = 9")));
    let stream = std::os::unix::net::UnixStream::connect(&path).expect("connected");
    echoes(&mut Client::of_unix(stream), &mut backend.accept());
    proxy.reload(&plain(&backend));
    assert!(!path.exists());
    proxy.reload(&config(&[&backend.address()], "", &unix));
    assert!(path.exists());
}

// What becomes of tunnels whose route or server is gone.

/// Routes to the same upstream, told apart by their paths.
fn routes(backend: &Backend, paths: &[(&str, &str)], more: &str) -> String {
    let route = |(path, keys): &(&str, &str)| {
        format!("[[listener.route]]\npath = \"{path}\"\nupstream = \"u\"\n{keys}\n")
    };
    let routes: String = paths.iter().map(route).collect();
    format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\n{routes}\n[upstream.u]\nservers = [\"{}\"]\n{more}\n",
        backend.address()
    )
}

fn open(proxy: &Running, backend: &Backend, path: &str) -> (Client, Client) {
    let mut client = proxy.client();
    client.ask(path);
    let mut server = backend.accept();
    server.agree();
    client.head();
    (client, server)
}

#[test]
fn a_route_says_what_becomes_of_its_tunnels_when_it_is_removed() {
    let backend = Backend::new();
    let drain = "[timeouts]\ndrain = \"300ms\"";
    let paths = [
        ("/stay", "on_removed = \"close\""),
        ("/keep", "on_removed = \"keep\""),
        ("/drain", "on_removed = \"drain\""),
        ("/close", "on_removed = \"close\""),
    ];
    let mut proxy = start(&routes(&backend, &paths, drain));
    let mut tunnels = paths.map(|(path, _)| open(&proxy, &backend, path));
    proxy.reload(&routes(&backend, &paths[..1], drain));
    let [stay, keep, drain, close] = &mut tunnels;
    expect_closed(&mut close.0, &mut close.1, &proxy, "removed");
    expect_closed(&mut drain.0, &mut drain.1, &proxy, "removed");
    echoes(&mut stay.0, &mut stay.1);
    echoes(&mut keep.0, &mut keep.1);
    assert_eq!(status(proxy.address(), "/keep"), "404");
}

/// The usual way: first the file says "drain", which changes nothing yet; then the route goes.
#[test]
fn what_a_later_file_says_of_a_route_that_stays_holds_for_its_tunnels() {
    let backend = Backend::new();
    let mut proxy = start(&routes(&backend, &[("/a", ""), ("/b", "")], ""));
    let (mut client, mut server) = open(&proxy, &backend, "/b");
    proxy.reload(&routes(&backend, &[("/a", ""), ("/b", "on_removed = \"close\"")], ""));
    echoes(&mut client, &mut server);
    proxy.reload(&routes(&backend, &[("/a", "")], ""));
    expect_closed(&mut client, &mut server, &proxy, "removed");
}

#[test]
fn an_upstream_says_what_becomes_of_tunnels_to_servers_that_are_removed() {
    let (gone, stays) = (Backend::new(), Backend::new());
    let both = [gone.address(), stays.address()];
    for (on_removed, is_closed) in [("keep", false), ("close", true)] {
        let mut proxy = start(&config(&[&both[0], &both[1]], "", ""));
        let (mut client, mut server) = open_tunnel(&proxy, &gone);
        let (mut other, mut other_server) = open_tunnel(&proxy, &stays);
        // It is the new file that knows what to do.
        proxy.reload(&config(&[&both[1]], "", &format!("on_removed = \"{on_removed}\"")));
        if is_closed {
            expect_closed(&mut client, &mut server, &proxy, "removed");
        } else {
            echoes(&mut client, &mut server);
        }
        echoes(&mut other, &mut other_server);
    }
}

#[test]
fn a_listener_says_what_becomes_of_tunnels_of_its_own_upstream() {
    let backend = Backend::new();
    let listener = |keys: &str| {
        format!("[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n{keys}")
    };
    let servers = [backend.address()];
    let mut proxy = start(&config(&[&servers[0]], "", &listener("on_removed = \"close\"")));
    let mut client = Client::connect(proxy.address_of(1));
    let mut server = backend.accept();
    echoes(&mut client, &mut server);
    proxy.reload(&plain(&backend));
    expect_closed(&mut client, &mut server, &proxy, "removed");
}

// drain = true.

#[test]
fn a_server_that_drains_gets_nothing_new_and_its_tunnels_are_closed_at_the_deadline() {
    let (drained, other) = (Backend::new(), Backend::new());
    let servers = |drain: bool| {
        format!(
            "[timeouts]\ndrain = \"500ms\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
             [upstream.u]\nservers = [{{ address = \"{}\", drain = {drain} }}, \"{}\"]\n",
            drained.address(),
            other.address()
        )
    };
    let mut proxy = start(&servers(false));
    let (mut client, mut server) = open_tunnel(&proxy, &drained);
    let (mut stays, mut stays_server) = open_tunnel(&proxy, &other);
    proxy.reload(&servers(true));
    for _ in 0..3 {
        open_tunnel(&proxy, &other);
    }
    echoes(&mut client, &mut server);
    let mut line = String::new();
    client.expect_end();
    server.expect_end();
    while !line.contains(" outcome=drain ") {
        line = proxy.closed_line();
    }
    echoes(&mut stays, &mut stays_server);
    assert!(!drained.has_client());
    proxy.reload(&servers(false));
    let mut clients: Vec<Client> = (0..2).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.ask("/"));
    drained.accept().agree();
}

#[test]
fn tunnels_that_were_to_go_may_stay_when_the_file_says_so_in_time() {
    let backend = Backend::new();
    let route = |keys: &str| routes(&backend, &[("/a", keys)], "[timeouts]\ndrain = \"1s\"");
    let mut proxy = start(&route(""));
    let (mut client, mut server) = open(&proxy, &backend, "/a");
    proxy.reload(&route("drain = true"));
    assert_eq!(status(proxy.address(), "/a"), "503");
    proxy.reload(&route(""));
    // A second drain has a deadline of its own; the first one's is over long before that.
    let (mut late, mut late_server) = open(&proxy, &backend, "/a");
    thread::sleep(Duration::from_millis(1200)); // nothing happens: that is what is awaited
    echoes(&mut client, &mut server);
    echoes(&mut late, &mut late_server);
}

/// Reloads that come more often than the deadline do not put it off.
#[test]
fn a_deadline_stays_though_reloads_follow_each_other() {
    let backend = Backend::new();
    let route = |max: usize| {
        let more = format!("[timeouts]\ndrain = \"600ms\"\n[limits]\nmax_headers = {max}");
        routes(&backend, &[("/a", "drain = true")], &more)
    };
    let mut proxy = start(&routes(&backend, &[("/a", "")], ""));
    let (mut client, mut server) = open(&proxy, &backend, "/a");
    let is_closed = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            client.expect_end();
            is_closed.store(true, Relaxed);
        });
        let mut rounds = 10..500;
        while let Some(max) = rounds.next().filter(|_| !is_closed.load(Relaxed)) {
            proxy.reload(&route(max));
            thread::sleep(Duration::from_millis(10)); // a file is not written more often
        }
        assert!(!rounds.is_empty(), "it was closed while reloads went on");
    });
    server.expect_end();
}

#[test]
fn a_listener_that_drains_is_not_listened_on() {
    let backend = Backend::new();
    let listener = |drain: bool| {
        let more = format!(
            "[timeouts]\ndrain = \"400ms\"\n\
             [[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\ndrain = {drain}"
        );
        config(&[&backend.address()], "", &more)
    };
    let mut proxy = start(&listener(false));
    let address = proxy.address_of(1);
    let mut client = Client::connect(address);
    let mut server = backend.accept();
    proxy.reload(&listener(true));
    assert_eq!(proxy.addresses.len(), 1);
    assert!(TcpStream::connect(address).is_err());
    echoes(&mut client, &mut server);
    expect_closed(&mut client, &mut server, &proxy, "drain");
    proxy.reload(&listener(false));
    let mut client = Client::connect(proxy.address_of(1));
    echoes(&mut client, &mut backend.accept());
}

/// A session that was opening when its route began to drain becomes a tunnel, and has to go like the others.
#[test]
fn a_tunnel_that_opens_when_its_route_drains_already_has_to_go_too() {
    let backend = Backend::new();
    let route = |keys: &str| routes(&backend, &[("/a", keys)], "[timeouts]\ndrain = \"300ms\"");
    let mut proxy = start(&route(""));
    let mut client = proxy.client();
    client.ask("/a");
    let mut server = backend.accept();
    proxy.reload(&route("drain = true"));
    server.agree();
    client.head();
    expect_closed(&mut client, &mut server, &proxy, "drain");
}

// What is known of servers.

#[test]
fn a_server_that_was_out_is_out_after_a_reload() {
    let (dead, backend) = (dead_address(), Backend::new());
    let health = "fail_timeout = \"1h\"";
    let mut proxy = start(&config(&[&dead, &backend.address()], "", health));
    open_tunnel(&proxy, &backend);
    // It comes back, but nobody is to know.
    let back = Backend::on(&dead);
    for max in 10..14 {
        let more = format!("{health}\n[limits]\nmax_headers = {max}");
        proxy.reload(&config(&[&dead, &backend.address()], "", &more));
        open_tunnel(&proxy, &backend);
    }
    assert!(!back.has_client());
}

#[test]
fn balancing_does_not_begin_from_zero() {
    let (full, empty) = (Backend::new(), Backend::new());
    let mut proxy = start(&config(&[&full.address()], "", "balance = \"least_conn\""));
    let mut tunnels: Vec<_> = (0..3).map(|_| open_tunnel(&proxy, &full)).collect();
    let more = "balance = \"least_conn\"";
    proxy.reload(&config(&[&full.address(), &empty.address()], "", more));
    tunnels.extend((0..3).map(|_| open_tunnel(&proxy, &empty)));
    assert!(!full.has_client());
    // Its tunnels are counted down as well, whatever configuration they are of.
    tunnels.drain(..3);
    proxy.await_stats(|stats| stats.tunnels_open == 3);
    proxy.reload(&config(&[&full.address(), &empty.address()], "", &format!("{more}\nmax_fails = 9")));
    (0..3).for_each(|_| tunnels.push(open_tunnel(&proxy, &full)));
}

#[test]
fn max_conns_holds_over_reloads() {
    let backend = Backend::new();
    let config = |max_headers: usize| {
        format!(
            "[limits]\nmax_headers = {max_headers}\n[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
             [upstream.u]\nservers = [{{ address = \"{}\", max_conns = 1 }}]\n",
            backend.address()
        )
    };
    let mut proxy = start(&config(10));
    let tunnel = open_tunnel(&proxy, &backend);
    proxy.reload(&config(11));
    assert_eq!(status(proxy.address(), "/"), "503");
    drop(tunnel);
    proxy.await_stats(|stats| stats.tunnels_open == 0);
    open_tunnel(&proxy, &backend);
}

#[test]
fn a_limit_per_address_may_come_and_go() {
    let backend = Backend::new();
    let limit =
        |max: usize| config(&[&backend.address()], "", &format!("[limits]\nmax_connections_per_ip = {max}"));
    let mut proxy = start(&limit(0));
    let uncounted = open_tunnel(&proxy, &backend);
    proxy.reload(&limit(1));
    let counted = open_tunnel(&proxy, &backend);
    assert_eq!(status(proxy.address(), "/"), "429");
    drop((uncounted, counted));
    proxy.await_empty();
    proxy.reload(&limit(0));
    open_tunnel(&proxy, &backend);
}

// Under way.

/// A client that comes every few milliseconds is served every time, however often the configuration changes.
#[test]
fn nobody_is_turned_away_while_configurations_change() {
    let backend = Backend::new();
    let (spare, spare_address) = (Backend::new(), dead_address());
    let of = |round: usize| {
        let more = format!(
            "[limits]\nmax_headers = {}\n[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"spare\"\n\
             [[listener.route]]\npath = \"/{round}\"\nupstream = \"u\"\n\
             [upstream.spare]\nservers = [\"{}\", \"{spare_address}\"]",
            10 + round,
            spare.address()
        );
        // A listener comes and goes beside the one that stays.
        if round % 2 == 0 { config(&[&backend.address()], "", &more) } else { plain(&backend) }
    };
    let mut proxy = start(&plain(&backend));
    let address = proxy.address();
    let (is_over, is_served) = (AtomicBool::new(false), AtomicBool::new(false));
    let served = thread::scope(|scope| {
        let serving = scope.spawn(|| {
            while !is_served.load(Relaxed) {
                if let Some(mut client) = backend.try_accept() {
                    client.agree();
                    client.expect_end();
                } else {
                    thread::yield_now();
                }
            }
        });
        let asking = scope.spawn(|| {
            let mut served = 0;
            while !is_over.load(Relaxed) {
                assert_eq!(status(address, "/"), "101");
                served += 1;
                thread::sleep(Duration::from_millis(5)); // the pace of the client
            }
            served
        });
        for round in 0..100 {
            proxy.reload(&of(round));
            thread::sleep(Duration::from_millis(5)); // the pace of the operator
        }
        is_over.store(true, Relaxed);
        let served = asking.join();
        is_served.store(true, Relaxed);
        let served: usize = served.expect("every client was served");
        serving.join().expect("no panic");
        served
    });
    assert!(served > 20, "{served} clients came");
}

// Addresses.

/// A port that nobody listens on.
fn free_port() -> u16 {
    dead_address().rsplit_once(':').expect("a port").1.parse().expect("a number")
}

fn listening(address: &str, keys: &str) -> String {
    format!("[[listener]]\nlisten = \"{address}\"\nupstream = \"u\"\n{keys}\n")
}

#[test]
fn a_listener_that_drains_is_in_no_other_ones_way() {
    let backend = Backend::new();
    let port = free_port();
    let upstream = format!("[upstream.u]\nservers = [\"{}\"]\n", backend.address());
    let wide = |keys: &str| listening(&format!("0.0.0.0:{port}"), keys);
    let narrow = listening(&format!("127.0.0.1:{port}"), "");
    let mut proxy = start(&format!("{}{upstream}", wide("")));
    proxy.reload(&format!("{}{narrow}{upstream}", wide("drain = true")));
    open_tunnel(&proxy, &backend);
}

// The command.

/// The configuration of a process, written as editors do: all at once.
fn rewrite(process: &Process, config: &str) {
    let path = process.directory.path();
    let mut file = tempfile::NamedTempFile::new_in(path).expect("a file");
    file.write_all(config.as_bytes()).expect("written");
    file.persist(process.file("config.toml")).expect("renamed");
}

#[test]
fn a_hangup_reloads_the_file() {
    let (old, new) = (Backend::new(), Backend::new());
    let process = Process::start(&plain(&old));
    let mut client = process.client();
    client.ask("/");
    let mut server = old.accept();
    server.agree();
    client.head();
    rewrite(&process, &plain(&new));
    process.signal("HUP");
    process.stderr_line("reloaded ");
    echoes(&mut client, &mut server);
    let mut late = process.client();
    late.ask("/");
    new.accept().agree();
    late.head();
}

#[test]
fn a_wrong_file_is_said_as_a_check_would_and_changes_nothing() {
    let backend = Backend::new();
    let process = Process::start(&plain(&backend));
    rewrite(&process, &plain(&backend).replace("upstream = ", "upsteam = "));
    process.signal("HUP");
    let line = process.stderr_line("reload refused, the running configuration goes on: ");
    let said = format!("{}:3:1: listener[0].upsteam: there is no key", process.file("config.toml").display());
    assert!(line.contains(&said), "{line}");
    fs::remove_file(process.file("config.toml")).expect("removed");
    process.signal("HUP");
    let line = process.stderr_line("reload refused, the running configuration goes on: ");
    assert!(line.contains("cannot be read"), "{line}");
    let mut client = process.client();
    client.ask("/");
    backend.accept().agree();
    client.head();
}

/// All of the log changes from one line to the next: where it goes, how it is written, what is worth a line.
#[test]
fn logs_are_exchanged_too() {
    let backend = Backend::new();
    let process = Process::start(&plain(&backend));
    let session = |process: &Process| {
        let mut client = process.client();
        client.ask("/");
        let mut server = backend.accept();
        server.agree();
        client.head();
        drop(client);
        server.expect_end();
    };
    session(&process);
    process.stderr_line("event=close");
    let file = process.directory.path().join("access.log");
    let log = format!("[log]\naccess = {file:?}\nformat = \"json\"\nlevel = \"warn\"\n");
    rewrite(&process, &format!("{log}{}", plain(&backend)));
    process.signal("HUP");
    let until = std::time::Instant::now() + WAIT;
    while !file.exists() {
        assert!(std::time::Instant::now() < until, "the file is not there");
        thread::yield_now();
    }
    // What is said of the reload itself is less than a warning now; a session that is by the new one shows it is done.
    let read = || fs::read_to_string(&file).expect("read");
    while !read().contains("\"event\":\"close\"") {
        assert!(std::time::Instant::now() < until, "no line in the new file: {}", read());
        session(&process);
    }
    assert!(read().lines().all(|line| line.starts_with("{\"time\":")), "{}", read());
    rewrite(&process, &format!("[log]\naccess = \"/nowhere/access.log\"\n{}", plain(&backend)));
    // One reload is done with when the next has an answer.
    process.signal("HUP");
    process.stderr_line("reload refused");
    process.signal("HUP");
    let lines = process.stderr_lines("reload refused");
    assert_eq!(lines.len(), 1, "warnings and errors only: {lines:?}");
    assert!(lines[0].contains("the access log /nowhere/access.log: "), "{lines:?}");
    // It is the new file that is opened again.
    fs::rename(&file, process.file("access.log.1")).expect("renamed");
    process.signal("USR1");
    while !file.exists() {
        assert!(std::time::Instant::now() < until, "the file was not opened again");
        thread::yield_now();
    }
    // And back.
    rewrite(&process, &plain(&backend));
    process.signal("HUP");
    process.stderr_line("reloaded ");
    session(&process);
    process.stderr_line("event=close");
}

/// `RUST_LOG` wins over the file, over the next one too.
#[test]
fn the_environment_says_what_is_logged_whatever_a_reload_says() {
    let backend = Backend::new();
    let process = Process::start_logging(&plain(&backend), "info");
    rewrite(&process, &format!("[log]\nlevel = \"error\"\n{}", plain(&backend)));
    process.signal("HUP");
    process.stderr_line("reloaded ");
    process.signal("HUP");
    process.stderr_line("reloaded ");
}

#[test]
fn another_number_of_workers_is_for_the_next_start() {
    let backend = Backend::new();
    let process = Process::start(&plain(&backend));
    rewrite(&process, &format!("workers = 2\n{}", plain(&backend)));
    process.signal("HUP");
    process.stderr_line("workers: another number takes effect at the next start");
    process.stderr_line("reloaded ");
}

/// What an operator would try first: a thousand tunnels, and reload upon reload. Each has other routes and servers than
/// the one before, and what it was made of is freed again.
#[test]
fn two_hundred_reloads_leave_a_thousand_tunnels_alone_and_no_memory_behind() {
    const TUNNELS: usize = 1000;
    adit::raise_descriptor_limit().expect("a limit");
    let backend = Backend::new();
    let of = |round: usize| {
        let route = |path: usize| {
            format!(
                "[[listener.route]]\npath = \"/{round}/{path}\"\nupstream = \"u\"\non_removed = \"close\"\n"
            )
        };
        let spare = dead_address();
        let routes: String = (0..50).map(route).collect();
        let servers = [backend.address(), spare];
        config(&[&servers[0], &servers[1]], &routes, "max_fails = 1\nfail_timeout = \"1h\"")
    };
    let log = |text: String| format!("[log]\naccess = \"off\"\n{text}");
    let process = Process::start(&log(plain(&backend)));
    let open = |_| {
        let mut client = process.client();
        client.ask("/");
        let mut server = backend.accept();
        server.agree();
        client.head();
        (client, server)
    };
    let mut tunnels: Vec<(Client, Client)> = (0..TUNNELS).map(open).collect();
    let mut after_ten = 0;
    for round in 1..=200 {
        rewrite(&process, &log(of(round)));
        process.signal("HUP");
        process.stderr_line("reloaded ");
        // A few echo all the while, and in the end all of them have.
        for at in (0..5).map(|place| (5 * round + place) % TUNNELS) {
            let (client, server) = &mut tunnels[at];
            echoes(client, server);
        }
        if round == 10 {
            after_ten = process.resident_kib();
        }
    }
    let at_the_end = process.resident_kib();
    assert!(at_the_end <= after_ten + after_ten / 20, "{after_ten} KiB have become {at_the_end}");
    for (client, server) in &mut tunnels {
        echoes(client, server);
    }
}
