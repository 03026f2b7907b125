//! A hash table from thread ids to entries, by which the signal handler finds its thread's entry.
//!
//! Need: the handler must not use a thread-local. In a library that was loaded by `dlopen` the first access
//! to one allocates, and the handler may have interrupted the allocator. Design: before the caller announces
//! a round, it inserts the id of each target. The handler asks the kernel for its thread's id and looks it
//! up.
//!
//! Keys contain the epoch: a key of another epoch marks a free slot. The table is cleared only when the epoch
//! wraps, after half a billion rounds, since a key from before the wrap would match again. Like the
//! roster's array, the table is never freed, since a late handler may read it (invariant I8).
//!
//! Downside: a lookup can race with the caller that prepares the next round. Therefore a reader reads the key
//! again after the pointer, and uses the pointer only if the key is the same. Contains `unsafe`: entries are
//! found by pointer.

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
    /// Their number is a power of two.
    slots: Box<[Slot]>,
}

/// Written by the caller before it announces the round; read by handlers.
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

    /// Removes all keys. The calling thread holds the round's lock, and no round is on.
    pub(super) fn clear(&self) {
        for slot in &self.slots {
            // Relaxed: a late handler that reads the old key reads the pointer that belongs to it.
            slot.key.store(0, Ordering::Relaxed);
        }
    }

    /// Inserts the thread `tid` for the round of `epoch`. Returns `false` if the table has an entry with this
    /// id already. The calling thread holds the round's lock, and has not announced the round.
    pub(super) fn insert(&self, epoch: Epoch, tid: u32, entry: &Entry) -> bool {
        let key = epoch.tag_wide(tid);
        for slot in self.probe(tid) {
            // Relaxed: written under the round's lock.
            let seen = slot.key.load(Ordering::Relaxed);
            if seen == key {
                return false;
            }
            if !epoch.matches(seen) {
                // The key first. Release pairs with the Acquire of the pointer in `find`: a late handler that
                // reads this pointer after an older key sees that the key has changed. For the targets, the
                // Release in `Word::publish` publishes both.
                // Release pairs with the Acquire in `find`: a late handler that finds its round over must see the
                // thread among the pending ones.
                slot.key.store(key, Ordering::Release);
                slot.entry.store(ptr::from_ref(entry).cast_mut(), Ordering::Release);
                return true;
            }
        }
        debug_assert!(false, "the table is full");
        true
    }

    /// The entry of the calling thread, whose id is `tid`, in the round of `epoch`.
    pub(super) fn find(&self, epoch: Epoch, tid: u32) -> Option<&Entry> {
        let key = epoch.tag_wide(tid);
        for slot in self.probe(tid) {
            // The Acquire in `Word::read` has acquired the table of this epoch. Acquire keeps these three
            // loads in order; that of the pointer pairs with the Release in `insert`.
            let seen = slot.key.load(Ordering::Acquire);
            if seen == key {
                let entry = slot.entry.load(Ordering::Acquire);
                let unchanged = slot.key.load(Ordering::Acquire) == key;
                // SAFETY: not null, since the key was inserted; the entry of this epoch, since the key is
                // unchanged; alive while its thread is in the handler (invariant I12).
                return unchanged.then(|| unsafe { &*entry });
            }
            if !epoch.matches(seen) {
                return None;
            }
        }
        None
    }

    /// All slots, in the order in which `tid` is searched.
    fn probe(&self, tid: u32) -> impl Iterator<Item = &Slot> {
        let mask = self.slots.len() - 1;
        // Fibonacci hashing. The table has at least two slots, so the shift is less than 32.
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
    fn a_thread_is_found_by_its_id_in_its_round_only() {
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
    fn an_id_is_inserted_once_a_round() {
        let (index, epoch) = (Index::for_threads(2).unwrap(), Epoch::default().next());
        let [newer, older] = &entries();
        assert!(index.insert(epoch, 7, newer));
        assert!(!index.insert(epoch, 7, older));
        assert!(index.find(epoch, 7).is_some_and(|found| ptr::eq(found, &raw const **newer)));
        assert!(index.insert(epoch.next(), 7, older));
        assert!(index.find(epoch, 7).is_none(), "the round of the first epoch is over");
    }

    #[test]
    fn a_lookup_of_an_absent_id_in_a_full_table_ends() {
        let (index, epoch) = (Index::for_threads(2).unwrap(), Epoch::default().next());
        let [entry] = &entries();
        for tid in 0..4 {
            assert!(index.insert(epoch, tid, entry));
        }
        assert!(index.find(epoch, 4).is_none());
    }
}
