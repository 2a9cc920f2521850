use super::*;
use crate::plan::PoolId;
use crate::proto::head::parse_request;

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A route as a listener's own `upstream` makes it.
fn route() -> Route {
    Route::catch_all(PoolId(0))
}

/// What a server is told about a client that nobody speaks for.
fn stranger() -> Introduction<'static> {
    Introduction {
        peer: Some([192, 0, 2, 1].into()),
        trusted: false,
        client: Some([192, 0, 2, 1].into()),
        request_id: b"id",
        host_fallback: "pool",
    }
}

/// The same where the peer is a trusted proxy that speaks for 203.0.113.9.
fn proxied() -> Introduction<'static> {
    Introduction { trusted: true, client: Some([203, 0, 113, 9].into()), ..stranger() }
}

/// A request line and fields, `|` for each line's end.
fn text(lines: &str) -> String {
    lines.split('|').map(|line| format!("{line}\r\n")).collect::<String>() + "\r\n"
}

fn read_text(text: &str) -> Result<Request<'_>, Refusal> {
    read(parse_request(text.as_bytes(), 100)?)
}

#[track_caller]
fn refused(lines: &str, refusal: Refusal) {
    assert_eq!(read_text(&text(lines)).expect_err(lines), refusal, "{lines}");
}

#[track_caller]
fn let_through(lines: &str) {
    read_text(&text(lines)).unwrap_or_else(|refusal| panic!("{lines}: {refusal:?}"));
}

#[test]
fn a_request_without_one_valid_host_is_refused() {
    let bad = Refusal::BadRequest;
    refused("GET / HTTP/1.1", bad("Host is missing"));
    refused("GET http://a/ HTTP/1.1", bad("Host is missing"));
    refused("GET / HTTP/1.1|Host: a|Host: a", bad("Host is repeated"));
    refused("GET / HTTP/1.1|Host: a|host: b", bad("Host is repeated"));
    refused("GET / HTTP/1.0|Host: a|Host: a", bad("Host is repeated"));
    refused("GET / HTTP/1.1|Host: ", bad("the host is empty"));
    refused("GET / HTTP/1.1|Host: a b", bad("the host holds a character that no host has"));
    refused("GET / HTTP/1.1|Host: a/b", bad("the host holds a character that no host has"));
    refused("GET / HTTP/1.1|Host: a, b", bad("the host holds a character that no host has"));
    refused("GET / HTTP/1.1|Host: u@a", bad("the host comes with user information"));
    refused("GET / HTTP/1.1|Host: a:b", bad("the host's port is no number up to 65535"));
    // Though it is overridden by the target's authority.
    refused("GET http://a/ HTTP/1.1|Host: b/c", bad("the host holds a character that no host has"));
    refused("GET / HTTP/1.0|Host: ", bad("the host is empty"));
    let_through("GET / HTTP/1.0");
    let_through("GET / HTTP/1.1|Host: a:80");
    let_through("GET / HTTP/1.1|Host: [::1]:80");
}

#[test]
fn a_request_with_two_framings_is_refused() {
    let bad = Refusal::BadRequest;
    let twice = bad("Content-Length comes twice with different values");
    refused("POST / HTTP/1.1|Host: a|Content-Length: 1|Content-Length: 2", twice);
    let beside = bad("Content-Length beside Transfer-Encoding");
    refused("POST / HTTP/1.1|Host: a|Content-Length: 1|Transfer-Encoding: chunked", beside.clone());
    refused("POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked|Content-Length: 0", beside.clone());
    refused("GET / HTTP/1.1|Host: a|Content-Length: 0|Transfer-Encoding: identity", beside);
    refused("POST / HTTP/1.1|Host: a|Content-Length: 1, 1", bad("Content-Length is not a number"));
    refused("POST / HTTP/1.1|Host: a|Content-Length: +1", bad("Content-Length is not a number"));
    let coding = bad("a Transfer-Encoding other than chunked");
    refused("POST / HTTP/1.1|Host: a|Transfer-Encoding: gzip, chunked", coding.clone());
    refused("POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked, identity", coding.clone());
    refused(
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: \x0bchunked",
        bad("a header field's value is malformed"),
    );
    refused("POST / HTTP/1.1|Host: a|Transfer-Encoding: ", coding.clone());
    refused("POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked|Transfer-Encoding: chunked", coding);
    refused("POST / HTTP/1.0|Host: a|Transfer-Encoding: chunked", bad("Transfer-Encoding in HTTP/1.0"));
}

