//! From accept until bytes may flow: the PROXY header, the request, the server, its answer.
//!
//! The deciding is done in `proto`, `route` and `balance`; this drives them over two transports. Two rules shape it.
//! The request is kept until a response head is there, so that another server can be asked in a failed one's place.
//! And what a client sends behind a request for a tunnel is held back until a server has agreed to the tunnel: before
//! that it would be read as another request (RFC 9931). What came along with the head is held here, the rest is left
//! in the kernel, unread.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::closing::Closing;
use super::exchange::{Exchange, Upload};
use super::flow::{Flow, Standing};
use super::relay::Relay;
use super::story::{Id, Story};
use super::transport::{Edges, Received, Socket, Transport};
use super::{Next, Session, Turn};
use crate::balance::{self, NoChoice, Tried};
use crate::error::{Outcome, Refusal, Side};
use crate::plan::{Balance, HashKey, Listener, Mode, Pool, PoolId, Route};
use crate::proto::body::{Body, Coding};
use crate::proto::head::{self, Framing, Scanner};
use crate::proto::proxy_header::{self, Endpoints};
use crate::proto::request::{self, Introduction, Request, Wanted};
use crate::proto::response::{self, Answer, Asked};
use crate::{route, sys};

/// Interim responses that one request may cause: more than any server has use for.
const INTERIM_RESPONSES_MAX: u8 = 32;

/// A session whose bytes do not flow yet.
#[derive(Debug)]
pub struct Opening<S> {
    client: Transport<S>,
    /// What the client has sent and nobody has taken: at most `max_header_bytes`, as for a head.
    inbox: Vec<u8>,
    stage: Stage<S>,
    /// The address that the client dialed, where a PROXY header told it.
    destination: Option<SocketAddr>,
    story: Box<Story>,
}

#[derive(Debug)]
enum Stage<S> {
    /// Nothing has been looked at yet.
    Accepted,
    /// A PROXY header comes first.
    ReadingProxyHeader,
    /// The request head is arriving.
    ReadingRequest(Scanner),
    /// A server is looked for, and asked.
    Calling(Box<Call<S>>),
}

/// What is to be carried to a server, and how far that has come.
#[derive(Debug)]
struct Call<S> {
    pool: PoolId,
    key: Option<u64>,
    tried: Tried,
    /// What the client is told if no further server can be tried.
    refusal: Refusal,
    /// What is written to the server ahead of everything else: a PROXY header, a request, both, or nothing.
    letter: Vec<u8>,
    /// What was asked for; `None` on a tcp listener, where a connection is all there is to it.
    asked: Option<Asked>,
    /// The request's body, none for a tunnel.
    body: Body,
    /// Whether another server may be asked after one has had the request.
    repeatable: bool,
    line: Line<S>,
}

#[derive(Debug)]
enum Line<S> {
    /// A server has to be chosen.
    Wanted,
    /// The loop has been asked for a socket.
    Dialing,
    /// The loop has answered.
    Dialed(io::Result<Transport<S>>),
    /// The kernel is connecting.
    Connecting { server: Transport<S>, deadline: Instant },
    /// Connected: the letter goes up, an answer comes down.
    Asking(Asking<S>),
}

/// A server that has been connected to and has not answered yet.
#[derive(Debug)]
struct Asking<S> {
    server: Transport<S>,
    /// How much of the letter is written.
    written: usize,
    /// The request's body on its way.
    upload: Upload,
    /// What the server has sent: at most `max_header_bytes`.
    reply: Vec<u8>,
    scanner: Scanner,
    /// Interim responses on their way to the client. While there are any the server is not read.
    outbox: Vec<u8>,
    interim_responses: u8,
    /// When something of the request was last written.
    moved_at: Instant,
}

/// What became of an opening.
pub enum Opened<S> {
    /// It goes on.
    NotYet(Box<Opening<S>>, Next),
    /// It is another kind of session now.
    Into(Session<S>),
}

/// Why an opening ends without opening.
enum End {
    Refuse(Refusal),
    Close(Outcome),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        End::Refuse(refusal)
    }
}

/// `None`: go on with the next stage.
type Step = Result<Option<Next>, End>;

