//! No memory left.

use std::alloc::{self, Layout};
use std::time::Instant;

use psx::Broadcast;

use crate::case::Case;
use crate::case::Expected::OkOrClean;
use crate::judge::Mark;
use crate::raw;
use crate::stage::{SHORT, Stage};

pub(crate) const CASES: &[Case] = &[
    Case::new(
        "memory-first",
        "no memory left (RLIMIT_AS), at the first call",
        &[OkOrClean],
        |stage| {
            let _crew = stage.crew();
            call_without_memory(stage);
        },
    ),
    Case::new("memory", "no memory left (RLIMIT_AS), at a later call", &[OkOrClean], |stage| {
        let _crew = stage.crew();
        stage.count().expect("a call while there is memory");
        call_without_memory(stage);
    }),
];

/// The call while an allocation of even one byte fails; what came out is told when there is memory
/// again.
fn call_without_memory(stage: &Stage) {
    let limit = raw::limit(libc::RLIMIT_AS);
    raw::set_limit(libc::RLIMIT_AS, [0, limit[1]]);
    exhaust();
    let start = Instant::now();
    let args = [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0, 0];
    // SAFETY: nothing here executes a set-user-ID file.
    let result = unsafe { Broadcast::new().timeout(SHORT).syscall(libc::SYS_prctl, args) };
    let took = start.elapsed();
    raw::set_limit(libc::RLIMIT_AS, limit);
    stage.answer(Mark::NoNewPrivs, result.map(drop), took, SHORT, 0);
}

/// Takes, and never gives back, all that malloc still has.
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
