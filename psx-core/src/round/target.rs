//! A thread that is summoned. Everything here runs in a signal handler, on top of whatever the
//! thread was doing: it allocates nothing, locks nothing, logs nothing and does not panic.
//! docs/signal-safety.md lists all that it touches. Contains `unsafe`: it makes the user's call.

use super::stack;
use super::word::{Phase, State};
use crate::registry::{CallResult, Entry, Status};
use crate::report::{Comm, Outcome};
use crate::runtime::Runtime;
use crate::sync::{Epoch, LivenessPoll};
use crate::sys::errno;

impl Runtime {
    /// Stops the calling thread if a round has summoned it, until the round lets it go. Called for
    /// every signal 33: a signal that was forged or came too late finds no round that wants this
    /// thread, and this returns at once.
    ///
    /// `room` is how many bytes of stack are left. A thread that has too few refuses: it is counted down
    /// for, so that the caller does not wait for it, but does not stop.
    ///
    /// Uses no thread-local storage. The calling thread may be one that psx does not know.
    pub(crate) fn answer(&self, room: usize) {
        let round = &self.round;
        let gathering = round.word.read();
        let epoch = gathering.epoch;
        if gathering.phase != Phase::Gathering {
            return;
        }
        let Some(me) = self.kernel.own_tid().and_then(|tid| round.roster.find(epoch, tid)) else {
            return;
        };
        // The id may have been a registered thread's that died since the round was laid out.
        if me.has_died() {
            return;
        }
        // Only now is it sure that the thread has an errno of its own.
        let _errno = errno::Saved::new();
        if room < stack::needed(round.wait_policy.is_closure()) {
            if me.transition(epoch, Status::Summoned, Status::StackTooSmall) {
                round.arrivals.count_down_marked(epoch);
            }
            return;
        }
        if !me.is_at(epoch, Status::Summoned) {
            return;
        }
        // A handler for a synchronous signal may interrupt this thread from here on.
        me.enter_round();
        self.answer_until_released(me, gathering);
        me.leave_round();
    }

    /// From the summons to the release.
    fn answer_until_released(&self, me: &Entry, gathering: State) {
        let round = &self.round;
        let epoch = gathering.epoch;
        // Before the countdown: once nobody is missing, nobody is in the middle of a summons. And before
        // the arrival: a thread that a filter kills over one of these calls is found dead among those
        // that have not arrived.
        round.help_summon(&self.kernel, epoch);
        // Whoever may not ask for it later asks before the countdown, hence before the commit.
        let futex_only = round.wait_policy.is_futex_only();
        let mut name = if futex_only { self.kernel.own_name() } else { Comm::default() };
        if !me.transition(epoch, Status::Summoned, Status::Arrived) {
            return;
        }
        let missing = round.arrivals.count_down(epoch);
        let spin = round.wait_policy.for_target(missing);

        let check = || self.check_caller(epoch);
        let committed = State { epoch, phase: Phase::Committed };
        if round.word.wait_past(gathering, spin, LivenessPoll::new(&check)) != committed {
            return;
        }
        // SAFETY: this thread has arrived and sees the round committed, and the caller waits for
        // its completion below before it takes the cell back (invariant I5).
        let published = round.published.with(|cell| unsafe { *cell });
        // SAFETY: as above, the call is alive.
        let made = published
            .map(|published| (published.value, Outcome::from(unsafe { published.call.make() })));
        if let Some((value, outcome)) = made {
            if outcome != Outcome::Returned(value) && !futex_only {
                name = self.kernel.own_name();
            }
            // SAFETY: this thread owns its entry, and stands at `Arrived` (invariant I6).
            unsafe { me.set_result(CallResult { outcome, name }) };
            me.transition(epoch, Status::Arrived, Status::Done);
        }
        let missing = round.completions.count_down(epoch);
        let spin = round.wait_policy.for_target(missing);
        round.word.wait_past(committed, spin, LivenessPoll::new(&check));
    }

    /// For a thread that has stopped in the round of `epoch`. Out of line, since hardly any thread gets
    /// here, and each has the handler on its stack.
    #[cold]
    #[inline(never)]
    fn check_caller(&self, epoch: Epoch) {
        self.end_if_caller_died(|| {
            let now = self.round.word.read();
            now.epoch == epoch && now.phase != Phase::Released
        });
    }
}
