//! A server that has been connected to and has not answered yet: the request goes up, an answer comes down.
//!
//! Interim responses are passed on in between. While one waits for the client nothing more is read, so what a server
//! can make us hold is one head.

use super::{End, trailer_bytes_max};
use crate::error::{Outcome, Refusal, Side};
use crate::moment::Moment;
use crate::proto::body::Body;
use crate::proto::head::{self, Scanner};
use crate::proto::response::{self, Answer, Asked};
use crate::session::Turn;
use crate::session::exchange::Upload;
use crate::session::flow::{Flow, Standing};
use crate::session::transport::{Edges, Received, Socket, Transport};

/// Interim responses that one request may cause: more than any server has use for.
pub const INTERIM_RESPONSES_MAX: u8 = 32;

/// A server that is being asked.
#[derive(Debug)]
pub struct Asking<S> {
    /// Where it is.
    pub server: Transport<S>,
    /// How much of the letter is written.
    written: usize,
    /// The request's body on its way.
    pub upload: Upload,
    /// What the server has sent: at most `max_header_bytes`.
    reply: Vec<u8>,
    scanner: Scanner,
    /// Interim responses on their way to the client. While there are any the server is not read.
    pub outbox: Vec<u8>,
    interim_responses: u8,
    /// When something of the request was last written.
    moved_at: Moment,
}

/// What asking a server has come to.
pub enum Heard {
    /// Nothing yet.
    Waiting,
    /// Nothing yet, and there is more to do.
    Spent,
    /// The server is gone before it sent a byte.
    Unheard(&'static str),
    /// It agreed to the tunnel: what the client is sent first.
    Tunnel(Begun),
    /// It answered otherwise.
    Plain {
        /// The status code.
        status: u16,
        /// What the client is sent first.
        down: Begun,
        /// How far the body reaches that is behind it.
        body: Body,
    },
}

/// The beginning of what goes down to the client.
pub struct Begun {
    /// A head, and what came behind it.
    pub bytes: Vec<u8>,
    /// How much of it is head.
    pub head_bytes: usize,
}

impl Begun {
    /// A head, behind interim responses that are still on their way to the client, and in front of what came with it.
    fn new(outbox: Vec<u8>, head: Vec<u8>, behind: &[u8]) -> Begun {
        let mut bytes = if outbox.is_empty() { head } else { [outbox, head].concat() };
        let head_bytes = bytes.len();
        bytes.extend_from_slice(behind);
        Begun { bytes, head_bytes }
    }
}

impl<S: Socket> Asking<S> {
    /// A server that has just been connected to, and has so much of the letter. What has arrived of the request's body
    /// is taken from the inbox.
    pub fn new(
        server: Transport<S>,
        written: usize,
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
        // Nothing is read from the client any more: where it has sent no more than the head, what held that has room
        // for the answer.
        let reply = if inbox.is_empty() { std::mem::take(inbox) } else { Vec::new() };
        Ok(Asking {
            server,
            written,
            upload,
            reply,
            scanner: Scanner::default(),
            outbox: Vec::new(),
            interim_responses: 0,
            moved_at: turn.now,
        })
    }

    /// Writes the letter and the body, passes interim responses on, reads the answer.
    pub fn advance(
        &mut self,
        client: &mut Transport<S>,
        letter: &[u8],
        asked: &Asked,
        turn: &mut Turn<'_>,
    ) -> Result<Heard, End> {
        self.write(letter, turn);
        let mut spent = false;
        if self.written == letter.len() {
            let standing = self.upload.advance(client, &mut self.server, turn);
            spent = standing.map_err(end_of_upload)? == Standing::Spent;
        }
        loop {
            self.tell_client(client)?;
            match self.listen(asked, turn)? {
                // While an interim response waits for the client the server is not read. Where the client takes it
                // right away nobody will tell again of what else the server has sent.
                Heard::Waiting if !self.outbox.is_empty() && client.is_writable() => {}
                Heard::Waiting if spent => return Ok(Heard::Spent),
                // Behind a part of the letter the client's bytes would be read as the rest of it.
                Heard::Tunnel(_) if self.written < letter.len() => {
                    return Err(malformed("the server switched protocols before it had the request", turn));
                }
                heard @ Heard::Plain { .. } if self.written < letter.len() => {
                    self.upload.flow.give_up();
                    return Ok(heard);
                }
                heard => return Ok(heard),
            }
        }
    }

