//! Who belongs to the process: an intrusive list of entries, one a thread, behind a gate that a
//! round closes.
//!
//! A thread inherits its privileges when it is cloned, so from before the `clone` until the child
//! is in the list no round may begin. The parent therefore takes a [`Pass`] through the gate before
//! it calls anything, and gives the child a second one, its ticket; a round begins only when every
//! pass is back. Whoever changes the list holds a pass, so a closed gate freezes the list too, and
//! whoever exits waits at the gate until the round is over, answering its summons there.

mod entry;
mod gate;
mod list;
mod lock;

use core::ptr::NonNull;
use core::time::Duration;

pub(crate) use entry::{Entry, Standing, Verdict};
pub(crate) use gate::{Closed, Gate, Pass};
pub(crate) use list::{Buried, List};
pub(crate) use lock::Lock;

use crate::round::Round;
use crate::sys::futex::Limit;
use crate::sys::{Kernel, const_on_linux};

/// How long a fork waits for the list, which nobody holds for longer than a few instructions.
const LIST_PATIENCE: Duration = Duration::from_millis(100);

/// The threads of a process, and the rounds that are run on them.
pub(crate) struct Registry {
    pub(crate) kernel: Kernel,
    pub(crate) gate: Gate,
    pub(crate) list: List,
    pub(crate) round: Round,
}

impl Registry {
    const_on_linux! {
        /// A registry without threads.
        pub(crate) fn new(kernel: Kernel) -> Self {
            Self { kernel, gate: Gate::new(), list: List::new(), round: Round::new() }
        }
    }

    /// Puts the entry into the list. The pass is what keeps a round from having begun without it.
    pub(crate) fn register(&self, entry: Box<Entry>, _: &Pass<'_>) -> NonNull<Entry> {
        self.list.insert(entry)
    }

    /// Takes an entry out of the list, after the last of its thread's code that is the program's.
    ///
    /// # Safety
    ///
    /// The entry is in the list, and the calling thread is its owner, or its owner is dead.
    pub(crate) unsafe fn unregister(&self, entry: NonNull<Entry>, _: &Pass<'_>) -> Box<Entry> {
        // SAFETY: in the list by our caller's promise; with a pass out no round is using the
        // frozen list (invariant I2).
        unsafe { self.list.remove(entry) }
    }

    /// Keeps `fork` from copying a round. Undone by one of the two below. Returns whether the list is
    /// kept from changing as well: not where its lock is not to be had soon, since whoever holds it
    /// may be waiting for another library's lock that this fork holds already.
    pub(crate) fn hold_for_fork(&self) -> bool {
        self.round.lock.acquire();
        self.list.lock.try_acquire(Limit::For(LIST_PATIENCE))
    }

    /// After the fork, in the parent.
    pub(crate) fn release_after_fork(&self, list_held: bool) {
        if list_held {
            self.list.lock.release();
        }
        self.round.lock.release();
    }

    /// After a fork, in the child: a registry of one, or of none where the forking thread was not
    /// registered. A list that was not held (`list_held`; a fork by a raw system call, say) may be
    /// torn, and is left behind as it lies.
    pub(crate) fn begin_anew_in_child(&self, me: Option<&Entry>, tid: u32, list_held: bool) {
        self.gate.begin_anew();
        if list_held {
            self.list.keep_only(me);
        } else {
            self.list.abandon_for(me);
        }
        if let Some(me) = me {
            me.begin_anew(tid, self.gate.generation());
        }
        self.round.begin_anew();
        self.list.lock.begin_anew();
        self.kernel.meet_child();
    }
}
