//! What tells a process from the one that it was forked from, however that was done: a page of
//! memory that the kernel clears in the child (`MADV_WIPEONFORK`, Linux 4.14).
//!
//! The libc's fork hooks do not see a raw `clone`. The process id does not do: a child in a new pid
//! namespace may have its parent's; and a `vfork` child has another one while it borrows its
//! parent's memory, and must not take that for its own.

use core::ptr;

use super::raw;
use super::sync::{AtomicPtr, AtomicU32, Ordering, yield_now};

/// The page is the kernel's: this is another process.
const NEW: u32 = 0;
const KNOWN: u32 = 1;
/// One of its threads is getting to know it.
const INITIALIZING: u32 = 2;

pub(super) struct ForkDetector {
    /// The first word of the page; null before there is one, and for good where there can be none.
    /// Set once (AcqRel), never unmapped.
    page: AtomicPtr<AtomicU32>,
}

impl ForkDetector {
    pub(super) const fn new() -> Self {
        Self { page: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Puts the mark up, once for the process.
    pub(super) fn install(&self) {
        const SIZE: usize = 4096;
        if self.word().is_some() {
            return;
        }
        let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
        let map = [0, SIZE, access, flags, usize::MAX, 0];
        // SAFETY: a new mapping, at an address that the kernel picks.
        let Ok(address) = (unsafe { raw::syscall(libc::SYS_mmap, map) }) else { return };
        let wipe = [address, SIZE, libc::MADV_WIPEONFORK as usize, 0, 0, 0];
        let page = ptr::with_exposed_provenance_mut::<AtomicU32>(address);
        // SAFETY: our own page, which nobody has seen yet.
        let marked = unsafe { raw::syscall(libc::SYS_madvise, wipe) }.is_ok() && {
            // SAFETY: mapped above, zero and aligned.
            unsafe { &*page }.store(KNOWN, Ordering::Relaxed);
            self.page
                .compare_exchange(ptr::null_mut(), page, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        if !marked {
            // SAFETY: our own page, which was never shown to anyone.
            let _ = unsafe { raw::syscall(libc::SYS_munmap, [address, SIZE, 0, 0, 0, 0]) };
        }
    }

    /// Runs `init` if this is a new process, in one of its threads; the others wait for it.
    pub(super) fn run_if_forked(&self, init: impl FnOnce()) {
        let Some(word) = self.word() else { return };
        // Acquire pairs with the Release in `set_known`: what `init` has done is seen by all.
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

    /// Whether this is a process that `run_if_forked` has not been run in. Async-signal-safe.
    pub(super) fn is_forked(&self) -> bool {
        // Acquire pairs with the Release in `set_known`.
        self.word().is_some_and(|word| word.load(Ordering::Acquire) != KNOWN)
    }

    /// This process is known now.
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
