//! Calls that do not come to the same on every thread: the process ends, or is told.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};

use psx::{Broadcast, Errno};

use crate::case::Case;
use crate::case::Expected::{Abort, Ok};
use crate::raw;
use crate::stage::Stage;
use crate::threads::idle;

const F_SETPIPE_SZ: usize = libc::F_SETPIPE_SZ as usize;

pub(crate) const CASES: &[Case] = &[
    Case::new(
        "divergent-strict",
        "a call with results that differ, strictest setting",
        &[Abort("stray")],
        |stage| diverge(stage, |_, tid| Result::Ok(tid as usize)),
    ),
    Case::new("one-fails", "one thread's call fails, default", &[Abort("stray")], |stage| {
        diverge(stage, fail_on)
    }),
    Case::new("one-fails-report", "the same under Divergence::Report", &[Ok], |stage| {
        let _crew = stage.crew();
        let stray = idle(stage, "stray");
        let strict = Broadcast::new().divergence(psx::Divergence::Report);
        // SAFETY: gettid changes nothing.
        let report = unsafe { strict.run(|| fail_on(stray, raw::tid())) }.expect("a report");
        let named: Vec<_> = report.divergent().iter().map(|d| d.thread().tid()).collect();
        assert_eq!(named, [stray], "the threads that the report names");
        stage.change();
    }),
    Case::new(
        "divergent-pipe",
        "2,000 threads differ, and stderr is a pipe that one of them reads",
        &[Abort("")],
        |stage| {
            let mut end = pipe_for_stderr();
            let _ = stage.spawn("reader", move || while end.read(&mut [0; 4096]).is_ok() {});
            stage.park(2_000);
            all_differ();
        },
    )
    .seconds(60),
    Case::new(
        "divergent-full-pipe",
        "eight threads differ, and such a pipe has no room left",
        &[Abort("")],
        |stage| {
            let _crew = stage.crew();
            let _end = pipe_for_stderr();
            let size = raw::must("fcntl", libc::SYS_fcntl, [2, F_SETPIPE_SZ, 1, 0, 0, 0]);
            io::stderr().write_all(&vec![b'.'; size]).expect("a pipe with just this much room");
            all_differ();
        },
    ),
];

/// The result of a call on thread `tid` that fails on `stray` alone.
fn fail_on(stray: u32, tid: u32) -> Result<usize, Errno> {
    if tid == stray { Err(Errno::from_raw(libc::EPERM)) } else { Result::Ok(0) }
}

fn diverge(stage: &Stage, result: fn(u32, u32) -> Result<usize, Errno>) {
    let _crew = stage.crew();
    let stray = idle(stage, "stray");
    // SAFETY: gettid changes nothing.
    let _ = unsafe { Broadcast::new().run(|| result(stray, raw::tid())) };
}

/// Makes stderr a pipe, and returns the end to read from.
fn pipe_for_stderr() -> File {
    let mut ends = [0; 2];
    // SAFETY: a place for two descriptors, which are then nobody else's.
    let [read, write] = unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0, "{}", io::Error::last_os_error());
        ends.map(|end| File::from_raw_fd(end))
    };
    raw::replace(2, write.as_raw_fd());
    read
}

fn all_differ() {
    // SAFETY: gettid changes nothing.
    let _ = unsafe { Broadcast::new().syscall(libc::SYS_gettid, [0; 6]) };
}
