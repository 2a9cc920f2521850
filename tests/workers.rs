//! Several workers: clients are spread over them, limits and counts hold over all of them, and they act as one.

mod common;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use adit::plan::Address;
use common::process::Process;
use common::{Backend, Client, Running, WAIT, echoes, open_tunnel, plan, start, start_workers, tunnels};

/// Two workers in front of these servers, with keys for the upstream and text in front of it all.
fn config(servers: &[&str], upstream: &str, more: &str) -> String {
    format!(
        "workers = 2\n{more}\n[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = {servers:?}\n{upstream}\n"
    )
}

/// Sessions of each worker.
fn open(proxy: &Running) -> Vec<u64> {
    proxy.handle.worker_stats().iter().map(|stats| stats.open).collect()
}

#[track_caller]
fn expect_even(proxy: &Running, most_apart: u64) {
    let open = open(proxy);
    assert!(open[0].abs_diff(open[1]) <= most_apart, "{open:?}");
}

#[test]
fn clients_are_spread_evenly_also_where_the_kernel_is_unkind() {
    let backend = Backend::new();
    let proxy = start_workers(&config(&[&backend.address()], "", ""));
    let mut all = tunnels(&proxy, &backend, 60);
    expect_even(&proxy, 4);
    // All of one worker's end: the next ones go to it, however the kernel picks sockets.
    let of_first = proxy.handle.worker_stats()[0].open;
    let mut left = Vec::new();
    for tunnel in all.drain(..) {
        let before = proxy.handle.worker_stats()[0].open;
        if before <= of_first / 4 {
            left.push(tunnel);
            continue;
        }
        let open = proxy.handle.stats().open;
        drop(tunnel);
        proxy.await_stats(|stats| stats.open == open - 1);
    }
    left.extend(tunnels(&proxy, &backend, 40));
    expect_even(&proxy, 4);
    for (client, server) in &mut left {
        echoes(client, server);
    }
}

#[test]
fn a_unix_socket_has_clients_for_all_of_them() {
    let backend = Backend::new();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("adit.sock");
    let text =
        config(&[&backend.address()], "", "").replace("127.0.0.1:0", &format!("unix:{}", path.display()));
    let proxy = start_workers(&text);
    let mut all = Vec::new();
    for _ in 0..40 {
        let stream = std::os::unix::net::UnixStream::connect(&path).expect("connected");
        all.push((Client::of_unix(stream), backend.accept()));
    }
    expect_even(&proxy, 4);
    for (client, server) in &mut all {
        echoes(client, server);
    }
    drop(all);
    proxy.await_empty();
    drop(proxy);
    assert!(!path.exists());
}

#[test]
fn the_limit_of_connections_is_one_for_all() {
    let backend = Backend::new();
    let proxy = start_workers(&config(&[&backend.address()], "", "[limits]\nmax_connections = 5"));
    // Those that are not let in wait in the backlogs of both.
    let _clients: Vec<Client> = (0..25).map(|_| proxy.client()).collect();
    let mut servers: Vec<Client> = (0..5).map(|_| backend.accept()).collect();
    for _ in 0..20 {
        assert_eq!(proxy.handle.stats().open, 5);
        assert!(!backend.has_client());
        // One leaves, and whichever worker it was with, one of those that wait is let in.
        servers.remove(0).reset();
        servers.push(backend.accept());
    }
}

#[test]
fn a_limit_per_address_and_one_per_server_are_for_all_too() {
    let backend = Backend::new();
    let per_ip = start_workers(&config(&[&backend.address()], "", "[limits]\nmax_connections_per_ip = 6"));
    let all = tunnels(&per_ip, &backend, 6);
    assert!(open(&per_ip).iter().all(|&open| open > 0), "both have some: {:?}", open(&per_ip));
    for _ in 0..8 {
        per_ip.client().expect_end();
    }
    drop(all);
    per_ip.await_empty();
    tunnels(&per_ip, &backend, 6);

    let text = config(&["x:1"], "", "");
    let server = format!("[{{ address = \"{}\", max_conns = 6 }}]", backend.address());
    let per_server = start_workers(&text.replace("[\"x:1\"]", &server));
    let _all = tunnels(&per_server, &backend, 6);
    for _ in 0..8 {
        per_server.client().expect_end();
    }
}

