//! The built binary as a child process: started with a configuration file of its own, looked at through /proc, killed
//! and waited for when the test ends, however it ends.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Client, WAIT};

/// The binary that these tests are about.
pub const ADIT: &str = env!("CARGO_BIN_EXE_adit");

/// A clock tick of /proc/PID/stat is 10 ms, on every machine that Linux calls USER_HZ = 100 on: all that it runs on.
const TICK: Duration = Duration::from_millis(10);

/// A running `adit`.
pub struct Process {
    child: Child,
    /// Where its configuration is, and room for what the test needs.
    pub directory: TempDir,
    stdout: Receiver<String>,
    stderr: Option<Receiver<String>>,
    address: SocketAddr,
}

/// What is done with what it says on stderr.
#[derive(Clone, Copy, PartialEq)]
enum Listening {
    Yes,
    No,
}

impl Process {
    /// Starts it with this configuration, and waits until it listens on a TCP address.
    pub fn start(config: &str) -> Process {
        Process::spawn(Command::new(ADIT), config, Listening::Yes)
    }

    /// As [`start`](Process::start), with this `RUST_LOG`.
    pub fn start_logging(config: &str, filter: &str) -> Process {
        let mut command = Command::new(ADIT);
        command.env("RUST_LOG", filter);
        Process::spawn(command, config, Listening::Yes)
    }

    /// As [`start`](Process::start), with so many descriptors and no more.
    pub fn start_limited(config: &str, descriptors: u32) -> Process {
        let mut shell = Command::new("sh");
        // The soft limit is left lower than the hard one, as most systems have it.
        shell.args([
            "-c",
            "ulimit -Sn 32 && ulimit -Hn \"$0\" && exec \"$@\"",
            &descriptors.to_string(),
            ADIT,
        ]);
        Process::spawn(shell, config, Listening::Yes)
    }

    /// As [`start`](Process::start), with a stderr that is a pipe nobody reads.
    pub fn start_unheard(config: &str) -> Process {
        Process::spawn(Command::new(ADIT), config, Listening::No)
    }

    /// As [`start`](Process::start), by a command that runs what its further arguments are for.
    pub fn start_by(command: Command, config: &str) -> Process {
        Process::spawn(command, config, Listening::Yes)
    }

    /// As [`start`](Process::start), by a command that [hands sockets over](handing_over).
    pub fn start_handed(command: Command, config: &str) -> Process {
        Process::launch(tempfile::tempdir().expect("a directory"), command, config, Listening::Yes)
    }

    /// As [`start_by`](Process::start_by), in a directory that the test has made.
    pub fn start_in(directory: TempDir, command: Command, config: &str) -> Process {
        Process::launch(directory, command, config, Listening::Yes)
    }

