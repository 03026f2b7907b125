//! Why a batch failed, and how many of its steps every thread has completed.

use std::{error, fmt, io};

use super::{Precondition, Step};
use crate::{Divergent, Errno, Error, NamedThread};

/// Why [`Privileges::apply`](super::Privileges::apply) failed.
///
/// On error, every thread has completed the same steps, those that the error lists: usually none.
/// [`nothing_changed`](Self::nothing_changed) tells whether there are any.
///
/// # Examples
///
/// ```
/// use psx::Error;
/// use psx::privileges::{ApplyError, Step};
///
/// fn may_continue(error: &ApplyError) -> bool {
///     match error {
///         ApplyError::Step(e) => e.nothing_changed() || e.failed() == Step::Seccomp,
///         _ => error.nothing_changed(),
///     }
/// }
/// # assert!(may_continue(&Error::Busy.into()));
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ApplyError {
    /// The threads could not be stopped together, so no thread made any step. Never [`Error::Os`].
    Broadcast(Error),
    /// A step failed.
    Step(StepError),
}

impl ApplyError {
    /// Whether no step took effect on any thread, not even a part of one.
    ///
    /// # Examples
    ///
    /// ```
    /// use psx::Privileges;
    ///
    /// match Privileges::new().no_new_privs().apply() {
    ///     Ok(report) => println!("{} threads", report.threads()),
    ///     Err(e) if e.nothing_changed() => eprintln!("{e}"),
    ///     Err(e) => panic!("{e}"),
    /// }
    /// ```
    #[must_use]
    pub fn nothing_changed(&self) -> bool {
        match self {
            Self::Broadcast(_) => true,
            Self::Step(error) => error.nothing_changed(),
        }
    }
}

impl From<Error> for ApplyError {
    fn from(error: Error) -> Self {
        Self::Broadcast(error)
    }
}

impl From<StepError> for ApplyError {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broadcast(error) => fmt::Display::fmt(error, f),
            Self::Step(error) => fmt::Display::fmt(error, f),
        }
    }
}

/// The variant's name and the [`Display`](fmt::Display) text, as for [`Error`]: a `main` that returns the
/// error prints this.
impl fmt::Debug for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broadcast(error) => fmt::Debug::fmt(error, f),
            Self::Step(error) => write!(f, "Step: {error}"),
        }
    }
}

/// Transparent: the source is that of the wrapped error.
impl error::Error for ApplyError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Broadcast(error) => error.source(),
            Self::Step(error) => error.source(),
        }
    }
}

impl From<ApplyError> for io::Error {
    /// Keeps the whole error, as the conversion of [`Error`] does. That of a
    /// [`Broadcast`](ApplyError::Broadcast) keeps the [`Error`] alone, as if a
    /// [`Broadcast`](crate::Broadcast) had returned it.
    fn from(error: ApplyError) -> Self {
        let kind = match &error {
            ApplyError::Broadcast(error) => return error.clone().into(),
            ApplyError::Step(step) => match step.cause() {
                Cause::Kernel(errno) => Self::from(*errno).kind(),
                Cause::Precondition(unmet) => unmet.io_kind(),
                Cause::Unsynced(_) => io::ErrorKind::Other,
            },
        };
        Self::new(kind, error)
    }
}

/// Which step of a batch failed, why, and which steps every thread completed before it. `{:?}` prints the
/// same sentence as `{}`.
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
    /// The kernel refused the step on the calling thread, which makes each step first.
    Kernel(Errno),
    /// A condition of the step does not hold. Found before any thread was stopped, so nothing has
    /// changed.
    Precondition(Precondition),
    /// The kernel could not synchronise the seccomp filters: this thread has filters that the calling
    /// thread does not have.
    Unsynced(NamedThread),
}

impl StepError {
    pub(super) fn new(step: Step, cause: Cause, completed: Vec<Step>) -> Self {
        Self(Box::new(Failure { step, cause, completed, is_partial: false, divergent: Vec::new() }))
    }

    /// Some calls of the failed step were made.
    pub(super) fn with_partial(mut self, is_partial: bool) -> Self {
        self.0.is_partial = is_partial;
        self
    }

