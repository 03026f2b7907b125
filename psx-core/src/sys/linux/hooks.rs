//! Where the libc tells us of a thread's end and of a fork.

use core::ffi::c_void;

use super::sync::{AtomicU32, Ordering};
use crate::Errno;

/// In how many rounds a libc runs the destructors of `pthread_key`s: the least that POSIX allows,
/// and what glibc and musl do.
pub(crate) const DESTRUCTOR_ROUNDS: u8 = 4;

/// The key whose destructor says that a thread is ending.
pub(crate) struct ExitHook {
    /// The key plus one; zero before there is one. Set once (AcqRel), read with Acquire: whoever
    /// sees the key may use it.
    key: AtomicU32,
}

impl ExitHook {
    pub(crate) const fn new() -> Self {
        Self { key: AtomicU32::new(0) }
    }

    /// Makes the key, once for the process.
    pub(crate) fn install(&self, on_exit: unsafe extern "C" fn(*mut c_void)) -> Result<(), Errno> {
        if self.key.load(Ordering::Acquire) != 0 {
            return Ok(());
        }
        let mut key: libc::pthread_key_t = 0;
        // SAFETY: the key is ours to write. The destructor may run on any thread that sets it.
        match unsafe { libc::pthread_key_create(&raw mut key, Some(on_exit)) } {
            0 => {}
            errno => return Err(Errno::from_raw(errno)),
        }
        let made = key + 1;
        if self.key.compare_exchange(0, made, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            // SAFETY: another thread's key went in; nobody has set this one.
            unsafe { libc::pthread_key_delete(key) };
        }
        Ok(())
    }

    /// Has the destructor called with `value` in the next of the thread's destructor rounds.
    /// Fails with `ENOMEM` where the libc needs memory for it and has none.
    pub(crate) fn arm(&self, value: *const c_void) -> Result<(), Errno> {
        let key = self.key.load(Ordering::Acquire);
        debug_assert_ne!(key, 0, "installed before any thread registers");
        // SAFETY: the key exists once it is nonzero, and is never deleted.
        match unsafe { libc::pthread_setspecific(key - 1, value) } {
            0 => Ok(()),
            errno => Err(Errno::from_raw(errno)),
        }
    }
}

/// Has the three functions called around every `fork`.
pub(crate) fn pthread_atfork(
    before: unsafe extern "C" fn(),
    parent: unsafe extern "C" fn(),
    child: unsafe extern "C" fn(),
) -> Result<(), Errno> {
    // SAFETY: the functions stay for as long as the program does.
    match unsafe { libc::pthread_atfork(Some(before), Some(parent), Some(child)) } {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno)),
    }
}
