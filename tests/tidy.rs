//! The architecture as a test: who may import whom, where `unsafe` stands and where the clock is read. It reads `src/`
//! with comments, strings and test parts taken out; test parts may use what they like. Sizes and taste are left to
//! readers.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What a module may use: a row is for the module and all within it, and what several rows allow adds up. A path
/// allows all that begins with it; `crate::` is ours. `std` is free but for [`WORLD`]. A module without a row may use
/// nothing, so a new one has to be placed here.
const TABLE: &[(&str, &[&str])] = &[
    // Pure: values in, decisions out.
    ("error", &[]),
    ("plan", &["ipnet", "log::LevelFilter"]),
    ("identity", &["crate::plan"]),
    ("changes", &["crate::changes", "crate::identity", "crate::plan"]),
    ("changes", &["serde", "serde_json", "humantime", "log::LevelFilter"]),
    ("moment", &[]),
    ("timer", &["crate::moment"]),
    ("limit", &[]),
    ("stats", &[]),
    ("route", &["crate::plan", "ipnet"]),
    ("balance", &["crate::moment", "crate::plan", "crate::rebalance", "siphasher", "fastrand::Rng"]),
    ("pace", &["crate::moment"]),
    ("drain", &["crate::moment", "crate::pace", "crate::plan", "fastrand::Rng"]),
    ("rebalance", &["crate::moment", "crate::pace", "crate::plan"]),
    ("setup", &["crate::balance", "crate::identity", "crate::moment", "crate::plan", "crate::rebalance"]),
    ("access_log", &["crate::plan", "serde", "serde_json", "humantime", "itoa"]),
    ("proto", &["crate::error", "crate::plan", "crate::proto"]),
    ("proto::head", &["httparse"]),
    ("proto::reply", &["httpdate"]),
    ("proto::upgrade", &["base64", "sha1"]),
    // Text in, a plan out; of the world only the names of servers, resolved once.
    ("config", &["crate::config", "crate::error", "crate::plan", "toml", "serde"]),
    ("config", &["crate::proto::head", "crate::proto::target"]),
    ("config", &["humantime", "ipnet", "sha1", "strsim", "log::LevelFilter", "std::net::ToSocketAddrs"]),
    // The kernel, and nothing of ours.
    ("sys", &["libc", "socket2", "std::fs", "std::os", "std::net::TcpListener", "std::net::TcpStream"]),
    ("sys", &["unsafe"]),
    // What operators ask, and how they are answered: on a transport, and of what is counted.
    ("admin", &["crate::admin", "crate::access_log", "crate::balance", "crate::identity", "crate::moment"]),
    (
        "admin",
        &["crate::plan", "crate::setup", "crate::stats", "crate::session::engine", "crate::sys::usage"],
    ),
    ("admin", &["form_urlencoded", "humantime", "ipnet", "serde", "serde_json"]),
    ("admin::connection", &["crate::session::transport"]),
    ("admin::host", &["crate::changes", "crate::crew"]),
    ("admin::http", &["crate::error", "crate::proto::head", "httpdate"]),
    ("admin::metrics", &["prometheus"]),
    // Machines meet streams. A server that fails is named at once, which is what `log` is for.
    ("session", &["crate::session", "crate::proto", "crate::error", "crate::plan", "crate::sys"]),
    ("session", &["crate::access_log", "crate::balance", "crate::limit", "crate::route"]),
    ("session", &["crate::drain::Standing", "crate::moment", "crate::setup", "crate::stats"]),
    ("session", &["fastrand::Rng", "log"]),
    ("session::transport", &["mio::event::Source", "mio::net"]),
    // Sockets that the process was handed.
    ("inherited", &["std::os::fd"]),
    // A bound address. A unix socket's file goes with its listener.
    ("listener", &["crate::identity", "crate::inherited", "crate::moment", "crate::plan", "crate::sys"]),
    ("listener", &["crate::session::transport", "crate::session::keepalive"]),
    ("listener", &["mio::event::Source", "mio::net", "std::fs::remove_file", "std::os::fd"]),
    // What loops share, and how they call each other.
    (
        "crew",
        &[
            "crate::error",
            "crate::inherited",
            "crate::limit",
            "crate::listener",
            "crate::pace",
            "crate::plan",
        ],
    ),
    ("crew", &["crate::session::journal::Sink", "crate::session::transport::Stream"]),
    ("crew", &["crate::setup", "crate::stats", "mio::Waker"]),
    ("crew", &["crate::admin"]),
    // The loop: the poll, the slab and the clock.
    ("event_loop", &["crate::session", "crate::proto", "crate::error", "crate::plan", "crate::sys"]),
    ("event_loop", &["crate::balance", "crate::drain", "crate::identity", "crate::rebalance"]),
    ("event_loop", &["crate::setup", "crate::timer"]),
    ("event_loop", &["crate::crew", "crate::event_loop", "crate::inherited", "crate::listener"]),
    ("event_loop", &["mio", "slab", "log", "fastrand::Rng", "std::os::fd"]),
    ("event_loop", &["crate::moment", "Instant::now", "Instant::elapsed", "SystemTime::now"]),
    // Lines about open tunnels.
    ("event_loop::rounds", &[]),
    // Operators: the token is read from a file.
    ("event_loop::steering", &["crate::access_log", "crate::admin", "serde", "std::fs"]),
    // What embedders see. The writer of log lines is a thread that waits for a disk, so that no loop has to.
    ("proxy", &["crate::crew", "crate::event_loop", "crate::error", "crate::plan", "crate::stats"]),
    ("proxy", &["crate::inherited"]),
    ("proxy", &["crate::admin::host", "crate::session::journal::Sink", "std::os::fd"]),
    // Only where as many loops as are configured are asked for.
    ("proxy", &["std::thread"]),
    ("log_writer", &["std::fs", "std::os", "std::thread"]),
    ("lib", &["crate"]),
    ("fuzz", &["crate::proto", "crate::plan", "crate::error"]),
    // The command: only the crate's public API. It is a process of its own, with clock, threads and files.
    ("main", &["adit", "log", "std::env", "std::fs", "std::process::ExitCode"]),
    ("cli", &["lexopt", "humantime", "crate::cli"]),
    ("descriptors", &["adit", "log"]),
    ("logger", &["adit", "log", "env_logger", "std::env", "std::thread", "SystemTime::now"]),
    ("signals", &["adit", "log", "signal_hook", "std::process", "std::thread", "crate::EXIT_BUG"]),
    ("signals", &["crate::logger", "crate::reload", "crate::systemd"]),
    ("reload", &["adit", "log", "std::thread", "crate::descriptors", "crate::logger", "crate::load"]),
    ("reload", &["crate::systemd"]),
    ("privileges", &["adit", "log", "nix"]),
    ("systemd", &["adit", "log", "nix::time", "std::env", "std::os", "std::process", "std::thread"]),
    ("systemd", &["Instant::now"]),
    ("systemd_off", &["adit"]),
    // Another process than the one that is asked: a client, and a terminal.
    ("ctl", &["crate::cli", "crate::ctl", "serde", "crate::fail", "crate::EXIT_USAGE"]),
    ("ctl", &["std::env", "std::fs", "std::process::ExitCode"]),
    ("ctl::requests", &["serde_json"]),
    ("ctl::place", &["adit::Address", "toml"]),
    ("ctl::client", &["adit::Address", "httparse", "serde_json", "socket2", "Instant::now"]),
    ("top", &["crate::cli", "crate::ctl", "crate::top", "ratatui"]),
    ("top", &["crate::fail", "crate::EXIT_USAGE", "crate::EXIT_BUG", "signal_hook"]),
    ("top", &["std::process::ExitCode", "std::thread", "Instant::now"]),
    ("completions", &["crate::cli"]),
    ("demo", &["adit", "log", "tungstenite", "fastrand", "std::thread", "Instant::now"]),
    ("demo", &["std::net::TcpListener", "std::net::TcpStream"]),
];

