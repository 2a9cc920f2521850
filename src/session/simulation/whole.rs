//! Whole sessions, from accept to close: clients with all kinds of requests, servers with all kinds of answers, and
//! either of them with all kinds of bad luck.

use std::collections::VecDeque;
use std::ops::Range;

use fastrand::Rng;

use super::super::Session;
use super::super::script::{CLIENT, Dial, PLENTY, Peer, Play, Rest};
use super::{adapt_soon, budget, for_seeds, may_be_spliced, noise};
use crate::error::Side;
use crate::plan::{BackendId, PoolId};

const SERVERS: usize = 3;

const CONFIG: &str = "
    [timeouts]
    half_closed = \"off\"
    stalled = \"off\"
    [limits]
    max_connections_per_ip = 1
    max_header_bytes = 1024
    [[listener]]
    listen = \"127.0.0.1:8020\"
    upstream = \"u\"
    [upstream.u]
    servers = [\"127.0.0.1:8010\", \"127.0.0.1:8011\", \"127.0.0.1:8012\"]";

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

// What servers say is written as we rewrite it, so that it is the same on both legs.
const AGREEMENT: &str = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                         Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// Nothing: it came to a tcp listener.
    Tcp,
    Upgrade,
    Get,
    Post,
    PostChunked,
    /// Nothing that could be granted.
    Nonsense,
}

/// What a server does once it has got a whole request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Agrees to a tunnel.
    Agreement,
    /// A response with a length, in chunks, until it ends, or without a body.
    Length,
    Chunked,
    UntilClose,
    Empty,
    /// A response that ends too early, in its head or its body.
    CutShort,
    /// Something that is no response.
    Nonsense,
    /// It ends, or resets, without a word.
    Ends,
    Resets,
    /// Nothing, for ever.
    Silence,
}

/// What becomes of a session whose client does nothing wrong.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// All passes both ways.
    Tunnel,
    /// This server's response is passed on.
    Response(usize),
    /// This server's response is passed on as far as it goes, or an answer of ours says that it was none.
    CutShort(usize),
    /// An answer of ours with this status (none on a tcp listener).
    Refused(u16),
}

/// A server, as the model knows it.
struct Server {
    dial: Dial,
    answer: Answer,
    /// What it says, in all, once it has the request.
    says: Vec<u8>,
    /// Which part of that it has not said yet.
    unsaid: Range<usize>,
    ended: bool,
}

struct World {
    play: Play,
    request: Request,
    /// What the client sends, in all, and what it has not sent yet.
    unsent: VecDeque<u8>,
    client_ended: bool,
    client_failed: bool,
    /// What a server gets before it answers: the rebuilt request and its body.
    letter: Vec<u8>,
    /// What the client sends through its tunnel.
    up: Vec<u8>,
    servers: Vec<Server>,
    fate: Fate,
}

