//! A bound address, and whether clients may be waiting there.

use std::fs::remove_file;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(feature = "admin")]
use std::path::Path;

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};

use crate::identity::ListenerKey;
use crate::inherited::Inherited;
use crate::moment::Moment;
use crate::plan::{Address, Tcp};
use crate::session::keepalive;
use crate::session::transport::Stream;
use crate::sys::{self, Listening, Sharing};

/// A listening socket.
pub struct Listener {
    socket: Socket,
    /// What tells it from the others of its configuration, and finds it in the next.
    pub key: ListenerKey,
    /// Its place in the present configuration.
    pub place: u16,
    /// Where it listens; with the port that the kernel chose where any would do.
    pub address: Address,
    /// Whether an edge has said that clients wait, and no accept since that there are none.
    pub ready: bool,
    /// When to try again after an error that is its own; it is not ready until then.
    pub retry_at: Option<Moment>,
    /// Whether a unix socket's file goes with it: with one of those that workers have of it.
    owns_file: bool,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds and listens, or takes over a socket that was handed to us.
    ///
    /// # Errors
    /// The kernel's: in use, no permission, no such address. Where there is no such socket, or it is no listening one.
    pub fn open(
        key: &ListenerKey,
        place: u16,
        tcp: &Tcp,
        sharing: Sharing,
        inherited: &Inherited,
    ) -> io::Result<Listener> {
        let (socket, address) = match &key.address {
            Address::Tcp(address) => {
                let socket = sys::listen_tcp(*address, tcp.backlog, &keepalive(tcp), sharing)?;
                let socket = TcpListener::from_std(socket);
                let bound = socket.local_addr()?;
                (Socket::Tcp(socket), Address::Tcp(bound))
            }
            Address::Unix(path) => {
                let socket = UnixListener::from_std(sys::listen_unix(path, tcp.backlog, None)?);
                (Socket::Unix(socket), Address::Unix(path.clone()))
            }
            Address::Inherited(name) => {
                match sys::listen_inherited(&inherited.find(name)?, &keepalive(tcp))? {
                    Listening::Tcp(socket) => {
                        let bound = socket.local_addr()?;
                        (Socket::Tcp(TcpListener::from_std(socket)), Address::Tcp(bound))
                    }
                    Listening::Unix(socket) => {
                        // An abstract one has no path to be known by.
                        let path = socket.local_addr()?.as_pathname().map(|path| Address::Unix(path.into()));
                        let address = path.unwrap_or_else(|| key.address.clone());
                        (Socket::Unix(UnixListener::from_std(socket)), address)
                    }
                }
            }
        };
        Ok(Listener::new(socket, key, place, address))
    }

    fn new(socket: Socket, key: &ListenerKey, place: u16, address: Address) -> Listener {
        let (key, owns_file) = (key.clone(), matches!(key.address, Address::Unix(_)));
        Listener { socket, key, place, address, ready: false, retry_at: None, owns_file }
    }

    /// As [`open`](Listener::open) on a unix socket, for its owner alone.
    ///
    /// # Errors
    /// As there.
    #[cfg(feature = "admin")]
    pub fn open_private(key: &ListenerKey, path: &Path, tcp: &Tcp) -> io::Result<Listener> {
        let socket = Socket::Unix(UnixListener::from_std(sys::listen_unix(path, tcp.backlog, Some(0o600))?));
        Ok(Listener::new(socket, key, 0, Address::Unix(path.to_owned())))
    }

    /// Whether somebody else made the socket, and may have it still.
    pub fn is_inherited(&self) -> bool {
        match self.key.address {
            Address::Inherited(_) => true,
            Address::Tcp(_) | Address::Unix(_) => false,
        }
    }

