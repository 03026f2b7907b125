//! Threads and processes that come and go, each in another way, while rounds run.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::os::unix::thread::JoinHandleExt;
use std::panic;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;
use std::{io, ptr};

use psx::thread;
use psx_examples::raw;

use crate::count;
use crate::random::Random;
use crate::subject::{builder, fail};
use crate::tally::{self, Event};

/// A fork in the middle of a dlopen leaves the child a loader that is half-way through.
pub(crate) static LOADER: Mutex<()> = Mutex::new(());

/// One birth, and the end of what was born.
pub(crate) fn birth(random: &mut Random) {
    match random.below(32) {
        0..=7 => ordinary(random),
        8..=11 => scoped(random),
        12..=17 => adopted(random),
        18..=20 => c_thread(),
        21..=23 => raw_exit(),
        24..=26 => panicked(),
        27 => stillborn(),
        28..=29 => fork(),
        _ => command(),
    }
}

fn died() {
    tally::count(Event::Died);
}

/// What a mortal does: it looks at its number at its first act, in between, and in the destructor
/// of a thread-local.
fn live(moments: u64) {
    count::check("a newborn thread");
    LAST_LOOK.with(|look| look.0.set(true));
    for _ in 0..moments {
        thread::yield_now();
        count::check("a thread in the middle of its life");
    }
}

struct LastLook(Cell<bool>);

impl Drop for LastLook {
    fn drop(&mut self) {
        count::check("a dying thread");
    }
}

thread_local!(static LAST_LOOK: LastLook = const { LastLook(Cell::new(false)) });

fn ordinary(random: &mut Random) {
    let mortals: Vec<_> = (0..=random.below(8))
        .map(|_| {
            let moments = random.below(20);
            tally::count(Event::Registered);
            builder("mortal").spawn(move || live(moments))
        })
        .collect();
    for mortal in mortals {
        joined(mortal.and_then(|thread| thread.join().map_err(|_| io::Error::other("a panic"))));
        died();
    }
}

fn scoped(random: &mut Random) {
    let moments = random.below(20);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || live(moments));
            tally::count(Event::Scoped);
        }
    });
    died();
    died();
}

fn adopted(random: &mut Random) {
    let moments = random.below(20);
    let body = move || {
        if let Err(error) = thread::adopt() {
            fail(format_args!("a thread cannot adopt itself: {error}"));
        }
        live(moments);
    };
    let thread = std::thread::Builder::new().name("adopted".into()).spawn(body);
    tally::count(Event::Adopted);
    joined(thread.and_then(|thread| thread.join().map_err(|_| io::Error::other("a panic"))));
    died();
}

unsafe extern "C-unwind" {
    // glibc unwinds a thread that leaves, which the libc crate's declarations forbid.
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
        live_as_c_thread();
        // SAFETY: the frame that is unwound here owns nothing.
        unsafe { pthread_exit(ptr::null_mut()) }
    }
    tally::count(Event::PthreadExit);
    start_c_thread(body);
    died();
}

/// Starts a thread without std, and waits for what it returns.
fn start_c_thread(body: extern "C-unwind" fn(*mut c_void) -> *mut c_void) -> *mut c_void {
    let mut thread = 0;
    // SAFETY: `body` wants no argument, and `thread` is there to be written.
    let code = unsafe { pthread_create(&mut thread, ptr::null(), body, ptr::null_mut()) };
    if code != 0 {
        fail(format_args!("a C thread: {}", io::Error::from_raw_os_error(code)));
    }
    await_end(thread)
}

/// In a frame of its own, so that the one which is unwound has nothing to drop.
#[inline(never)]
fn live_as_c_thread() {
    if let Err(error) = thread::adopt() {
        fail(format_args!("a C thread cannot adopt itself: {error}"));
    }
    live(3);
}

/// Leaves without a word to libc or psx: no destructor runs.
fn raw_exit() {
    let body = || {
        count::check("a newborn thread");
        // SAFETY: ends the calling thread, which owns nothing that anyone waits for.
        let _ = unsafe { raw::syscall(libc::SYS_exit, [0; 5]) };
    };
    match builder("leaver").spawn(body) {
        Ok(thread) => await_end(thread.into_pthread_t()),
        Err(error) => fail(format_args!("a thread: {error}")),
    };
    tally::count(Event::RawExit);
    died();
}

/// Waits for a thread whose end nobody tells but the kernel.
fn await_end(thread: libc::pthread_t) -> *mut c_void {
    let mut value = ptr::null_mut();
    // SAFETY: a thread that has been neither joined nor detached.
    unsafe { libc::pthread_join(thread, &mut value) };
    value
}

fn panicked() {
    let doomed = builder("doomed").spawn(|| {
        live(1);
        // Without the panic hook, which would print it, and takes any other for a failure.
        panic::resume_unwind(Box::new(()));
    });
    tally::count(Event::Panicked);
    joined(doomed.map(|doomed| doomed.join().unwrap_err()));
    died();
}

/// A thread with a stack that no address space has room for.
fn stillborn() {
    if builder("stillborn").stack_size(1 << 46).spawn(|| ()).is_ok() {
        fail("a thread with a stack of 64 TiB was started");
    }
    tally::count(Event::Stillborn);
}

fn joined<T>(result: io::Result<T>) {
    if let Err(error) = result {
        fail(format_args!("a thread: {error}"));
    }
}

fn fork() {
    let loader = LOADER.lock();
    // SAFETY: the child goes on with psx alone, which is what is tried, and ends by _exit.
    let child = unsafe { libc::fork() };
    drop(loader);
    if child < 0 {
        fail(format_args!("fork: {}", io::Error::last_os_error()));
    }
    if child == 0 {
        in_child();
    }
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    while unsafe { libc::waitpid(child, &mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            fail(format_args!("waitpid: {error}"));
        }
    }
    if status != 0 {
        fail(format_args!("a forked child ended with wait status {status:#x}"));
    }
    tally::count(Event::Forked);
}

/// A round of one thread and then one of two, with nothing of the parent's in the way. The second
/// thread is C's, since std's may wait for a lock that another thread had at the fork.
fn in_child() -> ! {
    extern "C-unwind" fn body(_: *mut c_void) -> *mut c_void {
        let born_with = count::own();
        child_round(2);
        ptr::without_provenance_mut(born_with)
    }
    // SAFETY: alarm(2) has no precondition. Whatever keeps the child from its end ends there.
    unsafe { libc::alarm(60) };
    let before = count::own();
    child_round(1);
    let born_with = start_c_thread(body).addr();
    let after = count::own();
    if (born_with, after) != (before + 1, before + 2) {
        fail(format_args!(
            "a forked child counted from {before} to {after}, and had a thread born at {born_with}"
        ));
    }
    // SAFETY: _exit(2) ends the process and has no other precondition.
    unsafe { libc::_exit(0) }
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
