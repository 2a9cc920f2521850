//! Bulk goes through pipes in the kernel, small messages do not, and nobody can tell by the bytes: on real sockets.

#![cfg(feature = "splice")]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use adit::{Address, Config, Proxy, Status};
use common::process::Process;
use common::text::{Text, read_text, write_text};
use common::{Backend, Client, Running, WAIT, start_tcp};
use socket2::Socket;

/// Pipes that are kept for the next bulk.
const SPARE_PIPES_MAX: usize = 8;

/// A tunnel through a proxy of its own.
fn tunnel() -> (Running, Client, Client) {
    let backend = Backend::new();
    let proxy = start_tcp(&backend.address(), "");
    let (client, server) = (proxy.client(), backend.accept());
    (proxy, client, server)
}

fn spliced(proxy: &Running) -> u64 {
    proxy.handle.stats().bytes_spliced
}

/// Sends a text from one end to the other, and expects it there.
fn carry(from: &mut Client, to: &mut Client, text: &mut [Text; 2], bytes: usize) {
    thread::scope(|scope| {
        let [written, read] = text;
        scope.spawn(move || {
            let mut left = bytes;
            while left > 0 {
                let piece = written.next(left);
                left -= piece.len();
                from.send(piece);
            }
        });
        let mut left = bytes;
        let mut buffer = vec![0; 256 << 10];
        while left > 0 {
            let most = left.min(buffer.len());
            let count = to.stream.read(&mut buffer[..most]).expect("read");
            assert!(count > 0, "the stream ended");
            read.expect(&buffer[..count]);
            left -= count;
        }
    });
}

fn texts(seed: u64) -> [Text; 2] {
    [Text::new(seed), Text::new(seed)]
}

#[test]
fn bulk_goes_through_the_kernel_and_small_messages_do_not() {
    let (proxy, mut client, mut server) = tunnel();
    let (mut up, mut down) = (texts(1), texts(2));
    for _ in 0..100 {
        carry(&mut client, &mut server, &mut up, 1_000);
        carry(&mut server, &mut client, &mut down, 1_000);
    }
    assert_eq!(spliced(&proxy), 0);
    carry(&mut client, &mut server, &mut up, 32 << 20);
    let in_bulk = spliced(&proxy);
    assert!(in_bulk > 1 << 20, "{in_bulk} bytes of 32 MiB were spliced");
    // The first small message may still take that way, and is counted before the next is read; the other direction has
    // never left its own.
    for _ in 0..2 {
        carry(&mut client, &mut server, &mut up, 1_000);
    }
    let in_bulk = spliced(&proxy);
    for _ in 0..100 {
        carry(&mut client, &mut server, &mut up, 1_000);
        carry(&mut server, &mut client, &mut down, 1_000);
    }
    assert_eq!(spliced(&proxy), in_bulk);
    carry(&mut server, &mut client, &mut down, 32 << 20);
    assert!(spliced(&proxy) > in_bulk + (1 << 20));
}

