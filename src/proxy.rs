//! What an embedder sees: bind, run (or turn by turn), and a handle to steer it from elsewhere.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(feature = "admin")]
use crate::admin::host::Host;
use crate::crew::{Command, Crew, Exchange, Reload, Reloaded};
use crate::error::{ReloadError, StartError};
use crate::event_loop::EventLoop;
use crate::inherited::Inherited;
use crate::plan::{Address, Plan, WorkerCount};
use crate::session::journal::Sink;
use crate::stats::Snapshot;

/// A proxy with its listeners open.
///
/// It is one event loop for one thread, whatever `workers` says ([`Workers`] are as many as it says). It starts no
/// threads of its own, installs no signal handler, no logger and no panic hook, and writes no access log unless it is
/// given somewhere to write to.
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
        Proxy::bind_with(plan, Inherited::new())
    }

    /// As [`bind`](Proxy::bind), with sockets that the host was handed: what `listen = "fd:NAME"` is about. They are
    /// kept for reloads.
    ///
    /// # Errors
    /// As there, and where a socket of such a name is not among them or is not a listening one.
    pub fn bind_with(plan: Plan, inherited: Inherited) -> Result<Proxy, StartError> {
        let (mut loops, crew) = EventLoop::crew(plan, 1, inherited)?;
        Ok(Proxy { event_loop: loops.remove(0), handle: Handle { crew } })
    }

    /// Where it listens, in the order of the plan, with the port that the kernel chose where port 0 was asked for. A
    /// listener that drains is not there, and once the proxy itself drains there is none.
    pub fn local_addrs(&self) -> Vec<Address> {
        self.event_loop.local_addrs()
    }

    /// What the program around it does for operators. Only the first time counts.
    #[cfg(feature = "admin")]
    pub fn set_host(&self, host: Host) {
        let _ = self.handle.crew.host.set(host);
    }

    /// Where operators are listened for.
    #[cfg(feature = "admin")]
    pub fn admin_addr(&self) -> Option<Address> {
        self.event_loop.admin_addr()
    }

    /// The clients that it serves at once (`[limits] max_connections`). Each takes up to two descriptors.
    pub fn max_connections(&self) -> usize {
        self.event_loop.limits().max_connections
    }

    /// A handle to steer it from anywhere.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Where access-log lines go: each call has whole lines, and must return without waiting (a [`LogWriter`] does).
    ///
    /// [`LogWriter`]: crate::log_writer::LogWriter
    pub fn set_access_log(&mut self, sink: impl FnMut(&[u8]) + Send + 'static) {
        self.event_loop.set_access_log(Arc::new(Mutex::new(sink)));
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

/// Event loops side by side, as many as the plan's `workers` says, on a thread each: what the command runs.
///
/// Each listens for itself, on sockets of its own where the kernel shares a port (TCP), and clients are spread over
/// them. Limits, health and counts of servers hold over all of them; a [`Handle`] is about all of them.
pub struct Workers {
    loops: Vec<EventLoop>,
    handle: Handle,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("count", &self.loops.len()).finish_non_exhaustive()
    }
}

impl Workers {
    /// As [`Proxy::bind`].
    ///
    /// # Errors
    /// As there.
    pub fn bind(plan: Plan) -> Result<Workers, StartError> {
        Workers::bind_with(plan, Inherited::new())
    }

    /// As [`Proxy::bind_with`]. Of a socket that was handed over each worker has a descriptor.
    ///
    /// # Errors
    /// As there.
    pub fn bind_with(plan: Plan, inherited: Inherited) -> Result<Workers, StartError> {
        let count = match plan.workers {
            WorkerCount::Count(count) => usize::from(count),
            // Where that is not to be learned one does the work.
            WorkerCount::Auto => thread::available_parallelism().map_or(1, usize::from),
        };
        let (loops, crew) = EventLoop::crew(plan, count, inherited)?;
        Ok(Workers { loops, handle: Handle { crew } })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.loops.len()
    }

    /// As [`Proxy::local_addrs`].
    pub fn local_addrs(&self) -> Vec<Address> {
        self.loops[0].local_addrs()
    }

    /// As [`Proxy::set_host`].
    #[cfg(feature = "admin")]
    pub fn set_host(&self, host: Host) {
        let _ = self.handle.crew.host.set(host);
    }

    /// As [`Proxy::admin_addr`].
    #[cfg(feature = "admin")]
    pub fn admin_addr(&self) -> Option<Address> {
        self.loops[0].admin_addr()
    }

    /// As [`Proxy::max_connections`], of all together.
    pub fn max_connections(&self) -> usize {
        self.loops[0].limits().max_connections
    }

    /// As [`Proxy::handle`].
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// As [`Proxy::set_access_log`]: lines of all workers go there, one after the other.
    pub fn set_access_log(&mut self, sink: impl FnMut(&[u8]) + Send + 'static) {
        let sink: Sink = Arc::new(Mutex::new(sink));
        self.loops.iter_mut().for_each(|event_loop| event_loop.set_access_log(Arc::clone(&sink)));
    }

