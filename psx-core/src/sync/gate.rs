//! The gate, through which thread starts, thread exits and rounds go.
//!
//! Need: a round may begin only when no thread is between its `clone` and its registration, and no thread
//! changes the list. Design: one word counts the passes that are held. A round sets the top bit, which
//! stops new passes, and waits until the count is zero. In effect this is a readers-writer lock: the threads
//! that start threads or change the list are the readers, and the caller of a round is the writer.
//!
//! A program may broadcast in a loop on several threads, so that the gate closes again a microsecond after
//! it has opened, before a waiting thread gets a core. So the next round leaves the gate open until one
//! waiting thread has entered, for [`ADMIT_TIMEOUT`] at most.
//!
//! Downside: a pass that is never returned would keep rounds from beginning indefinitely, so closing the
//! gate has a deadline. A thread that holds a pass may enter again without waiting ([`Pass::duplicate`]): an
//! allocator that starts a thread in the middle of a spawn must not wait for a round that waits for that
//! spawn.

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
/// A thread waits at the closed gate, or has waited and has not entered yet.
const HAS_WAITERS: u32 = 1 << 30;
const PASSES: u32 = HAS_WAITERS - 1;

/// How long a round leaves the gate open for a waiting thread. Longer than a woken thread takes to get a core.
/// If the thread has died or given up, the next round waits this long, once.
const ADMIT_TIMEOUT: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Gate {
    /// [`CLOSED`], [`HAS_WAITERS`], and the number of passes that are held. Any thread takes and returns
    /// passes; only the holder of the round's lock closes and opens the gate.
    word: AtomicU32,
    /// The number of forks between the process that made the gate and this one. A pass of another generation
    /// was taken in a parent, and counts for nothing. Written only by the only thread of a forked child
    /// (Relaxed).
    generation: ForkCount,
}

impl Gate {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { word: AtomicU32::new(0), generation: ForkCount::new(0) }
        }
    }

    /// Takes a pass when the gate is open. `None` if a deadline is given and the gate stays closed until then.
    pub(crate) fn enter(
        &self,
        deadline: Option<Deadline>,
        mut poll: LivenessPoll<'_>,
    ) -> Option<Pass<'_>> {
        let (mut waited, mut timed_out) = (false, false);
        loop {
            // Relaxed: the exchange below decides.
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
            // Acquire pairs with the Release in `Closed::drop`: the list without the entries that the round
            // removed.
            match self.word.compare_exchange(word, next, Ordering::Acquire, Ordering::Relaxed) {
                Err(_) => {}
                Ok(_) if is_open => {
                    if word & HAS_WAITERS != 0 && waited {
                        // A round may be waiting in `admit_waiter`.
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

    /// Whether a round has closed the gate. Acquire pairs with the Release in `close`: a thread that sees the
    /// gate closed sees the owner of the round's lock.
    pub(crate) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Whether a thread waits at the gate, or has waited and has not entered yet. Relaxed: a hint.
    pub(crate) fn has_waiters(&self) -> bool {
        self.word.load(Ordering::Relaxed) & HAS_WAITERS != 0
    }

    /// Takes a pass without waiting, while another one is held.
    ///
    /// # Safety
    ///
    /// Another pass is held until this returns, so that no round can have begun (invariant I2).
    pub(crate) unsafe fn enter_nested(&self) -> Pass<'_> {
        // Relaxed: the other pass has acquired what the last round released.
        self.word.fetch_add(1, Ordering::Relaxed);
        self.pass()
    }

    fn pass(&self) -> Pass<'_> {
        Pass { gate: self, generation: self.generation() }
    }

    /// The number of forks between the process that made the gate and this one.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Closes the gate and waits until no pass is held. Opens it again and returns `None` at the deadline.
    /// Only the holder of the round's lock calls this.
    pub(crate) fn close(&self, deadline: Deadline) -> Option<Closed<'_>> {
        self.admit_waiter(deadline.at_most(ADMIT_TIMEOUT));
        // Release pairs with the Acquire in `is_closed`.
        self.word.fetch_or(CLOSED, Ordering::Release);
        let closed = Closed { gate: self };
        let mut timed_out = false;
        loop {
            // Acquire pairs with the Release in `Pass::drop`: the list as the threads with passes left it.
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

    /// Waits until one of the waiting threads has entered, or until the deadline.
    fn admit_waiter(&self, deadline: Deadline) {
        loop {
            // Relaxed: a hint.
            let word = self.word.load(Ordering::Relaxed);
            if word & HAS_WAITERS == 0 {
                return;
            }
            if futex::wait(&self.word, word, Limit::At(deadline)) {
                // Relaxed: a hint. A thread that still waits sets the bit again.
                self.word.fetch_and(!HAS_WAITERS, Ordering::Relaxed);
                return;
            }
        }
    }

    /// In a forked child: opens the gate. The threads that held passes do not exist there.
    pub(crate) fn reset_after_fork(&self) {
        // Relaxed: the child has one thread.
        self.generation.store(self.generation() + 1, Ordering::Relaxed);
        self.word.store(0, Ordering::Relaxed);
    }
}

/// Permission to start a thread or to change the list. No round begins while it is held. Returned when
/// dropped.
#[derive(Debug)]
pub(crate) struct Pass<'g> {
    gate: &'g Gate,
    generation: u32,
}

impl<'g> Pass<'g> {
    /// Whether it was taken in this process, and not in a parent before a fork.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.generation == self.gate.generation()
    }

    /// Takes another pass without waiting.
    pub(crate) fn duplicate(&self) -> Pass<'g> {
        // SAFETY: this pass is held until then (invariant I2).
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

/// The gate is closed and no pass is held: the list is frozen. Opens the gate when dropped.
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
    fn it_closes_only_when_no_pass_is_held() {
        let gate = Gate::new();
        let pass = enter(&gate);
        let another = pass.duplicate();
        drop(pass);
        assert!(gate.close(Deadline::after(Duration::from_millis(1))).is_none());
        drop(another);
        assert!(gate.close(Deadline::after(Duration::from_millis(1))).is_some());
    }

    #[test]
    fn a_close_that_gives_up_opens_it_again() {
        let gate = Gate::new();
        let pass = enter(&gate);
        assert!(gate.close(Deadline::after(Duration::ZERO)).is_none());
        drop(enter(&gate));
        drop(pass);
    }

    #[test]
    fn a_pass_of_the_parent_counts_for_nothing_in_the_child() {
        let gate = Gate::new();
        let pass = enter(&gate);
        gate.reset_after_fork();
        assert!(gate.close(Deadline::after(Duration::from_millis(1))).is_some());
        drop(pass);
        assert!(gate.close(Deadline::after(Duration::from_millis(1))).is_some());
    }

    #[test]
    fn no_thread_enters_while_it_is_closed() {
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
    fn enter_gives_up_at_the_deadline() {
        let gate = Gate::new();
        let closed = gate.close(Deadline::after(Duration::from_secs(5)));
        let soon = Deadline::after(Duration::from_millis(1));
        assert!(gate.enter(Some(soon), LivenessPoll::new(&|| ())).is_none());
        drop(closed);
        // The next round waits for the thread that has given up, but not longer than the timeout.
        let start = std::time::Instant::now();
        assert!(gate.close(Deadline::after(Duration::from_secs(60))).is_some());
        assert!(start.elapsed() >= ADMIT_TIMEOUT);
        assert!(
            gate.enter(Some(soon), LivenessPoll::new(&|| ())).is_some(),
            "an open gate needs no wait"
        );
    }
}
