//! A small blocking client of the admin listener: a request, its answer, and a connection for the two. All that it says
//! is HTTP/1.1 with a `Content-Length`; what says anything else there is no admin listener, and is told as that.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use adit::Address;
use serde::Deserialize;
use socket2::{Domain, SockAddr, Socket, Type};

use super::place::Place;
use super::requests::Request;
use super::units::printable;

/// How long connecting and the whole answer may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The same where names have to be resolved before there is an answer.
pub const PATIENCE_WITH_NAMES: Duration = Duration::from_secs(60);

/// A head is a few fields, and a page of tunnels, each with a path of a kilobyte at most, is far from this.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const FIELDS_MAX: usize = 64;
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What is asked of the kernel at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Why there is no answer, or not the wanted one. The text is for a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody is there, or nobody who talks as an admin listener does.
    NoAnswer(String),
    /// The answer is no.
    Refused(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NoAnswer(text) | Trouble::Refused(text) => f.write_str(text),
        }
    }
}

/// Asks, and gives back the answer's text.
pub fn ask(place: &Place, request: &Request, patience: Duration) -> Result<String, Trouble> {
    let no_answer = |failure: Failure| Trouble::NoAnswer(failure.tell(place));
    let answer = exchange(place, request, patience).map_err(no_answer)?;
    if answer.status == 200 {
        return Ok(answer.body);
    }
    #[derive(Deserialize)]
    struct No {
        error: String,
    }
    match serde_json::from_str(&answer.body) {
        Ok(No { error }) if answer.status == 401 => {
            let advice = "--token-file FILE or ADIT_TOKEN_FILE names the file with its token";
            Err(Trouble::Refused(format!("{} ({advice})", printable(&error))))
        }
        Ok(No { error }) => Err(Trouble::Refused(printable(&error))),
        Err(_) => Err(no_answer(Failure::Alien(format!("its answer is a {}", answer.status)))),
    }
}

/// What an answer says, where it is what it should be.
pub fn read<T: for<'a> Deserialize<'a>>(place: &Place, body: &str) -> Result<T, Trouble> {
    serde_json::from_str(body).map_err(|error| {
        let error = printable(&error.to_string());
        Trouble::NoAnswer(Failure::Alien(format!("its answer is not what was expected: {error}")).tell(place))
    })
}

/// Why no answer was had.
#[derive(Debug)]
enum Failure {
    /// There is no connection.
    Connect(io::Error),
    /// It came to an end before the answer did.
    Broken(io::Error),
    /// It is no answer.
    Alien(String),
}

impl Failure {
    fn tell(&self, place: &Place) -> String {
        const OTHER: &str = "--admin ADDRESS names another";
        let (what, advice) = match self {
            Failure::Connect(error) => match error.kind() {
                ErrorKind::NotFound => (
                    "there is no such socket".into(),
                    format!("does adit run, with this [admin] listen? {OTHER}"),
                ),
                ErrorKind::ConnectionRefused => (
                    "nobody listens there".into(),
                    format!("does adit run, with this [admin] listen? {OTHER}"),
                ),
                ErrorKind::PermissionDenied => (
                    "this user may not connect to it".into(),
                    "try as root, or as the user that adit runs as".into(),
                ),
                _ if is_timeout(error) => ("nobody takes the connection".into(), OTHER.into()),
                _ => (format!("cannot connect: {error}"), OTHER.into()),
            },
            Failure::Broken(error) if is_timeout(error) => {
                ("no answer in time".into(), "is adit stopped, or overloaded?".into())
            }
            Failure::Broken(error) if error.kind() == ErrorKind::UnexpectedEof => {
                ("the connection ended before the answer did".into(), "did adit end just now?".into())
            }
            Failure::Broken(error) => {
                (format!("the connection failed: {error}"), "did adit end just now?".into())
            }
            Failure::Alien(what) => {
                (what.clone(), format!("is that adit's admin listener, and of this version? {OTHER}"))
            }
        };
        format!("{place}: {what} ({advice})")
    }
}

/// A blocking socket with a timeout says `EAGAIN`.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

struct Answer {
    status: u16,
    body: String,
}

fn exchange(place: &Place, request: &Request, patience: Duration) -> Result<Answer, Failure> {
    let socket = connect(&place.address, patience).map_err(Failure::Connect)?;
    let text = written(place, request);
    let mut socket = Timed { socket, deadline: Instant::now() + patience };
    socket.write_all(text.as_bytes()).map_err(Failure::Broken)?;
    read_answer(&mut socket)
}

