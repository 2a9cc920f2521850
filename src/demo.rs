//! `adit demo`: a WebSocket echo server of our own, the proxy in front of it, and a page to try both with.
//!
//! The echo server is plain: a thread a connection, blocking sockets, everything bounded. It is what a user's own
//! server would be to the proxy, so it knows nothing of it; the page too is served through the tunnel's route.

use std::io::{self, Cursor, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use adit::{Config, Plan, StartError, Workers};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message};

/// The ports of nginx's article, and of our `config.toml`; any other where they are taken.
const ECHO_PORT: u16 = 8010;
const ADIT_PORT: u16 = 8020;
/// Where operators look and steer, as in the README.
const ADMIN_PORT: u16 = 8021;

/// Connections at once, each with a thread. A demo has a few; further ones are closed.
const CONNECTIONS_MAX: usize = 64;
/// A browser's request head has one or two kilobytes.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Much more than anybody types.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// A peer that has said nothing for so long is asked by a ping; after as long again without an answer it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// After an answer: how long the peer may take to close.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// After an accept that failed, which is mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// `{{nonce}}` stands where the answer's nonce belongs.
const PAGE: &str = include_str!("demo.html");

/// A running echo server, and how to put the proxy in front of it.
pub struct Demo {
    echo: SocketAddr,
}

/// Starts the echo server.
pub fn start() -> io::Result<Demo> {
    let any = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = any(ECHO_PORT).or_else(|_| any(0))?;
    let echo = listener.local_addr()?;
    thread::Builder::new().name("adit-echo".into()).spawn(move || accept(&listener))?;
    Ok(Demo { echo })
}

impl Demo {
    /// How the proxy is configured.
    pub fn plan(&self) -> Plan {
        self.plan_at(ADIT_PORT, ADMIN_PORT)
    }

    /// Binds the proxy and says on stdout where everything is.
    pub fn bind(&self) -> Result<Workers, StartError> {
        let proxy = Workers::bind(self.plan()).or_else(|_| Workers::bind(self.plan_at(0, 0)))?;
        let echo = self.echo;
        #[cfg(feature = "admin")]
        let operators =
            proxy.admin_addr().map_or_else(String::new, |admin| format!("operators    http://{admin}/\n"));
        #[cfg(not(feature = "admin"))]
        let operators = "";
        for adit in proxy.local_addrs() {
            let text = format!(
                "echo server  ws://{echo}/\n\
                 adit         ws://{adit}/\n\
                 page         http://{adit}/\n\
                 {operators}\
                 try          open the page, type, press Enter: it goes through adit and comes back\n\
                 stop         Ctrl-C\n"
            );
            // A reader that has gone away does not want to know.
            let _ = io::stdout().write_all(text.as_bytes());
        }
        Ok(proxy)
    }

    fn plan_at(&self, port: u16, admin_port: u16) -> Plan {
        let admin = match cfg!(feature = "admin") {
            true => format!("[admin]\nlisten = \"127.0.0.1:{admin_port}\"\n"),
            false => String::new(),
        };
        // An open page is a tunnel that nobody ends: a demo does not wait half a minute for it. Its clients are
        // few, and fit into any descriptor limit.
        let text = format!(
            "{admin}[timeouts]\ndrain = \"2s\"\n\
             [limits]\nmax_connections = 256\n\
             [[listener]]\nlisten = \"127.0.0.1:{port}\"\nupstream = \"echo\"\n\
             [upstream.echo]\nservers = [\"{}\"]\n",
            self.echo
        );
        Config::from_toml(&text)
            .and_then(|config| config.check())
            .expect("the text is ours, without names to resolve, and a test checks it")
    }
}

fn accept(listener: &TcpListener) {
    // Each connection holds a clone for as long as it lives, so this counts them.
    let connections = Arc::new(());
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("echo server: cannot accept: {error}");
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        if Arc::strong_count(&connections) > CONNECTIONS_MAX {
            continue;
        }
        let connection = Arc::clone(&connections);
        let serve = move || {
            if let Err(error) = serve(stream) {
                log::debug!("echo server: {error}");
            }
            drop(connection);
        };
        if let Err(error) = thread::Builder::new().name("adit-echo".into()).spawn(serve) {
            log::warn!("echo server: no thread for a connection: {error}");
        }
    }
}

fn serve(mut stream: TcpStream) -> tungstenite::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let head = read_head(&mut stream)?;
    match Request::of(&head) {
        Request::Echo => echo(stream, head),
        Request::Page(with_body) => {
            let nonce = format!("{:032x}", fastrand::u128(..));
            let page = PAGE.replace("{{nonce}}", &nonce);
            // Nothing but what stands in the page runs, and it reaches nothing but where it came from.
            let fields = format!(
                "Content-Type: text/html; charset=utf-8\r\n\
                 Content-Security-Policy: default-src 'none'; script-src 'nonce-{nonce}'; \
                 style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; base-uri 'none'; \
                 form-action 'none'; frame-ancestors 'none'\r\n"
            );
            Ok(answer(stream, "200 OK", &fields, &page, with_body)?)
        }
        Request::Elsewhere(with_body) => {
            let text = "there is only one page here: /\n";
            Ok(answer(stream, "404 Not Found", PLAIN_TEXT, text, with_body)?)
        }
        Request::OtherMethod => {
            let fields = format!("{PLAIN_TEXT}Allow: GET, HEAD\r\n");
            Ok(answer(stream, "405 Method Not Allowed", &fields, "only GET and HEAD\n", Body::Sent)?)
        }
        Request::Malformed => {
            Ok(answer(stream, "400 Bad Request", PLAIN_TEXT, "this is not HTTP/1.1\n", Body::Sent)?)
        }
    }
}

