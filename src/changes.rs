//! What a reload from one plan to another would change, and what that does to the tunnels that are open.
//!
//! Pure: two plans in, words out. Here is the form, as text and as JSON; `reload` decides what to say, `keys` has what
//! a plan says of a thing, as a file would.

mod keys;
mod reload;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::plan::{OnRemoved, Plan};
use keys::Value;

/// What a reload from one plan to another would change, and what that does to the tunnels that are open.
///
/// As text it is a paragraph for each thing that is added, removed or changed, and a last line that counts them; the
/// things of the new plan come first, in its order, those that are gone behind them.
///
/// ```
/// use adit::Config;
/// use adit::changes::Changes;
///
/// let config = |servers: &str| {
///     let listener = "[[listener]]\nlisten = \"127.0.0.1:8020\"\nupstream = \"u\"\n";
///     Config::from_toml(&format!("{listener}[upstream.u]\nservers = [{servers}]\n"))?.check()
/// };
/// let (old, new) = (config("\"127.0.0.1:8010\"")?, config("\"127.0.0.1:8010\", \"127.0.0.1:8011\"")?);
/// assert_eq!(
///     Changes::between(&old, &new).to_string(),
///     "server 127.0.0.1:8011 of upstream u: added\nplan: 1 added, 0 removed, 0 changed\n"
/// );
/// # Ok::<(), adit::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    changes: Vec<Change>,
}

/// What happens to one thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Change {
    #[serde(flatten)]
    thing: Thing,
    change: Kind,
    keys: Vec<Difference>,
    /// What becomes of tunnels, where there are any: its own, or with `Rebalance` those of its upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    tunnels: Option<Tunnels>,
    /// The same and more in sentences.
    effects: Vec<String>,
    /// Of a way in: the upstreams that its tunnels go to.
    #[serde(skip)]
    to: Vec<String>,
}

/// What it happens to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "what", rename_all = "lowercase")]
enum Thing {
    Listener {
        listener: String,
    },
    Route {
        listener: String,
        host: Option<String>,
        path: Option<String>,
    },
    Upstream {
        upstream: String,
    },
    Server {
        upstream: String,
        server: String,
    },
    Workers,
    #[serde(rename = "user")]
    RunAs,
    Admin,
    Log,
    Drain,
    Limits,
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Added,
    Removed,
    Changed,
}

/// A key that says something else than before.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Difference {
    key: &'static str,
    old: Value,
    new: Value,
}

/// What becomes of tunnels, the strictest last: where two rules are about one tunnel, the stricter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Tunnels {
    Keep,
    /// Surplus ones are closed.
    Rebalance,
    Drain,
    Close,
}

impl From<OnRemoved> for Tunnels {
    fn from(on_removed: OnRemoved) -> Tunnels {
        match on_removed {
            OnRemoved::Keep => Tunnels::Keep,
            OnRemoved::Drain => Tunnels::Drain,
            OnRemoved::Close => Tunnels::Close,
        }
    }
}

