//! Landlock and seccomp confine every thread.

use std::fs;
use std::os::fd::{AsRawFd, IntoRawFd};

use psx::privileges::{ApplyError, Cause, LandlockFlags, Step};
use psx::{Broadcast, CapabilitySets, Divergence, Errno, Outcome, Privileges};
use psx_test_support::landlock::{self, deny_reading};
use psx_test_support::raw::{must, syscall};
use psx_test_support::seccomp::refuse_here;
use psx_test_support::threads::{start_named, tid};
use psx_test_support::{Case, Ending, Probe, root};

use crate::kernel::refusing;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("sandbox::landlock_on_every_thread", |_| {
            let probes: Vec<_> = (0..3).map(|_| Probe::start()).collect();
            let see = || probes.iter().map(|probe| probe.ask(look)).chain([look()]);
            assert!(see().all(|seen| seen == [None; 3]));
            let ruleset = deny_reading(true);
            let step = Privileges::new().no_new_privs();
            step.landlock(ruleset, LandlockFlags::NONE).apply().unwrap();
            let denied = Some(libc::EACCES);
            assert!(see().all(|seen| seen == [denied, denied, None]));
            // /proc is denied, and the next round succeeds nevertheless.
            Privileges::new().capabilities(CapabilitySets::empty()).apply().unwrap();
        })
        .needs(landlock::available),
        // The same number in another descriptor table is not the batch's ruleset.
        Case::new("sandbox::landlock_with_another_table", |line| {
            let other = Probe::start();
            other.ask(|| must(libc::SYS_unshare, [libc::CLONE_FILES as usize, 0, 0, 0, 0, 0]));
            let ruleset = deny_reading(false);
            let number = ruleset.as_raw_fd();
            other.ask(move || {
                // Perhaps the same number already.
                let another = deny_reading(true).into_raw_fd();
                // SAFETY: in this thread's table nothing else uses the number.
                assert_eq!(unsafe { libc::dup2(another, number) }, number);
            });
            let batch = Privileges::new().no_new_privs().landlock(ruleset, LandlockFlags::NONE);
            let lenient = Broadcast::new().divergence(Divergence::Report);
            let report = batch.apply_with(lenient).unwrap();
            let [divergent] = report.divergent() else { panic!("{report:?}") };
            let refused = Outcome::Failed(Errno::from_raw(libc::EBADF));
            assert_eq!(divergent.outcome(), refused);
            assert_eq!((look(), other.ask(look)), ([Some(libc::EACCES); 3], [None; 3]));
            line.pause("reported");
        })
        .needs(|| landlock::available().and_then(|()| restricts_in_the_round()))
        .check(|child| {
            child.inspect("reported", |child| child.assert_all("NoNewPrivs", "1"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("sandbox::seccomp_on_every_thread", |line| {
            let probes: Vec<_> = (0..3).map(|_| Probe::start()).collect();
            let filter = refusing(libc::SYS_getpgid, libc::EOWNERDEAD);
            let step = Privileges::new().no_new_privs().seccomp(&filter);
            step.apply().unwrap();
            step.verify().unwrap();
            let refused = Err(libc::EOWNERDEAD);
            assert!(probes.iter().all(|probe| probe.ask(process_group) == refused));
            assert_eq!(process_group(), refused);
            // All have the same filter, so that a second one can be added.
            step.apply().unwrap();
            line.pause("twice");
        })
        .check(|child| {
            child.inspect("twice", |child| {
                child.assert_all("NoNewPrivs", "1");
                child.assert_all("Seccomp_filters", "2");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // Refused before the round, by the number of its filters.
        Case::new("sandbox::seccomp_names_the_thread_with_more", |line| {
            expect_unsynced(|| (), &[]);
            line.pause("refused");
        })
        .needs(root)
        .check(|child| child.inspect("refused", |child| child.assert_all("NoNewPrivs", "0"))),
        // The kernel refuses it: the numbers agree.
        Case::new("sandbox::seccomp_names_the_thread_with_another", |line| {
            expect_unsynced(|| refuse_here(libc::SYS_getpgid), &[Step::NoNewPrivs]);
            line.pause("refused");
        })
        .needs(root)
        .check(|child| {
            child.inspect("refused", |child| {
                child.assert_all("NoNewPrivs", "1");
                child.assert_all("Seccomp_filters", "1");
            });
        }),
    ]
}

/// For `Case::needs`.
fn restricts_in_the_round() -> Result<(), String> {
    let own = tid();
    // SAFETY: the call only reads.
    let compared = unsafe { libc::syscall(libc::SYS_kcmp, own, own, 0, 0, 0) };
    if landlock::version() >= 8 || compared != 0 {
        return Err("needs Landlock below ABI 8, and kcmp".into());
    }
    Ok(())
}

/// A filter for all threads, one of which has another already; `before` is what the caller does first.
fn expect_unsynced(before: fn(), made: &[Step]) {
    start_named("differs", || refuse_here(libc::SYS_getpgid));
    before();
    let filter = refusing(libc::SYS_getpgid, libc::EPERM);
    let error = Privileges::new().no_new_privs().seccomp(&filter).apply().unwrap_err();
    println!("{error}");
    let ApplyError::Step(error) = error else {
        panic!("{error:?}");
    };
    assert_eq!((error.failed(), error.completed()), (Step::Seccomp, made));
    let Cause::Unsynced(thread) = error.cause() else {
        panic!("{error:?}");
    };
    assert_eq!(thread.name(), "differs");
}

/// The errors for a file, a folder and a folder that is allowed.
fn look() -> [Option<i32>; 3] {
    let error = |result: std::io::Result<()>| result.err().and_then(|e| e.raw_os_error());
    [
        error(fs::read("/etc/passwd").map(drop)),
        error(fs::read_dir("/proc/self/task").map(drop)),
        error(fs::read_dir("/usr").map(drop)),
    ]
}

fn process_group() -> Result<usize, i32> {
    // SAFETY: the call only reads.
    unsafe { syscall(libc::SYS_getpgid, [0; 6]) }.map_err(Errno::raw)
}
