//! A scene: at most four threads, registered or not, that run rounds, start threads, exit.
//!
//! The oracle: at the end of every interleaving all living threads have the same credentials, those of the
//! rounds whose caller made its call, in that order. Meanwhile
//! [`run_user_code`](Thread::run_user_code) of a registered thread never comes between the first call of
//! a round and the last.

use std::cell::RefCell;
use std::rc::Rc;

use super::Thread;
use crate::registry::Entry;
use crate::sys::machine::Machine;
use crate::sys::task::Task;

/// The threads of a scene before it runs.
pub struct Scene {
    machine: Rc<Machine>,
    threads: RefCell<Vec<(Thread, Body)>>,
}

type Body = Box<dyn FnOnce(&Thread)>;

impl Scene {
    pub(super) fn new(machine: Rc<Machine>) -> Self {
        Self { machine, threads: RefCell::default() }
    }

    /// Adds a thread that is registered from the start.
    pub fn registered(&self, body: impl FnOnce(&Thread) + 'static) {
        let task = self.machine.clone_task(None, None);
        self.register(&task);
        self.add(task, body);
    }

    /// Adds an unregistered thread with the id of a registered thread that has died.
    pub fn unregistered_with_reused_id(&self, body: impl FnOnce(&Thread) + 'static) {
        let task = self.reuse_id();
        self.add(task, body);
    }

    /// Adds a registered thread with the id of a registered thread that has died.
    pub fn registered_with_reused_id(&self, body: impl FnOnce(&Thread) + 'static) {
        let task = self.reuse_id();
        self.register(&task);
        self.add(task, body);
    }

    /// A thread with the id of a registered thread that has died.
    fn reuse_id(&self) -> Rc<Task> {
        let dead = self.machine.clone_task(None, None);
        self.register(&dead);
        self.machine.die(&dead);
        dead.finish();
        self.machine.clone_task(None, Some(dead.tid))
    }

    fn register(&self, task: &Task) {
        let mut entry = Entry::allocate().expect("memory");
        entry.set_owner(task.tid, 0);
        let runtime = self.machine.runtime;
        task.entry.set(Some(runtime.register(entry, &runtime.enter())));
    }

    /// Adds an unregistered thread.
    pub fn unregistered(&self, body: impl FnOnce(&Thread) + 'static) {
        self.add(self.machine.clone_task(None, None), body);
    }

    fn add(&self, task: Rc<Task>, body: impl FnOnce(&Thread) + 'static) {
        let thread = Thread::new(&self.machine, task);
        self.threads.borrow_mut().push((thread, Box::new(body)));
    }

    /// Sets the scene up, runs its threads to their ends, and checks the result.
    pub(super) fn run(self, setup: &impl Fn(&Self)) {
        setup(&self);
        // Only now: bodies read the other threads' tasks.
        for (thread, body) in self.threads.take() {
            thread.start(body);
        }
        self.machine.run();
        self.check();
        self.machine.stop();
    }

    /// The oracle: reads what each thread has become, not what psx reports.
    fn check(&self) {
        assert_eq!(
            self.machine.has_ended(),
            self.machine.caller_died(),
            "the process ends if a caller dies in its round",
        );
        if self.machine.has_ended() {
            return;
        }
        let history = self.machine.history.get();
        for task in self.machine.tasks().iter().filter(|task| task.is_alive()) {
            let credentials = task.credentials.get();
            assert_eq!(credentials, history, "thread {} has other credentials", task.tid);
        }
        // The entry of a thread that died before its round stays until the next round.
        let (entries, registered) = (self.machine.runtime.list.len(), self.machine.registered());
        let tasks = self.machine.tasks();
        let left = tasks.iter().filter(|task| task.dies_before_round.get()).count();
        let expected = registered..=registered + left;
        assert!(
            expected.contains(&entries),
            "{entries} entries of {registered} registered threads"
        );
    }
}
