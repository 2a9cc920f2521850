//! From a handshake to bytes both ways, on real sockets: what is asked of which server, and what comes of its answer.

mod common;

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use adit::{Config, Proxy};
use common::{
    Backend, Client, Running, WAIT, dead_address, open_tunnel, start, start_http, start_tcp, switching,
    upgrade_request,
};

/// An answer that needs no more than its head.
const NOTHING: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A request for another tunnel, which must not get anywhere as a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: example.com\r\n\r\n";

/// A plain request.
fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n")
}

/// Waits for a connection to one of these servers, and gives back which and its end.
fn whoever(servers: &[Backend]) -> (usize, Client) {
    let until = Instant::now() + WAIT;
    loop {
        for (index, server) in servers.iter().enumerate() {
            if let Some(client) = server.try_accept() {
                return (index, client);
            }
        }
        assert!(Instant::now() < until, "nobody connected to any server");
        std::thread::yield_now();
    }
}

/// Servers, and their list for the configuration.
fn servers<const N: usize>() -> ([Backend; N], String) {
    let servers = std::array::from_fn(|_| Backend::new());
    let list = servers.each_ref().map(|server: &Backend| format!("{:?}", server.address())).join(", ");
    (servers, list)
}

/// An http listener with these keys in front of an upstream with those.
fn start_with(listener: &str, upstream: &str) -> Running {
    start(&format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n{listener}\n[upstream.u]\n{upstream}\n"
    ))
}

/// Makes the proxy ask a server, which answers; gives back the server's number and the request's head.
fn visit(proxy: &Running, servers: &[Backend], request: &str) -> (usize, String) {
    let mut client = proxy.client();
    client.send(request);
    let (index, mut server) = whoever(servers);
    let head = server.head();
    server.send(NOTHING);
    assert!(client.head().starts_with("HTTP/1.1 200 "));
    client.expect_end();
    (index, head)
}

// The tunnel.

#[test]
fn a_handshake_opens_a_tunnel() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    let stats = proxy.handle.stats();
    assert_eq!((stats.open, stats.tunnels_opened, stats.tunnels_open), (1, 1, 1));
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
    let stats = proxy.handle.stats();
    assert_eq!((stats.accepted, stats.tunnels_opened, stats.tunnels_open), (1, 1, 0));
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
fn heads_may_come_in_one_byte_pieces() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    client.dribble(upgrade_request("/") + "early");
    let mut server = backend.accept();
    server.head();
    server.dribble(switching() + "also early");
    server.expect("early");
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.expect("also early");
}

#[test]
fn the_client_gets_the_servers_101_without_what_was_for_us() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    client.ask("/");
    let mut server = backend.accept();
    server.head();
    server.send(switching().replace("\r\n\r\n", "\r\nKeep-Alive: 5\r\nSec-WebSocket-Protocol: chat\r\n\r\n"));
    let accept = format!("Sec-WebSocket-Accept: {}\r\n", common::ACCEPT);
    assert_eq!(
        client.head(),
        format!(
            "HTTP/1.1 101 Switching Protocols\r\n{accept}Sec-WebSocket-Protocol: chat\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
    );
}

#[test]
fn a_tunnel_is_logged_when_it_opens_and_when_it_ends_with_one_id() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let (client, mut server) = open_tunnel(&proxy, &backend);
    let opened = proxy.log_line();
    server.send("12345");
    drop(server);
    client.finish();
    let closed = proxy.log_line();
    assert!(opened.contains(" event=open ") && opened.contains(" status=101 "), "{opened}");
    assert!(closed.contains(" event=close ") && closed.contains(" bytes_down=5 "), "{closed}");
    let id = |line: &str| line.split(' ').find(|part| part.starts_with("id=")).map(str::to_owned);
    assert_eq!(id(&opened), id(&closed));
    assert!(id(&opened).is_some());
}

// Early bytes.

#[test]
fn early_bytes_wait_for_the_servers_agreement() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    client.send(upgrade_request("/") + "early");
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 103 Early Hints\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 103 ")); // so the request is long done with
    client.send(", later");
    server.send("HTTP/1.1 102 Processing\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 102 "));
    assert!(server.is_silent());
    server.send(switching() + "also early");
    server.expect("early, later");
    client.head();
    client.expect("also early");
}

