//! Threads that cannot answer, that nobody told psx about, or that have gone without a word.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::atomic::Ordering;
use std::thread;

use psx::Error;

use crate::LEAVE_MAIN;
use crate::case::Case;
use crate::case::Expected::{Clean, Exit, Ok};
use crate::raw;
use crate::stage::Stage;

pub(crate) const CASES: &[Case] = &[
    Case::new("vfork-short", "a thread in vfork for 3 s", &[Ok], |stage| {
        let _crew = stage.crew();
        in_vfork(stage, 3);
        stage.noting_stops(Stage::change);
    }),
    Case::new(
        "vfork-long",
        "a thread in vfork for 30 s",
        &[Clean("Unreachable", "vforker")],
        |stage| {
            let _crew = stage.crew();
            in_vfork(stage, 30);
            stage.change_soon();
        },
    )
    .bites(),
    Case::new(
        "vfork-forged",
        "the same, its child sent signals 33 that pose as psx's",
        &[Clean("Unreachable", "vforker")],
        |stage| {
            let _crew = stage.crew();
            stage.count().expect("a round before the child takes over the handlers");
            let child = in_vfork(stage, 30);
            stage.ask(format_args!("help drip {child}"));
            stage.change_soon();
        },
    ),
    Case::new(
        "traced",
        "a thread stopped by a debugger; then let go",
        &[Clean("Unreachable", "patient"), Ok],
        |stage| {
            let _crew = stage.crew();
            let patient = idle(stage, "patient");
            stage.ask(format_args!("trace {patient}"));
            stage.change_soon();
            stage.ask(format_args!("untrace {patient}"));
            stage.change();
        },
    ),
    Case::new(
        "raw-clone",
        "a raw clone(CLONE_THREAD) thread",
        &[Clean("Uncovered", "raw-clone")],
        |stage| {
            let _crew = stage.crew();
            let tid = raw::start_raw_thread();
            await_thread(|name, _| name == "raw-clone", &tid.to_string());
            stage.change_soon();
        },
    )
    .bites(),
    Case::new(
        "raw-clone-forged",
        "the same, sent signals 33 that pose as psx's: Registered",
        &[Clean("Unreachable", "creator")],
        |stage| {
            let _crew = stage.crew();
            stage.count().expect("a round that puts the handler in place");
            let (mut told, mut tell) = UnixStream::pair().expect("a socket pair");
            let _ = stage.spawn("creator", move || {
                raw::start_raw_thread();
                raw::block_every_signal();
                tell.write_all(&[0]).expect("main waits");
                loop {
                    thread::park();
                }
            });
            told.read_exact(&mut [0]).expect("a word from the creator");
            stage.ask("help drip");
            stage.change_registered();
        },
    ),
    Case::new("main-pthread-exit", "main thread left by pthread_exit", &[Ok], |stage| {
        without_main(stage);
        LEAVE_MAIN.store(true, Ordering::Relaxed);
    }),
    Case::new(
        "last-thread",
        "main leaves by pthread_exit, the others return one by one, beside rounds",
        &[Exit(0)],
        |stage| {
            // Each takes part in ten rounds of the others, at least, but the last ones.
            for rounds in (1..=8).map(|threads| 10 * threads) {
                let caller = stage.clone();
                let _ = stage.spawn("caller", move || {
                    let _ = caller.count_to(rounds).expect("rounds beside threads that end");
                });
            }
            LEAVE_MAIN.store(true, Ordering::Relaxed);
        },
    ),
    Case::new("main-raw-exit", "main thread left by raw SYS_exit", &[Ok], |stage| {
        stage.count().expect("a round with main");
        without_main(stage);
        raw::leave();
    }),
    Case::new("raw-exit", "200 threads left by raw SYS_exit between rounds", &[Ok], |stage| {
        let crew = stage.crew_that(crate::stage::is_level);
        let round = |_| {
            let (mut gone, going) = UnixStream::pair().expect("a socket pair");
            for _ in 0..10 {
                let going = going.try_clone().expect("a descriptor");
                let _ = stage.spawn("leaver", move || leave_with(going));
            }
            drop(going);
            gone.read_to_end(&mut Vec::new()).expect("the end of the leavers");
            stage.count()
        };
        let counted: Result<_, Error> = (0..20).map(round).collect();
        stage.conclude(counted, crew.strays());
    }),
    Case::new(
        "spawn-fails",
        "spawn fails: no address space for the stack, no process left",
        &[Ok],
        |stage| {
            let crew = stage.crew_that(crate::stage::is_level);
            let huge = stage.try_spawn("too-big", 1 << 46, || ());
            assert!(huge.is_err(), "a stack of 64 TiB was mapped");
            let counted = stage.count_to(10);
            raw::set_limit(libc::RLIMIT_NPROC, [0, 0]);
            // A limit of processes does not hold for root.
            if raw::users()[0] != 0 {
                let refused = stage.try_spawn("too-many", 256 << 10, || ());
                assert!(refused.is_err(), "a thread over the limit was started");
            }
            let counted = counted.and_then(|_| stage.count_to(10));
            stage.conclude(counted, crew.strays());
        },
    )
    .start(crate::case::Start::Plain),
];

/// Closes its end and leaves, since nothing of its own runs any more.
fn leave_with(going: UnixStream) {
    drop(going);
    raw::leave();
}

/// Starts a thread that waits, and returns its id.
pub(crate) fn idle(stage: &Stage, name: &str) -> u32 {
    let (mut told, mut tell) = UnixStream::pair().expect("a socket pair");
    let _ = stage.spawn(name, move || {
        tell.write_all(&raw::tid().to_ne_bytes()).expect("main waits");
        loop {
            thread::park();
        }
    });
    let mut tid = [0; 4];
    told.read_exact(&mut tid).expect("the thread's id");
    u32::from_ne_bytes(tid)
}

/// Starts a thread, `vforker`, that has gone into vfork for so long when this returns its child.
fn in_vfork(stage: &Stage, seconds: u32) -> u32 {
    let (mut announced, announce) = UnixStream::pair().expect("a socket pair");
    let _ = stage.spawn("vforker", move || raw::vfork(announce.as_raw_fd(), seconds));
    let mut child = [0; 4];
    announced.read_exact(&mut child).expect("a word from the vfork child");
    u32::from_ne_bytes(child)
}

/// Starts the thread that goes on when main has gone.
fn without_main(stage: &Stage) {
    let stage = stage.clone();
    let _ = stage.clone().spawn("successor", move || {
        let _crew = stage.crew();
        await_thread(|_, state| state == "Z", &process::id().to_string());
        stage.change();
        stage.ask("done");
    });
}

/// Waits until /proc shows a thread of this process with such a name and state.
pub(crate) fn await_thread(is_it: impl Fn(&str, &str) -> bool, among: &str) {
    let is_there = || {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        tasks.filter(|task| among.is_empty() || task.file_name() == among).any(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let Some((name, rest)) = stat.split_once('(').and_then(|(_, s)| s.rsplit_once(") "))
            else {
                return false;
            };
            is_it(name, &rest[..1])
        })
    };
    while !is_there() {
        thread::yield_now();
    }
}
