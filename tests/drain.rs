//! The ways to stop: when nobody needs it any more, when the time is over, at once. And the loop of a host's own.

mod common;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use adit::{Address, Config, Proxy, Status};
use common::{Backend, Client, Running, WAIT, open_tunnel, start, start_http};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// Waits until nobody is let in any more.
fn await_refusal(address: SocketAddr) {
    let until = Instant::now() + WAIT;
    loop {
        match TcpStream::connect(address) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return,
            // One that still got into the backlog is reset when the listener closes, and so is one on its way.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            Ok(_) => thread::yield_now(),
        }
        assert!(Instant::now() < until, "the listener is still open");
    }
}

#[track_caller]
fn expect_close(proxy: &Running, ending: &str) {
    // Those whom `await_refusal` sent to look may have been let in just before.
    let line = (0..).map(|_| proxy.closed_line()).find(|line| !line.contains(" outcome=gone "));
    let line = line.expect("a line");
    assert!(line.ends_with(ending), "{line}");
}

#[test]
fn a_drain_lets_nobody_in_and_a_tunnel_go_on_until_it_ends() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\ndrain = \"off\"\n");
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    proxy.handle.drain();
    await_refusal(proxy.address());
    client.send("still here");
    server.expect("still here");
    drop(client);
    server.expect_end();
    drop(server);
    expect_close(&proxy, " outcome=finished ended_by=client");
    proxy.join();
}

#[test]
fn a_drain_with_nothing_open_ends_at_once() {
    let proxy = start_http(&common::dead_address(), "[timeouts]\ndrain = \"off\"\n");
    proxy.handle.drain();
    proxy.join();
}

#[test]
fn a_tunnel_that_does_not_end_is_closed_when_the_time_for_it_is_over() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\ndrain = \"1s\"\n");
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    proxy.handle.drain();
    await_refusal(proxy.address());
    client.send("still here");
    server.expect("still here");
    client.expect_end();
    server.expect_end();
    expect_close(&proxy, " outcome=drain ended_by=adit");
    proxy.join();
}

#[test]
fn a_plain_request_is_answered_during_a_drain() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\ndrain = \"off\"\n");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    proxy.handle.drain();
    await_refusal(proxy.address());
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer");
    assert!(client.head().starts_with("HTTP/1.1 200 OK\r\n"));
    client.expect("answer");
    client.expect_end();
    drop(client);
    expect_close(&proxy, " outcome=finished ended_by=server");
    proxy.join();
}

#[test]
fn a_handshake_that_has_begun_may_finish_during_a_drain() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\ndrain = \"off\"\n");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\n");
    proxy.await_stats(|stats| stats.open == 1);
    proxy.handle.drain();
    await_refusal(proxy.address());
    client.send(common::upgrade_request("/").trim_start_matches("GET / HTTP/1.1\r\n"));
    let mut server = backend.accept();
    server.agree();
    client.head();
    server.send("welcome");
    client.expect("welcome");
    drop((client, server));
    proxy.join();
}

#[test]
fn a_second_drain_changes_nothing() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\ndrain = \"off\"\n");
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    for _ in 0..3 {
        proxy.handle.drain();
    }
    await_refusal(proxy.address());
    client.send("still here");
    server.expect("still here");
    drop((client, server));
    let handle = proxy.handle.clone();
    proxy.join();
    handle.drain(); // of one that is no more
    handle.stop();
}

#[test]
fn a_stop_closes_everything_at_once() {
    let backend = Backend::new();
    for drained_before in [false, true] {
        let proxy = start_http(&backend.address(), "[timeouts]\ndrain = \"off\"\n");
        let (mut client, mut server) = open_tunnel(&proxy, &backend);
        let mut early = proxy.client();
        early.send("GET ");
        proxy.await_stats(|stats| stats.open == 2);
        if drained_before {
            proxy.handle.drain();
            await_refusal(proxy.address());
        }
        proxy.handle.stop();
        client.expect_end();
        server.expect_end();
        assert!(early.rest().unwrap_or_default().is_empty());
        expect_close(&proxy, " outcome=drain ended_by=adit");
        expect_close(&proxy, " outcome=drain ended_by=adit");
        let handle = proxy.handle.clone();
        proxy.join();
        assert_eq!(handle.stats().open, 0);
    }
}

#[test]
fn a_unix_sockets_file_goes_with_its_listener_while_its_tunnels_go_on() {
    let backend = Backend::new();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let proxy = start(&format!(
        "[timeouts]\ndrain = \"off\"\n[[listener]]\nlisten = \"unix:{}\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = [\"{}\"]\n",
        path.display(),
        backend.address()
    ));
    let mut client = UnixStream::connect(&path).expect("connected");
    let mut server = backend.accept();
    proxy.handle.drain();
    let until = Instant::now() + WAIT;
    while path.exists() {
        assert!(Instant::now() < until, "the socket's file is still there");
        thread::yield_now();
    }
    io::Write::write_all(&mut client, b"still here").expect("written");
    server.expect("still here");
    drop((client, server));
    proxy.join();
}

