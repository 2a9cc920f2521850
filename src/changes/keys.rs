//! What a plan says of a thing, key by key as a file would have it. Two such lists of one kind of thing have the same
//! keys in the same order, so that what differs is found by going through both.
//!
//! Every field of the plan is named here: a new one does not compile before it has a key.

use std::fmt;
use std::time::Duration;

use log::LevelFilter;
use serde::Serialize;

use super::shown;
use crate::plan::{
    AccessTarget, Admin, Backend, Balance, Drain, HashKey, Limits, Listener, Log, LogFormat, Mode, OnRemoved,
    Order, Piece, Plan, Pool, ProxyHeaderIn, ProxyVersion, Rebalance, Route, RunAs, Share, Strictness, Tcp,
    Template, Timeouts, Trusted, WorkerCount,
};

/// A key and what it says.
pub(super) type Key = (&'static str, Value);

/// What a key says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<String>),
    /// The key is left out, and there is no word for that.
    Nothing,
}

impl Value {
    fn word(word: impl Into<String>) -> Value {
        Value::Text(word.into())
    }

    fn list<T: ToString>(values: &[T]) -> Value {
        Value::List(values.iter().map(T::to_string).collect())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(&shown(text)),
            Value::Number(number) => number.fmt(f),
            Value::Flag(flag) => flag.fmt(f),
            Value::List(values) => {
                let values: Vec<_> = values.iter().map(|value| shown(value)).collect();
                write!(f, "[{}]", values.join(", "))
            }
            Value::Nothing => f.write_str("none"),
        }
    }
}

/// A listener; `upstream` is its own where that is told with it.
pub(super) fn listener(listener: &Listener, upstream: Option<String>) -> Vec<Key> {
    let Listener { address: _, mode, proxy_header, trusted_proxies, timeouts, drain, on_removed } = listener;
    let protocol = match mode {
        Mode::Http { routes: _ } => "http",
        Mode::Tcp { pool: _ } => "tcp",
    };
    let proxy_protocol = match proxy_header {
        None => "off",
        Some(ProxyHeaderIn::V1) => "v1",
        Some(ProxyHeaderIn::V2) => "v2",
        Some(ProxyHeaderIn::Any) => "any",
    };
    let Trusted { networks, unix } = trusted_proxies;
    let trusted = networks.iter().map(ToString::to_string).chain(unix.then(|| "unix:".to_owned()));
    let mut keys = vec![
        ("protocol", Value::word(protocol)),
        ("upstream", upstream.map_or(Value::Nothing, Value::Text)),
        ("proxy_protocol", Value::word(proxy_protocol)),
        ("trusted_proxies", Value::List(trusted.collect())),
        ("drain", Value::Flag(*drain)),
        ("on_removed", Value::word(self::on_removed(*on_removed))),
    ];
    keys.extend(waits(timeouts));
    keys
}

fn waits(timeouts: &Timeouts) -> [Key; 8] {
    let Timeouts { handshake, connect, response, idle, half_closed, stalled, lifetime, lifetime_jitter } =
        timeouts;
    [
        ("timeouts.handshake", wait(Some(*handshake))),
        ("timeouts.connect", wait(Some(*connect))),
        ("timeouts.response", wait(Some(*response))),
        ("timeouts.idle", wait(*idle)),
        ("timeouts.half_closed", wait(*half_closed)),
        ("timeouts.stalled", wait(*stalled)),
        ("timeouts.lifetime", wait(*lifetime)),
        ("timeouts.lifetime_jitter", Value::Text(percent(*lifetime_jitter))),
    ]
}

