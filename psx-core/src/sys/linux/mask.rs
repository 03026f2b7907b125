//! The calling thread's signal mask, by the raw call: libc's own would leave out the signals that
//! it keeps to itself, and 33 is one of them.

use super::raw;
use super::signal::SUMMONS;
use crate::Errno;

/// The signals 1 to 64, bit `n - 1` for signal `n`: the kernel's own form.
type Set = u64;

const fn only(signal: i32) -> Set {
    1 << (signal - 1)
}

/// The signals by which the kernel reports what the thread itself has just done: a fault, a trap, a
/// system call that a seccomp filter traps.
const SYNCHRONOUS: Set = only(libc::SIGSYS)
    | only(libc::SIGSEGV)
    | only(libc::SIGBUS)
    | only(libc::SIGILL)
    | only(libc::SIGFPE)
    | only(libc::SIGTRAP);

/// What psx blocks: every signal but the synchronous ones. The kernel ends the process when it has to
/// deliver one of those to a thread that blocks it (`force_sig_info_to_task` in kernel/signal.c), and
/// the program may have a handler that would have dealt with it.
pub(super) const BLOCKED: Set = !SYNCHRONOUS;

/// The mask that was in force; put back when dropped.
#[derive(Debug)]
pub(crate) struct Masked {
    before: Set,
}

/// Blocks every signal but the synchronous ones. Fails where a filter on system calls keeps it from us.
pub(crate) fn block_all() -> Result<Masked, Errno> {
    Ok(Masked { before: change(libc::SIG_BLOCK, BLOCKED)? })
}

/// Lets the calling thread be summoned: a new thread inherits its creator's mask, whatever it is. Fails
/// as [`block_all`] does.
pub(crate) fn unblock_summons() -> Result<(), Errno> {
    change(libc::SIG_UNBLOCK, only(SUMMONS)).map(drop)
}

impl Masked {
    /// Waits with the summons unblocked, and no other signal: a caller that waits its turn must
    /// still answer another caller's summons, but must not run a handler of the program's. Where this
    /// fails, the wait may have been made, and 33 may be unblocked.
    pub(crate) fn with_summons_unblocked<R>(&self, wait: impl FnOnce() -> R) -> Result<R, Errno> {
        unblock_summons()?;
        let waited = wait();
        change(libc::SIG_BLOCK, only(SUMMONS))?;
        Ok(waited)
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        // Fails only where the round itself has forbidden it. Then the mask stays as it is: the call has
        // been made, so that there is no error to return any more (docs/signal-safety.md).
        let _ = change(libc::SIG_SETMASK, self.before);
    }
}

/// Changes the mask and returns the one before.
fn change(how: i32, set: Set) -> Result<Set, Errno> {
    // No mask of the kernel's has all bits: SIGKILL and SIGSTOP cannot be blocked.
    let mut before: Set = Set::MAX;
    let args =
        [how as usize, &raw const set as usize, &raw mut before as usize, size_of::<Set>(), 0, 0];
    // SAFETY: the kernel reads one set and writes one, both ours; blocking a signal delays it and
    // breaks nobody's memory.
    unsafe { raw::syscall(libc::SYS_rt_sigprocmask, args) }?;
    // A filter has answered in the kernel's place.
    if before == Set::MAX { Err(Errno::from_raw(libc::ENOSYS)) } else { Ok(before) }
}
