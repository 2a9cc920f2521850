//! What we ask of the kernel beyond reading and writing: sockets with their options, the close that is a reset, the
//! descriptor limit. The only place for `unsafe` and libc; nothing of ours is known here.

#![allow(unsafe_code)]

mod libraries;
pub mod splice;
#[cfg(feature = "admin")]
pub mod usage;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

pub use libraries::unmap_library_code;

/// How the kernel is to find out that a TCP peer is gone without a word.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keepalive {
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// How long sent data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
}

impl Keepalive {
    /// Sets the options, up to four of them. Set on a listening socket they are inherited by what it accepts (tcp(7)),
    /// so an accepted socket costs no call.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        if let Some(time) = self.time {
            // Six probes in the time of the first wait. How many may go unanswered is the kernel's choice
            // (tcp_keepalive_probes, 9), unless there is a user timeout: then a silence of that length ends it.
            let interval = (time / 6).max(Duration::from_secs(1));
            let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        #[cfg(target_os = "linux")]
        if let Some(timeout) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        Ok(())
    }
}

impl Keepalive {
    /// As [`apply`](Keepalive::apply), to a socket that may have other options already.
    pub fn renew(&self, socket: &impl AsFd) -> io::Result<()> {
        SockRef::from(socket).set_keepalive(self.time.is_some())?;
        #[cfg(target_os = "linux")]
        SockRef::from(socket).set_tcp_user_timeout(Some(self.user_timeout.unwrap_or_default()))?; // 0: the system's
        self.apply(socket)
    }
}

/// Who else may listen on a TCP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody.
    Alone,
    /// Nobody yet; sockets of this process that [join](Sharing::Joins) later (socket(7), SO_REUSEPORT).
    Founds,
    /// It listens beside sockets that let it.
    Joins,
}

/// Binds and listens on a TCP address. An IPv6 address takes IPv6 clients only, so that `0.0.0.0` and `[::]` can stand
/// side by side with the same port.
pub fn listen_tcp(
    address: SocketAddr,
    backlog: u32,
    keepalive: &Keepalive,
    sharing: Sharing,
) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    // A tunnel's small messages must not wait for the acknowledgement of the last one. This too is inherited.
    socket.set_tcp_nodelay(true)?;
    keepalive.apply(&socket)?;
    if sharing == Sharing::Joins {
        share_port(&socket)?;
    }
    socket.bind(&address.into())?;
    // Only behind the bind, which thus fails where another process listens there, be it one that shares as we do.
    if sharing == Sharing::Founds {
        share_port(&socket)?;
    }
    listen_on(&socket, backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A listening socket that somebody else made.
#[derive(Debug)]
pub enum Listening {
    /// Over TCP.
    Tcp(TcpListener),
    /// A unix stream socket.
    Unix(UnixListener),
}

/// Takes a socket that listens already for one that was opened here: another descriptor of it, with the options that
/// [`listen_tcp`] sets. Its backlog is left to whoever made it.
pub fn listen_inherited(socket: &impl AsFd, keepalive: &Keepalive) -> io::Result<Listening> {
    let unfit = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why);
    let socket = socket.as_fd().try_clone_to_owned()?;
    let options = SockRef::from(&socket);
    let kind = options.r#type().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOTSOCK) => unfit("what was handed over is no socket"),
        Some(_) | None => error,
    })?;
    if kind != Type::STREAM {
        return Err(unfit("the socket that was handed over is no stream socket (ListenStream=)"));
    }
    if !options.is_listener()? {
        return Err(unfit("the socket that was handed over does not listen (Accept=no)"));
    }
    let domain = options.local_addr()?.domain();
    let is_tcp = domain == Domain::IPV4 || domain == Domain::IPV6;
    if is_tcp {
        // What is no TCP has no such option.
        options.set_tcp_nodelay(true)?;
        keepalive.renew(&socket)?;
    } else if domain != Domain::UNIX {
        return Err(unfit("the socket that was handed over is neither TCP nor a unix socket"));
    }
    // For everybody who has it, which is as it should be: who waits for clients by accept(2) would take them from us.
    options.set_nonblocking(true)?;
    Ok(if is_tcp { Listening::Tcp(socket.into()) } else { Listening::Unix(socket.into()) })
}

/// Lets other sockets of this process listen on the same port from now on, also where this one listens already.
pub fn share_port(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_reuse_port(true)
}

/// Listens with this backlog, or changes the backlog of a socket that listens already (which listen(2) does not say,
/// but Linux does: it keeps who waits).
pub fn listen_on(socket: &impl AsFd, backlog: u32) -> io::Result<()> {
    SockRef::from(socket).listen(backlog.try_into().unwrap_or(i32::MAX))
}

/// Binds and listens on a unix socket's path. A socket file that nobody listens on any more is replaced; anything
/// else at that path is left alone.
/// A file mode, where there is one, is there before anybody can connect.
pub fn listen_unix(path: &Path, backlog: u32, mode: Option<u32>) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    if let Some(mode) = mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    listen_on(&socket, backlog)?;
    socket.set_nonblocking(true)?;
    Ok(OwnedFd::from(socket).into())
}

fn is_abandoned(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && connect_unix(path).is_err_and(refused)
}

/// Begins to connect to a TCP address. The socket is writable when that has ended, well or badly.
pub fn dial_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = stream_socket(Domain::for_address(address))?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// Connects to a unix socket, which is done at once or not at all.
pub fn dial_unix(path: &Path) -> io::Result<UnixStream> {
    match connect_unix(path) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
        connected => connected,
    }
}

