//! The thread that leads a round: freeze, gather, prove, commit, release. Contains `unsafe`: it
//! makes the user's call.
//!
//! Each step hands the next one a value that only it can make, and that undoes the step when
//! dropped: a [`Turn`] (the round's lock, signals blocked), the gate's `Closed`, a [`Gathering`].
//! Whatever goes wrong on the way, the world is let go in the right order.

use core::fmt::Write;
use core::time::Duration;

use super::latch::Latch;
use super::ledger::{Finding, Ledger};
use super::roster::Array;
use super::word::{Phase, State};
use super::{Call, Epoch, Round};
use crate::memory::NoMemory;
use crate::registry::{Buried, Closed, Entry, Registry, Standing};
use crate::report::Outcome;
use crate::sys::clock::{self, Deadline, Instant};
use crate::sys::futex::Limit;
use crate::sys::sync::Ordering;
use crate::sys::{AMPLE, Quota, Refusal, fatal, mask};
use crate::{Broadcast, Coverage, Divergence, Errno, Error, Report};

/// How often a waiting thread looks before it sleeps, where there is a core for each: the order of
/// a wake-up's cost.
const SPINS: u32 = 2_000;

/// After how long a waiting caller looks for refused summonses and dead threads, at first; then
/// twice as long each time, up to the second.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// How long the gate stays closed, at first, for births that do not end: one of them may be waiting
/// for something that waits for us.
const FIRST_CLOSE: Duration = Duration::from_millis(10);

/// How long to wait between two proofs that failed, at the longest, if nothing changes.
const RETRY: Duration = Duration::from_millis(50);

/// Why an attempt came to nothing. No thread has made the call, except for [`Setback::Os`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setback {
    /// The call failed on the caller.
    Os(Errno),
    /// The ledger says who did not arrive.
    Late,
    /// The ledger says who is not registered; nobody, if it has vanished meanwhile.
    Missed,
    Unprovable(Errno),
    Unsendable(Errno),
    Unregistrable(Errno),
    /// Another round, or a birth, was in the way.
    Busy,
    /// More threads have registered than there was room laid out for.
    NoRoom,
}

/// What a round that was committed came to.
struct Committed {
    value: usize,
    threads: usize,
    stopped: Duration,
}

/// How many threads there are: registered, and by the kernel's count (0 where it has none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) registered: usize,
    pub(super) all: usize,
}

/// What an attempt leaves behind for the caller to free, once nobody waits for it any more.
#[derive(Default)]
struct Debris {
    buried: Option<Buried>,
    array: Option<Box<Array>>,
}

impl Registry {
    /// Makes the call on every registered thread, or on none. `me` is the calling thread's entry,
    /// and is not engaged.
    pub(crate) fn broadcast(
        &self,
        me: &Entry,
        plan: &Broadcast,
        call: Call<'_>,
    ) -> Result<Report, Error> {
        if plan.timeout.is_zero() {
            return Err(Error::ZeroTimeout);
        }
        let deadline = Deadline::after(plan.timeout);
        let mut patience = FIRST_CLOSE;
        let mut attempts = 0;
        // Who stood in the way of the last proof: the better answer when a later attempt, begun
        // shortly before the deadline, does not even get that far.
        let mut missed = None;
        loop {
            attempts += 1;
            // Everything that allocates or frees comes before the attempt or after it.
            self.kernel.make_ready();
            let seen = self.census();
            let mut debris = Debris::default();
            let mut ledger = self
                .lay_out(seen, &mut debris)
                .map_err(|_| Error::OutOfMemory)?;
            let close_by = deadline.sooner(patience);
            let leader = Leader {
                registry: self,
                me,
                plan,
                call,
                deadline,
                seen,
            };
            let attempt = leader.attempt(close_by, &mut ledger, &mut debris);
            drop(debris);

            let setback = match attempt {
                Ok(Committed {
                    value,
                    threads,
                    stopped,
                }) => {
                    let divergent = ledger.divergent();
                    return Ok(Report {
                        value,
                        threads,
                        divergent,
                        attempts,
                        stopped,
                    });
                }
                Err(setback) => setback,
            };
            if setback == Setback::Missed && !ledger.findings().is_empty() {
                missed = Some(ledger.threads());
            }
            match setback {
                Setback::NoRoom => {}
                Setback::Busy if !deadline.passed() => patience *= 2,
                Setback::Missed if !deadline.passed() => {
                    self.await_change(seen, deadline.sooner(RETRY));
                }
                Setback::Busy | Setback::Missed => {
                    return Err(missed.map_or(Error::Busy, Error::Uncovered));
                }
                Setback::Late => {
                    let late = || Error::Unreachable(ledger.threads());
                    return Err(missed.map_or_else(late, Error::Uncovered));
                }
                Setback::Os(errno) => return Err(Error::Os(errno)),
                Setback::Unprovable(errno) => return Err(Error::Unprovable(errno)),
                Setback::Unsendable(errno) => return Err(Error::Unsendable(errno)),
                Setback::Unregistrable(errno) => return Err(Error::Unregistrable(errno)),
            }
        }
    }

