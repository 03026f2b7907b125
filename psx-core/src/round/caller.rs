//! One round, on the thread that makes the broadcast: close the gate, stop the targets, prove
//! coverage, make the call, publish it, release. Contains `unsafe`: it makes the user's call.
//!
//! Each step returns a guard that the next step takes, and that undoes the step when it is dropped: a
//! [`RoundGuard`] (the round's lock, signals blocked), the gate's `Closed`, a [`StoppedWorld`]. So an
//! attempt that fails undoes its steps in the reverse order.

use core::fmt::Write;
use core::time::Duration;

use super::broadcast::ThreadCounts;
use super::pending::Chunk;
use super::roster::Array;
use super::scratch::{Scratch, ThreadRecord};
use super::stopped_world::StoppedWorld;
use super::{Call, PublishedCall, Round};
use crate::registry::{CallResult, Entry, Status, Unlinked};
use crate::report::Outcome;
use crate::runtime::Runtime;
use crate::sync::LivenessPoll;
use crate::sys::clock::{Deadline, Instant};
use crate::sys::{fatal, mask};
use crate::{Broadcast, Coverage, Divergence, Errno};

/// How many threads the message of [`Caller::end_process`] names, so that it fits into a pipe that no
/// process reads.
const MAX_NAMED: usize = 16;

/// Why an attempt failed. No thread has made the call, except for [`AttemptError::Os`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptError {
    /// The call failed on the caller.
    Os(Errno),
    /// The threads in the scratch records did not arrive.
    Late,
    /// The threads in the scratch records have too little stack.
    StackTooSmall,
    /// The kernel counts threads that are not registered. The scratch lists them; it lists none if they have
    /// ended meanwhile.
    Uncovered,
    ThreadCountUnavailable(Errno),
    SignalDenied(Errno),
    Handler(Errno),
    /// Another round was on, or a thread was being started.
    Busy,
    /// There are more threads than the scratch has room for.
    NoRoom,
}

/// The result of a committed round.
pub(super) struct Committed {
    pub(super) value: usize,
    pub(super) threads: usize,
    /// Whether the scratch lists the threads that were left out.
    pub(super) left_out: Result<(), Errno>,
}

/// How long an attempt has stopped the threads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stop {
    /// Zero if the attempt has failed before it stopped a thread.
    pub(super) length: Duration,
    /// The later deadline, if the process or the machine was stopped meanwhile.
    pub(super) put_off: Option<Deadline>,
    /// Whether the kernel has refused to queue signals until the end.
    pub(super) refused: bool,
}

/// What an attempt leaves to be freed when no thread waits for the caller.
#[derive(Default)]
pub(super) struct Garbage {
    pub(super) unlinked: Option<Unlinked>,
    pub(super) array: Option<Box<Array>>,
    pub(super) chunk: Option<Box<Chunk>>,
}

/// The round's lock, with all but the synchronous signals blocked. The handler of a synchronous signal
/// finds the thread in a round.
struct RoundGuard<'r> {
    round: &'r Round,
    me: &'r Entry,
    /// Dropped after the lock is released.
    _masked: mask::Masked,
}

impl<'r> RoundGuard<'r> {
    fn take(runtime: &'r Runtime, me: &'r Entry, deadline: Deadline) -> Result<Self, AttemptError> {
        let masked = mask::block_all().map_err(AttemptError::Handler)?;
        let round = &runtime.round;
        let check_owner = || runtime.check_lock_owner();
        // Set before the lock is taken: a fork in the handler of a synchronous signal must not release it.
        me.enter_round();
        let mut is_ours = round.lock.try_acquire_now(me.tid());
        if !is_ours {
            me.leave_round();
            let poll = LivenessPoll::new(&check_owner);
            // A thread that waits for the lock still answers the summons of the lock's owner.
            let wait = || is_ours = round.lock.try_acquire(me.tid(), deadline, poll);
            if let Err(errno) = masked.with_summons_unblocked(wait) {
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
        // If it cannot be locked, the other threads identify the caller by its id only.
        round.caller_mutex.lock(me.tid());
        Ok(Self { round, me, _masked: masked })
    }
}

impl Drop for RoundGuard<'_> {
    fn drop(&mut self) {
        self.round.caller_mutex.unlock();
        self.round.lock.release();
        self.me.leave_round();
    }
}

pub(super) struct Caller<'r> {
    pub(super) runtime: &'r Runtime,
    pub(super) me: &'r Entry,
    pub(super) plan: &'r Broadcast,
    pub(super) call: Call<'r>,
    /// How long the threads may be stopped before the commit.
    pub(super) pause: Duration,
    pub(super) deadline: Deadline,
    /// The thread counts that the scratch was allocated for.
    pub(super) seen: ThreadCounts,
}

