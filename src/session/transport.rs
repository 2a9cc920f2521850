//! A socket and what we believe about it. `WouldBlock` and `Interrupted` end here.
//!
//! Sockets are registered once, edge-triggered. An edge sets a readiness bit; a bit is cleared by `WouldBlock`, or by a
//! transfer shorter than asked for, which has emptied (or filled) the socket: no second call just to be told so. What
//! arrives after that brings a new edge. Only a peer's FIN needs care: where it came along with the bytes there is no
//! further edge, so a socket that is known to be closed for reading stays readable until a read says so. Urgent data
//! needs the same: a read ends short of it though more stands behind it (`MSG_OOB` of send(2); the urgent byte itself is
//! none of the stream's and is left out).

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};

use mio::net::{TcpStream, UnixStream};

use crate::sys;

/// What a transport needs of a socket. The kernel's sockets are one implementation, the tests' scripts another.
pub trait Socket {
    /// As read(2).
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize>;
    /// As write(2).
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Half-closes: tells the peer that no more will come.
    fn shutdown_write(&mut self) -> io::Result<()>;
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

impl Socket for Stream {
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
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

/// A socket with its readiness.
#[derive(Debug)]
pub struct Transport<S> {
    socket: S,
    ready: Edges,
}

impl<S: Socket> Transport<S> {
    /// A socket of which nothing is known yet.
    pub fn new(socket: S) -> Transport<S> {
        Transport { socket, ready: Edges::default() }
    }

    /// A connected socket, which can be written until it says otherwise.
    pub fn connected(socket: S) -> Transport<S> {
        Transport { socket, ready: Edges { writable: true, ..Edges::default() } }
    }

    /// Takes note of an event.
    pub fn mark(&mut self, edges: Edges) {
        self.ready.readable |= edges.readable || edges.read_closed || edges.failed;
        self.ready.writable |= edges.writable || edges.failed;
        self.ready.read_closed |= edges.read_closed || edges.failed;
        self.ready.failed |= edges.failed;
    }

    /// Whether a read is worth a try.
    pub fn is_readable(&self) -> bool {
        self.ready.readable
    }

    /// Whether a write is worth a try.
    pub fn is_writable(&self) -> bool {
        self.ready.writable
    }

    /// Reads once. `into` is not empty.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Received> {
        debug_assert!(!into.is_empty(), "a read of nothing cannot be told from the end");
        loop {
            match self.socket.recv(into) {
                Ok(0) => return Ok(Received::End),
                Ok(count) => {
                    self.ready.readable = count == into.len() || self.ready.read_closed;
                    return Ok(Received::Bytes(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.readable = false;
                    return Ok(Received::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes once, and says how many bytes were taken: 0 if there is no room for now.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.send(bytes) {
                Ok(count) => {
                    self.ready.writable = count == bytes.len();
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.writable = false;
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

    /// Closes with a reset.
    pub fn abort(mut self) {
        self.socket.make_close_a_reset();
    }

    /// The address that the peer dialed; `None` on a unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.socket.local_address()
    }

    /// The error of a socket that an event has called failed. Costs nothing on any other.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        if self.ready.failed { self.socket.take_error() } else { None }
    }

    /// Whether a dialed socket is connected: `None` while that is not settled.
    pub fn connected_by_now(&mut self) -> Option<io::Result<()>> {
        if !self.ready.writable {
            return None;
        }
        match self.socket.take_error() {
            Some(error) => Some(Err(error)),
            None if self.socket.is_connected() => Some(Ok(())),
            None => {
                self.ready.writable = false;
                None
            }
        }
    }
}
