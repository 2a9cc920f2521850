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
mod tests;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Deref;

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

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    workers: Option<Spanned<Workers>>,
    user: Option<Text>,
    group: Option<Text>,
    admin: Fields<Admin>,
    log: Fields<Log>,
    timeouts: Fields<Timeouts>,
    drain: Fields<Drain>,
    limits: Fields<Limits>,
    tcp: Fields<Tcp>,
    listener: Vec<Table<Listener>>,
    upstream: BTreeMap<Text, Table<Upstream>>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Log {
    level: Option<Text>,
    access: Option<Text>,
    format: Option<Text>,
    query: bool,
    every: Option<Wait>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Admin {
    listen: Option<Text>,
    allow_remote: Option<Spanned<bool>>,
    token_file: Option<Text>,
}

/// `[timeouts]` and `[listener.timeouts]`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Timeouts {
    handshake: Option<Wait>,
    connect: Option<Wait>,
    response: Option<Wait>,
    idle: Option<Wait>,
    half_closed: Option<Wait>,
    stalled: Option<Wait>,
    lifetime: Option<Wait>,
    lifetime_jitter: Option<Percent>,
    /// In `[timeouts]` only.
    drain: Option<Wait>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Drain {
    rate: Option<Integer>,
    order: Option<Text>,
    delay: Option<Wait>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Limits {
    max_connections: Option<Integer>,
    max_connections_per_ip: Option<Integer>,
    max_header_bytes: Option<Integer>,
    max_headers: Option<Integer>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tcp {
    keepalive: Option<Wait>,
    user_timeout: Option<Wait>,
    backlog: Option<Integer>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Listener {
    listen: Option<Text>,
    protocol: Option<Text>,
    upstream: Option<Text>,
    proxy_protocol: Option<Text>,
    trusted_proxies: Option<Spanned<Texts>>,
    drain: bool,
    on_removed: Option<Text>,
    timeouts: Fields<Timeouts>,
    route: Vec<Table<Route>>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Route {
    host: Option<Text>,
    path: Option<Text>,
    upstream: Option<Text>,
    upgrade: Option<Texts>,
    origins: Texts,
    allow: Texts,
    deny: Texts,
    handshake: Option<Text>,
    set_headers: BTreeMap<Text, Text>,
    remove_headers: Texts,
    drain: bool,
    on_removed: Option<Text>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Upstream {
    servers: Option<Spanned<Vec<Spanned<Server>>>>,
    balance: Option<Text>,
    hash_key: Option<Text>,
    max_fails: Option<Integer>,
    fail_timeout: Option<Wait>,
    proxy_protocol: Option<Text>,
    on_removed: Option<Text>,
    rebalance: Option<Table<Rebalance>>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rebalance {
    within: Option<Percent>,
    rate: Option<Integer>,
}

/// An element of `servers`.
#[derive(Clone, Debug)]
enum Server {
    /// An address alone.
    Plain(String),
    /// An address and more about it.
    Detailed(Detailed),
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Detailed {
    address: Option<Text>,
    weight: Option<Integer>,
    max_conns: Option<Integer>,
    backup: bool,
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

/// `workers`: a number, or the word "auto", which is checked later.
#[derive(Clone, Debug)]
enum Workers {
    Count(i64),
    Word(String),
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
