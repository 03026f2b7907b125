//! `verify`: compares the steps of a batch with the state of every thread.

use std::{error, fmt, io};

use psx_core::{NamedThread, ThreadKind};

use super::caller_state::known_capabilities;
use super::user_namespace::may_stand_for_others;
use super::{IdKind, Ids, Privileges, ResIds, Step, threads};

/// A thread that does not show the effect of a step. For an example see [`VerifyError`]. `{}` and `{:?}`
/// print `thread 4711 (worker-1): uid`.
#[derive(Clone, PartialEq, Eq)]
pub struct Difference {
    /// The thread.
    pub thread: NamedThread,
    /// Whether broadcasts reach it.
    pub kind: ThreadKind,
    /// The step whose effect the thread does not show.
    pub step: Step,
}

/// Why [`Privileges::verify`] does not confirm the steps. `{:?}` prints the same sentence as `{}`.
///
/// # Examples
///
/// ```
/// use psx::privileges::{Difference, VerifyError};
///
/// fn log(error: &VerifyError) {
///     if let VerifyError::Different(differences) = error {
///         for Difference { thread, step, .. } in differences {
///             eprintln!("thread {thread} does not show the effect of {step}");
///         }
///     }
/// }
/// # log(&VerifyError::Different(Vec::new()));
/// ```
#[non_exhaustive]
pub enum VerifyError {
    /// The state of the threads cannot be read.
    Unreadable(io::Error),
    /// These threads do not show the effect of a step.
    Different(Vec<Difference>),
    /// Every thread shows the effect of the steps, but one of the ids proves nothing: the user namespace does
    /// not map every id, and the kernel shows each unmapped id as this one (`/proc/sys/kernel/overflowuid`
    /// and `overflowgid`, usually 65534). A thread that shows it may be the initial namespace's root. Use
    /// another id, or verify from the parent namespace.
    OverflowId {
        /// The step that sets the id.
        step: Step,
        /// The id.
        id: u32,
    },
}

impl Privileges {
    /// Reads the state of every thread of the process, registered or not, from the kernel and compares it
    /// with the steps.
    ///
    /// A thread that was not registered when the steps were made is among the
    /// [differences](VerifyError::Different), once for each step whose effect it does not show. Threads that
    /// have ended are skipped, and threads that the kernel created and that use no privileges of their own
    /// ([`ThreadKind::KernelWorker`]).
    ///
    /// If [`apply`](Self::apply) of this value has given up user id 0, the implied effects are checked too: no
    /// permitted and effective capabilities, no groups, no group id 0, each where the batch neither sets nor
    /// keeps them ([module](super#what-a-batch-may-not-leave-behind)).
    ///
    /// Checked are ids, groups, capabilities, `no_new_privs`, and whether a thread has any seccomp filter. The
    /// kernel does not show secure bits, kept capabilities, Landlock domains and parent-death signals of other
    /// threads.
    ///
    /// # Errors
    ///
    /// [`VerifyError::Different`] with the threads that differ; [`VerifyError::Unreadable`] if not all
    /// threads can be read: `/proc` is out of reach, as after a `chroot`, or belongs to a pid namespace that
    /// does not contain this process; [`VerifyError::OverflowId`] if no thread differs, and the user namespace
    /// makes one of the ids prove nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// let privileges = psx::Privileges::new().no_new_privs();
    /// privileges.apply()?;
    /// privileges.verify()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn verify(&self) -> Result<(), VerifyError> {
        let known = known_capabilities();
        let implied = self.implied.get().copied().unwrap_or_default();
        let mut differences = Vec::new();
        let threads = threads().map_err(VerifyError::Unreadable)?;
        for state in threads.iter().filter(|state| state.kind != ThreadKind::KernelWorker) {
            let mut expect = |step, holds: bool| {
                if !holds {
                    let (thread, kind) = (state.thread.clone(), state.kind);
                    differences.push(Difference { thread, kind, step });
                }
            };
            expect(
                Step::BoundingSet,
                self.bounding.is_none_or(|rest| rest.contains(state.bounding)),
            );
            let has_groups = match &self.groups {
                Some(groups) => sorted(groups) == sorted(&state.groups),
                None => state.groups.is_empty() || !implied.empties_groups,
            };
            expect(Step::Groups, has_groups);
            let gids = [state.gid.real, state.gid.effective, state.gid.saved];
            let left_0 = (0..3).all(|i| gids[i] != 0 || !implied.nonzero_gids[i]);
            expect(Step::Gid, self.gid.are(state.gid) && left_0);
            expect(Step::Uid, self.uid.are(state.uid));
            let has = state.capabilities;
            let is_set = self.capabilities.is_none_or(|sets| {
                has.effective == sets.effective & known
                    && has.permitted == sets.permitted & known
                    && has.inheritable == sets.inheritable & known
            });
            let is_empty = has.permitted.is_empty() && has.effective.is_empty();
            expect(Step::Capabilities, is_set && (is_empty || !implied.empties_capabilities));
            expect(Step::Ambient, self.ambient.is_none_or(|set| state.ambient == set & known));
            expect(Step::NoNewPrivs, state.no_new_privs || !self.no_new_privs);
            expect(Step::Seccomp, state.seccomp_filters > 0 || self.seccomp.is_none());
        }
        if !differences.is_empty() {
            return Err(VerifyError::Different(differences));
        }
        self.check_overflow_ids()
    }

    fn check_overflow_ids(&self) -> Result<(), VerifyError> {
        let (users, groups) = (self.uid.0, self.gid.0);
        let ids = users.into_iter().flatten().map(|id| (Step::Uid, IdKind::User, id));
        let ids = ids.chain(groups.into_iter().flatten().map(|id| (Step::Gid, IdKind::Group, id)));
        let groups = self.groups.iter().flatten();
        for (step, kind, id) in ids.chain(groups.map(|&id| (Step::Groups, IdKind::Group, id))) {
            if may_stand_for_others(kind, id).map_err(VerifyError::Unreadable)? {
                return Err(VerifyError::OverflowId { step, id });
            }
        }
        Ok(())
    }
}

