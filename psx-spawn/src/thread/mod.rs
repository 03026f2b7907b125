//! `std::thread`, with every thread registered: `use psx::thread` in place of `use std::thread` is
//! the only change that a program makes.
//!
//! [`spawn`], [`Builder`], [`scope`] and [`Scope`] do what std's items of the same name do, and
//! start threads that psx covers from before their first line to after their last thread-local's
//! destructor. [`adopt`] is psx's own. Everything else *is* std's, re-exported: a [`JoinHandle`] from
//! here is one of std's.
//!
//! The thread that calls [`spawn`] or its like is registered on the way, as by [`adopt`], so that a
//! main thread which starts its threads here needs no call. One that starts none and does not broadcast,
//! because an async runtime does both, calls [`adopt`] at the start of `main`.
//!
//! # Differences to std
//!
//! - No broadcast begins between the start of a thread and its registration; so a thread that
//!   starts one waits while a broadcast is under way.
//! - Starting a thread inside a broadcast's own closure fails with
//!   [`Error::Reentrant`], as an [`io::Error`].

mod builder;
mod scope;

use std::io;

use psx_core::SpawnGuard;
pub use std::thread::{
    AccessError, JoinHandle, LocalKey, Result, ScopedJoinHandle, Thread, ThreadId,
    available_parallelism, current, panicking, park, park_timeout, sleep, yield_now,
};
#[allow(deprecated, reason = "a program that still uses them shall not need another change")]
pub use std::thread::{park_timeout_ms, sleep_ms};

pub use builder::{Builder, spawn};
pub use scope::{Scope, scope};

use crate::Error;

/// Registers the calling thread until it exits; does nothing if it is registered already.
///
/// For threads that other code starts: a thread pool's start hook (tokio's `on_thread_start`,
/// rayon's `start_handler`), a callback from another language, a library's own thread. Threads
/// started by [`spawn`] and its like, and those that broadcast, need no call.
///
/// Make it the thread's first act. A broadcast that finds a thread unregistered tries again, so that a
/// newborn may be a moment late; where the thread has had 100 ms and has run in them, or sleeps, the
/// broadcast fails with [`Error::Uncovered`].
/// Under [`Coverage::Registered`](crate::Coverage::Registered) it leaves that thread with the
/// privileges that it has, and names it in the report.
///
/// Registering waits while a broadcast is on, and so do the start and the end of a registered thread. None
/// of these has a timeout: the wait is as long as the broadcasts of other threads take, each of which ends
/// by its own [timeout](crate::Broadcast::timeout), or with its call on every thread.
///
/// # Errors
///
/// [`Error::RegistrationFailed`] if the C library has no room for the thread's exit hook, or a filter refuses
/// a system call that registration needs; [`Error::OutOfMemory`]; [`Error::OtherProcess`] in a child of
/// `vfork`; [`Error::SharedThreadLocals`] in a thread that was made by a raw `clone` without
/// thread-local storage of its own.
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

/// Prepares the birth of a thread that is to run `f`: its body, which registers the thread before
/// it runs `f`, and the parent's passage, which must live until the thread has been started, or has
/// failed to. Either way the ticket goes where the body goes: a body that is dropped gives it back.
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
