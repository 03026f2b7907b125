//! Who is to be summoned, and by whom: the shared cursor of helped signalling.
//!
//! Need: one thread that signals a thousand others is the longest part of a round, while those
//! already stopped have nothing to do. Design: the caller lays out the ids of all targets, and
//! whoever has time claims the next one: the caller until none is left, each target one or two as
//! it arrives. Nobody depends on a helper, since the caller alone would finish.
//!
//! A helper may be stopped by the scheduler at any point, and find its round long over. So both the
//! cursor and the slots carry the epoch: it claims nothing in another round. And the slots are
//! never freed, since it may still look at one; with their index they are 40 bytes a thread, and arrays
//! double, so that all of them together are less than twice the largest.
//!
//! Why not walk the list of entries itself: a late helper would step on entries that have left it.
//! Contains `unsafe`: the array is behind a pointer.

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

/// The kernel did not take the summons: the caller has to see to it.
const REFUSED: u64 = 1 << 31;
const TID: u64 = REFUSED - 1;

pub(crate) struct Roster {
    /// Epoch, and how many are unclaimed. Set by the holder of the round's lock, claimed by
    /// compare-and-swap.
    cursor: AtomicU64,
    /// The current array. Replaced by the holder of the round's lock, between rounds.
    array: AtomicPtr<Array>,
}

/// Slots: epoch, [`REFUSED`], id. Written by the caller before it announces the round; marked by a
/// helper under the epoch.
pub(crate) struct Array {
    slots: Box<[AtomicU64]>,
    /// From the ids in the slots, and the caller's, to the entries.
    index: Index,
    smaller: *mut Array,
}

/// A target that the claimant alone is to summon.
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

    /// How many targets there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.slots().len()
    }

    /// An array for `count` targets, unless there is room for them. Allocates, so it comes before
    /// the round's lock is taken.
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

    /// Puts a larger array in place, or gives it back where another caller was faster. The caller
    /// holds the round's lock, and no round is on.
    pub(crate) fn install(&self, array: Option<Box<Array>>) -> Option<Box<Array>> {
        let mut array = array?;
        if array.slots.len() <= self.capacity() {
            return Some(array);
        }
        // Relaxed: written under the same lock.
        array.smaller = self.array.load(Ordering::Relaxed);
        // Release pairs with the Acquire in `slots`.
        self.array.store(Box::into_raw(array), Ordering::Release);
        None
    }

    /// Prepares the index for the round of `epoch`, the one after `last`. The caller holds the
    /// round's lock, and no round is on.
    pub(crate) fn clear_wrapped_index(&self, last: Epoch, epoch: Epoch) {
        if epoch.has_wrapped(last) {
            if let Some(array) = self.array() {
                array.index.clear();
            }
        }
    }

    /// Enters the thread of `entry` into the index of the round of `epoch`, by which its handler
    /// will find the entry. Returns `false` where another entry has the same id already.
    pub(crate) fn insert_into_index(&self, epoch: Epoch, entry: &Entry) -> bool {
        self.array().is_none_or(|array| array.index.insert(epoch, entry.tid(), entry))
    }

    /// The entry of the calling thread, whose id is `tid`, if the round of `epoch` has laid it out.
    pub(crate) fn find(&self, epoch: Epoch, tid: u32) -> Option<&Entry> {
        self.array()?.index.find(epoch, tid)
    }

    /// Lays out the targets of the round of `epoch`, as many as there is room for, and returns how
    /// many they are. Nobody can claim before [`Roster::open`].
    pub(crate) fn set_targets(&self, epoch: Epoch, tids: impl Iterator<Item = u32>) -> usize {
        let mut count = 0;
        for (slot, tid) in self.slots().iter().zip(tids) {
            // Relaxed: the round word's Release makes it seen.
            slot.store(epoch.tag_wide(tid), Ordering::Relaxed);
            count += 1;
        }
        count
    }

    /// Opens the first `count` slots to claimants. Relaxed: as in `set_targets`.
    pub(crate) fn open(&self, epoch: Epoch, count: usize) {
        self.cursor.store(epoch.tag_wide(count as u32), Ordering::Relaxed);
    }

    /// Leaves nothing to claim.
    pub(crate) fn close(&self, epoch: Epoch) {
        self.open(epoch, 0);
    }

    /// Claims the next target of the round of `epoch`.
    pub(crate) fn claim(&self, epoch: Epoch) -> Option<Claim> {
        let mut cursor = self.cursor.load(Ordering::Relaxed);
        loop {
            let unclaimed = cursor as u32;
            if !epoch.matches(cursor) || unclaimed == 0 {
                return None;
            }
            // Relaxed: the slots were published with the round word, which the claimant has read.
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

    /// Leaves a claimed target to the caller, because the kernel did not take the summons.
    pub(crate) fn mark_refused(&self, epoch: Epoch, claim: Claim) {
        let claimed = epoch.tag_wide(claim.tid);
        // A failure means that the slot belongs to a later round. Relaxed: the mark is all there is
        // to see.
        let _ = self.slots()[claim.index].compare_exchange(
            claimed,
            claimed | REFUSED,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// The targets whose summons was refused, each handed out once. For the caller.
    pub(crate) fn take_refused(&self, epoch: Epoch) -> impl Iterator<Item = Claim> {
        self.slots().iter().enumerate().filter_map(move |(index, slot)| {
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
        // SAFETY: arrays are not freed before the roster is (invariant I8). Acquire pairs with the
        // Release in `install`.
        unsafe { self.array.load(Ordering::Acquire).as_ref() }
    }
}

impl Drop for Roster {
    fn drop(&mut self) {
        let mut array = self.array.load(Ordering::Relaxed);
        while !array.is_null() {
            // SAFETY: made by `Box::into_raw` in `install`, and nobody else has the roster any
            // more.
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
    fn nothing_is_claimed_in_another_round_or_after_the_end() {
        let (roster, epoch) = with_targets(&[1, 2]);
        assert_eq!(roster.claim(epoch.next()), None);
        roster.close(epoch);
        assert_eq!(roster.claim(epoch), None);
    }

    #[test]
    fn a_refused_target_is_handed_out_once_more() {
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
