//! The search for a server that answers: one after the other is chosen, dialed and asked.
//!
//! What is to be said is kept until a response head is there, so that another server can be asked in a failed one's
//! place.

use std::io;

use super::End;
use super::asking::{Asking, Begun, Heard};
use crate::balance::{NoChoice, Tried};
use crate::error::{Outcome, Refusal, Side};
use crate::moment::Moment;
use crate::plan::PoolId;
use crate::proto::body::Body;
use crate::proto::response::Asked;
use crate::session::exchange::Upload;
use crate::session::story::Story;
use crate::session::transport::{Edges, Socket, Transport};
use crate::session::{Next, Turn};
use crate::sys;

/// What is to be carried to a server.
#[derive(Debug)]
pub struct Errand {
    /// Whose server.
    pub pool: PoolId,
    /// What the choice among them is made by, where it is made by that.
    pub key: Option<u64>,
    /// What is written ahead of everything else: a PROXY header, a request, both, or nothing.
    pub letter: Vec<u8>,
    /// What was asked for; `None` on a tcp listener, where a connection is all there is to it.
    pub asked: Option<Asked>,
    /// The request's body, none for a tunnel.
    pub body: Body,
    /// Whether another server may be asked after one has had the request.
    pub repeatable: bool,
}

/// An errand, and how far it has come.
#[derive(Debug)]
pub struct Call<S> {
    errand: Errand,
    tried: Tried,
    /// What the client is told if no further server can be tried.
    refusal: Refusal,
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
    Connecting { server: Transport<S>, deadline: Moment },
    /// Connected: the letter goes up, an answer comes down.
    Asking(Asking<S>),
}

/// What a call has come to.
pub enum Called<S> {
    /// Nothing yet.
    NotYet(Next),
    /// A server is connected, and that was all; what it is sent first.
    Connected { server: Transport<S>, up: Vec<u8> },
    /// A server has agreed to the tunnel.
    Agreed { server: Transport<S>, down: Begun },
    /// A server has answered otherwise, perhaps before it has had the whole request.
    Answered { server: Transport<S>, upload: Upload, status: u16, down: Begun, body: Body },
}

impl<S: Socket> Call<S> {
    /// A call that nobody has been asked to answer yet.
    pub fn new(errand: Errand) -> Call<S> {
        Call { errand, tried: Tried::default(), refusal: Refusal::NoBackend, line: Line::Wanted }
    }

    /// The server's socket.
    pub fn server(&mut self) -> Option<&mut Transport<S>> {
        match &mut self.line {
            Line::Connecting { server, .. } | Line::Dialed(Ok(server)) => Some(server),
            Line::Asking(asking) => Some(&mut asking.server),
            Line::Wanted | Line::Dialing | Line::Dialed(Err(_)) => None,
        }
    }

    /// Takes note of an event at the server's socket.
    pub fn mark(&mut self, edges: Edges) {
        if let Some(server) = self.server() {
            server.mark(edges);
        }
    }

    /// The loop has dialed, or could not.
    pub fn dialed(&mut self, socket: io::Result<Transport<S>>) {
        self.line = Line::Dialed(socket);
    }

    /// Looks for a server, connects to it and asks it, one after the other until one answers.
    pub fn advance(
        &mut self,
        client: &mut Transport<S>,
        inbox: &mut Vec<u8>,
        story: &mut Story,
        turn: &mut Turn<'_>,
    ) -> Result<Called<S>, End> {
        // While a server is asked nobody need be reading the client, who may go away without our noticing.
        if let Some(error) = client.take_failure() {
            return Err(End::Close(Outcome::Failed { side: Side::Client, error: error.kind() }));
        }
        loop {
            // What goes on where it is stays where it is: a server that is asked is large.
            match &mut self.line {
                Line::Wanted => return Ok(Called::NotYet(self.choose(story, turn)?)),
                Line::Dialing => return Ok(Called::NotYet(Next::Park { deadline: None })),
                Line::Dialed(_) => self.begin_to_connect(turn)?,
                Line::Connecting { server, deadline } => match greet(server, &self.errand.letter) {
                    None => return Ok(Called::NotYet(Next::Park { deadline: Some(*deadline) })),
                    Some(Err(error)) => self.fail(Refusal::BackendUnreachable, &error.to_string(), turn),
                    Some(Ok(written)) => {
                        if let Some(connected) = self.begin_to_ask(written, inbox, turn)? {
                            return Ok(connected);
                        }
                    }
                },
                Line::Asking(_) => {
                    if let Some(called) = self.ask(client, turn)? {
                        return Ok(called);
                    }
                }
            }
        }
    }

    /// The loop has answered: where it has a socket, the kernel is connecting that.
    fn begin_to_connect(&mut self, turn: &mut Turn<'_>) -> Result<(), End> {
        let Line::Dialed(dialed) = std::mem::replace(&mut self.line, Line::Wanted) else { return Ok(()) };
        match dialed {
            Ok(server) => {
                self.line = Line::Connecting { server, deadline: turn.now + turn.timeouts.connect };
            }
            Err(error) if sys::is_exhaustion(&error) => return Err(Refusal::NoDescriptors.into()),
            Err(error) => self.fail(Refusal::BackendUnreachable, &error.to_string(), turn),
        }
        Ok(())
    }

