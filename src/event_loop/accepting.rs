//! How clients come in: accepted within a budget, counted over all workers, and served by the emptiest.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{ACCEPT_BUDGET, EXHAUSTION_PAUSE, EventLoop, Generation, Phase, RETRY_PAUSE, Slot, Work};
use crate::crew::{Accepted, Command};
use crate::session::opening::Opening;
use crate::session::story::Story;
use crate::session::transport::Transport;
use crate::session::{Holds, Session};
use crate::setup::Setup;
use crate::sys;

impl EventLoop {
    /// Whether clients wait, as far as is known.
    pub(super) fn has_clients(&self) -> bool {
        self.listeners.iter().flatten().any(|listener| listener.ready)
    }

    fn is_paused(&self) -> bool {
        self.paused_until.is_some() || !self.undialed.is_empty()
    }

    /// Whether there is room for one more. If not, there will be an event when there is.
    pub(super) fn may_accept(&self) -> bool {
        !self.is_paused() && !self.crew.is_full(self.worker, self.limits().max_connections)
    }

    /// Takes in the clients that wait, a budget of them for each listener.
    pub(super) fn accept(&mut self) {
        for index in 0..self.listeners.len() {
            let Some(listener) = &mut self.listeners[index] else { continue };
            if listener.retry_at.is_some_and(|retry_at| retry_at <= self.clock.now) {
                (listener.ready, listener.retry_at) = (true, None);
            }
            let mut budget = ACCEPT_BUDGET;
            while budget > 0 && self.accept_from(index) {
                budget -= 1;
            }
        }
    }

    /// Takes in a client of this listener's, if one waits and may come in. Says whether to try again.
    fn accept_from(&mut self, index: usize) -> bool {
        let max = self.limits().max_connections;
        let Some(listener) = self.listeners[index].as_ref().filter(|listener| listener.ready) else {
            return false;
        };
        if self.is_paused() || !self.crew.reserve(max) {
            return false;
        }
        match listener.accept() {
            Ok((stream, peer)) => {
                let (setup, listener) = (Arc::clone(self.setup()), listener.place);
                self.place(Accepted { stream, peer, setup, listener });
            }
            Err(error) => {
                self.crew.release(self.worker, 1);
                self.judge_accept_error(index, &error);
            }
        }
        true
    }

    /// Serves a client, or lets a worker do it that has fewer of them.
    fn place(&mut self, accepted: Accepted) {
        let mate = self.crew.emptier_than(self.worker);
        // Counted at once, so that a crowd is not all sent to a worker that has yet to hear of the first of them.
        self.crew.stats(mate.unwrap_or(self.worker)).session_opened();
        let Some(mate) = mate else { return self.serve(accepted) };
        if let Err(Command::Serve(accepted)) = self.crew.tell(mate, Command::Serve(Box::new(accepted))) {
            self.crew.stats(mate).session_closed(false);
            self.tools.stats.session_opened();
            self.serve(*accepted);
        }
    }

    /// Takes in whoever waits at a listener that is about to be closed, so that nobody is reset who had been let in: no
    /// more than fit into its backlog, but those beyond `max_connections` too.
    pub(super) fn accept_all(&mut self, index: usize) {
        let Some(mut listener) = self.listeners[index].take() else { return };
        // The socket may go on elsewhere, and come back.
        let _ = self.poll.registry().deregister(listener.source()); // it is there
        // The kernel has room for one more than it was told.
        for _ in 0..=self.setup().plan.tcp.backlog {
            match listener.accept() {
                Ok((stream, peer)) => {
                    self.crew.count();
                    self.tools.stats.session_opened();
                    let setup = Arc::clone(self.setup());
                    self.serve(Accepted { stream, peer, setup, listener: listener.place });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if sys::is_exhaustion(&error) => {
                    let name = &listener.address;
                    return log::error!("clients that wait at {name} are lost as it is closed: {error}");
                }
                Err(_) => {} // about that client alone
            }
        }
    }

    /// No error of accept(2) is a reason to stop for good: most are about the client that was just to be accepted.
    fn judge_accept_error(&mut self, index: usize, error: &io::Error) {
        let Some(listener) = &mut self.listeners[index] else { return };
        match error.kind() {
            io::ErrorKind::WouldBlock => {
                listener.ready = false;
                self.exhaustion_is_logged = false;
            }
            io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => {}
            // Trying again at once would only spin.
            _ if sys::is_exhaustion(error) => {
                let address = listener.address.to_string();
                self.pause(format_args!("cannot accept on {address}"), error);
            }
            // Something unheard of, which is about this socket alone.
            _ => {
                log::error!("cannot accept on {}, trying again: {error}", listener.address);
                (listener.ready, listener.retry_at) = (false, Some(self.clock.now + RETRY_PAUSE));
            }
        }
    }

    pub(super) fn pause(&mut self, what: std::fmt::Arguments<'_>, error: &io::Error) {
        if self.tools.buffers.spare_descriptors() {
            self.paused_until = Some(self.clock.now); // that may have been enough
            return;
        }
        self.paused_until = Some(self.clock.now + EXHAUSTION_PAUSE);
        if !std::mem::replace(&mut self.exhaustion_is_logged, true) {
            log::error!(
                "{what}: {error}; no client is accepted for {EXHAUSTION_PAUSE:?} or until a session ends"
            );
        }
    }

    /// Begins a session with a client that has been counted, as one that is open and as one of this worker's.
    pub(super) fn serve(&mut self, accepted: Accepted) {
        if self.phase == Phase::Stopped {
            // Sent by another worker that had yet to hear of it.
            self.tools.stats.session_closed(false);
            return self.crew.release(self.worker, 1);
        }
        let Accepted { stream, peer, setup, listener } = accepted;
        let generation = self.use_generation(&setup);
        let entry = self.slots.vacant_entry();
        let key = entry.key();
        let mut id = [0; 16];
        self.tools.dice.fill(&mut id);
        // An IPv4 client of an IPv6 socket is an IPv4 client.
        let peer = peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        let story = Box::new(Story::new(id, peer, listener, self.clock.now));
        let session = Session::Opening(Box::new(Opening::new(Transport::connected(stream), story)));
        entry.insert(Slot {
            session,
            holds: Holds::default(),
            generation,
            listener,
            queued: false,
            bulk: false,
            over: false,
        });
        self.work(key, Work::Advance);
    }

    /// The number of a configuration, which has one more session by this.
    fn use_generation(&mut self, setup: &Arc<Setup>) -> u16 {
        let number = self.number(setup);
        self.generations[usize::from(number)].sessions += 1;
        number
    }

    /// The number of a configuration.
    pub(super) fn number(&mut self, setup: &Arc<Setup>) -> u16 {
        let is_it = |generation: &Generation| Arc::ptr_eq(&generation.setup, setup);
        if is_it(&self.generations[usize::from(self.present)]) {
            return self.present;
        }
        // From a worker that is a configuration ahead of this one, or behind.
        let known = self.generations.iter().find(|(_, generation)| is_it(generation)).map(|(index, _)| index);
        let index = known
            .unwrap_or_else(|| self.generations.insert(Generation { setup: Arc::clone(setup), sessions: 0 }));
        index as u16 // there are no more in use
    }
}
