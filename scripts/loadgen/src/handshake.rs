//! The opening handshake, both ends of it (RFC 6455, 4). Pure: texts in, texts out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// What is put behind the key before it is hashed (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// 16 random bytes, and the 20 of a SHA-1, in base64.
const KEY_BYTES: usize = 24;
const ACCEPT_BYTES: usize = 28;

/// A head is given up when it is longer. Those here have a few hundred bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
const FIELDS_MAX: usize = 64;

/// The `Sec-WebSocket-Accept` value for a key.
pub fn accept_of(key: &[u8]) -> [u8; ACCEPT_BYTES] {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut value = [0; ACCEPT_BYTES];
    let written = STANDARD.encode_slice(digest.as_slice(), &mut value);
    debug_assert_eq!(written, Ok(ACCEPT_BYTES), "20 bytes are 28 in base64");
    value
}

/// A client's request to one target, ready but for its key.
pub struct Request {
    text: Vec<u8>,
    key_at: usize,
}

impl Request {
    pub fn new(host: &str, path: &str) -> Request {
        let front = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        );
        let text = format!("{front}{}\r\n\r\n", "=".repeat(KEY_BYTES));
        Request { text: text.into_bytes(), key_at: front.len() }
    }

    /// Puts in a key that nobody has seen before; says what the server has to answer to it.
    pub fn renew(&mut self, nonce: u128) -> [u8; ACCEPT_BYTES] {
        let key = &mut self.text[self.key_at..self.key_at + KEY_BYTES];
        let written = STANDARD.encode_slice(nonce.to_ne_bytes(), key);
        debug_assert_eq!(written, Ok(KEY_BYTES), "16 bytes are 24 in base64");
        accept_of(key)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.text
    }
}

/// Judges a server's answer: the length of its head, or nothing as long as that is not whole.
pub fn judge_response(head: &[u8], accept: &[u8]) -> Result<Option<usize>, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let end = match response.parse(head) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("the answer's head does not end".into()),
        Err(error) => return Err(format!("the answer is not HTTP: {error}")),
    };
    if response.code != Some(101) {
        return Err(format!("the answer is {}, not 101", response.code.unwrap_or(0)));
    }
    let has =
        |name: &str, value: &str| once(response.headers, name).is_some_and(|found| is_same(found, value));
    if !has("upgrade", "websocket") || !has("connection", "upgrade") {
        return Err("the answer is no upgrade to a WebSocket".into());
    }
    if once(response.headers, "sec-websocket-accept") != Some(accept) {
        return Err("the answer's Sec-WebSocket-Accept is not that of our key".into());
    }
    Ok(Some(end))
}

/// What a server reads of a client's request.
pub struct Asked {
    /// The length of the head.
    pub end: usize,
    pub target: String,
    accept: [u8; ACCEPT_BYTES],
}

impl Asked {
    /// The answer to it, with more fields in its head, each with its line end.
    pub fn answer(&self, fields: &str) -> Vec<u8> {
        let mut answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Accept: "
            .to_vec();
        answer.extend_from_slice(&self.accept);
        answer.extend_from_slice(b"\r\n");
        answer.extend_from_slice(fields.as_bytes());
        answer.extend_from_slice(b"\r\n");
        answer
    }
}

/// Judges a client's request.
pub fn judge_request(head: &[u8]) -> Result<Option<Asked>, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let end = match request.parse(head) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("the request's head does not end".into()),
        Err(error) => return Err(format!("the request is not HTTP: {error}")),
    };
    let is_upgrade = once(request.headers, "upgrade").is_some_and(|value| is_same(value, "websocket"));
    let Some(key) = once(request.headers, "sec-websocket-key").filter(|_| is_upgrade) else {
        return Err("the request is no upgrade to a WebSocket".into());
    };
    let target = request.path.unwrap_or_default().to_owned();
    Ok(Some(Asked { end, target, accept: accept_of(key) }))
}

fn once<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    let mut found = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    let first = found.next()?;
    found.next().is_none().then_some(first.value)
}

fn is_same(found: &[u8], expected: &str) -> bool {
    found.eq_ignore_ascii_case(expected.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    #[test]
    fn the_rfc_s_own_example() {
        assert_eq!(&accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), ACCEPT);
    }

    #[test]
    fn both_ends_agree_and_every_key_is_another() {
        let mut request = Request::new("localhost", "/echo");
        let accept = request.renew(1);
        let asked = judge_request(request.bytes()).unwrap().expect("the head is whole");
        assert_eq!((asked.end, asked.target.as_str()), (request.bytes().len(), "/echo"));
        let answer = asked.answer("A: b\r\n");
        assert_eq!(judge_response(&answer, &accept), Ok(Some(answer.len())));
        assert_ne!(request.renew(2), accept);
        assert!(judge_response(&answer, &request.renew(2)).is_err(), "the answer to another key");
        for short in 0..request.bytes().len() {
            assert!(judge_request(&request.bytes()[..short]).unwrap().is_none());
        }
        for short in 0..answer.len() {
            assert_eq!(judge_response(&answer[..short], &accept), Ok(None));
        }
    }

    #[test]
    fn other_answers_are_refused() {
        let check = |status: &str, fields: &str, expected: bool| {
            let head = format!("HTTP/1.1 {status}\r\n{fields}\r\n");
            assert_eq!(judge_response(head.as_bytes(), ACCEPT).is_ok(), expected, "{head}");
        };
        let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        let upgrade = "connection: upgrade\r\nupgrade: WebSocket\r\n";
        check("101 Switching Protocols", &format!("{upgrade}{accept}"), true);
        check("101 Switching Protocols", upgrade, false);
        check("101 Switching Protocols", accept, false);
        check("101 Switching Protocols", &format!("{upgrade}{accept}{accept}"), false);
        check("101 Switching Protocols", &format!("{upgrade}{}", accept.replace("s3", "S3")), false);
        check("200 OK", &format!("{upgrade}{accept}"), false);
        assert!(judge_response(b"SSH-2.0-OpenSSH\r\n\r\n", ACCEPT).is_err());
        let endless = ["HTTP/1.1 101 Fine\r\nA: ", &"a".repeat(HEAD_BYTES_MAX)].concat();
        assert!(judge_response(endless.as_bytes(), ACCEPT).is_err());
    }

    #[test]
    fn what_is_no_upgrade_is_not_answered_as_one() {
        assert!(judge_request(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
        assert!(judge_request(b"GET /echo HTTP/1.1\r\nUpgrade: websocket\r\n\r\n").is_err(), "no key");
        assert!(judge_request(b"\x16\x03\x01\r\n\r\n").is_err());
    }
}
