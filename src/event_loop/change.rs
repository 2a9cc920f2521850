//! How one configuration follows another: sockets are opened, kept or closed, and from the same turn on sessions are
//! opened with the new one. Those that are open keep theirs.
//!
//! The first worker opens what is new, for all of them, before anything else changes: what cannot be opened refuses the
//! whole. Then each worker goes on with the new configuration in a turn of its own.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use mio::{Interest, Token};

#[cfg(feature = "admin")]
use super::steering;
use super::{EventLoop, GENERATIONS_MAX, LISTENERS, Phase, forget_unused};
use crate::crew::{Adoption, Command, Done, Exchange, Reload, Reloaded, Reply};
use crate::error::{ReloadError, StartError};
use crate::identity::{self, ListenerKey};
use crate::inherited::Inherited;
use crate::listener::Listener;
use crate::plan::{Address, Plan};
use crate::setup::Setup;
use crate::sys::Sharing;

/// What a plan needs to be gone on with.
pub(super) struct Opened {
    /// With the addresses that its listeners are bound to.
    pub plan: Plan,
    /// Its listeners' keys.
    pub keys: Vec<ListenerKey>,
    /// Sockets that were not there before, by worker.
    pub fresh: Vec<Vec<Listener>>,
}

/// Opens what a plan listens on and nobody does yet, for so many workers. Where one cannot be opened none stays open.
pub(super) fn open(
    mut plan: Plan,
    existing: &[Option<Listener>],
    workers: usize,
    inherited: &Inherited,
) -> Result<Opened, StartError> {
    let keys = identity::listeners(&plan);
    let known: HashMap<&ListenerKey, &Listener> =
        existing.iter().flatten().map(|listener| (&listener.key, listener)).collect();
    let mut fresh: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
    for (place, key) in keys.iter().enumerate() {
        if plan.listeners[place].drain {
            continue;
        }
        if let Some(listener) = known.get(key) {
            plan.listeners[place].address.clone_from(&listener.address);
            continue;
        }
        let failed = |error| StartError::Listen { address: key.address.to_string(), error };
        let is_leaving = |listener: &&Listener| {
            let place = keys.iter().position(|key| *key == listener.key);
            // Who joins a socket that was handed over shares its clients with whoever has it still, and takes none.
            !listener.is_inherited() && place.is_none_or(|place| plan.listeners[place].drain)
        };
        let leaving = existing.iter().flatten().filter(is_leaving);
        let place_id = place as u16; // a plan has no more
        let opened = open_among(key, place_id, &plan, leaving, workers, inherited).map_err(failed)?;
        plan.listeners[place].address.clone_from(&opened[0].address);
        fresh.iter_mut().zip(opened).for_each(|(fresh, listener)| fresh.push(listener));
    }
    Ok(Opened { plan, keys, fresh })
}

/// Opens a listener for each worker. One that will be closed may be in the way (`0.0.0.0:80` of `127.0.0.1:80`).
fn open_among<'a>(
    key: &ListenerKey,
    place: u16,
    plan: &Plan,
    leaving: impl Iterator<Item = &'a Listener>,
    workers: usize,
    inherited: &Inherited,
) -> io::Result<Vec<Listener>> {
    let sharing = if workers > 1 { Sharing::Founds } else { Sharing::Alone };
    let first = match Listener::open(key, place, &plan.tcp, sharing, inherited) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let port = port(&key.address);
            let in_the_way =
                leaving.filter(|listener| port.is_some() && self::port(&listener.address) == port);
            let mut any = false;
            for listener in in_the_way {
                listener.share()?;
                any = true;
            }
            if !any {
                return Err(error);
            }
            Listener::open(key, place, &plan.tcp, Sharing::Joins, inherited)?
        }
        opened => opened?,
    };
    let mut opened = vec![first];
    for _ in 1..workers {
        let beside = opened[0].open_beside(&plan.tcp)?;
        opened.push(beside);
    }
    Ok(opened)
}

