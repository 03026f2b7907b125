//! The protocol under [`psx`](https://docs.rs/psx-spawn): stop every registered thread of the
//! process, prove by the kernel's thread count that none was missed, and make one call on all of them
//! at one instant, or on none.
//!
//! Applications use `psx`, which wraps `std::thread` so that threads register by themselves. This crate is
//! for code that starts threads in another way: [`adopt`] registers a thread that runs, [`SpawnGuard`] and
//! [`Ticket`] register one that is about to start.
//!
//! | folder | contents |
//! |---|---|
//! | `process/` | the static runtime, the signal handler, and the hooks that the libc calls |
//! | `spawn_guard.rs` | the guard that a thread holds while it starts another |
//! | `runtime.rs` | the state that psx keeps for a process, in one struct |
//! | `registry/` | the list of registered threads |
//! | `round/` | broadcast: stop, prove, commit, release |
//! | `sync/` | the gate, locks and latch that threads wait on |
//! | `sys/` | the kernel's interfaces: futexes, signal 33, `/proc`; or a model of them |
//!
//! docs/architecture.md walks through the code, docs/protocol.md describes the protocol, docs/invariants.md
//! lists the invariants that SAFETY comments cite.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(psx_loom, allow(dead_code, reason = "only process/ uses it"))]

#[cfg(not(target_os = "linux"))]
compile_error!("psx builds for Linux only");

mod broadcast;
mod errno;
mod error;
mod memory;
#[cfg(psx_loom)]
#[path = "sys/model/harness/mod.rs"]
pub mod model;
mod obstacle;
#[cfg(not(psx_loom))]
mod process;
mod registry;
mod report;
mod round;
mod runtime;
#[cfg(not(psx_loom))]
mod spawn_guard;
mod stops;
mod sync;
mod sys;
#[cfg(not(psx_loom))]
mod threads;
#[cfg(not(psx_loom))]
mod trace;

pub use broadcast::{Broadcast, Coverage, Divergence};
pub use errno::Errno;
pub use error::Error;
pub use obstacle::Obstacle;
#[cfg(not(psx_loom))]
pub use process::{adopt, threads};
pub use report::{Divergent, NamedThread, Outcome, Report, Threads};
#[cfg(not(psx_loom))]
pub use spawn_guard::{SpawnGuard, Ticket};
pub use stops::Stops;
#[cfg(not(psx_loom))]
pub use threads::{ProcessThread, ThreadKind};
