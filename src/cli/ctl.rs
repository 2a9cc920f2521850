//! The command line of `adit ctl`, `adit top` and `adit completions`. Pure, as its parent.
//!
//! Flags may stand before and behind the verb. So all are collected first, and the verb takes those that it knows; what
//! is left is not for it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;
use lexopt::{Error, Parser};

use super::{Command, Form};

/// What `adit ctl --help` prints.
pub const CTL_HELP: &str = "\
adit ctl: looks at a running adit and steers it, over its admin listener

Usage: adit ctl status
       adit ctl tunnels [ID | FILTERS] [--sort KEY] [--asc] [--limit N | --all]
       adit ctl close ID | FILTERS | --all [--yes] [--dry-run]
       adit ctl drain UPSTREAM/SERVER | --listener L [--route R] | --all [--dry-run]
       adit ctl undrain UPSTREAM/SERVER | --listener L [--route R] [--dry-run]
       adit ctl rebalance UPSTREAM [--dry-run]
       adit ctl plan
       adit ctl reload

  status     what it does: clients, bytes, listeners, routes, upstreams and servers
  tunnels    those that are open
  close      close tunnels; asks before it closes more than one
  drain      take in nothing new there, and let its tunnels end by [drain]; --all: drain, then stop, as TERM does
  undrain    take that back; not where the file itself says drain = true
  rebalance  close what servers of an upstream have more than their share, so that it moves
  plan       what a reload would change, and what becomes of open tunnels
  reload     read the configuration file again, as HUP does

FILTERS, all of which must hold:
  --client NET       the client's address or network: 192.0.2.7, 10.0.0.0/8
  --listener L       \"0.0.0.0:8020\"
  --route R          host and path: \"chat.example.com/wsapp/\"; \"*\" for any host
  --upstream U       its name
  --server S         its address; drain and undrain take \"--upstream U --server S\" for U/S as well
  --min-age TIME     open for so long: \"10m\", \"1h30m\", or seconds
  --min-idle TIME    silent for so long
  --min-bytes SIZE   that have carried so much, both ways together: 500, \"10 MiB\"

  --sort KEY         age (if left out), idle, bytes, bytes_up, bytes_down, rate: the most first
  --asc              the least first
  --limit N          so many, 1 to 1000; 100 if left out
  --all              all of them
  --dry-run          only say what it would be about
  --yes              do not ask
  --json             the answer as it came, one object; with \"tunnels --all\" one for each 1000
  --admin ADDRESS    where the admin listener is: \"unix:/run/adit/admin.sock\", \"127.0.0.1:8021\". Left out:
                     ADIT_ADMIN in the environment, or what the configuration file says
  -c, --config FILE  that file; ./config.toml if left out, or /etc/adit/config.toml
  --token-file FILE  its token. Left out: ADIT_TOKEN_FILE, or what the configuration file says
  -h, --help         print this

Exit codes: 0 done, 1 refused or nothing of that name, 2 no answer, 64 usage, 70 a bug
";

/// What `adit top --help` prints.
pub const TOP_HELP: &str = "\
adit top: the tunnels and servers of a running adit, live on a terminal, over its admin listener

Usage: adit top [--every TIME]

  --every TIME       how often to look: \"1s\" if left out, at least \"100ms\"
  --admin ADDRESS    where the admin listener is: \"unix:/run/adit/admin.sock\", \"127.0.0.1:8021\". Left out:
                     ADIT_ADMIN in the environment, or what the configuration file says
  -c, --config FILE  that file; ./config.toml if left out, or /etc/adit/config.toml
  --token-file FILE  its token. Left out: ADIT_TOKEN_FILE, or what the configuration file says
  -h, --help         print this

Keys: q to quit, ? for the others
Exit codes: 0 done, 1 refused, 2 no answer, 64 usage, 70 a bug
";

/// What `adit ctl` is to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Ctl {
    /// Whom it asks.
    pub whereabouts: Whereabouts,
    /// What.
    pub verb: Verb,
    /// How the answer is told.
    pub form: Form,
}

/// What `adit top` is to do.
#[derive(Debug, PartialEq, Eq)]
pub struct Top {
    /// Whom it asks.
    pub whereabouts: Whereabouts,
    /// How often.
    pub every: Duration,
}

