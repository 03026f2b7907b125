//! From the builder to every thread.

use super::caller_state::CallerState;
use super::filter::Filter;
use super::implied::Implied;
use super::plan::Plan;
use super::{
    ApplyError, Cause, Precondition, Privileges, Step, StepError, landlock, precheck,
    process_state, trace,
};
use crate::{Broadcast, Report};

impl Privileges {
    /// Makes the steps on every thread, by the strictest rules: as
    /// [`apply_with`](Self::apply_with)`(Broadcast::new())`.
    ///
    /// # Errors
    ///
    /// [`ApplyError::Step`] if a step failed; it lists the steps that took effect before it.
    /// [`ApplyError::Broadcast`] if the threads could not be stopped together; then nothing changed.
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
    pub fn apply(&self) -> Result<Report, ApplyError> {
        self.apply_with(Broadcast::new())
    }

    /// Makes the steps on every thread, in a round of these rules. The report's value is the number
    /// of calls that the batch has on each thread in the round.
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
    /// // A thread that is not registered keeps what it has, and the report names it.
    /// let lenient = Broadcast::new().coverage(Coverage::Registered);
    /// let report = Privileges::new().no_new_privs().apply_with(lenient)?;
    /// match report.left_out() {
    ///     Ok(threads) if threads.is_empty() => {}
    ///     Ok(threads) => eprintln!("still as they were: {threads}"),
    ///     Err(errno) => eprintln!("there may be threads that are as they were ({errno})"),
    /// }
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn apply_with(&self, broadcast: Broadcast) -> Result<Report, ApplyError> {
        let result = self.make_steps(broadcast);
        trace::end(self, &result);
        result.map(|(report, _)| report)
    }

    /// Returns the steps that were made as well.
    fn make_steps(&self, broadcast: Broadcast) -> Result<(Report, Vec<Step>), ApplyError> {
        let refused = |(step, cause)| step_error(step, cause, &[]);
        let unmet = |step, unmet| refused((step, Cause::Precondition(unmet)));
        let caller = CallerState::read(self).map_err(refused)?;
        precheck::check(self, &caller).map_err(refused)?;
        let kernel_syncs_landlock = match &self.landlock {
            Some((ruleset, flags)) => landlock::check(ruleset, *flags)
                .map_err(|why| unmet(Step::Landlock, why))?
                .can_sync(),
            None => false,
        };
        let changes_ids = !(self.uid.is_none() && self.gid.is_none());
        let dumpable = if self.keep_dumpable && changes_ids {
            if !broadcast.proves_coverage() {
                return Err(unmet(Step::Dumpable, Precondition::DumpableUnproven));
            }
            let read = process_state::dumpable();
            Some(read.map_err(|errno| refused((Step::Dumpable, Cause::Kernel(errno))))?)
        } else {
            None
        };
        if let Some(thread) = self.seccomp.as_ref().and_then(|_| Filter::thread_with_more_filters())
        {
            return Err(refused((Step::Seccomp, Cause::Unsynced(thread))));
        }

        let plan = Plan::new(self, &caller, !kernel_syncs_landlock, dumpable);
        let report = plan.run(broadcast)?;
        let implied = Implied::new(self, &caller);
        if implied != Implied::default() {
            // An earlier batch of the same steps may have set it.
            let _ = self.implied.set(implied);
        }
        let mut made = plan.steps();
        // No thread has the old ids any more; one that has must not share memory with what another
        // process may trace.
        if let Some(dumpable @ 0..=1) = plan.dumpable().filter(|_| report.is_unanimous()) {
            process_state::set_dumpable(dumpable)
                .map_err(|errno| step_error(Step::Dumpable, Cause::Kernel(errno), &made))?;
            made.push(Step::Dumpable);
        }
        if let Some((ruleset, flags)) = self.landlock.as_ref().filter(|_| kernel_syncs_landlock) {
            landlock::restrict_all_threads(ruleset, *flags)
                .map_err(|errno| step_error(Step::Landlock, Cause::Kernel(errno), &made))?;
            made.push(Step::Landlock);
        }
        if let Some(filter) = &self.seccomp {
            filter
                .install_on_all_threads()
                .map_err(|cause| step_error(Step::Seccomp, cause, &made))?;
            made.push(Step::Seccomp);
        }
        Ok((report, made))
    }
}

fn step_error(failed: Step, cause: Cause, completed: &[Step]) -> ApplyError {
    StepError::new(failed, cause, completed.to_vec()).into()
}
