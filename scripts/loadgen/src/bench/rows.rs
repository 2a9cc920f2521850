//! The rows of the report: what is run for each, and what is read off it.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::admin::{self, Scraper};
use super::exact;
use super::load::{Generator, Outcome};
use super::measure::{self, Usage};
use super::peers::{Kind, Peer, Under, admin_socket};
use super::process::Process;

/// Beside the tunnels of a run, those that are just opening or closing.
const TUNNELS_SPARE: u64 = 512;
/// How many tunnels are opening or closing at once where that is what is measured.
const CHURN_AT_ONCE: u64 = 16;
/// What each idle tunnel carries once.
const CARRIED_BYTES: u64 = 4096;
/// After opening or carrying, until what is still in flight has arrived.
const SETTLE: Duration = Duration::from_millis(200);
/// How long a load may take beyond what it was told to.
const SLACK: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// One message in flight on each tunnel.
    Echo { tunnels: u64, bytes: u64 },
    /// Tunnels that open, carry one echo and close.
    Churn,
    /// Four tunnels, as fast as they go: "up", "down" or "both".
    Bulk(&'static str),
    /// Eight echoes beside two tunnels in bulk, both ways.
    Mixed,
    /// Tunnels that do nothing, and what they cost.
    Idle,
    /// Operators who ask beside tunnels that do nothing, and how long they wait.
    Admin,
    /// System calls of a round trip over this many tunnels, or of a tunnel's life.
    Calls(Exact),
    /// Instructions in user space, of the same.
    Instructions(Exact),
    /// The program's file.
    Size,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exact {
    RoundTrip { tunnels: u64 },
    Life,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    Less,
    More,
}

/// One number that a run yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
}

const fn less(name: &'static str, unit: &'static str) -> Figure {
    Figure { name, unit, better: Better::Less }
}

const fn more(name: &'static str, unit: &'static str) -> Figure {
    Figure { name, unit, better: Better::More }
}

const ECHO: &[Figure] = &[less("cpu", "µs/round trip"), less("p50", "µs"), less("p99", "µs")];
const CHURN: &[Figure] = &[less("cpu", "µs/life"), more("rate", "lives/s")];
const BULK: &[Figure] = &[less("cpu", "s/GB"), more("speed", "MB/s")];
const MIXED: &[Figure] = &[less("p50", "µs"), less("p99", "µs"), more("speed", "MB/s")];
const IDLE: &[Figure] = &[
    less("memory", "B/tunnel"),
    less("memory after 4 KiB", "B/tunnel"),
    less("resident at start", "MB"),
    less("cpu at rest", "ms/s"),
];
const ADMIN: &[Figure] = &[
    less("slowest /metrics", "ms"),
    less("slowest /status", "ms"),
    less("slowest /tunnels, 100", "ms"),
    less("slowest /tunnels, 1000", "ms"),
    less("longest turn", "ms"),
];
const CALLS_OF_ROUND_TRIP: &[Figure] = &[less("system calls", "/round trip")];
const CALLS_OF_LIFE: &[Figure] = &[less("system calls", "/life")];
const INSTRUCTIONS_OF_ROUND_TRIP: &[Figure] = &[less("instructions", "/round trip")];
const INSTRUCTIONS_OF_LIFE: &[Figure] = &[less("instructions", "/life")];
const SIZE: &[Figure] = &[less("file", "MB")];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// How it is chosen on the command line and found in the JSON.
    pub name: &'static str,
    pub title: &'static str,
    pub work: Work,
}

const fn row(name: &'static str, title: &'static str, work: Work) -> Row {
    Row { name, title, work }
}

