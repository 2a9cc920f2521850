//! `loadgen soak`: adit under tunnels that come, stay and go, while its world and its configuration change all the
//! time. `scripts/soak` builds what this needs, and starts it.
//!
//! One thread has all clients and conducts: once a second it looks at adit, has it take another configuration, or
//! refuse a wrong one, and kills and revives servers, which have a thread of their own. Operators have threads too, and
//! look and steer. What is to happen follows from one seed; when it happens does not, so what is judged is what the
//! configuration and operators permitted while it happened. At the end everybody leaves, and nothing may be left over.

mod chart;
mod child;
mod config;
mod crowd;
mod helm;
mod ledger;
mod looks;
mod operators;
mod options;
mod payload;
mod report;
mod servers;
mod steering;
mod tunnel;
mod verdict;

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bench::measure;
use crate::bench::process::{go_on, hear_signals};
use crate::sys;
use child::{Adit, Descriptors};
use config::{About, Config, DRAIN_SECONDS, IMMORTALS, PLACES, Place, SERVERS};
use crowd::{Crowd, PATIENCE, PROBES_MAX, Role, World};
use helm::Helm;
use ledger::Log;
use operators::{Brief, Hardship};
use options::Options;
use payload::dice;
use report::Report;
use servers::{Death, Servers, Told};
use steering::Steering;
use verdict::{Promise, Verdict};

const SECOND: Duration = Duration::from_secs(1);
/// Tunnels at once, in a short run and in a long one, and the share of them that stays.
const TUNNELS_SHORT: usize = 300;
const TUNNELS_LONG: usize = 1500;
const LONG_SECONDS: u64 = 30;
const KEPT_ONE_IN: usize = 8;
/// How many are there when adit is asked to end.
const LAST: usize = 40;
/// What adit keeps for nobody: eight pipes a worker.
const SPARE_PIPE_DESCRIPTORS: usize = 16;
/// Descriptors that adit has of its own for a worker: pipes that are in use, listeners, polls.
const DESCRIPTORS_A_WORKER: usize = 300;
/// What we have of our own.
const DESCRIPTORS_OURS: usize = 200;
/// The first time that descriptors run out, how long nobody leaves then, and how often it happens.
const EXHAUSTION_AT: Duration = Duration::from_secs(5);
const EXHAUSTION_LASTS: Duration = Duration::from_secs(2);
const EXHAUSTION_EVERY: Duration = Duration::from_secs(60);
/// How many more come than there are descriptors for.
const EXHAUSTION_MORE: usize = 200;
/// How long it takes until everybody who waited has been served.
const EXHAUSTION_ECHOES: Duration = Duration::from_secs(3);
/// How long adit may take for what it does at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What ending takes beyond the time that tunnels have, on a busy machine.
const END_MARGIN: Duration = Duration::from_secs(3);
/// Processor time at rest, in ticks of 10 ms a second, and how many seconds are looked at.
const REST_TICKS_MAX: u64 = 2;
const REST_SECONDS: u64 = 2;
/// The access log is put aside every so many seconds, at a time when there are descriptors.
const PAGE_SECONDS: u64 = 10;

/// Runs what these arguments ask for.
pub fn run(args: lexopt::Parser) -> Result<(), Box<dyn Error>> {
    // Half of its digits are enough, and can be typed.
    let Some(options) = options::parse(args, fastrand::u32(..).into())? else {
        print!("{}", options::HELP);
        return Ok(());
    };
    let seed = options.seed;
    hear_signals()?;
    let mut soak = Soak::start(options).map_err(|error| format!("{error}; seed {seed}"))?;
    println!("soak: seed {seed}, {} s, {} workers", soak.options.seconds, soak.options.workers);
    if let Err(error) = soak.whole() {
        // Whatever was found on the way is worth as much.
        soak.verdict.breach(Promise::Exit, error);
    }
    print!("{}", soak.report.text(&soak.crowd.counts, &soak.helm.counts, &soak.log.ledger));
    print!("{}", soak.verdict.text(seed));
    if soak.verdict.is_good() {
        Ok(())
    } else {
        Err(format!("not all was as it must be; seed {seed}").into())
    }
}

/// What adit has been told, and has not answered.
struct Telling {
    since: Instant,
    is_wrong: bool,
}

