//! The list against a `Vec`, in a long run of random operations. `.ci/sanitizers.sh` runs it under
//! AddressSanitizer, which sees what an entry's links must never do: outlive it.

use core::time::Duration;

use super::*;
use crate::sync::Gate;
use crate::sys::clock::Deadline;

/// Knuth's linear congruential generator (MMIX): the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// The list, and what it should be: the newest entry last.
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
        // No thread's id: this thread would hold the robust mutex of an entry with its own.
        let tid = 1 << 30 | self.next;
        let mut entry = Entry::allocate().unwrap();
        assert!(!entry.set_owner(tid, 0), "the mutex is not locked");
        self.expected.push((tid, self.list.insert(entry)));
    }

    fn remove(&mut self, at: usize) {
        let (tid, entry) = self.expected.remove(at);
        // SAFETY: in the list, by what was expected of it, and used by nobody else.
        let entry = unsafe { self.list.remove(entry) };
        assert_eq!(entry.tid(), tid);
    }

    /// Buries those whose number is a multiple of `divisor`.
    fn unlink_dead(&mut self, divisor: u32) {
        let is_dead = |tid: u32| tid % divisor == 0;
        let frozen = self.gate.close(Deadline::after(Duration::ZERO)).unwrap();
        // SAFETY: there are no threads.
        let unlinked = unsafe { self.list.unlink_dead(&frozen, |entry| is_dead(entry.tid())) };
        drop(frozen);
        drop(unlinked);
        self.expected.retain(|&(tid, _)| !is_dead(tid));
    }

    /// As a fork does it: a list of one begins, and the other entries are left behind. Freed here, where
    /// all of them are known, since a test under AddressSanitizer must not leak.
    fn fork(&mut self, survivor: usize) {
        let survivor = self.expected[survivor];
        // SAFETY: in the list, hence alive.
        self.list.leak_and_restart(Some(unsafe { survivor.1.as_ref() }));
        let left_behind = core::mem::replace(&mut self.expected, vec![survivor]);
        for (_, entry) in left_behind.into_iter().filter(|&other| other != survivor) {
            // SAFETY: in no list any more.
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
fn it_is_what_a_vec_would_be() {
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