/// What asking a server has come to.
enum Heard {
    /// Nothing yet.
    Waiting,
    /// Nothing yet, and there is more to do.
    Spent,
    /// The server is gone before it sent a byte.
    Unheard(&'static str),
    /// It agreed: the head for the client, and what came behind.
    Tunnel { down: Vec<u8>, head_bytes: usize },
    /// It answered otherwise.
    Plain { status: u16, down: Vec<u8>, head_bytes: usize, body: Body },
}

impl<S: Socket> Opening<S> {
    /// A session that has just been accepted.
    pub fn new(client: Transport<S>, story: Box<Story>) -> Opening<S> {
        Opening { client, inbox: Vec::new(), stage: Stage::Accepted, destination: None, story }
    }

    /// Takes note of an event.
    pub fn mark(&mut self, side: Side, edges: Edges) {
        match (side, &mut self.stage) {
            (Side::Client, _) => self.client.mark(edges),
            (Side::Server, Stage::Calling(call)) => match &mut call.line {
                Line::Connecting { server, .. } | Line::Dialed(Ok(server)) => server.mark(edges),
                Line::Asking(asking) => asking.server.mark(edges),
                Line::Wanted | Line::Dialing | Line::Dialed(Err(_)) => {}
            },
            (Side::Server, Stage::Accepted | Stage::ReadingProxyHeader | Stage::ReadingRequest(_)) => {}
        }
    }

    /// The loop has dialed, or could not.
    pub fn dialed(&mut self, socket: io::Result<Transport<S>>) {
        match &mut self.stage {
            Stage::Calling(call) => call.line = Line::Dialed(socket),
            Stage::Accepted | Stage::ReadingProxyHeader | Stage::ReadingRequest(_) => {
                debug_assert!(false, "only a call asks for a socket");
            }
        }
    }

    /// Does what can be done now.
    pub fn advance(mut self: Box<Self>, turn: &mut Turn<'_>) -> Opened<S> {
        loop {
            let step = match &mut self.stage {
                Stage::Accepted => self.enter(turn),
                Stage::ReadingProxyHeader => self.read_proxy_header(turn),
                Stage::ReadingRequest(_) => self.read_request(turn),
                Stage::Calling(_) => return self.call(turn),
            };
            match step {
                Ok(None) => {}
                Ok(Some(next)) => return Opened::NotYet(self, next),
                Err(end) => return self.end(end, turn),
            }
        }
    }

