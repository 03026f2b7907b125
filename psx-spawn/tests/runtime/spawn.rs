//! Threads started through `psx::thread`: they are std's, and registered from start to end (P2, P4, P5).

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Barrier, mpsc};
use std::{process, thread as std_thread};

use psx::privileges::ThreadKind;
use psx::thread::{self, Builder};
use psx::{Coverage, Error};
use psx_core::SpawnGuard;
use psx_test_support::{Case, Ending, Line, procfs};

use psx_test_support::raw::slack;
use psx_test_support::threads::{idle, tid};

use crate::kernel::{STRICT, broadcast_no_new_privs, broadcast_slack};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("spawn::std_programs_run_on_std", |_| on_std::program()),
        Case::new("spawn::std_programs_run_on_psx", |_| {
            on_psx::program();
            assert_no_ticket_left();
        }),
        Case::new("spawn::every_way_to_spawn_registers", every_way_to_spawn_registers).check(
            |child| {
                child.inspect("changed", |child| {
                    assert_eq!(child.tasks().len(), 6);
                    child.assert_all("NoNewPrivs", "1");
                });
                assert_eq!(child.end(), Ending::Exited(0));
            },
        ),
        Case::new("spawn::first_line_sees_the_last_round", first_line_sees_the_last_round),
        Case::new("spawn::refused_by_the_system", refused_by_the_system),
        Case::new("spawn::bad_name", bad_name),
        Case::new("spawn::spawn_panics_where_std_does", spawn_panics).prepare(|command| {
            command.env("RUST_MIN_STACK", NO_STACK.to_string());
        }),
        Case::new("spawn::spawning_thread_is_adopted", spawning_thread_is_adopted),
        Case::new("spawn::too_many_in_one_another", too_many_in_one_another),
        Case::new("spawn::more_at_once_than_was_prepared", more_at_once_than_was_prepared),
    ]
}

/// One program, once on std and once on psx: only the `use` differs.
mod on_std {
    use std::thread;
    include!("program.in.rs");
}
mod on_psx {
    use psx::thread;
    include!("program.in.rs");
}

/// `psx::thread`'s functions have std's signatures and return std's types.
#[expect(dead_code, reason = "it only has to compile")]
fn signatures<'scope, 'env: 'scope, F, G, T>(
    handle: std_thread::JoinHandle<T>,
) -> thread::JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    G: FnOnce() -> T + Send,
    T: Send + 'static,
{
    let _ = [std_thread::spawn::<F, T>, thread::spawn::<F, T>];
    let _: fn(Builder, F) -> std::io::Result<std_thread::JoinHandle<T>> = Builder::spawn;
    let _: unsafe fn(Builder, G) -> std::io::Result<std_thread::JoinHandle<T>> =
        Builder::spawn_unchecked;
    let _: fn(&'scope thread::Scope<'scope, 'env>, F) -> std_thread::ScopedJoinHandle<'scope, T> =
        thread::Scope::spawn;
    handle
}

/// No ticket is outstanding: the round would end as `Busy`.
fn assert_no_ticket_left() {
    let slack = slack() + 1;
    assert_eq!(broadcast_slack(STRICT, slack).unwrap(), procfs::tids(process::id()).len());
}

fn every_way_to_spawn_registers(line: &Line) {
    thread::spawn(idle);
    Builder::new().spawn(idle).unwrap();
    // SAFETY: the thread borrows nothing.
    unsafe { Builder::new().spawn_unchecked(idle).unwrap() };
    let end = Barrier::new(3);
    thread::scope(|scope| {
        scope.spawn(|| end.wait());
        Builder::new().spawn_scoped(scope, || end.wait()).unwrap();
        assert_eq!(broadcast_no_new_privs(STRICT), Ok(6));
        line.pause("changed");
        end.wait();
    });
}

/// A thread that starts while rounds run has what the last of them set, and counts in the next.
fn first_line_sees_the_last_round(_: &Line) {
    for round in 1..200 {
        broadcast_slack(STRICT, round).unwrap();
        let (started, go) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            let new = scope.spawn(|| {
                let first = slack();
                started.wait();
                go.wait();
                (first, slack())
            });
            // No handshake first: the thread need not have run yet. And no proof of coverage, which
            // would hide a round that began too early.
            let lenient = STRICT.coverage(Coverage::Registered);
            assert_eq!(broadcast_slack(lenient, round + 1000), Ok(2));
            started.wait();
            go.wait();
            let (first, second) = new.join().unwrap();
            assert!(first == round || first == round + 1000, "{first} in round {round}");
            assert_eq!(second, round + 1000);
        });
    }
}

