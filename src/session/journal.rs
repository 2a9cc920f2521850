//! The access log: from a session's story to a line, given to whoever writes lines.

use std::fmt;
use std::time::SystemTime;

use super::story::Story;
use crate::access_log::{self, Entry, Event};
use crate::error::{EndedBy, Outcome};
use crate::moment::Moment;
use crate::plan::Plan;

/// Takes whole lines, and must not wait.
pub type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// Writes lines about sessions, where somebody wants them.
#[derive(Default)]
pub struct Journal {
    sink: Option<Sink>,
    line: Vec<u8>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("is_on", &self.sink.is_some()).finish_non_exhaustive()
    }
}

impl Journal {
    /// Lines go to `sink` from now on.
    pub fn set_sink(&mut self, sink: Sink) {
        self.sink = Some(sink);
    }

    /// The line of a tunnel that has opened.
    pub fn open(&mut self, story: &Story, plan: &Plan, now: Moment, wall: SystemTime) {
        self.write(story, Event::Open, None, plan, now, wall);
    }

    /// The last line of a session.
    pub fn close(&mut self, story: &Story, outcome: &Outcome, plan: &Plan, now: Moment, wall: SystemTime) {
        self.write(story, Event::Close, Some(outcome), plan, now, wall);
    }

    fn write(
        &mut self,
        story: &Story,
        event: Event,
        outcome: Option<&Outcome>,
        plan: &Plan,
        now: Moment,
        wall: SystemTime,
    ) {
        let Some(sink) = &mut self.sink else { return };
        let pool = story.backend.map(|id| &plan.pools[usize::from(id.pool.0)]);
        let server = story.backend.zip(pool).map(|(id, pool)| &pool.backends[usize::from(id.index)]);
        let reason = outcome.map(Outcome::reason);
        let entry = Entry {
            time: wall,
            id: &story.id.text(),
            event,
            client: &story.client(),
            listener: &plan.listeners[usize::from(story.listener)].address.to_string(),
            host: story.host(),
            method: story.method(),
            path: story.path(),
            status: story.status,
            upstream: pool.map(|pool| pool.name.as_str()),
            server: server.map(|server| server.name.as_str()),
            bytes_up: story.bytes_up,
            bytes_down: story.bytes_down,
            duration: now.since(story.accepted),
            handshake: story.handshake,
            waited_for: outcome.and_then(Outcome::waited_for).map(|side| EndedBy::from(side).as_str()),
            outcome: reason.as_deref(),
            ended_by: outcome.map(|outcome| outcome.ended_by().as_str()),
        };
        self.line.clear();
        access_log::write(&entry, plan.log.format, &mut self.line);
        sink(&self.line);
    }
}
