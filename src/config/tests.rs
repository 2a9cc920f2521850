//! Tables for the small readers: what each value means, and what is wrong with it. Whole files are in
//! `tests/config.rs`.

use std::fmt::Debug;
use std::time::Duration;

use super::values::*;
use crate::plan::{Address, HashKey, HostRule, PathRule, Piece, Share, Template};

/// Reads `text`; a refusal is shown as `message (help)` and must begin with what is expected.
#[track_caller]
fn check<T: Debug + PartialEq>(
    read: impl Fn(&str) -> Result<T, Wrong>,
    text: &str,
    expected: Result<T, &str>,
) {
    match (read(text), expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text:?}"),
        (Err(wrong), Err(expected)) => {
            let shown = match &wrong.help {
                Some(help) => format!("{} ({help})", wrong.message),
                None => wrong.message.clone(),
            };
            assert!(shown.contains(expected), "{text:?}: {shown}");
        }
        (found, expected) => panic!("{text:?}: found {found:?}, expected {expected:?}"),
    }
}

#[test]
fn a_wait_must_end() {
    check(wait, "250ms", Ok(Duration::from_millis(250)));
    check(wait, "10s", Ok(Duration::from_secs(10)));
    check(wait, "1h 30m", Ok(Duration::from_secs(5400)));
    check(wait, "3650d", Ok(Duration::from_secs(315_360_000)));
    check(wait, "off", Err("must end"));
    check(wait, "0s", Err("no time at all (at least"));
    check(wait, "3651d", Err("too long (at most ten years"));
    check(wait, "99999999999y", Err("\"99999999999y\" is"));
    check(wait, "99999999999999999999999999s", Err("is no duration"));
    check(wait, "", Err("\"\" is no duration (a number and a unit"));
    check(wait, "10", Err("\"10\" is no duration"));
    check(wait, "10 bananas", Err("is no duration"));
    check(wait, "-1s", Err("is no duration"));
    check(wait, "Off", Err("is no duration"));
    check(wait, "\u{661}s", Err("is no duration"));
}

#[test]
fn a_wait_that_may_be_off_says_so() {
    check(wait_or_off, "off", Ok(None));
    check(wait_or_off, "1ms", Ok(Some(Duration::from_millis(1))));
    check(wait_or_off, "0ms", Err("(write \"off\""));
    check(wait_or_off, "never", Err("is no duration"));
}

#[test]
fn a_percentage_is_digits_and_a_point() {
    check(percent, "0%", Ok(Share(0.0)));
    check(percent, "12.5%", Ok(Share(0.125)));
    check(percent, "100 %", Ok(Share(1.0)));
    check(percent, "100.5%", Err("out of range (\"0%\" to"));
    check(percent, "1e1%", Err("is no percentage (such as"));
    check(percent, "1E1%", Err("is no percentage"));
    check(percent, "+1%", Err("is no percentage"));
    check(percent, ".5%", Err("is no percentage"));
    check(percent, "inf%", Err("is no percentage"));
    check(percent, "%", Err("is no percentage"));
    check(percent, "10", Err("is no percentage"));
}

#[test]
fn listens_on_addresses_only() {
    let tcp = |text: &str| Ok(Address::Tcp(text.parse().unwrap()));
    check(listen_address, "0.0.0.0:8020", tcp("0.0.0.0:8020"));
    check(listen_address, "[::]:8020", tcp("[::]:8020"));
    check(listen_address, "127.0.0.1:0", tcp("127.0.0.1:0"));
    check(listen_address, "unix:/run/a.sock", Ok(Address::Unix("/run/a.sock".into())));
    check(listen_address, "unix:a.sock", Ok(Address::Unix("a.sock".into())));
    check(listen_address, "unix:", Err("without a path"));
    check(listen_address, "unix:/a\0b", Err("zero byte"));
    check(
        listen_address,
        &format!("unix:/{}", "x".repeat(106)),
        Ok(Address::Unix(format!("/{}", "x".repeat(106)).into())),
    );
    check(listen_address, &format!("unix:/{}", "x".repeat(107)), Err("path of 108 bytes (at most 107"));
    check(listen_address, "fd:web", Ok(Address::Inherited("web".into())));
    check(listen_address, "fd:adit.socket", Ok(Address::Inherited("adit.socket".into())));
    check(listen_address, "fd:8020", Ok(Address::Inherited("8020".into())));
    check(listen_address, "fd:", Err("\"fd:\" without a name (FileDescriptorName="));
    check(listen_address, "fd:a:b", Err("\"a:b\" is no name of a socket"));
    check(listen_address, "fd:a\nb", Err("\"a\\nb\" is no name of a socket"));
    check(listen_address, "fd:ü", Err("is no name of a socket"));
    check(listen_address, &format!("fd:{}", "x".repeat(255)), Ok(Address::Inherited("x".repeat(255))));
    check(listen_address, &format!("fd:{}", "x".repeat(256)), Err("name of 256 bytes (at most 255"));
    check(listen_address, "localhost:8020", Err("(write \"127.0.0.1:8020\")"));
    check(listen_address, "example.com:80", Err("not a name"));
    check(listen_address, ":8020", Err("\"0.0.0.0:8020\" or"));
    check(listen_address, "*:8020", Err("\"0.0.0.0:8020\" or"));
    check(listen_address, "127.0.0.1", Err("has no port (such as \"127.0.0.1:8020\")"));
    check(listen_address, "::1", Err("has no port (such as \"[::1]:8020\")"));
    check(listen_address, "8020", Err("no address to listen on"));
    check(listen_address, "127.0.0.1:99999", Err("no address to listen on"));
    check(listen_address, "", Err("\"\" is no address"));
}

