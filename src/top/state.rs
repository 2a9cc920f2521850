//! What `adit top` knows and shows, and what it does with a key or an answer. Pure: what is to be asked, done or left
//! is given back.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::cli::ctl::{Filters, Order, PAGE_TUNNELS_MAX, Sort, Target, filter};
use crate::ctl::answers::{Page, Server, Status, Tunnel};
use crate::ctl::client::Trouble;
use crate::ctl::units::printable;

/// Of a filter that is being written. A path alone may have a kilobyte, which nobody types.
const INPUT_CHARS_MAX: usize = 500;
/// Over less than that a rate jumps.
const RATE_SECONDS_MIN: f64 = 0.5;

/// Everything that is on the screen.
pub struct App {
    /// Rows of the terminal.
    height: u16,
    pub status: Option<Status>,
    pub rates: Option<Rates>,
    /// What the next rates are counted from.
    base: Option<Base>,
    /// `None` until there is one for what is asked now.
    pub page: Option<Page>,
    pub sort: Sort,
    pub order: Order,
    pub filters: Filters,
    /// Where the pages behind the first one begin, up to this one.
    turned: Vec<Turned>,
    pub focus: Pane,
    /// The chosen row of the page, and whose it is: a tunnel is followed where it goes.
    tunnel: usize,
    tunnel_id: Option<String>,
    landing: Landing,
    server: usize,
    pub mode: Mode,
    /// Why there was no answer to the last question.
    pub trouble: Option<String>,
    /// What became of the last thing that was asked for, until the next key.
    pub notice: Option<String>,
    pub is_paused: bool,
    /// What has been asked and not been answered.
    looking: Option<Query>,
}

/// Changes a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    pub opened: f64,
    pub up: f64,
    pub down: f64,
}

#[derive(Clone, Copy)]
struct Base {
    uptime: f64,
    opened: u64,
    up: u64,
    down: u64,
}

/// A page that was gone to.
struct Turned {
    after: String,
    /// Rows before it.
    before: u64,
}

/// Which row is chosen on a page that is about to come.
#[derive(Clone, Copy)]
enum Landing {
    First,
    Last,
    /// The tunnel that was.
    Same,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    Servers,
    Tunnels,
}

/// What keys mean.
#[derive(Debug, PartialEq, Eq)]
pub enum Mode {
    Watching,
    Helping,
    /// A filter is being written.
    Filtering(String),
    /// Yes or no.
    Asking(Deed),
}

/// What may be done about what is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    Close {
        id: String,
        client: String,
        server: String,
    },
    /// A server.
    Drain(Target),
    Undrain(Target),
}

impl Deed {
    pub fn question(&self) -> String {
        match self {
            Deed::Close { id, client, server } => {
                printable(&format!("close the tunnel of {client} to {server}, {id}? [y/N]"))
            }
            Deed::Drain(target) => format!("drain {}? [y/N]", named(target)),
            Deed::Undrain(target) => format!("let {} be in again? [y/N]", named(target)),
        }
    }
}

fn named(target: &Target) -> String {
    match target {
        Target::Server { upstream, server } => printable(&format!("{upstream}/{server}")),
        Target::Listener(listener) => printable(listener),
        Target::Route { listener, route } => printable(&format!("{route} on {listener}")),
        Target::All => "everything".into(),
    }
}

/// Which tunnels are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub filters: Filters,
    pub sort: Sort,
    pub order: Order,
    pub limit: u16,
    pub after: Option<String>,
}

/// What is to be seen at a time.
pub struct Seen {
    pub status: Status,
    pub page: Page,
}

/// What happens.
pub enum Event {
    Key(KeyEvent),
    /// The terminal has so many rows.
    Resized(u16),
    /// It is time to look again.
    Tick,
    /// What there was to see.
    Seen(Query, Result<Box<Seen>, Trouble>),
    /// What became of a deed.
    Done(Result<String, Trouble>),
}

/// What is to happen.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    Ask(Ask),
    Quit,
    Suspend,
}

/// What the admin listener is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    Look(Query),
    Do(Deed),
}

/// How many rows the parts of the screen have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    pub servers: u16,
    pub tunnels: u16,
}

impl Rows {
    /// Three lines about all, then the servers below their heads, then the tunnels below a title and heads, and a line
    /// of help.
    const OTHERS: u16 = 7;

    /// A third at most is for servers, of which there are so many.
    pub fn of(height: u16, servers: usize) -> Rows {
        let room = height.saturating_sub(Rows::OTHERS);
        let servers = u16::try_from(servers).unwrap_or(u16::MAX).min((room / 3).max(1)).min(room);
        Rows { servers, tunnels: room - servers }
    }
}

