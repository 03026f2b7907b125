//! The process's [`Runtime`], the public functions on it, and the signal handler. All of psx-core's
//! `static`s are here.
//!
//! | file | concept |
//! |---|---|
//! | `current` | the calling thread's entry |
//! | `registration` | how a thread gets its entry |
//! | `thread_exit` | how a thread leaves the registry: a destructor of the libc's |
//! | `fork` | what happens around a fork, and in the child |

mod current;
mod fork;
mod registration;
mod thread_exit;

use core::ffi::{c_int, c_void};
use std::io;

pub(crate) use registration::{allocate, ensure_current, register_spawned};

use crate::round::Call;
use crate::runtime::Runtime;
use crate::sys::clock::Deadline;
use crate::sys::hooks::ExitHook;
use crate::sys::sync::AtomicU32;
use crate::sys::{Kernel, signal};
use crate::{Broadcast, Error, NamedThread, ProcessThread, Report, SpawnGuard, trace};

static RUNTIME: Runtime = Runtime::new(Kernel::new(on_signal));
static EXIT_HOOK: ExitHook = ExitHook::new();
/// Whether the fork hooks are installed. Relaxed: only one thread's swap comes first.
static FORK_HOOKED: AtomicU32 = AtomicU32::new(0);

/// The runtime of this process.
pub(crate) fn runtime() -> &'static Runtime {
    &RUNTIME
}

/// Registers the calling thread, so that broadcasts reach it until it exits.
///
/// For threads that were not started through psx: `main`, the workers of an async runtime, threads of a C
/// library. Does nothing if the thread is registered already. Unblocks signal 33 for the thread.
///
/// While a round is on, this waits until it ends, and does not make up for what that round changed. That is
/// why [`Coverage::Require`](crate::Coverage::Require) is the default. The wait has no timeout of its own: it
/// is as long as the rounds of other threads, each of which ends by its
/// [timeout](crate::Broadcast::timeout) until its commit point.
///
/// The thread leaves the registry when it exits, in the libc's last round of thread-specific destructors,
/// after its Rust thread-locals have been destroyed.
///
/// # Errors
///
/// [`Error::OutOfMemory`], or [`Error::RegistrationFailed`] if the libc has no `pthread_key` left (there are
/// 1024 for all libraries of a program).
///
/// # Examples
///
/// ```
/// let foreign = std::thread::spawn(|| {
///     psx_core::adopt()?;
///     // ... broadcasts now reach this thread
///     Ok::<(), psx_core::Error>(())
/// });
/// foreign.join().unwrap()?;
/// # Ok::<(), psx_core::Error>(())
/// ```
pub fn adopt() -> Result<(), Error> {
    ensure_current(None).map(drop)
}

/// All threads of the process, registered or not: a snapshot for logs and health checks. Registers the
/// calling thread.
///
/// Threads that have ended are left out, including a main thread that has ended before the others. The ids
/// are those in this process's pid namespace, even if `/proc` belongs to a parent namespace.
///
/// # Errors
///
/// If the list would be incomplete: `/proc` cannot be read (after a `chroot`, or under a Landlock domain that
/// denies it), is not the kernel's, or does not show this process (it belongs to another pid namespace); or a
/// living thread cannot be inspected. Also inside a broadcast's closure, and if there is no memory left.
///
/// # Examples
///
/// ```
/// for thread in psx_core::threads()? {
///     println!("{}: {:?}", thread.thread(), thread.kind());
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn threads() -> io::Result<Vec<ProcessThread>> {
    let _guard = SpawnGuard::enter()?;
    RUNTIME.threads()
}

/// The thread `tid` of this process, with its current name.
pub(crate) fn name(tid: u32) -> NamedThread {
    NamedThread::registered(tid, RUNTIME.kernel.name(tid).unwrap_or_default())
}

/// Makes a broadcast from the calling thread.
pub(crate) fn broadcast(plan: &Broadcast, call: Call<'_>) -> Result<Report, Error> {
    if plan.timeout.is_zero() {
        return Err(Error::ZeroTimeout);
    }
    let deadline = Deadline::try_after(plan.timeout).map_err(Error::ClockUnavailable)?;
    let me = ensure_current(Some(deadline))?;
    // Before anything is logged: a tracing subscriber may wait for a stopped thread.
    if me.is_in_round() || me.spawns_in_progress() > 0 {
        return Err(Error::Reentrant);
    }
    let span = trace::begin(call.name(), plan);
    let result = RUNTIME.broadcast(me, plan, deadline, call);
    trace::end(&span, &result);
    result
}

/// The handler of signal 33, on any thread of the process, for a signal from any sender. Uses no thread-local:
/// the thread may be unregistered, and may be inside the allocator.
extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // A summoned thread stops at the first signal 33, even one of another sender: signals that were queued
    // before the summons would delay the round.
    // SAFETY: the kernel calls this handler with SA_SIGINFO; a handler that chains to this one passes the
    // arguments that it was given.
    unsafe {
        let is_summons = RUNTIME.kernel.is_summons(info);
        RUNTIME.answer(signal::stack_left(context), is_summons);
        if !is_summons {
            RUNTIME.round.note_foreign_signal();
            RUNTIME.kernel.pass_on(signal, info, context);
        }
    }
}