#[test]
fn early_bytes_reach_no_server_that_answers_otherwise() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    for (answer, status) in [
        (NOTHING, "200"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "403"),
        ("HTTP/1.1 426 Upgrade Required\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "426"),
        ("HTTP/1.1 101 Sure\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "502"),
        ("nonsense\r\n\r\n", "502"),
    ] {
        let mut client = proxy.client();
        client.send(upgrade_request("/") + SMUGGLED);
        let mut server = backend.accept();
        server.head();
        client.send(SMUGGLED);
        server.send(answer);
        assert!(client.head().starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        client.send(SMUGGLED);
        assert_eq!(server.everything(), "", "{answer}");
        client.everything();
    }
    let mut client = proxy.client();
    client.send(upgrade_request("/") + SMUGGLED);
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\n\r\nuntil close");
    assert!(client.head().starts_with("HTTP/1.1 200 "));
    client.expect("until close");
    client.send(SMUGGLED);
    server.send(".");
    client.expect(".");
    assert!(server.is_silent());
}

#[test]
fn more_early_bytes_than_may_be_held_arrive_in_order() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[limits]\nmax_header_bytes = 1000\n");
    let early: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
    std::thread::scope(|scope| {
        let mut client = proxy.client();
        let early = &early;
        scope.spawn(move || {
            client.send([upgrade_request("/").as_bytes(), early].concat());
            client.head();
            client.expect("seen");
        });
        let mut server = backend.accept();
        server.agree();
        assert!(server.bytes(early.len()) == *early);
        server.send("seen");
    });
}

#[test]
fn what_ends_before_the_tunnel_opens_ends_in_the_tunnel() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    client.send(upgrade_request("/") + "early");
    client.finish();
    let mut server = backend.accept();
    server.head();
    server.send(switching() + "all there is");
    server.expect("early");
    server.expect_end();
    drop(server);
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.expect("all there is");
    client.expect_end();
    assert!(proxy.closed_line().ends_with(" outcome=finished ended_by=client"));
}

// What may become a tunnel.

#[test]
fn other_protocols_become_tunnels_where_the_route_says_so() {
    let backend = Backend::new();
    let route = "[[listener.route]]\nupstream = \"u\"\nupgrade = [\"echo\", \"websocket\"]";
    let proxy = start_with(route, &format!("servers = [{:?}]", backend.address()));
    let mut client = proxy.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, UPGRADE\r\nUpgrade: other\r\nUpgrade: Echo\r\n\r\n",
    );
    let mut server = backend.accept();
    let head = server.head();
    assert!(head.contains("\r\nConnection: Upgrade\r\nUpgrade: echo\r\n"), "{head}");
    assert!(!head.contains("other"), "{head}");
    server.send("HTTP/1.1 101 Sure\r\nConnection: upgrade\r\nUpgrade: ECHO\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.send("bytes");
    server.expect("bytes");
}

#[test]
fn an_upgrade_that_is_not_on_the_list_goes_as_a_plain_request() {
    let backend = [Backend::new()];
    let proxy = start_http(&backend[0].address(), "");
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    let websocket = upgrade_request("/");
    let websocket = websocket.split_once("\r\nConnection").unwrap().1;
    for request in [
        format!("GET / HTTP/1.1\r\nHost: example.com\r\n{upgrade}\r\n"),
        format!("GET / HTTP/1.1\r\nHost: example.com\r\n{}\r\n", upgrade.replace("h2c", "TLS/1.0, HTTP/1.1")),
        format!("POST / HTTP/1.1\r\nHost: example.com\r\nConnection{websocket}"),
        format!("GET / HTTP/1.0\r\nHost: example.com\r\nConnection{websocket}"),
        "GET / HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\r\n".to_owned(),
    ] {
        let (_, head) = visit(&proxy, &backend, &request);
        assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
        assert!(!head.contains("Upgrade") && !head.contains("HTTP2-Settings"), "{head}");
    }
}

