//! Signals: a thread that turns them into calls. It is started before anything listens, so that a signal never
//! meets a proxy that does not know it yet.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::Arc;
use std::thread;

use adit::Handle;
use adit::log_writer::Reopened;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use crate::logger::Logs;
use crate::reload::{Asker, Reloads};
use crate::systemd::Notifier;

/// Takes over the signals that the command knows; [`serve`] acts on them, also on those that came in between.
pub fn catch() -> io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1])
}

/// Starts the thread that acts on signals, for as long as the process lives. There are reloads where there is a file
/// to be read.
pub fn serve(
    mut signals: Signals,
    handle: Handle,
    logs: Arc<Logs>,
    notifier: Notifier,
    reloads: Option<Arc<Reloads>>,
) -> io::Result<()> {
    let mut act = move || {
        let mut stopping = false;
        for signal in signals.forever() {
            let name = signal_name(signal).unwrap_or("a signal");
            match signal {
                SIGHUP if stopping => log::warn!("{name}: not reloading, as adit is about to stop"),
                SIGHUP => match reloads.as_ref().map(|reloads| reloads.ask(Asker::Signal)) {
                    Some(Ok(())) => log::info!("{name}: reloading"),
                    Some(Err(why)) => log::error!("{name}: {why}"),
                    None => log::warn!("{name}: there is nothing to reload with"),
                },
                SIGUSR1 => reopen(&logs, name),
                // What is left of those that were asked for: all of them end the process.
                _ if stopping => {
                    log::warn!("{name}: stopping at once");
                    handle.stop();
                }
                _ => {
                    log::info!("{name}: draining; a second one stops at once");
                    stopping = true;
                    handle.drain();
                    notifier.stopping();
                }
            }
        }
    };
    // A process that hears no signals can only be killed: better to say so by its exit code.
    let guarded = move || {
        if panic::catch_unwind(AssertUnwindSafe(&mut act)).is_err() {
            process::exit(super::EXIT_BUG.into());
        }
    };
    thread::Builder::new().name("adit-signals".into()).spawn(guarded).map(drop)
}

fn reopen(logs: &Logs, name: &str) {
    match logs.reopen() {
        None | Some(Ok(Reopened::NoFile)) => log::info!("{name}: no access log goes to a file"),
        Some(Ok(Reopened::Yes)) => log::info!("{name}: access log reopened"),
        Some(Err(error)) => log::error!("{name}: cannot reopen the access log, the old one goes on: {error}"),
    }
}
