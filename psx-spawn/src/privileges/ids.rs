//! The steps that set user and group ids, and those that undo the side effects of such a change.

use super::Privileges;

/// The real, effective and saved id to set; `None` leaves one unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ResIds(pub(super) [Option<u32>; 3]);

impl ResIds {
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }

    /// The ids after the change of `current`.
    pub(super) fn over(self, current: [u32; 3]) -> [u32; 3] {
        std::array::from_fn(|i| self.0[i].unwrap_or(current[i]))
    }
}

/// # User and group ids
///
/// A batch that gives up user id 0 must name root's other ids, or it is refused with
/// [`Precondition::GidKept`](super::Precondition::GidKept) or
/// [`GroupsKept`](super::Precondition::GroupsKept): it sets a group id 0 by [`gid`](Self::gid) or keeps it
/// by [`keep_gid`](Self::keep_gid), and sets supplementary groups by [`groups`](Self::groups) or keeps them
/// by [`keep_groups`](Self::keep_groups). A batch gives up user id 0 if one of the three ids is 0 before it
/// and none afterwards: a change of [`effective_uid`](Self::effective_uid) alone, which can be undone, is not
/// refused.
///
/// A change of the effective user or group id has three side effects (`commit_creds` in the kernel's
/// `kernel/cred.c`):
///
/// - The thread's parent-death signal is cleared ([`PR_SET_PDEATHSIG(2const)`]). See
///   [`keep_parent_death_signal`](Self::keep_parent_death_signal).
/// - The process gets the dumpability of `/proc/sys/fs/suid_dumpable`, usually 0: it writes no core,
///   its files in `/proc/self` belong to root, and other processes of the new user cannot trace it
///   ([`PR_SET_DUMPABLE(2const)`]). See [`keep_dumpable`](Self::keep_dumpable).
/// - The threads count against the new real user's `RLIMIT_NPROC` ([`setrlimit(2)`]), from which
///   `CAP_SYS_RESOURCE` and `CAP_SYS_ADMIN` no longer exempt them once they are given up. The change itself
///   succeeds beyond the limit. From then on starting threads and processes fails with `EAGAIN`, and so does
///   `execve` on a thread that exceeded the limit when it changed ([`execve(2)`]). Start threads, or raise
///   the limit, before the change.
///
/// [`PR_SET_PDEATHSIG(2const)`]: https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
/// [`PR_SET_DUMPABLE(2const)`]: https://man7.org/linux/man-pages/man2/PR_SET_DUMPABLE.2const.html
/// [`setrlimit(2)`]: https://man7.org/linux/man-pages/man2/setrlimit.2.html
/// [`execve(2)`]: https://man7.org/linux/man-pages/man2/execve.2.html
impl Privileges {
    /// Sets the supplementary groups, up to 65536. Needs `CAP_SETGID`, and a user namespace that
    /// allows `setgroups(2)`; `.groups(&[])` needs neither on a thread that has no groups.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// psx::Privileges::new().groups(&[]).gid(65534).uid(65534).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "setgroups")]
    pub fn groups(mut self, groups: &[u32]) -> Self {
        self.groups = Some(groups.to_vec());
        self
    }

