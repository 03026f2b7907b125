//! The state that psx keeps for a process: the kernel, the gate, the thread list and the round.

use core::ptr::NonNull;
use core::time::Duration;

use crate::registry::{Entry, ThreadList};
use crate::round::Round;
use crate::sync::{FairLock, Gate, LivenessPoll, Pass};
use crate::sys::clock::Deadline;
use crate::sys::{Kernel, const_on_linux, fatal};

/// How long a fork waits for rounds to end.
const FORK_WAIT: Duration = Duration::from_secs(1);

/// The registered threads of a process, and the rounds that stop them.
pub(crate) struct Runtime {
    pub(crate) kernel: Kernel,
    pub(crate) gate: Gate,
    pub(crate) list: ThreadList,
    pub(crate) round: Round,
}

impl Runtime {
    const_on_linux! {
        /// A runtime without registered threads.
        pub(crate) fn new(kernel: Kernel) -> Self {
            Self { kernel, gate: Gate::new(), list: ThreadList::new(), round: Round::new() }
        }
    }

    /// Takes a pass through the gate when it is open.
    pub(crate) fn enter(&self) -> Pass<'_> {
        loop {
            if let Some(pass) =
                self.gate.enter(None, LivenessPoll::new(&|| self.check_gate_closer()))
            {
                return pass;
            }
        }
    }

    /// The same, or `None` if the gate stays closed until the deadline.
    pub(crate) fn try_enter(&self, deadline: Deadline) -> Option<Pass<'_>> {
        self.gate.enter(Some(deadline), LivenessPoll::new(&|| self.check_gate_closer()))
    }

    fn check_gate_closer(&self) {
        self.end_if_caller_died(|| self.gate.is_closed());
    }

    /// For a thread that waits for the round's lock. An owner that died before it closed the gate has changed
    /// nothing: its lock is released.
    pub(crate) fn check_lock_owner(&self) {
        let is_on = || self.gate.is_closed() || self.round.is_on();
        self.end_if_caller_died(is_on);
        self.round.lock.release_if(|owner| self.kernel.is_dead(owner) && !is_on());
    }

    /// Ends the process if the caller of the current round has died in it (invariant I7): its call may have
    /// changed only the caller, and no thread is left that could end the round. `is_on` says whether the round
    /// that the calling thread waits for is on. It reads with Acquire what the caller wrote with Release after
    /// it took the round's lock.
    ///
    /// A caller that has ended its round is not reported: it released the lock before it died, and a thread
    /// that finds it dead sees that. All is checked twice, since the next caller may be a new thread with the
    /// same id. If another thread or process has the caller's id by now, the caller's robust mutex says that
    /// it is dead (invariant I13). Async-signal-safe; makes no system call but futex.
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

    /// Inserts an entry into the list. The pass keeps rounds from beginning before that.
    pub(crate) fn register(&self, entry: Box<Entry>, _: &Pass<'_>) -> NonNull<Entry> {
        // A thread that has ended may have had the same id, and a signal in its queue.
        self.round.pending.remove(entry.tid());
        self.list.insert(entry)
    }

    /// Removes an entry from the list, after the thread's last code of the program.
    ///
    /// # Safety
    ///
    /// The entry is in the list, and its owner is the calling thread or dead.
    pub(crate) unsafe fn unregister(&self, entry: NonNull<Entry>, _: &Pass<'_>) -> Box<Entry> {
        // SAFETY: in the list, as the caller promises; while a pass is held, no round uses the frozen list
        // (invariant I2).
        let entry = unsafe { self.list.remove(entry) };
        // If the thread has blocked the signal, its queue ends with it.
        self.round.pending.remove(entry.tid());
        entry
    }

    /// Acquires the round's lock before a fork of the thread `me`, so that the child gets no copy of a round.
    /// The two functions below undo it. Returns `false` if the lock was not acquired in time: then the fork is
    /// treated like one by a raw system call, and the child ends the round that it has a copy of.
    ///
    /// Nothing else is held: other libraries' fork hooks, which run after this one, may wait for a thread that
    /// registers or exits, or may never return. A wait for the round's lock ends by a timeout or when its owner
    /// dies; a wait for the list's lock would not.
    pub(crate) fn lock_for_fork(&self, me: u32) -> bool {
        let lock = &self.round.lock;
        let check = || self.check_lock_owner();
        let deadline = Deadline::after(FORK_WAIT);
        lock.try_acquire_now(me) || lock.try_acquire(me, deadline, LivenessPoll::new(&check))
    }

    /// Releases the lock in the parent, after the fork of the thread `me`.
    pub(crate) fn unlock_after_fork(&self, me: u32) {
        if self.round.lock.owner() == me {
            self.round.lock.release();
        }
    }

    /// In the child, after the fork: starts a registry that contains only the forking thread's entry, if it has
    /// one. Abandons the parent's list, whose links may be torn.
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
