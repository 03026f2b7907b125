//! Rules of the protocol, each of which a test removes to see that a model notices.
//!
//! The protocol's source is not changed for it. A fault changes an atomic operation below the seam:
//! `#[track_caller]` says which file calls it, so that "the load in word.rs" can be weakened, left out, or
//! return another value. A file names itself by its constant `FILE`, so that it can be moved.

use std::cell::Cell;
use std::panic::Location;

use super::machine;
use super::sync::Ordering;
use crate::round::word::{self, Phase};
use crate::round::{index, roster};
use crate::sync::{Epoch, fair_lock, gate, latch, lock};

/// A rule removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A round does not close the gate.
    GateNotClosed,
    /// A round does not wait for the passes that are out.
    PassesNotAwaited,
    /// Whoever wants through a closed gate goes through.
    GateBarged,
    /// Giving a pass back orders nothing.
    PassReturnRelaxed,
    /// The closing side orders nothing after the passes that came back.
    GateCloseRelaxed,
    /// Opening the gate orders nothing.
    GateOpenRelaxed,
    /// Publishing a phase orders nothing.
    PhaseStoreRelaxed,
    /// Reading the phase orders nothing.
    PhaseLoadRelaxed,
    /// Whoever wakes takes it that the next phase has come.
    PhaseNotReadAgain,
    /// All rounds have the same epoch.
    EpochStandsStill,
    /// A countdown orders nothing.
    CountdownRelaxed,
    /// The one who waits for a latch orders nothing after the countdowns.
    LatchWaitRelaxed,
    /// The last to count down does not wake the one who waits.
    LatchForgetsToWake,
    /// An arrival is counted twice, and so is a completion.
    CountedTwice,
    /// Looking at the cursor and moving it are two steps.
    ClaimNotAtomic,
    /// A summons that the kernel refused is not noted.
    RefusalForgotten,
    /// Whoever wakes takes it that the lock is free.
    LockNotTriedAgain,
    /// Giving a lock back orders nothing.
    LockReleaseRelaxed,
    /// A caller that waits for its turn answers nobody.
    TurnBlocksSummons,
    /// Of all sleepers only one is woken.
    WakeAllWakesOne,
    /// A dead thread is waited for.
    DeathUnnoticed,
    /// A thread is known by its id alone.
    OwnerDiedUnread,
    /// Of two entries with the same id, both are summoned.
    DuplicateIdKept,
    /// A summons that may be lost is not sent again.
    LostNotSentAgain,
    /// Nobody looks whether the caller is still alive.
    CallerNotWatched,
    /// A caller that is found dead is taken to have died in its round.
    RoundNotCheckedAgain,
    /// The round's lock stays with an owner that has died before its round.
    DeadOwnerKeepsLock,
    /// A thread that takes the round's lock does not mark it as taken.
    TurnNotMarked,
    /// Coverage is judged by psx's own count.
    CountOfOnesOwn,
    /// A thread that refuses, for want of stack, is counted as one that has stopped.
    StackRefusalLost,
    /// The main thread is taken for one that has ended.
    MainTakenForEnded,
    /// The main thread is seen to have ended after the threads were counted, and not before.
    MainEndSeenAfterCount,
}

/// The kinds of operation that a fault tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Load,
    Store,
    Swap,
    Exchange,
    WeakExchange,
    Sub,
    And,
    Or,
}

/// What a fault does to an operation.
#[derive(Clone, Copy)]
pub(super) enum Twist {
    /// Nothing.
    Not,
    /// Orders nothing.
    Weaken,
    /// Leaves the change out.
    Skip,
    /// Exchanges for another value.
    Replace(fn(u64) -> u64),
    /// Compares and exchanges in two steps.
    Tear,
    /// Counts in without comparing.
    Barge,
    /// Changes the value on its way out.
    Lie(fn(u64) -> u64),
}

