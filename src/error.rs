//! Every noun for something ending badly, or well.
//!
//! [`ConfigError`] and [`StartError`] are for an operator, before anything runs. A [`Refusal`] is why we would
//! not open a tunnel or pass a request on: it names the rule and becomes an answer. An [`Outcome`] is how a
//! session ended: it becomes a log line. `WouldBlock` and `Interrupted` are neither; they never get this far.

use std::borrow::Cow;
use std::fmt;
use std::io;

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file's name, where there is one.
    pub file: Option<String>,
    /// The line, from 1; 0 where the error belongs to no place in the text.
    pub line: usize,
    /// The column in characters, from 1; 0 as above.
    pub column: usize,
    /// The key, from the top: `listener[0].route[1].path`; empty where there is none.
    pub key: String,
    /// What was found and why it will not do.
    pub message: String,
    /// What would do.
    pub help: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.as_deref().unwrap_or("configuration"))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Why a proxy could not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// An address could not be bound or listened on.
    Listen {
        /// The address, as in the configuration.
        address: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The admin listener's token cannot be had.
    Token {
        /// The file, as in the configuration.
        file: String,
        /// Why not.
        error: io::Error,
    },
    /// The event loop's own descriptors could not be had.
    EventLoop(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen { address, error } => write!(f, "cannot listen on {address}: {error}"),
            StartError::Token { file, error } => {
                write!(f, "cannot read the admin listener's token from {file}: {error}")
            }
            StartError::EventLoop(error) => write!(f, "cannot set up the event loop: {error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Listen { error, .. }
            | StartError::Token { error, .. }
            | StartError::EventLoop(error) => Some(error),
        }
    }
}

/// Why a configuration was not exchanged. The one before goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReloadError {
    /// A listener that is new cannot be opened.
    Start(StartError),
    /// So many configurations are still used by sessions that there is no number for another.
    TooManyInUse(usize),
    /// The process stops.
    Stopping,
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::Start(error) => error.fmt(f),
            ReloadError::TooManyInUse(count) => {
                write!(f, "tunnels of {count} earlier configurations are still open")
            }
            ReloadError::Stopping => write!(f, "adit is about to stop"),
        }
    }
}

impl std::error::Error for ReloadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReloadError::Start(error) => Some(error),
            ReloadError::TooManyInUse(_) | ReloadError::Stopping => None,
        }
    }
}

