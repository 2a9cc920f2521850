//! The rules of a response: whether the server's answer is what was asked for, and the answer that is written to the
//! client in its place.

use super::body::{Body, Coding};
use super::head::{self, Connection, Fault, Framing, ResponseHead, Version, put_field};
use super::request::{Request, Wanted};

/// What has to be remembered of a request to judge the response to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What was asked of the server.
    pub wanted: Wanted,
    /// The client's version.
    pub version: Version,
    /// The method is `HEAD`: there is no body behind the response head.
    pub head_only: bool,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
}

impl Asked {
    /// Remembers what is needed of `request`.
    pub fn new(request: &Request<'_>, wanted: Wanted) -> Asked {
        Asked {
            wanted,
            version: request.head.version,
            head_only: request.head.method == "HEAD",
            expects_continue: request.expects_continue(),
        }
    }
}

/// What a response head turned out to be.
#[derive(Debug)]
pub enum Answer {
    /// An interim response that the client is told of; another head follows.
    Interim(Vec<u8>),
    /// An interim response that is not for this client.
    Unasked,
    /// The tunnel is open: the head for the client; what follows is the tunnel's.
    Tunnel(Vec<u8>),
    /// A response to pass on: the head for the client, and the body that follows.
    Plain {
        /// The status code.
        status: u16,
        /// The rebuilt head.
        head: Vec<u8>,
        /// How far the body reaches.
        body: Body,
    },
}

/// Judges a response head. What is wrong with it is the server's fault, and says which rule it broke.
pub fn judge(head: &ResponseHead<'_>, asked: &Asked, trailer_bytes_max: u32) -> Result<Answer, Fault> {
    let connection = Connection::read(&head.fields)?;
    match (head.status, &asked.wanted) {
        (101, Wanted::Plain) => Err("the server switched protocols without being asked"),
        (101, Wanted::Upgrade { protocol, accept }) => {
            if !connection.upgrade {
                return Err("the server's 101 has no Connection: upgrade");
            }
            let mut offers = 0;
            let mut agreed = false;
            for value in head.fields.all("Upgrade") {
                for offer in head::members(value) {
                    offers += 1;
                    agreed = head::is_spelled(offer, protocol);
                }
            }
            if offers != 1 || !agreed {
                return Err("the server's 101 switches to another protocol"); // none, several, or a wrong one
            }
            if let Some(accept) = accept {
                match head.fields.once("Sec-WebSocket-Accept") {
                    Ok(Some(value)) if accept.is(value) => {}
                    Ok(_) | Err(_) => return Err("the server's Sec-WebSocket-Accept is wrong"),
                }
            }
            Ok(Answer::Tunnel(rebuild(head, &connection, Ending::Tunnel { protocol })))
        }
        (100, _) if !asked.expects_continue => Ok(Answer::Unasked),
        // A client of HTTP/1.0 knows no interim responses (RFC 9110, 15.2).
        (100..=199, _) if asked.version == Version::Http10 => Ok(Answer::Unasked),
        (100..=199, _) => Ok(Answer::Interim(rebuild(head, &connection, Ending::Interim))),
        _ => {
            let framing = head::framing(head.version, &head.fields)?;
            let bodyless = asked.head_only || matches!(head.status, 204 | 304);
            let decode = asked.version == Version::Http10;
            let (body, ending) = match framing {
                _ if bodyless => (Body::none(), Ending::Unframed),
                Framing::Unsaid => (Body::until_close(), Ending::Unframed),
                Framing::Length(length) => (Body::length(length), Ending::Unframed),
                Framing::Chunked if decode => {
                    (Body::chunked(Coding::Decode, trailer_bytes_max), Ending::Unframed)
                }
                Framing::Chunked => (Body::chunked(Coding::Pass, trailer_bytes_max), Ending::Chunked),
            };
            Ok(Answer::Plain { status: head.status, head: rebuild(head, &connection, ending), body })
        }
    }
}

/// What stands behind the passed fields of a rebuilt head.
enum Ending<'a> {
    Tunnel { protocol: &'a str },
    Interim,
    Unframed,
    Chunked,
}