thread_local! {
    /// Of the OS thread that a model is explored on.
    static ACTIVE: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Explores with a rule removed from now on.
pub(crate) fn remove(fault: Option<Fault>) {
    ACTIVE.set(fault);
}

pub(super) fn is(fault: Fault) -> bool {
    ACTIVE.get() == Some(fault)
}

pub(super) fn twist(place: &Location<'_>, op: Op, order: Ordering) -> Twist {
    let Some(fault) = ACTIVE.get() else {
        return Twist::Not;
    };
    let ordered = order != Ordering::Relaxed;
    match (fault, place.file(), op) {
        (Fault::GateNotClosed, gate::FILE, Op::Or) => Twist::Skip,
        (Fault::PassesNotAwaited, gate::FILE, Op::Load) if ordered => Twist::Lie(|_| 0),
        (Fault::GateBarged, gate::FILE, Op::Load) if !ordered => {
            Twist::Lie(|word| word & !u64::from(gate::CLOSED))
        }
        (Fault::GateBarged, gate::FILE, Op::Exchange) => Twist::Barge,
        (Fault::PassReturnRelaxed, gate::FILE, Op::Sub) => Twist::Weaken,
        (Fault::GateCloseRelaxed, gate::FILE, Op::Load) => Twist::Weaken,
        (Fault::GateOpenRelaxed, gate::FILE, Op::And) => Twist::Weaken,
        (Fault::PhaseStoreRelaxed, word::FILE, Op::Store) => Twist::Weaken,
        (Fault::PhaseLoadRelaxed, word::FILE, Op::Load) => Twist::Weaken,
        (Fault::PhaseNotReadAgain, word::FILE, Op::Load) if machine::just_woken() => {
            Twist::Lie(|word| with_phase(word, Phase::Committed))
        }
        // A released word without its epoch: the next one is the first again.
        (Fault::EpochStandsStill, word::FILE, Op::Load) => {
            Twist::Lie(|word| if is_released(word) { 0 } else { word })
        }
        (Fault::CountdownRelaxed, latch::FILE, Op::WeakExchange) => Twist::Weaken,
        (Fault::LatchWaitRelaxed, latch::FILE, Op::Or) => Twist::Weaken,
        (Fault::CountedTwice, latch::FILE, Op::WeakExchange) => {
            Twist::Replace(|word| if word & latch::REMAINING == 0 { word } else { word - 1 })
        }
        (Fault::StackRefusalLost, latch::FILE, Op::WeakExchange) => {
            Twist::Replace(|word| word & !latch::MARKED)
        }
        (Fault::ClaimNotAtomic, roster::FILE, Op::WeakExchange) => Twist::Tear,
        (Fault::RefusalForgotten, roster::FILE, Op::Exchange) => Twist::Skip,
        (Fault::LockNotTriedAgain, lock::FILE, Op::Swap) if machine::just_woken() => {
            Twist::Lie(|_| lock::FREE.into())
        }
        (Fault::RoundNotCheckedAgain, word::FILE, Op::Load) if machine::has_just_found_dead() => {
            Twist::Lie(
                |word| {
                    if is_released(word) { with_phase(word, Phase::Gathering) } else { word }
                },
            )
        }
        (Fault::RoundNotCheckedAgain, fair_lock::FILE, Op::Load) if ordered => {
            Twist::Lie(|word| machine::just_found_dead().map_or(word, u64::from))
        }
        (Fault::DeadOwnerKeepsLock, fair_lock::FILE, Op::Exchange)
            if order == Ordering::Release && machine::has_just_found_dead() =>
        {
            Twist::Skip
        }
        (Fault::TurnNotMarked, fair_lock::FILE, Op::Exchange) if order == Ordering::Acquire => {
            Twist::Skip
        }
        (Fault::LockReleaseRelaxed, lock::FILE, Op::Swap) if order == Ordering::Release => {
            Twist::Weaken
        }
        (Fault::DuplicateIdKept, index::FILE, Op::Load) if !ordered => Twist::Lie(|_| 0),
        _ => Twist::Not,
    }
}

fn with_phase(word: u64, phase: Phase) -> u64 {
    word & !u64::from(Epoch::LOW_MASK) | u64::from(phase as u32)
}

fn is_released(word: u64) -> bool {
    word & u64::from(Epoch::LOW_MASK) == u64::from(Phase::Released as u32)
}
