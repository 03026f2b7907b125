//! Threads that start and end while rounds run (P2, P5).

use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use std::{ptr, thread as std_thread};

use psx::{Broadcast, Coverage, thread};
use psx_test_support::{Case, Ending, Line, Probe};

use psx_test_support::raw::{prctl, slack};
use psx_test_support::threads::breathe;

use crate::kernel::{STRICT, broadcast_name, broadcast_slack, prctl_on_all};

const CHURNERS: usize = 4;
const ROUNDS: usize = 500;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("churn::keepcaps_toggles", keepcaps_toggles),
        Case::new("churn::live_threads_agree", live_threads_agree)
            .limit(Duration::from_secs(60))
            .check(|child| {
                for round in 0..ROUNDS {
                    child.inspect("round", |child| {
                        assert!(child.tasks().len() > CHURNERS);
                        child.assert_all("Name", &format!("round-{round}"));
                    });
                }
                assert_eq!(child.end(), Ending::Exited(0));
            }),
        Case::new("churn::new_threads_that_adopt", new_threads_that_adopt)
            .limit(Duration::from_secs(60)),
        Case::new("churn::last_destructors_are_covered", |_| last_destructors(STRICT))
            .limit(Duration::from_secs(60)),
        // Without the proof of coverage: a thread that left the registry early keeps the old value.
        Case::new("churn::last_destructors_are_registered", |_| {
            last_destructors(STRICT.coverage(Coverage::Registered));
        })
        .limit(Duration::from_secs(60)),
    ]
}

/// The test of Go's psx package: one more thread after each toggle, and all agree each time.
fn keepcaps_toggles(_: &Line) {
    let keepcaps = || prctl(libc::PR_GET_KEEPCAPS, 0);
    let mut probes = Vec::new();
    for toggle in 1..=11 {
        let keep = toggle % 2;
        // SAFETY: the call takes numbers, and this process changes no uid.
        let result =
            unsafe { psx::syscall3(libc::SYS_prctl, libc::PR_SET_KEEPCAPS as usize, keep, 0) };
        assert_eq!(result, Ok(0));
        probes.push(Probe::start());
        assert_eq!(keepcaps(), keep);
        for (i, probe) in probes.iter().enumerate() {
            assert_eq!(probe.ask(keepcaps), keep, "thread {i} after toggle {toggle}");
        }
    }
}

/// A thread without a name inherits one, so each living thread has the last round's.
fn live_threads_agree(line: &Line) {
    for _ in 0..CHURNERS {
        thread::spawn(|| {
            loop {
                thread::spawn(|| ()).join().unwrap()
            }
        });
    }
    for round in 0..ROUNDS {
        let name = CString::new(format!("round-{round}")).unwrap();
        broadcast_name(STRICT, &name).unwrap();
        line.pause("round");
    }
}

/// Threads that std starts and that first adopt themselves: a round that finds one unregistered tries
/// again.
fn new_threads_that_adopt(_: &Line) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..CHURNERS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let adopt = || {
                        thread::adopt().unwrap();
                        slack()
                    };
                    std_thread::spawn(adopt).join().unwrap();
                }
            });
        }
        let mut attempts = 0;
        for round in 1..=200 {
            let report = prctl_on_all(STRICT, libc::PR_SET_TIMERSLACK, round).unwrap();
            attempts += report.attempts();
            assert!(report.threads() > CHURNERS);
            assert_eq!(slack(), round);
        }
        done.store(true, Ordering::Relaxed);
        println!("{attempts} attempts at 200 rounds");
    });
}

/// The last round that has returned. Round n gives all threads a timer slack of n.
static RETURNED: AtomicUsize = AtomicUsize::new(0);
static DONE: AtomicBool = AtomicBool::new(false);
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// Stays in a destructor while three more rounds return, and has the value of each.
fn watch() {
    let enough = RETURNED.load(Ordering::Acquire) + 3;
    loop {
        let returned = RETURNED.load(Ordering::Acquire);
        let slack = slack();
        assert!(slack >= returned, "round {returned} has returned, this thread has {slack}");
        if returned >= enough || DONE.load(Ordering::Relaxed) {
            break;
        }
        thread::yield_now();
    }
    WATCHES.fetch_add(1, Ordering::Relaxed);
}

struct First(Cell<bool>);

impl Drop for First {
    fn drop(&mut self) {
        watch();
        // A thread-local that is first used in another's destructor is destroyed later still.
        LATER.with(|later| later.0.set(true));
    }
}

struct Later(Cell<bool>);

impl Drop for Later {
    fn drop(&mut self) {
        assert!(self.0.get());
        watch();
    }
}

thread_local! {
    static FIRST: First = const { First(Cell::new(false)) };
    static LATER: Later = const { Later(Cell::new(false)) };
}

/// A C destructor, which the libc calls again, up to four times, if it sets its key again.
unsafe extern "C" fn key_destructor(runs: *mut c_void) {
    watch();
    let runs = runs as usize + 1;
    // In the libc's fourth and last pass psx removes the thread.
    if runs < 4 {
        // SAFETY: the key was made before the first thread that runs this.
        unsafe { libc::pthread_setspecific(key(), runs as *const c_void) };
    }
}

fn key() -> libc::pthread_key_t {
    static KEY: std::sync::OnceLock<libc::pthread_key_t> = std::sync::OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: a place for the key, and a function of the right kind.
        let result = unsafe { libc::pthread_key_create(&mut key, Some(key_destructor)) };
        assert_eq!(result, 0);
        key
    })
}

fn last_destructors(broadcast: Broadcast) {
    let key = key();
    thread::scope(|scope| {
        for _ in 0..CHURNERS {
            scope.spawn(move || {
                while !DONE.load(Ordering::Relaxed) {
                    let body = move || {
                        FIRST.with(|first| first.0.set(true));
                        // SAFETY: as in the destructor.
                        unsafe { libc::pthread_setspecific(key, ptr::without_provenance(1)) };
                    };
                    thread::spawn(body).join().unwrap();
                }
            });
        }
        // Also until each churner can have joined ten threads with five destructors each.
        let mut round = 0;
        while round < ROUNDS || WATCHES.load(Ordering::Relaxed) < 10 * 5 * CHURNERS {
            round += 1;
            broadcast_slack(broadcast, round).unwrap();
            RETURNED.store(round, Ordering::Release);
            breathe();
        }
        DONE.store(true, Ordering::Relaxed);
    });
}