/// What reaches out of the process, or into the time: a row has to allow it.
const WORLD: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "Instant::elapsed",
    "unsafe",
];

const COLUMNS_MAX: usize = 120;

/// What is said of work left undone, cut in two so that this file is not about itself.
const LEFT_FOR_LATER: [[&str; 2]; 6] =
    [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["dbg", "!"], ["todo", "!"], ["unimpl", "emented!"]];

#[test]
fn every_import_and_every_path_keeps_to_the_table() {
    let sources = sources();
    let crates = crates();
    let of_tests: Vec<String> = sources.iter().flat_map(|source| source.modules_of_tests()).collect();
    let mut wrong = String::new();
    for source in &sources {
        if !of_tests.iter().any(|module| is_within(&source.module, module)) {
            wrong += &violations(source, &crates);
        }
    }
    assert!(sources.len() > 30, "src/ was read");
    assert!(wrong.is_empty(), "against TABLE in tests/tidy.rs:\n{wrong}");
}

#[test]
fn lines_are_not_wider_than_a_reader_expects() {
    let mut wrong = String::new();
    for (path, text) in files(&["src"]) {
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| line.chars().count() > COLUMNS_MAX) {
            let columns = line.chars().count();
            writeln!(wrong, "{path}:{number}: {columns} columns, {COLUMNS_MAX} are allowed").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn nothing_is_left_for_later() {
    let files = files(&["src", "tests", "examples", "scripts", "fuzz/fuzz_targets"]);
    let mut wrong = String::new();
    for (path, text) in &files {
        for (number, line) in (1..).zip(text.lines()) {
            for word in LEFT_FOR_LATER.map(|halves| halves.concat()) {
                if has_word(line, &word) {
                    writeln!(wrong, "{path}:{number}: {word}: finish it, or file it").unwrap();
                }
            }
        }
    }
    assert!(files.iter().any(|(path, _)| path.ends_with(".mjs")), "tests/e2e was read");
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// A file of `src/`, its module as a path (`session::relay`).
struct Source {
    path: String,
    module: String,
    /// Without comments, strings and test parts.
    code: String,
    /// Modules in files of their own that only tests have.
    test_modules: Vec<String>,
}

impl Source {
    fn of(path: &str, text: &str) -> Source {
        let module = path.strip_prefix("src/").and_then(|path| path.strip_suffix(".rs")).unwrap_or(path);
        let module = module.strip_suffix("/mod").unwrap_or(module).replace('/', "::");
        let (code, test_modules) = without_tests(&without_comments_and_strings(text));
        Source { path: path.into(), module, code, test_modules }
    }

    /// The module as seen from the root: the roots themselves have no name there.
    fn place(&self) -> Vec<&str> {
        self.module.split("::").filter(|name| !["lib", "main"].contains(name)).collect()
    }

    fn modules_of_tests(&self) -> impl Iterator<Item = String> {
        let place = self.place().join("::");
        self.test_modules.iter().map(move |name| format!("{place}::{name}").trim_start_matches("::").into())
    }
}

/// What a file uses and may not, a line each.
fn violations(source: &Source, crates: &[String]) -> String {
    let rows: Vec<_> = TABLE.iter().filter(|(module, _)| is_within(&source.module, module)).collect();
    let may = |path: &str| rows.iter().any(|(_, allowed)| allowed.iter().any(|begin| is_within(path, begin)));
    let mut wrong = String::new();
    if rows.is_empty() {
        writeln!(wrong, "{}:1: {} has no row: say what it may use", source.path, source.module).unwrap();
    }
    for (line, path) in paths(&source.code) {
        let path = absolute(&path, &source.place());
        let first = path.split("::").next().unwrap_or_default();
        // `use std::net` brings `net::TcpStream` in, so what has the world within it is judged as well.
        let is_judged = first == "crate"
            || crates.iter().any(|name| name == first)
            || WORLD.iter().any(|world| is_within(&path, world) || is_within(world, &path));
        if is_judged && !may(&path) {
            writeln!(wrong, "{}:{line}: {} may not use {path}", source.path, source.module).unwrap();
        }
    }
    wrong
}

/// Whether a path is another one, or within it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// A path from the root: `super::x` and `self::x` told as `crate::..`; the clock by its short name.
fn absolute(path: &str, place: &[&str]) -> String {
    for clock in ["Instant::now", "SystemTime::now", "Instant::elapsed"] {
        if path == clock || path.ends_with(&format!("::{clock}")) {
            return clock.into();
        }
    }
    let mut names: Vec<&str> = path.split("::").collect();
    if !["self", "super"].contains(&names[0]) || names.len() == 1 {
        return path.into();
    }
    let mut place = place.to_vec();
    while let Some(step @ (&"self" | &"super")) = names.first() {
        if *step == "super" {
            place.pop();
        }
        names.remove(0);
    }
    ["crate"].into_iter().chain(place).chain(names).collect::<Vec<_>>().join("::")
}

/// Each path of the code with its line: those of `use` items spelt out one by one, and those in between. The word
/// `unsafe` counts as one, and so does `.elapsed`, which asks the clock.
fn paths(code: &str) -> Vec<(usize, String)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (line, token) = tokens[at];
        let is_name = token.starts_with(|c: char| c.is_alphabetic() || c == '_');
        let next = tokens.get(at + 1).map_or("", |(_, token)| token);
        at += 1;
        if token == "unsafe" {
            found.push((line, token.into()));
        } else if token == "." && next == "elapsed" {
            found.push((line, "Instant::elapsed".into()));
        } else if token == "use" && next != "<" {
            at = spell_out(&tokens, at, "", &mut found);
        } else if is_name && next == "::" {
            let mut path = token.to_owned();
            while let [(_, "::"), (_, name), ..] = &tokens[at..] {
                if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                    break;
                }
                path = format!("{path}::{name}");
                at += 2;
            }
            found.push((line, path));
        }
    }
    found
}

