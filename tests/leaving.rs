//! Tunnels that have to go: one after the other, in the order that is configured, and by their deadline; and those that
//! are spread anew over the servers of a pool.

mod common;

use std::time::{Duration, Instant};

use common::{Backend, Client, Running, WAIT, dead_address, start, start_workers, tunnels};

/// A tcp listener in front of these servers, with keys for the upstream and text in front of it all.
fn config(servers: &[&str], upstream: &str, more: &str) -> String {
    format!(
        "{more}\n[[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = {servers:?}\n{upstream}\n"
    )
}

fn echoes((client, server): &mut (Client, Client)) {
    common::echoes(client, server);
}

/// The value of a field in a log line.
fn field(line: &str, name: &str) -> String {
    let (_, rest) = line.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("{name} in {line}"));
    rest.split(' ').next().expect("a value").to_owned()
}

/// The next sessions that end, each by its client's place among these; all must end so.
fn order(proxy: &Running, tunnels: &[(Client, Client)], count: usize, outcome: &str) -> Vec<usize> {
    let place = |_| {
        let line = proxy.closed_line();
        assert!(line.ends_with(&format!(" outcome={outcome} ended_by=adit")), "{line}");
        let client = field(&line, "client");
        tunnels.iter().position(|(end, _)| end.local_addr().to_string() == client).expect("one of these")
    };
    (0..count).map(place).collect()
}

#[test]
fn at_stop_the_oldest_go_first_one_after_the_other() {
    let backend = Backend::new();
    let more = "[timeouts]\ndrain = \"off\"\n[drain]\nrate = 50";
    let proxy = start(&config(&[&backend.address()], "", more));
    let mut all = tunnels(&proxy, &backend, 10);
    echoes(&mut all[0]);
    let begun = Instant::now();
    proxy.handle.drain();
    assert_eq!(order(&proxy, &all, 10, "drain"), (0..10).collect::<Vec<_>>());
    // Nine slots of 20 ms lie between the first and the last.
    assert!(begun.elapsed() >= Duration::from_millis(160), "{:?}", begun.elapsed());
    proxy.join();
    for (client, server) in &mut all {
        client.expect_end();
        server.expect_end();
    }
}

#[test]
fn the_quietest_go_first_where_that_is_wanted() {
    let backend = Backend::new();
    let more = "[timeouts]\ndrain = \"off\"\n[drain]\nrate = 100\norder = \"quietest\"";
    let proxy = start(&config(&[&backend.address()], "", more));
    let mut all = tunnels(&proxy, &backend, 4);
    for place in [2, 0, 3, 1] {
        echoes(&mut all[place]);
    }
    proxy.handle.drain();
    assert_eq!(order(&proxy, &all, 4, "drain"), [2, 0, 3, 1]);
    proxy.join();
}

#[test]
fn what_is_left_at_the_deadline_is_closed_then() {
    let backend = Backend::new();
    let more = "[timeouts]\ndrain = \"1s\"\n[drain]\nrate = 10";
    let proxy = start(&config(&[&backend.address()], "", more));
    let all = tunnels(&proxy, &backend, 20);
    proxy.handle.drain();
    let ended: Vec<f64> = (0..20)
        .map(|_| {
            let line = proxy.closed_line();
            assert!(line.ends_with(" outcome=drain ended_by=adit"), "{line}");
            let time = field(&format!(" {line}"), "time");
            humantime::parse_rfc3339(&time)
                .expect("a time")
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs_f64()
        })
        .collect();
    let last = ended[19];
    assert!(ended.iter().filter(|&&time| time == last).count() >= 8, "{ended:?}");
    assert!(ended[0] < last, "{ended:?}");
    drop(all);
    proxy.join();
}

#[test]
fn tunnels_opened_together_do_not_end_their_lifetime_together() {
    let backend = Backend::new();
    let more = "[timeouts]\nlifetime = \"1s\"\nlifetime_jitter = \"80%\"";
    let proxy = start(&config(&[&backend.address()], "", more));
    let all = tunnels(&proxy, &backend, 20);
    let mut ages: Vec<f64> = (0..20)
        .map(|_| {
            let line = proxy.closed_line();
            assert!(line.ends_with(" outcome=lifetime ended_by=adit"), "{line}");
            field(&line, "duration").parse().expect("seconds")
        })
        .collect();
    ages.sort_by(f64::total_cmp);
    assert!(ages[0] >= 0.2 && ages[0] < 0.7, "{ages:?}");
    ages.dedup();
    assert!(ages.len() > 10, "{ages:?}");
    drop(all);
}

