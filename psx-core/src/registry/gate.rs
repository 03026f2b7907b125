//! The gate between births, exits and rounds.
//!
//! Need: a round may begin only when nobody is between the `clone` of a thread and its
//! registration, and nobody is changing the list. Design: one word counts the passes that are out;
//! a round sets its top bit, which stops new passes, and waits for the count to reach zero. It is
//! a readers-writer lock whose readers are those who change the list, and whose writer is the one
//! who only looks at it.
//!
//! Downside: a pass that never comes back would keep rounds out for ever, so the closing side has a
//! deadline. A holder of a pass may go through again without waiting ([`Pass::another`]): an
//! allocator that starts a thread of its own in the middle of a spawn must not wait for a round
//! that waits for that spawn.

use core::sync::atomic::AtomicU32 as ForkCount;

use crate::sys::clock::Deadline;
use crate::sys::const_on_linux;
use crate::sys::futex::{self, Limit};
use crate::sys::sync::{AtomicU32, Ordering, give_way};

const CLOSED: u32 = 1 << 31;
/// Somebody waits outside for the gate to open.
const WANTED: u32 = 1 << 30;
const PASSES: u32 = WANTED - 1;

#[derive(Debug)]
pub(crate) struct Gate {
    /// [`CLOSED`], [`WANTED`], and the number of passes out. Anyone may take a pass while it is
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

    /// Goes through, once the gate is open.
    pub(crate) fn enter(&self) -> Pass<'_> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let next = if word & CLOSED == 0 { word + 1 } else { word | WANTED };
            // Acquire pairs with the Release in `Closed::drop`: what the round did to the list is
            // seen by whoever changes it next.
            match self.word.compare_exchange(word, next, Ordering::Acquire, Ordering::Relaxed) {
                Err(now) => word = now,
                Ok(_) if next & CLOSED == 0 => return self.pass(),
                // What has become of the word, the next try tells.
                Ok(_) => {
                    futex::wait(&self.word, next, Limit::Never);
                }
            }
        }
    }

    /// Goes through at once, on the strength of a pass that is out.
    ///
    /// # Safety
    ///
    /// The calling thread knows of a pass that stays out until this returns: so no round can have
    /// begun (invariant I2).
    pub(crate) unsafe fn enter_beside(&self) -> Pass<'_> {
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
        self.word.fetch_or(CLOSED, Ordering::Relaxed);
        let closed = Closed { gate: self };
        let mut over = false;
        loop {
            // Acquire pairs with the Release in `Pass::drop`: the list as its last user left it.
            let word = self.word.load(Ordering::Acquire);
            if word & PASSES == 0 {
                return Some(closed);
            }
            if over {
                return None;
            }
            over = futex::wait(&self.word, word, Limit::At(deadline));
        }
    }

    /// Open, in a forked child: the threads whose passes were out do not exist there.
    pub(crate) fn begin_anew(&self) {
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
    pub(crate) fn another(&self) -> Pass<'g> {
        // SAFETY: this pass is out.
        unsafe { self.gate.enter_beside() }
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
        let word = self.gate.word.fetch_and(!(CLOSED | WANTED), Ordering::Release);
        if word & WANTED != 0 {
            futex::wake(&self.gate.word, i32::MAX);
            give_way();
        }
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;
    use core::time::Duration;
    use std::sync::mpsc;

    #[test]
    fn it_closes_only_when_every_pass_is_back() {
        let gate = Gate::new();
        let pass = gate.enter();
        let another = pass.another();
        drop(pass);
        assert!(gate.close(Deadline::after(Duration::from_millis(1))).is_none());
        drop(another);
        assert!(gate.close(Deadline::after(Duration::from_millis(1))).is_some());
    }

    #[test]
    fn it_is_open_again_after_a_close_that_gave_up() {
        let gate = Gate::new();
        let pass = gate.enter();
        assert!(gate.close(Deadline::after(Duration::ZERO)).is_none());
        drop(gate.enter());
        drop(pass);
    }

    #[test]
    fn a_pass_of_the_parent_counts_for_nothing_in_the_child() {
        let gate = Gate::new();
        let parents = gate.enter();
        gate.begin_anew();
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
                let _pass = gate.enter();
                entered.send(()).unwrap();
            });
            while gate.word.load(Ordering::Relaxed) & WANTED == 0 {
                std::thread::yield_now();
            }
            assert_eq!(enters.try_recv(), Err(mpsc::TryRecvError::Empty));
            drop(closed);
            assert_eq!(enters.recv(), Ok(()));
        });
    }
}
