//! The measurement: all programs run in parallel, batch by batch, and are restarted repeatedly, so that neither a
//! load peak nor a placement of threads favours one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::hint;
use std::io::{self, IsTerminal, Read, Write};
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::COMPUTE;
use crate::programs::{Program, Running};

/// Batches of one launch.
const BATCHES: usize = 10;
/// The duration of a batch of one program, unless one round takes longer.
const BATCH: Duration = Duration::from_millis(5);

/// The conditions of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Setting {
    pub(crate) op: &'static str,
    pub(crate) threads: usize,
    /// Whether other processes compute at the same time, one for each core.
    pub(crate) busy: bool,
}

impl Setting {
    pub(crate) fn quiet(op: &'static str, threads: usize) -> Self {
        Self { op, threads, busy: false }
    }
}

/// Times of single rounds in nanoseconds, by setting and program.
#[derive(Default)]
pub(crate) struct Samples(BTreeMap<(Setting, usize), Vec<u64>>);

impl Samples {
    /// The median in microseconds.
    pub(crate) fn median(&self, setting: Setting, program: usize) -> Option<f64> {
        let times = self.0.get(&(setting, program))?;
        Some(median(times.iter().map(|&time| time as f64 / 1e3)))
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

pub(crate) fn quantile(values: impl Iterator<Item = f64>, at: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * at).round() as usize]
}

pub(crate) struct Session {
    pub(crate) programs: Vec<Program>,
    pub(crate) samples: Samples,
    failed: BTreeSet<usize>,
}

impl Session {
    pub(crate) fn new(programs: Vec<Program>) -> Self {
        Self { programs, samples: Samples::default(), failed: BTreeSet::new() }
    }

    /// Measures every program that has the operation, until `budget` is used up.
    pub(crate) fn interleave(&mut self, setting: Setting, budget: Duration) {
        let Setting { op, threads, busy } = setting;
        let _others = busy.then(Others::compute);
        let start = Instant::now();
        let room = room_for_threads();
        for launch in 1.. {
            let able = |i: &usize| self.programs[*i].ops.contains(&op) && !self.failed.contains(i);
            let psx = self.programs.len() - 1;
            let peers: Vec<usize> = (0..psx).filter(able).collect();
            let psx = Some(psx).filter(able);
            let at_once = room / (threads + 16);
            if at_once < 2 {
                eprintln!("{threads} threads: left out, this machine has room for {room} more");
                return;
            }
            // Where not all fit at once, each group contains psx.
            for group in peers.chunks(at_once - 1) {
                let group: Vec<usize> = group.iter().copied().chain(psx).collect();
                self.launch(setting, &group);
            }
            progress(setting, launch, start.elapsed(), budget);
            if start.elapsed() >= budget {
                return;
            }
        }
    }

    fn launch(&mut self, setting: Setting, group: &[usize]) {
        let Setting { op, threads, .. } = setting;
        let warm_up = if threads < 2000 { 20 } else { 5 };
        let mut running = Vec::new();
        for &program in group {
            let started = Running::start(&self.programs[program], threads).and_then(|mut peer| {
                let times = peer.rounds(op, warm_up)?;
                let typical = median(times.iter().map(|&time| time as f64));
                let rounds = (BATCH.as_nanos() as f64 / typical) as usize;
                Ok((program, peer, rounds.clamp(1, 1000)))
            });
            match started {
                Ok(peer) => running.push(peer),
                Err(error) => self.leave_out(program, threads, &error),
            }
        }
        for batch in 0..BATCHES {
            let count = running.len();
            for turn in 0..count {
                let (program, peer, rounds) = &mut running[(turn + batch) % count];
                match peer.rounds(op, *rounds) {
                    Ok(times) => {
                        self.samples.0.entry((setting, *program)).or_default().extend(times);
                    }
                    Err(error) => {
                        let program = *program;
                        return self.leave_out(program, threads, &error);
                    }
                }
            }
        }
    }

    fn leave_out(&mut self, program: usize, threads: usize, error: &io::Error) {
        let name = &self.programs[program].name;
        eprintln!("{name}: left out from {threads} threads on: {error}");
        self.failed.insert(program);
    }
}

/// Computes until standard input ends, at the latest with the driver.
pub(crate) fn compute() -> ! {
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        process::exit(0)
    });
    loop {
        hint::spin_loop();
    }
}

/// Processes that compute, one for each core, until dropped.
struct Others(Vec<Child>);

impl Others {
    fn compute() -> Self {
        let program = env::current_exe().expect("a running program has a path");
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut command = Command::new(&program);
        command.arg(COMPUTE).stdin(Stdio::piped());
        let start = |_| command.spawn().expect("it starts itself");
        Self((0..cores).map(start).collect())
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How many more threads the kernel will start, with a margin for other processes.
fn room_for_threads() -> usize {
    let number = |path: &str| -> usize {
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1000)
    };
    let limit = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let alive = load.split(['/', ' ']).nth(4).and_then(|count| count.parse().ok());
    (limit - limit / 4).saturating_sub(alive.unwrap_or(1000))
}

fn progress(setting: Setting, launch: usize, elapsed: Duration, budget: Duration) {
    let Setting { op, threads, busy } = setting;
    let op = if busy { "busy" } else { op };
    let done = (elapsed.as_secs_f64() / budget.as_secs_f64()).min(1.0);
    if io::stderr().is_terminal() {
        let bar = "#".repeat((done * 30.0) as usize);
        eprint!("\r{op:>5} at {threads:>5} threads [{bar:<30}] launch {launch:<4}");
        if done == 1.0 {
            eprintln!();
        }
    } else if done == 1.0 {
        eprintln!("{op} at {threads} threads: {launch} launches in {elapsed:.1?}");
    }
    let _ = io::stderr().flush();
}
