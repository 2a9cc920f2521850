//! What operators have adit do: which servers they let drain, which tunnels they close, what they only ask about; and
//! what that permits. Pure: dice in, an order out; an answer in, what is wrong with it out.
//!
//! As configurations do, orders leave some places alone, so that nothing ends a kept tunnel, and nobody is shut out of
//! a place where he must be let in.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::config::{Config, DRAIN_RATE, POOLS, Place, Pool, SERVERS};
use super::crowd::GRACE;
use super::operators::Question;
use crate::operator::Answer;

/// Servers that operators let drain: never the first of an upstream to which somebody must be let in.
const DRAINABLE: [(Pool, usize); 5] =
    [(Pool::Broad, 3), (Pool::Broad, 4), (Pool::Mortal, 4), (Pool::Mortal, 5), (Pool::Passing, 5)];

/// An order whose answer was lost is carried out by then, or never.
const LOST_FOR: Duration = Duration::from_secs(30);

/// Hardly any tunnel is as old that does not stay.
const OLD: Duration = Duration::from_secs(6);

/// Tunnels among which one is chosen to be closed.
const CHOICE: usize = 20;

/// Whose tunnels an order is about, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of an upstream to one of its servers.
    Server(Pool, usize),
    /// Those of a route, or of a listener.
    Place(Place),
}

impl Reach {
    /// Whether a tunnel is among them; where its server is not known yet, whether it may be.
    pub fn takes(self, place: Place, server: Option<usize>) -> bool {
        match self {
            Reach::Server(pool, meant) => place.pool() == pool && server.is_none_or(|server| server == meant),
            Reach::Place(meant) => place == meant,
        }
    }
}

/// Whether operators let a server drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    Since(Instant),
    /// They have said so, or the contrary, and there was no answer.
    Unknown,
}

/// What operators have said, and is not known to be over.
pub struct Steering {
    /// As [`DRAINABLE`].
    drains: [Drain; DRAINABLE.len()],
    /// Whom that is about which is said and not answered.
    under_way: Option<Reach>,
    /// The server that is to drain no more by what is said and not answered: it may do so no more already.
    lifted: Option<usize>,
    /// What was said and never answered, with the time by when it is over.
    lost: Vec<(Reach, Instant)>,
}

impl Steering {
    /// Nothing was said.
    pub fn new() -> Steering {
        let drains = [Drain::No; DRAINABLE.len()];
        Steering { drains, under_way: None, lifted: None, lost: Vec::new() }
    }

    /// Whether a tunnel may be closed by what is under way.
    pub fn may_close(&self, place: Place, server: Option<usize>) -> bool {
        let all = self.under_way.iter().chain(self.lost.iter().map(|(reach, _)| reach));
        all.into_iter().any(|reach| reach.takes(place, server))
    }

    /// Whether a server behind a place drains by what operators said, or may.
    pub fn lets_drain(&self, place: Place, server: usize) -> bool {
        let drained = DRAINABLE.iter().zip(&self.drains).filter(|(_, drain)| **drain != Drain::No);
        drained
            .into_iter()
            .any(|(&(pool, drained), _)| Reach::Server(pool, drained).takes(place, Some(server)))
    }

    /// The servers behind a place to which nothing new may go, whatever the configuration says.
    pub fn shut(&self, place: Place, now: Instant) -> [bool; SERVERS] {
        let mut shut = [false; SERVERS];
        for (spot, (pool, server)) in DRAINABLE.into_iter().enumerate() {
            if let Drain::Since(since) = self.drains[spot] {
                let is_so = now > since + GRACE && self.lifted != Some(spot);
                shut[server] |= is_so && pool == place.pool();
            }
        }
        shut
    }

    /// An order is about to be given.
    pub fn begin(&mut self, order: &Order) {
        self.under_way = order.reach();
        self.lifted = match order {
            Order::Drain { spot, drains: false } => Some(*spot),
            _ => None, // whatever else is said lets nobody in
        };
    }

