//! How a user asks for a round: what must be proven, how long it may take, what is done with
//! threads that disagree.

use core::ffi::c_long;
use core::fmt;
use core::time::Duration;

/// What a broadcast must prove before it changes anything.
///
/// # Examples
///
/// ```
/// # extern crate psx_core as psx;
/// use psx::{Broadcast, Coverage};
///
/// // A program that knows of an unregistered thread, and accepts that it keeps what it has.
/// const LENIENT: Broadcast = Broadcast::new().coverage(Coverage::Registered);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Coverage {
    /// Go ahead only when the kernel's own count of the process's threads proves that every one of
    /// them is stopped or is the caller. The default.
    #[default]
    Require,
    /// Go ahead with the registered threads. Every other thread of the process **keeps the privileges
    /// that it has**, and can use them for whatever code runs in it;
    /// [`Report::left_out`](crate::Report::left_out) names these threads.
    Registered,
}

/// What is done when a thread's outcome is not the caller's.
///
/// # Examples
///
/// ```
/// # extern crate psx_core as psx;
/// use psx::{Broadcast, Divergence};
///
/// let every_thread = Broadcast::new().divergence(Divergence::Report);
/// // SAFETY: gettid(2) reads one number and changes nothing.
/// let report = unsafe { every_thread.syscall(libc::SYS_gettid, [0; 6])? };
/// // Every thread but the caller has another id.
/// assert_eq!(report.divergent().len(), report.threads() - 1);
/// # Ok::<(), psx::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Divergence {
    /// End the process by SIGABRT while all threads still stand where they are, after a message on
    /// standard error that names the call and the threads. The default, as in the Go package: no
    /// thread goes on with privileges that the others do not have. Handlers that the program has
    /// for SIGABRT are not run.
    #[default]
    Abort,
    /// ThreadList the threads in the [`Report`](crate::Report).
    Report,
}

/// How a round is to run.
///
/// # Examples
///
/// ```
/// # extern crate psx_core as psx;
/// use std::time::Duration;
///
/// use psx::{Broadcast, Coverage};
///
/// let broadcast = Broadcast::new().timeout(Duration::from_secs(1)).coverage(Coverage::Registered);
/// // SAFETY: getppid(2) reads one number and changes nothing.
/// let report = unsafe { broadcast.syscall(libc::SYS_getppid, [0; 6])? };
/// assert!(report.is_unanimous());
/// # Ok::<(), psx::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a broadcast does nothing until `syscall` or `run` is called"]
pub struct Broadcast {
    pub(crate) timeout: Duration,
    pub(crate) coverage: Coverage,
    pub(crate) divergence: Divergence,
}

impl Broadcast {
    /// A broadcast with a timeout of 5 seconds, [`Coverage::Require`] and [`Divergence::Abort`].
    pub const fn new() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            coverage: Coverage::Require,
            divergence: Divergence::Abort,
        }
    }

    /// How long the round may take until its commit point, the registration of a calling thread that is
    /// not registered yet included. It may not be zero. From the commit point on there is no timeout:
    /// there the round cannot be taken back, and waits until every thread has made the call.
    ///
    /// A round fails before its timeout where waiting makes no sense: with
    /// [`Error::Uncovered`](crate::Error::Uncovered) about threads that have had the time to register,
    /// and did not.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What must be proven.
    pub const fn coverage(mut self, coverage: Coverage) -> Self {
        self.coverage = coverage;
        self
    }

    /// Whether a round of these rules reaches every thread of the process, or none. For psx itself.
    #[doc(hidden)]
    #[must_use]
    pub const fn proves_coverage(&self) -> bool {
        !matches!(self.coverage, Coverage::Registered)
    }

    /// What is done when threads disagree.
    pub const fn divergence(mut self, divergence: Divergence) -> Self {
        self.divergence = divergence;
        self
    }
}

#[cfg(not(psx_loom))]
const SET_SECCOMP: usize = libc::PR_SET_SECCOMP as usize;

#[cfg(not(psx_loom))]
impl Broadcast {
    /// Makes the system call `nr` with `args` on every thread: on the caller first and, if it
    /// succeeds there, on all others.
    ///
    /// Neither the caller's errno nor anyone else's is touched. Arguments beyond those that the
    /// call has are ignored.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os) with the caller's errno where the call fails on the caller;
    /// then no other thread makes it. Any other error means that no thread has made it.
    ///
    /// # Safety
    ///
    /// - The call with these arguments is one that may be made on any thread at any time, between
    ///   any two instructions, [`vfork(2)`], `clone`, `exit`, `rt_sigreturn` and calls that wait
    ///   for another thread excepted.
    /// - Memory that it reads or writes stays valid until this returns, and may be written by all
    ///   threads at once.
    /// - What it changes is something that the program's threads can live with: whoever closes a
    ///   descriptor on every thread closes it once, and something else the other times.
    ///
    /// [`vfork(2)`]: https://man7.org/linux/man-pages/man2/vfork.2.html
    #[doc(alias = "psx_syscall6")]
    #[doc(alias = "AllThreadsSyscall6")]
    pub unsafe fn syscall(
        &self,
        nr: c_long,
        args: [usize; 6],
    ) -> Result<crate::Report, crate::Error> {
        // SAFETY: our caller's promise.
        let op = || unsafe { crate::sys::raw::syscall(nr, args) };
        let may_filter =
            nr == libc::SYS_seccomp || (nr == libc::SYS_prctl && args[0] == SET_SECCOMP);
        let call = crate::round::Call::new(CallName::Syscall(nr), may_filter, &op);
        crate::process::broadcast(self, call)
    }

