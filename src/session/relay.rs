//! The tunnel at work, and the hot path: two flows between two ends, until both have finished.
//!
//! Nothing here asks which end is the client: flow 0 goes from end 0 to end 1, flow 1 comes back. Where a log line
//! needs a name, [`side`] gives it.

use std::io;
use std::time::Duration;

use super::engine::Trouble;
use super::flow::{self, AtEnd, Everything, Flow, Way};
use super::story::{Note, Story};
use super::transport::{Edges, Socket, Transport};
use super::{Limit, Next, Turn, after, keepalive, reached, soonest};
use crate::drain::Standing;
use crate::error::{Outcome, Side};
use crate::moment::Moment;
use crate::plan::{BackendId, Timeouts};

/// How old a tunnel is when the kernel is asked to watch over its server's connection. That takes up to four calls,
/// which a short tunnel can do without: probes begin after a minute of silence, and a connection attempt and an answer
/// have limits of their own. A client's connection has the options from its listening socket.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);

/// Two ends, and the bytes between them.
#[derive(Debug)]
pub struct Relay<S> {
    ends: [Transport<S>; 2],
    flows: [Flow; 2],
    state: State,
    /// Whether it is whole, holds nothing, is not in bulk, and the loop has a deadline for it that can only be too
    /// early.
    at_ease: bool,
    /// Whether the kernel watches over the server's connection.
    kept_alive: bool,
    /// Whether its lifetime is over, which the loop has been told.
    retired: bool,
    /// Where it stands among those that lack nothing of their lifetime (0) and all that is allowed (`u16::MAX`).
    haste: u16,
    /// What its last line will say.
    note: Note,
}

/// How a tunnel is getting on. (An index of eight bytes would make it sixteen.)
#[derive(Clone, Copy, Debug)]
enum State {
    /// Both directions are there.
    Whole,
    /// The end with this index ended first; the other direction goes on.
    HalfClosed(u8),
    /// The end with this index has failed; what it sent before that is still offered to the other.
    Broken(u8, io::ErrorKind),
}

/// The name of an end.
fn side(end: usize) -> Side {
    if end == 0 { Side::Client } else { Side::Server }
}

impl<S: Socket> Relay<S> {
    /// A tunnel between a client and a server, with the bytes that are already on their way: `up` to the server, `down`
    /// to the client, and a number that was drawn for its lifetime.
    pub fn new(
        ends: [Transport<S>; 2],
        up: Vec<u8>,
        down: Vec<u8>,
        story: Story,
        now: Moment,
        haste: u16,
    ) -> Relay<S> {
        let [up_head, down_head] = story.overhead;
        let flows = [
            Flow::new(up, now).going(Way::Up).discount(up_head),
            Flow::new(down, now).going(Way::Down).discount(down_head),
        ];
        let note = Note::new(story, now);
        Relay {
            ends,
            flows,
            state: State::Whole,
            at_ease: false,
            kept_alive: false,
            retired: false,
            haste,
            note,
        }
    }

    /// Takes note of an event at one end.
    pub fn mark(&mut self, end: Side, edges: Edges) {
        match end {
            Side::Client => self.ends[0].mark(edges),
            Side::Server => self.ends[1].mark(edges),
        }
    }

    /// The client's socket and the server's.
    pub fn ends(&mut self) -> [&mut Transport<S>; 2] {
        self.ends.each_mut()
    }

    /// Whether either direction is in bulk.
    pub fn is_bulk(&self) -> bool {
        self.flows[0].is_bulk() || self.flows[1].is_bulk()
    }

    /// Moves bytes both ways until there is nothing to do for now.
    #[inline]
    pub fn advance(&mut self, turn: &mut Turn<'_>) -> Next {
        let mut moved = [0; 2];
        if self.at_ease {
            // The hot path. What most turns are: one message one way, and nothing left on either side.
            for (index, moved) in moved.iter_mut().enumerate() {
                match self.pass_on(index, turn) {
                    Ok(taken) => *moved = taken,
                    Err(trouble) => return self.judge(index, &trouble, turn),
                }
            }
            if self.is_quiet() {
                return Next::Rest;
            }
        }
        self.go_on(moved, turn)
    }