impl App {
    pub fn new(height: u16) -> App {
        App {
            height,
            status: None,
            rates: None,
            base: None,
            page: None,
            sort: Sort::Age,
            order: Order::Most,
            filters: Filters::new(),
            turned: Vec::new(),
            focus: Pane::Tunnels,
            tunnel: 0,
            tunnel_id: None,
            landing: Landing::First,
            server: 0,
            mode: Mode::Watching,
            trouble: None,
            notice: None,
            is_paused: false,
            looking: None,
        }
    }

    /// What is wanted now.
    pub fn query(&self) -> Query {
        Query {
            filters: self.filters.clone(),
            sort: self.sort,
            order: self.order,
            limit: self.rows().tunnels.clamp(1, PAGE_TUNNELS_MAX),
            after: self.turned.last().map(|turned| turned.after.clone()),
        }
    }

    pub fn rows(&self) -> Rows {
        Rows::of(self.height, self.servers().count())
    }

    /// All servers, with the upstreams that they are of.
    pub fn servers(&self) -> impl Iterator<Item = (&str, &Server)> {
        let upstreams = self.status.iter().flat_map(|status| &status.upstreams);
        upstreams.flat_map(|upstream| {
            upstream.servers.iter().map(move |server| (upstream.upstream.as_str(), server))
        })
    }

    pub fn tunnels(&self) -> &[Tunnel] {
        self.page.as_ref().map_or(&[], |page| &page.tunnels)
    }

    /// Rows of the pages before this one.
    pub fn before(&self) -> u64 {
        self.turned.last().map_or(0, |turned| turned.before)
    }

    pub fn chosen_tunnel(&self) -> usize {
        self.tunnel
    }

    pub fn chosen_server(&self) -> usize {
        self.server
    }

    /// What follows from what happens.
    pub fn on(&mut self, event: Event) -> Option<Effect> {
        match event {
            Event::Key(key) if key.kind == KeyEventKind::Release => None,
            Event::Key(key) => self.key(key),
            Event::Resized(height) => {
                self.height = height;
                self.look()
            }
            Event::Tick if self.is_paused => None,
            Event::Tick => self.look(),
            Event::Seen(query, result) => self.seen(&query, result),
            Event::Done(result) => {
                self.notice = Some(match result {
                    Ok(text) => text,
                    Err(trouble) => format!("not done: {trouble}"),
                });
                self.look()
            }
        }
    }

    /// Asks, unless an answer is on its way: then what is wanted is asked for behind it, if it is something else.
    fn look(&mut self) -> Option<Effect> {
        if self.looking.is_some() {
            return None;
        }
        let query = self.query();
        self.looking = Some(query.clone());
        Some(Effect::Ask(Ask::Look(query)))
    }

    /// As [`look`](App::look), for another question than the last: its answer is none to this one.
    fn look_elsewhere(&mut self) -> Option<Effect> {
        self.page = None;
        self.look()
    }

    fn seen(&mut self, query: &Query, result: Result<Box<Seen>, Trouble>) -> Option<Effect> {
        self.looking = None;
        let Seen { status, page } = match result {
            Ok(seen) => *seen,
            Err(trouble) => {
                self.trouble = Some(trouble.to_string());
                return if *query == self.query() { None } else { self.look() };
            }
        };
        self.trouble = None;
        self.measure(&status);
        self.follow_server(&status);
        self.status = Some(status);
        // A limit may have become another one by servers that came or went; the next look has it.
        let is_wanted = Query { limit: 0, ..query.clone() } == Query { limit: 0, ..self.query() };
        if !is_wanted {
            return self.look();
        }
        if page.tunnels.is_empty() && !self.turned.is_empty() {
            // All that were here have ended.
            self.turned.clear();
            self.landing = Landing::Last;
            return self.look_elsewhere();
        }
        self.choose_in(&page);
        self.page = Some(page);
        if self.query() == *query { None } else { self.look() }
    }

    fn measure(&mut self, status: &Status) {
        let now = Base {
            uptime: status.uptime,
            opened: status.tunnels.opened,
            up: status.bytes.up,
            down: status.bytes.down,
        };
        match self.base {
            Some(base) if now.uptime >= base.uptime => {
                let seconds = now.uptime - base.uptime;
                if seconds >= RATE_SECONDS_MIN {
                    let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
                    self.rates = Some(Rates {
                        opened: rate(now.opened, base.opened),
                        up: rate(now.up, base.up),
                        down: rate(now.down, base.down),
                    });
                    self.base = Some(now);
                }
            }
            // It is another process than before.
            Some(_) | None => (self.rates, self.base) = (None, Some(now)),
        }
    }

