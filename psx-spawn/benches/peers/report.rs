//! The tables, in Markdown, with the target ratios.

use std::env;
use std::fs;
use std::thread;

use crate::measure::{Session, Setting};
use crate::programs::{Kind, Program};

/// The numbers of parked threads that are compared.
pub(crate) const SIZES: [usize; 5] = [1, 10, 100, 1000, 5000];

/// The target cost of a round of psx in a peer's rounds, for each of `SIZES`.
fn targets(peer: &Program) -> Option<[f64; 5]> {
    match peer.kind {
        Kind::Floor => Some([0.7, 1.3, 1.3, 1.4, 1.5]),
        Kind::Glibc => Some([0.7, 1.4, 1.25, 1.2, 0.4]),
        Kind::Go => Some([0.3, 0.9, 1.2, 1.3, 1.5]),
        Kind::Musl => Some([0.25, 0.3, 0.25, 0.25, 0.2]),
        Kind::Libpsx if scans_proc(&peer.name) => Some([0.6, 0.8, 0.6, 0.5, 0.3]),
        Kind::Libpsx => Some([0.7, 0.9, 0.75, 1.0, 0.9]),
        Kind::Psx => None,
    }
}

/// The same for a batch at 100 threads: one round of psx compared with a round for each call. Meant for libpsx
/// 2.76; 2.66 is faster at that size.
fn batch_target(peer: &Program, op: &str) -> Option<f64> {
    match (peer.kind, op) {
        (Kind::Libpsx, "six") => Some(0.15),
        (Kind::Go, "six") => Some(0.25),
        (Kind::Glibc, "ids") => Some(0.5),
        _ => None,
    }
}

/// libpsx lists /proc/PID/task from 2.72 on, and wrapped pthread_create before.
fn scans_proc(name: &str) -> bool {
    let minor = name.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 72)
}

pub(crate) fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!(
        "{} cores of {}, Linux {}, load {} at the start",
        thread::available_parallelism().map_or(1, usize::from),
        model.map_or(env::consts::ARCH, |(_, name)| name),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split_whitespace().next().unwrap_or("unknown"),
    )
}

pub(crate) fn rounds(session: &Session, sizes: &[usize]) {
    println!("Microseconds a round, medians:\n");
    medians(session, sizes, false);
    println!("\nOne round of psx in rounds of its peers:\n");
    let (_, peers) = session.programs.split_last().expect("psx is a program");
    header("threads", peers.iter().map(|peer| &*peer.name));
    for (size, &threads) in sizes.iter().enumerate() {
        let cells = peers.iter().enumerate().map(|(i, peer)| {
            let target = targets(peer).map(|targets| targets[size]);
            ratio(session, Setting::quiet("one", threads), i, target)
        });
        row(&threads.to_string(), cells);
    }
}

pub(crate) fn busy(session: &Session, sizes: &[usize]) {
    println!("\nThe same while another process computes on each core:\n");
    medians(session, sizes, true);
}

fn medians(session: &Session, sizes: &[usize], busy: bool) {
    header("threads", session.programs.iter().map(|program| &*program.name));
    for &threads in sizes {
        let setting = Setting { op: "one", threads, busy };
        let cells = (0..session.programs.len())
            .map(|i| session.samples.median(setting, i).map_or("-".into(), readable));
        row(&threads.to_string(), cells);
    }
}

pub(crate) fn batches(session: &Session, threads: usize) {
    println!("\nA privilege drop at {threads} threads, microseconds and psx's ratio:\n");
    header("program", ["three set*id steps", "ratio", "all six steps", "ratio"].into_iter());
    for (i, program) in session.programs.iter().enumerate().filter(|(_, p)| p.ops.len() > 1) {
        let cells = ["ids", "six"].into_iter().flat_map(|op| {
            let setting = Setting::quiet(op, threads);
            let time = session.samples.median(setting, i).map_or("-".into(), readable);
            [time, ratio(session, setting, i, batch_target(program, op))]
        });
        row(&program.name, cells);
    }
}

fn ratio(session: &Session, setting: Setting, peer: usize, target: Option<f64>) -> String {
    let median = |program| session.samples.median(setting, program);
    let psx = session.programs.len() - 1;
    let (Some(ours), Some(theirs), true) = (median(psx), median(peer), peer != psx) else {
        return "-".into();
    };
    let ratio = ours / theirs;
    match target {
        Some(target) if ratio <= target => format!("{ratio:.2} (target {target}: met)"),
        Some(target) => format!("{ratio:.2} (target {target}: **not met**)"),
        None => format!("{ratio:.2}"),
    }
}

fn readable(microseconds: f64) -> String {
    match microseconds {
        ..100.0 => format!("{microseconds:.1}"),
        _ => format!("{microseconds:.0}"),
    }
}

pub(crate) fn header<'a>(first: &str, names: impl Iterator<Item = &'a str>) {
    let names: Vec<&str> = names.collect();
    println!("| {first} | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
}

pub(crate) fn row(first: &str, cells: impl Iterator<Item = String>) {
    println!("| {first} | {} |", cells.collect::<Vec<_>>().join(" | "));
}
