//! The seam between the protocol and what is below it. The protocol names neither libc nor loom:
//! it is written against this module, which has two sides with the same items.
//!
//! - `linux`: real atomics, real futexes, signal 33, `/proc`.
//! - `model` (under `cfg(psx_loom)`, built by psx-loom-tests alone): loom's atomics, and a kernel
//!   that wakes spuriously, refuses summons and runs handlers at any point of interruption.
//!
//! | item | meaning |
//! |---|---|
//! | [`sync`] | atomics and [`sync::UnsafeCell`] |
//! | [`futex`] | sleep on a word, wake its sleepers |
//! | [`clock`] | the monotonic clock and [`clock::Deadline`] |
//! | [`errno`] | what a handler must put back |
//! | [`mask`] | which signals the calling thread takes |
//! | [`RobustMutex`] | tells that the thread which holds it is dead, whatever thread has its id now |
//! | [`Kernel`] | summons, the thread count, who is dead: what the kernel knows of this process |

#[cfg(not(psx_loom))]
#[path = "linux/mod.rs"]
mod platform;
#[cfg(psx_loom)]
#[path = "model/mod.rs"]
mod platform;

pub(crate) use platform::*;

use crate::Errno;
use crate::report::Comm;

/// Declares a constructor that is `const` on Linux, where it fills a `static`, and not in the
/// model, whose atomics are made anew for each execution.
macro_rules! const_on_linux {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => {
        #[cfg(not(psx_loom))]
        $(#[$meta])* $vis const fn $($rest)*
        #[cfg(psx_loom)]
        $(#[$meta])* $vis fn $($rest)*
    };
}
pub(crate) use const_on_linux;

/// Why the kernel did not take a summons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The queue is full (`EAGAIN`): not yet, which is not never.
    Full,
    /// There is no such thread in this process (`ESRCH`).
    Gone,
    /// Anything else: a security policy in the way.
    Denied(Errno),
}

/// The kernel's thread count of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadCount {
    pub(crate) threads: usize,
    /// The main thread has ended and cannot run again, although the kernel goes on counting it: it left
    /// by `pthread_exit`, say. Once true, it stays true. Looked at before the threads were counted, so
    /// that the threads which an ended main thread has started are in the count.
    pub(crate) main_has_ended: bool,
}

/// Whether a thread has run, or waits for something that keeps it from running. For hints only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Activity {
    /// When it started, in clock ticks since boot. Tells it from a later thread with its id.
    pub(crate) start_time: u64,
    /// Its user and system time, in clock ticks.
    pub(crate) cpu_time: u64,
    /// Its state is R or D: it runs, waits for a core, or waits in the kernel for memory or a disk.
    /// The load average counts it as active.
    pub(crate) is_active: bool,
}

/// What an unregistered thread is to a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnregisteredKind {
    /// It has ended and runs nothing: a main thread that left by `pthread_exit`, for example.
    Dead,
    /// The kernel created it, and it does nothing with the credentials that it was created with: an
    /// io_uring worker, for example.
    KernelWorker,
    /// Any other thread: it may run with privileges of its own.
    Missed,
}

/// What `/proc` says of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadInfo {
    pub(crate) kind: UnregisteredKind,
    pub(crate) name: Comm,
    /// The kernel created it in the process for itself. A program cannot set this flag on its threads.
    pub(crate) made_by_kernel: bool,
}
