//! A broadcast: rounds, here called attempts, until one is committed, one fails for good, or the deadline
//! passes. Memory is allocated and freed between attempts, never in one.
//!
//! An attempt stops the threads for no longer than its pause (P9). If a thread is late, all threads run on,
//! and the next attempt begins when the late threads have taken their signals, with twice the pause.

use core::time::Duration;

use super::Call;
use super::caller::{AttemptError, Caller, Committed, Garbage, Stop};
use super::missed::{MissedThreads, POLL_INTERVAL};
use super::scratch::Scratch;
use super::stopped_world::{OVERSLEPT, RESUME_GRACE};
use super::target::NEXT_ATTEMPT;
use crate::memory::NoMemory;
use crate::registry::Entry;
use crate::report::Threads;
use crate::runtime::Runtime;
use crate::sys::HEADROOM;
use crate::sys::clock::{self, Deadline, Instant};
use crate::sys::futex::Limit;
use crate::sys::sync::Ordering;
use crate::{Broadcast, Coverage, Error, NamedThread, Report, Stops};

/// How long the first attempt keeps the gate closed for threads that are being started. The next attempts
/// wait twice as long each: such a start may wait for something that waits for the round.
const MIN_CLOSE_WAIT: Duration = Duration::from_millis(10);

/// How long to wait between two failed proofs while the thread counts stay the same. It starts with the
/// time between two polls of the missed threads, and triples, so that the third proof is final.
const MIN_RETRY_WAIT: Duration = POLL_INTERVAL;
const MAX_RETRY_WAIT: Duration = Duration::from_secs(1);

/// The first and the longest sleep between two readings of the thread counts.
const MIN_COUNT_WAIT: Duration = Duration::from_micros(50);
const MAX_COUNT_WAIT: Duration = Duration::from_millis(5);

/// The first attempt's pause, unless the program sets another: a constant, and a share for each thread.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_PER_THREAD: Duration = Duration::from_micros(50);
/// A pause that the program sets is at least this long.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// How long to wait for late threads before the kernel is asked whether their signals are still queued: at
/// first, and at the longest, which is a quarter of a shorter timeout. Each wait is four times as long as the
/// last. A signal may have been lost: to another handler, or with a thread that was to send it.
const MIN_PENDING_CHECK: Duration = Duration::from_millis(2);
const PENDING_CHECK: Duration = Duration::from_secs(1);
/// The first and the longest sleep between two looks whether late threads have taken their signals.
const MIN_LATE_WAIT: Duration = Duration::from_millis(1);
const MAX_LATE_WAIT: Duration = Duration::from_millis(20);

/// How many threads there are: registered, and by the kernel's count (0 if that cannot be read).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadCounts {
    pub(super) registered: usize,
    pub(super) all: usize,
}

/// What the attempts of a broadcast have in common.
struct Attempts<'r> {
    runtime: &'r Runtime,
    deadline: Deadline,
    stops: Stops,
    pause: Duration,
    pending_check: Duration,
    last_stop: Stop,
    is_put_off: bool,
    close_wait: Duration,
    retry_wait: Duration,
    /// The threads that the last failed proof has found. If a later attempt ends at the deadline before its
    /// own proof, this is the better answer.
    uncovered: Option<Threads>,
    missed: MissedThreads,
    /// The threads that were late in the last attempt in which any was.
    late: Option<Threads>,
}

impl Runtime {
    /// Makes the call on every registered thread, or on none. `me` is the calling thread's entry, which is
    /// in no round. No attempt begins after the deadline.
    pub(crate) fn broadcast(
        &self,
        me: &Entry,
        plan: &Broadcast,
        deadline: Deadline,
        call: Call<'_>,
    ) -> Result<Report, Error> {
        self.round.wait_policy.let_targets_run();
        let mut attempts = Attempts {
            runtime: self,
            deadline,
            stops: Stops::default(),
            pause: plan.pause.map_or(PAUSE + PAUSE_PER_THREAD * self.list.len() as u32, |pause| {
                pause.max(MIN_PAUSE)
            }),
            pending_check: PENDING_CHECK.min(plan.timeout / 4),
            last_stop: Stop::default(),
            is_put_off: false,
            close_wait: MIN_CLOSE_WAIT,
            retry_wait: MIN_RETRY_WAIT,
            uncovered: None,
            missed: MissedThreads::default(),
            late: None,
        };
        loop {
            if !self.kernel.has_stat_file() {
                // The program has closed the descriptor. Reopening looks up a path, so not in an attempt.
                let _ = self.kernel.reopen_stat_file();
            }
            let seen = self.expected_counts(plan, attempts.stops.attempts() == 0);
            let mut garbage = Garbage::default();
            let mut scratch = self.prepare(seen, &mut garbage).map_err(out_of_memory)?;
            let Attempts { deadline, pause, close_wait, .. } = attempts;
            let close_by = deadline.at_most(close_wait);
            let caller = Caller { runtime: self, me, plan, call, pause, deadline, seen };
            let mut stop = Stop::default();
            let attempt = caller.attempt(close_by, &mut scratch, &mut garbage, &mut stop);
            drop(garbage);
            attempts.record(stop);
            match attempt {
                Ok(committed) => return Ok(report(committed, &scratch, attempts.stops)),
                Err(error) => attempts.retry_after(error, &scratch, seen)?,
            }
        }
    }

