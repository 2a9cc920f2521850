//! How many sessions one client address may have at once, in all workers.
//!
//! Pure counting: who asks, how many there may be, and what a refused client is told, is decided elsewhere. The table
//! has an entry for each address that has a session now, so it is bounded by the number of sessions. Where there is no
//! limit nobody is counted, and it is never looked at.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Sessions at once, counted by client address. An IPv4-mapped IPv6 address counts as the IPv4 address it
/// stands for, so that a client gains nothing by what the listening socket calls it.
#[derive(Debug, Default)]
pub struct PerAddress {
    /// No entry is 0.
    sessions: Mutex<HashMap<IpAddr, u32>>,
}

impl PerAddress {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more session of this client, or says `false` and counts nothing where it has `max` already, which is
    /// at least 1. Each session admitted must `leave` once.
    #[must_use]
    pub fn admit(&self, ip: IpAddr, max: u32) -> bool {
        let mut sessions = self.lock();
        let sessions = sessions.entry(ip.to_canonical()).or_insert(0);
        // An entry made just now is counted at once.
        let admitted = *sessions < max;
        *sessions += u32::from(admitted);
        admitted
    }

    /// Ends a session that was admitted.
    pub fn leave(&self, ip: IpAddr) {
        match self.lock().entry(ip.to_canonical()) {
            Entry::Occupied(entry) if *entry.get() <= 1 => {
                entry.remove();
            }
            Entry::Occupied(mut entry) => *entry.get_mut() -= 1,
            Entry::Vacant(_) => debug_assert!(false, "only who was admitted leaves, and only once"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Runs a script of `+ip` (admitted), `!ip` (not admitted) and `-ip` (leaves), and counts the entries
    /// left.
    fn check(max: u32, script: &str, entries: usize) {
        let limit = PerAddress::default();
        for step in script.split_whitespace() {
            let (verb, address) = step.split_at(1);
            match verb {
                "+" => assert!(limit.admit(ip(address), max), "{max}: {script}: {step}"),
                "!" => assert!(!limit.admit(ip(address), max), "{max}: {script}: {step}"),
                _ => limit.leave(ip(address)),
            }
        }
        assert_eq!(limit.lock().len(), entries, "{max}: {script}");
    }

    #[test]
    fn each_address_has_its_own_count() {
        check(1, "+1.1.1.1 !1.1.1.1 +2.2.2.2 !2.2.2.2", 2);
        check(2, "+1.1.1.1 +1.1.1.1 !1.1.1.1 +::1 +::1 !::1", 2);
    }

    #[test]
    fn a_place_left_is_free_again_and_the_last_one_takes_the_entry_along() {
        check(1, "+1.1.1.1 -1.1.1.1", 0);
        check(1, "+1.1.1.1 -1.1.1.1 +1.1.1.1 !1.1.1.1", 1);
        check(2, "+1.1.1.1 +1.1.1.1 -1.1.1.1 +1.1.1.1 !1.1.1.1", 1);
        check(2, "+1.1.1.1 +1.1.1.1 !1.1.1.1 -1.1.1.1 -1.1.1.1", 0);
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        check(1, "+::ffff:1.1.1.1 !1.1.1.1 -1.1.1.1", 0);
        check(1, "+1.1.1.1 !::ffff:1.1.1.1 -::ffff:1.1.1.1", 0);
    }
}
