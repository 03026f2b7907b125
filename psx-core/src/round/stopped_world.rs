//! The stopped threads, from the announcement of a round to its release. Contains `unsafe`: it publishes
//! the user's call.
//!
//! All of it runs while threads are stopped, so it allocates nothing, takes no lock and logs nothing
//! (invariant I10).

use core::time::Duration;

use super::PublishedCall;
use super::caller::{AttemptError, Caller};
use super::scratch::{Scratch, ThreadRecord};
use super::word::{Phase, State};
use crate::broadcast::CallName;
use crate::registry::{Entry, Status};
use crate::report::{Comm, Outcome};
use crate::runtime::Runtime;
use crate::sync::{Closed, Epoch, Latch};
use crate::sys::clock::{Deadline, Instant};
use crate::sys::futex::{self, Limit};
use crate::sys::{SendError, SigpendingLimit};

/// How long the caller waits before it polls for refused summonses and dead threads: at first, and at
/// most. Each wait is twice as long as the last.
const POLL_MIN: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(50);

/// How often the caller summons late threads again, after each poll, while the program installs its own
/// handler again each time. A thread that is about to take its signal loses it with each of those.
const RESENDS: u32 = 64;
/// With more targets than this, one try after each poll: each may queue a signal for every target.
const FEW_TARGETS: usize = 64;

/// A wait that overruns its limit by this much shows that the process or the machine was stopped. Then the
/// targets did not run either, so once in an attempt they get the whole pause again.
pub(super) const OVERSLEPT: Duration = Duration::from_millis(100);

/// How far the deadline is put off, once, after the process or the machine was stopped.
pub(super) const RESUME_GRACE: Duration = Duration::from_millis(500);

/// The threads that a round has stopped or is stopping. Released when dropped.
pub(super) struct StoppedWorld<'a> {
    runtime: &'a Runtime,
    pub(super) frozen: &'a Closed<'a>,
    me: &'a Entry,
    pub(super) epoch: Epoch,
    targets: usize,
    /// Whether there are entries to be unlinked: of a dead thread, or left over by a fork.
    saw_dead: bool,
    /// How many targets are to be stopped by a signal that an earlier attempt has sent (invariant I15).
    pending: usize,
    pause: Duration,
    deadline: Deadline,
    /// The later deadline, if the process or the machine was stopped meanwhile.
    pub(super) put_off: Option<Deadline>,
    /// Whether the kernel has refused to queue signals until the end.
    pub(super) refused: bool,
}

impl<'a> StoppedWorld<'a> {
    /// Sets the round up and announces it.
    pub(super) fn announce(caller: &'a Caller<'_>, frozen: &'a Closed<'a>) -> Self {
        let Caller { runtime, me, call, pause, deadline, .. } = *caller;
        let round = &runtime.round;
        let last = round.word.read().epoch;
        let epoch = last.next();
        let mut saw_dead = false;
        round.roster.clear_wrapped_index(last, epoch);
        round.roster.insert_into_index(epoch, me);
        let targets = runtime.list.iter(frozen).filter(|entry| {
            if core::ptr::eq(*entry, me) {
                return false;
            }
            // A dead thread's id may have a new owner, which must not be signalled. If the robust mutex
            // says nothing: the list has the newest entries first, and no two living threads have the same
            // id, so of two entries with one id the second is a dead thread's.
            let is_alive = entry.tid() != Entry::NO_TID
                && !entry.has_died()
                && round.roster.insert_into_index(epoch, entry);
            // The entry of a living thread is in the kernel's list of its robust mutexes, and must not be
            // freed: so a second entry of the caller stays (invariant I14).
            let is_callers = entry.tid() == me.tid() && entry.holds_robust_mutex();
            if !is_alive && !is_callers {
                round.pending.remove(entry.tid());
                entry.clear_owner();
                saw_dead = true;
            }
            is_alive
        });
        let mut pending = 0;
        let targets = targets.inspect(|entry| entry.summon(epoch)).filter(|entry| {
            let is_pending = round.pending.contains(entry.tid());
            entry.set_signal_pending(is_pending);
            pending += usize::from(is_pending);
            !is_pending
        });
        let summoned = round.roster.set_targets(epoch, targets.map(Entry::tid));
        let targets = summoned + pending;
        let is_closure = call.name == CallName::Closure;
        round.wait_policy.set(targets >= runtime.kernel.cores(), call.may_filter, is_closure);
        round.arrivals.arm(epoch, targets);
        round.roster.open(epoch, summoned);
        round.word.publish(State { epoch, phase: Phase::Gathering });
        Self {
            runtime,
            frozen,
            me,
            epoch,
            targets,
            saw_dead,
            pending,
            pause,
            deadline,
            put_off: None,
            refused: false,
        }
    }

