//! The access log: from a session's story to a line, given to whoever writes lines.

use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::story::{Client, Story};
use crate::access_log::{self, Entry, Event, Stamp};
use crate::error::{EndedBy, Outcome};
use crate::moment::Moment;
use crate::plan::LogFormat;
use crate::setup::Setup;

/// Takes whole lines, and must not wait. All workers write to it.
pub type Sink = Arc<Mutex<dyn FnMut(&[u8]) + Send>>;

/// Writes lines about sessions, where somebody wants them.
pub struct Journal {
    sink: Option<Sink>,
    /// How lines are written: one log has one form, whatever configuration a session was opened with.
    format: LogFormat,
    line: Vec<u8>,
    stamp: Stamp,
    client: Vec<u8>,
}

impl Default for Journal {
    fn default() -> Journal {
        Journal {
            sink: None,
            format: LogFormat::Text,
            line: Vec::new(),
            stamp: Stamp::default(),
            client: Vec::new(),
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("is_on", &self.sink.is_some()).finish_non_exhaustive()
    }
}

impl Journal {
    /// Lines go to `sink` from now on.
    pub fn set_sink(&mut self, sink: Option<Sink>) {
        self.sink = sink;
    }

    /// Lines are written so from now on.
    pub fn set_format(&mut self, format: LogFormat) {
        self.format = format;
    }

    /// The line of a tunnel that has opened.
    pub fn open(&mut self, story: &Story, setup: &Setup, now: Moment, wall: SystemTime) {
        self.write(story, Event::Open, None, setup, now, wall);
    }

    /// A line of a tunnel that is still open.
    pub fn still(&mut self, story: &Story, setup: &Setup, now: Moment, wall: SystemTime) {
        self.write(story, Event::Still, None, setup, now, wall);
    }

    /// The last line of a session.
    pub fn close(&mut self, story: &Story, outcome: &Outcome, setup: &Setup, now: Moment, wall: SystemTime) {
        self.write(story, Event::Close, Some(outcome), setup, now, wall);
    }

    fn write(
        &mut self,
        story: &Story,
        event: Event,
        outcome: Option<&Outcome>,
        setup: &Setup,
        now: Moment,
        wall: SystemTime,
    ) {
        let Some(sink) = &mut self.sink else { return };
        let pool = story.backend.map(|id| setup.pool(id.pool).0);
        let server = story.backend.zip(pool).map(|(id, pool)| &pool.backends[usize::from(id.index)]);
        let reason = outcome.map(Outcome::reason);
        self.client.clear();
        write_client(story.client(), &mut self.client);
        let mut digits = [0; 32];
        let entry = Entry {
            time: self.stamp.at(wall),
            id: story.id.bytes(&mut digits),
            event,
            client: &self.client,
            listener: &setup.listener_names[usize::from(story.listener)],
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
        access_log::write(&entry, self.format, &mut self.line);
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        sink(&self.line);
    }
}

fn write_client(client: Client, out: &mut Vec<u8>) {
    let (address, port) = match client {
        Client::Peer(IpAddr::V4(address), port) => (address, Some(port)),
        Client::Told(IpAddr::V4(address)) => (address, None),
        Client::Peer(IpAddr::V6(_), _) | Client::Told(IpAddr::V6(_)) | Client::Unix => {
            // A vector takes whatever is written.
            let _ = write!(out, "{client}");
            return;
        }
    };
    for octet in address.octets() {
        let digits = [octet / 100, octet / 10 % 10, octet % 10].map(|digit| b'0' + digit);
        out.extend_from_slice(match octet {
            100.. => &digits,
            10.. => &digits[1..],
            _ => &digits[2..],
        });
        out.push(b'.');
    }
    out.pop();
    if let Some(port) = port {
        out.push(b':');
        access_log::write_number(port.into(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_written_as_it_is_shown() {
        let told = |address: &str| Client::Told(address.parse().unwrap());
        let peer = |address: &str, port| Client::Peer(address.parse().unwrap(), port);
        for client in [
            Client::Unix,
            told("0.0.0.0"),
            told("9.10.99.100"),
            told("255.255.255.255"),
            told("2001:db8::1"),
            told("::ffff:192.0.2.1"),
            peer("192.0.2.1", 0),
            peer("127.0.0.1", 9),
            peer("10.0.0.1", 10_000),
            peer("10.0.0.1", 65_535),
            peer("2001:db8::1", 443),
        ] {
            let mut out = Vec::new();
            write_client(client, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), client.to_string());
        }
    }
}