    /// Allows the batch to give up root and keep the supplementary groups, as `--keep-groups` of
    /// `setpriv(1)`. Changes nothing itself; [`groups`](Self::groups) overrides it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // In a user namespace that denies setgroups, the groups cannot be given up.
    /// psx::Privileges::new().keep_groups().gid(1000).uid(1000).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn keep_groups(mut self) -> Self {
        self.keep_groups = true;
        self
    }

    /// Sets the real, effective and saved group id. Needs `CAP_SETGID`, unless `gid` is one of the three
    /// already.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// psx::Privileges::new().groups(&[]).gid(65534).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "setresgid")]
    #[doc(alias = "setgid")]
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = ResIds([Some(gid); 3]);
        self
    }

    /// Allows the batch to give up root and keep a group id 0 that it does not set. Changes nothing itself.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // The program's socket belongs to root's group.
    /// psx::Privileges::new().groups(&[]).keep_gid().uid(65534).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn keep_gid(mut self) -> Self {
        self.keep_gid = true;
        self
    }

    /// Sets the real group id alone.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// psx::Privileges::new().real_gid(1000).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn real_gid(mut self, gid: u32) -> Self {
        self.gid.0[0] = Some(gid);
        self
    }

    /// Sets the effective group id alone.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// psx::Privileges::new().effective_gid(1000).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn effective_gid(mut self, gid: u32) -> Self {
        self.gid.0[1] = Some(gid);
        self
    }

    /// Sets the saved group id alone.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// psx::Privileges::new().saved_gid(1000).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn saved_gid(mut self, gid: u32) -> Self {
        self.gid.0[2] = Some(gid);
        self
    }

    /// Sets the real, effective and saved user id. Needs `CAP_SETUID`, unless `uid` is one of the three
    /// already.
    ///
    /// If this gives up user id 0, the permitted and effective capabilities are cleared, unless
    /// [`capabilities`](Self::capabilities), [`keep_capabilities`](Self::keep_capabilities) or
    /// [`secure_bits`](Self::secure_bits) of this batch keep them. If a secure bit that was set earlier would
    /// keep them, the batch is refused ([`CapabilitiesKept`](super::Precondition::CapabilitiesKept)). A
    /// change from one user to another, neither of them root, leaves capabilities unchanged.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// psx::Privileges::new().groups(&[]).gid(65534).uid(65534).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "setresuid")]
    #[doc(alias = "setuid")]
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = ResIds([Some(uid); 3]);
        self
    }

    /// Sets the real user id alone.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// psx::Privileges::new().real_uid(1000).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn real_uid(mut self, uid: u32) -> Self {
        self.uid.0[0] = Some(uid);
        self
    }

    /// Sets the effective user id alone.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // Root gives up its privileges for a while, on every thread, and takes them back.
    /// psx::Privileges::new().effective_uid(1000).apply()?;
    /// psx::Privileges::new().effective_uid(0).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn effective_uid(mut self, uid: u32) -> Self {
        self.uid.0[1] = Some(uid);
        self
    }

    /// Sets the saved user id alone.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// psx::Privileges::new().saved_uid(1000).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn saved_uid(mut self, uid: u32) -> Self {
        self.uid.0[2] = Some(uid);
        self
    }

    /// Restores on each thread the parent-death signal that it had before the batch changed its ids.
    ///
    /// If the parent ends between the change and the restoration, no signal is sent: compare `getppid()`
    /// before and after.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::os::unix::process::parent_id;
    ///
    /// let parent = parent_id();
    /// psx::Privileges::new()
    ///     .groups(&[])
    ///     .gid(65534)
    ///     .uid(65534)
    ///     .keep_parent_death_signal()
    ///     .apply()?;
    /// if parent_id() != parent {
    ///     std::process::exit(1);
    /// }
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "PR_SET_PDEATHSIG")]
    pub fn keep_parent_death_signal(mut self) -> Self {
        self.keep_parent_death_signal = true;
        self
    }

    /// Restores the dumpability that the process had before the batch changed its ids.
    ///
    /// Dumpability belongs to the process, so the calling thread sets it once, after the round. Processes of
    /// the new user may trace this process from then on. They must not before the last thread has given up
    /// root, since all threads share their memory. Therefore
    /// [`Coverage::Registered`](crate::Coverage::Registered) is refused
    /// ([`DumpableUnproven`](super::Precondition::DumpableUnproven)), and nothing is restored if a step failed
    /// or a thread diverged ([`Divergence::Report`](crate::Divergence::Report)).
    ///
    /// The restored value is the one that the process had when every thread was stopped for the batch. It
    /// overwrites a value that a thread sets between the end of the round and the return of
    /// [`apply`](Self::apply).
    ///
    /// Dumpability 2, which only the kernel sets, is not restored. Another process that shares the memory
    /// (`clone` with `CLONE_VM` and without `CLONE_THREAD`) is not a thread of this process, and is not
    /// checked.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // The process still writes a core, and its user can profile it.
    /// psx::Privileges::new().groups(&[]).gid(65534).uid(65534).keep_dumpable().apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "PR_SET_DUMPABLE")]
    pub fn keep_dumpable(mut self) -> Self {
        self.keep_dumpable = true;
        self
    }
}