    fn listener<'t>(&self, turn: &Turn<'t>) -> &'t Listener {
        &turn.plan.listeners[usize::from(self.story.listener)]
    }

    fn peer_ip(&self) -> Option<IpAddr> {
        self.story.peer.map(|peer| peer.ip())
    }

    /// First of all.
    fn enter(&mut self, turn: &mut Turn<'_>) -> Step {
        if self.listener(turn).proxy_header.is_some() {
            self.stage = Stage::ReadingProxyHeader;
            Ok(None)
        } else {
            self.admit(turn)
        }
    }

    /// The client's address is known. One that a trusted proxy speaks for is counted when the proxy has told it.
    fn admit(&mut self, turn: &mut Turn<'_>) -> Step {
        let listener = self.listener(turn);
        let trusted = route::is_trusted(&listener.trusted_proxies, self.peer_ip());
        if let Some(address) = self.peer_ip().filter(|_| !trusted) {
            turn.admit(address)?;
        }
        self.stage = match listener.mode {
            Mode::Http { .. } => Stage::ReadingRequest(Scanner::default()),
            Mode::Tcp { pool } => Stage::Calling(Box::new(self.call_for_tunnel(pool, turn))),
        };
        Ok(None)
    }

    fn call_for_tunnel(&self, pool: PoolId, turn: &Turn<'_>) -> Call<S> {
        let settings = &turn.plan.pools[usize::from(pool.0)];
        let key = match &settings.balance {
            Balance::IpHash => self.peer_ip().map(balance::key_of_network),
            Balance::Hash(HashKey::ClientIp) => {
                self.peer_ip().and_then(|ip| balance::key_of_value(ip.to_string().as_bytes()))
            }
            // There is no request to take another value from.
            Balance::Hash(_) | Balance::RoundRobin | Balance::LeastConn | Balance::RandomTwo => None,
        };
        Call {
            pool,
            key,
            tried: Tried::default(),
            refusal: Refusal::NoBackend,
            letter: self.preface(settings),
            asked: None,
            body: Body::none(),
            repeatable: true,
            line: Line::Wanted,
        }
    }

    /// The PROXY header for a server of this pool, where it wants one.
    fn preface(&self, pool: &Pool) -> Vec<u8> {
        let Some(version) = pool.proxy_header else { return Vec::new() };
        let destination = self.destination.or_else(|| self.client.local_address());
        let endpoints = self.story.peer.zip(destination);
        let endpoints = endpoints.map(|(source, destination)| Endpoints { source, destination });
        proxy_header::write(version, endpoints)
    }

    /// Reads what the client has sent, up to `inbox_bytes_max` in all. `None`: there was something.
    fn receive(&mut self, inbox_bytes_max: usize, turn: &mut Turn<'_>) -> Step {
        if !self.client.is_readable() {
            let deadline = Some(self.story.accepted + turn.timeouts.handshake);
            return Ok(Some(Next::Park { deadline }));
        }
        let reach = (inbox_bytes_max - self.inbox.len()).min(turn.scratch.len());
        match self.client.read(&mut turn.scratch[..reach]) {
            Ok(Received::Bytes(count)) => self.inbox.extend_from_slice(&turn.scratch[..count]),
            Ok(Received::Blocked) => {}
            Ok(Received::End) => return Err(End::Close(Outcome::Gone)),
            Err(error) => {
                return Err(End::Close(Outcome::Failed { side: Side::Client, error: error.kind() }));
            }
        }
        Ok(None)
    }

    fn read_proxy_header(&mut self, turn: &mut Turn<'_>) -> Step {
        let Some(accepted) = self.listener(turn).proxy_header else { return self.admit(turn) };
        match proxy_header::parse(&self.inbox, accepted).map_err(Refusal::ProxyHeader)? {
            proxy_header::Parsed::Incomplete => self.receive(proxy_header::V2_BYTES_MAX, turn),
            proxy_header::Parsed::Complete { header_bytes, endpoints } => {
                self.inbox.drain(..header_bytes);
                if let Some(Endpoints { source, destination }) = endpoints {
                    self.story.peer = Some(source);
                    self.destination = Some(destination);
                }
                self.admit(turn)
            }
        }
    }

    fn read_request(&mut self, turn: &mut Turn<'_>) -> Step {
        let Stage::ReadingRequest(scanner) = &mut self.stage else { return Ok(None) };
        let bytes_max = turn.plan.limits.max_header_bytes;
        match scanner.scan(&self.inbox).map_err(Refusal::BadRequest)? {
            Some(end) if end > bytes_max => Err(Refusal::HeadTooLarge.into()),
            Some(end) => {
                let inbox = std::mem::take(&mut self.inbox);
                let call = self.ask(&inbox[..end], turn)?;
                self.inbox = inbox[end..].to_vec();
                self.stage = Stage::Calling(Box::new(call));
                Ok(None)
            }
            None if scanner
                .found_first_line()
                .is_some_and(|end| !head::names_version(&self.inbox[..end])) =>
            {
                // A client of HTTP/0.9 sends no more than this.
                Err(Refusal::BadRequest(head::NO_VERSION).into())
            }
            None if self.inbox.len() >= bytes_max => Err(Refusal::HeadTooLarge.into()),
            None => self.receive(bytes_max, turn),
        }
    }

    /// From a request head to what a server will be asked.
    fn ask(&mut self, head: &[u8], turn: &mut Turn<'_>) -> Result<Call<S>, Refusal> {
        let listener = self.listener(turn);
        let Mode::Http { routes } = &listener.mode else {
            unreachable!("a request is read on http listeners only")
        };
        let head = head::parse_request(head, turn.plan.limits.max_headers)?;
        // Before it is judged: a refusal is logged with it, and a HEAD gets an answer without a body.
        self.story.asked(&head, head.fields.all("host").next(), turn.plan.log.query);
        let request = request::read(head)?;
        if request.target.authority.is_some() {
            self.story.asked(&request.head, request.authority, turn.plan.log.query);
        }
        let client = self.learn_client(&request, listener, turn)?;
        let host = request.host.as_ref().map(|host| host.as_str());
        let (_, route) = route::find(routes, host, &request.target.normalized).ok_or(Refusal::NoRoute)?;
        if !route::network_allowed(route, client) {
            return Err(Refusal::Forbidden("this client network is not let in"));
        }
        let wanted = request::wanted(&request, route)?;
        judge_origin(&request, &wanted, route)?;
        let pool = &turn.plan.pools[usize::from(route.pool.0)];
        let intro = Introduction {
            peer: self.peer_ip(),
            trusted: route::is_trusted(&listener.trusted_proxies, self.peer_ip()),
            client,
            request_id: &self.story.id.text(),
            host_fallback: &pool.name,
        };
        let mut letter = self.preface(pool);
        letter.extend(request::rebuild(&request, &wanted, &intro, route));
        let body = match (&wanted, request.framing) {
            (Wanted::Upgrade { .. }, _) | (_, Framing::Unsaid) => Body::none(),
            (Wanted::Plain, Framing::Length(length)) => Body::length(length),
            (Wanted::Plain, Framing::Chunked) => Body::chunked(Coding::Pass, trailer_bytes_max(turn)),
        };
        Ok(Call {
            pool: route.pool,
            key: balance_key(&pool.balance, &request, client),
            tried: Tried::default(),
            refusal: Refusal::NoBackend,
            letter,
            asked: Some(Asked::new(&request, wanted)),
            repeatable: request.is_idempotent() && body.is_complete(),
            body,
            line: Line::Wanted,
        })
    }

    /// Whom the request comes from, as far as that can be believed.
    fn learn_client(
        &mut self,
        request: &Request<'_>,
        listener: &Listener,
        turn: &mut Turn<'_>,
    ) -> Result<Option<IpAddr>, Refusal> {
        let peer = self.peer_ip();
        if !route::is_trusted(&listener.trusted_proxies, peer) {
            return Ok(peer);
        }
        let said = request.head.fields.all("x-forwarded-for");
        let client = route::believed_client(&listener.trusted_proxies, peer, said);
        if let Some(id) = request.request_id() {
            self.story.id = Id::Kept(id.into());
        }
        if client != peer {
            self.story.forwarded = client;
        }
        if let Some(address) = client {
            turn.admit(address)?;
        }
        Ok(client)
    }

    /// Looks for a server, connects to it and asks it, one after the other until one answers.
    fn call(mut self: Box<Self>, turn: &mut Turn<'_>) -> Opened<S> {
        // While a server is asked nobody need be reading the client, who may go away without our noticing.
        if let Some(error) = self.client.take_failure() {
            return self.end(End::Close(Outcome::Failed { side: Side::Client, error: error.kind() }), turn);
        }
        loop {
            let Stage::Calling(call) = &mut self.stage else { unreachable!("this is a call") };
            match std::mem::replace(&mut call.line, Line::Wanted) {
                Line::Wanted => match self.choose(turn) {
                    Ok(next) => return Opened::NotYet(self, next),
                    Err(refusal) => return self.end(refusal.into(), turn),
                },
                Line::Dialing => {
                    call.line = Line::Dialing;
                    return Opened::NotYet(self, Next::Park { deadline: None });
                }
                Line::Dialed(Ok(server)) => {
                    let deadline = turn.now + turn.timeouts.connect;
                    call.line = Line::Connecting { server, deadline };
                }
                Line::Dialed(Err(error)) if sys::is_exhaustion(&error) => {
                    return self.end(Refusal::NoDescriptors.into(), turn);
                }
                Line::Dialed(Err(error)) => {
                    call.failed(Refusal::BackendUnreachable, &error.to_string(), turn);
                }
                Line::Connecting { mut server, deadline } => match server.connected_by_now() {
                    None => {
                        call.line = Line::Connecting { server, deadline };
                        return Opened::NotYet(self, Next::Park { deadline: Some(deadline) });
                    }
                    Some(Err(error)) => {
                        call.failed(Refusal::BackendUnreachable, &error.to_string(), turn);
                    }
                    Some(Ok(())) if call.asked.is_none() => return self.open_tunnel_unasked(server, turn),
                    Some(Ok(())) => {
                        let asking = Asking::new(server, &call.body, &mut self.inbox, turn);
                        match asking {
                            Ok(asking) => call.line = Line::Asking(asking),
                            Err(rule) => return self.end(Refusal::BadRequest(rule).into(), turn),
                        }
                    }
                },
                Line::Asking(asking) => {
                    call.line = Line::Asking(asking);
                    match self.hear(turn) {
                        Ok(Heard::Unheard(why)) => {
                            let Stage::Calling(call) = &mut self.stage else {
                                unreachable!("this is a call")
                            };
                            let repeatable = call.repeatable;
                            call.failed(Refusal::BackendUnreachable, why, turn);
                            if !repeatable {
                                return self.end(Refusal::BackendMalformed(why).into(), turn);
                            }
                        }
                        Ok(Heard::Waiting) => {
                            let next = Next::Park { deadline: self.answer_deadline(turn) };
                            return Opened::NotYet(self, next);
                        }
                        Ok(Heard::Spent) => return Opened::NotYet(self, Next::Yield),
                        Ok(Heard::Tunnel { down, head_bytes }) => {
                            return self.open_tunnel(down, head_bytes, turn);
                        }
                        Ok(Heard::Plain { status, down, head_bytes, body }) => {
                            return self.begin_exchange(status, down, head_bytes, body, turn);
                        }
                        Err(end) => return self.end(end, turn),
                    }
                }
            }
        }
    }

    /// Chooses the next server to try.
    fn choose(&mut self, turn: &mut Turn<'_>) -> Result<Next, Refusal> {
        let Stage::Calling(call) = &mut self.stage else { unreachable!("this is a call") };
        let chosen = turn.balancer.choose(turn.plan, call.pool, call.key, &call.tried, turn.now, turn.dice);
        match chosen {
            Ok(backend) => {
                call.tried.add(backend);
                call.line = Line::Dialing;
                self.story.backend = Some(backend);
                turn.lean_on(backend);
                Ok(Next::Dial(backend))
            }
            Err(NoChoice::AllTried | NoChoice::AllFull) => {
                turn.let_go();
                Err(call.refusal.clone())
            }
        }
    }

    /// Writes the letter and the body, passes interim responses on, reads the answer.
    fn hear(&mut self, turn: &mut Turn<'_>) -> Result<Heard, End> {
        let Stage::Calling(call) = &mut self.stage else { unreachable!("this is a call") };
        let Call { letter, asked: Some(asked), line: Line::Asking(asking), .. } = call.as_mut() else {
            unreachable!("a letter was sent, so something was asked")
        };
        asking.write(letter, turn);
        let mut spent = false;
        if asking.written == letter.len() {
            let standing = asking.upload.advance(&mut self.client, &mut asking.server, turn);
            spent = standing.map_err(end_of_upload)? == Standing::Spent;
        }
        loop {
            asking.tell_client(&mut self.client)?;
            match asking.listen(asked, turn)? {
                // While an interim response waits for the client the server is not read. Where the client takes it
                // right away nobody will tell again of what else the server has sent.
                Heard::Waiting if !asking.outbox.is_empty() && self.client.is_writable() => {}
                Heard::Waiting if spent => return Ok(Heard::Spent),
                heard => return Ok(heard),
            }
        }
    }

    /// How long the server may still think.
    fn answer_deadline(&self, turn: &Turn<'_>) -> Option<Instant> {
        match &self.stage {
            Stage::Calling(call) => match &call.line {
                Line::Asking(asking) => {
                    let since = asking.moved_at.max(asking.upload.flow.moved_at());
                    Some(since + turn.timeouts.response)
                }
                Line::Connecting { deadline, .. } => Some(*deadline),
                Line::Wanted | Line::Dialing | Line::Dialed(_) => None,
            },
            Stage::Accepted | Stage::ReadingProxyHeader | Stage::ReadingRequest(_) => {
                Some(self.story.accepted + turn.timeouts.handshake)
            }
        }
    }

    /// A tunnel that needed no request.
    fn open_tunnel_unasked(self, server: Transport<S>, turn: &mut Turn<'_>) -> Opened<S> {
        let Opening { client, inbox, stage, mut story, .. } = self;
        let Stage::Calling(call) = stage else { unreachable!("this is a call") };
        report_success(&story, turn);
        let mut up = call.letter;
        story.overhead[0] = up.len() as u32;
        up.extend_from_slice(&inbox);
        story.handshake = Some(turn.now.saturating_duration_since(story.accepted));
        turn.opened(&story);
        Opened::Into(Session::Relaying(Relay::new([client, server], up, Vec::new(), story, turn.now)))
    }

    /// A tunnel that the server has agreed to.
    fn open_tunnel(self, down: Vec<u8>, head_bytes: usize, turn: &mut Turn<'_>) -> Opened<S> {
        let Opening { client, inbox, stage, mut story, .. } = self;
        let server = answered(stage).server;
        report_success(&story, turn);
        story.overhead[1] = head_bytes as u32;
        story.status = Some(101);
        story.handshake = Some(turn.now.saturating_duration_since(story.accepted));
        turn.opened(&story);
        Opened::Into(Session::Relaying(Relay::new([client, server], inbox, down, story, turn.now)))
    }

    /// A response that is to be passed on.
    fn begin_exchange(
        self,
        status: u16,
        down: Vec<u8>,
        head_bytes: usize,
        body: Body,
        turn: &mut Turn<'_>,
    ) -> Opened<S> {
        // What is left in the inbox is held back for ever: it was meant for a tunnel, or for nobody.
        let Opening { client, stage, mut story, .. } = self;
        let Asking { server, upload, .. } = answered(stage);
        report_success(&story, turn);
        story.overhead[1] = head_bytes as u32;
        story.status = Some(status);
        let exchange = Exchange::new(client, server, upload, down, body, story, turn.now);
        Opened::Into(Session::Exchanging(Box::new(exchange)))
    }

    /// A deadline has come, or an earlier one that no longer holds.
    pub fn expire(mut self: Box<Self>, turn: &mut Turn<'_>) -> Opened<S> {
        let deadline = self.answer_deadline(turn);
        if deadline.is_none_or(|deadline| turn.now < deadline) {
            return Opened::NotYet(self, Next::Park { deadline });
        }
        let end = match &mut self.stage {
            Stage::ReadingRequest(_) if !self.inbox.is_empty() => End::Refuse(Refusal::RequestTimeout),
            Stage::Accepted | Stage::ReadingProxyHeader | Stage::ReadingRequest(_) => {
                End::Close(Outcome::Refused(Refusal::RequestTimeout))
            }
            Stage::Calling(call) => match &call.line {
                Line::Asking(asking) if asking.waits_for_client(&call.letter) => {
                    End::Refuse(Refusal::RequestTimeout)
                }
                // Its server has said something that it does not take.
                Line::Asking(asking) if !asking.outbox.is_empty() => {
                    End::Close(Outcome::Stalled(Side::Client))
                }
                Line::Asking(_) => {
                    turn.blame("no answer in time");
                    End::Refuse(Refusal::ResponseTimeout)
                }
                Line::Wanted | Line::Dialing | Line::Dialed(_) | Line::Connecting { .. } => {
                    call.failed(Refusal::ConnectTimeout, "not connected in time", turn);
                    return self.call(turn);
                }
            },
        };
        self.end(end, turn)
    }

    /// Ends an opening that does not open: with an answer where there is one to give.
    fn end(self: Box<Self>, end: End, turn: &mut Turn<'_>) -> Opened<S> {
        let answers = matches!(self.listener(turn).mode, Mode::Http { .. });
        match end {
            End::Refuse(refusal) if answers && !matches!(refusal, Refusal::ProxyHeader(_)) => {
                let Opening { client, story, stage, .. } = *self;
                let begun = outbox(stage); // a server that was being asked is left here
                turn.let_go();
                let closing = Closing::refuse(client, story, refusal, begun, turn);
                Opened::Into(Session::Closing(Box::new(closing)))
            }
            End::Refuse(refusal) => Opened::NotYet(self, Next::Close(Outcome::Refused(refusal))),
            End::Close(outcome) => Opened::NotYet(self, Next::Close(outcome)),
        }
    }

    /// Closes its sockets.
    pub fn close(self) -> Box<Story> {
        self.story
    }
}

