//! One value at a time: text to what it means, or what is wrong with it.
//!
//! Where the value stands, and what stands around it, is nobody's business here.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::plan::{Address, HashKey, HostRule, PathRule, Piece, Share, Template};
use crate::proto::head::{is_hop_by_hop, is_tchar};
use crate::proto::target::normalize;

/// What was found and why it will not do; what would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// The beginning of a [`Wrong`].
pub(super) fn wrong(message: impl Into<String>) -> Wrong {
    Wrong { message: message.into(), help: None }
}

impl Wrong {
    /// Says what would do.
    pub(super) fn help(mut self, help: impl Into<String>) -> Wrong {
        self.help = Some(help.into());
        self
    }
}

/// How much of a value a message shows: enough to recognize it by.
pub(super) const QUOTED_CHARS_MAX: usize = 80;

/// Text of the file's in a message: in quotes, on one line, not too long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The candidate that is at most a third of its letters away.
pub(super) fn did_you_mean<'a>(found: &str, candidates: &[&'a str]) -> Option<&'a str> {
    // The distance takes time by the product of the lengths; what is much longer is no misspelling.
    let found = found.to_ascii_lowercase();
    let near = candidates.iter().filter(|candidate| found.len() <= 2 * candidate.len());
    near.map(|candidate| (strsim::damerau_levenshtein(&found, &candidate.to_ascii_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance < candidate.len() && distance * 3 <= candidate.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// One of a few words.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Wrong> {
    if let Some((_, chosen)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*chosen);
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let all = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", ");
    let message = wrong(format!("{} is none of the choices", quoted(text)));
    Err(match did_you_mean(text, &words) {
        Some(near) => message.help(format!("did you mean \"{near}\"? The choices are {all}")),
        None => message.help(format!("the choices are {all}")),
    })
}

/// A wait that must end: a peer can cause it.
pub(super) fn wait(text: &str) -> Result<Duration, Wrong> {
    match text {
        "off" => Err(wrong("\"off\" is not for this wait, which any peer can cause: it must end")
            .help("a duration such as \"10s\" or \"5m\"")),
        text => duration(text)?.ok_or_else(|| wrong("a wait of no time at all").help("at least \"1ms\"")),
    }
}

/// A wait that may be "off": `None`.
pub(super) fn wait_or_off(text: &str) -> Result<Option<Duration>, Wrong> {
    match text {
        "off" => Ok(None),
        text => match duration(text)? {
            None => Err(wrong("a duration of no time at all").help("write \"off\" to do without")),
            some => Ok(some),
        },
    }
}

/// The longest duration, in seconds: ten years, more than any process lives, and far from where sums of instants
/// overflow.
const DURATION_SECONDS_MAX: u64 = 10 * 365 * 24 * 60 * 60;

/// `None` for zero.
fn duration(text: &str) -> Result<Option<Duration>, Wrong> {
    let duration = humantime::parse_duration(text).map_err(|_| {
        wrong(format!("{} is no duration", quoted(text)))
            .help("a number and a unit, such as \"250ms\", \"10s\", \"5m\" or \"2h\"")
    })?;
    match duration > Duration::from_secs(DURATION_SECONDS_MAX) {
        true => Err(wrong(format!("{} is too long", quoted(text))).help("at most ten years, \"3650d\"")),
        false => Ok(Some(duration).filter(|duration| !duration.is_zero())),
    }
}

/// A percentage, as a share.
pub(super) fn percent(text: &str) -> Result<Share, Wrong> {
    let number = text
        .strip_suffix('%')
        .map(str::trim_end)
        .filter(|number| number.starts_with(|c: char| c.is_ascii_digit()) && !number.contains(['e', 'E']));
    match number.and_then(|number| number.parse::<f32>().ok()) {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(Share(percent / 100.0)),
        Some(_) => Err(wrong(format!("{} is out of range", quoted(text))).help("\"0%\" to \"100%\"")),
        None => Err(wrong(format!("{} is no percentage", quoted(text))).help("such as \"10%\"")),
    }
}

/// The longest path that fits in a `sockaddr_un` with its terminating zero.
const UNIX_PATH_BYTES_MAX: usize = 107;

fn unix_path(path: &str) -> Result<Address, Wrong> {
    if path.is_empty() {
        return Err(wrong("\"unix:\" without a path").help("such as \"unix:/run/adit.sock\""));
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(wrong(format!("a unix socket's path of {} bytes", path.len()))
            .help(format!("at most {UNIX_PATH_BYTES_MAX}: the kernel takes no longer ones")));
    }
    Ok(Address::Unix(file_path(path)?))
}

/// A path that the kernel can be asked for.
pub(super) fn file_path(path: &str) -> Result<PathBuf, Wrong> {
    match path {
        "" => Err(wrong("an empty path")),
        path if path.contains('\0') => Err(wrong(format!("{} has a zero byte in it", quoted(path)))),
        path => Ok(PathBuf::from(path)),
    }
}

/// The longest name of a socket that is handed over (sd_listen_fds(3), systemd.socket(5)).
const SOCKET_NAME_BYTES_MAX: usize = 255;

/// A name by which a service manager hands a socket over: what `FileDescriptorName=` may say, but for nothing at all.
fn socket_name(name: &str) -> Result<Address, Wrong> {
    let help = "FileDescriptorName= of the socket unit, such as \"fd:web\"";
    if name.is_empty() {
        return Err(wrong("\"fd:\" without a name").help(help));
    }
    if name.len() > SOCKET_NAME_BYTES_MAX {
        return Err(wrong(format!("a socket's name of {} bytes", name.len()))
            .help(format!("at most {SOCKET_NAME_BYTES_MAX}: systemd knows no longer ones")));
    }
    if !name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b':') {
        let message = format!("{} is no name of a socket: it is ASCII without \":\"", quoted(name));
        return Err(wrong(message).help(help));
    }
    Ok(Address::Inherited(name.to_owned()))
}

