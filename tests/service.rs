//! adit as a service: sockets that it is handed, a manager that is told how things are going, and a user that it
//! becomes. The manager is the test's own.

mod common;

use std::collections::HashMap;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use adit::{Address, Inherited, Proxy, Workers};
use common::process::{self, ADIT, Process, handing_over};
use common::{Backend, Client, WAIT, echoes, plan};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Group, Pid, User};
use tempfile::TempDir;

/// Tunnels from the first byte, for listeners at these addresses, with text in front.
fn config(server: &str, more: &str, listen: &[&str]) -> String {
    let listeners = listen.iter().map(|address| {
        format!("[[listener]]\nlisten = \"{address}\"\nprotocol = \"tcp\"\nupstream = \"u\"\n")
    });
    let listeners: String = listeners.collect();
    format!("{more}\n{listeners}[upstream.u]\nservers = [\"{server}\"]\n")
}

fn tcp() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Runs a command that should fail, with this configuration: its exit code and what it says on stderr.
fn refused(mut command: Command, config: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("set");
    let path = directory.path().join("config.toml");
    fs::write(&path, config).expect("written");
    let mut child = command.arg("--config").arg(path).stderr(Stdio::piped()).spawn().expect("it starts");
    let until = Instant::now() + WAIT;
    let ended = loop {
        match child.try_wait().expect("it is ours") {
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            ended => break ended,
        }
    };
    if ended.is_none() {
        child.kill().expect("killed");
    }
    let output = child.wait_with_output().expect("it has ended");
    (ended.and_then(|status| status.code()), String::from_utf8(output.stderr).expect("text"))
}

#[track_caller]
fn expect_refusal(command: Command, config: &str, words: &str) {
    let (code, said) = refused(command, config);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(words), "{words:?} is not in {said:?}");
}

// Sockets that are handed over.

#[test]
fn a_socket_that_was_handed_over_is_listened_on_by_its_name_also_after_a_reload() {
    let backend = Backend::new();
    let (listener, address) = tcp();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("local.sock");
    let local = UnixListener::bind(&path).expect("bound");
    let text = config(&backend.address(), "workers = 2", &["fd:web", "fd:local"]);
    let command = handing_over(vec![("web", listener.into()), ("local", local.into())]);
    let mut process = Process::start_handed(command, &text);
    process.stderr_line(&format!("listening on {address}"));
    process.stderr_line(&format!("listening on unix:{}", path.display()));
    let tunnels = || {
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push((Client::connect(address), backend.accept()));
            let stream = UnixStream::connect(&path).expect("connected");
            all.push((Client::of_unix(stream), backend.accept()));
        }
        all.iter_mut().for_each(|(client, server)| echoes(client, server));
        all
    };
    drop(tunnels());
    process.stderr_line(&format!(" listener={address} "));
    let text = text.replace("workers = 2", "workers = 2\n[tcp]\nkeepalive = \"30s\"\nbacklog = 16");
    fs::write(process.file("config.toml"), text).expect("written");
    process.signal("HUP");
    process.stderr_line("0 listeners opened, 0 closed");
    let open = tunnels();
    process.signal("TERM");
    process.stderr_line("SIGTERM: draining");
    drop(open);
    assert_eq!(process.wait().code(), Some(0));
    assert!(path.exists(), "the file is whose socket it is");
}