/// Where the admin listener is, as far as the command line says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    pub admin: Option<String>,
    pub config: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
}

/// What is asked of the admin listener.
#[derive(Debug, PartialEq, Eq)]
pub enum Verb {
    Status,
    Tunnels {
        filters: Filters,
        sort: Sort,
        order: Order,
        amount: Amount,
    },
    Close {
        which: Which,
        step: Step,
        consent: Consent,
    },
    Drain {
        target: Target,
        step: Step,
    },
    /// Never [`Target::All`].
    Undrain {
        target: Target,
        step: Step,
    },
    Rebalance {
        upstream: String,
        step: Step,
    },
    Plan,
    Reload,
}

/// What all of a tunnel's features must be, by the names that the admin listener has for them.
pub type Filters = Vec<(&'static str, String)>;

/// What tunnels are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Age,
    Idle,
    Bytes,
    BytesUp,
    BytesDown,
    Rate,
}

impl Sort {
    pub const ALL: [Sort; 6] =
        [Sort::Age, Sort::Idle, Sort::Bytes, Sort::BytesUp, Sort::BytesDown, Sort::Rate];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Sort::Age => "age",
            Sort::Idle => "idle",
            Sort::Bytes => "bytes",
            Sort::BytesUp => "bytes_up",
            Sort::BytesDown => "bytes_down",
            Sort::Rate => "rate",
        }
    }
}

/// Which come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Those that have the most of it.
    Most,
    /// Those that have the least.
    Least,
}

/// How many tunnels are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// As many as there are.
    All,
    /// So many at most.
    Some(u16),
}

/// Which tunnels are closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    One(String),
    Those(Filters),
    All,
}

/// What is drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Server { upstream: String, server: String },
    Listener(String),
    Route { listener: String, route: String },
    All,
}

/// Whether it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Done,
    DryRun,
}

/// Whether to ask before more than one tunnel is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    Given,
    Asked,
}

/// Shells that can be made to complete our words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// As many tunnels as an answer may have.
pub const PAGE_TUNNELS_MAX: u16 = 1000;
const LIMIT_DEFAULT: u16 = 100;
/// More often nobody can read.
const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_secs(60 * 60);

/// The flags that narrow tunnels down, and what the admin listener calls them.
const FILTERS: [(&str, &str); 8] = [
    ("client", "client"),
    ("listener", "listener"),
    ("route", "route"),
    ("upstream", "upstream"),
    ("server", "server"),
    ("min-age", "min_age"),
    ("min-idle", "min_idle"),
    ("min-bytes", "min_bytes"),
];
/// Further flags, with a value and without.
const WITH_VALUE: [&str; 5] = ["sort", "limit", "admin", "config", "token-file"];
const ALONE: [&str; 5] = ["asc", "all", "dry-run", "yes", "json"];

/// Reads what stands behind `ctl`. A file that was named before it counts as if it stood behind.
pub fn ctl(mut parser: Parser, config: Option<PathBuf>) -> Result<Command, Error> {
    let known = |name: &str| {
        let filters = FILTERS.iter().map(|(flag, _)| *flag);
        let with_value =
            filters.chain(WITH_VALUE).find(|flag| *flag == name).map(|flag| (flag, Takes::Value));
        with_value.or_else(|| ALONE.into_iter().find(|flag| *flag == name).map(|flag| (flag, Takes::Nothing)))
    };
    let Some(mut given) = Given::collect(&mut parser, known, config)? else {
        return Ok(Command::Help(CTL_HELP));
    };
    let Some(verb) = given.words.pop_front() else {
        return Err(format!("ctl is to do what? {VERBS}").into());
    };
    let form = if given.has("json") { Form::Json } else { Form::Text };
    let whereabouts = given.whereabouts()?;
    let does = match verb.as_str() {
        "status" => Verb::Status,
        "tunnels" => tunnels(&mut given)?,
        "close" => close(&mut given)?,
        "drain" => Verb::Drain { target: target(&mut given, &verb)?, step: given.step() },
        "undrain" => match target(&mut given, &verb)? {
            Target::All => return Err("undrain takes no --all: what stops goes on to".into()),
            target => Verb::Undrain { target, step: given.step() },
        },
        "rebalance" => {
            let upstream = given.words.pop_front().ok_or("rebalance which upstream?")?;
            Verb::Rebalance { upstream, step: given.step() }
        }
        "plan" => Verb::Plan,
        "reload" => Verb::Reload,
        _ => return Err(format!("ctl cannot {verb:?}: {VERBS}").into()),
    };
    given.nothing_else(&verb)?;
    Ok(Command::Ctl(Ctl { whereabouts, verb: does, form }))
}

