//! # adit
//!
//! A reverse proxy and load balancer for WebSocket and TCP tunnels. It reads one HTTP/1.1 handshake, rebuilds it for
//! the server that it chooses, checks the server's answer, and is from then on nothing but two sockets and the bytes
//! between them:
//!
//! ```text
//!             handshake: read, judged, rebuilt
//!   client  ------------------------------------->  server
//!           <-------------------------------------
//!                      101: verified
//!
//!           ==== up ====>  [    ]  ==== up ====>
//!   client                  adit                    server
//!           <=== down ===  [    ]  <=== down ===
//! ```
//!
//! A proxy inside another program:
//!
//! ```no_run
//! use adit::{Config, Proxy};
//!
//! let config = r#"
//!     [[listener]]
//!     listen = "127.0.0.1:8020"
//!     upstream = "websocket"
//!
//!     [upstream.websocket]
//!     servers = ["127.0.0.1:8010"]
//! "#;
//! let proxy = Proxy::bind(Config::from_toml(config)?.check()?)?;
//! let handle = proxy.handle(); // to drain or stop it from another thread
//! proxy.run()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A host with a loop of its own calls [`Proxy::turn`] instead of [`Proxy::run`]. The library starts no threads,
//! installs no signal handlers, no logger and no panic hook; those are the binary's. [`Workers`] alone, which run as
//! many loops as are configured, do so on threads that they start.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod access_log;
#[cfg(feature = "admin")]
mod admin;
mod balance;
pub mod changes;
pub mod config;
mod crew;
mod drain;
mod error;
mod event_loop;
#[doc(hidden)]
pub mod fuzz;
mod identity;
mod inherited;
mod limit;
mod listener;
pub mod log_writer;
mod moment;
mod pace;
pub mod plan;
mod proto;
mod proxy;
mod rebalance;
mod route;
mod session;
mod setup;
mod stats;
mod sys;
mod timer;

#[cfg(feature = "admin")]
pub use admin::host::{Host, ReloadRequest};
pub use config::Config;
pub use crew::Reloaded;
pub use error::{ConfigError, ReloadError, StartError};
pub use inherited::Inherited;
pub use plan::{Address, Plan};
pub use proxy::{Handle, Proxy, Reloading, Status, Workers};
pub use session::engine::PIPE_DESCRIPTORS_MAX;
pub use stats::Snapshot;
pub use sys::{passed_descriptors, raise_descriptor_limit, unmap_library_code};
