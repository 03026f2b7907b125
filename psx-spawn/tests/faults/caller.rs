//! A caller that dies in its round: the others must not wait for it for ever.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::{mem, process};

use libc::sock_filter;
use psx::{Broadcast, Coverage};

use crate::case::Expected::{Abort, Clean, Ok};
use crate::case::{Case, Start};
use crate::confine::{self, ALLOW, if_equal, load, step};
use crate::identity::LAST_ID;
use crate::raw;
use crate::signals::await_33;
use crate::stage::is_level;
use crate::support::procfs;
use crate::threads::await_thread;

const DIED: &[crate::case::Expected] = &[Abort("died in its call on all threads")];

pub(crate) const CASES: &[Case] = &[
    Case::new(
        "caller-killed-main",
        "a filter kills the caller, main, in its call",
        DIED,
        |stage| {
            let _crew = stage.crew();
            die_in_call(Coverage::Require);
        },
    ),
    Case::new("caller-killed", "the same of another thread", DIED, |stage| {
        let _crew = stage.crew();
        stage.spawn("caller", || die_in_call(Coverage::Require))();
    }),
    Case::new(
        "caller-killed-alone",
        "the same with no other registered thread; then main adopts itself",
        DIED,
        |_| {
            await_dead_caller();
            psx::thread::adopt().expect("the end of the process");
        },
    ),
    Case::new("caller-killed-fork", "the same; then main forks", DIED, |_| {
        await_dead_caller();
        // SAFETY: the child ends at once.
        if unsafe { libc::fork() } == 0 {
            // SAFETY: _exit(2) ends the process and has no other precondition.
            unsafe { libc::_exit(0) };
        }
    }),
    Case::new(
        "caller-dies-id-again",
        "the caller dies in its call; a process gets its id before the target looks",
        DIED,
        |stage| {
            let shared = stage.clone();
            stage.adopt();
            stage.spawn("caller", move || {
                let (caller, target) = (raw::tid(), process::id());
                let op = || {
                    if raw::tid() == caller {
                        // The target stands still until there is a process with this id.
                        shared.ask(format_args!("replace {caller} {target}"));
                        raw::leave();
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
    Case::new(
        "caller-killed-no-trylock",
        "the same under a filter against the futex call that finds the dead",
        DIED,
        |stage| {
            let _crew = stage.crew();
            confine::no_new_privs();
            confine::filter_all(&confine::deny_futex(&[libc::FUTEX_TRYLOCK_PI]));
            die_in_call(Coverage::Require);
        },
    ),
    Case::new(
        "caller-killed-early",
        "a filter kills a caller before it has stopped anybody; another calls",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            let (tell, told) = mpsc::channel();
            let first = stage.clone();
            let _ = stage.spawn("caller", move || {
                tell.send(raw::tid()).expect("main waits");
                confine::no_new_privs();
                confine::filter(&kill_thread(libc::SYS_rt_sigaction));
                let _ = first.count();
            });
            await_end(told.recv().expect("the caller's id"));
            stage.change();
        },
    ),
    Case::new("caller-strict", "the strict mode of seccomp is broadcast", DIED, |stage| {
        let _crew = stage.crew();
        let strict = libc::SECCOMP_MODE_STRICT as usize;
        let args = [libc::PR_SET_SECCOMP as usize, strict, 0, 0, 0, 0];
        // SAFETY: the process is meant to end.
        let _ = unsafe { Broadcast::new().syscall(libc::SYS_prctl, args) };
    }),
    Case::new(
        "caller-killed-summoning",
        "a filter kills the caller, main, over its first signal; then a birth",
        DIED,
        |stage| {
            let _crew = stage.crew();
            let parent = stage.clone();
            let _ = stage.spawn("parent", move || {
                await_thread(|_, state| state == "Z", &process::id().to_string());
                let _ = parent.spawn("newborn", || ());
            });
            confine::no_new_privs();
            confine::filter(&kill_thread(libc::SYS_rt_tgsigqueueinfo));
            let _ = stage.count();
        },
    ),
    Case::new(
        "target-killed-summoning",
        "50 targets that a filter kills as they pass the signal on",
        &[Ok],
        |stage| {
            let crew = stage.crew_that(is_level);
            let round = |_| {
                let mut doomed = false;
                stage.busy("doomed", move || {
                    if mem::replace(&mut doomed, true) {
                        thread::park();
                    } else {
                        confine::no_new_privs();
                        confine::filter(&kill_thread(libc::SYS_rt_tgsigqueueinfo));
                    }
                });
                stage.count()
            };
            stage.conclude((0..50).map(round).collect(), crew.strays());
        },
    ),
    Case::new(
        "register-in-round",
        "an unregistered thread calls while another's round is on",
        &[Clean("Busy", "another broadcast")],
        |stage| {
            let (tell, told) = mpsc::channel();
            thread::spawn(move || {
                psx::thread::adopt().expect("a place in the registry");
                raw::block_every_signal();
                tell.send(raw::tid()).expect("main waits");
                loop {
                    thread::park();
                }
            });
            let deaf = told.recv().expect("the id of a thread");
            thread::spawn(|| {
                let patient = Broadcast::new().timeout(Duration::from_secs(8));
                // SAFETY: nothing is done.
                let _ = unsafe { patient.run(|| Result::Ok(0)) };
            });
            await_33(deaf);
            stage.change_soon();
        },
    ),
];

/// Has another thread register and die in its call, and waits for its end.
fn await_dead_caller() {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        psx::thread::adopt().expect("a place in the registry");
        tell.send(raw::tid()).expect("main waits");
        die_in_call(Coverage::Registered);
    });
    await_end(told.recv().expect("the caller's id"));
}

/// A filter that kills the thread that makes this call, and no other.
fn kill_thread(nr: i64) -> Vec<sock_filter> {
    const KILL: sock_filter = step(libc::BPF_RET, libc::SECCOMP_RET_KILL_THREAD, 0, 0);
    vec![load(0), if_equal(nr as u32), KILL, ALLOW]
}

/// Broadcasts a call that kills the calling thread.
fn die_in_call(coverage: Coverage) {
    confine::no_new_privs();
    confine::filter(&kill_thread(libc::SYS_getpgid));
    let broadcast = Broadcast::new().coverage(coverage);
    // SAFETY: the call only reads.
    let _ = unsafe { broadcast.syscall(libc::SYS_getpgid, [0; 6]) };
    unreachable!("the thread has been killed");
}

/// Waits until a thread of this process is dead.
pub(crate) fn await_end(tid: u32) {
    while procfs::tids(process::id()).contains(&tid) {
        thread::yield_now();
    }
}