    /// Passes on what the end with this index has sent, if it has: a read and a write.
    #[inline(always)]
    fn pass_on(&mut self, index: usize, turn: &mut Turn<'_>) -> Result<usize, Trouble> {
        let (flow, source, sink) = self.direction(index);
        if !source.is_readable() {
            return Ok(0);
        }
        flow.copy(source, sink, &mut Everything, turn.tools.flow_budget, turn)
    }

    /// The flow that begins at this end, its source and its sink.
    #[inline(always)]
    fn direction(&mut self, index: usize) -> (&mut Flow, &mut Transport<S>, &mut Transport<S>) {
        let [a, b] = &mut self.ends;
        let (source, sink) = if index == 0 { (a, b) } else { (b, a) };
        (&mut self.flows[index], source, sink)
    }

    /// Whether neither end has anything to say, and no bytes wait.
    fn is_quiet(&self) -> bool {
        let ([a, b], [up, down]) = (&self.ends, &self.flows);
        up.is_waiting(a) && down.is_waiting(b) && !a.is_failed() && !b.is_failed()
    }

    /// As [`advance`](Relay::advance) for all other turns, of which so many bytes have moved.
    fn go_on(&mut self, moved: [usize; 2], turn: &mut Turn<'_>) -> Next {
        let was_at_ease = std::mem::replace(&mut self.at_ease, false);
        let mut standings = [flow::Standing::Parked; 2];
        for (index, standing) in standings.iter_mut().enumerate() {
            match self.step(index, moved[index], turn) {
                Ok(reached) => *standing = reached,
                Err(trouble) => return self.judge(index, &trouble, turn),
            }
        }
        if !matches!(self.state, State::Broken(..)) {
            // An end whose bytes nobody reads at the moment can fail without a read or a write to say so.
            for end in 0..2 {
                if let Some(error) = self.ends[end].take_failure() {
                    return self.break_off(end, error.kind(), turn);
                }
            }
        }
        match (self.state, standings) {
            (State::Broken(end, error), standings) => match standings[usize::from(end)] {
                flow::Standing::Spent => Next::Yield,
                flow::Standing::Parked | flow::Standing::Done => self.fail(end.into(), error),
            },
            (State::HalfClosed(first), [flow::Standing::Done, flow::Standing::Done]) => {
                Next::Close(Outcome::Finished(side(first.into())))
            }
            (_, [flow::Standing::Spent, _] | [_, flow::Standing::Spent]) => Next::Yield,
            // One parked and the other parked or done. Where nothing is held and nothing has ended all limits move
            // later only, so that one deadline will do until it comes, and a message costs no look at them. One in bulk
            // is not spared, as the loop wants to know.
            (state, _) => {
                self.at_ease = matches!(state, State::Whole) && self.flows.iter().all(Flow::is_light);
                if self.at_ease && was_at_ease {
                    return Next::Rest;
                }
                Next::Park { deadline: self.deadline(turn.timeouts) }
            }
        }
    }

    /// Moves bytes one way, of which so many have moved in this turn.
    fn step(&mut self, index: usize, moved: usize, turn: &mut Turn<'_>) -> Result<flow::Standing, Trouble> {
        let at_end = match self.state {
            // Into an end that has failed goes nothing, and what it still sends ends in a reset.
            State::Broken(end, _) if usize::from(end) != index => return Ok(flow::Standing::Done),
            State::Broken(..) => AtEnd::LeaveOpen,
            // The close that follows says the same as a half-close would.
            State::HalfClosed(_) if self.flows[1 - index].is_done() => AtEnd::LeaveOpen,
            State::Whole | State::HalfClosed(_) => AtEnd::HalfClose,
        };
        let (flow, source, sink) = self.direction(index);
        let standing = flow.advance(source, sink, &mut Everything, at_end, moved, turn)?;
        if matches!(self.state, State::Whole) && !self.flows[index].is_open() {
            self.state = State::HalfClosed(index as u8);
        }
        Ok(standing)
    }

