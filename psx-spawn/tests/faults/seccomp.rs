//! Seccomp filters against what a round lives on, there before it or put up by the round itself.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libc::sock_filter;
use psx::Broadcast;

use crate::case::Case;
use crate::case::Expected::{Clean, Ok, OkOrClean};
use crate::confine::{self, ALLOW, DENY, if_equal, load, step};
use crate::judge::Mark;
use crate::stage::Stage;

pub(crate) const CASES: &[Case] = &[
    Case::new(
        "seccomp-by-round",
        "applies a seccomp filter against tkill/tgkill; then a call",
        &[Ok, Ok],
        |stage| by_round(stage, &deny(&KILLS)),
    ),
    Case::new(
        "seccomp-by-round-all",
        "the same against rt_tgsigqueueinfo too",
        &[Ok, Clean("SignalDenied", "seccomp")],
        |stage| by_round(stage, &deny(&SENDS)),
    ),
    Case::new(
        "seccomp-by-round-futex",
        "the same against a futex's wait",
        &[Ok, OkOrClean],
        |stage| by_round(stage, &deny_waiting()),
    ),
    Case::new(
        "seccomp-by-round-kill",
        "applies a filter that kills whoever signals, or yields",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            apply(stage, &filter(KILL, &NOT_AFTER_THE_COMMIT));
        },
    ),
    Case::new(
        "seccomp-by-round-only-futex",
        "applies a filter that kills over anything but futex on the way out",
        &[Ok],
        |stage| {
            // Not dropped: closing its descriptors is another system call.
            let _crew = ManuallyDrop::new(stage.crew());
            apply(stage, &kill_all_but(&AFTER_THE_COMMIT));
        },
    ),
    Case::new(
        "seccomp-by-round-beside",
        "applies a filter that kills whoever yields, with births at the gate",
        &[Ok],
        beside_births,
    ),
    Case::new("seccomp-before", "a filter against tkill/tgkill was there before", &[Ok], |stage| {
        before(stage, &deny(&KILLS), Stage::change);
    })
    .bites(),
    Case::new(
        "seccomp-before-all",
        "such a filter against rt_tgsigqueueinfo too was there before",
        &[Clean("SignalDenied", "seccomp")],
        |stage| before(stage, &deny(&SENDS), Stage::change_soon),
    ),
    Case::new(
        "seccomp-before-gone",
        "a filter says of living threads that they are gone: Require, and again",
        &[Clean("Unreachable", "crew-"), Clean("Unreachable", "crew-")],
        |stage| {
            before(stage, &filter(GONE, &[libc::SYS_rt_tgsigqueueinfo]), |stage| {
                stage.change_soon();
                stage.change_soon();
            });
        },
    ),
    Case::new(
        "seccomp-before-futex",
        "such a filter against a futex's wait was there before",
        &[OkOrClean],
        |stage| before(stage, &deny_waiting(), Stage::change_soon),
    ),
];

const KILLS: [i64; 2] = [libc::SYS_tkill, libc::SYS_tgkill];
const SENDS: [i64; 4] =
    [libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_tgsigqueueinfo, libc::SYS_rt_sigqueueinfo];

/// What a round that may put up a filter does not call from its commit on.
const NOT_AFTER_THE_COMMIT: [i64; 6] = [
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_sched_yield,
    libc::SYS_prctl,
];

/// What such a round does call: a target leaves its handler by `rt_sigreturn`, the caller puts its signal
/// mask back. The rest is the table's own, which tells the supervisor what came out.
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

const GONE: sock_filter = step(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | libc::ESRCH as u32, 0, 0);
const KILL: sock_filter = step(libc::BPF_RET, libc::SECCOMP_RET_KILL_PROCESS, 0, 0);

/// A filter that fails these calls with EPERM.
pub(crate) fn deny(calls: &[i64]) -> Vec<sock_filter> {
    filter(DENY, calls)
}

/// A filter that does so with these calls.
pub(crate) fn filter(what: sock_filter, calls: &[i64]) -> Vec<sock_filter> {
    let steps = calls.iter().flat_map(|&nr| [if_equal(nr as u32), what]);
    [load(0)].into_iter().chain(steps).chain([ALLOW]).collect()
}

/// A filter that kills the process over any other call than these.
fn kill_all_but(calls: &[i64]) -> Vec<sock_filter> {
    let steps = calls.iter().flat_map(|&nr| [if_equal(nr as u32), ALLOW]);
    [load(0)].into_iter().chain(steps).chain([KILL]).collect()
}

/// A filter that fails FUTEX_WAIT and FUTEX_WAIT_BITSET with EPERM.
fn deny_waiting() -> Vec<sock_filter> {
    confine::deny_futex(&[libc::FUTEX_WAIT, libc::FUTEX_WAIT_BITSET])
}

/// Eight threads, a round that puts the filter on all, and a second round under it.
fn by_round(stage: &Stage, filter: &[sock_filter]) {
    let _crew = stage.crew();
    apply(stage, filter);
    stage.change_soon();
}

/// The round's gate opens, after its commit, for threads that start others all the time.
fn beside_births(stage: &Stage) {
    let _crew = stage.crew();
    let done = Arc::new(AtomicBool::new(false));
    let parents: Vec<_> = (0..3)
        .map(|_| {
            let done = Arc::clone(&done);
            stage.spawn("parent", move || {
                while !done.load(Ordering::Relaxed) {
                    psx::thread::spawn(|| ()).join().expect("a thread that does nothing");
                }
            })
        })
        .collect();
    let end = || {
        done.store(true, Ordering::Relaxed);
        parents.into_iter().for_each(|join| join());
    };
    apply_and(stage, &filter(KILL, &NOT_AFTER_THE_COMMIT), end);
}

/// A round that puts the filter on all threads.
fn apply(stage: &Stage, filter: &[sock_filter]) {
    apply_and(stage, filter, || ());
}

fn apply_and(stage: &Stage, filter: &[sock_filter], then: impl FnOnce()) {
    stage.count().expect("a round without a filter");
    let start = Instant::now();
    let apply = || {
        confine::no_new_privs();
        confine::filter(filter);
        Result::Ok(0)
    };
    // SAFETY: two system calls that read `filter`, which outlives the round.
    let result = unsafe { Broadcast::new().run(apply) };
    then();
    let timeout = Duration::from_secs(5);
    stage.answer(Mark::Filters(1), result.map(drop), start.elapsed(), timeout, 0);
}

fn before(stage: &Stage, filter: &[sock_filter], change: fn(&Stage)) {
    confine::no_new_privs();
    confine::filter(filter);
    let _crew = stage.crew();
    change(stage);
}
