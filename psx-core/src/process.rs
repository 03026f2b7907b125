//! The process's one registry, each thread's way to its own entry, and what the system calls of its
//! own accord: the signal handler, a thread's end, a fork. The only file with a `static`, and the
//! only one that knows which registry is meant. Contains `unsafe`: entries are found by pointer.

use core::cell::Cell;
use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};
use core::sync::atomic::compiler_fence;
use std::io;

use crate::memory::NoMemory;
use crate::registry::Entry;
use crate::round::Call;
use crate::runtime::Runtime;
use crate::sync::Pass;
use crate::sys::Kernel;
use crate::sys::clock::Deadline;
use crate::sys::hooks::{self, DESTRUCTOR_ROUNDS, ExitHook};
use crate::sys::sync::{AtomicU32, Ordering};
use crate::sys::{mask, raw, signal};
use crate::{Broadcast, Errno, Error, NamedThread, ProcessThread, Report, SpawnGuard, trace};

static RUNTIME: Runtime = Runtime::new(Kernel::new(on_signal));
static EXIT_HOOK: ExitHook = ExitHook::new();
/// Whether [`hooks::pthread_atfork`] has been called. Relaxed: only whose swap comes first matters.
static FORK_HOOKED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// The calling thread's entry, while it is registered. Not for the signal handler: in a library
    /// loaded by `dlopen` a thread's first access to it allocates.
    static CURRENT: Cell<Option<NonNull<Entry>>> = const { Cell::new(None) };
    /// The forks that this thread is making.
    static FORKS: Forks = const { Forks { depth: Cell::new(0), rounds_held: Cell::new(false) } };
}

/// The forks that a thread is in the middle of: more than one where a signal handler that interrupts a
/// fork forks as well.
/// Two cells, each written alone: the handler may come between a read and a write of the other.
struct Forks {
    /// Counted up first and down last, so that a fork in such a handler holds and releases nothing.
    depth: Cell<u8>,
    /// Whether the outermost one keeps rounds away.
    rounds_held: Cell<bool>,
}

/// What a registration leaves for its caller to drop after the pass: a handler that runs when the signals
/// are unblocked may broadcast, and an allocator may do anything when memory is freed.
#[must_use = "to be dropped after the pass"]
pub(crate) struct Leftovers {
    // Dropped in this order.
    masked: Option<mask::Masked>,
    entry: Option<Box<Entry>>,
}

impl Leftovers {
    /// Before the registration: the entry is still to be used, and no signal is blocked.
    fn of(entry: Box<Entry>) -> Self {
        Self { masked: None, entry: Some(entry) }
    }
}

/// The registry of this process.
pub(crate) fn runtime() -> &'static Runtime {
    &RUNTIME
}

/// What a thread finds in its own thread-local.
enum Place {
    /// Nothing, or what a thread of a process before a fork has left there.
    None,
    /// Its entry.
    Own(&'static Entry),
    /// The entry of another thread that it shares its thread-locals with: it is a child of `vfork`,
    /// or of a raw `clone` without thread-locals of its own.
    Borrowed,
}

fn place() -> Result<Place, Errno> {
    // SAFETY: a thread clears its pointer before its entry is freed (invariant I4), so what it
    // finds there is alive; and since the reference never leaves the thread, it is not used after.
    let entry = CURRENT.get().map(|entry| unsafe { &*entry.as_ptr() });
    Ok(match entry.filter(|entry| entry.generation() == RUNTIME.gate.generation()) {
        None => Place::None,
        Some(entry) if entry.tid() != raw::gettid()? => Place::Borrowed,
        // Only the first process of a pid namespace can have a child as of `vfork` with its own ids.
        Some(entry) if entry.tid() == 1 && !raw::has_robust_list() => Place::Borrowed,
        Some(entry) => Place::Own(entry),
    })
}

/// Whether the calling thread is inside a round. It is taken to be the owner of the entry in its
/// thread-local where it cannot be asked for its id.
fn is_in_round() -> bool {
    match place() {
        Ok(Place::Own(entry)) => entry.is_in_round(),
        Ok(Place::None | Place::Borrowed) => false,
        // SAFETY: as in `place`.
        Err(_) => CURRENT.get().is_some_and(|entry| unsafe { entry.as_ref() }.is_in_round()),
    }
}

/// The calling thread's entry, made if need be. Waits for the rounds that are on, but not beyond the
/// deadline, if there is one.
pub(crate) fn ensure_current(deadline: Option<Deadline>) -> Result<&'static Entry, Error> {
    detect_fork();
    match place().map_err(Error::RegistrationFailed)? {
        Place::Own(entry) => {
            // std's start may have come after this thread's registration.
            RUNTIME.kernel.keep_signal_stack_mapped(entry.tid());
            Ok(entry)
        }
        Place::None => {
            let entry = allocate()?;
            prepare(&entry)?;
            // Before the pass, to be dropped after it.
            let mut leftovers = Leftovers::of(entry);
            let pass = match deadline {
                Some(deadline) => RUNTIME.try_enter(deadline).ok_or(Error::Busy)?,
                None => RUNTIME.enter(),
            };
            register(&mut leftovers, &pass)
        }
        Place::Borrowed => Err(Error::SharedThreadLocals),
    }
}

