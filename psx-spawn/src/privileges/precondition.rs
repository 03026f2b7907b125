//! The conditions that psx checks before it stops any thread, and the names of capabilities.

use std::{fmt, io};

/// A condition of a step of [`Privileges`](super::Privileges) that does not hold, found before any thread
/// was stopped. `{}` prints what is missing and what to do.
///
/// # Examples
///
/// ```
/// use psx::privileges::{CapabilityMask, Precondition};
///
/// let setgid = CapabilityMask::from_bits(1 << 6);
/// let missing = Precondition::MissingCapability { capability: setgid };
/// assert!(missing.to_string().contains("CAP_SETGID"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the variants describe their fields")]
pub enum Precondition {
    /// The step needs this capability in the effective set of the calling thread.
    MissingCapability { capability: CapabilityMask },
    /// 4294967295 is not an id: `setresuid(2)` and similar calls read it as "leave unchanged".
    NotAnId { kind: IdKind },
    /// Without the capability, a thread can set only its real, effective and saved ids, and this is none of
    /// them.
    IdNotPermitted { kind: IdKind, id: u32, capability: CapabilityMask },
    /// The user namespace does not map this id (`user_namespaces(7)`).
    IdNotMapped { kind: IdKind, id: u32 },
    /// The user namespace denies `setgroups(2)`.
    SetgroupsDenied,
    /// More groups than the kernel allows (`NGROUPS_MAX`).
    TooManyGroups { count: usize, limit: usize },
    /// The batch gives up user id 0 and keeps these group ids (real, effective, saved), one of which is 0.
    GidKept { gids: [u32; 3] },
    /// The batch gives up user id 0 or group id 0 and keeps these supplementary groups.
    GroupsKept { groups: Vec<u32> },
    /// The batch gives up user id 0 and keeps these permitted capabilities, because of a secure bit that was
    /// set before.
    CapabilitiesKept { capabilities: CapabilityMask },
    /// The step would change these secure bits, which are locked.
    SecureBitsLocked { bits: u32 },
    /// The batch keeps capabilities, and the secure bit `KEEP_CAPS` is locked.
    KeepCapabilitiesLocked,
    /// The calling thread does not have these capabilities permitted.
    NotPermitted { capabilities: CapabilityMask },
    /// These capabilities would be effective without being permitted.
    EffectiveNotPermitted { capabilities: CapabilityMask },
    /// These capabilities cannot become inheritable: they are neither inheritable already, nor both permitted
    /// and in the bounding set.
    NotInheritable { capabilities: CapabilityMask },
    /// These capabilities cannot become ambient: after the other steps they are not both permitted and
    /// inheritable.
    AmbientNotPermitted { capabilities: CapabilityMask },
    /// The secure bit `NO_CAP_AMBIENT_RAISE` forbids any ambient capability.
    AmbientRaiseForbidden,
    /// `keep_dumpable` needs the proof that no thread has kept root, and `Coverage::Registered` does not give
    /// it.
    DumpableUnproven,
    /// The step needs `no_new_privs`, or `CAP_SYS_ADMIN` after the other steps.
    NeedsNoNewPrivs,
    /// A seccomp filter has from 1 to 4096 instructions (`BPF_MAXINSNS`).
    FilterLength { instructions: usize },
    /// The kernel refuses this instruction of a seccomp filter, counted from 0: it is not allowed in filters,
    /// jumps or reads out of range, or loads a word of memory before a store to it.
    FilterInstruction { index: usize },
    /// The kernel has no Landlock, or it is disabled.
    LandlockUnavailable,
    /// The kernel's Landlock ABI is too old for flags.
    LandlockFlagsUnsupported { abi: u32, needed: u32 },
    /// The descriptor is not a Landlock ruleset.
    NotARuleset,
}

impl Precondition {
    /// The kind of the `io::Error` that an error with this cause converts to.
    pub(super) fn io_kind(&self) -> io::ErrorKind {
        match self {
            Self::MissingCapability { .. }
            | Self::IdNotPermitted { .. }
            | Self::SetgroupsDenied
            | Self::SecureBitsLocked { .. }
            | Self::KeepCapabilitiesLocked
            | Self::NotPermitted { .. }
            | Self::NeedsNoNewPrivs => io::ErrorKind::PermissionDenied,
            Self::LandlockUnavailable | Self::LandlockFlagsUnsupported { .. } => {
                io::ErrorKind::Unsupported
            }
            _ => io::ErrorKind::InvalidInput,
        }
    }
}

/// Whether an id is a user id or a group id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdKind {
    /// A user id.
    User,
    /// A group id.
    Group,
}

impl fmt::Display for IdKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Group => "group",
        })
    }
}

