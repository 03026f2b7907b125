//! One thread's place in the registry. Contains `unsafe`: the outcome is written by one thread and
//! read by another.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8 as OwnedU8, AtomicU32 as OwnedU32, Ordering::Relaxed};

use crate::memory::{NoMemory, try_box};
use crate::report::{Comm, Outcome};
use crate::sync::Epoch;
use crate::sys::RobustMutex;
use crate::sys::sync::{AtomicU32, Ordering, UnsafeCell};

/// How a thread stands in the round of an epoch. A standing of an earlier epoch means
/// [`Status::Idle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Status {
    /// Not part of it.
    Idle,
    /// It is to stop. Set by the caller before the round is announced.
    Summoned,
    /// It has stopped: it is in its handler, and leaves only when the round says so. Set by the
    /// thread itself.
    Arrived,
    /// It has made the call. Set by the thread itself.
    Done,
    /// It ended without answering. Set by the caller.
    DiedBeforeCall,
    /// It ended in its call. Set by the caller.
    DiedInCall,
    /// It has taken its summons where there is too little stack for the call, and has not stopped. Set
    /// by the thread itself.
    StackTooSmall,
}

/// What a call came to on one thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallResult {
    pub(crate) outcome: Outcome,
    /// The thread's name, where there is reason to tell it.
    pub(crate) name: Comm,
}

/// A thread's place in the registry. Not aligned to a cache line: an allocator would pay for that with
/// the room of another.
pub(crate) struct Entry {
    /// Neighbours in the list. Touched under the list's lock, or by the caller of a round while
    /// the gate is closed.
    pub(super) links: UnsafeCell<Links>,
    /// The epoch and the [`Status`] in it. Leaves `Summoned` by compare-and-swap, so that of the
    /// thread that arrives and the caller that gives it up just one succeeds.
    status: AtomicU32,
    /// The thread's id. Written by the thread itself before it is in the list, or in a forked
    /// child; cleared by the caller of a round that finds the thread dead; read by the caller of a
    /// round.
    tid: OwnedU32,
    /// The gate's generation when the thread registered; another one's entry is left over from a
    /// parent. Written as `tid` is.
    generation: OwnedU32,
    /// Tells that the thread is dead, also when another thread has its id. Taken and given back by
    /// the thread itself; read by the caller of a round, and by whoever runs a handler under the id.
    robust_mutex: RobustMutex,
    /// What the last call came to. Written by the thread itself between `Arrived` and `Done`, read by
    /// the caller once it has seen `Done`.
    result: UnsafeCell<CallResult>,
    /// Whether the thread is inside a round, leading it or making its call. Touched by the thread
    /// alone, in its handler too.
    in_round: OwnedU8,
    /// How many spawns the thread is inside of. Touched by the thread alone.
    spawns_in_progress: OwnedU8,
    /// How many of the libc's destructor rounds have gone by. Touched by the thread alone.
    destructor_rounds: OwnedU8,
}

// SAFETY: each field says who may touch it and when that passes on: `links` by invariant I2,
// `verdict` by invariant I6; the rest is atomic or does not change.
unsafe impl Sync for Entry {}
// SAFETY: an entry belongs to the list, not to a thread: nothing in it is bound to the thread that
// allocated it.
unsafe impl Send for Entry {}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    pub(super) previous: Option<NonNull<Entry>>,
    pub(super) next: Option<NonNull<Entry>>,
}

/// What a registered thread costs, the allocator's header and 40 to 80 bytes of the round's roster
/// aside.
const _: () = assert!(cfg!(psx_loom) || size_of::<Entry>() <= 128);

impl Entry {
    /// The id of an entry without a thread: one that a fork has left behind, or whose thread a round
    /// has found dead.
    pub(crate) const NO_TID: u32 = 0;

