//! A round's call: appends the round's digit to the credentials of the thread that makes it.

use std::panic;
use std::rc::Rc;

use crate::Errno;
use crate::sys::machine::{Machine, ThreadDeath};
use crate::sys::task::Task;

/// What a round's call does beside changing the credentials of the thread that makes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallBehavior {
    /// It fails on the caller.
    pub fails: bool,
    /// The thread with this number dies in it.
    pub kills: Option<u32>,
    /// That thread dies after it has changed its credentials, not before.
    pub kills_after_call: bool,
    /// The caller dies before it has stopped a thread.
    pub kills_before_round: bool,
}

pub(super) struct RoundCall {
    machine: Rc<Machine>,
    caller: Rc<Task>,
    round: u64,
    behavior: CallBehavior,
}

// SAFETY: all threads of a model run on one OS thread.
unsafe impl Sync for RoundCall {}

impl RoundCall {
    pub(super) fn new(
        machine: &Rc<Machine>,
        caller: &Rc<Task>,
        round: u32,
        behavior: CallBehavior,
    ) -> Self {
        let (machine, caller) = (Rc::clone(machine), Rc::clone(caller));
        Self { machine, caller, round: round.into(), behavior }
    }

    /// Makes the call on the running thread.
    pub(super) fn make(&self) -> Result<usize, Errno> {
        let me = self.machine.me().expect("a thread of the scene");
        let is_caller = me.tid == self.caller.tid;
        if is_caller && self.behavior.fails {
            return Err(Errno::from_raw(libc::EPERM));
        }
        let dies = self.behavior.kills == Some(me.tid);
        if dies && !self.behavior.kills_after_call {
            self.kill(&me, is_caller);
        }
        me.log("makes call", self.round);
        me.access.with_mut(|_| ());
        let append = |credentials: u64| credentials * 10 + self.round;
        if is_caller {
            self.machine.history.set(append(self.machine.history.get()));
        } else {
            self.caller.access.with(|_| ());
        }
        let before = me.credentials.get();
        assert_ne!(before % 10, self.round, "thread {} makes the call twice", me.tid);
        me.credentials.set(append(before));
        assert_eq!(
            me.credentials.get(),
            self.caller.credentials.get(),
            "thread {} and the caller have made other calls",
            me.tid,
        );
        if dies {
            self.kill(&me, is_caller);
        }
        Ok(self.round as usize)
    }

    fn kill(&self, me: &Task, is_caller: bool) -> ! {
        if is_caller {
            self.machine.die_in_round(me)
        }
        // Unlike in `die_and_unwind`, the operations of the unwinding thread take effect.
        self.machine.die(me);
        panic::resume_unwind(Box::new(ThreadDeath))
    }
}
