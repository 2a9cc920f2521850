//! Every mode of the built command, briefly: against the backend itself and through both relays, and against servers
//! that do something wrong, which has to be found. No figure is judged, only that all is counted and checked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha1::{Digest, Sha1};

/// Longer than anything here takes on a busy machine; loadgen itself gives up after ten seconds without progress.
const WAIT: Duration = Duration::from_secs(60);

/// A running `loadgen`: its lines, its stdin and its end.
struct Loadgen {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Loadgen {
    fn start(args: &[&str]) -> Loadgen {
        let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("loadgen starts");
        let lines = lines_of(child.stdout.take().unwrap());
        let errors = lines_of(child.stderr.take().unwrap());
        Loadgen { stdin: child.stdin.take(), child, lines, errors }
    }

    /// A backend or a relay, and where it listens.
    fn listening(args: &[&str]) -> (Loadgen, SocketAddr) {
        let mut loadgen = Loadgen::start(&[args, &["--until-eof"]].concat());
        let line = loadgen.event("listening");
        let address = line["address"].as_str().expect("an address").parse().expect("that is one");
        (loadgen, address)
    }

    /// The next line, which must be about this event.
    fn event(&mut self, name: &str) -> Value {
        let line = self.lines.recv_timeout(WAIT);
        let line = line.unwrap_or_else(|_| panic!("no {name}; stderr: {:?}", self.errors()));
        let value: Value = serde_json::from_str(&line).expect("a line is JSON");
        assert_eq!(value["event"], name, "{line}");
        value
    }

    fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is still open");
        stdin.write_all(line.as_bytes()).and_then(|()| stdin.write_all(b"\n")).expect("it listens");
    }

    fn errors(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.errors.recv_timeout(WAIT).ok()).collect()
    }

    /// Ends its stdin and waits for the process; says whether it was content.
    fn end(mut self) -> (bool, Vec<String>) {
        drop(self.stdin.take());
        let errors = self.errors(); // until its stderr ends, which it does with the process
        assert!(self.lines.try_recv().is_err(), "nothing more is printed");
        (self.child.wait().expect("it has ended").success(), errors)
    }
}

impl Drop for Loadgen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Runs a mode to its end, which must be a good one.
fn run(target: SocketAddr, args: &str) -> Value {
    let (result, success, errors) = try_run(target, args);
    assert!(success && errors.is_empty(), "{args}: {errors:?}");
    assert_eq!((number(&result, "errors"), number(&result, "mismatches")), (0, 0), "{args}");
    assert_eq!(result["mode"], args.split(' ').next().unwrap());
    result
}

fn try_run(target: SocketAddr, args: &str) -> (Value, bool, Vec<String>) {
    let mut args: Vec<&str> = args.split(' ').collect();
    let target = target.to_string();
    args.extend(["--target", &target]);
    let mut loadgen = Loadgen::start(&args);
    let result = loadgen.event("result");
    let (success, errors) = loadgen.end();
    (result, success, errors)
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} of {value}"))
}

