//! `adit top`: the tunnels and servers of a running adit, live on a terminal.
//!
//! Three threads wait: for keys, for signals, and for the admin listener's answers. What they have goes into one
//! channel, and this one decides by [`state`], draws and acts. So the screen is alive while an answer is not.

mod draw;
mod screen;
mod state;

use std::io::{self, IsTerminal};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use ratatui::crossterm::event;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, raise};

use crate::cli::ctl::{Step, Top, Which};
use crate::ctl::Failure;
use crate::ctl::client::{self, PATIENCE, Trouble};
use crate::ctl::place::Place;
use crate::ctl::{find, requests, show};
use screen::Screen;
use state::{App, Ask, Deed, Effect, Event, Query, Seen};

/// What a thread has.
enum News {
    Event(Event),
    Signal(i32),
    /// No more keys will come.
    Deaf(io::Error),
    /// By a bug of ours, which was told already.
    Panicked,
}

/// How it ends.
enum End {
    Quit,
    Signal(i32),
    Bug,
}

pub fn run(top: &Top) -> ExitCode {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let text = "top is for a terminal; adit ctl status and adit ctl tunnels are for all else";
        return crate::fail(crate::EXIT_USAGE, text);
    }
    match find(&top.whereabouts).and_then(|place| watch(top, place)) {
        Ok(End::Quit) => ExitCode::SUCCESS,
        Ok(End::Bug) => ExitCode::from(crate::EXIT_BUG),
        // So that whoever sent it sees that it was that.
        Ok(End::Signal(signal)) => match emulate_default_handler(signal) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(crate::EXIT_BUG),
        },
        Err(failure) => failure.tell(),
    }
}

fn watch(top: &Top, place: Place) -> Result<End, Failure> {
    // What is wrong from the beginning is said where it stays on the screen.
    look(&place, &App::new(0).query())?;
    let (sender, news) = channel();
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCONT]).map_err(Failure::Terminal)?;
    let mut screen = Screen::enter().map_err(Failure::Terminal)?;
    let asks = start(&sender, signals, place).map_err(Failure::Terminal)?;
    let app = App::new(screen.height().map_err(Failure::Terminal)?);
    let end = turn(top, app, &mut screen, &news, &asks).map_err(Failure::Terminal);
    drop(screen);
    end
}

/// Draws and acts until there is an end.
fn turn(
    top: &Top,
    mut app: App,
    screen: &mut Screen,
    news: &Receiver<News>,
    asks: &Sender<Ask>,
) -> io::Result<End> {
    let mut next_look = Instant::now();
    loop {
        screen.draw(|frame| draw::draw(frame, &app))?;
        let event = match news.recv_timeout(next_look.saturating_duration_since(Instant::now())) {
            Ok(News::Event(event)) => event,
            Ok(News::Signal(SIGCONT)) => {
                screen.take()?;
                Event::Resized(screen.height()?)
            }
            Ok(News::Signal(signal)) => return Ok(End::Signal(signal)),
            Ok(News::Deaf(error)) => return Err(error),
            Ok(News::Panicked) | Err(RecvTimeoutError::Disconnected) => return Ok(End::Bug),
            Err(RecvTimeoutError::Timeout) => {
                next_look = Instant::now() + top.every;
                Event::Tick
            }
        };
        match app.on(event) {
            None => {}
            Some(Effect::Quit) => return Ok(End::Quit),
            Some(Effect::Suspend) => {
                screen.give_back();
                raise(SIGTSTP)?;
                // Continued, or never stopped: a process without a shell behind it is not.
                screen.take()?;
            }
            Some(Effect::Ask(ask)) => match asks.send(ask) {
                Ok(()) => {}
                Err(_) => return Ok(End::Bug),
            },
        }
    }
}

/// Starts the threads that wait. They end with the process.
fn start(sender: &Sender<News>, mut signals: Signals, place: Place) -> io::Result<Sender<Ask>> {
    guarded("adit-signals", sender, move |sender| {
        for signal in signals.forever() {
            let _ = sender.send(News::Signal(signal)); // the end is near, if nobody hears it
        }
    })?;
    guarded("adit-keys", sender, |sender| {
        loop {
            let news = match event::read() {
                Ok(event::Event::Key(key)) => News::Event(Event::Key(key)),
                Ok(event::Event::Resize(_, height)) => News::Event(Event::Resized(height)),
                // None of these was asked for.
                Ok(event::Event::FocusGained | event::Event::FocusLost) => continue,
                Ok(event::Event::Mouse(_) | event::Event::Paste(_)) => continue,
                Err(error) => {
                    let _ = sender.send(News::Deaf(error));
                    return;
                }
            };
            if sender.send(news).is_err() {
                return;
            }
        }
    })?;
    let (asks, asked) = channel();
    guarded("adit-asking", sender, move |sender| {
        while let Ok(ask) = asked.recv() {
            let event = match ask {
                Ask::Look(query) => {
                    let seen = look(&place, &query);
                    Event::Seen(query, seen)
                }
                Ask::Do(deed) => Event::Done(carry_out(&place, &deed)),
            };
            if sender.send(News::Event(event)).is_err() {
                return;
            }
        }
    })?;
    Ok(asks)
}

/// A thread whose panic is news.
fn guarded(
    name: &str,
    sender: &Sender<News>,
    work: impl FnOnce(&Sender<News>) + Send + 'static,
) -> io::Result<()> {
    let sender = sender.clone();
    let guarded = move || {
        if panic::catch_unwind(AssertUnwindSafe(|| work(&sender))).is_err() {
            let _ = sender.send(News::Panicked);
        }
    };
    thread::Builder::new().name(name.into()).spawn(guarded).map(drop)
}

fn look(place: &Place, query: &Query) -> Result<Box<Seen>, Trouble> {
    let body = client::ask(place, &requests::status(), PATIENCE)?;
    let status = client::read(place, &body)?;
    let Query { filters, sort, order, limit, after } = query;
    let body =
        client::ask(place, &requests::tunnels(filters, *sort, *order, *limit, after.as_deref()), PATIENCE)?;
    Ok(Box::new(Seen { status, page: client::read(place, &body)? }))
}

/// Does it, and tells what was done as `adit ctl` does.
fn carry_out(place: &Place, deed: &Deed) -> Result<String, Trouble> {
    let step = Step::Done;
    let text = match deed {
        Deed::Close { id, .. } => {
            let body = client::ask(place, &requests::close(&Which::One(id.clone()), step), PATIENCE)?;
            show::closed(&client::read(place, &body)?, step)
        }
        Deed::Drain(target) => {
            let body = client::ask(place, &requests::drain(target, step), PATIENCE)?;
            show::drained(&client::read(place, &body)?, step)
        }
        Deed::Undrain(target) => {
            let body = client::ask(place, &requests::undrain(target, step), PATIENCE)?;
            show::undrained(&client::read(place, &body)?, step)
        }
    };
    Ok(text.trim_end().to_owned())
}
