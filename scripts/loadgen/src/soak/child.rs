//! The adit of a run: started under a limit of descriptors, heard line by line, looked at through /proc, and ended by
//! its own id on whatever path its owner is left.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::bench::process::go_on;

/// How often somebody who waits looks whether the wait is over.
const LOOK: Duration = Duration::from_millis(5);
/// The last lines that it has said, for who asks why it is not there any more.
const LINES_KEPT: usize = 8;

pub struct Adit {
    child: Child,
    stderr: Receiver<String>,
    last: VecDeque<String>,
}

/// Its descriptors, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    pub pipes: usize,
    pub listeners: usize,
    /// Those that have a connection each among them.
    pub others: usize,
}

impl Descriptors {
    pub fn all(self) -> usize {
        self.pipes + self.listeners + self.others
    }
}

impl Adit {
    /// Starts `program` with this configuration, and so many descriptors and no more.
    pub fn start(program: &Path, config: &Path, descriptors: usize) -> Result<Adit, String> {
        let failed = |error| format!("{}: {error}", program.display());
        // The soft limit is left lower than the hard one, as most systems have it.
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -Sn 256 && ulimit -Hn \"$0\" && exec \"$@\"", &descriptors.to_string()])
            .arg(program)
            .arg("--config")
            .arg(config)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let pipe = child.stderr.take().expect("stderr is a pipe");
        let (sender, stderr) = channel();
        // Ends with the child, whose end of the pipe is the only one.
        thread::spawn(move || {
            BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Adit { child, stderr, last: VecDeque::new() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it has said and nobody has heard.
    pub fn line(&mut self) -> Option<String> {
        let line = self.stderr.try_recv().ok()?;
        if self.last.len() == LINES_KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line.clone());
        Some(line)
    }

    /// An error where it has ended.
    pub fn lives(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.trouble(&format!("adit has ended: {status}"))),
            Err(error) => Err(format!("adit: {error}")),
        }
    }

    /// What happened, and what it said last.
    pub fn trouble(&mut self, what: &str) -> String {
        thread::sleep(LOOK); // for what is still in the pipe
        while self.line().is_some() {}
        self.last.iter().fold(what.to_owned(), |text, line| text + "\n    " + line)
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) {
            // One that is gone already needs no signal; nobody else has its id before it was waited for.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Result<Option<ExitStatus>, String> {
        let deadline = Instant::now() + within;
        loop {
            let status = self.child.try_wait().map_err(|error| format!("adit: {error}"))?;
            if status.is_some() || Instant::now() > deadline {
                return Ok(status);
            }
            go_on()?;
            thread::sleep(LOOK);
        }
    }

    /// Where it listens, by address: with port 0 in its configuration only the kernel knows.
    pub fn listeners(&self) -> Result<HashMap<Ipv4Addr, SocketAddr>, String> {
        let sockets = self.sockets()?;
        let table = self.proc("net/tcp")?;
        let all = listening(&table).filter(|(_, inode)| sockets.contains(*inode));
        Ok(all.filter_map(|(address, _)| address_in(address)).map(|it| (ip_of(it), it)).collect())
    }

    pub fn descriptors(&self) -> Result<Descriptors, String> {
        let table = self.proc("net/tcp")?;
        let listening: HashSet<&str> = listening(&table).map(|(_, inode)| inode).collect();
        let mut found = Descriptors { pipes: 0, listeners: 0, others: 0 };
        for target in self.targets()? {
            match inode_of(&target) {
                Some(inode) if listening.contains(inode) => found.listeners += 1,
                _ if target.starts_with("pipe:") => found.pipes += 1,
                _ => found.others += 1,
            }
        }
        Ok(found)
    }

    /// How many descriptors it has.
    pub fn descriptor_count(&self) -> Result<usize, String> {
        let path = format!("/proc/{}/fd", self.id());
        Ok(fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?.count())
    }

    fn sockets(&self) -> Result<HashSet<String>, String> {
        Ok(self.targets()?.iter().filter_map(|target| inode_of(target)).map(str::to_owned).collect())
    }

    fn targets(&self) -> Result<Vec<String>, String> {
        let path = format!("/proc/{}/fd", self.id());
        let links = fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?.flatten();
        let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        Ok(targets.map(|target| target.to_string_lossy().into_owned()).collect())
    }

    /// The processor time that it has used, in ticks of 10 ms (USER_HZ is 100 wherever Linux runs).
    pub fn ticks(&self) -> Result<u64, String> {
        let stat = self.proc("stat")?;
        ticks_in(&stat).ok_or_else(|| format!("stat of adit: {stat:?}"))
    }

    fn proc(&self, name: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{name}", self.id());
        fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    }
}

impl Drop for Adit {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

fn inode_of(target: &str) -> Option<&str> {
    target.strip_prefix("socket:[")?.strip_suffix(']')
}

/// The listening sockets in a table of the kernel's (proc(5)): local address and inode.
fn listening(table: &str) -> impl Iterator<Item = (&str, &str)> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(3) == Some(&"0A")).then_some((fields[1], *fields.get(9)?))
    })
}

/// "0100007F:1F54"
fn address_in(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
    Some((ip, u16::from_str_radix(port, 16).ok()?).into())
}

fn ip_of(address: SocketAddr) -> Ipv4Addr {
    match address {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(_) => unreachable!("the table is that of IPv4"),
    }
}

/// Fields 14 and 15 (proc(5)); the second one, in parentheses, may have spaces in it.
fn ticks_in(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_found_in_the_kernel_s_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
           0: 0200007F:A3E9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0\n\
           1: 0100007F:1F54 0100007F:A3E9 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 20 4\n";
        let found: Vec<_> = listening(table).collect();
        assert_eq!(found, [("0200007F:A3E9", "4242")]);
        if cfg!(target_endian = "little") {
            assert_eq!(address_in(found[0].0), Some("127.0.0.2:41961".parse().unwrap()));
        }
        assert_eq!(inode_of("socket:[4242]"), Some("4242"));
        assert_eq!(inode_of("pipe:[4242]"), None);
    }

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 93 0 0 0 31 11 0 0 20 0 3 0 5000 1 1";
        assert_eq!(ticks_in(stat), Some(42));
        assert_eq!(ticks_in("7"), None);
    }
}
