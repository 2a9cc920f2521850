//! The configuration file: text to [`Config`] (as written) to [`Plan`] (checked, and impossible to be wrong).
//!
//! [`Config::from_toml`] refuses what is no TOML, what is no key of ours and what has the wrong type;
//! [`Config::check`] refuses values that mean nothing, references to nothing, and contradictions. Either error
//! names line, column, key, what was found and what would do, and is the first one met. Nothing here reads
//! files or opens sockets; server names are resolved through the system's resolver, once, in `check`.
//!
//! This file is the shape of what may be written. `values` reads one value, `check` and `pools` see how values
//! go together and know the defaults, `locate` finds an error's place in the text.

mod check;
mod locate;
mod pools;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Deref;

#[cfg(test)]
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use toml::Spanned;
use toml::de::DeTable;

use crate::error::ConfigError;
use crate::plan::Plan;

/// What turns `"host:port"` into addresses: the system's resolver, or a test's.
pub type Resolve<'a> = dyn FnMut(&str) -> io::Result<Vec<SocketAddr>> + 'a;

/// A configuration as written: its keys are known and its types right, its meaning has yet to be checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// What it was read from: errors point into it.
    text: String,
    written: Fields<File>,
}

impl Config {
    /// A JSON Schema (draft 7) of configuration files, for editors. It knows their keys and the forms of values; what
    /// [`Config::check`] accepts is right by it, but not all that is right by it makes sense.
    #[cfg(feature = "schema")]
    pub fn schema() -> &'static str {
        include_str!("../../docs/config.schema.json")
    }

    /// Reads the text of a configuration file.
    ///
    /// # Errors
    ///
    /// Broken TOML, unknown keys, wrong types. [`ConfigError::file`] is left for the caller to set, who knows it.
    pub fn from_toml(text: &str) -> Result<Config, ConfigError> {
        let tree = DeTable::parse(text).map_err(|error| locate::broken_syntax(&error, text))?;
        let written = Fields::deserialize(toml::Deserializer::from(tree))
            .map_err(|error| locate::wrong_shape(&error, text))?;
        Ok(Config { text: text.to_owned(), written })
    }

    /// Checks what is written, and resolves the servers' names, which may take as long as the system's resolver
    /// takes.
    ///
    /// # Errors
    ///
    /// Values that mean nothing, names that do not resolve or are not defined, contradictions.
    pub fn check(&self) -> Result<Plan, ConfigError> {
        self.check_with(&mut |name| Ok(name.to_socket_addrs()?.collect()))
    }

    /// As [`Config::check`], with a resolver of the caller's own. It is asked for `"host:port"`, never for what
    /// is an address already.
    ///
    /// # Errors
    ///
    /// As [`Config::check`].
    pub fn check_with(&self, resolve: &mut Resolve<'_>) -> Result<Plan, ConfigError> {
        check::plan(&self.written, &self.text, resolve).map_err(|fault| fault.place(&self.text))
    }

    /// What `--check` prints: `N listeners, N routes, N upstreams`, routes being those that are written, without
    /// the catch-all that a listener's own `upstream` stands for.
    pub fn summary(&self) -> String {
        let listeners = &self.written.listener;
        let routes: usize = listeners.iter().map(|listener| listener.get_ref().route.len()).sum();
        let upstreams = self.written.upstream.len();
        format!("{} listeners, {routes} routes, {upstreams} upstreams", listeners.len())
    }
}

type Text = Spanned<String>;
type Integer = Spanned<i64>;
type Texts = Vec<Text>;
type Table<T> = Spanned<Fields<T>>;

/// The keys of a table. A derived struct alone would also accept an array, key by key in the order of the
/// declaration.
#[derive(Clone, Debug, Default)]
struct Fields<T>(T);

impl<T> Deref for Fields<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fields<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields<T>, D::Error> {
        struct OnlyTables<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyTables<T> {
            type Value = Fields<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Fields<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Fields)
            }
        }

        deserializer.deserialize_map(OnlyTables(PhantomData))
    }
}

