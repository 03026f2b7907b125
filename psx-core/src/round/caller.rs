//! The thread that leads a round: lay out, freeze, gather, prove, commit, release. Contains
//! `unsafe`: it makes the user's call.
//!
//! Each step hands the next one a value that only it can make, and that undoes the step when
//! dropped: a [`RoundGuard`] (the round's lock, signals blocked), the gate's `Closed`, a [`StoppedWorld`].
//! Whatever goes wrong on the way, the world is let go in the right order.

use core::fmt::Write;
use core::time::Duration;

use super::missed::{LOOK_EVERY, Missed};
use super::roster::Array;
use super::scratch::{Scratch, ThreadRecord};
use super::stopped_world::StoppedWorld;
use super::{Call, PublishedCall, Round};
use crate::memory::NoMemory;
use crate::registry::{CallResult, Entry, Status, Unlinked};
use crate::report::Outcome;
use crate::runtime::Runtime;
use crate::sync::LivenessPoll;
use crate::sys::clock::{self, Deadline, Instant};
use crate::sys::sync::Ordering;
use crate::sys::{HEADROOM, fatal, mask};
use crate::{Broadcast, Coverage, Divergence, Errno, Error, Report};

/// How long the gate stays closed, at first, for births that do not end: one of them may be waiting
/// for something that waits for us.
const MIN_CLOSE_WAIT: Duration = Duration::from_millis(10);

/// How long to wait between two proofs that failed, if nothing changes: at first, and then three times as
/// long, so that the third proof can say whether waiting makes sense; and at the longest.
const MIN_RETRY_WAIT: Duration = LOOK_EVERY;
const MAX_RETRY_WAIT: Duration = Duration::from_secs(1);

/// How many threads the last message names, so that it fits into a pipe that nobody reads.
const MAX_NAMED: usize = 16;

/// Why an attempt came to nothing. No thread has made the call, except for [`AttemptError::Os`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptError {
    /// The call failed on the caller.
    Os(Errno),
    /// The ledger says who did not arrive.
    Late,
    /// The ledger says who has too little stack.
    StackTooSmall,
    /// The ledger says which threads are not registered; none, if they have ended meanwhile.
    Missed,
    ThreadCountUnavailable(Errno),
    SignalDenied(Errno),
    Handler(Errno),
    /// Another round, or a birth, was in the way.
    Busy,
    /// There are more threads than there was room laid out for.
    NoRoom,
}

/// What a round that was committed came to.
struct Committed {
    value: usize,
    threads: usize,
    /// Whether the ledger says which threads were left out.
    left_out: Result<(), Errno>,
    stopped: Duration,
}

/// How many threads there are: registered, and by the kernel's count (0 where it has none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadCounts {
    pub(super) registered: usize,
    pub(super) all: usize,
}

/// What an attempt leaves behind for the caller to free, once nobody waits for it any more.
#[derive(Default)]
struct Garbage {
    unlinked: Option<Unlinked>,
    array: Option<Box<Array>>,
}

impl Runtime {
    /// Makes the call on every registered thread, or on none; the attempts end at the deadline. `me` is
    /// the calling thread's entry, and is not engaged.
    pub(crate) fn broadcast(
        &self,
        me: &Entry,
        plan: &Broadcast,
        deadline: Deadline,
        call: Call<'_>,
    ) -> Result<Report, Error> {
        self.round.wait_policy.let_targets_run();
        let mut close_wait = MIN_CLOSE_WAIT;
        let mut attempts = 0;
        // Who stood in the way of the last proof: the better answer when a later attempt, begun
        // shortly before the deadline, does not even get that far.
        let mut missed = None;
        let mut observations = Missed::default();
        let mut retry = MIN_RETRY_WAIT;
        loop {
            attempts += 1;
            // Everything that allocates or frees comes before the attempt or after it.
            if !self.kernel.is_ready() {
                // The program may have closed the descriptor; opening it again looks up a path.
                let _ = self.kernel.reopen();
            }
            let seen = self.expected_counts(plan, attempts);
            let mut garbage = Garbage::default();
            let mut scratch = self.prepare(seen, &mut garbage).map_err(|_| Error::OutOfMemory)?;
            let close_by = deadline.sooner(close_wait);
            let caller = Caller { runtime: self, me, plan, call, deadline, seen };
            let attempt = caller.attempt(close_by, &mut scratch, &mut garbage);
            drop(garbage);

            let error = match attempt {
                Ok(Committed { value, threads, left_out, stopped }) => {
                    let divergent = scratch.divergent();
                    // The call is made: memory that is not there must not make an error of it.
                    let left_out = left_out.map(|()| scratch.others.threads_or_number());
                    return Ok(Report { value, threads, left_out, divergent, attempts, stopped });
                }
                Err(error) => error,
            };
            if error == AttemptError::Missed && !scratch.others.none_missed() {
                let threads = scratch.others.threads().map_err(|NoMemory| Error::OutOfMemory)?;
                observations
                    .update(&self.kernel, &threads)
                    .map_err(|NoMemory| Error::OutOfMemory)?;
                missed = Some(threads);
            }
            match error {
                AttemptError::NoRoom if !deadline.passed() => {}
                AttemptError::Busy if !deadline.passed() => close_wait *= 2,
                AttemptError::Missed if !deadline.passed() && !observations.are_settled() => {
                    if !self.await_change(seen, deadline.sooner(retry), &mut observations) {
                        retry = (retry * 3).min(MAX_RETRY_WAIT);
                    }
                }
                AttemptError::Busy | AttemptError::Missed | AttemptError::NoRoom => {
                    return Err(missed.map_or(Error::Busy, Error::Uncovered));
                }
                AttemptError::Late => {
                    return Err(match (missed, scratch.threads()) {
                        (Some(missed), _) => Error::Uncovered(missed),
                        (None, Ok(late)) => Error::Unreachable(late),
                        (None, Err(NoMemory)) => Error::OutOfMemory,
                    });
                }
                AttemptError::StackTooSmall => {
                    return Err(match scratch.threads() {
                        Ok(threads) => Error::StackTooSmall(threads),
                        Err(NoMemory) => Error::OutOfMemory,
                    });
                }
                AttemptError::Os(errno) => return Err(Error::Os(errno)),
                AttemptError::ThreadCountUnavailable(errno) => {
                    let was_closed = !self.kernel.is_ready();
                    if was_closed && self.kernel.reopen() && !deadline.passed() {
                        continue;
                    }
                    return Err(Error::ThreadCountUnavailable(errno));
                }
                AttemptError::SignalDenied(errno) => return Err(Error::SignalDenied(errno)),
                AttemptError::Handler(errno) => return Err(Error::Handler(errno)),
            }
        }
    }

