//! How the threads of a round wait for each other before they sleep.
//!
//! Need: to sleep and be woken costs several times as much as to yield the core and find, at the next turn,
//! that no thread is missing; and each thread waits twice in a round. Design: a few yields before the
//! sleep, under these conditions:
//!
//! - At most [`YIELD_MAX_MISSING`] threads are missing. With thousands of runnable threads, each turn starts
//!   with cold caches.
//! - The call cannot forbid it: if it may install a seccomp filter, the threads wait by futex only.
//! - No other thread wants the core. A yield may give it to a thread outside the round, which keeps it for
//!   milliseconds, while a woken thread would preempt that one. This cannot be known in advance. So the time
//!   is limited, and after a round that took far too long no thread yields for some rounds, and for twice as
//!   many if the next try is no better.
//! - No other sender uses signal 33. Threads that are flooded with it are always runnable: a round whose
//!   threads yield to them takes a hundred times as long.
//!
//! If there are more threads than cores, the caller never yields: a thread that wakes the caller gives up its
//! core to it at once, while a caller that yields waits behind all other threads that do. docs/benchmarks.md
//! has the numbers.
//!
//! Downside: if a target and the caller share a core, the scheduler preempts the target at its last wake-up
//! in a round. If the caller then begins the next round at once, the target returns from one signal handler
//! into the next and executes no instruction of the program, round after round. So before every
//! [`YIELD_PERIOD`]th broadcast the caller yields once, with no thread stopped.

use core::time::Duration;

use crate::sys::clock::Deadline;
use crate::sys::sync::{AtomicU32, Ordering, spin_hint, yield_now};
use crate::sys::{SPIN_BEFORE_SLEEP, const_on_linux};

/// With more missing threads than this, a target sleeps at once.
const YIELD_MAX_MISSING: usize = 1_024;

/// For more threads than cores: in each turn many others run.
const YIELDS_OVERSUBSCRIBED: u32 = 4;
const TIME_OVERSUBSCRIBED: Duration = Duration::from_millis(3);
/// For fewer: about as long as a sleep and a wake-up take. A yield gives the core to a missing thread that
/// needs it; otherwise it returns at once.
const YIELDS: u32 = 64;
const TIME: Duration = Duration::from_micros(100);
const SPINS: u32 = 256;

/// The number of broadcasts from one yield of the caller to the next. If no other thread wants the core, a
/// yield takes a tenth of the time of a small round.
const YIELD_PERIOD: u32 = 32;

/// A stop that is longer than this, plus the second for each target, has given a core to a thread outside the
/// round. The time for each target is several times what a target needs.
const STOP_BUDGET: Duration = Duration::from_micros(200);
const STOP_BUDGET_PER_THREAD: Duration = Duration::from_micros(50);
/// The number of rounds without yields after that, at first, and how often it may double.
const COOLDOWN_ROUNDS: u32 = 4;
const MAX_BACKOFF: u32 = 8;

/// The round has more threads than the machine has cores.
const OVERSUBSCRIBED: u32 = 1;
/// The call may install a seccomp filter.
const FUTEX_ONLY: u32 = 2;
/// No thread yields or spins in this round.
const COOLDOWN: u32 = 4;
/// The call is a closure of the program.
const CLOSURE: u32 = 8;

/// How the threads of a round wait. All accesses are Relaxed: the caller writes the flags before the
/// announcement, whose Release publishes them (`Word::publish`); the rest are hints.
#[derive(Debug)]
pub(crate) struct WaitPolicy {
    /// Written by the holder of the round's lock, before the announcement.
    flags: AtomicU32,
    /// The number of rounds left in which no thread yields. Written under the round's lock.
    cooldown: AtomicU32,
    /// How many tries in a row have taken too long. Written under the round's lock.
    backoff: AtomicU32,
    /// The number of broadcasts, modulo 2^32. Written by any thread.
    broadcasts: AtomicU32,
    /// The number of foreign signals 33 since the last round. Written by any thread.
    foreign_signals: AtomicU32,
}