#[test]
fn a_pace_is_one_for_lifetimes_too() {
    let backend = Backend::new();
    let more = "[timeouts]\nlifetime = \"100ms\"\n[drain]\nrate = 20";
    let proxy = start(&config(&[&backend.address()], "", more));
    let mut all = tunnels(&proxy, &backend, 8);
    // Until it is closed a tunnel goes on, and may end by itself.
    let (client, mut server) = all.pop().expect("there are eight");
    drop(client);
    server.expect_end();
    drop(server);
    let line = proxy.closed_line();
    assert!(line.ends_with(" outcome=finished ended_by=client"), "{line}");
    let ages: Vec<f64> = (0..7)
        .map(|_| {
            let line = proxy.closed_line();
            assert!(line.ends_with(" outcome=lifetime ended_by=adit"), "{line}");
            field(&line, "duration").parse().expect("seconds")
        })
        .collect();
    // Five slots lie between the first and the last, or a little less as slots may be made up for.
    assert!(ages[6] >= 0.3, "{ages:?}");
    drop(all);
}

/// A server may drain and be taken back meanwhile: its tunnels are as old as they are.
#[test]
fn a_lifetime_that_is_over_stays_over_when_its_tunnel_need_not_go_for_another_reason() {
    let backend = Backend::new();
    let text = |drain: bool| {
        let more = "[timeouts]\nlifetime = \"200ms\"\ndrain = \"1s\"\n[drain]\nrate = 1";
        let server = format!("{{ address = \"{}\", drain = {drain} }}", backend.address());
        config(&["x"], "", more).replace("\"x\"", &server)
    };
    let mut proxy = start(&text(false));
    let all = tunnels(&proxy, &backend, 4);
    proxy.reload(&text(true));
    std::thread::sleep(Duration::from_millis(300)); // a lifetime
    proxy.reload(&text(false));
    for _ in 0..4 {
        proxy.closed_line();
    }
    drop(all);
}

/// What an operator does who has seen that it takes too long.
#[test]
fn a_deadline_may_be_brought_forward_while_tunnels_go() {
    let backend = Backend::new();
    let text = |drain: bool, timeout: &str| {
        let server = format!("{{ address = \"{}\", drain = {drain} }}", backend.address());
        config(&["x"], "", &format!("[timeouts]\ndrain = \"{timeout}\"")).replace("\"x\"", &server)
    };
    for timeout in ["off", "1h"] {
        let mut proxy = start(&text(false, timeout));
        let all = tunnels(&proxy, &backend, 2);
        proxy.reload(&text(true, timeout));
        proxy.reload(&text(true, "100ms"));
        assert_eq!(order(&proxy, &all, 2, "drain").len(), 2, "from {timeout}");
    }
}

/// Each reload looks at all tunnels anew. The slot that the next one was to go in is still its own.
#[test]
fn reloads_that_follow_each_other_do_not_stop_the_pace() {
    let backend = Backend::new();
    let text = |max: usize| {
        let more = format!("[timeouts]\ndrain = \"off\"\n[drain]\nrate = 2\n[limits]\nmax_headers = {max}");
        let server = format!("{{ address = \"{}\", drain = {} }}", backend.address(), max > 10);
        config(&["x"], "", &more).replace("\"x\"", &server)
    };
    let mut proxy = start(&text(10));
    let all = tunnels(&proxy, &backend, 10);
    for max in 11..51 {
        proxy.reload(&text(max));
        std::thread::sleep(Duration::from_millis(100)); // in all, time for eight of them
    }
    let open = proxy.handle.stats().open;
    assert!(open <= 5, "{open} are left of 10");
    drop(all);
}

// Spread anew.

/// Takes what is dialed and gives each server's tunnels back, until there are so many in all.
fn accept(backends: &[&Backend], count: usize) -> Vec<Vec<Client>> {
    let mut accepted: Vec<Vec<Client>> = backends.iter().map(|_| Vec::new()).collect();
    let until = Instant::now() + WAIT;
    while accepted.iter().map(Vec::len).sum::<usize>() < count {
        for (backend, accepted) in backends.iter().zip(&mut accepted) {
            accepted.extend(backend.try_accept());
        }
        assert!(Instant::now() < until, "{count} are not there");
    }
    accepted
}

#[test]
fn after_a_server_was_added_surplus_tunnels_go_the_quietest_first() {
    let (a, b) = (Backend::new(), Backend::new());
    let keys = "rebalance = { within = \"0%\", rate = 100 }";
    let mut proxy = start(&config(&[&a.address()], keys, ""));
    let mut all = tunnels(&proxy, &a, 8);
    for place in [4, 5, 6, 7, 0, 1, 2, 3] {
        echoes(&mut all[place]);
    }
    proxy.reload(&config(&[&a.address(), &b.address()], keys, ""));
    assert_eq!(order(&proxy, &all, 4, "rebalance"), [4, 5, 6, 7]);
    // Those that were closed come back where there is room, and that is the end of it.
    let clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    let servers = accept(&[&a, &b], 4);
    assert_eq!((servers[0].len(), servers[1].len()), (0, 4));
    all[..4].iter_mut().for_each(echoes);
    proxy.await_stats(|stats| stats.open == 8);
    drop(clients);
}

