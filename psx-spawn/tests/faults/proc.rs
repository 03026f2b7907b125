//! A process that can no longer see /proc (P1, P4, P10).

use std::fs;

use psx_test_support::raw::set_limit;

use crate::context::Context;
use crate::raw;
use crate::row::Expected::{Clean, Ok};
use crate::row::{Row, Start};
use crate::supervisor::path;

/// The error where psx never could open the kernel's thread count.
const NO_THREAD_COUNT: &str = "ThreadCountUnavailable";

pub(crate) const ROWS: &[Row] = &[
    Row::new("unmount-after", "/proc unmounted", &[Ok], |context| {
        after(context, raw::unmount_proc)
    })
    .start(Start::Root),
    Row::new(
        "unmount-before",
        "/proc unmounted before the first use: Require, Registered",
        &[Clean(NO_THREAD_COUNT, "Registered"), Ok],
        |context| before(context, raw::unmount_proc),
    )
    .start(Start::Root),
    Row::new("chroot-after", "chroot to an empty directory", &[Ok], |context| {
        after(context, enter_empty);
    })
    .start(Start::Root),
    Row::new(
        "chroot-before",
        "chroot before the first use: Require, Registered",
        &[Clean(NO_THREAD_COUNT, "Registered"), Ok],
        |context| before(context, enter_empty),
    )
    .start(Start::Root),
    Row::new(
        "chroot-forged",
        "the same with a folder as /proc/self/task: Require, Registered",
        &[Clean(NO_THREAD_COUNT, "Registered"), Ok],
        |context| before(context, enter_forged),
    )
    .start(Start::Root),
    Row::new(
        "no-descriptor",
        "no free descriptor at the first use: Require, Registered",
        &[Clean(NO_THREAD_COUNT, "Registered"), Ok],
        |context| {
            set_limit(libc::RLIMIT_NOFILE, [0, 0]);
            context.park(8);
            context.change_soon();
            context.change_registered();
        },
    ),
];

fn enter_empty() {
    raw::change_root(&path("empty"));
}

/// A link count that would prove nine threads: eight probes and main.
fn enter_forged() {
    let root = path("forged");
    for thread in 0..9 {
        fs::create_dir_all(root.join(format!("proc/self/task/{thread}"))).expect("a folder");
    }
    raw::change_root(&root);
}

/// psx reads the number of threads from the descriptor that it opened at its first use.
fn after(context: &Context, lose_proc: fn()) {
    context.adopt();
    lose_proc();
    let _probes = context.probes();
    context.change();
}

/// There is nothing to open: no proof, but the registered threads can be changed.
fn before(context: &Context, lose_proc: fn()) {
    lose_proc();
    let _probes = context.probes();
    context.change_soon();
    context.change_registered();
}
