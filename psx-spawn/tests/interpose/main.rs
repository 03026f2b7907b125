//! Feature `interpose`: every thread that is started by `pthread_create` or `thrd_create` is registered (P5).

mod direct;
mod library;

use std::process::{self, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use psx::privileges::{ApplyError, ThreadKind};
use psx::{Broadcast, Error, Privileges};
use psx_test_support::threads::idle;
use psx_test_support::{Case, Child, Ending, Line, procfs};

use library::Library;

fn main() -> ExitCode {
    psx_test_support::main(vec![
        Case::new("interpose::threads_of_std", |line| {
            start_with_std(3);
            apply_and_show(4, line);
        })
        .check(all_have_it),
        Case::new("interpose::a_thread_that_starts_one", |line| {
            // Main only starts a thread, and that one broadcasts.
            thread::scope(|scope| {
                scope.spawn(|| apply_and_show(2, line));
            });
        })
        .check(all_have_it),
        Case::new("interpose::threads_of_a_c_library", |line| {
            let library = Library::load();
            start_with_std(1);
            // Its constructor has started one already.
            library.call("start");
            apply_and_show(4, line);
        })
        .needs(library::compiler)
        .check(all_have_it),
        Case::new("interpose::threads_of_c11", |line| {
            let library = Library::load();
            library.call("start_c11");
            apply_and_show(3, line);
        })
        .needs(library::compiler)
        .check(all_have_it),
        Case::new("interpose::ends_of_a_c11_thread", |_| {
            let library = Library::load();
            for how in 0..2 {
                assert_eq!(library.call_with("start_and_end_c11", how), 0);
            }
            assert_registered_are(2);
        })
        .needs(library::compiler),
        Case::new("interpose::threads_of_cxx", |line| {
            Library::load_cxx().call("start");
            apply_and_show(2, line);
        })
        .needs(library::cxx_compiler)
        .check(all_have_it),
        Case::new("interpose::calls_from_this_program", |line| {
            direct::start_pthread();
            direct::start_c11();
            apply_and_show(3, line);
        })
        .check(all_have_it),
        Case::new("interpose::ends_of_a_c_thread", |_| {
            let library = Library::load();
            for how in 0..3 {
                assert_eq!(library.call_with("start_and_end", how), 0);
            }
            assert_eq!(Privileges::new().no_new_privs().apply().unwrap().threads(), 2);
            assert_registered_are(2);
        })
        .needs(library::compiler),
        foreign("interpose::a_raw_clone_stays_foreign", |line| {
            Library::load().call("clone_raw");
            refused(1, line);
        }),
        foreign("interpose::a_deeply_bound_library_stays_foreign", |line| {
            // Its constructor starts the second.
            Library::load_with_deepbind().call("start_c11");
            refused(2, line);
        }),
        foreign("interpose::a_timers_thread_stays_foreign", |line| {
            Library::load().call("start_timer");
            refused(1, line);
        }),
        foreign("interpose::an_aio_thread_stays_foreign", |line| {
            Library::load().call("start_aio");
            refused(1, line);
        }),
        foreign("interpose::a_message_queues_thread_stays_foreign", |line| {
            Library::load().call("start_mq");
            refused(1, line);
        }),
        Case::new("interpose::psx_threads_count_once", |_| {
            let (ready, is_ready) = mpsc::channel();
            psx::thread::spawn(move || {
                ready.send(()).unwrap();
                idle()
            });
            is_ready.recv().unwrap();
            assert_registered_are(2);
        }),
        Case::new("interpose::thread_refused_by_the_system", |_| {
            let too_large = thread::Builder::new().stack_size(1 << 46);
            let error = too_large.spawn(|| ()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
            // Its ticket has been given back, or else this would wait for it.
            assert_eq!(Privileges::new().no_new_privs().apply().unwrap().threads(), 1);
        }),
        Case::new("interpose::starts_between_rounds", starts_between_rounds),
    ])
}

fn start_with_std(count: usize) {
    for _ in 0..count {
        thread::spawn(idle as fn() -> _);
    }
}

/// A case in which a library starts a thread without psx, in a program with glibc: the proof finds it.
fn foreign(name: &'static str, body: fn(&Line)) -> Case {
    let judge = |child: &mut Child| {
        child.inspect("refused", |child| child.assert_all("NoNewPrivs", "0"));
        assert_eq!(child.end(), Ending::Exited(0));
    };
    Case::new(name, body).needs(library::compiler).check(judge)
}

/// A broadcast is refused, and names this many threads.
fn refused(foreign: usize, line: &Line) {
    // Long enough for a busy machine: the proof's answer comes early.
    let strict = Broadcast::new().timeout(Duration::from_secs(30));
    let error = Privileges::new().no_new_privs().apply_with(strict).unwrap_err();
    let ApplyError::Broadcast(Error::Uncovered(threads)) = error else { panic!("{error}") };
    assert_eq!(threads.len(), foreign, "{threads}");
    line.pause("refused");
}

fn apply_and_show(threads: usize, line: &Line) {
    let step = Privileges::new().no_new_privs();
    assert_eq!(step.apply().unwrap().threads(), threads);
    line.pause("applied");
}

fn all_have_it(child: &mut Child) {
    child.inspect("applied", |child| child.assert_all("NoNewPrivs", "1"));
    assert_eq!(child.end(), Ending::Exited(0));
}

/// The registered threads are those that the kernel has, each of them once.
fn assert_registered_are(count: usize) {
    let threads = psx::threads().unwrap();
    let registered = threads.iter().filter(|state| state.kind == ThreadKind::Registered);
    let mut registered: Vec<_> = registered.map(|state| state.tid()).collect();
    registered.sort_unstable();
    let tasks: Vec<_> = procfs::tasks(process::id()).iter().map(|task| task.tid).collect();
    assert_eq!(registered, tasks);
    assert_eq!(registered.len(), count);
}

/// Threads start and end, by std, while rounds run: every round covers all of them.
fn starts_between_rounds(_: &Line) {
    static OVER: AtomicBool = AtomicBool::new(false);
    let parents: Vec<_> = (0..2)
        .map(|_| {
            thread::spawn(|| {
                while !OVER.load(Ordering::Relaxed) {
                    thread::spawn(|| ()).join().unwrap();
                }
            })
        })
        .collect();
    for _ in 0..500 {
        assert!(Privileges::new().keep_capabilities().apply().unwrap().threads() >= 3);
    }
    OVER.store(true, Ordering::Relaxed);
    for parent in parents {
        parent.join().unwrap();
    }
}
