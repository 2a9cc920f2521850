//! One plain request and its response: the same two flows as a tunnel's, each with a body that ends it.
//!
//! The request's body goes up by its framing and not a byte beyond it; the response comes down by its own. When the
//! response has been passed on the session is over, whatever is left of the request.

use super::engine::Trouble;
use super::flow::{AtEnd, Flow, Standing};
use super::story::Story;
use super::transport::{Edges, Socket, Transport};
use super::{Limit, Next, Turn, after, reached, soonest};
use crate::error::{Outcome, Side};
use crate::moment::Moment;
use crate::plan::Timeouts;
use crate::proto::body::Body;

/// A request's body on its way up, which may begin before the response does.
#[derive(Debug)]
pub struct Upload {
    /// The direction.
    pub flow: Flow,
    /// How far it reaches.
    pub body: Body,
}

impl Upload {
    /// Moves what there is. A server that takes no more is no reason to stop: its response may be on its way.
    pub fn advance<S: Socket>(
        &mut self,
        client: &mut Transport<S>,
        server: &mut Transport<S>,
        turn: &mut Turn<'_>,
    ) -> Result<Standing, Outcome> {
        match self.flow.advance(client, server, &mut self.body, AtEnd::LeaveOpen, 0, turn) {
            Ok(standing) => Ok(standing),
            Err(Trouble::Sink(_)) => {
                self.flow.give_up();
                Ok(Standing::Done)
            }
            Err(Trouble::Source(error)) => Err(Outcome::Failed { side: Side::Client, error: error.kind() }),
            Err(Trouble::Truncated) => Err(Outcome::Truncated(Side::Client)),
            Err(Trouble::Bytes(rule)) => Err(Outcome::BodyMalformed(Side::Client, rule)),
        }
    }
}

/// A plain request whose response has begun.
#[derive(Debug)]
pub struct Exchange<S> {
    client: Transport<S>,
    server: Transport<S>,
    up: Upload,
    down: Flow,
    body: Body,
    broken: bool,
    /// What its log line says.
    pub story: Box<Story>,
}

impl<S: Socket> Exchange<S> {
    /// An exchange that goes on with the upload it has and a response of which the first bytes, head included, are
    /// `begun`.
    pub fn new(
        client: Transport<S>,
        server: Transport<S>,
        up: Upload,
        begun: Vec<u8>,
        body: Body,
        story: Box<Story>,
        now: Moment,
    ) -> Exchange<S> {
        let down = Flow::of_body(begun, &body, now);
        Exchange { client, server, up, down, body, broken: false, story }
    }

    /// Takes note of an event.
    pub fn mark(&mut self, side: Side, edges: Edges) {
        match side {
            Side::Client => self.client.mark(edges),
            Side::Server => self.server.mark(edges),
        }
    }

    /// The client's socket and the server's.
    pub fn ends(&mut self) -> [&mut Transport<S>; 2] {
        [&mut self.client, &mut self.server]
    }

    /// Whether either direction is in bulk.
    pub fn is_bulk(&self) -> bool {
        self.up.flow.is_bulk() || self.down.is_bulk()
    }

    /// Moves bytes both ways.
    pub fn advance(&mut self, turn: &mut Turn<'_>) -> Next {
        // With the request passed on nobody reads the client, who may go away without our noticing.
        if let Some(error) = self.client.take_failure() {
            return self.fail(Outcome::Failed { side: Side::Client, error: error.kind() });
        }
        let up = match self.up.advance(&mut self.client, &mut self.server, turn) {
            Ok(standing) => standing,
            Err(outcome) => return self.fail(outcome),
        };
        let down =
            self.down.advance(&mut self.server, &mut self.client, &mut self.body, AtEnd::HalfClose, 0, turn);
        match down {
            Ok(Standing::Done) => Next::Linger(Outcome::Finished(Side::Server)),
            Ok(Standing::Spent) => Next::Yield,
            Ok(Standing::Parked) if up == Standing::Spent => Next::Yield,
            Ok(Standing::Parked) => Next::Park { deadline: self.deadline(turn) },
            Err(Trouble::Source(error)) => {
                self.fail(Outcome::Failed { side: Side::Server, error: error.kind() })
            }
            Err(Trouble::Sink(error)) => {
                self.fail(Outcome::Failed { side: Side::Client, error: error.kind() })
            }
            Err(Trouble::Bytes(rule)) => self.fail(Outcome::BodyMalformed(Side::Server, rule)),
            // Where the close alone says where the body ends, a clean one would say that this is the whole.
            Err(Trouble::Truncated) if self.body.is_passed_until_close() => {
                self.fail(Outcome::Truncated(Side::Server))
            }
            Err(Trouble::Truncated) => Next::Close(Outcome::Truncated(Side::Server)),
        }
    }

