//! One system call on every thread, with the strictest settings.

use std::ffi::c_long;

use crate::{Broadcast, Error};

/// Makes a system call of up to three arguments on every thread of the process, and returns its
/// value.
///
/// The counterpart of `Syscall3` in Go's `kernel.org/pub/linux/libs/security/libcap/psx` (and of
/// `syscall.AllThreadsSyscall`): [`syscall6`] with the last three arguments zero.
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
/// // SAFETY: the call takes numbers only; nothing else in this program depends on this flag.
/// unsafe { psx::syscall3(libc::SYS_prctl, libc::PR_SET_KEEPCAPS as usize, 1, 0)? };
/// # Ok::<(), psx::Error>(())
/// ```
#[doc(alias = "Syscall3")]
#[doc(alias = "AllThreadsSyscall")]
#[doc(alias = "psx_syscall3")]
pub unsafe fn syscall3(nr: c_long, a1: usize, a2: usize, a3: usize) -> Result<usize, Error> {
    // SAFETY: the caller keeps the contract of syscall6.
    unsafe { syscall6(nr, a1, a2, a3, 0, 0, 0) }
}

/// Makes a system call of up to six arguments on every thread of the process, and returns its
/// value.
///
/// The counterpart of `Syscall6` in Go's `kernel.org/pub/linux/libs/security/libcap/psx` (and of
/// `syscall.AllThreadsSyscall6`): [`Broadcast::syscall`] with the settings of [`Broadcast::new`], which are
/// a timeout of 5 seconds until the first thread makes the call,
/// [`Coverage::Require`](crate::Coverage::Require) and
/// [`Divergence::Abort`](crate::Divergence::Abort).
///
/// The calling thread makes the call **first and alone**, with all others stopped. If it fails there, no
/// other thread makes it. If it succeeds, all others make it before any of them resumes. If a thread then
/// gets another result, the process ends with a message, because some threads would continue with
/// privileges that others have lost. For a call whose result differs between threads, such as `gettid`,
/// use [`Broadcast`] with [`Divergence::Report`](crate::Divergence::Report).
///
/// The arguments are passed unchanged. Cast a negative number (`-1_isize as usize`) and a pointer
/// (`ptr as usize`). No thread's `errno` changes.
///
/// # Errors
///
/// [`Error::Os`] with the kernel's error number if the call failed on the calling thread. Any other
/// [`Error`] means that no thread made the call, and says why the threads could not be stopped together.
///
/// # Safety
///
/// - The call must be sound on *every* thread, those of libraries included, with these arguments and
///   between any two instructions.
/// - Memory that the arguments point to must be valid until this function returns. All threads use it at
///   once: if the kernel writes to it, every thread writes there.
/// - The call must neither end, create nor replace threads (`exit`, `exit_group`, `clone`, `fork`,
///   `vfork`, `execve`), nor wait for one (`futex`, a lock, a pipe that another thread writes): all threads
///   are stopped. It must not change a thread's private state (`arch_prctl`, `set_tid_address`,
///   `sigaltstack`, `set_robust_list`, `rseq`, `rt_sigprocmask`, `rt_sigreturn`) nor the handler of signal
///   33, which is psx's.
/// - This is the bare system call. The libc's functions of the same name (`setuid`, `setgroups`, ...) signal
///   all threads themselves and must not run inside a broadcast; and glibc ends the process if its call has
///   different results on different threads. So do not change by libc functions what the program changes by
///   psx.
///
/// # Which calls belong to a thread
///
/// **Of the thread** (a broadcast is needed): user and group ids, groups, capabilities (`capset`), the
/// bounding and the ambient set, secure bits, `PR_SET_KEEPCAPS`, `PR_SET_NO_NEW_PRIVS`,
/// `PR_SET_PDEATHSIG`, `PR_SET_NAME`, `PR_SET_TIMERSLACK`; `personality`, `setpriority`, `ioprio_set`,
/// `sched_setaffinity`, `sched_setscheduler`, `set_mempolicy`; the session keyring; all namespaces but
/// users'.
///
/// **Of the process** (one plain call is enough; a broadcast makes it once for each thread):
/// `chdir`, `chroot`, `umask` (unless a thread has left them by `unshare(CLONE_FS)`), `pivot_root` (which
/// moves every thread and process whose root was the old one), `setrlimit`, `PR_SET_DUMPABLE`,
/// `PR_SET_CHILD_SUBREAPER`, `PR_SET_THP_DISABLE`.
///
/// - **A thread id as an argument** must be 0, "the calling thread": in `capset`, `setpriority`,
///   `ioprio_set`, `sched_setaffinity`, `sched_setscheduler`. With the process id every thread would change
///   the main thread.
/// - **A result that differs** ends the process by default: `personality`, `setfsuid` and `setfsgid`
///   return the previous value. Make them in a closure that returns 0 ([`Broadcast::run`]).
/// - `setpriority` and `ioprio_set` reach all threads of a **process group** by one plain call with
///   `PRIO_PGRP`, `IOPRIO_WHO_PGRP`.
///
/// # Alternatives for some calls
///
/// - **seccomp filters**: `SECCOMP_FILTER_FLAG_TSYNC` installs one filter on all threads. Filters that
///   threads install one by one count as different filters, and a later `TSYNC` fails.
/// - **Landlock**: use `LANDLOCK_RESTRICT_SELF_TSYNC` on kernels whose `landlock_restrict_self` has it. The
///   kernel then restricts all threads.
/// - **`unshare`** creates one namespace for each thread. For one shared uts, net, ipc or cgroup namespace,
///   call `unshare` on the calling thread, open `/proc/thread-self/ns/NAME` and broadcast `setns` with that
///   descriptor. Never broadcast `unshare(CLONE_FILES)`: it creates one descriptor table for each thread, in
///   which the `close` and `open` of other threads have no effect.
/// - **A mount namespace**: `setns` with `CLONE_NEWNS` fails (`EINVAL`) on a thread that shares its root and
///   working folder with another thread. Call `unshare(CLONE_FS)` and then `setns` in one closure; from then
///   on `chdir`, `chroot` and `umask` change only the calling thread. Do not `unshare` the mount namespace on
///   the caller first: then only the caller could enter it.
/// - **A user namespace**: a process with several threads can neither create nor enter one (`EINVAL`). It
///   cannot enter a time namespace either (`EUSERS`); `unshare(CLONE_NEWTIME)` changes only later children.
/// - **A pid namespace**: `unshare` and `setns` with `CLONE_NEWPID` change only later children as well.
///   Afterwards the process can start no threads (`EINVAL`).
/// - **A session keyring**: `KEYCTL_JOIN_SESSION_KEYRING` creates one keyring for each thread, also with a
///   name, and returns its number, which differs. For one shared keyring, join it by name in a closure that
///   also lets its user search it (`KEYCTL_SETPERM` with `KEY_USR_SEARCH`): the calling thread, which comes
///   first, creates the keyring, and the others find it.
///
/// Tests show each statement of this section and the one before on Linux 6.18 (`scope`, `namespaces` and
/// `keyrings` in `tests/runtime`; `steps` in `tests/privileges`).
///
/// # Examples
///
/// ```
/// use psx::{Error, thread};
///
/// let worker = thread::spawn(|| {
///     // ...
/// });
/// // SAFETY: the call takes numbers only, and nothing here needs to gain privileges.
/// match unsafe { psx::syscall6(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0) } {
///     Ok(_) => println!("no thread can gain privileges"),
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
    // SAFETY: the caller keeps the contract of Broadcast::syscall.
    let report = unsafe { Broadcast::new().syscall(nr, [a1, a2, a3, a4, a5, a6])? };
    Ok(report.value())
}
