//! System calls on **every** thread of a Linux process at one instant, or on none.
//!
//! On Linux a privilege (uid, gid, groups, capabilities, `no_new_privs`, ...) belongs to a thread,
//! and a call that gives it up changes only the calling thread. psx stops all threads, proves by the
//! kernel's thread count that none was missed, and then makes the call on each of them.
//!
//! ```
//! use psx::thread; // in place of `use std::thread`
//!
//! # fn main() -> Result<(), psx::Error> {
//! let worker = thread::spawn(|| {
//!     // ...
//! });
//!
//! // SAFETY: the call takes numbers only, and nothing here needs to gain privileges.
//! unsafe { psx::syscall6(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0)? };
//! # worker.join().unwrap();
//! # Ok(())
//! # }
//! ```
//!
//! - [`Privileges`] is the typed, safe way to give up users, groups, capabilities and more, all in
//!   one stop, in the order that [`privileges`] documents. [`threads()`] lists the privileges of every
//!   thread.
//! - [`thread`] is `std::thread` with threads that are registered from their start to their last
//!   destructor. Threads that other code starts call [`thread::adopt`].
//! - [`syscall3`] and [`syscall6`] make one system call, with the strictest settings.
//! - [`Broadcast`] has the settings: timeout, [`Coverage`] and [`Divergence`]. It also runs any
//!   async-signal-safe closure.
//! - [`process::exec`] replaces the program while no broadcast is in progress.
//! - An [`Error`] says what prevented the call and names the threads. After [`Error::Os`] the calling
//!   thread alone made the call, and the kernel refused it; every other variant means that no thread
//!   made it. [`Privileges::apply`] returns an [`ApplyError`](privileges::ApplyError), which is an
//!   [`Error`] or a failed step. On error, every thread has completed the same steps, those that the
//!   error lists: usually none.
//!
//! # Features
//!
//! - `tracing`, on by default: a span for each broadcast, with events before and after it, and an event
//!   at INFO, target `psx`, for each batch of [`Privileges`] that took effect.
//! - `interpose`: psx defines `pthread_create` and `thrd_create` for the program, so that every thread
//!   that std, tokio, rayon or a C library starts by them is registered. For programs: a library should
//!   not enable it for the programs that use it. docs/integration.md lists the threads that it does not
//!   see.
//!
//! # Effects on the program's threads
//!
//! A broadcast interrupts each thread by signal 33. The libc leaves this signal out of every mask that
//! `sigprocmask` and `pthread_sigmask` set, and out of `sigfillset`'s set. A set of all ones that a program
//! builds itself and passes to `ppoll`, `sigwait`, `signalfd` or as a handler's `sa_mask` does block it:
//! a broadcast then ends with [`Error::Unreachable`], which names the thread. Each thread's `errno`,
//! registers and signal mask are unchanged, and the kernel resumes most blocking calls: `read`, `recv`,
//! `accept`, `wait4`, `fcntl(F_SETLKW)`, a futex without a timeout and therefore a
//! [`Mutex`](std::sync::Mutex).
//!
//! The kernel never resumes some calls, whatever the signal ([`signal(7)`]). They return `EINTR`,
//! and a program that makes them must repeat them: `nanosleep`, `clock_nanosleep`, `poll`,
//! `ppoll`, `select`, `pselect6`, `epoll_wait` and `epoll_pwait`, a futex with a timeout, socket
//! calls on a socket with `SO_RCVTIMEO` or `SO_SNDTIMEO`, `semop`, `semtimedop`, `msgsnd`, `msgrcv`,
//! `pause`, `sigsuspend`, `rt_sigtimedwait`. std repeats its own calls:
//! [`Condvar`](std::sync::Condvar) and [`park_timeout`](std::thread::park_timeout), which wait until a point
//! in time, are not affected.
//!
//! - A [`sleep`](std::thread::sleep) is repeated for the rest of its time, so it lasts longer by the time for
//!   which the thread was stopped in it ([`Report::stopped`]). The kernel also adds the timer slack, 50 µs by
//!   default, at each repetition, so broadcasts without a pause between them can keep it from ending.
//!   `clock_nanosleep` with `TIMER_ABSTIME` is not affected.
//! - A call on a socket with a timeout returns [`ErrorKind::Interrupted`](std::io::ErrorKind::Interrupted). A
//!   program that repeats it begins the timeout again, so it may never be reached while broadcasts come
//!   faster than that.
//! - The kernel gives a signal that is sent to the process to any thread that does not block it. A stopped
//!   thread blocks all signals, so another thread may handle a signal that this one would have handled.
//!
//! [`signal(7)`]: https://man7.org/linux/man-pages/man7/signal.7.html
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod privileges;
pub mod process;
pub mod thread;

#[cfg(feature = "interpose")]
mod interpose;
mod syscall;

pub use privileges::{CapabilitySet, CapabilitySets, Privileges, threads};

#[doc(inline)]
pub use psx_core::{
    Broadcast, Coverage, Divergence, Divergent, Errno, Error, NamedThread, Obstacle, Outcome,
    Report, Stops, Threads,
};
pub use syscall::{syscall3, syscall6};
