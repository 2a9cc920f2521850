//! What we ask of the kernel beyond reading and writing. The only place for `unsafe` and libc.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

/// Receives up to so many bytes and drops them in the kernel: `MSG_TRUNC` on TCP (tcp(7)) copies nothing.
pub fn discard(socket: &impl AsFd, bytes: usize) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: with MSG_TRUNC a TCP socket writes nothing to the buffer (tcp(7)), and a null pointer could not be
    // written to.
    count(unsafe { libc::recv(fd, ptr::null_mut(), bytes, libc::MSG_TRUNC) })
}

/// A pipe with room for about so many bytes, neither end of which waits.
pub fn pipe(bytes: i32) -> io::Result<[OwnedFd; 2]> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two numbers that the call writes.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are open, and nobody else knows of them yet.
    let ends = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: takes a descriptor that is open and a number. A smaller pipe than asked for is a pipe as well.
    unsafe { libc::fcntl(ends[1].as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
    Ok(ends)
}

/// Moves up to so many bytes between a socket and a pipe, in either order, without waiting.
pub fn splice(from: &impl AsFd, to: &impl AsFd, bytes: usize) -> io::Result<usize> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    // SAFETY: both descriptors are open for as long as they are borrowed, and no offsets are passed.
    count(unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), bytes, flags) })
}

/// An alarm for an event loop, to the microsecond: epoll_wait(2) by itself counts in milliseconds.
pub struct Alarm(OwnedFd);

impl Alarm {
    pub fn new() -> io::Result<Alarm> {
        // SAFETY: takes no pointers.
        let fd =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is open, and nobody else knows of it yet.
        Ok(Alarm(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes it readable after this time, once. It need not be read: setting it anew is enough for an edge.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // A time of zero would turn it off.
        let after = after.max(Duration::from_nanos(1));
        let value =
            libc::timespec { tv_sec: after.as_secs() as i64, tv_nsec: i64::from(after.subsec_nanos()) };
        let when = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: `when` lives longer than the call, which only reads it.
        match unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &when, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Leaves the choice of the port to connect(2), which knows the destination: a bound address then has as many ports as
/// one that is not bound (ip(7), `IP_BIND_ADDRESS_NO_PORT`).
pub fn choose_port_late(socket: &impl AsFd) -> io::Result<()> {
    let yes: libc::c_int = 1;
    // SAFETY: `yes` lives longer than the call, which reads as many bytes of it as it has.
    let set = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            ptr::from_ref(&yes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether connect(2) has begun and will end by an event.
pub fn is_in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS)
}

/// Raises the soft limit of descriptors to the hard one (getrlimit(2)).
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that lives longer than the call, which writes nothing else.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the same, and the call only reads it.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn count(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}
