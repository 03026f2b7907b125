//! Why a step of `psx::Privileges` was refused before any thread was stopped: as data, and in words.

use std::{fmt, io};

/// A condition of a step of `psx::Privileges` that does not hold, found before any thread was
/// stopped. Printed, it says what is missing and what to do.
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
#[expect(missing_docs, reason = "the fields' names say it")]
pub enum Precondition {
    /// The step needs this capability, and the calling thread does not have it effective.
    MissingCapability { capability: CapabilityMask },
    /// 4294967295 is not an id: `setresuid(2)` and its siblings read it as "leave it as it is".
    NotAnId { kind: IdKind },
    /// Without the capability, an id can only become one of the thread's real, effective and saved
    /// ones, and this is none of them.
    IdNotPermitted { kind: IdKind, id: u32, capability: CapabilityMask },
    /// The calling thread's user namespace does not map this id (`user_namespaces(7)`).
    IdNotMapped { kind: IdKind, id: u32 },
    /// The calling thread's user namespace does not allow `setgroups(2)`.
    SetgroupsDenied,
    /// More groups than the kernel takes (`NGROUPS_MAX`).
    TooManyGroups { count: usize, limit: usize },
    /// The batch gives up user id 0, and these group ids (real, effective, saved) stay, one of them
    /// 0.
    GidKept { gids: [u32; 3] },
    /// The batch gives up user id 0 or group id 0, and these supplementary groups stay.
    GroupsKept { groups: Vec<u32> },
    /// The batch gives up user id 0, and because of a secure bit that was set before, these
    /// permitted capabilities stay.
    CapabilitiesKept { capabilities: CapabilityMask },
    /// These secure bits would change and are locked.
    SecureBitsLocked { bits: u32 },
    /// Capabilities are to be kept, and the secure bit that says so is locked.
    KeepCapabilitiesLocked,
    /// These capabilities are wanted, and the calling thread does not have them permitted.
    NotPermitted { capabilities: CapabilityMask },
    /// These capabilities would be effective without being permitted.
    EffectiveNotPermitted { capabilities: CapabilityMask },
    /// These capabilities cannot become inheritable: they are not inheritable already, and not both
    /// permitted and in the bounding set.
    NotInheritable { capabilities: CapabilityMask },
    /// These capabilities cannot become ambient: in the end they are not both permitted and
    /// inheritable.
    AmbientNotPermitted { capabilities: CapabilityMask },
    /// The secure bit `NO_CAP_AMBIENT_RAISE` forbids any ambient capability.
    AmbientRaiseForbidden,
    /// A process is made dumpable again only if no thread can have kept root, and
    /// `Coverage::Registered` does not prove that.
    DumpableUnproven,
    /// The step needs `no_new_privs`, or `CAP_SYS_ADMIN` after the steps before it.
    NeedsNoNewPrivs,
    /// A seccomp filter has from 1 to 4096 instructions (`BPF_MAXINSNS`).
    FilterLength { instructions: usize },
    /// The kernel refuses this instruction of a seccomp filter, counted from 0: it is none that
    /// filters may have, jumps or reads too far, or loads memory that has not been stored to.
    FilterInstruction { index: usize },
    /// The kernel has no Landlock, or has it switched off.
    LandlockUnavailable,
    /// The kernel's Landlock is older than flags are.
    LandlockFlagsUnsupported { abi: u32, needed: u32 },
    /// The descriptor is not one of a Landlock ruleset.
    NotARuleset,
}

