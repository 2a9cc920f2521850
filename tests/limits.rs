//! How many at once: clients beyond the limit wait or are turned away, and a crowd of idle tunnels costs what it
//! should.

mod common;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use common::process::{self, Process};
use common::{Backend, Client, WAIT, open_tunnel, start_http, start_tcp, switching};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

#[test]
fn clients_beyond_the_limit_wait_and_come_in_as_others_leave() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[limits]\nmax_connections = 2\n");
    let first = open_tunnel(&proxy, &backend);
    let second = open_tunnel(&proxy, &backend);
    let mut waiting: Vec<Client> = (0..3).map(|_| proxy.client()).collect();
    for client in &mut waiting {
        client.ask("/"); // the kernel has connected them
    }
    // The two inside are served, and in the turns that takes nobody else is let in.
    let (mut client, mut server) = first;
    client.send("ping");
    server.expect("ping");
    assert_eq!(proxy.handle.stats().accepted, 2);

    drop((client, server));
    let mut third = waiting.remove(0); // they come in as they came
    let mut third_server = backend.accept();
    third_server.agree();
    assert!(third.head().starts_with("HTTP/1.1 101 "));
    assert_eq!(proxy.handle.stats().open, 2);

    drop((second, third, third_server));
    for mut client in waiting {
        backend.accept().agree();
        assert!(client.head().starts_with("HTTP/1.1 101 "));
    }
    proxy.await_empty();
    assert_eq!(proxy.handle.stats().accepted, 5);
}

#[test]
fn one_client_too_many_from_an_address_is_told_429_and_let_in_when_another_leaves() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "[limits]\nmax_connections_per_ip = 2\n");
    let first = open_tunnel(&proxy, &backend);
    let _second = open_tunnel(&proxy, &backend);
    let mut third = proxy.client();
    assert!(third.head().starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "it need not even ask");
    let line = proxy.closed_line();
    let ending = " outcome=\"too many connections from this address\" ended_by=adit";
    assert!(line.contains(" status=429 ") && line.ends_with(ending), "{line}");
    drop(third);
    drop(first);
    proxy.await_stats(|stats| stats.open == 1);
    open_tunnel(&proxy, &backend);
}

#[test]
fn one_client_too_many_of_a_tcp_listener_is_closed() {
    let backend = Backend::new();
    let proxy = start_tcp(&backend.address(), "[limits]\nmax_connections_per_ip = 1\n");
    let (mut client, mut server) = (proxy.client(), backend.accept());
    proxy.client().expect_end();
    client.send("still here");
    server.expect("still here");
    assert!(!backend.has_client());
}

/// Idle tunnels that the crowd is made of, where there are descriptors for them: 3 in all for each, the proxy's two and
/// one at either end, in three processes.
const CROWD: usize = 9_000;

/// Descriptors of each process that are for something else.
const RESERVE: usize = 100;

/// One in so many speaks.
const SPEAKERS: usize = 100;

/// What an idle tunnel may cost in resident memory, in bytes: its slot, the text of its request and its timer, about
/// 300 in all and 50 more in a debug build; and what openings leave behind that come many at a time. A second box or an
/// address kept for each is more.
const TUNNEL_BYTES_MAX: u64 = 512;

/// What a release build has in memory before anybody comes: nine tenths of it are code, which the kernel has mapped of a
/// program with every feature, whether it is wanted or not.
const RESIDENT_KIB_MAX: u64 = 4_000;