impl ResIds {
    fn are(self, ids: Ids) -> bool {
        let [_, effective, _] = self.0;
        self.over([ids.real, ids.effective, ids.saved]) == [ids.real, ids.effective, ids.saved]
            // The kernel sets the file system id whenever it sets the effective one.
            && effective.is_none_or(|_| ids.filesystem == ids.effective)
    }
}

/// The kernel sorts groups and keeps duplicates.
fn sorted(groups: &[u32]) -> Vec<u32> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(e) => {
                write!(f, "the state of the threads cannot be read from /proc/self/task: {e}")
            }
            Self::OverflowId { step, id } => write!(
                f,
                "{step}: every thread shows id {id}, which proves nothing: the user namespace \
                 does not map every id, and the kernel shows unmapped ids as {id}; use another \
                 id, or verify from the parent namespace"
            ),
            Self::Different(differences) => {
                f.write_str("not every thread shows the effect of the steps")?;
                for difference in differences {
                    write!(f, "; {difference}")?;
                }
                if differences.iter().any(|d| d.kind == ThreadKind::Registered) {
                    f.write_str(
                        "; a registered thread was changed alone, or registered after the steps: \
                         apply them again",
                    )?;
                }
                let mut unregistered =
                    differences.iter().filter(|d| d.kind != ThreadKind::Registered);
                if unregistered.clone().any(|d| !d.thread.is_made_by_kernel()) {
                    f.write_str(
                        "; broadcasts do not reach unregistered threads: call \
                         psx::thread::adopt() in them, and apply the steps again",
                    )?;
                }
                if unregistered.any(|d| d.thread.is_made_by_kernel()) {
                    f.write_str(
                        "; the kernel created a thread for a ring or a device: close it, and \
                         open it again",
                    )?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { thread, kind, step } = self;
        let unreached = match kind {
            ThreadKind::Registered => "",
            _ => ", which is not registered",
        };
        write!(f, "thread {thread}{unreached}: {step}")
    }
}

impl fmt::Debug for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for VerifyError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Unreadable(e) => Some(e),
            Self::Different(_) | Self::OverflowId { .. } => None,
        }
    }
}
