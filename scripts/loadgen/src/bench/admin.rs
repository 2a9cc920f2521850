//! Operators of a peer that has an admin listener: one who looks now and then while a load runs, and one who asks for
//! everything beside tunnels at rest. Both on the core of the load, as they are a part of it.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::metrics;
use crate::operator::{Answer, Operator};

/// As often as Prometheus can be told to ask.
pub const SCRAPE_PERIOD: Duration = Duration::from_secs(1);
/// What is asked for then.
const SCRAPE: [&str; 2] = ["/metrics", "/tunnels?limit=100"];
/// Longer than any answer takes that is worth measuring.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for beside tunnels at rest, and how often each.
pub const QUESTIONS: [&str; 4] = ["/metrics", "/status", "/tunnels", "/tunnels?sort=idle&limit=1000"];
const TIMES: u32 = 50;

/// The histogram in which the loop counts how long its turns take.
const TURNS: &str = "adit_turn_duration_seconds_bucket";

/// Somebody who asks in a thread, until told to stop.
pub struct Scraper {
    /// Its end is the sign to stop.
    stop: Sender<()>,
    thread: JoinHandle<Result<(), String>>,
}

impl Scraper {
    /// Begins with the first questions, and goes on with them in this period.
    pub fn start(socket: &Path, core: Option<usize>, every: Duration) -> Result<Scraper, String> {
        let (stop, stopped) = channel();
        let socket = socket.to_owned();
        let scrape = move || scrape(&socket, core, every, &stopped);
        let thread = thread::Builder::new().name("scraper".into()).spawn(scrape);
        Ok(Scraper { stop, thread: thread.map_err(|error| format!("a thread for the scraper: {error}"))? })
    }

    /// Says what went wrong, if anything did.
    pub fn stop(self) -> Result<(), String> {
        drop(self.stop);
        joined(self.thread.join())
    }
}

/// What a thread has come to. One that has panicked has said why.
fn joined<T>(joined: thread::Result<Result<T, String>>) -> Result<T, String> {
    joined.unwrap_or_else(|_| Err("an operator's thread has panicked".into()))
}

