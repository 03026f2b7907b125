//! The calling thread's signal mask, by the raw call: libc's functions leave out the signals that the libc
//! reserves, and 33 is one of them.

use super::raw;
use super::signal::SUMMONS;
use crate::Errno;

/// The kernel's signal set: bit `n - 1` is signal `n`, 1 to 64.
type Set = u64;

const fn bit(signal: i32) -> Set {
    1 << (signal - 1)
}

/// The signals that report what the thread itself has just done: a fault, a trap, a system call that a
/// seccomp filter traps.
const SYNCHRONOUS: Set = bit(libc::SIGSYS)
    | bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGILL)
    | bit(libc::SIGFPE)
    | bit(libc::SIGTRAP);

/// The signals that psx blocks: all but the synchronous ones. The kernel ends the process when it delivers
/// one of those to a thread that blocks it (`force_sig_info_to_task` in kernel/signal.c), although the
/// program may have a handler for it.
pub(super) const BLOCKED: Set = !SYNCHRONOUS;

/// The previous mask; restored when dropped.
#[derive(Debug)]
pub(crate) struct Masked {
    before: Set,
}

/// Blocks all signals but the synchronous ones. Fails if a seccomp filter forbids the call.
pub(crate) fn block_all() -> Result<Masked, Errno> {
    Ok(Masked { before: sigprocmask(libc::SIG_BLOCK, BLOCKED)? })
}

/// Unblocks the summons, which a new thread may have inherited as blocked from its creator. Fails as
/// [`block_all`].
pub(crate) fn unblock_summons() -> Result<(), Errno> {
    sigprocmask(libc::SIG_UNBLOCK, bit(SUMMONS)).map(drop)
}

impl Masked {
    /// Calls `wait` with the summons unblocked, and no other signal: a caller that waits for the round's
    /// lock answers another caller's summons, but runs no handler of the program. If this fails, `wait` may
    /// have been called, and 33 may be unblocked.
    pub(crate) fn with_summons_unblocked<R>(&self, wait: impl FnOnce() -> R) -> Result<R, Errno> {
        unblock_summons()?;
        let waited = wait();
        sigprocmask(libc::SIG_BLOCK, bit(SUMMONS))?;
        Ok(waited)
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        // Fails only if the call of the round forbids it. Then the mask stays: the call has been made, and
        // there is no error to return (docs/signal-safety.md).
        let _ = sigprocmask(libc::SIG_SETMASK, self.before);
    }
}

/// Changes the mask and returns the previous one.
fn sigprocmask(how: i32, set: Set) -> Result<Set, Errno> {
    // The kernel returns no mask with all bits: SIGKILL and SIGSTOP cannot be blocked.
    let mut before: Set = Set::MAX;
    let args =
        [how as usize, &raw const set as usize, &raw mut before as usize, size_of::<Set>(), 0, 0];
    // SAFETY: the kernel reads one set and writes one, both ours. Blocking a signal only delays it.
    unsafe { raw::syscall(libc::SYS_rt_sigprocmask, args) }?;
    if before == Set::MAX { Err(raw::FORGED) } else { Ok(before) }
}
