//! The client's end of all tunnels: one poll, one set of buffers, and the modes that use them.

pub mod churn;
pub mod idle;
pub mod load;
mod tunnel;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, SockRef, Socket, Type};

use crate::control::Control;
use crate::handshake::Request;
use crate::net::{EVENTS, Wire};
use crate::stream::Standing;
use crate::sys::{self, Alarm};
use tunnel::{Happened, Kit, Purpose, Tunnel};

const CONTROL: Token = Token(usize::MAX - 1);
const ALARM: Token = Token(usize::MAX - 2);

/// Handshakes at once while tunnels are opened, and closes.
const OPENING_MAX: usize = 64;
/// When nothing has moved for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(10);
/// Further troubles are only counted.
const TROUBLES_TOLD_MAX: u64 = 10;

/// What went wrong on a tunnel.
#[derive(Debug)]
pub enum Trouble {
    /// It failed, or ended.
    Error(String),
    /// It brought what nobody sent.
    Mismatch(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Trouble::Error(why) | Trouble::Mismatch(why)) = self;
        f.write_str(why)
    }
}

/// What a mode wants of a tunnel on which something happened.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    Rest,
    /// A message, whose time counts from then.
    Send(Instant),
    /// A goodbye, as the RFC has it.
    Close,
    /// An end without a word.
    End,
}

/// Decides what tunnels do.
pub trait Mode {
    fn opened(&mut self, index: usize) -> Then;
    fn echoed(&mut self, index: usize, started: Instant, now: Instant) -> Then;
    fn closed(&mut self, index: usize);
}

/// All tunnels of a run.
pub struct Fleet {
    poll: Poll,
    events: Option<Events>,
    target: SocketAddr,
    source: Source,
    tunnels: Vec<Option<Tunnel>>,
    /// Those with more to do, behind everybody who became ready meanwhile.
    spent: VecDeque<usize>,
    pub kit: Kit,
    pub control: Control,
    alarm: Alarm,
    pub errors: u64,
    pub mismatches: u64,
}

/// Where dials come from.
enum Source {
    /// The kernel's choice.
    Any,
    /// An address of its own range of ports: those of the one before have run out.
    Loopback(Ipv4Addr),
}

impl Fleet {
    pub fn new(target: SocketAddr, kit: Kit) -> io::Result<Fleet> {
        sys::raise_descriptor_limit()?;
        let poll = Poll::new()?;
        let alarm = Alarm::new()?;
        poll.registry().register(&mut SourceFd(&alarm.fd()), ALARM, Interest::READABLE)?;
        Ok(Fleet {
            target,
            control: Control::register(poll.registry(), CONTROL)?,
            poll,
            events: Some(Events::with_capacity(EVENTS)),
            source: Source::Any,
            tunnels: Vec::new(),
            spent: VecDeque::new(),
            kit,
            alarm,
            errors: 0,
            mismatches: 0,
        })
    }

    pub fn request(&self, path: &str) -> Request {
        Request::new(&self.target.to_string(), path)
    }

    /// Whether anything was wrong. A run that has gone wrong ends at once.
    pub fn is_spoilt(&self) -> bool {
        self.errors + self.mismatches > 0
    }

    /// Dials for the tunnel of this number, or one more.
    pub fn dial(&mut self, index: usize, request: &mut Request, purpose: Purpose, mode: &mut impl Mode) {
        let accept = request.renew(self.kit.rng.u128(..));
        if index == self.tunnels.len() {
            self.tunnels.push(None);
        }
        let dialed = self.connect().and_then(|socket| Wire::register(socket, self.poll.registry(), index));
        match dialed {
            Ok(wire) => {
                self.tunnels[index] = Some(Tunnel::open(wire, purpose, request.bytes(), accept));
                self.advance(index, mode);
            }
            Err(error) => self.fail(index, &Trouble::Error(format!("cannot connect: {error}"))),
        }
    }

    fn connect(&mut self) -> io::Result<TcpStream> {
        loop {
            match self.try_connect() {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => self.change_source(error)?,
                connected => return connected,
            }
        }
    }