const VERBS: &str = "status, tunnels, close, drain, undrain, rebalance, plan or reload";

/// Reads what stands behind `top`.
pub fn top(mut parser: Parser, config: Option<PathBuf>) -> Result<Command, Error> {
    let flags = ["every", "admin", "config", "token-file"];
    let known = |name: &str| flags.into_iter().find(|flag| *flag == name).map(|flag| (flag, Takes::Value));
    let Some(mut given) = Given::collect(&mut parser, known, config)? else {
        return Ok(Command::Help(TOP_HELP));
    };
    let every = match given.text("every")? {
        None => Duration::from_secs(1),
        Some(text) => humantime::parse_duration(&text)
            .ok()
            .filter(|every| (EVERY_MIN..=EVERY_MAX).contains(every))
            .ok_or_else(|| format!("--every {text:?}: \"100ms\" to \"1h\""))?,
    };
    let whereabouts = given.whereabouts()?;
    given.nothing_else("top")?;
    Ok(Command::Top(Top { whereabouts, every }))
}

/// Reads what stands behind `completions`.
pub fn completions(mut parser: Parser) -> Result<Command, Error> {
    let Some(mut given) = Given::collect(&mut parser, |_| None, None)? else {
        return Ok(Command::Help(super::HELP));
    };
    let shell = match given.words.pop_front().as_deref() {
        Some("bash") => Shell::Bash,
        Some("zsh") => Shell::Zsh,
        Some("fish") => Shell::Fish,
        Some(other) => return Err(format!("no completions for {other:?}: bash, zsh or fish").into()),
        None => return Err("completions for which shell? bash, zsh or fish".into()),
    };
    given.nothing_else("completions")?;
    Ok(Command::Completions(shell))
}

fn tunnels(given: &mut Given) -> Result<Verb, Error> {
    let mut filters = given.filters()?;
    if let Some(id) = given.words.pop_front() {
        filters.push(("id", id));
    }
    let sort = match given.text("sort")? {
        None => Sort::Age,
        Some(text) => Sort::ALL
            .into_iter()
            .find(|sort| sort.name() == text)
            .ok_or_else(|| format!("--sort {text:?}: {}", Sort::ALL.map(Sort::name).join(", ")))?,
    };
    let order = if given.has("asc") { Order::Least } else { Order::Most };
    let amount = match (given.text("limit")?, given.has("all")) {
        (Some(_), true) => return Err("--all and --limit contradict each other".into()),
        (None, true) => Amount::All,
        (None, false) => Amount::Some(LIMIT_DEFAULT),
        (Some(text), false) => {
            let limit = text.parse().ok().filter(|limit| (1..=PAGE_TUNNELS_MAX).contains(limit));
            Amount::Some(limit.ok_or_else(|| format!("--limit {text:?}: 1 to {PAGE_TUNNELS_MAX}"))?)
        }
    };
    Ok(Verb::Tunnels { filters, sort, order, amount })
}

fn close(given: &mut Given) -> Result<Verb, Error> {
    let (id, filters, all) = (given.words.pop_front(), given.filters()?, given.has("all"));
    let which = match (id, filters.is_empty(), all) {
        (Some(id), true, false) => Which::One(id),
        (None, false, false) => Which::Those(filters),
        (None, true, true) => Which::All,
        (None, true, false) => return Err("close which tunnels? An id, filters, or --all".into()),
        _ => return Err("close takes an id, filters, or --all: one of them".into()),
    };
    let consent = if given.has("yes") { Consent::Given } else { Consent::Asked };
    Ok(Verb::Close { which, step: given.step(), consent })
}

