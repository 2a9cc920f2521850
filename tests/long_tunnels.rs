//! Tunnels that are open for long write lines while they are, where that is wanted.

mod common;

use common::{Backend, echoes, open_tunnel, start_tcp, start_workers};

/// A field of a line.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let key = format!(" {name}=");
    line.split_once(&key).unwrap_or_else(|| panic!("no {name} in {line}")).1.split(' ').next().unwrap().trim()
}

#[test]
fn a_tunnel_writes_lines_while_it_is_open() {
    let backend = Backend::new();
    let proxy = start_tcp(&backend.address(), "[log]\nevery = \"1s\"\n");
    let (mut client, mut server) = open_tunnel(&proxy, &backend);
    let opened = proxy.log_line();
    assert_eq!(field(&opened, "event"), "open");
    echoes(&mut client, &mut server);
    for second in 1..=2 {
        let line = proxy.log_line();
        assert_eq!((field(&line, "event"), field(&line, "id")), ("still", field(&opened, "id")), "{line}");
        let duration: f64 = field(&line, "duration").parse().unwrap();
        assert!(duration >= f64::from(second) && !line.contains("outcome="), "{line}");
        assert_ne!(field(&line, "bytes_up"), "0", "{line}");
        for name in ["client", "listener", "upstream", "server"] {
            assert_eq!(field(&line, name), field(&opened, name));
        }
    }
    drop((client, server));
    let closed = proxy.log_line();
    assert_eq!((field(&closed, "event"), field(&closed, "id")), ("close", field(&opened, "id")));
}

#[test]
fn a_reload_begins_and_ends_it_for_tunnels_that_are_open() {
    let backend = Backend::new();
    let config = |every: &str| {
        format!(
            "workers = 2\n[log]\nevery = \"{every}\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\n\
             protocol = \"tcp\"\nupstream = \"u\"\n[upstream.u]\nservers = [\"{}\"]\n",
            backend.address()
        )
    };
    let mut proxy = start_workers(&config("off"));
    let tunnels = common::tunnels(&proxy, &backend, 4);
    (0..4).for_each(|_| assert_eq!(field(&proxy.log_line(), "event"), "open"));
    proxy.reload(&config("1s"));
    let mut ids: Vec<String> = (0..4).map(|_| field(&proxy.log_line(), "id").to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each once before any twice");
    // Who has been open for long has no line at once when lines are wanted again.
    proxy.reload(&config("off"));
    proxy.reload(&config("1s"));
    let second = |line: &str| field(line, "duration").split('.').next().unwrap().parse::<u32>().unwrap();
    (0..4).for_each(|_| assert!(second(&proxy.log_line()) >= 2));
    proxy.reload(&config("off"));
    drop(tunnels);
    // Whatever was written before the reload was done, no more comes behind it.
    let mut lines: Vec<String> = (0..4).map(|_| proxy.closed_line()).collect();
    lines.sort();
    assert!(lines.iter().all(|line| field(line, "event") == "close"), "{lines:?}");
}
