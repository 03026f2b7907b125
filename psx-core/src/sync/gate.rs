//! The gate between births, exits and rounds.
//!
//! Need: a round may begin only when nobody is between the `clone` of a thread and its
//! registration, and nobody is changing the list. Design: one word counts the passes that are out;
//! a round sets its top bit, which stops new passes, and waits for the count to reach zero. It is
//! a readers-writer lock whose readers are those who change the list, and whose writer is the one
//! who only looks at it.
//!
//! A program may broadcast in a loop on several threads, so that the gate is closed again a microsecond
//! after it has opened, before a thread that waits outside has a core. So the next round leaves the gate
//! open until one of those that have waited is through, for [`ADMIT_TIMEOUT`] at most.
//!
//! Downside: a pass that never comes back would keep rounds out for ever, so the closing side has a
//! deadline. A holder of a pass may go through again without waiting ([`Pass::duplicate`]): an
//! allocator that starts a thread of its own in the middle of a spawn must not wait for a round
//! that waits for that spawn.

use core::sync::atomic::AtomicU32 as ForkCount;
use core::time::Duration;

use super::liveness_poll::LivenessPoll;
use crate::sys::clock::Deadline;
use crate::sys::const_on_linux;
use crate::sys::futex::{self, Limit};
use crate::sys::sync::{AtomicU32, Ordering};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

pub(crate) const CLOSED: u32 = 1 << 31;
/// A thread waits outside a closed gate; or has waited, and is not through the open gate yet.
const HAS_WAITERS: u32 = 1 << 30;
const PASSES: u32 = HAS_WAITERS - 1;

/// How long a round leaves the gate open for threads that have waited. Longer than a thread that has been
/// woken takes to get a core; a thread that has died or given up costs the next round this once.
const ADMIT_TIMEOUT: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Gate {
    /// [`CLOSED`], [`HAS_WAITERS`], and the number of passes out. Anyone may take a pass while it is
    /// open; only the holder of the round's lock closes and opens it.
    word: AtomicU32,
    /// How many forks this process is away from the one in which the gate was made. A pass of an
    /// earlier generation is its parent's, and counts for nothing here. Changed only in a child
    /// that has one thread (Relaxed).
    generation: ForkCount,
}

impl Gate {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { word: AtomicU32::new(0), generation: ForkCount::new(0) }
        }
    }

    /// Goes through, once the gate is open. `None` when the deadline, if there is one, comes first.
    pub(crate) fn enter(
        &self,
        deadline: Option<Deadline>,
        mut poll: LivenessPoll<'_>,
    ) -> Option<Pass<'_>> {
        let (mut waited, mut timed_out) = (false, false);
        loop {
            let word = self.word.load(Ordering::Relaxed);
            let is_open = word & CLOSED == 0;
            if timed_out && !is_open {
                return None;
            }
            let next = match (is_open, waited) {
                (true, false) => word + 1,
                (true, true) => (word + 1) & !HAS_WAITERS,
                (false, _) => word | HAS_WAITERS,
            };
            // Acquire pairs with the Release in `Closed::drop`: what the round did to the list is
            // seen by whoever changes it next.
            match self.word.compare_exchange(word, next, Ordering::Acquire, Ordering::Relaxed) {
                Err(_) => {}
                Ok(_) if is_open => {
                    if word & HAS_WAITERS != 0 && waited {
                        // A round may be leaving the gate open for us.
                        futex::wake(&self.word, i32::MAX);
                    }
                    return Some(self.pass());
                }
                Ok(_) => {
                    waited = true;
                    let limit = deadline.map_or(poll.unbounded(), |deadline| poll.limit(deadline));
                    if futex::wait(&self.word, next, limit) {
                        poll.check();
                        timed_out = deadline.is_some_and(Deadline::passed);
                    }
                }
            }
        }
    }

    /// Whether a round has closed it. Acquire pairs with the Release in `close`: with the closed gate, the
    /// owner of the round's lock is seen.
    pub(crate) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Whether a thread waits outside, or has waited and is not through yet. Relaxed: a hint.
    pub(crate) fn has_waiters(&self) -> bool {
        self.word.load(Ordering::Relaxed) & HAS_WAITERS != 0
    }

    /// Goes through at once, on the strength of a pass that is out.
    ///
    /// # Safety
    ///
    /// The calling thread knows of a pass that stays out until this returns: so no round can have
    /// begun (invariant I2).
    pub(crate) unsafe fn enter_nested(&self) -> Pass<'_> {
        // Relaxed: the pass that is out has acquired whatever there was to see.
        self.word.fetch_add(1, Ordering::Relaxed);
        self.pass()
    }

    fn pass(&self) -> Pass<'_> {
        Pass { gate: self, generation: self.generation() }
    }

    /// Which process this is, counted in forks.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Closes the gate and waits for every pass to come back; opens it again and returns `None`
    /// when the deadline comes first. Only the holder of the round's lock calls this.
    pub(crate) fn close(&self, deadline: Deadline) -> Option<Closed<'_>> {
        self.admit_waiter(deadline.at_most(ADMIT_TIMEOUT));
        // Release pairs with the Acquire in `is_closed`.
        self.word.fetch_or(CLOSED, Ordering::Release);
        let closed = Closed { gate: self };
        let mut timed_out = false;
        loop {
            // Acquire pairs with the Release in `Pass::drop`: the list as its last user left it.
            let word = self.word.load(Ordering::Acquire);
            if word & PASSES == 0 {
                return Some(closed);
            }
            if timed_out {
                return None;
            }
            timed_out = futex::wait(&self.word, word, Limit::At(deadline));
        }
    }

    /// Waits until one of the threads that have waited for the gate to open is through, or the deadline
    /// comes.
    fn admit_waiter(&self, deadline: Deadline) {
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & HAS_WAITERS == 0 {
                return;
            }
            if futex::wait(&self.word, word, Limit::At(deadline)) {
                // Relaxed: a hint. Who still waits asks again.
                self.word.fetch_and(!HAS_WAITERS, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Open, in a forked child: the threads whose passes were out do not exist there.
    pub(crate) fn reset_after_fork(&self) {
        // Relaxed: the child has one thread.
        self.generation.store(self.generation() + 1, Ordering::Relaxed);
        self.word.store(0, Ordering::Relaxed);
    }
}

/// The right to start a thread or to change the list. No round begins while it is out.
#[derive(Debug)]
pub(crate) struct Pass<'g> {
    gate: &'g Gate,
    generation: u32,
}

impl<'g> Pass<'g> {
    /// Whether it was taken here, and not before a fork.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.generation == self.gate.generation()
    }

    /// One more, at once: since this one is out, no round can have begun.
    pub(crate) fn duplicate(&self) -> Pass<'g> {
        // SAFETY: this pass is out.
        unsafe { self.gate.enter_nested() }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.is_of_this_process() {
            return;
        }
        // Release pairs with the Acquire in `Gate::close`.
        let word = self.gate.word.fetch_sub(1, Ordering::Release);
        if word & CLOSED != 0 && word & PASSES == 1 {
            futex::wake(&self.gate.word, i32::MAX);
        }
    }
}