// The comment on a key or a table is the description that editors show and that the README's tables have, and the
// attributes under `test` say of values what `check` and `values` judge: docs/config.schema.json and the README's
// tables are made of both. `ADIT_RENEW=1 cargo test --lib config` writes them anew.

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(title = "adit's configuration file", extend("required" = ["listener"])))]
#[serde(default, deny_unknown_fields)]
struct File {
    /// event loops, a thread each, or `"auto"`: one for each processor. See [Workers](#workers); a reload does not
    /// change it
    #[cfg_attr(test, schemars(with = "Workers", extend("default" = 1)))]
    workers: Option<Spanned<Workers>>,
    /// who the process is to be once everything is listened on, where it was started as root; `""`: who it is. A reload
    /// does not change it
    #[cfg_attr(test, schemars(with = "schema::Account", extend("default" = "")))]
    user: Option<Text>,
    /// its group; `""`: the user's own
    #[cfg_attr(test, schemars(with = "schema::Account", extend("default" = "")))]
    group: Option<Text>,
    admin: Fields<Admin>,
    log: Fields<Log>,
    timeouts: Fields<Timeouts>,
    drain: Fields<Drain>,
    limits: Fields<Limits>,
    tcp: Fields<Tcp>,
    /// where to listen, one `[[listener]]` for each address
    #[cfg_attr(test, schemars(with = "Vec<Listener>", length(min = 1)))]
    listener: Vec<Table<Listener>>,
    /// where to proxy to: an `[upstream.NAME]` for each name that listeners and routes have
    #[cfg_attr(test, schemars(with = "BTreeMap<String, Upstream>"))]
    upstream: BTreeMap<Text, Table<Upstream>>,
}

