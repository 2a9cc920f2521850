//! Sockets as this crate uses them: never waiting, without delay, registered once for both directions and by edges.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::{report, sys};

/// What a poll hands over at once: larger gains nothing, 1 costs a sixth.
pub const EVENTS: usize = 256;

pub const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// Listens, and tells where.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // What it accepts inherits this (tcp(7)), so that it costs no call a connection.
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    report::tell(&report::Event::Listening { address: listener.local_addr()? });
    Ok(listener)
}

/// A socket with what we believe about it. Events set `readable` and `writable`; WouldBlock clears them, and so does a
/// read shorter than asked, which has emptied the socket.
pub struct Wire {
    pub socket: TcpStream,
    pub readable: bool,
    pub writable: bool,
    /// The peer's end has been announced. It may have come along with bytes, so a short read proves nothing any more.
    ending: bool,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    Bytes(usize),
    Nothing,
    End,
}

impl Wire {
    /// A socket that was just accepted or dialed, with its token. A write is tried before any event says that it
    /// would do.
    pub fn register(mut socket: TcpStream, registry: &Registry, token: usize) -> io::Result<Wire> {
        registry.register(&mut socket, Token(token), BOTH)?;
        Ok(Wire { socket, readable: false, writable: true, ending: false })
    }

    pub fn mark(&mut self, event: &Event) {
        self.ending |= event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || self.ending;
        self.writable |= event.is_writable();
    }

    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Got> {
        let result = (&self.socket).read(into);
        self.judge_read(result, Some(into.len()))
    }

    /// As [`Wire::read`], but nobody wants the bytes.
    pub fn discard(&mut self, bytes: usize) -> io::Result<Got> {
        let result = sys::discard(&self.socket, bytes);
        self.judge_read(result, Some(bytes))
    }

    /// Moves bytes into a pipe that is empty. How many they are says nothing about whether there are more.
    pub fn splice_into(&mut self, pipe: &OwnedFd, bytes: usize) -> io::Result<Got> {
        let result = sys::splice(&self.socket, pipe, bytes);
        self.judge_read(result, None)
    }

    fn judge_read(&mut self, result: io::Result<usize>, asked: Option<usize>) -> io::Result<Got> {
        match result {
            Ok(0) => Ok(Got::End),
            Ok(count) => {
                self.readable = self.ending || asked.is_none_or(|asked| count == asked);
                Ok(Got::Bytes(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(Got::Nothing)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Got::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Writes what the socket takes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = (&self.socket).write(bytes);
        let sent = self.judge_write(result)?;
        self.writable &= sent == bytes.len();
        Ok(sent)
    }

    /// The same from a pipe. Only WouldBlock says that there is no more room.
    pub fn splice_from(&mut self, pipe: &OwnedFd, bytes: usize) -> io::Result<usize> {
        let result = sys::splice(pipe, &self.socket, bytes);
        self.judge_write(result)
    }

    fn judge_write(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(0)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }
}
