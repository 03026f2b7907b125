//! A thread of a model: what the kernel and the one who judges the protocol know of it.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::thread::Thread as LoomThread;

use super::machine::tell;
use crate::registry::Entry;

/// How a thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// Until it is woken.
    Endless,
    /// Until it is woken, or for a time.
    Timed,
    /// Until it is woken, or for as long as a thread waits before it looks after another.
    Look,
    /// For a time.
    Nap,
    /// Until the scene is over: the thread has nothing to do but to answer.
    Linger,
}

impl Sleep {
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Endless => "sleeps on",
            Self::Timed => "sleeps for a time on",
            Self::Look => "sleeps until it looks, on",
            Self::Nap => "naps",
            Self::Linger => "lingers",
        }
    }
}

/// What has ended a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Roused {
    Wake,
    Summons,
    Timer,
    /// The end of the scene.
    Over,
}

impl Roused {
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Wake => "is woken by",
            Self::Summons => "is roused by a summons of",
            Self::Timer => "is roused by time, as there sleeps",
            Self::Over => "may end as does",
        }
    }
}

/// A thread, in the eyes of the kernel and of the one who judges the protocol.
pub(crate) struct Task {
    pub(crate) tid: u32,
    /// Was there when the exploration began.
    pub(crate) settled: bool,
    pub(super) thread: RefCell<Option<LoomThread>>,
    /// Counted up by each summons, taken by the thread: what makes loom try both orders. Release
    /// and Acquire, since the kernel carries a signal under a lock.
    pub(super) signal: AtomicU32,
    /// As many as `signal` says, to be seen without a turn of loom's.
    pub(super) pending: Cell<u32>,
    /// How many summonses the kernel has taken for it in all.
    pub(crate) accepted: Cell<u32>,
    /// A summons has been sent to it, whatever has become of that.
    pub(super) sent: Cell<bool>,
    pub(super) blocks: Cell<bool>,
    pub(super) handling: Cell<bool>,
    /// How much stack a handler finds.
    pub(crate) room: Cell<usize>,
    pub(super) asleep: Cell<Option<Sleep>>,
    pub(super) roused: Cell<Roused>,
    pub(super) woken: Cell<bool>,
    pub(super) late: Cell<bool>,
    /// It exists.
    pub(super) alive: Cell<bool>,
    /// It has ended, and is counted all the same.
    pub(super) zombie: Cell<bool>,
    /// It is to die before it closes the gate for a round.
    pub(crate) dies_early: Cell<bool>,
    /// It has died in a round that it led.
    pub(crate) fell: Cell<bool>,
    /// It runs no more of the model.
    pub(super) finished: Cell<bool>,
    pub(crate) entry: Cell<Option<NonNull<Entry>>>,
    /// The numbers of the calls that it has made or inherited, as decimal digits.
    pub(crate) credentials: Cell<u64>,
    /// Written at each call, read by each step of user code: loom reports any two that nothing
    /// orders, whatever the turns they came in.
    pub(crate) watch: UnsafeCell<()>,
}

impl Task {
    pub(crate) fn can_be_summoned(&self) -> bool {
        !self.blocks.get() && !self.handling.get()
    }

    pub(crate) fn is_summoned(&self) -> bool {
        self.pending.get() > 0
    }

    pub(crate) fn blocks_summons(&self) -> bool {
        self.blocks.get()
    }

    pub(crate) fn block_summons(&self, blocks: bool) {
        self.blocks.set(blocks);
    }

    pub(crate) fn has_slept(&self) {
        self.woken.set(true);
    }

    pub(crate) fn be_late(&self, late: bool) {
        self.late.set(late);
    }

    pub(crate) fn is_late(&self) -> bool {
        self.late.get()
    }

    /// Notes an event of the scene.
    pub(crate) fn tell(&self, what: &'static str, of: u64) {
        tell(self, what, of);
    }

    /// Runs nothing of the model.
    pub(crate) fn finish(&self) {
        self.finished.set(true);
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.get() && !self.zombie.get()
    }

    pub(crate) fn runs_as(&self, thread: LoomThread) {
        *self.thread.borrow_mut() = Some(thread);
    }
}