/// Each option is compared with each field's name: a head of 16 KiB full of both used to take 1.5 ms.
#[test]
fn a_request_with_endless_connection_options_is_refused() {
    let too_many = Refusal::BadRequest("Connection has too many options");
    let options = |count: usize| format!("GET / HTTP/1.1|Host: a|Connection: {}", "x,".repeat(count));
    let_through(&options(100));
    refused(&options(101), too_many.clone());
    refused(&format!("{}|Connection: y", options(100)), too_many);
    let_through(&format!("GET / HTTP/1.1|Host: a|Connection: {}x", ",".repeat(1000)));
}

#[test]
fn a_request_for_another_kind_of_proxy_is_refused() {
    refused("CONNECT a:443 HTTP/1.1|Host: a:443", Refusal::ConnectMethod);
    refused("CONNECT / HTTP/1.1", Refusal::ConnectMethod);
    let scheme = Refusal::BadRequest("the request target's scheme is not served here");
    refused("GET ftp://a/ HTTP/1.1|Host: a", scheme);
    let nothing = Refusal::BadRequest("the request target is no path and no URI");
    refused("GET a:443 HTTP/1.1|Host: a", nothing.clone());
    refused("connect a:443 HTTP/1.1|Host: a:443", nothing);
    let above = Refusal::BadRequest("the path climbs above the root");
    refused("GET /a/%2e%2e/../b HTTP/1.1|Host: a", above);
}

fn wanted_on(lines: &str, route: &Route) -> Result<Wanted, Refusal> {
    wanted(&read_text(&text(lines)).unwrap_or_else(|refusal| panic!("{lines}: {refusal:?}")), route)
}

/// The protocol of the tunnel that these fields ask for; `None`: a plain request.
#[track_caller]
fn check_wanted(line: &str, fields: &str, expected: Option<&str>) {
    let lines = format!("{line}|Host: a|Sec-WebSocket-Version: 13|{}|{fields}", KEY.trim_end());
    let protocol = match wanted_on(&lines, &route()).unwrap() {
        Wanted::Plain => None,
        Wanted::Upgrade { protocol, accept } => {
            assert_eq!(accept, Some(Accept::of(b"dGhlIHNhbXBsZSBub25jZQ==")), "{lines}");
            Some(protocol)
        }
    };
    assert_eq!(protocol.as_deref(), expected, "{lines}");
}

#[test]
fn what_becomes_a_tunnel_and_what_does_not() {
    let websocket = Some("websocket");
    let get = "GET / HTTP/1.1";
    check_wanted(get, "Connection: Upgrade|Upgrade: websocket", websocket);
    check_wanted(get, "connection: uPGRADE|upgrade: WebSocket", websocket);
    check_wanted(get, "Connection: keep-alive, Upgrade|Upgrade: websocket", websocket);
    check_wanted(get, "Connection: keep-alive,,\tupgrade ,x|Upgrade: websocket", websocket);
    check_wanted(get, "Connection: keep-alive|Upgrade: websocket|Connection: upgrade", websocket);
    check_wanted(get, "Connection: upgrade|Upgrade: h2c, websocket", websocket);
    check_wanted(get, "Connection: upgrade|Upgrade: h2c|Upgrade: websocket", websocket);
    check_wanted(get, "Connection: upgrade|Upgrade: websocket|Content-Length: 0", websocket);

    check_wanted(get, "Upgrade: websocket", None);
    check_wanted(get, "Connection: keep-alive|Upgrade: websocket", None);
    check_wanted(get, "Connection: upgrades|Upgrade: websocket", None);
    check_wanted(get, "Connection: \"upgrade\"|Upgrade: websocket", None);
    check_wanted(get, "Connection: Upgrade", None);
    check_wanted(get, "Connection: Upgrade|Upgrade: ", None);
    check_wanted(get, "Connection: Upgrade|Upgrade: h2c", None);
    check_wanted(get, "Connection: Upgrade|Upgrade: TLS/1.0", None);
    check_wanted(get, "Connection: Upgrade|Upgrade: websocket/13", None);
    check_wanted(get, "Connection: Upgrade|Upgrade: websockets", None);
    let both = "Connection: Upgrade|Upgrade: websocket";
    check_wanted("GET / HTTP/1.0", both, None);
    for method in ["POST", "HEAD", "PUT", "OPTIONS", "get", "GETS"] {
        check_wanted(&format!("{method} / HTTP/1.1"), both, None);
    }
}

