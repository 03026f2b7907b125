//! Signals that cannot be sent or received, or that belong to the program (P1, P6, P7, P9, P10).

use std::ffi::{c_int, c_void};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use std::{mem, process, ptr};

use psx_test_support::raw::{limit, set_limit};
use psx_test_support::signal::{self, Handler, STOP_BIT, set_mask};
use psx_test_support::threads::{idle, tid};
use psx_test_support::{Line, procfs};

use crate::context::{Context, is_level};
use crate::raw;
use crate::row::Expected::{Clean, Ok};
use crate::row::{Row, Start};

pub(crate) const ROWS: &[Row] = &[
    Row::new("none", "none", &[Ok], |context| {
        let _probes = context.probes();
        context.change();
    }),
    Row::new("sigpending-root", "RLIMIT_SIGPENDING 0, root", &[Ok], |context| {
        no_queue(context, [0, 0], Context::change);
    })
    .start(Start::Root)
    .raises_limit()
    .fails_on_glibc(),
    Row::new(
        "sigpending-plain",
        "RLIMIT_SIGPENDING 0, uid 1000, hard limit 0 too",
        &[Clean("Unreachable", "(probe-7), which has no room in its signal queue")],
        |context| no_queue(context, [0, 0], Context::change_soon),
    )
    .start(Start::Plain)
    .fails_on_glibc(),
    Row::new(
        "sigpending-soft",
        "RLIMIT_SIGPENDING 0, uid 1000, hard limit as it was",
        &[Ok],
        |context| no_queue(context, [0, limit(libc::RLIMIT_SIGPENDING)[1]], Context::change),
    )
    .start(Start::Plain)
    .fails_on_glibc(),
    Row::new(
        "sigpending-set-user-id",
        "a set-user-ID-root program started under ulimit -i 0",
        &[Ok],
        |context| {
            let _probes = context.probes();
            context.change();
        },
    )
    .start(Start::SetUserIdNoQueue)
    .raises_limit()
    .fails_on_glibc(),
    Row::new(
        "quota-plain",
        "the user's signal quota used up by another process; then freed",
        &[Clean("Unreachable", "(probe-7), which has no room in its signal queue"), Ok],
        |context| {
            let _probes = context.probes();
            context.ask("start-helper use-up-quota");
            context.change_soon();
            context.ask("stop-helper");
            context.change();
        },
    )
    .start(Start::Plain)
    .alone()
    .fails_on_glibc(),
    Row::new(
        "quota-set-user-id",
        "the same against a set-user-ID-root program",
        &[Ok],
        |context| {
            let _probes = context.probes();
            context.ask("start-helper use-up-quota");
            context.change();
        },
    )
    .start(Start::SetUserId)
    .alone()
    .raises_limit()
    .fails_on_glibc(),
    Row::new(
        "blocked-raw",
        "a thread blocks all 64 signals by raw rt_sigprocmask",
        &[Clean("Unreachable", "(blocker), which blocks signal 33; unblock")],
        |context| {
            blocked(context, || set_mask(!0));
            context.noting_stops(Duration::from_millis(500), Context::change_soon);
        },
    )
    .fails_on_glibc(),
    Row::new("blocked-libc", "a thread blocks all signals by pthread_sigmask", &[Ok], |context| {
        blocked(context, || {
            // SAFETY: a signal set is bits, filled in before use.
            unsafe {
                let mut all = mem::zeroed();
                libc::sigfillset(&mut all);
                libc::pthread_sigmask(libc::SIG_SETMASK, &all, ptr::null_mut());
            }
        });
        context.change();
    }),
    Row::new(
        "inherited-mask",
        "the parent left all 64 signals blocked, and 33 ignored",
        &[Ok],
        |context| {
            raw::ignore_33();
            set_mask(!0);
            let _probes = context.probes();
            context.change();
        },
    ),
    Row::new(
        "handler-before",
        "the program's own handler for 33, installed before psx",
        &[Ok],
        |context| {
            // glibc installs its handler with the first thread that it starts.
            std::thread::spawn(|| ()).join().expect("a first thread");
            raw::handle_33(count::<1>);
            let _probes = context.probes();
            context.count().expect("a first round");
            gets_its_own();
            context.change();
        },
    ),
    Row::new(
        "handler-after",
        "the program's own handler for 33, installed after psx",
        &[Ok],
        |context| {
            let _probes = context.probes();
            context.count().expect("a first round");
            raw::handle_33(count::<1>);
            context.count().expect("a round under another handler");
            gets_its_own();
            context.change();
        },
    ),
    Row::new(
        "handler-while-stopping",
        "another handler for 33 takes a signal that is pending",
        &[Ok],
        |context| {
            let _probes = context.probes();
            let (mut unblocks, mut unblock) = UnixStream::pair().expect("a socket pair");
            let (tell, told) = mpsc::channel();
            let _ = context.spawn("late", move || {
                set_mask(!0);
                tell.send(tid()).expect("main waits");
                unblocks.read_exact(&mut [0]).expect("a word from the installer");
                set_mask(0);
                idle()
            });
            let late = told.recv().expect("the id of a thread");
            // It ends before main reports the result, since the round waits for what it does. Which
            // handler gets the signal, this one or psx's installed again, is random.
            std::thread::spawn(move || {
                await_33(late);
                raw::handle_33(count::<1>);
                unblock.write_all(&[0]).expect("the late thread waits");
            });
            context.change_registered();
        },
    ),
    Row::new(
        "handler-in-round",
        "a thread installs its own handler for 33 in a tight loop, 300 calls",
        &[Ok],
        |context| {
            let probes = context.probes_that(is_level);
            context.busy("installer", || raw::handle_33(count::<1>));
            context.conclude(context.count_to(300), probes.in_old_state());
        },
    )
    .seconds(60),
    Row::new(
        "handlers-many",
        "nine different handlers for 33, each installed over psx's",
        &[Clean("Handler", "more than eight different handlers")],
        |context| {
            let _probes = context.probes();
            // The first that psx finds is glibc's.
            context.count().expect("a first round");
            for handler in [count::<1>, count::<2>, count::<3>, count::<4>, count::<5>, count::<6>]
            {
                raw::handle_33(handler);
                context.count().expect("a round with one more handler to remember");
            }
            raw::handle_33(count::<7>);
            context.count().expect("a round with the eighth handler");
            raw::handle_33(count::<8>);
            context.change_soon();
        },
    ),
    Row::new(
        "handler-over",
        "a handler over psx's that passes on to it; glibc's own setresuid",
        &[Ok],
        |context| {
            let probes = context.probes_that(is_level);
            context.count().expect("a first round");
            let round = |_| {
                BEFORE.store(raw::put_over_33(pass_on), Ordering::Relaxed);
                set_no_user();
                let counted = context.count();
                set_no_user();
                counted
            };
            context.conclude((0..50).map(round).collect(), probes.in_old_state());
        },
    ),
];

