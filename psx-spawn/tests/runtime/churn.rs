//! Threads that come and go while rounds run.

use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use std::{ptr, thread as std_thread};

use psx::{Broadcast, Coverage, thread};

use crate::kernel::{
    STRICT, Teller, breathe, broadcast_name, broadcast_slack, prctl_on_all, slack,
};
use crate::support::{Case, Ending, Line};

const CHURNERS: usize = 4;
const ROUNDS: usize = 500;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("churn::keepcaps_toggles", keepcaps_toggles),
        Case::new("churn::live_threads_agree", live_threads_agree)
            .limit(Duration::from_secs(60))
            .judge(|child| {
                for round in 0..ROUNDS {
                    child.inspect("round", |child| {
                        assert!(child.tasks().len() > CHURNERS);
                        child.assert_all("Name", &format!("round-{round}"));
                    });
                }
                assert_eq!(child.end(), Ending::Exited(0));
            }),
        Case::new("churn::newborns_that_adopt", newborns_that_adopt).limit(Duration::from_secs(60)),
        Case::new("churn::last_destructors_are_covered", |_| last_destructors(STRICT))
            .limit(Duration::from_secs(60)),
        // Here no count of the kernel's helps: a thread that left the registry early keeps the old.
        Case::new("churn::last_destructors_are_registered", |_| {
            last_destructors(STRICT.coverage(Coverage::Registered));
        })
        .limit(Duration::from_secs(60)),
    ]
}

/// The test of Go's psx package: a thread more after each toggle, and all agree each time.
fn keepcaps_toggles(_: &Line) {
    fn keepcaps() -> i32 {
        // SAFETY: the call takes numbers and returns one.
        unsafe { libc::prctl(libc::PR_GET_KEEPCAPS, 0, 0, 0, 0) }
    }
    let mut crew = Vec::new();
    for toggle in 1..=11 {
        let keep = toggle % 2;
        // SAFETY: the call takes numbers, and this process changes no uid.
        let result =
            unsafe { psx::syscall3(libc::SYS_prctl, libc::PR_SET_KEEPCAPS as usize, keep, 0) };
        assert_eq!(result, Ok(0));
        crew.push(Teller::start(keepcaps));
        assert_eq!(keepcaps(), keep as i32);
        for (i, member) in crew.iter().enumerate() {
            assert_eq!(member.tell(), keep as i32, "thread {i} after toggle {toggle}");
        }
    }
}

/// A nameless thread inherits its name, so each thread alive bears the last round's.
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
        line.show("round");
    }
}

/// Threads that something else starts and that adopt themselves as their first act: a round that
/// finds one unregistered tries again.
fn newborns_that_adopt(_: &Line) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..CHURNERS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let newborn = || {
                        thread::adopt().unwrap();
                        slack()
                    };
                    std_thread::spawn(newborn).join().unwrap();
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
static WITNESSES: AtomicUsize = AtomicUsize::new(0);

/// Stands in a destructor while three more rounds return, and sees each.
fn witness() {
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
    WITNESSES.fetch_add(1, Ordering::Relaxed);
}

struct Witness(Cell<bool>);

impl Drop for Witness {
    fn drop(&mut self) {
        witness();
        // A thread-local that is first used in another's destructor is destroyed later still.
        LATER.with(|later| later.0.set(true));
    }
}

struct Later(Cell<bool>);

impl Drop for Later {
    fn drop(&mut self) {
        assert!(self.0.get());
        witness();
    }
}

thread_local! {
    static WITNESS: Witness = const { Witness(Cell::new(false)) };
    static LATER: Later = const { Later(Cell::new(false)) };
}

/// A C library's destructor, which the libc calls again, up to four times, if it sets its key anew.
unsafe extern "C" fn key_destructor(runs: *mut c_void) {
    witness();
    let runs = runs as usize + 1;
    // The libc's fourth and last is psx's own to leave in.
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
                    let dying = move || {
                        WITNESS.with(|witness| witness.0.set(true));
                        // SAFETY: as in the destructor.
                        unsafe { libc::pthread_setspecific(key, ptr::without_provenance(1)) };
                    };
                    thread::spawn(dying).join().unwrap();
                }
            });
        }
        // Until each churner can have seen ten threads through their five destructors, too.
        let mut round = 0;
        while round < ROUNDS || WITNESSES.load(Ordering::Relaxed) < 10 * 5 * CHURNERS {
            round += 1;
            broadcast_slack(broadcast, round).unwrap();
            RETURNED.store(round, Ordering::Release);
            breathe();
        }
        DONE.store(true, Ordering::Relaxed);
    });
}
