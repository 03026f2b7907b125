//! Whether a fault prevents rounds, and so what a round may return.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Cycles through four phases: no fault, a fault begins, it prevents rounds, it ends. The same number before
/// and after a round means that the phase lasted for the whole of it.
static PHASES: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn now() -> usize {
    PHASES.load(Ordering::SeqCst)
}

pub(crate) fn is_clear(phases: usize) -> bool {
    phases % 4 == 0
}

/// Whether the fault has prevented rounds from `before` until now.
pub(crate) fn forbids_success(before: usize) -> bool {
    before % 4 == 2 && now() == before
}

/// Whether there was a fault at any time between `before` and now.
pub(crate) fn excuses_failure(before: usize) -> bool {
    !is_clear(before) || now() != before
}

/// A fault. There is one at a time.
pub(crate) struct Fault;

impl Fault {
    pub(crate) fn begin() -> Self {
        PHASES.fetch_add(1, Ordering::SeqCst);
        Self
    }

    /// From now on no round can succeed, until `ends`.
    pub(crate) fn prevents_rounds(&self) {
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
