//! Sessions among peers that do anything in any order, and models that check each step.
//!
//! One seed is one run: what is sent, taken, ended, reset and when, in what order edges are told and turns taken, how
//! much a turn may move. The sockets are [`script`](super::script)'s, whose edges come once: a session that forgets
//! something it could do is a session that stands still, and that is a failure. A failed run prints its seed.
//!
//! `ADIT_SEEDS=100000 cargo test --release --lib simulation` looks further, `ADIT_SEED=308` looks at one again.

use fastrand::Rng;

use super::script::{PLENTY, Play, Wire};
use crate::proto::adapt::Thresholds;

mod tunnel;
mod whole;

/// Seeds that are tried each time: enough for each planted bug that this was tried with, in a second or two.
const SEEDS: u64 = 2_000;

/// Runs `simulate` for every seed, and tells which one failed.
fn for_seeds(simulate: impl Fn(&mut Rng)) {
    struct Tell(u64);
    impl Drop for Tell {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the simulation fails with ADIT_SEED={}", self.0);
            }
        }
    }
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("ADIT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ADIT_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let _tell = Tell(seed);
        simulate(&mut Rng::with_seed(seed));
    }
}

fn noise(dice: &mut Rng, bytes_max: usize) -> Vec<u8> {
    (0..dice.usize(..=bytes_max)).map(|_| dice.u8(..)).collect()
}

/// How much may move at once: mostly so little that everything happens in pieces.
fn budget(dice: &mut Rng) -> usize {
    if dice.u8(..8) == 0 { 100_000 } else { dice.usize(1..=9) }
}

/// A direction goes from one engine to the other every now and then.
fn adapt_soon(play: &mut Play, dice: &mut Rng) {
    play.tools.thresholds =
        Thresholds { bulk_from_bytes: dice.usize(1..=9), light_below_bytes: dice.usize(..=9) };
}

/// A socket that may be spliced, or not, by slots of whatever size.
fn may_be_spliced(wire: &mut Wire, dice: &mut Rng) {
    wire.splices = dice.u8(..4) > 0;
    wire.splice_bytes_max = if dice.bool() { dice.usize(1..=9) } else { PLENTY };
}