    /// What follows where a direction could not go on.
    #[cold]
    fn judge(&mut self, index: usize, trouble: &Trouble, turn: &mut Turn<'_>) -> Next {
        match trouble {
            Trouble::Source(error) => self.fail(index, error.kind()),
            Trouble::Sink(error) if matches!(self.state, State::Broken(..)) => {
                self.fail(1 - index, error.kind())
            }
            Trouble::Sink(error) => self.break_off(1 - index, error.kind(), turn),
            Trouble::Bytes(_) | Trouble::Truncated => unreachable!("a tunnel's bytes are not judged"),
        }
    }

    /// A write has failed: the end is gone, but it may have sent something before that.
    fn break_off(&mut self, end: usize, error: io::ErrorKind, turn: &mut Turn<'_>) -> Next {
        self.state = State::Broken(end as u8, error);
        self.ends[end].mark(Edges { failed: true, ..Edges::default() });
        self.go_on([0; 2], turn)
    }

    /// Ends the session because of a failed end; the other is told by a reset.
    fn fail(&mut self, end: usize, error: io::ErrorKind) -> Next {
        self.state = State::Broken(end as u8, error);
        Next::Close(Outcome::Failed { side: side(end), error })
    }

    /// When this tunnel has to be looked at again though nothing happens.
    pub fn deadline(&self, timeouts: &Timeouts) -> Option<Moment> {
        let keepalive = (!self.kept_alive).then(|| self.note.opened + KEEPALIVE_AFTER);
        soonest(self.limits(timeouts)).into_iter().chain(keepalive).min()
    }

    /// When a byte last moved.
    fn moved_at(&self) -> Moment {
        self.flows[0].moved_at().max(self.flows[1].moved_at())
    }

    /// How it stands when some tunnels have to go.
    pub fn standing(&self) -> Standing {
        Standing { opened: self.note.opened, moved_at: self.moved_at() }
    }

    /// Its story so far.
    pub fn story(&self, backend: Option<BackendId>) -> Story {
        let mut story = self.note.clone().into_story();
        story.backend = backend;
        [story.bytes_up, story.bytes_down] = self.carried();
        story
    }

    /// What its last line will say.
    #[cfg(feature = "admin")]
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// Payload bytes that it has carried, up and down.
    pub fn carried(&self) -> [u64; 2] {
        [self.flows[0].flushed(), self.flows[1].flushed()]
    }

