//! How values go together: from what is written to a plan, with every default.
//!
//! What costs nothing comes first; names are resolved last, so that a misspelt key does not wait for a resolver.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;
use sha1::{Digest, Sha1};
use toml::Spanned;

use super::locate::{Fault, key, line};
use super::pools;
use super::values::{self, Edit, Wrong, did_you_mean, quoted, wrong};
use super::{File, Integer, Percent, Resolve, Table, Text, Texts, Wait};
use crate::plan::{
    AccessTarget, Address, Admin, Balance, Drain, HashKey, HostRule, Limits, Listener, Log, LogFormat, Mode,
    OnRemoved, Order, PathRule, Plan, PoolId, ProxyHeaderIn, Route, RunAs, Share, Source, Strictness, Tcp,
    Template, Timeouts, Trusted, WorkerCount,
};

/// Checks everything.
pub(super) fn plan(file: &File, text: &str, resolve: &mut Resolve<'_>) -> Result<Plan, Fault> {
    let upstreams = Upstreams::of(file)?;
    let log = log(&file.log)?;
    let timeouts = timeouts(&file.timeouts, &TIMEOUTS)?;
    let drain = drain(file)?;
    let workers = workers(&file.workers)?;
    let run_as = RunAs { user: named(&file.user)?, group: named(&file.group)? };
    let limits = limits(&file.limits)?;
    let tcp = tcp(&file.tcp)?;
    let listeners = listeners(file, text, &upstreams, &timeouts)?;
    let admin = admin(&file.admin, &listeners)?;
    let source = Source(Some(Sha1::digest(text.as_bytes()).into()));
    let mut pools = Vec::with_capacity(upstreams.written.len());
    for (index, (name, upstream)) in upstreams.written.iter().enumerate() {
        let pool = pools::pool(name, upstream, text, &listeners, resolve)?;
        if let Some(key) = &upstream.get_ref().hash_key {
            judge_hash_key(key, index, &pool.balance, &listeners)?;
        }
        pools.push(pool);
    }
    Ok(Plan { listeners, pools, limits, tcp, log, drain, workers, admin, run_as, source })
}

