//! Peers that want to hurt: whatever they do, it ends, and the built binary has its descriptors back and rests.

mod common;

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use adit::{Address, Config, Proxy, Status};
use common::process::Process;
use common::{Backend, Client, KEY, WAIT, switching, upgrade_request};
use socket2::{MsgHdr, SockRef};

/// Waits short enough for a test; an attacker has no more of them than anybody else.
const TIMEOUTS: &str = "[timeouts]\nhandshake = \"500ms\"\nresponse = \"500ms\"\nstalled = \"500ms\"\n";

/// A process under attack, and its server.
struct Target {
    process: Process,
    backend: Backend,
    descriptors: usize,
}

impl Target {
    fn new() -> Target {
        let backend = Backend::new();
        let process = Process::start(&format!(
            "{TIMEOUTS}[log]\naccess = \"off\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n\
             [upstream.u]\nservers = [\"{}\"]\nmax_fails = 0\n",
            backend.address()
        ));
        let descriptors = process.descriptors();
        Target { process, backend, descriptors }
    }

    fn client(&self) -> Client {
        self.process.client()
    }

    /// The attack is over: nothing is left of it, and whoever comes next is served.
    fn expect_unharmed(mut self) {
        self.process.expect_rest(self.descriptors);
        while self.backend.has_client() {} // whom the attack brought, and who is gone
        let mut client = self.client();
        client.ask("/");
        let mut server = self.backend.accept();
        server.agree();
        assert!(client.head().starts_with("HTTP/1.1 101 "));
        client.send("ping");
        server.expect("ping");
        drop((client, server));
        self.process.expect_rest(self.descriptors);
    }
}

/// Writes until the peer has had enough. What never ends is an attack that works.
fn flood(client: &mut Client, bytes: &[u8]) {
    let until = Instant::now() + WAIT;
    while client.try_send(bytes).is_ok() {
        assert!(Instant::now() < until, "the flood is still taken in");
    }
}

/// A client that floods and never reads; its answer is read by another handle, as its own writes may be reset.
fn flood_and_read_answer(mut client: Client, begin: &str, flooded: &str) -> String {
    let mut reader = Client::of(client.stream.get_ref().try_clone().expect("a second handle"));
    client.send(begin);
    let reading = thread::spawn(move || reader.head());
    flood(&mut client, flooded.as_bytes());
    reading.join().expect("an answer")
}

#[test]
fn crowds_that_say_nothing_or_half_of_it_or_nonsense_or_leave_are_gone_in_time() {
    const CROWD: usize = 1500;
    let target = Target::new();
    let garbage: Vec<u8> = (0..512).map(|index: usize| (index * 7) as u8).collect();
    for sent in [&b""[..], b"GET / HTTP/1.1\r\nHost: exa", &garbage] {
        let mut crowd: Vec<Client> = (0..CROWD).map(|_| target.client()).collect();
        for client in &mut crowd {
            let _ = client.try_send(sent); // the first may be over before the last has begun
        }
        for client in &mut crowd {
            let _ = client.rest(); // a 400, a 408, nothing, a reset: in any case an end
        }
    }
    let crowd: Vec<Client> = (0..CROWD).map(|_| target.client()).collect();
    for mut client in crowd {
        let _ = client.try_send(upgrade_request("/"));
        client.reset();
    }
    target.expect_unharmed();
}

#[test]
fn crowds_that_come_and_go_leave_nothing_behind() {
    let target = Target::new();
    for round in 0..3000 {
        let client = target.client();
        if round % 2 == 0 { client.reset() } else { drop(client) }
    }
    target.expect_unharmed();
}

#[test]
fn a_slow_loris_has_the_time_for_a_handshake_and_no_more() {
    let target = Target::new();
    let mut herd: Vec<Client> = (0..200).map(|_| target.client()).collect();
    for client in &mut herd {
        client.send("GET / HTTP/1.1\r\nHost: example.com\r\n");
        client.stream.get_ref().set_nonblocking(true).unwrap();
    }
    let until = Instant::now() + WAIT;
    while !herd.is_empty() {
        // Each says one more byte, for as long as the connection is there.
        herd.retain_mut(|client| {
            let heard = client.stream.get_mut().read(&mut [0; 512]);
            client.try_send("x").is_ok() && heard.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        });
        assert!(Instant::now() < until, "{} are still dribbling", herd.len());
        thread::sleep(Duration::from_millis(10)); // the pace of the attack
    }
    assert!(!target.backend.has_client());
    target.expect_unharmed();
}

