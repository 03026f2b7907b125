//! What a batch that gives up root does on every thread beside the steps that it names.
//!
//! The checks before the round look at the calling thread alone. Another thread may have secure bits,
//! supplementary groups or a group id that the calling thread does not have, and would keep with them a
//! part of root that the calling thread is refused, or has not. So the batch makes these calls on every
//! thread. On the calling thread they change nothing.

use std::array;

use rustix::thread::CapabilitiesSecureBits as SecureBits;

use super::Privileges;
use super::caller_state::CallerState;

/// Nothing, unless the batch gives up user id 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Implied {
    /// Empties the permitted and effective capabilities. The inheritable ones stay.
    pub(super) empties_capabilities: bool,
    pub(super) empties_groups: bool,
    /// The real, effective and saved group id: those that the batch leaves as they are, and that must
    /// not be 0.
    pub(super) nonzero_gids: [bool; 3],
}

impl Implied {
    pub(super) fn new(wanted: &Privileges, caller: &CallerState) -> Self {
        if !caller.leaves_root(wanted) {
            return Self::default();
        }
        Self {
            empties_capabilities: wanted.capabilities.is_none()
                && !wanted.keep_capabilities
                && !wanted.keeps_by_secure_bits(),
            empties_groups: wanted.groups.is_none()
                && !wanted.keep_groups
                && caller.groups.is_empty(),
            nonzero_gids: array::from_fn(|i| !wanted.keep_gid && wanted.gid.0[i].is_none()),
        }
    }
}

impl Privileges {
    /// Whether the batch itself sets secure bits by which a change of uid keeps capabilities.
    pub(super) fn keeps_by_secure_bits(&self) -> bool {
        let keeping = SecureBits::KEEP_CAPS | SecureBits::NO_SETUID_FIXUP;
        self.secure_bits.is_some_and(|bits| bits.intersects(keeping))
    }
}
