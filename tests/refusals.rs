//! What is refused, over real sockets: each row of the table of answers, by its status and by the rule it names.

mod common;

use std::io;
use std::sync::{Mutex, Once};
use std::time::Duration;

use common::{
    ACCEPT, Backend, Client, KEY, Running, dead_address, open_tunnel, start, start_http, start_tcp,
    switching, upgrade_request,
};

/// Reads an answer of ours to the end of the connection, checks what all of them have, and gives back its status and
/// its body.
#[track_caller]
fn answer(client: &mut Client) -> (u16, String) {
    let head = client.head();
    let length: usize = field(&head, "Content-Length").parse().expect("a number");
    let body = String::from_utf8(client.bytes(length)).expect("text");
    client.expect_end();
    assert_eq!(field(&head, "Content-Type"), "text/plain; charset=utf-8");
    assert_eq!(field(&head, "Connection"), "close");
    assert!(httpdate::parse_http_date(field(&head, "Date")).is_ok(), "{head}");
    let (_, status) = head.lines().next().unwrap().split_once(' ').expect("a status line");
    assert!(body.starts_with(status), "{body:?} begins with {status:?}");
    (status[..3].parse().expect("a status"), body)
}

/// The value of a field that is there once.
#[track_caller]
fn field<'h>(head: &'h str, name: &str) -> &'h str {
    let values: Vec<_> =
        head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect();
    let [value] = values.as_slice() else { panic!("{name} is not there once in {head:?}") };
    value
}

#[track_caller]
fn expect_answer(client: &mut Client, status: u16, rule: &str) {
    let (got, body) = answer(client);
    assert!(got == status && body.contains(rule), "{status} {rule:?} is wanted, there is {body:?}");
}

/// Expects a request to be refused: at once, in one-byte pieces, and with a lot behind it that nobody will read.
#[track_caller]
fn check(proxy: &Running, request: impl AsRef<[u8]>, status: u16, rule: &str) {
    let request = request.as_ref();
    let mut client = proxy.client();
    client.send(request);
    expect_answer(&mut client, status, rule);
    let mut client = proxy.client();
    client.dribble(request);
    expect_answer(&mut client, status, rule);
    let mut client = proxy.client();
    client.send([request, &vec![b'x'; 1 << 20]].concat());
    expect_answer(&mut client, status, rule);
}

/// Expects each of these requests to be refused by an otherwise usual proxy, and its server to be left alone.
#[track_caller]
fn check_all(status: u16, cases: &[(&str, &str)]) {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    for (request, rule) in cases {
        check(&proxy, request, status, rule);
    }
    assert!(!backend.has_client(), "no server hears of it");
}

/// A `GET` with these field lines behind its Host.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n")
}

/// The beginning of what `openssl s_client` says first.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x01\x2e\x01\x00\x01\x2a\x03\x03\x5c\x0d\x0a\x0d\x0a\x8f\x1b";

#[test]
fn what_is_no_http_is_400() {
    check_all(
        400,
        &[
            ("SSH-2.0-OpenSSH_9.9\r\n", "no HTTP version"),
            ("GET /\r\n", "no HTTP version"),
            ("GET /\r\n\r\n", "no HTTP version"),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "the request line is malformed"),
            ("GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", "the request line is malformed"),
            ("GET / HTTP/11\r\nHost: a\r\n\r\n", "no HTTP version"),
            ("GET / HTTP/1.1\nHost: a\n\n", "an LF without CR"),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: b\n\r\n", "an LF without CR"),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n", "a CR without LF"),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", "folded"),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: \x01\r\n\r\n", "a control character"),
            ("GET / HTTP/1.1\r\nHost: a\r\nA: \x7f\r\n\r\n", "a control character"),
            ("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", "field's name"),
            ("GET / HTTP/1.1\r\nHost: a\r\nA(: b\r\n\r\n", "field's name"),
        ],
    );
}