/// Its descriptors are duplicates, so that the poll goes on watching what is closed, unless it is told not to, and takes
/// the same socket for one that it has when it comes back.
#[test]
fn a_socket_that_was_handed_over_may_go_and_come_back_in_reloads() {
    let backend = Backend::new();
    let (listener, address) = tcp();
    let mut inherited = Inherited::new();
    inherited.add("web", listener.into());
    let with = plan(&config(&backend.address(), "workers = 2", &["fd:web"]));
    let without = plan(&config(&backend.address(), "workers = 2", &["127.0.0.1:0"]));
    let workers = Workers::bind_with(with.clone(), inherited).expect("bound");
    assert_eq!(workers.local_addrs(), [Address::Tcp(address)]);
    let handle = workers.handle();
    let thread = std::thread::spawn(move || workers.run());
    let reload = |plan: &adit::Plan| {
        let reloaded = handle.reload(plan.clone()).recv_timeout(WAIT).expect("an answer").expect("reloaded");
        assert_eq!((reloaded.listeners_opened, reloaded.listeners_closed), (1, 1));
    };
    for _ in 0..3 {
        let mut tunnels: Vec<_> = (0..8).map(|_| (Client::connect(address), backend.accept())).collect();
        tunnels.iter_mut().for_each(|(client, server)| echoes(client, server));
        // At once, so that its descriptors have the numbers that they had.
        reload(&without);
        reload(&with);
        reload(&without);
        // It listens still, for its owner's sake, and who waits there is served when it is back.
        let mut client = Client::connect(address);
        assert!(handle.ping(WAIT) && !backend.has_client());
        reload(&with);
        echoes(&mut client, &mut backend.accept());
    }
    handle.stop();
    thread.join().expect("no panic").expect("no error");
}

/// Its owner has it still and accepts nobody: a socket beside it (SO_REUSEPORT) would lose half of the clients to it.
#[test]
fn the_address_of_a_socket_that_was_handed_over_cannot_be_listened_on_beside_it() {
    let backend = Backend::new();
    let (listener, address) = tcp();
    let mut inherited = Inherited::new();
    inherited.add("web", listener.into());
    let with = plan(&config(&backend.address(), "workers = 2", &["fd:web"]));
    let beside = plan(&config(&backend.address(), "workers = 2", &[&address.to_string()]));
    let workers = Workers::bind_with(with, inherited).expect("bound");
    let handle = workers.handle();
    let thread = std::thread::spawn(move || workers.run());
    let error = handle.reload(beside).recv_timeout(WAIT).expect("an answer").expect_err("it is taken");
    assert!(error.to_string().contains("in use"), "{error}");
    echoes(&mut Client::connect(address), &mut backend.accept());
    handle.stop();
    thread.join().expect("no panic").expect("no error");
}

#[test]
fn what_is_handed_over_has_to_be_a_listening_stream_socket() {
    let (listening, _) = tcp();
    let connected = std::net::TcpStream::connect(listening.local_addr().unwrap()).expect("connected");
    let unbound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let others: [(OwnedFd, &str); 6] = [
        (fs::File::open("/dev/null").expect("opened").into(), "what was handed over is no socket"),
        (UdpSocket::bind("127.0.0.1:0").expect("bound").into(), "is no stream socket (ListenStream=)"),
        (UnixDatagram::unbound().expect("a socket").into(), "is no stream socket (ListenStream=)"),
        (connected.into(), "does not listen (Accept=no)"),
        (UnixStream::pair().expect("a pair").0.into(), "does not listen (Accept=no)"),
        (unbound.into(), "does not listen (Accept=no)"),
    ];
    for (socket, why) in others {
        let mut inherited = Inherited::new();
        inherited.add("web", socket);
        let error = Proxy::bind_with(plan(&config("127.0.0.1:1", "", &["fd:web"])), inherited);
        let error = error.expect_err("refused").to_string();
        assert!(error.starts_with("cannot listen on fd:web: ") && error.contains(why), "{error}");
    }
}

