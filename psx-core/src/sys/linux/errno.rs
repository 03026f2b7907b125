//! The calling thread's errno, kept over what a signal handler does. Contains `unsafe`: the libc
//! gives a pointer to it.

use core::ffi::c_int;

/// The errno that was there; put back when dropped.
pub(crate) struct Saved {
    errno: c_int,
}

impl Saved {
    /// Takes note of the errno. The calling thread must have a thread-local storage of its own, as
    /// every registered thread has.
    pub(crate) fn new() -> Self {
        // SAFETY: the libc's errno is the thread's own, and exists for as long as the thread.
        Self { errno: unsafe { *libc::__errno_location() } }
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.errno };
    }
}
