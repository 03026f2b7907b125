//! Threads that a round misses or cannot stop: it names them, and changes nothing (P1, P4, P6, P7).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread as std_thread;
use std::time::{Duration, Instant};

use psx::{Coverage, Error, Threads, thread};
use psx_test_support::raw::{prctl, slack};
use psx_test_support::signal::{STOP_BIT, is_stop_pending, set_mask};
use psx_test_support::threads::{idle, start_idlers, start_unregistered, tid};
use psx_test_support::{Case, Child, Ending, Line, Probe};

use crate::kernel::{STRICT, broadcast_no_new_privs, broadcast_slack};

/// For an answer that comes early: a busy machine may take long to stop the threads for it.
const LONG: Duration = Duration::from_secs(30);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("coverage::unregistered_thread_is_named", unregistered_thread_is_named).check(
            |child| {
                child.inspect("uncovered", |child| {
                    assert_eq!(child.tasks().len(), 4);
                    child.assert_all("NoNewPrivs", "0");
                });
                child.inspect("registered", |child| {
                    for task in child.tasks() {
                        let expected = if task.name() == "foreign" { "0" } else { "1" };
                        assert_eq!(task.field("NoNewPrivs"), expected, "{}", task.name());
                    }
                });
                child.inspect("adopted", |child| child.assert_all("NoNewPrivs", "1"));
                assert_eq!(child.end(), Ending::Exited(0));
            },
        ),
        Case::new(
            "coverage::unregistered_thread_is_not_interrupted",
            unregistered_thread_is_not_interrupted,
        ),
        Case::new(
            "coverage::unregistered_thread_is_an_early_answer",
            unregistered_thread_is_an_early_answer,
        ),
        Case::new("coverage::closed_descriptor_is_opened_again", closed_descriptor),
        Case::new("coverage::descriptor_closed_in_a_round", closed_in_a_round),
        Case::new("coverage::blocked_thread_is_named", blocked_thread_is_named).alone().check(
            |child| {
                child.inspect("unreachable", |child| child.assert_all("NoNewPrivs", "0"));
                child.inspect("unblocked", |child| child.assert_all("NoNewPrivs", "0"));
                assert_eq!(child.end(), Ending::Exited(0));
            },
        ),
        Case::new("coverage::a_stopped_process_blames_no_thread", stopped_process).alone().check(
            |child| {
                let pid = child.pid() as i32;
                let late = child.expect("late").parse().unwrap();
                // The round has begun: its signal is pending for the thread that blocks it.
                child.wait_until(|child| pending(child, late) & STOP_BIT != 0);
                // SAFETY: signals for the child.
                unsafe { libc::kill(pid, libc::SIGSTOP) };
                let stopped = |child: &Child| {
                    child.tasks().iter().all(|task| task.field("State").starts_with('T'))
                };
                child.wait_until(stopped);
                child.send("unblock");
                // The fault itself: a stop that is longer than the round's timeout.
                std_thread::sleep(STOPPED_ROUND * 2);
                child.assert_all("NoNewPrivs", "0");
                // SAFETY: as above.
                unsafe { libc::kill(pid, libc::SIGCONT) };
                child.inspect("changed", |child| child.assert_all("NoNewPrivs", "1"));
                assert_eq!(child.end(), Ending::Exited(0));
            },
        ),
        Case::new("coverage::thousand_threads", |line| {
            start_idlers(1000);
            assert_eq!(broadcast_no_new_privs(STRICT), Ok(1001));
            line.pause("changed");
        })
        .check(|child| {
            child.inspect("changed", |child| {
                assert_eq!(child.tasks().len(), 1001);
                child.assert_all("NoNewPrivs", "1");
            });
            assert_eq!(child.end(), Ending::Exited(0));
        }),
    ]
}

#[track_caller]
fn assert_named(threads: &Threads, tid: u32, name: &str) {
    let [thread] = &**threads else { panic!("one thread, not {threads}") };
    assert_eq!((thread.tid(), thread.name()), (tid, name));
}

fn unregistered_thread_is_named(line: &Line) {
    start_idlers(2);
    let (adopt, adopts) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    let foreign = move || {
        answer.send(tid()).unwrap();
        adopts.recv().unwrap();
        for _ in 0..2 {
            thread::adopt().unwrap();
        }
        answer.send(tid()).unwrap();
        idle()
    };
    std_thread::Builder::new().name("foreign".into()).spawn(foreign).unwrap();
    let foreign = answers.recv().unwrap();

    let refused = broadcast_no_new_privs(STRICT.timeout(LONG)).unwrap_err();
    assert!(refused.to_string().contains(&format!("{foreign} (foreign)")), "{refused}");
    let Error::Uncovered(missed) = refused else { panic!("{refused:?}") };
    assert_named(&missed, foreign, "foreign");
    line.pause("uncovered");

    let lenient = STRICT.coverage(Coverage::Registered);
    assert_eq!(broadcast_no_new_privs(lenient), Ok(3));
    line.pause("registered");

    adopt.send(()).unwrap();
    answers.recv().unwrap();
    assert_eq!(broadcast_no_new_privs(STRICT), Ok(4));
    line.pause("adopted");
}

/// A signal would end the sleep early, as `signals::never_resumed` shows for registered threads.
fn unregistered_thread_is_not_interrupted(_: &Line) {
    start_idlers(1);
    let (asleep, sleeps) = mpsc::channel();
    let foreign = std_thread::spawn(move || {
        let second = libc::timespec { tv_sec: 1, tv_nsec: 0 };
        asleep.send(()).unwrap();
        // SAFETY: a time that outlives the call.
        unsafe { libc::nanosleep(&second, std::ptr::null_mut()) }
    });
    sleeps.recv().unwrap();
    while !foreign.is_finished() {
        broadcast_slack(STRICT.coverage(Coverage::Registered), 7).unwrap();
    }
    assert_eq!(foreign.join().unwrap(), 0);
}

