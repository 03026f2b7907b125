//! The kernel's free choices and how many of them a scene leaves open. loom decides each.

use std::cell::Cell;

use loom::sync::atomic::{AtomicBool, Ordering};

/// An event that the kernel may or may not let happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A sleep ends without a wake-up.
    SpuriousWake,
    /// A sleep with a limit reaches it.
    Timer,
    /// A thread that waits checks whether another is alive.
    Poll,
    /// The deadline has passed.
    Deadline,
    /// A deadline that is earlier than another has passed, and the other has not.
    ShorterDeadline,
    /// A summons is refused.
    Refusal,
    /// Another handler takes a summons.
    Loss,
    /// A target dies as it summons another.
    Death,
}

impl Choice {
    /// The event in the trace, where the number of the choice follows.
    pub(super) fn event(self) -> &'static str {
        match self {
            Self::SpuriousWake => "wakes spuriously, choice",
            Self::Timer => "reaches a sleep's limit, choice",
            Self::Poll => "polls, choice",
            Self::Deadline => "passes its deadline, choice",
            Self::ShorterDeadline => "passes its shorter deadline, choice",
            Self::Refusal => "has a summons refused, choice",
            Self::Loss => "has a summons taken by another handler, choice",
            Self::Death => "dies as it summons, choice",
        }
    }
}

/// How the kernel of a scene behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Config {
    /// How many times the kernel has each choice. After that the event does not happen.
    pub(crate) spurious_wakes: usize,
    pub(crate) timers: usize,
    pub(crate) polls: usize,
    pub(crate) deadlines: usize,
    pub(crate) shorter_deadlines: usize,
    pub(crate) refusals: usize,
    pub(crate) losses: usize,
    pub(crate) deaths: usize,
    /// When every thread sleeps and only a timer could end that, a wake-up was lost.
    pub(crate) no_timer_needed: bool,
    /// Loads see the newest value only.
    pub(crate) newest_only: bool,
    /// A summons may arrive before each atomic operation of the protocol, and loom tries each.
    pub(crate) interrupted_everywhere: bool,
    /// Threads are counted and not listed.
    pub(crate) proc_out_of_reach: bool,
    /// No robust mutex shows that a thread is dead.
    pub(crate) no_robust_mutexes: bool,
}

/// The decisions about one kind of choice. Each is a load of a flag that another thread has stored to,
/// unordered with the load, so that loom explores both values.
struct Decisions {
    choice: Choice,
    flags: Vec<AtomicBool>,
    used: Cell<usize>,
}

/// The decisions of one execution, as many of each kind as the [`Config`] says.
pub(super) struct Choices([Decisions; 8]);

impl Choices {
    pub(super) fn new(config: &Config) -> Self {
        let kinds = [
            (Choice::SpuriousWake, config.spurious_wakes),
            (Choice::Timer, config.timers),
            (Choice::Poll, config.polls),
            (Choice::Deadline, config.deadlines),
            (Choice::ShorterDeadline, config.shorter_deadlines),
            (Choice::Refusal, config.refusals),
            (Choice::Loss, config.losses),
            (Choice::Death, config.deaths),
        ];
        Self(kinds.map(|(choice, number)| Decisions {
            choice,
            flags: (0..number).map(|_| AtomicBool::new(false)).collect(),
            used: Cell::new(0),
        }))
    }

    /// Leaves each decision to loom. Called after the threads have been spawned.
    pub(super) fn open(&self) {
        for flag in self.0.iter().flat_map(|decisions| &decisions.flags) {
            // Relaxed, and after the threads were spawned: `decide` may see either value.
            flag.store(true, Ordering::Relaxed);
        }
    }

    /// Decides, with a switch point of loom's while decisions are left. Returns the number of the decision if
    /// the event happens.
    pub(super) fn decide(&self, choice: Choice) -> Option<u64> {
        let decisions = self.0.iter().find(|decisions| decisions.choice == choice)?;
        let flag = decisions.flags.get(decisions.used.get())?;
        decisions.used.set(decisions.used.get() + 1);
        flag.load(Ordering::Relaxed).then_some(decisions.used.get() as u64)
    }
}
