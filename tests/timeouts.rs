//! Each timeout ends what it is for, says so in the log, and lets alone what it is not for. Where something must live
//! on, it outlives a neighbour that the same timeout ends; nothing here is measured with a clock of the test's.

mod common;

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use common::{Backend, Client, Running, Unanswering, WAIT, open_tunnel, start, start_http};

/// Expects the last line of a session, by its last fields.
#[track_caller]
fn expect_close(proxy: &Running, ending: &str) -> String {
    let line = proxy.closed_line();
    assert!(line.ends_with(ending), "{line}");
    line
}

/// Goes on with something until the next session has ended, whose last line it gives back.
fn until_one_has_ended(proxy: &Running, mut go_on: impl FnMut()) -> String {
    let (before, until) = (proxy.handle.stats(), Instant::now() + WAIT);
    while proxy.handle.stats().tunnels_open == before.tunnels_open {
        assert!(Instant::now() < until, "none has ended");
        go_on();
    }
    proxy.closed_line()
}

#[test]
fn a_dribbled_head_is_answered_when_its_time_is_over_however_often_a_byte_comes() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\nhandshake = \"200ms\"\n");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\nX-Slow: ");
    let mut dribbler = Client::of(client.stream.get_ref().try_clone().expect("a second handle"));
    let dribbling = thread::spawn(move || {
        while dribbler.try_send("x").is_ok() {
            thread::sleep(Duration::from_millis(5)); // the pace of the attack
        }
    });
    assert!(client.head().starts_with("HTTP/1.1 408 Request Timeout\r\n"), "no byte extends it");
    let line = expect_close(&proxy, " outcome=\"the request did not arrive in time\" ended_by=adit");
    assert!(line.contains(" status=408 "), "{line}");
    proxy.await_empty();
    dribbling.join().expect("it ends when the connection does");
    assert!(!backend.has_client());
}

#[test]
fn a_client_that_says_nothing_is_closed_without_an_answer() {
    let proxy = start_http(&common::dead_address(), "[timeouts]\nhandshake = \"150ms\"\n");
    proxy.client().expect_end();
    let line = expect_close(&proxy, " outcome=\"the request did not arrive in time\" ended_by=adit");
    assert!(!line.contains(" status="), "{line}");
}

#[test]
fn a_proxy_header_that_does_not_come_ends_the_session() {
    let dead = common::dead_address();
    let proxy = start(&format!(
        "[timeouts]\nhandshake = \"150ms\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n\
         upstream = \"u\"\nproxy_protocol = \"any\"\n[upstream.u]\nservers = [\"{dead}\"]\n"
    ));
    let mut client = proxy.client();
    client.send("PROXY TCP4 ");
    assert!(client.rest().unwrap_or_default().is_empty());
    expect_close(&proxy, " outcome=\"the request did not arrive in time\" ended_by=adit");
}

#[test]
fn a_server_that_cannot_be_connected_in_time_is_a_504() {
    let nobody = Unanswering::new();
    let proxy = start_http(&nobody.address(), "[timeouts]\nconnect = \"150ms\"\n");
    let mut client = proxy.client();
    client.ask("/");
    assert!(client.head().starts_with("HTTP/1.1 504 "));
    expect_close(&proxy, " outcome=\"no server was connected in time\" ended_by=adit");
}

#[test]
fn the_next_server_is_tried_after_one_that_cannot_be_connected_in_time() {
    let (nobody, backend) = (Unanswering::new(), Backend::new());
    for protocol in ["http", "tcp"] {
        let proxy = start(&format!(
            "[timeouts]\nconnect = \"150ms\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\n\
             upstream = \"u\"\n[upstream.u]\nservers = [\"{}\", {{ address = \"{}\", backup = true }}]\n",
            nobody.address(),
            backend.address()
        ));
        let mut client = proxy.client();
        client.ask("/");
        let mut server = backend.accept();
        assert!(server.head().starts_with("GET / HTTP/1.1\r\n"));
    }
}

