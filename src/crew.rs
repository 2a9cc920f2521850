//! What workers share, and how they reach each other.
//!
//! Each worker is a loop with its own poll, listening sockets, sessions and buffers, and a message passes through one
//! of them alone. What they share is looked at when a session opens or ends: the counts that limits are about, what is
//! known of servers, the pace of closings. They talk by commands, which wake who gets one.

use std::convert::Infallible;
use std::net::SocketAddr;
#[cfg(feature = "admin")]
use std::sync::OnceLock;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mio::Waker;

#[cfg(feature = "admin")]
use crate::admin::drains::Spot;
#[cfg(feature = "admin")]
use crate::admin::host::Host;
#[cfg(feature = "admin")]
use crate::admin::http::Response;
#[cfg(feature = "admin")]
use crate::admin::search::{Findings, Survey};
use crate::error::ReloadError;
use crate::inherited::Inherited;
use crate::limit::PerAddress;
use crate::listener::Listener;
use crate::pace::Pace;
use crate::plan::{Address, Plan};
use crate::session::journal::Sink;
use crate::session::transport::Stream;
use crate::setup::{Registry, Setup};
use crate::stats::{Snapshot, Stats};

/// How many sessions more than the emptiest a worker may have before it hands on those that it accepts: these and,
/// where there are many, a share of what that one has. Handing on costs a wake-up, and the kernel spreads them well
/// enough mostly.
const SURPLUS: u64 = 2;
const SURPLUS_SHARE: u64 = 32;

/// What a worker may be asked.
pub enum Command {
    /// Take in nobody, and let sessions end.
    Drain,
    /// End them.
    Stop,
    /// Exchange the configuration. The first worker is asked, which sees to it that the others do the same.
    Reload(Box<Reload>),
    /// Go on with this configuration.
    Adopt(Box<Adoption>),
    /// All workers have done their part of a reload.
    Exchanged,
    /// Serve a client that another worker has accepted.
    Serve(Box<Accepted>),
    /// See whether tunnels are to be spread anew.
    Spread,
    /// Go through the tunnels, for an operator.
    #[cfg(feature = "admin")]
    Survey(Arc<Survey>),
    /// What a worker has found. (For the first worker, as the next.)
    #[cfg(feature = "admin")]
    Surveyed(Box<Findings>),
    /// The answer to an operator, on the connection with this number.
    #[cfg(feature = "admin")]
    Answer(u64, Box<Response>),
    /// A worker is no more. (For the first one.)
    Ended,
    /// Say that the loop goes round, by letting go of this.
    Ping(SyncSender<Infallible>),
}

/// A configuration to go on with, and where session lines are to go from then on, if that changes.
pub struct Reload {
    pub exchange: Exchange,
    pub sink: Option<Option<Sink>>,
    pub reply: Reply,
}

/// What the configuration is exchanged for.
pub enum Exchange {
    /// Another one.
    Plan(Box<Plan>),
    /// The same, with something that an operator lets drain, or no more.
    #[cfg(feature = "admin")]
    Drain(Spot, bool),
}

/// Is told what became of a reload, once.
pub type Reply = Box<dyn Fn(Result<Reloaded, ReloadError>) + Send + Sync>;

/// What a reload has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// Whether the configuration was another one at all.
    pub is_changed: bool,
    /// Addresses that were not listened on before.
    pub listeners_opened: usize,
    /// Addresses that are no longer listened on.
    pub listeners_closed: usize,
    /// Where it listens now, in the order of the plan.
    pub local_addrs: Vec<Address>,
}

/// A worker's part of a reload.
pub struct Adoption {
    pub setup: Arc<Setup>,
    /// Listening sockets that it has not had yet.
    pub listeners: Vec<Listener>,
    pub sink: Option<Option<Sink>>,
    pub done: Arc<Done>,
}

/// Answers when all workers have done their part.
pub struct Done {
    left: AtomicUsize,
    reloaded: Reloaded,
    reply: Reply,
}

impl Done {
    /// So many have a part in it.
    pub fn new(workers: usize, reloaded: Reloaded, reply: Reply) -> Arc<Done> {
        Arc::new(Done { left: AtomicUsize::new(workers), reloaded, reply })
    }

    /// One of them has done it. Says whether it was the last.
    pub fn count(&self) -> bool {
        let is_last = self.left.fetch_sub(1, SeqCst) == 1;
        if is_last {
            (self.reply)(Ok(self.reloaded.clone()));
        }
        is_last
    }