#[test]
fn a_tls_handshake_is_answered_in_plain_text() {
    let proxy = start_http(&dead_address(), "");
    check(&proxy, CLIENT_HELLO, 400, "a control character");
}

#[test]
fn a_request_without_one_good_host_is_400() {
    check_all(
        400,
        &[
            ("GET / HTTP/1.1\r\n\r\n", "Host is missing"),
            ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", "Host is repeated"),
            ("GET / HTTP/1.1\r\nHost: \r\n\r\n", "the host is empty"),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "a character that no host has"),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "a character that no host has"),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "user information"),
            ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "port"),
            ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "bracket"),
            ("GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n", "a character that no host has"),
        ],
    );
}

#[test]
fn a_target_that_two_could_read_differently_is_400() {
    check_all(
        400,
        &[
            ("GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", "climbs above the root"),
            ("GET /a/%2e%2E/../x HTTP/1.1\r\nHost: a\r\n\r\n", "climbs above the root"),
            ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", "backslash"),
            ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "two hex digits"),
            ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", "NUL"),
            ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", "fragment"),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS"),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "scheme"),
        ],
    );
}

#[test]
fn an_unclear_framing_is_400() {
    let post = |version: &str, fields: &str| format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
    let cases = [
        ("1.1", "Content-Length: 3\r\nContent-Length: 4\r\n", "twice with different values"),
        ("1.1", "Content-Length: 3, 3\r\n", "not a number"),
        ("1.1", "Content-Length: +3\r\n", "not a number"),
        ("1.1", "Content-Length: 18446744073709551616\r\n", "not a number"),
        ("1.1", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "beside Transfer-Encoding"),
        ("1.1", "Transfer-Encoding: gzip\r\n", "other than chunked"),
        ("1.1", "Transfer-Encoding: gzip, chunked\r\n", "other than chunked"),
        ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "other than chunked"),
        ("1.0", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding in HTTP/1.0"),
    ];
    let requests: Vec<_> = cases.map(|(version, fields, rule)| (post(version, fields), rule)).into();
    let cases: Vec<_> = requests.iter().map(|(request, rule)| (request.as_str(), *rule)).collect();
    check_all(400, &cases);
}

#[test]
fn connect_is_405_and_is_told_what_would_do() {
    let proxy = start_http(&dead_address(), "");
    check(&proxy, "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "CONNECT is not served here");
    let mut client = proxy.client();
    client.send("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(field(&client.head(), "Allow").contains("GET, HEAD"));
}

#[test]
fn other_versions_are_505() {
    check_all(
        505,
        &[
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "only HTTP/1.0 and HTTP/1.1"),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", "only HTTP/1.0 and HTTP/1.1"),
            ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", "only HTTP/1.0 and HTTP/1.1"),
        ],
    );
}

#[test]
fn a_head_may_have_as_many_bytes_and_fields_as_configured_and_no_more() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[limits]\nmax_header_bytes = 600\nmax_headers = 5\n");
    let of_bytes = |bytes: usize| get(&format!("A: {}\r\n", "a".repeat(bytes - get("A: \r\n").len())));
    let of_fields = |fields: usize| get(&"A: b\r\n".repeat(fields - 1));
    for within in [of_bytes(600), of_fields(5)] {
        let mut client = proxy.client();
        client.dribble(within);
        let mut server = backend.accept();
        server.head();
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert!(client.head().starts_with("HTTP/1.1 200 "));
    }
    check(&proxy, of_bytes(601), 431, "the request head is too large");
    check(&proxy, of_bytes(100_000), 431, "the request head is too large");
    check(&proxy, of_fields(6), 431, "too many header fields");
    assert!(!backend.has_client());
}

