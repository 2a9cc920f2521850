//! Reload on a signal: a thread that reads the file again, checks it, and hands it to the proxy. Names are resolved
//! there, which may take long; the next signal is heard meanwhile. Whatever is wrong changes nothing.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use adit::plan::{Log, WorkerCount};
use adit::{Handle, Reloaded};

use crate::descriptors;
use crate::logger::Logs;

/// What is needed to reload.
pub struct Reloader {
    file: PathBuf,
    handle: Handle,
    logs: Arc<Logs>,
    /// As it is at present.
    log: Log,
    workers: WorkerCount,
    max_connections: usize,
}

impl Reloader {
    /// For a proxy that was started with this file, which said so much about logs, workers and clients.
    pub fn new(file: PathBuf, handle: Handle, logs: Arc<Logs>, plan: &adit::Plan) -> Reloader {
        let (log, workers) = (plan.log.clone(), plan.workers);
        Reloader { file, handle, logs, log, workers, max_connections: plan.limits.max_connections }
    }

    /// Starts the thread, which is not there before the first reload. It reloads when it is asked to; asked while it
    /// does, it does so once more.
    pub fn start(mut self) -> io::Result<Sender<()>> {
        let (ask, asked) = channel();
        let work = move || self.serve(&asked);
        thread::Builder::new().name("adit-reload".into()).spawn(work)?;
        Ok(ask)
    }

    fn serve(&mut self, asked: &Receiver<()>) {
        while let Ok(()) = asked.recv() {
            while let Ok(()) = asked.try_recv() {}
            match self.reload() {
                Ok(what) => log::info!("reloaded {}: {what}", self.file.display()),
                Err(why) => log::error!("reload refused, the running configuration goes on: {why}"),
            }
        }
    }

    fn reload(&mut self) -> Result<String, String> {
        let (config, plan) = crate::load(&self.file).map_err(text)?;
        let (log, workers, max) = (plan.log.clone(), plan.workers, plan.limits.max_connections);
        let change = self.logs.prepare(&self.log, &log).map_err(text)?;
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
        if std::mem::replace(&mut self.max_connections, max) != max {
            descriptors::make_room(max);
        }
        Ok(tell(&reloaded, &config.summary()))
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