#[test]
fn workers_close_no_more_together_than_one_would() {
    let (a, b) = (Backend::new(), Backend::new());
    let keys = "rebalance = { within = \"0%\", rate = 1000 }";
    let mut proxy = start_workers(&config(&[&a.address()], keys, "workers = 2"));
    let mut all = tunnels(&proxy, &a, 40);
    proxy.reload(&config(&[&a.address(), &b.address()], keys, ""));
    let mut gone = order(&proxy, &all, 20, "rebalance");
    gone.sort_unstable();
    let clients: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    let servers = accept(&[&a, &b], 20);
    assert_eq!((servers[0].len(), servers[1].len()), (0, 20));
    for (place, tunnel) in all.iter_mut().enumerate() {
        if gone.binary_search(&place).is_err() {
            echoes(tunnel);
        }
    }
    drop(clients);
}

#[test]
fn a_server_that_comes_back_gets_its_share_again() {
    for workers in [1, 2] {
        check_comeback(workers);
    }
}

fn check_comeback(workers: usize) {
    let (a, dead) = (Backend::new(), dead_address());
    let keys = "fail_timeout = \"200ms\"\nrebalance = { within = \"0%\", rate = 1000 }";
    let proxy = start_workers(&config(&[&a.address(), &dead], keys, &format!("workers = {workers}")));
    let all = tunnels(&proxy, &a, 10);
    let b = Backend::on(&dead);
    // One of those that come now finds out that it is well.
    let (mut clients, mut of_a, mut of_b) = (Vec::new(), Vec::new(), Vec::new());
    while of_b.is_empty() {
        clients.push(proxy.client());
        let mut accepted = accept(&[&a, &b], 1);
        of_b.append(&mut accepted[1]);
        of_a.append(&mut accepted[0]);
    }
    // Of all that there are it is to have half.
    let on_a = all.len() + of_a.len();
    for _ in 0..on_a - (on_a + 1).div_ceil(2) {
        let line = proxy.closed_line();
        assert!(line.contains(&format!(" server={} ", a.address())), "{line}");
        assert!(line.ends_with(" outcome=rebalance ended_by=adit"), "{line}");
    }
    drop(all);
}

/// A tunnel whose lifetime was over waits for its slot, and then there is no pace any more.
#[test]
fn a_lifetime_that_waits_for_its_slot_ends_when_the_pace_is_taken_away() {
    let backend = Backend::new();
    let of = |rate: u32| {
        let more = format!("[timeouts]\nlifetime = \"50ms\"\ndrain = \"off\"\n[drain]\nrate = {rate}");
        config(&[&backend.address()], "", &more)
    };
    // The last slot is a minute away.
    let mut proxy = start(&of(1));
    let all = tunnels(&proxy, &backend, 60);
    let line = proxy.closed_line();
    assert!(line.ends_with(" outcome=lifetime ended_by=adit"), "{line}");
    proxy.reload(&of(0));
    proxy.await_empty();
    drop(all);
}

/// The slot of a tunnel that has ended by itself is another's by now, which need not go.
#[test]
fn the_next_tunnel_of_a_slot_does_not_inherit_its_end() {
    let (drained, other) = (Backend::new(), Backend::new());
    let text = |drain: bool| {
        let more = "[timeouts]\ndrain = \"500ms\"";
        let servers =
            format!("{{ address = \"{}\", drain = {drain} }}, \"{}\"", drained.address(), other.address());
        config(&["x"], "", more).replace("\"x\"", &servers)
    };
    let mut proxy = start(&text(false));
    let clients: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
    let mut servers = accept(&[&drained, &other], 8);
    proxy.reload(&text(true));
    // One goes by itself, and its slot is taken. All the others go in one turn.
    let leaver = servers[0].pop().expect("it has four");
    leaver.reset();
    while !proxy.closed_line().contains(" outcome=reset ") {}
    let mut late: Vec<(Client, Client)> = tunnels(&proxy, &other, 4);
    for _ in 0..3 {
        let line = proxy.closed_line();
        assert!(line.contains(&format!(" server={} ", drained.address())), "{line}");
        assert!(line.ends_with(" outcome=drain ended_by=adit"), "{line}");
    }
    late.iter_mut().for_each(echoes);
    drop(clients);
}

/// Clients that come back to the server that they were closed at are not closed for ever.
#[test]
fn a_server_that_takes_nobody_costs_no_more_than_twice_the_surplus() {
    let (a, dead) = (Backend::new(), dead_address());
    let keys = "max_fails = 0\nrebalance = { within = \"0%\", rate = 1000 }";
    let mut proxy = start(&config(&[&a.address()], keys, ""));
    let mut all = tunnels(&proxy, &a, 6);
    proxy.reload(&config(&[&a.address(), &dead], keys, ""));
    for _ in 0..6 {
        let line = proxy.closed_line();
        assert!(line.ends_with(" outcome=rebalance ended_by=adit"), "{line}");
        all.extend(tunnels(&proxy, &a, 1));
    }
    proxy.await_stats(|stats| stats.open == 6);
    // Whoever is left has more messages to pass than a thousand a second would let it.
    let mut left: Vec<_> =
        all.into_iter().filter_map(|(mut end, server)| end.is_silent().then_some((end, server))).collect();
    assert_eq!(left.len(), 6);
    for _ in 0..20 {
        left.iter_mut().for_each(echoes);
    }
}
