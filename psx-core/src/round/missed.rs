//! Whether it makes sense to wait for the threads that a proof has missed.
//!
//! A thread that is not registered may be about to register itself: it is new, and another thread's
//! start hook calls `adopt` first thing. So a proof that fails is tried again. But a thread that has been
//! there for [`WINDOW`], and could have run, and has not registered, will not do so because the next
//! attempt stops the world once more. Then the proof's answer is final.
//!
//! The window is no guarantee, and none is needed: a thread that registers later makes the next
//! broadcast succeed. What it must not do is give up on a thread that the machine is too busy to run.

use core::time::Duration;

use crate::memory::{NoMemory, try_vec};
use crate::report::Threads;
use crate::sys::clock::Instant;
use crate::sys::{Kernel, Vitals};

/// For how long a thread must have been there.
pub(super) const WINDOW: Duration = Duration::from_millis(100);

/// The threads that the last proof has missed.
#[derive(Default)]
pub(super) struct Missed(Vec<Sighting>);

/// A thread, and how it looked when it was first missed.
#[derive(Clone, Copy)]
struct Sighting {
    tid: u32,
    /// `None` where `/proc` does not tell.
    first: Option<Vitals>,
    since: Instant,
    settled: bool,
}

impl Missed {
    /// Takes note of the threads that a proof has missed just now. Called while the world runs.
    pub(super) fn update(&mut self, kernel: &Kernel, threads: &Threads) -> Result<(), NoMemory> {
        let mut sightings = try_vec(threads.len())?;
        for tid in threads.iter().map(|thread| thread.tid()) {
            let now = kernel.vitals(tid);
            let known = self.0.iter().find(|seen| seen.tid == tid && seen.is_same(now));
            let mut sighting = known.copied().unwrap_or(Sighting {
                tid,
                first: now,
                since: Instant::now(),
                settled: false,
            });
            sighting.settled = sighting.has_had_its_time(now, sighting.since.elapsed());
            sightings.push(sighting);
        }
        self.0 = sightings;
        Ok(())
    }

    /// Whether each of them has had the time to register.
    pub(super) fn are_settled(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|sighting| sighting.settled)
    }
}

impl Sighting {
    /// Whether it is the same thread, and not a later one with its id.
    fn is_same(&self, now: Option<Vitals>) -> bool {
        self.first.map(|first| first.start) == now.map(|now| now.start)
    }

    /// Whether the thread has been there for long enough, and has run or sleeps: one that waits for a
    /// core or a page, and has not had it, may be about to register.
    fn has_had_its_time(&self, now: Option<Vitals>, time: Duration) -> bool {
        let (Some(first), Some(now)) = (self.first, now) else { return false };
        time >= WINDOW && (!now.is_held_up || now.cpu_time > first.cpu_time)
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;

    const NEW: Vitals = Vitals { start: 1_000, cpu_time: 0, is_held_up: true };
    const ASLEEP: Vitals = Vitals { is_held_up: false, ..NEW };
    const BUSY: Vitals = Vitals { cpu_time: 1, ..NEW };

    fn seen(first: Option<Vitals>) -> Sighting {
        Sighting { tid: 1, first, since: Instant::now(), settled: false }
    }

    #[test]
    fn a_thread_that_has_run_or_sleeps_has_had_its_time() {
        let settled = |now| seen(Some(NEW)).has_had_its_time(Some(now), WINDOW);
        assert!(settled(ASLEEP) && settled(BUSY));
        assert!(!settled(NEW), "it has not had a core");
        assert!(!seen(Some(BUSY)).has_had_its_time(Some(BUSY), WINDOW), "nor has this one");
    }

    #[test]
    fn a_thread_that_is_younger_or_cannot_be_seen_has_not() {
        let soon = WINDOW - Duration::from_millis(1);
        assert!(!seen(Some(NEW)).has_had_its_time(Some(ASLEEP), soon));
        assert!(!seen(Some(NEW)).has_had_its_time(None, WINDOW));
        assert!(!seen(None).has_had_its_time(None, WINDOW));
    }

    #[test]
    fn a_later_thread_with_the_same_id_is_another() {
        let later = Vitals { start: 1_001, ..NEW };
        assert!(seen(Some(NEW)).is_same(Some(BUSY)));
        assert!(!seen(Some(NEW)).is_same(Some(later)));
        assert!(!seen(Some(NEW)).is_same(None));
    }
}