/// Why a session did not get what it asked for: whose fault, and which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request breaks a rule of HTTP or of WebSocket; the text says which.
    BadRequest(&'static str),
    /// A client network that is not let in, or an Origin that is not allowed.
    Forbidden(&'static str),
    /// No route for this host and path.
    NoRoute,
    /// The method is CONNECT.
    ConnectMethod,
    /// The request head, or the body's next part, did not come in time.
    RequestTimeout,
    /// `Sec-WebSocket-Version` is not 13.
    WebSocketVersion,
    /// More clients from one address than are let in.
    TooManyConnections,
    /// The request head has more bytes than the limit.
    HeadTooLarge,
    /// The request head has more fields than the limit.
    TooManyHeaders,
    /// Every server is full or drains: those that are out are tried all the same.
    NoBackend,
    /// The route takes nothing new.
    RouteDrains,
    /// This process has no descriptor left to dial with.
    NoDescriptors,
    /// No server could be reached.
    BackendUnreachable,
    /// What a server sent is no answer to what was asked; the text says why.
    BackendMalformed(&'static str),
    /// No server was connected in time.
    ConnectTimeout,
    /// No response head came in time.
    ResponseTimeout,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    HttpVersion,
    /// The PROXY protocol header is missing or malformed. There is no answer to it: the connection is closed.
    ProxyHeader(&'static str),
}

impl Refusal {
    /// The status code and reason phrase of our answer (RFC 9110, 15).
    pub fn status(&self) -> (u16, &'static str) {
        match self {
            Refusal::BadRequest(_) | Refusal::ProxyHeader(_) => (400, "Bad Request"),
            Refusal::Forbidden(_) => (403, "Forbidden"),
            Refusal::NoRoute => (404, "Not Found"),
            Refusal::ConnectMethod => (405, "Method Not Allowed"),
            Refusal::RequestTimeout => (408, "Request Timeout"),
            Refusal::WebSocketVersion => (426, "Upgrade Required"),
            Refusal::TooManyConnections => (429, "Too Many Requests"),
            Refusal::HeadTooLarge | Refusal::TooManyHeaders => (431, "Request Header Fields Too Large"),
            Refusal::BackendUnreachable | Refusal::BackendMalformed(_) => (502, "Bad Gateway"),
            Refusal::NoBackend | Refusal::RouteDrains | Refusal::NoDescriptors => {
                (503, "Service Unavailable")
            }
            Refusal::ConnectTimeout | Refusal::ResponseTimeout => (504, "Gateway Timeout"),
            Refusal::HttpVersion => (505, "HTTP Version Not Supported"),
        }
    }

    /// The rule that was broken, in a few words. Never text of a peer's.
    pub fn rule(&self) -> &'static str {
        match self {
            Refusal::BadRequest(rule)
            | Refusal::Forbidden(rule)
            | Refusal::BackendMalformed(rule)
            | Refusal::ProxyHeader(rule) => rule,
            Refusal::NoRoute => "no route for this host and path",
            Refusal::ConnectMethod => "CONNECT is not served here",
            Refusal::RequestTimeout => "the request did not arrive in time",
            Refusal::WebSocketVersion => "Sec-WebSocket-Version must be 13",
            Refusal::TooManyConnections => "too many connections from this address",
            Refusal::HeadTooLarge => "the request head is too large",
            Refusal::TooManyHeaders => "the request has too many header fields",
            Refusal::NoBackend => "every server is full or drains",
            Refusal::RouteDrains => "this route drains",
            Refusal::NoDescriptors => "no descriptor is left to reach a server with",
            Refusal::BackendUnreachable => "no server could be reached",
            Refusal::ConnectTimeout => "no server was connected in time",
            Refusal::ResponseTimeout => "the server did not answer in time",
            Refusal::HttpVersion => "only HTTP/1.0 and HTTP/1.1 are spoken here",
        }
    }
}

/// One of the two peers of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that connected to us.
    Client,
    /// The one we dialed.
    Server,
}

/// How a session ended.
#[derive(Debug)]
pub enum Outcome {
    /// Both directions ended with their last byte; the side that ended first.
    Finished(Side),
    /// A socket failed.
    Failed {
        /// Whose.
        side: Side,
        /// What the kernel said.
        error: io::ErrorKind,
    },
    /// The client went away before there was anything to pass on.
    Gone,
    /// This side ended in the middle of a message's body.
    Truncated(Side),
    /// The framing of a message's body is broken; the side that sent it and how.
    BodyMalformed(Side, &'static str),
    /// Silent in both directions for too long.
    Idle,
    /// Silent for too long after one direction had ended.
    HalfClosed,
    /// Bytes waited too long for this side to take them.
    Stalled(Side),
    /// A message stopped coming from this side.
    Silent(Side),
    /// Older than a tunnel may be.
    Lifetime,
    /// Closed because the process stops, or its server, route or listener drains.
    Drained,
    /// Closed because its server or route was removed.
    Removed,
    /// Closed so that its client comes back to a server that has fewer tunnels.
    Rebalanced,
    /// Closed because an operator said so.
    Dismissed,
    /// We would not, and said so.
    Refused(Refusal),
    /// A bug of ours, caught.
    Panicked,
}

/// Who ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The client.
    Client,
    /// The server.
    Server,
    /// We did.
    Adit,
}

impl EndedBy {
    /// The word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            EndedBy::Client => "client",
            EndedBy::Server => "server",
            EndedBy::Adit => "adit",
        }
    }
}

impl From<Side> for EndedBy {
    fn from(side: Side) -> EndedBy {
        match side {
            Side::Client => EndedBy::Client,
            Side::Server => EndedBy::Server,
        }
    }
}

