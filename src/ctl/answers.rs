//! What the admin listener answers, as far as it is shown. The process that answers may be an older or a newer adit
//! than this command: what it does not say is nothing, and what it says beyond this is passed over.

use serde::Deserialize;

/// `GET /status`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Status {
    pub version: String,
    /// "serving", "unready" or "draining".
    pub phase: String,
    /// Seconds, as all durations here.
    pub uptime: f64,
    #[serde(default)]
    pub drain_ends: Option<f64>,
    #[serde(default)]
    pub configuration: Configuration,
    #[serde(default)]
    pub workers: Vec<Worker>,
    pub sessions: Sessions,
    pub tunnels: Tunnels,
    #[serde(default)]
    pub bytes: Bytes,
    #[serde(default)]
    pub descriptors: Descriptors,
    #[serde(default)]
    pub buffers: Buffers,
    #[serde(default)]
    pub log_lines_lost: u64,
    #[serde(default)]
    pub listeners: Vec<Listener>,
    #[serde(default)]
    pub upstreams: Vec<Upstream>,
    #[serde(default)]
    pub gone: u64,
    #[serde(default)]
    pub refusals: Counts,
    #[serde(default)]
    pub ends: Vec<End>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Configuration {
    pub hash: Option<String>,
    pub age: f64,
    pub reloads: u64,
    pub in_use: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Worker {
    pub sessions: u64,
    pub tunnels: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Sessions {
    pub open: u64,
    pub limit: u64,
    pub accepted: u64,
    pub refused: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Tunnels {
    pub open: u64,
    pub opened: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Bytes {
    pub up: u64,
    pub down: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Descriptors {
    pub used: Option<u64>,
    pub limit: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Buffers {
    pub bytes: u64,
    pub pipes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Listener {
    pub listener: String,
    pub protocol: String,
    pub drains: Option<String>,
    pub tunnels: u64,
    pub routes: Vec<Route>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Route {
    pub route: String,
    pub upstream: String,
    pub drains: Option<String>,
    pub tunnels: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Upstream {
    pub upstream: String,
    pub balance: String,
    pub rebalancing: bool,
    pub sessions: u64,
    pub tunnels: u64,
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Server {
    pub server: String,
    /// "in", "out" or "drains".
    pub state: String,
    /// "file" or "operator".
    pub drains: Option<String>,
    pub backup: bool,
    pub weight: u64,
    pub max_conns: u64,
    pub sessions: u64,
    pub tunnels: u64,
    pub share: f64,
    pub opened: u64,
    pub failures: u64,
}

/// How many of what, in the order of the answer.
#[derive(Clone, Debug, Default)]
pub struct Counts(pub Vec<(String, u64)>);

impl<'de> Deserialize<'de> for Counts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Counts, D::Error> {
        struct Pairs;

        impl<'de> serde::de::Visitor<'de> for Pairs {
            type Value = Counts;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of counts")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Counts, A::Error> {
                let mut counts = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    counts.push(pair);
                }
                Ok(Counts(counts))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct End {
    pub outcome: String,
    pub by: Option<String>,
    pub count: u64,
}

/// `GET /tunnels`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Page {
    pub matched: u64,
    #[serde(default)]
    pub next: Option<String>,
    pub tunnels: Vec<Tunnel>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Tunnel {
    pub id: String,
    pub client: String,
    pub listener: String,
    pub route: String,
    pub host: Option<String>,
    pub path: Option<String>,
    pub upstream: String,
    pub server: String,
    pub age: f64,
    pub idle: f64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub state: String,
}

/// `POST /drain` and `POST /undrain`.
#[derive(Clone, Debug, Deserialize)]
pub struct Drained {
    pub what: String,
    pub changed: bool,
    #[serde(default)]
    pub tunnels: u64,
}

/// `POST /rebalance`.
#[derive(Clone, Debug, Deserialize)]
pub struct Rebalanced {
    pub upstream: String,
    pub surplus: u64,
}

/// `POST /close`.
#[derive(Clone, Debug, Deserialize)]
pub struct Closed {
    pub matched: u64,
    /// So many a second; 0: at once.
    #[serde(default)]
    pub rate: u64,
}

/// `POST /reload`.
#[derive(Clone, Debug, Deserialize)]
pub struct Reloaded {
    pub changed: bool,
    #[serde(default)]
    pub message: String,
}

/// `POST /reload` as a dry run.
#[derive(Clone, Debug, Deserialize)]
pub struct Planned {
    pub text: String,
}