/// A tcp listener has no request to take a value from: its clients would all go round robin, which nobody meant.
fn judge_hash_key(key: &Text, pool: usize, balance: &Balance, listeners: &[Listener]) -> Result<(), Fault> {
    let of_a_request = match balance {
        Balance::Hash(HashKey::ClientIp) => false,
        Balance::Hash(HashKey::Path | HashKey::Header(_) | HashKey::Query(_) | HashKey::Cookie(_)) => true,
        Balance::RoundRobin | Balance::LeastConn | Balance::IpHash | Balance::RandomTwo => false,
    };
    let is_of_tcp = |listener: &&Listener| match listener.mode {
        Mode::Tcp { pool: PoolId(id) } => usize::from(id) == pool,
        Mode::Http { .. } => false,
    };
    match listeners.iter().find(is_of_tcp) {
        Some(listener) if of_a_request => {
            let message = format!(
                "{} is a value of a request, and the tcp listener {} has none",
                quoted(key.get_ref()),
                quoted(&listener.address.to_string())
            );
            Err(Fault::at(key, wrong(message).help("\"client_ip\", or an upstream of its own")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Upstreams in the order written, which is also that of [`Plan::pools`].
struct Upstreams<'a> {
    written: Vec<(&'a Text, &'a Table<super::Upstream>)>,
    ids: HashMap<&'a str, PoolId>,
}

impl<'a> Upstreams<'a> {
    fn of(file: &'a File) -> Result<Upstreams<'a>, Fault> {
        let mut written: Vec<_> = file.upstream.iter().collect();
        written.sort_by_key(|(name, _)| name.span().start);
        let mut ids = HashMap::new();
        for (index, (name, _)) in written.iter().enumerate() {
            let id = u16::try_from(index)
                .map_err(|_| Fault::at(name, wrong("too many upstreams").help("at most 65536")))?;
            ids.insert(name.get_ref().as_str(), PoolId(id));
        }
        Ok(Upstreams { written, ids })
    }

    /// What a key `upstream` refers to.
    fn find(&self, name: &Text) -> Result<PoolId, Fault> {
        if let Some(id) = self.ids.get(name.get_ref().as_str()) {
            return Ok(*id);
        }
        let names: Vec<&str> = self.written.iter().map(|(name, _)| name.get_ref().as_str()).collect();
        let message = wrong(format!("there is no upstream {}", quoted(name.get_ref())));
        Err(Fault::at(
            name,
            match did_you_mean(name.get_ref(), &names) {
                Some(near) => message.help(format!("did you mean {}?", quoted(near))),
                None => message.help(format!("define it: [upstream.{}]", key(name.get_ref()))),
            },
        ))
    }
}

fn log(written: &super::Log) -> Result<Log, Fault> {
    let levels = [
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let access = read(&written.access, |text| match text {
        "off" => Ok(AccessTarget::Off),
        "stderr" => Ok(AccessTarget::Stderr),
        "stdout" => Ok(AccessTarget::Stdout),
        path => values::file_path(path)
            .map(AccessTarget::File)
            .map_err(|wrong| wrong.help("\"off\", \"stderr\", \"stdout\" or the path of a file")),
    })?;
    let every = wait_or_off(&written.every, None)?;
    within(&written.every, every, seconds(1)..=Duration::MAX, "at least \"1s\", or \"off\"")?;
    Ok(Log {
        level: choose(&written.level, LevelFilter::Info, &levels)?,
        access: access.unwrap_or(AccessTarget::Stderr),
        format: choose(&written.format, LogFormat::Text, &formats)?,
        query: written.query,
        every,
    })
}

/// The name of a user or a group.
fn named(written: &Option<Text>) -> Result<Option<String>, Fault> {
    let name = read(written, |text| match text {
        name if name.contains(['\0', ':', '/']) => {
            Err(wrong(format!("{} is no name of a user or a group", quoted(name))))
        }
        name => Ok(name.to_owned()),
    })?;
    Ok(name.filter(|name| !name.is_empty()))
}

/// Who reaches it can close every tunnel, so that nobody from elsewhere does by mistake.
fn admin(written: &super::Admin, listeners: &[Listener]) -> Result<Option<Admin>, Fault> {
    let listen = written.listen.as_ref().filter(|listen| listen.get_ref() != "off");
    let token_file = written.token_file.as_ref().filter(|file| !file.get_ref().is_empty());
    let allow_remote = written.allow_remote.as_ref().filter(|allow| *allow.get_ref());
    let Some(listen) = listen else {
        let wrong = wrong("there is no admin listener that this could be about");
        let wrong = wrong.help("such as listen = \"unix:/run/adit/admin.sock\" in [admin]");
        return match (token_file, allow_remote) {
            (Some(file), _) => Err(Fault::at(file, wrong)),
            (None, Some(allow)) => Err(Fault::at(allow, wrong)),
            (None, None) => Ok(None),
        };
    };
    if !cfg!(feature = "admin") {
        let wrong = wrong("this build of adit has no admin listener");
        return Err(Fault::at(listen, wrong.help("one that is built with the feature `admin` has")));
    }
    let address = at(listen, values::listen_address(listen.get_ref()))?;
    let is_taken = |listener: &&Listener| match (&listener.address, &address) {
        (Address::Tcp(other), Address::Tcp(address)) => other == address && address.port() != 0,
        (other, address) => other == address,
    };
    if listeners.iter().any(|listener| is_taken(&listener)) {
        let message = format!("{} is a [[listener]]'s already", quoted(&address.to_string()));
        return Err(Fault::at(listen, wrong(message).help("an address of its own")));
    }
    if !address.is_local() && allow_remote.is_none() {
        let message = format!("{} is reached from other machines", quoted(&address.to_string()));
        let help = "a loopback address, or allow_remote = true with a token_file";
        return Err(Fault::at(listen, wrong(message).help(help)));
    }
    if let (Some(allow), None) = (allow_remote, token_file) {
        let wrong = wrong("whoever reaches it could close every tunnel");
        return Err(Fault::at(
            allow,
            wrong.help("token_file names a file with a token that only operators have"),
        ));
    }
    let token_file = token_file.map(|file| at(file, values::file_path(file.get_ref()))).transpose()?;
    Ok(Some(Admin { address, allow_remote: allow_remote.is_some(), token_file }))
}

pub(super) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The waits of `[timeouts]` where nothing is written.
const TIMEOUTS: Timeouts = Timeouts {
    handshake: seconds(10),
    connect: seconds(5),
    response: seconds(60),
    idle: None,
    half_closed: Some(seconds(60)),
    stalled: Some(seconds(60)),
    lifetime: None,
    lifetime_jitter: Share(0.0),
};

/// The waits that are written, and for the rest the more general ones.
fn timeouts(written: &super::Timeouts, general: &Timeouts) -> Result<Timeouts, Fault> {
    Ok(Timeouts {
        handshake: wait(&written.handshake, general.handshake)?,
        connect: wait(&written.connect, general.connect)?,
        response: wait(&written.response, general.response)?,
        idle: wait_or_off(&written.idle, general.idle)?,
        half_closed: wait_or_off(&written.half_closed, general.half_closed)?,
        stalled: wait_or_off(&written.stalled, general.stalled)?,
        lifetime: wait_or_off(&written.lifetime, general.lifetime)?,
        lifetime_jitter: percent(&written.lifetime_jitter, general.lifetime_jitter)?,
    })
}

fn drain(file: &File) -> Result<Drain, Fault> {
    let orders = [("oldest", Order::Oldest), ("quietest", Order::Quietest)];
    Ok(Drain {
        rate: integer(&file.drain.rate, 0, 0..=PACE_MAX)?,
        order: choose(&file.drain.order, Order::Oldest, &orders)?,
        timeout: wait_or_off(&file.timeouts.drain, Some(seconds(30)))?,
        delay: wait_or_off(&file.drain.delay, None)?.unwrap_or_default(),
    })
}

/// The most tunnels that are closed a second: beyond this a pace is none.
pub(super) const PACE_MAX: i64 = 1_000_000;

/// The most event loops: more than processors that a proxy has use for.
pub(super) const WORKERS_MAX: i64 = 1024;

fn workers(written: &Option<Spanned<super::Workers>>) -> Result<WorkerCount, Fault> {
    let Some(written) = written else { return Ok(WorkerCount::Count(1)) };
    let help = format!("1 to {WORKERS_MAX}, or \"auto\"");
    match written.get_ref() {
        super::Workers::Word(word) if word == "auto" => Ok(WorkerCount::Auto),
        super::Workers::Word(word) => {
            Err(Fault::at(written, wrong(format!("{} is no number of workers", quoted(word))).help(help)))
        }
        super::Workers::Count(count) => match u16::try_from(*count) {
            Ok(workers) if (1..=WORKERS_MAX).contains(count) => Ok(WorkerCount::Count(workers)),
            Ok(_) | Err(_) => Err(Fault::at(written, wrong(format!("{count} is out of range")).help(help))),
        },
    }
}

/// What `on_removed` says.
pub(super) fn on_removed(written: &Option<Text>) -> Result<OnRemoved, Fault> {
    let choices = [("keep", OnRemoved::Keep), ("drain", OnRemoved::Drain), ("close", OnRemoved::Close)];
    choose(written, OnRemoved::Keep, &choices)
}

fn limits(written: &super::Limits) -> Result<Limits, Fault> {
    Ok(Limits {
        max_connections: integer(&written.max_connections, 10_000, 1..=10_000_000)?,
        max_connections_per_ip: integer(&written.max_connections_per_ip, 0, 0..=u32::MAX.into())?,
        max_header_bytes: integer(&written.max_header_bytes, 16_384, 512..=1_048_576)?,
        max_headers: integer(&written.max_headers, 100, 1..=1000)?,
    })
}

/// What Linux takes for `TCP_KEEPIDLE`, in seconds.
const KEEPALIVE_SECONDS_MAX: u64 = 32_767;

/// What Linux takes for `TCP_USER_TIMEOUT`, in milliseconds: a positive `int`.
const USER_TIMEOUT_MILLISECONDS_MAX: u64 = i32::MAX as u64;

fn tcp(written: &super::Tcp) -> Result<Tcp, Fault> {
    let keepalive = wait_or_off(&written.keepalive, Some(seconds(60)))?;
    let keepalive_range = seconds(1)..=seconds(KEEPALIVE_SECONDS_MAX);
    within(&written.keepalive, keepalive, keepalive_range, "\"1s\" to \"32767s\", or \"off\"")?;
    let user_timeout = wait_or_off(&written.user_timeout, Some(seconds(60)))?;
    let user_timeout_range = Duration::from_millis(1)..=Duration::from_millis(USER_TIMEOUT_MILLISECONDS_MAX);
    within(&written.user_timeout, user_timeout, user_timeout_range, "\"1ms\" to \"24d\", or \"off\"")?;
    Ok(Tcp { keepalive, user_timeout, backlog: integer(&written.backlog, 4096, 1..=65_535)? })
}

fn listeners(
    file: &File,
    text: &str,
    upstreams: &Upstreams<'_>,
    general: &Timeouts,
) -> Result<Vec<Listener>, Fault> {
    if file.listener.is_empty() {
        let help = "[[listener]] with listen = \"0.0.0.0:8020\" and upstream = \"NAME\"";
        return Err(Fault::file_lacks("listener", wrong("there is nothing to listen on").help(help)));
    }
    let mut listeners: Vec<Listener> = Vec::with_capacity(file.listener.len());
    let mut places: HashMap<Address, &Text> = HashMap::new();
    for (index, written) in file.listener.iter().enumerate() {
        // Sessions remember theirs in two bytes.
        if u16::try_from(index).is_err() {
            return Err(Fault::at(written, wrong("too many listeners").help("at most 65536")));
        }
        let Some(listen) = &written.get_ref().listen else {
            let wrong = wrong("this [[listener]] does not say where to listen");
            return Err(Fault::lacks(written, "listen", wrong.help("such as listen = \"0.0.0.0:8020\"")));
        };
        let address = at(listen, values::listen_address(listen.get_ref()))?;
        // Port 0 is a new port each time.
        let any_port = matches!(&address, Address::Tcp(address) if address.port() == 0);
        if let Some(first) = places.insert(address.clone(), listen).filter(|_| !any_port) {
            let (address, first) = (address.to_string(), line(text, first));
            let message = format!("{} is already listened on, at line {first}", quoted(&address));
            return Err(Fault::at(listen, wrong(message).help("one [[listener]] for each address")));
        }
        listeners.push(listener(written, address, text, upstreams, general)?);
    }
    Ok(listeners)
}

#[derive(Clone, Copy)]
enum Protocol {
    Http,
    Tcp,
}

fn listener(
    table: &Table<super::Listener>,
    address: Address,
    text: &str,
    upstreams: &Upstreams<'_>,
    general: &Timeouts,
) -> Result<Listener, Fault> {
    let written = table.get_ref();
    let proxy_headers = [
        ("off", None),
        ("v1", Some(ProxyHeaderIn::V1)),
        ("v2", Some(ProxyHeaderIn::V2)),
        ("any", Some(ProxyHeaderIn::Any)),
    ];
    let protocol =
        choose(&written.protocol, Protocol::Http, &[("http", Protocol::Http), ("tcp", Protocol::Tcp)])?;
    if let Some(drain) = &written.timeouts.drain {
        let wrong = wrong("a listener has no drain of its own: the whole process stops");
        return Err(Fault::at(drain, wrong.help("drain stands in [timeouts]")));
    }
    let upstream = written.upstream.as_ref().map(|name| upstreams.find(name)).transpose()?;
    let mode = match protocol {
        Protocol::Http => http(table, text, upstreams, upstream)?,
        Protocol::Tcp => tunnel(table, upstream)?,
    };
    Ok(Listener {
        address,
        mode,
        proxy_header: choose(&written.proxy_protocol, None, &proxy_headers)?,
        trusted_proxies: trusted(written.trusted_proxies.as_ref().map_or(&[], |list| list.get_ref()))?,
        timeouts: timeouts(&written.timeouts, general)?,
        drain: written.drain,
        on_removed: on_removed(&written.on_removed)?,
    })
}

fn tunnel(table: &Table<super::Listener>, upstream: Option<PoolId>) -> Result<Mode, Fault> {
    let written = table.get_ref();
    if let Some(route) = written.route.first() {
        let wrong = wrong("a tcp listener has no routes: there is no host and no path in its bytes");
        return Err(Fault::at(route, wrong.help("protocol = \"http\", or upstream in the listener itself")));
    }
    if let Some(trusted) = &written.trusted_proxies {
        let wrong = wrong("a tcp listener has no X-Forwarded-* fields to trust anybody's");
        return Err(Fault::at(trusted, wrong.help("proxy_protocol names a client's address to it")));
    }
    match upstream {
        Some(pool) => Ok(Mode::Tcp { pool }),
        None => {
            let wrong = wrong("this tcp [[listener]] does not say where its tunnels go");
            Err(Fault::lacks(table, "upstream", wrong.help("upstream = \"NAME\"")))
        }
    }
}

/// The most routes of a listener.
const ROUTES_MAX: usize = 65_000;

/// The routes in the order in which they are tried.
fn http(
    table: &Table<super::Listener>,
    text: &str,
    upstreams: &Upstreams<'_>,
    upstream: Option<PoolId>,
) -> Result<Mode, Fault> {
    let mut routes: Vec<Route> = Vec::new();
    let mut places: HashMap<(HostRule, PathRule), &Table<super::Route>> = HashMap::new();
    for written in &table.get_ref().route {
        let route = route(written, upstreams)?;
        if let Some(first) = places.insert((route.host.clone(), route.path.clone()), written) {
            let message = format!("the route at line {} is for the same host and path", line(text, first));
            let wrong = wrong(message).help("only one of them could ever match");
            return Err(match (&written.get_ref().path, &written.get_ref().host) {
                (Some(rule), _) | (None, Some(rule)) => Fault::at(rule, wrong),
                (None, None) => Fault::at(written, wrong),
            });
        }
        // Tunnels remember theirs in two bytes, and a listener's own upstream is one more.
        if routes.len() == ROUTES_MAX {
            return Err(Fault::at(written, wrong("too many routes").help(format!("at most {ROUTES_MAX}"))));
        }
        routes.push(route);
    }
    routes.sort_by_key(rank);
    match upstream {
        Some(pool) => {
            let on_removed = on_removed(&table.get_ref().on_removed)?;
            routes.push(Route { on_removed, ..Route::catch_all(pool) });
        }
        None if routes.is_empty() => {
            let wrong =
                wrong("this [[listener]] has neither an upstream nor a route: it could only answer 404");
            return Err(Fault::lacks(table, "upstream", wrong.help("upstream = \"NAME\"")));
        }
        None => {}
    }
    Ok(Mode::Http { routes })
}

/// Less is tried earlier: the more specific host, then the more specific path. (Two exact hosts, or two suffixes
/// of one length, never match the same request.)
fn rank(route: &Route) -> (u8, usize, u8, usize) {
    // From the longest down.
    let down = |text: &String| usize::MAX - text.len();
    let (host, host_length) = match &route.host {
        HostRule::Exact(_) => (0, 0),
        HostRule::Suffix(suffix) => (1, down(suffix)),
        HostRule::Any => (2, 0),
    };
    let (path, path_length) = match &route.path {
        PathRule::Exact(_) => (0, 0),
        PathRule::Prefix(prefix) => (1, down(prefix)),
        PathRule::Any => (2, 0),
    };
    (host, host_length, path, path_length)
}

fn route(table: &Table<super::Route>, upstreams: &Upstreams<'_>) -> Result<Route, Fault> {
    let written = table.get_ref();
    let Some(upstream) = &written.upstream else {
        let wrong = wrong("this [[listener.route]] does not say where its requests go");
        return Err(Fault::lacks(table, "upstream", wrong.help("upstream = \"NAME\"")));
    };
    let default = Route::catch_all(upstreams.find(upstream)?);
    let strictness = [("strict", Strictness::Strict), ("lenient", Strictness::Lenient)];
    Ok(Route {
        host: read(&written.host, values::host_rule)?.unwrap_or(default.host),
        path: read(&written.path, values::path_rule)?.unwrap_or(default.path),
        pool: default.pool,
        upgrade: match &written.upgrade {
            Some(protocols) => distinct(protocols, values::protocol)?,
            None => default.upgrade,
        },
        origins: distinct(&written.origins, values::origin)?,
        allow: networks(&written.allow)?,
        deny: networks(&written.deny)?,
        strictness: choose(&written.handshake, default.strictness, &strictness)?,
        set_headers: set_headers(written)?,
        remove_headers: distinct(&written.remove_headers, |name| {
            values::field_name(name, Edit::Remove).map(|()| name.to_ascii_lowercase())
        })?,
        drain: written.drain,
        on_removed: on_removed(&written.on_removed)?,
    })
}

fn set_headers(route: &super::Route) -> Result<Vec<(String, Template)>, Fault> {
    let mut written: Vec<(&Text, &Text)> = route.set_headers.iter().collect();
    written.sort_by_key(|(name, _)| name.span().start);
    let mut fields: Vec<(String, Template)> = Vec::new();
    for (name, value) in written {
        at(name, values::field_name(name.get_ref(), Edit::Set))?;
        if fields.iter().any(|(other, _)| other.eq_ignore_ascii_case(name.get_ref())) {
            let message = format!("{} is set twice, in different case", quoted(name.get_ref()));
            return Err(Fault::at(name, wrong(message).help("fields are the same in any case")));
        }
        fields.push((name.get_ref().clone(), at(value, values::template(value.get_ref()))?));
    }
    Ok(fields)
}

fn trusted(list: &[Text]) -> Result<Trusted, Fault> {
    let mut trusted = Trusted::default();
    for entry in list {
        match entry.get_ref().as_str() {
            "unix:" => trusted.unix = true,
            network => trusted.networks.push(at(entry, values::network(network))?),
        }
    }
    Ok(trusted)
}

fn networks(list: &Texts) -> Result<Vec<IpNet>, Fault> {
    list.iter().map(|entry| at(entry, values::network(entry.get_ref()))).collect()
}

/// Gives what is wrong with a value its place.
pub(super) fn at<T, V>(value: &Spanned<V>, result: Result<T, Wrong>) -> Result<T, Fault> {
    result.map_err(|wrong| Fault::at(value, wrong))
}

/// An optional text, read.
fn read<T>(text: &Option<Text>, read: impl Fn(&str) -> Result<T, Wrong>) -> Result<Option<T>, Fault> {
    text.as_ref().map(|text| at(text, read(text.get_ref()))).transpose()
}

/// An optional text that is one of a few words.
pub(super) fn choose<T: Copy>(text: &Option<Text>, default: T, choices: &[(&str, T)]) -> Result<T, Fault> {
    Ok(read(text, |text| values::choice(text, choices))?.unwrap_or(default))
}

/// A list, each element of it read, and none there twice.
fn distinct(list: &Texts, read: impl Fn(&str) -> Result<String, Wrong>) -> Result<Vec<String>, Fault> {
    let mut values = Vec::with_capacity(list.len());
    for entry in list {
        let value = at(entry, read(entry.get_ref()))?;
        if values.contains(&value) {
            return Err(Fault::at(entry, wrong(format!("{} stands here twice", quoted(&value)))));
        }
        values.push(value);
    }
    Ok(values)
}

pub(super) fn wait(written: &Option<Wait>, default: Duration) -> Result<Duration, Fault> {
    written.as_ref().map_or(Ok(default), |wait| at(wait, values::wait(&wait.get_ref().0)))
}

fn wait_or_off(written: &Option<Wait>, default: Option<Duration>) -> Result<Option<Duration>, Fault> {
    written.as_ref().map_or(Ok(default), |wait| at(wait, values::wait_or_off(&wait.get_ref().0)))
}

pub(super) fn percent(written: &Option<Percent>, default: Share) -> Result<Share, Fault> {
    written.as_ref().map_or(Ok(default), |percent| at(percent, values::percent(&percent.get_ref().0)))
}

/// A duration that the kernel must be able to take.
fn within(
    written: &Option<Wait>,
    duration: Option<Duration>,
    range: RangeInclusive<Duration>,
    help: &str,
) -> Result<(), Fault> {
    match (written, duration) {
        (Some(wait), Some(duration)) if !range.contains(&duration) => {
            Err(Fault::at(wait, wrong(format!("{} is out of range", quoted(&wait.get_ref().0))).help(help)))
        }
        (Some(_) | None, Some(_) | None) => Ok(()),
    }
}

/// An optional integer within a range, which must fit in `T`.
pub(super) fn integer<T: TryFrom<i64>>(
    written: &Option<Integer>,
    default: T,
    range: RangeInclusive<i64>,
) -> Result<T, Fault> {
    let Some(written) = written else {
        return Ok(default);
    };
    let number = *written.get_ref();
    let fitting = T::try_from(number).ok().filter(|_| range.contains(&number));
    fitting.ok_or_else(|| {
        let help = format!("{} to {}", range.start(), range.end());
        Fault::at(written, wrong(format!("{number} is out of range")).help(help))
    })
}
