//! The libc's hooks: a destructor at a thread's end, and functions around a fork.

use core::ffi::c_void;

use super::sync::{AtomicU32, Ordering};
use crate::Errno;

/// How many rounds of `pthread_key` destructors a libc runs: the minimum of POSIX, and the number of glibc
/// and musl.
pub(crate) const DESTRUCTOR_ROUNDS: u8 = 4;

/// The key whose destructor runs when a thread ends.
pub(crate) struct ExitHook {
    /// The key plus one; zero before `install`. Set once (AcqRel), read with Acquire.
    key: AtomicU32,
}

impl ExitHook {
    pub(crate) const fn new() -> Self {
        Self { key: AtomicU32::new(0) }
    }

    /// Creates the key, once for the process.
    pub(crate) fn install(&self, on_exit: unsafe extern "C" fn(*mut c_void)) -> Result<(), Errno> {
        if self.key.load(Ordering::Acquire) != 0 {
            return Ok(());
        }
        let mut key: libc::pthread_key_t = 0;
        // SAFETY: the libc writes the key. The destructor may run on any thread that sets a value.
        match unsafe { libc::pthread_key_create(&raw mut key, Some(on_exit)) } {
            0 => {}
            errno => return Err(Errno::from_raw(errno)),
        }
        let stored = key + 1;
        if self.key.compare_exchange(0, stored, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            // SAFETY: another thread's key is used; no thread has seen this one.
            unsafe { libc::pthread_key_delete(key) };
        }
        Ok(())
    }

    /// Makes the libc call the destructor with `value` in the thread's next destructor round. Fails with
    /// `ENOMEM` if the libc needs memory for it and has none.
    pub(crate) fn arm(&self, value: *const c_void) -> Result<(), Errno> {
        let key = self.key.load(Ordering::Acquire);
        debug_assert_ne!(key, 0, "installed before any thread registers");
        // SAFETY: a key that is stored exists, and is never deleted.
        match unsafe { libc::pthread_setspecific(key - 1, value) } {
            0 => Ok(()),
            errno => Err(Errno::from_raw(errno)),
        }
    }
}

/// [`pthread_atfork(3)`](https://man7.org/linux/man-pages/man3/pthread_atfork.3.html).
pub(crate) fn pthread_atfork(
    before: unsafe extern "C" fn(),
    parent: unsafe extern "C" fn(),
    child: unsafe extern "C" fn(),
) -> Result<(), Errno> {
    // SAFETY: the functions stay loaded until the process ends.
    match unsafe { libc::pthread_atfork(Some(before), Some(parent), Some(child)) } {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno)),
    }
}
