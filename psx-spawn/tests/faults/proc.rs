//! A process that cannot see /proc any more.

use std::fs;

use crate::case::Expected::{Clean, Ok};
use crate::case::{Case, Start};
use crate::raw;
use crate::stage::Stage;
use crate::supervisor::workshop;

/// What psx says where it never could open the kernel's thread count.
const NO_THREAD_COUNT: &str = "ThreadCountUnavailable";

pub(crate) const CASES: &[Case] = &[
    Case::new("unmount-after", "/proc unmounted", &[Ok], |stage| after(stage, raw::unmount_proc))
        .start(Start::Root),
    Case::new(
        "unmount-before",
        "/proc unmounted before the first use: Require, Registered",
        &[Clean(NO_THREAD_COUNT, "Registered"), Ok],
        |stage| before(stage, raw::unmount_proc),
    )
    .start(Start::Root),
    Case::new("chroot-after", "chroot to an empty directory", &[Ok], |stage| {
        after(stage, enter_empty);
    })
    .start(Start::Root),
    Case::new(
        "chroot-before",
        "chroot before the first use: Require, Registered",
        &[Clean(NO_THREAD_COUNT, "Registered"), Ok],
        |stage| before(stage, enter_empty),
    )
    .start(Start::Root),
    Case::new(
        "chroot-forged",
        "the same with a folder as /proc/self/task: Require, Registered",
        &[Clean(NO_THREAD_COUNT, "Registered"), Ok],
        |stage| before(stage, enter_forged),
    )
    .start(Start::Root),
    Case::new(
        "no-descriptor",
        "no descriptor to be had at the first use: Require, Registered",
        &[Clean(NO_THREAD_COUNT, "Registered"), Ok],
        |stage| {
            raw::set_limit(libc::RLIMIT_NOFILE, [0, 0]);
            stage.park(8);
            stage.change_soon();
            stage.change_registered();
        },
    ),
];

fn enter_empty() {
    raw::change_root(&workshop("empty"));
}

/// A link count that would prove nine threads, the eight of the crew and main.
fn enter_forged() {
    let root = workshop("forged");
    for thread in 0..9 {
        fs::create_dir_all(root.join(format!("proc/self/task/{thread}"))).expect("a folder");
    }
    raw::change_root(&root);
}

/// The descriptor that psx opened on its first use still tells the number of threads.
fn after(stage: &Stage, lose_proc: fn()) {
    stage.adopt();
    lose_proc();
    let _crew = stage.crew();
    stage.change();
}

/// There is nothing to open: no proof, but the registered threads are there to be changed.
fn before(stage: &Stage, lose_proc: fn()) {
    lose_proc();
    let _crew = stage.crew();
    stage.change_soon();
    stage.change_registered();
}
