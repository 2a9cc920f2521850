//! A tunnel between two ends that do anything.

use std::time::Duration;

use fastrand::Rng;

use super::super::Session;
use super::super::script::{PLENTY, Peer, Play, Rest};
use super::{adapt_soon, budget, for_seeds, may_be_spliced, noise};
use crate::error::Side;

const SIDES: [Side; 2] = [Side::Client, Side::Server];

/// One end of a tunnel, as the model knows it.
#[derive(Debug, Default)]
struct End {
    /// What it has sent, trailing bytes of the opening included.
    sent: Vec<u8>,
    /// It will not send more.
    ended: bool,
    /// It has reset the connection, or the connection is gone.
    failed: bool,
    /// All that it sent has to be offered, failure or not: the other end has taken everything since.
    offered: bool,
}

/// A relay between two peers, and what must be true of it at every step.
struct Tunnel {
    play: Play,
    ends: [End; 2],
    /// Bytes that were on their way at the start.
    trailing: [usize; 2],
}

impl Tunnel {
    fn new(dice: &mut Rng) -> Tunnel {
        let trailing =
            [noise(dice, 12), noise(dice, 12)].map(|bytes| if dice.bool() { bytes } else { Vec::new() });
        let mut play = Play::tunnel(CONFIG, &trailing[0], &trailing[1]);
        play.tools.flow_budget = budget(dice);
        play.tools.scratch.truncate(budget(dice));
        adapt_soon(&mut play, dice);
        for peer in play.ends() {
            peer.wire().room = dice.usize(..20);
            may_be_spliced(&mut peer.wire(), dice);
        }
        let lengths = [trailing[0].len(), trailing[1].len()];
        let ends = trailing.map(|sent| End { sent, ..End::default() });
        Tunnel { play, ends, trailing: lengths }
    }

    fn peer(&self, end: usize) -> &Peer {
        self.play.ends()[end]
    }

    /// Bytes that came from this end and have not gone out at the other.
    fn between(&self, end: usize) -> usize {
        let unread = self.peer(end).wire().arrived.len();
        self.ends[end].sent.len() - unread - self.peer(1 - end).wire().got.len()
    }

    fn send(&mut self, end: usize, bytes: &[u8]) {
        self.ends[end].sent.extend_from_slice(bytes);
        self.peer(end).sends(bytes);
    }

    fn end(&mut self, end: usize) {
        if !std::mem::replace(&mut self.ends[end].ended, true) {
            self.peer(end).ends();
        }
    }

    /// Something happens, or the session gets a turn.
    fn step(&mut self, dice: &mut Rng, may_fail: bool) {
        let end = dice.usize(..2);
        match dice.u8(..100) {
            0..20 if !self.ends[end].ended => self.send(end, &noise(dice, 12)),
            20..40 => self.peer(end).takes(dice.usize(..12)),
            40..44 => self.end(end),
            44..48 => self.peer(end).nudges(),
            48 if !self.ends[end].ended => self.peer(end).sends_urgent(),
            49..51 => self.peer(end).wire().interrupts += dice.usize(..3),
            51..54 => drop(self.play.wait(Duration::from_millis(dice.u64(..1000)))),
            54 if may_fail => self.fail(end, dice),
            54..76 => drop(self.play.tell(SIDES[end])),
            _ if self.play.rest != Rest::Over => drop(self.play.turn()),
            _ => {}
        }
        self.check();
    }

    fn fail(&mut self, end: usize, dice: &mut Rng) {
        if dice.bool() {
            // Whoever is known to take everything must get everything, unless it fails itself.
            self.peer(1 - end).takes(PLENTY);
            self.play.tell(SIDES[1 - end]);
            // A splice stops at urgent data, and where its event is still on its way it is told of a reset first: what
            // stands behind the mark is lost then.
            self.ends[end].offered = !self.peer(end).has_urgent();
        }
        (self.ends[end].ended, self.ends[end].failed) = (true, true);
        if dice.bool() {
            self.peer(end).resets();
        } else {
            self.peer(end).vanishes();
            self.peer(end).ends();
        }
    }

