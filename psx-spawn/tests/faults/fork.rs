//! Processes that are born while rounds run.

use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{hint, thread};

use psx::{Broadcast, Coverage, Error};
use psx_core::{ProcessThread, SpawnGuard, ThreadKind, Ticket};

use crate::caller::await_end;
use crate::case::Case;
use crate::case::Expected::Ok;
use crate::raw;
use crate::stage::{Stage, is_level, start_count};

pub(crate) const CASES: &[Case] = &[
    Case::new("fork", "fork storm, a call in each child", &[Ok], |stage| {
        storm(stage, 200, |stage| {
            // SAFETY: the child goes on with psx, which is what is tried, and ends by _exit.
            match unsafe { libc::fork() } {
                -1 => panic!("fork: {}", io::Error::last_os_error()),
                0 => in_child(stage),
                child => assert_eq!(exit_code(child), 0, "a call in a forked child"),
            }
        });
    })
    .seconds(60),
    Case::new(
        "fork-in-birth",
        "fork in the middle of a birth; a call in the child",
        &[Ok],
        |stage| {
            let crew = stage.crew_that(is_level);
            for entered in [true, false] {
                let passage = SpawnGuard::enter().expect("no round is on");
                let ticket = passage.ticket().expect("memory for a ticket");
                let passage = entered.then_some(passage);
                // SAFETY: as in the storm.
                match unsafe { libc::fork() } {
                    -1 => panic!("fork: {}", io::Error::last_os_error()),
                    0 => {
                        drop((ticket, passage));
                        in_child(stage)
                    }
                    child => assert_eq!(exit_code(child), 0, "a call after a birth given up"),
                }
            }
            stage.conclude(stage.count_to(1), crew.strays());
        },
    ),
    Case::new(
        "ticket-in-child",
        "an unregistered thread forks; a ticket is redeemed in the child's round",
        &[Ok],
        |stage| {
            let crew = stage.crew_that(is_level);
            let passage = SpawnGuard::enter().expect("no round is on");
            let ticket = passage.ticket().expect("memory for a ticket");
            drop(passage);
            let forker = thread::spawn(move || {
                // SAFETY: as in the storm.
                match unsafe { libc::fork() } {
                    -1 => panic!("fork: {}", io::Error::last_os_error()),
                    0 => leave_by(|| redeem_in_a_round(ticket)),
                    child => exit_code(child),
                }
            });
            assert_eq!(forker.join().expect("a thread that ends well"), 0, "in the child");
            stage.conclude(stage.count_to(1), crew.strays());
        },
    ),
    Case::new(
        "fork-in-fork",
        "fork in a signal handler that interrupts fork; a call in each process",
        &[Ok],
        fork_in_fork,
    ),
    Case::new(
        "fork-hook-joins",
        "another library's fork hook joins a registered thread; a call in each process",
        &[Ok],
        |stage| {
            install_hook(join_helper);
            let (end, ended) = mpsc::channel::<()>();
            let helper = thread::spawn(move || {
                psx::thread::adopt().expect("a place in the registry");
                ADOPTED.store(true, Ordering::Release);
                let _ = ended.recv();
            });
            await_flag(&ADOPTED);
            *HELPER.lock().expect("no panic") = Some((end, helper));
            fork_once(stage);
            let crew = stage.crew_that(is_level);
            stage.conclude(stage.count_to(1), crew.strays());
        },
    ),
    Case::new(
        "fork-hook-waits-for-call",
        "another library's fork hook waits for an unregistered thread's call of 1 s",
        &[Ok],
        |stage| {
            let caller = thread::spawn(|| {
                await_flag(&IN_HOOK);
                let start = Instant::now();
                let timeout = Duration::from_secs(1);
                let broadcast = Broadcast::new().coverage(Coverage::Registered).timeout(timeout);
                // SAFETY: nothing is done.
                let result = unsafe { broadcast.run(|| Result::Ok(0)) };
                CALL_ENDED.store(true, Ordering::Release);
                (result.map(|report| report.threads()), start.elapsed())
            });
            install_hook(wait_for_call);
            fork_once(stage);
            let (result, took) = caller.join().expect("a call");
            assert!(matches!(result, Err(Error::Busy)), "{result:?} after {took:?}");
            let crew = stage.crew_that(is_level);
            stage.conclude(stage.count_to(1), crew.strays());
        },
    ),
    Case::new(
        "fork-hook-ends-thread",
        "a registered thread dies in another library's fork hook; births and a call",
        &[Ok],
        |stage| {
            install_hook(end_marked_thread);
            stage.adopt();
            thread::spawn(|| {
                psx::thread::adopt().expect("a place in the registry");
                TO_END.store(raw::tid(), Ordering::Release);
                // SAFETY: the thread ends in its hook, before there is a child.
                unsafe { libc::fork() };
            });
            while TO_END.load(Ordering::Acquire) == 0 {
                thread::yield_now();
            }
            await_end(TO_END.load(Ordering::Acquire));
            let crew = stage.crew_that(is_level);
            stage.conclude(stage.count_to(1), crew.strays());
        },
    ),
    Case::new(
        "raw-fork",
        "1,000 forks by raw clone; in each 16 threads adopt at once; a call",
        &[Ok],
        |stage| {
            let crew = stage.crew_that(is_level);
            for _ in 0..1000 {
                match raw::fork() {
                    0 => leave_by(all_adopt),
                    child => assert_eq!(exit_code(child), 0, "16 threads and a call in a child"),
                }
            }
            stage.conclude(stage.count_to(1), crew.strays());
        },
    )
    .seconds(60),
    Case::new("raw-fork-in-round", "the same 200 times while a round waits", &[Ok], |stage| {
        fork_in_rounds(stage, 200, |_| leave_by(all_adopt));
    })
    .seconds(60),
    Case::new("raw-fork-forks", "the same with a fork by libc in the child", &[Ok], |stage| {
        fork_in_rounds(stage, 50, |stage| {
            // SAFETY: as in the storm.
            match unsafe { libc::fork() } {
                -1 => panic!("fork: {}", io::Error::last_os_error()),
                0 => in_child(stage),
                child => leave_by(|| Result::Ok(exit_code(child) == 0)),
            }
        });
    })
    .seconds(60),
    Case::new("command", "Command::spawn storm", &[Ok], |stage| {
        storm(stage, 100, |_| {
            let status = Command::new("/bin/true").status().expect("/bin/true");
            assert!(status.success(), "{status}");
        });
    })
    .seconds(60),
];

