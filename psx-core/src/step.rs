//! How a batch of steps can fail: here, and not beside `psx::Privileges`, because an
//! [`Error`](crate::Error) tells it.

use std::{error, fmt};

use crate::{Divergent, Errno, NamedThread, Precondition};

/// A step of `psx::Privileges`, declared in the order in which steps are made.
///
/// # Examples
///
/// ```
/// # mod psx { pub use psx_core::*; pub mod privileges { pub use psx_core::*; } }
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

/// Which step of a batch failed, why, and how far the batch had come: on every thread alike. `{:?}`
/// prints the same sentence as `{}`.
///
/// # Examples
///
/// ```
/// # mod psx { pub use psx_core::*; pub mod privileges { pub use psx_core::*; } }
/// use psx::Error;
/// use psx::privileges::Step;
///
/// fn is_harmless(error: &Error) -> bool {
///     match error {
///         Error::Step(e) => e.nothing_changed() || e.failed() == Step::Seccomp,
///         Error::Os(_) => false,
///         _ => true,
///     }
/// }
/// # assert!(is_harmless(&Error::Busy));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct StepError(Box<Failure>);

/// Boxed, so that a `Result` with the error stays small.
#[derive(Clone, PartialEq, Eq)]
struct Failure {
    step: Step,
    cause: Cause,
    completed: Vec<Step>,
    is_partial: bool,
    divergent: Vec<Divergent>,
}

/// Why a step failed.
///
/// # Examples
///
/// ```
/// # mod psx { pub mod privileges { pub use psx_core::*; } }
/// use psx::privileges::{Cause, IdKind, Precondition, StepError};
///
/// fn is_unmapped_user(error: &StepError) -> bool {
///     matches!(
///         error.cause(),
///         Cause::Precondition(Precondition::IdNotMapped { kind: IdKind::User, .. })
///     )
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The kernel refused it on the calling thread, which makes each step first.
    Kernel(Errno),
    /// A condition of the step does not hold. Found before any thread was stopped, so that nothing
    /// has changed.
    Precondition(Precondition),
    /// The kernel could not give this thread the same seccomp filters: it has some that the calling
    /// thread does not have.
    Unsynced(NamedThread),
}

impl StepError {
    /// For psx itself: users get these, and make none.
    #[doc(hidden)]
    #[must_use]
    pub fn new(
        failed: Step,
        cause: Cause,
        completed: Vec<Step>,
        divergent: Vec<Divergent>,
    ) -> Self {
        Self(Box::new(Failure { step: failed, cause, completed, is_partial: false, divergent }))
    }

    /// For psx itself: some calls of the failed step were made.
    #[doc(hidden)]
    #[must_use]
    pub fn with_partial(mut self, is_partial: bool) -> Self {
        self.0.is_partial = is_partial;
        self
    }

    /// The step that failed.
    #[must_use]
    pub fn failed(&self) -> Step {
        self.0.step
    }

    /// Why it failed.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }

    /// The steps that took effect before it, in order, on every thread. A step of several calls
    /// (`bounding_set`, `ambient`) that failed on the way is not among them, and has gone equally far
    /// on every thread: [`is_partial`](Self::is_partial). That this list is empty does not mean that
    /// nothing changed; [`nothing_changed`](Self::nothing_changed) tells that.
    #[must_use]
    pub fn completed(&self) -> &[Step] {
        &self.0.completed
    }

    /// Whether a part of the failed step took effect, on every thread: some capabilities of `bounding_set` have
    /// been dropped, or the ambient set was cleared and not all of `ambient` could be raised.
    ///
    /// # Examples
    ///
    /// ```
    /// # mod psx { pub mod privileges { pub use psx_core::*; } }
    /// use psx::privileges::{Step, StepError};
    ///
    /// fn may_lack_ambient_capabilities(error: &StepError) -> bool {
    ///     error.failed() == Step::Ambient && error.is_partial()
    /// }
    /// ```
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.0.is_partial
    }

    /// Whether every thread is as it was: no step took effect, and no part of one.
    ///
    /// # Examples
    ///
    /// ```
    /// # mod psx { pub use psx_core::*; pub mod privileges { pub use psx_core::*; } }
    /// use psx::Error;
    ///
    /// fn may_go_on(error: &Error) -> bool {
    ///     matches!(error, Error::Step(e) if e.nothing_changed())
    /// }
    /// # assert!(!may_go_on(&Error::Busy));
    /// ```
    #[must_use]
    pub fn nothing_changed(&self) -> bool {
        self.0.completed.is_empty() && !self.0.is_partial
    }

    /// The threads for which the steps before it went otherwise. Empty unless the batch ran under
    /// [`Divergence::Report`](crate::Divergence::Report).
    #[must_use]
    pub fn divergent(&self) -> &[Divergent] {
        &self.0.divergent
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nothing_changed() {
            f.write_str("no step took effect: ")?;
        } else if self.0.completed.is_empty() {
            write!(f, "every thread has made a part of {} and no more: ", self.0.step)?;
        } else {
            f.write_str("every thread has made the steps ")?;
            for (i, step) in self.0.completed.iter().enumerate() {
                write!(f, "{}{step}", if i > 0 { ", " } else { "" })?;
            }
            if self.0.is_partial {
                write!(f, ", a part of {}", self.0.step)?;
            }
            f.write_str(" and no more: ")?;
        }
        match &self.0.cause {
            Cause::Kernel(errno) => write!(f, "the kernel refused {}: {errno}", self.0.step)?,
            Cause::Precondition(unmet) => write!(f, "{}: {unmet}", self.0.step)?,
            Cause::Unsynced(thread) => write!(
                f,
                "{}: thread {thread} has filters that the calling thread does not have; install \
                 every filter on all threads at once",
                self.0.step
            )?,
        }
        if !self.nothing_changed() {
            f.write_str("; end the process rather than go on half-way")?;
        }
        for divergent in &self.0.divergent {
            write!(f, "; {divergent}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for StepError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.0.cause {
            Cause::Kernel(errno) => Some(errno),
            _ => None,
        }
    }
}
