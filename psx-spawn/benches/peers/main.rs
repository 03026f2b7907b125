//! A round of psx compared with its peers, interleaved in one run.
//!
//! ```text
//! cargo bench -p psx-spawn --bench peers                    about six minutes; writes docs/*.svg
//! cargo bench -p psx-spawn --bench peers -- --quick         under a minute, tables only
//! cargo bench -p psx-spawn --bench peers -- --count 100     system calls and context switches
//! cargo bench -p psx-spawn --bench peers -- --spawns        starts and ends of threads alone
//! PSX_LIBPSX_PREFIX=/opt/libpsx cargo bench ...             another libpsx than the distribution's
//! ```
//!
//! docs/benchmarks.md describes the method and the output.

mod count;
mod measure;
mod plot;
mod programs;
mod psx;
mod registration;
mod report;

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use measure::{Session, Setting};
use report::SIZES;

/// The argument that makes this program one of those it compares.
const PSX_CHILD: &str = "--peer-psx";
/// The argument that makes it compute until it is killed.
const COMPUTE: &str = "--compute";
/// The numbers of threads that are measured on a busy machine too.
const BUSY_SIZES: [usize; 2] = [10, 100];
/// The batch of six steps is compared at this number of threads.
const BATCH_THREADS: usize = 100;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let value_of = |name: &str| {
        let position = args.iter().position(|arg| arg == name)?;
        Some(args.get(position + 1).and_then(|value| value.parse::<usize>().ok()))
    };
    if let Some(threads) = value_of(PSX_CHILD) {
        return Ok(psx::serve(threads.unwrap_or(1))?);
    }
    if args.first().is_some_and(|arg| arg == COMPUTE) {
        measure::compute();
    }
    let (programs, missing) = programs::find();
    for reason in missing {
        println!("Left out: {reason}");
    }
    if let Some(threads) = value_of("--count") {
        return Ok(count::run(&programs, threads.unwrap_or(100))?);
    }

    let full = !args.iter().any(|arg| arg == "--quick");
    // `cargo test --benches` does not pass --bench, and only checks that all this runs.
    let (sizes, seconds) = match args.iter().any(|arg| arg == "--bench") {
        false => (&SIZES[..2], 0.0),
        true if full => (&SIZES[..], 50.0),
        true => (&SIZES[..], 5.0),
    };
    let budget = Duration::from_secs_f64(seconds);
    println!("{}.\n", report::machine());
    if args.iter().any(|arg| arg == "--spawns") {
        return Ok(registration::run(&programs, budget / 4)?);
    }
    let mut session = Session::new(programs);
    for &threads in sizes {
        session.interleave(Setting::quiet("one", threads), budget);
    }
    for threads in BUSY_SIZES {
        session.interleave(Setting { op: "one", threads, busy: true }, budget / 4);
    }
    let privileged = psx_test_support::root().is_ok();
    if privileged {
        for op in ["ids", "six"] {
            session.interleave(Setting::quiet(op, BATCH_THREADS), budget / 4);
        }
    }
    report::rounds(&session, sizes);
    report::busy(&session, &BUSY_SIZES);
    if privileged {
        report::batches(&session, BATCH_THREADS);
    } else {
        println!("\nLeft out: the batches, because setgroups needs root.");
    }
    if full && sizes.len() == SIZES.len() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        plot::write_all(&session, BATCH_THREADS, &docs)?;
    }
    registration::run(&session.programs, budget / 4)?;
    Ok(())
}
