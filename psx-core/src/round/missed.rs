//! Whether to wait for the threads that a proof has missed.
//!
//! An unregistered thread may be about to register itself: it is new, and a start hook calls `adopt`
//! first. So a failed proof is tried again. But a thread that has existed for [`WINDOW`], could have run
//! and has not registered will not register because another attempt stops all threads again. Then the
//! proof is final.
//!
//! A thread that is about to register may also sleep: at the gate, which a round keeps closed, or for a
//! lock that a stopped thread holds. So a thread counts as idle only if several polls find it idle while
//! all threads run, and no thread waits at the gate at any of those times.
//!
//! The window is no guarantee, and none is needed: a thread that registers later makes the next
//! broadcast succeed. But psx must not give up on a thread that a busy machine has not run yet.

use core::time::Duration;

use crate::memory::{NoMemory, try_vec};
use crate::report::Threads;
use crate::sys::clock::Instant;
use crate::sys::{Activity, Kernel};

/// For how long a thread must have existed.
pub(super) const WINDOW: Duration = Duration::from_millis(100);

/// How many polls in a row must have found it idle, and the time between two polls.
const IDLE_POLLS: u32 = 3;
pub(super) const POLL_INTERVAL: Duration = WINDOW.checked_div(4).unwrap();

/// The threads that the last proof has missed.
#[derive(Default)]
pub(super) struct MissedThreads {
    threads: Vec<MissedThread>,
    last_poll: Option<Instant>,
}

#[derive(Clone, Copy)]
struct MissedThread {
    tid: u32,
    /// What it did when it was first missed. `None` if `/proc` does not say.
    first: Option<Activity>,
    since: Instant,
    /// How many polls in a row have found it idle.
    idle_polls: u32,
}

impl MissedThreads {
    /// Replaces the threads by those that a proof has just missed.
    pub(super) fn update(&mut self, kernel: &Kernel, missed: &Threads) -> Result<(), NoMemory> {
        let mut threads = try_vec(missed.len())?;
        for tid in missed.iter().map(|thread| thread.tid()) {
            let now = kernel.activity(tid);
            let known = self.threads.iter().find(|known| known.tid == tid && known.is_same(now));
            threads.push(known.copied().unwrap_or(MissedThread {
                tid,
                first: now,
                since: Instant::now(),
                idle_polls: 0,
            }));
        }
        self.threads = threads;
        self.last_poll.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Polls the threads if the interval has passed. Called while all threads run. `gate_has_waiters` says
    /// whether a thread waits at the gate, which may be one of these.
    pub(super) fn poll(&mut self, kernel: &Kernel, gate_has_waiters: bool) {
        if self.last_poll.is_none_or(|last| last.elapsed() < POLL_INTERVAL) {
            return;
        }
        self.last_poll = Some(Instant::now());
        for thread in &mut self.threads {
            let now = kernel.activity(thread.tid);
            let is_idle = !gate_has_waiters && thread.is_idle(now);
            thread.idle_polls = if is_idle { thread.idle_polls + 1 } else { 0 };
        }
    }

    /// Whether each thread has had the time to register.
    pub(super) fn had_time_to_register(&self) -> bool {
        let had_time = |thread: &MissedThread| thread.had_time_to_register(thread.since.elapsed());
        !self.threads.is_empty() && self.threads.iter().all(had_time)
    }
}

impl MissedThread {
    /// Whether it is the same thread, and not a later one with its id.
    fn is_same(&self, now: Option<Activity>) -> bool {
        self.first.map(|first| first.start_time) == now.map(|now| now.start_time)
    }

    /// Whether the thread sleeps or has run. A thread that has only waited for a core or a page may be
    /// about to register.
    fn is_idle(&self, now: Option<Activity>) -> bool {
        let (Some(first), Some(now)) = (self.first, now) else { return false };
        first.start_time == now.start_time && (!now.is_active || now.cpu_time > first.cpu_time)
    }

    /// Whether a thread that was first missed `time` ago has had the time to register.
    fn had_time_to_register(&self, time: Duration) -> bool {
        time >= WINDOW && self.idle_polls >= IDLE_POLLS
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;

    const NEW: Activity = Activity { start_time: 1_000, cpu_time: 0, is_active: true };
    const ASLEEP: Activity = Activity { is_active: false, ..NEW };
    const BUSY: Activity = Activity { cpu_time: 1, ..NEW };

    fn missed(first: Option<Activity>) -> MissedThread {
        MissedThread { tid: 1, first, since: Instant::now(), idle_polls: 0 }
    }

    #[test]
    fn a_thread_that_has_run_or_sleeps_is_idle() {
        let idle = |now| missed(Some(NEW)).is_idle(Some(now));
        assert!(idle(ASLEEP) && idle(BUSY));
        assert!(!idle(NEW), "it has not run since");
        assert!(!missed(Some(BUSY)).is_idle(Some(BUSY)), "it has not run since");
        assert!(
            !missed(Some(NEW)).is_idle(Some(Activity { start_time: 1_001, ..ASLEEP })),
            "another thread"
        );
        assert!(!missed(Some(NEW)).is_idle(None) && !missed(None).is_idle(None));
    }

    #[test]
    fn time_to_register_takes_several_polls_and_the_window() {
        let mut thread = MissedThread { idle_polls: IDLE_POLLS, ..missed(Some(NEW)) };
        assert!(thread.had_time_to_register(WINDOW));
        assert!(!thread.had_time_to_register(WINDOW - Duration::from_millis(1)));
        thread.idle_polls -= 1;
        assert!(!thread.had_time_to_register(WINDOW));
    }

    #[test]
    fn a_later_thread_with_the_same_id_is_another() {
        let later = Activity { start_time: 1_001, ..NEW };
        assert!(missed(Some(NEW)).is_same(Some(BUSY)));
        assert!(!missed(Some(NEW)).is_same(Some(later)));
        assert!(!missed(Some(NEW)).is_same(None));
    }
}
