//! No memory left (P1).

use std::alloc::{self, Layout};
use std::time::Instant;

use psx::Broadcast;
use psx_test_support::raw::{limit as limit_of, set_limit};

use crate::context::{Context, SHORT};
use crate::oracle::Mark;
use crate::row::Expected::OkOrClean;
use crate::row::Row;

pub(crate) const ROWS: &[Row] = &[
    Row::new(
        "memory-first",
        "no memory left (RLIMIT_AS), at the first call",
        &[OkOrClean],
        |context| {
            let _probes = context.probes();
            call_without_memory(context);
        },
    ),
    Row::new("memory", "no memory left (RLIMIT_AS), at a later call", &[OkOrClean], |context| {
        let _probes = context.probes();
        context.count().expect("a call while there is memory");
        call_without_memory(context);
    }),
];

/// Makes the call while an allocation of even one byte fails; reports the result when there is memory again.
fn call_without_memory(context: &Context) {
    let limit = limit_of(libc::RLIMIT_AS);
    set_limit(libc::RLIMIT_AS, [0, limit[1]]);
    exhaust();
    let start = Instant::now();
    let args = [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0];
    // SAFETY: nothing here executes a set-user-ID file.
    let result = unsafe { Broadcast::new().timeout(SHORT).syscall(libc::SYS_prctl, args) };
    let took = start.elapsed();
    set_limit(libc::RLIMIT_AS, limit);
    context.report(Mark::NoNewPrivs, result.map(drop), took, SHORT, 0);
}

/// Takes all that malloc still has, and never frees it.
fn exhaust() {
    let mut size = 1 << 20;
    while size > 0 {
        let layout = Layout::from_size_align(size, 1).expect("a small size");
        // SAFETY: the size is not zero; the memory is not used.
        if unsafe { alloc::alloc(layout) }.is_null() {
            size /= 2;
        }
    }
}