/// The gate is closed and every pass is back: the list is frozen. Opens when dropped.
#[derive(Debug)]
pub(crate) struct Closed<'g> {
    gate: &'g Gate,
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `Gate::enter`.
        let word = self.gate.word.fetch_and(!CLOSED, Ordering::Release);
        if word & HAS_WAITERS != 0 {
            futex::wake(&self.gate.word, i32::MAX);
        }
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;
    use core::time::Duration;
    use std::sync::mpsc;

    fn enter(gate: &Gate) -> Pass<'_> {
        gate.enter(None, LivenessPoll::new(&|| ())).unwrap()
    }

    #[test]
    fn it_closes_only_when_every_pass_is_back() {
        let gate = Gate::new();
        let pass = enter(&gate);
        let another = pass.duplicate();
        drop(pass);
        assert!(gate.close(Deadline::after(Duration::from_millis(1))).is_none());
        drop(another);
        assert!(gate.close(Deadline::after(Duration::from_millis(1))).is_some());
    }

    #[test]
    fn it_is_open_again_after_a_close_that_gave_up() {
        let gate = Gate::new();
        let pass = enter(&gate);
        assert!(gate.close(Deadline::after(Duration::ZERO)).is_none());
        drop(enter(&gate));
        drop(pass);
    }

    #[test]
    fn a_pass_of_the_parent_counts_for_nothing_in_the_child() {
        let gate = Gate::new();
        let parents = enter(&gate);
        gate.reset_after_fork();
        assert!(gate.close(Deadline::after(Duration::from_millis(1))).is_some());
        drop(parents);
        assert!(gate.close(Deadline::after(Duration::from_millis(1))).is_some());
    }

    #[test]
    fn nobody_enters_while_it_is_closed() {
        let gate = Gate::new();
        let closed = gate.close(Deadline::after(Duration::from_secs(5)));
        let (entered, enters) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _pass = enter(&gate);
                entered.send(()).unwrap();
            });
            while gate.word.load(Ordering::Relaxed) & HAS_WAITERS == 0 {
                std::thread::yield_now();
            }
            assert_eq!(enters.try_recv(), Err(mpsc::TryRecvError::Empty));
            drop(closed);
            assert_eq!(enters.recv(), Ok(()));
        });
    }

    #[test]
    fn it_gives_up_at_the_deadline() {
        let gate = Gate::new();
        let closed = gate.close(Deadline::after(Duration::from_secs(5)));
        let soon = Deadline::after(Duration::from_millis(1));
        assert!(gate.enter(Some(soon), LivenessPoll::new(&|| ())).is_none());
        drop(closed);
        // The next round leaves the gate open for the one that has given up, but only for a moment.
        let start = std::time::Instant::now();
        assert!(gate.close(Deadline::after(Duration::from_secs(60))).is_some());
        assert!(start.elapsed() >= ADMIT_TIMEOUT);
        assert!(
            gate.enter(Some(soon), LivenessPoll::new(&|| ())).is_some(),
            "an open gate is not waited for"
        );
    }
}
