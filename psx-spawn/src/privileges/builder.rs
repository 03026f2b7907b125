//! The builder and its steps, one method each; those that set ids are in `ids`.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use super::filter::Filter;
use super::implied::Implied;
use super::{CapabilitySet, CapabilitySets, LandlockFlags, ResIds, SecureBits};

/// Steps that change the privileges of a process, made on every thread, in one stop, in the one order
/// that works.
///
/// A second call of a method replaces the first. See the [module](super) for the order and for the effect of
/// a failed step.
///
/// # Examples
///
/// Root becomes the user 65534, on every thread:
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
/// println!("{} threads are unprivileged", report.threads());
/// # Ok::<(), psx::privileges::ApplyError>(())
/// ```
#[derive(Debug, Default)]
#[must_use = "no step is made until `apply` is called"]
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
    /// For `verify`. Set when the batch has given up root for the first time, because the ids do not show
    /// this afterwards.
    pub(super) implied: OnceLock<Implied>,
}

impl Privileges {
    /// A batch without steps.
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

    /// Sets the secure bits to exactly `bits`: they decide how user id 0 affects capabilities
    /// (`capabilities(7)`). Needs `CAP_SETPCAP` on a thread whose bits change.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use psx::{Privileges, privileges::SecureBits};
    ///
    /// // From now on `execve` gives no capabilities to user id 0.
    /// Privileges::new().secure_bits(SecureBits::NO_ROOT | SecureBits::NO_ROOT_LOCKED).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "PR_SET_SECUREBITS")]
    pub fn secure_bits(mut self, bits: SecureBits) -> Self {
        self.secure_bits = Some(bits);
        self
    }

    /// Keeps permitted capabilities over this and later changes from root to another uid, until the next
    /// `execve`.
    ///
    /// Not needed with [`capabilities`](Self::capabilities), which keeps its own over the batch's change.
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

    /// Drops from the bounding set all capabilities that are not in `keep`, so that no `execve` can gain
    /// them. Needs `CAP_SETPCAP` on a thread that has such a capability in the set.
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

    /// Sets the permitted, effective and inheritable capabilities. Removing capabilities needs no privilege.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use psx::{CapabilitySet, CapabilitySets, Privileges};
    ///
    /// // The user 65534 with the capability to bind port 80.
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

    /// Sets the ambient set, which `execve` adds to the new program's permitted and effective set. Each
    /// capability must be permitted and inheritable after [`capabilities`](Self::capabilities).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use psx::{CapabilitySet, CapabilitySets, Privileges};
    ///
    /// let bind = CapabilitySet::NET_BIND_SERVICE;
    /// let usable = CapabilitySets::permitted_and_effective(bind);
    /// let sets = CapabilitySets { inheritable: bind, ..usable };
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

    /// Forbids gaining privileges by `execve`, permanently.
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

    /// Restricts every thread by the Landlock `ruleset`, permanently. Needs
    /// [`no_new_privs`](Self::no_new_privs), or `CAP_SYS_ADMIN` after the other steps.
    ///
    /// From Landlock ABI 8 on (Linux 7.0) the kernel restricts all threads at once, by
    /// `LANDLOCK_RESTRICT_SELF_TSYNC`. On older kernels the round restricts each thread. A thread with its own
    /// descriptor table (`unshare` with `CLONE_FILES`) that has another file under the ruleset's number, or
    /// none, then diverges with `EBADF` ([`Divergence`](crate::Divergence)). psx compares the files by
    /// [`kcmp(2)`]: if a seccomp filter refuses it, or the kernel is built without it, such a thread is
    /// restricted by the ruleset that it has under that number.
    ///
    /// [`kcmp(2)`]: https://man7.org/linux/man-pages/man2/kcmp.2.html
    ///
    /// `Option::<OwnedFd>::from(created)` converts the landlock crate's `RulesetCreated`; it is `None` if the
    /// kernel has no Landlock.
    /// [`try_clone_to_owned`](std::os::fd::BorrowedFd::try_clone_to_owned) converts a borrowed descriptor.
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

    /// Installs a seccomp filter on every thread, registered or not, by the kernel's
    /// `SECCOMP_FILTER_FLAG_TSYNC`. Needs [`no_new_privs`](Self::no_new_privs), or `CAP_SYS_ADMIN` after the
    /// other steps.
    ///
    /// The program is classic BPF. An instruction of the seccompiler crate has the same four fields. Because
    /// the filter is installed last, psx checks every instruction before the batch begins
    /// ([`FilterInstruction`](super::Precondition::FilterInstruction)).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // The shortest filter: it allows every call.
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