#[test]
fn a_websocket_request_has_no_body() {
    let lines = "GET / HTTP/1.1|Host: a|Connection: Upgrade|Upgrade: websocket|";
    let refusal = Err(Refusal::BadRequest("a WebSocket request has no body"));
    assert_eq!(wanted_on(&format!("{lines}Content-Length: 1"), &route()), refusal);
    assert_eq!(wanted_on(&format!("{lines}Transfer-Encoding: chunked"), &route()), refusal);
    let lenient = Route { strictness: Strictness::Lenient, ..route() };
    assert_eq!(wanted_on(&format!("{lines}Content-Length: 1"), &lenient), refusal);
}

#[test]
fn a_route_says_which_protocols_it_carries() {
    let lines = "GET / HTTP/1.1|Host: a|Connection: Upgrade|Upgrade: websocket, Custom";
    let none = Route { upgrade: vec![], ..route() };
    assert_eq!(wanted_on(lines, &none), Ok(Wanted::Plain));
    let custom = Route { upgrade: vec!["custom".into()], ..route() };
    let tunnel = Wanted::Upgrade { protocol: "custom".into(), accept: None };
    assert_eq!(wanted_on(lines, &custom), Ok(tunnel));
    // A body in front of a protocol of which we know nothing: a plain request, as a server may answer it.
    assert_eq!(wanted_on(&format!("{lines}|Content-Length: 1"), &custom), Ok(Wanted::Plain));
}

#[test]
fn a_strict_route_judges_version_and_key_and_a_lenient_one_does_not() {
    let lines = "GET / HTTP/1.1|Host: a|Connection: Upgrade|Upgrade: websocket";
    let lenient = Route { strictness: Strictness::Lenient, ..route() };
    let unjudged = Ok(Wanted::Upgrade { protocol: "websocket".into(), accept: None });
    let bad = Refusal::BadRequest;
    let key = KEY.trim_end();
    for (fields, refusal) in [
        (String::new(), Refusal::WebSocketVersion),
        (format!("Sec-WebSocket-Version: 8|{key}"), Refusal::WebSocketVersion),
        ("Sec-WebSocket-Version: 13".into(), bad("Sec-WebSocket-Key is missing")),
        (format!("Sec-WebSocket-Version: 13|{key}|{key}"), bad("Sec-WebSocket-Key is repeated")),
        (
            "Sec-WebSocket-Version: 13|Sec-WebSocket-Key: short".into(),
            bad("Sec-WebSocket-Key is not 16 bytes of base64"),
        ),
    ] {
        let lines = if fields.is_empty() { lines.to_owned() } else { format!("{lines}|{fields}") };
        assert_eq!(wanted_on(&lines, &route()), Err(refusal), "{lines}");
        assert_eq!(wanted_on(&lines, &lenient), unjudged, "{lines}");
    }
}

/// The request for the server, `|` for each line's end but the last two.
fn rebuilt(lines: &str, intro: &Introduction<'_>, route: &Route) -> String {
    let text = text(lines);
    let request = read_text(&text).unwrap_or_else(|refusal| panic!("{lines}: {refusal:?}"));
    let wanted = wanted(&request, route).unwrap_or_else(|refusal| panic!("{lines}: {refusal:?}"));
    let mut rebuilt = Vec::new();
    rebuild(&request, &wanted, intro, route, &mut rebuilt);
    let rebuilt = String::from_utf8(rebuilt).unwrap();
    rebuilt.strip_suffix("\r\n\r\n").expect("a whole head").replace("\r\n", "|")
}

/// What is written behind the fields of a stranger's plain request.
const TAIL: &str = "|Connection: close|X-Forwarded-For: 192.0.2.1|X-Forwarded-Proto: http\
                    |X-Forwarded-Host: a|X-Real-IP: 192.0.2.1|X-Request-ID: id";

