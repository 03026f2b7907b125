//! Signals that cannot be sent, cannot be received, or belong to somebody else.

use std::ffi::{c_int, c_void};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::{mem, process, ptr};

use crate::case::Expected::{Clean, Ok};
use crate::case::{Case, Start};
use crate::raw;
use crate::stage::{Stage, is_level};
use crate::support::procfs;

pub(crate) const CASES: &[Case] = &[
    Case::new("none", "none", &[Ok], |stage| {
        let _crew = stage.crew();
        stage.change();
    }),
    Case::new("sigpending-root", "RLIMIT_SIGPENDING 0, root", &[Ok], |stage| {
        no_queue(stage, [0, 0], Stage::change);
    })
    .start(Start::Root)
    .raises_limit()
    .bites(),
    Case::new(
        "sigpending-plain",
        "RLIMIT_SIGPENDING 0, uid 1000, hard limit 0 too",
        &[Clean("Unreachable", "crew-7")],
        |stage| no_queue(stage, [0, 0], Stage::change_soon),
    )
    .start(Start::Plain)
    .bites(),
    Case::new(
        "sigpending-soft",
        "RLIMIT_SIGPENDING 0, uid 1000, hard limit as it was",
        &[Ok],
        |stage| no_queue(stage, [0, raw::limit(libc::RLIMIT_SIGPENDING)[1]], Stage::change),
    )
    .start(Start::Plain)
    .bites(),
    Case::new(
        "sigpending-set-user-id",
        "a set-user-ID-root program started under ulimit -i 0",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            stage.change();
        },
    )
    .start(Start::SetUserIdNoQueue)
    .raises_limit()
    .bites(),
    Case::new(
        "quota-plain",
        "the user's signal quota used up by another process; then freed",
        &[Clean("Unreachable", "crew-7"), Ok],
        |stage| {
            let _crew = stage.crew();
            stage.ask("help hog");
            stage.change_soon();
            stage.ask("dismiss");
            stage.change();
        },
    )
    .start(Start::Plain)
    .alone()
    .bites(),
    Case::new("quota-set-user-id", "the same against a set-user-ID-root program", &[Ok], |stage| {
        let _crew = stage.crew();
        stage.ask("help hog");
        stage.change();
    })
    .start(Start::SetUserId)
    .alone()
    .raises_limit()
    .bites(),
    Case::new(
        "blocked-raw",
        "a thread blocks all 64 signals by raw rt_sigprocmask",
        &[Clean("Unreachable", "blocker")],
        |stage| {
            blocked(stage, raw::block_every_signal);
            stage.noting_stops(Stage::change_soon);
        },
    )
    .bites(),
    Case::new("blocked-libc", "a thread blocks all signals by pthread_sigmask", &[Ok], |stage| {
        blocked(stage, || {
            // SAFETY: a signal set is bits, filled in before use.
            unsafe {
                let mut all = mem::zeroed();
                libc::sigfillset(&mut all);
                libc::pthread_sigmask(libc::SIG_SETMASK, &all, ptr::null_mut());
            }
        });
        stage.change();
    }),
    Case::new(
        "inherited-mask",
        "the parent left all 64 signals blocked, and 33 ignored",
        &[Ok],
        |stage| {
            raw::ignore_33();
            raw::block_every_signal();
            let _crew = stage.crew();
            stage.change();
        },
    ),
    Case::new(
        "handler-before",
        "the program's own handler for 33, installed before psx",
        &[Ok],
        |stage| {
            // glibc puts its own handler in place with the first thread that it starts.
            std::thread::spawn(|| ()).join().expect("a first thread");
            raw::handle_33(hear::<1>);
            let _crew = stage.crew();
            stage.count().expect("a first round");
            hears_its_own();
            stage.change();
        },
    ),
    Case::new(
        "handler-after",
        "the program's own handler for 33, installed after psx",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            stage.count().expect("a first round");
            raw::handle_33(hear::<1>);
            stage.count().expect("a round with another handler in first place");
            hears_its_own();
            stage.change();
        },
    ),
    Case::new(
        "handler-in-gathering",
        "another handler for 33 takes a summons that is on its way",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            let (mut unblocks, mut unblock) = UnixStream::pair().expect("a socket pair");
            let (tell, told) = mpsc::channel();
            let _ = stage.spawn("late", move || {
                raw::block_every_signal();
                tell.send(raw::tid()).expect("main waits");
                unblocks.read_exact(&mut [0]).expect("a word from the installer");
                raw::unblock_every_signal();
                loop {
                    std::thread::park();
                }
            });
            let late = told.recv().expect("the id of a thread");
            // It ends before main can tell what came out, since the round waits for what it does. Whether
            // the other handler gets the summons, or psx is back in its place by then, is chance.
            std::thread::spawn(move || {
                await_33(late);
                raw::handle_33(hear::<1>);
                unblock.write_all(&[0]).expect("the late thread waits");
            });
            stage.change_registered();
        },
    ),
    Case::new(
        "handler-in-round",
        "a thread installs its own handler for 33 in a tight loop, 300 calls",
        &[Ok],
        |stage| {
            let crew = stage.crew_that(is_level);
            stage.busy("installer", || raw::handle_33(hear::<1>));
            stage.conclude(stage.count_to(300), crew.strays());
        },
    )
    .seconds(60),
    Case::new(
        "handlers-many",
        "nine different handlers for 33, each installed over psx's",
        &[Clean("Handler", "more than eight different handlers")],
        |stage| {
            let _crew = stage.crew();
            // glibc's own is the first that psx finds.
            stage.count().expect("a first round");
            for handler in [hear::<1>, hear::<2>, hear::<3>, hear::<4>, hear::<5>, hear::<6>] {
                raw::handle_33(handler);
                stage.count().expect("a round with one more handler to remember");
            }
            raw::handle_33(hear::<7>);
            stage.count().expect("a round with the eighth handler");
            raw::handle_33(hear::<8>);
            stage.change_soon();
        },
    ),
    Case::new(
        "handler-over",
        "a handler over psx's that passes on to it; glibc's own setresuid",
        &[Ok],
        |stage| {
            let crew = stage.crew_that(is_level);
            stage.count().expect("a first round");
            let round = |_| {
                BELOW.store(raw::put_over_33(pass_on), Ordering::Relaxed);
                set_no_user();
                let counted = stage.count();
                set_no_user();
                counted
            };
            stage.conclude((0..50).map(round).collect(), crew.strays());
        },
    ),
];

