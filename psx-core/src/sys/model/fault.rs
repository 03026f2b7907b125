//! Rules of the protocol, each of which a test removes to see that a scene notices.

use std::cell::Cell;

/// A rule removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A round does not close the gate.
    GateNotClosed,
    /// A round does not wait for the passes that are out.
    PassesNotAwaited,
    /// A thread enters through a closed gate.
    GateBypassed,
    /// Returning a pass is Relaxed.
    PassReturnRelaxed,
    /// A round that closes the gate reads the number of passes Relaxed.
    GateCloseRelaxed,
    /// Opening the gate is Relaxed.
    GateOpenRelaxed,
    /// Publishing a phase is Relaxed.
    PhaseStoreRelaxed,
    /// Reading the phase is Relaxed.
    PhaseLoadRelaxed,
    /// A thread that wakes assumes that the call is committed.
    PhaseNotReloaded,
    /// All rounds have the same epoch.
    EpochNotAdvanced,
    /// A countdown is Relaxed.
    CountdownRelaxed,
    /// The wait for a latch is Relaxed.
    LatchWaitRelaxed,
    /// The last countdown does not wake the caller.
    LatchNotWoken,
    /// An arrival is counted twice, and so is a completion.
    CountedTwice,
    /// The cursor is read and moved in two steps.
    ClaimNotAtomic,
    /// A summons that the kernel refused is not recorded.
    RefusalNotRecorded,
    /// A thread that wakes assumes that the lock is free.
    LockNotRetried,
    /// Releasing the lock is Relaxed.
    LockReleaseRelaxed,
    /// A caller that waits for the round's lock does not answer summonses.
    LockWaitBlocksSummons,
    /// A wake-up of all sleepers wakes one.
    WakeAllWakesOne,
    /// A dead thread is waited for.
    DeathNotDetected,
    /// A thread is identified by its id alone.
    OwnerDiedIgnored,
    /// Of two entries with the same id, both are summoned.
    DuplicateIdKept,
    /// A summons that may be lost is not sent again.
    LostNotResent,
    /// A late thread's signal does not make it pending.
    PendingNotInserted,
    /// Entering a thread into the index is Relaxed.
    IndexKeyRelaxed,
    /// Summoning an entry is Relaxed.
    SummonRelaxed,
    /// The last pending thread does not wake the caller.
    PendingNotWoken,
    /// No fence lies between a step of the caller or of a late thread and its look at the other's.
    PendingNotFenced,
    /// Targets do not check whether the caller is alive.
    CallerNotPolled,
    /// A caller that is found dead counts as dead in its round.
    RoundNotRechecked,
    /// An owner that dies before its round keeps the round's lock.
    DeadOwnerKeepsLock,
    /// A thread takes the round's lock without recording itself as the owner.
    OwnerNotRecorded,
    /// Coverage is judged by the number of registered threads.
    KernelCountIgnored,
    /// A thread that refuses for want of stack counts as stopped.
    StackRefusalLost,
    /// The main thread counts as ended.
    MainAssumedEnded,
    /// The main thread's end is read after the threads were counted, not before.
    MainEndReadAfterCount,
}

thread_local! {
    /// Of the OS thread that explores.
    static ACTIVE: Cell<Option<Fault>> = const { Cell::new(None) };
    /// The places at which the active fault has applied, as bits.
    static APPLIED: Cell<u32> = const { Cell::new(0) };
}

/// Removes a rule, or none, from now on.
pub(crate) fn activate(fault: Option<Fault>) {
    APPLIED.set(0);
    ACTIVE.set(fault);
}

pub(super) fn active() -> Option<Fault> {
    ACTIVE.get()
}

/// Whether the fault is active, for the faults that change the model's kernel.
pub(super) fn is(fault: Fault) -> bool {
    let is_active = ACTIVE.get() == Some(fault);
    if is_active {
        record(0, "the model's kernel");
    }
    is_active
}

/// Prints, once for each place, that the active fault applies there: a test that expects a symptom also
/// expects these lines, since the scene may abort the process.
pub(super) fn record(place: u32, file: &str) {
    let applied = APPLIED.get();
    if applied & 1 << place == 0 {
        APPLIED.set(applied | 1 << place);
        eprintln!("{APPLIES}{file}");
    }
}

/// How a line of [`record`] begins.
pub const APPLIES: &str = "the fault applies in ";