    fn try_connect(&self) -> io::Result<TcpStream> {
        let socket = match self.source {
            Source::Any => TcpStream::connect(self.target)?,
            Source::Loopback(source) => {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                sys::choose_port_late(&socket)?;
                socket.bind(&SocketAddr::from((source, 0)).into())?;
                match socket.connect(&self.target.into()) {
                    Err(error) if !sys::is_in_progress(&error) => return Err(error),
                    Ok(()) | Err(_) => TcpStream::from_std(socket.into()),
                }
            }
        };
        SockRef::from(&socket).set_tcp_nodelay(true)?;
        Ok(socket)
    }

    /// An address has about 28,000 ports for one destination; on loopback there are more addresses.
    fn change_source(&mut self, error: io::Error) -> io::Result<()> {
        let next = match (&self.source, self.target.ip()) {
            (Source::Any, IpAddr::V4(target)) if target.is_loopback() => Ipv4Addr::new(127, 0, 1, 1),
            (Source::Loopback(source), _) if source.octets()[3] < 250 => {
                Ipv4Addr::new(127, 0, 1, source.octets()[3] + 1)
            }
            _ => return Err(error),
        };
        self.source = Source::Loopback(next);
        Ok(())
    }

    /// Opens so many more tunnels, a bounded number at a time. Says which they are.
    pub fn open(&mut self, count: usize, path: &str, purpose: Purpose) -> io::Result<std::ops::Range<usize>> {
        let mut request = self.request(path);
        let first = self.tunnels.len();
        let mut opened = Counting::default();
        while opened.0 < count && !self.is_spoilt() {
            let dialed = self.tunnels.len() - first;
            if dialed < count && dialed - opened.0 < OPENING_MAX {
                self.dial(first + dialed, &mut request, purpose, &mut opened);
            } else {
                self.turn(None, &mut opened)?;
            }
        }
        Ok(first..self.tunnels.len())
    }

    /// Closes all tunnels: Close, Close, and the end of each connection.
    pub fn close(&mut self) -> io::Result<()> {
        let count = self.tunnels.iter().flatten().count();
        let mut closed = Counting::default();
        let mut begun = 0;
        let mut open: Vec<usize> = (0..self.tunnels.len()).filter(|&at| self.tunnels[at].is_some()).collect();
        while closed.0 < count && !self.is_spoilt() {
            match open.last() {
                Some(_) if begun - closed.0 < OPENING_MAX => {
                    begun += 1;
                    let index = open.pop().expect("there is a last one");
                    self.act(index, Then::Close, &mut closed);
                }
                _ => self.turn(None, &mut closed)?,
            }
        }
        Ok(())
    }

    pub fn streams(&mut self) -> impl Iterator<Item = &mut tunnel::Stream> {
        self.tunnels.iter_mut().flatten().filter_map(Tunnel::stream)
    }

    pub fn is_awaiting_echo(&self, index: usize) -> bool {
        self.tunnels[index].as_ref().is_some_and(Tunnel::is_awaiting_echo)
    }

    pub fn set_alarm(&self, after: Duration) -> io::Result<()> {
        self.alarm.set(after)
    }

