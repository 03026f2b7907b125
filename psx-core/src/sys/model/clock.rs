//! A clock that may say at any moment that the time is up.

use core::time::Duration;

use super::choices::Whim;
use super::machine;
use super::task::Sleep;
use crate::Errno;

/// A point in time. All are the same: what matters is decided by [`Deadline`].
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

/// The point in time at which a wait gives up. Of each thread's deadlines only the last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline;

impl Deadline {
    pub(crate) fn after(_: Duration) -> Self {
        if let Some(me) = machine::get().me() {
            me.be_late(false);
        }
        Self
    }

    pub(crate) fn try_after(timeout: Duration) -> Result<Self, Errno> {
        Ok(Self::after(timeout))
    }

    pub(crate) fn at_most(self, _: Duration) -> Self {
        self
    }

    /// For a caller that was stopped, which no thread of the model is: [`Instant`] never moves. That a
    /// deadline comes later than others expect is covered by [`Self::passed`], which may say so or not.
    pub(crate) fn at_least(self, _: Duration) -> Self {
        self
    }

    /// Whether it has passed; once it has, it stays so.
    pub(crate) fn passed(self) -> bool {
        let machine = machine::get();
        let Some(me) = machine.me() else { return false };
        if !me.is_late() && machine.whim(Whim::Deadline) {
            me.be_late(true);
        }
        me.is_late()
    }

    pub(crate) fn passed_at(self, _: Instant) -> bool {
        self.passed()
    }
}

/// Sleeps for a while. Whoever naps does so while others are at work, and then for a while longer:
/// until the model's time passes.
pub(crate) fn sleep(_: Duration) {
    let machine = machine::get();
    let Some(me) = machine.me() else { return };
    machine.interrupt(&me);
    if machine.others_are_awake(&me) {
        loom::thread::yield_now();
    } else {
        machine.sleep(&me, 0, Sleep::Nap);
    }
    machine.interrupt(&me);
}