    pub(super) fn census(&self) -> Census {
        Census {
            registered: self.list.len(),
            all: self.kernel.thread_count().unwrap_or(0),
        }
    }

    fn lay_out(&self, seen: Census, debris: &mut Debris) -> Result<Ledger, NoMemory> {
        let room = seen.registered.max(seen.all) + AMPLE;
        debris.array = self.round.roster.larger(room)?;
        Ledger::for_threads(room)
    }

    /// Waits for a thread to be born, adopted or gone, with the gate open and nobody stopped.
    fn await_change(&self, seen: Census, deadline: Deadline) {
        let mut nap = Duration::from_micros(50);
        while self.census() == seen && !deadline.passed() {
            clock::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(5));
        }
    }
}

/// A thread's claim to lead the next round: no signal is taken any more, and nobody else leads.
struct Turn<'r> {
    round: &'r Round,
    /// Dropped after the lock is free.
    _masked: mask::Masked,
}

impl<'r> Turn<'r> {
    /// In this order: while it waits for the lock, a caller must still answer another's summons.
    fn take(round: &'r Round, deadline: Deadline) -> Result<Self, Setback> {
        let masked = mask::block_all_but_summons();
        if !round.lock.try_acquire(Limit::At(deadline)) {
            return Err(Setback::Busy);
        }
        masked.block_summons();
        Ok(Self {
            round,
            _masked: masked,
        })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.round.lock.release();
    }
}

struct Leader<'r> {
    registry: &'r Registry,
    me: &'r Entry,
    plan: &'r Broadcast,
    call: Call<'r>,
    deadline: Deadline,
    /// How many threads there were just before.
    seen: Census,
}