fn connect(address: &Address, patience: Duration) -> io::Result<Socket> {
    match address {
        Address::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
            socket.connect_timeout(&(*address).into(), patience)?;
            Ok(socket)
        }
        Address::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // This is what bounds the wait for a place in a backlog that is full (unix(7)).
            socket.set_write_timeout(Some(patience))?;
            socket.connect(&SockAddr::unix(path)?)?;
            Ok(socket)
        }
        Address::Inherited(_) => Err(ErrorKind::AddrNotAvailable.into()), // `place` knows none
    }
}

/// The request as it is sent.
fn written(place: &Place, request: &Request) -> String {
    let host = match &place.address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(_) | Address::Inherited(_) => "localhost".into(),
    };
    let token = place.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
    let common = format!("Host: {host}\r\nConnection: close\r\n{}", token.unwrap_or_default());
    match request {
        Request::Get { target } => format!("GET {target} HTTP/1.1\r\n{common}\r\n"),
        Request::Post { path, body } => format!(
            "POST {path} HTTP/1.1\r\n{common}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    }
}

/// A socket of which nothing takes longer than until the deadline, however little comes at a time.
struct Timed {
    socket: Socket,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        // What is less than the kernel counts in would stand for no timeout.
        if left < Duration::from_millis(1) { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_answer(stream: &mut impl Read) -> Result<Answer, Failure> {
    let mut bytes = Vec::new();
    let (status, head, length) = loop {
        let before = bytes.len();
        more(stream, &mut bytes)?;
        match head(&bytes)? {
            Some(head) => break head,
            None if bytes.len() > HEAD_BYTES_MAX => {
                return Err(Failure::Alien("the head of its answer is too long".into()));
            }
            None if bytes.len() == before => return Err(Failure::Broken(ErrorKind::UnexpectedEof.into())),
            None => {}
        }
    };
    bytes.drain(..head);
    while bytes.len() < length {
        let before = bytes.len();
        more(stream, &mut bytes)?;
        if bytes.len() == before {
            return Err(Failure::Broken(ErrorKind::UnexpectedEof.into()));
        }
    }
    // There is one answer to one request.
    if bytes.len() > length {
        return Err(Failure::Alien("its answer is longer than it says".into()));
    }
    match String::from_utf8(bytes) {
        Ok(body) => Ok(Answer { status, body }),
        Err(_) => Err(Failure::Alien("its answer is no text".into())),
    }
}

/// Reads what there is; at the end nothing is added.
fn more(stream: &mut impl Read, bytes: &mut Vec<u8>) -> Result<(), Failure> {
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        match stream.read(&mut chunk) {
            Ok(count) => {
                bytes.extend_from_slice(&chunk[..count]);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::Broken(error)),
        }
    }
}

/// Status, length of the head and of the body, once the head is there.
fn head(bytes: &[u8]) -> Result<Option<(u16, usize, usize)>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(Failure::Alien(format!("its answer is no HTTP: {error}"))),
    };
    let status = response.code.unwrap_or_default();
    let mut lengths =
        response.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("content-length"));
    let (first, second) = (lengths.next(), lengths.next());
    let digits = first.filter(|field| !field.value.is_empty() && field.value.iter().all(u8::is_ascii_digit));
    let length = digits.and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok());
    match (length, second) {
        (Some(length), None) if length <= BODY_BYTES_MAX => Ok(Some((status, head, length))),
        (Some(_), None) => Err(Failure::Alien("its answer is too long".into())),
        (None, _) | (_, Some(_)) => Err(Failure::Alien("its answer does not say how long it is".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::super::requests::status;
    use super::*;

    /// Bytes that come a piece at a time, and then the end or an error.
    struct Script(Vec<io::Result<Vec<u8>>>);

    impl Script {
        fn of(pieces: &[&str]) -> Script {
            Script(pieces.iter().map(|piece| Ok(piece.as_bytes().to_vec())).collect())
        }
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0)?;
            buffer[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    #[track_caller]
    fn check(pieces: &[&str], expected: Result<(u16, &str), &str>) {
        check_script(Script::of(pieces), expected);
    }

    #[track_caller]
    fn check_script(mut script: Script, expected: Result<(u16, &str), &str>) {
        let place = Place { address: Address::Unix("/s".into()), source: "--admin".into(), token: None };
        let found = read_answer(&mut script).map_err(|failure| failure.tell(&place));
        match (&found, expected) {
            (Ok(answer), Ok(expected)) => assert_eq!((answer.status, answer.body.as_str()), expected),
            (Err(text), Err(expected)) => assert!(text.contains(expected), "{text}"),
            (found, expected) => {
                panic!("{:?} instead of {expected:?}", found.as_ref().map(|answer| answer.status))
            }
        }
    }

    #[test]
    fn answers() {
        check(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], Ok((200, "{}")));
        check(&["HTTP/1.1 200 OK\r\ncontent-length:  2 \r\n\r\n", "{", "}"], Ok((200, "{}")));
        check(&["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"], Ok((404, "")));
        let dribbled: Vec<String> =
            "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n\r\nabc".chars().map(String::from).collect();
        check(&dribbled.iter().map(String::as_str).collect::<Vec<_>>(), Ok((200, "abc")));
        let interrupted = vec![
            Ok(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n".to_vec()),
            Err(ErrorKind::Interrupted.into()),
            Ok(b"x".to_vec()),
        ];
        check_script(Script(interrupted), Ok((200, "x")));
    }

    #[test]
    fn answers_that_are_none() {
        let ended = Err("unix:/s (from --admin): the connection ended before the answer did");
        check(&[], ended);
        check(&["HTTP/1.1 200 OK\r\nContent-Le"], ended);
        check(&["HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"], ended);
        check(&["SSH-2.0-OpenSSH_9.2\r\n"], Err("its answer is no HTTP"));
        check(&["220 mail.example.com ESMTP\r\n"], Err("its answer is no HTTP"));
        check(&["\x16\x03\x01"], Err("its answer is no HTTP"));
        let no_length = Err("its answer does not say how long it is");
        check(&["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], no_length);
        check(&["HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"], no_length);
        check(&["HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}"], no_length);
        check(&["HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n"], no_length);
        check(&["HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n"], no_length);
        check(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}"], no_length);
        check(&["HTTP/1.1 200 OK\r\nContent-Length: 67108865\r\n\r\n"], Err("its answer is too long"));
        check(&["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}"], Err("its answer is longer than it says"));
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(8000));
        let more = "x".repeat(8000);
        check(&[&endless, &more, &more, &more], Err("the head of its answer is too long"));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(65));
        check(&[&many], Err("its answer is no HTTP: too many headers"));
        let no_text = vec![Ok(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xff".to_vec())];
        check_script(Script(no_text), Err("its answer is no text"));
        let reset = vec![Ok(b"HTTP/1.1".to_vec()), Err(ErrorKind::ConnectionReset.into())];
        check_script(Script(reset), Err("the connection failed: connection reset"));
    }

    #[test]
    fn requests_as_they_are_sent() {
        let get = Request::Get { target: "/tunnels?limit=1".into() };
        let post = Request::Post { path: "/close", body: r#"{"all":true}"#.into() };
        let mut place = Place { address: Address::Unix("/s".into()), source: "--admin".into(), token: None };
        assert_eq!(
            written(&place, &get),
            "GET /tunnels?limit=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        );
        place.address = Address::Tcp("[::1]:8021".parse().unwrap());
        place.token = Some("secret".into());
        assert_eq!(
            written(&place, &post),
            "POST /close HTTP/1.1\r\nHost: [::1]:8021\r\nConnection: close\r\nAuthorization: Bearer secret\r\n\
             Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"all\":true}"
        );
    }

    /// Somebody who takes one connection, does this with it, and keeps it until the client has what it wanted.
    fn served(serve: impl FnOnce(&mut TcpStream) + Send + 'static) -> (Place, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            serve(&mut stream);
            let _ = stream.read_to_end(&mut Vec::new()); // until it is gone
        });
        (Place { address, source: "--admin".into(), token: None }, thread)
    }

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn an_answer_comes_over_a_socket() {
        let (place, thread) = served(|stream| {
            let mut request = [0; 12];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"GET /status ");
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"a\": true}" {
                stream.write_all(&[*byte]).unwrap();
            }
        });
        assert_eq!(ask(&place, &status(), LONG), Ok("{\"a\": true}".into()));
        thread.join().unwrap();
    }

    #[test]
    fn silence_has_an_end() {
        let (place, thread) = served(|_| {});
        let Err(Trouble::NoAnswer(text)) = ask(&place, &status(), SHORT) else { panic!("no answer") };
        assert!(text.ends_with(": no answer in time (is adit stopped, or overloaded?)"), "{text}");
        thread.join().unwrap();
    }

    /// Sends this, and then a byte now and then, for longer than anybody here waits; then it ends.
    fn dribble(stream: &mut TcpStream, begin: &[u8]) {
        stream.write_all(begin).unwrap();
        for _ in 0..1000 {
            if stream.write_all(b" ").is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(5)); // nothing is awaited: this is the peer's pace
        }
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// A byte now and then is no progress: the wait is for all of the answer.
    #[test]
    fn an_answer_that_never_ends_has_an_end() {
        let (place, thread) = served(|stream| {
            dribble(stream, b"HTTP/1.1 200 OK\r\nA: ");
        });
        let Err(Trouble::NoAnswer(text)) = ask(&place, &status(), SHORT) else { panic!("no answer") };
        assert!(text.contains(": no answer in time"), "{text}");
        let (place, other) = served(|stream| {
            dribble(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        });
        let Err(Trouble::NoAnswer(text)) = ask(&place, &status(), SHORT) else { panic!("no answer") };
        assert!(text.contains(": no answer in time"), "{text}");
        drop((thread, other)); // they have ended by the end of their clients
    }

    #[test]
    fn what_is_refused_is_told_in_the_server_s_words() {
        let refuse = |line: &str, body: &str| {
            let answer = format!("HTTP/1.1 {line}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let (place, thread) = served(move |stream| stream.write_all(answer.as_bytes()).unwrap());
            let found = ask(&place, &status(), LONG).expect_err("no");
            thread.join().unwrap();
            found
        };
        let no = |text: &str| Trouble::Refused(text.into());
        assert_eq!(refuse("404 Not Found", r#"{"error": "no server \u001bx"}"#), no("no server \\u{1b}x"));
        assert_eq!(
            refuse("401 Unauthorized", r#"{"error": "a token is needed"}"#),
            no("a token is needed (--token-file FILE or ADIT_TOKEN_FILE names the file with its token)")
        );
        let Trouble::NoAnswer(text) = refuse("404 Not Found", "<html>") else {
            panic!("no answer of adit's")
        };
        assert!(text.contains(": its answer is a 404 (is that adit's admin listener"), "{text}");
        let Trouble::NoAnswer(text) = refuse("302 Found", "") else { panic!("no answer of adit's") };
        assert!(text.contains(": its answer is a 302 (is that adit's admin listener"), "{text}");
    }

    #[test]
    fn where_nobody_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let place = |address| Place { address, source: "ADIT_ADMIN".into(), token: None };
        let told = |address| match ask(&place(address), &status(), SHORT) {
            Err(Trouble::NoAnswer(text)) => text,
            other => panic!("{other:?}"),
        };
        let text = told(Address::Unix(path.clone()));
        let begin =
            format!("unix:{} (from ADIT_ADMIN): there is no such socket (does adit run", path.display());
        assert!(text.starts_with(&begin), "{text}");
        let listener = UnixListener::bind(&path).unwrap();
        drop(listener);
        let text = told(Address::Unix(path.clone()));
        assert!(text.contains(": nobody listens there (does adit run"), "{text}");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let text = told(Address::Tcp(address));
        assert!(text.contains(": nobody listens there (does adit run"), "{text}");
        let text = told(Address::Unix(directory.path().join("x".repeat(200))));
        assert!(text.contains(": cannot connect: "), "{text}");
    }

    #[test]
    fn a_backlog_that_is_full_has_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let socket = || Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let listener = socket();
        let address = SockAddr::unix(&path).unwrap();
        listener.bind(&address).unwrap();
        listener.listen(0).unwrap();
        let waiting: Vec<Socket> = std::iter::repeat_with(socket)
            .take_while(|waiting| {
                waiting.set_nonblocking(true).unwrap();
                waiting.connect(&address).is_ok()
            })
            .collect();
        assert!(!waiting.is_empty(), "a backlog of 0 has room for one");
        let place = Place { address: Address::Unix(path), source: "--admin".into(), token: None };
        let (sender, asked) = std::sync::mpsc::channel();
        thread::spawn(move || sender.send(ask(&place, &status(), SHORT)));
        let Ok(Err(Trouble::NoAnswer(text))) = asked.recv_timeout(LONG) else { panic!("no answer, in time") };
        assert!(text.contains(": nobody takes the connection ("), "{text}");
    }
}
