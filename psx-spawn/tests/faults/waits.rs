//! Threads that take their signal late, because of the scheduler or because they wait inside the kernel
//! for another thread of the process. Each row notes for how long a thread stood still that has nothing
//! to do with the fault.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{hint, thread};

use psx::{Broadcast, Error};

use crate::case::Expected::{Ok, OkOrClean};
use crate::case::{Case, Start};
use crate::raw;
use crate::servers::{self, Permissions, ServedPage};
use crate::stage::Stage;
use crate::supervisor::workshop;

pub(crate) const CASES: &[Case] = &[
    Case::new("sched-idle", "a SCHED_IDLE thread beside busy processes", &[Ok], |stage| {
        let _crew = stage.crew();
        let mut idle = false;
        stage.busy("idle", move || {
            if !idle {
                raw::schedule_idle();
                idle = true;
            }
            hint::spin_loop();
        });
        stage.ask("help burn");
        stage.noting_stops(Stage::change);
    })
    .alone(),
    Case::new(
        "waits-socket",
        "a thread waits for another one at the end of a socket",
        &[Ok],
        |stage| {
            let (mut wait, mut serve) = UnixStream::pair().expect("a socket pair");
            let _ = stage.spawn("server", move || {
                while serve.read_exact(&mut [0]).is_ok() {
                    work();
                    serve.write_all(&[0]).expect("a waiting thread");
                }
            });
            stage.busy("waiter", move || {
                wait.write_all(&[0]).expect("a server");
                wait.read_exact(&mut [0]).expect("a server");
            });
            let refused = beside_a_server(stage);
            assert_eq!(refused, 0, "rounds refused, though the wait can be interrupted");
        },
    ),
    Case::new(
        "waits-userfaultfd",
        "a thread waits in the kernel for a page that another one serves",
        &[OkOrClean],
        |stage| {
            let page = Arc::new(ServedPage::map());
            let served = Arc::clone(&page);
            let _ = stage.spawn("server", move || {
                loop {
                    served.serve(work);
                }
            });
            let zeros = File::open("/dev/zero").expect("/dev/zero");
            stage.busy("waiter", move || page.wait_for(&zeros));
            beside_a_server(stage);
        },
    )
    .start(Start::Root)
    .seconds(30)
    .needs(servers::has_userfaultfd, "userfaultfd"),
    Case::new(
        "waits-fanotify",
        "a thread opens a file that another one must permit (fanotify)",
        &[OkOrClean],
        |stage| {
            let path = workshop("permitted");
            fs::write(&path, "").expect("a file");
            let permissions = Permissions::of(&path);
            let _ = stage.spawn("server", move || {
                loop {
                    permissions.give(work);
                }
            });
            stage.busy("waiter", move || drop(File::open(&path).expect("permission")));
            beside_a_server(stage);
        },
    )
    .start(Start::Root)
    .seconds(30)
    .needs(servers::has_fanotify, "fanotify permission events"),
];

/// How often the server has begun to serve.
static BEGUN: AtomicUsize = AtomicUsize::new(0);

/// What the server does while the other thread waits.
fn work() {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1) {
        hint::spin_loop();
    }
}

fn await_work() {
    let begun = BEGUN.load(Ordering::Relaxed);
    while BEGUN.load(Ordering::Relaxed) == begun {
        thread::yield_now();
    }
}

/// Five rounds that begin while the server works, then the change. Returns how many were refused.
fn beside_a_server(stage: &Stage) -> usize {
    const ROUNDS: usize = 5;
    let hasty = Broadcast::new().timeout(Duration::from_millis(300));
    let mut refused = 0;
    stage.noting_stops(|stage| {
        for _ in 0..ROUNDS {
            await_work();
            // SAFETY: nothing is done.
            match unsafe { hasty.run(|| Result::Ok(0)) } {
                Result::Ok(_) => {}
                Err(Error::Unreachable(threads)) => {
                    assert_eq!(threads[0].name(), "waiter");
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        await_work();
        stage.change_soon();
    });
    stage.note(format_args!("{refused} of {ROUNDS} rounds refused before"));
    refused
}
