//! How a thread leaves the registry: in a destructor of thread-specific data. Contains `unsafe`: the entry
//! is freed.

use core::ffi::c_void;
use core::ptr::{self, NonNull};
use core::sync::atomic::compiler_fence;

use super::current;
use super::fork::detect_fork;
use super::{EXIT_HOOK, RUNTIME};
use crate::registry::Entry;
use crate::sys::hooks::DESTRUCTOR_ROUNDS;
use crate::sys::mask;
use crate::sys::sync::Ordering;

/// Called by the libc in each of a thread's destructor rounds. Rust's thread-locals are destroyed before the
/// first round (glibc) or among the rounds (musl), so the thread stays registered until the last one. Code
/// of the program that runs after that is found by the coverage proof.
pub(super) unsafe extern "C" fn on_thread_exit(entry: *mut c_void) {
    let is_own = |me: &NonNull<Entry>| ptr::eq(me.as_ptr(), entry.cast());
    let Some(me) = current::pointer().filter(is_own) else { return };
    // SAFETY: a thread's entry is alive until the thread takes it out of the registry (invariant I4).
    let rounds = unsafe { me.as_ref() }.count_destructor_round();
    if rounds < DESTRUCTOR_ROUNDS && EXIT_HOOK.arm(entry).is_ok() {
        return;
    }
    detect_fork();
    // SAFETY: as above (invariant I4).
    if unsafe { me.as_ref() }.generation() != RUNTIME.gate.generation() {
        return;
    }
    // musl leaves the signal blocked in a thread that was cancelled, and a round may be waiting.
    if cfg!(target_env = "musl") {
        // If it is refused, that round ends at its timeout.
        let _ = mask::unblock_summons();
    }
    let pass = RUNTIME.enter();
    // A signal handler must not register the thread again, nor wait for the list's lock. If blocking is
    // refused, the entry is removed all the same.
    let masked = mask::block_all();
    // Before the list changes: a signal handler that interrupts the change and forks must not find the
    // entry, which the child would keep.
    current::set(None);
    compiler_fence(Ordering::SeqCst);
    // SAFETY: the entry is this thread's, and in the list, since the pointer was set (invariant I4).
    let entry = unsafe { RUNTIME.unregister(me, &pass) };
    entry.robust_mutex().unlock();
    drop(pass);
    drop(masked);
    drop(entry);
}
