//! A countdown that one thread waits for.
//!
//! The upper half is the round's epoch: a thread that the scheduler preempts between its arrival and its
//! countdown, and that resumes in a later round, counts nothing down.

use super::{Epoch, SpinWait};
use crate::sys::const_on_linux;
use crate::sys::futex::{self, Limit};
use crate::sys::sync::{AtomicU64, Ordering};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

/// The waiting thread sleeps or is about to.
const HAS_WAITER: u64 = 1 << 31;
/// A thread has counted down without having stopped.
pub(crate) const MARKED: u64 = 1 << 30;
pub(crate) const REMAINING: u64 = MARKED - 1;

#[derive(Debug)]
pub(crate) struct Latch {
    /// Epoch, [`HAS_WAITER`], [`MARKED`], and how many threads are missing. Set by the holder of the round's
    /// lock; counted down by any thread, by compare-and-swap under the epoch.
    word: AtomicU64,
}

impl Latch {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { word: AtomicU64::new(0) }
        }
    }

    /// Sets the count for the round of `epoch`. Relaxed: published by the Release in `Word::publish`.
    pub(crate) fn arm(&self, epoch: Epoch, count: usize) {
        self.word.store(epoch.tag_wide(count as u32), Ordering::Relaxed);
    }

    /// Counts down by one, and returns how many threads are still missing. Does nothing in another epoch.
    pub(crate) fn count_down(&self, epoch: Epoch) -> usize {
        self.count(epoch, 0)
    }

    /// The same for a thread that has not stopped. Marks the latch.
    pub(crate) fn count_down_marked(&self, epoch: Epoch) {
        self.count(epoch, MARKED);
    }

    /// Whether a thread has counted down without having stopped. The holder of the round's lock calls this
    /// after the latch has opened.
    pub(crate) fn is_marked(&self) -> bool {
        // Relaxed: the Acquire in `wait` found the latch open, so it came after all countdowns.
        self.word.load(Ordering::Relaxed) & MARKED != 0
    }

    fn count(&self, epoch: Epoch, mark: u64) -> usize {
        // Relaxed: the exchange below decides.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if !epoch.matches(word) || word & REMAINING == 0 {
                return 0;
            }
            // Release pairs with the Acquire in `wait` and `sleep`: the waiting thread sees what each thread
            // did before it counted down. Acquire pairs with the Release of earlier countdowns.
            match self.word.compare_exchange_weak(
                word,
                (word - 1) | mark,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        let missing = (word & REMAINING) as usize - 1;
        if missing == 0 && word & HAS_WAITER != 0 {
            futex::wake(&self.word, 1);
        }
        missing
    }

    /// Waits until no thread is missing, or returns `false` at the limit. Only the holder of the round's lock
    /// calls this.
    pub(crate) fn wait(&self, limit: Limit, mut spin: SpinWait) -> bool {
        // Acquire, here and in `sleep`, pairs with the Release in `count`.
        while self.word.load(Ordering::Acquire) & REMAINING != 0 {
            if !spin.spin() {
                return self.sleep(limit);
            }
        }
        true
    }

    fn sleep(&self, limit: Limit) -> bool {
        let mut timed_out = false;
        loop {
            let word = self.word.fetch_or(HAS_WAITER, Ordering::Acquire);
            if word & REMAINING == 0 {
                return true;
            }
            if timed_out {
                return false;
            }
            timed_out = futex::wait(&self.word, (word | HAS_WAITER) as u32, limit);
        }
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;
    use core::time::Duration;

    use crate::sync::WaitPolicy;

    fn opens_soon(latch: &Latch) -> bool {
        let soon = Limit::For(Duration::from_millis(1));
        latch.wait(soon, WaitPolicy::new().for_caller())
    }

    #[test]
    fn it_opens_when_all_threads_have_counted_down() {
        let (latch, epoch) = (Latch::new(), Epoch::default().next());
        latch.arm(epoch, 2);
        latch.count_down(epoch);
        assert!(!opens_soon(&latch));
        latch.count_down(epoch);
        assert!(opens_soon(&latch));
    }

    #[test]
    fn a_late_thread_counts_down_nothing() {
        let (latch, early) = (Latch::new(), Epoch::default().next());
        latch.arm(early.next(), 1);
        latch.count_down(early);
        assert!(!opens_soon(&latch));
    }
}
