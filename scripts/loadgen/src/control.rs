//! Lines on stdin, heard by an event loop.

use std::io::{self, Read};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

/// Who drives us, and by which words.
pub struct Control {
    heard: Vec<u8>,
    ended: bool,
}

impl Control {
    pub fn register(registry: &Registry, token: Token) -> io::Result<Control> {
        let mut control = Control { heard: Vec::new(), ended: false };
        let fd = io::stdin().as_raw_fd();
        match registry.register(&mut SourceFd(&fd), token, Interest::READABLE) {
            Ok(()) => {}
            // A file or /dev/null, which epoll does not take: what there is, is there already.
            Err(_) => {
                io::stdin().lock().take(1 << 16).read_to_end(&mut control.heard)?;
                control.ended = true;
            }
        }
        Ok(control)
    }

    /// An event says that there is something: one read, which then does not wait.
    pub fn fill(&mut self) {
        let mut bytes = [0; 4096];
        match io::stdin().lock().read(&mut bytes) {
            Ok(count) if count > 0 => self.heard.extend_from_slice(&bytes[..count]),
            _ => self.ended = true,
        }
    }

    /// The next line, if it is there; nothing more to come is an empty one.
    pub fn line(&mut self) -> Option<String> {
        match self.heard.iter().position(|&byte| byte == b'\n') {
            Some(end) => {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                Some(String::from_utf8_lossy(&line).trim().to_owned())
            }
            None => self.ended.then(String::new),
        }
    }

    pub fn has_ended(&self) -> bool {
        self.ended && self.heard.is_empty()
    }
}
