//! Threads and processes that start and end, each in another way, while rounds run.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::os::unix::thread::JoinHandleExt;
use std::panic;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;
use std::{io, ptr};

use psx::thread;
use psx_test_support::Random;
use psx_test_support::process::{exit_thread, fork, wait};
use psx_test_support::raw::slack;

use crate::count;
use crate::subject::{builder, fail};
use crate::tally::{self, Event};

/// A fork during a dlopen would leave the child's loader in an inconsistent state.
pub(crate) static LOADER: Mutex<()> = Mutex::new(());

/// Starts a thread or process, and waits for its end.
pub(crate) fn spawn(random: &mut Random) {
    match random.below(32) {
        0..=7 => ordinary(random),
        8..=11 => scoped(random),
        12..=17 => adopted(random),
        18..=20 => c_thread(),
        21..=23 => raw_exit(),
        24..=26 => panicked(),
        27 => refused(),
        28..=29 => forked(),
        _ => command(),
    }
}

fn ended() {
    tally::count(Event::Ended);
}

/// What a short-lived thread does: it checks its number first, repeatedly, and in the destructor of a
/// thread-local.
fn run(steps: u64) {
    count::check("a new thread");
    LAST_CHECK.with(|check| check.0.set(true));
    for _ in 0..steps {
        thread::yield_now();
        count::check("a running thread");
    }
}

struct LastCheck(Cell<bool>);

impl Drop for LastCheck {
    fn drop(&mut self) {
        count::check("an ending thread");
    }
}

thread_local!(static LAST_CHECK: LastCheck = const { LastCheck(Cell::new(false)) });

fn ordinary(random: &mut Random) {
    let threads: Vec<_> = (0..=random.below(8))
        .map(|_| {
            let steps = random.below(20);
            tally::count(Event::Registered);
            builder("ordinary").spawn(move || run(steps))
        })
        .collect();
    for thread in threads {
        joined(thread.and_then(|thread| thread.join().map_err(|_| io::Error::other("a panic"))));
        ended();
    }
}

fn scoped(random: &mut Random) {
    let steps = random.below(20);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || run(steps));
            tally::count(Event::Scoped);
        }
    });
    ended();
    ended();
}

fn adopted(random: &mut Random) {
    let steps = random.below(20);
    let body = move || {
        if let Err(error) = thread::adopt() {
            fail(format_args!("a thread cannot adopt itself: {error}"));
        }
        run(steps);
    };
    let thread = std::thread::Builder::new().name("adopted".into()).spawn(body);
    tally::count(Event::Adopted);
    joined(thread.and_then(|thread| thread.join().map_err(|_| io::Error::other("a panic"))));
    ended();
}

unsafe extern "C-unwind" {
    // glibc unwinds a thread that calls pthread_exit, which the libc crate's declarations forbid.
    fn pthread_create(
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        body: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
    ) -> c_int;
    fn pthread_exit(value: *mut c_void) -> !;
}

/// A thread that C starts and ends.
fn c_thread() {
    extern "C-unwind" fn body(_: *mut c_void) -> *mut c_void {
        run_as_c_thread();
        // SAFETY: the frame that is unwound here owns nothing.
        unsafe { pthread_exit(ptr::null_mut()) }
    }
    tally::count(Event::PthreadExit);
    start_c_thread(body);
    ended();
}

/// Starts a thread without std, and waits for what it returns.
fn start_c_thread(body: extern "C-unwind" fn(*mut c_void) -> *mut c_void) -> *mut c_void {
    let mut thread = 0;
    // SAFETY: `body` takes no argument, and `thread` is a place for the handle.
    let code = unsafe { pthread_create(&mut thread, ptr::null(), body, ptr::null_mut()) };
    if code != 0 {
        fail(format_args!("a C thread: {}", io::Error::from_raw_os_error(code)));
    }
    await_end(thread)
}

/// In a separate frame, so that the one that is unwound has nothing to drop.
#[inline(never)]
fn run_as_c_thread() {
    if let Err(error) = thread::adopt() {
        fail(format_args!("a C thread cannot adopt itself: {error}"));
    }
    run(3);
}

/// Ends without the libc and psx: no destructor runs.
fn raw_exit() {
    let body = || {
        count::check("a new thread");
        exit_thread()
    };
    match builder("exiting").spawn(body) {
        Ok(thread) => await_end(thread.into_pthread_t()),
        Err(error) => fail(format_args!("a thread: {error}")),
    };
    tally::count(Event::RawExit);
    ended();
}

/// Waits for a thread whose end only the kernel reports.
fn await_end(thread: libc::pthread_t) -> *mut c_void {
    let mut value = ptr::null_mut();
    // SAFETY: a thread that has been neither joined nor detached.
    unsafe { libc::pthread_join(thread, &mut value) };
    value
}

fn panicked() {
    let thread = builder("panicking").spawn(|| {
        run(1);
        // Without the panic hook, which would report a failure.
        panic::resume_unwind(Box::new(()));
    });
    tally::count(Event::Panicked);
    joined(thread.map(|thread| thread.join().unwrap_err()));
    ended();
}

/// A thread with a stack that no address space has room for.
fn refused() {
    if builder("refused").stack_size(1 << 46).spawn(|| ()).is_ok() {
        fail("a thread with a stack of 64 TiB was started");
    }
    tally::count(Event::Unstarted);
}

fn joined<T>(result: io::Result<T>) {
    if let Err(error) = result {
        fail(format_args!("a thread: {error}"));
    }
}

fn forked() {
    let loader = LOADER.lock();
    let child = fork(in_child);
    drop(loader);
    let status = wait(child);
    if !status.success() {
        fail(format_args!("a forked child ended with {status}"));
    }
    tally::count(Event::Forked);
}

/// A round of one thread and then one of two. The second thread is C's, since std's may wait for a lock that
/// another thread held at the fork.
fn in_child() -> i32 {
    extern "C-unwind" fn body(_: *mut c_void) -> *mut c_void {
        let inherited = slack();
        child_round(2);
        ptr::without_provenance_mut(inherited)
    }
    // SAFETY: alarm(2) has no precondition. It ends a child that hangs.
    unsafe { libc::alarm(60) };
    let before = slack();
    child_round(1);
    let inherited = start_c_thread(body).addr();
    let after = slack();
    if (inherited, after) != (before + 1, before + 2) {
        fail(format_args!(
            "a forked child counted from {before} to {after}, and its thread started with {inherited}"
        ));
    }
    0
}

fn child_round(threads: usize) {
    match count::uncounted_round(Duration::from_secs(30)) {
        Ok(report) if report.threads() == threads => {}
        Ok(report) => {
            let found = report.threads();
            fail(format_args!("a round in a forked child found {found} threads, not {threads}"))
        }
        Err(error) => fail(format_args!("a round in a forked child: {error}")),
    }
}

fn command() {
    match Command::new("/bin/true").status() {
        Ok(status) if status.success() => tally::count(Event::Command),
        Ok(status) => fail(format_args!("/bin/true: {status}")),
        Err(error) => fail(format_args!("/bin/true: {error}")),
    }
}
