//! A proxy inside a program that has a loop, sockets and work of its own: here one that counts, once a second.
//!
//! The program sleeps in a poll of its own that watches the proxy's descriptor beside all else, and gives the proxy a
//! turn that does not wait. Everything stays on one thread, but for the one that hears Ctrl-C.
//!
//! ```text
//! cargo run --example embedded [LISTEN [SERVER [SECONDS]]]
//! ```
//!
//! If nothing else is said it listens on 127.0.0.1:8020, tunnels to 127.0.0.1:8010 and ends after ten seconds.

use std::error::Error;
use std::io;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use adit::{Config, Proxy, Status};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

const PROXY: Token = Token(0);
const WORK_PERIOD: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or("127.0.0.1:8020".into());
    let server = args.next().unwrap_or("127.0.0.1:8010".into());
    let seconds = args.next().map_or(Ok(10), |seconds| seconds.parse())?;
    let config = format!(
        "[timeouts]\ndrain = \"2s\"\n\
         [[listener]]\nlisten = \"{listen}\"\nupstream = \"server\"\n\
         [upstream.server]\nservers = [\"{server}\"]\n"
    );

    // A handle goes wherever somebody may want to steer the proxy; using it wakes the poll below.
    let mut signals = Signals::new([SIGINT])?;
    let mut proxy = Proxy::bind(Config::from_toml(&config)?.check()?)?;
    let handle = proxy.handle();
    let interrupted = handle.clone();
    thread::spawn(move || signals.forever().for_each(|_| interrupted.drain()));
    println!("proxy: {} -> {server}", proxy.local_addrs()[0]);

    let mut poll = Poll::new()?;
    poll.registry().register(&mut SourceFd(&proxy.as_raw_fd()), PROXY, Interest::READABLE)?;
    let mut events = Events::with_capacity(64);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut work_at = Instant::now();
    loop {
        // Until there is work here, or there: the proxy's descriptor knows of sockets, `next_turn` of the clock.
        let wake_at = proxy.next_turn().map_or(work_at, |turn_at| turn_at.min(work_at));
        match poll.poll(&mut events, Some(wake_at.saturating_duration_since(Instant::now()))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            polled => polled?,
        }

        // A turn for nothing is one system call: not worth finding out first whether there is something to do.
        if proxy.turn(Some(Duration::ZERO))? == Status::Stopped {
            println!("proxy: stopped");
            return Ok(());
        }

        let now = Instant::now();
        if now >= work_at {
            work_at = now + WORK_PERIOD;
            let stats = handle.stats();
            println!("host: {} sessions until now, {} open", stats.accepted, stats.open);
            if now >= end {
                handle.drain();
            }
        }
    }
}
