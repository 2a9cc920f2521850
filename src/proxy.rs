//! What an embedder sees: bind, run (or turn by turn), and a handle to steer it from elsewhere.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use mio::Waker;

use crate::error::StartError;
use crate::event_loop::{Command, EventLoop};
use crate::plan::{Address, Plan};
use crate::stats::{Snapshot, Stats};

/// A proxy with its listeners open.
///
/// It is one event loop for one thread. It starts no threads of its own, installs no signal handler, no logger and no
/// panic hook, and writes no access log unless it is given somewhere to write to.
pub struct Proxy {
    event_loop: EventLoop,
    handle: Handle,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("local_addrs", &self.local_addrs()).finish_non_exhaustive()
    }
}

/// Whether a proxy has more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Status {
    /// It goes on: it wants further turns.
    Running,
    /// It was asked to stop and has ended its last session.
    Stopped,
}

impl Proxy {
    /// Opens every listener of the plan. Clients may connect from now on, and are served once it runs.
    ///
    /// # Errors
    /// Where an address cannot be listened on (in use, no permission), and where the kernel gives no poll.
    pub fn bind(plan: Plan) -> Result<Proxy, StartError> {
        let (sender, commands) = channel();
        let (event_loop, waker) = EventLoop::new(plan, commands)?;
        let handle = Handle { commands: sender, waker: Arc::new(waker), stats: event_loop.stats() };
        Ok(Proxy { event_loop, handle })
    }

    /// Where it listens, in the order of the plan, with the port that the kernel chose where port 0 was asked for.
    /// Empty once it drains.
    pub fn local_addrs(&self) -> Vec<Address> {
        self.event_loop.local_addrs()
    }

    /// The clients that it serves at once (`[limits] max_connections`). Each takes up to two descriptors.
    pub fn max_connections(&self) -> usize {
        self.event_loop.max_connections()
    }

    /// A handle to steer it from anywhere.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where access-log lines go: each call has whole lines, and must return without waiting (a [`LogWriter`] does).
    ///
    /// [`LogWriter`]: crate::log_writer::LogWriter
    pub fn set_access_log(&mut self, sink: impl FnMut(&[u8]) + Send + 'static) {
        self.event_loop.set_access_log(Box::new(sink));
    }

    /// Runs until it is told to stop, and every session has ended.
    ///
    /// # Errors
    /// Only where the kernel's poll itself fails.
    pub fn run(mut self) -> io::Result<()> {
        while self.turn(None)? == Status::Running {}
        Ok(())
    }

    /// One pass of the loop, for a host that has its own: waits for something to do, at most `timeout` (`None`: as long
    /// as it takes), does it, and returns.
    ///
    /// # Errors
    /// As [`run`](Proxy::run).
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<Status> {
        if !self.event_loop.is_over() {
            self.event_loop.turn(timeout)?;
        }
        Ok(if self.event_loop.is_over() { Status::Stopped } else { Status::Running })
    }

    /// When it wants its next turn at the latest, even if its descriptor does not become readable; `None`: not before
    /// that.
    pub fn next_turn(&self) -> Option<Instant> {
        self.event_loop.next_turn()
    }
}

/// The poll's descriptor: readable when there are events, so that a host can watch it in a loop of its own.
impl AsRawFd for Proxy {
    fn as_raw_fd(&self) -> RawFd {
        self.event_loop.as_raw_fd()
    }
}

/// Steers a proxy from another thread, or from the same one between turns.
#[derive(Clone)]
pub struct Handle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    stats: Arc<Stats>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Handle {
    /// Closes the listeners and lets sessions end: tunnels have the configured time, then they are closed. Asked for a
    /// second time it changes nothing.
    pub fn drain(&self) {
        self.send(Command::Drain);
    }

    /// Closes everything now.
    pub fn stop(&self) {
        self.send(Command::Stop);
    }

    /// The counters now.
    pub fn stats(&self) -> Snapshot {
        self.stats.snapshot()
    }

    /// Neither can fail in a way that matters: a proxy that is gone needs no command, and a waker that cannot be woken
    /// has been woken already.
    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        let _ = self.waker.wake();
    }
}