/// what is told, and where
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Log {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`: messages on stderr. `RUST_LOG` wins
    #[cfg_attr(test, schemars(with = "String"))]
    #[cfg_attr(test, schemars(extend("enum" = ["off", "error", "warn", "info", "debug", "trace"], "default" = "info")))]
    level: Option<Text>,
    /// session lines: `off`, `stderr`, `stdout` or a file's path
    #[cfg_attr(test, schemars(with = "schema::AccessTarget", extend("default" = "stderr")))]
    access: Option<Text>,
    /// `"text"`: key=value pairs, or `"json"`: an object a line
    #[cfg_attr(test, schemars(with = "String", extend("enum" = ["text", "json"], "default" = "text")))]
    format: Option<Text>,
    /// query strings in session lines: WebSocket URLs carry tokens there
    query: bool,
    /// how often a tunnel writes a session line while it is open: at least `"1s"`
    #[cfg_attr(test, schemars(with = "schema::WaitOrOff", extend("default" = "off")))]
    every: Option<Wait>,
}

/// where operators may look and steer: see [Seeing and steering](#seeing-and-steering)
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(transform = schema::admin))]
#[serde(default, deny_unknown_fields)]
struct Admin {
    /// `"unix:/run/adit/admin.sock"` (for its owner alone, mode 0600), a loopback address and a port, or `"fd:admin"`:
    /// a socket that was handed over by this name (see [A service](#a-service))
    #[cfg_attr(test, schemars(with = "schema::ListenOrOff", extend("default" = "off")))]
    listen: Option<Text>,
    /// true: `listen` may be an address that other machines reach. It needs a `token_file`
    #[cfg_attr(test, schemars(with = "bool", extend("default" = false)))]
    allow_remote: Option<Spanned<bool>>,
    /// a file with a token that every request must have (`Authorization: Bearer ...`), but for the page itself,
    /// `/healthz` and `/readyz`; it is read at start and at each reload. `""`: none is asked for
    #[cfg_attr(test, schemars(with = "String", extend("default" = "")))]
    token_file: Option<Text>,
}

/// how long to wait
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Timeouts {
    /// from accept to the complete request head; more bytes never extend it
    #[cfg_attr(test, schemars(with = "schema::Wait", extend("default" = "10s")))]
    handshake: Option<Wait>,
    /// to be connected to one server
    #[cfg_attr(test, schemars(with = "schema::Wait", extend("default" = "5s")))]
    connect: Option<Wait>,
    /// from the request written to the response head; also the longest silence in a plain exchange
    #[cfg_attr(test, schemars(with = "schema::Wait", extend("default" = "60s")))]
    response: Option<Wait>,
    /// a tunnel silent in both directions
    #[cfg_attr(test, schemars(with = "schema::WaitOrOff", extend("default" = "off")))]
    idle: Option<Wait>,
    /// silence after one direction has ended
    #[cfg_attr(test, schemars(with = "schema::WaitOrOff", extend("default" = "60s")))]
    half_closed: Option<Wait>,
    /// bytes wait for a peer that takes none
    #[cfg_attr(test, schemars(with = "schema::WaitOrOff", extend("default" = "60s")))]
    stalled: Option<Wait>,
    /// a tunnel's age
    #[cfg_attr(test, schemars(with = "schema::WaitOrOff", extend("default" = "off")))]
    lifetime: Option<Wait>,
    /// how much of its lifetime a tunnel may lack, drawn for each: tunnels opened together do not end together
    #[cfg_attr(test, schemars(with = "schema::Percentage", extend("default" = "0%")))]
    lifetime_jitter: Option<Percent>,
    /// how long tunnels may go on that have to go, at stop or because something drains (not in `[listener.timeouts]`)
    #[cfg_attr(test, schemars(with = "schema::WaitOrOff", extend("default" = "30s")))]
    drain: Option<Wait>,
}

/// how tunnels are closed that have to go: see [Change](#change)
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Drain {
    /// so many a second, by all workers together, each at a random moment of its slot. What is left when the `drain` of
    /// `[timeouts]` is over is closed then. 0: none before, then all, and lifetimes end at their time
    #[cfg_attr(test, schemars(with = "i64", range(min = 0, max = check::PACE_MAX), extend("default" = 0)))]
    rate: Option<Integer>,
    /// which go first: `"oldest"`, or `"quietest"`, those that have been silent for longest
    #[cfg_attr(test, schemars(with = "String"))]
    #[cfg_attr(test, schemars(extend("enum" = ["oldest", "quietest"], "default" = "oldest")))]
    order: Option<Text>,
    /// how long clients are still taken in after a stop was asked for, while `/readyz` already answers 503: as long
    /// as a load balancer in front needs to notice
    #[cfg_attr(test, schemars(with = "schema::WaitOrOff", extend("default" = "off")))]
    delay: Option<Wait>,
}

/// how much there may be at once
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Limits {
    /// clients at once; further ones wait in the listen backlog. Each takes two descriptors, and bulk some more (see
    /// [Operation](#operation))
    #[cfg_attr(test, schemars(with = "i64", range(min = 1, max = 10_000_000), extend("default" = 10_000)))]
    max_connections: Option<Integer>,
    /// clients at once from one address; 0: no limit; over it 429 (tcp: close)
    #[cfg_attr(test, schemars(with = "i64", range(min = 0, max = u32::MAX), extend("default" = 0)))]
    max_connections_per_ip: Option<Integer>,
    /// bytes of a request or response head, and of what is held behind it ahead of a 101; further bytes wait in the
    /// kernel
    #[cfg_attr(test, schemars(with = "i64", range(min = 512, max = 1_048_576), extend("default" = 16_384)))]
    max_header_bytes: Option<Integer>,
    /// fields of a head
    #[cfg_attr(test, schemars(with = "i64", range(min = 1, max = 1000), extend("default" = 100)))]
    max_headers: Option<Integer>,
}

/// options of sockets
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Tcp {
    /// on both legs: idle time before the first keepalive probe; then one every sixth of it. This and `user_timeout`
    /// are set on a server's connection when its tunnel is ten seconds old; a plain response has `response` instead
    #[cfg_attr(test, schemars(with = "schema::WaitOrOff", extend("default" = "60s")))]
    keepalive: Option<Wait>,
    /// `TCP_USER_TIMEOUT` on both legs: how long bytes, or probes, may go unanswered
    #[cfg_attr(test, schemars(with = "schema::WaitOrOff", extend("default" = "60s")))]
    user_timeout: Option<Wait>,
    /// clients that wait to be accepted; the kernel caps it at `net.core.somaxconn`
    #[cfg_attr(test, schemars(with = "i64", range(min = 1, max = 65_535), extend("default" = 4096)))]
    backlog: Option<Integer>,
}

/// a place to listen on
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(extend("required" = ["listen"]), transform = schema::listener))]
#[serde(default, deny_unknown_fields)]
struct Listener {
    /// `"0.0.0.0:8020"`, `"[::]:8020"` (IPv6 only, as in nginx), `"unix:/run/adit.sock"` (its permissions follow the
    /// umask), or `"fd:web"`: a socket that was handed over by this name (see [A service](#a-service))
    #[cfg_attr(test, schemars(with = "schema::Listen"))]
    listen: Option<Text>,
    /// `"http"`: a handshake, then a tunnel; `"tcp"`: a tunnel from the first byte
    #[cfg_attr(test, schemars(with = "String", extend("enum" = ["http", "tcp"], "default" = "http")))]
    protocol: Option<Text>,
    /// where to go where no route matches; an http listener may leave it out (404)
    #[cfg_attr(test, schemars(with = "String"))]
    upstream: Option<Text>,
    /// the PROXY protocol header, demanded from every client: `"v1"`, `"v2"` or `"any"`
    #[cfg_attr(test, schemars(with = "String", extend("enum" = ["off", "v1", "v2", "any"], "default" = "off")))]
    proxy_protocol: Option<Text>,
    /// networks (and `"unix:"`) whose `X-Forwarded-*` and `X-Request-ID` are believed. The client is then the rightmost
    /// address in `X-Forwarded-For` that is not trusted itself
    #[cfg_attr(test, schemars(with = "Vec<schema::NetworkOrUnix>", extend("default" = [])))]
    trusted_proxies: Option<Spanned<Texts>>,
    /// true: it is not listened on, and its tunnels are drained
    drain: bool,
    /// what becomes of the tunnels of its own `upstream` when the listener is no longer in the file: `keep`, `drain`,
    /// `close`
    #[cfg_attr(test, schemars(with = "schema::OnRemoved", extend("default" = "keep")))]
    on_removed: Option<Text>,
    /// as in `[timeouts]`, for this listener alone; what is left out is as it is there
    #[cfg_attr(test, schemars(transform = schema::timeouts_of_a_listener))]
    timeouts: Fields<Timeouts>,
    /// rules for some of its requests, a `[[listener.route]]` each
    #[cfg_attr(test, schemars(with = "Vec<Route>"))]
    route: Vec<Table<Route>>,
}

/// a rule for some of an http listener's requests: the most specific host wins, then the longest path, in whatever
/// order they stand
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(extend("required" = ["upstream"])))]
#[serde(default, deny_unknown_fields)]
struct Route {
    /// exact, or `"*.example.com"`; left out: any
    #[cfg_attr(test, schemars(with = "schema::Host"))]
    host: Option<Text>,
    /// a prefix at a segment boundary (`"/chat"`: `/chat`, `/chat/x`), or `"=/exact"`; left out: any. It is compared
    /// with the path as a server sees it: unreserved characters decoded, the rest escaped in upper case, dot segments
    /// removed. `//` and `%2F` are left as they are: where a server takes them for `/`, a `deny` on a path does not
    /// hold; put it on the route that catches the rest, and let in by path
    #[cfg_attr(test, schemars(with = "schema::Path"))]
    path: Option<Text>,
    /// where its requests go
    #[cfg_attr(test, schemars(with = "String"))]
    upstream: Option<Text>,
    /// protocols that may become tunnels, `h2c` and `tls` never among them; `[]` for none
    #[cfg_attr(test, schemars(with = "Vec<schema::Protocol>", extend("default" = ["websocket"])))]
    upgrade: Option<Texts>,
    /// allowed `Origin` values; where there are any, a tunnel without an `Origin` is refused too (a plain request is
    /// not)
    #[cfg_attr(test, schemars(with = "Vec<schema::Origin>"))]
    origins: Texts,
    /// client networks that are let in; `[]` for all
    #[cfg_attr(test, schemars(with = "Vec<schema::Network>"))]
    allow: Texts,
    /// client networks that are kept out; it is looked at before `allow`
    #[cfg_attr(test, schemars(with = "Vec<schema::Network>"))]
    deny: Texts,
    /// `"lenient"`: do not judge `Sec-WebSocket-*`, only the 101
    #[cfg_attr(test, schemars(with = "String", extend("enum" = ["strict", "lenient"], "default" = "strict")))]
    handshake: Option<Text>,
    /// fields set on the request to the server; `$client_ip`, `$host`, `$scheme`, `$request_id`, `$$`; what came under
    /// the name is dropped
    #[cfg_attr(test, schemars(with = "BTreeMap<schema::FieldName, String>"))]
    set_headers: BTreeMap<Text, Text>,
    /// fields taken off it. Here and in `set_headers` a name stands for its spellings with `_` for `-` too; those that
    /// frame the message or belong to the handshake cannot be named
    #[cfg_attr(test, schemars(with = "Vec<schema::FieldName>"))]
    remove_headers: Texts,
    /// true: what is new is answered 503, and its tunnels are drained
    drain: bool,
    /// what becomes of its tunnels when it is no longer in the file: `keep`, `drain`, `close`
    #[cfg_attr(test, schemars(with = "schema::OnRemoved", extend("default" = "keep")))]
    on_removed: Option<Text>,
}

