//! What is remembered of a session for its log lines; in a tunnel, which lives for days, in as few bytes as it takes.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
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
    /// Which of that listener's routes it took. (Not noted: it stands beside a tunnel.)
    pub route: u16,
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

fn cut(bytes: &[u8], most: usize) -> &[u8] {
    &bytes[..bytes.len().min(most)]
}

/// A session's id.
#[derive(Debug)]
pub enum Id {
    /// Drawn by us: written as 32 hexadecimal digits.
    Ours([u8; 16]),
    /// Kept from a trusted proxy.
    Kept(Box<str>),
}

/// Each byte as two hexadecimal digits.
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

impl Id {
    /// As it is written, in `room` where it is not kept as such.
    pub fn bytes<'a>(&'a self, room: &'a mut [u8; 32]) -> &'a [u8] {
        match self {
            Id::Kept(text) => text.as_bytes(),
            Id::Ours(bytes) => write_id(bytes, room),
        }
    }
}

/// An id of ours. `{:02x}` sixteen times would be 4,000 instructions.
fn write_id<'a>(bytes: &[u8; 16], room: &'a mut [u8; 32]) -> &'a [u8] {
    for (pair, byte) in room.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&HEX[usize::from(*byte)]);
    }
    room
}

impl Story {
    /// The story of a session that has just been accepted.
    pub fn new(id: [u8; 16], peer: Option<SocketAddr>, listener: u16, accepted: Moment) -> Story {
        Story {
            id: Id::Ours(id),
            peer,
            forwarded: None,
            listener,
            route: 0,
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
        let path_end = target.bytes().position(|byte| byte == b'?').unwrap_or(target.len());
        let (path, query) = (&target[..path_end], target.get(path_end + 1..).unwrap_or_default());
        let method = cut(head.method.as_bytes(), LOGGED_HOST_BYTES_MAX);
        let host = cut(host.unwrap_or_default(), LOGGED_HOST_BYTES_MAX);
        let path = cut(path.as_bytes(), LOGGED_PATH_BYTES_MAX);
        let query = if with_query { cut(query.as_bytes(), LOGGED_PATH_BYTES_MAX) } else { &[] };
        let mark = if query.is_empty() { "" } else { "?" };
        // Of its size at once: text that has grown and is cut keeps room that is too small to be of use to anybody.
        let mut text = Vec::with_capacity(method.len() + host.len() + path.len() + mark.len() + query.len());
        text.extend_from_slice(method);
        text.extend_from_slice(host);
        text.extend_from_slice(path);
        if !query.is_empty() {
            text.extend_from_slice(mark.as_bytes());
            text.extend_from_slice(query);
        }
        self.ends = [method.len(), method.len() + host.len(), text.len()].map(|end| end as u16);
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

    /// The client as it is logged.
    pub fn client(&self) -> Client {
        match (self.forwarded, self.peer) {
            (Some(address), _) => Client::Told(address),
            (None, Some(peer)) => Client::Peer(peer.ip(), peer.port()),
            (None, None) => Client::Unix,
        }
    }
}

/// Who a session is with.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    /// Somebody on a unix socket.
    Unix,
    /// The address that a trusted proxy told.
    Told(IpAddr),
    /// The address and port of the socket's peer. (A `SocketAddr` takes twelve bytes more.)
    Peer(IpAddr, u16),
}

impl Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Client::Unix => f.write_str("unix:"),
            Client::Told(address) => address.fmt(f),
            Client::Peer(address, port) => SocketAddr::new(address, port).fmt(f),
        }
    }
}

/// A story as short as a tunnel keeps it, until its last line.
///
/// It says no backend: the tunnel is counted for it, so that the loop knows. Nor how long heads were: a tunnel's flows
/// count payload only.
#[derive(Clone, Debug)]
pub struct Note {
    /// When the tunnel opened.
    pub opened: Moment,
    accepted: Moment,
    id: [u8; 16],
    /// The request's parts, and behind them an id that was kept: then `id` is not it.
    text: Box<[u8]>,
    /// Where the parts end; all 0 where there was no request.
    ends: [u16; 3],
    client: Client,
    listener: u16,
    status: Option<NonZeroU16>,
}