#[test]
fn a_tunnel_goes_from_one_engine_to_the_other_and_back_and_loses_nothing() {
    let seed = std::env::var("ADIT_TEST_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("a seed"));
    println!("ADIT_TEST_SEED={seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let (proxy, mut client, mut server) = tunnel();
    let (mut up, mut down) = (texts(seed), texts(!seed));
    for _ in 0..40 {
        for _ in 0..dice.usize(0..20) {
            let bytes = dice.usize(1..3_000);
            carry(&mut client, &mut server, &mut up, bytes);
            carry(&mut server, &mut client, &mut down, bytes);
        }
        let bytes = 1 << dice.u32(12..23);
        let bytes = bytes + dice.usize(0..bytes);
        match dice.u8(0..3) {
            0 => carry(&mut client, &mut server, &mut up, bytes),
            1 => carry(&mut server, &mut client, &mut down, bytes),
            _ => thread::scope(|scope| {
                // Both ways at once, each end with a thread for each.
                let other = |end: &Client| Client::of(end.stream.get_ref().try_clone().unwrap());
                let (mut client_reads, mut server_writes) = (other(&client), other(&server));
                let down = &mut down;
                scope.spawn(move || carry(&mut server_writes, &mut client_reads, down, bytes));
                carry(&mut client, &mut server, &mut up, bytes);
            }),
        }
    }
    assert!(spliced(&proxy) > 0 && spliced(&proxy) < up[0].position + down[0].position);
    client.finish();
    server.expect_end();
    server.finish();
    client.expect_end();
    let line = proxy.closed_line();
    let sent = format!(" bytes_up={} bytes_down={} ", up[0].position, down[0].position);
    assert!(line.contains(&sent) && line.ends_with(" outcome=finished ended_by=client"), "{line}");
}

/// A splice gets no further than urgent data: it says that there is nothing, or the end where that stands behind, and
/// it may be tried before the event that tells of them has been seen. Seldom enough, so there are many of them.
#[test]
fn urgent_data_in_bulk_loses_no_other_byte_and_stops_nothing() {
    let mut dice = fastrand::Rng::with_seed(7);
    let backend = Backend::new();
    let proxy = start_tcp(&backend.address(), "");
    for round in 0..40 {
        let bytes = 4 << 20;
        let client = Socket::from(proxy.client().stream.into_inner());
        let server = Socket::from(backend.accept().stream.into_inner());
        let urgent_at = dice.u64(1 << 20..bytes);
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut text = Text::new(round);
                while text.position < bytes {
                    let to_urgent = urgent_at.checked_sub(text.position).filter(|&left| left > 0);
                    let most = to_urgent.unwrap_or(bytes - text.position).min(100_000) as usize;
                    let piece = text.next(most).to_vec();
                    (&client).write_all(&piece).expect("written");
                    if text.position == urgent_at {
                        client.send_out_of_band(b"!").expect("sent");
                    }
                }
                client.shutdown(Shutdown::Write).expect("half-closed");
                assert_eq!((&client).read(&mut [0]).expect("a clean end"), 0);
            });
            let mut text = Text::new(round);
            let mut buffer = vec![0; 256 << 10];
            loop {
                match (&server).read(&mut buffer).expect("read") {
                    0 => break,
                    count => text.expect(&buffer[..count]),
                }
            }
            assert_eq!(text.position, bytes, "bytes before the end");
            drop(server);
        });
    }
    assert!(spliced(&proxy) > 0);
}

/// What a turn may move in bulk while somebody speaks: sessions go on until 128 KiB have moved, and each moves 64 KiB
/// both ways at most. And what it may move while nobody does: 1 MiB and 256 KiB.
const SHORT_TURN_BYTES_MAX: u64 = (128 + 2 * 64) << 10;
const LONG_TURN_BYTES_MAX: u64 = (1024 + 2 * 256) << 10;