/// Reads a `use` tree from `at`, and gives back where it ends.
fn spell_out(
    tokens: &[(usize, &str)],
    mut at: usize,
    outer: &str,
    found: &mut Vec<(usize, String)>,
) -> usize {
    let mut path = outer.to_owned();
    while let Some(&(line, token)) = tokens.get(at) {
        at += 1;
        match token {
            "::" => {}
            "{" => loop {
                at = spell_out(tokens, at, &path, found);
                match tokens.get(at) {
                    Some((_, ",")) if !matches!(tokens.get(at + 1), Some((_, "}"))) => at += 1,
                    Some((_, ",")) => return at + 2,
                    _ => return at + 1,
                }
            },
            "as" => at += 1,
            "self" if !outer.is_empty() && path == outer => {}
            "*" => {}
            name => {
                path = if path.is_empty() { name.into() } else { format!("{path}::{name}") };
            }
        }
        if matches!(tokens.get(at), None | Some((_, ";" | "," | "}"))) {
            found.push((line, path));
            return at;
        }
    }
    at
}

/// Names, `::`, and all else a character at a time, each with its line.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (number, line) in (1..).zip(code.lines()) {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if first.is_alphanumeric() || first == '_' {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push((number, &rest[..length]));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// The same text with blanks for what is in comments, strings and characters.
fn without_comments_and_strings(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_name = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            string(rest)
        } else if !after_name && raw_string(rest).is_some() {
            raw_string(rest).unwrap_or_default()
        } else if first == '\'' {
            character(rest).unwrap_or(0)
        } else {
            0
        };
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let step = &text[at..];
        if step.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if step.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += step.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

