//! Has operators say what dice say, one thing after the other, tells the crowd before they do, and judges what came of
//! it. What they say is decided in `steering`, how it is said in `operators`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::config::DRAIN_SECONDS;
use super::crowd::{Crowd, PATIENCE, World};
use super::ledger::Ledger;
use super::looks;
use super::operators::{Brief, Operators, Told};
use super::payload::dice;
use super::steering::{Done, Names, Order};
use super::verdict::{Promise, Verdict};
use crate::operator::{Answer, Operator};

/// Between an answer and the next order at most.
const PAUSE_MS_MAX: u64 = 100;
/// How long a tunnel may be there that was closed: as long as it may take to go, and what a busy machine takes.
const CLOSED_WITHIN: Duration = Duration::from_secs(DRAIN_SECONDS + 3);
/// Of so many closed tunnels one at least is told of as that: whatever else ends them, it is not always first.
const CLOSED_MANY: u64 = 10;

/// What operators did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub answers: u64,
    pub slowest: Duration,
    pub unlucky: u64,
    pub drained: u64,
    pub closed_one: u64,
    pub closed_some: u64,
    /// Tunnels that they were about.
    pub closed: u64,
    pub asked: u64,
    pub strangers: u64,
}

pub struct Helm {
    brief: Brief,
    operators: Option<Operators>,
    under_way: Option<UnderWay>,
    next_at: Instant,
    /// Of the next order.
    number: u64,
    /// What is to be said next, before dice are asked.
    follows: Option<UnderWay>,
    /// Tunnels that are closed, by their clients' numbers, and by when they have to be gone.
    awaited: Vec<(u64, Instant)>,
    /// There was no answer to an order to close some.
    is_unsure: bool,
    pub counts: Counts,
}

/// An order that is given.
struct UnderWay {
    order: Order,
    /// Clients that are among those it is about.
    meant: Vec<u64>,
    /// The world's, when it was given.
    changes: u64,
}

impl Helm {
    pub fn new(brief: Brief) -> Helm {
        Helm {
            brief,
            operators: None,
            under_way: None,
            next_at: Instant::now(),
            number: 0,
            follows: None,
            awaited: Vec::new(),
            is_unsure: false,
            counts: Counts::default(),
        }
    }

    /// Operators come.
    pub fn begin(&mut self) -> Result<(), String> {
        let operators = Operators::start(&self.brief).map_err(|error| format!("operators: {error}"))?;
        self.operators = Some(operators);
        Ok(())
    }

    /// From now on well-behaved operators may go without an answer, or must not any more.
    pub fn set_hardship(&self, is_hard: bool) {
        if is_hard { self.brief.hardship.begin() } else { self.brief.hardship.end() }
    }

    /// Whether nobody is being told anything.
    pub fn is_at_rest(&self) -> bool {
        self.under_way.is_none()
    }

    /// Hears what operators tell.
    pub fn hear(&mut self, crowd: &mut Crowd, world: &mut World, verdict: &mut Verdict) {
        let Some(operators) = &self.operators else { return };
        for told in operators.told.try_iter().collect::<Vec<_>>() {
            self.take(told, crowd, world, verdict);
        }
        let now = Instant::now();
        world.steering.forget(now);
        if self.awaited.first().is_some_and(|(_, until)| *until < now) {
            let is_over = |(_, until): &(u64, Instant)| *until < now;
            let over: HashSet<u64> =
                self.awaited.iter().filter(|it| is_over(it)).map(|(id, _)| *id).collect();
            self.awaited.retain(|it| !is_over(it));
            for id in crowd.with_ids(&over) {
                let what = format!("{CLOSED_WITHIN:?} after an operator closed tunnel {id} it is there");
                verdict.breach(Promise::Operators, what);
            }
        }
    }

