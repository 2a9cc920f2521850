//! An operator of adit's: requests over the unix socket of its admin listener, one after the other on one connection.
//! Blocking, each within a bounded time, and for answers with a `Content-Length`, which all of adit's have.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

/// More fields than an answer of adit's has.
const FIELDS_MAX: usize = 16;

/// Read at once: a page of a hundred tunnels.
const READ_BYTES: usize = 32 << 10;

pub struct Operator {
    stream: UnixStream,
    /// How long an answer may take.
    within: Duration,
    received: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body, of an answer that was to be a yes and JSON.
    pub fn json(&self) -> Result<Value, String> {
        serde_json::from_str(self.text()?).map_err(|error| format!("{error}: {}", self.start()))
    }

    /// The body, of an answer that was to be a yes.
    pub fn text(&self) -> Result<&str, String> {
        if self.status == 200 { Ok(&self.body) } else { Err(format!("{}: {}", self.status, self.start())) }
    }

    /// As much as one may want to read.
    fn start(&self) -> String {
        self.body.trim_end().chars().take(200).collect()
    }
}

impl Operator {
    pub fn connect(socket: &Path, within: Duration) -> io::Result<Operator> {
        let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // While the backlog is full connect(2) waits as well, and for as long.
        stream.set_write_timeout(Some(within))?;
        stream.connect(&SockAddr::unix(socket)?)?;
        let stream = UnixStream::from(OwnedFd::from(stream));
        Ok(Operator { stream, within, received: Vec::new() })
    }

    pub fn get(&mut self, target: &str) -> io::Result<Answer> {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: adit\r\n\r\n"))
    }

    pub fn post(&mut self, path: &str, body: &Value) -> io::Result<Answer> {
        let (body, kind) = (body.to_string(), "Content-Type: application/json");
        let length = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: adit\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    fn ask(&mut self, request: &str) -> io::Result<Answer> {
        let deadline = Instant::now() + self.within;
        self.stream.write_all(request.as_bytes())?;
        loop {
            if let Some((answer, length)) = split_off(&self.received)? {
                self.received.drain(..length);
                return Ok(answer);
            }
            self.read(deadline)?;
        }
    }

    /// Reads what there is, or waits until there is something.
    fn read(&mut self, deadline: Instant) -> io::Result<()> {
        let late = || {
            io::Error::new(io::ErrorKind::TimedOut, format!("there is no answer within {:?}", self.within))
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        self.stream.set_read_timeout(Some(left))?;
        let before = self.received.len();
        self.received.resize(before + READ_BYTES, 0);
        let read = self.stream.read(&mut self.received[before..]);
        self.received.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => {
                // Before there was anything of it, or in the middle.
                let (aborted, cut) = (io::ErrorKind::ConnectionAborted, io::ErrorKind::UnexpectedEof);
                let what = format!("closed {before} bytes into the answer");
                Err(io::Error::new(if before == 0 { aborted } else { cut }, what))
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(late()),
            Err(error) => Err(error),
        }
    }
}

/// The answer at the front of these bytes, and how long it is; `None`: more has to come.
fn split_off(bytes: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let wrong = |what: &str| {
        let start = bytes[..bytes.len().min(200)].escape_ascii();
        io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {start}"))
    };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(begin) = head.parse(bytes).map_err(|error| wrong(&error.to_string()))?
    else {
        return Ok(None);
    };
    let length = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok());
    let end = begin + length.ok_or_else(|| wrong("an answer without a length"))?;
    let Some(body) = bytes.get(begin..end) else { return Ok(None) };
    let body = String::from_utf8(body.to_vec()).map_err(|_| wrong("an answer that is no text"))?;
    Ok(Some((Answer { status: head.code.expect("the head is whole"), body }, end)))
}

#[cfg(test)]
pub mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    const WAIT: Duration = Duration::from_secs(20);

    /// Somebody who plays adit, on one connection after the other: says of each request, head and body, what is sent
    /// back; nothing is the end of the connection.
    pub struct Scripted {
        pub socket: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Scripted {
        pub fn new(mut answer: impl FnMut(&str) -> Option<String> + Send + 'static) -> Scripted {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("admin.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    serve(stream, &mut answer);
                }
            });
            Scripted { socket, _folder: folder }
        }

        pub fn operator(&self) -> Operator {
            Operator::connect(&self.socket, WAIT).unwrap()
        }
    }

    fn serve(mut stream: UnixStream, answer: &mut impl FnMut(&str) -> Option<String>) {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.split_once("Content-Length: ");
            let length = length.and_then(|(_, length)| length.lines().next()?.parse::<usize>().ok());
            if body.len() < length.unwrap_or_default() {
                continue;
            }
            bytes.clear();
            let Some(answer) = answer(&text) else { return };
            // In pieces, as it may come.
            if answer.as_bytes().chunks(7).any(|piece| stream.write_all(piece).is_err()) {
                return;
            }
        }
    }

    pub fn yes(body: &str) -> Option<String> {
        Some(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    #[test]
    fn requests_are_asked_one_after_the_other_and_answers_are_as_long_as_they_say() {
        let scripted = Scripted::new(|request| match request {
            "GET /a?b=c HTTP/1.1\r\nHost: adit\r\n\r\n" => yes("{\"a\": 1}\n"),
            post if post.starts_with("POST /close ") && post.ends_with("\r\n\r\n{\"all\":true}") => {
                Some("HTTP/1.1 409 Conflict\r\nA: b\r\ncontent-length: 3\r\n\r\nno\n".into())
            }
            _ => None,
        });
        let mut operator = scripted.operator();
        assert_eq!(operator.get("/a?b=c").unwrap().json(), Ok(serde_json::json!({ "a": 1 })));
        let refused = operator.post("/close", &serde_json::json!({ "all": true })).unwrap();
        assert_eq!((refused.status, refused.json()), (409, Err("409: no".into())));
        let error = operator.get("/else").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for (answer, words) in [
            ("HTTP/1.1 200 OK\r\n\r\n{}", "without a length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "without a length"),
            ("200 OK\r\nContent-Length: 0\r\n\r\n", "invalid"),
        ] {
            let mut operator = Scripted::new(|_| Some(answer.into())).operator();
            let error = operator.get("/").unwrap_err();
            assert!(error.to_string().contains(words), "{answer}: {error}");
        }
        let half = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
        let scripted = Scripted::new(|_| Some(half.into()));
        let mut operator = Operator::connect(&scripted.socket, Duration::from_millis(50)).unwrap();
        assert_eq!(operator.get("/").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
