use super::super::script::{Dial, PLENTY, Play, Rest};
use super::asking::INTERIM_RESPONSES_MAX;
use super::*;
use crate::plan::BackendId;

const CONFIG: &str = "
    [timeouts]
    handshake = \"10s\"
    connect = \"5s\"
    response = \"60s\"
    [limits]
    max_connections_per_ip = 1
    [[listener]]
    listen = \"127.0.0.1:8020\"
    upstream = \"u\"
    [upstream.u]
    servers = [\"127.0.0.1:8010\", \"127.0.0.1:8011\", \"127.0.0.1:8012\"]";

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const AGREEMENT: &str = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                         Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

const GET: &str = "GET /page HTTP/1.1\r\nHost: example.com\r\n\r\n";

/// A session that has been sent this, and whatever it does with it.
fn sent(request: &str) -> Play {
    sent_with(CONFIG, request, [])
}

/// The same with another configuration and other luck with dials.
fn sent_with<const N: usize>(config: &str, request: &str, dials: [Dial; N]) -> Play {
    let mut play = Play::accepted(config);
    play.dials.extend(dials);
    play.client.sends(request);
    play.run();
    play
}

/// Whether a server has got a whole request head.
fn is_asked(play: &Play) -> bool {
    play.server().wire().got.ends_with(b"\r\n\r\n")
}

/// The answer is complete and ours, and the session over as soon as the client is.
#[track_caller]
fn check_refused(play: &mut Play, status: u16, rule: &str) {
    let answer = play.client.got();
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.ends_with(&format!(": {rule}\n")), "{answer}");
    assert_eq!(play.client.wire().finished, 1);
    play.client.ends();
    assert_eq!(play.run(), Rest::Over);
    assert_eq!(play.told(&["status", "outcome", "ended_by"]), format!("{status} {rule} adit"));
    check_given_back(play);
}

/// Nothing is counted any more of a session that is over.
#[track_caller]
fn check_given_back(play: &mut Play) {
    assert_eq!(play.rest, Rest::Over);
    for index in 0..play.setup.plan.pools[0].backends.len() {
        assert_eq!(play.setup.record(BackendId { pool: PoolId(0), index: index as u16 }).active(), 0);
    }
    let address = std::net::IpAddr::from(super::super::script::CLIENT.0);
    assert!(play.tools.addresses.admit(address, 1), "the client's only place is free again");
    play.tools.addresses.leave(address);
    assert!(play.client.wire().closed);
    assert!(play.servers.iter().all(|server| server.wire().closed));
}

#[test]
fn a_request_is_the_same_in_however_many_pieces() {
    let whole = sent(UPGRADE).server().got();
    assert!(whole.starts_with("GET /chat HTTP/1.1\r\nHost: example.com\r\n"), "{whole}");
    let mut play = Play::accepted(CONFIG);
    for byte in UPGRADE.as_bytes() {
        assert!(play.servers.is_empty(), "nobody is dialed before the request is complete");
        play.client.sends([*byte]);
        play.run();
    }
    assert_eq!(play.server().got(), whole);
}

#[test]
fn an_answer_is_the_same_in_however_many_pieces() {
    let mut play = sent(UPGRADE);
    for byte in AGREEMENT.as_bytes() {
        assert_eq!(play.client.got(), "");
        play.server().sends([*byte]);
        play.run();
    }
    assert_eq!(play.client.got(), AGREEMENT);
    assert!(play.session.is_tunnel());
}

#[test]
fn a_request_is_written_as_the_server_takes_it() {
    let whole = sent(UPGRADE).server().got();
    let mut play = Play::accepted(CONFIG);
    play.dials.push_back(Dial::Hangs);
    play.client.sends(UPGRADE);
    play.run();
    play.server().is_full();
    play.server().connects();
    for _ in 0..whole.len() {
        assert_eq!(play.run(), Rest::Parked);
        assert!(play.deadline.is_some());
        play.server().takes(1);
    }
    play.run();
    assert_eq!(play.server().got(), whole);
}

