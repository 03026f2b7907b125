//! The state beside privileges that a change of ids resets: the parent-death signal of a thread, and the
//! dumpability of the process. Contains `unsafe`: libc has only `prctl`.

use std::ffi::c_int;

use crate::Errno;

/// The calling thread's parent-death signal, 0 if it has none. Async-signal-safe: one system call. Writes
/// errno.
pub(super) fn parent_death_signal() -> Result<c_int, Errno> {
    let mut signal: c_int = 0;
    prctl(libc::PR_GET_PDEATHSIG, (&raw mut signal) as usize)?;
    Ok(signal)
}

/// Sets the calling thread's parent-death signal. Async-signal-safe, as above.
pub(super) fn set_parent_death_signal(signal: c_int) -> Result<(), Errno> {
    prctl(libc::PR_SET_PDEATHSIG, signal as usize).map(drop)
}

/// The process's dumpability: 0, 1 or 2 (`PR_GET_DUMPABLE`).
pub(super) fn dumpable() -> Result<usize, Errno> {
    prctl(libc::PR_GET_DUMPABLE, 0)
}

/// Makes the process dumpable (1) or undumpable (0).
pub(super) fn set_dumpable(dumpable: usize) -> Result<(), Errno> {
    prctl(libc::PR_SET_DUMPABLE, dumpable).map(drop)
}

fn prctl(option: c_int, argument: usize) -> Result<usize, Errno> {
    // SAFETY: of the four options only `PR_GET_PDEATHSIG` writes memory: one number, for which its caller
    // has room.
    let returned = unsafe { libc::syscall(libc::SYS_prctl, option, argument, 0, 0, 0) };
    usize::try_from(returned).map_err(|_| Errno::last())
}
