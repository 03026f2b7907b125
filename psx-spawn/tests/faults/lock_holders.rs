//! Threads that hold a lock nearly all of the time: a round that took the lock while its holder is stopped
//! would wait indefinitely (P6).

use std::env;
use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::{Write, stdout};
use std::os::fd::AsRawFd;

use crate::context::{Context, is_level};
use crate::raw;
use crate::row::Expected::Ok;
use crate::row::Row;

pub(crate) const ROWS: &[Row] = &[
    Row::new("lock-malloc", "10,000 calls beside holders of malloc's lock", &[Ok], |context| {
        // SAFETY: no thread but this one has allocated yet.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        beside(context, || {
            // Too large for malloc's caches of each thread.
            black_box(vec![0u8; 8 << 10]);
        });
    })
    .seconds(120)
    .alone(),
    Row::new("lock-stdout", "the same of stdout's lock", &[Ok], |context| {
        let null = OpenOptions::new().write(true).open("/dev/null").expect("/dev/null");
        raw::replace(1, null.as_raw_fd());
        beside(context, || writeln!(stdout().lock(), "no news").expect("/dev/null"));
    })
    .seconds(120)
    .alone(),
    Row::new("lock-parking-lot", "the same of a parking_lot lock", &[Ok], |context| {
        static LOCK: parking_lot::Mutex<usize> = parking_lot::Mutex::new(0);
        beside(context, || *LOCK.lock() += 1);
    })
    .seconds(120)
    .alone(),
    Row::new("lock-env", "the same of std's environment lock", &[Ok], |context| {
        beside(context, || {
            // SAFETY: only std reads the environment in this process.
            unsafe { env::set_var("PSX_FAULTS_LOCK", "set") };
        });
    })
    .seconds(120)
    .alone(),
];

/// 10,000 calls beside two threads that do `work` without a pause.
fn beside(context: &Context, work: fn()) {
    let probes = context.probes_that(is_level);
    for _ in 0..2 {
        context.busy("holder", work);
    }
    context.conclude(context.count_to(10_000), probes.in_old_state());
}