/// The backend, by itself and behind each relay.
struct Targets {
    all: Vec<(&'static str, SocketAddr)>,
    _running: Vec<Loadgen>,
}

impl Targets {
    fn start() -> Targets {
        let (backend, direct) = Loadgen::listening(&["backend"]);
        let to = direct.to_string();
        let (copy, copied) = Loadgen::listening(&["relay", "--to", &to]);
        let (splice, spliced) = Loadgen::listening(&["relay", "--to", &to, "--splice"]);
        let all = vec![("direct", direct), ("relay", copied), ("relay --splice", spliced)];
        Targets { all, _running: vec![backend, copy, splice] }
    }
}

#[test]
fn echoes_come_back_whatever_their_length() {
    for (name, target) in Targets::start().all {
        for (tunnels, bytes, messages) in [
            (1, 0, 5),
            (1, 1, 50),
            (3, 125, 100),
            (3, 126, 100),
            (100, 64, 1000),
            (2, 65_536, 20),
            (2, 1_000_000, 4),
        ] {
            let args = format!("echo --tunnels {tunnels} --bytes {bytes} --messages {messages}");
            let result = run(target, &args);
            assert_eq!(number(&result, "messages"), messages, "{name}: {args}");
            assert_eq!(number(&result, "bytes"), messages * bytes, "{name}: {args}");
            assert_eq!(number(&result, "tunnels"), tunnels, "{name}: {args}");
        }
        let result = run(target, "echo --tunnels 4 --bytes 64 --seconds 0.2");
        assert!(number(&result, "messages") > 0 && number(&result, "uncounted") <= 4, "{name}: {result}");
        assert!((35..=45).contains(&result["histogram"].as_array().unwrap().len()), "{name}: {result}");
        assert!(
            result["latency_us"]["p50"].as_f64() <= result["latency_us"]["max"].as_f64(),
            "{name}: {result}"
        );
    }
}

#[test]
fn paced_messages_are_sent_at_their_times_and_all_are_counted() {
    for (name, target) in Targets::start().all {
        let result = run(target, "paced --tunnels 3 --bytes 64 --rate 500 --seconds 0.2");
        assert_eq!(number(&result, "messages"), 100, "{name}");
    }
}

#[test]
fn lives_are_counted_when_they_have_ended() {
    for (name, target) in Targets::start().all {
        let result = run(target, "churn --concurrency 5 --tunnels 203");
        assert_eq!((number(&result, "lives"), number(&result, "bytes")), (203, 203 * 64), "{name}");
        let result = run(target, "churn --concurrency 5 --seconds 0.2");
        assert!(number(&result, "lives") > 0, "{name}: {result}");
    }
}

#[test]
fn streams_flow_each_way_and_what_arrives_is_told() {
    for (name, target) in Targets::start().all {
        for (direction, frame_bytes) in
            [("up", 65_536), ("down", 65_536), ("both", 65_536), ("both", 1000), ("both", 9)]
        {
            let args =
                format!("bulk --streams 2 --direction {direction} --seconds 0.1 --frame-bytes {frame_bytes}");
            let result = run(target, &args);
            let (up, down) = (number(&result, "bytes_up"), number(&result, "bytes_down"));
            assert_eq!(
                (up > 0, down > 0),
                (direction != "down", direction != "up"),
                "{name}: {args}: {result}"
            );
            assert_eq!(number(&result, "bytes"), up + down, "{name}: {args}");
            assert_eq!(up % frame_bytes, 0, "{name}: {args}: frames go up whole");
        }
    }
}

#[test]
fn echoes_go_on_beside_streams() {
    for (name, target) in Targets::start().all {
        let result = run(target, "mixed --echoes 3 --streams 2 --seconds 0.3");
        for count in ["messages", "bytes_up", "bytes_down"] {
            assert!(number(&result, count) > 0, "{name}: {count}: {result}");
        }
        assert_eq!(number(&result, "tunnels"), 5, "{name}");
    }
}

#[test]
fn idle_tunnels_carry_what_stdin_says() {
    for (name, target) in Targets::start().all {
        let target = target.to_string();
        let mut idle = Loadgen::start(&["idle", "--tunnels", "150", "--target", &target]);
        assert_eq!(number(&idle.event("open"), "tunnels"), 150, "{name}");
        for line in ["carry 64", "carry 4096", "carry 64"] {
            idle.say(line);
            idle.event("carried");
        }
        idle.say("close");
        let result = idle.event("result");
        assert_eq!((number(&result, "messages"), number(&result, "bytes")), (450, 150 * (64 + 4096 + 64)));
        assert_eq!(idle.end(), (true, vec![]), "{name}");
    }
}

#[test]
fn with_wait_a_line_begins_the_measured_time_and_another_ends_the_tunnels() {
    let targets = Targets::start();
    let target = targets.all[1].1.to_string();
    for args in [
        "echo --tunnels 2 --bytes 64 --messages 10",
        "paced --tunnels 2 --bytes 64 --rate 100 --seconds 0.1",
        "churn --concurrency 2 --tunnels 10",
        "churn --concurrency 2 --tunnels 10 --polite",
        "bulk --streams 2 --direction both --seconds 0.1",
        "mixed --echoes 2 --streams 2 --seconds 0.1",
    ] {
        let args: Vec<&str> = args.split(' ').chain(["--wait", "--target", &target]).collect();
        let mut loadgen = Loadgen::start(&args);
        loadgen.event("ready");
        assert!(loadgen.lines.try_recv().is_err(), "{args:?}: nothing is measured before it is told to");
        loadgen.say("go");
        loadgen.event("result");
        assert!(loadgen.child.try_wait().unwrap().is_none(), "{args:?}: it stays until it is told to end");
        loadgen.say("end");
        assert_eq!(loadgen.end(), (true, vec![]), "{args:?}");
    }
}

/// What a server of ours does with a connection whose request head has been read.
type Serve = fn(stream: &mut TcpStream, accept: &str);

/// A server that does something wrong; it serves one connection after the other.
fn server(serve: Serve) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve_one(stream, serve));
        }
    });
    address
}

