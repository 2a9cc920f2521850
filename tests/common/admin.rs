//! An operator of a proxy that a test runs: a small HTTP client, of which each wait is bounded.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use adit::Address;
use serde_json::Value;

use super::WAIT;

/// A connection of one.
pub struct Operator {
    stream: BufReader<Box<dyn Stream>>,
    /// Sent with each request, in front of the empty line.
    pub fields: String,
}

/// What it goes over.
pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The answer was a yes.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// The answer was this no, with these words in it.
    #[track_caller]
    pub fn refused(self, status: u16, words: &str) {
        let error = self.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(self.status == status && error.contains(words), "not {status} {words}: {self:?}");
    }
}

impl Operator {
    pub fn connect(address: &Address) -> Operator {
        let stream: Box<dyn Stream> = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).expect("connected");
                stream.set_read_timeout(Some(WAIT)).unwrap();
                stream.set_write_timeout(Some(WAIT)).unwrap();
                Box::new(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).expect("connected");
                stream.set_read_timeout(Some(WAIT)).unwrap();
                stream.set_write_timeout(Some(WAIT)).unwrap();
                Box::new(stream)
            }
            Address::Inherited(_) => panic!("{address} is no address to connect to"),
        };
        Operator { stream: BufReader::new(stream), fields: String::new() }
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("sent");
    }

    /// Reads an answer, by its length.
    pub fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer")
    }

    pub fn try_answer(&mut self) -> io::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length: usize = field("Content-Length:").expect("a length").parse().expect("a number");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Ok(Answer { status, head, body: String::from_utf8(body).expect("text") })
    }

    pub fn get(&mut self, target: &str) -> Answer {
        let fields = &self.fields;
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        self.send(request);
        self.answer()
    }

    pub fn try_get(&mut self, target: &str) -> io::Result<Answer> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.try_answer()
    }

    /// A line of a head.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line");
        line
    }

    /// `body` is JSON.
    pub fn post(&mut self, target: &str, body: &Value) -> Answer {
        let (fields, body) = (&self.fields, body.to_string());
        let length = body.len();
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n{fields}\r\n{body}"
        );
        self.send(request);
        self.answer()
    }

    /// The tunnels that a query finds, all pages.
    pub fn tunnels(&mut self, query: &str) -> Vec<Value> {
        let (mut tunnels, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/tunnels?{query}{after}")).ok();
            tunnels.extend(page["tunnels"].as_array().expect("a list").iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => {
                    assert_eq!(page["matched"], tunnels.len());
                    return tunnels;
                }
            }
        }
    }
}
