//! An allocator that knows whether the thread that asks is in the middle of a batch: by the kernel,
//! which says that the first step has been made and the last one has not.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use psx::{CapabilitySet, CapabilitySets, Privileges};

use crate::kernel::{prctl, start_idlers};
use crate::support::{Case, Line, root};

struct Watching;

static ON: AtomicBool = AtomicBool::new(false);
static INSIDE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// The first step gives the thread one group, the last one `no_new_privs`.
fn watch() {
    if ON.load(Ordering::Relaxed) {
        // SAFETY: asked for the number alone, the call writes nothing.
        let groups = unsafe { libc::getgroups(0, ptr::null_mut()) };
        if groups == 1 && prctl(libc::PR_GET_NO_NEW_PRIVS) == 0 {
            INSIDE.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: it is std's allocator.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        watch();
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("allocator::nothing_is_allocated_inside", nothing_inside).needs(root)]
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
        .capabilities(CapabilitySets { inheritable: bind, ..CapabilitySets::usable(bind) })
        .ambient(bind)
        .no_new_privs();
    ON.store(true, Ordering::Relaxed);
    let report = batch.apply();
    ON.store(false, Ordering::Relaxed);
    assert_eq!(report.unwrap().threads(), 4);
    assert_eq!(INSIDE.load(Ordering::Relaxed), 0);
}
