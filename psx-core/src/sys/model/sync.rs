//! loom's atomics. Before each operation a thread answers a pending summons, unless it blocks them, and a
//! [`Fault`](super::fault::Fault) may change the operation. A dead thread that unwinds changes nothing.

use std::panic::Location;

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::atomic::{AtomicPtr, Ordering};
pub(crate) use loom::thread::yield_now;

use super::fault::{self, Fault};
use super::machine;
use super::mutation::{self, Mutation, Op};

/// A fence, unless a fault leaves it out.
pub(crate) fn fence(order: Ordering) {
    if machine::is_current_dead() || fault::is(Fault::PendingNotFenced) {
        return;
    }
    loom::sync::atomic::fence(order);
}

/// One iteration of a wait that is expected to be short.
pub(crate) fn spin_hint() {
    yield_now();
}

macro_rules! atomic {
    ($name:ident, $int:ty, $store:ident) => {
        #[derive(Debug)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        #[allow(dead_code, reason = "one list of operations for both widths")]
        impl $name {
            pub(crate) fn new(value: $int) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $int {
                if machine::before_operation() {
                    return self.read(order);
                }
                match mutation::find(Location::caller(), Op::Load, order) {
                    Some(Mutation::Weaken) => self.read(Ordering::Relaxed),
                    Some(Mutation::MapResult(map)) => map(self.read(order).into()) as $int,
                    _ => self.read(order),
                }
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $int, order: Ordering) {
                if machine::before_operation() {
                    return;
                }
                let order = match mutation::find(Location::caller(), Op::Store, order) {
                    Some(Mutation::Weaken) => Ordering::Relaxed,
                    Some(Mutation::Skip) => return,
                    _ => order,
                };
                let _ = self.0.$store(value, order);
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $int, order: Ordering) -> $int {
                if machine::before_operation() {
                    return self.read(Ordering::Relaxed);
                }
                match mutation::find(Location::caller(), Op::Swap, order) {
                    Some(Mutation::Weaken) => self.0.swap(value, Ordering::Relaxed),
                    Some(Mutation::MapResult(map)) => map(self.0.swap(value, order).into()) as $int,
                    _ => self.0.swap(value, order),
                }
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                expected: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                let mutation = mutation::find(Location::caller(), Op::Exchange, success);
                self.exchange(expected, new, success, failure, mutation)
            }

            /// loom's never fails spuriously either.
            #[track_caller]
            pub(crate) fn compare_exchange_weak(
                &self,
                expected: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                let mutation = mutation::find(Location::caller(), Op::WeakExchange, success);
                self.exchange(expected, new, success, failure, mutation)
            }

            fn exchange(
                &self,
                expected: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
                mutation: Option<Mutation>,
            ) -> Result<$int, $int> {
                if machine::before_operation() {
                    return Ok(expected);
                }
                match mutation {
                    Some(Mutation::Weaken) => {
                        let relaxed = Ordering::Relaxed;
                        self.0.compare_exchange(expected, new, relaxed, relaxed)
                    }
                    Some(Mutation::Skip) => Ok(expected),
                    Some(Mutation::MapNew(map)) => {
                        let new = map(new.into()) as $int;
                        self.0.compare_exchange(expected, new, success, failure)
                    }
                    Some(Mutation::SplitCas) => match self.0.load(failure) {
                        found if found == expected => {
                            self.0.store(new, success);
                            Ok(found)
                        }
                        found => Err(found),
                    },
                    Some(Mutation::ForceAdd) => {
                        self.0.fetch_add(1, success);
                        Ok(expected)
                    }
                    _ => self.0.compare_exchange(expected, new, success, failure),
                }
            }

            #[track_caller]
            pub(crate) fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                if machine::before_operation() {
                    return self.read(Ordering::Relaxed);
                }
                self.0.fetch_add(value, order)
            }

            #[track_caller]
            pub(crate) fn fetch_sub(&self, value: $int, order: Ordering) -> $int {
                if machine::before_operation() {
                    return self.read(Ordering::Relaxed);
                }
                let order = match mutation::find(Location::caller(), Op::Sub, order) {
                    Some(Mutation::Weaken) => Ordering::Relaxed,
                    _ => order,
                };
                self.0.fetch_sub(value, order)
            }

            #[track_caller]
            pub(crate) fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                if machine::before_operation() {
                    return self.read(Ordering::Relaxed);
                }
                let order = match mutation::find(Location::caller(), Op::And, order) {
                    Some(Mutation::Weaken) => Ordering::Relaxed,
                    _ => order,
                };
                self.0.fetch_and(value, order)
            }

            #[track_caller]
            pub(crate) fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                if machine::before_operation() {
                    return self.read(Ordering::Relaxed);
                }
                match mutation::find(Location::caller(), Op::Or, order) {
                    Some(Mutation::Weaken) => self.0.fetch_or(value, Ordering::Relaxed),
                    Some(Mutation::Skip) => self.0.load(order),
                    _ => self.0.fetch_or(value, order),
                }
            }

            /// A load, of the newest value where the scene is configured so.
            fn read(&self, order: Ordering) -> $int {
                if machine::reads_newest() { self.newest(order) } else { self.0.load(order) }
            }

            /// The newest value, by a compare-and-swap that never succeeds. The thread sees no older value
            /// afterwards.
            fn newest(&self, order: Ordering) -> $int {
                let unused = <$int>::MAX;
                let found = self.0.compare_exchange(unused, unused, order, order);
                found.unwrap_or_else(|newest| newest)
            }

            /// The value that the kernel sees. Relaxed.
            pub(super) fn peek(&self) -> $int {
                self.newest(Ordering::Relaxed)
            }

            pub(super) fn address(&self) -> usize {
                core::ptr::from_ref(self) as usize
            }
        }
    };
}

atomic!(AtomicU32, u32, store);
// The wide words (latches, the roster) are stored to by one thread and counted down by others. loom
// does not know that a read-modify-write immediately follows the store that it reads, and may order
// it after a later store of the same thread. A store that is itself a read-modify-write is ordered
// correctly, but it continues the release sequence, which a plain store would end.
atomic!(AtomicU64, u64, swap);
