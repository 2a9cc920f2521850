//! HTTP/1.1 as it is spoken with operators: small requests, one after the other, each with a whole answer.

use std::io::Write as _;
use std::time::SystemTime;

use crate::error::Refusal;
use crate::proto::head::{self, Framing, Scanner, Version};

/// Bytes that a request's head may have.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Fields that it may have: browsers send twenty.
const HEADERS_MAX: usize = 64;

/// Bytes that its body may have. What is asked for has some hundreds.
pub const BODY_BYTES_MAX: usize = 16 * 1024;

/// A request, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The target up to the query.
    pub path: String,
    /// What is behind it.
    pub query: String,
    /// `Host`.
    pub host: Option<String>,
    /// `Origin`: the page that a browser sends it for.
    pub origin: Option<String>,
    /// `Content-Type`, without parameters, in lower case.
    pub content_type: Option<String>,
    /// The bearer token (RFC 6750, 2.1).
    pub token: Option<Vec<u8>>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether another request may follow.
    pub keeps_alive: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// Further field lines, each with its line end.
    pub fields: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// What JSON is sent as.
pub const JSON: &str = "application/json";

impl Response {
    /// With JSON in it.
    pub fn json(body: impl serde::Serialize) -> Response {
        let body = serde_json::to_vec(&body);
        debug_assert!(body.is_ok(), "what is answered has a JSON form");
        let body = body.unwrap_or_default();
        Response { status: 200, content_type: JSON, fields: "", body }
    }

    /// With a line of text.
    pub fn text(status: u16, text: &str) -> Response {
        let body = format!("{text}\n").into_bytes();
        Response { status, content_type: "text/plain; charset=utf-8", fields: "", body }
    }

    /// Says that it will not be done, and why.
    pub fn error(status: u16, error: &str) -> Response {
        #[derive(serde::Serialize)]
        struct Body<'a> {
            error: &'a str,
        }
        Response { status, ..Response::json(Body { error }) }
    }

    /// With these field lines, each with its line end.
    pub fn with(self, fields: &'static str) -> Response {
        Response { fields, ..self }
    }

    /// As it is sent. To a `HEAD` request goes the head alone (RFC 9110, 9.3.2).
    pub fn write(&self, head_only: bool, keeps_alive: bool, now: SystemTime) -> Vec<u8> {
        let Response { status, content_type, fields, body } = self;
        let mut out = Vec::with_capacity(256 + body.len());
        let _ = write!(
            out, // memory takes what is written
            "HTTP/1.1 {status} {}\r\nDate: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{fields}{}\r\n",
            reason(*status),
            httpdate::fmt_http_date(now),
            body.len(),
            if keeps_alive { "" } else { "Connection: close\r\n" },
        );
        if !head_only {
            out.extend_from_slice(body);
        }
        out
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

/// Reads requests from bytes that arrive in pieces.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    scanner: Scanner,
    /// Of the request that is being read, once its head is there.
    head_bytes: Option<usize>,
}

impl Reader {
    /// More bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether nothing of a request has come.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Takes out the next request, if all of it is there. What is no request is answered, and is the end.
    pub fn next(&mut self) -> Result<Option<Request>, Response> {
        let bad = |why: &str| Response::error(400, why);
        if self.head_bytes.is_none() {
            self.head_bytes = self.scanner.scan(&self.bytes).map_err(bad)?;
        }
        let length = match self.head_bytes {
            Some(length) if length <= HEAD_BYTES_MAX => length,
            None if self.bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
            Some(_) | None => return Err(Response::error(431, "the head is too large")),
        };
        let head =
            head::parse_request(&self.bytes[..length], HEADERS_MAX).map_err(|refusal| match refusal {
                Refusal::TooManyHeaders => Response::error(431, refusal.rule()),
                Refusal::HttpVersion => Response::error(505, refusal.rule()),
                other => bad(other.rule()),
            })?;
        let body_bytes = match head::framing(head.version, &head.fields).map_err(bad)? {
            Framing::Unsaid => 0,
            Framing::Length(length) if length <= BODY_BYTES_MAX as u64 => length as usize,
            Framing::Length(_) => return Err(Response::error(413, "the body is too large")),
            Framing::Chunked => return Err(Response::error(411, "say the length of the body")),
        };
        let Some(body) = self.bytes.get(length..length + body_bytes) else { return Ok(None) };
        let text = |name: &str| -> Result<Option<String>, Response> {
            let value = head.fields.once(name).map_err(|_| bad(&format!("{name} comes twice")))?;
            Ok(value.map(|value| String::from_utf8_lossy(value).into_owned()))
        };
        let (path, query) = head.target.split_once('?').unwrap_or((head.target, ""));
        let closes = head.fields.list("Connection").any(|option| option.eq_ignore_ascii_case(b"close"));
        let request = Request {
            method: head.method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            host: text("Host")?,
            origin: text("Origin")?,
            content_type: text("Content-Type")?
                .map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()),
            token: text("Authorization")?.and_then(bearer),
            body: body.to_vec(),
            keeps_alive: head.version == Version::Http11 && !closes,
        };
        if head.version == Version::Http11 && request.host.is_none() {
            return Err(bad("Host is missing"));
        }
        self.bytes.drain(..length + body_bytes);
        (self.scanner, self.head_bytes) = (Scanner::default(), None);
        Ok(Some(request))
    }
}