/// A unix socket without a file has no address but its name.
#[test]
fn an_abstract_socket_is_known_by_its_name() {
    let name = format!("adit-service-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let mut inherited = Inherited::new();
    inherited.add("web", UnixListener::bind_addr(&address).expect("bound").into());
    let backend = Backend::new();
    let proxy =
        Proxy::bind_with(plan(&config(&backend.address(), "", &["fd:web"])), inherited).expect("bound");
    assert_eq!(proxy.local_addrs(), [Address::Inherited("web".into())]);
    let handle = proxy.handle();
    let thread = std::thread::spawn(move || proxy.run());
    let mut client = Client::of_unix(UnixStream::connect_addr(&address).expect("connected"));
    echoes(&mut client, &mut backend.accept());
    handle.stop();
    thread.join().expect("no panic").expect("no error");
}

#[test]
fn a_socket_that_is_not_there_or_not_the_only_one_is_said() {
    let web = config("127.0.0.1:1", "", &["fd:web"]);
    let socket = || OwnedFd::from(tcp().0);
    expect_refusal(
        handing_over(vec![("wbe", socket()), ("admin", socket())]),
        &web,
        "cannot listen on fd:web: no socket of this name was handed over, but fd:admin, fd:wbe",
    );
    expect_refusal(
        handing_over(vec![("web", socket()), ("web", socket())]),
        &web,
        "2 sockets of this name were handed over, and a listener has one: ",
    );
    let mut plain = Command::new(ADIT);
    plain.stdin(Stdio::null());
    expect_refusal(plain, &web, "fd:web: this process was handed no sockets");

    // What is meant for another process, as that of a parent, is nothing of ours.
    let mut others = Command::new(ADIT);
    others.env("LISTEN_PID", "1").env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "web").stdin(socket());
    expect_refusal(others, &web, "fd:web: this process was handed no sockets");

    let mut miscounted = handing_over(vec![("web", socket())]);
    miscounted.env("LISTEN_FDNAMES", "web:more");
    expect_refusal(miscounted, &web, "LISTEN_FDS is 1, and LISTEN_FDNAMES has 2 names");
    let mut wrong = handing_over(vec![("web", socket())]);
    wrong.env("LISTEN_FDS", "-1");
    expect_refusal(wrong, &web, "LISTEN_FDS is \"-1\"");
    let mut missing = handing_over(vec![("web", socket())]);
    missing.env("LISTEN_FDS", "5000").env("LISTEN_FDNAMES", ["a"; 5000].join(":"));
    expect_refusal(missing, &web, "cannot listen on what was handed over: Bad file descriptor");
}

/// Where it is bound is not known to who checks the configuration.
#[cfg(feature = "admin")]
#[test]
fn an_admin_listener_that_was_handed_over_is_not_for_other_machines_either() {
    let web = config("127.0.0.1:1", "[admin]\nlisten = \"fd:admin\"", &["127.0.0.1:0"]);
    let everywhere = TcpListener::bind("0.0.0.0:0").expect("bound");
    let address = everywhere.local_addr().expect("bound");
    expect_refusal(
        handing_over(vec![("admin", everywhere.into())]),
        &web,
        &format!("cannot listen on fd:admin: {address} is reached from other machines"),
    );
}

/// Without names all of them are called "unknown" (sd_listen_fds_with_names(3)).
#[test]
fn a_socket_that_nobody_listens_on_is_said_and_one_without_a_name_has_one_all_the_same() {
    let backend = Backend::new();
    let (listener, address) = tcp();
    let mut command = handing_over(vec![("", listener.into())]);
    command.env_remove("LISTEN_FDNAMES");
    let process = Process::start_handed(command, &config(&backend.address(), "", &["fd:unknown"]));
    process.stderr_line(&format!("listening on {address}"));
    echoes(&mut Client::connect(address), &mut backend.accept());

    let command = handing_over(vec![("spare", tcp().0.into())]);
    let process = Process::start_handed(command, &config(&backend.address(), "", &["127.0.0.1:0"]));
    process.stderr_line("nothing listens on fd:spare, which was handed over");
}

// A manager that is told how things are going.

/// A service manager, as far as it is told things.
struct Manager {
    socket: UnixDatagram,
    name: String,
    _directory: Option<TempDir>,
}

impl Manager {
    fn new() -> Manager {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let name = path.to_str().expect("text").to_owned();
        Manager::of(UnixDatagram::bind(path).expect("bound"), name, Some(directory))
    }

