//! The request target and the Host field (RFC 9112, 3.2; RFC 9110, 7.2; RFC 3986).
//!
//! Two readers want two things of a target. The server gets it as it came, in origin-form. Our routes get the
//! path as a server would see it: otherwise `/%61dmin` or `/x/../admin` would reach what a rule for `/admin`
//! keeps closed. What two servers might read differently is refused.
//!
//! Nothing is allocated for a target in origin-form without an escape or a dot segment, nor for a host in
//! lower case. Both are short, mostly: a plain loop over the bytes is done before a search has been set up.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// A request target, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// What to write to the server: origin-form, or `*` (RFC 9112, 3.2.1 and 3.2.4).
    pub origin_form: Cow<'a, str>,
    /// The authority of an absolute-form, as it came and for matching. It replaces the Host field
    /// (RFC 9112, 3.2.2).
    pub authority: Option<(&'a str, Host<'a>)>,
    /// What stands behind the first `?`, as it came.
    pub query: Option<&'a str>,
    /// The path for matching: see [`normalize`]. `*` stays `*`.
    pub normalized: Cow<'a, str>,
}

/// A host for matching: lower case, no port, one trailing dot dropped; an IPv6 address in brackets and in its
/// shortest spelling (RFC 5952). Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'a>(Cow<'a, str>);

impl Host<'_> {
    /// The name, as `route` compares it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Takes a request target apart. The method counts for OPTIONS alone. Characters beyond ASCII are no URI, but
/// browsers and servers have long agreed to pass them; so do we.
///
/// # Errors
///
/// The rule that was broken; it is for a 400.
pub fn parse<'a>(method: &str, target: &'a str) -> Result<Parsed<'a>, &'static str> {
    if target.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err("the request target holds a space or a control character");
    }
    if target.bytes().any(|byte| byte == b'#') {
        return Err("the request target holds a fragment");
    }
    if target == "*" {
        return match method {
            "OPTIONS" => Ok(asterisk(None)),
            _ => Err("the request target \"*\" is for OPTIONS only"),
        };
    }
    if target.starts_with('/') {
        return local(target, Cow::Borrowed(target), None);
    }
    let (named, local_part) = split_absolute(target)?;
    let authority = Some((named, authority(named.as_bytes())?));
    if local_part.starts_with('/') {
        local(local_part, Cow::Borrowed(local_part), authority)
    } else if !local_part.is_empty() {
        local(local_part, Cow::Owned(format!("/{local_part}")), authority)
    } else if method == "OPTIONS" {
        Ok(asterisk(authority))
    } else {
        local("/", Cow::Borrowed("/"), authority)
    }
}

/// An absolute-form's authority and what follows it. The schemes are those that lead to a server like ours:
/// a request for `ftp://` wants another proxy.
fn split_absolute(target: &str) -> Result<(&str, &str), &'static str> {
    let (scheme, rest) = target.split_once("://").ok_or("the request target is no path and no URI")?;
    if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err("the request target's scheme is not served here");
    }
    Ok(rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())))
}

/// A target that asks for the server as a whole.
fn asterisk<'a>(authority: Option<(&'a str, Host<'a>)>) -> Parsed<'a> {
    Parsed { origin_form: "*".into(), authority, query: None, normalized: "*".into() }
}

/// A target with a path, or with a query and therefore the path `/`.
fn local<'a>(
    target: &'a str,
    origin_form: Cow<'a, str>,
    authority: Option<(&'a str, Host<'a>)>,
) -> Result<Parsed<'a>, &'static str> {
    let (path, query) = match target.bytes().position(|byte| byte == b'?') {
        Some(end) => (&target[..end], Some(&target[end + 1..])),
        None => (target, None),
    };
    let path = if path.is_empty() { "/" } else { path };
    Ok(Parsed { origin_form, authority, query, normalized: normalize(path)? })
}