/// In the order of the report.
pub const ROWS: &[Row] = &[
    row("echo-1", "echo 64 B, 1 tunnel", Work::Echo { tunnels: 1, bytes: 64 }),
    row("echo-64", "echo 64 B, 64 tunnels", Work::Echo { tunnels: 64, bytes: 64 }),
    row("echo-1000", "echo 64 B, 1000 tunnels", Work::Echo { tunnels: 1000, bytes: 64 }),
    row("echo-16k", "echo 16 KiB, 64 tunnels", Work::Echo { tunnels: 64, bytes: 16_384 }),
    row("calls-1", "echo 64 B, 1 tunnel", Work::Calls(Exact::RoundTrip { tunnels: 1 })),
    row("calls-64", "echo 64 B, 64 tunnels", Work::Calls(Exact::RoundTrip { tunnels: 64 })),
    row("calls-churn", "open, echo, close", Work::Calls(Exact::Life)),
    row("instructions-64", "echo 64 B, 64 tunnels", Work::Instructions(Exact::RoundTrip { tunnels: 64 })),
    row("instructions-churn", "open, echo, close", Work::Instructions(Exact::Life)),
    row("churn", "open, echo, close", Work::Churn),
    row("bulk-up", "bulk up, 4 streams", Work::Bulk("up")),
    row("bulk-down", "bulk down, 4 streams", Work::Bulk("down")),
    row("bulk-both", "bulk both ways, 4 streams", Work::Bulk("both")),
    row("mixed", "8 echoes beside 2 bulk", Work::Mixed),
    row("idle", "idle tunnels", Work::Idle),
    row("admin", "admin beside idle tunnels", Work::Admin),
    row("size", "the program", Work::Size),
];

impl Row {
    /// Chosen by its name, or by the part before a "-".
    pub fn answers_to(&self, name: &str) -> bool {
        let rest = self.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    pub fn figures(&self) -> &'static [Figure] {
        match self.work {
            Work::Echo { .. } => ECHO,
            Work::Churn => CHURN,
            Work::Bulk(_) => BULK,
            Work::Mixed => MIXED,
            Work::Idle => IDLE,
            Work::Admin => ADMIN,
            Work::Calls(Exact::RoundTrip { .. }) => CALLS_OF_ROUND_TRIP,
            Work::Calls(Exact::Life) => CALLS_OF_LIFE,
            Work::Instructions(Exact::RoundTrip { .. }) => INSTRUCTIONS_OF_ROUND_TRIP,
            Work::Instructions(Exact::Life) => INSTRUCTIONS_OF_LIFE,
            Work::Size => SIZE,
        }
    }

    /// Whether it takes part in every round. Counts and memory do not change from one to the next.
    pub fn is_timed(&self) -> bool {
        match self.work {
            Work::Echo { .. } | Work::Churn | Work::Bulk(_) | Work::Mixed => true,
            Work::Idle | Work::Admin | Work::Calls(_) | Work::Instructions(_) | Work::Size => false,
        }
    }

    pub fn is_for(&self, kind: Kind) -> bool {
        match self.work {
            Work::Echo { bytes, .. } if bytes >= 16_384 => true,
            Work::Bulk(_) | Work::Mixed => true,
            Work::Echo { .. } | Work::Churn => !kind.is_for_bulk(),
            Work::Idle | Work::Calls(_) | Work::Instructions(_) => {
                !kind.is_for_bulk() && kind != Kind::Direct
            }
            Work::Admin => kind == Kind::AditAdmin,
            Work::Size => kind == Kind::Adit,
        }
    }
}

/// What came of one run of one row by one peer.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// In the order of the row's figures; `None` where there is nothing to read it off.
    pub values: Vec<Option<f64>>,
    /// How many cores others used meanwhile, where that matters.
    pub others: Option<f64>,
    /// Percentiles of the latencies in µs, where there are any.
    pub histogram: Vec<(f64, f64)>,
}

/// What all runs have in common.
pub struct Lab {
    /// This program, which is load, server and relay too.
    pub program: PathBuf,
    /// One for the proxy, one for the load and the server; `None` where there is only one.
    pub cores: Option<(usize, usize)>,
    pub folder: PathBuf,
    /// Processes of the kernel whose work is ours too.
    pub helpers: Vec<u32>,
    /// The length of a timed run.
    pub seconds: f64,
    pub idle_tunnels: u64,
    /// How long idle tunnels are watched.
    pub rest: Duration,
}