/// More than any address space has: the system refuses such a thread even to root.
const NO_STACK: usize = 1 << 60;

fn refused_by_the_system(_: &Line) {
    for _ in 0..10 {
        let refused = Builder::new().stack_size(NO_STACK).spawn(|| ()).unwrap_err();
        assert!(refused.raw_os_error().is_some(), "{refused}");
    }
    assert_no_ticket_left();
    thread::scope(|scope| {
        Builder::new().stack_size(NO_STACK).spawn_scoped(scope, || ()).unwrap_err();
    });
    assert_no_ticket_left();
    thread::spawn(|| ()).join().unwrap();
    assert_no_ticket_left();
}

fn bad_name(_: &Line) {
    let bad = || Builder::new().name("zero\0byte".into());
    expect_panic(|| drop(bad().spawn(|| ())));
    expect_panic(|| {
        thread::scope(|scope| {
            let _ = bad().spawn_scoped(scope, || ());
        });
    });
    assert_no_ticket_left();
}

fn spawn_panics(_: &Line) {
    let message = expect_panic(|| drop(thread::spawn(|| ())));
    let as_std = expect_panic(|| drop(std_thread::spawn(|| ())));
    assert_eq!(message, as_std);
    assert_no_ticket_left();
}

/// Runs `f`, which must panic, without the case's hook, which ends the process.
fn expect_panic(f: impl FnOnce()) -> String {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    panic::set_hook(hook);
    *result.unwrap_err().downcast::<String>().expect("a message")
}

fn too_many_in_one_another(_: &Line) {
    let passages: Vec<_> = (0..255).map(|_| SpawnGuard::enter().unwrap()).collect();
    for _ in 0..2 {
        assert!(matches!(SpawnGuard::enter(), Err(Error::Reentrant)));
    }
    assert_eq!(broadcast_slack(STRICT, 1), Err(Error::Reentrant));
    drop(passages);
    drop(SpawnGuard::enter().unwrap());
    assert_eq!(broadcast_slack(STRICT, 2), Ok(1));
}

fn spawning_thread_is_adopted(_: &Line) {
    let is_registered = |tid| {
        let threads = psx::threads().unwrap();
        let thread = threads.iter().find(|thread| thread.tid() == tid).expect("a living thread");
        thread.kind == ThreadKind::Registered
    };
    let step = &Barrier::new(2);
    std_thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        scope.spawn(move || {
            tell.send(tid()).unwrap();
            step.wait();
            thread::spawn(|| ()).join().unwrap();
            step.wait();
            step.wait();
        });
        let parent = told.recv().unwrap();
        assert!(!is_registered(parent));
        step.wait();
        step.wait();
        assert!(is_registered(parent));
        step.wait();
    });
}

/// More threads register while a round waits at the gate than it has room for: it allocates more, and
/// reaches all of them.
fn more_at_once_than_was_prepared(_: &Line) {
    const BURST: usize = 200;
    let lenient = STRICT.coverage(Coverage::Registered);
    for turn in 1..=10 {
        let expected = slack() + turn;
        let (open, started) = (Barrier::new(2), Barrier::new(BURST + 1));
        std_thread::scope(|scope| {
            let round = scope.spawn(|| {
                thread::adopt().unwrap();
                open.wait();
                open.wait();
                broadcast_slack(lenient, expected).unwrap()
            });
            open.wait();
            let passage = SpawnGuard::enter().unwrap();
            let tickets: Vec<_> = (0..BURST).map(|_| passage.ticket().unwrap()).collect();
            open.wait();
            let started = &started;
            let redeem = |ticket: psx_core::Ticket| {
                scope.spawn(move || {
                    ticket.redeem();
                    started.wait();
                    slack()
                })
            };
            let children: Vec<_> = tickets.into_iter().map(redeem).collect();
            drop(passage);
            assert_eq!(round.join().unwrap(), BURST + 2);
            started.wait();
            for child in children {
                assert_eq!(child.join().unwrap(), expected);
            }
        });
    }
}
