//! A seccomp filter, and its installation on all threads by the kernel's `TSYNC`. Contains `unsafe`:
//! libc has no wrapper for the call.

use std::fmt;

use psx_core::NamedThread;

use super::{Cause, Precondition, bpf, threads};
use crate::Errno;

/// A program in classic BPF.
pub(super) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    pub(super) fn new(program: &[libc::sock_filter]) -> Self {
        Self(program.to_vec())
    }

    /// Finds an instruction that the kernel would refuse.
    pub(super) fn check(&self) -> Result<(), Precondition> {
        bpf::check(&self.0)
    }

    /// A thread that has more filters than the calling thread, if there is one. The kernel would refuse the
    /// filter too, but only after the round.
    pub(super) fn thread_with_more_filters() -> Option<NamedThread> {
        let threads = threads().ok()?;
        // SAFETY: the call only reads.
        let this = unsafe { libc::gettid() } as u32;
        let ours = threads.iter().find(|state| state.tid() == this)?.seccomp_filters;
        threads.into_iter().find(|state| state.seccomp_filters > ours).map(|state| state.thread)
    }

    /// Installs the filter on all threads, or on none.
    pub(super) fn install_on_all_threads(&self) -> Result<(), Cause> {
        let program =
            libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the kernel reads `len` instructions, and writes none.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_TSYNC,
                &raw const program,
            )
        };
        match result {
            0 => Ok(()),
            -1 => Err(Cause::Kernel(Errno::last())),
            tid => Err(Cause::Unsynced(NamedThread::of(tid as u32))),
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({} instructions)", self.0.len())
    }
}