/// What to listen on: an address, never a name, for which of a name's addresses would it be? Or a socket that is handed
/// over, by what it is called.
pub(super) fn listen_address(text: &str) -> Result<Address, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path);
    }
    if let Some(name) = text.strip_prefix("fd:") {
        return socket_name(name);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Address::Tcp(address));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        let example = SocketAddr::new(ip, 8020);
        return Err(wrong(format!("{} has no port", quoted(text))).help(format!("such as \"{example}\"")));
    }
    let message = format!("{} is no address to listen on", quoted(text));
    let help = match text.rsplit_once(':') {
        Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
            format!("for every address write \"0.0.0.0:{port}\" or \"[::]:{port}\"")
        }
        Some(("localhost", port)) if port.parse::<u16>().is_ok() => format!("write \"127.0.0.1:{port}\""),
        _ => "an IP address and a port, not a name: \"0.0.0.0:8020\", \"[::]:8020\"; or \"unix:/path\""
            .to_owned(),
    };
    Err(wrong(message).help(help))
}

/// What to dial, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// It can be dialed as it is.
    Address(Address),
    /// `name:port`, to be resolved.
    Name,
}

/// A server's address, or name and port.
pub(super) fn target(text: &str) -> Result<Target, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(Target::Address);
    }
    let example =
        "such as \"10.0.0.1:8010\", \"[::1]:8010\", \"app.internal:8010\" or \"unix:/run/app.sock\"";
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(wrong(format!("port 0 in {} cannot be dialed", quoted(text))).help("1 to 65535")),
            _ => Ok(Target::Address(Address::Tcp(address))),
        };
    }
    if text.contains('/') {
        return Err(wrong(format!("{} is a URL or a path, not a server", quoted(text))).help(example));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        let help = format!("an IPv6 address stands in brackets: \"[{text}]:8010\"");
        return Err(wrong(format!("{} has no port", quoted(text))).help(help));
    }
    let Some((name, port)) = text.rsplit_once(':') else {
        return Err(wrong(format!("{} has no port", quoted(text))).help(example));
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(wrong(format!("{} is no port", quoted(port))).help("1 to 65535"));
    }
    match is_dns_name(name) {
        true => Ok(Target::Name),
        false => Err(wrong(format!("{} is neither a name nor an address", quoted(name))).help(example)),
    }
}

