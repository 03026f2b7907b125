//! The list of entries: intrusive, doubly linked, in no order. Contains `unsafe`: the links are
//! raw.
//!
//! Contract: an entry that goes in belongs to the list until it comes out, by its own thread's
//! hand or, where that thread is dead, by a round's. Changes are made under the list's lock, with
//! a pass through the gate out; the list is walked either under the lock or while the gate is
//! closed. Nothing is allocated, and nobody waits, under the lock.

use core::ptr::NonNull;

use super::entry::{Entry, Links};
use crate::sync::{Closed, Lock};
use crate::sys::const_on_linux;
use crate::sys::sync::{AtomicU32, Ordering, UnsafeCell};

pub(crate) struct ThreadList {
    /// Held for every change, for a few instructions. Never held by a thread that a round can stop, nor
    /// across a fork: the fork hooks of other libraries may wait for a thread that changes the list.
    pub(crate) lock: Lock,
    /// Under the lock, or with the gate closed.
    head: UnsafeCell<Option<NonNull<Entry>>>,
    /// How many entries there are. Changed under the lock; read by anyone as a hint (Relaxed), and
    /// exact while the gate is closed, which acquired the changes.
    length: AtomicU32,
}

// SAFETY: `head` is touched by one thread at a time (invariant I2); the entries are `Send`.
unsafe impl Send for ThreadList {}
// SAFETY: as above.
unsafe impl Sync for ThreadList {}

impl ThreadList {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { lock: Lock::new(), head: UnsafeCell::new(None), length: AtomicU32::new(0) }
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed) as usize
    }

    /// Puts an entry in. The caller holds a pass.
    pub(crate) fn insert(&self, entry: Box<Entry>) -> NonNull<Entry> {
        let entry = NonNull::from(Box::leak(entry));
        self.lock.acquire();
        self.head.with_mut(|head| {
            // SAFETY: under the lock (invariant I2); the entry is nobody else's yet, and the head
            // is in the list, so it is alive (invariant I1).
            unsafe {
                set_links(entry, Links { previous: None, next: *head });
                if let Some(next) = *head {
                    change_links(next, |links| links.previous = Some(entry));
                }
                *head = Some(entry);
            }
        });
        self.length.fetch_add(1, Ordering::Relaxed);
        self.lock.release();
        entry
    }

    /// Takes an entry out. The caller holds a pass.
    ///
    /// # Safety
    ///
    /// The entry is in the list, and nobody but the caller will use it from now on.
    pub(crate) unsafe fn remove(&self, entry: NonNull<Entry>) -> Box<Entry> {
        self.lock.acquire();
        // SAFETY: under the lock, and in the list by our caller's promise.
        unsafe { self.unlink(entry) };
        self.lock.release();
        // SAFETY: it came from a Box in `insert`, and the list has let go of it.
        unsafe { Box::from_raw(entry.as_ptr()) }
    }

    /// # Safety
    ///
    /// The entry is in the list, and the caller may change the list (invariant I2).
    unsafe fn unlink(&self, entry: NonNull<Entry>) {
        // SAFETY: the entry and so its neighbours are in the list, hence alive (invariant I1), and
        // the links are ours to change (invariant I2).
        unsafe {
            let Links { previous, next } = links(entry);
            match previous {
                Some(previous) => change_links(previous, |links| links.next = next),
                None => self.head.with_mut(|head| *head = next),
            }
            if let Some(next) = next {
                change_links(next, |links| links.previous = previous);
            }
        }
        self.length.fetch_sub(1, Ordering::Relaxed);
    }

    /// The entries of a frozen list.
    pub(crate) fn iter<'l>(&'l self, _frozen: &'l Closed<'_>) -> impl Iterator<Item = &'l Entry> {
        // SAFETY: the gate is closed for as long as the iterator lives (invariant I2), and an
        // entry in a frozen list stays there, alive (invariant I1).
        unsafe { self.walk() }
    }

    /// Calls `visit` with each entry, under the lock. Neither allocates nor waits.
    pub(crate) fn for_each(&self, visit: impl FnMut(&Entry)) {
        self.lock.acquire();
        // SAFETY: under the lock (invariant I2).
        unsafe { self.walk() }.for_each(visit);
        self.lock.release();
    }

    /// # Safety
    ///
    /// Until the iterator is gone, the list does not change.
    unsafe fn walk(&self) -> impl Iterator<Item = &Entry> {
        // SAFETY: ours to read, by our caller's promise.
        let mut next = self.head.with(|head| unsafe { *head });
        core::iter::from_fn(move || {
            let entry = next?;
            // SAFETY: in a list that does not change, hence alive.
            unsafe {
                next = links(entry).next;
                Some(&*entry.as_ptr())
            }
        })
    }

    /// Takes out of a frozen list those whose thread is dead. Frees nothing yet: whoever calls
    /// this has a round's locks, under which nothing may be freed.
    ///
    /// # Safety
    ///
    /// The threads of those that `is_dead` picks are dead, and the caller has closed the gate and
    /// released the round, so that nobody looks at their entries any more.
    pub(crate) unsafe fn unlink_dead(
        &self,
        _frozen: &Closed<'_>,
        mut is_dead: impl FnMut(&Entry) -> bool,
    ) -> Unlinked {
        let mut unlinked = Unlinked { top: None };
        // SAFETY: ours to read: the gate is closed (invariant I2).
        let mut next = self.head.with(|head| unsafe { *head });
        while let Some(entry) = next {
            // SAFETY: in a frozen list, hence alive (invariant I1).
            unsafe {
                next = links(entry).next;
                if is_dead(entry.as_ref()) {
                    self.unlink(entry);
                    set_links(entry, Links { previous: None, next: unlinked.top });
                    unlinked.top = Some(entry);
                }
            }
        }
        unlinked
    }

    /// In a forked child: leaves the parent's list behind, since another thread may have been changing
    /// it as it was copied, and begins one of `me` alone. The calling thread itself is not in the middle
    /// of a change of `me`.
    ///
    /// The other entries are never freed: which of their links are whole cannot be told.
    pub(crate) fn leak_and_restart(&self, me: Option<&Entry>) {
        let me = me.map(NonNull::from);
        // SAFETY: the child has one thread, and this is it. `me` is alive: the thread that frees it is
        // this one.
        unsafe {
            self.head.with_mut(|head| *head = me);
            if let Some(me) = me {
                set_links(me, Links::default());
            }
        }
        self.length.store(u32::from(me.is_some()), Ordering::Relaxed);
    }
}

