//! One run of the load generator as the benchmark sees it: a child that says when it is ready, is told to go, and
//! says what came of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::process::Process;

/// How long opening all tunnels, or the last of a run, may take; some proxies run under valgrind.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the load generator says, a line each.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Listening { address: SocketAddr },
    Ready,
    Open { tunnels: u64 },
    Carried,
    Result(Box<Outcome>),
}

/// What came of a run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Outcome {
    pub seconds: f64,
    pub messages: u64,
    pub lives: u64,
    /// Echoes, or lives, that were under way at the end: they cost CPU time as well.
    pub uncounted: u64,
    /// Payload, both directions.
    pub bytes: u64,
    pub latency_us: Option<Latency>,
    /// Percentile and µs.
    pub histogram: Vec<(f64, f64)>,
    pub mismatches: u64,
    pub errors: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

/// Starts the servers and clients of a run: all on the same core, with their messages in the same folder.
pub struct Generator<'a> {
    pub program: &'a Path,
    pub core: Option<usize>,
    pub folder: &'a Path,
}

impl Generator<'_> {
    pub fn backend(&self) -> Result<(Process, SocketAddr), String> {
        let process = self.start("backend", &["backend".into(), "--until-eof".into()])?;
        match event(&process, PATIENCE)? {
            Event::Listening { address } => Ok((process, address)),
            other => Err(process.trouble(&format!("says {other:?} instead of where it listens"))),
        }
    }

    /// Starts a client; `arguments` are words with blanks between.
    pub fn load(&self, arguments: &str, target: SocketAddr) -> Result<Load, String> {
        let mut words: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        words.extend(["--target".into(), target.to_string()]);
        Ok(Load { process: self.start(arguments, &words)? })
    }

    fn start(&self, name: &str, arguments: &[String]) -> Result<Process, String> {
        let mut command = vec![self.program.display().to_string()];
        command.extend_from_slice(arguments);
        let log: PathBuf = self.folder.join(format!("{}.log", arguments[0]));
        Process::start(&format!("loadgen {name}"), &command, self.core, &log, true)
    }
}

pub struct Load {
    process: Process,
}

impl Load {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until all is open and warm.
    pub fn ready(&self) -> Result<(), String> {
        match event(&self.process, PATIENCE)? {
            Event::Ready => Ok(()),
            other => Err(self.process.trouble(&format!("says {other:?} instead of that it is ready"))),
        }
    }

    /// Begins the measured time, or ends the run after it.
    pub fn go(&mut self) -> Result<(), String> {
        self.process.say("go")
    }

    pub fn result(&self, within: Duration) -> Result<Outcome, String> {
        let outcome = match event(&self.process, within + PATIENCE)? {
            Event::Result(outcome) => *outcome,
            other => return Err(self.process.trouble(&format!("says {other:?} instead of a result"))),
        };
        match (outcome.mismatches, outcome.errors) {
            (0, 0) => Ok(outcome),
            (wrong, failed) => {
                Err(self.process.trouble(&format!("had {wrong} wrong echoes and {failed} other errors")))
            }
        }
    }

    /// Waits until an idle load has opened its tunnels.
    pub fn open(&self, expected: u64) -> Result<(), String> {
        match event(&self.process, PATIENCE)? {
            Event::Open { tunnels } if tunnels == expected => Ok(()),
            other => Err(self.process.trouble(&format!("says {other:?} instead of {expected} open tunnels"))),
        }
    }

    /// Lets each tunnel of an idle load carry a message and its echo.
    pub fn carry(&mut self, bytes: u64) -> Result<(), String> {
        self.process.say(&format!("carry {bytes}"))?;
        match event(&self.process, PATIENCE)? {
            Event::Carried => Ok(()),
            other => Err(self.process.trouble(&format!("says {other:?} instead of that all was carried"))),
        }
    }

    pub fn ends_well(self) -> Result<(), String> {
        self.process.ends_well(PATIENCE)
    }
}

fn event(process: &Process, within: Duration) -> Result<Event, String> {
    let line = process.line(within)?;
    serde_json::from_str(&line).map_err(|error| process.trouble(&format!("says {line:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_load_generator_is_understood() {
        let read = |text: &str| serde_json::from_str::<Event>(text).unwrap();
        assert!(matches!(read(r#"{"event":"ready"}"#), Event::Ready));
        assert!(matches!(read(r#"{"event":"carried"}"#), Event::Carried));
        assert!(matches!(read(r#"{"event":"open","tunnels":9}"#), Event::Open { tunnels: 9 }));
        assert!(matches!(
            read(r#"{"event":"listening","address":"127.0.0.1:80"}"#),
            Event::Listening { address } if address.port() == 80
        ));
        let Event::Result(outcome) = read(
            r#"{"event":"result","mode":"echo","seconds":2.00,"tunnels":64,"messages":12,"bytes":7901184,"lives":0,
                "latency_us":{"p50":1.5,"p90":2,"p99":3,"p999":4,"max":5,"mean":6},"mismatches":0,"errors":1,
                "histogram":[[50.0,1.5],[99.9,4]]}"#,
        ) else {
            panic!("this is a result");
        };
        assert_eq!((outcome.messages, outcome.bytes, outcome.errors), (12, 7_901_184, 1));
        assert_eq!(outcome.histogram, [(50.0, 1.5), (99.9, 4.0)]);
        assert_eq!(outcome.latency_us.unwrap().p99, 3.0);
    }
}