fn serve_one(mut stream: TcpStream, serve: Serve) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_err() {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
    let digest = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    serve(&mut stream, &STANDARD.encode(digest));
}

fn agree(stream: &mut TcpStream, accept: &str) {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    let _ = stream.write_all(head.as_bytes());
}

/// The first byte and the payload, unmasked, of a frame of less than 126 bytes; nothing at the end.
fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 6];
    stream.read_exact(&mut header).ok()?;
    let mut payload = vec![0; usize::from(header[1] & 0x7f)];
    stream.read_exact(&mut payload).ok()?;
    payload.iter_mut().zip(header[2..].iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Some((header[0], payload))
}

fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    read_frame(stream).map(|(_, payload)| payload)
}

fn answer(stream: &mut TcpStream, payload: &[u8]) {
    let _ = stream.write_all(&[&[0x82, payload.len() as u8], payload].concat());
}

/// The run must be found wrong: by this count, and by these words on stderr.
#[track_caller]
fn check_wrong(serve: Serve, args: &str, count: &str, words: &str) {
    let (result, success, errors) = try_run(server(serve), args);
    assert!(!success, "{words}: {result}");
    assert!(number(&result, count) > 0, "{words}: {result}");
    assert!(errors.iter().any(|line| line.contains(words)), "{words}: {errors:?}");
}

const ECHO: &str = "echo --tunnels 1 --bytes 64 --messages 3";

#[test]
fn a_wrong_handshake_is_found() {
    let wrong: Serve = |stream, accept| agree(stream, &accept.replace(&accept[..1], "~"));
    let refusal: Serve = |stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    };
    for args in [ECHO, "churn --concurrency 1 --tunnels 1", "bulk --streams 1 --direction up --seconds 0.1"] {
        check_wrong(wrong, args, "errors", "Sec-WebSocket-Accept");
        check_wrong(refusal, args, "errors", "503");
        check_wrong(|_, _| {}, args, "errors", "ended within the handshake");
    }
}

