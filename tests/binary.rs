//! The built binary as an operator meets it: its file, its exit codes, its signals, its logs.

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use common::process::{self, Process};
use common::{Backend, Client, WAIT};

/// A configuration of one http listener in front of one server, with further text in front.
fn config(server: &str, more: &str) -> String {
    format!(
        "{more}\n[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n[upstream.u]\nservers = [\"{server}\"]\n"
    )
}

fn open_tunnel(process: &Process, backend: &Backend) -> (Client, Client) {
    let mut client = process.client();
    client.ask("/chat?token=secret");
    let mut server = backend.accept();
    server.agree();
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    (client, server)
}

/// Writes a configuration file and checks it with the binary.
fn check(text: &str) -> (Option<i32>, String, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("adit.toml");
    fs::write(&path, text).expect("written");
    let (code, stdout, stderr) = process::run(&["--check", "--config", path.to_str().expect("text")]);
    (code, stdout, stderr.replace(path.to_str().expect("text"), "FILE"))
}

#[test]
fn it_serves_a_tunnel_and_drains_on_a_signal() {
    for signal in ["TERM", "INT", "QUIT"] {
        let backend = Backend::new();
        let mut process = Process::start(&config(&backend.address(), ""));
        let (mut client, mut server) = open_tunnel(&process, &backend);
        client.send("up");
        server.expect("up");
        process.signal(signal);
        process.stderr_line(&format!("SIG{signal}: draining; a second one stops at once"));
        server.send("down");
        client.expect("down");
        drop((client, server));
        assert_eq!(process.wait().code(), Some(0), "stopped as asked, by SIG{signal}");
        let line = process.stderr_line("event=close");
        assert!(line.contains(" bytes_up=2 bytes_down=4 ") && line.contains(" path=/chat "), "{line}");
        assert!(line.contains(" outcome=finished "), "{line}");
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    let backend = Backend::new();
    for signal in ["TERM", "INT", "QUIT"] {
        let mut process = Process::start(&config(&backend.address(), "[timeouts]\ndrain = \"off\"\n"));
        let (mut client, mut server) = open_tunnel(&process, &backend);
        process.signal("TERM");
        process.stderr_line("SIGTERM: draining");
        process.signal(signal);
        client.expect_end();
        server.expect_end();
        assert_eq!(process.wait().code(), Some(0));
        process.stderr_line(&format!("SIG{signal}: stopping at once"));
        assert!(process.stderr_line("event=close").ends_with(" outcome=drain ended_by=adit"));
    }
}

#[test]
fn a_drain_ends_with_its_time() {
    let backend = Backend::new();
    let mut process = Process::start(&config(&backend.address(), "[timeouts]\ndrain = \"200ms\"\n"));
    let (mut client, _server) = open_tunnel(&process, &backend);
    process.signal("TERM");
    client.expect_end();
    assert_eq!(process.wait().code(), Some(0));
    assert!(process.stderr_line("event=close").ends_with(" outcome=drain ended_by=adit"));
}

#[test]
fn a_hangup_is_survived_and_answered() {
    let backend = Backend::new();
    let process = Process::start(&config(&backend.address(), ""));
    let (mut client, mut server) = open_tunnel(&process, &backend);
    for _ in 0..3 {
        process.signal("HUP");
        process.stderr_line("SIGHUP: ");
    }
    client.send("still here");
    server.expect("still here");
    open_tunnel(&process, &backend);
}

/// SIGPIPE has no say: a peer that is gone is an error of a write, here to two of them at once.
#[test]
fn a_broken_pipe_is_survived() {
    let backend = Backend::new();
    let process = Process::start(&config(&backend.address(), ""));
    for _ in 0..20 {
        let (client, mut server) = open_tunnel(&process, &backend);
        drop(client);
        while server.try_send([b'x'; 4096]).is_ok() {}
    }
    process.signal("PIPE");
    open_tunnel(&process, &backend);
}

#[test]
fn the_access_log_goes_to_a_file_which_usr1_reopens() {
    let backend = Backend::new();
    let process = Process::start(&config(&backend.address(), "[log]\naccess = \"access.log\"\n"));
    let (old, new) = (process.file("access.log"), process.file("access.log.1"));
    drop(open_tunnel(&process, &backend));
    await_text(&old, |text| text.contains("event=close"));
    fs::rename(&old, &new).expect("renamed");
    let (client, server) = open_tunnel(&process, &backend);
    await_text(&new, |text| text.lines().count() == 3); // the renamed file is still written to
    process.signal("USR1");
    process.stderr_line("SIGUSR1: access log reopened");
    drop((client, server));
    await_text(&old, |text| text.contains("event=close"));
    let lines = |path| fs::read_to_string(path).expect("read").lines().count();
    assert_eq!((lines(&new), lines(&old)), (3, 1), "nothing is lost and nothing is written twice");
    assert!(!process.said().iter().any(|line| line.contains("event=")), "stderr has messages alone");
}

/// Waits until a file's text is as wanted.
fn await_text(path: &Path, wanted: impl Fn(&str) -> bool) {
    let until = Instant::now() + WAIT;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if wanted(&text) {
            return;
        }
        assert!(Instant::now() < until, "{} stays at {text:?}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_access_log_goes_to_stdout_as_json() {
    let backend = Backend::new();
    let process =
        Process::start(&config(&backend.address(), "[log]\naccess = \"stdout\"\nformat = \"json\"\n"));
    let (mut client, mut server) = open_tunnel(&process, &backend);
    client.send("up");
    server.expect("up");
    drop((client, server));
    let [open, close] = ["open", "close"].map(|event| {
        let line: serde_json::Value = serde_json::from_str(&process.stdout_line()).expect("JSON");
        assert_eq!(line["event"], event);
        line
    });
    assert_eq!(open["id"], close["id"]);
    assert_eq!(close["bytes_up"], 2);
    assert_eq!(close["path"], "/chat");
    assert_eq!(close["status"], 101);
    assert_eq!(close["outcome"], "finished");
}

#[test]
fn an_access_log_that_is_off_is_silent() {
    let backend = Backend::new();
    let mut process = Process::start(&config(&backend.address(), "[log]\naccess = \"off\"\n"));
    drop(open_tunnel(&process, &backend));
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));
    let said = process.said();
    assert!(!said.iter().any(|line| line.contains("event=")), "{said:?}");
}