impl fmt::Display for Precondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingCapability { capability } => write!(
                f,
                "the calling thread does not have {capability} effective; start the program with \
                 it, or leave this step out"
            ),
            Self::NotAnId { kind } => write!(
                f,
                "4294967295 is not a {kind} id: the kernel reads it as \"leave unchanged\"; set \
                 another id"
            ),
            Self::IdNotPermitted { kind, id, capability } => write!(
                f,
                "the calling thread does not have {capability} effective, and {id} is not its \
                 real, effective or saved {kind} id; start the program with it, or set one of \
                 these ids"
            ),
            Self::IdNotMapped { kind, id } => write!(
                f,
                "this user namespace maps no {kind} id {id}; set an id that /proc/self/{}id_map \
                 lists, or map this one from outside",
                match kind {
                    IdKind::User => 'u',
                    IdKind::Group => 'g',
                },
            ),
            Self::SetgroupsDenied => f.write_str(
                "this user namespace denies setgroups; keep the groups with .keep_groups(), or \
                 have a process with CAP_SETGID in the parent namespace write gid_map",
            ),
            Self::TooManyGroups { count, limit } => {
                write!(f, "{count} groups exceed the kernel's limit of {limit}; set fewer")
            }
            Self::GidKept { gids: [real, effective, saved] } => write!(
                f,
                "the batch gives up user id 0 and keeps the group ids {real} {effective} {saved} \
                 (real, effective, saved); set them with .gid(), or add .keep_gid()"
            ),
            Self::GroupsKept { groups } => write!(
                f,
                "the batch gives up root and keeps the supplementary groups {}; set them with \
                 .groups() (&[] for none), or add .keep_groups()",
                FirstGroups(groups)
            ),
            Self::CapabilitiesKept { capabilities } => write!(
                f,
                "the batch gives up user id 0, and a secure bit that was set before keeps \
                 {capabilities}; set them with .capabilities(), or add .keep_capabilities()"
            ),
            Self::SecureBitsLocked { bits } => {
                write!(
                    f,
                    "the secure bits {bits:#x} would change and are locked; leave them unchanged"
                )
            }
            Self::KeepCapabilitiesLocked => f.write_str(
                "the batch keeps capabilities, and the secure bit KEEP_CAPS is locked; lock it \
                 after the change of uid",
            ),
            Self::NotPermitted { capabilities } => write!(
                f,
                "the calling thread does not have {capabilities} permitted; set only \
                 capabilities that are permitted"
            ),
            Self::EffectiveNotPermitted { capabilities } => write!(
                f,
                "{capabilities} would be effective and not permitted; put them in both sets of \
                 .capabilities()"
            ),
            Self::NotInheritable { capabilities } => write!(
                f,
                "{capabilities} cannot become inheritable; they must be inheritable already, or \
                 both permitted and in the bounding set"
            ),
            Self::AmbientNotPermitted { capabilities } => write!(
                f,
                "{capabilities} cannot become ambient: they would not be both permitted and \
                 inheritable; put them in both sets of .capabilities()"
            ),
            Self::AmbientRaiseForbidden => f.write_str(
                "the secure bit NO_CAP_AMBIENT_RAISE forbids ambient capabilities; set it \
                 afterwards",
            ),
            Self::DumpableUnproven => f.write_str(
                "under Coverage::Registered an unregistered thread may keep root; use \
                 Coverage::Require, or leave keep_dumpable out",
            ),
            Self::NeedsNoNewPrivs => f.write_str(
                "the step needs no_new_privs, or CAP_SYS_ADMIN after the other steps; add \
                 .no_new_privs()",
            ),
            Self::FilterLength { instructions } => {
                write!(f, "a filter has 1 to 4096 instructions, and this one has {instructions}")
            }
            Self::FilterInstruction { index } => write!(
                f,
                "instruction {index} (counted from 0) is not allowed in a filter, jumps or reads \
                 out of range, or loads a word of memory before a store to it; see seccomp(2)"
            ),
            Self::LandlockUnavailable => {
                f.write_str("this kernel has no Landlock, or it is disabled; leave the step out")
            }
            Self::LandlockFlagsUnsupported { abi, needed } => write!(
                f,
                "flags need Landlock ABI {needed}, and this kernel has ABI {abi}; use \
                 LandlockFlags::NONE"
            ),
            Self::NotARuleset => f.write_str(
                "the descriptor is not a Landlock ruleset; pass one from landlock_create_ruleset",
            ),
        }
    }
}

/// Shows the first groups of a list of up to 65536.
struct FirstGroups<'g>(&'g [u32]);

impl fmt::Display for FirstGroups<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 16;
        for (i, group) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{group}", if i > 0 { ", " } else { "" })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Capabilities by the kernel's numbers: bit `n` is the capability `n` of `linux/capability.h`. `{}` prints
/// their names. `CapabilitySet::from_bits_retain(mask.bits())` is the same set in rustix's type.
///
/// # Examples
///
/// ```
/// use psx::privileges::CapabilityMask;
///
/// let mask = CapabilityMask::from_bits(1 << 10 | 1 << 60);
/// assert_eq!(mask.to_string(), "CAP_NET_BIND_SERVICE, capability 60");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CapabilityMask(u64);

impl CapabilityMask {
    /// The set with these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The set as bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// The names by number, from `linux/capability.h` of Linux 6.18.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

impl fmt::Display for CapabilityMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("no capability");
        }
        let numbers = (0..64).filter(|number| self.0 & 1 << number != 0);
        for (i, number) in numbers.enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            match NAMES.get(number) {
                Some(name) => f.write_str(name)?,
                None => write!(f, "capability {number}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CapabilityMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
