//! The plan: a checked, immutable configuration that cannot be wrong.
//!
//! `config` turns text into a [`Plan`]; everything else in the crate reads it and nothing writes it. Names have
//! been resolved, references are indices that exist, routes are in the order in which they are to be tried, and
//! a timeout of "off" is `None`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// A whole configuration, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What to listen on; at least one.
    pub listeners: Vec<Listener>,
    /// The pools of backends that routes and tcp listeners name by index.
    pub pools: Vec<Pool>,
    /// Bounds on what peers can cause.
    pub limits: Limits,
    /// Socket options of both legs.
    pub tcp: Tcp,
    /// What is logged, and where.
    pub log: Log,
    /// How tunnels that have to go are closed.
    pub drain: Drain,
    /// Event loops, a thread each.
    pub workers: WorkerCount,
    /// Where an operator may look and steer; `None`: nowhere.
    pub admin: Option<Admin>,
    /// Who the process is to be once its listeners are open. That is for whoever owns the process to see to.
    pub run_as: RunAs,
    /// What text it was read from.
    pub source: Source,
}

/// The SHA-1 of the text that a plan was read from, for an operator to compare. Two plans that say the same are equal,
/// whatever text they are from: so all of these are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source(pub Option<[u8; 20]>);

impl PartialEq for Source {
    fn eq(&self, _: &Source) -> bool {
        true
    }
}

impl Source {
    /// As `sha1sum` writes it.
    pub fn hex(self) -> Option<String> {
        self.0.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Where an operator may look and steer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where that is listened for.
    pub address: Address,
    /// Whether the address may be one that other machines reach.
    pub allow_remote: bool,
    /// A file with the token that every request must have, but for the page itself and whether all is well.
    pub token_file: Option<PathBuf>,
}

/// Who a process is to be; `None`: who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunAs {
    /// A user's name.
    pub user: Option<String>,
    /// A group's name; without one the user's own.
    pub group: Option<String>,
}

/// How tunnels that have to go are closed: at stop, those of servers, routes and listeners that drain or are removed,
/// and those that have reached their lifetime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Tunnels closed a second, in all workers together; 0: none before the deadline, then all.
    pub rate: u32,
    /// Which come first.
    pub order: Order,
    /// How long tunnels may go on from when they have to go; `None`: as long as they like.
    pub timeout: Option<Duration>,
    /// How long clients are still taken in after a stop was asked for, while `/readyz` says that they should not come.
    pub delay: Duration,
}

/// Which of the tunnels that have to go come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Those that have been open for longest.
    Oldest,
    /// Those that have been silent for longest.
    Quietest,
}

/// How many event loops there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerCount {
    /// So many.
    Count(u16),
    /// One for each processor that this process may use.
    Auto,
}

/// What becomes of tunnels whose route or server is not in a new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRemoved {
    /// They go on.
    Keep,
    /// They are closed at the pace of [`Drain`].
    Drain,
    /// They are closed at once.
    Close,
}

/// A share of something, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share(pub f32);

/// An index into [`Plan::pools`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(pub u16);

/// One configured server: a pool and an index into its [`Pool::backends`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendId {
    /// The pool it belongs to.
    pub pool: PoolId,
    /// Its place in the pool.
    pub index: u16,
}

/// A socket's address: what we bind, and what we dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6 and a port.
    Tcp(SocketAddr),
    /// A unix stream socket's path.
    Unix(PathBuf),
    /// A listening socket that the process was handed, by the name it was handed over with. It is never dialed.
    Inherited(String),
}

impl Address {
    /// Whether nobody on another machine reaches it. Of a socket that was handed over only the address that it is bound
    /// to says so; where it has none it is a unix socket.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Address::Unix(_) | Address::Inherited(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Inherited(name) => write!(f, "fd:{name}"),
        }
    }
}

