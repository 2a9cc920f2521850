//! What the process uses, for operators.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// What the process uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Of the processor, by all threads since the start, for us and in the kernel.
    pub processor_time: Duration,
    /// Memory that is resident, where the kernel says.
    pub resident_bytes: Option<u64>,
}

/// What the process uses (getrusage(2); proc_pid_statm(5)).
pub fn usage() -> Usage {
    let statm = fs::read_to_string("/proc/self/statm").ok();
    let pages = statm.and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok());
    // SAFETY: sysconf has no preconditions.
    let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    // SAFETY: a `rusage` is numbers, for which zeros are values.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a `rusage` to `usage`, which is ours alone.
    let _ = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) }; // it fails for wrong arguments only
    let time = |time: libc::timeval| {
        let seconds = Duration::from_secs(time.tv_sec.try_into().unwrap_or_default());
        seconds + Duration::from_micros(time.tv_usec.try_into().unwrap_or_default())
    };
    Usage {
        processor_time: time(usage.ru_utime) + time(usage.ru_stime),
        resident_bytes: pages.map(|pages| pages * page_bytes),
    }
}

/// Descriptors in use, where the kernel has counted them (Linux 6.2): to go through them takes milliseconds where there
/// are many.
pub fn descriptors_in_use() -> Option<u64> {
    fs::metadata("/proc/self/fd").ok().map(|directory| directory.len()).filter(|&count| count > 0)
}

/// Descriptors that there may be.
pub fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes a `rlimit` to `limit`, which is ours alone.
    let _ = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }; // it fails for wrong arguments only
    limit.rlim_cur
}

/// A descriptor to give back when there is no other.
pub fn spare_descriptor() -> io::Result<OwnedFd> {
    fs::File::open("/dev/null").map(OwnedFd::from)
}
