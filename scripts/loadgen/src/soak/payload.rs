//! What tunnels say. Pure: a message follows from the seed, the tunnel and its number, so that both what is sent and
//! what must come back are known without being kept.

use fastrand::Rng;

/// The longest message: several times what adit takes for bulk, so that it is spliced, and more than a socket holds.
pub const BYTES_MAX: usize = 300 << 10;
/// Where a message may begin in the pattern.
const OFFSETS: usize = 1 << 20;

/// Random bytes, of which each message is a piece.
pub struct Pattern {
    seed: u64,
    bytes: Vec<u8>,
}

/// Dice for one purpose of a run, whose falls do not depend on when others throw theirs.
pub fn dice(seed: u64, purpose: u64, number: u64) -> Rng {
    let mut rng = Rng::with_seed(seed ^ purpose.rotate_left(48));
    Rng::with_seed(rng.u64(..) ^ number)
}

impl Pattern {
    pub fn new(seed: u64) -> Pattern {
        let mut rng = Rng::with_seed(seed);
        let mut bytes = vec![0; OFFSETS + BYTES_MAX];
        rng.fill(&mut bytes);
        Pattern { seed, bytes }
    }

    /// The payload of a tunnel's message: half of them are a few bytes, one in sixteen is bulk.
    pub fn message(&self, tunnel: u64, number: u32) -> &[u8] {
        let mut rng = dice(self.seed, tunnel, number.into());
        let length = match rng.u8(..16) {
            0..=7 => rng.usize(1..=125),
            8..=11 => rng.usize(126..=4 << 10),
            12..=14 => rng.usize(4 << 10..=64 << 10),
            _ => rng.usize(64 << 10..=BYTES_MAX),
        };
        let offset = rng.usize(..OFFSETS);
        &self.bytes[offset..offset + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_follows_from_seed_tunnel_and_number_and_no_other_is_the_same() {
        let (one, same, other) = (Pattern::new(1), Pattern::new(1), Pattern::new(2));
        let all: Vec<&[u8]> = (0..4000).map(|number| one.message(7, number)).collect();
        for (number, message) in all.iter().enumerate().skip(1) {
            assert_eq!(*message, same.message(7, number as u32));
            if message.len() > 8 {
                assert_ne!(*message, other.message(7, number as u32));
                assert_ne!(*message, one.message(8, number as u32));
                assert_ne!(*message, all[number - 1]);
            }
        }
        assert!(
            all.iter().any(|message| message.len() < 9)
                && all.iter().any(|message| message.len() > 200 << 10)
        );
    }
}