#[test]
fn a_wrong_echo_is_found_whichever_byte_it_is() {
    // The last byte of the third echo: the first is the one that warms up.
    let flipped: Serve = |stream, accept| {
        agree(stream, accept);
        for number in 1.. {
            let Some(mut payload) = read_message(stream) else { return };
            payload[63] ^= u8::from(number == 3);
            answer(stream, &payload);
        }
    };
    let twice: Serve = |stream, accept| {
        agree(stream, accept);
        while let Some(payload) = read_message(stream) {
            answer(stream, &payload);
            answer(stream, &payload);
        }
    };
    let last: Serve = |stream, accept| {
        agree(stream, accept);
        let mut last = read_message(stream).unwrap_or_default();
        answer(stream, &last.clone());
        while let Some(payload) = read_message(stream) {
            answer(stream, &std::mem::replace(&mut last, payload));
        }
    };
    let short: Serve = |stream, accept| {
        agree(stream, accept);
        while let Some(payload) = read_message(stream) {
            answer(stream, &payload[..63]);
        }
    };
    check_wrong(flipped, ECHO, "mismatches", "the echo is not what was sent");
    check_wrong(
        flipped,
        "paced --tunnels 1 --bytes 64 --rate 100 --seconds 1",
        "mismatches",
        "not what was sent",
    );
    check_wrong(twice, ECHO, "mismatches", "tunnel 0");
    check_wrong(last, ECHO, "mismatches", "the echo is not what was sent");
    check_wrong(short, ECHO, "mismatches", "the echo is not what was sent");
}

#[test]
fn a_tunnel_that_ends_is_found() {
    let ends: Serve = |stream, accept| {
        agree(stream, accept);
        read_message(stream);
    };
    // Closes as it should, but ends the connection without a Close of its own.
    let rude: Serve = |stream, accept| {
        agree(stream, accept);
        while let Some(payload) = read_message(stream).filter(|payload| payload.len() == 64) {
            answer(stream, &payload);
        }
    };
    check_wrong(ends, ECHO, "errors", "the tunnel ended");
    check_wrong(
        rude,
        "churn --concurrency 1 --tunnels 1 --polite",
        "mismatches",
        "our Close was answered by []",
    );
}

#[test]
fn a_wrong_stream_is_found() {
    let other_length: Serve = |stream, accept| {
        agree(stream, accept);
        let _ = stream.write_all(&[&[0x82, 126, 3, 0xe7][..], &[0; 999]].concat());
        let _ = stream.read(&mut [0]);
    };
    // Takes what comes, and says that it was a frame less.
    let forgetful: Serve = |stream, accept| {
        agree(stream, accept);
        let mut bytes = 0;
        while let Some((first, payload)) = read_frame(stream) {
            match first {
                0x82 => bytes += payload.len(),
                _ => {
                    let counts = format!("{} 0", bytes - 100);
                    let _ = stream.write_all(&[&[0x81, counts.len() as u8], counts.as_bytes()].concat());
                }
            }
        }
    };
    let bulk =
        |direction| format!("bulk --streams 1 --direction {direction} --seconds 0.1 --frame-bytes 100");
    check_wrong(other_length, &bulk("down"), "mismatches", "another length");
    check_wrong(forgetful, &bulk("up"), "mismatches", "bytes sent and");
}

#[test]
fn nobody_listening_is_an_error() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (result, success, errors) = try_run(target, ECHO);
    assert!(!success && number(&result, "errors") > 0, "{result}");
    assert!(errors[0].contains("refused"), "{errors:?}");
}

#[test]
fn a_paced_message_is_timed_from_when_it_was_due() {
    // Keeps the first measured message for a while; those that were due meanwhile could not be sent.
    const DELAY: Duration = Duration::from_millis(300);
    let late: Serve = |stream, accept| {
        agree(stream, accept);
        for number in 1.. {
            let Some(payload) = read_message(stream) else { return };
            if payload.len() != 64 {
                // The Close.
                let _ = stream.write_all(b"\x88\x02\x03\xe8");
                return;
            }
            if number == 2 {
                thread::sleep(DELAY);
            }
            answer(stream, &payload);
        }
    };
    let result = run(server(late), "paced --tunnels 1 --bytes 64 --rate 100 --seconds 0.3");
    assert_eq!(number(&result, "messages"), 30);
    // Half of them were due in the first half of the delay.
    assert!(result["latency_us"]["p50"].as_f64() >= Some(100_000.0), "{result}");
    assert!(result["latency_us"]["max"].as_f64() >= Some(300_000.0), "{result}");
}

