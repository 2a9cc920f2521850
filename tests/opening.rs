//! From a handshake to bytes both ways, on real sockets.

mod common;

use common::{Backend, open_tunnel, start_http, start_tcp, upgrade_request};

#[test]
fn a_handshake_opens_a_tunnel() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    client.send("up");
    server.expect("up");
    server.send("down");
    client.expect("down");
    client.finish();
    server.expect_end();
    drop(server);
    client.expect_end();
    let line = proxy.closed_line();
    assert!(line.contains(" bytes_up=2 bytes_down=4 "), "{line}");
    assert!(line.ends_with(" outcome=finished ended_by=client"), "{line}");
    proxy.await_empty();
}

#[test]
fn a_tcp_listener_is_a_tunnel_from_the_first_byte() {
    let backend = Backend::new();
    let proxy = start_tcp(&backend.address(), "");
    let mut client = proxy.client();
    let mut server = backend.accept();
    server.send("220 hello\r\n");
    client.expect("220 hello\r\n");
    client.send("anything");
    server.expect("anything");
}

#[test]
fn early_bytes_wait_for_the_servers_agreement() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    client.send(upgrade_request("/") + "early");
    let mut server = backend.accept();
    server.head();
    server.send(common::switching() + "also early");
    server.expect("early");
    client.head();
    client.expect("also early");
}
