//! Says "Hello" to a WebSocket server and prints what comes back:
//!
//! ```text
//! cargo run --example hello ws://127.0.0.1:8020/
//! ```
//!
//! Exits with 0 if something did, within five seconds.

use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

/// For everything together: resolving, connecting, the handshake, the message and its echo.
const TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(url), None) = (args.next(), args.next()) else {
        eprintln!("usage: hello ws://HOST:PORT/PATH");
        return ExitCode::from(64);
    };
    thread::spawn(|| {
        thread::sleep(TIMEOUT);
        eprintln!("no answer within {} seconds", TIMEOUT.as_secs());
        process::exit(1);
    });
    match hello(&url) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{url}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn hello(url: &str) -> tungstenite::Result<String> {
    let (mut socket, _response) = tungstenite::connect(url)?;
    socket.send("Hello".into())?;
    let answer = loop {
        let message = socket.read()?;
        if message.is_text() || message.is_binary() {
            break message.to_text()?.to_owned();
        }
    };
    socket.close(None)?;
    // Until the server has said goodbye too, which ends in an error by design.
    while socket.read().is_ok() {}
    Ok(answer)
}
