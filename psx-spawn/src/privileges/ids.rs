//! The steps that set user and group ids, and what such a change takes away beside.

use super::Privileges;

/// The ids to set, real, effective and saved; none to leave one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ResIds(pub(super) [Option<u32>; 3]);

impl ResIds {
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }

    /// What the ids are once they have been set.
    pub(super) fn over(self, current: [u32; 3]) -> [u32; 3] {
        std::array::from_fn(|i| self.0[i].unwrap_or(current[i]))
    }
}

/// # User and group ids
///
/// A batch that gives up user id 0 names what becomes of root's other ids, or it is refused with
/// [`Precondition::GidKept`](super::Precondition::GidKept) or
/// [`GroupsKept`](super::Precondition::GroupsKept): a group id 0 that stays is set by
/// [`gid`](Self::gid) or kept by [`keep_gid`](Self::keep_gid), supplementary groups that stay are set
/// by [`groups`](Self::groups) or kept by [`keep_groups`](Self::keep_groups). User id 0 is given up
/// when one of the three ids was 0 and none is afterwards: [`effective_uid`](Self::effective_uid)
/// alone, which can be taken back, is not refused.
///
/// A change of the effective user or group id has three more effects (`commit_creds` in the kernel's
/// `kernel/cred.c`):
///
/// - The thread's parent-death signal is cleared ([`PR_SET_PDEATHSIG(2const)`]). See
///   [`keep_parent_death_signal`](Self::keep_parent_death_signal).
/// - The process gets the dumpability of `/proc/sys/fs/suid_dumpable`, usually 0: it writes no core,
///   its files in `/proc/self` belong to root, and other processes of the new user cannot trace it
///   ([`PR_SET_DUMPABLE(2const)`]). See [`keep_dumpable`](Self::keep_dumpable).
/// - The threads count against the new real user's `RLIMIT_NPROC` ([`setrlimit(2)`]), which
///   `CAP_SYS_RESOURCE` and `CAP_SYS_ADMIN` no longer lift once they are given up. The change itself
///   succeeds beyond the limit. From then on new threads and processes fail with `EAGAIN`, and so does
///   `execve` on a thread that has found the user beyond the limit when it changed ([`execve(2)`]).
///   Start threads before the change, or raise the limit before it.
///
/// [`PR_SET_PDEATHSIG(2const)`]: https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
/// [`PR_SET_DUMPABLE(2const)`]: https://man7.org/linux/man-pages/man2/PR_SET_DUMPABLE.2const.html
/// [`setrlimit(2)`]: https://man7.org/linux/man-pages/man2/setrlimit.2.html
/// [`execve(2)`]: https://man7.org/linux/man-pages/man2/execve.2.html
impl Privileges {
    /// Sets the supplementary groups, up to 65536. Needs `CAP_SETGID`, and a user namespace that
    /// allows `setgroups(2)`; a thread that has no groups and is to have none needs neither.
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

    /// Says that the supplementary groups stay as they are, which a batch that gives up root must
    /// say or set, as with `--keep-groups` of `setpriv(1)`. Changes nothing; [`groups`](Self::groups)
    /// goes before it.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // In a user namespace without setgroups, the groups cannot be given up.
    /// psx::Privileges::new().keep_groups().gid(1000).uid(1000).apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn keep_groups(mut self) -> Self {
        self.keep_groups = true;
        self
    }

    /// Sets the group id: real, effective and saved. Needs `CAP_SETGID`, unless it is one of the
    /// three already.
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

    /// Says that the group ids that the batch does not set stay as they are, though one is 0 and the
    /// batch gives up root. Changes nothing.
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

    /// Sets the user id: real, effective and saved. Needs `CAP_SETUID`, unless it is one of the
    /// three already.
    ///
    /// Where this gives up user id 0, the permitted and effective capabilities go with it, unless
    /// [`capabilities`](Self::capabilities), [`keep_capabilities`](Self::keep_capabilities) or
    /// [`secure_bits`](Self::secure_bits) of this batch say otherwise: if a secure bit that was set
    /// before would keep them, the batch is refused
    /// ([`CapabilitiesKept`](super::Precondition::CapabilitiesKept)). From one plain user to another
    /// the kernel leaves capabilities as they are.
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
    /// // Root puts its privileges aside for a while, on every thread, and takes them back.
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

    /// Gives each thread the parent-death signal back that it had before the batch changed its ids.
    ///
    /// A parent that ends within the batch, between the two, is missed: compare `getppid()` before
    /// and after.
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

    /// Gives the process the dumpability back that it had before the batch changed its ids.
    ///
    /// It is the process's, so it is set once, by the calling thread, after the round: processes of
    /// the new user may then trace this one, which they must not before the last thread has given up
    /// root, since all threads share their memory. For the same reason
    /// [`Coverage::Registered`](crate::Coverage::Registered) is refused
    /// ([`DumpableUnproven`](super::Precondition::DumpableUnproven)), and nothing is given back where
    /// the batch has failed half-way or a thread has not changed as the caller has
    /// ([`Divergence::Report`](crate::Divergence::Report)).
    ///
    /// What is given back is what the process had when every thread was stopped for the batch. A thread that
    /// sets it between the end of the round and the return of [`apply`](Self::apply) is overruled.
    ///
    /// Dumpability 2, which only the kernel sets, is not given back. Another process that shares the
    /// memory (`clone` with `CLONE_VM` and without `CLONE_THREAD`) is no thread of this one, and is not
    /// looked at.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// // Still writes a core, and can be profiled by its own user.
    /// psx::Privileges::new().groups(&[]).gid(65534).uid(65534).keep_dumpable().apply()?;
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    #[doc(alias = "PR_SET_DUMPABLE")]
    pub fn keep_dumpable(mut self) -> Self {
        self.keep_dumpable = true;
        self
    }
}