    /// Runs `op` on every thread: on the caller first and, if it succeeds there, on all others.
    ///
    /// On the others it runs in a signal handler, on top of whatever the thread was doing, while
    /// all threads stand still. Each thread's errno is saved and restored around it.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os) with the `Errno` that `op` returns on the caller; then no
    /// other thread runs it, and what it did on the caller before it failed stays done. Any other
    /// error means that no thread has run it.
    ///
    /// # Panics
    ///
    /// A panic in `op` ends the process: there is no way back from it.
    ///
    /// # Safety
    ///
    /// - `op` is async-signal-safe ([`signal-safety(7)`]): it allocates nothing, takes no lock,
    ///   waits for no other thread, touches no thread-local that is initialised lazily or has a
    ///   destructor, and does not unwind. A stopped thread may hold any lock, the allocator's and
    ///   standard output's included. Plain system calls are what it is for; the libc's `set*id`
    ///   and `setgroups`, which make broadcasts of their own, are not.
    /// - It uses at most 2 KiB of stack, its callees included, in the build that runs: on a thread with an
    ///   alternate signal stack it runs there, and std gives its threads one of 8 KiB on x86_64, more than
    ///   a third of which the kernel's frame takes. A thread with less than 2 KiB left for `op` refuses
    ///   before any thread has made the call
    ///   ([`Error::StackTooSmall`](crate::Error::StackTooSmall)); what `op` uses beyond that, nothing
    ///   checks.
    /// - It returns, on every thread: it ends, creates or replaces none.
    /// - It is one that can run on any thread.
    ///
    /// # Examples
    ///
    /// Two steps in one stop:
    ///
    /// ```
    /// # extern crate psx_core as psx;
    /// use psx::{Broadcast, Errno};
    ///
    /// fn prctl(option: libc::c_int, value: libc::c_ulong) -> Result<usize, Errno> {
    ///     // SAFETY: both options below take a number and touch no memory.
    ///     match unsafe { libc::prctl(option, value, 0, 0, 0) } {
    ///         -1 => Err(Errno::last()),
    ///         value => Ok(value as usize),
    ///     }
    /// }
    ///
    /// // SAFETY: two plain system calls and the thread's own errno.
    /// let report = unsafe {
    ///     Broadcast::new().run(|| {
    ///         prctl(libc::PR_SET_TIMERSLACK, 50_000)?;
    ///         prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
    ///     })?
    /// };
    /// println!("{} threads", report.threads());
    /// # Ok::<(), psx::Error>(())
    /// ```
    ///
    /// [`signal-safety(7)`]: https://man7.org/linux/man-pages/man7/signal-safety.7.html
    pub unsafe fn run<F>(&self, op: F) -> Result<crate::Report, crate::Error>
    where
        F: Fn() -> Result<usize, crate::Errno> + Sync,
    {
        let call = crate::round::Call::new(CallName::Closure, true, &op);
        crate::process::broadcast(self, call)
    }

    /// [`run`](Self::run) for a closure that installs no seccomp filter.
    ///
    /// Since `run` cannot know what its closure does, its threads wait for each other by futex alone:
    /// a filter that the closure installs might end the process over any other system call. Here
    /// they wait by `sched_yield` too, which takes a third off the stop.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run).
    ///
    /// # Examples
    ///
    /// ```
    /// # extern crate psx_core as psx;
    /// use psx::Broadcast;
    ///
    /// // SAFETY: the closure does nothing.
    /// let report = unsafe { Broadcast::new().run_without_seccomp(|| Ok(42))? };
    /// assert_eq!(report.value(), 42);
    /// # Ok::<(), psx::Error>(())
    /// ```
    pub unsafe fn run_without_seccomp<F>(&self, op: F) -> Result<crate::Report, crate::Error>
    where
        F: Fn() -> Result<usize, crate::Errno> + Sync,
    {
        let call = crate::round::Call::new(CallName::Closure, false, &op);
        crate::process::broadcast(self, call)
    }

    /// [`run_without_seccomp`](Self::run_without_seccomp), named as what it is in messages. For psx itself: the
    /// steps of `psx::Privileges`.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run).
    #[doc(hidden)]
    pub unsafe fn run_privileges<F>(&self, op: F) -> Result<crate::Report, crate::Error>
    where
        F: Fn() -> Result<usize, crate::Errno> + Sync,
    {
        let call = crate::round::Call::new(CallName::Privileges, false, &op);
        crate::process::broadcast(self, call)
    }
}

impl Default for Broadcast {
    fn default() -> Self {
        Self::new()
    }
}

/// What a round's call is called in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallName {
    /// A system call, by its number on this machine.
    Syscall(c_long),
    /// Something that the program made itself.
    Closure,
    /// The steps of `psx::Privileges`.
    Privileges,
}

impl fmt::Display for CallName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syscall(nr) => write!(f, "system call {nr}"),
            Self::Closure => f.write_str("the broadcast closure"),
            Self::Privileges => f.write_str("psx::Privileges"),
        }
    }
}