/// Something that a resolver may be asked for. What ends in a number is not: the system's resolver would take
/// `127.1` for an address.
fn is_dns_name(name: &str) -> bool {
    let in_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or(name);
    let number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    let labels = |label: &str| matches!(label.len(), 1..=63) && label.bytes().all(in_label);
    name.len() <= 253 && !number && name.split('.').all(labels)
}

/// A route's `host`: exact, or `*.` and the rest.
pub(super) fn host_rule(text: &str) -> Result<HostRule, Wrong> {
    match text.strip_prefix("*.") {
        Some(rest) if rest.starts_with('[') || rest.parse::<IpAddr>().is_ok() => {
            Err(wrong(format!("{}: an address has no subdomains", quoted(text))))
        }
        Some(rest) => Ok(HostRule::Suffix(format!(".{}", host(rest)?))),
        None if text == "*" => Err(wrong("\"*\" is no host").help("leave the key out for any host")),
        None => host(text).map(HostRule::Exact),
    }
}

/// A host without a port, as requests' hosts are compared: lower case, no trailing dot, an IPv6 address in its
/// shortest form (RFC 3986, 3.2.2; percent-encoding is left out, nobody's host needs it).
fn host(text: &str) -> Result<String, Wrong> {
    let bad = |why: &str| wrong(format!("{} is no host: {why}", quoted(text)));
    if let Some(literal) = text.strip_prefix('[') {
        return match literal.split_once(']').map(|(ip, rest)| (ip.parse::<Ipv6Addr>(), rest)) {
            Some((Ok(ip), "")) => Ok(format!("[{ip}]")),
            Some((Ok(ip), _)) => Err(bad("it goes on behind the bracket")
                .help(format!("write \"[{ip}]\": hosts are compared without their port"))),
            Some((Err(_), _)) | None => Err(bad("no IPv6 address in brackets")),
        };
    }
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Err(bad("an IPv6 address stands in brackets").help(format!("write \"[{ip}]\"")));
    }
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if let Some((name, port)) = host.split_once(':') {
        return Err(match port.bytes().all(|byte| byte.is_ascii_digit()) {
            true => bad("it has a port")
                .help(format!("write {}: hosts are compared without their port", quoted(name))),
            false => bad("it has a colon").help("the host alone, no scheme and no port"),
        });
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()+,;=".contains(&byte);
    match host.bytes().find(|byte| !legal(*byte)) {
        Some(b'*') => {
            Err(bad("a star stands only at the beginning, for subdomains").help("\"*.example.com\""))
        }
        Some(128..) => Err(bad("it has letters beyond ASCII").help("write it as requests do, \"xn--...\"")),
        Some(byte) => Err(bad(&format!("it has {} in it", quoted(&char::from(byte).to_string())))),
        None if host.is_empty() => Err(bad("it is empty").help("leave the key out for any host")),
        None if host.split('.').any(str::is_empty) => {
            Err(bad("a part of it is empty").help("\"*.example.com\" is for every subdomain"))
        }
        None => Ok(host),
    }
}

/// A route's `path`: a prefix, or `=` and the exact path. It is compared with normalized paths, so it has to be
/// one, or it would never match.
pub(super) fn path_rule(text: &str) -> Result<PathRule, Wrong> {
    let (exact, path) = match text.strip_prefix('=') {
        Some(path) => (true, path),
        None => (false, text),
    };
    let bad = |why: &str| wrong(format!("{} {why}", quoted(text)));
    if !path.starts_with('/') {
        return Err(
            bad("does not begin with \"/\"").help("\"/prefix/\", or \"=/exact\" for exactly that path")
        );
    }
    if path.contains(['?', '#']) {
        return Err(bad("has a query or a fragment").help("routes look at the path alone"));
    }
    if let Some(other) = path.chars().find(|c| !c.is_ascii_graphic()) {
        let mut bytes = [0; 4];
        let encoded: String =
            other.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")).collect();
        return Err(bad(&format!("has {other:?} in it")).help(format!("percent-encode it as {encoded}")));
    }
    match normalize(path) {
        Ok(normalized) if normalized == path => {
            Ok(if exact { PathRule::Exact(path.to_owned()) } else { PathRule::Prefix(path.to_owned()) })
        }
        Ok(normalized) => {
            let mark = if exact { "=" } else { "" };
            Err(bad("is not in the form in which requests' paths are compared")
                .help(format!("write {}", quoted(&format!("{mark}{normalized}")))))
        }
        Err(rule) => Err(bad("is no path that a request can have").help(rule)),
    }
}

