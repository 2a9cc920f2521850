//! A socket and what we believe about it. `WouldBlock` and `Interrupted` end here.
//!
//! Sockets are watched edge-triggered. An edge sets a readiness bit; a bit is cleared by `WouldBlock`, or by a
//! transfer shorter than asked for, which has emptied (or filled) the socket: no second call just to be told so. What
//! arrives after that brings a new edge. Only a peer's FIN needs care: where it came along with the bytes there is no
//! further edge, so a socket that is known to be closed for reading stays readable until a read says so. Urgent data
//! needs the same: a read ends short of it though more stands behind it (`MSG_OOB` of send(2); the urgent byte itself
//! is none of the stream's and is left out). And so do descriptors that are passed through a unix socket: a read ends
//! behind the bytes that they came along with, which `sys` hides.

use std::io;
use std::net::{Shutdown, SocketAddr};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};

use crate::sys::splice::Pipe;
use crate::sys::{self, Keepalive, splice};

/// What a transport needs of a socket. The kernel's sockets are one implementation, the tests' scripts another.
pub trait Socket {
    /// As recv(2).
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize>;
    /// As send(2), without a signal.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Whether bytes can be spliced from it and to it.
    fn splices(&self) -> bool;
    /// As splice(2) into an empty pipe, at most `max` bytes.
    fn splice_in(&mut self, pipe: &mut Pipe, max: usize) -> io::Result<usize>;
    /// As splice(2) out of a pipe that has bytes.
    fn splice_out(&mut self, pipe: &mut Pipe) -> io::Result<usize>;
    /// Half-closes: tells the peer that no more will come.
    fn shutdown_write(&mut self) -> io::Result<()>;
    /// Lets the kernel find out whether the peer is still there.
    fn keep_alive(&mut self, keepalive: &Keepalive);
    /// Makes the close that follows a reset.
    fn make_close_a_reset(&mut self);
    /// The socket's pending error, which this takes away.
    fn take_error(&mut self) -> Option<io::Error>;
    /// Whether it is connected by now.
    fn is_connected(&mut self) -> bool;
    /// The address that the peer dialed; `None` on a unix socket.
    fn local_address(&self) -> Option<SocketAddr>;
}

/// A stream socket of the kernel's.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// What a poll watches.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => stream,
        }
    }
}

impl Socket for Stream {
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => sys::recv(stream, into),
            Stream::Unix(stream) => sys::recv_unix(stream, into),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => sys::send(stream, bytes),
            Stream::Unix(stream) => sys::send(stream, bytes),
        }
    }

    /// Unix sockets are copied: what a splice does at descriptors that are passed along (see `sys::recv_unix`), at
    /// bytes out of band and at the bounds of messages has changed from kernel to kernel.
    fn splices(&self) -> bool {
        match self {
            Stream::Tcp(_) => splice::IS_BUILT_IN,
            Stream::Unix(_) => false,
        }
    }

    fn splice_in(&mut self, pipe: &mut Pipe, max: usize) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => pipe.fill_from(stream, max),
            Stream::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn splice_out(&mut self, pipe: &mut Pipe) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => pipe.flush_to(stream),
            Stream::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    fn keep_alive(&mut self, keepalive: &Keepalive) {
        match self {
            // Where it fails the kernel's own defaults hold, as they did until now.
            Stream::Tcp(stream) => drop(keepalive.apply(stream)),
            Stream::Unix(_) => {} // the kernel knows
        }
    }

    fn make_close_a_reset(&mut self) {
        match self {
            // It can only fail on a socket that is no more, and then there is nobody to reset.
            Stream::Tcp(stream) => drop(sys::make_close_a_reset(stream)),
            Stream::Unix(_) => {} // a unix socket closed with unread bytes resets its peer by itself
        }
    }

    fn take_error(&mut self) -> Option<io::Error> {
        let taken = match self {
            Stream::Tcp(stream) => stream.take_error(),
            Stream::Unix(stream) => stream.take_error(),
        };
        taken.unwrap_or_else(Some)
    }

    fn is_connected(&mut self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.peer_addr().is_ok(),
            Stream::Unix(_) => true,
        }
    }

    fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Unix(_) => None,
        }
    }
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// This many bytes, at least one.
    Bytes(usize),
    /// Nothing for now.
    Blocked,
    /// The peer has ended.
    End,
}

