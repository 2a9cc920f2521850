//! The modes with a set of tunnels that stay: `echo`, `paced`, `bulk` and `mixed`. They are one: some tunnels that
//! echo, as fast as they can or at times that were set beforehand, beside some streams.
//!
//! The measured time of streams begins and ends with nothing on its way up: the backend is asked, and has got all that
//! was sent. On the way down the proxy's buffers are as full at the end as they were at the beginning, because the
//! client stops reading in between.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::tunnel::{Kit, Purpose, Stream};
use super::{Counting, Fleet, Mode, Then};
use crate::backend::FRAME_BYTES;
use crate::flags::Flags;
use crate::report::{self, Event, Latencies, Outcome};

/// What a stream moves each way before it counts as warm: the kernel has then widened its windows.
const WARM_BYTES: u64 = 4 << 20;

/// Messages a second. More is no pace but a closed loop.
const RATE_MAX: f64 = 1e6;

/// What a run is made of.
struct Load {
    mode: &'static str,
    target: SocketAddr,
    echoes: usize,
    message_bytes: usize,
    /// Between two messages, all tunnels together, where they have a time at all.
    interval: Option<Duration>,
    streams: usize,
    direction: Direction,
    frame_bytes: usize,
    length: Length,
    wait: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Time(Duration),
    Messages(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
    Both,
}

/// `loadgen echo`.
pub fn echo(args: lexopt::Parser) -> Result<(), Box<dyn Error>> {
    let mut flags = Flags::read(args)?;
    let length = match flags.maybe("messages")? {
        Some(messages) => Length::Messages(messages),
        None => Length::Time(seconds(&mut flags)?),
    };
    let load = Load {
        echoes: flags.count("tunnels")?,
        message_bytes: flags.must("bytes")?,
        ..Load::new("echo", &mut flags, length)?
    };
    load.run(flags)
}

/// `loadgen paced`.
pub fn paced(args: lexopt::Parser) -> Result<(), Box<dyn Error>> {
    let mut flags = Flags::read(args)?;
    let length = Length::Time(seconds(&mut flags)?);
    let rate: f64 = flags.must("rate")?;
    if !(rate > 0.0 && rate <= RATE_MAX) {
        return Err(format!("--rate {rate} is not between 0 and {RATE_MAX}").into());
    }
    let load = Load {
        echoes: flags.count("tunnels")?,
        message_bytes: flags.must("bytes")?,
        interval: Some(Duration::from_secs_f64(1.0 / rate)),
        ..Load::new("paced", &mut flags, length)?
    };
    load.run(flags)
}

/// `loadgen bulk`.
pub fn bulk(args: lexopt::Parser) -> Result<(), Box<dyn Error>> {
    let mut flags = Flags::read(args)?;
    let length = Length::Time(seconds(&mut flags)?);
    let load = Load {
        streams: flags.count("streams")?,
        direction: flags.must("direction")?,
        frame_bytes: flags.maybe("frame-bytes")?.unwrap_or(FRAME_BYTES),
        ..Load::new("bulk", &mut flags, length)?
    };
    load.run(flags)
}

/// `loadgen mixed`.
pub fn mixed(args: lexopt::Parser) -> Result<(), Box<dyn Error>> {
    let mut flags = Flags::read(args)?;
    let length = Length::Time(seconds(&mut flags)?);
    let load = Load {
        echoes: flags.count("echoes")?,
        message_bytes: flags.maybe("bytes")?.unwrap_or(64),
        streams: flags.count("streams")?,
        frame_bytes: flags.maybe("frame-bytes")?.unwrap_or(FRAME_BYTES),
        ..Load::new("mixed", &mut flags, length)?
    };
    load.run(flags)
}

fn seconds(flags: &mut Flags) -> Result<Duration, Box<dyn Error>> {
    Ok(Duration::try_from_secs_f64(flags.must("seconds")?)?)
}

impl FromStr for Direction {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Direction> {
        match text {
            "up" => Ok(Direction::Up),
            "down" => Ok(Direction::Down),
            "both" => Ok(Direction::Both),
            _ => Err(io::Error::other("it is up, down or both")),
        }
    }
}

impl Load {
    /// What all modes have, and nothing to do yet.
    fn new(mode: &'static str, flags: &mut Flags, length: Length) -> Result<Load, Box<dyn Error>> {
        Ok(Load {
            mode,
            target: flags.must("target")?,
            echoes: 0,
            message_bytes: 0,
            interval: None,
            streams: 0,
            direction: Direction::Both,
            frame_bytes: FRAME_BYTES,
            length,
            wait: flags.switch("wait"),
        })
    }