#[test]
fn heads_without_an_end_are_refused_at_the_limit() {
    let target = Target::new();
    let begin = "GET / HTTP/1.1\r\nHost: a\r\n";
    let attacks = [
        ("".to_owned(), "G".repeat(4096)),
        ("GET /".to_owned(), "a".repeat(4096)),
        (begin.to_owned(), "X-Flood: yes\r\n".repeat(300)),
        (format!("{begin}X-Flood: "), "a".repeat(4096)),
        (format!("{begin}Cookie: "), "a=b; ".repeat(800)),
    ];
    thread::scope(|scope| {
        for (begin, flooded) in &attacks {
            let client = target.client();
            scope.spawn(move || {
                let head = flood_and_read_answer(client, begin, flooded);
                let is_refused = head.starts_with("HTTP/1.1 431 ") || head.starts_with("HTTP/1.1 400 ");
                assert!(is_refused, "{begin:?} and {:?} without an end: {head}", &flooded[..12]);
            });
        }
    });
    assert!(!target.backend.has_client());
    target.expect_unharmed();
}

#[test]
fn one_header_field_too_many_is_refused_though_the_head_is_small() {
    let target = Target::new();
    let mut client = target.client();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a:\r\n".repeat(100)));
    assert!(client.head().starts_with("HTTP/1.1 431 "));
    drop(client);
    target.expect_unharmed();
}

#[test]
fn chunk_extensions_and_trailers_without_an_end_are_cut_off() {
    let target = Target::new();
    let tiny_chunks = "1;a=b\r\nx\r\n".repeat(400); // each within bounds, all of them ahead of their data
    let attacks = [
        ("1;", "a".repeat(4096)),
        ("1;a=\"", "a".repeat(4096)),
        ("0\r\nX-Trailer: ", "a".repeat(4096)),
        ("0\r\n", "X-Trailer: a\r\n".repeat(300)),
        ("", "0".repeat(4096)),
        ("", tiny_chunks),
    ];
    let attacking = attacks.map(|(begin, flooded)| {
        let mut client = target.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut server = target.backend.accept();
        server.head();
        thread::spawn(move || {
            client.send(begin);
            let reading = thread::spawn(move || server.rest()); // it is left, one way or the other
            flood(&mut client, flooded.as_bytes());
            let _ = reading.join().expect("an end");
        })
    });
    attacking.into_iter().for_each(|attack| attack.join().expect("it is cut off"));
    target.expect_unharmed();
}

/// Five bytes of framing for each of the body.
#[test]
fn a_flood_of_tiny_chunks_passes_in_bounded_memory() {
    let target = Target::new();
    let mut client = target.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut server = target.backend.accept();
    server.head();
    let before = target.process.resident_kib();
    let sender = thread::spawn(move || {
        for _ in 0..1000 {
            client.send("1\r\nx\r\n".repeat(1000));
        }
        client.send("0\r\n\r\n");
        client
    });
    let mut tail = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while !tail.ends_with(b"\r\n0\r\n\r\n") {
        let count = server.stream.read(&mut buffer).expect("read");
        assert!(count > 0, "the body ended early");
        tail.extend_from_slice(&buffer[..count]);
        tail.drain(..tail.len().saturating_sub(16));
    }
    let grown = target.process.resident_kib().saturating_sub(before);
    assert!(grown < 4 << 10, "{grown} KiB for 6 MB that passed");
    server.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert!(sender.join().expect("all is sent").head().starts_with("HTTP/1.1 204 "));
    drop(server);
    target.expect_unharmed();
}

/// Asks, lets the server answer with a beginning and a flood, and gives back what the client is told.
fn answer_with_flood(target: &Target, begin: &str, flooded: &str) -> String {
    let mut client = target.client();
    client.ask("/");
    let mut server = target.backend.accept();
    server.head();
    let _ = server.try_send(begin);
    flood(&mut server, flooded.as_bytes());
    loop {
        let head = client.head();
        if !head.starts_with("HTTP/1.1 1") {
            return head;
        }
    }
}

