//! How a thread that waits for the caller of a round polls whether that caller is alive.

use core::time::Duration;

use crate::sys::clock::Deadline;
use crate::sys::futex::Limit;

/// The time before the first poll, and between later ones.
const FIRST_INTERVAL: Duration = Duration::from_millis(250);
const NEXT_INTERVAL: Duration = Duration::from_secs(1);

/// The polls of one wait. A poll ends the process if the caller has died in its round.
pub(crate) struct LivenessPoll<'p> {
    interval: Duration,
    check_caller: &'p dyn Fn(),
}

impl<'p> LivenessPoll<'p> {
    pub(crate) fn new(check_caller: &'p dyn Fn()) -> Self {
        Self { interval: FIRST_INTERVAL, check_caller }
    }

    /// The limit of the next sleep: the next poll, or `deadline` if that is earlier.
    pub(crate) fn limit(&self, deadline: Deadline) -> Limit {
        Limit::At(deadline.at_most(self.interval))
    }

    /// The same for a wait without a deadline. Does not read the clock.
    pub(crate) fn unbounded(&self) -> Limit {
        Limit::Poll(self.interval)
    }

    /// Polls. To be called when a sleep has reached its limit, before the word is read again.
    pub(crate) fn check(&mut self) {
        (self.check_caller)();
        self.interval = NEXT_INTERVAL;
    }
}