/// What adit has answered to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Taken,
    Refused,
}

/// Whether that is the right answer.
fn judge_answer(is_taken: bool, is_wrong: bool, is_exhausted: bool) -> Result<Answer, &'static str> {
    match (is_taken, is_wrong) {
        (true, false) => Ok(Answer::Taken),
        (false, true) => Ok(Answer::Refused),
        // A file cannot be opened, nor a listener, without a descriptor.
        (false, false) if is_exhausted => Ok(Answer::Refused),
        (false, false) => Err("a right configuration was refused"),
        (true, true) => Err("a wrong configuration was taken"),
    }
}

/// Whether there are descriptors.
enum Exhaustion {
    /// There are, until then.
    Not { until: Instant },
    /// Many have come since then; whether adit has said that it has none left.
    Running { since: Instant, is_told: bool },
    /// They have left, and it takes a while until all is as before.
    Echoing { until: Instant },
}

struct Soak {
    options: Options,
    config_file: PathBuf,
    access_log: PathBuf,
    admin: PathBuf,
    crowd: Crowd,
    helm: Helm,
    servers: Servers,
    world: World,
    log: Log,
    verdict: Verdict,
    telling: Option<Telling>,
    exhaustion: Exhaustion,
    /// From when each server is dead, where it is.
    dead_since: [Option<Instant>; SERVERS],
    /// How many seconds have begun.
    second: u64,
    report: Report,
    adit: Adit,
    /// Goes last, behind all who write to it.
    folder: tempfile::TempDir,
}

impl Soak {
    fn start(options: Options) -> Result<Soak, String> {
        let text = |error: std::io::Error| error.to_string();
        let tunnels = if options.seconds < LONG_SECONDS { TUNNELS_SHORT } else { TUNNELS_LONG };
        let descriptors =
            2 * (tunnels + PROBES_MAX) * 5 / 4 + usize::from(options.workers) * DESCRIPTORS_A_WORKER;
        sys::raise_descriptor_limit().map_err(text)?;
        let ours = 2 * tunnels + descriptors + EXHAUSTION_MORE + DESCRIPTORS_OURS;
        let limit = measure::descriptors_max().unwrap_or(u64::MAX);
        if limit < ours as u64 {
            return Err(format!("{ours} descriptors are needed, and the limit is {limit}"));
        }
        let folder = tempfile::tempdir().map_err(text)?;
        let (config_file, access_log) = (folder.path().join("config.toml"), folder.path().join("access.log"));
        let admin = folder.path().join("admin.sock");
        let servers = Servers::start(SERVERS).map_err(text)?;
        let running = Config::first();
        let about = About {
            workers: options.workers,
            admin: &admin,
            access_log: &access_log,
            connections_max: descriptors,
            servers: &servers.addresses,
        };
        fs::write(&config_file, running.text(&about)).map_err(text)?;
        let mut adit = Adit::start(&options.adit, &config_file, descriptors)?;
        let listeners = await_listeners(&mut adit)?;
        let log = Log::follow(&access_log).map_err(|error| format!("{}: {error}", access_log.display()))?;
        let now = Instant::now();
        let brief = Brief {
            socket: admin.clone(),
            servers: servers.addresses.clone(),
            seed: options.seed,
            workers: usize::from(options.workers),
            hardship: Hardship::default(),
        };
        Ok(Soak {
            config_file,
            access_log,
            admin,
            crowd: Crowd::new(options.seed).map_err(text)?,
            helm: Helm::new(brief),
            servers,
            world: World {
                running,
                confirmed_at: now,
                changes: 0,
                pending: None,
                steering: Steering::new(),
                is_exhausted: false,
                is_down: [false; SERVERS],
                listeners,
            },
            log,
            verdict: Verdict::default(),
            telling: None,
            exhaustion: Exhaustion::Not { until: now + EXHAUSTION_AT },
            dead_since: [None; SERVERS],
            second: 0,
            report: Report::new(tunnels, tunnels / KEPT_ONE_IN, descriptors),
            adit,
            folder,
            options,
        })
    }

    fn whole(&mut self) -> Result<(), String> {
        let before = self.warm_up()?;
        self.load()?;
        self.unload(before)?;
        self.end()
    }

