//! What the model's kernel is free to do, and how often. loom decides.

use std::cell::Cell;

use loom::sync::atomic::{AtomicBool, Ordering};

/// What the kernel may do, or not do, as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whim {
    /// A sleep ends for no reason.
    SpuriousWake,
    /// A sleep with a limit reaches it.
    Timer,
    /// A thread that waits looks after another.
    Look,
    /// The deadline has passed.
    Deadline,
    /// A summons is refused.
    SendError,
    /// Another handler takes a summons.
    Loss,
    /// A target is killed as it summons another.
    Death,
}

impl Whim {
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::SpuriousWake => "wakes for no reason, chance",
            Self::Timer => "reaches a sleep's limit, chance",
            Self::Look => "looks, chance",
            Self::Deadline => "is late, chance",
            Self::SendError => "has a summons refused, chance",
            Self::Loss => "has a summons taken by another handler, chance",
            Self::Death => "is killed over a summons, chance",
        }
    }
}

/// What is asked of the machine of a model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Habits {
    /// How many occasions of each kind leave the kernel a choice: the first so many.
    pub(crate) spurious_wakes: usize,
    pub(crate) timers: usize,
    pub(crate) looks: usize,
    pub(crate) deadlines: usize,
    pub(crate) refusals: usize,
    pub(crate) losses: usize,
    pub(crate) deaths: usize,
    /// Where all sleep, and only a timer could go on, a wake-up was lost.
    pub(crate) no_timer_needed: bool,
    /// Loads see the newest value only.
    pub(crate) newest_only: bool,
    /// Each atomic operation of the protocol is a turn in which a summons may arrive.
    pub(crate) interrupted_everywhere: bool,
    /// Threads are counted and not listed.
    pub(crate) proc_out_of_reach: bool,
    /// No entry tells by itself whether its thread is dead.
    pub(crate) no_robust_mutexes: bool,
}

/// Decisions that loom takes: a load of a number that another thread has stored to with nothing in
/// between that orders the two may see the store or not.
struct Coins {
    whim: Whim,
    coins: Vec<AtomicBool>,
    tossed: Cell<usize>,
}

/// The decisions of one execution, of each kind as many as its habits say.
pub(super) struct Choices([Coins; 7]);

impl Choices {
    pub(super) fn new(habits: &Habits) -> Self {
        let kinds = [
            (Whim::SpuriousWake, habits.spurious_wakes),
            (Whim::Timer, habits.timers),
            (Whim::Look, habits.looks),
            (Whim::Deadline, habits.deadlines),
            (Whim::SendError, habits.refusals),
            (Whim::Loss, habits.losses),
            (Whim::Death, habits.deaths),
        ];
        Self(kinds.map(|(whim, number)| Coins {
            whim,
            coins: (0..number).map(|_| AtomicBool::new(false)).collect(),
            tossed: Cell::new(0),
        }))
    }

    /// Makes each a decision of loom's. Called once the threads have been spawned.
    pub(super) fn open(&self) {
        for coin in self.0.iter().flat_map(|coins| &coins.coins) {
            // Relaxed, and after the threads were spawned: they may see it or not.
            coin.store(true, Ordering::Relaxed);
        }
    }

    /// Decides; a turn of loom's, while occasions are left. Returns the number of the occasion if the
    /// kernel does what it may do.
    pub(super) fn decide(&self, whim: Whim) -> Option<u64> {
        let coins = self.0.iter().find(|coins| coins.whim == whim)?;
        let coin = coins.coins.get(coins.tossed.get())?;
        coins.tossed.set(coins.tossed.get() + 1);
        coin.load(Ordering::Relaxed).then_some(coins.tossed.get() as u64)
    }
}