/// A route of a plan.
pub(super) fn route(route: &Route, plan: &Plan) -> Vec<Key> {
    let Route {
        host: _,
        path: _,
        pool,
        upgrade,
        origins,
        allow,
        deny,
        strictness,
        set_headers,
        remove_headers,
        drain,
        on_removed,
    } = route;
    let handshake = match strictness {
        Strictness::Strict => "strict",
        Strictness::Lenient => "lenient",
    };
    let set_headers = set_headers.iter().map(|(name, value)| format!("{name}: {}", template(value)));
    vec![
        ("upstream", Value::word(plan.pools[usize::from(pool.0)].name.as_str())),
        ("upgrade", Value::list(upgrade)),
        ("origins", Value::list(origins)),
        ("allow", Value::list(allow)),
        ("deny", Value::list(deny)),
        ("handshake", Value::word(handshake)),
        ("set_headers", Value::List(set_headers.collect())),
        ("remove_headers", Value::list(remove_headers)),
        ("drain", Value::Flag(*drain)),
        ("on_removed", Value::word(self::on_removed(*on_removed))),
    ]
}

/// An upstream without its servers.
pub(super) fn upstream(pool: &Pool) -> Vec<Key> {
    let Pool { name: _, backends: _, balance, max_fails, fail_timeout, proxy_header, on_removed, rebalance } =
        pool;
    let (balance, hash_key) = match balance {
        Balance::RoundRobin => ("round_robin", String::new()),
        Balance::LeastConn => ("least_conn", String::new()),
        Balance::IpHash => ("ip_hash", String::new()),
        Balance::RandomTwo => ("random_two", String::new()),
        Balance::Hash(HashKey::ClientIp) => ("hash", "client_ip".to_owned()),
        Balance::Hash(HashKey::Path) => ("hash", "path".to_owned()),
        Balance::Hash(HashKey::Header(name)) => ("hash", format!("header:{name}")),
        Balance::Hash(HashKey::Query(name)) => ("hash", format!("query:{name}")),
        Balance::Hash(HashKey::Cookie(name)) => ("hash", format!("cookie:{name}")),
    };
    let proxy_protocol = match proxy_header {
        None => "off",
        Some(ProxyVersion::V1) => "v1",
        Some(ProxyVersion::V2) => "v2",
    };
    let (within, rate) = match rebalance {
        None => (Value::Nothing, Value::Nothing),
        Some(Rebalance { within, rate }) => (Value::Text(percent(*within)), Value::Number((*rate).into())),
    };
    vec![
        ("balance", Value::word(balance)),
        ("hash_key", if hash_key.is_empty() { Value::Nothing } else { Value::Text(hash_key) }),
        ("max_fails", Value::Number((*max_fails).into())),
        ("fail_timeout", wait(Some(*fail_timeout))),
        ("proxy_protocol", Value::word(proxy_protocol)),
        ("on_removed", Value::word(self::on_removed(*on_removed))),
        ("rebalance.within", within),
        ("rebalance.rate", rate),
    ]
}

/// A server.
pub(super) fn server(backend: &Backend) -> Vec<Key> {
    let Backend { name, address: _, weight, max_conns, backup, drain } = backend;
    vec![
        // As written: the same address under another name.
        ("address", Value::word(name.as_str())),
        ("weight", Value::Number((*weight).into())),
        ("max_conns", Value::Number((*max_conns).into())),
        ("backup", Value::Flag(*backup)),
        ("drain", Value::Flag(*drain)),
    ]
}

/// `workers`.
pub(super) fn workers(workers: WorkerCount) -> Vec<Key> {
    let value = match workers {
        WorkerCount::Count(count) => Value::Number(count.into()),
        WorkerCount::Auto => Value::word("auto"),
    };
    vec![("workers", value)]
}

/// `[admin]`.
pub(super) fn admin(admin: Option<&Admin>) -> Vec<Key> {
    let Some(Admin { address, allow_remote, token_file }) = admin else {
        let off = ("admin.listen", Value::word("off"));
        return vec![off, ("admin.allow_remote", Value::Flag(false)), ("admin.token_file", Value::Nothing)];
    };
    let token_file = token_file.as_ref().map(|file| Value::Text(file.display().to_string()));
    vec![
        ("admin.listen", Value::Text(address.to_string())),
        ("admin.allow_remote", Value::Flag(*allow_remote)),
        ("admin.token_file", token_file.unwrap_or(Value::Nothing)),
    ]
}

