//! A pipe that carries bytes from one socket to another without a copy (splice(2)). What goes through it is the
//! kernel's own: a page that arrived is sent on as it is.
//!
//! Where this is not built in (no Linux, or without the feature `splice`) there is no pipe to be had, and a type that
//! has no values says so: what would use one compiles the same, and never runs.

use std::io;

#[cfg(all(feature = "splice", any(target_os = "linux", target_os = "android")))]
pub use kernel::Pipe;
#[cfg(not(all(feature = "splice", any(target_os = "linux", target_os = "android"))))]
pub use nowhere::Pipe;

/// Whether there may be a pipe to be had.
pub const IS_BUILT_IN: bool = cfg!(all(feature = "splice", any(target_os = "linux", target_os = "android")));

/// Whether an error says that splicing is not to be had here, whatever the sockets: an old kernel, a filter of system
/// calls (seccomp(2)), or a kind of socket that knows nothing of it.
pub fn is_refused(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(code) => [libc::ENOSYS, libc::EPERM, libc::EACCES, libc::EINVAL].contains(&code),
        None => false,
    }
}

#[cfg(all(feature = "splice", any(target_os = "linux", target_os = "android")))]
mod kernel {
    use std::io;
    use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
    use std::ptr;

    /// Room that a pipe is asked to have: 64 slots of a page. More gains nothing (256 KiB is within a few percent of
    /// 1 MiB), and an unprivileged user may have 256 pipes of this size (`pipe-user-pages-soft`, pipe(7)).
    const ROOM_BYTES: libc::c_int = 256 * 1024;

    /// With less room than this a copy through a buffer is as good. It is what a pipe has that is not asked for more;
    /// the kernel makes them smaller when a user has too many.
    const ROOM_BYTES_MIN: libc::c_int = 64 * 1024;

    /// The most that is asked of the kernel at once. It may be more than the pipe's room, which is counted in slots: a
    /// slot takes a piece of a socket's buffer whole, of up to 32 KiB. The loop's own budget is less.
    const LENGTH_MAX: usize = 1 << 20;

    /// A pipe, and how much is in it.
    #[derive(Debug)]
    pub struct Pipe {
        reader: OwnedFd,
        writer: OwnedFd,
        held: usize,
    }

