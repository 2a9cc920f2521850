//! Whole lives: opened, one echo, closed.
//!
//! A life ends as most do out there: the client ends the connection without a word, and the backend does the same. With
//! `--polite` it is as the RFC has it: Close from the client, Close from the backend, and the backend is the first to end
//! the connection (RFC 6455, 7.1.1), which takes the proxy two more messages. Who ends first has an end that lingers in
//! TIME-WAIT; on the loopback interface its port is free again after a second (`net.ipv4.tcp_tw_reuse`), so that neither
//! the client nor the proxy run short, and nobody needs SO_LINGER.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

use super::tunnel::{Kit, Purpose};
use super::{Fleet, Mode, Then};
use crate::backend::FRAME_BYTES;
use crate::flags::Flags;
use crate::report::{self, Event, Latencies, Outcome};

const MESSAGE_BYTES: usize = 64;

/// `loadgen churn`.
pub fn run(args: lexopt::Parser) -> Result<(), Box<dyn Error>> {
    let mut flags = Flags::read(args)?;
    let target = flags.must("target")?;
    let concurrency = flags.count("concurrency")?;
    let lives: Option<u64> = flags.maybe("tunnels")?;
    let time = match lives {
        Some(_) => None,
        None => Some(Duration::try_from_secs_f64(flags.must("seconds")?)?),
    };
    let then = if flags.switch("polite") { Then::Close } else { Then::End };
    let wait = flags.switch("wait");
    flags.finish()?;
    let mut fleet = Fleet::new(target, Kit::new(MESSAGE_BYTES, FRAME_BYTES))?;
    if wait {
        report::tell(&Event::Ready);
        fleet.await_line()?;
    }
    let outcome = measure(&mut fleet, concurrency, lives.unwrap_or(u64::MAX), time, then)?;
    report::tell(&Event::Result(Box::new(outcome)));
    if wait && !fleet.is_spoilt() {
        fleet.await_line()?;
    }
    if fleet.is_spoilt() { Err("not all was as it must be".into()) } else { Ok(()) }
}

fn measure(
    fleet: &mut Fleet,
    concurrency: usize,
    lives: u64,
    time: Option<Duration>,
    then: Then,
) -> io::Result<Outcome> {
    let mut request = fleet.request("/echo");
    let start = Instant::now();
    let end = time.map(|time| start + time);
    let mut churn = Churn {
        began: vec![start; concurrency],
        free: (0..concurrency).rev().collect(),
        end,
        last: start,
        latencies: Latencies::new(),
        then,
        lives: 0,
        late: 0,
    };
    let mut left = lives;
    while !fleet.is_spoilt() {
        let now = Instant::now();
        let is_over = left == 0 || end.is_some_and(|end| now >= end);
        match churn.free.pop() {
            Some(index) if !is_over => {
                left -= 1;
                churn.began[index] = Instant::now();
                fleet.dial(index, &mut request, Purpose::Echo, &mut churn);
            }
            Some(index) => {
                churn.free.push(index);
                if churn.free.len() == concurrency {
                    break;
                }
                fleet.turn(None, &mut churn)?;
            }
            None => fleet.turn(end.filter(|_| !is_over), &mut churn)?,
        }
    }
    Ok(Outcome {
        mode: "churn",
        seconds: time.unwrap_or(churn.last - start).as_secs_f64(),
        tunnels: concurrency,
        messages: churn.lives,
        uncounted: churn.late,
        bytes: churn.lives * MESSAGE_BYTES as u64,
        lives: churn.lives,
        latency_us: churn.latencies.summary(),
        histogram: churn.latencies.points(),
        mismatches: fleet.mismatches,
        errors: fleet.errors,
        ..Outcome::default()
    })
}

/// So many lives at once, each in a slot.
struct Churn {
    /// When the life in a slot began.
    began: Vec<Instant>,
    /// Slots without a life.
    free: Vec<usize>,
    end: Option<Instant>,
    last: Instant,
    latencies: Latencies,
    /// How a life ends.
    then: Then,
    lives: u64,
    /// Lives that ended behind the measured time.
    late: u64,
}

impl Mode for Churn {
    fn opened(&mut self, _: usize) -> Then {
        Then::Send(Instant::now())
    }

    fn echoed(&mut self, _: usize, _: Instant, _: Instant) -> Then {
        self.then
    }

    fn closed(&mut self, index: usize) {
        let now = Instant::now();
        self.free.push(index);
        if self.end.is_some_and(|end| now >= end) {
            self.late += 1;
            return;
        }
        self.lives += 1;
        self.last = now;
        self.latencies.record((now - self.began[index]).as_nanos());
    }
}
