//! `loadgen bench`: adit beside nginx, HAProxy, a bare relay and no proxy at all. `scripts/bench` builds and installs
//! what this needs, and starts it.
//!
//! Counts and memory are taken once, everything timed in rounds: in each every peer runs each row once, in an order
//! that moves on by one a round, and what is reported is the median. A run during which others used the machine is
//! repeated, a bounded number of times, and left out.

mod admin;
mod chart;
mod exact;
mod load;
pub mod measure;
mod options;
mod peers;
pub mod process;
mod report;
mod rows;

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use options::Options;
use process::go_on;
use report::{About, Report, Run};
use rows::{Lab, Row};

/// Cores in use by others, above which a run is left out: what its neighbours on a core then lose is below the noise.
const OTHERS_MAX: f64 = 0.1;
/// How often one run is tried while others use the machine.
const TRIES_MAX: u32 = 3;
/// How long everything may take, builds apart, and how long with `--quick`.
const BUDGET: Duration = Duration::from_secs(540);
const BUDGET_QUICK: Duration = Duration::from_secs(50);
/// What starting and ending the processes of a run takes.
const RUN_OVERHEAD: f64 = 0.25;
/// The part of a round's runs that may be repeated; with `--quick` none is.
const REPEATS: f64 = 0.2;
/// A run is this long at most, and at least, however many there are.
const RUN_SECONDS_MAX: f64 = 1.0;
const RUN_SECONDS_MIN: f64 = 0.2;
const IDLE_TUNNELS: u64 = 9_000;
const IDLE_TUNNELS_QUICK: u64 = 1_000;
/// Descriptors that a proxy needs besides two for each tunnel.
const DESCRIPTORS_SPARE: u64 = 1_100;

/// Runs the benchmark that these arguments ask for.
pub fn run(args: lexopt::Parser) -> Result<(), Box<dyn Error>> {
    match options::parse(args)? {
        Some(options) => Ok(bench(&options)?),
        None => {
            print!("{}", options::HELP);
            Ok(())
        }
    }
}

fn bench(options: &Options) -> Result<(), String> {
    process::hear_signals()?;
    let begin = Instant::now();
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let me = env::current_exe().map_err(|error| error.to_string())?;
    let peers = peers::find(&options.adit, &options.nginx, &options.haproxy, &me)?;
    let rows: Vec<Row> = rows::ROWS.iter().copied().filter(|row| options.wants(row)).collect();
    let mut notes = Vec::new();
    let cores = match measure::cores()[..] {
        [proxy, load, ..] => Some((proxy, load)),
        _ => {
            notes.push("there is one core: proxy, load and server share it".into());
            None
        }
    };
    let lab = Lab {
        program: me,
        cores,
        folder: folder.path().to_owned(),
        helpers: measure::soft_interrupt_threads(),
        seconds: RUN_SECONDS_MIN,
        idle_tunnels: idle_tunnels(options, &mut notes),
        rest: Duration::from_millis(if options.quick { 500 } else { 2_000 }),
    };
    let about = About {
        command: env::args().collect::<Vec<_>>().join(" "),
        unix_time: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        cpu: measure::cpu_model(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        cores,
        rounds: options.rounds,
        idle_tunnels: lab.idle_tunnels,
        others_max: OTHERS_MAX,
        notes,
        ..About::default()
    };
    let report = Report { about, peers, rows, runs: Vec::new() };
    let mut session = Session {
        lab,
        report,
        broken: Vec::new(),
        repeats_left: 0,
        deadline: begin + options.budget(),
        is_quick: options.quick,
    };
    session.counts()?;
    session.rounds()?;
    let Session { mut report, broken, .. } = session;
    report.about.seconds = begin.elapsed().as_secs_f64();
    print!("{}", report.table());
    write(&options.json, &report.json()?)?;
    if let Some(folder) = &options.charts {
        chart::draw(&report, folder)?;
    }
    if broken.is_empty() { Ok(()) } else { Err(format!("{} rows were given up", broken.len())) }
}

impl Options {
    fn budget(&self) -> Duration {
        if self.quick { BUDGET_QUICK } else { BUDGET }
    }
}

/// As long as the time that is left allows with this many runs.
fn seconds_per_run(left: Duration, runs: f64) -> f64 {
    (left.as_secs_f64() / (runs * (1.0 + REPEATS)) - RUN_OVERHEAD).clamp(RUN_SECONDS_MIN, RUN_SECONDS_MAX)
}

/// As many as the descriptors allow.
fn idle_tunnels(options: &Options, notes: &mut Vec<String>) -> u64 {
    let wanted = if options.quick { IDLE_TUNNELS_QUICK } else { IDLE_TUNNELS };
    let possible = measure::descriptors_max().unwrap_or(1024).saturating_sub(DESCRIPTORS_SPARE) / 2;
    if possible < wanted {
        notes.push(format!("the limit of descriptors allows {possible} idle tunnels instead of {wanted}"));
    }
    wanted.min(possible)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(path, text)).map_err(|error| format!("{}: {error}", path.display()))
}

