//! What the socket tests share: a proxy on a thread, a scripted server, a client, the access log as a channel. Every
//! wait is bounded by [`WAIT`], ports are the kernel's choice, and what a test starts ends with it.

#![allow(dead_code)] // each test file uses its own part of this

#[cfg(feature = "admin")]
pub mod admin;
pub mod mock;
pub mod process;
pub mod terminal;
pub mod text;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use adit::{Address, Config, Handle, Plan, Proxy, ReloadError, Reloaded, Snapshot, Workers};

/// Longer than anything here takes on a busy machine, shorter than a test run's patience.
pub const WAIT: Duration = Duration::from_secs(20);

/// The handshake's example key and its answer (RFC 6455, 1.3).
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A proxy that runs on a thread of its own until it is dropped.
pub struct Running {
    pub addresses: Vec<Address>,
    pub handle: Handle,
    /// Where operators are listened for.
    pub admin: Option<Address>,
    log: Receiver<String>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What this text configures.
pub fn plan(config: &str) -> Plan {
    Config::from_toml(config).and_then(|config| config.check()).unwrap_or_else(|error| panic!("{error}"))
}

/// An access log that can be read.
pub fn lines() -> (impl FnMut(&[u8]) + Send + 'static, Receiver<String>) {
    let (sender, log) = channel();
    let sink = move |line: &[u8]| {
        let _ = sender.send(String::from_utf8(line.to_vec()).expect("a line is text"));
    };
    (sink, log)
}

/// Starts a proxy with this configuration.
pub fn start(config: &str) -> Running {
    let mut proxy = Proxy::bind(plan(config)).unwrap_or_else(|error| panic!("{error}"));
    let (sink, log) = lines();
    proxy.set_access_log(sink);
    let (addresses, handle) = (proxy.local_addrs(), proxy.handle());
    #[cfg(feature = "admin")]
    let admin = proxy.admin_addr();
    #[cfg(not(feature = "admin"))]
    let admin = None;
    let thread = Some(std::thread::spawn(move || proxy.run()));
    Running { addresses, handle, admin, log, thread }
}

/// As [`start`], with as many workers as the configuration says.
pub fn start_workers(config: &str) -> Running {
    let mut workers = Workers::bind(plan(config)).unwrap_or_else(|error| panic!("{error}"));
    let (sink, log) = lines();
    workers.set_access_log(sink);
    let (addresses, handle) = (workers.local_addrs(), workers.handle());
    #[cfg(feature = "admin")]
    let admin = workers.admin_addr();
    #[cfg(not(feature = "admin"))]
    let admin = None;
    let thread = Some(std::thread::spawn(move || workers.run()));
    Running { addresses, handle, admin, log, thread }
}

/// One http listener in front of one server, with further text at the end of the file.
pub fn start_http(server: &str, more: &str) -> Running {
    start(&format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n[upstream.u]\nservers = [\"{server}\"]\n{more}"
    ))
}

/// One tcp listener in front of one server, with further text at the end of the file.
pub fn start_tcp(server: &str, more: &str) -> Running {
    start(&format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = [\"{server}\"]\n{more}"
    ))
}

impl Running {
    /// The address of the first listener.
    pub fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    /// An operator.
    #[cfg(feature = "admin")]
    pub fn operator(&self) -> admin::Operator {
        admin::Operator::connect(self.admin.as_ref().expect("an admin listener"))
    }

    /// A client of the first listener.
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// Goes on with another configuration.
    pub fn reload(&mut self, config: &str) -> Reloaded {
        let reloaded = self.try_reload(config).unwrap_or_else(|error| panic!("{error}"));
        self.addresses.clone_from(&reloaded.local_addrs);
        reloaded
    }

    /// Tries to.
    pub fn try_reload(&self, config: &str) -> Result<Reloaded, ReloadError> {
        self.handle.reload(plan(config)).recv_timeout(WAIT).expect("an answer")
    }

    /// The address of a listener.
    pub fn address_of(&self, index: usize) -> SocketAddr {
        match &self.addresses[index] {
            Address::Tcp(address) => *address,
            address @ (Address::Unix(_) | Address::Inherited(_)) => panic!("{address} is no TCP address"),
        }
    }

    /// The next line of the access log, without its newline.
    pub fn log_line(&self) -> String {
        let line = self.log.recv_timeout(WAIT).expect("a line in the access log");
        line.trim_end().to_owned()
    }

    /// The next line about a session's end.
    pub fn closed_line(&self) -> String {
        loop {
            let line = self.log_line();
            if line.contains("event=close") {
                return line;
            }
        }
    }

    /// Waits until the counters are as wanted.
    pub fn await_stats(&self, wanted: impl Fn(Snapshot) -> bool) -> Snapshot {
        let until = Instant::now() + WAIT;
        loop {
            let stats = self.handle.stats();
            if wanted(stats) {
                return stats;
            }
            assert!(Instant::now() < until, "the counters stay at {stats:?}");
            std::thread::yield_now();
        }
    }

    /// Waits until no session is open.
    pub fn await_empty(&self) {
        self.await_stats(|stats| stats.open == 0);
    }

    /// Waits for the end of a proxy that was told to stop.
    pub fn join(mut self) {
        self.thread.take().expect("it is joined once").join().expect("no panic").expect("no error");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("no panic in the proxy").expect("no error in the proxy");
                assert_eq!(self.handle.stats().panics, 0, "no panic in a session");
            }
        }
    }
}

