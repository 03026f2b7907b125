//! The threads whose signal is still queued although their summons was withdrawn.
//!
//! Need: an attempt that ends before a thread has arrived leaves a signal in that thread's queue. The next
//! attempt must not queue another, and must not begin before the thread has taken the first one: it would
//! stop all other threads in vain. Design: the caller inserts the thread's id here when it withdraws the
//! summons. The thread's handler removes the id when it takes the signal and finds that it is not summoned.
//! The caller waits, while all threads run, until the ids are gone.
//!
//! A signal that is taken just when the next round is announced: the caller publishes the round and then
//! looks whether the id is still here; the handler removes the id and then looks whether there is a round.
//! A sequentially consistent fence lies between the two steps on both sides, so at least one of them sees
//! the other's step: either the handler arrives, or the caller sends another signal (invariant I15).
//!
//! Slots are never freed, since a late handler may read them. They are 4 bytes a thread; each chunk holds
//! at least as many as all older ones.
//!
//! Downside: the handler searches all slots. It does so only for a signal that came too late.
//! Contains `unsafe`: chunks are found by pointer.

use core::ptr;

use crate::memory::{NoMemory, try_box, try_vec};
use crate::sys::HEADROOM;
use crate::sys::const_on_linux;
use crate::sys::futex::{self, Limit};
use crate::sys::sync::{AtomicPtr, AtomicU32, Ordering, fence};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

/// No thread's id.
const FREE: u32 = 0;

pub(crate) struct Pending {
    /// How many ids there are: a futex word. Changed after a slot is filled and after one is freed.
    count: AtomicU32,
    /// The newest chunk. Replaced by the holder of the round's lock.
    chunks: AtomicPtr<Chunk>,
}

/// Thread ids. Filled by the holder of the round's lock, freed by any thread.
pub(crate) struct Chunk {
    slots: Box<[AtomicU32]>,
    older: *const Chunk,
}

