//! Threads that start, end, call, panic and end the process while rounds run (P2, P4, P5, P6).

use std::env;
use std::panic;
use std::process::{self, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::context::{Context, is_level, keeps_up};
use crate::identity::load;
use crate::row::Expected::{Abort, Clean, Exit, Ok};
use crate::row::Row;

pub(crate) const ROWS: &[Row] = &[
    Row::new("churn", "thread churn, 500 calls, 100,000 threads", &[Ok], |context| {
        churn(context, 500, 100_000);
    })
    .seconds(120)
    .alone(),
    Row::new("four-callers", "4 callers x 10,000 calls", &[Ok], |context| {
        let probes = context.probes_that(is_level);
        let callers: Vec<_> = (0..4).map(|_| caller(context, 10_000)).collect();
        callers.into_iter().for_each(|join| join());
        context.conclude(Result::Ok(vec![]), probes.in_old_state());
    })
    .seconds(120)
    .alone(),
    Row::new(
        "fifth-caller",
        "a fifth thread calls and spawns beside 4 callers without pause",
        &[Ok],
        fifth_caller,
    )
    .seconds(60)
    .alone(),
    Row::new("thousand", "1,000 threads", &[Ok], |context| many(context, 1_000))
        .seconds(60)
        .alone(),
    Row::new("ten-thousand", "10,000 threads", &[Ok], |context| many(context, 10_000))
        .seconds(120)
        .alone(),
    Row::new("panic", "400 workers panic while rounds run", &[Ok], |context| {
        let probes = context.probes_that(is_level);
        panic::set_hook(Box::new(|_| ()));
        let ends: Vec<_> = (0..2)
            .map(|_| {
                let context = context.clone();
                context.clone().spawn("panicker", move || {
                    for _ in 0..200 {
                        context.spawn("panicker's child", || {
                            panic::catch_unwind(|| panic!("deliberately")).unwrap_err();
                        })();
                    }
                })
            })
            .collect();
        let counted = context.count_to(500);
        ends.into_iter().for_each(|join| join());
        context.conclude(counted, probes.in_old_state());
    })
    .seconds(60),
    Row::new(
        "library",
        "dlopen of a library that starts threads; dlclose; 50 times both",
        &[Clean("Uncovered", "lib-worker"), Ok],
        |context| {
            let probes = context.probes_that(is_level);
            let library = load_library();
            context.change_soon();
            unload(library);
            let join = context.spawn("loader", || (0..50).for_each(|_| unload(load_library())));
            let counted = context.count_to(50);
            join();
            context.conclude(counted, probes.in_old_state());
        },
    )
    .needs(|| Command::new("cc").arg("--version").output().is_ok(), "a C compiler")
    .seconds(60),
    Row::new("exec", "20 times psx::process::exec while rounds run", &[Ok], exec_in_round)
        .seconds(60),
    Row::new("exit", "exit while rounds run", &[Exit(7)], |context| {
        rounds_without_end(context);
        process::exit(7);
    }),
    Row::new("abort", "abort while rounds run", &[Abort("")], |context| {
        rounds_without_end(context);
        process::abort();
    }),
];

/// Two parents start threads without a pause, and each new thread checks that it has made the calls that have
/// returned. The rounds are spread evenly over the starts.
fn churn(context: &Context, rounds: usize, starts: usize) {
    let probes = context.probes_that(is_level);
    let started = Arc::new(AtomicUsize::new(0));
    let behind = Arc::new(AtomicUsize::new(0));
    let parents: Vec<_> = (0..2)
        .map(|_| {
            let (context, started, behind) = (context.clone(), started.clone(), behind.clone());
            context.clone().spawn("parent", move || {
                while started.fetch_add(1, Ordering::Relaxed) < starts {
                    let behind = behind.clone();
                    context.spawn("short-lived", move || {
                        if !keeps_up() {
                            behind.fetch_add(1, Ordering::Relaxed);
                        }
                    })();
                }
            })
        })
        .collect();
    let round = |i| {
        while started.load(Ordering::Relaxed) < i * starts / rounds {
            thread::yield_now();
        }
        context.count()
    };
    let counted = (0..rounds).map(round).collect();
    parents.into_iter().for_each(|join| join());
    context.conclude(counted, probes.in_old_state() + behind.load(Ordering::Relaxed));
}

fn caller(context: &Context, rounds: usize) -> impl FnOnce() + use<> {
    let context = context.clone();
    context.clone().spawn("caller", move || {
        context.count_to(rounds).expect("each call of each caller");
    })
}

/// Each call of the fifth thread, and each start of a thread, must succeed within the timeout.
fn fifth_caller(context: &Context) {
    const TURNS: usize = 50;
    let probes = context.probes_that(is_level);
    let done = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (context, done) = (context.clone(), Arc::clone(&done));
            context.clone().spawn("caller", move || {
                while !done.load(Ordering::Relaxed) {
                    context.count().expect("every call");
                }
            })
        })
        .collect();
    let fifth = context.clone();
    let (longest, slowest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (call, spawn) = (Arc::clone(&longest), Arc::clone(&slowest));
    context.spawn("fifth", move || {
        for _ in 0..TURNS {
            let took = fifth.count().expect("a call in between");
            call.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
            let start = Instant::now();
            fifth.spawn("new", || ())();
            spawn.fetch_max(start.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
    })();
    done.store(true, Ordering::Relaxed);
    callers.into_iter().for_each(|join| join());
    let [call, spawn] = [longest, slowest].map(|longest| longest.load(Ordering::Relaxed));
    context.note(format_args!("slowest call {call} us, slowest spawn {spawn} us"));
    assert!(call.max(spawn) < 5_000_000, "a call or a spawn that took longer than a timeout");
    context.conclude(Result::Ok(vec![]), probes.in_old_state());
}

fn many(context: &Context, threads: usize) {
    context.park(threads);
    context.conclude(context.count_to(20), 0);
}

/// Starts a thread that calls without end, and returns when it has done so 20 times.
fn rounds_without_end(context: &Context) {
    let context = context.clone();
    let _probes = context.probes();
    context.clone().busy("caller", move || {
        context.count_to(20).expect("calls while the process still runs");
    });
}

/// Execs itself while rounds run, by main and by another thread alternately, and makes the change in the
/// last program.
fn exec_in_round(context: &Context) {
    const LEFT: &str = "PSX_FAULTS_EXECS_LEFT";
    let left = env::var(LEFT).map_or(20, |left| left.parse().expect("a number"));
    if left == 0 {
        let _probes = context.probes();
        return context.change();
    }
    rounds_without_end(context);
    let exec = move || -> () {
        let mut command = Command::new("/proc/self/exe");
        command.args(env::args_os().skip(1)).env(LEFT, (left - 1).to_string());
        panic!("exec: {}", psx::process::exec(&mut command));
    };
    if left % 2 == 0 {
        exec();
    }
    context.spawn("exec", exec)();
}

static LOADED: AtomicBool = AtomicBool::new(false);

fn load_library() -> usize {
    let library = load("library.so");
    assert!(!LOADED.swap(true, Ordering::Relaxed), "loaded twice");
    library.addr()
}

fn unload(library: usize) {
    LOADED.store(false, Ordering::Relaxed);
    // SAFETY: what dlopen returned.
    unsafe { libc::dlclose(library as *mut _) };
}
