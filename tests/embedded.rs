//! A proxy whose host has a loop of its own: turn by turn, watched by its descriptor and its clock; and the example
//! that shows how, run as a program.

#![cfg(feature = "cli")] // as the example

mod common;

use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
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
            Address::Unix(_) | Address::Inherited(_) => unreachable!("it listens on TCP"),
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

    host.turn_until(|| handle.stats().open == 0); // idle: nobody but the clock calls
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

/// The example with these arguments; it ends within bounds of its own, and is killed with the test.
struct Example {
    child: Child,
    lines: Receiver<String>,
}

impl Example {
    fn start(server: &Backend, seconds: &str) -> Example {
        // It stands beside the command. A plain `cargo test` has built it, `cargo test --test embedded` has not.
        let path = Path::new(env!("CARGO_BIN_EXE_adit")).with_file_name("examples").join("embedded");
        let mut child = Command::new(&path)
            .args(["127.0.0.1:0", &server.address(), seconds])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; try `cargo build --examples`", path.display()));
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (sender, lines) = channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Example { child, lines }
    }

    /// What follows `start` in the first line that begins so.
    fn line(&self, start: &str) -> String {
        loop {
            let line =
                self.lines.recv_timeout(WAIT).unwrap_or_else(|_| panic!("no line begins with {start:?}"));
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    /// Its last words are said: the exit code that goes with them.
    fn end(mut self) -> Option<i32> {
        self.line("proxy: stopped");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Both fail only where it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_example_carries_a_tunnel_beside_its_own_work_and_hears_ctrl_c() {
    let backend = Backend::new();
    let example = Example::start(&backend, "600");
    let first = example.line("proxy: ");
    let address = first.split(' ').next().unwrap();
    let mut client = Client::connect(address.parse().unwrap());
    client.ask("/");
    let mut server = backend.accept();
    server.agree();
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.send("up");
    server.expect("up");
    server.send("down");
    client.expect("down");
    example.line("host: 1 sessions until now, 1 open");

    let interrupted = Command::new("kill").args(["-INT", &example.child.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    drop((client, server));
    assert_eq!(example.end(), Some(0));
}

#[test]
fn the_example_ends_by_itself() {
    assert_eq!(Example::start(&Backend::new(), "0").end(), Some(0));
}
