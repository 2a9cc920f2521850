//! A host program in which SIGPIPE ends the process, as in most that are not written in Rust. A splice into a socket
//! that is no more would raise it, so there is none. A file of its own: what a signal does is the whole process's
//! affair.

mod common;

use std::io::Read;

use common::{Backend, start_tcp};

#[test]
fn a_host_that_dies_of_sigpipe_does_not_die_of_a_peer_that_resets_in_bulk() {
    // SAFETY: the default action is no code of ours, and nothing else in this process relies on another.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let backend = Backend::new();
    let proxy = start_tcp(&backend.address(), "");
    for _ in 0..20 {
        let (mut client, mut server) = (proxy.client(), backend.accept());
        let writer = std::thread::spawn(move || while client.try_send(vec![b'x'; 1 << 20]).is_ok() {});
        let mut buffer = vec![0; 100_000];
        let mut carried = 0;
        while carried < 4 << 20 {
            carried += server.stream.get_mut().read(&mut buffer).expect("read");
        }
        server.reset();
        writer.join().expect("the writer hears of it");
        let line = proxy.closed_line();
        assert!(line.ends_with(" outcome=reset ended_by=server"), "{line}");
    }
    assert_eq!(proxy.handle.stats().bytes_spliced, 0);
}