#[test]
fn dials_addresses_and_names() {
    let tcp = |text: &str| Ok(Target::Address(Address::Tcp(text.parse().unwrap())));
    check(target, "10.0.0.1:80", tcp("10.0.0.1:80"));
    check(target, "[::1]:80", tcp("[::1]:80"));
    check(target, "unix:/a", Ok(Target::Address(Address::Unix("/a".into()))));
    check(target, "localhost:80", Ok(Target::Name));
    check(target, "my_app.internal.:80", Ok(Target::Name));
    check(target, "127.0.0.1:0", Err("port 0"));
    check(target, "localhost:0", Err("\"0\" is no port"));
    check(target, "localhost:+80", Err("\"+80\" is no port"));
    check(target, "localhost:", Err("\"\" is no port"));
    check(target, "localhost:65536", Err("\"65536\" is no port"));
    check(target, "localhost", Err("\"localhost\" has no port"));
    check(target, "::1", Err("(an IPv6 address stands in brackets: \"[::1]:8010\")"));
    check(target, "http://a:80", Err("is a URL"));
    check(target, ":80", Err("\"\" is neither"));
    check(target, "a..b:80", Err("neither"));
    check(target, "127.1:80", Err("neither"));
    check(target, "300.0.0.1:80", Err("neither"));
    check(target, "0x7f000001:80", Err("neither"));
    check(target, "caf\u{e9}:80", Err("neither"));
    check(target, "a b:80", Err("neither"));
    check(target, "unix:", Err("without a path"));
}

#[test]
fn hosts_are_exact_or_subdomains() {
    let exact = |text: &str| Ok(HostRule::Exact(text.to_owned()));
    let suffix = |text: &str| Ok(HostRule::Suffix(text.to_owned()));
    check(host_rule, "Chat.Example.COM.", exact("chat.example.com"));
    check(host_rule, "localhost", exact("localhost"));
    check(host_rule, "a_b", exact("a_b"));
    check(host_rule, "10.0.0.1", exact("10.0.0.1"));
    check(host_rule, "[0:0::1]", exact("[::1]"));
    check(host_rule, "*.Example.com", suffix(".example.com"));
    check(host_rule, "*", Err("\"*\" is no host (leave"));
    check(host_rule, "*.", Err("it is empty"));
    check(host_rule, "", Err("it is empty"));
    check(host_rule, ".", Err("it is empty"));
    check(host_rule, ".example.com", Err("a part of it is empty (\"*.example.com\""));
    check(host_rule, "a..b", Err("a part of it is empty"));
    check(host_rule, "a*.com", Err("a star"));
    check(host_rule, "*.*.com", Err("a star"));
    check(host_rule, "*.[::1]", Err("no subdomains"));
    check(host_rule, "*.10.0.0.1", Err("no subdomains"));
    check(host_rule, "example.com:80", Err("(write \"example.com\""));
    check(host_rule, "http://example.com", Err("has a colon"));
    check(host_rule, "example.com/x", Err("has \"/\""));
    check(host_rule, "a b", Err("has \" \""));
    check(host_rule, "a%41", Err("has \"%\""));
    check(host_rule, "caf\u{e9}", Err("beyond ASCII"));
    check(host_rule, "::1", Err("(write \"[::1]\")"));
    check(host_rule, "[::1]:80", Err("(write \"[::1]\""));
    check(host_rule, "[::1", Err("no IPv6 address in brackets"));
    check(host_rule, "[v1.a]", Err("no IPv6 address in brackets"));
}

