//! Bulk: frames without end one way, or both ways at once, with their headers read and their lengths checked. Payloads
//! are not compared, and where they are large not even copied out of the kernel: both ends share a core, and must not
//! be what limits a proxy.
//!
//! The backend is asked by a text message (any) how much there was, and answers `RECEIVED SENT`, the bytes of payload
//! either way, between two frames of its own. It answers a Close in the same way, then by a Close, then by the end.

use std::io;

use crate::frame::{self, CONTROL_BYTES_MAX, HEADER_BYTES_MAX, Header};
use crate::net::{Got, Wire};

/// What one stream moves in a direction before others have their turn.
pub const BUDGET_BYTES: usize = 256 << 10;
/// Ready-made frames, so that one write takes as many as the socket has room for.
const READY_BYTES: usize = 256 << 10;
/// Payload from this size on is dropped in the kernel: a call more for each frame, but no copy.
const DISCARD_BYTES_MIN: usize = 16 << 10;
/// What is read to find a header among large frames.
const PEEP_BYTES: usize = 256;

/// Frames as they are sent, one behind the other, all the same.
pub struct Ready {
    bytes: Vec<u8>,
    frame_bytes: usize,
    pub payload_bytes: usize,
}

impl Ready {
    /// Frames with so much payload, masked if a client is to send them.
    pub fn new(payload_bytes: usize, mask: Option<[u8; 4]>) -> Ready {
        let payload: Vec<u8> = (0..payload_bytes).map(|_| fastrand::u8(..)).collect();
        let one = frame::frame(frame::BINARY, mask, &payload);
        let frames = READY_BYTES.div_ceil(one.len()).max(2);
        Ready { frame_bytes: one.len(), payload_bytes, bytes: one.repeat(frames) }
    }
}

/// The sending end.
#[derive(Debug, Default)]
pub struct Sender {
    /// Within the frame that is being sent.
    at: usize,
    pub flowing: bool,
    /// Frames of another kind, sent before the next frame begins, and how far they are.
    between: Vec<u8>,
    between_at: usize,
    /// Payload of the frames that went out whole.
    pub payload_bytes: u64,
}

/// Where an end stands when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for an edge, or has nothing to do.
    Parked,
    /// It could go on, but others are first.
    Spent,
}

impl Sender {
    pub fn new(flowing: bool) -> Sender {
        Sender { flowing, ..Sender::default() }
    }

    /// Puts in a frame before the next one begins.
    pub fn put_between(&mut self, frame: &[u8]) {
        self.between.extend_from_slice(frame);
    }

    /// The payload of all frames that will have gone out when what is put in now does.
    pub fn payload_bytes_by_then(&self, ready: &Ready) -> u64 {
        let begun = if self.at == 0 { 0 } else { ready.payload_bytes };
        self.payload_bytes + begun as u64
    }

    /// Whether the last frame has gone out whole and nothing is to be put in behind it.
    pub fn is_between(&self) -> bool {
        self.at == 0 && self.between.is_empty()
    }

    pub fn flush(&mut self, wire: &mut Wire, ready: &Ready) -> io::Result<Standing> {
        let mut budget = BUDGET_BYTES;
        while wire.writable && (self.flowing || !self.is_between()) {
            if budget == 0 {
                return Ok(Standing::Spent);
            }
            if self.at == 0 && !self.between.is_empty() {
                self.between_at += wire.write(&self.between[self.between_at..])?;
                if self.between_at == self.between.len() {
                    self.between.clear();
                    self.between_at = 0;
                }
                continue;
            }
            let only_this = !self.flowing || !self.between.is_empty();
            let end = if only_this { ready.frame_bytes } else { ready.bytes.len() };
            let end = end.min(self.at + budget);
            let sent = wire.write(&ready.bytes[self.at..end])?;
            budget -= sent;
            let frames = (self.at + sent) / ready.frame_bytes;
            self.payload_bytes += (frames * ready.payload_bytes) as u64;
            self.at = (self.at + sent) % ready.frame_bytes;
        }
        Ok(Standing::Parked)
    }
}

/// A frame among the data that is not data.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Text(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close,
}

/// What a stream must look like.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The payload of each binary frame.
    pub payload_bytes: usize,
    /// Whether it comes from a client.
    pub masked: bool,
}

/// The receiving end: keeps a header that is not whole, or a short frame of another kind, and counts the rest.
pub struct Receiver {
    expected: Expected,
    kept: [u8; HEADER_BYTES_MAX + CONTROL_BYTES_MAX],
    kept_bytes: usize,
    /// Payload of the current frame that has not arrived.
    missing: usize,
    /// Payload that has arrived.
    pub payload_bytes: u64,
}

