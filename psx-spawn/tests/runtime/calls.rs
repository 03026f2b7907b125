//! What a broadcast returns, which threads it changes, and what it refuses (P1, P2, P3, P6, P9).

use std::ffi::CString;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::time::Duration;
use std::{hint, process, ptr, slice};

use psx::{Divergence, Errno, Error, Outcome, thread};
use psx_test_support::{Case, Ending, Line, procfs};

use psx_test_support::raw::{slack, syscall};
use psx_test_support::signal::set_mask;
use psx_test_support::threads::{start_idlers, tid};

use crate::kernel::{
    STRICT, broadcast_name, broadcast_no_new_privs, broadcast_slack, prctl_on_all, refuse_here,
};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("calls::value_is_the_callers", value_is_the_callers),
        Case::new("calls::six_arguments_arrive", six_arguments_arrive),
        Case::new("calls::every_thread_changes", every_thread_changes).check(|child| {
            child.inspect("before", |child| {
                assert_eq!(child.tasks().len(), 5);
                child.assert_all("NoNewPrivs", "0");
            });
            child.inspect("after", |child| child.assert_all("NoNewPrivs", "1"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("calls::pause_is_kept", pause_is_kept),
        Case::new("calls::malformed_capget_is_made_once", malformed_capget),
        Case::new("calls::refused_on_the_caller_alone", refused_on_the_caller_alone).check(
            |child| {
                child.inspect("refused", |child| child.assert_all("Name", "before"));
                assert_eq!(child.end(), Ending::Exited(0));
            },
        ),
        Case::new("calls::refused_on_another_thread", refused_on_another_thread).check(|child| {
            child.inspect("reported", |child| {
                for task in child.tasks() {
                    let name = if task.tid == child.pid() { "before" } else { "after" };
                    assert_eq!(task.name(), name);
                }
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("calls::divergence_ends_the_process", |line| {
            start_idlers(3);
            line.pause("before");
            // SAFETY: the call only reads.
            let _ = unsafe { psx::syscall3(libc::SYS_gettid, 0, 0, 0) };
        })
        .check(|child| {
            let mut tids = Vec::new();
            child.inspect("before", |child| {
                tids.extend(
                    child.tasks().iter().map(|task| task.tid).filter(|&tid| tid != child.pid()),
                );
            });
            assert_eq!(child.end(), Ending::Killed(libc::SIGABRT));
            let message = child.output();
            assert_eq!(tids.len(), 3);
            for name in tids.iter().map(u32::to_string).chain([libc::SYS_gettid.to_string()]) {
                assert!(message.contains(&name), "no {name} in {message:?}");
            }
        }),
        Case::new("calls::divergence_of_many_ends_the_process", |_| {
            start_idlers(20);
            // SAFETY: the call only reads.
            let _ = unsafe { psx::syscall3(libc::SYS_gettid, 0, 0, 0) };
        })
        .check(|child| {
            assert_eq!(child.end(), Ending::Killed(libc::SIGABRT));
            let message = child.output();
            // Sixteen are named, so that the message fits into a pipe that no process reads.
            assert_eq!(message.matches("psx:   thread ").count(), 16, "{message}");
            assert!(message.contains("psx:   and 4 more\n"), "{message}");
        }),
        Case::new("calls::divergence_is_reported", divergence_is_reported),
        Case::new("calls::unknown_number", |_| {
            start_idlers(2);
            // SAFETY: the kernel has no such call.
            let refused = unsafe { psx::syscall3(100_000, 0, 0, 0) };
            assert_eq!(refused, Err(Error::Os(Errno::from_raw(libc::ENOSYS))));
        }),
        Case::new("calls::zero_timeout_changes_nothing", zero_timeout).check(|child| {
            child.inspect("refused", |child| child.assert_all("NoNewPrivs", "0"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("calls::broadcast_inside_a_broadcast", broadcast_inside_a_broadcast),
        Case::new("calls::four_callers", four_callers).limit(Duration::from_secs(60)).check(
            |child| {
                for _ in 0..PHASES {
                    child.inspect("paused", |child| {
                        let tasks = child.tasks();
                        assert_eq!(tasks.len(), CALLERS + 1);
                        child.assert_all("Name", tasks[0].name());
                    });
                }
                assert_eq!(child.end(), Ending::Exited(0));
            },
        ),
    ]
}

fn value_is_the_callers(_: &Line) {
    start_idlers(3);
    let pid = process::id() as usize;
    // SAFETY: the call only reads.
    unsafe {
        assert_eq!(psx::syscall3(libc::SYS_getpid, 0, 0, 0), Ok(pid));
        assert_eq!(psx::syscall6(libc::SYS_getpid, 0, 0, 0, 0, 0, 0), Ok(pid));
        let report = STRICT.syscall(libc::SYS_getpid, [0; 6]).unwrap();
        assert_eq!((report.value(), report.threads()), (pid, 4));
        assert!(report.is_unanimous());
    }
}

/// Maps the second page of a file, whose place in the file is the sixth argument.
fn six_arguments_arrive(_: &Line) {
    const PAGE: usize = 64 * 1024; // the largest page size in use
    start_idlers(2);
    // SAFETY: a file of two pages, and a mapping of one that nothing else uses and that the broadcast
    // replaces on every thread in turn.
    unsafe {
        let file = libc::memfd_create(c"pages".as_ptr(), 0);
        assert_eq!(libc::ftruncate(file, 2 * PAGE as i64), 0);
        assert_eq!(libc::pwrite(file, c"second".as_ptr().cast(), 6, PAGE as i64), 6);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap(ptr::null_mut(), PAGE, libc::PROT_NONE, flags, -1, 0);
        let mapped = psx::syscall6(
            libc::SYS_mmap,
            page as usize,
            PAGE,
            libc::PROT_READ as usize,
            (libc::MAP_PRIVATE | libc::MAP_FIXED) as usize,
            file as usize,
            PAGE,
        );
        assert_eq!(mapped, Ok(page as usize));
        assert_eq!(slice::from_raw_parts(page.cast::<u8>(), 6), b"second");
    }
}

fn every_thread_changes(line: &Line) {
    start_idlers(2);
    thread::Builder::new()
        .name("busy".into())
        .spawn(|| {
            loop {
                hint::spin_loop()
            }
        })
        .unwrap();
    let end = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| end.wait());
        line.pause("before");
        assert_eq!(broadcast_no_new_privs(STRICT), Ok(5));
        line.pause("after");
        end.wait();
    });
}

/// A thread that blocks its signal does not keep the others stopped until the timeout. When it has taken the
/// signal, a broadcast succeeds.
fn pause_is_kept(_: &Line) {
    const TIMEOUT: Duration = Duration::from_millis(500);
    const PAUSE: Duration = Duration::from_millis(2);
    let broadcast = STRICT.timeout(TIMEOUT).pause(PAUSE);
    let (unblock, unblocks) = mpsc::channel::<()>();
    let (blocked, is_blocked) = mpsc::channel();
    let blocker = thread::spawn(move || {
        set_mask(!0);
        blocked.send(()).unwrap();
        unblocks.recv().unwrap();
        set_mask(0);
    });
    is_blocked.recv().unwrap();
    for _ in 0..2 {
        match broadcast_slack(broadcast, 1) {
            Err(Error::Unreachable(late)) => {
                assert_eq!(late.len(), 1, "{late}");
                let stops = late.stops();
                assert!(stops.attempts() > 0 && stops.longest() >= PAUSE, "{stops}");
                assert!(stops.total() < TIMEOUT / 2, "{stops}");
            }
            other => panic!("{other:?}"),
        }
    }
    unblock.send(()).unwrap();
    let report = prctl_on_all(STRICT, libc::PR_SET_TIMERSLACK, 2).unwrap();
    let stops = report.stops();
    assert_eq!(stops.attempts(), report.attempts());
    assert!(stops.longest() <= stops.total() && stops.total() == report.stopped(), "{stops}");
    blocker.join().unwrap();
}

fn malformed_capget(_: &Line) {
    start_idlers(4);
    let bad_address = 1;
    let efault = Error::Os(Errno::from_raw(libc::EFAULT));
    let calls = AtomicUsize::new(0);
    // SAFETY: the kernel refuses the address; the closure only counts.
    unsafe {
        let counted = STRICT.run(|| {
            calls.fetch_add(1, Ordering::Relaxed);
            syscall(libc::SYS_capget, [bad_address, 0, 0, 0, 0, 0])
        });
        assert_eq!(counted.unwrap_err(), efault);
        assert_eq!(psx::syscall3(libc::SYS_capget, bad_address, 0, 0), Err(efault));
    }
    assert_eq!(calls.into_inner(), 1);
}

fn refused_on_the_caller_alone(line: &Line) {
    start_idlers(3);
    broadcast_name(STRICT, c"before").unwrap();
    refuse_here(libc::SYS_prctl);
    let refused = broadcast_name(STRICT, c"after").unwrap_err();
    assert_eq!(refused, Error::Os(Errno::from_raw(libc::EPERM)));
    line.pause("refused");
}

fn refused_on_another_thread(line: &Line) {
    start_idlers(3);
    broadcast_name(STRICT, c"before").unwrap();
    let (go, waits) = mpsc::channel();
    let caller = thread::spawn(move || {
        waits.recv().unwrap();
        let lenient = STRICT.divergence(Divergence::Report);
        prctl_on_all(lenient, libc::PR_SET_NAME, c"after".as_ptr() as usize).unwrap()
    });
    refuse_here(libc::SYS_prctl);
    go.send(()).unwrap();
    let report = caller.join().unwrap();
    assert_eq!((report.value(), report.threads()), (0, 5));
    let [divergent] = report.divergent() else { panic!("{report:?}") };
    assert_eq!(divergent.thread().tid(), tid());
    assert_eq!(divergent.outcome(), Outcome::Failed(Errno::from_raw(libc::EPERM)));
    line.pause("reported");
}

fn divergence_is_reported(_: &Line) {
    start_idlers(3);
    let lenient = STRICT.divergence(Divergence::Report);
    // SAFETY: the call only reads.
    let report = unsafe { lenient.syscall(libc::SYS_gettid, [0; 6]).unwrap() };
    assert_eq!(report.value(), tid() as usize);
    let mut reported: Vec<_> = report.divergent().iter().map(|d| d.thread().tid()).collect();
    reported.sort_unstable();
    let mut others = procfs::tids(process::id());
    others.retain(|&other| other != tid());
    assert_eq!(reported, others);
    let tasks = procfs::tasks(process::id());
    for divergent in report.divergent() {
        let thread = divergent.thread();
        assert_eq!(divergent.outcome(), Outcome::Returned(thread.tid() as usize));
        assert!(tasks.iter().any(|task| (task.tid, task.name()) == (thread.tid(), thread.name())));
    }
}

fn zero_timeout(line: &Line) {
    start_idlers(2);
    let refused = broadcast_no_new_privs(STRICT.timeout(Duration::ZERO)).unwrap_err();
    assert_eq!(refused, Error::ZeroTimeout);
    assert!(refused.to_string().contains("timeout"), "{refused}");
    line.pause("refused");
}

fn broadcast_inside_a_broadcast(_: &Line) {
    const THREADS: usize = 4;
    start_idlers(THREADS - 1);
    let refused = AtomicUsize::new(0);
    // SAFETY: the closure counts and makes a broadcast, which is refused before it does anything.
    let report = unsafe {
        STRICT.run(|| {
            if matches!(broadcast_slack(STRICT, 1), Err(Error::Reentrant)) {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            Ok(0)
        })
    };
    assert_eq!(report.unwrap().threads(), THREADS);
    assert_eq!(refused.into_inner(), THREADS);
    assert_ne!(slack(), 1);
    // The refused ones leave nothing behind.
    broadcast_slack(STRICT, 2).unwrap();
    assert_eq!(slack(), 2);
}

const CALLERS: usize = 4;
const PHASES: usize = 10;
const ROUNDS_IN_PHASE: usize = 50;

/// Each caller broadcasts another name; whenever they pause, all threads have the same one.
fn four_callers(line: &Line) {
    // Reached when all have started, and twice for each pause.
    let meet = Barrier::new(CALLERS + 1);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let meet = &meet;
            scope.spawn(move || {
                let name = CString::new(format!("caller-{caller}")).unwrap();
                meet.wait();
                for _ in 0..PHASES {
                    for _ in 0..ROUNDS_IN_PHASE {
                        assert_eq!(broadcast_name(STRICT, &name), Ok(CALLERS + 1));
                    }
                    meet.wait();
                    meet.wait();
                }
            });
        }
        meet.wait();
        for _ in 0..PHASES {
            meet.wait();
            line.pause("paused");
            meet.wait();
        }
    });
}
