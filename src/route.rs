//! Which route a request takes, and who may take it.
//!
//! Pure questions on a plan's rules: about a host and a path, a client's address, an Origin. IPv4-mapped IPv6
//! addresses (what a dual-stack socket calls an IPv4 peer) are the IPv4 address throughout, so that a rule
//! for `10.0.0.0/8` holds on every listener.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::plan::{HostRule, PathRule, Route, Trusted};

/// The first route that is for this host and path, and its place. The plan has the routes in order already: the most
/// specific host first, then the longest path. Host and path are normalized as [`crate::proto::target`] does it; `None`
/// is a request without a host (HTTP/1.0).
pub fn find<'p>(routes: &'p [Route], host: Option<&str>, path: &str) -> Option<(u16, &'p Route)> {
    let is_for = |route: &Route| host_matches(&route.host, host) && path_matches(&route.path, path);
    let place = routes.iter().position(is_for)?;
    Some((place as u16, &routes[place])) // a plan has no more
}

fn host_matches(rule: &HostRule, host: Option<&str>) -> bool {
    match (rule, host) {
        (HostRule::Any, _) => true,
        (HostRule::Exact(_) | HostRule::Suffix(_), None) => false,
        (HostRule::Exact(name), Some(host)) => name == host,
        // The star stands for something: `*.example.com` is not for `.example.com`.
        (HostRule::Suffix(suffix), Some(host)) => {
            host.len() > suffix.len() && host.ends_with(suffix.as_str())
        }
    }
}

fn path_matches(rule: &PathRule, path: &str) -> bool {
    match rule {
        PathRule::Any => true,
        PathRule::Exact(exact) => exact == path,
        PathRule::Prefix(prefix) => match path.strip_prefix(prefix.as_str()) {
            Some(below) => below.is_empty() || below.starts_with('/') || prefix.ends_with('/'),
            None => false,
        },
    }
}

/// Whether the route lets in a client of this address: not one that `deny` names, and where there is an
/// `allow` list only those on it. A unix socket's client (`None`) is in no network.
pub fn network_allowed(route: &Route, client: Option<IpAddr>) -> bool {
    !within(&route.deny, client) && (route.allow.is_empty() || within(&route.allow, client))
}

/// Whether the route accepts a request with this `Origin` field (RFC 6455, 10.2). Where there is a list, a
/// request without one is not on it. The case does not count: scheme and host have none, and ports no
/// letters.
pub fn origin_allowed(route: &Route, origin: Option<&[u8]>) -> bool {
    route.origins.is_empty()
        || origin.is_some_and(|origin| {
            route.origins.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin))
        })
}

/// Whether this peer is trusted to name a client's address. `None` is a peer on a unix socket.
pub fn is_trusted(trusted: &Trusted, peer: Option<IpAddr>) -> bool {
    match peer {
        Some(_) => within(&trusted.networks, peer),
        None => trusted.unix,
    }
}

/// The client's address, as far as those we trust tell it. Each proxy appends the address it was reached
/// from, so the list of `X-Forwarded-For` is to be read from its end: the first address that is not a trusted
/// proxy's is the client, and whatever stands before it is only what that client says. What is no address
/// ends the walk at the last one that was. `forwarded_for` are the field's values in the order of the head.
pub fn believed_client<'a>(
    trusted: &Trusted,
    peer: Option<IpAddr>,
    forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> Option<IpAddr> {
    let mut believed = peer.map(|peer| peer.to_canonical());
    let elements = forwarded_for.rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
    // Empty elements are no elements (RFC 9110, 5.6.1.2).
    for element in elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty()) {
        if !is_trusted(trusted, believed) {
            break;
        }
        match forwarded_address(element) {
            Some(address) => believed = Some(address),
            None => break,
        }
    }
    believed
}

/// An element of `X-Forwarded-For`, which no RFC defines: `ip`, `ip:port`, `[v6]` and `[v6]:port` are in use.
fn forwarded_address(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = text.parse().ok().or_else(with_port).or_else(bracketed)?;
    Some(address.to_canonical())
}

