//! What `adit completions` prints, in the shells that it is for: they are asked to complete a line.

#![cfg(feature = "ctl")]

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::process::ADIT;
use common::terminal::Terminal;

/// Lines, and what completes their last word.
const CASES: [(&str, &[&str]); 9] = [
    ("adit c", &["completions", "ctl"]),
    ("adit --pl", &["--plan"]),
    ("adit ctl un", &["undrain"]),
    ("adit ctl tunnels --min-", &["--min-age", "--min-bytes", "--min-idle"]),
    ("adit ctl tunnels --sort bytes_", &["bytes_down", "bytes_up"]),
    ("adit ctl status --y", &[]),
    ("adit ctl --json close --y", &["--yes"]),
    ("adit top --ev", &["--every"]),
    ("adit completions z", &["zsh"]),
];

/// Writes what the command prints for a shell into a file.
fn script(shell: &str) -> (tempfile::TempDir, String) {
    let output = Command::new(ADIT).args(["completions", shell]).output().expect("it starts");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("script");
    fs::write(&path, output.stdout).expect("written");
    let path = path.to_str().expect("text").to_owned();
    (directory, path)
}

/// Runs a shell with its script and a line as arguments: the first words of the lines that it prints, sorted.
#[track_caller]
fn ask(shell: &[&str], script: &str, line: &str) -> Vec<String> {
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).args([script, line]).stdin(Stdio::null());
    let output =
        command.output().unwrap_or_else(|error| panic!("{}, which scripts/test installs: {error}", shell[0]));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line}");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut words: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().next()).map(String::from).collect();
    words.sort();
    words
}

#[test]
fn bash_completes() {
    let (_directory, script) = script("bash");
    // What readline would do: words by blanks, and the place of the last.
    let driver = "compopt() { :; }; source \"$0\"; read -ra COMP_WORDS <<<\"$1\"; \
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _adit; printf '%s\\n' \"${COMPREPLY[@]}\"";
    for (line, expected) in CASES {
        assert_eq!(ask(&["bash", "--norc", "-c", driver], &script, line), expected, "{line}");
    }
}

#[test]
fn fish_completes() {
    let (_directory, script) = script("fish");
    for (line, expected) in CASES {
        let found =
            ask(&["fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]"], &script, line);
        assert_eq!(found, expected, "{line}");
    }
}

/// zsh completes on terminals only.
#[test]
fn zsh_completes() {
    let version = Command::new("zsh").arg("--version").stdout(Stdio::null()).status();
    assert!(version.expect("zsh, which scripts/test installs").success());
    let (_directory, script) = script("zsh");
    let mut terminal = Terminal::run(&["zsh", "-f"]);
    terminal.write("PS1=; setopt no_beep no_always_last_prompt; autoload -Uz compinit; compinit -D -u\r");
    terminal.write(&format!("source {script}; print rea''dy\r"));
    terminal.await_text("ready");
    for (line, expected) in CASES {
        if expected.is_empty() {
            continue; // there is nothing to be waited for
        }
        terminal.write(&format!("{line}\t"));
        match expected {
            [one] => {
                let begin = line.rsplit(' ').next().unwrap_or_default();
                terminal.await_text(line);
                terminal.await_text(&one[begin.len()..]);
            }
            several => several.iter().for_each(|word| terminal.await_text(word)),
        }
        terminal.write("\x15"); // the line is not wanted
    }
    terminal.write("exit\r");
    terminal.wait();
}
