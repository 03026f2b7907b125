//! A broadcast: rounds, here called attempts, until one is committed, one fails for good, or the deadline
//! passes. Memory is allocated and freed between attempts, never in one.

use core::time::Duration;

use super::Call;
use super::caller::{AttemptError, Caller, Committed, Garbage};
use super::missed::{MissedThreads, POLL_INTERVAL};
use super::scratch::Scratch;
use crate::memory::NoMemory;
use crate::registry::Entry;
use crate::report::Threads;
use crate::runtime::Runtime;
use crate::sys::HEADROOM;
use crate::sys::clock::{self, Deadline};
use crate::sys::sync::Ordering;
use crate::{Broadcast, Coverage, Error, Report};

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
    count: u32,
    close_wait: Duration,
    retry_wait: Duration,
    /// The threads that the last failed proof has found. If a later attempt ends at the deadline before its
    /// own proof, this is the better answer.
    uncovered: Option<Threads>,
    missed: MissedThreads,
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
            count: 0,
            close_wait: MIN_CLOSE_WAIT,
            retry_wait: MIN_RETRY_WAIT,
            uncovered: None,
            missed: MissedThreads::default(),
        };
        loop {
            attempts.count += 1;
            if !self.kernel.has_stat_file() {
                // The program has closed the descriptor. Reopening looks up a path, so not in an attempt.
                let _ = self.kernel.reopen_stat_file();
            }
            let seen = self.expected_counts(plan, attempts.count);
            let mut garbage = Garbage::default();
            let mut scratch = self.prepare(seen, &mut garbage).map_err(out_of_memory)?;
            let close_by = deadline.at_most(attempts.close_wait);
            let caller = Caller { runtime: self, me, plan, call, deadline, seen };
            let attempt = caller.attempt(close_by, &mut scratch, &mut garbage);
            drop(garbage);
            match attempt {
                Ok(committed) => return Ok(report(committed, &scratch, attempts.count)),
                Err(error) => attempts.retry_after(error, &scratch, seen)?,
            }
        }
    }

    /// How many threads to prepare for. A count takes as long as the rest of a small round, so the last
    /// proof's counts are used as long as the number of registered threads is the same.
    fn expected_counts(&self, plan: &Broadcast, attempt: u32) -> ThreadCounts {
        let registered = self.list.len();
        let is_settled = plan.coverage == Coverage::Registered
            || registered == self.round.proven_hint.load(Ordering::Relaxed) as usize;
        if attempt == 1 && is_settled {
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
                Err(self.uncovered.take().map_or(Error::Busy, Error::Uncovered))
            }
            AttemptError::Late => Err(match self.uncovered.take() {
                Some(uncovered) => Error::Uncovered(uncovered),
                None => scratch.threads().map_or_else(out_of_memory, Error::Unreachable),
            }),
            AttemptError::StackTooSmall => {
                Err(scratch.threads().map_or_else(out_of_memory, Error::StackTooSmall))
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

fn report(committed: Committed, scratch: &Scratch, attempts: u32) -> Report {
    let Committed { value, threads, left_out, stopped } = committed;
    let divergent = scratch.divergent();
    // The call is made: a lack of memory must not turn that into an error.
    let left_out = left_out.map(|()| scratch.unregistered.threads_or_number());
    Report { value, threads, left_out, divergent, attempts, stopped }
}

fn out_of_memory(NoMemory: NoMemory) -> Error {
    Error::OutOfMemory
}