    fn run(self, flags: Flags) -> Result<(), Box<dyn Error>> {
        flags.finish()?;
        let mut fleet = Fleet::new(self.target, Kit::new(self.message_bytes, self.frame_bytes))?;
        let path = match self.direction {
            Direction::Up => "/sink",
            Direction::Down => "/source",
            Direction::Both => "/both",
        };
        let tunnels = fleet.open(self.echoes, "/echo", Purpose::Echo)?;
        warm_echoes(&mut fleet, tunnels.clone())?;
        let up = self.direction != Direction::Down;
        let streams = fleet.open(
            self.streams,
            &format!("{path}?frame={}", self.frame_bytes),
            Purpose::Stream { up },
        )?;
        self.warm_streams(&mut fleet, streams.clone())?;
        if self.wait && !fleet.is_spoilt() {
            report::tell(&Event::Ready);
            fleet.await_line()?;
        }
        let outcome = self.measure(&mut fleet, tunnels, streams)?;
        report::tell(&Event::Result(Box::new(outcome)));
        if self.wait && !fleet.is_spoilt() {
            fleet.await_line()?;
        }
        fleet.close()?;
        if fleet.is_spoilt() { Err("not all was as it must be".into()) } else { Ok(()) }
    }

    fn warm_streams(&self, fleet: &mut Fleet, streams: Range<usize>) -> io::Result<()> {
        let (up, down) = (self.direction != Direction::Down, self.direction != Direction::Up);
        let is_warm = |(sent, got)| (!up || sent >= WARM_BYTES) && (!down || got >= WARM_BYTES);
        while !fleet.is_spoilt() && !fleet.streams().all(|stream| is_warm(stream.moved())) {
            fleet.turn(None, &mut Counting::default())?;
        }
        settle(fleet, streams, &mut Counting::default())
    }