    /// The chosen server stays the chosen one where others come or go.
    fn follow_server(&mut self, status: &Status) {
        let key = |(upstream, server): (&str, &Server)| (upstream.to_owned(), server.server.clone());
        let chosen = self.servers().nth(self.server).map(key);
        let servers = status
            .upstreams
            .iter()
            .flat_map(|upstream| upstream.servers.iter().map(|server| key((&upstream.upstream, server))));
        let (mut count, mut found) = (0, None);
        for server in servers {
            if Some(&server) == chosen.as_ref() {
                found = Some(count);
            }
            count += 1;
        }
        self.server = found.unwrap_or(self.server).min(count.max(1) - 1);
    }

    fn choose_in(&mut self, page: &Page) {
        let last = page.tunnels.len().max(1) - 1;
        let same = || {
            let id = self.tunnel_id.as_ref()?;
            page.tunnels.iter().position(|tunnel| tunnel.id == *id)
        };
        self.tunnel = match self.landing {
            Landing::First => 0,
            Landing::Last => last,
            Landing::Same => same().unwrap_or(self.tunnel).min(last),
        };
        self.landing = Landing::Same;
        self.tunnel_id = page.tunnels.get(self.tunnel).map(|tunnel| tunnel.id.clone());
    }

    fn key(&mut self, key: KeyEvent) -> Option<Effect> {
        self.notice = None;
        let is_plain = !key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT);
        match (key.code, is_plain) {
            (KeyCode::Char('c'), false) => return Some(Effect::Quit),
            (KeyCode::Char('z'), false) => return Some(Effect::Suspend),
            _ => {}
        }
        match std::mem::replace(&mut self.mode, Mode::Watching) {
            Mode::Watching if is_plain => self.command(key.code),
            Mode::Watching | Mode::Helping => None,
            Mode::Filtering(text) => self.write(text, key.code, is_plain),
            Mode::Asking(deed) => match (key.code, is_plain) {
                (KeyCode::Char('y' | 'Y'), true) => Some(Effect::Ask(Ask::Do(deed))),
                _ => {
                    self.notice = Some("not done".into());
                    None
                }
            },
        }
    }

    fn command(&mut self, key: KeyCode) -> Option<Effect> {
        match key {
            KeyCode::Char('q') => Some(Effect::Quit),
            KeyCode::Char('?' | 'h') => self.enter(Mode::Helping),
            KeyCode::Char('/') => self.enter(Mode::Filtering(self.filter_text())),
            KeyCode::Esc if !self.filters.is_empty() => self.filter_by(Filters::new()),
            KeyCode::Tab | KeyCode::BackTab => {
                self.focus = match self.focus {
                    Pane::Servers => Pane::Tunnels,
                    Pane::Tunnels => Pane::Servers,
                };
                None
            }
            KeyCode::Char(' ') => {
                self.is_paused = !self.is_paused;
                if self.is_paused { None } else { self.look() }
            }
            KeyCode::Left => self.sort_by(-1),
            KeyCode::Right => self.sort_by(1),
            KeyCode::Char('r') => {
                self.order = match self.order {
                    Order::Most => Order::Least,
                    Order::Least => Order::Most,
                };
                self.first_page()
            }
            KeyCode::Up | KeyCode::Char('k') => self.up(),
            KeyCode::Down | KeyCode::Char('j') => self.down(),
            KeyCode::PageUp => self.turn_back(Landing::First),
            KeyCode::PageDown => self.turn(),
            KeyCode::Home => self.first_page(),
            KeyCode::Enter if self.focus == Pane::Servers => self.filter_by_server(),
            KeyCode::Char('c') | KeyCode::Delete => self.ask_to_close(),
            KeyCode::Char('d') => self.ask_about_server(Deed::Drain),
            KeyCode::Char('u') => self.ask_about_server(Deed::Undrain),
            // Whatever else a keyboard has.
            _ => None,
        }
    }

    fn enter(&mut self, mode: Mode) -> Option<Effect> {
        self.mode = mode;
        None
    }

    fn sort_by(&mut self, step: isize) -> Option<Effect> {
        let at = Sort::ALL.iter().position(|sort| *sort == self.sort).unwrap_or_default();
        let count = Sort::ALL.len();
        self.sort = Sort::ALL[(at + count).wrapping_add_signed(step) % count];
        self.first_page()
    }

    fn first_page(&mut self) -> Option<Effect> {
        self.turned.clear();
        self.landing = Landing::First;
        self.look_elsewhere()
    }

    fn up(&mut self) -> Option<Effect> {
        match self.focus {
            Pane::Servers => self.server = self.server.saturating_sub(1),
            Pane::Tunnels if self.tunnel == 0 => return self.turn_back(Landing::Last),
            Pane::Tunnels => self.choose(self.tunnel - 1),
        }
        None
    }

    fn down(&mut self) -> Option<Effect> {
        match self.focus {
            Pane::Servers => self.server = (self.server + 1).min(self.servers().count().max(1) - 1),
            Pane::Tunnels if self.tunnel + 1 >= self.tunnels().len() => return self.turn(),
            Pane::Tunnels => self.choose(self.tunnel + 1),
        }
        None
    }

    fn choose(&mut self, tunnel: usize) {
        self.tunnel = tunnel;
        self.tunnel_id = self.tunnels().get(tunnel).map(|tunnel| tunnel.id.clone());
    }

    /// To the next page, if there is one.
    fn turn(&mut self) -> Option<Effect> {
        let page = self.page.as_ref()?;
        let after = page.next.clone()?;
        self.turned.push(Turned { after, before: self.before() + page.tunnels.len() as u64 });
        self.landing = Landing::First;
        self.look_elsewhere()
    }

    fn turn_back(&mut self, landing: Landing) -> Option<Effect> {
        self.turned.pop()?;
        self.landing = landing;
        self.look_elsewhere()
    }

    fn filter_by(&mut self, filters: Filters) -> Option<Effect> {
        self.filters = filters;
        self.first_page()
    }

    fn filter_by_server(&mut self) -> Option<Effect> {
        let (upstream, server) = self.servers().nth(self.server)?;
        let filters = vec![("upstream", upstream.to_owned()), ("server", server.server.clone())];
        self.focus = Pane::Tunnels;
        self.filter_by(filters)
    }

    /// The filters as they are written.
    pub fn filter_text(&self) -> String {
        let pairs: Vec<String> = self.filters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join(" ")
    }

    fn write(&mut self, mut text: String, key: KeyCode, is_plain: bool) -> Option<Effect> {
        match key {
            KeyCode::Esc => return None,
            KeyCode::Enter => match read(&text) {
                Ok(filters) => return self.filter_by(filters),
                Err(why) => self.notice = Some(why),
            },
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char('u') if !is_plain => text.clear(),
            KeyCode::Char(c) if is_plain && text.chars().count() < INPUT_CHARS_MAX => text.push(c),
            // Whatever else a keyboard has.
            _ => {}
        }
        self.enter(Mode::Filtering(text))
    }

    fn ask_to_close(&mut self) -> Option<Effect> {
        let Some(tunnel) = self.tunnels().get(self.tunnel).filter(|_| self.focus == Pane::Tunnels) else {
            self.notice = Some("choose a tunnel first: Tab, and the arrows".into());
            return None;
        };
        let deed = Deed::Close {
            id: tunnel.id.clone(),
            client: tunnel.client.clone(),
            server: format!("{}/{}", tunnel.upstream, tunnel.server),
        };
        self.enter(Mode::Asking(deed))
    }

    fn ask_about_server(&mut self, deed: fn(Target) -> Deed) -> Option<Effect> {
        let chosen = self.servers().nth(self.server).filter(|_| self.focus == Pane::Servers);
        let Some((upstream, server)) = chosen else {
            self.notice = Some("choose a server first: Tab, and the arrows".into());
            return None;
        };
        let deed = deed(Target::Server { upstream: upstream.to_owned(), server: server.server.clone() });
        self.enter(Mode::Asking(deed))
    }
}

