//! What psx's tests, benches and examples share. Not published.
//!
//! - `case`, `child`, `line`: tests that change the process they run in. A test binary
//!   (`harness = false`) lists [`Case`]s and hands them to [`main`]; each runs in a child process.
//! - [`procfs`]: what the kernel reports about the threads of a process.
//! - [`Probe`] and [`threads`]: threads to broadcast to, and threads that answer questions.
//! - [`raw`], [`signal`], [`process`]: system calls that std and the libc wrap or forbid.
//! - [`seccomp`], [`landlock`], [`Ring`], [`TempDir`]: what tests confine themselves with, or leave behind.
//! - [`Random`]: choices that a seed repeats.

#[cfg(feature = "cases")]
mod case;
mod child;
mod line;
mod probe;
mod random;
mod tempdir;
mod uring;

pub mod landlock;
pub mod process;
pub mod procfs;
pub mod raw;
pub mod seccomp;
pub mod signal;
pub mod threads;

#[cfg(feature = "cases")]
pub use case::{Case, child_command, main, run, run_child};
pub use child::{Child, Ending};
#[cfg(feature = "cases")]
pub use libtest_mimic::Arguments;
pub use line::Line;
pub use probe::{Job, Probe};
pub use process::root;
pub use random::Random;
pub use tempdir::TempDir;
pub use uring::Ring;