/// Which of these fields of a plain request are passed on.
#[track_caller]
fn check_passed(fields: &str, expected: &str) {
    let separator = if expected.is_empty() { "" } else { "|" };
    assert_eq!(
        rebuilt(&format!("GET /x HTTP/1.1|Host: a|{fields}"), &stranger(), &route()),
        format!("GET /x HTTP/1.1|Host: a{separator}{expected}{TAIL}"),
    );
}

#[test]
fn a_request_for_a_tunnel_is_rebuilt_with_our_own_hop() {
    let lines = format!(
        "GET /chat?x=%20y HTTP/1.1|Origin: http://o|hOST: a:80|Connection: keep-alive, Upgrade|Keep-Alive: 5\
         |Upgrade: h2c, WebSocket|Sec-WebSocket-Version: 13|{}|Sec-WebSocket-Protocol: v1, v2|Cookie: c=d|X-Mine: 1",
        KEY.trim_end()
    );
    let expected = format!(
        "GET /chat?x=%20y HTTP/1.1|Origin: http://o|hOST: a:80|Sec-WebSocket-Version: 13|{}\
         |Sec-WebSocket-Protocol: v1, v2|Cookie: c=d|X-Mine: 1|Connection: Upgrade|Upgrade: websocket\
         |X-Forwarded-For: 192.0.2.1|X-Forwarded-Proto: http|X-Forwarded-Host: a:80|X-Real-IP: 192.0.2.1\
         |X-Request-ID: id",
        KEY.trim_end()
    );
    assert_eq!(rebuilt(&lines, &stranger(), &route()), expected);
}

#[test]
fn fields_of_one_hop_are_left_out() {
    for field in [
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic x",
        "TE: trailers",
        "Trailer: X",
        "Upgrade: h2c",
        "HTTP2-Settings: x",
        "upgrade: websocket",
        "tE: trailers",
    ] {
        check_passed(field, "");
    }
    check_passed("A: 1|TE: x|b: 2|A: 3", "A: 1|b: 2|A: 3");
    check_passed("Empty:|Space:  a b \t", "Empty: |Space: a b");
}

#[test]
fn connection_takes_along_what_it_names() {
    check_passed("Connection: X-Hop, x-hop2,|X-HOP: 1|X-Hop2: 2|X-Hop3: 3", "X-Hop3: 3");
    check_passed("X-Hop: 1|Connection: close|connection: X-Hop", "");
}

#[test]
fn connection_can_never_name_what_matters() {
    for field in [
        "Cookie: c",
        "Authorization: Basic x",
        "Sec-WebSocket-Key: k",
        "Sec-Fetch-Site: same-origin",
        "cookie: c",
    ] {
        let name = field.split(':').next().unwrap();
        check_passed(&format!("Connection: {name}|{field}"), field);
        check_passed(&format!("Connection: {}|{field}", name.to_ascii_uppercase()), field);
    }
    check_passed("Connection: Host", "");
    let lines = "POST / HTTP/1.1|Host: a|Connection: Content-Length|Content-Length: 3";
    let expected = format!("POST / HTTP/1.1|Host: a|Content-Length: 3{TAIL}");
    assert_eq!(rebuilt(lines, &stranger(), &route()), expected);
    // Nor can it take off what we write, or a trusted proxy says.
    check_passed("Connection: X-Forwarded-For, X-Real-IP, X-Request-ID, X-Forwarded-Proto", "");
    let named = "Connection: Forwarded, X-Forwarded-Port|Forwarded: for=x|X-Forwarded-Port: 1";
    let got = rebuilt(&format!("GET / HTTP/1.1|Host: a|{named}"), &proxied(), &route());
    assert!(got.contains("|Forwarded: for=x|X-Forwarded-Port: 1|"), "{got}");
}

#[test]
fn a_stranger_speaks_for_nobody_else() {
    for field in [
        "X-Forwarded-For: 1.1.1.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil",
        "X-Forwarded-Port: 443",
        "X-Forwarded-Anything: 1",
        "Forwarded: for=1.1.1.1",
        "X-Real-IP: 1.1.1.1",
        "X-Request-ID: mine",
        "x-fORWARDED-fOR: 1.1.1.1",
    ] {
        check_passed(field, "");
    }
}