impl Receiver {
    pub fn new(expected: Expected) -> Receiver {
        let kept = [0; HEADER_BYTES_MAX + CONTROL_BYTES_MAX];
        Receiver { expected, kept, kept_bytes: 0, missing: 0, payload_bytes: 0 }
    }

    /// Takes the bytes up to and with the next frame that is not data: how many, and that frame.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<Heard>), &'static str> {
        let mut at = 0;
        loop {
            let here = self.missing.min(bytes.len() - at);
            self.skip(here);
            at += here;
            if at == bytes.len() {
                return Ok((at, None));
            }
            // A header, or a short frame: one more byte at a time where it was cut, which is rare.
            let kept_before = self.kept_bytes;
            let room = self.kept.len() - kept_before;
            let more = room.min(bytes.len() - at);
            self.kept[kept_before..kept_before + more].copy_from_slice(&bytes[at..at + more]);
            let known = &self.kept[..kept_before + more];
            let Some(header) = frame::parse(known)? else {
                self.kept_bytes += more;
                return Ok((at + more, None));
            };
            self.judge(&header)?;
            if header.opcode == frame::BINARY {
                at += header.bytes - kept_before;
                self.kept_bytes = 0;
                self.missing = header.payload_bytes as usize;
                continue;
            }
            let end = header.bytes + header.payload_bytes as usize;
            if known.len() < end {
                self.kept_bytes += more;
                return Ok((at + more, None));
            }
            let mut payload = self.kept[header.bytes..end].to_vec();
            frame::mask(&mut payload, header.mask.unwrap_or_default());
            self.kept_bytes = 0;
            return Ok((at + end - kept_before, Some(heard(header.opcode, payload))));
        }
    }

    fn judge(&self, header: &Header) -> Result<(), &'static str> {
        if header.mask.is_some() != self.expected.masked {
            return Err("a frame is masked and must not be, or the other way round");
        }
        if !header.fin {
            return Err("a message in pieces, and nobody sends such");
        }
        match header.opcode {
            frame::BINARY if header.payload_bytes == self.expected.payload_bytes as u64 => Ok(()),
            frame::BINARY => Err("a frame of another length than was sent"),
            frame::TEXT if header.payload_bytes > CONTROL_BYTES_MAX as u64 => Err("a text of such a length"),
            frame::TEXT | frame::CLOSE | frame::PING | frame::PONG => Ok(()),
            _ => Err("a frame of a kind that nobody sends"),
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.missing -= bytes;
        self.payload_bytes += bytes as u64;
    }

    /// Receives until the socket is empty, the budget is spent or there is something to hear.
    pub fn fill(&mut self, wire: &mut Wire, inbox: &mut Inbox) -> Result<Filled, Trouble> {
        let mut budget = BUDGET_BYTES;
        loop {
            if let Some(heard) = self.take_from(inbox)? {
                return Ok(Filled::Heard(heard));
            }
            if !wire.readable {
                return Ok(Filled::Standing(Standing::Parked));
            }
            if budget == 0 {
                return Ok(Filled::Standing(Standing::Spent));
            }
            if self.missing >= DISCARD_BYTES_MIN {
                match wire.discard(self.missing.min(budget))? {
                    Got::Bytes(count) => {
                        self.skip(count);
                        budget -= count;
                    }
                    Got::Nothing => {}
                    Got::End => return Ok(Filled::End),
                }
                continue;
            }
            let is_large = self.expected.payload_bytes >= DISCARD_BYTES_MIN;
            let reach = if is_large { self.missing + PEEP_BYTES } else { inbox.bytes.len() };
            match wire.read(&mut inbox.bytes[..reach.min(budget)])? {
                Got::Bytes(count) => {
                    (inbox.at, inbox.end) = (0, count);
                    budget -= count;
                }
                Got::Nothing => {}
                Got::End => return Ok(Filled::End),
            }
        }
    }

    /// Takes what has been received already.
    pub fn take_rest(&mut self, inbox: &mut Inbox) -> Result<Filled, Trouble> {
        let heard = self.take_from(inbox)?;
        Ok(heard.map_or(Filled::Standing(Standing::Parked), Filled::Heard))
    }

    fn take_from(&mut self, inbox: &mut Inbox) -> Result<Option<Heard>, Trouble> {
        while inbox.at < inbox.end {
            let (taken, heard) = self.take(&inbox.bytes[inbox.at..inbox.end]).map_err(Trouble::Frame)?;
            inbox.at += taken;
            if heard.is_some() {
                return Ok(heard);
            }
        }
        Ok(None)
    }
}