impl Caller<'_> {
    pub(super) fn attempt(
        &self,
        close_by: Deadline,
        scratch: &mut Scratch,
        garbage: &mut Garbage,
        stop: &mut Stop,
    ) -> Result<Committed, AttemptError> {
        let Runtime { kernel, gate, list, round, .. } = self.runtime;
        let _guard = RoundGuard::take(self.runtime, self.me, self.deadline)?;
        garbage.array = round.roster.install(garbage.array.take());
        garbage.chunk = round.pending.install(garbage.chunk.take());
        kernel.confirm_handler().map_err(AttemptError::Handler)?;
        let frozen = gate.close(close_by).ok_or(AttemptError::Busy)?;
        if list.len() > round.roster.capacity().min(scratch.capacity()) {
            return Err(AttemptError::NoRoom);
        }
        if self.plan.coverage == Coverage::Require {
            self.runtime.wait_for_exiting(self.seen);
        }

        let began = Instant::now();
        let mut world = StoppedWorld::announce(self, &frozen);
        let epoch = world.epoch;
        let committed = self.commit(&mut world, scratch);
        (stop.put_off, stop.refused) = (world.put_off, world.refused);
        let saw_dead = world.release();
        stop.length = began.elapsed();
        round.wait_policy.record_stop(list.len(), stop.length);

        if saw_dead {
            let is_dead = |entry: &Entry| {
                entry.tid() == Entry::NO_TID
                    || entry.is_at(epoch, Status::DiedBeforeCall)
                    || entry.is_at(epoch, Status::DiedInCall)
            };
            // SAFETY: these threads are dead, the gate is closed, and the round is released (invariant
            // I3).
            garbage.unlinked = Some(unsafe { list.unlink_dead(&frozen, is_dead) });
        }
        committed
    }

    /// From the announcement until the last thread has made the call. No other registered thread runs the
    /// program's code meanwhile.
    fn commit(
        &self,
        world: &mut StoppedWorld<'_>,
        scratch: &mut Scratch,
    ) -> Result<Committed, AttemptError> {
        let stopped = world.await_arrivals(scratch)?;
        let left_out = match self.plan.coverage {
            Coverage::Require => {
                self.runtime.prove_coverage(world.frozen, stopped, scratch)?;
                scratch.unregistered.clear();
                Ok(())
            }
            Coverage::Registered => self.runtime.record_left_out(world.frozen, stopped, scratch)?,
        };
        // SAFETY: the closure that `self.call` borrows is alive (invariant I5), and satisfies the requirements of
        // `Broadcast::run`, as its caller promises.
        let value = unsafe { self.call.raw.make() }.map_err(AttemptError::Os)?;
        world.commit(PublishedCall { call: self.call.raw, value }, stopped);

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
        Ok(Committed { value, threads: stopped + 1, left_out })
    }

    /// Ends the process while every thread is stopped, so that no thread runs on with privileges that the
    /// others do not have.
    fn end_process(&self, value: usize, scratch: &Scratch) -> ! {
        let mut stderr = fatal::Stderr::new();
        let records = scratch.records();
        // `Stderr` drops what cannot be written, and returns no error.
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
