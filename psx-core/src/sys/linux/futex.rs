//! [`futex(2)`](https://man7.org/linux/man-pages/man2/futex.2.html), private to the process.
//!
//! A wait may end for any reason: a wake, another value, a signal, a deadline, a filter that forbids the
//! call. Waits can wake spuriously, so callers recheck the word and need no reason.

use core::time::Duration;

use super::clock::{self, Deadline};
use super::raw;
use super::sync::{AtomicU32, AtomicU64, yield_now};
use crate::Errno;

/// An atomic with a futex word of 32 bits.
pub(crate) trait Word {
    /// The address of the futex word.
    fn address(&self) -> usize;
}

impl Word for AtomicU32 {
    fn address(&self) -> usize {
        self.as_ptr() as usize
    }
}

/// The low half is the futex word.
impl Word for AtomicU64 {
    fn address(&self) -> usize {
        self.as_ptr() as usize + if cfg!(target_endian = "big") { 4 } else { 0 }
    }
}

/// How long a wait may last.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    Never,
    At(Deadline),
    /// From now on, again at each wait. Needs no clock.
    For(Duration),
    /// As `For`, for a wait without a limit that checks regularly whether the round's caller is alive.
    Poll(Duration),
}

/// Sleeps while the word is `expected`. Returns whether the limit has been reached.
///
/// If a seccomp filter forbids the call, this yields instead: slow, but a round that installs such a filter
/// still ends.
pub(crate) fn wait<W: Word>(word: &W, expected: u32, limit: Limit) -> bool {
    // FUTEX_WAIT takes a relative time, FUTEX_WAIT_BITSET an absolute one.
    let (op, until) = match limit {
        Limit::Never => (libc::FUTEX_WAIT, None),
        Limit::For(time) | Limit::Poll(time) => (libc::FUTEX_WAIT, Some(clock::timespec(time))),
        Limit::At(deadline) => (libc::FUTEX_WAIT_BITSET, Some(deadline.timespec())),
    };
    let args = [
        word.address(),
        (op | libc::FUTEX_PRIVATE_FLAG) as usize,
        expected as usize,
        until.as_ref().map_or(0, |until| &raw const *until as usize),
        0,
        libc::FUTEX_BITSET_MATCH_ANY as u32 as usize,
    ];
    // SAFETY: the kernel reads the word and the timespec, which outlive the call.
    let woken = unsafe { raw::syscall(libc::SYS_futex, args) };
    match woken.map_err(Errno::raw) {
        Err(libc::ETIMEDOUT) => return true,
        Ok(_) | Err(libc::EAGAIN | libc::EINTR) => {}
        Err(_) => {
            yield_now();
            return matches!(limit, Limit::At(deadline) if deadline.passed());
        }
    }
    false
}

/// Wakes up to `count` waiters.
pub(crate) fn wake<W: Word>(word: &W, count: i32) {
    let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel uses the address as a key and touches no memory.
    let _ = unsafe {
        raw::syscall(libc::SYS_futex, [word.address(), op as usize, count as usize, 0, 0, 0])
    };
}

/// Makes a futex call that wakes no thread: a thread to which a filter forbids futex ends here.
pub(crate) fn probe() {
    wake(&AtomicU32::new(0), 1);
}

/// Whether no thread has this id.
///
/// Uses futex because the call of a round may have forbidden all other system calls (a seccomp filter
/// against `tgkill`, a Landlock domain over `/proc`): a try-lock of a priority-inheriting futex looks its
/// owner up, and fails with `ESRCH` if there is none.
pub(crate) fn is_dead(tid: u32) -> bool {
    let word = AtomicU32::new(tid);
    let op = libc::FUTEX_TRYLOCK_PI | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel reads and writes the word, which is ours and outlives the call; a try-lock that
    // fails leaves no state in the kernel.
    let tried = unsafe { raw::syscall(libc::SYS_futex, [word.address(), op as usize, 0, 0, 0, 0]) };
    matches!(tried, Err(errno) if errno.raw() == libc::ESRCH)
}
