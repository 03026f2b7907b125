//! [`futex(2)`](https://man7.org/linux/man-pages/man2/futex.2.html), private to the process.
//!
//! A wait ends for any reason: a wake, another value, a signal, a deadline, a filter that forbids
//! the call. Whoever waits looks again, so no reason has to be told apart.

use core::time::Duration;

use super::clock::{self, Deadline};
use super::raw;
use super::sync::{AtomicU32, AtomicU64, yield_now};
use crate::Errno;

/// Memory with 32 bits that the kernel can compare.
pub(crate) trait Word {
    /// Where the 32 bits are.
    fn address(&self) -> usize;
}

impl Word for AtomicU32 {
    fn address(&self) -> usize {
        self.as_ptr() as usize
    }
}

/// The low half of the number is the futex word.
impl Word for AtomicU64 {
    fn address(&self) -> usize {
        self.as_ptr() as usize + if cfg!(target_endian = "big") { 4 } else { 0 }
    }
}

/// How long a sleep may last.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    Never,
    At(Deadline),
    /// From now on, again at every sleep. Needs no clock.
    For(Duration),
    /// The same, for a thread that waits without a limit and looks after others now and then.
    Poll(Duration),
}

/// Sleeps while the word is `expected`. Returns whether the limit has been reached.
///
/// Where the kernel is not let to put us to sleep (a seccomp filter), this yields instead: slow,
/// but a round that installs such a filter still ends.
pub(crate) fn wait<W: Word>(word: &W, expected: u32, limit: Limit) -> bool {
    // A plain wait takes a time, a wait for any of a set of bits a point in time.
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
    // SAFETY: the kernel reads the word and the timespec, which both outlive the call.
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

/// Wakes up to `count` sleepers.
pub(crate) fn wake<W: Word>(word: &W, count: i32) {
    let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel uses the address as a key and touches no memory.
    let _ = unsafe {
        raw::syscall(libc::SYS_futex, [word.address(), op as usize, count as usize, 0, 0, 0])
    };
}

/// Makes a system call that wakes nothing: a thread that may not call futex any more ends here.
pub(crate) fn probe() {
    wake(&AtomicU32::new(0), 1);
}

/// Whether no thread with this id exists any more.
///
/// Asked of the futex call, because a call made by a round may have forbidden every other (a
/// seccomp filter against `tgkill`, a Landlock domain over `/proc`): a try-lock of a
/// priority-inheriting futex looks its owner up, and answers `ESRCH` for one that is gone.
pub(crate) fn is_dead(tid: u32) -> bool {
    let word = AtomicU32::new(tid);
    let op = libc::FUTEX_TRYLOCK_PI | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel reads and writes the word, which is ours and outlives the call; a
    // try-lock that fails leaves nothing behind in the kernel.
    let tried = unsafe { raw::syscall(libc::SYS_futex, [word.address(), op as usize, 0, 0, 0, 0]) };
    matches!(tried, Err(errno) if errno.raw() == libc::ESRCH)
}
