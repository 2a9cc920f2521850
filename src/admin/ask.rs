//! What a request asks for, and whether it may: the paths, the methods, the bodies.
//!
//! A browser is a way in for strangers: a page from elsewhere can make it send requests to an address that only this
//! machine reaches, or have a name of its own stand for that address. So what steers takes JSON, which such a page may
//! not send unasked, `Origin` has to be the page's own, and without a token `Host` has to be an address.

use std::net::IpAddr;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::http::{JSON, Request, Response};
use super::search::{Filter, LIMIT_MAX, Page};

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// The page.
    Page,
    /// Whether the loop goes round.
    Health,
    /// Whether clients should come.
    Ready,
    /// What Prometheus wants to know.
    Metrics,
    /// How it stands.
    Status,
    /// How it has stood.
    History,
    /// Open tunnels.
    Tunnels(Filter, Page),
    /// Reads the configuration again, or says what that would change.
    Reload {
        /// Only says so.
        dry_run: bool,
    },
    /// Lets something drain, or no more.
    Drain {
        /// What.
        target: Target,
        /// Whether it is to drain.
        drains: bool,
        /// Only says what that is about.
        dry_run: bool,
    },
    /// Spreads an upstream's tunnels anew.
    Rebalance {
        /// Its name.
        upstream: String,
        /// Only says how many would be closed.
        dry_run: bool,
    },
    /// Closes tunnels.
    Close {
        /// Which.
        filter: Filter,
        /// Only says how many.
        dry_run: bool,
    },
}

/// What can drain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A server of an upstream.
    Server {
        /// The upstream's name.
        upstream: String,
        /// The server's.
        server: String,
    },
    /// A listener.
    Listener(String),
    /// A route of a listener.
    Route {
        /// The listener's address.
        listener: String,
        /// The route's name.
        route: String,
    },
    /// The process: there is no way back.
    All,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Server { upstream, server } => write!(f, "server {server} of upstream {upstream}"),
            Target::Listener(listener) => write!(f, "listener {listener}"),
            Target::Route { listener, route } => write!(f, "route {route} of listener {listener}"),
            Target::All => f.write_str("all"),
        }
    }
}

/// Who may ask.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// What every request has to have but those that tell nothing.
    pub token: Option<Vec<u8>>,
    /// Whether browsers of this machine reach it.
    pub is_tcp: bool,
}

impl Guard {
    /// What a request asks for, or the answer to one that may not, or makes no sense.
    pub fn judge(&self, request: &Request) -> Result<Ask, Response> {
        let path = request.path.as_str();
        let (gets, posts) = ("Allow: GET, HEAD\r\n", "Allow: POST\r\n");
        let allowed = match path {
            "/" | "/healthz" | "/readyz" | "/metrics" | "/status" | "/history" | "/tunnels" => gets,
            "/reload" | "/drain" | "/undrain" | "/rebalance" | "/close" => posts,
            _ => return Err(Response::error(404, "there is no such path")),
        };
        let is_get = matches!(request.method.as_str(), "GET" | "HEAD");
        if is_get != (allowed == gets) || !(is_get || request.method == "POST") {
            return Err(Response::error(405, "this path knows another method").with(allowed));
        }
        if self.is_tcp && self.token.is_none() && !is_address(request.host.as_deref()) {
            return Err(Response::error(403, "without a token, Host has to be an address or localhost"));
        }
        match path {
            "/" => return Ok(Ask::Page),
            "/healthz" => return Ok(Ask::Health),
            "/readyz" => return Ok(Ask::Ready),
            _ => {}
        }
        if let Some(token) = &self.token {
            if !request.token.as_ref().is_some_and(|given| is_same(given, token)) {
                let error = Response::error(401, "this needs the token (Authorization: Bearer ...)");
                return Err(error.with("WWW-Authenticate: Bearer\r\n"));
            }
        }
        if is_get {
            return read(path, &request.query);
        }
        if request.origin.is_some() && !is_own(request) {
            return Err(Response::error(403, "this Origin is another page's"));
        }
        if request.content_type.as_deref() != Some(JSON) {
            return Err(Response::error(415, "the body has to be JSON (Content-Type: application/json)"));
        }
        steer(path, &request.body)
    }
}

/// Whether two tokens are the same, in a time that says nothing about where they differ.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differ = given.iter().zip(token).fold(0, |differ, (a, b)| differ | (a ^ b));
    std::hint::black_box(differ) == 0 && given.len() == token.len()
}

