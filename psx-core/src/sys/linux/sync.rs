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
    yields: u32,
    spins: u32,
}

impl Patience {
    /// Of more threads than there are cores: each turn lets many others do their part.
    const YIELDS_IN_A_CROWD: u32 = 4;
    /// Of fewer: about as long as a sleep and a wake-up take. On the core that the other one needs
    /// it hands over at once, on another it is a short look.
    const YIELDS: u32 = 64;
    const SPINS: u32 = 256;

    /// For a wait in a `crowded` round or not, which `may_yield` or not: to lend the core is a system
    /// call. What may not yield spins, unless others need the core.
    pub(crate) fn new(crowded: bool, may_yield: bool) -> Self {
        let (yields, spins) = match (crowded, may_yield) {
            (true, true) => (Self::YIELDS_IN_A_CROWD, 0),
            (false, true) => (Self::YIELDS, 0),
            (true, false) => (0, 0),
            (false, false) => (0, Self::SPINS),
        };
        Self { yields, spins }
    }

    /// Waits a little and returns true, or returns false when it is time to sleep.
    #[inline]
    pub(crate) fn wait_a_little(&mut self) -> bool {
        if self.yields > 0 {
            self.yields -= 1;
            yield_now();
        } else if self.spins > 0 {
            self.spins -= 1;
            core::hint::spin_loop();
        } else {
            return false;
        }
        true
    }
}

/// Lets other threads have the core.
pub(crate) fn yield_now() {
    // SAFETY: sched_yield takes no arguments and touches no memory.
    let _ = unsafe { super::raw::syscall(libc::SYS_sched_yield, [0; 6]) };
}
