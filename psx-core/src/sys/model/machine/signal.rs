//! A summons is sent, arrives, is answered.

use std::rc::Rc;

use loom::sync::atomic::Ordering;

use super::super::choice::Choice;
use super::super::fault::{self, Fault};
use super::super::task::{Sleep, Task, WakeReason};
use super::Machine;
use crate::sys::SendError;

impl Machine {
    pub(crate) fn summon(&self, tid: u32) -> Result<(), SendError> {
        let Some(task) = self.find_living(tid).map(|index| Rc::clone(&self.tasks.borrow()[index]))
        else {
            return Err(SendError::Gone);
        };
        if self.choose(Choice::Refusal) {
            return Err(SendError::Full);
        }
        // Not the first summons for this thread: the protocol sends again one that may be lost.
        if task.was_summoned.replace(true) && fault::is(Fault::LostNotResent) {
            return Ok(());
        }
        if let Some(me) = self.me().filter(|me| me.in_handler.get() && self.choose(Choice::Death)) {
            self.die_and_unwind(&me);
        }
        if self.choose(Choice::Loss) {
            self.handler_replaced.set(true);
            return Ok(());
        }
        // A thread that has died may have claimed a summons that it has not sent.
        let may_be_lost = self.loses_summonses || self.tasks.borrow().iter().any(|t| !t.is_alive());
        assert!(
            task.pending.get() == 0 || task.in_handler.get() || may_be_lost,
            "a second signal is queued for thread {tid}"
        );
        task.signal.fetch_add(1, Ordering::Release);
        if !task.is_alive() {
            return Err(SendError::Gone);
        }
        task.log("is summoned by", self.me().map_or(0, |me| me.tid.into()));
        task.accepted.set(task.accepted.get() + 1);
        task.pending.set(task.pending.get() + 1);
        self.pending.set(self.pending.get() + 1);
        if task.sleep.get().is_some() && task.takes_summons() {
            self.end_sleep(&task, WakeReason::Summons);
        }
        Ok(())
    }

    /// Whether a signal of the thread is queued; `None` if there is no such thread.
    pub(crate) fn has_pending_summons(&self, tid: u32) -> Option<bool> {
        let index = self.find_living(tid)?;
        Some(self.tasks.borrow()[index].pending.get() > 0)
    }

    /// A point at which a summons may arrive: a switch point of loom's, so that both orders are tried.
    pub(crate) fn signal_point(&self, me: &Rc<Task>) {
        if me.takes_summons() {
            me.signal.fetch_add(0, Ordering::Acquire);
            self.answer_summonses(me);
        }
    }

    /// Runs the handler once for each pending summons.
    pub(super) fn answer_summonses(&self, me: &Rc<Task>) {
        while me.takes_summons() && me.pending.get() > 0 {
            me.signal.fetch_add(0, Ordering::Acquire);
            me.pending.set(me.pending.get() - 1);
            self.pending.set(self.pending.get() - 1);
            me.in_handler.set(true);
            me.log("enters its handler", 0);
            self.runtime.answer(me.stack.get(), true);
            me.log("leaves its handler", 0);
            me.in_handler.set(false);
        }
    }

    /// Answers summonses while the thread is registered and others run their bodies.
    pub(crate) fn idle(&self, me: &Rc<Task>) {
        while me.is_alive() && me.entry.get().is_some() {
            self.signal_point(me);
            if !(me.takes_summons() && me.is_summoned()) {
                self.sleep(me, 0, Sleep::Idle);
                if me.wake_reason.get() == WakeReason::End {
                    break;
                }
            }
        }
    }
}
