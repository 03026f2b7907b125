//! System calls and context switches of a round, per round and thread.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};

use psx_test_support::procfs;

use crate::programs::{Program, Running};
use crate::report::{header, row};

const ROUNDS: usize = 100;

pub(crate) fn run(programs: &[Program], threads: usize) -> io::Result<()> {
    println!("Context switches in a round at {threads} threads (mean of {ROUNDS}):\n");
    let columns =
        ["sleeps, a target", "preemptions, a target", "sleeps, caller", "preemptions, caller"];
    header("program", columns.into_iter());
    for program in programs {
        match switches_in_a_round(program, threads) {
            Ok(means) => row(&program.name, means.into_iter().map(|mean| format!("{mean:.2}"))),
            Err(error) => row(&program.name, [error.to_string()].into_iter()),
        }
    }
    for program in programs {
        match system_calls(program, threads) {
            Ok(counts) => {
                let per_round = |count: &u64| *count as f64 / ROUNDS as f64;
                let total = counts.values().sum::<u64>();
                let share = per_round(&total) / (threads + 1) as f64;
                println!(
                    "\n{}: {share:.2} system calls a round and thread, by strace",
                    program.name
                );
                for (name, count) in &counts {
                    let count = per_round(count);
                    if count >= 0.02 {
                        println!(
                            "- {name}: {count:.1} a round, {:.2} a thread",
                            count / (threads + 1) as f64
                        );
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                println!("\nSystem calls are not counted: strace is not installed.");
                break;
            }
            Err(error) => println!("\n{}: strace: {error}", program.name),
        }
    }
    Ok(())
}

fn switches_in_a_round(program: &Program, threads: usize) -> io::Result<Vec<f64>> {
    let mut peer = Running::start(program, threads)?;
    peer.rounds("one", ROUNDS)?;
    let before = switches(peer.pid());
    peer.rounds("one", ROUNDS)?;
    let after = switches(peer.pid());
    let sharers = [threads, threads, 1, 1];
    let mean = |i| (after[i] - before[i]) as f64 / (ROUNDS * sharers[i]) as f64;
    Ok((0..sharers.len()).map(mean).collect())
}

/// Sleeps and preemptions of all targets together, then the caller's.
fn switches(pid: u32) -> [u64; 4] {
    let mut counts = [0; 4];
    for task in procfs::tasks(pid) {
        let first = if task.tid == pid { 2 } else { 0 };
        for (i, field) in
            ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"].iter().enumerate()
        {
            counts[first + i] += task.field(field).parse::<u64>().expect("a number");
        }
    }
    counts
}

/// How often each system call was made in `ROUNDS` rounds. Under strace a thread may sleep that would spin
/// otherwise.
fn system_calls(program: &Program, threads: usize) -> io::Result<BTreeMap<String, u64>> {
    let mut peer = Running::start(program, threads)?;
    peer.rounds("one", 1)?;
    let summary = format!("{}/strace.{}", env!("CARGO_TARGET_TMPDIR"), peer.pid());
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-U", "name,calls", "-o", &summary, "-p", &peer.pid().to_string()])
        .stderr(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(strace.stderr.take().expect("stderr is a pipe"));
    let mut output = output.lines();
    let attached = output.by_ref().map_while(Result::ok).find(|line| line.contains("attached"));
    if let Some(line) = attached.filter(|line| !line.contains("ptrace")) {
        // One line names all threads, and comes before the first of them continues.
        peer.rounds("one", ROUNDS)?;
        // SAFETY: strace is a child that was not waited for.
        unsafe { libc::kill(strace.id() as i32, libc::SIGINT) };
        drop(line);
    }
    // Its last output must not fill the pipe.
    output.for_each(drop);
    strace.wait()?;
    let table = fs::read_to_string(&summary)?;
    fs::remove_file(&summary)?;
    Ok(parsed(&table))
}

fn parsed(table: &str) -> BTreeMap<String, u64> {
    let rows = table.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
    let counted =
        rows.filter_map(|(name, calls)| Some((name.to_owned(), calls.trim().parse().ok()?)));
    counted.filter(|(name, _)| name != "total").collect()
}
