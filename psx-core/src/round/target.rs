//! A summoned thread. All of it runs in a signal handler, which may have interrupted any code: it allocates
//! nothing, takes no lock, logs nothing and does not panic. docs/signal-safety.md lists what it accesses.
//! Contains `unsafe`: it makes the user's call.

use super::stack;
use super::word::{Phase, State};
use crate::registry::{CallResult, Entry, Status};
use crate::report::{Comm, Outcome};
use crate::runtime::Runtime;
use crate::sync::{Epoch, LivenessPoll};
use crate::sys::errno;

impl Runtime {
    /// Stops the calling thread until the release, if a round has summoned it. Called for every signal 33.
    /// Returns at once if the signal is forged or late, since then no round has summoned this thread.
    ///
    /// `stack_left` is the number of bytes of stack left. A thread with too few counts down, so that the caller
    /// does not wait for it, but does not stop.
    ///
    /// Uses no thread-local storage. The calling thread may be unregistered.
    pub(crate) fn answer(&self, stack_left: usize) {
        let round = &self.round;
        let gathering = round.word.read();
        let epoch = gathering.epoch;
        if gathering.phase != Phase::Gathering {
            return;
        }
        let Some(me) = self.kernel.own_tid().and_then(|tid| round.roster.find(epoch, tid)) else {
            return;
        };
        // The registered thread with this id may have died since the round was announced, and the kernel may
        // have given the id to this thread (invariant I12).
        if me.has_died() {
            return;
        }
        // A registered thread has an errno of its own. Another thread may have none.
        let _errno = errno::Saved::new();
        if stack_left < stack::needed(round.wait_policy.is_closure()) {
            if me.transition(epoch, Status::Summoned, Status::StackTooSmall) {
                round.arrivals.count_down_marked(epoch);
            }
            return;
        }
        if !me.is_at(epoch, Status::Summoned) {
            return;
        }
        // From here on, the handler of a synchronous signal finds this thread in a round.
        me.enter_round();
        self.answer_until_released(me, gathering);
        me.leave_round();
    }

    /// From the summons to the release.
    fn answer_until_released(&self, me: &Entry, gathering: State) {
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
            return;
        }
        let missing = round.arrivals.count_down(epoch);
        let spin = round.wait_policy.for_target(missing);

        let check = || self.check_caller(epoch);
        let committed = State { epoch, phase: Phase::Committed };
        if round.word.wait_past(gathering, spin, LivenessPoll::new(&check)) != committed {
            return;
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
