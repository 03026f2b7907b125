//! How a thread gets its entry: [`ensure_current`] on any thread, [`register_spawned`] on a thread that psx
//! has started. Contains `unsafe`: a registered entry is kept by pointer.

use core::ptr;
use core::sync::atomic::compiler_fence;

use super::current::{self, Current, current};
use super::fork::{self, detect_fork};
use super::thread_exit::on_thread_exit;
use super::{EXIT_HOOK, FORK_HOOKED, RUNTIME};
use crate::Error;
use crate::memory::NoMemory;
use crate::registry::Entry;
use crate::sync::Pass;
use crate::sys::clock::Deadline;
use crate::sys::sync::Ordering;
use crate::sys::{mask, raw};

/// What a registration leaves for its caller to drop after the pass: when signals are unblocked, a handler
/// may make a broadcast; when memory is freed, an allocator may run any code.
#[must_use = "to be dropped after the pass"]
pub(crate) struct Deferred {
    // Dropped in this order.
    masked: Option<mask::Masked>,
    entry: Option<Box<Entry>>,
}

impl Deferred {
    /// Before the registration: the entry is not used yet, and no signal is blocked.
    fn of(entry: Box<Entry>) -> Self {
        Self { masked: None, entry: Some(entry) }
    }
}

/// The calling thread's entry. Registers the thread if it is not registered, and waits until no round is
/// on, at most until the deadline.
pub(crate) fn ensure_current(deadline: Option<Deadline>) -> Result<&'static Entry, Error> {
    detect_fork();
    match current().map_err(Error::RegistrationFailed)? {
        Current::Own(entry) => {
            // A thread may register before std's start code runs, which makes the stack.
            RUNTIME.kernel.keep_signal_stack_mapped(entry.tid());
            Ok(entry)
        }
        Current::None => {
            let entry = allocate()?;
            prepare(&entry)?;
            // Declared before the pass, so dropped after it.
            let mut deferred = Deferred::of(entry);
            let pass = match deadline {
                Some(deadline) => RUNTIME.try_enter(deadline).ok_or(Error::Busy)?,
                None => RUNTIME.enter(),
            };
            register(&mut deferred, &pass)
        }
        Current::Shared => Err(Error::SharedThreadLocals),
    }
}

/// Registers a thread that has just been started, with the entry and the pass that its parent took for it.
/// A thread whose id cannot be read, or whose exit hook cannot be armed, stays unregistered. The result is
/// to be dropped after the pass.
pub(crate) fn register_spawned(entry: Box<Entry>, pass: &Pass<'static>) -> Deferred {
    detect_fork();
    let is_prepared = matches!(current(), Ok(Current::None)) && prepare(&entry).is_ok();
    let mut deferred = Deferred::of(entry);
    if !is_prepared {
        return deferred;
    }
    // In a forked child the pass is the parent's, and keeps no round from beginning.
    let own = (!pass.is_of_this_process()).then(|| RUNTIME.enter());
    let _ = register(&mut deferred, own.as_ref().unwrap_or(pass));
    deferred
}

/// The entry of a thread that is about to register.
pub(crate) fn allocate() -> Result<Box<Entry>, Error> {
    Entry::allocate().map_err(|NoMemory| Error::OutOfMemory)
}

/// Installs the hooks into the libc, at the first registration of a process, and arms the exit hook, which
/// may allocate. May take the dynamic loader's locks, so it runs before any pass is taken.
fn prepare(entry: &Entry) -> Result<(), Error> {
    RUNTIME.kernel.init().map_err(Error::RegistrationFailed)?;
    if FORK_HOOKED.load(Ordering::Relaxed) == 0 && FORK_HOOKED.swap(1, Ordering::Relaxed) == 0 {
        fork::install_hooks()
            .inspect_err(|_| FORK_HOOKED.store(0, Ordering::Relaxed))
            .map_err(Error::RegistrationFailed)?;
    }
    EXIT_HOOK
        .install(on_thread_exit)
        .and_then(|()| EXIT_HOOK.arm(ptr::from_ref(entry).cast()))
        .map_err(Error::RegistrationFailed)
}

/// Puts the calling thread into the registry, with the entry in `deferred`, for which [`prepare`] has
/// succeeded. The pass keeps rounds from beginning.
///
/// The thread may have been registered since [`current`] was read: its allocator may have started a thread
/// through psx, or a signal handler may have made a broadcast. So this reads it again, with signals blocked
/// and no allocation left, and uses the registered entry (invariant I14). The signals stay blocked until
/// `deferred` is dropped: a handler must not wait for the list's lock while its own thread holds it.
fn register(deferred: &mut Deferred, pass: &Pass<'_>) -> Result<&'static Entry, Error> {
    // First: `block_all` saves the mask that is put back.
    mask::unblock_summons().map_err(Error::RegistrationFailed)?;
    deferred.masked = Some(mask::block_all().map_err(Error::RegistrationFailed)?);
    match current().map_err(Error::RegistrationFailed)? {
        Current::None => {}
        Current::Own(me) => {
            // `prepare` has armed the exit hook with the spare entry.
            EXIT_HOOK.arm(ptr::from_ref(me).cast()).map_err(Error::RegistrationFailed)?;
            return Ok(me);
        }
        Current::Shared => return Err(Error::SharedThreadLocals),
    }
    let Some(mut entry) = deferred.entry.take() else { return Err(Error::OutOfMemory) };
    if let Err(error) = set_owner(&mut entry) {
        entry.robust_mutex().unlock();
        deferred.entry = Some(entry);
        return Err(error);
    }
    let entry = RUNTIME.register(entry, pass);
    // After the list has changed, for the same reason as in `on_thread_exit`.
    compiler_fence(Ordering::SeqCst);
    current::set(Some(entry));
    // SAFETY: alive until this thread takes it out of the registry (invariant I4).
    Ok(unsafe { &*entry.as_ptr() })
}

/// Makes the calling thread the entry's owner.
fn set_owner(entry: &mut Box<Entry>) -> Result<(), Error> {
    let pid = raw::getpid().map_err(Error::RegistrationFailed)?;
    if pid != RUNTIME.kernel.pid() {
        return Err(Error::OtherProcess);
    }
    let tid = raw::gettid().map_err(Error::RegistrationFailed)?;
    // After a raw `clone` the libc has a wrong id for the main thread. A wrong id for another thread
    // means that the libc takes it for the thread whose thread-locals it shares.
    if !entry.set_owner(tid, RUNTIME.gate.generation()) && tid != pid {
        return Err(Error::SharedThreadLocals);
    }
    RUNTIME.kernel.keep_signal_stack_mapped(tid);
    EXIT_HOOK.arm((&raw const **entry).cast()).map_err(Error::RegistrationFailed)
}
