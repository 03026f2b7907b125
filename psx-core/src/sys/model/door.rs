//! The model's way in: what `process.rs` is to a program, written for loom's threads, and the judge.
//!
//! A [`Scene`] has a few threads, registered or not, that run rounds, give birth, exit. Whatever
//! they do, at the end every thread that is alive must have the same credentials: those of the
//! rounds whose caller made its call, in that order. In between, no registered thread's
//! [`step`](Thread::step) may come between the first call of a round and the last.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::broadcast::CallName;
use crate::registry::Entry;
use crate::round::Call;
use crate::sync::Pass;
use crate::sys::choices::Habits;
use crate::sys::clock::Deadline;
use crate::sys::fault;
pub use crate::sys::fault::Fault;
use crate::sys::machine::{self, Death, Machine};
use crate::sys::mask;
use crate::sys::task::Task;
use crate::{Broadcast, Errno, Error, Report};

/// How a scene is explored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Model {
    habits: Habits,
    preemptions: Option<usize>,
    fault: Option<Fault>,
}

impl Model {
    /// A kernel without whims, and all orders.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first `count` sleeps may end for no reason.
    #[must_use]
    pub fn spurious_wakes(mut self, count: usize) -> Self {
        self.habits.spurious_wakes = count;
        self
    }

    /// The first `count` sleeps that have a limit may reach it.
    #[must_use]
    pub fn timers(mut self, count: usize) -> Self {
        self.habits.timers = count;
        self
    }

    /// The first `count` sleeps of threads that look after the caller may end in a look at once.
    #[must_use]
    pub fn looks(mut self, count: usize) -> Self {
        self.habits.looks = count;
        self
    }

    /// The first `count` times that a thread looks whether its deadline has passed, it may have.
    #[must_use]
    pub fn deadlines(mut self, count: usize) -> Self {
        self.habits.deadlines = count;
        self
    }

    /// The first `count` summonses may be refused, because the queue is full.
    #[must_use]
    pub fn refusals(mut self, count: usize) -> Self {
        self.habits.refusals = count;
        self
    }

    /// The first `count` summonses may be taken by another handler.
    #[must_use]
    pub fn losses(mut self, count: usize) -> Self {
        self.habits.losses = count;
        self
    }

    /// The first `count` summonses by targets may kill those.
    #[must_use]
    pub fn deaths(mut self, count: usize) -> Self {
        self.habits.deaths = count;
        self
    }

    /// No sleep has to reach its limit for the scene to end: where all sleep, a wake-up was lost.
    #[must_use]
    pub fn no_timer_needed(mut self) -> Self {
        self.habits.no_timer_needed = true;
        self
    }

    /// A load sees the newest value, whatever older ones its ordering would let it see. For scenes
    /// of many threads, where turns alone are many; what orderings are for, smaller ones try.
    #[must_use]
    pub fn newest_values_only(mut self) -> Self {
        self.habits.newest_only = true;
        self
    }

    /// A summons may arrive before each atomic operation of the protocol, and loom tries each.
    /// (Otherwise it arrives before the next one, and loom tries the scene's own points.)
    #[must_use]
    pub fn interrupted_everywhere(mut self) -> Self {
        self.habits.interrupted_everywhere = true;
        self
    }

    /// The kernel counts the threads and does not list them: `/proc` is out of reach.
    #[must_use]
    pub fn proc_out_of_reach(mut self) -> Self {
        self.habits.proc_out_of_reach = true;
        self
    }

    /// Entries do not tell that their threads are dead: not every libc, and not every thread, lets
    /// the kernel mark them.
    #[must_use]
    pub fn no_robust_mutexes(mut self) -> Self {
        self.habits.no_robust_mutexes = true;
        self
    }

    /// Explores only orders in which threads are kept from going on at most `bound` times.
    #[must_use]
    pub fn preemptions(mut self, bound: usize) -> Self {
        self.preemptions = Some(bound);
        self
    }

