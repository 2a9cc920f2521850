//! Entry points for fuzzing, which also run as plain tests over a kept corpus. Not part of the interface.

pub use crate::proto::body::fuzz as body;
pub use crate::proto::proxy_header::fuzz as proxy_header;

use crate::plan::{PoolId, Route};
use crate::proto::head::{self, Framing, Scanner, Version};
use crate::proto::request::{self, Introduction, Request, Wanted};
use crate::proto::response::{self, Answer, Asked};
use crate::proto::upgrade::Accept;

/// Where the head ends, which must not depend on how it arrives.
fn end_of_head(data: &[u8]) -> Option<usize> {
    let whole = Scanner::default().scan(data);
    let mut scanner = Scanner::default();
    let in_pieces =
        (0..=data.len()).map(|end| scanner.scan(&data[..end])).find(|scanned| *scanned != Ok(None));
    assert_eq!(in_pieces.unwrap_or(Ok(None)), whole);
    whole.ok().flatten()
}

/// A request head: nothing panics, and what is rebuilt from one that is let through means the same to a strict reader.
pub fn request_head(data: &[u8]) {
    let Some(end) = end_of_head(data) else { return };
    let Ok(request) = head::parse_request(&data[..end], 100).and_then(request::read) else { return };
    let route = Route::catch_all(PoolId(0));
    let Ok(wanted) = request::wanted(&request, &route) else { return };
    for trusted in [false, true] {
        let intro =
            Introduction { peer: None, trusted, client: None, request_id: b"id", host_fallback: "upstream" };
        let mut rebuilt = Vec::new();
        request::rebuild(&request, &wanted, &intro, &route, &mut rebuilt);
        assert_eq!(Scanner::default().scan(&rebuilt), Ok(Some(rebuilt.len())));
        let parsed = head::parse_request(&rebuilt, 200).expect("a rebuilt request is a request");
        let again = request::read(parsed).expect("a rebuilt request keeps the rules");
        same(&request, &again, &wanted);
        assert_eq!(request::wanted(&again, &route), Ok(wanted.clone()));
    }
}

/// What a server must not read otherwise than we did.
fn same(request: &Request<'_>, again: &Request<'_>, wanted: &Wanted) {
    assert_eq!(request.head.method, again.head.method);
    assert_eq!(request.target.normalized, again.target.normalized);
    assert_eq!(request.target.query, again.target.query);
    assert_eq!(request.framing, again.framing);
    assert_eq!(again.head.version, Version::Http11);
    if request.host.is_some() {
        assert_eq!(request.host, again.host);
    }
    let options: Vec<&[u8]> = again.head.fields.list("connection").collect();
    match wanted {
        Wanted::Plain => {
            assert_eq!(options, [b"close"]);
            assert_eq!(again.head.fields.all("upgrade").count(), 0);
        }
        Wanted::Upgrade { protocol, .. } => {
            assert_eq!(options, [b"Upgrade"]);
            assert_eq!(again.head.fields.once("upgrade"), Ok(Some(protocol.as_bytes())));
            assert!(matches!(again.framing, Framing::Unsaid | Framing::Length(0)));
        }
    }
}

/// A response head: nothing panics, and what is rebuilt from one that is let through is framed as we framed it.
pub fn response_head(data: &[u8]) {
    let Some(end) = end_of_head(data) else { return };
    let Ok(head) = head::parse_response(&data[..end], 100) else { return };
    let accept = Some(Accept::of(b"dGhlIHNhbXBsZSBub25jZQ=="));
    for wanted in [Wanted::Plain, Wanted::Upgrade { protocol: "websocket".into(), accept }] {
        for version in [Version::Http10, Version::Http11] {
            for head_only in [false, true] {
                let asked = Asked { wanted: wanted.clone(), version, head_only, expects_continue: true };
                match response::judge(&head, &asked, 1024) {
                    Ok(Answer::Tunnel(rebuilt)) => {
                        assert_ne!(wanted, Wanted::Plain);
                        assert_eq!(framing_of(&rebuilt, 101), Framing::Unsaid);
                    }
                    Ok(Answer::Interim(rebuilt)) => {
                        assert_eq!(framing_of(&rebuilt, head.status), Framing::Unsaid);
                    }
                    Ok(Answer::Plain { status, head: rebuilt, .. }) => {
                        let framing = framing_of(&rebuilt, status);
                        assert!(version == Version::Http11 || framing != Framing::Chunked);
                    }
                    Ok(Answer::Unasked) | Err(_) => {}
                }
            }
        }
    }
}

/// How long a strict reader of a rebuilt response takes its body to be.
fn framing_of(rebuilt: &[u8], status: u16) -> Framing {
    assert_eq!(Scanner::default().scan(rebuilt), Ok(Some(rebuilt.len())));
    let again = head::parse_response(rebuilt, 200).expect("a rebuilt response is a response");
    assert_eq!(again.status, status);
    head::framing(again.version, &again.fields).expect("a rebuilt response is framed one way")
}