    /// How it is getting on, in a word.
    #[cfg(feature = "admin")]
    pub fn state(&self) -> &'static str {
        match self.state {
            _ if self.flows.iter().any(Flow::is_held) => "stalled",
            State::HalfClosed(_) => "half_closed",
            State::Whole | State::Broken(..) => "open",
        }
    }

    /// When its lifetime is over, where that is still to be told.
    fn lifetime_ends(&self, timeouts: &Timeouts) -> Option<Moment> {
        let lifetime = timeouts.lifetime.filter(|_| !self.retired)?;
        let lacks = timeouts.lifetime_jitter.0 * f32::from(self.haste) / f32::from(u16::MAX);
        Some(self.note.opened + lifetime.mul_f32(1.0 - lacks))
    }

    /// Each limit that is running, and how the tunnel ends when it is reached.
    fn limits(&self, timeouts: &Timeouts) -> [Limit; 5] {
        let moved_at = self.moved_at();
        let stalled = |index: usize| after(self.flows[index].stalled_since(), timeouts.stalled);
        let half_closed_since = match self.state {
            State::HalfClosed(_) => Some(moved_at),
            State::Whole | State::Broken(..) => None,
        };
        [
            (stalled(0), Outcome::Stalled(side(1))),
            (stalled(1), Outcome::Stalled(side(0))),
            (after(half_closed_since, timeouts.half_closed), Outcome::HalfClosed),
            (after(Some(moved_at), timeouts.idle), Outcome::Idle),
            (self.lifetime_ends(timeouts), Outcome::Lifetime),
        ]
    }

    /// The deadline has come, or an earlier one that no longer holds.
    pub fn expire(&mut self, turn: &Turn<'_>) -> Next {
        if !self.kept_alive && turn.now >= self.note.opened + KEEPALIVE_AFTER {
            self.kept_alive = true;
            self.ends[1].keep_alive(&keepalive(&turn.setup.plan.tcp));
        }
        match reached(self.limits(turn.timeouts), turn.now) {
            Some(Outcome::Lifetime) => {
                self.retired = true;
                Next::Retire { deadline: self.deadline(turn.timeouts) }
            }
            Some(outcome) => Next::Close(outcome),
            None => Next::Park { deadline: self.deadline(turn.timeouts) },
        }
    }

    /// Closes both ends: by a reset where one of them has failed, and where bytes are dropped, so that what was passed
    /// on is not taken for the whole.
    pub fn close(self, backend: Option<BackendId>) -> Story {
        let carried = self.carried();
        let mut story = self.note.into_story();
        story.backend = backend;
        [story.bytes_up, story.bytes_down] = carried;
        let drops_bytes = self.flows.iter().any(|flow| flow.stalled_since().is_some());
        if drops_bytes || matches!(self.state, State::Broken(..)) {
            self.ends.into_iter().for_each(Transport::abort);
        }
        story
    }
}

#[cfg(test)]
impl<S> Relay<S> {
    /// As if much had come both ways.
    pub fn be_in_bulk(&mut self) {
        self.flows.iter_mut().for_each(Flow::be_in_bulk);
    }

    /// Bytes of memory that its flows own.
    pub fn owned_bytes(&self) -> [usize; 2] {
        [self.flows[0].owned_bytes(), self.flows[1].owned_bytes()]
    }
}

#[cfg(test)]
mod tests {
    use super::super::Session;
    #[cfg(feature = "splice")]
    use super::super::script::again_in_bulk;
    use super::super::script::{Peer, Play, Rest};
    use super::*;

