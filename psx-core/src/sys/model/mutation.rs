//! How a [`Fault`] changes the protocol: below the seam, without a change to the protocol's source.
//!
//! `#[track_caller]` says which file calls an atomic operation, so "the exchange in gate.rs" can be
//! weakened, skipped, or given another result. A file names itself by its constant `FILE`: a file that is
//! moved keeps its faults. An operation that is moved to another file disarms them, and the test finds
//! that a place was never reached.

use std::panic::Location;

use super::fault::{self, Fault};
use super::machine;
use super::sync::Ordering;

use crate::registry::entry;
use crate::round::word::{self, Phase};
use crate::round::{index, pending, roster};
use crate::sync::{Epoch, fair_lock, gate, latch, lock};

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
    Wake,
}

/// What a fault does to an operation.
#[derive(Clone, Copy)]
pub(super) enum Mutation {
    /// Makes it Relaxed.
    Weaken,
    /// Leaves out its effect.
    Skip,
    /// Changes the value that an exchange writes.
    MapNew(fn(u64) -> u64),
    /// Changes the value that the operation returns.
    MapResult(fn(u64) -> u64),
    /// Compares and exchanges in two steps.
    SplitCas,
    /// Adds one without comparing.
    ForceAdd,
}

use Mutation::{ForceAdd, MapNew, MapResult, Skip, SplitCas, Weaken};

/// A place at which a fault applies.
struct Place {
    file: &'static str,
    op: Op,
    condition: fn(Ordering) -> bool,
    mutation: Mutation,
}

impl Place {
    const fn new(file: &'static str, op: Op, mutation: Mutation) -> Self {
        Self { file, op, condition: |_| true, mutation }
    }

    /// Restricts it to some orderings, or to a state of the machine.
    const fn when(self, condition: fn(Ordering) -> bool) -> Self {
        Self { condition, ..self }
    }
}

