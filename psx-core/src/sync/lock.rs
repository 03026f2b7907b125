//! A lock that sleeps on a futex: for the list, which is never held for longer than a few instructions.
//!
//! std's cannot be made anew in a forked child.

use crate::sys::const_on_linux;
use crate::sys::futex::{self, Limit};
use crate::sys::sync::{AtomicU32, Ordering};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

pub(crate) const UNLOCKED: u32 = 0;
const LOCKED: u32 = 1;
/// Held, and somebody may be asleep.
const CONTENDED: u32 = 2;

/// A lock without data: what it protects says so.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Taken with Acquire, given back with Release: what was done under the lock is seen by the
    /// next holder.
    state: AtomicU32,
}

impl Lock {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { state: AtomicU32::new(UNLOCKED) }
        }
    }

    /// Takes the lock, however long it takes: no holder waits for anything, or runs code of the
    /// program. Signals are answered in the meantime.
    pub(crate) fn acquire(&self) {
        if self
            .state
            .compare_exchange(UNLOCKED, LOCKED, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            return;
        }
        while self.state.swap(CONTENDED, Ordering::Acquire) != UNLOCKED {
            futex::wait(&self.state, CONTENDED, Limit::Never);
        }
    }

    /// Gives the lock back. Only its holder calls this.
    pub(crate) fn release(&self) {
        if self.state.swap(UNLOCKED, Ordering::Release) == CONTENDED {
            futex::wake(&self.state, 1);
        }
    }

    /// Free again, in a forked child, whoever held it in the parent.
    pub(crate) fn reset_after_fork(&self) {
        // Relaxed: the child has one thread.
        self.state.store(UNLOCKED, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let (lock, count) = (Lock::new(), core::cell::Cell::new(0));
        /// Shared among threads that take turns by the lock.
        struct Shared<'a>(&'a Lock, &'a core::cell::Cell<u32>);
        // SAFETY: the cell is touched only under the lock: this is the test.
        unsafe impl Sync for Shared<'_> {}
        let shared = &Shared(&lock, &count);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        shared.0.acquire();
                        shared.1.set(shared.1.get() + 1);
                        shared.0.release();
                    }
                });
            }
        });
        assert_eq!(count.get(), 40_000);
    }
}
