//! A command on a terminal: a pseudo-terminal that `script` (util-linux; Debian's bsdutils) makes, and a shell on it
//! that notes the terminal's settings before and after.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::WAIT;

/// What is run there gets the arguments `"$@"`, and its process id is known.
const SHELL: &str = "stty rows 30 cols 140; stty -g > before; \
    sh -c 'echo $$ > id.new; mv id.new id; exec \"$@\"' sh \"$@\"; echo $? > code; stty -g > after";

pub struct Terminal {
    directory: TempDir,
    script: Child,
    output: Receiver<Vec<u8>>,
    /// What has been written to it.
    pub seen: String,
}

impl Terminal {
    /// Runs this command on a terminal of 30 rows and 140 columns.
    pub fn run(command: &[&str]) -> Terminal {
        let directory = tempfile::tempdir().expect("a directory");
        let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
        let words: Vec<String> =
            ["sh", "-c", SHELL, "sh"].iter().chain(command).map(|word| quoted(word)).collect();
        let mut script = Command::new("script")
            .args(["-qec", &words.join(" "), "/dev/null"])
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .env_remove("ADIT_ADMIN")
            .env_remove("ADIT_TOKEN_FILE")
            .current_dir(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script, of Debian's bsdutils");
        let mut stdout = script.stdout.take().expect("a pipe");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut chunk) {
                if sender.send(chunk[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { directory, script, output, seen: String::new() }
    }

    /// Types.
    pub fn write(&mut self, keys: &str) {
        let stdin = self.script.stdin.as_mut().expect("a pipe");
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).expect("typed");
    }

    /// Waits until this has been written to the terminal, after what was awaited before.
    pub fn await_text(&mut self, text: &str) {
        let until = Instant::now() + WAIT;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no {text:?} on the terminal: {:?}", self.seen)
                }
            }
        }
    }

    /// The process id of the command.
    pub fn id(&self) -> String {
        self.await_file("id")
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.id()]).status();
        assert!(status.expect("kill").success());
    }

    /// Waits for the end of it all: the exit code as the shell has it, and everything that was written.
    pub fn wait(mut self) -> (String, String) {
        let code = self.await_file("code");
        let (before, after) = (self.await_file("before"), self.await_file("after"));
        self.script_end();
        while let Ok(bytes) = self.output.recv_timeout(WAIT) {
            self.seen += &String::from_utf8_lossy(&bytes);
        }
        assert_eq!(before, after, "the settings of the terminal: {}", self.seen);
        assert!(before.split(':').count() > 4, "stty -g: {before}");
        (code, std::mem::take(&mut self.seen))
    }

    fn script_end(&mut self) -> ExitStatus {
        drop(self.script.stdin.take());
        self.script.wait().expect("its end")
    }

    fn await_file(&self, name: &str) -> String {
        let path: PathBuf = self.directory.path().join(name);
        let until = Instant::now() + WAIT;
        loop {
            match fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text.trim_end().to_owned(),
                _ => {
                    assert!(Instant::now() < until, "no {name}: {:?}", self.seen);
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill(); // it may have ended; the terminal and what runs on it end with it
        let _ = self.script.wait();
    }
}
