//! Reload, on a signal or because an operator asks: a thread that reads the file again, checks it, and hands it to
//! the proxy. Names are resolved there, which may take long; whoever asks next is heard meanwhile. Whatever is wrong
//! changes nothing.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

#[cfg(feature = "admin")]
use adit::ReloadRequest;
use adit::plan::{Log, RunAs, WorkerCount};
use adit::{Handle, Reloaded};

use crate::descriptors;
use crate::logger::Logs;
use crate::systemd::Notifier;

/// Who asks for a reload.
pub enum Asker {
    /// A signal.
    Signal,
    /// An operator, who waits for an answer.
    #[cfg(feature = "admin")]
    Operator(ReloadRequest),
}

/// Takes what is asked for to the thread, which is not there before the first time.
pub struct Reloads(Mutex<State>);

enum State {
    Unasked(Option<Box<Reloader>>),
    Running(Sender<Asker>),
}

impl Reloads {
    /// None was asked for yet.
    pub fn new(reloader: Reloader) -> Reloads {
        Reloads(Mutex::new(State::Unasked(Some(Box::new(reloader)))))
    }

    /// Asks for one. Asked while one is under way it does so once more.
    pub fn ask(&self, asker: Asker) -> Result<(), String> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Unasked(reloader) = &mut *state {
            let reloader = reloader.take().ok_or("cannot reload, as there was no thread to be had for it")?;
            *state = State::Running(reloader.start().map_err(|error| format!("no thread: {error}"))?);
        }
        match &*state {
            State::Running(ask) => ask.send(asker).map_err(|_| "cannot reload, by a bug of adit's".into()),
            State::Unasked(_) => Ok(()), // not any more
        }
    }
}

/// What is needed to reload.
pub struct Reloader {
    file: PathBuf,
    handle: Handle,
    logs: Arc<Logs>,
    /// Who waits for reloads to end.
    notifier: Notifier,
    /// As it is at present.
    log: Log,
    workers: WorkerCount,
    run_as: RunAs,
    max_connections: usize,
}

impl Reloader {
    /// For a proxy that was started with this file, which said so much about logs, workers and clients.
    pub fn new(
        file: PathBuf,
        handle: Handle,
        logs: Arc<Logs>,
        notifier: Notifier,
        plan: &adit::Plan,
    ) -> Reloader {
        let (log, workers, run_as) = (plan.log.clone(), plan.workers, plan.run_as.clone());
        let max_connections = plan.limits.max_connections;
        Reloader { file, handle, logs, notifier, log, workers, run_as, max_connections }
    }

    fn start(mut self) -> io::Result<Sender<Asker>> {
        let (ask, asked) = channel();
        let work = move || self.serve(&asked);
        thread::Builder::new().name("adit-reload".into()).spawn(work)?;
        Ok(ask)
    }

    fn serve(&mut self, asked: &Receiver<Asker>) {
        while let Ok(first) = asked.recv() {
            // Signals that came meanwhile are one; each operator has an answer.
            let mut askers = vec![first];
            askers.extend(asked.try_iter());
            #[cfg(feature = "admin")]
            let askers = self.say_what_would_be(askers);
            if askers.is_empty() {
                continue;
            }
            self.notifier.reloading();
            let done = self.reload();
            self.notifier.ready(); // either way it is over
            match &done {
                Ok((_, what)) => log::info!("reloaded {}: {what}", self.file.display()),
                Err(why) => log::error!("reload refused, the running configuration goes on: {why}"),
            }
            for asker in askers {
                match (asker, &done) {
                    (Asker::Signal, _) => {}
                    #[cfg(feature = "admin")]
                    (Asker::Operator(request), Ok((reloaded, what))) => request.done(reloaded, what),
                    #[cfg(feature = "admin")]
                    (Asker::Operator(request), Err(why)) => request.refused(why),
                }
            }
        }
    }

    /// Answers those who only want to know, and gives back the others.
    #[cfg(feature = "admin")]
    fn say_what_would_be(&self, askers: Vec<Asker>) -> Vec<Asker> {
        let mut others = Vec::new();
        for asker in askers {
            match asker {
                Asker::Operator(request) if request.is_dry_run() => match crate::load(&self.file) {
                    Ok((_, plan)) => request.would_be(&plan),
                    Err(error) => request.refused(&text(error)),
                },
                other => others.push(other),
            }
        }
        others
    }

    /// What ends a reload before the proxy has heard of it.
    fn uncounted(&self, error: impl Display) -> String {
        self.handle.reload_refused();
        text(error)
    }

    fn reload(&mut self) -> Result<(Reloaded, String), String> {
        let (config, plan) = crate::load(&self.file).map_err(|error| self.uncounted(error))?;
        let (log, workers, max) = (plan.log.clone(), plan.workers, plan.limits.max_connections);
        let run_as = plan.run_as.clone();
        let change = self.logs.prepare(&self.log, &log).map_err(|error| self.uncounted(error))?;
        let reloading = if log.access == self.log.access {
            self.handle.reload(plan)
        } else {
            self.handle.reload_logging_to(plan, change.sink())
        };
        let reloaded = reloading.recv().map_err(|_| "adit is about to stop")?.map_err(text)?;
        self.logs.commit(change);
        self.log = log;
        if workers != self.workers {
            log::warn!("workers: another number takes effect at the next start");
        }
        if run_as != self.run_as {
            log::warn!("user, group: others take effect at the next start");
        }
        if std::mem::replace(&mut self.max_connections, max) != max {
            descriptors::make_room(max);
        }
        let told = tell(&reloaded, &config.summary());
        Ok((reloaded, told))
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn tell(reloaded: &Reloaded, summary: &str) -> String {
    if !reloaded.is_changed {
        return "nothing has changed".into();
    }
    let Reloaded { listeners_opened, listeners_closed, .. } = reloaded;
    format!("{summary}; {listeners_opened} listeners opened, {listeners_closed} closed")
}
