//! The process of one execution of a model: its threads, what they sleep on, what they may do.

use std::cell::{Cell, RefCell};
use std::panic;
use std::rc::Rc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread::{self, Thread as LoomThread};

use super::super::{SendError, UnregisteredKind};
use super::choices::{Choices, Habits, Whim};
use super::fault::{self, Fault};
use super::task::{Roused, Sleep, Task};
use crate::runtime::Runtime;
use crate::sys::Kernel;

/// After how many times that nobody could run but by a timer the deadline itself has come.
const PATIENCE: u32 = 3;
/// After how many the model is taken to be stuck.
const STUCK: u32 = 40;

thread_local! {
    /// The machine of the execution that is on. All threads of a model run on one OS thread.
    static MACHINE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
}

thread_local! {
    /// Whether loads see the newest value only.
    static NEWEST: Cell<bool> = const { Cell::new(false) };
    /// What happened in this execution: who, what, and to whom or with which result.
    static STORY: RefCell<Vec<(u32, &'static str, u64)>> = const { RefCell::new(Vec::new()) };
}

/// Notes an event, for the one who reads of a failure.
pub(super) fn tell(task: &Task, what: &'static str, of: u64) {
    STORY.with_borrow_mut(|story| story.push((task.tid, what, of)));
}

/// What has happened in this execution.
pub(crate) fn story() -> String {
    let line = |(tid, what, of): &(u32, &str, u64)| format!("  thread {tid} {what} {of}\n");
    STORY.with_borrow(|story| story.iter().map(line).collect())
}

/// The machine of this execution.
pub(crate) fn get() -> Rc<Machine> {
    MACHINE.with_borrow(|machine| machine.clone().expect("inside of a model"))
}

/// What unwinds a thread off its stack that has died, or whose process has ended: there is no other way
/// off a stack of loom's. Nothing that the thread does on its way changes anything: see [`is_over`].
pub(crate) struct Death;

/// Whether the running thread is dead, and unwinds. Takes it there if the process has ended.
pub(crate) fn is_over() -> bool {
    let machine = MACHINE.with_borrow(Clone::clone);
    let Some(machine) = machine.filter(|m| m.ended.get() || m.unwinds.get()) else {
        return false;
    };
    let Some(me) = machine.me() else { return false };
    if machine.ended.get() && me.is_alive() {
        machine.die(&me);
        panic::resume_unwind(Box::new(Death));
    }
    !me.is_alive()
}

/// Called before each atomic operation of the protocol: a summons that has come is taken now. Returns
/// whether the operation is one of a dead thread, and is not to be made.
pub(crate) fn before_operation() -> bool {
    if is_over() {
        return true;
    }
    let machine = MACHINE.with_borrow(Clone::clone);
    let Some(machine) = machine.filter(|m| m.everywhere || m.summonses.get() > 0) else {
        return false;
    };
    if let Some(me) = machine.me() {
        if machine.everywhere {
            machine.interrupt(&me);
        } else if me.can_be_summoned() && me.is_summoned() {
            machine.take_summonses(&me);
        }
    }
    false
}

/// Whether there is one such as [`just_found_dead`] tells of.
pub(crate) fn has_just_found_dead() -> bool {
    get().found_dead.get().is_some()
}

/// The thread that was found dead last by the running one, if that has not been asked since.
pub(crate) fn just_found_dead() -> Option<u32> {
    get().found_dead.take()
}

/// Whether loads see the newest value only.
pub(super) fn reads_the_newest() -> bool {
    NEWEST.get()
}

/// Whether the running thread has slept since this was last asked.
pub(crate) fn just_woken() -> bool {
    get().me().is_some_and(|me| me.woken.take())
}

pub(crate) struct Machine {
    pub(crate) runtime: &'static Runtime,
    main: LoomThread,
    tasks: RefCell<Vec<Rc<Task>>>,
    /// In the order in which they fell asleep.
    sleepers: RefCell<Vec<(usize, Rc<Task>)>>,
    /// How many threads there are, for the kernel's count. Its changes are turns of loom's.
    population: AtomicU32,
    choices: Choices,
    /// Summonses that nobody has taken yet.
    summonses: Cell<u32>,
    timers_needed: Cell<u32>,
    no_timer_needed: bool,
    everywhere: bool,
    lists_threads: bool,
    pub(super) no_robust_mutexes: bool,
    /// Another handler has taken a summons, and is in the place of ours.
    pub(super) handler_replaced: Cell<bool>,
    /// A thread that has died unwinds, or has unwound.
    unwinds: Cell<bool>,
    /// A caller has died in its round.
    fallen: Cell<bool>,
    /// The process has ended over it.
    ended: Cell<bool>,
    found_dead: Cell<Option<u32>>,
    /// The calls that a round's caller has made, as the decimal digits of their numbers.
    pub(crate) history: Cell<u64>,
}

impl Machine {
    /// A machine without threads, for the execution that has just begun.
    pub(crate) fn start(habits: Habits) -> Rc<Self> {
        let machine = Rc::new(Self {
            runtime: Box::leak(Box::new(Runtime::new(Kernel))),
            main: thread::current(),
            tasks: RefCell::default(),
            sleepers: RefCell::default(),
            population: AtomicU32::new(0),
            choices: Choices::new(&habits),
            summonses: Cell::new(0),
            timers_needed: Cell::new(0),
            no_timer_needed: habits.no_timer_needed,
            everywhere: habits.interrupted_everywhere,
            lists_threads: !habits.proc_out_of_reach,
            no_robust_mutexes: habits.no_robust_mutexes,
            handler_replaced: Cell::new(false),
            unwinds: Cell::new(false),
            fallen: Cell::new(false),
            ended: Cell::new(false),
            found_dead: Cell::new(None),
            history: Cell::new(0),
        });
        MACHINE.set(Some(Rc::clone(&machine)));
        STORY.take();
        NEWEST.set(habits.newest_only);
        machine
    }

    /// Runs the model's threads to their ends.
    pub(crate) fn run(&self) {
        self.choices.open();
        loom::explore();
        while self.tasks.borrow().iter().any(|task| !task.finished.get()) {
            thread::park();
        }
    }

    /// Frees what the execution leaves. Only the main thread is left.
    pub(crate) fn stop(self: Rc<Self>) {
        // SAFETY: leaked by `start`, and nobody is left to use it.
        drop(unsafe { Box::from_raw(core::ptr::from_ref(self.runtime).cast_mut()) });
        MACHINE.set(None);
    }

    /// The running thread; `None` for the one that sets the model up.
    pub(crate) fn me(&self) -> Option<Rc<Task>> {
        let id = thread::current().id();
        let tasks = self.tasks.borrow();
        let is_me = |task: &&Rc<Task>| {
            task.thread.borrow().as_ref().is_some_and(|thread| thread.id() == id)
        };
        tasks.iter().find(is_me).cloned()
    }

    pub(crate) fn tasks(&self) -> Vec<Rc<Task>> {
        self.tasks.borrow().clone()
    }

    /// A new thread, with its parent's credentials. Its id is `tid`, which no living thread has, or
    /// the next one.
    pub(crate) fn clone_task(&self, parent: Option<&Task>, tid: Option<u32>) -> Rc<Task> {
        self.population.fetch_add(1, Ordering::Relaxed);
        let task = Rc::new(Task {
            tid: tid.unwrap_or(self.tasks.borrow().len() as u32 + 1),
            settled: parent.is_none(),
            thread: RefCell::new(None),
            signal: AtomicU32::new(0),
            pending: Cell::new(0),
            accepted: Cell::new(0),
            blocks: Cell::new(parent.is_some_and(|parent| parent.blocks.get())),
            handling: Cell::new(false),
            sent: Cell::new(false),
            dies_early: Cell::new(false),
            room: Cell::new(usize::MAX),
            asleep: Cell::new(None),
            roused: Cell::new(Roused::Wake),
            woken: Cell::new(false),
            late: Cell::new(false),
            alive: Cell::new(true),
            zombie: Cell::new(false),
            fell: Cell::new(false),
            finished: Cell::new(false),
            entry: Cell::new(None),
            credentials: Cell::new(parent.map_or(0, |parent| parent.credentials.get())),
            watch: UnsafeCell::new(()),
        });
        self.tasks.borrow_mut().push(Rc::clone(&task));
        task
    }

    /// The thread exists no more.
    pub(crate) fn die(&self, task: &Task) {
        // Release pairs with the Acquire in `kind`: the kernel finds a thread dead, or not, under
        // locks that its end takes too.
        self.population.fetch_sub(1, Ordering::Release);
        tell(task, "dies", 0);
        self.summonses.set(self.summonses.get() - task.pending.take());
        task.alive.set(false);
        task.entry.set(None);
    }

    /// The thread runs no more, and the kernel goes on counting it: a main thread before others.
    pub(crate) fn become_zombie(&self, task: &Task) {
        // Release, as in `die`.
        self.population.fetch_add(0, Ordering::Release);
        tell(task, "dies and stays", 0);
        self.summonses.set(self.summonses.get() - task.pending.take());
        task.zombie.set(true);
        task.entry.set(None);
    }

    /// The thread dies in a round that it leads.
    pub(crate) fn fall(&self, me: &Task) -> ! {
        me.fell.set(true);
        self.fallen.set(true);
        self.die_and_unwind(me)
    }

    /// The thread dies where it stands.
    pub(crate) fn die_and_unwind(&self, me: &Task) -> ! {
        self.unwinds.set(true);
        self.die(me);
        panic::resume_unwind(Box::new(Death))
    }

    /// Whether a caller has died in its round.
    pub(crate) fn has_fallen(&self) -> bool {
        self.fallen.get()
    }

    /// Whether the process has ended over that.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// The process ends over the death of the thread `tid`.
    pub(crate) fn end_process(&self, tid: u32) -> ! {
        let fell = self.tasks().iter().any(|task| task.tid == tid && task.fell.get());
        assert!(fell, "a false alarm: thread {tid} has ended its round");
        self.ended.set(true);
        for (_, task) in self.sleepers.take() {
            self.rouse(&task, Roused::Over);
        }
        is_over();
        unreachable!("a thread that is alive ends the process");
    }

    /// Whether the thread `tid` is dead, as the protocol asks it.
    pub(crate) fn is_dead(&self, tid: u32) -> bool {
        let is_dead = matches!(self.kind(tid), None | Some(UnregisteredKind::Dead));
        self.found_dead.set(is_dead.then_some(tid));
        is_dead
    }

    /// The thread runs no more of the model, dead or not.
    pub(crate) fn finish(&self, me: &Task) {
        me.finished.set(true);
        tell(me, "ends", 0);
        self.main.unpark();
        if !self.others_are_awake(me) {
            self.go_on();
        }
    }

    /// Has played its part, and answers for as long as it is registered and others play.
    pub(crate) fn linger(&self, me: &Rc<Task>) {
        while me.is_alive() && me.entry.get().is_some() {
            self.interrupt(me);
            if !me.is_summoned() {
                self.sleep(me, 0, Sleep::Linger);
                if me.roused.get() == Roused::Over {
                    break;
                }
            }
        }
    }

    /// Whether the kernel does what it may do. A turn of loom's, while occasions are left.
    pub(crate) fn whim(&self, whim: Whim) -> bool {
        let decided = self.choices.decide(whim);
        if let (Some(occasion), Some(me)) = (decided, self.me()) {
            tell(&me, whim.verb(), occasion);
        }
        decided.is_some()
    }

    // Threads, as the kernel counts them.

    pub(crate) fn count(&self) -> usize {
        self.population.fetch_add(0, Ordering::Relaxed) as usize
    }

    /// Whether they can be listed, and not only counted.
    pub(crate) fn lists_threads(&self) -> bool {
        self.lists_threads
    }

    pub(crate) fn registered(&self) -> usize {
        self.tasks.borrow().iter().filter(|task| task.entry.get().is_some()).count()
    }

    pub(crate) fn alive(&self) -> Vec<u32> {
        self.population.fetch_add(0, Ordering::Acquire);
        let tasks = self.tasks.borrow();
        let alive = tasks.iter().filter(|task| task.alive.get());
        alive.map(|task| task.tid).collect()
    }

    pub(crate) fn kind(&self, tid: u32) -> Option<UnregisteredKind> {
        self.population.fetch_add(0, Ordering::Acquire);
        let tasks = self.tasks.borrow();
        let task = tasks.iter().find(|task| task.tid == tid && task.alive.get())?;
        Some(if task.zombie.get() { UnregisteredKind::Dead } else { UnregisteredKind::Missed })
    }

    /// The living thread of this id, by its place among all that there have been.
    pub(crate) fn living(&self, tid: u32) -> Option<usize> {
        let tasks = self.tasks.borrow();
        tasks.iter().position(|task| task.tid == tid && task.is_alive())
    }

    /// Whether the thread at this place is dead. Acquire, where it is: as in `kind`.
    pub(crate) fn has_died(&self, task: usize) -> bool {
        let died = !self.tasks.borrow()[task].is_alive();
        if died {
            self.population.fetch_add(0, Ordering::Acquire);
        }
        died
    }

    // Summonses.

    pub(crate) fn summon(&self, tid: u32) -> Result<(), SendError> {
        let Some(task) = self.living(tid).map(|place| Rc::clone(&self.tasks.borrow()[place]))
        else {
            return Err(SendError::Gone);
        };
        if self.whim(Whim::SendError) {
            return Err(SendError::Full);
        }
        // Not the first one for this thread: the protocol sends again what may be lost.
        if task.sent.replace(true) && fault::is(Fault::LostNotSentAgain) {
            return Ok(());
        }
        if let Some(me) = self.me().filter(|me| me.handling.get() && self.whim(Whim::Death)) {
            self.die_and_unwind(&me);
        }
        if self.whim(Whim::Loss) {
            self.handler_replaced.set(true);
            return Ok(());
        }
        task.signal.fetch_add(1, Ordering::Release);
        if !task.is_alive() {
            return Err(SendError::Gone);
        }
        tell(&task, "is summoned by", self.me().map_or(0, |me| me.tid.into()));
        task.accepted.set(task.accepted.get() + 1);
        task.pending.set(task.pending.get() + 1);
        self.summonses.set(self.summonses.get() + 1);
        let waits = task.asleep.get().is_some() && task.can_be_summoned();
        if waits {
            self.rouse(&task, Roused::Summons);
        }
        Ok(())
    }

    /// A point at which a summons may arrive: a turn of loom's, so that each order of the two is
    /// tried.
    pub(crate) fn interrupt(&self, me: &Rc<Task>) {
        if me.can_be_summoned() {
            me.signal.fetch_add(0, Ordering::Acquire);
            self.take_summonses(me);
        }
    }

    /// Runs the handler once for each summons that has come.
    fn take_summonses(&self, me: &Rc<Task>) {
        while me.can_be_summoned() && me.pending.get() > 0 {
            me.signal.fetch_add(0, Ordering::Acquire);
            me.pending.set(me.pending.get() - 1);
            self.summonses.set(self.summonses.get() - 1);
            me.handling.set(true);
            tell(me, "takes a summons", 0);
            self.runtime.answer(me.room.get());
            tell(me, "has taken it", 0);
            me.handling.set(false);
        }
    }

    // Sleep and time.

    /// Sleeps until something ends it; returns whether that was the time. To be called in the turn
    /// in which it was decided upon.
    pub(crate) fn sleep(&self, me: &Rc<Task>, address: usize, kind: Sleep) -> bool {
        me.asleep.set(Some(kind));
        tell(me, kind.verb(), address as u64);
        self.sleepers.borrow_mut().push((address, Rc::clone(me)));
        if !self.others_are_awake(me) {
            self.go_on();
        }
        while me.asleep.get().is_some() {
            thread::park();
        }
        is_over();
        match me.roused.get() {
            Roused::Wake | Roused::Over => false,
            Roused::Timer => true,
            Roused::Summons => {
                self.take_summonses(me);
                false
            }
        }
    }

    pub(crate) fn wake(&self, address: usize, count: usize) {
        for _ in 0..count {
            let sleepers = self.sleepers.borrow();
            let Some((_, task)) = sleepers.iter().find(|(word, _)| *word == address).cloned()
            else {
                return;
            };
            drop(sleepers);
            self.rouse(&task, Roused::Wake);
        }
    }

    fn rouse(&self, task: &Rc<Task>, why: Roused) {
        task.asleep.set(None);
        tell(task, why.verb(), self.me().map_or(0, |me| me.tid.into()));
        task.roused.set(why);
        self.sleepers.borrow_mut().retain(|(_, sleeper)| !Rc::ptr_eq(sleeper, task));
        if let Some(thread) = task.thread.borrow().as_ref() {
            if thread.id() != thread::current().id() {
                thread.unpark();
            }
        }
    }

    /// Whether anyone but `me` can go on.
    pub(crate) fn others_are_awake(&self, me: &Task) -> bool {
        let tasks = self.tasks.borrow();
        let mut others = tasks.iter().filter(|task| !core::ptr::eq(&***task, me));
        others.any(|task| !task.finished.get() && task.asleep.get().is_none())
    }

    /// Nobody is awake. Time passes to the next timer, if there is any; if there is none, and all
    /// have played their parts, the scene is over. Otherwise loom will find that all are stuck.
    fn go_on(&self) {
        let sleepers = self.sleepers.borrow().clone();
        let sleeps = |kind: Sleep| move |task: &&Rc<Task>| task.asleep.get() == Some(kind);
        let tasks = || sleepers.iter().map(|(_, task)| task);
        let first = [Sleep::Timed, Sleep::Nap, Sleep::Look];
        if let Some(task) = first.into_iter().find_map(|kind| tasks().find(sleeps(kind))) {
            let napping = task.asleep.get() == Some(Sleep::Nap);
            let excused = napping || self.fallen.get();
            assert!(excused || !self.no_timer_needed, "a wake-up was lost: all sleep");
            let needed = self.timers_needed.get() + 1;
            assert!(needed <= STUCK, "time goes by and nothing comes of it");
            self.timers_needed.set(needed);
            if needed > PATIENCE {
                task.late.set(true);
            }
            self.rouse(task, Roused::Timer);
        } else if tasks().all(|task| task.asleep.get() == Some(Sleep::Linger)) {
            for task in tasks() {
                self.rouse(task, Roused::Over);
            }
        }
    }
}
