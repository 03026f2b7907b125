//! Sleeps, wake-ups, and time, which passes only when no thread is awake.

use std::rc::Rc;

use loom::thread;

use super::super::task::{Sleep, Task, WakeReason};
use super::{Machine, is_current_dead};

/// After this many sleeps that only a timer could end, the deadline has passed too.
const TIMERS_BEFORE_DEADLINE: u32 = 3;
/// After this many the scene makes no progress.
const MAX_TIMERS: u32 = 40;

impl Machine {
    /// Sleeps until the sleep is ended; returns whether a timer did. No switch point may lie between the
    /// decision to sleep and this call.
    pub(crate) fn sleep(&self, me: &Rc<Task>, address: usize, kind: Sleep) -> bool {
        me.sleep.set(Some(kind));
        me.log(kind.event(), address as u64);
        self.sleepers.borrow_mut().push((address, Rc::clone(me)));
        if !self.others_are_awake(me) {
            self.advance_time();
        }
        while me.sleep.get().is_some() {
            thread::park();
        }
        is_current_dead();
        match me.wake_reason.get() {
            WakeReason::Wake | WakeReason::End => false,
            WakeReason::Timer => true,
            WakeReason::Summons => {
                self.answer_summonses(me);
                false
            }
        }
    }

    /// Wakes the first `count` threads that sleep on `address`.
    pub(crate) fn wake(&self, address: usize, count: usize) {
        for _ in 0..count {
            let sleepers = self.sleepers.borrow();
            let Some((_, task)) = sleepers.iter().find(|(word, _)| *word == address).cloned()
            else {
                return;
            };
            drop(sleepers);
            self.end_sleep(&task, WakeReason::Wake);
        }
    }

    pub(super) fn end_sleep(&self, task: &Rc<Task>, reason: WakeReason) {
        task.sleep.set(None);
        task.log(reason.event(), self.me().map_or(0, |me| me.tid.into()));
        task.wake_reason.set(reason);
        self.sleepers.borrow_mut().retain(|(_, sleeper)| !Rc::ptr_eq(sleeper, task));
        if let Some(thread) = task.thread.borrow().as_ref() {
            if thread.id() != thread::current().id() {
                thread.unpark();
            }
        }
    }

    /// Whether a thread other than `me` is awake.
    pub(crate) fn others_are_awake(&self, me: &Task) -> bool {
        let tasks = self.tasks.borrow();
        let mut others = tasks.iter().filter(|task| !core::ptr::eq(&***task, me));
        others.any(|task| !task.is_finished.get() && task.sleep.get().is_none())
    }

    /// No thread is awake. Time passes to the next timer, if there is one; if all bodies are done, the
    /// scene ends. Otherwise loom reports a deadlock.
    pub(super) fn advance_time(&self) {
        let sleepers = self.sleepers.borrow().clone();
        let sleeps = |kind: Sleep| move |task: &&Rc<Task>| task.sleep.get() == Some(kind);
        let tasks = || sleepers.iter().map(|(_, task)| task);
        let order = [Sleep::Timed, Sleep::Fixed, Sleep::Poll];
        if let Some(task) = order.into_iter().find_map(|kind| tasks().find(sleeps(kind))) {
            let is_fixed = task.sleep.get() == Some(Sleep::Fixed);
            let is_expected = is_fixed || self.caller_died.get() || !self.no_timer_needed;
            assert!(is_expected, "a wake-up was lost: every thread sleeps");
            let needed = self.timers_needed.get() + 1;
            assert!(needed <= MAX_TIMERS, "no progress after {MAX_TIMERS} timers");
            self.timers_needed.set(needed);
            if needed > TIMERS_BEFORE_DEADLINE {
                task.deadline_passed.set(true);
            }
            self.end_sleep(task, WakeReason::Timer);
        } else if tasks().all(|task| task.sleep.get() == Some(Sleep::Idle)) {
            for task in tasks() {
                self.end_sleep(task, WakeReason::End);
            }
        }
    }
}
