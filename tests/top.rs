//! `adit top` on a real terminal: it shows, it does as it is told, and it leaves the terminal as it found it, however
//! it ends. Against an admin listener that is the test's.

#![cfg(feature = "ctl")]

mod common;

use std::process::{Command, Stdio};

use common::mock::{Admin, Answer, Asked};
use common::process::ADIT;
use common::terminal::Terminal;

/// A server, a tunnel to it, and everything that is asked for is done.
fn answer(asked: &Asked) -> Answer {
    let path = asked.line.split(['?', ' ']).nth(1).expect("a path");
    let body = match path {
        "/status" => {
            r#"{"version":"0.1.0","uptime":250.5,"phase":"serving","sessions":{"open":1,"limit":10000},
                "tunnels":{"open":1,"opened":7},"upstreams":[{"upstream":"u","servers":[
                    {"server":"127.0.0.1:8010","state":"in","weight":1,"tunnels":1,"share":1.0}]}]}"#
        }
        "/tunnels" => {
            r#"{"matched":1,"next":null,"tunnels":[{"id":"7f","client":"192.0.2.1:5000","upstream":"u",
                "server":"127.0.0.1:8010","age":12.3,"state":"open"}]}"#
        }
        "/close" => r#"{"matched":1,"rate":0}"#,
        "/drain" => r#"{"what":"server 127.0.0.1:8010 of upstream u","changed":true,"tunnels":1}"#,
        other => panic!("{other}"),
    };
    (200, body.into())
}

fn top(admin: &Admin) -> Terminal {
    let mut terminal = Terminal::run(&[ADIT, "top", "--every", "100ms", "--admin", &admin.address()]);
    // The other screen.
    terminal.await_text("\x1b[?1049h");
    terminal.await_text("u/127.0.0.1:8010");
    terminal.await_text("192.0.2.1:5000");
    terminal
}

/// The screen that was there before is back, with its cursor, and these words at its end.
#[track_caller]
fn expect_left(terminal: Terminal, code: &str, words: &str) {
    let (found, text) = terminal.wait();
    let (_, behind) = text.rsplit_once("\x1b[?1049l").expect("the other screen is left");
    assert!(behind.starts_with("\x1b[?25h"), "the cursor is shown: {behind:?}");
    assert!(behind.contains(words), "{behind:?}");
    assert_eq!(found, code, "{behind:?}");
}

#[test]
fn it_shows_and_quits() {
    for keys in ["q", "\x03"] {
        let admin = Admin::start(answer);
        let mut terminal = top(&admin);
        terminal.write(keys);
        expect_left(terminal, "0", "");
    }
}

#[test]
fn signals_end_it_and_the_terminal_is_as_it_was() {
    for (signal, code) in [("TERM", "143"), ("INT", "130"), ("HUP", "129"), ("QUIT", "131")] {
        let admin = Admin::start(answer);
        let terminal = top(&admin);
        terminal.signal(signal);
        expect_left(terminal, code, "");
    }
}

#[test]
fn a_tunnel_is_closed_and_a_server_drained_after_a_question() {
    let admin = Admin::start(answer);
    let mut terminal = top(&admin);
    terminal.write("c");
    terminal.await_text("[y/N]");
    terminal.write("y");
    assert_eq!(admin.await_line("POST /close").body, r#"{"id":"7f"}"#);
    terminal.await_text("closed");
    terminal.write("\td");
    terminal.await_text("[y/N]");
    terminal.write("n\td");
    terminal.await_text("choose");
    terminal.write("\td");
    terminal.await_text("[y/N]");
    terminal.write("y");
    assert_eq!(admin.await_line("POST /drain").body, r#"{"server":"127.0.0.1:8010","upstream":"u"}"#);
    terminal.await_text("drains,");
    terminal.write("q");
    expect_left(terminal, "0", "");
    assert!(!admin.lines().iter().any(|line| line.starts_with("POST")), "what was not agreed to is not done");
}

#[test]
fn filters_and_the_sort_are_asked_for() {
    let admin = Admin::start(answer);
    let mut terminal = top(&admin);
    terminal.write("/client=192.0.2.0/24\r");
    admin.await_line("&client=192.0.2.0%2F24");
    terminal.write("\x1b[C"); // right
    let asked = admin.await_line("GET /tunnels?sort=idle&");
    assert!(asked.line.contains("order=desc&limit=22&client="), "{}", asked.line);
    terminal.write("q");
    expect_left(terminal, "0", "");
}

/// An adit that ends and is started again is looked at again, and the terminal is as it was all the same.
#[test]
fn an_error_of_the_server_is_shown_and_survived() {
    let admin = Admin::start(answer);
    let mut terminal = top(&admin);
    admin.answer(|_| (500, r#"{"error":"out-of-order"}"#.into()));
    terminal.await_text("out-of-order");
    admin.answer(|_| (200, "nonsense".into()));
    terminal.await_text("expected");
    admin.answer(answer);
    terminal.await_text("serving");
    drop(admin);
    terminal.await_text("socket");
    terminal.write("q");
    expect_left(terminal, "0", "");
}

#[test]
fn what_is_wrong_from_the_beginning_is_told_on_the_screen_that_stays() {
    let check = |admin: &str, code: &str, words: &str| {
        let (found, text) = Terminal::run(&[ADIT, "top", "--admin", admin]).wait();
        assert_eq!(found, code, "{text:?}");
        assert!(text.contains(words) && !text.contains("1049"), "{text:?}");
    };
    check("unix:/nowhere/admin.sock", "2", "there is no such socket");
    let admin = Admin::always(401, r#"{"error":"a token is needed"}"#);
    check(&admin.address(), "1", "a token is needed (--token-file FILE");
    check("nonsense", "64", "an address is");
}

#[test]
fn it_is_for_a_terminal() {
    let output = Command::new(ADIT).arg("top").stdin(Stdio::null()).output().expect("it starts");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("top is for a terminal"));
}

/// The shell has the terminal while `top` is stopped, and `top` has it again behind that.
#[test]
fn it_can_be_stopped_and_continued() {
    let admin = Admin::start(answer);
    let mut terminal = top(&admin);
    terminal.write("\x1a");
    // Without a shell that would continue it the kernel does not stop it, and it goes on by itself.
    terminal.await_text("\x1b[?1049l");
    terminal.signal("CONT");
    terminal.await_text("\x1b[?1049h");
    terminal.await_text("192.0.2.1:5000");
    terminal.write("q");
    expect_left(terminal, "0", "");
}
