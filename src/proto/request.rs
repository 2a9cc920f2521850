//! The rules of a request: what it must say, whether it asks for an upgrade, and the request that is written to the
//! server in its place.
//!
//! Nothing of the client's head is copied as it stands. The rebuilt request is written from the parsed fields: without
//! those of one hop, without what a client could use to speak for somebody else, with ours in their place.

use std::borrow::Cow;
use std::net::IpAddr;

use super::head::{self, Connection, Fields, Framing, RequestHead, Version, put_field};
use super::target::{self, Host};
use super::upgrade::{self, Accept};
use crate::error::Refusal;
use crate::plan::{Piece, Route, Strictness, Template};

/// A request head that keeps the rules of HTTP (RFC 9110 and 9112), as far as a proxy has to insist on them.
#[derive(Debug)]
pub struct Request<'b> {
    /// The parts as they came.
    pub head: RequestHead<'b>,
    /// What the target means.
    pub target: target::Parsed<'b>,
    /// The authority as it came: of an absolute target, otherwise of `Host`. HTTP/1.0 may leave it out.
    pub authority: Option<&'b [u8]>,
    /// The same, as routes compare it.
    pub host: Option<Host<'b>>,
    /// How long its body is; `Unsaid`: none.
    pub framing: Framing,
    /// What it says about this hop.
    pub connection: Connection<'b>,
}

/// What is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One response.
    Plain,
    /// A tunnel.
    Upgrade {
        /// The protocol, in lower case.
        protocol: Cow<'static, str>,
        /// What the server must answer; `None` where that is not judged.
        accept: Option<Accept>,
    },
}

/// What the server is told about where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Introduction<'a> {
    /// The address of whoever connected to us; `None` on a unix socket.
    pub peer: Option<IpAddr>,
    /// Whether that is a trusted proxy, whose own introduction is kept and extended.
    pub trusted: bool,
    /// The client's address, as far as it can be believed.
    pub client: Option<IpAddr>,
    /// The request's id.
    pub request_id: &'a [u8],
    /// `Host` for a request that has none (HTTP/1.0).
    pub host_fallback: &'a str,
}

/// Checks a request's head against the rules that do not depend on a route.
pub fn read<'b>(head: RequestHead<'b>) -> Result<Request<'b>, Refusal> {
    if head.method == "CONNECT" {
        return Err(Refusal::ConnectMethod);
    }
    let target = target::parse(head.method, head.target).map_err(Refusal::BadRequest)?;
    let host = match (head.fields.once("Host"), head.version) {
        (Ok(Some(host)), _) => Some(host),
        (Ok(None), Version::Http10) => None,
        (Ok(None), Version::Http11) => return Err(Refusal::BadRequest("Host is missing")),
        (Err(_), _) => return Err(Refusal::BadRequest("Host is repeated")),
    };
    // Host is judged also where an absolute target overrides it: whoever reads it later may not be as careful.
    let host_as_matched = host.map(target::authority).transpose().map_err(Refusal::BadRequest)?;
    let (authority, host) = match target.authority.clone() {
        Some((authority, host)) => (Some(authority.as_bytes()), Some(host)),
        None => (host, host_as_matched),
    };
    let framing = head::framing(head.version, &head.fields).map_err(Refusal::BadRequest)?;
    let connection = Connection::read(&head.fields).map_err(Refusal::BadRequest)?;
    Ok(Request { head, target, authority, host, framing, connection })
}

impl Request<'_> {
    /// Whether a server can be asked again after one has failed: the method promises that twice is as good as once
    /// (RFC 9110, 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.head.method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE")
    }

    /// Whether the client waits for `100 Continue` before it sends the body (RFC 9110, 10.1.1).
    pub fn expects_continue(&self) -> bool {
        let waits =
            |value| head::members(value).any(|expectation| expectation.eq_ignore_ascii_case(b"100-continue"));
        self.head.version == Version::Http11 && self.head.fields.all("Expect").any(waits)
    }

    /// The request id that a trusted proxy gave it, if it is one that can be passed on and logged as it is.
    pub fn request_id(&self) -> Option<&str> {
        const ID_BYTES_MAX: usize = 128;
        let id = self.head.fields.once("X-Request-ID").ok()??;
        let visible = id.iter().all(u8::is_ascii_graphic);
        if id.is_empty() || id.len() > ID_BYTES_MAX || !visible { None } else { std::str::from_utf8(id).ok() }
    }

    /// The value of a parameter of the query string, as it came; the first one of that name.
    pub fn query_value(&self, name: &str) -> Option<&[u8]> {
        let mut pairs = self.target.query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.as_bytes())
    }

    /// The value of a cookie, as it came; the first one of that name.
    pub fn cookie(&self, name: &str) -> Option<&[u8]> {
        let cookies = self.head.fields.all("Cookie").flat_map(|value| value.split(|&byte| byte == b';'));
        cookies
            .filter_map(|cookie| cookie.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            .next()
    }
}