    /// There will be no answer to it.
    pub fn lose(&mut self, order: &Order, now: Instant) {
        self.lifted = None;
        self.lost.extend(self.under_way.take().map(|reach| (reach, now + LOST_FOR)));
        if let Order::Drain { spot, .. } = *order {
            self.drains[spot] = Drain::Unknown;
        }
    }

    /// Forgets what is over.
    pub fn forget(&mut self, now: Instant) {
        self.lost.retain(|(_, until)| *until > now);
    }

    /// An order is answered: whether it is as it must be. `is_settled`: `running` was the configuration all the time.
    pub fn judge(
        &mut self,
        order: &Order,
        answer: &Answer,
        running: &Config,
        is_settled: bool,
        now: Instant,
    ) -> Result<Done, String> {
        (self.under_way, self.lifted) = (None, None);
        match order {
            Order::Drain { spot, drains } => {
                self.judge_drain(*spot, *drains, answer, running, is_settled, now)
            }
            Order::Find { .. } => Ok(Done::Found(answer.json()?["tunnels"].take())),
            Order::CloseOne { is_dry, .. } => {
                let matched = closed(answer, *is_dry)?;
                if matched > 1 {
                    return Err(format!("{matched} tunnels have one id"));
                }
                Ok(if *is_dry { Done::Nothing } else { Done::Closed(matched) })
            }
            Order::CloseSome { .. } => closed(answer, false).map(Done::Closed),
            Order::Ask { permitted, at_least, .. } => {
                if !permitted.contains(&answer.status) {
                    return Err(format!("{}, and not {permitted:?}: {}", answer.status, answer.body));
                }
                if let Some(least) = at_least {
                    let matched = closed(answer, true)?;
                    if matched < *least {
                        return Err(format!("{matched} tunnels of the {least} that are there for sure"));
                    }
                }
                Ok(Done::Nothing)
            }
        }
    }

    fn judge_drain(
        &mut self,
        spot: usize,
        drains: bool,
        answer: &Answer,
        running: &Config,
        is_settled: bool,
        now: Instant,
    ) -> Result<Done, String> {
        let (pool, server) = DRAINABLE[spot];
        let by_file = running.drains(pool, server);
        let permitted: &[u16] = match (is_settled, by_file) {
            (true, None) => &[404],
            (true, Some(true)) if !drains => &[409],
            (true, Some(_)) => &[200],
            (false, _) if drains => &[200, 404],
            (false, _) => &[200, 404, 409],
        };
        if !permitted.contains(&answer.status) {
            return Err(format!("{}, and not {permitted:?}: {}", answer.status, answer.body));
        }
        if answer.status != 200 {
            return Ok(Done::Nothing);
        }
        let told = answer.json()?;
        let was_so = match self.drains[spot] {
            Drain::No => Some(by_file == Some(true)),
            Drain::Since(_) => Some(true),
            Drain::Unknown => None,
        };
        if let Some(was_so) = was_so.filter(|_| is_settled) {
            if told["changed"] != (was_so != drains) || told["dry_run"] != false {
                return Err(format!("it was so ({was_so}) and is to be so ({drains}): {told}"));
            }
        }
        self.drains[spot] = match (drains, self.drains[spot]) {
            (false, _) => Drain::No,
            (true, Drain::Since(since)) => Drain::Since(since),
            (true, Drain::No | Drain::Unknown) => Drain::Since(now),
        };
        Ok(Done::Drained)
    }

    /// What would take back everything that operators let drain, or may.
    pub fn take_all_back(&self) -> impl Iterator<Item = Order> {
        let drained = |drain: &Drain| *drain != Drain::No;
        let spots = (0..DRAINABLE.len()).filter(move |&spot| drained(&self.drains[spot]));
        spots.map(|spot| Order::Drain { spot, drains: false })
    }
}

