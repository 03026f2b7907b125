//! A thread of the model, as its kernel and the oracle see it.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::thread::Thread as LoomThread;

use super::trace;
use crate::registry::Entry;

/// How a thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// Until it is woken.
    Indefinite,
    /// Until it is woken, or until a time.
    Timed,
    /// Until it is woken, or until it is time to check whether another thread is alive.
    Poll,
    /// Until a time.
    Fixed,
    /// Until the scene ends: the thread's body is done, and it only answers summonses.
    Idle,
}

impl Sleep {
    /// The event in the trace, where the address follows.
    pub(super) fn event(self) -> &'static str {
        match self {
            Self::Indefinite => "sleeps on",
            Self::Timed => "sleeps with a limit on",
            Self::Poll => "sleeps until its next poll on",
            Self::Fixed => "sleeps for a fixed time",
            Self::Idle => "idles",
        }
    }
}

/// What has ended a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WakeReason {
    Wake,
    Summons,
    Timer,
    /// The end of the scene or of the process.
    End,
}

impl WakeReason {
    /// The event in the trace, where the id of the running thread follows.
    pub(super) fn event(self) -> &'static str {
        match self {
            Self::Wake => "is woken by",
            Self::Summons => "is woken by a summons from",
            Self::Timer => "is woken by a timer, after the sleep of",
            Self::End => "is woken by the end, after",
        }
    }
}

pub(crate) struct Task {
    pub(crate) tid: u32,
    /// It existed when the exploration began.
    pub(crate) is_initial: bool,
    pub(super) thread: RefCell<Option<LoomThread>>,
    /// Incremented by each summons (Release), read by the thread (Acquire), so that loom tries both
    /// orders. The kernel passes a signal on under a lock.
    pub(super) signal: AtomicU32,
    /// How many summonses wait; read without a switch point.
    pub(super) pending: Cell<u32>,
    /// How many summonses the kernel has accepted for the thread.
    pub(crate) accepted: Cell<u32>,
    /// A summons was sent to the thread, accepted or not.
    pub(super) was_summoned: Cell<bool>,
    pub(super) blocks_summons: Cell<bool>,
    pub(super) in_handler: Cell<bool>,
    /// How much stack a handler finds.
    pub(crate) stack: Cell<usize>,
    pub(super) sleep: Cell<Option<Sleep>>,
    pub(super) wake_reason: Cell<WakeReason>,
    pub(super) woken: Cell<bool>,
    pub(super) deadline_passed: Cell<bool>,
    pub(super) exists: Cell<bool>,
    /// It has ended and is still counted.
    pub(super) is_zombie: Cell<bool>,
    /// It dies before it closes the gate for a round.
    pub(crate) dies_before_round: Cell<bool>,
    /// It died as the caller of a round.
    pub(super) died_in_round: Cell<bool>,
    /// It runs no more of the scene.
    pub(super) is_finished: Cell<bool>,
    pub(crate) entry: Cell<Option<NonNull<Entry>>>,
    /// The numbers of the calls that it has made or inherited, as decimal digits.
    pub(crate) credentials: Cell<u64>,
    /// Written by each call, read by user code: loom reports two accesses that nothing orders, in
    /// whatever order they came.
    pub(crate) access: UnsafeCell<()>,
}

impl Task {
    pub(super) fn new(tid: u32, parent: Option<&Self>) -> Self {
        Self {
            tid,
            is_initial: parent.is_none(),
            thread: RefCell::new(None),
            signal: AtomicU32::new(0),
            pending: Cell::new(0),
            accepted: Cell::new(0),
            was_summoned: Cell::new(false),
            blocks_summons: Cell::new(parent.is_some_and(|parent| parent.blocks_summons.get())),
            in_handler: Cell::new(false),
            stack: Cell::new(usize::MAX),
            sleep: Cell::new(None),
            wake_reason: Cell::new(WakeReason::Wake),
            woken: Cell::new(false),
            deadline_passed: Cell::new(false),
            exists: Cell::new(true),
            is_zombie: Cell::new(false),
            dies_before_round: Cell::new(false),
            died_in_round: Cell::new(false),
            is_finished: Cell::new(false),
            entry: Cell::new(None),
            credentials: Cell::new(parent.map_or(0, |parent| parent.credentials.get())),
            access: UnsafeCell::new(()),
        }
    }

    pub(crate) fn takes_summons(&self) -> bool {
        !self.blocks_summons.get() && !self.in_handler.get()
    }

    pub(crate) fn is_summoned(&self) -> bool {
        self.pending.get() > 0
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.exists.get() && !self.is_zombie.get()
    }

    /// Adds an event to the trace.
    pub(crate) fn log(&self, event: &'static str, value: u64) {
        trace::log(self, event, value);
    }

    pub(crate) fn finish(&self) {
        self.is_finished.set(true);
    }

    pub(crate) fn set_thread(&self, thread: LoomThread) {
        *self.thread.borrow_mut() = Some(thread);
    }
}