/// Whether nobody can have made a name of theirs stand for the host.
fn is_address(host: Option<&str>) -> bool {
    let Some(host) = host else { return true }; // no browser leaves it out
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// Whether it was sent for a page that came from here.
fn is_own(request: &Request) -> bool {
    let authority = request.origin.as_deref().and_then(|origin| Some(origin.split_once("://")?.1));
    authority.is_some() && authority == request.host.as_deref()
}

fn bad(error: impl std::fmt::Display) -> Response {
    Response::error(400, &error.to_string())
}

fn read(path: &str, query: &str) -> Result<Ask, Response> {
    match path {
        "/tunnels" => tunnels(query),
        _ if !query.is_empty() => Err(bad("this path has no query")),
        "/metrics" => Ok(Ask::Metrics),
        "/status" => Ok(Ask::Status),
        _ => Ok(Ask::History),
    }
}

fn tunnels(query: &str) -> Result<Ask, Response> {
    let (mut filter, mut page) = (Filter::default(), Page::default());
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if value.is_empty() {
            continue; // as a form sends what was not filled in
        }
        let about = |error: String| bad(format_args!("{key}: {error}"));
        let text = || Some(value.clone().into_owned());
        match &*key {
            "id" => filter.id = text(),
            "client" => filter.client = Some(value.parse().map_err(about)?),
            "listener" => filter.listener = text(),
            "route" => filter.route = text(),
            "upstream" => filter.upstream = text(),
            "server" => filter.server = text(),
            "min_age" => filter.min_age = Some(value.parse().map_err(about)?),
            "min_idle" => filter.min_idle = Some(value.parse().map_err(about)?),
            "min_bytes" => {
                let bytes = value.parse().map_err(|_| bad("min_bytes: a number of bytes is wanted"))?;
                filter.min_bytes = Some(bytes);
            }
            "sort" => page.sort = value.parse().map_err(about)?,
            "order" => {
                page.ascending = match &*value {
                    "asc" => true,
                    "desc" => false,
                    _ => return Err(bad("order: it is asc or desc")),
                }
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                page.limit = limit.ok_or_else(|| bad(format_args!("limit: 1 to {LIMIT_MAX}")))?;
            }
            "after" => page.after = Some(value.parse().map_err(about)?),
            _ => return Err(bad(format_args!("there is no filter {key:?}"))),
        }
    }
    Ok(Ask::Tunnels(filter, page))
}

fn body<T: DeserializeOwned>(body: Map<String, Value>) -> Result<T, Response> {
    T::deserialize(Value::Object(body)).map_err(bad)
}

/// `dry_run` and the like.
fn take_flag(body: &mut Map<String, Value>, name: &str) -> Result<bool, Response> {
    match body.remove(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(bad(format_args!("{name} is true or false"))),
    }
}

fn steer(path: &str, bytes: &[u8]) -> Result<Ask, Response> {
    let mut asked: Map<String, Value> = match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err(bad("the body has to be an object")),
        Err(error) => return Err(bad(format_args!("the body is no JSON: {error}"))),
    };
    let dry_run = take_flag(&mut asked, "dry_run")?;
    match path {
        "/reload" => {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Nothing {}
            let Nothing {} = body(asked)?;
            Ok(Ask::Reload { dry_run })
        }
        "/rebalance" => {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Upstream {
                upstream: String,
            }
            let Upstream { upstream } = body(asked)?;
            Ok(Ask::Rebalance { upstream, dry_run })
        }
        "/close" => {
            let all = take_flag(&mut asked, "all")?;
            let filter: Filter = body(asked)?;
            if filter.is_empty() != all {
                let why = "say which: an id or a filter, or \"all\": true for every tunnel";
                return Err(bad(why));
            }
            Ok(Ask::Close { filter, dry_run })
        }
        _ => Ok(Ask::Drain { target: target(asked)?, drains: path == "/drain", dry_run }),
    }
}

