//! The threads of a model have no errno.

/// An errno to restore.
pub(crate) struct Saved;

impl Saved {
    pub(crate) fn new() -> Self {
        Self
    }
}