fn within(networks: &[IpNet], client: Option<IpAddr>) -> bool {
    let Some(client) = client.map(|client| client.to_canonical()) else { return false };
    networks.iter().any(|network| match (network, client) {
        (IpNet::V4(network), IpAddr::V4(client)) => network.contains(&client),
        (IpNet::V6(network), IpAddr::V6(client)) => network.contains(&client),
        (IpNet::V4(_), IpAddr::V6(_)) => false,
        // A network written as mapped addresses (`::ffff:10.0.0.0/104`) means the IPv4 one: not to let it
        // match would make a `deny` a dead letter. A wider one, `::/0` say, means IPv6.
        (IpNet::V6(network), IpAddr::V4(client)) => {
            network.prefix_len() >= 96 && network.contains(&client.to_ipv6_mapped())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PoolId;

    fn route(host: HostRule, path: PathRule) -> Route {
        Route { host, path, upgrade: vec![], ..Route::catch_all(PoolId(0)) }
    }

    fn networks(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|network| network.parse().unwrap()).collect()
    }

    /// "-" is a unix socket's client.
    fn ip(text: &str) -> Option<IpAddr> {
        (text != "-").then(|| text.parse().unwrap())
    }

    #[track_caller]
    fn check_host(rule: HostRule, host: Option<&str>, expected: bool) {
        let routes = [route(rule, PathRule::Any)];
        assert_eq!(find(&routes, host, "/").is_some(), expected, "{:?} {host:?}", routes[0].host);
    }

    #[test]
    fn hosts() {
        let exact = || HostRule::Exact("example.com".into());
        let suffix = || HostRule::Suffix(".example.com".into());
        check_host(HostRule::Any, None, true);
        check_host(HostRule::Any, Some("x"), true);
        check_host(exact(), None, false);
        check_host(exact(), Some("example.com"), true);
        check_host(exact(), Some("a.example.com"), false);
        check_host(exact(), Some("example.co"), false);
        check_host(suffix(), None, false);
        check_host(suffix(), Some("example.com"), false);
        check_host(suffix(), Some("a.example.com"), true);
        check_host(suffix(), Some("a.b.example.com"), true);
        check_host(suffix(), Some(".example.com"), false);
        check_host(suffix(), Some("aexample.com"), false);
        check_host(suffix(), Some("a.example.com.x"), false);
    }

    #[track_caller]
    fn check_path(rule: PathRule, path: &str, expected: bool) {
        let routes = [route(HostRule::Any, rule)];
        assert_eq!(find(&routes, None, path).is_some(), expected, "{:?} {path}", routes[0].path);
    }

    #[test]
    fn paths() {
        let prefix = |text: &str| PathRule::Prefix(text.into());
        let exact = |text: &str| PathRule::Exact(text.into());
        check_path(PathRule::Any, "/x", true);
        check_path(PathRule::Any, "*", true);
        check_path(prefix("/chat"), "/chat", true);
        check_path(prefix("/chat"), "/chat/", true);
        check_path(prefix("/chat"), "/chat/x", true);
        check_path(prefix("/chat"), "/chatter", false);
        check_path(prefix("/chat"), "/cha", false);
        check_path(prefix("/chat"), "/x/chat", false);
        check_path(prefix("/chat"), "/Chat", false);
        check_path(prefix("/chat/"), "/chat", false);
        check_path(prefix("/chat/"), "/chat/", true);
        check_path(prefix("/chat/"), "/chat/x", true);
        check_path(prefix("/chat/"), "/chatter", false);
        check_path(prefix("/"), "/", true);
        check_path(prefix("/"), "/x", true);
        check_path(prefix("/"), "*", false);
        check_path(exact("/chat"), "/chat", true);
        check_path(exact("/chat"), "/chat/", false);
        check_path(exact("/chat"), "/chat/x", false);
    }

    #[test]
    fn the_first_route_that_matches_both_is_taken() {
        let host = || HostRule::Exact("h".into());
        let routes = [
            route(host(), PathRule::Prefix("/a".into())),
            route(host(), PathRule::Any),
            route(HostRule::Any, PathRule::Prefix("/a".into())),
        ];
        let place = |host, path| find(&routes, host, path).map(|(place, _)| place);
        assert_eq!(place(Some("h"), "/a/b"), Some(0));
        assert_eq!(place(Some("h"), "/b"), Some(1));
        assert_eq!(place(Some("i"), "/a"), Some(2));
        assert_eq!(place(None, "/a"), Some(2));
        assert_eq!(place(None, "/b"), None);
    }

    #[track_caller]
    fn check_network(allow: &str, deny: &str, client: &str, expected: bool) {
        let route =
            Route { allow: networks(allow), deny: networks(deny), ..route(HostRule::Any, PathRule::Any) };
        assert_eq!(network_allowed(&route, ip(client)), expected, "allow {allow}, deny {deny}: {client}");
    }

    #[test]
    fn client_networks() {
        check_network("", "", "10.0.0.1", true);
        check_network("", "", "-", true);
        check_network("10.0.0.0/8", "", "10.0.0.1", true);
        check_network("10.0.0.0/8", "", "11.0.0.1", false);
        check_network("10.0.0.0/8", "", "::ffff:10.0.0.1", true);
        check_network("10.0.0.0/8", "", "::10.0.0.1", false);
        check_network("10.0.0.0/8", "", "-", false);
        check_network("", "10.0.0.0/8", "-", true);
        check_network("", "10.0.0.0/8", "::ffff:10.0.0.1", false);
        check_network("10.0.0.0/8", "10.1.0.0/16", "10.1.0.1", false);
        check_network("10.1.0.0/16", "10.0.0.0/8", "10.1.0.1", false);
        check_network("10.0.0.0/8", "10.1.0.0/16", "10.2.0.1", true);
        check_network("fe80::/10 10.0.0.0/8", "", "fe80::1", true);
        check_network("::/0", "", "10.0.0.1", false);
        check_network("0.0.0.0/0", "", "::1", false);
        check_network("", "::ffff:10.0.0.0/104", "10.0.0.1", false);
        check_network("", "::ffff:10.0.0.0/104", "::ffff:10.0.0.1", false);
        check_network("", "::ffff:10.0.0.0/104", "11.0.0.1", true);
        check_network("", "2001:db8::/96", "10.0.0.1", true);
    }

    #[track_caller]
    fn check_origin(origins: &[&str], origin: Option<&[u8]>, expected: bool) {
        let route = Route {
            origins: origins.iter().map(|&origin| origin.into()).collect(),
            ..route(HostRule::Any, PathRule::Any)
        };
        assert_eq!(origin_allowed(&route, origin), expected, "{origins:?} {origin:?}");
    }

    #[test]
    fn origins() {
        let list = ["https://a.example", "null"];
        check_origin(&[], None, true);
        check_origin(&[], Some(b"https://x"), true);
        check_origin(&list, None, false);
        check_origin(&list, Some(b""), false);
        check_origin(&list, Some(b"https://a.example"), true);
        check_origin(&list, Some(b"HTTPS://A.Example"), true);
        check_origin(&list, Some(b"null"), true);
        check_origin(&list, Some(b"http://a.example"), false);
        check_origin(&list, Some(b"https://a.example.evil"), false);
        check_origin(&list, Some(b"https://a.exampl"), false);
        check_origin(&list, Some(b"https://a.example\xff"), false);
    }

    /// Trusts 10.0.0.0/8 and fd00::/8. The field's values are given one per line.
    #[track_caller]
    fn check_client(unix: bool, peer: &str, forwarded_for: &str, expected: &str) {
        let trusted = Trusted { networks: networks("10.0.0.0/8 fd00::/8"), unix };
        let found = believed_client(&trusted, ip(peer), forwarded_for.lines().map(str::as_bytes));
        assert_eq!(found, ip(expected), "{peer}: {forwarded_for}");
    }

    #[test]
    fn a_stranger_is_the_client_whatever_it_says() {
        check_client(false, "1.1.1.1", "", "1.1.1.1");
        check_client(false, "1.1.1.1", "2.2.2.2", "1.1.1.1");
        check_client(true, "1.1.1.1", "2.2.2.2", "1.1.1.1");
        check_client(false, "-", "2.2.2.2", "-");
        check_client(false, "::ffff:1.1.1.1", "2.2.2.2", "1.1.1.1");
    }

    #[test]
    fn a_trusted_proxy_names_the_client() {
        check_client(false, "10.0.0.1", "", "10.0.0.1");
        check_client(false, "10.0.0.1", "2.2.2.2", "2.2.2.2");
        check_client(false, "::ffff:10.0.0.1", "2.2.2.2", "2.2.2.2");
        check_client(false, "fd00::1", "2.2.2.2", "2.2.2.2");
        check_client(true, "-", "2.2.2.2", "2.2.2.2");
        check_client(true, "-", "", "-");
        check_client(true, "-", "junk", "-");
    }

    #[test]
    fn the_walk_goes_from_the_right_past_trusted_proxies_only() {
        check_client(false, "10.0.0.1", "3.3.3.3, 2.2.2.2", "2.2.2.2");
        check_client(false, "10.0.0.1", "3.3.3.3, 2.2.2.2,10.0.0.2 ,\tfd00::7", "2.2.2.2");
        check_client(false, "10.0.0.1", "3.3.3.3\n2.2.2.2, 10.0.0.3\n10.0.0.2", "2.2.2.2");
        check_client(false, "10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3");
        check_client(false, "10.0.0.1", "2.2.2.2, ::ffff:10.0.0.2", "2.2.2.2");
        check_client(false, "10.0.0.1", ", 2.2.2.2, ,10.0.0.2,,", "2.2.2.2");
    }

    #[test]
    fn what_is_no_address_ends_the_walk() {
        check_client(false, "10.0.0.1", "2.2.2.2, unknown", "10.0.0.1");
        check_client(false, "10.0.0.1", "2.2.2.2, _hidden, 10.0.0.2", "10.0.0.2");
        check_client(false, "10.0.0.1", "2.2.2.2, caf\u{e9}", "10.0.0.1");
        check_client(false, "10.0.0.1", "1.2.3", "10.0.0.1");
        check_client(false, "10.0.0.1", "1.2.3.4:99999", "10.0.0.1");
        check_client(false, "10.0.0.1", "[1.2.3.4]", "10.0.0.1");
        check_client(false, "10.0.0.1", "[::1", "10.0.0.1");
    }

    #[test]
    fn addresses_come_in_four_spellings() {
        check_client(false, "10.0.0.1", "2.2.2.2:1234", "2.2.2.2");
        check_client(false, "10.0.0.1", "2001:db8::1", "2001:db8::1");
        check_client(false, "10.0.0.1", "[2001:db8::1]", "2001:db8::1");
        check_client(false, "10.0.0.1", "[2001:db8::1]:1234", "2001:db8::1");
        check_client(false, "10.0.0.1", "::ffff:2.2.2.2", "2.2.2.2");
        check_client(false, "10.0.0.1", "[::ffff:2.2.2.2]:1", "2.2.2.2");
    }
}