impl<S: Socket> Call<S> {
    /// The server that was tried has failed: the next one is wanted.
    fn failed(&mut self, refusal: Refusal, reason: &str, turn: &mut Turn<'_>) {
        turn.blame(reason);
        self.refusal = refusal;
        self.line = Line::Wanted;
    }
}

impl<S: Socket> Asking<S> {
    /// A server that has just been connected to. What has arrived of the request's body is taken from the inbox.
    fn new(
        server: Transport<S>,
        body: &Body,
        inbox: &mut Vec<u8>,
        turn: &Turn<'_>,
    ) -> Result<Asking<S>, &'static str> {
        let mut body = body.clone();
        let mut begun = Vec::new();
        if !body.is_complete() {
            begun = std::mem::take(inbox);
            let kept = body.strain(&mut begun).map_err(|error| error.0)?.kept;
            begun.truncate(kept);
        }
        let upload = Upload { flow: Flow::of_body(begun, &body, turn.now), body };
        Ok(Asking {
            server,
            written: 0,
            upload,
            reply: Vec::new(),
            scanner: Scanner::default(),
            outbox: Vec::new(),
            interim_responses: 0,
            moved_at: turn.now,
        })
    }

    /// Writes what is left of the letter. A server that takes no more may have answered already: the reading will tell.
    fn write(&mut self, letter: &[u8], turn: &Turn<'_>) {
        while self.written < letter.len() && self.server.is_writable() {
            match self.server.write(&letter[self.written..]) {
                Ok(0) => {}
                Ok(count) => {
                    self.written += count;
                    self.moved_at = turn.now;
                }
                Err(_) => {
                    self.written = letter.len();
                    self.upload.flow.give_up();
                    self.server.mark(Edges { failed: true, ..Edges::default() });
                }
            }
        }
    }

    /// Whether it is the client that we wait for.
    fn waits_for_client(&self, letter: &[u8]) -> bool {
        let flow = &self.upload.flow;
        self.written == letter.len() && flow.is_open() && flow.stalled_since().is_none()
    }

    /// Passes interim responses on.
    fn tell_client(&mut self, client: &mut Transport<S>) -> Result<(), End> {
        while !self.outbox.is_empty() && client.is_writable() {
            match client.write(&self.outbox) {
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(error) => {
                    return Err(End::Close(Outcome::Failed { side: Side::Client, error: error.kind() }));
                }
            }
        }
        Ok(())
    }

    /// Reads what the server has to say.
    fn listen(&mut self, asked: &Asked, turn: &mut Turn<'_>) -> Result<Heard, End> {
        let bytes_max = turn.plan.limits.max_header_bytes;
        while self.server.is_readable() && self.outbox.is_empty() {
            // Not zero: a full reply without an end is refused below, one with it has been taken out.
            let reach = (bytes_max - self.reply.len()).min(turn.scratch.len());
            let ended = match self.server.read(&mut turn.scratch[..reach]) {
                Ok(Received::Bytes(count)) => {
                    self.reply.extend_from_slice(&turn.scratch[..count]);
                    None
                }
                Ok(Received::Blocked) => None,
                Ok(Received::End) => Some("closed before it answered"),
                Err(_) => Some("reset before it answered"),
            };
            match ended {
                Some(why) if self.reply.is_empty() && self.interim_responses == 0 => {
                    return Ok(Heard::Unheard(why));
                }
                Some(_) => return Err(self.malformed("the response head is not complete", turn)),
                None => {}
            }
            match self.read_heads(asked, turn)? {
                Heard::Waiting if self.reply.len() >= bytes_max => {
                    return Err(self.malformed("the response head is too large", turn));
                }
                Heard::Waiting => {}
                heard => return Ok(heard),
            }
        }
        Ok(Heard::Waiting)
    }

    /// Takes complete heads out of the reply, until one that is final.
    fn read_heads(&mut self, asked: &Asked, turn: &mut Turn<'_>) -> Result<Heard, End> {
        loop {
            let end = match self.scanner.scan(&self.reply) {
                Ok(None) => return Ok(Heard::Waiting),
                Ok(Some(end)) => end,
                Err(rule) => return Err(self.malformed(rule, turn)),
            };
            let judged = head::parse_response(&self.reply[..end], turn.plan.limits.max_headers)
                .and_then(|head| response::judge(&head, asked, trailer_bytes_max(turn)));
            let mut down = std::mem::take(&mut self.outbox);
            match judged {
                Err(rule) => return Err(self.malformed(rule, turn)),
                Ok(Answer::Tunnel(head)) => {
                    down.extend(head);
                    let head_bytes = down.len();
                    down.extend_from_slice(&self.reply[end..]);
                    return Ok(Heard::Tunnel { down, head_bytes });
                }
                Ok(Answer::Plain { status, head, mut body }) => {
                    down.extend(head);
                    let head_bytes = down.len();
                    let kept = match body.strain(&mut self.reply[end..]) {
                        Ok(strained) => strained.kept,
                        Err(error) => return Err(self.malformed(error.0, turn)),
                    };
                    down.extend_from_slice(&self.reply[end..end + kept]);
                    return Ok(Heard::Plain { status, down, head_bytes, body });
                }
                Ok(Answer::Interim(head)) => down.extend(head),
                Ok(Answer::Unasked) => {}
            }
            self.outbox = down;
            self.reply.drain(..end);
            self.scanner = Scanner::default();
            self.interim_responses += 1;
            if self.interim_responses > INTERIM_RESPONSES_MAX {
                return Err(self.malformed("too many interim responses", turn));
            }
        }
    }

    /// The server's answer is none.
    fn malformed(&self, rule: &'static str, turn: &mut Turn<'_>) -> End {
        turn.blame(rule);
        End::Refuse(Refusal::BackendMalformed(rule))
    }
}