    fn measure(
        &self,
        fleet: &mut Fleet,
        tunnels: Range<usize>,
        streams: Range<usize>,
    ) -> io::Result<Outcome> {
        let moved_before = moved(fleet);
        let start = Instant::now();
        let end = match self.length {
            Length::Time(time) => Some(start + time),
            Length::Messages(_) => None,
        };
        let mut echoes = Echoes::new(self, start, tunnels.len());
        fleet.streams().for_each(Stream::resume);
        for index in streams.clone() {
            fleet.act(index, Then::Rest, &mut echoes);
        }
        if self.interval.is_none() {
            for index in tunnels.clone() {
                let then = echoes.next(index, start);
                fleet.act(index, then, &mut echoes);
            }
        }
        loop {
            let now = Instant::now();
            echoes.send_due(fleet, now)?;
            if fleet.is_spoilt() || end.map_or(echoes.in_flight == 0, |end| now >= end) {
                break;
            }
            fleet.turn(end, &mut echoes)?;
        }
        settle(fleet, streams.clone(), &mut echoes)?;
        let settled = Instant::now();
        while echoes.in_flight > 0 && !fleet.is_spoilt() {
            fleet.turn(None, &mut echoes)?;
        }
        let moved_after = moved(fleet);
        // A stream that has failed is missing in the second sum.
        let up = moved_after.0.saturating_sub(moved_before.0);
        let down = moved_after.1.saturating_sub(moved_before.1);
        let seconds = match self.length {
            Length::Time(time) if streams.is_empty() => time,
            Length::Time(_) => settled - start,
            Length::Messages(_) => echoes.last - start,
        };
        Ok(Outcome {
            mode: self.mode,
            seconds: seconds.as_secs_f64(),
            tunnels: tunnels.len() + streams.len(),
            messages: echoes.counted,
            uncounted: echoes.uncounted,
            bytes: echoes.counted * self.message_bytes as u64 + up + down,
            bytes_up: up,
            bytes_down: down,
            latency_us: echoes.latencies.summary(),
            histogram: echoes.latencies.points(),
            mismatches: fleet.mismatches,
            errors: fleet.errors,
            ..Outcome::default()
        })
    }
}

/// One round trip on each tunnel.
fn warm_echoes(fleet: &mut Fleet, tunnels: Range<usize>) -> io::Result<()> {
    let mut warm = Counting::default();
    for index in tunnels.clone() {
        fleet.act(index, Then::Send(Instant::now()), &mut warm);
    }
    while warm.0 < tunnels.len() && !fleet.is_spoilt() {
        fleet.turn(None, &mut warm)?;
    }
    Ok(())
}

/// Stops all streams and waits until what they sent has arrived.
fn settle(fleet: &mut Fleet, streams: Range<usize>, mode: &mut impl Mode) -> io::Result<()> {
    if fleet.is_spoilt() {
        return Ok(());
    }
    fleet.streams().for_each(Stream::settle);
    for index in streams {
        fleet.act(index, Then::Rest, mode);
    }
    while !fleet.is_spoilt() && !fleet.streams().all(|stream| stream.is_paused()) {
        fleet.turn(None, mode)?;
    }
    Ok(())
}

/// What all streams have moved up and down.
fn moved(fleet: &mut Fleet) -> (u64, u64) {
    fleet.streams().map(|stream| stream.moved()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// Decides when messages are sent: in closed loops, where a tunnel sends its next when it has the echo of its last, or
/// at times set beforehand.
struct Echoes {
    pace: Option<Pace>,
    /// Messages that may still be sent.
    allowed: u64,
    end: Option<Instant>,
    last: Instant,
    latencies: Latencies,
    counted: u64,
    uncounted: u64,
    in_flight: usize,
}

/// Message `n` of the run is due at `start + n * interval`, on tunnel `n % tunnels`. A tunnel that is late sends what
/// is due as soon as it has the echo of its last message, and each counts from when it was due: a proxy that stops for
/// a while is charged with all the messages that it kept from being sent.
struct Pace {
    start: Instant,
    interval: Duration,
    /// The next message of all, and that of each tunnel.
    next: u32,
    nexts: Vec<u32>,
}

impl Pace {
    fn due(&self, message: u32) -> Instant {
        self.start + self.interval * message
    }
}

impl Echoes {
    fn new(load: &Load, start: Instant, tunnels: usize) -> Echoes {
        let (allowed, end) = match load.length {
            Length::Messages(messages) => (messages, None),
            Length::Time(time) => (u64::MAX, Some(start + time)),
        };
        let nexts = (0..tunnels as u32).collect();
        Echoes {
            pace: load.interval.map(|interval| Pace { start, interval, next: 0, nexts }),
            allowed,
            end,
            last: start,
            latencies: Latencies::new(),
            counted: 0,
            uncounted: 0,
            in_flight: 0,
        }
    }

    /// The next message of a tunnel that has none on its way.
    fn next(&mut self, index: usize, now: Instant) -> Then {
        let started = match &self.pace {
            Some(pace) => pace.due(pace.nexts[index]),
            None => now,
        };
        if self.allowed == 0 || self.end.is_some_and(|end| started >= end) || started > now {
            return Then::Rest;
        }
        if let Some(pace) = &mut self.pace {
            pace.nexts[index] += pace.nexts.len() as u32;
        }
        self.allowed -= 1;
        self.in_flight += 1;
        Then::Send(started)
    }

    /// Sends what has become due, and has itself woken for what comes next.
    fn send_due(&mut self, fleet: &mut Fleet, now: Instant) -> io::Result<()> {
        while let Some(pace) = &mut self.pace {
            let due = pace.due(pace.next);
            if due > now {
                return fleet.set_alarm(due - now);
            }
            let index = pace.next as usize % pace.nexts.len();
            pace.next += 1;
            if !fleet.is_awaiting_echo(index) {
                let then = self.next(index, now);
                fleet.act(index, then, self);
            }
        }
        Ok(())
    }
}

impl Mode for Echoes {
    fn opened(&mut self, _: usize) -> Then {
        Then::Rest
    }

    fn echoed(&mut self, index: usize, started: Instant, now: Instant) -> Then {
        self.in_flight -= 1;
        // What was due within the time counts, however late it comes: what is late is what matters.
        if self.pace.is_none() && self.end.is_some_and(|end| now >= end) {
            self.uncounted += 1;
        } else {
            self.counted += 1;
            self.last = now;
            self.latencies.record((now - started).as_nanos());
        }
        self.next(index, now)
    }

    fn closed(&mut self, _: usize) {}
}