    /// The entries of the targets.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Entry> {
        self.runtime.list.iter(self.frozen).filter(|entry| !core::ptr::eq(*entry, self.me))
    }

    /// The entries of the targets that have not arrived.
    fn summoned(&self) -> impl Iterator<Item = &Entry> {
        self.targets().filter(|entry| entry.is_at(self.epoch, Status::Summoned))
    }

    /// Summons all targets, and waits until they have stopped. Returns how many have.
    pub(super) fn await_arrivals(&mut self, scratch: &mut Scratch) -> Result<usize, AttemptError> {
        let dead = self.gather(scratch);
        self.forget_taken();
        let dead = dead?;
        if self.runtime.round.arrivals.is_marked() {
            let refused = |entry: &&Entry| entry.is_at(self.epoch, Status::StackTooSmall);
            self.targets().filter(refused).for_each(|entry| record(scratch, entry));
            return Err(AttemptError::StackTooSmall);
        }
        Ok(self.targets - dead)
    }

    /// Summons all targets, and waits until the latch opens. Returns how many targets have ended.
    fn gather(&mut self, scratch: &mut Scratch) -> Result<usize, AttemptError> {
        let Runtime { kernel, round, .. } = self.runtime;
        let mut last_poll = Instant::now();
        let mut refused = false;
        while let Some(is_sent) = round.summon_next(kernel, self.epoch) {
            refused |= !is_sent;
        }
        let mut limit_by = self.deadline.at_most(self.pause);
        let mut limit = None;
        let mut dead = 0;
        let mut interval = POLL_MIN;
        // Whether summonses may have been lost and have not been sent again yet.
        let mut lost = self.pending > 0 && !self.summon_again()?;
        let mut was_replaced = false;
        // If the kernel has refused one of the caller's own summonses, the first poll comes without a wait.
        while refused
            || !round
                .arrivals
                .wait(Limit::At(limit_by.at_most(interval)), round.wait_policy.for_caller())
        {
            refused = false;
            let found_dead = self.summon_refused(&mut limit)?
                + self.count_dead_before_call(|entry| self.is_dead(entry));
            dead += found_dead;
            self.saw_dead |= found_dead > 0;
            // If the handler was replaced, it has taken the summonses that were sent meanwhile. A thread
            // that has ended may have claimed a summons and not sent it.
            let replaced = kernel.confirm_handler().map_err(AttemptError::Handler)?;
            lost |= replaced || found_dead > 0;
            was_replaced |= replaced;
            if lost {
                lost = !self.summon_late(was_replaced)?;
            }
            // A program that installs its handler in a loop is faster than one try after each poll.
            let mut tries = if replaced && self.targets <= FEW_TARGETS { RESENDS } else { 0 };
            while tries > 0 && kernel.confirm_handler().map_err(AttemptError::Handler)? {
                tries -= 1;
                lost = !self.summon_late(true)?;
            }
            // One reading for both comparisons: a stop after it is seen at the next poll.
            let now = Instant::now();
            if now.since(last_poll) > interval + OVERSLEPT && self.put_off.is_none() {
                // The pause may be longer than the timeout.
                let deadline = self.deadline.at_least(RESUME_GRACE);
                limit_by = deadline.at_most(self.pause);
                self.put_off = Some(deadline);
            }
            last_poll = now;
            if replaced {
                interval = POLL_MIN / 2;
            }
            if limit_by.passed_at(now) {
                if self.give_up(scratch) {
                    return Err(AttemptError::Late);
                }
                // All have arrived and are about to count down, which is short. The deadline is a promise,
                // so the wait has a limit.
                let spin = round.wait_policy.for_caller();
                if !round.arrivals.wait(Limit::For(POLL_MAX), spin) {
                    return Err(AttemptError::Busy);
                }
            }
            interval = (interval * 2).min(POLL_MAX);
        }
        Ok(dead)
    }

    /// Sends refused summonses again, after it has raised the limit of pending signals if that is allowed.
    /// Returns how many of the targets have ended.
    fn summon_refused(&self, limit: &mut Option<SigpendingLimit>) -> Result<usize, AttemptError> {
        let Runtime { kernel, round, .. } = self.runtime;
        let mut dead = 0;
        for claim in round.roster.take_refused(self.epoch) {
            let mut sent = kernel.summon(claim.tid);
            if sent == Err(SendError::Full) && limit.is_none() {
                *limit = SigpendingLimit::raise();
                sent = kernel.summon(claim.tid);
            }
            match sent {
                Ok(()) => {}
                Err(SendError::Full) => round.roster.mark_refused(self.epoch, claim),
                // A seccomp filter may return this for a living thread, whose entry must not be freed.
                Err(SendError::Gone) => {
                    let is_dead = |entry: &Entry| entry.tid() == claim.tid && self.is_dead(entry);
                    match self.count_dead_before_call(is_dead) {
                        0 => round.roster.mark_refused(self.epoch, claim),
                        found => dead += found,
                    }
                }
                Err(SendError::Denied(errno)) => return Err(AttemptError::SignalDenied(errno)),
            }
        }
        Ok(dead)
    }

    /// Whether the thread has ended: its robust mutex says so, or there is no thread with its id. Makes no system
    /// call but futex.
    fn is_dead(&self, entry: &Entry) -> bool {
        // Both, in this order: when the whole process ends, the mutexes of other threads may say so, and
        // then the system call does not return.
        entry.has_died() | self.runtime.kernel.is_dead(entry.tid())
    }

    /// Summons the threads again that have not arrived. A thread that has taken its summons ignores the
    /// second. Returns whether the kernel has queued all signals.
    ///
    /// Leaves out the threads whose signal of an earlier attempt is queued, unless another handler may have
    /// taken it: no thread of this round was to send it.
    fn summon_late(&self, was_replaced: bool) -> Result<bool, AttemptError> {
        self.summon_each(self.summoned().filter(|entry| was_replaced || !entry.is_signal_pending()))
    }

    /// Summons the threads again that have taken their signal of an earlier attempt before they could see
    /// this round (invariant I15). Returns whether the kernel has queued all signals.
    fn summon_again(&self) -> Result<bool, AttemptError> {
        let pending = &self.runtime.round.pending;
        pending.announced();
        // Not those of dead threads, which have no id, and may be marked since an earlier round.
        let marked = self.summoned().filter(|entry| entry.is_signal_pending());
        let taken = marked.filter(|entry| !pending.contains(entry.tid()));
        self.summon_each(taken.inspect(|entry| entry.set_signal_pending(false)))
    }

    /// Sends a summons to each. Returns whether the kernel has queued all signals.
    fn summon_each<'e>(
        &self,
        entries: impl Iterator<Item = &'e Entry>,
    ) -> Result<bool, AttemptError> {
        let mut all_sent = true;
        for entry in entries {
            match self.runtime.kernel.summon(entry.tid()) {
                // The next poll finds such a thread dead.
                Ok(()) | Err(SendError::Gone) => {}
                Err(SendError::Full) => all_sent = false,
                Err(SendError::Denied(errno)) => return Err(AttemptError::SignalDenied(errno)),
            }
        }
        Ok(all_sent)
    }

    /// Removes the threads from the pending ones that have answered a signal of an earlier attempt, or died.
    /// Withdraws the summonses of the others, if the attempt has failed before: they stay pending, so they must
    /// not answer any more.
    fn forget_taken(&self) {
        if self.pending == 0 {
            return;
        }
        let answered = [Status::Arrived, Status::StackTooSmall, Status::DiedBeforeCall];
        for entry in self.targets().filter(|entry| entry.is_signal_pending()) {
            let is_withdrawn = entry.transition(self.epoch, Status::Summoned, Status::Idle);
            if !is_withdrawn && answered.iter().any(|&status| entry.is_at(self.epoch, status)) {
                self.runtime.round.pending.remove(entry.tid());
            }
        }
    }

    /// Counts the targets that have ended before they arrived.
    fn count_dead_before_call(&self, is_dead: impl Fn(&Entry) -> bool) -> usize {
        let arrivals = &self.runtime.round.arrivals;
        self.count_dead(Status::Summoned, Status::DiedBeforeCall, arrivals, is_dead)
    }

    /// Counts the latch down for each thread that has ended at `from`. Returns how many there are.
    fn count_dead(
        &self,
        from: Status,
        to: Status,
        latch: &Latch,
        is_dead: impl Fn(&Entry) -> bool,
    ) -> usize {
        let mut dead = 0;
        for entry in self.targets().filter(|entry| entry.is_at(self.epoch, from)) {
            if is_dead(entry) && entry.transition(self.epoch, from, to) {
                latch.count_down(self.epoch);
                dead += 1;
            }
        }
        dead
    }

    /// Withdraws the summonses of the threads that have not arrived, and records the threads. Their signals
    /// stay queued, so they become pending, except those that the kernel has refused. Returns whether there
    /// are any late threads.
    fn give_up(&mut self, scratch: &mut Scratch) -> bool {
        let round = &self.runtime.round;
        let mut late = false;
        for entry in self.summoned() {
            // Before the withdrawal: a handler that finds its summons withdrawn removes the thread.
            let is_new = !entry.is_signal_pending();
            if is_new {
                round.pending.insert(entry.tid());
            }
            if entry.transition(self.epoch, Status::Summoned, Status::Idle) {
                late = true;
                record(scratch, entry);
            } else if is_new {
                round.pending.remove(entry.tid());
            }
        }
        for claim in round.roster.take_refused(self.epoch) {
            round.pending.remove(claim.tid);
            self.refused = true;
        }
        late
    }

    /// Publishes the call to all stopped threads, and waits until they have made it. From here on nothing
    /// can fail, there is no deadline, and futex is the only system call: the call may have forbidden the
    /// others.
    pub(super) fn commit(&mut self, published: PublishedCall, stopped: usize) {
        if stopped == 0 {
            return;
        }
        let Runtime { round, .. } = self.runtime;
        // SAFETY: no round is committed, so no target reads the cell (invariant I5).
        round.published.with_mut(|cell| unsafe { *cell = Some(published) });
        round.completions.arm(self.epoch, stopped);
        if round.wait_policy.is_futex_only() {
            // If the call has forbidden even futex, the caller dies here, before another thread makes it.
            futex::probe();
        }
        round.word.publish(State { epoch: self.epoch, phase: Phase::Committed });
        round.word.wake_all();
        let mut interval = POLL_MIN;
        while !round.completions.wait(Limit::For(interval), round.wait_policy.for_caller()) {
            let is_dead = |entry: &Entry| self.is_dead(entry);
            let dead =
                self.count_dead(Status::Arrived, Status::DiedInCall, &round.completions, is_dead);
            self.saw_dead |= dead > 0;
            interval = (interval * 2).min(POLL_MAX);
        }
    }

    /// Lets all threads run, as dropping does. Returns whether there are entries to be unlinked.
    pub(super) fn release(self) -> bool {
        self.saw_dead
    }

    fn publish_release(&self) {
        let round = &self.runtime.round;
        round.word.publish(State { epoch: self.epoch, phase: Phase::Released });
        round.word.wake_all();
    }
}

/// Records a thread for the attempt's error.
fn record(scratch: &mut Scratch, entry: &Entry) {
    scratch.record(ThreadRecord {
        tid: entry.tid(),
        name: Comm::default(),
        outcome: Outcome::Died,
    });
}

impl Drop for StoppedWorld<'_> {
    fn drop(&mut self) {
        self.publish_release();
    }
}
