//! Threads that take their signal late, because of the scheduler or because they wait in the kernel for another
//! thread of the process (P6, P9, P10). Each row notes how long a thread that is not concerned stood still.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{hint, thread};

use psx::{Broadcast, Error, Obstacle};
use psx_test_support::procfs::{Task, wait_for_thread};
use psx_test_support::raw::syscall;
use psx_test_support::signal::{self, STOP_BIT, set_mask};
use psx_test_support::threads::{idle, tid};
use psx_test_support::{Line, procfs};

use crate::cgroup;
use crate::context::Context;
use crate::raw;
use crate::row::Expected::{Clean, Ok, OkOrClean};
use crate::row::{Row, Start};
use crate::servers::{self, Permissions, ServedPage};
use crate::supervisor::path;

pub(crate) const ROWS: &[Row] = &[
    Row::new("sched-idle", "a SCHED_IDLE thread beside busy processes", &[Ok], |context| {
        let _probes = context.probes();
        let mut idle = false;
        context.busy("idle", move || {
            if !idle {
                raw::schedule_idle();
                idle = true;
            }
            hint::spin_loop();
        });
        context.ask("start-helper burn");
        context.noting_stops(LIMIT, Context::change);
    })
    .alone(),
    Row::new("little-cpu", "a busy thread has a twentieth of a core (cgroup)", &[Ok], |context| {
        let _probes = context.probes();
        let limited = start_in(context, "limited", || {
            loop {
                hint::spin_loop();
            }
        });
        context.ask(format_args!("limit-cpu {limited}"));
        let short = Broadcast::new().timeout(Duration::from_millis(30));
        let mut seen = Vec::new();
        context.noting_stops(LIMIT, |context| {
            while seen.len() < 10 || !seen.contains(&Some(Obstacle::Runnable)) {
                // SAFETY: nothing is done.
                match unsafe { short.run(|| Result::Ok(0)) } {
                    Result::Ok(_) => {}
                    Err(Error::Unreachable(threads)) => {
                        let late = threads.iter().find(|late| late.tid() == limited);
                        seen.extend(late.map(|late| late.obstacle().cloned()));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            context.change();
        });
        let no_other = |seen: &Option<Obstacle>| matches!(seen, None | Some(Obstacle::Runnable));
        assert!(seen.iter().all(no_other), "{seen:?}");
    })
    .start(Start::Root)
    .seconds(60)
    .alone()
    .needs(cgroup::has_cpu_limit, "a cgroup of version 1 with a CPU limit"),
    Row::new(
        "sigstop",
        "SIGSTOP of the whole process in an attempt, for longer than the timeout",
        &[Ok],
        |context| stopped_in(context, "stop-in-attempt", Duration::from_millis(500)),
    )
    .alone(),
    Row::new(
        "sigstop-between",
        "the same between two attempts, while the caller waits for a late thread",
        &[Ok],
        |context| stopped_in(context, "stop-between", Duration::from_millis(1)),
    )
    .alone(),
    Row::new(
        "waits-socket",
        "a thread waits for another one at the other end of a socket",
        &[Ok],
        |context| {
            let (mut wait, mut serve) = UnixStream::pair().expect("a socket pair");
            let _ = context.spawn("server", move || {
                while serve.read_exact(&mut [0]).is_ok() {
                    work();
                    serve.write_all(&[0]).expect("a waiting thread");
                }
            });
            context.busy("waiter", move || {
                wait.write_all(&[0]).expect("a server");
                wait.read_exact(&mut [0]).expect("a server");
            });
            let refused = beside_a_server(context);
            assert_eq!(refused, 0, "rounds refused, though the wait can be interrupted");
        },
    ),
    Row::new(
        "waits-userfaultfd",
        "a thread waits in the kernel for a page that another one serves",
        &[OkOrClean],
        |context| {
            let page = Arc::new(ServedPage::map());
            let served = Arc::clone(&page);
            let _ = context.spawn("server", move || {
                loop {
                    served.serve(work);
                }
            });
            let zeros = File::open("/dev/zero").expect("/dev/zero");
            context.busy("waiter", move || page.wait_for(&zeros));
            beside_a_server(context);
        },
    )
    .start(Start::Root)
    .seconds(30)
    .needs(servers::has_userfaultfd, "userfaultfd"),
    Row::new(
        "page-never-served",
        "a thread waits in the kernel for a page that no thread serves",
        &[Clean("Unreachable", "(waiter), which waits in a page fault (userfaultfd)")],
        |context| {
            let _probes = context.probes();
            let page = ServedPage::map();
            let waiter = start_in(context, "waiter", move || page.wait_uninterruptibly());
            wait_for_thread(|id, _, state| id == waiter && state == 'D');
            context.noting_stops(LIMIT, Context::change_soon);
        },
    )
    .start(Start::Root)
    .needs(servers::has_userfaultfd, "userfaultfd"),
    Row::new(
        "open-never-permitted",
        "a thread opens a file that no thread permits (fanotify)",
        &[Clean("Unreachable", "(waiter), which waits uninterruptibly in the kernel (in ")],
        |context| {
            let _probes = context.probes();
            let path = path("never-permitted");
            fs::write(&path, "").expect("a file");
            let permissions = Permissions::of(&path);
            let waiter = start_in(context, "waiter", move || drop(File::open(&path)));
            wait_for_thread(|id, _, state| id == waiter && state == 'D');
            context.noting_stops(LIMIT, Context::change_soon);
            drop(permissions);
        },
    )
    .start(Start::Root)
    .needs(servers::has_fanotify, "fanotify permission events"),
    Row::new(
        "waits-fanotify",
        "a thread opens a file that another one must permit (fanotify)",
        &[OkOrClean],
        |context| {
            let path = path("permitted");
            fs::write(&path, "").expect("a file");
            let permissions = Permissions::of(&path);
            let _ = context.spawn("server", move || {
                loop {
                    permissions.give(work);
                }
            });
            context.busy("waiter", move || drop(File::open(&path).expect("permission")));
            beside_a_server(context);
        },
    )
    .start(Start::Root)
    .seconds(30)
    .needs(servers::has_fanotify, "fanotify permission events"),
];

/// Starts a thread and returns its id.
fn start_in(context: &Context, name: &str, body: impl FnOnce() + Send + 'static) -> u32 {
    let (send, ids) = mpsc::channel();
    let _ = context.spawn(name, move || {
        send.send(tid()).expect("main waits");
        body();
    });
    ids.recv().expect("the thread's id")
}

/// A call that is late because of one thread, while a helper process stops the whole process.
fn stopped_in(context: &Context, helper: &str, pause: Duration) {
    let _probes = context.probes();
    let late = start_in(context, "late", || {
        set_mask(!0);
        wait_for_usr1();
        set_mask(0);
        idle();
    });
    while procfs::task(late).mask("SigBlk") & STOP_BIT == 0 {
        thread::yield_now();
    }
    context.noting_stops(STOPPED + LIMIT, |context| {
        context.ask(format_args!("start-helper {helper}"));
        context.change_soon_by(Broadcast::new().pause(pause));
    });
}

/// How long that process is stopped.
const STOPPED: Duration = Duration::from_secs(2);

/// The program of a helper process: stops `target` while signal 33 is queued for its thread `late`, in an
/// attempt or when the other threads run again, and sends SIGUSR1 to that thread at the end of the stop.
pub(crate) fn stop_process(target: u32, between: bool, line: &Line) {
    line.send("ready");
    let is_late = |task: &Task| task.name() == "late" && task.mask("SigPnd") & STOP_BIT != 0;
    let late = loop {
        if let Some(task) = procfs::tasks(target).into_iter().find(is_late) {
            break task.field("Pid").parse().expect("a thread id");
        }
        thread::yield_now();
    };
    let beats = || {
        let tasks = procfs::tasks(target);
        let heartbeat = tasks.iter().find(|task| task.name() == "heartbeat").expect("a heartbeat");
        heartbeat.field("voluntary_ctxt_switches").parse::<u64>().expect("a number")
    };
    // A stopped thread sleeps once or twice.
    let enough = beats() + 20;
    while between && beats() < enough {
        thread::yield_now();
    }
    signal::send(target, None, libc::SIGSTOP).expect("the row's process");
    while !procfs::tasks(target).iter().all(|task| task.field("State").starts_with('T')) {
        thread::yield_now();
    }
    // The fault itself.
    thread::sleep(STOPPED);
    signal::send(target, None, libc::SIGCONT).expect("the row's process");
    signal::send(target, Some(late), libc::SIGUSR1).expect("its thread");
}

/// Waits for SIGUSR1, which the thread blocks.
fn wait_for_usr1() {
    let set = 1_u64 << (libc::SIGUSR1 - 1);
    let args = [(&raw const set).addr(), 0, 0, size_of_val(&set), 0, 0];
    // A stop interrupts the wait.
    // SAFETY: the kernel reads the set.
    while unsafe { syscall(libc::SYS_rt_sigtimedwait, args) }.is_err() {}
}

/// Twice the longest pause before the end of the timeout, and the delays of a busy machine.
const LIMIT: Duration = Duration::from_secs(2);

/// How often the server has begun to serve.
static BEGUN: AtomicUsize = AtomicUsize::new(0);

/// What the server does while the other thread waits.
fn work() {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1) {
        hint::spin_loop();
    }
}

fn await_work() {
    let begun = BEGUN.load(Ordering::Relaxed);
    while BEGUN.load(Ordering::Relaxed) == begun {
        thread::yield_now();
    }
}

/// Five rounds that begin while the server works, then the change. Returns how many were refused.
fn beside_a_server(context: &Context) -> usize {
    const ROUNDS: usize = 5;
    let short = Broadcast::new().timeout(Duration::from_millis(300));
    let mut refused = 0;
    context.noting_stops(LIMIT, |context| {
        for _ in 0..ROUNDS {
            await_work();
            // SAFETY: nothing is done.
            match unsafe { short.run(|| Result::Ok(0)) } {
                Result::Ok(_) => {}
                Err(Error::Unreachable(threads)) => {
                    assert_eq!(threads[0].name(), "waiter");
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        await_work();
        context.change_soon();
    });
    context.note(format_args!("{refused} of {ROUNDS} rounds refused before"));
    refused
}