/// A bound address and what is spoken there.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Where it listens.
    pub address: Address,
    /// What clients say first.
    pub mode: Mode,
    /// The PROXY protocol header that every client must send, if any.
    pub proxy_header: Option<ProxyHeaderIn>,
    /// Peers whose `X-Forwarded-*` are believed and extended.
    pub trusted_proxies: Trusted,
    /// The waits of sessions accepted here.
    pub timeouts: Timeouts,
    /// Whether it takes in nobody: it is not listened on, and its tunnels are drained.
    pub drain: bool,
    /// What becomes of the tunnels of its own `upstream` when it is removed.
    pub on_removed: OnRemoved,
}

/// What a listener's clients say first.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// An HTTP/1.1 request. The routes stand in the order in which to try them: the most specific host first,
    /// then the longest path, then as written; a listener's own `upstream` is the last, as a route for anything.
    Http {
        /// Tried in this order.
        routes: Vec<Route>,
    },
    /// Nothing of ours: a tunnel from the first byte.
    Tcp {
        /// Where every client goes.
        pool: PoolId,
    },
}

/// Which PROXY protocol versions are accepted from clients (one of them is demanded).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeaderIn {
    /// The text form.
    V1,
    /// The binary form.
    V2,
    /// Either.
    Any,
}

/// Which PROXY protocol version is written to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

/// The peers that are trusted to name a client's address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trusted {
    /// Trusted networks.
    pub networks: Vec<IpNet>,
    /// Whether peers on a unix socket are trusted ("unix:" in the list).
    pub unix: bool,
}

/// A rule that picks a pool, and what is demanded of requests that it matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which hosts it is for.
    pub host: HostRule,
    /// Which paths it is for.
    pub path: PathRule,
    /// Where its requests go.
    pub pool: PoolId,
    /// Protocols that may become tunnels, in lower case; empty: none.
    pub upgrade: Vec<String>,
    /// Allowed `Origin` values, in lower case; empty: any.
    pub origins: Vec<String>,
    /// Client networks let in; empty: any.
    pub allow: Vec<IpNet>,
    /// Client networks kept out, looked at first.
    pub deny: Vec<IpNet>,
    /// Whether the `Sec-WebSocket-*` fields are judged.
    pub strictness: Strictness,
    /// Fields set on the request to the server, in the order written.
    pub set_headers: Vec<(String, Template)>,
    /// Names of fields taken off the request to the server, in lower case.
    pub remove_headers: Vec<String>,
    /// Whether it takes nothing new: requests are answered 503, and its tunnels are drained.
    pub drain: bool,
    /// What becomes of its tunnels when it is removed.
    pub on_removed: OnRemoved,
}

impl Route {
    /// A route for anything, with every default: what a listener's own `upstream` stands for.
    pub fn catch_all(pool: PoolId) -> Route {
        Route {
            host: HostRule::Any,
            path: PathRule::Any,
            pool,
            upgrade: vec!["websocket".to_owned()],
            origins: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            strictness: Strictness::Strict,
            set_headers: Vec::new(),
            remove_headers: Vec::new(),
            drain: false,
            on_removed: OnRemoved::Keep,
        }
    }
}

/// The hosts that a route is for. Names are in lower case, without port or trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostRule {
    /// Every host, and requests without one.
    Any,
    /// Exactly this host.
    Exact(String),
    /// Every host that ends in this suffix; it begins with a dot (`.example.com` for `*.example.com`).
    Suffix(String),
}

/// The paths that a route is for, compared with the normalized path of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathRule {
    /// Every path.
    Any,
    /// The path itself and what lies below it: `/chat` is for `/chat` and `/chat/x`, not for `/chatter`;
    /// `/chat/` is for `/chat/` and `/chat/x`.
    Prefix(String),
    /// Exactly this path.
    Exact(String),
}

/// Whether `Sec-WebSocket-*` fields are judged or only the 101.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Version, key and accept value are checked (RFC 6455, 4.1 and 4.2).
    Strict,
    /// They are passed on unread.
    Lenient,
}

/// A header value with variables in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

/// A part of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text as it stands.
    Text(String),
    /// `$client_ip`: the client's address, without port; empty for a unix socket's client.
    ClientIp,
    /// `$host`: the request's host as it came, with its port.
    Host,
    /// `$scheme`: `http`, or what a trusted proxy said.
    Scheme,
    /// `$request_id`: the value of `X-Request-ID`.
    RequestId,
}