    /// How many threads to prepare for. A count takes as long as the rest of a small round, so the last
    /// proof's counts are used as long as the number of registered threads is the same.
    fn expected_counts(&self, plan: &Broadcast, is_first: bool) -> ThreadCounts {
        let registered = self.list.len();
        let is_settled = plan.coverage == Coverage::Registered
            || registered == self.round.proven_hint.load(Ordering::Relaxed) as usize;
        if is_first && is_settled {
            let harmless = self.round.harmless_hint.load(Ordering::Relaxed) as usize;
            return ThreadCounts { registered, all: registered + harmless };
        }
        self.thread_counts()
    }

    pub(super) fn thread_counts(&self) -> ThreadCounts {
        let all = self.kernel.thread_count().map_or(0, |count| count.threads);
        ThreadCounts { registered: self.list.len(), all }
    }

    /// Allocates what an attempt needs.
    fn prepare(&self, seen: ThreadCounts, garbage: &mut Garbage) -> Result<Scratch, NoMemory> {
        let room = seen.registered.max(seen.all) + HEADROOM;
        garbage.array = self.round.roster.larger(room)?;
        garbage.chunk = self.round.pending.larger(room)?;
        Scratch::for_threads(room)
    }
}

impl Attempts<'_> {
    /// Waits for the time of the next attempt, or returns the error that the broadcast ends with.
    fn retry_after(
        &mut self,
        error: AttemptError,
        scratch: &Scratch,
        seen: ThreadCounts,
    ) -> Result<(), Error> {
        let Self { runtime: Runtime { kernel, .. }, deadline, .. } = *self;
        if error == AttemptError::Uncovered && !scratch.unregistered.none_missed() {
            let threads = scratch.unregistered.threads().map_err(out_of_memory)?;
            self.missed.update(kernel, &threads).map_err(out_of_memory)?;
            self.uncovered = Some(threads);
        }
        match error {
            AttemptError::NoRoom if !deadline.passed() => Ok(()),
            AttemptError::Busy if !deadline.passed() => {
                self.close_wait *= 2;
                Ok(())
            }
            AttemptError::Uncovered
                if !deadline.passed() && !self.missed.had_time_to_register() =>
            {
                if !self.await_change(seen) {
                    self.retry_wait = (self.retry_wait * 3).min(MAX_RETRY_WAIT);
                }
                Ok(())
            }
            AttemptError::Busy | AttemptError::Uncovered | AttemptError::NoRoom => {
                // A thread that was late earlier is in the way only if it still has not taken its signal.
                let late = self.late.take().map(|late| self.unanswered(&late));
                self.late = late.filter(|late| !late.is_empty());
                Err(self.timed_out())
            }
            AttemptError::Late => {
                let late = scratch.threads().map_err(out_of_memory)?;
                if self.uncovered.is_some() && !self.deadline.passed() {
                    // The attempt had its whole pause, so what an earlier one has found is not in the way.
                    self.uncovered = None;
                }
                self.await_signals(&late);
                let unanswered = self.unanswered(&late);
                let is_partial = self.last_stop.refused || unanswered.is_empty();
                self.late = Some(if is_partial { late } else { unanswered });
                self.pause = self.pause.saturating_mul(2);
                if self.deadline.passed() { Err(self.timed_out()) } else { Ok(()) }
            }
            AttemptError::StackTooSmall => {
                let threads = scratch.threads().map_err(out_of_memory)?;
                Err(Error::StackTooSmall(self.describe(threads)))
            }
            AttemptError::Os(errno) => Err(Error::Os(errno)),
            AttemptError::ThreadCountUnavailable(errno) => {
                let was_closed = !kernel.has_stat_file();
                if was_closed && kernel.reopen_stat_file() && !deadline.passed() {
                    return Ok(());
                }
                Err(Error::ThreadCountUnavailable(errno))
            }
            AttemptError::SignalDenied(errno) => Err(Error::SignalDenied(errno)),
            AttemptError::Handler(errno) => Err(Error::Handler(errno)),
        }
    }

    fn record(&mut self, stop: Stop) {
        self.stops.add(stop.length);
        self.last_stop = stop;
        if let Some(deadline) = stop.put_off {
            self.put_off(deadline);
        }
    }

    /// Puts the deadline off, once, after the process or the machine was stopped.
    fn put_off(&mut self, deadline: Deadline) {
        if !self.is_put_off {
            (self.is_put_off, self.deadline) = (true, deadline);
        }
    }

    /// The error at the deadline: it names the threads that were in the way.
    fn timed_out(&mut self) -> Error {
        match (self.uncovered.take(), self.late.take()) {
            (Some(uncovered), _) => Error::Uncovered(uncovered.stopped(self.stops)),
            (None, Some(late)) => Error::Unreachable(self.with_obstacles(self.describe(late))),
            (None, None) => Error::Busy,
        }
    }

    /// The late threads that still have not taken their signals.
    fn unanswered(&self, late: &Threads) -> Threads {
        let is_pending = |thread: &&NamedThread| self.runtime.round.pending.contains(thread.tid());
        late.iter().filter(is_pending).cloned().collect()
    }

    /// Adds the names of registered threads, for an error. Opens files, so all threads run.
    fn describe(&self, mut threads: Threads) -> Threads {
        for thread in &mut threads.named {
            thread.name = self.runtime.kernel.name(thread.tid).unwrap_or(thread.name);
        }
        threads.stopped(self.stops)
    }

    /// Adds what keeps late threads from taking their signals. Opens files and allocates.
    ///
    /// psx's handler blocks signals and sleeps as a thread of the program may, but for `NEXT_ATTEMPT` at most.
    /// So an obstacle is what two looks show.
    fn with_obstacles(&self, mut late: Threads) -> Threads {
        let look = |thread: &NamedThread| self.runtime.kernel.obstacle(thread.tid);
        for thread in &mut late.named {
            thread.obstacle = look(thread);
        }
        if late.iter().any(|thread| thread.obstacle.is_some()) {
            clock::sleep(NEXT_ATTEMPT * 2);
        }
        for thread in &mut late.named {
            thread.obstacle =
                thread.obstacle.take().filter(|seen| look(thread).as_ref() == Some(seen));
        }
        late
    }

    /// Waits until the late threads have taken their signals or have ended, with all threads running, the
    /// gate open and the lock free. Returns at the deadline at the latest.
    ///
    /// If the kernel has refused their signals, nothing shows when to try again: then the threads run for at
    /// least as long as they were stopped.
    fn await_signals(&mut self, late: &Threads) {
        let Runtime { kernel, round, .. } = self.runtime;
        let mut check_wait = MIN_PENDING_CHECK;
        let mut check_at = self.deadline.at_most(check_wait);
        let mut wait = MIN_LATE_WAIT;
        let mut tids = late.iter().map(|thread| thread.tid()).peekable();
        let mut to_run =
            if self.last_stop.refused { self.last_stop.length } else { Duration::ZERO };
        while !to_run.is_zero() && !self.deadline.passed() {
            clock::sleep(to_run.min(MAX_LATE_WAIT));
            to_run = to_run.saturating_sub(MAX_LATE_WAIT);
        }
        while let Some(&tid) = tids.peek() {
            if !round.pending.contains(tid) || (kernel.is_dead(tid) && round.pending.remove(tid)) {
                tids.next();
                continue;
            }
            // At the deadline each one is checked: a lost signal must not make the next broadcast wait.
            let is_last = self.deadline.passed();
            if is_last || check_at.passed() {
                // If it cannot be read, the signal counts as queued at first.
                let assumed = !is_last && check_wait < PENDING_CHECK;
                if !kernel.has_pending_summons(tid).unwrap_or(assumed) {
                    round.pending.remove(tid);
                    continue;
                }
                check_wait = (check_wait * 4).min(self.pending_check);
                check_at = self.deadline.at_most(check_wait);
            }
            if is_last {
                tids.next();
                continue;
            }
            let begin = Instant::now();
            round.pending.wait(Limit::At(check_at.at_most(wait)));
            if begin.elapsed() > wait + OVERSLEPT {
                self.put_off(self.deadline.at_least(RESUME_GRACE));
            }
            wait = (wait * 2).min(MAX_LATE_WAIT);
        }
    }

    /// Waits until a thread has started, registered or ended, with the gate open and all threads running,
    /// and polls the missed threads. Returns `false` if that does not happen within the retry wait.
    fn await_change(&mut self, seen: ThreadCounts) -> bool {
        let Self { runtime, .. } = *self;
        let until = self.deadline.at_most(self.retry_wait);
        let mut wait = MIN_COUNT_WAIT;
        loop {
            self.missed.poll(&runtime.kernel, runtime.gate.has_waiters());
            if runtime.thread_counts() != seen {
                return true;
            }
            if until.passed() {
                return false;
            }
            clock::sleep(wait);
            wait = (wait * 2).min(MAX_COUNT_WAIT);
        }
    }
}

fn report(committed: Committed, scratch: &Scratch, stops: Stops) -> Report {
    let Committed { value, threads, left_out } = committed;
    let divergent = scratch.divergent();
    // The call is made: a lack of memory must not turn that into an error.
    let left_out = left_out.map(|()| scratch.unregistered.threads_or_number());
    Report { value, threads, left_out, divergent, stops }
}

fn out_of_memory(NoMemory: NoMemory) -> Error {
    Error::OutOfMemory
}
