//! core's atomics, and a cell with the interface of loom's.

pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

/// `core::cell::UnsafeCell`, accessed through closures, as loom's.
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    #[inline]
    pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    #[inline]
    pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

/// One iteration of a spin loop.
#[inline]
pub(crate) fn spin_hint() {
    core::hint::spin_loop();
}

/// [`sched_yield(2)`](https://man7.org/linux/man-pages/man2/sched_yield.2.html).
pub(crate) fn yield_now() {
    // SAFETY: sched_yield takes no arguments and touches no memory.
    let _ = unsafe { super::raw::syscall(libc::SYS_sched_yield, [0; 6]) };
}
