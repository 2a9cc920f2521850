//! The end of an HTTP session: the last of our bytes, a half-close, and a moment of listening.
//!
//! A socket that is closed while bytes from its peer are unread is reset by the kernel, and the reset can overtake the
//! answer on its way to the peer. So after the answer comes a half-close, and what still arrives is read and dropped.

use std::time::Duration;

use super::story::Story;
use super::transport::{Edges, Received, Socket, Transport};
use super::{Next, Turn};
use crate::error::{Outcome, Refusal, Side};
use crate::moment::Moment;
use crate::proto::reply;

/// How long a client may take to read an answer of ours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client that was told everything is listened to.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// A client that is being told goodbye.
#[derive(Debug)]
pub struct Closing<S> {
    client: Transport<S>,
    state: State,
    deadline: Moment,
}

/// How far the goodbye has come.
#[derive(Debug)]
enum State {
    /// An answer is on its way: these bytes, of which so many are written.
    Answering { answer: Vec<u8>, written: usize, story: Box<Story>, refusal: Refusal },
    /// All is said.
    Lingering,
}

impl<S: Socket> Closing<S> {
    /// Refuses: writes what was begun before, then our own answer, then closes.
    pub fn refuse(
        client: Transport<S>,
        mut story: Box<Story>,
        refusal: Refusal,
        begun: Vec<u8>,
        turn: &Turn<'_>,
    ) -> Closing<S> {
        story.status = Some(refusal.status().0);
        let mut answer = begun;
        answer.extend(reply::write(&refusal, turn.wall(), story.is_head_only()));
        let state = State::Answering { answer, written: 0, story, refusal };
        Closing { client, state, deadline: turn.now + ANSWER_TIMEOUT }
    }

    /// Listens for a moment to a client that has been told everything and half-closed.
    pub fn linger(client: Transport<S>, now: Moment) -> Closing<S> {
        Closing { client, state: State::Lingering, deadline: now + LINGER_TIMEOUT }
    }

    /// Takes note of an event.
    pub fn mark(&mut self, side: Side, edges: Edges) {
        match side {
            Side::Client => self.client.mark(edges),
            Side::Server => {} // of a server that this session has already left
        }
    }

    /// The client's socket.
    pub fn client(&mut self) -> &mut Transport<S> {
        &mut self.client
    }

    /// Writes what is left of the answer, then reads and drops.
    pub fn advance(&mut self, turn: &mut Turn<'_>) -> Next {
        if let State::Answering { answer, written, .. } = &mut self.state {
            while *written < answer.len() && self.client.is_writable() {
                match self.client.write(&answer[*written..]) {
                    Ok(count) => *written += count,
                    Err(error) => {
                        return Next::Close(Outcome::Failed { side: Side::Client, error: error.kind() });
                    }
                }
            }
            if *written < answer.len() {
                return Next::Park { deadline: Some(self.deadline) };
            }
            self.client.finish();
            self.deadline = turn.now + LINGER_TIMEOUT;
            if let State::Answering { story, refusal, .. } =
                std::mem::replace(&mut self.state, State::Lingering)
            {
                turn.log_close(&story, &Outcome::Refused(refusal));
            }
        }
        let mut budget = turn.tools.flow_budget;
        while self.client.is_readable() {
            if budget == 0 {
                // One that never falls silent never parks, so that no timer would end this.
                return if turn.now < self.deadline { Next::Yield } else { Next::End };
            }
            let reach = budget.min(turn.tools.scratch.len());
            match self.client.read(&mut turn.tools.scratch[..reach]) {
                Ok(Received::Bytes(count)) => {
                    budget -= count;
                    turn.tools.moved += count;
                }
                Ok(Received::Blocked) => {}
                Ok(Received::End) | Err(_) => return Next::End, // nobody is left to be told, and all has been logged
            }
        }
        Next::Park { deadline: Some(self.deadline) }
    }

