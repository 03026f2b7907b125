//! The API in which psx-loom-tests writes its scenes, as `process.rs` is the API of programs.
//!
//! | file | concept |
//! |---|---|
//! | `mod.rs` | a [`Model`]: how a scene is explored |
//! | `scene` | a [`Scene`]: its threads, and the oracle |
//! | `thread` | a [`Thread`]: what its body can do |
//! | `call` | a round's call, as a [`CallBehavior`] describes it |

mod call;
mod scene;
mod thread;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::call::CallBehavior;
pub use self::scene::Scene;
pub use self::thread::Thread;
use crate::sys::choice::Config;
pub use crate::sys::fault::{APPLIES, Fault};
use crate::sys::machine::Machine;
use crate::sys::{fault, trace};

/// How a scene is explored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Model {
    config: Config,
    preemptions: Option<usize>,
    fault: Option<Fault>,
}

impl Model {
    /// A kernel without free choices, and all schedules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first `count` sleeps may end without a wake-up.
    #[must_use]
    pub fn spurious_wakes(mut self, count: usize) -> Self {
        self.config.spurious_wakes = count;
        self
    }

    /// The first `count` sleeps that have a limit may reach it.
    #[must_use]
    pub fn timers(mut self, count: usize) -> Self {
        self.config.timers = count;
        self
    }

    /// The first `count` sleeps of threads that poll the caller may end in a poll at once.
    #[must_use]
    pub fn polls(mut self, count: usize) -> Self {
        self.config.polls = count;
        self
    }

    /// The first `count` times that a thread reads whether its deadline has passed, it may have.
    #[must_use]
    pub fn deadlines(mut self, count: usize) -> Self {
        self.config.deadlines = count;
        self
    }

    /// The first `count` times that a thread reads whether a deadline has passed that comes before another,
    /// as a pause does, it may have passed alone.
    #[must_use]
    pub fn shorter_deadlines(mut self, count: usize) -> Self {
        self.config.shorter_deadlines = count;
        self
    }

    /// The first `count` summonses may be refused because the queue is full.
    #[must_use]
    pub fn refusals(mut self, count: usize) -> Self {
        self.config.refusals = count;
        self
    }

    /// The first `count` summonses may be taken by another handler.
    #[must_use]
    pub fn losses(mut self, count: usize) -> Self {
        self.config.losses = count;
        self
    }

    /// The first `count` summonses that a target sends may kill it.
    #[must_use]
    pub fn deaths(mut self, count: usize) -> Self {
        self.config.deaths = count;
        self
    }

    /// Fails when every thread sleeps and only a timer could end that: a wake-up was lost.
    #[must_use]
    pub fn no_timer_needed(mut self) -> Self {
        self.config.no_timer_needed = true;
        self
    }

    /// Loads see the newest value, even where their ordering allows older ones. For scenes of many
    /// threads, which have many schedules; smaller scenes explore the orderings.
    #[must_use]
    pub fn newest_values_only(mut self) -> Self {
        self.config.newest_only = true;
        self
    }

    /// A summons may arrive before each atomic operation of the protocol, and loom tries each.
    /// (Otherwise loom tries the scene's own points, and a summons that has been sent arrives before
    /// the next operation.)
    #[must_use]
    pub fn interrupted_everywhere(mut self) -> Self {
        self.config.interrupted_everywhere = true;
        self
    }

    /// The kernel counts the threads and cannot list them: `/proc` is out of reach.
    #[must_use]
    pub fn proc_out_of_reach(mut self) -> Self {
        self.config.proc_out_of_reach = true;
        self
    }

    /// No thread can lock a robust mutex, so entries do not show that their threads are dead. Not every
    /// libc, nor every thread, has a robust list that psx can use.
    #[must_use]
    pub fn no_robust_mutexes(mut self) -> Self {
        self.config.no_robust_mutexes = true;
        self
    }

    /// Explores only schedules that preempt threads at most `bound` times.
    #[must_use]
    pub fn preemptions(mut self, bound: usize) -> Self {
        self.preemptions = Some(bound);
        self
    }

    /// Explores with a rule of the protocol removed.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Explores the scene that `setup` builds, and returns the number of interleavings.
    ///
    /// # Panics
    ///
    /// In the first interleaving in which an assertion fails, after it has printed the trace.
    pub fn explore(self, setup: impl Fn(&Scene) + Send + Sync + 'static) -> u64 {
        let interleavings = Arc::new(AtomicU64::new(0));
        let mut builder = loom::model::Builder::new();
        builder.expect_explicit_explore = true;
        builder.max_branches = 20_000;
        builder.preemption_bound = builder.preemption_bound.or(self.preemptions);
        let counter = Arc::clone(&interleavings);
        fault::activate(self.fault);
        let explored = panic::catch_unwind(AssertUnwindSafe(move || {
            builder.check(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                Scene::new(Machine::start(self.config)).run(&setup);
            });
        }));
        fault::activate(None);
        if let Err(cause) = explored {
            eprintln!("the interleaving that failed:\n{}", trace::text());
            panic::resume_unwind(cause);
        }
        interleavings.load(Ordering::Relaxed)
    }
}