fn port(address: &Address) -> Option<u16> {
    match address {
        Address::Tcp(address) => Some(address.port()),
        Address::Unix(_) | Address::Inherited(_) => None,
    }
}

impl EventLoop {
    /// Watches listeners that it has not had yet.
    pub(super) fn listen(&mut self, listeners: Vec<Listener>) -> io::Result<()> {
        for mut listener in listeners {
            let gap = self.listeners.iter().position(Option::is_none);
            let index = gap.unwrap_or(self.listeners.len());
            let token = Token(LISTENERS + index);
            self.poll.registry().register(listener.source(), token, Interest::READABLE)?;
            match self.listeners.get_mut(index) {
                Some(gap) => *gap = Some(listener),
                None => self.listeners.push(Some(listener)),
            }
        }
        Ok(())
    }

    /// Exchanges the configuration of all workers, or of none. While another worker has yet to do its part of the last
    /// exchange, whose listeners it may still have, the next one waits.
    pub(super) fn reload(&mut self, reload: Reload) {
        if self.is_exchanging() {
            return self.reloads.push_back(reload);
        }
        let Reload { exchange, sink, reply } = reload;
        #[cfg(feature = "admin")]
        let by_file = matches!(exchange, Exchange::Plan(_));
        #[cfg(feature = "admin")]
        let (plan, drains) = self.exchanged_for(exchange);
        #[cfg(not(feature = "admin"))]
        let Exchange::Plan(plan) = exchange;
        #[cfg(not(feature = "admin"))]
        let (plan, by_file) = (*plan, true);
        #[cfg(feature = "admin")]
        let wanted = match steering::open(&plan, self.steering.as_deref(), &self.crew.inherited) {
            Ok(wanted) => wanted,
            Err(error) => return self.refuse(&reply, ReloadError::Start(error), by_file),
        };
        #[cfg(feature = "admin")]
        let read = by_file.then_some(plan.source);
        match self.prepare(plan) {
            Err(error) => self.refuse(&reply, error, by_file),
            Ok(opened) => {
                #[cfg(feature = "admin")]
                self.note_exchange(drains, wanted, read);
                let none = || (0..self.crew.size()).map(|_| Vec::new()).collect();
                let (setup, fresh, reloaded) = match opened {
                    Some(opened) => self.follow(opened),
                    None => {
                        let local_addrs = self.local_addrs();
                        (Arc::clone(self.setup()), none(), Reloaded { local_addrs, ..Reloaded::default() })
                    }
                };
                let done = Done::new(self.crew.size(), reloaded, reply);
                self.exchanging = Some(Arc::clone(&done));
                for (worker, listeners) in fresh.into_iter().enumerate().rev() {
                    let (setup, sink, done) = (Arc::clone(&setup), sink.clone(), Arc::clone(&done));
                    let adoption = Adoption { setup, listeners, sink, done };
                    if worker == self.worker {
                        self.adopt(adoption);
                    } else if let Err(Command::Adopt(unused)) =
                        self.crew.tell(worker, Command::Adopt(Box::new(adoption)))
                    {
                        unused.done.count(); // a worker that is no more
                    }
                }
            }
        }
    }

    /// Nothing changes, and whoever asked is told why.
    fn refuse(&self, reply: &Reply, error: ReloadError, by_file: bool) {
        self.crew.refused_reloads.fetch_add(by_file.into(), Relaxed);
        reply(Err(error));
    }

    fn is_exchanging(&self) -> bool {
        self.exchanging.as_ref().is_some_and(|done| !done.is_done())
    }

    /// All workers have done their part: what waits may begin.
    pub(super) fn exchanged(&mut self) {
        while !self.is_exchanging() {
            let Some(reload) = self.reloads.pop_front() else { return };
            self.reload(reload);
        }
    }

