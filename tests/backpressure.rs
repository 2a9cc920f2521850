//! Bounded memory, all bytes, and nobody starved: tunnels under more than they can carry.

mod common;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use adit::Address;
use common::text::{Text, read_text, write_text};
use common::{Backend, Client, WAIT, open_tunnel, start, start_http, start_tcp};
use socket2::Socket;

/// Sends a text through each direction of a tunnel at once.
fn check_texts(client: Socket, server: Socket, bytes: u64) {
    let seed = std::env::var("ADIT_TEST_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a seed"));
    println!("ADIT_TEST_SEED={seed}, {} MiB each way", bytes >> 20);
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket.set_write_timeout(Some(WAIT)).unwrap();
    }
    let begun = Instant::now();
    let (client, server) = (&client, &server);
    thread::scope(|scope| {
        scope.spawn(move || write_text(client, seed, bytes));
        scope.spawn(move || write_text(server, seed ^ 2, bytes));
        scope.spawn(move || read_text(server, seed, bytes));
        scope.spawn(move || read_text(client, seed ^ 2, bytes));
    });
    println!("took {:?}", begun.elapsed());
}

/// How much is sent through one tunnel: ADIT_TEST_BULK_MIB, or a GiB. That takes about 2 s on two idle cores, in a
/// debug build as well.
fn bulk_bytes() -> u64 {
    let mib = std::env::var("ADIT_TEST_BULK_MIB").map_or(1024, |mib| mib.parse().expect("a number of MiB"));
    mib << 20
}

#[test]
fn a_gigabyte_both_ways_at_once_arrives_as_it_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let proxy = start_tcp(&listener.local_addr().unwrap().to_string(), "");
    let client = common::Client::connect(proxy.address()).stream.into_inner();
    let (server, _) = listener.accept().expect("the proxy connects");
    check_texts(client.into(), server.into(), bulk_bytes());
    let line = proxy.closed_line();
    let sent = format!(" bytes_up={0} bytes_down={0} ", bulk_bytes());
    assert!(line.contains(&sent) && line.contains(" outcome=finished "), "{line}");
    proxy.await_empty();
}

#[test]
fn bulk_between_unix_sockets_arrives_as_it_was_sent() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let listener = UnixListener::bind(path("server")).expect("bound");
    let proxy = start(&format!(
        "[[listener]]\nlisten = \"unix:{}\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = [\"unix:{}\"]\n",
        path("proxy"),
        path("server")
    ));
    assert!(matches!(&proxy.addresses[0], Address::Unix(_)));
    let client = UnixStream::connect(path("proxy")).expect("connected");
    let (server, _) = listener.accept().expect("the proxy connects");
    check_texts(client.into(), server.into(), bulk_bytes() / 8);
    let line = proxy.closed_line();
    assert!(line.contains(" client=unix: ") && line.contains(" outcome=finished "), "{line}");
    proxy.await_empty();
}

/// The most that may be under way to a reader that reads nothing: the kernel's buffers on both legs, which grow to
/// some MiB each, and 64 KiB of ours.
const UNDER_WAY_BYTES_MAX: u64 = 32 << 20;

/// A writer is blocked when it could write nothing for so long. Too short a time on a busy machine makes this test
/// easier to pass, never harder.
const BLOCKED: Duration = Duration::from_millis(500);

#[test]
fn a_reader_that_stops_stops_the_writer_and_loses_nothing() {
    let listener = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    listener.set_recv_buffer_size(16 << 10).unwrap(); // inherited by what it accepts
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
    listener.listen(1).expect("listening");
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let proxy = start_tcp(&address.to_string(), "");
    let client = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    client.set_send_buffer_size(16 << 10).unwrap();
    client.connect(&proxy.address().into()).expect("connected");
    let (server, _) = listener.accept().expect("the proxy connects");
    server.set_read_timeout(Some(WAIT)).unwrap();

    client.set_write_timeout(Some(BLOCKED)).unwrap();
    let mut written = Text::new(1);
    loop {
        let position = written.position;
        match (&client).write(written.next(64 << 10)) {
            Ok(count) => written.position = position + count as u64,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                written.position = position;
                break;
            }
        }
        assert!(position < UNDER_WAY_BYTES_MAX, "{position} bytes are under way to a reader that reads none");
    }
    println!("{} KiB were under way", written.position >> 10);

    let under_way = written.position;
    client.set_write_timeout(Some(WAIT)).unwrap();
    let bytes = under_way + (8 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            while written.position < bytes {
                let most = (bytes - written.position) as usize;
                let piece = written.next(most).to_vec();
                (&client).write_all(&piece).expect("written");
            }
            client.shutdown(Shutdown::Write).expect("half-closed");
        });
        read_text(&server, 1, bytes);
    });
    drop(server);
    assert_eq!((&client).read(&mut [0]).expect("a clean end"), 0);
    let line = proxy.closed_line();
    assert!(line.ends_with(" outcome=finished ended_by=client"), "{line}");
}

/// Both legs are full in both directions: neither waits for the other.
#[test]
fn two_peers_that_only_write_hold_each_other_up_no_longer_than_they_do_not_read() {
    let backend = Backend::new();
    let proxy = start_tcp(&backend.address(), "");
    let (client, server) = (proxy.client(), backend.accept());
    let bytes = 24 << 20;
    let both: Vec<_> = [(client, 1, 2), (server, 2, 1)]
        .into_iter()
        .map(|(end, mine, theirs)| {
            thread::spawn(move || {
                let socket = Socket::from(end.stream.into_inner());
                thread::scope(|scope| {
                    let writer = scope.spawn(|| write_text(&socket, mine, bytes));
                    // Not a byte is read before the writer can write no more, or has written all.
                    let until = Instant::now() + BLOCKED;
                    while !writer.is_finished() && Instant::now() < until {
                        thread::yield_now();
                    }
                    read_text(&socket, theirs, bytes);
                });
            })
        })
        .collect();
    both.into_iter().for_each(|end| end.join().expect("all arrived"));
    proxy.await_empty();
}

#[test]
fn a_busy_tunnel_does_not_starve_an_idle_one() {
    let backend = Backend::new();
    let proxy = start_http(&backend.address(), "");
    let (mut idle_client, mut idle_server) = open_tunnel(&proxy, &backend);
    let (busy_client, busy_server) = open_tunnel(&proxy, &backend);
    let (carried, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writer = {
        let enough = Arc::clone(&enough);
        thread::spawn(move || {
            let mut client = busy_client;
            while !enough.load(Relaxed) {
                client.send([b'b'; 256 << 10]);
            }
            client.finish();
            client.expect_end();
        })
    };
    let reader = {
        let carried = Arc::clone(&carried);
        thread::spawn(move || {
            let mut server: Client = busy_server;
            let mut buffer = vec![0; 256 << 10];
            loop {
                match server.stream.get_mut().read(&mut buffer).expect("read") {
                    0 => break,
                    count => carried.fetch_add(count as u64, Relaxed),
                };
            }
        })
    };
    for round in 0..200 {
        // Each answer comes while the bulk goes on, neither before it nor behind it.
        let before = carried.load(Relaxed);
        let word = format!("round {round:03}");
        idle_client.send(&word);
        idle_server.expect(&word);
        idle_server.send(&word);
        idle_client.expect(&word);
        let until = Instant::now() + WAIT;
        while carried.load(Relaxed) == before {
            assert!(Instant::now() < until, "the bulk stands still");
            thread::yield_now();
        }
    }
    enough.store(true, Relaxed);
    writer.join().expect("the writer is content");
    reader.join().expect("the reader is content");
}
