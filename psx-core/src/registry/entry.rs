//! A registered thread's entry. Contains `unsafe`: one thread writes the result, another reads it.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8 as OwnedU8, AtomicU32 as OwnedU32, Ordering::Relaxed};

use crate::memory::{NoMemory, try_box};
use crate::report::{Comm, Outcome};
use crate::sync::Epoch;
use crate::sys::RobustMutex;
use crate::sys::sync::{AtomicU32, Ordering, UnsafeCell};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

/// A thread's status in the round of an epoch. A status of an earlier epoch means [`Status::Idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Status {
    /// The thread has no part in the round.
    Idle,
    /// It is to stop. Set by the caller before it announces the round.
    Summoned,
    /// It has stopped: it stays in its handler until the round is released. Set by the thread.
    Arrived,
    /// It has made the call. Set by the thread.
    Done,
    /// It ended before it arrived. Set by the caller.
    DiedBeforeCall,
    /// It ended in its call. Set by the caller.
    DiedInCall,
    /// It has too little stack left for the call, and has not stopped. Set by the thread.
    StackTooSmall,
}

/// The result of the call on one thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallResult {
    pub(crate) outcome: Outcome,
    /// The thread's name. Empty if no message needs it.
    pub(crate) name: Comm,
}

/// What the registry stores for a thread. Not aligned to a cache line: that would cost an allocator as much
/// memory as a second entry.
pub(crate) struct Entry {
    /// Neighbours in the list. Accessed under the list's lock, or by the caller of a round while the gate is
    /// closed.
    pub(super) links: UnsafeCell<Links>,
    /// The epoch and the [`Status`] in it. Written by the caller before it announces a round; after that by
    /// the caller and the thread, by compare-and-swap: if the thread arrives while the caller takes the
    /// summons back, exactly one of them succeeds.
    status: AtomicU32,
    /// The thread's id. Written by the thread before the entry is in the list, or in a forked child; cleared
    /// by the caller of a round that finds the thread dead. Read by the thread, by the caller of a round, and
    /// under the list's lock.
    tid: OwnedU32,
    /// The gate's generation when the thread registered. An entry of another generation is left over from
    /// before a fork. Written when `tid` is; read by the thread.
    generation: OwnedU32,
    /// Says that the thread is dead, even if another thread has its id by now. Locked and unlocked by the
    /// thread; read by the caller of a round, under the list's lock, and in the handler of a thread with this
    /// id.
    robust_mutex: RobustMutex,
    /// The result of the last call. Written by the thread between `Arrived` and `Done`, read by the caller
    /// after it has seen `Done`.
    result: UnsafeCell<CallResult>,
    /// Whether the thread is in a round, as its caller or as a target. Only the thread accesses it, in its
    /// handler too.
    in_round: OwnedU8,
    /// How many spawns the thread is in the middle of. Only the thread accesses it.
    spawns_in_progress: OwnedU8,
    /// How many of the libc's destructor rounds have begun. Only the thread accesses it.
    destructor_rounds: OwnedU8,
    /// Whether the thread's summons in this round is the queued signal of an earlier attempt. Touched by
    /// the caller of a round.
    signal_is_pending: OwnedU8,
}

// SAFETY: `links` is accessed by one thread at a time (invariant I2), and so is `result` (invariant I6); the
// other fields are atomic or `Sync`.
unsafe impl Sync for Entry {}
// SAFETY: the entry belongs to the list (invariant I1): nothing in it is bound to the thread that allocated
// it.
unsafe impl Send for Entry {}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    pub(super) previous: Option<NonNull<Entry>>,
    pub(super) next: Option<NonNull<Entry>>,
}

// The memory of a registered thread, beside the allocator's header and 40 to 80 bytes of the roster.
const _: () = assert!(cfg!(psx_loom) || size_of::<Entry>() <= 128);

impl Entry {
    /// The id in an entry without a thread: it was left over by a fork, or a round has found its thread dead.
    pub(crate) const NO_TID: u32 = 0;

    /// An entry without an owner.
    pub(crate) fn allocate() -> Result<Box<Self>, NoMemory> {
        try_box(Self::new())
    }

    fn new() -> Self {
        Self {
            links: UnsafeCell::new(Links::default()),
            status: AtomicU32::new(0),
            tid: OwnedU32::new(0),
            generation: OwnedU32::new(0),
            robust_mutex: RobustMutex::new(),
            result: UnsafeCell::new(CallResult { outcome: Outcome::Died, name: Comm::default() }),
            in_round: OwnedU8::new(0),
            spawns_in_progress: OwnedU8::new(0),
            destructor_rounds: OwnedU8::new(0),
            signal_is_pending: OwnedU8::new(0),
        }
    }

    /// Makes the calling thread the owner, before the entry is in the list. Returns whether the libc knows the
    /// thread by this id too ([`RobustMutex::lock`]).
    pub(crate) fn set_owner(&mut self, tid: u32, generation: u32) -> bool {
        self.tid.store(tid, Relaxed);
        self.generation.store(generation, Relaxed);
        self.robust_mutex.lock(tid)
    }

    /// The mutex that the thread holds until it ends. The thread unlocks it around a fork and before the entry
    /// is freed.
    pub(crate) fn robust_mutex(&self) -> &RobustMutex {
        &self.robust_mutex
    }

