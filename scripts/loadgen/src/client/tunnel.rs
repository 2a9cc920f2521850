//! One tunnel from the client's end: opened, then an echo at a time or a stream, then closed politely.

use std::io;
use std::net::Shutdown;
use std::time::Instant;

use super::Trouble;
use crate::frame::{self, HEADER_BYTES_MAX};
use crate::handshake;
use crate::net::{Got, Wire};
use crate::stream::{self, Expected, Filled, Heard, Inbox, Ready, Receiver, Sender, Standing};

/// The mask of frames that need no fresh one: those of streams, which are ready-made, and Close.
pub const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];
/// Where a payload may begin in the pattern.
const OFFSETS: usize = 64 << 10;
/// The code of a Close that has no other reason than that somebody is done (RFC 6455, 7.4.1).
const NORMAL: [u8; 2] = 1000u16.to_be_bytes();

/// What all tunnels of a run share: buffers, the messages they send, and dice.
pub struct Kit {
    pub inbox: Inbox,
    pub rng: fastrand::Rng,
    /// Random bytes. A message's payload is a piece of them, chosen by dice: an echo of another message is told from
    /// this one's without keeping either.
    pattern: Vec<u8>,
    message_bytes: usize,
    /// The header that an echo must have.
    front: Vec<u8>,
    /// Where a message is put together.
    outbox: Vec<u8>,
    ready: Ready,
}

impl Kit {
    pub fn new(message_bytes: usize, frame_bytes: usize) -> Kit {
        let mut kit = Kit {
            inbox: Inbox::new(),
            rng: fastrand::Rng::new(),
            pattern: Vec::new(),
            message_bytes: 0,
            front: Vec::new(),
            outbox: Vec::new(),
            ready: Ready::new(frame_bytes, Some(MASK)),
        };
        kit.set_message_bytes(message_bytes);
        kit
    }

    /// Messages are as long as this from now on. None may be on its way.
    pub fn set_message_bytes(&mut self, bytes: usize) {
        let missing = (OFFSETS + bytes).saturating_sub(self.pattern.len());
        self.pattern.extend(std::iter::repeat_with(|| self.rng.u8(..)).take(missing));
        self.message_bytes = bytes;
        self.front = frame::frame(frame::BINARY, None, &self.pattern[..bytes]);
        self.front.truncate(frame::header_bytes(bytes, false));
        self.outbox = vec![0; HEADER_BYTES_MAX + bytes];
    }

    fn payload(&self, offset: usize) -> &[u8] {
        &self.pattern[offset..offset + self.message_bytes]
    }

    /// Puts a message together in the outbox, and says how long it is.
    fn compose(&mut self, exchange: &Exchange) -> usize {
        let front =
            frame::write_header(&mut self.outbox, frame::BINARY, Some(exchange.key), self.message_bytes);
        let end = front + self.message_bytes;
        let payload = &self.pattern[exchange.offset..exchange.offset + self.message_bytes];
        frame::mask_into(&mut self.outbox[front..end], payload, exchange.key);
        end
    }

    fn message_frame_bytes(&self) -> usize {
        frame::header_bytes(self.message_bytes, true) + self.message_bytes
    }

    fn echo_frame_bytes(&self) -> usize {
        self.front.len() + self.message_bytes
    }

    /// Whether these bytes are what an echo goes on with.
    fn continues(&self, exchange: &Exchange, bytes: &[u8]) -> bool {
        let front = &self.front[exchange.got.min(self.front.len())..];
        let (here, rest) = bytes.split_at(front.len().min(bytes.len()));
        let at = exchange.got.saturating_sub(self.front.len());
        front.starts_with(here) && self.payload(exchange.offset)[at..].starts_with(rest)
    }
}

/// What a tunnel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Echo,
    Stream { up: bool },
}

pub struct Tunnel {
    pub wire: Wire,
    state: State,
    /// It waits for its turn among those with more to do.
    pub is_spent: bool,
}