#[test]
fn a_server_without_a_final_answer_or_an_end_of_its_head_is_a_502() {
    let target = Target::new();
    for (begin, flooded) in [
        ("", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n".to_owned()),
        ("", "HTTP/1.1 100 Continue\r\n\r\n".to_owned()),
        ("HTTP/1.1 200 OK\r\n", "X-Flood: yes\r\n".repeat(300)),
        ("HTTP/1.1 101 Switching Protocols\r\nX-Flood: ", "a".repeat(4096)),
        ("HTTP/1.1 200 ", "O".repeat(4096)),
        ("", "\0".repeat(4096)),
    ] {
        let head = answer_with_flood(&target, begin, &flooded);
        assert!(head.starts_with("HTTP/1.1 502 "), "{begin:?}: {head}");
    }
    target.expect_unharmed();
}

#[test]
fn a_server_that_dribbles_its_head_has_the_time_for_an_answer_and_no_more() {
    let target = Target::new();
    let mut client = target.client();
    client.ask("/");
    let mut server = target.backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nX-Slow: ");
    let dribbling = thread::spawn(move || {
        while server.try_send("x").is_ok() {
            thread::sleep(Duration::from_millis(5)); // the pace of the attack
        }
    });
    assert!(client.head().starts_with("HTTP/1.1 504 "));
    drop(client);
    dribbling.join().expect("it ends when the connection does");
    target.expect_unharmed();
}

#[test]
fn clients_that_never_read_are_closed_on() {
    let target = Target::new();
    // A plain response, and a tunnel.
    for is_tunnel in [false, true] {
        let mut client = target.client();
        client.send(if is_tunnel {
            upgrade_request("/")
        } else {
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n".into()
        });
        let mut server = target.backend.accept();
        server.head();
        server.send(if is_tunnel { switching() } else { "HTTP/1.1 200 OK\r\n\r\n".into() });
        flood(&mut server, &[b'x'; 64 << 10]);
        drop(client); // only now
    }
    target.expect_unharmed();
}

#[test]
fn a_client_that_floods_during_the_goodbye_is_left() {
    let target = Target::new();
    let mut clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = target.client();
            client.send("nonsense\r\n\r\n");
            assert!(client.head().starts_with("HTTP/1.1 400 "));
            thread::spawn(move || flood(&mut client, &[b'x'; 64 << 10]))
        })
        .collect();
    // Beside them others are served.
    let mut client = target.client();
    client.ask("/");
    let mut server = target.backend.accept();
    server.agree();
    client.head();
    while clients.iter().any(|flooding| !flooding.is_finished()) {
        client.send("ping");
        server.expect("ping");
    }
    clients.drain(..).for_each(|flooding| flooding.join().expect("it is left"));
    drop((client, server));
    target.expect_unharmed();
}

#[test]
fn pipelined_requests_behind_a_refused_tunnel_reach_no_server() {
    let target = Target::new();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = target.client();
    client.send(upgrade_request("/") + smuggled);
    let mut server = target.backend.accept();
    server.head();
    server.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 403 "));
    server.expect_end();
    client.expect_end();
    drop((client, server));
    target.expect_unharmed();
}

#[test]
fn handshakes_that_lie_are_refused_each_and_every_one() {
    let target = Target::new();
    for _ in 0..200 {
        let mut client = target.client();
        client.send(upgrade_request("/").replace(KEY, "bm90IHNpeHRlZW4="));
        assert!(client.head().starts_with("HTTP/1.1 400 "));
    }
    assert!(!target.backend.has_client());
    target.expect_unharmed();
}

