//! `apply`: checks the batch, runs the round, and makes the steps that come after it.

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
    /// Makes the steps on every thread, with the strictest settings: as
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

    /// Makes the steps on every thread, by a broadcast with these settings. The report's value is the number
    /// of system calls that each thread made in the round.
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
    /// // Unregistered threads keep their privileges, and the report names them.
    /// let lenient = Broadcast::new().coverage(Coverage::Registered);
    /// let report = Privileges::new().no_new_privs().apply_with(lenient)?;
    /// match report.left_out() {
    ///     Ok(threads) if threads.is_empty() => {}
    ///     Ok(threads) => eprintln!("unchanged: {threads}"),
    ///     Err(errno) => eprintln!("other threads may be unchanged: no thread count ({errno})"),
    /// }
    /// # Ok::<(), psx::privileges::ApplyError>(())
    /// ```
    pub fn apply_with(&self, broadcast: Broadcast) -> Result<Report, ApplyError> {
        let result = self.make_steps(broadcast);
        trace::end(self, &result);
        result.map(|(report, _)| report)
    }

    /// Returns the completed steps as well.
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
            // An earlier call of `apply` may have set it.
            let _ = self.implied.set(implied);
        }
        let mut completed = plan.completed_steps();
        // Only if no thread kept the old ids: a process of the new user must not trace a process that has
        // a thread with the old ones, since all threads share their memory.
        if let Some(dumpable @ 0..=1) = plan.dumpable().filter(|_| report.is_unanimous()) {
            process_state::set_dumpable(dumpable)
                .map_err(|errno| step_error(Step::Dumpable, Cause::Kernel(errno), &completed))?;
            completed.push(Step::Dumpable);
        }
        if let Some((ruleset, flags)) = self.landlock.as_ref().filter(|_| kernel_syncs_landlock) {
            landlock::restrict_all_threads(ruleset, *flags)
                .map_err(|errno| step_error(Step::Landlock, Cause::Kernel(errno), &completed))?;
            completed.push(Step::Landlock);
        }
        if let Some(filter) = &self.seccomp {
            filter
                .install_on_all_threads()
                .map_err(|cause| step_error(Step::Seccomp, cause, &completed))?;
            completed.push(Step::Seccomp);
        }
        Ok((report, completed))
    }
}

fn step_error(failed: Step, cause: Cause, completed: &[Step]) -> ApplyError {
    StepError::new(failed, cause, completed.to_vec()).into()
}