enum State {
    Opening(Box<Opening>),
    Echo(Exchange),
    Stream(Box<Stream>),
    /// Close has been sent; what came since then.
    Closing(Vec<u8>),
    /// The connection has been half-closed.
    Ending,
}

struct Opening {
    purpose: Purpose,
    accept: [u8; 28],
    unsent: Vec<u8>,
    head: Vec<u8>,
}

/// One message and its echo.
#[derive(Default)]
struct Exchange {
    key: [u8; 4],
    /// Of the payload in the pattern.
    offset: usize,
    /// Bytes of the message that went out, bytes of its echo that came back.
    sent: usize,
    got: usize,
    started: Option<Instant>,
}

pub struct Stream {
    sender: Sender,
    receiver: Receiver,
    up: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Flowing,
    /// Nothing more is sent, and the backend was asked what it got; its frames still come.
    Settling,
    /// All that was sent has arrived, and nothing is read.
    Paused,
    /// Close was sent.
    Closing,
    /// The backend has told its final counts, and then its Close.
    Told,
    Closed,
}

/// What has happened on a tunnel.
pub enum Happened {
    Stand(Standing),
    Opened,
    /// The echo of the message that was sent, or was due, at this time.
    Echoed(Instant),
    Closed,
}

impl Tunnel {
    /// Sends a request on a socket that was just dialed: where the network is this machine it is connected by then.
    pub fn open(wire: Wire, purpose: Purpose, request: &[u8], accept: [u8; 28]) -> Tunnel {
        let opening = Opening { purpose, accept, unsent: request.to_vec(), head: Vec::new() };
        Tunnel { wire, state: State::Opening(Box::new(opening)), is_spent: false }
    }

    pub fn is_awaiting_echo(&self) -> bool {
        matches!(&self.state, State::Echo(exchange) if exchange.started.is_some())
    }

    pub fn stream(&mut self) -> Option<&mut Stream> {
        match &mut self.state {
            State::Stream(stream) => Some(stream),
            State::Opening(_) | State::Echo(_) | State::Closing(_) | State::Ending => None,
        }
    }

    /// Sends a message; its time counts from `started`.
    pub fn send(&mut self, kit: &mut Kit, started: Instant) -> Result<(), Trouble> {
        let State::Echo(exchange) = &mut self.state else {
            unreachable!("only echo tunnels are told to send")
        };
        debug_assert!(exchange.started.is_none(), "one message at a time");
        let key = kit.rng.u32(..).to_ne_bytes();
        let offset = kit.rng.usize(..OFFSETS);
        *exchange = Exchange { key, offset, sent: 0, got: 0, started: Some(started) };
        exchange.flush(&mut self.wire, kit)
    }

    /// Says goodbye.
    pub fn close(&mut self) -> Result<(), Trouble> {
        let close = frame::frame(frame::CLOSE, Some(MASK), &NORMAL);
        match &mut self.state {
            State::Echo(_) => {
                if self.wire.write(&close)? != close.len() {
                    return Err(Trouble::Error("no room for a Close".into()));
                }
                self.state = State::Closing(Vec::new());
            }
            State::Stream(stream) => {
                stream.sender.flowing = false;
                stream.sender.put_between(&close);
                stream.phase = Phase::Closing;
            }
            State::Opening(_) | State::Closing(_) | State::Ending => {
                unreachable!("only open tunnels are told to close")
            }
        }
        Ok(())
    }

    /// Ends the connection without a word.
    pub fn end(&mut self) -> Result<(), Trouble> {
        self.wire.socket.shutdown(Shutdown::Write)?;
        self.state = State::Ending;
        Ok(())
    }

