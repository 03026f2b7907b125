//! Whether a fault is about that keeps rounds from happening: what a round may come to.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Goes round four phases: fair, a fault is coming, it is there, it is going. Whoever reads the
/// same number before and after a round knows that the phase lasted for the whole of it.
static PHASES: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn now() -> usize {
    PHASES.load(Ordering::SeqCst)
}

pub(crate) fn is_fair(phases: usize) -> bool {
    phases % 4 == 0
}

/// Whether the fault was there from `before` until now.
pub(crate) fn forbids_success(before: usize) -> bool {
    before % 4 == 2 && now() == before
}

/// Whether there was anything of a fault between `before` and now.
pub(crate) fn excuses_failure(before: usize) -> bool {
    !is_fair(before) || now() != before
}

/// A fault from its first sign to its last. Only one at a time.
pub(crate) struct Fault;

impl Fault {
    pub(crate) fn comes() -> Self {
        PHASES.fetch_add(1, Ordering::SeqCst);
        Self
    }

    /// From here on no round can succeed, until `ends`.
    pub(crate) fn is_there(&self) {
        PHASES.fetch_add(1, Ordering::SeqCst);
    }

    /// The fault is about to end.
    pub(crate) fn ends(&self) {
        PHASES.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        let phases = now();
        PHASES.store(phases.next_multiple_of(4), Ordering::SeqCst);
    }
}
