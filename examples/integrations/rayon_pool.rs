//! A rayon pool whose threads psx starts, so that each is covered from its start. It drops all privileges during
//! a parallel computation.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use clap::Parser;
use psx::thread;
use psx_examples::status;
use psx_examples::table::counted;
use psx_integrations::{Show, dropping_everything, perform};
use rayon::prelude::*;
use rayon::{ThreadBuilder, ThreadPool, ThreadPoolBuilder};

/// Drops all privileges on every thread of a rayon pool that is computing.
#[derive(Parser)]
struct Options {
    /// How many threads the pool has.
    #[arg(long, default_value_t = 8)]
    threads: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    perform(io::stdout(), |show| act(show, &options))
}

fn act(show: &mut Show, options: &Options) -> Result<(), Box<dyn Error>> {
    let attempts = show.attempts()?;
    let pool = pool(options.threads)?;
    let right = (0..LIMIT).filter(is_prime).count();

    let dropped = AtomicBool::new(false);
    let (first_is_done, is_computing) = mpsc::channel();
    let (report, counts) = thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let mut counts = Vec::new();
            loop {
                // Read before the count, so that the last count begins after the drop.
                let is_last = dropped.load(Ordering::Acquire);
                counts.push(pool.install(|| (0..LIMIT).into_par_iter().filter(is_prime).count()));
                if is_last {
                    return counts;
                }
                // Only the first is received.
                let _ = first_is_done.send(());
            }
        });
        is_computing.recv()?;
        let report = drop_all(show);
        dropped.store(true, Ordering::Release);
        Ok::<_, Box<dyn Error>>((report, counting.join().expect("a count does not panic")))
    })?;
    report?;

    writeln!(show, "The primes below {LIMIT} were counted {} times meanwhile:", counts.len())?;
    show.claim(format!("{right} every time"), counts.iter().all(|count| *count == right))?;
    writeln!(show, "Each thread of the pool makes each attempt:")?;
    for attempt in attempts {
        show.may_not(attempt, &pool.broadcast(|_| attempt.make()))?;
    }
    Ok(())
}

/// The pool: rayon describes a thread, psx starts it, and registers it before rayon's code runs.
fn pool(threads: usize) -> Result<ThreadPool, Box<dyn Error>> {
    let spawn = |wanted: ThreadBuilder| {
        let mut builder = thread::Builder::new().name(format!("rayon-{}", wanted.index()));
        if let Some(size) = wanted.stack_size() {
            builder = builder.stack_size(size);
        }
        builder.spawn(|| wanted.run()).map(drop)
    };
    Ok(ThreadPoolBuilder::new().num_threads(threads).spawn_handler(spawn).build()?)
}

fn drop_all(show: &mut Show) -> Result<(), Box<dyn Error>> {
    let before = status::of_this_process()?;
    writeln!(show, "A pool is computing, in a process of {}.", counted(before.len(), "thread"))?;
    let (steps, wanted) = dropping_everything(&before[0].credentials);
    writeln!(show, "Dropping all privileges:")?;
    let report = steps.apply()?;
    show.covered(&report)?;
    show.states(&wanted)?;
    Ok(())
}

/// The primes below this are counted, which takes some milliseconds.
const LIMIT: u32 = 300_000;

fn is_prime(n: &u32) -> bool {
    *n > 1 && (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0)
}