    /// With a socket that has no file.
    fn abstractly() -> Manager {
        let name = format!("adit-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        Manager::of(UnixDatagram::bind_addr(&address).expect("bound"), format!("@{name}"), None)
    }

    fn of(socket: UnixDatagram, name: String, directory: Option<TempDir>) -> Manager {
        socket.set_read_timeout(Some(WAIT)).expect("set");
        Manager { socket, name, _directory: directory }
    }

    /// Starts a service that may tell it things, and has to say each `watchdog` that it lives.
    fn start(&self, watchdog: Option<Duration>, config: &str) -> Process {
        let mut command = Command::new(ADIT);
        command.env("NOTIFY_SOCKET", &self.name).env_remove("RUST_LOG");
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        Process::start_by(command, config)
    }

    /// The next message.
    fn hear(&self) -> String {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).expect("text")
    }

    /// The next message that is not about the watchdog.
    fn news(&self) -> String {
        loop {
            let message = self.hear();
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    /// What has come by now.
    fn heard(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).expect("set");
        let mut message = [0; 4096];
        let mut all = Vec::new();
        while let Ok(length) = self.socket.recv(&mut message) {
            all.push(String::from_utf8(message[..length].to_vec()).expect("text"));
        }
        self.socket.set_nonblocking(false).expect("set");
        all
    }
}

/// By the clock that a manager goes by, in microseconds.
fn monotonic() -> u128 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock")).as_micros()
}

/// Sees a reload through.
fn expect_reload(manager: &Manager, process: &Process) {
    let before = monotonic();
    process.signal("HUP");
    let reloading = manager.news();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
    let time: u128 = time.parse().expect("a number");
    assert!((before..=monotonic()).contains(&time), "{before} {time} {}", monotonic());
    assert_eq!(manager.news(), "READY=1");
}

#[test]
fn a_manager_is_told_of_the_start_of_tunnels_reloads_and_the_end() {
    let backend = Backend::new();
    for manager in [Manager::new(), Manager::abstractly()] {
        let text = config(&backend.address(), "workers = 2", &["127.0.0.1:0"]);
        let mut process = manager.start(Some(Duration::from_millis(200)), &text);
        assert_eq!(manager.hear(), "READY=1", "first of all");
        assert_eq!(manager.news(), "STATUS=Serving: 0 tunnels are open, of 0 since the start");
        let mut client = process.client();
        let mut server = backend.accept();
        assert_eq!(manager.news(), "STATUS=Serving: 1 tunnel is open, of 1 since the start");
        expect_reload(&manager, &process);
        process.stderr_line("reloaded ");
        // One that is refused is over as well.
        fs::write(process.file("config.toml"), "nonsense").expect("written");
        expect_reload(&manager, &process);
        process.stderr_line("reload refused");
        process.signal("TERM");
        assert_eq!(manager.news(), "STOPPING=1");
        assert_eq!(manager.news(), "STATUS=Draining: 1 tunnel is still open");
        echoes(&mut client, &mut server);
        drop((client, server));
        assert_eq!(process.wait().code(), Some(0));
        let rest = manager.heard();
        assert!(!rest.iter().any(|message| message.contains("STOPPING")), "once: {rest:?}");
    }
}