#[test]
fn a_route_without_protocols_carries_no_tunnel() {
    let backend = [Backend::new()];
    let route = "[[listener.route]]\nupstream = \"u\"\nupgrade = []";
    let proxy = start_with(route, &format!("servers = [{:?}]", backend[0].address()));
    let (_, head) = visit(&proxy, &backend, &upgrade_request("/"));
    assert!(head.contains("\r\nConnection: close\r\n") && !head.contains("Upgrade"), "{head}");
}

#[test]
fn a_lenient_route_judges_the_101_alone() {
    let backend = Backend::new();
    let route = "[[listener.route]]\nupstream = \"u\"\nhandshake = \"lenient\"";
    let proxy = start_with(route, &format!("servers = [{:?}]", backend.address()));
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut client = proxy.client();
    client.send(ask);
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 101 Sure\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nopen");
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.expect("open");
    let mut client = proxy.client();
    client.send(ask);
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 101 Sure\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 502 "));
}

// The rebuilt request.

/// The request that a server is sent for this one, with the id that was drawn for it written `ID`.
fn rebuilt(listener: &str, request: &str) -> String {
    let backend = [Backend::new()];
    let proxy = start_with(listener, &format!("servers = [{:?}]", backend[0].address()));
    let (_, head) = visit(&proxy, &backend, request);
    let drawn = head.lines().find_map(|line| {
        let id = line.strip_prefix("X-Request-ID: ")?;
        (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
    });
    drawn.map_or(head.clone(), |id| head.replace(&id, "ID"))
}

/// A request with something of everything.
const RICH: &str = "GET /a/../b?c=%41&d HTTP/1.1\r\nhOST: Example.com:80\r\nAccept: */*\r\nAccept: text/html\r\n\
    Connection: keep-alive, X-Hop, Upgrade, Cookie, X-Forwarded-For, Sec-WebSocket-Key, host\r\nX-Hop: 1\r\n\
    Cookie: c=1\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\n\
    TE: trailers\r\nTrailer: X\r\nHTTP2-Settings: AAMA\r\nAuthorization: Basic eA==\r\nX-Forwarded-For: 192.0.2.1\r\n\
    X-Forwarded-For: 192.0.2.2, 192.0.2.3\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: outer.example\r\n\
    X-Forwarded-Port: 443\r\nForwarded: for=192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\nX-Request-ID: theirs\r\n\
    X_Forwarded_For: 192.0.2.9\r\nX-Real_IP: 192.0.2.9\r\nx_forwarded-host: x\r\nplain_name: 1\r\n\
    Origin:   https://example.com  \r\nEmpty:\r\nX-Remove: 1\r\nX-Set: theirs\r\nBytes: \u{e9}\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: chat\r\n\r\n";

#[test]
fn a_strangers_request_is_rebuilt_to_the_byte() {
    assert_eq!(
        rebuilt("", RICH),
        "GET /a/../b?c=%41&d HTTP/1.1\r\nhOST: Example.com:80\r\nAccept: */*\r\nAccept: text/html\r\nCookie: c=1\r\n\
         Authorization: Basic eA==\r\nplain_name: 1\r\nOrigin: https://example.com\r\nEmpty: \r\nX-Remove: 1\r\n\
         X-Set: theirs\r\nBytes: \u{e9}\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Host: Example.com:80\r\nX-Real-IP: 127.0.0.1\r\nX-Request-ID: ID\r\n\r\n"
    );
}

#[test]
fn a_trusted_proxys_request_is_extended() {
    assert_eq!(
        rebuilt("trusted_proxies = [\"127.0.0.0/8\", \"192.0.2.3\"]", RICH),
        "GET /a/../b?c=%41&d HTTP/1.1\r\nhOST: Example.com:80\r\nAccept: */*\r\nAccept: text/html\r\nCookie: c=1\r\n\
         Authorization: Basic eA==\r\nX-Forwarded-Port: 443\r\nForwarded: for=192.0.2.1\r\nplain_name: 1\r\n\
         Origin: https://example.com\r\nEmpty: \r\nX-Remove: 1\r\nX-Set: theirs\r\nBytes: \u{e9}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: chat\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         X-Forwarded-For: 192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: outer.example\r\nX-Real-IP: 192.0.2.2\r\nX-Request-ID: theirs\r\n\r\n"
    );
}

#[test]
fn headers_are_set_and_removed_as_configured() {
    let route = "[[listener.route]]\nupstream = \"u\"\nremove_headers = [\"x-remove\", \"x-forwarded-host\"]\n\
                 [listener.route.set_headers]\nX-Set = \"$client_ip $scheme://$host $request_id $$1\"\n\
                 X-Real-IP = \"$client_ip!\"\n";
    let head =
        rebuilt(route, "GET / HTTP/1.1\r\nHost: a:1\r\nx-set: theirs\r\nX-REMOVE: 1\r\nX-Stays: 1\r\n\r\n");
    let head =
        head.split_once("X-Request-ID: ").map(|(front, back)| (front.to_owned(), back.to_owned())).unwrap();
    assert_eq!(
        head.0,
        "GET / HTTP/1.1\r\nHost: a:1\r\nX-Stays: 1\r\nConnection: close\r\nX-Forwarded-For: 127.0.0.1\r\n\
         X-Forwarded-Proto: http\r\n"
    );
    assert_eq!(head.1, "ID\r\nX-Set: 127.0.0.1 http://a:1 ID $1\r\nX-Real-IP: 127.0.0.1!\r\n\r\n");
}

#[test]
fn an_absolute_target_replaces_host_and_goes_on_in_origin_form() {
    let head = rebuilt("", "GET http://b.example:8080?q HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(head.starts_with("GET /?q HTTP/1.1\r\nHost: b.example:8080\r\n"), "{head}");
    assert!(head.contains("\r\nX-Forwarded-Host: b.example:8080\r\n"), "{head}");
}

#[test]
fn a_request_of_http_1_0_is_given_a_host() {
    let head = rebuilt("", "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(
        head,
        "GET / HTTP/1.1\r\nHost: u\r\nConnection: close\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\
         X-Real-IP: 127.0.0.1\r\nX-Request-ID: ID\r\n\r\n"
    );
}

// Routes.

#[test]
fn the_most_specific_host_wins_and_then_the_longest_path() {
    let (servers, _) = servers::<5>();
    let route = |host: &str, path: &str, upstream: usize| {
        let key = |key: &str, value: &str| {
            if value.is_empty() { String::new() } else { format!("{key} = {value:?}\n") }
        };
        format!("[[listener.route]]\n{}{}upstream = \"u{upstream}\"\n", key("host", host), key("path", path))
    };
    let pool = |index: usize| format!("[upstream.u{index}]\nservers = [{:?}]\n", servers[index].address());
    let proxy = start(&format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u0\"\n{}{}{}{}{}",
        route("", "/chat", 1),
        route("*.example.com", "", 2),
        route("a.example.com", "=/exact", 3),
        route("a.example.com", "/", 4),
        (0..5).map(pool).collect::<String>()
    ));
    for (host, path, index) in [
        ("other.test", "/", 0),
        ("other.test", "/chatter", 0),
        ("other.test", "/chat", 1),
        ("other.test", "/x/../%63hat/room?q", 1),
        ("other.test", "/chat%2froom", 0),
        ("example.com", "/chat/", 1),
        ("b.example.com", "/chat", 2),
        ("A.Example.COM.:8020", "/exact", 3),
        ("a.example.com", "/./exact", 3),
        ("a.example.com", "/exact/x", 4),
        ("a.example.com", "/chat", 4),
    ] {
        let (reached, head) =
            visit(&proxy, &servers, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(reached, index, "{host} {path}");
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n")), "as it came: {head}");
    }
}

// Addresses.

#[test]
fn ipv6_is_listened_on_and_dialed() {
    let backend = Backend::on("[::1]:0");
    let proxy = start(&format!(
        "[[listener]]\nlisten = \"[::1]:0\"\nupstream = \"u\"\n[upstream.u]\nservers = [{:?}]\n",
        backend.address()
    ));
    let mut client = proxy.client();
    client.ask("/");
    let mut server = backend.accept();
    let head = server.agree();
    assert!(
        head.contains("\r\nX-Forwarded-For: ::1\r\n") && head.contains("\r\nX-Real-IP: ::1\r\n"),
        "{head}"
    );
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    let line = proxy.log_line();
    assert!(line.contains(&format!(" client={} ", client.local_addr())), "{line}");
}

#[test]
fn unix_sockets_are_listened_on_and_dialed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let listener = UnixListener::bind(path("server")).unwrap();
    let proxy = start(&format!(
        "[[listener]]\nlisten = \"unix:{}\"\nupstream = \"u\"\n[upstream.u]\nservers = [\"unix:{}\"]\n",
        path("proxy"),
        path("server")
    ));
    let mut client = Client::of_unix(UnixStream::connect(path("proxy")).unwrap());
    client.ask("/");
    let mut server = Client::of_unix(listener.accept().unwrap().0);
    let head = server.agree();
    assert!(!head.contains("X-Forwarded-For") && !head.contains("X-Real-IP"), "{head}");
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.send("up");
    server.expect("up");
    server.send("down");
    client.expect("down");
    client.finish();
    server.expect_end();
    drop(server);
    client.expect_end();
    let line = proxy.closed_line();
    assert!(line.contains(" client=unix: "), "{line}");
    assert!(line.ends_with(" outcome=finished ended_by=client"), "{line}");
}

/// Whether anybody listens at a unix socket's path is found out by connecting, which used to wait for ever where the
/// backlog was full.
#[test]
fn a_unix_socket_that_somebody_too_busy_listens_on_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("busy");
    let socket = || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let address = socket2::SockAddr::unix(&path).unwrap();
    let listener = socket();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let client = socket();
        client.set_nonblocking(true).unwrap();
        if client.connect(&address).is_err() {
            break; // the backlog is full
        }
        waiting.push(client);
    }
    let config = format!(
        "[[listener]]\nlisten = \"unix:{}\"\nupstream = \"u\"\n[upstream.u]\nservers = [\"127.0.0.1:1\"]\n",
        path.display()
    );
    let (sender, bound) = channel();
    thread::spawn(move || {
        let plan = Config::from_toml(&config).unwrap().check().unwrap();
        let _ = sender.send(Proxy::bind(plan).map(drop).map_err(|error| error.to_string()));
    });
    let error = bound.recv_timeout(WAIT).expect("it does not wait").expect_err("it is in use");
    assert!(error.contains("in use"), "{error}");
    assert!(path.exists(), "the file is left alone");
}