/// How many tunnels an answer to a request to close some is about.
fn closed(answer: &Answer, is_dry: bool) -> Result<u64, String> {
    let told = answer.json()?;
    let matched = told["matched"].as_u64().ok_or_else(|| format!("no number: {told}"))?;
    if told["dry_run"] == is_dry && told["rate"] == DRAIN_RATE {
        Ok(matched)
    } else {
        Err(format!("dry_run is to be {is_dry}, and the rate {DRAIN_RATE}: {told}"))
    }
}

/// What an order has come to.
#[derive(Debug, PartialEq)]
pub enum Done {
    Nothing,
    /// A server drains, or no more.
    Drained,
    /// Rows of tunnels.
    Found(Value),
    /// So many tunnels have to go.
    Closed(u64),
}

/// What an operator says.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Lets a server drain, or no more.
    Drain {
        /// In [`DRAINABLE`].
        spot: usize,
        drains: bool,
    },
    /// Looks for tunnels of which one is to be closed.
    Find { query: String },
    /// Closes one, or says that it would.
    CloseOne { id: String, is_dry: bool },
    /// Closes some. Where `is_whole`, all that it reaches, and otherwise some of them.
    CloseSome { reach: Reach, is_whole: bool, filter: Map<String, Value> },
    /// What changes nothing, and how it may be answered; of so many tunnels at least.
    Ask { question: Question, permitted: &'static [u16], at_least: Option<u64> },
}

/// How things are called.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    pub servers: &'a [SocketAddr],
    pub listeners: &'a HashMap<Ipv4Addr, SocketAddr>,
}

impl Names<'_> {
    fn server(self, pool: Pool, server: usize) -> Map<String, Value> {
        object(json!({ "upstream": pool.name(), "server": self.servers[server].to_string() }))
    }

    fn listener(self, place: Place) -> String {
        self.listeners[&place.ip()].to_string()
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("{other} is no object"),
    }
}

impl Order {
    /// Another one, by dice. `kept`: for how long those tunnels to the first upstream are open that stay.
    pub fn any(rng: &mut Rng, steering: &Steering, names: Names<'_>, kept: &[Duration]) -> Order {
        match rng.u8(..10) {
            0..=2 => {
                let spot = rng.usize(..DRAINABLE.len());
                let is_so = steering.drains[spot] != Drain::No;
                // What is so already may be said again.
                Order::Drain { spot, drains: is_so == (rng.u8(..6) == 0) }
            }
            3 | 4 => {
                let pool = POOLS[rng.usize(..POOLS.len())].name();
                let sort = ["age", "idle", "bytes", "bytes_up", "bytes_down", "rate"][rng.usize(..6)];
                let order = if rng.bool() { "asc" } else { "desc" };
                let query = format!("upstream={pool}&sort={sort}&order={order}&limit={CHOICE}");
                Order::Find { query }
            }
            5 => Order::close_some(rng, names),
            _ => Order::ask(rng, names, kept),
        }
    }

    fn close_some(rng: &mut Rng, names: Names<'_>) -> Order {
        let (reach, mut filter, mut is_whole) = match rng.u8(..4) {
            0 | 1 => {
                let (pool, server) = DRAINABLE[rng.usize(..DRAINABLE.len())];
                (Reach::Server(pool, server), names.server(pool, server), true)
            }
            2 => {
                let place = [Place::Mortal, Place::Passing, Place::Broad][rng.usize(..3)];
                (Reach::Place(place), object(json!({ "route": place.host() })), true)
            }
            // When the listener was there last it may have had another port.
            _ => {
                let filter = object(json!({ "listener": names.listener(Place::Side) }));
                (Reach::Place(Place::Side), filter, false)
            }
        };
        let narrower = match rng.u8(..6) {
            0 => Some(("min_age", json!("1s500ms"))),
            1 => Some(("min_idle", json!(0.3))),
            2 => Some(("min_bytes", json!(10_000))),
            3 => Some(("client", json!("127.0.0.0/8"))),
            _ => None,
        };
        if let Some((key, value)) = narrower {
            filter.insert(key.into(), value);
            is_whole &= key == "client"; // which all of them are
        }
        Order::CloseSome { reach, is_whole, filter }
    }