#[cfg(feature = "admin")]
#[test]
fn a_manager_is_told_of_the_end_that_an_operator_wants_over_a_socket_that_was_handed_over() {
    let (manager, backend) = (Manager::new(), Backend::new());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("admin.sock");
    let mut command = handing_over(vec![("admin", UnixListener::bind(&path).expect("bound").into())]);
    command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "200000");
    let text = config(&backend.address(), "[admin]\nlisten = \"fd:admin\"", &["127.0.0.1:0"]);
    let mut process = Process::start_handed(command, &text);
    assert_eq!(manager.hear(), "READY=1");
    assert!(manager.news().starts_with("STATUS=Serving: 0 tunnels"));
    let ask = |method: &str, what: &str, body: &str| {
        let mut operator = Client::of_unix(UnixStream::connect(&path).expect("connected"));
        operator.send(format!(
            "{method} {what} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        operator.head()
    };
    // The door goes and comes back with the same socket.
    let without = text.replace("\"fd:admin\"", "\"off\"");
    for text in [&without, &text, &without, &text] {
        fs::write(process.file("config.toml"), text).expect("written");
        expect_reload(&manager, &process);
        process.stderr_line("reloaded ");
    }
    assert!(ask("GET", "/readyz", "").starts_with("HTTP/1.1 200 "));
    let tunnel = (process.client(), backend.accept());
    assert!(ask("POST", "/drain", "{\"all\": true}").starts_with("HTTP/1.1 200 "));
    while manager.news() != "STOPPING=1" {}
    assert_eq!(manager.news(), "STATUS=Draining: 1 tunnel is still open");
    drop(tunnel);
    assert_eq!(process.wait().code(), Some(0));
    assert!(path.exists(), "the file is whose socket it is");
}

#[test]
fn a_watchdog_hears_from_it_at_half_the_time() {
    let timeout = Duration::from_secs(4);
    let manager = Manager::new();
    let begin = Instant::now();
    let _process = manager.start(Some(timeout), &config("127.0.0.1:1", "", &["127.0.0.1:0"]));
    let mut pings = (0..2).map(|_| {
        while manager.hear() != "WATCHDOG=1" {}
        Instant::now()
    });
    let (first, second) = (pings.next().expect("one"), pings.next().expect("another"));
    assert!(second - begin >= timeout / 2, "{:?}", second - begin);
    assert!(second - first < timeout, "{:?}", second - first);
}

/// The first worker's loop runs on the process's first thread, which is stopped by itself here, as a bug would.
#[test]
fn a_loop_that_does_not_go_round_is_not_vouched_for() {
    let manager = Manager::new();
    let process = manager
        .start(Some(Duration::from_millis(400)), &config("127.0.0.1:1", "workers = 2", &["127.0.0.1:0"]));
    while manager.hear() != "WATCHDOG=1" {}
    let first = Pid::from_raw(process.id().try_into().expect("a number"));
    ptrace::seize(first, ptrace::Options::empty()).expect("seized");
    ptrace::interrupt(first).expect("interrupted");
    waitpid(first, Some(WaitPidFlag::__WALL)).expect("it has stopped");
    process.stderr_line("an event loop has not gone round for 200ms: no word to the watchdog");
    manager.heard(); // what was said before it stopped
    process.stderr_line("an event loop has not gone round");
    process.stderr_line("an event loop has not gone round");
    assert_eq!(manager.heard(), [""; 0], "it lives, but not all of it");
    ptrace::detach(first, None).expect("detached");
    while manager.hear() != "WATCHDOG=1" {}
}

/// The watchdog of a parent, for example a shell that a service runs.
#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let manager = Manager::new();
    let mut command = Command::new(ADIT);
    command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "2000").env("WATCHDOG_PID", "1");
    let process = Process::start_by(command, &config("127.0.0.1:1", "", &["127.0.0.1:0"]));
    let mut heard = vec![manager.hear(), manager.hear()];
    for _ in 0..3 {
        process.signal("HUP");
        heard.extend([manager.hear(), manager.hear()]);
    }
    assert!(!heard.iter().any(|message| message.contains("WATCHDOG")), "{heard:?}");
}

#[test]
fn without_a_manager_there_is_no_thread_for_one() {
    let process = Process::start(&config("127.0.0.1:1", "", &["127.0.0.1:0"]));
    process.signal("HUP");
    process.stderr_line("reloaded "); // by a thread that is started later
    let names = threads(&process).into_values().map(|status| status["Name"].clone()).collect::<Vec<_>>();
    assert!(names.iter().any(|name| name == "adit-signals"), "{names:?}");
    assert!(!names.iter().any(|name| name == "adit-systemd"), "{names:?}");
}

