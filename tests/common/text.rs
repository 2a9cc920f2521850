//! Bulk that is recognized: an endless text, written and read with random pieces and pauses.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use socket2::Socket;

/// An endless text in which every position is recognized: blocks of random bytes, a number at the head of each. Made
/// and checked at the speed of a memory copy, also in a debug build.
pub struct Text {
    block: Vec<u8>,
    pub position: u64,
}

/// Bytes of a block: no multiple of anything that reads and writes are cut to.
const BLOCK_BYTES: usize = 100_003;

impl Text {
    pub fn new(seed: u64) -> Text {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut block = vec![0; BLOCK_BYTES];
        dice.fill(&mut block);
        Text { block, position: 0 }
    }

    /// The next bytes, `count` of them or fewer.
    pub fn next(&mut self, count: usize) -> &[u8] {
        let (number, start) = (self.position / BLOCK_BYTES as u64, self.position as usize % BLOCK_BYTES);
        self.block[..8].copy_from_slice(&number.to_be_bytes());
        let end = (start + count).min(BLOCK_BYTES);
        self.position += (end - start) as u64;
        &self.block[start..end]
    }

    /// Expects that these are the next bytes.
    pub fn expect(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let position = self.position;
            let text = self.next(bytes.len());
            let (here, rest) = bytes.split_at(text.len());
            assert!(here == text, "other bytes than were sent, at {position} or soon after");
            bytes = rest;
        }
    }
}

/// Writes so many bytes of a text with random pieces and pauses, and half-closes.
pub fn write_text(mut socket: &Socket, seed: u64, bytes: u64) {
    let (mut text, mut dice) = (Text::new(seed), fastrand::Rng::with_seed(!seed));
    while text.position < bytes {
        let most = (bytes - text.position).min(dice.u64(1..400_000)) as usize;
        let piece = text.next(most).to_vec();
        socket.write_all(&piece).expect("written");
        stall(&mut dice);
    }
    socket.shutdown(Shutdown::Write).expect("half-closed");
}

/// Reads a text to its end with random sizes and pauses, and expects that it is all there.
pub fn read_text(mut socket: &Socket, seed: u64, bytes: u64) {
    let (mut text, mut dice) = (Text::new(seed), fastrand::Rng::with_seed(!seed ^ 1));
    let mut buffer = vec![0; 400_000];
    loop {
        let reach = dice.usize(1..buffer.len());
        match socket.read(&mut buffer[..reach]).expect("read") {
            0 => break,
            count => text.expect(&buffer[..count]),
        }
        stall(&mut dice);
    }
    assert_eq!(text.position, bytes, "bytes before the end");
}

/// Once in a while a peer is busy with something else: that is what is simulated, nothing is awaited here.
fn stall(dice: &mut fastrand::Rng) {
    match dice.u32(0..1000) {
        0 => thread::sleep(Duration::from_millis(dice.u64(20..60))),
        1..40 => thread::sleep(Duration::from_millis(1)),
        _ => {}
    }
}
