//! The list of entries: intrusive, doubly linked, the newest entry first. Contains `unsafe`: the links are
//! raw pointers.
//!
//! Contract: an inserted entry belongs to the list until its own thread removes it or, if that thread is
//! dead, the caller of a round. A thread that changes the list holds a pass through the gate and the list's
//! lock. A thread that walks the list holds the lock or has closed the gate. No thread allocates or waits
//! while it holds the lock.

use core::ptr::NonNull;

use super::entry::{Entry, Links};
use crate::sync::{Closed, Lock};
use crate::sys::const_on_linux;
use crate::sys::sync::{AtomicU32, Ordering, UnsafeCell};

pub(crate) struct ThreadList {
    /// Held for each change, for a few instructions, by a thread that a round cannot stop then. Not held across
    /// a fork: other libraries' fork hooks may wait for a thread that changes the list.
    pub(crate) lock: Lock,
    /// Accessed under the lock, or by the caller of a round while the gate is closed.
    head: UnsafeCell<Option<NonNull<Entry>>>,
    /// The number of entries. Written by the thread that changes the list; any thread may read it as a hint
    /// (Relaxed). It is exact for the thread that has closed the gate, which has acquired the changes.
    length: AtomicU32,
}

// SAFETY: one thread at a time accesses `head` (invariant I2); the entries are `Send`.
unsafe impl Send for ThreadList {}
// SAFETY: as above (invariant I2).
unsafe impl Sync for ThreadList {}

impl ThreadList {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { lock: Lock::new(), head: UnsafeCell::new(None), length: AtomicU32::new(0) }
        }
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed) as usize
    }

    /// Inserts an entry. The calling thread holds a pass.
    pub(crate) fn insert(&self, entry: Box<Entry>) -> NonNull<Entry> {
        let entry = NonNull::from(Box::leak(entry));
        self.lock.acquire();
        self.head.with_mut(|head| {
            // SAFETY: under the lock (invariant I2); no other thread has the entry yet, and the head is in
            // the list, so it is alive (invariant I1).
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

    /// Removes an entry. The calling thread holds a pass.
    ///
    /// # Safety
    ///
    /// The entry is in the list, and no other thread uses it from now on.
    pub(crate) unsafe fn remove(&self, entry: NonNull<Entry>) -> Box<Entry> {
        self.lock.acquire();
        // SAFETY: under the lock (invariant I2); in the list, as the caller promises.
        unsafe { self.unlink(entry) };
        self.lock.release();
        // SAFETY: it came from a Box in `insert`, and is no longer in the list (invariant I1).
        unsafe { Box::from_raw(entry.as_ptr()) }
    }

    /// # Safety
    ///
    /// The entry is in the list, and the caller may change the list (invariant I2).
    unsafe fn unlink(&self, entry: NonNull<Entry>) {
        // SAFETY: the entry and its neighbours are in the list, so they are alive (invariant I1); the caller
        // may change their links (invariant I2).
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
        // SAFETY: the gate is closed as long as the iterator exists, so the list does not change (invariant
        // I2), and its entries are alive (invariant I1).
        unsafe { self.walk() }
    }

    /// Calls `visit` with each entry, under the lock. `visit` must not allocate or wait.
    pub(crate) fn for_each(&self, visit: impl FnMut(&Entry)) {
        self.lock.acquire();
        // SAFETY: under the lock (invariant I2).
        unsafe { self.walk() }.for_each(visit);
        self.lock.release();
    }

    /// # Safety
    ///
    /// The list does not change as long as the iterator exists.
    unsafe fn walk(&self) -> impl Iterator<Item = &Entry> {
        // SAFETY: the list does not change, as the caller promises (invariant I2).
        let mut next = self.head.with(|head| unsafe { *head });
        core::iter::from_fn(move || {
            let entry = next?;
            // SAFETY: in a list that does not change, so it is alive (invariant I1).
            unsafe {
                next = links(entry).next;
                Some(&*entry.as_ptr())
            }
        })
    }

    /// Removes the entries of dead threads from a frozen list. Does not free them: nothing may be freed while
    /// the gate is closed (invariant I11).
    ///
    /// # Safety
    ///
    /// If `is_dead` returns true, the entry's thread is dead. The calling thread has closed the gate and
    /// released the round, so no thread reads these entries any more.
    pub(crate) unsafe fn unlink_dead(
        &self,
        _frozen: &Closed<'_>,
        mut is_dead: impl FnMut(&Entry) -> bool,
    ) -> Unlinked {
        let mut unlinked = Unlinked { top: None };
        // SAFETY: the gate is closed (invariant I2).
        let mut next = self.head.with(|head| unsafe { *head });
        while let Some(entry) = next {
            // SAFETY: in a frozen list, so it is alive (invariant I1), and may be changed (invariant I2).
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

    /// In a forked child: abandons the parent's list, since another thread may have been changing it when it
    /// was copied, and starts a new one that contains only `me`. The calling thread is not in the middle of a
    /// change of `me` (invariant I2).
    ///
    /// The other entries are never freed: their links may be torn.
    pub(crate) fn leak_and_restart(&self, me: Option<&Entry>) {
        let me = me.map(NonNull::from);
        // SAFETY: this is the child's only thread (invariant I2). `me` is alive: only this thread frees it
        // (invariant I1).
        unsafe {
            self.head.with_mut(|head| *head = me);
            if let Some(me) = me {
                set_links(me, Links::default());
            }
        }
        // Relaxed: the child has one thread.
        self.length.store(u32::from(me.is_some()), Ordering::Relaxed);
    }
}

impl Drop for ThreadList {
    fn drop(&mut self) {
        // SAFETY: exclusive access.
        let mut next = self.head.with(|head| unsafe { *head });
        while let Some(entry) = next {
            // SAFETY: the list owns its entries, so they are alive (invariant I1).
            unsafe {
                next = links(entry).next;
                drop(Box::from_raw(entry.as_ptr()));
            }
        }
    }
}

/// The entries of dead threads, removed from the list. Freed when dropped.
#[must_use = "frees entries when dropped, so drop it after the gate has opened"]
pub(crate) struct Unlinked {
    top: Option<NonNull<Entry>>,
}

impl Drop for Unlinked {
    fn drop(&mut self) {
        while let Some(entry) = self.top {
            // SAFETY: `unlink_dead` has removed it from the list and moved it here; its thread is dead
            // (invariant I3).
            unsafe {
                self.top = links(entry).next;
                drop(Box::from_raw(entry.as_ptr()));
            }
        }
    }
}

/// # Safety
///
/// The entry is alive (invariant I1), and the caller may read the list (invariant I2).
unsafe fn links(entry: NonNull<Entry>) -> Links {
    // SAFETY: as the caller promises.
    unsafe { entry.as_ref().links.with(|links| *links) }
}

/// # Safety
///
/// The entry is alive (invariant I1), and the caller may change the list (invariant I2).
unsafe fn change_links(entry: NonNull<Entry>, change: impl FnOnce(&mut Links)) {
    // SAFETY: as the caller promises.
    unsafe { entry.as_ref().links.with_mut(|links| change(&mut *links)) }
}

/// # Safety
///
/// As [`change_links`].
unsafe fn set_links(entry: NonNull<Entry>, to: Links) {
    // SAFETY: as the caller promises.
    unsafe { change_links(entry, |links| *links = to) }
}

#[cfg(all(test, not(psx_loom)))]
mod tests;
