//! An admin listener that answers as a test says, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tempfile::TempDir;

use super::WAIT;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// "GET /status", with the query.
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn field(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.as_str())
    }
}

/// Status and JSON text.
pub type Answer = (u16, String);
type Answering = Box<dyn FnMut(&Asked) -> Answer + Send>;

/// The listener, until it is dropped.
pub struct Admin {
    directory: TempDir,
    asked: Receiver<Asked>,
    answering: Arc<Mutex<Answering>>,
    stops: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    pub fn start(answering: impl FnMut(&Asked) -> Answer + Send + 'static) -> Admin {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("admin.sock")).expect("bound");
        let (sender, asked) = channel();
        let stops = Arc::new(AtomicBool::new(false));
        let answering: Arc<Mutex<Answering>> = Arc::new(Mutex::new(Box::new(answering)));
        let thread = std::thread::spawn({
            let (stops, answering) = (Arc::clone(&stops), Arc::clone(&answering));
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    if stops.load(Ordering::SeqCst) {
                        return;
                    }
                    serve(stream, &sender, &answering);
                }
            }
        });
        Admin { directory, asked, answering, stops, thread: Some(thread) }
    }

    /// The same answer to whatever is asked.
    pub fn always(status: u16, body: &str) -> Admin {
        let body = body.to_owned();
        Admin::start(move |_| (status, body.clone()))
    }

    /// Answers otherwise from now on.
    pub fn answer(&self, answering: impl FnMut(&Asked) -> Answer + Send + 'static) {
        *self.answering.lock().expect("no panic") = Box::new(answering);
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    /// As `--admin` has it.
    pub fn address(&self) -> String {
        format!("unix:{}", self.path().display())
    }

    /// The next request, waited for.
    pub fn next(&self) -> Asked {
        self.asked.recv_timeout(WAIT).expect("a request")
    }

    /// Waits for a request with these words in its first line.
    pub fn await_line(&self, words: &str) -> Asked {
        loop {
            let asked = self.next();
            if asked.line.contains(words) {
                return asked;
            }
        }
    }

    /// What nobody has looked at yet.
    pub fn lines(&self) -> Vec<String> {
        self.asked.try_iter().map(|asked| asked.line).collect()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(self.path()); // so that it looks
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("no panic in the admin listener");
            }
        }
    }
}

/// One request and its answer. What a client breaks off is its own affair.
fn serve(stream: UnixStream, sender: &Sender<Asked>, answering: &Mutex<Answering>) {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut stream = BufReader::new(stream);
    let Some(asked) = read(&mut stream) else { return };
    let (status, body) = (answering.lock().expect("no panic"))(&asked);
    let _ = sender.send(asked);
    let head = format!(
        "HTTP/1.1 {status} As Said\r\nContent-Type: application/json\r\nContent-Length: {}",
        body.len()
    );
    let _ = stream.get_mut().write_all(format!("{head}\r\n\r\n{body}").as_bytes());
}

fn read(stream: &mut BufReader<UnixStream>) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|count| *count > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let line = lines.remove(0).strip_suffix(" HTTP/1.1").expect("a request line").to_owned();
    let field =
        |line: &String| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut asked = Asked { line, fields: lines.iter().filter_map(field).collect(), body: String::new() };
    let length = asked.field("content-length").map_or(0, |length| length.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    asked.body = String::from_utf8(body).expect("text");
    Some(asked)
}
