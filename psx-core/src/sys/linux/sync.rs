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

/// One turn of a wait that is expected to be short.
#[inline]
pub(crate) fn spin_hint() {
    core::hint::spin_loop();
}

/// Lets other threads have the core.
pub(crate) fn yield_now() {
    // SAFETY: sched_yield takes no arguments and touches no memory.
    let _ = unsafe { super::raw::syscall(libc::SYS_sched_yield, [0; 6]) };
}
