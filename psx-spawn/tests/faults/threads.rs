//! Threads that cannot stop, are not registered, or have ended without the libc (P1, P4, P5, P6, P7, P9, P10).

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use psx::Error;
use psx_test_support::process::{exit_thread, users};
use psx_test_support::procfs::wait_for_thread;
use psx_test_support::raw::set_limit;
use psx_test_support::signal::set_mask;
use psx_test_support::threads::{idle, tid};

use crate::LEAVE_MAIN;
use crate::context::{Context, is_level};
use crate::raw;
use crate::row::Expected::{Clean, Exit, Ok};
use crate::row::Row;

pub(crate) const ROWS: &[Row] = &[
    Row::new("vfork-short", "a thread in vfork for 3 s", &[Ok], |context| {
        let _probes = context.probes();
        in_vfork(context, 3);
        context.noting_stops(Duration::from_secs(1), Context::change);
    }),
    Row::new(
        "vfork-long",
        "a thread in vfork for 30 s",
        &[Clean("Unreachable", "(vforker), which is in vfork until")],
        |context| {
            let _probes = context.probes();
            in_vfork(context, 30);
            context.change_soon();
        },
    )
    .fails_on_glibc(),
    Row::new(
        "vfork-forged",
        "the same, and its child gets forged signals 33",
        &[Clean("Unreachable", "(vforker), which is in vfork until")],
        |context| {
            let _probes = context.probes();
            context.count().expect("a round before the child inherits the handlers");
            let child = in_vfork(context, 30);
            context.ask(format_args!("start-helper drip {child}"));
            context.change_soon();
        },
    ),
    Row::new(
        "traced",
        "a thread stopped by a debugger; then resumed",
        &[Clean("Unreachable", "(traced), which is stopped by its tracer (process "), Ok],
        |context| {
            let _probes = context.probes();
            let traced = start_idle(context, "traced");
            context.ask(format_args!("trace {traced}"));
            context.noting_stops(Duration::from_millis(500), Context::change_soon);
            context.ask(format_args!("untrace {traced}"));
            context.change();
        },
    ),
    Row::new(
        "raw-clone",
        "a raw clone(CLONE_THREAD) thread",
        &[Clean("Uncovered", "raw-clone")],
        |context| {
            let _probes = context.probes();
            start_named_raw_thread();
            context.change_soon();
        },
    )
    .fails_on_glibc(),
    Row::new(
        "raw-clone-forged",
        "the same, and it gets forged signals 33: Registered",
        &[Clean("Unreachable", "(creator), which blocks signal 33")],
        |context| {
            let _probes = context.probes();
            context.count().expect("a round that installs the handler");
            let (send, ready) = mpsc::channel();
            let _ = context.spawn("creator", move || {
                raw::start_raw_thread();
                set_mask(!0);
                send.send(()).expect("main waits");
                idle()
            });
            ready.recv().expect("a blocked thread");
            context.ask("start-helper drip");
            context.change_registered();
        },
    ),
    Row::new("main-pthread-exit", "main thread ended by pthread_exit", &[Ok], |context| {
        without_main(context);
        LEAVE_MAIN.store(true, Ordering::Relaxed);
    }),
    Row::new(
        "last-thread",
        "main ends by pthread_exit, the others return one by one, beside rounds",
        &[Exit(0)],
        |context| {
            // Each takes part in at least ten rounds of the others, except the last ones.
            for rounds in (1..=8).map(|threads| 10 * threads) {
                let caller = context.clone();
                let _ = context.spawn("caller", move || {
                    let _ = caller.count_to(rounds).expect("rounds beside threads that end");
                });
            }
            LEAVE_MAIN.store(true, Ordering::Relaxed);
        },
    ),
    Row::new("main-raw-exit", "main thread ended by raw SYS_exit", &[Ok], |context| {
        context.count().expect("a round with main");
        without_main(context);
        exit_thread();
    }),
    Row::new("raw-exit", "200 threads ended by raw SYS_exit between rounds", &[Ok], |context| {
        let probes = context.probes_that(is_level);
        let round = |_| {
            let (mut gone, open) = UnixStream::pair().expect("a socket pair");
            for _ in 0..10 {
                let open = open.try_clone().expect("a descriptor");
                let _ = context.spawn("exiting", move || exit_with(open));
            }
            drop(open);
            gone.read_to_end(&mut Vec::new()).expect("the end of the threads");
            context.count()
        };
        let counted: Result<_, Error> = (0..20).map(round).collect();
        context.conclude(counted, probes.in_old_state());
    }),
    Row::new(
        "spawn-fails",
        "spawn fails: no address space for the stack, no process left",
        &[Ok],
        |context| {
            let probes = context.probes_that(is_level);
            let huge = context.try_spawn("too-big", 1 << 46, || ());
            assert!(huge.is_err(), "a stack of 64 TiB was mapped");
            let counted = context.count_to(10);
            set_limit(libc::RLIMIT_NPROC, [0, 0]);
            // The limit of processes does not apply to root.
            if users()[0] != 0 {
                let refused = context.try_spawn("too-many", 256 << 10, || ());
                assert!(refused.is_err(), "a thread over the limit was started");
            }
            let counted = counted.and_then(|_| context.count_to(10));
            context.conclude(counted, probes.in_old_state());
        },
    )
    .start(crate::row::Start::Plain),
];

/// Closes `open`, since no destructor runs, and ends the thread.
fn exit_with(open: UnixStream) {
    drop(open);
    exit_thread();
}

/// Starts a thread that waits, and returns its id.
pub(crate) fn start_idle(context: &Context, name: &str) -> u32 {
    let (send, ids) = mpsc::channel();
    let _ = context.spawn(name, move || {
        send.send(tid()).expect("main waits");
        idle()
    });
    ids.recv().expect("the thread's id")
}

/// Starts a raw thread, and returns when it has its name, `raw-clone`.
pub(crate) fn start_named_raw_thread() {
    let tid = raw::start_raw_thread();
    wait_for_thread(|id, name, _| id == tid && name == "raw-clone");
}

/// Starts a thread, `vforker`, that is in vfork for `seconds` when this returns its child.
fn in_vfork(context: &Context, seconds: u32) -> u32 {
    let (mut child, announce) = UnixStream::pair().expect("a socket pair");
    let _ = context.spawn("vforker", move || raw::vfork(announce.as_raw_fd(), seconds));
    let mut id = [0; 4];
    child.read_exact(&mut id).expect("the id of the vfork child");
    u32::from_ne_bytes(id)
}

/// Starts the thread that continues when main has ended.
fn without_main(context: &Context) {
    let context = context.clone();
    let _ = context.clone().spawn("successor", move || {
        let _probes = context.probes();
        wait_for_thread(|id, _, state| id == process::id() && state == 'Z');
        context.change();
        context.ask("done");
    });
}
