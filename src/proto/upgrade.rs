//! The WebSocket's own fields: the key, the version, and the value that proves that a server agreed.

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};

use super::head::Fields;
use crate::error::Refusal;

/// What is put behind the key before it is hashed (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Reads keys. The bits behind the last byte are not judged: the RFC's own text has a key in which they are set.
const KEY: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The bytes of a `Sec-WebSocket-Accept` value: 20 bytes of SHA-1 in base64.
const ACCEPT_BYTES: usize = 28;

/// The `Sec-WebSocket-Accept` value that a server must answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept([u8; ACCEPT_BYTES]);

impl Accept {
    /// The value for a key (RFC 6455, 4.2.2, 5.4).
    pub fn of(key: &[u8]) -> Accept {
        let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
        let mut value = [0; ACCEPT_BYTES];
        let written = STANDARD.encode_slice(digest.as_slice(), &mut value);
        debug_assert_eq!(written, Ok(ACCEPT_BYTES), "20 bytes are 28 in base64");
        Accept(value)
    }

    /// Whether this is what the server sent.
    pub fn is(&self, value: &[u8]) -> bool {
        self.0 == value
    }
}

/// Judges the `Sec-WebSocket-*` fields of a client's request (RFC 6455, 4.2.1) and says what the server must
/// answer.
pub fn judge_websocket(fields: &Fields<'_>) -> Result<Accept, Refusal> {
    if fields.once("Sec-WebSocket-Version") != Ok(Some(b"13")) {
        return Err(Refusal::WebSocketVersion);
    }
    let key = match fields.once("Sec-WebSocket-Key") {
        Ok(Some(key)) => key,
        Ok(None) => return Err(Refusal::BadRequest("Sec-WebSocket-Key is missing")),
        Err(_) => return Err(Refusal::BadRequest("Sec-WebSocket-Key is repeated")),
    };
    let mut nonce = [0; 18]; // 24 characters of base64 decode to 18 bytes at most
    match KEY.decode_slice(key, &mut nonce) {
        Ok(16) => Ok(Accept::of(key)),
        Ok(_) | Err(_) => Err(Refusal::BadRequest("Sec-WebSocket-Key is not 16 bytes of base64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::head::parse_request;

    fn judge(fields: &str) -> Result<Accept, Refusal> {
        let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        judge_websocket(&parse_request(head.as_bytes(), 100).unwrap().fields)
    }

    #[test]
    fn the_rfc_s_own_example() {
        let accept = Accept::of(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert!(accept.is(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(!accept.is(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo"));
        assert_eq!(
            judge("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            Ok(accept)
        );
    }

    #[test]
    fn a_key_with_loose_bits_is_a_key() {
        let fields = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n";
        assert!(judge(fields).is_ok());
    }

    #[test]
    fn other_versions_and_keys_are_refused() {
        let key = |key: &str| judge(&format!("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"));
        let not_a_key = Err(Refusal::BadRequest("Sec-WebSocket-Key is not 16 bytes of base64"));
        assert_eq!(key(""), not_a_key);
        assert_eq!(key("dGhlIHNhbXBsZSBub25jZQ"), not_a_key);
        assert_eq!(key("dGhlIHNhbXBsZSBub25jZQ="), not_a_key);
        assert_eq!(key("dGhlIHNhbXBsZSBub25j"), not_a_key);
        assert_eq!(key("dGhlIHNhbXBsZSBub25jZSEh"), not_a_key);
        assert_eq!(key("dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ=="), not_a_key);
        assert_eq!(key("dGhlIHNhbXBsZSBub25jZ!=="), not_a_key);
        assert_eq!(
            key("dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
            Err(Refusal::BadRequest("Sec-WebSocket-Key is repeated"))
        );
        assert_eq!(
            judge("Sec-WebSocket-Version: 13\r\n"),
            Err(Refusal::BadRequest("Sec-WebSocket-Key is missing"))
        );
        let version =
            |fields: &str| judge(&format!("{fields}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"));
        assert_eq!(version(""), Err(Refusal::WebSocketVersion));
        assert_eq!(version("Sec-WebSocket-Version: 8\r\n"), Err(Refusal::WebSocketVersion));
        assert_eq!(version("Sec-WebSocket-Version: 13, 8\r\n"), Err(Refusal::WebSocketVersion));
        let twice = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13\r\n";
        assert_eq!(version(twice), Err(Refusal::WebSocketVersion));
    }
}