#[test]
fn a_server_that_failed_one_of_them_is_out_for_all() {
    let (dead, backend) = (common::dead_address(), Backend::new());
    let proxy = start_workers(&config(&[&dead, &backend.address()], "fail_timeout = \"1h\"", ""));
    let mut all = tunnels(&proxy, &backend, 1);
    // It comes back, but nobody is to know: a worker that had not heard of it would go there.
    let back = Backend::on(&dead);
    all.extend(tunnels(&proxy, &backend, 20));
    assert!(!back.has_client());
    assert!(open(&proxy).iter().all(|&open| open > 0));
}

#[test]
fn the_fewest_connections_are_those_of_all() {
    let (a, b) = (Backend::new(), Backend::new());
    let proxy = start_workers(&config(&[&a.address(), &b.address()], "balance = \"least_conn\"", ""));
    let mut counts = [0, 0];
    let mut all = Vec::new();
    for _ in 0..40 {
        let client = proxy.client();
        let until = Instant::now() + WAIT;
        let (index, server) = loop {
            let found =
                [&a, &b].into_iter().enumerate().find_map(|(i, backend)| Some((i, backend.try_accept()?)));
            match found {
                Some(found) => break found,
                None => assert!(Instant::now() < until, "no server was dialed"),
            }
        };
        counts[index] += 1;
        all.push((client, server));
        assert!(usize::abs_diff(counts[0], counts[1]) <= 1, "{counts:?}");
    }
}

#[test]
fn a_reload_is_for_all_of_them_or_for_none() {
    let (old, new, taken) = (Backend::new(), Backend::new(), Backend::new());
    let mut proxy = start_workers(&config(&[&old.address()], "on_removed = \"keep\"", ""));
    let mut all = tunnels(&proxy, &old, 10);
    let more = "[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"";
    let with_more = config(&[&new.address()], "", &format!("{more}\n[limits]\nmax_headers = 9"));
    proxy.reload(&with_more.replace("[limits]\nmax_headers = 9\n", ""));
    for _ in 0..20 {
        all.push((proxy.client(), new.accept()));
        all.push((Client::connect(proxy.address_of(1)), new.accept()));
    }
    assert!(!old.has_client());
    let bad = more.replace("127.0.0.1:0", &taken.address());
    proxy.try_reload(&config(&[&old.address()], "", &bad)).expect_err("the address is taken");
    all.extend(tunnels(&proxy, &new, 10));
    assert!(!old.has_client());
    proxy.reload(&config(&[&new.address()], "on_removed = \"close\"", ""));
    for (client, server) in &mut all {
        echoes(client, server);
    }
    // Every tunnel to a server that is removed is closed, whichever worker has it.
    proxy.reload(&config(&[&old.address()], "on_removed = \"close\"", ""));
    let mut closed = 0;
    for (mut client, mut server) in all.drain(10..) {
        client.expect_end();
        server.expect_end();
        closed += 1;
    }
    assert_eq!(closed, 50);
}

/// The next reload waits until the last worker has closed what the one before it took away.
#[test]
fn a_listener_may_go_and_come_back_in_reloads_that_are_not_waited_for() {
    let backend = Backend::new();
    let address = common::dead_address();
    let more = format!("[[listener]]\nlisten = \"{address}\"\nprotocol = \"tcp\"\nupstream = \"u\"\n");
    let text = |more: &str| plan(&config(&[&backend.address()], "", more));
    let proxy = start_workers(&config(&[&backend.address()], "", &more));
    for _ in 0..20 {
        let without = proxy.handle.reload(text(""));
        let with = proxy.handle.reload(text(&more));
        for reloading in [without, with] {
            reloading.recv_timeout(WAIT).expect("an answer").unwrap_or_else(|error| panic!("{error}"));
        }
    }
    let mut client = Client::connect(address.parse().expect("an address"));
    echoes(&mut client, &mut backend.accept());
}

#[test]
fn they_drain_and_stop_together() {
    let backend = Backend::new();
    for is_drain in [true, false] {
        let proxy = start_workers(&config(&[&backend.address()], "", "[timeouts]\ndrain = \"300ms\""));
        let mut all = tunnels(&proxy, &backend, 10);
        if is_drain {
            proxy.handle.drain();
        } else {
            proxy.handle.stop();
        }
        for (client, server) in &mut all {
            client.expect_end();
            server.expect_end();
        }
        assert!(TcpStream::connect(proxy.address()).is_err());
        proxy.join();
    }
}

