//! The world while it is stopped. Contains `unsafe`: it lends the user's call to the targets.
//!
//! Everything in here runs between the announcement and the release, and so allocates nothing, takes
//! no lock and logs nothing (invariant I10).

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

/// After how long a waiting caller looks for refused summonses and dead threads, at first; then
/// twice as long each time, up to the second.
const POLL_MIN: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(50);

/// By how much a wait must overrun its limit to show that the caller itself did not run: the process or
/// the machine was stopped. Then the targets did not run either, and get this long to arrive, once in an
/// attempt, before the deadline is held against them.
const OVERSLEPT: Duration = Duration::from_millis(100);
const AFTER_STOP: Duration = Duration::from_millis(500);

/// The world while it is stopped, or being stopped. Lets it go when dropped.
pub(super) struct StoppedWorld<'a> {
    runtime: &'a Runtime,
    pub(super) frozen: &'a Closed<'a>,
    me: &'a Entry,
    pub(super) epoch: Epoch,
    targets: usize,
    /// Entries without a thread were seen: left behind by a fork, or of a thread that is dead.
    orphans: bool,
    deadline: Deadline,
}

impl<'a> StoppedWorld<'a> {
    /// Lays out the round and announces it.
    pub(super) fn announce(caller: &'a Caller<'_>, frozen: &'a Closed<'a>) -> Self {
        let Caller { runtime, me, call, deadline, .. } = *caller;
        let round = &runtime.round;
        let last = round.word.read().epoch;
        let epoch = last.next();
        let mut orphans = false;
        round.roster.prepare_index(last, epoch);
        round.roster.enter_index(epoch, me);
        let targets = runtime.list.iter(frozen).filter(|entry| {
            if core::ptr::eq(*entry, me) {
                return false;
            }
            // The id of a dead thread may be another's, which is not to be signalled. And where the
            // mark of life says nothing: the list has the newest entries first, and no two living
            // threads have the same id, so of two entries with one id the second is a dead thread's.
            let is_alive = entry.tid() != Entry::NO_TID
                && !entry.has_died()
                && round.roster.enter_index(epoch, entry);
            // The entry of a living thread is in the kernel's list of its robust mutexes, and must not be
            // freed. A second one of the caller's own is left alone (invariant I14).
            let is_callers = entry.tid() == me.tid() && entry.is_marked_alive();
            if !is_alive && !is_callers {
                entry.clear_owner();
                orphans = true;
            }
            is_alive
        });
        let targets = targets.inspect(|entry| entry.summon(epoch));
        let targets = round.roster.lay_out(epoch, targets.map(Entry::tid));
        let is_closure = call.name == CallName::Closure;
        round.wait_policy.set(targets >= runtime.kernel.cores(), call.may_filter, is_closure);
        round.arrivals.arm(epoch, targets);
        round.roster.open(epoch, targets);
        round.word.publish(State { epoch, phase: Phase::Gathering });
        Self { runtime, frozen, me, epoch, targets, orphans, deadline }
    }

