//! Plain requests and their responses, on real sockets: each by its own framing, whole, and not a byte beyond it.

mod common;

use common::{Backend, Client, Running, start, start_http};

/// A request and whatever fields and body it has.
fn post(fields_and_body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: example.com\r\n{fields_and_body}")
}

const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";

/// Sends a request; the client's end, and the server's, behind the head that it got.
fn ask(proxy: &Running, backend: &Backend, request: &str) -> (Client, Client, String) {
    let mut client = proxy.client();
    client.send(request);
    let mut server = backend.accept();
    let head = server.head();
    (client, server, head)
}

/// A proxy in front of a server, which is asked this.
fn asked(request: &str) -> (Client, Client, Running) {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let (client, server, _) = ask(&proxy, &backend, request);
    (client, server, proxy)
}

/// Expects what a client gets for a server's answer, all of it, and a clean end behind it.
#[track_caller]
fn check(request: &str, answer: &str, wanted: &str) {
    let (mut client, mut server, _proxy) = asked(request);
    server.send(answer);
    let got = client.rest().expect("a clean end");
    assert_eq!(String::from_utf8_lossy(&got), wanted);
}

/// Megabytes in which no place looks like another.
fn content() -> Vec<u8> {
    (0..1_000_003u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// The same in chunks of all sizes.
fn chunked(content: &[u8]) -> Vec<u8> {
    let (mut out, mut rest, mut size) = (Vec::new(), content, 1);
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(size.min(rest.len()));
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        (rest, size) = (behind, size * 3 % 200_001);
    }
    [&out[..], b"0\r\n\r\n"].concat()
}

// Bodies.

/// Sends this as a request and as an answer, and expects it at the other side, and nothing behind it.
fn carry(framing: &str, body: &[u8]) {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            client.send(post(&format!("{framing}\r\n")));
            client.send(body);
            client.send("GET /second HTTP/1.1\r\nHost: example.com\r\n\r\n");
            let head = client.head();
            assert!(head.contains(framing), "{head}");
            assert!(client.bytes(body.len()) == *body, "the response's body is another");
            client.expect_end();
        });
        let mut server = backend.accept();
        let head = server.head();
        assert!(head.contains(framing), "{head}");
        assert!(server.bytes(body.len()) == *body, "the request's body is another");
        server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n"));
        server.send(body);
        let _ = server.try_send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond");
        client.join().expect("the client has what it wants");
        assert_eq!(server.everything(), "", "nothing behind the request");
    });
    let line = proxy.closed_line();
    let bytes = format!(" bytes_up={0} bytes_down={0} ", body.len());
    assert!(line.contains(&bytes) && line.ends_with(" outcome=finished ended_by=server"), "{line}");
}

#[test]
fn bodies_of_a_known_length_pass_whole_and_nothing_behind_them() {
    let content = content();
    carry(&format!("Content-Length: {}\r\n", content.len()), &content);
    carry("Content-Length: 0\r\n", b"");
}

#[test]
fn chunked_bodies_pass_whole_and_nothing_behind_them() {
    carry("Transfer-Encoding: chunked\r\n", &chunked(&content()));
    carry("Transfer-Encoding: chunked\r\n", b"0\r\n\r\n");
}

#[test]
fn a_body_until_close_passes_whole() {
    let (mut client, mut server, _proxy) = asked(GET);
    let content = content();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server.send("HTTP/1.1 200 OK\r\n\r\n");
            server.send(&content);
            drop(server);
        });
        assert_eq!(client.head(), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        assert!(client.rest().expect("a clean end") == content);
    });
}

#[test]
fn bodies_pass_in_one_byte_pieces() {
    let body = "4;x=y\r\nWiki\r\n5\r\npedia\r\n0\r\nTrailer: x\r\n\r\n";
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    client.dribble(post(&format!("Transfer-Encoding: chunked\r\n\r\n{body}GET /second")));
    let mut server = backend.accept();
    server.head();
    let plain = "4\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\n";
    server.expect(plain);
    server.dribble(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}HTTP/1.1 200 OK"));
    client.head();
    client.expect(plain);
    client.expect_end();
    assert_eq!(server.everything(), "");
}

#[test]
fn a_body_passes_before_it_is_complete() {
    let (mut client, mut server, _proxy) = asked(&post("Content-Length: 6\r\n\r\none"));
    server.expect("one");
    client.send("two");
    server.expect("two");
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    client.head();
    client.expect("3\r\none\r\n");
    server.send("0\r\n\r\n");
    client.expect("0\r\n\r\n");
    client.expect_end();
}