    /// What must be true at any time.
    fn check(&self) {
        for end in [0, 1] {
            let (from, to) = (&self.ends[end], self.peer(1 - end).wire());
            assert!(from.sent.starts_with(&to.got), "bytes arrive once and in order");
            assert!(to.finished <= 1, "an end is passed on once");
            if to.finished == 1 {
                assert!(from.ended, "an end is passed on where there is one");
                assert_eq!(to.got.len(), from.sent.len(), "an end is passed on behind the last byte");
            }
        }
        let Session::Relaying(relay) = &self.play.session else { return };
        let splices = (0..2).all(|end| self.peer(end).wire().splices);
        let copied_bytes_max = self.play.tools.flow_budget.min(self.play.tools.scratch.len());
        let fill_bytes_max = if splices { self.play.tools.flow_budget } else { copied_bytes_max };
        for (end, owned_bytes) in relay.owned_bytes().into_iter().enumerate() {
            let held = self.between(end);
            assert!(held <= fill_bytes_max.max(self.trailing[end]), "{held} bytes are held");
            assert!(held > 0 || owned_bytes == 0, "a flow that holds nothing owns nothing");
        }
        if self.play.rest == Rest::Parked {
            let due = relay.deadline(&self.play.setup.plan.listeners[0].timeouts);
            let is_told = due.is_none_or(|due| self.play.deadline.is_some_and(|deadline| deadline <= due));
            assert!(is_told, "the deadline that the loop has is never too late");
            self.check_parked();
        }
    }

    /// A parked session waits for something that has not happened: whatever it could do was announced once, and if the
    /// announcement is not on its way any more nobody will tell it again.
    fn check_parked(&self) {
        let half_closed = (0..2).any(|end| self.peer(end).wire().finished > 0);
        let held = (0..2).any(|end| self.between(end) > 0);
        if half_closed || held {
            assert!(self.play.deadline.is_some(), "a wait for a peer has a deadline");
        }
        if !(0..2).all(|end| self.peer(end).is_quiet()) {
            return;
        }
        for end in [0, 1] {
            let (source, sink) = (self.peer(end).wire(), self.peer(1 - end).wire());
            let between = self.ends[end].sent.len() - source.arrived.len() - sink.got.len();
            if between > 0 {
                assert_eq!(sink.room, 0, "{between} bytes are held, and the sink takes them");
            } else {
                assert!(source.arrived.is_empty(), "bytes are there and nobody reads them");
                assert!(!source.ended || sink.finished == 1, "an end is there and nobody reads it");
            }
        }
    }

    /// Nothing more is in the way: both ends take everything, and end.
    fn calm_down(&mut self, dice: &mut Rng) {
        for end in [0, 1] {
            self.peer(end).takes(PLENTY);
            self.end(end);
        }
        while self.play.rest != Rest::Over {
            for side in SIDES {
                let _ = dice.bool() && self.play.tell(side);
            }
            if self.play.rest != Rest::Parked {
                self.play.turn();
                self.check();
            } else if (0..2).all(|end| self.peer(end).is_quiet()) {
                panic!("the session stands still");
            }
        }
    }

    /// What must be true at the end.
    fn check_end(&self) {
        let failed = self.ends.iter().any(|end| end.failed);
        let was_reset = [0, 1].map(|end| self.peer(end).wire().was_reset);
        for end in [0, 1] {
            let sink = self.peer(1 - end).wire();
            assert!(sink.closed);
            if !failed {
                assert_eq!((sink.got.len(), sink.finished), (self.ends[end].sent.len(), 1));
            } else if self.ends[end].offered && !self.ends[1 - end].failed {
                assert_eq!(
                    sink.got.len(),
                    self.ends[end].sent.len(),
                    "what came before a failure is offered"
                );
            }
        }
        assert_eq!(was_reset[0], was_reset[1], "a reset is for both");
        assert_eq!(self.play.lines().len(), 1);
        match self.play.outcome().as_str() {
            "client finished" | "server finished" => assert!(!was_reset[0]),
            "client reset" | "server reset" => assert!(failed && was_reset[0]),
            other => panic!("{other}"),
        }
        let [up, down] = [1, 0].map(|end| self.peer(end).wire().got.len());
        assert_eq!(self.play.told(&["bytes_up", "bytes_down"]), format!("{up} {down}"));
    }
}

const CONFIG: &str = "
    [[listener]]
    listen = \"127.0.0.1:8020\"
    protocol = \"tcp\"
    upstream = \"u\"
    [upstream.u]
    servers = [\"127.0.0.1:8010\"]";

#[test]
fn a_tunnel_keeps_its_promises_whatever_its_ends_do() {
    for_seeds(|dice| {
        let may_fail = dice.u8(..4) == 0;
        let mut tunnel = Tunnel::new(dice);
        for _ in 0..dice.usize(..300) {
            if tunnel.play.rest == Rest::Over {
                break;
            }
            tunnel.step(dice, may_fail);
        }
        tunnel.calm_down(dice);
        tunnel.check();
        tunnel.check_end();
    });
}