fn string(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `r".."`, `br#".."#` and their like.
fn raw_string(text: &str) -> Option<usize> {
    let behind = ["br", "cr", "r"].into_iter().find_map(|start| text.strip_prefix(start))?;
    let body = behind.trim_start_matches('#');
    let end = format!("\"{}", "#".repeat(behind.len() - body.len()));
    let begin = text.len() - body.len() + 1;
    body.starts_with('"').then(|| text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len()))
}

/// `'a'` and `'\n'`, but no lifetime.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    if chars.next()?.1 == '\\' {
        chars.next()?;
        return text[3..].find('\'').map(|at| at + 4);
    }
    let (at, c) = chars.next()?;
    (c == '\'').then_some(at + 1)
}

/// The same code with blanks for what only tests are built with, and the names of modules in files that only they
/// have.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let (mut out, mut modules, mut rest) = (String::new(), Vec::new(), code);
    while let Some(at) = ["#[cfg(test)]", "#[cfg(all(test,"].iter().filter_map(|mark| rest.find(mark)).min() {
        out += &rest[..at];
        let item = &rest[at..][..item_length(&rest[at..])];
        let words: Vec<&str> = tokens(item).into_iter().map(|(_, token)| token).collect();
        if let [.., "mod", name, ";"] = words[..] {
            modules.push(name.into());
        }
        out.extend(item.chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = &rest[at + item.len()..];
    }
    (out + rest, modules)
}