    /// Whether the thread is known to be dead, even if another thread has its id by now.
    pub(crate) fn has_died(&self) -> bool {
        self.robust_mutex.owner_died()
    }

    /// Whether the thread holds its robust mutex. `false` if that is not known.
    pub(crate) fn holds_robust_mutex(&self) -> bool {
        self.robust_mutex.is_locked_by(self.tid())
    }

    /// The thread's id. Relaxed: published with the list, by its lock and by the gate, or written by the only
    /// thread of a forked child.
    pub(crate) fn tid(&self) -> u32 {
        self.tid.load(Relaxed)
    }

    /// Disowns the entry of a dead thread, whose id may be another thread's by now. Called by the caller of a
    /// round, before it announces the round. Relaxed: a later reader holds the round's lock, or a pass.
    pub(crate) fn clear_owner(&self) {
        self.tid.store(Self::NO_TID, Relaxed);
    }

    /// The gate's generation when the thread registered.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Relaxed)
    }

    /// Sets the status to `Summoned` in the round of `epoch`. Called by the caller, before it announces the
    /// round. Release pairs with the Acquire of a late handler that finds its own round over: it must see the
    /// thread among the pending ones.
    pub(crate) fn summon(&self, epoch: Epoch) {
        self.status.store(epoch.tag(Status::Summoned as u32), Ordering::Release);
    }

    /// Changes the status in the round of `epoch`. Returns `false` if it is not `from`.
    pub(crate) fn transition(&self, epoch: Epoch, from: Status, to: Status) -> bool {
        // Release pairs with the Acquire in `is_at` and in later transitions: a thread that reads the new
        // status sees what came before it, such as the result.
        self.status
            .compare_exchange(
                epoch.tag(from as u32),
                epoch.tag(to as u32),
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .is_ok()
    }

    /// Whether the status in the round of `epoch` is this one.
    pub(crate) fn is_at(&self, epoch: Epoch, status: Status) -> bool {
        // Acquire pairs with the Release in `transition`.
        self.status.load(Ordering::Acquire) == epoch.tag(status as u32)
    }

    /// Stores the result of the call.
    ///
    /// # Safety
    ///
    /// The calling thread owns the entry, and its status is `Arrived` in a committed round.
    pub(crate) unsafe fn set_result(&self, result: CallResult) {
        // SAFETY: between `Arrived` and `Done` the thread owns the cell (invariant I6).
        self.result.with_mut(|cell| unsafe { *cell = result });
    }

    /// The result of the call in the round of `epoch`. `None` if the thread had no part in it.
    pub(crate) fn result(&self, epoch: Epoch) -> Option<CallResult> {
        if self.is_at(epoch, Status::Done) {
            // SAFETY: the thread set `Done` after its write, and does not write again before another round is
            // committed; the caller, which reads this, holds the round's lock (invariant I6).
            Some(self.result.with(|cell| unsafe { *cell }))
        } else {
            self.is_at(epoch, Status::DiedInCall)
                .then_some(CallResult { outcome: Outcome::Died, name: Comm::default() })
        }
    }

    /// Marks the thread as in a round. Only the owner calls this and the next five.
    pub(crate) fn enter_round(&self) {
        self.in_round.store(1, Relaxed);
    }

    /// Undoes [`Entry::enter_round`].
    pub(crate) fn leave_round(&self) {
        self.in_round.store(0, Relaxed);
    }

    /// Whether the thread is in a round.
    pub(crate) fn is_in_round(&self) -> bool {
        self.in_round.load(Relaxed) != 0
    }

    /// Counts a spawn that begins. Returns `false` if the thread is in the middle of too many.
    pub(crate) fn begin_spawn(&self) -> bool {
        let more = self.spawns_in_progress.load(Relaxed).checked_add(1);
        more.inspect(|&more| self.spawns_in_progress.store(more, Relaxed)).is_some()
    }

    /// Counts a spawn that has ended.
    pub(crate) fn end_spawn(&self) {
        self.spawns_in_progress
            .store(self.spawns_in_progress.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// How many spawns the thread is in the middle of. It holds a pass for each.
    pub(crate) fn spawns_in_progress(&self) -> u8 {
        self.spawns_in_progress.load(Relaxed)
    }

    /// Sets whether the thread's signal of an earlier attempt is still queued. For the caller of a round.
    pub(crate) fn set_signal_pending(&self, is_pending: bool) {
        self.signal_is_pending.store(u8::from(is_pending), Relaxed);
    }

    /// The value that was set last. For the caller of a round.
    pub(crate) fn is_signal_pending(&self) -> bool {
        self.signal_is_pending.load(Relaxed) != 0
    }

    /// Counts a destructor round of the libc. Only the owner calls this.
    pub(crate) fn count_destructor_round(&self) -> u8 {
        let rounds = self.destructor_rounds.load(Relaxed) + 1;
        self.destructor_rounds.store(rounds, Relaxed);
        rounds
    }

    /// In a forked child: gives the forking thread's entry the thread's new id, and takes it out of all rounds
    /// and spawns.
    pub(crate) fn reset_after_fork(&self, tid: u32, generation: u32) {
        self.tid.store(tid, Relaxed);
        self.generation.store(generation, Relaxed);
        self.in_round.store(0, Relaxed);
        self.spawns_in_progress.store(0, Relaxed);
        // Relaxed: the child has one thread.
        self.status.store(0, Ordering::Relaxed);
    }
}