    /// Runs until they are told to stop, and every session has ended: the first on the calling thread, each other on
    /// one that it starts for it.
    ///
    /// # Errors
    /// Where a kernel's poll fails, or a thread cannot be started; then all of them are stopped. A panic in one stops
    /// the others as well, and goes on here.
    pub fn run(self) -> io::Result<()> {
        let Workers { loops, handle } = self;
        let mut threads = Vec::with_capacity(loops.len());
        let mut loops = loops.into_iter();
        let first = loops.next(); // there is one
        let mut result = Ok(());
        for (index, event_loop) in (1..).zip(loops) {
            let stop = handle.clone();
            let work = move || stopping_others(&stop, event_loop);
            match thread::Builder::new().name(format!("adit-worker-{index}")).spawn(work) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    handle.stop();
                    result = Err(error);
                    break;
                }
            }
        }
        if let Some(first) = first {
            result = result.and(stopping_others(&handle, first));
        }
        for thread in threads {
            match thread.join() {
                Ok(ended) => result = result.and(ended),
                Err(panic) => panic::resume_unwind(panic),
            }
        }
        result
    }
}

/// Runs a loop to its end. One that does not end well ends the others.
fn stopping_others(handle: &Handle, mut event_loop: EventLoop) -> io::Result<()> {
    let run = AssertUnwindSafe(|| {
        while !event_loop.is_over() {
            event_loop.turn(None)?;
        }
        Ok(())
    });
    let ended = catch_unwind(run);
    // With all that it has yet to look for, before the first one hears of it, which may wait for that.
    drop(event_loop);
    let _ = handle.crew.tell(0, Command::Ended); // it may have ended itself
    if !matches!(ended, Ok(Ok(()))) {
        handle.stop();
    }
    ended.unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// Steers a proxy, or all workers, from another thread, or from the same one between turns.
#[derive(Clone)]
pub struct Handle {
    crew: Arc<Crew>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What became of a reload: to be waited for where it matters, by a thread that does not run the proxy itself. It comes
/// when every worker goes on with the new configuration, and never where the proxy is gone.
pub type Reloading = Receiver<Result<Reloaded, ReloadError>>;

impl Handle {
    /// Closes the listeners and lets sessions end: tunnels have the configured time and are closed at the configured
    /// pace. Asked for a second time it changes nothing.
    pub fn drain(&self) {
        self.crew.tell_all(None, || Command::Drain);
    }

    /// Closes everything now.
    pub fn stop(&self) {
        self.crew.tell_all(None, || Command::Stop);
    }

    /// Whether it was asked to drain or to stop, by whomever, and a loop has heard of it.
    pub fn is_stopping(&self) -> bool {
        self.crew.is_stopping.load(Relaxed)
    }

    /// Exchanges the configuration: listeners are opened, kept or closed, and what begins from then on is by the new
    /// one. Sessions that are open keep the one that they were opened with, but for tunnels that have to go because
    /// what they are part of drains or was removed. Where a listener cannot be opened nothing changes. The number of
    /// workers stays what it is.
    pub fn reload(&self, plan: Plan) -> Reloading {
        self.exchange(plan, None)
    }

    /// As [`reload`](Handle::reload), and session lines go elsewhere from the same moment on; `None`: nowhere.
    pub fn reload_logging_to(
        &self,
        plan: Plan,
        sink: Option<impl FnMut(&[u8]) + Send + 'static>,
    ) -> Reloading {
        self.exchange(plan, Some(sink.map(|sink| Arc::new(Mutex::new(sink)) as Sink)))
    }

    fn exchange(&self, plan: Plan, sink: Option<Option<Sink>>) -> Reloading {
        let (sender, reloading) = sync_channel(1);
        let reply = Box::new(move |told| drop(sender.try_send(told))); // there is room for one; or nobody waits
        let _ = self.crew.tell(
            0,
            Command::Reload(Box::new(Reload { exchange: Exchange::Plan(Box::new(plan)), sink, reply })),
        );
        reloading
    }

    /// Counts a reload that did not come as far as to the proxy, because the file was wrong.
    pub fn reload_refused(&self) {
        self.crew.refused_reloads.fetch_add(1, Relaxed);
    }

    /// Whether every worker's loop goes round: each answers in its next turn, and those that have come to their end
    /// need not. Waits for the last of them, so long at most; who runs the proxy itself must not ask.
    pub fn ping(&self, within: Duration) -> bool {
        // Nothing is ever sent: a worker answers by letting go of its end, and so does one that is no more.
        let (answer, answered) = sync_channel::<Infallible>(0);
        self.crew.tell_all(None, || Command::Ping(answer.clone()));
        drop(answer);
        match answered.recv_timeout(within) {
            Ok(never) => match never {},
            Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
        }
    }

    /// The counters now, of all workers together.
    pub fn stats(&self) -> Snapshot {
        self.crew.snapshot()
    }

    /// The counters now, of each worker.
    pub fn worker_stats(&self) -> Vec<Snapshot> {
        self.crew.snapshots()
    }
}
