//! psx beside the libc's own broadcast, a busy core, and a subscriber that takes a lock (P7).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Condvar, Mutex};
use std::time::Duration;

use psx::thread;
use psx_test_support::{Case, Ending, Line, root};

use psx_test_support::raw::slack;
use psx_test_support::threads::start_idlers;

use crate::kernel::{STRICT, broadcast_no_new_privs, broadcast_slack};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("coexistence::libc_setresuid", libc_setresuid)
            .limit(Duration::from_secs(60))
            .check(|child| {
                child.inspect("done", |child| {
                    let tasks = child.tasks();
                    assert_eq!(tasks.len(), 6);
                    let uids =
                        if root().is_ok() { "0 65534 0 65534" } else { tasks[0].field("Uid") };
                    child.assert_all("Uid", uids);
                    child.assert_all("NoNewPrivs", "1");
                });
                assert_eq!(child.end(), Ending::Exited(0));
            }),
        Case::new("coexistence::thread_on_the_callers_core_makes_progress", makes_progress)
            .limit(Duration::from_secs(120)),
        #[cfg(feature = "tracing")]
        Case::new("coexistence::subscriber_that_locks_stdout", spans::subscriber_that_locks_stdout)
            .prepare(|command| {
                command.stdout(std::process::Stdio::null());
            })
            .limit(Duration::from_secs(120)),
    ]
}

/// The libc's own broadcast, which glibc makes by the same signal.
fn libc_setresuid(line: &Line) {
    const CALLS: u32 = 200;
    // SAFETY: the call only reads.
    let ruid = unsafe { libc::getuid() };
    start_idlers(4);
    let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let end = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            for call in 0..CALLS {
                let euid = if call % 2 == 1 && ruid == 0 { 65534 } else { ruid };
                // SAFETY: numbers; the other uids stay, so that none can fail.
                assert_eq!(unsafe { libc::setresuid(!0, euid, !0) }, 0);
                // So that rounds come between the calls as well as during them.
                let seen = rounds.load(Ordering::Relaxed);
                while call % 10 == 0 && rounds.load(Ordering::Relaxed) == seen {
                    std::hint::spin_loop();
                }
            }
            done.store(true, Ordering::Relaxed);
            end.wait();
        });
        while !done.load(Ordering::Relaxed) {
            let round = rounds.fetch_add(1, Ordering::Relaxed) + 1;
            assert_eq!(broadcast_slack(STRICT, round), Ok(6));
            assert_eq!(slack(), round);
        }
        assert!(rounds.load(Ordering::Relaxed) >= CALLS as usize / 10);
        broadcast_no_new_privs(STRICT).unwrap();
        line.pause("done");
        end.wait();
    });
}

/// A thread that shares its core with one that broadcasts without a pause is not kept in the handler:
/// it waits [`TIMES`] times for the next round, and sees one in [`MOST`] at least.
fn makes_progress(_: &Line) {
    const TIMES: usize = 100;
    const MOST: usize = 1_000;
    to_one_core();
    thread::adopt().expect("a place in the registry");
    let (rounds, more) = (&Mutex::new(0), &Condvar::new());
    let enough = &AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                assert_eq!(broadcast_slack(STRICT, 1), Ok(2));
                *rounds.lock().unwrap() += 1;
                more.notify_all();
            }
        });
        let mut seen = rounds.lock().unwrap();
        for _ in 0..TIMES {
            let last = *seen;
            seen = more.wait_while(seen, |rounds| *rounds == last).unwrap();
        }
        enough.store(true, Ordering::Relaxed);
        assert!(*seen <= TIMES * MOST, "{TIMES} turns in {} rounds", *seen);
    });
}

/// Keeps the calling thread, and those that it will start, on the core on which it runs.
fn to_one_core() {
    // SAFETY: all zeros is the empty set, and the calls read and write that set alone.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
    }
}

#[cfg(feature = "tracing")]
mod spans {
    use std::io::{self, Write};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    static SPANS: AtomicUsize = AtomicUsize::new(0);

    /// Holds the lock of stdout while it writes, at the start and at the end of each round. (Not at every
    /// record: it would wait for the unfair lock most of the time.)
    struct Printing;

    impl Subscriber for Printing {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, span: &Attributes<'_>) -> Id {
            writeln!(io::stdout().lock(), "span {span:?}").unwrap();
            Id::from_u64(SPANS.fetch_add(1, Ordering::Relaxed) as u64 + 1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn event(&self, event: &Event<'_>) {
            writeln!(io::stdout().lock(), "event {event:?}").unwrap();
        }

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    pub(super) fn subscriber_that_locks_stdout(_: &Line) {
        const ROUNDS: usize = 1000;
        tracing::subscriber::set_global_default(Printing).unwrap();
        for printer in 0..8 {
            thread::spawn(move || {
                for line in 0_u64.. {
                    println!("printer {printer}, line {line}");
                }
            });
        }
        for round in 1..=ROUNDS {
            assert_eq!(broadcast_slack(STRICT, round), Ok(9));
        }
        let spans = SPANS.load(Ordering::Relaxed);
        assert!(spans >= ROUNDS, "{spans} spans of {ROUNDS} rounds");
    }
}