/// A set of backends and how to choose among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// The name it has in the file.
    pub name: String,
    /// Its servers; at least one.
    pub backends: Vec<Backend>,
    /// How one is chosen.
    pub balance: Balance,
    /// Failed tries within `fail_timeout` that take a server out; 0: never.
    pub max_fails: u32,
    /// The window of `max_fails`, and how long a server is out.
    pub fail_timeout: Duration,
    /// The PROXY protocol header written ahead of everything else, if any.
    pub proxy_header: Option<ProxyVersion>,
    /// What becomes of tunnels to a server that is removed.
    pub on_removed: OnRemoved,
    /// How surplus tunnels are closed after servers were added or came back; `None`: they are not.
    pub rebalance: Option<Rebalance>,
}

/// How tunnels are spread again over a pool's servers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rebalance {
    /// How far above its share, by weight, a server may stay.
    pub within: Share,
    /// Tunnels closed a second, in all workers together; at least 1.
    pub rate: u32,
}

/// One configured server.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// As written in the file, for logs; with the address behind it where a name resolved to several.
    pub name: String,
    /// What to dial.
    pub address: Address,
    /// Its share, at least 1.
    pub weight: u32,
    /// Sessions at once; 0: no limit.
    pub max_conns: u32,
    /// Whether it is used only when no other is in.
    pub backup: bool,
    /// Whether it takes nothing new; its tunnels are drained.
    pub drain: bool,
}

/// How a backend is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// In turn, smoothly by weight.
    RoundRobin,
    /// The fewest sessions for its weight.
    LeastConn,
    /// By the client's network: the first three octets of an IPv4 address, a whole IPv6 address.
    IpHash,
    /// The less loaded of two drawn by weight.
    RandomTwo,
    /// By a value of the request, consistently.
    Hash(HashKey),
}

/// What [`Balance::Hash`] looks at. An empty or missing value falls back to round robin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    ClientIp,
    /// The normalized path.
    Path,
    /// A request field, name in lower case.
    Header(String),
    /// A parameter of the query string.
    Query(String),
    /// A cookie.
    Cookie(String),
}

/// How long each wait may last; `None`: for ever.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// From accept to the client's complete request head.
    pub handshake: Duration,
    /// To one server.
    pub connect: Duration,
    /// From the request written to the response head; also the longest silence within a plain exchange.
    pub response: Duration,
    /// A tunnel silent in both directions.
    pub idle: Option<Duration>,
    /// A tunnel's silence after one direction has ended.
    pub half_closed: Option<Duration>,
    /// Bytes wait for a peer that takes none.
    pub stalled: Option<Duration>,
    /// A tunnel's age.
    pub lifetime: Option<Duration>,
    /// How much of its lifetime a tunnel may lack, drawn for each, so that tunnels opened together do not end together.
    pub lifetime_jitter: Share,
}

/// Bounds on what peers can cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients at once; further ones wait in the listen backlog.
    pub max_connections: usize,
    /// Clients at once from one address; 0: no limit.
    pub max_connections_per_ip: u32,
    /// Bytes of a request or response head.
    pub max_header_bytes: usize,
    /// Fields of a head.
    pub max_headers: usize,
}

/// Socket options of both legs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Idle time before keepalive probes.
    pub keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
    /// The listen backlog.
    pub backlog: u32,
}

/// What is logged, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe messages that are written, unless `RUST_LOG` says otherwise.
    pub level: log::LevelFilter,
    /// Where the access log goes.
    pub access: AccessTarget,
    /// How it is written.
    pub format: LogFormat,
    /// Whether it shows query strings.
    pub query: bool,
    /// How often a tunnel writes a line while it is open; `None`: never.
    pub every: Option<Duration>,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessTarget {
    /// Nowhere.
    Off,
    /// The process's standard error.
    Stderr,
    /// The process's standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// How the access log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` pairs, a line each.
    Text,
    /// A JSON object a line.
    Json,
}
