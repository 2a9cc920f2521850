//! `adit ctl` as an operator meets it: what it asks, what it prints where, its exit codes. Against an admin listener
//! that is the test's, and against adit itself.

#![cfg(feature = "ctl")]

mod common;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use common::mock::{Admin, Asked};
use common::process::ADIT;
use common::terminal::Terminal;

/// Runs `adit ctl` to its end, with nobody to be asked: exit code, stdout, stderr.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(ADIT);
    command.arg("ctl").args(arguments).envs(variables.iter().copied()).stdin(Stdio::null());
    for name in ["ADIT_ADMIN", "ADIT_TOKEN_FILE"] {
        if !variables.iter().any(|(variable, _)| *variable == name) {
            command.env_remove(name); // the tester's
        }
    }
    let output = command.output().expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn ctl(admin: &Admin, arguments: &[&str]) -> (Option<i32>, String, String) {
    run(&[&["--admin", &admin.address()], arguments].concat(), &[])
}

/// What is asked by these arguments, and what is printed of the answer.
#[track_caller]
fn check(arguments: &[&str], line: &str, body: &str, answer: &str, printed: &str) {
    let admin = Admin::always(200, answer);
    let (code, stdout, stderr) = ctl(&admin, arguments);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
    assert_eq!(stdout, printed);
    let asked = admin.next();
    assert_eq!((asked.line.as_str(), asked.body.as_str()), (line, body));
    let is_post = line.starts_with("POST ");
    assert_eq!(asked.field("content-type"), is_post.then_some("application/json"));
    assert_eq!(asked.field("host"), Some("localhost"));
    assert_eq!(asked.field("authorization"), None);

    // As it came, with a newline at its end.
    let (code, stdout, stderr) = ctl(&admin, &[arguments, &["--json"]].concat());
    assert_eq!((code, stdout.trim_end(), stderr.as_str()), (Some(0), answer.trim_end(), ""));
    assert!(stdout.ends_with('\n'));
}

const STATUS: &str = r#"{"version":"0.1.0","time":"2026-11-22T09:44:49.812Z","uptime":250.5,"phase":"serving",
    "drain_ends":null,"configuration":{"hash":"5f3a9c1d77e0","age":250.5,"reloads":0,"in_use":1},
    "workers":[{"sessions":2,"tunnels":1,"accepted":10}],
    "sessions":{"open":2,"limit":10000,"accepted":10,"refused":3},"tunnels":{"open":1,"opened":7},
    "bytes":{"up":1258291,"down":456},"descriptors":{"used":17,"limit":20000},"buffers":{"bytes":65536,"pipes":1},
    "log_lines_lost":0,
    "listeners":[{"listener":"0.0.0.0:8020","protocol":"http","drains":null,"tunnels":1,
        "routes":[{"route":"*","upstream":"u","drains":null,"tunnels":1}]}],
    "upstreams":[{"upstream":"u","balance":"round_robin","rebalance":false,"rebalancing":false,"sessions":1,"tunnels":1,
        "servers":[{"server":"127.0.0.1:8010","state":"in","drains":null,"backup":false,"weight":1,"max_conns":0,
            "sessions":1,"tunnels":1,"share":1.0,"opened":7,"failures":0}]}],
    "gone":0,"refusals":{},"ends":[{"outcome":"finished","by":"client","count":6}]}
"#;

fn tunnel(id: &str, path: &str) -> String {
    format!(
        r#"{{"id":"{id}","client":"192.0.2.1:5000","listener":"0.0.0.0:8020","route":"*","host":"a.example",
        "path":"{path}","upstream":"u","server":"127.0.0.1:8010","opened":"2026-11-22T09:44:49.812Z","age":12.3,"idle":0.5,
        "bytes_up":1,"bytes_down":2048,"state":"open","worker":0}}"#
    )
}

const HEADS: &str =
    "CLIENT          LISTENER      ROUTE  UPSTREAM/SERVER   AGE  IDLE   UP     DOWN  STATE  ASKED FOR";

fn row(id: &str, path: &str) -> String {
    format!(
        "{id}  192.0.2.1:5000  0.0.0.0:8020  *      u/127.0.0.1:8010  12s  0.5s  1 B  2.0 KiB  open   a.example{path}\n"
    )
}

