//! Threads that are late for a broadcast, and what later broadcasts do about their signals (P6, P9, P10).

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use std::{hint, iter, process, ptr};

use psx::{Error, NamedThread, thread};
use psx_test_support::process::exit_thread;
use psx_test_support::raw::syscall;
use psx_test_support::signal::{STOP_BIT, is_stop_pending, set_mask};
use psx_test_support::threads::tid;
use psx_test_support::{Case, Line, procfs};

use crate::kernel::{STRICT, broadcast_slack};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("late::timeout_is_kept_after_a_stop", timeout_is_kept_after_a_stop),
        Case::new("late::lost_signal_is_sent_again", lost_signal_is_sent_again),
        Case::new("late::one_signal_after_exits", one_signal_after_exits),
        Case::new("late::thread_ends", thread_ends),
        Case::new("late::one_signal_after_a_death", one_signal_after_a_death),
        Case::new("late::thread_registers", thread_registers).limit(Duration::from_secs(60)),
    ]
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
fn one_signal_after_exits(_: &Line) {
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

/// Of two threads that were late in two broadcasts, one ends by the system call `exit`. The next broadcast
/// names the other one.
fn thread_ends(_: &Line) {
    let broadcast = STRICT.timeout(Duration::from_millis(200)).pause(Duration::from_millis(1));
    let (blocked, is_blocked) = mpsc::channel();
    let blocker = || {
        let blocked = blocked.clone();
        let (end, ends) = mpsc::channel::<()>();
        thread::spawn(move || {
            set_mask(!0);
            blocked.send(tid()).unwrap();
            let _ = ends.recv();
            exit_thread()
        });
        (is_blocked.recv().unwrap(), end)
    };
    let ((first, end), (second, _keeps)) = (blocker(), blocker());
    let late = || {
        loop {
            match broadcast_slack(broadcast, 1) {
                Err(Error::Unreachable(late)) => {
                    break late.iter().map(NamedThread::tid).collect::<Vec<_>>();
                }
                Err(Error::Busy) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!([late().len(), late().len()], [2, 2]);
    drop(end);
    while procfs::tids(process::id()).contains(&first) {
        thread::yield_now();
    }
    assert_eq!(late(), [second]);
}

/// A thread ends after a broadcast has summoned it. That does not queue a second signal for a thread that was
/// late in an earlier broadcast.
fn one_signal_after_a_death(_: &Line) {
    const SHORT: Duration = Duration::from_millis(300);
    let (blocked, is_blocked) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let ready = blocked.clone();
    let late = thread::spawn(move || {
        set_mask(!0);
        ready.send(()).unwrap();
        let _ = ends.recv();
        take_signals()
    });
    is_blocked.recv().unwrap();
    let result = broadcast_slack(STRICT.timeout(SHORT).pause(Duration::MAX), 1);
    assert!(matches!(result, Err(Error::Unreachable(_))), "{result:?}");
    thread::spawn(move || {
        set_mask(!0);
        blocked.send(()).unwrap();
        while !is_stop_pending() {
            hint::spin_loop();
        }
        exit_thread()
    });
    is_blocked.recv().unwrap();
    let result = broadcast_slack(STRICT.timeout(SHORT).pause(Duration::MAX), 1);
    let Err(Error::Unreachable(threads)) = result else { panic!("{result:?}") };
    assert_eq!(threads.len(), 1, "{threads}");
    drop(end);
    assert_eq!(late.join().unwrap(), 1);
}

/// A broadcast that has missed an unregistered thread at first, and then waits for a late thread, names the
/// late one: the other has registered meanwhile. On a busy machine that may be too late for the broadcast.
fn thread_registers(_: &Line) {
    assert!((0..50).any(|_| names_the_late_thread()));
}

fn names_the_late_thread() -> bool {
    let (register, registers) = mpsc::channel::<()>();
    let (end, ends) = mpsc::channel::<()>();
    let unregistered = std::thread::spawn(move || {
        if registers.recv().is_ok() {
            psx::thread::adopt().unwrap();
        }
        let _ = registers.recv();
    });
    let (started, is_started) = mpsc::channel();
    let late = thread::spawn(move || {
        started.send(tid()).unwrap();
        // Interrupted by the first attempt, which misses the other thread.
        // SAFETY: no descriptors, no timeout and no mask.
        let interrupted = unsafe { libc::ppoll(ptr::null_mut(), 0, ptr::null(), ptr::null()) };
        assert_eq!(interrupted, -1);
        set_mask(!0);
        register.send(()).unwrap();
        let _ = ends.recv();
        set_mask(0);
    });
    let late_tid = is_started.recv().unwrap();
    let polls = |call: String| call.split(' ').next() == Some(&libc::SYS_ppoll.to_string());
    while !procfs::blocked_in(process::id(), late_tid).is_some_and(polls) {
        thread::yield_now();
    }
    let result = broadcast_slack(STRICT.timeout(Duration::from_millis(500)), 1);
    drop(end);
    late.join().unwrap();
    unregistered.join().unwrap();
    match result {
        Err(Error::Unreachable(late)) => late.iter().map(NamedThread::tid).eq([late_tid]),
        Err(Error::Uncovered(_) | Error::Busy) => false,
        other => panic!("{other:?}"),
    }
}