#[test]
fn a_chunked_response_is_decoded_for_http_1_0() {
    let (mut client, mut server, _proxy) = asked("GET / HTTP/1.0\r\n\r\n");
    let content = content();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            server.send(chunked(&content));
            server.everything();
        });
        assert_eq!(client.head(), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        assert!(client.rest().expect("a clean end") == content);
    });
}

#[test]
fn a_response_that_has_no_body_ends_with_its_head() {
    let extra = "not for you";
    let closing = "Connection: close\r\n\r\n";
    for (request, answer, wanted) in [
        (GET.replace("GET", "HEAD"), "200 OK\r\nContent-Length: 11\r\n", "200 OK\r\nContent-Length: 11\r\n"),
        (GET.replace("GET", "HEAD"), "200 OK\r\nTransfer-Encoding: chunked\r\n", "200 OK\r\n"),
        (GET.to_owned(), "204 No Content\r\nContent-Length: 11\r\n", "204 No Content\r\n"),
        (
            GET.to_owned(),
            "304 Not Modified\r\nContent-Length: 11\r\n",
            "304 Not Modified\r\nContent-Length: 11\r\n",
        ),
    ] {
        let answer = format!("HTTP/1.1 {answer}\r\n{extra}");
        check(&request, &answer, &format!("HTTP/1.1 {wanted}{closing}"));
    }
}

#[test]
fn a_response_head_is_rebuilt_with_connection_close() {
    check(
        GET,
        "HTTP/1.0 200 Fine\r\nServer: s\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
         Upgrade: h2c\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 Fine\r\nServer: s\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 2\r\n\
         Connection: close\r\n\r\nok",
    );
}

// Interim responses.

#[test]
fn a_100_reaches_only_a_client_that_asked_for_it() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let expect = "Expect: 100-Continue\r\n";
    let length = "Content-Length: 4\r\n\r\n";
    let (mut client, mut server, _proxy) = asked(&post(&format!("{expect}{length}")));
    server.send(interim);
    client.expect(interim);
    client.send("body");
    server.expect("body");
    server.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 204 "));

    let (mut client, mut server, _proxy) = asked(&post(&format!("{length}body")));
    server.expect("body");
    server.send(format!("{interim}HTTP/1.1 204 No Content\r\n\r\n"));
    assert!(client.head().starts_with("HTTP/1.1 204 "));

    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let old = format!("POST / HTTP/1.0\r\n{expect}{length}body");
    let (mut client, mut server, head) = ask(&proxy, &backend, &old);
    assert!(!head.contains("Expect"), "{head}");
    server.send(format!("{interim}HTTP/1.1 204 No Content\r\n\r\n"));
    assert!(client.head().starts_with("HTTP/1.1 204 "));
}

#[test]
fn other_interim_responses_are_passed_on() {
    let (mut client, mut server, _proxy) = asked(GET);
    server.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n");
    client.expect("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    server.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    client.expect(
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    client.expect_end();
}

// Endings.

#[test]
fn a_response_may_come_before_the_request_is_complete() {
    let (mut client, mut server, proxy) = asked(&post("Content-Length: 100000000\r\n\r\nonly this much"));
    server.expect("only this much");
    server.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
    drop(server);
    assert!(client.head().starts_with("HTTP/1.1 413 "));
    // The answer is not lost to a reset, whatever the client still sends.
    client.send(vec![b'x'; 1 << 20]);
    client.expect("no");
    client.expect_end();
    let line = proxy.closed_line();
    assert!(line.contains(" status=413 ") && line.ends_with(" outcome=finished ended_by=server"), "{line}");
}

#[test]
fn a_server_that_stops_reading_can_still_answer() {
    let (mut client, mut server, _proxy) = asked(&post("Content-Length: 100000000\r\n\r\n"));
    std::thread::scope(|scope| {
        let mut sender = Client::of(client.stream.get_ref().try_clone().unwrap());
        scope.spawn(move || while sender.try_send(vec![b'x'; 100_000]).is_ok() {});
        server.bytes(1_000_000);
        server.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
        assert!(client.head().starts_with("HTTP/1.1 413 "));
        client.expect("no");
        client.expect_end();
        client.stream.get_ref().shutdown(std::net::Shutdown::Both).unwrap();
    });
}

#[test]
fn an_answer_is_not_lost_to_the_reset_behind_it() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    for _ in 0..20 {
        let mut client = proxy.client();
        client.send(post("Content-Length: 100000000\r\n\r\n"));
        let mut server = backend.accept();
        client.send(vec![b'x'; 1 << 20]);
        server.head();
        server.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
        drop(server); // with bytes unread, which makes it a reset
        assert!(client.head().starts_with("HTTP/1.1 413 "));
        client.expect("no");
    }
}