    pub(super) fn with_divergent(mut self, divergent: Vec<Divergent>) -> Self {
        self.0.divergent = divergent;
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

    /// The steps that took effect on every thread before it failed, in order.
    ///
    /// A step of several calls (`bounding_set`, `ambient`) that failed after the first is not listed, and
    /// stopped at the same call on every thread: [`is_partial`](Self::is_partial). So an empty list does
    /// not mean that nothing changed: [`nothing_changed`](Self::nothing_changed) tells that.
    #[must_use]
    pub fn completed(&self) -> &[Step] {
        &self.0.completed
    }

    /// Whether a part of the failed step took effect, on every thread: `bounding_set` dropped some
    /// capabilities, or `ambient` cleared the set and did not raise all of its capabilities.
    ///
    /// # Examples
    ///
    /// ```
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

    /// Whether no step took effect on any thread, not even a part of one.
    ///
    /// # Examples
    ///
    /// ```
    /// use psx::privileges::ApplyError;
    ///
    /// fn is_refused_step(error: &ApplyError) -> bool {
    ///     matches!(error, ApplyError::Step(e) if e.nothing_changed())
    /// }
    /// # assert!(!is_refused_step(&psx::Error::Busy.into()));
    /// ```
    #[must_use]
    pub fn nothing_changed(&self) -> bool {
        self.0.completed.is_empty() && !self.0.is_partial
    }

    /// The threads whose result of the completed steps differs from the caller's. Empty unless the batch
    /// ran under [`Divergence::Report`](crate::Divergence::Report).
    #[must_use]
    pub fn divergent(&self) -> &[Divergent] {
        &self.0.divergent
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.failed();
        if self.nothing_changed() {
            f.write_str("nothing changed: ")?;
        } else {
            f.write_str("every thread completed only ")?;
            for (i, step) in self.completed().iter().enumerate() {
                write!(f, "{}{step}", if i > 0 { ", " } else { "" })?;
            }
            if self.is_partial() {
                let comma = if self.completed().is_empty() { "" } else { ", " };
                write!(f, "{comma}a part of {step}")?;
            }
            f.write_str(": ")?;
        }
        match self.cause() {
            Cause::Kernel(errno) => write!(f, "the kernel refused {step}: {errno}")?,
            Cause::Precondition(unmet) => write!(f, "{step}: {unmet}")?,
            Cause::Unsynced(thread) => write!(
                f,
                "{step}: thread {thread} has filters that the calling thread does not have; \
                 install every filter on all threads at once"
            )?,
        }
        if !self.nothing_changed() {
            f.write_str("; end the process, since these steps cannot be undone")?;
        }
        for divergent in self.divergent() {
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
        match self.cause() {
            Cause::Kernel(errno) => Some(errno),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENIED: Errno = Errno::from_raw(libc::EPERM);

    fn half_way() -> StepError {
        StepError::new(Step::Uid, Cause::Kernel(DENIED), vec![Step::Groups, Step::Gid])
    }

    #[test]
    fn text_lists_the_completed_steps() {
        let text = half_way().to_string();
        assert!(text.starts_with("every thread completed only groups, gid: "), "{text}");
        assert!(text.contains("the kernel refused uid: ") && text.contains("; end"), "{text}");
        let text = half_way().with_partial(true).to_string();
        assert!(
            text.starts_with("every thread completed only groups, gid, a part of uid: "),
            "{text}"
        );
        let first = StepError::new(Step::Uid, Cause::Kernel(DENIED), Vec::new());
        assert!(
            first.to_string().starts_with("nothing changed: the kernel refused uid"),
            "{first}"
        );
        assert!(!first.to_string().contains("; end"), "{first}");
        let text = first.with_partial(true).to_string();
        assert!(text.starts_with("every thread completed only a part of uid: "), "{text}");
    }

    #[test]
    fn debug_is_the_sentence_that_main_prints() {
        assert_eq!(format!("{:?}", half_way()), half_way().to_string());
        let step = ApplyError::from(half_way());
        // The alternate form too: `dbg!` and many loggers use it.
        assert_eq!(format!("{step:#?}"), format!("Step: {step}"));
        let broadcast = ApplyError::from(Error::Busy);
        assert_eq!(broadcast.to_string(), Error::Busy.to_string());
        assert_eq!(format!("{broadcast:#?}"), format!("{:?}", Error::Busy));
    }

    #[test]
    fn io_errors_keep_the_text_and_the_kernels_number() {
        let error = ApplyError::from(half_way());
        let converted = io::Error::from(error.clone());
        assert_eq!(converted.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(converted.to_string(), error.to_string());
        let source = error::Error::source(&converted);
        assert_eq!(source.and_then(|source| source.downcast_ref::<Errno>()), Some(&DENIED));
        let kept = converted.get_ref().and_then(|kept| kept.downcast_ref::<ApplyError>());
        assert_eq!(kept, Some(&error));

        let converted = io::Error::from(ApplyError::from(Error::Busy));
        let kept = converted.get_ref().and_then(|kept| kept.downcast_ref::<Error>());
        assert_eq!((converted.kind(), kept), (io::ErrorKind::TimedOut, Some(&Error::Busy)));
    }
}
