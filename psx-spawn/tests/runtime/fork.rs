//! Processes that are made, and programs that are replaced, while rounds run.

use std::ffi::c_int;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;
use std::{env, hint, ptr, thread as std_thread};

use psx::{Coverage, thread};

use crate::kernel::{STRICT, breathe, broadcast_slack, slack};
use crate::support::{Case, Line};

const FORKS: usize = 100;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("fork::each_child_makes_its_own_round", each_child_makes_its_own_round)
            .limit(Duration::from_secs(60)),
        Case::new("fork::commands_in_a_loop", commands_in_a_loop).limit(Duration::from_secs(60)),
        Case::new("fork::in_the_handler_of_a_timer", in_the_handler_of_a_timer)
            .limit(Duration::from_secs(60)),
        Case::new("fork::exec_in_a_loop", exec_in_a_loop).limit(Duration::from_secs(60)),
    ]
}

/// Two threads fork, one registered and one not, while two others broadcast.
fn each_child_makes_its_own_round(_: &Line) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    broadcast_slack(STRICT.coverage(Coverage::Registered), 1).unwrap();
                    breathe();
                }
            });
        }
        let forkers = [thread::spawn(fork_many), std_thread::spawn(fork_many)];
        for forker in forkers {
            forker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

fn fork_many() {
    for i in 0..FORKS {
        // SAFETY: the child goes on as the thread that forked, in code that the libc and std keep
        // usable there (spawning and allocating), and ends by _exit.
        match unsafe { libc::fork() } {
            // SAFETY: as above.
            0 => unsafe { libc::_exit(in_the_child(i).err().unwrap_or(0)) },
            child => {
                let mut status = 0;
                // SAFETY: a place for the status.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0, "wait status of child {i}");
            }
        }
    }
}

/// No panics and no prints here: another thread of the parent may have held what these lock. The
/// exit status says which step failed.
fn in_the_child(i: usize) -> Result<(), i32> {
    let alone = broadcast_slack(STRICT, 1000 + i).map_err(|_| 1)?;
    (alone == 1 && slack() == 1000 + i).then_some(()).ok_or(2)?;
    let hold = Barrier::new(2);
    thread::scope(|scope| {
        let grown = thread::Builder::new()
            .spawn_scoped(scope, || {
                hold.wait();
                slack()
            })
            .map_err(|_| 3)?;
        let both = broadcast_slack(STRICT, 2000 + i);
        hold.wait();
        let both = both.map_err(|_| 4)?;
        (both == 2).then_some(()).ok_or(5)?;
        (grown.join().map_err(|_| 6)? == 2000 + i).then_some(()).ok_or(7)
    })
}

/// A program of one thread forks in a loop, and in the handler of a timer that interrupts that: at any
/// place, in the hooks around a fork too.
fn in_the_handler_of_a_timer(_: &Line) {
    extern "C" fn on_alarm(_: c_int) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
        fork_once();
    }
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    const NEVER: libc::timeval = libc::timeval { tv_sec: 0, tv_usec: 0 };
    const OUTER: usize = 4000;
    /// About how long a fork takes, in microseconds.
    const LONGEST: usize = 500;

    thread::adopt().unwrap();
    // SAFETY: the handler forks and waits, which glibc and musl allow in a program of one thread.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_alarm as extern "C" fn(c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGALRM, &action, ptr::null_mut()), 0);
    }
    for i in 0..OUTER {
        // Once for each fork, so that the program gets on however slow its forks are.
        let after = libc::timeval { tv_sec: 0, tv_usec: 1 + (i % LONGEST) as libc::suseconds_t };
        let timer = libc::itimerval { it_interval: NEVER, it_value: after };
        // SAFETY: the timer is ours to read, and no earlier one is asked for.
        assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()) }, 0);
        fork_once();
        while HANDLED.load(Ordering::Relaxed) == i {
            hint::spin_loop();
        }
    }
    assert_eq!(broadcast_slack(STRICT, 1), Ok(1));
}

/// Forks a child that only ends, and waits for it.
fn fork_once() {
    // SAFETY: the child only ends.
    match unsafe { libc::fork() } {
        // SAFETY: as above.
        0 => unsafe { libc::_exit(0) },
        child => {
            // SAFETY: no status is asked for.
            while unsafe { libc::waitpid(child, ptr::null_mut(), 0) } != child {}
        }
    }
}

/// `Command` starts its child by vfork and exec, so its thread cannot stop until the exec. Three
/// rounds begin with each command: rounds without pause would leave it next to no time.
fn commands_in_a_loop(_: &Line) {
    const COMMANDS: usize = 200;
    let (started, end) = (AtomicUsize::new(0), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..COMMANDS {
                started.fetch_add(1, Ordering::Release);
                let status = Command::new("true").stdin(Stdio::null()).status().unwrap();
                assert!(status.success(), "{status}");
            }
            end.wait();
        });
        for command in 1..=COMMANDS {
            while started.load(Ordering::Acquire) < command {
                thread::yield_now();
            }
            for round in 0..3 {
                assert_eq!(broadcast_slack(STRICT, 3 * command + round), Ok(2));
            }
        }
        end.wait();
    });
}

/// The program replaces itself, by turns from its main thread and from another, while two threads
/// broadcast. A summons that outlived the exec would kill it.
fn exec_in_a_loop(_: &Line) {
    const VARIABLE: &str = "PSX_TEST_PROGRAMS_BEFORE";
    let before: u32 = env::var(VARIABLE).map_or(0, |count| count.parse().unwrap());
    if before == 100 {
        return;
    }
    let rounds = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let rounds = Arc::clone(&rounds);
        thread::spawn(move || {
            loop {
                broadcast_slack(STRICT, 1).unwrap();
                rounds.fetch_add(1, Ordering::Relaxed);
                breathe();
            }
        });
    }
    let exec = move || {
        while rounds.load(Ordering::Relaxed) < 2 {
            hint::spin_loop();
        }
        let mut same = Command::new("/proc/self/exe");
        same.args(env::args_os().skip(1)).env(VARIABLE, (before + 1).to_string());
        panic!("{}", psx::process::exec(&mut same));
    };
    match before % 2 {
        0 => exec(),
        _ => thread::spawn(exec).join().unwrap(),
    }
}