#[test]
fn a_broken_chunked_request_is_400_and_cut_at_the_server() {
    let begun = "Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    for (sent, broken, rule) in [
        (begun, "x\r\n", "a chunk does not begin with its size"),
        (begun, "3\r\ntwo!", "the data of a chunk is longer than its size"),
        (begun, "1\ntwo", "a chunk size is not hexadecimal"),
        (begun, "10000000000000000\r\n", "a chunk size has too many digits"),
        (begun, "0\r\nno field\r\n\r\n", "a trailer field has no valid name"),
    ] {
        let (mut client, mut server, proxy) = asked(&post(sent));
        server.expect("3\r\none\r\n");
        client.send(broken);
        assert!(client.head().starts_with("HTTP/1.1 400 "), "{broken:?}");
        assert!(client.everything().contains(rule), "{broken:?}");
        let behind = server.everything();
        assert!(!behind.ends_with("0\r\n\r\n"), "cut and not ended: {behind:?}");
        let line = proxy.closed_line();
        assert!(line.contains(" status=400 ") && line.contains(rule), "{line}");
    }
}

#[test]
fn a_request_that_is_broken_from_the_beginning_is_400_too() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let mut client = proxy.client();
    client.send(post("Transfer-Encoding: chunked\r\n\r\nnonsense"));
    assert!(client.head().starts_with("HTTP/1.1 400 "));
}

/// How a response's end looks to the client that gets it.
#[derive(Debug, PartialEq)]
enum Seen {
    Clean,
    Reset,
}

/// The bytes behind the head of a response, and how they end, where the server sends a part of it and then `leave`s.
fn cut(request: &str, part: &str, leave: fn(Client)) -> (String, Seen, String) {
    let (mut client, mut server, proxy) = asked(request);
    server.send(part);
    client.head();
    let begun = part.split_once("\r\n\r\n").unwrap().1;
    let begun = if request.contains("1.0") { begun.split("\r\n").nth(1).unwrap() } else { begun };
    client.expect(begun);
    leave(server);
    let (rest, seen) = match client.rest() {
        Ok(rest) => (rest, Seen::Clean),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            (Vec::new(), Seen::Reset)
        }
    };
    (String::from_utf8(rest).unwrap(), seen, proxy.closed_line())
}

#[test]
fn a_truncated_response_does_not_look_whole() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    let (rest, _, line) = cut(GET, length, drop);
    assert_eq!(rest, "", "fewer bytes than Content-Length says");
    assert!(line.ends_with(" outcome=truncated ended_by=server"), "{line}");

    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    let (rest, _, line) = cut(GET, chunks, drop);
    assert_eq!(rest, "", "no last chunk");
    assert!(line.ends_with(" outcome=truncated ended_by=server"), "{line}");

    // A client of HTTP/1.0 sees no chunks: nothing but the end tells it.
    let (_, seen, line) = cut("GET / HTTP/1.0\r\n\r\n", chunks, drop);
    assert_eq!(seen, Seen::Reset);
    assert!(line.ends_with(" outcome=truncated ended_by=server"), "{line}");
}

#[test]
fn a_broken_chunked_response_does_not_look_whole() {
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    for request in [GET, "GET / HTTP/1.0\r\n\r\n"] {
        let (_, seen, line) = cut(request, chunks, |mut server| server.send("nonsense"));
        assert_eq!(seen, Seen::Reset, "{request}");
        let reason = " outcome=\"a chunk does not begin with its size\" ended_by=server";
        assert!(line.ends_with(reason), "{line}");
    }
}

#[test]
fn a_server_that_resets_in_its_response_resets_the_client() {
    for part in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
        "HTTP/1.1 200 OK\r\n\r\nuntil close",
    ] {
        let (_, seen, line) = cut(GET, part, Client::reset);
        assert_eq!(seen, Seen::Reset, "{part}");
        assert!(line.ends_with(" outcome=reset ended_by=server"), "{line}");
    }
}