    /// One turn of everything that happens at no set time.
    fn turn(&mut self) -> Result<(), String> {
        go_on()?;
        self.crowd.turn(&self.world, &mut self.verdict).map_err(|error| error.to_string())?;
        while let Some(line) = self.adit.line() {
            self.hear(&line)?;
        }
        self.helm.hear(&mut self.crowd, &mut self.world, &mut self.verdict);
        for told in self.servers.told.try_iter() {
            match told {
                Told::Revived(server) => self.world.is_down[server] = false,
                Told::NotRevived(server) => self.dead_since[server] = Some(Instant::now()),
                Told::Malformed(what) => self.verdict.breach(Promise::Bytes, format!("a server: {what}")),
            }
        }
        self.adit.lives()
    }

    /// Turns until something is so; where it is not in time, that is said.
    fn turn_until(
        &mut self,
        within: Duration,
        mut is_so: impl FnMut(&mut Soak) -> Result<bool, String>,
    ) -> Result<bool, String> {
        let deadline = Instant::now() + within;
        while !is_so(self)? {
            if Instant::now() > deadline {
                return Ok(false);
            }
            self.turn()?;
        }
        Ok(true)
    }

    fn hear(&mut self, line: &str) -> Result<(), String> {
        if line.contains("panic") {
            self.verdict.breach(Promise::Sessions, line);
        }
        if line.contains("Too many open files") {
            if let Exhaustion::Running { is_told, .. } = &mut self.exhaustion {
                *is_told = true;
            }
        }
        let is_taken = line.contains("reloaded");
        if !is_taken && !line.contains("reload refused") {
            return Ok(());
        }
        let Some(telling) = self.telling.take() else {
            self.verdict.breach(Promise::Reloads, format!("nobody has asked for this: {line}"));
            return Ok(());
        };
        let pending = self.world.pending.take();
        self.world.changes += 1;
        match judge_answer(is_taken, telling.is_wrong, self.world.is_exhausted) {
            Ok(Answer::Taken) => {
                self.report.reloads += 1;
                self.world.running = pending.expect("what is told and not wrong is pending");
                self.world.confirmed_at = Instant::now();
                self.find_side()
            }
            Ok(Answer::Refused) => {
                self.report.refused_reloads += 1;
                Ok(())
            }
            Err(what) => {
                self.verdict.breach(Promise::Reloads, format!("{what}: {line}"));
                Ok(())
            }
        }
    }

    /// The listener that comes and goes is where the configuration says, by now.
    fn find_side(&mut self) -> Result<(), String> {
        let found = self.adit.listeners()?.get(&Place::Side.ip()).copied();
        let listens = self.world.running.listens(Place::Side);
        self.verdict.expect(Promise::Reloads, found.is_some() == listens, || {
            format!("a listener that is to be there ({listens}) is found at {found:?}")
        });
        if let Some(address) = found {
            self.world.listeners.insert(Place::Side.ip(), address);
        }
        Ok(())
    }

    /// Brings adit to the state in which it is at rest from then on, and counts its descriptors.
    fn warm_up(&mut self) -> Result<Descriptors, String> {
        for place in PLACES.into_iter().cycle().take(8 * PLACES.len()) {
            self.crowd.dial(place, Role::Warming { echoes: 4 }, &self.world, &mut self.verdict);
        }
        if !self.turn_until(PATIENCE, |soak| Ok(soak.crowd.len() == 0))? {
            return Err(self.adit.trouble("the first tunnels do not come to their end"));
        }
        self.settled_descriptors()
    }

    /// Its descriptors when they have not changed for a while.
    fn settled_descriptors(&mut self) -> Result<Descriptors, String> {
        let (mut last, mut since) = (self.adit.descriptors()?, Instant::now());
        self.turn_until(ANSWER_TIMEOUT, |soak| {
            let now = soak.adit.descriptors()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            Ok(since.elapsed() > Duration::from_millis(300))
        })?;
        Ok(last)
    }

