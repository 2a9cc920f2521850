//! The admin listener's side of things that knows no loop: what may be asked over HTTP, and how it is answered.
//!
//! `http` reads a request and writes a response, `connection` does so on a socket, `ask` says what a request means,
//! `search` which tunnels it is about; `status`, `metrics` and `history` are the answers, `page` the page. The loop has
//! the rest in `event_loop/steering`. `host` is what the program around it does for operators.

pub mod ask;
pub mod connection;
pub mod drains;
pub mod history;
pub mod host;
pub mod http;
pub mod metrics;
pub mod page;
pub mod search;
pub mod status;
