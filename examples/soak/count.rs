//! The number that all threads must have, and the rounds that change it.
//!
//! Timer slack is a number that the kernel keeps for each thread, passes on at `clone`, and that a thread may
//! set for itself. Each counting round adds one on every thread; so a thread that a round missed, or that
//! started during one, stays behind, and one that a failed round changed stays ahead.

use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use psx::{Broadcast, Divergence, Errno, Error, Report};
use psx_test_support::Random;
use psx_test_support::raw::{slack, syscall};
use psx_test_support::threads::tid;

use crate::fault_window;
use crate::subject::fail;
use crate::tally::{self, Event};

/// Threads that make counting rounds: four callers and the one that injects faults.
pub(crate) const COUNTERS: usize = 5;

/// Rounds hold it for reading; a thread that wants them to pause, for writing.
pub(crate) static PAUSE: RwLock<()> = RwLock::new(());

/// Counting rounds that have returned, and the slack that main began with.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn prctl(option: libc::c_int, value: usize) -> Result<usize, Errno> {
    // SAFETY: used with options that take a number and touch no memory.
    unsafe { syscall(libc::SYS_prctl, [option as usize, value, 0, 0, 0, 0]) }
}

/// The number of every thread while rounds pause.
pub(crate) fn expected() -> usize {
    COUNT.load(Ordering::Acquire)
}

/// Begins to count, while the process has one thread.
pub(crate) fn begin() {
    // Small, so that sleeps stay exact.
    if let Err(errno) = prctl(libc::PR_SET_TIMERSLACK, 1) {
        fail(format_args!("cannot set the timer slack: {errno}"));
    }
    COUNT.store(slack(), Ordering::Release);
}

/// Checks that the calling thread has made every round that has returned, and no more than have begun.
pub(crate) fn check(who: &str) {
    let least = expected();
    let own = slack();
    let most = expected() + COUNTERS;
    if !(least..=most).contains(&own) {
        fail(format_args!("{who} has counted {own} rounds, not {least} to {most}"));
    }
}

fn add_one() -> Result<usize, Errno> {
    let next = slack() + 1;
    prctl(libc::PR_SET_TIMERSLACK, next)?;
    Ok(next)
}

/// Adds one on every thread, and counts it. Different numbers are a failure.
pub(crate) fn round(timeout: Duration) -> Result<(), Error> {
    let report = uncounted_round(timeout)?;
    COUNT.fetch_add(1, Ordering::AcqRel);
    tally::count(Event::Round);
    tally::stopped_for(report.stopped());
    check("the caller");
    Ok(())
}

/// The same for a process that counts otherwise.
pub(crate) fn uncounted_round(timeout: Duration) -> Result<Report, Error> {
    let broadcast = Broadcast::new().timeout(timeout).divergence(Divergence::Report);
    // SAFETY: two system calls that touch no memory.
    let report = unsafe { broadcast.run(add_one) }?;
    if let Some(other) = report.divergent().first() {
        let (number, of) = (report.value(), report.threads());
        fail(format_args!("{other}, the caller {number}, in a round of {of} threads"));
    }
    Ok(report)
}

/// One call to psx, most often a counting round. What it may and must return depends on the fault window.
pub(crate) fn call(random: &mut Random) {
    let _not_paused = PAUSE.read();
    if random.below(16) == 0 {
        return list();
    }
    let before = fault_window::now();
    // Long enough for the fault to end, or, during one, sometimes too short for that.
    let timeout = match fault_window::is_clear(before) || random.coin() {
        true => Duration::from_secs(30),
        false => Duration::from_millis(random.below(100) + 1),
    };
    let result = match random.below(16) {
        0 => failing(timeout),
        1 => diverging(timeout),
        _ => round(timeout),
    };
    match result {
        Ok(()) if fault_window::forbids_success(before) => {
            fail("a round went through while a thread could not take part");
        }
        Ok(()) => {}
        Err(_) if fault_window::excuses_failure(before) => tally::count(Event::Refused),
        Err(error) => fail(format_args!("a round failed without a fault: {error}")),
    }
}

/// A call that fails on the caller, so that no other thread may make it.
fn failing(timeout: Duration) -> Result<(), Error> {
    let caller = tid();
    let op = || match tid() == caller {
        true => Err(Errno::from_raw(libc::EPERM)),
        false => add_one(),
    };
    // SAFETY: system calls that touch no memory.
    match unsafe { Broadcast::new().timeout(timeout).run(op) } {
        Ok(_) => fail("a round whose call failed on the caller succeeded"),
        Err(Error::Os(errno)) if errno.raw() == libc::EPERM => tally::count(Event::FailedCall),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// A call that returns another value on every thread.
fn diverging(timeout: Duration) -> Result<(), Error> {
    let broadcast = Broadcast::new().timeout(timeout).divergence(Divergence::Report);
    // SAFETY: gettid takes nothing and returns a number.
    let report = unsafe { broadcast.syscall(libc::SYS_gettid, [0; 6]) }?;
    let (others, reported) = (report.threads() - 1, report.divergent().len());
    if reported != others {
        fail(format_args!("{reported} of {others} different results were reported"));
    }
    tally::count(Event::Diverged);
    Ok(())
}

/// Checks that psx lists the calling thread.
fn list() {
    let me = tid();
    match psx::threads() {
        Ok(threads) if threads.iter().any(|thread| thread.tid() == me) => {}
        Ok(_) => fail("a registered thread is not listed"),
        Err(error) => fail(format_args!("the threads cannot be listed: {error}")),
    }
}