fn target(mut asked: Map<String, Value>) -> Result<Target, Response> {
    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Names {
        upstream: Option<String>,
        server: Option<String>,
        listener: Option<String>,
        route: Option<String>,
    }
    let all = take_flag(&mut asked, "all")?;
    let Names { upstream, server, listener, route } = body(asked)?;
    match (upstream, server, listener, route) {
        (Some(upstream), Some(server), None, None) if !all => Ok(Target::Server { upstream, server }),
        (None, None, Some(listener), Some(route)) if !all => Ok(Target::Route { listener, route }),
        (None, None, Some(listener), None) if !all => Ok(Target::Listener(listener)),
        (None, None, None, None) if all => Ok(Target::All),
        _ => Err(bad("say what: upstream and server, or listener, or listener and route, or \"all\": true")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, body: &str) -> Request {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Request {
            method: method.into(),
            path: path.into(),
            query: query.into(),
            host: Some("127.0.0.1:8021".into()),
            content_type: (method == "POST").then(|| JSON.into()),
            body: body.into(),
            keeps_alive: true,
            ..Request::default()
        }
    }

    const LOCAL: Guard = Guard { token: None, is_tcp: true };

    fn check(method: &str, target: &str, body: &str, expected: Result<Ask, (u16, &str)>) {
        let found = LOCAL.judge(&request(method, target, body));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{method} {target} {body}"),
            (Err(response), Err((status, text))) => {
                let said = String::from_utf8_lossy(&response.body).into_owned();
                assert_eq!(response.status, status, "{method} {target} {body}: {said}");
                assert!(said.contains(text), "{method} {target} {body}: {said}");
            }
            (found, expected) => panic!("{method} {target} {body}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn what_is_read() {
        for (path, ask) in [
            ("/", Ask::Page),
            ("/healthz", Ask::Health),
            ("/readyz", Ask::Ready),
            ("/metrics", Ask::Metrics),
            ("/status", Ask::Status),
            ("/history", Ask::History),
            ("/tunnels", Ask::Tunnels(Filter::default(), Page::default())),
        ] {
            check("GET", path, "", Ok(ask.clone()));
            check("HEAD", path, "", Ok(ask));
            for method in ["POST", "PUT", "DELETE", "get"] {
                check(method, path, "{}", Err((405, "another method")));
            }
        }
        for path in ["", "/x", "//", "/status/", "/Status", "http://127.0.0.1/status", "*"] {
            check("GET", path, "", Err((404, "no such path")));
        }
        check("GET", "/status?x", "", Err((400, "no query")));
        let filter = Filter {
            client: Some("10.0.0.0/8".parse().unwrap()),
            route: Some("*/a b".into()),
            min_age: Some("10m".parse().unwrap()),
            min_bytes: Some(7),
            ..Filter::default()
        };
        let page = Page {
            sort: "idle".parse().unwrap(),
            ascending: true,
            limit: 5,
            after: Some("1-2-3-4".parse().unwrap()),
        };
        let query = "/tunnels?client=10.0.0.0%2F8&route=*/a+b&min_age=10m&min_bytes=7&min_idle=&sort=idle&order=asc\
                     &limit=5&after=1-2-3-4";
        check("GET", query, "", Ok(Ask::Tunnels(filter, page)));
        for (query, why) in [
            ("x=1", "no filter"),
            ("client=x", "client: "),
            ("min_age=x", "min_age: "),
            ("min_bytes=-1", "min_bytes: "),
            ("sort=name", "sort: "),
            ("order=up", "order: "),
            ("limit=0", "limit: 1 to 1000"),
            ("limit=1001", "limit: 1 to 1000"),
            ("after=x", "after: "),
        ] {
            check("GET", &format!("/tunnels?{query}"), "", Err((400, why)));
        }
    }

    #[test]
    fn what_steers() {
        let server = Target::Server { upstream: "u".into(), server: "s".into() };
        let route = Target::Route { listener: "l".into(), route: "r".into() };
        let drain = |target, drains, dry_run| Ok(Ask::Drain { target, drains, dry_run });
        check("POST", "/drain", r#"{"upstream":"u","server":"s"}"#, drain(server.clone(), true, false));
        check(
            "POST",
            "/undrain",
            r#"{"upstream":"u","server":"s","dry_run":true}"#,
            drain(server, false, true),
        );
        check("POST", "/drain", r#"{"listener":"l","route":"r"}"#, drain(route, true, false));
        check("POST", "/drain", r#"{"listener":"l"}"#, drain(Target::Listener("l".into()), true, false));
        check("POST", "/drain", r#"{"all":true}"#, drain(Target::All, true, false));
        for body in ["{}", r#"{"upstream":"u"}"#, r#"{"all":true,"listener":"l"}"#, r#"{"route":"r"}"#] {
            check("POST", "/drain", body, Err((400, "say what")));
        }
        check("POST", "/reload", "{}", Ok(Ask::Reload { dry_run: false }));
        check("POST", "/reload", r#"{"dry_run":true}"#, Ok(Ask::Reload { dry_run: true }));
        let rebalance = Ask::Rebalance { upstream: "u".into(), dry_run: false };
        check("POST", "/rebalance", r#"{"upstream":"u"}"#, Ok(rebalance));
        check("POST", "/rebalance", "{}", Err((400, "missing field `upstream`")));
        let filter = Filter { id: Some("a".into()), ..Filter::default() };
        check("POST", "/close", r#"{"id":"a"}"#, Ok(Ask::Close { filter, dry_run: false }));
        let all = Ask::Close { filter: Filter::default(), dry_run: true };
        check("POST", "/close", r#"{"all":true,"dry_run":true}"#, Ok(all));
        for body in ["{}", r#"{"dry_run":true}"#, r#"{"all":true,"id":"a"}"#, r#"{"all":false}"#] {
            check("POST", "/close", body, Err((400, "say which")));
        }
        for (path, body, why) in [
            ("/close", "", "no JSON"),
            ("/close", "[]", "an object"),
            ("/close", r#"{"id":1}"#, "expected a string"),
            ("/close", r#"{"ids":"a"}"#, "unknown field"),
            ("/close", r#"{"id":"a"} x"#, "no JSON"),
            ("/reload", r#"{"x":1}"#, "unknown field"),
            ("/reload", r#"{"dry_run":1}"#, "true or false"),
            ("/drain", r#"{"server":1}"#, "expected a string"),
        ] {
            check("POST", path, body, Err((400, why)));
        }
        for path in ["/reload", "/drain", "/undrain", "/rebalance", "/close"] {
            check("GET", path, "", Err((405, "another method")));
        }
    }

    #[test]
    fn pages_from_elsewhere_steer_nothing() {
        let judge = |change: fn(&mut Request)| {
            let mut request = request("POST", "/close", r#"{"all":true}"#);
            change(&mut request);
            LOCAL.judge(&request).map(drop).map_err(|response| response.status)
        };
        assert_eq!(judge(|_| {}), Ok(()));
        assert_eq!(judge(|request| request.origin = Some("http://127.0.0.1:8021".into())), Ok(()));
        for origin in
            ["http://127.0.0.1:8022", "http://evil.test", "null", "http://127.0.0.1", "127.0.0.1:8021"]
        {
            let mut request = request("POST", "/close", r#"{"all":true}"#);
            request.origin = Some(origin.into());
            assert_eq!(LOCAL.judge(&request).unwrap_err().status, 403, "{origin}");
        }
        assert_eq!(judge(|request| request.content_type = None), Err(415));
        assert_eq!(judge(|request| request.content_type = Some("text/plain".into())), Err(415));
        assert_eq!(judge(|request| request.host = Some("evil.test:8021".into())), Err(403));
        for host in ["localhost", "LocalHost:1", "[::1]:8021", "[::1]", "127.0.0.1", "10.0.0.1:80"] {
            let request = Request { host: Some(host.into()), ..request("GET", "/status", "") };
            assert!(LOCAL.judge(&request).is_ok(), "{host}");
        }
        for host in ["", "evil.test", "127.0.0.1.evil.test", "localhost.evil.test:1", "[::1].evil.test"] {
            let request = Request { host: Some(host.into()), ..request("GET", "/", "") };
            assert_eq!(LOCAL.judge(&request).unwrap_err().status, 403, "{host}");
        }
        let unix = Guard { token: None, is_tcp: false };
        let request = Request { host: Some("adit".into()), ..request("GET", "/status", "") };
        assert_eq!(unix.judge(&request), Ok(Ask::Status));
    }

    #[test]
    fn a_token_is_asked_for_by_all_that_tells_something() {
        let guard = Guard { token: Some(b"secret".to_vec()), is_tcp: true };
        let judge = |method, path, body, token: Option<&str>| {
            let token = token.map(|token| token.as_bytes().to_vec());
            let host = Some("adit.example.com".into());
            let request = Request { token, host, ..request(method, path, body) };
            guard.judge(&request).map(drop).map_err(|response| response.status)
        };
        for path in ["/", "/healthz", "/readyz"] {
            assert_eq!(judge("GET", path, "", None), Ok(()));
        }
        for path in ["/metrics", "/status", "/history", "/tunnels"] {
            assert_eq!(judge("GET", path, "", None), Err(401));
            assert_eq!(judge("GET", path, "", Some("secret")), Ok(()));
        }
        for token in ["", "s", "secre", "secrets", "Secret", "secret\0"] {
            assert_eq!(judge("POST", "/close", r#"{"all":true}"#, Some(token)), Err(401), "{token}");
        }
        assert_eq!(judge("POST", "/close", r#"{"all":true}"#, Some("secret")), Ok(()));
    }
}