#[test]
fn paths_are_normalized() {
    let prefix = |text: &str| Ok(PathRule::Prefix(text.to_owned()));
    let exact = |text: &str| Ok(PathRule::Exact(text.to_owned()));
    check(path_rule, "/", prefix("/"));
    check(path_rule, "/chat", prefix("/chat"));
    check(path_rule, "/a//b/", prefix("/a//b/"));
    check(path_rule, "/a%2Fb%20", prefix("/a%2Fb%20"));
    check(path_rule, "=/chat", exact("/chat"));
    check(path_rule, "/.a/..b/c.", prefix("/.a/..b/c."));
    check(path_rule, "", Err("does not begin"));
    check(path_rule, "chat", Err("does not begin"));
    check(path_rule, "=", Err("does not begin"));
    check(path_rule, "= /x", Err("does not begin"));
    check(path_rule, "/a/./b", Err("(write \"/a/b\")"));
    check(path_rule, "=/a/..", Err("(write \"=/\")"));
    check(path_rule, "/%2e%2E/", Err("(the path climbs above the root)"));
    check(path_rule, "/a?b", Err("a query"));
    check(path_rule, "/a#b", Err("a query"));
    check(path_rule, "/%63hat", Err("(write \"/chat\")"));
    check(path_rule, "=/%7Ea", Err("(write \"=/~a\")"));
    check(path_rule, "/a%2fb", Err("(write \"/a%2Fb\")"));
    check(path_rule, "/a b", Err("(percent-encode it as %20)"));
    check(path_rule, "/\u{e9}", Err("(percent-encode it as %C3%A9)"));
    check(path_rule, "/a%", Err("two hex digits"));
    check(path_rule, "/a%4", Err("two hex digits"));
    check(path_rule, "/a%+4", Err("two hex digits"));
    check(path_rule, "/a%zz", Err("two hex digits"));
    // A request with one of these is refused, so a route for it would be a dead letter.
    check(path_rule, "/a%00", Err("(the path holds an encoded NUL)"));
    check(path_rule, "/a\\b", Err("(the path holds a backslash)"));
}

#[test]
fn protocols_are_tokens_that_open_streams() {
    check(protocol, "WebSocket", Ok("websocket".to_owned()));
    check(protocol, "h2c", Err("never passed on"));
    check(protocol, "TLS", Err("\"TLS\" is never passed on"));
    check(protocol, "", Err("no protocol's name"));
    check(protocol, "web socket", Err("no protocol's name"));
    check(protocol, "TLS/1.0", Err("no protocol's name"));
}

#[test]
fn origins_are_what_browsers_send() {
    let good = |text: &str| Ok(text.to_owned());
    check(origin, "null", good("null"));
    check(origin, "HTTPS://Example.com", good("https://example.com"));
    check(origin, "http://localhost:3000", good("http://localhost:3000"));
    check(origin, "https://[::1]", good("https://[::1]"));
    check(origin, "https://[::1]:8443", good("https://[::1]:8443"));
    check(origin, "chrome-extension://abc", good("chrome-extension://abc"));
    check(origin, "*", Err("[] is for any"));
    check(origin, "example.com/", Err("(such as \"https://example.com\")"));
    check(origin, "https://example.com/", Err("(write \"https://example.com\")"));
    check(origin, "https://", Err("it is empty"));
    check(origin, "://a", Err("a scheme has"));
    check(origin, "h_t://a", Err("a scheme has"));
    check(origin, "wss://a.b", Err("\"https://a.b\""));
    check(origin, "ws://a.b:1", Err("\"http://a.b:1\""));
    check(origin, "https://a:443", Err("\"https://a\""));
    check(origin, "http://a:80", Err("\"http://a\""));
    check(origin, "http://a:443", good("http://a:443"));
    check(origin, "http://a:", Err("no port"));
    check(origin, "http://a:080", Err("no port"));
    check(origin, "http://a:99999", Err("no port"));
    check(origin, "http://a.", Err("the host is \"a\""));
    check(origin, "http://u@a", Err("has \"@\""));
    check(origin, "http://a?b", Err("has \"?\""));
}

#[test]
fn networks_have_no_host_bits() {
    let good = |text: &str| Ok(text.parse().unwrap());
    check(network, "10.0.0.0/8", good("10.0.0.0/8"));
    check(network, "0.0.0.0/0", good("0.0.0.0/0"));
    check(network, "192.0.2.7", good("192.0.2.7/32"));
    check(network, "::1", good("::1/128"));
    check(network, "2001:db8::/32", good("2001:db8::/32"));
    check(network, "10.0.0.1/8", Err("(the network is \"10.0.0.0/8\", the address alone \"10.0.0.1\")"));
    check(network, "10.0.0.0/33", Err("neither"));
    check(network, "10.0.0/8", Err("neither"));
    check(network, "", Err("neither"));
    check(network, "unix:", Err("neither"));
}