/// servers, and how to choose among them
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(extend("required" = ["servers"]), transform = schema::upstream))]
#[serde(default, deny_unknown_fields)]
struct Upstream {
    /// `"host:port"`, `"unix:/path"`, or a table that says more about one. Names are resolved at start; one with
    /// several addresses stands for as many servers
    #[cfg_attr(test, schemars(with = "Vec<Server>", length(min = 1), transform = schema::servers))]
    servers: Option<Spanned<Vec<Spanned<Server>>>>,
    /// `"round_robin"` by weight, `"least_conn"`, `"ip_hash"` (the first three octets of an IPv4 address, as nginx),
    /// `"random_two"`, `"hash"`
    #[cfg_attr(test, schemars(with = "String", extend("default" = "round_robin")))]
    #[cfg_attr(test, schemars(extend("enum" = ["round_robin", "least_conn", "ip_hash", "random_two", "hash"])))]
    balance: Option<Text>,
    /// for `"hash"`, which is consistent: `client_ip`, `path`, `header:NAME`, `query:NAME`, `cookie:NAME`; without a
    /// value: round robin. On a tcp listener only `client_ip`
    #[cfg_attr(test, schemars(with = "schema::HashKey", extend("default" = "")))]
    hash_key: Option<Text>,
    /// this many failed tries within `fail_timeout` take a server out for as long; then one session probes it. 0:
    /// never. When all are out they are tried all the same
    #[cfg_attr(test, schemars(with = "i64", range(min = 0, max = u32::MAX), extend("default" = 1)))]
    max_fails: Option<Integer>,
    /// how long failed tries count, and how long a server is out
    #[cfg_attr(test, schemars(with = "schema::Wait", extend("default" = "10s")))]
    fail_timeout: Option<Wait>,
    /// the PROXY protocol header, written to the server ahead of everything else: `"v1"` or `"v2"`
    #[cfg_attr(test, schemars(with = "String", extend("enum" = ["off", "v1", "v2"], "default" = "off")))]
    proxy_protocol: Option<Text>,
    /// what becomes of tunnels whose server, or the upstream, is no longer in the file: `keep`, `drain`, `close`
    #[cfg_attr(test, schemars(with = "schema::OnRemoved", extend("default" = "keep")))]
    on_removed: Option<Text>,
    #[cfg_attr(test, schemars(with = "Rebalance"))]
    rebalance: Option<Table<Rebalance>>,
}

