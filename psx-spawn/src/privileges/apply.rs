//! From the builder to every thread.

use super::filter::Filter;
use super::foresee::{self, Caller};
use super::plan::Plan;
use super::{Cause, Privileges, Step, StepError, landlock};
use crate::{Broadcast, Error, Report};

impl Privileges {
    /// Makes the steps on every thread, by the strictest rules: as
    /// [`apply_with`](Self::apply_with)`(Broadcast::new())`.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] if a step failed, with those that have taken effect. Any other [`Error`] means
    /// that nothing changed.
    ///
    /// # Examples
    ///
    /// ```
    /// use psx::{Error, Privileges};
    ///
    /// match Privileges::new().no_new_privs().apply() {
    ///     Ok(report) => println!("{} threads", report.threads()),
    ///     Err(Error::Step(e)) if !e.made().is_empty() => panic!("half-way: {e}"),
    ///     Err(e) => eprintln!("{e}"),
    /// }
    /// ```
    pub fn apply(&self) -> Result<Report, Error> {
        self.apply_with(Broadcast::new())
    }

    /// Makes the steps on every thread, in a round of these rules. The report's value is the number
    /// of system calls that each thread has made for them in the round.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    ///
    /// # Examples
    ///
    /// ```
    /// use psx::{Broadcast, Coverage, Privileges};
    ///
    /// // A thread that psx does not know of keeps what it has.
    /// let lenient = Broadcast::new().coverage(Coverage::Registered);
    /// Privileges::new().no_new_privs().apply_with(lenient)?;
    /// # Ok::<(), psx::Error>(())
    /// ```
    pub fn apply_with(&self, broadcast: Broadcast) -> Result<Report, Error> {
        let foreseen = |(step, why)| step_error(step, Cause::Foreseen(why), &[]);
        let caller = Caller::read();
        foresee::check(self, &caller).map_err(foreseen)?;
        let kernel_syncs_landlock = match &self.landlock {
            Some((ruleset, flags)) => landlock::check(ruleset, *flags)
                .map_err(|why| foreseen((Step::Landlock, why)))?
                .can_sync(),
            None => false,
        };

        if let Some(thread) = self.seccomp.as_ref().and_then(|_| Filter::who_differs()) {
            return Err(step_error(Step::Seccomp, Cause::Unsynced(thread), &[]));
        }

        let plan = Plan::new(self, &caller, !kernel_syncs_landlock);
        let report = plan.run(broadcast)?;
        let mut made = plan.steps();
        if let Some((ruleset, flags)) = self.landlock.as_ref().filter(|_| kernel_syncs_landlock) {
            landlock::restrict_all_threads(ruleset, *flags)
                .map_err(|errno| step_error(Step::Landlock, Cause::Kernel(errno), &made))?;
            made.push(Step::Landlock);
        }
        if let Some(filter) = &self.seccomp {
            filter
                .install_on_all_threads()
                .map_err(|cause| step_error(Step::Seccomp, cause, &made))?;
        }
        Ok(report)
    }
}

fn step_error(failed: Step, cause: Cause, made: &[Step]) -> Error {
    Error::Step(Box::new(StepError::new(failed, cause, made.to_vec(), Vec::new())))
}