impl Lab {
    pub fn run(&self, row: &Row, peer: &Peer) -> Result<Sample, String> {
        match row.work {
            Work::Echo { tunnels, bytes } => self.echo(peer, tunnels, bytes),
            Work::Churn => self.churn(peer),
            Work::Bulk(direction) => self.bulk(peer, direction),
            Work::Mixed => self.mixed(peer),
            Work::Idle => self.idle(peer),
            Work::Admin => self.admin(peer),
            Work::Calls(what) => {
                let lengths = if what == Exact::Life { (100, 500) } else { (640, 2_560) };
                self.exact(peer, what, lengths, Tool::Strace)
            }
            Work::Instructions(what) => {
                let lengths = if what == Exact::Life { (100, 500) } else { (1_280, 6_400) };
                self.exact(peer, what, lengths, Tool::Callgrind)
            }
            Work::Size => size(peer),
        }
    }

    fn echo(&self, peer: &Peer, tunnels: u64, bytes: u64) -> Result<Sample, String> {
        let timed = self.timed(peer, &format!("echo --tunnels {tunnels} --bytes {bytes}"), tunnels)?;
        let latency = timed.outcome.latency_us;
        let messages = timed.outcome.messages + timed.outcome.uncounted;
        let per_message = timed.cpu_us().map(|cpu| cpu / messages as f64);
        Ok(timed.sample([per_message, latency.map(|l| l.p50), latency.map(|l| l.p99)]))
    }

    fn churn(&self, peer: &Peer) -> Result<Sample, String> {
        let timed = self.timed(peer, &format!("churn --concurrency {CHURN_AT_ONCE}"), CHURN_AT_ONCE)?;
        let lives = timed.outcome.lives + timed.outcome.uncounted;
        let per_life = timed.cpu_us().map(|cpu| cpu / lives as f64);
        let rate = timed.outcome.lives as f64 / timed.outcome.seconds;
        Ok(timed.sample([per_life, Some(rate)]))
    }

    fn bulk(&self, peer: &Peer, direction: &str) -> Result<Sample, String> {
        let timed = self.timed(peer, &format!("bulk --streams 4 --direction {direction}"), 4)?;
        // A second for 1e9 bytes is a µs for 1e3.
        let per_gigabyte = timed.cpu_us().map(|cpu| cpu * 1e3 / timed.outcome.bytes as f64);
        let speed = timed.megabytes_per_second();
        Ok(timed.sample([per_gigabyte, Some(speed)]))
    }

    fn mixed(&self, peer: &Peer) -> Result<Sample, String> {
        let timed = self.timed(peer, "mixed --echoes 8 --bytes 64 --streams 2", 10)?;
        let latency = timed.outcome.latency_us;
        let speed = timed.megabytes_per_second();
        Ok(timed.sample([latency.map(|l| l.p50), latency.map(|l| l.p99), Some(speed)]))
    }

    /// Proxy, server and load are new for every run; the proxy's CPU time is read while the load stands still.
    fn timed(&self, peer: &Peer, load: &str, tunnels: u64) -> Result<Timed, String> {
        let (backend, address) = self.generator().backend()?;
        let (proxy, address) = self.start(peer, address, tunnels + TUNNELS_SPARE, Under::Nothing)?;
        let scraper = self.scraper(peer)?;
        let pid = proxy.as_ref().map(Process::pid);
        let mut load =
            self.generator().load(&format!("{load} --seconds {:.3} --wait", self.seconds), address)?;
        load.ready()?;
        let mut ours = self.helpers.clone();
        ours.extend([Some(backend.pid()), Some(load.pid()), pid].into_iter().flatten());
        let usage = Usage::now(&ours)?;
        let cpu = pid.map(measure::cpu_time).transpose()?;
        load.go()?;
        let outcome = load.result(Duration::from_secs_f64(self.seconds) + SLACK)?;
        let cpu = match (pid, cpu) {
            (Some(pid), Some(before)) => Some(measure::cpu_time(pid)?.saturating_sub(before)),
            (None, _) | (_, None) => None,
        };
        let others = Usage::now(&ours)?.others_since(&usage);
        load.go()?;
        load.ends_well()?;
        scraper.map_or(Ok(()), Scraper::stop)?;
        proxy.map_or(Ok(()), Process::stop)?;
        backend.stop()?;
        Ok(Timed { outcome, cpu, others })
    }

