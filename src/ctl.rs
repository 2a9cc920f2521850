//! `adit ctl`: asks the admin listener of a running adit, and tells its answer, with an exit code that says how that
//! went.

pub mod answers;
pub mod client;
pub mod place;
pub mod requests;
pub mod show;
pub mod table;
pub mod units;

use std::env;
use std::fs;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cli::Form;
use crate::cli::ctl::{
    Amount, Consent, Ctl, Filters, Order, PAGE_TUNNELS_MAX, Sort, Step, Verb, Whereabouts, Which,
};
use answers::{Closed, Page, Planned};
use client::{PATIENCE, PATIENCE_WITH_NAMES, Trouble};
use place::{Lost, Place, World};
use requests::Request;
use units::{counted, printable, printable_json, printable_lines};

/// What was asked for is not done: the answer is no.
const EXIT_REFUSED: u8 = 1;
/// There is no answer.
const EXIT_NO_ANSWER: u8 = 2;

pub fn run(ctl: &Ctl) -> ExitCode {
    match find(&ctl.whereabouts).and_then(|place| Asking { place, form: ctl.form }.carry_out(&ctl.verb)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

/// Whom to ask, by the environment and files of this process.
pub fn find(whereabouts: &Whereabouts) -> Result<Place, Failure> {
    let world = World { variable: &|name| env::var_os(name), read: &|path| fs::read_to_string(path) };
    place::find(whereabouts, &world).map_err(Failure::Lost)
}

/// Why it is not done.
pub enum Failure {
    Lost(Lost),
    Trouble(Trouble),
    /// It was not agreed to, or there is nothing that it could be done to.
    Declined(String),
    /// What was to be read or written here.
    Terminal(io::Error),
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure::Trouble(trouble)
    }
}

impl Failure {
    /// Tells it on stderr.
    pub fn tell(&self) -> ExitCode {
        match self {
            Failure::Lost(Lost::Usage(text)) => crate::fail(crate::EXIT_USAGE, text),
            Failure::Lost(Lost::Nowhere(text)) | Failure::Trouble(Trouble::NoAnswer(text)) => {
                crate::fail(EXIT_NO_ANSWER, text)
            }
            Failure::Trouble(Trouble::Refused(text)) | Failure::Declined(text) => {
                crate::fail(EXIT_REFUSED, text)
            }
            // Nobody is left who would read on.
            Failure::Terminal(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Failure::Terminal(error) => {
                crate::fail(EXIT_REFUSED, format_args!("cannot tell the answer: {error}"))
            }
        }
    }
}

struct Asking {
    place: Place,
    form: Form,
}

impl Asking {
    fn carry_out(&self, verb: &Verb) -> Result<(), Failure> {
        match verb {
            Verb::Status => self.tell(&requests::status(), show::status),
            Verb::Tunnels { filters, sort, order, amount } => self.tunnels(filters, *sort, *order, *amount),
            Verb::Close { which, step, consent } => self.close(which, *step, *consent),
            Verb::Drain { target, step } => {
                self.tell(&requests::drain(target, *step), |answer| show::drained(answer, *step))
            }
            Verb::Undrain { target, step } => {
                self.tell(&requests::undrain(target, *step), |answer| show::undrained(answer, *step))
            }
            Verb::Rebalance { upstream, step } => {
                self.tell(&requests::rebalance(upstream, *step), |answer| show::rebalanced(answer, *step))
            }
            Verb::Plan => {
                self.tell(&requests::reload(Step::DryRun), |answer: &Planned| printable_lines(&answer.text))
            }
            Verb::Reload => self.tell(&requests::reload(Step::Done), show::reloaded),
        }
    }

    /// Asks, and prints the answer.
    fn tell<T: for<'a> Deserialize<'a>>(
        &self,
        request: &Request,
        show: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let body = self.ask(request)?;
        match self.form {
            Form::Json => self.print_as_it_came(&body),
            Form::Text => print(&show(&client::read(&self.place, &body)?)),
        }
    }

    fn ask(&self, request: &Request) -> Result<String, Trouble> {
        let patience = match request {
            Request::Post { path: "/reload", .. } => PATIENCE_WITH_NAMES,
            Request::Get { .. } | Request::Post { .. } => PATIENCE,
        };
        client::ask(&self.place, request, patience)
    }

    fn print_as_it_came(&self, body: &str) -> Result<(), Failure> {
        client::read::<IgnoredAny>(&self.place, body)?;
        let end = if body.ends_with('\n') { "" } else { "\n" };
        match io::stdout().is_terminal() {
            true => print(&(printable_json(body) + end)),
            false => print(&format!("{body}{end}")),
        }
    }

    /// Page by page, so that a million tunnels need the room of a page.
    fn tunnels(&self, filters: &Filters, sort: Sort, order: Order, amount: Amount) -> Result<(), Failure> {
        let limit = match amount {
            Amount::All => PAGE_TUNNELS_MAX,
            Amount::Some(limit) => limit,
        };
        let (mut table, mut shown, mut after) = (show::tunnels_table(), 0, None);
        loop {
            let body = self.ask(&requests::tunnels(filters, sort, order, limit, after.as_deref()))?;
            let page: Page = client::read(&self.place, &body)?;
            if let (0, Some((_, id))) = (page.matched, filters.iter().find(|(name, _)| *name == "id")) {
                return Err(nobody(id));
            }
            shown += page.tunnels.len() as u64;
            match self.form {
                Form::Json => self.print_as_it_came(&body)?,
                Form::Text => print(&show::tunnels(&mut table, &page))?,
            }
            after = match (amount, page.next, self.form) {
                (Amount::All, Some(next), _) if !page.tunnels.is_empty() => Some(next),
                (_, _, Form::Json) => return Ok(()),
                (Amount::All, _, Form::Text) => return print(&show::total(shown, shown)),
                (Amount::Some(_), _, Form::Text) => return print(&show::total(shown, page.matched)),
            };
        }
    }

    /// One tunnel is closed as it is said. What may be more is counted first, and agreed to.
    fn close(&self, which: &Which, step: Step, consent: Consent) -> Result<(), Failure> {
        match (which, step, consent) {
            (Which::Those(_) | Which::All, Step::Done, Consent::Asked) => {
                let body = self.ask(&requests::close(which, Step::DryRun))?;
                let found: Closed = client::read(&self.place, &body)?;
                if found.matched > 1 {
                    agree(&counted(found.matched, "tunnel"))?;
                }
            }
            (Which::One(_), _, _) | (_, Step::DryRun, _) | (_, _, Consent::Given) => {}
        }
        let body = self.ask(&requests::close(which, step))?;
        let answer: Closed = client::read(&self.place, &body)?;
        match (answer.matched, which, self.form) {
            (0, Which::One(id), _) => Err(nobody(id)),
            (_, _, Form::Json) => self.print_as_it_came(&body),
            (_, _, Form::Text) => print(&show::closed(&answer, step)),
        }
    }
}

/// Whoever is named has to be there.
fn nobody(id: &str) -> Failure {
    Failure::Declined(format!("there is no open tunnel with the id {}", printable(id)))
}

/// Asks whoever sits at the terminal.
fn agree(tunnels: &str) -> Result<(), Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let text = format!("{tunnels} would be closed, and nobody is there to be asked: --yes does without");
        return Err(Failure::Declined(text));
    }
    let mut answer = String::new();
    let asked = write!(io::stderr(), "close {tunnels}? [y/N] ").and_then(|()| io::stderr().flush());
    asked.and_then(|()| stdin.read_line(&mut answer)).map_err(Failure::Terminal)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Declined("no tunnel is closed".into())),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Terminal)
}