/// What an event says about a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    /// There may be something to read: bytes, the end or an error.
    pub readable: bool,
    /// There may be room to write, or an error to learn of.
    pub writable: bool,
    /// A short read does not empty the socket: the peer has ended, or has sent urgent data; a hint that the next reads
    /// are to confirm.
    pub read_closed: bool,
    /// The socket has failed; likewise.
    pub failed: bool,
}

/// What a socket is watched for. To be told of room costs a wake-up right when the watch begins, as there is room then,
/// so a socket is watched for that only from when a write is first put off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watch {
    /// Nothing.
    #[default]
    Off,
    /// Something to read.
    Reads,
    /// That, and room to write.
    Both,
}

/// A socket with its readiness.
#[derive(Debug)]
pub struct Transport<S> {
    socket: S,
    readable: bool,
    writable: bool,
    fate: Fate,
    watch: Watch,
}

/// What events have said of a socket's end: a hint that reads and writes are to confirm. (In two booleans it would take
/// four bytes more, and a tunnel has two of these.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Nothing.
    Open,
    /// [`Edges::read_closed`].
    ReadClosed,
    /// [`Edges::failed`], and so the other too.
    Failed,
}

const _: () = assert!(cfg!(debug_assertions) || size_of::<Transport<Stream>>() == 12);

impl Transport<Stream> {
    /// What a poll watches.
    pub fn source(&mut self) -> &mut dyn Source {
        self.socket.source()
    }
}

impl<S: Socket> Transport<S> {
    /// A socket of which nothing is known yet.
    pub fn new(socket: S) -> Transport<S> {
        Transport { socket, readable: false, writable: false, fate: Fate::Open, watch: Watch::Off }
    }

    /// A connected socket, which can be written until it says otherwise.
    pub fn connected(socket: S) -> Transport<S> {
        Transport { writable: true, ..Transport::new(socket) }
    }

    /// What it has to be watched for and is not yet, if it is to wait for an edge.
    pub fn unwatched(&self) -> Option<Watch> {
        let needed = if self.writable { Watch::Reads } else { Watch::Both };
        (self.watch < needed).then_some(needed)
    }

    /// Takes note that it is watched. What is there already makes an edge now (`EPOLL_CTL_MOD`, epoll_ctl(2)).
    pub fn watched(&mut self, watch: Watch) {
        self.watch = watch;
    }

    /// Whether it is watched for anything.
    pub fn is_watched(&self) -> bool {
        self.watch != Watch::Off
    }

    /// Takes note of an event.
    #[inline]
    pub fn mark(&mut self, edges: Edges) {
        self.readable |= edges.readable || edges.read_closed || edges.failed;
        self.writable |= edges.writable || edges.failed;
        let fate = match edges {
            Edges { failed: true, .. } => Fate::Failed,
            Edges { read_closed: true, .. } => Fate::ReadClosed,
            Edges { .. } => Fate::Open,
        };
        self.fate = self.fate.max(fate);
    }