    fn spawn(mut command: Command, config: &str, listening: Listening) -> Process {
        if command.get_envs().next().is_none() {
            command.env_remove("RUST_LOG"); // the tester's
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Process::launch(tempfile::tempdir().expect("a directory"), command, config, listening)
    }

    /// What is not said about stdin and stdout is as the test's own.
    fn launch(directory: TempDir, mut command: Command, config: &str, listening: Listening) -> Process {
        let path = directory.path().join("config.toml");
        fs::write(&path, config).expect("written");
        command.arg("--config").arg(path).current_dir(&directory);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary starts");
        let stdout = child.stdout.take().map_or_else(|| channel().1, lines);
        let stderr = match listening {
            Listening::Yes => child.stderr.take().map(lines),
            Listening::No => None, // it stays in `child`, so the pipe stays open
        };
        let mut process = Process { child, directory, stdout, stderr, address: ([0, 0, 0, 0], 0).into() };
        process.address = process.await_some("a listener", |process| {
            assert!(process.child.try_wait().unwrap().is_none(), "it has ended: {:?}", process.said());
            listening_address(process.id())
        });
        process
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The TCP address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// A file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The next line on its stdout.
    pub fn stdout_line(&self) -> String {
        self.stdout.recv_timeout(WAIT).expect("a line on stdout")
    }

    /// The next line on its stderr with these words in it.
    pub fn stderr_line(&self, words: &str) -> String {
        let stderr = self.stderr.as_ref().expect("stderr is read");
        let until = Instant::now() + WAIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = stderr.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {words:?}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    /// All lines on its stderr up to the next with these words in it.
    pub fn stderr_lines(&self, words: &str) -> Vec<String> {
        let stderr = self.stderr.as_ref().expect("stderr is read");
        let mut lines: Vec<String> = Vec::new();
        while lines.last().is_none_or(|line| !line.contains(words)) {
            lines.push(stderr.recv_timeout(WAIT).unwrap_or_else(|_| panic!("no line with {words:?}")));
        }
        lines
    }

    /// What it has said on stderr by now and nobody has asked for.
    pub fn said(&self) -> Vec<String> {
        self.stderr.iter().flat_map(Receiver::try_iter).collect()
    }

    /// Sends a signal: "TERM", "HUP".
    pub fn signal(&self, name: &str) {
        let pid = self.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill").success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.await_some("its end", |process| process.child.try_wait().unwrap())
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it runs").count()
    }

    /// Waits until it has so many open descriptors.
    pub fn await_descriptors(&mut self, count: usize) {
        let until = Instant::now() + WAIT;
        while self.descriptors() != count {
            assert!(Instant::now() < until, "it has {} descriptors, not {count}", self.descriptors());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The processor time that all its threads have used.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("it runs");
        // Fields 14 and 15 (proc(5)); the second one, in parentheses, may have spaces in it.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u32>().unwrap());
        TICK * ticks.sum()
    }

    /// Processor time used within this time from now.
    pub fn cpu_time_within(&self, period: Duration) -> Duration {
        let before = self.cpu_time();
        std::thread::sleep(period); // nothing is awaited here: the period is what is measured
        self.cpu_time() - before
    }

    /// Expects that it has these descriptors again and does nothing.
    pub fn expect_rest(&mut self, descriptors: usize) {
        self.await_descriptors(descriptors);
        let used = self.cpu_time_within(Duration::from_millis(300));
        // Spinning takes all of it, or what others on the machine leave.
        assert!(used <= 2 * TICK, "{used:?} of processor time at rest");
    }

    /// Resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches("kB").trim().parse().expect("a number")
    }

    fn await_some<T>(&mut self, what: &str, mut found: impl FnMut(&mut Process) -> Option<T>) -> T {
        let until = Instant::now() + WAIT;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(Instant::now() < until, "adit: waited in vain for {what}: {:?}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

/// A command that hands sockets over as a service manager does (sd_listen_fds(3)): two at most, by these names. It runs
/// `adit` with the arguments that it is given.
pub fn handing_over(sockets: Vec<(&str, OwnedFd)>) -> Command {
    let mut shell = Command::new("sh");
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    shell.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    // They come in as what a child can be given without a word in between, and LISTEN_PID is the shell's own number.
    let script = "exec 3<&0 4>&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"";
    shell.args(["-c", script, ADIT]).env_remove("RUST_LOG");
    let mut sockets = sockets.into_iter().map(|(_, socket)| Stdio::from(socket));
    shell
        .stdin(sockets.next().unwrap_or_else(Stdio::null))
        .stdout(sockets.next().unwrap_or_else(Stdio::null));
    shell
}

/// Runs the binary to its end, in the repository's root (where cargo runs tests): its exit code, stdout and stderr.
pub fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(ADIT).args(arguments).env_remove("RUST_LOG").stdin(Stdio::null()).output();
    let output = output.expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The lines of a pipe, which is read all the time.
pub fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(pipe).lines();
        lines.map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    receiver
}

/// The IPv4 address that a process listens on: with port 0 in its configuration, only the kernel knows.
fn listening_address(id: u32) -> Option<SocketAddr> {
    let links = fs::read_dir(format!("/proc/{id}/fd")).ok()?.flatten();
    let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
    let targets = targets.filter_map(|target| target.into_os_string().into_string().ok());
    let inodes: Vec<String> = targets
        .filter_map(|target| {
            target.strip_prefix("socket:[").map(|inode| inode.trim_end_matches(']').to_owned())
        })
        .collect();
    let table = fs::read_to_string(format!("/proc/{id}/net/tcp")).ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_listening = fields[3] == "0A";
        if !is_listening || !inodes.iter().any(|inode| inode == fields[9]) {
            return None;
        }
        let (ip, port) = fields[1].split_once(':')?;
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
        Some((ip, u16::from_str_radix(port, 16).ok()?).into())
    })
}