#[test]
fn a_server_that_does_not_answer_in_time_is_a_504() {
    for request in [common::upgrade_request("/"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()] {
        let backend = Backend::new();
        let proxy = start_http(&backend.address(), "[timeouts]\nresponse = \"150ms\"\n");
        let mut client = proxy.client();
        client.send(request);
        let mut server = backend.accept();
        server.head();
        server.send("HTTP/1.1 101 Swi"); // half an answer is none
        assert!(client.head().starts_with("HTTP/1.1 504 "));
        expect_close(&proxy, " outcome=\"the server did not answer in time\" ended_by=adit");
        assert!(!backend.has_client(), "a request that a server has had goes to no other");
    }
}

#[test]
fn a_silent_tunnel_is_closed_and_one_that_speaks_goes_on() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\nidle = \"600ms\"\n");
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    let (mut silent_client, mut silent_server) = open_tunnel(&proxy, &backend);
    let line = until_one_has_ended(&proxy, || {
        client.send("ping");
        server.expect("ping");
    });
    assert!(line.ends_with(" outcome=idle ended_by=adit"), "{line}");
    silent_client.expect_end();
    silent_server.expect_end();
    server.send("still here");
    client.expect("still here");
    expect_close(&proxy, " outcome=idle ended_by=adit"); // now it is silent as well
}

#[test]
fn a_half_closed_tunnel_is_closed_for_its_silence_and_not_for_its_age() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\nhalf_closed = \"600ms\"\n");
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    let (mut silent_client, mut silent_server) = open_tunnel(&proxy, &backend);
    let (mut whole_client, mut whole_server) = open_tunnel(&proxy, &backend);
    for (client, server) in [(&client, &mut server), (&silent_client, &mut silent_server)] {
        client.finish();
        server.expect_end();
    }
    let line = until_one_has_ended(&proxy, || {
        server.send("and on");
        client.expect("and on");
    });
    assert!(line.ends_with(" outcome=half_closed ended_by=adit"), "{line}");
    silent_client.expect_end();
    server.send("still here");
    client.expect("still here");
    expect_close(&proxy, " outcome=half_closed ended_by=adit"); // now it is silent as well
    whole_client.send("not for me"); // it was silent all the time, and is whole
    whole_server.expect("not for me");
}

#[test]
fn a_peer_that_takes_nothing_is_closed_on_and_an_idle_tunnel_is_not() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\nstalled = \"300ms\"\n");
    let (mut idle_client, mut idle_server) = open_tunnel(&proxy, &backend);
    for stalled_side in ["server", "client"] {
        let (client, server) = open_tunnel(&proxy, &backend);
        let (mut writer, _deaf) = if stalled_side == "server" { (client, server) } else { (server, client) };
        while writer.try_send([b's'; 64 << 10]).is_ok() {}
        expect_close(&proxy, &format!(" waited_for={stalled_side} outcome=stalled ended_by=adit"));
    }
    idle_client.send("still here");
    idle_server.expect("still here");
}

#[test]
fn a_tunnel_is_closed_at_its_age_though_it_speaks() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\nlifetime = \"300ms\"\n");
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    let line = until_one_has_ended(&proxy, || {
        let _ = client.try_send("ping"); // it may be over by now
        let _ = server.stream.read(&mut [0; 4]);
    });
    assert!(line.ends_with(" outcome=lifetime ended_by=adit"), "{line}");
}

#[test]
fn a_listener_may_have_timeouts_of_its_own() {
    let backend = Backend::new();
    let proxy = start(&format!(
        "[timeouts]\nidle = \"1h\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [[listener]]\nlisten = \"127.0.0.2:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [listener.timeouts]\nidle = \"200ms\"\n[upstream.u]\nservers = [\"{}\"]\n",
        backend.address()
    ));
    let Running { addresses, .. } = &proxy;
    let tunnel = |index: usize| {
        let client = Client::connect(addresses[index].to_string().parse().expect("an address"));
        (client, backend.accept())
    };
    let (mut client, mut server) = tunnel(0);
    let (mut hasty_client, mut hasty_server) = tunnel(1);
    hasty_client.expect_end();
    hasty_server.expect_end();
    let line = expect_close(&proxy, " outcome=idle ended_by=adit");
    assert!(line.contains(" listener=127.0.0.2:"), "{line}");
    client.send("still here");
    server.expect("still here");
}

#[test]
fn a_timeout_that_is_off_never_comes() {
    let backend = Backend::new();
    let proxy = start_http(
        &backend.address(),
        "[timeouts]\nhandshake = \"300ms\"\nidle = \"off\"\nhalf_closed = \"off\"\nstalled = \"off\"\n\
         lifetime = \"off\"\n",
    );
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    let (mut ending_client, mut ending_server) = open_tunnel(&proxy, &backend);
    ending_client.finish();
    ending_server.expect_end();
    proxy.client().expect_end(); // a wait that is on passes beside them
    server.send("still here");
    client.expect("still here");
    ending_server.send("still here");
    ending_client.expect("still here");
}
