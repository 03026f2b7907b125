//! What a thread can serve to another one of its process that waits in the kernel: a page (`userfaultfd`) and
//! the permission to open a file (`fanotify`).

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use psx::Errno;
use psx_test_support::raw::{must, owned, syscall};

const PAGE: usize = 4096;

/// A page that has no memory until it is served.
pub(crate) struct ServedPage {
    address: usize,
    faults: File,
}

impl ServedPage {
    pub(crate) fn map() -> Self {
        const UFFDIO_API: usize = 0xc018_aa3f;
        const UFFDIO_REGISTER: usize = 0xc020_aa00;
        const MISSING: u64 = 1;
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
        let address = must(libc::SYS_mmap, [0, PAGE, protection, flags, usize::MAX, 0]);
        let fd = userfaultfd().expect("a userfaultfd");
        let mut api = [0xaa_u64, 0, 0];
        let mut range = [address as u64, PAGE as u64, MISSING, 0];
        control(&fd, UFFDIO_API, &mut api);
        control(&fd, UFFDIO_REGISTER, &mut range);
        Self { address, faults: fd }
    }

    /// Frees the page's memory, and makes the kernel write to the page.
    pub(crate) fn wait_for(&self, zeros: &File) {
        let advice = libc::MADV_DONTNEED as usize;
        must(libc::SYS_madvise, [self.address, PAGE, advice, 0, 0, 0]);
        must(libc::SYS_read, [zeros.as_raw_fd() as usize, self.address, 1, 0, 0, 0]);
    }

    /// Makes the kernel read the page as another process would, which no signal interrupts.
    pub(crate) fn wait_uninterruptibly(&self) {
        let mut byte = 0_u8;
        let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let remote = libc::iovec { iov_base: self.address as *mut _, iov_len: 1 };
        let [local, remote] = [&raw const local, &raw const remote].map(|iovec| iovec.addr());
        let process = std::process::id() as usize;
        must(libc::SYS_process_vm_readv, [process, local, 1, remote, 1, 0]);
    }

    /// Serves one fault, after some `work`.
    pub(crate) fn serve(&self, work: fn()) {
        const UFFDIO_ZEROPAGE: usize = 0xc020_aa04;
        const UFFDIO_WAKE: usize = 0x8010_aa02;
        (&self.faults).read_exact(&mut [0; 32]).expect("a fault");
        work();
        let mut page = [self.address as u64, PAGE as u64, 0, 0];
        let fd = self.faults.as_raw_fd() as usize;
        let args = [fd, UFFDIO_ZEROPAGE, page.as_mut_ptr().addr(), 0, 0, 0];
        // A thread with a pending signal reports its fault repeatedly while it waits.
        // SAFETY: a request that outlives the call, and a page that this object has mapped.
        match unsafe { syscall(libc::SYS_ioctl, args) } {
            Err(errno) if errno.raw() == libc::EEXIST => {
                control(&self.faults, UFFDIO_WAKE, &mut page);
            }
            served => drop(served.expect("a page without memory")),
        }
    }
}

fn userfaultfd() -> Result<File, Errno> {
    let args = [libc::O_CLOEXEC as usize, 0, 0, 0, 0, 0];
    // SAFETY: the call takes flags.
    unsafe { syscall(libc::SYS_userfaultfd, args) }.map(|fd| owned(fd).into())
}

fn control(fd: &File, request: usize, argument: &mut [u64]) {
    let at = argument.as_mut_ptr().addr();
    must(libc::SYS_ioctl, [fd.as_raw_fd() as usize, request, at, 0, 0, 0]);
}

pub(crate) fn has_userfaultfd() -> bool {
    userfaultfd().is_ok()
}

/// Requests for permission to open a file.
pub(crate) struct Permissions(File);

impl Permissions {
    pub(crate) fn of(path: &Path) -> Self {
        let events = fanotify().expect("a fanotify group");
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
        let (flags, mask) = (libc::FAN_MARK_ADD as usize, libc::FAN_OPEN_PERM as usize);
        let here = libc::AT_FDCWD as usize;
        let fd = events.as_raw_fd() as usize;
        let args = [fd, flags, mask, here, path.as_ptr().addr(), 0];
        must(libc::SYS_fanotify_mark, args);
        Self(events)
    }

    /// Gives permission to the threads that wait, after some `work`.
    pub(crate) fn give(&self, work: fn()) {
        let mut events = [0_u8; 4096];
        let mut filled = (&self.0).read(&mut events).expect("a request");
        work();
        let mut at = events.as_ptr().cast::<libc::fanotify_event_metadata>();
        while filled > 0 {
            // SAFETY: the kernel has written whole events, each of the length that it says.
            let event = unsafe { ptr::read_unaligned(at) };
            let answer = [event.fd as u32, libc::FAN_ALLOW];
            // SAFETY: two numbers of four bytes.
            let bytes: [u8; 8] = unsafe { std::mem::transmute(answer) };
            (&self.0).write_all(&bytes).expect("a waiting thread");
            drop(owned(event.fd as usize));
            filled -= event.event_len as usize;
            at = at.wrapping_byte_add(event.event_len as usize);
        }
    }
}

fn fanotify() -> Result<File, Errno> {
    let flags = (libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC) as usize;
    let args = [flags, libc::O_RDONLY as usize, 0, 0, 0, 0];
    // SAFETY: the call takes flags.
    unsafe { syscall(libc::SYS_fanotify_init, args) }.map(|fd| owned(fd).into())
}

pub(crate) fn has_fanotify() -> bool {
    fanotify().is_ok()
}
