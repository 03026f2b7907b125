//! Another process of the same user: it sends psx's own signal without end, or wants every core.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use std::{hint, io, os::fd::AsFd, thread};

use crate::case::Case;
use crate::case::Expected::Ok;
use crate::raw;
use crate::signals::hog;
use crate::stage::{Stage, is_level, median};
use crate::support::procfs;

pub(crate) const CASES: &[Case] = &[
    Case::new("flood-kill", "another process floods signal 33 by kill", &[Ok], |stage| {
        under_flood(stage, "kill");
    })
    .seconds(60)
    .alone(),
    Case::new("flood-tgkill", "the same by tgkill to each thread", &[Ok], |stage| {
        under_flood(stage, "tgkill");
    })
    .seconds(60)
    .alone(),
    Case::new(
        "flood-queue",
        "the same by rt_tgsigqueueinfo, every code the kernel lets through",
        &[Ok],
        |stage| under_flood(stage, "queue"),
    )
    .seconds(60)
    .alone(),
    Case::new(
        "flood-drip",
        "another process sends one such signal a millisecond",
        &[Ok],
        |stage| under_flood(stage, "drip"),
    )
    .seconds(60)
    .alone(),
];

/// 600 calls in peace and 600 under the flood: the median no more than three times as long. They
/// take turns, so that whatever else the machine is doing meets both; and many, each with a new
/// flooder, since much depends on whose core the kernel puts it on.
fn under_flood(stage: &Stage, kind: &str) {
    const TURNS: usize = 24;
    const CALLS: usize = 25;
    let crew = stage.crew_that(is_level);
    let (mut peace, mut flooded) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        peace.extend(stage.count_to(CALLS).expect("calls in peace"));
        stage.ask(format_args!("help {kind}"));
        match stage.count_to(CALLS) {
            Result::Ok(times) => flooded.extend(times),
            Err(error) => return stage.conclude(Err(error), crew.strays()),
        }
        stage.ask("dismiss");
    }
    let [peace, median] = [&peace, &flooded].map(|times| middle(times));
    stage.note(format_args!("median in peace {peace:.1?}"));
    assert!(median <= peace * 3, "median {median:?} under the flood, {peace:?} in peace");
    stage.conclude(Result::Ok(flooded), crew.strays());
}

fn middle(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    median(&times)
}

/// The whole of another process that goes for `target`.
pub(crate) fn help(kind: &str, target: u32) {
    let line: OwnedFd = io::stdin().as_fd().try_clone_to_owned().expect("a standard input");
    let line = UnixStream::from(line);
    if kind == "hog" {
        hog(line);
    } else if kind == "burn" {
        burn(line);
    } else {
        flood(kind, target, line);
    }
    loop {
        thread::park();
    }
}

/// Keeps every core busy.
fn burn(mut line: UnixStream) {
    for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
        thread::spawn(|| {
            loop {
                hint::spin_loop();
            }
        });
    }
    line.write_all(b"ready\n").expect("the supervisor waits");
}

/// Sends 33 to the threads of `target` in turn, in one of the ways there are. Says that it is at it
/// after the first time round.
fn flood(kind: &str, target: u32, mut line: UnixStream) {
    // Codes that the kernel lets through; the last is the one that psx itself uses.
    let codes: Vec<i32> =
        (-64..0).chain([i32::MIN, -0x0070_7378]).filter(|&code| code != libc::SI_TKILL).collect();
    let mut ready = Some(b"ready\n");
    loop {
        let tids = procfs::tids(target);
        for (&code, &tid) in codes.iter().zip(tids.iter().cycle()) {
            let next = Instant::now() + Duration::from_millis(1);
            // A full queue refuses; that is the flood's affair.
            let _ = match kind {
                "kill" => raw::kill(target, None, 33),
                "tgkill" => raw::kill(target, Some(tid), 33),
                "drip" if code % 2 == 0 => raw::kill(target, Some(tid), 33),
                _ => raw::queue(target, tid, 33, code),
            };
            if kind == "drip" {
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
        if let Some(ready) = ready.take() {
            line.write_all(ready).expect("the supervisor waits");
        }
        if tids.is_empty() {
            return;
        }
    }
}
