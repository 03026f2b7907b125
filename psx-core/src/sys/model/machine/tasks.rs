//! Threads start and end; the kernel counts them, lists them, and finds them dead.

use std::panic;
use std::rc::Rc;

use loom::sync::atomic::Ordering;

use super::super::task::{Task, WakeReason};
use super::{Machine, ThreadDeath, is_current_dead};
use crate::sys::UnregisteredKind;

impl Machine {
    pub(crate) fn tasks(&self) -> Vec<Rc<Task>> {
        self.tasks.borrow().clone()
    }

    /// A new thread with its parent's credentials. Its id is `tid`, which no living thread has, or the
    /// next one.
    pub(crate) fn clone_task(&self, parent: Option<&Task>, tid: Option<u32>) -> Rc<Task> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let next = self.tasks.borrow().len() as u32 + 1;
        let task = Rc::new(Task::new(tid.unwrap_or(next), parent));
        self.tasks.borrow_mut().push(Rc::clone(&task));
        task
    }

    pub(crate) fn die(&self, task: &Task) {
        // Release pairs with the Acquire in `list`, `kind` and `has_died`: the kernel finds a thread dead,
        // or not, under locks that its end takes too.
        self.count.fetch_sub(1, Ordering::Release);
        task.log("dies", 0);
        self.pending.set(self.pending.get() - task.pending.take());
        task.exists.set(false);
        task.entry.set(None);
    }

    /// The thread ends and is still counted: a main thread that ends before others.
    pub(crate) fn become_zombie(&self, task: &Task) {
        // Release, as in `die`.
        self.count.fetch_add(0, Ordering::Release);
        task.log("becomes a zombie", 0);
        self.pending.set(self.pending.get() - task.pending.take());
        task.is_zombie.set(true);
        task.entry.set(None);
    }

    /// The running thread dies as the caller of a round.
    pub(crate) fn die_in_round(&self, me: &Task) -> ! {
        me.died_in_round.set(true);
        self.caller_died.set(true);
        self.die_and_unwind(me)
    }

    /// The running thread dies where it is.
    pub(crate) fn die_and_unwind(&self, me: &Task) -> ! {
        self.has_unwound.set(true);
        self.die(me);
        panic::resume_unwind(Box::new(ThreadDeath))
    }

    /// Whether a caller has died in its round.
    pub(crate) fn caller_died(&self) -> bool {
        self.caller_died.get()
    }

    /// Whether the process has ended because of that.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// The process ends because the thread `tid` has died.
    pub(crate) fn end_process(&self, tid: u32) -> ! {
        let died = self.tasks().iter().any(|task| task.tid == tid && task.died_in_round.get());
        assert!(died, "a false alarm: thread {tid} has ended its round");
        self.has_ended.set(true);
        for (_, task) in self.sleepers.take() {
            self.end_sleep(&task, WakeReason::End);
        }
        is_current_dead();
        unreachable!("a living thread ends the process");
    }

    /// The thread runs no more of the scene, dead or not.
    pub(crate) fn finish(&self, me: &Task) {
        me.finish();
        me.log("ends", 0);
        self.setup_thread.unpark();
        if !self.others_are_awake(me) {
            self.advance_time();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.fetch_add(0, Ordering::Relaxed) as usize
    }

    /// Whether threads can be listed, and not only counted.
    pub(crate) fn lists_threads(&self) -> bool {
        self.lists_threads
    }

    pub(crate) fn registered(&self) -> usize {
        self.tasks.borrow().iter().filter(|task| task.entry.get().is_some()).count()
    }

    /// The ids of the threads that exist, zombies included.
    pub(crate) fn list(&self) -> Vec<u32> {
        self.count.fetch_add(0, Ordering::Acquire);
        let tasks = self.tasks.borrow();
        let existing = tasks.iter().filter(|task| task.exists.get());
        existing.map(|task| task.tid).collect()
    }

    pub(crate) fn kind(&self, tid: u32) -> Option<UnregisteredKind> {
        self.count.fetch_add(0, Ordering::Acquire);
        let tasks = self.tasks.borrow();
        let task = tasks.iter().find(|task| task.tid == tid && task.exists.get())?;
        Some(if task.is_zombie.get() { UnregisteredKind::Dead } else { UnregisteredKind::Missed })
    }

    /// Whether the thread `tid` is dead, for the protocol.
    pub(crate) fn is_dead(&self, tid: u32) -> bool {
        let is_dead = matches!(self.kind(tid), None | Some(UnregisteredKind::Dead));
        self.found_dead.set(is_dead.then_some(tid));
        is_dead
    }

    /// The index of the living thread `tid` among all threads that have existed.
    pub(crate) fn find_living(&self, tid: u32) -> Option<usize> {
        let tasks = self.tasks.borrow();
        tasks.iter().position(|task| task.tid == tid && task.is_alive())
    }

    /// Whether the thread at `index` is dead. Acquire if so, as in `kind`.
    pub(crate) fn has_died(&self, index: usize) -> bool {
        let died = !self.tasks.borrow()[index].is_alive();
        if died {
            self.count.fetch_add(0, Ordering::Acquire);
        }
        died
    }
}