impl Changes {
    /// What a reload from `old` to `new` would change.
    pub fn between(old: &Plan, new: &Plan) -> Changes {
        Changes { changes: reload::changes(old, new) }
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// A JSON object on one line, without the newline: `changes`, and how many things are `added`, `removed` and
    /// `changed`. A change has `what` and the names that go with it, `change`, the `keys` that differ with `old` and
    /// `new`, the `effects` in sentences, and where there are tunnels what becomes of these: `keep`, `rebalance`,
    /// `drain` or `close`.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Report<'a> {
            changes: &'a [Change],
            added: usize,
            removed: usize,
            changed: usize,
        }
        let json = serde_json::to_string(&Report {
            changes: &self.changes,
            added: self.count(Kind::Added),
            removed: self.count(Kind::Removed),
            changed: self.count(Kind::Changed),
        });
        debug_assert!(json.is_ok(), "text, numbers and lists have a JSON form");
        json.unwrap_or_default()
    }

    fn count(&self, kind: Kind) -> usize {
        self.changes.iter().filter(|change| change.change == kind).count()
    }

    /// Whether a tunnel may be under two of these that disagree: one about the way in that it took, a listener or a
    /// route, and one about the way out, an upstream or a server.
    fn may_disagree(&self) -> bool {
        let is_rule =
            |change: &&Change| change.change == Kind::Removed || change.tunnels > Some(Tunnels::Rebalance);
        let rules = || self.changes.iter().filter(is_rule);
        let mut out: HashMap<&str, Vec<Tunnels>> = HashMap::new();
        for change in rules() {
            if let Thing::Upstream { upstream } | Thing::Server { upstream, .. } = &change.thing {
                out.entry(upstream).or_default().extend(change.tunnels);
            }
        }
        let differ = |tunnels, upstream: &String| {
            out.get(upstream.as_str()).is_some_and(|out| out.iter().any(|other| *other != tunnels))
        };
        rules().any(|change| {
            change.tunnels.is_some_and(|tunnels| change.to.iter().any(|upstream| differ(tunnels, upstream)))
        })
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            change.fmt(f)?;
        }
        if self.is_empty() {
            writeln!(f, "no changes")?;
        }
        if self.may_disagree() {
            writeln!(f, "where two of these are about one tunnel, the stricter holds")?;
        }
        let [added, removed, changed] =
            [Kind::Added, Kind::Removed, Kind::Changed].map(|kind| self.count(kind));
        writeln!(f, "plan: {added} added, {removed} removed, {changed} changed")
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.thing, self.keys.as_slice()) {
            // A key that is no table's would only say its name twice.
            (Thing::Workers, [Difference { key: _, old, new }]) => writeln!(f, "workers: {old} -> {new}")?,
            (thing, keys) => {
                writeln!(f, "{thing}: {}", self.word())?;
                for Difference { key, old, new } in keys.iter().filter(|difference| difference.key != DRAIN) {
                    writeln!(f, "  {key}: {old} -> {new}")?;
                }
            }
        }
        self.effects.iter().try_for_each(|effect| writeln!(f, "  {effect}"))
    }
}

impl Change {
    fn new(thing: Thing, change: Kind) -> Change {
        Change { thing, change, keys: Vec::new(), tunnels: None, effects: Vec::new(), to: Vec::new() }
    }

    fn say(&mut self, effect: impl Into<String>) {
        self.effects.push(effect.into());
    }

    /// Says what becomes of its tunnels.
    fn rule(&mut self, tunnels: Tunnels, effect: impl Into<String>) {
        self.tunnels = self.tunnels.max(Some(tunnels));
        self.say(effect);
    }

    fn has(&self, key: &str) -> bool {
        self.keys.iter().any(|difference| difference.key == key)
    }

    /// What happens, in a word or two.
    fn word(&self) -> &'static str {
        match (self.change, turned(&self.keys)) {
            (Kind::Added, _) => "added",
            (Kind::Removed, _) => "removed",
            (Kind::Changed, None) => "changed",
            (Kind::Changed, Some(Turned::On)) => "drains",
            (Kind::Changed, Some(Turned::Off)) => "drains no more",
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Listener { listener } => write!(f, "listener {}", shown(listener)),
            Thing::Route { listener, host: None, path: None } => {
                write!(f, "route for anything on {}", shown(listener))
            }
            Thing::Route { listener, host, path } => {
                let [host, path] = [host, path].map(|part| part.as_deref().unwrap_or_default());
                write!(f, "route {host}{path} on {}", shown(listener))
            }
            Thing::Upstream { upstream } => write!(f, "upstream {}", shown(upstream)),
            Thing::Server { upstream, server } => {
                write!(f, "server {} of upstream {}", shown(server), shown(upstream))
            }
            Thing::Workers => f.write_str("workers"),
            Thing::RunAs => f.write_str("user"),
            Thing::Admin => f.write_str("admin"),
            Thing::Log => f.write_str("log"),
            Thing::Drain => f.write_str("drain"),
            Thing::Limits => f.write_str("limits"),
            Thing::Tcp => f.write_str("tcp"),
        }
    }
}

/// Text of a file's: as it is where it reads well on a line of its own words, otherwise in quotes.
fn shown(text: &str) -> Cow<'_, str> {
    let is_plain = !text.is_empty()
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && text.chars().all(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | ','));
    if is_plain { text.into() } else { format!("{text:?}").into() }
}

/// Keys that are about more than what new sessions are given.
const DRAIN: &str = "drain";
const ON_REMOVED: &str = "on_removed";
const UPSTREAM: &str = "upstream";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turned {
    On,
    Off,
}

/// Whether it begins or ceases to drain.
fn turned(keys: &[Difference]) -> Option<Turned> {
    let drain = keys.iter().find(|difference| difference.key == DRAIN)?;
    Some(if drain.new == Value::Flag(true) { Turned::On } else { Turned::Off })
}
