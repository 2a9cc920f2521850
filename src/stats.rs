//! Counters of a worker: written by its loop when sessions begin and end, and where bulk passes, never for a
//! message; read by anybody.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counters, mostly written by one thread; a reader sees each of them as it was a moment ago.
#[derive(Debug, Default)]
pub struct Stats {
    accepted: AtomicU64,
    open: AtomicU64,
    tunnels_opened: AtomicU64,
    tunnels_open: AtomicU64,
    bytes_spliced: AtomicU64,
    panics: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Sessions since the start.
    pub accepted: u64,
    /// Sessions that are open now.
    pub open: u64,
    /// Tunnels since the start.
    pub tunnels_opened: u64,
    /// Tunnels that are open now.
    pub tunnels_open: u64,
    /// Bytes that were in bulk and passed through the kernel alone, by splice(2).
    pub bytes_spliced: u64,
    /// Sessions ended by a bug of ours.
    pub panics: u64,
}

impl Snapshot {
    /// Both together.
    pub(crate) fn plus(self, other: Snapshot) -> Snapshot {
        Snapshot {
            accepted: self.accepted + other.accepted,
            open: self.open + other.open,
            tunnels_opened: self.tunnels_opened + other.tunnels_opened,
            tunnels_open: self.tunnels_open + other.tunnels_open,
            bytes_spliced: self.bytes_spliced + other.bytes_spliced,
            panics: self.panics + other.panics,
        }
    }
}

impl Stats {
    pub(crate) fn session_opened(&self) {
        self.accepted.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    pub(crate) fn tunnel_opened(&self) {
        self.tunnels_opened.fetch_add(1, Relaxed);
        self.tunnels_open.fetch_add(1, Relaxed);
    }

    /// Sessions that are open now.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    pub(crate) fn session_closed(&self, was_tunnel: bool) {
        self.open.fetch_sub(1, Relaxed);
        self.tunnels_open.fetch_sub(was_tunnel.into(), Relaxed);
    }

    pub(crate) fn spliced(&self, bytes: usize) {
        self.bytes_spliced.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            accepted: self.accepted.load(Relaxed),
            open: self.open.load(Relaxed),
            tunnels_opened: self.tunnels_opened.load(Relaxed),
            tunnels_open: self.tunnels_open.load(Relaxed),
            bytes_spliced: self.bytes_spliced.load(Relaxed),
            panics: self.panics.load(Relaxed),
        }
    }
}