#[test]
fn no_other_spelling_is_taken_for_what_we_say() {
    for field in [
        "X_Forwarded_For: 1.1.1.1",
        "X-Forwarded_For: 1.1.1.1",
        "x_forwarded-for: 1.1.1.1",
        "X_FORWARDED_PROTO: https",
        "X_Real_IP: 1.1.1.1",
        "X-Real_IP: 1.1.1.1",
        "X_Request_ID: mine",
        "X_REQUEST-ID: mine",
    ] {
        check_passed(field, "");
        let got = rebuilt(&format!("GET / HTTP/1.1|Host: a|{field}"), &proxied(), &route());
        assert!(!got.contains('_'), "no proxy spells it like this: {got}");
    }
    check_passed("X_Other: 1|Under_Score: 2", "X_Other: 1|Under_Score: 2");
}

#[test]
fn a_trusted_proxy_s_word_is_kept_and_extended() {
    let lines = "GET / HTTP/1.1|Host: a|X-Forwarded-For: 203.0.113.9, 10.0.0.1|Forwarded: for=203.0.113.9\
                 |X-Forwarded-Proto: https|X-Forwarded-Host: shop|X-Forwarded-Port: 443|X-Real-IP: 1.1.1.1\
                 |x-forwarded-for: 10.0.0.2|X-Request-ID: theirs";
    let expected = "GET / HTTP/1.1|Host: a|Forwarded: for=203.0.113.9|X-Forwarded-Port: 443|Connection: close\
                    |X-Forwarded-For: 203.0.113.9, 10.0.0.1, 10.0.0.2, 192.0.2.1|X-Forwarded-Proto: https\
                    |X-Forwarded-Host: shop|X-Real-IP: 203.0.113.9|X-Request-ID: id";
    assert_eq!(rebuilt(lines, &proxied(), &route()), expected);
    // One that says nothing, or nothing in so many words, is spoken for as anybody else.
    let expected = format!("GET / HTTP/1.1|Host: a{TAIL}").replace("IP: 192.0.2.1", "IP: 203.0.113.9");
    let silent = "GET / HTTP/1.1|Host: a";
    assert_eq!(rebuilt(silent, &proxied(), &route()), expected);
    let empty = "|X-Forwarded-For:|X-Forwarded-Proto:|X-Forwarded-Host:";
    assert_eq!(rebuilt(&format!("{silent}{empty}"), &proxied(), &route()), expected);
}

#[test]
fn a_client_on_a_unix_socket_has_no_address_to_tell() {
    let unix = Introduction { peer: None, client: None, ..stranger() };
    let expected = "GET / HTTP/1.1|Host: a|Connection: close|\
                    X-Forwarded-Proto: http|X-Forwarded-Host: a|X-Request-ID: id";
    assert_eq!(rebuilt("GET / HTTP/1.1|Host: a|X-Forwarded-For: 1.1.1.1", &unix, &route()), expected);
    let trusted = Introduction { trusted: true, client: Some([1, 1, 1, 1].into()), ..unix };
    let got = rebuilt("GET / HTTP/1.1|Host: a|X-Forwarded-For: 1.1.1.1", &trusted, &route());
    assert!(got.contains("|X-Forwarded-For: 1.1.1.1|X-Forwarded-Proto: http|"), "{got}");
}

#[test]
fn only_a_request_id_that_can_be_passed_on_is_one() {
    let longest = "x".repeat(128);
    let check = |fields: &str, expected: Option<&str>| {
        let text = text(&format!("GET / HTTP/1.1|Host: a|{fields}"));
        assert_eq!(read_text(&text).unwrap().request_id(), expected, "{fields}");
    };
    check("X-Request-ID: abc-123", Some("abc-123"));
    check(&format!("X-Request-ID: {longest}"), Some(&longest));
    check(&format!("X-Request-ID: {longest}x"), None);
    check("X-Request-ID: ", None);
    check("X-Request-ID: a b", None);
    check("X-Request-ID: \u{e9}", None);
    check("X-Request-ID: a|X-Request-ID: a", None);
    check("A: b", None);
}