/// Writes the head for the client from the parts of the server's.
fn rebuild(head: &ResponseHead<'_>, connection: &Connection<'_>, ending: Ending<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"HTTP/1.1 ");
    // A status has three digits.
    out.extend([head.status / 100, head.status / 10 % 10, head.status % 10].map(|digit| b'0' + digit as u8));
    out.push(b' ');
    out.extend_from_slice(head.reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    // A response without a body by its status has no length either (RFC 9110, 8.6).
    let mut length_is_written = matches!(head.status, 100..=199 | 204);
    for field in head::end_to_end(&head.fields, connection) {
        if !field.is("Content-Length") || !std::mem::replace(&mut length_is_written, true) {
            put_field(&mut out, field.name, field.value);
        }
    }
    match ending {
        Ending::Tunnel { protocol } => {
            put_field(&mut out, "Connection", b"Upgrade");
            put_field(&mut out, "Upgrade", protocol.as_bytes());
        }
        Ending::Interim => {}
        Ending::Unframed => put_field(&mut out, "Connection", b"close"),
        Ending::Chunked => {
            put_field(&mut out, "Transfer-Encoding", b"chunked");
            put_field(&mut out, "Connection", b"close");
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::head::parse_response;
    use crate::proto::upgrade::Accept;

    const KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";
    const GOOD: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

    fn plain() -> Asked {
        Asked { wanted: Wanted::Plain, version: Version::Http11, head_only: false, expects_continue: false }
    }

    fn websocket() -> Asked {
        let wanted = Wanted::Upgrade { protocol: "websocket".into(), accept: Some(Accept::of(KEY)) };
        Asked { wanted, ..plain() }
    }

    /// The answer in one word, and the head for the client.
    fn check(asked: &Asked, head: &str) -> Result<(&'static str, String), Fault> {
        let parsed = parse_response(head.as_bytes(), 100)?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ok(match judge(&parsed, asked, 100)? {
            Answer::Interim(head) => ("interim", text(head)),
            Answer::Unasked => ("unasked", String::new()),
            Answer::Tunnel(head) => ("tunnel", text(head)),
            Answer::Plain { head, body, .. } => {
                let kind = match format!("{body:?}") {
                    text if text.contains("Chunk") && text.contains("Decode") => "decoded",
                    text if text.contains("Chunk") => "chunked",
                    text if text.contains("Close") => "until close",
                    _ if body.is_complete() => "empty",
                    _ => "length",
                };
                (kind, text(head))
            }
        })
    }

    #[test]
    fn a_101_that_was_asked_for_opens_a_tunnel() {
        let head = format!(
            "HTTP/1.1 101 Sure\r\nconnection: keep-alive, UPGRADE\r\nupgrade: WebSocket\r\n{GOOD}\
             Keep-Alive: 5\r\nContent-Length: 7\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
        );
        let rebuilt = format!(
            "HTTP/1.1 101 Sure\r\n{GOOD}Sec-WebSocket-Protocol: chat\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\n\r\n"
        );
        assert_eq!(check(&websocket(), &head), Ok(("tunnel", rebuilt)));
    }

    #[test]
    fn a_101_otherwise_is_the_server_s_fault() {
        let switching = |fields: &str| format!("HTTP/1.1 101 Sure\r\n{fields}\r\n");
        let other = "the server's 101 switches to another protocol";
        let accept = "the server's Sec-WebSocket-Accept is wrong";
        let connection = "Connection: Upgrade\r\n";
        for (fields, fault) in [
            (format!("Upgrade: websocket\r\n{GOOD}"), "the server's 101 has no Connection: upgrade"),
            (
                format!("Connection: close\r\nUpgrade: websocket\r\n{GOOD}"),
                "the server's 101 has no Connection: upgrade",
            ),
            (format!("{connection}{GOOD}"), other),
            (format!("{connection}Upgrade: h2c\r\n{GOOD}"), other),
            (format!("{connection}Upgrade: websocket, h2c\r\n{GOOD}"), other),
            (format!("{connection}Upgrade: websocket\r\n"), accept),
            (format!("{connection}Upgrade: websocket\r\n{GOOD}{GOOD}"), accept),
            (
                format!(
                    "{connection}Upgrade: websocket\r\nSec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
                ),
                accept,
            ),
        ] {
            assert_eq!(check(&websocket(), &switching(&fields)), Err(fault), "{fields}");
        }
        let good = switching(&format!("{connection}Upgrade: websocket\r\n{GOOD}"));
        assert_eq!(check(&plain(), &good), Err("the server switched protocols without being asked"));
    }

    #[test]
    fn a_lenient_route_judges_only_the_101() {
        let wanted = Wanted::Upgrade { protocol: "websocket".into(), accept: None };
        let asked = Asked { wanted, ..plain() };
        let head = "HTTP/1.1 101 Sure\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(check(&asked, head).unwrap().0, "tunnel");
    }

    #[test]
    fn other_answers_are_plain_and_framed() {
        let kind = |asked: &Asked, head: &str| check(asked, head).map(|(kind, _)| kind);
        for asked in [plain(), websocket()] {
            assert_eq!(kind(&asked, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"), Ok("length"));
            assert_eq!(kind(&asked, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Ok("empty"));
            assert_eq!(kind(&asked, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Ok("chunked"));
            assert_eq!(kind(&asked, "HTTP/1.0 200 OK\r\n\r\n"), Ok("until close"));
            assert_eq!(kind(&asked, "HTTP/1.1 204 No\r\n\r\n"), Ok("empty"));
            assert_eq!(kind(&asked, "HTTP/1.1 304 No\r\nContent-Length: 3\r\n\r\n"), Ok("empty"));
            assert!(
                kind(&asked, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .is_err()
            );
            assert!(kind(&asked, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n").is_err());
            assert!(kind(&asked, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
            assert!(kind(&asked, "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").is_err());
        }
        let head_only = Asked { head_only: true, ..plain() };
        assert_eq!(kind(&head_only, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"), Ok("empty"));
        let old = Asked { version: Version::Http10, ..plain() };
        assert_eq!(kind(&old, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Ok("decoded"));
    }

    #[test]
    fn a_plain_head_is_rebuilt() {
        let head = "HTTP/1.1 200 OK\r\nServer: s\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nContent-Length: 3\r\n\
                    content-length: 3\r\nUpgrade: h2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n";
        let rebuilt = "HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 3\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
                       Connection: close\r\n\r\n";
        assert_eq!(check(&plain(), head), Ok(("length", rebuilt.to_owned())));
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let rebuilt = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        assert_eq!(check(&plain(), chunked), Ok(("chunked", rebuilt.to_owned())));
    }

    #[test]
    fn a_connection_field_has_a_limit() {
        let answer = |options: usize| {
            let head = format!("HTTP/1.1 204 No\r\nConnection: {}\r\n\r\n", "x,".repeat(options));
            check(&plain(), &head).map(|(kind, _)| kind)
        };
        assert_eq!(answer(100), Ok("empty"));
        assert_eq!(answer(101), Err("Connection has too many options"));
    }

    #[test]
    fn interim_answers_go_to_those_who_know_them() {
        let expecting = Asked { expects_continue: true, ..plain() };
        let old = Asked { version: Version::Http10, ..plain() };
        let kind = |asked: &Asked, status: u16| {
            check(asked, &format!("HTTP/1.1 {status} Soon\r\nLink: x\r\n\r\n")).map(|(kind, _)| kind)
        };
        assert_eq!(kind(&plain(), 100), Ok("unasked"));
        assert_eq!(kind(&expecting, 100), Ok("interim"));
        assert_eq!(kind(&plain(), 103), Ok("interim"));
        assert_eq!(kind(&websocket(), 102), Ok("interim"));
        assert_eq!(kind(&old, 103), Ok("unasked"));
        let rebuilt = "HTTP/1.1 103 Soon\r\nLink: x\r\n\r\n";
        let interim = "HTTP/1.1 103 Soon\r\nLink: x\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(check(&plain(), interim), Ok(("interim", rebuilt.to_owned())));
    }
}
