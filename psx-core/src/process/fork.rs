//! What happens around a fork: hooks of the libc keep a round from being copied, and the child begins with
//! a registry of one thread. A fork by a raw system call runs no hook and is detected later.
//!
//! The forking thread unlocks its robust mutex before the fork and locks it again after it: in the child
//! the libc has another id for the thread.

use core::cell::Cell;
use core::sync::atomic::compiler_fence;

use super::RUNTIME;
use super::current::{self, Current, current, is_in_round};
use crate::Errno;
use crate::registry::Entry;
use crate::sys::sync::Ordering;
use crate::sys::{hooks, raw};

thread_local! {
    static FORK_STATE: ForkState = const { ForkState { depth: Cell::new(0), holds_round_lock: Cell::new(false) } };
}

/// The forks that a thread is in the middle of. There are several if a signal handler interrupts a fork and
/// forks. Two cells, each written alone: the handler may run between a read and a write of the other.
struct ForkState {
    /// Incremented first and decremented last, so that a fork in such a handler holds and releases nothing.
    depth: Cell<u8>,
    /// Whether the outermost fork holds the round's lock.
    holds_round_lock: Cell<bool>,
}

/// Has the libc call the hooks of this file around each fork.
pub(super) fn install_hooks() -> Result<(), Errno> {
    hooks::pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child)
}

/// Resets the runtime if this process was forked without the hooks.
pub(super) fn detect_fork() {
    RUNTIME.kernel.run_if_forked(|| reset_after_fork(false));
}

unsafe extern "C" fn before_fork() {
    detect_fork();
    let depth = FORK_STATE.with(|state| state.depth.replace(state.depth.get().saturating_add(1)));
    if depth > 0 {
        return;
    }
    // Not under the round's lock: a program may define its own `pthread_mutex_unlock`.
    if let Ok(Current::Own(me)) = current() {
        me.robust_mutex().unlock();
    }
    if !is_in_round() {
        let holds_round_lock = raw::gettid().is_ok_and(|me| RUNTIME.lock_for_fork(me));
        FORK_STATE.with(|state| state.holds_round_lock.set(holds_round_lock));
    }
}

unsafe extern "C" fn after_fork_in_parent() {
    if FORK_STATE.with(|state| state.depth.get()) <= 1 {
        // Before the lock is released: a child that is forked from here on may have a copy of a round.
        FORK_STATE.with(|state| state.holds_round_lock.set(false));
        if let (false, Ok(me)) = (is_in_round(), raw::gettid()) {
            RUNTIME.unlock_after_fork(me);
        }
        if let Ok(Current::Own(me)) = current() {
            me.robust_mutex().lock(me.tid());
        }
    }
    end_fork();
}

unsafe extern "C" fn after_fork_in_child() {
    // A fork that this one has interrupted goes on in the child, and holds nothing there.
    let holds_round_lock = FORK_STATE.with(|state| state.holds_round_lock.replace(false));
    reset_after_fork(holds_round_lock);
    end_fork();
}

/// The last step of a fork. Until here a fork in a signal handler holds nothing of its own.
fn end_fork() {
    // A signal handler sees everything before this.
    compiler_fence(Ordering::SeqCst);
    FORK_STATE.with(|state| state.depth.set(state.depth.get().saturating_sub(1)));
}

/// Begins, in a forked child, with a registry of one thread. The entry of the forking thread still has its
/// id of the parent.
fn reset_after_fork(holds_round_lock: bool) {
    // Without a hook no entry is kept: several threads of the child may have run before this one, so the
    // entry's owner is ambiguous, and a copied round may use the entry.
    let generation = RUNTIME.gate.generation();
    let me = current::any().filter(|me| holds_round_lock && me.generation() == generation);
    // A thread without an id cannot be summoned, so it is no longer registered.
    let tid = raw::gettid();
    let me = me.filter(|_| tid.is_ok());
    let tid = tid.unwrap_or(Entry::NO_TID);
    RUNTIME.reset_after_fork(me, tid);
    if let Some(me) = me {
        me.robust_mutex().lock_in_child(tid);
    }
}
