//! An io_uring ring, for the threads that the kernel makes for it.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use io_uring::{IoUring, opcode, squeue, types};

/// A ring that is used for one operation. Dropped, it ends the kernel's threads.
pub struct Ring(IoUring);

impl Ring {
    /// A ring; with `poll`, one whose kernel thread polls for submissions (`IORING_SETUP_SQPOLL`).
    ///
    /// # Errors
    ///
    /// Where the kernel has none, or refuses one to this user.
    pub fn new(poll: bool) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        if poll {
            builder.setup_sqpoll(60_000);
        }
        builder.build(4).map(Self)
    }

    /// Whether a ring can be had here.
    pub fn is_available() -> bool {
        Self::new(false).is_ok()
    }

    /// A ring whose kernel worker (`iou-wrk`) has been given one operation, which does nothing.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn with_worker() -> io::Result<Self> {
        let mut ring = Self::new(false)?;
        ring.submit(opcode::Nop::new().build().flags(squeue::Flags::ASYNC));
        Ok(ring)
    }

    /// Opens a file through the ring; with `by_worker`, without a try on the submitting thread.
    pub fn submit_open(&mut self, path: &Path, by_worker: bool) {
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
        // The kernel reads it at any later time.
        let path = Box::leak(path.into_boxed_c_str());
        let entry = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
        let flags = if by_worker { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
        self.submit(entry.flags(flags));
    }

    fn submit(&mut self, entry: squeue::Entry) {
        // SAFETY: what the entry points to, if anything, is never freed.
        unsafe { self.0.submission().push(&entry) }.expect("room for one entry");
        self.0.submit().expect("io_uring_enter");
    }

    /// The result of the operation: a descriptor or a negative errno.
    pub fn wait_for_result(&mut self) -> i32 {
        loop {
            if let Some(entry) = self.0.completion().next() {
                return entry.result();
            }
            match self.0.submit_and_wait(1) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => panic!("io_uring_enter: {e}"),
                _ => {}
            }
        }
    }
}