/// The pipe is full after some hundred lines, and nobody reads it. What is said costs lines, never a tunnel.
#[test]
fn a_stderr_that_nobody_reads_stops_nothing() {
    let backend = Backend::new();
    let mut process = Process::start_unheard(&config(&backend.address(), "[log]\nlevel = \"trace\"\n"));
    let (mut client, mut server) = open_tunnel(&process, &backend);
    let host = "h".repeat(200);
    for round in 0..2000 {
        // A refused request has a line of some 400 bytes.
        let mut other = process.client();
        other.send(format!("CONNECT a HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert!(other.head().starts_with("HTTP/1.1 405 "), "round {round}");
        client.send("ping");
        server.expect("ping");
    }
    drop((client, server));
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0), "it waits for no reader");
}

#[test]
fn the_repositorys_configuration_is_right_as_it_stands() {
    let said = (Some(0), "config ok: 1 listeners, 0 routes, 1 upstreams\n".to_owned(), String::new());
    assert_eq!(process::run(&["--check"]), said);
    assert_eq!(process::run(&["-t", "-c", "config.toml"]), said);
}

#[test]
fn a_check_opens_no_socket() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().unwrap();
    let text = format!(
        "[[listener]]\nlisten = \"{address}\"\nupstream = \"u\"\n[upstream.u]\nservers = [\"127.0.0.1:1\"]\n"
    );
    assert_eq!(check(&text).0, Some(0));
}

#[test]
fn a_wrong_configuration_is_named_by_its_place_and_exits_1() {
    for (text, said) in [
        ("[log]\nlevle = \"info\"\n", "adit: FILE:2:1: log.levle: "),
        ("[timeouts]\n  idle = \"soon\"\n", "adit: FILE:2:10: timeouts.idle: "),
        ("[[listener]\n", "adit: FILE:1:"),
        ("", "adit: FILE:1:1: listener: "),
    ] {
        let (code, stdout, stderr) = check(text);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{text:?}");
        assert!(stderr.starts_with(said) && stderr.lines().count() == 1, "{text:?}: {stderr}");
        // And at start it is the same.
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("adit.toml");
        fs::write(&path, text).expect("written");
        let at_start = process::run(&["--config", path.to_str().expect("text")]);
        assert_eq!(at_start.0, Some(1));
        assert_eq!(at_start.2.replace(path.to_str().expect("text"), "FILE"), stderr);
    }
}

#[test]
fn a_missing_configuration_exits_1() {
    let (code, _, stderr) = process::run(&["--config", "/nonexistent/adit.toml"]);
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("adit: /nonexistent/adit.toml: cannot be read: "), "{stderr}");
}

#[test]
fn an_address_in_use_exits_2() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().unwrap();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("adit.toml");
    let text = config("127.0.0.1:1", "").replace("127.0.0.1:0", &address.to_string());
    fs::write(&path, text).expect("written");
    let (code, stdout, stderr) = process::run(&["--config", path.to_str().expect("text")]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains(&format!("cannot listen on {address}: ")), "{stderr}");
}

#[test]
fn an_access_log_that_cannot_be_opened_exits_2() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("adit.toml");
    fs::write(&path, config("127.0.0.1:1", "[log]\naccess = \"/nonexistent/access.log\"\n"))
        .expect("written");
    let (code, _, stderr) = process::run(&["--config", path.to_str().expect("text")]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("/nonexistent/access.log"), "{stderr}");
}

#[test]
fn a_wrong_command_line_exits_64() {
    for arguments in [&["--bogus"][..], &["config.toml"], &["--config"], &["-c", "a", "-c", "b"]] {
        let (code, stdout, stderr) = process::run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(stderr.starts_with("adit: ") && stderr.contains("--help"), "{stderr}");
    }
}

#[test]
fn version_and_help_say_what_they_are_asked() {
    let version = format!("adit {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(process::run(&["--version"]), (Some(0), version, String::new()));
    let (code, help, _) = process::run(&["--help"]);
    assert_eq!(code, Some(0));
    for word in ["--config", "--check", "--plan", "--json", "--schema", "demo", "TERM", "USR1", "64"] {
        assert!(help.contains(word), "{word} is missing");
    }
}

#[test]
fn the_schema_is_printed_as_it_is_kept() {
    let (code, stdout, stderr) = process::run(&["--schema"]);
    match cfg!(feature = "schema") {
        true => assert_eq!((code, stdout.as_str()), (Some(0), include_str!("../docs/config.schema.json"))),
        false => assert_eq!((code, stdout.as_str()), (Some(64), ""), "{stderr}"),
    }
}

#[test]
fn the_soft_limit_of_descriptors_is_raised_and_a_limit_too_low_is_said() {
    let hard = 300;
    let process = Process::start_limited(&config("127.0.0.1:1", "[limits]\nmax_connections = 200\n"), hard);
    process.stderr_line("max_connections = 200 does not fit into 300 descriptors");
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["300", "300"]);
}