#[test]
fn thousands_of_idle_tunnels_open_at_once_answer_and_leave_nothing_behind() {
    let descriptors = adit::raise_descriptor_limit().expect("the limit is known") as usize;
    let crowd = CROWD.min((descriptors - RESERVE) / 2);
    if crowd < CROWD {
        println!("ONLY {crowd} TUNNELS, NOT {CROWD}: the hard limit of descriptors here is {descriptors}");
    }
    let server = EchoServer::start();
    let mut proxy = Process::start(&format!(
        "[log]\naccess = \"off\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = [\"{}\"]\n",
        server.address
    ));
    let (descriptors, resident_kib) = (proxy.descriptors(), proxy.resident_kib());

    assert!(resident_kib < RESIDENT_KIB_MAX || cfg!(debug_assertions), "{resident_kib} KiB at the start");

    let mut clients: Vec<Client> = (0..crowd)
        .map(|_| {
            let mut client = proxy.client();
            client.ask("/");
            client
        })
        .collect();
    for client in &mut clients {
        assert!(client.head().starts_with("HTTP/1.1 101 "), "none is refused");
    }
    assert_eq!(proxy.descriptors(), descriptors + 2 * crowd);
    let grown = (proxy.resident_kib() - resident_kib) << 10;
    println!(
        "VmRSS {resident_kib} KiB at the start, {} KiB with {crowd} idle tunnels: {} bytes each",
        proxy.resident_kib(),
        grown / crowd as u64
    );
    assert!(grown < crowd as u64 * TUNNEL_BYTES_MAX, "{grown} bytes for {crowd} idle tunnels");

    let speakers = || (0..crowd).step_by(SPEAKERS);
    for index in speakers() {
        clients[index].send(format!("{index:06}"));
    }
    for index in speakers() {
        clients[index].expect(format!("{index:06}"));
    }
    let used = proxy.cpu_time_within(Duration::from_millis(300));
    assert!(used <= Duration::from_millis(20), "{used:?} of processor time for {crowd} idle tunnels");

    drop(clients);
    proxy.expect_rest(descriptors);
    proxy.client().ask("/");
    println!("VmRSS {} KiB after them", proxy.resident_kib());
}

/// A WebSocket server that agrees to every handshake and echoes bytes, in a process of its own, with descriptors of its
/// own: this test binary once more, told to run [`be_the_echo_server`] alone.
struct EchoServer {
    child: Child,
    address: String,
    _stdout: Receiver<String>,
}

/// Tells a test binary that it is the server; the value does not matter.
const BE_THE_SERVER: &str = "ADIT_TEST_ECHO_SERVER";

/// What the server says ahead of its address.
const LISTENING_ON: &str = "listening on ";

impl EchoServer {
    fn start() -> EchoServer {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "be_the_echo_server", "--nocapture"])
            .env(BE_THE_SERVER, "1")
            .stdin(Stdio::piped()) // at whose end it ends, should this process be killed
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary starts");
        let stdout = process::lines(child.stdout.take().expect("stdout is a pipe"));
        let address = loop {
            let line = stdout.recv_timeout(WAIT).expect("the server says where it listens");
            if let Some((_, address)) = line.split_once(LISTENING_ON) {
                break address.to_owned();
            }
        };
        EchoServer { child, address, _stdout: stdout }
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

/// No test, but the second process of one; as a test it has nothing to show and passes.
#[test]
fn be_the_echo_server() {
    if std::env::var_os(BE_THE_SERVER).is_none() {
        return;
    }
    std::thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    adit::raise_descriptor_limit().expect("as many descriptors as there are");
    echo().expect("sockets that work");
}

fn echo() -> io::Result<()> {
    const LISTENER: Token = Token(usize::MAX);
    let mut listener = TcpListener::bind("127.0.0.1:0".parse().expect("an address"))?;
    println!("\n{LISTENING_ON}{}", listener.local_addr()?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    // A connection and, until its request is complete, what it has sent.
    let mut connections: HashMap<Token, (TcpStream, Option<Vec<u8>>)> = HashMap::new();
    let mut accepted = 0;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    accepted += 1;
                    poll.registry().register(&mut stream, Token(accepted), Interest::READABLE)?;
                    connections.insert(Token(accepted), (stream, Some(Vec::new())));
                }
                continue;
            }
            let Some((stream, request)) = connections.get_mut(&event.token()) else { continue };
            if !serve(stream, request) {
                connections.remove(&event.token());
            }
        }
    }
}

/// Serves a connection as far as it goes now, and says whether it goes on. What is written here is so little that the
/// kernel takes it.
fn serve(stream: &mut TcpStream, request: &mut Option<Vec<u8>>) -> bool {
    let mut buffer = [0; 4096];
    loop {
        let bytes = match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => &buffer[..count],
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        };
        let answer = match request {
            None => bytes.to_vec(),
            Some(head) => {
                head.extend_from_slice(bytes);
                if !head.ends_with(b"\r\n\r\n") {
                    continue;
                }
                *request = None;
                switching().into_bytes()
            }
        };
        if stream.write_all(&answer).is_err() {
            return false;
        }
    }
}
