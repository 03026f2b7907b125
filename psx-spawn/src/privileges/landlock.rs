//! Landlock: which way to all threads the kernel offers, and its own one. Contains `unsafe`: libc
//! has no wrappers for these calls.

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
/// The ABI from which on there are flags about logging.
const LOGGING_ABI: i64 = 7;
/// The ABI from which on there is [`TSYNC`].
const TSYNC_ABI: i64 = 8;

/// What of a Landlock domain is written to the audit log, see `landlock_restrict_self(2)`. Any but
/// [`NONE`](Self::NONE) needs Landlock ABI 7 (Linux 6.15).
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

/// What version of Landlock the kernel has.
pub(super) struct Abi(i64);

impl Abi {
    /// Whether the kernel itself restricts all threads at once.
    pub(super) fn can_sync(&self) -> bool {
        self.0 >= TSYNC_ABI
    }
}

/// Says why the kernel would refuse `ruleset` and `flags`.
pub(super) fn check(ruleset: &OwnedFd, flags: LandlockFlags) -> Result<Abi, Precondition> {
    // SAFETY: asked for its version, the call reads and makes nothing.
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
    // Adds no rule, since there is none of type 0. Kernels before 6.7 see that first; later ones
    // look at the descriptor first.
    // SAFETY: the call reads no memory for a rule of an unknown type.
    let added = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), 0, ptr::null::<u8>(), 0)
    };
    match io::Error::last_os_error().raw_os_error() {
        // As the second where the descriptor is one of `O_PATH`.
        Some(libc::EBADFD | libc::EBADF) if added != 0 => Err(Precondition::NotARuleset),
        _ => Ok(Abi(abi)),
    }
}

/// The calling thread's id, if the kernel tells it whether a descriptor is the same file in two threads:
/// a kernel may be built without `kcmp(2)`, and a filter may refuse it.
pub(super) fn owner_to_compare(ruleset: &OwnedFd) -> Option<i32> {
    let owner = own_tid();
    (compare_files(owner, owner, ruleset.as_raw_fd()) == 0).then_some(owner)
}

/// Fails with `EBADF` where `ruleset` is another file, or none, in the calling thread's descriptor table
/// (`unshare(2)` with `CLONE_FILES`) than in that of the thread `owner`. Passes where the kernel does not
/// tell. Fit for a round: two system calls. Writes errno.
pub(super) fn require_file_of(owner: Option<i32>, ruleset: i32) -> Result<(), Errno> {
    let Some(owner) = owner else { return Ok(()) };
    let bad = Errno::from_raw(libc::EBADF);
    match compare_files(owner, own_tid(), ruleset) {
        0 => Ok(()),
        // A filter of this thread alone may answer any other error.
        -1 if Errno::last() != bad => Ok(()),
        _ => Err(bad),
    }
}

/// 0 where it is the same file. Threads of one process may always look at each other, also with Landlock
/// domains of their own (`__ptrace_may_access` in the kernel's `kernel/ptrace.c`).
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

/// Restricts the calling thread. Fit for a round: one system call. Writes errno.
pub(super) fn restrict_this_thread(ruleset: i32, flags: u32) -> Result<(), Errno> {
    // SAFETY: the call takes two numbers.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, flags) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// Has the kernel restrict all threads, or none.
pub(super) fn restrict_all_threads(ruleset: &OwnedFd, flags: LandlockFlags) -> Result<(), Errno> {
    restrict_this_thread(ruleset.as_raw_fd(), flags.bits() | TSYNC)
}
