//! A caller that dies in its round: the others must not wait for it indefinitely (P1, P6).

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;
use std::{mem, process};

use psx::{Broadcast, Coverage};
use psx_test_support::process::{exit_thread, fork};
use psx_test_support::procfs::{wait_for_end, wait_for_thread};
use psx_test_support::seccomp::{self, ALLOW, give};
use psx_test_support::threads::tid;

use crate::context::{SHORT, is_level};
use crate::identity::LAST_ID;
use crate::row::Expected::{Abort, Clean, Ok};
use crate::row::{Row, Start};

const DIED: &[crate::row::Expected] = &[Abort("died in its call on all threads")];

pub(crate) const ROWS: &[Row] = &[
    Row::new(
        "caller-killed-main",
        "a filter kills the caller, main, in its call",
        DIED,
        |context| {
            let _probes = context.probes();
            die_in_call(Coverage::Require);
        },
    ),
    Row::new("caller-killed", "the same of another thread", DIED, |context| {
        let _probes = context.probes();
        context.spawn("caller", || die_in_call(Coverage::Require))();
    }),
    Row::new(
        "caller-killed-alone",
        "the same with no other registered thread; then main adopts itself",
        DIED,
        |_| {
            await_dead_caller();
            psx::thread::adopt().expect("the end of the process");
        },
    ),
    Row::new("caller-killed-fork", "the same; then main forks", DIED, |_| {
        await_dead_caller();
        fork(|| 0);
    }),
    Row::new(
        "caller-dies-id-again",
        "the caller dies in its call; a process gets its id before the target looks",
        DIED,
        |context| {
            let shared = context.clone();
            context.adopt();
            context.spawn("caller", move || {
                let (caller, target) = (tid(), process::id());
                let op = || {
                    if tid() == caller {
                        // The target is stopped until a process has this id.
                        shared.ask(format_args!("replace {caller} {target}"));
                        exit_thread();
                    }
                    Result::Ok(0)
                };
                // SAFETY: the process is meant to end.
                let _ = unsafe { Broadcast::new().run(op) };
            })();
        },
    )
    .start(Start::Root)
    .needs(|| Path::new(LAST_ID).exists(), "ns_last_pid"),
    Row::new(
        "caller-killed-no-trylock",
        "the same under a filter against the futex call that finds the dead",
        DIED,
        |context| {
            let _probes = context.probes();
            seccomp::no_new_privs();
            seccomp::install_on_all(&seccomp::deny_futex(&[libc::FUTEX_TRYLOCK_PI]));
            die_in_call(Coverage::Require);
        },
    ),
    Row::new(
        "caller-killed-early",
        "a filter kills a caller before it has stopped a thread; another calls",
        &[Ok],
        |context| {
            let _probes = context.probes();
            let (tell, told) = mpsc::channel();
            let first = context.clone();
            let _ = context.spawn("caller", move || {
                tell.send(tid()).expect("main waits");
                seccomp::no_new_privs();
                seccomp::install(&kill_thread(libc::SYS_rt_sigaction));
                let _ = first.count();
            });
            wait_for_end(told.recv().expect("the caller's id"));
            context.change();
        },
    ),
    Row::new("caller-strict", "the strict mode of seccomp is broadcast", DIED, |context| {
        let _probes = context.probes();
        let strict = libc::SECCOMP_MODE_STRICT as usize;
        let args = [libc::PR_SET_SECCOMP as usize, strict, 0, 0, 0, 0];
        // SAFETY: the process is meant to end.
        let _ = unsafe { Broadcast::new().syscall(libc::SYS_prctl, args) };
    }),
    Row::new(
        "caller-killed-summoning",
        "a filter kills the caller, main, at its first signal; then a spawn",
        DIED,
        |context| {
            let _probes = context.probes();
            let parent = context.clone();
            let _ = context.spawn("parent", move || {
                wait_for_thread(|id, _, state| id == process::id() && state == 'Z');
                let _ = parent.spawn("new", || ());
            });
            seccomp::no_new_privs();
            seccomp::install(&kill_thread(libc::SYS_rt_tgsigqueueinfo));
            let _ = context.count();
        },
    ),
    Row::new(
        "target-killed-summoning",
        "50 targets that a filter kills as they pass the signal on",
        &[Ok],
        |context| {
            let probes = context.probes_that(is_level);
            let round = |_| {
                let mut filtered = false;
                context.busy("target", move || {
                    if mem::replace(&mut filtered, true) {
                        thread::park();
                    } else {
                        seccomp::no_new_privs();
                        seccomp::install(&kill_thread(libc::SYS_rt_tgsigqueueinfo));
                    }
                });
                context.count()
            };
            context.conclude((0..50).map(round).collect(), probes.in_old_state());
        },
    ),
    Row::new(
        "register-in-round",
        "an unregistered thread calls during another's call of 3 s",
        &[Clean("Busy", "another broadcast")],
        |context| {
            static IN_CALL: AtomicBool = AtomicBool::new(false);
            thread::spawn(|| {
                let op = || {
                    IN_CALL.store(true, Ordering::Release);
                    let begin = Instant::now();
                    while begin.elapsed() < 3 * SHORT {
                        thread::yield_now();
                    }
                    Result::Ok(0)
                };
                let registered = Broadcast::new().coverage(Coverage::Registered);
                // SAFETY: an atomic, the clock and sched_yield.
                let _ = unsafe { registered.run(op) };
            });
            while !IN_CALL.load(Ordering::Acquire) {
                thread::yield_now();
            }
            context.change_soon();
        },
    ),
];

/// Starts a thread that registers and dies in its call, and waits for its end.
fn await_dead_caller() {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        psx::thread::adopt().expect("a place in the registry");
        tell.send(tid()).expect("main waits");
        die_in_call(Coverage::Registered);
    });
    wait_for_end(told.recv().expect("the caller's id"));
}

/// A filter that kills the thread that makes this call.
fn kill_thread(nr: i64) -> Vec<libc::sock_filter> {
    seccomp::filter([nr], give(libc::SECCOMP_RET_KILL_THREAD), ALLOW)
}

/// Broadcasts a call that kills the calling thread.
fn die_in_call(coverage: Coverage) {
    seccomp::no_new_privs();
    seccomp::install(&kill_thread(libc::SYS_getpgid));
    let broadcast = Broadcast::new().coverage(coverage);
    // SAFETY: the call only reads.
    let _ = unsafe { broadcast.syscall(libc::SYS_getpgid, [0; 6]) };
    unreachable!("the thread has been killed");
}