/// The places of the faults that change operations. The other faults change the model's kernel, which asks
/// [`fault::is`].
const fn places(fault: Fault) -> &'static [Place] {
    match fault {
        Fault::GateNotClosed => const { &[Place::new(gate::FILE, Op::Or, Skip)] },
        Fault::PassesNotAwaited => {
            const { &[Place::new(gate::FILE, Op::Load, MapResult(|_| 0)).when(is_ordered)] }
        }
        Fault::GateBypassed => {
            const {
                &[
                    Place::new(
                        gate::FILE,
                        Op::Load,
                        MapResult(|word| word & !(gate::CLOSED as u64)),
                    )
                    .when(is_relaxed),
                    Place::new(gate::FILE, Op::Exchange, ForceAdd),
                ]
            }
        }
        Fault::PassReturnRelaxed => const { &[Place::new(gate::FILE, Op::Sub, Weaken)] },
        Fault::GateCloseRelaxed => const { &[Place::new(gate::FILE, Op::Load, Weaken)] },
        Fault::GateOpenRelaxed => const { &[Place::new(gate::FILE, Op::And, Weaken)] },
        Fault::PhaseStoreRelaxed => const { &[Place::new(word::FILE, Op::Store, Weaken)] },
        Fault::PhaseLoadRelaxed => const { &[Place::new(word::FILE, Op::Load, Weaken)] },
        Fault::PhaseNotReloaded => {
            const {
                let committed = MapResult(|word| with_phase(word, Phase::Committed));
                &[Place::new(word::FILE, Op::Load, committed).when(|_| machine::take_woken())]
            }
        }
        // A released word without its epoch: the next one is the first again.
        Fault::EpochNotAdvanced => {
            const {
                let first = MapResult(|word| if is_released(word) { 0 } else { word });
                &[Place::new(word::FILE, Op::Load, first)]
            }
        }
        Fault::CountdownRelaxed => const { &[Place::new(latch::FILE, Op::WeakExchange, Weaken)] },
        Fault::LatchWaitRelaxed => const { &[Place::new(latch::FILE, Op::Or, Weaken)] },
        Fault::LatchNotWoken => const { &[Place::new(latch::FILE, Op::Wake, Skip)] },
        Fault::CountedTwice => {
            const {
                let twice =
                    MapNew(|word| if word & latch::REMAINING == 0 { word } else { word - 1 });
                &[Place::new(latch::FILE, Op::WeakExchange, twice)]
            }
        }
        Fault::StackRefusalLost => {
            const {
                let unmarked = MapNew(|word| word & !latch::MARKED);
                &[Place::new(latch::FILE, Op::WeakExchange, unmarked)]
            }
        }
        Fault::ClaimNotAtomic => const { &[Place::new(roster::FILE, Op::WeakExchange, SplitCas)] },
        Fault::RefusalNotRecorded => const { &[Place::new(roster::FILE, Op::Exchange, Skip)] },
        Fault::LockNotRetried => {
            const {
                let free = MapResult(|_| lock::UNLOCKED as u64);
                &[Place::new(lock::FILE, Op::Swap, free).when(|_| machine::take_woken())]
            }
        }
        Fault::LockReleaseRelaxed => {
            const { &[Place::new(lock::FILE, Op::Swap, Weaken).when(|order| order == Ordering::Release)] }
        }
        Fault::RoundNotRechecked => {
            const {
                let gathering = MapResult(|word| {
                    if is_released(word) { with_phase(word, Phase::Gathering) } else { word }
                });
                let dead = MapResult(|word| machine::take_found_dead().map_or(word, u64::from));
                &[
                    Place::new(word::FILE, Op::Load, gathering).when(|_| machine::has_found_dead()),
                    Place::new(fair_lock::FILE, Op::Load, dead).when(is_ordered),
                ]
            }
        }
        Fault::DeadOwnerKeepsLock => {
            const {
                &[Place::new(fair_lock::FILE, Op::Exchange, Skip)
                    .when(|order| order == Ordering::Release && machine::has_found_dead())]
            }
        }
        Fault::OwnerNotRecorded => {
            const {
                &[Place::new(fair_lock::FILE, Op::Exchange, Skip)
                    .when(|order| order == Ordering::Acquire)]
            }
        }
        Fault::PendingNotInserted => const { &[Place::new(pending::FILE, Op::Store, Skip)] },
        Fault::IndexKeyRelaxed => const { &[Place::new(index::FILE, Op::Store, Weaken)] },
        Fault::SummonRelaxed => const { &[Place::new(entry::FILE, Op::Store, Weaken)] },
        Fault::PendingNotWoken => const { &[Place::new(pending::FILE, Op::Wake, Skip)] },
        Fault::DuplicateIdKept => {
            const { &[Place::new(index::FILE, Op::Load, MapResult(|_| 0)).when(is_relaxed)] }
        }
        _ => &[],
    }
}

impl Fault {
    /// How many lines [`fault::APPLIES`] begins when the fault has applied at all its places.
    #[must_use]
    pub const fn places(self) -> usize {
        let operations = places(self).len();
        if operations == 0 { 1 } else { operations }
    }
}

/// What the active fault does to an operation.
pub(super) fn find(caller: &Location<'_>, op: Op, order: Ordering) -> Option<Mutation> {
    let applies = |p: &Place| p.op == op && p.file == caller.file() && (p.condition)(order);
    let (number, place) = (0..).zip(places(fault::active()?)).find(|(_, place)| applies(place))?;
    fault::record(number, place.file);
    Some(place.mutation)
}

fn is_relaxed(order: Ordering) -> bool {
    order == Ordering::Relaxed
}

fn is_ordered(order: Ordering) -> bool {
    order != Ordering::Relaxed
}

fn with_phase(word: u64, phase: Phase) -> u64 {
    word & !u64::from(Epoch::LOW_MASK) | u64::from(phase as u32)
}

fn is_released(word: u64) -> bool {
    word & u64::from(Epoch::LOW_MASK) == u64::from(Phase::Released as u32)
}
