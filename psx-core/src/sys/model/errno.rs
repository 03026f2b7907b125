//! No thread of a model has an errno.

/// What would be put back.
pub(crate) struct Saved;

impl Saved {
    pub(crate) fn new() -> Self {
        Self
    }
}
