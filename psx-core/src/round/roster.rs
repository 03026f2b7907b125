//! The roster: the ids of a round's targets, and a cursor from which threads claim them.
//!
//! Need: if one thread signals a thousand others, that is the longest part of a round, while the threads that
//! have stopped have nothing to do. Design: the caller writes the ids of all targets into an array, and
//! threads claim them one by one: the caller until none is left, each target one or two when it arrives. No
//! target depends on a helper, since the caller alone would finish.
//!
//! The scheduler may preempt a helper at any point, and its round may be over when it resumes. So the cursor
//! and the slots contain the epoch, and the helper claims nothing in another round. It may still read a slot,
//! so arrays are never freed (invariant I8). With the index an array takes 40 bytes a thread; sizes double,
//! so all arrays together take less than twice the memory of the largest.
//!
//! Helpers do not walk the list of entries: a late helper would read entries that have been freed. Contains
//! `unsafe`: the array is behind a pointer.

use core::ptr;

use super::index::Index;
use crate::memory::{NoMemory, try_box, try_vec};
use crate::registry::Entry;
use crate::sync::Epoch;
use crate::sys::sync::{AtomicPtr, AtomicU64, Ordering};
use crate::sys::{HEADROOM, const_on_linux};

/// Names this file to the models' seeded faults.
#[cfg(psx_loom)]
pub(crate) const FILE: &str = file!();

/// The kernel has refused the summons, so the caller sends it again.
const REFUSED: u64 = 1 << 31;
const TID: u64 = REFUSED - 1;

pub(crate) struct Roster {
    /// Epoch, and how many slots are unclaimed. Set by the owner of the round's lock; decremented by any thread
    /// that claims a slot, by compare-and-swap under the epoch.
    cursor: AtomicU64,
    /// The current array. Replaced by the owner of the round's lock, while no round is on.
    array: AtomicPtr<Array>,
}

/// The slots and the index for a number of threads.
pub(crate) struct Array {
    /// Epoch, [`REFUSED`], id. Written by the caller before it announces the round; after that marked, under
    /// the epoch, by the thread that has claimed the slot.
    slots: Box<[AtomicU64]>,
    /// From the ids of the targets and the caller to their entries.
    index: Index,
    /// The array that this one has replaced.
    smaller: *mut Array,
}

/// A target that only the claiming thread summons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    index: usize,
    pub(crate) tid: u32,
}

impl Roster {
    const_on_linux! {
        pub(crate) fn new() -> Self {
            Self { cursor: AtomicU64::new(0), array: AtomicPtr::new(ptr::null_mut()) }
        }
    }

    /// How many targets the array has room for.
    pub(crate) fn capacity(&self) -> usize {
        self.slots().len()
    }

    /// Allocates an array for `count` targets, unless the current one has room for them. Called before the
    /// round's lock is acquired.
    pub(crate) fn larger(&self, count: usize) -> Result<Option<Box<Array>>, NoMemory> {
        if count <= self.capacity() {
            return Ok(None);
        }
        let count = count.next_power_of_two().max(HEADROOM);
        let mut slots = try_vec(count)?;
        slots.resize_with(count, || AtomicU64::new(0));
        let index = Index::for_threads(count)?;
        let slots = slots.into_boxed_slice();
        try_box(Array { slots, index, smaller: ptr::null_mut() }).map(Some)
    }

    /// Installs the array if it is larger than the current one, else returns it. The calling thread holds the
    /// round's lock, and no round is on.
    pub(crate) fn install(&self, array: Option<Box<Array>>) -> Option<Box<Array>> {
        let mut array = array?;
        if array.slots.len() <= self.capacity() {
            return Some(array);
        }
        // Relaxed: written under the round's lock.
        array.smaller = self.array.load(Ordering::Relaxed);
        // Release pairs with the Acquire in `array`.
        self.array.store(Box::into_raw(array), Ordering::Release);
        None
    }

    /// Clears the index if the epoch has wrapped since `last`. The calling thread holds the round's lock, and
    /// no round is on.
    pub(crate) fn clear_wrapped_index(&self, last: Epoch, epoch: Epoch) {
        if epoch.has_wrapped(last) {
            if let Some(array) = self.array() {
                array.index.clear();
            }
        }
    }

    /// Inserts an entry into the index of the round of `epoch`, so that the handler of its thread finds it.
    /// Returns `false` if another entry with the same id is in the index.
    pub(crate) fn insert_into_index(&self, epoch: Epoch, entry: &Entry) -> bool {
        self.array().is_none_or(|array| array.index.insert(epoch, entry.tid(), entry))
    }

    /// The entry of the calling thread, whose id is `tid`, if it is in the index of the round of `epoch`.
    pub(crate) fn find(&self, epoch: Epoch, tid: u32) -> Option<&Entry> {
        self.array()?.index.find(epoch, tid)
    }

    /// Writes the targets of the round of `epoch` into the slots, and returns how many there are. Stops when
    /// there is no more room. No thread can claim them before [`Roster::open`].
    pub(crate) fn set_targets(&self, epoch: Epoch, tids: impl Iterator<Item = u32>) -> usize {
        let mut count = 0;
        for (slot, tid) in self.slots().iter().zip(tids) {
            // Relaxed: published by the Release in `Word::publish`.
            slot.store(epoch.tag_wide(tid), Ordering::Relaxed);
            count += 1;
        }
        count
    }