/// Connects without waiting. `EAGAIN`: somebody listens there, whose backlog is full.
fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let socket = stream_socket(Domain::UNIX)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// A stream socket that does not wait, made in one call where the kernel can (socket(2), SOCK_NONBLOCK).
fn stream_socket(domain: Domain) -> io::Result<Socket> {
    #[cfg(target_os = "linux")]
    return Socket::new(domain, Type::STREAM.nonblocking(), None);
    #[cfg(not(target_os = "linux"))]
    {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// As recv(2).
pub fn recv(socket: &impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `into.len()` bytes to `into`, which is ours alone, and no address.
    let count = unsafe { uncancelled::recv(socket, into.as_mut_ptr(), into.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// As send(2), without a signal where nobody reads any more.
pub fn send(socket: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads at most `bytes.len()` bytes from `bytes`, which outlive the call, and no address.
    let count = unsafe { uncancelled::send(socket, bytes.as_ptr(), bytes.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Calls past the C library, whose own are points where a thread can be cancelled: 50 instructions each in a process
/// with threads, and two of them are nearly all that a message costs.
#[cfg(target_os = "linux")]
mod uncancelled {
    use libc::{MSG_NOSIGNAL, SYS_recvfrom, SYS_sendto, c_int, c_long, syscall};
    use std::ptr::null;

    /// As recv(2): `into` must be valid for writes of `length` bytes.
    pub unsafe fn recv(socket: c_int, into: *mut u8, length: usize) -> c_long {
        // SAFETY: the caller's; there is no address to be written.
        unsafe { syscall(SYS_recvfrom, socket, into, length, 0, null::<u8>(), null::<u8>()) }
    }

    /// As send(2): `bytes` must be valid for reads of `length` bytes.
    pub unsafe fn send(socket: c_int, bytes: *const u8, length: usize) -> c_long {
        // SAFETY: the caller's; there is no address to be read.
        unsafe { syscall(SYS_sendto, socket, bytes, length, MSG_NOSIGNAL, null::<u8>(), 0) }
    }
}

#[cfg(not(target_os = "linux"))]
mod uncancelled {
    use libc::{MSG_NOSIGNAL, c_int, ssize_t};

    /// As recv(2): `into` must be valid for writes of `length` bytes.
    pub unsafe fn recv(socket: c_int, into: *mut u8, length: usize) -> ssize_t {
        // SAFETY: the caller's.
        unsafe { libc::recv(socket, into.cast(), length, 0) }
    }

    /// As send(2): `bytes` must be valid for reads of `length` bytes.
    pub unsafe fn send(socket: c_int, bytes: *const u8, length: usize) -> ssize_t {
        // SAFETY: the caller's.
        unsafe { libc::send(socket, bytes.cast(), length, MSG_NOSIGNAL) }
    }
}

/// As read(2) from a unix stream socket, which ends behind bytes that descriptors came along with though more may be
/// there (unix(7)): this reads on, so that here too a short read has emptied the socket. The descriptors are nobody's.
pub fn recv_unix(socket: &impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    loop {
        match recv_message(socket, &mut into[filled..]) {
            Ok((count, came_with_more)) => {
                filled += count;
                if !came_with_more || count == 0 || filled == into.len() {
                    return Ok(filled);
                }
            }
            // Mostly that there is nothing more. A reset is the one error that is not told again: then it is an end.
            Err(_) if filled > 0 => return Ok(filled),
            Err(error) => return Err(error),
        }
    }
}

/// Reads once, and says whether something came along that there was no room for.
fn recv_message(socket: &impl AsFd, into: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut bytes = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: a msghdr is numbers and pointers, all of which may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&mut bytes, 1);
    // SAFETY: `message` has one iovec, that of `into`, and both live longer than the call, which writes to them alone.
    let count = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &mut message, 0) };
    match usize::try_from(count) {
        Ok(count) => Ok((count, message.msg_flags & libc::MSG_CTRUNC != 0)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Makes the close that follows a reset: what is still unsent is dropped, and the peer is told (`SO_LINGER` of 0,
/// socket(7)).
pub fn make_close_a_reset(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// Whether an error says that this process or machine has run out of what sockets are made of, so that neither the
/// peer nor the address is to blame. `EADDRNOTAVAIL` does not say so: no address or port of ours is left for this one
/// destination (connect(2)), and others may be reached as ever.
pub fn is_exhaustion(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(code) => [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM].contains(&code),
        None => false,
    }
}

/// Descriptors that the process was started with, so many from 3 on (sd_listen_fds(3)): for each another one, as nobody
/// here can know who else has the first.
pub fn passed_descriptors(count: u16) -> io::Result<Vec<OwnedFd>> {
    const FIRST: libc::c_int = 3; // behind the standard ones
    let passed = || (FIRST..).take(count.into());
    // All of them are looked for before the first duplicate, which would pass for one that is missing.
    for number in passed() {
        // SAFETY: it takes numbers, and changes nothing.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let duplicate = |number| {
        // SAFETY: it takes numbers, and makes a new descriptor.
        let descriptor = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, FIRST) };
        match descriptor {
            // SAFETY: it has just been made, and is nobody else's.
            0.. => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
            _ => Err(io::Error::last_os_error()),
        }
    };
    passed().map(duplicate).collect()
}

/// Raises the soft limit of descriptors to the hard one (getrlimit(2)) and says how many there are.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that lives longer than the call, which writes nothing else.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: `raised` is a valid rlimit that lives longer than the call, which only reads it.
    if limit.rlim_cur < limit.rlim_max && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(raised.rlim_cur)
}
