//! Processes that are made while rounds run.

use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread as std_thread;
use std::time::Duration;

use psx::{Coverage, thread};

use crate::kernel::{STRICT, broadcast_slack, slack};
use crate::support::{Case, Line};

const FORKS: usize = 100;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "fork::each_child_makes_its_own_round",
            each_child_makes_its_own_round,
        )
        .limit(Duration::from_secs(60)),
        Case::new("fork::commands_in_a_loop", commands_in_a_loop).limit(Duration::from_secs(60)),
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
        (grown.join().map_err(|_| 6)? == 2000 + i)
            .then_some(())
            .ok_or(7)
    })
}

/// `Command` starts its child by vfork and exec, so its thread cannot stop until the exec.
fn commands_in_a_loop(_: &Line) {
    let (done, end) = (AtomicBool::new(false), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                let status = Command::new("true").stdin(Stdio::null()).status().unwrap();
                assert!(status.success(), "{status}");
            }
            done.store(true, Ordering::Relaxed);
            end.wait();
        });
        let mut rounds = 0;
        while !done.load(Ordering::Relaxed) {
            rounds += 1;
            assert_eq!(broadcast_slack(STRICT, rounds), Ok(2));
        }
        assert!(rounds > 1, "no round while a command was started");
        end.wait();
    });
}
