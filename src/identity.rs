//! What makes a listener, a route or a server of one configuration the same as one of another.
//!
//! A configuration is exchanged for another while tunnels go on, and what stays keeps what is known of it. Names and
//! places are what an operator means by "the same": a listener is its address, a route its host and path on a listener,
//! a server its address within an upstream. All else about them may change.

#[cfg(feature = "admin")]
use std::borrow::Cow;
use std::collections::HashMap;

use crate::plan::{Address, HostRule, Listener, Mode, PathRule, Plan, Pool};

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// As configured.
    pub address: Address,
    /// Which of those with this address it is: with port 0 there may be several.
    pub nth: usize,
}

/// A route of a listener. The listener's own `upstream`, and that of a tcp listener, is the route for anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// Where it is.
    pub listener: ListenerKey,
    /// Which hosts it is for.
    pub host: HostRule,
    /// Which paths it is for.
    pub path: PathRule,
}

#[cfg(feature = "admin")]
impl RouteKey {
    /// As operators are told of it: the host, or `*` for any, with the path rule behind it.
    pub fn name(&self) -> String {
        let host: Cow<'_, str> = match &self.host {
            HostRule::Any => "*".into(),
            HostRule::Exact(name) => name.into(),
            HostRule::Suffix(suffix) => format!("*{suffix}").into(),
        };
        match &self.path {
            PathRule::Any => host.into_owned(),
            PathRule::Prefix(prefix) => host.into_owned() + prefix,
            PathRule::Exact(path) => format!("{host}={path}"),
        }
    }
}

/// A server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerKey {
    /// The upstream's name.
    pub upstream: String,
    /// What is dialed.
    pub address: Address,
}

/// The key of each listener of a plan, in its order.
pub fn listeners(plan: &Plan) -> Vec<ListenerKey> {
    let mut seen: HashMap<&Address, usize> = HashMap::new();
    let mut keys = Vec::with_capacity(plan.listeners.len());
    for listener in &plan.listeners {
        let count = seen.entry(&listener.address).or_insert(0);
        keys.push(ListenerKey { address: listener.address.clone(), nth: *count });
        *count += 1;
    }
    keys
}

/// The key of each route of a listener, in its order; a tcp listener has one.
pub fn routes(listener: &Listener, key: &ListenerKey) -> Vec<RouteKey> {
    let of = |host: &HostRule, path: &PathRule| RouteKey {
        listener: key.clone(),
        host: host.clone(),
        path: path.clone(),
    };
    match &listener.mode {
        Mode::Http { routes } => routes.iter().map(|route| of(&route.host, &route.path)).collect(),
        Mode::Tcp { .. } => vec![of(&HostRule::Any, &PathRule::Any)],
    }
}

/// The key of each server of a pool, in its order.
pub fn servers(pool: &Pool) -> Vec<ServerKey> {
    let key = |address: &Address| ServerKey { upstream: pool.name.clone(), address: address.clone() };
    pool.backends.iter().map(|backend| key(&backend.address)).collect()
}
