//! System calls that always succeed, but for a seccomp filter that refuses them, or says that they were
//! made.

use std::thread;

use libc::sock_filter;
use psx::{Broadcast, Divergence, Errno, Error};

use crate::case::Case;
use crate::case::Expected::{Clean, Ok};
use crate::confine::{self, ALLOW, DENY, if_equal, load, step};
use crate::raw;
use crate::seccomp::{deny, filter};
use crate::stage::Stage;
use crate::threads::idle;

pub(crate) const CASES: &[Case] = &[
    Case::new(
        "refused-gettid",
        "a filter refuses gettid; a thread adopts, and a call",
        &[Clean("RegistrationFailed", "Operation not permitted")],
        |stage| under(stage, &deny(&[libc::SYS_gettid])),
    ),
    Case::new(
        "pretended-gettid",
        "a filter makes gettid return 0",
        &[Clean("RegistrationFailed", "")],
        |stage| under(stage, &pretend(libc::SYS_gettid)),
    ),
    Case::new(
        "refused-gettid-target",
        "a filter on one thread refuses gettid",
        &[Clean("Unreachable", "silent")],
        |stage| {
            let _crew = stage.crew();
            stage.count().expect("a first round");
            let mut is_under = false;
            stage.busy("silent", move || {
                if is_under {
                    thread::park();
                } else {
                    is_under = true;
                    confine::no_new_privs();
                    confine::filter(&deny(&[libc::SYS_gettid]));
                }
            });
            stage.change_soon();
        },
    ),
    Case::new("refused-getpid", "a filter refuses getpid; a thread adopts", &[Ok], |stage| {
        under(stage, &deny(&[libc::SYS_getpid]));
    }),
    Case::new(
        "refused-mask",
        "a filter refuses rt_sigprocmask; a thread adopts, and a call",
        &[Clean("Handler", "rt_sigprocmask")],
        |stage| under(stage, &deny(&[libc::SYS_rt_sigprocmask])),
    ),
    Case::new(
        "pretended-mask",
        "a filter makes rt_sigprocmask return 0",
        &[Clean("Handler", "rt_sigprocmask")],
        |stage| under(stage, &pretend(libc::SYS_rt_sigprocmask)),
    ),
    Case::new(
        "refused-action",
        "a filter refuses rt_sigaction",
        &[Clean("Handler", "rt_sigaction")],
        |stage| first_round_under(stage, &deny(&[libc::SYS_rt_sigaction])),
    ),
    Case::new(
        "pretended-action",
        "a filter makes rt_sigaction return 0, before the first round",
        &[Clean("Handler", "rt_sigaction")],
        |stage| first_round_under(stage, &pretend(libc::SYS_rt_sigaction)),
    ),
    Case::new(
        "refused-name",
        "a filter refuses PR_GET_NAME; a thread's call fails, and the report is nameless",
        &[Ok],
        |stage| {
            let _crew = stage.crew();
            let stray = idle(stage, "stray");
            confine::no_new_privs();
            confine::filter_all(&[
                load(0),
                step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_prctl as u32, 1, 0),
                ALLOW,
                load(16),
                if_equal(libc::PR_GET_NAME as u32),
                DENY,
                ALLOW,
            ]);
            let op = || match raw::tid() == stray {
                true => Err(Errno::from_raw(libc::EPERM)),
                false => Result::Ok(0),
            };
            let broadcast = Broadcast::new().divergence(Divergence::Report);
            // SAFETY: gettid changes nothing.
            let report = unsafe { broadcast.run(op) }.expect("a report");
            let [divergent] = report.divergent() else { panic!("{report:?}") };
            assert_eq!(divergent.thread().tid(), stray);
            stage.change();
        },
    ),
];

/// A filter that answers a call in the kernel's place, with 0.
fn pretend(call: i64) -> Vec<sock_filter> {
    filter(step(libc::BPF_RET, libc::SECCOMP_RET_ERRNO, 0, 0), &[call])
}

/// Registered threads, then the filter on all; one more that wants to register, and a call.
fn under(stage: &Stage, filter: &[sock_filter]) {
    let _crew = stage.crew();
    stage.count().expect("a first round");
    confine::no_new_privs();
    confine::filter_all(filter);
    adoption_fails();
    stage.change_soon();
}

/// Registered threads, then the filter on all, and the first call.
fn first_round_under(stage: &Stage, filter: &[sock_filter]) {
    let _crew = stage.crew();
    confine::no_new_privs();
    confine::filter_all(filter);
    stage.change_soon();
}

/// A thread cannot register, is told so, and ends like any other.
pub(crate) fn adoption_fails() {
    let adopted = thread::spawn(psx::thread::adopt).join().expect("a thread that ends well");
    assert!(matches!(adopted, Err(Error::RegistrationFailed(_))), "{adopted:?}");
}
