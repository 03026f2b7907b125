//! What keeps rounds from happening for a moment: each fault must be noticed, named, and survived.

use std::ffi::c_void;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, ptr};

use psx::{Error, Threads, thread};
use psx_examples::raw;

use crate::count::{self, PAUSE, raw_tid};
use crate::random::Random;
use crate::subject::{builder, fail};
use crate::tally::{self, Event};
use crate::weather::Fault;

/// One fault, from its coming to its end, after a time without.
pub(crate) fn fault(random: &mut Random) {
    thread::sleep(Duration::from_millis(random.below(300)));
    // In the middle of other threads' rounds, or with a round of its own in peace and quiet.
    let alone = random.coin();
    let _others = (!alone).then(|| PAUSE.read());
    let _nobody = alone.then(|| PAUSE.write());
    let stay = Duration::from_millis(random.below(150));
    match random.below(4) {
        0 if random.coin() => stranger(Stay::new(alone, stay), thread::adopt),
        0 => stranger(Stay::new(alone, stay), || Ok(())),
        1 => blocked(Stay::new(alone, stay)),
        2 => vforked(Stay::new(alone, stay)),
        _ => no_queue(stay / 3),
    }
}

/// What a round must say while the fault is there.
type Naming = fn(&Error) -> Option<&Threads>;

fn uncovered(error: &Error) -> Option<&Threads> {
    if let Error::Uncovered(threads) = error { Some(threads) } else { None }
}

fn unreachable(error: &Error) -> Option<&Threads> {
    if let Error::Unreachable(threads) = error { Some(threads) } else { None }
}

/// How long a fault is there. Rounds stop all threads that they can, whoever injects faults too;
/// so each fault ends by itself, unless the one round about is the injector's own.
struct Stay {
    fault: Fault,
    /// None where the injector says when.
    time: Option<Duration>,
    /// A pipe for a byte that says so, and one for the thread's id.
    end: [RawFd; 2],
    tid: [RawFd; 2],
}

impl Stay {
    fn new(alone: bool, time: Duration) -> Arc<Self> {
        let time = (!alone).then_some(time);
        Arc::new(Self { fault: Fault::comes(), time, end: pipe(), tid: pipe() })
    }

    /// For the thread `tid`, which is in the way now: stays there until it is time to go. Makes
    /// plain system calls only, since it has to serve the child of a vfork.
    fn stay(&self, tid: usize) {
        self.fault.is_there();
        let begin = Instant::now();
        // SAFETY: a number's own bytes, to a pipe with room for them.
        unsafe { libc::write(self.tid[1], (&raw const tid).cast(), size_of::<usize>()) };
        let mut poll = libc::pollfd { fd: self.end[0], events: libc::POLLIN, revents: 0 };
        loop {
            let left = self.time.map_or(-1, |time| {
                time.saturating_sub(begin.elapsed()).as_millis().try_into().unwrap_or(-1)
            });
            // SAFETY: one descriptor, which is open.
            match unsafe { libc::poll(&mut poll, 1, left) } {
                // A signal, which this call does not survive.
                -1 => {}
                _ => return self.fault.ends(),
            }
        }
    }

    /// For the injector: if nobody else calls, makes a round that must fail and name the thread
    /// that stays, and then has it go.
    fn suffer(&self, naming: Naming) {
        let mut tid = 0_usize;
        // SAFETY: a number's own bytes, and a descriptor that is open.
        let read = unsafe { libc::read(self.tid[0], (&raw mut tid).cast(), size_of::<usize>()) };
        if read != size_of::<usize>() as isize {
            fail(format_args!("no word from a fault: {}", io::Error::last_os_error()));
        }
        if self.time.is_none() {
            must_name(tid, naming);
            // SAFETY: one byte, to a descriptor that is open.
            unsafe { libc::write(self.end[1], [0_u8].as_ptr().cast(), 1) };
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        for fd in [self.end, self.tid].as_flattened() {
            // SAFETY: opened for this alone, and used no more.
            unsafe { libc::close(*fd) };
        }
    }
}

fn pipe() -> [RawFd; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        fail(format_args!("pipe: {}", io::Error::last_os_error()));
    }
    ends
}

