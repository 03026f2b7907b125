//! Seccomp filters against the calls that a round makes, installed before it or by it (P1).

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libc::sock_filter;
use psx::Broadcast;
use psx_test_support::seccomp::{self, ALLOW, KILL, deny, filter};

use crate::context::Context;
use crate::oracle::Mark;
use crate::row::Expected::{Clean, Ok, OkOrClean};
use crate::row::Row;

pub(crate) const ROWS: &[Row] = &[
    Row::new(
        "seccomp-by-round",
        "applies a seccomp filter against tkill/tgkill; then a call",
        &[Ok, Ok],
        |context| by_round(context, &deny(&KILLS)),
    ),
    Row::new(
        "seccomp-by-round-all",
        "the same against rt_tgsigqueueinfo too",
        &[Ok, Clean("SignalDenied", "seccomp")],
        |context| by_round(context, &deny(&SENDS)),
    ),
    Row::new(
        "seccomp-by-round-futex",
        "the same against a futex's wait",
        &[Ok, OkOrClean],
        |context| by_round(context, &deny_waiting()),
    ),
    Row::new(
        "seccomp-by-round-kill",
        "applies a filter that kills a thread that signals or yields",
        &[Ok],
        |context| {
            let _probes = context.probes();
            apply(context, &filter(NOT_AFTER_THE_COMMIT, KILL, ALLOW));
        },
    ),
    Row::new(
        "seccomp-by-round-only-futex",
        "applies a filter that kills over any call but futex afterwards",
        &[Ok],
        |context| {
            // Not dropped: closing its descriptors takes another system call.
            let _probes = ManuallyDrop::new(context.probes());
            apply(context, &filter(AFTER_THE_COMMIT, ALLOW, KILL));
        },
    ),
    Row::new(
        "seccomp-by-round-beside",
        "applies a filter that kills a thread that yields, with spawns at the gate",
        &[Ok],
        beside_spawns,
    ),
    Row::new(
        "seccomp-before",
        "a filter against tkill/tgkill was there before",
        &[Ok],
        |context| {
            before(context, &deny(&KILLS), Context::change);
        },
    )
    .fails_on_glibc(),
    Row::new(
        "seccomp-before-all",
        "such a filter against rt_tgsigqueueinfo too was there before",
        &[Clean("SignalDenied", "seccomp")],
        |context| before(context, &deny(&SENDS), Context::change_soon),
    ),
    Row::new(
        "seccomp-before-gone",
        "a filter reports living threads as gone: Require, and again",
        &[Clean("Unreachable", NO_OBSTACLE), Clean("Unreachable", NO_OBSTACLE)],
        |context| {
            let gone = seccomp::answer(libc::ESRCH);
            before(context, &filter([libc::SYS_rt_tgsigqueueinfo], gone, ALLOW), |context| {
                context.change_soon();
                context.change_soon();
            });
        },
    ),
    Row::new(
        "seccomp-before-futex",
        "such a filter against a futex's wait was there before",
        &[OkOrClean],
        |context| before(context, &deny_waiting(), Context::change_soon),
    ),
];

/// The error of threads that nothing keeps from their signal.
const NO_OBSTACLE: &str = "); look for a blocked signal 33";

const KILLS: [i64; 2] = [libc::SYS_tkill, libc::SYS_tgkill];
const SENDS: [i64; 4] =
    [libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_tgsigqueueinfo, libc::SYS_rt_sigqueueinfo];

/// What a round that may install a filter does not call after its commit.
const NOT_AFTER_THE_COMMIT: [i64; 6] = [
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_sched_yield,
    libc::SYS_prctl,
];

/// What such a round does call: a target leaves its handler by `rt_sigreturn`, the caller restores its signal
/// mask. The others are the test's, which reports the result to the supervisor.
const AFTER_THE_COMMIT: [i64; 9] = [
    libc::SYS_futex,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_munmap,
    libc::SYS_exit_group,
];

/// A filter that fails FUTEX_WAIT and FUTEX_WAIT_BITSET with EPERM.
fn deny_waiting() -> Vec<sock_filter> {
    seccomp::deny_futex(&[libc::FUTEX_WAIT, libc::FUTEX_WAIT_BITSET])
}

/// Eight threads, a round that puts the filter on all, and a second round under it.
fn by_round(context: &Context, filter: &[sock_filter]) {
    let _probes = context.probes();
    apply(context, filter);
    context.change_soon();
}

/// After its commit the round opens the gate to threads that start others without a pause.
fn beside_spawns(context: &Context) {
    let _probes = context.probes();
    let done = Arc::new(AtomicBool::new(false));
    let parents: Vec<_> = (0..3)
        .map(|_| {
            let done = Arc::clone(&done);
            context.spawn("parent", move || {
                while !done.load(Ordering::Relaxed) {
                    psx::thread::spawn(|| ()).join().expect("a thread that does not panic");
                }
            })
        })
        .collect();
    let end = || {
        done.store(true, Ordering::Relaxed);
        parents.into_iter().for_each(|join| join());
    };
    apply_and(context, &filter(NOT_AFTER_THE_COMMIT, KILL, ALLOW), end);
}

/// A round that puts the filter on all threads.
fn apply(context: &Context, filter: &[sock_filter]) {
    apply_and(context, filter, || ());
}

fn apply_and(context: &Context, filter: &[sock_filter], then: impl FnOnce()) {
    context.count().expect("a round without a filter");
    let start = Instant::now();
    let apply = || {
        seccomp::no_new_privs();
        seccomp::install(filter);
        Result::Ok(0)
    };
    // SAFETY: two system calls that read `filter`, which outlives the round.
    let result = unsafe { Broadcast::new().run(apply) };
    then();
    let timeout = Duration::from_secs(5);
    context.report(Mark::Filters(1), result.map(drop), start.elapsed(), timeout, 0);
}

fn before(context: &Context, filter: &[sock_filter], change: fn(&Context)) {
    seccomp::no_new_privs();
    seccomp::install(filter);
    let _probes = context.probes();
    change(context);
}