/// From an attribute to the end of what it stands on: a `;`, a closed brace, or the brace around it all.
fn item_length(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' if depth == 0 => return at,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let rust = files(&["src"]).into_iter().filter(|(path, _)| path.ends_with(".rs"));
    rust.map(|(path, text)| Source::of(&path, &text)).collect()
}

/// The text files below these folders, by their path from the root; what npm installs left out.
fn files(folders: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.unwrap().path()) {
            let is_ours = !["node_modules", "target"].iter().any(|name| path.ends_with(name));
            if path.is_dir() && is_ours {
                folders.push(path);
            } else if let Some(text) = fs::read(&path).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
                found.push((path.strip_prefix(root()).unwrap().display().to_string(), text));
            }
        }
    }
    found.sort();
    found
}

/// The names of all crates that `Cargo.toml` brings in, as code spells them.
fn crates() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut names = vec!["adit".to_owned()];
    let mut section = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && !line.starts_with('#') {
            names.extend(line.split_once(" = ").map(|(name, _)| name.replace('-', "_")));
        }
    }
    assert!(["mio", "libc", "signal_hook", "tempfile"].iter().all(|name| names.iter().any(|n| n == name)));
    names
}

/// What is said of a file with this text.
#[track_caller]
fn check(path: &str, text: &str, expected: &str) {
    assert_eq!(violations(&Source::of(path, text), &crates()), expected, "{text}");
}

#[test]
fn the_table_is_kept_in_every_spelling() {
    let route = "src/route.rs";
    check(route, "use std::net::IpAddr;\nuse crate::plan::{Route, Trusted};\nuse ipnet::IpNet;\n", "");
    check(route, "\nuse mio::Token;", "src/route.rs:2: route may not use mio::Token\n");
    check(route, "use slab;", "src/route.rs:1: route may not use slab\n");
    check(route, "pub(crate) use slab::*;", "src/route.rs:1: route may not use slab\n");
    check(route, "fn f() {\n    log::warn!(\"x\")\n}", "src/route.rs:2: route may not use log::warn\n");
    check(route, "fn f(x: ::libc::c_int) {}", "src/route.rs:1: route may not use libc::c_int\n");
    check(
        route,
        "use {\n  crate::{plan::{self, Route as R},\n    session::{Next, Turn},\n  },\n  std::{fs, net::{TcpStream, IpAddr}},\n};",
        "src/route.rs:3: route may not use crate::session::Next\n\
         src/route.rs:3: route may not use crate::session::Turn\n\
         src/route.rs:5: route may not use std::fs\n\
         src/route.rs:5: route may not use std::net::TcpStream\n",
    );
    check(route, "use super::sys;", "src/route.rs:1: route may not use crate::sys\n");
    check("src/new.rs", "", "src/new.rs:1: new has no row: say what it may use\n");

    let relay = "src/session/relay.rs";
    check(relay, "use super::flow::Flow;\nuse crate::sys;\nuse super::super::plan::Plan;", "");
    check(
        relay,
        "use super::super::config::Config;",
        "src/session/relay.rs:1: session::relay may not use crate::config::Config\n",
    );
    check(
        relay,
        "use mio::net::TcpStream;",
        "src/session/relay.rs:1: session::relay may not use mio::net::TcpStream\n",
    );
    check("src/session/transport.rs", "use mio::net::TcpStream;", "");
    check(
        "src/session/mod.rs",
        "use super::timer::Timers;",
        "src/session/mod.rs:1: session may not use crate::timer::Timers\n",
    );
    check("src/proto/body.rs", "use httparse;", "src/proto/body.rs:1: proto::body may not use httparse\n");
    check("src/proto/head.rs", "use httparse;", "");
    check(
        "src/timer.rs",
        "fn f() -> Instant { std::time::Instant::now() }",
        "src/timer.rs:1: timer may not use Instant::now\n",
    );
    check("src/timer.rs", "use std::time::{Instant, SystemTime};", "");
    check("src/event_loop.rs", "fn f() { Instant::now() }", "");
    check("src/timer.rs", "fn f() { x.elapsed() }", "src/timer.rs:1: timer may not use Instant::elapsed\n");
    check("src/timer.rs", "use std::{io, net};", "src/timer.rs:1: timer may not use std::net\n");
    check("src/timer.rs", "use std::net::*;", "src/timer.rs:1: timer may not use std::net\n");
    check("src/relay.rs", "", "src/relay.rs:1: relay has no row: say what it may use\n");
    check("src/limit.rs", "fn f() { unsafe { g() } }", "src/limit.rs:1: limit may not use unsafe\n");
    check("src/sys/splice.rs", "fn f() { unsafe { libc::g() } }", "");
    check(
        "src/sys/splice.rs",
        "use crate::plan::Plan;",
        "src/sys/splice.rs:1: sys::splice may not use crate::plan::Plan\n",
    );
}

