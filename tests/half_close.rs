//! The end of one direction is no end of the other, and a reset is the end of both: on real sockets, at each step.

mod common;

use std::thread;

use common::{Backend, Client, Running, Unanswering, open_tunnel, start_http, start_tcp, upgrade_request};

/// Expects the last line of a session, by its last fields, and that nothing is left of it.
#[track_caller]
fn expect_close(proxy: &Running, ending: &str) -> String {
    let line = proxy.closed_line();
    assert!(line.ends_with(ending), "{line}");
    proxy.await_empty();
    line
}

/// A tunnel through a proxy of its own.
fn tunnel() -> (Running, Backend, Client, Client) {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let (client, server) = open_tunnel(&proxy, &backend);
    (proxy, backend, client, server)
}

/// `first` ends, `second` goes on and ends later; whatever they are.
fn check_order(mut first: Client, mut second: Client) {
    first.send("last words");
    first.finish();
    second.expect("last words");
    second.expect_end();
    for _ in 0..3 {
        second.send("and on");
        first.expect("and on");
    }
    second.finish();
    first.expect_end();
}

#[test]
fn the_client_ends_first_and_the_server_goes_on() {
    let (proxy, _backend, client, server) = tunnel();
    check_order(client, server);
    let line = expect_close(&proxy, " outcome=finished ended_by=client");
    assert!(line.contains(" bytes_up=10 bytes_down=18 "), "{line}");
}

#[test]
fn the_server_ends_first_and_the_client_goes_on() {
    let (proxy, _backend, client, server) = tunnel();
    check_order(server, client);
    let line = expect_close(&proxy, " outcome=finished ended_by=server");
    assert!(line.contains(" bytes_up=18 bytes_down=10 "), "{line}");
}

#[test]
fn both_end_at_once_with_bytes_in_flight_both_ways() {
    let (proxy, _backend, mut client, mut server) = tunnel();
    // More than one read's worth, less than what the kernel holds without anybody reading.
    let (up, down) = (vec![b'u'; 100_000], vec![b'd'; 90_000]);
    client.send(&up);
    server.send(&down);
    client.finish();
    server.finish();
    assert!(client.rest().expect("a clean end") == down);
    assert!(server.rest().expect("a clean end") == up);
    let line = proxy.closed_line();
    assert!(
        line.contains(" bytes_up=100000 bytes_down=90000 ") && line.contains(" outcome=finished "),
        "{line}"
    );
    proxy.await_empty();
}

#[test]
fn the_end_comes_behind_a_large_backlog() {
    let (proxy, _backend, client, mut server) = tunnel();
    let backlog: Vec<u8> = (0..32 << 20).map(|index: u32| (index % 251) as u8).collect();
    let sent = backlog.clone();
    let sender = thread::spawn(move || {
        let mut client = client;
        client.send(&sent);
        client.finish();
        client.expect("heard"); // the way back has been open all the time
        client.expect_end();
    });
    assert_eq!(server.bytes(1), [0], "the backlog builds up behind the first byte");
    assert!(server.rest().expect("a clean end") == backlog[1..]);
    server.send("heard");
    server.finish();
    sender.join().expect("the sender is content");
    expect_close(&proxy, " outcome=finished ended_by=client");
}

#[test]
fn a_half_close_right_behind_the_request_reaches_the_server_through_the_tunnel() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    client.send(upgrade_request("/") + "all I have to say");
    client.finish();
    let mut server = backend.accept();
    server.agree();
    server.expect("all I have to say");
    server.expect_end();
    server.send("heard");
    drop(server);
    client.head();
    client.expect("heard");
    client.expect_end();
    expect_close(&proxy, " outcome=finished ended_by=client");
}

#[test]
fn a_reset_before_the_request_ends_the_session() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    proxy.client().reset();
    expect_close(&proxy, " outcome=reset ended_by=client");
    assert!(!backend.has_client());
}

#[test]
fn a_reset_within_the_head_ends_the_session() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: exa");
    client.reset();
    expect_close(&proxy, " outcome=reset ended_by=client");
    assert!(!backend.has_client());
}

#[test]
fn a_reset_while_a_server_is_dialed_ends_the_session() {
    let nobody = Unanswering::new();
    for start in [start_http, start_tcp] {
        let proxy = start(&nobody.address(), "[timeouts]\nconnect = \"1h\"\n");
        let mut client = proxy.client();
        client.ask("/");
        proxy.await_stats(|stats| stats.open == 1);
        client.reset();
        expect_close(&proxy, " outcome=reset ended_by=client");
    }
}