#[test]
fn what_a_client_sends_ahead_of_its_tunnel_waits_for_the_agreement() {
    let mut play = sent(&format!("{UPGRADE}early, "));
    play.client.sends("and more, ");
    play.run();
    let asked = play.server().got();
    assert!(asked.ends_with("\r\n\r\n"), "{asked}");
    play.server().sends(format!("{AGREEMENT}welcome"));
    play.run();
    assert_eq!(play.client.got(), format!("{AGREEMENT}welcome"));
    assert_eq!(play.server().got(), "early, and more, ");
    play.client.sends("late");
    play.run();
    assert_eq!(play.server().got(), "late");
    play.client.ends();
    play.server().ends();
    play.run();
    assert_eq!(play.told(&["status", "bytes_up", "bytes_down", "outcome"]), "101 21 7 finished");
    check_given_back(&mut play);
}

#[test]
fn what_a_client_sends_ahead_reaches_no_server_that_does_not_agree() {
    let mut play = sent(&format!("{UPGRADE}GET /smuggled HTTP/1.1\r\n\r\n"));
    assert!(is_asked(&play));
    play.server().got();
    play.server().sends("HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno");
    play.run();
    assert!(play.client.got().ends_with("\r\n\r\nno"));
    play.client.ends();
    assert_eq!(play.run(), Rest::Over);
    assert_eq!(play.server().got(), "");
    check_given_back(&mut play);
}

#[test]
fn what_a_client_sends_ahead_of_its_tunnel_is_not_read_before_it() {
    let mut play = sent(UPGRADE);
    play.client.sends(vec![b'x'; 100_000]);
    assert_eq!(play.run(), Rest::Parked);
    assert_eq!(play.client.wire().arrived.len(), 100_000);
    play.server().got();
    play.server().sends(AGREEMENT);
    play.run();
    assert_eq!(play.server().got(), "x".repeat(100_000));
}

#[test]
fn a_client_that_has_ended_gets_its_tunnel_and_its_end_is_passed_on() {
    let mut play = Play::accepted(CONFIG);
    play.client.sends(format!("{UPGRADE}all I have to say"));
    play.client.ends();
    play.run();
    play.server().got();
    play.server().sends(format!("{AGREEMENT}answer"));
    play.run();
    assert_eq!((play.server().got(), play.server().wire().finished), ("all I have to say".into(), 1));
    play.server().ends();
    play.run();
    assert_eq!(play.client.got(), format!("{AGREEMENT}answer"));
    assert_eq!(play.outcome(), "client finished");
}

#[test]
fn a_client_that_resets_ends_the_search() {
    for stage in ["hanging", "asked"] {
        let mut play = Play::accepted(CONFIG);
        play.dials.push_back(if stage == "hanging" { Dial::Hangs } else { Dial::Connects });
        play.client.sends(UPGRADE);
        play.run();
        play.client.resets();
        assert_eq!(play.run(), Rest::Over, "{stage}");
        assert_eq!(play.outcome(), "client reset");
        check_given_back(&mut play);
    }
}