#[test]
fn words_in_comments_strings_and_tests_are_no_imports() {
    let limit = "src/limit.rs";
    check(
        limit,
        "#![deny(unsafe_code)] // unsafe: use libc::x;\n/* libc::x /* */ unsafe */\nfn f<'a>(x: &'a str) {}",
        "",
    );
    check(limit, "const A: &str = \"unsafe \\\" libc::x\"; const B: [u8; 2] = [b'\"', b'\\''];", "");
    check(limit, "const A: &str = r#\"a\" libc::x\"#; const C: char = '\\u{22}'; const D: char = '\"';", "");
    check(limit, "const A: char = '\"';\nuse libc::x;", "src/limit.rs:2: limit may not use libc::x\n");
    check(
        limit,
        "#[cfg(test)]\nmod tests {\n    use libc::x;\n    fn f() { unsafe { Instant::now() } }\n}\n",
        "",
    );
    check(
        limit,
        "#[cfg(test)]\nmod tests { fn f() { \"}\" } }\nuse libc::x;",
        "src/limit.rs:3: limit may not use libc::x\n",
    );
    check(
        limit,
        "#[cfg(test)]\n#[allow(x)]\nuse libc::x;\nuse libc::y;",
        "src/limit.rs:4: limit may not use libc::y\n",
    );
    check(
        limit,
        "struct A {\n    #[cfg(test)]\n    a: libc::x,\n}\nuse libc::y;",
        "src/limit.rs:5: limit may not use libc::y\n",
    );
    check(
        limit,
        "#[cfg(all(test, unix))]\nfn f(x: [u8; 2]) { libc::x }\nuse libc::y;",
        "src/limit.rs:3: limit may not use libc::y\n",
    );
    check(limit, "#[cfg(not(test))]\nuse libc::y;", "src/limit.rs:2: limit may not use libc::y\n");

    let parent = Source::of("src/config/mod.rs", "#[cfg(test)]\nmod tests;\nmod check;");
    assert_eq!(parent.modules_of_tests().collect::<Vec<_>>(), ["config::tests"]);
    let root = Source::of("src/lib.rs", "#[cfg(test)]\nmod bench;");
    assert_eq!(root.modules_of_tests().collect::<Vec<_>>(), ["bench"]);
}

#[test]
fn what_is_left_for_later_is_found_as_a_word() {
    let [word, _, mark, _, call, _] = LEFT_FOR_LATER.map(|halves| halves.concat());
    assert!(has_word(&format!("// {word}: later"), &word));
    assert!(has_word(&format!("    {call}()"), &call));
    assert!(!has_word(&format!("mktemp /tmp/{mark}{mark}"), &mark));
    assert!(!has_word("autodo_x", &word.to_lowercase()));
}