impl Leader<'_> {
    fn attempt(
        &self,
        close_by: Deadline,
        ledger: &mut Ledger,
        debris: &mut Debris,
    ) -> Result<Committed, Setback> {
        let Registry {
            kernel,
            gate,
            list,
            round,
            ..
        } = self.registry;
        let _turn = Turn::take(round, self.deadline)?;
        debris.array = round.roster.install(debris.array.take());
        kernel.confirm_handler().map_err(Setback::Unregistrable)?;
        let frozen = gate.close(close_by).ok_or(Setback::Busy)?;
        if list.len() > round.roster.capacity().min(ledger.capacity()) {
            return Err(Setback::NoRoom);
        }
        if self.plan.coverage == Coverage::Require {
            self.registry.let_leavers_vanish(self.seen);
        }

        self.me.engage();
        let began = Instant::now();
        let gathering = Gathering::announce(self, &frozen);
        let casualties = &mut false;
        let committed = self.commit(&gathering, casualties, ledger);
        let epoch = gathering.epoch;
        drop(gathering);
        let stopped = began.elapsed();
        self.me.disengage();

        if *casualties {
            let is_dead = |entry: &Entry| {
                entry.tid() == Entry::NOBODY
                    || entry.stands(epoch, Standing::Gone)
                    || entry.stands(epoch, Standing::Fallen)
            };
            // SAFETY: these threads' ends were seen, the gate is closed, and the round is released
            // (invariant I3).
            debris.buried = Some(unsafe { list.bury(&frozen, is_dead) });
        }
        if matches!(committed, Err(Setback::Late | Setback::Missed)) {
            for finding in ledger.findings_mut() {
                finding.name = kernel.name(finding.tid).unwrap_or(finding.name);
            }
        }
        committed.map(|(value, threads)| Committed {
            value,
            threads,
            stopped,
        })
    }

    /// From the announcement to the last thread's call. Nobody but us runs in here.
    fn commit(
        &self,
        gathering: &Gathering<'_>,
        casualties: &mut bool,
        ledger: &mut Ledger,
    ) -> Result<(usize, usize), Setback> {
        let stopped = gathering.await_arrivals(casualties, ledger)?;
        if self.plan.coverage == Coverage::Require {
            self.registry
                .prove_coverage(gathering.frozen, stopped, ledger)?;
        }
        // SAFETY: `self.call` is alive, and the promises of `Broadcast::run` are its caller's.
        let value = unsafe { self.call.raw.make() }.map_err(Setback::Os)?;
        gathering.commit(stopped, casualties);

        for entry in gathering.targets() {
            let Some(outcome) = entry.outcome(gathering.epoch) else {
                continue;
            };
            if outcome != Outcome::Returned(value) {
                ledger.note(Finding {
                    tid: entry.tid(),
                    name: entry.name(),
                    outcome,
                });
            }
        }
        if self.plan.divergence == Divergence::Abort && !ledger.findings().is_empty() {
            self.end_process(value, ledger);
        }
        Ok((value, stopped + 1))
    }

    /// Ends the process while every thread still stands where it is: none of them is to go on with
    /// privileges that the others do not have.
    fn end_process(&self, value: usize, ledger: &Ledger) -> ! {
        let mut stderr = fatal::Stderr::new();
        let findings = ledger.findings();
        // Writing to this standard error cannot fail, and there is nobody left to tell if it did.
        let _ = writeln!(
            stderr,
            "psx: fatal: {} returned {value} on the calling thread (tid {}), but not on {} other{}:",
            self.call.name,
            self.me.tid(),
            findings.len(),
            if findings.len() == 1 { "" } else { "s" },
        );
        for Finding { tid, name, outcome } in findings {
            let _ = writeln!(stderr, "psx:   thread {tid} ({}) {outcome}", name.as_str());
        }
        let _ = writeln!(
            stderr,
            "psx: the threads no longer agree on their privileges, so the process ends here; \
             Divergence::Report would return this list instead"
        );
        fatal::abort()
    }
}

/// The world while it is stopped, or being stopped. Lets it go when dropped.
struct Gathering<'a> {
    registry: &'a Registry,
    frozen: &'a Closed<'a>,
    me: &'a Entry,
    epoch: Epoch,
    targets: usize,
    /// Entries that a fork left behind were seen.
    orphans: bool,
    deadline: Deadline,
    spins: u32,
}

impl<'a> Gathering<'a> {
    /// Lays out the round and announces it.
    fn announce(leader: &'a Leader<'_>, frozen: &'a Closed<'a>) -> Self {
        let Leader {
            registry,
            me,
            call,
            deadline,
            ..
        } = *leader;
        let round = &registry.round;
        let epoch = round.word.read().epoch.next();
        let mut orphans = false;
        let targets = registry.list.iter(frozen).filter(|entry| {
            orphans |= entry.tid() == Entry::NOBODY;
            !core::ptr::eq(*entry, me) && entry.tid() != Entry::NOBODY
        });
        let targets = targets.inspect(|entry| entry.summon(epoch));
        let targets = round.roster.lay_out(epoch, targets.map(Entry::tid));
        let spins = if targets < registry.kernel.cores() {
            SPINS
        } else {
            0
        };
        // SAFETY: no round is committed, so no target reads the cell (invariant I5).
        round
            .call
            .with_mut(|cell| unsafe { *cell = Some(call.raw) });
        round.spins.store(spins, Ordering::Relaxed);
        round.arrivals.arm(epoch, targets);
        round.roster.open(epoch, targets);
        round.word.publish(State {
            epoch,
            phase: Phase::Gathering,
        });
        Self {
            registry,
            frozen,
            me,
            epoch,
            targets,
            orphans,
            deadline,
            spins,
        }
    }

    /// The entries of the targets.
    fn targets(&self) -> impl Iterator<Item = &Entry> {
        self.registry
            .list
            .iter(self.frozen)
            .filter(|entry| !core::ptr::eq(*entry, self.me))
    }

