//! A client's end of one tunnel: a request, then a message and its echo at a time, then a goodbye, or none. It says
//! what has happened; what that means is for others.

use std::io;
use std::time::Duration;

use socket2::SockRef;

use super::payload::Pattern;
use super::servers::FIELD;
use crate::frame::{self, HEADER_BYTES_MAX};
use crate::handshake;
use crate::net::{Got, Wire};

/// The code of a Close that has no other reason than that somebody is done (RFC 6455, 7.4.1).
const NORMAL: [u8; 2] = 1000u16.to_be_bytes();
const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];

pub struct Tunnel {
    pub wire: Wire,
    /// By which its messages are told from those of others.
    pub id: u64,
    state: State,
    /// What is to be sent, and how much of it was.
    out: Vec<u8>,
    out_at: usize,
    /// The number of the next message.
    message: u32,
}

enum State {
    Opening {
        accept: [u8; 28],
        head: Vec<u8>,
    },
    /// Nothing is on its way.
    Resting,
    /// An answer is: so many bytes of it have come.
    Awaiting {
        answer: Answer,
        got: usize,
    },
    /// The answer to a Close has come, and the end is to follow.
    Closed,
}

/// What has to come back, as a frame.
#[derive(Clone, Copy)]
enum Answer {
    Echo(u32),
    Close,
}

/// What has happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Happened {
    /// By which server, as it says.
    Opened(Option<usize>),
    /// An echo of so many bytes is all there.
    Echoed(usize),
    /// After a Close each way.
    Closed,
}

/// Why there is no tunnel any more.
#[derive(Debug)]
pub enum Trouble {
    /// It never opened.
    Refused(String),
    /// It ended: what had been received by then was right.
    Ended(String),
    /// It does not bring what was sent.
    Silent(String),
    /// It brought what nobody has sent.
    Changed(String),
}

impl Tunnel {
    /// Sends a request on a socket that was just dialed.
    pub fn open(wire: Wire, id: u64, request: &[u8], accept: [u8; 28]) -> Tunnel {
        let state = State::Opening { accept, head: Vec::new() };
        Tunnel { wire, id, state, out: request.to_vec(), out_at: 0, message: 0 }
    }