impl Pending {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { count: AtomicU32::new(0), chunks: AtomicPtr::new(ptr::null_mut()) }
        }
    }

    /// A chunk, unless there is room for `count` threads. Allocates, so it comes before the round's lock
    /// is taken.
    pub(crate) fn larger(&self, count: usize) -> Result<Option<Box<Chunk>>, NoMemory> {
        if count <= self.capacity() {
            return Ok(None);
        }
        let mut slots = try_vec(count.next_power_of_two().max(HEADROOM))?;
        slots.resize_with(slots.capacity(), || AtomicU32::new(FREE));
        let slots = slots.into_boxed_slice();
        try_box(Chunk { slots, older: ptr::null() }).map(Some)
    }

    /// Adds a chunk, or returns it if another caller has added one that is as large. The caller holds the
    /// round's lock.
    pub(crate) fn install(&self, chunk: Option<Box<Chunk>>) -> Option<Box<Chunk>> {
        let mut chunk = chunk?;
        if chunk.slots.len() <= self.capacity() {
            return Some(chunk);
        }
        // Relaxed: written under the same lock.
        chunk.older = self.chunks.load(Ordering::Relaxed);
        // Release pairs with the Acquire in `chunks`.
        self.chunks.store(Box::into_raw(chunk), Ordering::Release);
        None
    }

    /// Whether there are no ids. Acquire pairs with the Release in `insert`: a handler that has seen its
    /// summons withdrawn has seen the count before it.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Inserts the thread `tid`, whose summons is about to be withdrawn. Without a free slot nothing is
    /// inserted: then the next attempt sends another signal. The caller holds the round's lock.
    pub(crate) fn insert(&self, tid: u32) {
        if let Some(slot) = self.slots().find(|slot| slot.load(Ordering::Relaxed) == FREE) {
            // Before the slot, so that the count is never less than the number of ids.
            self.count.fetch_add(1, Ordering::Release);
            // Release pairs with the Acquire in `remove`.
            slot.store(tid, Ordering::Release);
        }
    }

    /// Whether the signal of the thread `tid` is still queued, as far as is known. Exact under the round's
    /// lock. Relaxed: only the fence orders it, if the answer must not be older than the announcement of a
    /// round.
    pub(crate) fn contains(&self, tid: u32) -> bool {
        // No more slots are filled than this: most often a few, at the beginning.
        let count = self.count.load(Ordering::Acquire) as usize;
        let ids = self.slots().map(|slot| slot.load(Ordering::Relaxed));
        count > 0 && ids.filter(|&id| id != FREE).take(count).any(|id| id == tid)
    }

    /// Removes the thread `tid`: it has taken its signal, or cannot take it any more. Returns whether it was
    /// here; then what the calling thread reads next is not older than the removal. Async-signal-safe.
    pub(crate) fn remove(&self, tid: u32) -> bool {
        if self.is_empty() {
            return false;
        }
        let is_removed = |slot: &AtomicU32| {
            slot.load(Ordering::Relaxed) == tid
                && slot.compare_exchange(tid, FREE, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        if !self.slots().any(is_removed) {
            return false;
        }
        // Pairs with the fence in `announced`.
        fence(Ordering::SeqCst);
        // Relaxed: a sleeper reads the slots again.
        if self.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            futex::wake(&self.count, i32::MAX);
        }
        true
    }

    /// Between the announcement of a round and [`Pending::contains`].
    pub(crate) fn announced(&self) {
        // Pairs with the fence in `remove`.
        fence(Ordering::SeqCst);
    }

    /// Sleeps until there is no id, at most until the limit. May return earlier.
    pub(crate) fn wait(&self, limit: Limit) {
        let count = self.count.load(Ordering::Relaxed);
        if count != 0 {
            futex::wait(&self.count, count, limit);
        }
    }

    /// Empty, in a forked child: signals are not inherited.
    pub(crate) fn reset_after_fork(&self) {
        // Relaxed: the child has one thread.
        self.slots().for_each(|slot| slot.store(FREE, Ordering::Relaxed));
        self.count.store(0, Ordering::Relaxed);
    }

    fn capacity(&self) -> usize {
        self.chunks().map(|chunk| chunk.slots.len()).sum()
    }

    fn slots(&self) -> impl Iterator<Item = &AtomicU32> {
        self.chunks().flat_map(|chunk| &chunk.slots)
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        // Acquire pairs with the Release in `install`.
        let mut next: *const Chunk = self.chunks.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            // SAFETY: null, or made by `Box::into_raw` in `install`, and never freed while `self` is there.
            let chunk = unsafe { next.as_ref() }?;
            next = chunk.older;
            Some(chunk)
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut chunk = self.chunks.load(Ordering::Relaxed);
        while !chunk.is_null() {
            // SAFETY: made by `Box::into_raw` in `install`; no other thread has `self` any more.
            let freed = unsafe { Box::from_raw(chunk) };
            chunk = freed.older.cast_mut();
        }
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;

    fn with_room_for(count: usize) -> Pending {
        let pending = Pending::new();
        assert!(pending.install(pending.larger(count).unwrap()).is_none());
        pending
    }

    #[test]
    fn a_thread_is_there_until_it_is_removed() {
        let pending = with_room_for(2);
        assert!(pending.is_empty() && !pending.contains(7));
        pending.insert(7);
        pending.insert(8);
        assert!(pending.contains(7) && pending.contains(8));
        assert!(pending.remove(7) && !pending.remove(7));
        assert!(!pending.contains(7) && !pending.is_empty());
        pending.reset_after_fork();
        assert!(pending.is_empty() && !pending.contains(8) && !pending.remove(8));
    }

    #[test]
    fn room_grows_and_keeps_what_is_there() {
        let pending = with_room_for(1);
        for tid in 1..=HEADROOM as u32 {
            pending.insert(tid);
        }
        pending.insert(1_000);
        assert!(!pending.contains(1_000), "there is no room");
        let chunk = pending.larger(HEADROOM + 1).unwrap();
        assert!(pending.install(chunk).is_none());
        assert!(pending.larger(HEADROOM + 1).unwrap().is_none());
        pending.insert(1_000);
        assert!(pending.contains(1_000) && pending.contains(1) && pending.remove(1));
    }

    #[test]
    fn a_waiting_thread_is_woken_when_the_last_one_is_removed() {
        let pending = with_room_for(1);
        pending.insert(7);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                while pending.contains(7) {
                    pending.wait(Limit::Never);
                }
            });
            assert!(pending.remove(7));
            waiting.join().unwrap();
        });
        pending.wait(Limit::Never);
    }
}
