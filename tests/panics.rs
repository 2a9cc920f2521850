//! A bug that panics in one session ends that session and no other.

mod common;

use std::time::Duration;

use adit::{Config, Proxy, Status};
use common::{Backend, Client};

#[test]
fn a_panic_in_one_session_hurts_no_other() {
    let backend = Backend::new();
    let text = format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nupstream = \"u\"\n[upstream.u]\nservers = [\"{}\"]\n",
        backend.address()
    );
    let mut proxy = Proxy::bind(Config::from_toml(&text).unwrap().check().unwrap()).unwrap();
    // The log's line of an opened tunnel is written while its session is at work.
    proxy.set_access_log(|line| {
        let line = String::from_utf8_lossy(line);
        assert!(!line.contains("event=open") || !line.contains("path=/bug "), "a bug");
    });
    let adit::Address::Tcp(address) = proxy.local_addrs()[0].clone() else { panic!("a TCP address") };
    let handle = proxy.handle();
    let thread =
        std::thread::spawn(
            move || {
                while proxy.turn(Some(Duration::from_secs(1))).unwrap() == Status::Running {}
            },
        );

    let mut well = Client::connect(address);
    well.ask("/well");
    let mut server = backend.accept();
    server.agree();
    well.head();

    let mut ill = Client::connect(address);
    ill.ask("/bug");
    let mut its_server = backend.accept();
    its_server.agree();
    assert!(ill.rest().unwrap_or_default().is_empty(), "the session has ended");
    assert!(its_server.rest().unwrap_or_default().is_empty(), "on both sides");

    well.send("still here");
    server.expect("still here");
    let stats = handle.stats();
    assert_eq!((stats.panics, stats.open), (1, 1));
    handle.stop();
    thread.join().unwrap();
}