    fn load(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        let length = SECOND * u32::try_from(self.options.seconds).map_err(|error| error.to_string())?;
        self.exhaustion = Exhaustion::Not { until: begin + EXHAUSTION_AT };
        let kept = self.report.kept;
        self.crowd.dial_kept(kept, &self.world, &mut self.verdict);
        self.crowd.keep_passing(self.report.tunnels - kept);
        self.helm.begin()?;
        let mut due = begin;
        while begin.elapsed() < length {
            self.turn()?;
            self.step_exhaustion(begin + length)?;
            let now = Instant::now();
            if now >= due {
                self.each_second()?;
                self.second += 1;
                // Where the machine had others to serve for seconds, those are not made up for in a burst.
                due = (due + SECOND).max(now + SECOND / 2);
            }
            self.expect_answer();
            // As with everything else, the first second is for everybody to come.
            if self.second > 1 {
                self.helm.steer(&mut self.crowd, &mut self.world);
            }
        }
        Ok(())
    }

    fn each_second(&mut self) -> Result<(), String> {
        self.look()?;
        self.log.read().map_err(|error| format!("the access log: {error}"))?;
        if self.second % PAGE_SECONDS == 1 {
            self.log.put_aside().map_err(|error| format!("the access log: {error}"))?;
            self.adit.signal(Signal::USR1);
        }
        if self.second % PAGE_SECONDS == 3 {
            self.turn_page()?;
        }
        let mut rng = dice(self.options.seed, 3, self.second);
        for server in IMMORTALS..SERVERS {
            match self.dead_since[server] {
                None if rng.u8(..4) == 0 => {
                    self.report.deaths += 1;
                    self.world.is_down[server] = true;
                    self.dead_since[server] = Some(Instant::now());
                    self.crowd.hear_of_death(server);
                    self.servers.kill(server, if rng.bool() { Death::Closed } else { Death::Reset });
                }
                Some(since) if since.elapsed() >= SECOND => {
                    self.dead_since[server] = None;
                    self.servers.revive(server);
                }
                None | Some(_) => {}
            }
        }
        // The first second is for everybody to come.
        if self.second > 0 && self.telling.is_none() {
            let mut rng = dice(self.options.seed, 4, self.second);
            if self.second % 5 == 3 {
                let text = self.text(&self.world.running);
                return self.tell(&config::spoil(&text, self.servers.addresses[0], &mut rng), true);
            }
            let next = self.world.running.next(&mut rng);
            self.take(next)?;
        }
        Ok(())
    }

    /// Takes a sample of everything that is drawn and judged.
    fn look(&mut self) -> Result<(), String> {
        let resident = measure::memory(self.adit.id())?.resident;
        self.report.sample(self.crowd.len(), resident, self.crowd.counts.echoes);
        self.report.see_descriptors(self.adit.descriptor_count()?);
        Ok(())
    }

    fn turn_page(&mut self) -> Result<(), String> {
        let is_new = self.log.turn_page().map_err(|error| format!("the access log: {error}"))?;
        // Without a descriptor there is no other file, and adit goes on with the one it has.
        self.verdict.expect(Promise::Sessions, is_new || self.world.is_exhausted, || {
            "told to open its access log anew, adit has not".into()
        });
        Ok(())
    }

    fn text(&self, config: &Config) -> String {
        config.text(&About {
            workers: self.options.workers,
            admin: &self.admin,
            access_log: &self.access_log,
            connections_max: self.report.descriptors,
            servers: &self.servers.addresses,
        })
    }

    fn take(&mut self, next: Config) -> Result<(), String> {
        let text = self.text(&next);
        self.crowd.hear_of_config(&next, &self.world);
        self.world.pending = Some(next);
        self.tell(&text, false)
    }

    /// Exchanges the file in one step, as a careful operator does, and says so.
    fn tell(&mut self, text: &str, is_wrong: bool) -> Result<(), String> {
        let next = self.folder.path().join("config.next");
        fs::write(&next, text)
            .and_then(|()| fs::rename(&next, &self.config_file))
            .map_err(|error| format!("the configuration: {error}"))?;
        self.telling = Some(Telling { since: Instant::now(), is_wrong });
        self.world.changes += 1;
        self.adit.signal(Signal::HUP);
        Ok(())
    }