    /// Opens what a plan needs; `None`: it is the present one.
    fn prepare(&self, plan: Plan) -> Result<Option<Opened>, ReloadError> {
        if self.phase != Phase::Serving {
            return Err(ReloadError::Stopping);
        }
        let in_use = self.crew.registry().in_use();
        if in_use >= GENERATIONS_MAX {
            return Err(ReloadError::TooManyInUse(in_use));
        }
        let opened = open(plan, &self.listeners, self.crew.size(), &self.crew.inherited)
            .map_err(ReloadError::Start)?;
        let is_new = opened.fresh[0].is_empty() && self.setup().is_as(&opened.plan, &opened.keys);
        Ok((!is_new).then_some(opened))
    }

    /// The configuration that follows the present one.
    fn follow(&self, opened: Opened) -> (Arc<Setup>, Vec<Vec<Listener>>, Reloaded) {
        let Opened { plan, keys, fresh } = opened;
        let listening: HashSet<&ListenerKey> = keys
            .iter()
            .zip(&plan.listeners)
            .filter(|(_, listener)| !listener.drain)
            .map(|(key, _)| key)
            .collect();
        let stays = |listener: &&Listener| listening.contains(&listener.key);
        let before = self.listeners.iter().flatten().count();
        let kept = self.listeners.iter().flatten().filter(stays).count();
        let local = plan.listeners.iter().filter(|listener| !listener.drain);
        let reloaded = Reloaded {
            is_changed: true,
            listeners_opened: fresh[0].len(),
            listeners_closed: before - kept,
            local_addrs: local.map(|listener| listener.address.clone()).collect(),
        };
        let setup = self.crew.registry().set_up(plan, keys, self.clock.now);
        (Arc::new(setup), fresh, reloaded)
    }

    /// Goes on with a configuration: from here on sessions are opened with it.
    pub(super) fn adopt(&mut self, adoption: Adoption) {
        let Adoption { setup, listeners, sink, done } = adoption;
        if let Some(sink) = sink {
            self.tools.journal.set_sink(sink);
        }
        if self.is_serving() && !Arc::ptr_eq(&setup, self.setup()) {
            self.exchange(setup, listeners);
        }
        if done.count() && self.worker != 0 {
            let _ = self.crew.tell(0, Command::Exchanged); // where it is no more nothing waits
        }
    }

    fn exchange(&mut self, setup: Arc<Setup>, fresh: Vec<Listener>) {
        let places: HashMap<&ListenerKey, usize> =
            setup.keys.iter().enumerate().map(|(place, key)| (key, place)).collect();
        let is_tcp_changed = setup.plan.tcp != self.setup().plan.tcp;
        for index in 0..self.listeners.len() {
            let Some(listener) = &mut self.listeners[index] else { continue };
            match places.get(&listener.key) {
                Some(&place) if !setup.plan.listeners[place].drain => {
                    listener.place = place as u16; // a plan has no more
                    let adjusted = if is_tcp_changed { listener.adjust(&setup.plan.tcp) } else { Ok(()) };
                    if let Err(error) = adjusted {
                        log::warn!("{} keeps its socket options: {error}", listener.address);
                    }
                }
                Some(_) | None => {
                    if self.worker == 0 {
                        log::info!("no longer listening on {}", listener.address);
                    }
                    self.accept_all(index);
                }
            }
        }
        drop(places);
        for listener in fresh.iter().filter(|_| self.worker == 0) {
            log::info!("listening on {}", listener.address);
        }
        if let Err(error) = self.listen(fresh) {
            log::error!("cannot watch a listening socket, which is closed: {error}");
        }
        self.tools.journal.set_format(setup.plan.log.format);
        self.is_measured = setup.plan.admin.is_some();
        let before = self.present;
        self.present = self.number(&setup);
        forget_unused(&mut self.generations, before, self.present);
        self.set_rounds();
        self.review();
        self.begin_to_spread();
    }
}