#[test]
fn the_backend_answers_frames_wherever_they_are_cut() {
    let (_backend, address) = Loadgen::listening(&["backend"]);
    let masked = |first: u8, payload: &[u8]| {
        let key = [7, 77, 177, 211];
        let length: Vec<u8> = match payload.len() {
            short @ 0..126 => vec![0x80 | short as u8],
            long => [&[0x80 | 126][..], &(long as u16).to_be_bytes()].concat(),
        };
        let payload: Vec<u8> = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        [&[first], &length[..], &key, &payload].concat()
    };
    let long = vec![b'x'; 300];
    let sent = [
        masked(0x82, b"one"),
        masked(0x89, b"there?"),
        masked(0x8a, b"unasked"),
        masked(0x01, b"in "),
        masked(0x80, b"pieces"),
        masked(0x82, &long),
        masked(0x82, b""),
        masked(0x88, &[3, 232]),
    ]
    .concat();
    let expected = [
        &b"\x82\x03one\x8a\x06there?\x01\x03in \x80\x06pieces\x82\x7e\x01\x2c"[..],
        &long,
        b"\x82\x00\x88\x02\x03\xe8",
    ]
    .concat();
    for piece in [1, 2, 7, 100, sent.len()] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let request = "GET /echo HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        for piece in sent.chunks(piece) {
            stream.write_all(piece).unwrap();
        }
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got, expected, "in pieces of {piece}");
    }
}

#[test]
fn relays_pass_on_every_byte_and_each_half_close_behind_the_last() {
    for splice in [&[][..], &["--splice"]] {
        for client_is_first in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap().to_string();
            let (_relay, address) = Loadgen::listening(&[&["relay", "--to", &to], splice].concat());
            let client = TcpStream::connect(address).unwrap();
            let server = listener.accept().unwrap().0;
            let (first, second) = if client_is_first { (client, server) } else { (server, client) };
            let there = send_and_finish(first.try_clone().unwrap(), 3_000_000);
            // Not before all of the one direction is there does the other begin.
            assert_eq!(sum_to_the_end(&second), there.join().unwrap());
            let back = send_and_finish(second, 2_000_000);
            assert_eq!(sum_to_the_end(&first), back.join().unwrap());
        }
    }
}

/// A number for bytes and their order.
fn sum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte) + 1))
}

fn send_and_finish(mut stream: TcpStream, bytes: usize) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let bytes: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        stream.set_write_timeout(Some(WAIT)).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        sum(0, &bytes)
    })
}

fn sum_to_the_end(mut stream: &TcpStream) -> u64 {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let (mut total, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return total,
            count => total = sum(total, &buffer[..count]),
        }
    }
}

#[test]
fn flags_that_make_no_sense_are_named() {
    for (args, words) in [
        ("sing", "sing is no command"),
        ("echo --target 127.0.0.1:1 --tunnels 0 --bytes 1 --seconds 1", "--tunnels is 0"),
        ("echo --target 127.0.0.1:1 --tunnels 1 --bytes 1", "--seconds is missing"),
        ("bulk --target 127.0.0.1:1 --streams 1 --direction across --seconds 1", "up, down or both"),
        ("relay --to 127.0.0.1:1 --loud x", "--loud is no flag of this command"),
        ("bench --adit a --rows admins", "there is no row \"admins\""),
        ("bench --adit /nowhere/adit --rows admin", "/nowhere/adit"),
        ("soak", "--adit is missing"),
        ("soak --adit a --seconds 3", "--seconds 3: at least 10"),
        ("soak --adit a --workers 0", "--workers: 0 workers"),
        ("soak --adit a --seed x", "\"x\""),
        ("soak --adit a --loud", "--loud"),
        ("soak --adit /nowhere/adit", "adit has ended"),
    ] {
        let (success, errors) = Loadgen::start(&args.split(' ').collect::<Vec<_>>()).end();
        assert!(!success && errors[0].contains(words), "{args}: {errors:?}");
    }
}
