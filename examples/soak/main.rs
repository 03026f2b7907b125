//! psx under everything at once: threads that come and go in every way, forks, faults, forged
//! signals and four callers, mixed at random, with every thread's state checked each second.

mod births;
mod company;
mod count;
mod faults;
mod judge;
mod line;
mod random;
mod signals;
mod subject;
mod tally;
mod uring;
mod weather;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use lexopt::prelude::*;

const USAGE: &str = "usage: soak [--minutes M | --seconds S] [--seed N]";

const HELP: &str = "\
Mixes threads that come and go, forks, faults, forged signals and up to four callers at random, in
a process of its own, and looks at each of its threads once a second.

Every round adds one to a number that the kernel keeps for each thread (its timer slack); so a
thread that a round missed, or that a failed round changed, is found.

  --minutes M    how long (default 1)
  --seconds S    the same in seconds
  --seed N       repeat the choices of an earlier run; which thread is when at what is up to the
                 kernel all the same
  --help         this text

Exit status: 0 if no thread was ever in the wrong state, 1 if one was, or a round failed without a
fault, or the process hung or died; 2 if the arguments were wrong.";

/// What the command line asks for.
enum Order {
    Help,
    Soak {
        seed: u64,
        time: Duration,
    },
    /// To be the process that is soaked.
    Subject {
        seed: u64,
        time: Duration,
    },
}

fn read_order() -> Result<Order, lexopt::Error> {
    let mut args = lexopt::Parser::from_env();
    let mut time = Duration::from_secs(60);
    let mut seed = None;
    while let Some(arg) = args.next()? {
        match arg {
            Long("help") => return Ok(Order::Help),
            Long("minutes") => time = Duration::from_secs(60 * args.value()?.parse::<u64>()?),
            Long("seconds") => time = Duration::from_secs(args.value()?.parse()?),
            Long("seed") => seed = Some(args.value()?.parse()?),
            Long("subject") => {
                let seed = args.value()?.parse()?;
                let time = Duration::from_secs(args.value()?.parse()?);
                return Ok(Order::Subject { seed, time });
            }
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(Order::Soak { seed: seed.unwrap_or_else(any_seed), time })
}

/// Short enough to be typed.
fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ now.as_secs() & 0xffff
}

fn main() -> ExitCode {
    match read_order() {
        Err(error) => {
            eprintln!("soak: {error}\n{USAGE}");
            ExitCode::from(2)
        }
        Ok(Order::Help) => {
            println!("{USAGE}\n\n{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Order::Subject { seed, time }) => match subject::run(seed, time) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => subject::fail(error),
        },
        Ok(Order::Soak { seed, time }) => match judge::run(seed, time) {
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
