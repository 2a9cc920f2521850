//! Listening sockets that the process was handed by whoever started it (socket activation), by the names that a
//! configuration knows them by. They come from the host, which knows how they came to it; nothing is looked for here.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Sockets by name. They stay open as long as the proxy lives, whatever is configured meanwhile: a reload may want any
/// of them again.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(String, OwnedFd)>,
}

impl Inherited {
    /// None at all.
    pub fn new() -> Inherited {
        Inherited::default()
    }

    /// Adds one. Its name is what stands behind `fd:` in a configuration. What it is is looked at when it is used.
    pub fn add(&mut self, name: impl Into<String>, socket: OwnedFd) {
        self.sockets.push((name.into(), socket));
    }

    /// The names, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sockets.iter().map(|(name, _)| name.as_str())
    }

    /// The one of this name.
    ///
    /// # Errors
    /// Where there is none, or more than one: a listener has one address, and which would it be?
    pub(crate) fn find(&self, name: &str) -> io::Result<BorrowedFd<'_>> {
        let mut found = self.sockets.iter().filter(|(other, _)| other == name).map(|(_, socket)| socket);
        match (found.next(), found.count()) {
            (Some(socket), 0) => Ok(socket.as_fd()),
            (Some(_), more) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} sockets of this name were handed over, and a listener has one: a socket unit each, with one \
                     ListenStream= and its own FileDescriptorName=",
                    more + 1
                ),
            )),
            (None, _) if self.sockets.is_empty() => {
                let why = "this process was handed no sockets (LISTEN_FDS, by a socket unit for example)";
                Err(io::Error::new(io::ErrorKind::NotFound, why))
            }
            (None, _) => {
                let why = format!("no socket of this name was handed over, but {}", Names(self));
                Err(io::Error::new(io::ErrorKind::NotFound, why))
            }
        }
    }
}

/// Names in a sentence, each once.
struct Names<'a>(&'a Inherited);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<&str> = self.0.names().collect();
        names.sort_unstable();
        names.dedup();
        for (index, name) in names.iter().enumerate() {
            write!(f, "{}fd:{}", if index == 0 { "" } else { ", " }, name.escape_debug())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_name_and_a_wrong_name_is_told_the_right_ones() {
        let mut inherited = Inherited::new();
        let check = |inherited: &Inherited, name: &str, expected: &str| {
            let found = inherited.find(name).map(|_| ()).map_err(|error| error.to_string());
            let found = found.map_or_else(|why| why, |()| "found".into());
            assert!(found.starts_with(expected), "{name}: {found}");
        };
        check(&inherited, "web", "this process was handed no sockets");
        let socket = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
        inherited.add("web", socket());
        inherited.add("two", socket());
        inherited.add("two", socket());
        check(&inherited, "web", "found");
        check(&inherited, "two", "2 sockets of this name were handed over, and a listener has one: ");
        check(&inherited, "admin", "no socket of this name was handed over, but fd:two, fd:web");
        check(&inherited, "", "no socket of this name was handed over, but fd:two, fd:web");
        assert_eq!(inherited.names().collect::<Vec<_>>(), ["web", "two", "two"]);
    }
}
