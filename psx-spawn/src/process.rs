//! `execve` outside a round.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use psx_core::SpawnGuard;

/// Replaces the program, as [`CommandExt::exec`]: returns only on failure.
///
/// For programs in which another thread may broadcast. A signal 33 that is pending for the calling thread
/// survives `execve` and kills the new program, which has no handler for it. So this function waits until
/// no round is in progress, and none begins before the program is replaced. [`Command::spawn`] needs no
/// such function: a child inherits no pending signals.
///
/// # Errors
///
/// The error of [`CommandExt::exec`]; or a [`psx::Error`](crate::Error) in an [`io::Error`] if the calling
/// thread cannot be registered, or is inside a broadcast.
///
/// # Examples
///
/// ```no_run
/// let error = psx::process::exec(std::process::Command::new("/usr/sbin/nologin").arg("now"));
/// eprintln!("nologin could not be started: {error}");
/// ```
#[must_use = "if this returns, the program has not been replaced"]
#[doc(alias = "execve")]
pub fn exec(command: &mut Command) -> io::Error {
    match SpawnGuard::enter() {
        Ok(_guard) => command.exec(),
        Err(error) => error.into(),
    }
}