/// `user` and `group`.
pub(super) fn run_as(RunAs { user, group }: &RunAs) -> Vec<Key> {
    let name = |name: &Option<String>| name.clone().map_or(Value::Nothing, Value::Text);
    vec![("user", name(user)), ("group", name(group))]
}

/// `[log]`.
pub(super) fn log(log: &Log) -> Vec<Key> {
    let Log { level, access, format, query, every } = log;
    let level = match level {
        LevelFilter::Off => "off",
        LevelFilter::Error => "error",
        LevelFilter::Warn => "warn",
        LevelFilter::Info => "info",
        LevelFilter::Debug => "debug",
        LevelFilter::Trace => "trace",
    };
    let access = match access {
        AccessTarget::Off => "off".to_owned(),
        AccessTarget::Stderr => "stderr".to_owned(),
        AccessTarget::Stdout => "stdout".to_owned(),
        AccessTarget::File(path) => path.display().to_string(),
    };
    let format = match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    vec![
        ("log.level", Value::word(level)),
        ("log.access", Value::Text(access)),
        ("log.format", Value::word(format)),
        ("log.query", Value::Flag(*query)),
        ("log.every", wait(*every)),
    ]
}

/// `[drain]`, and `drain` of `[timeouts]`.
pub(super) fn drain(drain: &Drain) -> Vec<Key> {
    let Drain { rate, order, timeout, delay } = drain;
    let order = match order {
        Order::Oldest => "oldest",
        Order::Quietest => "quietest",
    };
    vec![
        ("drain.rate", Value::Number((*rate).into())),
        ("drain.order", Value::word(order)),
        ("drain.delay", wait(Some(*delay).filter(|delay| !delay.is_zero()))),
        ("timeouts.drain", wait(*timeout)),
    ]
}

/// `[limits]`.
pub(super) fn limits(limits: &Limits) -> Vec<Key> {
    let Limits { max_connections, max_connections_per_ip, max_header_bytes, max_headers } = limits;
    vec![
        ("limits.max_connections", Value::Number(*max_connections as u64)),
        ("limits.max_connections_per_ip", Value::Number((*max_connections_per_ip).into())),
        ("limits.max_header_bytes", Value::Number(*max_header_bytes as u64)),
        ("limits.max_headers", Value::Number(*max_headers as u64)),
    ]
}

/// `[tcp]`.
pub(super) fn tcp(tcp: &Tcp) -> Vec<Key> {
    let Tcp { keepalive, user_timeout, backlog } = tcp;
    vec![
        ("tcp.keepalive", wait(*keepalive)),
        ("tcp.user_timeout", wait(*user_timeout)),
        ("tcp.backlog", Value::Number((*backlog).into())),
    ]
}

/// What a file says for it.
pub(super) fn on_removed(on_removed: OnRemoved) -> &'static str {
    match on_removed {
        OnRemoved::Keep => "keep",
        OnRemoved::Drain => "drain",
        OnRemoved::Close => "close",
    }
}

fn wait(wait: Option<Duration>) -> Value {
    match wait {
        Some(wait) => Value::Text(humantime::format_duration(wait).to_string()),
        None => Value::word("off"),
    }
}

/// With as few decimals as name this share and no other.
pub(super) fn percent(Share(share): Share) -> String {
    /// Where a share of 32 bits has no more to say.
    const DECIMALS_MAX: usize = 12;
    let written = |decimals: usize| format!("{:.decimals$}", f64::from(share) * 100.0);
    let is_exact = |text: &String| text.parse::<f32>().is_ok_and(|percent| percent / 100.0 == share);
    let shortest = (0..DECIMALS_MAX).map(written).find(is_exact);
    shortest.unwrap_or_else(|| written(DECIMALS_MAX)) + "%"
}

fn template(Template(pieces): &Template) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.replace('$', "$$"),
        Piece::ClientIp => "$client_ip".to_owned(),
        Piece::Host => "$host".to_owned(),
        Piece::Scheme => "$scheme".to_owned(),
        Piece::RequestId => "$request_id".to_owned(),
    };
    pieces.iter().map(piece).collect()
}
