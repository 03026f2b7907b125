//! A robust mutex: the model's machine knows whether its owner died.

use std::cell::Cell;

use super::fault::{self, Fault};
use super::machine;

/// Shows whether the thread that locked it is dead.
#[derive(Debug)]
pub(crate) struct RobustMutex {
    /// The thread's index among all threads that have existed.
    owner: Cell<Option<usize>>,
}

impl RobustMutex {
    pub(crate) fn new() -> Self {
        Self { owner: Cell::new(None) }
    }

    /// Locks it for the thread `tid`.
    pub(crate) fn lock(&self, tid: u32) -> bool {
        let machine = machine::get();
        self.owner.set(machine.find_living(tid).filter(|_| !machine.no_robust_mutexes));
        true
    }

    pub(crate) fn unlock(&self) {
        self.owner.set(None);
    }

    pub(crate) fn reset_after_fork(&self) {
        self.unlock();
    }

    /// Whether the thread `tid` holds it and lives.
    pub(crate) fn is_locked_by(&self, tid: u32) -> bool {
        self.owner.get().is_some_and(|owner| machine::get().find_living(tid) == Some(owner))
    }

    /// Whether the thread that locked it is dead.
    pub(crate) fn owner_died(&self) -> bool {
        let ignored = fault::is(Fault::OwnerDiedIgnored) || fault::is(Fault::DeathNotDetected);
        !ignored && self.owner.get().is_some_and(|owner| machine::get().has_died(owner))
    }
}
