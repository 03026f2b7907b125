//! The protocol under [`psx`](https://docs.rs/psx-spawn): stop every registered thread of the
//! process, prove by the kernel's own count that none was missed, and make one call on all of them
//! at one instant, or on none.
//!
//! Applications use `psx`, which wraps `std::thread` so that threads are registered without
//! anybody thinking of it. This crate is for those who start threads in another way: [`adopt`] in
//! a thread that exists, [`SpawnGuard`] and [`Ticket`] around one about to be started.
//!
//! | folder | concept |
//! |---|---|
//! | `registry/` | who belongs to the process: entries in a list, behind a gate that a round closes |
//! | `round/` | stop, prove, commit, release |
//! | `sys/` | what is below: futexes, signal 33, `/proc`; or a model of it |
//! | `spawn_guard.rs` | what goes around the start of a thread |
//! | `process.rs` | the process's one registry, and what the system calls of its own accord |
//!
//! docs/protocol.md tells the whole, docs/invariants.md numbers what the SAFETY comments cite.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(psx_loom, allow(dead_code, reason = "what process.rs alone uses"))]

#[cfg(not(target_os = "linux"))]
compile_error!("psx is about Linux threads: it builds for Linux only");

mod broadcast;
mod errno;
mod error;
mod memory;
#[cfg(psx_loom)]
#[path = "sys/model/door.rs"]
pub mod model;
#[cfg(not(psx_loom))]
mod process;
mod registry;
mod report;
mod round;
mod runtime;
#[cfg(not(psx_loom))]
mod spawn_guard;
mod sync;
mod sys;
#[cfg(not(psx_loom))]
mod threads;
#[cfg(not(psx_loom))]
mod trace;

pub use broadcast::{Broadcast, Coverage, Divergence};
pub use errno::Errno;
pub use error::Error;
#[cfg(not(psx_loom))]
pub use process::{adopt, threads};
pub use report::{Divergent, NamedThread, Outcome, Report, Threads};
#[cfg(not(psx_loom))]
pub use spawn_guard::{SpawnGuard, Ticket};
#[cfg(not(psx_loom))]
pub use threads::{ProcessThread, ThreadKind};