    /// A place for a thread that has not taken it yet.
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
        }
    }

    /// Whose place it is. Said by the thread itself, before the entry is in the list. Returns whether
    /// the libc takes the thread for the one of that id too ([`RobustMutex::lock`]).
    pub(crate) fn set_owner(&mut self, tid: u32, generation: u32) -> bool {
        self.tid.store(tid, Relaxed);
        self.generation.store(generation, Relaxed);
        self.robust_mutex.lock(tid)
    }

    /// The mutex that the thread holds until it ends. For the thread itself, around a fork and before the
    /// entry is freed.
    pub(crate) fn robust_mutex(&self) -> &RobustMutex {
        &self.robust_mutex
    }

    /// Whether the thread is known to be dead, whoever has its id now.
    pub(crate) fn has_died(&self) -> bool {
        self.robust_mutex.owner_died()
    }

    /// Whether the thread holds its robust mutex. `false` where that is not known.
    pub(crate) fn holds_robust_mutex(&self) -> bool {
        self.robust_mutex.is_locked_by(self.tid())
    }

    /// The thread's id. Relaxed: written before the list's lock was released, or before the child's
    /// second thread existed.
    pub(crate) fn tid(&self) -> u32 {
        self.tid.load(Relaxed)
    }

    /// The thread is dead, and its id may be another's by now. For the caller of a round, before it
    /// announces the round. Relaxed: read under the same lock.
    pub(crate) fn clear_owner(&self) {
        self.tid.store(Self::NO_TID, Relaxed);
    }

    /// In which process, counted in forks, the thread registered.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Relaxed)
    }

    /// Says how the thread stands in the round of `epoch`. For the caller, before it announces the
    /// round: the Release of the announcement makes it seen.
    pub(crate) fn summon(&self, epoch: Epoch) {
        self.status.store(epoch.tag(Status::Summoned as u32), Ordering::Relaxed);
    }

    /// Goes from one standing to another in the round of `epoch`, or returns `false` where the
    /// thread does not stand there.
    pub(crate) fn transition(&self, epoch: Epoch, from: Status, to: Status) -> bool {
        // AcqRel: what the thread that leaves a standing has done (its outcome above all) is seen
        // by whoever reads the next one with `is_at`, or finds here that it has been left.
        self.status
            .compare_exchange(
                epoch.tag(from as u32),
                epoch.tag(to as u32),
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .is_ok()
    }

    /// Whether the thread stands there in the round of `epoch`.
    pub(crate) fn is_at(&self, epoch: Epoch, status: Status) -> bool {
        // Acquire pairs with the Release half of `transition`.
        self.status.load(Ordering::Acquire) == epoch.tag(status as u32)
    }

    /// Notes what the call came to.
    ///
    /// # Safety
    ///
    /// The calling thread owns the entry and stands at `Arrived` in a committed round.
    pub(crate) unsafe fn set_result(&self, result: CallResult) {
        // SAFETY: between `Arrived` and `Done` the cell is the thread's own (invariant I6).
        self.result.with_mut(|cell| unsafe { *cell = result });
    }

    /// What the call of the round of `epoch` came to, where the thread was there to make it.
    pub(crate) fn result(&self, epoch: Epoch) -> Option<CallResult> {
        if self.is_at(epoch, Status::Done) {
            // SAFETY: the thread has set `Done` after its write, and writes no more until another
            // round has been committed, which is ours to begin (invariant I6).
            Some(self.result.with(|cell| unsafe { *cell }))
        } else {
            self.is_at(epoch, Status::DiedInCall)
                .then_some(CallResult { outcome: Outcome::Died, name: Comm::default() })
        }
    }

    /// The thread is inside a round from now on. For its owner alone, as the next five.
    pub(crate) fn enter_round(&self) {
        self.in_round.store(1, Relaxed);
    }

    /// It is no longer.
    pub(crate) fn leave_round(&self) {
        self.in_round.store(0, Relaxed);
    }

    /// Whether the thread is inside a round.
    pub(crate) fn is_in_round(&self) -> bool {
        self.in_round.load(Relaxed) != 0
    }

    /// The thread begins to start another. Returns `false` where it is in the middle of too many.
    pub(crate) fn begin_spawn(&self) -> bool {
        let more = self.spawns_in_progress.load(Relaxed).checked_add(1);
        more.inspect(|&more| self.spawns_in_progress.store(more, Relaxed)).is_some()
    }

    /// It has started it.
    pub(crate) fn end_spawn(&self) {
        self.spawns_in_progress
            .store(self.spawns_in_progress.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// How many threads it is in the middle of starting: so many passes of its own are out.
    pub(crate) fn spawns_in_progress(&self) -> u8 {
        self.spawns_in_progress.load(Relaxed)
    }

    /// Counts one of the libc's destructor rounds. For its owner alone.
    pub(crate) fn count_destructor_round(&self) -> u8 {
        let rounds = self.destructor_rounds.load(Relaxed) + 1;
        self.destructor_rounds.store(rounds, Relaxed);
        rounds
    }

    /// In a forked child: the same thread by another id, inside of nothing.
    pub(crate) fn reset_after_fork(&self, tid: u32, generation: u32) {
        self.tid.store(tid, Relaxed);
        self.generation.store(generation, Relaxed);
        self.in_round.store(0, Relaxed);
        self.spawns_in_progress.store(0, Relaxed);
        // Relaxed: the child has one thread.
        self.status.store(0, Ordering::Relaxed);
    }
}
