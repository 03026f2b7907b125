//! How the threads of a round wait for each other before they go to sleep.
//!
//! Need: a thread that sleeps and is woken costs several times what one costs that yields its core
//! and finds, when its turn comes again, that all have done their part; and a round has two such
//! waits a thread. Design: a few yields before the sleep, under these conditions:
//!
//! - No more than [`YIELD_MAX_MISSING`] are missing. With thousands awake, each turn finds its caches cold.
//! - The call cannot forbid it: the threads of a round whose call may install a filter on system
//!   calls wait by futex alone.
//! - Nobody else wants the core. A yield lends it to whoever is hungry, a stranger to the round
//!   included, who keeps it for milliseconds, where a sleeper is put in front of him when it is
//!   woken. That cannot be known before; so the time is limited, and after a round that took far too
//!   long everybody sleeps at once for some rounds, twice as many if the next try is no better.
//! - Nobody else sends our signal. Threads that are flooded with it are hungry themselves, all the
//!   time: a round whose threads yield to those takes a hundred times as long.
//!
//! The caller of a crowd never yields: who wakes it hands its core over at once, while one that
//! yields waits behind everybody else who does. docs/benchmarks.md has the numbers.
//!
//! Downside: where a target and the caller share a core, the target's last wake-up of a round is where the
//! scheduler preempts it. If the caller then begins the next round at once, the target returns from one
//! signal handler into the next, and executes no instruction of the program, round after round. So before
//! every [`YIELD_PERIOD`]th round the caller yields once, with no thread stopped.

use core::time::Duration;

use crate::sys::clock::Deadline;
use crate::sys::sync::{AtomicU32, Ordering, spin_hint, yield_now};
use crate::sys::{SPIN_BEFORE_SLEEP, const_on_linux};

/// With how many missing it pays to wait for them awake.
const YIELD_MAX_MISSING: usize = 1_024;

/// Of more threads than there are cores: each turn lets many others do their part.
const YIELDS_OVERSUBSCRIBED: u32 = 4;
const TIME_OVERSUBSCRIBED: Duration = Duration::from_millis(3);
/// Of fewer: about as long as a sleep and a wake-up take. On the core that the other one needs it
/// hands over at once, on another it is a short look.
const YIELDS: u32 = 64;
const TIME: Duration = Duration::from_micros(100);
const SPINS: u32 = 256;

/// Before every how many rounds the caller lets the targets run. A yield takes as long as a tenth of a
/// small round where no other thread wants the core.
const YIELD_PERIOD: u32 = 32;

/// A round longer than this, and longer than a thread's share times its threads, has lent a core to a
/// stranger. A share is several times what a thread costs.
const STOP_BUDGET: Duration = Duration::from_micros(200);
const STOP_BUDGET_PER_THREAD: Duration = Duration::from_micros(50);
/// For how many rounds nobody yields after that, at first; and how often that may double.
const COOLDOWN_ROUNDS: u32 = 4;
const MAX_BACKOFF: u32 = 8;

/// More threads wait for each other than there are cores.
const OVERSUBSCRIBED: u32 = 1;
/// The call may install a filter on system calls.
const FUTEX_ONLY: u32 = 2;
/// Somebody else is hungry.
const COOLDOWN: u32 = 4;
/// The call is a closure of the program's.
const CLOSURE: u32 = 8;

/// How a round's threads wait. All Relaxed: hints, written by the caller before the announcement, or
/// under the round's lock.
#[derive(Debug)]
pub(crate) struct WaitPolicy {
    flags: AtomicU32,
    /// For how many rounds yet nobody is to yield.
    cooldown: AtomicU32,
    /// How many tries in a row have been too long.
    backoff: AtomicU32,
    /// Rounds that have been begun, modulo 2^32.
    begun: AtomicU32,
    /// Signals 33 since the last round that nobody of ours has sent.
    foreign_signals: AtomicU32,
}