    pub fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening { .. })
    }

    /// What it is when nothing has come for so long that nothing will.
    pub fn give_up(&self) -> Trouble {
        match &self.state {
            State::Opening { .. } => Trouble::Refused("no answer comes".into()),
            State::Resting | State::Closed => Trouble::Silent("the end does not come".into()),
            State::Awaiting { answer, got } => Trouble::Silent(self.cut("is silent", *answer, *got)),
        }
    }

    /// How many messages it has sent.
    pub fn messages(&self) -> u32 {
        self.message
    }

    /// Whether somebody else has to do something next.
    pub fn is_waiting(&self) -> bool {
        !matches!(self.state, State::Resting)
    }

    /// Puts the next message on its way; `advance` sends it.
    pub fn say(&mut self, pattern: &Pattern) {
        let payload = pattern.message(self.id, self.message);
        let key = self.id.wrapping_mul(0x9e37_79b9_7f4a_7c15) as u32 ^ self.message.rotate_left(16);
        self.put(frame::frame(frame::BINARY, Some(key.to_ne_bytes()), payload), Answer::Echo(self.message));
        self.message += 1;
    }

    /// Says goodbye; `advance` sends it.
    pub fn close(&mut self) {
        self.put(frame::frame(frame::CLOSE, Some(MASK), &NORMAL), Answer::Close);
    }

    fn put(&mut self, frame: Vec<u8>, answer: Answer) {
        debug_assert!(!self.is_waiting() && self.out_at == self.out.len(), "one message at a time");
        (self.out, self.out_at) = (frame, 0);
        self.state = State::Awaiting { answer, got: 0 };
    }

    /// Goes away in the middle of a frame, or of the request's head.
    pub fn vanish(mut self, pattern: &Pattern, reset: bool) {
        if let State::Resting = self.state {
            self.say(pattern);
            self.out.truncate(self.out.len() / 2);
            // Whoever hears of it: it is too late for an answer.
            let _ = self.flush();
        }
        if reset {
            let _ = SockRef::from(&self.wire.socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Leaves half of the request away: it will never open.
    pub fn break_off(&mut self) {
        self.out.truncate(self.out.len() / 2);
    }

    /// Goes on until something has happened or there is nothing to do.
    pub fn advance(&mut self, pattern: &Pattern, buffer: &mut [u8]) -> Result<Option<Happened>, Trouble> {
        self.flush().map_err(|error| self.lost(&error))?;
        while self.wire.readable {
            let count = match self.wire.read(buffer).map_err(|error| self.lost(&error))? {
                Got::Bytes(count) => count,
                Got::Nothing => continue,
                Got::End => return self.end().map(Some),
            };
            if let Some(happened) = self.take(&buffer[..count], pattern)? {
                return Ok(Some(happened));
            }
        }
        Ok(None)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.wire.writable && self.out_at < self.out.len() {
            self.out_at += self.wire.write(&self.out[self.out_at..])?;
        }
        if self.out_at == self.out.len() && self.out_at > 0 {
            // There are thousands of tunnels, and most are silent most of the time.
            (self.out, self.out_at) = (Vec::new(), 0);
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], pattern: &Pattern) -> Result<Option<Happened>, Trouble> {
        match &mut self.state {
            State::Opening { accept, head } => {
                head.extend_from_slice(bytes);
                let Some(end) = handshake::judge_response(head, accept).map_err(Trouble::Refused)? else {
                    return Ok(None);
                };
                if end < head.len() {
                    return Err(Trouble::Changed("bytes before the first message".into()));
                }
                let server = server_in(head);
                self.state = State::Resting;
                Ok(Some(Happened::Opened(server)))
            }
            State::Awaiting { answer, got } => {
                let (opcode, payload) = match *answer {
                    Answer::Echo(number) => (frame::BINARY, pattern.message(self.id, number)),
                    Answer::Close => (frame::CLOSE, &NORMAL[..]),
                };
                let mut header = [0; HEADER_BYTES_MAX];
                let header_bytes = frame::write_header(&mut header, opcode, None, payload.len());
                let all = header_bytes + payload.len();
                if !continues(&header[..header_bytes], payload, *got, bytes) {
                    let what = format!(
                        "message {} of {} bytes: behind {got} bytes of the answer come other ones than were sent",
                        self.message - 1,
                        payload.len()
                    );
                    return Err(Trouble::Changed(what));
                }
                *got += bytes.len();
                if *got < all {
                    return Ok(None);
                }
                let echoed = payload.len();
                match answer {
                    Answer::Echo(_) => {
                        self.state = State::Resting;
                        Ok(Some(Happened::Echoed(echoed)))
                    }
                    Answer::Close => {
                        self.state = State::Closed;
                        Ok(None)
                    }
                }
            }
            State::Resting | State::Closed => {
                Err(Trouble::Changed(format!("{} bytes that nobody has asked for", bytes.len())))
            }
        }
    }

    fn end(&self) -> Result<Happened, Trouble> {
        match &self.state {
            State::Closed => Ok(Happened::Closed),
            State::Opening { head, .. } if head.is_empty() => {
                Err(Trouble::Refused("closed without an answer".into()))
            }
            State::Opening { .. } => Err(Trouble::Refused("closed within the answer's head".into())),
            State::Resting => Err(Trouble::Ended("the tunnel was closed".into())),
            State::Awaiting { answer, got } => Err(Trouble::Ended(self.cut("was closed", *answer, *got))),
        }
    }

    fn lost(&self, error: &io::Error) -> Trouble {
        match &self.state {
            State::Opening { .. } => Trouble::Refused(error.to_string()),
            State::Resting | State::Closed => Trouble::Ended(format!("the tunnel failed: {error}")),
            State::Awaiting { answer, got } => {
                Trouble::Ended(self.cut(&format!("failed: {error}"), *answer, *got))
            }
        }
    }

    fn cut(&self, how: &str, answer: Answer, got: usize) -> String {
        match answer {
            Answer::Echo(number) => {
                format!("the tunnel {how}, {got} bytes into the echo of message {number}")
            }
            Answer::Close => format!("the tunnel {how}, {got} bytes into the answer to a Close"),
        }
    }
}

/// Whether these are the next bytes of an answer of which `got` have come.
fn continues(header: &[u8], payload: &[u8], got: usize, bytes: &[u8]) -> bool {
    let of_header = header.len().saturating_sub(got).min(bytes.len());
    let (first, rest) = bytes.split_at(of_header);
    let at = (got + of_header).saturating_sub(header.len());
    (first.is_empty() || header[got..].starts_with(first)) && payload[at..].starts_with(rest)
}

fn server_in(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(name, _)| name.eq_ignore_ascii_case(FIELD))?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_compared_wherever_it_is_cut_and_one_byte_is_enough_to_tell() {
        let (header, payload) = (b"\x82\x05", b"Hello");
        let whole = [&header[..], payload].concat();
        for from in 0..whole.len() {
            for to in from..=whole.len() {
                let mut bytes = whole[from..to].to_vec();
                assert!(continues(header, payload, from, &bytes), "{from}..{to}");
                for at in 0..bytes.len() {
                    bytes[at] ^= 1;
                    assert!(!continues(header, payload, from, &bytes), "{from}..{to}, byte {at} changed");
                    bytes[at] ^= 1;
                }
            }
            let more = [&whole[from..], b"!"].concat();
            assert!(!continues(header, payload, from, &more), "more than was asked for");
        }
    }

    #[test]
    fn a_server_names_itself_however_the_field_is_spelled() {
        assert_eq!(server_in(b"HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\nx-server: 4\r\n\r\n"), Some(4));
        assert_eq!(server_in(b"HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\n\r\n"), None);
    }
}
