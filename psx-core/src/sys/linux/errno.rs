//! The calling thread's errno, which a signal handler restores. Contains `unsafe`: the libc returns a
//! pointer to it.

use core::ffi::c_int;

/// The saved errno; restored when dropped.
pub(crate) struct Saved {
    errno: c_int,
}

impl Saved {
    /// Saves the errno. The calling thread must have its own thread-local storage, as every registered
    /// thread has.
    pub(crate) fn new() -> Self {
        // SAFETY: a valid pointer to the thread's own errno.
        Self { errno: unsafe { *libc::__errno_location() } }
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.errno };
    }
}