    /// How long the server may still think.
    pub fn deadline(&self, turn: &Turn<'_>) -> Moment {
        self.moved_at.max(self.upload.flow.moved_at()) + turn.timeouts.response
    }

    /// Whom the deadline was missed by.
    pub fn expire(&self, letter: &[u8], turn: &mut Turn<'_>) -> End {
        if self.waits_for_client(letter) {
            End::Refuse(Refusal::RequestTimeout)
        } else if !self.outbox.is_empty() {
            // The server has said something that the client does not take.
            End::Close(Outcome::Stalled(Side::Client))
        } else {
            turn.blame("no answer in time");
            End::Refuse(Refusal::ResponseTimeout)
        }
    }

    /// Whether it is the client that we wait for.
    fn waits_for_client(&self, letter: &[u8]) -> bool {
        let flow = &self.upload.flow;
        self.written == letter.len() && flow.is_open() && flow.stalled_since().is_none()
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
        let bytes_max = turn.setup.plan.limits.max_header_bytes;
        while self.server.is_readable() && self.outbox.is_empty() {
            // Not zero: a full reply without an end is refused below, one with it has been taken out.
            let reach = (bytes_max - self.reply.len()).min(turn.tools.scratch.len());
            let ended = match self.server.read(&mut turn.tools.scratch[..reach]) {
                Ok(Received::Bytes(count)) => {
                    self.reply.extend_from_slice(&turn.tools.scratch[..count]);
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
                Some(_) => return Err(malformed("the response head is not complete", turn)),
                None => {}
            }
            match self.read_heads(asked, turn)? {
                Heard::Waiting if self.reply.len() >= bytes_max => {
                    return Err(malformed("the response head is too large", turn));
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
                Err(rule) => return Err(malformed(rule, turn)),
            };
            let judged = head::parse_response(&self.reply[..end], turn.setup.plan.limits.max_headers)
                .and_then(|head| response::judge(&head, asked, trailer_bytes_max(turn)));
            let mut outbox = std::mem::take(&mut self.outbox);
            match judged {
                Err(rule) => return Err(malformed(rule, turn)),
                Ok(Answer::Tunnel(head)) => {
                    return Ok(Heard::Tunnel(Begun::new(outbox, head, &self.reply[end..])));
                }
                Ok(Answer::Plain { status, head, mut body }) => {
                    let kept = match body.strain(&mut self.reply[end..]) {
                        Ok(strained) => strained.kept,
                        Err(error) => return Err(malformed(error.0, turn)),
                    };
                    let down = Begun::new(outbox, head, &self.reply[end..end + kept]);
                    return Ok(Heard::Plain { status, down, body });
                }
                Ok(Answer::Interim(head)) => outbox.extend(head),
                Ok(Answer::Unasked) => {}
            }
            self.outbox = outbox;
            self.reply.drain(..end);
            self.scanner = Scanner::default();
            self.interim_responses += 1;
            if self.interim_responses > INTERIM_RESPONSES_MAX {
                return Err(malformed("too many interim responses", turn));
            }
        }
    }
}

/// The server's answer is none.
fn malformed(rule: &'static str, turn: &mut Turn<'_>) -> End {
    turn.blame(rule);
    End::Refuse(Refusal::BackendMalformed(rule))
}

/// A request whose body breaks the rules can still be answered.
fn end_of_upload(outcome: Outcome) -> End {
    match outcome {
        Outcome::BodyMalformed(Side::Client, rule) => End::Refuse(Refusal::BadRequest(rule)),
        outcome => End::Close(outcome), // the client is gone: nobody is left to answer
    }
}
