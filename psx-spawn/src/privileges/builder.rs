//! The steps, one method each; those that set ids are in `ids`.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use super::filter::Filter;
use super::implied::Implied;
use super::{CapabilitySet, CapabilitySets, LandlockFlags, ResIds, SecureBits};

/// Steps that change what a process may do: made on every thread, in one stop, in the one order that
/// works.
///
/// A method called twice replaces what it said before. See the [module](super) for the order, and for
/// what happens when a step fails.
///
/// # Examples
///
/// Root becomes nobody, on every thread:
///
/// ```no_run
/// use psx::{CapabilitySets, Privileges};
///
/// let report = Privileges::new()
///     .no_new_privs()
///     .groups(&[65534])
///     .gid(65534)
///     .uid(65534)
///     .capabilities(CapabilitySets::empty())
///     .apply()?;
/// println!("{} threads are unprivileged now", report.threads());
/// # Ok::<(), psx::privileges::ApplyError>(())
/// ```
#[derive(Debug, Default)]
#[must_use = "nothing changes until `apply` is called"]
#[doc(alias = "drop_privileges")]
pub struct Privileges {
    pub(super) secure_bits: Option<SecureBits>,
    pub(super) keep_capabilities: bool,
    pub(super) bounding: Option<CapabilitySet>,
    pub(super) groups: Option<Vec<u32>>,
    pub(super) keep_groups: bool,
    pub(super) gid: ResIds,
    pub(super) keep_gid: bool,
    pub(super) uid: ResIds,
    pub(super) keep_parent_death_signal: bool,
    pub(super) keep_dumpable: bool,
    pub(super) capabilities: Option<CapabilitySets>,
    pub(super) ambient: Option<CapabilitySet>,
    pub(super) no_new_privs: bool,
    pub(super) landlock: Option<(OwnedFd, LandlockFlags)>,
    pub(super) seccomp: Option<Filter>,
    /// Set by the first batch that has given up root, for `verify`: afterwards no id tells that there
    /// was root.
    pub(super) implied: OnceLock<Implied>,
}

impl Privileges {
    /// No steps yet.
    ///
    /// # Examples
    ///
    /// ```
    /// let report = psx::Privileges::new().no_new_privs().apply()?;
    /// assert!(report.is_unanimous());
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the secure bits to exactly `bits`: how user id 0 and capabilities hang together
    /// (`capabilities(7)`). Needs `CAP_SETPCAP` on a thread whose bits change.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use psx::{Privileges, privileges::SecureBits};
    ///
    /// // No program started from here on gets capabilities for being root.
    /// Privileges::new().secure_bits(SecureBits::NO_ROOT | SecureBits::NO_ROOT_LOCKED).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "PR_SET_SECUREBITS")]
    pub fn secure_bits(mut self, bits: SecureBits) -> Self {
        self.secure_bits = Some(bits);
        self
    }

    /// Lets permitted capabilities survive this and later changes from root to another uid, until
    /// the next `execve`.
    ///
    /// Not needed for [`capabilities`](Self::capabilities), which sees to it for its own change.
    ///
    /// # Examples
    ///
    /// ```
    /// psx::Privileges::new().keep_capabilities().apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "PR_SET_KEEPCAPS")]
    pub fn keep_capabilities(mut self) -> Self {
        self.keep_capabilities = true;
        self
    }

    /// Takes from the bounding set what is not in `keep`, so that no `execve` brings it back. Needs
    /// `CAP_SETPCAP` on a thread that has such a capability in the set.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use psx::{CapabilitySet, Privileges};
    ///
    /// Privileges::new().bounding_set(CapabilitySet::NET_BIND_SERVICE).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "PR_CAPBSET_DROP")]
    pub fn bounding_set(mut self, keep: CapabilitySet) -> Self {
        self.bounding = Some(keep);
        self
    }

    /// Sets the capabilities: permitted, effective and inheritable. Giving up needs no privilege.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use psx::{CapabilitySet, CapabilitySets, Privileges};
    ///
    /// // Nobody, but one who may bind port 80.
    /// Privileges::new()
    ///     .groups(&[])
    ///     .gid(65534)
    ///     .uid(65534)
    ///     .capabilities(CapabilitySets::permitted_and_effective(CapabilitySet::NET_BIND_SERVICE))
    ///     .apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "capset")]
    #[doc(alias = "cap_set_proc")]
    pub fn capabilities(mut self, sets: impl Into<CapabilitySets>) -> Self {
        self.capabilities = Some(sets.into());
        self
    }

