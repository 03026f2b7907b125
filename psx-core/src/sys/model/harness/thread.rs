//! What a thread of a scene can do.

use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;

use super::CallBehavior;
use super::call::RoundCall;
use crate::broadcast::CallName;
use crate::registry::Entry;
use crate::round::Call;
use crate::sync::Pass;
use crate::sys::clock::Deadline;
use crate::sys::machine::{Machine, ThreadDeath};
use crate::sys::mask;
use crate::sys::task::Task;
use crate::{Broadcast, Error, Report};

/// A thread of a scene.
pub struct Thread {
    machine: Rc<Machine>,
    task: Rc<Task>,
}

impl Thread {
    pub(super) fn new(machine: &Rc<Machine>, task: Rc<Task>) -> Self {
        Self { machine: Rc::clone(machine), task }
    }

    pub(super) fn start(self, body: impl FnOnce(&Self) + 'static) {
        let task = Rc::clone(&self.task);
        let handle = loom::thread::spawn(move || {
            let result = panic::catch_unwind(AssertUnwindSafe(|| {
                body(&self);
                self.machine.idle(&self.task);
            }));
            match result {
                Err(cause) if !cause.is::<ThreadDeath>() => panic::resume_unwind(cause),
                _ => self.machine.finish(&self.task),
            }
        });
        task.set_thread(handle.thread().clone());
    }

    /// The thread's id: its number, from 1 in the order in which the scene adds and starts threads.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.task.tid
    }

    /// How many summonses the kernel has accepted for the thread.
    #[must_use]
    pub fn summonses(&self) -> u32 {
        self.task.accepted.get()
    }

    /// The numbers of the calls that the thread has made or inherited, as decimal digits.
    #[must_use]
    pub fn credentials(&self) -> u64 {
        self.task.credentials.get()
    }

    /// A point at which a summons may arrive.
    pub fn signal_point(&self) {
        self.machine.signal_point(&self.task);
    }

    /// User code of a registered thread: reads the credentials of every thread, which differ only in
    /// the middle of a round.
    pub fn run_user_code(&self) {
        self.signal_point();
        for other in self.machine.tasks().iter().filter(|task| task.is_initial) {
            // loom reports a call that nothing orders before or after this read.
            other.access.with(|_| ());
            if other.is_alive() && other.entry.get().is_some() {
                assert_eq!(
                    self.credentials(),
                    other.credentials.get(),
                    "thread {} runs between the first call and the last",
                    self.number(),
                );
            }
        }
    }

    /// Only answers summonses, until the bodies of all other threads are done.
    pub fn idle(&self) {
        self.machine.idle(&self.task);
    }

    /// Blocks summonses, or unblocks them.
    pub fn block_summons(&self, block: bool) {
        mask::set(block);
    }

    /// Gives handlers no stack, or enough.
    pub fn set_small_stack(&self, is_small: bool) {
        self.task.stack.set(if is_small { 0 } else { usize::MAX });
    }

    /// Runs the round with the number `round`, one digit that no other round of the scene has.
    ///
    /// # Errors
    ///
    /// As psx's own.
    pub fn broadcast(
        &self,
        broadcast: &Broadcast,
        round: u32,
        behavior: CallBehavior,
    ) -> Result<Report, Error> {
        let entry = self.task.entry.get().expect("a caller is registered");
        // SAFETY: the thread's own entry, which is in the list until it unregisters (invariant I1).
        let entry = unsafe { entry.as_ref() };
        let call = RoundCall::new(&self.machine, &self.task, round, behavior);
        let op = || call.make();
        let call = Call::new(CallName::Closure, false, &op);
        self.task.dies_before_round.set(behavior.kills_before_round);
        let deadline = Deadline::after(broadcast.timeout);
        let result = self.machine.runtime.broadcast(entry, broadcast, deadline, call);
        let digits = self.machine.history.get().to_string();
        let was_made = digits.contains(&round.to_string());
        assert_eq!(was_made, result.is_ok(), "round {round} is {result:?} after {digits}");
        result
    }

    /// Starts a thread as psx does, with a pass and a ticket.
    pub fn spawn(&self, body: impl FnOnce(&Self) + 'static) {
        let pass = self.machine.runtime.enter();
        let ticket = pass.duplicate();
        let entry = Entry::allocate().expect("memory");
        self.signal_point();
        self.clone_thread().start(move |child| {
            child.signal_point();
            child.register(entry, &ticket);
            drop(ticket);
            body(child);
        });
        self.signal_point();
        drop(pass);
    }

    /// Starts a thread without psx.
    pub fn spawn_unregistered(&self, body: impl FnOnce(&Self) + 'static) {
        self.signal_point();
        self.clone_thread().start(body);
    }

    fn clone_thread(&self) -> Self {
        let task = self.machine.clone_task(Some(&self.task), None);
        Self::new(&self.machine, task)
    }

    /// Registers the thread.
    pub fn adopt(&self) {
        let entry = Entry::allocate().expect("memory");
        self.register(entry, &self.machine.runtime.enter());
    }

    fn register(&self, mut entry: Box<Entry>, pass: &Pass<'_>) {
        entry.set_owner(self.number(), 0);
        self.task.entry.set(Some(self.machine.runtime.register(entry, pass)));
    }

    /// Unregisters the thread.
    pub fn unregister(&self) {
        let runtime = self.machine.runtime;
        let entry = self.task.entry.get().expect("registered");
        let pass = runtime.enter();
        // SAFETY: the thread's own entry, which is in the list until here (invariant I1).
        let entry = unsafe { runtime.unregister(entry, &pass) };
        self.task.entry.set(None);
        drop(pass);
        drop(entry);
    }

    /// Ends the thread as `exit(2)` does. The last operation of its body.
    pub fn exit(&self) {
        self.machine.die(&self.task);
    }

    /// Ends the main thread, number 1, as `exit(2)` does while others run: it is still counted. The
    /// last operation of its body.
    pub fn exit_as_main(&self) {
        assert_eq!(self.number(), 1, "the main thread is the scene's first");
        self.machine.become_zombie(&self.task);
    }

    /// Walks the list, and returns how many entries it has.
    #[must_use]
    pub fn walk(&self) -> usize {
        let mut entries = 0;
        self.machine.runtime.list.for_each(|_| entries += 1);
        entries
    }
}
