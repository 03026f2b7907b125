//! One system call on every thread, by the strictest rules.

use std::ffi::c_long;

use crate::{Broadcast, Error};

/// Makes a system call of up to three arguments on every thread of the process, and returns its
/// value.
///
/// The counterpart of `Syscall3` in Go's `kernel.org/pub/linux/libs/security/libcap/psx` (and of
/// `syscall.AllThreadsSyscall`). It is [`syscall6`] with the last three arguments zero: see there
/// for the rules, errors and safety.
///
/// # Errors
///
/// As [`syscall6`].
///
/// # Safety
///
/// As [`syscall6`].
///
/// # Examples
///
/// ```
/// // SAFETY: the call takes numbers only; whether capabilities outlive a change of uid is decided
/// // nowhere else in this program.
/// unsafe { psx::syscall3(libc::SYS_prctl, libc::PR_SET_KEEPCAPS as usize, 1, 0)? };
/// # Ok::<(), psx::Error>(())
/// ```
#[doc(alias = "Syscall3")]
#[doc(alias = "AllThreadsSyscall")]
#[doc(alias = "psx_syscall3")]
pub unsafe fn syscall3(nr: c_long, a1: usize, a2: usize, a3: usize) -> Result<usize, Error> {
    // SAFETY: this function's caller makes the promise that syscall6 asks for.
    unsafe { syscall6(nr, a1, a2, a3, 0, 0, 0) }
}