fn target(given: &mut Given, verb: &str) -> Result<Target, Error> {
    let short = given.words.pop_front();
    let (upstream, server) = (given.text("upstream")?, given.text("server")?);
    let (listener, route) = (given.text("listener")?, given.text("route")?);
    let all = given.has("all");
    match (short, upstream, server, listener, route, all) {
        (Some(short), None, None, None, None, false) => match short.split_once('/') {
            Some((upstream, server)) if !upstream.is_empty() && !server.is_empty() => {
                Ok(Target::Server { upstream: upstream.into(), server: server.into() })
            }
            _ => Err(format!("{verb} {short:?}: UPSTREAM/SERVER, such as websocket/127.0.0.1:8010").into()),
        },
        (None, Some(upstream), Some(server), None, None, false) => Ok(Target::Server { upstream, server }),
        (None, None, None, Some(listener), None, false) => Ok(Target::Listener(listener)),
        (None, None, None, Some(listener), Some(route), false) => Ok(Target::Route { listener, route }),
        (None, None, None, None, None, true) => Ok(Target::All),
        _ => {
            Err(format!("{verb} what? UPSTREAM/SERVER, --listener L with or without --route R, or --all")
                .into())
        }
    }
}

/// A filter by the name of its flag, or the admin listener's name for it.
pub fn filter(name: &str, value: &str) -> Result<(&'static str, String), String> {
    let known = FILTERS.iter().find(|(flag, known)| *flag == name || *known == name);
    match known {
        None => Err(format!("{name:?} is no filter: {}", FILTERS.map(|(flag, _)| flag).join(", "))),
        Some((flag, "min_bytes")) => match size(value) {
            Some(bytes) => Ok(("min_bytes", bytes.to_string())),
            None => Err(format!("{flag} {value:?}: such as 500 or \"10 MiB\"")),
        },
        Some((_, known)) => Ok((known, value.to_owned())),
    }
}

/// A size as people write it, in bytes. The units are powers of 1024, with and without their `i`.
fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(number) => number.checked_mul(1 << shift),
        // Of less than a byte nothing is left, and a fraction of 2^53 is none.
        Err(_) => {
            let bytes = number.parse::<f64>().ok()? * f64::from(1_u32 << 10).powi(shift / 10);
            (bytes < 9e15).then_some(bytes as u64)
        }
    }
}

/// Whether a flag has a value.
#[derive(Clone, Copy)]
enum Takes {
    Value,
    Nothing,
}

