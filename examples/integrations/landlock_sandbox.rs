//! A running program with many threads goes into a Landlock sandbox, and then into a narrower one.
//!
//! The landlock crate describes the sandbox; its `restrict_self` would restrict the calling thread alone. The
//! sandbox denies `/proc` too, so that a library that needs `/proc` to find the other threads could not
//! finish the first restriction.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use clap::Parser;
use landlock::{ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, path_beneath_rules};
use psx::Privileges;
use psx::privileges::LandlockFlags;
use psx_examples::attempt::Answer;
use psx_examples::status;
use psx_integrations::{Lacking, Show, answer_of, ask_all, perform, start_probes};

/// Puts every thread of a running program into a Landlock sandbox.
#[derive(Parser)]
struct Options {
    /// How many threads there are besides the main thread.
    #[arg(long, default_value_t = 8)]
    threads: usize,
}

/// All that stays allowed at first.
const INSIDE: &str = "/usr";

/// An operation that any user may do outside a sandbox.
struct Use {
    what: &'static str,
    make: fn() -> Answer,
}

const READ_INSIDE: Use =
    Use { what: "read /usr/bin/env", make: || answer_of(File::open("/usr/bin/env")) };
const READ_OUTSIDE: Use =
    Use { what: "read /etc/passwd", make: || answer_of(File::open("/etc/passwd")) };
const LIST_THREADS: Use =
    Use { what: "list /proc/self/task", make: || answer_of(fs::read_dir("/proc/self/task")) };

fn main() -> ExitCode {
    let options = Options::parse();
    perform(io::stdout(), |show| act(show, &options))
}

fn act(show: &mut Show, options: &Options) -> Result<(), Box<dyn Error>> {
    let probes = start_probes(options.threads);
    let ask = |tried: Use| ask_all(&probes, tried.make);
    writeln!(show, "Before, every thread makes each attempt:")?;
    for tried in [READ_INSIDE, READ_OUTSIDE, LIST_THREADS] {
        show.may(tried.what, &ask(tried))?;
    }

    let threads = status::of_this_process()?.len();
    for (paths, round) in [(&[INSIDE][..], "the first round"), (&[], "the second, without /proc")] {
        let open = if paths.is_empty() { "nothing" } else { "only /usr" };
        writeln!(show, "A sandbox in which {open} may be opened:")?;
        let report = Privileges::new()
            .no_new_privs()
            .landlock(sandbox(paths)?, LandlockFlags::NONE)
            .apply()?;
        let claim = format!("{round}: {} of {threads} threads are in", report.threads());
        show.claim(claim, report.threads() == threads)?;
        if paths.is_empty() {
            show.may_not(READ_INSIDE.what, &ask(READ_INSIDE))?;
        } else {
            show.may(READ_INSIDE.what, &ask(READ_INSIDE))?;
        }
        for tried in [READ_OUTSIDE, LIST_THREADS] {
            show.may_not(tried.what, &ask(tried))?;
        }
    }
    Ok(())
}

/// A ruleset that allows opening only what is beneath `paths`.
fn sandbox(paths: &[&str]) -> Result<OwnedFd, Box<dyn Error>> {
    let reading = AccessFs::from_read(ABI::V1);
    let ruleset = Ruleset::default()
        .handle_access(reading)?
        .create()?
        .add_rules(path_beneath_rules(paths, reading))?;
    let ruleset: Option<OwnedFd> = ruleset.into();
    ruleset
        .ok_or_else(|| Lacking("this kernel has no Landlock, or has it switched off".into()).into())
}