    fn take(&mut self, told: Told, crowd: &mut Crowd, world: &mut World, verdict: &mut Verdict) {
        match told {
            Told::Answered(took) => {
                self.counts.answers += 1;
                self.counts.slowest = self.counts.slowest.max(took);
            }
            Told::Wronged(what) => verdict.breach(Promise::Operators, what),
            Told::Unlucky => self.counts.unlucky += 1,
            Told::Stranger => self.counts.strangers += 1,
            Told::Replied(answer) => {
                let Some(under_way) = self.under_way.take() else { return };
                let now = Instant::now();
                let mut rng = dice(self.brief.seed, 5, self.number);
                self.next_at = now + Duration::from_millis(rng.u64(..PAUSE_MS_MAX));
                let Some(answer) = answer else {
                    let may_close =
                        matches!(under_way.order, Order::CloseOne { .. } | Order::CloseSome { .. });
                    self.is_unsure |= may_close;
                    return world.steering.lose(&under_way.order, now);
                };
                let is_settled = world.changes % 2 == 0 && world.changes == under_way.changes;
                let (order, running) = (&under_way.order, &world.running);
                match world.steering.judge(order, &answer, running, is_settled, now) {
                    Ok(done) => self.follow(under_way, done, crowd, now),
                    Err(what) => {
                        let said = order.question(self.names(world)).told();
                        verdict.breach(Promise::Operators, format!("{said}: {what}"));
                    }
                }
            }
        }
    }

    /// What has been done may have to show, and something else may have to be said.
    fn follow(&mut self, under_way: UnderWay, done: Done, crowd: &mut Crowd, now: Instant) {
        let UnderWay { order, meant, .. } = under_way;
        match done {
            Done::Nothing => self.counts.asked += 1,
            Done::Drained => self.counts.drained += 1,
            Done::Found(rows) => {
                let mut rng = dice(self.brief.seed, 8, self.number);
                let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
                let Some(row) = rows.get(rng.usize(..rows.len().max(1))) else { return };
                let Some((id, from, to)) = read_row(row) else { return };
                let meant = crowd.hear_of_closing(from, to);
                // Whoever stays, or is gone already, as far as we know: what that would be about.
                let order = Order::CloseOne { id, is_dry: meant.is_none() };
                self.follows = Some(UnderWay { order, meant: meant.into_iter().collect(), changes: 0 });
                self.next_at = now;
            }
            Done::Closed(matched) => {
                self.counts.closed += matched;
                let is_whole = match order {
                    Order::CloseSome { is_whole, .. } => {
                        self.counts.closed_some += 1;
                        is_whole
                    }
                    Order::CloseOne { .. } | Order::Drain { .. } | Order::Find { .. } | Order::Ask { .. } => {
                        self.counts.closed_one += 1;
                        matched == 1
                    }
                };
                if is_whole {
                    self.awaited.extend(meant.into_iter().map(|id| (id, now + CLOSED_WITHIN)));
                }
            }
        }
    }

    /// Has the next thing said, if it is time.
    pub fn steer(&mut self, crowd: &mut Crowd, world: &mut World) {
        let names = Names { servers: &self.brief.servers, listeners: &world.listeners };
        let Some(operators) = &self.operators else { return };
        if self.under_way.is_some() || Instant::now() < self.next_at {
            return;
        }
        let mut under_way = self.follows.take().unwrap_or_else(|| {
            self.number += 1;
            let mut rng = dice(self.brief.seed, 9, self.number);
            let order = Order::any(&mut rng, &world.steering, names, &crowd.kept());
            UnderWay { order, meant: Vec::new(), changes: 0 }
        });
        under_way.changes = world.changes;
        under_way.meant.extend(crowd.hear_of_order(&under_way.order));
        world.steering.begin(&under_way.order);
        operators.say(under_way.order.question(names));
        self.under_way = Some(under_way);
    }

    /// Operators go.
    pub fn end(&mut self, crowd: &mut Crowd, world: &mut World, verdict: &mut Verdict) -> Result<(), String> {
        let Some(operators) = self.operators.take() else { return Ok(()) };
        let told: Receiver<Told> = operators.finish()?;
        for told in told.try_iter() {
            self.take(told, crowd, world, verdict);
        }
        self.follows = None;
        Ok(())
    }

    /// Takes back whatever operators let drain, once nothing else happens any more. Blocking.
    pub fn take_back(&self, world: &mut World) -> Result<(), String> {
        let mut operator = self.connect()?;
        for order in world.steering.take_all_back().collect::<Vec<_>>() {
            let question = order.question(self.names(world));
            let answer = ask(&mut operator, &question.target, question.body.as_ref())?;
            let judged = world.steering.judge(&order, &answer, &world.running, true, Instant::now());
            judged.map_err(|what| format!("{}: {what}", question.told()))?;
        }
        Ok(())
    }