/// What the trailer fields of a chunked body may take: as much as a head, of which they are the other end.
fn trailer_bytes_max(turn: &Turn<'_>) -> u32 {
    turn.plan.limits.max_header_bytes.try_into().unwrap_or(u32::MAX)
}

/// The server that has answered.
fn answered<S>(stage: Stage<S>) -> Asking<S> {
    match stage {
        Stage::Calling(call) => match call.line {
            Line::Asking(asking) => asking,
            Line::Wanted | Line::Dialing | Line::Dialed(_) | Line::Connecting { .. } => {
                unreachable!("it has just been heard")
            }
        },
        Stage::Accepted | Stage::ReadingProxyHeader | Stage::ReadingRequest(_) => {
            unreachable!("it has just been heard")
        }
    }
}

/// Interim responses that are still on their way to the client: what follows must not cut one short.
fn outbox<S>(stage: Stage<S>) -> Vec<u8> {
    match stage {
        Stage::Calling(call) => match call.line {
            Line::Asking(asking) => asking.outbox,
            Line::Wanted | Line::Dialing | Line::Dialed(_) | Line::Connecting { .. } => Vec::new(),
        },
        Stage::Accepted | Stage::ReadingProxyHeader | Stage::ReadingRequest(_) => Vec::new(),
    }
}