fn heard(opcode: u8, payload: Vec<u8>) -> Heard {
    match opcode {
        frame::TEXT => Heard::Text(payload),
        frame::PING => Heard::Ping(payload),
        frame::PONG => Heard::Pong,
        _ => Heard::Close, // the only other kind that `judge` lets through
    }
}

/// The loop's one buffer, and what of it has been read and not been taken. Nothing is left in it when a stream returns:
/// whoever hears something asks for more until there is none.
pub struct Inbox {
    pub bytes: Vec<u8>,
    at: usize,
    end: usize,
}

impl Inbox {
    pub fn new() -> Inbox {
        Inbox { bytes: vec![0; BUDGET_BYTES], at: 0, end: 0 }
    }

    /// Begins with bytes that came behind a head.
    pub fn hold(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        (self.at, self.end) = (0, bytes.len());
    }

    /// Forgets what a stream that has failed left.
    pub fn clear(&mut self) {
        (self.at, self.end) = (0, 0);
    }
}

/// How far [`Receiver::fill`] came.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    Standing(Standing),
    Heard(Heard),
    End,
}

/// Why a stream cannot go on.
#[derive(Debug)]
pub enum Trouble {
    Io(io::Error),
    Frame(&'static str),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

/// What the backend answers to a text and to a Close.
pub fn counts(received: u64, sent: u64) -> Vec<u8> {
    frame::frame(frame::TEXT, None, format!("{received} {sent}").as_bytes())
}

/// The other end of [`counts`].
pub fn read_counts(text: &[u8]) -> Option<(u64, u64)> {
    let (received, sent) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some((received.parse().ok()?, sent.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Option<[u8; 4]> = Some([1, 2, 3, 4]);

    /// What is heard of these bytes when they come in pieces of this size, and how much payload there was.
    fn hear(bytes: &[u8], piece: usize, masked: bool) -> Result<(Vec<Heard>, u64), &'static str> {
        let mut receiver = Receiver::new(Expected { payload_bytes: 1000, masked });
        let mut all = Vec::new();
        for mut piece in bytes.chunks(piece) {
            while !piece.is_empty() {
                let (taken, heard) = receiver.take(piece)?;
                all.extend(heard);
                piece = &piece[taken..];
            }
        }
        assert_eq!((receiver.missing, receiver.kept_bytes), (0, 0), "all of it was understood");
        Ok((all, receiver.payload_bytes))
    }

    #[test]
    fn frames_are_counted_and_others_are_heard_wherever_they_are_cut() {
        for mask in [None, KEY] {
            let data = frame::frame(frame::BINARY, mask, &[7; 1000]);
            let text = frame::frame(frame::TEXT, mask, b"12 34");
            let ping = frame::frame(frame::PING, mask, b"there?");
            let close = frame::frame(frame::CLOSE, mask, &[]);
            let bytes = [&data[..], &text, &data, &data, &ping, &close].concat();
            for piece in 1..=bytes.len() {
                let (heard, payload_bytes) = hear(&bytes, piece, mask.is_some()).unwrap();
                let expected = [Heard::Text(b"12 34".into()), Heard::Ping(b"there?".into()), Heard::Close];
                assert_eq!(heard, expected, "in pieces of {piece}");
                assert_eq!(payload_bytes, 3000);
            }
        }
    }

    #[test]
    fn a_frame_that_nobody_sent_is_noticed() {
        let check = |frame: &[u8], masked| assert!(hear(frame, frame.len(), masked).is_err(), "{frame:?}");
        check(&frame::frame(frame::BINARY, None, &[7; 1000]), true);
        check(&frame::frame(frame::BINARY, KEY, &[7; 1000]), false);
        check(&frame::frame(frame::BINARY, None, &[7; 999]), false);
        check(&frame::frame(frame::TEXT, None, &[b'7'; 200]), false);
        check(&frame::frame(frame::CONTINUATION, None, b"more"), false);
        check(b"\x02\x04more", false);
        check(b"\x87\x00", false);
    }

    #[test]
    fn counts_are_read_as_they_are_written() {
        let frame = counts(1 << 40, 7);
        let header = frame::parse(&frame).unwrap().unwrap();
        assert_eq!(read_counts(&frame[header.bytes..]), Some((1 << 40, 7)));
        assert_eq!(read_counts(b"1"), None);
        assert_eq!(read_counts(b"1 x"), None);
    }
}
