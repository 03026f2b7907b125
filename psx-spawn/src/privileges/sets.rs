//! The three capability sets of `capset(2)`.

use rustix::thread::CapabilitySet;

/// The three capability sets of a thread that `capset(2)` sets, see `capabilities(7)`.
///
/// # Examples
///
/// ```
/// use psx::{CapabilitySet, CapabilitySets};
///
/// let bind = CapabilitySet::NET_BIND_SERVICE;
/// let usable = CapabilitySets::permitted_and_effective(bind);
/// let sets = CapabilitySets { inheritable: bind, ..usable };
/// assert_eq!(sets.effective, sets.inheritable);
/// assert_ne!(sets, CapabilitySets::empty());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CapabilitySets {
    /// The capabilities that the kernel checks.
    pub effective: CapabilitySet,
    /// The capabilities that the thread may make effective.
    pub permitted: CapabilitySet,
    /// The capabilities that `execve` may preserve.
    pub inheritable: CapabilitySet,
}

impl CapabilitySets {
    /// No capabilities.
    #[must_use]
    pub const fn empty() -> Self {
        Self::permitted_and_effective(CapabilitySet::empty())
    }

    /// These capabilities permitted and effective, and none inheritable.
    #[must_use]
    pub const fn permitted_and_effective(set: CapabilitySet) -> Self {
        Self { effective: set, permitted: set, inheritable: CapabilitySet::empty() }
    }
}

impl From<rustix::thread::CapabilitySets> for CapabilitySets {
    fn from(sets: rustix::thread::CapabilitySets) -> Self {
        Self { effective: sets.effective, permitted: sets.permitted, inheritable: sets.inheritable }
    }
}

impl From<CapabilitySets> for rustix::thread::CapabilitySets {
    fn from(sets: CapabilitySets) -> Self {
        Self { effective: sets.effective, permitted: sets.permitted, inheritable: sets.inheritable }
    }
}

/// The capabilities in `set`, one by one, including those without a name in rustix.
pub(super) fn each(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    (0..u64::BITS)
        .map(|number| CapabilitySet::from_bits_retain(1 << number))
        .filter(move |&one| set.contains(one))
}
