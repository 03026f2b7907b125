//! System calls on **every** thread of a Linux process at one instant, or on none.
//!
//! On Linux a privilege (uid, gid, groups, capabilities, `no_new_privs`, ...) belongs to a thread,
//! and a call that gives it up does so for the calling thread alone. psx stops all threads, proves
//! by the kernel's own count that none was missed, and then makes the call on each of them.
//!
//! ```
//! use psx::thread; // in place of `use std::thread`
//!
//! # fn main() -> Result<(), psx::Error> {
//! let worker = thread::spawn(|| {
//!     // ...
//! });
//!
//! // SAFETY: the call takes numbers only, and forbids new privileges, which nothing here needs.
//! unsafe { psx::syscall6(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0)? };
//! # worker.join().unwrap();
//! # Ok(())
//! # }
//! ```
//!
//! - [`Privileges`] is the typed, safe way to give up users, groups, capabilities and more, all in
//!   one stop; [`privileges`] tells in which order. [`threads()`] shows what every thread has.
//! - [`thread`] is `std::thread` whose threads are registered from birth to their last destructor.
//!   Threads that other code starts call [`thread::adopt`].
//! - [`syscall3`] and [`syscall6`] make one system call, by the strictest rules.
//! - [`Broadcast`] sets the rules: the timeout, the [`Coverage`], what is done on [`Divergence`];
//!   and it runs any async-signal-safe closure.
//! - [`process::exec`] replaces the program without falling into a round.
//! - An [`Error`] says what prevented the call and names the threads. After [`Error::Os`] the calling
//!   thread alone made the call, and the kernel refused it; every other variant means that no thread
//!   made it. [`Privileges::apply`] returns an [`ApplyError`](privileges::ApplyError), which is an
//!   [`Error`] or a failed step. On error, every thread has completed the same steps, those that the
//!   error lists: usually none.
//!
//! # Features
//!
//! - `tracing`, on by default: a span for each round, with events from before and after it, and an event
//!   at INFO, target `psx`, for each batch of [`Privileges`] that took effect.
//! - `interpose`: psx defines `pthread_create` and `thrd_create` for the program, so that every thread
//!   that std, tokio, rayon or a C library starts by them is registered. For programs; libraries leave
//!   the choice to them. docs/integration.md lists which threads it does not see.
//!
//! # What the program's threads notice
//!
//! Each is interrupted by a signal: 33, which the libc leaves out of every mask that `sigprocmask` and
//! `pthread_sigmask` set, and out of `sigfillset`'s set. A set of all ones that a program makes itself
//! and gives to `ppoll`, `sigwait`, `signalfd` or a handler's `sa_mask` does hold the signal back:
//! a broadcast then ends as [`Error::Unreachable`] and names the thread. Each thread's `errno`,
//! registers and signal mask stay as they were, and the kernel resumes most calls that it was
//! blocked in: `read`, `recv`, `accept`, `wait4`, `fcntl(F_SETLKW)`, a futex without a timeout and
//! so a [`Mutex`](std::sync::Mutex).
//!
//! Some calls the kernel never resumes, whatever the signal ([`signal(7)`]). They return `EINTR`,
//! and a program that makes them has to repeat them: `nanosleep`, `clock_nanosleep`, `poll`,
//! `ppoll`, `select`, `pselect6`, `epoll_wait` and `epoll_pwait`, a futex with a timeout, socket
//! calls on a socket with `SO_RCVTIMEO` or `SO_SNDTIMEO`, `semop`, `semtimedop`, `msgsnd`, `msgrcv`,
//! `pause`, `sigsuspend`, `rt_sigtimedwait`. std repeats its own, so that
//! [`sleep`](std::thread::sleep), [`Condvar`](std::sync::Condvar) and
//! [`park_timeout`](std::thread::park_timeout) take no notice; a socket with a timeout gives
//! [`ErrorKind::Interrupted`](std::io::ErrorKind::Interrupted). The kernel adds the timer slack, 50 µs by
//! default, to the rest of a sleep at each repetition: broadcasts without a pause between them can keep a
//! [`sleep`](std::thread::sleep) from ending. `clock_nanosleep` with `TIMER_ABSTIME` is not affected.
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
    Broadcast, Coverage, Divergence, Divergent, Errno, Error, NamedThread, Outcome, Report, Threads,
};
pub use syscall::{syscall3, syscall6};
