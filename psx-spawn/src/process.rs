//! Replacing the program, which is the one thing that a round must not be in the middle of.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use psx_core::SpawnGuard;

/// Replaces the program, as [`CommandExt::exec`]: it returns only if that fails.
///
/// For programs in which another thread may be broadcasting. The kernel keeps a signal that is on
/// its way to the thread that execs, and the new program, which knows nothing of signal 33, is
/// killed by it: so the thread waits here until no round is on, and none begins until the program
/// is another. [`Command::spawn`] needs no such care, since a child takes over no signals.
///
/// # Errors
///
/// What [`CommandExt::exec`] returns; or a [`psx::Error`](crate::Error) in an [`io::Error`] where
/// the calling thread cannot be registered, or is inside a broadcast.
///
/// # Examples
///
/// ```no_run
/// let error = psx::process::exec(std::process::Command::new("/usr/sbin/nologin").arg("now"));
/// eprintln!("nologin could not be started: {error}");
/// ```
#[must_use = "where this returns, the program has not been replaced"]
#[doc(alias = "execve")]
pub fn exec(command: &mut Command) -> io::Error {
    match SpawnGuard::enter() {
        Ok(_guard) => command.exec(),
        Err(error) => error.into(),
    }
}
