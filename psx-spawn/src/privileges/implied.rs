//! The implied calls of a batch that gives up root, beside the steps that it names.
//!
//! The checks before the round look at the calling thread alone. Another thread may have secure bits,
//! supplementary groups or a group id that the calling thread does not have, and would keep a part of root by
//! them. So the batch makes these calls on every thread. On the calling thread they change nothing.

use std::array;

use rustix::thread::CapabilitiesSecureBits as SecureBits;

use super::Privileges;
use super::caller_state::CallerState;

/// The default, no implied call, unless the batch gives up user id 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Implied {
    /// Clears the permitted and effective capabilities. The inheritable ones stay.
    pub(super) empties_capabilities: bool,
    pub(super) empties_groups: bool,
    /// Which of the real, effective and saved group id must not be 0, because the batch neither sets it nor
    /// keeps it by name.
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
    /// Whether the batch sets secure bits that keep capabilities over a change of uid.
    pub(super) fn keeps_by_secure_bits(&self) -> bool {
        let keeping = SecureBits::KEEP_CAPS | SecureBits::NO_SETUID_FIXUP;
        self.secure_bits.is_some_and(|bits| bits.intersects(keeping))
    }
}