impl Drop for ThreadList {
    fn drop(&mut self) {
        // SAFETY: nobody else has the list any more.
        let mut next = self.head.with(|head| unsafe { *head });
        while let Some(entry) = next {
            // SAFETY: the list owned its entries (invariant I1), and is gone.
            unsafe {
                next = links(entry).next;
                drop(Box::from_raw(entry.as_ptr()));
            }
        }
    }
}

/// Dead threads' entries, out of the list and not freed yet: that happens when this is dropped.
#[must_use = "to be dropped after the gate has opened, since it frees"]
pub(crate) struct Unlinked {
    top: Option<NonNull<Entry>>,
}

impl Drop for Unlinked {
    fn drop(&mut self) {
        while let Some(entry) = self.top {
            // SAFETY: `unlink_dead` has taken it out of the list and given it to us alone.
            unsafe {
                self.top = links(entry).next;
                drop(Box::from_raw(entry.as_ptr()));
            }
        }
    }
}

/// # Safety
///
/// The entry is alive, and the caller may look at the list (invariant I2).
unsafe fn links(entry: NonNull<Entry>) -> Links {
    // SAFETY: our caller's promise.
    unsafe { entry.as_ref().links.with(|links| *links) }
}

/// # Safety
///
/// The entry is alive, and the caller may change the list (invariant I2).
unsafe fn change_links(entry: NonNull<Entry>, change: impl FnOnce(&mut Links)) {
    // SAFETY: our caller's promise.
    unsafe { entry.as_ref().links.with_mut(|links| change(&mut *links)) }
}

/// # Safety
///
/// As [`change_links`].
unsafe fn set_links(entry: NonNull<Entry>, to: Links) {
    // SAFETY: our caller's promise.
    unsafe { change_links(entry, |links| *links = to) }
}

#[cfg(all(test, not(psx_loom)))]
mod tests;