#[test]
fn a_manager_that_cannot_be_told_is_said_and_done_without() {
    for (name, words) in [
        ("vsock:2:1234", "NOTIFY_SOCKET: it is neither a path nor begins with \"@\""),
        ("/nonexistent/notify", "the service manager cannot be told READY=1: "),
    ] {
        let mut command = Command::new(ADIT);
        command.env("NOTIFY_SOCKET", name);
        let mut process = Process::start_by(command, &config("127.0.0.1:1", "", &["127.0.0.1:0"]));
        process.stderr_line(words);
        process.signal("TERM");
        assert_eq!(process.wait().code(), Some(0));
    }
}

// A user that it becomes.

/// What /proc says of each thread of a process, by its number.
fn threads(process: &Process) -> HashMap<String, HashMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).expect("it runs").flatten();
    let status = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).expect("it runs");
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        let fields = lines
            .map(|(name, value)| (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")));
        (task.file_name().into_string().expect("a number"), fields.collect())
    };
    tasks.map(status).collect()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("there").uid() == 0
}

/// A copy of the command that everybody may run, in a directory that everybody may enter.
fn for_everybody() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("set");
    let command = directory.path().join("adit");
    fs::copy(ADIT, &command).expect("copied");
    (directory, command)
}

/// Everybody may write here, and remove what is theirs alone.
fn sticky(directory: &Path) -> PathBuf {
    let path = directory.join("run");
    fs::create_dir(&path).expect("made");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o1777)).expect("set");
    path
}

#[test]
fn root_becomes_the_user_of_the_file_with_every_thread_and_for_good() {
    if !is_root() {
        return only_root_may();
    }
    let (user, group) = (User::from_name("nobody"), Group::from_name("nogroup"));
    let (user, group) =
        (user.unwrap().expect("every Linux has it"), group.unwrap().expect("every Debian has it"));
    let backend = Backend::new();
    // Groups of the one who starts it are to be gone as well.
    let mut command = Command::new("setpriv");
    command.args(["--groups", "4,24", "--", ADIT]).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("set");
    let run = sticky(directory.path());
    let (socket, log) = (run.join("adit.sock"), run.join("access.log"));
    let admin = run.join("admin.sock");
    let mut more = format!("workers = 3\nuser = \"nobody\"\n[log]\naccess = {log:?}");
    let mut files = vec![&socket, &log];
    if cfg!(feature = "admin") {
        more += &format!("\n[admin]\nlisten = \"unix:{}\"", admin.display());
        files.push(&admin);
    }
    let text = config(&backend.address(), &more, &["127.0.0.1:0", &format!("unix:{}", socket.display())]);
    let mut process = Process::start_in(directory, command, &text);
    process.signal("HUP");
    process.stderr_line("reloaded "); // all threads are there by now
    let threads = threads(&process);
    let count = threads.len();
    assert!(count >= 7, "three workers, two writers, signals, reload: {threads:?}");
    for status in threads.values() {
        let four = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
        let name = &status["Name"];
        assert_eq!(status["Uid"], four(user.uid.as_raw()), "{name}");
        assert_eq!(status["Gid"], four(user.gid.as_raw()), "{name}");
        assert_eq!(status["Groups"], user.gid.to_string(), "{name}");
        assert_eq!(status["CapEff"].trim_matches('0'), "", "{name}");
        assert_eq!(status["CapPrm"].trim_matches('0'), "", "{name}");
        assert_eq!(status["NoNewPrivs"], "1", "{name}");
    }
    for file in files {
        let status = fs::symlink_metadata(file).expect("it is there");
        assert_eq!((status.uid(), status.gid()), (user.uid.as_raw(), group.gid.as_raw()), "{file:?}");
    }
    // Its log is opened anew by whom it has become.
    fs::rename(&log, run.join("access.log.1")).expect("renamed");
    process.signal("USR1");
    process.stderr_line("access log reopened");
    let stream = UnixStream::connect(&socket).expect("connected");
    echoes(&mut Client::of_unix(stream), &mut backend.accept());
    let text = text.replace("user = \"nobody\"", "user = \"root\"");
    fs::write(process.file("config.toml"), text).expect("written");
    process.signal("HUP");
    process.stderr_line("user, group: others take effect at the next start");
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));
    assert!(!socket.exists() && !admin.exists(), "the sockets' files have gone with it");
    assert!(!process.said().iter().any(|line| line.contains("left behind")));
}