impl Precondition {
    /// What kind of `io::Error` an error with this cause becomes.
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

/// Whether an id is a user's or a group's.
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
                "the calling thread does not have {capability} effective; start the program with it, \
                 or leave this step out"
            ),
            Self::NotAnId { kind } => write!(
                f,
                "4294967295 is not a {kind} id, the kernel reads it as \"leave it as it is\"; set \
                 another id"
            ),
            Self::IdNotPermitted { kind, id, capability } => write!(
                f,
                "the calling thread does not have {capability} effective, and {id} is none of its \
                 real, effective and saved {kind} ids; start the program with it, or set one of these \
                 ids"
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
                "this user namespace does not allow setgroups; keep the groups with .keep_groups(), or \
                 have a process with CAP_SETGID in the parent namespace write gid_map",
            ),
            Self::TooManyGroups { count, limit } => {
                write!(f, "{count} groups are more than the {limit} that the kernel takes")
            }
            Self::GidKept { gids: [real, effective, saved] } => write!(
                f,
                "the batch gives up user id 0 and keeps the group ids {real} {effective} {saved} \
                 (real, effective, saved); set them with .gid(), or say .keep_gid()"
            ),
            Self::GroupsKept { groups } => write!(
                f,
                "the batch gives up root and keeps the supplementary groups {}; set them with \
                 .groups() (&[] for none), or say .keep_groups()",
                FirstGroups(groups)
            ),
            Self::CapabilitiesKept { capabilities } => write!(
                f,
                "the batch gives up user id 0, and a secure bit that was set before keeps \
                 {capabilities}; say what stays with .capabilities(), or say .keep_capabilities()"
            ),
            Self::SecureBitsLocked { bits } => {
                write!(f, "the secure bits {bits:#x} would change and are locked; leave them as they are")
            }
            Self::KeepCapabilitiesLocked => f.write_str(
                "capabilities are to be kept, and the secure bit KEEP_CAPS is locked; lock it after \
                 the change of uid",
            ),
            Self::NotPermitted { capabilities } => write!(
                f,
                "{capabilities} cannot be set, since the calling thread does not have them permitted; \
                 ask for permitted ones only"
            ),
            Self::EffectiveNotPermitted { capabilities } => write!(
                f,
                "{capabilities} would be effective and not permitted; name them in both sets of \
                 .capabilities()"
            ),
            Self::NotInheritable { capabilities } => write!(
                f,
                "{capabilities} cannot become inheritable: they must be so already, or be both \
                 permitted and in the bounding set"
            ),
            Self::AmbientNotPermitted { capabilities } => write!(
                f,
                "{capabilities} cannot become ambient: they must be permitted and inheritable in the \
                 end; name them in both sets of .capabilities()"
            ),
            Self::AmbientRaiseForbidden => f.write_str(
                "the secure bit NO_CAP_AMBIENT_RAISE forbids ambient capabilities; set it afterwards",
            ),
            Self::DumpableUnproven => f.write_str(
                "a thread that is not registered may keep root, and Coverage::Registered does not \
                 prove that none does; use Coverage::Require, or leave keep_dumpable out",
            ),
            Self::NeedsNoNewPrivs => f.write_str(
                "needs no_new_privs, or CAP_SYS_ADMIN after the other steps; add .no_new_privs()",
            ),
            Self::FilterLength { instructions } => {
                write!(f, "a filter has 1 to 4096 instructions, and this one has {instructions}")
            }
            Self::FilterInstruction { index } => write!(
                f,
                "instruction {index} (from 0) is none that a filter may have, jumps or reads too \
                 far, or loads memory that has not been stored to; see seccomp(2)"
            ),
            Self::LandlockUnavailable => {
                f.write_str("this kernel has no Landlock, or has it switched off; leave the step out")
            }
            Self::LandlockFlagsUnsupported { abi, needed } => write!(
                f,
                "flags need Landlock ABI {needed}, and this kernel has {abi}; use LandlockFlags::NONE"
            ),
            Self::NotARuleset => f.write_str("the descriptor is not one of a Landlock ruleset"),
        }
    }
}

/// The first of a list that may have 65536 entries.
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

/// Capabilities by the kernel's numbers: bit `n` is the capability `n` of `linux/capability.h`.
/// Printed, their names; `CapabilitySet::from_bits_retain(mask.bits())` is the same set in rustix's
/// type.
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

/// By number, as `linux/capability.h` has them in Linux 6.18.
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
