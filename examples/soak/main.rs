//! psx under mixed load: threads that start and end in every way, forks, faults, forged signals and up to four
//! callers, at random, with every thread's state checked each second.
//!
//! `subject` is the process under test and `oracle` the one that checks it; `count` makes the rounds, `spawn`,
//! `lock_holders`, `faults` and `signals` disturb them, `fault_window` says what a round may return, and
//! `tally` counts.

mod count;
mod fault_window;
mod faults;
mod lock_holders;
mod oracle;
mod signals;
mod spawn;
mod subject;
mod tally;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use lexopt::prelude::*;

const USAGE: &str = "usage: soak [--minutes M | --seconds S] [--seed N]";

const HELP: &str = "\
Mixes threads that start and end, forks, faults, forged signals and up to four callers at random, in a
child process, and inspects each of its threads once a second.

Every round adds one to a number that the kernel keeps for each thread (its timer slack), so that a
thread that a round missed, or that a failed round changed, is found.

  --minutes M    how long (default 1)
  --seconds S    the same in seconds
  --seed N       repeat the random choices of an earlier run; the kernel's scheduling differs
  --help         this text

Exit status: 0 if no thread was ever in the wrong state, 1 if one was, or a round failed without a
fault, or the process hung or died; 2 if the arguments were wrong.";

/// What the command line asks for.
enum Mode {
    Help,
    Soak {
        seed: u64,
        time: Duration,
    },
    /// Be the process under test.
    Subject {
        seed: u64,
        time: Duration,
    },
}

fn read_mode() -> Result<Mode, lexopt::Error> {
    let mut args = lexopt::Parser::from_env();
    let mut time = Duration::from_secs(60);
    let mut seed = None;
    while let Some(arg) = args.next()? {
        match arg {
            Long("help") => return Ok(Mode::Help),
            Long("minutes") => time = Duration::from_secs(60 * args.value()?.parse::<u64>()?),
            Long("seconds") => time = Duration::from_secs(args.value()?.parse()?),
            Long("seed") => seed = Some(args.value()?.parse()?),
            Long("subject") => {
                let seed = args.value()?.parse()?;
                let time = Duration::from_secs(args.value()?.parse()?);
                return Ok(Mode::Subject { seed, time });
            }
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(Mode::Soak { seed: seed.unwrap_or_else(any_seed), time })
}

/// A seed that is short enough to type.
fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ now.as_secs() & 0xffff
}

fn main() -> ExitCode {
    match read_mode() {
        Err(error) => {
            eprintln!("soak: {error}\n{USAGE}");
            ExitCode::from(2)
        }
        Ok(Mode::Help) => {
            println!("{USAGE}\n\n{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Mode::Subject { seed, time }) => match subject::run(seed, time) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => subject::fail(error),
        },
        Ok(Mode::Soak { seed, time }) => match oracle::run(seed, time) {
            Ok(()) => ExitCode::SUCCESS,
            Err(what) => {
                eprintln!("soak: {what}");
                eprintln!(
                    "Repeat it with: cargo run --release --example soak -- --seed {seed} \
                     --seconds {}",
                    time.as_secs()
                );
                ExitCode::FAILURE
            }
        },
    }
}
