//! What psx promises, tried on real processes.

#[path = "../support/mod.rs"]
mod support;

mod runner;

use std::process::ExitCode;

fn main() -> ExitCode {
    support::main([runner::cases()].into_iter().flatten().collect())
}
