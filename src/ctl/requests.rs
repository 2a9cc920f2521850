//! What the admin listener is asked: paths, queries and bodies. Pure.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::cli::ctl::{Order, Sort, Step, Target, Which};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Get {
        /// Path and query.
        target: String,
    },
    Post {
        path: &'static str,
        /// A JSON object.
        body: String,
    },
}

impl Request {
    fn get(path: &str) -> Request {
        Request::Get { target: path.into() }
    }

    fn post(path: &'static str, body: Map<String, Value>) -> Request {
        Request::Post { path, body: Value::Object(body).to_string() }
    }
}

/// Everything but the tunnels.
pub fn status() -> Request {
    Request::get("/status")
}

/// A page of tunnels, behind the place where another one ended.
pub fn tunnels(
    filters: &[(&'static str, String)],
    sort: Sort,
    order: Order,
    limit: u16,
    after: Option<&str>,
) -> Request {
    let order = match order {
        Order::Most => "desc",
        Order::Least => "asc",
    };
    let mut target = format!("/tunnels?sort={}&order={order}&limit={limit}", sort.name());
    for (name, value) in filters {
        target += &format!("&{name}={}", escaped(value));
    }
    if let Some(after) = after {
        target += &format!("&after={}", escaped(after));
    }
    Request::Get { target }
}

pub fn close(which: &Which, step: Step) -> Request {
    let mut body = Map::new();
    match which {
        Which::One(id) => drop(body.insert("id".into(), id.as_str().into())),
        Which::All => drop(body.insert("all".into(), true.into())),
        Which::Those(filters) => {
            body.extend(filters.iter().map(|(name, value)| ((*name).into(), in_body(name, value))));
        }
    }
    Request::post("/close", with_step(body, step))
}

pub fn drain(target: &Target, step: Step) -> Request {
    Request::post("/drain", with_step(told(target), step))
}

pub fn undrain(target: &Target, step: Step) -> Request {
    Request::post("/undrain", with_step(told(target), step))
}

pub fn rebalance(upstream: &str, step: Step) -> Request {
    let body = Map::from_iter([("upstream".into(), upstream.into())]);
    Request::post("/rebalance", with_step(body, step))
}

pub fn reload(step: Step) -> Request {
    Request::post("/reload", with_step(Map::new(), step))
}

fn with_step(mut body: Map<String, Value>, step: Step) -> Map<String, Value> {
    match step {
        Step::Done => {}
        Step::DryRun => drop(body.insert("dry_run".into(), true.into())),
    }
    body
}

fn told(target: &Target) -> Map<String, Value> {
    let pairs: Vec<(&str, Value)> = match target {
        Target::Server { upstream, server } => {
            vec![("upstream", upstream.as_str().into()), ("server", server.as_str().into())]
        }
        Target::Listener(listener) => vec![("listener", listener.as_str().into())],
        Target::Route { listener, route } => {
            vec![("listener", listener.as_str().into()), ("route", route.as_str().into())]
        }
        Target::All => vec![("all", true.into())],
    };
    pairs.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// A filter's value in a body, where what is a number stands as one: bytes, and durations of so many seconds.
fn in_body(name: &str, value: &str) -> Value {
    let is_number = ["min_age", "min_idle", "min_bytes"].contains(&name);
    let whole = value.parse::<u64>().ok().filter(|_| is_number).map(Value::from);
    let seconds =
        || value.parse::<f64>().ok().filter(|_| is_number).map(Value::from).filter(Value::is_number);
    whole.or_else(seconds).unwrap_or_else(|| value.into())
}

/// A value as it stands in a query.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            // To a string it cannot fail.
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_get(request: &Request, expected: &str) {
        assert_eq!(request, &Request::Get { target: expected.into() });
    }

    fn check_post(request: &Request, path: &str, body: &str) {
        match request {
            Request::Post { path: found, body: text } => assert_eq!((*found, text.as_str()), (path, body)),
            Request::Get { target } => panic!("GET {target}"),
        }
    }

    #[test]
    fn queries_are_escaped() {
        check_get(&status(), "/status");
        let plain = tunnels(&[], Sort::Age, Order::Most, 100, None);
        check_get(&plain, "/tunnels?sort=age&order=desc&limit=100");
        let filters = [("route", "chat.example.com=/a b&c".to_owned()), ("client", "2001:db8::/32".into())];
        check_get(
            &tunnels(&filters, Sort::BytesUp, Order::Least, 7, Some("x+/=")),
            "/tunnels?sort=bytes_up&order=asc&limit=7&route=chat.example.com%3D%2Fa%20b%26c\
             &client=2001%3Adb8%3A%3A%2F32&after=x%2B%2F%3D",
        );
        check_get(
            &tunnels(&[("upstream", "ü%\r\n".into())], Sort::Rate, Order::Most, 1, None),
            "/tunnels?sort=rate&order=desc&limit=1&upstream=%C3%BC%25%0D%0A",
        );
    }

    #[test]
    fn bodies_are_objects() {
        check_post(&reload(Step::Done), "/reload", "{}");
        check_post(&reload(Step::DryRun), "/reload", r#"{"dry_run":true}"#);
        check_post(&rebalance("u", Step::Done), "/rebalance", r#"{"upstream":"u"}"#);
        let server = Target::Server { upstream: "u\"".into(), server: "unix:/s".into() };
        check_post(&drain(&server, Step::Done), "/drain", r#"{"server":"unix:/s","upstream":"u\""}"#);
        let route = Target::Route { listener: "l".into(), route: "*".into() };
        check_post(
            &undrain(&route, Step::DryRun),
            "/undrain",
            r#"{"dry_run":true,"listener":"l","route":"*"}"#,
        );
        check_post(&drain(&Target::Listener("l".into()), Step::Done), "/drain", r#"{"listener":"l"}"#);
        check_post(&drain(&Target::All, Step::Done), "/drain", r#"{"all":true}"#);
        check_post(&close(&Which::All, Step::DryRun), "/close", r#"{"all":true,"dry_run":true}"#);
        check_post(&close(&Which::One("7f".into()), Step::Done), "/close", r#"{"id":"7f"}"#);
    }

    #[test]
    fn what_is_a_number_stands_as_one_in_a_body() {
        let check = |name, value: &str, expected: &str| {
            let which = Which::Those(vec![(name, value.into())]);
            check_post(&close(&which, Step::Done), "/close", &format!(r#"{{"{name}":{expected}}}"#));
        };
        check("min_age", "10m", r#""10m""#);
        check("min_age", "90", "90");
        check("min_idle", "0.5", "0.5");
        check("min_idle", "inf", r#""inf""#);
        check("min_bytes", "18446744073709551615", "18446744073709551615");
        check("client", "10", r#""10""#);
    }
}