    /// Whether all of them have.
    pub fn is_done(&self) -> bool {
        self.left.load(SeqCst) == 0
    }
}

/// A client that was accepted, and is counted already.
pub struct Accepted {
    pub stream: Stream,
    pub peer: Option<SocketAddr>,
    /// What it is to be served by.
    pub setup: Arc<Setup>,
    pub listener: u16,
}

/// One of the workers, as the others know it.
struct Mate {
    commands: Sender<Command>,
    waker: Waker,
    stats: Arc<Stats>,
    /// Clients wait for it to accept them, and it for a session to end, whichever worker's that is.
    is_full: AtomicBool,
}

/// All workers.
pub struct Crew {
    mates: Vec<Mate>,
    /// Sessions that are open, and those that are being accepted.
    open: AtomicUsize,
    /// Sessions by client address.
    pub addresses: Arc<PerAddress>,
    registry: Mutex<Registry>,
    /// Whether somebody has asked for the end.
    pub is_stopping: AtomicBool,
    /// Sockets that the host was handed.
    pub inherited: Inherited,
    /// The pace at which tunnels are closed that have to go.
    pub pace: Pace,
    /// When their clocks began.
    pub start: Instant,
    /// Reloads that were refused.
    pub refused_reloads: AtomicU64,
    /// What the program around them does for operators.
    #[cfg(feature = "admin")]
    pub host: OnceLock<Host>,
}

impl Crew {
    /// A crew of workers that are woken by these, and what each of them hears commands by.
    pub fn new(
        wakers: Vec<Waker>,
        inherited: Inherited,
        start: Instant,
    ) -> (Arc<Crew>, Vec<Receiver<Command>>) {
        let mate = |waker| {
            let (commands, receiver) = channel();
            let stats = Arc::default();
            (Mate { commands, waker, stats, is_full: AtomicBool::new(false) }, receiver)
        };
        let (mates, receivers) = wakers.into_iter().map(mate).unzip();
        let crew = Crew {
            mates,
            open: AtomicUsize::new(0),
            addresses: Arc::default(),
            registry: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            inherited,
            pace: Pace::default(),
            start,
            refused_reloads: AtomicU64::new(0),
            #[cfg(feature = "admin")]
            host: OnceLock::new(),
        };
        (Arc::new(crew), receivers)
    }

    /// How many workers there are.
    pub fn size(&self) -> usize {
        self.mates.len()
    }

    /// A worker's counters.
    pub fn stats(&self, worker: usize) -> &Arc<Stats> {
        &self.mates[worker].stats
    }