    /// Ends with resets, so that what was passed on is not taken for the whole.
    fn fail(&mut self, outcome: Outcome) -> Next {
        self.broken = true;
        Next::Close(outcome)
    }

    fn limits(&self, timeouts: &Timeouts) -> [Limit; 2] {
        let stalled = self.down.stalled_since();
        // A server that answers before it has read all may never read the rest: that alone is no reason to end, as long
        // as it goes on with its response. Silence counts while we wait for a peer to speak, not for the client to
        // listen.
        let moved_at = self.up.flow.moved_at().max(self.down.moved_at());
        let silence = stalled.is_none().then_some(moved_at);
        let waits_for_client = self.up.flow.is_open() && self.up.flow.stalled_since().is_none();
        let silent = if waits_for_client { Side::Client } else { Side::Server };
        [
            (after(stalled, timeouts.stalled), Outcome::Stalled(Side::Client)),
            (after(silence, Some(timeouts.response)), Outcome::Silent(silent)),
        ]
    }

    fn deadline(&self, turn: &Turn<'_>) -> Option<Moment> {
        soonest(self.limits(turn.timeouts))
    }

    /// The deadline has come, or an earlier one that no longer holds.
    pub fn expire(&mut self, turn: &Turn<'_>) -> Next {
        match reached(self.limits(turn.timeouts), turn.now) {
            Some(outcome) => self.fail(outcome),
            None => Next::Park { deadline: self.deadline(turn) },
        }
    }

    fn told(&mut self) {
        self.story.count(self.up.flow.flushed(), self.down.flushed());
    }

    /// Leaves the server, and keeps the client for a moment.
    pub fn part(mut self) -> (Transport<S>, Box<Story>) {
        self.told();
        (self.client, self.story)
    }

