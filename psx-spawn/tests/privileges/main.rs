//! What `psx::Privileges` promises, tried on real processes and judged from outside.

#[path = "../support/mod.rs"]
mod support;

mod allocator;
mod batch;
mod foreseen;
mod kernel;
mod sandbox;
mod steps;
mod tell;

use std::process::ExitCode;

fn main() -> ExitCode {
    let concerns = [
        allocator::cases(),
        steps::cases(),
        batch::cases(),
        foreseen::cases(),
        sandbox::cases(),
        tell::cases(),
    ];
    support::main(concerns.into_iter().flatten().collect())
}
