//! Every thread is covered without a change to the program: tokio, rayon, `std::thread` and a C library start
//! their threads as usual, and psx's `pthread_create`, which its feature `interpose` puts before the libc's,
//! registers each.

use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::c_int;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::Parser;
use psx_examples::attempt::{Answer, Attempt};
use psx_examples::status;
use psx_integrations::{Show, ask_all, dropping_everything, on_blocking_threads, perform};
use psx_interposed::privileges::{ThreadKind, ThreadPrivileges};
use psx_interposed::{self as psx, Errno};
use psx_test_support::Probe;

/// Drops all privileges on threads that tokio, rayon, std and C start, without a change to them.
#[derive(Parser)]
struct Options {
    /// How many threads each of tokio's two pools, rayon and std have.
    #[arg(long, default_value_t = 3)]
    threads: usize,
}

// SAFETY: as c_thread.c has them; both take and return numbers.
unsafe extern "C" {
    safe fn c_thread_start(fd: c_int) -> c_int;
    safe fn c_thread_join() -> c_int;
}

fn main() -> ExitCode {
    let options = Options::parse();
    perform(io::stdout(), |show| act(show, options.threads))
}

fn act(show: &mut Show, threads: usize) -> Result<(), Box<dyn Error>> {
    let attempts = show.attempts()?;
    let probe = |_| Probe::start_by(|body| drop(std::thread::spawn(body)));
    let probes: Vec<_> = (0..threads).map(probe).collect();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|number| format!("rayon-{number}"))
        .build()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).build()?;
    runtime.block_on(on_blocking_threads(threads, || ()));
    let (c_thread_waits, c_thread_goes) = UnixStream::pair()?;
    if let error @ 1.. = c_thread_start(c_thread_waits.as_raw_fd()) {
        return Err(io::Error::from_raw_os_error(error).into());
    }

    let before = status::of_this_process()?;
    writeln!(
        show,
        "Threads started in their usual ways: {threads} by std, {threads} by rayon, {} by tokio, \
         1 by a C library.",
        2 * threads
    )?;
    show.claim(
        format!("with the main thread, the process has {}", before.len()),
        before.len() == 1 + 4 * threads + 1,
    )?;

    let (steps, wanted) = dropping_everything(&before[0].credentials);
    writeln!(show, "Dropping all privileges:")?;
    show.covered(&steps.apply()?)?;
    let alive: BTreeSet<u32> = before.iter().map(|thread| thread.tid).collect();
    let all = psx::threads()?;
    let known = all.iter().filter(|thread| thread.kind == ThreadKind::Registered);
    let known: BTreeSet<u32> = known.map(ThreadPrivileges::tid).collect();
    show.claim("psx has registered all of them", known == alive)?;
    show.states(&wanted)?;

    let is_readable_by_root = attempts.contains(&Attempt::OpenShadow);
    for attempt in attempts {
        writeln!(show, "Each thread attempts to {attempt}:")?;
        show.may_not("main and std", &ask_all(&probes, move || attempt.make()))?;
        show.may_not("rayon", &pool.broadcast(|_| attempt.make()))?;
        let blocking = on_blocking_threads(threads, move || attempt.make());
        show.may_not("tokio's blocking pool", &runtime.block_on(blocking))?;
        let worker = runtime.spawn(async move { attempt.make() });
        show.may_not("a tokio worker", &[runtime.block_on(worker)?])?;
    }
    drop(c_thread_goes);
    let answer = c_answer();
    if is_readable_by_root {
        show.may_not("C, open /etc/shadow", &[answer])?;
    }
    Ok(())
}

fn c_answer() -> Answer {
    match c_thread_join() {
        0 => Ok(()),
        error => Err(Errno::from_raw(error)),
    }
}
