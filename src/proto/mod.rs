//! Bytes in, decisions out: everything adit knows about protocols, without a socket, a clock or a log.
//!
//! # A primer
//!
//! A WebSocket begins as an HTTP/1.1 request: `GET`, `Connection: Upgrade`, `Upgrade: websocket`, a key. If the
//! server agrees it answers `101 Switching Protocols` with a value computed from the key, and from the byte behind
//! that head on the connection speaks another protocol, to which we are deaf (RFC 9110, 7.8; RFC 6455, 4).
//!
//! `Connection` and `Upgrade` are for one hop: a proxy that copies a head copies neither, and a proxy that copies
//! both without understanding them can be talked into a tunnel that no server agreed to. So nothing is copied.
//! [`head`] finds where a head ends and reads its parts, strictly. [`request`] decides what is asked and writes a
//! new request from the parts. [`response`] decides whether the server's answer is what was asked for, and writes
//! a new one. [`upgrade`] knows the WebSocket's own fields. [`body`] knows how far the body of a plain message
//! reaches, and [`target`] what a path means. [`proxy_header`] is the PROXY protocol, and [`reply`] what we say
//! when we refuse.
//!
//! What can be wrong with an upgrade is mostly a matter of two readers who disagree: where a head ends (bare CR, bare
//! LF, folded lines), how long a body is (two lengths, a length beside a coding), whose turn it is (bytes sent
//! behind a request before the server agreed: RFC 9931). Each of these is refused or held back here, in one place.
//!
//! Behind the opening, [`flow`] is one direction of a tunnel as a pure decision.

pub mod adapt;
pub mod body;
pub mod flow;
pub mod head;
pub mod proxy_header;
pub mod reply;
pub mod request;
pub mod response;
pub mod target;
pub mod upgrade;