#[test]
fn a_websocket_request_that_is_none_is_refused() {
    let ask = |fields: &str| get(&format!("Connection: upgrade\r\nUpgrade: websocket\r\n{fields}"));
    let (key, version) = (&format!("Sec-WebSocket-Key: {KEY}\r\n"), "Sec-WebSocket-Version: 13\r\n");
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    check(&proxy, ask(version), 400, "Sec-WebSocket-Key is missing");
    check(&proxy, ask(&[version, key, key].concat()), 400, "Sec-WebSocket-Key is repeated");
    check(&proxy, ask(&format!("{version}Sec-WebSocket-Key: c2hvcnQ=\r\n")), 400, "16 bytes of base64");
    check(&proxy, ask(&format!("{version}{key}Content-Length: 1\r\n")), 400, "has no body");
    check(&proxy, ask(&format!("{version}{key}Transfer-Encoding: chunked\r\n")), 400, "has no body");
    check(&proxy, ask(&format!("{key}Sec-WebSocket-Version: 8\r\n")), 426, "must be 13");
    check(&proxy, ask(key), 426, "must be 13");
    let mut client = proxy.client();
    client.send(ask(key));
    assert_eq!(field(&client.head(), "Sec-WebSocket-Version"), "13");
    assert!(!backend.has_client());
}

#[test]
fn a_head_request_gets_no_body() {
    for (request, status) in [
        ("HEAD / HTTP/1.1\r\nHost: example.com\r\n\r\n", "502"),
        ("HEAD / HTTP/1.1\r\n\r\n", "400"),
        ("HEAD /../x HTTP/1.1\r\nHost: example.com\r\n\r\n", "400"),
        ("HEAD / HTTP/1.1\r\nHost: example.com\r\nContent-Length: x\r\n\r\n", "400"),
    ] {
        let proxy = start_http(&dead_address(), "");
        let mut client = proxy.client();
        client.send(request);
        let head = client.head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert_ne!(field(&head, "Content-Length"), "0");
        client.expect_end();
    }
}

#[test]
fn a_head_that_does_not_come_in_time_is_408_and_silence_is_just_closed() {
    let proxy = start_http(&dead_address(), "[timeouts]\nhandshake = \"100ms\"\n");
    let mut client = proxy.client();
    client.send("G");
    expect_answer(&mut client, 408, "did not arrive in time");
    let mut client = proxy.client();
    client.expect_end();
    assert!(proxy.closed_line().contains(" status=408 "));
    assert!(!proxy.closed_line().contains(" status="));
}

#[test]
fn a_proxy_header_in_time_alone_is_no_request_to_answer() {
    let keys = "proxy_protocol = \"v1\"\n[listener.timeouts]\nhandshake = \"100ms\"\n";
    let proxy = with_route(&dead_address(), keys, "");
    for header in ["PROXY TCP4 192.0.2.1", "PROXY UNKNOWN\r\n"] {
        let mut client = proxy.client();
        client.send(header);
        client.expect_end();
    }
}

#[test]
fn more_bytes_do_not_extend_the_handshake() {
    let proxy =
        start_http(&dead_address(), "[timeouts]\nhandshake = \"200ms\"\n[limits]\nmax_header_bytes = 512\n");
    let mut client = proxy.client();
    client.send("GET /");
    client.stream.get_ref().set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let blocked = |result: io::Result<usize>| {
        result.is_err_and(|e| matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    };
    // As long as the answer takes: if bytes extended the time, until the head is too large.
    while blocked(client.stream.get_ref().peek(&mut [0])) {
        client.send("a");
    }
    client.stream.get_ref().set_read_timeout(Some(common::WAIT)).unwrap();
    expect_answer(&mut client, 408, "did not arrive in time");
}

#[test]
fn a_body_that_stops_coming_is_408() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\nresponse = \"100ms\"\n");
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    let mut server = backend.accept();
    server.head();
    expect_answer(&mut client, 408, "did not arrive in time");
    assert_eq!(server.everything(), "half");
}

/// A proxy without an upstream for all, with one route.
fn with_route(server: &str, listener: &str, route: &str) -> Running {
    start(&format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\n{listener}\n[[listener.route]]\nupstream = \"u\"\n{route}\n\
         [upstream.u]\nservers = [\"{server}\"]\n"
    ))
}