// The PROXY protocol.

const FROM: &str = "192.0.2.1";
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[test]
fn a_proxy_header_says_who_the_client_is() {
    let backend = Backend::new();
    let server = format!("servers = [{:?}]", backend.address());
    for (accepted, header, client_ip) in [
        ("v1", V1, FROM),
        ("any", V1, FROM),
        ("v2", V2, FROM),
        ("any", V2, FROM),
        ("v2", V2_LOCAL, "127.0.0.1"),
        ("v1", b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ] {
        let proxy = start_with(&format!("proxy_protocol = {accepted:?}"), &server);
        let send: [fn(&mut Client, Vec<u8>); 2] =
            [|client, bytes| client.send(bytes), |client, bytes| client.dribble(bytes)];
        for send in send {
            let mut client = proxy.client();
            send(&mut client, [header, upgrade_request("/").as_bytes(), b"early"].concat());
            let mut server = backend.accept();
            let head = server.agree();
            assert!(head.contains(&format!("\r\nX-Forwarded-For: {client_ip}\r\n")), "{head}");
            server.expect("early");
            assert!(client.head().starts_with("HTTP/1.1 101 "));
            let line = proxy.log_line();
            assert!(line.contains(&format!(" client={client_ip}:")), "{line}");
        }
    }
}

#[test]
fn a_missing_or_malformed_proxy_header_closes() {
    let backend = Backend::new();
    for (accepted, header) in [
        ("any", upgrade_request("/").as_bytes()),
        ("v1", V2),
        ("v2", V1),
        ("any", b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 65536\r\n"),
        ("any", b"PROXY TCP4 192.0.2.256 198.51.100.7 1 2\r\n"),
        ("any", b"PROXY TCP4 ::1 ::1 1 2\r\n"),
        ("any", b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n"),
        ("any", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb"),
    ] {
        for protocol in ["http", "tcp"] {
            let keys = format!("protocol = {protocol:?}\nproxy_protocol = {accepted:?}");
            let proxy = start_with(&keys, &format!("servers = [{:?}]", backend.address()));
            let mut client = proxy.client();
            client.dribble(header);
            assert_eq!(client.everything(), "", "no answer to {:?}", String::from_utf8_lossy(header));
            assert!(proxy.closed_line().ends_with(" ended_by=adit"));
        }
    }
    assert!(!backend.has_client());
}

#[test]
fn a_server_is_told_by_a_proxy_header_ahead_of_everything_else() {
    let backend = Backend::new();
    let told = |listener: &str, version: &str| {
        let upstream = format!("servers = [{:?}]\nproxy_protocol = {version:?}", backend.address());
        start_with(listener, &upstream)
    };
    let v1 = |client: &Client, proxy: &Running| {
        let (client, proxy) = (client.local_addr(), proxy.address());
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", client.port(), proxy.port()).into_bytes()
    };
    let v2 = |client: &Client, proxy: &Running| {
        let ports = [client.local_addr().port().to_be_bytes(), proxy.address().port().to_be_bytes()].concat();
        [&V2[..16], &[127, 0, 0, 1, 127, 0, 0, 1], &ports].concat()
    };
    type Header = dyn Fn(&Client, &Running) -> Vec<u8>;
    for (version, header) in [("v1", &v1 as &Header), ("v2", &v2)] {
        let proxy = told("", version);
        let mut client = proxy.client();
        client.ask("/");
        let mut server = backend.accept();
        server.expect(header(&client, &proxy));
        assert!(server.agree().starts_with("GET / HTTP/1.1\r\n"));
        let proxy = told("protocol = \"tcp\"", version);
        let mut client = proxy.client();
        client.send("first");
        let mut server = backend.accept();
        server.expect([&header(&client, &proxy), &b"first"[..]].concat());
        drop((client, server));
        let line = proxy.closed_line();
        assert!(line.contains(" bytes_up=5 "), "the header is not the client's: {line}");
    }
}

#[test]
fn a_proxy_header_is_handed_on() {
    let backend = Backend::new();
    for (protocol, opening) in [("http", upgrade_request("/")), ("tcp", "first".to_owned())] {
        for (accepted, header) in [("v1", V1), ("v2", V2)] {
            for (version, handed_on) in [("v1", V1), ("v2", V2)] {
                let keys = format!("protocol = {protocol:?}\nproxy_protocol = {accepted:?}");
                let upstream = format!("servers = [{:?}]\nproxy_protocol = {version:?}", backend.address());
                let proxy = start_with(&keys, &upstream);
                let mut client = proxy.client();
                client.send([header, opening.as_bytes()].concat());
                let mut server = backend.accept();
                assert_eq!(server.bytes(handed_on.len()), handed_on);
                server.expect(&opening[..5]);
            }
        }
    }
}

// The next server.

#[test]
fn a_server_that_refuses_the_connection_is_moved_on_from() {
    let backend = [Backend::new()];
    let upstream = format!("servers = [{:?}, {:?}]", dead_address(), backend[0].address());
    let proxy = start_with("", &upstream);
    visit(&proxy, &backend, &get("/"));
    let proxy = start_with("", &upstream);
    visit(&proxy, &backend, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    let proxy = start_with("", &upstream);
    open_tunnel(&proxy, &backend[0]);
    let proxy = start_with("protocol = \"tcp\"", &upstream);
    let mut client = proxy.client();
    client.send("first");
    backend[0].accept().expect("first");
}

/// Sends a request to the first of two servers, which does `give_up`. The client's end, and the servers.
fn let_down(request: &str, give_up: fn(Client)) -> (Client, [Backend; 2], Running) {
    let (servers, list) = servers::<2>();
    let proxy = start_with("", &format!("servers = [{list}]"));
    let mut client = proxy.client();
    client.send(request);
    let mut server = servers[0].accept();
    server.head();
    give_up(server);
    (client, servers, proxy)
}

#[test]
fn a_server_that_ends_before_it_answers_is_moved_on_from_with_the_same_request() {
    for give_up in [drop::<Client>, Client::reset] {
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            let request = format!("{method} /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            let (mut client, servers, _proxy) = let_down(&request, give_up);
            let mut server = servers[1].accept();
            assert!(server.head().starts_with(&format!("{method} /x HTTP/1.1\r\nHost: a\r\n")));
            server.send(NOTHING);
            assert!(client.head().starts_with("HTTP/1.1 200 "));
        }
        let (mut client, servers, _proxy) = let_down(&(upgrade_request("/") + "early"), give_up);
        let mut server = servers[1].accept();
        server.agree();
        assert!(client.head().starts_with("HTTP/1.1 101 "));
        server.expect("early");
    }
}

#[test]
fn a_server_that_has_sent_a_byte_is_not_moved_on_from() {
    let give_up = |mut server: Client| server.send("H");
    for request in [get("/"), upgrade_request("/")] {
        let (mut client, servers, _proxy) = let_down(&request, give_up);
        assert!(client.head().starts_with("HTTP/1.1 502 "));
        assert!(!servers[1].has_client());
    }
}

#[test]
fn a_request_that_may_not_be_repeated_goes_to_one_server() {
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "PATCH / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let (mut client, servers, _proxy) = let_down(request, drop::<Client>);
        assert!(client.head().starts_with("HTTP/1.1 502 "), "{request}");
        assert!(!servers[1].has_client(), "{request}");
    }
}

#[test]
fn each_server_is_tried_once() {
    let (mut client, servers, _proxy) = let_down(&get("/"), drop::<Client>);
    servers[1].accept().head();
    assert!(client.head().starts_with("HTTP/1.1 502 "));
    assert!(servers.iter().all(|server| !server.has_client()));
}

// Health.

#[test]
fn a_server_that_fails_is_out_for_fail_timeout_and_in_again_after_it() {
    let (servers, list) = servers::<2>();
    let proxy = start_with("", &format!("servers = [{list}]\nfail_timeout = \"300ms\""));
    let mut client = proxy.client();
    client.send(get("/"));
    let failing = servers[0].accept();
    let failed_at = Instant::now();
    drop(failing);
    let mut server = servers[1].accept();
    server.head();
    server.send(NOTHING);
    client.head();
    // In turn it would be the first one's every other time; it comes again when it has been left alone for so long.
    while visit(&proxy, &servers, &get("/")).0 == 1 {
        assert!(failed_at.elapsed() < WAIT);
    }
    assert!(failed_at.elapsed() >= Duration::from_millis(300), "{:?}", failed_at.elapsed());
    let reached = [(); 4].map(|()| visit(&proxy, &servers, &get("/")).0);
    assert_eq!(reached.iter().sum::<usize>(), 2, "in turn again: {reached:?}");
}

#[test]
fn servers_that_are_all_out_are_tried_all_the_same() {
    let (mut client, servers, proxy) = let_down(&get("/"), drop::<Client>);
    servers[1].accept().head();
    assert!(client.head().starts_with("HTTP/1.1 502 "));
    assert_eq!(visit(&proxy, &servers, &get("/")).0, 0, "the one that has been out longest");
}

#[test]
fn a_server_may_fail_as_often_as_configured() {
    for (max_fails, first_is_out) in [("1", true), ("2", false), ("0", false)] {
        let (servers, list) = servers::<2>();
        let proxy = start_with("", &format!("servers = [{list}]\nmax_fails = {max_fails}"));
        let mut client = proxy.client();
        client.send(get("/"));
        drop(servers[0].accept());
        let mut server = servers[1].accept();
        server.head();
        server.send(NOTHING);
        client.head();
        let reached = [(); 4].map(|()| visit(&proxy, &servers, &get("/")).0);
        assert_eq!(!reached.contains(&0), first_is_out, "max_fails = {max_fails}: {reached:?}");
    }
}

// Balance.

/// A tunnel with the number of its server.
type Placed = (usize, Client, Client);

/// Opens this many tunnels.
fn tunnels(number: usize, proxy: &Running, servers: &[Backend]) -> Vec<Placed> {
    let open = |_| {
        let mut client = proxy.client();
        client.ask("/");
        let (index, mut server) = whoever(servers);
        server.agree();
        client.head();
        (index, client, server)
    };
    (0..number).map(open).collect()
}

/// How many of them go to the first and to the second server.
fn shares(tunnels: &[Placed]) -> [usize; 2] {
    [0, 1].map(|index| tunnels.iter().filter(|(reached, ..)| *reached == index).count())
}

#[test]
fn round_robin_goes_by_weight() {
    let (servers, list) = servers::<2>();
    let (first, second) = list.split_once(", ").unwrap();
    let list = format!("[{{ address = {first}, weight = 2 }}, {second}]");
    let proxy = start_with("", &format!("servers = {list}"));
    assert_eq!(shares(&tunnels(6, &proxy, &servers)), [4, 2]);
}

#[test]
fn least_conn_and_random_two_fill_up_the_emptier_server() {
    for balance in ["least_conn", "random_two"] {
        let (servers, list) = servers::<2>();
        let proxy = start_with("", &format!("servers = [{list}]\nbalance = {balance:?}"));
        let six = tunnels(6, &proxy, &servers);
        assert_eq!(shares(&six), [3, 3], "{balance}");
        let (first, _second): (Vec<Placed>, Vec<Placed>) = six.into_iter().partition(|tunnel| tunnel.0 == 0);
        drop(first);
        proxy.await_stats(|stats| stats.open == 3);
        assert_eq!(shares(&tunnels(3, &proxy, &servers)), [3, 0], "{balance}");
    }
}

#[test]
fn max_conns_sends_the_rest_elsewhere_and_backups_wait() {
    let (servers, list) = servers::<2>();
    let (first, second) = list.split_once(", ").unwrap();
    let list = format!("[{{ address = {first}, max_conns = 2 }}, {{ address = {second}, backup = true }}]");
    let proxy = start_with("", &format!("servers = {list}"));
    let reached: Vec<usize> = tunnels(4, &proxy, &servers).iter().map(|tunnel| tunnel.0).collect();
    assert_eq!(reached, [0, 0, 1, 1]);
}

/// Expects each of these requests to go to one server, always the same, and all of them together to more than one.
#[track_caller]
fn check_hash(listener: &str, balance: &str, requests: impl Iterator<Item = String>) {
    let (servers, list) = servers::<2>();
    let proxy = start_with(listener, &format!("servers = [{list}]\n{balance}"));
    let mut reached = [0; 2];
    for request in requests {
        let (first, _) = visit(&proxy, &servers, &request);
        assert_eq!(visit(&proxy, &servers, &request).0, first, "{balance} {request}");
        reached[first] += 1;
    }
    assert!(!reached.contains(&0), "{balance} {reached:?}");
}

#[test]
fn a_hash_goes_by_the_value_of_its_key() {
    let by = |key: &str| format!("balance = \"hash\"\nhash_key = {key:?}");
    let with = |field: &'static str| {
        (0..16).map(move |n| {
            format!("GET /a HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", field.replace('#', &n.to_string()))
        })
    };
    let trusting = "trusted_proxies = [\"127.0.0.1\"]";
    check_hash("", &by("path"), (0..16).map(|n| get(&format!("/{n}?{}", n * 7))));
    check_hash("", &by("query:room"), (0..16).map(|n| get(&format!("/?x=1&room={n}&y={n}"))));
    check_hash("", &by("header:X-Room"), with("x-room: #"));
    check_hash("", &by("cookie:session"), with("Cookie: a=b; session=#; c=d"));
    check_hash(trusting, &by("client_ip"), with("X-Forwarded-For: 192.0.2.#"));
    check_hash(trusting, "balance = \"ip_hash\"", with("X-Forwarded-For: 192.0.#.1"));
}

#[test]
fn a_hash_of_nothing_is_round_robin() {
    let (servers, list) = servers::<2>();
    let proxy =
        start_with("", &format!("servers = [{list}]\nbalance = \"hash\"\nhash_key = \"header:X-Room\""));
    let reached = [(); 4].map(|()| visit(&proxy, &servers, &get("/")).0);
    assert_eq!(reached.iter().sum::<usize>(), 2, "{reached:?}");
}