fn scrape(socket: &Path, core: Option<usize>, every: Duration, stopped: &Receiver<()>) -> Result<(), String> {
    keep_to(core)?;
    let mut operator = connect(socket)?;
    let mut due = Instant::now();
    loop {
        for question in SCRAPE {
            get(&mut operator, question)?.text().map_err(|error| format!("{question}: {error}"))?;
        }
        due += every;
        match stopped.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Keeps this thread to a core.
fn keep_to(core: Option<usize>) -> Result<(), String> {
    let Some(core) = core else { return Ok(()) };
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores)
        .map_err(|error| format!("a thread cannot be kept to core {core}: {error}"))
}

fn connect(socket: &Path) -> Result<Operator, String> {
    Operator::connect(socket, PATIENCE).map_err(|error| format!("{}: {error}", socket.display()))
}

fn get(operator: &mut Operator, question: &str) -> Result<Answer, String> {
    operator.get(question).map_err(|error| format!("{question}: {error}"))
}

/// How long answers took.
#[derive(Debug, PartialEq)]
pub struct Answers {
    /// As [`QUESTIONS`].
    pub slowest: [Duration; QUESTIONS.len()],
    /// Of the proxy's loop while they were made, to the next bound of its histogram.
    pub longest_turn: Duration,
}

/// Asks everything, of a proxy with so many tunnels.
pub fn ask(socket: &Path, core: Option<usize>, tunnels: u64) -> Result<Answers, String> {
    thread::scope(|scope| {
        let ask = || {
            keep_to(core)?;
            ask_all(&mut connect(socket)?, tunnels)
        };
        joined(scope.spawn(ask).join())
    })
}

fn ask_all(operator: &mut Operator, tunnels: u64) -> Result<Answers, String> {
    let before = Turns::read(operator)?;
    let mut slowest = [Duration::ZERO; QUESTIONS.len()];
    for (question, slowest) in QUESTIONS.into_iter().zip(&mut slowest) {
        for _ in 0..TIMES {
            let begin = Instant::now();
            let answer = get(operator, question)?;
            *slowest = begin.elapsed().max(*slowest);
            judge(question, &answer, tunnels).map_err(|error| format!("{question}: {error}"))?;
        }
    }
    let longest_turn = Turns::read(operator)?.longest_since(&before)?;
    Ok(Answers { slowest, longest_turn })
}

/// Whether an answer is about so many tunnels.
fn judge(question: &str, answer: &Answer, tunnels: u64) -> Result<(), String> {
    let told = match question {
        "/metrics" => {
            let series = metrics::parse(answer.text()?)?;
            series.iter().find(|series| series.name == "adit_tunnels_open").map(|series| series.value as u64)
        }
        "/status" => answer.json()?["tunnels"]["open"].as_u64(),
        _ => {
            let page = answer.json()?;
            let limit = if question.ends_with("limit=1000") { 1000 } else { 100 };
            let rows = page["tunnels"].as_array().map_or(0, Vec::len) as u64;
            if rows != tunnels.min(limit) {
                return Err(format!("{rows} rows of {tunnels} tunnels"));
            }
            page["matched"].as_u64()
        }
    };
    if told == Some(tunnels) {
        Ok(())
    } else {
        Err(format!("{told:?} tunnels are told of instead of {tunnels}"))
    }
}

/// How many turns took how long: bounds in seconds, each with how many took no longer. All workers together.
#[derive(Debug, PartialEq)]
struct Turns(Vec<(f64, u64)>);

impl Turns {
    fn read(operator: &mut Operator) -> Result<Turns, String> {
        Turns::of(get(operator, "/metrics")?.text()?)
    }

    fn of(text: &str) -> Result<Turns, String> {
        let mut turns: Vec<(f64, u64)> = Vec::new();
        for series in metrics::parse(text)?.into_iter().filter(|series| series.name == TURNS) {
            let bound = series.label("le").and_then(|bound| bound.parse().ok());
            let bound = bound.ok_or_else(|| format!("a bucket without a bound: {series:?}"))?;
            match turns.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += series.value as u64,
                None => turns.push((bound, series.value as u64)),
            }
        }
        turns.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        if turns.is_empty() { Err("nothing is told of turns".into()) } else { Ok(Turns(turns)) }
    }

    /// The least bound that all turns since then kept to.
    fn longest_since(&self, before: &Turns) -> Result<Duration, String> {
        let new = self.0.iter().zip(&before.0).map(|((bound, now), (_, then))| (*bound, now - then));
        let new: Vec<(f64, u64)> = new.collect();
        let all = new.last().map_or(0, |(_, count)| *count);
        let bound = new.iter().find(|(_, count)| *count == all).map_or(f64::INFINITY, |(bound, _)| *bound);
        Duration::try_from_secs_f64(bound).map_err(|_| "a turn took longer than its histogram knows".into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::*;
    use crate::operator::tests::{Scripted, yes};

    fn text(buckets: &[(&str, &str, u64)]) -> String {
        let line = |(worker, bound, count): &(&str, &str, u64)| {
            format!("{TURNS}{{worker=\"{worker}\",le=\"{bound}\"}} {count}\n")
        };
        buckets.iter().map(line).collect::<String>() + "adit_turn_duration_seconds_sum 7\n"
    }

    #[test]
    fn the_longest_turn_is_the_bound_that_all_new_ones_keep_to() {
        let check = |before: [u64; 3], now: [u64; 3], expected: Option<u64>| {
            let turns = |[a, b, c]: [u64; 3]| {
                Turns::of(&text(&[("0", "0.001", a), ("0", "0.01", b), ("0", "+Inf", c)])).unwrap()
            };
            let longest = turns(now).longest_since(&turns(before)).ok();
            assert_eq!(longest, expected.map(Duration::from_millis), "{before:?} {now:?}");
        };
        check([0, 0, 0], [5, 5, 5], Some(1));
        check([0, 0, 0], [5, 6, 6], Some(10));
        check([0, 0, 0], [5, 6, 7], None);
        // What was before does not matter.
        check([1, 2, 3], [2, 3, 4], Some(1));
        check([1, 2, 3], [1, 3, 4], Some(10));
        check([1, 2, 3], [1, 2, 4], None);
    }

    #[test]
    fn workers_turns_are_counted_together_and_none_at_all_is_an_error() {
        let turns = Turns::of(&text(&[("0", "0.5", 1), ("0", "+Inf", 2), ("1", "0.5", 3), ("1", "+Inf", 5)]));
        assert_eq!(turns, Ok(Turns(vec![(0.5, 4), (f64::INFINITY, 7)])));
        assert!(Turns::of("a 1\n").unwrap_err().contains("nothing is told"));
    }

    /// An adit with so many tunnels, which says of some question something else.
    fn adit(tunnels: u64, other: (&'static str, &'static str)) -> Scripted {
        Scripted::new(move |request| {
            let question = request.split(' ').nth(1).unwrap();
            if question == other.0 {
                return yes(other.1);
            }
            let page = |limit: u64| {
                let rows = vec!["{}"; tunnels.min(limit) as usize].join(",");
                yes(&format!("{{\"matched\": {tunnels}, \"tunnels\": [{rows}]}}"))
            };
            match question {
                "/metrics" => {
                    let turns = text(&[("0", "0.002", 1), ("0", "+Inf", 1)]);
                    yes(&format!("adit_tunnels_open {tunnels}\n{turns}"))
                }
                "/status" => yes(&format!("{{\"tunnels\": {{\"open\": {tunnels}}}}}")),
                "/tunnels" => page(100),
                _ => page(1000),
            }
        })
    }

    #[test]
    fn every_answer_is_timed_and_must_be_about_the_tunnels_that_there_are() {
        for tunnels in [0, 99, 300, 1001] {
            let adit = adit(tunnels, ("", ""));
            let answers = ask(&adit.socket, None, tunnels).unwrap();
            assert!(answers.slowest.iter().all(|slowest| *slowest > Duration::ZERO), "{answers:?}");
            assert_eq!(answers.longest_turn, Duration::from_millis(2));
        }
        for (other, words) in [
            (
                ("/status", "{\"tunnels\": {\"open\": 2}}"),
                "/status: Some(2) tunnels are told of instead of 3",
            ),
            (("/tunnels", "{\"matched\": 3, \"tunnels\": [{}]}"), "/tunnels: 1 rows of 3 tunnels"),
            (("/tunnels", "no JSON"), "/tunnels: "),
            (("/metrics", "adit_tunnels_open 3\n"), "nothing is told of turns"),
        ] {
            let error = ask(&adit(3, other).socket, None, 3).unwrap_err();
            assert!(error.contains(words), "{other:?}: {error}");
        }
    }

    #[test]
    fn a_scraper_asks_at_once_and_again_until_it_is_stopped_and_says_what_went_wrong() {
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let scripted = Scripted::new(move |_| {
            count.fetch_add(1, SeqCst);
            yes("")
        });
        let scraper = Scraper::start(&scripted.socket, None, Duration::from_millis(1)).unwrap();
        while asked.load(SeqCst) < 10 {
            thread::yield_now();
        }
        scraper.stop().unwrap();
        let no = Scripted::new(|_| Some("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".into()));
        let scraper = Scraper::start(&no.socket, None, Duration::from_secs(100)).unwrap();
        assert_eq!(scraper.stop(), Err("/metrics: 503: ".into()));
        let nobody = Scraper::start(Path::new("/nowhere/admin.sock"), None, SCRAPE_PERIOD).unwrap();
        assert!(nobody.stop().unwrap_err().contains("/nowhere/admin.sock"));
    }
}
