//! What we say when we refuse: a short, complete answer that names the rule.

use std::time::SystemTime;

use super::head::put_field;
use crate::error::Refusal;

/// Writes our own answer to a request that is refused. `head_only`: to a `HEAD` request, which gets no body
/// (RFC 9110, 9.3.2).
pub fn write(refusal: &Refusal, date: SystemTime, head_only: bool) -> Vec<u8> {
    let (status, phrase) = refusal.status();
    let body = format!("{status} {phrase}: {}\n", refusal.rule());
    let mut out = format!("HTTP/1.1 {status} {phrase}\r\n").into_bytes();
    put_field(&mut out, "Date", httpdate::fmt_http_date(date).as_bytes());
    put_field(&mut out, "Content-Type", b"text/plain; charset=utf-8");
    put_field(&mut out, "Content-Length", body.len().to_string().as_bytes());
    match refusal {
        // RFC 9110, 15.5.6 wants to know what would do, as RFC 6455, 4.4 does below.
        Refusal::ConnectMethod => {
            put_field(&mut out, "Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
        }
        Refusal::WebSocketVersion => put_field(&mut out, "Sec-WebSocket-Version", b"13"),
        _ => {} // the other refusals have nothing to add
    }
    put_field(&mut out, "Connection", b"close");
    out.extend_from_slice(b"\r\n");
    if !head_only {
        out.extend_from_slice(body.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn an_answer_is_complete_and_names_the_rule() {
        let date = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let answer = write(&Refusal::WebSocketVersion, date, false);
        assert_eq!(
            String::from_utf8(answer).unwrap(),
            "HTTP/1.1 426 Upgrade Required\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: 55\r\nSec-WebSocket-Version: 13\r\n\
             Connection: close\r\n\r\n426 Upgrade Required: Sec-WebSocket-Version must be 13\n"
        );
        let answer = write(&Refusal::NoRoute, date, true);
        assert!(answer.ends_with(b"Connection: close\r\n\r\n"));
    }
}