    /// Explores with a rule of the protocol removed.
    #[must_use]
    pub fn without(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Explores the scene that `lay_out` describes, and returns in how many interleavings.
    ///
    /// # Panics
    ///
    /// In the first interleaving in which something is wrong.
    pub fn explore(self, lay_out: impl Fn(&Scene) + Send + Sync + 'static) -> u64 {
        let interleavings = Arc::new(AtomicU64::new(0));
        let mut builder = loom::model::Builder::new();
        builder.expect_explicit_explore = true;
        builder.max_branches = 20_000;
        builder.preemption_bound = builder.preemption_bound.or(self.preemptions);
        let counted = Arc::clone(&interleavings);
        fault::remove(self.fault);
        let explored = panic::catch_unwind(AssertUnwindSafe(move || {
            builder.check(move || {
                counted.fetch_add(1, Ordering::Relaxed);
                let scene =
                    Scene { machine: Machine::start(self.habits), cast: RefCell::default() };
                lay_out(&scene);
                scene.begin();
                scene.machine.run();
                scene.judge();
                scene.machine.stop();
            });
        }));
        fault::remove(None);
        if let Err(cause) = explored {
            eprintln!("the interleaving that failed:\n{}", machine::story());
            panic::resume_unwind(cause);
        }
        interleavings.load(Ordering::Relaxed)
    }
}

/// The threads of a model before it begins: at most four.
pub struct Scene {
    machine: Rc<Machine>,
    cast: RefCell<Vec<(Thread, Part)>>,
}

type Part = Box<dyn FnOnce(&Thread)>;

impl Scene {
    /// A thread that is registered from the start.
    pub fn registered(&self, part: impl FnOnce(&Thread) + 'static) {
        let task = self.machine.clone_task(None, None);
        self.register(&task);
        self.cast(task, part);
    }

    /// A thread that psx does not know of, with the id of a registered thread that has died.
    pub fn foreign_again(&self, part: impl FnOnce(&Thread) + 'static) {
        let heir = self.leave_id();
        self.cast(heir, part);
    }

    /// A registered thread with the id of a registered thread that has died.
    pub fn registered_again(&self, part: impl FnOnce(&Thread) + 'static) {
        let heir = self.leave_id();
        self.register(&heir);
        self.cast(heir, part);
    }

    /// A thread with the id of a registered thread that has died.
    fn leave_id(&self) -> Rc<Task> {
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

    /// A thread that psx does not know of.
    pub fn foreign(&self, part: impl FnOnce(&Thread) + 'static) {
        self.cast(self.machine.clone_task(None, None), part);
    }

    fn cast(&self, task: Rc<Task>, part: impl FnOnce(&Thread) + 'static) {
        let thread = Thread { machine: Rc::clone(&self.machine), task };
        self.cast.borrow_mut().push((thread, Box::new(part)));
    }

    /// Starts the threads, once all that they will look at is there.
    fn begin(&self) {
        for (thread, part) in self.cast.take() {
            thread.spawn(part);
        }
    }

    /// The oracle: what each thread has become, and not what psx says of it.
    fn judge(&self) {
        assert_eq!(
            self.machine.has_ended(),
            self.machine.has_fallen(),
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
        // The next round would unlink_dead the entry of a thread that has died before its own.
        let (entries, registered) = (self.machine.runtime.list.len(), self.machine.registered());
        let unburied = self.machine.tasks().iter().filter(|task| task.dies_early.get()).count();
        let expected = registered..=registered + unburied;
        assert!(
            expected.contains(&entries),
            "{entries} entries of {registered} registered threads"
        );
    }
}

/// What a round's call does, beside changing the credentials of the thread that makes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conduct {
    /// It fails on the caller.
    pub fails: bool,
    /// The thread of this number dies in it; threads are numbered from 1 in the scene's order.
    pub kills: Option<u32>,
    /// That thread dies when it has made the call, not before.
    pub kills_after: bool,
    /// The caller dies before it stops anybody.
    pub kills_early: bool,
}

/// A running thread of the scene.
pub struct Thread {
    machine: Rc<Machine>,
    task: Rc<Task>,
}

impl Thread {
    fn spawn(self, part: impl FnOnce(&Thread) + 'static) {
        let task = Rc::clone(&self.task);
        let handle = loom::thread::spawn(move || {
            let played = panic::catch_unwind(AssertUnwindSafe(|| {
                part(&self);
                self.machine.linger(&self.task);
            }));
            match played {
                Err(cause) if !cause.is::<Death>() => panic::resume_unwind(cause),
                _ => self.machine.finish(&self.task),
            }
        });
        task.runs_as(handle.thread().clone());
    }

    /// The thread's number, from 1 in the scene's order.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.task.tid
    }

    /// How many summonses the kernel has taken for the thread.
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
    pub fn interrupt(&self) {
        self.machine.interrupt(&self.task);
    }

