//! `std::thread`, with every thread registered: a program only replaces `use std::thread` by
//! `use psx::thread`.
//!
//! [`spawn`], [`Builder`], [`scope`] and [`Scope`] are std's items of the same name, except that their
//! threads are registered from before the first line of their closure until after the destructor of their
//! last thread-local. [`adopt`] is psx's own. Everything else is re-exported from std, [`JoinHandle`]
//! included.
//!
//! A thread that calls [`spawn`] or another function here that starts threads is registered too, as by
//! [`adopt`]. A main thread that starts no thread here and does not broadcast, because an async runtime does
//! both, calls [`adopt`] at the start of `main`.
//!
//! # Differences to std
//!
//! - No round begins between the start of a thread and its registration, so starting a thread waits while a
//!   broadcast is in progress.
//! - Starting a thread inside a broadcast's closure fails with [`Error::Reentrant`], as an [`io::Error`].

mod builder;
mod scope;

use std::io;

use psx_core::SpawnGuard;
pub use std::thread::{
    AccessError, JoinHandle, LocalKey, Result, ScopedJoinHandle, Thread, ThreadId,
    available_parallelism, current, panicking, park, park_timeout, sleep, yield_now,
};
#[allow(deprecated, reason = "for programs that still use them")]
pub use std::thread::{park_timeout_ms, sleep_ms};

pub use builder::{Builder, spawn};
pub use scope::{Scope, scope};

use crate::Error;

/// Registers the calling thread until it exits; does nothing if it is registered already.
///
/// For threads that other code starts: in a thread pool's start hook (tokio's `on_thread_start`,
/// rayon's `start_handler`), in a callback from another language, in a library's thread. Threads that
/// [`spawn`] and the other functions here start, and threads that broadcast, need no call.
///
/// Call it first in the thread. A broadcast that finds an unregistered thread tries again, since a thread
/// that has just started may be about to register. If the thread has had 100 ms and has run in this time,
/// or sleeps, the broadcast fails with [`Error::Uncovered`].
/// Under [`Coverage::Registered`](crate::Coverage::Registered) the thread keeps its privileges, and the
/// report names it.
///
/// Registering waits while a broadcast is in progress, as do the start and the end of a registered thread.
/// These waits have no timeout: they last as long as the broadcasts of other threads, each of which ends at
/// its own [timeout](crate::Broadcast::timeout), or when every thread has made its call.
///
/// # Errors
///
/// [`Error::RegistrationFailed`] if the libc has no room for the thread's exit hook, or a seccomp filter
/// refuses a system call that registration needs; [`Error::OutOfMemory`]; [`Error::OtherProcess`] in a child
/// of `vfork`; [`Error::SharedThreadLocals`] in a thread of a raw `clone` without its own thread-local
/// storage.
///
/// # Examples
///
/// ```
/// let worker = std::thread::spawn(|| {
///     psx::thread::adopt()?;
///     // ...
///     Ok::<(), psx::Error>(())
/// });
/// worker.join().unwrap()?;
/// # Ok::<(), psx::Error>(())
/// ```
pub fn adopt() -> std::result::Result<(), Error> {
    psx_core::adopt()
}

/// Prepares the start of a thread that runs `f`. Returns the parent's guard, which must live until the
/// start has succeeded or failed, and the thread's body, which registers the thread and runs `f`. The body
/// owns the ticket, so dropping it without running it gives the ticket back.
fn prepare_spawn<F, T>(f: F) -> io::Result<(SpawnGuard, impl FnOnce() -> T)>
where
    F: FnOnce() -> T,
{
    let guard = SpawnGuard::enter()?;
    let ticket = guard.ticket()?;
    let body = move || {
        ticket.redeem();
        f()
    };
    Ok((guard, body))
}