/// Either end of a connection: reads with a bound, and reads heads.
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::of(TcpStream::connect_timeout(&address, WAIT).expect("connected"))
    }

    pub fn of(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_write_timeout(Some(WAIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().unwrap()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("written");
    }

    /// As [`send`](Client::send), where the other side may already have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// The lines of a head up to and with the empty one, as they came. Panics at the end of the stream.
    pub fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let count = self.stream.read_line(&mut head).expect("a line of a head");
            assert!(count > 0, "the stream ended in the head {head:?}");
        }
        head
    }

    /// Exactly this many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("bytes");
        bytes
    }

    /// Expects exactly these bytes next.
    #[track_caller]
    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let got = self.bytes(bytes.len());
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(bytes));
    }

    /// Everything until the peer ends, or the error that it ends with.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).map(|_| bytes)
    }

    /// Expects a clean end, with nothing before it.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let rest = self.rest().expect("a clean end");
        assert_eq!(String::from_utf8_lossy(&rest), "", "bytes before the end");
    }

    /// Expects a reset, whatever came before it.
    #[track_caller]
    pub fn expect_reset(&mut self) {
        let error = self.rest().expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// Half-closes.
    pub fn finish(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).expect("half-closed");
    }

    /// Closes with a reset.
    pub fn reset(self) {
        let stream = self.stream.into_inner();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
    }

    /// Asks for a WebSocket tunnel.
    pub fn ask(&mut self, path: &str) {
        self.send(upgrade_request(path));
    }

    /// Reads a request for a WebSocket tunnel and agrees to it; gives the head back.
    pub fn agree(&mut self) -> String {
        let head = self.head();
        self.send(switching());
        head
    }
}

/// A request for a WebSocket tunnel.
pub fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// A server's agreement to it.
pub fn switching() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
}

/// A server that does what the test says, a connection at a time.
pub struct Backend {
    listener: TcpListener,
}

impl Backend {
    pub fn new() -> Backend {
        Backend { listener: TcpListener::bind("127.0.0.1:0").expect("bound") }
    }

    /// Its address, as configured.
    pub fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// The next connection, waited for with a bound.
    pub fn accept(&self) -> Client {
        self.listener.set_nonblocking(true).unwrap();
        let until = Instant::now() + WAIT;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    return Client::of(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(Instant::now() < until, "nobody connected");
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("accept: {error}"),
            }
        }
    }

    /// Whether somebody has connected by now.
    pub fn has_client(&self) -> bool {
        self.listener.set_nonblocking(true).unwrap();
        self.listener.accept().is_ok()
    }
}

/// An open tunnel: the client's end and the server's.
pub fn open_tunnel(proxy: &Running, backend: &Backend) -> (Client, Client) {
    let mut client = proxy.client();
    client.ask("/");
    let mut server = backend.accept();
    server.agree();
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    (client, server)
}

/// So many tunnels of a tcp listener, both ends of each, opened one after the other.
pub fn tunnels(proxy: &Running, backend: &Backend, count: usize) -> Vec<(Client, Client)> {
    let open = |_| {
        let client = proxy.client();
        (client, backend.accept())
    };
    (0..count).map(open).collect()
}

/// Both ends of a tunnel hear each other.
pub fn echoes(client: &mut Client, server: &mut Client) {
    client.send("up");
    server.expect("up");
    server.send("down");
    client.expect("down");
}

/// An address at which nobody listens.
pub fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    listener.local_addr().unwrap().to_string()
}

/// An address at which connecting neither succeeds nor fails, for as long as this lives: a listener that accepts nobody,
/// with its backlog full.
pub struct Unanswering {
    listener: socket2::Socket,
    _waiting: Vec<socket2::Socket>,
}

impl Unanswering {
    pub fn new() -> Unanswering {
        let socket =
            || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let listener = socket();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
        listener.listen(0).expect("listening"); // a backlog of 0 has room for one
        let address = listener.local_addr().unwrap();
        let wait_there = |_| {
            let waiting = socket();
            waiting.set_nonblocking(true).unwrap();
            let _ = waiting.connect(&address); // it is in progress, or done already
            waiting
        };
        Unanswering { _waiting: (0..4).map(wait_there).collect(), listener }
    }

    /// Its address, as configured.
    pub fn address(&self) -> String {
        self.listener.local_addr().unwrap().as_socket().unwrap().to_string()
    }
}

impl Client {
    /// Either end of a unix socket's connection. A descriptor is a descriptor to read(2) and write(2).
    pub fn of_unix(stream: UnixStream) -> Client {
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_write_timeout(Some(WAIT)).unwrap();
        Client { stream: BufReader::new(TcpStream::from(OwnedFd::from(stream))) }
    }

    /// Sends bytes one at a time, as far as the other side takes them.
    pub fn dribble(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            if self.try_send([*byte]).is_err() {
                break;
            }
        }
    }

    /// Everything that comes, whether a clean end or a reset is behind it.
    pub fn everything(&mut self) -> String {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
            Ok(_) | Err(_) => String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// Whether there is nothing to read by now.
    pub fn is_silent(&mut self) -> bool {
        self.stream.get_ref().set_nonblocking(true).unwrap();
        let peeked = self.stream.fill_buf().map(<[u8]>::len);
        self.stream.get_ref().set_nonblocking(false).unwrap();
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Backend {
    /// A server on any address.
    pub fn on(address: &str) -> Backend {
        Backend { listener: TcpListener::bind(address).expect("bound") }
    }

    /// The next connection, if there is one by now.
    pub fn try_accept(&self) -> Option<Client> {
        self.listener.set_nonblocking(true).unwrap();
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(false).unwrap();
        Some(Client::of(stream))
    }
}
