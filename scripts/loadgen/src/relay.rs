//! The bare relay: what the kernel allows. It accepts, connects and moves bytes both ways, passes half-closes on, and
//! does nothing else: it parses nothing, has no timeouts, and an error on either side closes both.
//!
//! A message costs one recv and one send in each direction: a read shorter than the buffer has emptied the socket, and
//! a write is tried before any event says that it would do.

use std::error::Error;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;
use socket2::SockRef;

use crate::control::Control;
use crate::flags::Flags;
use crate::net::{self, EVENTS, Got, Wire};
use crate::stream::Standing;
use crate::sys;

/// What a direction copies before others have their turn: the whole buffer, once.
const COPY_BYTES: usize = 64 << 10;
const PIPE_BYTES: i32 = 256 << 10;
/// What a direction splices before others have their turn.
const SPLICE_BYTES: usize = 1 << 20;

const LISTENER: Token = Token(usize::MAX - 1);
const CONTROL: Token = Token(usize::MAX - 2);

/// `loadgen relay`.
pub fn run(args: lexopt::Parser) -> Result<(), Box<dyn Error>> {
    let mut flags = Flags::read(args)?;
    let address: SocketAddr = flags.maybe("listen")?.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
    let to = flags.must("to")?;
    let splices = flags.switch("splice");
    let until_eof = flags.switch("until-eof");
    flags.finish()?;
    sys::raise_descriptor_limit()?;
    let mut listener = net::listen(address)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut control = if until_eof { Some(Control::register(poll.registry(), CONTROL)?) } else { None };
    let mut events = Events::with_capacity(EVENTS);
    let (pairs, buffer, spent) = (Slab::new(), vec![0; COPY_BYTES], Vec::new());
    let mut relay = Relay { to, splices, pairs, buffer, spent };
    let mut resumed = Vec::new();
    while !control.as_ref().is_some_and(Control::has_ended) {
        let timeout = (!relay.spent.is_empty()).then_some(Duration::ZERO);
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        mem::swap(&mut resumed, &mut relay.spent);
        for event in &events {
            match event.token() {
                LISTENER => relay.accept(&listener, poll.registry())?,
                CONTROL => control.as_mut().expect("its event says so").fill(),
                Token(token) => {
                    let Some(pair) = relay.pairs.get_mut(token / 2) else { continue };
                    pair.ends[token % 2].mark(event);
                    // One that waits for its turn has it soon.
                    if !pair.is_spent {
                        relay.advance(token / 2);
                    }
                }
            }
        }
        for key in resumed.drain(..) {
            relay.advance(key);
        }
    }
    Ok(())
}

struct Relay {
    to: SocketAddr,
    splices: bool,
    pairs: Slab<Pair>,
    buffer: Vec<u8>,
    /// Those with more to do, behind everybody who became ready meanwhile.
    spent: Vec<usize>,
}

/// Two ends, and the bytes between them: flow 0 goes from end 0 to end 1, flow 1 comes back.
struct Pair {
    ends: [Wire; 2],
    flows: [Flow; 2],
    is_spent: bool,
}

struct Flow {
    held: Held,
    finished: bool,
}

/// What the sink did not take. Nothing is read meanwhile.
enum Held {
    Copied(Vec<u8>),
    Piped { bytes: usize, pipe: [OwnedFd; 2] },
}

impl Relay {
    fn accept(&mut self, listener: &TcpListener, registry: &Registry) -> io::Result<()> {
        loop {
            let near = match listener.accept() {
                Ok((near, _)) => near,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let far = TcpStream::connect(self.to)?;
            SockRef::from(&far).set_tcp_nodelay(true)?;
            let slot = self.pairs.vacant_entry();
            let near = Wire::register(near, registry, slot.key() * 2)?;
            let mut far = Wire::register(far, registry, slot.key() * 2 + 1)?;
            // It is writable when it is connected, and a half-close before that would break the connection off.
            far.writable = false;
            let flows = [Flow::new(self.splices)?, Flow::new(self.splices)?];
            slot.insert(Pair { ends: [near, far], flows, is_spent: false });
        }
    }

    fn advance(&mut self, key: usize) {
        let pair = &mut self.pairs[key];
        pair.is_spent = false;
        match pair.advance(&mut self.buffer) {
            Ok(Standing::Parked) => {
                if pair.flows.iter().all(|flow| flow.finished) {
                    self.pairs.remove(key);
                }
            }
            Ok(Standing::Spent) => {
                pair.is_spent = true;
                self.spent.push(key);
            }
            Err(_) => drop(self.pairs.remove(key)),
        }
    }
}

impl Pair {
    fn advance(&mut self, buffer: &mut [u8]) -> io::Result<Standing> {
        let [near, far] = &mut self.ends;
        let up = self.flows[0].advance(near, far, buffer)?;
        let down = self.flows[1].advance(far, near, buffer)?;
        Ok(if up == Standing::Spent { up } else { down })
    }
}

impl Flow {
    fn new(splices: bool) -> io::Result<Flow> {
        let held = match splices {
            true => Held::Piped { bytes: 0, pipe: sys::pipe(PIPE_BYTES)? },
            false => Held::Copied(Vec::new()),
        };
        Ok(Flow { held, finished: false })
    }

    fn advance(&mut self, source: &mut Wire, sink: &mut Wire, buffer: &mut [u8]) -> io::Result<Standing> {
        if self.finished {
            return Ok(Standing::Parked);
        }
        let standing = match &mut self.held {
            Held::Copied(held) => copy(held, source, sink, buffer)?,
            Held::Piped { bytes, pipe } => splice(bytes, pipe, source, sink)?,
        };
        if standing.is_none() {
            sink.socket.shutdown(Shutdown::Write)?;
            self.finished = true;
        }
        Ok(standing.unwrap_or(Standing::Parked))
    }
}

/// Copies; nothing is returned at the source's end.
fn copy(
    held: &mut Vec<u8>,
    source: &mut Wire,
    sink: &mut Wire,
    buffer: &mut [u8],
) -> io::Result<Option<Standing>> {
    if !held.is_empty() && sink.writable {
        let sent = sink.write(held)?;
        held.drain(..sent);
    }
    while sink.writable && source.readable {
        match source.read(buffer)? {
            Got::Bytes(count) => {
                let sent = sink.write(&buffer[..count])?;
                held.extend_from_slice(&buffer[sent..count]);
                if count == buffer.len() {
                    return Ok(Some(Standing::Spent));
                }
            }
            Got::Nothing => {}
            Got::End => return Ok(None),
        }
    }
    Ok(Some(Standing::Parked))
}

/// The same by a pipe. It is empty before more goes in, so that WouldBlock is about the source and not about the pipe.
fn splice(
    bytes: &mut usize,
    pipe: &[OwnedFd; 2],
    source: &mut Wire,
    sink: &mut Wire,
) -> io::Result<Option<Standing>> {
    let mut moved = 0;
    loop {
        while *bytes > 0 {
            if !sink.writable {
                return Ok(Some(Standing::Parked));
            }
            *bytes -= sink.splice_from(&pipe[0], *bytes)?;
        }
        if moved >= SPLICE_BYTES {
            return Ok(Some(Standing::Spent));
        }
        if !source.readable || !sink.writable {
            return Ok(Some(Standing::Parked));
        }
        match source.splice_into(&pipe[1], SPLICE_BYTES)? {
            Got::Bytes(count) => {
                *bytes = count;
                moved += count;
            }
            Got::Nothing => {}
            Got::End => return Ok(None),
        }
    }
}