/// What a host does with log lines is not guarded: a panic there is no session's.
#[test]
fn where_one_of_them_panics_all_of_them_end() {
    let backend = Backend::new();
    let mut workers = adit::Workers::bind(plan(&config(&[&backend.address()], "", ""))).expect("bound");
    workers.set_access_log(|line| assert!(!line.windows(11).any(|word| word == b"event=close"), "a bug"));
    let (Address::Tcp(address), handle) = (workers.local_addrs()[0].clone(), workers.handle()) else {
        panic!("a TCP address")
    };
    let (end, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| workers.run()));
        end.send(ran.is_err())
    });
    // The last of these is the second worker's, which has a thread of its own.
    let mut all = Vec::new();
    while handle.worker_stats()[1].open == 0 {
        all.push(Client::connect(address));
        all.push(backend.accept());
    }
    drop(all.drain(all.len() - 2..));
    assert_eq!(ended.recv_timeout(WAIT), Ok(true), "it goes on where they were run");
}

/// A loop is held up by a log that waits, which a host's must not do: a ping says so, and says when it is over.
#[test]
fn a_ping_is_answered_where_every_loop_goes_round() {
    let backend = Backend::new();
    let mut workers = adit::Workers::bind(plan(&config(&[&backend.address()], "", ""))).expect("bound");
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    workers.set_access_log(move |line| {
        if line.windows(11).any(|word| word == b"event=close") {
            may_go_on.recv().expect("it is told to go on");
        }
    });
    let (Address::Tcp(address), handle) = (workers.local_addrs()[0].clone(), workers.handle()) else {
        panic!("a TCP address")
    };
    assert!(!handle.ping(Duration::from_millis(1)), "it does not run yet");
    let thread = std::thread::spawn(move || workers.run());
    assert!(handle.ping(WAIT));
    let client = Client::connect(address);
    drop((backend.accept(), client));
    let until = Instant::now() + WAIT;
    while handle.ping(Duration::from_millis(20)) {
        assert!(Instant::now() < until, "a loop that is held up answers");
    }
    go_on.send(()).expect("it waits");
    assert!(handle.ping(WAIT));
    handle.stop();
    thread.join().expect("no panic").expect("no error");
    assert!(handle.ping(WAIT), "who is no more need not answer");
}

/// Two processes by mistake on one port would share its clients, if it were up to SO_REUSEPORT alone.
#[test]
fn another_proxy_cannot_have_the_same_port() {
    let backend = Backend::new();
    let proxy = start_workers(&config(&[&backend.address()], "", ""));
    let text = config(&[&backend.address()], "", "").replace("127.0.0.1:0", &proxy.address().to_string());
    let error = adit::Workers::bind(plan(&text)).expect_err("it is taken");
    assert!(error.to_string().contains("in use"), "{error}");
}

/// As a library a proxy is one loop, whatever the text says, until more are asked for.
#[test]
fn a_proxy_is_one_loop() {
    let backend = Backend::new();
    let proxy = start(&config(&[&backend.address()], "", ""));
    assert_eq!(proxy.handle.worker_stats().len(), 1);
    let http = config(&[&backend.address()], "", "").replace("protocol = \"tcp\"\n", "");
    open_tunnel(&start(&http), &backend);
    let Address::Tcp(_) = proxy.addresses[0] else { panic!("a TCP address") };
}

#[test]
fn the_command_starts_as_many_as_it_is_told() {
    let backend = Backend::new();
    let mut process =
        Process::start(&config(&[&backend.address()], "", "").replace("workers = 2", "workers = 3"));
    let names = |process: &Process| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).expect("it runs");
        let name =
            |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.flatten().map(name).filter(|name| name.starts_with("adit-worker")).count()
    };
    let until = Instant::now() + WAIT;
    while names(&process) != 2 {
        assert!(Instant::now() < until, "{} threads beside the first", names(&process));
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut client = process.client();
    let mut server = backend.accept();
    echoes(&mut client, &mut server);
    process.signal("TERM");
    process.stderr_line("draining; a second one stops at once");
    drop((client, server));
    assert_eq!(process.wait().code(), Some(0));
}