#[test]
fn a_clients_reset_while_its_answer_is_awaited_ends_the_session_and_frees_the_server() {
    for request in [upgrade_request("/"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()] {
        let backend = Backend::new();
        let proxy = start_http(&backend.address(), "");
        let mut client = proxy.client();
        client.send(&request);
        let mut server = backend.accept();
        server.head();
        client.reset();
        expect_close(&proxy, " outcome=reset ended_by=client");
        server.expect_end();
    }
}

#[test]
fn a_servers_reset_in_place_of_an_answer_is_a_502() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    client.ask("/");
    let mut server = backend.accept();
    server.head();
    server.reset();
    assert!(client.head().starts_with("HTTP/1.1 502 "));
    drop(client);
    expect_close(&proxy, " outcome=\"no server could be reached\" ended_by=adit");
}

#[test]
fn a_servers_reset_within_its_answers_head_is_a_502() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    client.ask("/");
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 101 Switch");
    server.reset();
    assert!(client.head().starts_with("HTTP/1.1 502 "));
    drop(client);
    expect_close(&proxy, " outcome=\"the response head is not complete\" ended_by=adit");
}

#[test]
fn a_clients_reset_in_a_tunnel_becomes_a_reset_behind_what_it_had_sent() {
    let (proxy, _backend, mut client, mut server) = tunnel();
    client.send("last words");
    client.reset();
    server.expect("last words");
    server.expect_reset();
    let line = expect_close(&proxy, " outcome=reset ended_by=client");
    assert!(line.contains(" bytes_up=10 "), "{line}");
}

#[test]
fn a_servers_reset_in_a_tunnel_becomes_a_reset_behind_what_it_had_sent() {
    let (proxy, _backend, mut client, mut server) = tunnel();
    server.send("last words");
    server.reset();
    client.expect("last words");
    client.expect_reset();
    let line = expect_close(&proxy, " outcome=reset ended_by=server");
    assert!(line.contains(" bytes_down=10 "), "{line}");
}

#[test]
fn a_reset_of_a_silent_tunnel_becomes_a_reset() {
    let (proxy, _backend, client, mut server) = tunnel();
    client.reset();
    server.expect_reset();
    expect_close(&proxy, " outcome=reset ended_by=client");
    let (proxy, _backend, mut client, server) = tunnel();
    server.reset();
    client.expect_reset();
    expect_close(&proxy, " outcome=reset ended_by=server");
}

/// The one that ended has no more bytes to be read, so no read tells of its reset.
#[test]
fn a_reset_by_the_side_that_has_ended_becomes_a_reset() {
    let (proxy, _backend, client, mut server) = tunnel();
    client.finish();
    server.expect_end();
    client.reset();
    expect_close(&proxy, " outcome=reset ended_by=client");
    assert!(server.try_send("anybody?").is_err(), "the server is told by a reset");

    let (proxy, _backend, mut client, server) = tunnel();
    server.finish();
    client.expect_end();
    server.reset();
    expect_close(&proxy, " outcome=reset ended_by=server");
    assert!(client.try_send("anybody?").is_err(), "the client is told by a reset");
}

#[test]
fn a_reset_by_the_side_that_goes_on_becomes_a_reset() {
    let (proxy, _backend, mut client, mut server) = tunnel();
    client.finish();
    server.expect_end();
    server.send("last words");
    server.reset();
    client.expect("last words");
    client.expect_reset();
    expect_close(&proxy, " outcome=reset ended_by=server");

    let (proxy, _backend, mut client, mut server) = tunnel();
    server.finish();
    client.expect_end();
    client.send("last words");
    client.reset();
    server.expect("last words");
    server.expect_reset();
    expect_close(&proxy, " outcome=reset ended_by=client");
}

/// A close without a half-close before it: what the other side still sends meets a socket that is no more.
#[test]
fn a_side_that_closes_altogether_resets_what_still_comes() {
    let (proxy, _backend, client, mut server) = tunnel();
    drop(client);
    server.expect_end();
    // The first write finds the closed socket out, a later one hears of it.
    while server.try_send("to nobody").is_ok() {}
    expect_close(&proxy, " outcome=reset ended_by=client");
}