fn must_name(tid: usize, naming: Naming) {
    // On a crowded machine other threads too may be late for a short timeout.
    for timeout in [30, 300, 3_000, 30_000].map(Duration::from_millis) {
        let error = match count::round(timeout) {
            Ok(()) => fail(format_args!("a round went through without thread {tid}")),
            Err(error) => error,
        };
        let named = naming(&error);
        if named.is_some_and(|threads| threads.iter().any(|thread| thread.tid() as usize == tid)) {
            return tally::count(Event::Named);
        }
        if timeout.as_secs() >= 30 {
            fail(format_args!("thread {tid} was in the way, but the round said: {error}"));
        }
    }
}

/// A thread that nobody told psx about. It leaves, or adopts itself and has missed nothing.
fn stranger(stay: Arc<Stay>, leave: fn() -> Result<(), Error>) {
    let theirs = stay.clone();
    let body = move || {
        theirs.stay(raw_tid());
        if let Err(error) = leave() {
            fail(format_args!("a stranger cannot adopt itself: {error}"));
        }
        count::check("a stranger");
    };
    let stranger = std::thread::Builder::new().name("stranger".into()).spawn(body);
    await_end(stranger, &stay, uncovered);
    tally::count(Event::Stranger);
}

/// A thread that blocks signal 33 in the one way that there is.
fn blocked(stay: Arc<Stay>) {
    let theirs = stay.clone();
    let body = move || {
        let before = set_mask(u64::MAX);
        theirs.stay(raw_tid());
        set_mask(before);
        count::check("a thread that had blocked every signal");
    };
    await_end(builder("blocked").spawn(body), &stay, unreachable);
    tally::count(Event::Blocked);
}

/// A thread that stands in vfork until its child lets it go.
fn vforked(stay: Arc<Stay>) {
    let theirs = stay.clone();
    let body = move || {
        vfork(&theirs);
        count::check("a thread back from vfork");
    };
    await_end(builder("vforked").spawn(body), &stay, unreachable);
    tally::count(Event::Vforked);
}

fn await_end(thread: io::Result<thread::JoinHandle<()>>, stay: &Stay, naming: Naming) {
    let thread = thread.unwrap_or_else(|error| fail(format_args!("a thread: {error}")));
    stay.suffer(naming);
    if thread.join().is_err() {
        fail("a thread that was in the way has panicked");
    }
}

/// Goes into vfork for the length of a stay.
fn vfork(stay: &Stay) {
    struct InVfork<'s> {
        stay: &'s Stay,
        parent: usize,
    }
    extern "C" fn body(argument: *mut c_void) -> i32 {
        // SAFETY: the parent keeps it, and stands still, until this returns.
        let it = unsafe { &*argument.cast::<InVfork>() };
        it.stay.stay(it.parent);
        0
    }
    let mut it = InVfork { stay, parent: raw_tid() };
    let mut stack = vec![0_u128; 2048];
    // SAFETY: the end of a stack that outlives the child; flags as vfork's own.
    let child = unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(body, top.cast(), flags, (&raw mut it).cast())
    };
    // SAFETY: waits for a child of ours.
    if child < 0 || unsafe { libc::waitpid(child, ptr::null_mut(), 0) } != child {
        fail(format_args!("vfork: {}", io::Error::last_os_error()));
    }
}

/// Sets the calling thread's signal mask, past libc, and returns what it was.
fn set_mask(new: u64) -> u64 {
    let mut old = 0_u64;
    let how = libc::SIG_SETMASK as usize;
    let args = [how, &raw const new as usize, &raw mut old as usize, 8, 0];
    // SAFETY: the kernel reads one set of 64 signals and writes one.
    if let Err(errno) = unsafe { raw::syscall(libc::SYS_rt_sigprocmask, args) } {
        fail(format_args!("rt_sigprocmask: {errno}"));
    }
    old
}

/// No signal can be queued, until psx raises the limit, as it may, up to the hard one.
fn no_queue(time: Duration) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for one limit.
    unsafe { libc::getrlimit(libc::RLIMIT_SIGPENDING, &mut limit) };
    let set = |soft| {
        let limit = libc::rlimit { rlim_cur: soft, ..limit };
        // SAFETY: one limit to be read.
        unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &limit) };
    };
    set(0);
    thread::sleep(time);
    set(limit.rlim_max);
    tally::count(Event::NoQueue);
}
