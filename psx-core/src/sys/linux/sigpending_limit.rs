//! `RLIMIT_SIGPENDING`, raised for a round. The kernel counts queued signals per user, so any process of
//! the user can use the limit up; the limit itself is the process's own.

use core::ptr;

use super::raw;
use crate::Errno;

/// The raised limit; restored when dropped.
#[derive(Debug)]
pub(crate) struct SigpendingLimit {
    before: libc::rlimit64,
}

impl SigpendingLimit {
    /// Raises the limit: to infinity if that is allowed (`CAP_SYS_RESOURCE`), else to the hard limit.
    /// `None` if it is infinite already, or cannot be changed.
    pub(crate) fn raise() -> Option<Self> {
        let before = prlimit(None).ok()?;
        let unlimited =
            libc::rlimit64 { rlim_cur: libc::RLIM64_INFINITY, rlim_max: libc::RLIM64_INFINITY };
        let up_to_hard = libc::rlimit64 { rlim_cur: before.rlim_max, ..before };
        if before.rlim_cur == libc::RLIM64_INFINITY {
            return None;
        }
        let raised = prlimit(Some(&unlimited)).or_else(|_| prlimit(Some(&up_to_hard)));
        raised.ok().map(|_| Self { before })
    }
}

impl Drop for SigpendingLimit {
    fn drop(&mut self) {
        // Lowering a limit is always allowed.
        let _ = prlimit(Some(&self.before));
    }
}

fn prlimit(new: Option<&libc::rlimit64>) -> Result<libc::rlimit64, Errno> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let args = [
        0,
        libc::RLIMIT_SIGPENDING as usize,
        new.map_or(0, |new| ptr::from_ref(new) as usize),
        &raw mut old as usize,
        0,
        0,
    ];
    // SAFETY: the kernel reads one limit and writes one, both ours.
    unsafe { raw::syscall(libc::SYS_prlimit64, args) }?;
    Ok(old)
}
