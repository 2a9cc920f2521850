//! The server behind the proxy: as cheap as it can be, since it shares a core with the client.
//!
//! By path: `/echo` sends every message back, `/sink` counts and drops, `/source` sends, `/both` sends and drops. The
//! three take `?frame=BYTES`, the payload of each of their frames. A frame that arrives whole is echoed from where it
//! was read; only one that is cut is kept.

use std::error::Error;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;

use crate::control::Control;
use crate::flags::Flags;
use crate::frame::{self, HEADER_BYTES_MAX};
use crate::handshake;
use crate::net::{self, EVENTS, Got, Wire};
use crate::stream::{self, Expected, Filled, Heard, Inbox, Ready, Receiver, Sender, Standing};
use crate::sys;

/// The payload of a stream's frames where the path does not say.
pub const FRAME_BYTES: usize = 64 << 10;
/// The code of a Close that has no other reason than that somebody is done (RFC 6455, 7.4.1).
const NORMAL: [u8; 2] = 1000u16.to_be_bytes();
/// A message that is kept until it is whole.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

const LISTENER: Token = Token(usize::MAX - 1);
const CONTROL: Token = Token(usize::MAX - 2);

/// `loadgen backend`.
pub fn run(args: lexopt::Parser) -> Result<(), Box<dyn Error>> {
    let mut flags = Flags::read(args)?;
    let address: SocketAddr = flags.maybe("listen")?.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
    let until_eof = flags.switch("until-eof");
    flags.finish()?;
    sys::raise_descriptor_limit()?;
    let mut listener = net::listen(address)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut control = if until_eof { Some(Control::register(poll.registry(), CONTROL)?) } else { None };
    let mut events = Events::with_capacity(EVENTS);
    let mut backend = Backend { connections: Slab::new(), kit: Kit::new(), spent: Vec::new() };
    let mut resumed = Vec::new();
    while !control.as_ref().is_some_and(Control::has_ended) {
        let timeout = (!backend.spent.is_empty()).then_some(Duration::ZERO);
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        mem::swap(&mut resumed, &mut backend.spent);
        for event in &events {
            match event.token() {
                LISTENER => backend.accept(&listener, poll.registry())?,
                CONTROL => control.as_mut().expect("its event says so").fill(),
                Token(key) => {
                    let Some(connection) = backend.connections.get_mut(key) else { continue };
                    connection.wire.mark(event);
                    // One that waits for its turn has it soon.
                    if !connection.is_spent {
                        backend.advance(key);
                    }
                }
            }
        }
        for key in resumed.drain(..) {
            backend.advance(key);
        }
    }
    Ok(())
}

struct Backend {
    connections: Slab<Connection>,
    kit: Kit,
    /// Those with more to do, behind everybody who became ready meanwhile.
    spent: Vec<usize>,
}

/// What all connections share.
pub struct Kit {
    inbox: Inbox,
    /// The frames of the last stream: those of the next are mostly as long.
    ready: Rc<Ready>,
    /// A line for the head of each answer, or none.
    field: String,
}

impl Kit {
    fn new() -> Kit {
        Kit::with_field(String::new())
    }

    /// One whose answers have a field more, which stands here with its line end.
    pub fn with_field(field: String) -> Kit {
        Kit { inbox: Inbox::new(), ready: Rc::new(Ready::new(FRAME_BYTES, None)), field }
    }
}

pub struct Connection {
    pub wire: Wire,
    work: Work,
    /// Its key is among those with more to do.
    is_spent: bool,
}

enum Work {
    Opening(Vec<u8>),
    Echo(Echo),
    Stream(Box<Stream>),
}

#[derive(Default)]
struct Echo {
    /// A frame that is not whole.
    kept: Vec<u8>,
    /// What the socket did not take. Nothing is read meanwhile.
    unsent: Vec<u8>,
    /// Close has been answered: the end follows what is unsent.
    closing: bool,
}

struct Stream {
    ready: Rc<Ready>,
    sender: Sender,
    receiver: Receiver,
    closing: bool,
}

/// How a connection stands.
pub enum Next {
    Park,
    Yield,
    Drop,
}