/// Makes a system call of up to six arguments on every thread of the process, and returns its
/// value.
///
/// The counterpart of `Syscall6` in Go's `kernel.org/pub/linux/libs/security/libcap/psx` (and of
/// `syscall.AllThreadsSyscall6`). It is [`Broadcast::new`]`()` with
/// [`syscall`](Broadcast::syscall): a timeout of 5 seconds until the first thread makes the call,
/// [`Coverage::Require`](crate::Coverage::Require) and
/// [`Divergence::Abort`](crate::Divergence::Abort).
///
/// The calling thread makes the call **first and alone**, with all others stopped. If the kernel
/// refuses it there, nobody else makes it. If it succeeds, all others make it before any of them
/// runs on; a thread that then gets another result ends the process with a message, because some
/// threads would go on with privileges that others have lost. A call whose result differs from
/// thread to thread by its nature, such as `gettid`, is one for [`Broadcast`] with
/// [`Divergence::Report`](crate::Divergence::Report).
///
/// The arguments are passed on as they are. A negative number is cast (`-1_isize as usize`), a
/// pointer too (`ptr as usize`). The thread's `errno` is left alone.
///
/// # Errors
///
/// [`Error::Os`] with the kernel's error number if the calling thread's own call failed. Any other
/// [`Error`] says what kept the threads from being stopped together; then nobody made the call.
///
/// # Safety
///
/// - The call must be sound to make on *every* thread at that instant, the ones of libraries
///   included, each with these same arguments and in the middle of whatever it is doing.
/// - Memory that the arguments point to must stay valid for the length of the broadcast, and be
///   good for all threads at once: if the kernel writes to it, every thread writes there.
/// - The call must neither end, create nor replace threads (`exit`, `exit_group`, `clone`, `fork`,
///   `vfork`, `execve`), nor wait for one (`futex`, a lock, a pipe that another thread feeds):
///   they are all stopped. It must not touch what threads have for themselves only (`arch_prctl`,
///   `set_tid_address`, `sigaltstack`, `set_robust_list`, `rseq`, `rt_sigprocmask`, `rt_sigreturn`)
///   nor psx's signal (33).
/// - It is the bare system call. libc's functions of the same name (`setuid`, `setgroups`, ...) do
///   a broadcast of their own; they must not run inside one, and glibc ends the process when it
///   finds threads that disagree. So what is changed through psx is changed only through psx.
///
/// # Which calls belong to a thread
///
/// Of a **thread**, and so worth a broadcast: user and group ids, groups, capabilities (`capset`), the
/// bounding and the ambient set, secure bits, `PR_SET_KEEPCAPS`, `PR_SET_NO_NEW_PRIVS`,
/// `PR_SET_PDEATHSIG`, `PR_SET_NAME`, `PR_SET_TIMERSLACK`; `personality`, `setpriority`, `ioprio_set`,
/// `sched_setaffinity`, `sched_setscheduler`, `set_mempolicy`; the session keyring; all namespaces but
/// users'.
///
/// Of the **process**, where one plain call is enough and a broadcast makes it once for each thread:
/// `chdir`, `chroot`, `umask` (unless a thread has left them by `unshare(CLONE_FS)`), `pivot_root` (which
/// moves every thread and process whose root was the old one), `setrlimit`, `PR_SET_DUMPABLE`,
/// `PR_SET_CHILD_SUBREAPER`, `PR_SET_THP_DISABLE`.
///
/// - **A thread's id as an argument** is 0, "the calling thread": in `capset`, `setpriority`,
///   `ioprio_set`, `sched_setaffinity`, `sched_setscheduler`. The process's id names the main thread, and
///   every thread would then change that one.
/// - **A result that differs** ends the process by default: `personality`, `setfsuid` and `setfsgid`
///   return what was set before. Make them in a closure that returns 0 ([`Broadcast::run`]).
/// - `setpriority` and `ioprio_set` reach all threads of a **process group** by one plain call with
///   `PRIO_PGRP`, `IOPRIO_WHO_PGRP`.
///
/// # What is better done otherwise
///
/// - **seccomp filters**: `SECCOMP_FILTER_FLAG_TSYNC` puts one filter on all threads. Installed
///   thread by thread they count as different filters, and a later `TSYNC` fails.
/// - **Landlock** on kernels whose `landlock_restrict_self` has `LANDLOCK_RESTRICT_SELF_TSYNC`: the
///   kernel then does this itself.
/// - **`unshare`** gives each thread a namespace of its own. For one that all share, `unshare` on the
///   calling thread, open `/proc/thread-self/ns/NAME` and broadcast `setns` with that descriptor: so for
///   uts, net, ipc and cgroup namespaces. `unshare(CLONE_FILES)` gives each thread a table of descriptors
///   of its own, in which no other thread's `close` and `open` are seen: never broadcast it.
/// - **A mount namespace** takes a thread whose root and working folder no other thread shares: `setns`
///   with `CLONE_NEWNS` is refused otherwise (`EINVAL`). In one closure, `unshare(CLONE_FS)` and then
///   `setns`; from then on `chdir`, `chroot` and `umask` are each thread's own. Do not `unshare` the
///   mount namespace on the caller first: the caller could then enter it, and the others could not.
/// - **A user namespace** cannot be entered or made by a process with threads (`EINVAL`), nor a time
///   namespace be entered (`EUSERS`). `unshare(CLONE_NEWTIME)` is for children alone.
/// - **A pid namespace** (`unshare` or `setns` with `CLONE_NEWPID`) is for children as well. After it the
///   process cannot start threads any more (`EINVAL`).
/// - **A session keyring**: `KEYCTL_JOIN_SESSION_KEYRING` gives each thread a keyring of its own, also if
///   it has a name, and returns its number, which differs. For one that all share, join it by name in a
///   closure, and let its user search it (`KEYCTL_SETPERM` with `KEY_USR_SEARCH`): the calling thread,
///   which comes first, makes the keyring, and the others find it.
///
/// psx's tests try what is said here (`scope`, `namespaces` and `keyrings` in `tests/runtime`; `steps` in
/// `tests/privileges`), on Linux 6.18.
///
/// # Examples
///
/// ```
/// use psx::{Error, thread};
///
/// let worker = thread::spawn(|| {
///     // ...
/// });
/// // SAFETY: the call takes numbers only, and forbids new privileges, which nothing here needs.
/// match unsafe { psx::syscall6(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0) } {
///     Ok(_) => println!("no thread can gain privileges any more"),
///     Err(Error::Uncovered(threads)) => eprintln!("not started through psx: {threads}"),
///     Err(e) => return Err(e),
/// }
/// # worker.join().unwrap();
/// # Ok::<(), Error>(())
/// ```
#[doc(alias = "Syscall6")]
#[doc(alias = "AllThreadsSyscall6")]
#[doc(alias = "psx_syscall6")]
pub unsafe fn syscall6(
    nr: c_long,
    a1: usize,
    a2: usize,
    a3: usize,
    a4: usize,
    a5: usize,
    a6: usize,
) -> Result<usize, Error> {
    // SAFETY: this function's caller makes the promise that Broadcast::syscall asks for.
    let report = unsafe { Broadcast::new().syscall(nr, [a1, a2, a3, a4, a5, a6])? };
    Ok(report.value())
}
