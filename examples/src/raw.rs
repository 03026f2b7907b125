//! System calls as the kernel knows them.
//!
//! libc's own `setuid`, `setgroups` and their kin are no system calls but broadcasts of libc's
//! own, with none of psx's promises; inside a round they would wait for threads that are stopped.

use std::ffi::{c_int, c_long};

use psx::Errno;

/// Makes the system call `nr`. Async-signal-safe: nothing is allocated or locked.
///
/// # Errors
///
/// The number by which the kernel refused the call.
///
/// # Safety
///
/// The call's own: pointers among `args` must be what the kernel takes them for.
pub unsafe fn syscall(nr: c_long, args: [usize; 5]) -> Result<usize, Errno> {
    let [a, b, c, d, e] = args;
    // SAFETY: the caller's promise about `nr` and `args`.
    let value = unsafe { libc::syscall(nr, a, b, c, d, e) };
    checked(value)
}

/// Turns libc's way of failing (a result of -1, the reason in `errno`) into a `Result`.
///
/// # Errors
///
/// The thread's `errno`, if `value` is negative.
pub fn checked(value: c_long) -> Result<usize, Errno> {
    usize::try_from(value).map_err(|_| last_errno())
}

/// The calling thread's `errno`.
#[must_use]
pub fn last_errno() -> Errno {
    // SAFETY: libc's pointer to the calling thread's own errno is valid as long as the thread is.
    let raw: c_int = unsafe { *libc::__errno_location() };
    Errno::from_raw(raw)
}