impl WaitPolicy {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self {
                flags: AtomicU32::new(0),
                cooldown: AtomicU32::new(0),
                backoff: AtomicU32::new(0),
                begun: AtomicU32::new(0),
                foreign_signals: AtomicU32::new(0),
            }
        }
    }

    /// Lets the last round's targets run, before every [`YIELD_PERIOD`]th round. For a caller that does not have
    /// its turn yet. Does nothing where the last round's threads have slept at once: such a target is not
    /// held up, and the yield would go to another process, or may be forbidden.
    pub(crate) fn let_targets_run(&self) {
        if !SPIN_BEFORE_SLEEP {
            return;
        }
        let due = self.begun.fetch_add(1, Ordering::Relaxed) % YIELD_PERIOD == YIELD_PERIOD - 1;
        if due && self.flags() & (COOLDOWN | FUTEX_ONLY) == 0 {
            yield_now();
        }
    }

    /// Sets up for a round. For its caller, before the announcement.
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

    /// Somebody else sends our signal. Async-signal-safe.
    pub(crate) fn note_foreign_signal(&self) {
        self.foreign_signals.fetch_add(1, Ordering::Relaxed);
    }

    fn flags(&self) -> u32 {
        if SPIN_BEFORE_SLEEP { self.flags.load(Ordering::Relaxed) } else { COOLDOWN }
    }

    /// Whether the call of the round at hand is a closure of the program's.
    pub(crate) fn is_closure(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & CLOSURE != 0
    }

    /// Whether the round at hand may be one with no system call but futex.
    pub(crate) fn is_futex_only(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & FUTEX_ONLY != 0
    }

    /// How a target waits, with so many missing.
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

    /// Learns from a round that is over.
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

/// The part of one wait before the sleep.
#[derive(Debug)]
pub(crate) struct SpinWait {
    /// Until when at most to yield. The clock is read only for that.
    until: Option<Deadline>,
    yields: u32,
    spins: u32,
}

impl SpinWait {
    /// Waits a little and returns true, or returns false when it is time to sleep.
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
    fn nobody_yields_while_strangers_signal() {
        let wait_policy = WaitPolicy::new();
        assert!(yields(&wait_policy));
        wait_policy.note_foreign_signal();
        assert!(!yields(&wait_policy));
        wait_policy.record_stop(1, Duration::from_secs(1));
        assert!(
            yields(&wait_policy),
            "they have stopped, and how long that round took tells nothing"
        );
    }

    #[test]
    fn nobody_yields_for_a_while_after_a_round_that_was_too_long() {
        let wait_policy = WaitPolicy::new();
        for tries in 0..2 * MAX_BACKOFF {
            assert!(yields(&wait_policy), "the round after the last cooldown one is a try");
            wait_policy.record_stop(1, Duration::from_secs(1));
            for _ in 0..COOLDOWN_ROUNDS << tries.min(MAX_BACKOFF) {
                assert!(!yields(&wait_policy));
                wait_policy.record_stop(1, Duration::ZERO);
            }
        }
        assert!(yields(&wait_policy));
        wait_policy.record_stop(1, STOP_BUDGET);
        assert!(yields(&wait_policy), "a short one ends it");
    }

    #[test]
    fn a_call_that_may_forbid_it_is_waited_for_asleep() {
        let wait_policy = WaitPolicy::new();
        wait_policy.set(true, true, false);
        assert!(wait_policy.is_futex_only());
        assert_eq!((wait_policy.for_target(1).yields, wait_policy.for_caller().yields), (0, 0));
        wait_policy.set(false, false, false);
        assert!(!wait_policy.is_futex_only());
        assert!(wait_policy.for_target(1).yields > 0 && wait_policy.for_caller().yields > 0);
    }

    #[test]
    fn thousands_and_the_caller_of_a_crowd_sleep_at_once() {
        let wait_policy = WaitPolicy::new();
        wait_policy.set(true, false, false);
        assert_eq!(
            (wait_policy.for_target(YIELD_MAX_MISSING + 1).yields, wait_policy.for_caller().yields),
            (0, 0)
        );
        assert!(wait_policy.for_target(YIELD_MAX_MISSING).yields > 0);
    }
}