/// The path as a server would see it: percent-encoded unreserved characters decoded (RFC 3986, 6.2.2.2), other
/// escapes in upper case (6.2.2.1), what is beyond ASCII escaped, then dot segments removed (5.2.4), so that
/// `%2e%2e` counts as `..`. All else stays: `%2F` is no separator, `//` is an empty segment, and `..;x` is a name.
/// The path must begin with `/`. Normalizing twice changes nothing; the paths of routes are to be written as this
/// leaves them.
///
/// # Errors
///
/// The rule that was broken: an escape without two hex digits, an encoded NUL, a backslash (no URI character,
/// and `/` to some servers), a path that climbs above the root.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, &'static str> {
    if path.bytes().any(|byte| byte == b'\\') {
        return Err("the path holds a backslash");
    }
    let is_plain = path.bytes().all(|byte| byte.is_ascii() && byte != b'%');
    let spelled = if is_plain { Cow::Borrowed(path) } else { Cow::Owned(spell_one_way(path)?) };
    let may_have_dot_segments = spelled.as_bytes().windows(2).any(|pair| pair == b"/.");
    Ok(if may_have_dot_segments { Cow::Owned(remove_dot_segments(&spelled)?) } else { spelled })
}

/// Decodes what need not have been encoded, once (`%2561` is `%25` and `61`, and stays), and encodes the rest in one
/// way.
fn spell_one_way(path: &str) -> Result<String, &'static str> {
    let mut spelled = String::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [byte, behind @ ..] = rest {
        rest = behind;
        match byte {
            b'%' => {
                match leading_escape(behind) {
                    None => return Err("a \"%\" in the path is not followed by two hex digits"),
                    Some(0) => return Err("the path holds an encoded NUL"),
                    Some(byte) if is_unreserved(byte) => spelled.push(char::from(byte)),
                    Some(byte) => escape(byte, &mut spelled),
                }
                rest = &behind[2..];
            }
            byte if byte.is_ascii() => spelled.push(char::from(*byte)),
            byte => escape(*byte, &mut spelled),
        }
    }
    Ok(spelled)
}

fn escape(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
}

/// The byte that two leading hex digits stand for.
fn leading_escape(bytes: &[u8]) -> Option<u8> {
    let digit = |place: usize| char::from(*bytes.get(place)?).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

/// RFC 3986, 5.2.4, for a path that begins with `/`; but there a path that climbs above the root stops at the
/// root, and here it is refused: a server may not stop.
fn remove_dot_segments(path: &str) -> Result<String, &'static str> {
    let mut kept = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => kept.truncate(kept.rfind('/').ok_or("the path climbs above the root")?),
            name => {
                kept.push('/');
                kept.push_str(name);
                continue;
            }
        }
        // A dot segment at the end leaves the slash before it: `/a/.` is the directory `/a/`.
        if segments.peek().is_none() {
            kept.push('/');
        }
    }
    Ok(kept)
}

/// Judges `uri-host [":" port]` (RFC 9110, 7.2; RFC 3986, 3.2.2 and 3.2.3), a Host field's value without the
/// space around it. A zone identifier or a future kind of address in the brackets is refused.
///
/// # Errors
///
/// The rule that was broken; it is for a 400.
pub fn authority(value: &[u8]) -> Result<Host<'_>, &'static str> {
    let text = std::str::from_utf8(value).map_err(|_| "the host holds a character that no host has")?;
    // An "@" breaks a rule wherever it stands: it is looked for only to name the right one.
    let says_who = |rule| if text.contains('@') { "the host comes with user information" } else { rule };
    host_and_port(text).map_err(says_who)
}

fn host_and_port(text: &str) -> Result<Host<'_>, &'static str> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, behind) = bracketed.split_once(']').ok_or("the host's bracket is not closed")?;
        let address: Ipv6Addr = address.parse().map_err(|_| "the host's brackets hold no IPv6 address")?;
        match behind.strip_prefix(':') {
            Some(port) => judge_port(port)?,
            None if behind.is_empty() => {}
            None => return Err("the host goes on behind its bracket"),
        }
        return Ok(Host(Cow::Owned(format!("[{address}]"))));
    }
    let (name, port) = match text.bytes().position(|byte| byte == b':') {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, ""),
    };
    judge_port(port)?;
    judge_name(name)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err("the host is empty");
    }
    let has_upper = name.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(Host(if has_upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) }))
}

