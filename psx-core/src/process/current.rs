//! The calling thread's entry, in a thread-local. Contains `unsafe`: it is found by pointer.

use core::cell::Cell;
use core::ptr::NonNull;

use super::RUNTIME;
use crate::Errno;
use crate::registry::Entry;
use crate::sys::raw;

thread_local! {
    /// The calling thread's entry while it is registered. Not for the signal handler: in a library
    /// loaded by `dlopen` a thread's first access to a thread-local allocates.
    static CURRENT: Cell<Option<NonNull<Entry>>> = const { Cell::new(None) };
}

/// What the thread-local of the calling thread holds.
pub(super) enum Current {
    /// Nothing, or an entry from before a fork.
    None,
    /// The thread's entry.
    Own(&'static Entry),
    /// The entry of another thread, with which it shares its thread-locals: the calling thread is a child
    /// of `vfork`, or of a raw `clone` without thread-locals of its own.
    Shared,
}

pub(super) fn current() -> Result<Current, Errno> {
    let generation = RUNTIME.gate.generation();
    Ok(match any().filter(|entry| entry.generation() == generation) {
        None => Current::None,
        Some(entry) if entry.tid() != raw::gettid()? => Current::Shared,
        // Only the first process of a pid namespace can have a child of `vfork` with the same ids.
        Some(entry) if entry.tid() == 1 && !raw::has_robust_list() => Current::Shared,
        Some(entry) => Current::Own(entry),
    })
}

/// The entry in the thread-local, even if it belongs to another thread or process.
pub(super) fn any() -> Option<&'static Entry> {
    // SAFETY: a thread clears its pointer before its entry is removed (invariant I4), so the entry is alive.
    // The reference does not leave the thread, so it is not used later.
    pointer().map(|entry| unsafe { &*entry.as_ptr() })
}

/// The same, as the pointer from the list, with which the entry may be freed.
pub(super) fn pointer() -> Option<NonNull<Entry>> {
    CURRENT.get()
}

/// Sets the thread-local. The caller ensures that no signal handler runs between this and the change of the
/// list.
pub(super) fn set(entry: Option<NonNull<Entry>>) {
    CURRENT.set(entry);
}

/// Whether the calling thread is in a round. If its id cannot be read, it counts as the owner of the entry
/// in its thread-local.
pub(super) fn is_in_round() -> bool {
    match current() {
        Ok(Current::Own(entry)) => entry.is_in_round(),
        Ok(Current::None | Current::Shared) => false,
        Err(_) => any().is_some_and(Entry::is_in_round),
    }
}