    /// Limits far enough apart that each can be met alone.
    const CONFIG: &str = "
        [timeouts]
        idle = \"100s\"
        half_closed = \"20s\"
        stalled = \"30s\"
        lifetime = \"1h\"
        [[listener]]
        listen = \"127.0.0.1:8020\"
        protocol = \"tcp\"
        upstream = \"u\"
        [upstream.u]
        servers = [\"127.0.0.1:8010\"]";

    fn tunnel() -> Play {
        let mut play = Play::tunnel(CONFIG, b"", b"");
        assert_eq!(play.run(), Rest::Parked);
        play
    }

    fn finished(peer: &Peer) -> usize {
        peer.wire().finished
    }

    /// Whether both ends were reset, or both not.
    #[track_caller]
    fn check_end(play: &Play, outcome: &str, by_reset: bool) {
        assert_eq!(play.rest, Rest::Over, "{outcome}");
        assert_eq!(play.outcome(), outcome);
        for (end, peer) in play.ends().into_iter().enumerate() {
            assert!(peer.wire().closed, "end {end} is closed");
            assert_eq!(peer.wire().was_reset, by_reset, "end {end}: {outcome}");
        }
    }

    #[test]
    fn bytes_pass_both_ways_and_nothing_is_owned_meanwhile() {
        let mut play = tunnel();
        play.client.sends("up");
        play.server().sends("down");
        assert_eq!(play.run(), Rest::Parked);
        assert_eq!((play.server().got(), play.client.got()), ("up".into(), "down".into()));
        let Session::Relaying(relay) = &play.session else { panic!("a tunnel") };
        assert_eq!(relay.owned_bytes(), [0, 0]);
    }

    #[test]
    fn a_message_costs_one_read_and_one_write() {
        let mut play = tunnel();
        play.client.sends("message");
        play.run();
        assert_eq!(play.client.wire().calls, [1, 0]);
        assert_eq!(play.server().wire().calls, [0, 1]);
    }

    #[test]
    fn bytes_that_came_behind_the_heads_are_the_first() {
        let mut play = Play::tunnel(CONFIG, b"early up, ", b"early down, ");
        play.client.sends("late up");
        play.server().sends("late down");
        play.run();
        assert_eq!(play.server().got(), "early up, late up");
        assert_eq!(play.client.got(), "early down, late down");
    }

    /// At a pace it may go on for a while, and that it is over is told once.
    #[test]
    fn a_tunnel_goes_on_beyond_its_age_until_its_turn_comes() {
        let config = CONFIG.replace("\"100s\"", "\"3h\"");
        let mut play = Play::tunnel(&config, b"", b"");
        play.run();
        play.now += Duration::from_secs(3600);
        let Next::Retire { deadline } = play.lend(Session::expire) else { panic!("its lifetime is over") };
        let idle = play.now + Duration::from_secs(2 * 3600);
        assert_eq!(deadline, Some(idle));
        play.now += Duration::from_secs(1);
        assert!(matches!(play.lend(Session::expire), Next::Park { deadline: Some(at) } if at == idle));
    }

    #[test]
    fn a_half_close_is_passed_on_behind_the_last_byte_in_every_order() {
        for [first, second] in [[0, 1], [1, 0]] {
            for with_bytes in [false, true] {
                let mut play = tunnel();
                let ends = play.ends().map(Peer::clone);
                if with_bytes {
                    ends[first].sends("last words");
                }
                ends[first].ends();
                assert_eq!(play.run(), Rest::Parked);
                assert_eq!([finished(&ends[first]), finished(&ends[second])], [0, 1]);
                assert_eq!(ends[second].got(), if with_bytes { "last words" } else { "" });
                // The other direction goes on.
                ends[second].sends("still here");
                assert_eq!(play.run(), Rest::Parked);
                assert_eq!(ends[first].got(), "still here");
                ends[second].ends();
                play.run();
                assert_eq!([finished(&ends[first]), finished(&ends[second])], [1, 1]);
                check_end(&play, ["client finished", "server finished"][first], false);
            }
        }
    }

    #[test]
    fn both_ends_may_end_in_one_turn() {
        let mut play = tunnel();
        play.client.sends("a");
        play.client.ends();
        play.server().sends("b");
        play.server().ends();
        play.run();
        assert_eq!((play.server().got(), play.client.got()), ("a".into(), "b".into()));
        check_end(&play, "client finished", false);
    }

    #[test]
    fn a_half_close_waits_for_bytes_that_are_held() {
        let mut play = tunnel();
        play.server().is_full();
        play.client.sends("hello");
        play.client.ends();
        assert_eq!(play.run(), Rest::Parked);
        assert_eq!(finished(play.server()), 0);
        play.server().takes(4);
        play.run();
        assert_eq!(finished(play.server()), 0);
        play.server().takes(1);
        play.run();
        assert_eq!((play.server().got(), finished(play.server())), ("hello".into(), 1));
    }

    #[test]
    fn no_more_is_read_than_the_other_side_takes() {
        let mut play = tunnel();
        play.server().is_full();
        play.client.sends(vec![b'x'; 200_000]);
        play.run();
        let left = play.client.wire().arrived.len();
        assert_eq!(left, 200_000 - play.tools.scratch.len(), "one buffer is held, and the rest is not read");
        play.server().takes(1);
        play.run();
        assert_eq!(play.client.wire().arrived.len(), left, "as long as one byte of it is held");
        play.server().takes(play.tools.scratch.len());
        play.run();
        assert_eq!(play.client.wire().arrived.len(), left - play.tools.scratch.len());
    }

    #[test]
    fn one_direction_s_backpressure_does_not_hold_up_the_other() {
        let mut play = tunnel();
        play.server().is_full();
        play.client.sends("stuck");
        play.run();
        play.server().sends("flows");
        play.run();
        assert_eq!(play.client.got(), "flows");
    }

    #[test]
    fn a_spent_budget_yields_and_is_resumed_without_an_edge() {
        for flow_budget in [1, 2, 3] {
            let mut play = tunnel();
            play.tools.flow_budget = flow_budget;
            play.client.sends("abcdef");
            play.client.ends();
            play.tell(Side::Client);
            for turn in 1.. {
                let rest = play.turn();
                assert_eq!(play.server().wire().got.len(), 6.min(turn * flow_budget));
                if rest == Rest::Parked {
                    break;
                }
                assert_eq!(rest, Rest::Yielded);
            }
            assert_eq!((play.server().got(), finished(play.server())), ("abcdef".into(), 1));
        }
    }

    /// A FIN announced, or urgent data, makes us read on behind a short read.
    #[test]
    fn a_peer_that_sends_a_byte_at_a_time_has_a_turn_no_longer_than_others() {
        let mut play = tunnel();
        play.client.wire().arrival_bytes_max = 1;
        play.client.sends([b'x'; 100]);
        play.client.wire().edges.read_closed = true;
        play.tell(Side::Client);
        assert_eq!(play.turn(), Rest::Yielded);
        let reads = play.client.wire().calls[0];
        assert!(reads <= 17, "{reads} reads in a turn");
        play.run();
        assert_eq!(play.server().got().len(), 100);
    }

    #[test]
    fn a_busy_direction_does_not_starve_the_other() {
        let mut play = tunnel();
        play.tools.flow_budget = 1;
        play.client.sends("aaaaaaaaaa");
        play.server().sends("b");
        play.tell(Side::Client);
        play.tell(Side::Server);
        assert_eq!(play.turn(), Rest::Yielded);
        assert_eq!(play.client.got(), "b");
    }

    #[test]
    fn a_reset_becomes_a_reset_after_what_came_before_it() {
        for end in [0, 1] {
            for flow_budget in [1, 100] {
                let mut play = tunnel();
                play.tools.flow_budget = flow_budget;
                let [failed, other] = [play.ends()[end].clone(), play.ends()[1 - end].clone()];
                failed.sends("last words");
                failed.resets();
                play.run();
                assert_eq!((other.got(), finished(&other)), ("last words".into(), 0));
                check_end(&play, ["client reset", "server reset"][end], true);
            }
        }
    }

    #[test]
    fn a_reset_ends_the_session_though_bytes_are_in_flight_the_other_way() {
        for end in [0, 1] {
            let mut play = tunnel();
            let [failed, other] = [play.ends()[end].clone(), play.ends()[1 - end].clone()];
            failed.is_full();
            other.sends("on their way");
            play.run();
            failed.resets();
            play.run();
            assert_eq!(finished(&other), 0);
            check_end(&play, ["client reset", "server reset"][end], true);
        }
    }

    #[test]
    fn a_reset_is_noticed_while_nobody_reads_that_end() {
        for end in [0, 1] {
            let mut play = tunnel();
            let [failed, other] = [play.ends()[end].clone(), play.ends()[1 - end].clone()];
            other.is_full();
            failed.sends("held");
            play.run();
            failed.resets();
            play.run();
            check_end(&play, ["client reset", "server reset"][end], true);
        }
    }

    #[test]
    fn an_end_that_cannot_be_written_is_still_read() {
        for end in [0, 1] {
            for flow_budget in [1, 2, 100] {
                let mut play = tunnel();
                play.tools.flow_budget = flow_budget;
                let [failed, other] = [play.ends()[end].clone(), play.ends()[1 - end].clone()];
                // It has answered and gone: the answer is there, and a write finds nobody.
                failed.wire().arrived.extend(b"the answer");
                failed.vanishes();
                other.sends("a question");
                play.run();
                assert_eq!((other.got(), finished(&other)), ("the answer".into(), 0));
                check_end(&play, ["client reset", "server reset"][end], true);
            }
        }
    }

    #[test]
    fn two_failed_ends_are_one_end() {
        let mut play = tunnel();
        play.client.sends("a");
        play.client.resets();
        play.server().sends("b");
        play.server().resets();
        play.run();
        assert_eq!(play.rest, Rest::Over);
    }

    #[test]
    fn a_reset_behind_a_half_close_is_a_reset() {
        for end in [0, 1] {
            let mut play = tunnel();
            let [failed, other] = [play.ends()[end].clone(), play.ends()[1 - end].clone()];
            other.ends();
            play.run();
            failed.resets();
            play.run();
            check_end(&play, ["client reset", "server reset"][end], true);
        }
    }

    #[test]
    fn a_last_end_is_passed_on_by_the_close_alone() {
        let mut play = tunnel();
        let [client, server] = play.ends().map(Peer::clone);
        client.ends();
        play.run();
        server.ends();
        play.run();
        assert_eq!([client.wire().shutdowns, server.wire().shutdowns], [0, 1]);
        check_end(&play, "client finished", false);
    }

    #[test]
    fn the_kernel_watches_over_the_server_of_a_tunnel_that_is_not_short() {
        let mut play = tunnel();
        play.wait(KEEPALIVE_AFTER - Duration::from_millis(1));
        assert_eq!(play.server().wire().kept_alive, 0);
        play.wait_ms(1);
        assert_eq!(play.server().wire().kept_alive, 1);
        play.wait(KEEPALIVE_AFTER);
        let kept_alive = play.ends().map(|end| end.wire().kept_alive);
        assert_eq!(kept_alive, [0, 1], "once, and the client has it from its listening socket");
    }

    #[test]
    fn bytes_that_nobody_takes_stall_the_tunnel() {
        for end in [0, 1] {
            let mut play = tunnel();
            let [slow, other] = [play.ends()[end].clone(), play.ends()[1 - end].clone()];
            slow.is_full();
            other.sends("hello");
            play.run();
            play.wait_ms(29_999);
            slow.takes(1);
            assert_eq!(play.run(), Rest::Parked, "it took something");
            play.wait_ms(29_999);
            assert_eq!(play.rest, Rest::Parked);
            play.wait_ms(1);
            check_end(&play, "adit stalled", true);
        }
    }

    #[test]
    fn silence_both_ways_is_idle_and_bytes_either_way_are_not() {
        for end in [0, 1] {
            let mut play = tunnel();
            play.wait_ms(99_999);
            play.ends()[end].sends("x");
            assert_eq!(play.run(), Rest::Parked);
            play.wait_ms(99_999);
            assert_eq!(play.rest, Rest::Parked);
            play.wait_ms(1);
            check_end(&play, "adit idle", false);
        }
    }

    #[test]
    fn a_half_closed_tunnel_may_be_silent_for_so_long_and_live_for_longer() {
        for end in [0, 1] {
            let mut play = tunnel();
            play.ends()[end].ends();
            play.run();
            for _ in 0..10 {
                play.wait_ms(19_999);
                play.ends()[1 - end].sends("still here");
                assert_eq!(play.run(), Rest::Parked);
            }
            play.wait_ms(20_000);
            check_end(&play, "adit half_closed", false);
        }
    }

    #[test]
    fn a_tunnel_has_an_age() {
        let mut play = tunnel();
        for _ in 0..36 {
            play.client.sends("x");
            play.run();
            assert_eq!(play.rest, Rest::Parked);
            play.wait_ms(100_000 - 1);
        }
        play.client.sends("x");
        play.run();
        play.wait_ms(36);
        check_end(&play, "adit lifetime", false);
    }

    #[test]
    fn timeouts_that_are_off_do_not_run() {
        let config = CONFIG.replace("\"100s\"", "\"off\"").replace("\"1h\"", "\"off\"");
        let mut play = Play::tunnel(&config, b"", b"");
        play.run();
        play.wait(KEEPALIVE_AFTER);
        assert_eq!((play.rest, play.deadline), (Rest::Parked, None));
    }

    /// What a read would find a splice may not, and how many calls it takes is another matter; all else is the same.
    #[cfg(feature = "splice")]
    #[test]
    fn all_of_this_holds_in_bulk() {
        again_in_bulk(&[
            bytes_pass_both_ways_and_nothing_is_owned_meanwhile,
            bytes_that_came_behind_the_heads_are_the_first,
            a_half_close_is_passed_on_behind_the_last_byte_in_every_order,
            both_ends_may_end_in_one_turn,
            a_half_close_waits_for_bytes_that_are_held,
            no_more_is_read_than_the_other_side_takes,
            one_direction_s_backpressure_does_not_hold_up_the_other,
            a_spent_budget_yields_and_is_resumed_without_an_edge,
            a_busy_direction_does_not_starve_the_other,
            a_reset_becomes_a_reset_after_what_came_before_it,
            a_reset_ends_the_session_though_bytes_are_in_flight_the_other_way,
            a_reset_is_noticed_while_nobody_reads_that_end,
            an_end_that_cannot_be_written_is_still_read,
            two_failed_ends_are_one_end,
            a_reset_behind_a_half_close_is_a_reset,
            bytes_that_nobody_takes_stall_the_tunnel,
            silence_both_ways_is_idle_and_bytes_either_way_are_not,
            a_half_closed_tunnel_may_be_silent_for_so_long_and_live_for_longer,
            a_tunnel_has_an_age,
        ]);
    }

    #[cfg(feature = "splice")]
    #[test]
    fn in_bulk_bytes_are_spliced_up_to_urgent_data_and_copied_from_there() {
        again_in_bulk(&[|| {
            let mut play = tunnel();
            play.client.sends("spliced, ");
            play.run();
            assert_eq!(play.client.wire().spliced, [9, 0]);
            play.client.sends("spliced too, ");
            play.client.sends_urgent();
            // Its event is on its way: what a splice can get at it gets, and at the mark it would block.
            let edges = std::mem::take(&mut play.client.wire().edges);
            play.session.mark(Side::Client, Edges { readable: true, ..Edges::default() });
            play.rest = Rest::Ready;
            play.client.sends("copied");
            play.client.wire().edges = Edges::default();
            assert_eq!(play.run(), Rest::Parked);
            assert_eq!(play.client.wire().spliced, [22, 0]);
            assert_eq!(play.client.wire().arrived.len(), 6);
            play.client.wire().edges = edges;
            play.run();
            assert_eq!(play.server().got(), "spliced, spliced too, copied");
            assert_eq!(play.client.wire().spliced, [22, 0]);
            play.server().sends("still spliced");
            play.run();
            assert_eq!((play.client.got(), play.server().wire().spliced[0]), ("still spliced".into(), 13));
        }]);
    }

    /// A splice at urgent data with the end behind it is told that there is the end.
    #[cfg(feature = "splice")]
    #[test]
    fn in_bulk_nothing_is_lost_between_urgent_data_and_the_end() {
        again_in_bulk(&[|| {
            let mut play = tunnel();
            play.client.sends_urgent();
            play.client.sends("last words");
            play.client.ends();
            let edges = std::mem::take(&mut play.client.wire().edges);
            play.session.mark(Side::Client, Edges { readable: true, ..Edges::default() });
            play.rest = Rest::Ready;
            play.run();
            play.client.wire().edges = edges;
            play.run();
            assert_eq!((play.server().got(), finished(play.server())), ("last words".into(), 1));
        }]);
    }
}
