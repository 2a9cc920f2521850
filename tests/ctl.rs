//! `adit ctl` as an operator meets it: what it asks, what it prints where, its exit codes. Against an admin listener that
//! is the test's.

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
        r#"{{"id":"{id}","client":"192.0.2.1:5000","listener":"0.0.0.0:8020","route":"*","host":"a.example","path":"{path}",
        "upstream":"u","server":"127.0.0.1:8010","opened":"2026-11-22T09:44:49.812Z","age":12.3,"idle":0.5,
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
        r#"{"changed":true,"listeners_opened":1,"listeners_closed":0,"message":"1 listeners, 0 routes, 1 upstreams"}"#,
        "reloaded: 1 listeners, 0 routes, 1 upstreams; 1 listeners opened, 0 closed\n",
    );
    check(
        &["plan"],
        "POST /reload",
        r#"{"dry_run":true}"#,
        r#"{"dry_run":true,"changes":[],"added":0,"removed":0,"changed":1,"text":"workers: 1 -> 2\n  takes\u0007\nplan: 1 changed\n"}"#,
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
