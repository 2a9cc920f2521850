//! The access log, kept as a book: every tunnel that was opened has to be closed, once, and not by a panic.
//!
//! The file is read as it grows and exchanged for another now and then, so that neither it nor what is remembered of it
//! grows with the length of a run.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What the log has said so far.
#[derive(Debug, Default)]
pub struct Ledger {
    open: HashSet<String>,
    pub opened: u64,
    pub sessions: u64,
    /// How sessions ended, those among them that never opened a tunnel.
    pub outcomes: BTreeMap<String, u64>,
    /// What cannot be.
    pub troubles: Vec<String>,
    /// Lines that the log itself says are missing. Then nothing can be said about the rest.
    pub lost: u64,
}

/// What is noted in full; there may be as many as there are sessions.
const TROUBLES_MAX: usize = 5;

impl Ledger {
    pub fn note(&mut self, line: &str) {
        let id = field(line, "id").unwrap_or_default();
        match field(line, "event") {
            Some("open") => {
                self.opened += 1;
                if !self.open.insert(id.to_owned()) {
                    self.trouble(format!("opened twice: {line}"));
                }
            }
            Some("close") => {
                self.sessions += 1;
                let was_open = self.open.remove(id);
                if !was_open && field(line, "status") == Some("101") {
                    self.trouble(format!("closed, and was not open: {line}"));
                }
                let outcome = field(line, "outcome").unwrap_or("none");
                if ["panic", "none"].contains(&outcome) {
                    self.trouble(format!("ended by {outcome}: {line}"));
                }
                *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
            }
            Some("lost") => {
                self.lost += field(line, "lines").and_then(|lines| lines.parse().ok()).unwrap_or(1)
            }
            Some(_) | None => self.trouble(format!("no line of a session: {line}")),
        }
    }

    fn trouble(&mut self, what: String) {
        if self.troubles.len() < TROUBLES_MAX {
            self.troubles.push(what);
        }
    }

    /// Those that are open, when nobody is there any more.
    pub fn left_over(&self) -> impl Iterator<Item = &str> {
        self.open.iter().map(String::as_str)
    }
}

/// The value of a field in a line of text: up to the next space, or between quotes.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = line;
    loop {
        let (key, value) = rest.split_once('=')?;
        let (value, behind) = match value.strip_prefix('"') {
            Some(quoted) => {
                // The first quote that is not escaped; a backslash is escaped by another.
                let mut escaped = false;
                let end = quoted.find(|c| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends
                })?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => value.split_once(' ').unwrap_or((value, "")),
        };
        if key.trim_start() == name {
            return Some(value);
        }
        rest = behind;
    }
}

/// The file that adit writes, followed.
pub struct Log {
    path: PathBuf,
    file: File,
    /// Where the file is that is being read, where it is no longer the one that is written.
    aside: Option<PathBuf>,
    partial: Vec<u8>,
    pub ledger: Ledger,
}

impl Log {
    /// Begins with the file that is there.
    pub fn follow(path: &Path) -> io::Result<Log> {
        let file = File::open(path)?;
        Ok(Log { path: path.into(), file, aside: None, partial: Vec::new(), ledger: Ledger::default() })
    }

    /// Reads what has been written since.
    pub fn read(&mut self) -> io::Result<()> {
        self.file.read_to_end(&mut self.partial)?;
        let whole = self.partial.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        for line in self.partial[..whole].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            self.ledger.note(&String::from_utf8_lossy(line));
        }
        self.partial.drain(..whole);
        Ok(())
    }

    /// Moves the file away, for adit to be told to open another; where it has not done so before it is told again.
    pub fn put_aside(&mut self) -> io::Result<()> {
        if self.aside.is_some() {
            return Ok(());
        }
        let aside = self.path.with_extension("old");
        fs::rename(&self.path, &aside)?;
        self.aside = Some(aside);
        Ok(())
    }

    /// Goes on with the file that adit has opened instead, if it has; nothing is written to the old one any more.
    /// Says whether there is none that adit should have opened.
    pub fn turn_page(&mut self) -> io::Result<bool> {
        let Some(aside) = &self.aside else { return Ok(true) };
        let next = match File::open(&self.path) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        fs::remove_file(aside)?;
        self.aside = None;
        self.read()?;
        self.file = next;
        self.read()?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn fields_are_found_wherever_they_stand() {
        let line =
            r#"time=2026 id=a7 event=close path="/a b=c outcome=x" ua="\"\\" outcome="no route" bytes_up=0"#;
        let check = |name, expected| assert_eq!(field(line, name), expected, "{name}");
        check("time", Some("2026"));
        check("id", Some("a7"));
        check("path", Some("/a b=c outcome=x"));
        check("outcome", Some("no route"));
        check("bytes_up", Some("0"));
        check("bytes", None);
        assert_eq!(field("", "id"), None);
        assert_eq!(field("id=\"never ends", "id"), None);
    }

    fn ledger(lines: &[&str]) -> Ledger {
        let mut ledger = Ledger::default();
        lines.iter().for_each(|line| ledger.note(line));
        ledger
    }

    #[test]
    fn a_book_that_balances() {
        let book = ledger(&[
            "time=1 id=a event=open status=101",
            "time=1 id=b event=close status=404 outcome=\"no route\" ended_by=adit",
            "time=1 id=c event=open status=101",
            "time=1 id=c event=close status=101 outcome=finished",
            "time=1 id=a event=close status=101 outcome=finished",
        ]);
        assert_eq!((book.opened, book.sessions, book.lost), (2, 3, 0));
        assert!(book.troubles.is_empty() && book.left_over().next().is_none());
        let outcomes: Vec<_> = book.outcomes.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(outcomes, [("finished", 2), ("no route", 1)]);
    }

    #[test]
    fn books_that_do_not() {
        let check = |lines: &[&str], words: &str| {
            let book = ledger(lines);
            let told: Vec<&str> = book.troubles.iter().map(String::as_str).chain(book.left_over()).collect();
            assert!(told.len() == 1 && told[0].contains(words), "{lines:?}: {told:?}");
        };
        check(&["id=a event=open", "id=b event=open", "id=a event=close outcome=finished"], "b");
        check(&["id=a event=open", "id=a event=open", "id=a event=close outcome=finished"], "opened twice");
        check(&["id=a event=close status=101 outcome=finished"], "was not open");
        check(&["id=a event=close status=502 outcome=panic"], "ended by panic");
        check(&["id=a event=close status=502"], "ended by none");
        check(&["what is this"], "no line of a session");
        assert_eq!(ledger(&["time=1 event=lost lines=7 reason=full"]).lost, 7);
    }

    #[test]
    fn a_log_is_followed_from_file_to_file_and_read_by_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut file = File::create(&path).unwrap();
        let mut log = Log::follow(&path).unwrap();
        file.write_all(b"id=a event=open\nid=a eve").unwrap();
        log.read().unwrap();
        assert_eq!((log.ledger.opened, log.ledger.sessions), (1, 0));
        log.put_aside().unwrap();
        log.put_aside().unwrap();
        assert!(!log.turn_page().unwrap(), "nobody has opened another");
        file.write_all(b"nt=close outcome=x\n").unwrap();
        fs::write(&path, b"id=b event=open\n").unwrap();
        assert!(log.turn_page().unwrap());
        assert_eq!((log.ledger.opened, log.ledger.sessions), (2, 1));
        assert!(log.turn_page().unwrap(), "there is nothing to turn");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
