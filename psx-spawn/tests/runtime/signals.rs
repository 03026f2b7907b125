//! An interrupted thread does not notice it, except in the calls that the kernel never resumes (P7).

use std::hint::{self, black_box};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use psx::{Errno, thread};
use psx_test_support::raw::{errno, set_errno, slack};
use psx_test_support::signal::set_mask;
use psx_test_support::{Case, Child, Ending, Line, procfs};

use crate::blocking::{self, SystemV};
use crate::kernel::{STRICT, broadcast_slack};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("signals::a_thousand_rounds_go_unnoticed", a_thousand_rounds)
            .limit(Duration::from_secs(60))
            .check(|child| {
                // Not at once: some may still leave the last round's handler.
                let masks_are_whole =
                    |child: &Child| child.tasks().iter().all(|task| task.mask("SigBlk") == MASK);
                child.inspect("after", |child| child.wait_until(masks_are_whole));
                assert_eq!(child.end(), Ending::Exited(0));
            }),
        Case::new("signals::never_resumed", |_| {
            let system_v = SystemV::new();
            for call in blocking::never_resumed(&system_v) {
                let blocked = call.start();
                round();
                let interrupted = Err(Errno::from_raw(libc::EINTR));
                assert_eq!(blocked.outcome(), interrupted, "{}", call.name);
            }
        }),
        Case::new("signals::resumed", |_| {
            for resumed in blocking::resumed() {
                let name = resumed.call.name;
                let blocked = resumed.call.start();
                for _ in 0..3 {
                    round();
                    blocked.await_resumption();
                }
                assert!(!blocked.has_returned(), "{name}");
                (resumed.fulfil)();
                let value = blocked.outcome().unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(value, resumed.value.unwrap_or(value), "{name}");
            }
        }),
    ]
}

/// One round, which must have reached all threads.
fn round() {
    let next = slack() + 1;
    let threads = procfs::tids(process::id()).len();
    assert_eq!(broadcast_slack(STRICT, next), Ok(threads));
}

/// All threads inherit it: SIGUSR1 alone.
const MASK: u64 = 1 << (libc::SIGUSR1 - 1);

fn a_thousand_rounds(line: &Line) {
    set_mask(MASK);
    let done = AtomicBool::new(false);
    let running = || !done.load(Ordering::Relaxed);
    let (mutex, condvar) = (Mutex::new(0), Condvar::new());
    let (mut reading, mut read_by) = UnixStream::pair().unwrap();
    let (receiving, mut received_by) = UnixStream::pair().unwrap();
    let guard = mutex.lock().unwrap();
    let go = Mutex::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while running() {
                set_errno(4711);
                (0..1000).for_each(|_| hint::spin_loop());
                assert_eq!(errno(), 4711);
            }
        });
        scope.spawn(|| {
            let expected = compute();
            while running() {
                assert_eq!(compute(), expected);
            }
        });
        scope.spawn(|| {
            let nap = Duration::from_millis(10);
            while running() {
                let start = Instant::now();
                thread::sleep(nap);
                assert!(start.elapsed() >= nap);
            }
        });
        // Read::read returns Interrupted, unlike read_exact.
        scope.spawn(move || assert_eq!(reading.read(&mut [0]).unwrap(), 1));
        scope.spawn(move || {
            let mut byte = [0_u8];
            // SAFETY: a buffer of one byte, and a socket, that outlive the call.
            let count =
                unsafe { libc::recv(receiving.as_raw_fd(), byte.as_mut_ptr().cast(), 1, 0) };
            assert_eq!(count, 1);
        });
        scope.spawn(|| *mutex.lock().unwrap() += 1);
        scope.spawn(|| drop(condvar.wait_while(go.lock().unwrap(), |go| !*go).unwrap()));
        scope.spawn(|| {
            let minute = Duration::from_secs(60);
            let lock = go.lock().unwrap();
            let (_go, timeout) = condvar.wait_timeout_while(lock, minute, |go| !*go).unwrap();
            assert!(!timeout.timed_out());
        });

        for round in 1..=1000 {
            assert_eq!(broadcast_slack(STRICT, round), Ok(9));
        }
        line.pause("after");
        done.store(true, Ordering::Relaxed);
        read_by.write_all(&[1]).unwrap();
        received_by.write_all(&[1]).unwrap();
        drop(guard);
        *go.lock().unwrap() = true;
        condvar.notify_all();
    });
    assert_eq!(mutex.into_inner().unwrap(), 1);
}

/// Keeps general and vector registers busy.
fn compute() -> (u64, [f64; 8]) {
    let mut hash = black_box(0xcbf2_9ce4_8422_2325_u64);
    let mut sums = [black_box(1.0_f64); 8];
    for n in 0..10_000_u64 {
        hash = (hash ^ n).wrapping_mul(0x0100_0000_01b3).rotate_left(7);
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum = *sum * 1.000_001 + (n + lane as u64) as f64;
        }
    }
    (hash, sums)
}
