//! Calls whose results differ between threads: the process ends, or gets a report (P1, P2).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use psx::{Broadcast, Errno};
use psx_test_support::raw::{must, pipe};
use psx_test_support::threads::tid;

use crate::context::Context;
use crate::raw;
use crate::row::Expected::{Abort, Ok};
use crate::row::Row;
use crate::threads::start_idle;

const F_SETPIPE_SZ: usize = libc::F_SETPIPE_SZ as usize;

pub(crate) const ROWS: &[Row] = &[
    Row::new(
        "divergent-strict",
        "a call with results that differ, strictest setting",
        &[Abort("failing")],
        |context| diverge(context, |_, tid| Result::Ok(tid as usize)),
    ),
    Row::new("one-fails", "one thread's call fails, default", &[Abort("failing")], |context| {
        diverge(context, fail_on)
    }),
    Row::new("one-fails-report", "the same under Divergence::Report", &[Ok], |context| {
        let _probes = context.probes();
        let failing = start_idle(context, "failing");
        let strict = Broadcast::new().divergence(psx::Divergence::Report);
        // SAFETY: gettid changes nothing.
        let report = unsafe { strict.run(|| fail_on(failing, tid())) }.expect("a report");
        let named: Vec<_> = report.divergent().iter().map(|d| d.thread().tid()).collect();
        assert_eq!(named, [failing], "the threads that the report names");
        context.change();
    }),
    Row::new(
        "divergent-pipe",
        "2,000 threads differ, and one of them reads the pipe that is stderr",
        &[Abort("")],
        |context| {
            let mut end = pipe_for_stderr();
            let _ = context.spawn("reader", move || while end.read(&mut [0; 4096]).is_ok() {});
            context.park(2_000);
            all_differ();
        },
    )
    .seconds(60),
    Row::new(
        "divergent-full-pipe",
        "eight threads differ, and such a pipe is full",
        &[Abort("")],
        |context| {
            let _probes = context.probes();
            let _end = pipe_for_stderr();
            let size = must(libc::SYS_fcntl, [2, F_SETPIPE_SZ, 1, 0, 0, 0]);
            io::stderr().write_all(&vec![b'.'; size]).expect("a pipe of this size");
            all_differ();
        },
    ),
];

/// The result of a call on thread `tid` that fails on `failing` alone.
fn fail_on(failing: u32, tid: u32) -> Result<usize, Errno> {
    if tid == failing { Err(Errno::from_raw(libc::EPERM)) } else { Result::Ok(0) }
}

fn diverge(context: &Context, result: fn(u32, u32) -> Result<usize, Errno>) {
    let _probes = context.probes();
    let failing = start_idle(context, "failing");
    // SAFETY: gettid changes nothing.
    let _ = unsafe { Broadcast::new().run(|| result(failing, tid())) };
}

/// Makes stderr a pipe, and returns the end to read from.
fn pipe_for_stderr() -> File {
    let (read, write) = pipe();
    raw::replace(2, write.as_raw_fd());
    read
}

fn all_differ() {
    // SAFETY: gettid changes nothing.
    let _ = unsafe { Broadcast::new().syscall(libc::SYS_gettid, [0; 6]) };
}
