//! A proxy whose host has a loop of its own: turn by turn, watched by its descriptor and its clock.

mod common;

use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use adit::{Address, Config, Proxy, Status};
use common::{Backend, Client, WAIT};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// A proxy and a host that watches it edge-triggered, the way that is easiest to get wrong.
struct Host {
    proxy: Proxy,
    poll: Poll,
    events: Events,
}

impl Host {
    fn new(server: &Backend, more: &str) -> Host {
        let config = format!(
            "[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
             [upstream.u]\nservers = [\"{}\"]\n{more}",
            server.address()
        );
        let proxy = Proxy::bind(Config::from_toml(&config).unwrap().check().unwrap()).unwrap();
        let poll = Poll::new().unwrap();
        poll.registry().register(&mut SourceFd(&proxy.as_raw_fd()), Token(0), Interest::READABLE).unwrap();
        Host { proxy, poll, events: Events::with_capacity(1) }
    }

    fn client(&self) -> Client {
        match self.proxy.local_addrs()[0] {
            Address::Tcp(address) => Client::connect(address),
            Address::Unix(_) => unreachable!("it listens on TCP"),
        }
    }

    /// Sleeps until the proxy wants a turn, and gives it one. Panics where it wants none for a long time.
    fn turn(&mut self) -> Status {
        let now = Instant::now();
        let wait = self.proxy.next_turn().map_or(WAIT, |turn| turn.saturating_duration_since(now));
        self.poll.poll(&mut self.events, Some(wait.min(WAIT))).unwrap();
        assert!(now.elapsed() < WAIT, "the proxy wants no turn, and something is left to do");
        self.proxy.turn(Some(Duration::ZERO)).unwrap()
    }

    fn turn_until(&mut self, mut done: impl FnMut() -> bool) {
        while !done() {
            assert_eq!(self.turn(), Status::Running);
        }
    }

    /// A tunnel: the client's end and the server's.
    fn open(&mut self, server: &Backend) -> (Client, Client) {
        let (client, handle) = (self.client(), self.proxy.handle());
        let before = handle.stats().accepted;
        self.turn_until(|| handle.stats().accepted > before);
        (client, server.accept())
    }
}

/// Whether there is something to read, or the end.
fn is_readable(client: &Client) -> bool {
    let stream = client.stream.get_ref();
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    peeked.is_ok()
}

#[test]
fn a_host_that_watches_descriptor_and_clock_misses_neither_bytes_nor_deadlines_nor_commands() {
    let backend = Backend::new();
    let mut host = Host::new(&backend, "[timeouts]\nidle = \"100ms\"\n");
    let handle = host.proxy.handle();
    let (mut client, mut server) = host.open(&backend);
    client.send("up");
    host.turn_until(|| is_readable(&server));
    server.expect("up");
    server.send("down");
    host.turn_until(|| is_readable(&client));
    client.expect("down");

    host.turn_until(|| handle.stats().tunnels_closed == 1); // idle: nobody but the clock calls
    thread::spawn(move || handle.drain()).join().unwrap();
    assert_eq!(host.turn(), Status::Stopped);
}

/// One poll of the loop takes 256 events. An edge that told of more than that comes only once.
#[test]
fn more_events_than_one_turn_takes_are_all_served_though_their_edge_came_once() {
    const TUNNELS: usize = 200;
    let backend = Backend::new();
    // No clock is to help: a tunnel's first deadline was for the connect.
    let mut host = Host::new(&backend, "[timeouts]\nconnect = \"1h\"\n");
    let mut tunnels: Vec<_> = (0..TUNNELS).map(|_| host.open(&backend)).collect();
    for (client, server) in &mut tunnels {
        client.send("u");
        server.send("d");
    }
    host.turn_until(|| tunnels.iter().all(|(client, server)| is_readable(client) && is_readable(server)));
}