impl Backend {
    fn accept(&mut self, listener: &TcpListener, registry: &Registry) -> io::Result<()> {
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let slot = self.connections.vacant_entry();
            let wire = Wire::register(socket, registry, slot.key())?;
            slot.insert(Connection::new(wire));
        }
    }

    fn advance(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        connection.is_spent = false;
        match connection.advance(&mut self.kit) {
            Ok(Next::Park) => {}
            Ok(Next::Yield) => {
                connection.is_spent = true;
                self.spent.push(key);
            }
            Ok(Next::Drop) => drop(self.connections.remove(key)),
            Err(error) => {
                self.kit.inbox.clear();
                // A client that goes away in the middle of something is the client's to tell of.
                if error.kind() == io::ErrorKind::InvalidData {
                    eprintln!("loadgen backend: {error}");
                }
                self.connections.remove(key);
            }
        }
    }
}

impl Connection {
    /// One that has said nothing yet.
    pub fn new(wire: Wire) -> Connection {
        Connection { wire, work: Work::Opening(Vec::new()), is_spent: false }
    }

    pub fn advance(&mut self, kit: &mut Kit) -> io::Result<Next> {
        if let Work::Opening(head) = &mut self.work {
            match open(&mut self.wire, head, kit)? {
                Some(work) => self.work = work,
                None => return Ok(Next::Park),
            }
        }
        match &mut self.work {
            Work::Opening(_) => Ok(Next::Park),
            Work::Echo(echo) => echo.advance(&mut self.wire, &mut kit.inbox.bytes),
            Work::Stream(stream) => stream.advance(&mut self.wire, kit),
        }
    }
}

fn malformed(why: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn open(wire: &mut Wire, head: &mut Vec<u8>, kit: &mut Kit) -> io::Result<Option<Work>> {
    while wire.readable {
        match wire.read(&mut kit.inbox.bytes)? {
            Got::Bytes(count) => head.extend_from_slice(&kit.inbox.bytes[..count]),
            Got::Nothing => continue,
            // One who looked whether somebody listens, and asked nothing.
            Got::End if head.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Got::End => return Err(malformed("a request that ends within its head")),
        }
        let Some(asked) = handshake::judge_request(head).map_err(malformed)? else { continue };
        let work = work_for(&asked.target, kit)?;
        let answer = asked.answer(&kit.field);
        // A socket that was just accepted takes 200 bytes.
        if wire.write(&answer)? != answer.len() {
            return Err(malformed("no room for the answer"));
        }
        let trailing = &head[asked.end..];
        if !trailing.is_empty() {
            return Err(malformed("bytes behind the request: nobody here sends them before the answer"));
        }
        return Ok(Some(work));
    }
    Ok(None)
}

fn work_for(target: &str, kit: &mut Kit) -> io::Result<Work> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let flowing = match path {
        "/echo" => return Ok(Work::Echo(Echo::default())),
        "/sink" => false,
        "/source" | "/both" => true,
        _ => return Err(malformed(format!("nothing is at {path}"))),
    };
    let frame_bytes = match query.strip_prefix("frame=") {
        Some(bytes) => bytes.parse().map_err(malformed)?,
        None => FRAME_BYTES,
    };
    if !(1..=MESSAGE_BYTES_MAX).contains(&frame_bytes) {
        return Err(malformed("frames of no length or of too much"));
    }
    if frame_bytes != kit.ready.payload_bytes {
        kit.ready = Rc::new(Ready::new(frame_bytes, None));
    }
    let receiver = Receiver::new(Expected { payload_bytes: frame_bytes, masked: true });
    let sender = Sender::new(flowing);
    Ok(Work::Stream(Box::new(Stream { ready: Rc::clone(&kit.ready), sender, receiver, closing: false })))
}