/// A fork by a raw system call comes without the libc's hooks.
fn detect_fork() {
    RUNTIME.kernel.run_if_forked(|| reset_after_fork(false));
}

/// A place for a thread that is about to register.
pub(crate) fn allocate() -> Result<Box<Entry>, Error> {
    Entry::allocate().map_err(|NoMemory| Error::OutOfMemory)
}

/// What the first registration of a process does: hooks into the libc. May take the dynamic loader's
/// locks, so it comes before any pass is taken. And what may allocate in a registration: the libc's place
/// for the note of the thread's end.
fn prepare(entry: &Entry) -> Result<(), Error> {
    RUNTIME.kernel.init().map_err(Error::RegistrationFailed)?;
    if FORK_HOOKED.load(Ordering::Relaxed) == 0 && FORK_HOOKED.swap(1, Ordering::Relaxed) == 0 {
        hooks::pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child)
            .inspect_err(|_| FORK_HOOKED.store(0, Ordering::Relaxed))
            .map_err(Error::RegistrationFailed)?;
    }
    EXIT_HOOK
        .install(on_thread_exit)
        .and_then(|()| EXIT_HOOK.arm(ptr::from_ref(entry).cast()))
        .map_err(Error::RegistrationFailed)
}

/// Puts the calling thread into the registry, once [`prepare`] has succeeded, with the entry that is in
/// `leftovers`. What can fail comes first; and no round comes in between, because of the pass.
///
/// The thread may have been registered since it was found that it is not: by its allocator, which has
/// started a thread through psx, or by a signal handler. So it looks again, with the signals blocked and
/// nothing left that allocates, and then uses the entry that it has (invariant I14). The signals stay
/// blocked until `leftovers` is dropped: no handler is to wait for the list's lock that its own thread
/// holds.
fn register(leftovers: &mut Leftovers, pass: &Pass<'_>) -> Result<&'static Entry, Error> {
    // First, since it is the mask of this moment that is put back.
    mask::unblock_summons().map_err(Error::RegistrationFailed)?;
    leftovers.masked = Some(mask::block_all().map_err(Error::RegistrationFailed)?);
    match place().map_err(Error::RegistrationFailed)? {
        Place::None => {}
        Place::Own(me) => {
            // The note of the thread's end may name the spare entry.
            EXIT_HOOK.arm(ptr::from_ref(me).cast()).map_err(Error::RegistrationFailed)?;
            return Ok(me);
        }
        Place::Borrowed => return Err(Error::SharedThreadLocals),
    }
    let Some(mut entry) = leftovers.entry.take() else { return Err(Error::OutOfMemory) };
    if let Err(error) = ready(&mut entry) {
        entry.robust_mutex().unlock();
        leftovers.entry = Some(entry);
        return Err(error);
    }
    let entry = RUNTIME.register(entry, pass);
    // After the list has changed, for the same reason as in `on_thread_exit`.
    compiler_fence(Ordering::SeqCst);
    CURRENT.set(Some(entry));
    // SAFETY: alive until this thread takes it out of the registry (invariant I4).
    Ok(unsafe { &*entry.as_ptr() })
}

/// Makes the entry the calling thread's.
fn ready(entry: &mut Box<Entry>) -> Result<(), Error> {
    let pid = raw::getpid().map_err(Error::RegistrationFailed)?;
    if pid != RUNTIME.kernel.pid() {
        return Err(Error::OtherProcess);
    }
    let tid = raw::gettid().map_err(Error::RegistrationFailed)?;
    // After a raw `clone` the libc has a wrong id for the main thread. Where it has one for another
    // thread, it knows another thread by these thread-locals.
    if !entry.set_owner(tid, RUNTIME.gate.generation()) && tid != pid {
        return Err(Error::SharedThreadLocals);
    }
    RUNTIME.kernel.keep_signal_stack_mapped(tid);
    EXIT_HOOK.arm((&raw const **entry).cast()).map_err(Error::RegistrationFailed)
}

/// Registers a thread that has just been started, with the entry and the pass that its parent took for
/// it. A thread whose id cannot be read, or whose end cannot be noted, stays unregistered. What is
/// returned is to be dropped after the pass.
pub(crate) fn register_spawned(entry: Box<Entry>, pass: &Pass<'static>) -> Leftovers {
    detect_fork();
    let is_ready = matches!(place(), Ok(Place::None)) && prepare(&entry).is_ok();
    let mut leftovers = Leftovers::of(entry);
    if !is_ready {
        return leftovers;
    }
    // In a forked child the pass is its parent's, and keeps no round away.
    let own = (!pass.is_of_this_process()).then(|| RUNTIME.enter());
    let _ = register(&mut leftovers, own.as_ref().unwrap_or(pass));
    leftovers
}

/// Registers the calling thread, so that broadcasts reach it until it exits.
///
/// For threads that were not started through psx: `main`, a runtime's workers, a C library's. Does
/// nothing where the thread is registered already. While a round is on, it waits for its end; what
/// that round changed is not made up for here, which is why
/// [`Coverage::Require`](crate::Coverage::Require) is the default. That wait has no timeout of its own:
/// it is as long as the rounds of other threads, each of which ends by its
/// [timeout](crate::Broadcast::timeout) until its commit point.
///
/// The thread leaves the registry by itself: in the last of the libc's rounds of thread-specific
/// destructors, when its Rust thread-locals are gone. Signal 33 is unblocked for the thread.
///
/// # Errors
///
/// [`Error::OutOfMemory`], or [`Error::RegistrationFailed`] where the libc has no `pthread_key` left
/// (there are 1024 for all libraries of a program).
///
/// # Examples
///
/// ```
/// let foreign = std::thread::spawn(|| {
///     psx_core::adopt()?;
///     // ... what broadcasts change, they change here too
///     Ok::<(), psx_core::Error>(())
/// });
/// foreign.join().unwrap()?;
/// # Ok::<(), psx_core::Error>(())
/// ```
pub fn adopt() -> Result<(), Error> {
    ensure_current(None).map(drop)
}

/// Every thread of the process, registered or not: a snapshot for logs and health checks. Registers
/// the calling thread.
///
/// Threads that have ended are left out, a main thread too that left before the others. Ids are those
/// of this process's pid namespace, also where `/proc` belongs to one around it.
///
/// # Errors
///
/// Where the list would not be whole: `/proc` cannot be read (after a `chroot`, under a Landlock domain
/// that denies it), is not the kernel's, or does not show this process (it belongs to another pid
/// namespace); a thread that lives cannot be looked at. Also inside a broadcast's closure, and
/// where there is no memory left.
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

/// The thread of this process with the id `tid`, by the name that it has now.
pub(crate) fn name(tid: u32) -> NamedThread {
    NamedThread::registered(tid, RUNTIME.kernel.name(tid).unwrap_or_default())
}

/// Runs a round, from the calling thread.
pub(crate) fn broadcast(plan: &Broadcast, call: Call<'_>) -> Result<Report, Error> {
    if plan.timeout.is_zero() {
        return Err(Error::ZeroTimeout);
    }
    let deadline = Deadline::try_after(plan.timeout).map_err(Error::ClockUnavailable)?;
    let me = ensure_current(Some(deadline))?;
    // Before anything is logged: inside a round that might be the end of it.
    if me.is_in_round() || me.spawns_in_progress() > 0 {
        return Err(Error::Reentrant);
    }
    let span = trace::begin(call.name(), plan);
    let result = RUNTIME.broadcast(me, plan, deadline, call);
    trace::end(&span, &result);
    result
}

/// Signal 33 has come, to any thread of the process, of any sender. Uses no thread-local: the thread
/// may be one that psx does not know, and may be in the middle of the allocator.
extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // Whoever sent the signal: a thread whose entry is summoned stops at the first that reaches it,
    // so that signals from elsewhere, queued before the summons, do not hold a round up.
    // SAFETY: the kernel calls this handler with SA_SIGINFO, and a handler that passes the signal on
    // to this one passes on what it was given.
    unsafe {
        RUNTIME.answer(signal::stack_left(context));
        if !RUNTIME.kernel.is_summons(info) {
            RUNTIME.round.note_foreign_signal();
            RUNTIME.kernel.pass_on(signal, info, context);
        }
    }
}

