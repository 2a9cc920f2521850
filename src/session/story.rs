//! What is remembered of a session for its log lines, in as few bytes as it takes: tunnels live for days.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::moment::Moment;
use crate::plan::BackendId;
use crate::proto::head::RequestHead;
use crate::proto::target;

/// Bytes of a path that are kept for the log; what is longer is cut. A path may have thousands, and a tunnel keeps its
/// own for as long as it lives.
const LOGGED_PATH_BYTES_MAX: usize = 1024;

/// Bytes of a host that are kept for the log: the longest name that DNS knows.
const LOGGED_HOST_BYTES_MAX: usize = 255;

/// A session as its log lines tell it.
#[derive(Debug)]
pub struct Story {
    /// The id that is the same in both lines and in `X-Request-ID`.
    pub id: Id,
    /// The client's socket address, from its PROXY header where there is one; `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    /// The client's address as a trusted proxy told it.
    pub forwarded: Option<IpAddr>,
    /// Which listener it came to.
    pub listener: u16,
    /// The server it went to.
    pub backend: Option<BackendId>,
    /// The status that the client was sent.
    pub status: Option<u16>,
    /// When it was accepted.
    pub accepted: Moment,
    /// From accept to the tunnel.
    pub handshake: Option<Duration>,
    /// Payload bytes that the server took.
    pub bytes_up: u64,
    /// Payload bytes that the client took.
    pub bytes_down: u64,
    /// Bytes of heads that the flows carry in front of the payload: up and down.
    pub overhead: [u32; 2],
    request: Option<Box<[u8]>>,
    /// Where in `request` the parts end: method, host, path; the query is behind them.
    ends: [u16; 3],
}

/// A session's id.
#[derive(Debug)]
pub enum Id {
    /// Drawn by us: written as 32 hexadecimal digits.
    Ours([u8; 16]),
    /// Kept from a trusted proxy.
    Kept(Box<str>),
}

impl Id {
    /// As it is written.
    pub fn text(&self) -> String {
        match self {
            Id::Kept(text) => text.to_string(),
            Id::Ours(bytes) => bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            }),
        }
    }
}

impl Story {
    /// The story of a session that has just been accepted.
    pub fn new(id: [u8; 16], peer: Option<SocketAddr>, listener: u16, accepted: Moment) -> Story {
        Story {
            id: Id::Ours(id),
            peer,
            forwarded: None,
            listener,
            backend: None,
            status: None,
            accepted,
            handshake: None,
            bytes_up: 0,
            bytes_down: 0,
            overhead: [0; 2],
            request: None,
            ends: [0; 3],
        }
    }

    /// Remembers what was asked for and of which host, with the query string only where that is to be logged.
    pub fn asked(&mut self, head: &RequestHead<'_>, host: Option<&[u8]>, with_query: bool) {
        let target = target::path_and_query(head.target);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let cut = |bytes: &[u8], most: usize| bytes[..bytes.len().min(most)].to_vec();
        let mut text = cut(head.method.as_bytes(), LOGGED_HOST_BYTES_MAX);
        self.ends[0] = text.len() as u16;
        text.extend(cut(host.unwrap_or_default(), LOGGED_HOST_BYTES_MAX));
        self.ends[1] = text.len() as u16;
        text.extend(cut(path.as_bytes(), LOGGED_PATH_BYTES_MAX));
        if with_query && !query.is_empty() {
            text.push(b'?');
            text.extend(cut(query.as_bytes(), LOGGED_PATH_BYTES_MAX));
        }
        self.ends[2] = text.len() as u16;
        self.request = Some(text.into_boxed_slice());
    }

    /// The bytes of a request's part; `None` before there is one.
    fn part(&self, from: usize, to: usize) -> Option<&[u8]> {
        self.request.as_deref().map(|text| &text[from..to])
    }

    /// The request's method.
    pub fn method(&self) -> Option<&[u8]> {
        self.part(0, self.ends[0].into())
    }

    /// The request's host, as it came.
    pub fn host(&self) -> Option<&[u8]> {
        self.part(self.ends[0].into(), self.ends[1].into()).filter(|host| !host.is_empty())
    }

    /// The request's path, as it came, and its query where that is logged.
    pub fn path(&self) -> Option<&[u8]> {
        self.part(self.ends[1].into(), self.ends[2].into())
    }

    /// Whether the method is `HEAD`.
    pub fn is_head_only(&self) -> bool {
        self.method() == Some(b"HEAD")
    }

    /// Takes over what two flows have carried.
    pub fn count(&mut self, up: u64, down: u64) {
        self.bytes_up = up.saturating_sub(self.overhead[0].into());
        self.bytes_down = down.saturating_sub(self.overhead[1].into());
    }

    /// The client as it is logged: what a trusted proxy said, or the socket's address, or `unix:`.
    pub fn client(&self) -> String {
        match (self.forwarded, self.peer) {
            (Some(address), _) => address.to_string(),
            (None, Some(peer)) => peer.to_string(),
            (None, None) => "unix:".to_owned(),
        }
    }
}