/// The test turns the proxy itself, so it knows what happens between a message and its turn.
#[test]
fn however_many_tunnels_are_in_bulk_a_small_message_does_not_wait_for_them_all() {
    let backend = Backend::new();
    let mut proxy =
        Proxy::bind(Config::from_toml(&config(&backend.address())).unwrap().check().unwrap()).unwrap();
    let Address::Tcp(address) = proxy.local_addrs()[0] else { panic!("a TCP address") };
    let handle = proxy.handle();
    let mut turn = || {
        let before = handle.stats().bytes_spliced;
        let status = proxy.turn(Some(Duration::ZERO)).expect("a turn");
        assert_eq!(status, Status::Running);
        handle.stats().bytes_spliced - before
    };
    let mut tunnels = Vec::from_iter((0..9).map(|_| {
        let client = Client::connect(address).stream.into_inner();
        let server = loop {
            turn();
            if let Some(server) = backend.try_accept() {
                break server.stream.into_inner();
            }
        };
        client.set_nonblocking(true).unwrap();
        server.set_nonblocking(true).unwrap();
        [client, server]
    }));
    let [mut client, mut server] = tunnels.pop().expect("one that is quiet");
    let mut block = vec![b'x'; 1 << 20];
    let until = Instant::now() + WAIT;
    for round in 0..200 {
        // Either each has something again, which is an edge for each, or they have never done with what they had.
        let piece = if round < 100 { 200_000 } else { block.len() };
        let mut under_way: usize = 0;
        for [from, _] in &mut tunnels {
            under_way += from.write(&block[..piece]).unwrap_or(0); // as much as there is room for
        }
        client.write_all(b"ping").expect("written");
        loop {
            let moved = turn();
            assert!(moved <= LONG_TURN_BYTES_MAX, "{moved} bytes in one turn");
            if server.read(&mut [0; 4]).is_ok() {
                assert!(moved <= SHORT_TURN_BYTES_MAX, "{moved} bytes in the turn of a small message");
                break;
            }
            assert!(Instant::now() < until, "a small message stands still");
        }
        while under_way > 0 {
            for [_, to] in &mut tunnels {
                under_way = under_way.saturating_sub(to.read(&mut block).unwrap_or(0));
            }
            let moved = turn();
            assert!(moved <= LONG_TURN_BYTES_MAX, "{moved} bytes in one turn");
            assert!(Instant::now() < until, "{under_way} bytes stand still");
            if round >= 100 {
                break;
            }
        }
    }
    assert!(handle.stats().bytes_spliced > 64 << 20, "they were in bulk");
}

/// The binary, and how many pipes it has by itself or by inheritance.
struct Watched {
    process: Process,
    pipes_at_rest: usize,
    descriptors_at_rest: usize,
}

fn config(server: &str) -> String {
    format!(
        "[log]\naccess = \"off\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = [\"{server}\"]\n"
    )
}

fn watch(server: &str) -> Watched {
    Watched::of(Process::start(&config(server)))
}

/// Tunnels that carry nothing and take up descriptors: a process with fewer than 32 of them cannot be started.
const IDLE_TUNNELS: u32 = 12;