    fn ask(rng: &mut Rng, names: Names<'_>, kept: &[Duration]) -> Order {
        let steady = names.listener(Place::Steady);
        let post = |path: &str, body: Value| Question { target: path.into(), body: Some(body) };
        let get = |target: &str| Question { target: target.into(), body: None };
        let mut first = names.server(Pool::Steady, 0);
        let (question, permitted, at_least): (Question, &[u16], Option<u64>) = match rng.u8(..14) {
            0 => (post("/close", json!({ "all": true, "dry_run": true })), &[200], Some(kept.len() as u64)),
            // Nearly all of these stay, so that hardly any of them may be missed.
            1..=3 => {
                let old = kept.iter().filter(|age| **age > OLD).count();
                let body =
                    json!({ "upstream": Pool::Steady.name(), "min_age": OLD.as_secs(), "dry_run": true });
                (post("/close", body), &[200], Some(old as u64))
            }
            4 => (post("/close", json!({ "id": "nobody", "dry_run": true })), &[200], Some(0)),
            5 => (post("/drain", json!({ "all": true, "dry_run": true })), &[200], None),
            6 => (post("/drain", json!({ "listener": steady, "dry_run": true })), &[200], None),
            7 => {
                let route = Place::Steady.host();
                let body = json!({ "listener": steady, "route": route, "dry_run": true });
                (post("/drain", body), &[200], None)
            }
            8 => {
                first.insert("dry_run".into(), true.into());
                (post("/drain", first.into()), &[200], None)
            }
            // What does not drain.
            9 => (post("/undrain", first.into()), &[200], None),
            // The file may be a wrong one at present.
            10 => (post("/reload", json!({ "dry_run": true })), &[200, 409], None),
            // The configuration may not have it.
            11 => {
                let body = json!({ "upstream": Pool::Broad.name(), "dry_run": true });
                (post("/rebalance", body), &[200, 409], None)
            }
            12 => match rng.u8(..3) {
                0 => (get("/close"), &[405], None),
                1 => (get("/nowhere"), &[404], None),
                _ => (get("/tunnels?limit=0"), &[400], None),
            },
            _ => match rng.u8(..3) {
                0 => (post("/close", json!({})), &[400], None),
                1 => (post("/close", json!({ "all": true, "why": "not" })), &[400], None),
                _ => (post("/drain", json!({ "upstream": "nobody", "server": "nowhere" })), &[404], None),
            },
        };
        Order::Ask { question, permitted, at_least }
    }

    /// Whose tunnels may be closed by it.
    pub fn reach(&self) -> Option<Reach> {
        match self {
            Order::Drain { spot, drains: true } => {
                let (pool, server) = DRAINABLE[*spot];
                Some(Reach::Server(pool, server))
            }
            Order::CloseSome { reach, .. } => Some(*reach),
            // Whose tunnel that is, is known by more than where it goes.
            Order::CloseOne { .. } | Order::Drain { drains: false, .. } => None,
            Order::Find { .. } | Order::Ask { .. } => None,
        }
    }

    /// What is let in again by it: an upstream's server.
    pub fn lets_in(&self) -> Option<(Pool, usize)> {
        match self {
            Order::Drain { spot, drains: false } => Some(DRAINABLE[*spot]),
            Order::Drain { drains: true, .. }
            | Order::CloseOne { .. }
            | Order::CloseSome { .. }
            | Order::Find { .. }
            | Order::Ask { .. } => None,
        }
    }