    /// Closes both sides.
    pub fn close(mut self) -> Box<Story> {
        self.told();
        if self.broken {
            self.server.abort();
            self.client.abort();
        }
        self.story
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::{PLENTY, Play, Rest};

    const CONFIG: &str = "
        [timeouts]
        response = \"60s\"
        stalled = \"30s\"
        [[listener]]
        listen = \"127.0.0.1:8020\"
        upstream = \"u\"
        [upstream.u]
        servers = [\"127.0.0.1:8010\"]";

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";

    /// An exchange: the client has sent this, and the server has answered with that.
    fn answered(request: &str, response: &str) -> Play {
        let mut play = Play::accepted(CONFIG);
        play.client.sends(request);
        play.run();
        play.server().sends(response);
        play.run();
        play
    }

    /// What stands behind the head that the client or the server has got.
    fn body(got: &str) -> &str {
        got.split_once("\r\n\r\n").expect("a head").1
    }

    /// The response was passed on: the client is told the end and let go, the server is left.
    #[track_caller]
    fn check_done(play: &mut Play, response_body: &str) {
        assert_eq!(body(&play.client.got()), response_body);
        assert_eq!(play.client.wire().finished, 1);
        assert!(play.server().wire().closed && !play.server().wire().was_reset);
        assert_eq!(play.outcome(), "server finished");
        assert_eq!(play.rest, Rest::Parked, "the client is listened to for a moment");
        play.client.ends();
        assert_eq!(play.run(), Rest::Over);
        assert!(!play.client.wire().was_reset);
        assert_eq!(play.lines().len(), 1);
    }

    /// The exchange broke off, so that nobody takes what was passed on for the whole.
    #[track_caller]
    fn check_reset(play: &Play, outcome: &str) {
        assert_eq!((play.rest, play.outcome()), (Rest::Over, outcome.to_owned()));
        assert_eq!(play.client.wire().finished, 0);
        assert!(play.client.wire().was_reset && play.server().wire().was_reset);
    }

    #[test]
    fn a_response_ends_with_its_body_and_not_a_byte_beyond_it() {
        check_done(&mut answered(GET, &format!("{OK}bodyHTTP/1.1 200 OK\r\n\r\n")), "body");
        let mut play = answered(GET, OK);
        for byte in b"bodyHTTP/1.1 200 OK\r\n\r\n" {
            play.server().sends([*byte]);
            play.run();
        }
        check_done(&mut play, "body");
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\nA: b\r\n\r\nHTTP/1.1 ";
        check_done(&mut answered(GET, chunked), "2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n");
        check_done(&mut answered(&GET.replace("1.1", "1.0"), chunked), "body");
        check_done(&mut answered(&GET.replace("GET", "HEAD"), &format!("{OK}body")), "");
        check_done(&mut answered(GET, "HTTP/1.1 204 No\r\nContent-Length: 4\r\n\r\nbody"), "");
    }

    #[test]
    fn a_response_without_framing_ends_with_its_server() {
        let mut play = answered(GET, "HTTP/1.1 200 OK\r\n\r\nbo");
        play.server().sends("dy");
        play.run();
        assert_eq!(play.client.wire().finished, 0);
        play.server().ends();
        play.run();
        check_done(&mut play, "body");
    }

    #[test]
    fn a_request_ends_with_its_body_and_not_a_byte_beyond_it() {
        let mut play = answered(&format!("{POST}bodyGET /smuggled HTTP/1.1\r\n\r\n"), OK);
        assert_eq!(body(&play.server().got()), "body");
        play.client.sends("GET /smuggled HTTP/1.1\r\n\r\n");
        play.run();
        assert_eq!(play.server().got(), "");

        let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut play = answered(request, OK);
        play.server().got();
        for byte in b"4;x=y\r\nbody\r\n0\r\nA: b\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n" {
            play.client.sends([*byte]);
            play.run();
        }
        assert_eq!(play.server().got(), "4\r\nbody\r\n0\r\n\r\n");
    }

    #[test]
    fn a_response_may_come_while_the_request_is_on_its_way() {
        let mut play = answered(&format!("{POST}bo"), &format!("{OK}bo"));
        play.client.sends("d");
        play.server().sends("d");
        play.run();
        assert_eq!(body(&play.server().got()), "bod");
        play.server().sends("y");
        play.run();
        check_done(&mut play, "body");
    }

    #[test]
    fn a_server_that_takes_no_more_of_a_request_may_still_answer_it() {
        let mut play = answered(POST, OK);
        play.server().vanishes();
        play.client.sends("body");
        play.run();
        play.server().sends("body");
        play.run();
        check_done(&mut play, "body");
    }

    #[test]
    fn a_client_that_has_ended_behind_its_request_is_answered() {
        let mut play = Play::accepted(CONFIG);
        play.client.sends(GET);
        play.client.ends();
        play.run();
        play.server().sends(format!("{OK}body"));
        assert_eq!(play.run(), Rest::Over);
        assert_eq!((body(&play.client.got()), play.outcome()), ("body", "server finished".into()));
    }

    #[test]
    fn what_breaks_off_ends_in_a_reset() {
        let mut play = answered(GET, &format!("{OK}bo"));
        play.server().resets();
        play.run();
        check_reset(&play, "server reset");

        let mut play = answered(GET, &format!("{OK}bo"));
        play.client.resets();
        play.run();
        check_reset(&play, "client reset");

        let mut play = answered(GET, &format!("{OK}bo"));
        play.client.vanishes();
        play.server().sends("d");
        play.run();
        check_reset(&play, "client reset");

        let mut play = answered(POST, &format!("{OK}bo"));
        play.client.sends("bo");
        play.client.ends();
        play.run();
        check_reset(&play, "client truncated");

        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n";
        let mut play = answered(GET, chunked);
        play.server().sends("no chunk");
        play.run();
        check_reset(&play, "server a chunk does not begin with its size");

        let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut play = answered(request, OK);
        play.client.sends("no chunk");
        play.run();
        check_reset(&play, "client a chunk does not begin with its size");
    }

    #[test]
    fn a_response_cut_short_is_closed_where_the_client_can_tell() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbo";
        for response in [format!("{OK}bo"), chunked.to_owned()] {
            let mut play = answered(GET, &response);
            play.server().ends();
            assert_eq!(play.run(), Rest::Over);
            assert_eq!(play.outcome(), "server truncated");
            assert!(play.client.got().ends_with("bo"));
            assert!(play.client.wire().closed && !play.client.wire().was_reset);
        }
    }

    /// A chunked response, decoded for a client of HTTP/1.0, ends where the connection does: one that was cut short
    /// used to look whole.
    #[test]
    fn a_response_cut_short_is_reset_where_the_client_cannot_tell() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbo";
        let mut play = answered(&GET.replace("1.1", "1.0"), chunked);
        play.server().ends();
        play.run();
        assert!(play.client.got().ends_with("\r\n\r\nbo"));
        check_reset(&play, "server truncated");
    }