/// With so many descriptors to spare besides those of idle tunnels, which it comes with.
fn watch_limited(backend: &Backend, spare: u32) -> (Watched, Vec<[Client; 2]>) {
    let config = config(&backend.address());
    let process = Process::start(&config);
    let names = fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs");
    let taken: Vec<u32> =
        names.map(|name| name.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    // Descriptors are numbers below the limit, and whoever started this test may have left it some beyond that.
    let spared = |limit: u32| limit - taken.iter().filter(|&&number| number < limit).count() as u32;
    let limit = (1..).find(|&limit| spared(limit) == spare + 2 * IDLE_TUNNELS).expect("a limit");
    let watched = Watched::of(Process::start_limited(&config, limit));
    let idle = (0..IDLE_TUNNELS).map(|_| [watched.client(), backend.accept()]).collect();
    (watched, idle)
}

impl Watched {
    fn of(process: Process) -> Watched {
        let descriptors_at_rest = process.descriptors();
        let mut watched = Watched { process, pipes_at_rest: 0, descriptors_at_rest };
        watched.pipes_at_rest = watched.pipes();
        watched
    }

    fn client(&self) -> Client {
        self.process.client()
    }

    /// Pipes of which it has both ends, but for those that it has at rest.
    fn pipes(&self) -> usize {
        let links = fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("it runs").flatten();
        let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        let mut pipes: Vec<_> =
            targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).collect();
        let ends = pipes.len();
        pipes.sort();
        pipes.dedup();
        ends - pipes.len() - self.pipes_at_rest
    }

    /// Waits until a pipe is in use.
    fn await_pipe(&self) {
        let until = Instant::now() + WAIT;
        while self.pipes() == 0 {
            assert!(Instant::now() < until, "no pipe is used");
            thread::yield_now();
        }
    }

    /// Expects that nothing is left of its sessions but some pipes for the next.
    fn expect_rest(&mut self) {
        let until = Instant::now() + WAIT;
        loop {
            let (pipes, descriptors) = (self.pipes(), self.process.descriptors());
            if pipes <= SPARE_PIPES_MAX && descriptors == self.descriptors_at_rest + 2 * pipes {
                return;
            }
            assert!(Instant::now() < until, "{pipes} pipes, {descriptors} descriptors");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_reset_in_bulk_becomes_a_reset_and_leaves_nothing_behind() {
    for by_client in [true, false] {
        let backend = Backend::new();
        let mut proxy = watch(&backend.address());
        for _ in 0..3 {
            let (client, server) = (proxy.client(), backend.accept());
            let (mut writer, mut reader) = if by_client { (client, server) } else { (server, client) };
            let mut text = texts(3);
            carry(&mut writer, &mut reader, &mut text, 4 << 20);
            // On until all buffers are full, of which nobody reads a byte; a pipe has some of it then.
            writer.stream.get_ref().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let error = loop {
                if let Err(error) = writer.try_send(vec![b'x'; 1 << 20]) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            proxy.await_pipe();
            writer.reset();
            let error = loop {
                if let Err(error) = reader.stream.get_mut().read(&mut [0; 100_000]) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        proxy.expect_rest();
    }
}

/// What is under way is the kernel's: its buffers on both legs, and a pipe.
#[test]
fn a_reader_that_stops_in_bulk_stops_the_writer_and_then_gets_all_the_rest() {
    let backend = Backend::new();
    let mut proxy = watch(&backend.address());
    let [client, server] =
        [proxy.client(), backend.accept()].map(|end| Socket::from(end.stream.into_inner()));
    let resident_kib = proxy.process.resident_kib();
    let bytes = 64 << 20;
    thread::scope(|scope| {
        let writer = scope.spawn(|| write_text(&client, 5, bytes));
        proxy.await_pipe();
        let grown_kib = proxy.process.resident_kib().saturating_sub(resident_kib);
        assert!(grown_kib < 2 << 10, "{grown_kib} KiB");
        assert!(!writer.is_finished());
        read_text(&server, 5, bytes);
    });
    drop((client, server));
    proxy.expect_rest();
}

#[test]
fn many_tunnels_in_bulk_at_once_all_arrive_and_leave_nothing_behind() {
    let backend = Backend::new();
    let mut proxy = watch(&backend.address());
    thread::scope(|scope| {
        for seed in 0..8 {
            let ends = [proxy.client(), backend.accept()].map(|end| Socket::from(end.stream.into_inner()));
            scope.spawn(move || {
                let [client, server] = &ends;
                thread::scope(|scope| {
                    scope.spawn(|| write_text(client, seed, 4 << 20));
                    scope.spawn(|| write_text(server, !seed, 4 << 20));
                    scope.spawn(|| read_text(server, seed, 4 << 20));
                    read_text(client, !seed, 4 << 20);
                });
            });
        }
    });
    assert!(proxy.pipes() > 0, "they were spliced");
    proxy.expect_rest();
}

#[test]
fn without_descriptors_for_a_pipe_bulk_is_copied() {
    let backend = Backend::new();
    // A session takes two, a pipe two more: one is missing.
    let (proxy, _idle) = watch_limited(&backend, 3);
    let (mut client, mut server) = (proxy.client(), backend.accept());
    carry(&mut client, &mut server, &mut texts(1), 32 << 20);
    carry(&mut server, &mut client, &mut texts(2), 32 << 20);
    assert_eq!(proxy.pipes(), 0);
}

#[test]
fn a_client_is_served_with_the_descriptors_of_a_pipe_that_nobody_uses() {
    let backend = Backend::new();
    for spare in [4, 5] {
        // A session and a pipe fit, or two sessions.
        let (proxy, _idle) = watch_limited(&backend, spare);
        let (mut client, mut server) = (proxy.client(), backend.accept());
        carry(&mut client, &mut server, &mut texts(1), 32 << 20);
        proxy.await_pipe();
        let (mut second, mut its_server) = (proxy.client(), backend.accept());
        carry(&mut second, &mut its_server, &mut texts(2), 1_000);
        assert_eq!(proxy.pipes(), 0);
        carry(&mut client, &mut server, &mut texts(3), 1 << 20);
    }
}