/// `port = *DIGIT` (RFC 3986, 3.2.3), and what TCP can count.
fn judge_port(port: &str) -> Result<(), &'static str> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_empty() || digits && port.parse::<u16>().is_ok() {
        Ok(())
    } else {
        Err("the host's port is no number up to 65535")
    }
}

/// `reg-name = *( unreserved / pct-encoded / sub-delims )` (RFC 3986, 3.2.2). IPv4 addresses are among these.
fn judge_name(name: &str) -> Result<(), &'static str> {
    let mut rest = name.as_bytes();
    while let [byte, behind @ ..] = rest {
        rest = match byte {
            byte if IN_NAMES[usize::from(*byte)] => behind,
            b'%' if leading_escape(behind).is_some() => &behind[2..],
            _ => return Err("the host holds a character that no host has"),
        };
    }
    Ok(())
}

/// Whether a byte may stand in a name by itself, for each byte: unreserved or one of the sub-delims.
const IN_NAMES: [bool; 256] = {
    let mut may = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let is_sub_delim =
            matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        may[byte as usize] = is_unreserved(byte) || is_sub_delim;
        byte += 1;
    }
    may
};

/// RFC 3986, 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// A target's path and query, whatever else may be wrong with it: without an authority, which may hold a password.
pub fn path_and_query(target: &str) -> &str {
    if target.starts_with('/') {
        return target;
    }
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let behind_authority = |rest: &str| rest.find(['/', '?']).unwrap_or(rest.len());
    match target.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(in_scheme) => &rest[behind_authority(rest)..],
        // The form that CONNECT has.
        Some(_) | None if target.contains('@') => &target[behind_authority(target)..],
        Some(_) | None => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` is origin-form, authority and host ("-" for none), query ("-" for none), normalized path.
    #[track_caller]
    fn check(method: &str, target: &str, expected: &str) {
        let parsed = parse(method, target).unwrap();
        let (named, host) = match &parsed.authority {
            Some((named, host)) => (*named, host.as_str()),
            None => ("-", "-"),
        };
        let Parsed { origin_form, query, normalized, .. } = &parsed;
        let found = format!("{origin_form} {named} {host} {} {normalized}", query.unwrap_or("-"));
        assert_eq!(found, expected, "{method} {target}");
    }

    #[track_caller]
    fn refused(method: &str, target: &str, word: &str) {
        let rule = parse(method, target).expect_err(target);
        assert!(rule.contains(word), "{method} {target}: {rule}");
    }

    #[track_caller]
    fn normal(path: &str, expected: &str) {
        assert_eq!(normalize(path).as_deref(), Ok(expected), "{path}");
        assert_eq!(normalize(expected).as_deref(), Ok(expected), "{path}, twice");
    }

    #[test]
    fn a_target_is_shown_without_its_authority() {
        for (target, shown) in [
            ("/a?b", "/a?b"),
            ("*", "*"),
            ("http://user:secret@host/a?b", "/a?b"),
            ("http://user:secret@host?b", "?b"),
            ("http://user:secret@host", ""),
            ("svn+ssh://user:secret@host/a", "/a"),
            ("user:secret@host:443", ""),
            ("/@a", "/@a"),
            ("host:443", "host:443"),
            ("/a?u=http://host/c", "/a?u=http://host/c"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(path_and_query(target), shown, "{target}");
        }
    }

    #[test]
    fn origin_form_is_passed_on_as_it_came() {
        check("GET", "/", "/ - - - /");
        check("GET", "/chat/room", "/chat/room - - - /chat/room");
        check("GET", "/a?b=c", "/a?b=c - - b=c /a");
        check("GET", "/a?", "/a? - -  /a");
        check("GET", "/a?b?c/../d\\%", "/a?b?c/../d\\% - - b?c/../d\\% /a");
        check("GET", "/%7eme/./x?y", "/%7eme/./x?y - - y /~me/x");
        check("GET", "//host/path", "//host/path - - - //host/path");
        check("GET", "/caf\u{e9}?\u{2603}", "/caf\u{e9}?\u{2603} - - \u{2603} /caf%C3%A9");
        check("OPTIONS", "/a", "/a - - - /a");
        check("GET", "/http://x/", "/http://x/ - - - /http://x/");
    }

    #[test]
    fn absolute_form_loses_scheme_and_authority() {
        check("GET", "http://example.com/a?b", "/a?b example.com example.com b /a");
        check("GET", "HTTPS://Example.COM:443/a", "/a Example.COM:443 example.com - /a");
        check("GET", "ws://[::1]:80/", "/ [::1]:80 [::1] - /");
        check("GET", "wSs://h//a", "//a h h - //a");
        check("GET", "http://h", "/ h h - /");
        check("GET", "http://h?q", "/?q h h q /");
        check("GET", "http://h?q/../..", "/?q/../.. h h q/../.. /");
        check("GET", "http://h/%2e/x", "/%2e/x h h - /x");
    }

    #[test]
    fn an_asterisk_is_for_options() {
        check("OPTIONS", "*", "* - - - *");
        check("OPTIONS", "http://h", "* h h - *");
        check("OPTIONS", "http://h/", "/ h h - /");
        check("OPTIONS", "http://h?q", "/?q h h q /");
        refused("GET", "*", "OPTIONS");
        refused("options", "*", "OPTIONS");
        refused("OPTIONS", "*?q", "no path");
        refused("OPTIONS", "**", "no path");
    }

    #[test]
    fn other_targets_are_refused() {
        refused("GET", "", "no path");
        refused("GET", "a", "no path");
        refused("GET", "?q", "no path");
        refused("GET", "example.com:80", "no path");
        refused("GET", "http:/a", "no path");
        refused("GET", "ftp://h/", "scheme");
        refused("GET", "://h/", "scheme");
        refused("GET", "a?x=http://h/", "scheme");
        refused("GET", "http:///a", "empty");
        refused("GET", "http://", "empty");
        refused("GET", "http://:80/", "empty");
        refused("GET", "http://u:p@h/", "user");
        refused("GET", "http://h\\x/", "character");
        refused("GET", "http://h:99999/", "port");
        refused("GET", "http://caf\u{e9}/", "character");
        refused("GET", "/a#b", "fragment");
        refused("GET", "/a?b#c", "fragment");
        refused("GET", "http://h#c", "fragment");
        refused("GET", "/a b", "space");
        refused("GET", "/a\t", "space");
        refused("GET", "/a\0", "space");
        refused("GET", "/a?\x7f", "space");
    }

    #[test]
    fn paths_that_servers_read_differently_are_refused() {
        refused("GET", "/a\\b", "backslash");
        refused("GET", "http://h/a\\b", "backslash");
        refused("GET", "/%", "hex");
        refused("GET", "/%4", "hex");
        refused("GET", "/%4?1", "hex");
        refused("GET", "/%g1", "hex");
        refused("GET", "/%+1", "hex");
        refused("GET", "/%%41", "hex");
        refused("GET", "/%2%35", "hex");
        refused("GET", "/%4\u{e9}", "hex");
        refused("GET", "/%\u{e9}", "hex");
        refused("GET", "/a%00", "NUL");
        refused("GET", "/..", "root");
        refused("GET", "/../a", "root");
        refused("GET", "/a/../../a", "root");
        refused("GET", "/./..", "root");
        refused("GET", "/%2e%2E/a", "root");
        refused("GET", "/.%2e", "root");
        refused("GET", "http://h/..", "root");
    }

    #[test]
    fn paths_are_matched_as_a_server_sees_them() {
        normal("/%61%2D%5f%7E%39", "/a-_~9");
        normal("/a%2Fb%2fc", "/a%2Fb%2Fc");
        // All three are one path to a server. A rule for it used to miss two of them.
        for path in ["/caf%C3%A9", "/caf%c3%a9", "/caf\u{e9}"] {
            normal(path, "/caf%C3%A9");
        }
        normal("/%2561", "/%2561");
        normal("/%25%36%31", "/%2561");
        normal("/%C3%a9%20", "/%C3%A9%20");
        normal("/%61\u{e9}%62", "/a%C3%A9b");
        normal("/a/b/c/./../../g", "/a/g");
        normal("/.", "/");
        normal("/./", "/");
        normal("/a/.", "/a/");
        normal("/a/..", "/");
        normal("/a/b/..", "/a/");
        normal("/a/../b", "/b");
        normal("/a/%2e%2e/b/%2E/c", "/b/c");
        normal("/a//b", "/a//b");
        normal("/a//../b", "/a/b");
        normal("//..", "/");
        normal("/...", "/...");
        normal("/.a/..b/c../d.", "/.a/..b/c../d.");
        normal("/a/..;/b", "/a/..;/b");
        normal("/a/..%2Fb", "/a/..%2Fb");
        normal("/a%2F../b", "/a%2F../b");
        normal("/a%2Fx/../b", "/b");
    }

    #[test]
    fn the_common_path_and_host_allocate_nothing() {
        let parsed = parse("GET", "http://example.com/wsapp/room.1?token=%20").unwrap();
        assert!(matches!(parsed.origin_form, Cow::Borrowed(_)));
        assert!(matches!(parsed.normalized, Cow::Borrowed(_)));
        assert!(matches!(parsed.authority, Some((_, Host(Cow::Borrowed(_))))));
    }

    /// No text panics, and what is accepted stays as it is when it is normalized again and holds no dot
    /// segment.
    #[test]
    fn normalizing_holds_for_any_text() {
        let letters = ["/", "/", ".", "%2e", "%2E", "%25", "%", "2", "e", "a", ";", "%2f", "\u{e9}"];
        for seed in 0..20_000 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let path: String = (0..dice.usize(..12))
                .map(|_| letters[dice.usize(..letters.len())])
                .fold("/".into(), |a, b| a + b);
            if let Ok(once) = normalize(&path) {
                assert_eq!(normalize(&once).as_ref(), Ok(&once), "{path}");
                assert!(once.starts_with('/'), "{path}");
                assert!(!once.split('/').any(|segment| segment == "." || segment == ".."), "{path}: {once}");
            }
        }
    }

    #[track_caller]
    fn host(value: impl AsRef<[u8]>, expected: Result<&str, &str>) {
        match (authority(value.as_ref()), expected) {
            (Ok(host), Ok(expected)) => assert_eq!(host.as_str(), expected),
            (Err(rule), Err(word)) => assert!(rule.contains(word), "{rule}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn hosts_are_compared_without_case_port_and_trailing_dot() {
        host("example.com", Ok("example.com"));
        host("Example.COM:80", Ok("example.com"));
        host("example.com.", Ok("example.com"));
        host("example.com.:8080", Ok("example.com"));
        host("example.com..", Ok("example.com."));
        host("example.com:", Ok("example.com"));
        host("h:0", Ok("h"));
        host("h:65535", Ok("h"));
        host("h:00080", Ok("h"));
        host("127.0.0.1:8020", Ok("127.0.0.1"));
        host("a_b-c~d!$&'()*+,;=", Ok("a_b-c~d!$&'()*+,;="));
        host("a%20B", Ok("a%20b"));
        host("[::1]", Ok("[::1]"));
        host("[::1]:80", Ok("[::1]"));
        host("[0:0:0:0::0001]:", Ok("[::1]"));
        host("[2001:DB8::A]", Ok("[2001:db8::a]"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for empty in ["", ".", ":", ":80", ".:80"] {
            host(empty, Err("empty"));
        }
        for named in ["u@h", "u:p@h:80", "@", "u@[::1]"] {
            host(named, Err("user"));
        }
        for port in ["h:65536", "h:-1", "h:+80", "h:8 0", "h:80:", "h:a", "::1", "[::1]:x", "[::1]:65536"] {
            host(port, Err("port"));
        }
        for letter in
            ["a b", "a/b", "a?b", "a#b", "a\\b", "a\"b", "a<b", "a%", "a%4", "a%zz", "a%%41", "a]", " a"]
        {
            host(letter, Err("character"));
        }
        host("caf\u{e9}", Err("character"));
        host([b'a', 0xff], Err("character"));
        host([b'a', 0], Err("character"));
        for address in ["[]", "[::g]", "[1.2.3.4]", "[fe80::1%25eth0]", "[v1.a]", "[h]", "[[::1]]"] {
            host(address, Err("IPv6"));
        }
        host("[::1", Err("closed"));
        host("[::1]80", Err("behind"));
        host("[::1].", Err("behind"));
    }
}