/// Decides whether a request becomes a tunnel on this route.
///
/// It asks for one when it is a `GET` of HTTP/1.1 without a body, `Connection` lists `upgrade`, and `Upgrade` names
/// a protocol on the route's list. Any other request is a plain one, and its `Upgrade` is not passed on, as a server
/// may ignore it (RFC 9110, 7.8): so `h2c` and `TLS` never reach one.
pub fn wanted(request: &Request<'_>, route: &Route) -> Result<Wanted, Refusal> {
    let RequestHead { method, version, ref fields, .. } = request.head;
    let asks = method == "GET" && version == Version::Http11 && request.connection.upgrade;
    let Some(protocol) = asks.then(|| carried(fields, route)).flatten() else {
        return Ok(Wanted::Plain);
    };
    let websocket = protocol == "websocket";
    match request.framing {
        Framing::Unsaid | Framing::Length(0) => {}
        Framing::Length(_) | Framing::Chunked if websocket => {
            return Err(Refusal::BadRequest("a WebSocket request has no body"));
        }
        Framing::Length(_) | Framing::Chunked => return Ok(Wanted::Plain),
    }
    let accept = match route.strictness {
        Strictness::Strict if websocket => Some(upgrade::judge_websocket(fields)?),
        Strictness::Strict | Strictness::Lenient => None,
    };
    let protocol = if websocket { Cow::Borrowed("websocket") } else { Cow::Owned(protocol.to_owned()) };
    Ok(Wanted::Upgrade { protocol, accept })
}

/// The first protocol on offer that the route carries.
fn carried<'r>(fields: &Fields<'_>, route: &'r Route) -> Option<&'r str> {
    let known = |offer: &[u8]| route.upgrade.iter().find(|known| head::is_spelled(offer, known));
    fields.all("Upgrade").find_map(|value| head::members(value).find_map(known)).map(String::as_str)
}

/// Whether a name begins with this one, whatever the case and with `_` for `-`: CGI makes `X_Real_IP` and `X-Real-IP`
/// the same variable, and many servers are its heirs.
fn begins_like(name: &str, prefix: &str) -> bool {
    let like = |(byte, wanted): (u8, u8)| {
        let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        fold(byte) == fold(wanted)
    };
    name.len() >= prefix.len() && name.bytes().zip(prefix.bytes()).all(like)
}

/// Whether a server may take one of these names for the other.
fn is_like(name: &str, other: &str) -> bool {
    name.len() == other.len() && begins_like(name, other)
}

/// Whether a field speaks about where a request comes from, under its own name or one that some servers take for it.
fn introduces(name: &str) -> Introduces {
    // All of them are called "x-something" or "forwarded", and most others are not.
    if !matches!(name.as_bytes(), [b'x' | b'X' | b'f' | b'F', ..]) {
        return Introduces::Nothing;
    }
    let begins = |prefix: &str| begins_like(name, prefix);
    let alias = name.contains('_');
    if alias && (begins("x-forwarded") || begins("x-real") || is_like(name, "x-request-id")) {
        Introduces::Alias
    } else if !alias && (begins("x-forwarded-") || name.eq_ignore_ascii_case("forwarded")) {
        Introduces::ByTrust
    } else if name.eq_ignore_ascii_case("x-real-ip") || name.eq_ignore_ascii_case("x-request-id") {
        Introduces::Ours
    } else {
        Introduces::Nothing
    }
}

/// What becomes of a client's field that says where the request comes from.
enum Introduces {
    /// It says nothing of the kind: it is passed on.
    Nothing,
    /// It is written by us alone.
    Ours,
    /// It is passed on for a trusted proxy (and those that we write ourselves are written anew).
    ByTrust,
    /// It is another spelling, which is never passed on.
    Alias,
}

/// Room for most requests, so that a letter does not grow while it is written.
const LETTER_BYTES: usize = 1024;

