//! From a thread's id to its entry: how a signal handler finds the entry of the thread that it
//! interrupted.
//!
//! Need: the handler may not use a thread-local. In a library that was loaded by `dlopen` the first
//! access to one allocates, and the handler may have interrupted the allocator. Design: before the
//! caller announces a round, it enters the id of every target into a hash table beside the roster.
//! The handler asks the kernel for its own thread's id and looks that up.
//!
//! Keys carry the epoch, so that a key of another epoch is a free slot. The table is cleared only when
//! the epoch begins anew, after half a billion attempts: a key that is left from then would look like
//! one of today. Like the roster's array the table is never freed, since a late handler may read it.
//!
//! Downside: a lookup can race with the caller that writes the table for the next round. A reader
//! therefore reads the key again after the pointer, and takes the pointer only if the key is the
//! same. Contains `unsafe`: entries are found by pointer.

use core::ptr;

use crate::memory::{NoMemory, try_vec};
use crate::registry::Entry;
use crate::sync::Epoch;
use crate::sys::sync::{AtomicPtr, AtomicU64, Ordering};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

/// A hash table with linear probing, at most half full.
pub(super) struct Index {
    /// As many as a power of two.
    slots: Box<[Slot]>,
}

/// Written by the caller before it announces the round, read by handlers.
struct Slot {
    /// Epoch and thread id.
    key: AtomicU64,
    entry: AtomicPtr<Entry>,
}

impl Index {
    /// A table for `threads` threads.
    pub(super) fn for_threads(threads: usize) -> Result<Self, NoMemory> {
        let count = (2 * threads.max(1)).next_power_of_two();
        let mut slots = try_vec(count)?;
        let free = || Slot { key: AtomicU64::new(0), entry: AtomicPtr::new(ptr::null_mut()) };
        slots.resize_with(count, free);
        Ok(Self { slots: slots.into_boxed_slice() })
    }

    /// Forgets all keys. The caller holds the round's lock, and no round is on.
    pub(super) fn clear(&self) {
        for slot in &self.slots {
            // Relaxed: a handler that still reads an old key reads the pointer of that key.
            slot.key.store(0, Ordering::Relaxed);
        }
    }

    /// Enters the thread `tid` for the round of `epoch`. Returns `false` where another entry has
    /// that id already. The caller holds the round's lock, and has not announced the round.
    pub(super) fn insert(&self, epoch: Epoch, tid: u32, entry: &Entry) -> bool {
        let key = epoch.tag_wide(tid);
        for slot in self.probe(tid) {
            // Relaxed: written under the same lock.
            let seen = slot.key.load(Ordering::Relaxed);
            if seen == key {
                return false;
            }
            if !epoch.matches(seen) {
                // The key first: Release pairs with the Acquire in `find`, so that a handler which
                // reads this pointer under an older key sees that the key has changed. What makes
                // both visible to the targets is the round word's Release.
                slot.key.store(key, Ordering::Relaxed);
                slot.entry.store(ptr::from_ref(entry).cast_mut(), Ordering::Release);
                return true;
            }
        }
        debug_assert!(false, "more threads than the table was made for");
        true
    }

    /// The entry of the calling thread, whose id is `tid`, in the round of `epoch`.
    pub(super) fn find(&self, epoch: Epoch, tid: u32) -> Option<&Entry> {
        let key = epoch.tag_wide(tid);
        for slot in self.probe(tid) {
            // The round word has published what this epoch needs. Acquire keeps the three loads in
            // this order; that of the pointer pairs with the Release in `insert`.
            let seen = slot.key.load(Ordering::Acquire);
            if seen == key {
                let entry = slot.entry.load(Ordering::Acquire);
                let unchanged = slot.key.load(Ordering::Acquire) == key;
                // SAFETY: not null, since the key was entered; the entry of this epoch, since the
                // key is unchanged; and alive while its thread is in the handler (invariant I12).
                return unchanged.then(|| unsafe { &*entry });
            }
            if !epoch.matches(seen) {
                return None;
            }
        }
        None
    }

    /// The slots in which `tid` may be, each once.
    fn probe(&self, tid: u32) -> impl Iterator<Item = &Slot> {
        let mask = self.slots.len() - 1;
        // Fibonacci hashing: the table has at least two slots, and its size is a power of two.
        let spread = tid.wrapping_mul(0x9e37_79b1);
        let home = (spread >> (u32::BITS - self.slots.len().trailing_zeros())) as usize;
        (0..=mask).map(move |step| &self.slots[(home + step) & mask])
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;

    fn entries<const N: usize>() -> [Box<Entry>; N] {
        [(); N].map(|()| Entry::allocate().unwrap())
    }

    #[test]
    fn a_thread_is_found_by_its_id_in_its_round_alone() {
        let (index, epoch) = (Index::for_threads(3).unwrap(), Epoch::default().next());
        let [a, b, c] = &entries();
        // Three ids with the same home, so that two of them are found by probing.
        let home = |tid: u32| ptr::from_ref(index.probe(tid).next().unwrap());
        let mut tids = (1..).filter(|&tid| home(tid) == home(1));
        let mut next = || tids.next().unwrap();
        let threads = [(next(), a), (next(), b), (next(), c)];
        for (tid, entry) in threads {
            assert!(index.insert(epoch, tid, entry));
        }
        for (tid, entry) in threads {
            assert!(index.find(epoch, tid).is_some_and(|found| ptr::eq(found, &raw const **entry)));
            assert!(index.find(epoch.next(), tid).is_none());
        }
        assert!(index.find(epoch, next()).is_none());
    }

    #[test]
    fn an_id_is_taken_once_a_round() {
        let (index, epoch) = (Index::for_threads(2).unwrap(), Epoch::default().next());
        let [newer, older] = &entries();
        assert!(index.insert(epoch, 7, newer));
        assert!(!index.insert(epoch, 7, older));
        assert!(index.find(epoch, 7).is_some_and(|found| ptr::eq(found, &raw const **newer)));
        assert!(index.insert(epoch.next(), 7, older));
        assert!(index.find(epoch, 7).is_none(), "the round of the first epoch is over");
    }

    #[test]
    fn a_full_table_answers_for_an_id_that_it_does_not_have() {
        let (index, epoch) = (Index::for_threads(2).unwrap(), Epoch::default().next());
        let [entry] = &entries();
        for tid in 0..4 {
            assert!(index.insert(epoch, tid, entry));
        }
        assert!(index.find(epoch, 4).is_none());
    }
}
