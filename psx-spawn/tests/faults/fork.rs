//! Forks and commands while rounds run (P5, P6).

use std::ffi::c_int;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{hint, thread};

use psx::{Broadcast, Coverage, Error};
use psx_core::{ProcessThread, SpawnGuard, ThreadKind, Ticket};
use psx_test_support::process::{exit_now, exit_thread, fork, fork_and_wait, wait};
use psx_test_support::procfs::wait_for_end;
use psx_test_support::raw::slack;
use psx_test_support::signal::{is_stop_pending, set_mask};
use psx_test_support::threads::tid;

use crate::context::{Context, is_level, start_count};
use crate::raw;
use crate::row::Expected::Ok;
use crate::row::Row;

pub(crate) const ROWS: &[Row] = &[
    Row::new("fork", "many forks, a call in each child", &[Ok], |context| {
        beside_calls(context, 200, |context| {
            must_succeed(fork(|| calls_in_child(context)), "a call in a forked child");
        });
    })
    .seconds(60),
    Row::new("fork-in-spawn", "fork during a spawn; a call in the child", &[Ok], |context| {
        let probes = context.probes_that(is_level);
        for entered in [true, false] {
            let guard = SpawnGuard::enter().expect("no round runs");
            let ticket = guard.ticket().expect("memory for a ticket");
            let guard = entered.then_some(guard);
            let child = fork(|| {
                drop((ticket, guard));
                calls_in_child(context)
            });
            must_succeed(child, "a call after a spawn that is given up");
        }
        context.conclude(context.count_to(1), probes.in_old_state());
    }),
    Row::new(
        "ticket-in-child",
        "an unregistered thread forks; a ticket is redeemed in the child's round",
        &[Ok],
        |context| {
            let probes = context.probes_that(is_level);
            let guard = SpawnGuard::enter().expect("no round runs");
            let ticket = guard.ticket().expect("memory for a ticket");
            drop(guard);
            let forker = thread::spawn(move || fork(|| code_of(redeem_in_a_round(ticket))));
            must_succeed(forker.join().expect("a child"), "in the child");
            context.conclude(context.count_to(1), probes.in_old_state());
        },
    ),
    Row::new(
        "fork-in-fork",
        "fork in a signal handler that interrupts fork; a call in each process",
        &[Ok],
        fork_in_fork,
    ),
    Row::new(
        "fork-hook-joins",
        "another library's fork hook joins a registered thread; a call in each process",
        &[Ok],
        |context| {
            install_hook(join_helper);
            let (end, ended) = mpsc::channel::<()>();
            let helper = thread::spawn(move || {
                psx::thread::adopt().expect("a place in the registry");
                ADOPTED.store(true, Ordering::Release);
                let _ = ended.recv();
            });
            await_flag(&ADOPTED);
            *HELPER.lock().expect("no panic") = Some((end, helper));
            fork_once(context);
            let probes = context.probes_that(is_level);
            context.conclude(context.count_to(1), probes.in_old_state());
        },
    ),
    Row::new(
        "fork-hook-waits-for-call",
        "another library's fork hook waits for an unregistered thread's call of 1 s",
        &[Ok],
        |context| {
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
            fork_once(context);
            let (result, took) = caller.join().expect("a call");
            assert!(matches!(result, Err(Error::Busy)), "{result:?} after {took:?}");
            let probes = context.probes_that(is_level);
            context.conclude(context.count_to(1), probes.in_old_state());
        },
    ),
    Row::new(
        "fork-hook-ends-thread",
        "a registered thread dies in another library's fork hook; spawns and a call",
        &[Ok],
        |context| {
            install_hook(end_marked_thread);
            context.adopt();
            thread::spawn(|| {
                psx::thread::adopt().expect("a place in the registry");
                TO_END.store(tid(), Ordering::Release);
                // The thread ends in its hook, before there is a child.
                fork(|| 0);
            });
            while TO_END.load(Ordering::Acquire) == 0 {
                thread::yield_now();
            }
            wait_for_end(TO_END.load(Ordering::Acquire));
            let probes = context.probes_that(is_level);
            context.conclude(context.count_to(1), probes.in_old_state());
        },
    ),
    Row::new(
        "raw-fork",
        "1,000 forks by raw clone; in each 16 threads adopt at once; a call",
        &[Ok],
        |context| {
            let probes = context.probes_that(is_level);
            for _ in 0..1000 {
                match raw::fork() {
                    0 => exit_now(code_of(all_adopt())),
                    child => must_succeed(child, "16 threads and a call in a child"),
                }
            }
            context.conclude(context.count_to(1), probes.in_old_state());
        },
    )
    .seconds(60),
    Row::new("raw-fork-in-round", "the same 200 times while a round waits", &[Ok], |context| {
        fork_in_rounds(context, 200, |_| code_of(all_adopt()));
    })
    .seconds(60),
    Row::new("raw-fork-forks", "the same with a fork by libc in the child", &[Ok], |context| {
        fork_in_rounds(context, 50, |context| {
            let status = fork_and_wait(|| calls_in_child(context));
            status.code().unwrap_or(128)
        });
    })
    .seconds(60),
    Row::new("command", "many Command::spawn", &[Ok], |context| {
        beside_calls(context, 100, |_| {
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
    // SAFETY: the child continues in this file.
    NESTED.store(unsafe { libc::fork() }, Ordering::Relaxed);
}

extern "C" fn interrupt_fork() {
    if TO_NEST.swap(false, Ordering::Relaxed) {
        // SAFETY: the handler runs before this returns.
        unsafe { libc::raise(libc::SIGUSR1) };
    }
}

/// The interruption comes between psx's fork hook and the fork: the hook that was installed first runs last.
fn fork_in_fork(context: &Context) {
    let handler = fork_again as extern "C" fn(c_int) as usize;
    // SAFETY: the handler and the hook only fork.
    unsafe {
        libc::signal(libc::SIGUSR1, handler);
        libc::pthread_atfork(Some(interrupt_fork), None, None);
    }
    context.adopt();
    TO_NEST.store(true, Ordering::Relaxed);
    // SAFETY: the children continue below, with psx, and end by _exit.
    let outer = unsafe { libc::fork() };
    let nested = NESTED.load(Ordering::Relaxed);
    assert!(outer >= 0 && nested >= 0, "fork: {}", io::Error::last_os_error());
    // Four processes come here: the parent of both forks, and the children of either.
    let children = [outer, if nested == 0 || outer == 0 { 0 } else { nested }];
    let mut children = children.into_iter().filter(|&child| child > 0);
    let succeed = children.all(|child| wait(child).success());
    if outer > 0 && nested > 0 {
        assert!(succeed, "a call in a child");
        let probes = context.probes_that(is_level);
        return context.conclude(context.count_to(1), probes.in_old_state());
    }
    exit_now(if succeed { calls_in_child(context) } else { 2 })
}

/// The thread that the hook joins, and what ends it.
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
    if TO_END.load(Ordering::Acquire) == tid() {
        exit_thread();
    }
}

fn await_flag(flag: &AtomicBool) {
    while !flag.load(Ordering::Acquire) {
        thread::yield_now();
    }
}

/// To be called before psx installs its hooks: of the hooks before a fork, the first runs last.
fn install_hook(hook: extern "C" fn()) {
    // SAFETY: the hook takes no lock that the fork holds.
    assert_eq!(unsafe { libc::pthread_atfork(Some(hook), None, None) }, 0);
}

/// Forks once, with the hook that was installed before; a call in the child.
fn fork_once(context: &Context) {
    context.adopt();
    must_succeed(fork(|| calls_in_child(context)), "a call in a forked child");
}

/// Two threads do `work` this many times each, while main calls without a pause.
fn beside_calls(context: &Context, times: usize, work: fn(&Context)) {
    let probes = context.probes_that(is_level);
    let parents: Vec<_> = (0..2)
        .map(|_| {
            let context = context.clone();
            context.clone().spawn("parent", move || (0..times).for_each(|_| work(&context)))
        })
        .collect();
    let counted = context.count_to(500);
    parents.into_iter().for_each(|join| join());
    context.conclude(counted, probes.in_old_state());
}

/// A registered thread forks by a raw clone, which runs no hook, while a round waits for it. The child ends
/// with what `in_child` returns.
fn fork_in_rounds(context: &Context, children: usize, in_child: fn(&Context) -> i32) {
    let probes = context.probes_that(is_level);
    let (send, ready) = mpsc::channel();
    let forker = context.clone();
    let join = context.spawn("forker", move || {
        for _ in 0..children {
            set_mask(!0);
            send.send(()).expect("main waits");
            while !is_stop_pending() {
                thread::yield_now();
            }
            let pid = raw::fork();
            set_mask(0);
            match pid {
                0 => exit_now(in_child(&forker)),
                child => must_succeed(child, "a child of a round"),
            }
        }
    });
    let round = |_| {
        ready.recv().expect("a blocked thread");
        context.count()
    };
    let counted = (0..children).map(round).collect();
    join();
    context.conclude(counted, probes.in_old_state());
}

/// 16 threads first adopt themselves; then a call must find them all.
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
            // The second one finds the first during its registration.
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

/// Another thread's round must end before the ticket's thread is registered.
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
    let is_me = |thread: &ProcessThread| thread.thread().tid() == tid();
    let me = threads.iter().find(|thread| is_me(thread));
    Result::Ok(report.value() == 2 && me.is_some_and(|me| me.kind() == ThreadKind::Registered))
}

/// The exit code of a child that makes a call with one thread, then one with two; the kernel counts both.
fn calls_in_child(context: &Context) -> i32 {
    let calls = || -> Result<bool, Error> {
        let before = slack();
        // The fork may have come between a call's end and its count.
        start_count();
        context.count()?;
        let probes = context.probes_of(1, is_level);
        context.count()?;
        Result::Ok(slack() == before + 2 && probes.in_old_state() == 0)
    };
    code_of(calls())
}

/// The exit code of a forked child: 0 if all went as it should.
fn code_of(result: Result<bool, Error>) -> i32 {
    match result {
        Result::Ok(true) => 0,
        Result::Ok(false) => 2,
        Err(error) => {
            eprintln!("in a forked child: {error}");
            1
        }
    }
}

fn must_succeed(child: libc::pid_t, what: &str) {
    let status = wait(child);
    assert!(status.success(), "{what}: {status}");
}
