//! A WebSocket library that is not ours at both ends of the proxy: what one end says, the other end hears, over an http
//! listener and over a tcp one.

#![allow(clippy::result_large_err)] // tungstenite's callbacks

mod common;

use std::net::TcpStream;
use std::thread;

use common::{Backend, Running, WAIT, start_http, start_tcp};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Error, Message, WebSocket};

type Socket = WebSocket<TcpStream>;

/// More than all buffers on the way, the kernel's included.
const LARGE_BYTES: usize = 12 << 20;

/// A socket whose waits have a bound.
fn bounded(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.set_write_timeout(Some(WAIT)).unwrap();
    stream
}

fn dial(proxy: &Running) -> TcpStream {
    bounded(TcpStream::connect_timeout(&proxy.address(), WAIT).expect("connected"))
}

fn accept(backend: &Backend) -> TcpStream {
    bounded(backend.accept().stream.into_inner())
}

/// Both ends of a new tunnel: the client's and the server's. Each handshake waits for the other.
fn open(proxy: &Running, backend: &Backend) -> (Socket, Socket) {
    thread::scope(|scope| {
        let server = scope.spawn(|| tungstenite::accept(accept(backend)).expect("the server agrees"));
        let url = format!("ws://{}/chat?room=1", proxy.address());
        let (client, _) = tungstenite::client(url, dial(proxy)).expect("the client is content");
        (client, server.join().unwrap())
    })
}

/// An http listener and a tcp one, each in front of its server.
fn both(check: impl Fn(&Running, &Backend)) {
    for start in [start_http, start_tcp] {
        let backend = Backend::new();
        let proxy = start(&backend.address(), "");
        check(&proxy, &backend);
        proxy.await_empty();
    }
}

fn check_heard(from: &mut Socket, to: &mut Socket, message: Message) {
    from.send(message.clone()).unwrap();
    assert_eq!(to.read().unwrap(), message);
}

/// Takes and answers the close that comes next, and waits for the clean end behind it; the close's frame.
fn farewell(mut socket: Socket) -> CloseFrame {
    let frame = match socket.read().unwrap() {
        Message::Close(Some(frame)) => frame,
        other => panic!("no close: {other}"),
    };
    assert!(matches!(socket.read(), Err(Error::ConnectionClosed)), "a clean end");
    frame
}

#[test]
fn messages_arrive_as_they_were_sent_both_ways() {
    both(|proxy, backend| {
        let (mut client, mut server) = open(proxy, backend);
        for message in [
            Message::text("Grüße"),
            Message::text(""),
            Message::binary((0..=255).collect::<Vec<u8>>()),
            Message::binary(vec![7; 70_000]),
        ] {
            check_heard(&mut client, &mut server, message.clone());
            check_heard(&mut server, &mut client, message);
        }
    });
}

#[test]
fn a_message_larger_than_all_buffers_arrives_whole() {
    both(|proxy, backend| {
        let (mut client, mut server) = open(proxy, backend);
        let large: Vec<u8> = (0..LARGE_BYTES).map(|at| (at % 251) as u8).collect();
        let check = |from: &mut Socket, to: &mut Socket| {
            thread::scope(|scope| {
                scope.spawn(|| from.send(Message::binary(large.clone())).unwrap());
                assert!(to.read().unwrap().into_data() == large, "the same bytes");
            });
        };
        check(&mut client, &mut server);
        check(&mut server, &mut client);
    });
}

#[test]
fn a_message_in_frames_arrives_whole_with_a_ping_between_them() {
    both(|proxy, backend| {
        let (mut client, mut server) = open(proxy, backend);
        let frame = |text: &str, code, is_final| {
            Message::Frame(Frame::message(text.as_bytes().to_vec(), OpCode::Data(code), is_final))
        };
        client.send(frame("one, ", Data::Text, false)).unwrap();
        client.send(Message::Ping("between".into())).unwrap();
        assert_eq!(server.read().unwrap(), Message::Ping("between".into()));
        server.flush().unwrap(); // the pong
        assert_eq!(client.read().unwrap(), Message::Pong("between".into()));
        client.send(frame("two", Data::Continue, true)).unwrap();
        assert_eq!(server.read().unwrap(), Message::text("one, two"));
    });
}

#[test]
fn a_close_passes_with_its_code_and_reason_and_both_ends_see_a_clean_end() {
    both(|proxy, backend| {
        for client_begins in [true, false] {
            let (mut client, mut server) = open(proxy, backend);
            let frame = CloseFrame { code: CloseCode::Library(4001), reason: "had enough".into() };
            let first = if client_begins { &mut client } else { &mut server };
            first.close(Some(frame.clone())).unwrap();
            // The server closes its socket when all is said, and the client waits for that.
            thread::scope(|scope| {
                let server = scope.spawn(|| farewell(server));
                assert_eq!(farewell(client), frame);
                assert_eq!(server.join().unwrap(), frame);
            });
        }
    });
}

#[test]
fn the_subprotocol_is_the_servers_choice_among_the_clients_offers() {
    both(|proxy, backend| {
        let choose = |request: &Request, mut response: Response| {
            assert_eq!(request.headers()["sec-websocket-protocol"], "chat.v1, chat.v2");
            assert_eq!(request.uri(), "/chat");
            response.headers_mut().insert("sec-websocket-protocol", "chat.v2".parse().unwrap());
            Ok(response)
        };
        thread::scope(|scope| {
            scope.spawn(|| tungstenite::accept_hdr(accept(backend), choose).expect("the server agrees"));
            let mut request = format!("ws://{}/chat", proxy.address()).into_client_request().unwrap();
            request.headers_mut().insert("sec-websocket-protocol", "chat.v1, chat.v2".parse().unwrap());
            let (_, response) = tungstenite::client(request, dial(proxy)).expect("the client is content");
            assert_eq!(response.headers()["sec-websocket-protocol"], "chat.v2");
        });
    });
}

#[test]
fn a_servers_refusal_reaches_the_client_with_its_body() {
    both(|proxy, backend| {
        let refuse = |_: &Request, _: Response| {
            let refusal = Response::builder().status(403).header("Content-Length", "13");
            Err::<Response, ErrorResponse>(refusal.body(Some("members only\n".into())).unwrap())
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                assert!(tungstenite::accept_hdr(accept(backend), refuse).is_err());
            });
            let url = format!("ws://{}/", proxy.address());
            match tungstenite::client(url, dial(proxy)) {
                Err(HandshakeError::Failure(Error::Http(response))) => {
                    assert_eq!(response.status(), 403);
                    assert_eq!(response.body().as_deref(), Some(&b"members only\n"[..]));
                }
                other => panic!("no refusal: {other:?}"),
            }
        });
    });
}
