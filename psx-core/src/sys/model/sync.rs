//! loom's atomics. Before each operation a pending summons is taken, if the thread lets it, and
//! each is a place where a [`Fault`](super::fault::Fault) may bend a rule. A dead thread that unwinds
//! changes nothing.

use std::panic::Location;

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::atomic::{AtomicPtr, Ordering};
pub(crate) use loom::thread::yield_now;

use super::fault::{Op, Twist, twist};
use super::machine;

/// One turn of a wait that is expected to be short.
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
                match twist(Location::caller(), Op::Load, order) {
                    Twist::Weaken => self.read(Ordering::Relaxed),
                    Twist::Lie(lie) => lie(self.read(order).into()) as $int,
                    _ => self.read(order),
                }
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $int, order: Ordering) {
                if machine::before_operation() {
                    return;
                }
                let order = match twist(Location::caller(), Op::Store, order) {
                    Twist::Weaken => Ordering::Relaxed,
                    _ => order,
                };
                let _ = self.0.$store(value, order);
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $int, order: Ordering) -> $int {
                if machine::before_operation() {
                    return self.read(Ordering::Relaxed);
                }
                match twist(Location::caller(), Op::Swap, order) {
                    Twist::Weaken => self.0.swap(value, Ordering::Relaxed),
                    Twist::Lie(lie) => lie(self.0.swap(value, order).into()) as $int,
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
                let twist = twist(Location::caller(), Op::Exchange, success);
                self.exchange(expected, new, success, failure, twist)
            }

            /// loom's does not fail for no reason either.
            #[track_caller]
            pub(crate) fn compare_exchange_weak(
                &self,
                expected: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                let twist = twist(Location::caller(), Op::WeakExchange, success);
                self.exchange(expected, new, success, failure, twist)
            }

            fn exchange(
                &self,
                expected: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
                twist: Twist,
            ) -> Result<$int, $int> {
                if machine::before_operation() {
                    return Ok(expected);
                }
                match twist {
                    Twist::Weaken => {
                        let relaxed = Ordering::Relaxed;
                        self.0.compare_exchange(expected, new, relaxed, relaxed)
                    }
                    Twist::Skip => Ok(expected),
                    Twist::Replace(other) => {
                        let new = other(new.into()) as $int;
                        self.0.compare_exchange(expected, new, success, failure)
                    }
                    Twist::Tear => match self.0.load(failure) {
                        found if found == expected => {
                            self.0.store(new, success);
                            Ok(found)
                        }
                        found => Err(found),
                    },
                    Twist::Barge => {
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
                let order = match twist(Location::caller(), Op::Sub, order) {
                    Twist::Weaken => Ordering::Relaxed,
                    _ => order,
                };
                self.0.fetch_sub(value, order)
            }

            #[track_caller]
            pub(crate) fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                if machine::before_operation() {
                    return self.read(Ordering::Relaxed);
                }
                let order = match twist(Location::caller(), Op::And, order) {
                    Twist::Weaken => Ordering::Relaxed,
                    _ => order,
                };
                self.0.fetch_and(value, order)
            }

            #[track_caller]
            pub(crate) fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                if machine::before_operation() {
                    return self.read(Ordering::Relaxed);
                }
                match twist(Location::caller(), Op::Or, order) {
                    Twist::Weaken => self.0.fetch_or(value, Ordering::Relaxed),
                    Twist::Skip => self.0.load(order),
                    _ => self.0.fetch_or(value, order),
                }
            }

            /// A load, of the newest value where the model wants it so.
            fn read(&self, order: Ordering) -> $int {
                if machine::reads_the_newest() { self.newest(order) } else { self.0.load(order) }
            }

            /// The newest value, by a read-modify-write that fails. From now on the thread sees
            /// nothing older.
            fn newest(&self, order: Ordering) -> $int {
                let nothing = <$int>::MAX;
                let found = self.0.compare_exchange(nothing, nothing, order, order);
                found.unwrap_or_else(|newest| newest)
            }

            /// What the kernel sees. Orders nothing.
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
// does not know that a read-modify-write comes right after the store that it has read, and may put
// it after a later store of the same thread's. A store that is a read-modify-write itself has its
// place; the price is that it continues the release sequence, which a plain one would end.
atomic!(AtomicU64, u64, swap);
