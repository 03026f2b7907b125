//! Another process of the same user: it sends psx's signal without a pause, or computes on every core (P7).

use std::time::{Duration, Instant};
use std::{hint, mem, thread};

use psx_test_support::threads::idle;
use psx_test_support::{Line, procfs, signal};

use crate::context::{Context, is_level, median};
use crate::row::Expected::Ok;
use crate::row::Row;
use crate::signals::use_up_quota;
use crate::waits::stop_process;

pub(crate) const ROWS: &[Row] = &[
    Row::new("flood-kill", "another process floods signal 33 by kill", &[Ok], |context| {
        under_flood(context, "kill");
    })
    .seconds(60)
    .alone(),
    Row::new("flood-tgkill", "the same by tgkill to each thread", &[Ok], |context| {
        under_flood(context, "tgkill");
    })
    .seconds(60)
    .alone(),
    Row::new(
        "flood-queue",
        "the same by rt_tgsigqueueinfo, every code the kernel permits",
        &[Ok],
        |context| under_flood(context, "queue"),
    )
    .seconds(60)
    .alone(),
    Row::new(
        "flood-drip",
        "another process sends one such signal a millisecond",
        &[Ok],
        |context| under_flood(context, "drip"),
    )
    .seconds(60)
    .alone(),
];

/// 600 calls without and 600 under the flood: the median is at most three times as long. They alternate, so
/// that other load affects both; and each flood is a new process, since the result depends on the core
/// that the kernel chooses for it.
fn under_flood(context: &Context, kind: &str) {
    const TURNS: usize = 24;
    const CALLS: usize = 25;
    let probes = context.probes_that(is_level);
    let (mut quiet, mut flooded) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        quiet.extend(context.count_to(CALLS).expect("calls without a flood"));
        context.ask(format_args!("start-helper {kind}"));
        match context.count_to(CALLS) {
            Result::Ok(times) => flooded.extend(times),
            Err(error) => return context.conclude(Err(error), probes.in_old_state()),
        }
        context.ask("stop-helper");
    }
    let [quiet, median] = [&quiet, &flooded].map(|times| middle(times));
    context.note(format_args!("median without {quiet:.1?}"));
    assert!(median <= quiet * 3, "median {median:?} under the flood, {quiet:?} without");
    context.conclude(Result::Ok(flooded), probes.in_old_state());
}

fn middle(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    median(&times)
}

/// The program of a helper process, which attacks `target`.
pub(crate) fn help(kind: &str, target: u32) -> ! {
    let line = Line::of_child();
    match kind {
        "use-up-quota" => use_up_quota(&line),
        "burn" => burn(&line),
        "stop-in-attempt" => stop_process(target, false, &line),
        "stop-between" => stop_process(target, true, &line),
        _ => flood(kind, target, &line),
    }
    idle()
}

/// Keeps every core busy.
fn burn(line: &Line) {
    for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
        thread::spawn(|| {
            loop {
                hint::spin_loop();
            }
        });
    }
    line.send("ready");
}

/// Sends 33 to the threads of `target` in turn, by one of several calls. Reports that it has begun after the
/// first pass.
fn flood(kind: &str, target: u32, line: &Line) {
    // Codes that the kernel permits; the last is psx's.
    let codes: Vec<i32> =
        (-64..0).chain([i32::MIN, -0x0070_7378]).filter(|&code| code != libc::SI_TKILL).collect();
    let mut is_ready = false;
    loop {
        let tids = procfs::tids(target);
        for (&code, &tid) in codes.iter().zip(tids.iter().cycle()) {
            let next = Instant::now() + Duration::from_millis(1);
            // A full queue refuses, which does not matter.
            let _ = match kind {
                "kill" => signal::send(target, None, 33),
                "tgkill" => signal::send(target, Some(tid), 33),
                "drip" if code % 2 == 0 => signal::send(target, Some(tid), 33),
                _ => signal::queue(target, tid, 33, code),
            };
            if kind == "drip" {
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
        if !mem::replace(&mut is_ready, true) {
            line.send("ready");
        }
        if tids.is_empty() {
            return;
        }
    }
}