/// A token (RFC 9110, 5.6.2): what names fields and protocols.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// An element of `upgrade`: a protocol that may become a tunnel, in lower case.
pub(super) fn protocol(text: &str) -> Result<String, Wrong> {
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        // What comes behind these is not a stream of the server's own but another way to send requests, which
        // nobody would judge.
        "h2c" | "tls" => Err(wrong(format!(
            "{} is never passed on: behind it come requests that pass the routes by",
            quoted(text)
        ))
        .help("leave it out; the request goes on as a plain one")),
        _ if is_token(&lower) => Ok(lower),
        _ => {
            Err(wrong(format!("{} is no protocol's name", quoted(text)))
                .help("a token such as \"websocket\""))
        }
    }
}

/// An element of `origins`, in lower case (RFC 6454, 6.2).
pub(super) fn origin(text: &str) -> Result<String, Wrong> {
    let bad = |why: &str| wrong(format!("{} is no origin: {why}", quoted(text)));
    let lower = text.to_ascii_lowercase();
    if lower == "null" {
        return Ok(lower);
    }
    if lower == "*" {
        return Err(bad("a star").help("[] is for any origin"));
    }
    let Some((scheme, authority)) = lower.split_once("://") else {
        return Err(bad("no scheme")
            .help(format!("such as {}", quoted(&format!("https://{}", lower.trim_end_matches('/'))))));
    };
    if !scheme.starts_with(|c: char| c.is_ascii_lowercase())
        || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    {
        return Err(bad("a scheme has letters, digits, \"+\", \"-\" and \".\""));
    }
    if scheme == "ws" || scheme == "wss" {
        let help = format!("it is the page's: {}", quoted(&format!("http{}://{authority}", &scheme[2..])));
        return Err(bad("the scheme is the socket's").help(help));
    }
    if let Some((authority, _)) = authority.split_once('/') {
        return Err(
            bad("it has a path").help(format!("write {}", quoted(&format!("{scheme}://{authority}"))))
        );
    }
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        Some(_) | None => (authority, None),
    };
    if let Some(port) = port {
        if port.starts_with(['0', '+']) || port.parse::<u16>().is_err() {
            return Err(bad("no port behind the colon").help("1 to 65535, or none"));
        }
        if matches!((scheme, port), ("http", "80") | ("https", "443")) {
            let help =
                format!("browsers leave the usual port out: {}", quoted(&format!("{scheme}://{name}")));
            return Err(bad("its port is never sent").help(help));
        }
    }
    match host(name) {
        Ok(canonical) if canonical == name => Ok(lower),
        Ok(canonical) => {
            Err(bad("browsers send another form").help(format!("the host is {}", quoted(&canonical))))
        }
        Err(inner) => Err(Wrong { message: bad(&inner.message).message, help: inner.help }),
    }
}

/// A network, or an address alone.
pub(super) fn network(text: &str) -> Result<IpNet, Wrong> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip));
    }
    let network: IpNet = text.parse().map_err(|_| {
        wrong(format!("{} is neither an address nor a network", quoted(text)))
            .help("such as \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\"")
    })?;
    match network.trunc() {
        truncated if truncated == network => Ok(network),
        truncated => Err(wrong(format!("{} has bits set beyond its prefix", quoted(text)))
            .help(format!("the network is \"{truncated}\", the address alone \"{}\"", network.addr()))),
    }
}

/// What a field of the request may be done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    Set,
    Remove,
}

