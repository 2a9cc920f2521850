//! The command's logs: messages through `env_logger` to stderr, session lines to where the configuration says.
//! Both go through a [`LogWriter`], so that neither a full pipe nor a slow disk ever stalls a tunnel.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::panic;
use std::thread;
use std::time::{Duration, SystemTime};

use adit::access_log::{rfc3339, write_lost};
use adit::log_writer::{LogTarget, LogWriter, Loss};
use adit::plan::{AccessTarget, Log, LogFormat};
use env_logger::{Builder, Target};

/// How long the end of the process waits for lines that nobody takes.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The writers at work.
pub struct Logs {
    messages: LogWriter,
    /// Where session lines go, if anywhere; on stderr it is the same writer as for messages.
    pub access: Option<LogWriter>,
}

/// Starts the writers, the logger and the panic hook of this process.
pub fn start(config: &Log) -> io::Result<Logs> {
    let format = config.format;
    let word_access = move |loss: &Loss, out: &mut Vec<u8>| {
        write_lost(SystemTime::now(), loss.lines, &loss.reason(), format, out);
    };
    let start_access = |target| LogWriter::start(&target, word_access).map(Some);
    let (messages, access) = match &config.access {
        AccessTarget::Stderr => {
            let both = match format {
                LogFormat::Text => LogWriter::start(&LogTarget::Stderr, word_message)?,
                LogFormat::Json => LogWriter::start(&LogTarget::Stderr, word_access)?,
            };
            (both.clone(), Some(both))
        }
        AccessTarget::Off => (LogWriter::start(&LogTarget::Stderr, word_message)?, None),
        AccessTarget::Stdout => {
            (LogWriter::start(&LogTarget::Stderr, word_message)?, start_access(LogTarget::Stdout)?)
        }
        AccessTarget::File(path) => (
            LogWriter::start(&LogTarget::Stderr, word_message)?,
            start_access(LogTarget::File(path.clone())).map_err(|error| {
                let message = format!("the access log {}: {error}", path.display());
                io::Error::new(error.kind(), message)
            })?,
        ),
    };
    Builder::new()
        .filter_level(config.level)
        .parse_default_env()
        .format(|out, record| writeln!(out, "{}", message(record.level(), &record.args().to_string())))
        .target(Target::Pipe(Box::new(messages.clone())))
        .init();
    panic::set_hook(Box::new(log_panic));
    Ok(Logs { messages, access })
}

/// However the process ends, the last lines tell why: they are waited for, within [`FLUSH_TIMEOUT`] each.
impl Drop for Logs {
    fn drop(&mut self) {
        self.messages.flush_within(FLUSH_TIMEOUT);
        if let Some(access) = &self.access {
            access.flush_within(FLUSH_TIMEOUT);
        }
    }
}

/// A message on a line of its own. It may quote what came from elsewhere, which must not look like another line.
fn message(level: log::Level, text: &str) -> String {
    let mut line = format!("{} {level:<5} ", rfc3339(SystemTime::now()));
    for c in text.chars() {
        if c.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

fn word_message(loss: &Loss, out: &mut Vec<u8>) {
    let text = format!("{} log lines lost: {}", loss.lines, loss.reason());
    out.extend_from_slice(message(log::Level::Warn, &text).as_bytes());
    out.push(b'\n');
}

/// The place and the message; what it means for the session or the process is said where it is caught.
fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let place = info.location().map_or_else(|| "an unknown place".into(), ToString::to_string);
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    log::error!(
        "panic in thread {} at {place}: {text}",
        thread::current().name().unwrap_or("without a name")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let line = message(log::Level::Warn, "a\nb\x1b[1mé");
        let (time, rest) = line.split_at("2026-11-22T09:00:00.123Z".len());
        assert!(time.ends_with('Z'), "{time}");
        assert_eq!(rest, " WARN  a\\nb\\u{1b}[1mé");
    }
}
