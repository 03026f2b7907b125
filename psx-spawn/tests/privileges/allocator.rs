//! An allocator that asks the kernel whether the calling thread is in a batch: its first step has been made
//! and its last one has not. And whether it is in a fork, where another thread may hold the allocator's
//! lock (P7).

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::{fs, ptr, thread};

use psx::{CapabilitySet, CapabilitySets, Privileges};
use psx_test_support::process::{fork, fork_and_wait, wait};
use psx_test_support::raw::prctl;
use psx_test_support::threads::start_idlers;
use psx_test_support::{Case, Line, root};

struct Watching;

static ON: AtomicBool = AtomicBool::new(false);
static INSIDE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// The thread that forks, until it or its copy in the child returns from the fork; 0 for none.
static FORKS: AtomicI32 = AtomicI32::new(0);
/// Its process.
static PARENT: AtomicI32 = AtomicI32::new(0);
/// Allocations of that thread, or of its copy.
static IN_FORK: AtomicUsize = AtomicUsize::new(0);

/// Whether the next allocation starts a thread, as an allocator with background threads does.
static TO_START: AtomicBool = AtomicBool::new(false);

/// Freed memory of the size of a thread's entry: kept, and filled with [`FREED`], so that a later write shows.
static KEPT: [AtomicPtr<u8>; 256] = [const { AtomicPtr::new(ptr::null_mut()) }; 256];
static KEPT_COUNT: AtomicUsize = AtomicUsize::new(0);
static KEEPS: AtomicBool = AtomicBool::new(false);
const KEPT_SIZES: RangeInclusive<usize> = 80..=128;
const FREED: u8 = 0x41;

/// The first step sets one group, the last one `no_new_privs`.
fn watch() {
    let [process, thread] = [&PARENT, &FORKS].map(|id| id.load(Ordering::Relaxed));
    // SAFETY: the calls only read.
    if thread != 0 && unsafe { libc::gettid() == thread || libc::getpid() != process } {
        IN_FORK.fetch_add(1, Ordering::Relaxed);
    }
    if ON.load(Ordering::Relaxed) {
        // SAFETY: asked for the number alone, the call writes nothing.
        let groups = unsafe { libc::getgroups(0, ptr::null_mut()) };
        if groups == 1 && prctl(libc::PR_GET_NO_NEW_PRIVS, 0) == 0 {
            INSIDE.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: it is std's allocator.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch();
        if TO_START.swap(false, Ordering::Relaxed) {
            psx::thread::spawn(thread::park);
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        watch();
        if KEEPS.load(Ordering::Relaxed) && KEPT_SIZES.contains(&layout.size()) {
            // SAFETY: the caller no longer uses it.
            unsafe { memory.write_bytes(FREED, *KEPT_SIZES.start()) };
            let place = KEPT.get(KEPT_COUNT.fetch_add(1, Ordering::Relaxed));
            return place.into_iter().for_each(|place| place.store(memory, Ordering::Release));
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("allocator::nothing_is_allocated_inside", nothing_inside).needs(root),
        Case::new("allocator::nothing_is_allocated_in_a_fork", nothing_in_a_fork),
        Case::new("allocator::one_that_starts_a_thread", one_that_starts_a_thread),
    ]
}

/// The allocator registers main while main registers: one entry remains in the list, and the other one is
/// freed while the kernel knows of no mutex in it.
fn one_that_starts_a_thread(_: &Line) {
    let count = || {
        let nothing = psx::Broadcast::new();
        // SAFETY: the call changes nothing.
        unsafe { nothing.run(|| Ok(0)) }.unwrap().threads()
    };
    KEEPS.store(true, Ordering::Relaxed);
    TO_START.store(true, Ordering::Relaxed);
    psx::thread::adopt().unwrap();
    assert!(!TO_START.load(Ordering::Relaxed), "the registration allocates");
    assert_eq!(count(), 2);
    assert!(KEPT_COUNT.load(Ordering::Relaxed) > 0, "the spare entry is freed");
    fork_and_wait(|| 0);
    assert_eq!(count(), 2);
    for memory in KEPT.iter().map(|place| place.load(Ordering::Acquire)) {
        let at = |at| memory.wrapping_add(at);
        let written = (0..*KEPT_SIZES.start())
            // SAFETY: never freed.
            .find(|&byte| !memory.is_null() && unsafe { at(byte).read_volatile() } != FREED);
        assert_eq!(written, None, "freed memory has been written to");
    }
}

fn nothing_inside(_: &Line) {
    // SAFETY: no groups, and before there are other threads.
    assert_eq!(unsafe { libc::setgroups(0, ptr::null()) }, 0);
    start_idlers(3);
    let bind = CapabilitySet::NET_BIND_SERVICE;
    let batch = Privileges::new()
        .groups(&[7])
        .gid(7)
        .uid(7)
        .capabilities(CapabilitySets {
            inheritable: bind,
            ..CapabilitySets::permitted_and_effective(bind)
        })
        .ambient(bind)
        .no_new_privs();
    ON.store(true, Ordering::Relaxed);
    let report = batch.apply();
    ON.store(false, Ordering::Relaxed);
    assert_eq!(report.unwrap().threads(), 4);
    assert_eq!(INSIDE.load(Ordering::Relaxed), 0);
}

/// By a registered thread, by one that is not, and where psx's descriptor has been closed.
fn nothing_in_a_fork(_: &Line) {
    start_idlers(3);
    let (go, goes) = mpsc::channel();
    let unregistered = std::thread::spawn(move || {
        goes.recv().unwrap();
        fork_watched();
    });
    for close in [false, true] {
        if close {
            let of_psx = |fd: &i32| {
                let file = fs::read_link(format!("/proc/self/fd/{fd}"));
                file.is_ok_and(|file| file.starts_with("/proc") && file.ends_with("stat"))
            };
            let fds: Vec<_> = (3..64).filter(of_psx).collect();
            assert_eq!(fds.len(), 1, "descriptors that psx keeps open");
            // SAFETY: a descriptor that psx opens again when it needs it.
            unsafe { libc::close(fds[0]) };
        }
        fork_watched();
    }
    go.send(()).unwrap();
    unregistered.join().unwrap();
}

fn fork_watched() {
    // SAFETY: the calls only read.
    let [process, thread] = unsafe { [libc::getpid(), libc::gettid()] };
    PARENT.store(process, Ordering::Relaxed);
    FORKS.store(thread, Ordering::Relaxed);
    let allocations = || {
        FORKS.store(0, Ordering::Relaxed);
        IN_FORK.load(Ordering::Relaxed)
    };
    let child = fork(|| i32::from(allocations() > 0));
    assert_eq!(allocations(), 0, "allocations in the parent");
    let status = wait(child);
    assert!(status.success(), "allocations in the child: {status}");
}
