//! Everything that a process's rounds need: the kernel, the gate, the thread list and the round.

use core::ptr::NonNull;
use core::time::Duration;

use crate::registry::{Entry, ThreadList};
use crate::round::Round;
use crate::sync::{FairLock, Gate, LivenessPoll, Pass};
use crate::sys::clock::Deadline;
use crate::sys::{Kernel, const_on_linux, fatal};

/// How long a fork waits for rounds to end.
const FORK_WAIT: Duration = Duration::from_secs(1);

/// The threads of a process, and the rounds that are run on them.
pub(crate) struct Runtime {
    pub(crate) kernel: Kernel,
    pub(crate) gate: Gate,
    pub(crate) list: ThreadList,
    pub(crate) round: Round,
}

impl Runtime {
    const_on_linux! {
        /// A registry without threads.
        pub(crate) fn new(kernel: Kernel) -> Self {
            Self { kernel, gate: Gate::new(), list: ThreadList::new(), round: Round::new() }
        }
    }

    /// Goes through the gate, once it is open.
    pub(crate) fn enter(&self) -> Pass<'_> {
        loop {
            if let Some(pass) =
                self.gate.enter(None, LivenessPoll::new(&|| self.check_gate_closer()))
            {
                return pass;
            }
        }
    }

    /// The same, or `None` where the gate is closed until the deadline.
    pub(crate) fn try_enter(&self, deadline: Deadline) -> Option<Pass<'_>> {
        self.gate.enter(Some(deadline), LivenessPoll::new(&|| self.check_gate_closer()))
    }

    fn check_gate_closer(&self) {
        self.end_if_caller_died(|| self.gate.is_closed());
    }

    /// For a thread that waits for the round's lock. An owner that has died before it closed the gate has
    /// changed nothing: the lock goes on without it.
    pub(crate) fn check_lock_owner(&self) {
        let is_on = || self.gate.is_closed() || self.round.is_on();
        self.end_if_caller_died(is_on);
        self.round.lock.release_if(|owner| self.kernel.is_dead(owner) && !is_on());
    }

    /// Ends the process where the caller of the round at hand has died in it: its call may have changed
    /// the caller alone, and no thread is left that could end the round. `is_on` says whether the round
    /// that the calling thread waits for is on; it reads with Acquire what the caller has written with
    /// Release, after it took the round's lock.
    ///
    /// No false alarm: a caller that has ended its round has given the lock back before it could die, and
    /// a thread that finds it dead sees that. Asked twice, since the next caller may be a new thread with
    /// the same id. Where the caller's id is another thread's or process's by now, its robust mutex tells.
    /// Async-signal-safe, and no system call but futex.
    pub(crate) fn end_if_caller_died(&self, is_on: impl Fn() -> bool) {
        let lock = &self.round.lock;
        let caller = lock.owner();
        let mutex = &self.round.caller_mutex;
        let is_dead =
            || caller != FairLock::NO_OWNER && (mutex.owner_died() || self.kernel.is_dead(caller));
        if is_dead() && is_on() && lock.owner() == caller && is_dead() {
            fatal::caller_died(caller, self.round.is_first_to_end());
        }
    }

    /// Puts the entry into the list. The pass is what keeps a round from having begun without it.
    pub(crate) fn register(&self, entry: Box<Entry>, _: &Pass<'_>) -> NonNull<Entry> {
        self.list.insert(entry)
    }

    /// Takes an entry out of the list, after the last of its thread's code that is the program's.
    ///
    /// # Safety
    ///
    /// The entry is in the list, and the calling thread is its owner, or its owner is dead.
    pub(crate) unsafe fn unregister(&self, entry: NonNull<Entry>, _: &Pass<'_>) -> Box<Entry> {
        // SAFETY: in the list by our caller's promise; with a pass out no round is using the
        // frozen list (invariant I2).
        unsafe { self.list.remove(entry) }
    }

    /// Keeps `fork` from copying a round, for the thread `me`. Undone by one of the two below. Returns
    /// whether no round will be copied.
    ///
    /// The wait has a limit. A fork that goes on without the round's lock is like a fork by a raw system
    /// call: the child ends the round that it has a copy of.
    ///
    /// Nothing else is held: the fork hooks of other libraries that run after this one may wait for a
    /// thread that registers or exits, or may never return. A wait for the round's lock ends by a timeout,
    /// or by the owner's death; a wait for the list's lock by neither.
    pub(crate) fn hold_for_fork(&self, me: u32) -> bool {
        let lock = &self.round.lock;
        let check = || self.check_lock_owner();
        let deadline = Deadline::after(FORK_WAIT);
        lock.try_acquire_now(me) || lock.try_acquire(me, deadline, LivenessPoll::new(&check))
    }

    /// After the fork of the thread `me`, in the parent.
    pub(crate) fn release_after_fork(&self, me: u32) {
        if self.round.lock.owner() == me {
            self.round.lock.release();
        }
    }

    /// After a fork, in the child: a registry of one, or of none where the forking thread was not
    /// registered. The parent's list is left behind as it lies.
    pub(crate) fn reset_after_fork(&self, me: Option<&Entry>, tid: u32) {
        self.gate.reset_after_fork();
        self.list.leak_and_restart(me);
        if let Some(me) = me {
            me.reset_after_fork(tid, self.gate.generation());
        }
        self.round.reset_after_fork();
        self.list.lock.reset_after_fork();
        self.kernel.reinit_after_fork();
    }
}