    /// Somebody who asks while a load runs, where that is what is measured. A run that is shorter than a second has its
    /// share, or else it would be up to chance which of them have.
    fn scraper(&self, peer: &Peer) -> Result<Option<Scraper>, String> {
        if peer.kind != Kind::AditAdmin {
            return Ok(None);
        }
        let every = admin::SCRAPE_PERIOD.min(Duration::from_secs_f64(self.seconds));
        Scraper::start(&admin_socket(&self.folder), self.load_core(), every).map(Some)
    }

    fn idle(&self, peer: &Peer) -> Result<Sample, String> {
        let tunnels = self.idle_tunnels;
        let (backend, address) = self.generator().backend()?;
        let (proxy, address) = self.start(peer, address, tunnels + TUNNELS_SPARE, Under::Nothing)?;
        let proxy = proxy.ok_or("a direct connection has no memory of its own")?;
        thread::sleep(SETTLE);
        let start = measure::memory(proxy.pid())?;
        let mut load = self.generator().load(&format!("idle --tunnels {tunnels}"), address)?;
        load.open(tunnels)?;
        thread::sleep(SETTLE);
        let open = measure::memory(proxy.pid())?;
        let before = measure::cpu_time(proxy.pid())?;
        thread::sleep(self.rest);
        let at_rest = measure::cpu_time(proxy.pid())?.saturating_sub(before);
        load.carry(CARRIED_BYTES)?;
        thread::sleep(SETTLE);
        let carried = measure::memory(proxy.pid())?;
        load.ends_well()?;
        proxy.stop()?;
        backend.stop()?;
        let each = |now: measure::Memory| (now.private as f64 - start.private as f64) / tunnels as f64;
        let values = [
            each(open),
            each(carried),
            start.resident as f64 / 1e6,
            at_rest.as_secs_f64() * 1e3 / self.rest.as_secs_f64(),
        ];
        Ok(Sample { values: values.map(Some).into(), others: None, histogram: Vec::new() })
    }

    fn admin(&self, peer: &Peer) -> Result<Sample, String> {
        let tunnels = self.idle_tunnels;
        let (backend, address) = self.generator().backend()?;
        let (proxy, address) = self.start(peer, address, tunnels + TUNNELS_SPARE, Under::Nothing)?;
        let load = self.generator().load(&format!("idle --tunnels {tunnels}"), address)?;
        load.open(tunnels)?;
        thread::sleep(SETTLE);
        let answers = admin::ask(&admin_socket(&self.folder), self.load_core(), tunnels)?;
        load.ends_well()?;
        proxy.map_or(Ok(()), Process::stop)?;
        backend.stop()?;
        let milliseconds = |wait: Duration| Some(wait.as_secs_f64() * 1e3);
        let values = answers.slowest.into_iter().chain([answers.longest_turn]).map(milliseconds).collect();
        Ok(Sample { values, others: None, histogram: Vec::new() })
    }

    fn exact(
        &self,
        peer: &Peer,
        what: Exact,
        (short, long): (u64, u64),
        tool: Tool,
    ) -> Result<Sample, String> {
        let short_cost = self.exact_run(peer, what, short, tool)?;
        let long_cost = self.exact_run(peer, what, long, tool)?;
        let each = exact::each((short, short_cost), (long, long_cost));
        Ok(Sample { values: vec![Some(each)], others: None, histogram: Vec::new() })
    }

    fn exact_run(&self, peer: &Peer, what: Exact, length: u64, tool: Tool) -> Result<u64, String> {
        let out = self.folder.join("exact.out");
        let under = match tool {
            Tool::Strace => Under::Strace(&out),
            Tool::Callgrind => Under::Callgrind(&out),
        };
        let load = match what {
            Exact::RoundTrip { tunnels } => {
                format!("echo --tunnels {tunnels} --bytes 64 --messages {length}")
            }
            Exact::Life => format!("churn --concurrency {CHURN_AT_ONCE} --tunnels {length}"),
        };
        let (backend, address) = self.generator().backend()?;
        let (proxy, address) = self.start(peer, address, TUNNELS_SPARE, under)?;
        let load = self.generator().load(&load, address)?;
        load.result(SLACK)?;
        load.ends_well()?;
        // Both tools write down what they counted when the program ends.
        proxy.map_or(Ok(()), Process::stop)?;
        backend.stop()?;
        match tool {
            Tool::Strace => exact::calls(&out),
            Tool::Callgrind => exact::instructions(&out),
        }
    }