/// A proxy that this test turns itself.
fn bind(server: &str, more: &str) -> (Proxy, SocketAddr) {
    let config = format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n[upstream.u]\nservers = [\"{server}\"]\n{more}"
    );
    let plan = Config::from_toml(&config).expect("toml").check().expect("a plan");
    let proxy = Proxy::bind(plan).expect("bound");
    match &proxy.local_addrs()[..] {
        [Address::Tcp(address)] => (proxy, *address),
        other => panic!("{other:?} is no TCP address"),
    }
}

#[test]
fn turns_serve_as_run_does_and_tell_when_the_next_is_wanted() {
    let backend = Backend::new();
    let (mut proxy, address) = bind(&backend.address(), "[timeouts]\nhandshake = \"1h\"\n");
    assert_eq!(proxy.next_turn(), None, "with nobody there it waits for its descriptor alone");
    assert_eq!(proxy.turn(Some(Duration::ZERO)).expect("a turn"), Status::Running);

    let mut client = Client::connect(address);
    while proxy.handle().stats().open == 0 {
        assert_eq!(proxy.turn(Some(WAIT)).expect("a turn"), Status::Running);
    }
    let wanted = proxy.next_turn().expect("the handshake's deadline");
    assert!(wanted > Instant::now() + Duration::from_secs(1800), "not before that");

    let peers = thread::spawn(move || {
        client.ask("/");
        let mut server = backend.accept();
        server.agree();
        client.head();
        client.send("up");
        server.expect("up");
        drop((client, server));
    });
    while !peers.is_finished() {
        assert_eq!(proxy.turn(Some(Duration::from_millis(10))).expect("a turn"), Status::Running);
    }
    peers.join().expect("both are content");
    while proxy.handle().stats().open > 0 {
        assert_eq!(proxy.turn(Some(WAIT)).expect("a turn"), Status::Running);
    }

    proxy.handle().stop(); // between turns, from the same thread
    assert_eq!(proxy.turn(None).expect("a turn"), Status::Stopped);
    assert_eq!(proxy.local_addrs(), []);
    assert_eq!(
        proxy.turn(None).expect("no turn"),
        Status::Stopped,
        "with nothing to do it waits for nothing"
    );
}

#[test]
fn a_turn_with_nothing_to_do_returns_when_its_time_is_over() {
    let (mut proxy, _) = bind(&common::dead_address(), "");
    let begun = Instant::now();
    assert_eq!(proxy.turn(Some(Duration::from_millis(50))).expect("a turn"), Status::Running);
    assert!(begun.elapsed() >= Duration::from_millis(50));
}

/// The host waits, and the proxy never: for the descriptor, or until the instant that it names.
#[test]
fn a_host_that_watches_the_descriptor_and_the_time_needs_nothing_else() {
    let backend = Backend::new();
    let (mut proxy, address) = bind(&backend.address(), "[timeouts]\nidle = \"200ms\"\ndrain = \"200ms\"\n");
    let mut poll = Poll::new().expect("a poll");
    poll.registry()
        .register(&mut SourceFd(&proxy.as_raw_fd()), Token(0), Interest::READABLE)
        .expect("registered");
    let handle = proxy.handle();
    let peers = thread::spawn(move || {
        let open = || {
            let mut client = Client::connect(address);
            client.ask("/");
            let mut server = backend.accept();
            server.agree();
            client.head();
            (client, server)
        };
        let (mut client, mut server) = open();
        client.send("up");
        server.expect("up");
        client.expect_end(); // it was idle: no event but the time has told the proxy
        server.expect_end();
        let (mut client, _server) = open();
        handle.drain();
        client.expect_end(); // idle, or drained
    });
    let mut events = Events::with_capacity(1);
    loop {
        let until = Instant::now() + WAIT;
        let wanted = proxy.next_turn().map_or(until, |wanted| wanted.min(until));
        poll.poll(&mut events, Some(wanted.saturating_duration_since(Instant::now()))).expect("polled");
        assert!(Instant::now() < until, "neither an event nor the time has come");
        if proxy.turn(Some(Duration::ZERO)).expect("a turn") == Status::Stopped {
            break;
        }
    }
    peers.join().expect("both are content");
}

#[test]
fn a_delay_passes_though_nothing_happens_meanwhile() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[drain]\ndelay = \"100ms\"\n");
    proxy.handle.drain();
    proxy.join();
}