    /// Goes on until it parks, or something has happened.
    pub fn advance(&mut self, kit: &mut Kit) -> Result<Happened, Trouble> {
        match &mut self.state {
            State::Opening(opening) => match opening.advance(&mut self.wire, kit)? {
                Some(state) => {
                    self.state = state;
                    Ok(Happened::Opened)
                }
                None => Ok(Happened::Stand(Standing::Parked)),
            },
            State::Echo(exchange) => exchange.advance(&mut self.wire, kit),
            State::Stream(stream) => stream.advance(&mut self.wire, kit),
            State::Closing(got) => await_end(&mut self.wire, got, kit),
            State::Ending => await_other_end(&mut self.wire, kit),
        }
    }
}

impl Opening {
    fn advance(&mut self, wire: &mut Wire, kit: &mut Kit) -> Result<Option<State>, Trouble> {
        if !self.unsent.is_empty() && wire.writable {
            let sent = wire.write(&self.unsent)?;
            self.unsent.drain(..sent);
        }
        while wire.readable {
            match wire.read(&mut kit.inbox.bytes)? {
                Got::Bytes(count) => self.head.extend_from_slice(&kit.inbox.bytes[..count]),
                Got::Nothing => continue,
                Got::End => return Err(Trouble::Error("the connection ended within the handshake".into())),
            }
            let end = handshake::judge_response(&self.head, &self.accept).map_err(Trouble::Error)?;
            let Some(end) = end else { continue };
            let trailing = &self.head[end..];
            return match self.purpose {
                Purpose::Echo if trailing.is_empty() => Ok(Some(State::Echo(Exchange::default()))),
                Purpose::Echo => Err(Trouble::Mismatch("bytes before the first message".into())),
                Purpose::Stream { up } => {
                    kit.inbox.hold(trailing);
                    let expected = Expected { payload_bytes: kit.ready.payload_bytes, masked: false };
                    Ok(Some(State::Stream(Box::new(Stream {
                        sender: Sender::new(up),
                        receiver: Receiver::new(expected),
                        up,
                        phase: Phase::Flowing,
                    }))))
                }
            };
        }
        Ok(None)
    }
}

impl Exchange {
    /// Sends what the socket takes. A message that it did not take at once is put together once more.
    fn flush(&mut self, wire: &mut Wire, kit: &mut Kit) -> Result<(), Trouble> {
        let end = kit.compose(self);
        self.sent += wire.write(&kit.outbox[self.sent..end])?;
        Ok(())
    }

    fn advance(&mut self, wire: &mut Wire, kit: &mut Kit) -> Result<Happened, Trouble> {
        if wire.writable && self.started.is_some() && self.sent < kit.message_frame_bytes() {
            self.flush(wire, kit)?;
        }
        while wire.readable {
            let count = match wire.read(&mut kit.inbox.bytes)? {
                Got::Bytes(count) => count,
                Got::Nothing => continue,
                Got::End => return Err(Trouble::Error("the tunnel ended".into())),
            };
            let Some(started) = self.started else {
                return Err(Trouble::Mismatch("bytes that nobody has asked for".into()));
            };
            if !kit.continues(self, &kit.inbox.bytes[..count]) {
                let got = self.got;
                return Err(Trouble::Mismatch(format!("behind {got} bytes the echo is not what was sent")));
            }
            self.got += count;
            if self.got == kit.echo_frame_bytes() {
                self.started = None;
                return Ok(Happened::Echoed(started));
            }
        }
        Ok(Happened::Stand(Standing::Parked))
    }
}

/// Behind our end comes the other one.
fn await_other_end(wire: &mut Wire, kit: &mut Kit) -> Result<Happened, Trouble> {
    while wire.readable {
        match wire.read(&mut kit.inbox.bytes)? {
            Got::Nothing => {}
            Got::End => return Ok(Happened::Closed),
            Got::Bytes(_) => return Err(Trouble::Mismatch("something came behind the echo".into())),
        }
    }
    Ok(Happened::Stand(Standing::Parked))
}