fn report_success(story: &Story, turn: &mut Turn<'_>) {
    let Some(backend) = story.backend else { return };
    if turn.balancer.succeeded(backend) {
        let pool = &turn.plan.pools[usize::from(backend.pool.0)];
        let server = &pool.backends[usize::from(backend.index)].name;
        log::info!("server {server} of upstream {} is in again", pool.name);
    }
}

/// A request whose body breaks the rules can still be answered.
fn end_of_upload(outcome: Outcome) -> End {
    match outcome {
        Outcome::BodyMalformed(Side::Client, rule) => End::Refuse(Refusal::BadRequest(rule)),
        outcome => End::Close(outcome), // the client is gone: nobody is left to answer
    }
}

/// A browser says which page a request comes from; a route may let in only some. Where a tunnel is asked for the field
/// must be there, as it is what keeps other sites' pages out (RFC 6455, 10.2); a plain request often has none.
fn judge_origin(request: &Request<'_>, wanted: &Wanted, route: &Route) -> Result<(), Refusal> {
    let refused = Refusal::Forbidden("this Origin is not allowed");
    let origin = request.head.fields.once("origin");
    match (origin, wanted) {
        (Ok(None), Wanted::Plain) => Ok(()),
        (Ok(origin), _) if route::origin_allowed(route, origin) => Ok(()),
        (Err(_), _) if route.origins.is_empty() => Ok(()),
        (Ok(_) | Err(_), _) => Err(refused),
    }
}

/// What a pool's choice is made by, where it is made by the request.
fn balance_key(balance: &Balance, request: &Request<'_>, client: Option<IpAddr>) -> Option<u64> {
    let value = |bytes: Option<&[u8]>| bytes.and_then(balance::key_of_value);
    match balance {
        Balance::RoundRobin | Balance::LeastConn | Balance::RandomTwo => None,
        Balance::IpHash => client.map(balance::key_of_network),
        Balance::Hash(HashKey::ClientIp) => {
            value(client.map(|ip| ip.to_string()).as_deref().map(str::as_bytes))
        }
        Balance::Hash(HashKey::Path) => value(Some(request.target.normalized.as_bytes())),
        Balance::Hash(HashKey::Header(name)) => value(request.head.fields.all(name).next()),
        Balance::Hash(HashKey::Query(name)) => value(request.query_value(name)),
        Balance::Hash(HashKey::Cookie(name)) => value(request.cookie(name)),
    }
}

#[cfg(test)]
mod tests;