    /// The deadline has come.
    pub fn expire(&mut self, turn: &Turn<'_>) -> Next {
        match &self.state {
            _ if turn.now < self.deadline => Next::Park { deadline: Some(self.deadline) },
            State::Answering { .. } => Next::Close(Outcome::Stalled(Side::Client)),
            State::Lingering => Next::End,
        }
    }

    /// Closes; gives back the story where it has not been told yet.
    pub fn close(self) -> Option<Box<Story>> {
        match self.state {
            State::Answering { story, .. } => Some(story),
            State::Lingering => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::{PLENTY, Play, Rest};
    use super::*;

    const CONFIG: &str = "
        [[listener]]
        listen = \"127.0.0.1:8020\"
        upstream = \"u\"
        [upstream.u]
        servers = [\"127.0.0.1:8010\"]";

    /// A client that is being refused, of which nothing has been written yet.
    fn refused() -> Play {
        let mut play = Play::accepted(CONFIG);
        play.client.is_full();
        play.client.sends("nonsense\r\n\r\n");
        play.run();
        play
    }

    #[test]
    fn an_answer_is_written_as_the_client_takes_it_and_logged_when_it_is_out() {
        let mut play = refused();
        let mut length = 0;
        while play.client.wire().finished == 0 {
            assert!(play.lines().is_empty());
            play.client.takes(1);
            assert_eq!(play.run(), Rest::Parked);
            length += 1;
        }
        let answer = play.client.got();
        assert_eq!(answer.len(), length);
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with('\n'), "{answer}");
        assert_eq!(play.lines().len(), 1);
        play.client.ends();
        assert_eq!(play.run(), Rest::Over);
        assert_eq!(play.lines().len(), 1);
    }

    #[test]
    fn what_a_client_still_sends_is_read_and_dropped_for_a_moment() {
        let mut play = refused();
        play.client.takes(PLENTY);
        play.client.sends(vec![b'x'; 200_000]);
        assert_eq!(play.run(), Rest::Parked);
        assert_eq!(play.client.wire().arrived.len(), 0);
        play.wait(LINGER_TIMEOUT - Duration::from_millis(1));
        play.client.sends("x");
        assert_eq!(play.run(), Rest::Parked);
        play.wait_ms(1);
        assert_eq!(play.rest, Rest::Over);
        assert!(play.client.wire().closed && !play.client.wire().was_reset);
    }

    /// The loop lets no more sessions go on in a turn than have moved so much, these among them.
    #[test]
    fn what_is_dropped_has_moved_too() {
        let mut play = refused();
        play.client.takes(PLENTY);
        play.client.sends(vec![b'x'; 200_000]);
        play.tools.moved = 0;
        play.run();
        assert_eq!(play.tools.moved, 200_000);
    }

    #[test]
    fn a_client_that_never_stops_is_left_at_the_deadline_all_the_same() {
        let mut play = refused();
        play.client.takes(PLENTY);
        play.tools.flow_budget = 10;
        play.run();
        for _ in 0..100 {
            play.client.sends(vec![b'x'; 1000]);
            play.tell(Side::Client);
            assert_eq!(play.turn(), Rest::Yielded);
        }
        play.now += LINGER_TIMEOUT;
        assert_eq!(play.turn(), Rest::Over);
    }

    #[test]
    fn a_client_that_does_not_read_its_answer_stalls() {
        let mut play = refused();
        play.client.takes(10);
        play.run();
        play.wait(ANSWER_TIMEOUT - Duration::from_millis(1));
        assert_eq!(play.rest, Rest::Parked);
        play.wait_ms(1);
        assert_eq!((play.rest, play.outcome()), (Rest::Over, "adit stalled".into()));
    }

    #[test]
    fn a_client_that_goes_away_needs_no_answer() {
        let mut play = refused();
        play.client.resets();
        assert_eq!((play.run(), play.outcome()), (Rest::Over, "client reset".into()));

        let mut play = refused();
        play.client.takes(PLENTY);
        play.run();
        play.client.resets();
        assert_eq!(play.run(), Rest::Over);
        assert_eq!(play.lines().len(), 1, "all was said and logged before");
    }
}