    /// Sets the ambient set, which programs started by `execve` get as permitted and effective. Each
    /// capability must be permitted and inheritable after [`capabilities`](Self::capabilities).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use psx::{CapabilitySet, CapabilitySets, Privileges};
    ///
    /// let bind = CapabilitySet::NET_BIND_SERVICE;
    /// let sets = CapabilitySets { inheritable: bind, ..CapabilitySets::permitted_and_effective(bind) };
    /// Privileges::new()
    ///     .groups(&[])
    ///     .gid(65534)
    ///     .uid(65534)
    ///     .capabilities(sets)
    ///     .ambient(bind)
    ///     .apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "PR_CAP_AMBIENT")]
    pub fn ambient(mut self, set: CapabilitySet) -> Self {
        self.ambient = Some(set);
        self
    }

    /// Forbids gaining privileges by `execve`, for good.
    ///
    /// # Examples
    ///
    /// ```
    /// psx::Privileges::new().no_new_privs().apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "PR_SET_NO_NEW_PRIVS")]
    pub fn no_new_privs(mut self) -> Self {
        self.no_new_privs = true;
        self
    }

    /// Puts every thread into the Landlock domain of `ruleset`, for good. Needs
    /// [`no_new_privs`](Self::no_new_privs), or `CAP_SYS_ADMIN` kept.
    ///
    /// From Landlock ABI 8 on (Linux 7.0) the kernel does it for all threads at once, by
    /// `LANDLOCK_RESTRICT_SELF_TSYNC`; before, the round does. A thread with a descriptor table of its own
    /// (`unshare` with `CLONE_FILES`) that has another file under the ruleset's number, or none, then
    /// diverges with `EBADF` ([`Divergence`](crate::Divergence)). [`kcmp(2)`] tells that: where a seccomp
    /// filter refuses it, or the kernel is built without it, such a thread is restricted by what it has
    /// under that number.
    ///
    /// [`kcmp(2)`]: https://man7.org/linux/man-pages/man2/kcmp.2.html
    ///
    /// The landlock crate's `RulesetCreated` becomes a descriptor by
    /// `Option::<OwnedFd>::from(created)`, with `None` where the kernel has no Landlock. A borrowed
    /// descriptor becomes one by
    /// [`try_clone_to_owned`](std::os::fd::BorrowedFd::try_clone_to_owned).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::os::fd::OwnedFd;
    ///
    /// use psx::privileges::{ApplyError, LandlockFlags};
    /// use psx::{Privileges, Report};
    ///
    /// fn sandbox(ruleset: OwnedFd) -> Result<Report, ApplyError> {
    ///     Privileges::new().no_new_privs().landlock(ruleset, LandlockFlags::NONE).apply()
    /// }
    /// ```
    #[doc(alias = "landlock_restrict_self")]
    pub fn landlock(mut self, ruleset: impl Into<OwnedFd>, flags: LandlockFlags) -> Self {
        self.landlock = Some((ruleset.into(), flags));
        self
    }

    /// Installs a seccomp filter on every thread, registered or not, by the kernel's own
    /// `SECCOMP_FILTER_FLAG_TSYNC`. Needs [`no_new_privs`](Self::no_new_privs), or `CAP_SYS_ADMIN`
    /// kept.
    ///
    /// The program is classic BPF. An instruction of the seccompiler crate has the same four fields. One
    /// that the kernel would refuse is found before the batch begins
    /// ([`FilterInstruction`](super::Precondition::FilterInstruction)), since the filter comes last.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // The shortest of all: everything is allowed.
    /// let allow = libc::sock_filter {
    ///     code: (libc::BPF_RET | libc::BPF_K) as u16,
    ///     jt: 0,
    ///     jf: 0,
    ///     k: libc::SECCOMP_RET_ALLOW,
    /// };
    /// psx::Privileges::new().no_new_privs().seccomp(&[allow]).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "SECCOMP_FILTER_FLAG_TSYNC")]
    pub fn seccomp(mut self, program: &[libc::sock_filter]) -> Self {
        self.seccomp = Some(Filter::new(program));
        self
    }
}
