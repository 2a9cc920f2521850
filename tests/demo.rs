//! `adit demo`, as a user meets it: the built binary, its printed addresses, a WebSocket and the page through the
//! proxy, and a signal at the end.

#![cfg(feature = "demo")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::{Message, WebSocket};

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `adit demo`; it does not outlive the test.
struct Demo {
    child: Child,
    lines: Receiver<String>,
}

impl Demo {
    fn start() -> Demo {
        let mut child = Command::new(env!("CARGO_BIN_EXE_adit"))
            .arg("demo")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Demo { child, lines }
    }

    /// The next printed line must have this name; its value.
    fn printed(&self, name: &str) -> String {
        let line = self.lines.recv_timeout(PATIENCE).expect("the demo prints");
        assert_eq!(line.get(..13), Some(format!("{name:<13}").as_str()), "{line:?}");
        line[13..].to_owned()
    }

    fn terminate(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the demo does not stop");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Both fail only where the child has already been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(authority: &str) -> TcpStream {
    let stream = TcpStream::connect(authority).unwrap_or_else(|error| panic!("{authority}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn authority<'a>(url: &'a str, scheme: &str) -> &'a str {
    let rest = url.strip_prefix(scheme).unwrap_or_else(|| panic!("{url}"));
    rest.strip_suffix('/').unwrap_or_else(|| panic!("{url}"))
}

fn open(authority: &str) -> WebSocket<TcpStream> {
    tungstenite::client(format!("ws://{authority}/echo"), connect(authority)).expect("a WebSocket opens").0
}

fn check_echo(socket: &mut WebSocket<TcpStream>, message: Message) {
    socket.send(message.clone()).unwrap();
    assert_eq!(socket.read().unwrap(), message);
}

fn fetch(authority: &str, request_line: &str) -> String {
    let mut stream = connect(authority);
    write!(stream, "{request_line}\r\nHost: {authority}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer ends");
    answer
}

#[test]
fn what_is_sent_comes_back_and_the_page_is_there() {
    let demo = Demo::start();
    let echo = demo.printed("echo server");
    let adit = demo.printed("adit");
    let page = demo.printed("page");
    #[cfg(feature = "admin")]
    let operators = demo.printed("operators");
    demo.printed("try");
    demo.printed("stop");
    let (echo, adit) = (authority(&echo, "ws://"), authority(&adit, "ws://"));
    assert_eq!(authority(&page, "http://"), adit);
    assert_ne!(echo, adit);

    let mut through_adit = open(adit);
    check_echo(&mut through_adit, Message::text("Grüße"));
    check_echo(&mut through_adit, Message::binary(vec![7; 100_000]));
    check_echo(&mut through_adit, Message::text(""));
    check_echo(&mut open(echo), Message::text("without the proxy"));

    let answer = fetch(adit, "GET / HTTP/1.1");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for field in [
        "content-type: text/html; charset=utf-8",
        &format!("content-length: {}", body.len()),
        "cache-control: no-store",
        "content-security-policy: default-src 'none'; script-src 'nonce-",
        "connect-src 'self'",
        "connection: close",
    ] {
        assert!(head.to_lowercase().contains(field), "no {field} in {head}");
    }
    assert!(body.starts_with("<!doctype html>") && body.ends_with("</html>\n"));
    let nonce = head.split_once("script-src 'nonce-").and_then(|(_, rest)| rest.split('\'').next()).unwrap();
    assert_eq!(body.matches(&format!("nonce=\"{nonce}\"")).count(), 2);

    #[cfg(feature = "admin")]
    {
        let seen = fetch(authority(&operators, "http://"), "GET /status HTTP/1.1\r\nConnection: close");
        assert!(seen.contains("\"tunnels\":{\"open\":1,"), "{seen}");
    }

    assert!(fetch(adit, "GET /other HTTP/1.1").starts_with("HTTP/1.1 404 "));
    let head_only = fetch(adit, "HEAD / HTTP/1.1");
    assert!(head_only.starts_with("HTTP/1.1 200 ") && head_only.ends_with("\r\n\r\n"), "{head_only}");

    let mut large = open(echo);
    // The server may close before it has taken everything: either way nothing comes back.
    let _ = large.send(Message::binary(vec![0; 2 << 20]));
    assert!(!matches!(large.read(), Ok(Message::Binary(_))), "a message beyond the limit came back");

    through_adit.close(None).unwrap();
    while through_adit.read().is_ok() {}
    assert_eq!(demo.terminate().code(), Some(0));
}
