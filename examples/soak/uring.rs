//! An io_uring ring that makes the kernel start a worker thread in the process.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use psx::Errno;
use psx_examples::raw;

/// So few entries fit in a page each.
const ENTRIES: usize = 4;
const PAGE: usize = 4096;
const SUBMISSIONS: usize = 0x1000_0000;
/// `IOSQE_ASYNC`: have a worker do it, even what could be done at once.
const ASYNC: u8 = 1 << 4;

/// A ring, closed when dropped. Its worker is then told to leave.
pub(crate) struct Ring {
    _fd: OwnedFd,
    _rings: Page,
    _entries: Page,
}

impl Ring {
    /// A ring whose worker has been given one operation, which does nothing.
    pub(crate) fn with_worker() -> Result<Self, Errno> {
        // `struct io_uring_params` as words: the submission ring's offsets begin at the tenth.
        let mut params = [0_u32; 30];
        let args = [ENTRIES, params.as_mut_ptr() as usize, 0, 0, 0];
        // SAFETY: room for the parameters that the kernel writes.
        let fd = unsafe { raw::syscall(libc::SYS_io_uring_setup, args) }?;
        // SAFETY: the kernel has just opened it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let (rings, entries) = (Page::map(&fd, 0)?, Page::map(&fd, SUBMISSIONS)?);
        // The operation number 0 is IORING_OP_NOP; the byte after it holds the flags.
        // SAFETY: inside the first entry, which the kernel does not look at yet.
        unsafe { entries.0.add(1).write(ASYNC) };
        let (tail, array) = (params[11], params[16]);
        rings.word(array).store(0, Ordering::Relaxed);
        rings.word(tail).store(1, Ordering::Release);
        let args = [fd.as_raw_fd() as usize, 1, 0, 0, 0];
        // SAFETY: no memory but the ring's own.
        unsafe { raw::syscall(libc::SYS_io_uring_enter, args) }?;
        Ok(Self { _fd: fd, _rings: rings, _entries: entries })
    }
}

/// A page that is shared with the kernel.
struct Page(*mut u8);

impl Page {
    fn map(fd: &OwnedFd, offset: usize) -> Result<Self, Errno> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let offset = offset as libc::off_t;
        // SAFETY: a new mapping, wherever the kernel likes.
        let page =
            unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, flags, fd.as_raw_fd(), offset) };
        if page == libc::MAP_FAILED { Err(raw::last_errno()) } else { Ok(Self(page.cast())) }
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel gave the offset, and shares the word as an atomic.
        unsafe { AtomicU32::from_ptr(self.0.add(offset as usize).cast()) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped above, and nobody holds a reference into it.
        unsafe { libc::munmap(self.0.cast(), PAGE) };
    }
}
