//! A bound address, and whether clients may be waiting there.

use std::fs::remove_file;
use std::io;
use std::net::SocketAddr;

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};

use crate::moment::Moment;
use crate::plan::Address;
use crate::session::transport::Stream;
use crate::sys::{self, Keepalive};

/// A listening socket.
pub struct Listener {
    socket: Socket,
    /// Where it listens; with the port that the kernel chose where any would do.
    pub address: Address,
    /// Whether an edge has said that clients wait, and no accept since that there are none.
    pub ready: bool,
    /// When to try again after an error that is its own; it is not ready until then.
    pub retry_at: Option<Moment>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// The kernel's: in use, no permission, no such address.
    pub fn open(address: &Address, backlog: u32, keepalive: &Keepalive) -> io::Result<Listener> {
        let (socket, address) = match address {
            Address::Tcp(address) => {
                let socket = TcpListener::from_std(sys::listen_tcp(*address, backlog, keepalive)?);
                let bound = socket.local_addr()?;
                (Socket::Tcp(socket), Address::Tcp(bound))
            }
            Address::Unix(path) => {
                let socket = UnixListener::from_std(sys::listen_unix(path, backlog)?);
                (Socket::Unix(socket), Address::Unix(path.clone()))
            }
        };
        Ok(Listener { socket, address, ready: false, retry_at: None })
    }

    /// The next client and its address, which a client on a unix socket does not have.
    pub fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match &self.socket {
            Socket::Tcp(socket) => socket.accept().map(|(stream, peer)| (Stream::Tcp(stream), Some(peer))),
            Socket::Unix(socket) => socket.accept().map(|(stream, _)| (Stream::Unix(stream), None)),
        }
    }

    /// Takes note of an event. One that is to be left alone for a while stays so.
    pub fn mark(&mut self) {
        self.ready |= self.retry_at.is_none();
    }

    /// What a poll watches.
    pub fn source(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            Socket::Tcp(socket) => socket,
            Socket::Unix(socket) => socket,
        }
    }
}

#[cfg(test)]
impl Listener {
    /// Makes every accept from now on fail with EINVAL.
    pub fn shut_down(&self) {
        match &self.socket {
            Socket::Tcp(socket) => socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Both).unwrap(),
            Socket::Unix(_) => panic!("tests shut down TCP listeners"),
        }
    }
}

/// A unix socket's file goes with its listener.
impl Drop for Listener {
    fn drop(&mut self) {
        match &self.address {
            Address::Tcp(_) => {}
            // Where it is gone already nothing is left to do.
            Address::Unix(path) => drop(remove_file(path)),
        }
    }
}