/// A read ends short of urgent data (tcp(7)), with more behind it and no further edge to come: a short read does not
/// say that a socket is empty then. The urgent byte itself is none of the stream's, and is dropped. The test turns the
/// proxy itself, so that all three parts are there before the first is read.
#[test]
fn urgent_data_in_a_tunnel_loses_no_other_byte_and_stops_nothing() {
    let backend = Backend::new();
    let config = format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = [\"{}\"]\n",
        backend.address()
    );
    let mut proxy = Proxy::bind(Config::from_toml(&config).unwrap().check().unwrap()).expect("bound");
    let address: SocketAddr = match &proxy.local_addrs()[0] {
        Address::Tcp(address) => *address,
        Address::Unix(_) | Address::Inherited(_) => unreachable!("a TCP listener"),
    };
    let client = socket2::Socket::from(TcpStream::connect(address).expect("connected"));
    let mut turn = || {
        let status = proxy.turn(Some(Duration::from_millis(1))).expect("a turn");
        assert_eq!(status, Status::Running);
    };
    let connecting = thread::spawn(move || backend.accept());
    while !connecting.is_finished() {
        turn();
    }
    let server = connecting.join().expect("the proxy connects");
    server.stream.get_ref().set_nonblocking(true).unwrap();
    for _ in 0..10 {
        client.send(b"abc").expect("sent");
        client.send_out_of_band(b"!").expect("sent");
        client.send(b"def").expect("sent");
        let mut arrived = Vec::new();
        let until = Instant::now() + WAIT;
        while arrived != b"abcdef" {
            turn();
            let mut buffer = [0; 16];
            match server.stream.get_ref().read(&mut buffer) {
                Ok(count) => arrived.extend_from_slice(&buffer[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            let text = String::from_utf8_lossy(&arrived);
            assert!("abcdef".starts_with(&*text), "{text:?} arrived");
            assert!(Instant::now() < until, "only {text:?} has arrived, and nothing more comes");
        }
    }
}

/// A read from a unix socket ends behind bytes that descriptors came along with (unix(7)), with more behind them and no
/// further edge to come: the rest stayed there until the peer sent something else. The descriptors are dropped.
#[test]
fn descriptors_passed_to_a_unix_listener_stop_nothing() {
    let backend = Backend::new();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("proxy");
    let config = format!(
        "[[listener]]\nlisten = \"unix:{}\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = [\"{}\"]\n",
        path.display(),
        backend.address()
    );
    let mut proxy = Proxy::bind(Config::from_toml(&config).unwrap().check().unwrap()).expect("bound");
    let mut client = UnixStream::connect(&path).expect("connected");
    let mut turn = || {
        let status = proxy.turn(Some(Duration::from_millis(1))).expect("a turn");
        assert_eq!(status, Status::Running);
    };
    let connecting = thread::spawn(move || backend.accept());
    while !connecting.is_finished() {
        turn();
    }
    let server = connecting.join().expect("the proxy connects");
    server.stream.get_ref().set_nonblocking(true).unwrap();
    for _ in 0..10 {
        send_with_descriptor(&client, b"abc");
        send_with_descriptor(&client, b"def");
        client.write_all(b"ghi").expect("sent");
        let mut arrived = Vec::new();
        let until = Instant::now() + WAIT;
        while arrived != b"abcdefghi" {
            turn();
            let mut buffer = [0; 16];
            match server.stream.get_ref().read(&mut buffer) {
                Ok(count) => arrived.extend_from_slice(&buffer[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            let text = String::from_utf8_lossy(&arrived);
            assert!("abcdefghi".starts_with(&*text), "{text:?} arrived");
            assert!(Instant::now() < until, "only {text:?} has arrived, and nothing more comes");
        }
    }
}

/// Sends bytes along with this process's standard input (unix(7), `SCM_RIGHTS`).
fn send_with_descriptor(socket: &UnixStream, bytes: &[u8]) {
    // A cmsghdr and a descriptor, each padded to whole words: CMSG_SPACE(3).
    let mut control = (size_of::<usize>() + 12).to_ne_bytes().to_vec();
    for number in [libc::SOL_SOCKET, libc::SCM_RIGHTS, 0] {
        control.extend_from_slice(&number.to_ne_bytes());
    }
    control.resize(control.len().next_multiple_of(size_of::<usize>()), 0);
    let bytes = [IoSlice::new(bytes)];
    let message = MsgHdr::new().with_buffers(&bytes).with_control(&control);
    SockRef::from(socket).sendmsg(&message, 0).expect("sent");
}
