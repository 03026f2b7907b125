//! The settings of a broadcast: coverage, timeout and the handling of divergence.

use core::ffi::c_long;
use core::fmt;
use core::time::Duration;

/// What a broadcast proves before any thread makes the call.
///
/// # Examples
///
/// ```
/// # extern crate psx_core as psx;
/// use psx::{Broadcast, Coverage};
///
/// // For a program that accepts that its unregistered threads keep their privileges.
/// const LENIENT: Broadcast = Broadcast::new().coverage(Coverage::Registered);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Coverage {
    /// Make the call only if the kernel's count of the process's threads proves that every thread is stopped
    /// or is the caller. The default.
    #[default]
    Require,
    /// Make the call on the registered threads. Every other thread **keeps its privileges**, and any code
    /// that runs in it can use them; [`Report::left_out`](crate::Report::left_out) names these threads.
    Registered,
}

/// What a broadcast does when a thread's outcome differs from the caller's.
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
/// // Each thread returns its own id.
/// assert_eq!(report.divergent().len(), report.threads() - 1);
/// # Ok::<(), psx::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Divergence {
    /// End the process by SIGABRT while all threads are still stopped, with a message on standard error that
    /// names the call and the threads. The default, as in the Go package: no thread continues with
    /// privileges that other threads have lost. The program's handlers of SIGABRT do not run.
    #[default]
    Abort,
    /// List the threads in the [`Report`](crate::Report).
    Report,
}

/// How a call is made on every thread: the settings of a broadcast.
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
    pub(crate) pause: Option<Duration>,
    pub(crate) coverage: Coverage,
    pub(crate) divergence: Divergence,
}

impl Broadcast {
    /// A broadcast with a timeout of 5 seconds, [`Coverage::Require`] and [`Divergence::Abort`].
    pub const fn new() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            pause: None,
            coverage: Coverage::Require,
            divergence: Divergence::Abort,
        }
    }

    /// Sets how long the broadcast may take until its commit point, at which the first thread makes the
    /// call. The registration of the calling thread, if it is not registered yet, counts. Zero is an error.
    /// From the commit point on there is no timeout: the broadcast cannot be undone, and waits until every
    /// thread has made the call.
    ///
    /// A broadcast fails before its timeout with [`Error::Uncovered`](crate::Error::Uncovered) where
    /// unregistered threads have had enough time to register.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how long the first attempt may stop the threads before the commit point, at least 1 ms. Without
    /// this it is 10 ms and 50 µs a registered thread.
    ///
    /// If a thread has not stopped by then, all threads run on, and no thread has made the call. The
    /// broadcast waits until that thread can take the signal, and tries again with twice the pause, until
    /// its [timeout](Broadcast::timeout). A short pause takes more attempts on a busy machine.
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.pause = Some(pause);
        self
    }

    /// Sets what is proven before any thread makes the call.
    pub const fn coverage(mut self, coverage: Coverage) -> Self {
        self.coverage = coverage;
        self
    }

    /// Whether a broadcast of these settings reaches every thread of the process, or none. For psx itself.
    #[doc(hidden)]
    #[must_use]
    pub const fn proves_coverage(&self) -> bool {
        !matches!(self.coverage, Coverage::Registered)
    }

    /// Sets what happens when a thread's outcome differs from the caller's.
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
    /// No thread's errno changes. The kernel ignores arguments beyond those that the call has.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os) with the kernel's error number if the call fails on the caller; then no
    /// other thread makes it. Any other error means that no thread has made it.
    ///
    /// # Safety
    ///
    /// - The call with these arguments must be sound on any thread, between any two instructions. Never
    ///   sound are [`vfork(2)`], `clone`, `exit`, `rt_sigreturn` and calls that wait for another thread.
    /// - Memory that the call reads or writes must be valid until this function returns, and all threads may
    ///   write it at once.
    /// - The program must stay correct when every thread makes the call. `close` closes the descriptor on the
    ///   first thread; on the others it fails, or closes what has been opened under the same number since.
    ///
    /// [`vfork(2)`]: https://man7.org/linux/man-pages/man2/vfork.2.html
    #[doc(alias = "psx_syscall6")]
    #[doc(alias = "AllThreadsSyscall6")]
    pub unsafe fn syscall(
        &self,
        nr: c_long,
        args: [usize; 6],
    ) -> Result<crate::Report, crate::Error> {
        // SAFETY: the caller promises that the call is sound on every thread.
        let op = || unsafe { crate::sys::raw::syscall(nr, args) };
        let may_filter =
            nr == libc::SYS_seccomp || (nr == libc::SYS_prctl && args[0] == SET_SECCOMP);
        let call = crate::round::Call::new(CallName::Syscall(nr), may_filter, &op);
        crate::process::broadcast(self, call)
    }

    /// Runs `op` on every thread: on the caller first and, if it succeeds there, on all others.
    ///
    /// On the others it runs in a signal handler while all threads are stopped. Each thread's errno is saved
    /// and restored around it.
    ///
    /// # Errors
    ///
    /// [`Error::Os`](crate::Error::Os) with the `Errno` that `op` returns on the caller; then no other thread
    /// runs it. What it did on the caller before it failed is not undone. Any other error means that no
    /// thread has run it.
    ///
    /// # Panics
    ///
    /// A panic in `op` ends the process.
    ///
    /// # Safety
    ///
    /// - `op` must be async-signal-safe ([`signal-safety(7)`]): it must not allocate, take a lock, wait for
    ///   another thread, use a thread-local that is initialised lazily or has a destructor, or unwind. A
    ///   stopped thread may hold any lock, those of the allocator and of standard output included. Plain
    ///   system calls are safe; the libc's `set*id` and `setgroups`, which signal all threads themselves,
    ///   are not.
    /// - `op` and its callees must use at most 2 KiB of stack, in the build that runs. It runs on the thread's
    ///   alternate signal stack, if there is one: std gives its threads one of 8 KiB on x86_64, of which the
    ///   kernel's frame takes more than a third. If a thread has less than 2 KiB left, no thread makes the
    ///   call ([`Error::StackTooSmall`](crate::Error::StackTooSmall)); an `op` that uses more than 2 KiB is
    ///   not detected.
    /// - `op` must return on every thread: it must not end, create or replace threads.
    /// - `op` must be sound on any thread, between any two instructions.
    ///
    /// # Examples
    ///
    /// Two calls in one stop:
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
    /// // SAFETY: two plain system calls and a read of the thread's errno.
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
    /// In `run`, threads wait for each other by futex alone: the closure may install a filter that kills the
    /// process on any other system call. Here they call `sched_yield` as well, which shortens the stop by a
    /// third.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Safety
    ///
    /// As [`run`](Self::run). A closure that installs a seccomp filter may end the process.
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

    /// [`run_without_seccomp`](Self::run_without_seccomp) for the steps of `psx::Privileges`, with their name
    /// in messages. For psx itself.
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

/// The name of a broadcast's call in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallName {
    /// A system call, by its number on this machine.
    Syscall(c_long),
    /// The program's closure.
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
