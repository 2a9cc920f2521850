//! What a service manager tells the command and wants to hear, by systemd's protocols: sockets that are handed over
//! (sd_listen_fds(3)), and how things are going (sd_notify(3)), which nothing is told about unless it asks.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use adit::{Address, Handle, Inherited, Plan};
use nix::time::{ClockId, clock_gettime};

/// How often the manager is told about tunnels where it has no watchdog.
const STATUS_PERIOD: Duration = Duration::from_secs(10);

/// The shortest pause between two pings, whatever the manager wants.
const PERIOD_MIN: Duration = Duration::from_millis(1);

/// How long a manager may take to take a message. Its queue is short, and it may be busy itself.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// The sockets that this process was handed. To be asked for before it opens anything.
///
/// # Errors
/// Where the environment contradicts itself or the descriptors that there are.
pub fn sockets() -> io::Result<Inherited> {
    let variable = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let mut inherited = Inherited::new();
    // They are for the process of that number; a child of it has the same environment.
    let is_for_us = variable("LISTEN_PID").is_some_and(|id| id == process::id().to_string());
    let Some(count) = variable("LISTEN_FDS").filter(|_| is_for_us) else { return Ok(inherited) };
    let count = count.parse::<u16>().map_err(|_| wrong(format!("LISTEN_FDS is {count:?}")))?;
    let names = variable("LISTEN_FDNAMES");
    let names: Vec<&str> = match &names {
        Some(names) => names.split(':').collect(),
        None => vec!["unknown"; count.into()], // as sd_listen_fds_with_names(3) has it
    };
    if names.len() != usize::from(count) {
        return Err(wrong(format!("LISTEN_FDS is {count}, and LISTEN_FDNAMES has {} names", names.len())));
    }
    for (name, socket) in names.into_iter().zip(adit::passed_descriptors(count)?) {
        inherited.add(name, socket);
    }
    Ok(inherited)
}

/// Warns of sockets whose clients wait for nobody.
pub fn warn_of_unused(inherited: &Inherited, plan: &Plan) {
    let admin = plan.admin.iter().map(|admin| &admin.address);
    let used: Vec<&Address> = plan.listeners.iter().map(|listener| &listener.address).chain(admin).collect();
    for name in inherited.names() {
        let address = Address::Inherited(name.to_owned());
        if !used.contains(&&address) {
            log::warn!("nothing listens on {address}, which was handed over: its clients wait in vain");
        }
    }
}

/// Tells the manager how things are going, if there is one that wants to know.
#[derive(Clone)]
pub struct Notifier(Option<Arc<Manager>>);

struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    is_stopping: AtomicBool,
}

impl Notifier {
    /// The manager that the environment names, where it can be told anything.
    pub fn find() -> Notifier {
        let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let manager = name.map(|name| Manager::at(&name)).transpose();
        Notifier(manager.map_or_else(
            |error| {
                log::warn!("NOTIFY_SOCKET: {error}");
                None
            },
            |manager| manager.map(Arc::new),
        ))
    }

    /// The start is over: clients may come. So is a reload.
    pub fn ready(&self) {
        self.tell(|| "READY=1".into());
    }

    /// A reload begins. The time tells the manager that it is not an earlier one than it asked for.
    pub fn reloading(&self) {
        self.tell(|| {
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
            format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros())
        });
    }

    /// The process is about to stop.
    pub fn stopping(&self) {
        if let Some(manager) = &self.0 {
            manager.stopping();
        }
    }

    fn tell(&self, message: impl FnOnce() -> String) {
        if let Some(manager) = &self.0 {
            manager.tell(&message());
        }
    }

    /// Starts the thread that says how many tunnels there are, and that all is well where the manager has a watchdog,
    /// for as long as the process lives. Without a manager there is none.
    pub fn watch(&self, handle: Handle) -> io::Result<()> {
        let Some(manager) = self.0.clone() else { return Ok(()) };
        let watchdog = watchdog();
        let work = move || manager.watch(&handle, watchdog);
        thread::Builder::new().name("adit-systemd".into()).spawn(work).map(drop)
    }
}

impl Manager {
    fn at(name: &OsStr) -> io::Result<Manager> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Manager { socket, address: address(name)?, is_stopping: AtomicBool::new(false) })
    }

    /// A message that is lost is worth a line, and no more: who cannot be told goes by what it sees.
    fn tell(&self, message: &str) {
        if let Err(error) = self.socket.send_to_addr(message.as_bytes(), &self.address) {
            let first = message.lines().next().unwrap_or_default();
            log::warn!("the service manager cannot be told {first}: {error}");
        }
    }

    fn stopping(&self) {
        if !self.is_stopping.swap(true, SeqCst) {
            self.tell("STOPPING=1");
        }
    }

    fn watch(&self, handle: &Handle, watchdog: Option<Duration>) {
        let period = watchdog.map_or(STATUS_PERIOD, |timeout| (timeout / 2).max(PERIOD_MIN));
        let mut said = String::new();
        let mut due = Instant::now();
        loop {
            // Where it was an operator, and no signal, the manager has not heard of it.
            if handle.is_stopping() {
                self.stopping();
            }
            let status = self.status(handle);
            if status != said {
                self.tell(&status);
                said = status;
            }
            if watchdog.is_some() {
                if handle.ping(period) {
                    self.tell("WATCHDOG=1");
                } else {
                    log::error!("an event loop has not gone round for {period:?}: no word to the watchdog");
                }
            }
            due = (due + period).max(Instant::now());
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }

    /// What `systemctl status` shows.
    fn status(&self, handle: &Handle) -> String {
        let stats = handle.stats();
        let open = match stats.tunnels_open {
            1 => "1 tunnel is".to_owned(),
            count => format!("{count} tunnels are"),
        };
        match self.is_stopping.load(SeqCst) {
            false => format!("STATUS=Serving: {open} open, of {} since the start", stats.tunnels_opened),
            true => format!("STATUS=Draining: {open} still open"),
        }
    }
}

/// Where a manager listens: a path, or a name without a file.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "it is neither a path nor begins with \"@\"")),
    }
}

/// How long the manager waits for a sign of life, if it does.
fn watchdog() -> Option<Duration> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    let is_for_us =
        env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(process::id().into());
    let microseconds = number("WATCHDOG_USEC").filter(|&microseconds| is_for_us && microseconds > 0);
    microseconds.map(Duration::from_micros)
}
