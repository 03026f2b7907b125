//! A robust mutex: the model's machine says whether its owner died.

use std::cell::Cell;

use super::fault::{self, Fault};
use super::machine;

/// Tells whether the thread that locked it is dead.
#[derive(Debug)]
pub(crate) struct RobustMutex {
    /// The thread's place among all that the model has had.
    task: Cell<Option<usize>>,
}

impl RobustMutex {
    pub(crate) fn new() -> Self {
        Self { task: Cell::new(None) }
    }

    /// Locks it for the thread `tid`.
    pub(crate) fn lock(&self, tid: u32) -> bool {
        let machine = machine::get();
        self.task.set(machine.living(tid).filter(|_| !machine.no_robust_mutexes));
        true
    }

    pub(crate) fn unlock(&self) {
        self.task.set(None);
    }

    pub(crate) fn reset_after_fork(&self) {
        self.unlock();
    }

    /// Whether the thread `tid` holds it and lives.
    pub(crate) fn is_locked_by(&self, tid: u32) -> bool {
        self.task.get().is_some_and(|task| machine::get().living(tid) == Some(task))
    }

    /// Whether the thread that locked it is dead.
    pub(crate) fn owner_died(&self) -> bool {
        let unread = fault::is(Fault::OwnerDiedUnread) || fault::is(Fault::DeathUnnoticed);
        !unread && self.task.get().is_some_and(|task| machine::get().has_died(task))
    }
}