/// A thread's end, told by the libc in each of its destructor rounds. Rust's thread-locals with
/// destructors are gone before the first (glibc) or go among them (musl); so the thread stays until
/// the last round. What the program still runs after that, the coverage proof catches.
unsafe extern "C" fn on_thread_exit(entry: *mut c_void) {
    let ours = |me: &NonNull<Entry>| ptr::eq(me.as_ptr(), entry.cast());
    let Some(me) = CURRENT.get().filter(ours) else { return };
    // SAFETY: as in `place`.
    let rounds = unsafe { me.as_ref() }.count_destructor_round();
    if rounds < DESTRUCTOR_ROUNDS && EXIT_HOOK.arm(entry).is_ok() {
        return;
    }
    detect_fork();
    // SAFETY: as in `place`.
    if unsafe { me.as_ref() }.generation() != RUNTIME.gate.generation() {
        return;
    }
    // musl leaves the signal blocked in a thread that was cancelled, and a round may be waiting.
    if cfg!(target_env = "musl") {
        // Where it is refused, that round ends at its timeout.
        let _ = mask::unblock_summons();
    }
    let pass = RUNTIME.enter();
    // No handler is to register the thread anew meanwhile, nor to wait for the list's lock. Where it is
    // refused, the entry goes all the same.
    let masked = mask::block_all();
    // Before the list changes: a signal handler that interrupts the change and forks must not find
    // the entry, which the child would keep.
    CURRENT.set(None);
    compiler_fence(Ordering::SeqCst);
    // SAFETY: this thread's entry, which is in the list until here.
    let entry = unsafe { RUNTIME.unregister(me, &pass) };
    entry.robust_mutex().unlock();
    drop(pass);
    drop(masked);
    drop(entry);
}