    /// Another socket for another worker: of a TCP address one with a backlog of its own (socket(7), SO_REUSEPORT; this
    /// one was opened to be joined), of a unix socket, and of one that was handed over, the same one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_beside(&self, tcp: &Tcp) -> io::Result<Listener> {
        let socket = match &self.socket {
            Socket::Tcp(socket) if self.is_inherited() => {
                let socket = socket.as_fd().try_clone_to_owned()?;
                Socket::Tcp(TcpListener::from_std(socket.into()))
            }
            Socket::Tcp(socket) => {
                let address = socket.local_addr()?;
                let socket = sys::listen_tcp(address, tcp.backlog, &keepalive(tcp), Sharing::Joins)?;
                Socket::Tcp(TcpListener::from_std(socket))
            }
            Socket::Unix(socket) => {
                let socket = socket.as_fd().try_clone_to_owned()?;
                Socket::Unix(UnixListener::from_std(socket.into()))
            }
        };
        let (key, address) = (self.key.clone(), self.address.clone());
        Ok(Listener {
            socket,
            key,
            address,
            owns_file: false,
            retry_at: None,
            ready: false,
            place: self.place,
        })
    }

    /// Lets a new socket listen beside this one, which is about to be closed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn share(&self) -> io::Result<()> {
        sys::share_port(self)
    }

    /// Takes over options that have changed. Who has been accepted keeps those that there were.
    ///
    /// # Errors
    /// The kernel's; the options are then as they were, in part.
    pub fn adjust(&self, tcp: &Tcp) -> io::Result<()> {
        if !self.is_inherited() {
            sys::listen_on(self, tcp.backlog)?;
        }
        match &self.socket {
            Socket::Tcp(socket) => keepalive(tcp).renew(socket),
            Socket::Unix(_) => Ok(()),
        }
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

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

/// A unix socket's file goes with its listener.
impl Drop for Listener {
    fn drop(&mut self) {
        match &self.address {
            Address::Unix(path) if self.owns_file => {
                // Where it is gone already nothing is left to do.
                drop(remove_file(path));
            }
            Address::Tcp(_) | Address::Unix(_) | Address::Inherited(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::time::Duration;

    #[test]
    fn options_that_a_reload_changes_hold_for_those_who_come_from_then_on() {
        let address = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let key = ListenerKey { address, nth: 0 };
        let tcp = |keepalive: Option<u64>, user_timeout: Option<u64>| Tcp {
            keepalive: keepalive.map(Duration::from_secs),
            user_timeout: user_timeout.map(Duration::from_secs),
            backlog: 16,
        };
        let listener =
            Listener::open(&key, 0, &tcp(Some(60), Some(30)), Sharing::Alone, &Inherited::new()).unwrap();
        let options = || {
            let Address::Tcp(address) = listener.address else { panic!("a TCP address") };
            let client = std::net::TcpStream::connect(address).unwrap();
            let stream = loop {
                match listener.accept() {
                    Ok((Stream::Tcp(stream), _)) => break stream,
                    Ok((Stream::Unix(_), _)) => panic!("a TCP client"),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            };
            drop(client);
            let socket = SockRef::from(&stream);
            let keepalive =
                socket.keepalive().unwrap().then(|| socket.tcp_keepalive_time().unwrap().as_secs());
            let user_timeout = socket.tcp_user_timeout().unwrap().map(|timeout| timeout.as_secs());
            (keepalive, user_timeout)
        };
        assert_eq!(options(), (Some(60), Some(30)));
        for (keepalive, user_timeout) in
            [(Some(10), Some(5)), (None, None), (Some(20), None), (None, Some(7))]
        {
            listener.adjust(&tcp(keepalive, user_timeout)).unwrap();
            assert_eq!(options(), (keepalive, user_timeout));
        }
    }

    #[test]
    fn a_unix_sockets_file_goes_with_the_one_that_made_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let key = ListenerKey { address: Address::Unix(path.clone()), nth: 0 };
        let tcp = Tcp { keepalive: None, user_timeout: None, backlog: 16 };
        let listener = Listener::open(&key, 0, &tcp, Sharing::Alone, &Inherited::new()).unwrap();
        drop(listener.open_beside(&tcp).unwrap());
        assert!(path.exists());
        drop(listener);
        assert!(!path.exists());
    }
}
