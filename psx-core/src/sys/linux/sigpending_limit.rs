//! `RLIMIT_SIGPENDING`: how many signals the user's processes may have queued. The count is kept
//! per user, so that anyone of that user can use it up; the limit is the process's own, and may
//! be raised for as long as a round needs it.

use core::ptr;

use super::raw;
use crate::Errno;

/// The limit raised as far as this process may; put back when dropped.
#[derive(Debug)]
pub(crate) struct SigpendingLimit {
    before: libc::rlimit64,
}

impl SigpendingLimit {
    /// Raises the limit: beyond the hard one where that is allowed (`CAP_SYS_RESOURCE`), else up
    /// to it. `None` where there is nothing to be gained.
    pub(crate) fn raise() -> Option<Self> {
        let before = limit(None).ok()?;
        let unlimited =
            libc::rlimit64 { rlim_cur: libc::RLIM64_INFINITY, rlim_max: libc::RLIM64_INFINITY };
        let up_to_hard = libc::rlimit64 { rlim_cur: before.rlim_max, ..before };
        if before.rlim_cur == libc::RLIM64_INFINITY {
            return None;
        }
        let raised = limit(Some(&unlimited)).or_else(|_| limit(Some(&up_to_hard)));
        raised.ok().map(|_| Self { before })
    }
}

impl Drop for SigpendingLimit {
    fn drop(&mut self) {
        // Lowering a limit is always allowed.
        let _ = limit(Some(&self.before));
    }
}

fn limit(new: Option<&libc::rlimit64>) -> Result<libc::rlimit64, Errno> {
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
