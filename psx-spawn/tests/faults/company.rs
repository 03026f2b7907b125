//! Threads that hold a lock of the program at nearly every moment: a round that wanted one of them
//! while it keeps their holders still would wait for ever.

use std::env;
use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::{Write, stdout};
use std::os::fd::AsRawFd;

use crate::case::Case;
use crate::case::Expected::Ok;
use crate::raw;
use crate::stage::{Stage, is_level};

pub(crate) const CASES: &[Case] = &[
    Case::new("company-malloc", "10,000 calls beside holders of malloc's lock", &[Ok], |stage| {
        // SAFETY: no thread but this one has allocated yet.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        beside(stage, || {
            // Large enough to pass by the threads' own caches.
            black_box(vec![0u8; 8 << 10]);
        });
    })
    .seconds(120)
    .alone(),
    Case::new("company-stdout", "the same of stdout's lock", &[Ok], |stage| {
        let null = OpenOptions::new().write(true).open("/dev/null").expect("/dev/null");
        raw::replace(1, null.as_raw_fd());
        beside(stage, || writeln!(stdout().lock(), "no news").expect("/dev/null takes all"));
    })
    .seconds(120)
    .alone(),
    Case::new("company-parking-lot", "the same of a parking_lot lock", &[Ok], |stage| {
        static LOCK: parking_lot::Mutex<usize> = parking_lot::Mutex::new(0);
        beside(stage, || *LOCK.lock() += 1);
    })
    .seconds(120)
    .alone(),
    Case::new("company-env", "the same of std's environment lock", &[Ok], |stage| {
        beside(stage, || {
            // SAFETY: no foreign code of this process reads the environment.
            unsafe { env::set_var("PSX_FAULTS_COMPANY", "here") };
        });
    })
    .seconds(120)
    .alone(),
];

/// 10,000 calls beside two threads that do `work` without a pause.
fn beside(stage: &Stage, work: fn()) {
    let crew = stage.crew_that(is_level);
    for _ in 0..2 {
        stage.busy("holder", work);
    }
    stage.conclude(stage.count_to(10_000), crew.strays());
}