fn chunks(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in bytes.chunks(7) {
        out.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
    out
}

fn pick<T: Copy>(dice: &mut Rng, among: &[T]) -> T {
    among[dice.usize(..among.len())]
}

/// What a server says, from the first byte to the last.
fn speech(answer: Answer, request: Request, dice: &mut Rng) -> Vec<u8> {
    let body = noise(dice, 60);
    let close = "Connection: close\r\n\r\n";
    let interims = if request == Request::Tcp { 0 } else { dice.usize(..3).saturating_sub(1) };
    let mut says = INTERIM.repeat(interims).into_bytes();
    match answer {
        Answer::Agreement if request == Request::Tcp => {}
        Answer::Agreement => says.extend(AGREEMENT.bytes()),
        Answer::Length | Answer::CutShort => {
            says.extend(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{close}", body.len()).bytes());
        }
        Answer::Chunked => {
            says.extend(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{close}").bytes());
        }
        Answer::UntilClose => says.extend(format!("HTTP/1.1 200 OK\r\n{close}").bytes()),
        Answer::Empty => says.extend(format!("HTTP/1.1 204 No Content\r\n{close}").bytes()),
        Answer::Nonsense => says.extend(b"SSH-2.0-OpenSSH\r\n\r\n"),
        Answer::Ends | Answer::Resets | Answer::Silence => return Vec::new(),
    }
    match answer {
        Answer::Chunked => says.extend(chunks(&body)),
        Answer::Empty => {}
        _ => says.extend(body), // whatever it is: behind nonsense it does no harm
    }
    if answer == Answer::CutShort {
        says.truncate(dice.usize(1..says.len().max(2)));
    }
    says
}

impl World {
    fn new(dice: &mut Rng) -> World {
        let request = pick(
            dice,
            &[
                Request::Tcp,
                Request::Upgrade,
                Request::Upgrade,
                Request::Get,
                Request::Post,
                Request::PostChunked,
                Request::Nonsense,
            ],
        );
        let config = match request {
            Request::Tcp => CONFIG.replace("upstream = \"u\"", "protocol = \"tcp\"\n    upstream = \"u\""),
            _ => CONFIG.to_owned(),
        };
        let body = noise(dice, 60);
        let behind = if dice.u8(..8) == 0 { noise(dice, 3000) } else { noise(dice, 60) };
        let post = |framing: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").into_bytes();
        let sent = match request {
            Request::Tcp => Vec::new(),
            Request::Upgrade => UPGRADE.into(),
            Request::Get => "GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
            Request::Post => [post(&format!("Content-Length: {}", body.len())), body].concat(),
            Request::PostChunked => [post("Transfer-Encoding: chunked"), chunks(&body)].concat(),
            Request::Nonsense => "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(),
        };
        let letter = undisturbed(&config, &sent);
        let answers = match request {
            Request::Tcp => &[Answer::Agreement][..],
            Request::Upgrade => &[
                Answer::Agreement,
                Answer::Agreement,
                Answer::Agreement,
                Answer::Length,
                Answer::Chunked,
                Answer::UntilClose,
                Answer::Empty,
                Answer::CutShort,
                Answer::Nonsense,
                Answer::Ends,
                Answer::Resets,
                Answer::Silence,
            ],
            Request::Get | Request::Post | Request::PostChunked | Request::Nonsense => &[
                Answer::Length,
                Answer::Chunked,
                Answer::UntilClose,
                Answer::Empty,
                Answer::CutShort,
                Answer::Nonsense,
                Answer::Ends,
                Answer::Resets,
                Answer::Silence,
            ],
        };
        let dials = [Dial::Connects, Dial::Connects, Dial::Connects, Dial::Hangs, Dial::Refuses, Dial::Fails];
        let servers = Vec::from_iter((0..SERVERS).map(|_| {
            let (dial, answer) = (pick(dice, &dials), pick(dice, answers));
            let says = speech(answer, request, dice);
            Server { dial, answer, unsaid: 0..says.len(), says, ended: false }
        }));
        let mut play = Play::accepted(&config);
        play.dials.extend(servers.iter().map(|server| server.dial));
        play.dials_at_once = dice.bool();
        if dice.bool() {
            play.dialed_room = dice.usize(..100);
        }
        play.tools.flow_budget = budget(dice);
        play.tools.scratch.truncate(budget(dice));
        adapt_soon(&mut play, dice);
        play.client.wire().room = dice.usize(..20);
        may_be_spliced(&mut play.client.wire(), dice);
        let fate = fate(request, &servers);
        World {
            play,
            request,
            unsent: [sent, behind.clone()].concat().into(),
            client_ended: false,
            client_failed: false,
            letter,
            up: behind,
            servers,
            fate,
        }
    }

    /// The server that is dialed at present, and its place among the servers.
    fn server(&self) -> Option<(usize, &Peer)> {
        let place = self.play.dialed.last()?;
        let at_once = self.servers[usize::from(*place)].dial == Dial::Fails;
        if at_once { None } else { Some((usize::from(*place), self.play.server())) }
    }

    fn client_sends(&mut self, bytes: usize) {
        let bytes = bytes.min(self.unsent.len());
        if bytes > 0 {
            self.play.client.sends(self.unsent.drain(..bytes).collect::<Vec<_>>());
        }
    }

    fn client_ends(&mut self) {
        if self.unsent.is_empty() && !std::mem::replace(&mut self.client_ended, true) {
            self.play.client.ends();
        }
    }

    /// The server says some of what it has to say.
    fn server_says(&mut self, bytes: usize) {
        let Some((place, peer)) = self.server() else { return };
        let (peer, tcp) = (peer.clone(), self.request == Request::Tcp);
        let server = &mut self.servers[place];
        let asked = peer.wire().got.windows(4).any(|four| four == b"\r\n\r\n");
        if server.dial != Dial::Connects || (!asked && !tcp) || server.ended {
            return;
        }
        let part = server.unsaid.start..server.unsaid.end.min(server.unsaid.start + bytes);
        server.unsaid.start = part.end;
        if !part.is_empty() {
            peer.sends(&server.says[part]);
        }
        if !server.unsaid.is_empty() || server.answer == Answer::Silence {
            return;
        }
        server.ended = true;
        match server.answer {
            Answer::Resets => peer.resets(),
            _ => peer.ends(),
        }
    }

    fn step(&mut self, dice: &mut Rng, may_fail: bool) {
        match dice.u8(..100) {
            0..15 => self.client_sends(dice.usize(1..40)),
            15..18 => self.client_ends(),
            18..30 => self.play.client.takes(dice.usize(..60)),
            30..42 => self.server_says(dice.usize(1..60)),
            42..50 => {
                if let Some((_, peer)) = self.server() {
                    peer.takes(dice.usize(..60));
                }
            }
            50..53 => self.play.client.nudges(),
            53 => self.play.client.wire().interrupts += 1,
            54 if may_fail => {
                self.client_failed = true;
                self.play.client.resets();
            }
            54..66 => drop(self.play.tell(Side::Client)),
            66..78 => drop(self.play.tell(Side::Server)),
            _ => self.turn(dice),
        }
        self.check();
    }

    fn turn(&mut self, dice: &mut Rng) {
        if self.play.rest == Rest::Over {
            return;
        }
        let dialed = self.play.servers.len();
        self.play.turn();
        if self.play.servers.len() > dialed {
            may_be_spliced(&mut self.play.server().wire(), dice);
        }
    }

    /// What must be true at any time.
    fn check(&self) {
        for (peer, server) in self.play.servers.iter().zip(self.sockets()) {
            let got = &peer.wire().got;
            let agreed = server.answer == Answer::Agreement && server.unsaid.start >= AGREEMENT.len();
            if self.letter.len() <= got.len() && (agreed || self.request == Request::Tcp) {
                assert!(got.starts_with(&self.letter));
                assert!(self.up.starts_with(&got[self.letter.len()..]), "bytes go up once and in order");
            } else {
                assert!(self.letter.starts_with(got), "nothing but the request before there is a tunnel");
            }
        }
        if let Session::Closing(_) = self.play.session {
            assert!(self.play.holds.backend.is_none(), "a session that says goodbye takes up no server");
        }
        self.check_client();
    }

    /// The servers that have sockets, in the order in which they were dialed.
    fn sockets(&self) -> impl Iterator<Item = &Server> {
        let dialed = self.play.dialed.iter().map(|place| &self.servers[usize::from(*place)]);
        dialed.filter(|server| server.dial != Dial::Fails)
    }

    /// The client gets what one server says, or as much of its interim responses as there is and an answer of ours.
    fn check_client(&self) {
        let got = &self.play.client.wire().got;
        let from_server = self.sockets().any(|server| server.says.starts_with(got));
        if from_server {
            return;
        }
        let mut rest = got.as_slice();
        while let Some(behind) = rest.strip_prefix(INTERIM.as_bytes()) {
            rest = behind;
        }
        let text = String::from_utf8_lossy(rest);
        let begun = "HTTP/1.1 ".starts_with(&text[..text.len().min(9)]);
        assert!(begun && !text.starts_with("HTTP/1.1 2"), "neither theirs nor ours: {text}");
    }

    /// Whether the session may stand still until a deadline.
    fn may_wait(&self) -> bool {
        self.server().is_some_and(|(place, _)| {
            let server = &self.servers[place];
            server.dial == Dial::Hangs || (server.dial == Dial::Connects && server.answer == Answer::Silence)
        })
    }

    /// Nothing more is in the way: everybody says what there is to say, takes everything, and ends.
    fn calm_down(&mut self, dice: &mut Rng) {
        while self.play.rest != Rest::Over {
            self.client_sends(usize::MAX);
            self.client_ends();
            self.play.client.takes(PLENTY);
            if let Some((_, peer)) = self.server() {
                peer.takes(PLENTY);
                self.server_says(usize::MAX / 2);
            }
            for side in [Side::Client, Side::Server] {
                let _ = dice.bool() && self.play.tell(side);
            }
            if self.play.rest != Rest::Parked {
                self.turn(dice);
                self.check();
            } else if self.play.client.is_quiet() && self.server().is_none_or(|(_, peer)| peer.is_quiet()) {
                assert!(self.may_wait(), "the session stands still");
                let deadline = self.play.deadline.expect("a wait for a peer has a deadline");
                self.play.wait(deadline.since(self.play.now));
                self.check();
            }
        }
    }

    fn check_end(&mut self) {
        for index in 0..SERVERS {
            let id = BackendId { pool: PoolId(0), index: index as u16 };
            assert_eq!(self.play.setup.record(id).active(), 0, "no server has this session any more");
        }
        assert!(self.play.tools.addresses.admit(CLIENT.0.into(), 1), "nor has the client's address");
        assert!(
            self.play.client.wire().closed && self.play.servers.iter().all(|server| server.wire().closed)
        );
        let lines = self.play.lines();
        let opened = lines.iter().filter(|line| line.contains(" event=open ")).count();
        assert_eq!(lines.len() - opened, 1, "one last line: {lines:?}");
        if !self.client_failed {
            assert!(opened <= 1 && (opened == 1) == (self.fate == Fate::Tunnel));
            self.check_fate();
        }
    }

    fn check_fate(&self) {
        let got = self.play.client.got_bytes();
        let text = String::from_utf8_lossy(&got);
        let ours = |status: u16| text.replace(INTERIM, "").starts_with(&format!("HTTP/1.1 {status} "));
        match self.fate {
            Fate::Tunnel => {
                let (place, peer) = self.server().expect("a server");
                assert_eq!(got, self.servers[place].says);
                assert_eq!(peer.wire().got, [&self.letter[..], &self.up[..]].concat());
                assert_eq!((peer.wire().finished, self.play.client.wire().finished), (1, 1));
                assert!(!peer.wire().was_reset && !self.play.client.wire().was_reset);
            }
            Fate::Response(place) => {
                assert_eq!(got, self.servers[place].says);
                assert_eq!(self.play.client.wire().finished, 1);
                assert_eq!(self.play.outcome(), "server finished");
            }
            Fate::CutShort(place) => {
                let whole = self.servers[place].says.starts_with(&got);
                assert!(whole || ours(502), "{text}");
            }
            Fate::Refused(_) if self.request == Request::Tcp => assert_eq!(got, b""),
            Fate::Refused(status) => {
                assert!(ours(status), "{status}: {text}");
                assert_eq!(self.play.client.wire().finished, 1);
            }
        }
    }
}

/// What a server gets where nothing goes wrong and nobody answers.
fn undisturbed(config: &str, sent: &[u8]) -> Vec<u8> {
    let mut play = Play::accepted(config);
    play.client.sends(sent);
    play.run();
    play.servers.first().map(|server| server.wire().got.clone()).unwrap_or_default()
}

/// What a client that does nothing wrong is to expect, by what its servers do.
fn fate(request: Request, servers: &[Server]) -> Fate {
    if request == Request::Nonsense {
        return Fate::Refused(400);
    }
    let repeatable = matches!(request, Request::Get | Request::Upgrade);
    let mut status = 503;
    for (place, server) in servers.iter().enumerate() {
        match (server.dial, server.answer) {
            (Dial::Fails | Dial::LacksPort | Dial::Refuses | Dial::Exhausts, _) => status = 502,
            (Dial::Hangs, _) => status = 504,
            (Dial::Connects, Answer::Agreement) => return Fate::Tunnel,
            (Dial::Connects, Answer::Length | Answer::Chunked | Answer::UntilClose | Answer::Empty) => {
                return Fate::Response(place);
            }
            (Dial::Connects, Answer::CutShort) => return Fate::CutShort(place),
            (Dial::Connects, Answer::Ends | Answer::Resets) if repeatable => status = 502,
            (Dial::Connects, Answer::Ends | Answer::Resets | Answer::Nonsense) => return Fate::Refused(502),
            (Dial::Connects, Answer::Silence) => return Fate::Refused(504),
        }
    }
    Fate::Refused(status)
}

#[test]
fn a_session_keeps_its_promises_whatever_its_peers_do() {
    for_seeds(|dice| {
        let may_fail = dice.u8(..6) == 0;
        let mut world = World::new(dice);
        for _ in 0..dice.usize(..400) {
            if world.play.rest == Rest::Over {
                break;
            }
            world.step(dice, may_fail);
        }
        world.calm_down(dice);
        world.check();
        world.check_end();
    });
}
