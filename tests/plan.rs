//! `adit --plan`: what the built binary says of two files, and how it ends.

mod common;

use std::fs;
use std::net::TcpListener;

use common::process;
use tempfile::TempDir;

const OLD: &str = r#"
[[listener]]
listen = "0.0.0.0:8020"
upstream = "websocket"

[[listener.route]]
host = "chat.example.com"
path = "/wsapp/"
upstream = "websocket"

[upstream.websocket]
servers = ["10.0.0.1:8010", "10.0.0.2:8010"]
"#;

const NEW: &str = r#"
workers = 2

[drain]
rate = 400

[[listener]]
listen = "0.0.0.0:8020"
upstream = "websocket"

[upstream.websocket]
servers = ["10.0.0.1:8010", { address = "10.0.0.2:8010", drain = true }, "10.0.0.3:8010"]
"#;

/// A directory with these files in it.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("written");
    }
    directory
}

/// Runs the binary with arguments in which "@" stands for a directory, also in what it says.
fn run(directory: &TempDir, arguments: &[&str]) -> (Option<i32>, String, String) {
    let path = format!("{}/", directory.path().display());
    let arguments: Vec<String> = arguments.iter().map(|argument| argument.replace('@', &path)).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, stdout, stderr) = process::run(&arguments);
    (code, stdout.replace(&path, "@"), stderr.replace(&path, "@"))
}

#[test]
fn it_says_what_a_reload_would_do() {
    let directory = directory(&[("old.toml", OLD), ("new.toml", NEW)]);
    let expected = "\
route chat.example.com/wsapp/ on 0.0.0.0:8020: removed
  its tunnels go on (on_removed = \"keep\")
server 10.0.0.2:8010 of upstream websocket: drains
  takes nothing new; its tunnels are closed at 400 a second, the oldest first, and what is left after 30s
server 10.0.0.3:8010 of upstream websocket: added
workers: 1 -> 2
  takes effect at the next start
drain: changed
  drain.rate: 0 -> 400
  at once, for what is to be closed from then on
where two of these are about one tunnel, the stricter holds
plan: 1 added, 1 removed, 3 changed
";
    let said = run(&directory, &["--config", "@old.toml", "--plan", "@new.toml"]);
    assert_eq!(said, (Some(0), expected.to_owned(), String::new()));
    assert_eq!(run(&directory, &["--plan=@new.toml", "-c", "@old.toml"]), said);
}

#[test]
fn two_files_that_say_the_same_need_no_change() {
    let directory = directory(&[("old.toml", OLD), ("new.toml", &format!("workers = 1\n{OLD}"))]);
    let said = run(&directory, &["-c", "@old.toml", "--plan", "@new.toml"]);
    let expected = "no changes\nplan: 0 added, 0 removed, 0 changed\n";
    assert_eq!(said, (Some(0), expected.to_owned(), String::new()));
    // Without --config it is ./config.toml that is compared with: that of the repository, where tests run.
    assert_eq!(process::run(&["--plan", "config.toml"]), said);
}

#[test]
fn json_is_one_object_that_says_the_same() {
    let directory = directory(&[("old.toml", OLD), ("new.toml", NEW)]);
    let (code, stdout, stderr) = run(&directory, &["-c", "@old.toml", "--plan", "@new.toml", "--json"]);
    assert_eq!((code, stderr.as_str(), stdout.lines().count()), (Some(0), "", 1));
    let found: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!([&found["added"], &found["removed"], &found["changed"]], [1, 1, 3]);
    let changes = found["changes"].as_array().expect("a list");
    let told: Vec<_> = changes.iter().map(|change| [&change["what"], &change["change"]]).collect();
    let expected = [
        ["route", "removed"],
        ["server", "changed"],
        ["server", "added"],
        ["workers", "changed"],
        ["drain", "changed"],
    ];
    assert_eq!(told, expected);
    assert_eq!(changes[0]["tunnels"], "keep");
    assert_eq!(changes[1]["server"], "10.0.0.2:8010");
    assert_eq!(changes[1]["keys"][0], serde_json::json!({ "key": "drain", "old": false, "new": true }));
    assert_eq!(changes[1]["tunnels"], "drain");
    assert_eq!(changes[3]["keys"][0], serde_json::json!({ "key": "workers", "old": 1, "new": 2 }));
}

#[test]
fn a_wrong_file_is_named_and_exits_1() {
    let directory = directory(&[("old.toml", OLD), ("bad.toml", "[log]\nlevle = \"info\"\n")]);
    for form in [&[][..], &["--json"]] {
        for (files, named) in [
            (["--config", "@bad.toml", "--plan", "@old.toml"], "adit: @bad.toml:2:1: log.levle: "),
            (["--config", "@old.toml", "--plan", "@bad.toml"], "adit: @bad.toml:2:1: log.levle: "),
            (["--config", "@gone.toml", "--plan", "@old.toml"], "adit: @gone.toml: cannot be read: "),
            (["--config", "@old.toml", "--plan", "@gone.toml"], "adit: @gone.toml: cannot be read: "),
        ] {
            let (code, stdout, stderr) = run(&directory, &[&files, form].concat());
            assert_eq!((code, stdout.as_str()), (Some(1), ""), "{files:?}");
            assert!(stderr.starts_with(named) && stderr.lines().count() == 1, "{files:?}: {stderr}");
        }
    }
    // The help for a file that cannot be read is about --config, which is not at fault here.
    let (_, _, stderr) = run(&directory, &["--config", "@old.toml", "--plan", "@gone.toml"]);
    assert!(!stderr.contains("--config"), "{stderr}");
}

#[test]
fn a_plan_opens_no_socket() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let new = OLD.replace("0.0.0.0:8020", &taken.local_addr().unwrap().to_string());
    let directory = directory(&[("old.toml", OLD), ("new.toml", &new)]);
    assert_eq!(run(&directory, &["-c", "@old.toml", "--plan", "@new.toml"]).0, Some(0));
    assert_eq!(run(&directory, &["-c", "@new.toml", "--plan", "@old.toml"]).0, Some(0));
}

#[test]
fn what_makes_no_sense_exits_64() {
    for arguments in [
        &["--json", "--config", "/nonexistent/adit.toml"][..],
        &["--check", "--json"],
        &["--plan"],
        &["--plan", "config.toml", "--check"],
        &["--plan", "config.toml", "--plan", "config.toml"],
    ] {
        let (code, stdout, stderr) = process::run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(stderr.starts_with("adit: ") && stderr.contains("--help"), "{stderr}");
    }
}