/// Whether a field says where a message ends or what becomes of the connection: such a one is adit's own (RFC 9110,
/// 7.6.1). Credentials for a proxy, though of one hop too, do neither: a server may want them of us.
fn is_own(name: &str) -> bool {
    name == "content-length" || (is_hop_by_hop(name) && name != "proxy-authorization")
}

/// The name of a field in `set_headers` or `remove_headers`.
pub(super) fn field_name(text: &str, edit: Edit) -> Result<(), Wrong> {
    if !is_token(text) {
        return Err(wrong(format!("{} is no field name", quoted(text)))
            .help("letters, digits and \"-\", without the colon"));
    }
    // An edit reaches every spelling that servers take for the same name, so that it is to be judged as all of them:
    // removing `Content_Length` would leave a body that nothing frames.
    let lower = text.to_ascii_lowercase().replace('_', "-");
    let refused = |why: &str| Err(wrong(format!("{} {why}", quoted(text))));
    match (edit, lower.as_str()) {
        (Edit::Set | Edit::Remove, name) if is_own(name) => {
            refused("is adit's own: it frames the message or the connection")
        }
        (Edit::Set, name) if name.starts_with("sec-websocket-") => {
            refused("belongs to the client's handshake")
        }
        // The server would no longer see the handshake that was judged. Extensions and subprotocols are offers,
        // which a client must expect to see declined.
        (Edit::Remove, "sec-websocket-key" | "sec-websocket-version") => {
            refused("belongs to the client's handshake")
        }
        (Edit::Remove, "host") => refused("is demanded of every request; set_headers can replace it"),
        (Edit::Set | Edit::Remove, _) => Ok(()),
    }
}

const VARIABLES: [(&str, Piece); 4] = [
    ("client_ip", Piece::ClientIp),
    ("host", Piece::Host),
    ("scheme", Piece::Scheme),
    ("request_id", Piece::RequestId),
];

/// A field's value with `$variables` in it; `$$` is a dollar.
pub(super) fn template(text: &str) -> Result<Template, Wrong> {
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(wrong(format!("the value has the control character {control:?} in it")));
    }
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        plain.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            plain.push('$');
            rest = after;
            continue;
        }
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        let variable = variable(name)?;
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(variable);
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(Template(pieces))
}

fn variable(name: &str) -> Result<Piece, Wrong> {
    let names = VARIABLES.map(|(name, _)| name);
    match VARIABLES.into_iter().find(|(known, _)| *known == name) {
        Some((_, piece)) => Ok(piece),
        None if name.is_empty() => Err(wrong("a \"$\" without a name").help("\"$$\" is a dollar sign")),
        None => Err(wrong(format!("there is no variable {}", quoted(&format!("${name}")))).help(
            match did_you_mean(name, &names) {
                Some(near) => format!("did you mean \"${near}\"?"),
                None => format!("the variables are ${}; \"$$\" is a dollar sign", names.join(", $")),
            },
        )),
    }
}

/// What `hash_key` looks at.
pub(super) fn hash_key(text: &str) -> Result<HashKey, Wrong> {
    let (kind, name) = match text.split_once(':') {
        Some((kind, name)) => (kind, Some(name)),
        None => (text, None),
    };
    let bad = |why: &str| wrong(format!("{} {why}", quoted(text)));
    match (kind, name) {
        ("client_ip", None) => Ok(HashKey::ClientIp),
        ("path", None) => Ok(HashKey::Path),
        ("header" | "query" | "cookie", None | Some("")) => {
            Err(bad("names nothing").help(format!("\"{kind}:NAME\"")))
        }
        ("header", Some(name)) if is_token(name) => Ok(HashKey::Header(name.to_ascii_lowercase())),
        ("cookie", Some(name)) if is_token(name) => Ok(HashKey::Cookie(name.to_owned())),
        ("header", Some(_)) => Err(bad("does not name a header field")),
        ("cookie", Some(_)) => Err(bad("does not name a cookie")),
        ("query", Some(name)) => Ok(HashKey::Query(name.to_owned())),
        _ => Err(bad("is no hash key")
            .help("\"client_ip\", \"path\", \"header:NAME\", \"query:NAME\" or \"cookie:NAME\"")),
    }
}