    /// Makes the first `count` slots claimable. Relaxed: published by the Release in `Word::publish`.
    pub(crate) fn open(&self, epoch: Epoch, count: usize) {
        self.cursor.store(epoch.tag_wide(count as u32), Ordering::Relaxed);
    }

    /// Makes no slot claimable.
    pub(crate) fn close(&self, epoch: Epoch) {
        self.open(epoch, 0);
    }

    /// Claims the next target of the round of `epoch`.
    pub(crate) fn claim(&self, epoch: Epoch) -> Option<Claim> {
        // Relaxed: the exchange below decides.
        let mut cursor = self.cursor.load(Ordering::Relaxed);
        loop {
            let unclaimed = cursor as u32;
            if !epoch.matches(cursor) || unclaimed == 0 {
                return None;
            }
            // Relaxed: the Acquire in `Word::read` has acquired the slots.
            match self.cursor.compare_exchange_weak(
                cursor,
                cursor - 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    let index = unclaimed as usize - 1;
                    let slot = self.slots()[index].load(Ordering::Relaxed);
                    return epoch
                        .matches(slot)
                        .then_some(Claim { index, tid: (slot & TID) as u32 });
                }
                Err(now) => cursor = now,
            }
        }
    }

    /// Marks a claimed target whose summons the kernel has refused, so that the caller summons it.
    pub(crate) fn mark_refused(&self, epoch: Epoch, claim: Claim) {
        let claimed = epoch.tag_wide(claim.tid);
        // A failure means that the slot belongs to a later round. Relaxed: publishes nothing but the mark.
        let _ = self.slots()[claim.index].compare_exchange(
            claimed,
            claimed | REFUSED,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Removes the marks and returns the targets that had one. Only the caller of the round calls this.
    pub(crate) fn take_refused(&self, epoch: Epoch) -> impl Iterator<Item = Claim> {
        self.slots().iter().enumerate().filter_map(move |(index, slot)| {
            // Relaxed: the mark is all that is read.
            let seen = slot.load(Ordering::Relaxed);
            if !epoch.matches(seen) || seen & REFUSED == 0 {
                return None;
            }
            slot.store(seen & !REFUSED, Ordering::Relaxed);
            Some(Claim { index, tid: (seen & TID) as u32 })
        })
    }

    fn slots(&self) -> &[AtomicU64] {
        self.array().map_or(&[], |array| &array.slots)
    }

    fn array(&self) -> Option<&Array> {
        // SAFETY: arrays live as long as the roster (invariant I8). Acquire pairs with the Release in
        // `install`.
        unsafe { self.array.load(Ordering::Acquire).as_ref() }
    }
}

impl Drop for Roster {
    fn drop(&mut self) {
        // Relaxed: exclusive access.
        let mut array = self.array.load(Ordering::Relaxed);
        while !array.is_null() {
            // SAFETY: made by `Box::into_raw` in `install`; the access is exclusive.
            let freed = unsafe { Box::from_raw(array) };
            array = freed.smaller;
        }
    }
}

#[cfg(all(test, not(psx_loom)))]
mod tests {
    use super::*;

    fn with_targets(tids: &[u32]) -> (Roster, Epoch) {
        let (roster, epoch) = (Roster::new(), Epoch::default().next());
        let array = roster.larger(tids.len()).unwrap();
        assert!(roster.install(array).is_none());
        let count = roster.set_targets(epoch, tids.iter().copied());
        roster.open(epoch, count);
        (roster, epoch)
    }

    fn claimed(roster: &Roster, epoch: Epoch) -> Vec<u32> {
        let mut tids: Vec<_> =
            core::iter::from_fn(|| roster.claim(epoch)).map(|claim| claim.tid).collect();
        tids.sort_unstable();
        tids
    }

    #[test]
    fn each_target_is_claimed_once() {
        let tids: Vec<u32> = (1..=100).collect();
        let (roster, epoch) = with_targets(&tids);
        assert_eq!(claimed(&roster, epoch), tids);
        assert_eq!(roster.claim(epoch), None);
    }

    #[test]
    fn nothing_is_claimed_in_another_round_or_after_close() {
        let (roster, epoch) = with_targets(&[1, 2]);
        assert_eq!(roster.claim(epoch.next()), None);
        roster.close(epoch);
        assert_eq!(roster.claim(epoch), None);
    }

    #[test]
    fn a_refused_target_is_returned_once() {
        let (roster, epoch) = with_targets(&[7, 8]);
        let claim = roster.claim(epoch).unwrap();
        roster.mark_refused(epoch, claim);
        assert_eq!(roster.take_refused(epoch).collect::<Vec<_>>(), [claim]);
        assert_eq!(roster.take_refused(epoch).count(), 0);
    }

    #[test]
    fn a_late_refusal_does_not_mark_the_next_round() {
        let (roster, epoch) = with_targets(&[7]);
        let claim = roster.claim(epoch).unwrap();
        let next = epoch.next();
        roster.set_targets(next, [7].into_iter());
        roster.mark_refused(epoch, claim);
        assert_eq!(roster.take_refused(next).count(), 0);
    }

    #[test]
    fn a_smaller_array_does_not_replace_a_larger_one() {
        let (roster, _) = with_targets(&[1]);
        let (small, large) = (roster.larger(100).unwrap(), roster.larger(1_000).unwrap());
        assert!(roster.install(large).is_none());
        assert!(roster.install(small).is_some());
        assert_eq!(roster.capacity(), 1_024);
    }
}