#[test]
fn a_request_without_a_route_is_404() {
    let proxy = with_route(&dead_address(), "", "host = \"a.example.com\"\npath = \"/chat\"");
    check(&proxy, "GET /chat HTTP/1.1\r\nHost: b.example.com\r\n\r\n", 404, "no route");
    check(&proxy, "GET /chatter HTTP/1.1\r\nHost: a.example.com\r\n\r\n", 404, "no route");
    check(&proxy, "GET /chat/../x HTTP/1.1\r\nHost: a.example.com\r\n\r\n", 404, "no route");
    check(&proxy, "GET /chat HTTP/1.0\r\n\r\n", 404, "no route");
    check(&proxy, "GET /chat HTTP/1.1\r\nHost: a.example.com\r\n\r\n", 502, "no server could be reached");
}

#[test]
fn a_network_that_is_not_let_in_is_403() {
    let outside = "this client network is not let in";
    let dead = dead_address();
    let proxy = with_route(&dead, "", "deny = [\"127.0.0.0/8\"]");
    check(&proxy, get(""), 403, outside);
    let proxy = with_route(&dead, "", "allow = [\"10.0.0.0/8\"]");
    check(&proxy, get(""), 403, outside);
    check(&proxy, get("X-Forwarded-For: 10.0.0.1\r\n"), 403, outside);
    let trusting = "trusted_proxies = [\"127.0.0.1\"]";
    let proxy = with_route(&dead, trusting, "allow = [\"10.0.0.0/8\"]\ndeny = [\"10.1.0.0/16\"]");
    check(&proxy, get("X-Forwarded-For: 10.0.0.1\r\n"), 502, "");
    check(&proxy, get("X-Forwarded-For: 10.1.0.1\r\n"), 403, outside);
    check(&proxy, get("X-Forwarded-For: 10.0.0.1, 192.0.2.1\r\n"), 403, outside);
    let proxy = with_route(&dead, "", "allow = [\"127.0.0.1\"]");
    check(&proxy, get(""), 502, "");
}

#[test]
fn an_origin_that_is_not_allowed_is_403() {
    let proxy = with_route(&dead_address(), "", "origins = [\"https://example.com\"]");
    let ask = |fields: &str| upgrade_request("/").replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
    let outside = "this Origin is not allowed";
    check(&proxy, ask(""), 403, outside);
    check(&proxy, ask("Origin: https://example.com.evil.test\r\n"), 403, outside);
    check(&proxy, ask("Origin: https://example.com\r\nOrigin: https://evil.test\r\n"), 403, outside);
    check(&proxy, ask("Origin: https://example.com\r\n"), 502, "");
    check(&proxy, get("Origin: https://evil.test\r\n"), 403, outside);
    check(&proxy, get(""), 502, "");
}

#[test]
fn one_client_too_many_of_an_address_is_429_until_another_leaves() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[limits]\nmax_connections_per_ip = 1\n");
    let (client, server) = open_tunnel(&proxy, &backend);
    let mut refused = proxy.client();
    refused.send(get(""));
    expect_answer(&mut refused, 429, "too many connections from this address");
    drop((client, server, refused));
    proxy.await_empty();
    open_tunnel(&proxy, &backend);
}

#[test]
fn one_tcp_client_too_many_of_an_address_is_closed_until_another_leaves() {
    let backend = Backend::new();
    let proxy = start_tcp(&backend.address(), "[limits]\nmax_connections_per_ip = 1\n");
    let (client, server) = (proxy.client(), backend.accept());
    proxy.client().expect_end();
    drop((client, server));
    proxy.await_empty();
    let mut client = proxy.client();
    backend.accept().send("in");
    client.expect("in");
}