/// All that was given, from which is taken what is known.
#[derive(Default)]
struct Given {
    flags: Vec<(&'static str, OsString)>,
    words: VecDeque<String>,
}

impl Given {
    /// Everything up to the end, or `None` where help is asked for.
    fn collect(
        parser: &mut Parser,
        known: impl Fn(&str) -> Option<(&'static str, Takes)>,
        config: Option<PathBuf>,
    ) -> Result<Option<Given>, Error> {
        let mut given = Given::default();
        if let Some(config) = config {
            given.put("config", config.into())?;
        }
        while let Some(arg) = parser.next()? {
            let flag = match &arg {
                Value(word) => {
                    given.words.push_back(word.clone().string()?);
                    continue;
                }
                Short('h') | Long("help") => return Ok(None),
                Short('c') => known("config"),
                Long(name) => known(name),
                Short(_) => None,
            };
            match flag {
                Some((flag, Takes::Value)) => given.put(flag, parser.value()?)?,
                Some((flag, Takes::Nothing)) => given.put(flag, OsString::new())?,
                None => return Err(arg.unexpected()),
            }
        }
        Ok(Some(given))
    }

    fn put(&mut self, flag: &'static str, value: OsString) -> Result<(), Error> {
        match self.flags.iter().any(|(given, _)| *given == flag) {
            true => Err(format!("--{flag} is given twice").into()),
            false => {
                self.flags.push((flag, value));
                Ok(())
            }
        }
    }

    fn value(&mut self, flag: &str) -> Option<OsString> {
        let at = self.flags.iter().position(|(given, _)| *given == flag)?;
        Some(self.flags.swap_remove(at).1)
    }

    fn has(&mut self, flag: &str) -> bool {
        self.value(flag).is_some()
    }

    fn text(&mut self, flag: &str) -> Result<Option<String>, Error> {
        let text = self.value(flag).map(|value| value.string()).transpose()?;
        match text {
            Some(text) if text.is_empty() => Err(format!("--{flag} has an empty value").into()),
            text => Ok(text),
        }
    }

    fn step(&mut self) -> Step {
        if self.has("dry-run") { Step::DryRun } else { Step::Done }
    }

    fn filters(&mut self) -> Result<Filters, Error> {
        let mut filters = Filters::new();
        for (flag, _) in FILTERS {
            if let Some(text) = self.text(flag)? {
                filters.push(filter(flag, &text).map_err(|why| format!("--{why}"))?);
            }
        }
        Ok(filters)
    }

    fn whereabouts(&mut self) -> Result<Whereabouts, Error> {
        let config = self.value("config").map(PathBuf::from);
        let token_file = self.value("token-file").map(PathBuf::from);
        Ok(Whereabouts { admin: self.text("admin")?, config, token_file })
    }

    /// Whatever nobody has taken is a mistake.
    fn nothing_else(self, verb: &str) -> Result<(), Error> {
        match (self.words.front(), self.flags.first()) {
            (Some(word), _) => Err(format!("unexpected argument {word:?}").into()),
            (None, Some((flag, _))) => Err(format!("--{flag} is not for {verb}").into()),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &str) -> Result<Command, String> {
        // "~" stands for a blank within an argument.
        let words = args.split_whitespace().map(|word| OsString::from(word.replace('~', " ")));
        crate::cli::parse(words).map_err(|error| error.to_string())
    }

    fn nowhere() -> Whereabouts {
        Whereabouts::default()
    }

    #[track_caller]
    fn check(args: &str, verb: Verb) {
        let expected = Command::Ctl(Ctl { whereabouts: nowhere(), verb, form: Form::Text });
        assert_eq!(parsed(&format!("ctl {args}")), Ok(expected), "adit ctl {args}");
    }

    #[track_caller]
    fn refuse(args: &str, expected: &str) {
        assert_eq!(parsed(args), Err(expected.into()), "adit {args}");
    }

    fn filters(pairs: &[(&'static str, &str)]) -> Filters {
        pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    fn server(upstream: &str, server: &str) -> Target {
        Target::Server { upstream: upstream.into(), server: server.into() }
    }

    #[test]
    fn verbs_without_flags() {
        check("status", Verb::Status);
        check("plan", Verb::Plan);
        check("reload", Verb::Reload);
        refuse("ctl", &format!("ctl is to do what? {VERBS}"));
        refuse("ctl stop", &format!("ctl cannot \"stop\": {VERBS}"));
        refuse("ctl status now", "unexpected argument \"now\"");
        refuse("ctl status --all", "--all is not for status");
        refuse("ctl plan --dry-run", "--dry-run is not for plan");
        refuse("ctl status --bogus", "invalid option '--bogus'");
        refuse("ctl status -x", "invalid option '-x'");
        refuse("ctl status --json=yes", "unexpected argument for option '--json': \"yes\"");
        refuse("ctl status --every 1s", "invalid option '--every'");
    }

    #[test]
    fn tunnels() {
        let tunnels =
            |pairs, sort, order, amount| Verb::Tunnels { filters: filters(pairs), sort, order, amount };
        check("tunnels", tunnels(&[], Sort::Age, Order::Most, Amount::Some(100)));
        check(
            "tunnels --client 10.0.0.0/8 --listener 0.0.0.0:8020 --route * --upstream u --server s",
            tunnels(
                &[
                    ("client", "10.0.0.0/8"),
                    ("listener", "0.0.0.0:8020"),
                    ("route", "*"),
                    ("upstream", "u"),
                    ("server", "s"),
                ],
                Sort::Age,
                Order::Most,
                Amount::Some(100),
            ),
        );
        check(
            "tunnels --min-bytes 1.5~MiB --min-idle 5m --min-age=1h30m --sort bytes_down --asc --limit 7",
            tunnels(
                &[("min_age", "1h30m"), ("min_idle", "5m"), ("min_bytes", "1572864")],
                Sort::BytesDown,
                Order::Least,
                Amount::Some(7),
            ),
        );
        check("tunnels 7f --all", tunnels(&[("id", "7f")], Sort::Age, Order::Most, Amount::All));
        check("--all tunnels", tunnels(&[], Sort::Age, Order::Most, Amount::All));
        refuse("ctl tunnels --limit 0", "--limit \"0\": 1 to 1000");
        refuse("ctl tunnels --limit 1001", "--limit \"1001\": 1 to 1000");
        refuse("ctl tunnels --limit -1", "--limit \"-1\": 1 to 1000");
        refuse("ctl tunnels --limit", "missing argument for option '--limit'");
        refuse("ctl tunnels --all --limit 7", "--all and --limit contradict each other");
        refuse("ctl tunnels --sort size", "--sort \"size\": age, idle, bytes, bytes_up, bytes_down, rate");
        refuse("ctl tunnels --min-bytes much", "--min-bytes \"much\": such as 500 or \"10 MiB\"");
        refuse("ctl tunnels --client=", "--client has an empty value");
        refuse("ctl tunnels --client a --client b", "--client is given twice");
        refuse("ctl tunnels --all --all", "--all is given twice");
        refuse("ctl tunnels a b", "unexpected argument \"b\"");
        refuse("ctl tunnels --yes", "--yes is not for tunnels");
    }

    #[test]
    fn close() {
        let close = |which, step, consent| Verb::Close { which, step, consent };
        let those = |pairs| Which::Those(filters(pairs));
        check("close 7f", close(Which::One("7f".into()), Step::Done, Consent::Asked));
        check("close --all --yes", close(Which::All, Step::Done, Consent::Given));
        check("close --all --dry-run", close(Which::All, Step::DryRun, Consent::Asked));
        check(
            "close --client 192.0.2.7",
            close(those(&[("client", "192.0.2.7")]), Step::Done, Consent::Asked),
        );
        check(
            "close --upstream u --min-bytes 1k",
            close(those(&[("upstream", "u"), ("min_bytes", "1024")]), Step::Done, Consent::Asked),
        );
        refuse("ctl close", "close which tunnels? An id, filters, or --all");
        refuse("ctl close --yes", "close which tunnels? An id, filters, or --all");
        refuse("ctl close 7f --all", "close takes an id, filters, or --all: one of them");
        refuse("ctl close 7f --upstream u", "close takes an id, filters, or --all: one of them");
        refuse("ctl close --all --upstream u", "close takes an id, filters, or --all: one of them");
        refuse("ctl close 7f 80", "unexpected argument \"80\"");
        refuse("ctl close --all --sort age", "--sort is not for close");
    }

    #[test]
    fn drain_and_undrain() {
        let drain = |target| Verb::Drain { target, step: Step::Done };
        let undrain = |target| Verb::Undrain { target, step: Step::Done };
        check("drain u/127.0.0.1:8010", drain(server("u", "127.0.0.1:8010")));
        check("drain u/unix:/run/s.sock", drain(server("u", "unix:/run/s.sock")));
        check("drain --upstream a/b --server s", drain(server("a/b", "s")));
        check("drain --listener l", drain(Target::Listener("l".into())));
        check(
            "drain --listener l --route *",
            drain(Target::Route { listener: "l".into(), route: "*".into() }),
        );
        check("drain --all", drain(Target::All));
        check("drain --all --dry-run", Verb::Drain { target: Target::All, step: Step::DryRun });
        check("undrain u/s", undrain(server("u", "s")));
        check("undrain --listener l", undrain(Target::Listener("l".into())));
        check("undrain u/s --dry-run", Verb::Undrain { target: server("u", "s"), step: Step::DryRun });
        refuse("ctl undrain --all", "undrain takes no --all: what stops goes on to");
        let what = "drain what? UPSTREAM/SERVER, --listener L with or without --route R, or --all";
        for args in ["", "--upstream u", "--server s", "--route r", "--all --listener l", "u/s --all"] {
            refuse(&format!("ctl drain {args}"), what);
        }
        for args in ["u/s --server s", "--upstream u --server s --listener l", "--upstream u --route r"] {
            refuse(&format!("ctl drain {args}"), what);
        }
        refuse("ctl undrain", &format!("un{what}"));
        for short in ["u", "u/", "/s", "/"] {
            let expected = format!("drain {short:?}: UPSTREAM/SERVER, such as websocket/127.0.0.1:8010");
            refuse(&format!("ctl drain {short}"), &expected);
        }
        refuse("ctl drain u/s --yes", "--yes is not for drain");
        refuse("ctl drain u/s --client c", "--client is not for drain");
    }

    #[test]
    fn rebalance() {
        check("rebalance u", Verb::Rebalance { upstream: "u".into(), step: Step::Done });
        check("rebalance u --dry-run", Verb::Rebalance { upstream: "u".into(), step: Step::DryRun });
        refuse("ctl rebalance", "rebalance which upstream?");
        refuse("ctl rebalance u v", "unexpected argument \"v\"");
    }

    #[test]
    fn whom_to_ask() {
        let status = |whereabouts, form| Ok(Command::Ctl(Ctl { whereabouts, verb: Verb::Status, form }));
        let everything = Whereabouts {
            admin: Some("unix:/a".into()),
            config: Some("c.toml".into()),
            token_file: Some("t".into()),
        };
        assert_eq!(
            parsed("ctl --admin unix:/a status -c c.toml --token-file=t --json"),
            status(everything, Form::Json)
        );
        let file = || Whereabouts { config: Some("c.toml".into()), ..nowhere() };
        assert_eq!(parsed("--config c.toml ctl status"), status(file(), Form::Text));
        assert_eq!(parsed("ctl status -cc.toml"), status(file(), Form::Text));
        refuse("-c a ctl status -c b", "--config is given twice");
        refuse("--json ctl status", "the flags of ctl stand behind it");
        refuse("--check ctl status", "the flags of ctl stand behind it");
        refuse("--plan a top", "the flags of top stand behind it");
        refuse("ctl status --admin=", "--admin has an empty value");
    }

    #[test]
    fn top_and_completions() {
        let top =
            |every| Ok(Command::Top(Top { whereabouts: nowhere(), every: Duration::from_millis(every) }));
        assert_eq!(parsed("top"), top(1000));
        assert_eq!(parsed("top --every 250ms"), top(250));
        for every in ["1", "99ms", "2h", "never"] {
            refuse(&format!("top --every {every}"), &format!("--every {every:?}: \"100ms\" to \"1h\""));
        }
        refuse("top now", "unexpected argument \"now\"");
        refuse("top --json", "invalid option '--json'");
        assert_eq!(parsed("completions bash"), Ok(Command::Completions(Shell::Bash)));
        assert_eq!(parsed("completions zsh"), Ok(Command::Completions(Shell::Zsh)));
        assert_eq!(parsed("completions fish"), Ok(Command::Completions(Shell::Fish)));
        refuse("completions", "completions for which shell? bash, zsh or fish");
        refuse("completions csh", "no completions for \"csh\": bash, zsh or fish");
        refuse("completions bash zsh", "unexpected argument \"zsh\"");
        refuse("-c a completions bash", "completions reads no configuration file");
    }

    #[test]
    fn help() {
        assert_eq!(parsed("ctl --help"), Ok(Command::Help(CTL_HELP)));
        assert_eq!(parsed("ctl drain -h"), Ok(Command::Help(CTL_HELP)));
        assert_eq!(parsed("top --help"), Ok(Command::Help(TOP_HELP)));
        assert_eq!(parsed("completions --help"), Ok(Command::Help(crate::cli::HELP)));
        for help in [CTL_HELP, TOP_HELP, crate::cli::HELP] {
            assert!(help.lines().all(|line| line.chars().count() <= 120));
        }
    }

    /// What is parsed is told, and in the help of who takes it.
    #[test]
    fn the_help_tells_every_flag_and_every_verb() {
        for flag in FILTERS.iter().map(|(flag, _)| *flag).chain(WITH_VALUE).chain(ALONE) {
            assert!(
                CTL_HELP.contains(&format!("  --{flag} ")) || CTL_HELP.contains(&format!(", --{flag} ")),
                "{flag}"
            );
        }
        for verb in VERBS.replace(" or ", ", ").split(", ") {
            assert!(
                CTL_HELP.contains(&format!("\n  {verb} ")) && CTL_HELP.contains(&format!("adit ctl {verb}")),
                "{verb}"
            );
        }
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected| assert_eq!(size(text), expected, "{text}");
        check("0", Some(0));
        check("500", Some(500));
        check("500 B", Some(500));
        check("1k", Some(1024));
        check("10 MiB", Some(10 << 20));
        check("1.5GB", Some(3 << 29));
        check("0.1k", Some(102));
        check("2T", Some(2 << 40));
        check("18446744073709551615", Some(u64::MAX));
        for text in
            ["", "B", "-1", "1 mile", "1.2.3", ".", "18446744073709551616", "99999999T", "1e3", "1 k k"]
        {
            check(text, None);
        }
    }
}
