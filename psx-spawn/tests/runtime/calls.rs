//! What a broadcast returns, which threads it changes, and what it refuses (P1, P2, P3, P6).

use std::ffi::CString;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::Duration;
use std::{hint, iter, process, ptr, slice};

use psx::{Divergence, Errno, Error, Outcome, thread};
use psx_test_support::{Case, Ending, Line, procfs};

use psx_test_support::raw::{slack, syscall};
use psx_test_support::signal::{STOP_BIT, is_stop_pending, set_mask};
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
        Case::new("calls::timeout_is_kept_after_a_stop", timeout_is_kept_after_a_stop),
        Case::new("calls::lost_signal_is_sent_again", lost_signal_is_sent_again),
        Case::new("calls::one_signal_after_late_exits", one_signal_after_late_exits),
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

/// A thread that blocks its signal. The process is stopped in the broadcast, whose pause is longer than its
/// timeout.
fn timeout_is_kept_after_a_stop(_: &Line) {
    let stopper = format!("read go && kill -STOP {0}; sleep 0.4; kill -CONT {0}", process::id());
    let mut shell =
        Command::new("sh").arg("-c").arg(stopper).stdin(Stdio::piped()).spawn().unwrap();
    let mut go = shell.stdin.take().unwrap();
    let (blocked, is_blocked) = mpsc::channel();
    let (unblock, unblocks) = mpsc::channel::<()>();
    let blocker = thread::spawn(move || {
        set_mask(!0);
        blocked.send(()).unwrap();
        while !is_stop_pending() {
            hint::spin_loop();
        }
        go.write_all(b"\n").unwrap();
        let _ = unblocks.recv();
        set_mask(0);
    });
    is_blocked.recv().unwrap();
    let broadcast = STRICT.timeout(Duration::from_millis(300)).pause(Duration::MAX);
    match broadcast_slack(broadcast, 1) {
        Err(Error::Unreachable(late)) => assert_eq!(late.len(), 1, "{late}"),
        other => panic!("{other:?}"),
    }
    drop(unblock);
    blocker.join().unwrap();
    assert!(shell.wait().unwrap().success());
}

/// How many signals 33 are queued for the calling thread, which blocks it. Takes them from the queue.
fn take_signals() -> usize {
    let at_once = [0_i64; 2];
    let args = [ptr::from_ref(&STOP_BIT).addr(), 0, ptr::from_ref(&at_once).addr(), 8, 0, 0];
    // SAFETY: the set and the timeout outlive the call.
    iter::from_fn(|| unsafe { syscall(libc::SYS_rt_sigtimedwait, args) }.ok()).count()
}

/// A late thread takes its signal from the queue, past psx's handler. The next broadcast has a short timeout
/// and sends another.
fn lost_signal_is_sent_again(_: &Line) {
    const SHORT: Duration = Duration::from_millis(400);
    let (blocked, is_blocked) = mpsc::channel();
    let (take, takes) = mpsc::channel();
    let blocker = thread::spawn(move || {
        set_mask(!0);
        blocked.send(0).unwrap();
        takes.recv().unwrap();
        blocked.send(take_signals()).unwrap();
        set_mask(0);
        let _: Result<(), _> = takes.recv();
    });
    is_blocked.recv().unwrap();
    let result = broadcast_slack(STRICT.timeout(SHORT).pause(Duration::MAX), 1);
    assert!(matches!(result, Err(Error::Unreachable(_))), "{result:?}");
    take.send(()).unwrap();
    assert_eq!(is_blocked.recv(), Ok(1));
    // The first one may end before the loss is noticed.
    let results = [(); 3].map(|()| broadcast_slack(STRICT.timeout(SHORT), 2));
    assert!(results.iter().any(Result::is_ok), "{results:?}");
    drop(take);
    blocker.join().unwrap();
}

/// Threads that end without having taken their signals leave room for those of other threads: two
/// broadcasts queue one signal.
fn one_signal_after_late_exits(_: &Line) {
    const THREADS: usize = 48;
    let broadcast = STRICT.timeout(Duration::from_millis(20)).pause(Duration::from_millis(1));
    let late = |threads| {
        let (blocked, is_blocked) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let ends = Arc::new(Mutex::new(ends));
        let blocker = || {
            let (blocked, ends) = (blocked.clone(), Arc::clone(&ends));
            thread::spawn(move || {
                set_mask(!0);
                blocked.send(()).unwrap();
                let _ = ends.lock().unwrap().recv();
                take_signals()
            })
        };
        let blockers: Vec<_> = (0..threads).map(|_| blocker()).collect();
        (0..threads).for_each(|_| is_blocked.recv().unwrap());
        let mut late = 0;
        while late < 2 {
            match broadcast_slack(broadcast, 1) {
                Err(Error::Unreachable(_)) => late += 1,
                Err(Error::Busy) => {}
                other => panic!("{other:?}"),
            }
        }
        drop(end);
        let taken = blockers.into_iter().map(|blocker| blocker.join().unwrap());
        taken.collect::<Vec<_>>()
    };
    for _ in 0..6 {
        assert_eq!(late(THREADS), [1; THREADS]);
    }
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