    /// How many threads there will be to look at. Counting them takes as long as the rest of a small
    /// round, and the proof counts again: so where nothing speaks for a change since the last proof, its
    /// result is taken.
    fn expected_counts(&self, plan: &Broadcast, attempts: u32) -> ThreadCounts {
        let registered = self.list.len();
        let is_settled = plan.coverage == Coverage::Registered
            || registered == self.round.proven_hint.load(Ordering::Relaxed) as usize;
        if attempts == 1 && is_settled {
            let harmless_hint = self.round.harmless_hint.load(Ordering::Relaxed) as usize;
            return ThreadCounts { registered, all: registered + harmless_hint };
        }
        self.thread_counts()
    }

    pub(super) fn thread_counts(&self) -> ThreadCounts {
        let all = self.kernel.thread_count().map_or(0, |count| count.threads);
        ThreadCounts { registered: self.list.len(), all }
    }

    fn prepare(&self, seen: ThreadCounts, garbage: &mut Garbage) -> Result<Scratch, NoMemory> {
        let room = seen.registered.max(seen.all) + HEADROOM;
        garbage.array = self.round.roster.larger(room)?;
        Scratch::for_threads(room)
    }

    /// Waits for a thread to be born, adopted or gone, with the gate open and no thread stopped, and
    /// looks at those that were missed. Returns `false` where that does not happen until the deadline.
    fn await_change(&self, seen: ThreadCounts, deadline: Deadline, missed: &mut Missed) -> bool {
        let mut nap = Duration::from_micros(50);
        loop {
            missed.look(&self.kernel, self.gate.is_wanted());
            if self.thread_counts() != seen {
                return true;
            }
            if deadline.passed() {
                return false;
            }
            clock::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(5));
        }
    }
}

/// A thread's claim to lead the next round: no signal is taken any more but the synchronous ones, whose
/// handlers find the thread engaged, and nobody else leads.
struct RoundGuard<'r> {
    round: &'r Round,
    me: &'r Entry,
    /// Dropped after the lock is free.
    _masked: mask::Masked,
}

impl<'r> RoundGuard<'r> {
    fn take(runtime: &'r Runtime, me: &'r Entry, deadline: Deadline) -> Result<Self, AttemptError> {
        let masked = mask::block_all().map_err(AttemptError::Handler)?;
        let round = &runtime.round;
        let look = || runtime.look_at_round();
        // A fork in the handler of a synchronous signal leaves the lock alone that this thread holds.
        me.enter_round();
        let mut is_ours = round.lock.try_acquire_now(me.tid());
        if !is_ours {
            me.leave_round();
            // A caller that waits must still answer another's summons.
            let wait =
                || is_ours = round.lock.try_acquire(me.tid(), deadline, LivenessPoll::new(&look));
            if let Err(errno) = masked.except_summons(wait) {
                if is_ours {
                    round.lock.release();
                }
                return Err(AttemptError::Handler(errno));
            }
        }
        if !is_ours {
            return Err(AttemptError::Busy);
        }
        me.enter_round();
        // Where that fails, the caller's id has to do.
        round.caller_life.take(me.tid());
        Ok(Self { round, me, _masked: masked })
    }
}