    /// The counters of each.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.mates.iter().map(|mate| mate.stats.snapshot()).collect()
    }

    /// The counters of all of them.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshots().into_iter().fold(Snapshot::default(), Snapshot::plus)
    }

    /// What is known of routes and servers.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks a worker for something. Gives it back where that worker is no more.
    pub fn tell(&self, worker: usize, command: Command) -> Result<(), Command> {
        let mate = &self.mates[worker];
        mate.commands.send(command).map_err(|unsent| unsent.0)?;
        // A waker that cannot be woken has been woken already.
        let _ = mate.waker.wake();
        Ok(())
    }

    /// Asks all but one for something; `None`: all.
    pub fn tell_all(&self, but: Option<usize>, command: impl Fn() -> Command) {
        for worker in (0..self.size()).filter(|&worker| Some(worker) != but) {
            let _ = self.tell(worker, command()); // one that is no more needs no command
        }
    }

    /// Whether no session is open.
    #[cfg(feature = "admin")]
    pub fn is_empty(&self) -> bool {
        self.open.load(SeqCst) == 0
    }

    /// Counts a session that is to be accepted, where there are fewer than `max`.
    pub fn reserve(&self, max: usize) -> bool {
        self.open.fetch_update(SeqCst, SeqCst, |open| (open < max).then_some(open + 1)).is_ok()
    }

    /// As [`reserve`](Crew::reserve) for one that is accepted whatever the limit says.
    pub fn count(&self) {
        self.open.fetch_add(1, SeqCst);
    }

    /// Whether there are `max` sessions. If so, a worker that will wait for one to end is woken when it does.
    pub fn is_full(&self, worker: usize, max: usize) -> bool {
        let is_full = || self.open.load(SeqCst) >= max;
        if !is_full() {
            return false;
        }
        // Looked at again behind the flag: who ends a session looks at the flag behind the count.
        self.mates[worker].is_full.store(true, SeqCst);
        is_full()
    }

    /// So many sessions of a worker's have ended. The others may have clients that wait.
    pub fn release(&self, worker: usize, sessions: usize) {
        self.open.fetch_sub(sessions, SeqCst);
        for (index, mate) in self.mates.iter().enumerate() {
            if index != worker && mate.is_full.load(SeqCst) && mate.is_full.swap(false, SeqCst) {
                let _ = mate.waker.wake();
            }
        }
    }

    /// Who should serve a client that this worker has accepted, if it has too many itself.
    pub fn emptier_than(&self, worker: usize) -> Option<usize> {
        if self.mates.len() == 1 {
            return None;
        }
        let open = |worker: usize| self.mates[worker].stats.open();
        let emptiest = (0..self.mates.len()).min_by_key(|&worker| open(worker))?;
        let least = open(emptiest);
        (open(worker) > least + SURPLUS + least / SURPLUS_SHARE).then_some(emptiest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crew(workers: usize) -> (Vec<mio::Poll>, Arc<Crew>, Vec<Receiver<Command>>) {
        let polls: Vec<_> = (0..workers).map(|_| mio::Poll::new().unwrap()).collect();
        let waker = |poll: &mio::Poll| Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let (crew, receivers) =
            Crew::new(polls.iter().map(waker).collect(), Inherited::new(), Instant::now());
        (polls, crew, receivers)
    }

    #[test]
    fn there_are_never_more_sessions_than_the_limit_whoever_accepts() {
        let (_polls, crew, _receivers) = crew(2);
        let accepting = || {
            let mut most = 0;
            for _ in 0..100_000 {
                if crew.reserve(3) {
                    most = most.max(crew.open.load(SeqCst));
                    crew.release(0, 1);
                }
            }
            most
        };
        let most = std::thread::scope(|scope| {
            let others: Vec<_> = (0..3).map(|_| scope.spawn(accepting)).collect();
            others.into_iter().map(|other| other.join().unwrap()).chain([accepting()]).max()
        });
        assert!(most <= Some(3), "{most:?}");
        assert_eq!(crew.open.load(SeqCst), 0);
    }

    #[test]
    fn who_waits_for_a_session_to_end_is_woken() {
        let (mut polls, crew, _receivers) = crew(2);
        assert!(crew.reserve(1) && !crew.reserve(1));
        assert!(crew.is_full(1, 1));
        crew.release(0, 1);
        let mut events = mio::Events::with_capacity(1);
        polls[1].poll(&mut events, Some(std::time::Duration::from_secs(20))).unwrap();
        assert_eq!(events.iter().count(), 1);
        assert!(!crew.is_full(1, 1));
    }

    #[test]
    fn a_reload_is_done_when_every_worker_has_done_its_part() {
        let (reply, reloading) = std::sync::mpsc::sync_channel(1);
        let done = Done::new(2, Reloaded::default(), Box::new(move |told| drop(reply.try_send(told))));
        assert!(!done.count() && !done.is_done());
        assert!(reloading.try_recv().is_err());
        assert!(done.count() && done.is_done());
        assert!(reloading.try_recv().is_ok());
    }

    #[test]
    fn where_there_are_many_a_larger_difference_is_put_up_with() {
        let (_polls, crew, _receivers) = crew(2);
        (0..320).for_each(|_| crew.stats(1).session_opened());
        (0..332).for_each(|_| crew.stats(0).session_opened());
        assert_eq!(crew.emptier_than(0), None);
        crew.stats(0).session_opened();
        assert_eq!(crew.emptier_than(0), Some(1));
    }

    #[test]
    fn a_client_goes_to_the_emptiest_where_the_difference_has_grown() {
        let (_polls, crew, _receivers) = crew(3);
        let open = |worker: usize, sessions: usize| {
            (0..sessions).for_each(|_| crew.stats(worker).session_opened());
        };
        open(0, 3);
        open(2, 1);
        assert_eq!(crew.emptier_than(0), Some(1));
        assert_eq!(crew.emptier_than(2), None);
        open(1, 1);
        assert_eq!(crew.emptier_than(0), None);
    }
}