fn bearer(credentials: String) -> Option<Vec<u8>> {
    let (scheme, token) = credentials.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim().as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Request>, u16> {
        let mut reader = Reader::default();
        reader.add(text.replace('\n', "\r\n").as_bytes());
        reader.next().map_err(|response| response.status)
    }

    #[test]
    fn requests_are_read_byte_by_byte_one_after_the_other() {
        let text = "POST /close?a=b%20c&d HTTP/1.1\r\nHost: x\r\nContent-Type: Application/JSON; charset=utf-8\r\n\
                    Authorization: bearer  secret \r\nOrigin: http://x\r\nContent-Length: 2\r\n\r\n{}\
                    GET / HTTP/1.0\r\n\r\n";
        let mut reader = Reader::default();
        let mut found = Vec::new();
        for byte in text.bytes() {
            reader.add(&[byte]);
            found.extend(reader.next().unwrap());
        }
        let [post, get] = found.as_slice() else { panic!("two requests") };
        let owned = |text: &str| Some(text.to_owned());
        let expected = Request {
            method: "POST".into(),
            path: "/close".into(),
            query: "a=b%20c&d".into(),
            host: owned("x"),
            origin: owned("http://x"),
            content_type: owned("application/json"),
            token: Some(b"secret".to_vec()),
            body: b"{}".to_vec(),
            keeps_alive: true,
        };
        assert_eq!(*post, expected);
        assert_eq!((get.path.as_str(), get.keeps_alive), ("/", false));
        assert!(reader.is_empty());
    }

    #[test]
    fn what_is_no_request_of_ours_is_answered() {
        for (text, status) in [
            ("\0\n\n", 400),
            ("GET /\n\n", 400),
            ("GET / HTTP/2.0\n\n", 505),
            ("GET / HTTP/1.1\n\n", 400),
            ("GET / HTTP/1.1\nHost: a\nHost: b\n\n", 400),
            ("GET / HTTP/1.1\nHost : a\n\n", 400),
            ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n0\n\n", 411),
            ("POST / HTTP/1.1\nHost: a\nContent-Length: 2\nTransfer-Encoding: chunked\n\n", 400),
            ("POST / HTTP/1.1\nHost: a\nContent-Length: 2\nContent-Length: 3\n\n", 400),
            ("POST / HTTP/1.1\nHost: a\nContent-Length: -1\n\n", 400),
            ("POST / HTTP/1.1\nHost: a\nContent-Length: 16385\n\n", 413),
        ] {
            assert_eq!(read(text), Err(status), "{text:?}");
        }
        let many: String = (0..70).map(|number| format!("A{number}: b\n")).collect();
        assert_eq!(read(&format!("GET / HTTP/1.1\nHost: a\n{many}\n")), Err(431));
        let long = "a".repeat(HEAD_BYTES_MAX);
        assert_eq!(read(&format!("GET /{long}")), Err(431));
        assert_eq!(read(&format!("GET /{long} HTTP/1.1\nHost: a\n\n")), Err(431));
        assert_eq!(read("GET / HTTP/1.1\nHost: a\n"), Ok(None));
        assert_eq!(read("POST / HTTP/1.1\nHost: a\nContent-Length: 5\n\nabcd"), Ok(None));
    }

    #[test]
    fn an_answer_says_how_long_it_is_and_whether_it_is_the_last() {
        let response = Response::error(404, "no \"such\" thing").with("X: y\r\n");
        let now = SystemTime::UNIX_EPOCH;
        let text = String::from_utf8(response.write(false, false, now)).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 404 Not Found\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: application/json\r\n\
             Content-Length: 29\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX: y\r\n\
             Connection: close\r\n\r\n{\"error\":\"no \\\"such\\\" thing\"}"
        );
        let head = String::from_utf8(response.write(true, true, now)).unwrap();
        assert!(head.ends_with("X: y\r\n\r\n") && head.contains("Content-Length: 29"), "{head}");
    }
}
