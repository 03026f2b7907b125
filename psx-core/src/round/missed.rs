//! Whether it makes sense to wait for the threads that a proof has missed.
//!
//! A thread that is not registered may be about to register itself: it is new, and another thread's
//! start hook calls `adopt` first thing. So a proof that fails is tried again. But a thread that has been
//! there for [`WINDOW`], and could have run, and has not registered, will not do so because the next
//! attempt stops the world once more. Then the proof's answer is final.
//!
//! A thread that is about to register may also sleep: at the gate, which a round keeps closed, or for a
//! lock that a stopped thread holds. So a thread counts as idle only if it is seen so several times
//! while the world runs, and no thread waits at the gate at any of those times.
//!
//! The window is no guarantee, and none is needed: a thread that registers later makes the next
//! broadcast succeed. What it must not do is give up on a thread that the machine is too busy to run.

use core::time::Duration;

use crate::memory::{NoMemory, try_vec};
use crate::report::Threads;
use crate::sys::clock::Instant;
use crate::sys::{Activity, Kernel};

/// For how long a thread must have been there.
pub(super) const WINDOW: Duration = Duration::from_millis(100);

/// How often it must have been seen idle, one time after the other, and how far apart these looks are.
const LOOKS: u32 = 3;
pub(super) const LOOK_EVERY: Duration = WINDOW.checked_div(4).unwrap();

/// The threads that the last proof has missed.
#[derive(Default)]
pub(super) struct Missed {
    threads: Vec<Observation>,
    last_look: Option<Instant>,
}

/// A thread, and how it looked since it was first missed.
#[derive(Clone, Copy)]
struct Observation {
    tid: u32,
    /// `None` where `/proc` does not tell.
    first: Option<Activity>,
    since: Instant,
    /// How many looks in a row have found it idle.
    idle_looks: u32,
}

impl Missed {
    /// Takes note of the threads that a proof has missed just now.
    pub(super) fn update(&mut self, kernel: &Kernel, threads: &Threads) -> Result<(), NoMemory> {
        let mut observations = try_vec(threads.len())?;
        for tid in threads.iter().map(|thread| thread.tid()) {
            let now = kernel.activity(tid);
            let known = self.threads.iter().find(|seen| seen.tid == tid && seen.is_same(now));
            observations.push(known.copied().unwrap_or(Observation {
                tid,
                first: now,
                since: Instant::now(),
                idle_looks: 0,
            }));
        }
        self.threads = observations;
        self.last_look.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Looks at the threads again if it is time to. Called while the world runs. `gate_has_waiters` says
    /// whether a thread waits at the gate, which may be one of these.
    pub(super) fn look(&mut self, kernel: &Kernel, gate_has_waiters: bool) {
        if self.last_look.is_none_or(|last| last.elapsed() < LOOK_EVERY) {
            return;
        }
        self.last_look = Some(Instant::now());
        for sighting in &mut self.threads {
            let now = kernel.activity(sighting.tid);
            let is_idle = !gate_has_waiters && sighting.is_idle(now);
            sighting.idle_looks = if is_idle { sighting.idle_looks + 1 } else { 0 };
        }
    }

    /// Whether each of them has had the time to register.
    pub(super) fn are_settled(&self) -> bool {
        let is_settled = |seen: &Observation| seen.is_settled(seen.since.elapsed());
        !self.threads.is_empty() && self.threads.iter().all(is_settled)
    }
}

impl Observation {
    /// Whether it is the same thread, and not a later one with its id.
    fn is_same(&self, now: Option<Activity>) -> bool {
        self.first.map(|first| first.start_time) == now.map(|now| now.start_time)
    }

    /// Whether the thread sleeps or has run: one that waits for a core or a page, and has not had it,
    /// may be about to register.
    fn is_idle(&self, now: Option<Activity>) -> bool {
        let (Some(first), Some(now)) = (self.first, now) else { return false };
        first.start_time == now.start_time && (!now.is_active || now.cpu_time > first.cpu_time)
    }

    /// Whether it has been there for `time` and idle, so that it has had the time to register.
    fn is_settled(&self, time: Duration) -> bool {
        time >= WINDOW && self.idle_looks >= LOOKS
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;

    const NEW: Activity = Activity { start_time: 1_000, cpu_time: 0, is_active: true };
    const ASLEEP: Activity = Activity { is_active: false, ..NEW };
    const BUSY: Activity = Activity { cpu_time: 1, ..NEW };

    fn seen(first: Option<Activity>) -> Observation {
        Observation { tid: 1, first, since: Instant::now(), idle_looks: 0 }
    }

    #[test]
    fn a_thread_that_has_run_or_sleeps_is_idle() {
        let idle = |now| seen(Some(NEW)).is_idle(Some(now));
        assert!(idle(ASLEEP) && idle(BUSY));
        assert!(!idle(NEW), "it has not had a core");
        assert!(!seen(Some(BUSY)).is_idle(Some(BUSY)), "nor has this one");
        assert!(
            !seen(Some(NEW)).is_idle(Some(Activity { start_time: 1_001, ..ASLEEP })),
            "another thread"
        );
        assert!(!seen(Some(NEW)).is_idle(None) && !seen(None).is_idle(None));
    }

    #[test]
    fn a_thread_has_had_its_time_after_several_looks_and_the_window() {
        let mut thread = Observation { idle_looks: LOOKS, ..seen(Some(NEW)) };
        assert!(thread.is_settled(WINDOW));
        assert!(!thread.is_settled(WINDOW - Duration::from_millis(1)));
        thread.idle_looks -= 1;
        assert!(!thread.is_settled(WINDOW));
    }

    #[test]
    fn a_later_thread_with_the_same_id_is_another() {
        let later = Activity { start_time: 1_001, ..NEW };
        assert!(seen(Some(NEW)).is_same(Some(BUSY)));
        assert!(!seen(Some(NEW)).is_same(Some(later)));
        assert!(!seen(Some(NEW)).is_same(None));
    }
}
