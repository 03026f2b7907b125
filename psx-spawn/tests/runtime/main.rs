//! What psx promises, tried on real processes: each case in one of its own.

#[path = "../support/mod.rs"]
mod support;

mod births;
mod blocking;
mod calls;
mod churn;
mod company;
mod coverage;
mod exits;
mod fork;
mod kernel;
mod masked;
mod messages;
mod namespaces;
mod runner;
mod scope;
mod signals;
mod stack;
mod syscalls;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(status) = exits::program() {
        return status;
    }
    let concerns = [
        runner::cases(),
        namespaces::cases(),
        scope::cases(),
        births::cases(),
        calls::cases(),
        coverage::cases(),
        churn::cases(),
        fork::cases(),
        signals::cases(),
        company::cases(),
        masked::cases(),
        messages::cases(),
        syscalls::cases(),
        exits::cases(),
        stack::cases(),
    ];
    support::main(concerns.into_iter().flatten().collect())
}
