//! An upstream's servers: what their names stand for, and what makes no sense among them.

use std::collections::HashMap;
use std::net::IpAddr;

use toml::Spanned;

use super::check::{PACE_MAX, at, choose, integer, on_removed, percent, seconds, wait};
use super::locate::{Fault, key, line};
use super::values::{self, Target, Wrong, quoted, wrong};
use super::{Resolve, Server, Table, Text};
use crate::plan::{Address, Backend, Balance, Listener, Pool, ProxyVersion, Rebalance, Share};

/// The most servers of an upstream, so that an index into them fits in 16 bits.
const BACKENDS_MAX: usize = 65_535;

/// An upstream, its names resolved.
pub(super) fn pool(
    name: &Text,
    table: &Table<super::Upstream>,
    text: &str,
    listeners: &[Listener],
    resolve: &mut Resolve<'_>,
) -> Result<Pool, Fault> {
    let written = table.get_ref();
    let example = "such as servers = [\"127.0.0.1:8010\"]";
    let Some(servers) = &written.servers else {
        let message = format!("[upstream.{}] has no servers", key(name.get_ref()));
        return Err(Fault::lacks(table, "servers", wrong(message).help(example)));
    };
    if servers.get_ref().is_empty() {
        return Err(Fault::at(servers, wrong("an upstream needs at least one server").help(example)));
    }
    let versions = [("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))];
    let balance = balance(table)?;
    let max_fails = integer(&written.max_fails, 1, 0..=u32::MAX.into())?;
    let fail_timeout = wait(&written.fail_timeout, seconds(10))?;
    let proxy_header = choose(&written.proxy_protocol, None, &versions)?;
    let mut backends = Vec::new();
    let mut places = HashMap::new();
    for server in servers.get_ref() {
        for backend in resolved(server, listeners, resolve)? {
            if let Some(first) = places.insert(backend.address.clone(), server) {
                let message = format!(
                    "{} is already a server here, at line {}",
                    quoted(&backend.address.to_string()),
                    line(text, first)
                );
                return Err(Fault::at(
                    server,
                    wrong(message).help("weight gives a server more than one share"),
                ));
            }
            backends.push(backend);
        }
        if backends.len() > BACKENDS_MAX {
            return Err(Fault::at(server, wrong("too many servers").help(format!("at most {BACKENDS_MAX}"))));
        }
    }
    if backends.iter().all(|backend| backend.backup) {
        let wrong = wrong("every server is a backup, and none is there to back up");
        return Err(Fault::at(servers, wrong.help("leave backup out for at least one")));
    }
    Ok(Pool {
        name: name.get_ref().clone(),
        backends,
        rebalance: rebalance(table, &balance)?,
        balance,
        max_fails,
        fail_timeout,
        proxy_header,
        on_removed: on_removed(&written.on_removed)?,
    })
}

fn balance(table: &Table<super::Upstream>) -> Result<Balance, Fault> {
    /// Everything but the hash's key.
    #[derive(Clone, Copy)]
    enum Method {
        RoundRobin,
        LeastConn,
        IpHash,
        RandomTwo,
        Hash,
    }
    let methods = [
        ("round_robin", Method::RoundRobin),
        ("least_conn", Method::LeastConn),
        ("ip_hash", Method::IpHash),
        ("random_two", Method::RandomTwo),
        ("hash", Method::Hash),
    ];
    let written = table.get_ref();
    let method = choose(&written.balance, Method::RoundRobin, &methods)?;
    // "" is the default, written out.
    let key = written.hash_key.as_ref().filter(|key| !key.get_ref().is_empty());
    let balance = match (method, key) {
        (Method::Hash, Some(key)) => return Ok(Balance::Hash(at(key, values::hash_key(key.get_ref()))?)),
        (Method::Hash, None) => {
            let wrong = wrong("\"hash\" needs a key to hash");
            return Err(Fault::lacks(table, "hash_key", wrong.help("such as hash_key = \"client_ip\"")));
        }
        (Method::RoundRobin, _) => Balance::RoundRobin,
        (Method::LeastConn, _) => Balance::LeastConn,
        (Method::IpHash, _) => Balance::IpHash,
        (Method::RandomTwo, _) => Balance::RandomTwo,
    };
    match key {
        Some(key) => {
            Err(Fault::at(key, wrong("hash_key is for balance = \"hash\" alone").help("set balance too")))
        }
        None => Ok(balance),
    }
}

/// How surplus tunnels are closed, where they are.
fn rebalance(table: &Table<super::Upstream>, balance: &Balance) -> Result<Option<Rebalance>, Fault> {
    let Some(written) = &table.get_ref().rebalance else { return Ok(None) };
    match balance {
        Balance::RoundRobin | Balance::LeastConn | Balance::RandomTwo => {}
        Balance::IpHash | Balance::Hash(_) => {
            let wrong =
                wrong("a hash says where each client goes: one that is closed comes back to the same server");
            return Err(Fault::at(
                written,
                wrong.help("balance = \"round_robin\", \"least_conn\" or \"random_two\""),
            ));
        }
    }
    Ok(Some(Rebalance {
        within: percent(&written.get_ref().within, Share(0.1))?,
        rate: integer(&written.get_ref().rate, 50, 1..=PACE_MAX)?,
    }))
}

/// What a server stands for: one backend, or one for each address of a name.
fn resolved(
    server: &Spanned<Server>,
    listeners: &[Listener],
    resolve: &mut Resolve<'_>,
) -> Result<Vec<Backend>, Fault> {
    let (address, weight, max_conns, backup, drain) = match server.get_ref() {
        Server::Plain(address) => (Spanned::new(server.span(), address.clone()), 1, 0, false, false),
        Server::Detailed(written) => {
            let Some(address) = &written.address else {
                let wrong = wrong("this server has no address");
                return Err(Fault::lacks(
                    server,
                    "address",
                    wrong.help("such as address = \"127.0.0.1:8010\""),
                ));
            };
            let weight = integer(&written.weight, 1, 1..=65_535)?;
            let max_conns = integer(&written.max_conns, 0, 0..=u32::MAX.into())?;
            (address.clone(), weight, max_conns, written.backup, written.drain)
        }
    };
    let written = address.get_ref();
    let backend =
        |name: String, address: Address| Backend { name, address, weight, max_conns, backup, drain };
    let backends = match at(&address, values::target(written))? {
        Target::Address(address) => vec![backend(written.clone(), address)],
        Target::Name => {
            let addresses = at(&address, addresses(written, resolve))?;
            let several = addresses.len() > 1;
            let name = |address: &Address| match several {
                true => format!("{written} ({address})"),
                false => written.clone(),
            };
            addresses.into_iter().map(|address| backend(name(&address), address)).collect()
        }
    };
    match backends.iter().find(|backend| listeners.iter().any(|own| is_reached_by(own, &backend.address))) {
        Some(own) => {
            let message = format!(
                "{} is listened on here: adit would proxy to itself",
                quoted(&own.address.to_string())
            );
            Err(Fault::at(&address, wrong(message)))
        }
        None => Ok(backends),
    }
}

/// The different addresses of a name, in the resolver's order; at least one.
fn addresses(name: &str, resolve: &mut Resolve<'_>) -> Result<Vec<Address>, Wrong> {
    let found =
        resolve(name).map_err(|error| wrong(format!("{} cannot be resolved: {error}", quoted(name))))?;
    let mut addresses: Vec<Address> = Vec::new();
    for address in found.into_iter().map(Address::Tcp) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    match addresses.is_empty() {
        true => Err(wrong(format!("{} has no addresses", quoted(name)))),
        false => Ok(addresses),
    }
}

/// Whether dialing `address` reaches this listener of ours.
fn is_reached_by(listener: &Listener, address: &Address) -> bool {
    match (&listener.address, address) {
        (Address::Tcp(own), Address::Tcp(dialed)) => {
            // Every address of this host's, and none: a dial to the latter goes to the former's loopback.
            let here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
            let wildcard = own.ip().is_unspecified() || dialed.ip().is_unspecified();
            let same_host = own.ip() == dialed.ip()
                || (wildcard && own.is_ipv4() == dialed.is_ipv4() && here(own.ip()) && here(dialed.ip()));
            same_host && own.port() == dialed.port()
        }
        (Address::Unix(own), Address::Unix(dialed)) => own == dialed,
        (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
        // Where a socket that is handed over is bound is not known yet, and it is never dialed by its name.
        (Address::Inherited(_), _) | (_, Address::Inherited(_)) => false,
    }
}
