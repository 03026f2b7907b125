//! The names of the steps.

use std::fmt;

/// A step of [`Privileges`](super::Privileges). The order of the variants is the order in which steps are
/// made.
///
/// # Examples
///
/// ```
/// use psx::privileges::Step;
///
/// assert!(Step::Groups < Step::Uid);
/// assert_eq!(Step::NoNewPrivs.to_string(), "no_new_privs");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Step {
    /// `secure_bits`
    SecureBits,
    /// `keep_capabilities`
    KeepCapabilities,
    /// `bounding_set`
    BoundingSet,
    /// `groups`
    Groups,
    /// `gid`, `real_gid`, `effective_gid`, `saved_gid`
    Gid,
    /// `uid`, `real_uid`, `effective_uid`, `saved_uid`
    Uid,
    /// `keep_parent_death_signal`
    ParentDeathSignal,
    /// `capabilities`
    Capabilities,
    /// `ambient`
    Ambient,
    /// `no_new_privs`
    NoNewPrivs,
    /// `keep_dumpable`
    Dumpable,
    /// `landlock`
    Landlock,
    /// `seccomp`
    Seccomp,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SecureBits => "secure_bits",
            Self::KeepCapabilities => "keep_capabilities",
            Self::BoundingSet => "bounding_set",
            Self::Groups => "groups",
            Self::Gid => "gid",
            Self::Uid => "uid",
            Self::ParentDeathSignal => "keep_parent_death_signal",
            Self::Capabilities => "capabilities",
            Self::Ambient => "ambient",
            Self::NoNewPrivs => "no_new_privs",
            Self::Dumpable => "keep_dumpable",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        })
    }
}