impl Drop for RoundGuard<'_> {
    fn drop(&mut self) {
        self.round.caller_life.give_back();
        self.round.lock.release();
        self.me.leave_round();
    }
}

pub(super) struct Caller<'r> {
    pub(super) runtime: &'r Runtime,
    pub(super) me: &'r Entry,
    plan: &'r Broadcast,
    pub(super) call: Call<'r>,
    pub(super) deadline: Deadline,
    /// How many threads there were just before.
    seen: ThreadCounts,
}

impl Caller<'_> {
    fn attempt(
        &self,
        close_by: Deadline,
        scratch: &mut Scratch,
        garbage: &mut Garbage,
    ) -> Result<Committed, AttemptError> {
        let Runtime { kernel, gate, list, round, .. } = self.runtime;
        let _guard = RoundGuard::take(self.runtime, self.me, self.deadline)?;
        garbage.array = round.roster.install(garbage.array.take());
        kernel.confirm_handler().map_err(AttemptError::Handler)?;
        let frozen = gate.close(close_by).ok_or(AttemptError::Busy)?;
        if list.len() > round.roster.capacity().min(scratch.capacity()) {
            return Err(AttemptError::NoRoom);
        }
        if self.plan.coverage == Coverage::Require {
            self.runtime.wait_for_exiting(self.seen);
        }

        let began = Instant::now();
        let world = StoppedWorld::announce(self, &frozen);
        let casualties = &mut false;
        let committed = self.commit(&world, casualties, scratch);
        let epoch = world.epoch;
        drop(world);
        let stopped = began.elapsed();
        round.wait_policy.record_stop(list.len(), stopped);

        if *casualties {
            let is_dead = |entry: &Entry| {
                entry.tid() == Entry::NO_TID
                    || entry.is_at(epoch, Status::DiedBeforeCall)
                    || entry.is_at(epoch, Status::DiedInCall)
            };
            // SAFETY: these threads' ends were seen, the gate is closed, and the round is released
            // (invariant I3).
            garbage.unlinked = Some(unsafe { list.unlink_dead(&frozen, is_dead) });
        }
        if matches!(committed, Err(AttemptError::Late | AttemptError::StackTooSmall)) {
            for record in scratch.records_mut() {
                record.name = kernel.name(record.tid).unwrap_or(record.name);
            }
        }
        committed.map(|committed| Committed { stopped, ..committed })
    }

    /// From the announcement to the last thread's call. Nobody but us runs in here.
    fn commit(
        &self,
        world: &StoppedWorld<'_>,
        casualties: &mut bool,
        scratch: &mut Scratch,
    ) -> Result<Committed, AttemptError> {
        let stopped = world.await_arrivals(casualties, scratch)?;
        let left_out = match self.plan.coverage {
            Coverage::Require => {
                self.runtime.prove_coverage(world.frozen, stopped, scratch)?;
                scratch.others.clear();
                Ok(())
            }
            Coverage::Registered => self.runtime.note_left_out(world.frozen, stopped, scratch)?,
        };
        // SAFETY: `self.call` is alive, and the promises of `Broadcast::run` are its caller's.
        let value = unsafe { self.call.raw.make() }.map_err(AttemptError::Os)?;
        world.commit(PublishedCall { call: self.call.raw, value }, stopped, casualties);

        for entry in world.targets() {
            let Some(CallResult { outcome, name }) = entry.result(world.epoch) else {
                continue;
            };
            if outcome != Outcome::Returned(value) {
                scratch.record(ThreadRecord { tid: entry.tid(), name, outcome });
            }
        }
        if self.plan.divergence == Divergence::Abort && !scratch.records().is_empty() {
            self.end_process(value, scratch);
        }
        Ok(Committed { value, threads: stopped + 1, left_out, stopped: Duration::ZERO })
    }

    /// Ends the process while every thread still stands where it is: none of them is to go on with
    /// privileges that the others do not have.
    fn end_process(&self, value: usize, scratch: &Scratch) -> ! {
        let mut stderr = fatal::Stderr::new();
        let records = scratch.records();
        // Writing to this standard error cannot fail, and there is nobody left to tell if it did.
        let _ = writeln!(
            stderr,
            "psx: fatal: {} returned {value} on the calling thread (tid {}), but not on {} other{}:",
            self.call.name,
            self.me.tid(),
            records.len(),
            if records.len() == 1 { "" } else { "s" },
        );
        for ThreadRecord { tid, name, outcome } in records.iter().take(MAX_NAMED) {
            let _ = writeln!(stderr, "psx:   thread {tid} ({}) {outcome}", name.as_str());
        }
        if records.len() > MAX_NAMED {
            let _ = writeln!(stderr, "psx:   and {} more", records.len() - MAX_NAMED);
        }
        let _ = writeln!(
            stderr,
            "psx: the threads no longer agree on their privileges, so the process ends here; \
             Divergence::Report would return this list instead"
        );
        fatal::abort()
    }
}
