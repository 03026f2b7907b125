//! System calls that always succeed, except under a seccomp filter that refuses them, or reports a success
//! without making them (P1).

use std::thread;

use libc::sock_filter;
use psx::{Broadcast, Divergence, Errno, Error};
use psx_test_support::seccomp::{self, ALLOW, DENY, answer, deny, filter, filter_arguments};
use psx_test_support::threads::tid;

use crate::context::Context;
use crate::row::Expected::{Clean, Ok};
use crate::row::{Row, Start};
use crate::threads::start_idle;

pub(crate) const ROWS: &[Row] = &[
    Row::new(
        "refused-gettid",
        "a filter refuses gettid; a thread adopts, and a call",
        &[Clean("RegistrationFailed", "Operation not permitted")],
        |context| under(context, &deny(&[libc::SYS_gettid])),
    ),
    Row::new(
        "pretended-gettid",
        "a filter makes gettid return 0",
        &[Clean("RegistrationFailed", "")],
        |context| under(context, &pretend(libc::SYS_gettid)),
    ),
    Row::new(
        "refused-gettid-target",
        "a filter on one thread refuses gettid",
        &[Clean("Unreachable", "(silent); look for a blocked signal 33")],
        |context| {
            let _probes = context.probes();
            context.count().expect("a first round");
            let mut is_under = false;
            context.busy("silent", move || {
                if is_under {
                    thread::park();
                } else {
                    is_under = true;
                    seccomp::no_new_privs();
                    seccomp::install(&deny(&[libc::SYS_gettid]));
                }
            });
            context.change_soon();
        },
    )
    // Another user sets no_new_privs on that thread alone, which the oracle would see as a change.
    .start(Start::Root),
    Row::new("refused-getpid", "a filter refuses getpid; a thread adopts", &[Ok], |context| {
        under(context, &deny(&[libc::SYS_getpid]));
    }),
    Row::new(
        "refused-mask",
        "a filter refuses rt_sigprocmask; a thread adopts, and a call",
        &[Clean("Handler", "rt_sigprocmask")],
        |context| under(context, &deny(&[libc::SYS_rt_sigprocmask])),
    ),
    Row::new(
        "pretended-mask",
        "a filter makes rt_sigprocmask return 0",
        &[Clean("Handler", "rt_sigprocmask")],
        |context| under(context, &pretend(libc::SYS_rt_sigprocmask)),
    ),
    Row::new(
        "refused-action",
        "a filter refuses rt_sigaction",
        &[Clean("Handler", "rt_sigaction")],
        |context| first_round_under(context, &deny(&[libc::SYS_rt_sigaction])),
    ),
    Row::new(
        "pretended-action",
        "a filter makes rt_sigaction return 0, before the first round",
        &[Clean("Handler", "rt_sigaction")],
        |context| first_round_under(context, &pretend(libc::SYS_rt_sigaction)),
    ),
    Row::new(
        "refused-name",
        "a filter refuses PR_GET_NAME; a thread's call fails, and the report lacks its name",
        &[Ok],
        |context| {
            let _probes = context.probes();
            let failing = start_idle(context, "failing");
            seccomp::no_new_privs();
            let args = [libc::PR_GET_NAME as u32];
            seccomp::install_on_all(&filter_arguments(libc::SYS_prctl, &args, DENY));
            let op = || match tid() == failing {
                true => Err(Errno::from_raw(libc::EPERM)),
                false => Result::Ok(0),
            };
            let broadcast = Broadcast::new().divergence(Divergence::Report);
            // SAFETY: gettid changes nothing.
            let report = unsafe { broadcast.run(op) }.expect("a report");
            let [divergent] = report.divergent() else { panic!("{report:?}") };
            assert_eq!(divergent.thread().tid(), failing);
            context.change();
        },
    ),
];

/// A filter that returns 0 for a call without making it.
fn pretend(call: i64) -> Vec<sock_filter> {
    filter([call], answer(0), ALLOW)
}

/// Registered threads, then the filter on all; one more thread that tries to register, and a call.
fn under(context: &Context, filter: &[sock_filter]) {
    let _probes = context.probes();
    context.count().expect("a first round");
    seccomp::no_new_privs();
    seccomp::install_on_all(filter);
    adoption_fails();
    context.change_soon();
}

/// Registered threads, then the filter on all, and the first call.
fn first_round_under(context: &Context, filter: &[sock_filter]) {
    let _probes = context.probes();
    seccomp::no_new_privs();
    seccomp::install_on_all(filter);
    context.change_soon();
}

/// A thread cannot register, gets an error, and ends normally.
pub(crate) fn adoption_fails() {
    let adopted = thread::spawn(psx::thread::adopt).join().expect("a thread that does not panic");
    assert!(matches!(adopted, Err(Error::RegistrationFailed(_))), "{adopted:?}");
}