/// Waits until signal 33 is pending for a thread of this process that blocks it.
pub(crate) fn await_33(tid: u32) {
    let is_pending = || {
        let tasks = procfs::tasks(process::id());
        let task = tasks.iter().find(|task| task.tid == tid).expect("a thread that waits");
        u64::from_str_radix(task.field("SigPnd"), 16).expect("a mask") & 1 << 32 != 0
    };
    while !is_pending() {
        std::thread::yield_now();
    }
}

fn no_queue(stage: &Stage, limit: [u64; 2], change: fn(&Stage)) {
    let _crew = stage.crew();
    raw::set_limit(libc::RLIMIT_SIGPENDING, limit);
    change(stage);
}

/// Starts eight threads and one that has blocked signals by `block`.
fn blocked(stage: &Stage, block: fn()) {
    let _crew = stage.crew();
    let mut blocked = false;
    stage.busy("blocker", move || {
        if !mem::replace(&mut blocked, true) {
            block();
        } else {
            std::thread::park();
        }
    });
}

static HEARD: AtomicUsize = AtomicUsize::new(0);

/// A handler that no other is like.
extern "C" fn hear<const N: usize>(_: c_int) {
    HEARD.fetch_add(N, Ordering::Relaxed);
}

/// The handler that the library has found.
static BELOW: AtomicUsize = AtomicUsize::new(0);

extern "C" fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: stored before this handler can run: psx's, which was first in line after a round.
    let below: raw::Handler = unsafe { mem::transmute(BELOW.load(Ordering::Relaxed)) };
    below(signal, info, context);
}

/// glibc's broadcast, which returns when every thread has had its signal 33. Changes nothing.
fn set_no_user() {
    // SAFETY: no id is to change.
    assert_eq!(unsafe { libc::setresuid(!0, !0, !0) }, 0, "{}", io::Error::last_os_error());
}

/// Sends signal 33 to this thread as strangers would: each must reach the program's own handler.
fn hears_its_own() {
    let before = HEARD.load(Ordering::Relaxed);
    raw::kill(process::id(), Some(raw::tid()), 33).expect("tgkill to oneself");
    raw::queue(process::id(), raw::tid(), 33, libc::SI_QUEUE).expect("a queued signal to oneself");
    let heard = HEARD.load(Ordering::Relaxed) - before;
    assert_eq!(heard, 2, "signals 33 of its own that reached the program's handler");
}

/// A process that queues signals to itself until its user may have no more, and keeps them.
pub(crate) fn hog(mut ready: UnixStream) {
    raw::block_every_signal();
    while raw::queue(process::id(), raw::tid(), libc::SIGRTMAX(), libc::SI_QUEUE).is_ok() {}
    ready.write_all(b"ready\n").expect("the supervisor waits");
}
