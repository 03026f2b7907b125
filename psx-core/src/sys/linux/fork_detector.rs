//! Detects a forked child, whatever system call forked it, by a page of memory that the kernel clears in
//! the child (`MADV_WIPEONFORK`, Linux 4.14).
//!
//! The libc's fork hooks do not run for a raw `clone`. The process id is not sufficient: a child in a new
//! pid namespace may have its parent's; and a `vfork` child has another one while it borrows its parent's
//! memory, and must not reset it.

use core::ptr;

use super::raw;
use super::sync::{AtomicPtr, AtomicU32, Ordering, yield_now};

/// The kernel has cleared the page: this is a forked child.
const NEW: u32 = 0;
const KNOWN: u32 = 1;
/// A thread of the child runs `init`.
const INITIALIZING: u32 = 2;

pub(super) struct ForkDetector {
    /// The first word of the page; null before `install`, and where it failed. Set once (AcqRel), never
    /// unmapped.
    page: AtomicPtr<AtomicU32>,
}

impl ForkDetector {
    pub(super) const fn new() -> Self {
        Self { page: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Maps the page, once for the process.
    pub(super) fn install(&self) {
        const SIZE: usize = 4096;
        if self.word().is_some() {
            return;
        }
        let Ok(address) = raw::mmap_anonymous(SIZE, 0) else { return };
        let wipe = [address, SIZE, libc::MADV_WIPEONFORK as usize, 0, 0, 0];
        let page = ptr::with_exposed_provenance_mut::<AtomicU32>(address);
        // SAFETY: our own page, which no other thread has seen.
        let is_installed = unsafe { raw::syscall(libc::SYS_madvise, wipe) }.is_ok() && {
            // SAFETY: mapped above, zero and aligned.
            unsafe { &*page }.store(KNOWN, Ordering::Relaxed);
            self.page
                .compare_exchange(ptr::null_mut(), page, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        if !is_installed {
            // SAFETY: our own page, which no other thread has seen.
            unsafe { raw::munmap(address, SIZE) };
        }
    }

    /// Runs `init` in a forked child, in one of its threads; the others wait for it.
    pub(super) fn run_if_forked(&self, init: impl FnOnce()) {
        let Some(word) = self.word() else { return };
        // Acquire pairs with the Release in `set_known`: what `init` has done is visible.
        if word.load(Ordering::Acquire) == KNOWN {
            return;
        }
        if word.compare_exchange(NEW, INITIALIZING, Ordering::Acquire, Ordering::Acquire).is_ok() {
            init();
            self.set_known();
        }
        while word.load(Ordering::Acquire) != KNOWN {
            yield_now();
        }
    }

    /// Whether this is a forked child in which `set_known` has not been called. Async-signal-safe.
    pub(super) fn is_forked(&self) -> bool {
        // Acquire pairs with the Release in `set_known`.
        self.word().is_some_and(|word| word.load(Ordering::Acquire) != KNOWN)
    }

    /// Ends the initialisation of this process.
    pub(super) fn set_known(&self) {
        if let Some(word) = self.word() {
            word.store(KNOWN, Ordering::Release);
        }
    }

    fn word(&self) -> Option<&AtomicU32> {
        // SAFETY: null, or a page that is never unmapped. Acquire pairs with `install`.
        unsafe { self.page.load(Ordering::Acquire).as_ref() }
    }
}