    /// The entries of the targets.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Entry> {
        self.runtime.list.iter(self.frozen).filter(|entry| !core::ptr::eq(*entry, self.me))
    }

    /// Summons everybody, and waits until everybody has stopped; returns how many there are.
    pub(super) fn await_arrivals(
        &self,
        casualties: &mut bool,
        scratch: &mut Scratch,
    ) -> Result<usize, AttemptError> {
        let Runtime { kernel, round, .. } = self.runtime;
        *casualties = self.orphans;
        let mut looked = Instant::now();
        let mut refused = false;
        while let Some(taken) = round.summon_next(kernel, self.epoch) {
            refused |= !taken;
        }
        let mut quota = None;
        let mut gone = 0;
        let mut look = POLL_MIN;
        let mut deadline = self.deadline;
        // Whether summonses may have been lost, and were not sent again yet.
        let mut lost = false;
        // Where the caller itself was refused there is no need to wait before looking into it.
        while refused
            || !round.arrivals.wait(Limit::At(deadline.sooner(look)), round.wait_policy.of_caller())
        {
            refused = false;
            let found_gone =
                self.summon_refused(&mut quota)? + self.count_gone(|entry| self.is_dead(entry));
            gone += found_gone;
            // Another handler has taken the summonses that were sent meanwhile; and a thread that has
            // ended may have claimed a summons that it did not send.
            let replaced = kernel.confirm_handler().map_err(AttemptError::Handler)?;
            lost |= replaced || found_gone > 0;
            if lost {
                lost = !self.summon_late()?;
            }
            // One reading for both questions: a stop after it is seen at the next look.
            let now = Instant::now();
            if now.since(looked) > look + OVERSLEPT && deadline == self.deadline {
                deadline = deadline.at_least(AFTER_STOP);
            }
            looked = now;
            if replaced {
                look = POLL_MIN / 2;
            }
            if deadline.passed_at(now) {
                if self.give_up(scratch) {
                    return Err(AttemptError::Late);
                }
                // All have arrived, and are about to count down, so this is short; nobody is late,
                // but the deadline is a promise.
                let spin = round.wait_policy.of_caller();
                if !round.arrivals.wait(Limit::For(POLL_MAX), spin) {
                    return Err(AttemptError::Busy);
                }
            }
            look = (look * 2).min(POLL_MAX);
        }
        *casualties |= gone > 0;
        if round.arrivals.is_marked() {
            let refused = |entry: &&Entry| entry.is_at(self.epoch, Status::StackTooSmall);
            self.targets().filter(refused).for_each(|entry| note(scratch, entry));
            return Err(AttemptError::StackTooSmall);
        }
        Ok(self.targets - gone)
    }

    /// Sends again what the kernel did not take, having made room for it where that is allowed.
    /// Returns how many of the threads turned out to have ended.
    fn summon_refused(&self, quota: &mut Option<SigpendingLimit>) -> Result<usize, AttemptError> {
        let Runtime { kernel, round, .. } = self.runtime;
        let mut gone = 0;
        for claim in round.roster.refused(self.epoch) {
            let mut sent = kernel.summon(claim.tid);
            if sent == Err(SendError::Full) && quota.is_none() {
                *quota = SigpendingLimit::raise();
                sent = kernel.summon(claim.tid);
            }
            match sent {
                Ok(()) => {}
                Err(SendError::Full) => round.roster.refuse(self.epoch, claim),
                // A filter may say so of a thread that lives, whose entry must not be freed.
                Err(SendError::Gone) => {
                    let is_dead = |entry: &Entry| entry.tid() == claim.tid && self.is_dead(entry);
                    match self.count_gone(is_dead) {
                        0 => round.roster.refuse(self.epoch, claim),
                        found => gone += found,
                    }
                }
                Err(SendError::Denied(errno)) => return Err(AttemptError::SignalDenied(errno)),
            }
        }
        Ok(gone)
    }

    /// Whether the thread has ended: by its mark, whoever has its id now, or where the mark says
    /// nothing because the kernel knows no such id. No system call but futex.
    fn is_dead(&self, entry: &Entry) -> bool {
        // Both, in this order: where the whole process is ending, this thread may find the others' marks
        // set, and the system call is where it ends itself.
        entry.has_died() | self.runtime.kernel.is_dead(entry.tid())
    }

    /// Sends again to all that have not arrived. A second summons does nothing to a thread that has had the
    /// first. Returns whether the kernel has taken all of them.
    fn summon_late(&self) -> Result<bool, AttemptError> {
        let mut all_taken = true;
        for entry in self.targets().filter(|entry| entry.is_at(self.epoch, Status::Summoned)) {
            match self.runtime.kernel.summon(entry.tid()) {
                // Whoever is gone is found dead at the next look.
                Ok(()) | Err(SendError::Gone) => {}
                Err(SendError::Full) => all_taken = false,
                Err(SendError::Denied(errno)) => return Err(AttemptError::SignalDenied(errno)),
            }
        }
        Ok(all_taken)
    }

    /// Counts those who have ended without answering.
    fn count_gone(&self, is_dead: impl Fn(&Entry) -> bool) -> usize {
        let arrivals = &self.runtime.round.arrivals;
        self.count_dead(Status::Summoned, Status::DiedBeforeCall, arrivals, is_dead)
    }

    /// Counts down for threads that have ended where they stood; returns how many there were.
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

    /// Takes back the summons of those who have not arrived, and notes them. Returns whether there
    /// were any: if not, everybody has arrived after all.
    fn give_up(&self, scratch: &mut Scratch) -> bool {
        let mut late = false;
        for entry in self.targets() {
            if entry.transition(self.epoch, Status::Summoned, Status::Idle) {
                late = true;
                note(scratch, entry);
            }
        }
        late
    }

    /// Has all stopped threads make the call, and waits until they have. There is no way back, no
    /// deadline, and no system call but futex: the call may have forbidden every other.
    pub(super) fn commit(&self, published: PublishedCall, stopped: usize, casualties: &mut bool) {
        if stopped == 0 {
            return;
        }
        let Runtime { round, .. } = self.runtime;
        // SAFETY: no round is committed, so no target reads the cell (invariant I5).
        round.published.with_mut(|cell| unsafe { *cell = Some(published) });
        round.completions.arm(self.epoch, stopped);
        if round.wait_policy.is_futex_only() {
            // A caller that has forbidden itself even futex dies before the others follow it.
            futex::probe();
        }
        round.word.publish(State { epoch: self.epoch, phase: Phase::Committed });
        round.word.wake_all();
        let mut look = POLL_MIN;
        while !round.completions.wait(Limit::For(look), round.wait_policy.of_caller()) {
            let is_dead = |entry: &Entry| self.is_dead(entry);
            let fallen =
                self.count_dead(Status::Arrived, Status::DiedInCall, &round.completions, is_dead);
            *casualties |= fallen > 0;
            look = (look * 2).min(POLL_MAX);
        }
    }
}

/// Notes a thread that has kept the round from its commit.
fn note(scratch: &mut Scratch, entry: &Entry) {
    scratch.record(ThreadRecord {
        tid: entry.tid(),
        name: Comm::default(),
        outcome: Outcome::Died,
    });
}

impl Drop for StoppedWorld<'_> {
    fn drop(&mut self) {
        let round = &self.runtime.round;
        round.word.publish(State { epoch: self.epoch, phase: Phase::Released });
        round.word.wake_all();
    }
}