/// An unregistered thread is reported well before the timeout, and after few stops: a registered thread
/// counts how often it was interrupted.
fn unregistered_thread_is_an_early_answer(_: &Line) {
    const TIMEOUT: Duration = Duration::from_secs(30);
    static STOPS: AtomicUsize = AtomicUsize::new(0);
    let (ready, is_ready) = mpsc::channel();
    start_unregistered("foreign", || ());
    thread::spawn(move || {
        ready.send(()).unwrap();
        loop {
            // SAFETY: waits for no descriptor, until a signal ends it.
            unsafe { libc::poll(std::ptr::null_mut(), 0, -1) };
            STOPS.fetch_add(1, Ordering::Relaxed);
        }
    });
    is_ready.recv().unwrap();
    for expected in ["a broadcast", "and another one"] {
        STOPS.store(0, Ordering::Relaxed);
        let start = Instant::now();
        let refused = broadcast_slack(STRICT.timeout(TIMEOUT), 1).unwrap_err();
        assert!(matches!(refused, Error::Uncovered(_)), "{refused}");
        let (took, stops) = (start.elapsed(), STOPS.load(Ordering::Relaxed));
        println!("{expected}: {took:?}, {stops} stops");
        assert!(took < TIMEOUT / 6, "{took:?}");
        assert!(stops <= 4, "{stops} stops");
    }
}

fn blocked_thread_is_named(line: &Line) {
    const TIMEOUT: Duration = Duration::from_millis(500);
    start_idlers(2);
    let (unblock, unblocks) = mpsc::channel::<()>();
    let (answer, answers) = mpsc::channel();
    let blocker = move || {
        set_mask(!0);
        answer.send(tid()).unwrap();
        unblocks.recv().unwrap();
        set_mask(0);
        answer.send(tid()).unwrap();
        for () in unblocks {
            answer.send(slack() as u32).unwrap();
        }
    };
    thread::Builder::new().name("blocker".into()).spawn(blocker).unwrap();
    let blocker = answers.recv().unwrap();
    let other = Probe::start();

    for _ in 0..2 {
        let start = Instant::now();
        let refused = broadcast_no_new_privs(STRICT.timeout(TIMEOUT)).unwrap_err();
        let took = start.elapsed();
        assert!(took >= TIMEOUT && took < TIMEOUT + Duration::from_secs(5), "{took:?}");
        let Error::Unreachable(missed) = refused else { panic!("{refused:?}") };
        assert_named(&missed, blocker, "blocker");
    }
    line.pause("unreachable");

    // The signals of the rounds above are delivered now.
    unblock.send(()).unwrap();
    answers.recv().unwrap();
    line.pause("unblocked");

    assert_eq!(broadcast_slack(STRICT, 123), Ok(5));
    unblock.send(()).unwrap();
    assert_eq!(answers.recv().unwrap(), 123);
    assert_eq!(other.ask(slack), 123);
}

/// The timeout of a round in a process that is stopped for longer.
const STOPPED_ROUND: Duration = Duration::from_secs(1);

fn pending(child: &Child, tid: u32) -> u64 {
    let tasks = child.tasks();
    tasks.iter().find(|task| task.tid == tid).expect("a living thread").mask("SigPnd")
}

/// A round that begins before the process is stopped, and whose timeout passes meanwhile. One thread can
/// take its signal only some time after the process has continued.
fn stopped_process(line: &Line) {
    start_idlers(2);
    thread::scope(|scope| {
        let (blocked, is_blocked) = mpsc::channel();
        scope.spawn(move || {
            set_mask(!0);
            blocked.send(tid()).unwrap();
            line.expect("unblock");
            let resumed = Instant::now();
            while resumed.elapsed() < Duration::from_millis(20) {}
            set_mask(0);
        });
        line.send(format_args!("late {}", is_blocked.recv().unwrap()));
        assert_eq!(broadcast_no_new_privs(STRICT.timeout(STOPPED_ROUND)), Ok(4));
    });
    line.pause("changed");
}

/// A program that closes every descriptor it does not know also closes psx's.
fn closed_descriptor(_: &Line) {
    start_idlers(2);
    for round in 1..=2 {
        assert_eq!(broadcast_slack(STRICT, round), Ok(3));
        // SAFETY: only psx needs a descriptor above standard error's again, and the line to the test,
        // which this case does not use.
        unsafe { libc::close_range(3, u32::MAX, 0) };
    }
    assert_eq!(broadcast_slack(STRICT, 3), Ok(3));
    // A return would drop the line, which would close its number a second time.
    std::process::exit(0);
}

/// The same by another thread in a round: when its signal is pending.
fn closed_in_a_round(_: &Line) {
    start_idlers(2);
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        loop {
            set_mask(!0);
            ready.send(()).unwrap();
            while !is_stop_pending() {
                std_thread::yield_now();
            }
            for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
                let leads_to = std::fs::read_link(entry.path()).unwrap_or_default();
                if leads_to.ends_with("stat") {
                    let fd = entry.file_name().to_string_lossy().parse().unwrap();
                    // SAFETY: psx's file, which it checks before each use.
                    unsafe { libc::close(fd) };
                }
            }
            set_mask(0);
            // The rest of the round.
            while slack() == 50_000 {
                std_thread::yield_now();
            }
            prctl(libc::PR_SET_TIMERSLACK, 50_000);
        }
    });
    for round in 1..=20 {
        is_ready.recv().unwrap();
        assert_eq!(broadcast_slack(STRICT, round), Ok(4));
    }
}
