//! Threads that come, go, call, panic and end the process while rounds run.

use std::env;
use std::panic;
use std::process::{self, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::case::Case;
use crate::case::Expected::{Abort, Clean, Exit, Ok};
use crate::stage::{Stage, is_level, keeps_up};
use crate::supervisor::workshop;

pub(crate) const CASES: &[Case] = &[
    Case::new("churn", "thread churn, 500 calls, 100,000 threads", &[Ok], |stage| {
        churn(stage, 500, 100_000);
    })
    .seconds(120)
    .alone(),
    Case::new("four-callers", "4 callers x 10,000 calls", &[Ok], |stage| {
        let crew = stage.crew_that(is_level);
        let callers: Vec<_> = (0..4).map(|_| caller(stage, 10_000)).collect();
        callers.into_iter().for_each(|join| join());
        stage.conclude(Result::Ok(vec![]), crew.strays());
    })
    .seconds(120)
    .alone(),
    Case::new(
        "fifth-caller",
        "a fifth thread calls and spawns beside 4 callers without pause",
        &[Ok],
        fifth_caller,
    )
    .seconds(60)
    .alone(),
    Case::new("thousand", "1,000 threads", &[Ok], |stage| many(stage, 1_000)).seconds(60).alone(),
    Case::new("ten-thousand", "10,000 threads", &[Ok], |stage| many(stage, 10_000))
        .seconds(120)
        .alone(),
    Case::new("panic", "400 workers panic while rounds run", &[Ok], |stage| {
        let crew = stage.crew_that(is_level);
        panic::set_hook(Box::new(|_| ()));
        let ends: Vec<_> = (0..2)
            .map(|_| {
                let stage = stage.clone();
                stage.clone().spawn("panicker", move || {
                    for _ in 0..200 {
                        stage.spawn("doomed", || {
                            panic::catch_unwind(|| panic!("deliberately")).unwrap_err();
                        })();
                    }
                })
            })
            .collect();
        let counted = stage.count_to(500);
        ends.into_iter().for_each(|join| join());
        stage.conclude(counted, crew.strays());
    })
    .seconds(60),
    Case::new(
        "library",
        "dlopen of a library that starts threads; dlclose; 50 times both",
        &[Clean("Uncovered", "lib-worker"), Ok],
        |stage| {
            let crew = stage.crew_that(is_level);
            let library = load_library();
            stage.change_soon();
            unload(library);
            let join = stage.spawn("loader", || (0..50).for_each(|_| unload(load_library())));
            let counted = stage.count_to(50);
            join();
            stage.conclude(counted, crew.strays());
        },
    )
    .needs(|| Command::new("cc").arg("--version").output().is_ok(), "a C compiler")
    .seconds(60),
    Case::new("exec", "20 times psx::process::exec while rounds run", &[Ok], exec_in_round)
        .seconds(60),
    Case::new("exit", "exit while rounds run", &[Exit(7)], |stage| {
        rounds_without_end(stage);
        process::exit(7);
    }),
    Case::new("abort", "abort while rounds run", &[Abort("")], |stage| {
        rounds_without_end(stage);
        process::abort();
    }),
];

/// Threads are born as fast as two parents can, and each asks itself whether it has kept up with
/// the calls that ended before it looked. The rounds are spread evenly over the births.
fn churn(stage: &Stage, rounds: usize, births: usize) {
    let crew = stage.crew_that(is_level);
    let born = Arc::new(AtomicUsize::new(0));
    let behind = Arc::new(AtomicUsize::new(0));
    let parents: Vec<_> = (0..2)
        .map(|_| {
            let (stage, born, behind) = (stage.clone(), born.clone(), behind.clone());
            stage.clone().spawn("parent", move || {
                while born.fetch_add(1, Ordering::Relaxed) < births {
                    let behind = behind.clone();
                    stage.spawn("mayfly", move || {
                        if !keeps_up() {
                            behind.fetch_add(1, Ordering::Relaxed);
                        }
                    })();
                }
            })
        })
        .collect();
    let round = |i| {
        while born.load(Ordering::Relaxed) < i * births / rounds {
            thread::yield_now();
        }
        stage.count()
    };
    let counted = (0..rounds).map(round).collect();
    parents.into_iter().for_each(|join| join());
    stage.conclude(counted, crew.strays() + behind.load(Ordering::Relaxed));
}

fn caller(stage: &Stage, rounds: usize) -> impl FnOnce() + use<> {
    let stage = stage.clone();
    stage.clone().spawn("caller", move || {
        stage.count_to(rounds).expect("every one of many callers' calls");
    })
}

/// Each call of the fifth thread must come to its turn within its timeout, and each birth as well.
fn fifth_caller(stage: &Stage) {
    const TURNS: usize = 50;
    let crew = stage.crew_that(is_level);
    let done = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (stage, done) = (stage.clone(), Arc::clone(&done));
            stage.clone().spawn("caller", move || {
                while !done.load(Ordering::Relaxed) {
                    stage.count().expect("every call");
                }
            })
        })
        .collect();
    let fifth = stage.clone();
    let (longest, slowest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (call, birth) = (Arc::clone(&longest), Arc::clone(&slowest));
    stage.spawn("fifth", move || {
        for _ in 0..TURNS {
            let took = fifth.count().expect("a call in between");
            call.fetch_max(took.as_micros() as u64, Ordering::Relaxed);
            let start = Instant::now();
            fifth.spawn("newborn", || ())();
            birth.fetch_max(start.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
    })();
    done.store(true, Ordering::Relaxed);
    callers.into_iter().for_each(|join| join());
    let [call, birth] = [longest, slowest].map(|longest| longest.load(Ordering::Relaxed));
    stage.note(format_args!("slowest call {call} us, slowest birth {birth} us"));
    assert!(call.max(birth) < 5_000_000, "a call or a birth that waited longer than a timeout");
    stage.conclude(Result::Ok(vec![]), crew.strays());
}

fn many(stage: &Stage, threads: usize) {
    stage.park(threads);
    stage.conclude(stage.count_to(20), 0);
}

/// Starts a thread that calls for ever, and returns when it has done so 20 times.
fn rounds_without_end(stage: &Stage) {
    let stage = stage.clone();
    let _crew = stage.crew();
    stage.clone().busy("caller", move || {
        stage.count_to(20).expect("calls while the process still runs");
    });
}

/// Execs itself in the middle of rounds, by main and by another thread in turn, and makes the
/// change in the program that is left in the end.
fn exec_in_round(stage: &Stage) {
    const LEFT: &str = "PSX_FAULTS_EXECS_LEFT";
    let left = env::var(LEFT).map_or(20, |left| left.parse().expect("a number"));
    if left == 0 {
        let _crew = stage.crew();
        return stage.change();
    }
    rounds_without_end(stage);
    let exec = move || -> () {
        let mut command = Command::new("/proc/self/exe");
        command.args(env::args_os().skip(1)).env(LEFT, (left - 1).to_string());
        panic!("exec: {}", psx::process::exec(&mut command));
    };
    if left % 2 == 0 {
        exec();
    }
    stage.spawn("exec", exec)();
}

static LOADED: AtomicBool = AtomicBool::new(false);

fn load_library() -> usize {
    let path = workshop("library.so").into_os_string().into_encoded_bytes();
    let path = std::ffi::CString::new(path).expect("a path without NUL");
    // SAFETY: a library of ours, whose constructor starts two threads.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null(), "{}: is there a C compiler?", path.to_string_lossy());
    assert!(!LOADED.swap(true, Ordering::Relaxed), "loaded twice");
    library.addr()
}

fn unload(library: usize) {
    LOADED.store(false, Ordering::Relaxed);
    // SAFETY: what dlopen returned.
    unsafe { libc::dlclose(library as *mut _) };
}
