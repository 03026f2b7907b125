//! How a thread that waits for a round's caller looks whether that caller is still alive.

use core::time::Duration;

use crate::sys::clock::Deadline;
use crate::sys::futex::Limit;

/// After how long a waiting thread looks at first, and then again and again.
const FIRST_INTERVAL: Duration = Duration::from_millis(250);
const NEXT_INTERVAL: Duration = Duration::from_secs(1);

/// The looks of one wait. A look ends the process where the caller has died in its round; else it
/// returns, and the wait goes on.
pub(crate) struct LivenessPoll<'p> {
    interval: Duration,
    check_caller: &'p dyn Fn(),
}

impl<'p> LivenessPoll<'p> {
    pub(crate) fn new(check_caller: &'p dyn Fn()) -> Self {
        Self { interval: FIRST_INTERVAL, check_caller }
    }

    /// How long to sleep before the next look, and no longer than until `deadline`.
    pub(crate) fn limit(&self, deadline: Deadline) -> Limit {
        Limit::At(deadline.at_most(self.interval))
    }

    /// The same for a wait without a deadline. Needs no clock.
    pub(crate) fn unbounded(&self) -> Limit {
        Limit::Poll(self.interval)
    }

    /// Looks. To be called when a sleep has reached its limit, and before the state that it waited for is
    /// read again.
    pub(crate) fn check(&mut self) {
        (self.check_caller)();
        self.interval = NEXT_INTERVAL;
    }
}
