//! A clock on which any deadline may have passed at any time.

use core::time::Duration;

use super::choice::Choice;
use super::machine;
use super::task::Sleep;
use crate::Errno;

/// A point in time. All are the same: [`Deadline`] decides what has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instant;

impl Instant {
    pub(crate) fn now() -> Self {
        Self
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.since(self)
    }

    pub(crate) fn since(self, _: Self) -> Duration {
        Duration::ZERO
    }
}

/// The time at which a wait ends. Of the deadlines of one thread only the last counts, and those derived
/// from it, which may pass earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// It may pass before the deadline that it was derived from.
    is_shorter: bool,
}

impl Deadline {
    pub(crate) fn after(_: Duration) -> Self {
        if let Some(me) = machine::get().me() {
            me.deadline_passed.set(false);
        }
        Self { is_shorter: false }
    }

    pub(crate) fn try_after(timeout: Duration) -> Result<Self, Errno> {
        Ok(Self::after(timeout))
    }

    pub(crate) fn at_most(self, _: Duration) -> Self {
        Self { is_shorter: true }
    }

    /// For a caller that was stopped, which no thread of the model is. [`Self::passed`] explores
    /// deadlines that come later than other threads expect.
    pub(crate) fn at_least(self, _: Duration) -> Self {
        self
    }

    /// Whether it has passed. Once passed, it stays passed.
    pub(crate) fn passed(self) -> bool {
        let machine = machine::get();
        let Some(me) = machine.me() else { return false };
        if !me.deadline_passed.get() && machine.choose(Choice::Deadline) {
            me.deadline_passed.set(true);
        }
        me.deadline_passed.get() || self.is_shorter && machine.choose(Choice::ShorterDeadline)
    }

    pub(crate) fn passed_at(self, _: Instant) -> bool {
        self.passed()
    }
}

/// Sleeps for a fixed time: lets other threads run while any is awake, and otherwise until the model's time
/// advances.
pub(crate) fn sleep(_: Duration) {
    let machine = machine::get();
    let Some(me) = machine.me() else { return };
    machine.signal_point(&me);
    if machine.others_are_awake(&me) {
        loom::thread::yield_now();
    } else {
        machine.sleep(&me, 0, Sleep::Fixed);
    }
    machine.signal_point(&me);
}