/// Waits until signal 33 is pending for a thread of this process that blocks it.
fn await_33(tid: u32) {
    while procfs::task(tid).mask("SigPnd") & STOP_BIT == 0 {
        std::thread::yield_now();
    }
}

fn no_queue(context: &Context, limit: [u64; 2], change: fn(&Context)) {
    let _probes = context.probes();
    set_limit(libc::RLIMIT_SIGPENDING, limit);
    change(context);
}

/// Starts eight threads and one that has blocked signals by `block`.
fn blocked<T: 'static>(context: &Context, block: fn() -> T) {
    let _probes = context.probes();
    let mut blocked = false;
    context.busy("blocker", move || {
        if !mem::replace(&mut blocked, true) {
            block();
        } else {
            std::thread::park();
        }
    });
}

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A handler; each `N` gives another one.
extern "C" fn count<const N: usize>(_: c_int) {
    COUNT.fetch_add(N, Ordering::Relaxed);
}

/// The handler before [`pass_on`].
static BEFORE: AtomicUsize = AtomicUsize::new(0);

extern "C" fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: stored before this handler can run: psx's, which a round has installed.
    let before: Handler = unsafe { mem::transmute(BEFORE.load(Ordering::Relaxed)) };
    before(signal, info, context);
}

/// glibc's broadcast, which returns when every thread has taken its signal 33. Changes nothing.
fn set_no_user() {
    // SAFETY: no id is to change.
    assert_eq!(unsafe { libc::setresuid(!0, !0, !0) }, 0, "{}", io::Error::last_os_error());
}

/// Sends signal 33 to this thread as other programs do: each must reach the program's handler.
fn gets_its_own() {
    let before = COUNT.load(Ordering::Relaxed);
    signal::send(process::id(), Some(tid()), 33).expect("tgkill to oneself");
    signal::queue(process::id(), tid(), 33, libc::SI_QUEUE).expect("a queued signal to oneself");
    let received = COUNT.load(Ordering::Relaxed) - before;
    assert_eq!(received, 2, "signals 33 of its own that reached the program's handler");
}

/// Queues signals to this process until its user's quota is used up, and keeps them.
pub(crate) fn use_up_quota(line: &Line) {
    set_mask(!0);
    while signal::queue(process::id(), tid(), libc::SIGRTMAX(), libc::SI_QUEUE).is_ok() {}
    line.send("ready");
}