/// Appends the request for the server.
pub fn rebuild(
    request: &Request<'_>,
    wanted: &Wanted,
    intro: &Introduction<'_>,
    route: &Route,
    out: &mut Vec<u8>,
) {
    let fields = &request.head.fields;
    let changed = |name: &str| {
        route.set_headers.iter().any(|(set, _)| is_like(set, name))
            || route.remove_headers.iter().any(|removed| is_like(removed, name))
    };
    out.reserve(LETTER_BYTES);
    for part in [request.head.method, " ", &request.target.origin_form, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if !fields.iter().any(|field| field.is("Host")) && !changed("host") {
        // Whoever has no name for the server says so with an empty Host (RFC 9112, 3.2).
        let fallback = Some(intro.host_fallback.as_bytes()).filter(|name| target::authority(name).is_ok());
        put_field(out, "Host", request.authority.or(fallback).unwrap_or_default());
    }
    let mut length_is_written = false;
    for field in head::end_to_end(fields, &request.connection) {
        let passed = match introduces(field.name) {
            Introduces::Nothing => true,
            Introduces::Ours | Introduces::Alias => false,
            Introduces::ByTrust => intro.trusted && !written_by_us(field.name),
        };
        if !passed || changed(field.name) || (field.is("Expect") && !request.expects_continue()) {
            continue;
        }
        if field.is("Host") {
            put_field(out, field.name, request.authority.unwrap_or(field.value));
        } else if !field.is("Content-Length") || !std::mem::replace(&mut length_is_written, true) {
            put_field(out, field.name, field.value);
        }
    }
    match wanted {
        Wanted::Upgrade { protocol, .. } => {
            put_field(out, "Connection", b"Upgrade");
            put_field(out, "Upgrade", protocol.as_bytes());
        }
        Wanted::Plain => put_field(out, "Connection", b"close"),
    }
    match request.framing {
        Framing::Chunked => put_field(out, "Transfer-Encoding", b"chunked"),
        Framing::Unsaid | Framing::Length(_) => {}
    }
    introduce(request, intro, &changed, out);
    for (name, template) in &route.set_headers {
        put_field(out, name, &fill_in(template, request, intro));
    }
    out.extend_from_slice(b"\r\n");
}

/// The `X-Forwarded-*` fields that are written below, whoever said them before.
fn written_by_us(name: &str) -> bool {
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"]
        .iter()
        .any(|ours| name.eq_ignore_ascii_case(ours))
}

/// Writes the fields that tell the server where the request comes from. One that would be empty is left out.
fn introduce(
    request: &Request<'_>,
    intro: &Introduction<'_>,
    changed: &impl Fn(&str) -> bool,
    out: &mut Vec<u8>,
) {
    let fields = &request.head.fields;
    let mut put = |name: &str, write_value: &dyn Fn(&mut Vec<u8>)| {
        if changed(name) {
            return;
        }
        let begin = out.len();
        head::put_name(out, name);
        let value = out.len();
        write_value(out);
        if out.len() == value {
            out.truncate(begin);
        } else {
            out.extend_from_slice(b"\r\n");
        }
    };
    put("X-Forwarded-For", &|out| {
        let mut separator = "";
        let said = intro.trusted.then(|| fields.list("X-Forwarded-For"));
        for address in said.into_iter().flatten() {
            out.extend_from_slice(separator.as_bytes());
            out.extend_from_slice(address);
            separator = ", ";
        }
        if let Some(peer) = intro.peer {
            out.extend_from_slice(separator.as_bytes());
            put_address(out, peer);
        }
    });
    put("X-Forwarded-Proto", &|out| out.extend_from_slice(scheme(request, intro)));
    put("X-Forwarded-Host", &|out| {
        let host = said_by_trusted(request, intro, "X-Forwarded-Host").or(request.authority);
        out.extend_from_slice(host.unwrap_or_default());
    });
    put("X-Real-IP", &|out| {
        if let Some(client) = intro.client {
            put_address(out, client);
        }
    });
    put("X-Request-ID", &|out| out.extend_from_slice(intro.request_id));
}

/// Writes an address. An IPv4 one, which most are, by hand: `Display` takes 1,300 instructions for it, this 150.
fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    let v4 = match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => return out.extend_from_slice(v6.to_string().as_bytes()),
    };
    for (place, octet) in v4.octets().into_iter().enumerate() {
        if place > 0 {
            out.push(b'.');
        }
        if octet >= 100 {
            out.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            out.push(b'0' + octet / 10 % 10);
        }
        out.push(b'0' + octet % 10);
    }
}

/// What a trusted proxy said in a field, if it said anything.
fn said_by_trusted<'r>(request: &Request<'r>, intro: &Introduction<'_>, name: &str) -> Option<&'r [u8]> {
    let said = if intro.trusted { request.head.fields.all(name).next() } else { None };
    said.filter(|said| !said.is_empty())
}

/// The scheme that the client used: ours, or what a trusted proxy said.
fn scheme<'r>(request: &Request<'r>, intro: &Introduction<'_>) -> &'r [u8] {
    said_by_trusted(request, intro, "X-Forwarded-Proto").unwrap_or(b"http")
}

/// A header value with its variables filled in.
fn fill_in(template: &Template, request: &Request<'_>, intro: &Introduction<'_>) -> Vec<u8> {
    let mut value = Vec::new();
    for piece in &template.0 {
        match piece {
            Piece::Text(text) => value.extend_from_slice(text.as_bytes()),
            Piece::ClientIp => {
                if let Some(client) = intro.client {
                    put_address(&mut value, client);
                }
            }
            Piece::Host => value.extend_from_slice(request.authority.unwrap_or_default()),
            Piece::Scheme => value.extend_from_slice(scheme(request, intro)),
            Piece::RequestId => value.extend_from_slice(intro.request_id),
        }
    }
    value
}

#[cfg(test)]
mod tests;
