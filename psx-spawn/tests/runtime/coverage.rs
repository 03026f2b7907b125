//! Threads that a round misses or cannot stop: it names them, and changes nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread as std_thread;
use std::time::{Duration, Instant};

use psx::{Coverage, Error, Threads, thread};

use crate::kernel::{
    STRICT, Teller, broadcast_no_new_privs, broadcast_slack, idle, raw, set_signal_mask, slack,
    start_idlers, tid,
};
use crate::support::{Case, Ending, Line, Supervised};

/// Shorter than the default, for rounds that must fail.
/// For an answer that comes early: a busy machine may take long to stop the threads for it.
const LONG: Duration = Duration::from_secs(30);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("coverage::stranger_is_named", stranger_is_named).judge(|child| {
            child.inspect("uncovered", |child| {
                assert_eq!(child.tasks().len(), 4);
                child.assert_all("NoNewPrivs", "0");
            });
            child.inspect("registered", |child| {
                for task in child.tasks() {
                    let expected = if task.name() == "stranger" { "0" } else { "1" };
                    assert_eq!(task.field("NoNewPrivs"), expected, "{}", task.name());
                }
            });
            child.inspect("adopted", |child| child.assert_all("NoNewPrivs", "1"));
            assert_eq!(child.end(), Ending::Exited(0));
        }),
        Case::new("coverage::stranger_is_not_interrupted", stranger_is_not_interrupted),
        Case::new(
            "coverage::unregistered_thread_is_an_early_answer",
            unregistered_thread_is_an_early_answer,
        ),
        Case::new("coverage::closed_descriptor_is_opened_again", closed_descriptor),
        Case::new("coverage::descriptor_closed_in_a_round", closed_in_a_round),
        Case::new("coverage::blocked_thread_is_named", blocked_thread_is_named).alone().judge(
            |child| {
                child.inspect("unreachable", |child| child.assert_all("NoNewPrivs", "0"));
                child.inspect("unblocked", |child| child.assert_all("NoNewPrivs", "0"));
                assert_eq!(child.end(), Ending::Exited(0));
            },
        ),
        Case::new("coverage::a_stopped_process_blames_no_thread", stopped_process).alone().judge(
            |child| {
                let pid = child.pid() as i32;
                let late = child.hear("late").parse().unwrap();
                // The round has begun: the summons is in the queue of the thread that blocks it.
                child.await_that(|child| field(child, late, "SigPnd") & SUMMONS != 0);
                // SAFETY: signals for the child.
                unsafe { libc::kill(pid, libc::SIGSTOP) };
                let stopped = |child: &Supervised| {
                    child.tasks().iter().all(|task| task.field("State").starts_with('T'))
                };
                child.await_that(stopped);
                child.say("unblock");
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
            line.show("changed");
        })
        .judge(|child| {
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

fn stranger_is_named(line: &Line) {
    start_idlers(2);
    let (adopt, adopts) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    let stranger = move || {
        answer.send(tid()).unwrap();
        adopts.recv().unwrap();
        for _ in 0..2 {
            thread::adopt().unwrap();
        }
        answer.send(tid()).unwrap();
        idle()
    };
    std_thread::Builder::new().name("stranger".into()).spawn(stranger).unwrap();
    let stranger = answers.recv().unwrap();

    let refused = broadcast_no_new_privs(STRICT.timeout(LONG)).unwrap_err();
    assert!(refused.to_string().contains(&format!("{stranger} (stranger)")), "{refused}");
    let Error::Uncovered(missed) = refused else { panic!("{refused:?}") };
    assert_named(&missed, stranger, "stranger");
    line.show("uncovered");

    let lenient = STRICT.coverage(Coverage::Registered);
    assert_eq!(broadcast_no_new_privs(lenient), Ok(3));
    line.show("registered");

    adopt.send(()).unwrap();
    answers.recv().unwrap();
    assert_eq!(broadcast_no_new_privs(STRICT), Ok(4));
    line.show("adopted");
}

/// A signal would end the sleep early, as `signals::never_resumed` shows for registered threads.
fn stranger_is_not_interrupted(_: &Line) {
    start_idlers(1);
    let (asleep, sleeps) = mpsc::channel();
    let stranger = std_thread::spawn(move || {
        let second = libc::timespec { tv_sec: 1, tv_nsec: 0 };
        asleep.send(()).unwrap();
        // SAFETY: a time that outlives the call.
        unsafe { libc::nanosleep(&second, std::ptr::null_mut()) }
    });
    sleeps.recv().unwrap();
    while !stranger.is_finished() {
        broadcast_slack(STRICT.coverage(Coverage::Registered), 7).unwrap();
    }
    assert_eq!(stranger.join().unwrap(), 0);
}

/// A thread that was forgotten is an answer well before the timeout, and after few stops: a registered
/// thread counts how often it was interrupted.
fn unregistered_thread_is_an_early_answer(_: &Line) {
    const TIMEOUT: Duration = Duration::from_secs(30);
    static STOPS: AtomicUsize = AtomicUsize::new(0);
    let (ready, waits) = mpsc::channel();
    let foreign = ready.clone();
    std_thread::spawn(move || {
        foreign.send(()).unwrap();
        idle()
    });
    thread::spawn(move || {
        ready.send(()).unwrap();
        loop {
            // SAFETY: waits for nothing, for ever, until a signal ends it.
            unsafe { libc::poll(std::ptr::null_mut(), 0, -1) };
            STOPS.fetch_add(1, Ordering::Relaxed);
        }
    });
    for () in waits.iter().take(2) {}
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
    let deaf = move || {
        set_signal_mask(!0);
        answer.send(tid()).unwrap();
        unblocks.recv().unwrap();
        set_signal_mask(0);
        answer.send(tid()).unwrap();
        for () in unblocks {
            answer.send(slack() as u32).unwrap();
        }
    };
    thread::Builder::new().name("deaf".into()).spawn(deaf).unwrap();
    let deaf = answers.recv().unwrap();
    let other = Teller::start(slack);

    for _ in 0..2 {
        let start = Instant::now();
        let refused = broadcast_no_new_privs(STRICT.timeout(TIMEOUT)).unwrap_err();
        let took = start.elapsed();
        assert!(took >= TIMEOUT && took < TIMEOUT + Duration::from_secs(5), "{took:?}");
        let Error::Unreachable(missed) = refused else { panic!("{refused:?}") };
        assert_named(&missed, deaf, "deaf");
    }
    line.show("unreachable");

    // The summonses of the rounds above are delivered now.
    unblock.send(()).unwrap();
    answers.recv().unwrap();
    line.show("unblocked");

    assert_eq!(broadcast_slack(STRICT, 123), Ok(5));
    unblock.send(()).unwrap();
    assert_eq!(answers.recv().unwrap(), 123);
    assert_eq!(other.tell(), 123);
}

/// The timeout of a round in a process that is stopped for longer.
const STOPPED_ROUND: Duration = Duration::from_secs(1);

/// Signal 33 in a mask, as /proc shows it.
const SUMMONS: u64 = 1 << 32;

fn field(child: &Supervised, tid: u32, field: &str) -> u64 {
    let tasks = child.tasks();
    let task = tasks.iter().find(|task| task.tid == tid).expect("a living thread");
    u64::from_str_radix(task.field(field), 16).expect("a mask")
}

/// A round that begins before the process is stopped, and whose timeout passes meanwhile. One thread
/// can take its signal only after the stop, and not at once.
fn stopped_process(line: &Line) {
    start_idlers(2);
    thread::scope(|scope| {
        let (blocked, is_blocked) = mpsc::channel();
        scope.spawn(move || {
            set_signal_mask(!0);
            blocked.send(tid()).unwrap();
            line.hear("unblock");
            let resumed = Instant::now();
            while resumed.elapsed() < Duration::from_millis(20) {}
            set_signal_mask(0);
        });
        line.say(format_args!("late {}", is_blocked.recv().unwrap()));
        assert_eq!(broadcast_no_new_privs(STRICT.timeout(STOPPED_ROUND)), Ok(4));
    });
    line.show("changed");
}

/// A program that closes every descriptor it does not know also closes psx's.
fn closed_descriptor(_: &Line) {
    start_idlers(2);
    for round in 1..=2 {
        assert_eq!(broadcast_slack(STRICT, round), Ok(3));
        // SAFETY: nobody in this process needs a descriptor above standard error's again, but psx,
        // and the line to the test, which this case does not use.
        unsafe { libc::close_range(3, u32::MAX, 0) };
    }
    assert_eq!(broadcast_slack(STRICT, 3), Ok(3));
    // The line would close its number a second time.
    std::process::exit(0);
}

/// The same by another thread in the middle of a round: when its summons has come, and before it takes it.
fn closed_in_a_round(_: &Line) {
    start_idlers(2);
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        loop {
            set_signal_mask(!0);
            ready.send(()).unwrap();
            while !is_summoned() {
                std_thread::yield_now();
            }
            for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
                let leads_to = std::fs::read_link(entry.path()).unwrap_or_default();
                if leads_to.ends_with("stat") {
                    let fd = entry.file_name().to_string_lossy().parse().unwrap();
                    // SAFETY: psx's own file, which it looks at before it uses it.
                    unsafe { libc::close(fd) };
                }
            }
            set_signal_mask(0);
            // The rest of the round.
            while slack() == 50_000 {
                std_thread::yield_now();
            }
            // SAFETY: numbers only.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 50_000) };
        }
    });
    for round in 1..=20 {
        is_ready.recv().unwrap();
        assert_eq!(broadcast_slack(STRICT, round), Ok(4));
    }
}

/// Whether signal 33 is pending for the calling thread.
fn is_summoned() -> bool {
    let mut pending = 0_u64;
    // SAFETY: a mask of 8 bytes that outlives the call.
    unsafe { raw(libc::SYS_rt_sigpending, [(&raw mut pending) as usize, 8, 0, 0, 0, 0]) }.unwrap();
    pending & SUMMONS != 0
}
