//! Atomics as they are, and a cell with the interface that loom's has.

pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// `core::cell::UnsafeCell` behind closures, so that the model can watch each access.
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    /// Lends the contents for reading.
    #[inline]
    pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    /// Lends the contents for writing.
    #[inline]
    pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

/// The part of a wait before the sleep. A thread that goes to sleep and is woken costs several
/// times what one costs that lends its core to the others and finds, when its turn comes again,
/// that all have done their part. docs/benchmarks.md has the numbers.
#[derive(Debug)]
pub(crate) struct Patience {
    spins: u32,
    yields: u32,
}

impl Patience {
    /// Spins in all, in steps that double: the order of a wake-up's cost.
    const SPINS: u32 = 64;
    const YIELDS: u32 = 4;

    /// Spinning pays only where nobody needs the core that it takes: not in a `crowded` wait, of
    /// more threads than there are cores. To lend the core is a system call, which not every wait
    /// `may_yield` to.
    pub(crate) fn new(crowded: bool, may_yield: bool) -> Self {
        Self {
            spins: if crowded { Self::SPINS } else { 1 },
            yields: if may_yield { 0 } else { Self::YIELDS },
        }
    }

    /// Waits a little and returns true, or returns false when it is time to sleep.
    #[inline]
    pub(crate) fn wait_a_little(&mut self) -> bool {
        if self.spins < Self::SPINS {
            for _ in 0..self.spins {
                core::hint::spin_loop();
            }
            self.spins *= 2;
            return true;
        }
        if self.yields < Self::YIELDS {
            self.yields += 1;
            yield_now();
            return true;
        }
        false
    }
}

/// Lets other threads have the core.
pub(crate) fn yield_now() {
    // SAFETY: sched_yield takes no arguments and touches no memory.
    let _ = unsafe { super::raw::syscall(libc::SYS_sched_yield, [0; 6]) };
}