    /// Whether a read is worth a try.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether a write is worth a try.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Reads once. `into` is not empty.
    #[inline]
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Received> {
        debug_assert!(!into.is_empty(), "a read of nothing cannot be told from the end");
        loop {
            match self.socket.recv(into) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => {
                    self.readable = count == into.len() || self.fate >= Fate::ReadClosed;
                    return Ok(Received::Bytes(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(Received::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes once, and says how many bytes were taken: 0 if there is no room for now.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.send(bytes) {
                Ok(count) => {
                    self.writable = count == bytes.len();
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    return Ok(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether bytes can be spliced from it. Not where a peer has ended or sent urgent data, at which a splice gets no
    /// further: what is left there is for reads.
    pub fn can_fill_a_pipe(&self) -> bool {
        self.fate < Fate::ReadClosed && self.socket.splices()
    }

    /// Whether bytes can be spliced to it.
    pub fn can_empty_a_pipe(&self) -> bool {
        self.socket.splices()
    }

    /// Splices once into an empty pipe. Fewer bytes than asked for do not say that there are no more: a pipe has slots,
    /// and one may be taken by a single byte. An end is none before a read says so.
    pub fn splice_in(&mut self, pipe: &mut Pipe, max: usize) -> io::Result<Received> {
        debug_assert_eq!(pipe.held(), 0, "what would block is the socket");
        loop {
            match self.socket.splice_in(pipe, max) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => return Ok(Received::Bytes(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(Received::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Splices once out of a pipe that has bytes, and says how many were taken: 0 if there is no room for now. A part
    /// of them does not say that there is no more room, as a signal cuts a splice short.
    pub fn splice_out(&mut self, pipe: &mut Pipe) -> io::Result<usize> {
        debug_assert!(pipe.held() > 0, "there is something to splice");
        loop {
            match self.socket.splice_out(pipe) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    return Ok(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Half-closes. A peer that is no longer there need not be told, so this cannot fail; the other direction will
    /// learn.
    pub fn finish(&mut self) {
        drop(self.socket.shutdown_write());
    }

    /// Lets the kernel find out whether the peer is still there.
    pub fn keep_alive(&mut self, keepalive: &Keepalive) {
        self.socket.keep_alive(keepalive);
    }

    /// Closes with a reset.
    pub fn abort(mut self) {
        self.socket.make_close_a_reset();
    }

    /// The address that the peer dialed; `None` on a unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.socket.local_address()
    }

    /// Whether an event has called it failed.
    pub fn is_failed(&self) -> bool {
        self.fate == Fate::Failed
    }

    /// The error of a socket that an event has called failed. Costs nothing on any other.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        if self.is_failed() { self.socket.take_error() } else { None }
    }

    /// Whether a dialed socket is connected: `None` while that is not settled. Where there is something to write, a
    /// write tells as much.
    pub fn connected_by_now(&mut self) -> Option<io::Result<()>> {
        if !self.writable {
            return None;
        }
        if self.socket.is_connected() {
            return Some(Ok(()));
        }
        self.writable = false;
        self.socket.take_error().map(Err)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::super::script::{Peer, Scripted, pair};
    use super::*;

    fn transport() -> (Transport<Scripted>, Peer) {
        let (socket, peer) = pair();
        (Transport::connected(socket), peer)
    }

    /// Tells a transport what its peer has caused.
    fn tell(transport: &mut Transport<Scripted>, peer: &Peer) {
        transport.mark(std::mem::take(&mut peer.wire().edges));
    }

    #[track_caller]
    fn reads(transport: &mut Transport<Scripted>, bytes: usize, expected: Received, still_readable: bool) {
        assert_eq!(transport.read(&mut vec![0; bytes]).unwrap(), expected);
        assert_eq!(transport.is_readable(), still_readable);
    }

    #[test]
    fn a_new_socket_is_not_ready_and_an_accepted_one_can_be_written() {
        let (socket, _peer) = pair();
        let dialed = Transport::new(socket);
        assert!(!dialed.is_readable() && !dialed.is_writable());
        let (accepted, _peer) = transport();
        assert!(!accepted.is_readable() && accepted.is_writable());
    }

    #[test]
    fn a_read_shorter_than_asked_has_emptied_the_socket() {
        let (mut transport, peer) = transport();
        peer.sends("abc");
        tell(&mut transport, &peer);
        reads(&mut transport, 4, Received::Bytes(3), false);
    }

    #[test]
    fn a_read_as_long_as_asked_says_nothing_about_what_is_left() {
        let (mut transport, peer) = transport();
        peer.sends("abcd");
        tell(&mut transport, &peer);
        reads(&mut transport, 4, Received::Bytes(4), true);
        reads(&mut transport, 4, Received::Blocked, false);
    }

    #[test]
    fn an_end_that_came_along_with_the_bytes_is_read_behind_them() {
        let (mut transport, peer) = transport();
        peer.sends("abc");
        peer.ends();
        tell(&mut transport, &peer);
        reads(&mut transport, 4, Received::Bytes(3), true);
        reads(&mut transport, 4, Received::End, true);
        // It can be read as often as wanted.
        reads(&mut transport, 4, Received::End, true);
    }

    #[test]
    fn an_end_that_comes_later_makes_an_edge_of_its_own() {
        let (mut transport, peer) = transport();
        peer.sends("abc");
        tell(&mut transport, &peer);
        peer.ends();
        reads(&mut transport, 4, Received::Bytes(3), false);
        tell(&mut transport, &peer);
        reads(&mut transport, 4, Received::End, true);
    }

    #[test]
    fn an_end_announced_too_early_blocks_no_one() {
        let (mut transport, _peer) = transport();
        transport.mark(Edges { read_closed: true, ..Edges::default() });
        reads(&mut transport, 4, Received::Blocked, false);
    }

    #[test]
    fn a_write_taken_in_part_has_filled_the_socket() {
        let (mut transport, peer) = transport();
        peer.is_full();
        peer.takes(3);
        assert_eq!(transport.write(b"abcd").unwrap(), 3);
        assert!(!transport.is_writable());
        assert_eq!(transport.write(b"d").unwrap(), 0);
        peer.takes(1);
        tell(&mut transport, &peer);
        assert!(transport.is_writable());
        assert_eq!(transport.write(b"d").unwrap(), 1);
        assert!(transport.is_writable(), "all was taken, so there may be more room");
    }

    #[test]
    fn a_signal_is_no_error() {
        let (mut transport, peer) = transport();
        peer.sends("abc");
        peer.wire().interrupts = 3;
        reads(&mut transport, 4, Received::Bytes(3), false);
        assert_eq!(peer.wire().calls[0], 4);
        peer.wire().interrupts = 3;
        assert_eq!(transport.write(b"abc").unwrap(), 3);
        assert_eq!(peer.wire().calls[1], 4);
    }

    #[test]
    fn a_reset_is_learned_behind_the_bytes_that_came_before_it() {
        let (mut transport, peer) = transport();
        peer.sends("abc");
        peer.resets();
        tell(&mut transport, &peer);
        reads(&mut transport, 4, Received::Bytes(3), true);
        assert_eq!(transport.read(&mut [0; 4]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(transport.write(b"a").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_failure_is_asked_for_only_where_an_event_has_told_of_one() {
        let (mut transport, peer) = transport();
        peer.resets();
        assert!(transport.take_failure().is_none(), "no event, no call");
        tell(&mut transport, &peer);
        assert_eq!(transport.take_failure().unwrap().kind(), ErrorKind::ConnectionReset);
        assert!(transport.take_failure().is_none(), "it is told once");
    }

    #[test]
    fn a_dial_is_settled_by_an_edge() {
        let dialed = || {
            let (socket, peer) = pair();
            peer.wire().is_connected = false;
            (Transport::new(socket), peer)
        };
        let (mut transport, peer) = dialed();
        assert!(transport.connected_by_now().is_none());
        peer.connects();
        tell(&mut transport, &peer);
        assert!(transport.connected_by_now().unwrap().is_ok());

        let (mut transport, peer) = dialed();
        peer.refuses();
        tell(&mut transport, &peer);
        let error = transport.connected_by_now().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

        // An edge without a connection: another one will come.
        let (mut transport, peer) = dialed();
        peer.nudges();
        tell(&mut transport, &peer);
        assert!(transport.connected_by_now().is_none());
        assert!(!transport.is_writable());
        peer.connects();
        tell(&mut transport, &peer);
        assert!(transport.connected_by_now().unwrap().is_ok());
    }

    #[test]
    fn an_abort_is_a_reset_and_a_drop_is_not() {
        let (dropped, peer) = transport();
        drop(dropped);
        assert!(peer.wire().closed && !peer.wire().was_reset);
        let (aborted, peer) = transport();
        aborted.abort();
        assert!(peer.wire().closed && peer.wire().was_reset);
    }
}