#[test]
fn framing_fields_are_left_alone() {
    let set = |name: &str| field_name(name, Edit::Set);
    let remove = |name: &str| field_name(name, Edit::Remove);
    for own in ["Connection", "UPGRADE", "Transfer-Encoding", "content-length", "Keep-Alive", "TE", "Trailer"]
    {
        check(set, own, Err("adit's own"));
        check(remove, own, Err("adit's own"));
    }
    check(set, "Proxy-Connection", Err("adit's own"));
    check(remove, "Content_Length", Err("adit's own"));
    check(set, "content_length", Err("adit's own"));
    check(remove, "Sec_WebSocket-Key", Err("handshake"));
    check(set, "Sec_WebSocket_Key", Err("handshake"));
    check(remove, "X_Real_IP", Ok(()));
    check(set, "HTTP2-Settings", Err("adit's own"));
    check(set, "Proxy-Authorization", Ok(()));
    check(set, "Sec-WebSocket-Protocol", Err("handshake"));
    check(remove, "Sec-WebSocket-Key", Err("handshake"));
    check(remove, "Sec-WebSocket-Version", Err("handshake"));
    check(remove, "Sec-WebSocket-Extensions", Ok(()));
    check(set, "Host", Ok(()));
    check(remove, "Host", Err("demanded"));
    check(set, "X-Request-ID", Ok(()));
    check(set, "", Err("no field name"));
    check(set, "X-A:", Err("no field name"));
    check(remove, "X A", Err("no field name"));
}

#[test]
fn variables_stand_for_what_they_say() {
    let text = |text: &str| Piece::Text(text.to_owned());
    let good = |pieces: Vec<Piece>| Ok(Template(pieces));
    check(template, "", good(vec![]));
    check(template, "plain", good(vec![text("plain")]));
    check(template, "$client_ip", good(vec![Piece::ClientIp]));
    check(template, "a $host-$scheme", good(vec![text("a "), Piece::Host, text("-"), Piece::Scheme]));
    check(template, "$request_id$host", good(vec![Piece::RequestId, Piece::Host]));
    check(template, "5$$", good(vec![text("5$")]));
    check(template, "$$host $$$host", good(vec![text("$host $"), Piece::Host]));
    check(template, "caf\u{e9}", good(vec![text("caf\u{e9}")]));
    check(template, "$clientip", Err("(did you mean \"$client_ip\"?)"));
    check(template, "$remote_address", Err("(the variables are $client_ip, $host"));
    check(template, "$", Err("without a name"));
    check(template, "${host}", Err("without a name"));
    check(template, "a\r\nb", Err("control character '\\r'"));
    check(template, "a\tb", Err("control character"));
    check(template, "a\u{7f}b", Err("control character"));
}

#[test]
fn a_hash_needs_something_to_look_at() {
    check(hash_key, "client_ip", Ok(HashKey::ClientIp));
    check(hash_key, "path", Ok(HashKey::Path));
    check(hash_key, "header:X-User", Ok(HashKey::Header("x-user".to_owned())));
    check(hash_key, "query:Room", Ok(HashKey::Query("Room".to_owned())));
    check(hash_key, "query:a:b", Ok(HashKey::Query("a:b".to_owned())));
    check(hash_key, "cookie:Id", Ok(HashKey::Cookie("Id".to_owned())));
    check(hash_key, "header:", Err("names nothing (\"header:NAME\")"));
    check(hash_key, "cookie", Err("names nothing (\"cookie:NAME\")"));
    check(hash_key, "header:a b", Err("does not name a header"));
    check(hash_key, "cookie:a;b", Err("does not name a cookie"));
    check(hash_key, "path:x", Err("no hash key"));
    check(hash_key, "ip", Err("no hash key"));
}

#[test]
fn near_words_are_offered() {
    let words = ["listen", "upstream", "te"];
    assert_eq!(did_you_mean("lisen", &words), Some("listen"));
    assert_eq!(did_you_mean("UPSTREAM", &words), Some("upstream"));
    assert_eq!(did_you_mean("downhill", &words), None);
    assert_eq!(did_you_mean("", &words), None);
    assert_eq!(did_you_mean(&"listen".repeat(1000), &words), None);
}

#[test]
fn quoted_text_is_short_and_on_one_line() {
    assert_eq!(quoted("a\n\"b\""), r#""a\n\"b\"""#);
    assert_eq!(quoted(&"\u{e9}".repeat(81)), format!("\"{}\"...", "\u{e9}".repeat(80)));
}
