//! What the program around a proxy does for its operators.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::drains::Drains;
use super::http::Response;
use crate::changes::Changes;
use crate::crew::{Command, Crew, Reloaded};
use crate::plan::Plan;
use crate::setup::Setup;

/// What the program around a proxy does for its operators: what only it can. What is left out is answered with 501,
/// or 0.
#[derive(Default)]
#[non_exhaustive]
pub struct Host {
    /// Reads the configuration again and answers, or sees to it that somebody does. It is called by the loop and must
    /// return at once.
    pub reload: Option<Box<dyn Fn(ReloadRequest) + Send + Sync>>,
    /// Log lines that were lost since the start.
    pub lost_lines: Option<Box<dyn Fn() -> u64 + Send + Sync>>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("reloads", &self.reload.is_some()).finish_non_exhaustive()
    }
}

/// An operator asks for a reload.
pub struct ReloadRequest {
    pub(crate) dry_run: bool,
    pub(crate) setup: Arc<Setup>,
    /// What operators let drain: the file says nothing of that.
    pub(crate) drains: Drains,
    pub(crate) crew: Arc<Crew>,
    pub(crate) connection: u64,
}

impl fmt::Debug for ReloadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadRequest").field("dry_run", &self.dry_run).finish_non_exhaustive()
    }
}

impl ReloadRequest {
    /// Whether it is only to be said what it would change.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// It was done; in a few words, what.
    pub fn done(self, reloaded: &Reloaded, message: &str) {
        #[derive(Serialize)]
        struct Answer<'a> {
            changed: bool,
            listeners_opened: usize,
            listeners_closed: usize,
            message: &'a str,
        }
        let Reloaded { is_changed: changed, listeners_opened, listeners_closed, .. } = *reloaded;
        self.answer(Response::json(Answer { changed, listeners_opened, listeners_closed, message }));
    }

    /// It would change to this.
    pub fn would_be(self, plan: &Plan) {
        #[derive(Serialize)]
        struct Answer<'a> {
            dry_run: bool,
            #[serde(flatten)]
            changes: serde_json::Value,
            text: &'a str,
        }
        let mut running = self.setup.configured();
        self.drains.take_off(&mut running);
        let changes = Changes::between(&running, plan);
        let json = serde_json::from_str(&changes.to_json()).unwrap_or_default(); // it is an object
        let text = changes.to_string();
        self.answer(Response::json(Answer { dry_run: true, changes: json, text: &text }));
    }

    /// It was not, or could not be, done.
    pub fn refused(self, why: &str) {
        self.answer(Response::error(409, why));
    }

    fn answer(self, response: Response) {
        let _ = self.crew.tell(0, Command::Answer(self.connection, Box::new(response))); // gone with its connection
    }
}
