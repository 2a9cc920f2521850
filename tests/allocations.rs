//! Nothing is allocated for a message: this test binary's allocator counts what the proxy asks of it.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use adit::{Address, Config, Proxy, Status};
use common::{Backend, Client, WAIT};

thread_local! {
    /// Allocations of this thread.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counted.
struct Counting;

impl Counting {
    fn count() {
        // A thread that is about to end has no count any more, and allocates for nobody here.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: everything is passed on to the system's allocator as it came. Counting allocates nothing: the count is a
// plain number in a thread-local that needs neither a constructor nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::count();
        // SAFETY: the caller's promises are those that the system's allocator wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Counting::count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        Counting::count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A proxy that has its turns in this thread, and what they have allocated.
struct Counted {
    proxy: Proxy,
    allocations: u64,
}

impl Counted {
    fn turn(&mut self) {
        let before = ALLOCATIONS.get();
        let status = self.proxy.turn(Some(Duration::from_millis(10))).expect("the poll works");
        self.allocations += ALLOCATIONS.get() - before;
        assert_eq!(status, Status::Running);
    }

    fn turn_until(&mut self, mut done: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !done() {
            self.turn();
            assert!(begin.elapsed() < WAIT, "it takes too long");
        }
    }

    fn address(&self) -> std::net::SocketAddr {
        match self.proxy.local_addrs()[0] {
            Address::Tcp(address) => address,
            Address::Unix(_) | Address::Inherited(_) => unreachable!("it listens on TCP"),
        }
    }

    /// Passes a message from one end to the other.
    fn pass(&mut self, from: &mut Client, to: &mut Client, message: &[u8]) {
        from.send(message);
        let mut socket = to.stream.get_ref();
        let (mut got, mut buffer) = (0, [0; 1024]);
        socket.set_nonblocking(true).unwrap();
        self.turn_until(|| {
            match socket.read(&mut buffer[got..]) {
                Ok(count) => got += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            got == message.len()
        });
        socket.set_nonblocking(false).unwrap();
        assert_eq!(&buffer[..got], message);
    }
}

/// With a limit on all that has one, with the log on and with other tunnels beside.
#[test]
fn a_message_through_an_open_tunnel_allocates_nothing() {
    let server = Backend::new();
    let config = format!(
        "[timeouts]\nidle = \"1h\"\nlifetime = \"2h\"\n[limits]\nmax_connections_per_ip = 100\n\
         [[listener]]\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nupstream = \"u\"\n\
         [upstream.u]\nservers = [\"{}\"]\n",
        server.address()
    );
    let proxy = Proxy::bind(Config::from_toml(&config).unwrap().check().unwrap()).unwrap();
    let mut counted = Counted { proxy, allocations: 0 };
    let (lines, log) = channel();
    counted.proxy.set_access_log(move |line| drop(lines.send(line.to_vec())));
    let handle = counted.proxy.handle();

    let mut tunnels: Vec<(Client, Client)> = Vec::new();
    for opened in 1..=5 {
        let client = Client::connect(counted.address());
        counted.turn_until(|| handle.stats().tunnels_open == opened);
        tunnels.push((client, server.accept()));
    }
    let mut echo = |counted: &mut Counted, rounds| {
        for round in 0..rounds {
            let message = format!("message {round}");
            for (client, end) in &mut tunnels {
                counted.pass(client, end, message.as_bytes());
                counted.pass(end, client, message.as_bytes());
            }
        }
    };
    echo(&mut counted, 10); // queues find their length
    assert!(counted.allocations > 0, "opening is counted");
    counted.allocations = 0;
    echo(&mut counted, 200);
    assert_eq!(counted.allocations, 0, "for 2,000 messages");
    assert_eq!(log.try_iter().count(), 5);
}
