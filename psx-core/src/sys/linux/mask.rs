//! The calling thread's signal mask, by the raw call: libc's own would leave out the signals that
//! it keeps to itself, and 33 is one of them.

use super::raw;
use super::signal::SUMMONS;

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

/// Blocks every signal but the synchronous ones.
pub(crate) fn block_all() -> Masked {
    Masked { before: change(libc::SIG_BLOCK, BLOCKED) }
}

/// Lets the calling thread be summoned: a new thread inherits its creator's mask, whatever it is.
pub(crate) fn unblock_summons() {
    change(libc::SIG_UNBLOCK, only(SUMMONS));
}

impl Masked {
    /// Waits with the summons unblocked, and no other signal: a caller that waits its turn must
    /// still answer another caller's summons, but must not run a handler of the program's.
    pub(crate) fn except_summons<R>(&self, wait: impl FnOnce() -> R) -> R {
        unblock_summons();
        let waited = wait();
        change(libc::SIG_BLOCK, only(SUMMONS));
        waited
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        change(libc::SIG_SETMASK, self.before);
    }
}

fn change(how: i32, set: Set) -> Set {
    let mut before: Set = 0;
    let args =
        [how as usize, &raw const set as usize, &raw mut before as usize, size_of::<Set>(), 0, 0];
    // SAFETY: the kernel reads one set and writes one, both ours; blocking a signal delays it and
    // breaks nobody's memory.
    let _ = unsafe { raw::syscall(libc::SYS_rt_sigprocmask, args) };
    before
}
