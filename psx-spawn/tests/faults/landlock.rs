//! Landlock: a call that forbids what a later broadcast would need (P1).

use std::fs;
use std::time::{Duration, Instant};

use psx::Broadcast;
use psx_test_support::landlock::{self, READ_DIR, READ_FILE, SCOPE_SIGNAL};
use psx_test_support::{seccomp, signal};

use crate::context::Context;
use crate::oracle::Mark;
use crate::row::Expected::{Clean, Ok};
use crate::row::Row;

pub(crate) const ROWS: &[Row] = &[
    Row::new(
        "landlock-read-dir",
        "applies a Landlock ruleset that denies READ_DIR; then a call",
        &[Ok, Ok],
        |context| by_round(context, [READ_DIR, 0, 0], || fs::read_dir("/").is_err()),
    )
    .needs(has_landlock, LANDLOCK),
    Row::new("landlock-all", "the same for all of /proc, files too", &[Ok, Ok], |context| {
        by_round(context, [READ_DIR | READ_FILE, 0, 0], cannot_read_proc)
    })
    .needs(has_landlock, LANDLOCK),
    Row::new(
        "landlock-before",
        "the same before the first use: Require, Registered",
        &[Clean("ThreadCountUnavailable", "Registered"), Ok],
        |context| {
            seccomp::no_new_privs();
            landlock::restrict(&landlock::ruleset([READ_DIR | READ_FILE, 0, 0]));
            let _probes = context.probes();
            context.change_soon();
            context.change_registered();
        },
    )
    .needs(has_landlock, LANDLOCK),
    Row::new(
        "landlock-scope",
        "applies a Landlock signal scope; then a call",
        &[Ok, Ok],
        |context| by_round(context, [0, 0, SCOPE_SIGNAL], cannot_signal_parent),
    )
    .needs(|| landlock::version() >= 6, "Landlock's scopes: Linux 6.12"),
];

pub(crate) const LANDLOCK: &str = "Landlock: Linux 5.13";

pub(crate) fn has_landlock() -> bool {
    landlock::version() >= 1
}

fn cannot_read_proc() -> bool {
    fs::read_dir("/proc/self/task").is_err() && fs::read("/proc/self/status").is_err()
}

fn cannot_signal_parent() -> bool {
    signal::send(std::os::unix::process::parent_id(), None, 0).is_err()
}

/// Eight threads, a round that restricts all, and a second round under the restriction. /proc does not show
/// the restriction: each thread tries what must be forbidden.
fn by_round(context: &Context, rules: [u64; 3], is_restricted: fn() -> bool) {
    let probes = context.probes_that(is_restricted);
    context.count().expect("a round without restrictions");
    assert!(probes.in_old_state() == 8, "the attempt fails without the restriction too");
    let ruleset = landlock::ruleset(rules);
    let start = Instant::now();
    let apply = || {
        seccomp::no_new_privs();
        landlock::restrict(&ruleset);
        Result::Ok(0)
    };
    // SAFETY: two system calls that touch no memory.
    let result = unsafe { Broadcast::new().run(apply) };
    let took = start.elapsed();
    let strays = probes.in_old_state() + usize::from(!is_restricted());
    let timeout = Duration::from_secs(5);
    context.report(Mark::NoNewPrivs, result.map(drop), took, timeout, strays);
    context.change();
}