/// What the fork in the handler has returned.
static NESTED: AtomicI32 = AtomicI32::new(0);
/// Whether that fork is still to be made.
static TO_NEST: AtomicBool = AtomicBool::new(false);

extern "C" fn fork_again(_: c_int) {
    // SAFETY: all code of this program that runs in the child is in this file.
    NESTED.store(unsafe { libc::fork() }, Ordering::Relaxed);
}

extern "C" fn interrupt_fork() {
    if TO_NEST.swap(false, Ordering::Relaxed) {
        // SAFETY: the handler runs before this returns.
        unsafe { libc::raise(libc::SIGUSR1) };
    }
}

/// The interruption comes between psx's fork hook and the fork: of the hooks before a fork, the first
/// to be installed is the last to run.
fn fork_in_fork(stage: &Stage) {
    let handler = fork_again as extern "C" fn(c_int) as usize;
    // SAFETY: the handler and the hook do nothing but fork.
    unsafe {
        libc::signal(libc::SIGUSR1, handler);
        libc::pthread_atfork(Some(interrupt_fork), None, None);
    }
    stage.adopt();
    TO_NEST.store(true, Ordering::Relaxed);
    // SAFETY: as in the storm.
    let outer = unsafe { libc::fork() };
    let nested = NESTED.load(Ordering::Relaxed);
    assert!(outer >= 0 && nested >= 0, "fork: {}", io::Error::last_os_error());
    // Four processes come here: whoever is a child of either fork, and the parent of both.
    let children = [outer, if nested == 0 || outer == 0 { 0 } else { nested }];
    let ended_well =
        || children.into_iter().filter(|&child| child > 0).all(|child| exit_code(child) == 0);
    if outer > 0 && nested > 0 {
        assert!(ended_well(), "a call in a child");
        let crew = stage.crew_that(is_level);
        return stage.conclude(stage.count_to(1), crew.strays());
    }
    if ended_well() {
        in_child(stage)
    }
    leave_by(|| Result::Ok(false))
}

/// The thread that another library's hook joins, and what ends it.
static HELPER: Mutex<Option<(Sender<()>, JoinHandle<()>)>> = Mutex::new(None);
static ADOPTED: AtomicBool = AtomicBool::new(false);
static IN_HOOK: AtomicBool = AtomicBool::new(false);
static CALL_ENDED: AtomicBool = AtomicBool::new(false);
/// The id of the thread that ends in its fork.
static TO_END: AtomicU32 = AtomicU32::new(0);

extern "C" fn join_helper() {
    if let Some((end, helper)) = HELPER.lock().expect("no panic").take() {
        drop(end);
        helper.join().expect("a helper");
    }
}

extern "C" fn wait_for_call() {
    IN_HOOK.store(true, Ordering::Release);
    await_flag(&CALL_ENDED);
}

extern "C" fn end_marked_thread() {
    if TO_END.load(Ordering::Acquire) == raw::tid() {
        raw::leave();
    }
}

fn await_flag(flag: &AtomicBool) {
    while !flag.load(Ordering::Acquire) {
        thread::yield_now();
    }
}

/// Before psx has hooks: of the hooks before a fork, the first to be installed is the last to run.
fn install_hook(hook: extern "C" fn()) {
    // SAFETY: the hook uses nothing that the fork has locked.
    assert_eq!(unsafe { libc::pthread_atfork(Some(hook), None, None) }, 0);
}

/// Forks once, with the hook that was installed before; a call in the child.
fn fork_once(stage: &Stage) {
    stage.adopt();
    // SAFETY: as in the storm.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", io::Error::last_os_error()),
        0 => in_child(stage),
        child => assert_eq!(exit_code(child), 0, "a call in a forked child"),
    }
}