    /// The server is connected, and has so much of the letter. `None`: it is asked now.
    fn begin_to_ask(
        &mut self,
        written: usize,
        inbox: &mut Vec<u8>,
        turn: &Turn<'_>,
    ) -> Result<Option<Called<S>>, End> {
        let Line::Connecting { server, deadline } = std::mem::replace(&mut self.line, Line::Wanted) else {
            return Ok(None);
        };
        let left = deadline.since(turn.now);
        turn.tools.stats.connects.add_wait(turn.timeouts.connect.saturating_sub(left));
        if self.errand.asked.is_none() {
            let up = self.errand.letter.split_off(written);
            return Ok(Some(Called::Connected { server, up }));
        }
        let asking = Asking::new(server, written, &self.errand.body, inbox, turn);
        self.line = Line::Asking(asking.map_err(Refusal::BadRequest)?);
        Ok(None)
    }

    /// Lets a server that is being asked go on with it. `None`: it is gone, and the next one is wanted. Where this is
    /// the end the line is kept: the client may be in the middle of an interim response.
    fn ask(&mut self, client: &mut Transport<S>, turn: &mut Turn<'_>) -> Result<Option<Called<S>>, End> {
        let Errand { letter, asked: Some(asked), repeatable, .. } = &self.errand else {
            unreachable!("without a question there is nothing to wait for behind the connect")
        };
        let Line::Asking(asking) = &mut self.line else { return Ok(None) };
        let heard = asking.advance(client, letter, asked, turn)?;
        let next = match heard {
            Heard::Waiting => Next::Park { deadline: Some(asking.deadline(turn)) },
            Heard::Spent => Next::Yield,
            Heard::Unheard(why) => {
                let repeatable = *repeatable;
                self.fail(Refusal::BackendUnreachable, why, turn);
                return if repeatable { Ok(None) } else { Err(Refusal::BackendMalformed(why).into()) };
            }
            Heard::Tunnel(down) => {
                return Ok(self.asked().map(|Asking { server, .. }| Called::Agreed { server, down }));
            }
            Heard::Plain { status, down, body } => {
                let answered =
                    |Asking { server, upload, .. }| Called::Answered { server, upload, status, down, body };
                return Ok(self.asked().map(answered));
            }
        };
        Ok(Some(Called::NotYet(next)))
    }

    /// Takes the server that is being asked out of here.
    fn asked(&mut self) -> Option<Asking<S>> {
        match std::mem::replace(&mut self.line, Line::Wanted) {
            Line::Asking(asking) => Some(asking),
            Line::Wanted | Line::Dialing | Line::Dialed(_) | Line::Connecting { .. } => None,
        }
    }

    /// Chooses the next server to try.
    fn choose(&mut self, story: &mut Story, turn: &mut Turn<'_>) -> Result<Next, Refusal> {
        let Errand { pool, key, .. } = self.errand;
        match turn.choose(pool, key, &self.tried) {
            Ok(backend) => {
                self.tried.add(backend.index);
                self.line = Line::Dialing;
                story.backend = Some(backend);
                Ok(Next::Dial(backend))
            }
            Err(NoChoice::AllTried | NoChoice::AllFull) => Err(self.refusal.clone()),
        }
    }

    /// The server that was tried has failed: the next one is wanted.
    fn fail(&mut self, refusal: Refusal, reason: &str, turn: &mut Turn<'_>) {
        turn.blame(reason);
        self.refusal = refusal;
        self.line = Line::Wanted;
    }

    /// How long the present server may still take.
    pub fn deadline(&self, turn: &Turn<'_>) -> Option<Moment> {
        match &self.line {
            Line::Asking(asking) => Some(asking.deadline(turn)),
            Line::Connecting { deadline, .. } => Some(*deadline),
            Line::Wanted | Line::Dialing | Line::Dialed(_) => None,
        }
    }

    /// The deadline has come: the next server is wanted, or this is the end.
    pub fn expire(&mut self, turn: &mut Turn<'_>) -> Result<(), End> {
        match &self.line {
            Line::Asking(asking) => Err(asking.expire(&self.errand.letter, turn)),
            Line::Wanted | Line::Dialing | Line::Dialed(_) | Line::Connecting { .. } => {
                self.fail(Refusal::ConnectTimeout, "not connected in time", turn);
                Ok(())
            }
        }
    }

    /// Leaves the server. Gives back interim responses that are still on their way to the client: what follows must
    /// not cut one short.
    pub fn hang_up(self) -> Vec<u8> {
        match self.line {
            Line::Asking(asking) => asking.outbox,
            Line::Wanted | Line::Dialing | Line::Dialed(_) | Line::Connecting { .. } => Vec::new(),
        }
    }
}

/// Learns whether a dialed server is connected, by beginning to write to it, and says how much is written; `None` while
/// that is not settled. A socket that is not connected yet takes nothing, and one that cannot be says why, so no other
/// call need be made to ask.
fn greet<S: Socket>(server: &mut Transport<S>, letter: &[u8]) -> Option<io::Result<usize>> {
    if letter.is_empty() {
        return server.connected_by_now().map(|connected| connected.map(|()| 0));
    }
    if !server.is_writable() {
        return None;
    }
    match server.write(letter) {
        Ok(0) => None,
        written => Some(written),
    }
}