    impl Pipe {
        /// A pipe, empty. There is none to be had where the descriptors or the pages are used up, and none where the
        /// process would die of one: unlike a write, a splice into a socket that is no more raises SIGPIPE.
        pub fn open() -> io::Result<Pipe> {
            if sigpipe_kills()? {
                return Err(io::ErrorKind::Unsupported.into());
            }
            let mut ends = [-1; 2];
            // SAFETY: `ends` has room for the two numbers that are written, and lives longer than the call.
            if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } != 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the call has succeeded, so these are open descriptors that belong to nobody else.
            let [reader, writer] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
            // SAFETY: `writer` is open, and both commands take and give numbers. What the first says does not matter:
            // where there is no more room to be had, what there is may do.
            let room = unsafe {
                libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, ROOM_BYTES);
                libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ)
            };
            if room < ROOM_BYTES_MIN {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            Ok(Pipe { reader, writer, held: 0 })
        }

        /// How many bytes are in it.
        pub fn held(&self) -> usize {
            self.held
        }

        /// Takes bytes from a socket, at most `max`; 0 where the socket says that no more will come. Fewer than asked
        /// for say nothing: a slot may be taken by a single byte. `WouldBlock`: there are none, or the pipe is full.
        pub fn fill_from(&mut self, source: &impl AsFd, max: usize) -> io::Result<usize> {
            let moved = splice(source, &self.writer, max.min(LENGTH_MAX))?;
            self.held += moved;
            Ok(moved)
        }

        /// Gives bytes to a socket, as many as it takes. Fewer than there are say nothing, as a signal may cut it
        /// short. There must be some.
        pub fn flush_to(&mut self, sink: &impl AsFd) -> io::Result<usize> {
            let moved = splice(&self.reader, sink, self.held)?;
            self.held -= moved;
            Ok(moved)
        }
    }

    /// As splice(2), without waiting at the pipe; the sockets are non-blocking themselves.
    fn splice(from: &impl AsFd, to: &impl AsFd, length: usize) -> io::Result<usize> {
        let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
        let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
        // SAFETY: both descriptors are open as long as they are borrowed, and no memory of ours is named.
        let moved = unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), length, flags) };
        usize::try_from(moved).map_err(|_| io::Error::last_os_error())
    }

    /// Whether a SIGPIPE would end the process. Rust's own start-up turns it off; a host may have turned it on.
    fn sigpipe_kills() -> io::Result<bool> {
        // SAFETY: a sigaction is numbers, an address among them, all of which may be zero.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: `action` lives longer than the call, which writes nothing else and, without a new action, sets
        // nothing.
        if unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), &mut action) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(action.sa_sigaction == libc::SIG_DFL)
    }

    /// For sockets that play a script: what they have goes through the pipe as well.
    #[cfg(test)]
    impl Pipe {
        /// Puts bytes in, as many as there is room for.
        pub fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // SAFETY: `bytes` may be read as far as it reaches, and `writer` is open.
            let put = unsafe { libc::write(self.writer.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
            let put = usize::try_from(put).map_err(|_| io::Error::last_os_error())?;
            self.held += put;
            Ok(put)
        }

        /// Takes so many bytes out, which are there.
        pub fn take(&mut self, count: usize) -> Vec<u8> {
            let mut bytes = vec![0; count];
            // SAFETY: `bytes` may be written as far as it reaches, and `reader` is open.
            let taken = unsafe { libc::read(self.reader.as_raw_fd(), bytes.as_mut_ptr().cast(), count) };
            assert_eq!(taken, count as isize, "the bytes that were put in are there");
            self.held -= count;
            bytes
        }
    }

    #[cfg(test)]
    mod tests {
        use std::io::{ErrorKind, Read, Write};
        use std::net::{TcpListener, TcpStream};
        use std::time::Duration;

        use super::*;

        /// Two ends of a TCP connection: ours does not wait, the peer does, within bounds.
        fn pair() -> (TcpStream, TcpStream) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (near, _) = listener.accept().unwrap();
            near.set_nonblocking(true).unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            (near, peer)
        }

        /// Bytes that a peer has sent arrive a moment later.
        fn fill(pipe: &mut Pipe, near: &TcpStream, max: usize) -> io::Result<usize> {
            loop {
                match pipe.fill_from(near, max) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                    filled => return filled,
                }
            }
        }

        #[test]
        fn bytes_pass_from_socket_to_socket_and_are_counted_meanwhile() {
            let ((source, mut from), (sink, mut to)) = (pair(), pair());
            let mut pipe = Pipe::open().unwrap();
            assert_eq!(pipe.fill_from(&source, 100).unwrap_err().kind(), ErrorKind::WouldBlock);
            from.write_all(b"hello").unwrap();
            assert_eq!((fill(&mut pipe, &source, 3).unwrap(), pipe.held()), (3, 3));
            assert_eq!((fill(&mut pipe, &source, 100).unwrap(), pipe.held()), (2, 5));
            assert_eq!((pipe.flush_to(&sink).unwrap(), pipe.held()), (5, 0));
            let mut got = [0; 5];
            to.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"hello");
            drop(from);
            assert_eq!(fill(&mut pipe, &source, 100).unwrap(), 0, "the end");
        }

        #[test]
        fn a_sink_takes_what_it_has_room_for_and_the_pipe_keeps_the_rest() {
            let ((source, mut from), (sink, mut to)) = (pair(), pair());
            let mut pipe = Pipe::open().unwrap();
            let sender = std::thread::spawn(move || {
                from.write_all(&vec![b'x'; 32 << 20]).unwrap();
            });
            let mut moved = 0;
            loop {
                while pipe.held() > 0 {
                    match pipe.flush_to(&sink) {
                        Ok(count) => moved += count,
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::WouldBlock);
                            let mut buffer = vec![0; 1 << 20];
                            moved -= to.read(&mut buffer).unwrap();
                        }
                    }
                }
                match fill(&mut pipe, &source, usize::MAX).unwrap() {
                    0 => break,
                    count => assert!(count <= LENGTH_MAX && pipe.held() == count),
                }
            }
            sender.join().unwrap();
            drop(sink);
            assert_eq!(to.read_to_end(&mut Vec::new()).unwrap(), moved);
        }

        /// What `engine` relies on: at urgent data there is nothing, or the end if that stands behind, though bytes do.
        #[test]
        fn a_splice_gets_no_further_than_urgent_data() {
            let (source, mut from) = pair();
            let mut pipe = Pipe::open().unwrap();
            from.write_all(b"abc").unwrap();
            socket2::SockRef::from(&from).send_out_of_band(b"!").unwrap();
            from.write_all(b"def").unwrap();
            let mut spliced = 0;
            while spliced < 3 {
                spliced += fill(&mut pipe, &source, 100).unwrap();
            }
            assert_eq!(spliced, 3);
            assert_eq!(pipe.fill_from(&source, 100).unwrap_err().kind(), ErrorKind::WouldBlock);
            from.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(fill(&mut pipe, &source, 100).unwrap(), 0);
            let mut rest = Vec::new();
            (&source).read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"def");
        }

        #[test]
        fn a_sink_that_is_no_more_is_an_error_and_no_signal() {
            let ((source, mut from), (sink, to)) = (pair(), pair());
            let mut pipe = Pipe::open().unwrap();
            socket2::SockRef::from(&to).set_linger(Some(Duration::ZERO)).unwrap();
            drop(to);
            let error = loop {
                from.write_all(b"x").unwrap();
                fill(&mut pipe, &source, 1).unwrap();
                if let Err(error) = pipe.flush_to(&sink) {
                    break error;
                }
            };
            assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()), "{error}");
            assert_eq!(pipe.flush_to(&sink).unwrap_err().kind(), ErrorKind::BrokenPipe);
        }
    }
}

#[cfg(not(all(feature = "splice", any(target_os = "linux", target_os = "android"))))]
mod nowhere {
    use std::io;
    use std::os::fd::AsFd;

    /// A pipe that nobody can have.
    #[derive(Debug)]
    pub enum Pipe {}

    impl Pipe {
        /// There is none.
        pub fn open() -> io::Result<Pipe> {
            Err(io::ErrorKind::Unsupported.into())
        }

        /// How many bytes are in it.
        pub fn held(&self) -> usize {
            match *self {}
        }

        /// Takes bytes from a socket.
        pub fn fill_from(&mut self, _source: &impl AsFd, _max: usize) -> io::Result<usize> {
            match *self {}
        }

        /// Gives bytes to a socket.
        pub fn flush_to(&mut self, _sink: &impl AsFd) -> io::Result<usize> {
            match *self {}
        }

        /// Puts bytes in.
        #[cfg(test)]
        pub fn put(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            match *self {}
        }

        /// Takes bytes out.
        #[cfg(test)]
        pub fn take(&mut self, _count: usize) -> Vec<u8> {
            match *self {}
        }
    }
}
