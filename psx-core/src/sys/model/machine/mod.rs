//! The process of one execution of a model.
//!
//! | file | concept |
//! |---|---|
//! | `mod.rs` | the machine, and what the atomics ask of it |
//! | `tasks` | threads start and end; the kernel counts them |
//! | `signal` | a summons is sent, arrives, is answered |
//! | `sleep` | sleeps, wake-ups, and time |

mod signal;
mod sleep;
mod tasks;

use std::cell::{Cell, RefCell};
use std::panic;
use std::rc::Rc;

use loom::sync::atomic::AtomicU32;
use loom::thread::{self, Thread as LoomThread};

use super::choice::{Choice, Choices, Config};
use super::task::Task;
use super::trace;
use crate::runtime::Runtime;
use crate::sys::Kernel;

thread_local! {
    /// The machine of the current execution. All threads of a model run on one OS thread.
    static MACHINE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
    /// Whether loads see the newest value only.
    static NEWEST: Cell<bool> = const { Cell::new(false) };
}

pub(crate) struct Machine {
    pub(crate) runtime: &'static Runtime,
    /// loom's thread that sets the scene up, and waits for its end.
    setup_thread: LoomThread,
    tasks: RefCell<Vec<Rc<Task>>>,
    /// Address and thread, in the order in which the threads fell asleep.
    sleepers: RefCell<Vec<(usize, Rc<Task>)>>,
    /// The kernel's thread count. A change is a switch point of loom's.
    count: AtomicU32,
    choices: Choices,
    /// How many summonses are pending, over all threads.
    pending: Cell<u32>,
    /// How many sleeps only a timer could end.
    timers_needed: Cell<u32>,
    no_timer_needed: bool,
    interrupted_everywhere: bool,
    lists_threads: bool,
    /// A signal that was sent may be lost, so that another is sent.
    loses_summonses: bool,
    pub(super) no_robust_mutexes: bool,
    /// Another handler has taken a summons, and is installed in place of psx's.
    pub(super) handler_replaced: Cell<bool>,
    /// A thread that has died unwinds, or has unwound.
    has_unwound: Cell<bool>,
    /// A caller has died in its round.
    caller_died: Cell<bool>,
    /// The process has ended because of that.
    has_ended: Cell<bool>,
    found_dead: Cell<Option<u32>>,
    /// The calls that callers have made, as the decimal digits of their numbers.
    pub(crate) history: Cell<u64>,
}

impl Machine {
    /// A machine without threads, for the execution that begins.
    pub(crate) fn start(config: Config) -> Rc<Self> {
        let machine = Rc::new(Self {
            runtime: Box::leak(Box::new(Runtime::new(Kernel))),
            setup_thread: thread::current(),
            tasks: RefCell::default(),
            sleepers: RefCell::default(),
            count: AtomicU32::new(0),
            choices: Choices::new(&config),
            pending: Cell::new(0),
            timers_needed: Cell::new(0),
            no_timer_needed: config.no_timer_needed,
            interrupted_everywhere: config.interrupted_everywhere,
            lists_threads: !config.proc_out_of_reach,
            loses_summonses: config.losses > 0 || config.deaths > 0,
            no_robust_mutexes: config.no_robust_mutexes,
            handler_replaced: Cell::new(false),
            has_unwound: Cell::new(false),
            caller_died: Cell::new(false),
            has_ended: Cell::new(false),
            found_dead: Cell::new(None),
            history: Cell::new(0),
        });
        MACHINE.set(Some(Rc::clone(&machine)));
        trace::clear();
        NEWEST.set(config.newest_only);
        machine
    }

    /// Runs the threads to their ends.
    pub(crate) fn run(&self) {
        self.choices.open();
        loom::explore();
        while self.tasks.borrow().iter().any(|task| !task.is_finished.get()) {
            thread::park();
        }
    }

    /// Frees the runtime. Only the setup thread is left.
    pub(crate) fn stop(self: Rc<Self>) {
        // SAFETY: leaked by `start`, and no other thread is left to use it.
        drop(unsafe { Box::from_raw(core::ptr::from_ref(self.runtime).cast_mut()) });
        MACHINE.set(None);
    }

    /// The running thread, or `None` for the setup thread.
    pub(crate) fn me(&self) -> Option<Rc<Task>> {
        let id = thread::current().id();
        let tasks = self.tasks.borrow();
        let is_me = |task: &&Rc<Task>| {
            task.thread.borrow().as_ref().is_some_and(|thread| thread.id() == id)
        };
        tasks.iter().find(is_me).cloned()
    }

    /// Whether an event that the kernel may let happen does. A switch point of loom's, while decisions
    /// are left.
    pub(crate) fn choose(&self, choice: Choice) -> bool {
        let decided = self.choices.decide(choice);
        if let (Some(number), Some(me)) = (decided, self.me()) {
            me.log(choice.event(), number);
        }
        decided.is_some()
    }
}

/// The machine of this execution.
pub(crate) fn get() -> Rc<Machine> {
    MACHINE.with_borrow(|machine| machine.clone().expect("inside a model"))
}

/// The panic payload that unwinds a thread which has died, or whose process has ended: loom offers no
/// other way off its stack. Operations of an unwinding thread have no effect, see [`is_current_dead`].
pub(crate) struct ThreadDeath;

/// Whether the running thread is dead, and unwinds. If the process has ended, a living thread dies and
/// unwinds here.
pub(crate) fn is_current_dead() -> bool {
    let machine = MACHINE.with_borrow(Clone::clone);
    let Some(machine) = machine.filter(|m| m.has_ended.get() || m.has_unwound.get()) else {
        return false;
    };
    let Some(me) = machine.me() else { return false };
    if machine.has_ended.get() && me.is_alive() {
        machine.die(&me);
        panic::resume_unwind(Box::new(ThreadDeath));
    }
    !me.is_alive()
}

/// Called before each atomic operation of the protocol: answers a pending summons. Returns whether the
/// thread is dead, and the operation must have no effect.
pub(crate) fn before_operation() -> bool {
    if is_current_dead() {
        return true;
    }
    let machine = MACHINE.with_borrow(Clone::clone);
    let Some(machine) = machine.filter(|m| m.interrupted_everywhere || m.pending.get() > 0) else {
        return false;
    };
    if let Some(me) = machine.me() {
        if machine.interrupted_everywhere {
            machine.signal_point(&me);
        } else if me.takes_summons() && me.is_summoned() {
            machine.answer_summonses(&me);
        }
    }
    false
}

/// Whether loads see the newest value only.
pub(super) fn reads_newest() -> bool {
    NEWEST.get()
}

/// Whether the running thread has slept since the last call.
pub(super) fn take_woken() -> bool {
    get().me().is_some_and(|me| me.woken.take())
}

/// Whether [`take_found_dead`] would return a thread.
pub(super) fn has_found_dead() -> bool {
    get().found_dead.get().is_some()
}

/// The thread that was last found dead, once.
pub(super) fn take_found_dead() -> Option<u32> {
    get().found_dead.take()
}