#[test]
fn status_is_a_page() {
    let printed = "\
adit 0.1.0: serving, up 4m 10s
  tunnels       1 open, 7 opened since the start
  sessions      2 of 10,000 open, 10 accepted, 3 refused
  bytes         1.2 MiB up, 456 B down
  descriptors   17 of 20,000
  held          64.0 KiB in buffers, 1 pipe
  configuration 5f3a9c1 for 4m 10s, 0 reloads
  ended         6: finished by client

LISTENER      PROTOCOL  ROUTE  UPSTREAM  STATE  TUNNELS
0.0.0.0:8020  http                       in           1
                        *      u         in           1

UPSTREAM/SERVER   STATE  WEIGHT  SESSIONS  TUNNELS   SHARE  OPENED  FAILURES
u/127.0.0.1:8010  in          1         1        1  100.0%       7         0
";
    check(&["status"], "GET /status", "", STATUS, printed);
}

#[test]
fn tunnels_are_a_table() {
    let answer = format!(
        r#"{{"matched":3,"next":"c","tunnels":[{},{}]}}"#,
        tunnel("7f", "/x"),
        tunnel("80", "/\\u001b")
    );
    check(
        &["tunnels", "--client", "192.0.2.0/24", "--min-age", "10s", "--sort", "rate", "--limit", "2"],
        "GET /tunnels?sort=rate&order=desc&limit=2&client=192.0.2.0%2F24&min_age=10s",
        "",
        &answer,
        &format!(
            "ID  {HEADS}\n{}{}2 of 3 tunnels; --all or --limit shows more\n",
            row("7f", "/x"),
            row("80", "/\\u{1b}")
        ),
    );
}