fn set(fields: &[(&str, &[Piece])]) -> Vec<(String, Template)> {
    fields.iter().map(|(name, pieces)| ((*name).to_owned(), Template(pieces.to_vec()))).collect()
}

#[test]
fn a_route_sets_fields_in_place_of_the_client_s_and_ours() {
    let text = |text: &str| Piece::Text(text.to_owned());
    let route = Route {
        set_headers: set(&[
            ("X-Client", &[text("<"), Piece::ClientIp, text(">")]),
            ("X-Where", &[Piece::Scheme, text("://"), Piece::Host, text("/")]),
            ("X-Request-Id", &[text("adit-"), Piece::RequestId]),
            ("X-Forwarded-For", &[text("hidden")]),
        ]),
        ..route()
    };
    let lines = "GET / HTTP/1.1|x-client: spoofed|Host: a:80|X-Where: spoofed|X-Stays: 1|x-client: again";
    let expected = "GET / HTTP/1.1|Host: a:80|X-Stays: 1|Connection: close|X-Forwarded-Proto: http\
                    |X-Forwarded-Host: a:80|X-Real-IP: 192.0.2.1|X-Client: <192.0.2.1>|X-Where: http://a:80/\
                    |X-Request-Id: adit-id|X-Forwarded-For: hidden";
    assert_eq!(rebuilt(lines, &stranger(), &route), expected);
}

#[test]
fn a_route_can_replace_the_host() {
    let route = Route { set_headers: set(&[("Host", &[Piece::Text("inner".into())])]), ..route() };
    for lines in ["GET / HTTP/1.1|Host: a", "GET / HTTP/1.0", "GET http://a/ HTTP/1.0"] {
        let got = rebuilt(lines, &stranger(), &route);
        assert_eq!(got.matches("Host: ").count(), 1 + got.matches("X-Forwarded-Host: ").count(), "{got}");
        assert!(got.ends_with("|Host: inner"), "{got}");
    }
}

#[test]
fn a_route_takes_fields_off() {
    let remove_headers = ["x-secret", "x-real-ip", "x-forwarded-host", "forwarded"];
    let route = Route { remove_headers: remove_headers.map(String::from).to_vec(), ..route() };
    let lines = "GET / HTTP/1.1|Host: a|X-Secret: 1|X-Stays: 1|x-secret: 2|Forwarded: for=x";
    let expected = "GET / HTTP/1.1|Host: a|X-Stays: 1|Connection: close|X-Forwarded-For: 192.0.2.1\
                    |X-Forwarded-Proto: http|X-Request-ID: id";
    assert_eq!(rebuilt(lines, &Introduction { trusted: true, ..stranger() }, &route), expected);
}

/// CGI and its heirs read `X_User` as `X-User`: a client could set for itself what a route sets or takes off.
#[test]
fn no_other_spelling_is_taken_for_what_a_route_sets_or_takes_off() {
    let route = Route {
        set_headers: set(&[("X-User", &[Piece::Text("nobody".into())])]),
        remove_headers: vec!["x-admin".into()],
        ..route()
    };
    let lines = "GET / HTTP/1.1|Host: a|X_User: root|x_uSER: root|X_Admin: yes|X_Users: 1";
    let expected = format!("GET / HTTP/1.1|Host: a|X_Users: 1{TAIL}|X-User: nobody");
    assert_eq!(rebuilt(lines, &stranger(), &route), expected);
}

#[test]
fn the_target_is_passed_on_in_origin_form_as_it_came() {
    let target = |target: &str, host: &str| {
        let got = rebuilt(&format!("GET {target} HTTP/1.1|Host: b"), &stranger(), &route());
        let (line, rest) = got.split_once(" HTTP/1.1|").unwrap();
        assert!(rest.starts_with(&format!("Host: {host}|")), "{got}");
        assert!(rest.contains(&format!("|X-Forwarded-Host: {host}|")), "{got}");
        line.strip_prefix("GET ").unwrap().to_owned()
    };
    for origin_form in ["/", "/a/../%61?b=c?d", "/%2F%2f/./", "//x/y", "/?", "/a;b=c"] {
        assert_eq!(target(origin_form, "b"), origin_form);
    }
    assert_eq!(target("http://a/x?y", "a"), "/x?y");
    assert_eq!(target("HTTP://A:80/x", "A:80"), "/x");
    assert_eq!(target("ws://a", "a"), "/");
    assert_eq!(target("wss://a?x=y", "a"), "/?x=y");
    let options = rebuilt("OPTIONS http://a HTTP/1.1|Host: b", &stranger(), &route());
    assert_eq!(options, format!("OPTIONS * HTTP/1.1|Host: a{TAIL}"));
}

