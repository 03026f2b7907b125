//! io_uring's kernel threads: workers, which act with the credentials of the thread that submitted the work,
//! and the poller of an SQPOLL ring, which keeps the credentials of the thread that made the ring (P4, P10).

use std::path::Path;
use std::{fs, process};

use psx::Privileges;
use psx::privileges::ThreadKind;
use psx_test_support::Ring;
use psx_test_support::process::users;
use psx_test_support::procfs::{self, wait_for_thread};

use crate::raw;
use crate::row::Expected::{Clean, Ok};
use crate::row::{Row, Start};
use crate::supervisor::path;
use crate::threads::start_named_raw_thread;

pub(crate) const ROWS: &[Row] = &[
    Row::new("uring-worker", "io_uring worker (iou-wrk) in the process", &[Ok], |context| {
        let _probes = context.probes();
        let _ring = blocked_ring("fifo");
        context.change();
        // It shows the user that created it, which does not count as a difference.
        Privileges::new().uid(users()[0]).verify().expect("no difference");
        let threads = psx::threads().expect("/proc");
        let is_worker = |kind| kind == ThreadKind::KernelWorker;
        assert_eq!(threads.iter().filter(|state| is_worker(state.kind)).count(), 1);
    })
    .needs(Ring::is_available, IO_URING),
    // Only its name distinguishes it from a poller.
    Row::new(
        "uring-worker-renamed",
        "the same under another name",
        &[Clean("Uncovered", "made by the kernel")],
        |context| {
            let _probes = context.probes();
            let ring = blocked_ring("fifo-renamed");
            rename_thread("iou-wrk-", "renamed");
            context.change_soon();
            drop(ring);
        },
    )
    .needs(Ring::is_available, IO_URING),
    Row::new(
        "posing-worker",
        "an unregistered thread called iou-wrk-1",
        &[Clean("Uncovered", "iou-wrk-1")],
        |context| {
            let _probes = context.probes();
            start_named_raw_thread();
            rename_thread("raw-clone", "iou-wrk-1");
            context.change_soon();
        },
    ),
    Row::new(
        "uring-poller",
        "io_uring SQPOLL ring, made before the drop; then closed",
        &[Clean("Uncovered", "close the ring first"), Ok],
        |context| {
            let _probes = context.probes();
            let ring = Ring::new(true).expect("a ring");
            wait_for_thread(|_, name, _| name.starts_with("iou-sqp-"));
            context.change_soon();
            drop(ring);
            context.change();
        },
    )
    .needs(Ring::is_available, IO_URING)
    .fails_on_glibc(),
    Row::new(
        "uring-poller-registered",
        "the same, dropped under Coverage::Registered",
        &[Ok],
        |context| {
            let _probes = context.probes();
            let mut ring = Ring::new(true).expect("a ring");
            wait_for_thread(|_, name, _| name.starts_with("iou-sqp-"));
            context.ask("exempt-poller");
            context.change_registered();
            let shadow = Path::new("/etc/shadow");
            assert!(std::fs::File::open(shadow).is_err(), "the thread is still root");
            ring.submit_open(shadow, false);
            assert!(
                ring.wait_for_result() >= 0,
                "the ring has lost its privileges with the threads"
            );
            context.note("the ring still opens /etc/shadow: why it counts as uncovered");
        },
    )
    .needs(Ring::is_available, IO_URING)
    .start(Start::Root),
];

/// A ring whose worker stays inside the open of a FIFO that no other thread opens.
pub(crate) fn blocked_ring(fifo: &str) -> Ring {
    let fifo = path(fifo);
    raw::make_fifo(&fifo);
    let mut ring = Ring::new(false).expect("a ring");
    ring.submit_open(&fifo, true);
    wait_for_thread(|_, name, _| name.starts_with("iou-wrk-"));
    ring
}

/// Renames the thread whose name begins with `old`.
fn rename_thread(old: &str, new: &str) {
    let tasks = procfs::tasks(process::id());
    let task = tasks.iter().find(|task| task.name().starts_with(old)).expect("such a thread");
    fs::write(format!("/proc/self/task/{}/comm", task.tid), new).expect("/proc");
}

pub(crate) const IO_URING: &str = "io_uring";
