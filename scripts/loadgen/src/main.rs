//! `loadgen`: a load generator for WebSocket proxies, the backend behind them and the bare relay to compare with. Each
//! runs on one thread; `bench` and `soak` start what they need, and `--help` tells how they are driven.

#![deny(unsafe_code)]

mod backend;
mod bench;
mod client;
mod control;
mod flags;
mod frame;
mod handshake;
mod metrics;
mod net;
mod operator;
mod relay;
mod report;
mod soak;
mod stream;
mod sys;

use std::error::Error;
use std::process::ExitCode;

use lexopt::prelude::*;

const HELP: &str = "\
loadgen: loads a WebSocket proxy, and is the server behind it

Usage: loadgen backend [--listen ADDRESS] [--until-eof]
       loadgen relay --to ADDRESS [--splice] [--listen ADDRESS] [--until-eof]
       loadgen echo  --target ADDRESS --tunnels N --bytes B (--seconds S | --messages M) [--wait]
       loadgen paced --target ADDRESS --tunnels N --bytes B --rate R --seconds S [--wait]
       loadgen churn --target ADDRESS --concurrency C (--seconds S | --tunnels N) [--polite] [--wait]
       loadgen bulk  --target ADDRESS --streams N --direction (up | down | both) --seconds S [--frame-bytes B] [--wait]
       loadgen mixed --target ADDRESS --echoes N --streams K --seconds S [--bytes B] [--frame-bytes B] [--wait]
       loadgen idle  --target ADDRESS --tunnels N
       loadgen bench --adit FILE [options]: measures proxies with all of these; see loadgen bench --help
       loadgen soak  --adit FILE [options]: a proxy under everything that may happen; see loadgen soak --help

backend and relay print {\"event\":\"listening\",\"address\":..} and serve until they are killed, with --until-eof until
stdin ends. All others check the handshake and each byte of an echo, and of bulk the headers and the amount; they print
one line {\"event\":\"result\",..}, times in microseconds, and exit with 1 if anything was wrong, which ends a run.

  echo   a message on its way in each tunnel: the next when the last has come back; --messages is for all together
  paced  R messages a second, all together, each timed from when it was due
  churn  opened, one echo of 64 bytes, ended (--polite: with a Close each way first): C at once
  bulk   frames without end, up to the backend, down from it, or both
  mixed  echoes beside streams both ways
  idle   opens, prints {\"event\":\"open\",..}, and does what stdin says: `carry B` is an echo of B bytes on each
         tunnel and prints {\"event\":\"carried\"}, `close` or the end closes them

With --wait they print {\"event\":\"ready\"} when all is open and warm, begin at a line on stdin, and keep the tunnels
open and silent behind the result until the next line or the end.
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut args = lexopt::Parser::from_env();
    let command = match args.next()? {
        Some(Value(command)) => command.string()?,
        None | Some(Short('h') | Long("help")) => {
            print!("{HELP}");
            return Ok(());
        }
        Some(arg) => return Err(arg.unexpected().into()),
    };
    match command.as_str() {
        "backend" => backend::run(args),
        "bench" => bench::run(args),
        "relay" => relay::run(args),
        "soak" => soak::run(args),
        "echo" => client::load::echo(args),
        "paced" => client::load::paced(args),
        "churn" => client::churn::run(args),
        "bulk" => client::load::bulk(args),
        "mixed" => client::load::mixed(args),
        "idle" => client::idle::run(args),
        _ => Err(format!("{command} is no command; loadgen --help tells more").into()),
    }
}
