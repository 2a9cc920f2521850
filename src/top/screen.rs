//! The terminal while it is ours: raw, on its other screen, without a cursor. However this ends, by a return, an error
//! or a panic on whatever thread, the terminal is as it was.

use std::io::{self, Stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};

/// Whether there is something to be put back. A panic's hook has no other way to know.
static IS_OURS: AtomicBool = AtomicBool::new(false);

pub struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Takes the terminal, until this is dropped.
    pub fn enter() -> io::Result<Screen> {
        let before = panic::take_hook();
        // What a panic has to say belongs on the screen that stays.
        panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        let mut screen = Screen(terminal);
        screen.take()?;
        Ok(screen)
    }

    /// Takes it again, after it was given back, or somebody else had it. All of it is drawn anew.
    pub fn take(&mut self) -> io::Result<()> {
        give_back();
        IS_OURS.store(true, Ordering::SeqCst);
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        self.0.hide_cursor()?;
        self.0.clear()
    }

    pub fn give_back(&mut self) {
        give_back();
    }

    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }

    /// Rows.
    pub fn height(&self) -> io::Result<u16> {
        self.0.size().map(|size| size.height)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Once. Where the terminal is gone there is nothing to be done about it.
fn give_back() {
    if IS_OURS.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::process::{Command, Stdio};

    use super::*;

    /// Where it is said that the other half of the test below is to run.
    const PANICS: &str = "ADIT_TEST_PANICS";

    /// Runs only as a part of the next one, on its terminal.
    #[test]
    fn a_panic_on_a_terminal() {
        let Some(place) = env::var_os(PANICS) else { return };
        let mut screen = Screen::enter().expect("a terminal");
        screen.draw(|frame| frame.render_widget("drawn", frame.area())).expect("drawn");
        if place == "thread" {
            let _ = std::thread::spawn(|| panic!("a bug of a thread")).join();
            std::process::exit(7); // nothing else puts anything back
        }
        panic!("a bug");
    }

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was() {
        for place in ["here", "thread"] {
            let directory = tempfile::tempdir().expect("a directory");
            let ourselves = env::current_exe().expect("a path");
            let shell = format!(
                "stty rows 24 cols 80; stty -g > before; \
                 '{}' --exact top::screen::tests::a_panic_on_a_terminal --nocapture; echo $? > code; stty -g > after",
                ourselves.display()
            );
            let output = Command::new("script")
                .args(["-qec", &shell, "/dev/null"])
                .envs([(PANICS, place), ("TERM", "xterm"), ("SHELL", "/bin/sh"), ("RUST_BACKTRACE", "0")])
                .current_dir(&directory)
                .stdin(Stdio::null())
                .output()
                .expect("script, of Debian's bsdutils");
            let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(!["", "0\n"].contains(&read("code").as_str()), "it panicked: {text:?}");
            assert_eq!(read("before"), read("after"), "{text:?}");
            let (on_the_other, on_this) = text.rsplit_once("\x1b[?1049l").expect("the other screen is left");
            assert!(on_the_other.contains("\x1b[?1049h") && on_the_other.contains("drawn"), "{text:?}");
            assert!(on_this.starts_with("\x1b[?25h") && on_this.contains("a bug"), "{text:?}");
        }
    }
}
