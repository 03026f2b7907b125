//! Forks, commands and execs while rounds run (P5).

use std::ffi::{c_int, c_void};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;
use std::{env, hint, ptr, thread as std_thread};

use psx::{Coverage, thread};
use psx_test_support::process::fork_and_wait;
use psx_test_support::raw::slack;
use psx_test_support::signal::handle;
use psx_test_support::threads::breathe;
use psx_test_support::{Case, Line};

use crate::kernel::{STRICT, broadcast_slack};

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
        let status = fork_and_wait(|| in_the_child(i).err().unwrap_or(0));
        assert!(status.success(), "child {i}: {status}");
    }
}

/// Neither panics nor prints: another thread of the parent may have held the locks for these. The exit
/// status is the step that failed. The libc and std keep allocation and thread starts usable here.
fn in_the_child(i: usize) -> Result<(), i32> {
    let alone = broadcast_slack(STRICT, 1000 + i).map_err(|_| 1)?;
    (alone == 1 && slack() == 1000 + i).then_some(()).ok_or(2)?;
    let hold = Barrier::new(2);
    thread::scope(|scope| {
        let second = thread::Builder::new()
            .spawn_scoped(scope, || {
                hold.wait();
                slack()
            })
            .map_err(|_| 3)?;
        let both = broadcast_slack(STRICT, 2000 + i);
        hold.wait();
        let both = both.map_err(|_| 4)?;
        (both == 2).then_some(()).ok_or(5)?;
        (second.join().map_err(|_| 6)? == 2000 + i).then_some(()).ok_or(7)
    })
}

/// A program of one thread forks in a loop, and in the handler of a timer that interrupts it at any point,
/// also in the hooks around a fork.
fn in_the_handler_of_a_timer(_: &Line) {
    extern "C" fn on_alarm(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
        fork_and_wait(|| 0);
    }
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    const NEVER: libc::timeval = libc::timeval { tv_sec: 0, tv_usec: 0 };
    const OUTER: usize = 4000;
    /// About how long a fork takes, in microseconds.
    const LONGEST: usize = 500;

    thread::adopt().unwrap();
    // It forks and waits, which glibc and musl allow in a program of one thread.
    handle(libc::SIGALRM, libc::SA_RESTART, on_alarm);
    for i in 0..OUTER {
        // Once for each fork, so that the program makes progress however slow its forks are.
        let after = libc::timeval { tv_sec: 0, tv_usec: 1 + (i % LONGEST) as libc::suseconds_t };
        let timer = libc::itimerval { it_interval: NEVER, it_value: after };
        // SAFETY: a timer that outlives the call; the earlier one is not asked for.
        assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()) }, 0);
        fork_and_wait(|| 0);
        while HANDLED.load(Ordering::Relaxed) == i {
            hint::spin_loop();
        }
    }
    assert_eq!(broadcast_slack(STRICT, 1), Ok(1));
}

/// `Command` starts its child by vfork and exec, so its thread cannot stop until the exec. Three rounds
/// begin with each command: rounds without a pause would leave it next to no time.
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

/// The program replaces itself, alternately from its main thread and from another, while two threads
/// broadcast. A pending signal 33 that survived the exec would kill it.
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
