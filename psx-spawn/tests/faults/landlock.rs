//! Landlock: a call that takes away what a careless broadcast needs to go on.

use std::fs;
use std::time::{Duration, Instant};

use psx::Broadcast;

use crate::case::Case;
use crate::case::Expected::{Clean, Ok};
use crate::confine;
use crate::judge::Mark;
use crate::raw;
use crate::stage::Stage;

pub(crate) const CASES: &[Case] = &[
    Case::new(
        "landlock-read-dir",
        "applies a Landlock ruleset that denies READ_DIR; then a call",
        &[Ok, Ok],
        |stage| by_round(stage, [READ_DIR, 0, 0], || fs::read_dir("/").is_err()),
    )
    .needs(has_landlock, LANDLOCK),
    Case::new("landlock-all", "the same for all of /proc, files too", &[Ok, Ok], |stage| {
        by_round(stage, [READ_DIR | READ_FILE, 0, 0], cannot_read_proc)
    })
    .needs(has_landlock, LANDLOCK),
    Case::new(
        "landlock-before",
        "the same before the first use: Require, Registered",
        &[Clean("ThreadCountUnavailable", "Registered"), Ok],
        |stage| {
            confine::no_new_privs();
            confine::restrict(confine::ruleset([READ_DIR | READ_FILE, 0, 0]));
            let _crew = stage.crew();
            stage.change_soon();
            stage.change_registered();
        },
    )
    .needs(has_landlock, LANDLOCK),
    Case::new(
        "landlock-scope",
        "applies a Landlock signal scope; then a call",
        &[Ok, Ok],
        |stage| by_round(stage, [0, 0, SCOPE_SIGNAL], cannot_signal_parent),
    )
    .needs(|| confine::landlock_version() >= 6, "Landlock's scopes: Linux 6.12"),
];

const LANDLOCK: &str = "Landlock: Linux 5.13";

fn has_landlock() -> bool {
    confine::landlock_version() >= 1
}

const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const SCOPE_SIGNAL: u64 = 1 << 1;

fn cannot_read_proc() -> bool {
    fs::read_dir("/proc/self/task").is_err() && fs::read("/proc/self/status").is_err()
}

fn cannot_signal_parent() -> bool {
    raw::kill(std::os::unix::process::parent_id(), None, 0).is_err()
}

/// Eight threads, a round that restricts all, and a second round under the restriction. /proc does
/// not tell who is restricted: each thread tries what it must not be able to do.
fn by_round(stage: &Stage, rules: [u64; 3], is_restricted: fn() -> bool) {
    let crew = stage.crew_that(is_restricted);
    stage.count().expect("a round without restrictions");
    assert!(crew.strays() == 8, "the attempt fails without the restriction too");
    let ruleset = confine::ruleset(rules);
    let start = Instant::now();
    let apply = || {
        confine::no_new_privs();
        confine::restrict(ruleset);
        Result::Ok(0)
    };
    // SAFETY: two system calls that touch no memory.
    let result = unsafe { Broadcast::new().run(apply) };
    let took = start.elapsed();
    let strays = crew.strays() + usize::from(!is_restricted());
    let timeout = Duration::from_secs(5);
    stage.answer(Mark::NoNewPrivs, result.map(drop), took, timeout, strays);
    stage.change();
}
