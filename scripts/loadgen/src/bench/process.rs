//! A child of the benchmark: kept to a core, heard line by line within a bounded time, and ended by its own id on
//! whatever path its owner is left.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often somebody who waits looks whether the wait is over.
const LOOK: Duration = Duration::from_millis(5);
/// How long a child may take to end when it is asked to, and how often it is asked before it is killed.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const ASKS_MAX: u32 = 10;

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on the signals that ask a program to stop make every wait here fail, so that what was started is ended.
pub fn hear_signals() -> Result<(), String> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// An error where a signal has come.
pub fn go_on() -> Result<(), String> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
}

pub struct Process {
    name: String,
    child: Child,
    /// Whom a request to end is for, where that is a child of the child: what strace runs.
    inner: Option<u32>,
    log: PathBuf,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `command` on `core`, its messages in the file `log`. With `speaks` it is asked and heard by its standard
    /// input and output.
    pub fn start(
        name: &str,
        command: &[String],
        core: Option<usize>,
        log: &Path,
        speaks: bool,
    ) -> Result<Self, String> {
        let pin = core.map_or_else(Vec::new, |core| vec!["taskset".into(), "-c".into(), core.to_string()]);
        let words: Vec<&String> = pin.iter().chain(command).collect();
        let messages = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let copy = messages.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .stdin(if speaks { Stdio::piped() } else { Stdio::null() })
            .stdout(if speaks { Stdio::piped() } else { messages.into() })
            .stderr(copy)
            .spawn()
            .map_err(|error| format!("{name}: {}: {error}", words[0]))?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            // Ends with the child, whose end of the pipe is the only one.
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        Ok(Self { name: name.into(), child, inner: None, log: log.into(), stdin, lines })
    }

    /// Whose CPU and memory are meant. `taskset` has made way for what it started.
    pub fn pid(&self) -> u32 {
        self.inner.unwrap_or_else(|| self.child.id())
    }

    /// The next line that it says.
    pub fn line(&self, within: Duration) -> Result<String, String> {
        let deadline = Instant::now() + within;
        loop {
            go_on()?;
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.trouble("ended too early")),
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    return Err(self.trouble(&format!("said nothing for {within:?}")));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    pub fn say(&mut self, line: &str) -> Result<(), String> {
        let said = self.stdin.as_mut().map(|stdin| writeln!(stdin, "{line}"));
        said.unwrap_or(Ok(())).map_err(|error| self.trouble(&format!("does not listen: {error}")))
    }

    /// Waits until it accepts on this address.
    pub fn accepts(&mut self, address: SocketAddr, within: Duration) -> Result<(), String> {
        let deadline = Instant::now() + within;
        while TcpStream::connect(address).is_err() {
            go_on()?;
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.trouble(&format!("did not start: {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.trouble(&format!("accepts nobody on {address} after {within:?}")));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// What this child has started is meant from now on: strace's only child.
    pub fn look_inside(&mut self) -> Result<(), String> {
        let inner = child_of(self.child.id()).ok_or_else(|| self.trouble("has started nothing"))?;
        self.inner = Some(inner);
        Ok(())
    }

    /// Waits for it to end by itself, which it does at the end of its input if not before.
    pub fn ends_well(mut self, within: Duration) -> Result<(), String> {
        self.stdin = None;
        match self.wait(within)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.trouble(&format!("failed: {status}"))),
            None => Err(self.trouble(&format!("does not end within {within:?}"))),
        }
    }

    /// Asks it to end, and sees to it that it does. nginx misses a signal that comes right before it goes to sleep,
    /// which under valgrind takes a while, so it is asked again.
    pub fn stop(mut self) -> Result<(), String> {
        for _ in 0..ASKS_MAX {
            self.signal(Signal::TERM);
            if self.wait(ASK_TIMEOUT)?.is_some() {
                return Ok(());
            }
        }
        Err(self.trouble(&format!("does not end though asked {ASKS_MAX} times")))
    }

    fn wait(&mut self, within: Duration) -> Result<Option<ExitStatus>, String> {
        let deadline = Instant::now() + within;
        loop {
            go_on()?;
            let status = self.child.try_wait().map_err(|error| format!("{}: {error}", self.name))?;
            if status.is_some() || Instant::now() > deadline {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // One that is gone already needs no signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// What happened, for an error, and the last messages of this child.
    pub fn trouble(&self, what: &str) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        let last: String = last.iter().rev().map(|line| format!("\n    {line}")).collect();
        format!("{} {what}{last}", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            if self.inner.is_some() {
                self.signal(Signal::KILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The process whose parent is `parent`, looked for in `/proc`.
fn child_of(parent: u32) -> Option<u32> {
    let all = fs::read_dir("/proc").ok()?.flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| parent_in(&stat)) == Some(parent)
    };
    pids.into_iter().find(is_child)
}

/// "pid (name) state parent ...", where the name may hold anything.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent_in("12 (nginx) S 7 12 3 0 -1"), Some(7));
        assert_eq!(parent_in("12 (a) b (c) R 8 12"), Some(8));
        assert_eq!(parent_in("12"), None);
    }
}
