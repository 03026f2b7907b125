//! The lock of the thread list: a futex mutex, held for a few instructions at a time. std's mutex cannot be
//! reset in a forked child.

use crate::sys::const_on_linux;
use crate::sys::futex::{self, Limit};
use crate::sys::sync::{AtomicU32, Ordering};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

pub(crate) const UNLOCKED: u32 = 0;
const LOCKED: u32 = 1;
/// Locked, and a thread may be asleep.
const CONTENDED: u32 = 2;

/// A lock without data. The fields that it protects name it.
#[derive(Debug)]
pub(crate) struct Lock {
    /// The Acquire in `acquire` pairs with the Release in `release`: an owner sees what the last one did.
    state: AtomicU32,
}

impl Lock {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { state: AtomicU32::new(UNLOCKED) }
        }
    }

    /// Acquires the lock. The wait has no limit: no owner waits while it holds the lock, or runs code of the
    /// program. Signals are handled during the wait.
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

    /// Releases the lock. Only the owner calls this.
    pub(crate) fn release(&self) {
        if self.state.swap(UNLOCKED, Ordering::Release) == CONTENDED {
            futex::wake(&self.state, 1);
        }
    }

    /// In a forked child: frees the lock, which a thread of the parent may have held.
    pub(crate) fn reset_after_fork(&self) {
        // Relaxed: the child has one thread.
        self.state.store(UNLOCKED, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let (lock, count) = (Lock::new(), core::cell::Cell::new(0));
        struct Shared<'a>(&'a Lock, &'a core::cell::Cell<u32>);
        // SAFETY: the cell is accessed only under the lock, which is what this tests.
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