    /// Summons everybody, and waits until everybody has stopped; returns how many there are.
    fn await_arrivals(&self, casualties: &mut bool, ledger: &mut Ledger) -> Result<usize, Setback> {
        let Registry { kernel, round, .. } = self.registry;
        *casualties = self.orphans;
        let mut refused = false;
        while let Some(taken) = round.summon_next(kernel, self.epoch) {
            refused |= !taken;
        }
        let mut quota = None;
        let mut gone = 0;
        let mut look = FIRST_LOOK;
        // Where the caller itself was refused there is no need to wait before looking into it.
        while refused
            || !round
                .arrivals
                .wait(Limit::At(self.deadline.sooner(look)), self.spins)
        {
            refused = false;
            gone += self.summon_refused(&mut quota)?;
            gone += self.count_gone(|tid| kernel.is_dead(tid));
            if self.deadline.passed() {
                if self.give_up(ledger) {
                    return Err(Setback::Late);
                }
                // All have arrived, and are about to count down.
                break;
            }
            look = (look * 2).min(LAST_LOOK);
        }
        *casualties |= gone > 0;
        Ok(self.targets - gone)
    }

    /// Sends again what the kernel did not take, having made room for it where that is allowed.
    /// Returns how many of the threads turned out to have ended.
    fn summon_refused(&self, quota: &mut Option<Quota>) -> Result<usize, Setback> {
        let Registry { kernel, round, .. } = self.registry;
        let mut gone = 0;
        for claim in round.roster.refused(self.epoch) {
            let mut sent = kernel.summon(claim.tid);
            if sent == Err(Refusal::Full) && quota.is_none() {
                *quota = Quota::raise();
                sent = kernel.summon(claim.tid);
            }
            match sent {
                Ok(()) => {}
                Err(Refusal::Full) => round.roster.refuse(self.epoch, claim),
                Err(Refusal::Gone) => gone += self.count_gone(|tid| tid == claim.tid),
                Err(Refusal::Denied(errno)) => return Err(Setback::Unsendable(errno)),
            }
        }
        Ok(gone)
    }

    /// Counts those who have ended without answering.
    fn count_gone(&self, is_dead: impl Fn(u32) -> bool) -> usize {
        let arrivals = &self.registry.round.arrivals;
        self.count_dead(Standing::Summoned, Standing::Gone, arrivals, is_dead)
    }

    /// Counts down for threads that have ended where they stood; returns how many there were.
    fn count_dead(
        &self,
        from: Standing,
        to: Standing,
        latch: &Latch,
        is_dead: impl Fn(u32) -> bool,
    ) -> usize {
        let mut dead = 0;
        for entry in self
            .targets()
            .filter(|entry| entry.stands(self.epoch, from))
        {
            if is_dead(entry.tid()) && entry.advance(self.epoch, from, to) {
                latch.count_down(self.epoch);
                dead += 1;
            }
        }
        dead
    }

    /// Takes back the summons of those who have not arrived, and notes them. Returns whether there
    /// were any: if not, everybody has arrived after all.
    fn give_up(&self, ledger: &mut Ledger) -> bool {
        let mut late = false;
        for entry in self.targets() {
            if entry.advance(self.epoch, Standing::Summoned, Standing::Bystander) {
                late = true;
                ledger.note(Finding {
                    tid: entry.tid(),
                    name: entry.name(),
                    outcome: Outcome::Died,
                });
            }
        }
        late
    }

    /// Has all stopped threads make the call, and waits until they have. There is no way back, no
    /// deadline, and no system call but futex: the call may have forbidden every other.
    fn commit(&self, stopped: usize, casualties: &mut bool) {
        if stopped == 0 {
            return;
        }
        let Registry { kernel, round, .. } = self.registry;
        round.completions.arm(self.epoch, stopped);
        round.word.publish(State {
            epoch: self.epoch,
            phase: Phase::Committed,
        });
        round.word.wake_all();
        let mut look = FIRST_LOOK;
        while !round.completions.wait(Limit::For(look), self.spins) {
            let is_dead = |tid| kernel.is_dead(tid);
            let fallen = self.count_dead(
                Standing::Arrived,
                Standing::Fallen,
                &round.completions,
                is_dead,
            );
            *casualties |= fallen > 0;
            look = (look * 2).min(LAST_LOOK);
        }
    }
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        let round = &self.registry.round;
        round.roster.close(self.epoch);
        round.word.publish(State {
            epoch: self.epoch,
            phase: Phase::Released,
        });
        round.word.wake_all();
    }
}
