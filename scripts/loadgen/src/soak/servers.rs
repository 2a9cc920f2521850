//! The servers behind adit, on a thread of their own: each echoes, says in its answer which one it is, and dies and
//! comes back at the same address when told to.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use socket2::SockRef;

use crate::backend::{Connection, Kit, Next};
use crate::net::{EVENTS, Wire};

/// The field of an answer that names the server.
pub const FIELD: &str = "X-Server";

const WAKER: Token = Token(usize::MAX);

/// How a server dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The kernel closes what it had, as when a process ends.
    Closed,
    /// All its connections are reset.
    Reset,
}

enum Order {
    Kill(usize, Death),
    Revive(usize),
    End,
}

/// What there is to tell.
pub enum Told {
    Revived(usize),
    /// Somebody else has its port for now.
    NotRevived(usize),
    /// Something reached a server that no client has sent.
    Malformed(String),
}

pub struct Servers {
    pub addresses: Vec<SocketAddr>,
    orders: Sender<Order>,
    pub told: Receiver<Told>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    pub fn start(count: usize) -> io::Result<Servers> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (orders, ordered) = channel();
        let (teller, told) = channel();
        let mut addresses = Vec::new();
        let mut servers = Vec::new();
        for index in 0..count {
            // Each at an address that nothing is dialed from: while it is dead nobody gets its port by chance.
            let ip = Ipv4Addr::new(127, 0, 1, 1 + index as u8);
            let listener = listen((ip, 0).into(), index, &poll)?;
            let address = listener.local_addr()?;
            addresses.push(address);
            servers.push(Server { address, listener: Some(listener) });
        }
        let run = move || {
            let kits = (0..count).map(|index| Kit::with_field(format!("{FIELD}: {index}\r\n"))).collect();
            House { poll, servers, kits, connections: Slab::new(), teller }.run(&ordered);
        };
        let thread = thread::Builder::new().name("servers".into()).spawn(run)?;
        Ok(Servers { addresses, orders, told, waker, thread: Some(thread) })
    }

    pub fn kill(&self, server: usize, death: Death) {
        self.order(Order::Kill(server, death));
    }

    pub fn revive(&self, server: usize) {
        self.order(Order::Revive(server));
    }

    fn order(&self, order: Order) {
        // Where the thread has ended its owner is about to find out.
        let _ = self.orders.send(order);
        let _ = self.waker.wake();
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take() {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr, index: usize, poll: &Poll) -> io::Result<TcpListener> {
    let mut listener = TcpListener::bind(address)?;
    // What it accepts inherits this (tcp(7)).
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    poll.registry().register(&mut listener, listener_token(index), Interest::READABLE)?;
    Ok(listener)
}

/// Tokens of connections count from 0, those of listeners down from the end.
fn listener_token(index: usize) -> Token {
    Token(WAKER.0 - 1 - index)
}

/// All servers, and what their thread owns.
struct House {
    poll: Poll,
    servers: Vec<Server>,
    /// As `servers`.
    kits: Vec<Kit>,
    connections: Slab<Guest>,
    teller: Sender<Told>,
}

struct Server {
    address: SocketAddr,
    listener: Option<TcpListener>,
}

struct Guest {
    server: usize,
    connection: Connection,
}

impl House {
    fn run(mut self, orders: &Receiver<Order>) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled.expect("a poll that was opened can be asked"),
            }
            for event in &events {
                self.hear(event);
            }
            // Behind the events, which are about connections that an order may end.
            for order in orders.try_iter() {
                match order {
                    Order::Kill(server, death) => self.kill(server, death),
                    Order::Revive(server) => self.revive(server),
                    Order::End => return,
                }
            }
        }
    }

    fn hear(&mut self, event: &Event) {
        match event.token() {
            WAKER => {}
            Token(key) if key < self.connections.capacity() => {
                if let Some(guest) = self.connections.get_mut(key) {
                    guest.connection.wire.mark(event);
                    self.advance(key);
                }
            }
            Token(token) => self.accept(WAKER.0 - 1 - token),
        }
    }

    fn accept(&mut self, server: usize) {
        while let Some(listener) = &self.servers[server].listener {
            match listener.accept() {
                Ok((socket, _)) => {
                    let slot = self.connections.vacant_entry();
                    match Wire::register(socket, self.poll.registry(), slot.key()) {
                        Ok(wire) => drop(slot.insert(Guest { server, connection: Connection::new(wire) })),
                        Err(error) => eprintln!("loadgen soak: a server cannot use a socket: {error}"),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Descriptors of our own have run out, which the number of clients is to prevent.
                    eprintln!("loadgen soak: a server cannot accept: {error}");
                    return thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    fn advance(&mut self, key: usize) {
        let guest = &mut self.connections[key];
        let kit = &mut self.kits[guest.server];
        let next = loop {
            match guest.connection.advance(kit) {
                Ok(Next::Yield) => {}
                next => break next,
            }
        };
        match next {
            Ok(Next::Park | Next::Yield) => return,
            Ok(Next::Drop) => {}
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    let _ = self.teller.send(Told::Malformed(error.to_string()));
                }
            }
        }
        self.connections.remove(key);
    }

    fn kill(&mut self, server: usize, death: Death) {
        self.servers[server].listener = None;
        self.connections.retain(|_, guest| {
            if guest.server == server && death == Death::Reset {
                // A socket that is past that is closed in any case.
                let _ = SockRef::from(&guest.connection.wire.socket).set_linger(Some(Duration::ZERO));
            }
            guest.server != server
        });
    }

    fn revive(&mut self, server: usize) {
        let address = self.servers[server].address;
        let told = match listen(address, server, &self.poll) {
            Ok(listener) => {
                self.servers[server].listener = Some(listener);
                Told::Revived(server)
            }
            Err(_) => Told::NotRevived(server),
        };
        let _ = self.teller.send(told);
    }
}
