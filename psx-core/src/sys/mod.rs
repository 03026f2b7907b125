//! The platform: atomics, futexes, signals and `/proc`. The protocol uses this module, and neither libc nor
//! loom. It has two implementations with the same items:
//!
//! - `linux`: real atomics and futexes, signal 33, `/proc`.
//! - `model` (under `cfg(psx_loom)`, which only psx-loom-tests sets): loom's atomics, and a kernel that wakes
//!   spuriously, refuses summonses and runs handlers at any point of interruption.
//!
//! | item | meaning |
//! |---|---|
//! | [`sync`] | atomics and [`sync::UnsafeCell`] |
//! | [`futex`] | wait on a word, wake its waiters |
//! | [`clock`] | the monotonic clock and [`clock::Deadline`] |
//! | [`errno`] | the errno, which a signal handler restores |
//! | [`mask`] | the signal mask of the calling thread |
//! | [`fatal`] | messages on standard error and the end of the process |
//! | [`RobustMutex`] | tells that the thread that holds it is dead, whatever thread has its id now |
//! | [`Kernel`] | summonses, the thread count, dead threads |

#[cfg(not(psx_loom))]
#[path = "linux/mod.rs"]
mod platform;
#[cfg(psx_loom)]
#[path = "model/mod.rs"]
mod platform;

pub(crate) use platform::*;

use crate::Errno;
use crate::report::Comm;

/// Declares a constructor that is `const` on Linux, where it initialises a `static`. loom's atomics have no
/// `const` constructors.
macro_rules! const_on_linux {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => {
        #[cfg(not(psx_loom))]
        $(#[$meta])* $vis const fn $($rest)*
        #[cfg(psx_loom)]
        $(#[$meta])* $vis fn $($rest)*
    };
}
pub(crate) use const_on_linux;

/// Why the kernel refused a summons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The signal queue is full (`EAGAIN`): a later try may succeed.
    Full,
    /// The process has no such thread (`ESRCH`).
    Gone,
    /// Any other error: a security policy forbids it.
    Denied(Errno),
}

/// The kernel's thread count of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadCount {
    pub(crate) threads: usize,
    /// The main thread has ended, by `pthread_exit` for example; the kernel still counts it. Once true, it
    /// stays true. Read before the threads are counted, so that all threads that an ended main thread has
    /// started are in the count.
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