    /// An answer that does not come is a breach, once for each; whatever adit does then, it may do by either.
    fn expect_answer(&mut self) {
        if self.telling.as_ref().is_some_and(|telling| telling.since.elapsed() > ANSWER_TIMEOUT) {
            self.telling = None;
            self.world.pending = None;
            self.world.changes += 1;
            let what = format!("{} s after SIGHUP adit has said nothing of it", ANSWER_TIMEOUT.as_secs());
            self.verdict.breach(Promise::Reloads, what);
        }
    }

    fn step_exhaustion(&mut self, end: Instant) -> Result<(), String> {
        let now = Instant::now();
        match self.exhaustion {
            Exhaustion::Not { until } if now >= until => {
                // One that would last beyond the end is none.
                if now + EXHAUSTION_LASTS + EXHAUSTION_ECHOES > end {
                    self.exhaustion = Exhaustion::Not { until: end + SECOND };
                    return Ok(());
                }
                self.world.is_exhausted = true;
                self.helm.set_hardship(true);
                self.crowd.hear_of_exhaustion();
                self.exhaustion = Exhaustion::Running { since: now, is_told: false };
            }
            // On a busy machine it takes a while until so many have come in.
            Exhaustion::Running { since, is_told }
                if now < since + if is_told { EXHAUSTION_LASTS } else { ANSWER_TIMEOUT } =>
            {
                let target = self.world.listeners[&Ipv4Addr::LOCALHOST];
                let idled = self.crowd.idle(self.report.descriptors + EXHAUSTION_MORE, target);
                idled.map_err(|error| format!("one of many clients: {error}"))?;
            }
            Exhaustion::Running { is_told, .. } => {
                let has = self.adit.descriptor_count()?;
                self.report.see_descriptors(has);
                self.verdict.expect(Promise::Descriptors, is_told, || {
                    let (more, most) = (self.crowd.idlers(), self.report.descriptors);
                    format!("{more} clients more, and adit has {has} of {most} descriptors, and says nothing")
                });
                self.report.exhaustions += 1;
                self.crowd.stop_idling();
                self.exhaustion = Exhaustion::Echoing { until: now + EXHAUSTION_ECHOES };
            }
            Exhaustion::Echoing { until } if now >= until => {
                self.world.is_exhausted = false;
                self.helm.set_hardship(false);
                let next = until + EXHAUSTION_EVERY - EXHAUSTION_ECHOES - EXHAUSTION_LASTS;
                self.exhaustion = Exhaustion::Not { until: next };
            }
            Exhaustion::Not { .. } | Exhaustion::Echoing { .. } => {}
        }
        Ok(())
    }

    /// Everybody has a last word and leaves; then nothing may be left over or going on.
    fn unload(&mut self, before: Descriptors) -> Result<(), String> {
        self.crowd.say_goodbye();
        // Whoever does not is told of by itself, when its patience is at its end.
        self.turn_until(PATIENCE + SECOND, |soak| Ok(soak.crowd.len() == 0))?;
        self.turn_until(ANSWER_TIMEOUT, |soak| {
            soak.expect_answer();
            Ok(soak.telling.is_none())
        })?;
        // With the listeners that were there in the beginning.
        self.take(Config::first())?;
        self.turn_until(ANSWER_TIMEOUT + SECOND, |soak| {
            soak.expect_answer();
            Ok(soak.telling.is_none())
        })?;
        self.dismiss_operators()?;
        let spare = before.pipes + usize::from(self.options.workers) * SPARE_PIPE_DESCRIPTORS;
        let is_as_before = |after: Descriptors| after.others == before.others && after.pipes <= spare;
        self.turn_until(ANSWER_TIMEOUT, |soak| Ok(is_as_before(soak.adit.descriptors()?)))?;
        let after = self.adit.descriptors()?;
        self.verdict.expect(
            Promise::Descriptors,
            is_as_before(after) && after.listeners == before.listeners,
            || format!("{} before and {} after: {before:?}, {after:?}", before.all(), after.all()),
        );
        let (ticks, begin) = (self.adit.ticks()?, Instant::now());
        self.turn_until(SECOND * REST_SECONDS as u32, |_| Ok(false))?;
        let used = self.adit.ticks()? - ticks;
        self.verdict.expect(Promise::Rest, used <= REST_TICKS_MAX * REST_SECONDS, || {
            format!("{} ms of processor time in {} ms", used * 10, begin.elapsed().as_millis())
        });
        self.compare_books()?;
        let memory = verdict::judge_memory(&self.report.resident);
        self.verdict.expect(Promise::Memory, !memory.has_grown, || {
            format!("from {} KiB early on to {} KiB late", memory.early >> 10, memory.late >> 10)
        });
        Ok(())
    }