    /// What adit says when nobody is there and nothing drains. Blocking.
    pub fn status(&self) -> Result<Value, String> {
        ask(&mut self.connect()?, "/status", None)?.json()
    }

    fn names<'a>(&'a self, world: &'a World) -> Names<'a> {
        Names { servers: &self.brief.servers, listeners: &world.listeners }
    }

    fn connect(&self) -> Result<Operator, String> {
        Operator::connect(&self.brief.socket, PATIENCE).map_err(|error| format!("an operator: {error}"))
    }

    /// Whether the access log and adit's own counts tell the same, and of no more tunnels than operators closed.
    pub fn judge(&self, status: &Value, ledger: &Ledger, verdict: &mut Verdict) {
        if let Err(what) = looks::at_rest(status, ledger) {
            verdict.breach(Promise::Operators, what);
        }
        let (told, closed) = (ledger.outcomes.get("closed").copied().unwrap_or_default(), self.counts.closed);
        verdict.expect(Promise::Tunnels, told <= closed || self.is_unsure, || {
            format!("{told} were closed by operators, who closed {closed}")
        });
        verdict.expect(Promise::Operators, told > 0 || closed < CLOSED_MANY || ledger.lost > 0, || {
            format!("operators closed {closed} tunnels, and the access log knows of none")
        });
    }
}

/// The answer to a question, a bounded time away.
fn ask(operator: &mut Operator, target: &str, body: Option<&Value>) -> Result<Answer, String> {
    let asked = match body {
        Some(body) => operator.post(target, body),
        None => operator.get(target),
    };
    asked.map_err(|error| format!("{target}: {error}"))
}

/// A tunnel's id, its client and where that came to.
fn read_row(row: &Value) -> Option<(String, SocketAddr, SocketAddr)> {
    let text = |name: &str| row[name].as_str();
    Some((text("id")?.to_owned(), text("client")?.parse().ok()?, text("listener")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::operators::Hardship;
    use super::*;

    #[test]
    fn a_row_names_both_ends_of_a_connection() {
        let row = json!({ "id": "a7", "client": "127.0.0.1:5", "listener": "127.0.0.2:6", "worker": 0 });
        let (from, to) = ("127.0.0.1:5".parse().unwrap(), "127.0.0.2:6".parse().unwrap());
        assert_eq!(read_row(&row), Some(("a7".into(), from, to)));
        assert_eq!(read_row(&json!({ "id": "a7", "client": "unix:", "listener": "127.0.0.2:6" })), None);
    }

    #[test]
    fn no_more_tunnels_are_closed_than_operators_closed_and_some_are_told_of() {
        let brief = Brief {
            socket: "".into(),
            servers: Vec::new(),
            seed: 1,
            workers: 1,
            hardship: Hardship::default(),
        };
        let check = |closed, told: u64, is_unsure, words: Option<&str>| {
            let mut helm = Helm::new(brief.clone());
            (helm.counts.closed, helm.is_unsure) = (closed, is_unsure);
            let mut ledger = Ledger::default();
            for id in 0..told {
                ledger.note(&format!("id={id} event=open"));
                ledger.note(&format!("id={id} event=close status=101 outcome=closed"));
            }
            let status = json!({
                "sessions": { "open": 0 }, "tunnels": { "open": 0, "opened": told }, "gone": 0,
                "listeners": [], "upstreams": [],
                "ends": [{ "outcome": "closed", "by": "adit", "count": told }],
            });
            let mut verdict = Verdict::default();
            helm.judge(&status, &ledger, &mut verdict);
            let text = verdict.text(1);
            assert_eq!(verdict.is_good(), words.is_none(), "{text}");
            assert!(text.contains(words.unwrap_or_default()), "{text}");
        };
        check(0, 0, false, None);
        check(7, 7, false, None);
        check(9, 0, false, None);
        check(10, 0, false, Some("operators closed 10 tunnels, and the access log knows of none"));
        check(1, 2, false, Some("2 were closed by operators, who closed 1"));
        check(1, 2, true, None);
    }
}