#[test]
fn a_client_that_leaves_frees_the_server() {
    let body = post("Content-Length: 10\r\n\r\nhalf");
    for (request, leave, outcome) in [
        (body.as_str(), drop as fn(Client), "truncated"), // in its request
        (&body, Client::reset, "reset"),
        (GET, Client::reset, "reset"), // while the server thinks
    ] {
        let (client, mut server, proxy) = asked(request);
        leave(client);
        server.everything();
        let line = proxy.closed_line();
        assert!(line.ends_with(&format!(" outcome={outcome} ended_by=client")), "{line}");
        proxy.await_empty();
    }
}

#[test]
fn a_client_that_leaves_in_its_response_frees_the_server() {
    for leave in [drop as fn(Client), Client::reset] {
        let (mut client, mut server, proxy) = asked(GET);
        server.send("HTTP/1.1 200 OK\r\n\r\nbegun");
        client.head();
        client.expect("begun");
        leave(client);
        server.try_send("more").ok(); // only this tells a client that is gone from one that has half-closed
        assert_eq!(server.everything(), "");
        let line = proxy.closed_line();
        assert!(line.ends_with(" outcome=reset ended_by=client"), "{line}");
        proxy.await_empty();
    }
}

#[test]
fn a_client_that_resets_in_a_response_that_pauses_frees_the_server() {
    let (mut client, mut server, proxy) = asked(GET);
    server.send("HTTP/1.1 200 OK\r\n\r\nbegun");
    client.head();
    client.expect("begun");
    client.reset();
    assert_eq!(server.everything(), "");
    assert!(proxy.closed_line().ends_with(" outcome=reset ended_by=client"));
}

#[test]
fn a_client_that_half_closes_gets_its_response() {
    let (mut client, mut server, _proxy) = asked(GET);
    client.finish();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    client.head();
    client.expect("ok");
    client.expect_end();
}

// The log.

#[test]
fn a_plain_request_is_logged_once_as_text() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let request = "POST /a%20b?token=secret HTTP/1.1\r\nHost: example.com\r\nCookie: secret\r\n\
                   Content-Length: 5\r\n\r\nbody\n";
    let (mut client, mut server, _) = ask(&proxy, &backend, request);
    server.expect("body\n");
    server.send("HTTP/1.1 201 Created\r\nContent-Length: 2\r\nSet-Cookie: secret\r\n\r\nok");
    client.rest().expect("a clean end");
    let line = proxy.log_line();
    let parts: Vec<&str> = line.split(' ').collect();
    let value = |key: &str| {
        let values: Vec<_> =
            parts.iter().filter_map(|part| part.strip_prefix(key)?.strip_prefix('=')).collect();
        assert_eq!(values.len(), 1, "{key} in {line}");
        values[0].to_owned()
    };
    for (key, wanted) in [
        ("event", "close".to_owned()),
        ("client", client.local_addr().to_string()),
        ("host", "example.com".to_owned()),
        ("method", "POST".to_owned()),
        ("path", "/a%20b".to_owned()),
        ("status", "201".to_owned()),
        ("upstream", "u".to_owned()),
        ("server", backend.address()),
        ("bytes_up", "5".to_owned()),
        ("bytes_down", "2".to_owned()),
        ("outcome", "finished".to_owned()),
        ("ended_by", "server".to_owned()),
    ] {
        assert_eq!(value(key), wanted, "{key}");
    }
    assert!(value("time").ends_with('Z') && value("id").len() == 32);
    assert!(value("duration").parse::<f64>().is_ok());
    assert!(!line.contains("secret"));
    drop((client, server));
    proxy.await_empty();
}

#[test]
fn a_plain_request_is_logged_as_json_with_its_query_where_that_is_wanted() {
    let backend = Backend::new();
    let proxy = start(&format!(
        "[log]\nformat = \"json\"\nquery = true\n[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = [{:?}]\n",
        backend.address()
    ));
    let (mut client, mut server, _) =
        ask(&proxy, &backend, "GET /\"x?q=1 HTTP/1.1\r\nHost: example.com\r\n\r\n");
    server.send("HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n");
    client.rest().expect("a clean end");
    let line: serde_json::Value = serde_json::from_str(&proxy.log_line()).expect("JSON");
    for (key, wanted) in [
        ("event", "close"),
        ("host", "example.com"),
        ("method", "GET"),
        ("path", "/\"x?q=1"),
        ("upstream", "u"),
        ("outcome", "finished"),
        ("ended_by", "server"),
    ] {
        assert_eq!(line[key], wanted, "{key}");
    }
    assert_eq!(
        (&line["status"], &line["bytes_up"], &line["bytes_down"]),
        (&404.into(), &0.into(), &12.into())
    );
    assert!(line["duration"].is_f64() && line["id"].is_string() && line["time"].is_string());
}