#[test]
fn clients_of_a_trusted_proxy_are_counted_by_their_own_address() {
    let config = format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [upstream.u]\nservers = [\"{}\"]\n[limits]\nmax_connections_per_ip = 1\n",
        dead_address()
    );
    let proxy = start(&config);
    let from = |ip: &str| {
        let mut client = proxy.client();
        client.send(get(&format!("X-Forwarded-For: {ip}\r\n")));
        client
    };
    let mut first = from("192.0.2.1"); // counted until it has read its answer and left
    assert!(first.head().starts_with("HTTP/1.1 502 "));
    expect_answer(&mut from("192.0.2.2"), 502, "");
    expect_answer(&mut from("192.0.2.1"), 429, "too many");
}

#[test]
fn tcp_clients_get_no_answer() {
    let proxy = start_tcp(&dead_address(), "");
    proxy.client().expect_end();
    let line = proxy.closed_line();
    assert!(line.ends_with(" outcome=\"no server could be reached\" ended_by=adit"), "{line}");
}

#[test]
fn no_server_to_be_reached_is_502() {
    let proxy = start_http(&dead_address(), "");
    check(&proxy, get(""), 502, "no server could be reached");
    check(&proxy, upgrade_request("/"), 502, "no server could be reached");
}

#[test]
fn full_servers_are_503_until_one_has_room() {
    let backend = Backend::new();
    let proxy = start(&format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = [{{ address = \"{}\", max_conns = 1 }}]\n",
        backend.address()
    ));
    let (client, server) = open_tunnel(&proxy, &backend);
    check(&proxy, get(""), 503, "every server is full");
    check(&proxy, upgrade_request("/"), 503, "every server is full");
    drop((client, server));
    proxy.await_empty();
    open_tunnel(&proxy, &backend);
}

#[test]
fn a_server_that_does_not_answer_is_504() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[timeouts]\nresponse = \"100ms\"\n");
    for request in [get(""), upgrade_request("/")] {
        check(&proxy, request, 504, "the server did not answer in time");
    }
}

#[test]
fn a_server_that_is_not_connected_in_time_is_504() {
    // A listening socket that nobody accepts from and whose queue is full answers no SYN.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _queued = Client::connect(address);
    let proxy = start_http(&address.to_string(), "[timeouts]\nconnect = \"100ms\"\n");
    check(&proxy, get(""), 504, "no server was connected in time");
}

/// What was logged at `warn`, by all tests of this file.
static WARNINGS: Mutex<String> = Mutex::new(String::new());

struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.level() == log::Level::Warn {
            *WARNINGS.lock().unwrap() += &format!("{}\n", record.args());
        }
    }

    fn flush(&self) {}
}

/// Expects `answer` to be refused in the server's place, as it comes and in one-byte pieces, and the server to be named
/// in a warning.
#[track_caller]
fn check_malformed(request: &str, answer: impl AsRef<[u8]>, rule: &str) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        log::set_logger(&Warnings).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
    let send: [fn(&mut Client, &[u8]); 2] =
        [|server, bytes| server.send(bytes), |server, bytes| server.dribble(bytes)];
    for send in send {
        let backend = Backend::new();
        let proxy = start_http(&backend.address(), "[limits]\nmax_header_bytes = 600\nmax_headers = 5\n");
        let mut client = proxy.client();
        client.send(request);
        let mut server = backend.accept();
        server.head();
        send(&mut server, answer.as_ref());
        server.stream.get_ref().shutdown(std::net::Shutdown::Write).ok();
        expect_answer(&mut client, 502, rule);
        let warning = format!("server {} of upstream u failed and is out for now: {rule}", backend.address());
        assert!(WARNINGS.lock().unwrap().contains(&warning), "{warning}");
    }
}