    /// User code of a registered thread, which sees the world as the last round left it.
    pub fn step(&self) {
        self.interrupt();
        for other in self.machine.tasks().iter().filter(|task| task.settled) {
            // What loom objects to here is a call that nothing orders before this step or after.
            other.watch.with(|_| ());
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

    /// Does nothing but answer until all others have played their parts.
    pub fn until_over(&self) {
        self.machine.linger(&self.task);
    }

    /// Blocks summonses, or takes them again.
    pub fn block_summons(&self, block: bool) {
        mask::set(block);
    }

    /// Gives the thread a signal stack without room, or one with room enough.
    pub fn small_stack(&self, small: bool) {
        self.task.room.set(if small { 0 } else { usize::MAX });
    }

    /// Runs round number `round`, one digit that no other round of the scene has.
    ///
    /// # Errors
    ///
    /// As psx's own.
    pub fn broadcast(
        &self,
        plan: &Broadcast,
        round: u32,
        conduct: Conduct,
    ) -> Result<Report, Error> {
        let entry = self.task.entry.get().expect("a caller is registered");
        // SAFETY: the thread's own entry, which stays until it leaves.
        let entry = unsafe { entry.as_ref() };
        let act = Act {
            machine: Rc::clone(&self.machine),
            caller: Rc::clone(&self.task),
            round: round.into(),
            conduct,
        };
        let op = || act.make_call();
        let call = Call::new(CallName::Closure, false, &op);
        self.task.dies_early.set(conduct.kills_early);
        let deadline = Deadline::after(plan.timeout);
        let result = self.machine.runtime.broadcast(entry, plan, deadline, call);
        let digits = self.machine.history.get().to_string();
        let was_made = digits.contains(&round.to_string());
        assert_eq!(was_made, result.is_ok(), "round {round} is {result:?} after {digits}");
        result
    }

    /// Starts a thread, as psx does: with a passage and a ticket.
    pub fn give_birth(&self, part: impl FnOnce(&Thread) + 'static) {
        let passage = self.machine.runtime.enter();
        let ticket = passage.duplicate();
        let entry = Entry::allocate().expect("memory");
        self.interrupt();
        self.clone_thread().spawn(move |child| {
            child.interrupt();
            child.register(entry, &ticket);
            drop(ticket);
            part(child);
        });
        self.interrupt();
        drop(passage);
    }

    /// Starts a thread behind psx's back.
    pub fn give_foreign_birth(&self, part: impl FnOnce(&Thread) + 'static) {
        self.interrupt();
        self.clone_thread().spawn(part);
    }

    fn clone_thread(&self) -> Thread {
        let task = self.machine.clone_task(Some(&self.task), None);
        Thread { machine: Rc::clone(&self.machine), task }
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

    /// Leaves the registry.
    pub fn leave(&self) {
        let runtime = self.machine.runtime;
        let entry = self.task.entry.get().expect("registered");
        let pass = runtime.enter();
        // SAFETY: the thread's own entry, which is in the list until here.
        let entry = unsafe { runtime.unregister(entry, &pass) };
        self.task.entry.set(None);
        drop(pass);
        drop(entry);
    }

    /// Ends the thread, as `exit(2)` does. It has nothing more to do.
    pub fn exit(&self) {
        self.machine.die(&self.task);
    }

    /// Ends the thread, and leaves it counted: what `exit(2)` does to a main thread before the others
    /// have ended. It has nothing more to do, and number 1.
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

/// One round's call.
struct Act {
    machine: Rc<Machine>,
    caller: Rc<Task>,
    round: u64,
    conduct: Conduct,
}

// SAFETY: all threads of a model run on one OS thread.
unsafe impl Sync for Act {}

impl Act {
    fn make_call(&self) -> Result<usize, Errno> {
        let me = self.machine.me().expect("a thread of the scene");
        let leads = me.tid == self.caller.tid;
        if leads && self.conduct.fails {
            return Err(Errno::from_raw(libc::EPERM));
        }
        let dies = self.conduct.kills == Some(me.tid);
        if dies && !self.conduct.kills_after {
            self.kill(&me, leads);
        }
        me.tell("makes call", self.round);
        me.watch.with_mut(|_| ());
        let next = |credentials: u64| credentials * 10 + self.round;
        if leads {
            self.machine.history.set(next(self.machine.history.get()));
        } else {
            self.caller.watch.with(|_| ());
        }
        let before = me.credentials.get();
        assert_ne!(before % 10, self.round, "thread {} makes the call twice", me.tid);
        me.credentials.set(next(before));
        assert_eq!(
            me.credentials.get(),
            self.caller.credentials.get(),
            "thread {} and the caller have made other calls",
            me.tid,
        );
        if dies {
            self.kill(&me, leads);
        }
        Ok(self.round as usize)
    }

    fn kill(&self, me: &Task, leads: bool) -> ! {
        if leads {
            self.machine.fall(me)
        } else {
            self.machine.die(me)
        }
        panic::resume_unwind(Box::new(Death))
    }
}