const PLAIN_TEXT: &str = "Content-Type: text/plain; charset=utf-8\r\n";

/// Reads until the head's empty line, and what came behind it.
fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + HEAD_TIMEOUT;
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Err(io::Error::other("the request head is too large"));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => head.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(head)
}

/// What a request head asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// A WebSocket, on any path; `tungstenite` judges the rest of the handshake.
    Echo,
    Page(Body),
    Elsewhere(Body),
    OtherMethod,
    Malformed,
}

/// Whether an answer's body is sent, or only its length (to HEAD).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Sent,
    LeftOut,
}

impl Request {
    fn of(head: &[u8]) -> Request {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split("\r\n");
        let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let [method, target, "HTTP/1.1" | "HTTP/1.0"] = words[..] else { return Request::Malformed };
        let body = match method {
            "GET" => Body::Sent,
            "HEAD" => Body::LeftOut,
            _ => return Request::OtherMethod,
        };
        let is_upgrade = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(':'))
            .any(|(name, value)| {
                name.eq_ignore_ascii_case("upgrade") && value.trim().eq_ignore_ascii_case("websocket")
            });
        match (is_upgrade, target.split('?').next()) {
            (true, _) => Request::Echo,
            (false, Some("/")) => Request::Page(body),
            (false, _) => Request::Elsewhere(body),
        }
    }
}

fn answer(mut stream: TcpStream, status: &str, fields: &str, text: &str, body: Body) -> io::Result<()> {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        text.len()
    );
    match body {
        Body::Sent => answer.push_str(text),
        Body::LeftOut => {}
    }
    stream.write_all(answer.as_bytes())?;
    // A close with bytes unread would be a reset, and might overtake the answer.
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(GOODBYE_TIMEOUT))?;
    io::copy(&mut stream.take(HEAD_BYTES_MAX as u64), &mut io::sink())?;
    Ok(())
}

/// Sends every message back, until the peer has enough of it.
fn echo(stream: TcpStream, head: Vec<u8>) -> tungstenite::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let stream = Rewound(Cursor::new(head).chain(stream));
    let mut socket = tungstenite::accept_with_config(stream, Some(config))
        .map_err(|error| io::Error::other(error.to_string()))?;
    let mut asked = false;
    loop {
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                asked = false;
                socket.send(message)?;
            }
            // Pings and closes are answered within `read`.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => asked = false,
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock && !asked => {
                asked = true;
                socket.send(Message::Ping("".into()))?;
            }
            Err(error @ Error::Capacity(_)) => {
                socket.close(Some(CloseFrame { code: CloseCode::Size, reason: "".into() }))?;
                socket.flush()?;
                return Err(error);
            }
            Err(Error::ConnectionClosed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// A stream whose first bytes were read already, and are read again.
struct Rewound(io::Chain<Cursor<Vec<u8>>, TcpStream>);

impl Read for Rewound {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Rewound {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().1.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, expected: Request) {
        assert_eq!(Request::of(head.as_bytes()), expected, "{head:?}");
    }

    #[test]
    fn requests() {
        use Body::{LeftOut, Sent};
        check("GET / HTTP/1.1\r\n\r\n", Request::Page(Sent));
        check("GET /?a=b HTTP/1.1\r\nHost: a\r\n\r\n", Request::Page(Sent));
        check("GET / HTTP/1.0\r\n\r\n", Request::Page(Sent));
        check("HEAD / HTTP/1.1\r\n\r\n", Request::Page(LeftOut));
        check("GET /favicon.ico HTTP/1.1\r\n\r\n", Request::Elsewhere(Sent));
        check("GET // HTTP/1.1\r\n\r\n", Request::Elsewhere(Sent));
        check("HEAD /x HTTP/1.1\r\n\r\n", Request::Elsewhere(LeftOut));
        check("GET /echo HTTP/1.1\r\n\r\n", Request::Elsewhere(Sent));
        check("GET /echo HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", Request::Echo);
        check("GET / HTTP/1.1\r\nHost: a\r\nupgrade:WebSocket \r\n\r\n", Request::Echo);
        check("GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", Request::Page(Sent));
        check("GET / HTTP/1.1\r\n\r\nUpgrade: websocket\r\n", Request::Page(Sent));
        check("POST / HTTP/1.1\r\n\r\n", Request::OtherMethod);
        check("get / HTTP/1.1\r\n\r\n", Request::OtherMethod);
        check("GET / HTTP/2.0\r\n\r\n", Request::Malformed);
        check("GET /\r\n\r\n", Request::Malformed);
        check("GET  / HTTP/1.1\r\n\r\n", Request::Malformed);
        check("\x16\x03\x01\r\n\r\n", Request::Malformed);
        check("\r\n\r\n", Request::Malformed);
    }

    #[test]
    fn the_demo_is_a_valid_configuration() {
        let demo = Demo { echo: SocketAddr::from((Ipv4Addr::LOCALHOST, ECHO_PORT)) };
        assert_eq!(demo.plan().listeners.len(), 1);
    }

    #[test]
    fn the_page_takes_its_nonce_and_asks_for_nothing_else() {
        assert_eq!(PAGE.matches("nonce=\"{{nonce}}\"").count(), 2);
        assert_eq!(PAGE.matches("{{").count(), 2);
        for outside in ["src=", "@import", "url(", "style=\"", "onclick=\"", "fetch("] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        for id in ["state", "line", "send", "log", "reconnect"] {
            assert!(PAGE.contains(&format!("id=\"{id}\"")), "{id}");
        }
    }
}