#[test]
fn a_server_that_speaks_no_http_is_502_and_warned_of() {
    let malformed = |answer: &str, rule: &str| {
        for request in [&get(""), &upgrade_request("/")] {
            check_malformed(request, answer, rule);
        }
    };
    let fields = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    malformed("SSH-2.0-OpenSSH_9.9\r\n\r\n", "the response is not HTTP/1.0 or HTTP/1.1");
    malformed("HTTP/2.0 200 OK\r\n\r\n", "the response is not HTTP/1.0 or HTTP/1.1");
    malformed("HTTP/1.1 99 Low\r\n\r\n", "the response");
    malformed("HTTP/1.1 200 OK\nA: b\n\n", "an LF without CR in the head");
    malformed(&fields("A: b\r\n c\r\n"), "a folded header field");
    malformed(&fields("A: \x7f\r\n"), "a control character in the head");
    malformed(&fields("A : b\r\n"), "the response head is malformed");
    malformed(&fields(&"A: b\r\n".repeat(6)), "the response has too many header fields");
    malformed(&fields(&format!("A: {}\r\n", "b".repeat(600))), "the response head is too large");
    malformed(&fields("Content-Length: x\r\n"), "Content-Length is not a number");
    malformed(
        &fields("Content-Length: 3\r\nContent-Length: 4\r\n"),
        "Content-Length comes twice with different values",
    );
    malformed(
        &fields("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
        "Content-Length beside Transfer-Encoding",
    );
    malformed(&fields("Transfer-Encoding: gzip\r\n"), "a Transfer-Encoding other than chunked");
    malformed("HTTP/1.1 200 OK\r\nA: b\r\n", "the response head is not complete");
    malformed(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(33), "too many interim responses");
}

#[test]
fn a_101_that_nobody_asked_for_is_502_and_warned_of() {
    check_malformed(&get(""), switching(), "the server switched protocols without being asked");
}

#[test]
fn a_101_that_proves_nothing_is_502_and_warned_of() {
    let ask = upgrade_request("/");
    let (connection, upgrade) = ("Connection: Upgrade\r\n", "Upgrade: websocket\r\n");
    let accept = &format!("Sec-WebSocket-Accept: {ACCEPT}\r\n");
    let other = "the server's 101 switches to another protocol";
    let unproven = "the server's Sec-WebSocket-Accept is wrong";
    for (fields, rule) in [
        (&[upgrade, accept][..], "the server's 101 has no Connection: upgrade"),
        (&["Connection: close\r\n", upgrade, accept], "the server's 101 has no Connection: upgrade"),
        (&[connection, accept], other),
        (&[connection, "Upgrade: h2c\r\n", accept], other),
        (&[connection, "Upgrade: websocket, h2c\r\n", accept], other),
        (&[connection, upgrade], unproven),
        (&[connection, upgrade, accept, accept], unproven),
        (&[connection, upgrade, "Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"], unproven),
    ] {
        check_malformed(&ask, format!("HTTP/1.1 101 Sure\r\n{}\r\n", fields.concat()), rule);
    }
}

#[test]
fn a_refusal_is_logged_with_its_rule_and_nothing_of_the_fields() {
    let proxy = start_http(&dead_address(), "");
    let mut client = proxy.client();
    client.send("GET /x?token=secret HTTP/1.1\r\nHost: example.com\r\nCookie: secret\r\n\r\n");
    expect_answer(&mut client, 502, "");
    let line = proxy.closed_line();
    for part in [
        " event=close ",
        &format!(" client={} ", client.local_addr()),
        " host=example.com method=GET path=/x status=502 upstream=u server=127.0.0.1:",
        " bytes_up=0 bytes_down=0 ",
    ] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    assert!(line.ends_with(" outcome=\"no server could be reached\" ended_by=adit"), "{line}");
    assert!(!line.contains("secret"));
}

#[test]
fn a_request_that_breaks_a_rule_is_logged_as_far_as_it_could_be_read() {
    let proxy = start_http(&dead_address(), "");
    proxy.client().send("POST /x HTTP/1.1\r\nHost: a\"b\r\n\r\n");
    let line = proxy.closed_line();
    assert!(line.contains(r#" host="a\"b" method=POST path=/x status=400 "#), "{line}");
    let mut client = proxy.client();
    client.send("GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n");
    expect_answer(&mut client, 502, "");
    let line = proxy.closed_line();
    assert!(line.contains(" host=b method=GET path=/x status=502 "), "{line}");
}
