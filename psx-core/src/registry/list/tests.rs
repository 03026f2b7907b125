//! Compares the list with a `Vec` after each of many random operations. `.ci/sanitizers.sh` runs this under
//! AddressSanitizer, which detects a link to a freed entry.

use core::time::Duration;

use super::*;
use crate::sync::Gate;
use crate::sys::clock::Deadline;

/// Knuth's linear congruential generator (MMIX): the same numbers on each machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// The list, and the entries that it should contain, the newest one last.
#[derive(Default)]
struct Pair {
    list: ThreadList,
    gate: Gate,
    expected: Vec<(u32, NonNull<Entry>)>,
    next: u32,
}

impl Default for ThreadList {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    fn insert(&mut self) {
        self.next += 1;
        // No thread has this id. If it were this thread's, the thread would hold the entry's robust mutex.
        let tid = 1 << 30 | self.next;
        let mut entry = Entry::allocate().unwrap();
        assert!(!entry.set_owner(tid, 0), "the mutex is not locked");
        self.expected.push((tid, self.list.insert(entry)));
    }

    fn remove(&mut self, at: usize) {
        let (tid, entry) = self.expected.remove(at);
        // SAFETY: expected to be in the list; no other thread exists that could use it.
        let entry = unsafe { self.list.remove(entry) };
        assert_eq!(entry.tid(), tid);
    }

    /// Unlinks the entries whose id is a multiple of `divisor`.
    fn unlink_dead(&mut self, divisor: u32) {
        let is_dead = |tid: u32| tid % divisor == 0;
        let frozen = self.gate.close(Deadline::after(Duration::ZERO)).unwrap();
        // SAFETY: the entries have no threads.
        let unlinked = unsafe { self.list.unlink_dead(&frozen, |entry| is_dead(entry.tid())) };
        drop(frozen);
        drop(unlinked);
        self.expected.retain(|&(tid, _)| !is_dead(tid));
    }

    /// As after a fork: starts a list of one entry, and abandons the others. The test knows those and frees
    /// them, because AddressSanitizer reports leaks.
    fn fork(&mut self, survivor: usize) {
        let survivor = self.expected[survivor];
        // SAFETY: in the list, so it is alive.
        self.list.leak_and_restart(Some(unsafe { survivor.1.as_ref() }));
        let abandoned = core::mem::replace(&mut self.expected, vec![survivor]);
        for (_, entry) in abandoned.into_iter().filter(|&other| other != survivor) {
            // SAFETY: no longer in a list.
            drop(unsafe { Box::from_raw(entry.as_ptr()) });
        }
    }

    fn compare(&self) {
        let expected = self.expected.iter().rev().map(|&(tid, _)| tid).collect::<Vec<_>>();
        assert_eq!(self.list.len(), expected.len());
        let mut walked = Vec::new();
        self.list.for_each(|entry| walked.push(entry.tid()));
        assert_eq!(walked, expected);
        let frozen = self.gate.close(Deadline::after(Duration::ZERO)).unwrap();
        assert!(self.list.iter(&frozen).map(Entry::tid).eq(expected));
    }
}

#[test]
fn the_list_matches_a_vec() {
    for seed in 0..16 {
        let (mut random, mut pair) = (Random(seed), Pair::default());
        for _ in 0..2_000 {
            let count = pair.expected.len();
            match random.below(100) {
                0 if count > 0 => pair.fork(random.below(count)),
                1..5 => pair.unlink_dead(2 + random.below(9) as u32),
                5..45 if count > 0 => pair.remove(random.below(count)),
                _ if count < 40 => pair.insert(),
                _ => pair.remove(random.below(count)),
            }
            pair.compare();
        }
    }
}