impl Echo {
    fn advance(&mut self, wire: &mut Wire, buffer: &mut [u8]) -> io::Result<Next> {
        if !self.unsent.is_empty() && wire.writable {
            let sent = wire.write(&self.unsent)?;
            self.unsent.drain(..sent);
        }
        while self.unsent.is_empty() && !self.closing && wire.readable {
            match wire.read(buffer)? {
                Got::Bytes(count) if self.kept.is_empty() => {
                    let taken = self.answer(wire, &mut buffer[..count])?;
                    self.kept.extend_from_slice(&buffer[taken..count]);
                }
                Got::Bytes(count) => {
                    self.kept.extend_from_slice(&buffer[..count]);
                    let mut kept = mem::take(&mut self.kept);
                    let taken = self.answer(wire, &mut kept)?;
                    // The buffer stays with the connection: the next message is as long.
                    kept.drain(..taken);
                    self.kept = kept;
                }
                Got::Nothing => {}
                Got::End => return Ok(Next::Drop),
            }
        }
        Ok(if self.closing && self.unsent.is_empty() { Next::Drop } else { Next::Park })
    }

    /// Answers the frames that are whole: unmasks each where it stands, puts a header without a mask before it, and
    /// sends them in one write. Says how many bytes they were.
    fn answer(&mut self, wire: &mut Wire, bytes: &mut [u8]) -> io::Result<usize> {
        // The answers stand in `bytes` from `begin` to `end`, which is never ahead of what they answer.
        let (mut at, mut begin, mut end) = (0, 0, 0);
        while !self.closing {
            let Some(header) = frame::parse(&bytes[at..]).map_err(malformed)? else { break };
            let Some(key) = header.mask else { return Err(malformed("a frame that is not masked")) };
            if header.payload_bytes > MESSAGE_BYTES_MAX as u64 {
                return Err(malformed("a message that is too long"));
            }
            let length = header.payload_bytes as usize;
            let payload = at + header.bytes;
            if bytes.len() < payload + length {
                break;
            }
            let mut first = bytes[at];
            match header.opcode {
                frame::PING => first = first & 0xf0 | frame::PONG,
                frame::CLOSE => self.closing = true,
                _ => {}
            }
            at = payload + length;
            if header.opcode == frame::PONG {
                continue;
            }
            frame::mask(&mut bytes[payload..at], key);
            let mut front = [0; HEADER_BYTES_MAX];
            let front_bytes = frame::write_raw_header(&mut front, first, None, length);
            if begin == end {
                // The first answer needs no move: its header is the shorter one.
                begin = payload - front_bytes;
                end = begin;
            } else {
                bytes.copy_within(payload..at, end + front_bytes);
            }
            bytes[end..end + front_bytes].copy_from_slice(&front[..front_bytes]);
            end += front_bytes + length;
        }
        if begin < end {
            let sent = wire.write(&bytes[begin..end])?;
            self.unsent.extend_from_slice(&bytes[begin + sent..end]);
        }
        Ok(at)
    }
}

impl Stream {
    fn advance(&mut self, wire: &mut Wire, kit: &mut Kit) -> io::Result<Next> {
        let filled = loop {
            if self.closing {
                // Behind a Close comes nothing that counts.
                kit.inbox.clear();
                break Standing::Parked;
            }
            let filled = match self.receiver.fill(wire, &mut kit.inbox) {
                Ok(filled) => filled,
                Err(stream::Trouble::Io(error)) => return Err(error),
                Err(stream::Trouble::Frame(why)) => return Err(malformed(why)),
            };
            match filled {
                Filled::Standing(standing) => break standing,
                Filled::End => return Ok(Next::Drop),
                Filled::Heard(heard) => self.hear(heard),
            }
        };
        let flushed = self.sender.flush(wire, &self.ready)?;
        if self.closing && self.sender.is_between() {
            return Ok(Next::Drop);
        }
        Ok(if [filled, flushed].contains(&Standing::Spent) { Next::Yield } else { Next::Park })
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Text(_) => self.tell_counts(),
            Heard::Ping(payload) => self.sender.put_between(&frame::frame(frame::PONG, None, &payload)),
            Heard::Pong => {}
            Heard::Close => {
                self.tell_counts();
                self.sender.put_between(&frame::frame(frame::CLOSE, None, &NORMAL));
                self.sender.flowing = false;
                self.closing = true;
            }
        }
    }

    fn tell_counts(&mut self) {
        let sent = self.sender.payload_bytes_by_then(&self.ready);
        self.sender.put_between(&stream::counts(self.receiver.payload_bytes, sent));
    }
}
