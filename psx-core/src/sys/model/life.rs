//! Whether a thread is alive. The model's kernel knows; what it says is what the mutex's word would.

use std::cell::Cell;

use super::fault::{self, Fault};
use super::machine;

/// What tells that the thread which has taken it is dead.
#[derive(Debug)]
pub(crate) struct LifeMark {
    /// The thread's place among all that the model has had.
    task: Cell<Option<usize>>,
}

impl LifeMark {
    pub(crate) fn new() -> Self {
        Self { task: Cell::new(None) }
    }

    /// Marks the thread of this id as alive.
    pub(crate) fn take(&self, tid: u32) -> bool {
        let machine = machine::get();
        self.task.set(machine.living(tid).filter(|_| !machine.no_life_marks));
        true
    }

    pub(crate) fn give_back(&self) {
        self.task.set(None);
    }

    pub(crate) fn reset_after_fork(&self) {
        self.give_back();
    }

    /// Whether the thread of this id has taken the mark and lives.
    pub(crate) fn is_held_by(&self, tid: u32) -> bool {
        self.task.get().is_some_and(|task| machine::get().living(tid) == Some(task))
    }

    /// Whether the thread that has taken the mark is dead.
    pub(crate) fn is_dead(&self) -> bool {
        let unread = fault::is(Fault::LifeMarkUnread) || fault::is(Fault::DeathUnnoticed);
        !unread && self.task.get().is_some_and(|task| machine::get().has_died(task))
    }
}