    #[test]
    fn bodies_pass_in_bounded_memory_and_bounded_turns() {
        let mut play = answered(GET, "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n");
        play.client.got();
        play.client.is_full();
        play.server().sends(vec![b'x'; 300_000]);
        assert_eq!(play.run(), Rest::Parked);
        assert_eq!(play.server().wire().arrived.len(), 300_000 - play.tools.scratch.len());
        play.tools.flow_budget = 10_000;
        play.yields = 0;
        play.client.takes(PLENTY);
        play.run();
        assert_eq!(play.client.got().len(), 300_000);
        assert_eq!(play.yields, (300_000 - play.tools.scratch.len()) / play.tools.flow_budget);
    }

    #[test]
    fn every_body_passes_with_a_budget_of_one_byte() {
        let mut play = Play::accepted(CONFIG);
        play.tools.flow_budget = 1;
        play.client.sends(format!("{POST}body and more"));
        play.run();
        assert_eq!(body(&play.server().got()), "body");
        play.server().sends(format!("{OK}body and more"));
        play.run();
        check_done(&mut play, "body");
    }

    #[test]
    fn silence_has_a_limit() {
        let until_close = "HTTP/1.1 200 OK\r\n\r\nbo";
        for (request, response, silent) in [(GET, until_close, "server"), (POST, OK, "client")] {
            let mut play = answered(request, response);
            for _ in 0..3 {
                play.wait_ms(59_999);
                play.server().sends("x");
                assert_eq!(play.run(), Rest::Parked);
            }
            play.wait_ms(59_999);
            assert_eq!(play.rest, Rest::Parked);
            play.wait_ms(1);
            check_reset(&play, "adit silent");
            assert_eq!(play.told(&["waited_for"]), silent);
        }
    }

    #[test]
    fn a_peer_that_takes_nothing_stalls_the_exchange() {
        let mut play = answered(GET, OK);
        play.client.is_full();
        play.server().sends("body");
        play.run();
        play.wait_ms(29_999);
        assert_eq!(play.rest, Rest::Parked);
        play.wait_ms(1);
        check_reset(&play, "adit stalled");
    }

    #[test]
    fn a_server_that_reads_no_more_may_go_on_with_its_response() {
        let mut play = answered(POST, OK);
        play.server().is_full();
        play.client.sends("body");
        play.run();
        for _ in 0..3 {
            play.wait_ms(59_999);
            play.server().sends("b");
            assert_eq!(play.run(), Rest::Parked);
        }
        play.wait_ms(60_000);
        check_reset(&play, "adit silent");
    }

    #[test]
    fn only_payload_is_counted() {
        let mut play = answered(&format!("{POST}body"), &format!("{OK}body"));
        assert_eq!(play.told(&["status", "bytes_up", "bytes_down"]), "200 4 4");
        play.client.ends();
        play.run();
    }
}
