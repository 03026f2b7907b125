//! Landlock's system calls, for one thread and for all. Contains `unsafe`: libc has no wrappers for them.

use std::io;
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use super::Precondition;
use crate::Errno;

/// `LANDLOCK_CREATE_RULESET_VERSION`
const VERSION: u32 = 1;
/// `LANDLOCK_RESTRICT_SELF_TSYNC`
const TSYNC: u32 = 1 << 3;
/// The first ABI with flags about logging.
const LOGGING_ABI: i64 = 7;
/// The first ABI with [`TSYNC`].
const TSYNC_ABI: i64 = 8;

/// Which denials of a Landlock domain are written to the audit log, see `landlock_restrict_self(2)`. All
/// but [`NONE`](Self::NONE) need Landlock ABI 7 (Linux 6.15).
///
/// # Examples
///
/// ```
/// use psx::privileges::LandlockFlags;
///
/// let quiet = LandlockFlags::LOG_SAME_EXEC_OFF | LandlockFlags::LOG_SUBDOMAINS_OFF;
/// assert_ne!(quiet, LandlockFlags::NONE);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LandlockFlags(u32);

impl LandlockFlags {
    /// The kernel's defaults.
    pub const NONE: Self = Self(0);
    /// Denials in this program, up to its next `execve`, are not logged.
    pub const LOG_SAME_EXEC_OFF: Self = Self(1);
    /// Denials after the next `execve` are logged.
    pub const LOG_NEW_EXEC_ON: Self = Self(1 << 1);
    /// Denials by domains nested in this one are not logged.
    pub const LOG_SUBDOMAINS_OFF: Self = Self(1 << 2);

    pub(super) fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for LandlockFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for LandlockFlags {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// The kernel's version of Landlock.
pub(super) struct Abi(i64);

impl Abi {
    /// Whether the kernel can restrict all threads at once.
    pub(super) fn can_sync(&self) -> bool {
        self.0 >= TSYNC_ABI
    }
}

/// Checks that the kernel accepts `ruleset` and `flags`.
pub(super) fn check(ruleset: &OwnedFd, flags: LandlockFlags) -> Result<Abi, Precondition> {
    // SAFETY: with this flag the call only returns the version.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0_usize, VERSION)
    };
    if abi < 1 {
        return Err(Precondition::LandlockUnavailable);
    }
    if abi < LOGGING_ABI && flags != LandlockFlags::NONE {
        let (abi, needed) = (abi as u32, LOGGING_ABI as u32);
        return Err(Precondition::LandlockFlagsUnsupported { abi, needed });
    }
    // SAFETY: the call takes two numbers.
    let file_flags = unsafe { libc::fcntl(ruleset.as_raw_fd(), libc::F_GETFL) };
    if file_flags >= 0 && file_flags & libc::O_PATH != 0 {
        return Err(Precondition::NotARuleset);
    }
    // Adds no rule, since there is no type 0. Kernels before 6.7 check the type first, later ones the
    // descriptor.
    // SAFETY: the call reads no memory for a rule of an unknown type.
    let added = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), 0, ptr::null::<u8>(), 0)
    };
    match io::Error::last_os_error().raw_os_error() {
        // `EBADF` for a descriptor of `O_PATH`.
        Some(libc::EBADFD | libc::EBADF) if added != 0 => Err(Precondition::NotARuleset),
        _ => Ok(Abi(abi)),
    }
}

/// The calling thread's id, if the thread can compare descriptors by `kcmp(2)`: the kernel may be built
/// without it, and a filter may refuse it.
pub(super) fn owner_to_compare(ruleset: &OwnedFd) -> Option<i32> {
    let owner = own_tid();
    (compare_files(owner, owner, ruleset.as_raw_fd()) == 0).then_some(owner)
}

/// Fails with `EBADF` if `ruleset` is another file, or none, in the calling thread's descriptor table
/// (`unshare(2)` with `CLONE_FILES`) than in that of the thread `owner`. Succeeds if the kernel cannot compare
/// them. Async-signal-safe: two system calls. Writes errno.
pub(super) fn require_file_of(owner: Option<i32>, ruleset: i32) -> Result<(), Errno> {
    let Some(owner) = owner else { return Ok(()) };
    let bad = Errno::from_raw(libc::EBADF);
    match compare_files(owner, own_tid(), ruleset) {
        0 => Ok(()),
        // A filter that only this thread has may return any other error.
        -1 if Errno::last() != bad => Ok(()),
        _ => Err(bad),
    }
}

/// 0 if it is the same file. Threads of one process may always inspect each other, even with different
/// Landlock domains (`__ptrace_may_access` in the kernel's `kernel/ptrace.c`).
fn compare_files(one: i32, other: i32, fd: i32) -> i64 {
    /// `KCMP_FILE`
    const FILE: i32 = 0;
    // SAFETY: the call takes numbers.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, FILE, fd, fd) }
}

fn own_tid() -> i32 {
    // SAFETY: the call only reads.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// Restricts the calling thread. Async-signal-safe: one system call. Writes errno.
pub(super) fn restrict_this_thread(ruleset: i32, flags: u32) -> Result<(), Errno> {
    // SAFETY: the call takes two numbers.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, flags) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// Restricts all threads, or none.
pub(super) fn restrict_all_threads(ruleset: &OwnedFd, flags: LandlockFlags) -> Result<(), Errno> {
    restrict_this_thread(ruleset.as_raw_fd(), flags.bits() | TSYNC)
}
