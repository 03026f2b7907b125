//! Faults that prevent rounds for a short time: psx must notice, name, and survive each.

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use psx::{Error, Threads, thread};
use psx_test_support::raw::{limit, must, pipe, set_limit};
use psx_test_support::signal::set_mask;
use psx_test_support::threads::tid;
use psx_test_support::{Random, process};

use crate::count::{self, PAUSE};
use crate::fault_window::Fault;
use crate::subject::{builder, fail};
use crate::tally::{self, Event};

/// One fault, after a time without.
pub(crate) fn fault(random: &mut Random) {
    thread::sleep(Duration::from_millis(random.below(300)));
    // During other threads' rounds, or with one round of the injecting thread alone.
    let alone = random.coin();
    let _others = (!alone).then(|| PAUSE.read());
    let _paused = alone.then(|| PAUSE.write());
    let stay = Duration::from_millis(random.below(150));
    match random.below(4) {
        0 if random.coin() => unregistered(Stay::new(alone, stay), thread::adopt),
        0 => unregistered(Stay::new(alone, stay), || Ok(())),
        1 => blocked(Stay::new(alone, stay)),
        2 => vforked(Stay::new(alone, stay)),
        _ => no_queue(stay / 3),
    }
}

/// The threads that a round's error must name during the fault.
type Naming = fn(&Error) -> Option<&Threads>;

fn uncovered(error: &Error) -> Option<&Threads> {
    if let Error::Uncovered(threads) = error { Some(threads) } else { None }
}

fn unreachable(error: &Error) -> Option<&Threads> {
    if let Error::Unreachable(threads) = error { Some(threads) } else { None }
}

/// How long a fault lasts. Rounds stop the injecting thread too, so each fault ends by itself, unless the only
/// round is the injector's.
struct Stay {
    fault: Fault,
    /// None where the injector ends it.
    time: Option<Duration>,
    /// A pipe for the byte that ends it, and one for the thread's id.
    end: (File, File),
    tid: (File, File),
}

impl Stay {
    fn new(alone: bool, time: Duration) -> Arc<Self> {
        let time = (!alone).then_some(time);
        Arc::new(Self { fault: Fault::begin(), time, end: pipe(), tid: pipe() })
    }

    /// For the thread `tid`, which prevents rounds from now on: returns when the fault is to end. Makes plain
    /// system calls only, since it also runs in the child of a vfork.
    fn stay(&self, tid: u32) {
        self.fault.prevents_rounds();
        let begin = Instant::now();
        let fd = self.tid.1.as_raw_fd() as usize;
        must(libc::SYS_write, [fd, (&raw const tid).addr(), size_of_val(&tid), 0, 0, 0]);
        let mut poll =
            libc::pollfd { fd: self.end.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        loop {
            let left = self.time.map_or(-1, |time| {
                time.saturating_sub(begin.elapsed()).as_millis().try_into().unwrap_or(-1)
            });
            // SAFETY: one descriptor, which is open.
            match unsafe { libc::poll(&mut poll, 1, left) } {
                // The kernel does not resume this call after a signal.
                -1 => {}
                _ => return self.fault.ends(),
            }
        }
    }

    /// For the injector: if it is the only caller, makes a round that must fail and name the thread that
    /// stays, and then ends the fault.
    fn run(&self, naming: Naming) {
        let mut tid = [0; 4];
        let fault = (&self.tid.0).read_exact(&mut tid).and_then(|()| {
            if self.time.is_some() {
                return Ok(());
            }
            must_name(u32::from_ne_bytes(tid), naming);
            (&self.end.1).write_all(&[0])
        });
        fault.unwrap_or_else(|error| fail(format_args!("a fault's pipe: {error}")));
    }
}

fn must_name(tid: u32, naming: Naming) {
    // On a busy machine other threads too may be late for a short timeout.
    for timeout in [30, 300, 3_000, 30_000].map(Duration::from_millis) {
        let error = match count::round(timeout) {
            Ok(()) => fail(format_args!("a round succeeded without thread {tid}")),
            Err(error) => error,
        };
        let named = naming(&error);
        if named.is_some_and(|threads| threads.iter().any(|thread| thread.tid() == tid)) {
            return tally::count(Event::Named);
        }
        if timeout.as_secs() >= 30 {
            fail(format_args!("thread {tid} prevented the round, whose error is: {error}"));
        }
    }
}

/// An unregistered thread. It ends, or adopts itself and has missed nothing.
fn unregistered(stay: Arc<Stay>, leave: fn() -> Result<(), Error>) {
    let shared = stay.clone();
    let body = move || {
        shared.stay(tid());
        if let Err(error) = leave() {
            fail(format_args!("an unregistered thread cannot adopt itself: {error}"));
        }
        count::check("an unregistered thread");
    };
    let thread = std::thread::Builder::new().name("unregistered".into()).spawn(body);
    await_end(thread, &stay, uncovered);
    tally::count(Event::Unregistered);
}

/// A thread that blocks signal 33 by the system call.
fn blocked(stay: Arc<Stay>) {
    let shared = stay.clone();
    let body = move || {
        let before = set_mask(u64::MAX);
        shared.stay(tid());
        set_mask(before);
        count::check("a thread that had blocked every signal");
    };
    await_end(builder("blocked").spawn(body), &stay, unreachable);
    tally::count(Event::Blocked);
}

/// A thread that waits in vfork for its child.
fn vforked(stay: Arc<Stay>) {
    let shared = stay.clone();
    let body = move || {
        vfork(&shared);
        count::check("a thread back from vfork");
    };
    await_end(builder("vforked").spawn(body), &stay, unreachable);
    tally::count(Event::Vforked);
}

fn await_end(thread: io::Result<thread::JoinHandle<()>>, stay: &Stay, naming: Naming) {
    let thread = thread.unwrap_or_else(|error| fail(format_args!("a thread: {error}")));
    stay.run(naming);
    if thread.join().is_err() {
        fail("a thread that prevented rounds has panicked");
    }
}

/// Calls vfork, and stays in its child.
fn vfork(stay: &Stay) {
    struct InVfork<'s> {
        stay: &'s Stay,
        parent: u32,
    }
    extern "C" fn body(argument: *mut c_void) -> i32 {
        // SAFETY: the parent keeps it, and waits, until this returns.
        let it = unsafe { &*argument.cast::<InVfork>() };
        it.stay.stay(it.parent);
        0
    }
    let mut it = InVfork { stay, parent: tid() };
    let mut stack = vec![0_u128; 2048];
    // SAFETY: the end of a stack that outlives the child; the flags of vfork.
    let child = unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(body, top.cast(), flags, (&raw mut it).cast())
    };
    if child < 0 {
        fail(format_args!("vfork: {}", io::Error::last_os_error()));
    }
    process::wait(child);
}

/// No signal can be queued, until psx raises the soft limit.
fn no_queue(time: Duration) {
    let [_, hard] = limit(libc::RLIMIT_SIGPENDING);
    set_limit(libc::RLIMIT_SIGPENDING, [0, hard]);
    thread::sleep(time);
    set_limit(libc::RLIMIT_SIGPENDING, [hard, hard]);
    tally::count(Event::NoQueue);
}