/// Filters as they are written, `name=value` and a blank between two.
fn read(text: &str) -> Result<Filters, String> {
    let mut filters = Filters::new();
    for word in text.split_whitespace() {
        let pair = word.split_once('=').filter(|(_, value)| !value.is_empty());
        let (name, value) =
            pair.ok_or_else(|| format!("{word:?}: a filter is NAME=VALUE, such as client=10.0.0.0/8"))?;
        let pair = filter(name, value)?;
        if filters.iter().any(|(given, _)| *given == pair.0) {
            return Err(format!("{name} is there twice"));
        }
        filters.push(pair);
    }
    Ok(filters)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::ctl::show::samples;

    /// A screen with the sample on it, as the first look has brought it.
    pub fn sample(height: u16) -> App {
        let mut app = App::new(height);
        see(&mut app, &status(), &page(samples::PAGE));
        app
    }

    pub fn status() -> Status {
        serde_json::from_str(samples::STATUS).expect("a status")
    }

    pub fn page(text: &str) -> Page {
        serde_json::from_str(text).expect("a page")
    }

    /// So many tunnels of these ids, and perhaps more behind them.
    fn tunnels(ids: &[&str], matched: u64, next: Option<&str>) -> Page {
        let tunnels = ids.iter().map(|id| Tunnel {
            id: (*id).into(),
            client: format!("client of {id}"),
            ..Tunnel::default()
        });
        Page { matched, next: next.map(str::to_owned), tunnels: tunnels.collect() }
    }

    /// Looks, or answers what has been asked, until nothing more is asked for, and always sees this.
    pub fn see(app: &mut App, status: &Status, page: &Page) {
        let mut effect = match app.looking.clone() {
            Some(query) => Some(Effect::Ask(Ask::Look(query))),
            None => app.on(Event::Tick),
        };
        while let Some(Effect::Ask(Ask::Look(query))) = effect {
            effect = answer(app, query, status, page);
        }
        assert_eq!(effect, None);
    }

    fn answer(app: &mut App, query: Query, status: &Status, page: &Page) -> Option<Effect> {
        app.on(Event::Seen(query, Ok(Box::new(Seen { status: status.clone(), page: page.clone() }))))
    }

    pub fn press(app: &mut App, code: KeyCode) -> Option<Effect> {
        app.on(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    fn hold(app: &mut App, modifiers: KeyModifiers, c: char) -> Option<Effect> {
        app.on(Event::Key(KeyEvent::new(KeyCode::Char(c), modifiers)))
    }

    pub fn write(app: &mut App, text: &str) {
        for c in text.chars() {
            assert_eq!(press(app, KeyCode::Char(c)), None);
        }
    }

    /// What is looked for by this.
    #[track_caller]
    fn look(effect: Option<Effect>) -> Query {
        match effect {
            Some(Effect::Ask(Ask::Look(query))) => query,
            other => panic!("{other:?}"),
        }
    }

    fn chosen(app: &App) -> &str {
        app.tunnel_id.as_deref().unwrap_or("nothing")
    }

    #[test]
    fn it_looks_once_at_a_time_and_as_often_as_it_is_told() {
        let mut app = App::new(24);
        let query = look(app.on(Event::Tick));
        assert_eq!(
            query,
            Query { filters: vec![], sort: Sort::Age, order: Order::Most, limit: 17, after: None }
        );
        assert_eq!(app.on(Event::Tick), None, "an answer is on its way");
        // There are four servers, so that fewer tunnels fit.
        let query = look(answer(&mut app, query, &status(), &page(samples::PAGE)));
        assert_eq!(query.limit, 13);
        assert_eq!(answer(&mut app, query, &status(), &page(samples::PAGE)), None);
        look(app.on(Event::Tick));
    }

    #[test]
    fn paused_it_does_not_look() {
        let mut app = sample(24);
        assert_eq!(press(&mut app, KeyCode::Char(' ')), None);
        assert_eq!(app.on(Event::Tick), None);
        look(press(&mut app, KeyCode::Char(' ')));
    }

    #[test]
    fn it_ends_by_q_and_by_ctrl_c_whatever_is_asked() {
        assert_eq!(press(&mut sample(24), KeyCode::Char('q')), Some(Effect::Quit));
        for before in ['?', '/', 'c'] {
            let mut app = sample(24);
            press(&mut app, KeyCode::Char(before));
            assert_eq!(hold(&mut app, KeyModifiers::CONTROL, 'c'), Some(Effect::Quit));
            assert_eq!(hold(&mut app, KeyModifiers::CONTROL, 'z'), Some(Effect::Suspend));
        }
        let mut release = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        release.kind = KeyEventKind::Release;
        assert_eq!(sample(24).on(Event::Key(release)), None);
    }

    #[test]
    fn it_sorts_by_arrows_and_turns_round() {
        let mut app = sample(24);
        let mut sorts = Vec::new();
        for _ in Sort::ALL {
            let query = look(press(&mut app, KeyCode::Right));
            sorts.push(query.sort);
            answer(&mut app, query, &status(), &page(samples::PAGE));
        }
        assert_eq!(sorts, [Sort::Idle, Sort::Bytes, Sort::BytesUp, Sort::BytesDown, Sort::Rate, Sort::Age]);
        let query = look(press(&mut app, KeyCode::Left));
        assert_eq!(query.sort, Sort::Rate);
        answer(&mut app, query, &status(), &page(samples::PAGE));
        let query = look(press(&mut app, KeyCode::Char('r')));
        assert_eq!((query.sort, query.order), (Sort::Rate, Order::Least));
    }

    /// An answer to what is no longer asked is not shown as one to what is.
    #[test]
    fn an_answer_that_comes_too_late_is_passed_over() {
        let mut app = sample(24);
        let old = look(app.on(Event::Tick));
        assert_eq!(press(&mut app, KeyCode::Right), None);
        assert!(app.page.is_none());
        let new = look(answer(&mut app, old, &status(), &page(samples::PAGE)));
        assert!(app.page.is_none());
        assert_eq!(new.sort, Sort::Idle);
        assert_eq!(answer(&mut app, new, &status(), &page(samples::PAGE)), None);
        assert_eq!(app.tunnels().len(), 2);
        // The same with an error in between.
        let old = look(app.on(Event::Tick));
        press(&mut app, KeyCode::Right);
        let new = look(app.on(Event::Seen(old, Err(Trouble::Refused("no".into())))));
        assert_eq!((new.sort, app.trouble.as_deref()), (Sort::Bytes, Some("no")));
        answer(&mut app, new, &status(), &page(samples::PAGE));
        assert_eq!(app.trouble, None);
    }

    #[test]
    fn what_was_seen_stays_while_there_is_no_answer() {
        let mut app = sample(24);
        let query = look(app.on(Event::Tick));
        assert_eq!(app.on(Event::Seen(query, Err(Trouble::NoAnswer("nobody".into())))), None);
        assert_eq!((app.trouble.as_deref(), app.tunnels().len()), (Some("nobody"), 2));
        look(app.on(Event::Tick));
    }

    #[test]
    fn a_tunnel_is_chosen_and_followed() {
        let mut app = App::new(24);
        let status = status();
        see(&mut app, &status, &tunnels(&["a", "b", "c"], 3, None));
        assert_eq!(chosen(&app), "a");
        press(&mut app, KeyCode::Down);
        press(&mut app, KeyCode::Char('j'));
        assert_eq!((chosen(&app), app.chosen_tunnel()), ("c", 2));
        assert_eq!(press(&mut app, KeyCode::Down), None, "there is no more");
        press(&mut app, KeyCode::Up);
        assert_eq!(chosen(&app), "b");
        see(&mut app, &status, &tunnels(&["b", "c", "a"], 3, None));
        assert_eq!((chosen(&app), app.chosen_tunnel()), ("b", 0));
        press(&mut app, KeyCode::Down);
        press(&mut app, KeyCode::Down);
        see(&mut app, &status, &tunnels(&["b", "d"], 2, None));
        assert_eq!((chosen(&app), app.chosen_tunnel()), ("d", 1), "it has ended, and so have those below");
        see(&mut app, &status, &tunnels(&[], 0, None));
        assert_eq!(chosen(&app), "nothing");
        assert_eq!(press(&mut app, KeyCode::Up), None);
        assert_eq!(press(&mut app, KeyCode::Char('c')), None);
        assert_eq!(app.mode, Mode::Watching, "there is nothing to close");
        see(&mut app, &status, &tunnels(&["e"], 1, None));
        assert_eq!(chosen(&app), "e");
    }

    #[test]
    fn beyond_the_last_row_is_the_next_page() {
        let mut app = App::new(24);
        let status = status();
        see(&mut app, &status, &tunnels(&["a", "b"], 5, Some("2")));
        press(&mut app, KeyCode::Down);
        let query = look(press(&mut app, KeyCode::Down));
        assert_eq!(query.after.as_deref(), Some("2"));
        answer(&mut app, query, &status, &tunnels(&["c", "d"], 5, Some("4")));
        assert_eq!((chosen(&app), app.before()), ("c", 2));
        let query = look(press(&mut app, KeyCode::PageDown));
        assert_eq!(query.after.as_deref(), Some("4"));
        answer(&mut app, query, &status, &tunnels(&["e"], 5, None));
        assert_eq!((chosen(&app), app.before()), ("e", 4));
        assert_eq!(press(&mut app, KeyCode::PageDown), None);
        assert_eq!(press(&mut app, KeyCode::Down), None);
        let query = look(press(&mut app, KeyCode::Up));
        assert_eq!(query.after.as_deref(), Some("2"));
        answer(&mut app, query, &status, &tunnels(&["c", "d"], 5, Some("4")));
        assert_eq!((chosen(&app), app.before()), ("d", 2));
        let query = look(press(&mut app, KeyCode::PageUp));
        assert_eq!(query.after, None);
        answer(&mut app, query, &status, &tunnels(&["a", "b"], 5, Some("2")));
        assert_eq!((chosen(&app), app.before()), ("a", 0));
        assert_eq!(press(&mut app, KeyCode::PageUp), None);
        let query = look(press(&mut app, KeyCode::PageDown));
        answer(&mut app, query, &status, &tunnels(&["c", "d"], 5, Some("4")));
        assert_eq!(look(press(&mut app, KeyCode::Home)).after, None);
    }

    #[test]
    fn a_page_whose_tunnels_have_all_ended_is_left() {
        let mut app = App::new(24);
        let status = status();
        see(&mut app, &status, &tunnels(&["a", "b"], 3, Some("2")));
        let query = look(press(&mut app, KeyCode::PageDown));
        let query = look(answer(&mut app, query, &status, &tunnels(&[], 2, None)));
        assert_eq!(query.after, None);
        assert_eq!(answer(&mut app, query, &status, &tunnels(&["a", "b"], 2, None)), None);
        assert_eq!((chosen(&app), app.before()), ("b", 0));
    }

    #[test]
    fn a_tunnel_is_closed_when_it_is_agreed_to() {
        let mut app = sample(24);
        assert_eq!(press(&mut app, KeyCode::Char('c')), None);
        let Mode::Asking(deed) = &app.mode else { panic!("{:?}", app.mode) };
        assert_eq!(
            deed.question(),
            "close the tunnel of 192.0.2.1:50000 to websocket/10.0.0.1:8010, ba7d5af70d9b615026ee48d0875f2b07? [y/N]"
        );
        // Another one is in its place before the answer: what was asked about is what is closed.
        see(&mut app, &status(), &tunnels(&["x"], 1, None));
        let Some(Effect::Ask(Ask::Do(Deed::Close { id, .. }))) = press(&mut app, KeyCode::Char('y')) else {
            panic!("it was agreed to")
        };
        assert_eq!(id, "ba7d5af70d9b615026ee48d0875f2b07");
        look(app.on(Event::Done(Ok("1 tunnel is closed".into()))));
        assert_eq!(app.notice.as_deref(), Some("1 tunnel is closed"));
    }

    #[test]
    fn any_other_key_is_no() {
        for code in [KeyCode::Char('n'), KeyCode::Enter, KeyCode::Esc, KeyCode::Char('c'), KeyCode::Down] {
            let mut app = sample(24);
            press(&mut app, KeyCode::Delete);
            assert_eq!(press(&mut app, code), None);
            assert_eq!((&app.mode, app.notice.as_deref()), (&Mode::Watching, Some("not done")));
        }
        let mut app = sample(24);
        press(&mut app, KeyCode::Char('c'));
        assert_eq!(hold(&mut app, KeyModifiers::ALT, 'y'), None);
        assert_eq!(app.mode, Mode::Watching);
    }

    #[test]
    fn a_server_is_drained_and_taken_back_when_it_is_agreed_to() {
        let mut app = sample(40);
        press(&mut app, KeyCode::Char('d'));
        assert_eq!((&app.mode, app.notice.is_some()), (&Mode::Watching, true), "no server is chosen");
        press(&mut app, KeyCode::Tab);
        press(&mut app, KeyCode::Char('c'));
        assert_eq!((&app.mode, app.notice.is_some()), (&Mode::Watching, true), "no tunnel is chosen");
        for _ in 0..9 {
            press(&mut app, KeyCode::Down);
        }
        press(&mut app, KeyCode::Up);
        let target = || Target::Server { upstream: "websocket".into(), server: "10.0.0.3:8010".into() };
        press(&mut app, KeyCode::Char('d'));
        assert_eq!(app.mode, Mode::Asking(Deed::Drain(target())));
        assert_eq!(Deed::Drain(target()).question(), "drain websocket/10.0.0.3:8010? [y/N]");
        let done = press(&mut app, KeyCode::Char('Y'));
        assert_eq!(done, Some(Effect::Ask(Ask::Do(Deed::Drain(target())))));
        press(&mut app, KeyCode::Char('u'));
        assert_eq!(app.mode, Mode::Asking(Deed::Undrain(target())));
        press(&mut app, KeyCode::Esc);
        app.on(Event::Done(Err(Trouble::Refused("the file says so".into()))));
        assert_eq!(app.notice.as_deref(), Some("not done: the file says so"));
    }

    #[test]
    fn the_chosen_server_is_followed() {
        let mut app = sample(40);
        press(&mut app, KeyCode::Tab);
        press(&mut app, KeyCode::Down);
        let mut fewer = status();
        fewer.upstreams[0].servers.remove(0);
        see(&mut app, &fewer, &page(samples::PAGE));
        assert_eq!(
            app.servers().nth(app.chosen_server()).map(|(_, server)| server.server.as_str()),
            Some("10.0.0.2:8010")
        );
        fewer.upstreams.clear();
        see(&mut app, &fewer, &page(samples::PAGE));
        assert_eq!(app.chosen_server(), 0);
        assert_eq!(press(&mut app, KeyCode::Enter), None);
        assert_eq!(press(&mut app, KeyCode::Down), None);
        assert_eq!(press(&mut app, KeyCode::Char('d')), None);
        assert_eq!(app.mode, Mode::Watching);
    }

    #[test]
    fn filters_are_written() {
        let mut app = sample(24);
        press(&mut app, KeyCode::Char('/'));
        write(&mut app, "client=10.0.0.0/8 min-bytes=1kx");
        press(&mut app, KeyCode::Backspace);
        let query = look(press(&mut app, KeyCode::Enter));
        assert_eq!(query.filters, [("client", "10.0.0.0/8".to_owned()), ("min_bytes", "1024".to_owned())]);
        answer(&mut app, query, &status(), &page(samples::PAGE));
        // What there is can be changed, left as it is, or emptied.
        press(&mut app, KeyCode::Char('/'));
        assert_eq!(app.mode, Mode::Filtering("client=10.0.0.0/8 min_bytes=1024".into()));
        write(&mut app, "qqq");
        press(&mut app, KeyCode::Esc);
        assert_eq!((app.filters.len(), &app.mode), (2, &Mode::Watching));
        press(&mut app, KeyCode::Char('/'));
        hold(&mut app, KeyModifiers::CONTROL, 'u');
        assert_eq!(app.mode, Mode::Filtering(String::new()));
        let query = look(press(&mut app, KeyCode::Enter));
        assert_eq!(query.filters, []);
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_told_and_kept() {
        let check = |text: &str, expected: &str| {
            let mut app = sample(24);
            press(&mut app, KeyCode::Char('/'));
            write(&mut app, text);
            assert_eq!(press(&mut app, KeyCode::Enter), None);
            assert_eq!(app.mode, Mode::Filtering(text.into()));
            assert!(app.notice.as_ref().is_some_and(|notice| notice.contains(expected)), "{:?}", app.notice);
        };
        check("10.0.0.1", "\"10.0.0.1\": a filter is NAME=VALUE");
        check("client=", "\"client=\": a filter is NAME=VALUE");
        check("color=red", "\"color\" is no filter: client, ");
        check("min_bytes=much", "min-bytes \"much\": such as");
        check("client=a client=b", "client is there twice");
        let mut app = sample(24);
        press(&mut app, KeyCode::Char('/'));
        write(&mut app, &"x".repeat(600));
        assert_eq!(app.mode, Mode::Filtering("x".repeat(INPUT_CHARS_MAX)));
    }

    #[test]
    fn a_server_s_tunnels_are_a_key_away() {
        let mut app = sample(24);
        press(&mut app, KeyCode::Tab);
        let query = look(press(&mut app, KeyCode::Enter));
        assert_eq!(
            query.filters,
            [("upstream", "websocket".to_owned()), ("server", "10.0.0.1:8010".to_owned())]
        );
        assert_eq!(app.focus, Pane::Tunnels);
        answer(&mut app, query, &status(), &page(samples::PAGE));
        assert_eq!(look(press(&mut app, KeyCode::Esc)).filters, []);
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let mut app = sample(24);
        assert_eq!(app.rates, None);
        let mut later = status();
        later.uptime += 0.25;
        later.bytes.up += 1000;
        see(&mut app, &later, &page(samples::PAGE));
        assert_eq!(app.rates, None, "that is too little time to tell");
        later.uptime += 1.75;
        later.tunnels.opened += 3;
        see(&mut app, &later, &page(samples::PAGE));
        assert_eq!(app.rates, Some(Rates { opened: 1.5, up: 500.0, down: 0.0 }));
        later.uptime = 1.0;
        see(&mut app, &later, &page(samples::PAGE));
        assert_eq!(app.rates, None, "another process has other counts");
    }

    #[test]
    fn another_height_is_another_page() {
        let mut app = sample(24);
        assert_eq!(look(app.on(Event::Resized(40))).limit, 40 - 7 - 4);
        let rows = |height, servers| {
            let Rows { servers, tunnels } = Rows::of(height, servers);
            (servers, tunnels)
        };
        assert_eq!(rows(24, 1), (1, 16));
        assert_eq!(rows(24, 100), (5, 12));
        assert_eq!(rows(24, 0), (0, 17));
        assert_eq!(rows(8, 100), (1, 0));
        assert_eq!(rows(7, 100), (0, 0));
        assert_eq!(rows(0, 0), (0, 0));
        assert_eq!(rows(u16::MAX, usize::MAX), (21842, 43686));
        assert_eq!(App::new(u16::MAX).query().limit, 1000);
        assert_eq!(App::new(0).query().limit, 1);
    }
}