// The forking thread's robust mutex is unlocked before the fork and locked again after it, in the
// parent and in the child, where the libc has another id for the thread.

unsafe extern "C" fn before_fork() {
    detect_fork();
    let depth = FORKS.with(|forks| forks.depth.replace(forks.depth.get().saturating_add(1)));
    if depth > 0 {
        return;
    }
    // Not under the round's lock: a program may have a `pthread_mutex_unlock` of its own.
    if let Ok(Place::Own(me)) = place() {
        me.robust_mutex().unlock();
    }
    if !is_in_round() {
        let rounds_held = raw::gettid().is_ok_and(|me| RUNTIME.hold_for_fork(me));
        FORKS.with(|forks| forks.rounds_held.set(rounds_held));
    }
}

unsafe extern "C" fn after_fork_in_parent() {
    if FORKS.with(|forks| forks.depth.get()) <= 1 {
        // Before the lock is released: a child that is forked from here on may have a copy of a round.
        FORKS.with(|forks| forks.rounds_held.set(false));
        if let (false, Ok(me)) = (is_in_round(), raw::gettid()) {
            RUNTIME.release_after_fork(me);
        }
        if let Ok(Place::Own(me)) = place() {
            me.robust_mutex().lock(me.tid());
        }
    }
    end_fork();
}

unsafe extern "C" fn after_fork_in_child() {
    // A fork that this one has interrupted goes on in the child, and holds nothing there.
    let rounds_held = FORKS.with(|forks| forks.rounds_held.replace(false));
    reset_after_fork(rounds_held);
    end_fork();
}

/// The last step of a fork: until here one in a signal handler holds nothing of its own.
fn end_fork() {
    // The handler of a signal sees what comes before.
    compiler_fence(Ordering::SeqCst);
    FORKS.with(|forks| forks.depth.set(forks.depth.get().saturating_sub(1)));
}

/// Begins a registry of one. The forking thread's entry still has its parent's id here.
fn reset_after_fork(rounds_held: bool) {
    // SAFETY: as in `place`.
    let me = CURRENT.get().map(|entry| unsafe { &*entry.as_ptr() });
    // Without a hook no entry is kept: several of the child's threads may have come before this one,
    // and the entry's owner is ambiguous. And a copied round may use the entry.
    let me = me.filter(|me| rounds_held && me.generation() == RUNTIME.gate.generation());
    // Without its new id a thread cannot be summoned: it is not registered any more.
    let tid = raw::gettid();
    let me = me.filter(|_| tid.is_ok());
    let tid = tid.unwrap_or(Entry::NO_TID);
    RUNTIME.reset_after_fork(me, tid);
    if let Some(me) = me {
        me.robust_mutex().lock_in_child(tid);
    }
}