    /// Operators go, after one has taken back what others let drain.
    fn dismiss_operators(&mut self) -> Result<(), String> {
        self.turn_until(ANSWER_TIMEOUT + SECOND, |soak| Ok(soak.helm.is_at_rest()))?;
        self.helm.end(&mut self.crowd, &mut self.world, &mut self.verdict)?;
        if let Err(what) = self.helm.take_back(&mut self.world) {
            self.verdict.breach(Promise::Operators, what);
        }
        Ok(())
    }

    /// What adit says of all that was has to be what its access log says.
    fn compare_books(&mut self) -> Result<(), String> {
        let status = self.helm.status()?;
        self.turn_page()?;
        self.turn_until(ANSWER_TIMEOUT, |soak| {
            soak.log.read().map_err(|error| format!("the access log: {error}"))?;
            Ok(looks::at_rest(&status, &soak.log.ledger).is_ok())
        })?;
        self.helm.judge(&status, &self.log.ledger, &mut self.verdict);
        Ok(())
    }

    /// Some come once more, operators among them, and adit is asked to end.
    fn end(&mut self) -> Result<(), String> {
        for place in PLACES.into_iter().cycle().take(LAST) {
            self.crowd.dial(place, Role::Last, &self.world, &mut self.verdict);
        }
        self.helm.begin()?;
        self.turn_until(PATIENCE, |soak| Ok(soak.crowd.all_speak()))?;
        self.crowd.hear_of_stop();
        self.helm.set_hardship(true);
        self.adit.signal(Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(DRAIN_SECONDS) + END_MARGIN;
        let status = loop {
            // What the last ones hear until they are closed is compared as well.
            self.crowd.turn(&self.world, &mut self.verdict).map_err(|error| error.to_string())?;
            let status = self.adit.wait(Duration::ZERO)?;
            if status.is_some() || Instant::now() > deadline {
                break status;
            }
        };
        let told = status.map_or("no end".to_owned(), |status| status.to_string());
        self.verdict.expect(Promise::Exit, status.is_some_and(|status| status.success()), || {
            self.adit.trouble(&format!("asked to end: {told}"))
        });
        self.helm.end(&mut self.crowd, &mut self.world, &mut self.verdict)?;
        self.judge_log()
    }

    fn judge_log(&mut self) -> Result<(), String> {
        self.log.read().map_err(|error| format!("the access log: {error}"))?;
        self.turn_page()?;
        let ledger = &self.log.ledger;
        for trouble in &ledger.troubles {
            self.verdict.breach(Promise::Sessions, trouble.as_str());
        }
        let left = ledger.left_over().count();
        // What was never written is no sign of what never ended.
        self.verdict.expect(Promise::Sessions, left == 0 || ledger.lost > 0, || {
            let some: Vec<&str> = ledger.left_over().take(5).collect();
            format!("{left} were opened and not closed, such as {}", some.join(", "))
        });
        Ok(())
    }
}

/// Waits until all listeners of the first configuration are there.
fn await_listeners(adit: &mut Adit) -> Result<HashMap<Ipv4Addr, SocketAddr>, String> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    loop {
        go_on()?;
        adit.lives()?;
        // Before it is adit it is a shell, and right after neither.
        let found = adit.listeners().unwrap_or_default();
        if PLACES.iter().all(|place| found.contains_key(&place.ip())) {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(adit.trouble("adit does not listen"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_is_refused_and_a_right_one_where_it_can_be_is_taken() {
        let check = |is_taken, is_wrong, is_exhausted, expected| {
            assert_eq!(judge_answer(is_taken, is_wrong, is_exhausted).ok(), expected);
        };
        for is_exhausted in [false, true] {
            check(true, false, is_exhausted, Some(Answer::Taken));
            check(false, true, is_exhausted, Some(Answer::Refused));
            check(true, true, is_exhausted, None);
        }
        check(false, false, true, Some(Answer::Refused));
        check(false, false, false, None);
    }
}