impl WaitPolicy {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self {
                flags: AtomicU32::new(0),
                cooldown: AtomicU32::new(0),
                backoff: AtomicU32::new(0),
                broadcasts: AtomicU32::new(0),
                foreign_signals: AtomicU32::new(0),
            }
        }
    }

    /// Yields before every [`YIELD_PERIOD`]th broadcast, so that the targets of the last one run. Called before
    /// the round's lock is taken. Does nothing if the threads of the last round slept at once: then no target is
    /// held up, and the core would go to another process, or the yield may be forbidden.
    pub(crate) fn let_targets_run(&self) {
        if !SPIN_BEFORE_SLEEP {
            return;
        }
        let due =
            self.broadcasts.fetch_add(1, Ordering::Relaxed) % YIELD_PERIOD == YIELD_PERIOD - 1;
        if due && self.flags() & (COOLDOWN | FUTEX_ONLY) == 0 {
            yield_now();
        }
    }

    /// Sets the flags of a round. Called by its caller, before the announcement.
    pub(crate) fn set(&self, oversubscribed: bool, may_filter: bool, closure: bool) {
        let cooldown = self.cooldown.load(Ordering::Relaxed);
        self.cooldown.store(cooldown.saturating_sub(1), Ordering::Relaxed);
        let flag = |set: bool, flag| if set { flag } else { 0 };
        let cooldown = cooldown > 0
            || SPIN_BEFORE_SLEEP && self.foreign_signals.swap(0, Ordering::Relaxed) > 0;
        let flags = flag(oversubscribed, OVERSUBSCRIBED)
            | flag(may_filter, FUTEX_ONLY)
            | flag(cooldown, COOLDOWN);
        let flags = flags | flag(closure, CLOSURE);
        self.flags.store(flags, Ordering::Relaxed);
    }

    /// Counts a signal 33 that psx has not sent. Async-signal-safe.
    pub(crate) fn note_foreign_signal(&self) {
        self.foreign_signals.fetch_add(1, Ordering::Relaxed);
    }

    fn flags(&self) -> u32 {
        if SPIN_BEFORE_SLEEP { self.flags.load(Ordering::Relaxed) } else { COOLDOWN }
    }

    /// Whether the call of the current round is a closure of the program.
    pub(crate) fn is_closure(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & CLOSURE != 0
    }

    /// Whether the current round makes no system call but futex after its commit.
    pub(crate) fn is_futex_only(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & FUTEX_ONLY != 0
    }

    /// How a target waits while this many threads are missing.
    pub(crate) fn for_target(&self, missing: usize) -> SpinWait {
        self.spin_wait(missing <= YIELD_MAX_MISSING)
    }

    /// How the caller waits.
    pub(crate) fn for_caller(&self) -> SpinWait {
        self.spin_wait(self.flags() & OVERSUBSCRIBED == 0)
    }

    fn spin_wait(&self, worthwhile: bool) -> SpinWait {
        let flags = self.flags();
        let oversubscribed = flags & OVERSUBSCRIBED != 0;
        let may_yield = worthwhile && flags & FUTEX_ONLY == 0;
        let (yields, time, spins) = match (oversubscribed, may_yield) {
            _ if flags & COOLDOWN != 0 => (0, TIME, 0),
            (true, true) => (YIELDS_OVERSUBSCRIBED, TIME_OVERSUBSCRIBED, 0),
            (false, true) => (YIELDS, TIME, 0),
            (true, false) => (0, TIME, 0),
            (false, false) => (0, TIME, SPINS),
        };
        let until = (yields > 0).then(|| Deadline::after(time));
        SpinWait { until, yields, spins }
    }

    /// Adjusts the cooldown after a round. Called under the round's lock.
    pub(crate) fn record_stop(&self, targets: usize, stopped: Duration) {
        if self.flags() & COOLDOWN != 0 {
            return;
        }
        let mut backoff = 0;
        if stopped > STOP_BUDGET + STOP_BUDGET_PER_THREAD * targets as u32 {
            backoff = self.backoff.load(Ordering::Relaxed);
            self.cooldown.store(COOLDOWN_ROUNDS << backoff, Ordering::Relaxed);
            backoff = (backoff + 1).min(MAX_BACKOFF);
        }
        self.backoff.store(backoff, Ordering::Relaxed);
    }
}

/// What is left of one wait before the sleep.
#[derive(Debug)]
pub(crate) struct SpinWait {
    /// The end of the yields. Without yields, the clock is not read.
    until: Option<Deadline>,
    yields: u32,
    spins: u32,
}

impl SpinWait {
    /// Yields or spins once and returns true, or returns false if the thread is to sleep.
    #[inline]
    pub(crate) fn spin(&mut self) -> bool {
        if self.yields > 0 && !self.until.is_some_and(Deadline::passed) {
            self.yields -= 1;
            yield_now();
        } else if self.spins > 0 {
            self.spins -= 1;
            spin_hint();
        } else {
            return false;
        }
        true
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;

    fn yields(wait_policy: &WaitPolicy) -> bool {
        wait_policy.set(true, false, false);
        wait_policy.for_target(1).yields > 0
    }

    #[test]
    fn no_thread_yields_after_foreign_signals() {
        let wait_policy = WaitPolicy::new();
        assert!(yields(&wait_policy));
        wait_policy.note_foreign_signal();
        assert!(!yields(&wait_policy));
        wait_policy.record_stop(1, Duration::from_secs(1));
        assert!(
            yields(&wait_policy),
            "no foreign signal since, and a round without yields proves nothing"
        );
    }

    #[test]
    fn no_thread_yields_for_some_rounds_after_one_that_was_too_long() {
        let wait_policy = WaitPolicy::new();
        for tries in 0..2 * MAX_BACKOFF {
            assert!(yields(&wait_policy), "the cooldown is over");
            wait_policy.record_stop(1, Duration::from_secs(1));
            for _ in 0..COOLDOWN_ROUNDS << tries.min(MAX_BACKOFF) {
                assert!(!yields(&wait_policy));
                wait_policy.record_stop(1, Duration::ZERO);
            }
        }
        assert!(yields(&wait_policy));
        wait_policy.record_stop(1, STOP_BUDGET);
        assert!(yields(&wait_policy), "a short round resets the backoff");
    }

    #[test]
    fn no_thread_yields_if_the_call_may_forbid_it() {
        let wait_policy = WaitPolicy::new();
        wait_policy.set(true, true, false);
        assert!(wait_policy.is_futex_only());
        assert_eq!((wait_policy.for_target(1).yields, wait_policy.for_caller().yields), (0, 0));
        wait_policy.set(false, false, false);
        assert!(!wait_policy.is_futex_only());
        assert!(wait_policy.for_target(1).yields > 0 && wait_policy.for_caller().yields > 0);
    }

    #[test]
    fn thousands_of_targets_and_an_oversubscribed_caller_sleep_at_once() {
        let wait_policy = WaitPolicy::new();
        wait_policy.set(true, false, false);
        assert_eq!(
            (wait_policy.for_target(YIELD_MAX_MISSING + 1).yields, wait_policy.for_caller().yields),
            (0, 0)
        );
        assert!(wait_policy.for_target(YIELD_MAX_MISSING).yields > 0);
    }
}