#[test]
fn a_client_that_ends_before_its_request_is_complete_is_gone() {
    for part in ["", "GET / HT"] {
        let mut play = Play::accepted(CONFIG);
        play.client.sends(part);
        play.client.ends();
        assert_eq!(play.run(), Rest::Over);
        assert_eq!((play.client.got(), play.outcome()), (String::new(), "client gone".into()));
        check_given_back(&mut play);
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_followed_by_the_next() {
    for dial in [Dial::Fails, Dial::Refuses] {
        let mut play = sent_with(CONFIG, UPGRADE, [dial, dial]);
        assert_eq!(play.dialed, [0, 1, 2]);
        assert!(is_asked(&play));
        play.server().sends(AGREEMENT);
        play.run();
        assert!(play.session.is_tunnel());
    }
}

/// No address or port of ours for a server (`[::1]` in a container without IPv6, or all ports in use to it) used to
/// count as if no descriptor was left: its sessions were refused, and until then nobody was let in on any listener.
#[test]
fn a_server_that_no_port_is_left_for_is_followed_by_the_next() {
    let mut play = sent_with(CONFIG, UPGRADE, [Dial::LacksPort, Dial::LacksPort]);
    assert_eq!(play.dialed, [0, 1, 2]);
    play.server().sends(AGREEMENT);
    play.run();
    assert!(play.session.is_tunnel());
    let mut play = sent_with(CONFIG, UPGRADE, [Dial::LacksPort, Dial::LacksPort, Dial::LacksPort]);
    check_refused(&mut play, 502, "no server could be reached");
}

#[test]
fn each_server_is_tried_once_and_the_last_failure_is_told() {
    let mut play = sent_with(CONFIG, UPGRADE, [Dial::Fails, Dial::Refuses, Dial::Fails]);
    assert_eq!(play.dialed, [0, 1, 2]);
    check_refused(&mut play, 502, "no server could be reached");
}

#[test]
fn a_server_that_does_not_connect_in_time_is_followed_by_the_next() {
    let mut play = sent_with(CONFIG, UPGRADE, [Dial::Hangs, Dial::Hangs, Dial::Hangs]);
    for tried in 1..=3 {
        assert_eq!((play.dialed.len(), play.rest), (tried, Rest::Parked));
        play.wait_ms(4_999);
        assert_eq!(play.dialed.len(), tried);
        play.wait_ms(1);
    }
    check_refused(&mut play, 504, "no server was connected in time");
}

#[test]
fn without_descriptors_no_other_server_is_tried() {
    let mut play = sent_with(CONFIG, UPGRADE, [Dial::Exhausts]);
    assert_eq!(play.dialed.len(), 1);
    check_refused(&mut play, 503, "no descriptor is left to reach a server with");
}

/// What becomes of a request whose server goes away before it sends a byte.
fn unheard(request: &str, by_reset: bool) -> Play {
    let mut play = sent(request);
    assert_eq!(play.servers.len(), 1);
    let server = play.server().clone();
    if by_reset {
        server.resets()
    } else {
        server.ends()
    }
    play.run();
    play
}

#[test]
fn a_server_gone_before_it_answered_is_followed_by_the_next() {
    let bodyless = ["HEAD", "PUT", "DELETE", "OPTIONS"].map(|method| GET.replace("GET", method));
    let requests = [UPGRADE.to_owned(), GET.to_owned()].into_iter().chain(bodyless);
    for request in requests {
        for by_reset in [false, true] {
            let play = unheard(&request, by_reset);
            assert_eq!(play.dialed, [0, 1], "{request}");
            assert_eq!(play.servers[0].got(), play.servers[1].got());
            assert!(play.servers[0].wire().closed);
        }
    }
}

#[test]
fn what_was_sent_ahead_is_kept_for_the_next_server() {
    let mut play = unheard(&format!("{UPGRADE}early"), false);
    play.server().got();
    play.server().sends(AGREEMENT);
    play.run();
    assert_eq!(play.server().got(), "early");
}

#[test]
fn a_request_that_may_have_done_something_is_not_sent_twice() {
    let body = "HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    for request in [GET.replace("GET", "POST"), format!("POST / {body}"), format!("PUT / {body}")] {
        for (by_reset, rule) in [(false, "closed before it answered"), (true, "reset before it answered")] {
            let mut play = unheard(&request, by_reset);
            assert_eq!(play.dialed.len(), 1, "{request}");
            check_refused(&mut play, 502, rule);
        }
    }
}

#[test]
fn a_body_is_kept_for_the_next_server_until_one_is_connected() {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    let play = sent_with(CONFIG, request, [Dial::Refuses]);
    assert_eq!(play.dialed.len(), 2);
    assert!(play.server().got().ends_with("\r\n\r\nbody"));
}

#[test]
fn a_server_that_has_said_anything_is_the_only_one() {
    for said in ["H", "HTTP/1.1 101 Switching Protocols\r\n", "HTTP/1.1 103 Early Hints\r\n\r\nHTT"] {
        for by_reset in [false, true] {
            let mut play = sent(UPGRADE);
            play.server().sends(said);
            if by_reset {
                play.server().resets()
            } else {
                play.server().ends()
            }
            play.run();
            assert_eq!(play.dialed.len(), 1);
            if said.contains("103") {
                assert!(
                    play.client.got().starts_with("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 502 "),
                    "{said}"
                );
            } else {
                check_refused(&mut play, 502, "the response head is not complete");
            }
        }
    }
}

#[test]
fn an_answer_that_is_none_is_the_server_s_fault() {
    let switched = AGREEMENT.replace("s3pP", "S3pP");
    let large = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(20_000));
    for (answer, rule) in [
        ("SSH-2.0-OpenSSH\r\n\r\n", "the response is not HTTP/1.0 or HTTP/1.1"),
        (switched.as_str(), "the server's Sec-WebSocket-Accept is wrong"),
        ("HTTP/1.1 200 OK\nA: b\n\n", "an LF without CR in the head"),
        (&large, "the response head is too large"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz", "a chunk does not begin with its size"),
    ] {
        let mut play = sent(UPGRADE);
        play.server().sends(answer);
        play.run();
        check_refused(&mut play, 502, rule);
    }
}

#[test]
fn a_server_may_answer_before_it_has_read_the_request() {
    let mut play =
        sent_with(CONFIG, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbegun", [Dial::Hangs]);
    play.server().wire().room = 10;
    play.server().connects();
    play.run();
    play.server().sends("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
    play.server().vanishes();
    play.server().takes(10);
    play.run();
    assert!(play.client.got().ends_with("\r\n\r\nno"));
}

#[test]
fn a_client_has_so_long_for_its_request_and_more_bytes_never_extend_it() {
    let mut play = Play::accepted(CONFIG);
    for byte in UPGRADE.as_bytes().iter().take(99) {
        play.client.sends([*byte]);
        play.run();
        play.wait_ms(100);
        assert_eq!(play.client.got(), "");
    }
    play.wait_ms(100);
    check_refused(&mut play, 408, "the request did not arrive in time");
}

#[test]
fn a_client_that_sends_nothing_is_closed_without_a_word() {
    let mut play = Play::accepted(CONFIG);
    play.run();
    play.wait_ms(9_999);
    assert_eq!(play.rest, Rest::Parked);
    play.wait_ms(1);
    assert_eq!(play.client.got(), "");
    assert_eq!(play.outcome(), "adit the request did not arrive in time");
    check_given_back(&mut play);
}

#[test]
fn a_server_has_so_long_for_its_answer_counted_from_the_request() {
    let mut play = Play::accepted(CONFIG);
    play.dials.push_back(Dial::Hangs);
    play.client.sends(UPGRADE);
    play.run();
    play.wait_ms(4_000);
    play.server().connects();
    play.run();
    play.server().sends("HTTP/1.1 101 Switch");
    play.run();
    play.wait_ms(59_999);
    assert_eq!(play.rest, Rest::Parked);
    play.wait_ms(1);
    check_refused(&mut play, 504, "the server did not answer in time");
    assert_eq!(play.dialed.len(), 1, "a server that is slow is not asked twice elsewhere");
}

#[test]
fn a_body_that_does_not_come_is_the_client_s_fault() {
    let mut play = sent("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo");
    play.wait_ms(59_999);
    play.client.sends("d");
    play.run();
    play.wait_ms(59_999);
    assert_eq!(play.rest, Rest::Parked);
    play.wait_ms(1);
    check_refused(&mut play, 408, "the request did not arrive in time");
}

#[test]
fn interim_responses_are_passed_on_as_they_come() {
    let mut play = sent(UPGRADE);
    for _ in 0..INTERIM_RESPONSES_MAX {
        play.server().sends("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
        play.run();
        assert_eq!(play.client.got(), "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
    }
    play.server().sends(AGREEMENT);
    play.run();
    assert_eq!(play.client.got(), AGREEMENT);
    assert!(play.session.is_tunnel());
}

#[test]
fn there_are_only_so_many_interim_responses() {
    let mut play = sent(UPGRADE);
    play.server().sends("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(usize::from(INTERIM_RESPONSES_MAX) + 1));
    play.run();
    let got = play.client.got();
    assert_eq!(got.matches("HTTP/1.1 103 ").count(), usize::from(INTERIM_RESPONSES_MAX) + 1);
    assert!(got.ends_with(": too many interim responses\n"), "{got}");
}

#[test]
fn a_continue_is_for_those_who_asked() {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n";
    let both = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n";
    let told = "HTTP/1.1 204 No\r\nConnection: close\r\n\r\n";
    let mut play = sent(&format!("{request}\r\n"));
    play.server().sends(both);
    play.run();
    assert_eq!(play.client.got(), told);

    let mut play = sent(&format!("{request}Expect: 100-continue\r\n\r\n"));
    play.server().sends("HTTP/1.1 100 Continue\r\n\r\n");
    play.run();
    assert_eq!(play.client.got(), "HTTP/1.1 100 Continue\r\n\r\n");
    play.client.sends("body");
    play.run();
    assert!(play.server().got().ends_with("\r\n\r\nbody"));
}

/// An interim response used to leave the server unread where it had sent more than one read takes: nobody announced
/// the rest again, and the client waited for the response timeout.
#[test]
fn a_server_is_read_on_behind_an_interim_response() {
    let link = format!("Link: {}\r\n\r\n", "x".repeat(10_000));
    let mut play = sent(UPGRADE);
    play.server().sends(format!("HTTP/1.1 103 Early Hints\r\n{link}HTTP/1.1 403 Forbidden\r\n{link}"));
    play.server().ends();
    play.run();
    let got = play.client.got();
    assert!(got.contains("\r\n\r\nHTTP/1.1 403 Forbidden\r\n"), "{}", got.len());
    // The same with nothing behind it but the end.
    let mut play = sent(UPGRADE);
    play.server().sends("HTTP/1.1 103 Early Hints\r\n\r\n");
    play.server().ends();
    play.run();
    let got = play.client.got();
    assert!(got.starts_with("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 502 Bad Gateway\r\n"), "{got}");
}

#[test]
fn a_server_is_not_read_while_its_interim_response_waits_for_the_client() {
    let mut play = sent(UPGRADE);
    play.client.is_full();
    play.server().sends("HTTP/1.1 103 Early Hints\r\n\r\n");
    play.run();
    play.server().sends(AGREEMENT);
    assert_eq!(play.run(), Rest::Parked);
    assert_eq!(play.server().wire().arrived.len(), AGREEMENT.len());
    play.client.takes(PLENTY);
    play.run();
    assert_eq!(play.client.got(), format!("HTTP/1.1 103 Early Hints\r\n\r\n{AGREEMENT}"));
}

/// Our own answer used to be written into the middle of an interim response that the client had taken a part of.
#[test]
fn our_own_answer_comes_behind_an_interim_response_and_not_into_it() {
    let mut play = sent("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    play.client.is_full();
    play.client.takes(10);
    play.server().sends("HTTP/1.1 103 Early Hints\r\n\r\n");
    play.run();
    play.client.sends("no chunk");
    play.run();
    play.client.takes(PLENTY);
    play.run();
    let got = play.client.got();
    assert!(got.starts_with("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 400 "), "{got}");
}

/// A client that takes no interim response used to have its server blamed for the silence, and taken out.
#[test]
fn a_client_that_takes_no_interim_response_is_not_its_server_s_fault() {
    let mut play = sent(UPGRADE);
    play.client.is_full();
    play.server().sends("HTTP/1.1 103 Early Hints\r\n\r\n");
    play.run();
    play.wait_ms(60_000);
    assert_eq!((play.rest, play.outcome()), (Rest::Over, "adit stalled".into()));
    assert!(!play.setup.record(BackendId { pool: PoolId(0), index: 0 }).is_out(&play.setup.plan.pools[0]));
    check_given_back(&mut play);
}

#[test]
fn a_client_over_its_number_is_refused() {
    let mut play = Play::accepted(CONFIG);
    let address = std::net::IpAddr::from(super::super::script::CLIENT.0);
    assert!(play.tools.addresses.admit(address, 1));
    play.run();
    assert!(play.client.got().starts_with("HTTP/1.1 429 "));
    play.client.ends();
    assert_eq!(play.run(), Rest::Over);
    assert!(
        !play.tools.addresses.admit(address, 1),
        "the other session's place is not given back by this one"
    );
}

#[test]
fn a_request_is_refused_before_anybody_is_dialed() {
    let large = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(100));
    for (request, status, rule) in [
        ("GET / HTTP/1.1\r\n\r\n", 400, "Host is missing"),
        ("GET / HTTP/1.1\n", 400, "an LF without CR in the head"),
        ("PRI * HTTP/2.0\r\n\r\n", 505, "only HTTP/1.0 and HTTP/1.1 are spoken here"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "CONNECT is not served here"),
        (&large, 431, "the request head is too large"),
        (&many, 431, "the request has too many header fields"),
    ] {
        let mut play = sent(request);
        assert!(play.dialed.is_empty(), "{rule}");
        check_refused(&mut play, status, rule);
    }
}

#[test]
fn a_head_request_is_refused_without_a_body() {
    let config = CONFIG.replace("upstream = \"u\"\n", "[[listener.route]]\nhost = \"b\"\nupstream = \"u\"\n");
    let play = sent_with(&config, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", []);
    let answer = play.client.got();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

fn tcp() -> String {
    CONFIG.replace("upstream = \"u\"\n", "upstream = \"u\"\nprotocol = \"tcp\"\n")
}

#[test]
fn a_tcp_session_is_a_tunnel_as_soon_as_it_is_connected() {
    let mut play = Play::accepted(&tcp());
    play.dials.extend([Dial::Fails, Dial::Hangs]);
    play.client.sends("hello");
    play.run();
    assert_eq!(play.dialed, [0, 1]);
    assert!(!play.session.is_tunnel());
    play.wait_ms(5_000);
    assert_eq!(play.dialed, [0, 1, 2]);
    assert!(play.session.is_tunnel());
    assert_eq!(play.server().got(), "hello");
    play.client.ends();
    play.server().ends();
    play.run();
    assert_eq!(play.told(&["bytes_up", "bytes_down", "outcome"]), "5 0 finished");
    check_given_back(&mut play);
}

#[test]
fn a_tcp_session_without_a_server_is_closed_without_a_word() {
    let mut play = sent_with(&tcp(), "hello", [Dial::Fails, Dial::Fails, Dial::Fails]);
    assert_eq!((play.rest, play.client.got()), (Rest::Over, String::new()));
    assert_eq!(play.outcome(), "adit no server could be reached");
    check_given_back(&mut play);
}

#[test]
fn a_proxy_header_is_required_in_however_many_pieces() {
    let listener = "proxy_protocol = \"any\"\nupstream = \"u\"\n";
    for config in [CONFIG.to_owned(), tcp()] {
        let config = config.replacen("upstream = \"u\"\n", listener, 1) + "\nproxy_protocol = \"v1\"";
        let mut play = Play::accepted(&config);
        let header = "PROXY TCP4 192.0.2.1 203.0.113.9 40000 443\r\n";
        for byte in header.bytes() {
            assert!(play.dialed.is_empty());
            play.client.sends([byte]);
            play.run();
        }
        play.client.sends(UPGRADE);
        play.run();
        let got = play.server().got();
        assert!(got.starts_with(header), "{got}");
        assert!(got[header.len()..].starts_with("GET /chat "), "{got}");

        let mut play = sent_with(&config, UPGRADE, []);
        assert_eq!((play.rest, play.client.got()), (Rest::Over, String::new()));
        assert_eq!(play.outcome(), "adit no PROXY protocol header");
        check_given_back(&mut play);

        let mut play = sent_with(&config, "PROXY", []);
        play.wait_ms(10_000);
        assert_eq!((play.rest, play.client.got()), (Rest::Over, String::new()));
        check_given_back(&mut play);
    }
}

/// A PROXY header may be longer than a head, and what comes along with one is read before it is known to be a head.
#[test]
fn a_head_behind_a_proxy_header_has_the_limit_of_any_head() {
    let config = CONFIG.replace("[limits]", "[limits]\nmax_header_bytes = 512").replacen(
        "upstream = \"u\"\n",
        "proxy_protocol = \"any\"\nupstream = \"u\"\n",
        1,
    );
    let behind_header = |head_bytes: usize| {
        let front = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        let head = format!("{front}{}\r\n\r\n", "x".repeat(head_bytes - front.len() - 4));
        sent_with(&config, &format!("PROXY TCP4 192.0.2.1 203.0.113.9 40000 443\r\n{head}"), [])
    };
    assert!(is_asked(&behind_header(512)));
    check_refused(&mut behind_header(513), 431, "the request head is too large");
}

/// A server that answers before it has the whole request used to get the body behind the part of the head that it
/// had: whoever sent the body wrote the rest of the head.
#[test]
fn a_body_never_follows_a_head_that_was_cut_short() {
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbegun";
    let mut play = sent_with(CONFIG, request, [Dial::Hangs]);
    play.server().is_full();
    play.server().takes(10);
    play.server().connects();
    play.run();
    play.server().sends("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nn");
    play.run();
    play.client.sends(" and more");
    play.server().takes(PLENTY);
    play.run();
    assert_eq!(play.server().got(), "POST / HTT");
    play.server().sends("o");
    play.run();
    assert!(play.client.got().ends_with("\r\n\r\nno"));
}

#[test]
fn a_tunnel_never_opens_behind_a_head_that_was_cut_short() {
    let mut play = sent_with(CONFIG, &format!("{UPGRADE}early"), [Dial::Hangs]);
    play.server().is_full();
    play.server().takes(10);
    play.server().connects();
    play.run();
    play.server().sends(AGREEMENT);
    play.run();
    play.server().takes(PLENTY);
    play.run();
    assert_eq!(play.server().got(), "GET /chat ");
    check_refused(&mut play, 502, "the server switched protocols before it had the request");
}

/// A proxy that was reached by IPv6 writes its IPv4 clients as IPv6 addresses, and a server was told those.
#[test]
fn an_ipv4_client_in_a_header_of_ipv6_is_an_ipv4_client() {
    let config = CONFIG.replacen("upstream = \"u\"\n", "proxy_protocol = \"v1\"\nupstream = \"u\"\n", 1);
    let mut play =
        sent_with(&config, &format!("PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 40000 443\r\n{GET}"), []);
    let got = play.server().got();
    assert!(got.contains("\r\nX-Forwarded-For: 192.0.2.7\r\n"), "{got}");
    assert!(got.contains("\r\nX-Real-IP: 192.0.2.7\r\n"), "{got}");
    play.client.resets();
    play.run();
    assert_eq!(play.told(&["client"]), "192.0.2.7:40000");
}
