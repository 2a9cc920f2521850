//! From accept until bytes may flow: the PROXY header, the request, the server, its answer.
//!
//! The deciding is done in `proto`, `route` and `balance`; this drives them over two transports. Two rules shape it.
//! The request is kept until a response head is there, so that another server can be asked in a failed one's place.
//! And what a client sends behind a request for a tunnel is held back until a server has agreed to the tunnel: before
//! that it would be read as another request (RFC 9931). What came along with the head is held here, the rest is left
//! in the kernel, unread.

mod asking;
mod calling;

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::closing::Closing;
use super::exchange::{Exchange, Upload};
use super::relay::Relay;
use super::story::{Id, Story};
use super::transport::{Edges, Received, Socket, Transport};
use super::{Next, Session, Turn};
use crate::balance;
use crate::error::{Outcome, Refusal, Side};
use crate::moment::Moment;
use crate::plan::{Balance, HashKey, Listener, Mode, Pool, PoolId, Route};
use crate::proto::body::{Body, Coding};
use crate::proto::head::{self, Framing, Scanner};
use crate::proto::proxy_header::{self, Endpoints};
use crate::proto::request::{self, Introduction, Request, Wanted};
use crate::proto::response::Asked;
use crate::route;

use asking::Begun;
use calling::{Call, Called, Errand};

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

impl<S: Socket> Opening<S> {
    /// A session that has just been accepted.
    pub fn new(client: Transport<S>, story: Box<Story>) -> Opening<S> {
        Opening { client, inbox: Vec::new(), stage: Stage::Accepted, destination: None, story }
    }

    /// Takes note of an event.
    pub fn mark(&mut self, side: Side, edges: Edges) {
        match (side, &mut self.stage) {
            (Side::Client, _) => self.client.mark(edges),
            (Side::Server, Stage::Calling(call)) => call.mark(edges),
            (Side::Server, Stage::Accepted | Stage::ReadingProxyHeader | Stage::ReadingRequest(_)) => {}
        }
    }

    /// The client's socket, and that of a server where one is being called.
    pub fn ends(&mut self) -> [Option<&mut Transport<S>>; 2] {
        let server = match &mut self.stage {
            Stage::Calling(call) => call.server(),
            Stage::Accepted | Stage::ReadingProxyHeader | Stage::ReadingRequest(_) => None,
        };
        [Some(&mut self.client), server]
    }