    pub fn question(&self, names: Names<'_>) -> Question {
        let (target, body) = match self {
            Order::Drain { spot, drains } => {
                let (pool, server) = DRAINABLE[*spot];
                let path = if *drains { "/drain" } else { "/undrain" };
                (path.to_owned(), Some(names.server(pool, server).into()))
            }
            Order::Find { query } => (format!("/tunnels?{query}"), None),
            Order::CloseOne { id, is_dry } => ("/close".into(), Some(json!({ "id": id, "dry_run": is_dry }))),
            Order::CloseSome { filter, .. } => ("/close".into(), Some(filter.clone().into())),
            Order::Ask { question, .. } => return question.clone(),
        };
        Question { target, body }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{Admission, KEPT_PLACES, PLACES};
    use super::*;

    fn with_names<T>(with: impl FnOnce(Names) -> T) -> T {
        let address = |last: u8| SocketAddr::from(([127, 0, 1, last], 80));
        let servers: Vec<SocketAddr> = (0..SERVERS as u8).map(address).collect();
        let listeners = PLACES.map(|place| (place.ip(), (place.ip(), 81).into())).into();
        with(Names { servers: &servers, listeners: &listeners })
    }

    fn answer(status: u16, body: &Value) -> Answer {
        Answer { status, body: body.to_string() }
    }

    /// Two thousand orders, each with what it is asked by.
    fn many(mut each: impl FnMut(&Order, &Question)) {
        with_names(|names| {
            let (mut rng, steering) = (Rng::with_seed(5), Steering::new());
            for _ in 0..2000 {
                let order = Order::any(&mut rng, &steering, names, &[OLD; 3]);
                each(&order, &order.question(names));
            }
        });
    }

    #[test]
    fn no_order_closes_a_kept_tunnel_or_shuts_a_place_where_somebody_must_be_let_in() {
        many(|order, _| {
            for place in KEPT_PLACES {
                for server in [None, Some(0), Some(1)] {
                    assert!(!order.reach().is_some_and(|reach| reach.takes(place, server)), "{order:?}");
                }
            }
        });
        for place in PLACES.into_iter().filter(|place| Config::first().admits(*place) == Admission::Must) {
            let drained = |server| DRAINABLE.contains(&(place.pool(), server));
            assert!((0..SERVERS).any(|server| place.may_reach(server) && !drained(server)), "{place:?}");
        }
    }

    #[test]
    fn every_kind_of_order_is_given_and_what_only_asks_changes_nothing() {
        let mut seen = std::collections::BTreeMap::new();
        many(|order, question| {
            let kind = match order {
                Order::Drain { drains: true, .. } => "drain",
                Order::Drain { drains: false, .. } => "undrain",
                Order::Find { .. } => "find",
                Order::CloseSome { is_whole: true, .. } => "close whole",
                Order::CloseSome { is_whole: false, .. } => "close some",
                Order::CloseOne { .. } => unreachable!("it follows from what was found"),
                Order::Ask { question: asked, permitted, .. } => {
                    assert_eq!(asked, question);
                    // A yes to a `POST` is to what says that it is only a question, or to what is so already.
                    let is_dry = asked.body.as_ref().is_none_or(|body| body["dry_run"] == true);
                    let is_taken = permitted.contains(&200) && asked.target != "/undrain";
                    assert!(is_dry || !is_taken, "{asked:?}");
                    "ask"
                }
            };
            *seen.entry(kind).or_insert(0) += 1;
        });
        assert!(seen.len() == 6 && seen.values().all(|&count| count > 20), "{seen:?}");
    }

    #[test]
    fn questions_are_adit_s() {
        let servers_body = json!({ "upstream": "mortal", "server": "127.0.1.4:80" });
        let spot = DRAINABLE.iter().position(|spot| *spot == (Pool::Mortal, 4)).unwrap();
        let check = |order: Order, target: &str, body: Option<Value>| {
            with_names(|names| {
                assert_eq!(order.question(names), Question { target: target.into(), body }, "{order:?}");
            });
        };
        check(Order::Drain { spot, drains: true }, "/drain", Some(servers_body.clone()));
        check(Order::Drain { spot, drains: false }, "/undrain", Some(servers_body));
        check(Order::Find { query: "a=b".into() }, "/tunnels?a=b", None);
        let body = json!({ "id": "a7", "dry_run": true });
        check(Order::CloseOne { id: "a7".into(), is_dry: true }, "/close", Some(body));
    }

    const SPOT: usize = 0; // server 3 of the broad upstream
    const DRAIN: Order = Order::Drain { spot: SPOT, drains: true };
    const UNDRAIN: Order = Order::Drain { spot: SPOT, drains: false };

    /// The first configuration, or one that has, or has not, the server of [`SPOT`] so.
    fn running(by_file: Option<bool>) -> Config {
        let (mut rng, mut config) = (Rng::with_seed(3), Config::first());
        while config.drains(Pool::Broad, 3) != by_file {
            config = config.next(&mut rng);
        }
        config
    }

    #[test]
    fn an_answer_about_a_drain_has_to_be_the_one_that_the_configuration_and_orders_before_permit() {
        let check = |before: Drain, order: &Order, by_file, is_settled, (status, changed), expected: bool| {
            let mut steering = Steering::new();
            steering.drains[SPOT] = before;
            let answer = answer(status, &json!({ "changed": changed, "dry_run": false }));
            let found = steering.judge(order, &answer, &running(by_file), is_settled, Instant::now());
            let told = format!("{before:?} {order:?} {by_file:?} {is_settled} {answer:?}: {found:?}");
            assert_eq!(found.is_ok(), expected, "{told}");
            let is_done = status == 200 && expected;
            let is_so = steering.drains[SPOT] != Drain::No;
            let expected = if is_done { *order == DRAIN } else { before != Drain::No };
            assert_eq!(is_so, expected, "{told}");
        };
        let since = Drain::Since(Instant::now());
        let (there, gone, by_file) = (Some(false), None, Some(true));
        for (before, changed) in [(Drain::No, true), (since, false)] {
            check(before, &DRAIN, there, true, (200, changed), true);
            check(before, &DRAIN, there, true, (200, !changed), false);
            check(before, &DRAIN, there, false, (200, !changed), true);
            check(before, &DRAIN, there, true, (404, false), false);
            check(before, &DRAIN, there, false, (404, false), true);
            check(before, &DRAIN, there, false, (409, false), false);
            check(before, &DRAIN, by_file, true, (200, false), true);
            check(before, &DRAIN, by_file, true, (200, true), false);
            check(before, &DRAIN, gone, true, (404, false), true);
            check(before, &DRAIN, gone, true, (200, true), false);
            check(before, &UNDRAIN, there, true, (200, !changed), true);
            check(before, &UNDRAIN, there, true, (200, changed), false);
            check(before, &UNDRAIN, by_file, true, (409, false), true);
            check(before, &UNDRAIN, by_file, true, (200, false), false);
            check(before, &UNDRAIN, by_file, false, (200, false), true);
            check(before, &UNDRAIN, gone, true, (404, false), true);
            check(before, &UNDRAIN, gone, true, (503, false), false);
        }
        for changed in [true, false] {
            check(Drain::Unknown, &DRAIN, there, true, (200, changed), true);
            check(Drain::Unknown, &UNDRAIN, there, true, (200, changed), true);
        }
    }

    #[test]
    fn nothing_new_goes_to_a_server_once_it_has_drained_for_a_moment_until_it_may_again() {
        let (mut steering, running, begin) = (Steering::new(), running(Some(false)), Instant::now());
        let yes = answer(200, &json!({ "changed": true, "dry_run": false }));
        steering.begin(&DRAIN);
        assert!(steering.may_close(Place::Broad, Some(3)) && steering.may_close(Place::Side, None));
        assert!(!steering.may_close(Place::Broad, Some(4)) && !steering.may_close(Place::Mortal, Some(3)));
        assert_eq!(steering.judge(&DRAIN, &yes, &running, true, begin), Ok(Done::Drained));
        assert!(!steering.may_close(Place::Broad, Some(3)) && steering.lets_drain(Place::Broad, 3));
        assert!(!steering.lets_drain(Place::Broad, 4) && !steering.lets_drain(Place::Steady, 3));
        let shut = |steering: &Steering, place, after| steering.shut(place, begin + after)[3];
        let moment = GRACE + Duration::from_millis(1);
        assert!(!shut(&steering, Place::Broad, GRACE) && shut(&steering, Place::Broad, moment));
        assert!(shut(&steering, Place::Side, moment) && !shut(&steering, Place::Mortal, moment));
        assert_eq!(steering.take_all_back().collect::<Vec<_>>(), [UNDRAIN]);
        // Before there is an answer it may let in already; where that is a no, it does not.
        steering.begin(&UNDRAIN);
        assert!(!shut(&steering, Place::Broad, moment));
        let by_file = self::running(Some(true));
        let no = answer(409, &json!({ "error": "the file says so" }));
        assert_eq!(steering.judge(&UNDRAIN, &no, &by_file, true, begin), Ok(Done::Nothing));
        assert!(shut(&steering, Place::Broad, moment));
        // Nothing is known for sure when there is none.
        steering.begin(&UNDRAIN);
        steering.lose(&UNDRAIN, begin);
        assert!(steering.lets_drain(Place::Broad, 3) && !shut(&steering, Place::Broad, moment));
        assert_eq!(steering.judge(&UNDRAIN, &yes, &running, true, begin), Ok(Done::Drained));
        assert!(!steering.lets_drain(Place::Broad, 3));
        assert_eq!(steering.take_all_back().count(), 0);
    }

    #[test]
    fn what_is_lost_may_happen_for_a_while() {
        let (mut steering, now) = (Steering::new(), Instant::now());
        let (reach, filter) = (Reach::Place(Place::Passing), Map::new());
        let order = Order::CloseSome { reach, is_whole: true, filter };
        steering.begin(&order);
        steering.lose(&order, now);
        assert!(steering.may_close(Place::Passing, Some(2)) && !steering.may_close(Place::Broad, Some(2)));
        steering.forget(now + LOST_FOR - Duration::from_secs(1));
        assert!(steering.may_close(Place::Passing, None));
        steering.forget(now + LOST_FOR);
        assert!(!steering.may_close(Place::Passing, None));
    }

    #[test]
    fn who_closes_is_told_of_how_many_at_which_pace() {
        let check = |order: &Order, body: Value, expected: Result<Done, &str>| {
            let found =
                Steering::new().judge(order, &answer(200, &body), &Config::first(), true, Instant::now());
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{body}"),
                (Err(found), Err(words)) => assert!(found.contains(words), "{body}: {found}"),
                (found, expected) => panic!("{body}: {found:?}, not {expected:?}"),
            }
        };
        let told =
            |matched: u64, dry_run| json!({ "matched": matched, "dry_run": dry_run, "rate": DRAIN_RATE });
        let one = |is_dry| Order::CloseOne { id: "a7".into(), is_dry };
        check(&one(false), told(1, false), Ok(Done::Closed(1)));
        check(&one(false), told(2, false), Err("2 tunnels have one id"));
        check(&one(false), told(1, true), Err("dry_run is to be false"));
        check(&one(true), told(1, true), Ok(Done::Nothing));
        let some = Order::CloseSome { reach: Reach::Place(Place::Side), is_whole: false, filter: Map::new() };
        check(&some, told(7, false), Ok(Done::Closed(7)));
        check(&some, json!({ "matched": 7, "dry_run": false, "rate": 1 }), Err("the rate 200"));
        check(&some, json!({}), Err("no number"));
        let ask = |at_least| {
            let question = Question { target: "/close".into(), body: None };
            Order::Ask { question, permitted: &[200], at_least: Some(at_least) }
        };
        check(&ask(3), told(3, true), Ok(Done::Nothing));
        check(&ask(3), told(2, true), Err("2 tunnels of the 3 that are there for sure"));
        let no = answer(409, &json!({ "error": "no" }));
        let judged = Steering::new().judge(&ask(0), &no, &Config::first(), true, Instant::now());
        assert!(judged.unwrap_err().contains("409, and not [200]"));
    }
}
