//! Landlock and seccomp: each thread finds itself inside.

use std::fs;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use psx::privileges::{ApplyError, Cause, LandlockFlags, Step};
use psx::{Broadcast, CapabilitySets, Divergence, Errno, Outcome, Privileges};

use crate::kernel::{Teller, landlock, refuse_here, refusing, ruleset, start_named};
use crate::support::{Case, Ending, root};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("sandbox::landlock_on_every_thread", |_| {
            let tellers: Vec<_> = (0..3).map(|_| Teller::start(look)).collect();
            let see = || tellers.iter().map(Teller::tell).chain([look()]);
            assert!(see().all(|seen| seen == [None; 3]));
            let ruleset = ruleset(true);
            let step = Privileges::new().no_new_privs();
            step.landlock(ruleset, LandlockFlags::NONE).apply().unwrap();
            let denied = Some(libc::EACCES);
            assert!(see().all(|seen| seen == [denied, denied, None]));
            // /proc is denied, and the next round goes through all the same.
            Privileges::new().capabilities(CapabilitySets::empty()).apply().unwrap();
        })
        .needs(landlock),
        // A file of the same number in a descriptor table of its own is not the batch's ruleset.
        Case::new("sandbox::landlock_with_a_table_of_its_own", |line| {
            static NUMBER: AtomicI32 = AtomicI32::new(-1);
            let other = Teller::start(|| {
                match NUMBER.swap(-2, Ordering::Relaxed) {
                    -2 => {}
                    // SAFETY: a flag.
                    -1 => assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0),
                    number => {
                        // Perhaps the number already.
                        let own = ruleset(true).into_raw_fd();
                        // SAFETY: in this thread's table nothing else uses the number.
                        assert_eq!(unsafe { libc::dup2(own, number) }, number);
                    }
                }
                look()
            });
            other.tell();
            let ruleset = ruleset(false);
            NUMBER.store(ruleset.as_raw_fd(), Ordering::Relaxed);
            other.tell();
            let batch = Privileges::new().no_new_privs().landlock(ruleset, LandlockFlags::NONE);
            let lenient = Broadcast::new().divergence(Divergence::Report);
            let report = batch.apply_with(lenient).unwrap();
            let [divergent] = report.divergent() else { panic!("{report:?}") };
            let refused = Outcome::Failed(Errno::from_raw(libc::EBADF));
            assert_eq!(divergent.outcome(), refused);
            assert_eq!((look(), other.tell()), ([Some(libc::EACCES); 3], [None; 3]));
            line.show("told");
        })
        .needs(|| landlock().and_then(|()| restricts_in_the_round()))
        .judge(|child| {
            child.inspect("told", |child| child.assert_all("NoNewPrivs", "1"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("sandbox::seccomp_on_every_thread", |line| {
            let tellers: Vec<_> = (0..3).map(|_| Teller::start(process_group)).collect();
            let filter = refusing(libc::SYS_getpgid, libc::EOWNERDEAD);
            let step = Privileges::new().no_new_privs().seccomp(&filter);
            step.apply().unwrap();
            step.verify().unwrap();
            let refused = Err(libc::EOWNERDEAD);
            assert!(tellers.iter().all(|teller| teller.tell() == refused));
            assert_eq!(process_group(), refused);
            // Installed once for all, so that a second one fits.
            step.apply().unwrap();
            line.show("twice");
        })
        .judge(|child| {
            child.inspect("twice", |child| {
                child.assert_all("NoNewPrivs", "1");
                child.assert_all("Seccomp_filters", "2");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        // Foreseen, by the number of its filters.
        Case::new("sandbox::seccomp_names_who_has_more", |line| {
            expect_unsynced(|| (), &[]);
            line.show("refused");
        })
        .needs(root)
        .judge(|child| child.inspect("refused", |child| child.assert_all("NoNewPrivs", "0"))),
        // Told by the kernel, since the numbers agree.
        Case::new("sandbox::seccomp_names_who_has_another", |line| {
            expect_unsynced(|| refuse_here(libc::SYS_getpgid), &[Step::NoNewPrivs]);
            line.show("refused");
        })
        .needs(root)
        .judge(|child| {
            child.inspect("refused", |child| {
                child.assert_all("NoNewPrivs", "1");
                child.assert_all("Seccomp_filters", "1");
            });
        }),
    ]
}

/// For `Case::needs`.
fn restricts_in_the_round() -> Result<(), String> {
    // SAFETY: numbers only; asked for its version, the first call makes nothing, and the second only reads.
    let (abi, compared) = unsafe {
        let own = libc::gettid();
        (
            libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1),
            libc::syscall(libc::SYS_kcmp, own, own, 0, 0, 0),
        )
    };
    if abi >= 8 || compared != 0 {
        return Err("needs Landlock below ABI 8, and kcmp".into());
    }
    Ok(())
}

/// A filter for all threads, one of which has one of its own; what the caller does before it.
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

/// How the kernel denies a file, a folder and what is allowed.
fn look() -> [Option<i32>; 3] {
    let error = |result: std::io::Result<()>| result.err().and_then(|e| e.raw_os_error());
    [
        error(fs::read("/etc/passwd").map(drop)),
        error(fs::read_dir("/proc/self/task").map(drop)),
        error(fs::read_dir("/usr").map(drop)),
    ]
}

fn process_group() -> Result<i64, i32> {
    // SAFETY: the call only reads.
    match unsafe { libc::syscall(libc::SYS_getpgid, 0) } {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
        id => Ok(id),
    }
}
