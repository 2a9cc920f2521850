//! Tunnels that are open and do nothing, but for what stdin asks of them.

use std::error::Error;
use std::io;
use std::ops::Range;
use std::time::Instant;

use super::tunnel::{Kit, Purpose};
use super::{Counting, Fleet, OPENING_MAX, Then};
use crate::backend::FRAME_BYTES;
use crate::flags::Flags;
use crate::report::{self, Event, Outcome};

/// `loadgen idle`.
pub fn run(args: lexopt::Parser) -> Result<(), Box<dyn Error>> {
    let mut flags = Flags::read(args)?;
    let target = flags.must("target")?;
    let count = flags.count("tunnels")?;
    flags.finish()?;
    let start = Instant::now();
    let mut fleet = Fleet::new(target, Kit::new(0, FRAME_BYTES))?;
    let tunnels = fleet.open(count, "/echo", Purpose::Echo)?;
    if !fleet.is_spoilt() {
        report::tell(&Event::Open { tunnels: count });
    }
    let (mut messages, mut bytes) = (0, 0);
    while !fleet.is_spoilt() {
        let line = fleet.await_line()?;
        match line.split_once(' ') {
            Some(("carry", length)) => {
                let length: usize = length.parse().map_err(|error| format!("{line}: {error}"))?;
                carry(&mut fleet, tunnels.clone(), length)?;
                (messages, bytes) = (messages + count, bytes + count * length);
            }
            None if line.is_empty() || line == "close" => break,
            _ => return Err(format!("{line:?} is no command: carry B, close").into()),
        }
        if !fleet.is_spoilt() {
            report::tell(&Event::Carried);
        }
    }
    fleet.close()?;
    report::tell(&Event::Result(Box::new(Outcome {
        mode: "idle",
        seconds: start.elapsed().as_secs_f64(),
        tunnels: count,
        messages: messages as u64,
        bytes: bytes as u64,
        mismatches: fleet.mismatches,
        errors: fleet.errors,
        ..Outcome::default()
    })));
    if fleet.is_spoilt() { Err("not all was as it must be".into()) } else { Ok(()) }
}

/// One echo on each tunnel, a bounded number at a time: what is measured is the tunnels at rest, not a storm.
fn carry(fleet: &mut Fleet, tunnels: Range<usize>, message_bytes: usize) -> io::Result<()> {
    fleet.kit.set_message_bytes(message_bytes);
    let mut carried = Counting::default();
    for (begun, index) in tunnels.clone().enumerate() {
        while begun - carried.0 >= OPENING_MAX && !fleet.is_spoilt() {
            fleet.turn(None, &mut carried)?;
        }
        fleet.act(index, Then::Send(Instant::now()), &mut carried);
    }
    while carried.0 < tunnels.len() && !fleet.is_spoilt() {
        fleet.turn(None, &mut carried)?;
    }
    Ok(())
}