    fn start(
        &self,
        peer: &Peer,
        backend: std::net::SocketAddr,
        tunnels: u64,
        under: Under,
    ) -> Result<(Option<Process>, std::net::SocketAddr), String> {
        peer.start(backend, tunnels, under, self.cores.map(|(proxy, _)| proxy), &self.folder)
    }

    fn generator(&self) -> Generator<'_> {
        Generator { program: &self.program, core: self.load_core(), folder: &self.folder }
    }

    fn load_core(&self) -> Option<usize> {
        self.cores.map(|(_, load)| load)
    }
}

#[derive(Debug, Clone, Copy)]
enum Tool {
    Strace,
    Callgrind,
}

/// A timed run before it is known what to read off it.
struct Timed {
    outcome: Outcome,
    cpu: Option<Duration>,
    others: f64,
}

impl Timed {
    fn cpu_us(&self) -> Option<f64> {
        self.cpu.map(|cpu| cpu.as_secs_f64() * 1e6)
    }

    fn megabytes_per_second(&self) -> f64 {
        self.outcome.bytes as f64 / 1e6 / self.outcome.seconds
    }

    fn sample<const N: usize>(self, values: [Option<f64>; N]) -> Sample {
        Sample { values: values.into(), others: Some(self.others), histogram: self.outcome.histogram }
    }
}

fn size(peer: &Peer) -> Result<Sample, String> {
    let file = fs::metadata(&peer.program).map_err(|error| format!("{}: {error}", peer.program.display()))?;
    Ok(Sample { values: vec![Some(file.len() as f64 / 1e6)], others: None, histogram: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_chosen_by_its_name_or_its_family() {
        let chosen = |name: &str| -> Vec<&str> {
            ROWS.iter().filter(|row| row.answers_to(name)).map(|row| row.name).collect()
        };
        assert_eq!(chosen("echo"), ["echo-1", "echo-64", "echo-1000", "echo-16k"]);
        assert_eq!(chosen("echo-1"), ["echo-1"]);
        assert_eq!(chosen("churn"), ["churn"]);
        assert!(chosen("bul").is_empty());
    }

    #[test]
    fn no_two_rows_have_one_name() {
        for (place, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..place].iter().all(|other| other.name != row.name), "{}", row.name);
        }
    }

    #[test]
    fn every_row_of_an_adit_is_one_of_them_all_but_for_what_only_one_can_tell() {
        for row in ROWS {
            let others = [Kind::AditLog, Kind::AditAdmin].map(|kind| row.is_for(kind));
            match row.work {
                Work::Admin => assert_eq!((row.is_for(Kind::Adit), others), (false, [false, true])),
                Work::Size => assert_eq!((row.is_for(Kind::Adit), others), (true, [false; 2])),
                _ => assert_eq!((row.is_for(Kind::Adit), others), (true, [true; 2]), "{}", row.name),
            }
        }
    }

    #[test]
    fn there_is_a_figure_for_each_question_and_one_for_the_loop() {
        assert_eq!(ADMIN.len(), admin::QUESTIONS.len() + 1);
        for (figure, question) in ADMIN.iter().zip(admin::QUESTIONS) {
            let path = question.split('?').next().unwrap();
            assert!(figure.name.starts_with(&format!("slowest {path}")), "{}: {question}", figure.name);
        }
    }

    #[test]
    fn counts_are_taken_of_programs_only() {
        for row in ROWS.iter().filter(|row| !row.is_timed()) {
            assert!(!row.is_for(Kind::Direct), "{}", row.name);
        }
    }
}
