//! The command `adit`: flags, the configuration file, the logger, signals and exit codes. All else is the
//! library's, and only what any program may use of it.

#![deny(unsafe_code)]

mod cli;
#[cfg(feature = "ctl")]
mod completions;
#[cfg(feature = "ctl")]
mod ctl;
#[cfg(feature = "demo")]
mod demo;
mod descriptors;
mod logger;
mod privileges;
mod reload;
mod signals;
#[cfg_attr(not(feature = "systemd"), path = "systemd_off.rs")]
mod systemd;
#[cfg(feature = "ctl")]
mod top;

use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::panic::{self, UnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use adit::changes::Changes;
use adit::{Config, ConfigError, Inherited, Plan, StartError, Workers};
#[cfg(feature = "admin")]
use adit::{Host, ReloadRequest};

use cli::{Command, Form};
use logger::AtEnd;
#[cfg(feature = "admin")]
use logger::Logs;
#[cfg(feature = "admin")]
use reload::Asker;
use reload::{Reloader, Reloads};
use systemd::Notifier;

const EXIT_CONFIG: u8 = 1;
const EXIT_START: u8 = 2;
/// EX_USAGE and EX_SOFTWARE of sysexits.h.
const EXIT_USAGE: u8 = 64;
const EXIT_BUG: u8 = 70;

fn main() -> ExitCode {
    guarded(|| run(env::args_os().skip(1)))
}

/// A panic that no session is to blame for ends the process by a code of its own. What it was the hook has told.
fn guarded(run: impl FnOnce() -> ExitCode + UnwindSafe) -> ExitCode {
    panic::catch_unwind(run).unwrap_or(ExitCode::from(EXIT_BUG))
}

fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    match cli::parse(args) {
        Ok(Command::Run(file)) => {
            let sockets = systemd::sockets(); // before anything else is opened
            match load(&file) {
                Ok((_, plan)) => serve(&plan.clone(), Some(&file), || bind(plan, sockets)),
                Err(error) => fail(EXIT_CONFIG, error),
            }
        }
        Ok(Command::Check(file)) => match load(&file) {
            Ok((config, _)) => say(&format!("config ok: {}\n", config.summary())),
            Err(error) => fail(EXIT_CONFIG, error),
        },
        Ok(Command::Plan { old, new, form }) => match (changes(&old, &new), form) {
            (Ok(changes), Form::Text) => say(&changes.to_string()),
            (Ok(changes), Form::Json) => say(&(changes.to_json() + "\n")),
            (Err(error), Form::Text | Form::Json) => fail(EXIT_CONFIG, error),
        },
        #[cfg(feature = "demo")]
        Ok(Command::Demo) => match demo::start() {
            Ok(demo) => serve(&demo.plan(), None, || demo.bind()),
            Err(error) => fail(EXIT_START, error),
        },
        #[cfg(feature = "schema")]
        Ok(Command::Schema) => say(Config::schema()),
        #[cfg(feature = "ctl")]
        Ok(Command::Ctl(ctl)) => ctl::run(&ctl),
        #[cfg(feature = "ctl")]
        Ok(Command::Top(top)) => top::run(&top),
        #[cfg(feature = "ctl")]
        Ok(Command::Completions(shell)) => say(completions::script(shell)),
        Ok(Command::Version) => say(concat!("adit ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Help(help)) => say(help),
        Err(error) => fail(EXIT_USAGE, format_args!("{error}; adit --help tells more")),
    }
}

/// Reads and checks a configuration file.
fn load(file: &Path) -> Result<(Config, Plan), ConfigError> {
    let name = Some(file.display().to_string());
    let unreadable = |error: io::Error| ConfigError {
        file: None,
        line: 0,
        column: 0,
        key: String::new(),
        message: format!("cannot be read: {error}"),
        help: Some("--config FILE names another; `adit demo` needs none".into()),
    };
    fs::read_to_string(file)
        .map_err(unreadable)
        .and_then(|text| {
            let config = Config::from_toml(&text)?;
            let plan = config.check()?;
            Ok((config, plan))
        })
        .map_err(|error| ConfigError { file: name, ..error })
}

/// What a reload from one file to another would change. The help with a file that cannot be read is about `--config`.
fn changes(old: &Path, new: &Path) -> Result<Changes, ConfigError> {
    let (_, old) = load(old)?;
    let (_, new) = load(new).map_err(|error| match error.line {
        0 => ConfigError { help: None, ..error },
        _ => error,
    })?;
    Ok(Changes::between(&old, &new))
}

/// Binds a proxy, with the sockets that the process was handed.
fn bind(plan: Plan, sockets: io::Result<Inherited>) -> Result<Workers, StartError> {
    let sockets =
        sockets.map_err(|error| StartError::Listen { address: "what was handed over".into(), error })?;
    systemd::warn_of_unused(&sockets, &plan);
    Workers::bind_with(plan, sockets)
}

/// Runs a proxy until it is asked to stop. The file is what it may be told to read again.
fn serve(plan: &Plan, file: Option<&Path>, bind: impl FnOnce() -> Result<Workers, StartError>) -> ExitCode {
    privileges::promise_no_new_ones();
    let identity = match privileges::find(&plan.run_as) {
        Ok(identity) => identity,
        Err(error) => return fail(EXIT_START, error),
    };
    let (logs, signals) = match logger::start(&plan.log).and_then(|logs| Ok((logs, signals::catch()?))) {
        Ok(both) => both,
        Err(error) => return fail(EXIT_START, format_args!("cannot set up logs and signals: {error}")),
    };
    let logs = Arc::new(logs);
    let _flush = AtEnd(Arc::clone(&logs));
    let mut proxy = match bind() {
        Ok(proxy) => proxy,
        Err(error) => return fail(EXIT_START, error),
    };
    if let Some(Err(error)) = identity.map(|identity| identity.assume(plan)) {
        return fail(EXIT_START, error);
    }
    // As it will be opened again: by whom the process is from now on.
    if let Err(error) = logs.open_access(&plan.log) {
        return fail(EXIT_START, format_args!("cannot set up logs: {error}"));
    }
    let notifier = Notifier::find();
    descriptors::make_room(proxy.max_connections());
    if let Some(sink) = logs.sink() {
        proxy.set_access_log(sink);
    }
    let handle = proxy.handle();
    let reloader =
        |file: &Path| Reloader::new(file.into(), handle.clone(), Arc::clone(&logs), notifier.clone(), plan);
    let reloads = file.map(|file| Arc::new(Reloads::new(reloader(file))));
    #[cfg(feature = "admin")]
    proxy.set_host(host(reloads.clone(), &logs));
    // The manager's first word is that all is ready: before that nobody is there to hear of a reload.
    notifier.ready();
    let started = notifier.watch(handle.clone());
    if let Err(error) =
        started.and_then(|()| signals::serve(signals, handle, Arc::clone(&logs), notifier.clone(), reloads))
    {
        return fail(EXIT_START, format_args!("cannot start a thread: {error}"));
    }
    adit::unmap_library_code();
    let ran = proxy.run();
    notifier.stopping(); // where it was not a signal that ended it
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_BUG, format_args!("the event loop failed: {error}")),
    }
}

/// What the process does for operators of its proxy.
#[cfg(feature = "admin")]
fn host(reloads: Option<Arc<Reloads>>, logs: &Arc<Logs>) -> Host {
    let mut host = Host::default();
    host.reload = reloads.map(|reloads| -> Box<dyn Fn(ReloadRequest) + Send + Sync> {
        Box::new(move |request| {
            if let Err(why) = reloads.ask(Asker::Operator(request)) {
                log::error!("an operator asks for a reload: {why}");
            }
        })
    });
    let logs = Arc::clone(logs);
    host.lost_lines = Some(Box::new(move || logs.lost()));
    host
}

/// Prints what was asked for. A reader that has gone away already does not want it.
fn say(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Tells the operator why there is nothing more to do.
fn fail(code: u8, error: impl Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "adit: {error}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_outside_of_sessions_ends_the_process_with_70() {
        let code = |code: ExitCode| format!("{code:?}"); // which is all that can be seen of one
        assert_eq!(code(guarded(|| panic!("a bug"))), code(ExitCode::from(70)));
        assert_eq!(code(guarded(|| ExitCode::from(2))), code(ExitCode::from(2)));
    }
}
