//! Linux error numbers.

use std::{error, fmt, io};

/// A Linux error number, as the kernel returned it. `{}` and `{:?}` print its text and number:
/// `Operation not permitted (os error 1)`.
///
/// psx neither reads nor changes a thread's `errno`, so only this value tells why a broadcast's call
/// failed.
///
/// # Examples
///
/// ```
/// # extern crate psx_core as psx;
/// use psx::Errno;
///
/// let denied = Errno::from_raw(1);
/// assert_eq!(denied.raw(), 1);
/// assert_eq!(std::io::Error::from(denied).kind(), std::io::ErrorKind::PermissionDenied);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Errno(i32);

impl Errno {
    /// The error with the number `raw`, one of those in [`errno(3)`].
    ///
    /// [`errno(3)`]: https://man7.org/linux/man-pages/man3/errno.3.html
    #[must_use]
    pub const fn from_raw(raw: i32) -> Self {
        Self(raw)
    }

    /// The calling thread's `errno`, for closures that call libc functions. Async-signal-safe: it reads one
    /// thread-local.
    #[must_use]
    pub fn last() -> Self {
        Self(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    /// The number, comparable with libc's constants (`libc::EPERM`, ...).
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&io::Error::from_raw_os_error(self.0), f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for Errno {}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}