/// after servers were added or came back, surplus tunnels of the others are closed. Left out: none are; not with a
/// hash. `{}`: by these defaults
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Rebalance {
    /// until each server is within so much of its share
    #[cfg_attr(test, schemars(with = "schema::Percentage", extend("default" = "10%")))]
    within: Option<Percent>,
    /// so many a second
    #[cfg_attr(test, schemars(with = "i64", range(min = 1, max = check::PACE_MAX), extend("default" = 50)))]
    rate: Option<Integer>,
}

/// a server
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(JsonSchema), schemars(untagged))]
enum Server {
    /// its address alone
    Plain(#[cfg_attr(test, schemars(with = "schema::Target"))] String),
    Detailed(Detailed),
}

/// a server with more about it than its address
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[cfg_attr(test, derive(JsonSchema), schemars(extend("required" = ["address"])))]
#[serde(default, deny_unknown_fields)]
struct Detailed {
    /// `"host:port"` or `"unix:/path"`
    #[cfg_attr(test, schemars(with = "schema::Target"))]
    address: Option<Text>,
    /// its share: a server of weight 2 gets twice as much
    #[cfg_attr(test, schemars(with = "i64", range(min = 1, max = 65_535), extend("default" = 1)))]
    weight: Option<Integer>,
    /// its sessions at once; 0: no limit
    #[cfg_attr(test, schemars(with = "i64", range(min = 0, max = u32::MAX), extend("default" = 0)))]
    max_conns: Option<Integer>,
    /// true: it is used only when no other server is in
    backup: bool,
    /// true: it gets nothing new, and its tunnels are drained
    drain: bool,
}

// By hand, for the message: serde's `untagged` would say that "no variant matched", and not where.
impl<'de> Deserialize<'de> for Server {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Server, D::Error> {
        struct TextOrTable;

