//! A summoned thread. All of it runs in a signal handler, which may have interrupted any code: it allocates
//! nothing, takes no lock, logs nothing and does not panic. docs/signal-safety.md lists what it accesses.
//! Contains `unsafe`: it makes the user's call.

use core::time::Duration;

use super::word::{Phase, State};
use super::{Round, stack};
use crate::registry::{CallResult, Entry, Status};
use crate::report::{Comm, Outcome};
use crate::runtime::Runtime;
use crate::sync::{Epoch, LivenessPoll};
use crate::sys::futex::Limit;
use crate::sys::{SPIN_BEFORE_SLEEP, errno};

/// How long a late thread waits for the next attempt.
pub(super) const NEXT_ATTEMPT: Duration = Duration::from_millis(1);

impl Runtime {
    /// Stops the calling thread if a round has summoned it, until the round releases it. Called for every
    /// signal 33: after a forged signal no round wants this thread, and this returns at once.
    ///
    /// A summons that comes too late finds its attempt over, or another one on. Then this removes the thread
    /// from those whose signal is pending, and looks for a round again (invariant I15).
    ///
    /// `stack_left` is how many bytes of stack are left. Uses no thread-local storage: the calling thread may be
    /// one that psx does not know.
    pub(crate) fn answer(&self, stack_left: usize, is_summons: bool) {
        while !self.answer_if_summoned(stack_left) {
            if !is_summons || self.round.pending.is_empty() || !self.take_late_signal() {
                return;
            }
        }
    }

    /// Returns whether the calling thread was one whose signal is pending. If it was the last one, the next
    /// attempt is about to begin, so it waits for that for a moment: what made it late, a wait for a thread
    /// that the round stops, could begin again. Out of line, as the next one.
    #[cold]
    #[inline(never)]
    fn take_late_signal(&self) -> bool {
        let Round { word, pending, .. } = &self.round;
        let seen = word.read();
        let was_pending = self.kernel.own_tid().is_some_and(|tid| pending.remove(tid));
        if was_pending && pending.is_empty() && SPIN_BEFORE_SLEEP {
            let _errno = errno::Saved::new();
            word.wait_once(seen, Limit::For(NEXT_ATTEMPT));
        }
        was_pending
    }

    /// Returns whether the calling thread was summoned. If it has too little stack, it is counted down for,
    /// so that the caller does not wait for it, and does not stop.
    #[inline(always)]
    fn answer_if_summoned(&self, stack_left: usize) -> bool {
        let round = &self.round;
        let gathering = round.word.read();
        let epoch = gathering.epoch;
        if gathering.phase != Phase::Gathering {
            return false;
        }
        let Some(me) = self.kernel.own_tid().and_then(|tid| round.roster.find(epoch, tid)) else {
            return false;
        };
        // The registered thread with this id may have died since the round was announced, and the kernel may
        // have given the id to this thread (invariant I12).
        if me.has_died() {
            return false;
        }
        // A registered thread has an errno of its own. Another thread may have none.
        let _errno = errno::Saved::new();
        if stack_left < stack::needed(round.wait_policy.is_closure()) {
            if me.transition(epoch, Status::Summoned, Status::StackTooSmall) {
                round.arrivals.count_down_marked(epoch);
                return true;
            }
            return false;
        }
        if !me.is_at(epoch, Status::Summoned) {
            return false;
        }
        // From here on, the handler of a synchronous signal finds this thread in a round.
        me.enter_round();
        let is_released = self.answer_until_released(me, gathering);
        me.leave_round();
        is_released
    }

    /// From the summons to the release. Returns `false` if the summons was withdrawn meanwhile.
    fn answer_until_released(&self, me: &Entry, gathering: State) -> bool {
        let round = &self.round;
        let epoch = gathering.epoch;
        // Before the countdown, so that no summons is in progress when no thread is missing. Before the
        // arrival, so that a thread that a seccomp filter kills in one of these calls is found dead among the
        // threads that have not arrived.
        round.help_summon(&self.kernel, epoch);
        // Read the name before the commit: the call may forbid `prctl`.
        let futex_only = round.wait_policy.is_futex_only();
        let mut name = if futex_only { self.kernel.own_name() } else { Comm::default() };
        if !me.transition(epoch, Status::Summoned, Status::Arrived) {
            return false;
        }
        let missing = round.arrivals.count_down(epoch);
        let spin = round.wait_policy.for_target(missing);

        let check = || self.check_caller(epoch);
        let committed = State { epoch, phase: Phase::Committed };
        if round.word.wait_past(gathering, spin, LivenessPoll::new(&check)) != committed {
            return true;
        }
        // SAFETY: this thread has arrived and sees its round committed, and the caller does not write the cell
        // before this thread has counted down (invariant I5).
        let published = round.published.with(|cell| unsafe { *cell });
        // SAFETY: the call is alive (invariant I5).
        let made = published
            .map(|published| (published.value, Outcome::from(unsafe { published.call.make() })));
        if let Some((value, outcome)) = made {
            if outcome != Outcome::Returned(value) && !futex_only {
                name = self.kernel.own_name();
            }
            // SAFETY: this thread owns its entry, whose status is `Arrived` (invariant I6).
            unsafe { me.set_result(CallResult { outcome, name }) };
            me.transition(epoch, Status::Arrived, Status::Done);
        }
        let missing = round.completions.count_down(epoch);
        let spin = round.wait_policy.for_target(missing);
        round.word.wait_past(committed, spin, LivenessPoll::new(&check));
        true
    }

    /// Ends the process if the caller of the round of `epoch` has died in it. Out of line, so that the frame of
    /// the handler stays small.
    #[cold]
    #[inline(never)]
    fn check_caller(&self, epoch: Epoch) {
        self.end_if_caller_died(|| {
            let now = self.round.word.read();
            now.epoch == epoch && now.phase != Phase::Released
        });
    }
}