    /// Waits for events, until then at most, and acts on them. That nothing happens for long is a trouble.
    pub fn turn(&mut self, until: Option<Instant>, mode: &mut impl Mode) -> io::Result<()> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout =
            if self.spent.is_empty() { left.unwrap_or(PATIENCE).min(PATIENCE) } else { Duration::ZERO };
        if self.wait(Some(timeout), mode)? == 0 && timeout == PATIENCE {
            self.count(&Trouble::Error(format!("nothing has moved for {} s", PATIENCE.as_secs())));
        }
        Ok(())
    }

    /// Waits for the next line on stdin, the tunnels being at rest. Nothing more to come is an empty one.
    pub fn await_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(line) = self.control.line() {
                return Ok(line);
            }
            let timeout = if self.spent.is_empty() { None } else { Some(Duration::ZERO) };
            self.wait(timeout, &mut Counting::default())?;
        }
    }

    /// Says how many events there were, those that were made up among them.
    fn wait(&mut self, timeout: Option<Duration>, mode: &mut impl Mode) -> io::Result<usize> {
        let mut events = self.events.take().expect("there is one turn at a time");
        match self.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            polled => polled?,
        }
        let spent = self.spent.len();
        let mut count = spent;
        for event in &events {
            count += 1;
            match event.token() {
                CONTROL => self.control.fill(),
                ALARM => {}
                Token(index) => {
                    if let Some(tunnel) = &mut self.tunnels[index] {
                        tunnel.wire.mark(event);
                        // One that waits for its turn has it soon.
                        if !tunnel.is_spent {
                            self.advance(index, mode);
                        }
                    }
                }
            }
        }
        self.events = Some(events);
        for _ in 0..spent {
            let index = self.spent.pop_front().expect("they were counted");
            self.advance(index, mode);
        }
        Ok(count)
    }

    /// Goes on with a tunnel until it parks.
    pub fn advance(&mut self, index: usize, mode: &mut impl Mode) {
        while let Some(tunnel) = &mut self.tunnels[index] {
            tunnel.is_spent = false;
            let then = match tunnel.advance(&mut self.kit) {
                Ok(Happened::Stand(Standing::Parked)) => return,
                Ok(Happened::Stand(Standing::Spent)) => {
                    tunnel.is_spent = true;
                    self.spent.push_back(index);
                    return;
                }
                Ok(Happened::Opened) => mode.opened(index),
                Ok(Happened::Echoed(started)) => mode.echoed(index, started, Instant::now()),
                Ok(Happened::Closed) => {
                    self.tunnels[index] = None;
                    return mode.closed(index);
                }
                Err(trouble) => return self.fail(index, &trouble),
            };
            self.tell(index, then);
        }
    }

    /// Does what a mode wants of a tunnel that parks.
    pub fn act(&mut self, index: usize, then: Then, mode: &mut impl Mode) {
        self.tell(index, then);
        if self.tunnels[index].as_ref().is_some_and(|tunnel| !tunnel.is_spent) {
            self.advance(index, mode);
        }
    }

    fn tell(&mut self, index: usize, then: Then) {
        let Some(tunnel) = &mut self.tunnels[index] else { return };
        let done = match then {
            Then::Rest => Ok(()),
            Then::Send(started) => tunnel.send(&mut self.kit, started),
            Then::Close => tunnel.close(),
            Then::End => tunnel.end(),
        };
        if let Err(trouble) = done {
            self.fail(index, &trouble);
        }
    }

    fn fail(&mut self, index: usize, trouble: &Trouble) {
        self.kit.inbox.clear();
        self.tunnels[index] = None;
        self.count(&Trouble::from_tunnel(index, trouble));
    }

    fn count(&mut self, trouble: &Trouble) {
        match trouble {
            Trouble::Error(_) => self.errors += 1,
            Trouble::Mismatch(_) => self.mismatches += 1,
        }
        if self.errors + self.mismatches <= TROUBLES_TOLD_MAX {
            eprintln!("loadgen: {trouble}");
        }
    }
}

impl Trouble {
    fn from_tunnel(index: usize, trouble: &Trouble) -> Trouble {
        match trouble {
            Trouble::Error(why) => Trouble::Error(format!("tunnel {index}: {why}")),
            Trouble::Mismatch(why) => Trouble::Mismatch(format!("tunnel {index}: {why}")),
        }
    }
}

/// Counts what happens, and asks for nothing.
#[derive(Default)]
pub struct Counting(pub usize);

impl Mode for Counting {
    fn opened(&mut self, _: usize) -> Then {
        self.0 += 1;
        Then::Rest
    }

    fn echoed(&mut self, _: usize, _: Instant, _: Instant) -> Then {
        self.0 += 1;
        Then::Rest
    }

    fn closed(&mut self, _: usize) {
        self.0 += 1;
    }
}