#[test]
fn a_group_of_its_own_may_be_named_and_a_file_that_will_stay_is_said() {
    if !is_root() {
        return only_root_may();
    }
    let (directory, socket) = (tempfile::tempdir().expect("a directory"), "adit.sock");
    let path = directory.path().join(socket);
    let mut command = Command::new(ADIT);
    command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null());
    let more = "user = \"nobody\"\ngroup = \"daemon\"";
    let text = config("127.0.0.1:1", more, &["127.0.0.1:0", &format!("unix:{socket}")]);
    let process = Process::start_in(directory, command, &text);
    // The directory is root's alone, which it is in.
    process.stderr_line("adit.sock will be left behind at the end: . cannot be written to: ");
    let daemon = Group::from_name("daemon").unwrap().expect("every Debian has it").gid;
    assert_eq!(fs::symlink_metadata(path).expect("there").gid(), daemon.as_raw());
    for status in threads(&process).values() {
        assert_eq!(status["Gid"], [daemon; 4].map(|id| id.to_string()).join(" "));
        assert!(status["Groups"].split(' ').any(|group| group == daemon.to_string()), "{status:?}");
    }
}

#[test]
fn who_it_is_already_needs_not_be_root() {
    if !is_root() {
        return only_root_may();
    }
    let (directory, command) = for_everybody();
    let nobody = |more: &str| {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--"]).arg(&command);
        setpriv.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null());
        (setpriv, config("127.0.0.1:1", more, &["127.0.0.1:0"]))
    };
    let (setpriv, text) = nobody("user = \"nobody\"\ngroup = \"nogroup\"");
    let home = tempfile::tempdir().expect("a directory");
    chown(&home, Some(65534), Some(65534)).expect("given");
    let process = Process::start_in(home, setpriv, &text);
    process.stderr_line("listening on 127.0.0.1");
    let (setpriv, text) = nobody("user = \"root\"");
    expect_refusal(setpriv, &text, "user \"root\": only root may become somebody else");
    let (setpriv, text) = nobody("user = \"nobody\"\ngroup = \"daemon\"");
    expect_refusal(setpriv, &text, "group \"daemon\": only root may become somebody else");
    drop(directory);
}

fn only_root_may() {
    let mut command = Command::new(ADIT);
    command.stdin(Stdio::null());
    let text = config("127.0.0.1:1", "user = \"root\"", &["127.0.0.1:0"]);
    expect_refusal(command, &text, "user \"root\": only root may become somebody else");
}

#[test]
fn a_user_or_group_that_is_not_there_is_said_before_anything_is_opened() {
    for (more, words) in [
        ("user = \"no such user\"", "user \"no such user\": there is none of this name"),
        ("group = \"no such group\"", "group \"no such group\": there is none of this name"),
        ("group = \"none such\"\n[log]\nlevel = \"off\"", "group \"none such\": there is none of this name"),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("adit.sock");
        let mut command = Command::new(ADIT);
        command.stdin(Stdio::null());
        let text = config("127.0.0.1:1", more, &[&format!("unix:{}", path.display())]);
        expect_refusal(command, &text, words);
    }
    let (code, said, _) = process::run(&["--check"]);
    assert_eq!((code, said.contains("config ok")), (Some(0), true), "a check asks nobody");
}