#[test]
fn a_request_of_http_1_0_gets_a_host() {
    assert_eq!(
        rebuilt("GET / HTTP/1.0|A: b", &stranger(), &route()),
        "GET / HTTP/1.1|Host: pool|A: b|Connection: close|X-Forwarded-For: 192.0.2.1|X-Forwarded-Proto: http\
         |X-Real-IP: 192.0.2.1|X-Request-ID: id"
    );
    for no_host in ["my pool", "pool\r\nX-Forwarded-For: 1.1.1.1", ""] {
        let intro = Introduction { host_fallback: no_host, ..stranger() };
        let got = rebuilt("GET / HTTP/1.0", &intro, &route());
        assert!(
            got.starts_with("GET / HTTP/1.1|Host: |Connection: close|X-Forwarded-For: 192.0.2.1|"),
            "{got}"
        );
    }
    let expected = format!("GET /x HTTP/1.1|Host: a{TAIL}");
    assert_eq!(rebuilt("GET http://a/x HTTP/1.0", &stranger(), &route()), expected);
    assert_eq!(rebuilt("GET /x HTTP/1.0|Host: a", &stranger(), &route()), expected);
}

#[test]
fn a_body_s_framing_is_said_once() {
    let check = |fields: &str, framing: &str, at_the_end: &str| {
        let got = rebuilt(&format!("POST / HTTP/1.1|Host: a|{fields}"), &stranger(), &route());
        let tail = TAIL.replace("close|", &format!("close|{at_the_end}"));
        assert_eq!(got, format!("POST / HTTP/1.1|Host: a{framing}{tail}"));
    };
    check("Content-Length: 5|A: b|content-length: 5", "|Content-Length: 5|A: b", "");
    check("Content-Length: 0", "|Content-Length: 0", "");
    check("A: b|transfer-encoding: Chunked|C: d", "|A: b|C: d", "Transfer-Encoding: chunked|");
    check("Connection: Transfer-Encoding|Transfer-Encoding: chunked", "", "Transfer-Encoding: chunked|");
}

#[test]
fn only_an_expectation_that_we_understand_is_passed_on() {
    check_passed("Expect: 100-Continue", "Expect: 100-Continue");
    check_passed("Expect: the-unexpected", "");
    let old = rebuilt("GET /x HTTP/1.0|Host: a|Expect: 100-continue", &stranger(), &route());
    assert_eq!(old, format!("GET /x HTTP/1.1|Host: a{TAIL}"));
}

#[test]
fn parameters_and_cookies_are_found_by_their_whole_name() {
    let text = text("GET /?ab=1&a=2&b&a=3&=4 HTTP/1.1|Host: a|Cookie: ab=1; a=2;b=|Cookie: c = d; e=f=g");
    let request = read_text(&text).unwrap();
    let query = |name: &str| request.query_value(name);
    assert_eq!([query("a"), query("b"), query("c")], [Some(&b"2"[..]), Some(b""), None]);
    let cookie = |name: &str| request.cookie(name);
    assert_eq!([cookie("a"), cookie("b"), cookie("e")], [Some(&b"2"[..]), Some(b""), Some(b"f=g")]);
    assert_eq!([cookie("c"), cookie("f")], [None, None]);
}

#[test]
fn an_address_is_written_as_everybody_writes_it() {
    let written = |address: IpAddr| {
        let mut out = Vec::new();
        put_address(&mut out, address);
        String::from_utf8(out).unwrap()
    };
    for octet in 0..=u8::MAX {
        for octets in [[octet, 0, 10, 255], [1, octet, octet, 99], [100, 101, 109, octet]] {
            let address = IpAddr::from(octets);
            assert_eq!(written(address), address.to_string());
        }
    }
    for address in ["::", "2001:db8::1", "::ffff:192.0.2.1"] {
        assert_eq!(written(address.parse().unwrap()), address);
    }
}