struct Session {
    lab: Lab,
    report: Report,
    /// Rows that failed for some peer, and are not run any more.
    broken: Vec<usize>,
    /// In this round.
    repeats_left: u32,
    deadline: Instant,
    is_quick: bool,
}

impl Session {
    /// What is the same in every round, once.
    fn counts(&mut self) -> Result<(), String> {
        for row in 0..self.report.rows.len() {
            if !self.report.rows[row].is_timed() {
                let begin = Instant::now();
                self.row(row, 0)?;
                eprintln!("{}: {:.1} s", self.report.rows[row].name, begin.elapsed().as_secs_f64());
            }
        }
        Ok(())
    }

    fn rounds(&mut self) -> Result<(), String> {
        let rounds = self.report.about.rounds;
        let timed: Vec<usize> =
            (0..self.report.rows.len()).filter(|&row| self.report.rows[row].is_timed()).collect();
        if timed.is_empty() {
            return Ok(());
        }
        let runs: usize = timed.iter().map(|&row| self.taking_part(row, 0).len()).sum();
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.lab.seconds = seconds_per_run(left, runs as f64 * f64::from(rounds));
        self.report.about.seconds_per_run = self.lab.seconds;
        for round in 0..rounds {
            let begin = Instant::now();
            self.repeats_left = if self.is_quick { 0 } else { (runs as f64 * REPEATS).ceil() as u32 };
            eprint!("round {} of {rounds}:", round + 1);
            for &row in &timed {
                eprint!(" {}", self.report.rows[row].name);
                self.row(row, round)?;
            }
            eprintln!(": {:.1} s", begin.elapsed().as_secs_f64());
            let is_last = round + 1 == rounds;
            if !is_last && Instant::now() + begin.elapsed() > self.deadline {
                self.report.about.notes.push(format!("time allowed for {} of {rounds} rounds", round + 1));
                break;
            }
        }
        Ok(())
    }

    /// The peers of a row, in the order of a round.
    fn taking_part(&self, row: usize, round: u32) -> Vec<usize> {
        let peers = &self.report.peers;
        let mut order: Vec<usize> =
            (0..peers.len()).filter(|&peer| self.report.rows[row].is_for(peers[peer].kind)).collect();
        let first = round as usize % order.len().max(1);
        order.rotate_left(first);
        order
    }

    /// One row by all peers. Where one fails the row is over; only a signal ends everything.
    fn row(&mut self, row: usize, round: u32) -> Result<(), String> {
        for peer in self.taking_part(row, round) {
            if self.broken.contains(&row) {
                break;
            }
            if let Err(error) = self.run(row, peer, round) {
                go_on()?;
                let (name, row_name) = (&self.report.peers[peer].name, self.report.rows[row].name);
                eprintln!("\n{row_name}, {name}: {error}");
                let what = error.lines().next().unwrap_or_default();
                self.report.about.notes.push(format!("{row_name} was given up: {name}: {what}"));
                self.broken.push(row);
            }
        }
        Ok(())
    }

    /// One run, again where others used the machine meanwhile.
    fn run(&mut self, row: usize, peer: usize, round: u32) -> Result<(), String> {
        for attempt in 1..=TRIES_MAX {
            go_on()?;
            let sample = self.lab.run(&self.report.rows[row], &self.report.peers[peer])?;
            let is_quiet = sample.others.is_none_or(|others| others <= OTHERS_MAX);
            self.report.runs.push(Run { row, peer, round, sample, is_quiet });
            if is_quiet || attempt == TRIES_MAX || self.repeats_left == 0 {
                break;
            }
            self.repeats_left -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_as_long_as_there_is_time_for() {
        let left = Duration::from_secs(360);
        assert!((seconds_per_run(left, 400.0) - (0.75 - RUN_OVERHEAD)).abs() < 1e-9);
        assert_eq!(seconds_per_run(left, 4.0), RUN_SECONDS_MAX);
        assert_eq!(seconds_per_run(left, 4_000.0), RUN_SECONDS_MIN);
        assert_eq!(seconds_per_run(Duration::ZERO, 4.0), RUN_SECONDS_MIN);
    }
}