        impl<'de> Visitor<'de> for TextOrTable {
            type Value = Server;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a table such as { address = \"10.0.0.1:80\", weight = 2 }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Server, E> {
                Ok(Server::Plain(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Server, A::Error> {
                Detailed::deserialize(MapAccessDeserializer::new(map)).map(Server::Detailed)
            }
        }

        deserializer.deserialize_any(TextOrTable)
    }
}

type Wait = Spanned<WaitText>;
type Percent = Spanned<PercentText>;

/// Text in quotes of which the usual mistake is a bare number, and "expected a string" would not say what to write into
/// it.
struct Quoted(&'static str);

impl Visitor<'_> for Quoted {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

/// A duration as written.
#[derive(Clone, Debug)]
struct WaitText(String);

impl<'de> Deserialize<'de> for WaitText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WaitText, D::Error> {
        deserializer.deserialize_str(Quoted("a duration in quotes such as \"10s\"")).map(WaitText)
    }
}

/// A share as written.
#[derive(Clone, Debug)]
struct PercentText(String);

impl<'de> Deserialize<'de> for PercentText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PercentText, D::Error> {
        deserializer.deserialize_str(Quoted("a percentage in quotes such as \"10%\"")).map(PercentText)
    }
}

/// a number, or the word "auto"
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(JsonSchema), schemars(untagged))]
enum Workers {
    Count(#[cfg_attr(test, schemars(range(min = 1, max = check::WORKERS_MAX)))] i64),
    // Any word: `check` judges it.
    Word(#[cfg_attr(test, schemars(with = "schema::Auto"))] String),
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Workers, D::Error> {
        struct NumberOrWord;

        impl Visitor<'_> for NumberOrWord {
            type Value = Workers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or \"auto\"")
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Workers, E> {
                Ok(Workers::Count(count))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Workers, E> {
                Ok(Workers::Word(word.to_owned()))
            }
        }

        deserializer.deserialize_any(NumberOrWord)
    }
}