#[test]
fn all_tunnels_come_page_by_page() {
    let pages = |asked: &Asked| {
        let (next, ids) = match asked.line.split_once("&after=").map(|(_, after)| after) {
            None => (r#""c/1""#, ["01", "02"]),
            Some("c%2F1") => (r#""c/2""#, ["03", "04"]),
            Some("c%2F2") => ("null", ["05", "06"]),
            Some(other) => panic!("{other}"),
        };
        let tunnels = ids.map(|id| tunnel(id, "/"));
        (200, format!(r#"{{"matched":6,"next":{next},"tunnels":[{}]}}"#, tunnels.join(",")))
    };
    let admin = Admin::start(pages);
    let (code, stdout, stderr) = ctl(&admin, &["tunnels", "--all", "--asc"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let rows: String = ["01", "02", "03", "04", "05", "06"].iter().map(|id| row(id, "/")).collect();
    assert_eq!(stdout, format!("ID  {HEADS}\n{rows}6 tunnels\n"));
    let lines = admin.lines();
    assert_eq!(lines.len(), 3);
    assert!(lines[2].starts_with("GET /tunnels?sort=age&order=asc&limit=1000&after="), "{lines:?}");

    let (code, stdout, _) = ctl(&admin, &["tunnels", "--all", "--json"]);
    let documents: Vec<serde_json::Value> =
        serde_json::Deserializer::from_str(&stdout).into_iter().collect::<Result<_, _>>().expect("JSON");
    assert_eq!((code, documents.len()), (Some(0), 3));
    assert_eq!(documents[2]["tunnels"][1]["id"], "06");
}

/// Who reads no further is no trouble.
#[test]
fn a_reader_that_goes_away_ends_it() {
    let mut pages = 0;
    let admin = Admin::start(move |_| {
        pages += 1;
        if pages > 20 {
            return (409, r#"{"error":"enough"}"#.into());
        }
        let tunnels = vec![tunnel("7f", "/"); 200].join(",");
        (200, format!(r#"{{"matched":999999,"next":"c","tunnels":[{tunnels}]}}"#))
    });
    let mut command = Command::new(ADIT);
    command.args(["ctl", "tunnels", "--all", "--admin", &admin.address()]).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("its end");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}

#[test]
fn drain_and_undrain_say_what_they_did() {
    let answer =
        r#"{"what":"server 127.0.0.1:8010 of upstream u","changed":true,"tunnels":12,"dry_run":false}"#;
    check(
        &["drain", "u/127.0.0.1:8010"],
        "POST /drain",
        r#"{"server":"127.0.0.1:8010","upstream":"u"}"#,
        answer,
        "server 127.0.0.1:8010 of upstream u: drains, with 12 tunnels\n",
    );
    check(
        &["undrain", "--upstream", "u", "--server", "127.0.0.1:8010"],
        "POST /undrain",
        r#"{"server":"127.0.0.1:8010","upstream":"u"}"#,
        answer,
        "server 127.0.0.1:8010 of upstream u: is in again, with 12 tunnels\n",
    );
    check(
        &["drain", "--listener", "0.0.0.0:8020", "--route", "*/x", "--dry-run"],
        "POST /drain",
        r#"{"dry_run":true,"listener":"0.0.0.0:8020","route":"*/x"}"#,
        r#"{"what":"route */x of listener 0.0.0.0:8020","changed":false,"tunnels":1,"dry_run":true}"#,
        "route */x of listener 0.0.0.0:8020: drains already, with 1 tunnel\n",
    );
    check(
        &["drain", "--all"],
        "POST /drain",
        r#"{"all":true}"#,
        r#"{"what":"everything","changed":true,"tunnels":0,"dry_run":false}"#,
        "everything: drains, with 0 tunnels\n",
    );
}

#[test]
fn rebalance_reload_and_plan_say_what_they_did() {
    check(
        &["rebalance", "u"],
        "POST /rebalance",
        r#"{"upstream":"u"}"#,
        r#"{"upstream":"u","surplus":12,"dry_run":false}"#,
        "upstream u: a surplus of 12 tunnels is closed\n",
    );
    check(
        &["reload"],
        "POST /reload",
        "{}",
        r#"{"changed":true,"listeners_opened":1,"listeners_closed":0,"message":"1 listeners; 1 opened"}"#,
        "reloaded: 1 listeners; 1 opened\n",
    );
    check(
        &["plan"],
        "POST /reload",
        r#"{"dry_run":true}"#,
        r#"{"dry_run":true,"changes":[],"added":0,"removed":0,"changed":1,
            "text":"workers: 1 -> 2\n  takes\u0007\nplan: 1 changed\n"}"#,
        "workers: 1 -> 2\n  takes\\u{7}\nplan: 1 changed\n",
    );
}

#[test]
fn one_tunnel_is_closed_without_a_question() {
    let answer = r#"{"matched":1,"dry_run":false,"rate":0}"#;
    check(&["close", "7f"], "POST /close", r#"{"id":"7f"}"#, answer, "1 tunnel is closed\n");
    check(
        &["close", "--client", "192.0.2.7", "--min-idle", "90", "--yes"],
        "POST /close",
        r#"{"client":"192.0.2.7","min_idle":90}"#,
        answer,
        "1 tunnel is closed\n",
    );
    check(
        &["close", "--all", "--dry-run"],
        "POST /close",
        r#"{"all":true,"dry_run":true}"#,
        r#"{"matched":7,"dry_run":true,"rate":400}"#,
        "7 tunnels would be closed, at 400 a second\n",
    );
    // What may be more is counted first.
    let admin = Admin::always(200, answer);
    let (code, stdout, _) = ctl(&admin, &["close", "--upstream", "u"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "1 tunnel is closed\n"));
    assert_eq!(admin.next().body, r#"{"dry_run":true,"upstream":"u"}"#);
    assert_eq!(admin.next().body, r#"{"upstream":"u"}"#);
}

#[test]
fn a_tunnel_that_is_named_has_to_be_there() {
    for (arguments, answer) in
        [(["close", "7f"], r#"{"matched":0,"rate":0}"#), (["tunnels", "7f"], r#"{"matched":0,"tunnels":[]}"#)]
    {
        let (code, stdout, stderr) = ctl(&Admin::always(200, answer), &arguments);
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert_eq!(stderr, "adit: there is no open tunnel with the id 7f\n");
    }
    // Of others there may be none.
    let (code, stdout, _) =
        ctl(&Admin::always(200, r#"{"matched":0,"rate":0}"#), &["close", "--upstream", "u"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "no tunnel matches\n"));
}

#[test]
fn more_than_one_is_not_closed_where_nobody_can_be_asked() {
    let admin = Admin::always(200, r#"{"matched":1234,"dry_run":true,"rate":0}"#);
    let (code, stdout, stderr) = ctl(&admin, &["close", "--all"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let text = "adit: 1,234 tunnels would be closed, and nobody is there to be asked: --yes does without\n";
    assert_eq!(stderr, text);
    assert_eq!(admin.next().body, r#"{"all":true,"dry_run":true}"#);
    assert!(admin.lines().is_empty());
    // A pipe that says yes is nobody.
    let mut child = Command::new(ADIT)
        .args(["ctl", "close", "--all", "--admin", &admin.address()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let _ = child.stdin.take().expect("a pipe").write_all(b"y\n"); // it may have ended
    assert_eq!(child.wait_with_output().expect("its end").status.code(), Some(1));
    assert_eq!(admin.lines().len(), 1);
}

#[test]
fn more_than_one_is_closed_when_whoever_sits_there_agrees() {
    for (keys, code, words, asked) in
        [("y\r", "0", "1,234 tunnels are closed, at once", 2), ("\r", "1", "no tunnel is closed", 1)]
    {
        let admin = Admin::always(200, r#"{"matched":1234,"rate":0}"#);
        let mut terminal = Terminal::run(&[ADIT, "ctl", "close", "--all", "--admin", &admin.address()]);
        terminal.await_text("close 1,234 tunnels? [y/N] ");
        terminal.write(keys);
        let (found, text) = terminal.wait();
        assert_eq!(found, code, "{text:?}");
        assert!(text.contains(words), "{text:?}");
        assert_eq!(admin.lines().len(), asked);
    }
}

/// An escape within a string means the same, so this is the answer as it came all the same.
#[test]
fn what_comes_as_json_does_nothing_to_a_terminal() {
    let admin = Admin::always(200, "{\"a\":\"\u{9b}2J\u{7f}\"}");
    let (code, text) = Terminal::run(&[ADIT, "ctl", "status", "--json", "--admin", &admin.address()]).wait();
    assert_eq!((code.as_str(), text.trim_end()), ("0", r#"{"a":"\u009b2J\u007f"}"#));
}

#[test]
fn an_answer_of_no_is_told_in_the_server_s_words() {
    for status in [400, 404, 409, 501] {
        let admin = Admin::always(status, r#"{"error":"there is no \u001bserver x of upstream u"}"#);
        for json in [&[][..], &["--json"]] {
            let (code, stdout, stderr) = ctl(&admin, &[&["drain", "u/x"], json].concat());
            assert_eq!((code, stdout.as_str()), (Some(1), ""));
            assert_eq!(stderr, "adit: there is no \\u{1b}server x of upstream u\n");
        }
    }
}

#[test]
fn no_answer_names_the_address_and_says_what_to_do() {
    let admin = Admin::always(200, "{}");
    let address = admin.address();
    drop(admin);
    let (code, stdout, stderr) = run(&["status", "--admin", &address], &[]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    let rest =
        "there is no such socket (does adit run, with this [admin] listen? --admin ADDRESS names another)";
    assert_eq!(stderr, format!("adit: {address} (from --admin): {rest}\n"));
}

#[test]
fn an_answer_that_is_none_of_adit_s_is_told_as_that() {
    for body in ["{}", "[]", "<html>", "", r#"{"matched":-1,"tunnels":[]}"#, r#"{"matched":1,"tunnels":[1]}"#]
    {
        let admin = Admin::always(200, body);
        let (code, stdout, stderr) = ctl(&admin, &["tunnels"]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{body}");
        assert!(stderr.contains("its answer is not what was expected: "), "{stderr}");
    }
    let admin = Admin::always(500, "<html>");
    let (code, _, stderr) = ctl(&admin, &["status"]);
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("(from --admin): its answer is a 500 (is that adit's admin listener"),
        "{stderr}"
    );
}

#[test]
fn the_admin_listener_is_found_by_flag_environment_and_file() {
    let admin = Admin::always(200, STATUS);
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let token = write("token", "secret\n");
    let config =
        write("adit.toml", &format!("[admin]\nlisten = {:?}\ntoken_file = {token:?}\n", admin.address()));

    let (code, ..) = run(&["status"], &[("ADIT_ADMIN", &admin.address())]);
    assert_eq!((code, admin.next().field("authorization")), (Some(0), None));
    let (code, ..) = run(&["status", "--config", &config], &[]);
    assert_eq!((code, admin.next().field("authorization")), (Some(0), Some("Bearer secret")));
    let variables = [("ADIT_ADMIN", admin.address()), ("ADIT_TOKEN_FILE", token.clone())];
    let variables = [(variables[0].0, variables[0].1.as_str()), (variables[1].0, variables[1].1.as_str())];
    let (code, ..) = run(&["status"], &variables);
    assert_eq!((code, admin.next().field("authorization")), (Some(0), Some("Bearer secret")));
    let other = write("other", "other");
    let (code, ..) = run(&["status", "--token-file", &other], &variables);
    assert_eq!((code, admin.next().field("authorization")), (Some(0), Some("Bearer other")));

    // In a directory with a file of the default name.
    write("config.toml", &format!("[admin]\nlisten = {:?}\n", admin.address()));
    let mut command = Command::new(ADIT);
    command
        .args(["ctl", "status"])
        .current_dir(&directory)
        .env_remove("ADIT_ADMIN")
        .env_remove("ADIT_TOKEN_FILE");
    assert_eq!(command.output().expect("it starts").status.code(), Some(0));

    let silent = write("silent.toml", "workers = 1\n");
    let (code, _, stderr) = run(&["status", "--config", &silent], &[]);
    assert_eq!(code, Some(2));
    assert!(stderr.ends_with("listen = \"unix:/run/adit/admin.sock\"\n"), "{stderr}");
}

#[test]
fn usage_is_a_matter_of_64() {
    for arguments in
        [&[][..], &["stop"], &["status", "--admin", "localhost:1"], &["close"], &["status", "--bogus"]]
    {
        let (code, stdout, stderr) = run(arguments, &[]);
        assert_eq!((code, stdout.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(stderr.starts_with("adit: ") && stderr.lines().count() == 1, "{stderr}");
    }
    let (code, stdout, _) = run(&["drain", "--help"], &[]);
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with("adit ctl: looks at a running adit"), "{stdout}");
}

/// The same against adit itself.
#[cfg(feature = "admin")]
mod against_adit {
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use common::process::Process;
    use common::{Backend, Client, WAIT, echoes};
    use serde_json::Value;

    use super::*;

    const ADMIN: &str = "[admin]\nlisten = \"unix:admin.sock\"\n";

    /// A tcp listener in front of these servers, with further text ahead and keys for the upstream.
    fn config(servers: &[&Backend], more: &str, upstream: &str) -> String {
        let servers: Vec<String> = servers.iter().map(|server| server.address()).collect();
        format!(
            "{more}\n[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
             [upstream.u]\nservers = {servers:?}\n{upstream}\n"
        )
    }

    /// Starts it, and waits until it answers.
    fn start(config: &str) -> Process {
        let adit = Process::start(config);
        let until = Instant::now() + WAIT;
        while UnixStream::connect(adit.file("admin.sock")).is_err() {
            assert!(Instant::now() < until, "there is no admin socket: {:?}", adit.said());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        adit
    }

    /// `adit ctl` in the directory of the configuration file, by which it finds the admin listener.
    fn run(adit: &Process, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(ADIT);
        command.arg("ctl").args(arguments).current_dir(&adit.directory).stdin(Stdio::null());
        let output = command.env_remove("ADIT_ADMIN").env_remove("ADIT_TOKEN_FILE").output();
        let output = output.expect("the binary starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// What is printed where it is done.
    #[track_caller]
    fn done(adit: &Process, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = run(adit, arguments);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}: {stdout}");
        stdout
    }

    /// What is said where it is not.
    #[track_caller]
    fn refused(adit: &Process, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = run(adit, arguments);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{arguments:?}: {stderr}");
        stderr.strip_prefix("adit: ").expect("our name").trim_end().to_owned()
    }

    fn json(adit: &Process, arguments: &[&str]) -> Value {
        let text = done(adit, &[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// A tunnel to a server, both ends.
    fn open(adit: &Process, backend: &Backend) -> (Client, Client) {
        let mut tunnel = (adit.client(), backend.accept());
        echoes(&mut tunnel.0, &mut tunnel.1);
        tunnel
    }

    /// The words of the line with this word in it.
    fn words<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
        let line =
            text.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("{word} in {text}"));
        line.split_whitespace().collect()
    }

    #[test]
    fn status_and_tunnels_show_what_there_is() {
        let backend = Backend::new();
        let adit = start(&config(&[&backend], ADMIN, ""));
        let tunnels: Vec<_> = (0..3).map(|_| open(&adit, &backend)).collect();
        let text = done(&adit, &["status"]);
        assert!(text.starts_with(concat!("adit ", env!("CARGO_PKG_VERSION"), ": serving, up ")), "{text}");
        assert!(text.contains("\n  tunnels       3 open, 3 opened since the start\n"), "{text}");
        assert!(text.contains("\n  bytes         6 B up, 12 B down\n"), "{text}");
        let server = format!("u/{}", backend.address());
        assert_eq!(words(&text, &server), [&server, "in", "1", "3", "3", "100.0%", "3", "0"]);
        assert_eq!(words(&text, &adit.address().to_string())[1..], ["tcp", "in", "3"]);
        assert_eq!(json(&adit, &["status"])["tunnels"]["open"], 3);

        let text = done(&adit, &["tunnels", "--sort", "age", "--asc"]);
        assert!(text.ends_with("\n3 tunnels\n"), "{text}");
        let client = tunnels[2].0.local_addr().to_string();
        assert!(
            text.lines().nth(1).is_some_and(|line| line.contains(&client)),
            "the youngest is first: {text}"
        );
        let id = words(&text, &client)[0];
        assert!(done(&adit, &["tunnels", id]).ends_with("\n1 tunnel\n"));
        assert!(
            done(&adit, &["tunnels", "--limit", "2"])
                .ends_with("\n2 of 3 tunnels; --all or --limit shows more\n")
        );
        assert!(done(&adit, &["tunnels", "--all"]).ends_with("\n3 tunnels\n"));
        // Each filter is known by its name, and lets all through or none.
        let listener = adit.address().to_string();
        let server = backend.address();
        for (flag, some, none) in [
            ("--client", "127.0.0.0/8", "192.0.2.7"),
            ("--listener", listener.as_str(), "127.0.0.1:1"),
            ("--route", "*", "*/elsewhere"),
            ("--upstream", "u", "v"),
            ("--server", &server, "127.0.0.1:1"),
            ("--min-age", "1ms", "1h30m"),
            ("--min-idle", "0.001", "3600"),
            ("--min-bytes", "6", "1 KiB"),
        ] {
            assert!(done(&adit, &["tunnels", flag, some]).ends_with("\n3 tunnels\n"), "{flag} {some}");
            assert!(done(&adit, &["tunnels", flag, none]).ends_with("\n0 tunnels\n"), "{flag} {none}");
            let would = done(&adit, &["close", flag, some, "--dry-run"]);
            assert_eq!(would, "3 tunnels would be closed, at once\n", "{flag} {some}");
            assert_eq!(done(&adit, &["close", flag, none, "--yes"]), "no tunnel matches\n", "{flag} {none}");
        }
        for sort in ["age", "idle", "bytes", "bytes_up", "bytes_down", "rate"] {
            assert!(done(&adit, &["tunnels", "--sort", sort]).ends_with("\n3 tunnels\n"), "{sort}");
        }
        let text = refused(&adit, &["tunnels", "--min-age", "soon"]);
        assert!(text.contains("min_age") && text.contains("soon"), "{text}");
        assert_eq!(refused(&adit, &["tunnels", "7f"]), "there is no open tunnel with the id 7f");
    }

    #[test]
    fn close_closes() {
        let backend = Backend::new();
        let adit = start(&config(&[&backend], ADMIN, ""));
        let (mut first, mut second, third) =
            (open(&adit, &backend), open(&adit, &backend), open(&adit, &backend));
        let client = first.0.local_addr().to_string();
        let text = done(&adit, &["tunnels"]);
        assert_eq!(done(&adit, &["close", words(&text, &client)[0]]), "1 tunnel is closed\n");
        first.0.expect_end();
        first.1.expect_end();
        assert_eq!(refused(&adit, &["close", "7f"]), "there is no open tunnel with the id 7f");
        assert!(refused(&adit, &["close", "--all"]).contains("--yes does without"));
        echoes(&mut second.0, &mut second.1);
        assert_eq!(done(&adit, &["close", "--upstream", "u", "--yes"]), "2 tunnels are closed, at once\n");
        for mut end in [second.0, second.1, third.0, third.1] {
            end.expect_end();
        }
        assert_eq!(done(&adit, &["close", "--all"]), "no tunnel matches\n");
    }

    #[test]
    fn drain_and_undrain_a_server() {
        let (first, second) = (Backend::new(), Backend::new());
        let adit = start(&config(&[&first, &second], ADMIN, ""));
        let _tunnel = open(&adit, &first);
        let name = format!("u/{}", first.address());
        let what = format!("server {} of upstream u", first.address());
        let dry = done(&adit, &["drain", &name, "--dry-run"]);
        assert_eq!(dry, format!("{what}: would drain, with 1 tunnel\n"));
        assert_eq!(done(&adit, &["drain", &name]), format!("{what}: drains, with 1 tunnel\n"));
        assert_eq!(words(&done(&adit, &["status"]), &name)[1..3], ["drains", "(operator)"]);
        let _tunnels = [open(&adit, &second), open(&adit, &second)];
        let again = done(&adit, &["drain", "--upstream", "u", "--server", &first.address()]);
        assert_eq!(again, format!("{what}: drains already, with 1 tunnel\n"));
        assert_eq!(done(&adit, &["undrain", &name]), format!("{what}: is in again, with 1 tunnel\n"));
        assert_eq!(words(&done(&adit, &["status"]), &name)[1], "in");
        let already = done(&adit, &["undrain", &name]);
        assert_eq!(already, format!("{what}: does not drain; it has 1 tunnel\n"));
        assert!(refused(&adit, &["drain", "u/127.0.0.1:1"]).contains("127.0.0.1:1"));
        assert!(refused(&adit, &["undrain", &name.replacen('u', "v", 1)]).contains('v'));
    }

    #[test]
    fn what_the_file_drains_is_the_file_s_to_undrain() {
        let (first, second) = (Backend::new(), Backend::new());
        let text = config(&[&first, &second], ADMIN, "");
        let drained = format!("{{ address = {:?}, drain = true }}", first.address());
        let adit = start(&text.replacen(&format!("{:?}", first.address()), &drained, 1));
        let name = format!("u/{}", first.address());
        assert_eq!(words(&done(&adit, &["status"]), &name)[1..3], ["drains", "(file)"]);
        assert!(!refused(&adit, &["undrain", &name]).is_empty());
    }

    #[test]
    fn drain_and_undrain_a_listener_and_a_route() {
        let backend = Backend::new();
        let config = format!(
            "{ADMIN}[[listener]]\nlisten = \"127.0.0.1:0\"\n[[listener.route]]\nhost = \"example.com\"\n\
             path = \"/a/\"\nupstream = \"u\"\n[upstream.u]\nservers = [{:?}]\n",
            backend.address()
        );
        let adit = start(&config);
        let listener = adit.address().to_string();
        let route = ["--listener", &listener, "--route", "example.com/a/"];
        let text = done(&adit, &[&["drain"][..], &route].concat());
        assert!(text.contains("example.com/a/") && text.ends_with(": drains, with 0 tunnels\n"), "{text}");
        let mut client = adit.client();
        client.ask("/a/");
        assert!(client.head().starts_with("HTTP/1.1 503 "));
        assert_eq!(words(&done(&adit, &["status"]), "example.com/a/")[2..], ["drains", "(operator)", "0"]);
        done(&adit, &[&["undrain"][..], &route].concat());
        let mut client = adit.client();
        client.ask("/a/");
        backend.accept().agree();
        assert!(client.head().starts_with("HTTP/1.1 101 "));
        let text = done(&adit, &["drain", "--listener", &listener]);
        assert!(text.ends_with(": drains, with 1 tunnel\n"), "{text}");
        assert_eq!(words(&done(&adit, &["status"]), " http ")[2..4], ["drains", "(operator)"]);
        // It is not listened on, so its name is that in the file.
        assert!(done(&adit, &["undrain", "--listener", "127.0.0.1:0"]).contains(": is in again, "));
        assert!(refused(&adit, &["drain", "--listener", "127.0.0.1:1"]).contains("127.0.0.1:1"));
    }

    #[test]
    fn drain_all_is_what_a_signal_does() {
        let backend = Backend::new();
        let mut adit = start(&config(&[&backend], ADMIN, ""));
        let (mut client, mut server) = open(&adit, &backend);
        assert!(done(&adit, &["drain", "--all", "--dry-run"]).contains("would drain"));
        assert!(done(&adit, &["drain", "--all"]).contains(": drains, with 1 tunnel\n"));
        let text = done(&adit, &["status"]);
        assert!(words(&text, "adit ").contains(&"draining,"), "{text}");
        echoes(&mut client, &mut server);
        drop((client, server));
        assert_eq!(adit.wait().code(), Some(0));
        let (code, _, stderr) = run(&adit, &["status"]);
        assert_eq!(code, Some(2));
        assert!(stderr.starts_with("adit: unix:admin.sock (from ./config.toml): "), "{stderr}");
    }

    #[test]
    fn rebalance_closes_the_surplus() {
        let (first, second) = (Backend::new(), Backend::new());
        let adit =
            start(&config(&[&first, &second], ADMIN, "rebalance = { within = \"10%\", rate = 1000 }\n"));
        let name = format!("u/{}", second.address());
        let mut tunnels: Vec<_> =
            [&first, &second].iter().cycle().take(8).map(|server| open(&adit, server)).collect();
        let mut at = 0;
        let first_s = |_: &(Client, Client)| {
            at += 1;
            at % 2 == 1
        };
        assert_eq!(done(&adit, &["rebalance", "u"]), "upstream u: no server has more than its share\n");
        // All of the second's end, so that the first has all there are.
        tunnels.retain(first_s);
        let until = Instant::now() + WAIT;
        while words(&done(&adit, &["status"]), &name)[4] != "0" {
            assert!(Instant::now() < until, "its tunnels have ended");
        }
        let surplus = "upstream u: a surplus of 2 tunnels";
        assert_eq!(done(&adit, &["rebalance", "u", "--dry-run"]), format!("{surplus} would be closed\n"));
        assert_eq!(done(&adit, &["rebalance", "u"]), format!("{surplus} is closed\n"));
        assert!(refused(&adit, &["rebalance", "v"]).contains("upstream v"));
    }

    #[test]
    fn rebalance_is_for_upstreams_that_have_it_in_the_file() {
        let backend = Backend::new();
        let adit = start(&config(&[&backend], ADMIN, ""));
        assert!(refused(&adit, &["rebalance", "u"]).contains("rebalance"));
    }

    #[test]
    fn plan_tells_and_reload_does() {
        let backend = Backend::new();
        let text = config(&[&backend], ADMIN, "");
        let adit = start(&text);
        let write = |text: &str| fs::write(adit.file("config.toml"), text).expect("written");
        assert_eq!(done(&adit, &["plan"]), "no changes\nplan: 0 added, 0 removed, 0 changed\n");
        assert_eq!(done(&adit, &["reload"]), "nothing has changed\n");
        write(&format!("[timeouts]\nidle = \"1h\"\n{text}"));
        let plan = done(&adit, &["plan"]);
        assert!(plan.contains("\n  timeouts.idle: off -> 1h\n"), "{plan}");
        assert_eq!(json(&adit, &["plan"])["text"], plan);
        let told = done(&adit, &["reload"]);
        assert_eq!(told, "reloaded: 1 listeners, 0 routes, 1 upstreams; 0 listeners opened, 0 closed\n");
        assert!(done(&adit, &["status"]).contains(", 2 reloads\n"));
        // A file that is wrong still says where to ask about it.
        write(&format!("{text}\nbalnce = \"least_conn\"\n"));
        for verb in ["plan", "reload"] {
            let text = refused(&adit, &[verb]);
            assert!(text.contains("there is no key \"balnce\""), "{text}");
        }
    }

    #[test]
    fn a_token_is_found_by_the_file() {
        let backend = Backend::new();
        let directory = tempfile::tempdir().expect("a directory");
        let token = directory.path().join("token");
        fs::write(&token, "0123456789abcdef0123456789abcdef\n").expect("written");
        let adit = start(&config(&[&backend], &format!("{ADMIN}token_file = {token:?}\n"), ""));
        assert_eq!(json(&adit, &["status"])["tunnels"]["open"], 0);
        // With the address alone there is no token.
        let text = refused(&adit, &["status", "--admin", "unix:admin.sock"]);
        assert!(
            text.ends_with("(--token-file FILE or ADIT_TOKEN_FILE names the file with its token)"),
            "{text}"
        );
        done(&adit, &["status", "--admin", "unix:admin.sock", "--token-file", token.to_str().expect("text")]);
    }

    #[test]
    fn it_is_asked_over_tcp_as_well() {
        let backend = Backend::new();
        // The only TCP address that it listens on is the operators'.
        let text = config(&[&backend], "[admin]\nlisten = \"127.0.0.1:0\"\n", "");
        let adit =
            Process::start(&text.replacen("127.0.0.1:0\"\nprotocol", "unix:clients.sock\"\nprotocol", 1));
        let text = done(&adit, &["status", "--admin", &adit.address().to_string()]);
        assert!(text.contains("unix:clients.sock"), "{text}");
        let (code, _, stderr) = run(&adit, &["status"]);
        assert_eq!(code, Some(2));
        assert!(stderr.contains("which port the kernel chose is not known here"), "{stderr}");
    }

    #[test]
    fn top_shows_and_closes() {
        let backend = Backend::new();
        let adit = start(&config(&[&backend], ADMIN, ""));
        let (mut client, mut server) = open(&adit, &backend);
        let address = format!("unix:{}", adit.file("admin.sock").display());
        let mut terminal = Terminal::run(&[ADIT, "top", "--every", "100ms", "--admin", &address]);
        terminal.await_text(&format!("u/{}", backend.address()));
        terminal.await_text(&client.local_addr().to_string());
        terminal.write("c");
        terminal.await_text("[y/N]");
        terminal.write("y");
        client.expect_end();
        server.expect_end();
        terminal.await_text("closed");
        terminal.write("q");
        assert_eq!(terminal.wait().0, "0");
    }
}