/// Two threads do `birth` so many times each, while main calls without a pause.
fn storm(stage: &Stage, births: usize, birth: fn(&Stage)) {
    let crew = stage.crew_that(is_level);
    let parents: Vec<_> = (0..2)
        .map(|_| {
            let stage = stage.clone();
            stage.clone().spawn("parent", move || (0..births).for_each(|_| birth(&stage)))
        })
        .collect();
    let counted = stage.count_to(500);
    parents.into_iter().for_each(|join| join());
    stage.conclude(counted, crew.strays());
}

/// A registered thread forks by a raw clone, of which no hook of libc's hears, while a round waits
/// for it. What the child then does ends it.
fn fork_in_rounds(stage: &Stage, children: usize, child: fn(&Stage) -> !) {
    let crew = stage.crew_that(is_level);
    let (mut told, mut tell) = UnixStream::pair().expect("a socket pair");
    let forker = stage.clone();
    let join = stage.spawn("forker", move || {
        for _ in 0..children {
            raw::block_every_signal();
            tell.write_all(&[0]).expect("main waits");
            while !raw::is_33_pending() {
                thread::yield_now();
            }
            let pid = raw::fork();
            raw::unblock_every_signal();
            match pid {
                0 => child(&forker),
                child => assert_eq!(exit_code(child), 0, "a child of a round"),
            }
        }
    });
    let round = |_| {
        told.read_exact(&mut [0]).expect("a word from the forker");
        stage.count()
    };
    let counted = (0..children).map(round).collect();
    join();
    stage.conclude(counted, crew.strays());
}

/// The first thing that 16 threads do is to adopt themselves; then a call must find them all.
fn all_adopt() -> Result<bool, Error> {
    const THREADS: usize = 16;
    static ARRIVED: AtomicUsize = AtomicUsize::new(0);
    let adopted = Arc::new(Barrier::new(THREADS + 1));
    for lag in 0..THREADS {
        let adopted = Arc::clone(&adopted);
        thread::spawn(move || {
            ARRIVED.fetch_add(1, Ordering::Relaxed);
            while ARRIVED.load(Ordering::Relaxed) < THREADS {
                thread::yield_now();
            }
            // The second to come finds the first in the middle of things.
            (0..100 * lag).for_each(|_| hint::spin_loop());
            psx::thread::adopt().expect("a place in the child's registry");
            adopted.wait();
            thread::park();
        });
    }
    adopted.wait();
    // SAFETY: nothing is done.
    let report = unsafe { Broadcast::new().run(|| Result::Ok(0)) }?;
    Result::Ok(report.threads() == THREADS + 1)
}

/// Another thread's round must be over before the ticket's thread is registered.
fn redeem_in_a_round(ticket: Ticket) -> Result<bool, Error> {
    static STEPS: AtomicUsize = AtomicUsize::new(0);
    fn await_step(step: usize) {
        while STEPS.load(Ordering::Acquire) < step {
            thread::yield_now();
        }
    }
    let caller = thread::spawn(|| {
        let op = || {
            STEPS.store(1, Ordering::Release);
            await_step(2);
            // Long enough for a thread that does not wait.
            let end = Instant::now() + Duration::from_millis(100);
            while Instant::now() < end {
                thread::yield_now();
            }
            Result::Ok(STEPS.load(Ordering::Acquire))
        };
        // SAFETY: atomics, the clock and sched_yield.
        unsafe { Broadcast::new().coverage(Coverage::Registered).run(op) }
    });
    await_step(1);
    STEPS.store(2, Ordering::Release);
    ticket.redeem();
    STEPS.store(3, Ordering::Release);
    let report = caller.join().expect("a round")?;
    let threads = psx_core::threads().expect("the child's threads");
    let is_me = |thread: &ProcessThread| thread.thread().tid() == raw::tid();
    let me = threads.iter().find(|thread| is_me(thread));
    Result::Ok(report.value() == 2 && me.is_some_and(|me| me.kind() == ThreadKind::Registered))
}

/// A call in a process of one thread, then one in a process of two, each counted by the kernel.
fn in_child(stage: &Stage) -> ! {
    let calls = || -> Result<bool, Error> {
        let before = raw::counted();
        // The fork may have come between a call's end and its count.
        start_count();
        stage.count()?;
        let crew = stage.crew_of(1, is_level);
        stage.count()?;
        Result::Ok(raw::counted() == before + 2 && crew.strays() == 0)
    };
    leave_by(calls)
}

/// Ends a forked child: with status 0 if all went as it should.
fn leave_by(calls: impl FnOnce() -> Result<bool, Error>) -> ! {
    let code = match calls() {
        Result::Ok(true) => 0,
        Result::Ok(false) => 2,
        Err(error) => {
            eprintln!("in a forked child: {error}");
            1
        }
    };
    // SAFETY: _exit(2) ends the process and has no other precondition.
    unsafe { libc::_exit(code) }
}

fn exit_code(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    while unsafe { libc::waitpid(child, &mut status, 0) } != child {
        assert_eq!(raw::errno(), libc::EINTR, "waitpid");
    }
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}