impl Note {
    /// Notes the story of a tunnel that has just opened.
    pub fn new(story: Story, opened: Moment) -> Note {
        let client = story.client();
        let request = story.request.unwrap_or_default();
        let (id, text) = match story.id {
            Id::Ours(id) => (id, request),
            Id::Kept(kept) => ([0; 16], [&*request, kept.as_bytes()].concat().into()),
        };
        Note {
            opened,
            accepted: story.accepted,
            id,
            text,
            ends: story.ends,
            client,
            listener: story.listener,
            status: story.status.and_then(NonZeroU16::new),
        }
    }

    /// The client.
    #[cfg(feature = "admin")]
    pub fn client(&self) -> Client {
        self.client
    }

    /// The request's host and path, as it came.
    #[cfg(feature = "admin")]
    pub fn asked(&self) -> (Option<&[u8]>, Option<&[u8]>) {
        let part = |from: u16, to: u16| self.text.get(from.into()..to.into()).filter(|part| !part.is_empty());
        let [method, host, path] = self.ends;
        (part(method, host), part(host, path))
    }

    /// The id as it is written, in `room` where it is not kept as such.
    #[cfg(feature = "admin")]
    pub fn id<'a>(&'a self, room: &'a mut [u8; 32]) -> &'a [u8] {
        match &self.text[self.ends[2].into()..] {
            [] => write_id(&self.id, room),
            kept => kept,
        }
    }

    /// The story again, at the tunnel's end.
    pub fn into_story(self) -> Story {
        let (request, kept) = self.text.split_at(self.ends[2].into());
        let (peer, forwarded) = match self.client {
            Client::Unix => (None, None),
            Client::Told(address) => (None, Some(address)),
            Client::Peer(address, port) => (Some(SocketAddr::new(address, port)), None),
        };
        Story {
            peer,
            forwarded,
            status: self.status.map(NonZeroU16::get),
            handshake: Some(self.opened.since(self.accepted)),
            id: if kept.is_empty() {
                Id::Ours(self.id)
            } else {
                Id::Kept(String::from_utf8_lossy(kept).into())
            },
            request: (self.ends != [0; 3]).then(|| request.into()),
            ends: self.ends,
            ..Story::new(self.id, None, self.listener, self.accepted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_noted(mut change: impl FnMut(&mut Story)) {
        let accepted = Moment::START + Duration::from_secs(1);
        let mut story = || {
            let mut story = Story::new([7; 16], Some("192.0.2.1:80".parse().unwrap()), 3, accepted);
            story.handshake = Some(Duration::from_millis(5));
            change(&mut story);
            story
        };
        let told = Note::new(story(), accepted + Duration::from_millis(5)).into_story();
        // What became of the client is one of two.
        let known = Story { peer: story().peer.filter(|_| story().forwarded.is_none()), ..story() };
        assert_eq!(format!("{told:?}"), format!("{known:?}"));
    }

    #[test]
    fn an_id_of_ours_is_its_bytes_in_hex() {
        let bytes = [0, 1, 9, 10, 15, 16, 99, 100, 127, 128, 159, 160, 200, 240, 254, 255];
        assert_eq!(Id::Ours(bytes).bytes(&mut [0; 32]), b"0001090a0f1063647f809fa0c8f0feff");
        assert_eq!(Id::Kept("from elsewhere".into()).bytes(&mut [0; 32]), b"from elsewhere");
    }

    #[test]
    fn a_note_is_the_whole_story() {
        check_noted(|_| {});
        check_noted(|story| story.peer = None);
        check_noted(|story| story.peer = Some("[2001:db8::1]:443".parse().unwrap()));
        check_noted(|story| story.forwarded = Some("2001:db8::2".parse().unwrap()));
        check_noted(|story| story.status = Some(101));
        check_noted(|story| story.id = Id::Kept("from elsewhere".into()));
        check_noted(|story| (story.request, story.ends) = (Some((*b"GETa/").into()), [3, 4, 5]));
        check_noted(|story| {
            (story.request, story.ends) = (Some((*b"GETa/").into()), [3, 4, 5]);
            story.id = Id::Kept("from elsewhere".into());
        });
    }
}