impl Outcome {
    /// The reason in the log: one word where one will do.
    pub fn reason(&self) -> Cow<'static, str> {
        match self {
            Outcome::Finished(_) => "finished".into(),
            Outcome::Failed { error: io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, .. } => {
                "reset".into()
            }
            Outcome::Failed { error, .. } => error.to_string().into(),
            Outcome::Gone => "gone".into(),
            Outcome::Truncated(_) => "truncated".into(),
            Outcome::BodyMalformed(_, rule) => (*rule).into(),
            Outcome::Idle => "idle".into(),
            Outcome::HalfClosed => "half_closed".into(),
            Outcome::Stalled(_) => "stalled".into(),
            Outcome::Silent(_) => "silent".into(),
            Outcome::Lifetime => "lifetime".into(),
            Outcome::Drained => "drain".into(),
            Outcome::Removed => "removed".into(),
            Outcome::Rebalanced => "rebalance".into(),
            Outcome::Dismissed => "closed".into(),
            Outcome::Refused(refusal) => refusal.rule().into(),
            Outcome::Panicked => "panic".into(),
        }
    }

    /// What it is counted under: one word, of which there are few.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Finished(_) => "finished",
            Outcome::Failed { error: io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, .. } => {
                "reset"
            }
            Outcome::Failed { .. } => "failed",
            Outcome::Gone => "gone",
            Outcome::Truncated(_) => "truncated",
            Outcome::BodyMalformed(..) => "malformed",
            Outcome::Idle => "idle",
            Outcome::HalfClosed => "half_closed",
            Outcome::Stalled(_) => "stalled",
            Outcome::Silent(_) => "silent",
            Outcome::Lifetime => "lifetime",
            Outcome::Drained => "drain",
            Outcome::Removed => "removed",
            Outcome::Rebalanced => "rebalance",
            Outcome::Dismissed => "closed",
            Outcome::Refused(_) => "refused",
            Outcome::Panicked => "panic",
        }
    }

    /// The rule that it was refused by.
    pub fn rule(&self) -> Option<&'static str> {
        match self {
            Outcome::Refused(refusal) => Some(refusal.rule()),
            Outcome::Finished(_)
            | Outcome::Failed { .. }
            | Outcome::Gone
            | Outcome::Truncated(_)
            | Outcome::BodyMalformed(..)
            | Outcome::Idle
            | Outcome::HalfClosed
            | Outcome::Stalled(_)
            | Outcome::Silent(_)
            | Outcome::Lifetime
            | Outcome::Drained
            | Outcome::Removed
            | Outcome::Rebalanced
            | Outcome::Dismissed
            | Outcome::Panicked => None,
        }
    }

    /// The side that was waited for in vain, where the end is a timeout about one of them.
    pub fn waited_for(&self) -> Option<Side> {
        match self {
            Outcome::Stalled(side) | Outcome::Silent(side) => Some(*side),
            Outcome::Finished(_)
            | Outcome::Failed { .. }
            | Outcome::Gone
            | Outcome::Truncated(_)
            | Outcome::BodyMalformed(..)
            | Outcome::Idle
            | Outcome::HalfClosed
            | Outcome::Lifetime
            | Outcome::Drained
            | Outcome::Removed
            | Outcome::Rebalanced
            | Outcome::Dismissed
            | Outcome::Refused(_)
            | Outcome::Panicked => None,
        }
    }

    /// Whose doing it was. A timeout is ours, whoever was slow.
    pub fn ended_by(&self) -> EndedBy {
        match self {
            Outcome::Finished(side)
            | Outcome::Failed { side, .. }
            | Outcome::Truncated(side)
            | Outcome::BodyMalformed(side, _) => (*side).into(),
            Outcome::Gone => EndedBy::Client,
            Outcome::Idle
            | Outcome::HalfClosed
            | Outcome::Stalled(_)
            | Outcome::Silent(_)
            | Outcome::Lifetime
            | Outcome::Drained
            | Outcome::Removed
            | Outcome::Rebalanced
            | Outcome::Dismissed
            | Outcome::Refused(_)
            | Outcome::Panicked => EndedBy::Adit,
        }
    }
}
