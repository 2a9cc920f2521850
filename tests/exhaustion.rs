//! The built binary with too few descriptors: it waits without spinning, says so once, and goes on.

mod common;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::process::Process;
use common::{Backend, Client, WAIT};

/// Descriptors that the process may have; it needs about 12 for itself, and has those that it inherited. A session of
/// a tcp listener takes two: where that matters a test runs with one more as well.
const DESCRIPTORS: u32 = 64;

/// More clients than it can have descriptors.
const CROWD: usize = 100;

fn start(server: &str, protocol: &str, limits: &str, descriptors: u32) -> Process {
    let config = format!(
        "[log]\naccess = \"off\"\n[timeouts]\nhandshake = \"1h\"\nresponse = \"1h\"\n{limits}\n\
         [[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = [\"{server}\"]\n"
    );
    Process::start_limited(&config, descriptors)
}

/// Waits until it says that it is full, and is. It may have found that out by dialing, where it `dials`.
fn await_full(process: &Process, descriptors: u32, dials: bool) {
    let line = process.stderr_line("Too many open files");
    let no_client = line.contains(&format!("cannot accept on {}: ", process.address()));
    // Whether a client or a server wanted the one too many depends on how many were open when it started.
    let no_server = dials && line.contains("cannot open a socket to a server: ");
    assert!(no_client || no_server, "{line}");
    let until = Instant::now() + WAIT;
    // Descriptors are numbers below the limit; who started this test may have left it some beyond that.
    let directory = format!("/proc/{}/fd", process.id());
    let is_full = || {
        let names = fs::read_dir(&directory).expect("it runs").map(|entry| entry.unwrap().file_name());
        let numbers = names.map(|name| name.to_str().unwrap().parse::<u32>().unwrap());
        numbers.filter(|&number| number < descriptors).count() == descriptors as usize
    };
    while !is_full() {
        assert!(Instant::now() < until, "it still has free descriptors");
        thread::sleep(Duration::from_millis(1));
    }
}

fn complaints(process: &Process) -> usize {
    process.said().iter().filter(|line| line.contains("Too many open files")).count()
}

#[test]
fn without_descriptors_it_waits_and_then_serves_those_who_waited() {
    let backend = Backend::new();
    let mut process = start(&backend.address(), "http", "", DESCRIPTORS);
    let idle_descriptors = process.descriptors();
    for episode in 0..2 {
        // They say nothing yet: each takes one descriptor, until there is none.
        let mut crowd: Vec<Client> = (0..CROWD).map(|_| process.client()).collect();
        await_full(&process, DESCRIPTORS, false);
        let used = process.cpu_time_within(Duration::from_secs(1));
        assert!(used < Duration::from_millis(200), "{used:?} of processor time in a second of waiting");

        // Those inside leave, those who waited come in; all of them are served.
        let mut last = crowd.pop().expect("a crowd");
        drop(crowd);
        last.ask("/");
        let mut server = backend.accept();
        server.agree();
        assert!(last.head().starts_with("HTTP/1.1 101 "), "episode {episode}");
        last.send("ping");
        server.expect("ping");
        drop((last, server));
        process.expect_rest(idle_descriptors);
        assert_eq!(complaints(&process), 0, "one line is enough for an episode");
    }
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));
}

#[test]
fn a_session_without_a_descriptor_for_its_server_is_told_503_and_no_server_is_blamed() {
    let backend = Backend::new();
    let mut process = start(&backend.address(), "http", "connect = \"300ms\"", DESCRIPTORS);
    let idle_descriptors = process.descriptors();
    let mut crowd: Vec<Client> = (0..CROWD).map(|_| process.client()).collect();
    await_full(&process, DESCRIPTORS, false);
    let mut first = crowd.remove(0);
    first.ask("/");
    assert!(first.head().starts_with("HTTP/1.1 503 "));
    drop((first, crowd));
    process.expect_rest(idle_descriptors);
    assert!(!process.said().iter().any(|line| line.contains("failed")), "the server has done nothing wrong");

    // And it is not out: the next one gets there.
    let mut client = process.client();
    client.ask("/");
    backend.accept().agree();
    assert!(client.head().starts_with("HTTP/1.1 101 "));
}

#[test]
fn who_waits_for_a_descriptor_is_not_turned_away() {
    for descriptors in [DESCRIPTORS, DESCRIPTORS + 1] {
        let backend = Backend::new();
        let config = format!(
            "[log]\naccess = \"off\"\n[timeouts]\nconnect = \"1h\"\n\
             [[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
             [upstream.u]\nservers = [\"{}\"]\n",
            backend.address()
        );
        let mut process = Process::start_limited(&config, descriptors);
        let idle_descriptors = process.descriptors();
        let crowd: Vec<Client> = (0..CROWD).map(|_| process.client()).collect();
        for mut client in crowd {
            let mut server = backend.accept(); // in the order of the backlog: this client's
            client.send("ping");
            server.expect("ping");
            server.send("pong");
            client.expect("pong");
        }
        process.expect_rest(idle_descriptors);
    }
}

#[test]
fn tunnels_go_on_while_nobody_can_come_in() {
    for descriptors in [DESCRIPTORS, DESCRIPTORS + 1] {
        let backend = Backend::new();
        let process = start(&backend.address(), "tcp", "", descriptors);
        let (mut client, mut server) = (process.client(), backend.accept());
        let _crowd: Vec<Client> = (0..CROWD).map(|_| process.client()).collect();
        await_full(&process, descriptors, true);
        for _ in 0..100 {
            client.send("ping");
            server.expect("ping");
            server.send("pong");
            client.expect("pong");
        }
    }
}

#[test]
fn a_limit_that_fits_keeps_it_from_running_out() {
    let backend = Backend::new();
    let mut process = start(&backend.address(), "http", "[limits]\nmax_connections = 20", DESCRIPTORS);
    let idle_descriptors = process.descriptors();
    let mut crowd: Vec<Client> = (0..CROWD).map(|_| process.client()).collect();
    crowd.iter_mut().for_each(|client| client.ask("/"));
    let mut open = Vec::new();
    for mut client in crowd {
        if open.len() == 20 {
            drop(open.remove(0)); // which lets the next one in
        }
        let mut server = backend.accept();
        server.agree();
        assert!(client.head().starts_with("HTTP/1.1 101 "));
        open.push((client, server));
    }
    drop(open);
    process.await_descriptors(idle_descriptors);
    assert_eq!(complaints(&process), 0);
}