    /// The loop has dialed, or could not.
    pub fn dialed(&mut self, socket: io::Result<Transport<S>>) {
        match &mut self.stage {
            Stage::Calling(call) => call.dialed(socket),
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
                Stage::Calling(call) => {
                    match call.advance(&mut self.client, &mut self.inbox, &mut self.story, turn) {
                        Ok(Called::NotYet(next)) => Ok(Some(next)),
                        Ok(Called::Connected { server, up }) => return self.open_unasked(server, up, turn),
                        Ok(Called::Agreed { server, down }) => return self.open_agreed(server, down, turn),
                        Ok(Called::Answered { server, upload, status, down, body }) => {
                            return self.begin_exchange(server, upload, status, down, body, turn);
                        }
                        Err(end) => Err(end),
                    }
                }
            };
            match step {
                Ok(None) => {}
                Ok(Some(next)) => return Opened::NotYet(self, next),
                Err(end) => return self.end(end, turn),
            }
        }
    }

    fn listener<'t>(&self, turn: &Turn<'t>) -> &'t Listener {
        &turn.setup.plan.listeners[usize::from(self.story.listener)]
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
            Mode::Tcp { pool } => Stage::Calling(Box::new(Call::new(self.connection(pool, turn)))),
        };
        Ok(None)
    }

    /// A connection to one of this pool, and nothing else.
    fn connection(&self, pool: PoolId, turn: &Turn<'_>) -> Errand {
        let settings = &turn.setup.plan.pools[usize::from(pool.0)];
        Errand {
            pool,
            key: balance_key(&settings.balance, self.peer_ip(), None),
            letter: self.preface(settings),
            asked: None,
            body: Body::none(),
            repeatable: true,
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
            return Ok(Some(Next::Park { deadline: self.deadline(turn) }));
        }
        let reach = (inbox_bytes_max - self.inbox.len()).min(turn.tools.scratch.len());
        match self.client.read(&mut turn.tools.scratch[..reach]) {
            // Mostly it is all that comes; nothing has to grow for it then.
            Ok(Received::Bytes(count)) if self.inbox.is_empty() => {
                self.inbox = turn.tools.scratch[..count].to_vec();
            }
            Ok(Received::Bytes(count)) => self.inbox.extend_from_slice(&turn.tools.scratch[..count]),
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
                    // As where it is accepted: an IPv4 client is one whoever tells of it.
                    self.story.peer = Some(SocketAddr::new(source.ip().to_canonical(), source.port()));
                    self.destination = Some(destination);
                }
                self.admit(turn)
            }
        }
    }

    fn read_request(&mut self, turn: &mut Turn<'_>) -> Step {
        let Stage::ReadingRequest(scanner) = &mut self.stage else { return Ok(None) };
        let bytes_max = turn.setup.plan.limits.max_header_bytes;
        match scanner.scan(&self.inbox).map_err(Refusal::BadRequest)? {
            Some(end) if end > bytes_max => Err(Refusal::HeadTooLarge.into()),
            Some(end) => {
                let mut inbox = std::mem::take(&mut self.inbox);
                let errand = self.judge(&inbox[..end], turn)?;
                inbox.drain(..end);
                self.inbox = inbox;
                self.stage = Stage::Calling(Box::new(Call::new(errand)));
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
    fn judge(&mut self, head: &[u8], turn: &mut Turn<'_>) -> Result<Errand, Refusal> {
        let listener = self.listener(turn);
        let Mode::Http { routes } = &listener.mode else {
            unreachable!("a request is read on http listeners only")
        };
        let head = head::parse_request(head, turn.setup.plan.limits.max_headers)?;
        // Before it is judged: a refusal is logged with it, and a HEAD gets an answer without a body.
        self.story.asked(&head, head.fields.all("Host").next(), turn.setup.plan.log.query);
        let request = request::read(head)?;
        if request.target.authority.is_some() {
            self.story.asked(&request.head, request.authority, turn.setup.plan.log.query);
        }
        let client = self.learn_client(&request, listener, turn)?;
        let host = request.host.as_ref().map(|host| host.as_str());
        let found = route::find(routes, host, &request.target.normalized);
        let (place, route) = found.ok_or(Refusal::NoRoute)?;
        if !route::network_allowed(route, client) {
            return Err(Refusal::Forbidden("this client network is not let in"));
        }
        let wanted = request::wanted(&request, route)?;
        judge_origin(&request, &wanted, route)?;
        if route.drain {
            return Err(Refusal::RouteDrains);
        }
        self.story.route = place;
        let pool = &turn.setup.plan.pools[usize::from(route.pool.0)];
        let mut id = [0; 32];
        let intro = Introduction {
            peer: self.peer_ip(),
            trusted: route::is_trusted(&listener.trusted_proxies, self.peer_ip()),
            client,
            request_id: self.story.id.bytes(&mut id),
            host_fallback: &pool.name,
        };
        let mut letter = self.preface(pool);
        request::rebuild(&request, &wanted, &intro, route, &mut letter);
        let body = match (&wanted, request.framing) {
            (Wanted::Upgrade { .. }, _) | (_, Framing::Unsaid) => Body::none(),
            (Wanted::Plain, Framing::Length(length)) => Body::length(length),
            (Wanted::Plain, Framing::Chunked) => Body::chunked(Coding::Pass, trailer_bytes_max(turn)),
        };
        Ok(Errand {
            pool: route.pool,
            key: balance_key(&pool.balance, client, Some(&request)),
            letter,
            asked: Some(Asked::new(&request, wanted)),
            repeatable: request.is_idempotent() && body.is_complete(),
            body,
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
        let said = request.head.fields.all("X-Forwarded-For");
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

    /// When the present wait is over, if it has an end.
    fn deadline(&self, turn: &Turn<'_>) -> Option<Moment> {
        match &self.stage {
            Stage::Calling(call) => call.deadline(turn),
            Stage::Accepted | Stage::ReadingProxyHeader | Stage::ReadingRequest(_) => {
                Some(self.story.accepted + turn.timeouts.handshake)
            }
        }
    }

    /// A tunnel that needed no request.
    fn open_unasked(self, server: Transport<S>, mut up: Vec<u8>, turn: &mut Turn<'_>) -> Opened<S> {
        let Opening { client, inbox, mut story, .. } = self;
        story.overhead[0] = up.len() as u32;
        up.extend_from_slice(&inbox);
        open(client, server, up, Vec::new(), story, turn)
    }

    /// A tunnel that the server has agreed to.
    fn open_agreed(self, server: Transport<S>, down: Begun, turn: &mut Turn<'_>) -> Opened<S> {
        let Opening { client, inbox, mut story, .. } = self;
        story.overhead[1] = down.head_bytes as u32;
        story.status = Some(101);
        open(client, server, inbox, down.bytes, story, turn)
    }

    /// A response that is to be passed on.
    fn begin_exchange(
        self,
        server: Transport<S>,
        upload: Upload,
        status: u16,
        down: Begun,
        body: Body,
        turn: &mut Turn<'_>,
    ) -> Opened<S> {
        // What is left in the inbox is held back for ever: it was meant for a tunnel, or for nobody.
        let Opening { client, mut story, .. } = self;
        turn.praise();
        story.overhead[1] = down.head_bytes as u32;
        story.status = Some(status);
        let exchange = Exchange::new(client, server, upload, down.bytes, body, story, turn.now);
        Opened::Into(Session::Exchanging(Box::new(exchange)))
    }

    /// A deadline has come, or an earlier one that no longer holds.
    pub fn expire(mut self: Box<Self>, turn: &mut Turn<'_>) -> Opened<S> {
        let deadline = self.deadline(turn);
        if deadline.is_none_or(|deadline| turn.now < deadline) {
            return Opened::NotYet(self, Next::Park { deadline });
        }
        let end = match &mut self.stage {
            Stage::ReadingRequest(_) if !self.inbox.is_empty() => End::Refuse(Refusal::RequestTimeout),
            Stage::Accepted | Stage::ReadingProxyHeader | Stage::ReadingRequest(_) => {
                End::Close(Outcome::Refused(Refusal::RequestTimeout))
            }
            Stage::Calling(call) => match call.expire(turn) {
                Ok(()) => return self.advance(turn),
                Err(end) => end,
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
                let begun = match stage {
                    Stage::Calling(call) => call.hang_up(),
                    Stage::Accepted | Stage::ReadingProxyHeader | Stage::ReadingRequest(_) => Vec::new(),
                };
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

/// What the trailer fields of a chunked body may take: as much as a head, of which they are the other end.
fn trailer_bytes_max(turn: &Turn<'_>) -> u32 {
    turn.setup.plan.limits.max_header_bytes.try_into().unwrap_or(u32::MAX)
}

/// A tunnel, with the bytes that are already on their way: `up` to the server, `down` to the client.
fn open<S: Socket>(
    client: Transport<S>,
    server: Transport<S>,
    up: Vec<u8>,
    down: Vec<u8>,
    mut story: Box<Story>,
    turn: &mut Turn<'_>,
) -> Opened<S> {
    turn.praise();
    story.handshake = Some(turn.now.since(story.accepted));
    turn.opened(&story);
    let haste = turn.tools.dice.u16(..);
    Opened::Into(Session::Relaying(Relay::new([client, server], up, down, *story, turn.now, haste)))
}

/// A browser says which page a request comes from; a route may let in only some. Where a tunnel is asked for the field
/// must be there, as it is what keeps other sites' pages out (RFC 6455, 10.2); a plain request often has none.
fn judge_origin(request: &Request<'_>, wanted: &Wanted, route: &Route) -> Result<(), Refusal> {
    let refused = Refusal::Forbidden("this Origin is not allowed");
    let origin = request.head.fields.once("Origin");
    match (origin, wanted) {
        (Ok(None), Wanted::Plain) => Ok(()),
        (Ok(origin), _) if route::origin_allowed(route, origin) => Ok(()),
        (Err(_), _) if route.origins.is_empty() => Ok(()),
        (Ok(_) | Err(_), _) => Err(refused),
    }
}

/// What a pool's choice is made by, where it is made by the client or the request. Where nothing is asked there is no
/// request to take a value from.
fn balance_key(balance: &Balance, client: Option<IpAddr>, request: Option<&Request<'_>>) -> Option<u64> {
    let value = match balance {
        Balance::RoundRobin | Balance::LeastConn | Balance::RandomTwo => None,
        Balance::IpHash => return client.map(balance::key_of_network),
        Balance::Hash(HashKey::ClientIp) => return balance::key_of_value(client?.to_string().as_bytes()),
        Balance::Hash(HashKey::Path) => Some(request?.target.normalized.as_bytes()),
        Balance::Hash(HashKey::Header(name)) => request?.head.fields.all(name).next(),
        Balance::Hash(HashKey::Query(name)) => request?.query_value(name),
        Balance::Hash(HashKey::Cookie(name)) => request?.cookie(name),
    };
    value.and_then(balance::key_of_value)
}

#[cfg(test)]
mod tests;
