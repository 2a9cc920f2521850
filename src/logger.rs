//! The command's logs: messages through `env_logger` to stderr, session lines to where the configuration says.
//! Both go through a [`LogWriter`], so that neither a full pipe nor a slow disk ever stalls a tunnel.

use std::env;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use adit::access_log::{rfc3339, write_lost};
use adit::log_writer::{LogTarget, LogWriter, Loss, Reopened};
use adit::plan::{AccessTarget, Log, LogFormat};
use env_logger::{Builder, DEFAULT_FILTER_ENV, Target};
use log::LevelFilter;

/// How long the end of the process waits for lines that nobody takes.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The writers at work.
pub struct Logs {
    messages: LogWriter,
    /// Where session lines go, if anywhere; on stderr it is the same writer as for messages.
    access: Mutex<Option<LogWriter>>,
    /// Whether a word about lost session lines is to be JSON, as they are.
    is_json: Arc<AtomicBool>,
    /// Whether the environment says what is worth a line.
    is_level_fixed: bool,
    /// Session lines that were lost by writers that are no more.
    lost_before: AtomicU64,
}

/// However the process ends, its last lines tell why: they are waited for. (Not when the logs themselves are dropped:
/// threads have them that live as long as the process.)
pub struct AtEnd(pub Arc<Logs>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// What is to change about the logs, once all else can.
pub struct Change {
    access: Option<LogWriter>,
    log: Log,
}

/// Starts the writer of messages, the logger and the panic hook of this process. Session lines go nowhere yet.
pub fn start(config: &Log) -> io::Result<Logs> {
    let is_json = Arc::new(AtomicBool::new(config.format == LogFormat::Json));
    let messages = LogWriter::start(&LogTarget::Stderr, word_either(&is_json))?;
    let is_level_fixed = env::var_os(DEFAULT_FILTER_ENV).is_some_and(|filter| !filter.is_empty());
    let mut builder = Builder::new();
    if !is_level_fixed {
        // The level itself is the log crate's, which can be changed.
        builder.filter_level(LevelFilter::Trace);
    }
    builder
        .parse_default_env()
        .format(|out, record| writeln!(out, "{}", message(record.level(), &record.args().to_string())))
        .target(Target::Pipe(Box::new(messages.clone())))
        .init();
    let logs =
        Logs { messages, access: Mutex::default(), is_json, is_level_fixed, lost_before: AtomicU64::new(0) };
    logs.set_level(config.level);
    panic::set_hook(Box::new(log_panic));
    Ok(logs)
}

/// The writer of session lines. Those on stderr share the one of messages, so that lines stay whole.
fn open_access(
    target: &AccessTarget,
    messages: &LogWriter,
    is_json: &Arc<AtomicBool>,
) -> io::Result<Option<LogWriter>> {
    let target = match target {
        AccessTarget::Off => return Ok(None),
        AccessTarget::Stderr => return Ok(Some(messages.clone())),
        AccessTarget::Stdout => LogTarget::Stdout,
        AccessTarget::File(path) => LogTarget::File(path.clone()),
    };
    LogWriter::start(&target, word_access(is_json)).map(Some).map_err(|error| match target {
        LogTarget::File(path) => {
            io::Error::new(error.kind(), format!("the access log {}: {error}", path.display()))
        }
        LogTarget::Stderr | LogTarget::Stdout => error,
    })
}

impl Logs {
    /// Starts the writer of session lines.
    ///
    /// # Errors
    /// Where they are to go to a file that cannot be opened.
    pub fn open_access(&self, config: &Log) -> io::Result<()> {
        *self.access() = open_access(&config.access, &self.messages, &self.is_json)?;
        Ok(())
    }

    /// Waits until the last lines are written, within [`FLUSH_TIMEOUT`] each.
    fn flush(&self) {
        self.messages.flush_within(FLUSH_TIMEOUT);
        if let Some(access) = &*self.access() {
            access.flush_within(FLUSH_TIMEOUT);
        }
    }

    fn access(&self) -> MutexGuard<'_, Option<LogWriter>> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All lines that were lost since the start.
    #[cfg(feature = "admin")]
    pub fn lost(&self) -> u64 {
        self.messages.lost() + self.lost_before.load(Relaxed) + self.lost_elsewhere(self.access().as_ref())
    }

    /// Session lines that were lost, where they do not go where messages go.
    fn lost_elsewhere(&self, access: Option<&LogWriter>) -> u64 {
        access.filter(|access| !access.is_same(&self.messages)).map_or(0, LogWriter::lost)
    }

    /// Takes session lines; `None`: nobody wants them.
    pub fn sink(&self) -> Option<impl FnMut(&[u8]) + Send + 'static> {
        self.access().clone().map(sink)
    }

    /// Opens the file of session lines anew; `None`: there are none.
    pub fn reopen(&self) -> Option<io::Result<Reopened>> {
        self.access().as_ref().map(LogWriter::reopen)
    }

    fn set_level(&self, level: LevelFilter) {
        if !self.is_level_fixed {
            log::set_max_level(level);
        }
    }

    /// What a new configuration changes.
    ///
    /// # Errors
    /// Where session lines are to go to a file that cannot be opened.
    pub fn prepare(&self, before: &Log, log: &Log) -> io::Result<Change> {
        let access = if before.access == log.access {
            self.access().clone()
        } else {
            open_access(&log.access, &self.messages, &self.is_json)?
        };
        Ok(Change { access, log: log.clone() })
    }

    /// The change has been made by the proxy, and is made here.
    pub fn commit(&self, change: Change) {
        self.is_json.store(change.log.format == LogFormat::Json, Relaxed);
        self.set_level(change.log.level);
        let mut access = self.access();
        let is_same = match (&*access, &change.access) {
            (Some(before), Some(after)) => before.is_same(after),
            (_, None) | (None, _) => false,
        };
        if !is_same {
            self.lost_before.fetch_add(self.lost_elsewhere(access.as_ref()), Relaxed);
        }
        *access = change.access;
    }
}

impl Change {
    /// Takes session lines from then on; `None`: nobody wants them.
    pub fn sink(&self) -> Option<impl FnMut(&[u8]) + Send + 'static> {
        self.access.clone().map(sink)
    }
}

fn sink(access: LogWriter) -> impl FnMut(&[u8]) + Send + 'static {
    move |lines| access.write_line(lines)
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

/// A word about lost session lines, written as they are.
fn word_access(is_json: &Arc<AtomicBool>) -> impl FnMut(&Loss, &mut Vec<u8>) + Send + 'static {
    let is_json = Arc::clone(is_json);
    move |loss, out| {
        let format = if is_json.load(Relaxed) { LogFormat::Json } else { LogFormat::Text };
        write_lost(SystemTime::now(), loss.lines, &loss.reason(), format, out);
    }
}

/// A word about lost lines among which session lines may be: as those are, where that is JSON.
fn word_either(is_json: &Arc<AtomicBool>) -> impl FnMut(&Loss, &mut Vec<u8>) + Send + 'static {
    let (is_json, mut word_access) = (Arc::clone(is_json), word_access(is_json));
    move |loss, out| if is_json.load(Relaxed) { word_access(loss, out) } else { word_message(loss, out) }
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