/// Behind our Close comes the other one, and then the end.
fn await_end(wire: &mut Wire, got: &mut Vec<u8>, kit: &mut Kit) -> Result<Happened, Trouble> {
    while wire.readable {
        match wire.read(&mut kit.inbox.bytes)? {
            Got::Bytes(count) => got.extend_from_slice(&kit.inbox.bytes[..count]),
            Got::Nothing => continue,
            Got::End if *got == frame::frame(frame::CLOSE, None, &NORMAL) => return Ok(Happened::Closed),
            Got::End => return Err(Trouble::Mismatch(format!("our Close was answered by {got:?}"))),
        }
        if got.len() > HEADER_BYTES_MAX {
            return Err(Trouble::Mismatch("our Close was answered by something else".into()));
        }
    }
    Ok(Happened::Stand(Standing::Parked))
}

impl Stream {
    fn advance(&mut self, wire: &mut Wire, kit: &mut Kit) -> Result<Happened, Trouble> {
        let filled = loop {
            let filled = match self.phase {
                Phase::Paused => self.receiver.take_rest(&mut kit.inbox)?,
                Phase::Flowing | Phase::Settling | Phase::Closing | Phase::Told | Phase::Closed => {
                    self.receiver.fill(wire, &mut kit.inbox)?
                }
            };
            match filled {
                Filled::Standing(standing) => break standing,
                Filled::Heard(heard) => self.hear(heard)?,
                Filled::End if self.phase == Phase::Closed => return Ok(Happened::Closed),
                Filled::End => return Err(Trouble::Error("the stream ended".into())),
            }
        };
        let flushed = self.sender.flush(wire, &kit.ready)?;
        let spent = [filled, flushed].contains(&Standing::Spent);
        Ok(Happened::Stand(if spent { Standing::Spent } else { Standing::Parked }))
    }

    fn hear(&mut self, heard: Heard) -> Result<(), Trouble> {
        match (heard, self.phase) {
            (Heard::Text(text), Phase::Settling) => {
                self.compare(&text, None)?;
                self.phase = Phase::Paused;
            }
            (Heard::Text(text), Phase::Closing) => {
                self.compare(&text, Some(self.receiver.payload_bytes))?;
                self.phase = Phase::Told;
            }
            (Heard::Close, Phase::Told) => self.phase = Phase::Closed,
            (heard, phase) => {
                return Err(Trouble::Mismatch(format!("{heard:?} from the backend while {phase:?}")));
            }
        }
        Ok(())
    }

    /// Whether the backend got what was sent, and we what it sent.
    fn compare(&self, text: &[u8], received: Option<u64>) -> Result<(), Trouble> {
        let sent = self.sender.payload_bytes;
        match stream::read_counts(text) {
            Some((got, gave)) if got == sent && received.is_none_or(|received| received == gave) => Ok(()),
            Some((got, gave)) => {
                let received = self.receiver.payload_bytes;
                let told =
                    format!("{sent} bytes sent and {got} got there; {gave} sent there and {received} got");
                Err(Trouble::Mismatch(told))
            }
            None => Err(Trouble::Mismatch("a text that is no counts".into())),
        }
    }

    /// Payload that went up and came down.
    pub fn moved(&self) -> (u64, u64) {
        (self.sender.payload_bytes, self.receiver.payload_bytes)
    }

    /// Stops sending; when all has arrived at the backend it pauses.
    pub fn settle(&mut self) {
        self.sender.flowing = false;
        self.sender.put_between(&frame::frame(frame::TEXT, Some(MASK), b"how much?"));
        self.phase = Phase::Settling;
    }

    pub fn is_paused(&self) -> bool {
        self.phase == Phase::Paused
    }

    /// Goes on after a pause.
    pub fn resume(&mut self) {
        self.sender.flowing = self.up;
        self.phase = Phase::Flowing;
    }
}

impl From<stream::Trouble> for Trouble {
    fn from(trouble: stream::Trouble) -> Trouble {
        match trouble {
            stream::Trouble::Io(error) => Trouble::from(error),
            stream::Trouble::Frame(why) => Trouble::Mismatch(why.into()),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Error(error.to_string())
    }
}
