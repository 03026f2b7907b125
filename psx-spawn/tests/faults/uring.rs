//! io_uring's kernel threads: workers, which act as whoever submitted the work, and the poller of
//! an SQPOLL ring, which goes on acting as whoever made the ring.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::{fs, io};

use psx::Privileges;
use psx::privileges::ThreadKind;

use crate::case::Expected::{Clean, Ok};
use crate::case::{Case, Start};
use crate::raw;
use crate::supervisor::workshop;
use crate::threads::await_thread;

pub(crate) const CASES: &[Case] = &[
    Case::new("uring-worker", "io_uring worker (iou-wrk) in the process", &[Ok], |stage| {
        let _crew = stage.crew();
        let _ring = blocked_ring("fifo");
        stage.change();
        // It shows the user that it was made as, and that is no difference.
        Privileges::new().uid(raw::users()[0]).verify().expect("a worker that changes nothing");
        let threads = psx::threads().expect("/proc");
        let is_worker = |kind| kind == ThreadKind::KernelWorker;
        assert_eq!(threads.iter().filter(|state| is_worker(state.kind)).count(), 1);
    })
    .needs(Ring::can_be_had, IO_URING),
    // Its name is all that tells it from a poller.
    Case::new(
        "uring-worker-renamed",
        "the same under another name",
        &[Clean("Uncovered", "made by the kernel")],
        |stage| {
            let _crew = stage.crew();
            let ring = blocked_ring("fifo-renamed");
            rename_thread("iou-wrk-", "renamed");
            stage.change_soon();
            drop(ring);
        },
    )
    .needs(Ring::can_be_had, IO_URING),
    Case::new(
        "posing-worker",
        "an unregistered thread called iou-wrk-1",
        &[Clean("Uncovered", "iou-wrk-1")],
        |stage| {
            let _crew = stage.crew();
            let tid = raw::start_raw_thread();
            await_thread(|name, _| name == "raw-clone", &tid.to_string());
            rename_thread("raw-clone", "iou-wrk-1");
            stage.change_soon();
        },
    ),
    Case::new(
        "uring-poller",
        "io_uring SQPOLL ring, made before the drop; then closed",
        &[Clean("Uncovered", "close the ring first"), Ok],
        |stage| {
            let _crew = stage.crew();
            let ring = Ring::new(SQPOLL);
            await_thread(|name, _| name.starts_with("iou-sqp-"), "");
            stage.change_soon();
            drop(ring);
            stage.change();
        },
    )
    .needs(Ring::can_be_had, IO_URING)
    .bites(),
    Case::new(
        "uring-poller-registered",
        "the same, dropped under Coverage::Registered",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            let ring = Ring::new(SQPOLL);
            await_thread(|name, _| name.starts_with("iou-sqp-"), "");
            stage.ask("exempt-poller");
            stage.change_registered();
            let shadow = Path::new("/etc/shadow");
            assert!(std::fs::File::open(shadow).is_err(), "the thread itself is still root");
            ring.submit_open(shadow, 0);
            assert!(ring.await_result() >= 0, "the ring has lost its privileges with the threads");
            stage.note("the ring still opens /etc/shadow: why it counts as uncovered");
        },
    )
    .needs(Ring::can_be_had, IO_URING)
    .start(Start::Root),
];

/// A ring whose worker stays inside the open of a FIFO that no other thread opens.
pub(crate) fn blocked_ring(fifo: &str) -> Ring {
    let fifo = workshop(fifo);
    raw::make_fifo(&fifo);
    let ring = Ring::new(0);
    ring.submit_open(&fifo, ASYNC);
    await_thread(|name, _| name.starts_with("iou-wrk-"), "");
    ring
}

/// Gives the thread whose name begins with `old` another one.
fn rename_thread(old: &str, new: &str) {
    for task in fs::read_dir("/proc/self/task").expect("/proc").flatten() {
        let name = task.path().join("comm");
        if fs::read_to_string(&name).is_ok_and(|name| name.starts_with(old)) {
            fs::write(name, new).expect("a thread of this process");
            return;
        }
    }
    panic!("no thread is called {old}");
}

pub(crate) const IO_URING: &str = "io_uring";

const SQPOLL: u32 = 1 << 1;
/// Do not try in the submitter first.
const ASYNC: u8 = 1 << 4;
const OPENAT: u8 = 18;
const GETEVENTS_AND_WAKE: usize = 1 | 2;
const ENTRIES: usize = 4;
/// So few entries fit in a page each.
const SIZE: usize = 4096;

/// `struct io_uring_params` as 32-bit words: flags at 2, the submission ring's offsets from 10 on,
/// the completion ring's from 20 on.
type Params = [u32; 30];

/// A ring that is used for one operation.
pub(crate) struct Ring {
    fd: usize,
    rings: *mut u8,
    entries: *mut u8,
    params: Params,
}

impl Ring {
    /// Whether this kernel has rings, and lets us have one.
    pub(crate) fn can_be_had() -> bool {
        Self::set_up(&mut [0; 30]).map(raw::close).is_ok()
    }

    fn set_up(params: &mut Params) -> io::Result<usize> {
        let at = params.as_mut_ptr().addr();
        // SAFETY: the parameters outlive the call.
        unsafe { raw::call(libc::SYS_io_uring_setup, [ENTRIES, at, 0, 0, 0, 0]) }
    }

    fn new(flags: u32) -> Self {
        let mut params: Params = [0; 30];
        (params[2], params[4]) = (flags, 60_000);
        let fd = Self::set_up(&mut params).expect("io_uring_setup");
        let map = |offset| raw::map_file(fd, SIZE, offset);
        Self { fd, rings: map(0), entries: map(0x1000_0000), params }
    }

    /// One of the rings' shared words.
    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel gave the offset, and shares the word as an atomic.
        unsafe { AtomicU32::from_ptr(self.rings.add(offset as usize).cast()) }
    }

    fn submit_open(&self, path: &Path, flags: u8) {
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path without NUL");
        // The kernel reads it when it likes.
        let path = Box::leak(path.into_boxed_c_str());
        let mut entry = [0u8; 64];
        (entry[0], entry[1]) = (OPENAT, flags);
        entry[4..8].copy_from_slice(&libc::AT_FDCWD.to_ne_bytes());
        entry[16..24].copy_from_slice(&path.as_ptr().addr().to_ne_bytes());
        // SAFETY: the first of the ring's entries, which the kernel does not look at yet.
        unsafe { ptr::copy_nonoverlapping(entry.as_ptr(), self.entries, entry.len()) };
        let [tail, array] = [self.params[11], self.params[16]];
        self.word(array).store(0, Ordering::Relaxed);
        self.word(tail).store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        self.enter(0);
    }

    fn enter(&self, wanted: usize) {
        let args = [self.fd, 1, wanted, GETEVENTS_AND_WAKE, 0, 0];
        // SAFETY: no memory but the ring's own.
        unsafe { raw::call(libc::SYS_io_uring_enter, args) }.expect("io_uring_enter");
    }

    /// The result of the one operation: a descriptor or a negative errno.
    fn await_result(&self) -> i32 {
        while self.word(self.params[21]).load(Ordering::Acquire) == 0 {
            self.enter(1);
        }
        // A completion is 64 bits of ours and then the result.
        self.word(self.params[25] + 8).load(Ordering::Relaxed) as i32
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        raw::unmap(self.rings, SIZE);
        raw::unmap(self.entries, SIZE);
        raw::close(self.fd);
    }
}
