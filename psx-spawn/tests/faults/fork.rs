//! Processes that are born while rounds run.

use std::io;
use std::process::Command;

use psx::Error;

use crate::case::Case;
use crate::case::Expected::Ok;
use crate::raw;
use crate::stage::{Stage, is_level, start_count};

pub(crate) const CASES: &[Case] = &[
    Case::new("fork", "fork storm, a call in each child", &[Ok], |stage| {
        storm(stage, 200, |stage| {
            // SAFETY: the child goes on with psx, which is what is tried, and ends by _exit.
            match unsafe { libc::fork() } {
                -1 => panic!("fork: {}", io::Error::last_os_error()),
                0 => in_child(stage),
                child => assert_eq!(exit_code(child), 0, "a call in a forked child"),
            }
        });
    })
    .seconds(60),
    Case::new("command", "Command::spawn storm", &[Ok], |stage| {
        storm(stage, 100, |_| {
            let status = Command::new("/bin/true").status().expect("/bin/true");
            assert!(status.success(), "{status}");
        });
    })
    .seconds(60),
];

/// Two threads do `birth` so many times each, while main calls without a pause.
fn storm(stage: &Stage, births: usize, birth: fn(&Stage)) {
    let crew = stage.crew_that(is_level);
    let parents: Vec<_> = (0..2)
        .map(|_| {
            let stage = stage.clone();
            stage.clone().spawn("parent", move || (0..births).for_each(|_| birth(&stage)))
        })
        .collect();
    let counted = stage.count_to(500);
    parents.into_iter().for_each(|join| join());
    stage.conclude(counted, crew.strays());
}

/// A call in a process of one thread, then one in a process of two, each counted by the kernel.
fn in_child(stage: &Stage) -> ! {
    let calls = || -> Result<bool, Error> {
        let before = raw::counted();
        // The fork may have come between a call's end and its count.
        start_count();
        stage.count()?;
        let crew = stage.crew_of(1, is_level);
        stage.count()?;
        Result::Ok(raw::counted() == before + 2 && crew.strays() == 0)
    };
    let code = match calls() {
        Result::Ok(true) => 0,
        Result::Ok(false) => 2,
        Err(error) => {
            eprintln!("in a forked child: {error}");
            1
        }
    };
    // SAFETY: _exit(2) ends the process and has no other precondition.
    unsafe { libc::_exit(code) }
}

fn exit_code(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    while unsafe { libc::waitpid(child, &mut status, 0) } != child {
        assert_eq!(raw::errno(), libc::EINTR, "waitpid");
    }
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}
